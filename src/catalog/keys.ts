/**
 * KMS keys, their material, aliases and tags in the catalog. Each function is one statement or the few of one
 * transaction; what may be done in which state is decided in kms/.
 */
import type { Kysely } from 'kysely'

import { assertRootKeyThere } from './root-files.ts'
import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>

type KeyRow = Readonly<CatalogTables['kmsKeys']>

export interface StoredMaterial {
  readonly version: number
  readonly stored: Uint8Array
  readonly publicKey: Uint8Array | null
  /** Of imported material: when it expires. */
  readonly validToMs: number | null
}

export interface StoredKey extends KeyRow {
  /** Without tombstones, ascending by version. */
  readonly materials: readonly StoredMaterial[]
  readonly tags: readonly { readonly key: string; readonly value: string }[]
  readonly aliases: readonly string[]
}

/** Without its grants: there may be 50,000 of them, and few changes are theirs. */
export async function readKey(db: Queries, id: string): Promise<StoredKey | undefined> {
  const key = await db.selectFrom('kmsKeys').selectAll().where('id', '=', id).executeTakeFirst()
  if (key === undefined) return undefined
  const materials = await db
    .selectFrom('keyMaterials')
    .select(['version', 'stored', 'publicKey', 'validToMs'])
    .where('kmsKeyId', '=', materialOwner(id))
    .where('stored', 'is not', null)
    .orderBy('version')
    .execute()
  const tags = await db
    .selectFrom('tags')
    .select(['key', 'value'])
    .where('kmsKeyId', '=', id)
    .orderBy('key')
    .execute()
  const aliases = await db
    .selectFrom('aliases')
    .select('name')
    .where('kmsKeyId', '=', id)
    .orderBy('name')
    .execute()
  return {
    ...key,
    materials: materials.map((material) => ({
      ...material,
      stored: material.stored as Uint8Array,
    })),
    tags,
    aliases: aliases.map(({ name }) => name),
  }
}

/** What a key store made, as a version of a key. */
export function storedMaterial(
  version: number,
  made: { readonly stored: Uint8Array; readonly publicKey?: Uint8Array | undefined },
): StoredMaterial {
  return { version, stored: made.stored, publicKey: made.publicKey ?? null, validToMs: null }
}

/** Replicas of a multi-Region key share the material of its first row. */
export function materialOwner(id: string): string {
  return id.replace(/@.*$/, '')
}

export type NewStoredKey = Omit<StoredKey, 'aliases'>

export async function insertKey(db: Queries, key: NewStoredKey): Promise<void> {
  const { materials, tags, ...row } = key
  await db.insertInto('kmsKeys').values(row).execute()
  for (const material of materials) {
    await insertMaterial(db, {
      kmsKeyId: key.id,
      createdAtMs: key.createdAtMs,
      rotation: null,
      ...material,
    })
  }
  await putTags(db, key.id, tags)
}

export async function insertMaterial(
  db: Queries,
  material: {
    readonly kmsKeyId: string
    readonly version: number
    readonly stored: Uint8Array
    readonly publicKey: Uint8Array | null
    readonly createdAtMs: number
    readonly rotation: 'AUTOMATIC' | 'ON_DEMAND' | null
  },
): Promise<void> {
  await assertRootKeyThere(db, material.stored)
  await db
    .insertInto('keyMaterials')
    .values({
      ...material,
      destroyedAtMs: null,
      validToMs: null,
      fingerprint: null,
      description: null,
    })
    .execute()
}

type KeyChange = Partial<Omit<KeyRow, 'id' | 'createdAtMs' | 'changeNumber'>>

export async function updateKey(
  db: Queries,
  id: string,
  change: KeyChange,
  changeNumber: number,
): Promise<void> {
  await updateKeys(db, [id], change, changeNumber)
}

export async function updateKeys(
  db: Queries,
  ids: readonly string[],
  change: KeyChange,
  changeNumber: number,
): Promise<void> {
  if (ids.length === 0) return
  await db
    .updateTable('kmsKeys')
    .set({ ...change, changeNumber })
    .where('id', 'in', [...ids])
    .execute()
}

/** Nodes that remember these keys read them again, whatever of theirs has changed. */
export async function touchKeys(
  db: Queries,
  ids: readonly string[],
  changeNumber: number,
): Promise<void> {
  await updateKeys(db, ids, {}, changeNumber)
}

/** Rows that were touched by a change after this one. */
export async function readTouchedKeys(db: Queries, since: number): Promise<readonly string[]> {
  const rows = await db
    .selectFrom('kmsKeys')
    .select('id')
    .where('changeNumber', '>', since)
    .execute()
  return rows.map(({ id }) => id)
}

