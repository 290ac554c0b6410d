/**
 * The data-key cache: exact limits, one fetch for a thousand misses, and purges that beat fetches. The key store is a
 * double of our own interface that counts its calls and answers when told to; the clock is the test's.
 */
import { createHash, randomBytes } from 'node:crypto'
import { beforeEach, describe, expect, test } from 'vitest'

import { createNodeCrypto } from '../../dist/crypto/node-crypto.js'
import type { Crypto, KeyHandle } from '../../dist/crypto/crypto.js'
import { DataKeyCache } from '../../dist/data-keys/data-key-cache.js'
import { KeyStoreSource } from '../../dist/data-keys/key-store-source.js'
import type { CanonicalContext, OpenLease, SealLease } from '../../dist/data-keys/lease.js'
import { MissBudget } from '../../dist/data-keys/miss-budget.js'
import { KeyfoldError } from '../../dist/errors.js'
import type {
  KeyMaterial,
  KeyStore,
  KeyStoreTraits,
  StoreGuard,
  StoreTurn,
} from '../../dist/key-stores/key-store.js'
import type { KmsKey } from '../../dist/kms/kms-key.js'

const PRINCIPAL = 'arn:aws:iam::000000000000:user/test'
const LIMITS = { ageMsMax: 10_000, messagesMax: 1_000, bytesMax: 1_000_000 }

const notAskedFor = (): Promise<never> => Promise.reject(new Error('not asked for'))

class CountingStore implements KeyStore {
  readonly name = 'counting'
  readonly traits: KeyStoreTraits = {
    origin: 'AWS_KMS',
    keySpecs: ['SYMMETRIC_DEFAULT'],
    importsMaterial: false,
    rotates: false,
    wrappingSuite: 1,
    wrapsMax: undefined,
  }
  readonly guard: StoreGuard = {
    assertReachable: () => {
      if (guardRefuses) throw new KeyfoldError('KEY_STORE_UNREACHABLE')
    },
  }
  wraps = 0
  unwraps = 0
  fails = false
  lastTurn: StoreTurn | undefined
  /** Runs inside each call, before it answers: the moment at which a change races it. */
  during: () => void = () => undefined
  readonly #crypto: Crypto
  readonly #key: KeyHandle

  constructor(crypto: Crypto) {
    this.#crypto = crypto
    this.#key = crypto.generateKey()
  }

  async #answer<T>(work: () => T): Promise<T> {
    await new Promise(setImmediate)
    this.during()
    if (this.fails) throw new Error('the store is down')
    return work()
  }

  readonly createKeyMaterial = notAskedFor
  readonly importKeyMaterial = notAskedFor
  readonly destroyKeyMaterial = notAskedFor
  wrapKey(
    _material: KeyMaterial,
    aad: Uint8Array,
    key: KeyHandle,
    turn?: StoreTurn,
  ): Promise<Uint8Array> {
    this.wraps++
    this.lastTurn = turn
    return this.#answer(() => this.#crypto.wrapKey(this.#key, aad, key))
  }
  wrapMessageKey(_material: KeyMaterial, aad: Uint8Array, key: KeyHandle): Promise<Uint8Array> {
    return this.#answer(() => this.#crypto.wrapMessageKey(this.#key, aad, key))
  }
  unwrapKey(_material: KeyMaterial, aad: Uint8Array, part: Uint8Array): Promise<KeyHandle> {
    this.unwraps++
    return this.#answer(() => this.#crypto.unwrapKey(this.#key, aad, part))
  }
  readonly wrapBytes = notAskedFor
  readonly unwrapBytes = notAskedFor
  readonly sign = notAskedFor
  readonly decryptWithPrivateKey = notAskedFor
  readonly deriveSharedSecret = notAskedFor
  readonly generateMac = notAskedFor
  forget(): void {}
  lock(): void {}
  async probe(): Promise<void> {}
  async close(): Promise<void> {}
}

function contextOf(name: string): CanonicalContext {
  return { bytes: Buffer.from(name), hash: createHash('sha256').update(name).digest() }
}

let crypto: Crypto
let store: CountingStore
let current: KmsKey
let nowMs: number
let cache: DataKeyCache
let slotsAtStart: number
let guardRefuses: boolean
const context = contextOf('orders')

