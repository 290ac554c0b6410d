/**
 * The requests of the batch API as they lie in a body: one MessagePack map of known string keys in any order. What
 * comes out says where the messages are and holds the small fields decoded; no message is looked at. The elements
 * of a message array are checked where they are used, by the planner of the batch.
 *
 * Errors: REQUEST_MALFORMED (names the field), LIMIT_EXCEEDED, CONTEXT_INVALID, KEY_ENTRIES_INVALID.
 */
import { KeyfoldError } from '../errors.ts'
import {
  BATCH_MESSAGES_MAX,
  DATA_KEYS_PER_REQUEST_MAX,
  KEY_ENTRIES_MAX,
  MESSAGE_KEYS_PER_REQUEST_MAX,
  OPERATIONS_MAX,
} from '../limits.ts'
import { encodeContextEntries, type ContextEntry } from './encryption-context.ts'
import { DATA_KEY_ID_BYTES, decodeKeyEntry } from './key-entry.ts'
import type { MessageSuite } from './message.ts'
import { malformed, Walker } from './msgpack.ts'

/** A stretch of the request's bytes. */
export interface ByteSpan {
  readonly offset: number
  readonly end: number
}

/** `count` elements of an array, without its head. */
export interface ElementSpan extends ByteSpan {
  readonly count: number
}

export const FORMS = ['inline', 'packed', 'detached'] as const
export const MODES = ['rewrap', 'fresh'] as const
export const OPERATIONS = ['encrypt', 'decrypt', 're-encrypt', 'data-keys', 'message-keys'] as const

export type OperationName = (typeof OPERATIONS)[number]

export interface EncryptFields {
  readonly key: string
  /** Canonical. */
  readonly context: Uint8Array
  readonly form: (typeof FORMS)[number]
  readonly suite: MessageSuite
  readonly plaintexts: ElementSpan
  /**
   * Where the head of the plaintexts array begins, if it is the last thing of the request; else undefined. The
   * bytes before it decide everything about a request but its messages: they can be remembered.
   */
  readonly headEnd: number | undefined
}

export interface DecryptFields {
  readonly context: Uint8Array
  readonly ciphertexts: ElementSpan | undefined
  readonly packed: ByteSpan | undefined
  readonly keyEntries: readonly ByteSpan[]
  /** As in EncryptFields, of the ciphertexts. */
  readonly headEnd: number | undefined
}

export interface ReEncryptFields extends DecryptFields {
  readonly key: string
  readonly mode: (typeof MODES)[number]
  readonly newContext: Uint8Array | undefined
  readonly suite: MessageSuite
}

export interface DataKeysFields {
  readonly key: string
  readonly context: Uint8Array
  readonly count: number
  readonly plaintext: boolean
}

/** New message keys, or those of key entries. */
export type MessageKeysFields = { readonly context: Uint8Array } & (
  | {
      readonly key: string
      /** 0 asks whether there would be any, and gives none. */
      readonly count: number
      readonly keyEntries: undefined
    }
  | { readonly key: undefined; readonly count: undefined; readonly keyEntries: readonly ByteSpan[] }
)

export interface OperationSpan extends ByteSpan {
  readonly op: OperationName
}

/** Everything that any request has, before it is known which are due. */
interface Fields {
  op?: string
  key?: string
  context?: Uint8Array
  newContext?: Uint8Array
  form?: string
  mode?: string
  suite?: number
  count?: number
  plaintext?: boolean
  plaintexts?: ElementSpan
  ciphertexts?: ElementSpan
  packed?: ByteSpan
  keyEntries?: readonly ByteSpan[]
  headEnd?: number
}

type FieldName = Exclude<keyof Fields, 'headEnd'>

/** A request has few keys; more are a mistake or an attack. */
const KEYS_MAX = 16

