/**
 * A new KMS key: what it may be, which key store makes its material, and the rows that go in together. Material comes
 * first, for the row says where it is; where the rows are refused it is destroyed again.
 */
import type { CatalogTransaction } from '../catalog/catalog.ts'
import * as catalogKeys from '../catalog/keys.ts'
import { traitsOf, type KeySpec, type KeyUsage } from '../crypto/key-spec.ts'
import { KeyfoldError } from '../errors.ts'
import type { KeyStore, StoreTurn } from '../key-stores/key-store.ts'
import { LOCAL_KEY_STORE } from '../key-stores/local.ts'
import { insertNewAlias } from './aliases.ts'
import { defaultKeyPolicy } from './default-policy.ts'
import { checkDescription } from './description.ts'
import type { KeyStores } from './key-stores.ts'
import type { KeyManager, KeyOrigin, KmsKey } from './kms-key.ts'
import { regionColumn, type KmsParts } from './parts.ts'
import { checkAliasName, createKeyId, keyIdBytes } from './reference.ts'
import { checkTags } from './tags.ts'

export interface NewKey {
  readonly description?: string | undefined
  readonly alias?: string | undefined
  readonly tags?: ReadonlyMap<string, string> | undefined
  readonly keySpec?: KeySpec | undefined
  /** Needed where a key spec has several. */
  readonly keyUsage?: KeyUsage | undefined
  readonly origin?: KeyOrigin | undefined
  readonly multiRegion?: boolean | undefined
  /** Checked by whoever asked; the default key policy where absent. */
  readonly policy?: string | undefined
  readonly manager?: KeyManager | undefined
  /** A key store by id or name; the local one where absent. Its keys have its origin. */
  readonly keyStore?: string | undefined
  /** What that store has already and the key shall be. */
  readonly externalKeyId?: string | undefined
  /** The catalog's own where absent. */
  readonly region?: string | undefined
  /** Who waits for it: keys that one caller wants keep the others waiting for a few of them. */
  readonly turn?: StoreTurn | undefined
  /** Sees the key as it would be, and prevents it by throwing. */
  readonly accept?: ((created: KmsKey) => void) | undefined
}

export async function createKey(parts: KmsParts, request: NewKey): Promise<KmsKey> {
  const { catalog, registry, keyStores } = parts
  const { alias, tags = new Map<string, string>() } = request
  const { description = '', keySpec = 'SYMMETRIC_DEFAULT', region = catalog.region } = request
  const keyUsage = usageOf(keySpec, request.keyUsage)
  checkDescription(description)
  checkTags(tags)
  if (alias !== undefined && request.manager !== 'AWS') checkAliasName(alias)
  const { store, keyStore, origin } = homeOf(keyStores, request)
  const id = createKeyId(request.multiRegion === true)
  const createdAtMs = parts.nowMs()
  const { externalKeyId, turn } = request
  const material =
    origin === 'EXTERNAL'
      ? undefined
      : await store.createKeyMaterial(keyIdBytes(id), 1, keySpec, externalKeyId, keyUsage, turn)
  const insert = async (transaction: CatalogTransaction, changeNumber: number): Promise<void> => {
    if (keyStore !== LOCAL_KEY_STORE) {
      await keyStores.assertTakes(transaction, keyStore, externalKeyId)
    }
    await catalogKeys.insertKey(transaction, {
      id,
      description,
      state: origin === 'EXTERNAL' ? 'PendingImport' : 'Enabled',
      keySpec,
      keyUsage,
      origin,
      manager: request.manager ?? 'CUSTOMER',
      multiRegion: request.multiRegion === true ? 'PRIMARY' : null,
      region: regionColumn(parts, region),
      policy: request.policy ?? defaultKeyPolicy(catalog.account),
      deletionAtMs: null,
      pendingWindowDays: null,
      rotationPeriodDays: null,
      nextRotationAtMs: null,
      keyStore,
      externalKeyId: externalKeyId ?? null,
      currentVersion: 1,
      createdAtMs,
      changeNumber,
      materials: material === undefined ? [] : [catalogKeys.storedMaterial(1, material)],
      tags: [...tags].map(([key, value]) => ({ key, value })),
    })
    if (alias === undefined) return
    const name = registry.rowOfAlias(alias, region)
    await insertNewAlias(transaction, { name, kmsKeyId: id }, createdAtMs, changeNumber)
  }
  try {
    return await registry.create(id, insert, request.accept)
  } catch (error) {
    if (material !== undefined && externalKeyId === undefined) {
      const unused = { kmsKeyId: keyIdBytes(id), version: 1, keySpec, ...material }
      // It is the refusal that the caller has to hear of; what stays behind there wraps nothing.
      await store.destroyKeyMaterial(unused).catch(() => undefined)
    }
    throw error
  }
}

/** Which store a new key goes to. Throws KEY_STORE_NOT_FOUND, KEY_STORE_STATE_INVALID, OPERATION_UNSUPPORTED. */
function homeOf(
  keyStores: KeyStores,
  request: NewKey,
): {
  readonly store: KeyStore
  readonly keyStore: string
  readonly origin: KeyOrigin
} {
  const { keyStore, externalKeyId, origin = 'AWS_KMS' } = request
  if (keyStore === undefined || keyStore === LOCAL_KEY_STORE) {
    if (externalKeyId !== undefined) {
      throw new KeyfoldError('REQUEST_MALFORMED', 'externalKeyId: the local key store has none')
    }
    return { store: keyStores.local, keyStore: LOCAL_KEY_STORE, origin }
  }
  const { record, store } = keyStores.connectedStore(keyStore)
  const { keySpec = 'SYMMETRIC_DEFAULT', multiRegion = false } = request
  if (multiRegion) {
    throw new KeyfoldError(
      'OPERATION_UNSUPPORTED',
      'multi-Region keys are in no key store but local',
    )
  }
  if (!store.traits.keySpecs.includes(keySpec)) {
    throw new KeyfoldError(
      'OPERATION_UNSUPPORTED',
      `key store ${record.id} has no keys of ${keySpec}`,
    )
  }
  return { store, keyStore: record.id, origin: store.traits.origin }
}

/** AWS KMS: a key spec with one use needs no KeyUsage, one with several does. */
function usageOf(keySpec: KeySpec, keyUsage: KeyUsage | undefined): KeyUsage {
  const { usages } = traitsOf(keySpec)
  const [only] = usages
  if (keyUsage === undefined && usages.length === 1 && only !== undefined) return only
  if (keyUsage !== undefined && usages.includes(keyUsage)) return keyUsage
  throw new KeyfoldError(
    'REQUEST_MALFORMED',
    `KeyUsage: ${keySpec} is for one of ${usages.join(', ')}`,
  )
}
