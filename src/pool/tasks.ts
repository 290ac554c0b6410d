/**
 * What travels between the main thread and the workers: an operation of Crypto and its request. Inputs and outputs
 * lie on shared memory and keys are handles into the table that all threads of the process share, so nothing of
 * size or secret is copied.
 */
import type { Crypto } from '../crypto/crypto.ts'
import type { ErrorCode } from '../errors.ts'

export interface TaskRequests {
  readonly sealBatch: Parameters<Crypto['sealBatch']>[0]
  readonly openBatch: Parameters<Crypto['openBatch']>[0]
  readonly sealPackedPart: Parameters<Crypto['sealPackedPart']>[0]
  readonly openPackedPart: Parameters<Crypto['openPackedPart']>[0]
}

export type TaskName = keyof TaskRequests

/** What an operation threw, as a value: an error that crosses threads loses its code. */
export interface TaskFailure {
  readonly code: ErrorCode
  readonly message: string
}

export type TaskAnswer = number | TaskFailure
