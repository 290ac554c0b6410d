/**
 * Where the root key comes from, and where the one that a rotation moves to does. Files and their successors lie side by
 * side (`root.key` and `root.key.next`) until the rotation has come to its turning point; what an operator keeps is
 * handed in twice.
 */
import { randomBytes, scryptSync } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

import { takeSecret, type Config, type SecretName } from '../config.ts'
import type { Crypto } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import { combineShares } from './root-key-shares.ts'
import { sealRootKey, unsealRootKey, type SealedRootKeyFiles } from './sealed-root-key.ts'
import { eraseGone, promoteFile, readSecretFile, replaceFile } from './secret-files.ts'

export type RootKeyConfig = Pick<Config, 'dataDirectory' | 'rootKey' | 'rootKeyStoreFile'>

export const ROOT_KEY_BYTES = 32
const SALT_BYTES = 16
const SALT_PATTERN = /^[0-9a-f]{32}$/
/** 128 MiB and a few hundred ms a guess (RFC 7914; OWASP's strongest parameters). */
const SCRYPT = { N: 2 ** 17, r: 8, p: 1, maxmem: 2 ** 28 }
const NEXT = '.next'
const STDIN = '-'

/** Gives a root key, which whoever called it fills with zeros. */
export type LoadRootKey = () => Promise<Uint8Array>

/** What may be the root key of this version, the likeliest first: a rotation may have been cut off at its turning point. */
export function rootKeyLoaders(
  config: RootKeyConfig,
  crypto: Crypto,
  rootVersion: number,
): readonly [LoadRootKey, ...LoadRootKey[]] {
  switch (config.rootKey.source) {
    case 'file': {
      const { file } = config.rootKey
      const next: LoadRootKey = async () => readRootKeyFile(file + NEXT)
      return [async () => readRootKeyFile(file), ...(existsSync(file + NEXT) ? [next] : [])]
    }
    case 'environment':
      return [
        async () => rootKeyOfVariable('KEYFOLD_ROOT_KEY'),
        async () => rootKeyOfVariable('KEYFOLD_ROOT_KEY_NEXT'),
      ]
    case 'passphrase':
      return passphraseLoaders(config)
    case 'sealed': {
      const files = sealedFilesOf(config)
      const next = { ...files, sealedFile: files.sealedFile + NEXT }
      return [
        () => unsealRootKey(files, crypto),
        ...(existsSync(next.sealedFile) ? [() => unsealRootKey(next, crypto)] : []),
      ]
    }
    case 'shares': {
      const { files } = config.rootKey
      return [
        async () => combineShares(readShares(files, 'KEYFOLD_ROOT_KEY_SHARES'), rootVersion),
        async () => combineShares(readShares([], 'KEYFOLD_ROOT_KEY_SHARES_NEXT'), rootVersion),
      ]
    }
  }
}

/** Makes what has to be there before the first root key can be loaded. Does nothing where it is. */
export async function createRootKeySource(config: RootKeyConfig, crypto: Crypto): Promise<void> {
  switch (config.rootKey.source) {
    case 'file':
      if (!existsSync(config.rootKey.file)) createRootKeyFile(config.rootKey.file)
      return
    case 'passphrase':
      if (!existsSync(saltFile(config))) {
        const salt = randomBytes(SALT_BYTES).toString('hex')
        writeFileSync(saltFile(config), salt, { mode: 0o600, flag: 'wx', flush: true })
      }
      return
    case 'sealed': {
      const files = sealedFilesOf(config)
      if (!existsSync(files.sealedFile)) await sealNewRootKey(files, crypto, 1)
      return
    }
    case 'environment':
    case 'shares':
      return
  }
}

/** The root key that a rotation moves to: made and put beside the present one, or handed in by whoever keeps it. */
export async function nextRootKey(
  config: RootKeyConfig,
  crypto: Crypto,
  rootVersion: number,
  nextShareFiles: readonly string[],
): Promise<Uint8Array> {
  switch (config.rootKey.source) {
    case 'file': {
      const next = config.rootKey.file + NEXT
      const rootKey = randomBytes(ROOT_KEY_BYTES)
      replaceFile(next, `${rootKey.toString('hex')}\n`)
      return rootKey
    }
    case 'environment':
      return rootKeyOfVariable('KEYFOLD_ROOT_KEY_NEXT')
    case 'passphrase': {
      const passphrase = requiredSecret('KEYFOLD_PASSPHRASE_NEXT', 'the passphrase to move to')
      replaceFile(saltFile(config) + NEXT, randomBytes(SALT_BYTES).toString('hex'))
      return stretch(passphrase, saltFile(config) + NEXT)
    }
    case 'sealed': {
      const files = sealedFilesOf(config)
      return sealNewRootKey({ ...files, sealedFile: files.sealedFile + NEXT }, crypto, rootVersion)
    }
    case 'shares':
      return combineShares(readShares(nextShareFiles, 'KEYFOLD_ROOT_KEY_SHARES_NEXT'), rootVersion)
  }
}

