/**
 * A worker of the pool: each function does one slice of a batch in place and returns the bytes written. The addon
 * was loaded by the main thread first; here it finds the same key table.
 */
import { workerData } from 'piscina'

import { chooseCrypto } from '../crypto/choose.ts'
import type { PoolWorkerData, TaskRequests } from './tasks.ts'

const { implementation } = workerData as PoolWorkerData
const crypto = chooseCrypto(implementation, {
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
