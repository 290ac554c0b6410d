/**
 * A `KMS` of @aws-sdk/client-kms as the KMS of a keyring: AWS KMS, or whatever endpoint it was made for. The package
 * is the user's own; nothing here imports it.
 */
import type { EncryptionContext } from '../../client/wire.ts'
import { KeyfoldError } from '../../errors.ts'
import type { KmsClient } from './kms-keyring.ts'

interface AwsInput {
  readonly KeyId: string
  /** Not readonly in the SDK's own types. */
  EncryptionContext: Record<string, string>
}

interface AwsOutput {
  readonly KeyId?: string | undefined
  readonly Plaintext?: Uint8Array | undefined
  readonly CiphertextBlob?: Uint8Array | undefined
}

/** As much of the SDK's `KMS` as is used; it extends KMSClient and takes the same configuration. */
export interface AwsKms {
  generateDataKey(input: AwsInput & { readonly NumberOfBytes: number }): Promise<AwsOutput>
  encrypt(input: AwsInput & { readonly Plaintext: Uint8Array }): Promise<AwsOutput>
  decrypt(input: AwsInput & { readonly CiphertextBlob: Uint8Array }): Promise<AwsOutput>
}

/** Errors: those of the SDK, as they are; CONNECTION_FAILED where an answer lacks a member. */
export function awsKmsClient(kms: AwsKms): KmsClient {
  return {
    async generateDataKey({ keyId, context, bytes }) {
      const output = await kms.generateDataKey({ ...inputOf(keyId, context), NumberOfBytes: bytes })
      return {
        keyId: presentOf(output.KeyId),
        plaintext: taken(output.Plaintext),
        ciphertext: presentOf(output.CiphertextBlob),
      }
    },
    async encrypt({ keyId, context, plaintext }) {
      const output = await kms.encrypt({ ...inputOf(keyId, context), Plaintext: plaintext })
      return { keyId: presentOf(output.KeyId), ciphertext: presentOf(output.CiphertextBlob) }
    },
    async decrypt({ keyId, context, ciphertext }) {
      const output = await kms.decrypt({
        ...inputOf(keyId, context),
        CiphertextBlob: ciphertext,
      })
      return { keyId: presentOf(output.KeyId), plaintext: taken(output.Plaintext) }
    },
  }
}

function inputOf(keyId: string, context: EncryptionContext): AwsInput {
  return { KeyId: keyId, EncryptionContext: { ...context } }
}

function presentOf<T>(member: T | undefined): T {
  if (member === undefined) {
    throw new KeyfoldError('CONNECTION_FAILED', 'the answer of the KMS lacks a member')
  }
  return member
}

function taken(view: Uint8Array | undefined): Buffer {
  const bytes = presentOf(view)
  const plaintext = Buffer.from(bytes)
  bytes.fill(0)
  return plaintext
}