function keyOf(changes: Partial<KmsKey> = {}): KmsKey {
  const idBytes = Buffer.alloc(16, 7)
  return {
    id: '07070707-0707-0707-0707-070707070707',
    keyId: '07070707-0707-0707-0707-070707070707',
    idBytes,
    region: 'us-east-1',
    deletionAtMs: undefined,
    pendingWindowDays: undefined,
    rotationPeriodDays: undefined,
    nextRotationAtMs: undefined,
    arn: 'arn:aws:kms:us-east-1:000000000000:key/07070707-0707-0707-0707-070707070707',
    state: 'Enabled',
    keySpec: 'SYMMETRIC_DEFAULT',
    keyUsage: 'ENCRYPT_DECRYPT',
    origin: 'AWS_KMS',
    manager: 'CUSTOMER',
    multiRegion: undefined,
    policy: '',
    grants: [],
    aliases: [],
    description: '',
    createdAtMs: 0,
    keyStore: 'counting',
    externalKeyId: undefined,
    currentVersion: 1,
    materialValidToMs: undefined,
    materials: new Map(
      [1, 2].map((version) => [
        version,
        {
          kmsKeyId: idBytes,
          version,
          keySpec: 'SYMMETRIC_DEFAULT',
          stored: Buffer.of(1),
          publicKey: undefined,
        },
      ]),
    ),
    tags: new Map(),
    epoch: 1,
    ...changes,
  }
}

function createCache(
  options: { readonly entriesMax?: number; readonly budget?: number } = {},
): DataKeyCache {
  return new DataKeyCache({
    crypto,
    registry: { current: () => current, assertServed: () => undefined },
    source: new KeyStoreSource(crypto, () => store),
    missBudget: new MissBudget({ burst: options.budget ?? 100_000, perSecond: 1 }, () => nowMs),
    limits: LIMITS,
    entriesMax: options.entriesMax ?? 100,
    nowMs: () => nowMs,
    warn: () => undefined,
  })
}

beforeEach(() => {
  crypto = createNodeCrypto()
  store = new CountingStore(crypto)
  current = keyOf()
  nowMs = 0
  guardRefuses = false
  cache = createCache()
  slotsAtStart = crypto.keyTableUsage().slotsUsed
})

function seal(
  messages = 1,
  bytes = messages,
  of: CanonicalContext = context,
): SealLease | Promise<SealLease> {
  return cache.leaseSeal({
    kmsKey: current,
    suite: 1,
    context: of,
    messages,
    bytes,
    principalArn: PRINCIPAL,
  })
}

function open(
  keyEntry: Uint8Array,
  of: CanonicalContext = context,
): OpenLease | Promise<OpenLease> {
  const hash = createHash('sha256')
    .update(Buffer.of(1))
    .update(keyEntry)
    .update(of.hash)
    .digest()
    .toString('latin1')
  return cache.leaseOpen({
    kmsKey: current,
    suite: 1,
    keyEntry,
    context: of,
    cacheId: hash,
    principalArn: PRINCIPAL,
  })
}

/** Lets everything that is under way come to its end. */
async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise(setImmediate)
}

/** Nothing but the store's own key is left once all leases are back and the cache is empty. */
async function expectNothingLeft(): Promise<void> {
  await settle()
  cache.purgeAll()
  expect(crypto.keyTableUsage().slotsUsed).toBe(slotsAtStart)
}

