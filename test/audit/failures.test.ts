/**
 * The audit log on disks that are full or do not answer, under kill -9, and when its worker dies: what was promised is
 * on the disk, once; callers are refused and never kept waiting; and it goes on by itself.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'

import type { AuditLog } from '../../dist/audit/audit-log.js'
import { KeyfoldError } from '../../dist/errors.js'
import { fillDisk, mountDisk } from './disk.ts'
import {
  makeEvent,
  newDirectory,
  openLog,
  readEvents,
  verify,
  verifyOne,
  writeChain,
} from './log.ts'

async function codeOf(work: () => Promise<void> | undefined): Promise<string> {
  try {
    await work()
    return 'taken'
  } catch (error) {
    return (error as KeyfoldError).code
  }
}

/** Records once the disk takes records again. */
async function recordWhenTaken(log: AuditLog, requestId: string): Promise<void> {
  while ((await codeOf(async () => log.assertAvailable())) !== 'taken') await sleep(20)
  await log.recordDurably(makeEvent({ requestId }))
}

const requestIds = (directory: string): unknown[] =>
  readEvents(directory).map((event) => event['requestID'])

describe('groups', () => {
  test('hold everything that arrives while one is written', async () => {
    const directory = newDirectory()
    const log = await openLog(directory, 'strict')
    const first = log.record(makeEvent({ requestId: 'first' }))
    // The first group is sent when this tick is over; these come while it is with the disk.
    await new Promise((resolve) => setImmediate(resolve))
    const others = Array.from(
      { length: 500 },
      (_, i) => void log.record(makeEvent({ requestId: `r${i}` })),
    )
    for (const durable of [first, ...others]) await durable
    await log.close()
    expect(log.counters.auditGroups).toBe(2)
    expect(requestIds(directory)).toEqual(['first', ...others.map((_, i) => `r${i}`)])
    expect(verifyOne(directory)).toMatchObject({ records: 501, state: 'closed', defect: undefined })
  })

  test('that are larger than one write go one after the other', async () => {
    const directory = newDirectory()
    const log = await openLog(directory, 'bounded')
    const ids = Array.from({ length: 10_000 }, (_, i) => `r${i}`)
    for (const requestId of ids) void log.record(makeEvent({ requestId }))
    await log.flush()
    expect(log.counters).toMatchObject({ auditRecords: 10_000, auditWaiting: 0, auditRefused: 0 })
    await log.close()
    expect(requestIds(directory)).toEqual(ids)
    expect(verifyOne(directory)).toMatchObject({
      records: 10_000,
      state: 'closed',
      defect: undefined,
    })
  })

  test('take no more than may wait in memory, and everything that was taken is written', async () => {
    const directory = newDirectory()
    const log = await openLog(directory, 'bounded', { spillRecordsMax: 100 })
    let refused = 0
    for (let i = 0; i < 150; i++) {
      try {
        void log.record(makeEvent())
      } catch (error) {
        expect((error as KeyfoldError).code).toBe('AUDIT_UNAVAILABLE')
        refused++
      }
    }
    expect(refused).toBe(50)
    await log.flush()
    void log.record(makeEvent())
    await log.close()
    expect(verifyOne(directory)).toMatchObject({ records: 101, defect: undefined })
  })
})

describe('a log that is being written', () => {
  test('verifies at every moment', async () => {
    const directory = newDirectory()
    const log = await openLog(directory, 'bounded')
    for (let i = 0; i < 40_000; i++) void log.record(makeEvent())
    let writing = true
    const flushed = log.flush().finally(() => (writing = false))
    let moments = 0
    while (writing) {
      expect(verifyOne(directory).defect).toBeUndefined()
      moments++
      await new Promise((resolve) => setImmediate(resolve))
    }
    await flushed
    await log.close()
    expect(moments).toBeGreaterThan(3)
    expect(verifyOne(directory)).toMatchObject({ records: 40_000, defect: undefined })
  })
})

