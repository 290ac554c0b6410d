/** Headers and frames of the AWS Encryption SDK's message format as bytes. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import { KeyfoldError } from '../../dist/errors.js'
import {
  decodeUnsortedContext,
  encodeEncryptionContext,
} from '../../dist/format/encryption-context.js'
import {
  decodeHeader,
  encodeHeaderBody,
  measureHeader,
  type MessageHeader,
  type SealedHeader,
} from '../../dist/format/encryption-sdk.js'
import { scanFrames } from '../../dist/format/encryption-sdk-frames.js'
import { algorithmSuite, type AlgorithmSuite } from '../../dist/format/encryption-sdk-suites.js'

const SUITES = [
  0x0478, 0x0578, 0x0378, 0x0346, 0x0214, 0x0178, 0x0146, 0x0114, 0x0078, 0x0046, 0x14,
]

const bytesOf = (length: number): fc.Arbitrary<Uint8Array> =>
  fc.uint8Array({ minLength: length, maxLength: length })

const headers: fc.Arbitrary<MessageHeader> = fc.constantFrom(...SUITES).chain((id) => {
  const suite = algorithmSuite(id) as AlgorithmSuite
  return fc.record({
    suite: fc.constant(suite),
    messageId: bytesOf(suite.formatVersion === 1 ? 16 : 32),
    context: fc
      .dictionary(fc.string({ unit: 'grapheme', maxLength: 8 }), fc.string({ maxLength: 8 }))
      .map((context) => encodeEncryptionContext(Object.entries(context))),
    encryptedDataKeys: fc.array(
      fc.record({
        providerId: fc.string({ unit: 'grapheme', maxLength: 8 }),
        providerInfo: fc.uint8Array({ maxLength: 20 }),
        ciphertext: fc.uint8Array({ maxLength: 300 }),
      }),
      { minLength: 1, maxLength: 8 },
    ),
    frameLength: fc.integer({ min: 0, max: 2 ** 24 }),
    commitment: bytesOf(suite.commits ? 32 : 0),
  })
})

/** With a tag, and in version 1 an IV. */
const wireOf = (header: MessageHeader): Uint8Array =>
  Buffer.concat([
    encodeHeaderBody(header),
    new Uint8Array(header.suite.formatVersion === 1 ? 12 : 0).fill(7),
    new Uint8Array(16).fill(9),
  ])

const rejoined = ({ header, iv, tag }: SealedHeader): Uint8Array =>
  Buffer.concat([
    encodeHeaderBody(header),
    header.suite.formatVersion === 1 ? iv : new Uint8Array(0),
    tag,
  ])

describe('a header', () => {
  test('of either version decodes to what was encoded, and is measured to the byte', () => {
    fc.assert(
      fc.property(headers, fc.uint8Array({ maxLength: 5 }), (header, behind) => {
        const wire = wireOf(header)
        expect(measureHeader(Buffer.concat([wire, behind]))).toBe(wire.length)
        const decoded = decodeHeader(new Uint8Array(wire))
        expect({
          ...decoded.header,
          encryptedDataKeys: decoded.header.encryptedDataKeys.map((key) => ({ ...key })),
        }).toEqual(header)
        expect(decoded.body.length).toBe(encodeHeaderBody(header).length)
      }),
    )
  })

  test('that was cut is asked more of, and never more than there is', () => {
    fc.assert(
      fc.property(headers, (header) => {
        const wire = wireOf(header)
        for (let end = 0; end < wire.length; end++) {
          const needed = measureHeader(wire.subarray(0, end))
          expect(needed).toBeGreaterThan(end)
          expect(needed).toBeLessThanOrEqual(wire.length)
        }
      }),
      { numRuns: 20 },
    )
  })

  test('whose bytes were changed is refused, or encodes back to the very same', () => {
    fc.assert(
      fc.property(headers, fc.nat(), fc.integer({ min: 1, max: 255 }), (header, place, mask) => {
        const wire = Buffer.from(wireOf(header))
        const at = place % wire.length
        wire[at] = (wire[at] as number) ^ mask
        try {
          const bytes = measureHeader(wire)
          if (bytes > wire.length) return
          const found = wire.subarray(0, bytes)
          expect(Buffer.compare(rejoined(decodeHeader(found)), found)).toBe(0)
        } catch (error) {
          expect(error).toBeInstanceOf(KeyfoldError)
          expect((error as KeyfoldError).code).toBe('STREAM_MALFORMED')
        }
      }),
      { numRuns: 2_000 },
    )
  })

  test('with a provider id that is not UTF-8 is refused', () => {
    const header = Buffer.from(
      wireOf({
        suite: algorithmSuite(0x0478) as AlgorithmSuite,
        messageId: new Uint8Array(32),
        context: new Uint8Array(0),
        encryptedDataKeys: [
          { providerId: 'y', providerInfo: new Uint8Array(0), ciphertext: new Uint8Array(0) },
        ],
        frameLength: 1,
        commitment: new Uint8Array(32),
      }),
    )
    header[header.indexOf('y')] = 0xff
    expect(() => decodeHeader(header)).toThrow('not UTF-8')
  })
})

