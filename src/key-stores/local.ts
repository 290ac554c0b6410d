/**
 * The local key store: key material encrypted at rest under a root key (src/format/key-material.ts) and opened on
 * first use into a bounded part of the key table. Only the key derived from the root key is always resident.
 */
import { LRUCache } from 'lru-cache'

import type { Crypto, KeyHandle } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import {
  decodeSealedKeyMaterial,
  encodeKeyMaterialAad,
  encodeSealedKeyMaterial,
} from '../format/key-material.ts'
import { KEY_MATERIAL_OPEN_MAX } from '../limits.ts'
import type { KeyMaterial, KeyStore } from './key-store.ts'

export const LOCAL_KEY_STORE = 'local'
const ROOT_LABEL = 'keyfold/root/v1/material'
/** AES-256; in the AAD, so that material never serves a key of another kind. */
const KEY_SPEC = 'SYMMETRIC_DEFAULT'
const ROOT_VERSION = 1

/**
 * Every method runs to its end without an await once it holds a handle, so an eviction never takes a key from
 * under a call.
 */
export class LocalKeyStore implements KeyStore {
  readonly name = LOCAL_KEY_STORE
  readonly #crypto: Crypto
  /** HKDF of the root key; undefined after lock(). */
  #sealingKey: KeyHandle | undefined
  /** By key id and version. */
  readonly #open: LRUCache<string, KeyHandle>

  /** Derives from the root key what it needs; the handle stays the caller's. */
  constructor(crypto: Crypto, root: KeyHandle) {
    this.#crypto = crypto
    this.#sealingKey = crypto.deriveKey(root, ROOT_LABEL)
    this.#open = new LRUCache<string, KeyHandle>({
      max: KEY_MATERIAL_OPEN_MAX,
      dispose: (handle) => this.#release(handle),
    })
  }

  async createKeyMaterial(kmsKeyId: Uint8Array, version: number): Promise<Uint8Array> {
    const sealingKey = this.#root()
    const material = this.#crypto.generateKey()
    try {
      const aad = materialAad({ kmsKeyId, version, rootVersion: ROOT_VERSION })
      const sealed = this.#crypto.wrapKey(sealingKey, aad, material)
      return encodeSealedKeyMaterial({ rootVersion: ROOT_VERSION, sealed })
    } finally {
      this.#crypto.releaseKey(material)
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

  forget(kmsKeyId: Uint8Array): void {
    const prefix = hex(kmsKeyId)
    for (const name of [...this.#open.keys()]) {
      if (name.startsWith(prefix)) this.#open.delete(name)
    }
  }

  lock(): void {
    this.#open.clear()
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
    const sealingKey = this.#root()
    const name = `${hex(material.kmsKeyId)}/${material.version}`
    const open = this.#open.get(name)
    if (open !== undefined) return open
    const { rootVersion, sealed } = decodeSealedKeyMaterial(material.stored)
    const opened = this.#unseal(sealingKey, materialAad({ ...material, rootVersion }), sealed)
    this.#open.set(name, opened)
    return opened
  }

  #unseal(sealingKey: KeyHandle, aad: Uint8Array, sealed: Uint8Array): KeyHandle {
    try {
      return this.#crypto.unwrapKey(sealingKey, aad, sealed)
    } catch (cause) {
      // Not the caller's ciphertext but our own catalog does not open: a swapped row, or another root key.
      if (cause instanceof KeyfoldError && cause.code === 'DECRYPT_FAILED') {
        throw new KeyfoldError('ROOT_KEY_INVALID', undefined, cause)
      }
      throw cause
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

function materialAad(fields: {
  readonly kmsKeyId: Uint8Array
  readonly version: number
  readonly rootVersion: number
}): Uint8Array {
  return encodeKeyMaterialAad({
    rootVersion: fields.rootVersion,
    kmsKeyId: fields.kmsKeyId,
    materialVersion: fields.version,
    keySpec: KEY_SPEC,
  })
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
