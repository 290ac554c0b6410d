/**
 * The slots that exist: shared memory in sizes of powers of two, kept for reuse up to a bound, so that a large
 * body meets pages that are there already. The sum of what is handed out is bounded: beyond it callers are told
 * OVERLOADED, which is how a server stays alive at ten times its load.
 */
import { KeyfoldError } from '../errors.ts'
import type { Slot, SlotPool } from './slot.ts'

const SLOT_BYTES_MIN = 64 * 1024
/** Free slots kept, in bytes: two large batches each way. */
const FREE_BYTES_MAX = 256 * 2 ** 20

export class BoundedSlotPool implements SlotPool {
  readonly #bytesMax: number
  readonly #free = new Map<number, Uint8Array[]>()
  #freeBytes = 0
  #bytesInUse = 0
  refused = 0

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
  }

  get bytesInUse(): number {
    return this.#bytesInUse
  }

  acquire(bytes: number): Slot {
    let size = SLOT_BYTES_MIN
    while (size < bytes) size *= 2
    if (this.#bytesInUse + size > this.#bytesMax) {
      this.refused++
      throw new KeyfoldError('OVERLOADED', `${this.#bytesMax} bytes are in flight`)
    }
    this.#bytesInUse += size
    const memory = this.#free.get(size)?.pop()
    if (memory !== undefined) this.#freeBytes -= size
    return new PooledSlot(memory ?? new Uint8Array(new SharedArrayBuffer(size)), this)
  }

  giveBack(memory: Uint8Array): void {
    const size = memory.length
    this.#bytesInUse -= size
    if (this.#freeBytes + size > FREE_BYTES_MAX) return
    this.#freeBytes += size
    const free = this.#free.get(size)
    if (free === undefined) this.#free.set(size, [memory])
    else free.push(memory)
  }
}

class PooledSlot implements Slot {
  readonly bytes: Uint8Array
  #pool: BoundedSlotPool | undefined

  constructor(bytes: Uint8Array, pool: BoundedSlotPool) {
    this.bytes = bytes
    this.#pool = pool
  }

  release(): void {
    const pool = this.#pool
    if (pool === undefined) throw new KeyfoldError('INTERNAL', 'a slot was given back twice')
    this.#pool = undefined
    pool.giveBack(this.bytes)
  }
}
