/**
 * Kysely's view of a shared catalog: PostgreSQL by way of `pg`. The queries are those of the embedded catalog; what
 * differs is settled here: how bytes and texts are called, how numbers come back, and which failures mean what.
 *
 * Every statement ends: the server has its own bounds, and a connection that does not answer within ours is thrown
 * away, for a network that loses packets ends no connection. Either side asks of one that is silent whether the other
 * still is there. No error holds more than the server's message: what it adds (DETAIL) may hold values of rows.
 */
import { readFileSync } from 'node:fs'
import { Socket } from 'node:net'
import {
  PostgresDialect,
  PostgresQueryCompiler,
  type DataTypeNode,
  type PostgresPool,
  type PostgresPoolClient,
  type QueryCompiler,
} from 'kysely'
import pg from 'pg'

import type { Config } from '../config.ts'
import { KeyfoldError } from '../errors.ts'
import {
  CATALOG_CONNECT_MS_MAX,
  CATALOG_IDLE_TRANSACTION_MS_MAX,
  CATALOG_LOCK_MS_MAX,
  CATALOG_PEER_GONE_MS_MAX,
} from '../limits.ts'
import { ConflictError } from './conflict.ts'

export type PostgresAddress = NonNullable<Config['catalog']>

export interface PostgresOptions {
  readonly address: PostgresAddress
  readonly connectionsMax: number
  /** Of one statement; the connection gets a little longer to say that it was stopped. */
  readonly statementMsMax: number
}

export class SharedDialect extends PostgresDialect {
  constructor(options: PostgresOptions) {
    super({ pool: poolOf(options) })
  }

  override createQueryCompiler(): QueryCompiler {
    return new Compiler()
  }
}

/** The schema is written for both databases: SQLite's names of types are understood here. */
class Compiler extends PostgresQueryCompiler {
  protected override visitDataType(node: DataTypeNode): void {
    if (node.dataType === 'blob') this.append('bytea')
    // Ids, aliases and markers of pages sort by their bytes, whatever the language of the database.
    else if (node.dataType === 'text') this.append('text collate "C"')
    else super.visitDataType(node)
  }
}

function poolOf({ address, connectionsMax, statementMsMax }: PostgresOptions): PostgresPool {
  const answerMsMax = statementMsMax + ANSWER_MS
  const sockets = new Sockets()
  const pool = new pg.Pool({
    ...connectionOf(address, sockets),
    max: connectionsMax,
    statement_timeout: statementMsMax,
    lock_timeout: Math.min(CATALOG_LOCK_MS_MAX, statementMsMax),
    // A node that stops within a transaction holds the row that every change needs.
    idle_in_transaction_session_timeout: CATALOG_IDLE_TRANSACTION_MS_MAX,
  })
  // Without a listener the end of an idle connection would be the end of the process.
  pool.on('error', () => undefined)
  return {
    connect: async () => {
      try {
        return new Connection(await pool.connect(), answerMsMax)
      } catch (error) {
        throw failureOf(error)
      }
    },
    end: async () => {
      await pool.end()
      sockets.abandon()
    },
  }
}

/** So long after its own bound the server may take to say that a statement was stopped. */
const ANSWER_MS = 1_000

function connectionOf(
  { host, port, database, user, password, tls }: PostgresAddress,
  sockets: Sockets,
) {
  return {
    host,
    port,
    database,
    user,
    password: () => password() ?? '',
    ssl: tls === undefined ? false : encryptionOf(tls),
    types: { getTypeParser },
    application_name: 'keyfold',
    connectionTimeoutMillis: CATALOG_CONNECT_MS_MAX,
    stream: () => sockets.create(),
    // Node probes an idle connection each second from then on, and ends it after ten without an answer.
    keepAlive: true,
    keepAliveInitialDelayMillis: CATALOG_CONNECT_MS_MAX,
    options: PEER_GONE,
  }
}

