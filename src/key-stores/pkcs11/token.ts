/**
 * One token: its login, its sessions and the handles of its keys, and their recovery.
 *
 * A call that fails has the token looked at, and what is broken mended, before it is tried again, PKCS11_ATTEMPTS_MAX
 * times in all:
 *
 *     library finalised, token gone or another         C_Finalize, C_Initialize, sessions, login
 *     the session that holds the login is gone         sessions, login
 *     logged out                                       login
 *     nothing                                          another session, and the key looked for again
 *
 * Each mending begins a generation. Sessions and handles are of one generation and are never used in the next: after it
 * their numbers may name other things. Somebody else in the process can do to the library what we do without our
 * knowing, so a handle is also held against its CKA_ID after each use that would not fail under another key.
 */
import { LRUCache } from 'lru-cache'

import { KeyfoldError } from '../../errors.ts'
import {
  PKCS11_ATTEMPTS_MAX,
  PKCS11_HANDLES_MAX,
  PKCS11_MENDING_MS_MAX,
  PKCS11_MENDING_MS_MIN,
} from '../../limits.ts'
import { CKF, CKR, CKS_LOGGED_IN, CKU_USER, returnValueOf, type Handle } from './cryptoki.ts'
import {
  DecryptRefused,
  HandleMoved,
  isCiphertextFault,
  isDoubtful,
  isPinRefusal,
  isSessionFault,
  isUnsupported,
  KeyMissing,
  nameOf,
  pinFaultOf,
  SessionsGone,
  unreachable,
} from './failures.ts'
import type { Library } from './library.ts'
import type { TokenStart } from './messages.ts'
import { Sessions } from './sessions.ts'
import { selectSlot } from './slots.ts'

/** One generation. */
export interface OpenToken {
  readonly slot: Handle
  readonly serial: string
  /** Never closed while the token is open: the login lasts as long as the application has a session. */
  readonly holder: Handle
  readonly sessions: Sessions
  /** By CKA_ID in hex. */
  readonly handles: LRUCache<string, Handle>
  readonly epoch: number
}

type Ailment = 'library' | 'session' | 'login'

/** Runs one operation in a session; throws what the token said. */
export type Work<T> = (open: OpenToken, session: Handle) => Promise<T>

export class Token {
  readonly #library: Library
  readonly #start: TokenStart
  /** A region with the PIN in UTF-8, which is filled with zeros here. */
  readonly #askPin: () => Promise<SharedArrayBuffer | undefined>
  #open: OpenToken | undefined
  /** In this thread, or in one before it. */
  #everOpened: boolean
  #closed = false
  /** Why no login is tried any more: a wrong PIN costs one of the few attempts that the token grants. */
  #refused: KeyfoldError | undefined
  #failure: KeyfoldError | undefined
  #mendingAfter = 0
  #mendingMs = PKCS11_MENDING_MS_MIN

  constructor(
    library: Library,
    start: TokenStart,
    askPin: () => Promise<SharedArrayBuffer | undefined>,
    everOpened: boolean,
  ) {
    this.#everOpened = everOpened
    this.#library = library
    this.#start = start
    this.#askPin = askPin
  }

  /** That it takes no PIN of ours: asked again it would lock its user out. */
  get refusal(): KeyfoldError | undefined {
    return this.#refused
  }

  get calls(): TokenStart['calls'] {
    return this.#start.calls
  }

  get random(): TokenStart['random'] {
    return this.#start.random
  }

  /** Throws what the caller is told. `isWanted`: whether there still is one, who may have waited for long. */
  async perform<T>(work: Work<T>, isWanted: () => boolean = () => true): Promise<T> {
    let last: unknown
    for (let attempt = 0; attempt < PKCS11_ATTEMPTS_MAX; attempt++) {
      if (!isWanted()) throw unreachable('nobody waits for it any more')
      const open = this.#open ?? (await this.#mend(undefined))
      try {
        return await this.#attempt(open, work)
      } catch (error) {
        last = error
        await this.#settle(open, error)
      }
    }
    const returnValue = returnValueOf(last)
    throw unreachable(
      returnValue === undefined ? 'the token keeps changing' : `it answers ${nameOf(returnValue)}`,
    )
  }

