/** GenerateMac and VerifyMac of AWS KMS: HMAC (RFC 2104, FIPS 198-1) with SHA-2, never cut short. */
import { createHmac, timingSafeEqual, type KeyObject } from 'node:crypto'

import { KeyfoldError } from '../errors.ts'
import { CALLER_PLAINTEXT_BYTES_MAX } from '../limits.ts'
import { assertAlgorithm, type HmacKeySpec, type KeySpec, type MacAlgorithm } from './key-spec.ts'

/** A key is as long as the hash's output: longer ones add nothing, shorter ones weaken it (RFC 2104 §3). */
export const HMAC_KEY_BYTES: Readonly<Record<HmacKeySpec, number>> = {
  HMAC_224: 28,
  HMAC_256: 32,
  HMAC_384: 48,
  HMAC_512: 64,
}

/** AWS KMS imports HMAC keys of up to 1,024 bits. */
export const HMAC_KEY_BYTES_MAX = 128

const HASHES: Readonly<Record<MacAlgorithm, string>> = {
  HMAC_SHA_224: 'sha224',
  HMAC_SHA_256: 'sha256',
  HMAC_SHA_384: 'sha384',
  HMAC_SHA_512: 'sha512',
}

export function isHmac(spec: KeySpec): spec is HmacKeySpec {
  return spec in HMAC_KEY_BYTES
}

/** Errors: KMS_KEY_USAGE_INVALID (not an algorithm of this spec), REQUEST_MALFORMED (the length). */
export function generateMac(
  spec: KeySpec,
  key: KeyObject,
  algorithm: MacAlgorithm,
  message: Uint8Array,
): Uint8Array {
  checkMacMessage(spec, algorithm, message)
  return createHmac(HASHES[algorithm], key).update(message).digest()
}

/** What generateMac throws, for a key that is elsewhere. */
export function checkMacMessage(spec: KeySpec, algorithm: MacAlgorithm, message: Uint8Array): void {
  assertAlgorithm(spec, algorithm)
  if (message.length < 1 || message.length > CALLER_PLAINTEXT_BYTES_MAX) {
    throw new KeyfoldError('REQUEST_MALFORMED', `message: 1 to ${CALLER_PLAINTEXT_BYTES_MAX} bytes`)
  }
}

/** Whether a caller's MAC is the one that was generated, in a time that does not tell where they differ. */
export function isSameMac(generated: Uint8Array, given: Uint8Array): boolean {
  return generated.length === given.length && timingSafeEqual(generated, given)
}
