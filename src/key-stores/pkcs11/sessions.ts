/**
 * The sessions of a token: opened as they are needed up to a limit, handed from call to call, and closed after any
 * failure, because a failed call may leave its operation active (CKR_OPERATION_ACTIVE for whoever comes next).
 */
import { CKF, CKR, returnValueOf, type Handle } from './cryptoki.ts'
import { SessionsGone } from './failures.ts'
import type { Library } from './library.ts'

export class Sessions {
  readonly #library: Library
  readonly #epoch: number
  readonly #slot: Handle
  #limit: number
  #opened = 0
  readonly #idle: Handle[] = []
  readonly #waiting: (() => void)[] = []
  #gone = false

  constructor(library: Library, slot: Handle, limit: number) {
    this.#library = library
    this.#epoch = library.epoch
    this.#slot = slot
    this.#limit = limit
  }

  /** Throws SessionsGone once they were closed, also for those who wait. */
  async acquire(): Promise<Handle> {
    for (;;) {
      if (this.#gone) throw new SessionsGone()
      const idle = this.#idle.pop()
      if (idle !== undefined) return idle
      if (this.#opened < this.#limit) {
        const session = this.#open()
        if (session !== undefined) return session
      }
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    }
  }

  release(session: Handle, failed: boolean): void {
    if (failed || this.#gone) {
      this.#opened--
      this.#close(session)
    } else {
      this.#idle.push(session)
    }
    this.#waiting.shift()?.()
  }

  /** Those that are handed out are closed when they come back. */
  end(): void {
    this.#gone = true
    for (const session of this.#idle.splice(0)) this.#close(session)
    for (const wake of this.#waiting.splice(0)) wake()
  }

  /** undefined: the token gives no more for now; those that are there have to do. */
  #open(): Handle | undefined {
    try {
      const session = this.#library.cryptoki.C_OpenSession(this.#slot, CKF.SERIAL_SESSION)
      this.#opened++
      return session
    } catch (error) {
      if (returnValueOf(error) !== CKR.SESSION_COUNT || this.#opened === 0) {
        // Nobody may come to wake the next one.
        this.#waiting.shift()?.()
        throw error
      }
      this.#limit = this.#opened
      return undefined
    }
  }

  /** Once the library was initialised anew the number may be another session's. */
  #close(session: Handle): void {
    if (this.#library.epoch !== this.#epoch) return
    try {
      this.#library.cryptoki.C_CloseSession(session)
    } catch {
      // It is closed, which is what was wanted.
    }
  }
}
