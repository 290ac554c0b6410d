/**
 * Packed batches on node:crypto (src/format/packed-batch.ts): a ticket holds R and what was claimed, so that every
 * part and the batch tag are sealed at most once.
 */
import { timingSafeEqual } from 'node:crypto'

import { KeyfoldError } from '../errors.ts'
import { Reader, Writer } from '../format/bytes.ts'
import { DATA_KEY_ID_BYTES } from '../format/key-entry.ts'
import { NONCE_BYTES, sealOverheadBytes, TAG_BYTES } from '../format/message.ts'
import { MsgpackWriter } from '../format/msgpack.ts'
import { decodePackedHeader, PACKED_VERSION } from '../format/packed-batch.ts'
import type { PackedOpenRequest, PackedSealRequest } from './crypto.ts'
import { ElementCursor } from './elements.ts'
import { messageAad, sealMessage, writeElement } from './node-batch.ts'
import type { MessageKey } from './node-message-key.ts'
import { deriveXaes, openXaes, sealGcm } from './xaes.ts'

const LABEL = Buffer.from('keyfold/packed/v1')
const BATCH_TAG_INDEX = 0xffffffff

export interface Ticket {
  readonly messageKey: MessageKey
  readonly contextHash: Uint8Array
  readonly r: Uint8Array
  readonly messages: number
  readonly partFirstMessages: readonly number[]
  readonly claimed: Set<number>
  readonly sealed: Set<number>
}

export function sealTicketPart(request: PackedSealRequest, ticket: Ticket): void {
  const { messageKey, partFirstMessages, claimed } = ticket
  const { part, packed, input } = request
  const first = partFirstMessages[part]
  if (first === undefined || claimed.has(part)) {
    throw new KeyfoldError('INTERNAL', 'this part was claimed already')
  }
  claimed.add(part)
  const end = partFirstMessages[part + 1] ?? ticket.messages
  const overhead = sealOverheadBytes(messageKey.suite)
  // The lengths stand between the header and the first sealed message.
  const lengthsOffset = request.lengthsOffset
  const kx = deriveXaes(messageKey.sealing, ticket.r.subarray(0, 12))
  const aad = messageAad(messageKey, ticket.contextHash)
  const cursor = new ElementCursor(input, request.inputOffset, request.inputEnd, false)
  let offset = request.sealedOffset
  for (let index = first; index < end; index++) {
    cursor.next()
    const plaintext = input.subarray(cursor.start, cursor.offset)
    if (plaintext.length + overhead > request.packedEnd - TAG_BYTES - offset) {
      throw new KeyfoldError('INTERNAL', 'the packed value is too small')
    }
    new Writer(packed, lengthsOffset + 4 * index).u32(plaintext.length)
    sealMessage(messageKey, kx, nonceOf(ticket.r, index), aad, plaintext, packed, offset)
    offset += plaintext.length + overhead
  }
  cursor.finish()
  ticket.sealed.add(part)
}

export function finishTicket(
  ticket: Ticket,
  keyEntry: Uint8Array,
  packed: Uint8Array,
  packedOffset: number,
  packedEnd: number,
): void {
  if (ticket.sealed.size !== ticket.partFirstMessages.length) {
    throw new KeyfoldError('INTERNAL', 'a part of the batch was not sealed')
  }
  new Writer(packed, packedOffset)
    .u8(PACKED_VERSION)
    .u8(ticket.messageKey.suite)
    .put(keyEntry)
    .put(ticket.r)
    .u32(ticket.messages)
  const tag = batchTag(ticket.messageKey, ticket.contextHash, packed, packedOffset, packedEnd)
  packed.set(tag, packedEnd - TAG_BYTES)
}

export function verifyBatchTag(
  key: MessageKey,
  contextHash: Uint8Array,
  packed: Uint8Array,
  packedOffset: number,
  packedEnd: number,
): boolean {
  try {
    const header = decodePackedHeader(packed, packedOffset, packedEnd)
    if (header.suite !== key.suite) return false
    const expected = batchTag(key, contextHash, packed, packedOffset, packedEnd)
    return timingSafeEqual(expected, packed.subarray(header.batchTagOffset, packedEnd))
  } catch (error) {
    if (error instanceof KeyfoldError && error.code === 'MESSAGE_MALFORMED') return false
    throw error
  }
}

export function openPackedMessages(request: PackedOpenRequest, key: MessageKey): number {
  const { packed, failures } = request
  const header = decodePackedHeader(packed, request.packedOffset, request.packedEnd)
  const aad = messageAad(key, request.contextHash)
  const overhead = sealOverheadBytes(key.suite)
  const lengths = new Reader(
    packed,
    'MESSAGE_MALFORMED',
    header.lengthsOffset + 4 * request.firstMessage,
  )
  const writer = new MsgpackWriter(request.output, request.outputOffset)
  let offset = request.sealedOffset
  for (let i = 0; i < request.messages; i++) {
    const end = offset + lengths.u32() + overhead
    if (end > header.batchTagOffset) throw new KeyfoldError('INTERNAL', 'a part out of range')
    const nonce = nonceOf(header.r, request.firstMessage + i)
    const opened = openXaes(key.suite, key.sealing, nonce, aad, packed.subarray(offset, end))
    failures[i] = opened === undefined ? 1 : 0
    writeElement(writer, opened, request.outputEnd)
    opened?.fill(0)
    offset = end
  }
  return writer.offset - request.outputOffset
}

/**
 * GCM tag of nothing, under the batch's derived key with the index FFFFFFFF, over "keyfold/packed/v1" ‖ suite ‖
 * data key id ‖ contextHash ‖ count ‖ lengths ‖ (tag16 [‖ KC32]) of every message.
 */
function batchTag(
  key: MessageKey,
  contextHash: Uint8Array,
  packed: Uint8Array,
  packedOffset: number,
  packedEnd: number,
): Buffer {
  const header = decodePackedHeader(packed, packedOffset, packedEnd)
  const overhead = sealOverheadBytes(header.suite)
  const aad = new Writer(
    new Uint8Array(LABEL.length + 1 + DATA_KEY_ID_BYTES + 32 + 4 + header.count * (4 + overhead)),
  )
    .put(LABEL)
    .u8(key.suite)
    .put(key.commitment.subarray(0, DATA_KEY_ID_BYTES))
    .put(contextHash)
    .u32(header.count)
    .put(packed.subarray(header.lengthsOffset, header.sealedOffset))
  const lengths = new Reader(packed, 'MESSAGE_MALFORMED', header.lengthsOffset)
  let offset = header.sealedOffset
  for (let i = 0; i < header.count; i++) {
    offset += lengths.u32() + overhead
    aad.put(packed.subarray(offset - overhead, offset))
  }
  const tag = Buffer.alloc(TAG_BYTES)
  const kx = deriveXaes(key.sealing, header.r.subarray(0, 12))
  const nonce = nonceOf(header.r, BATCH_TAG_INDEX)
  sealGcm(kx, nonce.subarray(12), aad.bytes, new Uint8Array(0), tag, 0)
  return tag
}

function nonceOf(r: Uint8Array, index: number): Uint8Array {
  return new Writer(new Uint8Array(NONCE_BYTES)).put(r).u32(index).bytes
}
