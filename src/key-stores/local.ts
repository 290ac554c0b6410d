/**
 * The local key store: key material encrypted at rest under a root key (src/format/key-material.ts) and opened on
 * first use: symmetric keys into a bounded part of the key table, private and HMAC keys into a bounded number of
 * KeyObjects. Only the key derived from the root key is always resident.
 */
import { hkdfSync, randomBytes, type KeyObject } from 'node:crypto'
import { LRUCache } from 'lru-cache'

import type { Crypto, KeyHandle } from '../crypto/crypto.ts'
import { deriveSharedSecret } from '../crypto/key-agreement.ts'
import { generateKeyPair, isAsymmetric } from '../crypto/key-pair.ts'
import {
  KEY_SPECS,
  type EncryptionAlgorithm,
  type KeyAgreementAlgorithm,
  type KeySpec,
  type MacAlgorithm,
} from '../crypto/key-spec.ts'
import { generateMac, HMAC_KEY_BYTES, isHmac } from '../crypto/mac.ts'
import { decryptOaep } from '../crypto/rsa-oaep.ts'
import { sign, type Signable } from '../crypto/signature.ts'
import { KeyfoldError } from '../errors.ts'
import {
  decodeSealedKeyMaterial,
  encodeKeyMaterialAad,
  encodeSealedKeyMaterial,
} from '../format/key-material.ts'
import { WRAPPING_SUITES } from '../format/wrapped-key.ts'
import { KEY_MATERIAL_OPEN_MAX, KEY_OBJECT_AGE_MS_MAX, KEY_OBJECTS_OPEN_MAX } from '../limits.ts'
import { checkImported, openKeyObject } from './key-objects.ts'
import type {
  ImportedKeyMaterial,
  KeyMaterial,
  KeyStore,
  KeyStoreTraits,
  NewKeyMaterial,
} from './key-store.ts'

export const LOCAL_KEY_STORE = 'local'
const ROOT_LABEL = 'keyfold/root/v1/material'
const FINGERPRINT_LABEL = 'keyfold/material/v1/fingerprint'
const FINGERPRINT_BYTES = 32
const ROOT_VERSION = 1

/** What the AAD of sealed material says: it never serves another key, version or key spec. */
type MaterialName = Pick<KeyMaterial, 'kmsKeyId' | 'version' | 'keySpec'>

/**
 * Every method runs to its end without an await once it holds a handle, so an eviction never takes a key from
 * under a call. A KeyObject lives for as long as a call holds it.
 */
export class LocalKeyStore implements KeyStore {
  readonly name = LOCAL_KEY_STORE
  readonly traits: KeyStoreTraits = {
    origin: 'AWS_KMS',
    keySpecs: Object.keys(KEY_SPECS) as KeySpec[],
    importsMaterial: true,
    rotates: true,
    wrappingSuite: WRAPPING_SUITES.xaes,
    wrapsMax: undefined,
  }
  readonly #crypto: Crypto
  /** HKDF of the root key; undefined after lock(). */
  #sealingKey: KeyHandle | undefined
  /** By key id and version. */
  readonly #open: LRUCache<string, KeyHandle>
  /** By key id, version and key spec. */
  readonly #keyObjects: LRUCache<string, KeyObject>

