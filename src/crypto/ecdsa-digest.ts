/**
 * ECDSA over a digest (FIPS 186-5 §6.4). node:crypto hashes whatever it signs or verifies, so both are carried over
 * to a message of ours, whose digest e' is known, and OpenSSL does the rest. With e the digest that was asked for:
 *
 *     sign      c = e'/e (mod n). OpenSSL signs the message under the key c·d: s' = (e' + r·c·d)/k. Then
 *               s = s'/c = (e + r·d)/k, which is the signature of e under d with the nonce k, and r is the same.
 *     verify    t = (e - e')/r (mod n). (r, s) verifies e under Q just if it verifies e' under Q + t·G, since
 *               (e'/s)·G + (r/s)·(Q + t·G) = (e/s)·G + (r/s)·Q.
 *
 * The message that is signed is random and forgotten, so c·d is a random scalar. Nonces are OpenSSL's alone. The only
 * arithmetic here on a secret is c·d, which has no branch or index that depends on it; verifying is on public numbers.
 */
import {
  createECDH,
  createHash,
  createPrivateKey,
  createPublicKey,
  randomBytes,
  sign,
  verify,
  type KeyObject,
} from 'node:crypto'

import { KeyfoldError } from '../errors.ts'
import { CURVES, privateScalar, scalarBytes, type Curve } from './curves.ts'
import type { EccKeySpec } from './key-spec.ts'
import type { Hash } from './signing-scheme.ts'

/** Throws REQUEST_MALFORMED for a digest of zero, which anybody can sign who has the public key. */
export function assertNotZero(spec: EccKeySpec, digest: Uint8Array): void {
  if (numberOf(digest) % curveOf(spec).n === 0n) {
    throw new KeyfoldError('REQUEST_MALFORMED', 'message: the digest is zero')
  }
}

/** DER. Errors: REQUEST_MALFORMED for a digest of zero. */
export function signEcdsaDigest(
  spec: EccKeySpec,
  privateKey: KeyObject,
  hash: Hash,
  digest: Uint8Array,
): Uint8Array {
  const curve = curveOf(spec)
  assertNotZero(spec, digest)
  const e = numberOf(digest) % curve.n
  const message = randomBytes(curve.bytes)
  const known = digestOf(hash, message)
  const c = modulo(known * inverse(e, curve.n), curve.n)
  const key = multiplyPrivateKey(curve, privateKey, c)
  const signature = sign(hash, message, { key, dsaEncoding: 'ieee-p1363' })
  const r = numberOf(signature.subarray(0, curve.bytes))
  const s = modulo(numberOf(signature.subarray(curve.bytes)) * inverse(c, curve.n), curve.n)
  return encodeSignature(r, s)
}

export function verifyEcdsaDigest(
  spec: EccKeySpec,
  publicKey: KeyObject,
  hash: Hash,
  digest: Uint8Array,
  signature: Uint8Array,
): boolean {
  const curve = curveOf(spec)
  const r = decodeR(signature)
  if (r === undefined || r <= 0n || r >= curve.n) return false
  const e = numberOf(digest)
  // The next message where the first happens to be what was signed, or gives Q + t·G no sum of two distinct points.
  for (let i = 0; ; i++) {
    const message = Uint8Array.of(i)
    const t = modulo((e - digestOf(hash, message)) * inverse(r, curve.n), curve.n)
    const key = addToPublicKey(curve, publicKey, t)
    if (key !== undefined) return verify(hash, message, { key, dsaEncoding: 'der' }, signature)
  }
}

function curveOf(spec: EccKeySpec): Curve {
  const curve = CURVES[spec]
  if (curve === undefined) throw new KeyfoldError('INTERNAL', `${spec} has no ECDSA`)
  return curve
}

/** The private key c·d. Whatever holds d or c·d is filled with zeros before it returns. */
function multiplyPrivateKey(curve: Curve, privateKey: KeyObject, c: bigint): KeyObject {
  const der = privateKey.export({ type: 'sec1', format: 'der' })
  const product = new Uint8Array(curve.bytes)
  const parameters = Buffer.from([0xa0, curve.oid.length, ...curve.oid])
  const multiplied = Buffer.from([
    ...[0x30, curve.bytes + parameters.length + 5, 2, 1, 1, 4, curve.bytes],
    ...product,
    ...parameters,
  ])
  try {
    const scalar = privateScalar(der, curve)
    if (scalar === undefined) throw new KeyfoldError('INTERNAL', 'an ECPrivateKey of another form')
    multiplyModulo(product, scalarBytes(c, curve), scalar, scalarBytes(curve.n, curve))
    multiplied.set(product, 7)
    return createPrivateKey({ key: multiplied, type: 'sec1', format: 'der' })
  } finally {
    for (const bytes of [der, product, multiplied]) bytes.fill(0)
  }
}

