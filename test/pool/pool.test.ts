/** Batches over worker threads: the same bytes as on one, per-message failures in place, and what a dying worker leaves. */
import { createHash, randomBytes } from 'node:crypto'
import { setImmediate as turn } from 'node:timers/promises'
import type { Worker } from 'node:worker_threads'
import { afterAll, describe, expect, test } from 'vitest'

import type { Crypto, Part, Suite } from '../../dist/crypto/crypto.js'
import { createNodeCrypto } from '../../dist/crypto/node-crypto.js'
import type { KeyfoldError } from '../../dist/errors.js'
import { BATCH_PARTS_MAX, POOL_QUEUE_MAX } from '../../dist/limits.js'
import { Pool } from '../../dist/pool/pool.js'
import {
  contextHash,
  createSharedKey,
  decodeElements,
  encodeElements,
  openMessages,
  openPacked,
  packedLayout,
  sealMessages,
  sealOverhead,
  sealPacked,
} from '../crypto/batch.ts'
import { implementations } from '../crypto/implementations.ts'

const node = createNodeCrypto()
/** The best one; which of them a worker runs makes no difference to the pool. */
const native = implementations.filter((crypto) => crypto.implementation !== 'node').slice(-1)
const SUITES: readonly Suite[] = [1, 2]

/** Every thread that this process starts. */
const threads: Worker[] = []
process.on('worker', (worker) => threads.push(worker))

function share(bytes: Uint8Array | number): Uint8Array {
  const length = typeof bytes === 'number' ? bytes : bytes.length
  const shared = new Uint8Array(new SharedArrayBuffer(length))
  if (typeof bytes !== 'number') shared.set(bytes)
  return shared
}

function plan(crypto: Crypto, input: Uint8Array, messages: number, partsMax: number, bytes = 0) {
  return crypto.planParts({
    input,
    inputOffset: 0,
    inputEnd: input.length,
    messages,
    overheadBytes: bytes,
    nilAllowed: false,
    partsMax,
  })
}

/** Where each part's output begins. */
function offsetsOf(parts: readonly Part[], bytesOf: (part: Part) => number, start = 0): number[] {
  let offset = start
  return parts.map((part) => {
    const at = offset
    offset += bytesOf(part)
    return at
  })
}

/** Short, so that thousands of messages are compared at once: null stays null. */
function digests(messages: readonly (Uint8Array | null)[] | undefined): (string | null)[] {
  return (messages ?? []).map((message) =>
    message === null ? null : createHash('sha256').update(message).digest('base64'),
  )
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'done',
    (error: KeyfoldError) => error.code ?? String(error),
  )
}

describe('on node:crypto', () => {
  test('there are no workers, and everything is done on the spot', async () => {
    const started = threads.length
    const alone = createNodeCrypto()
    const pool = new Pool(alone, 4)
    expect(pool.plan(65_536, 2 ** 30)).toEqual({ inline: true, parts: 1 })
    expect(pool).toMatchObject({ inlineBatches: 1, pooledBatches: 0 })
    expect(await codeOf(pool.run('sealBatch', {} as never))).toBe('INTERNAL')
    expect(threads.length).toBe(started)
    expect(alone.keyTableUsage().slotsUsed).toBe(0)
    await pool.close()
  })
})

