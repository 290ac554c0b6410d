/** Signatures, MACs, shared secrets and key pairs. */
import { assertAlgorithm } from '../../crypto/key-spec.ts'
import { checkSignable, type Signable } from '../../crypto/signature.ts'
import type { KeyInUse } from '../../envelope/batch.ts'
import { KeyfoldError } from '../../errors.ts'
import type { KmsKey } from '../../kms/kms-key.ts'
import { materialId } from '../../kms/reference.ts'
import type { Call } from './call.ts'
import { algorithmsOf } from './keys.ts'
import {
  CONTEXT,
  DRY_RUN,
  GRANT_TOKENS,
  KEY_ID,
  keyAgreementAlgorithm,
  keyPairSpec,
  mac,
  macAlgorithm,
  message,
  messageType,
  NO_RECIPIENT,
  publicKey,
  signature,
  signingAlgorithm,
  supported,
} from './members.ts'
import { keyed, type Operation } from './operation.ts'
import { optional, required, type Input } from './shapes.ts'
import { attributesOf, canonical } from './symmetric.ts'

const SIGNING = {
  ...KEY_ID,
  ...GRANT_TOKENS,
  ...DRY_RUN,
  Message: required(message),
  MessageType: optional(messageType),
  SigningAlgorithm: required(signingAlgorithm),
} as const

const MAC = {
  ...KEY_ID,
  ...GRANT_TOKENS,
  ...DRY_RUN,
  Message: required(message),
  MacAlgorithm: required(macAlgorithm),
} as const

const signing = {
  attributes: ({ SigningAlgorithm, MessageType = 'RAW' }: Input<typeof SIGNING>) => ({
    parameters: { 'kms:SigningAlgorithm': SigningAlgorithm, 'kms:MessageType': MessageType },
  }),
  checkKey: (input: Input<typeof SIGNING>, kmsKey: KmsKey) => void signableOf(kmsKey, input),
}

const authenticating = {
  attributes: ({ MacAlgorithm }: Input<typeof MAC>) => ({
    parameters: { 'kms:MacAlgorithm': MacAlgorithm },
  }),
  checkKey: ({ MacAlgorithm }: Input<typeof MAC>, { keySpec }: KmsKey) =>
    assertAlgorithm(keySpec, MacAlgorithm),
}

export const ASYMMETRIC_OPERATIONS: readonly Operation[] = [
  keyed(
    'Sign',
    SIGNING,
    async (call, input, kmsKey) => {
      const signable = signableOf(kmsKey, input)
      const made = await call.engine.envelope.sign({ ...inUse(call, kmsKey), signable })
      call.used(kmsKey, input.Message.length)
      return { KeyId: kmsKey.arn, Signature: made, SigningAlgorithm: input.SigningAlgorithm }
    },
    signing,
  ),
  keyed(
    'Verify',
    { ...SIGNING, Signature: required(signature) },
    async (call, input, kmsKey) => {
      const signable = signableOf(kmsKey, input)
      await call.engine.envelope.verify({
        ...inUse(call, kmsKey),
        signable,
        signature: input.Signature,
      })
      call.used(kmsKey, input.Message.length)
      return {
        KeyId: kmsKey.arn,
        SignatureValid: true,
        SigningAlgorithm: input.SigningAlgorithm,
      }
    },
    signing,
  ),
  keyed(
    'GenerateMac',
    MAC,
    async (call, { MacAlgorithm, Message }, kmsKey) => {
      const { envelope } = call.engine
      const made = await envelope.generateMac({
        ...inUse(call, kmsKey),
        algorithm: MacAlgorithm,
        message: Message,
      })
      call.used(kmsKey, Message.length)
      return { KeyId: kmsKey.arn, Mac: made, MacAlgorithm }
    },
    authenticating,
  ),
  keyed(
    'VerifyMac',
    { ...MAC, Mac: required(mac) },
    async (call, input, kmsKey) => {
      await call.engine.envelope.verifyMac({
        ...inUse(call, kmsKey),
        algorithm: input.MacAlgorithm,
        message: input.Message,
        mac: input.Mac,
      })
      call.used(kmsKey, input.Message.length)
      return { KeyId: kmsKey.arn, MacValid: true, MacAlgorithm: input.MacAlgorithm }
    },
    authenticating,
  ),
  keyed('GetPublicKey', { ...KEY_ID, ...GRANT_TOKENS }, async (call, _input, kmsKey) => ({
    KeyId: kmsKey.arn,
    PublicKey: call.engine.envelope.publicKey(kmsKey),
    CustomerMasterKeySpec: kmsKey.keySpec,
    KeySpec: kmsKey.keySpec,
    KeyUsage: kmsKey.keyUsage,
    ...algorithmsOf(kmsKey),
  })),
  keyed(
    'DeriveSharedSecret',
    {
      ...KEY_ID,
      ...GRANT_TOKENS,
      ...DRY_RUN,
      ...NO_RECIPIENT,
      KeyAgreementAlgorithm: required(keyAgreementAlgorithm),
      PublicKey: required(publicKey),
    },
    async (call, input, kmsKey) => {
      const shared = await call.engine.envelope.deriveSharedSecret({
        ...inUse(call, kmsKey),
        algorithm: input.KeyAgreementAlgorithm,
        peer: input.PublicKey,
      })
      call.used(kmsKey, shared.length)
      return {
        KeyId: kmsKey.arn,
        SharedSecret: shared,
        KeyAgreementAlgorithm: input.KeyAgreementAlgorithm,
        KeyOrigin: kmsKey.origin,
      }
    },
    {
      attributes: ({ KeyAgreementAlgorithm }) => ({
        parameters: { 'kms:KeyAgreementAlgorithm': KeyAgreementAlgorithm },
      }),
    },
  ),
  dataKeyPair('GenerateDataKeyPair', true),
  dataKeyPair('GenerateDataKeyPairWithoutPlaintext', false),
]

