/**
 * Multi-Region keys (AWS KMS Developer Guide, "Multi-Region keys"): a primary key and its replicas, one in each region
 * that this server keeps keys in. They share key id, material and rotation, so that each opens what another sealed;
 * policy, grants, aliases, tags, description and state are each one's own. All regions are this one catalog, and a
 * change of the family is one transaction: AWS's states Creating and Updating are never seen.
 */
import { listFamily, type FamilyRow } from '../catalog/families.ts'
import * as catalogKeys from '../catalog/keys.ts'
import { KeyfoldError } from '../errors.ts'
import { checkDescription } from './description.ts'
import { defaultKeyPolicy } from './default-policy.ts'
import { assertOperable } from './key-states.ts'
import type { KmsKey } from './kms-key.ts'
import { regionColumn, type KmsParts } from './parts.ts'
import { keyArn, replicaRowId } from './reference.ts'
import { readExisting } from './key-record.ts'
import { checkTags } from './tags.ts'

export interface NewReplica {
  readonly region: string
  readonly description?: string | undefined
  readonly tags?: ReadonlyMap<string, string> | undefined
  /** The default key policy where absent: the primary's is its own. */
  readonly policy?: string | undefined
  /** Sees the key as it would be, and prevents it by throwing. */
  readonly accept?: ((created: KmsKey) => void) | undefined
}

export interface FamilyMember {
  readonly region: string
  readonly arn: string
  readonly type: 'PRIMARY' | 'REPLICA'
}

export class Replicas {
  readonly #parts: KmsParts

  constructor(parts: KmsParts) {
    this.#parts = parts
  }

  /** Every key that shares the material of this multi-Region key, itself too, in the order of regions. */
  async family(kmsKey: KmsKey): Promise<readonly FamilyMember[]> {
    const { catalog } = this.#parts
    const rows = await listFamily(catalog.db, kmsKey.keyId)
    return rows
      .map((row) => {
        const region = this.#regionOf(row)
        const arn = keyArn(kmsKey.keyId, { region, account: catalog.account })
        return { region, arn, type: row.multiRegion ?? 'PRIMARY' }
      })
      .sort((one, other) => (one.region < other.region ? -1 : 1))
  }

  /** Throws REPLICA_EXISTS, OPERATION_UNSUPPORTED, and what the primary's state forbids. */
  async replicate(primary: KmsKey, request: NewReplica): Promise<KmsKey> {
    const { catalog, registry, nowMs } = this.#parts
    const { region, description = '', tags = new Map<string, string>() } = request
    assertPrimary(primary)
    this.#checkRegion(region)
    if (region === primary.region) {
      throw new KeyfoldError('REQUEST_MALFORMED', `ReplicaRegion: ${primary.arn} is in it already`)
    }
    checkDescription(description)
    checkTags(tags)
    const id = replicaRowId(primary.keyId, region)
    return registry.create(
      id,
      async (transaction, changeNumber) => {
        const now = await readExisting(transaction, primary.id)
        assertPrimary({ ...primary, multiRegion: now.multiRegion ?? undefined })
        assertOperable('ReplicateKey', { ...primary, state: now.state as KmsKey['state'] })
        const family = await listFamily(transaction, primary.keyId)
        if (family.some((row) => this.#regionOf(row) === region)) {
          throw new KeyfoldError(
            'REPLICA_EXISTS',
            `Unable to replicate key ${primary.keyId} to region ${region}, as the key already exists there`,
          )
        }
        await catalogKeys.insertKey(transaction, {
          ...sharedBy(now),
          id,
          description,
          region: regionColumn(this.#parts, region),
          multiRegion: 'REPLICA',
          policy: request.policy ?? defaultKeyPolicy(catalog.account),
          deletionAtMs: null,
          pendingWindowDays: null,
          createdAtMs: nowMs(),
          changeNumber,
          tags: [...tags].map(([key, value]) => ({ key, value })),
        })
      },
      request.accept,
    )
  }

  /** The key of the family in this region. Throws KMS_KEY_NOT_FOUND. */
  relative({ keyId }: KmsKey, region: string): Promise<KmsKey> {
    this.#checkRegion(region)
    return this.#parts.registry.resolve(keyId, region)
  }

  /** From then on the replica is the primary, and the primary a replica. */
  async updatePrimaryRegion(primary: KmsKey, replica: KmsKey): Promise<void> {
    const { registry } = this.#parts
    if (replica.id === primary.id) {
      throw new KeyfoldError('REQUEST_MALFORMED', `PrimaryRegion: ${primary.arn} is in it already`)
    }
    await registry.change(
      primary.id,
      'UpdatePrimaryRegion',
      async (transaction, changeNumber, now) => {
        assertPrimary(now)
        const { state } = await readExisting(transaction, replica.id)
        assertOperable('UpdatePrimaryRegion', { ...replica, state: state as KmsKey['state'] })
        for (const [id, multiRegion] of [
          [primary.id, 'REPLICA'],
          [replica.id, 'PRIMARY'],
        ] as const) {
          await catalogKeys.updateKey(transaction, id, { multiRegion }, changeNumber)
        }
      },
    )
    registry.forget(replica.id)
  }

  #regionOf({ region }: FamilyRow): string {
    return region ?? this.#parts.catalog.region
  }

  #checkRegion(region: string): void {
    const { regions } = this.#parts.catalog
    if (regions.includes(region)) return
    throw new KeyfoldError(
      'REQUEST_MALFORMED',
      `${region} is no region that this server keeps keys in: ${regions.join(', ')}`,
    )
  }
}

/** What is one for the whole family; the material is, too, and stays with its first row. */
function sharedBy(primary: catalogKeys.StoredKey) {
  const { state, keySpec, keyUsage, origin, keyStore, currentVersion, manager } = primary
  const { externalKeyId, rotationPeriodDays, nextRotationAtMs } = primary
  return {
    ...{ state, keySpec, keyUsage, origin, keyStore, currentVersion, manager, externalKeyId },
    ...{ rotationPeriodDays, nextRotationAtMs, materials: [] },
  }
}

/** Throws OPERATION_UNSUPPORTED. */
export function assertPrimary({ arn, multiRegion }: Pick<KmsKey, 'arn' | 'multiRegion'>): void {
  if (multiRegion === 'PRIMARY') return
  throw new KeyfoldError('OPERATION_UNSUPPORTED', `${arn} is not a multi-Region primary key.`)
}
