/**
 * The catalog: what survives a restart. Opening it runs the migrations and holds the region and account against
 * those that it was created with, for they stand in every ARN.
 */
import { Kysely, type Transaction } from 'kysely'
import { join } from 'node:path'

import { KeyfoldError } from '../errors.ts'
import { migrate } from './migrations.ts'
import type { CatalogTables } from './schema.ts'
import { SqliteDialect } from './sqlite-dialect.ts'

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
  close(): Promise<void>
}

const FILE = 'catalog.sqlite'

/** Errors: CATALOG_UNAVAILABLE, CONFIG_INVALID. */
export async function openCatalog(options: {
  readonly dataDirectory: string
  readonly region: string
  readonly account: string
  readonly otherRegions?: readonly string[]
}): Promise<Catalog> {
  const db = new Kysely<CatalogTables>({
    dialect: new SqliteDialect(join(options.dataDirectory, FILE)),
  })
  try {
    await migrate(db)
    await freezeIdentity(db, options)
  } catch (error) {
    await db.destroy()
    throw error
  }
  return {
    db,
    region: options.region,
    account: options.account,
    regions: [options.region, ...(options.otherRegions ?? [])],
    change: (work) =>
      db.transaction().execute(async (transaction) => {
        const { number } = await transaction
          .updateTable('changes')
          .set((expression) => ({ number: expression('number', '+', 1) }))
          .returning('number')
          .executeTakeFirstOrThrow()
        return work(transaction, number)
      }),
    close: () => db.destroy(),
  }
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
