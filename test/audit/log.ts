/** Events, chains and directories for the tests of the audit log. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'

import { openAuditLog, type AuditLog } from '../../dist/audit/audit-log.js'
import { ChainWriter } from '../../dist/audit/chain-writer.js'
import { GroupBuilder, type AuditEvent } from '../../dist/audit/event.js'
import { chooseEncodeEvents } from '../../dist/audit/native-lines.js'
import { verifyDirectory, type ChainReport } from '../../dist/audit/verify.js'

export const KEY_ARN = 'arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab'
/** What a writer begins a new file after. */
export const FILE_BYTES = 64 * 1024

let events = 0

export function makeEvent(fields: Partial<AuditEvent> = {}): AuditEvent {
  return {
    timeMs: Date.parse('2026-03-01T12:00:00.000Z') + ++events,
    requestId: `request-${events}`,
    principalArn: 'arn:aws:iam::111122223333:user/alice',
    credentialId: '0123456789abcdef01',
    sourceAddress: '192.0.2.7',
    door: 'v1',
    operation: 'Encrypt',
    keyArns: [KEY_ARN],
    encryptionContext: undefined,
    messages: 1,
    bytes: 64,
    failed: 0,
    outcome: 'Success',
    decidedBy: undefined,
    parameters: undefined,
    ...fields,
  }
}

export function makeEvents(count: number): readonly AuditEvent[] {
  return Array.from({ length: count }, () => makeEvent())
}

const directories: string[] = []

/** Gone when the tests of the file are over. */
export function newDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'keyfold-audit-'))
  directories.push(directory)
  return directory
}

afterAll(() => {
  for (const directory of directories) rmSync(directory, { recursive: true, force: true })
})

export function newWriter(
  directory: string,
  options: { readonly fileBytesMax?: number; readonly native?: boolean } = {},
): ChainWriter {
  const { fileBytesMax = FILE_BYTES, native = true } = options
  const encodeEvents = chooseEncodeEvents(native)
  return new ChainWriter({ directory, region: 'us-east-1', encodeEvents, fileBytesMax })
}

/** A chain of these groups; of small files, each group begins one. */
export function writeChain(
  directory: string,
  groups: readonly number[],
  options: { readonly fileBytesMax?: number; readonly close?: boolean } = {},
): ChainWriter {
  const { fileBytesMax } = options
  const writer = newWriter(directory, fileBytesMax === undefined ? {} : { fileBytesMax })
  for (const records of groups) writer.append(GroupBuilder.of(makeEvents(records)).build())
  if (options.close !== false) writer.close()
  return writer
}

export function openLog(
  directory: string,
  mode: 'bounded' | 'strict',
  options: {
    readonly spillRecordsMax?: number
    readonly deadlineMs?: number
    readonly log?: (message: string) => void
  } = {},
): Promise<AuditLog> {
  const { spillRecordsMax = 100_000, log = () => undefined, deadlineMs } = options
  return openAuditLog({
    audit: { mode, directory, spillRecordsMax, fileBytesMax: FILE_BYTES },
    region: 'us-east-1',
    crypto: 'auto',
    log,
    ...(deadlineMs === undefined ? {} : { deadlineMs }),
  })
}

export function verify(directory: string): readonly ChainReport[] {
  return [...verifyDirectory(directory)]
}

/** The one chain that there is. */
export function verifyOne(directory: string): ChainReport {
  const reports = verify(directory)
  if (reports.length !== 1) throw new Error(`${reports.length} chains`)
  return reports[0] as ChainReport
}

export function filesOf(directory: string): readonly string[] {
  return readdirSync(directory)
    .sort()
    .map((name) => join(directory, name))
}

/** Events as any JSON reader sees them, in the order of the files. */
export function readEvents(directory: string): readonly Readonly<Record<string, unknown>>[] {
  return filesOf(directory)
    .flatMap((file) => readFileSync(file, 'utf8').replace(/\0/g, '').split('\n'))
    .filter((line) => line.endsWith('}'))
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .filter((line) => line['eventName'] !== undefined)
}
