/**
 * What stands between us and a store of another system, which may be slow, hang, or be gone: each call has a deadline,
 * so many are under way at once, others wait by the rules of store-queue.ts, and while the circuit is open
 * (circuit.ts) everyone is told at once instead of waiting for nothing.
 *
 * A call is made once at most and ends once: with the store's answer, or with KEY_STORE_UNREACHABLE. An answer that
 * comes too late is nobody's, and is handed to `discard`, for keys and plaintexts are wiped.
 */
import { KeyfoldError } from '../errors.ts'
import {
  STORE_CALLS_MAX_DEFAULT,
  STORE_DEADLINE_MS_DEFAULT,
  STORE_FAILURES_MAX,
  STORE_PROBE_KEPT_MS,
  STORE_PROBE_PAUSE_MS_MAX,
  STORE_PROBE_PAUSE_MS_MIN,
  STORE_QUEUE_MAX_DEFAULT,
} from '../limits.ts'
import { Circuit, type CircuitState, type Outcome } from './circuit.ts'
import type { StoreGuard, StoreTurn } from './key-store.ts'
import { NOBODYS_TURN, StoreQueue, type QueuedCall } from './store-queue.ts'

export interface GuardSettings {
  /** Waiting for a turn, and then the call itself, may each take so long. */
  readonly deadlineMs: number
  readonly callsMax: number
  readonly waitingMax: number
  readonly failuresMax: number
  readonly probePauseMsMin: number
  readonly probePauseMsMax: number
}

export const GUARD_DEFAULTS: GuardSettings = {
  deadlineMs: STORE_DEADLINE_MS_DEFAULT,
  callsMax: STORE_CALLS_MAX_DEFAULT,
  waitingMax: STORE_QUEUE_MAX_DEFAULT,
  failuresMax: STORE_FAILURES_MAX,
  probePauseMsMin: STORE_PROBE_PAUSE_MS_MIN,
  probePauseMsMax: STORE_PROBE_PAUSE_MS_MAX,
}

/** In seconds, up to and including. */
const LATENCY_BUCKETS = [
  0.001,
  0.0025,
  0.005,
  0.01,
  0.025,
  0.05,
  0.1,
  0.25,
  0.5,
  1,
  2.5,
  Infinity,
] as const

export interface GuardFigures {
  readonly state: CircuitState
  /** Wall clock; undefined while it is closed. */
  readonly openedAtMs: number | undefined
  readonly waiting: number
  readonly running: number
  /** Made, whatever came of them; without probes. */
  readonly calls: number
  /** Of these, those that the store did not answer in time, or said that it could not. */
  readonly failures: number
  /** Not made: the circuit was open, or they waited too long, or the queue was full. */
  readonly refused: number
  /** How long calls took: cumulative, and in all. */
  readonly callsWithin: readonly { readonly secondsMax: number; readonly calls: number }[]
  readonly seconds: number
}

export interface GuardOptions {
  /** Of the store, for messages. */
  readonly name: string
  readonly settings: GuardSettings
  readonly probe: () => Promise<void>
  /** Wall clock. */
  readonly nowMs: () => number
  /** Called in the tick of the change. */
  readonly onChange: (state: 'open' | 'closed') => void
}

export interface CallOptions<T> {
  readonly turn: StoreTurn | undefined
  /** Of the settings where absent. */
  readonly deadlineMs?: number
  /** Takes over an answer that nobody waits for any more. */
  discard(late: T): void
}

export class Guard implements StoreGuard {
  readonly #options: GuardOptions
  readonly #circuit: Circuit
  readonly #queue: StoreQueue
  readonly #callsWithin = new Float64Array(LATENCY_BUCKETS.length)
  #calls = 0
  #failures = 0
  #refused = 0
  #seconds = 0
  /** Whoever waits for an answer of the store is told not to, by one of these. */
  readonly #giveUps = new Set<(error: KeyfoldError) => void>()
  /** Why nothing is called any more: it was locked, or closed. */
  #ended: KeyfoldError | undefined
  #probing: { readonly result: Promise<void>; readonly untilMs: number } | undefined

