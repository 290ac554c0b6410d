/** KMS keys themselves: made, shown, listed, switched on and off. */
import { traitsOf, type KeySpec, type KeyUsage } from '../../crypto/key-spec.ts'
import { KeyfoldError } from '../../errors.ts'
import { materialId } from '../../kms/reference.ts'
import { LIST_PAGE_MAX } from '../../limits.ts'
import { KINDS } from '../../kms/key-store-kinds.ts'
import type { KeyOrigin, KmsKey, RequestAttributes } from '../../kms/kms-key.ts'
import type { Call } from './call.ts'
import { keyStoreById, keyStoreMembersOf } from './key-stores.ts'
import { customKeyStoreId, KEY_ID, keySpec, paging, readTags, supported, tags } from './members.ts'
import { free, keyed, seconds, type Operation, type Output } from './operation.ts'
import { acceptPolicy, bypassParameter, checkPolicy, POLICY_MEMBERS } from './policies.ts'
import { flag, oneOf, optional, required, text } from './shapes.ts'

export const description = text({ max: 8_192 })
const keyUsage = oneOf(
  'ENCAPSULATE_DECAPSULATE',
  'ENCRYPT_DECRYPT',
  'GENERATE_VERIFY_MAC',
  'KEY_AGREEMENT',
  'SIGN_VERIFY',
)

