/**
 * From one file to another, for whoever has both: reads ahead and writes behind the cipher, in memory that is used
 * again. A stream takes fresh memory for every chunk and copies it, which costs more than the cipher does.
 *
 *     source ──► plaintext 0 1 2 3 ──► cipher ──► wire 0 1 ──► target
 */
import { decryptFile } from './decrypt-file.ts'
import type { Keyring } from './keyring.ts'
import { MessageSealer } from './message-sealer.ts'
import {
  encryptedDataKeysMaxOf,
  type DecryptFileOptions,
  type EncryptFileOptions,
} from './options.ts'
import { readFileHeader, readUpTo, type PositionalFile } from './positional.ts'
import { ReadAhead } from './read-ahead.ts'
import { openSealedFile } from './sealed-file.ts'
import { WriteBehind, type WritableFile } from './write-behind.ts'

/**
 * Writes one message of all of `source` to `target`, from where that stands. Both stay the caller's to close, and
 * after an error what was written is the caller's to remove: no reader takes it. Errors: as encryptStream, and the
 * files'.
 */
export async function encryptFileTo(
  source: PositionalFile,
  target: WritableFile,
  keyring: Keyring,
  options: EncryptFileOptions = {},
): Promise<void> {
  const writer = new WriteBehind(target)
  const sealer = new MessageSealer(keyring, options, (bytes) => writer.write(bytes))
  try {
    if (!(await sealSmall(source, sealer))) await sealRuns(source, sealer)
    await writer.end()
  } finally {
    sealer.destroy()
    // Whoever closes the files next must not find them in use.
    await writer.end().catch(() => undefined)
  }
}

/**
 * A file that is shorter than a run, in memory of its length: taking a window of it for every file of a tree would cost
 * ten times what the rest does. False where it is longer, or longer than it says: then nothing was sealed.
 */
async function sealSmall(source: PositionalFile, sealer: MessageSealer): Promise<boolean> {
  const { size } = await source.stat()
  if (size >= sealer.runBytes) return false
  const plaintext = Buffer.alloc(size + 1)
  try {
    const bytes = await readUpTo(source, 0, plaintext)
    if (bytes > size) return false
    await sealer.writeRun(plaintext.subarray(0, bytes), undefined, true)
    return true
  } finally {
    plaintext.fill(0)
  }
}

async function sealRuns(source: PositionalFile, sealer: MessageSealer): Promise<void> {
  const { runBytes } = sealer
  const wires = [0, 1].map(() => Buffer.allocUnsafeSlow(sealer.runWireBytes))
  const ahead = new ReadAhead(runBytes, async (run, into) => {
    return into.subarray(0, await readUpTo(source, run * runBytes, into))
  })
  try {
    let plaintext = await ahead.run(0)
    for (let run = 0; ; run++) {
      const next = await ahead.run(run + 1)
      // A file that grows meanwhile is taken as long as it was when its end was met.
      const final = next.length === 0 || plaintext.length < runBytes
      await sealer.writeRun(plaintext, wires[run % 2], final)
      if (final) break
      ahead.done(run)
      plaintext = next
    }
  } finally {
    await ahead.end()
    ahead.wipe()
  }
}

/**
 * Writes the plaintext of `source`, a regular file, to `target`, from where that stands. Nothing is written of a file
 * that was cut short or has something behind its end: that is known before. Errors: as decryptFile, and the files'.
 */
export async function decryptFileTo(
  source: PositionalFile,
  target: WritableFile,
  keyring: Keyring,
  options: Omit<DecryptFileOptions, 'signedBytesMax'> = {},
): Promise<void> {
  const writer = new WriteBehind(target)
  const { sealed } = await readFileHeader(source, encryptedDataKeysMaxOf(options))
  const { suite, frameLength } = sealed.header
  try {
    if (suite.signature !== undefined || frameLength === 0) {
      for await (const part of decryptFile(source, keyring, options)) {
        await writer.write(part as Uint8Array)
      }
      await writer.end()
      return
    }
    const file = await openSealedFile(source, keyring, options)
    try {
      options.onHeader?.(file.header)
      await file.copyTo(writer)
    } finally {
      file.close()
    }
  } finally {
    await writer.end().catch(() => undefined)
  }
}
