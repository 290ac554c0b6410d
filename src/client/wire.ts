/**
 * Requests and answers of the batch API as the client writes and reads them: one buffer out, views of one buffer in,
 * no object a message beyond the caller's own.
 */
import { KeyfoldError, type MessageErrorCode } from '../errors.ts'
import { malformed, MsgpackWriter, readValue, Walker } from '../format/msgpack.ts'

export type EncryptionContext = Readonly<Record<string, string>>

export type RequestValue = string | number | boolean | Uint8Array | EncryptionContext | Messages

/** A list of byte strings. */
export type Messages = readonly Uint8Array[]

/**
 * One map of the given fields; undefined ones are left out, and the longest list comes last. TypeError where a caller
 * in JavaScript gives another type: TypedArray.set would write text as zeros and say nothing.
 */
export function encodeRequest(
  fields: Readonly<Record<string, RequestValue | undefined>>,
): Uint8Array {
  const present = Object.entries(fields).filter(
    (field): field is [string, RequestValue] => field[1] !== undefined,
  )
  const bytes = present.reduce((sum, [name, value]) => sum + name.length + 6 + bytesOf(value), 5)
  const writer = new MsgpackWriter(Buffer.allocUnsafe(bytes)).mapHead(present.length)
  for (const [name, value] of present) {
    writer.string(name)
    writeValue(writer, value)
  }
  return writer.written()
}

function bytesOf(value: RequestValue): number {
  if (typeof value === 'string') return 5 + 3 * value.length
  if (typeof value === 'number') {
    if (!Number.isSafeInteger(value) || value < 0) {
      throw new KeyfoldError('REQUEST_MALFORMED', 'a whole number is needed')
    }
    return 9
  }
  if (typeof value === 'boolean') return 1
  if (value instanceof Uint8Array) return 5 + value.length
  if (isMessages(value)) {
    return value.reduce((sum, message) => sum + 5 + checkedMessage(message).length, 5)
  }
  return Object.entries(value).reduce((sum, [key, text]) => {
    checkContextText(key)
    checkContextText(text)
    return sum + 10 + 3 * (key.length + text.length)
  }, 5)
}

function writeValue(writer: MsgpackWriter, value: RequestValue): void {
  if (typeof value === 'string') writer.string(value)
  else if (typeof value === 'number') writer.uint(value)
  else if (typeof value === 'boolean') writer.boolean(value)
  else if (value instanceof Uint8Array) writer.bin(value)
  else if (isMessages(value)) {
    writer.arrayHead(value.length)
    for (const message of value) writer.bin(message)
  } else {
    const entries = Object.entries(value)
    writer.mapHead(entries.length)
    for (const [key, text] of entries) writer.string(key).string(text)
  }
}

/** Where a stream goes, and all that is said of it. Errors: CONTEXT_INVALID. */
export function streamPath(
  op: 'encrypt' | 'decrypt',
  fields: Readonly<Record<string, string | number | undefined>>,
  context: EncryptionContext = {},
): string {
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined) query.append(name, String(value))
  }
  for (const [name, text] of Object.entries(context)) {
    checkContextText(name)
    checkContextText(text)
    query.append(`context.${name}`, text)
  }
  return `/v1/streams/${op}?${query.toString()}`
}

/** A message of the caller's, or TypeError. */
export function checkedMessage(message: Uint8Array): Uint8Array {
  if (message instanceof Uint8Array) return message
  throw new TypeError('a message is a Uint8Array')
}

function checkContextText(text: string): void {
  if (typeof text !== 'string') throw new TypeError('an encryption context holds text only')
  // TextEncoder would turn a lone surrogate into U+FFFD, and two contexts into one.
  if (/\p{Surrogate}/u.test(text)) {
    throw new KeyfoldError('CONTEXT_INVALID', 'text has a lone surrogate')
  }
}

function isMessages(value: Messages | EncryptionContext): value is Messages {
  return Array.isArray(value)
}

/** What any answer of the batch API may hold. */
export interface BatchAnswer {
  keyId?: string
  ciphertexts?: (Uint8Array | undefined)[]
  plaintexts?: (Uint8Array | undefined)[]
  packed?: Uint8Array
  keyEntry?: Uint8Array
  keyEntries?: Uint8Array[]
  errors?: (readonly [number, MessageErrorCode])[]
  dataKeys?: { wrappedKey: Uint8Array; plaintext?: Uint8Array }[]
  messageKeys?: (ReleasedMessageKey | undefined)[]
}