  /** Derives from the root key what it needs; the handle stays the caller's. */
  constructor(crypto: Crypto, root: KeyHandle) {
    this.#crypto = crypto
    this.#sealingKey = crypto.deriveKey(root, ROOT_LABEL)
    this.#open = new LRUCache<string, KeyHandle>({
      max: KEY_MATERIAL_OPEN_MAX,
      dispose: (handle) => this.#release(handle),
    })
    this.#keyObjects = new LRUCache<string, KeyObject>({
      max: KEY_OBJECTS_OPEN_MAX,
      ttl: KEY_OBJECT_AGE_MS_MAX,
      // By default an old entry stays in memory until somebody asks for it.
      ttlAutopurge: true,
    })
  }

  async createKeyMaterial(
    kmsKeyId: Uint8Array,
    version: number,
    keySpec: KeySpec,
  ): Promise<NewKeyMaterial> {
    const name = { kmsKeyId, version, keySpec }
    // Asked first: an RSA key is seconds of work.
    this.#root()
    if (isAsymmetric(keySpec)) {
      const { privateKey, publicKey } = await generateKeyPair(keySpec)
      return { stored: this.#sealBytes(name, privateKey), publicKey }
    }
    if (isHmac(keySpec)) {
      const stored = this.#sealBytes(name, randomBytes(HMAC_KEY_BYTES[keySpec]))
      return { stored, publicKey: undefined }
    }
    const key = this.#crypto.generateKey()
    try {
      const seal = (aad: Uint8Array) => this.#crypto.wrapKey(this.#root(), aad, key)
      return { stored: sealMaterial(name, seal), publicKey: undefined }
    } finally {
      this.#crypto.releaseKey(key)
    }
  }

  async importKeyMaterial(
    kmsKeyId: Uint8Array,
    version: number,
    keySpec: KeySpec,
    plaintext: Uint8Array,
  ): Promise<ImportedKeyMaterial> {
    try {
      const { material, publicKey } = checkImported(keySpec, plaintext)
      const fingerprint = fingerprintOf(material)
      const stored = this.#sealBytes({ kmsKeyId, version, keySpec }, material)
      return { stored, publicKey, fingerprint }
    } finally {
      plaintext.fill(0)
    }
  }

  async wrapKey(material: KeyMaterial, aad: Uint8Array, key: KeyHandle): Promise<Uint8Array> {
    return this.#crypto.wrapKey(this.#openMaterial(material), aad, key)
  }

  async wrapMessageKey(
    material: KeyMaterial,
    aad: Uint8Array,
    messageKey: KeyHandle,
  ): Promise<Uint8Array> {
    return this.#crypto.wrapMessageKey(this.#openMaterial(material), aad, messageKey)
  }

  async unwrapKey(
    material: KeyMaterial,
    aad: Uint8Array,
    storePart: Uint8Array,
  ): Promise<KeyHandle> {
    return this.#crypto.unwrapKey(this.#openMaterial(material), aad, storePart)
  }

  async wrapBytes(
    material: KeyMaterial,
    aad: Uint8Array,
    plaintext: Uint8Array,
  ): Promise<Uint8Array> {
    return this.#crypto.wrapBytes(this.#openMaterial(material), aad, plaintext)
  }

  async unwrapBytes(
    material: KeyMaterial,
    aad: Uint8Array,
    storePart: Uint8Array,
  ): Promise<Uint8Array> {
    return this.#crypto.unwrapBytes(this.#openMaterial(material), aad, storePart)
  }

  async sign(material: KeyMaterial, signable: Signable): Promise<Uint8Array> {
    return sign(material.keySpec, this.#openKeyObject(material), signable)
  }

  async decryptWithPrivateKey(
    material: KeyMaterial,
    algorithm: EncryptionAlgorithm,
    ciphertext: Uint8Array,
  ): Promise<Uint8Array> {
    return decryptOaep(material.keySpec, this.#openKeyObject(material), algorithm, ciphertext)
  }

  async deriveSharedSecret(
    material: KeyMaterial,
    algorithm: KeyAgreementAlgorithm,
    peer: Uint8Array,
  ): Promise<Uint8Array> {
    return deriveSharedSecret(material.keySpec, this.#openKeyObject(material), algorithm, peer)
  }

  async generateMac(
    material: KeyMaterial,
    algorithm: MacAlgorithm,
    message: Uint8Array,
  ): Promise<Uint8Array> {
    return generateMac(material.keySpec, this.#openKeyObject(material), algorithm, message)
  }

  /** The catalog's row was the material. */
  readonly destroyKeyMaterial: KeyStore['destroyKeyMaterial'] = () => Promise.resolve()

  forget(kmsKeyId: Uint8Array): void {
    const prefix = hex(kmsKeyId)
    for (const open of [this.#open, this.#keyObjects]) {
      for (const name of [...open.keys()]) {
        if (name.startsWith(prefix)) open.delete(name)
      }
    }
  }

  lock(): void {
    this.#open.clear()
    this.#keyObjects.clear()
    const sealingKey = this.#sealingKey
    this.#sealingKey = undefined
    if (sealingKey !== undefined) this.#release(sealingKey)
  }

  async probe(): Promise<void> {
    this.#root()
  }

  async close(): Promise<void> {
    this.lock()
  }

  #openMaterial(material: KeyMaterial): KeyHandle {
    // An HMAC key can be as long as an AES key, and is none.
    if (material.keySpec !== 'SYMMETRIC_DEFAULT') {
      throw new KeyfoldError('KMS_KEY_USAGE_INVALID', `${material.keySpec} does not wrap`)
    }
    const sealingKey = this.#root()
    const name = `${hex(material.kmsKeyId)}/${material.version}`
    const open = this.#open.get(name)
    if (open !== undefined) return open
    const opened = unsealMaterial(material, (aad, sealed) =>
      this.#crypto.unwrapKey(sealingKey, aad, sealed),
    )
    this.#open.set(name, opened)
    return opened
  }

  #openKeyObject(material: KeyMaterial): KeyObject {
    if (material.keySpec === 'SYMMETRIC_DEFAULT') {
      throw new KeyfoldError('KMS_KEY_USAGE_INVALID', `${material.keySpec} wraps and no more`)
    }
    const sealingKey = this.#root()
    const name = `${hex(material.kmsKeyId)}/${material.version}/${material.keySpec}`
    const open = this.#keyObjects.get(name)
    if (open !== undefined) return open
    const plaintext = unsealMaterial(material, (aad, sealed) =>
      this.#crypto.unwrapBytes(sealingKey, aad, sealed),
    )
    try {
      const opened = openKeyObject(material, plaintext)
      this.#keyObjects.set(name, opened)
      return opened
    } finally {
      plaintext.fill(0)
    }
  }

  /** Takes the plaintext over: filled with zeros on return. */
  #sealBytes(name: MaterialName, plaintext: Uint8Array): Uint8Array {
    try {
      return sealMaterial(name, (aad) => this.#crypto.wrapBytes(this.#root(), aad, plaintext))
    } finally {
      plaintext.fill(0)
    }
  }

  #root(): KeyHandle {
    if (this.#sealingKey === undefined) throw new KeyfoldError('LOCKED')
    return this.#sealingKey
  }

  #release(handle: KeyHandle): void {
    try {
      this.#crypto.releaseKey(handle)
    } catch (error) {
      // After wipeAllKeys the slot is gone already, which is what was wanted.
      if (!(error instanceof KeyfoldError && error.code === 'KEY_HANDLE_STALE')) throw error
    }
  }
}

function sealMaterial(name: MaterialName, seal: (aad: Uint8Array) => Uint8Array): Uint8Array {
  const sealed = seal(materialAad(name, ROOT_VERSION))
  return encodeSealedKeyMaterial({ rootVersion: ROOT_VERSION, sealed })
}

function unsealMaterial<T>(
  material: KeyMaterial,
  unseal: (aad: Uint8Array, sealed: Uint8Array) => T,
): T {
  const { rootVersion, sealed } = decodeSealedKeyMaterial(material.stored)
  try {
    return unseal(materialAad(material, rootVersion), sealed)
  } catch (cause) {
    // Not the caller's ciphertext but our own catalog does not open: a swapped row, or another root key.
    if (cause instanceof KeyfoldError && cause.code === 'DECRYPT_FAILED') {
      throw new KeyfoldError('ROOT_KEY_INVALID', undefined, cause)
    }
    throw cause
  }
}

function materialAad(name: MaterialName, rootVersion: number): Uint8Array {
  return encodeKeyMaterialAad({
    rootVersion,
    kmsKeyId: name.kmsKeyId,
    materialVersion: name.version,
    keySpec: name.keySpec,
  })
}

function fingerprintOf(material: Uint8Array): Uint8Array {
  const salt = new Uint8Array(0)
  const fingerprint = hkdfSync('sha512', material, salt, FINGERPRINT_LABEL, FINGERPRINT_BYTES)
  return new Uint8Array(fingerprint)
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
