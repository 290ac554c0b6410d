/** What is due at a moment, and when the next thing is: deletions, rotations, and imported material that expires. */
import type { Kysely } from 'kysely'

import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>

export interface DuePage {
  readonly nowMs: number
  /** Ids ascending, after this one. */
  readonly afterId: string
  readonly limit: number
}

export async function readDueDeletions(
  db: Queries,
  { nowMs, afterId, limit }: DuePage,
): Promise<readonly string[]> {
  const rows = await db
    .selectFrom('kmsKeys')
    .select('id')
    .where('deletionAtMs', '<=', nowMs)
    .where('state', '=', 'PendingDeletion')
    .where('id', '>', afterId)
    .orderBy('id')
    .limit(limit)
    .execute()
  return rows.map(({ id }) => id)
}

/** Of a family of multi-Region keys, the primary. */
export async function readDueRotations(
  db: Queries,
  { nowMs, afterId, limit }: DuePage,
): Promise<readonly string[]> {
  const rows = await db
    .selectFrom('kmsKeys')
    .select('id')
    .where('nextRotationAtMs', '<=', nowMs)
    .where('state', '=', 'Enabled')
    .where((where) =>
      where.or([where('multiRegion', 'is', null), where('multiRegion', '=', 'PRIMARY')]),
    )
    .where('id', '>', afterId)
    .orderBy('id')
    .limit(limit)
    .execute()
  return rows.map(({ id }) => id)
}

/** Symmetric keys, made here and enabled, whose current material was used for so many messages. */
export async function readOverused(
  db: Queries,
  page: Omit<DuePage, 'nowMs'> & {
    readonly messagesMax: number
    /** Of this key alone. */
    readonly id?: string
  },
): Promise<readonly string[]> {
  const { afterId, limit, messagesMax, id } = page
  let query = db
    .selectFrom('kmsKeys')
    .innerJoin('keyUses', (join) =>
      join
        .onRef('keyUses.kmsKeyId', '=', 'kmsKeys.id')
        .onRef('keyUses.version', '=', 'kmsKeys.currentVersion'),
    )
    .select('kmsKeys.id')
    .where('keyUses.messages', '>=', messagesMax)
    .where('state', '=', 'Enabled')
    .where('keySpec', '=', 'SYMMETRIC_DEFAULT')
    .where('origin', '=', 'AWS_KMS')
    .where((where) =>
      where.or([where('multiRegion', 'is', null), where('multiRegion', '=', 'PRIMARY')]),
    )
    .where('kmsKeys.id', '>', afterId)
    .orderBy('kmsKeys.id')
    .limit(limit)
  if (id !== undefined) query = query.where('kmsKeys.id', '=', id)
  return (await query.execute()).map((row) => row.id)
}

/** Ids of the keys whose material it is. */
export async function readDueExpiries(
  db: Queries,
  { nowMs, afterId, limit }: DuePage,
): Promise<readonly string[]> {
  const rows = await db
    .selectFrom('keyMaterials')
    .select('kmsKeyId')
    .distinct()
    .where('validToMs', '<=', nowMs)
    .where('stored', 'is not', null)
    .where('kmsKeyId', '>', afterId)
    .orderBy('kmsKeyId')
    .limit(limit)
    .execute()
  return rows.map(({ kmsKeyId }) => kmsKeyId)
}

/** The first moment after `nowMs` at which something is due. */
export async function readNextDueAtMs(db: Queries, nowMs: number): Promise<number | undefined> {
  const { deletionAtMs } = await db
    .selectFrom('kmsKeys')
    .select(({ fn }) => fn.min('deletionAtMs').as('deletionAtMs'))
    .where('deletionAtMs', '>', nowMs)
    .executeTakeFirstOrThrow()
  const { nextRotationAtMs } = await db
    .selectFrom('kmsKeys')
    .select(({ fn }) => fn.min('nextRotationAtMs').as('nextRotationAtMs'))
    .where('nextRotationAtMs', '>', nowMs)
    .executeTakeFirstOrThrow()
  const { validToMs } = await db
    .selectFrom('keyMaterials')
    .select(({ fn }) => fn.min('validToMs').as('validToMs'))
    .where('validToMs', '>', nowMs)
    .executeTakeFirstOrThrow()
  const moments = [deletionAtMs, nextRotationAtMs, validToMs].filter((moment) => moment !== null)
  return moments.length === 0 ? undefined : Math.min(...moments.map(Number))
}
