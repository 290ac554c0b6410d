/**
 * What stands in front of a store of another system that is slow, hangs, fails, and comes back: deadlines, the queue and
 * its order, the circuit, and that whatever happens each call is made once at most and ends once. The clock is the test's.
 */
import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import type { Crypto } from '../../dist/crypto/crypto.js'
import { KeyfoldError } from '../../dist/errors.js'
import { GuardedKeyStore, type GuardedStoreSettings } from '../../dist/key-stores/guarded.js'
import type { KeyMaterial, StoreTurn } from '../../dist/key-stores/key-store.js'
import { implementations } from '../crypto/implementations.ts'
import { GatedStore } from './gate.ts'

const SETTINGS = {
  deadlineMs: 1_000,
  callsMax: 2,
  waitingMax: 4,
  failuresMax: 3,
  probePauseMsMin: 100,
  probePauseMsMax: 1_000,
}
const AAD = Buffer.from('aad')
const UNREACHABLE = { code: 'KEY_STORE_UNREACHABLE' }

const crypto = implementations.at(-1) as Crypto
let gated: GatedStore
let store: GuardedKeyStore
let material: KeyMaterial
let changes: string[]
let orphans: KeyMaterial[]
let slotsAtStart: number

async function guard(settings: Partial<GuardedStoreSettings> = {}): Promise<void> {
  gated = new GatedStore(crypto)
  changes = []
  orphans = []
  store = new GuardedKeyStore(gated, {
    crypto,
    settings: { ...SETTINGS, ...settings },
    nowMs: () => Date.parse('2026-03-01T12:00:00.000Z'),
    reserveWrap: () => undefined,
    onChange: (state) => void changes.push(state),
    onOrphan: (orphan) => void orphans.push(orphan),
  })
  const kmsKeyId = randomBytes(16)
  const made = await gated.createKeyMaterial(kmsKeyId, 1, 'SYMMETRIC_DEFAULT')
  material = { kmsKeyId, version: 1, keySpec: 'SYMMETRIC_DEFAULT', ...made }
  gated.calls.length = 0
  slotsAtStart = crypto.keyTableUsage().slotsUsed
}

beforeEach(async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
  await guard()
})
afterEach(async () => {
  await store.close()
  // Whatever is left would keep a process from ending.
  expect(vi.getTimerCount()).toBe(0)
  vi.useRealTimers()
})

const turnOf = (
  principalArn: string,
  urgency: StoreTurn['urgency'] = 'other',
): { principalArn: string; urgency: StoreTurn['urgency'] } => ({ principalArn, urgency })

/** A call of which it is known how it ended, and that nobody has to await. */
interface Watched {
  readonly name: string
  ended: 'no' | 'yes' | (string & {})
  readonly over: Promise<void>
}

function watch(name: string, promise: Promise<unknown>): Watched {
  const watched: Watched = {
    name,
    ended: 'no',
    over: promise.then(
      () => end('yes'),
      (error: unknown) => end(error instanceof KeyfoldError ? error.code : String(error)),
    ),
  }
  const end = (how: string): void => {
    expect(watched.ended).toBe('no')
    watched.ended = how
  }
  return watched
}

/** Bytes whose name is in them, wrapped: the order of names that passed the gate is the order of calls. */
function wrap(name: string, turn?: StoreTurn): Watched {
  return watch(name, store.wrapBytes(material, AAD, Buffer.from(name), turn))
}

const settle = async (): Promise<void> => {
  for (let i = 0; i < 20; i++) await new Promise(setImmediate)
}

async function wrapped(plaintext = Buffer.from('x')): Promise<Uint8Array> {
  return gated.wrapBytes(material, AAD, plaintext)
}

