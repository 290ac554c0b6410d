/**
 * A packed batch: a whole batch in one value, 20 bytes a message and one header for all.
 *
 *     1         version          0xE3
 *     1         suite
 *     …         key entry
 *     20        R                the nonce of message i is R ‖ u32 i
 *     4         count            1 to 65,536
 *     4 × count plaintext lengths
 *     …         sealed × count   ciphertext ‖ tag16 [‖ KC32], in order
 *     16        batch tag        over count, lengths and all tags: nothing can be dropped, added or moved
 */
import { BATCH_MESSAGES_MAX, MESSAGE_BYTES_MAX } from '../limits.ts'
import { Reader, Writer } from './bytes.ts'
import { encodeKeyEntry, readKeyEntry, type KeyEntry } from './key-entry.ts'
import {
  BATCH_NONCE_BYTES,
  readMessageSuite,
  sealOverheadBytes,
  TAG_BYTES,
  type MessageSuite,
} from './message.ts'

export const PACKED_VERSION = 0xe3

export interface PackedBatch {
  readonly suite: MessageSuite
  readonly keyEntry: KeyEntry
  readonly r: Uint8Array
  /** ciphertext ‖ tag16 [‖ KC32] of each message. */
  readonly sealed: readonly Uint8Array[]
  readonly batchTag: Uint8Array
}

/** Where the parts of a packed batch lie, every length checked against the bytes that are there. */
export interface PackedHeader {
  readonly suite: MessageSuite
  /** The whole key entry, a view. */
  readonly keyEntry: Uint8Array
  readonly r: Uint8Array
  readonly count: number
  /** Absolute offsets in the bytes that were decoded. */
  readonly lengthsOffset: number
  readonly sealedOffset: number
  readonly batchTagOffset: number
  readonly plaintextBytes: number
}

export function packedBatchBytes(
  keyEntryBytes: number,
  count: number,
  plaintextBytes: number,
  suite: MessageSuite,
): number {
  const perMessage = 4 + sealOverheadBytes(suite)
  return 2 + keyEntryBytes + BATCH_NONCE_BYTES + 4 + count * perMessage + plaintextBytes + TAG_BYTES
}

/** Throws MESSAGE_MALFORMED. Allocates nothing that grows with the count. */
export function decodePackedHeader(
  bytes: Uint8Array,
  offset = 0,
  end = bytes.length,
): PackedHeader {
  const reader = new Reader(bytes, 'MESSAGE_MALFORMED', offset, end)
  if (reader.u8() !== PACKED_VERSION) throw reader.malformed('unknown version')
  const suite = readMessageSuite(reader)
  const keyEntryOffset = reader.offset
  readKeyEntry(reader)
  const keyEntry = bytes.subarray(keyEntryOffset, reader.offset)
  const r = reader.take(BATCH_NONCE_BYTES)
  const count = reader.u32()
  if (count === 0 || count > BATCH_MESSAGES_MAX) throw reader.malformed('impossible count')
  const lengthsOffset = reader.offset
  const lengths = new Reader(reader.take(4 * count), 'MESSAGE_MALFORMED')
  let plaintextBytes = 0
  for (let i = 0; i < count; i++) {
    const length = lengths.u32()
    if (length > MESSAGE_BYTES_MAX) throw reader.malformed('a message is too long')
    plaintextBytes += length
  }
  const sealedOffset = reader.offset
  reader.take(plaintextBytes + count * sealOverheadBytes(suite))
  const batchTagOffset = reader.offset
  reader.take(TAG_BYTES)
  reader.end()
  return {
    suite,
    keyEntry,
    r,
    count,
    lengthsOffset,
    sealedOffset,
    batchTagOffset,
    plaintextBytes,
  }
}

export function decodePackedBatch(bytes: Uint8Array): PackedBatch {
  const header = decodePackedHeader(bytes)
  const lengths = new Reader(bytes, 'MESSAGE_MALFORMED', header.lengthsOffset, header.sealedOffset)
  const reader = new Reader(bytes, 'MESSAGE_MALFORMED', header.sealedOffset)
  const overhead = sealOverheadBytes(header.suite)
  const sealed = Array.from({ length: header.count }, () => reader.take(lengths.u32() + overhead))
  const batchTag = reader.take(TAG_BYTES)
  reader.end()
  const keyEntry = readKeyEntry(new Reader(header.keyEntry, 'MESSAGE_MALFORMED'))
  return { suite: header.suite, keyEntry, r: header.r, sealed, batchTag }
}

export function encodePackedBatch(batch: PackedBatch): Uint8Array {
  const overhead = sealOverheadBytes(batch.suite)
  const keyEntry = encodeKeyEntry(batch.keyEntry)
  const sealedBytes = batch.sealed.reduce((sum, sealed) => sum + sealed.length, 0)
  const count = batch.sealed.length
  const bytes = packedBatchBytes(
    keyEntry.length,
    count,
    sealedBytes - count * overhead,
    batch.suite,
  )
  const writer = new Writer(new Uint8Array(bytes))
    .u8(PACKED_VERSION)
    .u8(batch.suite)
    .put(keyEntry)
    .put(batch.r)
    .u32(count)
  for (const sealed of batch.sealed) writer.u32(sealed.length - overhead)
  for (const sealed of batch.sealed) writer.put(sealed)
  return writer.put(batch.batchTag).bytes
}
