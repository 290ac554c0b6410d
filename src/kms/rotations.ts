/**
 * Rotation: new material for a key, by a period or on demand; what older versions wrapped still unwraps. Replicas of a
 * multi-Region key share the material and the schedule, and both are changed at the primary only.
 */
import type { CatalogTransaction } from '../catalog/catalog.ts'
import * as catalogKeys from '../catalog/keys.ts'
import { readDueRotations, type DuePage } from '../catalog/due.ts'
import { KeyfoldError } from '../errors.ts'
import {
  DAY_MS,
  ROTATION_CONFLICT_MS,
  ROTATION_PERIOD_DAYS_DEFAULT,
  ROTATION_PERIOD_DAYS_MAX,
  ROTATION_PERIOD_DAYS_MIN,
  ROTATIONS_ON_DEMAND_MAX,
} from '../limits.ts'
import { assertOperable } from './key-states.ts'
import type { KmsKey } from './kms-key.ts'
import { pageLimit, pageOf, type KmsParts, type Page, type PageRequest } from './parts.ts'
import { materialId } from './reference.ts'

export type RotationType = 'AUTOMATIC' | 'ON_DEMAND'

/** undefined where the key is not rotated by itself, or waits for its deletion. */
export interface RotationSchedule {
  readonly periodDays: number
  readonly nextAtMs: number
}

/** One version of a key's material. */
export interface RotationEntry {
  readonly version: number
  readonly keyMaterialId: string
  readonly state: 'CURRENT' | 'NON_CURRENT' | 'PENDING_ROTATION'
  /** undefined: it came with the key, or was imported and not rotated to yet. */
  readonly rotation: { readonly type: RotationType; readonly atMs: number } | undefined
  /** Of keys whose material is imported. */
  readonly imported:
    | {
        readonly present: boolean
        readonly validToMs: number | undefined
        readonly description: string | undefined
      }
    | undefined
}

/** May refuse, and says what changes besides the version. */
type RotationCheck = (
  transaction: CatalogTransaction,
  now: KmsKey,
) => Promise<{ readonly nextRotationAtMs?: number }>

export class Rotations {
  readonly #parts: KmsParts

  constructor(parts: KmsParts) {
    this.#parts = parts
  }

