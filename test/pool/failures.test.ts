/** What a batch that fails leaves behind: no slot, no ticket, and nothing of it with the caller. */
import { randomBytes } from 'node:crypto'
import { setImmediate as turn } from 'node:timers/promises'
import type { Worker } from 'node:worker_threads'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import type { Crypto } from '../../dist/crypto/crypto.js'
import type { Form } from '../../dist/envelope/batch.js'
import type { EnvelopeParts } from '../../dist/envelope/parts.js'
import { sealPlaintexts } from '../../dist/envelope/seal.js'
import { KeyfoldError } from '../../dist/errors.js'
import type { Pool } from '../../dist/pool/pool.js'
import { BoundedSlotPool } from '../../dist/pool/slot-pool.js'
import { contextHash, createSharedKey, encodeElements } from '../crypto/batch.ts'
import { implementations } from '../crypto/implementations.ts'
import { startService, type Answer, type Service } from '../service.ts'

const FORMS: readonly Form[] = ['inline', 'detached', 'packed']

/** Every thread that this process starts. */
const threads: Worker[] = []
process.on('worker', (worker) => threads.push(worker))

async function codeOf(work: () => unknown): Promise<string> {
  try {
    await work()
    return 'done'
  } catch (error) {
    return error instanceof KeyfoldError ? error.code : String(error)
  }
}

type Run = (slice: number, work: () => number) => Promise<number>

/** A batch of four messages in two slices, on workers that `run` stands for; on the spot without it. */
function prepare(crypto: Crypto, slotBytesMax: number, run?: Run) {
  const shared = createSharedKey()
  const key = shared.sealing(crypto, 1)
  const bytes = encodeElements([1, 2, 3, 4].map(() => randomBytes(100)))
  const slots = new BoundedSlotPool(slotBytesMax)
  let slices = 0
  const pool: Pick<Pool, 'plan' | 'run'> = {
    plan: () => (run === undefined ? { inline: true, parts: 1 } : { inline: false, parts: 2 }),
    run: async (name, request) => {
      const work = (): number => Number(crypto[name](request as never) ?? 0)
      return (run as Run)(slices++, work)
    },
  }
  const parts = { crypto, slots, pool } as unknown as EnvelopeParts
  const seal = async (form: Form) =>
    sealPlaintexts(parts, {
      lease: {
        key,
        suite: 1,
        keyEntry: shared.keyEntry,
        kmsKey: { arn: 'arn' } as never,
        materialVersion: 1,
        release: () => undefined,
      },
      form,
      contextHash,
      body: { bytes, keep: () => undefined },
      plaintexts: { offset: 0, end: bytes.length, count: 4 },
      plaintextBytes: 400,
      nilAllowed: false,
    })
  return { key, slots, seal }
}

const atOnce: Run = async (_slice, work) => work()

describe.each(implementations.map((crypto) => [crypto.implementation, crypto] as const))(
  'sealing on %s',
  (_name, crypto) => {
    describe.each(FORMS)('%s', (form) => {
      test.each([
        ['on the spot', undefined],
        ['in slices', atOnce],
      ] as const)(
        '%s, a batch that succeeds holds one slot until it is released',
        async (_, run) => {
          const { slots, seal } = prepare(crypto, 2 ** 20, run)
          const { slot } = await seal(form)
          expect(slots.bytesInUse).toBe(slot.bytes.length)
          slot.release()
          expect(slots.bytesInUse).toBe(0)
          expect(crypto.keyTableUsage().ticketsUsed).toBe(0)
        },
      )

      test.each([
        ['on the spot', undefined],
        ['in slices', atOnce],
      ] as const)(
        '%s, under a key that was wiped, it leaves no slot and no ticket',
        async (_, run) => {
          const { key, slots, seal } = prepare(crypto, 2 ** 20, run)
          crypto.releaseKey(key)
          expect(await codeOf(() => seal(form))).toBe('KEY_HANDLE_STALE')
          expect(slots.bytesInUse).toBe(0)
          expect(crypto.keyTableUsage().ticketsUsed).toBe(0)
        },
      )

      test.each([
        ['on the spot', undefined],
        ['in slices', atOnce],
      ] as const)('%s, where no slot is free, it leaves no ticket', async (_, run) => {
        const { slots, seal } = prepare(crypto, 1024, run)
        expect(await codeOf(() => seal(form))).toBe('OVERLOADED')
        expect(slots.bytesInUse).toBe(0)
        expect(crypto.keyTableUsage().ticketsUsed).toBe(0)
      })

      test('where one slice is refused, the slot is kept until the other has ended', async () => {
        let end: () => void = () => undefined
        const ended = new Promise<void>((resolve) => (end = resolve))
        const { slots, seal } = prepare(crypto, 2 ** 20, async (slice, work) => {
          if (slice === 0) throw new KeyfoldError('OVERLOADED')
          await ended
          return work()
        })
        const code = codeOf(() => seal(form))
        for (let i = 0; i < 10; i++) await turn()
        expect(slots.bytesInUse).toBeGreaterThan(0)
        end()
        expect(await code).toBe('OVERLOADED')
        expect(slots.bytesInUse).toBe(0)
        expect(crypto.keyTableUsage().ticketsUsed).toBe(0)
      })
    })

    test('packed, where every ticket is out, it leaves no slot, and serves when one is back', async () => {
      const { key, slots, seal } = prepare(crypto, 2 ** 20)
      const { tickets } = crypto.keyTableUsage()
      const held = Array.from({ length: tickets }, () =>
        crypto.beginPacked(key, contextHash, 1, [0]),
      )
      expect(await codeOf(() => seal('packed'))).toBe('KEY_TABLE_FULL')
      expect(slots.bytesInUse).toBe(0)
      crypto.abandonPacked(held.pop() as number)
      const { slot } = await seal('packed')
      slot.release()
      for (const ticket of held) crypto.abandonPacked(ticket)
      expect(crypto.keyTableUsage().ticketsUsed).toBe(0)
    })
  },
)

