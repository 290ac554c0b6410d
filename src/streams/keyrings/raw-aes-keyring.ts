/**
 * The AWS Encryption SDK's raw AES keyring: the data key under an AES key that the user holds.
 *
 *     provider id     the namespace
 *     provider info   name ‖ u32 tag bits (128) ‖ u32 IV bytes (12) ‖ IV
 *     ciphertext      AES-GCM(wrapping key, IV, data key, AAD = encryption context) = ciphertext ‖ tag16
 *
 * IVs are random: at most 2^32 files under one wrapping key (SP 800-38D §8.3).
 */
import { createCipheriv, createDecipheriv, randomBytes, type CipherGCMTypes } from 'node:crypto'
import { inspect } from 'node:util'

import { KeyfoldError } from '../../errors.ts'
import { Writer } from '../../format/bytes.ts'
import { IV_BYTES, type EncryptedDataKey } from '../../format/encryption-sdk.ts'
import { TAG_BYTES } from '../../format/message.ts'
import {
  unwrapFirst,
  type GeneratedDataKey,
  type Keyring,
  type KeyringRequest,
} from '../keyring.ts'
import { checkedName } from './names.ts'

const GCM = { authTagLength: TAG_BYTES } as const
const NO_IV = new Uint8Array(IV_BYTES)

export interface RawAesKeyringOptions {
  /** The provider id; not `aws-kms`. */
  readonly namespace: string
  /** Which key of the namespace it is. */
  readonly name: string
  /** 16, 24 or 32 bytes, copied. */
  readonly wrappingKey: Uint8Array
}

export class RawAesKeyring implements Keyring {
  readonly #namespace: string
  readonly #name: string
  readonly #wrappingKey: Buffer
  readonly #cipher: CipherGCMTypes
  #wiped = false

  /** Errors: CONFIG_INVALID. */
  constructor({ namespace, name, wrappingKey }: RawAesKeyringOptions) {
    this.#namespace = checkedName('namespace', namespace)
    this.#name = checkedName('name', name)
    if (![16, 24, 32].includes(wrappingKey.length)) {
      throw new KeyfoldError('CONFIG_INVALID', 'wrappingKey: 16, 24 or 32 bytes are needed')
    }
    this.#wrappingKey = Buffer.from(wrappingKey)
    this.#cipher = `aes-${8 * wrappingKey.length}-gcm` as CipherGCMTypes
  }

  async generateDataKey(request: KeyringRequest): Promise<GeneratedDataKey> {
    const dataKey = randomBytes(request.keyBytes)
    return { dataKey, encryptedDataKeys: await this.wrapDataKey(dataKey, request) }
  }

  async wrapDataKey(
    dataKey: Uint8Array,
    { contextBytes }: KeyringRequest,
  ): Promise<readonly EncryptedDataKey[]> {
    const iv = randomBytes(IV_BYTES)
    const cipher = createCipheriv(this.#cipher, this.#usableKey(), iv, GCM)
    cipher.setAAD(contextBytes)
    const sealed = cipher.update(dataKey)
    cipher.final()
    const ciphertext = Buffer.concat([sealed, cipher.getAuthTag()])
    const providerInfo = this.#providerInfo(iv)
    return [{ providerId: this.#namespace, providerInfo, ciphertext }]
  }

  unwrapDataKey(
    encryptedDataKeys: readonly EncryptedDataKey[],
    { keyBytes, contextBytes }: KeyringRequest,
  ): Promise<Buffer | undefined> {
    return unwrapFirst(encryptedDataKeys, keyBytes, (wrapped) => {
      if (!this.#wrote(wrapped)) return Promise.resolve(undefined)
      return Promise.resolve(this.#open(wrapped, keyBytes, contextBytes))
    })
  }

  /** Fills the wrapping key with zeros; the keyring is of no use afterwards. */
  wipe(): void {
    this.#wiped = true
    this.#wrappingKey.fill(0)
  }

  toJSON(): string {
    return `[RawAesKeyring ${this.#namespace}/${this.#name}]`
  }

  [inspect.custom](): string {
    return this.toJSON()
  }

  #usableKey(): Buffer {
    // Zeros are a key like any other to the cipher.
    if (this.#wiped) throw new KeyfoldError('INTERNAL', 'the keyring was wiped')
    return this.#wrappingKey
  }

  #providerInfo(iv: Uint8Array): Uint8Array {
    const name = Buffer.from(this.#name)
    return new Writer(new Uint8Array(name.length + 8 + IV_BYTES))
      .put(name)
      .u32(8 * TAG_BYTES)
      .u32(IV_BYTES)
      .put(iv).bytes
  }

  #wrote({ providerId, providerInfo }: EncryptedDataKey): boolean {
    const head = this.#providerInfo(NO_IV).subarray(0, -IV_BYTES)
    return (
      providerId === this.#namespace &&
      providerInfo.length === head.length + IV_BYTES &&
      Buffer.compare(providerInfo.subarray(0, head.length), head) === 0
    )
  }

  #open(
    { providerInfo, ciphertext }: EncryptedDataKey,
    keyBytes: number,
    contextBytes: Uint8Array,
  ): Buffer {
    if (ciphertext.length !== keyBytes + TAG_BYTES) throw new KeyfoldError('DECRYPT_FAILED')
    const iv = providerInfo.subarray(-IV_BYTES)
    const decipher = createDecipheriv(this.#cipher, this.#usableKey(), iv, GCM)
    decipher.setAAD(contextBytes)
    decipher.setAuthTag(ciphertext.subarray(keyBytes))
    const dataKey = decipher.update(ciphertext.subarray(0, keyBytes))
    try {
      decipher.final()
      return dataKey
    } catch {
      dataKey.fill(0)
      throw new KeyfoldError('DECRYPT_FAILED')
    }
  }
}
