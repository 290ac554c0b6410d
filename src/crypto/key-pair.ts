/**
 * Key pairs as bytes and as KeyObjects: private keys are PKCS#8 DER (RFC 5208), public keys SubjectPublicKeyInfo
 * DER (RFC 5280). Whatever becomes a KeyObject here is of the key spec that was named: algorithms elsewhere rely
 * on it.
 */
import {
  createPrivateKey,
  createPublicKey,
  generateKeyPair as generateNodeKeyPair,
  type KeyObject,
  type KeyPairKeyObjectResult,
} from 'node:crypto'
import { promisify } from 'node:util'

import type { AsymmetricKeySpec, EccKeySpec, KeySpec, RsaKeySpec } from './key-spec.ts'

export interface KeyPair {
  /** PKCS#8 DER, which whoever takes it fills with zeros after use. */
  readonly privateKey: Uint8Array
  readonly publicKey: Uint8Array
}

export const MODULUS_BITS: Readonly<Record<RsaKeySpec, number>> = {
  RSA_2048: 2_048,
  RSA_3072: 3_072,
  RSA_4096: 4_096,
}

/** OpenSSL's names; undefined: not a Weierstrass curve, and a key type of its own. */
const NAMED_CURVES: Readonly<Record<EccKeySpec, string | undefined>> = {
  ECC_NIST_P256: 'prime256v1',
  ECC_NIST_P384: 'secp384r1',
  ECC_NIST_P521: 'secp521r1',
  ECC_SECG_P256K1: 'secp256k1',
  ECC_NIST_EDWARDS25519: undefined,
}

/** FIPS 186-5 §5.4 asks for 2^16 < e < 2^256 and odd; an exponent of 1 would encrypt nothing. */
const PUBLIC_EXPONENT = 65_537
const PUBLIC_EXPONENT_END = 2n ** 256n

const PKCS8 = { type: 'pkcs8', format: 'der' } as const
const SPKI = { type: 'spki', format: 'der' } as const

export function isAsymmetric(spec: KeySpec): spec is AsymmetricKeySpec {
  return isRsa(spec) || spec in NAMED_CURVES
}

export function isRsa(spec: KeySpec): spec is RsaKeySpec {
  return spec in MODULUS_BITS
}

/** For KMS keys, data key pairs (GenerateDataKeyPair) and wrapping keys of imports alike. Runs off the event loop. */
export async function generateKeyPair(spec: AsymmetricKeySpec): Promise<KeyPair> {
  const { privateKey, publicKey } = await generateKeyObjects(spec)
  return { privateKey: privateKey.export(PKCS8), publicKey: publicKey.export(SPKI) }
}

const generateObjects = promisify(generateNodeKeyPair)

function generateKeyObjects(spec: AsymmetricKeySpec): Promise<KeyPairKeyObjectResult> {
  if (isRsa(spec)) {
    const modulusLength = MODULUS_BITS[spec]
    return generateObjects('rsa', { modulusLength, publicExponent: PUBLIC_EXPONENT })
  }
  const namedCurve = NAMED_CURVES[spec]
  return namedCurve === undefined
    ? generateObjects('ed25519')
    : generateObjects('ec', { namedCurve, paramEncoding: 'named' })
}

/** undefined: not PKCS#8 DER of a private key of this spec. */
export function openPrivateKey(spec: AsymmetricKeySpec, der: Uint8Array): KeyObject | undefined {
  return openKey(spec, () =>
    createPrivateKey({ key: Buffer.from(der.buffer, der.byteOffset, der.length), ...PKCS8 }),
  )
}

/** undefined: not SPKI DER of a public key of this spec, or a point that is not on its curve. */
export function openPublicKey(spec: AsymmetricKeySpec, der: Uint8Array): KeyObject | undefined {
  return openKey(spec, () =>
    createPublicKey({ key: Buffer.from(der.buffer, der.byteOffset, der.length), ...SPKI }),
  )
}

export function encodePrivateKey(privateKey: KeyObject): Uint8Array {
  return privateKey.export(PKCS8)
}

export function encodePublicKey(privateKey: KeyObject): Uint8Array {
  return createPublicKey(privateKey).export(SPKI)
}

function openKey(spec: AsymmetricKeySpec, open: () => KeyObject): KeyObject | undefined {
  let key: KeyObject
  try {
    key = open()
  } catch {
    return undefined
  }
  return isOfSpec(key, spec) ? key : undefined
}

function isOfSpec(key: KeyObject, spec: AsymmetricKeySpec): boolean {
  const { modulusLength, publicExponent = 0n, namedCurve } = key.asymmetricKeyDetails ?? {}
  if (isRsa(spec)) {
    return (
      key.asymmetricKeyType === 'rsa' &&
      modulusLength === MODULUS_BITS[spec] &&
      publicExponent >= PUBLIC_EXPONENT &&
      publicExponent < PUBLIC_EXPONENT_END &&
      publicExponent % 2n === 1n
    )
  }
  const curve = NAMED_CURVES[spec]
  return curve === undefined
    ? key.asymmetricKeyType === 'ed25519'
    : key.asymmetricKeyType === 'ec' && namedCurve === curve
}
