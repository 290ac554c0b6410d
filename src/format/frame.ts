/**
 * A WebSocket frame: one request or one answer.
 *
 *     4   request id     the caller's; answers carry it back, in any order
 *     1   op (request) or status (answer)
 *     …   map            MessagePack, as over HTTP
 */
import { Reader, Writer } from './bytes.ts'

export const FRAME_HEADER_BYTES = 5

/** What `op` stands for. Numbers are never reused. */
export const FRAME_OPS = {
  encrypt: 1,
  decrypt: 2,
  're-encrypt': 3,
  'data-keys': 4,
  batch: 5,
  'message-keys': 6,
} as const

export const FRAME_STATUS_OK = 0
export const FRAME_STATUS_ERROR = 1

export interface FrameHeader {
  readonly requestId: number
  /** One of FRAME_OPS in a request, a FRAME_STATUS in an answer. */
  readonly kind: number
}

/** Throws REQUEST_MALFORMED. The map is everything behind FRAME_HEADER_BYTES. */
export function decodeFrameHeader(bytes: Uint8Array): FrameHeader {
  const reader = new Reader(bytes, 'REQUEST_MALFORMED')
  return { requestId: reader.u32(), kind: reader.u8() }
}

export function encodeFrameHeader(header: FrameHeader, into: Uint8Array, offset: number): void {
  new Writer(into, offset).u32(header.requestId).u8(header.kind)
}
