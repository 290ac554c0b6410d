/**
 * MessagePack as keyfold takes and writes it (the public specification at msgpack.org). Requests are walked, not
 * decoded: a walker steps over the top level and says where things lie, so that no object exists per message.
 *
 * Taken: every well-formed length encoding of nil, booleans, unsigned integers, strings (valid UTF-8), byte
 * strings, arrays and maps. Refused, by the name of the field: extension types, floats and negative numbers where
 * nothing needs them, truncation, trailing bytes. Written: the smallest encoding of everything.
 */
import { KeyfoldError } from '../errors.ts'

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const encoder = new TextEncoder()

export type Kind = 'nil' | 'boolean' | 'uint' | 'string' | 'bytes' | 'array' | 'map' | 'other'

export const NIL = 0xc0

/** Steps through MessagePack. After a head was read, `length` is its count or byte length. */
export class Walker {
  readonly bytes: Uint8Array
  readonly end: number
  offset: number

  constructor(bytes: Uint8Array, offset = 0, end = bytes.length) {
    this.bytes = bytes
    this.offset = offset
    this.end = end
  }

  kind(field: string): Kind {
    if (this.offset >= this.end) throw malformed(field, 'truncated')
    const head = this.bytes[this.offset] as number
    if (head <= 0x7f || (head >= 0xcc && head <= 0xcf)) return 'uint'
    if (head <= 0x8f || head === 0xde || head === 0xdf) return 'map'
    if (head <= 0x9f || head === 0xdc || head === 0xdd) return 'array'
    if (head <= 0xbf || (head >= 0xd9 && head <= 0xdb)) return 'string'
    if (head === NIL) return 'nil'
    if (head === 0xc2 || head === 0xc3) return 'boolean'
    if (head >= 0xc4 && head <= 0xc6) return 'bytes'
    return 'other'
  }

  mapHead(field: string): number {
    this.#expect(field, 'map')
    return this.#head(field, 0x80, 0x0f, 0xde)
  }

  arrayHead(field: string): number {
    this.#expect(field, 'array')
    return this.#head(field, 0x90, 0x0f, 0xdc)
  }

  /** Leaves `offset` behind the string and returns where its bytes begin. Does not check UTF-8. */
  stringStart(field: string): number {
    this.#expect(field, 'string')
    const head = this.bytes[this.offset] as number
    const length =
      head <= 0xbf ? (this.offset++, head & 0x1f) : this.#sized(field, 1 << (head - 0xd9))
    return this.#skip(field, length)
  }

  string(field: string): string {
    const start = this.stringStart(field)
    try {
      return decoder.decode(this.bytes.subarray(start, this.offset))
    } catch (cause) {
      throw malformed(field, 'text that is not UTF-8', cause)
    }
  }

  /** The string's bytes, checked to be UTF-8: a view. */
  stringBytes(field: string): Uint8Array {
    const start = this.stringStart(field)
    const view = this.bytes.subarray(start, this.offset)
    if (!isUtf8(view)) throw malformed(field, 'text that is not UTF-8')
    return view
  }

  /** Leaves `offset` behind the byte string and returns where its bytes begin. */
  bytesStart(field: string): number {
    this.#expect(field, 'bytes')
    const head = this.bytes[this.offset] as number
    return this.#skip(field, this.#sized(field, 1 << (head - 0xc4)))
  }

  uint(field: string): number {
    this.#expect(field, 'uint')
    const head = this.bytes[this.offset] as number
    if (head <= 0x7f) {
      this.offset++
      return head
    }
    if (head === 0xcf) {
      this.offset++
      const high = this.#big(field, 4)
      const value = high * 2 ** 32 + this.#big(field, 4)
      if (!Number.isSafeInteger(value)) throw malformed(field, 'a number beyond 2^53')
      return value
    }
    return this.#sized(field, 1 << (head - 0xcc))
  }

  boolean(field: string): boolean {
    this.#expect(field, 'boolean')
    return this.bytes[this.offset++] === 0xc3
  }

  nil(field: string): void {
    this.#expect(field, 'nil')
    this.offset++
  }

  /** Nothing may follow. */
  finish(): void {
    if (this.offset !== this.end) throw malformed('request', 'trailing bytes')
  }

