/**
 * DeriveSharedSecret of AWS KMS: elliptic curve Diffie-Hellman with cofactor 1 (SP 800-56A §5.7.1.2). The shared
 * secret is the bare x coordinate, as long as the field; callers put it through a key derivation of their own.
 *
 * On the event loop (4 ms of P-521). Web Crypto has an asynchronous form, and needs 2 ms there to be given the keys, after 5
 * for a private key that it does not know.
 */
import { diffieHellman, type KeyObject } from 'node:crypto'

import { KeyfoldError } from '../errors.ts'
import { isAsymmetric, openPublicKey } from './key-pair.ts'
import { assertAlgorithm, type KeyAgreementAlgorithm, type KeySpec } from './key-spec.ts'

/**
 * `peer`: SPKI DER. Errors: KMS_KEY_USAGE_INVALID (this spec agrees on nothing), REQUEST_MALFORMED (the peer's key is
 * none of the same named curve, or no point on it: such a point would give the private key away bit by bit).
 */
export function deriveSharedSecret(
  spec: KeySpec,
  privateKey: KeyObject,
  algorithm: KeyAgreementAlgorithm,
  peer: Uint8Array,
): Uint8Array {
  return diffieHellman({ privateKey, publicKey: openPeer(spec, algorithm, peer) })
}

/** The peer's key, checked as above; for a private key that is elsewhere too. */
export function openPeer(
  spec: KeySpec,
  algorithm: KeyAgreementAlgorithm,
  peer: Uint8Array,
): KeyObject {
  assertAlgorithm(spec, algorithm)
  const publicKey = isAsymmetric(spec) ? openPublicKey(spec, peer) : undefined
  if (publicKey === undefined) {
    throw new KeyfoldError(
      'REQUEST_MALFORMED',
      `publicKey: DER of a SubjectPublicKeyInfo of ${spec} is needed`,
    )
  }
  return publicKey
}