describe('sealing', () => {
  test('a cold key hit by 1,000 requests makes one call', async () => {
    const leases = await Promise.all(Array.from({ length: 1_000 }, async () => seal()))
    // They are the whole allowance of that key: the next one is made ready as well.
    expect(cache.counters.refreshes).toBe(1)
    expect(store.wraps).toBe(1 + cache.counters.refreshes)
    expect(new Set(leases.map((lease) => lease.key)).size).toBe(1)
    for (const lease of leases) lease.release()
    await expectNothingLeft()
  })

  test('1,000 leases at once never exceed what a key may seal', async () => {
    const sizes = Array.from({ length: 1_000 }, (_, i) => 1 + ((i * 37) % 90))
    const leases = await Promise.all(sizes.map(async (messages) => seal(messages, messages)))
    const sealedBy = new Map<number, number>()
    for (const [i, lease] of leases.entries()) {
      sealedBy.set(lease.key, (sealedBy.get(lease.key) ?? 0) + (sizes[i] as number))
      lease.release()
    }
    const total = sizes.reduce((sum, messages) => sum + messages, 0)
    expect(Math.max(...sealedBy.values())).toBeLessThanOrEqual(LIMITS.messagesMax)
    expect([...sealedBy.values()].reduce((sum, sealed) => sum + sealed, 0)).toBe(total)
    await expectNothingLeft()
  })

  test('a million messages cost the calls that the limits dictate and not one more', async () => {
    // 1,000 batches of 1,000: each batch is a key's whole allowance, so there are as many keys as batches, and the
    // refresh-ahead after the last is the one that serves the next batch.
    for (let i = 0; i < 1_000; i++) (await seal(1_000)).release()
    await settle()
    expect(store.wraps).toBeGreaterThanOrEqual(1_000)
    expect(store.wraps).toBeLessThanOrEqual(1_001)
    await expectNothingLeft()
  })

  test('of a key with room for ten batches the eleventh is sealed by the next, which was there before', async () => {
    const first = await seal(100)
    first.release()
    for (let i = 1; i < 10; i++) {
      const lease = seal(100)
      expect(lease).not.toBeInstanceOf(Promise)
      expect((lease as SealLease).key).toBe(first.key)
      ;(lease as SealLease).release()
      await settle()
    }
    expect(store.wraps).toBe(2)
    const eleventh = seal(100)
    // No request waits at the rollover.
    expect(eleventh).not.toBeInstanceOf(Promise)
    expect((eleventh as SealLease).key).not.toBe(first.key)
    ;(eleventh as SealLease).release()
    await expectNothingLeft()
  })

  test.each([
    ['messages', 1_001, 1],
    ['bytes', 1, 1_000_001],
  ])('refuses a batch with more %s than a key may ever seal', (_what, messages, bytes) => {
    expect(() => seal(messages, bytes)).toThrow('1000')
    expect(store.wraps).toBe(0)
  })

  test('bytes are a limit of their own', async () => {
    const first = await seal(1, 600_000)
    const second = await seal(1, 600_000)
    expect(second.key).not.toBe(first.key)
    first.release()
    second.release()
    await expectNothingLeft()
  })

  test('what was reserved is not given back with the lease', async () => {
    const first = await seal(600)
    first.release()
    const second = await seal(600)
    expect(second.key).not.toBe(first.key)
    second.release()
    await expectNothingLeft()
  })

  test('a key past its age seals no more, and is refreshed before that', async () => {
    const first = await seal()
    nowMs = 7_999
    const young = (await seal()) as SealLease
    expect(young.key).toBe(first.key)
    expect(store.wraps).toBe(1)
    nowMs = 8_000
    const ageing = seal() as SealLease
    expect(ageing.key).toBe(first.key)
    await settle()
    expect(store.wraps).toBe(2)
    nowMs = 10_000
    const next = seal() as SealLease
    expect(next).not.toBeInstanceOf(Promise)
    expect(next.key).not.toBe(first.key)
    for (const lease of [first, young, ageing, next]) lease.release()
    await expectNothingLeft()
  })

  test('a clock at its end leaves no key in memory that nobody asks for', async () => {
    ;(await seal()).release()
    nowMs = 10_001
    cache.sweep()
    expect(crypto.keyTableUsage().slotsUsed).toBe(slotsAtStart)
  })

  test('a failed fetch fails those who waited, and the next asks again', async () => {
    store.fails = true
    const failed = await Promise.allSettled(Array.from({ length: 10 }, async () => seal()))
    expect(failed.every(({ status }) => status === 'rejected')).toBe(true)
    expect(store.wraps).toBe(1)
    store.fails = false
    ;(await seal()).release()
    await expectNothingLeft()
  })

  test('a failed refresh leaves the key in use alone', async () => {
    const first = await seal(850)
    store.fails = true
    const second = seal(10) as SealLease
    await settle()
    const third = seal(10) as SealLease
    expect([second.key, third.key]).toEqual([first.key, first.key])
    await settle()
    for (const lease of [first, second, third]) lease.release()
    await expectNothingLeft()
  })

  test('a store that is away is asked once in a while, messages go on, and one call does when it is back', async () => {
    const first = await seal(850)
    store.fails = true
    const keys = new Set([first.key])
    // 100 batches in 5 s, each of which would have the next key ready.
    for (let i = 0; i < 100; i++) {
      const lease = seal(1) as SealLease
      expect(lease).not.toBeInstanceOf(Promise)
      keys.add(lease.key)
      lease.release()
      await settle()
      nowMs += 50
    }
    expect(keys.size).toBe(1)
    expect(store.wraps - 1).toBe(5)
    store.fails = false
    nowMs += 1_000
    for (let i = 0; i < 10; i++) {
      ;(seal(1) as SealLease).release()
      await settle()
    }
    expect(store.wraps - 1).toBe(6)
    const next = seal(900) as SealLease
    expect(next).not.toBeInstanceOf(Promise)
    expect(next.key).not.toBe(first.key)
    first.release()
    next.release()
    await expectNothingLeft()
  })

  test('where the limit is reached and the store is away callers are told, and their budget is not spent', async () => {
    const unreachable = { code: 'KEY_STORE_UNREACHABLE' }
    cache = createCache({ budget: 3 })
    ;(await seal(1_000)).release()
    await settle()
    ;(await seal(1_000)).release()
    await settle()
    guardRefuses = true
    for (let i = 0; i < 100; i++) {
      await expect(async () => seal(1_000, 1, contextOf(`cold ${i}`))).rejects.toMatchObject(
        unreachable,
      )
    }
    guardRefuses = false
    ;(await seal(1, 1, contextOf('cold'))).release()
    ;(await seal(1, 1, contextOf('colder'))).release()
    await expect(async () => seal(1, 1, contextOf('coldest'))).rejects.toMatchObject({
      code: 'MISS_BUDGET_SPENT',
    })
    await expectNothingLeft()
  })

  test('contexts, suites and material versions have keys of their own', async () => {
    const a = await seal()
    const b = await seal(1, 1, contextOf('other'))
    const c = await cache.leaseSeal({
      kmsKey: current,
      suite: 2,
      context,
      messages: 1,
      bytes: 1,
      principalArn: PRINCIPAL,
    })
    current = keyOf({ currentVersion: 2, epoch: 2 })
    const d = await seal()
    expect(new Set([a, b, c, d].map((lease) => lease.key)).size).toBe(4)
    for (const lease of [a, b, c, d]) lease.release()
    await expectNothingLeft()
  })

  test('more contexts at once than the cache holds all get their keys, and none is left', async () => {
    cache = createCache({ entriesMax: 4 })
    const leases = await Promise.all(
      Array.from({ length: 200 }, async (_, i) => seal(1, 1, contextOf(`context ${i}`))),
    )
    expect(new Set(leases.map((lease) => lease.key)).size).toBe(200)
    expect(store.wraps).toBe(200)
    for (const lease of leases) lease.release()
    await expectNothingLeft()
  })

  test('an evicted key is wiped when its last lease is back, and not before', async () => {
    const one = await seal()
    const two = await seal()
    cache.purge(current.id)
    expect(crypto.keyTableUsage().slotsUsed).toBe(slotsAtStart + 1)
    one.release()
    expect(crypto.messageKeyCommitment(two.key).length).toBe(32)
    two.release()
    expect(crypto.keyTableUsage().slotsUsed).toBe(slotsAtStart)
  })
})

