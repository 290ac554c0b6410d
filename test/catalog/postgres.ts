/**
 * A PostgreSQL of the tests' own: Debian's, started on a socket in a directory that goes with it. Where it is missing
 * tests skip and say what to install; in CI they fail.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const VERSIONS = '/usr/lib/postgresql'
/** Debian's `nobody`: PostgreSQL does not run as root. */
const NOBODY = 65_534

const PROGRAMS = existsSync(VERSIONS)
  ? readdirSync(VERSIONS)
      .map((version) => join(VERSIONS, version, 'bin'))
      .filter((directory) => existsSync(join(directory, 'initdb')))
      .sort()
      .at(-1)
  : undefined

export interface Listening {
  readonly addresses: readonly string[]
  /** Lines of pg_hba.conf beside the one for the socket. */
  readonly letIn: readonly string[]
  readonly tls?: { readonly certFile: string; readonly keyFile: string }
}

const TLS_FILES = ({ certFile, keyFile }: NonNullable<Listening['tls']>) => ({
  'server.crt': certFile,
  'server.key': keyFile,
})

export class Postgres {
  readonly #programs: string
  readonly #directory: string
  readonly #owner = process.getuid?.() === 0 ? { uid: NOBODY, gid: NOBODY } : {}
  #server: ChildProcess | undefined
  #databases = 0
  #addresses = ''
  #tls = false

  constructor(programs: string) {
    this.#programs = programs
    this.#directory = mkdtempSync(join(tmpdir(), 'keyfold-pg-'))
    if (this.#owner.uid !== undefined) chownSync(this.#directory, NOBODY, NOBODY)
    execFileSync(
      join(programs, 'initdb'),
      ['--auth=trust', '--username=keyfold', '--encoding=UTF8', '--locale=C.UTF-8', this.#cluster],
      { ...this.#owner, stdio: 'ignore', cwd: this.#directory },
    )
  }

  get #cluster(): string {
    return join(this.#directory, 'cluster')
  }

  /** Where else it listens, whom it lets in there, and with what certificate; from its next start on. */
  listen({ addresses, letIn, tls }: Listening): void {
    this.#addresses = addresses.join(',')
    const hba = ['local all all trust', ...letIn].map((line) => `${line}\n`).join('')
    writeFileSync(join(this.#cluster, 'pg_hba.conf'), hba)
    for (const [from, to] of tls === undefined ? [] : Object.entries(TLS_FILES(tls))) {
      copyFileSync(to, join(this.#cluster, from))
      chmodSync(join(this.#cluster, from), 0o600)
      if (this.#owner.uid !== undefined) chownSync(join(this.#cluster, from), NOBODY, NOBODY)
    }
    this.#tls = tls !== undefined
  }

  /** Ready for connections when it resolves. */
  async start(): Promise<void> {
    const settings = [`listen_addresses=${this.#addresses}`, `ssl=${this.#tls ? 'on' : 'off'}`]
    const server = spawn(
      join(this.#programs, 'postgres'),
      ['-D', this.#cluster, '-k', this.#directory, ...settings.flatMap((one) => ['-c', one])],
      { ...this.#owner, stdio: ['ignore', 'ignore', 'pipe'], cwd: this.#directory },
    )
    this.#server = server
    await new Promise<void>((resolve, reject) => {
      let said = ''
      server.stderr.on('data', (bytes: Buffer) => {
        said += bytes.toString()
        if (said.includes('ready to accept connections')) resolve()
      })
      server.once('exit', () => reject(new Error(said)))
    })
  }

  /** SIGINT ends every session at once; SIGQUIT is a crash, after which it recovers from its log. */
  async stop(signal: 'SIGINT' | 'SIGQUIT' = 'SIGINT'): Promise<void> {
    const server = this.#server
    this.#server = undefined
    if (server === undefined) return
    const ended = new Promise((resolve) => server.once('exit', resolve))
    server.kill(signal)
    await ended
  }

  remove(): void {
    rmSync(this.#directory, { recursive: true, force: true })
  }

  /** A new database, and the URL that it is the catalog by; a copy of one that nobody is connected to. */
  async createDatabase(from?: string): Promise<string> {
    const name = `catalog${++this.#databases}`
    const template = from === undefined ? '' : ` template ${new URL(from).pathname.slice(1)}`
    await this.query(this.#url('postgres'), `create database ${name}${template}`)
    return this.#url(name)
  }

  #url(database: string): string {
    return `postgres://keyfold@localhost/${database}?host=${this.#directory}`
  }

  /** The same database by one of the addresses. */
  urlAt(address: string, url: string): string {
    return `postgres://keyfold@${address}${new URL(url).pathname}`
  }

  /** Which whoever asked for it ends. */
  async session(url: string): Promise<pg.Client> {
    const database = new URL(url).pathname.slice(1)
    const client = new pg.Client({ host: this.#directory, user: 'keyfold', database })
    await client.connect()
    return client
  }

  /** As anybody else would ask it, past all of keyfold. */
  async query(url: string, sql: string): Promise<readonly Record<string, unknown>[]> {
    const client = await this.session(url)
    try {
      const { rows } = await client.query<Record<string, unknown>>(sql)
      return rows
    } finally {
      await client.end()
    }
  }
}

/** Tests with a PostgreSQL that is there for all of them. */
export function describeWithPostgres(name: string, tests: (postgres: Postgres) => void): void {
  if (PROGRAMS === undefined) {
    const wanted = process.env['CI'] === undefined ? test.skip : test
    wanted(`${name}: install the package postgresql`, () => {
      expect(PROGRAMS, 'CI needs PostgreSQL: install the package postgresql').toBeDefined()
    })
    return
  }
  const postgres = new Postgres(PROGRAMS)
  describe(name, () => {
    beforeAll(() => postgres.start())
    afterAll(async () => {
      // As a crash: nobody needs what it would write down first.
      await postgres.stop('SIGQUIT')
      postgres.remove()
    })
    tests(postgres)
  })
}
