/**
 * The root key of a shared catalog, sealed by a key store for all of its nodes: they fetch what was sealed when they
 * start. A node that takes the root key from elsewhere goes on doing so, until it is started with the store.
 */
import type { Catalog } from '../catalog/catalog.ts'
import { NEXT, putRootFile, readRootFile, ROOT_CHECK, ROOT_SEALED } from '../catalog/root-files.ts'
import type { Crypto } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import type { RootKeyConfig } from '../key-stores/root-key-sources.ts'
import { readRootKey, rootKeyState } from '../key-stores/root-key.ts'
import { sealRootKey } from '../key-stores/sealed-root-key.ts'
import { localRootFiles, pullRootFiles } from './root-files.ts'

/** Errors: as readRootKey, a store's, CATALOG_UNAVAILABLE. */
export async function sealSharedRoot(
  catalog: Catalog,
  config: RootKeyConfig,
  crypto: Crypto,
): Promise<void> {
  await pullRootFiles(catalog, config.dataDirectory)
  const { version, nextVersion } = rootKeyState(config)
  // Nodes that open the present one by this store could not be handed the next one in another way.
  if (nextVersion !== undefined) throw isPrepared()
  const before = localRootFiles(config.dataDirectory)
  const rootKey = await readRootKey(config, crypto)
  let sealed: string
  try {
    sealed = await sealRootKey(config.rootKeyStoreFile, crypto, rootKey, version)
  } finally {
    rootKey.fill(0)
  }
  await catalog.change(async (transaction) => {
    if ((await readRootFile(transaction, ROOT_CHECK + NEXT)) !== undefined) throw isPrepared()
    if ((await readRootFile(transaction, ROOT_CHECK)) !== before.get(ROOT_CHECK)) {
      throw new KeyfoldError('CONFIG_INVALID', 'the root key was rotated meanwhile: seal it again')
    }
    // One that was sealed for this machine alone is known from now on as one that was replaced.
    const local = before.get(ROOT_SEALED)
    if (local !== undefined) await putRootFile(transaction, ROOT_SEALED, local)
    await putRootFile(transaction, ROOT_SEALED, sealed)
  })
  await pullRootFiles(catalog, config.dataDirectory)
}

function isPrepared(): KeyfoldError {
  return new KeyfoldError(
    'CONFIG_INVALID',
    'a rotation is prepared: first keyfold root-key rotate, then seal what is in use',
  )
}
