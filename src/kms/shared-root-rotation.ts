/**
 * Rotation of the root key of a shared catalog, while its nodes serve:
 *
 *     prepare    the next root key is made, and announced by root.check.next; nothing is sealed under it
 *     hand over  the operator gives it to every node, and restarts each: now it has both
 *     turn       in one transaction the next one is the root key; every node that holds a lease has confirmed that it
 *                seals under it before anything else happens
 *     reseal     page by page, as of an embedded catalog (root-rotation.ts)
 *     complete   in one transaction nothing is found under the one before, and it goes
 *
 * Whoever is killed runs it again: rows say how far it came. A node that lacks the root key in use has no lease
 * (root-follower.ts). What a process sealed before the turn and commits after the end is refused by the transaction
 * that would put it there (assertRootKeyThere), so that nothing is ever left under a root key that is gone.
 */
import type { Catalog } from '../catalog/catalog.ts'
import { countWithoutRoot } from '../catalog/nodes.ts'
import {
  NEXT,
  putRootFile,
  readRootFile,
  ROOT_CHECK,
  ROOT_FILES,
  ROOT_PREVIOUS,
  turnRootFiles,
} from '../catalog/root-files.ts'
import type { Crypto } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import { decodeRootKeyLine } from '../format/root-key-line.ts'
import { LocalKeyStore } from '../key-stores/local.ts'
import type { RootKeyConfig } from '../key-stores/root-key-sources.ts'
import {
  closeRootKeys,
  openRootKeys,
  nextNewRootKey,
  previousText,
  promoteIfCurrent,
  readRootKey,
  type NewRootKey,
  type OpenRootKeys,
} from '../key-stores/root-key.ts'
import type { RootKeys } from '../key-stores/sealing-keys.ts'
import { SecretSealer } from '../key-stores/secret-sealer.ts'
import { localRootFiles, pullRootFiles } from './root-files.ts'
import { findOlder, resealCatalog } from './root-rotation.ts'

export interface SharedRotation {
  readonly catalog: Catalog
  readonly config: RootKeyConfig
  readonly crypto: Crypto
  readonly log: (message: string) => void
}

/**
 * Announces the root key to move to. One that is announced already stays, unless `again`: nothing is sealed under it.
 * Returns its version. Errors: CONFIG_INVALID, ROOT_KEY_INVALID, a store's, CATALOG_UNAVAILABLE.
 */
export async function prepareSharedRotation(
  { catalog, config, crypto }: SharedRotation,
  {
    nextShareFiles,
    again,
  }: { readonly nextShareFiles: readonly string[]; readonly again: boolean },
): Promise<number> {
  await pullRootFiles(catalog, config.dataDirectory)
  const nextCheck = localRootFiles(config.dataDirectory, NEXT).get(ROOT_CHECK + NEXT)
  // Only then: what is handed in for the next one can be taken once.
  if (nextCheck !== undefined && !again) {
    return withRootKeys({ config, crypto, nextShareFiles }, async ({ next, nextFailure }) => {
      if (next === undefined) throw nextIsElsewhere(nextFailure)
      return next.version
    })
  }
  // The nodes have to open both with these settings.
  ;(await readRootKey(config, crypto)).fill(0)
  const check = localRootFiles(config.dataDirectory).get(ROOT_CHECK)
  const next = await nextNewRootKey(config, crypto, nextShareFiles)
  try {
    await announce(catalog, config, next, { check, nextCheck })
    return next.version
  } finally {
    next.wipe()
  }
}

/** In a transaction, so that of two none overwrites the next root key of the other. */
async function announce(
  catalog: Catalog,
  config: RootKeyConfig,
  next: NewRootKey,
  made: { readonly check: string | undefined; readonly nextCheck: string | undefined },
): Promise<void> {
  await catalog.change(async (transaction) => {
    if ((await readRootFile(transaction, ROOT_PREVIOUS)) !== undefined) {
      throw new KeyfoldError('CONFIG_INVALID', 'a rotation is under way: keyfold root-key rotate')
    }
    const isAsBefore =
      (await readRootFile(transaction, ROOT_CHECK)) === made.check &&
      (await readRootFile(transaction, ROOT_CHECK + NEXT)) === made.nextCheck
    if (!isAsBefore) {
      throw new KeyfoldError('CONFIG_INVALID', 'another preparation came first')
    }
    next.keep()
    const contents = localRootFiles(config.dataDirectory, NEXT)
    for (const name of ROOT_FILES) {
      await putRootFile(transaction, name + NEXT, contents.get(name + NEXT))
    }
  })
}

