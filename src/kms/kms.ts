/**
 * The control plane: KMS keys as AWS KMS has them. Keys themselves are here; how one is made, and what belongs to them,
 * is beside it, a file each. Who may do what is asked before any of it, by whoever opened the door.
 */
import type { Catalog } from '../catalog/catalog.ts'
import * as catalogKeys from '../catalog/keys.ts'
import type { KeySpec, KeyUsage } from '../crypto/key-spec.ts'
import type { KeyStore } from '../key-stores/key-store.ts'
import type { SecretSealer } from '../key-stores/secret-sealer.ts'
import { Aliases } from './aliases.ts'
import { Deletions } from './deletions.ts'
import { checkDescription } from './description.ts'
import { Destructions } from './destructions.ts'
import { Expiries } from './expiries.ts'
import { Grants } from './grants.ts'
import { Imports } from './imports.ts'
import type { KeyStores } from './key-stores.ts'
import type { KeyState, KmsKey } from './kms-key.ts'
import { ManagedKeys } from './managed-keys.ts'
import { createKey, type NewKey } from './new-key.ts'
import {
  pageLimit,
  pageOf,
  regionColumn,
  type KmsParts,
  type Page,
  type PageRequest,
} from './parts.ts'
import { compileKeyPolicy } from './policy/document.ts'
import { Replicas } from './replicas.ts'
import { keyArn } from './reference.ts'
import { KeyRegistry } from './registry.ts'
import { rotationScheduleOf, Rotations } from './rotations.ts'
import type { DueWork } from './scheduler.ts'
import { Tags } from './tags.ts'
import { UseRotations } from './use-rotations.ts'
import { WrapRotations } from './wrap-rotations.ts'

/** What describing a key answers. */
export interface KeyMetadata {
  readonly keyId: string
  readonly arn: string
  readonly state: KeyState
  readonly keySpec: KeySpec
  readonly keyUsage: KeyUsage
  readonly description: string
  readonly createdAtMs: number
  readonly currentVersion: number
  readonly keyStore: string
  readonly externalKeyId: string | undefined
  readonly aliases: readonly string[]
  readonly tags: Readonly<Record<string, string>>
  /** While its deletion is scheduled. */
  readonly deletionAtMs: number | undefined
  readonly pendingWindowDays: number | undefined
  /** While it is rotated by itself. */
  readonly rotationPeriodDays: number | undefined
  readonly nextRotationAtMs: number | undefined
}

export interface KeyLastUse {
  readonly last: { readonly lastUsedAtMs: number; readonly lastOperation: string } | undefined
  readonly trackedSinceMs: number
}

export class Kms {
  readonly registry: KeyRegistry
  readonly keyStores: KeyStores
  readonly aliases: Aliases
  readonly tags: Tags
  readonly rotations: Rotations
  readonly deletions: Deletions
  readonly imports: Imports
  readonly destructions: Destructions
  /** What becomes due, by what it is called in the log. */
  readonly dueWorks: Readonly<Record<string, DueWork>>
  readonly grants: Grants
  readonly replicas: Replicas
  readonly managedKeys: ManagedKeys
  readonly #parts: KmsParts