const native = implementations.some((crypto) => crypto.implementation !== 'node')

describe.skipIf(!native)('a worker of the service that dies mid-request (needs the addon)', () => {
  const MESSAGE_BYTES = 2 ** 20
  const plaintexts = Array.from({ length: 48 }, () => Buffer.alloc(MESSAGE_BYTES, 0x61))
  let service: Service
  let key: string
  /** The catalog has threads too, which were there first. */
  let others: number

  beforeAll(async () => {
    service = await startService({ settings: { workers: '2' } })
    key = await service.createKey()
    others = threads.length - 2
    expect(service.engine.crypto.implementation).not.toBe('node')
  })
  afterAll(() => service.close())

  /** The answer to a request that lost its workers: those that were done before are asked for again. */
  async function failedCall(route: string, fields: Record<string, unknown>): Promise<Answer> {
    let answer: Answer
    do answer = await callAndKill(route, fields)
    while (answer.code === undefined)
    return answer
  }

  /** Sends a request and ends every worker as soon as they have its slices. */
  async function callAndKill(route: string, fields: Record<string, unknown>): Promise<Answer> {
    const { engine } = service
    const before = engine.counters().pooledBatches
    let answered = false
    const answer = service.call(route, fields).finally(() => (answered = true))
    while (engine.counters().pooledBatches === before && !answered) await turn()
    await turn()
    await Promise.all(threads.slice(others).map(async (worker) => worker.terminate()))
    return answer
  }

  async function expectNothingHeld(): Promise<void> {
    // The answer's own slot goes back when its last byte is sent.
    while (service.engine.counters().bytesInFlight > 0) await turn()
    const { bytesInFlight, keyTable } = service.engine.counters()
    expect({ bytesInFlight, ticketsUsed: keyTable.ticketsUsed }).toEqual({
      bytesInFlight: 0,
      ticketsUsed: 0,
    })
  }

  test.each(FORMS)(
    'fails an encryption (%s) by name, holds nothing, and the next one is served',
    async (form) => {
      const failed = await failedCall('encrypt', { key, plaintexts, form })
      expect(failed.code).toBe('WORKER_FAILED')
      expect(Object.keys(failed).sort()).toEqual(['code', 'message', 'requestId'])
      await expectNothingHeld()
      const sealed = await service.call('encrypt', { key, plaintexts, form })
      expect(sealed.code).toBeUndefined()
      expect(sealed.packed?.length ?? sealed.ciphertexts.length).toBeGreaterThan(0)
      await expectNothingHeld()
    },
  )

  test.each(FORMS)(
    'fails a decryption (%s) without one plaintext, and the next one opens all',
    async (form) => {
      const sealed = await service.call('encrypt', { key, plaintexts, form })
      const { ciphertexts, packed, keyEntry } = sealed
      const ask =
        form === 'packed'
          ? { packed }
          : { ciphertexts, ...(form === 'detached' && { keyEntries: [keyEntry] }) }
      const failed = await failedCall('decrypt', ask)
      expect(failed.code).toBe('WORKER_FAILED')
      expect(Object.keys(failed).sort()).toEqual(['code', 'message', 'requestId'])
      await expectNothingHeld()
      const opened = await service.call('decrypt', ask)
      expect(opened.errors ?? []).toEqual([])
      expect(opened.plaintexts.length).toBe(plaintexts.length)
      expect(
        opened.plaintexts.every(
          (each, i) => Buffer.compare(each as Buffer, plaintexts[i] as Buffer) === 0,
        ),
      ).toBe(true)
      await expectNothingHeld()
    },
  )
})
