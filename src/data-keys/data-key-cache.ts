/**
 * The data-key cache: one key-store call, then millions of messages.
 *
 * Seal side: by purpose, suite, KMS key, material version and context. Open side: by the hash of the whole key
 * entry and context, and only after the KMS key that the entry names was authorised; a commitment alone would let a
 * caller graft an entry of a key that they may use onto somebody else's message.
 *
 * Between looking and acting there is no await. A key that was fetched while its KMS key changed is not kept: a purge
 * that races a fetch wins.
 */
import { LRUCache } from 'lru-cache'

import type { Crypto, KeyHandle, Suite } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import type { StoreTurn } from '../key-stores/key-store.ts'
import { assertUsable, type KmsKey, type KmsKeyRegistry } from '../kms/kms-key.ts'
import { MESSAGE_KEY_REFRESH_SHARE, REFRESH_RETRY_MS } from '../limits.ts'
import { CachedKey, SealKey } from './cached-key.ts'
import type { CanonicalContext, DataKeys, OpenLease, SealLease } from './lease.ts'
import type { MessageKeySource } from './message-key-source.ts'
import type { MissBudget } from './miss-budget.ts'
import { ReuseWatch } from './reuse-watch.ts'

export interface DataKeyCacheOptions {
  readonly crypto: Crypto
  readonly registry: Pick<KmsKeyRegistry, 'current' | 'assertServed'>
  readonly source: MessageKeySource
  readonly missBudget: MissBudget
  readonly limits: {
    readonly ageMsMax: number
    readonly messagesMax: number
    readonly bytesMax: number
  }
  readonly entriesMax: number
  /** Monotonic. */
  readonly nowMs: () => number
  /** For operators: who uses the cache so that it cannot serve them. */
  readonly warn: (message: string) => void
}

export interface DataKeyCounters {
  readonly sealHits: number
  readonly sealMisses: number
  readonly openHits: number
  readonly openMisses: number
  readonly refreshes: number
  readonly evictions: number
  /** Keys that were evicted after a single lease, of the last ones evicted: high where contexts are unique. */
  readonly keysUsedOnce: number
  readonly wraps: number
  readonly unwraps: number
}

type SealRequest = Parameters<DataKeys['leaseSeal']>[0]
type OpenRequest = Parameters<DataKeys['leaseOpen']>[0]
type IssueRequest = Parameters<DataKeys['issueSeal']>[0]

/** What the seal side holds under one name: the key in use, and the one that takes over. */
interface SealPlace {
  current: SealKey | undefined
  next: SealKey | undefined
  /** The one fetch under way, and its place among the calls to the store. */
  fetch: Promise<void> | undefined
  turn: FetchTurn | undefined
  /** After a failed refresh, when there may be another. */
  refreshAgainMs: number
}

/** A refresh becomes urgent when the key in use runs out before it is there. */
type FetchTurn = StoreTurn & { urgency: StoreTurn['urgency'] }