const ENCRYPT: readonly FieldName[] = ['op', 'key', 'context', 'plaintexts', 'form', 'suite']
const DECRYPT: readonly FieldName[] = ['op', 'context', 'ciphertexts', 'packed', 'keyEntries']
const RE_ENCRYPT: readonly FieldName[] = [
  'op',
  'key',
  'mode',
  'context',
  'newContext',
  'suite',
  'ciphertexts',
  'packed',
  'keyEntries',
]
const DATA_KEYS: readonly FieldName[] = ['op', 'key', 'context', 'count', 'plaintext']
const MESSAGE_KEYS: readonly FieldName[] = ['op', 'key', 'context', 'count', 'keyEntries']

const EMPTY = new Uint8Array(0)

export function decodeEncryptRequest(
  bytes: Uint8Array,
  offset = 0,
  end = bytes.length,
): EncryptFields {
  const fields = walkFields(bytes, offset, end, ENCRYPT)
  return {
    key: required(fields.key, 'key'),
    context: fields.context ?? EMPTY,
    form: oneOf(fields.form ?? 'inline', FORMS, 'form'),
    suite: suiteOf(fields.suite),
    plaintexts: required(fields.plaintexts, 'plaintexts'),
    headEnd: fields.headEnd,
  }
}

export function decodeDecryptRequest(
  bytes: Uint8Array,
  offset = 0,
  end = bytes.length,
): DecryptFields {
  return ciphertextsOf(walkFields(bytes, offset, end, DECRYPT))
}

export function decodeReEncryptRequest(
  bytes: Uint8Array,
  offset = 0,
  end = bytes.length,
): ReEncryptFields {
  const fields = walkFields(bytes, offset, end, RE_ENCRYPT)
  const mode = oneOf(required(fields.mode, 'mode'), MODES, 'mode')
  if (mode === 'rewrap' && fields.newContext !== undefined) {
    throw malformed('newContext', 'goes with mode "fresh" only: a re-wrap keeps the context')
  }
  if (mode === 'rewrap' && fields.suite !== undefined) {
    throw malformed('suite', 'goes with mode "fresh" only: a re-wrap keeps the suite')
  }
  return {
    ...ciphertextsOf(fields),
    key: required(fields.key, 'key'),
    mode,
    newContext: fields.newContext,
    suite: suiteOf(fields.suite),
  }
}

export function decodeDataKeysRequest(
  bytes: Uint8Array,
  offset = 0,
  end = bytes.length,
): DataKeysFields {
  const fields = walkFields(bytes, offset, end, DATA_KEYS)
  const count = required(fields.count, 'count')
  if (count < 1 || count > DATA_KEYS_PER_REQUEST_MAX) {
    throw new KeyfoldError('LIMIT_EXCEEDED', `count: 1 to ${DATA_KEYS_PER_REQUEST_MAX}`)
  }
  return {
    key: required(fields.key, 'key'),
    context: fields.context ?? EMPTY,
    count,
    plaintext: required(fields.plaintext, 'plaintext'),
  }
}

export function decodeMessageKeysRequest(
  bytes: Uint8Array,
  offset = 0,
  end = bytes.length,
): MessageKeysFields {
  const fields = walkFields(bytes, offset, end, MESSAGE_KEYS)
  const { context = EMPTY, key, count, keyEntries } = fields
  if (keyEntries !== undefined) {
    if (key !== undefined || count !== undefined) {
      throw malformed('keyEntries', 'say which keys they need: key and count do not go with them')
    }
    if (keyEntries.length === 0) throw malformed('keyEntries', 'at least one is needed')
    return { context, key, count, keyEntries }
  }
  const wanted = required(count, 'count')
  if (wanted > MESSAGE_KEYS_PER_REQUEST_MAX) {
    throw new KeyfoldError('LIMIT_EXCEEDED', `count: 0 to ${MESSAGE_KEYS_PER_REQUEST_MAX}`)
  }
  return { context, key: required(key, 'key'), count: wanted, keyEntries }
}

