/**
 * Whether a key store of another system is asked at all. After failures in a row that were its own it is not, and whoever
 * asks is told at once; it is probed then, after pauses that grow, and one probe that it answers makes everything as
 * before.
 *
 *     closed ──failures in a row──► open ──pause──► half-open (one probe) ──answered──► closed
 *                                    ▲────── failed, next pause twice as long ──┘
 *
 * No caller's request is spent on finding out: the probe is ours.
 */

export type CircuitState = 'closed' | 'open' | 'half-open'

/**
 * What a call says of the store. answered: it was there, also where it refused what it was asked. unknown: it failed in
 * a way that no store should, which may be its caller's fault, and says nothing.
 */
export type Outcome = 'answered' | 'unreachable' | 'unknown'

export interface CircuitOptions {
  readonly failuresMax: number
  readonly pauseMsMin: number
  readonly pauseMsMax: number
  /** Wall clock: for people. */
  readonly nowMs: () => number
  /** Never rejects. */
  readonly probe: () => Promise<Outcome>
  /** Called in the tick of the change. */
  readonly onChange: (state: 'open' | 'closed') => void
}

export class Circuit {
  readonly #options: CircuitOptions
  #state: CircuitState = 'closed'
  #openedAtMs: number | undefined
  #failuresInRow = 0
  #pauseMs: number
  #timer: NodeJS.Timeout | undefined
  #stopped = false
  /** Grows when it opens: what was asked before says nothing about the store of afterwards. */
  #generation = 0

  constructor(options: CircuitOptions) {
    this.#options = options
    this.#pauseMs = options.pauseMsMin
  }

  get state(): CircuitState {
    return this.#state
  }

  /** undefined while it is closed. */
  get openedAtMs(): number | undefined {
    return this.#openedAtMs
  }

  /** To be noted before the store is asked. */
  get generation(): number {
    return this.#generation
  }

  settle(generation: number, outcome: Outcome): void {
    if (this.#state !== 'closed' || generation !== this.#generation) return
    if (outcome === 'answered') {
      this.#failuresInRow = 0
      // Not when a probe was answered: a store that answers probes and no calls is not to be asked ever more often.
      this.#pauseMs = this.#options.pauseMsMin
    } else if (outcome === 'unreachable' && ++this.#failuresInRow >= this.#options.failuresMax) {
      this.#openedAtMs = this.#options.nowMs()
      this.#generation++
      this.#wait()
      this.#options.onChange('open')
    }
  }

  /** No timer is left, and none follows. */
  stop(): void {
    this.#stopped = true
    clearTimeout(this.#timer)
  }

  #wait(): void {
    this.#state = 'open'
    if (this.#stopped) return
    // Nothing else is kept alive for it: a process that ends does not wait for a store.
    this.#timer = setTimeout(() => void this.#probe(), this.#pauseMs).unref()
    this.#pauseMs = Math.min(2 * this.#pauseMs, this.#options.pauseMsMax)
  }

  async #probe(): Promise<void> {
    this.#state = 'half-open'
    const outcome = await this.#options.probe()
    if (this.#stopped) return
    if (outcome !== 'answered') {
      this.#wait()
      return
    }
    this.#state = 'closed'
    this.#openedAtMs = undefined
    this.#failuresInRow = 0
    this.#options.onChange('closed')
  }
}
