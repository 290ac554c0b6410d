/**
 * The root key of the local key store: where it comes from, and how a wrong one is told at once. In the data
 * directory:
 *
 *     root.key     64 hex digits, mode 0600         rootKeySource file
 *     root.salt    32 hex digits, mode 0600         rootKeySource passphrase: salt of scrypt
 *     root.check   hex, mode 0600; a key wrapped under the root key opens under no other
 *
 * Nodes that share a catalog find the last two there, and need nothing in their data directories but, with
 * rootKeySource file, the root key.
 */
import { randomBytes, scryptSync } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

import { takeSecret, type Config } from '../config.ts'
import type { Crypto } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'

type RootKeyConfig = Pick<Config, 'dataDirectory' | 'rootKey'>

/** What stands beside the root key, wherever that is. */
export interface RootFiles {
  read(name: RootFileName): string | undefined
  write(name: RootFileName, text: string): void
}

export type RootFileName = 'root.salt' | 'root.check'

function filesIn(dataDirectory: string): RootFiles {
  return {
    read: (name) => {
      const file = join(dataDirectory, name)
      return existsSync(file) ? readFileSync(file, 'utf8').trim() : undefined
    },
    write: (name, text) =>
      writeFileSync(join(dataDirectory, name), text, { mode: 0o600, flag: 'wx', flush: true }),
  }
}

const ROOT_KEY_BYTES = 32
const SALT_BYTES = 16
const SALT_PATTERN = /^[0-9a-f]{32}$/
/** 128 MiB and a few hundred ms a guess (RFC 7914; OWASP's strongest parameters). */
const SCRYPT = { N: 2 ** 17, r: 8, p: 1, maxmem: 2 ** 28 }
const CHECK_AAD = Buffer.from('keyfold/root/v1/check')

/** The root key, 32 bytes, which the caller hands on or fills with zeros. Errors: CONFIG_INVALID, ROOT_KEY_INVALID. */
export function readRootKey(
  config: RootKeyConfig,
  crypto: Crypto,
  files: RootFiles = filesIn(config.dataDirectory),
): Uint8Array {
  const rootKey = loadRootKey(config, files)
  checkRootKey(config, crypto, { rootKey, files, mode: 'verify' })
  return rootKey
}

/** Makes a root key where there is none yet, and what is needed to know it again. Can be run again. */
export function createRootKey(
  config: RootKeyConfig,
  crypto: Crypto,
  files: RootFiles = filesIn(config.dataDirectory),
): void {
  if (config.rootKey.source === 'file' && !existsSync(config.rootKey.file)) {
    const rootKey = randomBytes(ROOT_KEY_BYTES)
    mkdirSync(dirname(config.rootKey.file), { recursive: true, mode: 0o700 })
    writeFileSync(config.rootKey.file, `${rootKey.toString('hex')}\n`, {
      mode: 0o600,
      flag: 'wx',
      flush: true,
    })
    rootKey.fill(0)
  }
  if (config.rootKey.source === 'passphrase' && files.read('root.salt') === undefined) {
    files.write('root.salt', randomBytes(SALT_BYTES).toString('hex'))
  }
  const rootKey = loadRootKey(config, files)
  checkRootKey(config, crypto, { rootKey, files, mode: 'create' })
  rootKey.fill(0)
}

function loadRootKey(config: RootKeyConfig, files: RootFiles): Uint8Array {
  switch (config.rootKey.source) {
    case 'file':
      return readRootKeyFile(config.rootKey.file)
    case 'environment':
      return decodeRootKey(
        Buffer.from(requiredSecret('KEYFOLD_ROOT_KEY', 'the root key as 64 hex digits')),
        'KEYFOLD_ROOT_KEY',
      )
    case 'passphrase': {
      const digits = files.read('root.salt')
      if (digits === undefined) throw notInitialised(config)
      // What is no hex would be left out in silence, and an empty salt is none.
      if (!SALT_PATTERN.test(digits)) {
        throw new KeyfoldError(
          'CONFIG_INVALID',
          `${join(config.dataDirectory, 'root.salt')}: 32 hex digits are needed`,
        )
      }
      const salt = Buffer.from(digits, 'hex')
      const passphrase = requiredSecret('KEYFOLD_PASSPHRASE', 'the passphrase')
      return scryptSync(passphrase.normalize('NFC'), salt, ROOT_KEY_BYTES, SCRYPT)
    }
  }
}

function readRootKeyFile(file: string): Uint8Array {
  if (!existsSync(file)) {
    throw new KeyfoldError('CONFIG_INVALID', `there is no root key ${file}: run keyfold init first`)
  }
  if ((statSync(file).mode & 0o077) !== 0) {
    throw new KeyfoldError('CONFIG_INVALID', `others can read the root key: chmod 600 ${file}`)
  }
  const digits = readFileSync(file)
  try {
    return decodeRootKey(digits, file)
  } finally {
    digits.fill(0)
  }
}

/** 64 hex digits, and a newline. Not by way of a string: those cannot be wiped. */
function decodeRootKey(digits: Uint8Array, where: string): Uint8Array {
  const rootKey = new Uint8Array(ROOT_KEY_BYTES)
  const length = digits.at(-1) === 0x0a ? digits.length - 1 : digits.length
  let usable = length === 2 * ROOT_KEY_BYTES
  for (let i = 0; usable && i < length; i++) {
    const value = '0123456789abcdef'.indexOf(String.fromCharCode(digits[i] as number).toLowerCase())
    usable = value >= 0
    rootKey[i >> 1] = ((rootKey[i >> 1] as number) << 4) | value
  }
  if (!usable) throw new KeyfoldError('CONFIG_INVALID', `${where}: 64 hex digits are needed`)
  return rootKey
}

function requiredSecret(name: 'KEYFOLD_ROOT_KEY' | 'KEYFOLD_PASSPHRASE', what: string): string {
  const secret = takeSecret(name)
  if (secret === undefined || secret === '') {
    throw new KeyfoldError('CONFIG_INVALID', `set ${name}: ${what}`)
  }
  return secret
}

/** Tells a wrong root key before anything is served, or written under it. */
function checkRootKey(
  config: RootKeyConfig,
  crypto: Crypto,
  {
    rootKey,
    files,
    mode,
  }: {
    readonly rootKey: Uint8Array
    readonly files: RootFiles
    readonly mode: 'create' | 'verify'
  },
): void {
  const key = crypto.importKey(Uint8Array.from(rootKey))
  try {
    const check = files.read('root.check')
    if (check !== undefined) {
      const wrapped = Buffer.from(check, 'hex')
      crypto.releaseKey(crypto.unwrapKey(key, CHECK_AAD, wrapped))
    } else if (mode === 'create') {
      const random = crypto.generateKey()
      const wrapped = Buffer.from(crypto.wrapKey(key, CHECK_AAD, random)).toString('hex')
      crypto.releaseKey(random)
      files.write('root.check', wrapped)
    } else {
      throw notInitialised(config)
    }
  } catch (cause) {
    if (cause instanceof KeyfoldError && cause.code === 'DECRYPT_FAILED') {
      throw new KeyfoldError('ROOT_KEY_INVALID', config.dataDirectory, cause)
    }
    throw cause
  } finally {
    crypto.releaseKey(key)
  }
}

function notInitialised(config: RootKeyConfig): KeyfoldError {
  return new KeyfoldError(
    'CONFIG_INVALID',
    `${config.dataDirectory} is no data directory: run keyfold init first`,
  )
}
