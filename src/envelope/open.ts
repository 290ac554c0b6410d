/**
 * Opening the messages of a batch: all of it in one native call, or in slices over the workers. A message that fails
 * leaves a nil and a code; it never fails the others.
 */
import type { Slot } from '../pool/slot.ts'
import {
  HEAD_ROOM_BYTES,
  TAIL_ROOM_BYTES,
  type BatchResult,
  type Elements,
  type Span,
} from './batch.ts'
import {
  errorsOf,
  openedResult,
  scanBatch,
  type OpenBatchRequest,
  type ScannedBatch,
} from './key-entries.ts'
import { andThen, type EnvelopeParts, type MaybePromise } from './parts.ts'
import { allOrRelease } from './seal.ts'
import { closeGaps, createShared, outputBytesOf, runSlices } from './slices.ts'

export function openElements(
  parts: EnvelopeParts,
  request: OpenBatchRequest,
  ciphertexts: Elements,
  keyEntries: readonly Span[],
): MaybePromise<BatchResult> {
  const plan = parts.pool.plan(ciphertexts.count, ciphertexts.end - ciphertexts.offset)
  if (!plan.inline) request.body.keep()
  const scanned = scanBatch(parts, request, ciphertexts, keyEntries, plan.parts)
  const keep = (): void => request.body.keep()
  return andThen(scanned, keep, (batch) => {
    const opened = plan.inline
      ? openInline(parts, request, ciphertexts, batch)
      : openSlices(parts, request, ciphertexts, batch)
    return opened
  })
}

function openInline(
  parts: EnvelopeParts,
  request: OpenBatchRequest,
  ciphertexts: Elements,
  batch: ScannedBatch,
): BatchResult {
  const expected = outputBytesOf(batch.scan.parts)
  let slot: Slot | undefined
  try {
    slot = parts.slots.acquire(HEAD_ROOM_BYTES + expected + TAIL_ROOM_BYTES)
    const failures = new Uint8Array(ciphertexts.count)
    const written = parts.crypto.openBatch({
      keys: keysOf(batch),
      entryOf: batch.entryOf,
      contextHash: request.context.hash,
      input: request.body.bytes,
      inputOffset: ciphertexts.offset,
      inputEnd: ciphertexts.end,
      messages: ciphertexts.count,
      failures,
      output: slot.bytes,
      outputOffset: HEAD_ROOM_BYTES,
      outputEnd: HEAD_ROOM_BYTES + expected,
    })
    const errors = errorsOf(batch, failures, written === expected)
    return openedResult(slot, HEAD_ROOM_BYTES + written, batch.scan.parts, errors, batch.entries)
  } catch (error) {
    slot?.release()
    throw error
  } finally {
    batch.release()
  }
}

async function openSlices(
  parts: EnvelopeParts,
  request: OpenBatchRequest,
  ciphertexts: Elements,
  batch: ScannedBatch,
): Promise<BatchResult> {
  try {
    const slices = batch.scan.parts
    const failures = createShared(Uint8Array, ciphertexts.count, true)
    const keys = keysOf(batch)
    const slot = parts.slots.acquire(HEAD_ROOM_BYTES + outputBytesOf(slices) + TAIL_ROOM_BYTES)
    const running = runSlices(slices, (slice, outputOffset) =>
      parts.pool.run('openBatch', {
        keys,
        entryOf: batch.entryOf.subarray(slice.firstMessage, slice.firstMessage + slice.messages),
        contextHash: request.context.hash,
        input: request.body.bytes,
        inputOffset: slice.inputOffset,
        inputEnd: slice.inputEnd,
        messages: slice.messages,
        failures: failures.subarray(slice.firstMessage, slice.firstMessage + slice.messages),
        output: slot.bytes,
        outputOffset,
        outputEnd: outputOffset + slice.outputBytes,
      }),
    )
    const written = await allOrRelease(running, slot)
    const end = closeGaps(slot, slices, written)
    const whole = end === HEAD_ROOM_BYTES + outputBytesOf(slices)
    return openedResult(slot, end, slices, errorsOf(batch, failures, whole), batch.entries)
  } finally {
    batch.release()
  }
}

function keysOf({ entries }: ScannedBatch): Float64Array {
  const keys = new Float64Array(entries.length)
  for (let i = 0; i < entries.length; i++) keys[i] = entries[i]?.lease?.key ?? 0
  return keys
}