  /** Looks, without using a key. */
  async probe(): Promise<void> {
    const open = this.#open ?? (await this.#mend(undefined))
    if (this.#examine(open) !== undefined) await this.#mend(open)
  }

  forget(kmsKeyIdHex: string): void {
    const handles = this.#open?.handles
    for (const id of [...(handles?.keys() ?? [])]) {
      if (id.startsWith(kmsKeyIdHex)) handles?.delete(id)
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#library.exclusively(async () => {
      const open = this.#open
      this.#open = undefined
      if (open === undefined) return
      open.sessions.end()
      if (open.epoch === this.#library.epoch) this.#closeSession(open.holder)
    })
  }

  async #attempt<T>(open: OpenToken, work: Work<T>): Promise<T> {
    const session = await open.sessions.acquire()
    await this.#library.enter()
    let failed = true
    try {
      if (open !== this.#open || open.epoch !== this.#library.epoch) throw new SessionsGone()
      const result = await work(open, session)
      failed = false
      return result
    } finally {
      open.sessions.release(session, failed)
      this.#library.leave()
    }
  }

  /** Returns where another attempt may do better; throws where none would. */
  async #settle(open: OpenToken, error: unknown): Promise<void> {
    if (error instanceof SessionsGone) return
    if (error instanceof HandleMoved) {
      await this.#mend(open)
      return
    }
    const isRefused = error instanceof DecryptRefused
    const returnValue = isRefused ? error.returnValue : returnValueOf(error)
    if (returnValue === undefined && !(error instanceof KeyMissing)) throw error
    if (isRefused && isCiphertextFault(error.returnValue)) throw new KeyfoldError('DECRYPT_FAILED')
    if (!isRefused && returnValue !== undefined && isUnsupported(returnValue)) {
      throw new KeyfoldError(
        'OPERATION_UNSUPPORTED',
        `the token answers ${nameOf(returnValue)}`,
        error,
      )
    }
    if (this.#examine(open) !== undefined) {
      await this.#mend(open)
      return
    }
    // The token is well. So it was the ciphertext, or the key is gone, or the session was spoilt.
    if (error instanceof KeyMissing) {
      throw new KeyfoldError('KMS_KEY_UNAVAILABLE', 'its key is not in the token')
    }
    if (isRefused && isDoubtful(error.returnValue)) throw new KeyfoldError('DECRYPT_FAILED')
    open.handles.clear()
  }

  /** What is broken; undefined: nothing that shows. */
  #examine(open: OpenToken): Ailment | undefined {
    if (open !== this.#open || open.epoch !== this.#library.epoch) return 'session'
    const { cryptoki } = this.#library
    try {
      if (cryptoki.C_GetTokenInfo(open.slot).serialNumber !== open.serial) return 'library'
      const { state, slotID } = cryptoki.C_GetSessionInfo(open.holder)
      if (!slotID.equals(open.slot)) return 'session'
      return CKS_LOGGED_IN.includes(state) ? undefined : 'login'
    } catch (error) {
      const returnValue = returnValueOf(error)
      return returnValue !== undefined && isSessionFault(returnValue) ? 'session' : 'library'
    }
  }