export const KEY_OPERATIONS: readonly Operation[] = [
  free(
    'CreateKey',
    {
      Description: optional(description),
      KeySpec: optional(keySpec),
      CustomerMasterKeySpec: optional(keySpec),
      KeyUsage: optional(keyUsage),
      Origin: optional(oneOf('AWS_KMS', 'EXTERNAL', 'AWS_CLOUDHSM', 'EXTERNAL_KEY_STORE')),
      CustomKeyStoreId: optional(customKeyStoreId),
      XksKeyId: optional(text({ min: 1, max: 128, pattern: /^[a-zA-Z0-9._-]+$/ })),
      MultiRegion: optional(flag),
      ...POLICY_MEMBERS,
      Tags: optional(tags),
    },
    async (call, input) => {
      const { Origin: origin = 'AWS_KMS', MultiRegion: multiRegion = false } = input
      const wanted = input.KeySpec ?? input.CustomerMasterKeySpec ?? 'SYMMETRIC_DEFAULT'
      const given = readTags(input.Tags ?? [])
      const parameters = {
        ...newKeyParameters({ origin, spec: wanted, keyUsage: input.KeyUsage, multiRegion }),
        ...bypassParameter(input),
      }
      authorizeNewKey(call, { parameters, tags: given })
      const spec = supported(wanted)
      checkKeyStore(call, { ...input, origin, spec, multiRegion })
      if (input.Policy !== undefined) checkPolicy(input.Policy)
      const kmsKey = await call.engine.kms.createKey({
        description: input.Description,
        tags: given,
        keySpec: spec,
        keyUsage: usageOf(spec, input.KeyUsage),
        origin,
        keyStore: input.CustomKeyStoreId,
        externalKeyId: input.XksKeyId,
        multiRegion,
        region: call.region,
        policy: input.Policy,
        turn: { principalArn: call.principal.arn, urgency: 'other' },
        accept: acceptPolicy(call, input, { parameters, tags: given }),
      })
      call.keyArns.push(kmsKey.arn)
      return { KeyMetadata: await describeKey(call, kmsKey) }
    },
  ),
  keyed('DescribeKey', { ...KEY_ID }, async (call, _input, kmsKey) => ({
    KeyMetadata: await describeKey(call, kmsKey),
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

/** AWS KMS, CreateKey: which members belong together, and what no custom key store takes. */
function checkKeyStore(
  call: Call,
  key: {
    readonly CustomKeyStoreId: string | undefined
    readonly XksKeyId: string | undefined
    readonly origin: KeyOrigin
    readonly spec: KeySpec
    readonly multiRegion: boolean
  },
): void {
  const { CustomKeyStoreId: id, XksKeyId: externalKeyId, origin, spec, multiRegion } = key
  const isCustom = origin === 'AWS_CLOUDHSM' || origin === 'EXTERNAL_KEY_STORE'
  if (isCustom !== (id !== undefined)) {
    throw malformed(
      isCustom
        ? `CustomKeyStoreId is required when Origin is ${origin}`
        : `CustomKeyStoreId is not valid when Origin is ${origin}`,
    )
  }
  if ((origin === 'EXTERNAL_KEY_STORE') !== (externalKeyId !== undefined)) {
    throw malformed(
      externalKeyId === undefined
        ? 'XksKeyId is required when Origin is EXTERNAL_KEY_STORE'
        : `XksKeyId is not valid when Origin is ${origin}`,
    )
  }
  if (id === undefined) return
  if (multiRegion || spec !== 'SYMMETRIC_DEFAULT') {
    throw new KeyfoldError(
      'OPERATION_UNSUPPORTED',
      'a custom key store has single-Region keys of KeySpec SYMMETRIC_DEFAULT only',
    )
  }
  const { type } = KINDS[keyStoreById(call, id).kind]
  if (origin === type) return
  throw new KeyfoldError(
    'OPERATION_UNSUPPORTED',
    `Origin ${origin} is not that of the keys in ${id}: ${type}`,
  )
}

function malformed(detail: string): KeyfoldError {
  return new KeyfoldError('REQUEST_MALFORMED', detail)
}

/** Throws what AWS KMS answers; kms.ts would do, and takes a key spec with one usage without it. */
function usageOf(spec: KeySpec, usage: ReturnType<typeof keyUsage> | undefined): KeyUsage {
  const { usages } = traitsOf(spec)
  if (usage === undefined && spec !== 'SYMMETRIC_DEFAULT') {
    throw new KeyfoldError(
      'REQUEST_MALFORMED',
      'You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.',
    )
  }
  const wanted = usage ?? 'ENCRYPT_DECRYPT'
  const known = usages.find((candidate) => candidate === wanted)
  if (known !== undefined) return known
  throw new KeyfoldError(
    'REQUEST_MALFORMED',
    `KeyUsage ${wanted} is not compatible with KeySpec ${spec}`,
  )
}

/** What conditions on kms:CreateKey read of the key that would be. */
function newKeyParameters(key: {
  readonly origin: string
  readonly spec: string
  readonly keyUsage: string | undefined
  readonly multiRegion: boolean
}): RequestAttributes['parameters'] & object {
  const isSymmetric = key.spec === 'SYMMETRIC_DEFAULT'
  const keyUsage = key.keyUsage ?? (isSymmetric ? 'ENCRYPT_DECRYPT' : undefined)
  return {
    'kms:KeyOrigin': key.origin,
    'kms:KeySpec': key.spec,
    ...(keyUsage === undefined ? {} : { 'kms:KeyUsage': keyUsage }),
    'kms:MultiRegion': key.multiRegion,
    ...(key.multiRegion ? { 'kms:MultiRegionKeyType': 'PRIMARY' } : {}),
  }
}

/** Whoever may create keys may not thereby tag them (AWS KMS, CreateKey, "Tags"). */
export function authorizeNewKey(
  call: Call,
  key: Pick<Required<RequestAttributes>, 'parameters'> & {
    readonly tags: ReadonlyMap<string, string>
    /** Where it would be; where the request was sent, if not given. */
    readonly region?: string
  },
): void {
  const { parameters, tags, region = call.region } = key
  call.authorizeService('kms:CreateKey', { parameters, tags, region })
  if (tags.size > 0) call.authorizeService('kms:TagResource', { tags, region })
}

/** KeyMetadata of a key, with the family of a multi-Region key. */
export async function describeKey(call: Call, kmsKey: KmsKey): Promise<Output> {
  const metadata = {
    ...metadataOf(kmsKey, call.engine.config.account),
    ...keyStoreMembersOf(call, kmsKey),
  }
  if (kmsKey.multiRegion === undefined) return metadata
  const family = await call.engine.kms.replicas.family(kmsKey)
  const ofType = (wanted: 'PRIMARY' | 'REPLICA') =>
    family
      .filter(({ type }) => type === wanted)
      .map(({ arn, region }) => ({ Arn: arn, Region: region }))
  return {
    ...metadata,
    MultiRegionConfiguration: {
      MultiRegionKeyType: family.find(({ arn }) => arn === kmsKey.arn)?.type,
      PrimaryKey: ofType('PRIMARY')[0],
      ReplicaKeys: ofType('REPLICA'),
    },
  }
}

/** KeyMetadata of the API reference. `CustomerMasterKeySpec` is the old name that old clients read. */
export function metadataOf(kmsKey: KmsKey, account: string): Output {
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
    ...algorithmsOf(kmsKey),
    MultiRegion: kmsKey.multiRegion !== undefined,
    ...materialOf(kmsKey),
  }
}

function materialOf(kmsKey: KmsKey): Output {
  const { keySpec, origin, materials, currentVersion, materialValidToMs: validToMs } = kmsKey
  if (!materials.has(currentVersion)) return {}
  const expires = validToMs !== undefined
  const model = expires ? 'KEY_MATERIAL_EXPIRES' : 'KEY_MATERIAL_DOES_NOT_EXPIRE'
  return {
    ExpirationModel: origin === 'EXTERNAL' ? model : undefined,
    ValidTo: expires ? seconds(validToMs) : undefined,
    CurrentKeyMaterialId:
      keySpec === 'SYMMETRIC_DEFAULT' ? materialId(kmsKey, currentVersion) : undefined,
  }
}

/** What the key can be asked for, in the member that belongs to its usage. */
export function algorithmsOf({ keySpec, keyUsage }: KmsKey): Output {
  const traits = traitsOf(keySpec)
  switch (keyUsage) {
    case 'ENCRYPT_DECRYPT':
      return { EncryptionAlgorithms: traits.encryptionAlgorithms }
    case 'SIGN_VERIFY':
      return { SigningAlgorithms: traits.signingAlgorithms }
    case 'GENERATE_VERIFY_MAC':
      return { MacAlgorithms: traits.macAlgorithms }
    case 'KEY_AGREEMENT':
      return { KeyAgreementAlgorithms: traits.keyAgreementAlgorithms }
  }
}
