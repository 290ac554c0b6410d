/**
 * The data-key cache: one key-store call, then millions of messages. What seals and what opens are kept apart
 * (seal-keys.ts, open-keys.ts), and end together.
 *
 * Between looking and acting there is no await.
 */
import { assertUsable, type KmsKeyRegistry } from '../kms/kms-key.ts'
import { Evictions } from './cached-key.ts'
import { FetchRules } from './fetch-rules.ts'
import type {
  DataKeys,
  IssueRequest,
  OpenLease,
  OpenLeaseRequest,
  SealLease,
  SealLeaseRequest,
} from './lease.ts'
import type { MissBudget } from './miss-budget.ts'
import { OpenKeys } from './open-keys.ts'
import { ReuseWatch } from './reuse-watch.ts'
import { SealKeys, type SealKeysOptions } from './seal-keys.ts'

export interface DataKeyCacheOptions extends Pick<
  SealKeysOptions,
  'crypto' | 'source' | 'limits' | 'entriesMax' | 'nowMs'
> {
  readonly registry: Pick<KmsKeyRegistry, 'current' | 'assertServed'>
  readonly missBudget: MissBudget
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

export class DataKeyCache implements DataKeys {
  readonly #options: DataKeyCacheOptions
  readonly #rules: FetchRules
  readonly #evictions = new Evictions()
  readonly #seal: SealKeys
  readonly #open: OpenKeys

  constructor(options: DataKeyCacheOptions) {
    this.#options = options
    const reuse = new ReuseWatch(options)
    this.#rules = new FetchRules({ ...options, reuse })
    const shared = { ...options, rules: this.#rules, evictions: this.#evictions }
    this.#seal = new SealKeys({ ...shared, reuse })
    this.#open = new OpenKeys(shared)
  }

  leaseSeal(request: SealLeaseRequest): SealLease | Promise<SealLease> {
    return this.#seal.lease(request)
  }

  leaseOpen(request: OpenLeaseRequest): OpenLease | Promise<OpenLease> {
    return this.#open.lease(request)
  }

  async issueSeal(request: IssueRequest): Promise<SealLease> {
    const kmsKey = this.#rules.latest(request.kmsKey)
    assertUsable(kmsKey)
    this.#rules.spendMiss(request)
    const { suite, context, principalArn } = request
    const { crypto, source } = this.#options
    const turn = { principalArn, urgency: 'cold' } as const
    const { key, ...made } = await source.createMessageKey({ kmsKey, suite, context, turn })
    this.#rules.assertUnchangedOrRelease(kmsKey, key)
    return { key, suite, kmsKey, ...made, release: () => crypto.releaseKey(key) }
  }

  kmsKeyIdOf(cacheId: string): string | undefined {
    return this.#open.kmsKeyIdOf(cacheId)
  }

  purge(kmsKeyId: string): void {
    this.purgeWhere((id) => id === kmsKeyId)
  }

  /** Those of many KMS keys in one pass. */
  purgeWhere(isMeant: (kmsKeyId: string) => boolean): void {
    this.#seal.purgeWhere(isMeant)
    this.#open.purgeWhere(isMeant)
  }

  purgeAll(): void {
    this.#seal.purgeAll()
    this.#open.purgeAll()
  }

  /** Nothing that this key store opened is leased again to open; what seals goes on until its limits. */
  purgeOpened(keyStore: string): void {
    this.#open.purgeOpenedBy(keyStore)
  }

  /** Wipes what is past its age: called from time to time, so that an idle key does not stay in memory. */
  sweep(): void {
    const bornBeforeMs = this.#options.nowMs() - this.#options.limits.ageMsMax
    this.#seal.sweep(bornBeforeMs)
    this.#open.sweep(bornBeforeMs)
  }

  get counters(): DataKeyCounters {
    const [seal, open] = [this.#seal.counters, this.#open.counters]
    return {
      sealHits: seal.hits,
      sealMisses: seal.misses,
      openHits: open.hits,
      openMisses: open.misses,
      refreshes: seal.refreshes,
      evictions: this.#evictions.keys,
      keysUsedOnce: this.#evictions.keysUsedOnce,
      ...this.#options.source.counters,
    }
  }

  get sealKeys(): number {
    return this.#seal.size
  }

  get openKeys(): number {
    return this.#open.size
  }
}
