/**
 * What the data-key cache hands out. A lease keeps its key in the key table until it is given back, also when
 * the cache evicts the key meanwhile; whoever holds one owes `release`, once.
 */
import type { KeyHandle, Suite } from '../crypto/crypto.ts'
import type { KmsKey } from '../kms/kms-key.ts'

/** An encryption context in the two spellings that anyone needs. */
export interface CanonicalContext {
  /** formats.md, Encryption context. */
  readonly bytes: Uint8Array
  /** SHA-256 of `bytes`. */
  readonly hash: Uint8Array
}

/** Room in one message key for a whole batch, reserved already and never given back. */
export interface SealLease {
  readonly key: KeyHandle
  readonly suite: Suite
  /** commitment ‖ u16 ‖ wrapped key, as messages carry it. */
  readonly keyEntry: Uint8Array
  readonly kmsKey: KmsKey
  /** Of the key material that wraps it. */
  readonly materialVersion: number
  release(): void
}

/** A message key that opens. */
export interface OpenLease {
  readonly key: KeyHandle
  readonly kmsKey: KmsKey
  /** Of the key material that wraps it. */
  readonly materialVersion: number
  release(): void
}

/** A message key that seals, for a principal whose miss budget pays where it has to be made. */
export interface IssueRequest {
  readonly kmsKey: KmsKey
  readonly suite: Suite
  readonly context: CanonicalContext
  readonly principalArn: string
}

/** Room for a batch. */
export interface SealLeaseRequest extends IssueRequest {
  readonly messages: number
  readonly bytes: number
}

export interface OpenLeaseRequest {
  readonly kmsKey: KmsKey
  readonly suite: Suite
  readonly keyEntry: Uint8Array
  readonly context: CanonicalContext
  /** NamedKeyEntry.cacheId. */
  readonly cacheId: string
  readonly principalArn: string
}

/**
 * The data-key cache. Both methods answer at once from memory, or with a promise on a miss; a hundred misses for
 * one key are one call to the key store, and failures are not cached.
 */
export interface DataKeys {
  /** Errors: LIMIT_EXCEEDED (the batch is larger than a whole allowance), MISS_BUDGET_SPENT, KEY_STORE_UNREACHABLE,
   * KEY_TABLE_FULL, KMS_KEY_DISABLED. */
  leaseSeal(request: SealLeaseRequest): SealLease | Promise<SealLease>
  /** Errors: DECRYPT_FAILED (also for a key entry whose wrapped key is not of usage 01), MISS_BUDGET_SPENT,
   * KEY_STORE_UNREACHABLE, KEY_TABLE_FULL, KMS_KEY_DISABLED. The caller has authorised `kmsKey`, and it is the one named in the wrapped key. */
  leaseOpen(request: OpenLeaseRequest): OpenLease | Promise<OpenLease>
  /**
   * A message key that seals and that no cache keeps: it is about to be handed to somebody, who alone uses it. Errors as
   * leaseSeal's.
   */
  issueSeal(request: IssueRequest): Promise<SealLease>
  /** The KMS key that the cached key entry of this cacheId names; undefined where none is cached. */
  kmsKeyIdOf(cacheId: string): string | undefined
  /** Nothing of this KMS key is leased again; slots are wiped once their last lease is back. */
  purge(kmsKeyId: string): void
  purgeAll(): void
}