  /** The first rotation is a period from now. Asked again with the same period it leaves the schedule as it is. */
  enable(reference: string, periodDays: number = ROTATION_PERIOD_DAYS_DEFAULT): Promise<KmsKey> {
    checkPeriod(periodDays)
    const nextRotationAtMs = this.#parts.nowMs() + periodDays * DAY_MS
    return this.#configure(reference, 'EnableKeyRotation', (now) =>
      now.rotationPeriodDays === periodDays
        ? {}
        : { rotationPeriodDays: periodDays, nextRotationAtMs },
    )
  }

  disable(reference: string): Promise<KmsKey> {
    return this.#configure(reference, 'DisableKeyRotation', () => ({
      rotationPeriodDays: null,
      nextRotationAtMs: null,
    }))
  }

  /** Throws KMS_KEY_ROTATING, LIMIT_EXCEEDED, OPERATION_UNSUPPORTED and what states forbid. */
  async rotateOnDemand(reference: string): Promise<KmsKey> {
    const { nowMs } = this.#parts
    const kmsKey = await this.#parts.registry.resolve(reference)
    assertOperable('RotateKeyOnDemand', kmsKey)
    assertRotatedByCallers(kmsKey)
    return this.#rotate(kmsKey, 'ON_DEMAND', async (transaction, now) => {
      if (nowMs() + ROTATION_CONFLICT_MS >= (now.nextRotationAtMs ?? Infinity)) {
        throw new KeyfoldError('KMS_KEY_ROTATING', 'its automatic rotation is due within minutes')
      }
      const owner = catalogKeys.materialOwner(now.id)
      const count = await catalogKeys.countRotationsOnDemand(transaction, owner)
      if (count >= ROTATIONS_ON_DEMAND_MAX) {
        throw new KeyfoldError(
          'LIMIT_EXCEEDED',
          'The on-demand rotations limit has been reached for the given keyId. ' +
            `No more on-demand rotations can be performed for this key: ${now.arn}`,
        )
      }
      return {}
    })
  }

  // What the scheduler asks.

  due(page: DuePage): Promise<readonly string[]> {
    return readDueRotations(this.#parts.catalog.db, page)
  }

  /** The automatic rotation of the key in this row; false where it is not due, or not any more. */
  async finish(id: string): Promise<boolean> {
    const { registry } = this.#parts
    const kmsKey = await registry.load(id)
    if (!this.#isDue(kmsKey)) return false
    try {
      return await this.#rotateIfFirst(kmsKey, async (_transaction, now) => {
        if (!this.#isDue(now)) throw new KeyfoldError('KMS_KEY_ROTATING')
        // From the rotation, not from when it was due: a server that slept for years makes up for one of them.
        return { nextRotationAtMs: this.#parts.nowMs() + now.rotationPeriodDays * DAY_MS }
      })
    } catch (error) {
      // The key is not to be rotated any more.
      if (!this.#isDue(await registry.load(id))) return false
      throw error
    }
  }

  /** A rotation that something else than its period asks for; the period counts from here. False where it does not. */
  async rotateWhere(
    id: string,
    isDue: (transaction: CatalogTransaction) => Promise<boolean>,
  ): Promise<boolean> {
    const kmsKey = await this.#parts.registry.load(id)
    return this.#rotateIfFirst(kmsKey, async (transaction, { rotationPeriodDays }) => {
      if (!(await isDue(transaction))) throw new KeyfoldError('KMS_KEY_ROTATING')
      return rotationPeriodDays === undefined
        ? {}
        : { nextRotationAtMs: this.#parts.nowMs() + rotationPeriodDays * DAY_MS }
    })
  }

  /** False where another node has done it, or it is not to be done any more. */
  async #rotateIfFirst(kmsKey: KmsKey, check: RotationCheck): Promise<boolean> {
    try {
      await this.#rotate(kmsKey, 'AUTOMATIC', check)
      return true
    } catch (error) {
      if (error instanceof KeyfoldError && error.code === 'KMS_KEY_ROTATING') return false
      throw error
    }
  }

  #isDue<K extends KmsKey>(kmsKey: K): kmsKey is K & { readonly rotationPeriodDays: number } {
    const { state, multiRegion, rotationPeriodDays, nextRotationAtMs } = kmsKey
    return (
      state === 'Enabled' &&
      multiRegion !== 'REPLICA' &&
      rotationPeriodDays !== undefined &&
      nextRotationAtMs !== undefined &&
      nextRotationAtMs <= this.#parts.nowMs()
    )
  }

  /** Rotations in their order, or all versions of the material. */
  async list(
    reference: string,
    request: PageRequest & { readonly allMaterial?: boolean | undefined } = {},
  ): Promise<Page<RotationEntry>> {
    const { catalog, registry } = this.#parts
    const limit = pageLimit(request.limit)
    const afterVersion = request.marker === undefined ? 0 : versionOfMarker(request.marker)
    const kmsKey = await registry.resolve(reference)
    assertOperable('ListKeyRotations', kmsKey)
    assertSymmetric(kmsKey)
    const rows = await catalogKeys.listMaterials(catalog.db, catalogKeys.materialOwner(kmsKey.id), {
      afterVersion,
      limit: limit + 1,
      rotationsOnly: request.allMaterial !== true,
    })
    const entries = rows.map((row) => entryOf(kmsKey, row))
    return pageOf(entries, limit, ({ version }) => String(version))
  }

  async #configure(
    reference: string,
    operation: 'EnableKeyRotation' | 'DisableKeyRotation',
    changeOf: (now: KmsKey) => Parameters<typeof catalogKeys.updateKey>[2],
  ): Promise<KmsKey> {
    const { registry } = this.#parts
    const { id } = await registry.resolve(reference)
    const kmsKey = await registry.change(id, operation, async (transaction, changeNumber, now) => {
      assertRotatedByCallers(now)
      await updateFamily(transaction, id, changeOf(now), changeNumber)
    })
    registry.forgetRelatives(kmsKey)
    return kmsKey
  }

  async #rotate(kmsKey: KmsKey, rotation: RotationType, check: RotationCheck): Promise<KmsKey> {
    const { registry, keyStores, nowMs } = this.#parts
    const version = kmsKey.currentVersion + 1
    const store = keyStores.storeOf(kmsKey)
    if (!store.traits.rotates) {
      throw new KeyfoldError(
        'OPERATION_UNSUPPORTED',
        `the key store of ${kmsKey.arn} rotates no keys.`,
      )
    }
    const { idBytes, keySpec, keyUsage } = kmsKey
    const material = await store.createKeyMaterial(idBytes, version, keySpec, undefined, keyUsage)
    const rotated = await registry.change(
      kmsKey.id,
      'RotateKeyOnDemand',
      async (transaction, changeNumber, now) => {
        assertRotatable(now)
        const change = await check(transaction, now)
        // Another rotation came first, and this version number is taken: numbers are never used twice.
        if (now.currentVersion !== kmsKey.currentVersion) throw new KeyfoldError('KMS_KEY_ROTATING')
        await catalogKeys.insertMaterial(transaction, {
          kmsKeyId: catalogKeys.materialOwner(kmsKey.id),
          ...catalogKeys.storedMaterial(version, material),
          createdAtMs: nowMs(),
          rotation,
        })
        const changes = { ...change, currentVersion: version }
        await updateFamily(transaction, kmsKey.id, changes, changeNumber)
      },
    )
    registry.forgetRelatives(rotated)
    return rotated
  }
}