describe('a store that answers', () => {
  test('is what it is without a guard', async () => {
    const part = await store.wrapBytes(material, AAD, Buffer.from('plaintext'))
    expect(Buffer.from(await store.unwrapBytes(material, AAD, part)).toString()).toBe('plaintext')
    await expect(store.unwrapBytes(material, Buffer.of(1), part)).rejects.toMatchObject({
      code: 'DECRYPT_FAILED',
    })
    expect(store.traits).toBe(gated.traits)
    expect(store.name).toBe('elsewhere')
    expect(gated.calls).toEqual(['wrapBytes', 'unwrapBytes', 'unwrapBytes'])
    expect(store.guard.figures).toMatchObject({ calls: 3, failures: 0, refused: 0, running: 0 })
  })

  test('counts how long its calls took', async () => {
    gated.gate = 'held'
    const calls = [wrap('a'), wrap('b')]
    await settle()
    vi.advanceTimersByTime(30)
    gated.gate = 'open'
    await gated.release(1)
    vi.advanceTimersByTime(800)
    await gated.release()
    await Promise.all(calls.map(({ over }) => over))
    const { callsWithin, seconds } = store.guard.figures
    const within = new Map(callsWithin.map(({ secondsMax, calls: count }) => [secondsMax, count]))
    expect([0.025, 0.05, 0.5, 1, Infinity].map((bound) => within.get(bound))).toEqual([
      0, 1, 1, 2, 2,
    ])
    expect(seconds).toBeCloseTo(0.86, 5)
  })
})

describe('a store that hangs', () => {
  test('is given up at the deadline and not before', async () => {
    gated.gate = 'held'
    const call = wrap('a')
    await vi.advanceTimersByTimeAsync(999)
    expect(call.ended).toBe('no')
    await vi.advanceTimersByTimeAsync(1)
    expect(call.ended).toBe('KEY_STORE_UNREACHABLE')
    expect(store.guard.figures).toMatchObject({ calls: 1, failures: 1, running: 0 })
  })

  test('leaves no key in the table when its answer comes too late', async () => {
    const key = crypto.generateKey()
    const part = await gated.wrapKey(material, AAD, key)
    crypto.releaseKey(key)
    gated.gate = 'held'
    const call = watch('unwrapKey', store.unwrapKey(material, AAD, part))
    await vi.advanceTimersByTimeAsync(1_000)
    expect(call.ended).toBe('KEY_STORE_UNREACHABLE')
    gated.gate = 'open'
    const before = crypto.keyTableUsage().slotsUsed
    await gated.release()
    expect(gated.calls.at(-1)).toBe('unwrapKey')
    expect(crypto.keyTableUsage().slotsUsed).toBe(before)
  })

  test('leaves no plaintext in memory when its answer comes too late', async () => {
    const part = await wrapped(Buffer.from('secret'))
    gated.gate = 'held'
    const call = watch('unwrapBytes', store.unwrapBytes(material, AAD, part))
    await vi.advanceTimersByTimeAsync(1_000)
    gated.gate = 'open'
    await gated.release()
    expect(gated.answers.at(-1)).toEqual(new Uint8Array(6))
    expect(call.ended).toBe('KEY_STORE_UNREACHABLE')
  })

  test('makes room for others at the deadline: it is not waited for', async () => {
    gated.gate = 'held'
    const hanging = [wrap('a'), wrap('b')]
    await vi.advanceTimersByTimeAsync(500)
    const waiting = wrap('c')
    gated.gate = 'open'
    await vi.advanceTimersByTimeAsync(500)
    await settle()
    expect(hanging.map(({ ended }) => ended)).toEqual(Array(2).fill('KEY_STORE_UNREACHABLE'))
    expect(waiting.ended).toBe('yes')
  })

  test('is not called for those whose turn does not come in time', async () => {
    await guard({ callsMax: 1, failuresMax: 100 })
    gated.gate = 'held'
    const first = wrap('a')
    await vi.advanceTimersByTimeAsync(999)
    const second = wrap('b')
    // The first is given up; the second begins, and hangs as well.
    await vi.advanceTimersByTimeAsync(1)
    const third = wrap('c')
    await vi.advanceTimersByTimeAsync(999)
    expect([first.ended, second.ended, third.ended]).toEqual(['KEY_STORE_UNREACHABLE', 'no', 'no'])
    await vi.advanceTimersByTimeAsync(1)
    expect(second.ended).toBe('KEY_STORE_UNREACHABLE')
    await settle()
    expect(gated.count('wrapBytes') + store.guard.figures.refused).toBe(3)
  })

  test('takes as long as it needs to make key material, up to a bound', async () => {
    gated.gate = 'held'
    const made = watch('make', store.createKeyMaterial(randomBytes(16), 1, 'SYMMETRIC_DEFAULT'))
    await vi.advanceTimersByTimeAsync(59_999)
    expect(made.ended).toBe('no')
    await vi.advanceTimersByTimeAsync(1)
    expect(made.ended).toBe('KEY_STORE_UNREACHABLE')
    expect(orphans).toEqual([])
    // Now it is there, and nothing refers to it.
    await gated.release()
    await settle()
    expect(orphans).toHaveLength(1)
    expect(orphans[0]).toMatchObject({ version: 1, keySpec: 'SYMMETRIC_DEFAULT' })
    expect(orphans[0]?.stored).toBeInstanceOf(Uint8Array)
  })

  test('leaves a key alone that the other side had before', async () => {
    gated.gate = 'held'
    const making = store.createKeyMaterial(randomBytes(16), 1, 'SYMMETRIC_DEFAULT', 'theirs')
    const made = watch('make', making)
    await vi.advanceTimersByTimeAsync(60_000)
    expect(made.ended).toBe('KEY_STORE_UNREACHABLE')
    await gated.release()
    await settle()
    expect(orphans).toEqual([])
  })
})

