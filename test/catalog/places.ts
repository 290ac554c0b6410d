/** Where a catalog may be: a file of SQLite or a database of PostgreSQL, opened, read and edited alike. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe } from 'vitest'

import { openCatalog, type Catalog } from '../../dist/catalog/catalog.js'
import { loadConfig } from '../../dist/config.js'
import { dumpCatalog, runInCatalog, schemaOf, type Row } from './file.ts'
import { describeWithPostgres, type Postgres } from './postgres.ts'

/** A catalog of its own for each test. */
export interface Place {
  readonly shared: boolean
  open(region?: string, account?: string): Promise<Catalog>
  /** Past all of keyfold. */
  run(...statements: string[]): Promise<void>
  schema(): Promise<readonly Row[]>
  /** The schema and every row of every table. */
  dump(): Promise<unknown>
}

/** The same tests on both. */
export function describeCatalogs(name: string, tests: (place: Place) => void): void {
  describe(`${name}, embedded`, () => {
    tests(embeddedPlace())
  })
  describeWithPostgres(`${name}, on PostgreSQL`, (postgres) => tests(sharedPlace(postgres)))
}

const REGION = 'eu-west-1'
const ACCOUNT = '111122223333'

function embeddedPlace(): Place {
  let dataDirectory = ''
  beforeEach(() => {
    dataDirectory = mkdtempSync(join(tmpdir(), 'keyfold-catalog-'))
  })
  afterEach(() => rmSync(dataDirectory, { recursive: true, force: true }))
  return {
    shared: false,
    open: (region = REGION, account = ACCOUNT) => openCatalog({ dataDirectory, region, account }),
    run: async (...statements) => void runInCatalog(dataDirectory, ...statements),
    schema: async () => schemaOf(dataDirectory),
    dump: async () => dumpCatalog(dataDirectory),
  }
}

function sharedPlace(postgres: Postgres): Place {
  let url = ''
  beforeEach(async () => {
    url = await postgres.createDatabase()
  })
  const schema = (): Promise<readonly Row[]> =>
    postgres.query(
      url,
      `select table_name, column_name, data_type, collation_name, is_nullable, column_default
         from information_schema.columns where table_schema = 'public'
       union all select tablename, indexname, indexdef, '', '', ''
         from pg_indexes where schemaname = 'public'
       union all select conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '', ''
         from pg_constraint where connamespace = 'public'::regnamespace
       order by 1, 2, 3`,
    )
  return {
    shared: true,
    open: (region = REGION, account = ACCOUNT) =>
      openCatalog({
        dataDirectory: '/nowhere',
        catalog: loadConfig({ flags: { catalog: url } }).catalog,
        region,
        account,
      }),
    run: async (...statements) => {
      for (const sql of statements) await postgres.query(url, sql)
    },
    schema,
    dump: async () => {
      const tables = await postgres.query(
        url,
        `select tablename as name from pg_tables where schemaname = 'public' order by 1`,
      )
      const rows = []
      for (const { name } of tables) {
        rows.push(await postgres.query(url, `select * from "${String(name)}" order by 1`))
      }
      return [await schema(), tables, rows]
    },
  }
}