/** product = a·b mod n, big-endian, b < n. Every run takes the same steps, whatever a and b are. */
function multiplyModulo(product: Uint8Array, a: Uint8Array, b: Uint8Array, n: Uint8Array): void {
  const reduced = new Uint8Array(n.length)
  for (let bit = 0; bit < 8 * a.length; bit++) {
    addModulo(product, product, 0xff, n, reduced)
    const mask = -(((a[bit >> 3] as number) >> (7 - (bit & 7))) & 1) & 0xff
    addModulo(product, b, mask, n, reduced)
  }
  reduced.fill(0)
}

/** sum = sum + (addend & mask) mod n. */
function addModulo(
  sum: Uint8Array,
  addend: Uint8Array,
  mask: number,
  n: Uint8Array,
  reduced: Uint8Array,
): void {
  let carry = 0
  for (let i = n.length - 1; i >= 0; i--) {
    const digit = (sum[i] as number) + ((addend[i] as number) & mask) + carry
    sum[i] = digit
    carry = digit >> 8
  }
  let borrow = 0
  for (let i = n.length - 1; i >= 0; i--) {
    const digit = (sum[i] as number) - (n[i] as number) - borrow
    reduced[i] = digit
    borrow = (digit >> 8) & 1
  }
  const keep = -(borrow & (carry ^ 1)) & 0xff
  for (let i = 0; i < n.length; i++) {
    sum[i] = ((sum[i] as number) & keep) | ((reduced[i] as number) & ~keep)
  }
}

/** Q + t·G; undefined where t is 0 or the points share their x, which the formula is not for. */
function addToPublicKey(curve: Curve, publicKey: KeyObject, t: bigint): KeyObject | undefined {
  if (t === 0n) return undefined
  const { x = '', y = '' } = publicKey.export({ format: 'jwk' })
  const [x1, y1] = [numberOf(Buffer.from(x, 'base64url')), numberOf(Buffer.from(y, 'base64url'))]
  const ecdh = createECDH(curve.name)
  ecdh.setPrivateKey(scalarBytes(t, curve))
  const point = ecdh.getPublicKey()
  const x2 = numberOf(point.subarray(1, 1 + curve.bytes))
  const y2 = numberOf(point.subarray(1 + curve.bytes))
  if (x1 === x2) return undefined
  const slope = modulo((y2 - y1) * inverse(modulo(x2 - x1, curve.p), curve.p), curve.p)
  const x3 = modulo(slope * slope - x1 - x2, curve.p)
  const y3 = modulo(slope * (x1 - x3) - y1, curve.p)
  const [jwkX, jwkY] = [x3, y3].map((value) => scalarBytes(value, curve).toString('base64url'))
  return createPublicKey({
    key: { kty: 'EC', crv: curve.jwkName, x: jwkX as string, y: jwkY as string },
    format: 'jwk',
  })
}

/** SEQUENCE { INTEGER r, INTEGER s } (RFC 3279 §2.2.3). */
export function encodeSignature(r: bigint, s: bigint): Uint8Array {
  const integers = Buffer.concat([encodeInteger(r), encodeInteger(s)])
  const head = integers.length < 0x80 ? [0x30] : [0x30, 0x81]
  return Buffer.from([...head, integers.length, ...integers])
}

function encodeInteger(value: bigint): Uint8Array {
  const digits = value.toString(16)
  const bytes = Buffer.from(digits.length % 2 === 1 ? `0${digits}` : digits, 'hex')
  const sign = (bytes[0] as number) >= 0x80 ? [0] : []
  return Buffer.from([2, sign.length + bytes.length, ...sign, ...bytes])
}

/** r only, and only where it stands as DER would have it: OpenSSL refuses all that is wrong with the rest. */
function decodeR(signature: Uint8Array): bigint | undefined {
  const at = signature[1] === 0x81 ? 3 : 2
  const length = signature[at + 1] ?? 0
  const end = at + 2 + length
  if (signature[at] !== 2 || length === 0 || end > signature.length) return undefined
  return (signature[at + 2] as number) < 0x80
    ? numberOf(signature.subarray(at + 2, end))
    : undefined
}

function digestOf(hash: Hash, message: Uint8Array): bigint {
  return numberOf(createHash(hash).update(message).digest())
}

function numberOf(bytes: Uint8Array): bigint {
  return BigInt(`0x${Buffer.from(bytes).toString('hex') || '0'}`)
}

function modulo(value: bigint, modulus: bigint): bigint {
  const rest = value % modulus
  return rest < 0n ? rest + modulus : rest
}

/** By Euclid. Its time depends on the value: never of a private key or nonce. */
function inverse(value: bigint, modulus: bigint): bigint {
  let [a, b] = [modulo(value, modulus), modulus]
  let [x, y] = [1n, 0n]
  while (b !== 0n) {
    const quotient = a / b
    ;[a, b] = [b, a - quotient * b]
    ;[x, y] = [y, x - quotient * y]
  }
  return modulo(x, modulus)
}