/** The operations of POST /v1/batch: where each map lies and what it asks for. */
export function decodeBatchRequest(bytes: Uint8Array): readonly OperationSpan[] {
  const walker = new Walker(bytes)
  const count = walker.arrayHead('batch')
  if (count > OPERATIONS_MAX) {
    throw new KeyfoldError('LIMIT_EXCEEDED', `batch: at most ${OPERATIONS_MAX} operations`)
  }
  const operations: OperationSpan[] = []
  for (let i = 0; i < count; i++) {
    const offset = walker.offset
    const op = walkOperation(walker, `batch[${i}]`)
    operations.push({ op, offset, end: walker.offset })
  }
  walker.finish()
  return operations
}

function ciphertextsOf(fields: Fields): DecryptFields {
  const { ciphertexts, packed, keyEntries = [] } = fields
  if ((ciphertexts === undefined) === (packed === undefined)) {
    throw malformed('ciphertexts', 'exactly one of ciphertexts and packed is needed')
  }
  if (packed !== undefined && keyEntries.length > 0) {
    throw malformed('keyEntries', 'a packed batch brings its own')
  }
  return {
    context: fields.context ?? EMPTY,
    ciphertexts,
    packed,
    keyEntries,
    headEnd: fields.headEnd,
  }
}

function required<T>(value: T | undefined, field: FieldName): T {
  if (value === undefined) throw malformed(field, 'is missing')
  return value
}

function oneOf<T extends string>(value: string, allowed: readonly T[], field: FieldName): T {
  const found = allowed.find((candidate) => candidate === value)
  if (found === undefined) throw malformed(field, `one of ${allowed.join(', ')} is needed`)
  return found
}

function suiteOf(suite: number | undefined): MessageSuite {
  if (suite === undefined || suite === 1) return 1
  if (suite === 2) return 2
  throw malformed('suite', 'one of 1, 2 is needed')
}

/** Reads the map at `offset`, which must end exactly at `end`. */
function walkFields(
  bytes: Uint8Array,
  offset: number,
  end: number,
  known: readonly FieldName[],
): Fields {
  const walker = new Walker(bytes, offset, end)
  const fields: Fields = {}
  const count = keyCount(walker, 'request')
  for (let i = 0; i < count; i++) {
    const field = fieldName(walker, known)
    if (fields[field] !== undefined) throw malformed(field, 'occurs twice')
    readField(walker, fields, field, i === count - 1)
  }
  walker.finish()
  return fields
}

function keyCount(walker: Walker, field: string): number {
  const count = walker.mapHead(field)
  if (count > KEYS_MAX) throw malformed(field, `more than ${KEYS_MAX} keys`)
  return count
}

function fieldName(walker: Walker, known: readonly FieldName[]): FieldName {
  const start = walker.stringStart('request')
  const length = walker.offset - start
  for (const name of known) {
    if (name.length !== length) continue
    let i = 0
    while (i < length && walker.bytes[start + i] === name.charCodeAt(i)) i++
    if (i === length) return name
  }
  walker.offset = start
  const shown = Buffer.from(walker.bytes.subarray(start, start + Math.min(length, 64)))
  throw malformed(
    'request',
    `the key ${JSON.stringify(shown.toString('latin1'))} is not known here`,
  )
}

function readField(walker: Walker, fields: Fields, field: FieldName, last: boolean): void {
  switch (field) {
    case 'op':
    case 'key':
    case 'form':
    case 'mode':
      fields[field] = walker.string(field)
      return
    case 'suite':
    case 'count':
      fields[field] = walker.uint(field)
      return
    case 'plaintext':
      fields.plaintext = walker.boolean(field)
      return
    case 'context':
    case 'newContext':
      fields[field] = readContext(walker, field)
      return
    case 'plaintexts':
      if (last) fields.headEnd = walker.offset
      fields.plaintexts = readMessages(walker, field, last)
      return
    case 'ciphertexts':
      if (last) fields.headEnd = walker.offset
      fields.ciphertexts = readMessages(walker, field, last)
      return
    case 'packed': {
      const offset = walker.bytesStart(field)
      fields.packed = { offset, end: walker.offset }
      return
    }
    case 'keyEntries':
      fields.keyEntries = readKeyEntries(walker)
      return
  }
}

