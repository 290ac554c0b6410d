/**
 * The main thread's side of a module's thread. One thread serves a module, however many stores have tokens in it:
 * C_Initialize and C_Finalize are the process's, and one store's would pull the ground from under another's.
 *
 * The region of a call is filled with zeros when its answer is here, or can no longer come. A caller whose time is up
 * is gone by then; the module may still write.
 */
import { Worker } from 'node:worker_threads'

import { KeyfoldError } from '../../errors.ts'
import { PKCS11_CALL_MS_MAX, PKCS11_CALLS_MAX, PKCS11_CREATE_MS_MAX } from '../../limits.ts'
import type { KeySpec } from '../../crypto/key-spec.ts'
import type { FromWorker, KeyOperation, TokenKey, TokenStart, ToWorker } from './messages.ts'

type Answer = Extract<FromWorker, { kind: 'opened' | 'done' }>
type Asked = Extract<ToWorker, { readonly call: number }>
/** Of each kind of message by itself, which Omit on the whole would not do. */
type WithoutCall<M> = M extends Asked ? Omit<M, 'call'> : never

export interface RegionCall<T> {
  readonly key: TokenKey
  readonly operation: KeyOperation
  readonly aad: Uint8Array
  readonly input: Uint8Array
  readonly outputBytesMax: number
  /** Copies what it needs of the output, which is zeros afterwards. */
  readonly take: (output: Uint8Array) => T
}

interface Waiting {
  readonly resolve: (answer: Answer) => void
  readonly reject: (error: Error) => void
  readonly settled: () => void
}

export class ModuleThread {
  static readonly #threads = new Map<string, ModuleThread>()
  static readonly #ending = new Map<string, Promise<void>>()

  readonly #path: string
  readonly #worker: Worker
  readonly #ended: Promise<void>
  readonly #waiting = new Map<number, Waiting>()
  readonly #pins = new Map<number, () => Promise<Uint8Array>>()
  #lastNumber = 0
  #users = 0
  #dead: KeyfoldError | undefined

  /** The thread of the module at `path`; whoever takes it owes release(). */
  static async take(path: string): Promise<ModuleThread> {
    // One that is ending will finalise the library, which may be after the next has initialised it.
    for (let ending = ModuleThread.#ending.get(path); ending !== undefined;) {
      await ending
      ending = ModuleThread.#ending.get(path)
    }
    const known = ModuleThread.#threads.get(path)
    const thread = known ?? new ModuleThread(path)
    ModuleThread.#threads.set(path, thread)
    thread.#users++
    return thread
  }