describe('imported material', () => {
  const take = (plaintext: Uint8Array): Watched =>
    watch('import', store.importKeyMaterial(randomBytes(16), 1, 'SYMMETRIC_DEFAULT', plaintext))

  test.each(['open', 'away', 'broken'] as const)(
    'is zeros afterwards, the gate %s',
    async (gate) => {
      const plaintext = randomBytes(32)
      const copy = Uint8Array.from(plaintext)
      gated.gate = gate
      await take(plaintext).over
      expect(plaintext).toEqual(Buffer.alloc(32))
      expect(gated.imported).toEqual(gate === 'open' ? [copy] : [])
    },
  )

  test('is zeros when the deadline has passed, and a late store never reads zeros as a key', async () => {
    const plaintext = randomBytes(32)
    const copy = Uint8Array.from(plaintext)
    gated.gate = 'held'
    const call = take(plaintext)
    await vi.advanceTimersByTimeAsync(60_000)
    expect(call.ended).toBe('KEY_STORE_UNREACHABLE')
    expect(plaintext).toEqual(Buffer.alloc(32))
    gated.gate = 'open'
    await gated.release()
    expect(gated.imported).toEqual([copy])
  })

  test('is zeros where the store is not asked', async () => {
    await openCircuit()
    const plaintext = randomBytes(32)
    const call = take(plaintext)
    await call.over
    expect(call.ended).toBe('KEY_STORE_UNREACHABLE')
    expect(plaintext).toEqual(Buffer.alloc(32))
  })
})

