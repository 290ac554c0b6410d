/** Key stores in the catalog: how they are reached, and what they are still to destroy. */
import type { Kysely } from 'kysely'

import { assertRootKeyThere } from './root-files.ts'
import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>

export type StoredKeyStore = Readonly<Omit<CatalogTables['keyStores'], 'changeNumber'>>
export type KeyStoreKind = StoredKeyStore['kind']

export async function readKeyStores(db: Queries): Promise<readonly StoredKeyStore[]> {
  return await db.selectFrom('keyStores').selectAll().orderBy('id').execute()
}

export async function insertKeyStore(
  db: Queries,
  keyStore: StoredKeyStore,
  changeNumber: number,
): Promise<void> {
  await assertRootKeyThere(db, keyStore.sealedSecret)
  await db
    .insertInto('keyStores')
    .values({ ...keyStore, changeNumber })
    .execute()
}

export async function updateKeyStore(
  db: Queries,
  id: string,
  change: Partial<Omit<StoredKeyStore, 'id' | 'kind' | 'createdAtMs'>>,
  changeNumber: number,
): Promise<void> {
  await assertRootKeyThere(db, change.sealedSecret ?? null)
  await db
    .updateTable('keyStores')
    .set({ ...change, changeNumber })
    .where('id', '=', id)
    .execute()
}

/** With what it was still to destroy: nobody will reach it any more. */
export async function deleteKeyStore(db: Queries, id: string): Promise<void> {
  await db.deleteFrom('materialsToDestroy').where('keyStore', '=', id).execute()
  await db.deleteFrom('keyStores').where('id', '=', id).execute()
}

export async function isKeyStoreThere(db: Queries, id: string): Promise<boolean> {
  const row = await db.selectFrom('keyStores').select('id').where('id', '=', id).executeTakeFirst()
  return row !== undefined
}

/** Whether a KMS key lives in it, in whichever state; of these, one that names this external key. */
export async function holdsKeys(db: Queries, id: string, externalKeyId?: string): Promise<boolean> {
  let query = db
    .selectFrom('kmsKeys')
    .select('id')
    .where('keyStore', '=', id)
    // Said so that the index of these few keys is used.
    .where('keyStore', '!=', 'local')
    .where('state', '!=', 'Deleted')
    .limit(1)
  if (externalKeyId !== undefined) query = query.where('externalKeyId', '=', externalKeyId)
  return (await query.executeTakeFirst()) !== undefined
}

export type MaterialToDestroy = Readonly<CatalogTables['materialsToDestroy']>

export async function listMaterialsToDestroy(
  db: Queries,
  filter: {
    readonly keyStores: readonly string[]
    readonly afterId: string
    readonly limit: number
  },
): Promise<readonly string[]> {
  if (filter.keyStores.length === 0) return []
  const rows = await db
    .selectFrom('materialsToDestroy')
    .select('id')
    .where('keyStore', 'in', [...filter.keyStores])
    .where('id', '>', filter.afterId)
    .orderBy('id')
    .limit(filter.limit)
    .execute()
  return rows.map(({ id }) => id)
}

/** One of the same id is the same. */
export async function insertMaterialToDestroy(
  db: Queries,
  material: MaterialToDestroy,
): Promise<void> {
  await db
    .insertInto('materialsToDestroy')
    .values(material)
    .onConflict((conflict) => conflict.column('id').doNothing())
    .execute()
}

/** Whether a KMS key of one of these ids has a version of this number, whose material may be what is in `stored`. */
export async function readStored(
  db: Queries,
  kmsKeyIds: readonly string[],
  version: number,
): Promise<readonly Uint8Array[]> {
  const rows = await db
    .selectFrom('keyMaterials')
    .select('stored')
    .where('kmsKeyId', 'in', [...kmsKeyIds])
    .where('version', '=', version)
    .execute()
  return rows.flatMap(({ stored }) => (stored === null ? [] : [stored]))
}

export async function readMaterialToDestroy(
  db: Queries,
  id: string,
): Promise<MaterialToDestroy | undefined> {
  return db.selectFrom('materialsToDestroy').selectAll().where('id', '=', id).executeTakeFirst()
}

export async function deleteMaterialToDestroy(db: Queries, id: string): Promise<void> {
  await db.deleteFrom('materialsToDestroy').where('id', '=', id).execute()
}
