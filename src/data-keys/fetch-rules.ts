/**
 * What holds for every fetch of a message key, to seal or to open: it is for the latest of its KMS key, somebody's budget
 * pays for it, and a key that was fetched while its KMS key changed is not kept. A purge that races a fetch wins.
 */
import type { Crypto, KeyHandle } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import { assertUsable, type KmsKey, type KmsKeyRegistry } from '../kms/kms-key.ts'
import type { MessageKeySource } from './message-key-source.ts'
import type { MissBudget } from './miss-budget.ts'
import type { ReuseWatch } from './reuse-watch.ts'

/** Changes of the KMS key that one lease sits through before it gives up. */
export const CHANGES_MAX = 3

interface FetchRulesOptions {
  readonly crypto: Crypto
  readonly registry: Pick<KmsKeyRegistry, 'current' | 'assertServed'>
  readonly source: Pick<MessageKeySource, 'assertReachable'>
  readonly missBudget: MissBudget
  readonly reuse: ReuseWatch
}

export class FetchRules {
  readonly #options: FetchRulesOptions

  constructor(options: FetchRulesOptions) {
    this.#options = options
  }

  /** Also after a wait: throws CATALOG_UNAVAILABLE where nobody knows what the latest is. */
  latest(kmsKey: KmsKey): KmsKey {
    const { registry } = this.#options
    const latest = registry.current(kmsKey.id) ?? kmsKey
    registry.assertServed(latest)
    return latest
  }

  /** Throws KEY_STORE_UNREACHABLE, MISS_BUDGET_SPENT. */
  spendMiss({
    principalArn,
    kmsKey,
  }: {
    readonly principalArn: string
    readonly kmsKey: KmsKey
  }): void {
    // A store that is not asked costs nobody anything: callers who try again shall find their budget when it is back.
    this.#options.source.assertReachable(this.latest(kmsKey))
    try {
      this.#options.missBudget.spend(principalArn)
    } catch (error) {
      this.#options.reuse.missRefused(principalArn, kmsKey.id)
      throw error
    }
  }

  /**
   * In the turn in which the key arrives: a change that landed meanwhile wins, and the key that came late is gone. Whoever
   * keeps the key does so in the same turn, or a purge in between would not find it. Throws KEY_HANDLE_STALE.
   */
  assertUnchangedOrRelease(kmsKey: KmsKey, key: KeyHandle): void {
    try {
      const now = this.latest(kmsKey)
      assertUsable(now)
      if (now.epoch !== kmsKey.epoch) throw new KeyfoldError('KEY_HANDLE_STALE')
    } catch (error) {
      this.#options.crypto.releaseKey(key)
      throw error
    }
  }
}

/** Whether it changed while it was fetched, so that fetching it again may help. */
export function isStale(error: unknown): boolean {
  return error instanceof KeyfoldError && error.code === 'KEY_HANDLE_STALE'
}
