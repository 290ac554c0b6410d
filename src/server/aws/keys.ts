/** KMS keys themselves: made, shown, listed, switched on and off. */
import { KEY_SPECS, traitsOf, type KeySpec } from '../../crypto/key-spec.ts'
import { KeyfoldError } from '../../errors.ts'
import { LIST_PAGE_MAX } from '../../limits.ts'
import type { KmsKey } from '../../kms/kms-key.ts'
import { KEY_ID, paging, policyDocument, readTags, tags } from './members.ts'
import { free, keyed, seconds, type Operation, type Output } from './operation.ts'
import { flag, oneOf, optional, required, text } from './shapes.ts'

const description = text({ max: 8_192 })
const keySpec = oneOf(...(Object.keys(KEY_SPECS) as KeySpec[]))
const keyUsage = oneOf('ENCRYPT_DECRYPT', 'SIGN_VERIFY', 'GENERATE_VERIFY_MAC', 'KEY_AGREEMENT')

export const KEY_OPERATIONS: readonly Operation[] = [
  free(
    'CreateKey',
    {
      Description: optional(description),
      KeySpec: optional(keySpec),
      CustomerMasterKeySpec: optional(keySpec),
      KeyUsage: optional(keyUsage),
      Origin: optional(oneOf('AWS_KMS', 'EXTERNAL', 'AWS_CLOUDHSM', 'EXTERNAL_KEY_STORE')),
      CustomKeyStoreId: optional(text({ min: 1, max: 64 })),
      XksKeyId: optional(text({ min: 1, max: 128 })),
      MultiRegion: optional(flag),
      Policy: optional(policyDocument),
      BypassPolicyLockoutSafetyCheck: optional(flag),
      Tags: optional(tags),
    },
    async (call, input) => {
      const { Origin: origin = 'AWS_KMS' } = input
      const spec = input.KeySpec ?? input.CustomerMasterKeySpec ?? 'SYMMETRIC_DEFAULT'
      call.authorizeService('kms:CreateKey')
      if (origin === 'AWS_CLOUDHSM' || origin === 'EXTERNAL_KEY_STORE') {
        throw new KeyfoldError('OPERATION_UNSUPPORTED', 'there are no custom key stores yet')
      }
      const kmsKey = await call.engine.kms.createKey({
        description: input.Description,
        tags: readTags(input.Tags ?? []),
        keySpec: spec,
        keyUsage: input.KeyUsage,
        origin,
        multiRegion: input.MultiRegion,
        region: call.region,
      })
      call.keyArns.push(kmsKey.arn)
      return { KeyMetadata: metadataOf(kmsKey, call.engine.config.account) }
    },
  ),
  keyed('DescribeKey', { ...KEY_ID }, async (call, _input, kmsKey) => ({
    KeyMetadata: metadataOf(kmsKey, call.engine.config.account),
  })),
  free('ListKeys', { ...paging(LIST_PAGE_MAX) }, async (call, input) => {
    call.authorizeService('kms:ListKeys')
    const { items, nextMarker } = await call.engine.kms.listKeys({
      limit: input.Limit,
      marker: input.Marker,
      region: call.region,
    })
    return {
      Keys: items.map(({ keyId, arn }) => ({ KeyId: keyId, KeyArn: arn })),
      Truncated: nextMarker !== undefined,
      NextMarker: nextMarker,
    }
  }),
  keyed('EnableKey', { ...KEY_ID }, async (call, _input, { arn }) => {
    await call.engine.kms.enableKey(arn)
    return {}
  }),
  keyed('DisableKey', { ...KEY_ID }, async (call, _input, { arn }) => {
    await call.engine.kms.disableKey(arn)
    return {}
  }),
  keyed(
    'UpdateKeyDescription',
    { ...KEY_ID, Description: required(description) },
    async (call, input, { arn }) => {
      await call.engine.kms.updateDescription(arn, input.Description)
      return {}
    },
  ),
]

/** KeyMetadata of the API reference. `CustomerMasterKeySpec` is the old name that old clients read. */
export function metadataOf(kmsKey: KmsKey, account: string): Output {
  const traits = traitsOf(kmsKey.keySpec)
  const some = <T>(values: readonly T[]): readonly T[] | undefined =>
    values.length === 0 ? undefined : values
  const isFor = (usage: KmsKey['keyUsage']): boolean => kmsKey.keyUsage === usage
  return {
    AWSAccountId: account,
    KeyId: kmsKey.keyId,
    Arn: kmsKey.arn,
    CreationDate: seconds(kmsKey.createdAtMs),
    Enabled: kmsKey.state === 'Enabled',
    Description: kmsKey.description,
    KeyUsage: kmsKey.keyUsage,
    KeyState: kmsKey.state,
    DeletionDate: kmsKey.deletionAtMs === undefined ? undefined : seconds(kmsKey.deletionAtMs),
    PendingDeletionWindowInDays:
      kmsKey.state === 'PendingReplicaDeletion' ? kmsKey.pendingWindowDays : undefined,
    Origin: kmsKey.origin,
    KeyManager: kmsKey.manager,
    CustomerMasterKeySpec: kmsKey.keySpec,
    KeySpec: kmsKey.keySpec,
    EncryptionAlgorithms: isFor('ENCRYPT_DECRYPT') ? traits.encryptionAlgorithms : undefined,
    SigningAlgorithms: isFor('SIGN_VERIFY') ? some(traits.signingAlgorithms) : undefined,
    MacAlgorithms: some(traits.macAlgorithms),
    KeyAgreementAlgorithms: isFor('KEY_AGREEMENT') ? traits.keyAgreementAlgorithms : undefined,
    MultiRegion: kmsKey.multiRegion !== undefined,
  }
}