export class DataKeyCache implements DataKeys {
  readonly #counters = {
    sealHits: 0,
    sealMisses: 0,
    openHits: 0,
    openMisses: 0,
    refreshes: 0,
    evictions: 0,
    keysUsedOnce: 0,
  }
  readonly #options: DataKeyCacheOptions
  readonly #seal: LRUCache<string, SealPlace>
  readonly #open: LRUCache<string, CachedKey>
  readonly #unwrapping = new Map<string, Promise<CachedKey>>()
  /** By key store: how often all that it opened was purged. */
  readonly #openPurges = new Map<string, number>()
  readonly #reuse: ReuseWatch

  constructor(options: DataKeyCacheOptions) {
    this.#options = options
    this.#reuse = new ReuseWatch(options)
    this.#seal = new LRUCache<string, SealPlace>({
      max: options.entriesMax,
      dispose: (place) => this.#disposePlace(place),
    })
    this.#open = new LRUCache<string, CachedKey>({
      max: options.entriesMax,
      dispose: (key) => this.#evict(key),
    })
  }

  leaseSeal(request: SealRequest): SealLease | Promise<SealLease> {
    const { limits } = this.#options
    if (request.messages > limits.messagesMax || request.bytes > limits.bytesMax) {
      throw new KeyfoldError(
        'LIMIT_EXCEEDED',
        `a batch has at most ${limits.messagesMax} messages and ${limits.bytesMax} bytes, ` +
          `which is what one message key may seal`,
      )
    }
    const kmsKey = this.#latest(request.kmsKey)
    const place = this.#place(sealName(kmsKey, request))
    const key = this.#reserve(place, kmsKey, request)
    if (key === undefined) {
      this.#counters.sealMisses++
      return this.#leaseSealAfterFetch(request)
    }
    this.#counters.sealHits++
    this.#refreshWhereDue(place, key, kmsKey, request)
    return sealLease(key, kmsKey, request.suite)
  }

  leaseOpen(request: OpenRequest): OpenLease | Promise<OpenLease> {
    const kmsKey = this.#latest(request.kmsKey)
    assertUsable(kmsKey)
    const key = this.#open.get(request.cacheId)
    // The caller has authorised the KMS key that the entry names. Should they differ, no cached key is served.
    if (key !== undefined && key.kmsKeyId === kmsKey.id) {
      if (this.#isAlive(key, kmsKey)) {
        this.#counters.openHits++
        return openLease(key, kmsKey)
      }
      this.#open.delete(request.cacheId)
    }
    this.#counters.openMisses++
    return this.#leaseOpenAfterUnwrap(request)
  }

  async issueSeal(request: IssueRequest): Promise<SealLease> {
    const kmsKey = this.#latest(request.kmsKey)
    assertUsable(kmsKey)
    this.#spendMiss(request)
    const { suite, context, principalArn } = request
    const { crypto, source } = this.#options
    const turn = { principalArn, urgency: 'cold' } as const
    const { key, ...made } = await source.createMessageKey({ kmsKey, suite, context, turn })
    this.#assertUnchangedOrRelease(kmsKey, key)
    return { key, suite, kmsKey, ...made, release: () => crypto.releaseKey(key) }
  }

  kmsKeyIdOf(cacheId: string): string | undefined {
    return this.#open.peek(cacheId)?.kmsKeyId
  }

  purge(kmsKeyId: string): void {
    this.purgeWhere((id) => id === kmsKeyId)
  }

  /** Those of many KMS keys in one pass. */
  purgeWhere(isMeant: (kmsKeyId: string) => boolean): void {
    const has = (key: CachedKey | undefined): boolean => key !== undefined && isMeant(key.kmsKeyId)
    for (const [name, place] of [...this.#seal.entries()]) {
      if (has(place.current) || has(place.next)) {
        this.#purgePlace(place)
        this.#seal.delete(name)
      }
    }
    for (const [name, key] of [...this.#open.entries()]) {
      if (isMeant(key.kmsKeyId)) this.#open.delete(name)
    }
  }

  purgeAll(): void {
    for (const place of this.#seal.values()) this.#purgePlace(place)
    this.#seal.clear()
    this.#open.clear()
  }

  /** Nothing that this key store opened is leased again to open; what seals goes on until its limits. */
  purgeOpened(keyStore: string): void {
    this.#openPurges.set(keyStore, this.#openPurgesOf(keyStore) + 1)
    for (const [name, key] of [...this.#open.entries()]) {
      if (key.keyStore === keyStore) this.#open.delete(name)
    }
  }

  /** Wipes what is past its age: called from time to time, so that an idle key does not stay in memory. */
  sweep(): void {
    const bornBeforeMs = this.#options.nowMs() - this.#options.limits.ageMsMax
    const isOld = (key: CachedKey | undefined): boolean =>
      key === undefined || key.bornAtMs < bornBeforeMs
    for (const [name, place] of [...this.#seal.entries()]) {
      if (isOld(place.current) && isOld(place.next) && place.fetch === undefined) {
        this.#seal.delete(name)
      } else if (place.current !== undefined && isOld(place.current)) {
        this.#endSealKey(place.current)
        place.current = undefined
      }
    }
    for (const [name, key] of [...this.#open.entries()]) {
      if (key.bornAtMs < bornBeforeMs) this.#open.delete(name)
    }
  }

  get counters(): DataKeyCounters {
    return { ...this.#counters, ...this.#options.source.counters }
  }

  get sealKeys(): number {
    return this.#seal.size
  }

  get openKeys(): number {
    return this.#open.size
  }

  // Sealing.

  async #leaseSealAfterFetch(request: SealRequest): Promise<SealLease> {
    // Whoever waits may find the fresh key used up by others who waited: then it is fetched again.
    for (let changes = 0; ;) {
      const kmsKey = this.#latest(request.kmsKey)
      const place = this.#place(sealName(kmsKey, request))
      if (place.fetch === undefined) this.#spendMiss(request)
      else if (place.turn !== undefined) place.turn.urgency = 'cold'
      try {
        await (place.fetch ?? this.#fetchSealKey(place, kmsKey, request, 'cold'))
      } catch (error) {
        if (!isStale(error) || ++changes > CHANGES_MAX) throw error
        continue
      }
      const key = this.#reserve(place, kmsKey, request)
      if (key !== undefined) {
        this.#refreshWhereDue(place, key, kmsKey, request)
        return sealLease(key, kmsKey, request.suite)
      }
    }
  }

  /** A key of this place with room for the batch, which is taken; undefined where one has to be fetched. */
  #reserve(place: SealPlace, kmsKey: KmsKey, request: SealRequest): SealKey | undefined {
    assertUsable(kmsKey)
    for (;;) {
      const key = place.current
      if (
        key !== undefined &&
        this.#isAlive(key, kmsKey) &&
        key.reserve(request.messages, request.bytes)
      ) {
        return key
      }
      if (place.next === undefined) return undefined
      if (key !== undefined) this.#endSealKey(key)
      place.current = place.next
      place.next = undefined
    }
  }

  #fetchSealKey(
    place: SealPlace,
    kmsKey: KmsKey,
    request: SealRequest,
    urgency: StoreTurn['urgency'],
  ): Promise<void> {
    const turn: FetchTurn = { principalArn: request.principalArn, urgency }
    place.turn = turn
    const fetch = this.#makeSealKey(kmsKey, request, turn).then((key) => {
      if (place.next !== undefined) this.#endSealKey(place.next)
      place.next = key
      // The place may have left the cache meanwhile: those who wait in this turn use the key, and nobody after.
      if (this.#seal.peek(sealName(kmsKey, request)) !== place) {
        setImmediate(() => this.#disposePlace(place))
      }
    })
    const settled = fetch.finally(() => {
      place.fetch = undefined
      place.turn = undefined
    })
    place.fetch = settled
    return settled
  }

  async #makeSealKey(
    kmsKey: KmsKey,
    { suite, context, principalArn }: SealRequest,
    turn: StoreTurn,
  ): Promise<SealKey> {
    const { crypto, limits, nowMs, source } = this.#options
    const bornAtMs = nowMs()
    const { key, keyEntry, materialVersion } = await source.createMessageKey({
      kmsKey,
      suite,
      context,
      turn,
    })
    this.#assertUnchangedOrRelease(kmsKey, key)
    return new SealKey(
      crypto,
      {
        handle: key,
        kmsKeyId: kmsKey.id,
        keyStore: kmsKey.keyStore,
        materialVersion,
        epoch: kmsKey.epoch,
        bornAtMs,
      },
      {
        keyEntry,
        principalArn,
        messagesMax: limits.messagesMax,
        bytesMax: limits.bytesMax,
      },
    )
  }

  #refreshWhereDue(place: SealPlace, key: SealKey, kmsKey: KmsKey, request: SealRequest): void {
    if (!this.#isDueForRefresh(key) || place.next !== undefined || place.fetch !== undefined) return
    if (this.#options.nowMs() < place.refreshAgainMs) return
    // What left the cache meanwhile has no next time.
    if (this.#seal.peek(sealName(kmsKey, request)) !== place) return
    this.#counters.refreshes++
    // A failed refresh is no failure yet: the key in use serves on, and a lease after a while tries again.
    this.#fetchSealKey(place, kmsKey, request, 'refresh').catch(() => {
      place.refreshAgainMs = this.#options.nowMs() + REFRESH_RETRY_MS
    })
  }

  #isDueForRefresh(key: SealKey): boolean {
    const ageMs = this.#options.nowMs() - key.bornAtMs
    return (
      key.isBeyond(MESSAGE_KEY_REFRESH_SHARE) ||
      ageMs >= this.#options.limits.ageMsMax * MESSAGE_KEY_REFRESH_SHARE
    )
  }

  #place(name: string): SealPlace {
    const known = this.#seal.get(name)
    if (known !== undefined) return known
    const place: SealPlace = {
      current: undefined,
      next: undefined,
      fetch: undefined,
      turn: undefined,
      refreshAgainMs: 0,
    }
    this.#seal.set(name, place)
    return place
  }

  #disposePlace(place: SealPlace): void {
    const { current, next } = place
    place.current = undefined
    place.next = undefined
    if (current !== undefined) this.#endSealKey(current)
    if (next !== undefined) this.#endSealKey(next)
  }

  /** Keys that were taken away say nothing about those who used them. */
  #purgePlace(place: SealPlace): void {
    const { current, next } = place
    place.current = undefined
    place.next = undefined
    if (current !== undefined) this.#evict(current)
    if (next !== undefined) this.#evict(next)
  }

  #endSealKey(key: SealKey): void {
    this.#evict(key)
    this.#reuse.keyEnded(key.principalArn, key.kmsKeyId, key.leasesGiven)
  }

  // Opening.

  async #leaseOpenAfterUnwrap(request: OpenRequest): Promise<OpenLease> {
    for (let changes = 0; ;) {
      let unwrapping = this.#unwrapping.get(request.cacheId)
      if (unwrapping === undefined) {
        this.#spendMiss(request)
        unwrapping = this.#unwrap(request)
        this.#unwrapping.set(request.cacheId, unwrapping)
        // Failures are not cached.
        const forget = (): boolean => this.#unwrapping.delete(request.cacheId)
        unwrapping.then(forget, forget)
      }
      try {
        const key = await unwrapping
        // A purge may have come between the key's arrival and this turn.
        if (this.#open.peek(request.cacheId) === key) {
          return openLease(key, this.#latest(request.kmsKey))
        }
        throw new KeyfoldError('KEY_HANDLE_STALE')
      } catch (error) {
        if (!isStale(error) || ++changes > CHANGES_MAX) throw error
      }
    }
  }

  async #unwrap(request: OpenRequest): Promise<CachedKey> {
    const { crypto, nowMs, source } = this.#options
    const kmsKey = this.#latest(request.kmsKey)
    assertUsable(kmsKey)
    const bornAtMs = nowMs()
    const { suite, context, principalArn } = request
    const { keyStore } = kmsKey
    // The entry may be a view of a request that is answered before the source is: it is copied.
    const keyEntry = Uint8Array.from(request.keyEntry)
    const purges = this.#openPurgesOf(keyStore)
    const turn = { principalArn, urgency: 'other' } as const
    const opened = await source.openMessageKey({ kmsKey, suite, keyEntry, context, turn })
    this.#assertUnchangedOrRelease(kmsKey, opened.key)
    if (this.#openPurgesOf(keyStore) !== purges) {
      crypto.releaseKey(opened.key)
      throw new KeyfoldError('KEY_HANDLE_STALE')
    }
    const key = new CachedKey(crypto, {
      handle: opened.key,
      kmsKeyId: kmsKey.id,
      keyStore,
      materialVersion: opened.materialVersion,
      epoch: kmsKey.epoch,
      bornAtMs,
    })
    this.#open.set(request.cacheId, key)
    return key
  }

  // Both.

  #openPurgesOf(keyStore: string): number {
    return this.#openPurges.get(keyStore) ?? 0
  }

  #spendMiss({ principalArn, kmsKey }: Pick<SealRequest, 'principalArn' | 'kmsKey'>): void {
    // A store that is not asked costs nobody anything: callers who try again shall find their budget when it is back.
    this.#options.source.assertReachable(this.#latest(kmsKey))
    try {
      this.#options.missBudget.spend(principalArn)
    } catch (error) {
      this.#reuse.missRefused(principalArn, kmsKey.id)
      throw error
    }
  }

  /** Also after a wait: throws CATALOG_UNAVAILABLE where nobody knows what the latest is. */
  #latest(kmsKey: KmsKey): KmsKey {
    const { registry } = this.#options
    const latest = registry.current(kmsKey.id) ?? kmsKey
    registry.assertServed(latest)
    return latest
  }

  #isAlive(key: CachedKey, kmsKey: KmsKey): boolean {
    const ageMs = this.#options.nowMs() - key.bornAtMs
    return key.epoch === kmsKey.epoch && ageMs < this.#options.limits.ageMsMax
  }

  /** After an await: a change that landed meanwhile wins, and the key that came late is gone. */
  #assertUnchangedOrRelease(kmsKey: KmsKey, key: KeyHandle): void {
    try {
      const now = this.#latest(kmsKey)
      assertUsable(now)
      if (now.epoch !== kmsKey.epoch) throw new KeyfoldError('KEY_HANDLE_STALE')
    } catch (error) {
      this.#options.crypto.releaseKey(key)
      throw error
    }
  }

  #evict(key: CachedKey): void {
    this.#counters.evictions++
    if (key.leasesGiven <= 1) this.#counters.keysUsedOnce++
    key.evict()
  }
}