/** By default a server keeps the session of a node that vanished for two hours, and there are 100 of them. */
const PEER_GONE = [
  `-c tcp_keepalives_idle=${CATALOG_PEER_GONE_MS_MAX / 3_000}`,
  `-c tcp_keepalives_interval=${CATALOG_PEER_GONE_MS_MAX / 3_000}`,
  '-c tcp_keepalives_count=2',
  // Where something was sent to it that it never confirmed there are no probes.
  `-c tcp_user_timeout=${CATALOG_PEER_GONE_MS_MAX}`,
].join(' ')

/** The sockets of a pool. One that says goodbye to nobody would keep the process for a quarter of an hour. */
class Sockets {
  readonly #open = new Set<Socket>()

  create(): Socket {
    const socket = new Socket()
    this.#open.add(socket)
    socket.once('close', () => this.#open.delete(socket))
    return socket
  }

  /** What is sent is sent; nobody waits for those that do not answer. */
  abandon(): void {
    for (const socket of this.#open) {
      socket.unref()
      setTimeout(() => socket.destroy(), CATALOG_CONNECT_MS_MAX).unref()
    }
  }
}

/** Read at each start; whose certificate the server shows is always checked, and its name. */
function encryptionOf({ caFile, certFile, keyFile }: NonNullable<PostgresAddress['tls']>) {
  return {
    ...(caFile === undefined ? {} : { ca: readFileSync(caFile) }),
    ...(certFile === undefined ? {} : { cert: readFileSync(certFile) }),
    ...(keyFile === undefined ? {} : { key: readFileSync(keyFile) }),
    rejectUnauthorized: true,
    minVersion: 'TLSv1.2' as const,
  }
}

/** One that is lent out. After a failure that is not the server's own answer nothing is sent on it, and nobody gets it again. */
class Connection implements PostgresPoolClient {
  readonly #client: pg.PoolClient
  readonly #answerMsMax: number
  #failure: Error | undefined

  constructor(client: pg.PoolClient, answerMsMax: number) {
    this.#client = client
    this.#answerMsMax = answerMsMax
    client.on('error', this.#break)
  }

  readonly #break = (error: Error): void => {
    this.#failure ??= failureOf(error)
  }

  readonly query = (async (sql: string, parameters: readonly unknown[]) => {
    // Such as the ROLLBACK of what failed: it would wait for as long again.
    if (this.#failure !== undefined) throw this.#failure
    let timer: NodeJS.Timeout | undefined
    const tooLate = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(
        () => reject(new Error('it did not answer in time')),
        this.#answerMsMax,
      ).unref()
    })
    try {
      return await Promise.race([this.#client.query(sql, [...parameters]), tooLate])
    } catch (error) {
      const failure = failureOf(error)
      if (!(error instanceof pg.DatabaseError) || isEnd(error)) this.#failure ??= failure
      throw failure
    } finally {
      clearTimeout(timer)
    }
  }) as unknown as PostgresPoolClient['query']

  release(): void {
    this.#client.off('error', this.#break)
    this.#client.release(this.#failure !== undefined)
  }
}

// Hints.

const CHANNEL = 'keyfold'

/**
 * NOTIFY that something has changed, so that nobody waits for the next poll. Only a hint: what is lost while a connection
 * is away is found by polling, and a database that knows no NOTIFY does without.
 */
export class Hints {
  readonly #address: PostgresAddress
  readonly #hinted: () => void
  readonly #sockets = new Sockets()
  #client: pg.Client | undefined
  #opening = false
  #sending = false
  #sendAgain = false
  #closed = false

  constructor(address: PostgresAddress, hinted: () => void) {
    this.#address = address
    this.#hinted = hinted
  }

