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
  scanFrames,
} from '../format/encryption-sdk-frames.ts'
import { TAG_BYTES } from '../format/message.ts'
import {
  FRAME_BYTES_READ_MAX,
  FRAME_RUN_BYTES,
  SIGNATURE_BYTES_MAX,
  STREAM_WINDOW_BYTES,
} from '../limits.ts'
import type { Conversion } from './conversion.ts'
import { GatheredBytes } from './gathered-bytes.ts'
import type { Keyring } from './keyring.ts'
import { openMessage, type OpenedMessage } from './materials.ts'
import { checkDecryptOptions, encryptedDataKeysMaxOf, type DecryptFileOptions } from './options.ts'
import { Window, type Emit } from './window.ts'

/**
 * What becomes of a signed message's plaintext before its signature has verified. hold: kept, within signedBytesMax.
 * drop: only the signature is of interest. release: the same bytes were verified before.
 */
export type SignedPlaintext = 'hold' | 'drop' | 'release'

export interface OpenerParts {
  /** Frames of about so many bytes are opened at a time, one at least: FRAME_RUN_BYTES where absent. */
  readonly runBytes?: number
  /** Is asked before anyone is asked for the data key. What it throws fails the decryption. */
  readonly admit?: (header: MessageHeader) => void
  readonly signedPlaintext?: SignedPlaintext
  readonly createCipher?: CreateFrameCipher
}

/** A message that is being read. */
interface Body {
  readonly message: OpenedMessage
  readonly cipher: FrameCipher
  readonly window: Window
  readonly verifier: SignatureVerifier | undefined
}

export class MessageOpener implements Conversion {
  readonly #keyring: Pick<Keyring, 'unwrapDataKey'>
  readonly #options: DecryptFileOptions
  readonly #signedBytesMax: number
  readonly #signedPlaintext: SignedPlaintext
  readonly #createCipher: CreateFrameCipher
  readonly #emit: Emit
  readonly #runBytes: number
  readonly #admit: OpenerParts['admit']
  readonly #gathered: GatheredBytes
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
    {
      runBytes = FRAME_RUN_BYTES,
      admit,
      signedPlaintext = 'hold',
      createCipher = createFrameCipher,
    }: OpenerParts = {},
  ) {
    this.#keyring = keyring
    this.#options = options
    this.#signedBytesMax = checkDecryptOptions(options).signedBytesMax
    this.#signedPlaintext = signedPlaintext
    this.#createCipher = createCipher
    this.#emit = emit
    this.#runBytes = runBytes
    this.#admit = admit
    this.#gathered = new GatheredBytes(2 * runBytes)
  }

  async write(chunk: Uint8Array): Promise<void> {
    for (let at = 0; at < chunk.length; at += FRAME_RUN_BYTES) {
      if (this.#destroyed) throw new KeyfoldError('ABORTED')
      this.#gathered.put(chunk.subarray(at, at + FRAME_RUN_BYTES))
      while (await this.#step());
    }
  }

  async end(): Promise<void> {
    if (this.#state !== 'end') {
      throw new KeyfoldError('STREAM_MALFORMED', `truncated in the ${this.#state}`)
    }
    await this.#body?.window.drain()
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
    const wire = this.#gathered.take(bytes)
    const sealed = decodeHeader(wire)
    this.#admit?.(sealed.header)
    const message = await openMessage(this.#keyring, sealed, this.#options)
    const { suite, messageId, frameLength, contentKey, publicKey } = message
    // A body that is not framed needs the key itself, which this one leaves in its place.
    const createCipher = frameLength === 0 ? createNodeFrameCipher : this.#createCipher
    const cipher = createCipher(contentKey, messageId)
    const runBytes = Math.max(this.#runBytes, frameLength)
    const window = new Window(
      (plaintext) => this.#release(plaintext),
      Math.max(1, Math.floor(STREAM_WINDOW_BYTES / 4 / runBytes)),
    )
    // Whoever gave up meanwhile has found no key to wipe.
    this.#body = { message, cipher, window, verifier: undefined }
    if (this.#destroyed) {
      cipher.wipe()
      throw new KeyfoldError('ABORTED')
    }
    if (suite.signature !== undefined) {
      const verifier = createSignatureVerifier(suite.signature, publicKey ?? '')
      verifier.update(wire)
      this.#body = { ...this.#body, verifier }
    }
    this.#gathered.reserve(2 * (runBytes + FINAL_FRAME_OVERHEAD_BYTES))
    this.#state = frameLength === 0 ? 'block' : 'frames'
    if (!this.#holdsBack()) this.#options.onHeader?.(message.fileHeader)
    return true
  }

  async #readFrames(body: Body, pending: Uint8Array): Promise<boolean> {
    const { frameLength } = body.message
    const firstSequence = this.#nextSequence
    const framesMax = Math.max(1, Math.floor(this.#runBytes / frameLength))
    const { frames, bytes, final } = scanFrames(pending, { frameLength, firstSequence }, framesMax)
    if (frames === 0) return false
    this.#nextSequence += frames
    const wire = this.#gathered.take(bytes)
    body.verifier?.update(wire)
    const run = { frameLength, firstSequence, frames, final }
    if (final) this.#state = body.verifier === undefined ? 'end' : 'footer'
    await body.window.add(body.cipher.openFrames(run, wire))
    return true
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
    await body.window.add(plaintext)
    return true
  }

  async #readFooter({ message, window, verifier }: Body, pending: Uint8Array): Promise<boolean> {
    if (pending.length < 2) return false
    const signatureBytes = ((pending[0] as number) << 8) | (pending[1] as number)
    if (signatureBytes > SIGNATURE_BYTES_MAX) throw malformed('the signature is too long')
    if (pending.length < 2 + signatureBytes) return false
    const signature = this.#gathered.take(2 + signatureBytes).subarray(2)
    await window.drain()
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
