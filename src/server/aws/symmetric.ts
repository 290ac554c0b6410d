/** Encryption and data keys under symmetric KMS keys, and random bytes. */
import { randomBytes } from 'node:crypto'

import type { CanonicalContext } from '../../data-keys/lease.ts'
import { readWrapping } from '../../envelope/caller-bytes.ts'
import { KeyfoldError } from '../../errors.ts'
import { encodeEncryptionContext } from '../../format/encryption-context.ts'
import { materialId } from '../../kms/reference.ts'
import { assertOperable } from '../../kms/key-states.ts'
import type { Action, KmsKey, RequestAttributes } from '../../kms/kms-key.ts'
import type { Call } from './call.ts'
import {
  ciphertext,
  CONTEXT,
  dataKeySize,
  DRY_RUN,
  encryptionAlgorithm,
  GRANT_TOKENS,
  KEY_ID,
  OPTIONAL_KEY_ID,
  plaintext,
} from './members.ts'
import { free, keyed, type Operation } from './operation.ts'
import { optional, required, text, whole } from './shapes.ts'

type Context = ReadonlyMap<string, string> | undefined

export const SYMMETRIC_OPERATIONS: readonly Operation[] = [
  keyed(
    'Encrypt',
    {
      ...KEY_ID,
      ...CONTEXT,
      ...GRANT_TOKENS,
      ...DRY_RUN,
      Plaintext: required(plaintext),
      EncryptionAlgorithm: optional(encryptionAlgorithm),
    },
    async (call, input, kmsKey) => {
      const { EncryptionAlgorithm: algorithm = 'SYMMETRIC_DEFAULT' } = input
      const context = canonical(call, input.EncryptionContext)
      const sealed = await call.engine.envelope.encryptBytes({
        kmsKey,
        context,
        plaintext: input.Plaintext,
      })
      return { CiphertextBlob: sealed, KeyId: kmsKey.arn, EncryptionAlgorithm: algorithm }
    },
    { attributes: contextAttributes },
  ),
  free(
    'Decrypt',
    {
      ...OPTIONAL_KEY_ID,
      ...CONTEXT,
      ...GRANT_TOKENS,
      ...DRY_RUN,
      CiphertextBlob: required(ciphertext),
      EncryptionAlgorithm: optional(encryptionAlgorithm),
    },
    async (call, input) => {
      const kmsKey = await keyToOpen(call, 'kms:Decrypt', input.KeyId, input)
      assertOperable('Decrypt', kmsKey)
      if (input.DryRun === true) throw new KeyfoldError('DRY_RUN')
      const opened = await call.engine.envelope.decryptBytes({
        principal: call.principal,
        kmsKey,
        context: canonical(call, input.EncryptionContext),
        ciphertext: input.CiphertextBlob,
      })
      const { materialVersion } = readWrapping(input.CiphertextBlob)
      return {
        KeyId: kmsKey.arn,
        Plaintext: opened,
        EncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
        KeyMaterialId: materialId(kmsKey, materialVersion),
      }
    },
  ),
  free(
    'ReEncrypt',
    {
      ...GRANT_TOKENS,
      ...DRY_RUN,
      CiphertextBlob: required(ciphertext),
      SourceKeyId: OPTIONAL_KEY_ID.KeyId,
      SourceEncryptionContext: CONTEXT.EncryptionContext,
      SourceEncryptionAlgorithm: optional(encryptionAlgorithm),
      DestinationKeyId: KEY_ID.KeyId,
      DestinationEncryptionContext: CONTEXT.EncryptionContext,
      DestinationEncryptionAlgorithm: optional(encryptionAlgorithm),
    },
    async (call, input) => {
      const { CiphertextBlob, SourceEncryptionContext, DestinationEncryptionContext } = input
      const source = await keyToOpen(call, 'kms:ReEncryptFrom', input.SourceKeyId, {
        CiphertextBlob,
        EncryptionContext: SourceEncryptionContext,
      })
      const destination = await call.key(
        input.DestinationKeyId,
        'kms:ReEncryptTo',
        contextAttributes({ EncryptionContext: DestinationEncryptionContext }),
      )
      assertOperable('ReEncrypt', source)
      assertOperable('ReEncrypt', destination)
      if (input.DryRun === true) throw new KeyfoldError('DRY_RUN')
      const { envelope } = call.engine
      const opened = await envelope.decryptBytes({
        principal: call.principal,
        kmsKey: source,
        context: canonical(call, SourceEncryptionContext),
        ciphertext: CiphertextBlob,
      })
      try {
        const sealed = await envelope.encryptBytes({
          kmsKey: destination,
          context: canonical(call, DestinationEncryptionContext),
          plaintext: opened,
        })
        return {
          CiphertextBlob: sealed,
          SourceKeyId: source.arn,
          KeyId: destination.arn,
          SourceEncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
          DestinationEncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
          SourceKeyMaterialId: materialId(source, readWrapping(CiphertextBlob).materialVersion),
          DestinationKeyMaterialId: materialId(destination, destination.currentVersion),
        }
      } finally {
        opened.fill(0)
      }
    },
  ),
  dataKey('GenerateDataKey', true),
  dataKey('GenerateDataKeyWithoutPlaintext', false),
  free(
    'GenerateRandom',
    { NumberOfBytes: optional(whole(1, 1_024)), CustomKeyStoreId: optional(text({ max: 64 })) },
    async (call, input) => {
      call.authorizeService('kms:GenerateRandom')
      if (input.CustomKeyStoreId !== undefined) {
        throw new KeyfoldError('OPERATION_UNSUPPORTED', 'there are no custom key stores yet')
      }
      const { NumberOfBytes: bytes } = input
      if (bytes === undefined) {
        throw new KeyfoldError('REQUEST_MALFORMED', 'NumberOfBytes is required')
      }
      return { Plaintext: randomBytes(bytes) }
    },
  ),
]

