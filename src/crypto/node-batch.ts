/**
 * Inline and detached batches on node:crypto (formats.md's Message, in src/format/message.ts). One derived key per
 * batch, one AAD, a cipher object per message.
 */
import { createHash, type KeyObject } from 'node:crypto'

import { KeyfoldError } from '../errors.ts'
import { Writer } from '../format/bytes.ts'
import { COMMITMENT_BYTES, DATA_KEY_ID_BYTES } from '../format/key-entry.ts'
import {
  BATCH_NONCE_BYTES,
  DETACHED_VERSION,
  detachedOverheadBytes,
  INLINE_VERSION,
  inlineOverheadBytes,
  NONCE_BYTES,
  sealOverheadBytes,
} from '../format/message.ts'
import { MsgpackWriter, NIL } from '../format/msgpack.ts'
import { KEY_ENTRIES_MAX } from '../limits.ts'
import {
  ENTRY_MALFORMED,
  ENTRY_UNKNOWN,
  type NamedKeyEntry,
  type OpenRequest,
  type Part,
  type ReplaceKeyEntriesRequest,
  type ScanRequest,
  type ScanResult,
  type SealRequest,
  type Suite,
} from './crypto.ts'
import { assertMessageLength, ElementCursor, elementBytes, planElements } from './elements.ts'
import type { MessageKey } from './node-message-key.ts'
import { commitXaes, deriveXaes, openXaes, sealGcm } from './xaes.ts'

const GCM_NONCE_OFFSET = 12

/** suite ‖ data key id ‖ contextHash: one for all messages of a batch. */
export function messageAad(key: MessageKey, contextHash: Uint8Array): Uint8Array {
  return new Writer(new Uint8Array(1 + DATA_KEY_ID_BYTES + contextHash.length))
    .u8(key.suite)
    .put(key.commitment.subarray(0, DATA_KEY_ID_BYTES))
    .put(contextHash).bytes
}

/** Writes ciphertext ‖ tag16 [‖ KC32] of the message with this nonce at `offset`. */
export function sealMessage(
  key: MessageKey,
  kx: KeyObject,
  nonce: Uint8Array,
  aad: Uint8Array,
  plaintext: Uint8Array,
  output: Uint8Array,
  offset: number,
): void {
  sealGcm(kx, nonce.subarray(GCM_NONCE_OFFSET), aad, plaintext, output, offset)
  if (key.suite === 2) {
    output.set(commitXaes(key.sealing, nonce), offset + plaintext.length + sealOverheadBytes(1))
  }
}

export function sealMessages(request: SealRequest, key: MessageKey, r: Uint8Array): number {
  const { form, keyEntry, input, output } = request
  const overhead =
    form === 'inline'
      ? inlineOverheadBytes(keyEntry.length, key.suite)
      : detachedOverheadBytes(key.suite)
  const [part] = planElements({ ...request, overheadBytes: overhead, partsMax: 1 })
  if (part === undefined || part.outputBytes > request.outputEnd - request.outputOffset) {
    throw new KeyfoldError('INTERNAL', 'the output is too small')
  }
  const nonce = new Uint8Array(NONCE_BYTES)
  nonce.set(r)
  const kx = deriveXaes(key.sealing, nonce.subarray(0, GCM_NONCE_OFFSET))
  const aad = messageAad(key, request.contextHash)
  const reference = form === 'inline' ? keyEntry : key.commitment.subarray(0, DATA_KEY_ID_BYTES)
  const cursor = new ElementCursor(input, request.inputOffset, request.inputEnd, request.nilAllowed)
  const writer = new MsgpackWriter(output, request.outputOffset)
  for (let index = 0; index < request.messages; index++) {
    cursor.next()
    if (cursor.isNil) {
      writer.nil()
      continue
    }
    new Writer(nonce, BATCH_NONCE_BYTES).u32(index)
    const plaintext = input.subarray(cursor.start, cursor.offset)
    writer.binHead(plaintext.length + overhead)
    const fields = new Writer(output, writer.offset)
      .u8(form === 'inline' ? INLINE_VERSION : DETACHED_VERSION)
      .u8(key.suite)
      .put(reference)
      .put(nonce)
    sealMessage(key, kx, nonce, aad, plaintext, output, fields.offset)
    writer.offset += plaintext.length + overhead
  }
  return writer.offset - request.outputOffset
}

