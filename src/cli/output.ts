/** What commands print: tables for people, one line of JSON for scripts, one line for an error; and the exit code. */
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
  print(table.toString())
}

export function printFields(fields: Readonly<Record<string, PlainValue | undefined>>): void {
  const table = new Table({ style: { head: [], border: [] } })
  for (const [name, value] of Object.entries(fields)) table.push([name, show(value ?? '')])
  print(table.toString())
}

export function printJson(value: unknown): void {
  print(JSON.stringify(value))
}

/** Not console.log, which says nothing when the disk is full: a token that is printed once would be lost with exit 0. */
export function print(text: string): void {
  process.stdout.write(`${text}\n`, (error) => {
    if (error) failWith(error)
  })
}

function show(value: PlainValue): string {
  if (typeof value === 'string') return harmless(value)
  if (Array.isArray(value)) return (value as readonly PlainValue[]).map(show).join('\n')
  return harmless(JSON.stringify(value))
}

/** Whoever may create a key writes its description, and must not thereby write to the terminal of others. */
function harmless(text: string): string {
  return text.replace(
    /(?!\n)[\p{Cc}\p{Bidi_Control}]/gu,
    (character) => `\\u{${character.codePointAt(0)?.toString(16) ?? ''}}`,
  )
}

/** Milliseconds since 1970 as people read them. */
export function showTime(milliseconds: PlainValue | undefined): string {
  return typeof milliseconds === 'number' ? new Date(milliseconds).toISOString() : ''
}

/** Its message says it all: where in our code it was thrown is of no interest. */
export class PlainError extends Error {}

/** What was typed or set is wrong: the command ends with 2. */
class UsageError extends PlainError {}

/** What went wrong in one place: a line of the input, or a file. */
export class PlaceError extends PlainError {
  constructor(place: string, cause: unknown) {
    super(`${place}: ${textOf(cause)}`, { cause })
  }
}

/** Runs what reads flags and settings. Whatever it throws is wrong with those. */
export function readSettings<T>(read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw new UsageError(textOf(error), { cause: error })
  }
}

/** One line that says what happened, and ends the process: quietly where nobody reads what is printed any more. */
export function failWith(error: unknown): never {
  if ((error as NodeJS.ErrnoException).code === 'EPIPE') process.exit(0)
  say(textOf(error))
  process.exit(error instanceof UsageError ? 2 : 1)
}

/** A line for people, beside whatever goes to stdout. */
export function say(text: string): void {
  process.stderr.write(`keyfold: ${harmless(text)}\n`)
}

function textOf(error: unknown): string {
  if (error instanceof KeyfoldError) return `${error.message} (${error.code})`
  if (!(error instanceof Error)) return String(error)
  // The operating system's refusals say it all; anything else is a bug, and where it was helps.
  const told = error instanceof PlainError || 'syscall' in error
  return told ? error.message : (error.stack ?? error.message)
}
