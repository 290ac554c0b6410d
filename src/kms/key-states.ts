/**
 * Which operation may be asked of a KMS key in which state (AWS KMS Developer Guide, "Key states of AWS KMS keys"),
 * as one table: a letter for each of the states below, in their order.
 *
 *     Y  allowed
 *     D  DisabledException (or, of a key that waits for deletion, KMSInvalidStateException: AWS documents both)
 *     S  KMSInvalidStateException
 *     U  UnsupportedOperationException
 */
import type { KeyUsage } from '../crypto/key-spec.ts'
import { KeyfoldError } from '../errors.ts'
import { STATE_WORDS, type KeyOrigin, type KeyState, type KmsKey } from './kms-key.ts'

const STATES = [
  'Enabled',
  'Disabled',
  'PendingDeletion',
  'PendingReplicaDeletion',
  'PendingImport',
  'Unavailable',
] as const satisfies readonly KeyState[]

/** Any cryptographic use, and what is done with the key's own material. */
const CRYPTOGRAPHY = 'YDSSSS'

const OPERATIONS = {
  Encrypt: CRYPTOGRAPHY,
  Decrypt: CRYPTOGRAPHY,
  ReEncrypt: CRYPTOGRAPHY,
  GenerateDataKey: CRYPTOGRAPHY,
  GenerateDataKeyWithoutPlaintext: CRYPTOGRAPHY,
  GenerateDataKeyPair: CRYPTOGRAPHY,
  GenerateDataKeyPairWithoutPlaintext: CRYPTOGRAPHY,
  GenerateMac: CRYPTOGRAPHY,
  VerifyMac: CRYPTOGRAPHY,
  Sign: CRYPTOGRAPHY,
  Verify: CRYPTOGRAPHY,
  DeriveSharedSecret: CRYPTOGRAPHY,
  GetPublicKey: CRYPTOGRAPHY,
  ReplicateKey: CRYPTOGRAPHY,
  UpdatePrimaryRegion: CRYPTOGRAPHY,
  CreateGrant: 'YDSSSY',
  CancelKeyDeletion: 'SSYYSS',
  ScheduleKeyDeletion: 'YYSSYY',
  CreateAlias: 'YYSSYY',
  UpdateAlias: 'YYSSYY',
  DeleteAlias: 'YYYYYY',
  TagResource: 'YYSSYY',
  UntagResource: 'YYSSYY',
  UpdateKeyDescription: 'YYSSYY',
  EnableKey: 'YYSSSY',
  DisableKey: 'YYSSSY',
  EnableKeyRotation: 'YDSSUU',
  DisableKeyRotation: 'YDSSUU',
  RotateKeyOnDemand: 'YDSSSS',
  GetKeyRotationStatus: 'YYYYUU',
  GetParametersForImport: 'YYSSYU',
  ImportKeyMaterial: 'YYSSYU',
  DeleteImportedKeyMaterial: 'YYYYYY',
  DescribeKey: 'YYYYYY',
  GetKeyPolicy: 'YYYYYY',
  PutKeyPolicy: 'YYYYYY',
  ListKeyPolicies: 'YYYYYY',
  ListKeyRotations: 'YYYYYY',
  ListAliases: 'YYYYYY',
  ListGrants: 'YYYYYY',
  ListResourceTags: 'YYYYYY',
  GetKeyLastUsage: 'YYYYYY',
  RetireGrant: 'YYYYYY',
  RevokeGrant: 'YYYYYY',
} as const

export type KeyOperation = keyof typeof OPERATIONS

/** Operations for keys of some origins, in whichever state they are (the guide's footnotes 7 and 9). */
const ORIGINS: Partial<Record<KeyOperation, readonly KeyOrigin[]>> = {
  EnableKeyRotation: ['AWS_KMS'],
  DisableKeyRotation: ['AWS_KMS'],
  GetKeyRotationStatus: ['AWS_KMS'],
  GetParametersForImport: ['EXTERNAL'],
  ImportKeyMaterial: ['EXTERNAL'],
  DeleteImportedKeyMaterial: ['EXTERNAL'],
}

/** Operations for keys of one usage. */
const USAGES: Partial<Record<KeyOperation, KeyUsage>> = {
  Encrypt: 'ENCRYPT_DECRYPT',
  Decrypt: 'ENCRYPT_DECRYPT',
  ReEncrypt: 'ENCRYPT_DECRYPT',
  GenerateDataKey: 'ENCRYPT_DECRYPT',
  GenerateDataKeyWithoutPlaintext: 'ENCRYPT_DECRYPT',
  GenerateDataKeyPair: 'ENCRYPT_DECRYPT',
  GenerateDataKeyPairWithoutPlaintext: 'ENCRYPT_DECRYPT',
  GenerateMac: 'GENERATE_VERIFY_MAC',
  VerifyMac: 'GENERATE_VERIFY_MAC',
  Sign: 'SIGN_VERIFY',
  Verify: 'SIGN_VERIFY',
  DeriveSharedSecret: 'KEY_AGREEMENT',
}

/**
 * Throws KMS_KEY_DISABLED, KMS_KEY_STATE_INVALID, OPERATION_UNSUPPORTED or KMS_KEY_USAGE_INVALID, in AWS KMS's words.
 */
export function assertOperable(
  operation: KeyOperation,
  kmsKey: Pick<KmsKey, 'state' | 'arn' | 'origin' | 'keyUsage'>,
): void {
  assertStateAllows(operation, kmsKey)
  const { arn, keyUsage } = kmsKey
  if ((USAGES[operation] ?? keyUsage) === keyUsage) return
  throw new KeyfoldError(
    'KMS_KEY_USAGE_INVALID',
    `${arn} key usage is ${keyUsage} which is not valid for ${operation}.`,
  )
}

function assertStateAllows(
  operation: KeyOperation,
  { state, arn, origin }: Pick<KmsKey, 'state' | 'arn' | 'origin'>,
): void {
  const unsupported = (): KeyfoldError =>
    new KeyfoldError(
      'OPERATION_UNSUPPORTED',
      `${arn} origin is ${origin} which is not valid for this operation.`,
    )
  if (ORIGINS[operation]?.includes(origin) === false) throw unsupported()
  switch (OPERATIONS[operation][STATES.indexOf(state)]) {
    case 'Y':
      return
    case 'D':
      throw new KeyfoldError('KMS_KEY_DISABLED', `${arn} is disabled.`)
    case 'U':
      throw unsupported()
    default:
      throw new KeyfoldError(
        'KMS_KEY_STATE_INVALID',
        operation === 'CancelKeyDeletion'
          ? `${arn} is not pending deletion.`
          : `${arn} ${STATE_WORDS[state]}.`,
      )
  }
}
