/** Streams: memory, order, back-pressure, and ends that are no ends. */
import { createHash, randomBytes } from 'node:crypto'
import { Readable, Writable } from 'node:stream'
import { finished, pipeline } from 'node:stream/promises'
import { setImmediate as turn } from 'node:timers/promises'
import { ReadableStream } from 'node:stream/web'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import {
  decryptBuffer,
  decryptStream,
  decryptWebStream,
  encryptBuffer,
  encryptStream,
  encryptWebStream,
  type Keyring,
} from '../../dist/index.js'
import { createFrameCipher } from '../../dist/crypto/choose-frame-cipher.js'
import {
  createNodeFrameCipher,
  type CreateFrameCipher,
  type FrameCipher,
} from '../../dist/crypto/frame-cipher.js'
import type { FrameRun } from '../../dist/format/encryption-sdk-frames.js'
import { STREAM_WINDOW_BYTES } from '../../dist/limits.js'
import { MessageOpener } from '../../dist/streams/message-opener.js'
import { MessageSealer } from '../../dist/streams/message-sealer.js'
import { createWebTransform, type WebTransform } from '../../dist/streams/web-streams.js'
import { aesPair, sdkDecrypt } from './sdk.ts'

const FRAME = 4_096
const { ours, theirs } = aesPair()

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

/** Pieces of any size, also of none. */
function* cut(bytes: Uint8Array, sizes: readonly number[]): Generator<Buffer> {
  let at = 0
  for (let i = 0; at < bytes.length; i++) {
    const size = sizes[i % sizes.length] as number
    yield Buffer.from(bytes.subarray(at, at + size))
    at += size
  }
}

async function collect(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = []
  for await (const part of source) parts.push(part)
  return Buffer.concat(parts)
}

const sizes = fc
  .array(fc.integer({ min: 0, max: 3 * FRAME }), { minLength: 1 })
  .filter((list) => list.some((size) => size > 0))

test('how the bytes are cut on their way in changes nothing, in either direction', async () => {
  await fc.assert(
    fc.asyncProperty(fc.nat({ max: 20 * FRAME }), sizes, sizes, async (bytes, there, back) => {
      const plaintext = randomBytes(bytes)
      const sealing = encryptStream(ours, { frameBytes: FRAME })
      const message = await collect(Readable.from(cut(plaintext, there)).pipe(sealing))
      expect((await sdkDecrypt(theirs, message)).plaintext.equals(plaintext)).toBe(true)
      const opened = await collect(Readable.from(cut(message, back)).pipe(decryptStream(ours)))
      expect(opened.equals(plaintext)).toBe(true)
    }),
    { numRuns: 40 },
  )
})

test('a chunk may be used again as soon as it was taken', async () => {
  const plaintext = randomBytes(10 * FRAME)
  const chunk = Buffer.alloc(1_000)
  const stream = encryptStream(ours, { frameBytes: FRAME })
  const message = collect(stream)
  for (let at = 0; at < plaintext.length; at += chunk.length) {
    const bytes = plaintext.copy(chunk, 0, at, at + chunk.length)
    await new Promise<void>((resolve) => stream.write(chunk.subarray(0, bytes), () => resolve()))
    chunk.fill(0xff)
  }
  stream.end()
  expect((await decryptBuffer(ours, await message)).plaintext.equals(plaintext)).toBe(true)
})

/** Of buffers that somebody still has. When V8 would have collected the others is a matter of chance. */
function bufferBytesInUse(): number {
  collectGarbage()
  // What the first one found is freed beside it; the second one waits for that.
  collectGarbage()
  return process.memoryUsage().arrayBuffers
}

