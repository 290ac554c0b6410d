/**
 * The root key of the local key store: how a wrong one is told at once, and how another takes its place. In the data
 * directory:
 *
 *     root.key        64 hex digits, mode 0600              rootKeySource file
 *     root.salt       32 hex digits, mode 0600              rootKeySource passphrase: salt of scrypt
 *     root.sealed     src/format/sealed-root-key.ts         rootKeySource sealed
 *     root.check      [VERSION] and hex, mode 0600; a key wrapped under the root key opens under no other
 *     root.previous   VERSION and hex, mode 0600; the root key before, wrapped under this one: a rotation is under way
 *     root.check.next of the root key that a rotation of a shared catalog will move to: it is announced
 *
 * A rotation turns with root.check, which is replaced in one step: before it the old root key is the root key, and
 * whatever else was written is of no account; behind it the new one is, and has the old one in its hands until everything
 * is sealed anew.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

import type { Crypto, KeyHandle } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import {
  decodeRootKeyLine,
  FIRST_ROOT_VERSION as FIRST_VERSION,
  type RootKeyLine,
} from '../format/root-key-line.ts'
import {
  firstRootKey,
  nextRootKey,
  notInitialised,
  promoteNextRootKey,
  rootKeyLoaders,
  SecretMissing,
  type LoadRootKey,
  type RootKeyConfig,
  type RootKeyFile,
} from './root-key-sources.ts'
import type { RootKey, RootKeys } from './sealing-keys.ts'
import { createFile, eraseFile, eraseGone, replaceFile } from './secret-files.ts'

const CHECK_LABEL = 'keyfold/root/v1/check'
const PREVIOUS_LABEL = 'keyfold/root/v1/previous'

/** The root key, 32 bytes, which the caller fills with zeros. Errors: CONFIG_INVALID, ROOT_KEY_INVALID, and a store's. */
export async function readRootKey(
  config: RootKeyConfig,
  crypto: Crypto,
  nextShareFiles: readonly string[] = [],
): Promise<Uint8Array> {
  const check = readCheck(config)
  const loaders = rootKeyLoaders(config, crypto, check.version, nextShareFiles)
  return loadPassing(loaders, check, { crypto, where: config.dataDirectory })
}

/** Errors: of the first loader, for that is what was configured; with what is wrong with the others that were given. */
async function loadPassing(
  loaders: readonly LoadRootKey[],
  check: RootKeyLine,
  { crypto, where }: { readonly crypto: Crypto; readonly where: string },
): Promise<Uint8Array> {
  const failures: unknown[] = []
  for (const load of loaders) {
    try {
      const rootKey = await load()
      if (passes(check, crypto, rootKey)) return rootKey
      rootKey.fill(0)
      failures.push(new KeyfoldError('ROOT_KEY_INVALID', where))
    } catch (error) {
      if (failures.length === 0 || !(error instanceof SecretMissing)) failures.push(error)
    }
  }
  const [first] = failures
  const details = new Set(failures.map((failure) => (failure as KeyfoldError).detail))
  if (!(first instanceof KeyfoldError) || details.size === 1) throw first
  throw new KeyfoldError(first.code, [...details].filter(Boolean).join('; '), first)
}

/** What root.check says of each, as it stands there. */
export interface OpenRootKeys extends RootKeys {
  readonly check: string
  /** Of a root key that is announced, whether or not it is at hand. */
  readonly nextCheck: string | undefined
  /** Why that one is not. */
  readonly nextFailure?: unknown
}

/** For as long as it takes to derive from them: the caller owes closeRootKeys. Errors: as readRootKey. */
export async function openRootKeys(
  config: RootKeyConfig,
  crypto: Crypto,
  nextShareFiles: readonly string[] = [],
): Promise<OpenRootKeys> {
  const rootKey = await readRootKey(config, crypto, nextShareFiles)
  const { version } = readCheck(config)
  const current = { version, key: crypto.importKey(rootKey) }
  const texts = {
    check: readFileSync(checkFile(config), 'utf8'),
    nextCheck: existsSync(nextCheckFile(config))
      ? readFileSync(nextCheckFile(config), 'utf8')
      : undefined,
  }
  const previous = readPrevious(config)
  if (previous === undefined) {
    // A rotation that was cut off at its very end.
    eraseGone(previousFile(config))
    return { current, ...(await openNext(config, crypto, nextShareFiles)), ...texts }
  }
  try {
    const key = crypto.unwrapKey(current.key, previousAad(previous.version), previous.wrapped)
    return { current, previous: { version: previous.version, key }, ...texts }
  } catch (cause) {
    crypto.releaseKey(current.key)
    throw new KeyfoldError('ROOT_KEY_INVALID', previousFile(config), cause)
  }
}