/** Returns the new version. Errors: as of prepareSharedRotation; what is sealed and does not open keeps both root keys. */
export async function rotateSharedRoot(
  rotation: SharedRotation,
  nextShareFiles: readonly string[],
): Promise<number> {
  const { catalog, config, crypto, log } = rotation
  await pullRootFiles(catalog, config.dataDirectory)
  return withRootKeys({ config, crypto, nextShareFiles }, async (opened) => {
    const roots = opened.previous === undefined ? await turn(rotation, opened) : opened
    await pullRootFiles(catalog, config.dataDirectory)
    await promoteIfCurrent(config, crypto)
    await confirmed(catalog)
    const { version } = roots.current
    const keyStore = new LocalKeyStore(crypto, roots)
    const secretSealer = new SecretSealer(crypto, roots)
    try {
      do await resealCatalog(catalog, { keyStore, secretSealer }, version, log)
      while (!(await complete(catalog, version)))
    } finally {
      await keyStore.close()
      secretSealer.lock()
    }
    await pullRootFiles(catalog, config.dataDirectory)
    return version
  })
}

async function turn(
  { catalog, crypto }: SharedRotation,
  { current, next, nextFailure, check, nextCheck }: OpenRootKeys,
): Promise<RootKeys> {
  if (nextCheck === undefined) {
    throw new KeyfoldError('CONFIG_INVALID', 'first keyfold root-key prepare, for every node')
  }
  if (next === undefined) throw nextIsElsewhere(nextFailure)
  // Nodes that are gone are no nodes behind this, and those that live follow.
  await confirmed(catalog)
  const previous = previousText(crypto, current, next)
  await catalog.change(async (transaction) => {
    const isAsOpened =
      (await readRootFile(transaction, ROOT_CHECK)) === check &&
      (await readRootFile(transaction, ROOT_CHECK + NEXT)) === nextCheck
    if (!isAsOpened) throw new KeyfoldError('CONFIG_INVALID', 'another rotation came first')
    const nodes = await countWithoutRoot(transaction, next.version)
    if (nodes > 0) {
      throw new KeyfoldError(
        'CONFIG_INVALID',
        `nodes without version ${next.version} of the root key: ${nodes}; hand it to each and restart it`,
      )
    }
    await turnRootFiles(transaction, previous)
  })
  return { current: next, previous: current }
}

/** Every node has in force what was changed up to now, or has no lease. */
async function confirmed(catalog: Catalog): Promise<void> {
  await catalog.change(async () => undefined)
  await catalog.acknowledged()
}

/**
 * Whether it is: what was sealed before the turn may have been put there since. Where somebody else has completed this
 * one and begun another, there is nothing left to do.
 */
async function complete(catalog: Catalog, version: number): Promise<boolean> {
  return catalog.change(async (transaction) => {
    const check = (await readRootFile(transaction, ROOT_CHECK)) ?? ''
    if (decodeRootKeyLine(check, ROOT_CHECK).version !== version) return true
    if ((await findOlder(transaction, version)).length > 0) return false
    await putRootFile(transaction, ROOT_PREVIOUS, undefined)
    return true
  })
}

async function withRootKeys<T>(
  {
    config,
    crypto,
    nextShareFiles,
  }: Pick<SharedRotation, 'config' | 'crypto'> & { readonly nextShareFiles: readonly string[] },
  use: (roots: OpenRootKeys) => Promise<T>,
): Promise<T> {
  const roots = await openRootKeys(config, crypto, nextShareFiles)
  try {
    return await use(roots)
  } finally {
    closeRootKeys(crypto, roots)
  }
}

/** A store that is away, or refuses, says so itself: what it sealed is nobody's to hand in. */
function nextIsElsewhere(failure: unknown): unknown {
  const isOfSource =
    failure instanceof KeyfoldError &&
    (failure.code === 'CONFIG_INVALID' || failure.code === 'ROOT_KEY_INVALID')
  if (!isOfSource) return failure
  return new KeyfoldError(
    'CONFIG_INVALID',
    `another root key is announced than the one at hand (${failure.detail ?? ''}): ` +
      'hand that one in, or prepare another with --again',
    failure,
  )
}
