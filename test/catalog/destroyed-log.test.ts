/** The log of what was destroyed: it only grows, survives being cut off, and is never misread. */
import {
  appendFileSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import { DestroyedLog, hashOfStored } from '../../dist/catalog/destroyed-log.js'

const KEY = '1234abcd-12ab-34cd-56ef-1234567890ab'
const FAMILY = 'mrk-1234abcd12ab34cd56ef1234567890ab'
// SHA-256 of no bytes at all (FIPS 180-4).
const HASH = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'

let directory: string
let file: string

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'keyfold-log-'))
  file = join(directory, 'destroyed.log')
})
afterEach(() => {
  vi.restoreAllMocks()
  rmSync(directory, { recursive: true, force: true })
})

async function withLog<T>(work: (log: DestroyedLog) => Promise<T>): Promise<T> {
  const log = await DestroyedLog.open(directory)
  try {
    return await work(log)
  } finally {
    await log.close()
  }
}
const contents = (log: DestroyedLog): unknown => [[...log.keys], [...log.materials], log.needsScrub]
const read = (): Promise<unknown> => withLog(async (log) => contents(log))

describe('the log', () => {
  test('names its format, is its owner’s alone, and holds what was written', async () => {
    expect(hashOfStored(new Uint8Array())).toBe(HASH)
    const material = { kmsKeyId: KEY, version: 3, hash: HASH }
    await withLog(async (log) => {
      expect(log.isEmpty).toBe(true)
      await log.recordKey(FAMILY)
      await log.recordMaterials([material])
    })
    expect(statSync(file).mode & 0o777).toBe(0o600)
    const [header, ...lines] = readFileSync(file, 'utf8').split('\n')
    expect(header).toMatch(/^# keyfold, format 1/)
    expect(lines).toEqual([`key ${FAMILY}`, `material ${KEY} 3 ${HASH}`, ''])
    expect(await read()).toEqual([[FAMILY], [material], true])
    await withLog((log) => log.recordScrubbed())
    expect(await read()).toEqual([[FAMILY], [material], false])
  })

  test('says each thing once, however often it is told', async () => {
    await withLog(async (log) => {
      for (let times = 0; times < 3; times++) {
        await log.recordKey(KEY)
        await log.recordMaterials([{ kmsKeyId: KEY, version: 1, hash: HASH }])
      }
    })
    const size = statSync(file).size
    await withLog(async (log) => {
      await log.recordKey(KEY)
      await log.recordMaterials([{ kmsKeyId: KEY, version: 1, hash: HASH }])
    })
    expect(statSync(file).size).toBe(size)
  })

  test('cut off anywhere is what its whole lines say, and goes on from there', async () => {
    await withLog(async (log) => {
      await log.recordKey(KEY)
      await log.recordMaterials([{ kmsKeyId: KEY, version: 1, hash: HASH }])
      await log.recordKey(FAMILY)
    })
    const whole = readFileSync(file)
    for (let bytes = 0; bytes <= whole.length; bytes++) {
      writeFileSync(file, whole.subarray(0, bytes))
      const lines = whole.subarray(0, bytes).toString().split('\n').slice(0, -1)
      const keys = lines.filter((line) => line.startsWith('key ')).map((line) => line.slice(4))
      await withLog(async (log) => {
        expect([...log.keys]).toEqual(keys)
        await log.recordKey(FAMILY)
      })
      const [found] = (await read()) as [string[]]
      expect(new Set(found)).toEqual(new Set([...keys, FAMILY]))
    }
  })

  test.each([
    'key',
    'key ',
    `key ${KEY} `,
    `key ../../etc`,
    `KEY ${KEY}`,
    `material ${KEY} 0 ${HASH}`,
    `material ${KEY} 1`,
    `material ${KEY} 1 ${HASH.toUpperCase()}`,
    `material ${KEY} 1 ${HASH.slice(1)}`,
    `destroyed ${KEY}`,
    '',
  ])('with the line “%s” is refused, not read over', async (line) => {
    await withLog((log) => log.recordKey(KEY))
    appendFileSync(file, `${line}\nkey ${FAMILY}\n`)
    await expect(DestroyedLog.open(directory)).rejects.toMatchObject({
      code: 'CATALOG_UNAVAILABLE',
    })
    await expect(DestroyedLog.open(directory)).rejects.toThrow(/line 3/)
  })

  test('is whole again after a disk that was full in the middle of a line', async () => {
    const log = await DestroyedLog.open(directory)
    const handle = await open(file)
    const prototype = Object.getPrototypeOf(handle) as { appendFile: typeof handle.appendFile }
    await handle.close()
    vi.spyOn(prototype, 'appendFile').mockImplementationOnce(async (text) => {
      appendFileSync(file, String(text).slice(0, 9))
      throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC' })
    })
    await expect(log.recordKey(KEY)).rejects.toThrow('no space left')
    expect(log.keys.has(KEY)).toBe(false)
    await log.recordKey(FAMILY)
    await log.recordKey(KEY)
    await log.close()
    expect(await read()).toEqual([[FAMILY, KEY], [], true])
  })

  test('emptied altogether begins anew', async () => {
    await withLog((log) => log.recordKey(KEY))
    truncateSync(file, 0)
    expect(await read()).toEqual([[], [], false])
    expect(readFileSync(file, 'utf8')).toMatch(/^# keyfold, format 1.*\n$/)
  })
})
