/**
 * One stream under way: the body goes through a conversion into the answer as it comes. The caller is not read from
 * while their bytes wait, neither for the cipher nor because they do not take what they are sent.
 *
 *     body ──► conversion ──► answer
 *       └► slot: what came while the conversion was busy
 */
import { KeyfoldError } from '../../errors.ts'
import type { Slot } from '../../pool/slot.ts'
import type { Conversion } from '../../streams/conversion.ts'
import type { Exchange } from '../exchange.ts'

const NOTHING = new Uint8Array(0)

export class Stream {
  readonly #exchange: Exchange
  readonly #conversion: Conversion
  readonly #slot: Slot
  /** Bytes of the body that the conversion was given. */
  receivedBytes = 0
  #heldBytes = 0
  #ended = false
  #busy = false
  #settle!: { resolve(): void; reject(error: unknown): void }
  #failed = false

  constructor(exchange: Exchange, conversion: Conversion, slot: Slot) {
    this.#exchange = exchange
    this.#conversion = conversion
    this.#slot = slot
  }

  /** Resolves when all of the answer but its end is taken. Throws what ended the stream before. */
  run(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#settle = { resolve, reject }
      this.#exchange.receiveChunks(
        (chunk, isLast) => this.#take(chunk, isLast),
        () => this.fail(new KeyfoldError('ABORTED')),
      )
      // Who encrypts learns at once what is wrong with the key.
      void this.#convert(NOTHING)
    })
  }

  /** Ends the stream and wipes its key. */
  fail(error: unknown): void {
    this.#failed = true
    this.#conversion.destroy()
    this.#settle.reject(error)
  }

  #take(chunk: Uint8Array, isLast: boolean): void {
    if (this.#failed) return
    this.#ended = isLast
    if (!this.#busy) {
      void this.#convert(chunk)
      return
    }
    this.#exchange.pause()
    const heldBytes = this.#heldBytes + chunk.length
    if (heldBytes > this.#slot.bytes.length) {
      this.fail(new KeyfoldError('INTERNAL', 'a body went on that was paused'))
      return
    }
    this.#slot.bytes.set(chunk, this.#heldBytes)
    this.#heldBytes = heldBytes
  }

  async #convert(chunk: Uint8Array): Promise<void> {
    this.#busy = true
    try {
      this.receivedBytes += chunk.length
      await this.#conversion.write(chunk)
      while (this.#heldBytes > 0) {
        const held = this.#slot.bytes.subarray(0, this.#heldBytes)
        this.#heldBytes = 0
        this.receivedBytes += held.length
        const writing = this.#conversion.write(held)
        // It is copied, and what comes next takes its place.
        held.fill(0)
        await writing
      }
      if (this.#ended) {
        await this.#conversion.end()
        this.#settle.resolve()
        return
      }
      this.#busy = false
      this.#exchange.resume()
    } catch (error) {
      this.fail(error)
    }
  }
}
