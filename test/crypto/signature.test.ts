/**
 * Signatures over messages and digests: what we sign the openssl command line verifies, and the reverse; published
 * figures; and nothing else verifies.
 */
import { createECDH, createHash, createPublicKey, randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'

import { encodePublicKey } from '../../dist/crypto/key-pair.js'
import {
  KEY_SPECS,
  traitsOf,
  type AsymmetricKeySpec,
  type SigningAlgorithm,
} from '../../dist/crypto/key-spec.js'
import { sign, verify, type Signable } from '../../dist/crypto/signature.js'
import { hex } from '../vectors.ts'
import { asymmetricSpecs, flip, pairOf, privateKeyOf } from './key-pairs.ts'
import { testOpenssl } from './openssl.ts'

interface Case {
  readonly spec: AsymmetricKeySpec
  readonly algorithm: SigningAlgorithm
  readonly hash: string
  readonly digestBytes: number
}

/** By the names of the algorithms themselves, not by our table. */
const cases: readonly Case[] = asymmetricSpecs.flatMap((spec) =>
  traitsOf(spec).signingAlgorithms.map((algorithm) => {
    const bits = /(\d+)$/.exec(algorithm)?.[1] as string
    return { spec, algorithm, hash: `sha${bits}`, digestBytes: Number(bits) / 8 }
  }),
)
const digestCases = cases.filter(({ algorithm }) => algorithm !== 'ED25519_SHA_512')
const ecdsaCases = cases.filter(({ algorithm }) => algorithm.startsWith('ECDSA'))

const message = Buffer.from('a message to sign')
const hashed = (hash: string, bytes: Uint8Array = message): Buffer =>
  createHash(hash).update(bytes).digest()

const raw = (algorithm: SigningAlgorithm, bytes: Uint8Array = message): Signable => ({
  algorithm,
  messageType: 'RAW',
  message: bytes,
})
const digested = (algorithm: SigningAlgorithm, digest: Uint8Array): Signable => ({
  algorithm,
  messageType: 'DIGEST',
  message: digest,
})

/** How `openssl pkeyutl` is told of an algorithm. */
function pkeyutlOptions({ algorithm, hash }: Case): string[] {
  const options = ['-pkeyopt', `digest:${hash}`]
  if (algorithm.startsWith('RSASSA_PSS')) {
    options.push('-pkeyopt', 'rsa_padding_mode:pss', '-pkeyopt', 'rsa_pss_saltlen:digest')
    options.push('-pkeyopt', `rsa_mgf1_md:${hash}`)
  }
  return options
}

describe.each(digestCases)('$spec $algorithm', (testCase) => {
  const { spec, algorithm, hash, digestBytes } = testCase
  const digest = hashed(hash)

  testOpenssl('signs digests and messages that openssl verifies', async (openssl) => {
    const pair = await pairOf(spec)
    const key = openssl.file('public.der', pair.publicKey)
    for (const signable of [raw(algorithm), digested(algorithm, digest)]) {
      const signature = await sign(spec, pair.privateKey, signable)
      const verifies = (bytes: Uint8Array): boolean =>
        openssl.run(
          ...['pkeyutl', '-verify', '-pubin', '-keyform', 'DER', '-inkey', key],
          ...['-in', openssl.file('digest', bytes), ...pkeyutlOptions(testCase)],
          ...['-sigfile', openssl.file('signature', signature)],
        ) !== undefined
      expect(verifies(digest)).toBe(true)
      expect(verifies(flip(digest, 0))).toBe(false)
    }
  })

  testOpenssl('verifies what openssl signed, as a message and as a digest', async (openssl) => {
    const pair = await pairOf(spec)
    const signature = openssl.answer(
      ...['pkeyutl', '-sign', '-keyform', 'DER'],
      ...['-inkey', openssl.file('private.der', pair.privateDer)],
      ...['-in', openssl.file('digest', digest), ...pkeyutlOptions(testCase)],
    )
    expect(await verify(spec, pair.publicKey, raw(algorithm), signature)).toBe(true)
    expect(await verify(spec, pair.publicKey, digested(algorithm, digest), signature)).toBe(true)
  })

  test('verifies with no byte of signature, message or digest changed, and no other length', async () => {
    const { privateKey, publicKey } = await pairOf(spec)
    for (const signable of [raw(algorithm), digested(algorithm, digest)]) {
      const signature = await sign(spec, privateKey, signable)
      const verifies = (given: Uint8Array, what: Signable = signable): Promise<boolean> =>
        verify(spec, publicKey, what, given)
      expect(await verifies(signature)).toBe(true)
      const wrong = [...signature.keys()].map((at) => flip(signature, at, 1 << (at % 8)))
      wrong.push(new Uint8Array(0), signature.subarray(1), signature.subarray(0, -1))
      wrong.push(Buffer.concat([signature, Buffer.of(0)]), Buffer.concat([Buffer.of(0), signature]))
      wrong.push(new Uint8Array(signature.length), new Uint8Array(signature.length).fill(0xff))
      wrong.push(randomBytes(signature.length), randomBytes(10_000))
      for (const given of wrong) expect(await verifies(given)).toBe(false)
      for (const at of signable.message.keys()) {
        const other = { ...signable, message: flip(signable.message, at) }
        expect(await verifies(signature, other)).toBe(false)
      }
    }
  })

  test('takes a digest of its own length only, and says which', async () => {
    const { privateKey, publicKey } = await pairOf(spec)
    for (const bytes of [0, 1, 20, digestBytes - 1, digestBytes + 1, 4_096]) {
      const refused = {
        code: 'REQUEST_MALFORMED',
        message: expect.stringContaining(`a digest of ${algorithm} has ${digestBytes} bytes`),
      }
      const wrong = digested(algorithm, randomBytes(bytes))
      await expect(sign(spec, privateKey, wrong)).rejects.toMatchObject(refused)
      const verified = verify(spec, publicKey, wrong, new Uint8Array(64))
      await expect(verified).rejects.toMatchObject(refused)
    }
  })
})

describe('Ed25519', () => {
  const [spec, algorithm] = ['ECC_NIST_EDWARDS25519', 'ED25519_SHA_512'] as const

  testOpenssl('signs what openssl verifies, and the reverse', async (openssl) => {
    const pair = await pairOf(spec)
    const given = openssl.file('message', message)
    const signature = await sign(spec, pair.privateKey, raw(algorithm))
    openssl.answer(
      ...['pkeyutl', '-verify', '-rawin', '-in', given, '-pubin', '-keyform', 'DER'],
      ...['-inkey', openssl.file('public.der', pair.publicKey)],
      ...['-sigfile', openssl.file('signature', signature)],
    )
    const theirs = openssl.answer(
      ...['pkeyutl', '-sign', '-rawin', '-in', given, '-keyform', 'DER'],
      ...['-inkey', openssl.file('private.der', pair.privateDer)],
    )
    // Ed25519 is deterministic (RFC 8032 §5.1.6).
    expect(theirs).toEqual(signature)
    for (const at of theirs.keys()) {
      expect(await verify(spec, pair.publicKey, raw(algorithm), flip(theirs, at))).toBe(false)
    }
  })

  test('signs no digest: that would be Ed25519ph', async () => {
    const { privateKey } = await pairOf(spec)
    await expect(
      sign(spec, privateKey, digested(algorithm, hashed('sha512'))),
    ).rejects.toMatchObject({ code: 'REQUEST_MALFORMED' })
  })
})

test('messages have 1 to 4,096 bytes', async () => {
  const { privateKey } = await pairOf('ECC_NIST_P256')
  for (const bytes of [1, 4_096]) {
    await sign('ECC_NIST_P256', privateKey, raw('ECDSA_SHA_256', randomBytes(bytes)))
  }
  for (const bytes of [0, 4_097]) {
    await expect(
      sign('ECC_NIST_P256', privateKey, raw('ECDSA_SHA_256', randomBytes(bytes))),
    ).rejects.toMatchObject({
      code: 'REQUEST_MALFORMED',
      message: expect.stringContaining('message: 1 to 4096 bytes'),
    })
  }
})

test('a key spec signs with its own algorithms and with no other', async () => {
  const algorithms = [...new Set(cases.map(({ algorithm }) => algorithm))]
  expect(algorithms).toHaveLength(10)
  for (const spec of Object.keys(KEY_SPECS) as (keyof typeof KEY_SPECS)[]) {
    const { privateKey } = await pairOf(spec.startsWith('RSA') ? 'RSA_2048' : 'ECC_NIST_P256')
    for (const algorithm of algorithms) {
      if (traitsOf(spec).signingAlgorithms.includes(algorithm)) continue
      await expect(sign(spec, privateKey, raw(algorithm))).rejects.toMatchObject({
        code: 'KMS_KEY_USAGE_INVALID',
      })
    }
  }
})

const CURVES: Readonly<Record<string, string>> = {
  ECC_NIST_P256: 'prime256v1',
  ECC_NIST_P384: 'secp384r1',
  ECC_SECG_P256K1: 'secp256k1',
}

function power(base: bigint, exponent: bigint, modulus: bigint): bigint {
  let result = 1n
  for (let square = base, rest = exponent; rest > 0n; rest >>= 1n) {
    if (rest & 1n) result = (result * square) % modulus
    square = (square * square) % modulus
  }
  return result
}

function derInteger(value: bigint): Buffer {
  const digits = value.toString(16)
  const bytes = hex(digits.length % 2 ? `0${digits}` : digits)
  const padded = (bytes[0] as number) >= 0x80 ? [0, ...bytes] : [...bytes]
  return Buffer.from([2, padded.length, ...padded])
}

describe('ECDSA over a digest', () => {
  const orders: Readonly<Record<string, bigint>> = {
    // SP 800-186 §3.2.1.3 to 3.2.1.5, SEC 2 §2.4.1.
    ECC_NIST_P256: 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n,
    ECC_NIST_P384: BigInt(
      '0xffffffffffffffffffffffffffffffffffffffffffffffff' +
        'c7634d81f4372ddf581a0db248b0a77aecec196accc52973',
    ),
    ECC_NIST_P521: BigInt(
      '0x1fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff' +
        'a51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409',
    ),
    ECC_SECG_P256K1: 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n,
  }

  describe.each(ecdsaCases)('$spec', ({ spec, algorithm, hash, digestBytes }) => {
    const order = orders[spec] as bigint

    testOpenssl('is right for the smallest and largest keys and digests', async (openssl) => {
      const digests = [
        new Uint8Array(digestBytes).fill(0xff),
        flip(new Uint8Array(digestBytes), digestBytes - 1),
        flip(new Uint8Array(digestBytes), 0, 0x80),
        randomBytes(digestBytes),
      ]
      for (const scalar of [1n, 2n, order - 2n, order - 1n]) {
        const key = privateKeyOf(spec, scalar)
        const file = openssl.file('public.der', encodePublicKey(key))
        for (const digest of digests) {
          const signature = await sign(spec, key, digested(algorithm, digest))
          openssl.answer(
            ...['pkeyutl', '-verify', '-pubin', '-keyform', 'DER', '-inkey', file],
            ...['-in', openssl.file('digest', digest)],
            ...['-sigfile', openssl.file('signature', signature)],
          )
          const what = digested(algorithm, digest)
          expect(await verify(spec, encodePublicKey(key), what, signature)).toBe(true)
        }
      }
    })

    test('is one of many signatures: no nonce comes twice', async () => {
      const { privateKey } = await pairOf(spec)
      const signable = digested(algorithm, hashed(hash))
      const seen = new Set<string>()
      for (let i = 0; i < 20; i++) {
        const signature = Buffer.from(await sign(spec, privateKey, signable))
        // r: after the head of the sequence and of the integer.
        const at = signature[1] === 0x81 ? 5 : 4
        seen.add(signature.subarray(at, at + (signature[at - 1] as number)).toString('hex'))
      }
      expect(seen.size).toBe(20)
    })

    test('is refused for a digest of zero, which signs nothing', async () => {
      const { privateKey } = await pairOf(spec)
      const zeros = [new Uint8Array(digestBytes)]
      if (order < 2n ** BigInt(8 * digestBytes))
        zeros.push(Uint8Array.from(hex(order.toString(16))))
      for (const digest of zeros) {
        await expect(sign(spec, privateKey, digested(algorithm, digest))).rejects.toMatchObject({
          code: 'REQUEST_MALFORMED',
          message: expect.stringContaining('the digest is zero'),
        })
      }
    })

    // A digest of P-521 is shorter than its order, and cannot be chosen so.
    test.skipIf(spec === 'ECC_NIST_P521')(
      'verifies a digest that was chosen to meet the point it is carried over with',
      async () => {
        // The verifier adds t·G to the key, t = (e - e')/r, e' the hash of a message of its own. A signer who knows
        // that makes it add 0, the key itself, or its negative: none of which the sum of two points is defined for.
        const scalar = BigInt(`0x${randomBytes(digestBytes - 1).toString('hex')}`)
        const key = privateKeyOf(spec, scalar)
        for (const t of [0n, scalar, order - scalar]) {
          const ecdh = createECDH(CURVES[spec] as string)
          ecdh.generateKeys()
          const nonce = BigInt(`0x${ecdh.getPrivateKey('hex')}`)
          const r = BigInt(`0x${ecdh.getPublicKey('hex').slice(2, 2 + 2 * digestBytes)}`) % order
          const own = BigInt(`0x${hashed(hash, Buffer.of(0)).toString('hex')}`)
          const e = (own + r * t) % order
          const s = ((e + r * scalar) * power(nonce, order - 2n, order)) % order
          const digest = hex(e.toString(16).padStart(2 * digestBytes, '0'))
          const integers = Buffer.concat([derInteger(r), derInteger(s)])
          const signature = Buffer.concat([Buffer.of(0x30, integers.length), integers])
          const what = digested(algorithm, digest)
          expect(await verify(spec, encodePublicKey(key), what, signature)).toBe(true)
          const other = digested(algorithm, flip(digest, 0))
          expect(await verify(spec, encodePublicKey(key), other, signature)).toBe(false)
        }
      },
    )
  })

  test('RFC 6979 A.2.5: P-256, SHA-256, "sample"', async () => {
    const scalar = 0xc9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721n
    const publicKey = encodePublicKey(privateKeyOf('ECC_NIST_P256', scalar))
    const { x, y } = createPublicKey({
      key: Buffer.from(publicKey),
      type: 'spki',
      format: 'der',
    }).export({ format: 'jwk' })
    const point = [x, y].map((text) => Buffer.from(text ?? '', 'base64url').toString('hex'))
    expect(point).toEqual([
      '60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6',
      '7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299',
    ])
    const signature = hex(
      '3046' +
        '022100efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716' +
        '022100f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8',
    )
    const sample = Buffer.from('sample')
    const digest = digested('ECDSA_SHA_256', hashed('sha256', sample))
    expect(await verify('ECC_NIST_P256', publicKey, digest, signature)).toBe(true)
    const whole = raw('ECDSA_SHA_256', sample)
    expect(await verify('ECC_NIST_P256', publicKey, whole, signature)).toBe(true)
    const test = raw('ECDSA_SHA_256', Buffer.from('test'))
    expect(await verify('ECC_NIST_P256', publicKey, test, signature)).toBe(false)
  })
})

test.each(['RSASSA_PSS_SHA_256', 'RSASSA_PKCS1_V1_5_SHA_256'] as const)(
  'a signature of %s that begins with a zero does not verify without it',
  async (algorithm) => {
    const { privateKey, publicKey } = await pairOf('RSA_2048')
    // One in 256 does.
    for (;;) {
      const signable = raw(algorithm, randomBytes(16))
      const signature = await sign('RSA_2048', privateKey, signable)
      if (signature[0] !== 0) continue
      expect(await verify('RSA_2048', publicKey, signable, signature)).toBe(true)
      expect(await verify('RSA_2048', publicKey, signable, signature.subarray(1))).toBe(false)
      return
    }
  },
)
