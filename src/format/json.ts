/**
 * JSON for people and for what cannot speak MessagePack: the same requests and answers, byte strings as base64. A
 * JSON request becomes the MessagePack request that it stands for, so that every route has one decoder; an answer is
 * turned back. JSON.parse keeps the last of duplicate keys: JSON has no better answer to them.
 */
import { DEPTH_MAX, malformed, MsgpackWriter, readValue, Walker, type Value } from './msgpack.ts'

/** Fields that hold one byte string, or a list of them. */
const BYTES_FIELDS: ReadonlySet<string> = new Set(['packed', 'keyEntry', 'wrappedKey'])
const BYTES_LIST_FIELDS: ReadonlySet<string> = new Set(['plaintexts', 'ciphertexts', 'keyEntries'])
/** Fields whose keys are the caller's own: what stands there is text, whatever it is called. */
const TEXT_FIELDS: ReadonlySet<string> = new Set(['context', 'newContext', 'tags'])

/** Throws REQUEST_MALFORMED. */
export function jsonToMsgpack(json: Uint8Array): Uint8Array {
  let parsed: unknown
  try {
    parsed = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(json))
  } catch (cause) {
    throw malformed('request', 'not JSON', cause)
  }
  // UTF-8 is at most three bytes a UTF-16 unit, and a head at most five: nothing outgrows this.
  const writer = new MsgpackWriter(new Uint8Array(5 * json.length + 16))
  write(writer, parsed, 'request', 0)
  return writer.written()
}

function write(writer: MsgpackWriter, value: unknown, field: string, depth: number): void {
  if (depth > DEPTH_MAX) throw malformed(field, 'nested too deeply')
  if (value === null) writer.nil()
  else if (typeof value === 'boolean') writer.boolean(value)
  else if (typeof value === 'number') writeNumber(writer, value, field)
  else if (typeof value === 'string') writeText(writer, value, field)
  else if (Array.isArray(value)) {
    writer.arrayHead(value.length)
    for (const [i, element] of value.entries()) write(writer, element, `${field}[${i}]`, depth + 1)
  } else {
    const entries = Object.entries(value as object)
    const isText = TEXT_FIELDS.has(field)
    writer.mapHead(entries.length)
    for (const [key, element] of entries) {
      writeText(writer, key, field)
      if (isText) write(writer, element, field, depth + 1)
      else writeField(writer, key, element, depth + 1)
    }
  }
}

function writeField(writer: MsgpackWriter, key: string, value: unknown, depth: number): void {
  if (BYTES_FIELDS.has(key) && typeof value === 'string') {
    writer.bin(decodeBase64(value, key))
  } else if (BYTES_LIST_FIELDS.has(key) && Array.isArray(value)) {
    writer.arrayHead(value.length)
    for (const [i, element] of value.entries()) {
      if (typeof element !== 'string') throw malformed(`${key}[${i}]`, 'base64 is needed')
      writer.bin(decodeBase64(element, `${key}[${i}]`))
    }
  } else {
    write(writer, value, key, depth)
  }
}

function writeNumber(writer: MsgpackWriter, value: number, field: string): void {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw malformed(field, 'a whole number, not below zero, is needed')
  }
  writer.uint(value)
}

function writeText(writer: MsgpackWriter, value: string, field: string): void {
  if (/\p{Surrogate}/u.test(value)) throw malformed(field, 'text has a lone surrogate')
  writer.string(value)
}

/** RFC 4648 §4 with padding, and only the one spelling of each value. */
function decodeBase64(text: string, field: string): Uint8Array {
  const bytes = Buffer.from(text, 'base64')
  if (bytes.toString('base64') !== text) throw malformed(field, 'not base64 with padding')
  return bytes
}

export function msgpackToJson(bytes: Uint8Array): string {
  return JSON.stringify(plain(readValue(new Walker(bytes), 'answer', 0)))
}

function plain(value: Value): unknown {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('base64')
  if (value instanceof Map) {
    return Object.fromEntries([...value].map(([key, element]) => [key, plain(element as Value)]))
  }
  return Array.isArray(value) ? value.map(plain) : value
}
