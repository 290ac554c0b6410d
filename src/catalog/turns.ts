/**
 * One after the other within this process: what would wait for one lock in the database waits here, and leaves the
 * connections to others. Whoever has waited for too long is told so.
 */
import { KeyfoldError } from '../errors.ts'
import { CATALOG_STATEMENT_MS_MAX } from '../limits.ts'

export class Turns {
  #last: Promise<void> = Promise.resolve()

  /** Errors: CATALOG_UNAVAILABLE, before `work` began. */
  async take<T>(work: () => Promise<T>): Promise<T> {
    let giveBack = (): void => undefined
    const before = this.#last
    this.#last = new Promise((resolve) => {
      giveBack = resolve
    })
    const startedMs = performance.now()
    await before
    try {
      if (performance.now() - startedMs > CATALOG_STATEMENT_MS_MAX) {
        throw new KeyfoldError('CATALOG_UNAVAILABLE', 'other changes took too long')
      }
      return await work()
    } finally {
      giveBack()
    }
  }
}
