/**
 * A PKCS#11 module as a whole. Initialising it anew takes every session, login and object handle of the process with
 * it, so nothing else may be under way: calls enter and leave, and whoever cures waits until all have left.
 */
import { CKF, CKR, returnValueOf, type Cryptoki } from './cryptoki.ts'

export class Library {
  readonly cryptoki: Cryptoki
  readonly #hanging: Int32Array
  /** How often it was initialised. Handles of another epoch mean nothing, or another thing. */
  #epoch = 0
  #running = 0
  #exclusive: Promise<void> | undefined
  #drained: (() => void) | undefined

  /** `hanging`: how many threads hang in the module, ours included. */
  constructor(cryptoki: Cryptoki, hanging: SharedArrayBuffer) {
    this.cryptoki = cryptoki
    this.#hanging = new Int32Array(hanging)
  }

  get epoch(): number {
    return this.#epoch
  }

  async enter(): Promise<void> {
    while (this.#exclusive !== undefined) await this.#exclusive
    this.#running++
  }

  leave(): void {
    this.#running--
    if (this.#running === 0) this.#drained?.()
  }

  /** Runs `work` with no call under way. Whoever asks for it has left. */
  async exclusively<T>(work: () => Promise<T>): Promise<T> {
    while (this.#exclusive !== undefined) await this.#exclusive
    let end = (): void => undefined
    this.#exclusive = new Promise((resolve) => {
      end = resolve
    })
    try {
      if (this.#running > 0) {
        await new Promise<void>((resolve) => {
          this.#drained = resolve
        })
        this.#drained = undefined
      }
      return await work()
    } finally {
      this.#exclusive = undefined
      end()
    }
  }

  /** As initialize, once. */
  ensureInitialized(): void {
    if (this.#epoch === 0) this.initialize()
  }

  /** Somebody else in the process may have done it already, which is as good. */
  initialize(): void {
    try {
      // Several threads call it: ours, and those of asynchronous calls.
      this.cryptoki.C_Initialize({ flags: CKF.OS_LOCKING_OK })
    } catch (error) {
      if (returnValueOf(error) !== CKR.CRYPTOKI_ALREADY_INITIALIZED) throw error
    }
    this.#epoch++
  }

  /**
   * The only cure for some ailments: a token that went away and came back is not seen again otherwise. Not done while a
   * thread hangs in the library; then what can be mended without it is.
   */
  reinitialize(): void {
    if (this.#isHungIn()) return
    this.finalize()
    this.initialize()
  }

  finalize(): void {
    if (this.#isHungIn()) return
    try {
      this.cryptoki.C_Finalize()
    } catch {
      // It is finalised already, or so broken that only C_Initialize can tell.
    }
  }

  /** PKCS#11 leaves open what C_Finalize does to a call that is under way; in practice it takes the process with it. */
  #isHungIn(): boolean {
    return Atomics.load(this.#hanging, 0) > 0
  }
}
