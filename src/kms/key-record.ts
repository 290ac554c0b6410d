/**
 * From what the catalog has of a KMS key to its record, and what of two records is the same. The rows say how the key was
 * left; where it is, and whether its key store can be reached, is of this process.
 */
import type { Catalog } from '../catalog/catalog.ts'
import type { StoredGrant } from '../catalog/grants.ts'
import { readKey, type StoredKey } from '../catalog/keys.ts'
import type { KeySpec, KeyUsage } from '../crypto/key-spec.ts'
import { KeyfoldError } from '../errors.ts'
import type { KeyMaterial } from '../key-stores/key-store.ts'
import type { Grant, KeyOrigin, KeyState, KmsKey } from './kms-key.ts'
import { keyArn, keyIdBytes, type Location } from './reference.ts'

/** Of a key that is there; one that was deleted is there no more, though its tombstone is. */
export async function readExisting(db: Catalog['db'], id: string): Promise<StoredKey> {
  const stored = await readKey(db, id)
  if (stored === undefined || stored.state === 'Deleted') {
    throw new KeyfoldError('KMS_KEY_NOT_FOUND')
  }
  return stored
}

/** `isConnected`: whether the key store that holds it is. `location`: the catalog's own. */
export function recordOf(
  stored: StoredKey,
  {
    grants,
    epoch,
    isConnected,
    location,
  }: {
    readonly grants: readonly Grant[]
    readonly epoch: number
    readonly isConnected: boolean
    readonly location: Location
  },
): KmsKey {
  const [keyId = stored.id] = stored.id.split('@')
  const idBytes = keyIdBytes(keyId)
  const region = stored.region ?? location.region
  return Object.freeze({
    id: stored.id,
    keyId,
    idBytes,
    region,
    arn: keyArn(keyId, { region, account: location.account }),
    state: stateOf(stored.state as KeyState, { isConnected }),
    keySpec: stored.keySpec as KeySpec,
    keyUsage: stored.keyUsage as KeyUsage,
    origin: stored.origin as KeyOrigin,
    manager: stored.manager,
    multiRegion: stored.multiRegion ?? undefined,
    policy: stored.policy,
    grants,
    aliases: stored.aliases.map((row) => row.split('@')[0] as string),
    description: stored.description,
    createdAtMs: stored.createdAtMs,
    deletionAtMs: stored.deletionAtMs ?? undefined,
    pendingWindowDays: stored.pendingWindowDays ?? undefined,
    rotationPeriodDays: stored.rotationPeriodDays ?? undefined,
    nextRotationAtMs: stored.nextRotationAtMs ?? undefined,
    keyStore: stored.keyStore,
    externalKeyId: stored.externalKeyId ?? undefined,
    currentVersion: stored.currentVersion,
    materials: new Map(
      stored.materials.map((material) => [
        material.version,
        {
          kmsKeyId: idBytes,
          version: material.version,
          keySpec: stored.keySpec as KeySpec,
          stored: material.stored,
          publicKey: material.publicKey ?? undefined,
        },
      ]),
    ),
    materialValidToMs: earliest(stored.materials),
    tags: new Map(stored.tags.map(({ key, value }) => [key, value])),
    epoch,
  })
}

/**
 * AWS KMS Developer Guide, "Key states": a key in a disconnected key store is Unavailable, whether it was switched on
 * or off; one that waits for its deletion goes on doing so.
 */
export function stateOf(
  state: KeyState,
  { isConnected }: { readonly isConnected: boolean },
): KeyState {
  const isSwitched = state === 'Enabled' || state === 'Disabled'
  return isSwitched && !isConnected ? 'Unavailable' : state
}

function earliest(materials: StoredKey['materials']): number | undefined {
  const moments = materials.map(({ validToMs }) => validToMs).filter((moment) => moment !== null)
  return moments.length === 0 ? undefined : Math.min(...moments)
}

export function grantOf(stored: StoredGrant): Grant {
  const { id, granteePrincipal, operations, constraints, createdAtMs } = stored
  const pairsOf = (pairs: Readonly<Record<string, string>> | undefined) =>
    pairs === undefined ? undefined : new Map(Object.entries(pairs))
  return {
    id,
    granteePrincipal,
    retiringPrincipal: stored.retiringPrincipal ?? undefined,
    operations,
    constraints: { equals: pairsOf(constraints.equals), subset: pairsOf(constraints.subset) },
    name: stored.name ?? undefined,
    createdAtMs,
  }
}

/** Whether what wraps and unwraps is what it was: state, material and all of its versions. */
export function isSameMaterial(before: KmsKey, after: KmsKey): boolean {
  return (
    before.state === after.state &&
    before.currentVersion === after.currentVersion &&
    holdsSame(before, after.materials.values())
  )
}

type Materials = Iterable<Pick<KeyMaterial, 'version' | 'stored'>>

/** The same versions, to the byte: material may be destroyed and imported anew under one number. */
export function holdsSame({ materials }: KmsKey, others: Materials): boolean {
  let count = 0
  for (const { version, stored } of others) {
    const known = materials.get(version)
    if (known === undefined || Buffer.compare(known.stored, stored) !== 0) return false
    count++
  }
  return count === materials.size
}