/** The keys that share the material of this one: itself, and of a multi-Region key the others that are there. */
export async function readFamily(
  db: Queries,
  id: string,
): Promise<readonly Pick<KeyRow, 'id' | 'state' | 'multiRegion' | 'pendingWindowDays'>[]> {
  const owner = materialOwner(id)
  let query = db
    .selectFrom('kmsKeys')
    .select(['id', 'state', 'multiRegion', 'pendingWindowDays'])
    .where('state', '!=', 'Deleted')
    .orderBy('id')
  query = owner.startsWith('mrk-')
    ? query.where((where) => where.or([where('id', '=', owner), where('id', 'like', `${owner}@%`)]))
    : query.where('id', '=', owner)
  return query.execute()
}

/** A version of key material as its history shows it. */
export type MaterialRow = Readonly<Omit<CatalogTables['keyMaterials'], 'stored' | 'publicKey'>>

/** Ascending by version, tombstones too. */
export async function listMaterials(
  db: Queries,
  kmsKeyId: string,
  filter: {
    readonly afterVersion: number
    readonly limit: number
    /** Without those that came with the key itself or were imported. */
    readonly rotationsOnly: boolean
  },
): Promise<readonly MaterialRow[]> {
  let query = db
    .selectFrom('keyMaterials')
    .select([
      'kmsKeyId',
      'version',
      'createdAtMs',
      'destroyedAtMs',
      'rotation',
      'validToMs',
      'fingerprint',
      'description',
    ])
    .where('kmsKeyId', '=', kmsKeyId)
    .where('version', '>', filter.afterVersion)
    .orderBy('version')
    .limit(filter.limit)
  if (filter.rotationsOnly) query = query.where('rotation', 'is not', null)
  return query.execute()
}

export async function countRotationsOnDemand(db: Queries, kmsKeyId: string): Promise<number> {
  const { count } = await db
    .selectFrom('keyMaterials')
    .select((expression) => expression.fn.countAll<number>().as('count'))
    .where('kmsKeyId', '=', kmsKeyId)
    .where('rotation', '=', 'ON_DEMAND')
    .executeTakeFirstOrThrow()
  return Number(count)
}

/** Uses of before this table were not recorded. */
export async function readUsesRecordedSinceMs(db: Queries): Promise<number> {
  const { ranAtMs } = await db
    .selectFrom('migrations')
    .select('ranAtMs')
    .where('name', '=', '0002-control-plane')
    .executeTakeFirstOrThrow()
  return ranAtMs
}

/** Under whichever version it was. */
export async function readLastUse(
  db: Queries,
  kmsKeyId: string,
): Promise<{ readonly lastUsedAtMs: number; readonly lastOperation: string } | undefined> {
  return db
    .selectFrom('keyUses')
    .select(['lastUsedAtMs', 'lastOperation'])
    .where('kmsKeyId', '=', kmsKeyId)
    .orderBy('lastUsedAtMs', 'desc')
    .limit(1)
    .executeTakeFirst()
}

export async function putTags(
  db: Queries,
  kmsKeyId: string,
  tags: StoredKey['tags'],
): Promise<void> {
  for (const tag of tags) {
    await db
      .insertInto('tags')
      .values({ kmsKeyId, ...tag })
      .onConflict((conflict) =>
        conflict.columns(['kmsKeyId', 'key']).doUpdateSet({ value: tag.value }),
      )
      .execute()
  }
}

export async function deleteTags(
  db: Queries,
  kmsKeyId: string,
  keys: readonly string[],
): Promise<void> {
  if (keys.length === 0) return
  await db
    .deleteFrom('tags')
    .where('kmsKeyId', '=', kmsKeyId)
    .where('key', 'in', [...keys])
    .execute()
}

/** Ids of a region's keys in ascending order, after `afterId`. */
export async function listKeyIds(
  db: Queries,
  filter: {
    readonly afterId: string
    readonly limit: number
    /** null: the catalog's own. */
    readonly region: string | null
  },
): Promise<readonly string[]> {
  const rows = await db
    .selectFrom('kmsKeys')
    .select('id')
    .where('id', '>', filter.afterId)
    .where('region', filter.region === null ? 'is' : '=', filter.region)
    .where('state', '!=', 'Deleted')
    .orderBy('id')
    .limit(filter.limit)
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
    /** null: the catalog's own. */
    readonly region: string | null
  },
): Promise<readonly (StoredAlias & { createdAtMs: number; updatedAtMs: number })[]> {
  let query = db
    .selectFrom('aliases')
    .select(['name', 'kmsKeyId', 'createdAtMs', 'updatedAtMs'])
    .where('name', '>', filter.afterName)
    .orderBy('name')
    .limit(filter.limit)
  query =
    filter.region === null
      ? query.where('name', 'not like', '%@%')
      : query.where('name', 'like', `%@${filter.region}`)
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
