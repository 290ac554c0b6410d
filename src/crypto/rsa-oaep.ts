/**
 * RSAES-OAEP (RFC 8017 §7.1) with SHA-1 or SHA-256, the same hash in MGF1, and an empty label: what AWS KMS encrypts
 * under RSA keys with, and wraps imported key material with. SHA-1 is sound here: OAEP does not rest on collisions.
 */
import { constants, publicEncrypt, webcrypto, type KeyObject } from 'node:crypto'

import { KeyfoldError } from '../errors.ts'
import { encodePrivateKey, isRsa, MODULUS_BITS, openPublicKey } from './key-pair.ts'
import {
  assertAlgorithm,
  type EncryptionAlgorithm,
  type KeySpec,
  type RsaKeySpec,
} from './key-spec.ts'

interface OaepHash {
  readonly oaepHash: string
  readonly webName: string
  readonly hashBytes: number
  /** A CryptoKey is of one hash, and lives for as long as the KeyObject that it was made of. */
  readonly webKeys: WeakMap<KeyObject, Promise<webcrypto.CryptoKey>>
}

const HASHES: Readonly<Record<Exclude<EncryptionAlgorithm, 'SYMMETRIC_DEFAULT'>, OaepHash>> = {
  RSAES_OAEP_SHA_1: {
    oaepHash: 'sha1',
    webName: 'SHA-1',
    hashBytes: 20,
    webKeys: new WeakMap(),
  },
  RSAES_OAEP_SHA_256: {
    oaepHash: 'sha256',
    webName: 'SHA-256',
    hashBytes: 32,
    webKeys: new WeakMap(),
  },
}

const WEB_NAME = 'RSA-OAEP'

/** Errors: KMS_KEY_USAGE_INVALID (not an algorithm of this spec), REQUEST_MALFORMED (the length). */
export function encryptOaep(
  spec: KeySpec,
  publicKey: Uint8Array,
  algorithm: EncryptionAlgorithm,
  plaintext: Uint8Array,
): Uint8Array {
  const { rsaSpec, hash } = oaepOf(spec, algorithm)
  const plaintextBytesMax = MODULUS_BITS[rsaSpec] / 8 - 2 * hash.hashBytes - 2
  if (plaintext.length < 1 || plaintext.length > plaintextBytesMax) {
    throw new KeyfoldError(
      'REQUEST_MALFORMED',
      `plaintext: 1 to ${plaintextBytesMax} bytes with ${algorithm} and ${spec}`,
    )
  }
  const key = openPublicKey(rsaSpec, publicKey)
  if (key === undefined) throw new KeyfoldError('INTERNAL', `not a public key of ${spec}`)
  return publicEncrypt({ key, ...paddingOf(hash) }, plaintext)
}

/**
 * Errors: KMS_KEY_USAGE_INVALID; DECRYPT_FAILED, the one for every reason (OpenSSL checks the padding in constant time).
 * Through Web Crypto, which decrypts off the event loop: privateDecrypt would hold it for 7 ms of RSA_4096.
 */
export async function decryptOaep(
  spec: KeySpec,
  privateKey: KeyObject,
  algorithm: EncryptionAlgorithm,
  ciphertext: Uint8Array,
): Promise<Uint8Array> {
  const hash = checkOaepCiphertext(spec, algorithm, ciphertext)
  const key = await webKeyOf(privateKey, hash)
  try {
    return new Uint8Array(await webcrypto.subtle.decrypt({ name: WEB_NAME }, key, ciphertext))
  } catch {
    throw new KeyfoldError('DECRYPT_FAILED')
  }
}

/** What decryptOaep throws without asking a key; for a private key that is elsewhere too. */
export function checkOaepCiphertext(
  spec: KeySpec,
  algorithm: EncryptionAlgorithm,
  ciphertext: Uint8Array,
): OaepHash {
  const { rsaSpec, hash } = oaepOf(spec, algorithm)
  // OpenSSL would take a shorter one for a number with leading zeros: a second spelling of the same ciphertext.
  if (ciphertext.length !== MODULUS_BITS[rsaSpec] / 8) throw new KeyfoldError('DECRYPT_FAILED')
  return hash
}

function webKeyOf(
  privateKey: KeyObject,
  { webName, webKeys }: OaepHash,
): Promise<webcrypto.CryptoKey> {
  const known = webKeys.get(privateKey)
  if (known !== undefined) return known
  const opening = openWebKey(privateKey, webName)
  webKeys.set(privateKey, opening)
  return opening
}

/** By way of its bytes, which are wiped: Node 20 makes no CryptoKey of a KeyObject. */
async function openWebKey(privateKey: KeyObject, hash: string): Promise<webcrypto.CryptoKey> {
  const der = encodePrivateKey(privateKey)
  try {
    const algorithm = { name: WEB_NAME, hash }
    return await webcrypto.subtle.importKey('pkcs8', der, algorithm, false, ['decrypt'])
  } finally {
    der.fill(0)
  }
}

function oaepOf(
  spec: KeySpec,
  algorithm: EncryptionAlgorithm,
): { readonly rsaSpec: RsaKeySpec; readonly hash: OaepHash } {
  assertAlgorithm(spec, algorithm)
  // What is left is the one algorithm of the one other spec that encrypts.
  if (!isRsa(spec) || algorithm === 'SYMMETRIC_DEFAULT') {
    throw new KeyfoldError('KMS_KEY_USAGE_INVALID', `${spec} does not encrypt with ${algorithm}`)
  }
  return { rsaSpec: spec, hash: HASHES[algorithm] }
}

function paddingOf({ oaepHash }: OaepHash): {
  readonly padding: number
  readonly oaepHash: string
} {
  return { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash }
}
