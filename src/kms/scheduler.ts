/**
 * What happens to keys because time goes by: deletions whose waiting period is over, rotations, and imported material
 * that expires. One timer to the next due moment, and a look around at least every minute.
 *
 * Nothing depends on when it runs or on who runs it. What is due stands in the catalog, and each action is a transaction
 * that looks again whether it still is: after a restart overdue work is simply done, clocks may jump, and several nodes
 * may do this side by side. What fails is told to the log and tried again a minute later; the rest goes on.
 */
import type { Catalog } from '../catalog/catalog.ts'
import { readNextDueAtMs, type DuePage } from '../catalog/due.ts'
import { KeyfoldError } from '../errors.ts'
import { SCHEDULER_PAGE, SCHEDULER_RECHECK_MS } from '../limits.ts'

/** One kind of work that becomes due. */
export interface DueWork {
  due(page: DuePage): Promise<readonly string[]>
  /** False where somebody else did it, or it is not to be done any more. */
  finish(id: string): Promise<boolean>
}

export interface SchedulerOptions {
  readonly catalog: Catalog
  /** By what the log calls them, in the order in which they are done. */
  readonly works: Readonly<Record<string, DueWork>>
  /** Wall clock. */
  readonly nowMs: () => number
  readonly log: (message: string) => void
}

export class Scheduler {
  readonly #options: SchedulerOptions
  #running: Promise<void> | undefined
  #again = false
  #timer: NodeJS.Timeout | undefined
  #stopped = false

  constructor(options: SchedulerOptions) {
    this.#options = options
  }

  /** Something may have become due. Never throws, and waits for nothing. */
  wake(): void {
    void this.run()
  }

  /** Does all that is due. Whoever calls during a run gets one that begins after it. Never rejects. */
  run(): Promise<void> {
    this.#again = true
    return (this.#running ??= this.#runWhileAsked())
  }

  /** Resolves when nothing is under way any more. */
  async stop(): Promise<void> {
    this.#stopped = true
    clearTimeout(this.#timer)
    await this.#running
  }

  async #runWhileAsked(): Promise<void> {
    // In the tick of whoever woke us nothing happens yet: a change is not over before its listeners return.
    await Promise.resolve()
    while (this.#again && !this.#stopped) {
      this.#again = false
      await this.#runOnce()
    }
    this.#running = undefined
  }

  async #runOnce(): Promise<void> {
    const { catalog, works, nowMs, log } = this.#options
    clearTimeout(this.#timer)
    const startedAtMs = nowMs()
    let nextAtMs: number | undefined
    try {
      for (const [name, work] of Object.entries(works))
        await this.#finishAll(name, work, startedAtMs)
      await catalog.scrub()
      // What is due by now has had its turn: what failed is not to be tried again at once.
      nextAtMs = await readNextDueAtMs(catalog.db, startedAtMs)
    } catch (error) {
      log(`due work could not be done: ${messageOf(error)}`)
    }
    this.#arm(nextAtMs)
  }

  async #finishAll(name: string, work: DueWork, dueAtMs: number): Promise<void> {
    let failures = 0
    let first = ''
    let afterId = ''
    while (!this.#stopped) {
      const ids = await work.due({ nowMs: dueAtMs, afterId, limit: SCHEDULER_PAGE })
      for (const id of ids) {
        if (this.#stopped) break
        try {
          await work.finish(id)
        } catch (error) {
          // Another node was faster.
          if (error instanceof KeyfoldError && error.code === 'KMS_KEY_NOT_FOUND') continue
          if (failures++ === 0) first = `${id}: ${messageOf(error)}`
        }
      }
      const last = ids.at(-1)
      if (last === undefined || ids.length < SCHEDULER_PAGE) break
      afterId = last
    }
    if (failures === 0) return
    const others = failures === 1 ? '' : ` (and ${failures - 1} others)`
    this.#options.log(`${name} failed and will be tried again: ${first}${others}`)
  }

  #arm(nextAtMs: number | undefined): void {
    if (this.#stopped) return
    const waitMs = (nextAtMs ?? Infinity) - this.#options.nowMs()
    this.#timer = setTimeout(() => this.wake(), Math.max(0, Math.min(waitMs, SCHEDULER_RECHECK_MS)))
    this.#timer.unref()
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
