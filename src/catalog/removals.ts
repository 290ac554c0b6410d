/** Rows that are gone, for nodes that remember them. Those that stay carry the number of their last change themselves. */
import type { Kysely } from 'kysely'

import { CATALOG_REMOVALS_KEPT } from '../limits.ts'
import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>

export type Removal = Readonly<Pick<CatalogTables['removals'], 'kind' | 'name'>>

export async function recordRemoval(
  db: Queries,
  removal: Removal,
  changeNumber: number,
): Promise<void> {
  await db
    .insertInto('removals')
    .values({ ...removal, changeNumber })
    .onConflict((conflict) => conflict.doNothing())
    .execute()
  await db
    .deleteFrom('removals')
    .where('changeNumber', '<=', changeNumber - CATALOG_REMOVALS_KEPT)
    .execute()
}

export async function readRemovals(db: Queries, since: number): Promise<readonly Removal[]> {
  return db
    .selectFrom('removals')
    .select(['kind', 'name'])
    .where('changeNumber', '>', since)
    .orderBy('changeNumber')
    .execute()
}
