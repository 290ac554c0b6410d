/** Key entries: what a batch needs to be opened again, alone and at the head of a message. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import { Reader } from '../../dist/format/bytes.js'
import {
  decodeKeyEntry,
  encodeKeyEntry,
  KEY_ENTRY_BYTES_MAX,
  readKeyEntry,
  type KeyEntry,
} from '../../dist/format/key-entry.js'
import { accepts, flips, range, refusal, truncations, type Codec } from './mutations.ts'
import { arbitraryKeyEntry, rising, SAMPLE_KEY_ENTRY } from './samples.ts'

const codec: Codec<KeyEntry> = {
  decode: decodeKeyEntry,
  encode: encodeKeyEntry,
  code: 'KEY_ENTRIES_INVALID',
}
const ofLength = (length: number, present = length): Buffer => {
  const bytes = Buffer.alloc(34 + present, 0x55)
  bytes.writeUInt16BE(length, 32)
  return bytes
}

describe('a key entry', () => {
  test('is the commitment, a u16 length and the wrapped key (formats.md)', () => {
    const bytes = Buffer.from(encodeKeyEntry(SAMPLE_KEY_ENTRY))
    expect(bytes.toString('hex')).toBe(rising(32, 0x20).toString('hex') + '0005' + 'd0d1d2d3d4')
    // With a local wrapped key: 32 + 2 + 95.
    expect(encodeKeyEntry({ commitment: rising(32, 0), wrappedKey: rising(95, 0) })).toHaveLength(
      129,
    )
  })

  test('decodes to what was encoded, for any fields', () => {
    fc.assert(
      fc.property(arbitraryKeyEntry, (value) => {
        const bytes = encodeKeyEntry(value)
        expect(decodeKeyEntry(bytes)).toEqual(value)
        expect(accepts(codec, bytes)).toBe(true)
      }),
    )
  })

  test('is refused in every truncation', () => {
    expect(truncations(codec, encodeKeyEntry(SAMPLE_KEY_ENTRY)).accepted).toEqual([])
  })

  test('is refused with any other length, and else is another key entry', () => {
    const { accepted, refused } = flips(codec, encodeKeyEntry(SAMPLE_KEY_ENTRY))
    expect(accepted).toEqual([...range(0, 32), ...range(34, 39)])
    expect(refused).toBe(2 * 255)
  })

  test('holds a wrapped key of 1 to 8,192 bytes', () => {
    expect(KEY_ENTRY_BYTES_MAX).toBe(8_226)
    expect(accepts(codec, ofLength(1))).toBe(true)
    expect(accepts(codec, ofLength(8_192))).toBe(true)
    for (const length of [0, 8_193, 65_535]) {
      expect(refusal(() => decodeKeyEntry(ofLength(length)))).toMatch(
        /^KEY_ENTRIES_INVALID: .*: the wrapped key has an impossible length$/,
      )
    }
  })

  test('may be followed by nothing, and may not promise more than is there', () => {
    expect(refusal(() => decodeKeyEntry(ofLength(5, 6)))).toMatch(/trailing bytes$/)
    expect(refusal(() => decodeKeyEntry(ofLength(5, 4)))).toMatch(/truncated$/)
  })

  test('is refused with the code of the place where it was met', () => {
    expect(refusal(() => decodeKeyEntry(ofLength(0), 'MESSAGE_MALFORMED'))).toMatch(
      /^MESSAGE_MALFORMED: /,
    )
  })

  test('leaves what follows it to its reader', () => {
    const reader = new Reader(ofLength(5, 7), 'MESSAGE_MALFORMED')
    readKeyEntry(reader)
    expect(reader.remaining).toBe(2)
  })
})