/** One that is announced and not at hand is no reason not to work under the present one. */
async function openNext(
  config: RootKeyConfig,
  crypto: Crypto,
  nextShareFiles: readonly string[],
): Promise<Pick<OpenRootKeys, 'next' | 'nextFailure'>> {
  const check = readNextCheck(config)
  if (check === undefined) return {}
  // Where the next one belongs comes first: what is wrong there is what has to be told.
  const loaders = [...rootKeyLoaders(config, crypto, check.version, nextShareFiles)].reverse()
  try {
    const rootKey = await loadPassing(loaders, check, { crypto, where: config.dataDirectory })
    return { next: { version: check.version, key: crypto.importKey(rootKey) } }
  } catch (nextFailure) {
    return { nextFailure }
  }
}

export function closeRootKeys(crypto: Crypto, { current, previous, next }: RootKeys): void {
  for (const root of [current, previous, next]) {
    if (root !== undefined) crypto.releaseKey(root.key)
  }
}

/**
 * A root key that is made once, however often the transaction that announces it is tried: what is handed in can be taken
 * once, and a key store is not asked while others wait for the catalog.
 */
export class NewRootKey {
  readonly version: number
  readonly #files: readonly RootKeyFile[]
  readonly #put: typeof createFile
  #kept: readonly RootKeyFile[] = []

  constructor(version: number, files: readonly RootKeyFile[], put: typeof createFile) {
    this.version = version
    this.#files = files
    this.#put = put
  }

  /** What it is known by and loaded from is on disk when it returns. Can be called again. */
  keep(): void {
    for (const file of this.#files.slice(this.#kept.length)) {
      this.#put(file.path, file.content)
      this.#kept = [...this.#kept, file]
    }
  }

