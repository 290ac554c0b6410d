/** Bearer tokens in the catalog: hashes of secrets and what they allow, never a secret. */
import type { Kysely } from 'kysely'

import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>

export interface StoredToken {
  readonly id: string
  readonly name: string
  readonly secretHash: Uint8Array
  readonly principalArn: string
  readonly actions: readonly string[]
  readonly keys: readonly string[]
  readonly createdAtMs: number
  readonly expiresAtMs: number | null
  readonly revokedAtMs: number | null
}

/** `since`: those that a change after this one has touched. */
export async function readTokens(db: Queries, since = -1): Promise<readonly StoredToken[]> {
  const rows = await db
    .selectFrom('tokens')
    .selectAll()
    .where('changeNumber', '>', since)
    .orderBy('createdAtMs')
    .execute()
  return rows.map(({ actions, keys, ...row }) => ({
    ...row,
    actions: JSON.parse(actions) as string[],
    keys: JSON.parse(keys) as string[],
  }))
}

export async function insertToken(
  db: Queries,
  token: StoredToken,
  changeNumber: number,
): Promise<void> {
  await db
    .insertInto('tokens')
    .values({
      ...token,
      actions: JSON.stringify(token.actions),
      keys: JSON.stringify(token.keys),
      changeNumber,
    })
    .execute()
}

export async function revokeToken(
  db: Queries,
  id: string,
  nowMs: number,
  changeNumber: number,
): Promise<void> {
  await db
    .updateTable('tokens')
    .set({ revokedAtMs: nowMs, changeNumber })
    .where('id', '=', id)
    .where('revokedAtMs', 'is', null)
    .execute()
}