/** What stood beside is the present one from now on, and what it follows is overwritten. Can be run again. */
export function promoteNextRootKey(config: RootKeyConfig): void {
  const file = sourceFile(config)
  if (file === undefined) return
  if (existsSync(file + NEXT)) promoteFile(file + NEXT, file)
  else eraseGone(file)
}

export function sealedFilesOf(config: RootKeyConfig): SealedRootKeyFiles {
  return {
    sealedFile: join(config.dataDirectory, 'root.sealed'),
    storeFile: config.rootKeyStoreFile,
  }
}

/** The file of this source that goes with the root key, where there is one. */
function sourceFile(config: RootKeyConfig): string | undefined {
  switch (config.rootKey.source) {
    case 'file':
      return config.rootKey.file
    case 'passphrase':
      return saltFile(config)
    case 'sealed':
      return sealedFilesOf(config).sealedFile
    case 'environment':
    case 'shares':
      return undefined
  }
}

function createRootKeyFile(file: string): void {
  const rootKey = randomBytes(ROOT_KEY_BYTES)
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 })
  const text = `${rootKey.toString('hex')}\n`
  writeFileSync(file, text, { mode: 0o600, flag: 'wx', flush: true })
  rootKey.fill(0)
}

async function sealNewRootKey(
  files: SealedRootKeyFiles,
  crypto: Crypto,
  rootVersion: number,
): Promise<Uint8Array> {
  const rootKey = randomBytes(ROOT_KEY_BYTES)
  try {
    await sealRootKey(files, crypto, rootKey, rootVersion)
    return rootKey
  } catch (error) {
    rootKey.fill(0)
    throw error
  }
}

function readRootKeyFile(file: string): Uint8Array {
  if (!existsSync(file)) {
    throw new KeyfoldError('CONFIG_INVALID', `there is no root key ${file}: run keyfold init first`)
  }
  const digits = readSecretFile(file)
  try {
    return decodeRootKey(digits, file)
  } finally {
    digits.fill(0)
  }
}

function rootKeyOfVariable(name: 'KEYFOLD_ROOT_KEY' | 'KEYFOLD_ROOT_KEY_NEXT'): Uint8Array {
  return decodeRootKey(Buffer.from(requiredSecret(name, 'the root key as 64 hex digits')), name)
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

/**
 * Between turning point and promotion the salt of the passphrase is still called the next one; a node of a shared catalog
 * that is started with both passphrases may find that the next one's salt is the one in use.
 */
function passphraseLoaders(config: RootKeyConfig): readonly [LoadRootKey, ...LoadRootKey[]] {
  const salt = saltFile(config)
  const taken = new Map<SecretName, string>()
  const load =
    (name: SecretName, what: string, file: string): LoadRootKey =>
    async () => {
      if (!existsSync(file)) throw notInitialised(config)
      const passphrase = taken.get(name) ?? requiredSecret(name, what)
      taken.set(name, passphrase)
      return stretch(passphrase, file)
    }
  const present = ['KEYFOLD_PASSPHRASE', 'the passphrase'] as const
  const next = ['KEYFOLD_PASSPHRASE_NEXT', 'the passphrase to move to'] as const
  const first = load(...present, salt)
  if (!existsSync(salt + NEXT)) return [first, load(...next, salt)]
  return [first, load(...present, salt + NEXT), load(...next, salt + NEXT)]
}

function stretch(passphrase: string, file: string): Uint8Array {
  const digits = readFileSync(file, 'utf8').trim()
  // What is no hex would be left out in silence, and an empty salt is none.
  if (!SALT_PATTERN.test(digits)) {
    throw new KeyfoldError('CONFIG_INVALID', `${file}: 32 hex digits are needed`)
  }
  const salt = Buffer.from(digits, 'hex')
  return scryptSync(passphrase.normalize('NFC'), salt, ROOT_KEY_BYTES, SCRYPT)
}

function readShares(
  files: readonly string[],
  variable: 'KEYFOLD_ROOT_KEY_SHARES' | 'KEYFOLD_ROOT_KEY_SHARES_NEXT',
): string {
  if (files.length === 0) return requiredSecret(variable, 'shares of the root key, one a line')
  const texts = files.map((file) => {
    if (file !== STDIN && !existsSync(file)) {
      throw new KeyfoldError('CONFIG_INVALID', `there is no file of shares ${file}`)
    }
    const bytes = file === STDIN ? readFileSync(0) : readSecretFile(file)
    const text = bytes.toString('latin1')
    bytes.fill(0)
    return text
  })
  return texts.join('\n')
}

function requiredSecret(name: SecretName, what: string): string {
  const secret = takeSecret(name)
  if (secret === undefined || secret === '') {
    throw new KeyfoldError('CONFIG_INVALID', `set ${name}: ${what}`)
  }
  return secret
}

export function notInitialised(config: RootKeyConfig): KeyfoldError {
  return new KeyfoldError(
    'CONFIG_INVALID',
    `${config.dataDirectory} is no data directory: run keyfold init first`,
  )
}

function saltFile(config: RootKeyConfig): string {
  return join(config.dataDirectory, 'root.salt')
}
