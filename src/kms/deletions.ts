/**
 * The end of a KMS key: its deletion is scheduled, may be cancelled while the waiting period runs, and is carried out
 * after it. The material goes with the last key of its family, and then for good: what is destroyed stands in a log
 * that every catalog is held against when it is opened.
 */
import type { CatalogTransaction } from '../catalog/catalog.ts'
import { destroyMaterials, eraseKey } from '../catalog/destruction.ts'
import { readDueDeletions, type DuePage } from '../catalog/due.ts'
import * as catalogKeys from '../catalog/keys.ts'
import { KeyfoldError } from '../errors.ts'
import {
  DAY_MS,
  PENDING_WINDOW_DAYS_DEFAULT,
  PENDING_WINDOW_DAYS_MAX,
  PENDING_WINDOW_DAYS_MIN,
} from '../limits.ts'
import type { KmsKey } from './kms-key.ts'
import type { KmsParts } from './parts.ts'

export class Deletions {
  readonly #parts: KmsParts

  constructor(parts: KmsParts) {
    this.#parts = parts
  }

  /** A primary key with replicas waits for their end first; its own waiting period begins when the last one is gone. */
  async schedule(
    reference: string,
    windowDays: number = PENDING_WINDOW_DAYS_DEFAULT,
  ): Promise<KmsKey> {
    const { registry } = this.#parts
    checkWindow(windowDays)
    const { id } = await registry.resolve(reference)
    return registry.change(id, 'ScheduleKeyDeletion', async (transaction, changeNumber, now) => {
      const others = now.multiRegion === 'PRIMARY' ? await relativesOf(transaction, id) : []
      const change =
        others.length > 0
          ? ({ state: 'PendingReplicaDeletion', pendingWindowDays: windowDays } as const)
          : this.#waiting(windowDays)
      await catalogKeys.updateKey(transaction, id, change, changeNumber)
    })
  }

  /** Until the last moment of the waiting period. The key lands in Disabled. */
  async cancel(reference: string): Promise<KmsKey> {
    const { catalog, registry, nowMs } = this.#parts
    const { id } = await registry.resolve(reference)
    return registry.change(id, 'CancelKeyDeletion', async (transaction, changeNumber, now) => {
      // The log may know of a destruction whose transaction failed: it is carried out all the same.
      const isOver = (now.deletionAtMs ?? Infinity) <= nowMs()
      if (isOver || catalog.destroyed.keys.has(now.keyId))
        throw new KeyfoldError('KMS_KEY_NOT_FOUND')
      const state = (await lacksMaterial(transaction, now)) ? 'PendingImport' : 'Disabled'
      const change = { state, deletionAtMs: null, pendingWindowDays: null } as const
      await catalogKeys.updateKey(transaction, id, change, changeNumber)
    })
  }

  // What the scheduler asks.

  due(page: DuePage): Promise<readonly string[]> {
    return readDueDeletions(this.#parts.catalog.db, page)
  }

  /** Carries the deletion of the key in this row out; false where it is not due, or not any more. */
  async finish(id: string): Promise<boolean> {
    const { catalog, registry, nowMs } = this.#parts
    let primary: string | undefined
    const done = await registry.remove(id, async (transaction, changeNumber, now) => {
      const { state, deletionAtMs = Infinity, keyId } = now
      if (state !== 'PendingDeletion' || deletionAtMs > nowMs()) return false
      const others = await relativesOf(transaction, id)
      if (others.length === 0) {
        await catalog.destroyed.recordKey(keyId, transaction)
        await destroyMaterials(transaction, keyId, nowMs())
      }
      await eraseKey(transaction, id, changeNumber)
      primary = await this.#beginWaiting(transaction, others, changeNumber)
      return true
    })
    if (primary !== undefined) registry.forget(primary)
    return done
  }

  /** Of a primary that waited for its replicas, when none of them is left. Answers its row. */
  async #beginWaiting(
    transaction: CatalogTransaction,
    family: readonly Relative[],
    changeNumber: number,
  ): Promise<string | undefined> {
    const [only] = family
    if (only?.state !== 'PendingReplicaDeletion' || family.length > 1) return undefined
    const change = this.#waiting(only.pendingWindowDays ?? PENDING_WINDOW_DAYS_DEFAULT)
    await catalogKeys.updateKey(transaction, only.id, change, changeNumber)
    return only.id
  }

  #waiting(windowDays: number) {
    return {
      state: 'PendingDeletion',
      deletionAtMs: this.#parts.nowMs() + windowDays * DAY_MS,
      pendingWindowDays: windowDays,
    } as const
  }
}

type Relative = Awaited<ReturnType<typeof catalogKeys.readFamily>>[number]

async function relativesOf(
  transaction: CatalogTransaction,
  id: string,
): Promise<readonly Relative[]> {
  const family = await catalogKeys.readFamily(transaction, id)
  return family.filter((member) => member.id !== id)
}

/** Imported material may be missing, or have expired while the key waited. */
async function lacksMaterial(transaction: CatalogTransaction, now: KmsKey): Promise<boolean> {
  if (now.origin !== 'EXTERNAL') return false
  if (!now.materials.has(now.currentVersion)) return true
  const rows = await catalogKeys.listMaterials(transaction, catalogKeys.materialOwner(now.id), {
    afterVersion: 0,
    limit: now.currentVersion,
    rotationsOnly: false,
  })
  return rows.some(
    ({ version, destroyedAtMs }) => version <= now.currentVersion && destroyedAtMs !== null,
  )
}

function checkWindow(days: number): void {
  const inBounds = days >= PENDING_WINDOW_DAYS_MIN && days <= PENDING_WINDOW_DAYS_MAX
  if (Number.isInteger(days) && inBounds) return
  throw new KeyfoldError(
    'REQUEST_MALFORMED',
    `pendingWindowDays: ${PENDING_WINDOW_DAYS_MIN} to ${PENDING_WINDOW_DAYS_MAX} days`,
  )
}
