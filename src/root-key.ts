/** What `keyfold root-key` does with the root key: of a data directory that no server has open, or of a shared catalog. */
import { randomBytes } from 'node:crypto'

import { isCatalogIn, openCatalog, type Catalog } from './catalog/catalog.ts'
import type { Config } from './config.ts'
import { chooseCrypto } from './crypto/choose.ts'
import type { Crypto } from './crypto/crypto.ts'
import { KeyfoldError } from './errors.ts'
import { LocalKeyStore } from './key-stores/local.ts'
import { ROOT_KEY_BYTES, sealedFileOf } from './key-stores/root-key-sources.ts'
import { shareRootKey } from './key-stores/root-key-shares.ts'
import {
  beginRootRotation,
  closeRootKeys,
  finishRootRotation,
  nextRootVersion,
  openRootKeys,
  readRootKey,
  rootKeyState,
  type RootKeyState,
} from './key-stores/root-key.ts'
import { sealRootKey } from './key-stores/sealed-root-key.ts'
import { replaceFile } from './key-stores/secret-files.ts'
import { SecretSealer } from './key-stores/secret-sealer.ts'
import { pullRootFiles } from './kms/root-files.ts'
import { resealCatalog } from './kms/root-rotation.ts'
import { prepareSharedRotation, rotateSharedRoot } from './kms/shared-root-rotation.ts'
import { sealSharedRoot } from './kms/shared-root-seal.ts'

type Log = (message: string) => void

/** After the root key was seen to be the right one. Errors: as openRootKeys, and CATALOG_UNAVAILABLE. */
export async function rootKeyStatus(
  config: Config,
  { log }: { readonly log: Log },
): Promise<RootKeyState> {
  const crypto = cryptoOf(config, log)
  await withSharedCatalog(config, async (catalog) => pullRootFiles(catalog, config.dataDirectory))
  closeRootKeys(crypto, await openRootKeys(config, crypto))
  return rootKeyState(config)
}

/**
 * Has the key store of the settings seal the root key as it is; of a shared catalog, for every node. Returns the file.
 * Errors: as readRootKey, and CATALOG_UNAVAILABLE.
 */
export async function sealPresentRootKey(
  config: Config,
  { log }: { readonly log: Log },
): Promise<string> {
  const crypto = cryptoOf(config, log)
  const sealedFile = sealedFileOf(config)
  if (config.catalog !== undefined) {
    await withSharedCatalog(config, (catalog) => sealSharedRoot(catalog, config, crypto))
    return sealedFile
  }
  const rootKey = await readRootKey(config, crypto)
  try {
    const { version } = rootKeyState(config)
    replaceFile(sealedFile, await sealRootKey(config.rootKeyStoreFile, crypto, rootKey, version))
    return sealedFile
  } finally {
    rootKey.fill(0)
  }
}

/**
 * Shares, one a line, which are kept nowhere: of the root key as it is, or of a new one that init or a rotation shall
 * move to. Errors: CONFIG_INVALID, and as readRootKey.
 */
export async function createRootKeyShares(
  config: Config,
  options: {
    readonly threshold: number
    readonly shares: number
    readonly ofNewRootKey: boolean
    readonly log: Log
  },
): Promise<readonly string[]> {
  const { ofNewRootKey, log } = options
  // Which version there is, and which one is announced, other machines may have changed.
  await withSharedCatalog(config, (catalog) => pullRootFiles(catalog, config.dataDirectory))
  const rootKey = ofNewRootKey
    ? randomBytes(ROOT_KEY_BYTES)
    : await readRootKey(config, cryptoOf(config, log))
  try {
    const version = ofNewRootKey ? nextRootVersion(config) : rootKeyState(config).version
    return shareRootKey(rootKey, version, options)
  } finally {
    rootKey.fill(0)
  }
}

interface RotationOptions {
  readonly nextShareFiles?: readonly string[]
  readonly log: Log
}

/**
 * Of a shared catalog, before its rotation: announces the root key to move to, so that every node can be given it.
 * Returns its version. Errors: as prepareSharedRotation.
 */
export async function prepareRootRotation(
  config: Config,
  { nextShareFiles = [], again = false, log }: RotationOptions & { readonly again?: boolean },
): Promise<number> {
  const crypto = cryptoOf(config, log)
  const version = await withSharedCatalog(config, (catalog) =>
    prepareSharedRotation({ catalog, config, crypto, log }, { nextShareFiles, again }),
  )
  if (version !== undefined) return version
  throw new KeyfoldError('CONFIG_INVALID', 'catalog: only the rotation of a shared one is prepared')
}

/**
 * Gives the catalog another root key, seals everything anew, and destroys the old one. Killed at any point it can be
 * run again, and a server can be started meanwhile. Returns the new version. Errors: CATALOG_UNAVAILABLE (a server has
 * an embedded one open), CONFIG_INVALID, ROOT_KEY_INVALID, and a store's.
 */
export async function rotateRootKey(
  config: Config,
  { nextShareFiles = [], log }: RotationOptions,
): Promise<number> {
  const crypto = cryptoOf(config, log)
  const version = await withSharedCatalog(config, (catalog) =>
    rotateSharedRoot({ catalog, config, crypto, log }, nextShareFiles),
  )
  return version ?? rotateEmbeddedRoot(config, crypto, { nextShareFiles, log })
}

async function rotateEmbeddedRoot(
  config: Config,
  crypto: Crypto,
  { nextShareFiles, log }: Required<RotationOptions>,
): Promise<number> {
  if (!isCatalogIn(config.dataDirectory)) {
    // A node's: it would be left with a root key that nothing is sealed under, and without the one that all is.
    throw new KeyfoldError('CONFIG_INVALID', `there is no catalog in ${config.dataDirectory}`)
  }
  // The catalog first: while a server has it open nothing is touched.
  const catalog = await openCatalog(config)
  try {
    const roots = await beginRootRotation(config, crypto, nextShareFiles)
    const keyStore = new LocalKeyStore(crypto, roots)
    const secretSealer = new SecretSealer(crypto, roots)
    closeRootKeys(crypto, roots)
    try {
      await resealCatalog(catalog, { keyStore, secretSealer }, roots.current.version, log)
    } finally {
      await keyStore.close()
      secretSealer.lock()
    }
    finishRootRotation(config)
    return roots.current.version
  } finally {
    await catalog.close()
  }
}

/** undefined, and nothing is done, where the catalog is embedded. */
async function withSharedCatalog<T>(
  config: Config,
  use: (catalog: Catalog) => Promise<T>,
): Promise<T | undefined> {
  if (config.catalog === undefined) return undefined
  const catalog = await openCatalog(config)
  try {
    return await use(catalog)
  } finally {
    await catalog.close()
  }
}

function cryptoOf(config: Config, log: Log): Crypto {
  return chooseCrypto(config.crypto, { memoryLock: config.memoryLock, log })
}
