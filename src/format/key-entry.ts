/**
 * A key entry: what a batch needs to be opened again.
 *
 *     32  commitment     HKDF of the message key; its first 16 bytes are the data key id
 *     2   length
 *     …   wrapped key    of usage 01
 */
import type { ErrorCode } from '../errors.ts'
import { WRAPPED_KEY_BYTES_MAX } from '../limits.ts'
import { Reader, Writer } from './bytes.ts'

export const COMMITMENT_BYTES = 32
export const DATA_KEY_ID_BYTES = 16
const HEADER_BYTES = COMMITMENT_BYTES + 2
export const KEY_ENTRY_BYTES_MAX = HEADER_BYTES + WRAPPED_KEY_BYTES_MAX

export interface KeyEntry {
  readonly commitment: Uint8Array
  readonly wrappedKey: Uint8Array
}

export function encodeKeyEntry(entry: KeyEntry): Uint8Array {
  return new Writer(new Uint8Array(HEADER_BYTES + entry.wrappedKey.length))
    .put(entry.commitment)
    .u16(entry.wrappedKey.length)
    .put(entry.wrappedKey).bytes
}

/** `code`: what a malformed entry is where it was met, in a message or in a list of a request. */
export function decodeKeyEntry(
  bytes: Uint8Array,
  code: ErrorCode = 'KEY_ENTRIES_INVALID',
): KeyEntry {
  const reader = new Reader(bytes, code)
  const entry = readKeyEntry(reader)
  reader.end()
  return entry
}

/** Reads an entry out of a longer value: a message or a packed batch. */
export function readKeyEntry(reader: Reader): KeyEntry {
  const commitment = reader.take(COMMITMENT_BYTES)
  const length = reader.u16()
  if (length === 0 || length > WRAPPED_KEY_BYTES_MAX) {
    throw reader.malformed('the wrapped key has an impossible length')
  }
  return { commitment, wrappedKey: reader.take(length) }
}
