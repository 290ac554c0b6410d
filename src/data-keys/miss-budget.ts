/**
 * How many data keys a principal may ask for that no cache holds, and how many calls to a key store of another system
 * they may cause besides: a burst, then a steady rate. Without it one caller, with a context unique to each message or
 * with foreign wrapped keys, would keep the key store busy for everyone.
 */
import { LRUCache } from 'lru-cache'

import { KeyfoldError } from '../errors.ts'

/** Principals remembered; one that was forgotten has its whole burst again. */
const PRINCIPALS_MAX = 10_000

export interface MissBudgetLimits {
  readonly burst: number
  readonly perSecond: number
}

export class MissBudget {
  readonly #limits: MissBudgetLimits
  readonly #nowMs: () => number
  readonly #buckets = new LRUCache<string, { left: number; filledAtMs: number }>({
    max: PRINCIPALS_MAX,
  })
  refused = 0

  constructor(limits: MissBudgetLimits, nowMs: () => number) {
    this.#limits = limits
    this.#nowMs = nowMs
  }

  /** Takes one, or throws MISS_BUDGET_SPENT with a hint at what may be wrong. */
  spend(principalArn: string, hint = 'is the context unique to each message?'): void {
    const { burst, perSecond } = this.#limits
    const nowMs = this.#nowMs()
    const bucket = this.#buckets.get(principalArn) ?? { left: burst, filledAtMs: nowMs }
    const refill = (Math.max(0, nowMs - bucket.filledAtMs) / 1000) * perSecond
    bucket.left = Math.min(burst, bucket.left + refill)
    bucket.filledAtMs = nowMs
    this.#buckets.set(principalArn, bucket)
    if (bucket.left < 1) {
      this.refused++
      throw new KeyfoldError(
        'MISS_BUDGET_SPENT',
        `more than ${burst} at once or ${perSecond} a second; ${hint}`,
      )
    }
    bucket.left -= 1
  }
}