describe('two writers of one directory', () => {
  test('write a chain each, and a third tells of both', async () => {
    const directory = newDirectory()
    const logs = [await openLog(directory, 'strict'), await openLog(directory, 'bounded')]
    for (let i = 0; i < 200; i++) {
      await Promise.all(logs.map((log) => log.recordDurably(makeEvent())))
    }
    expect(
      verify(directory).map(({ state, records, defect }) => ({ state, records, defect })),
    ).toEqual(logs.map(() => ({ state: 'open', records: 200, defect: undefined })))
    await Promise.all(logs.map((log) => log.close()))
    writeChain(directory, [1])
    expect(verify(directory).map(({ records, defect }) => [records, defect])).toEqual([
      [200, undefined],
      [200, undefined],
      [1, undefined],
    ])
  })
})

/** Writes strictly, many at once, and prints what was acknowledged, until it is killed. */
const WRITER = `
import { openAuditLog } from ${JSON.stringify(join(import.meta.dirname, '../../dist/audit/audit-log.js'))}
const audit = { mode: 'strict', directory: process.argv[1], spillRecordsMax: 100000, fileBytesMax: 65536 }
const log = await openAuditLog({ audit, region: 'us-east-1', crypto: 'auto', log: console.error })
let n = 0
async function lane() {
  for (;;) {
    const requestId = process.pid + '-' + n++
    await log.record({ timeMs: Date.now(), requestId, principalArn: 'arn:aws:iam::111122223333:user/a',
      credentialId: 'c', sourceAddress: undefined, door: 'v1', operation: 'Encrypt', keyArns: [],
      encryptionContext: undefined, messages: 1, bytes: 1, failed: 0, outcome: 'Success',
      decidedBy: undefined, parameters: undefined })
    console.log(requestId)
  }
}
await Promise.all(Array.from({ length: 16 }, lane))
`

describe('kill -9', () => {
  test('loses no record that was acknowledged, and leaves a log that verifies', async () => {
    const directory = newDirectory()
    const acknowledged: string[] = []
    for (let round = 0; round < 8; round++) {
      const child = spawn(process.execPath, ['--input-type=module', '-e', WRITER, directory], {
        stdio: ['ignore', 'pipe', 'inherit'],
      })
      const mostOf = acknowledged.length + randomInt(1, 600)
      for await (const line of createInterface({ input: child.stdout })) {
        acknowledged.push(line)
        if (acknowledged.length >= mostOf && !child.killed) child.kill('SIGKILL')
      }
      const reports = verify(directory)
      expect(reports.map(({ defect }) => defect)).toEqual(reports.map(() => undefined))
      expect(reports).toHaveLength(round + 1)
    }
    const written = requestIds(directory)
    expect(new Set(written).size).toBe(written.length)
    const known = new Set(written)
    expect(acknowledged.filter((id) => !known.has(id))).toEqual([])
    // The last of its chains tells where all the others ended.
    writeChain(directory, [1])
    expect(verify(directory).filter(({ defect }) => defect !== undefined)).toEqual([])
  })
})

