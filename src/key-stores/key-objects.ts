/**
 * Key material as plaintext bytes, between a seal and a KeyObject: what may be imported under which key spec, and
 * how what was sealed becomes a key again.
 */
import { createSecretKey, sign, verify, type KeyObject } from 'node:crypto'

import {
  encodePrivateKey,
  encodePublicKey,
  isAsymmetric,
  isRsa,
  openPrivateKey,
  openPublicKey,
} from '../crypto/key-pair.ts'
import type { AsymmetricKeySpec, KeySpec } from '../crypto/key-spec.ts'
import { HMAC_KEY_BYTES, HMAC_KEY_BYTES_MAX, isHmac } from '../crypto/mac.ts'
import { KeyfoldError } from '../errors.ts'
import type { KeyMaterial } from './key-store.ts'

const AES_KEY_BYTES = 32
/** Where OpenSSL's PKCS#8 of an RSA key has the last byte of RSAPrivateKey's version: 1 means more than two primes. */
const RSA_VERSION_AT = 32

/** Of what was sealed under this key spec. Throws ROOT_KEY_INVALID where the public key is another's. */
export function openKeyObject(
  { keySpec, publicKey }: Pick<KeyMaterial, 'keySpec' | 'publicKey'>,
  plaintext: Uint8Array,
): KeyObject {
  if (!isAsymmetric(keySpec)) return createSecretKey(plaintext)
  const key = openPrivateKey(keySpec, plaintext)
  if (key === undefined) throw new KeyfoldError('INTERNAL', `sealed material is none of ${keySpec}`)
  assertPair(key, { publicKey })
  return key
}

/**
 * The public key lies beside the sealed material, unsealed: somebody who can write there could have put their own.
 * Throws ROOT_KEY_INVALID.
 */
export function assertPair(
  privateKey: KeyObject,
  { publicKey = NONE }: Pick<KeyMaterial, 'publicKey'>,
): void {
  if (Buffer.compare(encodePublicKey(privateKey), publicKey) === 0) return
  throw new KeyfoldError('ROOT_KEY_INVALID', 'the public key belongs to another private key')
}

const NONE = new Uint8Array(0)

interface CheckedMaterial {
  /** To be sealed and filled with zeros: the plaintext itself, or its private key as OpenSSL spells it. */
  readonly material: Uint8Array
  readonly publicKey: Uint8Array | undefined
}

/** Throws KEY_MATERIAL_INCORRECT. */
export function checkImported(keySpec: KeySpec, plaintext: Uint8Array): CheckedMaterial {
  if (isAsymmetric(keySpec)) return checkPrivateKey(keySpec, plaintext)
  const [bytesMin, bytesMax] = isHmac(keySpec)
    ? [HMAC_KEY_BYTES[keySpec], HMAC_KEY_BYTES_MAX]
    : [AES_KEY_BYTES, AES_KEY_BYTES]
  if (plaintext.length < bytesMin || plaintext.length > bytesMax) {
    const lengths = bytesMin === bytesMax ? `${bytesMin}` : `${bytesMin} to ${bytesMax}`
    throw incorrect(`${keySpec} takes ${lengths} bytes`)
  }
  return { material: plaintext, publicKey: undefined }
}

function checkPrivateKey(keySpec: AsymmetricKeySpec, plaintext: Uint8Array): CheckedMaterial {
  const key = openPrivateKey(keySpec, plaintext)
  if (key === undefined) throw incorrect(`PKCS#8 DER of ${keySpec} is needed`)
  const publicKey = matchingPublicKey(keySpec, key)
  if (publicKey === undefined) throw incorrect('its parts do not belong together')
  const material = encodePrivateKey(key)
  if (isRsa(keySpec) && material[RSA_VERSION_AT] !== 0) {
    material.fill(0)
    throw incorrect('an RSA key has two primes')
  }
  return { material, publicKey }
}

/** OpenSSL reads a private key with a public part of another as it is: it has to verify what it signs. */
function matchingPublicKey(keySpec: AsymmetricKeySpec, key: KeyObject): Uint8Array | undefined {
  const message = Buffer.from('keyfold/material/v1/pairwise')
  const algorithm = keySpec === 'ECC_NIST_EDWARDS25519' ? undefined : 'sha256'
  try {
    const publicKey = encodePublicKey(key)
    const opened = openPublicKey(keySpec, publicKey)
    if (opened === undefined) return undefined
    const signature = sign(algorithm, message, key)
    return verify(algorithm, message, opened, signature) ? publicKey : undefined
  } catch {
    return undefined
  }
}

function incorrect(detail: string): KeyfoldError {
  return new KeyfoldError('KEY_MATERIAL_INCORRECT', detail)
}