/** For in-process mode. `messageKey` is a view of the answer: whoever takes it over fills it with zeros. */
export interface ReleasedMessageKey {
  readonly keyId: string
  readonly keyEntry: Uint8Array
  readonly messageKey: Uint8Array
}

/** Views of `bytes`; throws CONNECTION_FAILED where it is no answer of ours. */
export function decodeAnswer(bytes: Uint8Array): BatchAnswer {
  try {
    const walker = new Walker(bytes)
    const answer: BatchAnswer = {}
    for (let left = walker.mapHead('answer'); left > 0; left--) readField(walker, answer)
    walker.finish()
    return answer
  } catch (cause) {
    throw new KeyfoldError('CONNECTION_FAILED', 'the answer is not one of keyfold', cause)
  }
}

function readField(walker: Walker, answer: BatchAnswer): void {
  const name = walker.string('answer')
  switch (name) {
    case 'keyId':
      answer.keyId = walker.string(name)
      return
    case 'ciphertexts':
    case 'plaintexts':
      answer[name] = readMessages(walker, name, walker.arrayHead(name))
      return
    case 'packed':
    case 'keyEntry':
      answer[name] = readBytes(walker, name)
      return
    case 'keyEntries':
      answer.keyEntries = Array.from({ length: walker.arrayHead(name) }, () =>
        readBytes(walker, name),
      )
      return
    case 'errors':
      answer.errors = Array.from({ length: walker.arrayHead(name) }, () => {
        if (walker.arrayHead(name) !== 2) throw malformed(name, 'pairs are needed')
        return [walker.uint(name), walker.string(name) as MessageErrorCode] as const
      })
      return
    case 'dataKeys':
      answer.dataKeys = Array.from({ length: walker.arrayHead(name) }, () => readDataKey(walker))
      return
    case 'messageKeys':
      answer.messageKeys = Array.from({ length: walker.arrayHead(name) }, () => {
        if (walker.kind(name) !== 'nil') return readMessageKey(walker)
        walker.nil(name)
        return undefined
      })
      return
    default:
      // A newer server may say more.
      readValue(walker, name, 0)
  }
}

/** `count` byte strings, undefined where one is nil. */
export function readMessages(
  walker: Walker,
  field: string,
  count: number,
): (Uint8Array | undefined)[] {
  const messages = new Array<Uint8Array | undefined>(count)
  for (let i = 0; i < count; i++) {
    // Assigned, not left out: map() skips the holes of an array, and a failure would be passed over.
    if (walker.kind(field) !== 'nil') messages[i] = readBytes(walker, field)
    else {
      walker.nil(field)
      messages[i] = undefined
    }
  }
  return messages
}

function readBytes(walker: Walker, field: string): Uint8Array {
  const start = walker.bytesStart(field)
  return walker.bytes.subarray(start, walker.offset)
}

function readDataKey(walker: Walker): { wrappedKey: Uint8Array; plaintext?: Uint8Array } {
  const key: { wrappedKey?: Uint8Array; plaintext?: Uint8Array } = {}
  for (let left = walker.mapHead('dataKeys'); left > 0; left--) {
    const name = walker.string('dataKeys')
    if (name !== 'wrappedKey' && name !== 'plaintext') throw malformed(name, 'is not known')
    key[name] = readBytes(walker, name)
  }
  const { wrappedKey } = key
  if (wrappedKey === undefined) throw malformed('wrappedKey', 'is missing')
  return { ...key, wrappedKey }
}

function readMessageKey(walker: Walker): ReleasedMessageKey {
  const key: { keyId?: string; keyEntry?: Uint8Array; messageKey?: Uint8Array } = {}
  for (let left = walker.mapHead('messageKeys'); left > 0; left--) {
    const name = walker.string('messageKeys')
    if (name === 'keyId') key.keyId = walker.string(name)
    else if (name === 'keyEntry' || name === 'messageKey') key[name] = readBytes(walker, name)
    else throw malformed(name, 'is not known')
  }
  const { keyId, keyEntry, messageKey } = key
  if (keyId === undefined || keyEntry === undefined || messageKey === undefined) {
    throw malformed('messageKeys', 'keyId, keyEntry and messageKey are needed')
  }
  return { keyId, keyEntry, messageKey }
}
