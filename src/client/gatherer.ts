/**
 * Single messages become batches: those of one key and context that are asked for within a short time travel
 * together. A batch leaves when its time is up, or earlier when it is full.
 */
export interface GatherLimits {
  readonly messagesMax: number
  readonly bytesMax: number
  readonly waitMs: number
}

interface Waiting<T> {
  readonly message: Uint8Array
  readonly resolve: (value: T) => void
  readonly reject: (error: unknown) => void
}

/** `send` answers for each message of the batch, in order: a value, or an error for that message alone. */
export class Gatherer<T> {
  readonly #limits: GatherLimits
  readonly #send: (messages: readonly Uint8Array[]) => Promise<readonly (T | Error)[]>
  #waiting: Waiting<T>[] = []
  #bytes = 0
  #timer: NodeJS.Timeout | undefined

  constructor(
    limits: GatherLimits,
    send: (messages: readonly Uint8Array[]) => Promise<readonly (T | Error)[]>,
  ) {
    this.#limits = limits
    this.#send = send
  }

  add(message: Uint8Array): Promise<T> {
    const { messagesMax, bytesMax, waitMs } = this.#limits
    if (this.#bytes + message.length > bytesMax) this.flush()
    const result = new Promise<T>((resolve, reject) => {
      this.#waiting.push({ message, resolve, reject })
    })
    this.#bytes += message.length
    if (this.#waiting.length >= messagesMax || this.#bytes >= bytesMax) this.flush()
    else this.#timer ??= setTimeout(() => this.flush(), waitMs)
    return result
  }

  /** Nothing waits here. */
  get empty(): boolean {
    return this.#waiting.length === 0
  }

  flush(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const batch = this.#waiting
    if (batch.length === 0) return
    this.#waiting = []
    this.#bytes = 0
    this.#send(batch.map(({ message }) => message)).then(
      (answers) => {
        for (const [i, { resolve, reject }] of batch.entries()) {
          const answer = answers[i]
          if (answer instanceof Error) reject(answer)
          else resolve(answer as T)
        }
      },
      (error: unknown) => {
        for (const { reject } of batch) reject(error)
      },
    )
  }
}
