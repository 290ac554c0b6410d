/**
 * One life of a module's thread, from its start to its end: calls, their deadlines, and what becomes of them when it
 * dies or hangs.
 *
 * A call into a module cannot be broken off. One that was begun and has not ended at its deadline hangs, and the thread
 * with it: it is abandoned, which means that nothing is asked of it any more, that whoever waits for it is told so, and
 * that it ends by itself should the call ever return. What was not begun yet is never begun.
 *
 * The region of a call is filled with zeros when its answer is here, or can no longer come, and at once where it is
 * given up; the module may still write, so once more when it is over.
 */
import { Worker } from 'node:worker_threads'

import { KeyfoldError } from '../../errors.ts'
import { PKCS11_CALLS_MAX } from '../../limits.ts'
import { StoreFault } from '../store-fault.ts'
import { giveUp, newCallState, type CallState } from './call-state.ts'
import { unreachable } from './failures.ts'
import type { FromWorker, ModuleStart, ToWorker } from './messages.ts'

export type Answer = Extract<FromWorker, { kind: 'opened' | 'done' }>
type Asked = Extract<ToWorker, { readonly call: number }>
/** Of each kind of message by itself, which Omit on the whole would not do. */
export type Question = Asked extends infer M
  ? M extends Asked
    ? Omit<M, 'call' | 'state'>
    : never
  : never

export interface AskOptions<T> {
  readonly msMax: number
  /** Makes the result while the answer is at hand. */
  readonly taken: (answer: Answer) => T
  /** Called when nobody takes anything of the call, and again when the module has no more to do with it. */
  readonly wipe: () => void
}

export interface LifeOptions {
  readonly start: ModuleStart
  /** Throws, or undefined, where there is none. */
  readonly readPin: (token: number) => Promise<Uint8Array> | undefined
  /** It is of use: it did what it was asked. */
  readonly onAnswer: () => void
  /** It ended without having been told to; `hangs`: it did not even end. */
  readonly onLoss: (how: 'died' | 'hangs') => void
  /** No thread of this life is left. */
  readonly onExit: () => void
}

interface Waiting {
  readonly state: CallState
  readonly resolve: (answer: Answer) => void
  readonly reject: (error: Error) => void
  readonly wipe: () => void
  readonly msMax: number
  timer: NodeJS.Timeout
  /** Its answer is on its way and does not arrive. */
  overdue: boolean
}

export class ThreadLife {
  /** Resolves once it has ended, or was abandoned: nobody waits for a thread that hangs. */
  readonly over: Promise<void>
  readonly #options: LifeOptions
  readonly #worker: Worker
  readonly #waiting = new Map<number, Waiting>()
  #lastCall = 0
  /** Why nothing is asked any more. */
  #refusal: KeyfoldError | undefined
  #hangs = false
  #isTold = false

