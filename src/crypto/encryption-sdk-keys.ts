/**
 * The keys and signatures of the AWS Encryption SDK's message format (specification, "Algorithm Suites").
 *
 *     version 2:  commitment = HKDF(data key, salt = message id, "COMMITKEY", 32)
 *                 content key = HKDF(data key, salt = message id, suite id ‖ "DERIVEKEY", 32)
 *     version 1:  content key = HKDF(data key, salt = zeros, suite id ‖ message id), or the data key itself
 */
import {
  createPublicKey,
  createVerify,
  ECDH,
  hkdfSync,
  timingSafeEqual,
  type KeyObject,
} from 'node:crypto'

import { KeyfoldError } from '../errors.ts'
import { COMMITMENT_BYTES } from '../format/encryption-sdk.ts'
import type { AlgorithmSuite, SignatureKind } from '../format/encryption-sdk-suites.ts'
import { CURVES } from './curves.ts'

/** What the header of a committing suite carries; empty for the others. */
export function deriveCommitment(
  suite: AlgorithmSuite,
  dataKey: Uint8Array,
  messageId: Uint8Array,
): Buffer {
  if (!suite.commits) return Buffer.alloc(0)
  return derive(suite, dataKey, messageId, Buffer.from('COMMITKEY'), COMMITMENT_BYTES)
}

/** Of the same length as the data key; the caller wipes it. */
export function deriveContentKey(
  suite: AlgorithmSuite,
  dataKey: Uint8Array,
  messageId: Uint8Array,
): Buffer {
  if (suite.kdfHash === undefined) return Buffer.from(dataKey)
  const id = Buffer.from([suite.id >> 8, suite.id & 0xff])
  return suite.formatVersion === 2
    ? derive(suite, dataKey, messageId, Buffer.concat([id, Buffer.from('DERIVEKEY')]))
    : derive(suite, dataKey, NO_SALT, Buffer.concat([id, messageId]))
}

/** Throws DECRYPT_FAILED unless the commitment is this data key's. Comes before any other use of the key. */
export function checkCommitment(
  suite: AlgorithmSuite,
  dataKey: Uint8Array,
  messageId: Uint8Array,
  commitment: Uint8Array,
): void {
  if (!timingSafeEqual(deriveCommitment(suite, dataKey, messageId), commitment)) {
    throw new KeyfoldError('DECRYPT_FAILED')
  }
}

/** RFC 5869 §2.2: no salt is as many zeros as the hash has bytes. */
const NO_SALT = new Uint8Array(0)

function derive(
  { kdfHash, keyBytes }: AlgorithmSuite,
  dataKey: Uint8Array,
  salt: Uint8Array,
  info: Uint8Array,
  bytes: number = keyBytes,
): Buffer {
  if (kdfHash === undefined) throw new KeyfoldError('INTERNAL', 'the suite derives no keys')
  return Buffer.from(hkdfSync(kdfHash, dataKey, salt, info, bytes))
}

/** Takes a message in pieces, and then its signature. */
export interface SignatureVerifier {
  update(bytes: Uint8Array): void
  /** Once. `signature` is DER (RFC 3279 §2.2.3). */
  verify(signature: Uint8Array): boolean
}

const SIGNATURE_CURVES = {
  ECDSA_P256_SHA256: { curve: CURVES.ECC_NIST_P256, hash: 'sha256' },
  ECDSA_P384_SHA384: { curve: CURVES.ECC_NIST_P384, hash: 'sha384' },
} as const

/** `publicKey`: base64 of a compressed point (SEC 1 §2.3.3). Throws DECRYPT_FAILED where it is none. */
export function createSignatureVerifier(kind: SignatureKind, publicKey: string): SignatureVerifier {
  const { hash } = SIGNATURE_CURVES[kind]
  const key = openCompressedPoint(kind, publicKey)
  const verifier = createVerify(hash)
  return {
    update: (bytes) => void verifier.update(bytes),
    verify: (signature) => verifier.verify({ key, dsaEncoding: 'der' }, signature),
  }
}

function openCompressedPoint(kind: SignatureKind, publicKey: string): KeyObject {
  const { curve } = SIGNATURE_CURVES[kind]
  const point = Buffer.from(publicKey, 'base64')
  const compressed = point[0] === 2 || point[0] === 3
  if (curve === undefined || !compressed || point.length !== 1 + curve.bytes) {
    throw new KeyfoldError('DECRYPT_FAILED', 'the public key of the signature is none')
  }
  try {
    // Throws where x is of no point on the curve.
    const whole = ECDH.convertKey(point, curve.name, undefined, undefined, 'uncompressed') as Buffer
    const x = whole.toString('base64url', 1, 1 + curve.bytes)
    const y = whole.toString('base64url', 1 + curve.bytes)
    return createPublicKey({ key: { kty: 'EC', crv: curve.jwkName, x, y }, format: 'jwk' })
  } catch (cause) {
    throw new KeyfoldError('DECRYPT_FAILED', 'the public key of the signature is none', cause)
  }
}
