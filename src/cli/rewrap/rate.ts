/** So many a second and no more: each lot waits until those before it had their time. */
export class Rate {
  readonly #perSecond: number
  readonly #nowMs: () => number
  readonly #wait: (ms: number) => Promise<void>
  #freeAtMs = 0

  constructor(
    perSecond: number,
    clock: { readonly nowMs: () => number; readonly wait: (ms: number) => Promise<void> },
  ) {
    this.#perSecond = perSecond
    this.#nowMs = clock.nowMs
    this.#wait = clock.wait
  }

  /** Resolves when `count` more may go. What was not used before is not made up for. */
  async take(count: number): Promise<void> {
    const nowMs = this.#nowMs()
    const startMs = Math.max(nowMs, this.#freeAtMs)
    this.#freeAtMs = startMs + (count / this.#perSecond) * 1000
    if (startMs > nowMs) await this.#wait(startMs - nowMs)
  }
}
