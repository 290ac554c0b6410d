/** Key pairs of every key spec, made once for each file of tests, and what a published private scalar is as DER. */
import { createPrivateKey, type KeyObject } from 'node:crypto'

import { generateKeyPair, openPrivateKey } from '../../dist/crypto/key-pair.js'
import { KEY_SPECS, type AsymmetricKeySpec } from '../../dist/crypto/key-spec.js'

export interface TestPair {
  readonly spec: AsymmetricKeySpec
  readonly privateKey: KeyObject
  readonly privateDer: Uint8Array
  readonly publicKey: Uint8Array
}

export const asymmetricSpecs = (Object.keys(KEY_SPECS) as (keyof typeof KEY_SPECS)[]).filter(
  (spec): spec is AsymmetricKeySpec => /^(RSA|ECC)_/.test(spec),
)

const pairs = new Map<AsymmetricKeySpec, Promise<TestPair>>()

export function pairOf(spec: AsymmetricKeySpec): Promise<TestPair> {
  const known = pairs.get(spec)
  if (known !== undefined) return known
  const making = makePair(spec)
  pairs.set(spec, making)
  return making
}

export async function makePair(spec: AsymmetricKeySpec): Promise<TestPair> {
  const { privateKey, publicKey } = await generateKeyPair(spec)
  const opened = openPrivateKey(spec, privateKey) as KeyObject
  return { spec, privateKey: opened, privateDer: privateKey, publicKey }
}

const CURVE_OIDS: Readonly<Record<string, string>> = {
  ECC_NIST_P256: '06082a8648ce3d030107',
  ECC_NIST_P384: '06052b81040022',
  ECC_NIST_P521: '06052b81040023',
  ECC_SECG_P256K1: '06052b8104000a',
}
const FIELD_BYTES: Readonly<Record<string, number>> = {
  ECC_NIST_P256: 32,
  ECC_NIST_P384: 48,
  ECC_NIST_P521: 66,
  ECC_SECG_P256K1: 32,
}

/** ECPrivateKey (RFC 5915) of a scalar, without a public key. */
export function privateKeyOf(spec: string, scalar: bigint): KeyObject {
  const oid = Buffer.from(CURVE_OIDS[spec] as string, 'hex')
  const bytes = FIELD_BYTES[spec] as number
  const digits = Buffer.from(scalar.toString(16).padStart(2 * bytes, '0'), 'hex')
  const parameters = Buffer.from([0xa0, oid.length, ...oid])
  const body = Buffer.from([2, 1, 1, 4, bytes, ...digits, ...parameters])
  const key = Buffer.from([0x30, body.length, ...body])
  return createPrivateKey({ key, type: 'sec1', format: 'der' })
}

export function flip(bytes: Uint8Array, at: number, bits = 1): Uint8Array {
  const flipped = Uint8Array.from(bytes)
  flipped[at] = (flipped[at] as number) ^ bits
  return flipped
}
