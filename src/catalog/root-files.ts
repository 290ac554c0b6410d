/**
 * What stands beside the root key (src/key-stores/root-key.ts), of a shared catalog: a row for each file. Every node has
 * copies of them in its data directory (src/kms/root-files.ts). What was replaced is known by its SHA-256, so that a
 * copy of it is told from what belongs to another catalog.
 *
 *     root.check  root.salt  root.sealed          of the root key in use
 *     root.check.next  …                          of the one that a rotation will move to, as it was announced
 *     root.previous                               a rotation is under way: what was sealed before it may stand yet
 */
import { createHash } from 'node:crypto'
import type { Kysely } from 'kysely'

import { KeyfoldError } from '../errors.ts'
import { sealedMaterialPrefix } from '../format/key-material.ts'
import { decodeRootKeyLine } from '../format/root-key-line.ts'
import { sealedSecretPrefix } from '../format/sealed-secret.ts'
import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>

export const ROOT_CHECK = 'root.check'
export const ROOT_SEALED = 'root.sealed'
export const ROOT_PREVIOUS = 'root.previous'
export const NEXT = '.next'
/** Of a root key; each has a successor while a rotation is announced. */
export const ROOT_FILES: readonly string[] = [ROOT_CHECK, 'root.salt', ROOT_SEALED]
const WAS = 'was '

export interface RootFiles {
  /** By name. */
  readonly contents: ReadonlyMap<string, string>
  /** Whether this content stood in one of them before. */
  wasThere(content: string): boolean
}

export async function readRootFiles(db: Queries): Promise<RootFiles> {
  const rows = await db.selectFrom('rootFiles').selectAll().execute()
  const names = new Set(rows.map(({ name }) => name))
  return {
    contents: new Map(rows.map(({ name, content }) => [name, content])),
    wasThere: (content) => names.has(markOf(content)),
  }
}

/** Those of the first root key, with the catalog's first token. */
export async function insertRootFiles(
  db: Queries,
  contents: ReadonlyMap<string, string>,
): Promise<void> {
  for (const [name, content] of contents) {
    await db.insertInto('rootFiles').values({ name, content }).execute()
  }
}

/** In place of what is there; undefined takes it away. */
export async function putRootFile(
  db: Queries,
  name: string,
  content: string | undefined,
): Promise<void> {
  const before = await readRootFile(db, name)
  if (before !== undefined) {
    await db
      .insertInto('rootFiles')
      .values({ name: markOf(before), content: '' })
      .onConflict((conflict) => conflict.column('name').doNothing())
      .execute()
    await db.deleteFrom('rootFiles').where('name', '=', name).execute()
  }
  if (content !== undefined) await db.insertInto('rootFiles').values({ name, content }).execute()
}

export async function readRootFile(db: Queries, name: string): Promise<string | undefined> {
  const row = await db
    .selectFrom('rootFiles')
    .select('content')
    .where('name', '=', name)
    .executeTakeFirst()
  return row?.content
}

/** What was announced is the root key from here on, and has the one before in its hands. */
export async function turnRootFiles(db: Queries, previous: string): Promise<void> {
  for (const name of ROOT_FILES) {
    const next = await readRootFile(db, name + NEXT)
    // Where the next one comes from elsewhere, what stood beside this one goes with it.
    await putRootFile(db, name, next)
    await putRootFile(db, name + NEXT, undefined)
  }
  await putRootFile(db, ROOT_PREVIOUS, previous)
}

/**
 * Asked in the transaction that puts something sealed into a shared catalog: a process that was stopped since it sealed
 * would leave what no root key opens any more. An embedded catalog has no such row, and nobody beside.
 */
export async function assertRootKeyThere(db: Queries, sealed: Uint8Array | null): Promise<void> {
  const version = rootVersionOf(sealed)
  if (version === undefined) return
  const lines = await db
    .selectFrom('rootFiles')
    .selectAll()
    .where('name', 'in', [ROOT_CHECK, ROOT_PREVIOUS])
    .execute()
  if (lines.length === 0) return
  const versions = lines.map(({ name, content }) => decodeRootKeyLine(content, name).version)
  if (versions.includes(version)) return
  throw new KeyfoldError('CATALOG_UNAVAILABLE', 'the root key was rotated meanwhile')
}

/** undefined: nothing that a root key sealed. */
function rootVersionOf(sealed: Uint8Array | null): number | undefined {
  if (sealed === null || sealed.length === 0) return undefined
  const bytes = Buffer.from(sealed)
  for (const prefix of [sealedMaterialPrefix(0), sealedSecretPrefix(0)]) {
    const kind = prefix.subarray(0, -VERSION_BYTES)
    if (bytes.length < prefix.length || !bytes.subarray(0, kind.length).equals(kind)) continue
    return bytes.readUInt32BE(kind.length)
  }
  return undefined
}

const VERSION_BYTES = 4

function markOf(content: string): string {
  return WAS + createHash('sha256').update(content).digest('hex')
}