test('what is larger than two windows goes both ways within them', async () => {
  const chunk = randomBytes(2 ** 20)
  const COUNT = 256
  const digest = createHash('sha256')
  let most = 0
  let bytes = 0
  let parts = 0
  const base = bufferBytesInUse()
  await pipeline(
    Readable.from(
      (function* () {
        for (let i = 0; i < COUNT; i++) yield chunk
      })(),
      { highWaterMark: 1 },
    ),
    encryptStream(ours),
    decryptStream(ours),
    new Writable({
      write(part: Buffer, _encoding, done) {
        bytes += part.length
        digest.update(part)
        if (parts++ % 32 === 0) most = Math.max(most, bufferBytesInUse() - base)
        setImmediate(done)
      },
    }),
  )
  const expected = createHash('sha256')
  for (let i = 0; i < COUNT; i++) expected.update(chunk)
  expect(bytes).toBe(COUNT * chunk.length)
  expect(digest.digest('hex')).toBe(expected.digest('hex'))
  expect(most).toBeLessThan(2 * STREAM_WINDOW_BYTES)
  expect(bytes).toBeGreaterThan(2 * STREAM_WINDOW_BYTES)
})

describe('a reader who does not read', () => {
  test.each(['encrypt', 'decrypt'] as const)('makes the source of %s wait', async (direction) => {
    const plaintext = randomBytes(32 * 2 ** 20)
    const source = direction === 'encrypt' ? plaintext : await encryptBuffer(ours, plaintext)
    const stream = direction === 'encrypt' ? encryptStream(ours) : decryptStream(ours)
    let given = 0
    Readable.from(
      (function* () {
        for (const piece of cut(source, [65_536])) {
          given += piece.length
          yield piece
        }
      })(),
      { objectMode: false, highWaterMark: 65_536 },
    ).pipe(stream)
    let before = -1
    // Until nothing moves any more.
    for (let still = 0; still < 50;) {
      await turn()
      still = given === before ? still + 1 : 0
      before = given
    }
    expect(given).toBeGreaterThan(0)
    expect(given).toBeLessThan(8 * 2 ** 20)
    const found = await collect(stream)
    if (direction === 'decrypt') expect(found.equals(plaintext)).toBe(true)
    else expect((await decryptBuffer(ours, found)).plaintext.equals(plaintext)).toBe(true)
  })
})

describe('what was not finished is never taken for the whole', () => {
  test('a source that fails leaves a message that no reader takes', async () => {
    const parts: Buffer[] = []
    const failing = Readable.from(
      (async function* () {
        yield randomBytes(3 * FRAME)
        await turn()
        throw new Error('the disk is gone')
      })(),
    )
    await expect(
      pipeline(
        failing,
        encryptStream(ours, { frameBytes: FRAME }),
        new Writable({
          write(part: Buffer, _encoding, done) {
            parts.push(part)
            done()
          },
        }),
      ),
    ).rejects.toThrow('the disk is gone')
    await expect(decryptBuffer(ours, Buffer.concat(parts))).rejects.toMatchObject({
      code: 'STREAM_MALFORMED',
    })
  })

  test('a damaged message destroys the stream: its reader gets an error and no end', async () => {
    const message = await encryptBuffer(ours, randomBytes(10 * FRAME), { frameBytes: FRAME })
    message[message.length - 1] = (message[message.length - 1] as number) ^ 1
    const stream = decryptStream(ours)
    let ended = false
    stream.on('end', () => (ended = true)).resume()
    stream.end(message)
    await expect(finished(stream)).rejects.toMatchObject({ code: 'DECRYPT_FAILED' })
    expect([ended, stream.destroyed]).toEqual([false, true])
  })

  test('a keyring that fails destroys the stream with its error', async () => {
    const failing: Keyring = {
      generateDataKey: () => Promise.reject(new Error('no KMS')),
      wrapDataKey: () => Promise.reject(new Error('no KMS')),
      unwrapDataKey: () => Promise.reject(new Error('no KMS')),
    }
    for (const [stream, bytes] of [
      [encryptStream(failing), randomBytes(5)],
      [decryptStream(failing), await encryptBuffer(ours, randomBytes(5))],
    ] as const) {
      stream.end(bytes)
      await expect(collect(stream)).rejects.toThrow('no KMS')
    }
  })

  test('an empty input is no message, and an empty plaintext is one', async () => {
    await expect(decryptBuffer(ours, Buffer.alloc(0))).rejects.toMatchObject({
      code: 'STREAM_MALFORMED',
    })
    const stream = encryptStream(ours)
    stream.end()
    expect((await decryptBuffer(ours, await collect(stream))).plaintext).toHaveLength(0)
  })

  test('text is not taken for bytes', async () => {
    const text = 'text' as unknown as Uint8Array
    await expect(encryptBuffer(ours, text)).rejects.toThrow(TypeError)
    await expect(decryptBuffer(ours, text)).rejects.toThrow(TypeError)
    const { readable, writable } = encryptWebStream(ours)
    const reading = collect(readable)
    await Promise.all([
      expect(writable.getWriter().write(text)).rejects.toThrow(TypeError),
      expect(reading).rejects.toThrow(TypeError),
    ])
  })
})

