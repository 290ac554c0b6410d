/** Families of multi-Region keys in the catalog: a row for each region, all of one key id. */
import type { Kysely } from 'kysely'

import type { CatalogTables } from './schema.ts'

export type FamilyRow = Readonly<
  Pick<CatalogTables['kmsKeys'], 'id' | 'region' | 'multiRegion' | 'state'>
>

/** Those that are there, by row. */
export async function listFamily(
  db: Kysely<CatalogTables>,
  keyId: string,
): Promise<readonly FamilyRow[]> {
  return db
    .selectFrom('kmsKeys')
    .select(['id', 'region', 'multiRegion', 'state'])
    .where((where) => where.or([where('id', '=', keyId), where('id', 'like', `${keyId}@%`)]))
    .where('state', '!=', 'Deleted')
    .orderBy('id')
    .execute()
}
