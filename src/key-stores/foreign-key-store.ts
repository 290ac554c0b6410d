/**
 * A key store of another system, such as an HSM, a proxy or a remote KMS: what they all owe, by two methods that wrap
 * and unwrap bytes over there.
 *
 *     wrapKey, wrapMessageKey      the key's bytes, for the length of one wrap (exposed-key.ts)
 *     unwrapKey                    bytes, which go into the key table and are wiped
 *     importKeyMaterial            refused: key material is made over there, or was there before
 *     sign … generateMac           refused, unless the other side has such keys too
 *
 * What is checked here is checked before anything is sent: that the store is not locked, and that the material wraps.
 */
import type { Crypto, KeyHandle } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import { withKeyBytes } from './exposed-key.ts'
import type {
  ImportedKeyMaterial,
  KeyMaterial,
  KeyStore,
  KeyStoreTraits,
  NewKeyMaterial,
} from './key-store.ts'

/** What is wrapped, for stores that tell the other side. */
export type WrapSubject = 'key' | 'messageKey' | 'bytes'

/** All data keys, theirs and ours, are of AES-256. */
const KEY_BYTES = 32

export abstract class ForeignKeyStore implements KeyStore {
  readonly name: string
  abstract readonly traits: KeyStoreTraits
  protected readonly crypto: Crypto
  #locked = false

  constructor(name: string, crypto: Crypto) {
    this.name = name
    this.crypto = crypto
  }

  abstract createKeyMaterial(
    ...wanted: Parameters<KeyStore['createKeyMaterial']>
  ): Promise<NewKeyMaterial>
  abstract destroyKeyMaterial(material: KeyMaterial): Promise<void>
  abstract forget(kmsKeyId: Uint8Array): void
  abstract probe(): Promise<void>

  /** The store part. `plaintext` is the caller's, and is not kept. */
  protected abstract wrap(
    material: KeyMaterial,
    aad: Uint8Array,
    plaintext: Uint8Array,
    subject: WrapSubject,
  ): Promise<Uint8Array>

  /** Throws DECRYPT_FAILED. Whoever is given it fills it with zeros. */
  protected abstract unwrap(
    material: KeyMaterial,
    aad: Uint8Array,
    storePart: Uint8Array,
  ): Promise<Uint8Array>

  async importKeyMaterial(
    ...[, , , plaintext]: Parameters<KeyStore['importKeyMaterial']>
  ): Promise<ImportedKeyMaterial> {
    plaintext.fill(0)
    this.assertUnlocked()
    throw new KeyfoldError('OPERATION_UNSUPPORTED', `${this.name} takes no key material`)
  }

  async wrapKey(material: KeyMaterial, aad: Uint8Array, key: KeyHandle): Promise<Uint8Array> {
    this.assertWraps(material)
    return withKeyBytes(this.crypto, 'key', key, (bytes) => this.wrap(material, aad, bytes, 'key'))
  }

  async wrapMessageKey(
    material: KeyMaterial,
    aad: Uint8Array,
    messageKey: KeyHandle,
  ): Promise<Uint8Array> {
    this.assertWraps(material)
    return withKeyBytes(this.crypto, 'messageKey', messageKey, (bytes) =>
      this.wrap(material, aad, bytes, 'messageKey'),
    )
  }

  async unwrapKey(
    material: KeyMaterial,
    aad: Uint8Array,
    storePart: Uint8Array,
  ): Promise<KeyHandle> {
    const bytes = await this.unwrapBytes(material, aad, storePart)
    try {
      return this.importUnwrapped(bytes)
    } finally {
      bytes.fill(0)
    }
  }

  async wrapBytes(
    material: KeyMaterial,
    aad: Uint8Array,
    plaintext: Uint8Array,
  ): Promise<Uint8Array> {
    this.assertWraps(material)
    return this.wrap(material, aad, plaintext, 'bytes')
  }

  async unwrapBytes(
    material: KeyMaterial,
    aad: Uint8Array,
    storePart: Uint8Array,
  ): Promise<Uint8Array> {
    this.assertWraps(material)
    return this.unwrap(material, aad, storePart)
  }

  async sign(...[material]: Parameters<KeyStore['sign']>): Promise<Uint8Array> {
    throw wrapsOnly(material)
  }

  async decryptWithPrivateKey(
    ...[material]: Parameters<KeyStore['decryptWithPrivateKey']>
  ): Promise<Uint8Array> {
    throw wrapsOnly(material)
  }

  async deriveSharedSecret(
    ...[material]: Parameters<KeyStore['deriveSharedSecret']>
  ): Promise<Uint8Array> {
    throw wrapsOnly(material)
  }

  async generateMac(...[material]: Parameters<KeyStore['generateMac']>): Promise<Uint8Array> {
    throw wrapsOnly(material)
  }

  lock(): void {
    this.#locked = true
  }

  async close(): Promise<void> {
    this.lock()
  }

  /** Of 32 bytes, which stay the caller's. Throws DECRYPT_FAILED, LOCKED. */
  protected importUnwrapped(bytes: Uint8Array): KeyHandle {
    if (bytes.length !== KEY_BYTES) throw new KeyfoldError('DECRYPT_FAILED')
    // What was locked while the other side worked stays empty.
    this.assertUnlocked()
    return this.crypto.importKey(bytes)
  }

  protected assertWraps({ keySpec }: KeyMaterial): void {
    this.assertUnlocked()
    if (keySpec === 'SYMMETRIC_DEFAULT') return
    throw new KeyfoldError('KMS_KEY_USAGE_INVALID', `${keySpec} does not wrap`)
  }

  protected assertUnlocked(): void {
    if (this.#locked) throw new KeyfoldError('LOCKED')
  }
}

function wrapsOnly({ keySpec }: KeyMaterial): KeyfoldError {
  return new KeyfoldError('KMS_KEY_USAGE_INVALID', `${keySpec} does nothing of that kind here`)
}
