/**
 * What stands beside the root key (src/key-stores/root-key.ts), of a shared catalog: rows that are written once, with the
 * catalog's first token. Every node has copies of them in its data directory, made at its first start.
 */
import type { Kysely } from 'kysely'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

import { KeyfoldError } from '../errors.ts'
import type { CatalogTables } from './schema.ts'

const NAMES = ['root.salt', 'root.check', 'root.sealed'] as const

/** Errors: CONFIG_INVALID (the data directory has another catalog's). */
export async function pullRootFiles(
  db: Kysely<CatalogTables>,
  dataDirectory: string,
): Promise<void> {
  const rows = await db.selectFrom('rootFiles').selectAll().execute()
  mkdirSync(dataDirectory, { recursive: true, mode: 0o700 })
  for (const { name, content } of rows) {
    const file = join(dataDirectory, name)
    if (!existsSync(file)) {
      writeFileSync(file, content, { mode: 0o600, flag: 'wx', flush: true })
    } else if (readFileSync(file, 'utf8') !== content) {
      throw new KeyfoldError('CONFIG_INVALID', `${file} belongs to another catalog`)
    }
  }
}

/** What init has made becomes every node's. Fails where another node was faster. */
export async function pushRootFiles(
  db: Kysely<CatalogTables>,
  dataDirectory: string,
): Promise<void> {
  for (const name of NAMES) {
    const file = join(dataDirectory, name)
    if (!existsSync(file)) continue
    const content = readFileSync(file, 'utf8')
    await db.insertInto('rootFiles').values({ name, content }).execute()
  }
}
