/**
 * The contract of a key store: what generates, wraps and unwraps under the key material of KMS keys. It decides
 * whom our users have to trust, and it is kept out of the hot path by the data-key cache.
 *
 * A key store knows nothing of states, policies or caches; it is handed one version of key material and does as
 * it is told. It keeps no counters but its own.
 */
import type { KeyHandle } from '../crypto/crypto.ts'

/** One version of a KMS key's material, as the catalog keeps it. */
export interface KeyMaterial {
  /** 16 bytes: the KMS key's id. */
  readonly kmsKeyId: Uint8Array
  /** From 1; never reused, not even after a restore. */
  readonly version: number
  /** What createKeyMaterial returned: sealed material (local), or a reference into an HSM. */
  readonly stored: Uint8Array
}

export interface KeyStore {
  /** As configured and as KMS keys name it: `local`, … */
  readonly name: string
  /** Makes key material and returns what the catalog shall keep of it. */
  createKeyMaterial(kmsKeyId: Uint8Array, version: number): Promise<Uint8Array>
  /** The store part of a wrapped key (formats.md): `key` encrypted under `material`, bound to `aad`. */
  wrapKey(material: KeyMaterial, aad: Uint8Array, key: KeyHandle): Promise<Uint8Array>
  /** As wrapKey, of the key inside a message key: re-wrapping. */
  wrapMessageKey(material: KeyMaterial, aad: Uint8Array, messageKey: KeyHandle): Promise<Uint8Array>
  /** Throws DECRYPT_FAILED. The caller owes releaseKey. */
  unwrapKey(material: KeyMaterial, aad: Uint8Array, storePart: Uint8Array): Promise<KeyHandle>
  /** Bytes of the caller's (usage 02). */
  wrapBytes(material: KeyMaterial, aad: Uint8Array, plaintext: Uint8Array): Promise<Uint8Array>
  unwrapBytes(material: KeyMaterial, aad: Uint8Array, storePart: Uint8Array): Promise<Uint8Array>
  /** Wipes whatever is open of this KMS key: it was disabled, rotated or deleted. */
  forget(kmsKeyId: Uint8Array): void
  /** Wipes everything open: `keyfold lock`. Afterwards every call throws LOCKED. */
  lock(): void
  /** Throws KEY_STORE_UNREACHABLE where wrapping would fail now. For /readyz. */
  probe(): Promise<void>
  close(): Promise<void>
}
