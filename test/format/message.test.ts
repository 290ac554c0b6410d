/** Inline and detached messages: what callers store, and what comes back years later, damaged or made up. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import {
  decodeDetachedMessage,
  decodeInlineMessage,
  detachedOverheadBytes,
  encodeDetachedMessage,
  encodeInlineMessage,
  inlineOverheadBytes,
  sealOverheadBytes,
  type DetachedMessage,
  type InlineMessage,
  type MessageSuite,
} from '../../dist/format/message.js'
import { accepts, flips, range, refusal, truncations, type Codec } from './mutations.ts'
import {
  arbitraryBytes,
  arbitraryKeyEntry,
  arbitraryNonce,
  arbitrarySuite,
  overheadOf,
  rising,
  SAMPLE_KEY_ENTRY,
} from './samples.ts'

const inlineCodec: Codec<InlineMessage> = {
  decode: decodeInlineMessage,
  encode: encodeInlineMessage,
  code: 'MESSAGE_MALFORMED',
}
const detachedCodec: Codec<DetachedMessage> = {
  decode: decodeDetachedMessage,
  encode: encodeDetachedMessage,
  code: 'MESSAGE_MALFORMED',
}
/** R of EE, and an index of which both low bytes are in use. */
const nonceOf = (index: number): Buffer => {
  const nonce = Buffer.alloc(24, 0xee)
  nonce.writeUInt32BE(index, 20)
  return nonce
}
const sealedOf = (suite: MessageSuite, plaintextBytes = 3): Buffer =>
  rising(plaintextBytes + overheadOf(suite), 0x60)
const inlineOf = (suite: MessageSuite): InlineMessage => ({
  suite,
  keyEntry: SAMPLE_KEY_ENTRY,
  nonce: nonceOf(0x0102),
  sealed: sealedOf(suite),
})
const detachedOf = (suite: MessageSuite): DetachedMessage => ({
  suite,
  dataKeyId: rising(16, 0x20),
  nonce: nonceOf(0x0102),
  sealed: sealedOf(suite),
})
const SUITES = [1, 2] as const
const R = 'ee'.repeat(20)

describe('the bytes of a message (formats.md)', () => {
  test('are, inline: E1, suite, key entry, nonce, sealed', () => {
    expect(Buffer.from(encodeInlineMessage(inlineOf(1))).toString('hex')).toBe(
      'e101' +
        rising(32, 0x20).toString('hex') +
        '0005d0d1d2d3d4' +
        `${R}00000102` +
        rising(19, 0x60).toString('hex'),
    )
  })

  test('are, detached: E2, suite, data key id, nonce, sealed', () => {
    expect(Buffer.from(encodeDetachedMessage(detachedOf(2))).toString('hex')).toBe(
      'e202' + rising(16, 0x20).toString('hex') + `${R}00000102` + rising(51, 0x60).toString('hex'),
    )
  })

  test('are 171 more than the plaintext inline with a local wrapped key, 58 more detached', () => {
    const keyEntry = { commitment: rising(32, 0), wrappedKey: rising(95, 0) }
    const inline = { ...inlineOf(1), keyEntry, sealed: sealedOf(1, 64) }
    expect(encodeInlineMessage(inline)).toHaveLength(64 + 171)
    expect(inlineOverheadBytes(129, 1)).toBe(171)
    expect(encodeDetachedMessage({ ...detachedOf(1), sealed: sealedOf(1, 64) })).toHaveLength(
      64 + 58,
    )
    expect(detachedOverheadBytes(1)).toBe(58)
  })

  test('are 32 more in suite 2, for the key commitment', () => {
    expect([sealOverheadBytes(1), sealOverheadBytes(2)]).toEqual([16, 48])
    expect(inlineOverheadBytes(129, 2)).toBe(203)
    expect(detachedOverheadBytes(2)).toBe(90)
  })

  test('decode to what was encoded, for any fields', () => {
    fc.assert(
      fc.property(
        arbitrarySuite.chain((suite) =>
          fc.record({
            suite: fc.constant(suite),
            keyEntry: arbitraryKeyEntry,
            dataKeyId: arbitraryBytes(16, 16),
            nonce: arbitraryNonce,
            sealed: arbitraryBytes(overheadOf(suite), overheadOf(suite) + 64),
          }),
        ),
        ({ suite, keyEntry, dataKeyId, nonce, sealed }) => {
          const inline = encodeInlineMessage({ suite, keyEntry, nonce, sealed })
          expect(decodeInlineMessage(inline)).toEqual({ suite, keyEntry, nonce, sealed })
          expect(accepts(inlineCodec, inline)).toBe(true)
          const detached = encodeDetachedMessage({ suite, dataKeyId, nonce, sealed })
          expect(decodeDetachedMessage(detached)).toEqual({ suite, dataKeyId, nonce, sealed })
          expect(accepts(detachedCodec, detached)).toBe(true)
        },
      ),
    )
  })
})

