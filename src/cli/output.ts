/** What commands print: tables for people, JSON for scripts, one line for an error. */
import Table from 'cli-table3'

import { KeyfoldError } from '../errors.ts'
import type { PlainValue } from '../format/msgpack.ts'

/** One object a row; columns are named by its keys. */
export function printRows(
  rows: readonly Readonly<Record<string, PlainValue>>[],
  columns: readonly string[],
): void {
  const table = new Table({ head: [...columns], style: { head: [], border: [] } })
  for (const row of rows) table.push(columns.map((column) => show(row[column] ?? '')))
  console.log(table.toString())
}

export function printFields(fields: Readonly<Record<string, PlainValue | undefined>>): void {
  const table = new Table({ style: { head: [], border: [] } })
  for (const [name, value] of Object.entries(fields)) table.push([name, show(value ?? '')])
  console.log(table.toString())
}

export function printJson(value: unknown): void {
  console.log(JSON.stringify(value))
}

function show(value: PlainValue): string {
  if (typeof value === 'string') return value
  if (Array.isArray(value)) return (value as readonly PlainValue[]).map(show).join('\n')
  return JSON.stringify(value)
}

/** Milliseconds since 1970 as people read them. */
export function showTime(milliseconds: PlainValue | undefined): string {
  return typeof milliseconds === 'number' ? new Date(milliseconds).toISOString() : ''
}

/** One line that says what happened, and ends the process. */
export function failWith(error: unknown): never {
  if (error instanceof KeyfoldError) {
    process.stderr.write(`keyfold: ${error.message} (${error.code})\n`)
  } else {
    process.stderr.write(
      `keyfold: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
    )
  }
  process.exit(1)
}
