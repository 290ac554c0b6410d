/**
 * Writes one message: plaintext in, header and frames out. Frames are numbered here and nowhere else, each number is
 * given to the cipher once, and a message that failed is never taken up again.
 *
 * The final frame is shorter than the others, and empty behind a plaintext of whole frames. The format lets it be a
 * whole one ("Final frame", message format reference), but the Encryption SDK for Python opens no such message.
 */
import { createFrameCipher } from '../crypto/choose-frame-cipher.ts'
import type { CreateFrameCipher, FrameCipher } from '../crypto/frame-cipher.ts'
import { KeyfoldError } from '../errors.ts'
import { overheadBytes, SEQUENCE_MAX } from '../format/encryption-sdk-frames.ts'
import { FILE_RUN_BYTES, FRAME_RUN_BYTES, STREAM_BYTES_MAX } from '../limits.ts'
import type { Conversion, Emit } from './conversion.ts'
import { GatheredBytes } from './gathered-bytes.ts'
import type { Keyring } from './keyring.ts'
import { createMessage } from './materials.ts'
import { checkEncryptOptions, type EncryptFileOptions } from './options.ts'

export interface SealerParts {
  readonly createCipher?: CreateFrameCipher
}

export class MessageSealer implements Conversion {
  readonly #keyring: Pick<Keyring, 'generateDataKey'>
  readonly #options: EncryptFileOptions
  readonly #frameLength: number
  /** What writeRun() is given: whole frames. */
  readonly runBytes: number
  readonly #createCipher: CreateFrameCipher
  readonly #gathered: GatheredBytes
  readonly #emit: Emit
  #cipher: FrameCipher | undefined
  #nextSequence = 1
  #plaintextBytes = 0
  #destroyed = false

  /** Errors: CONFIG_INVALID. */
  constructor(
    keyring: Pick<Keyring, 'generateDataKey'>,
    options: EncryptFileOptions,
    emit: Emit,
    { createCipher = createFrameCipher }: SealerParts = {},
  ) {
    this.#keyring = keyring
    this.#options = options
    this.#emit = emit
    this.#createCipher = createCipher
    this.#frameLength = checkEncryptOptions(options).frameBytes
    this.runBytes = Math.max(1, Math.floor(FILE_RUN_BYTES / this.#frameLength)) * this.#frameLength
    this.#gathered = new GatheredBytes(this.#frameLength)
  }

  /** What a run of so many takes at most. */
  get runWireBytes(): number {
    const frames = this.runBytes / this.#frameLength + 1
    return this.runBytes + overheadBytes({ frames, final: true })
  }

  async write(chunk: Uint8Array): Promise<void> {
    // No wait where none is needed: whoever wrote a chunk of one run may use its memory again at once.
    const cipher = (this.#destroyed ? undefined : this.#cipher) ?? (await this.#begun())
    this.#count(chunk)
    for (let at = 0; at < chunk.length; at += FRAME_RUN_BYTES) {
      const wires = this.#sealWhole(cipher, chunk.subarray(at, at + FRAME_RUN_BYTES))
      for (const wire of wires) await this.#emitNext(wire)
    }
  }

  /**
   * Instead of write() and end(), without copies: `runBytes` each time, and in the final one what is left, which may be
   * nothing. Its wire bytes lie in `into`, if that is given, when they are emitted.
   */
  async writeRun(
    plaintext: Uint8Array,
    into: Uint8Array | undefined,
    final: boolean,
  ): Promise<void> {
    const cipher = await this.#begun()
    this.#count(plaintext)
    await this.#emitNext(this.#seal(cipher, plaintext, final, into))
    if (final) this.destroy()
  }

  async end(): Promise<void> {
    const cipher = await this.#begun()
    // What is held back is less than a frame; it is the final one.
    const rest = this.#gathered.take(this.#gathered.pending.length)
    await this.#emitNext(this.#seal(cipher, rest, true))
    this.destroy()
  }

  destroy(): void {
    this.#destroyed = true
    this.#cipher?.wipe()
    this.#gathered.wipe()
  }

  async #begun(): Promise<FrameCipher> {
    if (this.#destroyed) throw new KeyfoldError('ABORTED')
    if (this.#cipher !== undefined) return this.#cipher
    const message = await createMessage(this.#keyring, this.#frameLength, this.#options)
    this.#cipher = this.#createCipher(message.contentKey, message.messageId)
    if (this.#destroyed) {
      this.#cipher.wipe()
      throw new KeyfoldError('ABORTED')
    }
    await this.#emit(message.header)
    return this.#cipher
  }

  /** Seals all whole frames, from where they lie: none of them is the final one. Keeps what is left. */
  #sealWhole(cipher: FrameCipher, piece: Uint8Array): readonly Uint8Array[] {
    const frameLength = this.#frameLength
    const waiting = this.#gathered.pending.length
    const frames = Math.floor((waiting + piece.length) / frameLength)
    const sealedBytes = Math.max(0, frames * frameLength - waiting)
    const wires: Uint8Array[] = []
    let at = 0
    if (frames > 0 && waiting > 0) {
      at = frameLength - waiting
      this.#gathered.put(piece.subarray(0, at))
      wires.push(this.#seal(cipher, this.#gathered.take(frameLength), false))
    }
    if (sealedBytes > at) wires.push(this.#seal(cipher, piece.subarray(at, sealedBytes), false))
    this.#gathered.put(piece.subarray(sealedBytes))
    return wires
  }

  async #emitNext(wire: Uint8Array): Promise<void> {
    if (this.#destroyed) throw new KeyfoldError('ABORTED')
    await this.#emit(wire)
  }

  #count({ length }: Uint8Array): void {
    this.#plaintextBytes += length
    if (this.#plaintextBytes <= STREAM_BYTES_MAX) return
    throw new KeyfoldError('LIMIT_EXCEEDED', `a message has at most ${STREAM_BYTES_MAX} bytes`)
  }

  #seal(cipher: FrameCipher, plaintext: Uint8Array, final: boolean, into?: Uint8Array): Uint8Array {
    const firstSequence = this.#nextSequence
    const frames = Math.floor(plaintext.length / this.#frameLength) + (final ? 1 : 0)
    // The final frame has a number as well.
    if (firstSequence + frames > SEQUENCE_MAX) {
      throw new KeyfoldError('LIMIT_EXCEEDED', 'a message has fewer than 2^32 frames')
    }
    this.#nextSequence += frames
    const run = { frameLength: this.#frameLength, firstSequence, frames, final }
    return cipher.sealFrames(run, plaintext, into)
  }
}