  #expect(field: string, kind: Kind): void {
    const found = this.kind(field)
    if (found !== kind) throw malformed(field, `${NAMES[found]} where ${NAMES[kind]} belongs`)
  }

  /** fix-head with the count in `mask`, else a 16- or 32-bit count after `wide`. */
  #head(field: string, fix: number, mask: number, wide: number): number {
    const head = this.bytes[this.offset] as number
    const count =
      head >= fix && head <= (fix | mask)
        ? (this.offset++, head & mask)
        : this.#sized(field, head === wide ? 2 : 4)
    // Each element has at least one byte: a count beyond that is a lie, told before anything is allocated.
    if (count > this.end - this.offset) throw malformed(field, 'truncated')
    return count
  }

  #sized(field: string, bytes: number): number {
    this.offset++
    return this.#big(field, bytes)
  }

  #big(field: string, bytes: number): number {
    const at = this.#skip(field, bytes)
    let value = 0
    for (let i = 0; i < bytes; i++) value = value * 256 + (this.bytes[at + i] as number)
    return value
  }

  #skip(field: string, length: number): number {
    const at = this.offset
    if (length > this.end - at) throw malformed(field, 'truncated')
    this.offset = at + length
    return at
  }
}

const NAMES: Readonly<Record<Kind, string>> = {
  nil: 'nil',
  boolean: 'a boolean',
  uint: 'an unsigned integer',
  string: 'a string',
  bytes: 'a byte string',
  array: 'an array',
  map: 'a map',
  other: 'a value of another type',
}

export function malformed(field: string, what: string, cause?: unknown): KeyfoldError {
  return new KeyfoldError('REQUEST_MALFORMED', `${field}: ${what}`, cause)
}

function isUtf8(bytes: Uint8Array): boolean {
  let ascii = 0
  for (const byte of bytes) ascii |= byte
  if (ascii < 0x80) return true
  try {
    decoder.decode(bytes)
    return true
  } catch {
    return false
  }
}

/** Small trusted and untrusted values alike, for management requests: maps become Maps, so no key is special. */
export type Value =
  null | boolean | number | string | Uint8Array | readonly Value[] | ReadonlyMap<string, Value>

/** Nesting of management requests: {tags: {key: value}} is 2. A batch of operations in JSON is 3. */
export const DEPTH_MAX = 4

export function decodeValue(bytes: Uint8Array): Value {
  const walker = new Walker(bytes)
  const value = readValue(walker, 'request', 0)
  walker.finish()
  return value
}

export function readValue(walker: Walker, field: string, depth: number): Value {
  if (depth > DEPTH_MAX) throw malformed(field, 'nested too deeply')
  switch (walker.kind(field)) {
    case 'nil':
      walker.nil(field)
      return null
    case 'boolean':
      return walker.boolean(field)
    case 'uint':
      return walker.uint(field)
    case 'string':
      return walker.string(field)
    case 'bytes': {
      const start = walker.bytesStart(field)
      return walker.bytes.subarray(start, walker.offset)
    }
    case 'array': {
      const count = walker.arrayHead(field)
      const values: Value[] = []
      for (let i = 0; i < count; i++) values.push(readValue(walker, `${field}[${i}]`, depth + 1))
      return values
    }
    case 'map': {
      const count = walker.mapHead(field)
      const values = new Map<string, Value>()
      for (let i = 0; i < count; i++) {
        const key = walker.string(field)
        if (values.has(key)) throw malformed(field, `the key ${JSON.stringify(key)} occurs twice`)
        values.set(key, readValue(walker, key, depth + 1))
      }
      return values
    }
    case 'other':
      throw malformed(field, 'a value of a type that is not taken')
  }
}

/** Writes MessagePack into bytes that are known to be large enough. */
export class MsgpackWriter {
  readonly bytes: Uint8Array
  offset: number

  constructor(bytes: Uint8Array, offset = 0) {
    this.bytes = bytes
    this.offset = offset
  }

  mapHead(count: number): this {
    return this.#head(count, 0x80, 0x0f, 0xde)
  }

  arrayHead(count: number): this {
    return this.#head(count, 0x90, 0x0f, 0xdc)
  }

  string(text: string): this {
    const head = text.length < 32 ? 1 : 2
    if (text.length < 0x100 && this.bytes.length - this.offset >= head + text.length) {
      // ASCII, which is every key and ARN of ours: no encoder is started for it.
      const start = this.offset + head
      let ascii = 0
      for (let i = 0; i < text.length; i++) {
        const code = text.charCodeAt(i)
        this.bytes[start + i] = code
        ascii |= code
      }
      if (ascii < 0x80) {
        if (head === 1) this.#u8(0xa0 | text.length)
        else this.#u8(0xd9).#u8(text.length)
        this.offset = start + text.length
        return this
      }
    }
    const utf8 = encoder.encode(text)
    if (utf8.length < 32) this.#u8(0xa0 | utf8.length)
    else if (utf8.length < 0x100) this.#u8(0xd9).#big(utf8.length, 1)
    else if (utf8.length < 0x10000) this.#u8(0xda).#big(utf8.length, 2)
    else this.#u8(0xdb).#big(utf8.length, 4)
    return this.raw(utf8)
  }

