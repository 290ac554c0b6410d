/**
 * The AWS Encryption SDK's raw RSA keyring with OAEP: whoever has the public key writes, whoever has the private key
 * reads.
 *
 *     provider id     the namespace
 *     provider info   name
 *     ciphertext      RSAES-OAEP of the data key, the same hash in MGF1, empty label
 *
 * RSA has no AAD: the encryption context is bound by the file's header alone.
 */
import {
  constants,
  createPrivateKey,
  createPublicKey,
  privateDecrypt,
  publicEncrypt,
  randomBytes,
  type KeyObject,
} from 'node:crypto'

import { KeyfoldError } from '../../errors.ts'
import type { EncryptedDataKey } from '../../format/encryption-sdk.ts'
import {
  unwrapFirst,
  type GeneratedDataKey,
  type Keyring,
  type KeyringRequest,
} from '../keyring.ts'
import { checkedName } from './names.ts'

export interface RawRsaKeyringOptions {
  /** The provider id; not `aws-kms`. */
  readonly namespace: string
  /** Which key of the namespace it is. */
  readonly name: string
  /** Needed to encrypt: PEM or a KeyObject. */
  readonly publicKey?: string | KeyObject | undefined
  /** Needed to decrypt. */
  readonly privateKey?: string | KeyObject | undefined
  /** `sha256` where absent; the SDK for JavaScript takes `sha1` unless it is told. */
  readonly oaepHash?: 'sha1' | 'sha256' | 'sha384' | 'sha512' | undefined
}

const MODULUS_BITS_MIN = 2_048

export class RawRsaKeyring implements Keyring {
  readonly #namespace: string
  readonly #name: string
  readonly #publicKey: KeyObject | undefined
  readonly #privateKey: KeyObject | undefined
  readonly #padding: { readonly padding: number; readonly oaepHash: string }

  /** Errors: CONFIG_INVALID. */
  constructor(options: RawRsaKeyringOptions) {
    const { namespace, name, publicKey, privateKey, oaepHash = 'sha256' } = options
    this.#namespace = checkedName('namespace', namespace)
    this.#name = checkedName('name', name)
    this.#publicKey = openRsa('publicKey', publicKey, createPublicKey)
    this.#privateKey = openRsa('privateKey', privateKey, createPrivateKey)
    if (this.#publicKey === undefined && this.#privateKey === undefined) {
      throw new KeyfoldError('CONFIG_INVALID', 'publicKey or privateKey is needed')
    }
    this.#padding = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash }
  }

  async generateDataKey(request: KeyringRequest): Promise<GeneratedDataKey> {
    const dataKey = randomBytes(request.keyBytes)
    return { dataKey, encryptedDataKeys: await this.wrapDataKey(dataKey) }
  }

  async wrapDataKey(dataKey: Uint8Array): Promise<readonly EncryptedDataKey[]> {
    const key = this.#publicKey
    if (key === undefined) {
      throw new KeyfoldError('CONFIG_INVALID', 'publicKey is needed to encrypt')
    }
    const ciphertext = publicEncrypt({ key, ...this.#padding }, dataKey)
    const providerInfo = Buffer.from(this.#name)
    return [{ providerId: this.#namespace, providerInfo, ciphertext }]
  }

  unwrapDataKey(
    encryptedDataKeys: readonly EncryptedDataKey[],
    { keyBytes }: KeyringRequest,
  ): Promise<Buffer | undefined> {
    const key = this.#privateKey
    if (key === undefined) return Promise.resolve(undefined)
    const name = Buffer.from(this.#name)
    return unwrapFirst(encryptedDataKeys, keyBytes, ({ providerId, providerInfo, ciphertext }) => {
      if (providerId !== this.#namespace || Buffer.compare(providerInfo, name) !== 0) {
        return Promise.resolve(undefined)
      }
      // OpenSSL would take a shorter one for a number with leading zeros.
      if (8 * ciphertext.length !== modulusBits(key)) throw new KeyfoldError('DECRYPT_FAILED')
      try {
        return Promise.resolve(privateDecrypt({ key, ...this.#padding }, ciphertext))
      } catch {
        throw new KeyfoldError('DECRYPT_FAILED')
      }
    })
  }
}

function openRsa(
  field: string,
  given: string | KeyObject | undefined,
  open: (pem: string) => KeyObject,
): KeyObject | undefined {
  if (given === undefined) return undefined
  let key: KeyObject
  try {
    key = typeof given === 'string' ? open(given) : given
  } catch {
    // The cause might quote the key.
    throw new KeyfoldError('CONFIG_INVALID', `${field}: PEM of an RSA key is needed`)
  }
  if (key.asymmetricKeyType !== 'rsa' || modulusBits(key) < MODULUS_BITS_MIN) {
    throw new KeyfoldError('CONFIG_INVALID', `${field}: RSA of ${MODULUS_BITS_MIN} bits or more`)
  }
  return key
}

function modulusBits(key: KeyObject): number {
  return key.asymmetricKeyDetails?.modulusLength ?? 0
}
