/** Single messages travel in batches, and nobody notices but the server. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { Gatherer } from '../../dist/client/gatherer.js'
import { Keyfold, KeyfoldError } from '../../dist/index.js'
import { startService, type Service } from '../service.ts'

const bytes = (text: string): Uint8Array => Buffer.from(text)
const texts = (batch: readonly Uint8Array[]): readonly string[] =>
  batch.map((message) => Buffer.from(message).toString())

/** A gatherer that notes its batches and answers each message with itself. */
function echo(limits: { messagesMax?: number; bytesMax?: number; waitMs?: number }): {
  readonly gatherer: Gatherer<Uint8Array>
  readonly batches: (readonly string[])[]
} {
  const batches: (readonly string[])[] = []
  const all = { messagesMax: 1_000, bytesMax: 1_000, waitMs: 60_000, ...limits }
  const gatherer = new Gatherer<Uint8Array>(all, async (messages) => {
    batches.push(texts(messages))
    return messages
  })
  return { gatherer, batches }
}

describe('a gatherer', () => {
  test('sends what came together in one batch, in order, and answers each with its own', async () => {
    const { gatherer, batches } = echo({ waitMs: 1 })
    const answers = await Promise.all(['a', 'b', 'c'].map((text) => gatherer.add(bytes(text))))
    expect(texts(answers)).toEqual(['a', 'b', 'c'])
    expect(batches).toEqual([['a', 'b', 'c']])
  })

  test('sends a batch the moment it has messagesMax messages', async () => {
    const { gatherer, batches } = echo({ messagesMax: 2 })
    void gatherer.add(bytes('a'))
    expect(batches).toEqual([])
    await gatherer.add(bytes('b'))
    expect(batches).toEqual([['a', 'b']])
    expect(gatherer.empty).toBe(true)
  })

  test('never puts more than bytesMax into a batch of several', async () => {
    const { gatherer, batches } = echo({ bytesMax: 10 })
    const answers = ['12345', '1234', '12', '123456789012345', '1', '1234567890'].map((text) =>
      gatherer.add(bytes(text)),
    )
    gatherer.flush()
    await Promise.all(answers)
    expect(batches).toEqual([['12345', '1234'], ['12'], ['123456789012345'], ['1'], ['1234567890']])
  })

  test('fails the promise of a message that failed, and no other', async () => {
    const gatherer = new Gatherer<Uint8Array>(
      { messagesMax: 3, bytesMax: 100, waitMs: 60_000 },
      async (messages) =>
        messages.map((m, i) => (i === 1 ? new KeyfoldError('DECRYPT_FAILED') : m)),
    )
    const answers = await Promise.allSettled(
      ['a', 'b', 'c'].map((text) => gatherer.add(bytes(text))),
    )
    expect(answers.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
    expect((answers[1] as PromiseRejectedResult).reason).toMatchObject({ code: 'DECRYPT_FAILED' })
  })

  test('fails every promise of a batch that failed, and goes on', async () => {
    let calls = 0
    const gatherer = new Gatherer<Uint8Array>(
      { messagesMax: 2, bytesMax: 100, waitMs: 60_000 },
      async (messages) => {
        if (calls++ === 0) throw new KeyfoldError('OVERLOADED')
        return messages
      },
    )
    const add = (): Promise<Uint8Array> => gatherer.add(bytes('x'))
    const first = await Promise.allSettled([add(), add()])
    expect(first.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
    expect(texts(await Promise.all([add(), add()]))).toEqual(['x', 'x'])
  })
})

describe('the client', () => {
  let service: Service
  let key: string
  const clients: Keyfold[] = []
  const connect = (gather: {
    messagesMax?: number
    bytesMax?: number
    waitMs?: number
  }): Keyfold => {
    const keyfold = new Keyfold({ url: service.url, token: service.token, gather })
    clients.push(keyfold)
    return keyfold
  }
  beforeAll(async () => {
    service = await startService()
    key = await service.createKey()
  })
  afterAll(async () => {
    for (const keyfold of clients) await keyfold.close()
    await service.close()
  })

  /** Batches the server has done: it counts them, the client is not asked. */
  const batches = (): number => {
    const { inlineBatches, pooledBatches } = service.engine.counters()
    return inlineBatches + pooledBatches
  }

  test('seals a thousand calls of one tick in one batch, each with its own answer', async () => {
    const keyfold = connect({})
    const before = batches()
    const all = Array.from({ length: 1_000 }, (_, i) => `message ${i}`)
    const sealed = await Promise.all(all.map((text) => keyfold.encrypt(key, bytes(text))))
    expect(batches() - before).toBe(1)
    const opened = await Promise.all(sealed.map((ciphertext) => keyfold.decrypt(ciphertext)))
    expect(batches() - before).toBe(2)
    expect(texts(opened)).toEqual(all)
  })

  test('keeps keys, contexts and suites apart, whatever the order of a context', async () => {
    const keyfold = connect({})
    const other = await service.createKey()
    const before = batches()
    const sealed = await Promise.all([
      keyfold.encrypt(key, bytes('0'), { context: { a: '1', b: '2' } }),
      keyfold.encrypt(key, bytes('1'), { context: { b: '2', a: '1' } }),
      keyfold.encrypt(other, bytes('2'), { context: { a: '1', b: '2' } }),
      keyfold.encrypt(key, bytes('3'), { context: { a: '1' } }),
      keyfold.encrypt(key, bytes('4'), { context: { a: '1', b: '2' }, suite: 2 }),
      // A context that reads like the others when it is run together.
      keyfold.encrypt(key, bytes('5'), { context: { 'a","1': 'b","2' } }),
    ])
    expect(batches() - before).toBe(5)
    const contexts = [0, 1, 2, 4].map((i) => [i, { a: '1', b: '2' }] as const)
    for (const [i, context] of [
      ...contexts,
      [3, { a: '1' }] as const,
      [5, { 'a","1': 'b","2' }] as const,
    ]) {
      expect(texts([await keyfold.decrypt(sealed[i] as Uint8Array, { context })])).toEqual([`${i}`])
    }
  })

  test('seals under the context of the moment of the call, though its object changes', async () => {
    const keyfold = connect({})
    const context = { row: '1' }
    const first = keyfold.encrypt(key, bytes('one'), { context })
    context.row = '2'
    const second = keyfold.encrypt(key, bytes('two'), { context })
    expect(texts([await keyfold.decrypt(await first, { context: { row: '1' } })])).toEqual(['one'])
    expect(texts([await keyfold.decrypt(await second, { context: { row: '2' } })])).toEqual(['two'])
  })

  test('rejects a message that does not open with its own error; its neighbours open', async () => {
    const keyfold = connect({})
    const good = await keyfold.encrypt(key, bytes('good'))
    const flipped = Buffer.from(good)
    flipped.writeUInt8(flipped.readUInt8(flipped.length - 1) ^ 1, flipped.length - 1)
    const answers = await Promise.allSettled(
      [good, flipped, bytes('nonsense'), good].map((ciphertext) => keyfold.decrypt(ciphertext)),
    )
    expect(
      answers.map((answer) =>
        answer.status === 'fulfilled'
          ? Buffer.from(answer.value).toString()
          : (answer.reason as KeyfoldError).code,
      ),
    ).toEqual(['good', 'DECRYPT_FAILED', 'MESSAGE_MALFORMED', 'good'])
  })

  test('rejects every message of a batch whose key is not there', async () => {
    const keyfold = connect({})
    const calls = [1, 2].map(() => keyfold.encrypt('alias/nowhere', bytes('x')))
    const answers = await Promise.allSettled(calls)
    expect(answers.map((a) => a.status === 'rejected' && (a.reason as KeyfoldError).code)).toEqual([
      'KMS_KEY_NOT_FOUND',
      'KMS_KEY_NOT_FOUND',
    ])
  })

  test('refuses a message beyond 16 MiB alone: those beside it are sealed', async () => {
    const keyfold = connect({})
    const [before, large, after] = await Promise.allSettled([
      keyfold.encrypt(key, bytes('before')),
      keyfold.encrypt(key, Buffer.alloc(16 * 2 ** 20 + 1)),
      keyfold.encrypt(key, bytes('after')),
    ])
    expect(before.status).toBe('fulfilled')
    expect(after.status).toBe('fulfilled')
    expect((large as PromiseRejectedResult).reason).toMatchObject({ code: 'LIMIT_EXCEEDED' })
  })

  test('loses no message when batches overflow and close comes between', async () => {
    const keyfold = connect({ bytesMax: 10, waitMs: 60_000 })
    const all = Array.from({ length: 100 }, (_, i) => `message ${i % 7}${'x'.repeat(i % 5)}`)
    const sealed = all.map((text) => keyfold.encrypt(key, bytes(text)))
    await keyfold.close()
    const { plaintexts } = await connect({}).decryptBatch(await Promise.all(sealed))
    expect(texts(plaintexts as Uint8Array[])).toEqual(all)
  })
})