describe('the queue', () => {
  const begun: string[] = []
  beforeEach(async () => {
    await guard({ callsMax: 1, waitingMax: 8, deadlineMs: 60_000 })
    begun.length = 0
    gated.gate = 'held'
    await settle()
  })

  /** Calls in this order, of which the first runs while the others wait; the order in which they pass. */
  async function orderOf(...turns: readonly (readonly [string, StoreTurn])[]): Promise<string[]> {
    for (const [name, turn] of turns) {
      const call = wrap(name, turn)
      void call.over.then(() => void begun.push(name))
    }
    for (let i = 0; i < turns.length; i++) await gated.release(1)
    return begun
  }

  test('has so many under way and so many waiting; the next is refused at once', async () => {
    const calls = Array.from({ length: 10 }, (_, i) => wrap(`${i}`, turnOf('alice')))
    await settle()
    expect(gated.calls).toHaveLength(1)
    expect(store.guard.figures).toMatchObject({ running: 1, waiting: 8, refused: 1 })
    expect(calls.map(({ ended }) => ended)).toEqual([...Array(9).fill('no'), UNREACHABLE.code])
    for (let i = 0; i < 9; i++) await gated.release(1)
    expect(calls.map(({ ended }) => ended)).toEqual([...Array(9).fill('yes'), UNREACHABLE.code])
    expect(gated.calls).toHaveLength(9)
  })

  test('lets a cold key go first, then one to be refreshed, then the rest as they came', async () => {
    expect(
      await orderOf(
        ['first', turnOf('zoe')],
        ['unwrap a', turnOf('alice')],
        ['unwrap b', turnOf('bob')],
        ['refresh', turnOf('carol', 'refresh')],
        ['cold', turnOf('dave', 'cold')],
      ),
    ).toEqual(['first', 'cold', 'refresh', 'unwrap a', 'unwrap b'])
  })

  test('of one principal as well', async () => {
    expect(
      await orderOf(
        ['first', turnOf('alice')],
        ['unwrap', turnOf('alice')],
        ['refresh', turnOf('alice', 'refresh')],
        ['cold', turnOf('alice', 'cold')],
      ),
    ).toEqual(['first', 'cold', 'refresh', 'unwrap'])
  })

  test('sees that a refresh has become urgent while it waited', async () => {
    const turn = turnOf('alice', 'refresh')
    const order = orderOf(
      ['first', turnOf('zoe')],
      ['refresh b', turnOf('bob', 'refresh')],
      ['refresh a', turn],
    )
    turn.urgency = 'cold'
    expect(await order).toEqual(['first', 'refresh a', 'refresh b'])
  })

  test('gives a principal this precedence for one call at a time', async () => {
    await guard({ callsMax: 2, waitingMax: 8, deadlineMs: 60_000 })
    gated.gate = 'held'
    // Two places; Mallory is in one of them already, with a context unique to each message.
    expect(
      await orderOf(
        ['mallory 1', turnOf('mallory', 'cold')],
        ['alice 1', turnOf('alice')],
        ['mallory 2', turnOf('mallory', 'cold')],
        ['mallory 3', turnOf('mallory', 'cold')],
        ['bob', turnOf('bob')],
      ),
    ).toEqual(['mallory 1', 'alice 1', 'mallory 2', 'bob', 'mallory 3'])
  })

  test('serves by turns whoever has much in it and whoever has little', async () => {
    expect(
      await orderOf(
        ['m1', turnOf('mallory')],
        ['m2', turnOf('mallory')],
        ['m3', turnOf('mallory')],
        ['m4', turnOf('mallory')],
        ['a1', turnOf('alice')],
        ['a2', turnOf('alice')],
        ['b1', turnOf('bob')],
      ),
    ).toEqual(['m1', 'a1', 'b1', 'm2', 'a2', 'm3', 'm4'])
  })

  test('that one principal has filled takes others, and drops the last of theirs', async () => {
    const flood = Array.from({ length: 9 }, (_, i) => wrap(`m${i}`, turnOf('mallory')))
    const alice = wrap('alice', turnOf('alice'))
    await settle()
    expect(alice.ended).toBe('no')
    expect(flood.map(({ ended }) => ended)).toEqual([...Array(8).fill('no'), UNREACHABLE.code])
    const again = wrap('m9', turnOf('mallory', 'cold'))
    await settle()
    // Of their own they may push out what is less urgent.
    expect([flood[7]?.ended, again.ended, alice.ended]).toEqual([UNREACHABLE.code, 'no', 'no'])
    await gated.release(1)
    await gated.release(1)
    expect(alice.ended).toBe('no')
    await gated.release(1)
    expect(alice.ended).toBe('yes')
  })
})

async function openCircuit(): Promise<void> {
  gated.gate = 'away'
  for (let i = 0; i < SETTINGS.failuresMax; i++) await wrap(`${i}`).over
  expect(store.guard.figures.state).toBe('open')
}

