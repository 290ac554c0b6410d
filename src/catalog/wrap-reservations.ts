/** How many wraps under each version of key material are taken: by all nodes together, and before they are made. */
import type { Kysely } from 'kysely'

import type { DuePage } from './due.ts'
import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>

export interface WrapReservation {
  /** The names that the key may have in the catalog; it has one of them. */
  readonly kmsKeyIds: readonly string[]
  readonly version: number
  readonly wraps: number
  readonly wrapsMax: number
}

/**
 * Takes `wraps` more, in one statement, so that two nodes never take the same. Answers of which key, and how many are
 * taken with these; undefined where so many are not left, or there is no such key.
 */
export async function reserveWraps(
  db: Queries,
  { kmsKeyIds, version, wraps, wrapsMax }: WrapReservation,
): Promise<{ readonly kmsKeyId: string; readonly reserved: number } | undefined> {
  if (wraps > wrapsMax) return undefined
  return db
    .insertInto('wrapReservations')
    .columns(['kmsKeyId', 'version', 'reserved'])
    .expression((expression) =>
      expression
        .selectFrom('kmsKeys')
        .select(({ val }) => ['id', val(version).as('version'), val(wraps).as('reserved')])
        .where('id', 'in', [...kmsKeyIds]),
    )
    .onConflict((conflict) =>
      conflict
        .columns(['kmsKeyId', 'version'])
        .doUpdateSet((expression) => ({
          reserved: expression('wrapReservations.reserved', '+', wraps),
        }))
        .where('wrapReservations.reserved', '<=', wrapsMax - wraps),
    )
    .returning(['kmsKeyId', 'reserved'])
    .executeTakeFirst()
}

/** Enabled keys of one store, whose material was made there and of whose current material so many wraps are taken. */
export async function readWornOut(
  db: Queries,
  page: Omit<DuePage, 'nowMs'> & {
    readonly keyStore: string
    readonly reservedMin: number
    /** Of this key alone. */
    readonly id?: string
  },
): Promise<readonly string[]> {
  const { afterId, limit, keyStore, reservedMin, id } = page
  let query = db
    .selectFrom('kmsKeys')
    .innerJoin('wrapReservations', (join) =>
      join
        .onRef('wrapReservations.kmsKeyId', '=', 'kmsKeys.id')
        .onRef('wrapReservations.version', '=', 'kmsKeys.currentVersion'),
    )
    .select('kmsKeys.id')
    .where('keyStore', '=', keyStore)
    .where('wrapReservations.reserved', '>=', reservedMin)
    .where('state', '=', 'Enabled')
    .where('origin', '!=', 'EXTERNAL')
    .where((where) =>
      where.or([where('multiRegion', 'is', null), where('multiRegion', '=', 'PRIMARY')]),
    )
    .where('kmsKeys.id', '>', afterId)
    .orderBy('kmsKeys.id')
    .limit(limit)
  if (id !== undefined) query = query.where('kmsKeys.id', '=', id)
  return (await query.execute()).map((row) => row.id)
}
