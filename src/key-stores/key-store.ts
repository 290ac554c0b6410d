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
  KeyUsage,
  MacAlgorithm,
} from '../crypto/key-spec.ts'
import type { Signable } from '../crypto/signature.ts'
import type { WrappingSuite } from '../format/wrapped-key.ts'

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

/** What a key store is and can do. Whoever asks for more is refused before the store is asked. */
export interface KeyStoreTraits {
  /** Origin of the KMS keys that live in it (AWS KMS, "Origin"). */
  readonly origin: 'AWS_KMS' | 'AWS_CLOUDHSM' | 'EXTERNAL_KEY_STORE'
  readonly keySpecs: readonly KeySpec[]
  readonly importsMaterial: boolean
  /** Whether a KMS key in it gets new versions of material here; otherwise rotation is the other side's affair. */
  readonly rotates: boolean
  /** Asked for the same version again it finds what an attempt before left, and takes that; else it makes another. */
  readonly adoptsMaterial?: boolean
  readonly wrappingSuite: WrappingSuite
  /**
   * Wraps that one version of material is good for, over all nodes, where each draws a random 96-bit IV (NIST SP
   * 800-38D §8.3); undefined where that does not bound it.
   */
  readonly wrapsMax: number | undefined
}

/**
 * On whose behalf a call is made, and how urgent it is: a store of another system takes so many calls at once, and the
 * others wait for their turn.
 */
export interface StoreTurn {
  readonly principalArn: string
  /**
   * cold: everyone who seals under a key waits for it. refresh: the key in use is about to run out. Read when a place
   * becomes free, for a refresh that took too long is waited for as well.
   */
  readonly urgency: 'cold' | 'refresh' | 'other'
}

/** What stands between us and a store of another system (guard.ts). */
export interface StoreGuard {
  /** Throws KEY_STORE_UNREACHABLE while calls are refused without asking the store. */
  assertReachable(): void
}

export interface KeyStore {
  /** As configured and as KMS keys name it: `local`, … */
  readonly name: string
  readonly traits: KeyStoreTraits
  /** undefined: the store is in this process, and a call to it costs what it computes. */
  readonly guard?: StoreGuard | undefined
  /**
   * `externalKeyId` names a key that the other side has already (EXTERNAL_KEY_STORE, and remote stores); it is checked
   * there. Throws OPERATION_UNSUPPORTED for a key spec beyond the traits. `keyUsage`: for stores whose keys are made
   * for one use; needed where they make a key of a spec that has several. `turn`: for stores that make it here.
   */
  createKeyMaterial(
    kmsKeyId: Uint8Array,
    version: number,
    keySpec: KeySpec,
    externalKeyId?: string,
    keyUsage?: KeyUsage,
    turn?: StoreTurn,
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
  wrapKey(
    material: KeyMaterial,
    aad: Uint8Array,
    key: KeyHandle,
    turn?: StoreTurn,
  ): Promise<Uint8Array>
  /** As wrapKey, of the key inside a message key: re-wrapping. */
  wrapMessageKey(
    material: KeyMaterial,
    aad: Uint8Array,
    messageKey: KeyHandle,
    turn?: StoreTurn,
  ): Promise<Uint8Array>
  /** Throws DECRYPT_FAILED. The caller owes releaseKey. */
  unwrapKey(
    material: KeyMaterial,
    aad: Uint8Array,
    storePart: Uint8Array,
    turn?: StoreTurn,
  ): Promise<KeyHandle>
  /** Bytes of the caller's (usage 02). */
  wrapBytes(
    material: KeyMaterial,
    aad: Uint8Array,
    plaintext: Uint8Array,
    turn?: StoreTurn,
  ): Promise<Uint8Array>
  unwrapBytes(
    material: KeyMaterial,
    aad: Uint8Array,
    storePart: Uint8Array,
    turn?: StoreTurn,
  ): Promise<Uint8Array>

  // Private keys and HMAC keys. What needs the public key only needs no store: verify, encryptOaep in crypto/.

  /** Throws REQUEST_MALFORMED where the message has a length that the algorithm does not take. */
  sign(material: KeyMaterial, signable: Signable, turn?: StoreTurn): Promise<Uint8Array>
  /** RSAES-OAEP. Throws DECRYPT_FAILED. */
  decryptWithPrivateKey(
    material: KeyMaterial,
    algorithm: EncryptionAlgorithm,
    ciphertext: Uint8Array,
    turn?: StoreTurn,
  ): Promise<Uint8Array>
  /** `peer`: SPKI DER. Throws REQUEST_MALFORMED unless it is a point on the curve of the key spec. */
  deriveSharedSecret(
    material: KeyMaterial,
    algorithm: KeyAgreementAlgorithm,
    peer: Uint8Array,
    turn?: StoreTurn,
  ): Promise<Uint8Array>
  /** Verifying is generating and isSameMac. Throws REQUEST_MALFORMED (the length). */
  generateMac(
    material: KeyMaterial,
    algorithm: MacAlgorithm,
    message: Uint8Array,
    turn?: StoreTurn,
  ): Promise<Uint8Array>

  /** As many bytes of the store's own random source; absent where a store has none of its own. */
  generateRandom?(bytes: number, turn?: StoreTurn): Promise<Uint8Array>

  /**
   * Throws ROOT_KEY_INVALID where the public key is not the one of the private key: the catalog keeps it unsealed, and
   * what is done with it alone asks first. Absent where the private key is elsewhere.
   */
  assertPublicKey?(material: KeyMaterial): void

  /**
   * The KMS key was deleted, and with it what the catalog had of this version. A store that made the material elsewhere
   * (an HSM, a remote KMS) destroys it there; asked again it succeeds. The local store does nothing: `stored` was the
   * material. Never asked of a key that the other side had before (`externalKeyId`), which outlives its KMS key.
   */
  destroyKeyMaterial(material: KeyMaterial): Promise<void>
  /** Wipes whatever is open of this KMS key: it was disabled, rotated or deleted. */
  forget(kmsKeyId: Uint8Array): void
  /** Wipes everything open: `keyfold lock`. Afterwards every call throws LOCKED. */
  lock(): void
  /** Throws KEY_STORE_UNREACHABLE where wrapping would fail now. For /readyz. */
  probe(): Promise<void>
  close(): Promise<void>
}
