/**
 * The catalog: what survives a restart. Embedded, it is a file in the data directory and belongs to one process; shared,
 * it is a PostgreSQL database on which any number of nodes work. Opening it runs the migrations and holds the region
 * and account against those that it was created with, for they stand in every ARN.
 *
 * Changes of all nodes come one after the other: each begins by adding 1 to one row, whose lock it holds until it is
 * committed. What a change then reads is therefore what the changes before it have left, and nothing that it decides
 * by can move under it.
 */
import { Kysely, type Transaction } from 'kysely'
import { existsSync } from 'node:fs'
import { join } from 'node:path'

import { KeyfoldError } from '../errors.ts'
import { retryingConflicts } from './conflict.ts'
import { DestroyedLog, type DestroyedRecord } from './destroyed-log.ts'
import { destroyAgain } from './destruction.ts'
import { UNBOUNDED_LEASE, type Lease } from './lease.ts'
import type { MembershipCounters, MembershipOptions } from './membership.ts'
import { migrate } from './migrations.ts'
import type { PostgresAddress } from './postgres-dialect.ts'
import type { CatalogTables } from './schema.ts'
import { scrubFiles, SqliteDialect } from './sqlite-dialect.ts'

export type CatalogTransaction = Transaction<CatalogTables>

export interface Catalog {
  readonly db: Kysely<CatalogTables>
  readonly region: string
  readonly account: string
  /** The catalog's own region first, then those in which it keeps keys besides. */
  readonly regions: readonly string[]
  /** Other nodes may change it. */
  readonly shared: boolean
  /**
   * Runs a change: one transaction, which also adds 1 to the change number and hands it in. Committed and on disk
   * when the promise resolves. `work` may run again where another transaction came first.
   */
  change<T>(work: (transaction: CatalogTransaction, changeNumber: number) => Promise<T>): Promise<T>
  /** A transaction that changes nothing that nodes remember. */
  write<T>(work: (transaction: CatalogTransaction) => Promise<T>): Promise<T>
  /**
   * Resolves when no node works any more by what was before the last change of this process. Throws CATALOG_UNAVAILABLE
   * where that could not be learned; the change stands nevertheless.
   */
  acknowledged(): Promise<void>
  /** This process follows the changes of others from now on, and its lease has an end. */
  join(options: JoinOptions): Promise<void>
  /** How long what is remembered of the catalog may be acted on. */
  readonly lease: Lease
  /** Every change up to this number is in force in this process. */
  readonly followed: number
  /** Of a shared catalog that was joined. */
  readonly counters: (MembershipCounters & { readonly lagMs: number }) | undefined
  /** Written before a transaction that destroys commits. */
  readonly destroyed: DestroyedRecord
  /** Leaves nothing of what was destroyed in the catalog's files; does nothing where there can be nothing. */
  scrub(): Promise<void>
  close(): Promise<void>
}

export type JoinOptions = Pick<MembershipOptions, 'follower' | 'rootVersion' | 'clockMs' | 'log'>

const FILE = 'catalog.sqlite'

/** Whether an embedded catalog is in this data directory; opening it makes one. */
export function isCatalogIn(dataDirectory: string): boolean {
  return existsSync(join(dataDirectory, FILE))
}

export interface CatalogOptions {
  readonly dataDirectory: string
  /** Of a shared catalog; absent, it is embedded. */
  readonly catalog?: PostgresAddress | undefined
  readonly region: string
  readonly account: string
  readonly otherRegions?: readonly string[]
}

/** Errors: CATALOG_UNAVAILABLE, CONFIG_INVALID. */
export async function openCatalog(options: CatalogOptions): Promise<Catalog> {
  if (options.catalog !== undefined) {
    // What speaks to a database loads only where there is one.
    const { openSharedCatalog } = await import('./shared-catalog.ts')
    return openSharedCatalog(options.catalog, options)
  }
  const db = new Kysely<CatalogTables>({
    dialect: new SqliteDialect(join(options.dataDirectory, FILE)),
  })
  let log: DestroyedLog | undefined
  try {
    await migrate(db)
    await freezeIdentity(db, options)
    // Only now is the directory known to be nobody else's.
    log = await DestroyedLog.open(options.dataDirectory)
    return await honouring(embeddedCatalog(db, log, options))
  } catch (error) {
    await log?.close()
    await db.destroy()
    throw error
  }
}

function embeddedCatalog(
  db: Kysely<CatalogTables>,
  log: DestroyedLog,
  { region, account, otherRegions = [] }: CatalogOptions,
): Catalog {
  return {
    db,
    region,
    account,
    regions: [region, ...otherRegions],
    shared: false,
    ...changesOf(db),
    // Nobody else remembers anything.
    acknowledged: () => Promise.resolve(),
    join: () => Promise.resolve(),
    lease: UNBOUNDED_LEASE,
    followed: Infinity,
    counters: undefined,
    destroyed: log,
    scrub: async () => {
      if (!log.needsScrub) return
      await scrubFiles(db)
      await log.recordScrubbed()
    },
    close: async () => {
      await db.destroy()
      await log.close()
    },
  }
}

export function changesOf(db: Kysely<CatalogTables>): Pick<Catalog, 'change' | 'write'> {
  const write: Catalog['write'] = (work) =>
    retryingConflicts(() =>
      // Spelled out: at a stricter level the first statement of a change, which waits for the change before it, would
      // fail for having waited. SQLite has one level only, the strictest.
      db.transaction().setIsolationLevel('read committed').execute(work),
    )
  return {
    write,
    change: (work) =>
      write(async (transaction) => {
        const { number } = await transaction
          .updateTable('changes')
          .set((expression) => ({ number: expression('number', '+', 1) }))
          .returning('number')
          .executeTakeFirstOrThrow()
        return work(transaction, number)
      }),
  }
}

/** This catalog may be a copy from before something was destroyed, or a crash came between the log and the commit. */
export async function honouring(catalog: Catalog): Promise<Catalog> {
  const { destroyed } = catalog
  if (destroyed.isEmpty) return catalog
  const destroyedSome = await catalog.change((transaction, changeNumber) =>
    destroyAgain(transaction, destroyed, Date.now(), changeNumber),
  )
  if (destroyedSome) await destroyed.mustScrub(catalog.db)
  await catalog.scrub()
  return catalog
}

export async function freezeIdentity(
  db: Kysely<CatalogTables>,
  { region, account }: { readonly region: string; readonly account: string },
): Promise<void> {
  await db
    .insertInto('catalog')
    .values({ id: 1, region, account, createdAtMs: Date.now() })
    .onConflict((conflict) => conflict.column('id').doNothing())
    .execute()
  const frozen = await db.selectFrom('catalog').selectAll().executeTakeFirstOrThrow()
  if (frozen.region !== region || frozen.account !== account) {
    throw new KeyfoldError(
      'CONFIG_INVALID',
      `this catalog belongs to region ${frozen.region} and account ${frozen.account}, ` +
        `not to ${region} and ${account}: they stand in every ARN and cannot change`,
    )
  }
}
