/**
 * Kysely's view of the catalog worker: a dialect with one connection. Transactions take turns and begin
 * IMMEDIATE: one that began by reading and wrote later would fail at once when another wrote in between.
 */
import { Worker } from 'node:worker_threads'

import {
  CompiledQuery,
  sql,
  SqliteAdapter,
  SqliteIntrospector,
  SqliteQueryCompiler,
  type DatabaseConnection,
  type Dialect,
  type DialectAdapter,
  type DatabaseIntrospector,
  type Driver,
  type Kysely,
  type QueryCompiler,
  type QueryResult,
} from 'kysely'

import { KeyfoldError } from '../errors.ts'
import { ConflictError } from './conflict.ts'
import type { CatalogTables } from './schema.ts'

export interface CatalogWorkerData {
  readonly file: string
}

export interface CatalogStatement {
  readonly id: number
  readonly sql: string
  readonly parameters: readonly unknown[]
}

export type CatalogAnswer =
  | { readonly id: number; readonly rows: readonly unknown[]; readonly changes: number }
  | { readonly id: number; readonly error: string; readonly busy: boolean }

export class SqliteDialect implements Dialect {
  readonly #file: string

  constructor(file: string) {
    this.#file = file
  }

  createDriver(): Driver {
    return new SqliteDriver(this.#file)
  }

  createQueryCompiler(): QueryCompiler {
    return new SqliteQueryCompiler()
  }

  createAdapter(): DialectAdapter {
    return new SqliteAdapter()
  }

  createIntrospector(db: Kysely<unknown>): DatabaseIntrospector {
    return new SqliteIntrospector(db)
  }
}

/**
 * Overwrites what is no longer there. secure_delete clears what is freed, but not what a page keeps of a row that moved
 * to another page; a VACUUM writes every page anew. Then the write-ahead log, which holds the old pages, is emptied.
 */
export async function scrubFiles(db: Kysely<CatalogTables>): Promise<void> {
  await sql`vacuum`.execute(db)
  await sql`pragma wal_checkpoint(truncate)`.execute(db)
}

class SqliteDriver implements Driver {
  readonly #file: string
  #connection: WorkerConnection | undefined
  /** Resolves when the connection is free; each holder appends itself. */
  #turn: Promise<void> = Promise.resolve()
  #giveBack: (() => void) | undefined

  constructor(file: string) {
    this.#file = file
  }

  async init(): Promise<void> {
    this.#connection = await WorkerConnection.open(this.#file)
  }

  async acquireConnection(): Promise<DatabaseConnection> {
    const previous = this.#turn
    let giveBack = (): void => undefined
    this.#turn = new Promise((resolve) => {
      giveBack = resolve
    })
    await previous
    this.#giveBack = giveBack
    if (this.#connection === undefined)
      throw new KeyfoldError('CATALOG_UNAVAILABLE', 'it is closed')
    return this.#connection
  }

  async releaseConnection(): Promise<void> {
    this.#giveBack?.()
  }

  async beginTransaction(connection: DatabaseConnection): Promise<void> {
    await connection.executeQuery(CompiledQuery.raw('begin immediate'))
  }

  async commitTransaction(connection: DatabaseConnection): Promise<void> {
    await connection.executeQuery(CompiledQuery.raw('commit'))
  }

  async rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    await connection.executeQuery(CompiledQuery.raw('rollback'))
  }

  async destroy(): Promise<void> {
    await this.#connection?.close()
    this.#connection = undefined
  }
}

interface Waiting {
  readonly resolve: (answer: QueryResult<never>) => void
  readonly reject: (error: Error) => void
}

class WorkerConnection implements DatabaseConnection {
  readonly #worker: Worker
  readonly #waiting = new Map<number, Waiting>()
  #lastId = 0

  static open(file: string): Promise<WorkerConnection> {
    const workerData: CatalogWorkerData = { file }
    // No environment goes to the worker: it needs none, and secrets may stand there.
    const worker = new Worker(new URL('./worker.js', import.meta.url), { workerData, env: {} })
    return new Promise((resolve, reject) => {
      worker.once('error', (cause) =>
        reject(
          new KeyfoldError(
            'CATALOG_UNAVAILABLE',
            /locked|busy/i.test(cause.message)
              ? 'another keyfold process has this data directory open'
              : cause.message,
            cause,
          ),
        ),
      )
      worker.once('message', () => resolve(new WorkerConnection(worker)))
    })
  }

  constructor(worker: Worker) {
    this.#worker = worker
    worker.unref()
    worker.on('message', (answer: CatalogAnswer) => this.#settle(answer))
    worker.on('error', (cause) => this.#failAll(cause))
    worker.on('exit', () => this.#failAll(undefined))
  }

  executeQuery<R>(query: CompiledQuery): Promise<QueryResult<R>> {
    const id = ++this.#lastId
    return new Promise((resolve, reject) => {
      if (this.#waiting.size === 0) this.#worker.ref()
      this.#waiting.set(id, { resolve: resolve as Waiting['resolve'], reject })
      const statement: CatalogStatement = { id, sql: query.sql, parameters: query.parameters }
      this.#worker.postMessage(statement)
    })
  }

  async *streamQuery<R>(): AsyncIterableIterator<QueryResult<R>> {
    throw new KeyfoldError('INTERNAL', 'the embedded catalog answers in pages, not streams')
  }

  close(): Promise<void> {
    return new Promise((resolve) => {
      this.#worker.once('exit', () => resolve())
      this.#worker.ref()
      this.#worker.postMessage('close')
    })
  }

  #settle(answer: CatalogAnswer): void {
    const waiting = this.#waiting.get(answer.id)
    this.#waiting.delete(answer.id)
    if (this.#waiting.size === 0) this.#worker.unref()
    if ('error' in answer) {
      waiting?.reject(answer.busy ? new ConflictError(answer.error) : new Error(answer.error))
    } else {
      waiting?.resolve({
        rows: answer.rows as never[],
        numAffectedRows: BigInt(answer.changes),
      })
    }
  }

  #failAll(cause: unknown): void {
    for (const { reject } of this.#waiting.values()) {
      reject(new KeyfoldError('CATALOG_UNAVAILABLE', undefined, cause))
    }
    this.#waiting.clear()
  }
}
