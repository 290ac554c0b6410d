/** Key material at rest: what stands in a row of the catalog, and what ties it to that row. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import {
  decodeSealedKeyMaterial,
  encodeKeyMaterialAad,
  encodeSealedKeyMaterial,
  type SealedKeyMaterial,
} from '../../dist/format/key-material.js'
import { hex } from '../vectors.ts'
import { accepts, flips, range, refusal, truncations, type Codec } from './mutations.ts'
import { arbitraryBytes, rising } from './samples.ts'

const codec: Codec<SealedKeyMaterial> = {
  decode: decodeSealedKeyMaterial,
  encode: encodeSealedKeyMaterial,
  code: 'ROOT_KEY_INVALID',
}
const material: SealedKeyMaterial = { rootVersion: 0x81020304, sealed: rising(72, 0x40) }

describe('sealed key material', () => {
  test('is F0, suite, u32 root version, nonce, ciphertext and tag (formats.md)', () => {
    const bytes = Buffer.from(encodeSealedKeyMaterial(material))
    expect(bytes.toString('hex')).toBe('f0' + '01' + '81020304' + rising(72, 0x40).toString('hex'))
    expect(decodeSealedKeyMaterial(bytes).rootVersion).toBe(0x81020304)
  })

  test('decodes to what was encoded, for any fields', () => {
    fc.assert(
      fc.property(
        fc.record({
          rootVersion: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
          sealed: arbitraryBytes(41, 120),
        }),
        (value) => {
          const bytes = encodeSealedKeyMaterial(value)
          expect(decodeSealedKeyMaterial(bytes)).toEqual(value)
          expect(accepts(codec, bytes)).toBe(true)
        },
      ),
    )
  })

  test('needs a nonce, a tag and at least one byte between them', () => {
    expect(truncations(codec, encodeSealedKeyMaterial(material)).accepted).toEqual(range(47, 78))
  })

  test('is refused with any other version or suite', () => {
    const { accepted, refused } = flips(codec, encodeSealedKeyMaterial(material))
    expect(accepted).toEqual(range(2, 78))
    expect(refused).toBe(2 * 255)
    const sealed = '00'.repeat(76)
    expect(refusal(() => decodeSealedKeyMaterial(hex(`e001${sealed}`)))).toMatch(/unknown version/)
    expect(refusal(() => decodeSealedKeyMaterial(hex(`f002${sealed}`)))).toMatch(/unknown suite/)
  })

  test('is bound to its header, KMS key, material version and key spec', () => {
    const fields = {
      rootVersion: 0x81020304,
      kmsKeyId: rising(16, 0x10),
      materialVersion: 0xfffffffe,
      keySpec: 'SYMMETRIC_DEFAULT',
    }
    expect(Buffer.from(encodeKeyMaterialAad(fields)).toString('hex')).toBe(
      'f00181020304' +
        '101112131415161718191a1b1c1d1e1f' +
        'fffffffe' +
        '53594d4d45545249435f44454641554c54',
    )
    for (const bytes of [0, 15, 17]) {
      expect(
        refusal(() => encodeKeyMaterialAad({ ...fields, kmsKeyId: rising(bytes, 0) })),
      ).toMatch(/^INTERNAL: .*16 bytes/)
    }
  })
})
