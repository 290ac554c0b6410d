/**
 * A KMS key as everyone outside `kms/` sees it: one immutable record. A change makes a new record with a higher
 * epoch, so whoever noted the epoch before an await can tell afterwards whether the ground has moved.
 */
import { KeyfoldError } from '../errors.ts'
import type { KeyMaterial } from '../key-stores/key-store.ts'

/** AWS KMS's key states, as far as this version has them. */
export type KeyState = 'Enabled' | 'Disabled' | 'PendingDeletion'

export interface KmsKey {
  /** A UUID, or `mrk-` and 32 hex digits. */
  readonly id: string
  /** The same as 16 bytes: what ciphertexts carry. */
  readonly idBytes: Uint8Array
  /** `arn:aws:kms:REGION:ACCOUNT:key/ID` */
  readonly arn: string
  readonly state: KeyState
  readonly description: string
  readonly createdAtMs: number
  /** Name of the key store that holds its material. */
  readonly keyStore: string
  /** The material that wraps; older ones still unwrap. */
  readonly currentVersion: number
  readonly materials: ReadonlyMap<number, KeyMaterial>
  readonly tags: ReadonlyMap<string, string>
  /** Grows with every change of the key's state or material, over all keys of this process. */
  readonly epoch: number
}

/** What a caller may be allowed to do: AWS's action names, and our own where AWS has none. */
export type Action =
  | `kms:${string}`
  | 'keyfold:ReleaseMessageKey'
  | 'keyfold:ManageTokens'
  | 'keyfold:Lock'
  | 'keyfold:ReadMetrics'

/** Who sent a request, and what the token that says so allows. */
export interface Principal {
  /** `arn:aws:iam::ACCOUNT:user/NAME` or `…:role/NAME` or `…:root`. */
  readonly arn: string
  /** Token id, for the log and for revocation; never the token. */
  readonly tokenId: string
  /** Patterns with `*`, against actions. */
  readonly actions: readonly string[]
  /** `*`, key ids, key ARNs or patterns of ARNs with `*`. */
  readonly keys: readonly string[]
  readonly expiresAtMs: number | undefined
}

/**
 * The read side of the key registry, from memory. `peek` answers at once or not at all; `resolve` asks the
 * catalog on a miss. References are a key id, key ARN, alias (`alias/NAME`) or alias ARN.
 *
 * Errors of resolve: KMS_KEY_NOT_FOUND.
 */
export interface KmsKeyRegistry {
  peek(reference: string): KmsKey | undefined
  resolve(reference: string): Promise<KmsKey>
  /** By the 16 bytes that a ciphertext carries. `undefined` where memory does not hold it. */
  peekById(idBytes: Uint8Array): KmsKey | undefined
  resolveById(idBytes: Uint8Array): Promise<KmsKey>
  /** The latest record of a key that was seen before; undefined where it left memory or is gone. */
  current(id: string): KmsKey | undefined
  /** Called in the same tick in which a change becomes visible. */
  onChange(listener: (kmsKeyId: string) => void): void
}

/**
 * Throws ACCESS_DENIED unless the principal may; called once per batch and key. It is asked before existence or
 * state of a key is told, so that the unauthorised see one answer for absent, disabled and forbidden keys.
 */
export type Authorize = (principal: Principal, action: Action, kmsKey: KmsKey) => void

/** Throws what AWS KMS answers where the state forbids an operation. */
export function assertState(state: KeyState, allowed: readonly KeyState[]): void {
  if (allowed.includes(state)) return
  throw state === 'Disabled'
    ? new KeyfoldError('KMS_KEY_DISABLED')
    : new KeyfoldError('KMS_KEY_STATE_INVALID', `it is ${state}`)
}
