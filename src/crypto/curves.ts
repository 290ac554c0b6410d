/** The Weierstrass curves of AWS KMS's key specs: SP 800-186 §3.2.1 and SEC 2 §2.4.1. */
import type { EccKeySpec } from './key-spec.ts'

export interface Curve {
  /** OpenSSL's name. */
  readonly name: string
  /** In JSON Web Keys (RFC 7518 §6.2.1.1, RFC 8812 §3). */
  readonly jwkName: string
  /** DER of its OBJECT IDENTIFIER. */
  readonly oid: Uint8Array
  /** The prime of the field. */
  readonly p: bigint
  /** The order of the group: private keys and nonces are 1 to n - 1. */
  readonly n: bigint
  /** Of a coordinate, and of a private key. */
  readonly bytes: number
}

/** undefined: Ed25519 is no Weierstrass curve, and to OpenSSL a key type of its own. */
export const CURVES: Readonly<Record<EccKeySpec, Curve | undefined>> = {
  ECC_NIST_P256: {
    name: 'prime256v1',
    jwkName: 'P-256',
    oid: Buffer.from('06082a8648ce3d030107', 'hex'),
    p: 2n ** 256n - 2n ** 224n + 2n ** 192n + 2n ** 96n - 1n,
    n: 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n,
    bytes: 32,
  },
  ECC_NIST_P384: {
    name: 'secp384r1',
    jwkName: 'P-384',
    oid: Buffer.from('06052b81040022', 'hex'),
    p: 2n ** 384n - 2n ** 128n - 2n ** 96n + 2n ** 32n - 1n,
    n: 2n ** 384n - 0x389cb27e0bc8d220a7e5f24db74f58851313e695333ad68dn,
    bytes: 48,
  },
  ECC_NIST_P521: {
    name: 'secp521r1',
    jwkName: 'P-521',
    oid: Buffer.from('06052b81040023', 'hex'),
    p: 2n ** 521n - 1n,
    n: 2n ** 521n - 0x5ae79787c40d069948033feb708f65a2fc44a36477663b851449048e16ec79bf7n,
    bytes: 66,
  },
  ECC_SECG_P256K1: {
    name: 'secp256k1',
    jwkName: 'secp256k1',
    oid: Buffer.from('06052b8104000a', 'hex'),
    p: 2n ** 256n - 2n ** 32n - 977n,
    n: 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n,
    bytes: 32,
  },
  ECC_NIST_EDWARDS25519: undefined,
}

/** Big-endian, as long as a private key of the curve. */
export function scalarBytes(value: bigint, { bytes }: Curve): Buffer {
  return Buffer.from(value.toString(16).padStart(2 * bytes, '0'), 'hex')
}

/** Of an ECPrivateKey (RFC 5915): SEQUENCE { INTEGER 1, OCTET STRING, … }. A view; undefined: of another form. */
export function privateScalar(sec1: Uint8Array, { bytes }: Curve): Uint8Array | undefined {
  const lengthByte = sec1[1] ?? 0
  const at = lengthByte < 0x80 ? 2 : 2 + (lengthByte & 0x7f)
  const head = Buffer.from([2, 1, 1, 4, bytes])
  const start = at + head.length
  if (Buffer.compare(sec1.subarray(at, start), head) !== 0) return undefined
  return sec1.subarray(start, start + bytes)
}
