/**
 * AWS KMS as key store, or whatever speaks its protocol: another keyfold. Each version of key material is one key
 * over there, which never leaves it; here the catalog keeps its ARN (src/format/remote-key.ts).
 *
 *     store part      the CiphertextBlob of Encrypt, with EncryptionContext {"keyfold": base64(AAD)}
 *
 * Decrypt always names the key: a ciphertext of another key of the same account does not open. Data keys are made
 * here and never there. What is wrapped or unwrapped passes through the SDK, in strings which nothing can wipe.
 */
import type { Crypto } from '../crypto/crypto.ts'
import { openPeer } from '../crypto/key-agreement.ts'
import { isAsymmetric, openPublicKey } from '../crypto/key-pair.ts'
import {
  KEY_SPECS,
  traitsOf,
  type EncryptionAlgorithm,
  type KeyAgreementAlgorithm,
  type KeySpec,
  type KeyUsage,
  type MacAlgorithm,
} from '../crypto/key-spec.ts'
import { checkMacMessage } from '../crypto/mac.ts'
import { checkOaepCiphertext } from '../crypto/rsa-oaep.ts'
import { checkSignable, type Signable } from '../crypto/signature.ts'
import { KeyfoldError } from '../errors.ts'
import { decodeRemoteKey, encodeRemoteKey, isRemoteKeyName } from '../format/remote-key.ts'
import { WRAPPING_SUITES } from '../format/wrapped-key.ts'
import {
  CALLER_PLAINTEXT_BYTES_MAX,
  KEY_STORE_CALL_MS_DEFAULT,
  KEY_STORE_CREATE_MS,
} from '../limits.ts'
import {
  loadSdk,
  openClient,
  type AwsKmsSettings,
  type KeyMetadata,
  type KMSClient,
  type Sdk,
} from './aws-kms-client.ts'
import { awsKmsError, isCredentialRefusal } from './aws-kms-errors.ts'
import { ForeignKeyStore } from './foreign-key-store.ts'
import type { KeyMaterial, KeyStoreTraits, NewKeyMaterial } from './key-store.ts'
import { checkStorePart, isStorePart, PROBE } from './remote.ts'
import { StoreFault } from './store-fault.ts'

/** AWS KMS, ScheduleKeyDeletion. */
const DELETION_DAYS_MIN = 7
/** Of this many bytes Decrypt of AWS KMS takes a ciphertext. */
const CIPHERTEXT_BYTES_MAX = 6_144

/** Throws CONFIG_INVALID. Asks nothing of the other side. */
export async function openAwsKmsKeyStore(
  name: string,
  settings: AwsKmsSettings,
  crypto: Crypto,
): Promise<AwsKmsKeyStore> {
  const sdk = await loadSdk()
  return new AwsKmsKeyStore(name, settings, crypto, sdk, openClient(sdk, settings))
}

export class AwsKmsKeyStore extends ForeignKeyStore {
  readonly traits: KeyStoreTraits
  readonly #sdk: Sdk
  readonly #timeoutMs: number
  readonly #createsKeys: boolean
  /** undefined after lock(). */
  #client: KMSClient | undefined
  /** What was last used for wrapping, which tells whether wrapping works now. */
  #lastKeyId: string | undefined

  constructor(name: string, settings: AwsKmsSettings, crypto: Crypto, sdk: Sdk, client: KMSClient) {
    super(name, crypto)
    this.#sdk = sdk
    this.#client = client
    this.#timeoutMs = settings.timeoutMs ?? KEY_STORE_CALL_MS_DEFAULT
    this.#createsKeys = settings.createsKeys
    this.traits = {
      origin: settings.createsKeys ? 'AWS_KMS' : 'EXTERNAL_KEY_STORE',
      keySpecs: Object.keys(KEY_SPECS) as KeySpec[],
      importsMaterial: false,
      rotates: settings.createsKeys,
      wrappingSuite: WRAPPING_SUITES.awsKms,
      wrapsMax: undefined,
    }
  }

