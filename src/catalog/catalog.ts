/**
 * The catalog: what survives a restart. Opening it runs the migrations and holds the region and account against
 * those that it was created with, for they stand in every ARN.
 */
import { Kysely, type Transaction } from 'kysely'
import { join } from 'node:path'

import { KeyfoldError } from '../errors.ts'
import { DestroyedLog } from './destroyed-log.ts'
import { destroyAgain } from './destruction.ts'
import { migrate } from './migrations.ts'
import type { CatalogTables } from './schema.ts'
import { scrubFiles, SqliteDialect } from './sqlite-dialect.ts'

export type CatalogTransaction = Transaction<CatalogTables>

export interface Catalog {
  readonly db: Kysely<CatalogTables>
  readonly region: string
  readonly account: string
  /** The catalog's own region first, then those in which it keeps keys besides. */
  readonly regions: readonly string[]
  /**
   * Runs a change: one transaction, which also adds 1 to the change number and hands it in. Committed and on disk
   * when the promise resolves.
   */
  change<T>(work: (transaction: CatalogTransaction, changeNumber: number) => Promise<T>): Promise<T>
  /** Written before a transaction that destroys commits. */
  readonly destroyed: DestroyedLog
  /** Leaves nothing of what was destroyed in the catalog's files; does nothing where there can be nothing. */
  scrub(): Promise<void>
  close(): Promise<void>
}

const FILE = 'catalog.sqlite'

export interface CatalogOptions {
  readonly dataDirectory: string
  readonly region: string
  readonly account: string
  readonly otherRegions?: readonly string[]
}

/** Errors: CATALOG_UNAVAILABLE, CONFIG_INVALID. */
export async function openCatalog(options: CatalogOptions): Promise<Catalog> {
  const db = new Kysely<CatalogTables>({
    dialect: new SqliteDialect(join(options.dataDirectory, FILE)),
  })
  let destroyed: DestroyedLog | undefined
  try {
    await migrate(db)
    await freezeIdentity(db, options)
    // Only now is the directory known to be nobody else's.
    destroyed = await DestroyedLog.open(options.dataDirectory)
    const catalog = catalogOf(db, destroyed, options)
    await honour(catalog)
    return catalog
  } catch (error) {
    await destroyed?.close()
    await db.destroy()
    throw error
  }
}

function catalogOf(
  db: Kysely<CatalogTables>,
  destroyed: DestroyedLog,
  { region, account, otherRegions = [] }: CatalogOptions,
): Catalog {
  return {
    db,
    region,
    account,
    regions: [region, ...otherRegions],
    change: (work) =>
      db.transaction().execute(async (transaction) => {
        const { number } = await transaction
          .updateTable('changes')
          .set((expression) => ({ number: expression('number', '+', 1) }))
          .returning('number')
          .executeTakeFirstOrThrow()
        return work(transaction, number)
      }),
    destroyed,
    scrub: async () => {
      if (!destroyed.needsScrub) return
      await scrubFiles(db)
      await destroyed.recordScrubbed()
    },
    close: async () => {
      await db.destroy()
      await destroyed.close()
    },
  }
}

/** This catalog may be a copy from before something was destroyed, or a crash came between the log and the commit. */
async function honour(catalog: Catalog): Promise<void> {
  if (catalog.destroyed.isEmpty) return
  const destroyedSome = await catalog.change((transaction, changeNumber) =>
    destroyAgain(transaction, catalog.destroyed, Date.now(), changeNumber),
  )
  if (destroyedSome) catalog.destroyed.mustScrub()
  await catalog.scrub()
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
      `this data directory belongs to region ${frozen.region} and account ${frozen.account}, ` +
        `not to ${region} and ${account}: they stand in every ARN and cannot change`,
    )
  }
}
