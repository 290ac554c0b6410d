/**
 * The body of a file or stream in the AWS Encryption SDK's message format (specification, "Message Body" and "Message
 * Body AAD").
 *
 *     regular frame             final frame: exactly one, the last     not framed
 *     4   sequence number       4   FFFFFFFF                           12  IV
 *     12  IV                    4   sequence number                    8   plaintext bytes
 *     L   ciphertext            12  IV                                 …   ciphertext
 *     16  tag                   4   plaintext bytes, 0 to L            16  tag
 *                               …   ciphertext
 *                               16  tag
 *
 * Sequence numbers are 1, 2, 3, …. We write the IV as 8 zeros ‖ sequence number, and read whatever it is: the official
 * vectors hold others, and the AAD binds the number.
 *
 *     AAD:  message id ‖ kind of content, in ASCII ‖ u32 sequence number ‖ u64 plaintext bytes
 */
import { KeyfoldError } from '../errors.ts'
import { IV_BYTES } from './encryption-sdk.ts'
import { TAG_BYTES } from './message.ts'

export const SEQUENCE_MAX = 0xffffffff
const FINAL_MARKER = 0xffffffff
const FINAL_HEAD_BYTES = 4 + 4 + IV_BYTES + 4
const REGULAR_HEAD_BYTES = 4 + IV_BYTES
/** What a frame has besides its plaintext's length. */
export const FRAME_OVERHEAD_BYTES = REGULAR_HEAD_BYTES + TAG_BYTES
export const FINAL_FRAME_OVERHEAD_BYTES = FINAL_HEAD_BYTES + TAG_BYTES
/** IV and length of a body that is not framed. */
export const BLOCK_HEAD_BYTES = IV_BYTES + 8

const CONTENT_KINDS = {
  regular: 'AWSKMSEncryptionClient Frame',
  final: 'AWSKMSEncryptionClient Final Frame',
  block: 'AWSKMSEncryptionClient Single Block',
} as const

export type ContentKind = keyof typeof CONTENT_KINDS

/** Frames that follow each other in one piece of memory. */
export interface FrameRun {
  /** Plaintext bytes of every frame but the final one. */
  readonly frameLength: number
  readonly firstSequence: number
  /** Not told by the plaintext: behind a full frame the final one may be empty. */
  readonly frames: number
  /** Whether the last of them is the message's final one. */
  readonly final: boolean
}

/** Where one frame lies among the wire bytes of its run. */
export interface FramePlace {
  readonly sequence: number
  readonly kind: 'regular' | 'final'
  readonly plaintextBytes: number
  readonly ivAt: number
  readonly ciphertextAt: number
}

/** What a run has besides its plaintext. */
export function overheadBytes({ frames, final }: Pick<FrameRun, 'frames' | 'final'>): number {
  const extra = final ? FINAL_FRAME_OVERHEAD_BYTES - FRAME_OVERHEAD_BYTES : 0
  return frames * FRAME_OVERHEAD_BYTES + extra
}

/** Frame `index` of a run with so many bytes of plaintext. */
export function framePlace(run: FrameRun, index: number, plaintextBytes: number): FramePlace {
  const last = index === run.frames - 1
  const final = run.final && last
  const frameAt = index * (run.frameLength + FRAME_OVERHEAD_BYTES)
  const ivAt = frameAt + (final ? 8 : 4)
  return {
    sequence: run.firstSequence + index,
    kind: final ? 'final' : 'regular',
    plaintextBytes: last ? plaintextBytes - index * run.frameLength : run.frameLength,
    ivAt,
    ciphertextAt: ivAt + IV_BYTES + (final ? 4 : 0),
  }
}

/** Everything before the ciphertext; the IV is 8 zeros ‖ sequence number. */
export function writeFrameHead(wire: Buffer, place: FramePlace): void {
  const { sequence, kind, ivAt, ciphertextAt, plaintextBytes } = place
  if (kind === 'final') {
    wire.writeUInt32BE(FINAL_MARKER, ivAt - 8)
    wire.writeUInt32BE(plaintextBytes, ciphertextAt - 4)
  }
  wire.writeUInt32BE(sequence, ivAt - 4)
  wire.fill(0, ivAt, ivAt + 8)
  wire.writeUInt32BE(sequence, ivAt + 8)
}

/** Whole frames at the start of some bytes. */
export interface ScannedFrames {
  readonly frames: number
  /** That they take. */
  readonly bytes: number
  readonly final: boolean
}

/**
 * Finds the frames that are there as a whole, at most so many. Throws STREAM_MALFORMED as soon as a number is not the
 * next one, or the final frame is longer than a frame.
 */
export function scanFrames(
  bytes: Uint8Array,
  { frameLength, firstSequence }: Pick<FrameRun, 'frameLength' | 'firstSequence'>,
  framesMax: number,
): ScannedFrames {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let at = 0
  let frames = 0
  while (frames < framesMax && bytes.length - at >= 4) {
    const left = bytes.length - at
    const expected = firstSequence + frames
    const mark = view.getUint32(at)
    if (mark === FINAL_MARKER) {
      if (left < FINAL_HEAD_BYTES) break
      checkSequence(view.getUint32(at + 4), expected)
      const plaintextBytes = view.getUint32(at + FINAL_HEAD_BYTES - 4)
      if (plaintextBytes > frameLength) {
        throw malformed('the final frame is longer than a frame')
      }
      const frameBytes = FINAL_FRAME_OVERHEAD_BYTES + plaintextBytes
      if (left < frameBytes) break
      return { frames: frames + 1, bytes: at + frameBytes, final: true }
    }
    checkSequence(mark, expected)
    if (left < frameLength + FRAME_OVERHEAD_BYTES) break
    at += frameLength + FRAME_OVERHEAD_BYTES
    frames++
  }
  return { frames, bytes: at, final: false }
}

/** The length that stands before a block, without whose bytes nothing of it can be opened. */
export function decodeBlockLength(head: Uint8Array): number {
  const view = new DataView(head.buffer, head.byteOffset, BLOCK_HEAD_BYTES)
  return view.getUint32(IV_BYTES) * 2 ** 32 + view.getUint32(IV_BYTES + 4)
}

/** The AAD of frames of one kind; numberAad writes the two numbers into it. */
export function createAad(messageId: Uint8Array, kind: ContentKind): Buffer {
  return Buffer.concat([messageId, Buffer.from(CONTENT_KINDS[kind]), new Uint8Array(12)])
}

export function numberAad(aad: Buffer, sequence: number, plaintextBytes: number): void {
  aad.writeUInt32BE(sequence, aad.length - 12)
  aad.writeUInt32BE(Math.floor(plaintextBytes / 2 ** 32), aad.length - 8)
  aad.writeUInt32BE(plaintextBytes % 2 ** 32, aad.length - 4)
}

function checkSequence(found: number, expected: number): void {
  if (found === expected) return
  throw malformed(`frame ${expected} is missing or out of its place`)
}

function malformed(detail: string): KeyfoldError {
  return new KeyfoldError('STREAM_MALFORMED', detail)
}
