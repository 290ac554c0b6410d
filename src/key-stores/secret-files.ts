/** Small files of secrets: written so that a crash leaves the old or the new, and overwritten before they go. */
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { dirname } from 'node:path'

import { KeyfoldError } from '../errors.ts'

/** What a file is called on its way out: nothing reads it. */
const GONE = '.gone'

/** On disk when it returns, for its owner's eyes. Throws CONFIG_INVALID where it is there already. */
export function createFile(file: string, content: Uint8Array): void {
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 })
  try {
    writeFileSync(file, content, { mode: 0o600, flag: 'wx', flush: true })
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw cause
    throw new KeyfoldError('CONFIG_INVALID', `${file} appeared meanwhile: run it again`)
  }
  syncDirectory(file)
}

/** As createFile, in place of what is there. */
export function replaceFile(file: string, content: string | Uint8Array): void {
  const written = `${file}.new`
  writeFileSync(written, content, { mode: 0o600, flush: true })
  renameSync(written, file)
  syncDirectory(file)
}

/** `from` becomes `to`; what was there is overwritten. A crash on the way leaves `from`, or `to` as it shall be. */
export function promoteFile(from: string, to: string): void {
  if (existsSync(to)) renameSync(to, to + GONE)
  renameSync(from, to)
  syncDirectory(to)
  eraseGone(to)
}

export function eraseFile(file: string): void {
  if (existsSync(file)) {
    renameSync(file, file + GONE)
    syncDirectory(file)
  }
  eraseGone(file)
}

/** Throws CONFIG_INVALID, with the remedy, where others than its owner can do anything with it. */
export function readSecretFile(file: string): Buffer {
  if ((statSync(file).mode & 0o077) !== 0) {
    throw new KeyfoldError('CONFIG_INVALID', `others can read it: chmod 600 ${file}`)
  }
  return readFileSync(file)
}

/** As readSecretFile, without the newline that editors leave. */
export function readSecretLine(file: string): Uint8Array {
  const bytes = readSecretFile(file)
  return bytes.at(-1) === 0x0a ? bytes.subarray(0, -1) : bytes
}

/** As far as files go: a disk that writes elsewhere, or a copy, keeps what was there. */
export function eraseGone(file: string): void {
  const gone = file + GONE
  if (!existsSync(gone)) return
  const descriptor = openSync(gone, 'r+')
  try {
    writeSync(descriptor, Buffer.alloc(statSync(gone).size))
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
  unlinkSync(gone)
}

/** A name outlives a power failure only when its directory is on disk too. */
function syncDirectory(file: string): void {
  const descriptor = openSync(dirname(file), 'r')
  try {
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
}
