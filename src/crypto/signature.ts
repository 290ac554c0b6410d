/**
 * Sign and Verify of AWS KMS: RSASSA-PKCS1-v1_5, RSASSA-PSS (RFC 8017; the salt is as long as the digest), ECDSA
 * (FIPS 186-5; signatures are DER) and Ed25519 (RFC 8032). What is signed is a message (RAW) or its digest (DIGEST).
 *
 * node:crypto signs messages, off the event loop. It has no way to sign a digest, it would hash once more: those are
 * in rsa-digest.ts and ecdsa-digest.ts, on the event loop (5 ms of RSA_4096 or P-521). For RSA there is nothing else; of
 * ECDSA, what could leave it is a fifth.
 */
import {
  constants,
  createHash,
  sign as signNode,
  verify as verifyNode,
  type KeyObject,
  type SignKeyObjectInput,
} from 'node:crypto'
import { promisify } from 'node:util'

import { KeyfoldError } from '../errors.ts'
import { CALLER_PLAINTEXT_BYTES_MAX } from '../limits.ts'
import { assertNotZero, signEcdsaDigest, verifyEcdsaDigest } from './ecdsa-digest.ts'
import { isRsa, MODULUS_BITS, openPublicKey } from './key-pair.ts'
import {
  assertAlgorithm,
  type AsymmetricKeySpec,
  type EccKeySpec,
  type KeySpec,
  type SigningAlgorithm,
} from './key-spec.ts'
import { signRsaDigest, verifyRsaDigest } from './rsa-digest.ts'
import { DIGEST_BYTES, SIGNING_SCHEMES, type Hash, type SigningScheme } from './signing-scheme.ts'

export interface Signable {
  readonly algorithm: SigningAlgorithm
  /** DIGEST: `message` is already hashed, with the hash of the algorithm. */
  readonly messageType: 'RAW' | 'DIGEST'
  readonly message: Uint8Array
}

const signMessage = promisify(signNode)
const verifyMessage = promisify(verifyNode)

/** Errors: KMS_KEY_USAGE_INVALID (not an algorithm of this spec), REQUEST_MALFORMED (the length). */
export async function sign(
  spec: KeySpec,
  privateKey: KeyObject,
  signable: Signable,
): Promise<Uint8Array> {
  const scheme = schemeOf(spec, signable)
  const { messageType, message } = signable
  if (messageType === 'RAW') {
    return signMessage(digestNameOf(scheme), message, keyInput(scheme, privateKey))
  }
  return scheme.name === 'ecdsa'
    ? signEcdsaDigest(spec as EccKeySpec, privateKey, scheme.hash, message)
    : signRsaDigest(privateKey, scheme, message)
}

/** A signature of any length and form is one that verifies or not; the rest as sign. */
export async function verify(
  spec: AsymmetricKeySpec,
  publicKey: Uint8Array,
  signable: Signable,
  signature: Uint8Array,
): Promise<boolean> {
  const scheme = schemeOf(spec, signable)
  const { messageType, message } = signable
  const key = openPublicKey(spec, publicKey)
  if (key === undefined) throw new KeyfoldError('INTERNAL', `not a public key of ${spec}`)
  // RFC 8017 §8.1.2: OpenSSL takes PSS without its leading zeros too, a second spelling of one signature in 256.
  if (isRsa(spec) && signature.length !== MODULUS_BITS[spec] / 8) return false
  if (messageType === 'RAW') {
    return verifyMessage(digestNameOf(scheme), message, keyInput(scheme, key), signature)
  }
  return scheme.name === 'ecdsa'
    ? verifyEcdsaDigest(spec as EccKeySpec, key, scheme.hash, message, signature)
    : verifyRsaDigest(key, scheme, message, signature)
}

/** What sign and verify would throw, before there is a key. */
export function checkSignable(spec: KeySpec, signable: Signable): void {
  schemeOf(spec, signable)
}

/** The digest that a key elsewhere is to sign, and how. Throws as sign. */
export function digestToSign(
  spec: KeySpec,
  signable: Signable,
): { readonly scheme: SigningScheme; readonly digest: Uint8Array } {
  const scheme = schemeOf(spec, signable)
  const { messageType, message } = signable
  const digest =
    messageType === 'DIGEST' ? message : createHash(scheme.hash).update(message).digest()
  if (scheme.name === 'ecdsa') assertNotZero(spec as EccKeySpec, digest)
  return { scheme, digest }
}

function schemeOf(spec: KeySpec, { algorithm, messageType, message }: Signable): SigningScheme {
  assertAlgorithm(spec, algorithm)
  const scheme = SIGNING_SCHEMES[algorithm]
  if (messageType === 'RAW') {
    if (message.length < 1 || message.length > CALLER_PLAINTEXT_BYTES_MAX) {
      throw malformed(`message: 1 to ${CALLER_PLAINTEXT_BYTES_MAX} bytes; sign its digest instead`)
    }
  } else if (scheme.name === 'eddsa') {
    throw malformed(`messageType: ${algorithm} signs messages, not digests`)
  } else if (message.length !== DIGEST_BYTES[scheme.hash]) {
    throw malformed(`message: a digest of ${algorithm} has ${DIGEST_BYTES[scheme.hash]} bytes`)
  }
  return scheme
}

/** Ed25519 hashes by itself. */
function digestNameOf({ name, hash }: SigningScheme): Hash | undefined {
  return name === 'eddsa' ? undefined : hash
}

function keyInput({ name }: SigningScheme, key: KeyObject): SignKeyObjectInput {
  switch (name) {
    case 'pkcs1':
      return { key, padding: constants.RSA_PKCS1_PADDING }
    case 'pss':
      // The default when signing is the longest salt that fits, and when verifying any.
      return {
        key,
        padding: constants.RSA_PKCS1_PSS_PADDING,
        saltLength: constants.RSA_PSS_SALTLEN_DIGEST,
      }
    case 'ecdsa':
      return { key, dsaEncoding: 'der' }
    case 'eddsa':
      return { key }
  }
}

function malformed(detail: string): KeyfoldError {
  return new KeyfoldError('REQUEST_MALFORMED', detail)
}
