/**
 * Runs of frames under way, a few at once, whose results leave in the order in which they were begun. Whoever adds
 * one waits while there are too many, or while nobody takes what has left.
 */
import type { MaybePromise } from '../crypto/frame-cipher.ts'

/** Hands bytes on; the promise, if there is one, resolves when more are wanted. */
export type Emit = (bytes: Uint8Array) => Promise<void> | undefined

export class Window {
  readonly #emit: Emit
  readonly #runsMax: number
  /** Oldest first; each resolves when its result has left, after those before it. */
  readonly #underWay: Promise<void>[] = []
  #failure: { readonly error: unknown } | undefined

  constructor(emit: Emit, runsMax: number) {
    this.#emit = emit
    this.#runsMax = runsMax
  }

  /** Throws what an earlier run failed with. */
  async add(result: MaybePromise<Uint8Array>): Promise<void> {
    if (!(result instanceof Promise) && this.#underWay.length === 0) {
      this.#throwFailure()
      await this.#emit(result)
      return
    }
    const before = this.#underWay.at(-1)
    const left = (async () => {
      // A failure is met in its turn; until then it is nobody's unhandled rejection.
      const settled = Promise.resolve(result)
      settled.catch(() => undefined)
      await before
      if (this.#failure !== undefined) return
      try {
        await this.#emit(await settled)
      } catch (error) {
        this.#failure = { error }
      }
    })()
    this.#underWay.push(left)
    void left.then(() => this.#underWay.shift())
    if (this.#underWay.length >= this.#runsMax) await this.#underWay[0]
    this.#throwFailure()
  }

  /** Waits until all has left. */
  async drain(): Promise<void> {
    await this.#underWay.at(-1)
    this.#throwFailure()
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure.error
  }
}
