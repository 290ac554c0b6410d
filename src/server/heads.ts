/**
 * Heads that were decoded before. A pipeline sends the same key, context and form with every request, and only the
 * messages differ; where the array of messages comes last, all bytes before it decide what the rest means. If a
 * body begins with a head that was seen, what was decoded then holds now.
 */
import { Walker } from '../format/msgpack.ts'
import { readLastMessages, type ElementSpan } from '../format/requests.ts'

/** Heads kept for one operation: callers with more of them pay for decoding each time. */
const HEADS_MAX = 64
/** Longer heads are not worth comparing. */
const HEAD_BYTES_MAX = 4_096

interface Head<T> {
  readonly bytes: Buffer
  readonly fields: T
}

export class Heads<T> {
  readonly #arrayField: string
  readonly #heads: Head<T>[] = []
  #next = 0

  constructor(arrayField: string) {
    this.#arrayField = arrayField
  }

  /** What was decoded from this head, or undefined. */
  find(body: Uint8Array): Head<T> | undefined {
    for (const head of this.#heads) {
      const { length } = head.bytes
      if (length < body.length && head.bytes.compare(body, 0, length) === 0) return head
    }
    return undefined
  }

  remember(body: Uint8Array, headEnd: number | undefined, fields: T): void {
    if (headEnd === undefined || headEnd > HEAD_BYTES_MAX) return
    this.#heads[this.#next] = { bytes: Buffer.from(body.subarray(0, headEnd)), fields }
    this.#next = (this.#next + 1) % HEADS_MAX
  }

  /** The messages behind a known head: the array is the last thing of the body. */
  messagesBehind(head: Head<T>, body: Uint8Array): ElementSpan {
    return readLastMessages(new Walker(body, head.bytes.length), this.#arrayField)
  }
}
