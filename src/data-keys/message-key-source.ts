/**
 * Where the data-key cache gets message keys from: a key store of this process, or a server. A source keeps nothing; what
 * it hands out is in the key table already, and whoever asked owes releaseKey.
 */
import type { KeyHandle, Suite } from '../crypto/crypto.ts'
import type { StoreTurn } from '../key-stores/key-store.ts'
import type { KmsKey } from '../kms/kms-key.ts'
import type { CanonicalContext } from './lease.ts'

export interface CreatedMessageKey {
  /** May seal. */
  readonly key: KeyHandle
  readonly keyEntry: Uint8Array
  readonly materialVersion: number
}

export interface OpenedMessageKey {
  /** Opens, and its commitment is the one of the key entry. */
  readonly key: KeyHandle
  readonly materialVersion: number
}

export interface MessageKeySource {
  /** Calls to the key store, or keys asked of the server. */
  readonly counters: { wraps: number; unwraps: number }
  /** Throws KEY_STORE_UNREACHABLE where it is known that asking would be in vain. */
  assertReachable(kmsKey: KmsKey): void
  createMessageKey(request: {
    readonly kmsKey: KmsKey
    readonly suite: Suite
    readonly context: CanonicalContext
    readonly turn: StoreTurn
  }): Promise<CreatedMessageKey>
  /** Throws DECRYPT_FAILED. `keyEntry` is the source's to keep. */
  openMessageKey(request: {
    readonly kmsKey: KmsKey
    readonly suite: Suite
    readonly keyEntry: Uint8Array
    readonly context: CanonicalContext
    readonly turn: StoreTurn
  }): Promise<OpenedMessageKey>
}
