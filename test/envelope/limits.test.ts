/** How much fits, what it costs the key store, and what large batches give that small ones give too. */
import { createHash, randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { startService, type Answer, type Service } from '../service.ts'

const MESSAGES_PER_KEY = 65_536
const BATCH_MESSAGES = 4_096

let service: Service
let key: string

beforeAll(async () => {
  service = await startService({ settings: { messageKeyMessagesMax: String(MESSAGES_PER_KEY) } })
})
afterAll(() => service.close())

const context = { stream: 'clicks' }
const sealed = async (
  plaintexts: readonly Uint8Array[],
  fields: Readonly<Record<string, unknown>> = {},
): Promise<Answer> => service.call('encrypt', { key, context, plaintexts, ...fields })

/** One number for a batch: comparing millions of bytes one by one would take the suite's time. */
function digest(messages: readonly (Uint8Array | null)[]): string {
  const hash = createHash('sha256')
  for (const message of messages) {
    hash.update(message === null ? 'nil' : `${message.length}:`).update(message ?? '')
  }
  return hash.digest('hex')
}

describe('a million messages under one key and context', () => {
  test('cost the calls to the key store that the limits dictate', async () => {
    key = await service.createKey()
    const batch = Array.from({ length: BATCH_MESSAGES }, (_, i) => Buffer.from(`message ${i}`))
    const batches = 2 ** 20 / BATCH_MESSAGES
    const before = service.engine.counters().wraps
    const entries = new Map<string, number>()
    for (let i = 0; i < batches; i++) {
      const { ciphertexts } = await sealed(batch)
      const commitment = Buffer.from(ciphertexts[0] as Uint8Array).toString('hex', 2, 34)
      entries.set(commitment, (entries.get(commitment) ?? 0) + ciphertexts.length)
    }
    // 16 keys of 65,536 messages each, and the one made ready when the last was four fifths used.
    expect([...entries.values()]).toEqual(Array.from({ length: 16 }, () => MESSAGES_PER_KEY))
    expect(service.engine.counters().wraps - before).toBe(17)
  })

  test('a batch never spans two message keys: what is left of one is given up', async () => {
    key = await service.createKey()
    const half = Array.from({ length: 40_000 }, () => Buffer.alloc(1))
    const commitments = new Set<string>()
    for (let i = 0; i < 3; i++) {
      const { ciphertexts } = await sealed(half)
      const own = new Set(ciphertexts.map((bytes) => Buffer.from(bytes).toString('hex', 2, 34)))
      expect(own.size).toBe(1)
      for (const commitment of own) commitments.add(commitment)
    }
    expect(commitments.size).toBe(3)
  })
})

describe('large batches', () => {
  beforeAll(async () => {
    key = await service.createKey()
  })

  test.each(['inline', 'packed', 'detached'])(
    'of every length, opened by the workers together: %s',
    async (form) => {
      const plaintexts = Array.from({ length: 20_000 }, (_, i) => randomBytes((i * 31) % 700))
      const pooled = service.engine.counters().pooledBatches
      const { ciphertexts, packed, keyEntry, code } = await sealed(plaintexts, { form })
      expect(code).toBeUndefined()
      const opened = await service.call('decrypt', {
        context,
        ...(form === 'packed' ? { packed } : { ciphertexts }),
        ...(form === 'detached' ? { keyEntries: [keyEntry] } : {}),
      })
      expect(opened.errors ?? []).toEqual([])
      expect(digest(opened.plaintexts)).toBe(digest(plaintexts))
      // On node:crypto nothing is handed to workers: there handles belong to one thread.
      const workers = service.engine.crypto.implementation === 'node' ? 0 : 2
      expect(service.engine.counters().pooledBatches - pooled).toBe(workers)
    },
  )

  test('failures in any slice stand where they belong, and the rest closes up', async () => {
    const plaintexts = Array.from({ length: 20_000 }, (_, i) => Buffer.from(`${i}`.repeat(50)))
    const { ciphertexts } = await sealed(plaintexts)
    const broken = [0, 1, 4_999, 9_999, 10_000, 10_001, 19_999]
    const damaged = ciphertexts.map((bytes, i) => {
      if (!broken.includes(i)) return bytes
      const copy = Buffer.from(bytes)
      copy[copy.length - 1] = (copy.at(-1) as number) ^ 1
      return copy
    })
    const opened = await service.call('decrypt', { context, ciphertexts: damaged })
    expect(opened.errors).toEqual(broken.map((index) => [index, 'DECRYPT_FAILED']))
    const expected = plaintexts.map((plaintext, i) => (broken.includes(i) ? null : plaintext))
    expect(digest(opened.plaintexts)).toBe(digest(expected))
  })
})

describe('the most that fits', () => {
  test('65,536 messages pass, and one more is refused by name', async () => {
    key = await service.createKey()
    const most = Array.from({ length: 65_536 }, () => new Uint8Array(0))
    expect((await sealed(most)).ciphertexts.length).toBe(65_536)
    const refused = await sealed([...most, new Uint8Array(0)])
    expect(refused.code).toBe('LIMIT_EXCEEDED')
    expect(refused.message).toContain('65536')
    expect(refused.message).toContain('plaintexts')
  })

  test('a message of 16 MiB passes, and a byte more is refused with its index', async () => {
    const longest = Buffer.alloc(16 * 2 ** 20, 3)
    const { ciphertexts } = await sealed([Buffer.alloc(1), longest])
    const opened = await service.call('decrypt', { context, ciphertexts })
    expect(digest(opened.plaintexts)).toBe(digest([Buffer.alloc(1), longest]))
    const refused = await sealed([Buffer.alloc(1), Buffer.alloc(longest.length + 1)])
    expect(refused.code).toBe('LIMIT_EXCEEDED')
    expect(refused.message).toContain('message 1')
    expect(refused.message).toContain(String(longest.length))
  })

  test('a batch of nothing is refused in every form', async () => {
    for (const form of ['inline', 'detached', 'packed']) {
      expect((await sealed([], { form })).code).toBe('REQUEST_MALFORMED')
    }
    const { code } = await service.call('decrypt', { context, ciphertexts: [] })
    expect(code).toBe('REQUEST_MALFORMED')
  })

  test('256 distinct key entries open in one request', async () => {
    const few = await startService({ settings: { messageKeyMessagesMax: '1' } })
    try {
      const keyId = await few.createKey()
      const ciphertexts: Uint8Array[] = []
      for (let i = 0; i < 256; i++) {
        const answer = await few.call('encrypt', {
          key: keyId,
          context,
          plaintexts: [Buffer.of(i)],
        })
        ciphertexts.push(...answer.ciphertexts)
      }
      const opened = await few.call('decrypt', { context, ciphertexts })
      expect(opened.errors ?? []).toEqual([])
      expect(opened.plaintexts.map((plaintext) => plaintext?.[0])).toEqual(
        Array.from({ length: 256 }, (_, i) => i),
      )
    } finally {
      await few.close()
    }
  })
})