/** Changes of the KMS key that one lease sits through before it gives up. */
const CHANGES_MAX = 3

function isStale(error: unknown): boolean {
  return error instanceof KeyfoldError && error.code === 'KEY_HANDLE_STALE'
}

/** What a context was last used with: contexts are remembered by the server, so one name serves many requests. */
interface LastName {
  readonly kmsKey: KmsKey
  readonly suite: Suite
  readonly name: string
}

const lastNames = new WeakMap<CanonicalContext, LastName>()

/** Purpose, suite, KMS key, material version and context. */
function sealName(
  kmsKey: KmsKey,
  { suite, context }: { readonly suite: Suite; readonly context: CanonicalContext },
): string {
  const last = lastNames.get(context)
  if (last !== undefined && last.kmsKey === kmsKey && last.suite === suite) return last.name
  const hash = Buffer.from(context.hash).toString('latin1')
  const name = `message/${suite}/${kmsKey.id}/${kmsKey.currentVersion}/${hash}`
  lastNames.set(context, { kmsKey, suite, name })
  return name
}

function sealLease(key: SealKey, kmsKey: KmsKey, suite: Suite): SealLease {
  key.lease()
  return {
    key: key.handle,
    suite,
    keyEntry: key.keyEntry,
    kmsKey,
    materialVersion: key.materialVersion,
    release: () => key.giveBack(),
  }
}

function openLease(key: CachedKey, kmsKey: KmsKey): OpenLease {
  key.lease()
  return {
    key: key.handle,
    kmsKey,
    materialVersion: key.materialVersion,
    release: () => key.giveBack(),
  }
}
