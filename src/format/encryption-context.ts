/**
 * The encryption context in canonical bytes: what is bound to every ciphertext and stored in none. Exactly the AWS
 * Encryption SDK's serialisation, so one encoder serves messages, the KMS protocol and files.
 *
 *     (empty context: no bytes at all)
 *     2   count
 *     per entry, ascending by the UTF-8 bytes of the key (unsigned, never by UTF-16 or locale):
 *     2     key bytes      …  key
 *     2     value bytes    …  value
 *
 * No Unicode normalisation. Refused: lone surrogates, invalid UTF-8, duplicate keys, more than CONTEXT_BYTES_MAX.
 */
import { KeyfoldError } from '../errors.ts'
import { CONTEXT_BYTES_MAX } from '../limits.ts'
import { Reader, Writer } from './bytes.ts'

const encoder = new TextEncoder()
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const EMPTY = new Uint8Array(0)

/** One entry as UTF-8 bytes that are known to be valid. */
export interface ContextEntry {
  readonly key: Uint8Array
  readonly value: Uint8Array
}

/** From strings: the client library, JSON, and the AWS protocol. */
export function encodeEncryptionContext(context: Iterable<readonly [string, string]>): Uint8Array {
  const entries: ContextEntry[] = []
  for (const [key, value] of context) {
    entries.push({ key: encodeText(key), value: encodeText(value) })
  }
  return encodeContextEntries(entries)
}

/** From bytes: the request walker, which has checked that they are UTF-8. Sorts `entries` in place. */
export function encodeContextEntries(entries: ContextEntry[]): Uint8Array {
  if (entries.length === 0) return EMPTY
  let bytes = 2
  for (const { key, value } of entries) bytes += 4 + key.length + value.length
  checkContextBytes(bytes)
  entries.sort((a, b) => Buffer.compare(a.key, b.key))
  const writer = new Writer(new Uint8Array(bytes)).u16(entries.length)
  let previous: Uint8Array | undefined
  for (const { key, value } of entries) {
    if (previous !== undefined && Buffer.compare(previous, key) === 0) {
      throw new KeyfoldError('CONTEXT_INVALID', 'a key occurs twice')
    }
    previous = key
    writer.u16(key.length).put(key).u16(value.length).put(value)
  }
  return writer.bytes
}

export function decodeEncryptionContext(bytes: Uint8Array): readonly (readonly [string, string])[] {
  return decodeEntries(bytes, true)
}

/** As it stands in files of others, some of which sort by locale; duplicates are refused all the same. */
export function decodeUnsortedContext(bytes: Uint8Array): readonly (readonly [string, string])[] {
  return decodeEntries(bytes, false)
}

function decodeEntries(bytes: Uint8Array, sorted: boolean): readonly (readonly [string, string])[] {
  if (bytes.length === 0) return []
  checkContextBytes(bytes.length)
  const reader = new Reader(bytes, 'CONTEXT_INVALID')
  const count = reader.u16()
  if (count === 0) throw reader.malformed('an empty context has no bytes')
  const entries: [string, string][] = []
  let previous: Uint8Array | undefined
  for (let i = 0; i < count; i++) {
    const key = reader.take(reader.u16())
    if (sorted && previous !== undefined && Buffer.compare(previous, key) >= 0) {
      throw reader.malformed('keys are not in ascending order')
    }
    previous = key
    entries.push([decodeText(key), decodeText(reader.take(reader.u16()))])
  }
  reader.end()
  if (!sorted && new Set(entries.map(([key]) => key)).size !== count) {
    throw reader.malformed('a key occurs twice')
  }
  return entries
}

function checkContextBytes(bytes: number): void {
  if (bytes <= CONTEXT_BYTES_MAX) return
  const detail = `${bytes} bytes, more than the ${CONTEXT_BYTES_MAX} allowed`
  throw new KeyfoldError('CONTEXT_INVALID', detail)
}

function encodeText(text: string): Uint8Array {
  // TextEncoder would turn a lone surrogate into U+FFFD, and two contexts into one.
  if (/\p{Surrogate}/u.test(text))
    throw new KeyfoldError('CONTEXT_INVALID', 'text has a lone surrogate')
  return encoder.encode(text)
}

function decodeText(bytes: Uint8Array): string {
  try {
    return decoder.decode(bytes)
  } catch (cause) {
    throw new KeyfoldError('CONTEXT_INVALID', 'text is not UTF-8', cause)
  }
}
