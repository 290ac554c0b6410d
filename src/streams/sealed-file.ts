/**
 * Random access to a file in the AWS Encryption SDK's message format, without reading what is not asked for.
 *
 *     header ‖ n - 1 frames of L + 32 bytes ‖ final frame of f + 40 bytes, 0 ≤ f ≤ L
 *
 * Behind the header there are (n - 1)(L + 32) + 40 + f bytes, which gives n and f in one way only. Whether the file
 * is whole is known before anything is read: the final frame, with that number and length, has to verify first.
 */
import { inspect } from 'node:util'

import { createFrameCipher } from '../crypto/choose-frame-cipher.ts'
import type { FrameCipher } from '../crypto/frame-cipher.ts'
import { KeyfoldError } from '../errors.ts'
import {
  FINAL_FRAME_OVERHEAD_BYTES,
  FRAME_OVERHEAD_BYTES,
  overheadBytes,
  scanFrames,
  SEQUENCE_MAX,
} from '../format/encryption-sdk-frames.ts'
import { FILE_RUN_BYTES, FRAME_RUN_BYTES } from '../limits.ts'
import type { Keyring } from './keyring.ts'
import { openMessage } from './materials.ts'
import {
  checkDecryptOptions,
  encryptedDataKeysMaxOf,
  type DecryptFileOptions,
  type FileHeader,
} from './options.ts'
import { readExactly, readFileHeader, type PositionalFile } from './positional.ts'
import { ReadAhead } from './read-ahead.ts'
import type { WriteBehind } from './write-behind.ts'

/** Where the frames lie. */
interface Layout {
  readonly headerBytes: number
  readonly frameLength: number
  readonly frames: number
  readonly plaintextBytes: number
}

/** A read of a page touches one frame or two. */
const SMALL_READ_FRAMES = 2

/** For the frames of a small read. */
interface ReadMemory {
  readonly wire: Buffer
  readonly plaintext: Buffer
}

/**
 * Opens a file for random access. Errors: REQUEST_MALFORMED (a signed message, whose signature covers all of it, or
 * one that is not framed), and those of decryptStream.
 */
export async function openSealedFile(
  file: PositionalFile,
  keyring: Keyring,
  options: Omit<DecryptFileOptions, 'onHeader' | 'signedBytesMax'> = {},
): Promise<SealedFile> {
  checkDecryptOptions(options)
  const { sealed, headerBytes } = await readFileHeader(file, encryptedDataKeysMaxOf(options))
  const { suite, frameLength } = sealed.header
  if (suite.signature !== undefined) {
    throw new KeyfoldError('REQUEST_MALFORMED', 'a signed message has no random access')
  }
  if (frameLength === 0) {
    throw new KeyfoldError('REQUEST_MALFORMED', 'a message without frames has no random access')
  }
  const { size } = await file.stat()
  const layout = layoutOf(size, headerBytes, frameLength)
  const { contentKey, messageId, fileHeader } = await openMessage(keyring, sealed, options)
  const cipher = createFrameCipher(contentKey, messageId)
  try {
    await readFrames(file, cipher, layout, layout.frames - 1, layout.frames)
  } catch (error) {
    cipher.wipe()
    throw error
  }
  return new SealedFile(file, cipher, layout, fileHeader)
}

/** A file whose header and end have verified; every frame that is read verifies too. */
export class SealedFile {
  readonly #file: PositionalFile
  readonly #cipher: FrameCipher
  readonly #layout: Layout
  readonly header: FileHeader
  /** Of a small read that is over, for the next one: fresh memory for each costs more than the cipher does. */
  #spare: ReadMemory | undefined
  #closed = false

  constructor(file: PositionalFile, cipher: FrameCipher, layout: Layout, header: FileHeader) {
    this.#file = file
    this.#cipher = cipher
    this.#layout = layout
    this.header = header
  }

  /** Bytes of the plaintext. */
  get length(): number {
    return this.#layout.plaintextBytes
  }

