/**
 * A stream of bytes taken apart into records: lines, or the byte strings of MessagePack. A splitter takes chunks as
 * they come and hands out each record with the offset behind it, where reading may begin again another day.
 */
import { KeyfoldError } from '../errors.ts'
import { MsgpackWriter } from '../format/msgpack.ts'
import { CONTEXT_BYTES_MAX, REQUEST_BYTES_MAX_DEFAULT } from '../limits.ts'

export interface Splitter {
  /** What `take` throws ends the push there. Errors: LIMIT_EXCEEDED, MESSAGE_MALFORMED. */
  push(chunk: Buffer, take: TakeRecord): void
  /** The end of the stream. */
  end(take: TakeRecord): void
}

/** `record` is a view of what was pushed; `endOffset` counts from the start of the stream. */
export type TakeRecord = (record: Buffer, endOffset: number) => void

const NEWLINE = 0x0a
const NO_BYTES = Buffer.alloc(0)

/** A last line without a newline counts as well. */
export class LineSplitter implements Splitter {
  readonly #lineBytesMax: number
  #rest: Buffer[] = []
  #restBytes = 0
  #offset: number

  constructor(lineBytesMax: number, offset = 0) {
    this.#lineBytesMax = lineBytesMax
    this.#offset = offset
  }

  push(chunk: Buffer, take: TakeRecord): void {
    let start = 0
    for (let at = chunk.indexOf(NEWLINE); at >= 0; at = chunk.indexOf(NEWLINE, start)) {
      this.#take(chunk.subarray(start, at), 1, take)
      start = at + 1
    }
    if (start < chunk.length) this.#rest.push(chunk.subarray(start))
    this.#restBytes += chunk.length - start
    this.#check(this.#restBytes)
  }

  end(take: TakeRecord): void {
    if (this.#rest.length > 0) this.#take(NO_BYTES, 0, take)
  }

  #take(end: Buffer, newlineBytes: number, take: TakeRecord): void {
    this.#check(this.#restBytes + end.length)
    const line = this.#rest.length === 0 ? end : Buffer.concat([...this.#rest, end])
    this.#rest = []
    this.#restBytes = 0
    this.#offset += line.length + newlineBytes
    take(line, this.#offset)
  }

  #check(bytes: number): void {
    if (bytes <= this.#lineBytesMax) return
    throw new KeyfoldError('LIMIT_EXCEEDED', `a line has at most ${this.#lineBytesMax} bytes here`)
  }
}

/** Byte strings one after the other, without an array around them: what `pack(a) + pack(b) + …` writes. */
export class MsgpackSplitter implements Splitter {
  readonly #recordBytesMax: number
  #rest: Buffer = NO_BYTES
  /** Of a record whose head is there: what is still to come is gathered, not joined chunk by chunk. */
  #gathered: Buffer[] = []
  #missingBytes = 0
  #offset: number

  constructor(recordBytesMax: number, offset = 0) {
    this.#recordBytesMax = recordBytesMax
    this.#offset = offset
  }

  push(chunk: Buffer, take: TakeRecord): void {
    let bytes: Buffer = chunk
    if (this.#missingBytes > 0) {
      const part = bytes.subarray(0, this.#missingBytes)
      this.#gathered.push(part)
      this.#missingBytes -= part.length
      if (this.#missingBytes > 0) return
      bytes = bytes.subarray(part.length)
      this.#take(Buffer.concat(this.#gathered.splice(0)), take)
    }
    if (this.#rest.length > 0) bytes = Buffer.concat([this.#rest, bytes])
    this.#rest = NO_BYTES
    for (let start = 0; start < bytes.length;) {
      const head = this.#headAt(bytes, start)
      if (head === undefined) {
        this.#rest = bytes.subarray(start)
        return
      }
      const begin = start + head.headBytes
      const end = begin + head.length
      this.#offset += head.headBytes
      if (end > bytes.length) {
        this.#gathered = [bytes.subarray(begin)]
        this.#missingBytes = end - bytes.length
        return
      }
      this.#take(bytes.subarray(begin, end), take)
      start = end
    }
  }

  end(): void {
    if (this.#rest.length === 0 && this.#missingBytes === 0) return
    throw new KeyfoldError(
      'MESSAGE_MALFORMED',
      `the input ends within a byte string, behind byte ${this.#offset}`,
    )
  }

  #take(record: Buffer, take: TakeRecord): void {
    this.#offset += record.length
    take(record, this.#offset)
  }

  /** Undefined where not all of the head is there yet. */
  #headAt(
    bytes: Buffer,
    at: number,
  ): { readonly headBytes: number; readonly length: number } | undefined {
    const kind = bytes[at] as number
    if (kind < 0xc4 || kind > 0xc6) {
      throw new KeyfoldError(
        'MESSAGE_MALFORMED',
        `at byte ${this.#offset} of the input no MessagePack byte string begins`,
      )
    }
    const lengthBytes = 1 << (kind - 0xc4)
    if (bytes.length - at < 1 + lengthBytes) return undefined
    const length = bytes.readUIntBE(at + 1, lengthBytes)
    if (length > this.#recordBytesMax) {
      throw new KeyfoldError(
        'LIMIT_EXCEEDED',
        `a ciphertext has at most ${this.#recordBytesMax} bytes here`,
      )
    }
    return { headBytes: 1 + lengthBytes, length }
  }
}

const CARRIAGE_RETURN = 0x0d

/** Buffer.from leaves out what is no base64: a damaged line would seem to be a shorter one. */
export function fromBase64(line: Buffer): Buffer {
  const text = line.toString(
    'latin1',
    0,
    line.at(-1) === CARRIAGE_RETURN ? line.length - 1 : line.length,
  )
  const message = Buffer.from(text, 'base64')
  if (message.toString('base64') !== text) {
    throw new KeyfoldError('MESSAGE_MALFORMED', 'a line of base64 is needed')
  }
  return message
}

export const RECORD_FORMATS = ['lines', 'msgpack'] as const
export type RecordFormat = (typeof RECORD_FORMATS)[number]

/** A packed batch is one record, and no server takes a longer one in one request: what stands around it is shorter. */
const RECORD_BYTES_MAX = REQUEST_BYTES_MAX_DEFAULT - 2 * CONTEXT_BYTES_MAX

export function createSplitter(format: RecordFormat, offset = 0): Splitter {
  return format === 'lines'
    ? new LineSplitter(4 * Math.ceil(RECORD_BYTES_MAX / 3) + 1, offset)
    : new MsgpackSplitter(RECORD_BYTES_MAX, offset)
}

/** The record that a ciphertext is in this format. */
export function recordOf(format: RecordFormat, ciphertext: Uint8Array): Uint8Array {
  if (format === 'msgpack') return ciphertext
  return Buffer.from(Buffer.from(ciphertext).toString('base64'), 'latin1')
}

/** A record with what tells it from the next one. */
export function frameRecord(format: RecordFormat, record: Uint8Array): readonly Uint8Array[] {
  if (format === 'lines') return [record, NEWLINE_BYTES]
  return [new MsgpackWriter(Buffer.alloc(5)).binHead(record.length).written(), record]
}

const NEWLINE_BYTES = Buffer.of(NEWLINE)