describe('the circuit', () => {
  test('opens after failures in a row, and says since when', async () => {
    gated.gate = 'away'
    await wrap('1').over
    await wrap('2').over
    expect(store.guard.figures.state).toBe('closed')
    await wrap('3').over
    expect(changes).toEqual(['open'])
    expect(store.guard.figures.openedAtMs).toBe(Date.parse('2026-03-01T12:00:00.000Z'))
    await expect(store.wrapBytes(material, AAD, AAD)).rejects.toMatchObject({
      ...UNREACHABLE,
      message: expect.stringMatching(/elsewhere: .* since 2026-03-01T12:00:00.000Z/) as string,
    })
    expect(gated.count('wrapBytes')).toBe(3)
    expect(store.guard.figures.refused).toBe(1)
  })

  test('is not opened by failures between which it answered', async () => {
    for (let i = 0; i < 10; i++) {
      gated.gate = 'away'
      await wrap('a').over
      await wrap('b').over
      gated.gate = 'open'
      await wrap('c').over
    }
    expect(changes).toEqual([])
  })

  test('is not opened by what callers bring, however often', async () => {
    const part = Uint8Array.from(await wrapped())
    part[0] = (part[0] as number) ^ 1
    for (let i = 0; i < 100; i++) {
      await expect(store.unwrapBytes(material, AAD, part)).rejects.toMatchObject({
        code: 'DECRYPT_FAILED',
      })
      await expect(store.generateMac(material, 'HMAC_SHA_256', Buffer.of(1))).rejects.toMatchObject(
        { code: 'KMS_KEY_USAGE_INVALID' },
      )
    }
    gated.gate = 'broken'
    for (let i = 0; i < 100; i++) await expect(wrapThrough()).rejects.toThrow('broken')
    expect(changes).toEqual([])
    expect(store.guard.figures.failures).toBe(0)
  })

  const wrapThrough = (): Promise<Uint8Array> => store.wrapBytes(material, AAD, AAD)

  test('ends the waiting of everyone when it opens', async () => {
    await guard({ failuresMax: 1 })
    gated.gate = 'held'
    const calls = Array.from({ length: 6 }, (_, i) => wrap(`${i}`))
    await settle()
    gated.gate = 'away'
    await gated.release()
    expect(calls.map(({ ended }) => ended)).toEqual(Array(6).fill(UNREACHABLE.code))
    expect(gated.count('wrapBytes')).toBe(2)
    expect(store.guard.figures).toMatchObject({ waiting: 0, running: 0, failures: 2, refused: 4 })
  })

  test('is probed with one call of ours after pauses that grow to a bound', async () => {
    await openCircuit()
    const probedAfterMs: number[] = []
    for (let ms = 0, seen = 0; ms < 5_000; ms += 50) {
      await vi.advanceTimersByTimeAsync(50)
      if (gated.count('probe') === seen) continue
      seen = gated.count('probe')
      probedAfterMs.push(ms + 50)
    }
    expect(probedAfterMs).toEqual([100, 300, 700, 1_500, 2_500, 3_500, 4_500])
    expect(gated.count('wrapBytes')).toBe(SETTINGS.failuresMax)
    expect(changes).toEqual(['open'])
  })

  test('lets nobody through while the probe is out', async () => {
    await openCircuit()
    gated.gate = 'held'
    await vi.advanceTimersByTimeAsync(100)
    expect(store.guard.figures.state).toBe('half-open')
    const call = wrap('a')
    await call.over
    expect(call.ended).toBe(UNREACHABLE.code)
    expect(gated.count('wrapBytes')).toBe(SETTINGS.failuresMax)
    gated.gate = 'open'
    await gated.release()
    expect(changes).toEqual(['open', 'closed'])
    expect(store.guard.figures).toMatchObject({ state: 'closed', openedAtMs: undefined })
    await expect(wrapThrough()).resolves.toBeInstanceOf(Uint8Array)
  })

  test('a probe that hangs is a probe that failed', async () => {
    await openCircuit()
    gated.gate = 'held'
    await vi.advanceTimersByTimeAsync(100 + 1_000)
    expect(store.guard.figures.state).toBe('open')
    gated.gate = 'open'
    // What the first answers now is nobody's.
    await gated.release()
    expect(store.guard.figures.state).toBe('open')
    await vi.advanceTimersByTimeAsync(200)
    expect(changes).toEqual(['open', 'closed'])
  })

  test('a store that answers probes and no calls is asked ever less often', async () => {
    await openCircuit()
    const pauses: number[] = []
    for (let round = 0; round < 5; round++) {
      gated.gate = 'open'
      let waited = 0
      while (store.guard.figures.state !== 'closed') {
        await vi.advanceTimersByTimeAsync(50)
        waited += 50
      }
      pauses.push(waited)
      await openCircuit()
    }
    expect(pauses).toEqual([100, 200, 400, 800, 1_000])
    gated.gate = 'open'
    await vi.advanceTimersByTimeAsync(1_000)
    await wrap('a').over
    await openCircuit()
    gated.gate = 'open'
    await vi.advanceTimersByTimeAsync(100)
    expect(store.guard.figures.state).toBe('closed')
  })

  test('is not judged by calls that were begun before it opened', async () => {
    await guard({ callsMax: 6, failuresMax: 3 })
    gated.gate = 'held'
    const calls = Array.from({ length: 6 }, (_, i) => wrap(`${i}`))
    await settle()
    gated.gate = 'away'
    await gated.release(3)
    expect(changes).toEqual(['open'])
    gated.gate = 'open'
    await vi.advanceTimersByTimeAsync(100)
    expect(changes).toEqual(['open', 'closed'])
    gated.gate = 'away'
    await gated.release()
    expect(calls.map(({ ended }) => ended)).toEqual(Array(6).fill(UNREACHABLE.code))
    expect(changes).toEqual(['open', 'closed'])
  })
})

