/** Files that are read by position: any part of them, and signed ones twice. */
import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { open, writeFile, type FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import {
  decryptFile,
  encryptBuffer,
  openSealedFile,
  type PositionalFile,
} from '../../dist/index.js'
import { measureHeader } from '../../dist/format/encryption-sdk.js'
import { aesPair, sdkEncrypt } from './sdk.ts'

const FRAME = 4_096
const { ours, theirs } = aesPair()

let directory: string
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'keyfold-streams-'))
})
afterAll(() => rmSync(directory, { recursive: true }))

async function withFile<T>(bytes: Uint8Array, use: (file: FileHandle) => Promise<T>): Promise<T> {
  const path = join(directory, randomBytes(8).toString('hex'))
  await writeFile(path, bytes)
  const file = await open(path, 'r')
  try {
    return await use(file)
  } finally {
    await file.close()
  }
}

/** A file in memory. */
const memoryFile = (bytes: Uint8Array): PositionalFile => ({
  read: (into, offset, length, position) => {
    const part = bytes.subarray(position, position + length)
    into.set(part, offset)
    return Promise.resolve({ bytesRead: part.length })
  },
  stat: () => Promise.resolve({ size: bytes.length }),
})

async function collect(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = []
  for await (const part of stream) parts.push(part)
  return Buffer.concat(parts)
}

describe('random access', () => {
  test.each([0, 1, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME, 700 * FRAME + 5])(
    'to any part of %i bytes is what slicing the plaintext gives, whoever wrote it',
    async (bytes) => {
      const plaintext = randomBytes(bytes)
      const messages = [
        await encryptBuffer(ours, plaintext, { frameBytes: FRAME, context: { a: 'b' } }),
        // At a multiple of the frame, theirs ends with an empty one.
        await sdkEncrypt(theirs, plaintext, { frameLength: FRAME, encryptionContext: { a: 'b' } }),
      ]
      for (const message of messages) {
        await withFile(message, async (handle) => {
          const file = await openSealedFile(handle, ours, { context: { a: 'b' } })
          expect(file.length).toBe(bytes)
          expect(file.header.context).toEqual({ a: 'b' })
          const at = fc.oneof(
            fc.nat({ max: bytes + 10 }),
            fc.nat({ max: 3 }).map((frames) => frames * FRAME),
          )
          await fc.assert(
            fc.asyncProperty(at, at, async (offset, length) => {
              const found = await file.read(offset, length)
              return found.equals(plaintext.subarray(offset, offset + length))
            }),
            { numRuns: 60 },
          )
          const whole = await Promise.all([file.read(0, bytes), file.read(0, bytes + 1)])
          expect(whole.every((found) => found.equals(plaintext))).toBe(true)
          file.close()
          if (bytes > 0) await expect(file.read(0, 1)).rejects.toMatchObject({ code: 'INTERNAL' })
        })
      }
    },
  )

  test('is refused to a file that was cut anywhere, or that has something behind it', async () => {
    const message = await encryptBuffer(ours, randomBytes(3 * FRAME + 50), { frameBytes: FRAME })
    const headerBytes = measureHeader(message)
    const ends = [...Array(headerBytes + 45).keys()]
    for (let end = headerBytes; end < message.length; end += 97) ends.push(end)
    for (const frames of [1, 2, 3]) ends.push(headerBytes + frames * (FRAME + 32))
    ends.push(message.length - 1)
    for (const end of ends) {
      await expect(
        openSealedFile(memoryFile(message.subarray(0, end)), ours),
      ).rejects.toMatchObject({ code: expect.stringMatching(/MALFORMED|DECRYPT/) as string })
    }
    for (const more of [1, 40, FRAME + 32]) {
      await expect(
        openSealedFile(memoryFile(Buffer.concat([message, Buffer.alloc(more)])), ours),
      ).rejects.toMatchObject({ code: expect.stringMatching(/MALFORMED|DECRYPT/) as string })
    }
  })

  test('reads nothing between header and end before it is asked to, and refuses damaged frames alone', async () => {
    const plaintext = randomBytes(5 * FRAME + 50)
    const message = await encryptBuffer(ours, plaintext, { frameBytes: FRAME })
    const frameAt = measureHeader(message) + 2 * (FRAME + 32)
    for (const at of [0, 3, 4, 15, 16, FRAME + 31]) {
      const damaged = Buffer.from(message)
      damaged[frameAt + at] = (damaged[frameAt + at] as number) ^ 1
      const file = await openSealedFile(memoryFile(damaged), ours)
      expect((await file.read(0, 2 * FRAME)).equals(plaintext.subarray(0, 2 * FRAME))).toBe(true)
      const behind = plaintext.subarray(3 * FRAME)
      expect((await file.read(3 * FRAME, 3 * FRAME)).equals(behind)).toBe(true)
      for (const [offset, length] of [
        [2 * FRAME, 1],
        [3 * FRAME - 1, 1],
        [0, 6 * FRAME],
      ] as const) {
        await expect(file.read(offset, length)).rejects.toMatchObject({
          code: expect.stringMatching(/STREAM_MALFORMED|DECRYPT_FAILED/) as string,
        })
      }
    }
  })

  test('refuses a final frame in the middle, and frames that changed places', async () => {
    const message = await encryptBuffer(ours, randomBytes(4 * FRAME), { frameBytes: FRAME })
    const headerBytes = measureHeader(message)
    const frame = (i: number): Buffer =>
      message.subarray(headerBytes + i * (FRAME + 32), headerBytes + (i + 1) * (FRAME + 32))
    const swapped = Buffer.concat([
      message.subarray(0, headerBytes),
      ...[frame(1), frame(0)],
      message.subarray(headerBytes + 2 * (FRAME + 32)),
    ])
    const file = await openSealedFile(memoryFile(swapped), ours)
    await expect(file.read(0, 1)).rejects.toMatchObject({ code: 'STREAM_MALFORMED' })
  })

  test.each([
    ['negative', -1, 1],
    ['a fraction', 0.5, 1],
    ['not a number', 0, NaN],
    ['beyond whole numbers', 2 ** 53, 1],
  ])('refuses a place that is %s', async (_, offset, length) => {
    const file = await openSealedFile(memoryFile(await encryptBuffer(ours, Buffer.from('x'))), ours)
    await expect(file.read(offset, length)).rejects.toMatchObject({ code: 'REQUEST_MALFORMED' })
  })

  test('is not given to signed messages', async () => {
    const message = await sdkEncrypt(theirs, randomBytes(100), { suiteId: 0x0578 })
    await expect(openSealedFile(memoryFile(message), ours)).rejects.toMatchObject({
      code: 'REQUEST_MALFORMED',
      detail: 'a signed message has no random access',
    })
  })
})

