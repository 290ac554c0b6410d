/**
 * What is among the messages of a batch and is no message: ciphertexts of the AWS protocol, each wrapped by the key
 * store on its own, and for re-encryption key entries that stand alone. Each is a call to the key store. They are rare
 * here, and done one by one after the batch; a batch without any pays nothing.
 */
import { ElementCursor } from '../crypto/elements.ts'
import { KeyfoldError, type MessageErrorCode } from '../errors.ts'
import { isKeyEntry } from '../format/inspect.ts'
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
  type MaterialUse,
  type RequestBytes,
} from './batch.ts'
import {
  authorizedKeyById,
  nameOfKey,
  nameOfWrapping,
  refusalOf,
  type OpenBatchRequest,
} from './key-entries.ts'
import { assertStillUsable, storeForCall, type EnvelopeParts, type MaybePromise } from './parts.ts'

/** Takes the result over, and answers one in which they are opened too. */
export function openWrappedAmong(
  parts: EnvelopeParts,
  request: OpenBatchRequest,
  ciphertexts: Elements,
  result: BatchResult,
): MaybePromise<BatchResult> {
  return replaceAmong(parts, request.body, ciphertexts, result, {
    wants: isWrapped,
    replace: (ciphertext) => openOne(parts, request, ciphertext),
  })
}

export function isWrapped(bytes: Uint8Array): boolean {
  return bytes[0] === WRAPPED_KEY_VERSION
}

/** What takes the place of a nil. */
export interface Replacement {
  /** Whoever makes it hands it over: it is filled with zeros once it is written. */
  readonly bytes: Uint8Array
  readonly plaintextBytes: number
  readonly uses: readonly MaterialUse[]
}

interface Replacing {
  /** Whether this element, which the batch did not take, is to be replaced. */
  readonly wants: (bytes: Uint8Array) => boolean
  /** Is given a copy of the element. What it throws becomes the code of its place. */
  readonly replace: (bytes: Uint8Array) => Promise<Replacement>
}

/** Takes the result over; nothing happens where no element is wanted. */
export function replaceAmong(
  parts: EnvelopeParts,
  body: RequestBytes,
  ciphertexts: Elements,
  result: BatchResult,
  { wants, replace }: Replacing,
): MaybePromise<BatchResult> {
  // A key entry may begin like a detached message that points to none.
  const untaken = result.errors.filter(
    ([, code]) => code === 'MESSAGE_MALFORMED' || code === 'DECRYPT_FAILED',
  )
  if (untaken.length === 0) return result
  const indexes = new Set(untaken.map(([index]) => index))
  const wanted = elementsAmong(body.bytes, ciphertexts, indexes, wants)
  if (wanted.size === 0) return result
  return replaceEach(parts, result, { count: ciphertexts.count, wanted, replace })
}

/** Copies of the elements at these places that are wanted, by place. */
function elementsAmong(
  bytes: Uint8Array,
  { offset, end, count }: Elements,
  indexes: ReadonlySet<number>,
  wants: Replacing['wants'],
): ReadonlyMap<number, Uint8Array> {
  const wanted = new Map<number, Uint8Array>()
  const cursor = new ElementCursor(bytes, offset, end, false)
  for (let i = 0; i < count; i++) {
    cursor.next()
    if (!indexes.has(i) || !wants(bytes.subarray(cursor.start, cursor.offset))) continue
    wanted.set(i, bytes.slice(cursor.start, cursor.offset))
  }
  return wanted
}

