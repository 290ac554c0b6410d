/**
 * An answer of unknown length on uWebSockets.js, written in parts while the body of its request still comes in. The
 * caller is stopped and let go on from here too: what the front end polls a connection for hangs on both.
 *
 *     write ──► unsent ──► front end ──► socket
 */
import { KeyfoldError } from '../errors.ts'
import type { Header } from './http.ts'
import type { HttpResponse } from './uws.ts'

/** One write: so much the front end may keep of what the socket does not take. */
const SLICE_BYTES_MAX = 320 * 1024
/**
 * Over TLS, where a record holds 16 KiB: with what the front end puts around it no more than it gathers before it asks the
 * socket. What does not fit in there, uWebSockets drops before 20.77 where the socket does not take what was gathered.
 */
const TLS_SLICE_BYTES_MAX = 15_000
/**
 * How a paused connection is asked whether it takes more: soon, then less often, and for half a minute in all, in which
 * a caller at 16 KB/s takes what the front end keeps. Each time costs one of the bytes that a part keeps back for it.
 */
const ASK_MS_MIN = 1
const ASK_MS_MAX = 64
const ASKED_MAX = 480
const NOTHING: Uint8Array = new Uint8Array(0)

/** What goes before an answer whose length is not known. */
export interface ChunkedHead {
  readonly contentType: string
  readonly headers: readonly Header[]
}

export class ChunkedAnswer {
  readonly #response: HttpResponse
  readonly #secureTransport: boolean
  readonly #head: ChunkedHead
  readonly #cut: () => void
  readonly #over: () => void
  /** Set when the response must not be touched any more. */
  #gone = false
  #paused = false
  /** Whether the front end was told so. */
  #stopped = false
  /** What the front end was not given yet. */
  #unsent = NOTHING
  /** Whether the front end holds what the socket did not take. */
  #congested = false
  #asked = 0
  #asking: NodeJS.Timeout | undefined
  #begun = false
  /** Set while the caller has not taken what they were sent. */
  #whenTaken: { resolve(): void; reject(error: KeyfoldError): void } | undefined

  /** `cut` ends the connection; `over` is called when the end of the answer is out. */
  constructor(
    response: HttpResponse,
    options: {
      readonly secureTransport: boolean
      readonly head: ChunkedHead
      readonly cut: () => void
      readonly over: () => void
    },
  ) {
    this.#response = response
    this.#secureTransport = options.secureTransport
    this.#head = options.head
    this.#cut = options.cut
    this.#over = options.over
    this.#takeUpPolling()
  }

  /** Whether a part of the answer is out: from then on an error can only be seen as an answer without its end. */
  get begun(): boolean {
    return this.#begun
  }

  /** What the kernel has of the body already may come all the same. */
  pause(): void {
    this.#paused = true
    this.#stop()
    // At the end of its own handlers the front end may write, and go on reading where that fails.
    setImmediate(() => this.#stop())
    if (this.#congested) this.#askLater()
  }

  resume(): void {
    this.#paused = false
    this.#go()
  }

  /**
   * The next part, one at a time. The promise, if there is one, resolves when more is wanted; until then `bytes` stay
   * as they are. Throws and rejects with ABORTED where the caller is gone.
   */
  write(bytes: Uint8Array): Promise<void> | undefined {
    if (this.#gone) throw new KeyfoldError('ABORTED')
    this.#unsent = bytes
    if (this.#secureTransport) {
      // Within a handler of its own the front end gathers what several writes give it.
      setImmediate(() => this.#gone || this.#writeOn())
    } else if (this.#writeUnsent()) {
      return undefined
    }
    return new Promise((resolve, reject) => (this.#whenTaken = { resolve, reject }))
  }

  /**
   * Tries again to write what waits. While a caller sends as fast as it is read, the front end reads on in one go,
   * paused or not, and no timer is met: then this is what lets the answer out.
   */
  writeAgain(): void {
    // Over TLS no read is as long as that, see boundReads in uws.ts.
    if (this.#gone || this.#secureTransport || !this.#congested) return
    if (this.#whenTaken !== undefined) this.#writeOn()
  }

  /** The end. */
  finish(): void {
    if (this.#gone) return
    // What the front end has still to send waits as well where it is paused.
    this.#congested = false
    this.resume()
    this.#response.cork(() => {
      this.#begin()
      this.#response.end()
    })
    this.abandon()
    this.#over()
  }

  /** Nothing more is written: the caller is gone, or the answer is another one. */
  abandon(): void {
    this.#gone = true
    clearTimeout(this.#asking)
    this.#unsent = NOTHING
    this.#whenTaken?.reject(new KeyfoldError('ABORTED'))
    this.#whenTaken = undefined
  }

  /** The front end's pause stops everything, also that it tells when the socket takes more: then it is asked. */
  #stop(): void {
    if (this.#gone || !this.#paused) return
    this.#stopped = true
    this.#response.pause()
  }

  #go(): void {
    if (this.#gone || !this.#stopped || this.#paused) return
    this.#stopped = false
    this.#takeUpPolling()
  }

  /**
   * What is polled for when a connection goes on is what the front end last saw of any that was paused in the same
   * state, with something to send or nothing: this one has to be among them.
   */
  #takeUpPolling(): void {
    this.#response.pause()
    this.#response.resume()
  }

  #begin(): void {
    if (this.#begun) return
    this.#begun = true
    const response = this.#response
    response.writeHeader('Content-Type', this.#head.contentType)
    for (const [name, value] of this.#head.headers) response.writeHeader(name, value)
    response.onWritable(() => {
      if (this.#whenTaken !== undefined) this.#writeOn()
      // What the front end holds leaves only when something is written, or at the end of this.
      else response.cork(() => undefined)
      return true
    })
  }

  #writeOn(): void {
    if (!this.#writeUnsent()) return
    const waiting = this.#whenTaken
    this.#whenTaken = undefined
    waiting?.resolve()
  }

  /**
   * Writes on until the socket takes no more, and answers whether the next part may come. What the socket does not take,
   * the front end keeps, without a bound, and does not tell how much it is: whether that is gone is found out a byte at
   * a time, for which some are kept back.
   */
  #writeUnsent(): boolean {
    while (this.#unsent.length > 0) {
      this.#response.cork(() => {
        this.#begin()
        this.#congested = !this.#response.write(this.#nextSlice())
      })
      if (this.#congested) {
        // A write that fails makes the front end read on.
        this.#stop()
        this.#askLater()
        return this.#unsent.length === 0
      }
      this.#asked = 0
    }
    return true
  }

  #nextSlice(): Uint8Array {
    const { length } = this.#unsent
    const free = length > ASKED_MAX ? length - ASKED_MAX : length
    const sliceBytesMax = this.#secureTransport ? TLS_SLICE_BYTES_MAX : SLICE_BYTES_MAX
    const bytes = this.#congested ? 1 : Math.min(free, sliceBytesMax)
    const slice = this.#unsent.subarray(0, bytes)
    this.#unsent = this.#unsent.subarray(bytes)
    return slice
  }

  /** As the front end tells it where it is not stopped. */
  #askLater(): void {
    if (!this.#stopped || this.#asking !== undefined) return
    const ms = Math.min(ASK_MS_MIN * 2 ** this.#asked, ASK_MS_MAX)
    this.#asking = setTimeout(() => {
      this.#asking = undefined
      if (this.#gone || !this.#stopped || !this.#congested) return
      if (++this.#asked > ASKED_MAX) this.#cut()
      else this.#writeOn()
    }, ms)
  }
}
