/**
 * Files and streams in the AWS Encryption SDK's message format v2 (suite 0x0478: AES-256-GCM, HKDF-SHA-512, key
 * commitment), for Node's streams and buffers. Memory stays within a window, whatever the size; what leaves a
 * decryption has verified, and an output that was cut short ends with an error.
 */
import { Duplex } from 'node:stream'

import { checkChunk, HIGH_WATER_BYTES, type Conversion, type Emit } from './conversion.ts'
import type { Keyring } from './keyring.ts'
import { MessageOpener } from './message-opener.ts'
import { MessageSealer } from './message-sealer.ts'
import type { DecryptFileOptions, EncryptFileOptions, FileHeader } from './options.ts'

/**
 * Plaintext in, one message out. Join it with `pipeline` of node:stream/promises: a source that fails leaves a message
 * without its end, which no reader takes. Errors: CONFIG_INVALID (thrown), CONTEXT_INVALID, LIMIT_EXCEEDED, and the
 * keyring's.
 */
export function encryptStream(keyring: Keyring, options: EncryptFileOptions = {}): Duplex {
  return createDuplex((emit) => new MessageSealer(keyring, options, emit))
}

/**
 * One message in, plaintext out, each frame once it has verified; a signed message (suite 0x0578) as a whole. Join it
 * with `pipeline`: bytes that were written before an error are true, and not all. Errors: CONFIG_INVALID (thrown),
 * STREAM_MALFORMED (also: the end is missing, or something follows), DECRYPT_FAILED, COMMITMENT_REQUIRED,
 * CONTEXT_INVALID, LIMIT_EXCEEDED (a signed message beyond signedBytesMax), and the keyring's.
 */
export function decryptStream(keyring: Keyring, options: DecryptFileOptions = {}): Duplex {
  return createDuplex((emit) => new MessageOpener(keyring, options, emit))
}

/** The whole message. Errors: as encryptStream. */
export async function encryptBuffer(
  keyring: Keyring,
  plaintext: Uint8Array,
  options: EncryptFileOptions = {},
): Promise<Buffer> {
  return convertBuffer(plaintext, (emit) => new MessageSealer(keyring, options, emit))
}

/** The whole plaintext, and what the header says. Errors: as decryptStream. */
export async function decryptBuffer(
  keyring: Keyring,
  message: Uint8Array,
  options: Omit<DecryptFileOptions, 'onHeader' | 'signedBytesMax'> = {},
): Promise<{ readonly plaintext: Buffer; readonly header: FileHeader }> {
  const headers: FileHeader[] = []
  const reading: DecryptFileOptions = {
    ...options,
    // All of it is in memory anyway.
    signedBytesMax: message.length,
    onHeader: (header) => void headers.push(header),
  }
  const plaintext = await convertBuffer(
    message,
    (emit) => new MessageOpener(keyring, reading, emit),
  )
  return { plaintext, header: headers[0] as FileHeader }
}

async function convertBuffer(
  bytes: Uint8Array,
  create: (emit: Emit) => Conversion,
): Promise<Buffer> {
  checkChunk(bytes)
  const parts: Uint8Array[] = []
  const conversion = create((part) => {
    parts.push(part)
    return undefined
  })
  try {
    await conversion.write(bytes)
    await conversion.end()
    return Buffer.concat(parts)
  } finally {
    conversion.destroy()
  }
}

function createDuplex(create: (emit: Emit) => Conversion): Duplex {
  /** Set while the reader has enough. */
  let wanted: (() => void) | undefined
  const conversion = create((bytes) => {
    if (bytes.length === 0 || duplex.push(bytes)) return undefined
    return new Promise((resolve) => (wanted = resolve))
  })
  const duplex: Duplex = new Duplex({
    readableHighWaterMark: HIGH_WATER_BYTES,
    writableHighWaterMark: HIGH_WATER_BYTES,
    write(chunk: unknown, encoding, done) {
      conversion.write(checkChunk(chunk)).then(() => done(), done)
    },
    final(done) {
      conversion.end().then(() => {
        duplex.push(null)
        done()
      }, done)
    },
    read() {
      const resume = wanted
      wanted = undefined
      resume?.()
    },
    destroy(error, done) {
      conversion.destroy()
      done(error)
    },
  })
  return duplex
}