describe('a full disk', () => {
  test('refuses strict callers, loses and doubles nothing, and is forgotten when there is room', async ({
    skip,
  }) => {
    const disk = mountDisk(skip)
    const directory = join(disk, 'audit')
    const said: string[] = []
    const log = await openLog(directory, 'strict', { log: (message) => said.push(message) })
    const makeRoom = fillDisk(disk)
    const taken: string[] = []
    let refused = 0
    for (let i = 0; refused < 20; i++) {
      const code = await codeOf(() => log.record(makeEvent({ requestId: `r${i}` })))
      if (code === 'taken') taken.push(`r${i}`)
      else {
        expect(code).toBe('AUDIT_UNAVAILABLE')
        refused++
      }
    }
    expect(() => log.assertAvailable()).toThrow(KeyfoldError)
    expect(said.join()).toContain('ENOSPC')
    expect(verifyOne(directory).defect).toBeUndefined()
    expect(requestIds(directory)).toEqual(expect.arrayContaining(taken))

    makeRoom()
    await recordWhenTaken(log, 'after')
    expect(said.at(-1)).toContain('again')
    log.assertAvailable()
    await log.close()
    const written = requestIds(directory)
    expect(new Set(written).size).toBe(written.length)
    expect(written).toEqual(expect.arrayContaining([...taken, 'after']))
    // The first to be refused was in the worker's hands; those after it were refused without being taken.
    expect(written.length).toBeLessThanOrEqual(taken.length + 2)
    expect(verifyOne(directory)).toMatchObject({ state: 'closed', defect: undefined })
  })

  test('lets bounded callers on up to the bound, then refuses them, and all that was taken is written', async ({
    skip,
  }) => {
    const disk = mountDisk(skip)
    const directory = join(disk, 'audit')
    const log = await openLog(directory, 'bounded', { spillRecordsMax: 5_000 })
    const makeRoom = fillDisk(disk)
    let taken = 0
    for (let refused = false; !refused;) {
      try {
        void log.record(makeEvent({ requestId: `r${taken}` }))
        taken++
        if (taken % 500 === 0) await new Promise((resolve) => setImmediate(resolve))
      } catch (error) {
        expect((error as KeyfoldError).code).toBe('AUDIT_UNAVAILABLE')
        refused = true
      }
    }
    expect(log.counters.auditWaiting).toBe(5_000)
    expect(await codeOf(() => log.recordDurably(makeEvent()))).toBe('AUDIT_UNAVAILABLE')
    makeRoom()
    await recordWhenTaken(log, 'after')
    await log.close()
    expect(requestIds(directory)).toEqual([
      ...Array.from({ length: taken }, (_, i) => `r${i}`),
      'after',
    ])
    expect(verifyOne(directory)).toMatchObject({
      records: taken + 1,
      state: 'closed',
      defect: undefined,
    })
  })

  test('is met at the start with an error that says so', async ({ skip }) => {
    const disk = mountDisk(skip)
    fillDisk(disk)
    await expect(openLog(join(disk, 'audit'), 'bounded')).rejects.toThrow('ENOSPC')
  })

  test('does not keep the process from ending, and what is lost is said', async ({ skip }) => {
    const disk = mountDisk(skip)
    const said: string[] = []
    const log = await openLog(join(disk, 'audit'), 'bounded', {
      deadlineMs: 500,
      log: (message) => said.push(message),
    })
    fillDisk(disk)
    for (let i = 0; i < 5_000; i++) void log.record(makeEvent())
    await log.close()
    expect(said.at(-1)).toMatch(/^audit: \d+ records were not written/)
    expect(verifyOne(join(disk, 'audit')).defect).toBeUndefined()
  })
})

describe('a disk that does not answer', () => {
  test('keeps no strict caller beyond the deadline, and is forgotten when it answers', async ({
    skip,
  }) => {
    if (spawnSync('mkfs.ext4', ['-V']).error !== undefined || spawnSync('fsfreeze', ['-V']).error) {
      expect(process.env['CI'], 'CI needs mkfs.ext4 and fsfreeze').toBeUndefined()
      skip('there is no mkfs.ext4 or fsfreeze')
    }
    const image = join(newDirectory(), 'image')
    writeFileSync(image, '')
    execFileSync('truncate', ['-s', '32m', image])
    execFileSync('mkfs.ext4', ['-q', image])
    const disk = mountDisk(skip, ['-o', 'loop', image])
    const directory = join(disk, 'audit')
    // Long enough for a disk that is only slow, before and behind the frost.
    const log = await openLog(directory, 'strict', { deadlineMs: 5_000 })
    await log.record(makeEvent({ requestId: 'before' }))
    execFileSync('fsfreeze', ['-f', disk])
    try {
      expect(await codeOf(() => log.record(makeEvent({ requestId: 'frozen' })))).toBe(
        'AUDIT_UNAVAILABLE',
      )
      // From now on callers are refused at once.
      expect(await codeOf(() => log.record(makeEvent({ requestId: 'refused' })))).toBe(
        'AUDIT_UNAVAILABLE',
      )
    } finally {
      execFileSync('fsfreeze', ['-u', disk])
    }
    await recordWhenTaken(log, 'after')
    await log.close()
    const written = requestIds(directory)
    expect(written.slice(0, 2)).toEqual(['before', 'frozen'])
    expect(written).not.toContain('refused')
    expect(written.at(-1)).toBe('after')
    expect(verifyOne(directory)).toMatchObject({ state: 'closed', defect: undefined })
  })
})