  /**
   * Plaintext from `offset` on, `length` bytes of it or as many as there are. Calls may overlap. Errors:
   * REQUEST_MALFORMED (no whole numbers), DECRYPT_FAILED, STREAM_MALFORMED.
   */
  async read(offset: number, length: number): Promise<Buffer> {
    if (![offset, length].every((count) => Number.isSafeInteger(count) && count >= 0)) {
      throw new KeyfoldError('REQUEST_MALFORMED', 'offset, length: whole numbers from 0 on')
    }
    const { frameLength, plaintextBytes } = this.#layout
    const end = Math.min(offset + length, plaintextBytes)
    if (offset >= end) return Buffer.alloc(0)
    const firstFrame = Math.floor(offset / frameLength)
    const endFrame = Math.ceil(end / frameLength)
    if (endFrame - firstFrame <= SMALL_READ_FRAMES) {
      return this.#readSmall(firstFrame, endFrame, offset, end)
    }
    const result = Buffer.allocUnsafe(end - offset)
    const perRun = framesPerRun(frameLength, FRAME_RUN_BYTES)
    const start = (frame: number): Promise<Uint8Array> | undefined => {
      if (frame >= endFrame) return undefined
      const reading = this.#read(frame, Math.min(frame + perRun, endFrame))
      // Met when it is awaited.
      reading.catch(() => undefined)
      return reading
    }
    let next = start(firstFrame)
    for (let frame = firstFrame; next !== undefined; frame += perRun) {
      const wire = await next
      // The disk is asked for the next run before the cipher has this one.
      next = start(frame + perRun)
      const plaintext = openRun(this.#cipher, this.#layout, frame, wire)
      const at = frame * frameLength - offset
      result.set(plaintext.subarray(Math.max(0, -at), end - offset - at), Math.max(0, at))
    }
    return result
  }

  /** Writes the whole plaintext. What was written before an error is true. Errors: as read(), and the writer's. */
  async copyTo(writer: WriteBehind): Promise<void> {
    const { frameLength, frames, plaintextBytes } = this.#layout
    const perRun = Math.min(frames, framesPerRun(frameLength, FILE_RUN_BYTES))
    const runs = Math.ceil(frames / perRun)
    // A small file takes one of each, and no more memory than it needs.
    const runBytes = Math.min(perRun * frameLength, plaintextBytes)
    const turns = runs > 1 ? [0, 1] : [0]
    const plaintexts = turns.map(() => Buffer.allocUnsafeSlow(runBytes))
    const ahead = new ReadAhead(
      runBytes + overheadBytes({ frames: perRun, final: true }),
      (run, into) => this.#read(run * perRun, Math.min((run + 1) * perRun, frames), into),
      runs,
    )
    try {
      for (let run = 0; run < runs; run++) {
        const wire = await ahead.run(run)
        const into = plaintexts[run % 2]
        const plaintext = openRun(this.#cipher, this.#layout, run * perRun, wire, into)
        ahead.done(run)
        await writer.write(plaintext)
      }
      await writer.end()
    } finally {
      // Whoever closes the files next must not find them in use.
      await Promise.allSettled([ahead.end(), writer.end()])
      for (const plaintext of plaintexts) plaintext.fill(0)
    }
  }

  /** Wipes the key. The file stays the caller's to close. */
  close(): void {
    this.#closed = true
    this.#cipher.wipe()
    this.#spare?.plaintext.fill(0)
  }

  toJSON(): string {
    return `[SealedFile of ${this.length} bytes]`
  }

  [inspect.custom](): string {
    return this.toJSON()
  }

  async #readSmall(
    firstFrame: number,
    endFrame: number,
    offset: number,
    end: number,
  ): Promise<Buffer> {
    const { frameLength } = this.#layout
    const memory = this.#spare ?? createReadMemory(frameLength)
    this.#spare = undefined
    try {
      const wire = await this.#read(firstFrame, endFrame, memory.wire)
      const plaintext = openRun(this.#cipher, this.#layout, firstFrame, wire, memory.plaintext)
      const start = firstFrame * frameLength
      return Buffer.from(plaintext.subarray(offset - start, end - start))
    } finally {
      if (this.#closed) memory.plaintext.fill(0)
      this.#spare = memory
    }
  }

  #read(firstFrame: number, endFrame: number, into?: Buffer): Promise<Uint8Array> {
    return readWire(this.#file, this.#layout, firstFrame, endFrame, into)
  }
}

function framesPerRun(frameLength: number, runBytes: number): number {
  return Math.max(1, Math.floor(runBytes / frameLength))
}

function createReadMemory(frameLength: number): ReadMemory {
  const frames = SMALL_READ_FRAMES
  const plaintextBytes = frames * frameLength
  return {
    wire: Buffer.allocUnsafeSlow(plaintextBytes + overheadBytes({ frames, final: true })),
    plaintext: Buffer.allocUnsafeSlow(plaintextBytes),
  }
}

function layoutOf(size: number, headerBytes: number, frameLength: number): Layout {
  const perFrame = frameLength + FRAME_OVERHEAD_BYTES
  const bytes = size - headerBytes - FINAL_FRAME_OVERHEAD_BYTES
  const finalBytes = bytes % perFrame
  const frames = 1 + Math.floor(bytes / perFrame)
  if (bytes < 0 || finalBytes > frameLength || frames > SEQUENCE_MAX) {
    throw new KeyfoldError('STREAM_MALFORMED', 'the file has an impossible length')
  }
  const plaintextBytes = (frames - 1) * frameLength + finalBytes
  return { headerBytes, frameLength, frames, plaintextBytes }
}

async function readFrames(
  file: PositionalFile,
  cipher: FrameCipher,
  layout: Layout,
  firstFrame: number,
  endFrame: number,
): Promise<Uint8Array> {
  return openRun(cipher, layout, firstFrame, await readWire(file, layout, firstFrame, endFrame))
}

function readWire(
  file: PositionalFile,
  { headerBytes, frameLength, frames, plaintextBytes }: Layout,
  firstFrame: number,
  endFrame: number,
  into?: Buffer,
): Promise<Buffer> {
  const perFrame = frameLength + FRAME_OVERHEAD_BYTES
  const overhead = overheadBytes({ frames: endFrame - firstFrame, final: endFrame === frames })
  const bytes = Math.min(endFrame * frameLength, plaintextBytes) - firstFrame * frameLength
  const length = bytes + overhead
  const memory = into?.subarray(0, length) ?? Buffer.allocUnsafe(length)
  return readExactly(file, headerBytes + firstFrame * perFrame, memory)
}

/** `wire` is to be exactly the frames from this one on. Throws STREAM_MALFORMED, DECRYPT_FAILED. */
function openRun(
  cipher: FrameCipher,
  { frameLength, frames }: Layout,
  firstFrame: number,
  wire: Uint8Array,
  into?: Uint8Array,
): Uint8Array {
  const place = { frameLength, firstSequence: firstFrame + 1 }
  const scanned = scanFrames(wire, place, SEQUENCE_MAX)
  const final = firstFrame + scanned.frames === frames
  if (scanned.bytes !== wire.length || scanned.final !== final) {
    throw new KeyfoldError('STREAM_MALFORMED', 'the final frame is not the last')
  }
  return cipher.openFrames({ ...place, frames: scanned.frames, final }, wire, into)
}
