/**
 * `-i` and `-o`: one file or pipe to another. A regular file is read by position, anything else as it comes; a regular file
 * is written as convert.ts does it.
 */
import { createReadStream, type Stats } from 'node:fs'
import { open, realpath, stat } from 'node:fs/promises'
import type { Duplex } from 'node:stream'
import { pipeline } from 'node:stream/promises'

import { KeyfoldError } from '../../errors.ts'
import type { WritableFile } from '../../streams/write-behind.ts'
import { convertFile, counted, inTheWay, sinkInto, standardOutput, type Change } from './convert.ts'
import { FileProgress } from './file-progress.ts'
import { PartFile, syncDirectory } from './part-file.ts'
import { directoryOf, pathOf } from './paths.ts'

export interface Pipe {
  /** `-`: stdin and stdout. */
  readonly from: string
  readonly to: string
  /** For a file, and what does the same for what has no positions. */
  readonly change: Change
  readonly stream: () => Duplex
  readonly encrypts: boolean
}

export async function convertPipe(
  { from, to, change, stream, encrypts }: Pipe,
  { quiet, replace }: { readonly quiet: boolean; readonly replace: boolean },
): Promise<void> {
  if (to === '-' && encrypts && process.stdout.isTTY) {
    throw new KeyfoldError('CONFIG_INVALID', 'ciphertext is nothing for a terminal; give -o')
  }
  const regular = from !== '-' && (await stat(from)).isFile()
  const place = to === '-' ? undefined : await placeOf(to)
  const progress = new FileProgress(regular ? [pathOf(from)] : [], quiet)
  const onBytes = (bytes: number): void => progress.add(bytes)
  const send = async (file: WritableFile): Promise<void> => {
    const target = counted(file, onBytes)
    if (!regular) {
      const source = from === '-' ? process.stdin : createReadStream(from)
      await pipeline(source, stream(), sinkInto(target))
      return
    }
    const source = await open(from)
    try {
      await change.convert(source, target)
    } finally {
      await source.close()
    }
  }
  try {
    if (place === undefined) await send(standardOutput())
    else if (place.special) await sendInto(place.path, send)
    else if (place.standing && !replace) throw inTheWay('is there')
    else {
      const target = pathOf(place.path)
      if (regular) {
        const existing = replace ? 'force' : 'refuse'
        await convertFile(pathOf(from), target, { change, existing, follow: true, onBytes })
      } else {
        await writePart(target, replace, send)
      }
      await syncDirectory(directoryOf(target))
    }
  } finally {
    progress.end()
  }
}

type Send = (file: WritableFile) => Promise<void>

async function sendInto(path: string, send: Send): Promise<void> {
  const target = await open(path, 'w')
  try {
    await send(target)
  } finally {
    await target.close()
  }
}

async function writePart(target: Buffer, replace: boolean, send: Send): Promise<void> {
  const part = await PartFile.create(target)
  try {
    await send(part.file)
    // A pipe has no mode to keep; its plaintext may be nobody else's business.
    const now = Date.now()
    await part.commit(target, { mode: 0o600, atimeMs: now, mtimeMs: now }, replace)
  } finally {
    await part.discard()
  }
}

/** A link to a file is that file, as for a shell; what is no file (/dev/null, a pipe) is not replaced by one. */
async function placeOf(
  path: string,
): Promise<{ readonly path: string; readonly standing: boolean; readonly special: boolean }> {
  let found: Stats
  try {
    found = await stat(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    return { path, standing: false, special: false }
  }
  if (found.isDirectory()) throw inTheWay('is a directory')
  return { path: await realpath(path), standing: true, special: !found.isFile() }
}
