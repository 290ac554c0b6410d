/**
 * Frames on the addon: the key moves into its table at once, and each run is one call. The table has a bounded number
 * of slots, so that a cipher which nobody wiped gives its slot back when the garbage collector finds it.
 */
import { KeyfoldError } from '../errors.ts'
import { overheadBytes, type FrameRun } from '../format/encryption-sdk-frames.ts'
import type { KeyHandle } from './crypto.ts'
import { answerMemory, type FrameCipher } from './frame-cipher.ts'
import type { FrameCrypto } from './native.ts'

/** `contentKey` has 32 bytes and is zeros afterwards. Errors: KEY_TABLE_FULL. */
export function createNativeFrameCipher(
  native: FrameCrypto,
  contentKey: Buffer,
  messageId: Uint8Array,
): FrameCipher {
  return new NativeFrameCipher(native, native.importKey(contentKey), messageId)
}

class NativeFrameCipher implements FrameCipher {
  readonly #native: FrameCrypto
  readonly #key: KeyHandle
  readonly #messageId: Uint8Array
  #wiped = false

  constructor(native: FrameCrypto, key: KeyHandle, messageId: Uint8Array) {
    this.#native = native
    this.#key = key
    this.#messageId = messageId
    forgotten.register(this, () => releaseKey(native, key), this)
  }

  sealFrames(run: FrameRun, plaintext: Uint8Array, into?: Uint8Array): Uint8Array {
    const wire = answerMemory(into, plaintext.length + overheadBytes(run))
    this.#native.sealFrames(wire, this.#usableKey(), this.#messageId, run, plaintext)
    return wire
  }

  openFrames(run: FrameRun, wire: Uint8Array, into?: Uint8Array): Uint8Array {
    const plaintext = answerMemory(into, wire.length - overheadBytes(run))
    this.#native.openFrames(plaintext, this.#usableKey(), this.#messageId, run, wire)
    return plaintext
  }

  wipe(): void {
    if (this.#wiped) return
    this.#wiped = true
    forgotten.unregister(this)
    releaseKey(this.#native, this.#key)
  }

  #usableKey(): KeyHandle {
    if (this.#wiped) throw new KeyfoldError('INTERNAL', 'the content key was wiped')
    return this.#key
  }
}

const forgotten = new FinalizationRegistry((release: () => void) => release())

function releaseKey(native: FrameCrypto, key: KeyHandle): void {
  try {
    native.releaseKey(key)
  } catch (error) {
    // All keys of the process were wiped: it is gone, as asked.
    if (!(error instanceof KeyfoldError && error.code === 'KEY_HANDLE_STALE')) throw error
  }
}
