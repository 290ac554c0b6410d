/** Public keys as a token has them (PKCS#11 v2.40, 2.1.2 and 2.3.3), made into SubjectPublicKeyInfo DER. */
import { createPublicKey, type JsonWebKey } from 'node:crypto'

import type { Curve } from '../../crypto/curves.ts'
import { openPublicKey } from '../../crypto/key-pair.ts'
import type { AsymmetricKeySpec } from '../../crypto/key-spec.ts'

const UNCOMPRESSED = 4
const OCTET_STRING = 4

/** undefined: no key of this spec. */
export function rsaPublicKey(
  spec: AsymmetricKeySpec,
  modulus: Buffer | undefined,
  exponent: Buffer | undefined,
): Uint8Array | undefined {
  if (modulus === undefined || exponent === undefined) return undefined
  return spkiOf(spec, {
    kty: 'RSA',
    n: modulus.toString('base64url'),
    e: exponent.toString('base64url'),
  })
}

/** `point`: CKA_EC_POINT, DER of an OCTET STRING; some tokens give the bare point. */
export function ecPublicKey(
  spec: AsymmetricKeySpec,
  curve: Curve,
  point: Buffer | undefined,
): Uint8Array | undefined {
  const bytes = 1 + 2 * curve.bytes
  const bare = point?.subarray(point.length - bytes)
  if (point === undefined || bare?.length !== bytes || bare[0] !== UNCOMPRESSED) return undefined
  if (point.length > bytes && point[0] !== OCTET_STRING) return undefined
  return spkiOf(spec, {
    kty: 'EC',
    crv: curve.jwkName,
    x: bare.toString('base64url', 1, 1 + curve.bytes),
    y: bare.toString('base64url', 1 + curve.bytes),
  })
}

/** The uncompressed point of a public key that openPublicKey took: what ends its SPKI DER. */
export function pointOf(spki: Uint8Array, curve: Curve): Uint8Array {
  return spki.subarray(spki.length - 1 - 2 * curve.bytes)
}

function spkiOf(spec: AsymmetricKeySpec, key: JsonWebKey): Uint8Array | undefined {
  try {
    const spki = createPublicKey({ key, format: 'jwk' }).export({ type: 'spki', format: 'der' })
    return openPublicKey(spec, spki) === undefined ? undefined : spki
  } catch {
    return undefined
  }
}
