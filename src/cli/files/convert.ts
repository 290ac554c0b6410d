/**
 * One file becomes another: read by a handle, written to a part file, which takes its name when all is there.
 *
 *     source ──► the change ──► .kfe-….part ──► target, with the mode and times of the source
 */
import { constants } from 'node:fs'
import { lstat, open, type FileHandle } from 'node:fs/promises'
import { Writable } from 'node:stream'

import { writeAll, type WritableFile } from '../../streams/write-behind.ts'
import { PlainError } from '../output.ts'
import { PartFile, type FileAttributes } from './part-file.ts'

/** What becomes of every file of a command. */
export interface Change {
  /** For people: encrypted, decrypted. */
  readonly done: string
  /** The name that a file of that name gets; undefined where it is none of those that are changed. */
  readonly targetName: (name: Buffer) => Buffer | undefined
  /** Writes what a regular file becomes. */
  readonly convert: (source: FileHandle, target: WritableFile) => Promise<void>
}

/**
 * What is done about a target that is there. refuse: an error. skip: it stays, whatever it is. resume: it stays where
 * it has its source's time of modification, which it was given before it got its name. force: it is replaced.
 */
export type Existing = 'refuse' | 'skip' | 'resume' | 'force'

export interface Conversion {
  readonly change: Change
  readonly existing: Existing
  /** Whether a source that is a link is what it points to. */
  readonly follow: boolean
  readonly onBytes: (bytes: number) => void
}

/** Times are set in seconds as a double, which is not exact to the nanosecond. */
const MTIME_ERROR_MS = 0.002
/** NONBLOCK: a file that was made a pipe a moment ago is not waited for. */
const OPEN_FLAGS = constants.O_RDONLY | constants.O_NONBLOCK

/** Errors: those of the streams and of the file system; PlainError for what is no file, or in the way. */
export async function convertFile(
  source: Buffer,
  target: Buffer,
  { change, existing, follow, onBytes }: Conversion,
): Promise<'done' | 'skipped'> {
  const handle = await open(source, follow ? OPEN_FLAGS : OPEN_FLAGS | constants.O_NOFOLLOW)
  try {
    const found = await handle.stat()
    if (!found.isFile()) throw new PlainError('not a regular file')
    if (await isFinished(target, found, existing)) return 'skipped'
    const part = await PartFile.create(target)
    try {
      await change.convert(handle, counted(part.file, onBytes))
      const now = await handle.stat()
      if (now.size !== found.size || now.mtimeMs !== found.mtimeMs) {
        throw new PlainError('it was written to while it was read')
      }
      await part.commit(target, found, existing === 'force')
    } finally {
      await part.discard()
    }
    return 'done'
  } finally {
    await handle.close()
  }
}

/** Whether the target stays as it is. Throws PlainError where it is in the way. */
export async function isFinished(
  target: Buffer,
  source: FileAttributes,
  existing: Existing,
): Promise<boolean> {
  if (existing === 'force') return false
  const found = await lstat(target).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error
    return undefined
  })
  if (found === undefined) return false
  if (existing === 'skip') return true
  if (existing === 'resume' && Math.abs(found.mtimeMs - source.mtimeMs) < MTIME_ERROR_MS)
    return true
  throw inTheWay(existing === 'resume' ? 'was made of another state of the file' : 'is there')
}

export function inTheWay(why: string): Error {
  return new PlainError(`the target ${why}; --force replaces it, --skip-existing leaves it`)
}

/** Says how many bytes are on their way. Before they are written: who reads a pipe may not be there yet. */
export function counted(target: WritableFile, onBytes: (bytes: number) => void): WritableFile {
  return {
    async write(from, offset, length) {
      onBytes(length)
      const { bytesWritten } = await target.write(from, offset, length)
      onBytes(bytesWritten - length)
      return { bytesWritten }
    },
  }
}

/** Not the stream of a handle, which takes the handle with it when it ends. */
export function sinkInto(target: WritableFile): Writable {
  return new Writable({
    highWaterMark: 2 ** 20,
    write(chunk: Uint8Array, _encoding, done) {
      writeAll(target, chunk).then(() => done(), done)
    },
  })
}

/** stdout, whatever it is. What is written to it stays as it is until it is taken. */
export function standardOutput(): WritableFile {
  // Whoever writes is told of it.
  process.stdout.on('error', () => undefined)
  return {
    write: (from, offset, length) =>
      new Promise((resolve, reject) => {
        process.stdout.write(from.subarray(offset, offset + length), (error) => {
          if (error) reject(error)
          else resolve({ bytesWritten: length })
        })
      }),
  }
}
