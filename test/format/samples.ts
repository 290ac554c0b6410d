/** Values of the flat formats, with each field of bytes that occur nowhere else, and arbitraries of them. */
import fc from 'fast-check'

import type { KeyEntry } from '../../dist/format/key-entry.js'
import type { MessageSuite } from '../../dist/format/message.js'
import type { PackedBatch } from '../../dist/format/packed-batch.js'
import type { WrappedKey } from '../../dist/format/wrapped-key.js'

/** `count` bytes that rise from `first`. */
export const rising = (count: number, first: number): Buffer =>
  Buffer.from(Array.from({ length: count }, (_, i) => (first + i) % 256))

export const arbitraryBytes = (min: number, max: number): fc.Arbitrary<Uint8Array> =>
  fc.uint8Array({ minLength: min, maxLength: max })

export const arbitrarySuite = fc.constantFrom<MessageSuite>(1, 2)

/** tag16 or tag16 ‖ KC32 (formats.md). */
export const overheadOf = (suite: MessageSuite): number => (suite === 1 ? 16 : 48)

export const arbitraryWrappedKey: fc.Arbitrary<WrappedKey> = fc.record({
  suite: fc.constant(1 as const),
  usage: fc.constantFrom<1 | 2>(1, 2),
  kmsKeyId: arbitraryBytes(16, 16),
  materialVersion: fc.integer({ min: 1, max: 2 ** 32 - 1 }),
  storePart: arbitraryBytes(1, 100),
})

export const arbitraryKeyEntry: fc.Arbitrary<KeyEntry> = fc.record({
  commitment: arbitraryBytes(32, 32),
  wrappedKey: arbitraryBytes(1, 100),
})

/** R20 ‖ u32 index below 65,536. */
export const arbitraryNonce: fc.Arbitrary<Uint8Array> = fc
  .tuple(arbitraryBytes(20, 20), fc.nat(65_535))
  .map(([r, index]) => {
    const nonce = Buffer.alloc(24)
    nonce.set(r)
    nonce.writeUInt32BE(index, 20)
    return Uint8Array.from(nonce)
  })

export const arbitraryPackedBatch: fc.Arbitrary<PackedBatch> = arbitrarySuite.chain((suite) =>
  fc.record({
    suite: fc.constant(suite),
    keyEntry: arbitraryKeyEntry,
    r: arbitraryBytes(20, 20),
    sealed: fc.array(arbitraryBytes(overheadOf(suite), overheadOf(suite) + 40), {
      minLength: 1,
      maxLength: 8,
    }),
    batchTag: arbitraryBytes(16, 16),
  }),
)

export const SAMPLE_KEY_ENTRY: KeyEntry = {
  commitment: rising(32, 0x20),
  wrappedKey: rising(5, 0xd0),
}