describe('probing for readiness', () => {
  test('asks the store at most once a second, whoever asks', async () => {
    await Promise.all(Array.from({ length: 100 }, () => store.probe()))
    expect(gated.count('probe')).toBe(1)
    vi.advanceTimersByTime(1_000)
    await store.probe()
    expect(gated.count('probe')).toBe(2)
  })

  test('notices that a store is away that nobody uses', async () => {
    gated.gate = 'away'
    for (let i = 0; i < 3; i++) {
      await expect(store.probe()).rejects.toMatchObject(UNREACHABLE)
      vi.advanceTimersByTime(1_000)
    }
    expect(changes).toEqual(['open'])
    await expect(store.probe()).rejects.toMatchObject(UNREACHABLE)
  })
})

describe('the end', () => {
  test('of a lock: whoever waits is told, and a key that arrives after it is gone at once', async () => {
    const key = crypto.generateKey()
    const part = await gated.wrapKey(material, AAD, key)
    crypto.releaseKey(key)
    gated.gate = 'held'
    const running = watch('unwrapKey', store.unwrapKey(material, AAD, part))
    const other = wrap('running')
    const waiting = wrap('waiting')
    await settle()
    // As it is with a store on the other side, which a lock of ours does not reach.
    gated.lock = () => undefined
    store.lock()
    await settle()
    expect([waiting.ended, running.ended, other.ended]).toEqual(Array(3).fill('LOCKED'))
    gated.gate = 'open'
    await gated.release()
    expect(crypto.keyTableUsage().slotsUsed).toBeLessThanOrEqual(slotsAtStart + 1)
    await expect(store.wrapBytes(material, AAD, AAD)).rejects.toMatchObject({ code: 'LOCKED' })
  })

  test('of a server: whoever waits is told, and nothing is probed any more', async () => {
    await openCircuit()
    gated.gate = 'held'
    await vi.advanceTimersByTimeAsync(100)
    await store.close()
    gated.gate = 'open'
    await gated.release()
    expect(changes).toEqual(['open'])
    await expect(store.wrapBytes(material, AAD, AAD)).rejects.toMatchObject({
      code: 'SHUTTING_DOWN',
    })
    await vi.advanceTimersByTimeAsync(60_000)
    expect(gated.count('probe')).toBe(1)
  })
})