describe.each(SUITES)('a message of suite %i', (suite) => {
  const overhead = overheadOf(suite)

  test('is one in the truncations that keep a tag, and in no others', () => {
    // A shorter ciphertext is a ciphertext: that it does not open is for the tag to say.
    const inline = encodeInlineMessage(inlineOf(suite))
    expect(inline).toHaveLength(65 + overhead + 3)
    expect(truncations(inlineCodec, inline).accepted).toEqual(
      range(65 + overhead, 65 + overhead + 3),
    )
    const detached = encodeDetachedMessage(detachedOf(suite))
    expect(truncations(detachedCodec, detached).accepted).toEqual(
      range(42 + overhead, 42 + overhead + 3),
    )
  })

  test('is refused with any other version and an index of more than 16 bits', () => {
    const inline = flips(inlineCodec, encodeInlineMessage(inlineOf(suite)))
    const inlineFixed = [0, 61, 62]
    expect(inlineFixed.filter((offset) => inline.accepted.includes(offset))).toEqual([])
    // The length of the wrapped key may grow into a longer message's nonce, never beyond its tag.
    const free = range(2, 65 + overhead + 3).filter(
      (offset) => ![34, 35, ...inlineFixed].includes(offset),
    )
    expect(inline.accepted).toEqual(expect.arrayContaining(free as number[]))
    const detached = flips(detachedCodec, encodeDetachedMessage(detachedOf(suite)))
    const bytes = 42 + overhead + 3
    // Suite 2 read as suite 1 is a longer ciphertext; suite 1 read as suite 2 is too short to hold KC.
    const suiteByte = suite === 2 ? [1] : []
    expect(detached.accepted).toEqual([...suiteByte, ...range(2, 38), ...range(40, bytes)])
    expect(detached.refused).toBe(255 * 3 + (suite === 2 ? 254 : 255))
  })

  test('may be empty, and may not be shorter than that', () => {
    const empty = sealedOf(suite, 0)
    const short = empty.subarray(1)
    expect(accepts(inlineCodec, encodeInlineMessage({ ...inlineOf(suite), sealed: empty }))).toBe(
      true,
    )
    expect(
      accepts(detachedCodec, encodeDetachedMessage({ ...detachedOf(suite), sealed: empty })),
    ).toBe(true)
    expect(
      refusal(() =>
        decodeInlineMessage(encodeInlineMessage({ ...inlineOf(suite), sealed: short })),
      ),
    ).toBe('MESSAGE_MALFORMED: this is not a keyfold message: truncated')
    expect(
      refusal(() =>
        decodeDetachedMessage(encodeDetachedMessage({ ...detachedOf(suite), sealed: short })),
      ),
    ).toBe('MESSAGE_MALFORMED: this is not a keyfold message: truncated')
  })

  test.each([
    [0, true],
    [65_535, true],
    [65_536, false],
    [0xfffffffe, false],
    // The batch tag's own nonce: a message there would hand out the tag's keystream.
    [0xffffffff, false],
  ])('with index %i is taken: %s', (index, taken) => {
    const nonce = nonceOf(index)
    const inline = encodeInlineMessage({ ...inlineOf(suite), nonce })
    const detached = encodeDetachedMessage({ ...detachedOf(suite), nonce })
    expect(accepts(inlineCodec, inline)).toBe(taken)
    expect(accepts(detachedCodec, detached)).toBe(taken)
    if (!taken) expect(refusal(() => decodeInlineMessage(inline))).toMatch(/index is out of range$/)
  })
})

describe('a message is refused', () => {
  test.each([0, 3, 0x81, 255])('with suite %i', (suite) => {
    const inline = encodeInlineMessage({ ...inlineOf(2), suite: suite as MessageSuite })
    expect(refusal(() => decodeInlineMessage(inline))).toMatch(/unknown suite$/)
    const detached = encodeDetachedMessage({ ...detachedOf(2), suite: suite as MessageSuite })
    expect(refusal(() => decodeDetachedMessage(detached))).toMatch(/unknown suite$/)
  })

  test('by the decoder of every other form', () => {
    expect(refusal(() => decodeDetachedMessage(encodeInlineMessage(inlineOf(1))))).toMatch(
      /unknown version$/,
    )
    expect(refusal(() => decodeInlineMessage(encodeDetachedMessage(detachedOf(1))))).toMatch(
      /unknown version$/,
    )
  })

  test('with a wrapped key of no bytes, or of more than 8,192', () => {
    const withKey = (bytes: number): Uint8Array =>
      encodeInlineMessage({
        ...inlineOf(1),
        keyEntry: { commitment: rising(32, 0), wrappedKey: rising(bytes, 0) },
      })
    expect(accepts(inlineCodec, withKey(8_192))).toBe(true)
    expect(refusal(() => decodeInlineMessage(withKey(8_193)))).toMatch(
      /^MESSAGE_MALFORMED: .*impossible length$/,
    )
    expect(refusal(() => decodeInlineMessage(withKey(0)))).toMatch(/impossible length$/)
  })
})
