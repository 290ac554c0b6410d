/**
 * What both sides of the AWS External Key Store proxy API say (XKS Proxy API 1.0.3): its URIs, its errors, and what a
 * ciphertext consists of. JSON over POST:
 *
 *     [/PREFIX]/kms/xks/v1/health
 *     [/PREFIX]/kms/xks/v1/keys/EXTERNAL-KEY-ID/{metadata, encrypt, decrypt}
 */
import { EXTERNAL_KEY_ID_CHARACTERS_MAX, XKS_PATH_CHARACTERS_MAX } from '../limits.ts'

export const XKS_SERVICE = 'kms-xks-proxy'
/** Stands behind the prefix in every URI. */
export const XKS_API_PATH = '/kms/xks/v1'
const PREFIX_PATTERN = /^(?:\/[A-Za-z0-9_-]+)*$/
const EXTERNAL_KEY_ID_PATTERN = /^[A-Za-z0-9._-]+$/

/** `/a/b`; '' where there is none. */
export function isXksPrefix(prefix: string): boolean {
  const characters = prefix.length + XKS_API_PATH.length
  return characters <= XKS_PATH_CHARACTERS_MAX && PREFIX_PATTERN.test(prefix)
}

/** Not `.` or `..`, of which a path is made another one (RFC 3986 §5.2.4). */
export function isExternalKeyId(id: string): boolean {
  if (id.length > EXTERNAL_KEY_ID_CHARACTERS_MAX || id === '.' || id === '..') return false
  return EXTERNAL_KEY_ID_PATTERN.test(id)
}

/** Every error of the API, with its status. */
export const XKS_ERRORS = {
  ValidationException: 400,
  InvalidStateException: 400,
  InvalidCiphertextException: 400,
  InvalidKeyUsageException: 400,
  AuthenticationFailedException: 401,
  AccessDeniedException: 403,
  KeyNotFoundException: 404,
  InvalidUriPathException: 404,
  ThrottlingException: 429,
  InternalException: 500,
  UnsupportedOperationException: 501,
  DependencyTimeoutException: 503,
} as const

export type XksErrorName = keyof typeof XKS_ERRORS

/** What a proxy makes of a plaintext: of each part as many bytes as the API allows. */
export interface XksCiphertext {
  /** 0 to 20 bytes of the proxy's own; none and an empty one are the same. */
  readonly metadata: Uint8Array
  /** 12 or 16 bytes. */
  readonly iv: Uint8Array
  /** As long as the plaintext. */
  readonly ciphertext: Uint8Array
  /** 16 bytes. */
  readonly tag: Uint8Array
}

export const XKS_METADATA_BYTES_MAX = 20
export const XKS_IV_BYTES: readonly number[] = [12, 16]
export const XKS_TAG_BYTES = 16

/** What a ciphertext data integrity value is the SHA-256 of, one behind the other and without lengths (Appendix C). */
export function integrityParts(
  aad: Uint8Array,
  { metadata, iv, ciphertext, tag }: XksCiphertext,
): readonly Uint8Array[] {
  return [aad, metadata, iv, ciphertext, tag]
}
