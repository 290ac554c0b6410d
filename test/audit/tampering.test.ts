/** Whatever somebody does to the files of the audit log: verification finds it and names the record. */
import { createHash } from 'node:crypto'
import {
  copyFileSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { describe, expect, test } from 'vitest'

import { filesOf, newDirectory, verify, verifyOne, writeChain } from './log.ts'

/** A log of one finished file: its header, events, and the line that closes it. */
function closedLog(): { directory: string; file: string; bytes: Buffer; lines: readonly string[] } {
  const directory = newDirectory()
  writeChain(directory, [2, 1])
  const [file] = filesOf(directory) as [string]
  const bytes = readFileSync(file)
  const lines = bytes.toString().split('\n').slice(0, -1)
  expect(lines).toHaveLength(1 + 3 + 1)
  return { directory, file, bytes, lines }
}

describe('a log that nobody touched', () => {
  test('verifies, with all its records', () => {
    const { directory } = closedLog()
    const { records, state, defect, files } = verifyOne(directory)
    expect({ records, state, defect, files }).toEqual({
      records: 3,
      state: 'closed',
      defect: undefined,
      files: 1,
    })
  })

  test('is a chain that needs nothing but SHA-256 to be followed', () => {
    let previous = '0'.repeat(64)
    for (const [i, line] of closedLog().lines.entries()) {
      const parsed = JSON.parse(line) as Record<string, unknown>
      const [hashed = ''] = line.split(',"hash":')
      expect(parsed['previousHash']).toBe(previous)
      expect(parsed['sequence']).toBe(i + 1)
      previous = createHash('sha256').update(hashed).digest('hex')
      expect(parsed['hash']).toBe(previous)
    }
  })
})

describe('a changed byte', () => {
  test('is found wherever it is, and its record named', () => {
    const { directory, file, bytes } = closedLog()
    let sequence = 1
    for (let at = 0; at < bytes.length; at++) {
      const was = bytes[at] as number
      for (const is of [was ^ (1 << (at % 8)), 0, 0x0a]) {
        // The last newline as zero is a write that lacks its last byte, which is no change of a record.
        if (is === was || (is === 0 && at === bytes.length - 1)) continue
        bytes[at] = is
        writeFileSync(file, bytes)
        const { defect } = verifyOne(directory)
        expect(defect?.sequence, `byte ${at}, ${was} to ${is}`).toBe(sequence)
        expect(defect?.file).toBe(file)
        expect(defect?.line).toBe(sequence)
      }
      bytes[at] = was
      if (was === 0x0a) sequence++
    }
    writeFileSync(file, bytes)
    expect(verifyOne(directory).defect).toBeUndefined()
  })

  test('is found in a record that was given a new hash, by the record behind it', () => {
    const { directory, file, lines } = closedLog()
    for (let i = 1; i < lines.length - 1; i++) {
      const [body = ''] = (lines[i] as string).replace('alice', 'carol').split(',"hash":')
      const hash = createHash('sha256').update(body).digest('hex')
      const forged = [...lines.slice(0, i), `${body},"hash":"${hash}"}`, ...lines.slice(i + 1)]
      writeFileSync(file, forged.join('\n') + '\n')
      const { defect, records } = verifyOne(directory)
      expect(defect?.sequence).toBe(i + 2)
      expect(defect?.problem).toContain(`follow from ${i + 1}`)
      expect(records).toBe(i)
    }
  })

  test('is found in a chain that was written anew to its end, where a later chain saw the old one', () => {
    const { directory, file, lines } = closedLog()
    writeChain(directory, [1])
    let previous = '0'.repeat(64)
    const forged = lines.map((line) => {
      const [body = ''] = line
        .replace('alice', 'carol')
        .replace(/"previousHash":"\w+"/, `"previousHash":"${previous}"`)
        .split(',"hash":')
      previous = createHash('sha256').update(body).digest('hex')
      return `${body},"hash":"${previous}"}\n`
    })
    writeFileSync(file, forged.join(''))
    const [older, later] = verify(directory)
    expect(older?.defect?.sequence).toBe(lines.length)
    expect(older?.defect?.problem).toContain(later?.chain)
    expect(later?.defect).toBeUndefined()
  })
})

describe('lines', () => {
  test('that are removed are named, but for the last, which only tells that nothing follows', () => {
    const { directory, file, lines } = closedLog()
    for (let i = 0; i < lines.length; i++) {
      writeFileSync(file, lines.filter((_, at) => at !== i).join('\n') + '\n')
      const { defect, state, records } = verifyOne(directory)
      if (i === lines.length - 1)
        expect({ defect, state, records }).toEqual({ state: 'open', records: 3 })
      else expect(defect?.sequence).toBe(i + 1)
    }
  })

  test('that stand twice are named', () => {
    const { directory, file, lines } = closedLog()
    for (let i = 0; i < lines.length; i++) {
      for (let at = i + 1; at <= lines.length; at++) {
        writeFileSync(file, lines.toSpliced(at, 0, lines[i] as string).join('\n') + '\n')
        expect(verifyOne(directory).defect?.sequence).toBe(at + 1)
      }
    }
  })

  test('that changed places are named', () => {
    const { directory, file, lines } = closedLog()
    for (let i = 0; i < lines.length; i++) {
      for (let j = i + 1; j < lines.length; j++) {
        const swapped = lines.with(i, lines[j] as string).with(j, lines[i] as string)
        writeFileSync(file, swapped.join('\n') + '\n')
        expect(verifyOne(directory).defect?.sequence).toBe(i + 1)
      }
    }
  })

  test('of another chain do not fit', () => {
    const { directory, file, lines } = closedLog()
    const other = closedLog()
    for (let i = 0; i < lines.length; i++) {
      writeFileSync(file, lines.with(i, other.lines[i] as string).join('\n') + '\n')
      const { defect } = verifyOne(directory)
      // A header names its chain; the first record is the only one that continues nothing.
      expect(defect?.sequence).toBe(i + 1)
    }
  })
})

describe('files', () => {
  /** One finished chain of three files. */
  function threeFiles(): { directory: string; files: readonly string[] } {
    const directory = newDirectory()
    writeChain(directory, [2, 2, 2], { fileBytesMax: 1 })
    const files = filesOf(directory)
    expect(files).toHaveLength(4)
    expect(verifyOne(directory)).toMatchObject({ records: 6, state: 'closed', defect: undefined })
    return { directory, files }
  }

  test('that are removed are named, the last one too', () => {
    for (let i = 0; i < 4; i++) {
      const { directory, files } = threeFiles()
      rmSync(files[i] as string)
      expect(verifyOne(directory).defect?.problem).toContain(
        `file ${i + 1} of the chain is missing`,
      )
    }
  })

  test('that changed places are named', () => {
    const { directory, files } = threeFiles()
    const [, second, third] = files as [string, string, string]
    renameSync(second, `${second}.aside`)
    renameSync(third, second)
    renameSync(`${second}.aside`, third)
    const { defect } = verifyOne(directory)
    expect(defect?.file).toBe(second)
    expect(defect?.line).toBe(1)
  })

  test('of another chain under this one’s name are named', () => {
    const { directory, files } = threeFiles()
    const other = threeFiles()
    copyFileSync(other.files[1] as string, files[1] as string)
    expect(verifyOne(directory).defect).toMatchObject({ file: files[1], line: 1 })
  })

  test('under the name of a chain that never was are named', () => {
    const { directory, files } = threeFiles()
    const copied = join(directory, '20300101T000000000Z-00000000-000001.jsonl')
    copyFileSync(files[0] as string, copied)
    const chain = basename(files[0] as string).slice(0, 28)
    expect(verify(directory).at(-1)?.defect?.problem).toBe(`this is file 1 of chain ${chain}`)
  })

  test('of a whole chain that are removed are missed by the one that came after', () => {
    const { directory, files } = threeFiles()
    writeChain(directory, [1])
    for (const file of files) rmSync(file)
    const [missing, later] = verify(directory)
    expect(missing?.defect?.problem).toContain('all files are missing')
    expect(missing?.defect?.problem).toContain(later?.chain)
    expect(later?.defect).toBeUndefined()
  })
})

describe('a file that is cut', () => {
  test('at any byte is a write that was cut off, with all the records before it', () => {
    const { directory, file, bytes } = closedLog()
    for (let length = bytes.length - 1; length >= 0; length--) {
      truncateSync(file, length)
      const left = bytes.subarray(0, length)
      const whole = left.toString('latin1').split('\n').length - 1
      const { records, state, defect } = verifyOne(directory)
      expect(defect, `${length} bytes`).toBeUndefined()
      expect(records).toBe(Math.min(3, Math.max(0, whole - 1)))
      const atLineEnd = length > 0 && left[length - 1] === 0x0a
      expect(state, `${length} bytes`).toBe(atLineEnd ? 'open' : 'cut off')
    }
  })

  test('at any byte is found where another file or a later chain follows', () => {
    const directory = newDirectory()
    writeChain(directory, [1, 1], { fileBytesMax: 1 })
    writeChain(directory, [1])
    const [, second, last] = filesOf(directory) as [string, string, string]
    for (const file of [second, last]) {
      const bytes = readFileSync(file)
      for (let length = bytes.length - 1; length >= 0; length--) {
        truncateSync(file, length)
        const [report] = verify(directory)
        expect(report?.defect, `${length} bytes`).toBeDefined()
        const whole = bytes.subarray(0, length).toString('latin1').split('\n').length - 1
        const [first] = bytes.toString().split('\n')
        const { sequence } = JSON.parse(first as string) as { sequence: number }
        expect(report?.defect?.sequence).toBe(sequence + whole)
      }
      writeFileSync(file, bytes)
      expect(verify(directory)[0]?.defect).toBeUndefined()
    }
  })
})

describe('sectors that did not reach the disk', () => {
  const SECTOR = 512

  test('are a write cut off in the last group, and a changed log in any before', () => {
    const directory = newDirectory()
    writeChain(directory, [5, 5, 5], { close: false })
    const [file] = filesOf(directory) as [string]
    const bytes = readFileSync(file)
    const end = bytes.indexOf(0)
    const lines = bytes.subarray(0, end).toString('latin1').split('\n')
    const lastGroup = lines.slice(0, 11).join('\n').length + 1
    let lost = 0
    for (let from = 0; from < end; from += SECTOR) {
      const damaged = Buffer.from(bytes)
      damaged.fill(
        0,
        Math.max(from, from < lastGroup && from + SECTOR > lastGroup ? lastGroup : 0),
        from + SECTOR,
      )
      writeFileSync(file, damaged)
      const { defect, state, records } = verifyOne(directory)
      const before = bytes.subarray(0, Math.max(from, 0)).toString('latin1').split('\n').length
      if (from + SECTOR <= lastGroup) {
        expect(defect?.sequence, `sector at ${from}`).toBe(before)
      } else {
        lost++
        expect(defect, `sector at ${from}`).toBeUndefined()
        expect(state).toBe('cut off')
        expect(records).toBeGreaterThanOrEqual(10)
        expect(records).toBeLessThan(15)
      }
    }
    expect(lost).toBeGreaterThan(2)
  })

  test('of a finished log are a change', () => {
    const { directory, file, bytes } = closedLog()
    for (let from = 0; from + SECTOR <= bytes.length; from += SECTOR) {
      writeFileSync(file, Buffer.from(bytes).fill(0, from, from + SECTOR))
      expect(verifyOne(directory).defect, `sector at ${from}`).toBeDefined()
    }
  })
})
