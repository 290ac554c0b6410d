/**
 * Reads one message: wire bytes in, plaintext out, each frame once its tag has verified. Of a signed message nothing
 * leaves before the signature has.
 *
 *     header ──► frames ──► (footer) ──► end: nothing may follow
 *        └─────► block  ──►
 */
import { createFrameCipher } from '../crypto/choose-frame-cipher.ts'
import { createSignatureVerifier, type SignatureVerifier } from '../crypto/encryption-sdk-keys.ts'
import {
  createNodeFrameCipher,
  openBlock,
  type CreateFrameCipher,
  type FrameCipher,
} from '../crypto/frame-cipher.ts'
import { KeyfoldError } from '../errors.ts'
import { decodeHeader, measureHeader, type MessageHeader } from '../format/encryption-sdk.ts'
import {
  BLOCK_HEAD_BYTES,
  decodeBlockLength,
  FINAL_FRAME_OVERHEAD_BYTES,
  FRAME_OVERHEAD_BYTES,
  scanFrames,
  SEQUENCE_MAX,
} from '../format/encryption-sdk-frames.ts'
import { TAG_BYTES } from '../format/message.ts'
import { FRAME_BYTES_READ_MAX, FRAME_RUN_BYTES, SIGNATURE_BYTES_MAX } from '../limits.ts'
import type { Conversion, Emit } from './conversion.ts'
import { GatheredBytes } from './gathered-bytes.ts'
import type { Keyring } from './keyring.ts'
import { openMessage, type OpenedMessage } from './materials.ts'
import { checkDecryptOptions, encryptedDataKeysMaxOf, type DecryptFileOptions } from './options.ts'

/**
 * What becomes of a signed message's plaintext before its signature has verified. hold: kept, within signedBytesMax.
 * drop: only the signature is of interest. release: the same bytes were verified before.
 */
export type SignedPlaintext = 'hold' | 'drop' | 'release'

export interface OpenerParts {
  /** Is asked before anyone is asked for the data key. What it throws fails the decryption. */
  readonly admit?: (header: MessageHeader) => void
  readonly signedPlaintext?: SignedPlaintext
  readonly createCipher?: CreateFrameCipher
}

/** A message that is being read. */
interface Body {
  readonly message: OpenedMessage
  readonly cipher: FrameCipher
  readonly verifier: SignatureVerifier | undefined
}

export class MessageOpener implements Conversion {
  readonly #keyring: Pick<Keyring, 'unwrapDataKey'>
  readonly #options: DecryptFileOptions
  readonly #signedBytesMax: number
  readonly #signedPlaintext: SignedPlaintext
  readonly #createCipher: CreateFrameCipher
  readonly #emit: Emit
  readonly #admit: OpenerParts['admit']
  readonly #gathered = new GatheredBytes(0)
  #state: 'header' | 'frames' | 'block' | 'footer' | 'end' = 'header'
  #body: Body | undefined
  #nextSequence = 1
  /** Plaintext that waits for the signature. */
  #held: Uint8Array[] = []
  #heldBytes = 0
  #destroyed = false

  /** Errors: CONFIG_INVALID. */
  constructor(
    keyring: Pick<Keyring, 'unwrapDataKey'>,
    options: DecryptFileOptions,
    emit: Emit,
    { admit, signedPlaintext = 'hold', createCipher = createFrameCipher }: OpenerParts = {},
  ) {
    this.#keyring = keyring
    this.#options = options
    this.#signedBytesMax = checkDecryptOptions(options).signedBytesMax
    this.#signedPlaintext = signedPlaintext
    this.#createCipher = createCipher
    this.#emit = emit
    this.#admit = admit
  }

