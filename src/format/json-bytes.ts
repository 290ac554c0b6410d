/**
 * A JSON object some of whose members are byte strings in base64, which must not become JavaScript strings, for those
 * cannot be wiped: the XKS proxy protocol carries keys so. Reading finds them among the bytes, decodes them where they
 * lie, and leaves JSON.parse a copy in which they are empty; writing puts them behind what JSON.stringify wrote.
 *
 * Duplicate members: the last counts, as JSON.parse has it. A member that is null is as good as absent.
 */
import { KeyfoldError } from '../errors.ts'
import { base64Bytes, decodeBase64, encodeBase64 } from './base64.ts'

export interface JsonBytes {
  /** Everything that was not asked for as bytes. */
  readonly members: ReadonlyMap<string, unknown>
  /** Those that were asked for and are there. In memory of their own, which whoever asked fills with zeros. */
  readonly bytes: ReadonlyMap<string, Uint8Array>
}

/** Throws REQUEST_MALFORMED. Nothing of the bytes stands in the error. */
export function decodeJsonBytes(json: Uint8Array, names: ReadonlySet<string>): JsonBytes {
  const bytes = new Map<string, Uint8Array>()
  const redacted = Uint8Array.from(json)
  try {
    for (const { name, start, end } of stringMembers(json, names)) {
      bytes.get(name)?.fill(0)
      bytes.set(name, decodeMember(name, json.subarray(start, end)))
      redacted.fill(SPACE, start, end)
    }
    const members = parseObject(redacted)
    for (const name of names) {
      const member = members.get(name) ?? undefined
      // A later member of that name may be no string, and counts.
      if (member === undefined) bytes.delete(name)
      else if (typeof member !== 'string') throw malformed(`${name}: base64 is needed`)
      members.delete(name)
    }
    return { members, bytes }
  } catch (error) {
    for (const secret of bytes.values()) secret.fill(0)
    throw error
  } finally {
    redacted.fill(0)
  }
}

/** In memory of its own, which whoever sends it fills with zeros. Undefined members are left out. */
export function encodeJsonBytes(
  members: Readonly<Record<string, unknown>>,
  bytes: Readonly<Record<string, Uint8Array | undefined>>,
): Uint8Array {
  const head = Buffer.from(JSON.stringify(members).slice(0, -1))
  const there = Object.entries(bytes).flatMap(([name, value]) =>
    value === undefined ? [] : [{ name: Buffer.from(`"${name}":"`), value }],
  )
  const length = there.reduce(
    (sum, { name, value }) => sum + 1 + name.length + base64Bytes(value.length) + 1,
    head.length + 1,
  )
  const json = new Uint8Array(length)
  json.set(head)
  let at = head.length
  for (const { name, value } of there) {
    if (json[at - 1] !== OPEN_BRACE) json[at++] = COMMA
    json.set(name, at)
    at += name.length
    encodeBase64(value, json, at)
    at += base64Bytes(value.length)
    json[at++] = QUOTE
  }
  json[at++] = CLOSE_BRACE
  return json.subarray(0, at)
}

const SPACE = 0x20
const QUOTE = 0x22
const COMMA = 0x2c
const COLON = 0x3a
const BACKSLASH = 0x5c
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d
const OPEN_BRACKET = 0x5b
const CLOSE_BRACKET = 0x5d

interface StringMember {
  readonly name: string
  /** Of what stands between the quotes. */
  readonly start: number
  readonly end: number
}

/**
 * The members of the outermost object that have these names and are strings. Whether the whole is JSON is for JSON.parse
 * to say: this only has to be right where it is.
 */
function* stringMembers(json: Uint8Array, names: ReadonlySet<string>): Generator<StringMember> {
  let at = skipSpace(json, 0)
  if (json[at] !== OPEN_BRACE) throw malformed('a JSON object is needed')
  do {
    at = skipSpace(json, at + 1)
    if (json[at] !== QUOTE) return
    const nameEnd = skipString(json, at)
    const name = parseName(json.subarray(at, nameEnd))
    at = skipSpace(json, nameEnd)
    if (json[at] !== COLON) return
    const start = skipSpace(json, at + 1)
    at = skipValue(json, start)
    if (json[start] === QUOTE && names.has(name)) yield { name, start: start + 1, end: at - 1 }
    at = skipSpace(json, at)
  } while (json[at] === COMMA)
}

function skipSpace(json: Uint8Array, start: number): number {
  let at = start
  while (json[at] === SPACE || json[at] === 0x0a || json[at] === 0x0d || json[at] === 0x09) at++
  return at
}

/** From the opening quote to behind the closing one. */
function skipString(json: Uint8Array, start: number): number {
  for (let at = start + 1; at < json.length; at++) {
    if (json[at] === BACKSLASH) at++
    else if (json[at] === QUOTE) return at + 1
  }
  throw malformed('a string has no end')
}

function skipValue(json: Uint8Array, start: number): number {
  if (json[start] === QUOTE) return skipString(json, start)
  let depth = 0
  for (let at = start; at < json.length; at++) {
    const byte = json[at]
    if (byte === QUOTE) at = skipString(json, at) - 1
    else if (byte === OPEN_BRACE || byte === OPEN_BRACKET) depth++
    else if (byte === CLOSE_BRACE || byte === CLOSE_BRACKET) {
      if (depth === 0) return at
      depth--
    } else if (byte === COMMA && depth === 0) return at
  }
  throw malformed('it has no end')
}

function parseName(quoted: Uint8Array): string {
  try {
    return JSON.parse(Buffer.from(quoted).toString()) as string
  } catch {
    throw malformed('the name of a member is no string')
  }
}

function parseObject(redacted: Uint8Array): Map<string, unknown> {
  try {
    const parsed = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(redacted)) as object
    return new Map(Object.entries(parsed))
  } catch {
    // Without its cause: V8 quotes what it could not read.
    throw malformed('it is no JSON')
  }
}

/** Base64 as JSON may spell it: some writers escape `/` and `=`. */
function decodeMember(name: string, text: Uint8Array): Uint8Array {
  const isPlain = !text.includes(BACKSLASH)
  const digits = isPlain ? text : unescape(text)
  const decoded = digits && decodeBase64(digits)
  if (!isPlain) digits?.fill(0)
  if (decoded === undefined) throw malformed(`${name}: base64 with padding is needed`)
  return decoded
}

function unescape(text: Uint8Array): Uint8Array | undefined {
  const output = new Uint8Array(text.length)
  let length = 0
  for (let at = 0; at < text.length; at++) {
    let byte = text[at] as number
    if (byte === BACKSLASH) {
      byte = text[++at] as number
      if (byte === 0x75) {
        const code = hexValue(text.subarray(at + 1, at + 5))
        if (code === undefined) return undefined
        byte = code
        at += 4
      } else if (byte !== 0x2f) return undefined
    }
    output[length++] = byte
  }
  const unescaped = output.slice(0, length)
  output.fill(0)
  return unescaped
}

/** Of four hex digits, where it is an ASCII character. */
function hexValue(digits: Uint8Array): number | undefined {
  let value = 0
  for (const digit of digits) {
    const index = HEX_DIGITS.indexOf(digit)
    if (index < 0) return undefined
    value = (value << 4) | (index < 16 ? index : index - 6)
  }
  return digits.length === 4 && value < 0x80 ? value : undefined
}

const HEX_DIGITS = Buffer.from('0123456789abcdefABCDEF')

function malformed(detail: string): KeyfoldError {
  return new KeyfoldError('REQUEST_MALFORMED', detail)
}