describe('web streams', () => {
  const webOf = (pieces: Iterable<Uint8Array>): ReadableStream<Uint8Array> =>
    new ReadableStream({
      start(controller) {
        for (const piece of pieces) controller.enqueue(piece)
        controller.close()
      },
    })

  test('seal and open as the others do', async () => {
    const plaintext = randomBytes(3 * 2 ** 20 + 7)
    const sealing = encryptWebStream(ours, { frameBytes: FRAME, context: { a: 'b' } })
    const message = await collect(webOf(cut(plaintext, [10_000, 1])).pipeThrough(sealing))
    expect((await sdkDecrypt(theirs, message)).plaintext.equals(plaintext)).toBe(true)
    const opening = decryptWebStream(ours, { context: { a: 'b' } })
    const opened = await collect(webOf(cut(message, [7_777])).pipeThrough(opening))
    expect(opened.equals(plaintext)).toBe(true)
  })

  test('end with an error where the message is cut or damaged', async () => {
    const message = await encryptBuffer(ours, randomBytes(3 * FRAME), { frameBytes: FRAME })
    const damaged = Buffer.from(message)
    damaged[message.length - 1] = (damaged[message.length - 1] as number) ^ 1
    for (const [bytes, code] of [
      [message.subarray(0, -1), 'STREAM_MALFORMED'],
      [damaged, 'DECRYPT_FAILED'],
    ] as const) {
      const opening = webOf([bytes]).pipeThrough(decryptWebStream(ours))
      await expect(collect(opening)).rejects.toMatchObject({ code })
    }
  })
})

describe('a web stream that is given up', () => {
  const sealing = (): { readonly pair: WebTransform; readonly keys: Buffer[] } => {
    const keys: Buffer[] = []
    const create: CreateFrameCipher = (contentKey, messageId) => {
      keys.push(contentKey)
      // The one that keeps the key where it can be looked at.
      return createNodeFrameCipher(contentKey, messageId)
    }
    const pair = createWebTransform(
      (emit) => new MessageSealer(ours, {}, emit, { createCipher: create }),
    )
    return { pair, keys }
  }
  const wiped = (keys: readonly Buffer[]): readonly boolean[] =>
    keys.map((key) => key.every((byte) => byte === 0))

  test('by its reader wipes the key, and its writer is told', async () => {
    const { pair, keys } = sealing()
    const writer = pair.writable.getWriter()
    const closed = expect(writer.closed).rejects.toThrow('enough')
    const reader = pair.readable.getReader()
    const writes = [1, 2, 3, 4].map(() => writer.write(randomBytes(2 ** 20)))
    const settled = Promise.allSettled(writes)
    await reader.read()
    expect(wiped(keys)).toEqual([false])
    await reader.cancel(new Error('enough'))
    expect(wiped(keys)).toEqual([true])
    await closed
    await settled
  })

  test('by its writer wipes the key, though nobody reads, and its reader is told', async () => {
    const { pair, keys } = sealing()
    const writer = pair.writable.getWriter()
    const closed = expect(writer.closed).rejects.toThrow('the disk is gone')
    const settled = Promise.allSettled([1, 2, 3, 4].map(() => writer.write(randomBytes(2 ** 20))))
    for (let turns = 0; turns < 50; turns++) await turn()
    expect(wiped(keys)).toEqual([false])
    await writer.abort(new Error('the disk is gone'))
    expect(wiped(keys)).toEqual([true])
    await closed
    await settled
    await expect(collect(pair.readable)).rejects.toThrow('the disk is gone')
  })
})

