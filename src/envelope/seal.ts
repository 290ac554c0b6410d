/**
 * Sealing a batch under a leased message key, in any form: on the spot where it is short, else in slices over the
 * workers into one response. Encryption and fresh re-encryption share it.
 */
import type { Part } from '../crypto/crypto.ts'
import type { SealLease } from '../data-keys/lease.ts'
import {
  detachedOverheadBytes,
  inlineOverheadBytes,
  sealOverheadBytes,
  TAG_BYTES,
} from '../format/message.ts'
import { packedBatchBytes } from '../format/packed-batch.ts'
import type { Slot } from '../pool/slot.ts'
import { BATCH_PARTS_MAX } from '../limits.ts'
import {
  HEAD_ROOM_BYTES,
  TAIL_ROOM_BYTES,
  type BatchResult,
  type Elements,
  type Form,
  type MaterialUse,
  type RequestBytes,
} from './batch.ts'
import type { EnvelopeParts, MaybePromise } from './parts.ts'

export interface SealBatchRequest {
  readonly lease: SealLease
  readonly form: Form
  readonly contextHash: Uint8Array
  readonly body: RequestBytes
  readonly plaintexts: Elements
  /** Sum of the plaintexts, as planned. */
  readonly plaintextBytes: number
  readonly nilAllowed: boolean
}

/** The bytes of all plaintexts. Throws where an element is not a byte string, or too long. */
export function measurePlaintexts(
  { crypto }: EnvelopeParts,
  body: RequestBytes,
  plaintexts: Elements,
  nilAllowed: boolean,
): number {
  const [part] = crypto.planParts({
    input: body.bytes,
    inputOffset: plaintexts.offset,
    inputEnd: plaintexts.end,
    messages: plaintexts.count,
    overheadBytes: 0,
    nilAllowed,
    partsMax: 1,
  })
  return part?.plaintextBytes ?? 0
}

export function sealPlaintexts(
  parts: EnvelopeParts,
  request: SealBatchRequest,
): MaybePromise<BatchResult> {
  const { form, plaintexts, plaintextBytes, body } = request
  const plan = parts.pool.plan(plaintexts.count, plaintextBytes)
  if (!plan.inline) body.keep()
  if (form === 'packed') return sealPacked(parts, request, plan)
  return plan.inline ? sealInline(parts, request) : sealSlices(parts, request, plan.parts)
}

function overheadBytes({ lease, form }: SealBatchRequest): number {
  return form === 'inline'
    ? inlineOverheadBytes(lease.keyEntry.length, lease.suite)
    : detachedOverheadBytes(lease.suite)
}

function sealInline(parts: EnvelopeParts, request: SealBatchRequest): BatchResult {
  const { plaintexts, lease, form } = request
  // The head of a byte string has at most 5 bytes: an upper bound saves a second walk.
  const bound = request.plaintextBytes + plaintexts.count * (overheadBytes(request) + 5)
  const slot = parts.slots.acquire(HEAD_ROOM_BYTES + bound + TAIL_ROOM_BYTES)
  try {
    // Written out: a spread here took a fifth of the time of a single message (bench/service, 64 B x 1).
    const written = parts.crypto.sealBatch({
      key: lease.key,
      contextHash: request.contextHash,
      form: form === 'inline' ? 'inline' : 'detached',
      keyEntry: form === 'inline' ? lease.keyEntry : NO_BYTES,
      nilAllowed: request.nilAllowed,
      input: request.body.bytes,
      inputOffset: plaintexts.offset,
      inputEnd: plaintexts.end,
      messages: plaintexts.count,
      output: slot.bytes,
      outputOffset: HEAD_ROOM_BYTES,
      outputEnd: HEAD_ROOM_BYTES + bound,
    })
    return resultOf(request, slot, HEAD_ROOM_BYTES + written)
  } catch (error) {
    slot.release()
    throw error
  }
}

/** The slices of an inline or detached batch are batches of their own, each with its own R. */
async function sealSlices(
  parts: EnvelopeParts,
  request: SealBatchRequest,
  partsMax: number,
): Promise<BatchResult> {
  const slices = planSlices(parts, request, overheadBytes(request), partsMax)
  const outputBytes = slices.reduce((sum, slice) => sum + slice.outputBytes, 0)
  const slot = parts.slots.acquire(HEAD_ROOM_BYTES + outputBytes + TAIL_ROOM_BYTES)
  let offset = HEAD_ROOM_BYTES
  const running = slices.map((slice) => {
    const outputOffset = offset
    offset += slice.outputBytes
    return parts.pool.run('sealBatch', {
      key: request.lease.key,
      contextHash: request.contextHash,
      form: request.form === 'inline' ? 'inline' : 'detached',
      keyEntry: request.form === 'inline' ? request.lease.keyEntry : NO_BYTES,
      nilAllowed: request.nilAllowed,
      input: request.body.bytes,
      inputOffset: slice.inputOffset,
      inputEnd: slice.inputEnd,
      messages: slice.messages,
      output: slot.bytes,
      outputOffset,
      outputEnd: offset,
    })
  })
  await allOrRelease(running, slot)
  return resultOf(request, slot, offset)
}