  constructor(path: string) {
    this.#path = path
    // No environment goes to the thread: it needs none, and secrets may stand there.
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), {
      workerData: { path },
      env: {},
    })
    this.#worker.on('message', (message: FromWorker) => this.#hear(message))
    this.#worker.on('error', (cause) => this.#die(cause))
    this.#ended = new Promise((resolve) => {
      this.#worker.once('exit', () => {
        this.#die()
        resolve()
      })
    })
  }

  async openToken(
    start: TokenStart,
    readPin: () => Promise<Uint8Array>,
  ): Promise<{ readonly token: number; readonly keySpecs: readonly KeySpec[] }> {
    const token = ++this.#lastNumber
    this.#pins.set(token, readPin)
    try {
      const answer = await this.#ask({ kind: 'open', token, start }, PKCS11_CALL_MS_MAX)
      return { token, keySpecs: answer.kind === 'opened' ? answer.keySpecs : [] }
    } catch (error) {
      this.#pins.delete(token)
      throw error
    }
  }

  async use<T>(token: number, call: RegionCall<T>): Promise<T> {
    const { key, operation, aad, input, take } = call
    const outputAt = aad.length + input.length
    const region = new SharedArrayBuffer(outputAt + call.outputBytesMax)
    const bytes = new Uint8Array(region)
    bytes.set(aad)
    bytes.set(input, aad.length)
    const use = { key, operation, region, aadBytes: aad.length, inputBytes: input.length }
    const msMax = operation.kind === 'create' ? PKCS11_CREATE_MS_MAX : PKCS11_CALL_MS_MAX
    return this.#ask(
      { kind: 'use', token, use },
      msMax,
      (answer) => {
        const outputBytes = answer.kind === 'done' ? answer.outputBytes : 0
        return take(bytes.subarray(outputAt, outputAt + outputBytes))
      },
      () => bytes.fill(0),
    )
  }

  async probe(token: number): Promise<void> {
    await this.#ask({ kind: 'probe', token }, PKCS11_CALL_MS_MAX)
  }

  forget(token: number, kmsKeyId: Uint8Array): void {
    this.#post({ kind: 'forget', token, kmsKeyId })
  }

  async closeToken(token: number): Promise<void> {
    try {
      await this.#ask({ kind: 'close', token }, PKCS11_CALL_MS_MAX)
    } finally {
      this.#pins.delete(token)
    }
  }

  /** The last one ends the thread. */
  async release(): Promise<void> {
    this.#users--
    if (this.#users > 0) return
    if (ModuleThread.#threads.get(this.#path) === this) ModuleThread.#threads.delete(this.#path)
    const ending = this.#ended.then(() => {
      ModuleThread.#ending.delete(this.#path)
    })
    ModuleThread.#ending.set(this.#path, ending)
    this.#post({ kind: 'end' })
    await ending
  }

  /**
   * `taken` makes the result while the answer is at hand; `settled` runs once the module has nothing more to do with
   * the call, which for a caller who gave up is later.
   */
  #ask<T = Answer>(
    message: WithoutCall<Asked>,
    msMax: number,
    taken: (answer: Answer) => T = (answer) => answer as T,
    settled: () => void = () => undefined,
  ): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const refusal =
        this.#dead ??
        (this.#waiting.size >= PKCS11_CALLS_MAX ? new KeyfoldError('OVERLOADED') : undefined)
      if (refusal !== undefined) {
        settled()
        reject(refusal)
        return
      }
      const call = ++this.#lastNumber
      const timer = setTimeout(
        () => reject(unreachable(`it has not answered in ${msMax / 1000} s`)),
        msMax,
      )
      const answered = (answer: Answer): void => {
        try {
          resolve(taken(answer))
        } catch (error) {
          reject(error as Error)
        }
      }
      this.#waiting.set(call, {
        resolve: answered,
        reject,
        settled: () => {
          clearTimeout(timer)
          settled()
        },
      })
      this.#post({ ...message, call } as ToWorker)
    })
  }

  #hear(message: FromWorker): void {
    if (message.kind === 'pinWanted') {
      void this.#givePin(message.token)
      return
    }
    const waiting = this.#waiting.get(message.call)
    this.#waiting.delete(message.call)
    if (message.kind === 'failed') {
      waiting?.reject(new KeyfoldError(message.code, message.detail, message.cause))
    } else {
      waiting?.resolve(message)
    }
    waiting?.settled()
  }

  /** Throws nothing: the worker is told that there is none, and says so to the caller. */
  async #givePin(token: number): Promise<void> {
    let region: SharedArrayBuffer | undefined
    try {
      const pin = await this.#pins.get(token)?.()
      if (pin !== undefined) {
        region = new SharedArrayBuffer(pin.length)
        new Uint8Array(region).set(pin)
        pin.fill(0)
      }
    } catch {
      region = undefined
    }
    this.#post({ kind: 'pin', token, region })
  }

  #post(message: ToWorker): void {
    if (this.#dead === undefined) this.#worker.postMessage(message)
  }

  #die(cause?: unknown): void {
    this.#dead ??= new KeyfoldError('KEY_STORE_UNREACHABLE', 'its thread has ended', cause)
    if (ModuleThread.#threads.get(this.#path) === this) ModuleThread.#threads.delete(this.#path)
    for (const waiting of this.#waiting.values()) {
      waiting.reject(this.#dead)
      waiting.settled()
    }
    this.#waiting.clear()
  }
}

function unreachable(detail: string): KeyfoldError {
  return new KeyfoldError('KEY_STORE_UNREACHABLE', detail)
}