describe('a cipher', () => {
  /** Notes what it is given. */
  function notingCipher(): {
    readonly create: CreateFrameCipher
    readonly runs: FrameRun[]
    readonly wiped: () => boolean
  } {
    const runs: FrameRun[] = []
    let wiped = false
    const create: CreateFrameCipher = (contentKey, messageId) => {
      const inner = createFrameCipher(contentKey, messageId)
      const cipher: FrameCipher = {
        sealFrames: (run, plaintext) => (runs.push(run), inner.sealFrames(run, plaintext)),
        openFrames: (run, wire) => (runs.push(run), inner.openFrames(run, wire)),
        wipe: () => {
          wiped = true
          inner.wipe()
        },
      }
      return cipher
    }
    return { create, runs, wiped: () => wiped }
  }

  const PIECES = [100_000, 1, FRAME, 0, 3 * FRAME - 1, FRAME + 1, 2 * 2 ** 20 + 3, 7]

  test('is given each number once, in order, however the plaintext is cut', async () => {
    const plaintext = randomBytes(12 * 2 ** 20 + 5)
    const sealing = notingCipher()
    const parts: Uint8Array[] = []
    const emit = (part: Uint8Array): undefined => void parts.push(part)
    const sealer = new MessageSealer(ours, { frameBytes: FRAME }, emit, {
      createCipher: sealing.create,
    })
    for (const piece of cut(plaintext, PIECES)) await sealer.write(piece)
    await sealer.end()
    const message = Buffer.concat(parts)
    expect((await sdkDecrypt(theirs, message)).plaintext.equals(plaintext)).toBe(true)
    let next = 1
    for (const { firstSequence, frames } of sealing.runs) {
      expect(firstSequence).toBe(next)
      next += frames
    }
    expect(next - 1).toBe(Math.ceil(plaintext.length / FRAME))
    expect(sealing.wiped()).toBe(true)

    const opening = notingCipher()
    parts.length = 0
    const opener = new MessageOpener(ours, {}, emit, { createCipher: opening.create })
    for (const piece of cut(message, PIECES)) await opener.write(piece)
    await opener.end()
    expect(Buffer.concat(parts).equals(plaintext)).toBe(true)
    expect(opening.wiped()).toBe(true)
  })

  test.each([FRAME, 10 * FRAME, 2 ** 20])(
    'releases nothing behind a frame that fails, in pieces of %i',
    async (pieceBytes) => {
      const plaintext = randomBytes(40 * FRAME)
      const message = await encryptBuffer(ours, plaintext, { frameBytes: FRAME })
      const at = message.length - 20 * FRAME
      message[at] = (message[at] as number) ^ 1
      const parts: Uint8Array[] = []
      const opener = new MessageOpener(ours, {}, (part) => void parts.push(part))
      const reading = (async () => {
        for (const piece of cut(message, [pieceBytes])) await opener.write(piece)
        await opener.end()
      })()
      await expect(reading).rejects.toMatchObject({ code: 'DECRYPT_FAILED' })
      const found = Buffer.concat(parts)
      expect(found.length).toBeLessThan(21 * FRAME)
      expect(found.equals(plaintext.subarray(0, found.length))).toBe(true)
      opener.destroy()
    },
  )

  test('is given nothing more once the message was given up, not even while its reader waits', async () => {
    const sealing = notingCipher()
    const sealer = new MessageSealer(ours, {}, () => undefined, {
      createCipher: sealing.create,
    })
    await sealer.write(randomBytes(100_000))
    sealer.destroy()
    const runs = sealing.runs.length
    await expect(sealer.write(randomBytes(100_000))).rejects.toMatchObject({ code: 'ABORTED' })
    await expect(sealer.end()).rejects.toMatchObject({ code: 'ABORTED' })
    expect(sealing.runs).toHaveLength(runs)

    const message = await encryptBuffer(ours, randomBytes(3 * 2 ** 20))
    const opening = notingCipher()
    let take: () => void = () => undefined
    const parts: Uint8Array[] = []
    const opener = new MessageOpener(
      ours,
      {},
      (part) => new Promise((resolve) => (parts.push(part), (take = resolve))),
      { createCipher: opening.create },
    )
    const reading = opener.write(message)
    while (parts.length === 0) await turn()
    opener.destroy()
    take()
    await expect(reading).rejects.toMatchObject({ code: 'ABORTED' })
    expect([parts.length, opening.runs.length]).toEqual([1, 1])
  })
})