  async createKeyMaterial(
    kmsKeyId: Uint8Array,
    version: number,
    keySpec: KeySpec,
    externalKeyId?: string,
    keyUsage?: KeyUsage,
  ): Promise<NewKeyMaterial> {
    const keyId =
      externalKeyId === undefined
        ? await this.#createRemoteKey({ kmsKeyId, version, keySpec, keyUsage })
        : await this.#checkRemoteKey(externalKeyId, keySpec, keyUsage)
    const stored = encodeRemoteKey({ suite: WRAPPING_SUITES.awsKms, name: keyId })
    return { stored, publicKey: await this.#readPublicKey(keyId, keySpec) }
  }

  protected async wrap(
    material: KeyMaterial,
    aad: Uint8Array,
    plaintext: Uint8Array,
  ): Promise<Uint8Array> {
    if (plaintext.length < 1 || plaintext.length > CALLER_PLAINTEXT_BYTES_MAX) {
      throw new KeyfoldError('REQUEST_MALFORMED', `1 to ${CALLER_PLAINTEXT_BYTES_MAX} bytes`)
    }
    const KeyId = keyIdOf(material)
    const { CiphertextBlob } = await this.#call((kms, options) => {
      const input = { KeyId, Plaintext: plaintext, EncryptionContext: contextOf(aad) }
      return kms.send(new this.#sdk.EncryptCommand(input), options)
    })
    this.#lastKeyId = KeyId
    return checkStorePart(CiphertextBlob)
  }

