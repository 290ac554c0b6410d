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
  #fromMs = -Infinity
  #untilMs = -Infinity

  constructor(clockMs: () => number) {
    this.#clockMs = clockMs
  }

  get held(): boolean {
    const nowMs = this.#clockMs()
    return nowMs >= this.#fromMs && nowMs < this.#untilMs
  }

  /** `graceMs` is asked only when the lease is out. */
  assertHeld(graceMs?: () => number): void {
    const nowMs = this.#clockMs()
    // A clock that is before what it said once says nothing about how long ago that was.
    if (nowMs >= this.#fromMs) {
      if (nowMs < this.#untilMs) return
      if (graceMs !== undefined && nowMs < this.#untilMs + graceMs()) return
    }
    throw new KeyfoldError(
      'CATALOG_UNAVAILABLE',
      'this node does not know what others may have changed',
    )
  }

  /** By one poll after the other, each counted from its start. */
  extend(fromMs: number, untilMs: number): void {
    this.#fromMs = fromMs
    this.#untilMs = untilMs
  }

  end(): void {
    this.#untilMs = -Infinity
  }
}
