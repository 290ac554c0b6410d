/**
 * Reading and writing flat bytes: the two classes that every format in this folder is written with. Integers are
 * big-endian. Views are handed out, never copies; whoever keeps one beyond its buffer copies it.
 */
import { KeyfoldError, type ErrorCode } from '../errors.ts'

/** Reads fields in order; running past the end throws `code`, the error of the format that is being read. */
export class Reader {
  readonly #bytes: Uint8Array
  readonly #end: number
  readonly #code: ErrorCode
  #offset: number

  constructor(bytes: Uint8Array, code: ErrorCode, offset = 0, end = bytes.length) {
    this.#bytes = bytes
    this.#code = code
    this.#offset = offset
    this.#end = end
  }

  get offset(): number {
    return this.#offset
  }

  get remaining(): number {
    return this.#end - this.#offset
  }

  u8(): number {
    const at = this.#advance(1)
    return this.#bytes[at] as number
  }

  u16(): number {
    const at = this.#advance(2)
    return ((this.#bytes[at] as number) << 8) | (this.#bytes[at + 1] as number)
  }

  u32(): number {
    const at = this.#advance(4)
    const b = this.#bytes
    return (
      (b[at] as number) * 0x1000000 +
      (((b[at + 1] as number) << 16) | ((b[at + 2] as number) << 8) | (b[at + 3] as number))
    )
  }

  /** A view of the next `count` bytes. */
  take(count: number): Uint8Array {
    const at = this.#advance(count)
    return this.#bytes.subarray(at, at + count)
  }

  /** A view of all that is left. */
  rest(): Uint8Array {
    return this.take(this.remaining)
  }

  /** One spelling only: nothing may follow. */
  end(): void {
    if (this.#offset !== this.#end) throw this.malformed('trailing bytes')
  }

  malformed(detail: string): KeyfoldError {
    return new KeyfoldError(this.#code, detail)
  }

  #advance(count: number): number {
    const at = this.#offset
    if (count < 0 || count > this.#end - at) throw this.malformed('truncated')
    this.#offset = at + count
    return at
  }
}

/** Writes fields in order into bytes of the right size, which the caller has computed. */
export class Writer {
  readonly bytes: Uint8Array
  #offset: number

  constructor(bytes: Uint8Array, offset = 0) {
    this.bytes = bytes
    this.#offset = offset
  }

  get offset(): number {
    return this.#offset
  }

  u8(value: number): this {
    this.bytes[this.#offset++] = value
    return this
  }

  u16(value: number): this {
    return this.u8(value >>> 8).u8(value & 0xff)
  }

  u32(value: number): this {
    return this.u16(value >>> 16).u16(value & 0xffff)
  }

  put(bytes: Uint8Array): this {
    this.bytes.set(bytes, this.#offset)
    this.#offset += bytes.length
    return this
  }
}
