/**
 * Where the root key comes from, and where the one that a rotation moves to does. Files and their successors lie side by
 * side (`root.key` and `root.key.next`) until the rotation has come to its turning point; what an operator keeps is
 * handed in twice.
 */
import { randomBytes, scryptSync } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

import { takeSecret, type Config, type SecretName } from '../config.ts'
import type { Crypto } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import { combineShares } from './root-key-shares.ts'
import { sealRootKey, unsealRootKey } from './sealed-root-key.ts'
import { eraseGone, promoteFile, readSecretFile } from './secret-files.ts'

export type RootKeyConfig = Pick<Config, 'dataDirectory' | 'rootKey' | 'rootKeyStoreFile'>

export const ROOT_KEY_BYTES = 32
const SALT_BYTES = 16
const SALT_PATTERN = /^[0-9a-f]{32}$/
/** 128 MiB and a few hundred ms a guess (RFC 7914; OWASP's strongest parameters). */
const SCRYPT = { N: 2 ** 17, r: 8, p: 1, maxmem: 2 ** 28 }
const NEXT = '.next'
const STDIN = '-'

/** Nothing was handed in, so that nothing is wrong with it. */
export class SecretMissing extends KeyfoldError {}

/** Gives a root key, which whoever called it fills with zeros. */
export type LoadRootKey = () => Promise<Uint8Array>

/** What may be the root key of this version, the likeliest first: a rotation may have been cut off at its turning point. */
export function rootKeyLoaders(
  config: RootKeyConfig,
  crypto: Crypto,
  rootVersion: number,
  nextShareFiles: readonly string[],
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
      const file = sealedFileOf(config)
      const files = { sealedFiles: [file, file + NEXT], storeFile: config.rootKeyStoreFile }
      return [() => unsealRootKey(files, crypto, rootVersion)]
    }
    case 'shares': {
      const { files } = config.rootKey
      return [
        async () => combineShares(readShares(files, 'KEYFOLD_ROOT_KEY_SHARES'), rootVersion),
        async () =>
          combineShares(readShares(nextShareFiles, 'KEYFOLD_ROOT_KEY_SHARES_NEXT'), rootVersion),
      ]
    }
  }
}

/** A root key, which the caller fills with zeros, and what has to stand on disk for it to be loaded again. */
export interface SourcedRootKey {
  readonly rootKey: Uint8Array
  /** undefined: it is there, or an operator keeps the root key. */
  readonly file: RootKeyFile | undefined
}

export interface RootKeyFile {
  readonly path: string
  readonly content: Uint8Array
}

/** The first one: what is there already, or made. Nothing is written. */
export async function firstRootKey(
  config: RootKeyConfig,
  crypto: Crypto,
  rootVersion: number,
): Promise<SourcedRootKey> {
  const path = sourceFile(config)
  if (path !== undefined && !existsSync(path)) {
    return makeRootKey(config, crypto, { rootVersion, path, passphrase: 'KEYFOLD_PASSPHRASE' })
  }
  const [load] = rootKeyLoaders(config, crypto, rootVersion, [])
  return { rootKey: await load(), file: undefined }
}

/** The one that a rotation moves to: made, or handed in by whoever keeps it. Nothing is written. */
export async function nextRootKey(
  config: RootKeyConfig,
  crypto: Crypto,
  rootVersion: number,
  nextShareFiles: readonly string[],
): Promise<SourcedRootKey> {
  switch (config.rootKey.source) {
    case 'environment':
      return { rootKey: rootKeyOfVariable('KEYFOLD_ROOT_KEY_NEXT'), file: undefined }
    case 'shares': {
      const shares = readShares(nextShareFiles, 'KEYFOLD_ROOT_KEY_SHARES_NEXT')
      return { rootKey: combineShares(shares, rootVersion), file: undefined }
    }
    default: {
      const path = `${sourceFile(config) as string}${NEXT}`
      const passphrase = 'KEYFOLD_PASSPHRASE_NEXT'
      return makeRootKey(config, crypto, { rootVersion, path, passphrase })
    }
  }
}

