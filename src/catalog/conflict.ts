/**
 * Transactions that lost against another one and may be tried again: nothing of them happened. Each database says so in
 * its own way; its dialect throws one error for all of them.
 */
import { setTimeout as sleep } from 'node:timers/promises'

import { KeyfoldError } from '../errors.ts'
import { CATALOG_RETRY_MS, CATALOG_RETRY_MS_MAX, CATALOG_RETRYING_MS_MAX } from '../limits.ts'

export class ConflictError extends Error {
  override readonly name = 'ConflictError'
}

/**
 * How long is a matter of time and not of attempts: on a busy machine eight come and go while one other transaction ends.
 * Errors: CATALOG_UNAVAILABLE where others were faster each time, and whatever `work` throws besides.
 */
export async function retryingConflicts<T>(work: () => Promise<T>): Promise<T> {
  const startedMs = performance.now()
  for (let attempt = 0; ; attempt++) {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof ConflictError)) throw error
      if (performance.now() - startedMs > CATALOG_RETRYING_MS_MAX) {
        throw new KeyfoldError('CATALOG_UNAVAILABLE', 'other changes came first each time', error)
      }
      // Those who collided do not meet again in the same order.
      const waitMs = Math.min(CATALOG_RETRY_MS * 2 ** attempt, CATALOG_RETRY_MS_MAX)
      await sleep(waitMs * (0.5 + Math.random()))
    }
  }
}
