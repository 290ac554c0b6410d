/**
 * The catalog worker: the one thread that touches the embedded database, so that a slow disk or a foreign lock
 * never stops the event loop. It takes {id, sql, parameters} and answers {id, rows, changes} or {id, error, busy}.
 */
import { chmodSync, closeSync, existsSync, openSync, statSync } from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'

import type { CatalogAnswer, CatalogStatement, CatalogWorkerData } from './sqlite-dialect.ts'

/** Below this a write-ahead log can be corrupted when it is reset (fixed in SQLite 3.51.3). */
const SQLITE_VERSION_MIN = [3, 51, 3] as const

type SqliteValue = null | number | bigint | string | Uint8Array

interface Statement {
  columns(): readonly unknown[]
  all(...parameters: SqliteValue[]): unknown[]
  run(...parameters: SqliteValue[]): { changes: number | bigint }
}

interface Database {
  exec(sql: string): void
  prepare(sql: string): Statement
  close(): void
}

type DatabaseConstructor = new (file: string) => Database

/** node:sqlite where this Node has one that is new enough, else the same interface from npm. */
async function loadSqlite(): Promise<DatabaseConstructor> {
  try {
    const builtin = (await import('node:sqlite' as string)) as { DatabaseSync: DatabaseConstructor }
    if (isNewEnough(builtin.DatabaseSync)) return builtin.DatabaseSync
  } catch {
    // Node 20 has none.
  }
  const { DatabaseSync } = await import('@photostructure/sqlite')
  const constructor = DatabaseSync as unknown as DatabaseConstructor
  if (!isNewEnough(constructor)) throw new Error('SQLite 3.51.3 or newer is needed')
  return constructor
}

function isNewEnough(constructor: DatabaseConstructor): boolean {
  const database = new constructor(':memory:')
  const [row] = database.prepare('select sqlite_version() as version').all() as {
    version: string
  }[]
  database.close()
  const parts = (row?.version ?? '0').split('.').map(Number)
  for (const [i, least] of SQLITE_VERSION_MIN.entries()) {
    const part = parts[i] ?? 0
    if (part !== least) return part > least
  }
  return true
}

/**
 * Only its owner reads the catalog. SQLite gives the log beside it the mode of the file itself. No descriptor of an
 * existing catalog is opened here: closing it would drop the locks of whoever in this process has it open.
 */
function restrict(file: string): void {
  if (!existsSync(file)) closeSync(openSync(file, 'wx', 0o600))
  for (const name of [file, `${file}-wal`, `${file}-shm`]) {
    if (existsSync(name) && (statSync(name).mode & 0o077) !== 0) chmodSync(name, 0o600)
  }
}

function open(constructor: DatabaseConstructor, file: string): Database {
  restrict(file)
  const database = new constructor(file)
  // One process owns an embedded catalog: a second one is told so at once instead of meeting locks later.
  database.exec('PRAGMA locking_mode=EXCLUSIVE')
  database.exec('PRAGMA journal_mode=WAL')
  // A write-ahead log reopens with synchronous=NORMAL by default: an acknowledged key could be lost with the power.
  database.exec('PRAGMA synchronous=FULL')
  database.exec('PRAGMA foreign_keys=ON')
  // Freed pages are overwritten: destroyed key material is not to be found in them.
  database.exec('PRAGMA secure_delete=ON')
  database.exec('BEGIN IMMEDIATE; COMMIT')
  return database
}

const STATEMENTS_MAX = 256
const SQLITE_BUSY = 5

async function main(port: NonNullable<typeof parentPort>): Promise<void> {
  const database = open(await loadSqlite(), (workerData as CatalogWorkerData).file)
  const statements = new Map<string, Statement>()

  const prepare = (sql: string): Statement => {
    const known = statements.get(sql)
    if (known !== undefined) return known
    if (statements.size >= STATEMENTS_MAX) statements.clear()
    const prepared = database.prepare(sql)
    statements.set(sql, prepared)
    return prepared
  }

  const execute = ({ id, sql, parameters }: CatalogStatement): CatalogAnswer => {
    try {
      const statement = prepare(sql)
      const values = parameters as SqliteValue[]
      if (statement.columns().length > 0) return { id, rows: statement.all(...values), changes: 0 }
      return { id, rows: [], changes: Number(statement.run(...values).changes) }
    } catch (error) {
      const { message, errcode } = error as { readonly message?: string; readonly errcode?: number }
      // The low byte is the primary result code (SQLite, "Result and Error Codes").
      const busy = errcode !== undefined && (errcode & 0xff) === SQLITE_BUSY
      return { id, error: message ?? String(error), busy }
    }
  }

  port.on('message', (statement: CatalogStatement | 'close') => {
    if (statement === 'close') {
      statements.clear()
      database.close()
      port.close()
    } else {
      port.postMessage(execute(statement))
    }
  })
  port.postMessage({ id: 0, rows: [], changes: 0 } satisfies CatalogAnswer)
}

if (parentPort !== null) await main(parentPort)
