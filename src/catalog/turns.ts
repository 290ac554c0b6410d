/**
 * One after the other within this process: what would wait for one lock in the database waits here, and leaves the
 * connections to others. However slow the database is, whoever waits gets their turn while changes are made at all; once
 * none is any more, and where too many wait already, they are told so.
 */
import { KeyfoldError } from '../errors.ts'
import { CATALOG_CHANGES_WAITING_MAX, CATALOG_STATEMENT_MS_MAX } from '../limits.ts'

export class Turns {
  readonly #clockMs: () => number
  #last: Promise<void> = Promise.resolve()
  #waiting = 0
  /** The end of the last work to which the database did answer. */
  #answeredAtMs = -Infinity

  constructor(clockMs = (): number => performance.now()) {
    this.#clockMs = clockMs
  }

  /** Errors: CATALOG_UNAVAILABLE, before `work` began; and whatever it throws. */
  async take<T>(work: () => Promise<T>): Promise<T> {
    if (this.#waiting >= CATALOG_CHANGES_WAITING_MAX) {
      throw new KeyfoldError('CATALOG_UNAVAILABLE', `${this.#waiting} changes wait already`)
    }
    let giveBack = (): void => undefined
    const before = this.#last
    this.#last = new Promise((resolve) => {
      giveBack = resolve
    })
    const startedMs = this.#clockMs()
    this.#waiting++
    await before
    this.#waiting--
    try {
      const aliveMs = Math.max(startedMs, this.#answeredAtMs)
      if (this.#clockMs() - aliveMs > CATALOG_STATEMENT_MS_MAX) {
        throw new KeyfoldError('CATALOG_UNAVAILABLE', 'no change before this one was made')
      }
      return await this.#watched(work)
    } finally {
      giveBack()
    }
  }

  async #watched<T>(work: () => Promise<T>): Promise<T> {
    let answered = true
    try {
      return await work()
    } catch (error) {
      answered = !(error instanceof KeyfoldError && error.code === 'CATALOG_UNAVAILABLE')
      throw error
    } finally {
      if (answered) this.#answeredAtMs = this.#clockMs()
    }
  }
}
