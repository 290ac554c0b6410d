/**
 * Ciphertexts of the AWS protocol among the messages of a batch: each was wrapped by the key store on its own, so each
 * is a call to it. They are rare here, and opened one by one after the batch; a batch without any pays nothing.
 */
import { ElementCursor } from '../crypto/elements.ts'
import { KeyfoldError, type MessageErrorCode } from '../errors.ts'
import { MsgpackWriter } from '../format/msgpack.ts'
import {
  decodeWrappedKey,
  encodeWrappedKeyAad,
  USAGE_CALLER,
  WRAPPED_KEY_VERSION,
} from '../format/wrapped-key.ts'
import { assertWrappedBy } from '../key-stores/wrapping.ts'
import type { CanonicalContext } from '../data-keys/lease.ts'
import { assertUsable } from '../kms/kms-key.ts'
import { KEY_ENTRIES_MAX } from '../limits.ts'
import {
  HEAD_ROOM_BYTES,
  TAIL_ROOM_BYTES,
  type BatchResult,
  type Elements,
  type KeyInUse,
} from './batch.ts'
import { authorizedKeyById, refusalOf, type OpenBatchRequest } from './open.ts'
import { assertStillUsable, storeForCall, type EnvelopeParts, type MaybePromise } from './parts.ts'

/** Takes the result over, and answers one in which they are opened too. */
export function openWrappedAmong(
  parts: EnvelopeParts,
  request: OpenBatchRequest,
  ciphertexts: Elements,
  result: BatchResult,
): MaybePromise<BatchResult> {
  const malformed = result.errors.filter(([, code]) => code === 'MESSAGE_MALFORMED')
  if (malformed.length === 0) return result
  const indexes = new Set(malformed.map(([index]) => index))
  const wrapped = wrappedAmong(request.body.bytes, ciphertexts, indexes)
  return wrapped.size === 0 ? result : openEach(parts, request, ciphertexts, result, wrapped)
}

/** Copies of the messages at these places that are wrapped keys, by place. */
function wrappedAmong(
  bytes: Uint8Array,
  { offset, end, count }: Elements,
  indexes: ReadonlySet<number>,
): ReadonlyMap<number, Uint8Array> {
  const wrapped = new Map<number, Uint8Array>()
  const cursor = new ElementCursor(bytes, offset, end, false)
  for (let i = 0; i < count; i++) {
    cursor.next()
    if (!indexes.has(i) || bytes[cursor.start] !== WRAPPED_KEY_VERSION) continue
    wrapped.set(i, bytes.slice(cursor.start, cursor.offset))
  }
  return wrapped
}

async function openEach(
  parts: EnvelopeParts,
  request: OpenBatchRequest,
  ciphertexts: Elements,
  result: BatchResult,
  wrapped: ReadonlyMap<number, Uint8Array>,
): Promise<BatchResult> {
  const opened = new Map<number, Uint8Array>()
  try {
    if (wrapped.size > KEY_ENTRIES_MAX) {
      throw new KeyfoldError('LIMIT_EXCEEDED', `at most ${KEY_ENTRIES_MAX} ciphertexts of AWS's`)
    }
    const codes = new Map<number, MessageErrorCode>()
    await Promise.all(
      [...wrapped].map(async ([index, ciphertext]) => {
        try {
          opened.set(index, await openOne(parts, request, ciphertext))
        } catch (error) {
          codes.set(index, refusalOf(error))
        }
      }),
    )
    const errors = result.errors
      .filter(([index]) => !opened.has(index))
      .map(([index, code]) => [index, codes.get(index) ?? code] as const)
    return { ...splice(parts, result, ciphertexts.count, opened), errors }
  } finally {
    for (const plaintext of opened.values()) plaintext.fill(0)
    result.slot.release()
  }
}

async function openOne(
  parts: EnvelopeParts,
  request: OpenBatchRequest,
  ciphertext: Uint8Array,
): Promise<Uint8Array> {
  const kmsKey = await authorizedKeyById(parts, request, decodeWrappedKey(ciphertext).kmsKeyId)
  assertUsable(kmsKey)
  const use = { kmsKey, principalArn: request.principal.arn }
  return unwrapCallerBytes(parts, use, request.context, ciphertext)
}

/** The caller's bytes in a wrapped key of usage 02. Throws DECRYPT_FAILED, also of every other usage. */
export async function unwrapCallerBytes(
  parts: EnvelopeParts,
  { kmsKey, principalArn }: KeyInUse,
  context: CanonicalContext,
  ciphertext: Uint8Array,
): Promise<Uint8Array> {
  const { storePart, ...header } = decodeWrappedKey(ciphertext)
  const material = kmsKey.materials.get(header.materialVersion)
  const isCallers = header.usage === USAGE_CALLER
  if (!isCallers || material === undefined) throw new KeyfoldError('DECRYPT_FAILED')
  assertWrappedBy(parts.keyStoreOf(kmsKey), header)
  const { store, turn } = storeForCall(parts, kmsKey, principalArn)
  const aad = encodeWrappedKeyAad(header, context.hash)
  const plaintext = await store.unwrapBytes(material, aad, storePart, turn)
  try {
    assertStillUsable(parts, kmsKey)
  } catch (error) {
    plaintext.fill(0)
    throw error
  }
  return plaintext
}

/** The result with plaintexts in the places of nils. */
function splice(
  { slots }: EnvelopeParts,
  result: BatchResult,
  count: number,
  opened: ReadonlyMap<number, Uint8Array>,
): BatchResult {
  const openedBytes = [...opened.values()].reduce((sum, { length }) => sum + length + 5, 0)
  const bytes = result.end - result.offset + openedBytes
  const slot = slots.acquire(HEAD_ROOM_BYTES + bytes + TAIL_ROOM_BYTES)
  const writer = new MsgpackWriter(slot.bytes, HEAD_ROOM_BYTES)
  const cursor = new ElementCursor(result.slot.bytes, result.offset, result.end, true)
  for (let i = 0; i < count; i++) {
    const start = cursor.offset
    cursor.next()
    const plaintext = opened.get(i)
    if (plaintext === undefined) writer.raw(result.slot.bytes.subarray(start, cursor.offset))
    else writer.bin(plaintext)
  }
  const plaintextBytes = [...opened.values()].reduce(
    (sum, { length }) => sum + length,
    result.plaintextBytes,
  )
  return { ...result, slot, offset: HEAD_ROOM_BYTES, end: writer.offset, plaintextBytes }
}
