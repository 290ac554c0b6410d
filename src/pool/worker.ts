/**
 * A worker of the pool: each function does one slice of a batch in place and returns the bytes written, or
 * why there are none. The addon was loaded by the main thread first; here it finds the same key table.
 */
import { chooseCrypto } from '../crypto/choose.ts'
import type { Implementation } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import type { TaskAnswer, TaskRequests } from './tasks.ts'

/** The main thread names the implementation that it chose. */
const [, , implementation] = process.argv
const crypto = chooseCrypto(implementation as Implementation, {
  memoryLock: 'warn',
  // The main thread has said it already.
  log: () => undefined,
})

export function sealBatch(request: TaskRequests['sealBatch']): TaskAnswer {
  return answer(() => crypto.sealBatch(request))
}

export function openBatch(request: TaskRequests['openBatch']): TaskAnswer {
  return answer(() => crypto.openBatch(request))
}

export function sealPackedPart(request: TaskRequests['sealPackedPart']): TaskAnswer {
  return answer(() => {
    crypto.sealPackedPart(request)
    return 0
  })
}

export function openPackedPart(request: TaskRequests['openPackedPart']): TaskAnswer {
  return answer(() => crypto.openPackedPart(request))
}

/** Nothing, but there has to be a worker for it. */
export function wake(): TaskAnswer {
  return 0
}

function answer(work: () => number): TaskAnswer {
  try {
    return work()
  } catch (error) {
    if (error instanceof KeyfoldError) return { code: error.code, message: error.message }
    throw error
  }
}