describe('memory', () => {
  test('of a chunk is not read any more once the call for it has returned', async () => {
    const plaintext = randomBytes(5 * 2 ** 20 + 1)
    for (const frameBytes of [FRAME, 65_536, 2 ** 20]) {
      for (const sizes of [[2 ** 19], [2 ** 20], [2 ** 20 - 1, 3]]) {
        const waiting: (() => void)[] = []
        const slowly = async (
          create: (emit: (part: Uint8Array) => Promise<void>) => MessageSealer | MessageOpener,
          first: Uint8Array,
          bytes: Uint8Array,
        ): Promise<Buffer> => {
          const parts: Buffer[] = []
          const conversion = create((part) => {
            parts.push(Buffer.from(part))
            return new Promise((resolve) => void waiting.push(resolve))
          })
          const taken = async (work: Promise<void>): Promise<void> => {
            let over = false
            const settled = work.finally(() => (over = true))
            settled.catch(() => undefined)
            while (!over) {
              for (const resolve of waiting.splice(0)) resolve()
              await turn()
            }
            await settled
          }
          await taken(conversion.write(first))
          for (const piece of cut(bytes, sizes)) {
            const writing = conversion.write(piece)
            piece.fill(0xff)
            await taken(writing)
          }
          await taken(conversion.end())
          return Buffer.concat(parts)
        }
        const message = await slowly(
          (emit) => new MessageSealer(ours, { frameBytes }, emit),
          new Uint8Array(0),
          plaintext,
        )
        const head = 2_000
        const opened = await slowly(
          (emit) => new MessageOpener(ours, {}, emit),
          Buffer.from(message.subarray(0, head)),
          message.subarray(head),
        )
        expect(opened.equals(plaintext)).toBe(true)
      }
    }
  })

  test('that other threads may write to goes both ways as any other', async () => {
    const plaintext = new Uint8Array(new SharedArrayBuffer(3 * FRAME + 5))
    plaintext.set(randomBytes(plaintext.length))
    const message = await encryptBuffer(ours, plaintext, { frameBytes: FRAME })
    const shared = new Uint8Array(new SharedArrayBuffer(message.length))
    shared.set(message)
    expect((await decryptBuffer(ours, shared)).plaintext.equals(plaintext)).toBe(true)
  })
})

describe('keys', () => {
  test('are zeros once a message was written or read, or has failed', async () => {
    const handed: Buffer[] = []
    const recorded: Keyring = {
      generateDataKey: async (request) => {
        const generated = await ours.generateDataKey(request)
        handed.push(generated.dataKey)
        return generated
      },
      wrapDataKey: (dataKey, request) => ours.wrapDataKey(dataKey, request),
      unwrapDataKey: async (encryptedDataKeys, request) => {
        const dataKey = await ours.unwrapDataKey(encryptedDataKeys, request)
        if (dataKey !== undefined) handed.push(dataKey)
        return dataKey
      },
    }
    const contentKeys: Buffer[] = []
    const createCipher: CreateFrameCipher = (contentKey, messageId) => {
      contentKeys.push(contentKey)
      return createFrameCipher(contentKey, messageId)
    }
    const parts: Uint8Array[] = []
    const emit = (part: Uint8Array): undefined => void parts.push(part)
    const sealer = new MessageSealer(recorded, {}, emit, { createCipher })
    await sealer.write(Buffer.from('x'))
    await sealer.end()
    const message = Buffer.concat(parts)
    for (const bytes of [message, message.subarray(0, -1)]) {
      const opener = new MessageOpener(recorded, {}, emit, { createCipher })
      await opener.write(bytes)
      await opener.end().catch(() => opener.destroy())
    }
    expect(contentKeys).toHaveLength(3)
    expect(handed).toHaveLength(3)
    for (const key of [...handed, ...contentKeys])
      expect(key.every((byte) => byte === 0)).toBe(true)
  })

  test('are fresh for each message: two of one plaintext share no frame', async () => {
    const plaintext = randomBytes(FRAME)
    const [one, two] = [await encryptBuffer(ours, plaintext), await encryptBuffer(ours, plaintext)]
    expect(one.subarray(3, 35).equals(two.subarray(3, 35))).toBe(false)
    expect(one.subarray(-200).equals(two.subarray(-200))).toBe(false)
  })
})

