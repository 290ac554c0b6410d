/** Access keys in the catalog: sealed secrets and whose they are. */
import type { Kysely } from 'kysely'

import { assertRootKeyThere } from './root-files.ts'
import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>

export interface StoredAccessKey {
  readonly id: string
  readonly principalArn: string
  readonly sealedSecret: Uint8Array
  readonly sessionTokenHash: Uint8Array | null
  readonly createdAtMs: number
  readonly expiresAtMs: number | null
  readonly revokedAtMs: number | null
  readonly xksPrefix: string | null
}

/** `since`: those that a change after this one has touched. */
export async function readAccessKeys(db: Queries, since = -1): Promise<readonly StoredAccessKey[]> {
  return db
    .selectFrom('accessKeys')
    .selectAll()
    .where('changeNumber', '>', since)
    .orderBy('createdAtMs')
    .execute()
}

export async function insertAccessKey(
  db: Queries,
  accessKey: StoredAccessKey,
  changeNumber: number,
): Promise<void> {
  await assertRootKeyThere(db, accessKey.sealedSecret)
  await db
    .insertInto('accessKeys')
    .values({ ...accessKey, changeNumber })
    .execute()
}

/** Access keys below a prefix that sign at this moment. */
export async function countLiveOfPrefix(
  db: Queries,
  xksPrefix: string,
  nowMs: number,
): Promise<number> {
  const { live } = await db
    .selectFrom('accessKeys')
    .select(({ fn }) => fn.countAll<number>().as('live'))
    .where('xksPrefix', '=', xksPrefix)
    .where('revokedAtMs', 'is', null)
    .where((row) => row.or([row('expiresAtMs', 'is', null), row('expiresAtMs', '>', nowMs)]))
    .executeTakeFirstOrThrow()
  return Number(live)
}

/** Its secret goes at once: an access key that was revoked never comes back. */
export async function revokeAccessKey(
  db: Queries,
  id: string,
  nowMs: number,
  changeNumber: number,
): Promise<void> {
  await db
    .updateTable('accessKeys')
    .set({ revokedAtMs: nowMs, sealedSecret: new Uint8Array(0), changeNumber })
    .where('id', '=', id)
    .where('revokedAtMs', 'is', null)
    .execute()
}
