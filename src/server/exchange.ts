/**
 * One HTTP exchange on uWebSockets.js: its body comes in, one answer goes out, and whatever it holds is given back
 * once, also when the caller goes away. Large answers leave in slices, because the front end copies what a socket
 * does not take at once and would not say when it is gone.
 */
import type { RequestBytes } from '../envelope/batch.ts'
import { KeyfoldError } from '../errors.ts'
import type { RequestOrigin } from '../kms/kms-key.ts'
import type { Slot, SlotPool } from '../pool/slot.ts'
import type { Answer } from './answer.ts'
import { STATUS_OK, type Header } from './http.ts'
import type { HttpResponse } from './uws.ts'

/** One write of a large answer. */
const SLICE_BYTES_MAX = 1024 * 1024
/** Below this an answer goes out in one call, and the front end keeps what the socket does not take. */
const SMALL_ANSWER_BYTES_MAX = 64 * 1024
/** One write of an answer in parts: so much of it the front end may keep. */
const CHUNK_BYTES_MAX = 320 * 1024
/**
 * How a paused connection is asked whether it takes more: soon, then less often, and for half a minute in all, in which
 * a caller at 16 KB/s takes what the front end keeps.
 */
const ASK_MS_MIN = 1
const ASK_MS_MAX = 64
const ASKED_MAX = 480
const NOTHING: Uint8Array = new Uint8Array(0)
const FIRST_SLOT_BYTES = 256 * 1024

/**
 * A request's body. One that came in one piece stays in the front end's buffer until something has to wait:
 * then `keep` moves it into a slot, and offsets stay as they are.
 */
export class Body implements RequestBytes {
  bytes: Uint8Array
  readonly #slots: SlotPool
  #slot: Slot | undefined

  constructor(slots: SlotPool, bytes: Uint8Array, slot: Slot | undefined) {
    this.#slots = slots
    this.bytes = bytes
    this.#slot = slot
  }

  keep(): void {
    if (this.#slot !== undefined) return
    const slot = this.#slots.acquire(this.bytes.length)
    slot.bytes.set(this.bytes)
    this.bytes = slot.bytes.subarray(0, this.bytes.length)
    this.#slot = slot
  }

  /** Other bytes in place of these: a JSON request becomes the MessagePack request that it stands for. */
  replace(bytes: Uint8Array): void {
    const wasKept = this.#slot !== undefined
    this.release()
    this.bytes = bytes
    // What was charged as it came stays charged, and workers can reach it.
    if (wasKept) this.keep()
  }

  release(): void {
    this.#slot?.release()
    this.#slot = undefined
  }
}

/** What goes before an answer whose length is not known. */
export interface ChunkedHead {
  readonly contentType: string
  readonly headers: readonly Header[]
}

export class Exchange implements RequestOrigin {
  readonly #response: HttpResponse
  readonly secureTransport: boolean
  readonly #bodiless: boolean
  readonly #onOver: () => void
  #sourceAddress: string | undefined
  /** Set when the caller went away, or the answer is out: the response must not be touched any more. */
  #gone = false
  #onGone: (() => void) | undefined
  #paused = false
  /** Whether the front end was told so. */
  #stopped = false
  /** Of an answer in parts: what the front end was not given yet, and whether it holds what the socket did not take. */
  #unsent = NOTHING
  #congested = false
  #asked = 0
  #asking: NodeJS.Timeout | undefined
  #chunkedHead: ChunkedHead | undefined
  #begun = false
  /** Set while the caller has not taken what they were sent. */
  #whenTaken: { resolve(): void; reject(error: KeyfoldError): void } | undefined

  /** `over` is called once, when the last byte is out or the caller is gone. */
  constructor(
    response: HttpResponse,
    options: {
      readonly method: string
      readonly secureTransport: boolean
      readonly over: () => void
    },
  ) {
    this.#response = response
    this.secureTransport = options.secureTransport
    // An answer to HEAD has no body, or it would be read as the next answer (RFC 9110 §9.3.2).
    this.#bodiless = options.method === 'head'
    this.#onOver = options.over
    response.onAborted(() => {
      const onGone = this.#onGone
      this.#onGone = undefined
      this.#end()
      this.#whenTaken?.reject(new KeyfoldError('ABORTED'))
      onGone?.()
    })
  }

  #end(): void {
    this.#gone = true
    clearTimeout(this.#asking)
    this.#onOver()
  }

