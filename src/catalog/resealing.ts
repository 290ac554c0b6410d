/**
 * Whatever the catalog keeps sealed under a root key, found by the version of that root key: the first bytes of what is
 * sealed say it (src/format/key-material.ts, sealed-secret.ts), and bytes compare alike in every database.
 */
import { sql, type Kysely } from 'kysely'

import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>

/** What is sealed and sorts at `from` or behind it, and before `to`. */
export interface SealedRange {
  readonly from: Uint8Array
  readonly to: Uint8Array
}

export interface SealedMaterialRow {
  readonly kmsKeyId: string
  readonly version: number
  readonly keySpec: string
  readonly stored: Uint8Array
}

/** Of this key store, behind `after` in the order of their names. */
export async function readSealedMaterials(
  db: Queries,
  keyStore: string,
  { from, to }: SealedRange,
  after: Pick<SealedMaterialRow, 'kmsKeyId' | 'version'>,
  limit: number,
): Promise<readonly SealedMaterialRow[]> {
  const rows = await db
    .selectFrom('keyMaterials')
    .innerJoin('kmsKeys', 'kmsKeys.id', 'keyMaterials.kmsKeyId')
    .select([
      'keyMaterials.kmsKeyId',
      'keyMaterials.version',
      'kmsKeys.keySpec',
      'keyMaterials.stored',
    ])
    .where('kmsKeys.keyStore', '=', keyStore)
    .where('keyMaterials.stored', '>=', from)
    .where('keyMaterials.stored', '<', to)
    .where((where) =>
      where.or([
        where('keyMaterials.kmsKeyId', '>', after.kmsKeyId),
        where.and([
          where('keyMaterials.kmsKeyId', '=', after.kmsKeyId),
          where('keyMaterials.version', '>', after.version),
        ]),
      ]),
    )
    .orderBy('keyMaterials.kmsKeyId')
    .orderBy('keyMaterials.version')
    .limit(limit)
    .execute()
  return rows.map((row) => ({ ...row, stored: row.stored as Uint8Array }))
}

export async function replaceSealedMaterial(
  db: Queries,
  { kmsKeyId, version }: SealedMaterialRow,
  stored: Uint8Array,
): Promise<void> {
  await db
    .updateTable('keyMaterials')
    .set({ stored })
    .where('kmsKeyId', '=', kmsKeyId)
    .where('version', '=', version)
    .execute()
}

export type SealedAccessKeyRow = Pick<
  CatalogTables['accessKeys'],
  'id' | 'principalArn' | 'xksPrefix' | 'sealedSecret'
>

export async function readSealedAccessKeys(
  db: Queries,
  { from, to }: SealedRange,
  after: string,
  limit: number,
): Promise<readonly SealedAccessKeyRow[]> {
  return db
    .selectFrom('accessKeys')
    .select(['id', 'principalArn', 'xksPrefix', 'sealedSecret'])
    .where('sealedSecret', '>=', from)
    .where('sealedSecret', '<', to)
    .where('id', '>', after)
    .orderBy('id')
    .limit(limit)
    .execute()
}

export async function replaceSealedAccessKey(
  db: Queries,
  id: string,
  sealedSecret: Uint8Array,
): Promise<void> {
  await db.updateTable('accessKeys').set({ sealedSecret }).where('id', '=', id).execute()
}

export type SealedKeyStoreRow = Pick<CatalogTables['keyStores'], 'id' | 'kind' | 'settings'> & {
  readonly sealedSecret: Uint8Array
}

export async function readSealedKeyStores(
  db: Queries,
  { from, to }: SealedRange,
  after: string,
  limit: number,
): Promise<readonly SealedKeyStoreRow[]> {
  const rows = await db
    .selectFrom('keyStores')
    .select(['id', 'kind', 'settings', 'sealedSecret'])
    .where('sealedSecret', '>=', from)
    .where('sealedSecret', '<', to)
    .where('id', '>', after)
    .orderBy('id')
    .limit(limit)
    .execute()
  return rows.map((row) => ({ ...row, sealedSecret: row.sealedSecret as Uint8Array }))
}

export async function replaceSealedKeyStore(
  db: Queries,
  id: string,
  sealedSecret: Uint8Array,
): Promise<void> {
  await db.updateTable('keyStores').set({ sealedSecret }).where('id', '=', id).execute()
}

export type SealedImportRow = Pick<
  CatalogTables['importParameters'],
  'tokenHash' | 'kmsKeyId' | 'wrappingAlgorithm' | 'sealedPrivateKey'
>

export async function readSealedImports(
  db: Queries,
  { from, to }: SealedRange,
  after: Uint8Array,
  limit: number,
): Promise<readonly SealedImportRow[]> {
  return db
    .selectFrom('importParameters')
    .select(['tokenHash', 'kmsKeyId', 'wrappingAlgorithm', 'sealedPrivateKey'])
    .where('sealedPrivateKey', '>=', from)
    .where('sealedPrivateKey', '<', to)
    .where('tokenHash', '>', after)
    .orderBy('tokenHash')
    .limit(limit)
    .execute()
}

export async function replaceSealedImport(
  db: Queries,
  tokenHash: Uint8Array,
  sealedPrivateKey: Uint8Array,
): Promise<void> {
  await db
    .updateTable('importParameters')
    .set({ sealedPrivateKey })
    .where('tokenHash', '=', tokenHash)
    .execute()
}

/**
 * Columns of whatever table in which something of one of the ranges is left, as TABLE.COLUMN. It asks the database for
 * its tables: one that was added to the schema and forgotten by a rotation must not lose its root key.
 */
export async function findSealed(
  db: Queries,
  ranges: readonly SealedRange[],
): Promise<readonly string[]> {
  const found: string[] = []
  for (const table of await db.introspection.getTables()) {
    for (const column of table.columns) {
      if (!/^(blob|bytea)$/i.test(column.dataType)) continue
      for (const { from, to } of ranges) {
        const name = sql.ref(column.name)
        const { rows } = await sql`
          select 1 from ${sql.table(table.name)} where ${name} >= ${from} and ${name} < ${to} limit 1
        `.execute(db)
        if (rows.length > 0) found.push(`${table.name}.${column.name}`)
      }
    }
  }
  return found
}
