/**
 * A file as a stream of plaintext, read ahead of the cipher. A signed file is read twice: first for its signature,
 * then for its plaintext, which by then needs no memory to be held in.
 *
 * Between the two the file may be changed by someone who has its data key, whose frames would verify: the second time
 * each piece of the file must be what it was the first time, by its digest.
 */
import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'

import { KeyfoldError } from '../errors.ts'
import { FILE_RUN_BYTES } from '../limits.ts'
import type { Keyring } from './keyring.ts'
import { MessageOpener, type SignedPlaintext } from './message-opener.ts'
import { checkDecryptOptions, encryptedDataKeysMaxOf, type DecryptFileOptions } from './options.ts'
import { readFileHeader, readUpTo, type PositionalFile } from './positional.ts'
import { ReadAhead } from './read-ahead.ts'

/**
 * The plaintext of a file. Errors, by which the stream is destroyed: those of decryptStream, but there is no bound to
 * a signed file.
 */
export function decryptFile(
  file: PositionalFile,
  keyring: Keyring,
  options: Omit<DecryptFileOptions, 'signedBytesMax'> = {},
): Readable {
  checkDecryptOptions(options)
  return Readable.from(plaintextOf(file, keyring, options), { objectMode: false })
}

async function* plaintextOf(
  file: PositionalFile,
  keyring: Keyring,
  options: DecryptFileOptions,
): AsyncGenerator<Uint8Array> {
  const { sealed } = await readFileHeader(file, encryptedDataKeysMaxOf(options))
  if (sealed.header.suite.signature === undefined) {
    yield* convert(piecesOf(file), keyring, options, 'hold')
    return
  }
  /** One of each piece: 16 MiB of memory for a file of 1 TiB. */
  const digests: Buffer[] = []
  const first = recorded(piecesOf(file), digests)
  for await (const plaintext of convert(
    first,
    keyring,
    { ...options, onHeader: undefined },
    'drop',
  )) {
    plaintext.fill(0)
  }
  yield* convert(compared(piecesOf(file), digests), keyring, options, 'release')
}

async function* convert(
  pieces: AsyncIterable<Uint8Array>,
  keyring: Keyring,
  options: DecryptFileOptions,
  signedPlaintext: SignedPlaintext,
): AsyncGenerator<Uint8Array> {
  let ready: Uint8Array[] = []
  const opener = new MessageOpener(
    keyring,
    options,
    (plaintext) => {
      if (plaintext.length > 0) ready.push(plaintext)
      return undefined
    },
    { signedPlaintext },
  )
  try {
    for await (const piece of pieces) {
      await opener.write(piece)
      yield* ready
      ready = []
    }
    await opener.end()
    yield* ready
  } finally {
    opener.destroy()
  }
}

/** The file from its beginning, each piece until the next one is asked for. */
async function* piecesOf(file: PositionalFile): AsyncGenerator<Uint8Array> {
  const ahead = new ReadAhead(FILE_RUN_BYTES, async (run, into) => {
    return into.subarray(0, await readUpTo(file, run * FILE_RUN_BYTES, into))
  })
  try {
    for (let run = 0; ; run++) {
      const piece = await ahead.run(run)
      if (piece.length > 0) yield piece
      if (piece.length < FILE_RUN_BYTES) return
      ahead.done(run)
    }
  } finally {
    // Whoever closes the file next must not find it in use.
    await ahead.end()
  }
}

async function* recorded(
  pieces: AsyncIterable<Uint8Array>,
  digests: Buffer[],
): AsyncGenerator<Uint8Array> {
  for await (const piece of pieces) {
    digests.push(digestOf(piece))
    yield piece
  }
}

async function* compared(
  pieces: AsyncIterable<Uint8Array>,
  digests: readonly Buffer[],
): AsyncGenerator<Uint8Array> {
  let index = 0
  for await (const piece of pieces) {
    if (digests[index++]?.equals(digestOf(piece)) !== true) {
      throw new KeyfoldError('DECRYPT_FAILED', 'the file was changed while it was read')
    }
    yield piece
  }
}

function digestOf(piece: Uint8Array): Buffer {
  return createHash('sha256').update(piece).digest()
}