  /**
   * Asked for only when a policy reads it. Throws ABORTED when it is too late to ask: without an address, a policy
   * that denies some would let them pass.
   */
  get sourceAddress(): string {
    if (this.#sourceAddress === undefined) {
      if (this.#gone) throw new KeyfoldError('ABORTED')
      this.#sourceAddress = addressText(this.#response.getRemoteAddress())
    }
    return this.#sourceAddress
  }

  /**
   * Collects the body and hands it over, in the same tick where it came in one piece. Bytes are charged as they
   * arrive: a chunked body announces no length. Whoever receives the body owes body.release().
   */
  receive(
    slots: SlotPool,
    bytesMax: number,
    announcedBytes: number,
    received: (body: Body) => void,
    refused: (error: KeyfoldError) => void,
  ): void {
    if (announcedBytes > bytesMax) {
      refused(tooLarge(bytesMax))
      return
    }
    let slot: Slot | undefined
    let length = 0
    let over = false
    const giveBack = (): void => {
      slot?.release()
      slot = undefined
    }
    this.#onGone = giveBack
    this.#response.onData((chunk, isLast) => {
      if (over || this.#gone) return
      if (slot === undefined && isLast) {
        over = true
        this.#onGone = undefined
        if (chunk.byteLength > bytesMax) refused(tooLarge(bytesMax))
        else received(new Body(slots, new Uint8Array(chunk), undefined))
        return
      }
      try {
        slot = append(slots, slot, length, new Uint8Array(chunk), announcedBytes, bytesMax)
        length += chunk.byteLength
      } catch (error) {
        over = true
        this.#onGone = undefined
        giveBack()
        refused(error as KeyfoldError)
        return
      }
      if (isLast) {
        over = true
        this.#onGone = undefined
        const whole = slot
        slot = undefined
        received(new Body(slots, whole.bytes.subarray(0, length), whole))
      }
    })
  }

  /**
   * Hands the body over as it comes, in views that are good until `taken` returns, for an answer in parts with this
   * head; `gone` is called where the caller goes away before the answer is out.
   */
  receiveChunks(
    head: ChunkedHead,
    taken: (chunk: Uint8Array, isLast: boolean) => void,
    gone: () => void,
  ): void {
    this.#chunkedHead = head
    this.#onGone = gone
    // What is polled for when a connection goes on is what the front end last saw of any that was paused in the same
    // state: one with nothing to send has to be among them.
    this.#response.pause()
    this.#response.resume()
    this.#response.onData((chunk, isLast) => {
      if (!this.#gone) taken(new Uint8Array(chunk), isLast)
    })
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
   * Over TLS the front end drops what it has read and not handled yet when it writes, and it writes whenever it reads
   * while something waits to be sent: then nothing is read.
   */
  get #mustStop(): boolean {
    return this.#paused || (this.secureTransport && this.#congested && this.#unsent.length > 0)
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
    this.#response.resume()
  }

  /** Whether a part of the answer is out: from then on an error can only be seen as an answer without its end. */
  get begun(): boolean {
    return this.#begun
  }

