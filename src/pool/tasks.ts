/**
 * What travels between the main thread and the workers: an operation of Crypto and its request. Inputs and outputs
 * lie on shared memory and keys are handles into the table that all threads of the process share, so nothing of
 * size or secret is copied.
 */
import type { Crypto } from '../crypto/crypto.ts'

export interface TaskRequests {
  readonly sealBatch: Parameters<Crypto['sealBatch']>[0]
  readonly openBatch: Parameters<Crypto['openBatch']>[0]
  readonly sealPackedPart: Parameters<Crypto['sealPackedPart']>[0]
  readonly openPackedPart: Parameters<Crypto['openPackedPart']>[0]
}

export type TaskName = keyof TaskRequests
