/**
 * Frames of the AWS Encryption SDK's message format, sealed and opened many at a time: flat bytes in, flat bytes out;
 * and the portable implementation on node:crypto, which does every suite. choose-frame-cipher.ts says which one runs.
 *
 * A sequence number is the frame's nonce. The cipher cannot know what was sealed before: whoever calls sealFrames
 * never gives a number twice.
 */
import { strict as assert } from 'node:assert'
import { createCipheriv, createDecipheriv, type CipherGCMTypes } from 'node:crypto'

import { KeyfoldError } from '../errors.ts'
import { HEADER_IV, IV_BYTES } from '../format/encryption-sdk.ts'
import {
  BLOCK_HEAD_BYTES,
  createAad,
  framePlace,
  numberAad,
  overheadBytes,
  writeFrameHead,
  type FrameRun,
} from '../format/encryption-sdk-frames.ts'
import { TAG_BYTES } from '../format/message.ts'

/** Answers lie in the memory that is given, at its beginning, or where none is in memory of their own. */
export interface FrameCipher {
  /** Wire bytes of the run. `plaintext` is whole frames, of which the final one may be shorter, or empty. */
  sealFrames(run: FrameRun, plaintext: Uint8Array, into?: Uint8Array): Uint8Array
  /**
   * Plaintext of the run. `wire` is whole frames, as scanFrames found them. Throws DECRYPT_FAILED where any tag does
   * not verify: then nothing of the run leaves.
   */
  openFrames(run: FrameRun, wire: Uint8Array, into?: Uint8Array): Uint8Array
  /** Ends the key. */
  wipe(): void
}

/** Takes the key and fills it with zeros, by wipe() at the latest. */
export type CreateFrameCipher = (contentKey: Buffer, messageId: Uint8Array) => FrameCipher

/** `bytes` of memory: of what is given, which must have as many, or fresh. */
export function answerMemory(into: Uint8Array | undefined, bytes: number): Buffer {
  if (into === undefined) return Buffer.allocUnsafe(bytes)
  assert(into.length >= bytes)
  return Buffer.from(into.buffer, into.byteOffset, bytes)
}

/** On node:crypto. The key stays where it is, and is good for openBlock, until wipe(). */
export const createNodeFrameCipher: CreateFrameCipher = (contentKey, messageId) =>
  new NodeFrameCipher(contentKey, messageId)

class NodeFrameCipher implements FrameCipher {
  readonly #key: Buffer
  readonly #aads: { readonly regular: Buffer; readonly final: Buffer }
  #wiped = false

  constructor(contentKey: Buffer, messageId: Uint8Array) {
    this.#key = contentKey
    this.#aads = {
      regular: createAad(messageId, 'regular'),
      final: createAad(messageId, 'final'),
    }
  }

  sealFrames(run: FrameRun, plaintext: Uint8Array, into?: Uint8Array): Uint8Array {
    const key = this.#usableKey()
    const wire = answerMemory(into, plaintext.length + overheadBytes(run))
    for (let i = 0; i < run.frames; i++) {
      const place = framePlace(run, i, plaintext.length)
      const { ivAt, ciphertextAt, plaintextBytes } = place
      writeFrameHead(wire, place)
      const aad = this.#aads[place.kind]
      numberAad(aad, place.sequence, plaintextBytes)
      const cipher = createCipheriv(gcmOf(key), key, wire.subarray(ivAt, ivAt + IV_BYTES), GCM)
      cipher.setAAD(aad)
      const start = i * run.frameLength
      wire.set(cipher.update(plaintext.subarray(start, start + plaintextBytes)), ciphertextAt)
      cipher.final()
      wire.set(cipher.getAuthTag(), ciphertextAt + plaintextBytes)
    }
    return wire
  }

  openFrames(run: FrameRun, wire: Uint8Array, into?: Uint8Array): Uint8Array {
    const key = this.#usableKey()
    const plaintext = answerMemory(into, wire.length - overheadBytes(run))
    for (let i = 0; i < run.frames; i++) {
      const place = framePlace(run, i, plaintext.length)
      const { ivAt, ciphertextAt, plaintextBytes } = place
      const aad = this.#aads[place.kind]
      numberAad(aad, place.sequence, plaintextBytes)
      const iv = wire.subarray(ivAt, ivAt + IV_BYTES)
      const sealed = wire.subarray(ciphertextAt, ciphertextAt + plaintextBytes + TAG_BYTES)
      const opened = openGcmFrame(key, iv, aad, sealed)
      if (opened === undefined) {
        plaintext.fill(0)
        throw new KeyfoldError('DECRYPT_FAILED', `frame ${place.sequence}`)
      }
      plaintext.set(opened, i * run.frameLength)
    }
    return plaintext
  }

  wipe(): void {
    this.#wiped = true
    this.#key.fill(0)
  }

  #usableKey(): Buffer {
    // Zeros are a key like any other to the cipher.
    if (this.#wiped) throw new KeyfoldError('INTERNAL', 'the content key was wiped')
    return this.#key
  }
}

/** The tag over a header. Sealing two headers under one key would give its authentication key away. */
export function sealHeaderTag(contentKey: Uint8Array, aad: Uint8Array): Buffer {
  const cipher = createCipheriv(gcmOf(contentKey), contentKey, HEADER_IV, GCM)
  cipher.setAAD(aad)
  cipher.final()
  return cipher.getAuthTag()
}

export function verifyHeaderTag(
  contentKey: Uint8Array,
  iv: Uint8Array,
  aad: Uint8Array,
  tag: Uint8Array,
): boolean {
  return openGcmFrame(contentKey, iv, aad, tag) !== undefined
}

/** A body that is not framed: head ‖ ciphertext ‖ tag. Throws DECRYPT_FAILED. */
export function openBlock(
  contentKey: Uint8Array,
  messageId: Uint8Array,
  wire: Uint8Array,
): Uint8Array {
  const sealed = wire.subarray(BLOCK_HEAD_BYTES)
  const aad = createAad(messageId, 'block')
  numberAad(aad, 1, sealed.length - TAG_BYTES)
  const plaintext = openGcmFrame(contentKey, wire.subarray(0, IV_BYTES), aad, sealed)
  if (plaintext === undefined) throw new KeyfoldError('DECRYPT_FAILED')
  return plaintext
}

// Without authTagLength, Node 20 accepts a 4-byte tag.
const GCM = { authTagLength: TAG_BYTES } as const

function gcmOf(key: Uint8Array): CipherGCMTypes {
  return `aes-${8 * key.length}-gcm` as CipherGCMTypes
}

function openGcmFrame(
  key: Uint8Array,
  iv: Uint8Array,
  aad: Uint8Array,
  sealed: Uint8Array,
): Buffer | undefined {
  const decipher = createDecipheriv(gcmOf(key), key, iv, GCM)
  decipher.setAAD(aad)
  decipher.setAuthTag(sealed.subarray(sealed.length - TAG_BYTES))
  // update() hands out plaintext before final() has checked the tag, so nothing leaves this function before.
  const plaintext = decipher.update(sealed.subarray(0, sealed.length - TAG_BYTES))
  try {
    decipher.final()
    return plaintext
  } catch {
    plaintext.fill(0)
    return undefined
  }
}
