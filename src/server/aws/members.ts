/** Members that many operations of AWS KMS have, with the bounds of its API reference. */
import { isAsymmetric } from '../../crypto/key-pair.ts'
import { KEY_SPECS, type KeySpec } from '../../crypto/key-spec.ts'
import { KeyfoldError } from '../../errors.ts'
import { decodeGrantToken } from '../../format/grant-token.ts'
import {
  binary,
  flag,
  list,
  oneOf,
  optional,
  required,
  structure,
  text,
  textMap,
  unsupported,
  whole,
  type Shape,
} from './shapes.ts'

const keyId = text({ min: 1, max: 2_048 })

/** An operation on the key of this name. */
export const KEY_ID = { KeyId: required(keyId) } as const
export const OPTIONAL_KEY_ID = { KeyId: optional(keyId) } as const

const grantTokenText = text({ min: 1, max: 8_192 })

/** Grants hold at once, whether a token comes along or not: what none could be is refused, as AWS KMS does. */
const grantToken: Shape<string> = (value, at) => {
  const token = grantTokenText(value, at)
  decodeGrantToken(token)
  return token
}

export const GRANT_TOKENS = { GrantTokens: optional(list(grantToken, { max: 10 })) } as const

export const DRY_RUN = { DryRun: optional(flag) } as const

/** Answering in plaintext would be the opposite of what an enclave asks for. */
export const NO_RECIPIENT = {
  Recipient: unsupported(
    'attestation documents are not verified here, and nothing is encrypted to them',
  ),
} as const

export const CONTEXT = { EncryptionContext: optional(textMap) } as const

export const plaintext = binary(1, 4_096)
export const ciphertext = binary(1, 6_144)

export function paging(limitMax: number) {
  return {
    Limit: optional(whole(1, limitMax)),
    Marker: optional(text({ min: 1, max: 1_024 })),
  } as const
}

export const customKeyStoreId = text({ min: 1, max: 64 })
export const arn = text({ min: 20, max: 2_048 })
export const aliasName = text({ min: 1, max: 256 })
/** The quota is 32 KiB; what is longer is refused as a policy, not as a member. */
export const policyDocument = text({ min: 1, max: 131_072 })

/** GenerateDataKey answers keys of so many bytes. */
const DATA_KEY_BYTES_MAX = 1_024
export const dataKeySize = {
  KeySpec: optional(oneOf('AES_256', 'AES_128')),
  NumberOfBytes: optional(whole(1, DATA_KEY_BYTES_MAX)),
} as const

export const message = binary(1, 4_096)
export const mac = binary(1, 6_144)
export const signature = binary(1, 6_144)
export const publicKey = binary(1, 8_192)

/** Of AWS KMS, and not here: see key-spec.ts. */
const UNSUPPORTED_SPECS = [
  'ML_DSA_44',
  'ML_DSA_65',
  'ML_DSA_87',
  'ML_KEM_512',
  'ML_KEM_768',
  'ML_KEM_1024',
  'SM2',
] as const
type UnsupportedSpec = (typeof UNSUPPORTED_SPECS)[number]

// Everything that AWS KMS lists: what a key lacks is refused as the key's matter, not as a wrong word.

export const encryptionAlgorithm = oneOf(
  'SYMMETRIC_DEFAULT',
  'RSAES_OAEP_SHA_1',
  'RSAES_OAEP_SHA_256',
  'SM2PKE',
)

export const signingAlgorithm = oneOf(
  'ECDSA_SHA_256',
  'ECDSA_SHA_384',
  'ECDSA_SHA_512',
  'ED25519_PH_SHA_512',
  'ED25519_SHA_512',
  'ML_DSA_SHAKE_256',
  'RSASSA_PKCS1_V1_5_SHA_256',
  'RSASSA_PKCS1_V1_5_SHA_384',
  'RSASSA_PKCS1_V1_5_SHA_512',
  'RSASSA_PSS_SHA_256',
  'RSASSA_PSS_SHA_384',
  'RSASSA_PSS_SHA_512',
  'SM2DSA',
)
export const messageType = oneOf('RAW', 'DIGEST', 'EXTERNAL_MU')
export const macAlgorithm = oneOf('HMAC_SHA_224', 'HMAC_SHA_256', 'HMAC_SHA_384', 'HMAC_SHA_512')
export const keyAgreementAlgorithm = oneOf('ECDH')

const asymmetricSpecs = (Object.keys(KEY_SPECS) as KeySpec[]).filter(isAsymmetric)

export const keySpec = oneOf(...(Object.keys(KEY_SPECS) as KeySpec[]), ...UNSUPPORTED_SPECS)
export const keyPairSpec = oneOf(
  ...asymmetricSpecs,
  ...UNSUPPORTED_SPECS.filter((spec) => !spec.startsWith('ML_DSA')),
)

/** Throws OPERATION_UNSUPPORTED: AWS KMS has it, and there is a reason that we do not. */
export function supported<S extends KeySpec>(spec: S | UnsupportedSpec): S {
  if (!isUnsupported(spec)) return spec
  throw new KeyfoldError('OPERATION_UNSUPPORTED', `key spec ${spec} is not supported here`)
}

function isUnsupported(spec: string): spec is UnsupportedSpec {
  return (UNSUPPORTED_SPECS as readonly string[]).includes(spec)
}

export const tags: Shape<readonly { readonly TagKey: string; readonly TagValue: string }[]> = list(
  structure({
    TagKey: required(text({ min: 1, max: 128 })),
    TagValue: required(text({ max: 256 })),
  }),
  // One beyond what a key may have: that is a TagException, not a malformed request.
  { max: 1_000 },
)

/** Throws TAG_INVALID: a map would keep the last of two. */
export function readTags(
  given: readonly { readonly TagKey: string; readonly TagValue: string }[],
): ReadonlyMap<string, string> {
  const read = new Map(given.map(({ TagKey, TagValue }) => [TagKey, TagValue]))
  if (read.size < given.length) throw new KeyfoldError('TAG_INVALID', 'Duplicate tag keys')
  return read
}
