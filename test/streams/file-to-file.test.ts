/** From file to file: every length around a run, files that fail or do little at a time, and what is left behind. */
import { randomBytes } from 'node:crypto'
import { mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import {
  decryptBuffer,
  decryptFileTo,
  encryptBuffer,
  encryptFileTo,
  type FileHeader,
  type PositionalFile,
  type WritableFile,
} from '../../dist/index.js'
import { FILE_RUN_BYTES } from '../../dist/limits.js'
import { aesPair, sdkDecrypt, sdkEncrypt } from './sdk.ts'

const FRAME = 4_096
const RUN = FILE_RUN_BYTES
const { ours, theirs } = aesPair()

let directory: string
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'keyfold-file-to-file-'))
})
afterAll(() => rm(directory, { recursive: true }))

/** What is in the target afterwards, on a real disk. */
async function onDisk(
  bytes: Uint8Array,
  convert: (source: PositionalFile, target: WritableFile) => Promise<void>,
): Promise<Buffer> {
  const paths = [join(directory, 'source'), join(directory, 'target')] as const
  await writeFile(paths[0], bytes)
  const [source, target] = [await open(paths[0]), await open(paths[1], 'w')]
  try {
    await convert(source, target)
  } finally {
    await Promise.all([source.close(), target.close()])
  }
  return readFile(paths[1])
}

/** A file in memory that gives at most `most` bytes at a time, and as many as `end` says there are. */
function memoryFile(bytes: Uint8Array, most = Infinity, end = () => bytes.length): PositionalFile {
  return {
    read: async (into, offset, length, position) => {
      const part = bytes.subarray(position, Math.min(end(), position + Math.min(length, most)))
      into.set(part, offset)
      return Promise.resolve({ bytesRead: part.length })
    },
    stat: async () => Promise.resolve({ size: bytes.length }),
  }
}

/** Keeps what it is given, at most `most` bytes at a time; more than `room` is one too many. */
function memoryTarget(most = Infinity, room = Infinity): { file: WritableFile; all: () => Buffer } {
  const parts: Buffer[] = []
  let kept = 0
  let underWay = 0
  const file: WritableFile = {
    write: async (from, offset, length) => {
      expect(++underWay).toBe(1)
      await new Promise((resolve) => setImmediate(resolve))
      underWay--
      if (kept >= room) throw new Error('no space left on device')
      const part = from.subarray(offset, offset + Math.min(length, most))
      parts.push(Buffer.from(part))
      kept += part.length
      return { bytesWritten: part.length }
    },
  }
  return { file, all: () => Buffer.concat(parts) }
}

const LENGTHS = [
  ...[0, 1, FRAME - 1, FRAME, FRAME + 1],
  ...[RUN - 1, RUN, RUN + 1, 2 * RUN - FRAME, 2 * RUN, 3 * RUN + 5 * FRAME + 7],
]

describe.each(LENGTHS)('%i bytes', (bytes) => {
  const plaintext = randomBytes(bytes)

  test.each([FRAME, 5_000, 2 ** 20])('in frames of %i are read by the SDK', async (frameBytes) => {
    const message = await onDisk(plaintext, (source, target) =>
      encryptFileTo(source, target, ours, { frameBytes, context: { a: 'b' } }),
    )
    const found = await sdkDecrypt(theirs, message)
    expect(found.plaintext.equals(plaintext)).toBe(true)
    expect(found.messageHeader.encryptionContext).toMatchObject({ a: 'b' })
    const back = await onDisk(message, (source, target) => decryptFileTo(source, target, ours))
    expect(back.equals(plaintext)).toBe(true)
  })

  test.each([0x0478, 0x0578])('of the SDK in suite %i are read', async (suiteId) => {
    const message = await sdkEncrypt(theirs, plaintext, { suiteId, frameLength: 4_099 })
    const headers: FileHeader[] = []
    const found = await onDisk(message, (source, target) =>
      decryptFileTo(source, target, ours, { onHeader: (header) => void headers.push(header) }),
    )
    expect(found.equals(plaintext)).toBe(true)
    expect(headers.map((header) => header.suiteId)).toEqual([suiteId])
  })
})

test('files that read and write a few bytes at a time lose none', async () => {
  const plaintext = randomBytes(2 * RUN + 77)
  const sealed = memoryTarget(70_001)
  await encryptFileTo(memoryFile(plaintext, 50_001), sealed.file, ours)
  expect((await decryptBuffer(ours, sealed.all())).plaintext.equals(plaintext)).toBe(true)
  const opened = memoryTarget(50_001)
  await decryptFileTo(memoryFile(sealed.all(), 70_001), opened.file, ours)
  expect(opened.all().equals(plaintext)).toBe(true)
})

