/** Encryption, under symmetric keys and RSA keys alike; data keys, and random bytes. */
import { randomBytes } from 'node:crypto'

import type { CanonicalContext } from '../../data-keys/lease.ts'
import { assertAlgorithm } from '../../crypto/key-spec.ts'
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
  customKeyStoreId,
  dataKeySize,
  DRY_RUN,
  encryptionAlgorithm,
  GRANT_TOKENS,
  KEY_ID,
  NO_RECIPIENT,
  OPTIONAL_KEY_ID,
  plaintext,
} from './members.ts'
import { keyStoreById } from './key-stores.ts'
import { free, keyed, type Operation } from './operation.ts'
import { list, oneOf, optional, required, whole } from './shapes.ts'

type Context = ReadonlyMap<string, string> | undefined
type EncryptionAlgorithm = ReturnType<typeof encryptionAlgorithm>

const DRY_RUN_MODIFIERS = {
  DryRunModifiers: optional(list(oneOf('IGNORE_CIPHERTEXT'), { max: 1 })),
} as const

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
      const sealed = await seal(call, kmsKey, {
        algorithm,
        context: input.EncryptionContext,
        bytes: input.Plaintext,
      })
      return { CiphertextBlob: sealed, KeyId: kmsKey.arn, EncryptionAlgorithm: algorithm }
    },
    {
      attributes: ({ EncryptionAlgorithm, EncryptionContext }) =>
        attributesOf(EncryptionAlgorithm, EncryptionContext),
      check: ({ EncryptionAlgorithm, EncryptionContext }) =>
        checkContext(EncryptionAlgorithm, EncryptionContext),
      checkKey: ({ EncryptionAlgorithm = 'SYMMETRIC_DEFAULT' }, { keySpec }) =>
        assertAlgorithm(keySpec, EncryptionAlgorithm),
    },
  ),
  free(
    'Decrypt',
    {
      ...OPTIONAL_KEY_ID,
      ...CONTEXT,
      ...GRANT_TOKENS,
      ...DRY_RUN,
      ...DRY_RUN_MODIFIERS,
      ...NO_RECIPIENT,
      CiphertextBlob: optional(ciphertext),
      EncryptionAlgorithm: optional(encryptionAlgorithm),
    },
    async (call, input) => {
      const { EncryptionAlgorithm: algorithm = 'SYMMETRIC_DEFAULT', EncryptionContext } = input
      const sealed = ciphertextOf(input)
      const kmsKey = await keyToOpen(call, 'kms:Decrypt', {
        reference: input.KeyId,
        algorithm,
        context: EncryptionContext,
        ciphertext: sealed,
      })
      assertOperable('Decrypt', kmsKey)
      assertAlgorithm(kmsKey.keySpec, algorithm)
      if (input.DryRun === true || sealed === undefined) throw new KeyfoldError('DRY_RUN')
      const opening = { algorithm, context: EncryptionContext, bytes: sealed }
      return {
        KeyId: kmsKey.arn,
        Plaintext: await open(call, kmsKey, opening),
        EncryptionAlgorithm: algorithm,
        KeyMaterialId: materialOf(kmsKey, opening),
      }
    },
  ),
  free(
    'ReEncrypt',
    {
      ...GRANT_TOKENS,
      ...DRY_RUN,
      ...DRY_RUN_MODIFIERS,
      CiphertextBlob: optional(ciphertext),
      SourceKeyId: OPTIONAL_KEY_ID.KeyId,
      SourceEncryptionContext: CONTEXT.EncryptionContext,
      SourceEncryptionAlgorithm: optional(encryptionAlgorithm),
      DestinationKeyId: KEY_ID.KeyId,
      DestinationEncryptionContext: CONTEXT.EncryptionContext,
      DestinationEncryptionAlgorithm: optional(encryptionAlgorithm),
    },
    async (call, input) => {
      const { SourceEncryptionAlgorithm: from = 'SYMMETRIC_DEFAULT' } = input
      const { DestinationEncryptionAlgorithm: to = 'SYMMETRIC_DEFAULT' } = input
      const sealed = ciphertextOf(input)
      checkContext(to, input.DestinationEncryptionContext)
      const named = {
        reference: input.SourceKeyId,
        algorithm: from,
        context: input.SourceEncryptionContext,
        ciphertext: sealed,
      }
      const sameKey = await isSameKey(call, named, input.DestinationKeyId)
      const parameters = { 'kms:ReEncryptOnSameKey': sameKey }
      const source = await keyToOpen(call, 'kms:ReEncryptFrom', named, parameters)
      const destination = await call.key(
        input.DestinationKeyId,
        'kms:ReEncryptTo',
        attributesOf(to, input.DestinationEncryptionContext, parameters),
      )
      for (const [kmsKey, algorithm] of [
        [source, from],
        [destination, to],
      ] as const) {
        assertOperable('ReEncrypt', kmsKey)
        assertAlgorithm(kmsKey.keySpec, algorithm)
      }
      if (input.DryRun === true || sealed === undefined) throw new KeyfoldError('DRY_RUN')
      const opening = { algorithm: from, context: input.SourceEncryptionContext, bytes: sealed }
      const opened = await open(call, source, opening)
      try {
        const closing = {
          algorithm: to,
          context: input.DestinationEncryptionContext,
          bytes: opened,
        }
        const resealed = await seal(call, destination, closing)
        return {
          CiphertextBlob: resealed,
          SourceKeyId: source.arn,
          KeyId: destination.arn,
          SourceEncryptionAlgorithm: from,
          DestinationEncryptionAlgorithm: to,
          SourceKeyMaterialId: materialOf(source, opening),
          DestinationKeyMaterialId: materialOf(destination, { algorithm: to, bytes: resealed }),
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
    {
      ...NO_RECIPIENT,
      NumberOfBytes: optional(whole(1, 1_024)),
      CustomKeyStoreId: optional(customKeyStoreId),
    },
    async (call, input) => {
      call.authorizeService('kms:GenerateRandom')
      const { NumberOfBytes: bytes, CustomKeyStoreId: keyStore } = input
      if (bytes === undefined) {
        throw new KeyfoldError('REQUEST_MALFORMED', 'NumberOfBytes is required')
      }
      const Plaintext =
        keyStore === undefined ? randomBytes(bytes) : await randomOfKeyStore(call, keyStore, bytes)
      return { Plaintext }
    },
  ),
]

/** Of an HSM. AWS KMS asks no external key store for it. */
async function randomOfKeyStore(call: Call, id: string, bytes: number): Promise<Uint8Array> {
  const { keyStores } = call.engine.kms
  const { id: found } = keyStoreById(call, id)
  if (keyStores.originOf(found) !== 'AWS_CLOUDHSM') {
    throw new KeyfoldError('OPERATION_UNSUPPORTED', 'an external key store gives no random bytes')
  }
  const { store } = keyStores.connectedStore(found)
  const turn = { principalArn: call.principal.arn, urgency: 'other' } as const
  const random = await store.generateRandom?.(bytes, turn)
  if (random === undefined) throw new KeyfoldError('OPERATION_UNSUPPORTED')
  return random
}

function dataKey(
  name: 'GenerateDataKey' | 'GenerateDataKeyWithoutPlaintext',
  plaintextWanted: boolean,
): Operation {
  return keyed(
    name,
    { ...KEY_ID, ...CONTEXT, ...GRANT_TOKENS, ...DRY_RUN, ...NO_RECIPIENT, ...dataKeySize },
    async (call, input, kmsKey) => {
      const bytes = dataKeyBytes(input)
      const { wrappedKey, plaintext: key } = await call.engine.envelope.dataKey({
        kmsKey,
        principalArn: call.principal.arn,
        context: canonical(call, input.EncryptionContext),
        bytes,
        plaintext: plaintextWanted,
      })
      call.used(kmsKey, bytes)
      return {
        CiphertextBlob: wrappedKey,
        Plaintext: key,
        KeyId: kmsKey.arn,
        KeyMaterialId: materialId(kmsKey, kmsKey.currentVersion),
      }
    },
    {
      attributes: ({ EncryptionContext }) => attributesOf('SYMMETRIC_DEFAULT', EncryptionContext),
      check: (input) => void dataKeyBytes(input),
      checkKey: (_input, { keySpec }) => assertAlgorithm(keySpec, 'SYMMETRIC_DEFAULT'),
    },
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

interface Sealing {
  readonly algorithm: EncryptionAlgorithm
  readonly context: Context
  /** What is sealed or opened. */
  readonly bytes: Uint8Array
}

/**
 * One native call for each request. Several requests could share one, as batches do, and would gain nothing: of the
 * 74 µs of CPU that an Encrypt over HTTP costs (Decrypt 80, GenerateDataKey 90; Node 20, 16 connections), wrapping is
 * 4 to 6 and unwrapping 2 to 3. Signature, JSON and permission are 18, and HTTP is the rest.
 */
async function seal(call: Call, kmsKey: KmsKey, sealing: Sealing): Promise<Uint8Array> {
  const { algorithm, context, bytes } = sealing
  const { envelope } = call.engine
  const principalArn = call.principal.arn
  assertAlgorithm(kmsKey.keySpec, algorithm)
  const sealed =
    algorithm === 'SYMMETRIC_DEFAULT'
      ? await envelope.encryptBytes({
          kmsKey,
          principalArn,
          context: canonical(call, context),
          plaintext: bytes,
        })
      : envelope.encryptWithPublicKey({ kmsKey, principalArn, algorithm, bytes })
  call.used(kmsKey, bytes.length)
  return sealed
}

async function open(call: Call, kmsKey: KmsKey, opening: Sealing): Promise<Uint8Array> {
  const { algorithm, context, bytes } = opening
  const { principal } = call
  const { envelope } = call.engine
  assertAlgorithm(kmsKey.keySpec, algorithm)
  if (algorithm !== 'SYMMETRIC_DEFAULT') {
    const use = { kmsKey, principalArn: principal.arn }
    const opened = await envelope.decryptWithPrivateKey({ ...use, algorithm, bytes })
    call.used(kmsKey, opened.length)
    return opened
  }
  const opened = await envelope.decryptBytes({
    principal,
    kmsKey,
    context: canonical(call, context),
    ciphertext: bytes,
  })
  call.used(kmsKey, opened.length, readWrapping(bytes).materialVersion)
  return opened
}

/** Only symmetric keys have several. */
function materialOf(
  kmsKey: KmsKey,
  { algorithm, bytes }: Pick<Sealing, 'algorithm' | 'bytes'>,
): string | undefined {
  if (algorithm !== 'SYMMETRIC_DEFAULT') return undefined
  return materialId(kmsKey, readWrapping(bytes).materialVersion)
}

/** undefined: a dry run that asks about permission alone, which needs none. */
function ciphertextOf(input: {
  readonly CiphertextBlob: Uint8Array | undefined
  readonly DryRun: boolean | undefined
  readonly DryRunModifiers: readonly string[] | undefined
}): Uint8Array | undefined {
  const { CiphertextBlob, DryRun = false, DryRunModifiers = [] } = input
  if (DryRunModifiers.length > 0) {
    if (DryRun) return undefined
    throw new KeyfoldError('REQUEST_MALFORMED', 'DryRunModifiers: only together with DryRun')
  }
  if (CiphertextBlob !== undefined) return CiphertextBlob
  throw new KeyfoldError(
    'REQUEST_MALFORMED',
    "1 validation error detected: Value null at 'ciphertextBlob' failed to satisfy constraint: " +
      'Member must not be null',
  )
}

/** How a request names the key that opens. */
interface Opener {
  readonly reference: string | undefined
  readonly algorithm: EncryptionAlgorithm
  readonly context: Context
  readonly ciphertext: Uint8Array | undefined
}

/** The key that opens: what RSA sealed names none, and what we wrapped names one, which a KeyId must agree with. */
async function keyToOpen(
  call: Call,
  action: Action,
  { reference, algorithm, context, ciphertext }: Opener,
  parameters: RequestAttributes['parameters'] = {},
): Promise<KmsKey> {
  checkContext(algorithm, context)
  const attributes = attributesOf(algorithm, context, parameters)
  const selfDescribing = algorithm === 'SYMMETRIC_DEFAULT' && ciphertext !== undefined
  if (reference === undefined) {
    if (!selfDescribing) throw new KeyfoldError('REQUEST_MALFORMED', 'KeyId must not be null')
    return call.keyOfCiphertext(readWrapping(ciphertext).kmsKeyId, action, attributes)
  }
  const named = await call.key(reference, action, attributes)
  // RSA's ciphertext under a symmetric algorithm is, as with AWS KMS, one that does not open.
  if (!selfDescribing) return named
  if (Buffer.compare(named.idBytes, readWrapping(ciphertext).kmsKeyId) === 0) return named
  throw new KeyfoldError(
    'KMS_KEY_INCORRECT',
    'The key ID in the request does not identify a CMK that can perform this operation.',
  )
}

/** Nobody is told: whether each of the two may be used is asked afterwards. */
async function isSameKey(
  call: Call,
  { reference, algorithm, ciphertext }: Opener,
  destination: string,
): Promise<boolean> {
  const to = await call.find(destination)
  if (to === undefined) return false
  if (reference !== undefined) return (await call.find(reference))?.id === to.id
  if (algorithm !== 'SYMMETRIC_DEFAULT' || ciphertext === undefined) return false
  return Buffer.compare(to.idBytes, readWrapping(ciphertext).kmsKeyId) === 0
}

function checkContext(algorithm: EncryptionAlgorithm | undefined, context: Context): void {
  if (algorithm === undefined || algorithm === 'SYMMETRIC_DEFAULT') return
  if (context === undefined || context.size === 0) return
  throw new KeyfoldError(
    'REQUEST_MALFORMED',
    'EncryptionContext is not supported when encrypting/decrypting with asymmetric CMKs.',
  )
}

/** What policies and grants may read of a use of an encryption key. */
export function attributesOf(
  algorithm: EncryptionAlgorithm = 'SYMMETRIC_DEFAULT',
  context: Context,
  parameters: RequestAttributes['parameters'] = {},
): RequestAttributes {
  return {
    encryptionContext:
      algorithm === 'SYMMETRIC_DEFAULT' ? (context ?? new Map<string, string>()) : undefined,
    parameters: { ...parameters, 'kms:EncryptionAlgorithm': algorithm },
  }
}

export function canonical(call: Call, context: Context): CanonicalContext {
  const bytes = encodeEncryptionContext(context ?? [])
  return { bytes, hash: call.engine.crypto.sha256(bytes) }
}