  bin(bytes: Uint8Array): this {
    return this.binHead(bytes.length).raw(bytes)
  }

  binHead(length: number): this {
    if (length < 0x100) return this.#u8(0xc4).#big(length, 1)
    if (length < 0x10000) return this.#u8(0xc5).#big(length, 2)
    return this.#u8(0xc6).#big(length, 4)
  }

  uint(value: number): this {
    if (value < 0x80) return this.#u8(value)
    if (value < 0x100) return this.#u8(0xcc).#big(value, 1)
    if (value < 0x10000) return this.#u8(0xcd).#big(value, 2)
    if (value < 2 ** 32) return this.#u8(0xce).#big(value, 4)
    return this.#u8(0xcf)
      .#big(Math.floor(value / 2 ** 32), 4)
      .#big(value % 2 ** 32, 4)
  }

  boolean(value: boolean): this {
    return this.#u8(value ? 0xc3 : 0xc2)
  }

  nil(): this {
    return this.#u8(NIL)
  }

  /** A whole value of management or of a small answer. */
  plain(value: PlainValue): this {
    if (value === null) return this.nil()
    if (typeof value === 'boolean') return this.boolean(value)
    if (typeof value === 'number') {
      // Other numbers would be written as some integer, and nobody would know.
      if (Number.isSafeInteger(value) && value >= 0) return this.uint(value)
      throw new KeyfoldError('REQUEST_MALFORMED', 'numbers are whole and not negative')
    }
    if (typeof value === 'string') return this.string(value)
    if (value instanceof Uint8Array) return this.bin(value)
    if (isList(value)) {
      this.arrayHead(value.length)
      for (const element of value) this.plain(element)
      return this
    }
    const entries = Object.entries(value).filter(([, element]) => element !== undefined)
    this.mapHead(entries.length)
    for (const [key, element] of entries) this.string(key).plain(element as PlainValue)
    return this
  }

  /** Bytes that are MessagePack already. */
  raw(bytes: Uint8Array): this {
    this.bytes.set(bytes, this.offset)
    this.offset += bytes.length
    return this
  }

  written(): Uint8Array {
    return this.bytes.subarray(0, this.offset)
  }

  #head(count: number, fix: number, fixMax: number, wide: number): this {
    if (count <= fixMax) return this.#u8(fix | count)
    if (count < 0x10000) return this.#u8(wide).#big(count, 2)
    return this.#u8(wide + 1).#big(count, 4)
  }

  #u8(value: number): this {
    this.bytes[this.offset++] = value
    return this
  }

  #big(value: number, bytes: number): this {
    for (let shift = bytes - 1; shift >= 0; shift--) {
      this.bytes[this.offset++] = Math.floor(value / 2 ** (8 * shift)) & 0xff
    }
    return this
  }
}

/** Bytes of the head of an array of `count`. */
export function arrayHeadBytes(count: number): number {
  return count <= 0x0f ? 1 : count < 0x10000 ? 3 : 5
}

/** Bytes of the head of a byte string of `length`. */
export function binHeadBytes(length: number): number {
  return length < 0x100 ? 2 : length < 0x10000 ? 3 : 5
}

/** What is written from plain objects: small answers and management requests. Undefined fields are left out. */
export type PlainValue =
  | null
  | boolean
  | number
  | string
  | Uint8Array
  | readonly PlainValue[]
  | { readonly [key: string]: PlainValue | undefined }

/** An upper bound on what `plain` writes. */
export function plainBytesMax(value: PlainValue): number {
  if (value === null || typeof value === 'boolean') return 1
  if (typeof value === 'number') return 9
  if (typeof value === 'string') return 5 + 3 * value.length
  if (value instanceof Uint8Array) return 5 + value.length
  if (isList(value)) return value.reduce<number>((sum, element) => sum + plainBytesMax(element), 5)
  return Object.entries(value).reduce(
    (sum, [key, element]) =>
      element === undefined ? sum : sum + plainBytesMax(key) + plainBytesMax(element),
    5,
  )
}

/** Array.isArray does not narrow readonly arrays. */
function isList(value: PlainValue): value is readonly PlainValue[] {
  return Array.isArray(value)
}
