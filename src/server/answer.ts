/**
 * Answers: MessagePack maps written around the result where it lies, and errors. An answer is a stretch of memory
 * with a few bytes free in front, where a WebSocket frame puts its header.
 */
import type { BatchResult, CallerDataKey, ReleasedMessageKeys } from '../envelope/batch.ts'
import type { ErrorCode, MessageErrorCode } from '../errors.ts'
import { FRAME_HEADER_BYTES } from '../format/frame.ts'
import { msgpackToJson } from '../format/json.ts'
import {
  arrayHeadBytes,
  binHeadBytes,
  MsgpackWriter,
  plainBytesMax,
  type PlainValue,
} from '../format/msgpack.ts'
import type { SlotPool } from '../pool/slot.ts'

export interface Answer {
  readonly memory: Uint8Array
  /** At least FRAME_HEADER_BYTES. */
  readonly offset: number
  readonly end: number
  /** Once, when the last byte is gone. */
  release(): void
}

const nothing = (): void => undefined

/** Answers up to here are not worth a slot. */
const UNCHARGED_BYTES_MAX = 64 * 1024

/** Small answers: management, errors. Undefined fields are left out. */
export function encodeAnswer(value: PlainValue): Answer {
  const memory = new Uint8Array(FRAME_HEADER_BYTES + plainBytesMax(value))
  const writer = new MsgpackWriter(memory, FRAME_HEADER_BYTES)
  writer.plain(value)
  return { memory, offset: FRAME_HEADER_BYTES, end: writer.offset, release: nothing }
}

export function encodeText(text: string): Answer {
  const memory = Buffer.from(text)
  return { memory, offset: 0, end: memory.length, release: nothing }
}

/** The same answer as JSON, in place of the one that is given. A large one is charged like any other. */
export function encodeJson(answer: Answer, slots: SlotPool): Answer {
  let text: string
  try {
    text = msgpackToJson(answer.memory.subarray(answer.offset, answer.end))
  } finally {
    answer.release()
  }
  const bytes = Buffer.byteLength(text)
  if (bytes <= UNCHARGED_BYTES_MAX) return encodeText(text)
  const slot = slots.acquire(bytes)
  Buffer.from(slot.bytes.buffer).write(text)
  return { memory: slot.bytes, offset: 0, end: bytes, release: () => slot.release() }
}

export function encodeError(code: ErrorCode, message: string, requestId: string): Answer {
  return encodeAnswer({ code, message, requestId })
}

/** {keyId, ciphertexts} or {keyId, packed}, and keyEntry for detached. */
export function encodeEncrypted(result: BatchResult, slots: SlotPool): Answer {
  const [keyEntry] = result.keyEntries
  if (keyEntry === undefined) return surround(result, 2, NO_BYTES, slots)
  const tail = new MsgpackWriter(new Uint8Array(16 + keyEntry.length))
  tail.string('keyEntry').bin(keyEntry)
  return surround(result, 3, tail.written(), slots)
}

/** As encrypt; detached has an entry for each that was sent, and failed messages have their codes. */
export function encodeReEncrypted(result: BatchResult, slots: SlotPool): Answer {
  const entries = result.keyEntries
  const bytes = entries.reduce((sum, entry) => sum + entry.length + 5, 16)
  const tail = new MsgpackWriter(new Uint8Array(bytes + errorsBytes(result.errors)))
  if (entries.length > 0) {
    tail.string('keyEntries').arrayHead(entries.length)
    for (const entry of entries) tail.bin(entry)
  }
  writeErrors(tail, result.errors)
  const fields = 2 + (entries.length > 0 ? 1 : 0) + (result.errors.length > 0 ? 1 : 0)
  return surround(result, fields, tail.written(), slots)
}

/** {plaintexts, errors?} */
export function encodeDecrypted(result: BatchResult, slots: SlotPool): Answer {
  if (result.errors.length === 0) return surround(result, 1, NO_BYTES, slots)
  const tail = new MsgpackWriter(new Uint8Array(errorsBytes(result.errors)))
  writeErrors(tail, result.errors)
  return surround(result, 2, tail.written(), slots)
}

/** Zeroes the plaintext keys once they are written. */
export function encodeDataKeys(keyId: string, dataKeys: readonly CallerDataKey[]): Answer {
  const answer = encodeAnswer({
    keyId,
    dataKeys: dataKeys.map(({ wrappedKey, plaintext }) => ({ wrappedKey, plaintext })),
  })
  for (const { plaintext } of dataKeys) plaintext?.fill(0)
  return { ...answer, release: () => answer.memory.fill(0) }
}

/** {messageKeys, errors?}, zeroed as data keys are. */
export function encodeMessageKeys({ messageKeys, errors }: ReleasedMessageKeys): Answer {
  const answer = encodeAnswer({
    messageKeys: messageKeys.map((released) => (released === undefined ? null : { ...released })),
    ...(errors.length === 0 ? {} : { errors: errors.map((error) => [...error]) }),
  })
  for (const released of messageKeys) released?.messageKey.fill(0)
  return { ...answer, release: () => answer.memory.fill(0) }
}

const NO_BYTES = new Uint8Array(0)

/** Writes the head of the map in front of the result and `tail` behind it. Takes the result's slot over. */
function surround(result: BatchResult, fields: number, tail: Uint8Array, slots: SlotPool): Answer {
  const { keyId, shape, messages } = result
  const valueHead =
    shape === 'packed' ? binHeadBytes(result.end - result.offset) : arrayHeadBytes(messages)
  const name = shape === 'packed' ? 'packed' : keyId === undefined ? 'plaintexts' : 'ciphertexts'
  const keyIdBytes =
    keyId === undefined
      ? 0
      : 1 + 5 + (keyId.length < 32 ? 1 : keyId.length < 256 ? 2 : 3) + keyId.length
  const offset = result.offset - (1 + keyIdBytes + 1 + name.length + valueHead)
  const head = new MsgpackWriter(result.slot.bytes, offset).mapHead(fields)
  if (keyId !== undefined) head.string('keyId').string(keyId)
  head.string(name)
  if (shape === 'packed') head.binHead(result.end - result.offset)
  else head.arrayHead(messages)
  const room = result.slot.bytes.length - result.end
  if (tail.length <= room) {
    if (tail.length > 0) result.slot.bytes.set(tail, result.end)
    return {
      memory: result.slot.bytes,
      offset,
      end: result.end + tail.length,
      release: () => result.slot.release(),
    }
  }
  // Thousands of failures: rare enough to be copied.
  const larger = slots.acquire(result.end + tail.length)
  larger.bytes.set(result.slot.bytes.subarray(0, result.end))
  larger.bytes.set(tail, result.end)
  result.slot.release()
  return {
    memory: larger.bytes,
    offset,
    end: result.end + tail.length,
    release: () => larger.release(),
  }
}

type Errors = readonly (readonly [number, MessageErrorCode])[]

/** [[index, code]]: an array, for Python's unpackb refuses maps with integer keys. */
function writeErrors(writer: MsgpackWriter, errors: Errors): void {
  if (errors.length === 0) return
  writer.string('errors').arrayHead(errors.length)
  for (const [index, code] of errors) writer.arrayHead(2).uint(index).string(code)
}

function errorsBytes(errors: Errors): number {
  return 16 + errors.reduce((sum, [, code]) => sum + 1 + 5 + 2 + code.length, 0)
}
