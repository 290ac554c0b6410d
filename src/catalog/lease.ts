/**
 * How long this process may act on what it remembers of the catalog. Asked at every use of a KMS key, so it is one
 * comparison with a clock that also runs while the process is stopped or the machine sleeps (CLOCK_BOOTTIME; the clock
 * of `performance` stands still in suspend, and wall clocks are set). A virtual machine that its host pauses may see
 * no clock go on: its keys are as good as a copy of its memory, and no lease helps there.
 */
import { KeyfoldError } from '../errors.ts'

export interface Lease {
  /** Throws CATALOG_UNAVAILABLE where the lease ran out longer than `graceMs` ago. */
  assertHeld(graceMs?: () => number): void
  readonly held: boolean
}

/** Of a catalog that nobody else changes. */
export const UNBOUNDED_LEASE: Lease = { assertHeld: () => undefined, held: true }

export class BoundedLease implements Lease {
  readonly #clockMs: () => number
  #untilMs = -Infinity

  constructor(clockMs: () => number) {
    this.#clockMs = clockMs
  }

  get held(): boolean {
    return this.#clockMs() < this.#untilMs
  }

  /** `graceMs` is asked only when the lease is out. */
  assertHeld(graceMs?: () => number): void {
    const nowMs = this.#clockMs()
    if (nowMs < this.#untilMs) return
    if (graceMs !== undefined && nowMs < this.#untilMs + graceMs()) return
    throw new KeyfoldError(
      'CATALOG_UNAVAILABLE',
      'this node does not know what others may have changed',
    )
  }

  /** Never earlier than it was: each moment comes from a later poll. */
  extendTo(untilMs: number): void {
    this.#untilMs = Math.max(this.#untilMs, untilMs)
  }

  end(): void {
    this.#untilMs = -Infinity
  }
}
