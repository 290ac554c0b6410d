/** References to keys in a token: one spelling, nothing left over, and never for another version or key. */
import { describe, expect, test } from 'vitest'

import {
  decodeTokenReference,
  encodeTokenKeyId,
  encodeTokenReference,
  isTokenKeyIdOf,
  TOKEN_KEY_ID_BYTES,
} from '../../dist/format/token-reference.js'

const kmsKeyId = Buffer.from('00112233445566778899aabbccddeeff', 'hex')
const random = Buffer.from('0102030405060708', 'hex')
const id = encodeTokenKeyId(kmsKeyId, 0x01020304, random)
const unavailable = expect.objectContaining({ code: 'KMS_KEY_UNAVAILABLE' }) as Error

describe('a reference to a key in a token', () => {
  test('is the bytes that its file shows', () => {
    const bytes = encodeTokenReference({ ivMode: 'token', mechanism: 0x80001087, id })
    expect(Buffer.from(bytes).toString('hex')).toBe(
      'f2' +
        '02' +
        '80001087' +
        '00112233445566778899aabbccddeeff' +
        '01020304' +
        '0102030405060708',
    )
    expect(id).toHaveLength(TOKEN_KEY_ID_BYTES)
  })

  test.each([
    { ivMode: 'none', mechanism: 0 },
    { ivMode: 'host', mechanism: 0x1087 },
    { ivMode: 'token', mechanism: 1 },
    { ivMode: 'appended', mechanism: 0xffffffff },
  ] as const)('comes back: $ivMode', (fields) => {
    const decoded = decodeTokenReference(encodeTokenReference({ ...fields, id }))
    expect(decoded).toEqual({ ...fields, id })
  })

  test('is refused truncated, with bytes after it, or with a version or mode that is none', () => {
    const bytes = encodeTokenReference({ ivMode: 'host', mechanism: 0x1087, id })
    for (let length = 0; length < bytes.length; length++) {
      expect(() => decodeTokenReference(bytes.subarray(0, length))).toThrow(unavailable)
    }
    expect(() => decodeTokenReference(Buffer.concat([bytes, Buffer.alloc(1)]))).toThrow(unavailable)
    for (const [at, value] of [
      [0, 0xf0],
      [0, 0xf1],
      [0, 0xf3],
      [1, 4],
      [1, 255],
      // A key that wraps has a mechanism, and one that does not has none.
      [1, 0],
    ] as const) {
      const changed = Uint8Array.from(bytes)
      changed[at] = value
      expect(() => decodeTokenReference(changed)).toThrow(unavailable)
    }
  })

  test('that decodes encodes back to itself, whatever byte is changed', () => {
    const bytes = encodeTokenReference({ ivMode: 'host', mechanism: 0x1087, id })
    let decoded = 0
    for (let at = 0; at < bytes.length; at++) {
      for (let value = 0; value < 256; value++) {
        const changed = Uint8Array.from(bytes)
        changed[at] = value
        let reference
        try {
          reference = decodeTokenReference(changed)
        } catch (error) {
          expect(error).toEqual(unavailable)
          continue
        }
        decoded++
        expect(encodeTokenReference(reference)).toEqual(changed)
      }
    }
    expect(decoded).toBeGreaterThan(bytes.length)
  })

  test('names the version of the key that it was made for, and no other', () => {
    expect(isTokenKeyIdOf(id, { kmsKeyId, version: 0x01020304 })).toBe(true)
    for (const version of [0, 1, 0x01020305, 0x04030201]) {
      expect(isTokenKeyIdOf(id, { kmsKeyId, version })).toBe(false)
    }
    for (let at = 0; at < 16; at++) {
      const other = Uint8Array.from(kmsKeyId)
      other[at] = (other[at] as number) ^ 0x80
      expect(isTokenKeyIdOf(id, { kmsKeyId: other, version: 0x01020304 })).toBe(false)
    }
  })
})
