/**
 * Packed batches: counts and lengths that lie, before anything is allocated for them, and the conversions of formats
 * that need no key.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import {
  decodePackedBatch,
  decodePackedHeader,
  encodePackedBatch,
  packedBatchBytes,
  type PackedBatch,
} from '../../dist/format/packed-batch.js'
import { accepts, flips, range, refusal, truncations, type Codec } from './mutations.ts'
import { arbitraryPackedBatch, overheadOf, rising, SAMPLE_KEY_ENTRY } from './samples.ts'

const codec: Codec<PackedBatch> = {
  decode: decodePackedBatch,
  encode: encodePackedBatch,
  code: 'MESSAGE_MALFORMED',
}
const batchOf = (suite: 1 | 2, plaintextBytes: readonly number[]): PackedBatch => ({
  suite,
  keyEntry: SAMPLE_KEY_ENTRY,
  r: Buffer.alloc(20, 0xee),
  sealed: plaintextBytes.map((bytes, i) => rising(bytes + overheadOf(suite), 16 * i)),
  batchTag: Buffer.alloc(16, 0xbb),
})
/** Offsets, with the 39 bytes of the sample's key entry. */
const R_OFFSET = 41
const COUNT_OFFSET = 61
const LENGTHS_OFFSET = 65

/** `batch` encoded, with the u32 at `offset` replaced. */
function withU32(batch: PackedBatch, offset: number, value: number): Buffer {
  const bytes = Buffer.from(encodePackedBatch(batch))
  bytes.writeUInt32BE(value, offset)
  return bytes
}

