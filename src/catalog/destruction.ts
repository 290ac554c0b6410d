/**
 * Destroying key material and erasing keys: statements of one transaction. A version that was destroyed leaves its row
 * as a tombstone, so its number is never given out again; a key leaves its first row.
 */
import type { Kysely } from 'kysely'

import { hashOfStored, type DestroyedMaterial, type DestroyedRecord } from './destroyed-log.ts'
import { materialOwner, readFamily, updateKeys } from './keys.ts'
import { recordRemoval } from './removals.ts'
import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>

/** Versions of imported material whose time is over at `nowMs`. */
export async function readExpired(
  db: Queries,
  kmsKeyId: string,
  nowMs: number,
): Promise<readonly DestroyedMaterial[]> {
  const rows = await db
    .selectFrom('keyMaterials')
    .select(['version', 'stored'])
    .where('kmsKeyId', '=', kmsKeyId)
    .where('stored', 'is not', null)
    .where('validToMs', '<=', nowMs)
    .execute()
  return rows.map(({ version, stored }) => ({
    kmsKeyId,
    version,
    hash: hashOfStored(stored as Uint8Array),
  }))
}

/**
 * `versions`: all of them where absent. What another key store than the local one made is noted for it: of that the
 * catalog has a reference, and forgetting it destroys nothing. External keys outlive their KMS keys.
 */
export async function destroyMaterials(
  db: Queries,
  kmsKeyId: string,
  nowMs: number,
  versions?: readonly number[],
): Promise<void> {
  await noteForKeyStore(db, kmsKeyId, versions)
  let query = db
    .updateTable('keyMaterials')
    .set({ stored: null, destroyedAtMs: nowMs })
    .where('kmsKeyId', '=', kmsKeyId)
    .where('stored', 'is not', null)
  if (versions !== undefined) query = query.where('version', 'in', [...versions])
  await query.execute()
}

async function noteForKeyStore(
  db: Queries,
  kmsKeyId: string,
  versions: readonly number[] | undefined,
): Promise<void> {
  let query = db
    .selectFrom('keyMaterials')
    .innerJoin('kmsKeys', 'kmsKeys.id', 'keyMaterials.kmsKeyId')
    .select(['kmsKeyId', 'version', 'keyStore', 'keySpec', 'stored', 'publicKey'])
    .where('kmsKeyId', '=', kmsKeyId)
    .where('stored', 'is not', null)
    .where('keyStore', '!=', 'local')
    .where('externalKeyId', 'is', null)
  if (versions !== undefined) query = query.where('version', 'in', [...versions])
  for (const row of await query.execute()) {
    await db
      .insertInto('materialsToDestroy')
      .values({
        ...row,
        id: `${kmsKeyId}/${row.version}`,
        stored: row.stored as Uint8Array,
      })
      .onConflict((conflict) => conflict.column('id').doNothing())
      .execute()
  }
}

/** A key whose material is not all there waits for it; one that waits for its deletion goes on doing so. */
export async function awaitImport(
  db: Queries,
  kmsKeyId: string,
  changeNumber: number,
): Promise<void> {
  const family = await readFamily(db, kmsKeyId)
  const usable = family.filter(({ state }) => state === 'Enabled' || state === 'Disabled')
  const ids = usable.map(({ id }) => id)
  await updateKeys(db, ids, { state: 'PendingImport' }, changeNumber)
}

/** The key and everything that belongs to it, but for the material, which is its family's. */
export async function eraseKey(db: Queries, id: string, changeNumber: number): Promise<void> {
  for (const table of ['aliases', 'tags', 'grants', 'importParameters', 'keyUses'] as const) {
    await db.deleteFrom(table).where('kmsKeyId', '=', id).execute()
  }
  if (id !== materialOwner(id)) {
    // Nothing hangs on a replica's row, and the key may be replicated to that region again.
    await db.deleteFrom('kmsKeys').where('id', '=', id).execute()
    await recordRemoval(db, { kind: 'kmsKey', name: id }, changeNumber)
    return
  }
  const tombstone = {
    state: 'Deleted',
    description: '',
    policy: '',
    deletionAtMs: null,
    pendingWindowDays: null,
    rotationPeriodDays: null,
    nextRotationAtMs: null,
  } as const
  await updateKeys(db, [id], tombstone, changeNumber)
}

/** SQLite takes no more than 32,766 parameters; a page of this size is one statement. */
const PAGE = 500

/** Carries the log out on a catalog that may be older than it. Answers whether it held anything. */
export async function destroyAgain(
  db: Queries,
  log: Pick<DestroyedRecord, 'keys' | 'materials'>,
  nowMs: number,
  changeNumber: number,
): Promise<boolean> {
  let destroyed = false
  for (const id of await readErased(db, log.keys)) await eraseKey(db, id, changeNumber)
  for (const ids of pagesOf([...log.keys])) {
    const rows = await db
      .selectFrom('keyMaterials')
      .select('kmsKeyId')
      .distinct()
      .where('kmsKeyId', 'in', ids)
      .where('stored', 'is not', null)
      .execute()
    for (const { kmsKeyId } of rows) await destroyMaterials(db, kmsKeyId, nowMs)
    destroyed ||= rows.length > 0
  }
  for (const material of log.materials) {
    if (log.keys.has(material.kmsKeyId)) continue
    const held = await destroyOneAgain(db, material, nowMs, changeNumber)
    destroyed ||= held
  }
  return destroyed
}

/** Rows of keys that the log names and the catalog has. */
async function readErased(db: Queries, keys: ReadonlySet<string>): Promise<readonly string[]> {
  const found: string[] = []
  for (const ids of pagesOf([...keys])) {
    const rows = await db
      .selectFrom('kmsKeys')
      .select('id')
      .where('id', 'in', ids)
      .where('state', '!=', 'Deleted')
      .execute()
    found.push(...rows.map(({ id }) => id))
  }
  if (keys.size === 0) return found
  const replicas = await db.selectFrom('kmsKeys').select('id').where('id', 'like', '%@%').execute()
  for (const { id } of replicas) if (keys.has(materialOwner(id))) found.push(id)
  return found
}

async function destroyOneAgain(
  db: Queries,
  { kmsKeyId, version, hash }: DestroyedMaterial,
  nowMs: number,
  changeNumber: number,
): Promise<boolean> {
  const row = await db
    .selectFrom('keyMaterials')
    .select('stored')
    .where('kmsKeyId', '=', kmsKeyId)
    .where('version', '=', version)
    .executeTakeFirst()
  if (row !== undefined) {
    if (row.stored === null || hashOfStored(row.stored) !== hash) return false
    await destroyMaterials(db, kmsKeyId, nowMs, [version])
    await awaitImport(db, kmsKeyId, changeNumber)
    return true
  }
  // The catalog is from before that version. Its number is taken nevertheless.
  await db
    .insertInto('keyMaterials')
    .columns(['kmsKeyId', 'version', 'createdAtMs', 'destroyedAtMs'])
    .expression((expression) =>
      expression
        .selectFrom('kmsKeys')
        .select((column) => [
          'id',
          column.val(version).as('version'),
          column.val(nowMs).as('createdAtMs'),
          column.val(nowMs).as('destroyedAtMs'),
        ])
        .where('id', '=', kmsKeyId),
    )
    .execute()
  return false
}

function pagesOf(ids: readonly string[]): readonly (readonly string[])[] {
  const pages: string[][] = []
  for (let at = 0; at < ids.length; at += PAGE) pages.push(ids.slice(at, at + PAGE))
  return pages
}
