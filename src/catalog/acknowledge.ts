/**
 * Waiting until no node works any more by what was before a change: each has confirmed it, or has no lease. How a lease
 * is known to be out stands in membership.ts.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Kysely } from 'kysely'

import { KeyfoldError } from '../errors.ts'
import {
  CATALOG_ACKNOWLEDGE_MS,
  CATALOG_ACKNOWLEDGE_MS_MAX,
  CATALOG_LEASE_OVER_MS,
} from '../limits.ts'
import { readBehind, removeNode } from './nodes.ts'
import type { CatalogTables } from './schema.ts'

/** How a node's row was seen last, and since when it is so. */
interface Seen {
  readonly renewals: number
  readonly sinceMs: number
}

/**
 * `ownId`: a node that need not confirm, for it has made the change. Throws CATALOG_UNAVAILABLE where the change stands
 * but it could not be learned in time whether all follow it.
 */
export async function waitUntilConfirmed(
  db: Kysely<CatalogTables>,
  changeNumber: number,
  ownId: string,
): Promise<void> {
  // Too short where the machine sleeps meanwhile: then it takes longer, and is as safe.
  const startedMs = performance.now()
  const seen = new Map<string, Seen>()
  for (;;) {
    const behind = (await readBehind(db, changeNumber)).filter(({ id }) => id !== ownId)
    if (behind.length === 0) return
    // After the rows were read: the polls that wrote them had begun before.
    const nowMs = performance.now()
    for (const node of behind) {
      const before = seen.get(node.id)
      if (before?.renewals !== node.renewals) {
        seen.set(node.id, { renewals: node.renewals, sinceMs: nowMs })
      } else if (nowMs - before.sinceMs >= CATALOG_LEASE_OVER_MS) {
        await removeNode(db, node)
      }
    }
    if (nowMs - startedMs > CATALOG_ACKNOWLEDGE_MS_MAX) {
      throw new KeyfoldError(
        'CATALOG_UNAVAILABLE',
        'the change is made, but not every node has confirmed it yet',
      )
    }
    await sleep(CATALOG_ACKNOWLEDGE_MS)
  }
}