async function replaceEach(
  parts: EnvelopeParts,
  result: BatchResult,
  {
    count,
    wanted,
    replace,
  }: Pick<Replacing, 'replace'> & {
    readonly count: number
    readonly wanted: ReadonlyMap<number, Uint8Array>
  },
): Promise<BatchResult> {
  const replacements = new Map<number, Replacement>()
  try {
    if (wanted.size > KEY_ENTRIES_MAX) {
      throw new KeyfoldError(
        'LIMIT_EXCEEDED',
        `at most ${KEY_ENTRIES_MAX} wrapped keys and key entries among the messages`,
      )
    }
    const codes = new Map<number, MessageErrorCode>()
    await Promise.all(
      [...wanted].map(async ([index, bytes]) => {
        try {
          replacements.set(index, await replace(bytes))
        } catch (error) {
          codes.set(index, refusalOf(error))
        }
      }),
    )
    const errors = result.errors
      .filter(([index]) => !replacements.has(index))
      .map(([index, code]) => [index, codes.get(index) ?? code] as const)
    const refused = [...codes.keys()].map((index) => nameOf(parts, wanted.get(index)))
    return {
      ...splice(parts, result, count, replacements),
      errors,
      uses: summed([...result.uses, ...[...replacements.values()].flatMap(({ uses }) => uses)]),
      refusedKeys: [
        ...new Set([...result.refusedKeys, ...refused.filter((arn) => arn !== undefined)]),
      ],
    }
  } finally {
    for (const { bytes } of replacements.values()) bytes.fill(0)
    result.slot.bytes.fill(0, result.offset, result.end)
    result.slot.release()
  }
}

/** ARN of the KMS key that was refused, where memory has it. */
function nameOf(parts: EnvelopeParts, bytes: Uint8Array | undefined): string | undefined {
  if (bytes === undefined) return undefined
  return isKeyEntry(bytes) ? nameOfKey(parts, bytes) : nameOfWrapping(parts, bytes)
}

/** One for each version of key material. */
function summed(uses: readonly MaterialUse[]): readonly MaterialUse[] {
  const sums: (MaterialUse & { messages: number })[] = []
  for (const use of uses) {
    const same = sums.find(
      ({ kmsKey, materialVersion }) =>
        kmsKey.id === use.kmsKey.id && materialVersion === use.materialVersion,
    )
    if (same === undefined) sums.push({ ...use })
    else same.messages += use.messages
  }
  return sums
}

async function openOne(
  parts: EnvelopeParts,
  request: OpenBatchRequest,
  ciphertext: Uint8Array,
): Promise<Replacement> {
  const { kmsKeyId, materialVersion } = decodeWrappedKey(ciphertext)
  const kmsKey = await authorizedKeyById(parts, request, kmsKeyId)
  assertUsable(kmsKey)
  const use = { kmsKey, principalArn: request.principal.arn }
  const bytes = await unwrapCallerBytes(parts, use, request.context, ciphertext)
  return { bytes, plaintextBytes: bytes.length, uses: [{ kmsKey, materialVersion, messages: 1 }] }
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

/** The result with replacements in the places of nils. */
function splice(
  { slots }: EnvelopeParts,
  result: BatchResult,
  count: number,
  replacements: ReadonlyMap<number, Replacement>,
): BatchResult {
  const added = [...replacements.values()].reduce((sum, { bytes }) => sum + bytes.length + 5, 0)
  const bytes = result.end - result.offset + added
  const slot = slots.acquire(HEAD_ROOM_BYTES + bytes + TAIL_ROOM_BYTES)
  const writer = new MsgpackWriter(slot.bytes, HEAD_ROOM_BYTES)
  const cursor = new ElementCursor(result.slot.bytes, result.offset, result.end, true)
  for (let i = 0; i < count; i++) {
    const start = cursor.offset
    cursor.next()
    const replacement = replacements.get(i)
    if (replacement === undefined) writer.raw(result.slot.bytes.subarray(start, cursor.offset))
    else writer.bin(replacement.bytes)
  }
  const plaintextBytes = [...replacements.values()].reduce(
    (sum, replacement) => sum + replacement.plaintextBytes,
    result.plaintextBytes,
  )
  return { ...result, slot, offset: HEAD_ROOM_BYTES, end: writer.offset, plaintextBytes }
}