/** AWS KMS: while a key waits for its deletion, its rotation status is off; when that is cancelled it is back. */
export function rotationScheduleOf({
  state,
  rotationPeriodDays,
  nextRotationAtMs,
}: KmsKey): RotationSchedule | undefined {
  const waits = state === 'PendingDeletion' || state === 'PendingReplicaDeletion'
  if (waits || rotationPeriodDays === undefined || nextRotationAtMs === undefined) return undefined
  return { periodDays: rotationPeriodDays, nextAtMs: nextRotationAtMs }
}

async function updateFamily(
  transaction: CatalogTransaction,
  id: string,
  change: Parameters<typeof catalogKeys.updateKey>[2],
  changeNumber: number,
): Promise<void> {
  const family = await catalogKeys.readFamily(transaction, id)
  const ids = family.map((member) => member.id)
  await catalogKeys.updateKeys(transaction, ids, change, changeNumber)
}

/** Throws OPERATION_UNSUPPORTED: AWS KMS leaves keys of its custom key stores to whoever keeps them. */
function assertRotatedByCallers(kmsKey: KmsKey): void {
  assertRotatable(kmsKey)
  if (kmsKey.origin !== 'AWS_KMS') throw originUnsupported(kmsKey)
}

/** Throws OPERATION_UNSUPPORTED: only symmetric keys whose material is not imported, and at their primary. */
function assertRotatable(kmsKey: KmsKey): void {
  const { arn, origin, multiRegion } = kmsKey
  assertSymmetric(kmsKey)
  if (origin === 'EXTERNAL') throw originUnsupported(kmsKey)
  if (multiRegion === 'REPLICA') {
    throw new KeyfoldError(
      'OPERATION_UNSUPPORTED',
      `${arn} is a multi-Region replica key, which takes its rotation from its primary key.`,
    )
  }
}

function originUnsupported({ arn, origin }: KmsKey): KeyfoldError {
  return new KeyfoldError(
    'OPERATION_UNSUPPORTED',
    `${arn} origin is ${origin} which is not valid for this operation.`,
  )
}

function assertSymmetric({ arn, keySpec }: KmsKey): void {
  if (keySpec === 'SYMMETRIC_DEFAULT') return
  throw new KeyfoldError(
    'OPERATION_UNSUPPORTED',
    `${arn} key spec is ${keySpec} which is not valid for this operation.`,
  )
}

function checkPeriod(days: number): void {
  const inBounds = days >= ROTATION_PERIOD_DAYS_MIN && days <= ROTATION_PERIOD_DAYS_MAX
  if (Number.isInteger(days) && inBounds) return
  throw new KeyfoldError(
    'REQUEST_MALFORMED',
    `periodDays: ${ROTATION_PERIOD_DAYS_MIN} to ${ROTATION_PERIOD_DAYS_MAX} days`,
  )
}

function versionOfMarker(marker: string): number {
  if (!/^[1-9]\d{0,9}$/.test(marker)) throw new KeyfoldError('MARKER_INVALID')
  return Number(marker)
}

function entryOf(kmsKey: KmsKey, row: catalogKeys.MaterialRow): RotationEntry {
  const { version, rotation } = row
  const { currentVersion, origin } = kmsKey
  return {
    version,
    keyMaterialId: materialId(kmsKey, version),
    state:
      version === currentVersion
        ? 'CURRENT'
        : version < currentVersion
          ? 'NON_CURRENT'
          : 'PENDING_ROTATION',
    rotation: rotation === null ? undefined : { type: rotation, atMs: row.createdAtMs },
    imported:
      origin === 'EXTERNAL'
        ? {
            present: row.destroyedAtMs === null,
            validToMs: row.validToMs ?? undefined,
            description: row.description ?? undefined,
          }
        : undefined,
  }
}
