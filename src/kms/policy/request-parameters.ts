/**
 * Parameters of operations that condition keys are named after (AWS KMS Developer Guide, "AWS KMS condition keys"): a
 * request is described by these names, and its policies read them.
 */
export const REQUEST_PARAMETERS = [
  'kms:BypassPolicyLockoutSafetyCheck',
  'kms:DataKeyPairSpec',
  'kms:EncryptionAlgorithm',
  'kms:ExpirationModel',
  'kms:KeyAgreementAlgorithm',
  'kms:MacAlgorithm',
  'kms:MessageType',
  'kms:PrimaryRegion',
  'kms:ReEncryptOnSameKey',
  'kms:ReplicaRegion',
  'kms:RotationPeriodInDays',
  'kms:ScheduleKeyDeletionPendingWindowInDays',
  'kms:SigningAlgorithm',
  'kms:ValidTo',
  'kms:WrappingAlgorithm',
  'kms:WrappingKeySpec',
  // Of CreateKey only: where there is a key, they are its own.
  'kms:KeyOrigin',
  'kms:KeySpec',
  'kms:KeyUsage',
  'kms:MultiRegion',
  'kms:MultiRegionKeyType',
] as const

export type RequestParameter = (typeof REQUEST_PARAMETERS)[number]
