/**
 * A catalog's file as anyone else reads and edits it: with the SQLite that the product uses, past all its code. In a
 * process of its own, for this SQLite gives up its locks only when that ends.
 */
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'

export type Row = Readonly<Record<string, unknown>>

const PROGRAM = `
  import { DatabaseSync } from '@photostructure/sqlite'
  import { readFileSync } from 'node:fs'
  const database = new DatabaseSync(process.argv[1])
  const answers = JSON.parse(readFileSync(0, 'utf8')).map((sql) => database.prepare(sql).all())
  database.close()
  process.stdout.write(JSON.stringify(answers))`

/** Runs statements in order and gives the rows of each. Nobody else may have the catalog open. */
export function runInCatalog(dataDirectory: string, ...statements: string[]): readonly Row[][] {
  const answer = execFileSync(
    process.execPath,
    ['--input-type=module', '--eval', PROGRAM, join(dataDirectory, 'catalog.sqlite')],
    {
      cwd: join(import.meta.dirname, '../..'),
      input: JSON.stringify(statements),
      encoding: 'utf8',
      maxBuffer: 2 ** 28,
    },
  )
  return JSON.parse(answer) as Row[][]
}

/** Every statement that made a table or index. */
export function schemaOf(dataDirectory: string): readonly Row[] {
  const sql = 'select name, type, sql from sqlite_master order by name'
  return runInCatalog(dataDirectory, sql)[0] as Row[]
}

/** The schema and every row of every table. */
export function dumpCatalog(dataDirectory: string): unknown {
  const schema = schemaOf(dataDirectory)
  const tables = schema.filter(({ type }) => type === 'table').map(({ name }) => String(name))
  return [schema, runInCatalog(dataDirectory, ...tables.map((name) => `select * from "${name}"`))]
}