  constructor(
    catalog: Catalog,
    keyStores: KeyStores,
    sealer: SecretSealer,
    {
      nowMs = Date.now,
      rotateAfterMessages,
    }: {
      readonly nowMs?: () => number
      /** Material that was used for so many messages is rotated. */
      readonly rotateAfterMessages?: number | undefined
    } = {},
  ) {
    this.keyStores = keyStores
    this.registry = new KeyRegistry(catalog, (keyStore) => keyStores.isConnected(keyStore))
    this.#parts = { catalog, registry: this.registry, keyStores, nowMs }
    this.aliases = new Aliases(this.#parts)
    this.tags = new Tags(this.#parts)
    this.rotations = new Rotations(this.#parts)
    this.deletions = new Deletions(this.#parts)
    this.imports = new Imports(this.#parts, sealer)
    this.destructions = new Destructions(this.#parts)
    // Deletions before rotations: nothing is rotated on its last day.
    this.dueWorks = {
      'expiry of imported key material': new Expiries(this.#parts),
      'deletion of a key': this.deletions,
      'destruction of key material in its key store': this.destructions,
      'rotation of a key': this.rotations,
      'rotation of a key by its wraps': new WrapRotations(this.#parts, this.rotations),
      ...(rotateAfterMessages === undefined
        ? {}
        : {
            'rotation of a key by its use': new UseRotations(
              this.#parts,
              this.rotations,
              rotateAfterMessages,
            ),
          }),
    }
    this.grants = new Grants(this.#parts)
    this.replicas = new Replicas(this.#parts)
    this.managedKeys = new ManagedKeys(this, catalog.account)
  }

  keyStoreOf(kmsKey: KmsKey): KeyStore {
    return this.keyStores.storeOf(kmsKey)
  }

  createKey(request: NewKey): Promise<KmsKey> {
    return createKey(this.#parts, request)
  }

  describeKey(reference: string): Promise<KmsKey> {
    return this.registry.resolve(reference)
  }

  /** What the record of uses says of this key, and since when there is one. Keys of a family are told apart. */
  async lastUse({ id, createdAtMs }: KmsKey): Promise<KeyLastUse> {
    const { db } = this.#parts.catalog
    const recordedSinceMs = await catalogKeys.readUsesRecordedSinceMs(db)
    return {
      last: await catalogKeys.readLastUse(db, id),
      trackedSinceMs: Math.max(createdAtMs, recordedSinceMs),
    }
  }

  async listKeys(
    request: PageRequest = {},
  ): Promise<Page<{ readonly keyId: string; readonly arn: string }>> {
    const { catalog } = this.#parts
    const limit = pageLimit(request.limit)
    const region = request.region ?? catalog.region
    const ids = await catalogKeys.listKeyIds(catalog.db, {
      afterId: request.marker ?? '',
      limit: limit + 1,
      region: regionColumn(this.#parts, region),
    })
    const page = pageOf(ids, limit, (id) => id)
    const items = page.items.map((id) => {
      const keyId = catalogKeys.materialOwner(id)
      return { keyId, arn: keyArn(keyId, { region, account: catalog.account }) }
    })
    return { ...page, items }
  }

  enableKey(reference: string): Promise<KmsKey> {
    return this.#update(reference, 'EnableKey', { state: 'Enabled' })
  }

  disableKey(reference: string): Promise<KmsKey> {
    return this.#update(reference, 'DisableKey', { state: 'Disabled' })
  }

  updateDescription(reference: string, description: string): Promise<KmsKey> {
    checkDescription(description)
    return this.#update(reference, 'UpdateKeyDescription', { description })
  }

  /** Whether the caller may, and may again afterwards, is the authorizer's to say. Throws POLICY_MALFORMED. */
  async putKeyPolicy(reference: string, policy: string): Promise<KmsKey> {
    compileKeyPolicy(policy)
    return this.#update(reference, 'PutKeyPolicy', { policy })
  }

  async #update(
    reference: string,
    operation: Parameters<KeyRegistry['change']>[1],
    change: Parameters<typeof catalogKeys.updateKey>[2],
  ): Promise<KmsKey> {
    const { id } = await this.registry.resolve(reference)
    return this.registry.change(id, operation, (transaction, changeNumber) =>
      catalogKeys.updateKey(transaction, id, change, changeNumber),
    )
  }
}

export function metadataOf(record: KmsKey): KeyMetadata {
  const rotation = rotationScheduleOf(record)
  return {
    keyId: record.keyId,
    arn: record.arn,
    state: record.state,
    keySpec: record.keySpec,
    keyUsage: record.keyUsage,
    description: record.description,
    createdAtMs: record.createdAtMs,
    currentVersion: record.currentVersion,
    keyStore: record.keyStore,
    externalKeyId: record.externalKeyId,
    aliases: record.aliases,
    tags: Object.fromEntries(record.tags),
    deletionAtMs: record.deletionAtMs,
    pendingWindowDays: record.pendingWindowDays,
    rotationPeriodDays: rotation?.periodDays,
    nextRotationAtMs: rotation?.nextAtMs,
  }
}
