/**
 * The kinds of KMS key there are: what each key spec is for and which algorithms it knows, in AWS KMS's names
 * (AWS KMS Developer Guide, "Key spec reference").
 *
 * Not here, because the OpenSSL of Node 20 has neither: ML_DSA_44, ML_DSA_65, ML_DSA_87 and ED25519_PH_SHA_512.
 * SM2 is offered in China only.
 */
import { KeyfoldError } from '../errors.ts'

export type KeyUsage = 'ENCRYPT_DECRYPT' | 'SIGN_VERIFY' | 'GENERATE_VERIFY_MAC' | 'KEY_AGREEMENT'

export type EncryptionAlgorithm = 'SYMMETRIC_DEFAULT' | 'RSAES_OAEP_SHA_1' | 'RSAES_OAEP_SHA_256'

export type SigningAlgorithm =
  | `RSASSA_PSS_SHA_${256 | 384 | 512}`
  | `RSASSA_PKCS1_V1_5_SHA_${256 | 384 | 512}`
  | `ECDSA_SHA_${256 | 384 | 512}`
  | 'ED25519_SHA_512'

export type MacAlgorithm = `HMAC_SHA_${224 | 256 | 384 | 512}`

export type KeyAgreementAlgorithm = 'ECDH'

interface KeySpecTraits {
  /** What CreateKey may be asked for; where there is one, it is the default. */
  readonly usages: readonly KeyUsage[]
  readonly encryptionAlgorithms: readonly EncryptionAlgorithm[]
  readonly signingAlgorithms: readonly SigningAlgorithm[]
  readonly macAlgorithms: readonly MacAlgorithm[]
  readonly keyAgreementAlgorithms: readonly KeyAgreementAlgorithm[]
}

const NONE = {
  encryptionAlgorithms: [],
  signingAlgorithms: [],
  macAlgorithms: [],
  keyAgreementAlgorithms: [],
} as const

const RSA = {
  ...NONE,
  usages: ['ENCRYPT_DECRYPT', 'SIGN_VERIFY'],
  encryptionAlgorithms: ['RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256'],
  signingAlgorithms: [
    'RSASSA_PKCS1_V1_5_SHA_256',
    'RSASSA_PKCS1_V1_5_SHA_384',
    'RSASSA_PKCS1_V1_5_SHA_512',
    'RSASSA_PSS_SHA_256',
    'RSASSA_PSS_SHA_384',
    'RSASSA_PSS_SHA_512',
  ],
} as const

const ecc = (algorithm: SigningAlgorithm) =>
  ({
    ...NONE,
    usages: ['SIGN_VERIFY', 'KEY_AGREEMENT'],
    signingAlgorithms: [algorithm],
    keyAgreementAlgorithms: ['ECDH'],
  }) as const

const hmac = (algorithm: MacAlgorithm) =>
  ({ ...NONE, usages: ['GENERATE_VERIFY_MAC'], macAlgorithms: [algorithm] }) as const

export const KEY_SPECS = {
  SYMMETRIC_DEFAULT: {
    ...NONE,
    usages: ['ENCRYPT_DECRYPT'],
    encryptionAlgorithms: ['SYMMETRIC_DEFAULT'],
  },
  HMAC_224: hmac('HMAC_SHA_224'),
  HMAC_256: hmac('HMAC_SHA_256'),
  HMAC_384: hmac('HMAC_SHA_384'),
  HMAC_512: hmac('HMAC_SHA_512'),
  RSA_2048: RSA,
  RSA_3072: RSA,
  RSA_4096: RSA,
  ECC_NIST_P256: ecc('ECDSA_SHA_256'),
  ECC_NIST_P384: ecc('ECDSA_SHA_384'),
  ECC_NIST_P521: ecc('ECDSA_SHA_512'),
  // AWS KMS signs with secp256k1 and does not agree on keys with it.
  ECC_SECG_P256K1: { ...NONE, usages: ['SIGN_VERIFY'], signingAlgorithms: ['ECDSA_SHA_256'] },
  ECC_NIST_EDWARDS25519: {
    ...NONE,
    usages: ['SIGN_VERIFY'],
    signingAlgorithms: ['ED25519_SHA_512'],
  },
} as const satisfies Record<string, KeySpecTraits>

export type KeySpec = keyof typeof KEY_SPECS
export type RsaKeySpec = Extract<KeySpec, `RSA_${string}`>
export type EccKeySpec = Extract<KeySpec, `ECC_${string}`>
export type HmacKeySpec = Extract<KeySpec, `HMAC_${string}`>
/** Key specs of key pairs: those with a public key. */
export type AsymmetricKeySpec = RsaKeySpec | EccKeySpec

export function traitsOf(spec: KeySpec): KeySpecTraits {
  return KEY_SPECS[spec]
}

type Algorithm = EncryptionAlgorithm | SigningAlgorithm | MacAlgorithm | KeyAgreementAlgorithm

/** Throws KMS_KEY_USAGE_INVALID, in AWS KMS's words. No two kinds of algorithm have a name in common. */
export function assertAlgorithm<A extends string>(
  spec: KeySpec,
  algorithm: A,
): asserts algorithm is A & Algorithm {
  const traits = traitsOf(spec)
  const known: readonly string[] = [
    ...traits.encryptionAlgorithms,
    ...traits.signingAlgorithms,
    ...traits.macAlgorithms,
    ...traits.keyAgreementAlgorithms,
  ]
  if (known.includes(algorithm)) return
  throw new KeyfoldError(
    'KMS_KEY_USAGE_INVALID',
    `Algorithm ${algorithm} is incompatible with key spec ${spec}.`,
  )
}
