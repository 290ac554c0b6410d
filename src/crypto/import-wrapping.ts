/**
 * How imported key material travels (GetParametersForImport, ImportKeyMaterial of AWS KMS): encrypted under the public
 * key of an RSA wrapping key, which is a key pair as any other (key-pair.ts), made for one import.
 *
 *     RSAES_OAEP_SHA_*          RSA-OAEP of the key material
 *     RSA_AES_KEY_WRAP_SHA_*    RSA-OAEP of an AES-256 key ‖ AES key wrap with padding of the key material under it
 *                               (RFC 5649; PKCS#11 names the whole CKM_RSA_AES_KEY_WRAP)
 */
import { createDecipheriv, randomBytes } from 'node:crypto'

import { KeyfoldError } from '../errors.ts'
import { MODULUS_BITS } from './key-pair.ts'
import type { EncryptionAlgorithm, RsaKeySpec } from './key-spec.ts'

export type WrappingAlgorithm = 'RSAES_OAEP_SHA_1' | 'RSAES_OAEP_SHA_256' | KeyWrapAlgorithm
type KeyWrapAlgorithm = 'RSA_AES_KEY_WRAP_SHA_1' | 'RSA_AES_KEY_WRAP_SHA_256'

/** RSA-OAEP decryption with the wrapping key, wherever that is kept. Throws DECRYPT_FAILED. */
export type DecryptOaep = (
  algorithm: EncryptionAlgorithm,
  ciphertext: Uint8Array,
) => Uint8Array | Promise<Uint8Array>

const KEY_WRAP_OAEP: Readonly<Record<KeyWrapAlgorithm, EncryptionAlgorithm>> = {
  RSA_AES_KEY_WRAP_SHA_1: 'RSAES_OAEP_SHA_1',
  RSA_AES_KEY_WRAP_SHA_256: 'RSAES_OAEP_SHA_256',
}

const AES_KEY_BYTES = 32
/** The constant of RFC 5649 §3: without it OpenSSL takes whatever is given for the alternative initial value. */
const ALTERNATIVE_INITIAL_VALUE = Buffer.from('a65959a6', 'hex')

/**
 * The key material, which the caller hands on or fills with zeros. Throws DECRYPT_FAILED for every reason: which part
 * did not open would make an oracle for the AES key.
 */
export async function unwrapKeyMaterial(
  algorithm: WrappingAlgorithm,
  wrappingKeySpec: RsaKeySpec,
  wrapped: Uint8Array,
  decryptOaep: DecryptOaep,
): Promise<Uint8Array> {
  if (algorithm === 'RSAES_OAEP_SHA_1' || algorithm === 'RSAES_OAEP_SHA_256') {
    return decryptOaep(algorithm, wrapped)
  }
  const modulusBytes = MODULUS_BITS[wrappingKeySpec] / 8
  const aesKey = await decryptAesKey(wrapped.subarray(0, modulusBytes), (ciphertext) =>
    decryptOaep(KEY_WRAP_OAEP[algorithm], ciphertext),
  )
  try {
    return unwrapAes(aesKey, wrapped.subarray(modulusBytes))
  } finally {
    aesKey.fill(0)
  }
}

/** A random key where there is none: what follows then takes as long, and fails as well. */
async function decryptAesKey(
  ciphertext: Uint8Array,
  decrypt: (ciphertext: Uint8Array) => Uint8Array | Promise<Uint8Array>,
): Promise<Uint8Array> {
  try {
    const aesKey = await decrypt(ciphertext)
    if (aesKey.length === AES_KEY_BYTES) return aesKey
    aesKey.fill(0)
  } catch (error) {
    if (!(error instanceof KeyfoldError && error.code === 'DECRYPT_FAILED')) throw error
  }
  return randomBytes(AES_KEY_BYTES)
}

function unwrapAes(aesKey: Uint8Array, wrapped: Uint8Array): Uint8Array {
  try {
    const decipher = createDecipheriv('id-aes256-wrap-pad', aesKey, ALTERNATIVE_INITIAL_VALUE)
    // One call: key wrap is not a stream, and final() has nothing left to say.
    const unwrapped = decipher.update(wrapped)
    // Of no bytes OpenSSL makes no bytes; RFC 5649 wraps at least one.
    if (unwrapped.length > 0) return unwrapped
  } catch {
    // As below.
  }
  throw new KeyfoldError('DECRYPT_FAILED')
}
