/** Slots: shared memory that is handed out once at a time, bounded, and given back whole. */
import { describe, expect, test } from 'vitest'

import { KeyfoldError } from '../../dist/errors.js'
import { BoundedSlotPool } from '../../dist/pool/slot-pool.js'
import type { Slot } from '../../dist/pool/slot.js'

const KIB = 1024
const MIB = 1024 * KIB

/** The code of what `work` throws; undefined where it does not. */
function codeOf(work: () => unknown): string | undefined {
  try {
    work()
    return undefined
  } catch (error) {
    return error instanceof KeyfoldError ? error.code : 'another error'
  }
}

describe('a slot', () => {
  test.each([0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB, 3 * MIB + 1])(
    'of %i bytes is at least as long and lies on shared memory from its beginning',
    (bytes) => {
      const slot = new BoundedSlotPool(16 * MIB).acquire(bytes)
      expect(slot.bytes.length).toBeGreaterThanOrEqual(bytes)
      expect(slot.bytes.byteOffset).toBe(0)
      expect(slot.bytes.buffer).toBeInstanceOf(SharedArrayBuffer)
      expect(slot.bytes.buffer.byteLength).toBe(slot.bytes.length)
    },
  )

  test('is given back once: the second time is an error and changes nothing', () => {
    const pool = new BoundedSlotPool(MIB)
    const slot = pool.acquire(1)
    const other = pool.acquire(1)
    slot.release()
    const inUse = pool.bytesInUse
    expect(codeOf(() => slot.release())).toBe('INTERNAL')
    expect(pool.bytesInUse).toBe(inUse)
    // The memory went to the pool once: two callers who ask now are given two different pieces.
    const [a, b] = [pool.acquire(1), pool.acquire(1)]
    expect(new Set([a, b, other].map((each) => each.bytes.buffer)).size).toBe(3)
  })

  test('stays with its new holder when the old one releases it late', () => {
    const pool = new BoundedSlotPool(MIB)
    const old = pool.acquire(1)
    old.release()
    const fresh = pool.acquire(1)
    expect(fresh.bytes.buffer).toBe(old.bytes.buffer)
    expect(codeOf(() => old.release())).toBe('INTERNAL')
    expect(pool.acquire(1).bytes.buffer).not.toBe(fresh.bytes.buffer)
  })
})

describe('the pool of slots', () => {
  test('never hands out memory that somebody holds, over thousands of random turns', () => {
    const pool = new BoundedSlotPool(32 * MIB)
    const held = new Map<unknown, { readonly slot: Slot; readonly mark: number }>()
    // Always the same turns (a linear congruential generator, Numerical Recipes).
    let state = 7
    const below = (limit: number): number => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      return Math.floor((state / 2 ** 32) * limit)
    }
    let refused = 0
    for (let turn = 0; turn < 10_000; turn++) {
      if (below(3) > 0) {
        const bytes = 1 << below(22)
        try {
          const slot = pool.acquire(bytes)
          expect(held.has(slot.bytes.buffer)).toBe(false)
          const mark = turn & 0xff
          slot.bytes[0] = mark
          slot.bytes[slot.bytes.length - 1] = mark
          held.set(slot.bytes.buffer, { slot, mark })
        } catch (error) {
          expect((error as KeyfoldError).code).toBe('OVERLOADED')
          refused++
        }
      } else if (held.size > 0) {
        const [buffer, { slot, mark }] = [...held][below(held.size)] as [
          unknown,
          { slot: Slot; mark: number },
        ]
        expect([slot.bytes[0], slot.bytes[slot.bytes.length - 1]]).toEqual([mark, mark])
        slot.release()
        held.delete(buffer)
      }
      let sum = 0
      for (const { slot } of held.values()) sum += slot.bytes.length
      expect(pool.bytesInUse).toBe(sum)
      expect(sum).toBeLessThanOrEqual(32 * MIB)
    }
    expect(refused).toBeGreaterThan(0)
    expect(pool.refused).toBe(refused)
    for (const { slot } of held.values()) slot.release()
    expect(pool.bytesInUse).toBe(0)
  })

  test('is full to the byte, says OVERLOADED with its bound, and serves again afterwards', () => {
    const pool = new BoundedSlotPool(256 * KIB)
    const slots = Array.from({ length: 4 }, () => pool.acquire(64 * KIB))
    expect(pool.bytesInUse).toBe(256 * KIB)
    expect(() => pool.acquire(0)).toThrow(String(256 * KIB))
    expect(codeOf(() => pool.acquire(1))).toBe('OVERLOADED')
    expect(pool.refused).toBe(2)
    expect(pool.bytesInUse).toBe(256 * KIB)
    slots[2]?.release()
    // Too much at once still does not fit, and what is refused costs nothing.
    expect(codeOf(() => pool.acquire(64 * KIB + 1))).toBe('OVERLOADED')
    expect(pool.bytesInUse).toBe(192 * KIB)
    expect(pool.acquire(64 * KIB).bytes.buffer).toBe(slots[2]?.bytes.buffer)
  })

  test('refuses more than it may ever hold', () => {
    const pool = new BoundedSlotPool(MIB)
    for (const bytes of [MIB + 1, 2 ** 40, Number.MAX_SAFE_INTEGER]) {
      expect(codeOf(() => pool.acquire(bytes))).toBe('OVERLOADED')
    }
    expect(pool.bytesInUse).toBe(0)
    expect(pool.acquire(MIB).bytes.length).toBe(MIB)
  })

  test('forgets free memory beyond its bound instead of keeping it for good', () => {
    // 256 MiB of free slots are kept. Shared memory that nobody writes to takes no room.
    const pool = new BoundedSlotPool(1024 * MIB)
    const slots = Array.from({ length: 10 }, () => pool.acquire(32 * MIB))
    const first = slots.map((slot) => slot.bytes.buffer)
    for (const slot of slots) slot.release()
    expect(pool.bytesInUse).toBe(0)
    const second = Array.from({ length: 10 }, () => pool.acquire(32 * MIB).bytes.buffer)
    expect(second.filter((buffer) => first.includes(buffer)).length).toBe(8)
    expect(new Set(second).size).toBe(10)
  })
})
