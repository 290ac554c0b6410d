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

import { CURVES, privateScalar, scalarBytes, type Curve } from './curves.ts'
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

/** FIPS 186-5 §5.4 asks for 2^16 < e < 2^256 and odd; an exponent of 1 would encrypt nothing. */
const PUBLIC_EXPONENT = 65_537
const PUBLIC_EXPONENT_END = 2n ** 256n

/** id-ecPublicKey (RFC 5480 §2.1.1). */
const EC_PUBLIC_KEY_OID = Buffer.from('06072a8648ce3d0201', 'hex')

const PKCS8 = { type: 'pkcs8', format: 'der' } as const
const SPKI = { type: 'spki', format: 'der' } as const

export function isAsymmetric(spec: KeySpec): spec is AsymmetricKeySpec {
  return isRsa(spec) || spec in CURVES
}

export function isRsa(spec: KeySpec): spec is RsaKeySpec {
  return spec in MODULUS_BITS
}

/** Off the event loop, and of RSA for a second or more: how many at once is bounded by key-stores/key-pair-work.ts. */
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
  const curve = CURVES[spec]
  return curve === undefined
    ? generateObjects('ed25519')
    : generateObjects('ec', { namedCurve: curve.name, paramEncoding: 'named' })
}

/** undefined: not PKCS#8 DER of a private key of this spec. */
export function openPrivateKey(spec: AsymmetricKeySpec, der: Uint8Array): KeyObject | undefined {
  return attempt(() => {
    const key = createPrivateKey({ key: viewOf(der), ...PKCS8 })
    return isRsa(spec) ? isRsaOfSpec(key, spec) && key : isEccPrivateKey(key, spec) && key
  })
}

/** undefined: not SPKI DER of a public key of this spec, or a point that is not on its curve. */
export function openPublicKey(spec: AsymmetricKeySpec, der: Uint8Array): KeyObject | undefined {
  const curve = isRsa(spec) ? undefined : CURVES[spec]
  if (curve !== undefined && !isSpkiOfCurve(der, curve)) return undefined
  return attempt(() => {
    const key = createPublicKey({ key: viewOf(der), ...SPKI })
    // OpenSSL reads more than DER.
    if (Buffer.compare(key.export(SPKI), der) !== 0) return false
    if (isRsa(spec)) return isRsaOfSpec(key, spec) && key
    return key.asymmetricKeyType === (curve === undefined ? 'ed25519' : 'ec') && key
  })
}

export function encodePrivateKey(privateKey: KeyObject): Uint8Array {
  return privateKey.export(PKCS8)
}

export function encodePublicKey(privateKey: KeyObject): Uint8Array {
  return createPublicKey(privateKey).export(SPKI)
}

function isRsaOfSpec(key: KeyObject, spec: RsaKeySpec): boolean {
  if (key.asymmetricKeyType !== 'rsa') return false
  const { modulusLength, publicExponent = 0n } = key.asymmetricKeyDetails ?? {}
  return (
    modulusLength === MODULUS_BITS[spec] &&
    publicExponent >= PUBLIC_EXPONENT &&
    publicExponent < PUBLIC_EXPONENT_END &&
    publicExponent % 2n === 1n
  )
}

/**
 * The curve can be named in two places of PKCS#8, and the public key be another's or none: what counts is the curve
 * that OpenSSL writes the public key with, by name.
 */
function isEccPrivateKey(key: KeyObject, spec: EccKeySpec): boolean {
  const curve = CURVES[spec]
  if (curve === undefined) return key.asymmetricKeyType === 'ed25519'
  if (key.asymmetricKeyType !== 'ec' || !isSpkiOfCurve(encodePublicKey(key), curve)) return false
  const sec1 = key.export({ type: 'sec1', format: 'der' })
  try {
    // OpenSSL takes any number that is as long as the order.
    const scalar = privateScalar(sec1, curve) ?? new Uint8Array(0)
    return (
      scalar.some((byte) => byte !== 0) && Buffer.compare(scalar, scalarBytes(curve.n, curve)) < 0
    )
  } finally {
    sec1.fill(0)
  }
}

/**
 * Whether it is a point other than infinity on this curve, by name (RFC 5480 §2), as far as the form goes. Told from
 * the bytes: Node 20 and 22 end the process where they are asked for the details of a key that is the point at
 * infinity, and a curve that is spelled out is one OpenSSL would take.
 */
function isSpkiOfCurve(der: Uint8Array, curve: Curve): boolean {
  const algorithm = Buffer.concat([EC_PUBLIC_KEY_OID, curve.oid])
  const forms = [
    { pointBytes: 1 + 2 * curve.bytes, marks: [4] },
    { pointBytes: 1 + curve.bytes, marks: [2, 3] },
  ]
  return forms.some(({ pointBytes, marks }) => {
    const bits = [0x03, ...derLength(1 + pointBytes), 0]
    const head = [0x30, algorithm.length, ...algorithm, ...bits]
    const start = Buffer.from([0x30, ...derLength(head.length + pointBytes), ...head])
    return (
      der.length === start.length + pointBytes &&
      Buffer.compare(der.subarray(0, start.length), start) === 0 &&
      marks.includes(der[start.length] as number)
    )
  })
}

function derLength(bytes: number): readonly number[] {
  return bytes < 0x80 ? [bytes] : [0x81, bytes]
}

function attempt(open: () => KeyObject | false): KeyObject | undefined {
  try {
    const key = open()
    return key === false ? undefined : key
  } catch {
    return undefined
  }
}

function viewOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
}