describe('wraps of which there are only so many', () => {
  async function counting(reserveWrap: () => Promise<void> | undefined): Promise<void> {
    gated = new GatedStore(crypto, { wrapsMax: 1_024 })
    store = new GuardedKeyStore(gated, {
      crypto,
      settings: SETTINGS,
      reserveWrap,
      onChange: () => undefined,
      onOrphan: () => undefined,
    })
    const made = await gated.createKeyMaterial(material.kmsKeyId, 1, 'SYMMETRIC_DEFAULT')
    material = { ...material, ...made }
    gated.calls.length = 0
  }

  test('are counted before each is made, unwrapping and what is refused are not', async () => {
    let taken = 0
    await counting(() => void taken++)
    const key = crypto.generateKey()
    const part = await store.wrapKey(material, AAD, key)
    await store.wrapBytes(material, AAD, AAD)
    const messageKey = crypto.createMessageKey(key, 1)
    await store.wrapMessageKey(material, AAD, messageKey)
    expect(taken).toBe(3)
    crypto.releaseKey(await store.unwrapKey(material, AAD, part))
    expect(taken).toBe(3)
    await openCircuit()
    const before = taken
    await expect(store.wrapBytes(material, AAD, AAD)).rejects.toMatchObject(UNREACHABLE)
    expect(taken).toBe(before)
    crypto.releaseKey(messageKey)
    crypto.releaseKey(key)
  })

  test('are not made where none is left, and a catalog that fails is no failure of the store', async () => {
    for (const code of ['WRAP_BUDGET_SPENT', 'CATALOG_UNAVAILABLE'] as const) {
      await counting(() => Promise.reject(new KeyfoldError(code)))
      for (let i = 0; i < 10; i++) {
        await expect(store.wrapBytes(material, AAD, AAD)).rejects.toMatchObject({ code })
      }
      expect(gated.calls).toEqual([])
      expect(store.guard.figures).toMatchObject({ state: 'closed', failures: 0 })
    }
  })
})

test('no sequence of failures makes a call twice, loses one, or exceeds a bound', async () => {
  const command = fc.oneof(
    { weight: 6, arbitrary: fc.record({ call: fc.integer({ min: 0, max: 2 }) }) },
    fc.record({ gate: fc.constantFrom('open', 'held', 'away', 'broken') }),
    fc.record({ release: fc.integer({ min: 1, max: 3 }) }),
    fc.record({ advanceMs: fc.constantFrom(1, 99, 500, 1_000) }),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(command, { maxLength: 60 }), async (commands) => {
      await guard()
      const key = crypto.generateKey()
      const part = await gated.wrapKey(material, AAD, key)
      crypto.releaseKey(key)
      gated.calls.length = 0
      const calls: Watched[] = []
      for (const step of commands) {
        if ('call' in step) {
          const turn = turnOf(`${step.call}`, step.call === 0 ? 'cold' : 'other')
          const opened = store
            .unwrapKey(material, AAD, part, turn)
            .then((handle) => crypto.releaseKey(handle))
          calls.push(watch('unwrapKey', opened))
        } else if ('gate' in step) {
          gated.gate = step.gate
        } else if ('release' in step) {
          await gated.release(step.release)
        } else {
          await vi.advanceTimersByTimeAsync(step.advanceMs)
        }
        const { running, waiting, calls: made, refused } = store.guard.figures
        expect(running).toBeLessThanOrEqual(SETTINGS.callsMax)
        expect(waiting).toBeLessThanOrEqual(SETTINGS.waitingMax)
        expect(gated.count('unwrapKey')).toBe(made)
        expect(made + waiting + refused).toBe(calls.length)
      }
      await vi.advanceTimersByTimeAsync(2 * SETTINGS.deadlineMs)
      // Long before the answers, if they ever come.
      expect(calls.filter(({ ended }) => ended === 'no')).toEqual([])
      gated.gate = 'open'
      await gated.release()
      await vi.advanceTimersByTimeAsync(2 * SETTINGS.probePauseMsMax + SETTINGS.deadlineMs)
      expect(store.guard.figures).toMatchObject({ state: 'closed', running: 0, waiting: 0 })
      // The gated store keeps the material open.
      expect(crypto.keyTableUsage().slotsUsed).toBe(slotsAtStart + 1)
      await store.close()
    }),
    { numRuns: 100 },
  )
})