describe('changes of the KMS key', () => {
  const disable = (): void => {
    current = keyOf({ state: 'Disabled', epoch: current.epoch + 1 })
    cache.purge(current.id)
  }
  const rotate = (): void => {
    current = keyOf({ currentVersion: 2, epoch: current.epoch + 1 })
    cache.purge(current.id)
  }

  test('a disable that lands during generation wins', async () => {
    store.during = disable
    await expect(seal()).rejects.toMatchObject({ code: 'KMS_KEY_DISABLED' })
    await expectNothingLeft()
  })

  test('a disable that lands during an unwrap wins', async () => {
    const lease = await seal()
    const keyEntry = lease.keyEntry
    lease.release()
    store.during = disable
    await expect(open(keyEntry)).rejects.toMatchObject({ code: 'KMS_KEY_DISABLED' })
    await expectNothingLeft()
  })

  test('a disable that lands during a refresh wins', async () => {
    ;(await seal(850)).release()
    store.during = disable
    ;(seal(10) as SealLease).release()
    await settle()
    expect(() => seal()).toThrow('disabled')
    await expectNothingLeft()
  })

  test('after a disable nothing is leased from the cache, by either side', async () => {
    const lease = await seal()
    const { keyEntry } = lease
    ;(await open(keyEntry)).release()
    lease.release()
    disable()
    expect(() => seal()).toThrow('disabled')
    expect(() => open(keyEntry)).toThrow('disabled')
    await expectNothingLeft()
  })

  test('a caller who holds an older record is judged by the latest', async () => {
    const old = current
    ;(await seal()).release()
    current = keyOf({ state: 'Disabled', epoch: 2 })
    const request = {
      kmsKey: old,
      suite: 1,
      context,
      messages: 1,
      bytes: 1,
      principalArn: PRINCIPAL,
    } as const
    expect(() => cache.leaseSeal(request)).toThrow('disabled')
  })

  test('a rotation that lands during generation is followed, not failed', async () => {
    let rotations = 0
    store.during = () => {
      if (rotations++ === 0) rotate()
    }
    const lease = await seal()
    expect(lease.kmsKey.currentVersion).toBe(2)
    // The material version stands at 19 in the wrapped key, which stands at 34 in the key entry.
    expect(Buffer.from(lease.keyEntry).readUInt32BE(34 + 19)).toBe(2)
    lease.release()
    await expectNothingLeft()
  })

  test('what older material wrapped opens after a rotation', async () => {
    const lease = await seal()
    lease.release()
    rotate()
    ;(await open(lease.keyEntry)).release()
    await expectNothingLeft()
  })
})

