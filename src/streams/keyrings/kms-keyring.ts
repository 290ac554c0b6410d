/**
 * The AWS Encryption SDK's KMS keyring: the data key under one or several KMS keys, of keyfold or of AWS KMS.
 *
 *     provider id     aws-kms
 *     provider info   the key ARN
 *     ciphertext      what the KMS made of the data key
 *
 * Wrappings are tried only under the ARNs that were configured: a file cannot make its reader ask for other keys.
 */
import type { EncryptionContext } from '../../client/wire.ts'
import { KeyfoldError } from '../../errors.ts'
import type { EncryptedDataKey } from '../../format/encryption-sdk.ts'
import {
  unwrapFirst,
  type GeneratedDataKey,
  type Keyring,
  type KeyringRequest,
} from '../keyring.ts'
import { KMS_PROVIDER_ID } from './names.ts'

/** What a KMS is asked for. Key ids are key ARNs, in requests and in answers. */
export interface KmsClient {
  /** `bytes` of plaintext, in a Buffer of its own that the caller wipes. */
  generateDataKey(request: {
    readonly keyId: string
    readonly context: EncryptionContext
    readonly bytes: number
  }): Promise<{
    readonly keyId: string
    readonly plaintext: Buffer
    readonly ciphertext: Uint8Array
  }>
  encrypt(request: {
    readonly keyId: string
    readonly context: EncryptionContext
    readonly plaintext: Uint8Array
  }): Promise<{ readonly keyId: string; readonly ciphertext: Uint8Array }>
  /** `keyId` of the answer: the key that it was really under. */
  decrypt(request: {
    readonly keyId: string
    readonly context: EncryptionContext
    readonly ciphertext: Uint8Array
  }): Promise<{ readonly keyId: string; readonly plaintext: Buffer }>
}

export interface KmsKeyringOptions {
  /** A client for all keys, or one for each key ARN where they are of several regions. */
  readonly client: KmsClient | ((keyArn: string) => KmsClient)
  /** ARN of the key that generates the data key; needed to encrypt. It opens as well. */
  readonly generatorKeyId?: string | undefined
  /** ARNs of further keys: each wraps the data key too, and opens. */
  readonly keyIds?: readonly string[] | undefined
}

const KEY_ARN_PATTERN = /^arn:[a-z-]+:kms:[a-z0-9-]+:\d{12}:key\/[A-Za-z0-9-]+$/

/** Errors: those of the KMS; KMS_KEY_INCORRECT where it answers for another key than was asked. */
export class KmsKeyring implements Keyring {
  readonly #clientOf: (keyArn: string) => KmsClient
  readonly #generatorKeyId: string | undefined
  readonly #keyIds: readonly string[]

  /** Errors: CONFIG_INVALID. */
  constructor({ client, generatorKeyId, keyIds = [] }: KmsKeyringOptions) {
    this.#clientOf = typeof client === 'function' ? client : () => client
    this.#generatorKeyId = generatorKeyId
    this.#keyIds = [...keyIds]
    const all = this.#allKeyIds()
    if (all.length === 0) {
      throw new KeyfoldError('CONFIG_INVALID', 'generatorKeyId or keyIds: a key ARN is needed')
    }
    if (!all.every((keyId) => KEY_ARN_PATTERN.test(keyId))) {
      // An alias may encrypt, and never opens: the file names the key by its ARN.
      throw new KeyfoldError('CONFIG_INVALID', 'generatorKeyId, keyIds: key ARNs are needed')
    }
    if (new Set(all).size !== all.length) {
      throw new KeyfoldError('CONFIG_INVALID', 'generatorKeyId, keyIds: a key is named twice')
    }
  }

  async generateDataKey(request: KeyringRequest): Promise<GeneratedDataKey> {
    const keyId = this.#generatorKeyId
    if (keyId === undefined) {
      throw new KeyfoldError('CONFIG_INVALID', 'generatorKeyId is needed to encrypt')
    }
    const { keyBytes: bytes, context } = request
    const generated = await this.#clientOf(keyId).generateDataKey({ keyId, context, bytes })
    const dataKey = generated.plaintext
    try {
      checkKeyId(keyId, generated.keyId)
      if (dataKey.length !== bytes) {
        throw new KeyfoldError('INTERNAL', 'the KMS gave a data key of another length')
      }
      const others = await this.#wrapUnder(this.#keyIds, dataKey, request)
      return {
        dataKey,
        encryptedDataKeys: [encryptedDataKey(keyId, generated.ciphertext), ...others],
      }
    } catch (error) {
      dataKey.fill(0)
      throw error
    }
  }

  wrapDataKey(dataKey: Uint8Array, request: KeyringRequest): Promise<readonly EncryptedDataKey[]> {
    return this.#wrapUnder(this.#allKeyIds(), dataKey, request)
  }

  unwrapDataKey(
    encryptedDataKeys: readonly EncryptedDataKey[],
    { keyBytes, context }: KeyringRequest,
  ): Promise<Buffer | undefined> {
    const configured = this.#allKeyIds()
    return unwrapFirst(encryptedDataKeys, keyBytes, async (wrapped) => {
      if (wrapped.providerId !== KMS_PROVIDER_ID) return undefined
      const keyId = configured.find(
        (arn) => Buffer.compare(wrapped.providerInfo, Buffer.from(arn)) === 0,
      )
      if (keyId === undefined) return undefined
      const { ciphertext } = wrapped
      const opened = await this.#clientOf(keyId).decrypt({ keyId, context, ciphertext })
      try {
        checkKeyId(keyId, opened.keyId)
      } catch (error) {
        opened.plaintext.fill(0)
        throw error
      }
      return opened.plaintext
    })
  }

  async #wrapUnder(
    keyIds: readonly string[],
    dataKey: Uint8Array,
    { context }: KeyringRequest,
  ): Promise<readonly EncryptedDataKey[]> {
    // All settle before the caller may wipe the data key.
    const settled = await Promise.allSettled(
      keyIds.map(async (keyId) => {
        const client = this.#clientOf(keyId)
        const wrapped = await client.encrypt({ keyId, context, plaintext: dataKey })
        checkKeyId(keyId, wrapped.keyId)
        return encryptedDataKey(keyId, wrapped.ciphertext)
      }),
    )
    return settled.map((result) => {
      if (result.status === 'rejected') throw result.reason
      return result.value
    })
  }

  #allKeyIds(): readonly string[] {
    return this.#generatorKeyId === undefined
      ? this.#keyIds
      : [this.#generatorKeyId, ...this.#keyIds]
  }
}

function encryptedDataKey(keyArn: string, ciphertext: Uint8Array): EncryptedDataKey {
  return { providerId: KMS_PROVIDER_ID, providerInfo: Buffer.from(keyArn), ciphertext }
}

/** A KMS that answers for another key would have a file opened that nobody we trust has written. */
function checkKeyId(asked: string, answered: string): void {
  if (asked !== answered) throw new KeyfoldError('KMS_KEY_INCORRECT', 'the KMS used another key')
}