describe('options', () => {
  test.each([
    ['frameBytes', { frameBytes: 4_095 }],
    ['frameBytes', { frameBytes: 2 ** 20 + 1 }],
    ['frameBytes', { frameBytes: 5_000.5 }],
    ['commitmentPolicy', { commitmentPolicy: 'FORBID_ENCRYPT_ALLOW_DECRYPT' as const }],
    ['commitmentPolicy', { commitmentPolicy: 'ANYTHING' as never }],
    ['encryptedDataKeysMax', { encryptedDataKeysMax: 0 }],
  ])('a bad %s is refused by name before anything is written', (name, options) => {
    expect(() => encryptStream(ours, options)).toThrow(name)
  })

  test.each([
    ['a reserved key', { context: { 'aws-crypto-public-key': 'x' } }],
    ['a lone surrogate', { context: { a: '\ud800' } }],
    ['too many bytes', { context: { a: 'x'.repeat(8_186) } }],
    ['a required key that is not there', { context: { a: 'b' }, requiredContextKeys: ['c'] }],
  ])('a context with %s is refused', async (_, options) => {
    await expect(encryptBuffer(ours, Buffer.from('x'), options)).rejects.toMatchObject({
      code: 'CONTEXT_INVALID',
    })
  })

  test('what is required is not in the file, and is needed to read it', async () => {
    const context = { tenant: 'geheimnis', table: 'orders' }
    const message = await encryptBuffer(ours, Buffer.from('x'), {
      context,
      requiredContextKeys: ['tenant'],
    })
    expect(message.includes('geheimnis')).toBe(false)
    expect(message.includes('orders')).toBe(true)
    const found = await decryptBuffer(ours, message, { context: { tenant: 'geheimnis' } })
    expect(found.header.context).toEqual(context)
    for (const given of [{}, { tenant: 'other' }, { tenant: 'geheimnis', more: '1' }]) {
      await expect(decryptBuffer(ours, message, { context: given })).rejects.toMatchObject({
        code: 'DECRYPT_FAILED',
      })
    }
    await expect(
      decryptBuffer(ours, message, {
        context: { ...context, table: 'customers' },
      }),
    ).rejects.toMatchObject({ code: 'DECRYPT_FAILED' })
  })

  test('more encrypted data keys than allowed are neither written nor read', async () => {
    const message = await encryptBuffer(ours, Buffer.from('x'))
    expect(
      (await decryptBuffer(ours, message, { encryptedDataKeysMax: 1 })).plaintext,
    ).toHaveLength(1)
    const many: Keyring = {
      ...(ours as object),
      wrapDataKey: (dataKey, request) => ours.wrapDataKey(dataKey, request),
      unwrapDataKey: (wrapped, request) => ours.unwrapDataKey(wrapped, request),
      generateDataKey: async (request) => {
        const { dataKey, encryptedDataKeys } = await ours.generateDataKey(request)
        return {
          dataKey,
          encryptedDataKeys: Array.from({ length: 9 }, () => encryptedDataKeys[0]!),
        }
      },
    }
    await expect(encryptBuffer(many, Buffer.from('x'))).rejects.toMatchObject({
      code: 'LIMIT_EXCEEDED',
    })
    const nine = await encryptBuffer(many, Buffer.from('x'), { encryptedDataKeysMax: 9 })
    await expect(decryptBuffer(ours, nine)).rejects.toMatchObject({ code: 'STREAM_MALFORMED' })
    expect((await decryptBuffer(ours, nine, { encryptedDataKeysMax: 9 })).plaintext).toHaveLength(1)
  })
})