describe('opening', () => {
  test('1,000 messages of one cold entry are one unwrap', async () => {
    const lease = await seal()
    const opened = await Promise.all(
      Array.from({ length: 1_000 }, async () => open(lease.keyEntry)),
    )
    expect(store.unwraps).toBe(1)
    expect(open(lease.keyEntry)).not.toBeInstanceOf(Promise)
    ;(open(lease.keyEntry) as OpenLease).release()
    for (const one of opened) one.release()
    lease.release()
    await settle()
  })

  test('a failed unwrap is not remembered', async () => {
    const lease = await seal()
    store.fails = true
    await expect(open(lease.keyEntry)).rejects.toThrow()
    store.fails = false
    ;(await open(lease.keyEntry)).release()
    expect(store.unwraps).toBe(2)
    lease.release()
    await expectNothingLeft()
  })

  test('every flipped byte of a key entry fails', async () => {
    const lease = await seal()
    lease.release()
    for (let at = 0; at < lease.keyEntry.length; at++) {
      const flipped = Buffer.from(lease.keyEntry)
      flipped[at] = (flipped[at] as number) ^ 1
      await expect(async () => open(flipped), `byte ${at}`).rejects.toMatchObject({
        code: 'DECRYPT_FAILED',
      })
    }
    await expectNothingLeft()
  })

  test('an entry of another context fails', async () => {
    const lease = await seal()
    lease.release()
    await expect(open(lease.keyEntry, contextOf('other'))).rejects.toMatchObject({
      code: 'DECRYPT_FAILED',
    })
    await expectNothingLeft()
  })

  test('an entry that names another KMS key than the authorised one fails, though its key is cached', async () => {
    const lease = await seal()
    ;(await open(lease.keyEntry)).release()
    lease.release()
    const mine = keyOf({ id: '08080808-0808-0808-0808-080808080808', idBytes: Buffer.alloc(16, 8) })
    current = mine
    await expect(async () => open(lease.keyEntry)).rejects.toMatchObject({ code: 'DECRYPT_FAILED' })
    await settle()
  })

  test('a wrapped key of a caller’s own is no message key', async () => {
    const { encodeWrappedKey, encodeWrappedKeyAad } =
      await import('../../dist/format/wrapped-key.js')
    const { encodeKeyEntry } = await import('../../dist/format/key-entry.js')
    const raw = crypto.generateKey()
    const messageKey = crypto.createMessageKey(raw, 1)
    const commitment = crypto.messageKeyCommitment(messageKey)
    // Encrypt(32 chosen bytes) would give exactly this, were the usage not bound.
    const header = { suite: 1, usage: 2, kmsKeyId: current.idBytes, materialVersion: 1 } as const
    const storePart = await store.wrapKey(
      current.materials.get(1) as KeyMaterial,
      encodeWrappedKeyAad(header, context.hash),
      raw,
    )
    const entryOf = (usage: 1 | 2): Uint8Array =>
      encodeKeyEntry({ commitment, wrappedKey: encodeWrappedKey({ ...header, usage, storePart }) })
    for (const usage of [1, 2] as const) {
      await expect(async () => open(entryOf(usage))).rejects.toMatchObject({
        code: 'DECRYPT_FAILED',
      })
    }
  })
})

