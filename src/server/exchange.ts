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
import { ChunkedAnswer, type ChunkedHead } from './chunked-answer.ts'
import { STATUS_OK, type Header } from './http.ts'
import type { HttpResponse } from './uws.ts'

/** One write of a large answer. */
const SLICE_BYTES_MAX = 1024 * 1024
/** Below this an answer goes out in one call, and the front end keeps what the socket does not take. */
const SMALL_ANSWER_BYTES_MAX = 64 * 1024
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

export class Exchange implements RequestOrigin {
  readonly #response: HttpResponse
  readonly secureTransport: boolean
  readonly #bodiless: boolean
  readonly #onOver: () => void
  #sourceAddress: string | undefined
  /** Set when the caller went away, or the answer is out: the response must not be touched any more. */
  #gone = false
  #onGone: (() => void) | undefined
  #chunked: ChunkedAnswer | undefined

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
      onGone?.()
    })
  }

  #end(): void {
    this.#gone = true
    this.#chunked?.abandon()
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

  /** An answer in parts, where the body may come in parts too. What is sent in place of it abandons it. */
  answerInChunks(head: ChunkedHead): ChunkedAnswer {
    this.#chunked = new ChunkedAnswer(this.#response, {
      secureTransport: this.secureTransport,
      head,
      cut: () => this.cut(),
      over: () => {
        this.#onGone = undefined
        this.#end()
      },
    })
    return this.#chunked
  }

  /**
   * Hands the body over as it comes, in views that are good until `taken` returns; `gone` is called where the caller
   * goes away before the answer is out.
   */
  receiveChunks(taken: (chunk: Uint8Array, isLast: boolean) => void, gone: () => void): void {
    this.#onGone = gone
    this.#response.onData((chunk, isLast) => {
      if (!this.#gone) taken(new Uint8Array(chunk), isLast)
    })
  }

  /** Ends the connection, so that nobody takes what they were sent for a whole answer. */
  cut(): void {
    if (!this.#gone) this.#response.close()
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