  /** Listens, if it does not already. Never rejects. */
  async listen(): Promise<void> {
    if (this.#client !== undefined || this.#opening || this.#closed) return
    this.#opening = true
    const client = new pg.Client({
      ...connectionOf(this.#address, this.#sockets),
      query_timeout: CATALOG_CONNECT_MS_MAX,
    })
    client.on('error', () => this.#drop(client))
    client.on('end', () => this.#drop(client))
    client.on('notification', () => this.#hinted())
    try {
      await client.connect()
      await client.query(`listen ${CHANNEL}`)
      if (this.#closed) this.#drop(client)
      else this.#client = client
    } catch {
      this.#drop(client)
    } finally {
      this.#opening = false
    }
  }

  /** What changed while one was under way is told by one more. */
  send(): void {
    this.#sendAgain = true
    if (!this.#sending) void this.#sendWhileAsked()
  }

  async #sendWhileAsked(): Promise<void> {
    this.#sending = true
    while (this.#sendAgain && this.#client !== undefined) {
      this.#sendAgain = false
      const client = this.#client
      await client.query('select pg_notify($1, $2)', [CHANNEL, '']).catch(() => this.#drop(client))
    }
    this.#sending = false
  }

  /** One that does not answer is given up; the next change listens on another. */
  #drop(client: pg.Client): void {
    if (this.#client === client) this.#client = undefined
    client.end().catch(() => undefined)
  }

  close(): void {
    this.#closed = true
    if (this.#client !== undefined) this.#drop(this.#client)
    this.#sockets.abandon()
  }
}

// What failures mean (PostgreSQL, Appendix A: Error Codes).

const SERIALIZATION_FAILURE = '40001'
const DEADLOCK_DETECTED = '40P01'
/** U+0000, which PostgreSQL keeps in no text. */
const CHARACTER_NOT_IN_REPERTOIRE = '22021'
const CONFLICTS: ReadonlySet<string> = new Set([SERIALIZATION_FAILURE, DEADLOCK_DETECTED])
/** Classes: connection exception, invalid authorization, insufficient resources, operator intervention, system error. */
const UNAVAILABLE_CLASSES: ReadonlySet<string> = new Set(['08', '28', '53', '57', '58'])
/** Codes: invalid catalog name; lock not available; idle in transaction for too long; a server that only reads. */
const UNAVAILABLE: ReadonlySet<string> = new Set(['3D000', '55P03', '25P03', '25006'])

function isEnd({ code = '' }: pg.DatabaseError): boolean {
  // query_canceled is the end of a statement, not of its connection.
  return code.startsWith('57P') || code === '25P03' || code.startsWith('08')
}

const INVALID_AUTHORIZATION_CLASS = '28'

function failureOf(error: unknown): Error {
  if (!(error instanceof pg.DatabaseError)) return unavailable(error, isOfPassword(error))
  const { code = '', message } = error
  if (CONFLICTS.has(code)) return new ConflictError(message)
  if (UNAVAILABLE_CLASSES.has(code.slice(0, 2)) || UNAVAILABLE.has(code)) {
    return unavailable(new Error(message), code.startsWith(INVALID_AUTHORIZATION_CLASS))
  }
  if (code === CHARACTER_NOT_IN_REPERTOIRE) {
    return new KeyfoldError('REQUEST_MALFORMED', 'a text holds a character that none may hold')
  }
  return new Error(message)
}

/** Why is for operators: callers are not told who the database is. */
function unavailable(cause: unknown, isOfPassword: boolean): KeyfoldError {
  const named = isOfPassword
    ? new Error('catalog, catalogPasswordFile: it does not let this user in', { cause })
    : cause
  return new KeyfoldError('CATALOG_UNAVAILABLE', undefined, named)
}

/** The driver's own: a server wants a password and there is none, or does not know it itself. */
function isOfPassword(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith('SASL:')
}

// How values come back.

const INT8 = pg.types.builtins.INT8
const BYTEA = pg.types.builtins.BYTEA

type Parser = (text: string) => unknown

/** As SQLite gives them. */
function getTypeParser(oid: number, format?: 'text' | 'binary'): Parser {
  if (oid === INT8) return wholeNumber
  if (oid === BYTEA) return bytes
  return pg.types.getTypeParser(oid, format as 'text') as Parser
}

function wholeNumber(text: string): number {
  const number = Number(text)
  if (!Number.isSafeInteger(number)) {
    throw new KeyfoldError('CATALOG_UNAVAILABLE', 'it holds a number beyond 2^53')
  }
  return number
}

function bytes(text: string): Uint8Array {
  // bytea_output=hex, the default: \x and two digits a byte.
  return Uint8Array.from(Buffer.from(text.slice(2), 'hex'))
}
