/**
 * An answer of unknown length on uWebSockets.js, written in parts while the body of its request still comes in. The
 * caller is stopped and let go on from here too, because over TLS the one is not to be had without the other.
 *
 *     write ──► before │ unsent │ kept ──► front end ──► socket
 *               └ over TLS: the end of an earlier part, and of this one, kept back until something comes behind it
 */
import { KeyfoldError } from '../errors.ts'
import type { Header } from './http.ts'
import type { HttpResponse } from './uws.ts'

/** One write: so much the front end may keep of what the socket does not take. */
const SLICE_BYTES_MAX = 320 * 1024
/**
 * Over TLS, where a record is no larger: together with what was kept back and what the front end puts around it no more
 * than it gathers before it asks the socket, 16 KiB. What does not fit, uWebSockets drops before 20.77 where the
 * socket does not take what was gathered.
 */
const TLS_SLICE_BYTES_MAX = 15_000
/**
 * How a paused connection is asked whether it takes more: soon, then less often, and for half a minute in all, in which
 * a caller at 16 KB/s takes what the front end keeps. Each time costs one of the bytes that are kept back.
 */
const ASK_MS_MIN = 1
const ASK_MS_MAX = 64
const ASKED_MAX = 480
/** What is kept back goes out when nothing has come behind it for so long: somebody may wait for it. */
const KEPT_MS_MAX = 20
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
  /** What the front end was not given yet: these two, and then what is kept back. */
  #before = NOTHING
  #unsent = NOTHING
  #kept = NOTHING
  /** Whether the front end holds what the socket did not take. */
  #congested = false
  #asked = 0
  #asking: NodeJS.Timeout | undefined
  #keeping: NodeJS.Timeout | undefined
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
    if (this.#secureTransport) {
      this.#keepBack(bytes)
      // Not within the handler of a part of the body: see #mustStop.
      setImmediate(() => this.#gone || this.#writeOn())
    } else {
      this.#unsent = bytes
      if (this.#writeUnsent()) return undefined
    }
    return new Promise((resolve, reject) => (this.#whenTaken = { resolve, reject }))
  }

  /**
   * Tries again to write what waits. While a caller sends as fast as it is read, the front end reads on in one go,
   * paused or not, and no timer is met: then this is what lets the answer out.
   */
  writeAgain(): void {
    // Over TLS that would cost what was read and not handled yet.
    if (this.#gone || this.#secureTransport || !this.#congested) return
    if (this.#whenTaken !== undefined) this.#writeOn()
  }

  /** The end, behind what was kept back. */
  finish(): void {
    if (this.#gone) return
    // What the front end has still to send waits as well where it is paused.
    this.#congested = false
    this.resume()
    this.#response.cork(() => {
      this.#begin()
      this.#response.end(this.#kept)
    })
    this.abandon()
    this.#over()
  }

  /** Nothing more is written: the caller is gone, or the answer is another one. */
  abandon(): void {
    this.#gone = true
    clearTimeout(this.#asking)
    clearTimeout(this.#keeping)
    this.#before = wiped(this.#before)
    this.#kept = wiped(this.#kept)
    this.#unsent = NOTHING
    this.#whenTaken?.reject(new KeyfoldError('ABORTED'))
    this.#whenTaken = undefined
  }

  /**
   * Over TLS the front end drops what it has read and not handled yet when it writes, and it writes whenever it reads
   * while it holds what the socket did not take: then nothing is read.
   */
  get #mustStop(): boolean {
    return this.#paused || (this.#secureTransport && this.#congested)
  }

  /** The front end's pause stops everything, also that it tells when the socket takes more: then it is asked. */
  #stop(): void {
    if (this.#gone || !this.#mustStop) return
    this.#stopped = true
    this.#response.pause()
  }

  #go(): void {
    if (this.#gone || !this.#stopped || this.#mustStop) return
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

  /** What was kept back goes before these bytes, and their end, or everything where it is little, is kept. */
  #keepBack(bytes: Uint8Array): void {
    const kept = this.#kept
    if (bytes.length >= ASKED_MAX) {
      this.#before = kept
      this.#unsent = bytes.subarray(0, bytes.length - ASKED_MAX)
      this.#kept = Uint8Array.from(bytes.subarray(bytes.length - ASKED_MAX))
    } else {
      const both = Buffer.concat([kept, bytes])
      const from = Math.max(0, both.length - ASKED_MAX)
      this.#before = Uint8Array.from(both.subarray(0, from))
      this.#kept = Uint8Array.from(both.subarray(from))
      wiped(both)
      wiped(kept)
    }
    this.#keeping ??= setTimeout(() => this.#sendKept(), KEPT_MS_MAX)
    this.#keeping.refresh()
  }

  /** What the socket takes of this nobody is told; it has had time to take what was before. */
  #sendKept(): void {
    if (this.#gone || this.#whenTaken !== undefined || this.#kept.length === 0) return
    const kept = this.#kept
    this.#kept = NOTHING
    this.#response.cork(() => {
      this.#begin()
      this.#response.write(kept)
    })
    wiped(kept)
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
   * a time. Whether it keeps something of the last write, it tells at the next one: over TLS that has to be known.
   */
  #writeUnsent(): boolean {
    let isKnown = !this.#secureTransport || (!this.#hasUnsent && !this.#congested)
    while (this.#hasUnsent || !isKnown) {
      const asks = this.#congested || !this.#hasUnsent
      this.#response.cork(() => {
        this.#begin()
        if (asks) this.#ask()
        else this.#writeSlice()
      })
      if (this.#congested) {
        // A write that fails makes the front end read on.
        this.#stop()
        this.#askLater()
        return !this.#secureTransport && !this.#hasUnsent
      }
      this.#asked = 0
      isKnown ||= asks && !this.#hasUnsent
    }
    this.#go()
    return true
  }

  get #hasUnsent(): boolean {
    return this.#before.length + this.#unsent.length > 0
  }

  #writeSlice(): void {
    if (this.#before.length > 0) this.#congested = !this.#response.write(this.#before)
    this.#before = wiped(this.#before)
    const { length } = this.#unsent
    if (length === 0) return
    // Not over TLS some bytes to ask with are left behind in the part itself.
    const bytes = this.#secureTransport
      ? Math.min(length, TLS_SLICE_BYTES_MAX)
      : Math.min(length > ASKED_MAX ? length - ASKED_MAX : length, SLICE_BYTES_MAX)
    this.#writeBytes(bytes)
  }

  #writeBytes(bytes: number): void {
    const slice = this.#unsent.subarray(0, bytes)
    this.#unsent = this.#unsent.subarray(bytes)
    this.#congested = !this.#response.write(slice)
  }

  #ask(): void {
    if (this.#unsent.length > 0) {
      this.#writeBytes(1)
      return
    }
    this.#congested = !this.#response.write(this.#kept.subarray(0, 1))
    wiped(this.#kept.subarray(0, 1))
    this.#kept = this.#kept.subarray(1)
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

/** Of a decrypted stream it is plaintext. */
function wiped(bytes: Uint8Array): typeof NOTHING {
  bytes.fill(0)
  return NOTHING
}
