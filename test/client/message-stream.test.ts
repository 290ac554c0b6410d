/** Streams of messages: order, back-pressure, failures and their end. */
import { Readable, Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { createMessageStream, type Opened } from '../../dist/client/message-stream.js'
import { Keyfold, KeyfoldError } from '../../dist/index.js'
import { startService, type Service } from '../service.ts'

const bytes = (text: string): Uint8Array => Buffer.from(text)
const numbers = (count: number): readonly string[] =>
  Array.from({ length: count }, (_, i) => `${i}`)

/** A sink that keeps what it is given, as text. */
function collector(): { readonly sink: Writable; readonly taken: string[] } {
  const taken: string[] = []
  const sink = new Writable({
    objectMode: true,
    write(message: Uint8Array, _encoding, done) {
      taken.push(Buffer.from(message).toString())
      done()
    },
  })
  return { sink, taken }
}

const limits = { messagesMax: 10, bytesMax: 1_000, waitMs: 60_000, batchesMax: 3 }
const later = (turns: number): Promise<void> =>
  new Promise((resolve) => {
    const turn = (left: number): void =>
      void (left === 0 ? resolve() : setImmediate(turn, left - 1))
    turn(turns)
  })

describe('a message stream', () => {
  test('keeps the order when later batches are answered first', async () => {
    let batch = 0
    const stream = createMessageStream(
      limits,
      async (messages) => {
        await later(20 - (batch++ % 3) * 10)
        return messages
      },
      undefined,
    )
    const { sink, taken } = collector()
    await pipeline(Readable.from(numbers(95).map(bytes)), stream, sink)
    expect(taken).toEqual(numbers(95))
    expect(batch).toBe(10)
  })

  test('has no more batches under way than it may, and takes no more from its source', async () => {
    const waiting: (() => void)[] = []
    let read = 0
    const source = new Readable({
      objectMode: true,
      highWaterMark: 1,
      read() {
        this.push(bytes(String(read++)))
      },
    })
    const stream = createMessageStream(
      limits,
      (messages) => new Promise((resolve) => waiting.push(() => resolve(messages))),
      undefined,
    )
    source.pipe(stream)
    await later(200)
    expect(waiting).toHaveLength(3)
    // Three batches under way, the buffer of the stream's writable side, one of the source's.
    expect(read).toBeLessThanOrEqual(30 + 10 + 3)
    // Nobody reads: answers do not make room for more than the readable side holds.
    for (let i = 0; i < 50; i++) {
      waiting.shift()?.()
      await later(2)
    }
    expect(read).toBeLessThan(100)
    source.destroy()
    stream.destroy()
  })

  test('sends a batch that is not full when its source is slow, or ends', async () => {
    const batches: number[] = []
    const stream = createMessageStream(
      { ...limits, waitMs: 1 },
      async (messages) => {
        batches.push(messages.length)
        return messages
      },
      undefined,
    )
    stream.write(bytes('alone'))
    const [first] = (await stream.iterator({ destroyOnReturn: false }).next()).value as [number]
    expect(first).toBe('a'.charCodeAt(0))
    stream.end(bytes('last'))
    const rest: Uint8Array[] = []
    for await (const message of stream) rest.push(message as Uint8Array)
    expect(rest.map(String)).toEqual([String(bytes('last'))])
    expect(batches).toEqual([1, 1])
  })

  test('splits by bytes as well', async () => {
    const batches: number[] = []
    const stream = createMessageStream(
      { ...limits, bytesMax: 8 },
      async (messages) => {
        batches.push(messages.length)
        return messages
      },
      undefined,
    )
    const { sink } = collector()
    await pipeline(Readable.from(['1234', '5678', '123456789', '1'].map(bytes)), stream, sink)
    expect(batches).toEqual([2, 1, 1])
  })

  test('ends with the error of the first message that failed, after those before it', async () => {
    const run = async (messages: readonly Uint8Array[]): Promise<readonly Opened[]> =>
      messages.map((m) => (String(m) === String(bytes('25')) ? new Error('no 25') : m))
    const { sink, taken } = collector()
    const stream = createMessageStream(limits, run, undefined)
    await expect(pipeline(Readable.from(numbers(95).map(bytes)), stream, sink)).rejects.toThrow(
      'no 25',
    )
    expect(taken).toEqual(numbers(95).slice(0, taken.length))
    expect(taken.length).toBeLessThanOrEqual(25)
  })

  test('leaves failed messages out and tells their places, where someone wants to know', async () => {
    const failed: (readonly [string, number])[] = []
    const stream = createMessageStream(
      limits,
      async (messages) => messages.map((m) => (m.length === 2 ? new Error(`no ${m.length}`) : m)),
      ({ message }, index) => failed.push([message, index]),
    )
    const { sink, taken } = collector()
    await pipeline(Readable.from(numbers(12).map(bytes)), stream, sink)
    expect(taken).toEqual(numbers(10))
    expect(failed).toEqual([
      ['no 2', 10],
      ['no 2', 11],
    ])
  })

  test('ends with the error of a batch, and nothing is left unhandled', async () => {
    let batch = 0
    const stream = createMessageStream(
      limits,
      async () => {
        await later(batch++ === 0 ? 10 : 0)
        throw new KeyfoldError('OVERLOADED', `batch ${batch}`)
      },
      undefined,
    )
    const { sink, taken } = collector()
    await expect(
      pipeline(Readable.from(numbers(95).map(bytes)), stream, sink),
    ).rejects.toMatchObject({ code: 'OVERLOADED' })
    expect(taken).toEqual([])
    await later(20)
  })

  test('refuses what is no byte string', async () => {
    const stream = createMessageStream(limits, async (messages) => messages, undefined)
    const { sink } = collector()
    await expect(pipeline(Readable.from(['text', 'text']), stream, sink)).rejects.toThrow(TypeError)
  })
})

describe('streams of the client', () => {
  let service: Service
  let keyfold: Keyfold
  let key: string
  beforeAll(async () => {
    service = await startService()
    keyfold = new Keyfold({ url: service.url, token: service.token })
    key = await service.createKey()
  })
  afterAll(async () => {
    await keyfold.close()
    await service.close()
  })
  const context = { stream: 'größer' }

  test('seal and open 10,000 messages in order, in batches of the size asked for', async () => {
    const { sink, taken } = collector()
    const { inlineBatches: inline, pooledBatches: pooled } = service.engine.counters()
    await pipeline(
      Readable.from(numbers(10_000).map(bytes)),
      keyfold.encryptMessages(key, { context, suite: 2, messagesMax: 100, waitMs: 60_000 }),
      keyfold.decryptMessages({ context, messagesMax: 1_000, waitMs: 60_000 }),
      sink,
    )
    expect(taken).toEqual(numbers(10_000))
    const counters = service.engine.counters()
    expect(counters.inlineBatches + counters.pooledBatches - inline - pooled).toBe(100 + 10)
  })

  test('a message that does not open ends the stream, or is told by its place', async () => {
    const { ciphertexts } = await keyfold.encryptBatch(key, ['a', 'b', 'c'].map(bytes), { context })
    const batch = [ciphertexts[0], bytes('nonsense'), ciphertexts[2]] as Uint8Array[]
    const ended = collector()
    await expect(
      pipeline(Readable.from(batch), keyfold.decryptMessages({ context }), ended.sink),
    ).rejects.toMatchObject({ code: 'MESSAGE_MALFORMED' })

    const told: (readonly [string, number])[] = []
    const { sink, taken } = collector()
    const onFailure = (error: Error, index: number): void =>
      void told.push([(error as KeyfoldError).code, index])
    await pipeline(Readable.from(batch), keyfold.decryptMessages({ context, onFailure }), sink)
    expect(taken).toEqual(['a', 'c'])
    expect(told).toEqual([['MESSAGE_MALFORMED', 1]])
  })

  test('an abort signal ends a stream with ABORTED', async () => {
    const controller = new AbortController()
    const endless = new Readable({
      objectMode: true,
      read() {
        this.push(bytes('again'))
      },
    })
    let seen = 0
    const sink = new Writable({
      objectMode: true,
      write(_message, _encoding, done) {
        if (++seen === 5_000) controller.abort()
        done()
      },
    })
    const { signal } = controller
    await expect(
      pipeline(endless, keyfold.encryptMessages(key, { signal }), sink),
    ).rejects.toMatchObject({ code: 'ABORTED' })
  })

  test('a key that is not there ends the stream by name', async () => {
    const { sink } = collector()
    await expect(
      pipeline(Readable.from([bytes('x')]), keyfold.encryptMessages('alias/nowhere'), sink),
    ).rejects.toMatchObject({ code: 'KMS_KEY_NOT_FOUND' })
  })
})
