/**
 * The catalog: what survives a restart. Embedded, it is a file in the data directory and belongs to one process; shared,
 * it is a PostgreSQL database on which any number of nodes work. Opening it runs the migrations and holds the region
 * and account against those that it was created with, for they stand in every ARN.
 *
 * Changes of all nodes come one after the other: each begins by adding 1 to one row, whose lock it holds until it is
 * committed. What a change then reads is therefore what the changes before it have left, and nothing that it decides
 * by can move under it.
 */
import { Kysely, type Dialect, type Transaction } from 'kysely'
import { join } from 'node:path'

import { KeyfoldError } from '../errors.ts'
import { CATALOG_CONNECTIONS_MAX, CATALOG_STATEMENT_MS_MAX } from '../limits.ts'
import { retryingConflicts } from './conflict.ts'
import { DestroyedLog, type DestroyedRecord } from './destroyed-log.ts'
import { DestroyedTable, scrubTable } from './destroyed-table.ts'
import { destroyAgain } from './destruction.ts'
import { migrate } from './migrations.ts'
import type { PostgresAddress } from './postgres-dialect.ts'
import type { CatalogTables } from './schema.ts'
import { scrubFiles, SqliteDialect } from './sqlite-dialect.ts'
import { Turns } from './turns.ts'

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
  /** Written before a transaction that destroys commits. */
  readonly destroyed: DestroyedRecord
  /** Leaves nothing of what was destroyed in the catalog's files; does nothing where there can be nothing. */
  scrub(): Promise<void>
  close(): Promise<void>
}

const FILE = 'catalog.sqlite'

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
  const { catalog: address } = options
  const db = new Kysely<CatalogTables>({
    dialect:
      address === undefined
        ? new SqliteDialect(join(options.dataDirectory, FILE))
        : await sharedDialect(address, {
            connectionsMax: CATALOG_CONNECTIONS_MAX,
            statementMsMax: CATALOG_STATEMENT_MS_MAX,
          }),
  })
  let log: DestroyedLog | undefined
  try {
    await retryingConflicts(() => migrate(db))
    await freezeIdentity(db, options)
    if (address !== undefined) {
      return await honouring(sharedCatalog(db, await DestroyedTable.open(db), options))
    }
    // Only now is the directory known to be nobody else's.
    log = await DestroyedLog.open(options.dataDirectory)
    return await honouring(embeddedCatalog(db, log, options))
  } catch (error) {
    await log?.close()
    await db.destroy()
    throw error
  }
}

/** What reads and writes a shared catalog loads only where there is one. */
async function sharedDialect(
  address: PostgresAddress,
  bounds: { readonly connectionsMax: number; readonly statementMsMax: number },
): Promise<Dialect> {
  const { SharedDialect } = await import('./postgres-dialect.ts')
  return new SharedDialect({ address, ...bounds })
}

function embeddedCatalog(
  db: Kysely<CatalogTables>,
  log: DestroyedLog,
  options: CatalogOptions,
): Catalog {
  return {
    ...partsOfAny(db, options),
    shared: false,
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

function sharedCatalog(
  db: Kysely<CatalogTables>,
  destroyed: DestroyedRecord,
  options: CatalogOptions,
): Catalog {
  const parts = partsOfAny(db, options)
  const turns = new Turns()
  return {
    ...parts,
    shared: true,
    change: (work) => turns.take(() => parts.change(work)),
    destroyed,
    scrub: () => scrubTable(db),
    close: () => db.destroy(),
  }
}

function partsOfAny(
  db: Kysely<CatalogTables>,
  { region, account, otherRegions = [] }: CatalogOptions,
): Pick<Catalog, 'db' | 'region' | 'account' | 'regions' | 'change' | 'write'> {
  const write: Catalog['write'] = (work) =>
    retryingConflicts(() =>
      // Spelled out: at a stricter level the first statement of a change, which waits for the change before it, would
      // fail for having waited. SQLite has one level only, the strictest.
      db.transaction().setIsolationLevel('read committed').execute(work),
    )
  return {
    db,
    region,
    account,
    regions: [region, ...otherRegions],
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
async function honouring(catalog: Catalog): Promise<Catalog> {
  const { destroyed } = catalog
  if (destroyed.isEmpty) return catalog
  const destroyedSome = await catalog.change((transaction, changeNumber) =>
    destroyAgain(transaction, destroyed, Date.now(), changeNumber),
  )
  if (destroyedSome) await destroyed.mustScrub(catalog.db)
  await catalog.scrub()
  return catalog
}

async function freezeIdentity(
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
