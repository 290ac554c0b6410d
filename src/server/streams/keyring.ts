/**
 * The keyring of one stream: a caller's data keys, under KMS keys of this server, as the AWS Encryption SDK's KMS
 * keyring would ask for them: kms:GenerateDataKey to encrypt, kms:Decrypt for the key of a wrapping to decrypt.
 */
import type { CanonicalContext } from '../../data-keys/lease.ts'
import type { Engine } from '../../engine.ts'
import { BatchAttributes } from '../../envelope/attributes.ts'
import type { MaterialUse } from '../../envelope/batch.ts'
import { readWrapping } from '../../envelope/caller-bytes.ts'
import { authorizedKey } from '../../envelope/parts.ts'
import { KeyfoldError } from '../../errors.ts'
import type { EncryptedDataKey } from '../../format/encryption-sdk.ts'
import type { KmsKey, Principal, RequestOrigin } from '../../kms/kms-key.ts'
import { parseKeyReference } from '../../kms/reference.ts'
import {
  unwrapFirst,
  type GeneratedDataKey,
  type Keyring,
  type KeyringRequest,
} from '../../streams/keyring.ts'
import { KMS_PROVIDER_ID } from '../../streams/keyrings/names.ts'
import type { RequestRecord } from '../records.ts'

export interface StreamCaller {
  readonly principal: Principal
  readonly origin: RequestOrigin
  /** As the caller named it. */
  readonly key: string | undefined
  /** Undefined where there is no audit log. */
  readonly record: RequestRecord | undefined
}

export class CallerKeyring implements Pick<Keyring, 'generateDataKey' | 'unwrapDataKey'> {
  readonly #engine: Engine
  readonly #caller: StreamCaller
  readonly #refusedKeys = new Set<string>()
  /** Of the data key that was made or unwrapped: one, or none. */
  uses: readonly MaterialUse[] = []

  constructor(engine: Engine, caller: StreamCaller) {
    this.#engine = engine
    this.#caller = caller
  }

  async generateDataKey({ contextBytes }: KeyringRequest): Promise<GeneratedDataKey> {
    const { principal, origin, key = '' } = this.#caller
    const { keyId, dataKeys, uses } = await this.#engine.envelope.dataKeys({
      principal,
      origin,
      key,
      context: this.#canonical(contextBytes),
      count: 1,
      plaintext: true,
    })
    this.#used(uses)
    const [made] = dataKeys
    if (made?.plaintext === undefined) throw new KeyfoldError('INTERNAL', 'no data key was made')
    const providerInfo = Buffer.from(keyId)
    const wrapped = { providerId: KMS_PROVIDER_ID, providerInfo, ciphertext: made.wrappedKey }
    return { dataKey: bufferOver(made.plaintext), encryptedDataKeys: [wrapped] }
  }

  unwrapDataKey(
    encryptedDataKeys: readonly EncryptedDataKey[],
    { keyBytes, contextBytes }: KeyringRequest,
  ): Promise<Buffer | undefined> {
    const context = this.#canonical(contextBytes)
    return unwrapFirst(encryptedDataKeys, keyBytes, async ({ ciphertext, ...wrapped }) => {
      const arn = this.#keyOf(wrapped)
      if (arn === undefined) return undefined
      try {
        return await this.#unwrap(arn, context, ciphertext)
      } catch (error) {
        this.#refusedKeys.add(arn)
        this.#caller.record?.used([], [...this.#refusedKeys])
        throw error
      }
    })
  }

  async #unwrap(arn: string, context: CanonicalContext, ciphertext: Uint8Array): Promise<Buffer> {
    const { registry } = this.#engine.kms
    const { authorizer } = this.#engine
    const { principal, origin } = this.#caller
    const kmsKey = await authorizedKey(
      { registry, authorizer },
      {
        principal,
        action: 'kms:Decrypt',
        key: arn,
        attributes: new BatchAttributes(context, undefined, origin),
      },
    )
    await this.#checkNamed(kmsKey)
    const { kmsKeyId, materialVersion } = readWrapping(ciphertext)
    if (Buffer.compare(kmsKeyId, kmsKey.idBytes) !== 0) throw new KeyfoldError('KMS_KEY_INCORRECT')
    const request = { principal, kmsKey, context, ciphertext }
    const dataKey = await this.#engine.envelope.decryptBytes(request)
    this.#used([{ kmsKey, materialVersion, messages: 1 }])
    return bufferOver(dataKey)
  }

  /** Throws KMS_KEY_INCORRECT where the caller named another key. */
  async #checkNamed({ arn }: KmsKey): Promise<void> {
    const { principal, key } = this.#caller
    if (key === undefined) return
    const { authorizer, kms } = this.#engine
    const named = await kms.registry.resolve(key).catch((error: unknown) => {
      const absent = error instanceof KeyfoldError && error.code === 'KMS_KEY_NOT_FOUND'
      throw absent ? authorizer.absentKeyError(principal, 'kms:Decrypt') : error
    })
    if (named.arn !== arn) throw new KeyfoldError('KMS_KEY_INCORRECT')
  }

  /** ARN of the key that a wrapping is under; undefined where it is none of this server's. */
  #keyOf({ providerId, providerInfo }: Omit<EncryptedDataKey, 'ciphertext'>): string | undefined {
    if (providerId !== KMS_PROVIDER_ID) return undefined
    const arn = Buffer.from(providerInfo).toString('latin1')
    const { account, region, otherRegions } = this.#engine.config
    try {
      const { kind } = parseKeyReference(
        arn,
        { account, regions: [region, ...otherRegions] },
        region,
      )
      // Whatever a key may be called besides, a file names it by its ARN.
      return kind === 'id' && arn.startsWith('arn:') ? arn : undefined
    } catch {
      return undefined
    }
  }

  #used(uses: readonly MaterialUse[]): void {
    this.uses = uses
    this.#caller.record?.used(uses, [...this.#refusedKeys])
  }

  #canonical(bytes: Uint8Array): CanonicalContext {
    this.#caller.record?.asked(bytes, 1, this.#caller.key)
    return { bytes, hash: this.#engine.crypto.sha256(bytes) }
  }
}

/** The same memory: whoever wipes the one wipes the other. */
function bufferOver({ buffer, byteOffset, length }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, length)
}
