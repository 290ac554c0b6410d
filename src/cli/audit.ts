/** `keyfold audit …`: the audit log, read from its directory; no server is needed. */
import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'

import {
  Follower,
  keysOf,
  lastEvents,
  outcomeOf,
  principalOf,
  searchEvents,
  type FoundEvent,
} from '../audit/search.ts'
import { verifyDirectory, type ChainReport } from '../audit/verify.ts'
import { loadConfig, type SettingTexts } from '../config.ts'
import { KeyfoldError } from '../errors.ts'
import { printJson } from './output.ts'
import { addSettings } from './serve.ts'

interface AuditFlags extends SettingTexts {
  readonly config?: string
  readonly json?: boolean
}

interface TailFlags extends AuditFlags {
  readonly lines: string
  readonly follow?: boolean
}

interface SearchFlags extends AuditFlags {
  readonly key?: string
  readonly principal?: string
  readonly operation?: string
  readonly outcome?: string
  readonly request?: string
  readonly since?: string
  readonly until?: string
}

const FOLLOW_EVERY_MS = 250

export function addAudit(program: Command): void {
  const audit = program
    .command('audit')
    .summary('the record of every use')
    .description('Reads the audit log from its directory. No server is needed.')
  const add = (name: string, summary: string, description: string): Command =>
    addSettings(audit.command(name).summary(summary).description(description), [
      'data',
      'auditDirectory',
    ])
      .option('--config <file>', 'JSON file of settings')
      .option('--json', 'print JSON, an object a line')

  add('tail', 'the last events', 'Prints the last events of all chains, oldest first.')
    .option('-n, --lines <count>', 'how many', '10')
    .option('-f, --follow', 'and those that come, until it is stopped')
    .action(tail)
  add(
    'search',
    'events that match',
    'Prints the events that match everything that is given. A moment is a date and time (ISO 8601), or 30s, 15m, 2h, 7d ago.',
  )
    .option('--key <key>', 'ARN of the KMS key, or its id')
    .option('--principal <principal>', 'ARN, or the name in it')
    .option('--operation <name>', 'Encrypt, Decrypt, CreateKey, …')
    .option('--outcome <outcome>', 'Success, or an error code')
    .option('--request <id>', 'request id')
    .option('--since <moment>', 'not before')
    .option('--until <moment>', 'before')
    .action(search)
  add(
    'verify',
    'whether the log is what was written',
    'Checks that no record was changed, removed or moved, and names the first that was. The end of the newest chain can be removed unseen: keep its hash elsewhere. Exit code 1 where something is wrong.',
  ).action(verify)
}

async function tail(flags: TailFlags): Promise<void> {
  const directory = directoryOf(flags)
  if (!/^\d{1,6}$/.test(flags.lines)) {
    throw new KeyfoldError('CONFIG_INVALID', '--lines: a whole number to 999999 is needed')
  }
  const follower = flags.follow === true ? new Follower(directory) : undefined
  const count = Number(flags.lines)
  if (count > 0) for (const event of lastEvents(directory, count)) print(event, flags)
  while (follower !== undefined) {
    for (const event of follower.next()) print(event, flags)
    await sleep(FOLLOW_EVERY_MS)
  }
}

function search(flags: SearchFlags): void {
  const { since, until, ...filter } = flags
  const events = searchEvents(directoryOf(flags), {
    ...filter,
    sinceMs: momentOf('--since', since),
    untilMs: momentOf('--until', until),
  })
  for (const event of events) print(event, flags)
}

function verify(flags: AuditFlags): void {
  for (const report of verifyDirectory(directoryOf(flags))) {
    if (report.defect !== undefined) process.exitCode = 1
    if (flags.json === true) printJson(report)
    else console.log(describe(report))
  }
}

const STATES: Readonly<Record<ChainReport['state'], string>> = {
  closed: 'finished',
  open: 'not finished: it is being written, or its process was killed',
  'cut off': 'the last write was cut off',
}

function describe({ chain, records, files, state, end, defect }: ChainReport): string {
  const counts = `${chain}: ${records} records in ${files} files`
  if (defect === undefined) {
    return `${counts}, ${STATES[state]}. Its end is ${end.sequence}, hash ${end.hash}`
  }
  const { file, line, sequence, problem } = defect
  const place = line === 0 ? file : `${file}, line ${line}`
  return `${counts} are whole, then record ${sequence} is not (${place}): ${problem}`
}

function directoryOf({ data, auditDirectory, config: file }: AuditFlags): string {
  const given = { data, auditDirectory }
  const flags = Object.fromEntries(Object.entries(given).filter(([, text]) => text !== undefined))
  const { directory } = loadConfig({ flags, file }).audit
  if (existsSync(directory)) return directory
  throw new KeyfoldError('CONFIG_INVALID', `${directory} is not there: no audit log was written`)
}

const UNITS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3_600, d: 86_400 }

function momentOf(flag: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const [, count, unit] = /^(\d{1,9})([smhd])$/.exec(text) ?? []
  const moment =
    unit === undefined ? Date.parse(text) : Date.now() - Number(count) * (UNITS[unit] ?? 0) * 1000
  if (!Number.isNaN(moment)) return moment
  throw new KeyfoldError('CONFIG_INVALID', `${flag}: a moment such as 2026-01-31T12:00Z or 15m`)
}

/** One event a line, for people; what it lacks is a dash. */
function print({ text, fields }: FoundEvent, { json }: AuditFlags): void {
  if (json === true) {
    console.log(text)
    return
  }
  const more = (fields['additionalEventData'] ?? {}) as Readonly<Record<string, unknown>>
  const failed = more['failed'] === 0 ? '' : `, ${String(more['failed'])} failed`
  const counts = `${String(more['messages'])} messages, ${String(more['bytes'])} bytes${failed}`
  const shown = [
    fields['eventTime'],
    fields['eventName'],
    outcomeOf(fields),
    principalOf(fields) || '-',
    keysOf(fields).join(',') || '-',
    counts,
    fields['sourceIPAddress'] ?? '-',
    fields['requestID'],
  ]
  console.log(shown.map(printable).join('  '))
}

/** Names come from callers, and a terminal obeys control characters. */
function printable(value: unknown): string {
  return String(value).replace(/\p{Cc}/gu, '?')
}
