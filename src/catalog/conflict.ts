/**
 * Transactions that lost against another one and may be tried again: nothing of them happened. Each database says so in
 * its own way; its dialect throws one error for all of them.
 */
import { setTimeout as sleep } from 'node:timers/promises'

import { KeyfoldError } from '../errors.ts'
import { CATALOG_ATTEMPTS_MAX, CATALOG_RETRY_MS } from '../limits.ts'

export class ConflictError extends Error {
  override readonly name = 'ConflictError'
}

/** Errors: CATALOG_UNAVAILABLE where others were faster each time, and whatever `work` throws besides. */
export async function retryingConflicts<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof ConflictError)) throw error
      if (attempt >= CATALOG_ATTEMPTS_MAX) {
        throw new KeyfoldError(
          'CATALOG_UNAVAILABLE',
          `other changes came first ${attempt} times`,
          error,
        )
      }
      // Those who collided do not meet again in the same order.
      await sleep(CATALOG_RETRY_MS * attempt * (0.5 + Math.random()))
    }
  }
}
