/**
 * The open side of the data-key cache: by the hash of the whole key entry and context, the message key that it unwraps
 * to. Nothing is looked up before the KMS key that the entry names was authorised; a commitment alone would let a caller
 * graft an entry of a key that they may use onto somebody else's message. A hundred misses for one entry are one unwrap.
 */
import { LRUCache } from 'lru-cache'

import type { Crypto } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import { assertUsable, type KmsKey } from '../kms/kms-key.ts'
import { CachedKey, type Evictions } from './cached-key.ts'
import { CHANGES_MAX, isStale, type FetchRules } from './fetch-rules.ts'
import type { OpenLease, OpenLeaseRequest } from './lease.ts'
import type { MessageKeySource } from './message-key-source.ts'

interface OpenKeysOptions {
  readonly crypto: Crypto
  readonly source: MessageKeySource
  readonly rules: FetchRules
  readonly evictions: Evictions
  readonly limits: { readonly ageMsMax: number }
  readonly entriesMax: number
  /** Monotonic. */
  readonly nowMs: () => number
}

export class OpenKeys {
  readonly counters = { hits: 0, misses: 0 }
  readonly #options: OpenKeysOptions
  readonly #keys: LRUCache<string, CachedKey>
  readonly #unwrapping = new Map<string, Promise<CachedKey>>()
  /** By key store: how often all that it opened was purged. */
  readonly #purges = new Map<string, number>()

  constructor(options: OpenKeysOptions) {
    this.#options = options
    this.#keys = new LRUCache<string, CachedKey>({
      max: options.entriesMax,
      dispose: (key) => options.evictions.evict(key),
    })
  }

  lease(request: OpenLeaseRequest): OpenLease | Promise<OpenLease> {
    const kmsKey = this.#options.rules.latest(request.kmsKey)
    assertUsable(kmsKey)
    const key = this.#keys.get(request.cacheId)
    // The caller has authorised the KMS key that the entry names. Should they differ, no cached key is served.
    if (key !== undefined && key.kmsKeyId === kmsKey.id) {
      if (this.#isAlive(key, kmsKey)) {
        this.counters.hits++
        return openLease(key, kmsKey)
      }
      this.#keys.delete(request.cacheId)
    }
    this.counters.misses++
    return this.#leaseAfterUnwrap(request)
  }

  kmsKeyIdOf(cacheId: string): string | undefined {
    return this.#keys.peek(cacheId)?.kmsKeyId
  }

  get size(): number {
    return this.#keys.size
  }

  purgeWhere(isMeant: (kmsKeyId: string) => boolean): void {
    for (const [name, key] of [...this.#keys.entries()]) {
      if (isMeant(key.kmsKeyId)) this.#keys.delete(name)
    }
  }

  purgeAll(): void {
    this.#keys.clear()
  }

  /** Nothing that this key store opened is leased again, nor what it is opening now. */
  purgeOpenedBy(keyStore: string): void {
    this.#purges.set(keyStore, this.#purgesOf(keyStore) + 1)
    for (const [name, key] of [...this.#keys.entries()]) {
      if (key.keyStore === keyStore) this.#keys.delete(name)
    }
  }

  sweep(bornBeforeMs: number): void {
    for (const [name, key] of [...this.#keys.entries()]) {
      if (key.bornAtMs < bornBeforeMs) this.#keys.delete(name)
    }
  }

  async #leaseAfterUnwrap(request: OpenLeaseRequest): Promise<OpenLease> {
    for (let changes = 0; ;) {
      let unwrapping = this.#unwrapping.get(request.cacheId)
      if (unwrapping === undefined) {
        this.#options.rules.spendMiss(request)
        unwrapping = this.#unwrap(request)
        this.#unwrapping.set(request.cacheId, unwrapping)
        // Failures are not cached.
        const forget = (): boolean => this.#unwrapping.delete(request.cacheId)
        unwrapping.then(forget, forget)
      }
      try {
        const key = await unwrapping
        // A purge may have come between the key's arrival and this turn.
        if (this.#keys.peek(request.cacheId) === key) {
          return openLease(key, this.#options.rules.latest(request.kmsKey))
        }
        throw new KeyfoldError('KEY_HANDLE_STALE')
      } catch (error) {
        if (!isStale(error) || ++changes > CHANGES_MAX) throw error
      }
    }
  }

  async #unwrap(request: OpenLeaseRequest): Promise<CachedKey> {
    const { crypto, nowMs, source, rules } = this.#options
    const kmsKey = rules.latest(request.kmsKey)
    assertUsable(kmsKey)
    const bornAtMs = nowMs()
    const { suite, context, principalArn } = request
    const { keyStore } = kmsKey
    // The entry may be a view of a request that is answered before the source is: it is copied.
    const keyEntry = Uint8Array.from(request.keyEntry)
    const purges = this.#purgesOf(keyStore)
    const turn = { principalArn, urgency: 'other' } as const
    const opened = await source.openMessageKey({ kmsKey, suite, keyEntry, context, turn })
    rules.assertUnchangedOrRelease(kmsKey, opened.key)
    if (this.#purgesOf(keyStore) !== purges) {
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
    this.#keys.set(request.cacheId, key)
    return key
  }

  #purgesOf(keyStore: string): number {
    return this.#purges.get(keyStore) ?? 0
  }

  #isAlive(key: CachedKey, kmsKey: KmsKey): boolean {
    return key.isAlive(kmsKey, this.#options.nowMs(), this.#options.limits.ageMsMax)
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
