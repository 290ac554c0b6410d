/** Members that many operations of AWS KMS have, with the bounds of its API reference. */
import { KeyfoldError } from '../../errors.ts'
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
  whole,
  type Shape,
} from './shapes.ts'

const keyId = text({ min: 1, max: 2_048 })

/** An operation on the key of this name. */
export const KEY_ID = { KeyId: required(keyId) } as const
export const OPTIONAL_KEY_ID = { KeyId: optional(keyId) } as const

export const GRANT_TOKENS = {
  GrantTokens: optional(list(text({ min: 1, max: 8_192 }), { max: 10 })),
} as const

export const DRY_RUN = { DryRun: optional(flag) } as const

export const CONTEXT = { EncryptionContext: optional(textMap) } as const

export const plaintext = binary(1, 4_096)
export const ciphertext = binary(1, 6_144)

export function paging(limitMax: number) {
  return {
    Limit: optional(whole(1, limitMax)),
    Marker: optional(text({ min: 1, max: 1_024 })),
  } as const
}

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

export const encryptionAlgorithm = oneOf(
  'SYMMETRIC_DEFAULT',
  'RSAES_OAEP_SHA_1',
  'RSAES_OAEP_SHA_256',
  'SM2PKE',
)

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
