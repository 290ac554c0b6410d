/**
 * Conversions between the three forms of a message. None of them needs a key: they copy. Unpacking gives up the
 * packed batch's protection against dropping and reordering.
 */
import { KeyfoldError } from '../errors.ts'
import { decodeKeyEntry, encodeKeyEntry, DATA_KEY_ID_BYTES } from './key-entry.ts'
import {
  BATCH_NONCE_BYTES,
  decodeDetachedMessage,
  decodeInlineMessage,
  encodeDetachedMessage,
  encodeInlineMessage,
  NONCE_BYTES,
} from './message.ts'
import { Writer } from './bytes.ts'
import { decodePackedBatch } from './packed-batch.ts'

export interface DetachedBatch {
  readonly keyEntry: Uint8Array
  readonly messages: readonly Uint8Array[]
}

export function unpackToInline(packed: Uint8Array): readonly Uint8Array[] {
  const { suite, keyEntry, r, sealed } = decodePackedBatch(packed)
  return sealed.map((message, index) =>
    encodeInlineMessage({ suite, keyEntry, nonce: messageNonce(r, index), sealed: message }),
  )
}

export function unpackToDetached(packed: Uint8Array): DetachedBatch {
  const { suite, keyEntry, r, sealed } = decodePackedBatch(packed)
  const dataKeyId = keyEntry.commitment.subarray(0, DATA_KEY_ID_BYTES)
  return {
    keyEntry: encodeKeyEntry(keyEntry),
    messages: sealed.map((message, index) =>
      encodeDetachedMessage({ suite, dataKeyId, nonce: messageNonce(r, index), sealed: message }),
    ),
  }
}

export function detachMessage(inline: Uint8Array): {
  readonly keyEntry: Uint8Array
  readonly message: Uint8Array
} {
  const { suite, keyEntry, nonce, sealed } = decodeInlineMessage(inline)
  const dataKeyId = keyEntry.commitment.subarray(0, DATA_KEY_ID_BYTES)
  return {
    keyEntry: encodeKeyEntry(keyEntry),
    message: encodeDetachedMessage({ suite, dataKeyId, nonce, sealed }),
  }
}

/** Throws KEY_ENTRIES_INVALID where the entry is not the one that the message points to. */
export function attachKeyEntry(detached: Uint8Array, keyEntry: Uint8Array): Uint8Array {
  const { suite, dataKeyId, nonce, sealed } = decodeDetachedMessage(detached)
  const entry = decodeKeyEntry(keyEntry)
  if (Buffer.compare(entry.commitment.subarray(0, DATA_KEY_ID_BYTES), dataKeyId) !== 0) {
    throw new KeyfoldError('KEY_ENTRIES_INVALID', 'the message points to another key entry')
  }
  return encodeInlineMessage({ suite, keyEntry: entry, nonce, sealed })
}

function messageNonce(r: Uint8Array, index: number): Uint8Array {
  return new Writer(new Uint8Array(NONCE_BYTES)).put(r.subarray(0, BATCH_NONCE_BYTES)).u32(index)
    .bytes
}
