/**
 * The contract of a key store: what generates, wraps and unwraps under the key material of KMS keys. It decides
 * whom our users have to trust, and it is kept out of the hot path by the data-key cache.
 *
 * A key store knows nothing of states, policies or caches; it is handed one version of key material and does as
 * it is told. It keeps no counters but its own.
 */
import type { KeyHandle } from '../crypto/crypto.ts'
import type {
  EncryptionAlgorithm,
  KeyAgreementAlgorithm,
  KeySpec,
  MacAlgorithm,
} from '../crypto/key-spec.ts'
import type { Signable } from '../crypto/signature.ts'

/** One version of a KMS key's material, as the catalog keeps it. */
export interface KeyMaterial {
  /** 16 bytes: the KMS key's id. */
  readonly kmsKeyId: Uint8Array
  /** From 1; never reused, not even after a restore. */
  readonly version: number
  readonly keySpec: KeySpec
  /** What createKeyMaterial returned: sealed material (local), or a reference into an HSM. */
  readonly stored: Uint8Array
  /** SPKI DER; undefined where the key spec has none. */
  readonly publicKey: Uint8Array | undefined
}

/** What the catalog shall keep of new material. */
export type NewKeyMaterial = Pick<KeyMaterial, 'stored' | 'publicKey'>

export interface ImportedKeyMaterial extends NewKeyMaterial {
  /**
   * 32 bytes that tell whether material is what was imported before, and tell nothing else of it: HKDF-SHA-512
   * (RFC 5869) of the material without salt, info "keyfold/material/v1/fingerprint".
   */
  readonly fingerprint: Uint8Array
}

export interface KeyStore {
  /** As configured and as KMS keys name it: `local`, … */
  readonly name: string
  createKeyMaterial(
    kmsKeyId: Uint8Array,
    version: number,
    keySpec: KeySpec,
  ): Promise<NewKeyMaterial>
  /**
   * Takes plaintext material over, filled with zeros on return whatever comes of it: 32 bytes (SYMMETRIC_DEFAULT), as
   * many as the hash gives to 128 (HMAC), PKCS#8 DER of the private key (RSA, ECC). Throws KEY_MATERIAL_INCORRECT.
   */
  importKeyMaterial(
    kmsKeyId: Uint8Array,
    version: number,
    keySpec: KeySpec,
    plaintext: Uint8Array,
  ): Promise<ImportedKeyMaterial>

  // SYMMETRIC_DEFAULT. Material of another key spec throws KMS_KEY_USAGE_INVALID, here and below.

  /** The store part of a wrapped key (formats.md): `key` encrypted under `material`, bound to `aad`. */
  wrapKey(material: KeyMaterial, aad: Uint8Array, key: KeyHandle): Promise<Uint8Array>
  /** As wrapKey, of the key inside a message key: re-wrapping. */
  wrapMessageKey(material: KeyMaterial, aad: Uint8Array, messageKey: KeyHandle): Promise<Uint8Array>
  /** Throws DECRYPT_FAILED. The caller owes releaseKey. */
  unwrapKey(material: KeyMaterial, aad: Uint8Array, storePart: Uint8Array): Promise<KeyHandle>
  /** Bytes of the caller's (usage 02). */
  wrapBytes(material: KeyMaterial, aad: Uint8Array, plaintext: Uint8Array): Promise<Uint8Array>
  unwrapBytes(material: KeyMaterial, aad: Uint8Array, storePart: Uint8Array): Promise<Uint8Array>

  // Private keys and HMAC keys. What needs the public key only needs no store: verify, encryptOaep in crypto/.

  /** Throws REQUEST_MALFORMED where the message has a length that the algorithm does not take. */
  sign(material: KeyMaterial, signable: Signable): Promise<Uint8Array>
  /** RSAES-OAEP. Throws DECRYPT_FAILED. */
  decryptWithPrivateKey(
    material: KeyMaterial,
    algorithm: EncryptionAlgorithm,
    ciphertext: Uint8Array,
  ): Promise<Uint8Array>
  /** `peer`: SPKI DER. Throws REQUEST_MALFORMED unless it is a point on the curve of the key spec. */
  deriveSharedSecret(
    material: KeyMaterial,
    algorithm: KeyAgreementAlgorithm,
    peer: Uint8Array,
  ): Promise<Uint8Array>
  /** Verifying is generating and isSameMac. Throws REQUEST_MALFORMED (the length). */
  generateMac(
    material: KeyMaterial,
    algorithm: MacAlgorithm,
    message: Uint8Array,
  ): Promise<Uint8Array>

  /** Wipes whatever is open of this KMS key: it was disabled, rotated or deleted. */
  forget(kmsKeyId: Uint8Array): void
  /** Wipes everything open: `keyfold lock`. Afterwards every call throws LOCKED. */
  lock(): void
  /** Throws KEY_STORE_UNREACHABLE where wrapping would fail now. For /readyz. */
  probe(): Promise<void>
  close(): Promise<void>
}