  constructor(options: GuardOptions) {
    this.#options = options
    const { settings } = options
    this.#queue = new StoreQueue(settings)
    this.#circuit = new Circuit({
      failuresMax: settings.failuresMax,
      pauseMsMin: settings.probePauseMsMin,
      pauseMsMax: settings.probePauseMsMax,
      nowMs: options.nowMs,
      probe: () => this.#probeOnce().then(() => 'answered' as const, outcomeOf),
      onChange: (state) => {
        if (state === 'open') this.#queue.dropAll()
        options.onChange(state)
      },
    })
  }

  get figures(): GuardFigures {
    return {
      state: this.#circuit.state,
      openedAtMs: this.#circuit.openedAtMs,
      waiting: this.#queue.waiting,
      running: this.#queue.running,
      calls: this.#calls,
      failures: this.#failures,
      refused: this.#refused,
      callsWithin: LATENCY_BUCKETS.map((secondsMax, i) => ({
        secondsMax,
        calls: this.#callsWithin[i] as number,
      })),
      seconds: this.#seconds,
    }
  }

  assertReachable(): void {
    if (this.#ended !== undefined) throw this.#ended
    if (this.#circuit.state === 'closed') return
    this.#refused++
    throw this.#openError()
  }

  /** Throws what the store throws, and KEY_STORE_UNREACHABLE. */
  call<T>(options: CallOptions<T>, call: () => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.assertReachable()
      const { turn = NOBODYS_TURN } = options
      const { deadlineMs } = this.#options.settings
      const queued: QueuedCall = {
        turn,
        start: () => {
          clearTimeout(timer)
          this.#run(queued, options, call).then(resolve, reject)
        },
        drop: (reason) => {
          clearTimeout(timer)
          this.#refused++
          reject(
            reason === 'full'
              ? this.#unreachable(`${this.#options.settings.waitingMax} calls wait for it already`)
              : (this.#ended ?? this.#openError()),
          )
        },
      }
      const timer = setTimeout(() => {
        this.#queue.withdraw(queued)
        this.#refused++
        reject(this.#unreachable(`after ${deadlineMs} ms it was not this call's turn yet`))
      }, deadlineMs)
      this.#queue.add(queued)
    })
  }

  /**
   * Throws KEY_STORE_UNREACHABLE while the circuit is open. Otherwise the store is asked, at most once in a while,
   * and its failure counts like that of a call.
   */
  async probe(): Promise<void> {
    this.assertReachable()
    const nowMs = performance.now()
    if (this.#probing === undefined || nowMs >= this.#probing.untilMs) {
      const { generation } = this.#circuit
      const result = this.#probeOnce()
      this.#probing = { result, untilMs: nowMs + STORE_PROBE_KEPT_MS }
      const settle = (outcome: Outcome): void => this.#circuit.settle(generation, outcome)
      result.then(
        () => settle('answered'),
        (error: unknown) => settle(outcomeOf(error)),
      )
    }
    await this.#probing.result
  }

  /** Whatever waits, and whatever is under way or asked from now on, ends with this error. */
  end(error: KeyfoldError): void {
    this.#ended = error
    this.#circuit.stop()
    this.#queue.dropAll()
    for (const giveUp of [...this.#giveUps]) giveUp(error)
  }

  async #run<T>(
    queued: QueuedCall,
    { discard, deadlineMs = this.#options.settings.deadlineMs }: CallOptions<T>,
    call: () => Promise<T>,
  ): Promise<T> {
    const { generation } = this.#circuit
    const startedMs = performance.now()
    this.#calls++
    let outcome: Outcome = 'answered'
    try {
      return await this.#withinDeadline(deadlineMs, call, discard)
    } catch (error) {
      outcome = outcomeOf(error)
      throw error
    } finally {
      this.#measure((performance.now() - startedMs) / 1000)
      if (outcome === 'unreachable') this.#failures++
      // First this, for it may be what ends the waiting of the others.
      this.#circuit.settle(generation, outcome)
      this.#queue.done(queued)
    }
  }

  #probeOnce(): Promise<void> {
    const { settings, probe } = this.#options
    return this.#withinDeadline(settings.deadlineMs, probe, () => undefined)
  }

  /** The answer of `call`, or an error once the deadline has passed; what it answers then goes to `discard`. */
  #withinDeadline<T>(
    deadlineMs: number,
    call: () => Promise<T>,
    discard: (late: T) => void,
  ): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      let over = false
      const end = (): void => {
        over = true
        clearTimeout(timer)
        this.#giveUps.delete(giveUp)
      }
      const giveUp = (error: KeyfoldError): void => {
        end()
        reject(error)
      }
      const timer = setTimeout(() => {
        giveUp(this.#unreachable(`it did not answer within ${deadlineMs} ms`))
      }, deadlineMs)
      this.#giveUps.add(giveUp)
      // Also of a store that throws before its first await.
      const answered = (async () => call())()
      answered.then(
        (answer) => {
          if (over) {
            discard(answer)
            return
          }
          end()
          resolve(answer)
        },
        (error: unknown) => {
          if (over) return
          end()
          reject(error as Error)
        },
      )
    })
  }

  #measure(seconds: number): void {
    for (const [i, secondsMax] of LATENCY_BUCKETS.entries()) {
      if (seconds <= secondsMax) this.#callsWithin[i] = (this.#callsWithin[i] as number) + 1
    }
    this.#seconds += seconds
  }

  #openError(): KeyfoldError {
    const since = new Date(this.#circuit.openedAtMs ?? this.#options.nowMs()).toISOString()
    return this.#unreachable(`it is not asked since ${since}, and is probed until it answers`)
  }

  #unreachable(detail: string): KeyfoldError {
    return new KeyfoldError('KEY_STORE_UNREACHABLE', `${this.#options.name}: ${detail}`)
  }
}

/** What an error says of the store that threw it. What a caller brings on themselves never closes it to others. */
function outcomeOf(error: unknown): Outcome {
  if (!(error instanceof KeyfoldError)) return 'unknown'
  return error.code === 'KEY_STORE_UNREACHABLE' ? 'unreachable' : 'answered'
}