  /** Nobody has it: what keep() put there goes. */
  discard(): void {
    for (const { path } of this.#kept) eraseFile(path)
    this.#kept = []
  }

  wipe(): void {
    for (const { content } of this.#files) content.fill(0)
  }
}

/** Makes a root key where there is none yet. The caller owes wipe(). Errors: as readRootKey. */
export async function firstNewRootKey(config: RootKeyConfig, crypto: Crypto): Promise<NewRootKey> {
  if (existsSync(checkFile(config))) {
    ;(await readRootKey(config, crypto)).fill(0)
    return new NewRootKey(FIRST_VERSION, [], createFile)
  }
  const { rootKey, file } = await firstRootKey(config, crypto, FIRST_VERSION)
  const key = crypto.importKey(rootKey)
  const check = fileOf(checkFile(config), checkText(crypto, key, FIRST_VERSION))
  crypto.releaseKey(key)
  return new NewRootKey(FIRST_VERSION, file === undefined ? [check] : [file, check], createFile)
}

export interface RootKeyState {
  readonly version: number
  /** What is not sealed anew yet is sealed under this version; undefined unless a rotation is under way. */
  readonly previousVersion: number | undefined
  /** Announced by a shared catalog. */
  readonly nextVersion: number | undefined
}

/** Of the files; whether the root key is at hand is another question. Throws CONFIG_INVALID, ROOT_KEY_INVALID. */
export function rootKeyState(config: RootKeyConfig): RootKeyState {
  const { version } = readCheck(config)
  return {
    version,
    previousVersion: readPrevious(config)?.version,
    nextVersion: readNextCheck(config)?.version,
  }
}

/** The version that new shares are of: init's, or the next rotation's. */
export function nextRootVersion(config: RootKeyConfig): number {
  if (!existsSync(checkFile(config))) return FIRST_VERSION
  // Of two that were announced nobody shall take one for the other: nodes tell which they have by its version.
  return (readNextCheck(config) ?? readCheck(config)).version + 1
}

/**
 * Makes another key the root key; or, where a rotation is under way, does what its first half has left to do. The
 * caller owes closeRootKeys. From here to finishRootRotation both are at hand. Errors: as readRootKey.
 */
export async function beginRootRotation(
  config: RootKeyConfig,
  crypto: Crypto,
  nextShareFiles: readonly string[],
): Promise<RootKeys> {
  const turned = readPrevious(config) !== undefined
  const roots = turned
    ? await openRootKeys(config, crypto)
    : await turn(config, crypto, nextShareFiles)
  promoteNextRootKey(config)
  return roots
}

/** Nothing is sealed under the root key before any more: it goes for good. */
export function finishRootRotation(config: RootKeyConfig): void {
  eraseFile(previousFile(config))
}

/**
 * Of a shared catalog: makes the root key that a rotation shall move to, or takes the one that is handed in. Whoever
 * keeps it sees to it that no other is announced, and owes wipe(). Errors: as readRootKey, and CONFIG_INVALID.
 */
export async function nextNewRootKey(
  config: RootKeyConfig,
  crypto: Crypto,
  nextShareFiles: readonly string[],
): Promise<NewRootKey> {
  // A file of the root key may still be called the next one: it must not be overwritten.
  await promoteIfCurrent(config, crypto)
  const { root, file } = await makeNext(config, crypto, nextShareFiles)
  const check = fileOf(nextCheckFile(config), checkText(crypto, root.key, root.version))
  crypto.releaseKey(root.key)
  return new NewRootKey(root.version, file === undefined ? [check] : [file, check], replaceFile)
}

/** What root.previous says once the next root key is the root key. */
export function previousText(crypto: Crypto, current: RootKey, next: RootKey): string {
  const wrapped = crypto.wrapKey(next.key, previousAad(current.version), current.key)
  return `${current.version} ${Buffer.from(wrapped).toString('hex')}`
}

/** A file of the root key is replaced by its successor once that is the root key; any other is left alone. */
export async function promoteIfCurrent(config: RootKeyConfig, crypto: Crypto): Promise<void> {
  const [, next] = config.rootKey.source === 'file' ? rootKeyLoaders(config, crypto, 0, []) : []
  if (next === undefined) return
  const rootKey = await next()
  const isCurrent = passes(readCheck(config), crypto, rootKey)
  rootKey.fill(0)
  if (isCurrent) promoteNextRootKey(config)
}

async function makeNext(
  config: RootKeyConfig,
  crypto: Crypto,
  nextShareFiles: readonly string[],
): Promise<{ readonly root: RootKey; readonly file: RootKeyFile | undefined }> {
  const version = nextRootVersion(config)
  const { rootKey, file } = await nextRootKey(config, crypto, version, nextShareFiles)
  if (passes(readCheck(config), crypto, rootKey)) {
    rootKey.fill(0)
    throw new KeyfoldError('CONFIG_INVALID', 'the root key to move to is the one that there is')
  }
  return { root: { version, key: crypto.importKey(rootKey) }, file }
}

async function turn(
  config: RootKeyConfig,
  crypto: Crypto,
  nextShareFiles: readonly string[],
): Promise<RootKeys> {
  const { version } = readCheck(config)
  const previous = { version, key: crypto.importKey(await readRootKey(config, crypto)) }
  try {
    const { root: current, file } = await makeNext(config, crypto, nextShareFiles)
    if (file !== undefined) {
      replaceFile(file.path, file.content)
      file.content.fill(0)
    }
    replaceFile(previousFile(config), previousText(crypto, previous, current))
    replaceFile(checkFile(config), checkText(crypto, current.key, current.version))
    return { current, previous }
  } catch (error) {
    crypto.releaseKey(previous.key)
    throw error
  }
}

function passes({ version, wrapped }: RootKeyLine, crypto: Crypto, rootKey: Uint8Array): boolean {
  const key = crypto.importKey(Uint8Array.from(rootKey))
  try {
    crypto.releaseKey(crypto.unwrapKey(key, checkAad(version), wrapped))
    return true
  } catch (cause) {
    if (cause instanceof KeyfoldError && cause.code === 'DECRYPT_FAILED') return false
    throw cause
  } finally {
    crypto.releaseKey(key)
  }
}

function fileOf(path: string, text: string): RootKeyFile {
  return { path, content: Buffer.from(text) }
}

function checkText(crypto: Crypto, rootKey: KeyHandle, version: number): string {
  const random = crypto.generateKey()
  const wrapped = crypto.wrapKey(rootKey, checkAad(version), random)
  crypto.releaseKey(random)
  const digits = Buffer.from(wrapped).toString('hex')
  return version === FIRST_VERSION ? digits : `${version} ${digits}`
}

/** What the first version's says was written before there were others. */
function checkAad(version: number): Uint8Array {
  return Buffer.from(version === FIRST_VERSION ? CHECK_LABEL : `${CHECK_LABEL}/${version}`)
}

function previousAad(version: number): Uint8Array {
  return Buffer.from(`${PREVIOUS_LABEL}/${version}`)
}

function readCheck(config: RootKeyConfig): RootKeyLine {
  if (!existsSync(checkFile(config))) throw notInitialised(config)
  return readLine(checkFile(config))
}

/** undefined also where it was written and the rotation did not turn: the version in it is the present one still. */
function readPrevious(config: RootKeyConfig): RootKeyLine | undefined {
  if (!existsSync(previousFile(config))) return undefined
  const previous = readLine(previousFile(config))
  return previous.version === readCheck(config).version ? undefined : previous
}

function readNextCheck(config: RootKeyConfig): RootKeyLine | undefined {
  return existsSync(nextCheckFile(config)) ? readLine(nextCheckFile(config)) : undefined
}

function readLine(file: string): RootKeyLine {
  return decodeRootKeyLine(readFileSync(file, 'utf8'), file)
}

function nextCheckFile(config: RootKeyConfig): string {
  return join(config.dataDirectory, 'root.check.next')
}

function checkFile(config: RootKeyConfig): string {
  return join(config.dataDirectory, 'root.check')
}

function previousFile(config: RootKeyConfig): string {
  return join(config.dataDirectory, 'root.previous')
}