  async write(chunk: Uint8Array): Promise<void> {
    for (let at = 0; at < chunk.length; at += FRAME_RUN_BYTES) {
      if (this.#destroyed) throw new KeyfoldError('ABORTED')
      const piece = chunk.subarray(at, at + FRAME_RUN_BYTES)
      const body = this.#state === 'frames' ? this.#body : undefined
      // What another thread may write to has to be ours before it is verified.
      if (body === undefined || piece.buffer instanceof SharedArrayBuffer) this.#gathered.put(piece)
      else await this.#releaseAll(this.#openWhole(body, piece))
      while (await this.#step());
    }
  }

  async end(): Promise<void> {
    if (this.#state !== 'end') {
      throw new KeyfoldError('STREAM_MALFORMED', `truncated in the ${this.#state}`)
    }
    this.destroy()
  }

  destroy(): void {
    this.#destroyed = true
    this.#body?.cipher.wipe()
    this.#drop()
  }

  /** Whether something was done with what is there, and more may be possible. */
  async #step(): Promise<boolean> {
    const pending = this.#gathered.pending
    if (this.#state === 'header') return this.#readHeader(pending)
    if (this.#state === 'end') {
      if (pending.length > 0) throw malformed('something follows the message')
      return false
    }
    const body = this.#body as Body
    if (this.#state === 'frames') return this.#readFrames(body, pending)
    if (this.#state === 'block') return this.#readBlock(body, pending)
    return this.#readFooter(body, pending)
  }

  async #readHeader(pending: Uint8Array): Promise<boolean> {
    const bytes = measureHeader(pending, encryptedDataKeysMaxOf(this.#options))
    if (pending.length < bytes) return false
    // Parts of it are kept.
    const wire = Buffer.from(this.#gathered.take(bytes))
    const sealed = decodeHeader(wire)
    this.#admit?.(sealed.header)
    const message = await openMessage(this.#keyring, sealed, this.#options)
    const { suite, messageId, frameLength, contentKey, publicKey } = message
    // A body that is not framed needs the key itself, which this one leaves in its place.
    const createCipher = frameLength === 0 ? createNodeFrameCipher : this.#createCipher
    const cipher = createCipher(contentKey, messageId)
    // Whoever gave up meanwhile has found no key to wipe.
    this.#body = { message, cipher, verifier: undefined }
    if (this.#destroyed) {
      cipher.wipe()
      throw new KeyfoldError('ABORTED')
    }
    if (suite.signature !== undefined) {
      const verifier = createSignatureVerifier(suite.signature, publicKey ?? '')
      verifier.update(wire)
      this.#body = { ...this.#body, verifier }
    }
    this.#gathered.reserve(frameLength + FINAL_FRAME_OVERHEAD_BYTES)
    this.#state = frameLength === 0 ? 'block' : 'frames'
    if (!this.#holdsBack()) this.#options.onHeader?.(message.fileHeader)
    return true
  }

  async #readFrames(body: Body, pending: Uint8Array): Promise<boolean> {
    const opened = this.#openFrames(body, pending)
    if (opened === undefined) return false
    this.#gathered.take(opened.bytes)
    await this.#releaseAll([opened.plaintext])
    return true
  }

  /** Opens all frames that are there, from where they lie, and keeps what is left. */
  #openWhole(body: Body, piece: Uint8Array): readonly Uint8Array[] {
    const perFrame = body.message.frameLength + FRAME_OVERHEAD_BYTES
    const plaintexts: Uint8Array[] = []
    let rest = piece
    try {
      while (this.#state === 'frames' && rest.length > 0) {
        const waiting = this.#gathered.pending.length
        if (waiting > 0) {
          // Up to the end of the frame that has begun: a final one may be longer.
          const missing = waiting < perFrame ? perFrame - waiting : FINAL_FRAME_OVERHEAD_BYTES
          this.#gathered.put(rest.subarray(0, missing))
          rest = rest.subarray(missing)
        }
        const opened = this.#openFrames(body, waiting > 0 ? this.#gathered.pending : rest)
        if (opened !== undefined) plaintexts.push(opened.plaintext)
        if (waiting > 0) this.#gathered.take(opened?.bytes ?? 0)
        else if (opened === undefined) break
        else rest = rest.subarray(opened.bytes)
      }
    } catch (error) {
      for (const plaintext of plaintexts) plaintext.fill(0)
      throw error
    }
    this.#gathered.put(rest)
    return plaintexts
  }

  /** The frames that are there as a whole; undefined where none is. */
  #openFrames(
    { message, cipher, verifier }: Body,
    bytes: Uint8Array,
  ): { readonly bytes: number; readonly plaintext: Uint8Array } | undefined {
    const { frameLength } = message
    const place = { frameLength, firstSequence: this.#nextSequence }
    const { frames, bytes: wireBytes, final } = scanFrames(bytes, place, SEQUENCE_MAX)
    if (frames === 0) return undefined
    this.#nextSequence += frames
    const wire = bytes.subarray(0, wireBytes)
    verifier?.update(wire)
    if (final) this.#state = verifier === undefined ? 'end' : 'footer'
    return { bytes: wireBytes, plaintext: cipher.openFrames({ ...place, frames, final }, wire) }
  }

  async #readBlock(body: Body, pending: Uint8Array): Promise<boolean> {
    if (pending.length < BLOCK_HEAD_BYTES) return false
    const plaintextBytes = decodeBlockLength(pending)
    if (plaintextBytes > FRAME_BYTES_READ_MAX) {
      throw malformed(`a block of ${plaintextBytes} bytes, ${FRAME_BYTES_READ_MAX} are allowed`)
    }
    const bytes = BLOCK_HEAD_BYTES + plaintextBytes + TAG_BYTES
    this.#gathered.reserve(bytes)
    if (pending.length < bytes) return false
    const wire = this.#gathered.take(bytes)
    body.verifier?.update(wire)
    const { contentKey, messageId } = body.message
    const plaintext = openBlock(contentKey, messageId, wire)
    this.#state = body.verifier === undefined ? 'end' : 'footer'
    await this.#releaseAll([plaintext])
    return true
  }

  async #readFooter({ message, verifier }: Body, pending: Uint8Array): Promise<boolean> {
    if (pending.length < 2) return false
    const signatureBytes = ((pending[0] as number) << 8) | (pending[1] as number)
    if (signatureBytes > SIGNATURE_BYTES_MAX) throw malformed('the signature is too long')
    if (pending.length < 2 + signatureBytes) return false
    const signature = this.#gathered.take(2 + signatureBytes).subarray(2)
    if (verifier?.verify(signature) !== true) {
      throw new KeyfoldError('DECRYPT_FAILED', 'the signature')
    }
    this.#state = 'end'
    if (!this.#holdsBack()) return true
    this.#options.onHeader?.(message.fileHeader)
    const held = this.#held
    this.#held = []
    for (const plaintext of held) await this.#emit(plaintext)
    return true
  }

  async #releaseAll(plaintexts: readonly Uint8Array[]): Promise<void> {
    for (const plaintext of plaintexts) {
      if (this.#destroyed) plaintext.fill(0)
      else await this.#release(plaintext)
    }
    if (this.#destroyed) throw new KeyfoldError('ABORTED')
  }

  #release(plaintext: Uint8Array): Promise<void> | undefined {
    if (!this.#holdsBack()) return this.#emit(plaintext)
    if (this.#signedPlaintext === 'drop') {
      plaintext.fill(0)
      return undefined
    }
    this.#heldBytes += plaintext.length
    if (this.#heldBytes > this.#signedBytesMax) {
      plaintext.fill(0)
      throw new KeyfoldError(
        'LIMIT_EXCEEDED',
        `a signed message of more than ${this.#signedBytesMax} bytes (signedBytesMax); decryptFile reads it`,
      )
    }
    this.#held.push(plaintext)
    return undefined
  }

  #holdsBack(): boolean {
    return this.#body?.verifier !== undefined && this.#signedPlaintext !== 'release'
  }

  #drop(): void {
    for (const plaintext of this.#held) plaintext.fill(0)
    this.#held = []
  }
}

function malformed(detail: string): KeyfoldError {
  return new KeyfoldError('STREAM_MALFORMED', detail)
}
