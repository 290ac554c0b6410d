/**
 * The elements of a batch: MessagePack byte strings, one after the other, walked without an object each. Used by
 * the portable implementation; the addon has its twin in native/message_batch.cc.
 */
import { KeyfoldError } from '../errors.ts'
import { BATCH_PARTS_MAX, MESSAGE_BYTES_MAX } from '../limits.ts'
import { binHeadBytes, NIL } from '../format/msgpack.ts'
import type { Part, PlanRequest } from './crypto.ts'

/** A cursor over elements. After next(): the element's bytes are at start..offset, or it was nil. */
export class ElementCursor {
  readonly #input: Uint8Array
  readonly #end: number
  readonly #nilAllowed: boolean
  #index = 0
  offset: number
  start = 0
  isNil = false

  constructor(input: Uint8Array, offset: number, end: number, nilAllowed: boolean) {
    if (offset > end || end > input.length) throw new KeyfoldError('INTERNAL', 'input out of range')
    this.#input = input
    this.#end = end
    this.#nilAllowed = nilAllowed
    this.offset = offset
  }

  next(): void {
    const head = this.offset < this.#end ? (this.#input[this.offset] as number) : -1
    this.isNil = head === NIL && this.#nilAllowed
    if (this.isNil) {
      this.start = ++this.offset
    } else {
      if (head < 0xc4 || head > 0xc6)
        throw this.#malformed(head < 0 ? 'truncated' : 'not a byte string')
      const lengthBytes = 1 << (head - 0xc4)
      const at = this.offset + 1
      if (lengthBytes > this.#end - at) throw this.#malformed('truncated')
      let length = 0
      for (let i = 0; i < lengthBytes; i++) length = length * 256 + (this.#input[at + i] as number)
      this.start = at + lengthBytes
      if (length > this.#end - this.start) throw this.#malformed('truncated')
      this.offset = this.start + length
    }
    this.#index++
  }

  /** The elements must fill their place to the byte. */
  finish(): void {
    if (this.offset !== this.#end) throw this.#malformed('trailing bytes')
  }

  #malformed(what: string): KeyfoldError {
    return new KeyfoldError('REQUEST_MALFORMED', `message ${this.#index}: ${what}`)
  }
}

export function elementBytes(length: number): number {
  return binHeadBytes(length) + length
}

export function assertMessageLength(index: number, plaintextBytes: number): void {
  if (plaintextBytes <= MESSAGE_BYTES_MAX) return
  throw new KeyfoldError('LIMIT_EXCEEDED', `message ${index}: more than ${MESSAGE_BYTES_MAX} bytes`)
}

/**
 * Cuts a batch into parts of about the same size, in one walk. How long the plaintext of a ciphertext is, only its
 * reader knows: it counts and checks for itself.
 */
export function planElements(
  request: PlanRequest,
  of: 'plaintexts' | 'ciphertexts' = 'plaintexts',
): readonly Part[] {
  const { input, inputOffset, inputEnd, messages, overheadBytes, nilAllowed } = request
  const partsMax = Math.min(request.partsMax, BATCH_PARTS_MAX, messages)
  const perPart = Math.ceil((inputEnd - inputOffset) / partsMax)
  const cursor = new ElementCursor(input, inputOffset, inputEnd, nilAllowed)
  const parts: Part[] = []
  let open = { inputOffset, firstMessage: 0, messages: 0, plaintextBytes: 0, outputBytes: 0 }
  for (let i = 0; i < messages; i++) {
    cursor.next()
    open.messages++
    if (cursor.isNil) {
      open.outputBytes++
    } else {
      const length = cursor.offset - cursor.start
      if (of === 'plaintexts') assertMessageLength(i, length)
      open.plaintextBytes += length
      open.outputBytes += elementBytes(length + overheadBytes)
    }
    const full = cursor.offset - open.inputOffset >= perPart
    if (full && parts.length < partsMax - 1 && i < messages - 1) {
      parts.push({ ...open, inputEnd: cursor.offset })
      open = {
        inputOffset: cursor.offset,
        firstMessage: i + 1,
        messages: 0,
        plaintextBytes: 0,
        outputBytes: 0,
      }
    }
  }
  cursor.finish()
  parts.push({ ...open, inputEnd: cursor.offset })
  return parts
}