function readContext(walker: Walker, field: FieldName): Uint8Array {
  const count = walker.mapHead(field)
  const entries: ContextEntry[] = []
  for (let i = 0; i < count; i++) {
    entries.push({ key: walker.stringBytes(field), value: walker.stringBytes(field) })
  }
  return encodeContextEntries(entries)
}

/** Steps over an array of byte strings. */
function readMessages(walker: Walker, field: FieldName, last: boolean): ElementSpan {
  if (last) return readLastMessages(walker, field)
  const count = messageCount(walker, field)
  const { offset } = walker
  for (let i = 0; i < count; i++) walker.bytesStart(field)
  return { offset, end: walker.offset, count }
}

/**
 * An array of messages that is the last thing of the request: nothing is stepped over. It must reach to the end
 * exactly, which whoever plans the batch checks with each element.
 */
export function readLastMessages(walker: Walker, field: string): ElementSpan {
  const count = messageCount(walker, field)
  const { offset } = walker
  walker.offset = walker.end
  return { offset, end: walker.end, count }
}

function messageCount(walker: Walker, field: string): number {
  const count = walker.arrayHead(field)
  if (count === 0) throw malformed(field, 'at least one message is needed')
  if (count > BATCH_MESSAGES_MAX) {
    throw new KeyfoldError('LIMIT_EXCEEDED', `${field}: at most ${BATCH_MESSAGES_MAX} messages`)
  }
  return count
}

function readKeyEntries(walker: Walker): readonly ByteSpan[] {
  const count = walker.arrayHead('keyEntries')
  if (count > KEY_ENTRIES_MAX) {
    throw new KeyfoldError('LIMIT_EXCEEDED', `keyEntries: at most ${KEY_ENTRIES_MAX}`)
  }
  const spans: ByteSpan[] = []
  const ids = new Set<string>()
  for (let i = 0; i < count; i++) {
    const offset = walker.bytesStart('keyEntries')
    const { commitment } = decodeKeyEntry(walker.bytes.subarray(offset, walker.offset))
    // A message points to its entry by these bytes: two entries with one id would let the caller choose between keys.
    ids.add(Buffer.from(commitment.subarray(0, DATA_KEY_ID_BYTES)).toString('latin1'))
    spans.push({ offset, end: walker.offset })
  }
  if (ids.size !== count) throw new KeyfoldError('KEY_ENTRIES_INVALID', 'two entries have one id')
  return spans
}

/** Steps over one operation and returns its `op`; the rest is read when it is its turn. */
function walkOperation(walker: Walker, field: string): OperationName {
  const count = keyCount(walker, field)
  let op: OperationName | undefined
  for (let i = 0; i < count; i++) {
    const key = walker.string(field)
    if (key === 'op') op = oneOf(walker.string(`${field}.op`), OPERATIONS, 'op')
    else skipValue(walker, `${field}.${key}`)
  }
  return required(op, 'op')
}

/** Steps over what a field of an operation may be: an array or map of plain values, or a plain value. */
function skipValue(walker: Walker, field: string): void {
  switch (walker.kind(field)) {
    case 'array': {
      const count = walker.arrayHead(field)
      for (let i = 0; i < count; i++) walker.bytesStart(field)
      return
    }
    case 'map': {
      const count = walker.mapHead(field)
      for (let i = 0; i < 2 * count; i++) walker.stringStart(field)
      return
    }
    case 'string':
      walker.stringStart(field)
      return
    case 'bytes':
      walker.bytesStart(field)
      return
    case 'uint':
      walker.uint(field)
      return
    case 'boolean':
      walker.boolean(field)
      return
    case 'nil':
    case 'other':
      throw malformed(field, 'a value of a type that is not taken')
  }
}
