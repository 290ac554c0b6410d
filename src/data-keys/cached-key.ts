/**
 * A key of the cache with its leases. It stays in the key table while anyone holds a lease, also after it was
 * evicted; the last of the two ends it. Nothing else releases the handle.
 */
import type { Crypto, KeyHandle } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'

export class CachedKey {
  readonly handle: KeyHandle
  readonly kmsKeyId: string
  /** Name of the key store that holds the KMS key. */
  readonly keyStore: string
  /** Of the key material that wraps it. */
  readonly materialVersion: number
  /** The KMS key's epoch when this key was made: a later one ends it. */
  readonly epoch: number
  readonly bornAtMs: number
  readonly #crypto: Crypto
  #leases = 0
  #evicted = false
  leasesGiven = 0

  constructor(
    crypto: Crypto,
    key: {
      readonly handle: KeyHandle
      readonly kmsKeyId: string
      readonly keyStore: string
      readonly materialVersion: number
      readonly epoch: number
      readonly bornAtMs: number
    },
  ) {
    this.#crypto = crypto
    this.handle = key.handle
    this.kmsKeyId = key.kmsKeyId
    this.keyStore = key.keyStore
    this.materialVersion = key.materialVersion
    this.epoch = key.epoch
    this.bornAtMs = key.bornAtMs
  }

  /** While its KMS key is what it was, and until its age. */
  isAlive(kmsKey: { readonly epoch: number }, nowMs: number, ageMsMax: number): boolean {
    return this.epoch === kmsKey.epoch && nowMs - this.bornAtMs < ageMsMax
  }

  lease(): void {
    this.#leases++
    this.leasesGiven++
  }

  giveBack(): void {
    if (--this.#leases === 0 && this.#evicted) this.#wipe()
  }

  evict(): void {
    if (this.#evicted) return
    this.#evicted = true
    if (this.#leases === 0) this.#wipe()
  }

  toJSON(): string {
    return `[CachedKey of ${this.kmsKeyId}]`
  }

  #wipe(): void {
    try {
      this.#crypto.releaseKey(this.handle)
    } catch (error) {
      // wipeAllKeys came first, which is what was wanted.
      if (!(error instanceof KeyfoldError && error.code === 'KEY_HANDLE_STALE')) throw error
    }
  }
}

/** A message key that seals, with what is left of its allowance. */
export class SealKey extends CachedKey {
  readonly keyEntry: Uint8Array
  /** Whose batch it was made for. */
  readonly principalArn: string
  readonly #messagesMax: number
  readonly #bytesMax: number
  #messagesLeft: number
  #bytesLeft: number

  constructor(
    crypto: Crypto,
    key: ConstructorParameters<typeof CachedKey>[1],
    limits: {
      readonly keyEntry: Uint8Array
      readonly principalArn: string
      readonly messagesMax: number
      readonly bytesMax: number
    },
  ) {
    super(crypto, key)
    this.keyEntry = limits.keyEntry
    this.principalArn = limits.principalArn
    this.#messagesMax = limits.messagesMax
    this.#bytesMax = limits.bytesMax
    this.#messagesLeft = limits.messagesMax
    this.#bytesLeft = limits.bytesMax
  }

  /** All of it or nothing, and never given back: a crash wastes allowance, it cannot overrun. */
  reserve(messages: number, bytes: number): boolean {
    if (messages > this.#messagesLeft || bytes > this.#bytesLeft) return false
    this.#messagesLeft -= messages
    this.#bytesLeft -= bytes
    return true
  }

  /** Whether this share of messages or bytes is used up. */
  isBeyond(share: number): boolean {
    // Not as what is left: 1 - 0.8 is a little less than 0.2.
    return (
      this.#messagesMax - this.#messagesLeft >= this.#messagesMax * share ||
      this.#bytesMax - this.#bytesLeft >= this.#bytesMax * share
    )
  }
}

/** Keys of both sides that left the cache. */
export class Evictions {
  keys = 0
  /** Those that were leased once at most. */
  keysUsedOnce = 0

  evict(key: CachedKey): void {
    this.keys++
    if (key.leasesGiven <= 1) this.keysUsedOnce++
    key.evict()
  }
}