/** Where a message's parts begin, relative to its first byte; undefined where it is not a message. */
interface MessageLayout {
  readonly suite: Suite
  readonly inline: boolean
  /** End of the key entry or data key id; the nonce follows. */
  readonly referenceEnd: number
}

function layoutOf(message: Uint8Array): MessageLayout | undefined {
  const version = message[0]
  const suite = message[1]
  if (suite !== 1 && suite !== 2) return undefined
  let referenceEnd: number
  if (version === INLINE_VERSION) {
    const lengthAt = 2 + COMMITMENT_BYTES
    if (message.length < lengthAt + 2) return undefined
    const wrappedKeyBytes = ((message[lengthAt] as number) << 8) | (message[lengthAt + 1] as number)
    if (wrappedKeyBytes === 0) return undefined
    referenceEnd = lengthAt + 2 + wrappedKeyBytes
  } else if (version === DETACHED_VERSION) {
    referenceEnd = 2 + DATA_KEY_ID_BYTES
  } else {
    return undefined
  }
  const sealedAt = referenceEnd + NONCE_BYTES
  if (message.length < sealedAt + sealOverheadBytes(suite)) return undefined
  const indexAt = referenceEnd + BATCH_NONCE_BYTES
  // The index is below 65,536: its first two bytes are zero.
  if (message[indexAt] !== 0 || message[indexAt + 1] !== 0) return undefined
  return { suite, inline: version === INLINE_VERSION, referenceEnd }
}

export function scanEntries(request: ScanRequest): ScanResult {
  const { input, inputOffset, inputEnd, messages, entryOf, contextHash } = request
  const callers = new Map(
    request.keyEntries.map((entry) => [latin1(entry.subarray(0, DATA_KEY_ID_BYTES)), entry]),
  )
  const indexOf = new Map<string, number>()
  const found: { suite: Suite; keyEntry: Uint8Array; messages: number; cacheId: string }[] = []
  // Plaintext lengths differ from the elements' by their overheads, so the parts are counted here.
  const plan = planElements({ ...request, overheadBytes: 0, nilAllowed: false }, 'ciphertexts')
  const parts: Part[] = []
  const cursor = new ElementCursor(input, inputOffset, inputEnd, false)
  let message = 0
  for (const planned of plan) {
    let plaintextBytes = 0
    let outputBytes = 0
    for (; message < planned.firstMessage + planned.messages; message++) {
      cursor.next()
      const bytes = input.subarray(cursor.start, cursor.offset)
      const layout = layoutOf(bytes)
      if (layout === undefined) {
        entryOf[message] = ENTRY_MALFORMED
        outputBytes++
        continue
      }
      const reference = bytes.subarray(2, layout.referenceEnd)
      const keyEntry = layout.inline ? reference : callers.get(latin1(reference))
      if (keyEntry === undefined) {
        entryOf[message] = ENTRY_UNKNOWN
        outputBytes++
        continue
      }
      entryOf[message] = indexEntry(layout.suite, keyEntry)
      const length =
        bytes.length - layout.referenceEnd - NONCE_BYTES - sealOverheadBytes(layout.suite)
      assertMessageLength(message, length)
      plaintextBytes += length
      outputBytes += elementBytes(length)
    }
    parts.push({ ...planned, plaintextBytes, outputBytes })
  }
  if (message !== messages) throw new KeyfoldError('INTERNAL', 'the plan misses messages')
  return { entries: found satisfies NamedKeyEntry[], parts }

  function indexEntry(suite: Suite, keyEntry: Uint8Array): number {
    const name = String.fromCharCode(suite) + latin1(keyEntry)
    const known = indexOf.get(name)
    if (known !== undefined) {
      const entry = found[known]
      if (entry !== undefined) entry.messages++
      return known
    }
    if (found.length === KEY_ENTRIES_MAX) {
      throw new KeyfoldError('LIMIT_EXCEEDED', `at most ${KEY_ENTRIES_MAX} distinct key entries`)
    }
    const hash = createHash('sha256').update(Buffer.of(suite)).update(keyEntry).update(contextHash)
    found.push({ suite, keyEntry, messages: 1, cacheId: latin1(hash.digest()) })
    indexOf.set(name, found.length - 1)
    return found.length - 1
  }
}

