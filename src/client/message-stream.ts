/**
 * Object streams of messages: bytes in, bytes out, in order. Inside they are batches, a few of them under way at once;
 * when those are all waiting, the stream takes no more, and so on up to the source.
 */
import { Transform, type TransformCallback } from 'node:stream'

export interface StreamLimits {
  readonly messagesMax: number
  readonly bytesMax: number
  /** A batch that is not full leaves after this time, so that a slow source is not kept waiting. */
  readonly waitMs: number
  /** Batches under way at once. */
  readonly batchesMax: number
}

/** What became of one message. */
export type Opened = Uint8Array | Error

/**
 * `run` does one batch. A message that failed ends the stream with its error, unless `onFailure` is given: then it is
 * told, with the message's place in the stream, and left out.
 */
export function createMessageStream(
  limits: StreamLimits,
  run: (messages: readonly Uint8Array[]) => Promise<readonly Opened[]>,
  onFailure: ((error: Error, index: number) => void) | undefined,
): Transform {
  let gathered: Uint8Array[] = []
  let gatheredBytes = 0
  let streamed = 0
  let timer: NodeJS.Timeout | undefined
  /** Batches under way, oldest first; each resolves when its messages have left, after those of the one before. */
  const underWay: Promise<void>[] = []

  const emit = (messages: readonly Opened[]): void => {
    for (const message of messages) {
      const index = streamed++
      if (!(message instanceof Error)) stream.push(message)
      else if (onFailure === undefined) throw message
      else onFailure(message, index)
    }
  }
  const start = (): void => {
    clearTimeout(timer)
    timer = undefined
    const before = underWay.at(-1) ?? Promise.resolve()
    const answered = run(gathered)
    // A failure is met in its turn; until then it is nobody's unhandled rejection.
    answered.catch(() => undefined)
    const left = before
      .then(() => answered)
      .then(emit)
      // In braces: finally() would wait for a promise that it is given, which is this one.
      .finally(() => {
        void underWay.shift()
      })
    left.catch((error: unknown) => stream.destroy(error as Error))
    underWay.push(left)
    gathered = []
    gatheredBytes = 0
  }

  const stream = new Transform({
    objectMode: true,
    writableHighWaterMark: limits.messagesMax,
    readableHighWaterMark: limits.messagesMax,
    transform(message: unknown, _encoding, done: TransformCallback) {
      if (!(message instanceof Uint8Array)) {
        done(new TypeError('a message is a Uint8Array'))
        return
      }
      gathered.push(message)
      gatheredBytes += message.length
      if (gathered.length >= limits.messagesMax || gatheredBytes >= limits.bytesMax) start()
      else timer ??= setTimeout(start, limits.waitMs)
      if (underWay.length < limits.batchesMax) done()
      else underWay[0]?.then(() => done(), done)
    },
    flush(done: TransformCallback) {
      if (gathered.length > 0) start()
      const last = underWay.at(-1) ?? Promise.resolve()
      last.then(() => done(), done)
    },
    destroy(error, done) {
      clearTimeout(timer)
      done(error)
    },
  })
  return stream
}
