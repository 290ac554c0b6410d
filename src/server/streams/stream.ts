/**
 * One stream under way: the body goes through a conversion into the answer as it comes. The caller is not read from
 * while their bytes wait, neither for the cipher nor because they do not take what they are sent.
 *
 *     body ──► conversion ──► answer
 *       └► held: what came while the conversion was busy
 *
 * A front end that is told to pause goes on as long as the kernel fills its buffer of 512 KiB, so that all of the
 * kernel's buffer may come at once, 6 MiB where nobody has set it: it is charged for as it comes.
 */
import { KeyfoldError } from '../../errors.ts'
import { SERVED_HELD_BYTES_MAX, SERVED_RUN_BYTES } from '../../limits.ts'
import type { Slot, SlotPool } from '../../pool/slot.ts'
import type { Conversion } from '../../streams/conversion.ts'
import type { ChunkedAnswer } from '../chunked-answer.ts'
import type { Exchange } from '../exchange.ts'

/** What came while the conversion was busy; chunks that are small share one. */
interface Held {
  readonly slot: Slot
  bytes: number
}

const NOTHING = new Uint8Array(0)

export class Stream {
  readonly #exchange: Exchange
  readonly #answer: ChunkedAnswer
  readonly #conversion: Conversion
  readonly #slots: SlotPool
  /** Bytes of the body that the conversion was given. */
  receivedBytes = 0
  /** Oldest first. */
  #held: Held[] = []
  #heldBytes = 0
  #ended = false
  #busy = false
  #settle!: { resolve(): void; reject(error: unknown): void }
  #failed = false

  constructor(
    ends: { readonly exchange: Exchange; readonly answer: ChunkedAnswer },
    conversion: Conversion,
    slots: SlotPool,
  ) {
    this.#exchange = ends.exchange
    this.#answer = ends.answer
    this.#conversion = conversion
    this.#slots = slots
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
    for (const held of this.#held.splice(0)) drop(held)
    this.#settle.reject(error)
  }

  #take(chunk: Uint8Array, isLast: boolean): void {
    if (this.#failed) return
    this.#ended = isLast
    if (!this.#busy) {
      void this.#convert(chunk)
      return
    }
    this.#answer.pause()
    try {
      this.#hold(chunk)
      this.#answer.writeAgain()
    } catch (error) {
      this.fail(error)
    }
  }

  #hold(chunk: Uint8Array): void {
    this.#heldBytes += chunk.length
    if (this.#heldBytes > SERVED_HELD_BYTES_MAX) {
      throw new KeyfoldError('OVERLOADED', 'the body came faster than the answer was taken')
    }
    let held = this.#held.at(-1)
    if (held === undefined || held.bytes + chunk.length > held.slot.bytes.length) {
      const bytes = Math.max(SERVED_RUN_BYTES, chunk.length)
      held = { slot: this.#slots.acquire(bytes), bytes: 0 }
      this.#held.push(held)
    }
    held.slot.bytes.set(chunk, held.bytes)
    held.bytes += chunk.length
  }

  async #convert(chunk: Uint8Array): Promise<void> {
    this.#busy = true
    try {
      await this.#write(chunk)
      for (let held = this.#held.shift(); held !== undefined; held = this.#held.shift()) {
        this.#heldBytes -= held.bytes
        const writing = this.#write(held.slot.bytes.subarray(0, held.bytes))
        // It was copied.
        drop(held)
        await writing
      }
      if (this.#ended) {
        await this.#conversion.end()
        this.#settle.resolve()
        return
      }
      this.#busy = false
      this.#answer.resume()
    } catch (error) {
      this.fail(error)
    }
  }

  #write(chunk: Uint8Array): Promise<void> {
    this.receivedBytes += chunk.length
    return this.#conversion.write(chunk)
  }
}

function drop({ slot, bytes }: Held): void {
  slot.bytes.fill(0, 0, bytes)
  slot.release()
}