function dataKey(
  name: 'GenerateDataKey' | 'GenerateDataKeyWithoutPlaintext',
  plaintextWanted: boolean,
): Operation {
  return keyed(
    name,
    { ...KEY_ID, ...CONTEXT, ...GRANT_TOKENS, ...DRY_RUN, ...dataKeySize },
    async (call, input, kmsKey) => {
      const { wrappedKey, plaintext: key } = await call.engine.envelope.dataKey({
        kmsKey,
        context: canonical(call, input.EncryptionContext),
        bytes: dataKeyBytes(input),
        plaintext: plaintextWanted,
      })
      return {
        CiphertextBlob: wrappedKey,
        Plaintext: key,
        KeyId: kmsKey.arn,
        KeyMaterialId: materialId(kmsKey, kmsKey.currentVersion),
      }
    },
    { attributes: contextAttributes, check: (input) => void dataKeyBytes(input) },
  )
}

/** AWS KMS wants one of the two, and says so. */
function dataKeyBytes({
  KeySpec,
  NumberOfBytes,
}: {
  readonly KeySpec: 'AES_256' | 'AES_128' | undefined
  readonly NumberOfBytes: number | undefined
}): number {
  if ((KeySpec === undefined) === (NumberOfBytes === undefined)) {
    throw new KeyfoldError(
      'REQUEST_MALFORMED',
      'Please specify either number of bytes or key spec.',
    )
  }
  return NumberOfBytes ?? (KeySpec === 'AES_128' ? 16 : 32)
}

/** The key that opens a ciphertext: the one it names, which a KeyId must agree with. */
async function keyToOpen(
  call: Call,
  action: Action,
  reference: string | undefined,
  input: { readonly CiphertextBlob: Uint8Array; readonly EncryptionContext: Context },
): Promise<KmsKey> {
  const attributes = contextAttributes(input)
  const named = reference === undefined ? undefined : await call.key(reference, action, attributes)
  const { kmsKeyId } = readWrapping(input.CiphertextBlob)
  if (named === undefined) return call.keyOfCiphertext(kmsKeyId, action, attributes)
  if (Buffer.compare(named.idBytes, kmsKeyId) === 0) return named
  throw new KeyfoldError(
    'KMS_KEY_INCORRECT',
    'The key ID in the request does not identify a CMK that can perform this operation.',
  )
}

export function contextAttributes(input: {
  readonly EncryptionContext: Context
}): RequestAttributes {
  return { encryptionContext: input.EncryptionContext ?? new Map<string, string>() }
}

export function canonical(call: Call, context: Context): CanonicalContext {
  const bytes = encodeEncryptionContext(context ?? [])
  return { bytes, hash: call.engine.crypto.sha256(bytes) }
}
