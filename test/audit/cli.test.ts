/** `keyfold audit`: what people see of the log, without a server. */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { beforeAll, describe, expect, test } from 'vitest'

import { GroupBuilder } from '../../dist/audit/event.js'
import { filesOf, KEY_ARN, makeEvent, newDirectory, newWriter, openLog, writeChain } from './log.ts'

const MAIN = join(import.meta.dirname, '../../dist/cli/main.js')
const OTHER_KEY = KEY_ARN.replace('1234abcd', 'ffffffff')
const START_MS = Date.parse('2026-03-01T12:00:00Z')

let directory: string

/** Six events, a minute apart, in two chains. */
const EVENTS = [
  { requestId: 'e0' },
  { requestId: 'e1', operation: 'Decrypt' },
  { requestId: 'e2', principalArn: 'arn:aws:iam::111122223333:role/batch/loader' },
  { requestId: 'e3', outcome: 'ACCESS_DENIED' },
  { requestId: 'e4', keyArns: [OTHER_KEY, KEY_ARN] },
  { requestId: 'e5', operation: 'Decrypt', keyArns: [] },
].map((fields, i) => makeEvent({ timeMs: START_MS + 60_000 * i, ...fields }))

beforeAll(() => {
  directory = newDirectory()
  for (const group of [EVENTS.slice(0, 3), EVENTS.slice(3)]) {
    const writer = newWriter(directory)
    writer.append(GroupBuilder.of(group).build())
    writer.close()
  }
})

function run(...argv: readonly string[]): {
  status: number | null
  stdout: string
  stderr: string
} {
  const flags = ['--audit-directory', directory]
  return spawnSync(process.execPath, [MAIN, 'audit', ...argv, ...flags], { encoding: 'utf8' })
}

/** Request ids of the events that were printed. */
function found(...argv: readonly string[]): readonly string[] {
  const { status, stdout, stderr } = run(...argv, '--json')
  expect(status, stderr).toBe(0)
  const lines = stdout.split('\n').slice(0, -1)
  return lines.map((line) => (JSON.parse(line) as { requestID: string }).requestID)
}

describe('audit search', () => {
  test('finds all events, in their order, as they were written', () => {
    const { stdout } = run('search', '--json')
    const written = filesOf(directory)
      .flatMap((file) => readFileSync(file, 'utf8').split('\n'))
      .filter((line) => line.includes('"eventName"'))
    expect(stdout).toBe(written.map((line) => `${line}\n`).join(''))
    expect(found('search')).toEqual(['e0', 'e1', 'e2', 'e3', 'e4', 'e5'])
  })

  test('finds by key, principal, operation, outcome and request, all at once', () => {
    const id = KEY_ARN.split('/')[1] as string
    expect(found('search', '--key', OTHER_KEY)).toEqual(['e4'])
    expect(found('search', '--key', id)).toEqual(['e0', 'e1', 'e2', 'e3', 'e4'])
    expect(found('search', '--principal', 'loader')).toEqual(['e2'])
    expect(found('search', '--principal', 'role/batch/loader')).toEqual(['e2'])
    expect(found('search', '--principal', 'oader')).toEqual([])
    expect(found('search', '--operation', 'Decrypt')).toEqual(['e1', 'e5'])
    expect(found('search', '--outcome', 'ACCESS_DENIED')).toEqual(['e3'])
    expect(found('search', '--outcome', 'Success', '--key', id)).toEqual(['e0', 'e1', 'e2', 'e4'])
    expect(found('search', '--request', 'e4')).toEqual(['e4'])
    expect(found('search', '--request', 'e4', '--operation', 'Decrypt')).toEqual([])
  })

  test('finds between two moments, the second one excluded', () => {
    const between = (since: string, until: string): readonly string[] =>
      found('search', '--since', since, '--until', until)
    expect(between('2026-03-01T12:01:00Z', '2026-03-01T12:03:00Z')).toEqual(['e1', 'e2'])
    expect(found('search', '--since', '1s')).toEqual([])
    const { status, stderr } = run('search', '--since', 'soon')
    expect(status).toBe(1)
    expect(stderr).toContain('--since')
  })

  test('prints lines that a terminal cannot be misled by', () => {
    const evil = newDirectory()
    const writer = newWriter(evil)
    writer.append(GroupBuilder.of([makeEvent({ operation: 'a\u001b[2Jb\nc' })]).build())
    writer.close()
    const argv = [MAIN, 'audit', 'search', '--audit-directory', evil]
    const printed = execFileSync(process.execPath, argv, { encoding: 'utf8' })
    expect(printed.trimEnd()).toMatch(/^[\x20-\x7e]+$/)
    expect(printed).toContain('a?[2Jb?c')
  })

  test('of a directory that is not there says so', () => {
    const { status, stderr } = spawnSync(
      process.execPath,
      [MAIN, 'audit', 'search', '--audit-directory', join(directory, 'none')],
      { encoding: 'utf8' },
    )
    expect(status).toBe(1)
    expect(stderr).toContain('CONFIG_INVALID')
  })
})

