/**
 * Bytes that wait for more: chunks of any size go in, as many as are needed come out. Chunks are copied, so that whoever
 * wrote them may use their memory again; and so is ours.
 */
export class GatheredBytes {
  #memory = Buffer.alloc(0)
  #start = 0
  #end = 0
  #reservedBytes: number

  /** `reservedBytes`: so much memory is taken, or more where more waits. */
  constructor(reservedBytes: number) {
    this.#reservedBytes = reservedBytes
  }

  /** For more than was thought. */
  reserve(bytes: number): void {
    this.#reservedBytes = Math.max(this.#reservedBytes, bytes)
  }

  /** All that waits, a view that is good until put(). */
  get pending(): Buffer {
    return this.#memory.subarray(this.#start, this.#end)
  }

  put(chunk: Uint8Array): void {
    if (chunk.length === 0) return
    const waiting = this.pending
    if (this.#end + chunk.length > this.#memory.length) {
      const bytes = waiting.length + chunk.length
      if (bytes > this.#memory.length) {
        const memory = Buffer.allocUnsafe(
          Math.max(this.#reservedBytes, bytes, 2 * this.#memory.length),
        )
        memory.set(waiting)
        this.wipe()
        this.#memory = memory
      } else {
        this.#memory.copyWithin(0, this.#start, this.#end)
      }
      this.#start = 0
      this.#end = waiting.length
    }
    this.#memory.set(chunk, this.#end)
    this.#end += chunk.length
  }

  /** A view that is good until put(). */
  take(count: number): Buffer {
    const taken = this.#memory.subarray(this.#start, this.#start + count)
    this.#start += count
    if (this.#start === this.#end) {
      this.#start = 0
      this.#end = 0
    }
    return taken
  }

  wipe(): void {
    this.#memory.fill(0)
  }
}