  protected async unwrap(
    material: KeyMaterial,
    aad: Uint8Array,
    storePart: Uint8Array,
  ): Promise<Uint8Array> {
    if (!isStorePart(storePart) || storePart.length > CIPHERTEXT_BYTES_MAX) {
      throw new KeyfoldError('DECRYPT_FAILED')
    }
    const KeyId = keyIdOf(material)
    const { Plaintext } = await this.#call((kms, options) => {
      const input = { KeyId, CiphertextBlob: storePart, EncryptionContext: contextOf(aad) }
      return kms.send(new this.#sdk.DecryptCommand(input), options)
    })
    return present(Plaintext)
  }

  override async sign(material: KeyMaterial, signable: Signable): Promise<Uint8Array> {
    checkSignable(material.keySpec, signable)
    const { algorithm, messageType, message } = signable
    const { Signature } = await this.#call((kms, options) => {
      const input = {
        KeyId: keyIdOf(material),
        SigningAlgorithm: algorithm,
        MessageType: messageType,
        Message: message,
      }
      return kms.send(new this.#sdk.SignCommand(input), options)
    })
    return present(Signature)
  }

  override async decryptWithPrivateKey(
    material: KeyMaterial,
    algorithm: EncryptionAlgorithm,
    ciphertext: Uint8Array,
  ): Promise<Uint8Array> {
    checkOaepCiphertext(material.keySpec, algorithm, ciphertext)
    const { Plaintext } = await this.#call((kms, options) => {
      const input = {
        KeyId: keyIdOf(material),
        EncryptionAlgorithm: algorithm,
        CiphertextBlob: ciphertext,
      }
      return kms.send(new this.#sdk.DecryptCommand(input), options)
    })
    return present(Plaintext)
  }

  override async deriveSharedSecret(
    material: KeyMaterial,
    algorithm: KeyAgreementAlgorithm,
    peer: Uint8Array,
  ): Promise<Uint8Array> {
    openPeer(material.keySpec, algorithm, peer)
    const { SharedSecret } = await this.#call((kms, options) => {
      const input = {
        KeyId: keyIdOf(material),
        KeyAgreementAlgorithm: algorithm,
        PublicKey: peer,
      }
      return kms.send(new this.#sdk.DeriveSharedSecretCommand(input), options)
    })
    return present(SharedSecret)
  }

  override async generateMac(
    material: KeyMaterial,
    algorithm: MacAlgorithm,
    message: Uint8Array,
  ): Promise<Uint8Array> {
    checkMacMessage(material.keySpec, algorithm, message)
    const { Mac } = await this.#call((kms, options) => {
      const input = { KeyId: keyIdOf(material), MacAlgorithm: algorithm, Message: message }
      return kms.send(new this.#sdk.GenerateMacCommand(input), options)
    })
    return present(Mac)
  }

  /** Over there it waits as long as AWS KMS lets a key wait at least; one that waits already, or is gone, is left alone. */
  async destroyKeyMaterial(material: KeyMaterial): Promise<void> {
    const input = { KeyId: keyIdOf(material), PendingWindowInDays: DELETION_DAYS_MIN }
    try {
      await this.#call((kms, options) =>
        kms.send(new this.#sdk.ScheduleKeyDeletionCommand(input), options),
      )
    } catch (error) {
      const { name } = ((error as KeyfoldError).cause ?? {}) as { readonly name?: string }
      if (name !== 'KMSInvalidStateException' && name !== 'NotFoundException') throw error
    }
  }

  /** Nothing of any key is here. */
  forget(): void {}

  override lock(): void {
    super.lock()
    this.#client?.destroy()
    this.#client = undefined
  }

  async probe(): Promise<void> {
    const KeyId = this.#lastKeyId
    try {
      await this.#call(async (kms, options): Promise<unknown> => {
        if (KeyId === undefined) {
          return kms.send(new this.#sdk.ListKeysCommand({ Limit: 1 }), options)
        }
        const input = { KeyId, Plaintext: PROBE, EncryptionContext: contextOf(PROBE) }
        return kms.send(new this.#sdk.EncryptCommand(input), options)
      })
    } catch (error) {
      if (!(error instanceof KeyfoldError) || error.code === 'LOCKED') throw error
      if (isCredentialRefusal(error)) {
        throw new StoreFault('credential', 'KEY_STORE_UNREACHABLE', error.detail, error)
      }
      // Listing keys is nothing that wrapping needs: that it was refused is an answer.
      if (KeyId === undefined && error.code === 'KEY_STORE_REFUSED') return
      throw new KeyfoldError('KEY_STORE_UNREACHABLE', error.detail, error)
    }
  }

  /** A crash before the catalog has it leaves it over there, unused, with its description. */
  async #createRemoteKey(wanted: {
    readonly kmsKeyId: Uint8Array
    readonly version: number
    readonly keySpec: KeySpec
    readonly keyUsage: KeyUsage | undefined
  }): Promise<string> {
    const { version, keySpec } = wanted
    const { usages } = traitsOf(keySpec)
    const keyUsage = wanted.keyUsage ?? (usages.length === 1 ? usages[0] : undefined)
    if (!this.#createsKeys) {
      throw new KeyfoldError(
        'REQUEST_MALFORMED',
        `${this.name} creates no keys: name one of its own`,
      )
    }
    if (keyUsage === undefined) {
      throw new KeyfoldError(
        'REQUEST_MALFORMED',
        `KeyUsage: ${keySpec} is for one of ${usages.join(', ')}`,
      )
    }
    const kmsKeyId = Buffer.from(wanted.kmsKeyId).toString('hex')
    const { KeyMetadata } = await this.#call((kms, options) => {
      const input = {
        KeySpec: keySpec,
        KeyUsage: keyUsage,
        Description: `keyfold KMS key ${kmsKeyId}, key material version ${version}`,
        Tags: [
          { TagKey: 'keyfold-kms-key', TagValue: kmsKeyId },
          { TagKey: 'keyfold-version', TagValue: String(version) },
        ],
      }
      return kms.send(new this.#sdk.CreateKeyCommand(input), options)
    }, KEY_STORE_CREATE_MS)
    return arnOf(KeyMetadata)
  }

  /** The ARN of a key that is there already, once it has shown that it does what it is wanted for. */
  async #checkRemoteKey(
    externalKeyId: string,
    keySpec: KeySpec,
    keyUsage: KeyUsage | undefined,
  ): Promise<string> {
    if (!isRemoteKeyName(externalKeyId)) {
      throw new KeyfoldError('REQUEST_MALFORMED', 'the id of the external key is none')
    }
    const { KeyMetadata } = await this.#call((kms, options) =>
      kms.send(new this.#sdk.DescribeKeyCommand({ KeyId: externalKeyId }), options),
    )
    const keyId = arnOf(KeyMetadata)
    for (const [member, found, wanted] of [
      ['key spec', KeyMetadata?.KeySpec, keySpec],
      ['key usage', KeyMetadata?.KeyUsage, keyUsage ?? KeyMetadata?.KeyUsage],
    ] as const) {
      if (found === wanted) continue
      throw new KeyfoldError(
        'REQUEST_MALFORMED',
        `the external key has another ${member}: ${found}`,
      )
    }
    if (KeyMetadata?.KeyState !== 'Enabled') {
      throw new KeyfoldError('KEY_STORE_REFUSED', `the external key is ${KeyMetadata?.KeyState}`)
    }
    if (keySpec === 'SYMMETRIC_DEFAULT') await this.#tryRemoteKey(keyId)
    return keyId
  }

  /** Encrypt without Decrypt would be found out when it is too late. */
  async #tryRemoteKey(KeyId: string): Promise<void> {
    const EncryptionContext = contextOf(PROBE)
    await this.#call(async (kms, options) => {
      const input = { KeyId, Plaintext: PROBE, EncryptionContext }
      const { CiphertextBlob } = await kms.send(new this.#sdk.EncryptCommand(input), options)
      const output = { KeyId, CiphertextBlob, EncryptionContext }
      return kms.send(new this.#sdk.DecryptCommand(output), options)
    })
  }

  async #readPublicKey(KeyId: string, keySpec: KeySpec): Promise<Uint8Array | undefined> {
    if (!isAsymmetric(keySpec)) return undefined
    const { PublicKey } = await this.#call((kms, options) =>
      kms.send(new this.#sdk.GetPublicKeyCommand({ KeyId }), options),
    )
    const publicKey = present(PublicKey)
    if (openPublicKey(keySpec, publicKey) === undefined) {
      throw new KeyfoldError('INTERNAL', `the key store answered no public key of ${keySpec}`)
    }
    return publicKey
  }

  async #call<T>(
    send: (kms: KMSClient, options: { readonly abortSignal: AbortSignal }) => Promise<T>,
    timeoutMs = this.#timeoutMs,
  ): Promise<T> {
    if (this.#client === undefined) throw new KeyfoldError('LOCKED')
    const deadline = AbortSignal.timeout(timeoutMs)
    const over = new Promise<never>((_, reject) => {
      // The SDK looks at the signal until it has the head of an answer, and waits for the rest without it.
      deadline.addEventListener('abort', () => reject(deadline.reason as Error), { once: true })
    })
    try {
      return await Promise.race([send(this.#client, { abortSignal: deadline }), over])
    } catch (cause) {
      throw awsKmsError(cause)
    }
  }
}

function contextOf(aad: Uint8Array): Record<string, string> {
  return { keyfold: Buffer.from(aad).toString('base64') }
}

function keyIdOf({ stored }: KeyMaterial): string {
  return decodeRemoteKey(stored, WRAPPING_SUITES.awsKms).name
}

function arnOf(metadata: KeyMetadata | undefined): string {
  const { Arn = '' } = metadata ?? {}
  if (!isRemoteKeyName(Arn)) throw new KeyfoldError('INTERNAL', 'the key store answered no ARN')
  return Arn
}

function present(bytes: Uint8Array | undefined): Uint8Array {
  if (bytes === undefined)
    throw new KeyfoldError('INTERNAL', 'the key store answered without bytes')
  return bytes
}
