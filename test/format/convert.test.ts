/** Conversions between the forms: they copy, they need no key, and they come back to the same bytes. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import {
  attachKeyEntry,
  detachMessage,
  unpackToDetached,
  unpackToInline,
} from '../../dist/format/convert.js'
import { encodeKeyEntry } from '../../dist/format/key-entry.js'
import {
  decodeDetachedMessage,
  decodeInlineMessage,
  encodeInlineMessage,
} from '../../dist/format/message.js'
import { encodePackedBatch, type PackedBatch } from '../../dist/format/packed-batch.js'
import { refusal } from './mutations.ts'
import {
  arbitraryBytes,
  arbitraryKeyEntry,
  arbitraryNonce,
  arbitraryPackedBatch,
  arbitrarySuite,
  overheadOf,
  rising,
  SAMPLE_KEY_ENTRY,
} from './samples.ts'

const inlineMessage = arbitrarySuite.chain((suite) =>
  fc.record({
    suite: fc.constant(suite),
    keyEntry: arbitraryKeyEntry,
    nonce: arbitraryNonce,
    sealed: arbitraryBytes(overheadOf(suite), overheadOf(suite) + 32),
  }),
)
const three: PackedBatch = {
  suite: 1,
  keyEntry: SAMPLE_KEY_ENTRY,
  r: Buffer.alloc(20, 0xee),
  sealed: [rising(18, 0), rising(16, 50), rising(17, 90)],
  batchTag: Buffer.alloc(16, 0xbb),
}

describe('a packed batch', () => {
  test('unpacks to inline messages with the nonces R and their place (formats.md)', () => {
    const entry = `${rising(32, 0x20).toString('hex')}0005d0d1d2d3d4`
    expect(
      unpackToInline(encodePackedBatch(three)).map((bytes) => Buffer.from(bytes).toString('hex')),
    ).toEqual([
      `e101${entry}${'ee'.repeat(20)}00000000${rising(18, 0).toString('hex')}`,
      `e101${entry}${'ee'.repeat(20)}00000001${rising(16, 50).toString('hex')}`,
      `e101${entry}${'ee'.repeat(20)}00000002${rising(17, 90).toString('hex')}`,
    ])
  })

  test('unpacks to detached messages and one key entry, which attach to the inline ones', () => {
    fc.assert(
      fc.property(arbitraryPackedBatch, (batch) => {
        const packed = encodePackedBatch(batch)
        const inline = unpackToInline(packed)
        const { keyEntry, messages } = unpackToDetached(packed)
        expect(keyEntry).toEqual(encodeKeyEntry(batch.keyEntry))
        expect(messages).toHaveLength(batch.sealed.length)
        for (const [index, message] of messages.entries()) {
          const decoded = decodeDetachedMessage(message)
          expect(decoded.dataKeyId).toEqual(batch.keyEntry.commitment.subarray(0, 16))
          expect(Buffer.from(decoded.nonce).readUInt32BE(20)).toBe(index)
          expect(decoded.nonce.subarray(0, 20)).toEqual(batch.r)
          expect(decoded.sealed).toEqual(batch.sealed[index])
          expect(attachKeyEntry(message, keyEntry)).toEqual(inline[index])
        }
      }),
    )
  })

  test('unpacks to copies: wiping the packed value leaves the messages', () => {
    const packed = encodePackedBatch(three)
    const [inline] = unpackToInline(packed)
    const { keyEntry, messages } = unpackToDetached(packed)
    const before = [inline, keyEntry, ...messages].map((bytes) => Buffer.from(bytes ?? []))
    packed.fill(0)
    expect([inline, keyEntry, ...messages].map((bytes) => Buffer.from(bytes ?? []))).toEqual(before)
  })

  test('that is damaged unpacks to nothing', () => {
    const packed = Buffer.from(encodePackedBatch(three))
    for (const unpack of [unpackToInline, unpackToDetached]) {
      expect(refusal(() => unpack(packed.subarray(0, -1)))).toMatch(/^MESSAGE_MALFORMED/)
      expect(refusal(() => unpack(Buffer.concat([packed, packed])))).toMatch(/trailing bytes$/)
      expect(refusal(() => unpack(encodeInlineMessage({ ...three, ...inlineParts })))).toMatch(
        /unknown version$/,
      )
    }
  })
})

const inlineParts = { nonce: Buffer.alloc(24), sealed: rising(16, 0) }

describe('an inline message', () => {
  test('detaches and attaches to the same bytes, whatever it holds', () => {
    fc.assert(
      fc.property(inlineMessage, (value) => {
        const inline = encodeInlineMessage(value)
        const { keyEntry, message } = detachMessage(inline)
        expect(keyEntry).toEqual(encodeKeyEntry(value.keyEntry))
        // 2 + 16 + 24 + sealed.
        expect(message).toHaveLength(42 + value.sealed.length)
        expect(attachKeyEntry(message, keyEntry)).toEqual(inline)
        expect(detachMessage(attachKeyEntry(message, keyEntry))).toEqual({ keyEntry, message })
      }),
    )
  })

  test('is not made of a message and a key entry whose commitment it does not point to', () => {
    const inline = encodeInlineMessage({ suite: 1, keyEntry: SAMPLE_KEY_ENTRY, ...inlineParts })
    const { keyEntry, message } = detachMessage(inline)
    for (let offset = 0; offset < 16; offset++) {
      const other = Uint8Array.from(keyEntry)
      other.set([(other[offset] as number) ^ 1], offset)
      expect(refusal(() => attachKeyEntry(message, other))).toMatch(
        /^KEY_ENTRIES_INVALID: .*points to another key entry$/,
      )
    }
  })

  test('takes a key entry that was wrapped anew: the id is of the message key', () => {
    const inline = encodeInlineMessage({ suite: 1, keyEntry: SAMPLE_KEY_ENTRY, ...inlineParts })
    const { message } = detachMessage(inline)
    const wrappedAnew = { ...SAMPLE_KEY_ENTRY, wrappedKey: rising(95, 0) }
    expect(
      Buffer.from(
        decodeInlineMessage(attachKeyEntry(message, encodeKeyEntry(wrappedAnew))).keyEntry
          .wrappedKey,
      ),
    ).toEqual(rising(95, 0))
  })

  test('is refused by name where message or key entry are not what they should be', () => {
    const inline = encodeInlineMessage({ suite: 1, keyEntry: SAMPLE_KEY_ENTRY, ...inlineParts })
    const { keyEntry, message } = detachMessage(inline)
    expect(refusal(() => attachKeyEntry(inline, keyEntry))).toMatch(/^MESSAGE_MALFORMED/)
    expect(refusal(() => detachMessage(message))).toMatch(/^MESSAGE_MALFORMED/)
    expect(refusal(() => attachKeyEntry(message, keyEntry.subarray(1)))).toMatch(
      /^KEY_ENTRIES_INVALID/,
    )
    expect(refusal(() => attachKeyEntry(message, new Uint8Array(0)))).toMatch(/truncated$/)
  })
})