export function openMessages(
  request: OpenRequest,
  keys: readonly (MessageKey | undefined)[],
): number {
  const { input, inputOffset, inputEnd, messages, output, failures, entryOf } = request
  const aads = keys.map((key) =>
    key === undefined ? undefined : messageAad(key, request.contextHash),
  )
  const cursor = new ElementCursor(input, inputOffset, inputEnd, false)
  const writer = new MsgpackWriter(output, request.outputOffset)
  for (let i = 0; i < messages; i++) {
    cursor.next()
    const entry = entryOf[i] as number
    const key = keys[entry]
    const aad = aads[entry]
    failures[i] = 0
    if (key === undefined || aad === undefined) {
      writeElement(writer, undefined, request.outputEnd)
      continue
    }
    const opened = openMessage(input.subarray(cursor.start, cursor.offset), key, aad)
    if (opened === undefined) failures[i] = 1
    writeElement(writer, opened, request.outputEnd)
    opened?.fill(0)
  }
  cursor.finish()
  return writer.offset - request.outputOffset
}

function openMessage(bytes: Uint8Array, key: MessageKey, aad: Uint8Array): Buffer | undefined {
  const layout = layoutOf(bytes)
  if (layout === undefined || layout.suite !== key.suite) return undefined
  const sealedAt = layout.referenceEnd + NONCE_BYTES
  const nonce = bytes.subarray(layout.referenceEnd, sealedAt)
  return openXaes(key.suite, key.sealing, nonce, aad, bytes.subarray(sealedAt))
}

/** A byte string, or nil where there is none. */
export function writeElement(
  writer: MsgpackWriter,
  bytes: Uint8Array | undefined,
  outputEnd: number,
): void {
  const length = bytes === undefined ? 1 : elementBytes(bytes.length)
  if (length > outputEnd - writer.offset) {
    throw new KeyfoldError('INTERNAL', 'the output is too small')
  }
  if (bytes === undefined) writer.raw(Uint8Array.of(NIL))
  else writer.bin(bytes)
}

export function replaceEntries(request: ReplaceKeyEntriesRequest): number {
  const { input, keyEntries, entryOf, outputEnd } = request
  const cursor = new ElementCursor(input, request.inputOffset, request.inputEnd, false)
  const writer = new MsgpackWriter(request.output, request.outputOffset)
  for (let i = 0; i < request.messages; i++) {
    cursor.next()
    const keyEntry = keyEntries[entryOf[i] as number]
    const bytes = input.subarray(cursor.start, cursor.offset)
    const layout = layoutOf(bytes)
    if (keyEntry === undefined || keyEntry.length === 0 || layout?.inline !== true) {
      writeElement(writer, undefined, outputEnd)
      continue
    }
    const rest = bytes.subarray(layout.referenceEnd)
    const length = 2 + keyEntry.length + rest.length
    if (elementBytes(length) > outputEnd - writer.offset) {
      throw new KeyfoldError('INTERNAL', 'the output is too small')
    }
    writer.binHead(length).raw(bytes.subarray(0, 2)).raw(keyEntry).raw(rest)
  }
  cursor.finish()
  return writer.offset - request.outputOffset
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1')
}
