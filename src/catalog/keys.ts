/**
 * KMS keys, their material, aliases and tags in the catalog. Each function is one statement or the few of one
 * transaction; what may be done in which state is decided in kms/.
 */
import type { Kysely } from 'kysely'

import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>

export interface StoredKey {
  readonly id: string
  readonly description: string
  readonly state: CatalogTables['kmsKeys']['state']
  readonly keySpec: string
  readonly keyUsage: string
  readonly origin: string
  readonly keyStore: string
  readonly currentVersion: number
  readonly createdAtMs: number
  readonly changeNumber: number
  /** Without tombstones, ascending by version. */
  readonly materials: readonly { readonly version: number; readonly stored: Uint8Array }[]
  readonly tags: readonly { readonly key: string; readonly value: string }[]
}

export async function readKey(db: Queries, id: string): Promise<StoredKey | undefined> {
  const key = await db.selectFrom('kmsKeys').selectAll().where('id', '=', id).executeTakeFirst()
  if (key === undefined) return undefined
  const materials = await db
    .selectFrom('keyMaterials')
    .select(['version', 'stored'])
    .where('kmsKeyId', '=', id)
    .where('stored', 'is not', null)
    .orderBy('version')
    .execute()
  const tags = await db
    .selectFrom('tags')
    .select(['key', 'value'])
    .where('kmsKeyId', '=', id)
    .orderBy('key')
    .execute()
  return {
    ...key,
    materials: materials.map(({ version, stored }) => ({ version, stored: stored as Uint8Array })),
    tags,
  }
}

export async function insertKey(db: Queries, key: StoredKey): Promise<void> {
  const { materials, tags, ...row } = key
  await db.insertInto('kmsKeys').values(row).execute()
  for (const { version, stored } of materials) {
    await insertMaterial(db, { kmsKeyId: key.id, version, stored, createdAtMs: key.createdAtMs })
  }
  for (const tag of tags)
    await db
      .insertInto('tags')
      .values({ kmsKeyId: key.id, ...tag })
      .execute()
}

export async function insertMaterial(
  db: Queries,
  material: {
    readonly kmsKeyId: string
    readonly version: number
    readonly stored: Uint8Array
    readonly createdAtMs: number
  },
): Promise<void> {
  await db
    .insertInto('keyMaterials')
    .values({ ...material, destroyedAtMs: null })
    .execute()
}

export async function updateKey(
  db: Queries,
  id: string,
  change: Partial<Pick<StoredKey, 'state' | 'currentVersion' | 'description'>>,
  changeNumber: number,
): Promise<void> {
  await db
    .updateTable('kmsKeys')
    .set({ ...change, changeNumber })
    .where('id', '=', id)
    .execute()
}

/** Ids in ascending order, after `afterId`. */
export async function listKeyIds(
  db: Queries,
  afterId: string,
  limit: number,
): Promise<readonly string[]> {
  const rows = await db
    .selectFrom('kmsKeys')
    .select('id')
    .where('id', '>', afterId)
    .orderBy('id')
    .limit(limit)
    .execute()
  return rows.map((row) => row.id)
}

export interface StoredAlias {
  readonly name: string
  readonly kmsKeyId: string
}

export async function readAlias(db: Queries, name: string): Promise<StoredAlias | undefined> {
  return db
    .selectFrom('aliases')
    .select(['name', 'kmsKeyId'])
    .where('name', '=', name)
    .executeTakeFirst()
}

export async function listAliases(
  db: Queries,
  filter: {
    readonly afterName: string
    readonly limit: number
    readonly kmsKeyId: string | undefined
  },
): Promise<readonly StoredAlias[]> {
  let query = db
    .selectFrom('aliases')
    .select(['name', 'kmsKeyId'])
    .where('name', '>', filter.afterName)
    .orderBy('name')
    .limit(filter.limit)
  if (filter.kmsKeyId !== undefined) query = query.where('kmsKeyId', '=', filter.kmsKeyId)
  return query.execute()
}

export async function countAliases(db: Queries, kmsKeyId: string): Promise<number> {
  const { count } = await db
    .selectFrom('aliases')
    .select((expression) => expression.fn.countAll<number>().as('count'))
    .where('kmsKeyId', '=', kmsKeyId)
    .executeTakeFirstOrThrow()
  return Number(count)
}

export async function insertAlias(
  db: Queries,
  alias: StoredAlias,
  nowMs: number,
  changeNumber: number,
): Promise<void> {
  await db
    .insertInto('aliases')
    .values({ ...alias, createdAtMs: nowMs, updatedAtMs: nowMs, changeNumber })
    .execute()
}

export async function updateAlias(
  db: Queries,
  alias: StoredAlias,
  nowMs: number,
  changeNumber: number,
): Promise<void> {
  await db
    .updateTable('aliases')
    .set({ kmsKeyId: alias.kmsKeyId, updatedAtMs: nowMs, changeNumber })
    .where('name', '=', alias.name)
    .execute()
}

export async function deleteAlias(db: Queries, name: string): Promise<void> {
  await db.deleteFrom('aliases').where('name', '=', name).execute()
}
