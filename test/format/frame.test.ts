/** WebSocket frames: five bytes before each map. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import {
  decodeFrameHeader,
  encodeFrameHeader,
  FRAME_HEADER_BYTES,
  FRAME_OPS,
  FRAME_STATUS_ERROR,
  FRAME_STATUS_OK,
  type FrameHeader,
} from '../../dist/format/frame.js'
import { hex } from '../vectors.ts'
import { accepts, flips, range, refusal, truncations, type Codec } from './mutations.ts'

const codec: Codec<FrameHeader> = {
  decode: decodeFrameHeader,
  encode: (header) => {
    const bytes = new Uint8Array(FRAME_HEADER_BYTES)
    encodeFrameHeader(header, bytes, 0)
    return bytes
  },
  code: 'REQUEST_MALFORMED',
}

describe('the header of a frame', () => {
  test('is u32 request id and u8 op or status (formats.md)', () => {
    expect(decodeFrameHeader(hex('fedcba98' + '03' + '80'))).toEqual({
      requestId: 0xfedcba98,
      kind: 3,
    })
    expect(Buffer.from(codec.encode({ requestId: 0xfedcba98, kind: 3 })).toString('hex')).toBe(
      'fedcba9803',
    )
  })

  test('is written where it was asked for, and nowhere else', () => {
    const bytes = Buffer.alloc(9, 0x55)
    encodeFrameHeader({ requestId: 1, kind: 0 }, bytes, 2)
    expect(bytes.toString('hex')).toBe('5555' + '0000000100' + '5555')
  })

  test('decodes to what was encoded, for every request id and kind', () => {
    fc.assert(
      fc.property(
        fc.record({
          requestId: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
          kind: fc.nat(255),
        }),
        (header) => {
          expect(decodeFrameHeader(codec.encode(header))).toEqual(header)
        },
      ),
    )
  })

  test('is refused in every truncation, and with any byte changed is another header', () => {
    const bytes = codec.encode({ requestId: 0xfedcba98, kind: 3 })
    expect(truncations(codec, bytes).accepted).toEqual([])
    expect(flips(codec, bytes).accepted).toEqual(range(0, 5))
    expect(accepts(codec, bytes)).toBe(true)
    expect(refusal(() => decodeFrameHeader(hex('fedcba98')))).toMatch(/truncated$/)
  })

  test('has numbers that callers of old versions rely on', () => {
    expect(FRAME_OPS).toEqual({
      encrypt: 1,
      decrypt: 2,
      're-encrypt': 3,
      'data-keys': 4,
      batch: 5,
      'message-keys': 6,
    })
    expect([FRAME_STATUS_OK, FRAME_STATUS_ERROR]).toEqual([0, 1])
  })
})