/** Where the source has a file that goes with it. */
async function makeRootKey(
  config: RootKeyConfig,
  crypto: Crypto,
  {
    rootVersion,
    path,
    passphrase,
  }: {
    readonly rootVersion: number
    readonly path: string
    readonly passphrase: 'KEYFOLD_PASSPHRASE' | 'KEYFOLD_PASSPHRASE_NEXT'
  },
): Promise<SourcedRootKey> {
  if (config.rootKey.source === 'passphrase') {
    const words = requiredSecret(passphrase, THE_PASSPHRASE[passphrase])
    const salt = randomBytes(SALT_BYTES)
    const file = { path, content: Buffer.from(salt.toString('hex')) }
    return { rootKey: stretch(words, salt), file }
  }
  const rootKey = randomBytes(ROOT_KEY_BYTES)
  if (config.rootKey.source === 'file') {
    return { rootKey, file: { path, content: encodeRootKey(rootKey) } }
  }
  try {
    const sealed = await sealRootKey(config.rootKeyStoreFile, crypto, rootKey, rootVersion)
    return { rootKey, file: { path, content: Buffer.from(sealed) } }
  } catch (error) {
    rootKey.fill(0)
    throw error
  }
}

/** What stood beside is the present one from now on, and what it follows is overwritten. Can be run again. */
export function promoteNextRootKey(config: RootKeyConfig): void {
  const file = sourceFile(config)
  if (file === undefined) return
  if (existsSync(file + NEXT)) promoteFile(file + NEXT, file)
  else eraseGone(file)
}

export function sealedFileOf(config: RootKeyConfig): string {
  return join(config.dataDirectory, 'root.sealed')
}

/** The file of this source that goes with the root key, where there is one. */
function sourceFile(config: RootKeyConfig): string | undefined {
  switch (config.rootKey.source) {
    case 'file':
      return config.rootKey.file
    case 'passphrase':
      return saltFile(config)
    case 'sealed':
      return sealedFileOf(config)
    case 'environment':
    case 'shares':
      return undefined
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
function encodeRootKey(rootKey: Uint8Array): Uint8Array {
  const digitOf = (nibble: number): number => nibble + (nibble < 10 ? 0x30 : 0x61 - 10)
  const digits = new Uint8Array(2 * ROOT_KEY_BYTES + 1).fill(0x0a)
  rootKey.forEach((byte, i) => {
    digits[2 * i] = digitOf(byte >> 4)
    digits[2 * i + 1] = digitOf(byte & 0x0f)
  })
  return digits
}

/** What encodeRootKey makes, the newline left out or not. */
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
    (name: keyof typeof THE_PASSPHRASE, file: string): LoadRootKey =>
    async () => {
      if (!existsSync(file)) throw notInitialised(config)
      const passphrase = taken.get(name) ?? requiredSecret(name, THE_PASSPHRASE[name])
      taken.set(name, passphrase)
      return stretch(passphrase, readSalt(file))
    }
  const [present, next] = ['KEYFOLD_PASSPHRASE', 'KEYFOLD_PASSPHRASE_NEXT'] as const
  const first = load(present, salt)
  if (!existsSync(salt + NEXT)) return [first, load(next, salt)]
  return [first, load(present, salt + NEXT), load(next, salt + NEXT)]
}

const THE_PASSPHRASE = {
  KEYFOLD_PASSPHRASE: 'the passphrase',
  KEYFOLD_PASSPHRASE_NEXT: 'the passphrase to move to',
} as const

function readSalt(file: string): Uint8Array {
  const digits = readFileSync(file, 'utf8').trim()
  // What is no hex would be left out in silence, and an empty salt is none.
  if (SALT_PATTERN.test(digits)) return Buffer.from(digits, 'hex')
  throw new KeyfoldError('CONFIG_INVALID', `${file}: 32 hex digits are needed`)
}

function stretch(passphrase: string, salt: Uint8Array): Uint8Array {
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
    throw new SecretMissing('CONFIG_INVALID', `set ${name}: ${what}`)
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
