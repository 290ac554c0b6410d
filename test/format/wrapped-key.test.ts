/** Wrapped keys: a blob that is none of ours cannot be opened, and nobody is told why. */
import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import {
  decodeWrappedKey,
  encodeWrappedKey,
  encodeWrappedKeyAad,
  type WrappedKey,
} from '../../dist/format/wrapped-key.js'
import { hex } from '../vectors.ts'
import { accepts, flips, range, refusal, truncations, type Codec } from './mutations.ts'
import { arbitraryWrappedKey, rising } from './samples.ts'

const codec: Codec<WrappedKey> = {
  decode: decodeWrappedKey,
  encode: encodeWrappedKey,
  code: 'DECRYPT_FAILED',
  silent: true,
}
const HEADER = 'e0' + '01' + '02' + '101112131415161718191a1b1c1d1e1f' + '01020304'
const wrappedKey: WrappedKey = {
  suite: 1,
  usage: 2,
  kmsKeyId: rising(16, 0x10),
  materialVersion: 0x01020304,
  storePart: rising(72, 0x80),
}

describe('a wrapped key', () => {
  test('is E0, suite, usage, KMS key id, u32 material version and the store part (formats.md)', () => {
    const bytes = encodeWrappedKey(wrappedKey)
    expect(Buffer.from(bytes).toString('hex')).toBe(HEADER + rising(72, 0x80).toString('hex'))
    // nonce24 ‖ 32 bytes of key ‖ tag16 behind 23 bytes.
    expect(bytes).toHaveLength(95)
    expect(decodeWrappedKey(bytes)).toEqual({
      ...wrappedKey,
      kmsKeyId: new Uint8Array(wrappedKey.kmsKeyId),
      storePart: new Uint8Array(wrappedKey.storePart),
    })
  })

  test('is bound to its 23 bytes and the hash of the context, 55 bytes', () => {
    const contextHash = createHash('sha256').update('').digest()
    const aad = encodeWrappedKeyAad(wrappedKey, contextHash)
    expect(aad).toHaveLength(55)
    // SHA-256 of nothing (FIPS 180-4).
    expect(Buffer.from(aad).toString('hex')).toBe(
      HEADER + 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
    )
  })

  test('decodes to what was encoded, for any fields', () => {
    fc.assert(
      fc.property(arbitraryWrappedKey, (value) => {
        const bytes = encodeWrappedKey(value)
        expect(decodeWrappedKey(bytes)).toEqual(value)
        expect(accepts(codec, bytes)).toBe(true)
      }),
    )
  })

  test('has a material version from 1 to 2^32 - 1', () => {
    const withVersion = (digits: string): Buffer =>
      hex(HEADER.slice(0, 38) + digits + '00'.repeat(72))
    expect(decodeWrappedKey(withVersion('ffffffff')).materialVersion).toBe(4_294_967_295)
    expect(decodeWrappedKey(withVersion('80000000')).materialVersion).toBe(2_147_483_648)
    expect(decodeWrappedKey(withVersion('00000001')).materialVersion).toBe(1)
    expect(accepts(codec, withVersion('00000000'))).toBe(false)
  })

  test('is one in every truncation that leaves a byte of the store part, and in no other', () => {
    const bytes = encodeWrappedKey(wrappedKey)
    expect(truncations(codec, bytes).accepted).toEqual(range(24, 95))
  })

  test('is refused with any other version, suite or usage, and else is another wrapped key', () => {
    const bytes = encodeWrappedKey(wrappedKey)
    const { accepted, refused } = flips(codec, bytes)
    // The suite has four other values and the usage one: that the tag then fails is shown where keys are opened.
    expect(accepted).toEqual(range(1, 95))
    expect(refused).toBe(255 + 251 + 254)
  })

  test('has at most 8,192 bytes', () => {
    const ofBytes = (bytes: number): Buffer => Buffer.concat([hex(HEADER), rising(bytes - 23, 0)])
    expect(accepts(codec, ofBytes(8_192))).toBe(true)
    expect(accepts(codec, ofBytes(8_193))).toBe(false)
  })

  test('is refused without a word about which field is wrong', () => {
    const wrong = [
      '',
      'e1' + HEADER.slice(2) + '00',
      'e000' + HEADER.slice(4) + '00',
      'e006' + HEADER.slice(4) + '00',
      'e00100' + HEADER.slice(6) + '00',
      'e00103' + HEADER.slice(6) + '00',
      HEADER,
      HEADER.slice(0, 38) + '0000000000',
    ]
    const said = wrong.map((digits) => refusal(() => decodeWrappedKey(hex(digits))))
    expect(new Set(said)).toEqual(new Set(['DECRYPT_FAILED: the message could not be decrypted']))
  })
})

test('random bytes are refused as wrapped keys, or encode back to themselves', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), fc.nat(3), (bytes, fixed) => {
      bytes.set(hex('e00101').subarray(0, Math.min(fixed, bytes.length)))
      accepts(codec, bytes)
    }),
    { numRuns: 2_000 },
  )
})
