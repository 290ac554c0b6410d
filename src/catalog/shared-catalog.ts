/** The shared catalog: a PostgreSQL database, and this process as one of the nodes on it once it has joined. */
import { randomBytes } from 'node:crypto'
import { Kysely } from 'kysely'

import { KeyfoldError, reasonOf } from '../errors.ts'
import { CATALOG_CONNECTIONS_MAX, CATALOG_LEASE_MS, CATALOG_STATEMENT_MS_MAX } from '../limits.ts'
import { waitUntilConfirmed } from './acknowledge.ts'
import {
  changesOf,
  freezeIdentity,
  honouring,
  type Catalog,
  type CatalogOptions,
  type JoinOptions,
} from './catalog.ts'
import { retryingConflicts } from './conflict.ts'
import { DestroyedTable, scrubTable } from './destroyed-table.ts'
import { UNBOUNDED_LEASE, type Lease } from './lease.ts'
import { Membership, type MembershipCounters } from './membership.ts'
import { assertMigrationsUnderstood, migrate } from './migrations.ts'
import { Hints, SharedDialect, type PostgresAddress } from './postgres-dialect.ts'
import type { CatalogTables } from './schema.ts'
import { Turns } from './turns.ts'

/** Errors: CATALOG_UNAVAILABLE, CONFIG_INVALID. */
export async function openSharedCatalog(
  address: PostgresAddress,
  options: CatalogOptions,
): Promise<Catalog> {
  const db = open(address, CATALOG_CONNECTIONS_MAX, CATALOG_STATEMENT_MS_MAX)
  try {
    const stopsOthers = await retryingConflicts(() => migrate(db))
    await freezeIdentity(db, options)
    const catalog = new SharedCatalog(address, db, await DestroyedTable.open(db), options)
    // What runs of before is no node any more when this one begins.
    if (stopsOthers) await catalog.change(async () => undefined)
    await catalog.acknowledged()
    return await honouring(catalog)
  } catch (error) {
    await db.destroy()
    throw withReason(error)
  }
}

/** Whoever opens a catalog runs it, and may know who it is and why it does not answer. */
function withReason(error: unknown): unknown {
  if (!(error instanceof KeyfoldError) || error.cause === undefined) return error
  return new KeyfoldError(error.code, reasonOf(error.cause), error.cause)
}

function open(
  address: PostgresAddress,
  connectionsMax: number,
  statementMsMax: number,
): Kysely<CatalogTables> {
  const dialect = new SharedDialect({ address, connectionsMax, statementMsMax })
  return new Kysely<CatalogTables>({ dialect })
}

class SharedCatalog implements Catalog {
  readonly shared = true
  readonly db: Kysely<CatalogTables>
  readonly region: string
  readonly account: string
  readonly regions: readonly string[]
  readonly destroyed: DestroyedTable
  readonly write: Catalog['write']
  readonly #address: PostgresAddress
  readonly #nodeId = randomBytes(12).toString('hex')
  readonly #turns = new Turns()
  readonly #changeNow: Catalog['change']
  readonly #hints: Hints
  #membership: Membership | undefined
  #memberDb: Kysely<CatalogTables> | undefined
  /** The latest change of this process, and the latest that every other node has confirmed. */
  #changed = 0
  #confirmed = 0
  #confirming: Promise<void> | undefined

  constructor(
    address: PostgresAddress,
    db: Kysely<CatalogTables>,
    destroyed: DestroyedTable,
    options: CatalogOptions,
  ) {
    const { region, account, otherRegions = [] } = options
    this.db = db
    this.region = region
    this.account = account
    this.regions = [region, ...otherRegions]
    this.destroyed = destroyed
    const { write, change } = changesOf(db)
    this.write = write
    this.#changeNow = change
    this.#address = address
    this.#hints = new Hints(address, () => this.#membership?.poll())
  }

  get lease(): Lease {
    return this.#membership?.lease ?? UNBOUNDED_LEASE
  }

  get followed(): number {
    return this.#membership?.counters.changeNumber ?? 0
  }

  get counters(): MembershipCounters & { readonly lagMs: number } {
    const { counters, lagMs } = this.#membership as Membership
    return { ...counters, lagMs }
  }

  async change<T>(work: Parameters<Catalog['change']>[0]): Promise<T> {
    return this.#turns.take(async () => {
      let committed = 0
      const result = await this.#changeNow((transaction, changeNumber) => {
        committed = changeNumber
        return work(transaction, changeNumber)
      })
      this.#changed = Math.max(this.#changed, committed)
      this.#hints.send()
      return result as T
    })
  }

  async acknowledged(): Promise<void> {
    const wanted = this.#changed
    while (this.#confirmed < wanted) {
      this.#confirming ??= this.#confirm(this.#changed)
      await this.#confirming
    }
  }

  async #confirm(changeNumber: number): Promise<void> {
    try {
      await waitUntilConfirmed(this.db, changeNumber, this.#nodeId)
      this.#confirmed = changeNumber
    } finally {
      this.#confirming = undefined
    }
  }

  async join({ follower, rootVersion, clockMs, log }: JoinOptions): Promise<void> {
    // Of its own: no change that waits keeps the lease from being renewed.
    this.#memberDb = open(this.#address, 1, CATALOG_LEASE_MS)
    this.#membership = await Membership.join({
      id: this.#nodeId,
      db: this.#memberDb,
      follower: {
        follow: async (since, number) => {
          await assertMigrationsUnderstood(this.db)
          await follower.follow(since, number)
          // Not waited for: a lease that needs no hint does not end for want of one.
          void this.#hints.listen()
        },
      },
      rootVersion,
      clockMs,
      log,
    })
  }

  scrub(): Promise<void> {
    return scrubTable(this.db)
  }

  async close(): Promise<void> {
    await this.#membership?.leave()
    this.#hints.close()
    await this.#memberDb?.destroy()
    await this.db.destroy()
  }
}
