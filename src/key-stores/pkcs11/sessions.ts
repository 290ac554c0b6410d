/**
 * The sessions of a token: opened as they are needed up to a limit, handed from call to call, and closed after any
 * failure, because a failed call may leave its operation active (CKR_OPERATION_ACTIVE for whoever comes next).
 */
import { CKF, CKR, returnValueOf, type Cryptoki, type Handle } from './cryptoki.ts'
import { SessionsGone } from './failures.ts'

export class Sessions {
  readonly #cryptoki: Cryptoki
  readonly #slot: Handle
  #limit: number
  #opened = 0
  readonly #idle: Handle[] = []
  readonly #waiting: (() => void)[] = []
  #gone = false

  constructor(cryptoki: Cryptoki, slot: Handle, limit: number) {
    this.#cryptoki = cryptoki
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
    if (this.#gone) return
    if (failed) {
      this.#opened--
      this.#close(session)
    } else {
      this.#idle.push(session)
    }
    this.#waiting.shift()?.()
  }

  /** With no call under way. Where the library was finalised, their numbers may be other sessions' by now. */
  end(how: 'close' | 'forget'): void {
    this.#gone = true
    if (how === 'close') for (const session of this.#idle) this.#close(session)
    for (const wake of this.#waiting.splice(0)) wake()
  }

  /** undefined: the token gives no more for now; those that are there have to do. */
  #open(): Handle | undefined {
    try {
      const session = this.#cryptoki.C_OpenSession(this.#slot, CKF.SERIAL_SESSION)
      this.#opened++
      return session
    } catch (error) {
      if (returnValueOf(error) !== CKR.SESSION_COUNT || this.#opened === 0) throw error
      this.#limit = this.#opened
      return undefined
    }
  }

  #close(session: Handle): void {
    try {
      this.#cryptoki.C_CloseSession(session)
    } catch {
      // It is closed, which is what was wanted.
    }
  }
}