describe('a packed batch', () => {
  test('is E3, suite, key entry, R, count, lengths, sealed messages, batch tag (formats.md)', () => {
    const batch = batchOf(1, [2, 0])
    expect(Buffer.from(encodePackedBatch(batch)).toString('hex')).toBe(
      'e301' +
        rising(32, 0x20).toString('hex') +
        '0005d0d1d2d3d4' +
        'ee'.repeat(20) +
        '00000002' +
        '00000002' +
        '00000000' +
        rising(18, 0).toString('hex') +
        rising(16, 16).toString('hex') +
        'bb'.repeat(16),
    )
  })

  test('costs 20 bytes a message in suite 1 and 52 in suite 2, and one header', () => {
    for (const [suite, each] of [
      [1, 20],
      [2, 52],
    ] as const) {
      const one = packedBatchBytes(129, 1, 0, suite)
      expect(one).toBe(2 + 129 + 20 + 4 + each + 16)
      expect(packedBatchBytes(129, 4_096, 4_096 * 64, suite) - one).toBe(4_095 * each + 4_096 * 64)
      expect(encodePackedBatch(batchOf(suite, [3, 0, 7]))).toHaveLength(
        packedBatchBytes(39, 3, 10, suite),
      )
    }
  })

  test('decodes to what was encoded, for any fields, and its header says where everything lies', () => {
    fc.assert(
      fc.property(arbitraryPackedBatch, fc.nat(9), fc.nat(9), (batch, before, after) => {
        const bytes = encodePackedBatch(batch)
        expect(decodePackedBatch(bytes)).toEqual(batch)
        expect(accepts(codec, bytes)).toBe(true)

        // Inside a request, between other bytes.
        const around = Buffer.concat([Buffer.alloc(before, 1), bytes, Buffer.alloc(after, 2)])
        const end = before + bytes.length
        const header = decodePackedHeader(around, before, end)
        expect(header.count).toBe(batch.sealed.length)
        expect(Buffer.from(header.r)).toEqual(Buffer.from(batch.r))
        expect(header.keyEntry).toHaveLength(34 + batch.keyEntry.wrappedKey.length)
        expect(header.sealedOffset - header.lengthsOffset).toBe(4 * header.count)
        expect(around.subarray(header.sealedOffset, header.batchTagOffset)).toEqual(
          Buffer.concat(batch.sealed),
        )
        expect(around.subarray(header.batchTagOffset, end)).toEqual(Buffer.from(batch.batchTag))
        expect(header.plaintextBytes).toBe(
          Buffer.concat(batch.sealed).length - header.count * overheadOf(batch.suite),
        )
        for (const wrong of [end - 1, end + 1].filter((at) => at <= around.length)) {
          expect(refusal(() => decodePackedHeader(around, before, wrong))).toMatch(
            /^MESSAGE_MALFORMED: .*(truncated|trailing bytes)$/,
          )
        }
      }),
    )
  })

  test.each([1, 2] as const)('of suite %i is refused in every truncation', (suite) => {
    expect(truncations(codec, encodePackedBatch(batchOf(suite, [3, 0, 2]))).accepted).toEqual([])
  })

  test.each([1, 2] as const)('of suite %i is refused with any count or length changed', (suite) => {
    const bytes = encodePackedBatch(batchOf(suite, [3, 0, 2]))
    const { accepted } = flips(codec, bytes)
    const sealedOffset = LENGTHS_OFFSET + 12
    // Version, suite, length of the wrapped key, count and lengths admit one value each.
    expect(accepted).toEqual([
      ...range(2, 34),
      ...range(36, COUNT_OFFSET),
      ...range(sealedOffset, bytes.length),
    ])
  })

  test.each([
    [0, 'impossible count'],
    [1, 'trailing bytes'],
    [2, 'trailing bytes'],
    [4, 'truncated'],
    [65_536, 'truncated'],
    [65_537, 'impossible count'],
    [0xffffffff, 'impossible count'],
  ])('of three messages that says %i is refused: %s', (count, reason) => {
    // Zero lengths throughout, so that what follows reads as lengths as well as it can.
    const bytes = withU32(
      { ...batchOf(1, [0, 0, 0]), sealed: [0, 0, 0].map(() => Buffer.alloc(16)) },
      COUNT_OFFSET,
      count,
    )
    expect(refusal(() => decodePackedBatch(bytes))).toBe(
      `MESSAGE_MALFORMED: this is not a keyfold message: ${reason}`,
    )
  })

  test('holds messages of at most 16 MiB, told before anything is allocated for them', () => {
    const batch = batchOf(1, [0])
    for (const [length, reason] of [
      [2 ** 24, 'truncated'],
      [2 ** 24 + 1, 'a message is too long'],
      [2 ** 31, 'a message is too long'],
      [2 ** 32 - 1, 'a message is too long'],
    ] as const) {
      expect(refusal(() => decodePackedHeader(withU32(batch, LENGTHS_OFFSET, length)))).toBe(
        `MESSAGE_MALFORMED: this is not a keyfold message: ${reason}`,
      )
    }
    const largest = { ...batch, sealed: [Buffer.alloc(2 ** 24 + 16)] }
    expect(decodePackedHeader(encodePackedBatch(largest)).plaintextBytes).toBe(2 ** 24)
  })

  test('is refused when its lengths add up beyond 32 bits, instead of wrapping round', () => {
    // 256 × 16 MiB = 2^32: to a decoder that counts in 32 bits all 256 are empty.
    const batch = batchOf(
      1,
      Array.from({ length: 256 }, () => 0),
    )
    const bytes = Buffer.from(encodePackedBatch(batch))
    for (let i = 0; i < 256; i++) bytes.writeUInt32BE(2 ** 24, LENGTHS_OFFSET + 4 * i)
    expect(refusal(() => decodePackedBatch(bytes))).toMatch(/truncated$/)
  })

  test('is refused when two lengths trade a byte, unless the messages did', () => {
    // The lengths still add up: only the batch tag can tell, and the value encodes back to itself.
    const bytes = withU32(batchOf(1, [3, 2]), LENGTHS_OFFSET, 2)
    expect(accepts(codec, bytes)).toBe(false)
    bytes.writeUInt32BE(3, LENGTHS_OFFSET + 4)
    expect(accepts(codec, bytes)).toBe(true)
    expect(decodePackedBatch(bytes).sealed.map((sealed) => sealed.length)).toEqual([18, 19])
  })

  test('holds 65,536 messages and not one more', () => {
    const many = (count: number): Uint8Array =>
      encodePackedBatch({
        ...batchOf(1, []),
        sealed: Array.from({ length: count }, () => Buffer.alloc(16, 0x11)),
      })
    const full = many(65_536)
    expect(decodePackedBatch(full).sealed).toHaveLength(65_536)
    expect(accepts(codec, full)).toBe(true)
    expect(refusal(() => decodePackedBatch(many(65_537)))).toMatch(/impossible count$/)
    expect(refusal(() => decodePackedBatch(many(0)))).toMatch(/impossible count$/)
  })

  test('takes any R: the nonce of message i is R and i', () => {
    const { accepted } = flips(codec, encodePackedBatch(batchOf(1, [1])))
    expect(accepted).toEqual(expect.arrayContaining([...range(R_OFFSET, COUNT_OFFSET)]))
  })
})
