/** Imported key material in the catalog, and the wrapping keys that it arrives under. */
import type { Kysely } from 'kysely'

import { assertRootKeyThere } from './root-files.ts'
import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>

export type StoredImportParameters = Readonly<CatalogTables['importParameters']>

export async function insertImportParameters(
  db: Queries,
  parameters: StoredImportParameters,
): Promise<void> {
  await assertRootKeyThere(db, parameters.sealedPrivateKey)
  await db.insertInto('importParameters').values(parameters).execute()
}

export async function readImportParameters(
  db: Queries,
  tokenHash: Uint8Array,
): Promise<StoredImportParameters | undefined> {
  return db
    .selectFrom('importParameters')
    .selectAll()
    .where('tokenHash', '=', tokenHash)
    .executeTakeFirst()
}

/** Of one KMS key, whether they have run out or not. */
export async function countImportParameters(db: Queries, kmsKeyId: string): Promise<number> {
  const { count } = await db
    .selectFrom('importParameters')
    .select((expression) => expression.fn.countAll<number>().as('count'))
    .where('kmsKeyId', '=', kmsKeyId)
    .executeTakeFirstOrThrow()
  return Number(count)
}

/** False where somebody else did. */
export async function deleteImportParameters(db: Queries, tokenHash: Uint8Array): Promise<boolean> {
  const deleted = await db
    .deleteFrom('importParameters')
    .where('tokenHash', '=', tokenHash)
    .returning('kmsKeyId')
    .execute()
  return deleted.length > 0
}

/** Those that ran out at this moment or before. */
export async function deleteOldImportParameters(db: Queries, expiredAtMs: number): Promise<void> {
  await db.deleteFrom('importParameters').where('expiresAtMs', '<=', expiredAtMs).execute()
}

/** What is known of material that was imported once, whether it is there or destroyed. */
export async function readImported(
  db: Queries,
  kmsKeyId: string,
  version: number,
): Promise<
  { readonly fingerprint: Uint8Array | null; readonly description: string | null } | undefined
> {
  return db
    .selectFrom('keyMaterials')
    .select(['fingerprint', 'description'])
    .where('kmsKeyId', '=', kmsKeyId)
    .where('version', '=', version)
    .executeTakeFirst()
}

export interface ImportedMaterial {
  readonly kmsKeyId: string
  readonly version: number
  readonly stored: Uint8Array
  readonly publicKey: Uint8Array | null
  readonly fingerprint: Uint8Array
  /** null: it does not expire. */
  readonly validToMs: number | null
  readonly description: string | null
}

/** In place of what was there of this version, or of its tombstone. */
export async function putImportedMaterial(
  db: Queries,
  { kmsKeyId, version, ...material }: ImportedMaterial,
  nowMs: number,
): Promise<void> {
  await assertRootKeyThere(db, material.stored)
  const present = { ...material, destroyedAtMs: null }
  await db
    .insertInto('keyMaterials')
    .values({ kmsKeyId, version, createdAtMs: nowMs, rotation: null, ...present })
    .onConflict((conflict) => conflict.columns(['kmsKeyId', 'version']).doUpdateSet(present))
    .execute()
}