describe('decryptFile', () => {
  /** More than is read at once, and than a stream would hold. */
  const BYTES = 5 * 2 ** 20 + 123
  const plaintext = randomBytes(BYTES)

  test.each([0x0478, 0x0578])('reads a file of suite %i, and its header once', async (suiteId) => {
    const message = await sdkEncrypt(theirs, plaintext, { suiteId, frameLength: 65_536 })
    await withFile(message, async (handle) => {
      const suites: number[] = []
      const onHeader = (header: { readonly suiteId: number }): void =>
        void suites.push(header.suiteId)
      const found = await collect(decryptFile(handle, ours, { onHeader }))
      expect(found.equals(plaintext)).toBe(true)
      expect(suites).toEqual([suiteId])
    })
  })

  test('releases nothing of a signed file whose signature is bad, cut, or followed by something', async () => {
    const message = await sdkEncrypt(theirs, plaintext, { suiteId: 0x0578, frameLength: 65_536 })
    const flipped = Buffer.from(message)
    flipped[message.length - 10] = (flipped[message.length - 10] as number) ^ 1
    for (const damaged of [
      flipped,
      message.subarray(0, -1),
      Buffer.concat([message, Buffer.alloc(1)]),
    ]) {
      const parts: Uint8Array[] = []
      const reading = (async () => {
        for await (const part of decryptFile(memoryFile(damaged), ours)) {
          parts.push(part as Uint8Array)
        }
      })()
      await expect(reading).rejects.toMatchObject({
        code: expect.stringMatching(/STREAM_MALFORMED|DECRYPT_FAILED/) as string,
      })
      expect(parts).toEqual([])
    }
  })

  test('releases nothing of another file that took its place after the signature had verified', async () => {
    const [one, two] = [
      await sdkEncrypt(theirs, plaintext, { suiteId: 0x0578, frameLength: 65_536 }),
      await sdkEncrypt(theirs, randomBytes(BYTES), { suiteId: 0x0578, frameLength: 65_536 }),
    ]
    let starts = 0
    const file: PositionalFile = {
      read: (into, offset, length, position) => {
        // The header is looked at first.
        if (position === 0) starts++
        return memoryFile(starts < 3 ? one : two).read(into, offset, length, position)
      },
      stat: () => Promise.resolve({ size: one.length }),
    }
    const parts: Uint8Array[] = []
    const reading = (async () => {
      for await (const part of decryptFile(file, ours)) parts.push(part as Uint8Array)
    })()
    await expect(reading).rejects.toMatchObject({ code: 'DECRYPT_FAILED' })
    expect([starts, parts.length]).toEqual([3, 0])
  })

  test('of an unsigned file that was cut ends with an error behind what is true', async () => {
    const message = await encryptBuffer(ours, plaintext)
    const parts: Uint8Array[] = []
    const reading = (async () => {
      for await (const part of decryptFile(memoryFile(message.subarray(0, -1)), ours)) {
        parts.push(part as Uint8Array)
      }
    })()
    await expect(reading).rejects.toMatchObject({ code: 'STREAM_MALFORMED' })
    const found = Buffer.concat(parts)
    expect(found.length).toBeGreaterThan(2 ** 20)
    const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')
    expect(digest(found)).toBe(digest(plaintext.subarray(0, found.length)))
  })
})