test('a file that grows while it is read is taken up to where its end was met', async () => {
  const bytes = randomBytes(4 * RUN)
  const end = RUN + 1_000
  const whole = memoryFile(bytes)
  const growing: PositionalFile = {
    ...whole,
    // Its second run meets the end; whoever reads behind that finds more.
    read: (into, offset, length, position) =>
      whole.read(into, offset, Math.min(length, Math.abs(end - position)), position),
  }
  const sealed = memoryTarget()
  await encryptFileTo(growing, sealed.file, ours)
  const { plaintext } = await decryptBuffer(ours, sealed.all())
  expect(plaintext.equals(bytes.subarray(0, end))).toBe(true)
})

test.each([0, 1_000, RUN - 1])(
  'a file that says it has %i bytes and has more is taken whole',
  async (said) => {
    const bytes = randomBytes(2 * RUN + 5)
    const file = { ...memoryFile(bytes), stat: async () => Promise.resolve({ size: said }) }
    const sealed = memoryTarget()
    await encryptFileTo(file, sealed.file, ours)
    expect((await sdkDecrypt(theirs, sealed.all())).plaintext.equals(bytes)).toBe(true)
  },
)

test('a file that has become shorter than it says is taken as it is', async () => {
  const bytes = randomBytes(500)
  const file = { ...memoryFile(bytes), stat: async () => Promise.resolve({ size: 1_000 }) }
  const sealed = memoryTarget()
  await encryptFileTo(file, sealed.file, ours)
  expect((await sdkDecrypt(theirs, sealed.all())).plaintext.equals(bytes)).toBe(true)
})

test('a target that is full fails either way, and a source that fails does too', async () => {
  const plaintext = randomBytes(4 * RUN)
  for (const room of [0, 100, RUN, 3 * RUN]) {
    const target = memoryTarget(Infinity, room)
    const sealing = encryptFileTo(memoryFile(plaintext), target.file, ours)
    await expect(sealing).rejects.toThrow('no space left')
    const message = await encryptBuffer(ours, plaintext)
    const opening = decryptFileTo(memoryFile(message), memoryTarget(Infinity, room).file, ours)
    await expect(opening).rejects.toThrow('no space left')
    const cut = memoryFile(plaintext, Infinity, () => {
      throw new Error('the disk is gone')
    })
    await expect(encryptFileTo(cut, memoryTarget().file, ours)).rejects.toThrow('the disk is gone')
  }
})

test('a target that takes nothing fails, and is not asked for ever', async () => {
  const target = memoryTarget(0)
  const sealing = encryptFileTo(memoryFile(randomBytes(10)), target.file, ours)
  await expect(sealing).rejects.toThrow('takes no more')
})

test('nothing is written of a file that is cut short or has something behind its end', async () => {
  const message = await encryptBuffer(ours, randomBytes(2 * RUN), { frameBytes: FRAME })
  const damaged = [
    message.subarray(0, -1),
    message.subarray(0, -FRAME),
    message.subarray(0, RUN),
    message.subarray(0, 300),
    Buffer.concat([message, Buffer.alloc(1)]),
    Buffer.concat([message, Buffer.alloc(FRAME + 32)]),
  ]
  for (const bytes of damaged) {
    const target = memoryTarget()
    await expect(decryptFileTo(memoryFile(bytes), target.file, ours)).rejects.toMatchObject({
      code: expect.stringMatching(/^(STREAM_MALFORMED|DECRYPT_FAILED)$/) as string,
    })
    expect(target.all()).toHaveLength(0)
  }
})

test('what is written before a frame that does not verify is a true beginning', async () => {
  const plaintext = randomBytes(4 * RUN)
  const message = await encryptBuffer(ours, plaintext)
  const at = 3 * RUN
  message[at] = (message[at] as number) ^ 1
  const target = memoryTarget()
  await expect(decryptFileTo(memoryFile(message), target.file, ours)).rejects.toMatchObject({
    code: 'DECRYPT_FAILED',
  })
  const found = target.all()
  expect(found.length).toBeLessThan(at)
  expect(found.equals(plaintext.subarray(0, found.length))).toBe(true)
})

test('of a signed file that was tampered with nothing is written', async () => {
  const message = await sdkEncrypt(theirs, randomBytes(2 * RUN), { suiteId: 0x0578 })
  message[message.length - 20] = (message[message.length - 20] as number) ^ 1
  const target = memoryTarget()
  await expect(decryptFileTo(memoryFile(message), target.file, ours)).rejects.toMatchObject({
    code: 'DECRYPT_FAILED',
  })
  expect(target.all()).toHaveLength(0)
})
