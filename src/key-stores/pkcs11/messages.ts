/**
 * What travels between the main thread and the thread of a PKCS#11 module. Keys, plaintexts and PINs are in none of
 * it: they lie in a region of shared memory of one call, which the main thread fills with zeros once it is over.
 *
 *     region = aad ‖ input ‖ room for the output
 */
import type { Hash } from '../../crypto/signing-scheme.ts'
import type { KeySpec, MacAlgorithm } from '../../crypto/key-spec.ts'
import type { ErrorCode } from '../../errors.ts'
import type { IvMode } from '../../format/token-reference.ts'
import type { Fault } from '../store-fault.ts'
import type { CallState } from './call-state.ts'

/** What a thread is started with. */
export interface ModuleStart {
  /** Of the shared library. */
  readonly path: string
  /** How many threads hang in the module: one word that all of them see. */
  readonly hanging: SharedArrayBuffer
  /** A thread before this one ended without C_Finalize: its sessions are left, and maybe a token that is gone. */
  readonly isStale: boolean
}

export type TokenName =
  { readonly label: string } | { readonly serial: string } | { readonly slot: number }

export interface TokenStart {
  readonly token: TokenName
  /** What keys of SYMMETRIC_DEFAULT will wrap with. */
  readonly mechanism: number
  readonly random: 'host' | 'token'
  readonly calls: 'sync' | 'async'
  readonly sessionsMax: number
}

export interface TokenKey {
  /** CKA_ID, 28 bytes. */
  readonly id: Uint8Array
  readonly keySpec: KeySpec
}

export type KeyOperation =
  /** Output: SPKI DER, or nothing. A key that wraps is tried out before anybody hears of it. */
  | {
      readonly kind: 'create'
      readonly wrapping: { readonly mechanism: number; readonly ivMode: IvMode } | undefined
    }
  /** That it is gone already is well. */
  | { readonly kind: 'destroy' }
  /** Output: the store part. */
  | { readonly kind: 'encrypt'; readonly mechanism: number; readonly ivMode: IvMode }
  /** Input: the store part. */
  | { readonly kind: 'decrypt'; readonly mechanism: number }
  /** Input: a digest. ECDSA gives r ‖ s. */
  | {
      readonly kind: 'sign'
      readonly scheme: 'pkcs1' | 'pss' | 'ecdsa'
      readonly hash: Hash
    }
  | { readonly kind: 'decryptOaep'; readonly hash: 'sha1' | 'sha256' }
  /** Input: an uncompressed point. Output: the x coordinate. */
  | { readonly kind: 'derive' }
  | { readonly kind: 'mac'; readonly algorithm: MacAlgorithm }

export interface KeyCall {
  readonly key: TokenKey
  readonly operation: KeyOperation
  readonly region: SharedArrayBuffer
  readonly aadBytes: number
  readonly inputBytes: number
}

interface TokenCall<Kind> {
  readonly kind: Kind
  readonly call: number
  readonly state: CallState
  readonly token: number
}

/** `token` numbers the opened tokens of a module, `call` the calls that await an answer. */
export type ToWorker =
  | {
      readonly kind: 'open'
      readonly call: number
      readonly state: CallState
      readonly token: number
      readonly start: TokenStart
    }
  /** It was open in a thread before this one. */
  | { readonly kind: 'reopen'; readonly token: number; readonly start: TokenStart }
  | {
      readonly kind: 'use'
      readonly call: number
      readonly state: CallState
      readonly token: number
      readonly use: KeyCall
    }
  | TokenCall<'probe'>
  /** Fills the region. */
  | (TokenCall<'random'> & { readonly region: SharedArrayBuffer })
  | { readonly kind: 'forget'; readonly token: number; readonly kmsKeyId: Uint8Array }
  | TokenCall<'close'>
  /** No token is open any more. */
  | { readonly kind: 'end' }
  /** UTF-8; the worker fills it with zeros. undefined: it could not be read. */
  | { readonly kind: 'pin'; readonly token: number; readonly region: SharedArrayBuffer | undefined }

export type FromWorker =
  | { readonly kind: 'opened'; readonly call: number; readonly keySpecs: readonly KeySpec[] }
  | { readonly kind: 'done'; readonly call: number; readonly outputBytes: number }
  | {
      readonly kind: 'failed'
      readonly call: number
      readonly code: ErrorCode
      readonly detail: string | undefined
      readonly fault: Fault | undefined
      /** Of INTERNAL: what our log is told, and callers are not. */
      readonly cause: string | undefined
    }
  | { readonly kind: 'pinWanted'; readonly token: number }
