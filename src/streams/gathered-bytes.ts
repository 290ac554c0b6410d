/**
 * Bytes that wait for more: chunks of any size go in, runs of the size that is needed come out. What was taken is
 * never written to again, so that it may be read while more is put in; and chunks are copied, so that whoever wrote
 * them may use their memory again.
 */
export class GatheredBytes {
  #memory = Buffer.alloc(0)
  #start = 0
  #end = 0
  #reservedBytes: number

  /** `reservedBytes`: memory is taken in pieces of so much. */
  constructor(reservedBytes: number) {
    this.#reservedBytes = reservedBytes
  }

  /** For runs that are longer than was thought. */
  reserve(bytes: number): void {
    this.#reservedBytes = Math.max(this.#reservedBytes, bytes)
  }

  /** All that waits, a view. */
  get pending(): Buffer {
    return this.#memory.subarray(this.#start, this.#end)
  }

  put(chunk: Uint8Array): void {
    const waiting = this.#end - this.#start
    if (chunk.length > this.#memory.length - this.#end) {
      // Another piece of memory, not this one from its start again: views of it are still read.
      const memory = Buffer.allocUnsafe(Math.max(this.#reservedBytes, waiting + chunk.length))
      memory.set(this.pending)
      this.#memory = memory
      this.#start = 0
      this.#end = waiting
    }
    this.#memory.set(chunk, this.#end)
    this.#end += chunk.length
  }

  take(count: number): Buffer {
    const taken = this.#memory.subarray(this.#start, this.#start + count)
    this.#start += count
    return taken
  }
}