describe('audit tail', () => {
  test('shows the last events of all chains', () => {
    expect(found('tail')).toHaveLength(6)
    expect(found('tail', '-n', '4')).toEqual(['e2', 'e3', 'e4', 'e5'])
    expect(run('tail', '-n', 'x').status).toBe(1)
  })

  test('follows what is written, by writers that come later too, each event once', async () => {
    const followed = newDirectory()
    const log = await openLog(followed, 'strict')
    await log.record(makeEvent({ timeMs: Date.now(), requestId: 'old' }))
    const argv = [MAIN, 'audit', 'tail', '-f', '-n', '1', '--json', '--audit-directory', followed]
    const child = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'inherit'] })
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    const next = async (): Promise<string> =>
      (JSON.parse(String((await lines.next()).value)) as { requestID: string }).requestID
    expect(await next()).toBe('old')
    for (let i = 0; i < 5; i++) {
      await log.record(makeEvent({ timeMs: Date.now(), requestId: `new-${i}` }))
      expect(await next()).toBe(`new-${i}`)
    }
    const second = await openLog(followed, 'strict')
    await second.record(makeEvent({ timeMs: Date.now(), requestId: 'of another' }))
    expect(await next()).toBe('of another')
    child.kill()
    await once(child, 'exit')
    await log.close()
    await second.close()
  })
})

describe('audit verify', () => {
  test('says how many records each chain has, and ends with 0', () => {
    const { status, stdout } = run('verify')
    expect(status).toBe(0)
    expect(stdout.match(/3 records in 1 files, finished/g)).toHaveLength(2)
  })

  test('names the record that was changed, and ends with 1', () => {
    const tampered = newDirectory()
    writeChain(tampered, [5])
    const [file] = filesOf(tampered) as [string]
    const lines = readFileSync(file, 'utf8').split('\n')
    writeFileSync(file, lines.with(3, (lines[3] as string).replace('alice', 'malus')).join('\n'))
    const argv = [MAIN, 'audit', 'verify', '--audit-directory', tampered]
    const { status, stdout } = spawnSync(process.execPath, argv, { encoding: 'utf8' })
    expect(status).toBe(1)
    expect(stdout).toContain('2 records')
    expect(stdout).toContain(`record 4 is not (${file}, line 4): the record was changed`)
    const json = spawnSync(process.execPath, [...argv, '--json'], { encoding: 'utf8' })
    expect(json.status).toBe(1)
    expect(JSON.parse(json.stdout)).toMatchObject({ defect: { file, line: 4, sequence: 4 } })
  })

  test('calls a write that was cut off by its name, and ends with 0', () => {
    const cut = newDirectory()
    writeChain(cut, [5])
    const [file] = filesOf(cut) as [string]
    const bytes = readFileSync(file)
    writeFileSync(file, bytes.subarray(0, bytes.length - 400))
    const argv = [MAIN, 'audit', 'verify', '--audit-directory', cut]
    const { status, stdout } = spawnSync(process.execPath, argv, { encoding: 'utf8' })
    expect(status).toBe(0)
    expect(stdout).toContain('4 records')
    expect(stdout).toContain('the last write was cut off')
  })
})