describe('the turn of a call', () => {
  test('of a cold key is everyone’s who waits; of a refresh nobody’s, until the key in use has run out', async () => {
    ;(await seal()).release()
    expect(store.lastTurn).toEqual({ principalArn: PRINCIPAL, urgency: 'cold' })
    ;(await seal(849)).release()
    // From here on the next key is being made.
    const refresh = store.lastTurn
    expect(refresh?.urgency).toBe('refresh')
    expect(seal(100)).not.toBeInstanceOf(Promise)
    expect(refresh?.urgency).toBe('refresh')
    const waits = seal(100)
    expect(waits).toBeInstanceOf(Promise)
    expect(refresh?.urgency).toBe('cold')
    ;(await waits).release()
    await settle()
    expect(store.wraps).toBe(2)
  })
})

describe('purging what a key store opened', () => {
  test('leaves nothing to open with, and what seals goes on', async () => {
    const lease = await seal()
    ;(await open(lease.keyEntry)).release()
    expect(store.unwraps).toBe(1)
    cache.purgeOpened('another')
    ;((await open(lease.keyEntry)) as OpenLease).release()
    expect(store.unwraps).toBe(1)
    cache.purgeOpened('counting')
    guardRefuses = true
    await expect(async () => open(lease.keyEntry)).rejects.toMatchObject({
      code: 'KEY_STORE_UNREACHABLE',
    })
    const again = seal() as SealLease
    expect(again.key).toBe(lease.key)
    again.release()
    lease.release()
    await expectNothingLeft()
  })

  test('beats an unwrap that it races', async () => {
    const lease = await seal()
    store.during = () => {
      guardRefuses = true
      cache.purgeOpened('counting')
    }
    await expect(async () => open(lease.keyEntry)).rejects.toMatchObject({
      code: 'KEY_STORE_UNREACHABLE',
    })
    expect(cache.openKeys).toBe(0)
    lease.release()
    await expectNothingLeft()
  })

  test('leaves whoever holds a lease their key until it is back', async () => {
    const lease = await seal()
    const opened = await open(lease.keyEntry)
    cache.purgeOpened('counting')
    expect(crypto.messageKeyCommitment(opened.key)).toHaveLength(32)
    const before = crypto.keyTableUsage().slotsUsed
    opened.release()
    expect(crypto.keyTableUsage().slotsUsed).toBe(before - 1)
    lease.release()
    await expectNothingLeft()
  })
})

describe('the miss budget', () => {
  test('refuses a flood of contexts, and fills again with time', async () => {
    cache = createCache({ budget: 10 })
    for (let i = 0; i < 10; i++) (await seal(1, 1, contextOf(`${i}`))).release()
    await expect(async () => seal(1, 1, contextOf('11'))).rejects.toMatchObject({
      code: 'MISS_BUDGET_SPENT',
    })
    // Those who were there before are served from the cache.
    ;((await seal(1, 1, contextOf('3'))) as SealLease).release()
    nowMs = 1_000
    ;(await seal(1, 1, contextOf('12'))).release()
    await expect(async () => seal(1, 1, contextOf('13'))).rejects.toMatchObject({
      code: 'MISS_BUDGET_SPENT',
    })
  })

  test('foreign key entries count as well', async () => {
    cache = createCache({ budget: 5 })
    const lease = await seal()
    for (let i = 0; i < 4; i++) {
      const foreign = Buffer.concat([randomBytes(32), lease.keyEntry.subarray(32)])
      await expect(async () => open(foreign)).rejects.toMatchObject({ code: 'DECRYPT_FAILED' })
    }
    await expect(async () =>
      open(Buffer.concat([randomBytes(32), lease.keyEntry.subarray(32)])),
    ).rejects.toMatchObject({
      code: 'MISS_BUDGET_SPENT',
    })
    lease.release()
  })
})
