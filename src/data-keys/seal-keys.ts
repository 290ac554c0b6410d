/**
 * The seal side of the data-key cache: by purpose, suite, KMS key, material version and context, a message key with room
 * for the next batch, and the one that takes over from it. The next is fetched before the one in use runs out, so that
 * nobody waits for a key store at rollover; a hundred misses under one name are one fetch.
 */
import { LRUCache } from 'lru-cache'

import type { Crypto, Suite } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import type { StoreTurn } from '../key-stores/key-store.ts'
import { assertUsable, type KmsKey } from '../kms/kms-key.ts'
import { MESSAGE_KEY_REFRESH_SHARE, REFRESH_RETRY_MS } from '../limits.ts'
import { SealKey, type CachedKey, type Evictions } from './cached-key.ts'
import { CHANGES_MAX, isStale, type FetchRules } from './fetch-rules.ts'
import type { CanonicalContext, SealLease, SealLeaseRequest } from './lease.ts'
import type { MessageKeySource } from './message-key-source.ts'
import type { ReuseWatch } from './reuse-watch.ts'

export interface SealKeysOptions {
  readonly crypto: Crypto
  readonly source: MessageKeySource
  readonly rules: FetchRules
  readonly evictions: Evictions
  readonly reuse: ReuseWatch
  readonly limits: {
    readonly ageMsMax: number
    readonly messagesMax: number
    readonly bytesMax: number
  }
  readonly entriesMax: number
  /** Monotonic. */
  readonly nowMs: () => number
}

/** What is held under one name: the key in use, and the one that takes over. */
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

export class SealKeys {
  readonly counters = { hits: 0, misses: 0, refreshes: 0 }
  readonly #options: SealKeysOptions
  readonly #places: LRUCache<string, SealPlace>

  constructor(options: SealKeysOptions) {
    this.#options = options
    this.#places = new LRUCache<string, SealPlace>({
      max: options.entriesMax,
      dispose: (place) => this.#disposePlace(place),
    })
  }

  lease(request: SealLeaseRequest): SealLease | Promise<SealLease> {
    const { limits } = this.#options
    if (request.messages > limits.messagesMax || request.bytes > limits.bytesMax) {
      throw new KeyfoldError(
        'LIMIT_EXCEEDED',
        `a batch has at most ${limits.messagesMax} messages and ${limits.bytesMax} bytes, ` +
          `which is what one message key may seal`,
      )
    }
    const kmsKey = this.#options.rules.latest(request.kmsKey)
    const place = this.#place(sealName(kmsKey, request))
    const key = this.#reserve(place, kmsKey, request)
    if (key === undefined) {
      this.counters.misses++
      return this.#leaseAfterFetch(request)
    }
    this.counters.hits++
    this.#refreshWhereDue(place, key, kmsKey, request)
    return sealLease(key, kmsKey, request.suite)
  }

  get size(): number {
    return this.#places.size
  }

  purgeWhere(isMeant: (kmsKeyId: string) => boolean): void {
    const has = (key: CachedKey | undefined): boolean => key !== undefined && isMeant(key.kmsKeyId)
    for (const [name, place] of [...this.#places.entries()]) {
      if (has(place.current) || has(place.next)) {
        this.#purgePlace(place)
        this.#places.delete(name)
      }
    }
  }

  purgeAll(): void {
    for (const place of this.#places.values()) this.#purgePlace(place)
    this.#places.clear()
  }

  sweep(bornBeforeMs: number): void {
    const isOld = (key: CachedKey | undefined): boolean =>
      key === undefined || key.bornAtMs < bornBeforeMs
    for (const [name, place] of [...this.#places.entries()]) {
      if (isOld(place.current) && isOld(place.next) && place.fetch === undefined) {
        this.#places.delete(name)
      } else if (place.current !== undefined && isOld(place.current)) {
        this.#end(place.current)
        place.current = undefined
      }
    }
  }

  async #leaseAfterFetch(request: SealLeaseRequest): Promise<SealLease> {
    // Whoever waits may find the fresh key used up by others who waited: then it is fetched again.
    for (let changes = 0; ;) {
      const kmsKey = this.#options.rules.latest(request.kmsKey)
      const place = this.#place(sealName(kmsKey, request))
      if (place.fetch === undefined) this.#options.rules.spendMiss(request)
      else if (place.turn !== undefined) place.turn.urgency = 'cold'
      try {
        await (place.fetch ?? this.#fetch(place, kmsKey, request, 'cold'))
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
  #reserve(place: SealPlace, kmsKey: KmsKey, request: SealLeaseRequest): SealKey | undefined {
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
      if (key !== undefined) this.#end(key)
      place.current = place.next
      place.next = undefined
    }
  }

  #fetch(
    place: SealPlace,
    kmsKey: KmsKey,
    request: SealLeaseRequest,
    urgency: StoreTurn['urgency'],
  ): Promise<void> {
    const turn: FetchTurn = { principalArn: request.principalArn, urgency }
    place.turn = turn
    const fetch = this.#make(kmsKey, request, turn).then((key) => {
      if (place.next !== undefined) this.#end(place.next)
      place.next = key
      // The place may have left the cache meanwhile: those who wait in this turn use the key, and nobody after.
      if (this.#places.peek(sealName(kmsKey, request)) !== place) {
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

  async #make(
    kmsKey: KmsKey,
    { suite, context, principalArn }: SealLeaseRequest,
    turn: StoreTurn,
  ): Promise<SealKey> {
    const { crypto, limits, nowMs, source, rules } = this.#options
    const bornAtMs = nowMs()
    const { key, keyEntry, materialVersion } = await source.createMessageKey({
      kmsKey,
      suite,
      context,
      turn,
    })
    rules.assertUnchangedOrRelease(kmsKey, key)
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

  #refreshWhereDue(
    place: SealPlace,
    key: SealKey,
    kmsKey: KmsKey,
    request: SealLeaseRequest,
  ): void {
    if (!this.#isDueForRefresh(key) || place.next !== undefined || place.fetch !== undefined) return
    if (this.#options.nowMs() < place.refreshAgainMs) return
    // What left the cache meanwhile has no next time.
    if (this.#places.peek(sealName(kmsKey, request)) !== place) return
    this.counters.refreshes++
    // A failed refresh is no failure yet: the key in use serves on, and a lease after a while tries again.
    this.#fetch(place, kmsKey, request, 'refresh').catch(() => {
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
    const known = this.#places.get(name)
    if (known !== undefined) return known
    const place: SealPlace = {
      current: undefined,
      next: undefined,
      fetch: undefined,
      turn: undefined,
      refreshAgainMs: 0,
    }
    this.#places.set(name, place)
    return place
  }

  #disposePlace(place: SealPlace): void {
    const { current, next } = place
    place.current = undefined
    place.next = undefined
    if (current !== undefined) this.#end(current)
    if (next !== undefined) this.#end(next)
  }

  /** Keys that were taken away say nothing about those who used them. */
  #purgePlace(place: SealPlace): void {
    const { current, next } = place
    place.current = undefined
    place.next = undefined
    if (current !== undefined) this.#options.evictions.evict(current)
    if (next !== undefined) this.#options.evictions.evict(next)
  }

  #end(key: SealKey): void {
    this.#options.evictions.evict(key)
    this.#options.reuse.keyEnded(key.principalArn, key.kmsKeyId, key.leasesGiven)
  }

  #isAlive(key: CachedKey, kmsKey: KmsKey): boolean {
    return key.isAlive(kmsKey, this.#options.nowMs(), this.#options.limits.ageMsMax)
  }
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
