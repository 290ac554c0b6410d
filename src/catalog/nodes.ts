/** The nodes on a shared catalog, as rows: each says up to which change it follows. What that is good for: membership.ts. */
import type { Kysely } from 'kysely'

import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>

export async function insertNode(
  db: Queries,
  node: Pick<CatalogTables['nodes'], 'id' | 'startedAtMs' | 'rootVersion'>,
): Promise<void> {
  await db
    .insertInto('nodes')
    .values({ ...node, confirmed: 0, renewals: 0 })
    .onConflict((conflict) => conflict.column('id').doNothing())
    .execute()
}

/**
 * Says that this node follows every change up to `confirmed`, and reads the change number in the same statement.
 * undefined where the row is gone: others have stopped waiting for this node.
 */
export async function renewNode(
  db: Queries,
  id: string,
  confirmed: number,
): Promise<number | undefined> {
  const row = await db
    .updateTable('nodes')
    .set((expression) => ({ confirmed, renewals: expression('renewals', '+', 1) }))
    .where('id', '=', id)
    .returning((expression) => expression.selectFrom('changes').select('number').as('number'))
    .executeTakeFirst()
  return row?.number ?? undefined
}

export async function readChangeNumber(db: Queries): Promise<number> {
  const row = await db.selectFrom('changes').select('number').executeTakeFirstOrThrow()
  return row.number
}

export type NodeRow = Readonly<Pick<CatalogTables['nodes'], 'id' | 'renewals'>>

/** Nodes that have not confirmed this change. */
export async function readBehind(db: Queries, changeNumber: number): Promise<readonly NodeRow[]> {
  return db
    .selectFrom('nodes')
    .select(['id', 'renewals'])
    .where('confirmed', '<', changeNumber)
    .execute()
}

/** Unless it has renewed its lease since: where it is doing so now, this waits for it and looks again. */
export async function removeNode(db: Queries, { id, renewals }: NodeRow): Promise<void> {
  await db.deleteFrom('nodes').where('id', '=', id).where('renewals', '=', renewals).execute()
}

/** How many have no root key of this version. */
export async function countWithoutRoot(db: Queries, rootVersion: number): Promise<number> {
  const { nodes } = await db
    .selectFrom('nodes')
    .select((select) => select.fn.countAll<number>().as('nodes'))
    .where('rootVersion', '<', rootVersion)
    .executeTakeFirstOrThrow()
  return nodes
}

export async function leaveNodes(db: Queries, id: string): Promise<void> {
  await db.deleteFrom('nodes').where('id', '=', id).execute()
}
