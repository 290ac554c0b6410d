/**
 * A message: what a caller stores in place of a plaintext.
 *
 *     inline, stands alone                    detached, the caller keeps the key entry
 *     1   version   0xE1                      1   version   0xE2
 *     1   suite                               1   suite
 *     …   key entry                           16  data key id = commitment[0:16]
 *     24  nonce     R20 ‖ u32 index           24  nonce
 *     …   ciphertext                          …   ciphertext
 *     16  tag                                 16  tag
 *     32  KC, suite 2 only                    32  KC, suite 2 only
 *
 * Suite 1 is XAES-256-GCM, suite 2 KC-XAES-256-GCM. The AAD is suite ‖ data key id ‖ contextHash (49 bytes): not the
 * wrapped key, so that re-wrapping leaves the message untouched. The index is below 65,536.
 */
import { KeyfoldError } from '../errors.ts'
import { BATCH_MESSAGES_MAX } from '../limits.ts'
import { Reader, Writer } from './bytes.ts'
import { DATA_KEY_ID_BYTES, encodeKeyEntry, readKeyEntry, type KeyEntry } from './key-entry.ts'

export const INLINE_VERSION = 0xe1
export const DETACHED_VERSION = 0xe2
export const NONCE_BYTES = 24
export const TAG_BYTES = 16
export const KC_BYTES = 32
/** R, the random part of a batch's nonces. */
export const BATCH_NONCE_BYTES = 20

/** 1: XAES-256-GCM. 2: KC-XAES-256-GCM. */
export type MessageSuite = 1 | 2

export interface InlineMessage {
  readonly suite: MessageSuite
  readonly keyEntry: KeyEntry
  readonly nonce: Uint8Array
  /** ciphertext ‖ tag16 [‖ KC32] */
  readonly sealed: Uint8Array
}

export interface DetachedMessage {
  readonly suite: MessageSuite
  /** 16 bytes. */
  readonly dataKeyId: Uint8Array
  readonly nonce: Uint8Array
  readonly sealed: Uint8Array
}

/** Bytes that sealing adds to a plaintext. */
export function sealOverheadBytes(suite: MessageSuite): number {
  return suite === 2 ? TAG_BYTES + KC_BYTES : TAG_BYTES
}

export function inlineOverheadBytes(keyEntryBytes: number, suite: MessageSuite): number {
  return 2 + keyEntryBytes + NONCE_BYTES + sealOverheadBytes(suite)
}

export function detachedOverheadBytes(suite: MessageSuite): number {
  return 2 + DATA_KEY_ID_BYTES + NONCE_BYTES + sealOverheadBytes(suite)
}

export function encodeInlineMessage(message: InlineMessage): Uint8Array {
  const keyEntry = encodeKeyEntry(message.keyEntry)
  const bytes = new Uint8Array(2 + keyEntry.length + NONCE_BYTES + message.sealed.length)
  return new Writer(bytes)
    .u8(INLINE_VERSION)
    .u8(message.suite)
    .put(keyEntry)
    .put(message.nonce)
    .put(message.sealed).bytes
}

export function decodeInlineMessage(bytes: Uint8Array): InlineMessage {
  const reader = new Reader(bytes, 'MESSAGE_MALFORMED')
  readVersion(reader, INLINE_VERSION)
  const suite = readMessageSuite(reader)
  const keyEntry = readKeyEntry(reader)
  return { suite, keyEntry, ...readSealed(reader, suite) }
}

export function encodeDetachedMessage(message: DetachedMessage): Uint8Array {
  const bytes = new Uint8Array(2 + DATA_KEY_ID_BYTES + NONCE_BYTES + message.sealed.length)
  return new Writer(bytes)
    .u8(DETACHED_VERSION)
    .u8(message.suite)
    .put(message.dataKeyId)
    .put(message.nonce)
    .put(message.sealed).bytes
}

export function decodeDetachedMessage(bytes: Uint8Array): DetachedMessage {
  const reader = new Reader(bytes, 'MESSAGE_MALFORMED')
  readVersion(reader, DETACHED_VERSION)
  const suite = readMessageSuite(reader)
  const dataKeyId = reader.take(DATA_KEY_ID_BYTES)
  return { suite, dataKeyId, ...readSealed(reader, suite) }
}

export function readMessageSuite(reader: Reader): MessageSuite {
  const suite = reader.u8()
  if (suite !== 1 && suite !== 2) throw new KeyfoldError('MESSAGE_MALFORMED', 'unknown suite')
  return suite
}

function readVersion(reader: Reader, version: number): void {
  if (reader.u8() !== version) throw reader.malformed('unknown version')
}

function readSealed(
  reader: Reader,
  suite: MessageSuite,
): { readonly nonce: Uint8Array; readonly sealed: Uint8Array } {
  const nonce = reader.take(NONCE_BYTES)
  const index = new Reader(nonce, 'MESSAGE_MALFORMED', BATCH_NONCE_BYTES).u32()
  if (index >= BATCH_MESSAGES_MAX) throw reader.malformed('the index is out of range')
  const sealed = reader.rest()
  if (sealed.length < sealOverheadBytes(suite)) throw reader.malformed('truncated')
  return { nonce, sealed }
}
