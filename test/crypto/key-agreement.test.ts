/** ECDH: the secret that openssl derives, and no secret at all with points that are none of the curve's. */
import { createPublicKey, generateKeyPairSync } from 'node:crypto'
import { describe, expect, test } from 'vitest'

import { deriveSharedSecret } from '../../dist/crypto/key-agreement.js'
import { KEY_SPECS, type KeySpec } from '../../dist/crypto/key-spec.js'
import { asymmetricSpecs, flip, makePair, pairOf } from './key-pairs.ts'
import { testOpenssl } from './openssl.ts'

const cases = [
  { spec: 'ECC_NIST_P256', secretBytes: 32, curve: 'prime256v1' },
  { spec: 'ECC_NIST_P384', secretBytes: 48, curve: 'secp384r1' },
  { spec: 'ECC_NIST_P521', secretBytes: 66, curve: 'secp521r1' },
] as const

const derive = async (spec: KeySpec, peer: Uint8Array): Promise<Uint8Array | string> => {
  const { privateKey } = await pairOf(
    cases.find((known) => known.spec === spec)?.spec ?? 'RSA_2048',
  )
  try {
    return deriveSharedSecret(spec, privateKey, 'ECDH', peer)
  } catch (error) {
    return (error as { code: string }).code
  }
}

describe.each(cases)('$spec', ({ spec, secretBytes, curve }) => {
  testOpenssl('derives what openssl derives, as long as the field', async (openssl) => {
    const own = await pairOf(spec)
    for (let i = 0; i < 20; i++) {
      const peer = await makePair(spec)
      const theirs = openssl.answer(
        ...['pkeyutl', '-derive', '-keyform', 'DER', '-peerform', 'DER'],
        ...['-inkey', openssl.file('private.der', peer.privateDer)],
        ...['-peerkey', openssl.file('public.der', own.publicKey)],
      )
      expect(theirs).toHaveLength(secretBytes)
      const derived = deriveSharedSecret(spec, own.privateKey, 'ECDH', peer.publicKey)
      expect(Buffer.from(derived)).toEqual(theirs)
    }
  })

  test('refuses a point that is not on the curve, whichever byte of it is wrong', async () => {
    const { publicKey } = await makePair(spec)
    const start = publicKey.length - 2 * secretBytes - 1
    expect(publicKey[start]).toBe(4)
    for (let at = 0; at < publicKey.length; at++) {
      expect(await derive(spec, flip(publicKey, at))).toBe('REQUEST_MALFORMED')
    }
    // The hybrid form of X9.62, which RFC 5480 has no longer: 6 or 7 by the parity of y, and both coordinates.
    const hybrid = flip(publicKey, start, 2 + ((publicKey.at(-1) as number) & 1))
    expect(createPublicKey({ key: Buffer.from(hybrid), type: 'spki', format: 'der' }).type).toBe(
      'public',
    )
    expect(await derive(spec, hybrid)).toBe('REQUEST_MALFORMED')
    // SEQUENCE { AlgorithmIdentifier, BIT STRING { 00 } }: Node 20 and 22 abort over this key.
    const algorithmAt = publicKey[1] === 0x81 ? 3 : 2
    const algorithm = publicKey.subarray(
      algorithmAt,
      algorithmAt + 2 + (publicKey[algorithmAt + 1] as number),
    )
    const infinity = Buffer.from([0x30, algorithm.length + 4, ...algorithm, 3, 2, 0, 0])
    expect(createPublicKey({ key: infinity, type: 'spki', format: 'der' }).type).toBe('public')
    expect(await derive(spec, infinity)).toBe('REQUEST_MALFORMED')
    expect(await derive(spec, new Uint8Array(0))).toBe('REQUEST_MALFORMED')
    expect(await derive(spec, publicKey.subarray(0, -1))).toBe('REQUEST_MALFORMED')
  })

  test('refuses keys of every other curve and kind', async () => {
    const others = asymmetricSpecs.filter((other) => other !== spec)
    expect(others).toHaveLength(7)
    for (const other of others) {
      const { publicKey } = await pairOf(other)
      expect(await derive(spec, publicKey)).toBe('REQUEST_MALFORMED')
    }
    for (const key of [generateKeyPairSync('x25519'), generateKeyPairSync('x448')]) {
      const publicKey = key.publicKey.export({ type: 'spki', format: 'der' })
      expect(await derive(spec, publicKey)).toBe('REQUEST_MALFORMED')
    }
    const { privateDer } = await makePair(spec)
    expect(await derive(spec, privateDer)).toBe('REQUEST_MALFORMED')
  })

  testOpenssl('refuses a curve that is spelled out, were it the same or not', async (openssl) => {
    // CVE-2020-0601: a curve with a generator of the sender's choice.
    openssl.answer(
      ...['ecparam', '-name', curve, '-genkey', '-param_enc', 'explicit', '-out', 'explicit.pem'],
    )
    const explicit = openssl.answer('pkey', '-in', 'explicit.pem', '-pubout', '-outform', 'DER')
    expect(explicit.length).toBeGreaterThan(200)
    expect(await derive(spec, explicit)).toBe('REQUEST_MALFORMED')
  })
})

test('is for the NIST curves only', async () => {
  const agreeing: readonly string[] = cases.map(({ spec }) => spec)
  const others = (Object.keys(KEY_SPECS) as KeySpec[]).filter((spec) => !agreeing.includes(spec))
  expect(others).toHaveLength(10)
  const { publicKey } = await pairOf('ECC_NIST_P256')
  for (const spec of others) expect(await derive(spec, publicKey)).toBe('KMS_KEY_USAGE_INVALID')
})

test('takes a compressed point: it names the same key', async () => {
  const own = await pairOf('ECC_NIST_P256')
  const peer = await makePair('ECC_NIST_P256')
  const x = peer.publicKey.subarray(-64, -32)
  const parity = (peer.publicKey.at(-1) as number) & 1
  const head = Buffer.from('3039301306072a8648ce3d020106082a8648ce3d030107032200', 'hex')
  const compressed = Buffer.concat([head, Buffer.of(2 + parity), x])
  expect(createPublicKey({ key: compressed, type: 'spki', format: 'der' }).type).toBe('public')
  const derived = deriveSharedSecret('ECC_NIST_P256', own.privateKey, 'ECDH', compressed)
  const same = deriveSharedSecret('ECC_NIST_P256', own.privateKey, 'ECDH', peer.publicKey)
  expect(derived).toEqual(same)
})
