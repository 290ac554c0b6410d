/**
 * A batch that is opened in slices, each by a worker or all on the spot: every slice has its place in one output, and
 * what failed leaves no gap there.
 */
import type { Slot } from '../pool/slot.ts'
import { HEAD_ROOM_BYTES } from './batch.ts'

/** Each slice with its place in the output, one behind the other. */
export function runSlices<S extends { readonly outputBytes: number }, T>(
  slices: readonly S[],
  run: (slice: S, outputOffset: number) => T,
): readonly T[] {
  let offset = HEAD_ROOM_BYTES
  return slices.map((slice) => {
    const at = offset
    offset += slice.outputBytes
    return run(slice, at)
  })
}

/** Failed messages leave their slice shorter than planned: what follows is moved up. Returns the end. */
export function closeGaps(
  slot: Slot,
  slices: readonly { readonly outputBytes: number }[],
  written: readonly number[],
): number {
  let planned = HEAD_ROOM_BYTES
  let end = HEAD_ROOM_BYTES
  for (const [i, slice] of slices.entries()) {
    const bytes = written[i] ?? 0
    if (planned !== end) slot.bytes.copyWithin(end, planned, planned + bytes)
    planned += slice.outputBytes
    end += bytes
  }
  return end
}

export function outputBytesOf(slices: readonly { readonly outputBytes: number }[]): number {
  return slices.reduce((sum, slice) => sum + slice.outputBytes, 0)
}

/** Workers see it where it lies on shared memory; for work on the spot that would cost more than the work. */
export function createShared<T extends Uint8Array | Uint16Array>(
  constructor: {
    new (length: number): T
    new (buffer: SharedArrayBuffer): T
    readonly BYTES_PER_ELEMENT: number
  },
  length: number,
  shared: boolean,
): T {
  if (!shared) return new constructor(length)
  return new constructor(new SharedArrayBuffer(length * constructor.BYTES_PER_ELEMENT))
}
