/**
 * The main thread's side of a module. One thread serves a module, however many stores have tokens in it: C_Initialize
 * and C_Finalize are the process's, and one store's would pull the ground from under another's.
 *
 * A thread that died is replaced when it is next needed, after pauses that grow while none lives long enough to do
 * anything. One that hangs (thread-life.ts) is replaced at once, PKCS11_HANGING_MAX times: after that the module is
 * left alone until one of them returns. While any hangs the library is not finalised, which would take the ground from
 * under it.
 */
import type { KeySpec } from '../../crypto/key-spec.ts'
import {
  PKCS11_CALL_MS_MAX,
  PKCS11_CREATE_MS_MAX,
  PKCS11_HANGING_MAX,
  PKCS11_MENDING_MS_MAX,
  PKCS11_MENDING_MS_MIN,
} from '../../limits.ts'
import { unreachable } from './failures.ts'
import type { KeyOperation, TokenKey, TokenStart } from './messages.ts'
import { ThreadLife, type Answer, type Question } from './thread-life.ts'

export interface RegionCall<T> {
  readonly key: TokenKey
  readonly operation: KeyOperation
  readonly aad: Uint8Array
  readonly input: Uint8Array
  readonly outputBytesMax: number
  /** Copies what it needs of the output, which is zeros afterwards. */
  readonly take: (output: Uint8Array) => T
}

interface TokenOfThread {
  readonly start: TokenStart
  readonly readPin: () => Promise<Uint8Array>
  /** In which it was opened. */
  life: ThreadLife
}

export class ModuleThread {
  static readonly #threads = new Map<string, ModuleThread>()

  readonly #path: string
  readonly #hanging = new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT)
  readonly #tokens = new Map<number, TokenOfThread>()
  #life: ThreadLife | undefined
  /** One that is ending will finalise the library, which may be after the next has initialised it. */
  #ending: Promise<void> | undefined
  #lastToken = 0
  #users = 0
  #startsAfter = 0
  #pauseMs = PKCS11_MENDING_MS_MIN
  /** A thread ended without C_Finalize, and none has made up for it. */
  #isStale = false

  /** The thread of the module at `path`; whoever takes it owes release(). */
  static take(path: string): ModuleThread {
    const thread = ModuleThread.#threads.get(path) ?? new ModuleThread(path)
    ModuleThread.#threads.set(path, thread)
    thread.#users++
    return thread
  }

  constructor(path: string) {
    this.#path = path
  }

  async openToken(
    start: TokenStart,
    readPin: () => Promise<Uint8Array>,
  ): Promise<{ readonly token: number; readonly keySpecs: readonly KeySpec[] }> {
    while (this.#ending !== undefined) await this.#ending
    const token = ++this.#lastToken
    const life = this.#living()
    this.#tokens.set(token, { start, readPin, life })
    try {
      const answer = await this.#ask(life, { kind: 'open', token, start })
      return { token, keySpecs: answer.kind === 'opened' ? answer.keySpecs : [] }
    } catch (error) {
      this.#tokens.delete(token)
      throw error
    }
  }

  async use<T>(token: number, call: RegionCall<T>): Promise<T> {
    const { key, operation, aad, input, take } = call
    const life = this.#lifeOf(token)
    const outputAt = aad.length + input.length
    const region = new SharedArrayBuffer(outputAt + call.outputBytesMax)
    const bytes = new Uint8Array(region)
    bytes.set(aad)
    bytes.set(input, aad.length)
    const use = { key, operation, region, aadBytes: aad.length, inputBytes: input.length }
    return life.ask(
      { kind: 'use', token, use },
      {
        msMax: operation.kind === 'create' ? PKCS11_CREATE_MS_MAX : PKCS11_CALL_MS_MAX,
        taken: (answer) => {
          const outputBytes = answer.kind === 'done' ? answer.outputBytes : 0
          return take(bytes.subarray(outputAt, outputAt + outputBytes))
        },
        wipe: () => bytes.fill(0),
      },
    )
  }

  async probe(token: number): Promise<void> {
    await this.#ask(this.#lifeOf(token), { kind: 'probe', token })
  }

  async random(token: number, bytes: number): Promise<Uint8Array> {
    const region = new SharedArrayBuffer(bytes)
    const output = new Uint8Array(region)
    return this.#lifeOf(token).ask(
      { kind: 'random', token, region },
      {
        msMax: PKCS11_CALL_MS_MAX,
        taken: () => Uint8Array.from(output),
        wipe: () => output.fill(0),
      },
    )
  }

  forget(token: number, kmsKeyId: Uint8Array): void {
    this.#tokens.get(token)?.life.post({ kind: 'forget', token, kmsKeyId })
  }

  async closeToken(token: number): Promise<void> {
    const life = this.#tokens.get(token)?.life
    this.#tokens.delete(token)
    // What was open in a thread that is no more went with it.
    if (life?.isUp === true) await this.#ask(life, { kind: 'close', token })
  }

  /** The last one ends the thread. */
  async release(): Promise<void> {
    this.#users--
    if (this.#users > 0) return
    const life = this.#life
    this.#life = undefined
    if (life?.isUp === true) {
      if (this.#hangs > 0) this.#isStale = true
      this.#ending = life.end().then(() => {
        this.#ending = undefined
      })
      await this.#ending
    }
    this.#forgetUnused()
  }

  /** Throws KEY_STORE_UNREACHABLE where the token was closed, or no thread can be had. */
  #lifeOf(number: number): ThreadLife {
    const token = this.#tokens.get(number)
    if (token === undefined) throw unreachable('it is closed')
    if (token.life.isUp) return token.life
    const life = this.#living()
    // It is opened by the first call that needs it, which is told what is wrong with it.
    life.post({ kind: 'reopen', token: number, start: token.start })
    token.life = life
    return life
  }

  #living(): ThreadLife {
    if (this.#life?.isUp === true) return this.#life
    const hangs = this.#hangs
    if (hangs >= PKCS11_HANGING_MAX) {
      throw unreachable(`${hangs} threads hang in its module, and no more are started`)
    }
    if (performance.now() < this.#startsAfter) throw unreachable('its thread has ended')
    const isStale = this.#isStale
    if (hangs === 0) this.#isStale = false
    this.#life = new ThreadLife({
      start: { path: this.#path, hanging: this.#hanging, isStale },
      readPin: (token) => this.#tokens.get(token)?.readPin(),
      onAnswer: () => {
        this.#pauseMs = PKCS11_MENDING_MS_MIN
      },
      onLoss: (how) => {
        this.#isStale = true
        if (how === 'hangs') return
        this.#startsAfter = performance.now() + this.#pauseMs
        this.#pauseMs = Math.min(2 * this.#pauseMs, PKCS11_MENDING_MS_MAX)
      },
      onExit: () => this.#forgetUnused(),
    })
    return this.#life
  }

  #ask(life: ThreadLife, question: Question): Promise<Answer> {
    return life.ask(question, {
      msMax: PKCS11_CALL_MS_MAX,
      taken: (answer) => answer,
      wipe: () => undefined,
    })
  }

  get #hangs(): number {
    return Atomics.load(new Int32Array(this.#hanging), 0)
  }

  /** What hangs in it or was left of it has to be known to whoever opens the module next. */
  #forgetUnused(): void {
    if (this.#users > 0 || this.#hangs > 0 || this.#isStale) return
    if (ModuleThread.#threads.get(this.#path) === this) ModuleThread.#threads.delete(this.#path)
  }
}
