/**
 * A slot is a stretch of shared memory that the main thread owns: request bodies arrive in one and responses
 * leave from one. Workers get its SharedArrayBuffer and offsets, and write in place.
 */
export interface Slot {
  /** All of it. Its length is at least what was asked for; it lies on a SharedArrayBuffer from offset 0. */
  readonly bytes: Uint8Array
  /** Gives it back to the pool, once. Plaintext in it is not wiped here: who wrote plaintext fills it with zeros. */
  release(): void
}

/** Bounded: throws OVERLOADED instead of exceeding the bytes in flight. */
export interface SlotPool {
  acquire(bytes: number): Slot
  readonly bytesInUse: number
}
