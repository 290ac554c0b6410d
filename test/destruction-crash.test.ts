/**
 * kill -9 around the moment at which keys are destroyed: a real process that ends itself at a chosen step. Each key is
 * then gone whole or there whole; what the log names is gone whatever the clock says; and the next start finishes.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { ask } from './aws.ts'
import { runInCatalog } from './catalog/file.ts'
import { startService } from './service.ts'

const DAY_MS = 24 * 60 * 60 * 1000
const KEYS = 5
const PROGRAM = join(import.meta.dirname, 'destroy-and-die.mjs')

let original: string
let doomed: readonly string[]
let kept: string
let stored: readonly Buffer[]

beforeAll(async () => {
  const service = await startService()
  const { kms } = service.engine
  const keys = await Promise.all(Array.from({ length: KEYS }, () => kms.createKey({})))
  doomed = keys.map(({ keyId }) => keyId)
  for (const key of doomed) {
    await kms.aliases.create(`alias/${key}`, key)
    await kms.rotations.rotateOnDemand(key)
  }
  kept = (await kms.createKey({})).keyId
  const records = await Promise.all(doomed.map((key) => kms.registry.resolve(key)))
  stored = records.flatMap(({ materials }) =>
    [...materials.values()].map((m) => Buffer.from(m.stored)),
  )
  for (const key of doomed) await kms.deletions.schedule(key, 7)
  await service.engine.close()
  original = service.dataDirectory
})
afterAll(() => rmSync(original, { recursive: true, force: true }))

function copyOf(directory: string): string {
  const copy = mkdtempSync(join(tmpdir(), 'keyfold-destroying-'))
  cpSync(directory, copy, { recursive: true })
  return copy
}

function logged(directory: string): readonly string[] {
  const text = readFileSync(join(directory, 'destroyed.log'), 'utf8')
  const lines = text.slice(0, text.lastIndexOf('\n') + 1).split('\n')
  return lines.filter((line) => line.startsWith('key ')).map((line) => line.slice(4))
}

/** Each key is whole or gone, and is gone only if the log says so. */
function expectAllOrNothing(directory: string): void {
  const copy = copyOf(directory)
  try {
    const [rows] = runInCatalog(
      copy,
      `select id, state,
         (select count(*) from "keyMaterials" where "kmsKeyId" = id and stored is not null) as materials,
         (select count(*) from aliases where "kmsKeyId" = id) as aliases
       from "kmsKeys" where id <> '${kept}'`,
    )
    expect(rows).toHaveLength(KEYS)
    for (const { id, ...row } of rows ?? []) {
      if (row['state'] === 'Deleted') {
        expect(row).toEqual({ state: 'Deleted', materials: 0, aliases: 0 })
        expect(logged(directory)).toContain(id)
      } else {
        expect(row).toEqual({ state: 'PendingDeletion', materials: 2, aliases: 1 })
      }
    }
  } finally {
    rmSync(copy, { recursive: true, force: true })
  }
}

function expectScrubbed(directory: string): void {
  for (const name of ['catalog.sqlite', 'catalog.sqlite-wal', 'catalog.sqlite-shm']) {
    if (!existsSync(join(directory, name))) continue
    const bytes = readFileSync(join(directory, name))
    for (const one of stored) expect(bytes.includes(one.subarray(20, 52))).toBe(false)
  }
}

function run(
  directory: string,
  step: string,
  times: number,
  aheadMs: number,
): NodeJS.Signals | null {
  const { signal, stderr } = spawnSync(
    process.execPath,
    [PROGRAM, directory, step, String(times), String(aheadMs)],
    { encoding: 'utf8' },
  )
  expect(stderr.replace(/^.*memlock.*$/gim, '').trim()).toBe('')
  return signal
}

describe.each([
  ['before the log', 1, 0],
  ['before the log', 3, 2],
  ['half a line', 1, 0],
  ['half a line', 3, 2],
  ['between log and commit', 1, 1],
  ['between log and commit', KEYS, KEYS],
  ['after the commit', 1, 1],
  ['after the commit', KEYS, KEYS],
  ['after the scrubbing', 1, KEYS],
])('killed %s, the %i. time', (step, times, loggedKeys) => {
  test('every key is whole or gone; what is logged is gone at once, the rest when it is due', async () => {
    const directory = copyOf(original)
    try {
      expect(run(directory, step, times, 8 * DAY_MS)).toBe('SIGKILL')
      expect(logged(directory)).toHaveLength(loggedKeys)
      expectAllOrNothing(directory)

      // By a clock that says that nothing is due.
      const gone = logged(directory)
      const service = await startService({ filesFrom: directory })
      for (const key of doomed) {
        const described = await ask(service.engine, 'DescribeKey', { KeyId: key })
        expect(described.refused).toBe(gone.includes(key) ? 'NotFoundException' : undefined)
        const cancelled = await ask(service.engine, 'CancelKeyDeletion', { KeyId: key })
        expect(cancelled.refused).toBe(gone.includes(key) ? 'NotFoundException' : undefined)
      }
      await service.close()

      // And by one that says that all of it is.
      expect(run(directory, 'none', 1, 8 * DAY_MS)).toBe(null)
      expect([...logged(directory)].sort()).toEqual([...doomed].sort())
      expectAllOrNothing(directory)
      expectScrubbed(directory)
      const last = await startService({ filesFrom: directory })
      const described = await ask(last.engine, 'DescribeKey', { KeyId: kept })
      expect(described.refused).toBeUndefined()
      await last.close()
    } finally {
      rmSync(directory, { recursive: true, force: true })
    }
  })
})

test('what is searched for is in the files before', () => {
  const bytes = readFileSync(join(original, 'catalog.sqlite'))
  for (const one of stored) expect(bytes.includes(one.subarray(20, 52))).toBe(true)
})