  /** Opens the token anew, unless somebody has since `seen`. Throws where that cannot be, and soon again. */
  async #mend(seen: OpenToken | undefined): Promise<OpenToken> {
    return this.#library.exclusively(async () => {
      if (this.#closed) throw unreachable('it is closed')
      if (this.#open !== undefined && this.#open !== seen) return this.#open
      if (this.#refused !== undefined) throw this.#refused
      if (this.#failure !== undefined && performance.now() < this.#mendingAfter) throw this.#failure
      try {
        const opened = await this.#reopen()
        this.#failure = undefined
        this.#mendingMs = PKCS11_MENDING_MS_MIN
        return opened
      } catch (error) {
        this.#open = undefined
        this.#failure = this.#told(error)
        // Mending disturbs the other tokens of the module: not at each call to one that is away for long.
        this.#mendingAfter = performance.now() + this.#mendingMs
        this.#mendingMs = Math.min(2 * this.#mendingMs, PKCS11_MENDING_MS_MAX)
        throw this.#failure
      }
    })
  }

  async #reopen(): Promise<OpenToken> {
    const { cryptoki } = this.#library
    const before = this.#open
    const ailment = before === undefined ? undefined : this.#examine(before)
    this.#open = undefined
    if (ailment === 'library' || (before === undefined && this.#everOpened)) {
      this.#library.reinitialize()
    }
    before?.sessions.end()
    const { slot, serial } = selectSlot(cryptoki, this.#start.token)
    // Opened before the old one is closed: with the last session of an application its login ends.
    const holder = cryptoki.C_OpenSession(slot, CKF.SERIAL_SESSION)
    if (before?.epoch === this.#library.epoch) this.#closeSession(before.holder)
    try {
      await this.#login(slot, holder)
    } catch (error) {
      this.#closeSession(holder)
      throw error
    }
    this.#everOpened = true
    this.#open = {
      slot,
      serial,
      holder,
      sessions: new Sessions(this.#library, slot, this.#sessionsMax(slot)),
      handles: new LRUCache({ max: PKCS11_HANDLES_MAX }),
      epoch: this.#library.epoch,
    }
    return this.#open
  }

  async #login(slot: Handle, holder: Handle): Promise<void> {
    const { cryptoki } = this.#library
    if (CKS_LOGGED_IN.includes(cryptoki.C_GetSessionInfo(holder).state)) return
    const region = await this.#askPin()
    if (region === undefined) throw unreachable('the PIN could not be read')
    const pin = Buffer.from(region)
    try {
      const { flags } = cryptoki.C_GetTokenInfo(slot)
      if ((flags & CKF.USER_PIN_LOCKED) !== 0) {
        throw unreachable('the PIN of the token is locked', 'user-locked')
      }
      if ((flags & CKF.USER_PIN_FINAL_TRY) !== 0) {
        throw unreachable('one more wrong PIN would lock the token: log in elsewhere first')
      }
      // pkcs11js takes a string, which nobody can wipe: it is made here and kept by nobody.
      cryptoki.C_Login(holder, CKU_USER, pin.toString('utf8'))
    } catch (error) {
      const returnValue = returnValueOf(error)
      if (returnValue === CKR.USER_ALREADY_LOGGED_IN) return
      if (returnValue === undefined || !isPinRefusal(returnValue)) throw error
      this.#refused = unreachable(
        `the token refuses the PIN (${nameOf(returnValue)}), which is not tried again until keyfold is started anew`,
        pinFaultOf(returnValue),
      )
      throw this.#refused
    } finally {
      pin.fill(0)
    }
  }

  /** Two are kept back: the one that holds the login, and the one that a new key is made in. */
  #sessionsMax(slot: Handle): number {
    // Calls that block the thread are one at a time in any case.
    const wanted = this.#start.calls === 'sync' ? 1 : this.#start.sessionsMax
    const { maxSessionCount } = this.#library.cryptoki.C_GetTokenInfo(slot)
    const isKnown = maxSessionCount > 0 && maxSessionCount < 0xffffffff
    return Math.max(1, isKnown ? Math.min(wanted, maxSessionCount - 2) : wanted)
  }

  #told(error: unknown): KeyfoldError {
    if (error instanceof KeyfoldError) return error
    const returnValue = returnValueOf(error)
    if (returnValue === undefined) throw error
    return unreachable(`it answers ${nameOf(returnValue)}`)
  }

  #closeSession(session: Handle): void {
    try {
      this.#library.cryptoki.C_CloseSession(session)
    } catch {
      // It is closed, which is what was wanted.
    }
  }
}