describe.each(native.map((crypto) => [crypto.implementation, crypto] as const))(
  'workers on %s',
  (_name, crypto) => {
    const pool = new Pool(crypto, 2)
    const one = new Pool(crypto, 1)
    const minimal = (() => {
      const key = createSharedKey().sealing(crypto, 1)
      const input = share(encodeElements([Buffer.from('message')]))
      return {
        key,
        contextHash,
        form: 'detached' as const,
        keyEntry: new Uint8Array(0),
        nilAllowed: false,
        input,
        inputOffset: 0,
        inputEnd: input.length,
        messages: 1,
        output: share(128),
        outputOffset: 0,
        outputEnd: 128,
      }
    })()
    /** Large enough that a worker is at it for many milliseconds. */
    const long = (() => {
      const message = new Uint8Array(1024 * 1024)
      const input = share(encodeElements(Array<Uint8Array>(96).fill(message)))
      return { ...minimal, input, inputEnd: input.length, messages: 96 }
    })()
    const createLong = () => {
      const output = share(long.input.length + 96 * 64)
      return { ...long, output, outputEnd: output.length }
    }

    afterAll(async () => {
      crypto.releaseKey(minimal.key)
      await pool.close()
      await one.close()
    })

    test('measuring its costs leaves no key behind', async () => {
      const used = crypto.keyTableUsage()
      const other = new Pool(crypto, 1)
      expect(crypto.keyTableUsage()).toEqual(used)
      await other.close()
    })

    test('small batches stay, large ones are cut into as many parts as there are workers', () => {
      const before = { inline: pool.inlineBatches, pooled: pool.pooledBatches }
      expect(pool.plan(1, 16)).toEqual({ inline: true, parts: 1 })
      expect(pool.plan(65_536, 2 ** 30)).toEqual({ inline: false, parts: 2 })
      expect(one.plan(65_536, 2 ** 30)).toEqual({ inline: false, parts: 1 })
      expect(pool.inlineBatches).toBe(before.inline + 1)
      expect(pool.pooledBatches).toBe(before.pooled + 1)
    })

    describe.each(SUITES)('in suite %i', (suite) => {
      const messages = Array.from({ length: 3_000 }, (_, i) =>
        randomBytes(i % 500 === 0 ? 70_000 : (i * 7919) % 300),
      )
      const shared = createSharedKey()
      const key = shared.sealing(crypto, suite)
      const opening = shared.opening(crypto, suite)
      const nodeOpening = shared.opening(node, suite)
      const input = share(encodeElements(messages))

      test.each(['inline', 'detached'] as const)(
        '%s messages that several workers seal are opened in order by node:crypto',
        async (form) => {
          const { keyEntry } = shared
          const reference = form === 'inline' ? keyEntry.length : 16
          const overhead = 2 + reference + 24 + sealOverhead(suite)
          for (const [workers, partsMax] of [
            [one, 1],
            [pool, 2],
            [pool, BATCH_PARTS_MAX],
          ] as const) {
            const parts = plan(crypto, input, messages.length, partsMax, overhead)
            expect(parts.length).toBeGreaterThan(partsMax / 3)
            const offsets = offsetsOf(parts, (part) => part.outputBytes)
            const output = share(parts.reduce((sum, part) => sum + part.outputBytes, 0))
            const written = await Promise.all(
              parts.map((part, i) =>
                workers.run('sealBatch', {
                  ...minimal,
                  key,
                  form,
                  keyEntry: form === 'inline' ? keyEntry : new Uint8Array(0),
                  input,
                  inputOffset: part.inputOffset,
                  inputEnd: part.inputEnd,
                  messages: part.messages,
                  output,
                  outputOffset: offsets[i] as number,
                  outputEnd: (offsets[i] as number) + part.outputBytes,
                }),
              ),
            )
            expect(written).toEqual(parts.map((part) => part.outputBytes))
            const sealed = decodeElements(output, messages.length) as Buffer[]
            // Each part is a batch of its own: no two share R, and no (R, index) comes twice.
            const nonceAt = 2 + reference
            const nonces = sealed.map((bytes) => bytes.toString('hex', nonceAt, nonceAt + 24))
            expect(new Set(nonces).size).toBe(messages.length)
            expect(new Set(nonces.map((nonce) => nonce.slice(0, 40))).size).toBe(parts.length)
            const keyEntries = [keyEntry]
            const opened = openMessages(node, nodeOpening, sealed, { keyEntries })
            expect(digests(opened.plaintexts)).toEqual(digests(messages))
          }
        },
      )

      test('a packed batch of several workers is opened by node:crypto', async () => {
        const { lengthsOffset, sealedOffset, end } = packedLayout(shared.keyEntry, messages, suite)
        for (const partsMax of [1, 2, BATCH_PARTS_MAX]) {
          const packed = share(end)
          const parts = plan(crypto, input, messages.length, partsMax)
          const firsts = parts.map((part) => part.firstMessage)
          const ticket = crypto.beginPacked(key, contextHash, messages.length, firsts)
          const offsets = offsetsOf(
            parts,
            (part) => part.plaintextBytes + part.messages * sealOverhead(suite),
            sealedOffset,
          )
          await Promise.all(
            parts.map((part, i) =>
              pool.run('sealPackedPart', {
                ticket,
                part: i,
                input,
                inputOffset: part.inputOffset,
                inputEnd: part.inputEnd,
                packed,
                packedOffset: 0,
                packedEnd: end,
                lengthsOffset,
                sealedOffset: offsets[i] as number,
              }),
            ),
          )
          crypto.finishPacked(ticket, shared.keyEntry, packed, 0, end)
          const opened = openPacked(node, nodeOpening, packed, messages.length, sealedOffset)
          expect(digests(opened)).toEqual(digests(messages))
        }
        expect(crypto.keyTableUsage().ticketsUsed).toBe(0)
      })

      test('messages that do not open are nil in their place, over workers as on one and on node:crypto', async () => {
        const sealing = { crypto: node, key: shared.sealing(node, suite), suite, ...shared }
        const keyEntry = shared.keyEntry
        const sealed = sealMessages({ ...sealing, keyEntry }, 'inline', messages)
        const expected: (Buffer | null)[] = [...messages]
        for (let i = 0; i < sealed.length; i += 1 + (i % 7)) {
          const message = sealed[i] as Buffer
          const at = message.length - 1 - (i % sealOverhead(suite))
          message[at] = (message[at] as number) ^ 0x10
          expected[i] = null
        }
        const failed = expected.map((message) => (message === null ? 1 : 0))
        const ciphertexts = share(encodeElements(sealed))
        const onNode = openMessages(node, nodeOpening, sealed)
        expect(digests(onNode.plaintexts)).toEqual(digests(expected))
        for (const partsMax of [1, 2, BATCH_PARTS_MAX]) {
          const entryOf = new Uint16Array(new SharedArrayBuffer(2 * messages.length))
          const scan = crypto.scanMessages({
            input: ciphertexts,
            inputOffset: 0,
            inputEnd: ciphertexts.length,
            messages: messages.length,
            contextHash,
            keyEntries: [],
            entryOf,
            partsMax,
          })
          const { parts } = scan
          const failures = share(messages.length)
          const offsets = offsetsOf(parts, (part) => part.outputBytes)
          const output = share(parts.reduce((sum, part) => sum + part.outputBytes, 0))
          const written = await Promise.all(
            parts.map((part, i) =>
              pool.run('openBatch', {
                keys: Float64Array.of(opening),
                entryOf: entryOf.subarray(part.firstMessage, part.firstMessage + part.messages),
                contextHash,
                input: ciphertexts,
                inputOffset: part.inputOffset,
                inputEnd: part.inputEnd,
                messages: part.messages,
                failures: failures.subarray(part.firstMessage, part.firstMessage + part.messages),
                output,
                outputOffset: offsets[i] as number,
                outputEnd: (offsets[i] as number) + part.outputBytes,
              }),
            ),
          )
          const opened = parts.flatMap((part, i) => {
            const from = offsets[i] as number
            const end = from + (written[i] as number)
            // Behind what was written is nothing that a message held.
            expect(output.subarray(end, from + part.outputBytes).every((byte) => byte === 0)).toBe(
              true,
            )
            return decodeElements(output.subarray(from, end), part.messages)
          })
          expect(digests(opened)).toEqual(digests(expected))
          expect([...failures]).toEqual(failed)
        }
      })

      test('a packed batch opens over workers, with what is damaged nil in its place', async () => {
        const keyEntry = shared.keyEntry
        const sealing = { crypto: node, key: shared.sealing(node, suite), suite, keyEntry }
        const packed = share(sealPacked(sealing, messages))
        const { sealedOffset } = packedLayout(keyEntry, messages, suite)
        const overhead = sealOverhead(suite)
        const expected: (Buffer | null)[] = [...messages]
        const starts: number[] = []
        let offset = sealedOffset
        for (const [i, message] of messages.entries()) {
          starts.push(offset)
          // The batch tag covers tags, not ciphertexts: those fail alone.
          if (i % 5 === 0 && message.length > 0) {
            packed[offset] = (packed[offset] as number) ^ 1
            expected[i] = null
          }
          offset += message.length + overhead
        }
        expect(crypto.verifyPacked(opening, contextHash, packed, 0, packed.length)).toBe(true)
        const perPart = 1_000
        const failures = share(messages.length)
        const parts = [0, 1, 2].map(async (part) => {
          const own = messages.slice(part * perPart, (part + 1) * perPart)
          const output = share(own.reduce((sum, { length }) => sum + length + 5, 0))
          const written = await pool.run('openPackedPart', {
            key: opening,
            contextHash,
            packed,
            packedOffset: 0,
            packedEnd: packed.length,
            firstMessage: part * perPart,
            messages: perPart,
            sealedOffset: starts[part * perPart] as number,
            failures: failures.subarray(part * perPart, (part + 1) * perPart),
            output,
            outputOffset: 0,
            outputEnd: output.length,
          })
          return decodeElements(output.subarray(0, written), perPart)
        })
        expect(digests((await Promise.all(parts)).flat())).toEqual(digests(expected))
        expect([...failures]).toEqual(expected.map((message) => (message === null ? 1 : 0)))
      })
    })

    test('a ticket’s part goes to one worker only, however many ask for it', async () => {
      const messages = [randomBytes(3_000), randomBytes(2_000)]
      const shared = createSharedKey()
      const key = shared.sealing(crypto, 1)
      const input = share(encodeElements(messages))
      const { lengthsOffset, sealedOffset, end } = packedLayout(shared.keyEntry, messages, 1)
      const parts = plan(crypto, input, 2, 2)
      const packed = share(end)
      for (let round = 0; round < 20; round++) {
        const ticket = crypto.beginPacked(key, contextHash, 2, [0, 1])
        // Every claim has a place of its own to write to: only one of each part may be written.
        const claims = Array.from({ length: 12 }, (_, claim) => {
          const index = claim % 2
          const part = parts[index] as Part
          const own = share(end)
          const answer = pool.run('sealPackedPart', {
            ticket,
            part: index,
            input,
            inputOffset: part.inputOffset,
            inputEnd: part.inputEnd,
            packed: own,
            packedOffset: 0,
            packedEnd: end,
            lengthsOffset,
            sealedOffset: sealedOffset + (index === 0 ? 0 : 3_016),
          })
          return { own, code: codeOf(answer) }
        })
        const sealed: Uint8Array[] = []
        for (const { own, code } of claims) {
          if ((await code) === 'done') sealed.push(own)
          else {
            expect(await code).toBe('INTERNAL')
            expect(own.every((byte) => byte === 0)).toBe(true)
          }
        }
        expect(sealed.length).toBe(2)
        packed.fill(0)
        for (const own of sealed)
          own.forEach((byte, at) => (packed[at] as number) === 0 && (packed[at] = byte))
        crypto.finishPacked(ticket, shared.keyEntry, packed, 0, end)
        const opened = openPacked(node, shared.opening(node, 1), packed, 2, sealedOffset)
        expect(digests(opened)).toEqual(digests(messages))
        const finishAgain = () => crypto.finishPacked(ticket, shared.keyEntry, packed, 0, end)
        expect(finishAgain).toThrow('wiped')
      }
      crypto.releaseKey(key)
      expect(crypto.keyTableUsage().ticketsUsed).toBe(0)
    })

    test('keys made on this thread serve on the others, until they are released here', async () => {
      const key = createSharedKey().sealing(crypto, 1)
      expect(await codeOf(pool.run('sealBatch', { ...minimal, key }))).toBe('done')
      crypto.releaseKey(key)
      expect(await codeOf(pool.run('sealBatch', { ...minimal, key }))).toBe('KEY_HANDLE_STALE')
      expect(await codeOf(pool.run('sealBatch', { ...minimal, key: 0 }))).toBe('KEY_HANDLE_STALE')
    })

    test('what the operation refuses keeps its code on the way between threads', async () => {
      const fail = async (change: object): Promise<string> =>
        codeOf(pool.run('sealBatch', { ...minimal, ...change }))
      expect(await fail({ messages: 2 })).toBe('REQUEST_MALFORMED')
      expect(await fail({ outputEnd: 10 })).toBe('INTERNAL')
      const output = share(128)
      expect(await fail({ output, inputEnd: minimal.inputEnd - 1 })).toBe('REQUEST_MALFORMED')
      expect(output.every((byte) => byte === 0)).toBe(true)
      expect(await fail({})).toBe('done')
    })

    test('beyond its queue it says OVERLOADED, does all that it took on, and serves again', async () => {
      const asked = POOL_QUEUE_MAX + 500
      await one.run('sealBatch', minimal)
      const answers = Array.from({ length: asked }, () => codeOf(one.run('sealBatch', minimal)))
      const codes = await Promise.all(answers)
      const count = (code: string): number => codes.filter((each) => each === code).length
      expect(count('done')).toBeGreaterThanOrEqual(POOL_QUEUE_MAX)
      expect(count('OVERLOADED')).toBeGreaterThan(0)
      expect(count('done') + count('OVERLOADED')).toBe(asked)
      expect(await codeOf(one.run('sealBatch', minimal))).toBe('done')
    })

    describe('when a worker dies', () => {
      /** Ends a worker amid what `begin` has it do; where it was done before it was ended, again. */
      async function failed<T extends { readonly running: Promise<string> }>(
        single: Pool,
        begin: () => Promise<T>,
      ): Promise<T> {
        for (;;) {
          await single.run('sealBatch', minimal)
          const worker = threads.at(-1) as Worker
          const begun = await begin()
          await worker.terminate()
          const code = await begun.running
          if (code !== 'done') {
            expect(code).toBe('WORKER_FAILED')
            expect(await codeOf(single.run('sealBatch', minimal))).toBe('done')
            expect(threads.at(-1)).not.toBe(worker)
            return begun
          }
        }
      }

      test('mid-slice, that slice and what waited behind it fail, and the next one is served', async () => {
        const single = new Pool(crypto, 1)
        const { waiting, queued } = await failed(single, async () => {
          const first = createLong()
          const running = codeOf(single.run('sealBatch', first))
          const waiting = codeOf(single.run('sealBatch', createLong()))
          const queued = codeOf(single.run('sealBatch', minimal))
          while (first.output[0] === 0) await turn()
          return { running, waiting, queued }
        })
        expect(await waiting).toBe('WORKER_FAILED')
        // What no worker had begun is done by the one that takes its place.
        expect(await queued).toBe('done')
        await single.close()
      })

      test('its keys and tickets are those of the process: nothing of them is lost', async () => {
        const single = new Pool(crypto, 1)
        const used = crypto.keyTableUsage()
        const { lengthsOffset, sealedOffset, end } = packedLayout(
          Buffer.alloc(39),
          Array<Uint8Array>(96).fill(new Uint8Array(1024 * 1024)),
          1,
        )
        const tickets: number[] = []
        const { claim } = await failed(single, async () => {
          const packed = share(end)
          const ticket = crypto.beginPacked(minimal.key, contextHash, 96, [0])
          tickets.push(ticket)
          const claim = {
            ticket,
            part: 0,
            input: long.input,
            inputOffset: 0,
            inputEnd: long.inputEnd,
            packed,
            packedOffset: 0,
            packedEnd: end,
            lengthsOffset,
            sealedOffset,
          }
          const running = codeOf(single.run('sealPackedPart', claim))
          // 1 MiB as the first of the lengths.
          while (packed[lengthsOffset + 1] !== 0x10) await turn()
          return { running, claim }
        })
        // The part is used up, whoever comes after.
        expect(await codeOf(single.run('sealPackedPart', claim))).toBe('INTERNAL')
        expect(() => crypto.sealPackedPart(claim)).toThrow()
        for (const ticket of tickets) crypto.abandonPacked(ticket)
        expect(await codeOf(single.run('sealPackedPart', claim))).toBe('KEY_HANDLE_STALE')
        expect(crypto.keyTableUsage()).toEqual(used)
        await single.close()
      })

      test('with nothing to do, it is replaced and nobody notices', async () => {
        const single = new Pool(crypto, 1)
        await single.run('sealBatch', minimal)
        const first = threads.at(-1) as Worker
        await first.terminate()
        expect(await codeOf(single.run('sealBatch', minimal))).toBe('done')
        // As an error outside of any task ends it.
        const second = threads.at(-1) as Worker
        expect(second).not.toBe(first)
        second.emit('error', new Error('out of memory'))
        expect(await codeOf(single.run('sealBatch', minimal))).toBe('done')
        expect(threads.at(-1)).not.toBe(second)
        await single.close()
      })

      test('before it has begun, what waits for it is done by another one', async () => {
        const double = new Pool(crypto, 2)
        await double.run('sealBatch', minimal)
        const endAll = async () => Promise.all(threads.slice(first).map((each) => each.terminate()))
        const first = threads.length - 2
        for (let i = 0; i < 3; i++) {
          await endAll()
          await turn()
          // Those that take their places are still starting.
          const answers = Array.from({ length: 9 }, () => codeOf(double.run('sealBatch', minimal)))
          await turn()
          await endAll()
          for (const code of await Promise.all(answers)) {
            expect(['done', 'WORKER_FAILED']).toContain(code)
          }
        }
        expect(await codeOf(double.run('sealBatch', minimal))).toBe('done')
        await double.close()
      })

      test('again and again, the pool answers everything and still serves', async () => {
        const double = new Pool(crypto, 2)
        await double.run('sealBatch', minimal)
        const first = threads.length
        const requests = () =>
          Array.from({ length: 12 }, () =>
            codeOf(double.run('sealBatch', { ...minimal, output: share(128) })),
          )
        for (let i = 0; i < 10; i++) {
          await Promise.all(requests())
          const answers = requests()
          await (threads.at(-1) as Worker).terminate()
          for (const code of await Promise.all(answers)) {
            expect(['done', 'WORKER_FAILED']).toContain(code)
          }
          expect(await Promise.all(requests())).toEqual(Array(12).fill('done'))
        }
        expect(threads.length).toBeGreaterThan(first)
        await double.close()
      })
    })
  },
)