  /**
   * The next part of an answer of unknown length, one at a time; the head goes before the first one. The promise, if
   * there is one, resolves when more is wanted; until then `bytes` stay as they are. Throws and rejects with ABORTED
   * where the caller is gone.
   */
  write(bytes: Uint8Array): Promise<void> | undefined {
    if (this.#gone) throw new KeyfoldError('ABORTED')
    this.#unsent = bytes
    if (this.secureTransport) {
      // Not within the handler of a part of the body: see above.
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
    // Over TLS that would cost what was read and not handled yet.
    if (this.#gone || this.secureTransport || !this.#congested) return
    if (this.#whenTaken !== undefined) this.#writeOn()
  }

  /** The end of an answer that was written in parts. */
  finish(): void {
    if (this.#gone) return
    // What the front end has still to send waits as well where it is paused.
    this.#unsent = NOTHING
    this.resume()
    this.#response.cork(() => {
      this.#beginChunks()
      this.#response.end()
    })
    this.#onGone = undefined
    this.#end()
  }

  /** Ends the connection, so that nobody takes what they were sent for a whole answer. */
  cut(): void {
    if (!this.#gone) this.#response.close()
  }

  #beginChunks(): void {
    if (this.#begun) return
    const { contentType, headers } = this.#chunkedHead as ChunkedHead
    this.#begun = true
    const response = this.#response
    response.writeHeader('Content-Type', contentType)
    for (const [name, value] of headers) response.writeHeader(name, value)
    response.onWritable(() => {
      this.#writeOn()
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
   * Writes on until the socket takes no more, and answers whether everything is written. What the socket does not take,
   * the front end keeps, without a bound, and does not tell how much it is: whether that is gone is found out a byte at
   * a time, for which some are kept back.
   */
  #writeUnsent(): boolean {
    this.#response.cork(() => this.#beginChunks())
    while (this.#unsent.length > 0) {
      const whole = Math.min(this.#unsent.length - ASKED_MAX, CHUNK_BYTES_MAX)
      const bytes = this.#congested ? 1 : whole > 0 ? whole : this.#unsent.length
      const slice = this.#unsent.subarray(0, bytes)
      this.#unsent = this.#unsent.subarray(bytes)
      this.#response.cork(() => (this.#congested = !this.#response.write(slice)))
      if (!this.#congested) {
        this.#asked = 0
        continue
      }
      // A write that fails makes the front end read on.
      this.#stop()
      this.#askLater()
      return this.#unsent.length === 0
    }
    this.#go()
    return true
  }

  /** As the front end tells it where it is not stopped. */
  #askLater(): void {
    if (!this.#stopped || this.#asking !== undefined) return
    const ms = Math.min(ASK_MS_MIN * 2 ** this.#asked, ASK_MS_MAX)
    this.#asking = setTimeout(() => {
      this.#asking = undefined
      if (this.#gone || !this.#stopped || !this.#congested) return
      if (++this.#asked > ASKED_MAX) this.cut()
      else this.#writeOn()
    }, ms)
  }

  /** Sends the answer and releases it when its last byte is gone, or the caller is. */
  send(status: string, contentType: string, answer: Answer, headers: readonly Header[] = []): void {
    if (this.#gone) {
      answer.release()
      return
    }
    const response = this.#response
    response.cork(() => {
      if (status !== STATUS_OK) response.writeStatus(status)
      response.writeHeader('Content-Type', contentType)
      for (const [name, value] of headers) response.writeHeader(name, value)
      const bytes = answer.memory.subarray(answer.offset, answer.end)
      if (this.#bodiless) {
        // Told to endWithoutBody itself, the length is waited for and the connection stands still.
        response.writeHeader('Content-Length', String(bytes.length))
        response.endWithoutBody()
        answer.release()
        this.#end()
      } else if (bytes.length <= SMALL_ANSWER_BYTES_MAX) {
        response.end(bytes)
        answer.release()
        this.#end()
      } else {
        this.#sendSlices(bytes, answer)
      }
    })
  }

  #sendSlices(bytes: Uint8Array, answer: Answer): void {
    const response = this.#response
    this.#onGone = () => answer.release()
    const pump = (): boolean => {
      for (;;) {
        const offset = response.getWriteOffset()
        const slice = bytes.subarray(offset, Math.min(offset + SLICE_BYTES_MAX, bytes.length))
        const [ok, done] = response.tryEnd(slice, bytes.length)
        if (done) {
          this.#onGone = undefined
          answer.release()
          this.#end()
          return true
        }
        if (!ok) return false
      }
    }
    response.onWritable(() => pump())
    pump()
  }
}

/** `::ffff:0:0/96`: what an IPv4 caller looks like on a socket that takes both (RFC 4291 §2.5.5.2). */
const IPV4_MAPPED = Buffer.from('00000000000000000000ffff', 'hex')

/** Four or sixteen bytes as text that policies compare. */
export function addressText(address: ArrayBuffer): string {
  const bytes = Buffer.from(address)
  const mapped = bytes.length === 16 && bytes.subarray(0, 12).equals(IPV4_MAPPED)
  if (bytes.length === 4 || mapped) return [...bytes.subarray(-4)].join('.')
  const groups = Array.from({ length: bytes.length / 2 }, (_, i) =>
    bytes.readUInt16BE(2 * i).toString(16),
  )
  // The shortest spelling, RFC 5952, is what a URL has.
  return new URL(`http://[${groups.join(':')}]`).hostname.slice(1, -1)
}

function tooLarge(bytesMax: number): KeyfoldError {
  return new KeyfoldError('REQUEST_TOO_LARGE', `at most ${bytesMax} bytes`)
}

/** Copies a chunk behind what is there, into a larger slot where it does not fit. */
function append(
  slots: SlotPool,
  slot: Slot | undefined,
  length: number,
  chunk: Uint8Array,
  announcedBytes: number,
  bytesMax: number,
): Slot {
  const needed = length + chunk.length
  if (needed > bytesMax) throw tooLarge(bytesMax)
  let target = slot ?? slots.acquire(Math.max(announcedBytes, FIRST_SLOT_BYTES))
  if (needed > target.bytes.length) {
    const larger = slots.acquire(2 * needed)
    larger.bytes.set(target.bytes.subarray(0, length))
    target.release()
    target = larger
  }
  target.bytes.set(chunk, length)
  return target
}