const NO_BYTES = new Uint8Array(0)
const NONE: readonly never[] = []

/** A packed batch shares one R: its slices are claimed from a ticket, and the batch tag comes last. */
function sealPacked(
  parts: EnvelopeParts,
  request: SealBatchRequest,
  plan: { readonly inline: boolean; readonly parts: number },
): MaybePromise<BatchResult> {
  const { crypto, pool, slots } = parts
  const { lease, plaintexts, plaintextBytes } = request
  const slices = planSlices(parts, request, 0, plan.parts)
  const bytes = packedBatchBytes(
    lease.keyEntry.length,
    plaintexts.count,
    plaintextBytes,
    lease.suite,
  )
  const packedEnd = HEAD_ROOM_BYTES + bytes
  const overhead = sealOverheadBytes(lease.suite)
  const sealedBytes = plaintextBytes + plaintexts.count * overhead
  const firstSealed = packedEnd - TAG_BYTES - sealedBytes
  const ticket = crypto.beginPacked(
    lease.key,
    request.contextHash,
    plaintexts.count,
    slices.map((slice) => slice.firstMessage),
  )
  let slot: Slot
  try {
    slot = slots.acquire(HEAD_ROOM_BYTES + bytes + TAIL_ROOM_BYTES)
  } catch (error) {
    crypto.abandonPacked(ticket)
    throw error
  }
  let sealedOffset = firstSealed
  const claims = slices.map((slice, part) => {
    const claim = {
      ticket,
      part,
      input: request.body.bytes,
      inputOffset: slice.inputOffset,
      inputEnd: slice.inputEnd,
      packed: slot.bytes,
      packedOffset: HEAD_ROOM_BYTES,
      packedEnd,
      lengthsOffset: firstSealed - 4 * plaintexts.count,
      sealedOffset,
    }
    sealedOffset += slice.plaintextBytes + slice.messages * overhead
    return claim
  })
  const finish = (): BatchResult => {
    crypto.finishPacked(ticket, lease.keyEntry, slot.bytes, HEAD_ROOM_BYTES, packedEnd)
    return resultOf(request, slot, packedEnd)
  }
  const fail = (error: unknown): never => {
    crypto.abandonPacked(ticket)
    slot.release()
    throw error
  }
  if (!plan.inline) {
    const running = claims.map((claim) => pool.run('sealPackedPart', claim))
    return Promise.allSettled(running)
      .then(() => Promise.all(running))
      .then(finish)
      .catch(fail)
  }
  try {
    for (const claim of claims) crypto.sealPackedPart(claim)
    return finish()
  } catch (error) {
    return fail(error)
  }
}

function planSlices(
  { crypto }: EnvelopeParts,
  { body, plaintexts, nilAllowed }: SealBatchRequest,
  overhead: number,
  partsMax: number,
): readonly Part[] {
  return crypto.planParts({
    input: body.bytes,
    inputOffset: plaintexts.offset,
    inputEnd: plaintexts.end,
    messages: plaintexts.count,
    overheadBytes: overhead,
    nilAllowed,
    partsMax: Math.min(partsMax, BATCH_PARTS_MAX),
  })
}

function resultOf(request: SealBatchRequest, slot: Slot, end: number): BatchResult {
  return {
    keyId: request.lease.kmsKey.arn,
    slot,
    shape: request.form === 'packed' ? 'packed' : 'elements',
    offset: HEAD_ROOM_BYTES,
    end,
    messages: request.plaintexts.count,
    plaintextBytes: request.plaintextBytes,
    keyEntries: request.form === 'detached' ? [request.lease.keyEntry] : NONE,
    errors: NONE,
    uses: [useOf(request.lease, request.plaintexts.count)],
    refusedKeys: NONE,
  }
}

export function useOf(
  { kmsKey, materialVersion }: Pick<SealLease, 'kmsKey' | 'materialVersion'>,
  messages: number,
): MaterialUse {
  return { kmsKey, materialVersion, messages }
}

/** Every slice is over before the slot is given back: none may write into memory of the next request. */
export async function allOrRelease<T>(
  running: readonly Promise<T>[],
  slot: Slot,
): Promise<readonly T[]> {
  await Promise.allSettled(running)
  try {
    return await Promise.all(running)
  } catch (error) {
    slot.release()
    throw error
  }
}