function dataKeyPair(
  name: 'GenerateDataKeyPair' | 'GenerateDataKeyPairWithoutPlaintext',
  plaintext: boolean,
): Operation {
  return keyed(
    name,
    {
      ...KEY_ID,
      ...CONTEXT,
      ...GRANT_TOKENS,
      ...DRY_RUN,
      ...NO_RECIPIENT,
      KeyPairSpec: required(keyPairSpec),
    },
    async (call, input, kmsKey) => {
      const { wrappedPrivateKey, privateKey, publicKey } = await call.engine.envelope.dataKeyPair({
        ...inUse(call, kmsKey),
        context: canonical(call, input.EncryptionContext),
        keyPairSpec: supported(input.KeyPairSpec),
        plaintext,
      })
      call.used(kmsKey, publicKey.length)
      return {
        PrivateKeyCiphertextBlob: wrappedPrivateKey,
        PrivateKeyPlaintext: privateKey,
        PublicKey: publicKey,
        KeyId: kmsKey.arn,
        KeyPairSpec: input.KeyPairSpec,
        KeyMaterialId: materialId(kmsKey, kmsKey.currentVersion),
      }
    },
    {
      attributes: ({ EncryptionContext, KeyPairSpec }) =>
        attributesOf('SYMMETRIC_DEFAULT', EncryptionContext, {
          'kms:DataKeyPairSpec': KeyPairSpec,
        }),
      check: ({ KeyPairSpec }) => void supported(KeyPairSpec),
      checkKey: (_input, { keySpec }) => assertAlgorithm(keySpec, 'SYMMETRIC_DEFAULT'),
    },
  )
}

function inUse({ principal }: Call, kmsKey: KmsKey): KeyInUse {
  return { kmsKey, principalArn: principal.arn }
}

/** Throws what makes it unsignable under this key. */
function signableOf(
  { keySpec }: KmsKey,
  { Message, MessageType = 'RAW', SigningAlgorithm }: Input<typeof SIGNING>,
): Signable {
  assertAlgorithm(keySpec, SigningAlgorithm)
  if (MessageType === 'EXTERNAL_MU') {
    throw new KeyfoldError(
      'REQUEST_MALFORMED',
      `Message type EXTERNAL_MU is incompatible with key spec ${keySpec}.`,
    )
  }
  const signable = { algorithm: SigningAlgorithm, messageType: MessageType, message: Message }
  checkSignable(keySpec, signable)
  return signable
}
