/**
 * What AWS KMS's names of signing algorithms stand for: a signature scheme and the hash that it signs. Those that sign
 * messages, digests and for an HSM all go by it.
 */
import type { SigningAlgorithm } from './key-spec.ts'

export type Hash = 'sha256' | 'sha384' | 'sha512'

export interface SigningScheme {
  readonly name: 'pkcs1' | 'pss' | 'ecdsa' | 'eddsa'
  readonly hash: Hash
}

export const SIGNING_SCHEMES: Readonly<Record<SigningAlgorithm, SigningScheme>> = {
  RSASSA_PKCS1_V1_5_SHA_256: { name: 'pkcs1', hash: 'sha256' },
  RSASSA_PKCS1_V1_5_SHA_384: { name: 'pkcs1', hash: 'sha384' },
  RSASSA_PKCS1_V1_5_SHA_512: { name: 'pkcs1', hash: 'sha512' },
  RSASSA_PSS_SHA_256: { name: 'pss', hash: 'sha256' },
  RSASSA_PSS_SHA_384: { name: 'pss', hash: 'sha384' },
  RSASSA_PSS_SHA_512: { name: 'pss', hash: 'sha512' },
  ECDSA_SHA_256: { name: 'ecdsa', hash: 'sha256' },
  ECDSA_SHA_384: { name: 'ecdsa', hash: 'sha384' },
  ECDSA_SHA_512: { name: 'ecdsa', hash: 'sha512' },
  ED25519_SHA_512: { name: 'eddsa', hash: 'sha512' },
}

export const DIGEST_BYTES: Readonly<Record<Hash, number>> = { sha256: 32, sha384: 48, sha512: 64 }
