/** Opening a packed batch, which is one value: all of its messages under one message key, in their order. */
import type { Part } from '../crypto/crypto.ts'
import type { OpenLease } from '../data-keys/lease.ts'
import { KeyfoldError } from '../errors.ts'
import { sealOverheadBytes } from '../format/message.ts'
import { decodePackedHeader } from '../format/packed-batch.ts'
import type { Slot } from '../pool/slot.ts'
import { HEAD_ROOM_BYTES, TAIL_ROOM_BYTES, type BatchResult, type Span } from './batch.ts'
import { leasePacked, openedResult, type OpenBatchRequest } from './key-entries.ts'
import { andThen, type EnvelopeParts, type MaybePromise } from './parts.ts'
import { allOrRelease } from './seal.ts'
import { closeGaps, createShared, outputBytesOf, runSlices } from './slices.ts'

/**
 * A packed batch: one key entry, and the batch tag before any message. A tag that does not fit fails the whole value,
 * for a message may then be missing or out of place.
 */
export function openPacked(
  parts: EnvelopeParts,
  request: OpenBatchRequest,
  packed: Span,
): MaybePromise<BatchResult> {
  const { body } = request
  const header = decodePackedHeader(body.bytes, packed.offset, packed.end)
  const plan = parts.pool.plan(header.count, header.plaintextBytes)
  if (!plan.inline) body.keep()
  const keep = (): void => body.keep()
  return andThen(leasePacked(parts, request, packed), keep, ({ lease, refusal }) => {
    if (lease === undefined) throw new KeyfoldError(refusal ?? 'DECRYPT_FAILED')
    return openVerified(parts, request, packed, lease, plan)
  })
}

function openVerified(
  parts: EnvelopeParts,
  request: OpenBatchRequest,
  packed: Span,
  lease: OpenLease,
  plan: { readonly inline: boolean; readonly parts: number },
): MaybePromise<BatchResult> {
  const { body, context } = request
  const { crypto, pool, slots } = parts
  let slot: Slot | undefined
  try {
    const bytes = body.bytes
    if (!crypto.verifyPacked(lease.key, context.hash, bytes, packed.offset, packed.end)) {
      throw new KeyfoldError('DECRYPT_FAILED')
    }
    const slices = planPacked(bytes, packed, plan.parts)
    const messages = slices.reduce((sum, slice) => sum + slice.messages, 0)
    const failures = createShared(Uint8Array, messages, !plan.inline)
    const outputBytes = outputBytesOf(slices)
    const acquired = slots.acquire(HEAD_ROOM_BYTES + outputBytes + TAIL_ROOM_BYTES)
    slot = acquired
    const requestOf = (slice: PackedSlice, outputOffset: number) => ({
      key: lease.key,
      contextHash: context.hash,
      packed: bytes,
      packedOffset: packed.offset,
      packedEnd: packed.end,
      firstMessage: slice.firstMessage,
      messages: slice.messages,
      sealedOffset: slice.inputOffset,
      failures: failures.subarray(slice.firstMessage, slice.firstMessage + slice.messages),
      output: acquired.bytes,
      outputOffset,
      outputEnd: outputOffset + slice.outputBytes,
    })
    const finish = (written: readonly number[]): BatchResult => {
      const end = closeGaps(acquired, slices, written)
      const errors = failureErrors(failures, end === HEAD_ROOM_BYTES + outputBytes)
      const opened = [{ lease, entry: { messages }, refusedKey: undefined }]
      return openedResult(acquired, end, slices, errors, opened)
    }
    if (!plan.inline) {
      const running = runSlices(slices, (slice, offset) =>
        pool.run('openPackedPart', requestOf(slice, offset)),
      )
      return allOrRelease(running, acquired)
        .then(finish)
        .finally(() => lease.release())
    }
    const result = finish(
      runSlices(slices, (slice, at) => crypto.openPackedPart(requestOf(slice, at))),
    )
    lease.release()
    return result
  } catch (error) {
    slot?.release()
    lease.release()
    throw error
  }
}

/** inputOffset: where its sealed messages begin. */
type PackedSlice = Pick<
  Part,
  'inputOffset' | 'firstMessage' | 'messages' | 'plaintextBytes' | 'outputBytes'
>

function planPacked(bytes: Uint8Array, packed: Span, partsMax: number): readonly PackedSlice[] {
  const header = decodePackedHeader(bytes, packed.offset, packed.end)
  const overhead = sealOverheadBytes(header.suite)
  const lengths = new DataView(bytes.buffer, bytes.byteOffset + header.lengthsOffset)
  const perSlice = Math.ceil((header.plaintextBytes + header.count) / partsMax)
  const slices: PackedSlice[] = []
  const start = (firstMessage: number, inputOffset: number) => ({
    inputOffset,
    firstMessage,
    messages: 0,
    plaintextBytes: 0,
    outputBytes: 0,
  })
  let open = start(0, header.sealedOffset)
  let offset = header.sealedOffset
  for (let i = 0; i < header.count; i++) {
    const length = lengths.getUint32(4 * i)
    offset += length + overhead
    open.messages++
    open.plaintextBytes += length
    open.outputBytes += (length < 0x100 ? 2 : length < 0x10000 ? 3 : 5) + length
    if (open.plaintextBytes + open.messages >= perSlice && i < header.count - 1) {
      slices.push(open)
      open = start(i + 1, offset)
    }
  }
  slices.push(open)
  return slices
}

function failureErrors(failures: Uint8Array, whole: boolean): BatchResult['errors'] {
  if (whole && !failures.includes(1)) return []
  return [...failures.entries()]
    .filter(([, failed]) => failed === 1)
    .map(([index]) => [index, 'DECRYPT_FAILED'] as const)
}