  constructor(options: LifeOptions) {
    this.#options = options
    const { hanging } = options.start
    // No environment goes to the thread: it needs none, and secrets may stand there.
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), {
      workerData: options.start,
      env: {},
    })
    this.#worker.on('message', (message: FromWorker) => this.#hear(message))
    this.#worker.on('error', (cause) => this.#die(cause))
    let end = (): void => undefined
    this.over = new Promise((resolve) => {
      end = resolve
    })
    this.#end = end
    this.#worker.once('exit', () => {
      if (this.#hangs) Atomics.sub(new Int32Array(hanging), 0, 1)
      this.#die()
      end()
      options.onExit()
    })
  }

  readonly #end: () => void

  get isUp(): boolean {
    return this.#refusal === undefined
  }

  ask<T>(question: Question, { msMax, taken, wipe }: AskOptions<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const refusal =
        this.#refusal ??
        (this.#waiting.size >= PKCS11_CALLS_MAX ? new KeyfoldError('OVERLOADED') : undefined)
      if (refusal !== undefined) {
        wipe()
        reject(refusal)
        return
      }
      const call = ++this.#lastCall
      const state = newCallState()
      const answered = (answer: Answer): void => {
        try {
          resolve(taken(answer))
        } catch (error) {
          reject(error as Error)
        }
      }
      const timer = setTimeout(() => this.#expire(call), msMax)
      const waiting = { state, resolve: answered, reject, wipe, msMax, timer, overdue: false }
      this.#waiting.set(call, waiting)
      this.post({ ...question, call, state } as ToWorker)
    })
  }

  post(message: ToWorker): void {
    if (this.#refusal === undefined) this.#worker.postMessage(message)
  }

  /** Nothing is open in it any more. */
  async end(): Promise<void> {
    this.post({ kind: 'end' })
    this.#isTold = true
    await this.over
  }

  /** The deadline of this call is over. */
  #expire(call: number): void {
    const waiting = this.#waiting.get(call)
    if (waiting === undefined) return
    const late = unreachable(`it has not answered in ${waiting.msMax / 1000} s`)
    const before = giveUp(waiting.state)
    if (before === 'asked') {
      // The thread is busy with others. This one it will pass over.
      this.#waiting.delete(call)
      waiting.reject(late)
      waiting.wipe()
    } else if (before === 'done' && !waiting.overdue) {
      waiting.overdue = true
      waiting.timer = setTimeout(() => this.#expire(call), waiting.msMax)
    } else {
      waiting.reject(late)
      this.#abandon()
    }
  }

  #abandon(): void {
    if (this.#refusal !== undefined) return
    this.#hangs = true
    Atomics.add(new Int32Array(this.#options.start.hanging), 0, 1)
    this.post({ kind: 'end' })
    this.#refusal = unreachable('a call into its module hangs')
    for (const [call, waiting] of this.#waiting) {
      const before = giveUp(waiting.state)
      if (before === 'done' && !waiting.overdue) continue
      clearTimeout(waiting.timer)
      waiting.reject(this.#refusal)
      waiting.wipe()
      if (before === 'asked') this.#waiting.delete(call)
    }
    this.#end()
    this.#options.onLoss('hangs')
  }

  #hear(message: FromWorker): void {
    if (message.kind === 'pinWanted') {
      void this.#givePin(message.token)
      return
    }
    const waiting = this.#waiting.get(message.call)
    this.#waiting.delete(message.call)
    clearTimeout(waiting?.timer)
    if (message.kind === 'failed') {
      waiting?.reject(errorOf(message))
    } else {
      this.#options.onAnswer()
      waiting?.resolve(message)
    }
    waiting?.wipe()
  }

  /** Throws nothing: the thread is told that there is none, and says so to the caller. */
  async #givePin(token: number): Promise<void> {
    let region: SharedArrayBuffer | undefined
    try {
      const pin = await this.#options.readPin(token)
      if (pin !== undefined) {
        region = new SharedArrayBuffer(pin.length)
        new Uint8Array(region).set(pin)
        pin.fill(0)
      }
    } catch {
      region = undefined
    }
    if (this.isUp) this.post({ kind: 'pin', token, region })
    else if (region !== undefined) new Uint8Array(region).fill(0)
  }

  #die(cause?: unknown): void {
    const isNews = this.#refusal === undefined
    this.#refusal ??= new KeyfoldError('KEY_STORE_UNREACHABLE', 'its thread has ended', cause)
    for (const waiting of this.#waiting.values()) {
      clearTimeout(waiting.timer)
      waiting.reject(this.#refusal)
      waiting.wipe()
    }
    this.#waiting.clear()
    if (isNews && !this.#isTold) this.#options.onLoss('died')
  }
}

function errorOf({ code, detail, fault, cause }: Extract<FromWorker, { kind: 'failed' }>): Error {
  return fault === undefined
    ? new KeyfoldError(code, detail, cause)
    : new StoreFault(fault, code, detail, cause)
}
