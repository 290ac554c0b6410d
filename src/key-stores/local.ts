/**
 * The local key store: key material encrypted at rest under a root key (src/format/key-material.ts) and opened on
 * first use: symmetric keys into a bounded part of the key table, private and HMAC keys into a bounded number of
 * KeyObjects. Only the key derived from the root key is always resident.
 */
import { hkdfSync, randomBytes, type KeyObject } from 'node:crypto'
import { LRUCache } from 'lru-cache'

import type { Crypto, KeyHandle } from '../crypto/crypto.ts'
import { deriveSharedSecret } from '../crypto/key-agreement.ts'
import { isAsymmetric } from '../crypto/key-pair.ts'
import {
  KEY_SPECS,
  type EncryptionAlgorithm,
  type KeyAgreementAlgorithm,
  type KeySpec,
  type KeyUsage,
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
import { assertPair, checkImported, openKeyObject } from './key-objects.ts'
import { generateKeyPair, useKeyPair } from './key-pair-work.ts'
import type {
  ImportedKeyMaterial,
  KeyMaterial,
  KeyStore,
  KeyStoreTraits,
  NewKeyMaterial,
  StoreTurn,
} from './key-store.ts'
import { SealingKeys, type RootKeys } from './sealing-keys.ts'

export const LOCAL_KEY_STORE = 'local'
const ROOT_LABEL = 'keyfold/root/v1/material'
const FINGERPRINT_LABEL = 'keyfold/material/v1/fingerprint'
const FINGERPRINT_BYTES = 32

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
  readonly #keys: SealingKeys
  /** By key id and version. */
  readonly #open: LRUCache<string, KeyHandle>
  /** By key id, version and key spec. */
  readonly #keyObjects: LRUCache<string, KeyObject>

  /** Material whose public key was found to be its own: whatever is read from the catalog again is looked at again. */
  readonly #paired = new WeakSet<KeyMaterial>()

  /** Derives from the root key what it needs; the handles stay the caller's. */
  constructor(crypto: Crypto, roots: RootKeys) {
    this.#crypto = crypto
    this.#keys = new SealingKeys(crypto, roots, ROOT_LABEL)
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
    _externalKeyId?: string,
    _keyUsage?: KeyUsage,
    turn?: StoreTurn,
  ): Promise<NewKeyMaterial> {
    const name = { kmsKeyId, version, keySpec }
    // Asked first: an RSA key is seconds of work.
    this.#keys.assertUnlocked()
    if (isAsymmetric(keySpec)) {
      const { privateKey, publicKey } = await generateKeyPair(keySpec, turn)
      return { stored: this.#sealBytes(name, privateKey), publicKey }
    }
    if (isHmac(keySpec)) {
      const stored = this.#sealBytes(name, randomBytes(HMAC_KEY_BYTES[keySpec]))
      return { stored, publicKey: undefined }
    }
    const key = this.#crypto.generateKey()
    try {
      return { stored: this.#sealKey(name, key), publicKey: undefined }
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

  sign(material: KeyMaterial, signable: Signable, turn?: StoreTurn): Promise<Uint8Array> {
    return this.#usePrivateKey(material, turn, (key) => sign(material.keySpec, key, signable))
  }

  decryptWithPrivateKey(
    material: KeyMaterial,
    algorithm: EncryptionAlgorithm,
    ciphertext: Uint8Array,
    turn?: StoreTurn,
  ): Promise<Uint8Array> {
    return this.#usePrivateKey(material, turn, (key) =>
      decryptOaep(material.keySpec, key, algorithm, ciphertext),
    )
  }

  deriveSharedSecret(
    material: KeyMaterial,
    algorithm: KeyAgreementAlgorithm,
    peer: Uint8Array,
    turn?: StoreTurn,
  ): Promise<Uint8Array> {
    return this.#usePrivateKey(material, turn, (key) =>
      deriveSharedSecret(material.keySpec, key, algorithm, peer),
    )
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

  /** What `stored` seals, under the current root key. Throws ROOT_KEY_INVALID, LOCKED. */
  reseal(material: KeyMaterial): Uint8Array {
    if (material.keySpec !== 'SYMMETRIC_DEFAULT') {
      return this.#sealBytes(material, this.#unsealBytes(material))
    }
    const key = this.#unsealKey(material)
    try {
      return this.#sealKey(material, key)
    } finally {
      this.#crypto.releaseKey(key)
    }
  }

  assertPublicKey(material: KeyMaterial): void {
    if (this.#paired.has(material)) return
    assertPair(this.#openKeyObject(material), material)
    this.#paired.add(material)
  }

  /** Seals under this version of the root key from now on. */
  turnTo(rootVersion: number): void {
    this.#keys.turnTo(rootVersion)
  }

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
    this.#keys.lock()
  }

  async probe(): Promise<void> {
    this.#keys.assertUnlocked()
  }

  async close(): Promise<void> {
    this.lock()
  }

  #openMaterial(material: KeyMaterial): KeyHandle {
    // An HMAC key can be as long as an AES key, and is none.
    if (material.keySpec !== 'SYMMETRIC_DEFAULT') {
      throw new KeyfoldError('KMS_KEY_USAGE_INVALID', `${material.keySpec} does not wrap`)
    }
    this.#keys.assertUnlocked()
    const name = `${hex(material.kmsKeyId)}/${material.version}`
    const open = this.#open.get(name)
    if (open !== undefined) return open
    const opened = this.#unsealKey(material)
    this.#open.set(name, opened)
    return opened
  }

  /** Refused at once where nothing has to be opened for it, and looked at again when its turn has come. */
  async #usePrivateKey(
    material: KeyMaterial,
    turn: StoreTurn | undefined,
    use: (key: KeyObject) => Uint8Array | Promise<Uint8Array>,
  ): Promise<Uint8Array> {
    this.#assertHasObject(material)
    return useKeyPair(turn, async () => use(this.#openKeyObject(material)))
  }

  #assertHasObject({ keySpec }: KeyMaterial): void {
    if (keySpec === 'SYMMETRIC_DEFAULT') {
      throw new KeyfoldError('KMS_KEY_USAGE_INVALID', `${keySpec} wraps and no more`)
    }
    this.#keys.assertUnlocked()
  }

  #openKeyObject(material: KeyMaterial): KeyObject {
    this.#assertHasObject(material)
    const name = `${hex(material.kmsKeyId)}/${material.version}/${material.keySpec}`
    const open = this.#keyObjects.get(name)
    if (open !== undefined) return open
    const plaintext = this.#unsealBytes(material)
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
      const { rootVersion, key } = this.#keys.current
      const sealed = this.#crypto.wrapBytes(key, materialAad(name, rootVersion), plaintext)
      return encodeSealedKeyMaterial({ rootVersion, sealed })
    } finally {
      plaintext.fill(0)
    }
  }

  #sealKey(name: MaterialName, material: KeyHandle): Uint8Array {
    const { rootVersion, key } = this.#keys.current
    const sealed = this.#crypto.wrapKey(key, materialAad(name, rootVersion), material)
    return encodeSealedKeyMaterial({ rootVersion, sealed })
  }

  #unsealBytes(material: KeyMaterial): Uint8Array {
    return this.#unseal(material, (key, aad, sealed) => this.#crypto.unwrapBytes(key, aad, sealed))
  }

  #unsealKey(material: KeyMaterial): KeyHandle {
    return this.#unseal(material, (key, aad, sealed) => this.#crypto.unwrapKey(key, aad, sealed))
  }

  #unseal<T>(
    material: KeyMaterial,
    unseal: (key: KeyHandle, aad: Uint8Array, sealed: Uint8Array) => T,
  ): T {
    const { rootVersion, sealed } = decodeSealedKeyMaterial(material.stored)
    const key = this.#keys.of(rootVersion)
    try {
      return unseal(key, materialAad(material, rootVersion), sealed)
    } catch (cause) {
      // Not the caller's ciphertext but our own catalog does not open: a swapped row, or another root key.
      if (cause instanceof KeyfoldError && cause.code === 'DECRYPT_FAILED') {
        throw new KeyfoldError('ROOT_KEY_INVALID', undefined, cause)
      }
      throw cause
    }
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