/** Ends the audit worker of its own process with an error in the middle of its work, and goes on. */
const SURVIVOR = `
import { Worker } from 'node:worker_threads'
const workers = []
const emit = Worker.prototype.emit
Worker.prototype.emit = function (name, ...rest) {
  if (name === 'online') workers.push(this)
  return emit.call(this, name, ...rest)
}
const { openAuditLog } = await import(${JSON.stringify(join(import.meta.dirname, '../../dist/audit/audit-log.js'))})
const audit = { mode: process.argv[2], directory: process.argv[1], spillRecordsMax: 100000, fileBytesMax: 65536 }
const log = await openAuditLog({ audit, region: 'us-east-1', crypto: 'auto', log: console.error })
const isWriting = () => {
  try {
    log.assertAvailable()
    return true
  } catch {
    return false
  }
}
let due = false
for (let i = 0; i < 2000; i++) {
  const event = { timeMs: Date.now(), requestId: 'r' + i, principalArn: '', credentialId: '',
    sourceAddress: undefined, door: 'v1', operation: 'Encrypt', keyArns: [], encryptionContext: undefined,
    messages: 1, bytes: 1, failed: 0, outcome: 'Success', decidedBy: undefined, parameters: undefined }
  due ||= i % 500 === 250
  // Not before it has begun its chain, which the next one would be counted for.
  if (due && isWriting()) {
    due = false
    workers.at(-1).terminate()
  }
  try {
    await log.record(event)
    console.log('taken r' + i)
  } catch {}
  await new Promise((resolve) => setTimeout(resolve, 1))
}
while (log.counters.auditWaiting > 0) await new Promise((resolve) => setTimeout(resolve, 10))
await log.close()
console.log('replaced ' + log.counters.auditWorkersReplaced)
`

describe('an audit worker that dies', () => {
  test.each(['strict', 'bounded'])(
    'is replaced, says so, and no record is lost or written twice: %s',
    async (mode) => {
      const directory = newDirectory()
      const child = spawn(
        process.execPath,
        ['--input-type=module', '-e', SURVIVOR, directory, mode],
        {
          stdio: ['ignore', 'pipe', 'pipe'],
        },
      )
      let said = ''
      child.stderr.on('data', (bytes: Buffer) => (said += bytes.toString()))
      const lines: string[] = []
      for await (const line of createInterface({ input: child.stdout })) lines.push(line)
      if (child.exitCode === null) await once(child, 'exit')
      expect(child.exitCode, said).toBe(0)
      expect(said).toContain('the audit worker ended')
      const replaced = Number(lines.at(-1)?.split(' ')[1])
      expect(replaced).toBeGreaterThan(0)
      const reports = verify(directory)
      expect(reports).toHaveLength(1 + replaced)
      expect(reports.map(({ defect }) => defect)).toEqual(reports.map(() => undefined))
      const written = requestIds(directory)
      expect(new Set(written).size).toBe(written.length)
      const taken = lines.filter((line) => line.startsWith('taken')).map((line) => line.slice(6))
      expect(taken.length).toBeGreaterThan(200)
      expect(written).toEqual(expect.arrayContaining(taken))
      if (mode === 'bounded')
        expect(written).toEqual(Array.from({ length: 2_000 }, (_, i) => `r${i}`))
    },
  )
})

describe('a directory that cannot be written', () => {
  test('is an error at the start that says which', async () => {
    const file = join(newDirectory(), 'file')
    writeFileSync(file, '')
    await expect(openLog(join(file, 'audit'), 'strict')).rejects.toThrow('ENOTDIR')
  })
})
