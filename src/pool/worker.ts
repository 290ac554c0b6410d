/**
 * A worker of the pool: each function does one slice of a batch in place and returns the bytes written. The addon
 * was loaded by the main thread first; here it finds the same key table.
 */
import { chooseCrypto } from '../crypto/choose.ts'
import type { Implementation } from '../crypto/crypto.ts'
import type { TaskRequests } from './tasks.ts'

/** The main thread names the implementation that it chose. */
const [, , implementation] = process.argv
const crypto = chooseCrypto(implementation as Implementation, {
  memoryLock: 'warn',
  // The main thread has said it already.
  log: () => undefined,
})

export function sealBatch(request: TaskRequests['sealBatch']): number {
  return crypto.sealBatch(request)
}

export function openBatch(request: TaskRequests['openBatch']): number {
  return crypto.openBatch(request)
}

export function sealPackedPart(request: TaskRequests['sealPackedPart']): number {
  crypto.sealPackedPart(request)
  return 0
}

export function openPackedPart(request: TaskRequests['openPackedPart']): number {
  return crypto.openPackedPart(request)
}