describe('a context of others', () => {
  const entry = (text: string): Buffer =>
    Buffer.concat([Buffer.from([0, Buffer.byteLength(text)]), Buffer.from(text)])
  const context = (...pairs: readonly (readonly [string, string])[]): Buffer =>
    Buffer.concat([Buffer.from([0, pairs.length]), ...pairs.flat().map(entry)])

  test('may be in any order', () => {
    const pairs = [
      ['tenant', '1'],
      ['Zed', '2'],
      ['Äther', ''],
    ] as const
    expect(decodeUnsortedContext(context(...pairs))).toEqual(pairs)
  })

  test('may not name a key twice, next to each other or not', () => {
    for (const keys of [
      ['a', 'a'],
      ['a', 'b', 'a'],
    ]) {
      expect(() =>
        decodeUnsortedContext(context(...keys.map((key) => [key, 'x'] as const))),
      ).toThrow('a key occurs twice')
    }
  })
})

describe('frames', () => {
  const LENGTH = 10
  const regular = (sequence: number): Buffer => {
    const frame = Buffer.alloc(4 + 12 + LENGTH + 16, 1)
    frame.writeUInt32BE(sequence)
    return frame
  }
  const final = (sequence: number, bytes: number): Buffer => {
    const frame = Buffer.alloc(4 + 4 + 12 + 4 + bytes + 16, 2)
    frame.writeUInt32BE(0xffffffff)
    frame.writeUInt32BE(sequence, 4)
    frame.writeUInt32BE(bytes, 20)
    return frame
  }
  const run = { frameLength: LENGTH, firstSequence: 5 }

  test('are found as far as they are whole, cut at any byte', () => {
    const parts = [regular(5), regular(6), regular(7), final(8, 3)]
    const bytes = Buffer.concat(parts)
    const ends = parts.map((_, i) => Buffer.concat(parts.slice(0, i + 1)).length)
    for (let end = 0; end <= bytes.length; end++) {
      const whole = ends.filter((at) => at <= end)
      expect(scanFrames(bytes.subarray(0, end), run, 100)).toEqual({
        frames: whole.length,
        bytes: whole.at(-1) ?? 0,
        final: whole.length === 4,
      })
    }
    expect(scanFrames(bytes, run, 2)).toEqual({ frames: 2, bytes: ends[1], final: false })
  })

  test('behind the final one are not looked at, and it may be empty or as long as a frame', () => {
    for (const length of [0, LENGTH]) {
      const bytes = Buffer.concat([final(5, length), regular(9)])
      expect(scanFrames(bytes, run, 100)).toEqual({ frames: 1, bytes: 40 + length, final: true })
    }
  })

  test.each([
    ['a regular one with another number', regular(6)],
    ['a regular one with the number 0', regular(0)],
    ['a final one with another number', final(6, 1)],
    ['a final one that is longer than a frame', final(5, LENGTH + 1)],
  ])('with %s are refused before they are whole', (_, frame) => {
    expect(() => scanFrames(frame, run, 100)).toThrow(KeyfoldError)
    expect(() => scanFrames(frame.subarray(0, 24), run, 100)).toThrow(KeyfoldError)
  })
})
