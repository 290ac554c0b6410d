/**
 * A file that takes its name when all of it is there and on the disk. Until then it is called `.kfe-….part`, beside its
 * target, and nobody else may read it. Errors and signals that ask a process to end remove it; a kill -9 or a power
 * failure leaves it, and `--resume` removes it.
 */
import { randomBytes } from 'node:crypto'
import { unlinkSync } from 'node:fs'
import { link, lstat, open, rename, unlink, type FileHandle } from 'node:fs/promises'

import type { WritableFile } from '../../streams/write-behind.ts'
import { directoryOf, joinPath } from './paths.ts'

/** What of a file is kept. */
export interface FileAttributes {
  readonly mode: number
  readonly atimeMs: number
  readonly mtimeMs: number
}

/** Read, write and execute. Without the owner, who is not kept, setuid and setgid would be somebody else's. */
export const MODE_KEPT = 0o777
const PART_PATTERN = /^\.kfe-[0-9a-f]{24}\.part$/

export class PartFile {
  readonly #path: Buffer
  readonly #handle: FileHandle
  #standing = true

  private constructor(path: Buffer, handle: FileHandle) {
    this.#path = path
    this.#handle = handle
  }

  static async create(target: Buffer): Promise<PartFile> {
    const path = partPath(target)
    watchSignals()
    standing.add(path)
    try {
      return new PartFile(path, await open(path, 'wx', 0o600))
    } catch (error) {
      standing.delete(path)
      throw error
    }
  }

  get file(): WritableFile {
    return this.#handle
  }

  /** Errors: EEXIST where something has the name and is not to be replaced. */
  async commit(target: Buffer, attributes: FileAttributes, replace: boolean): Promise<void> {
    const { mode, atimeMs, mtimeMs } = attributes
    await this.#handle.chmod(mode & MODE_KEPT)
    await this.#handle.utimes(atimeMs / 1000, mtimeMs / 1000)
    await this.#handle.sync()
    await this.#handle.close()
    await takeName(this.#path, target, replace)
    this.#forget()
  }

  /** Removes it where it was not committed. */
  async discard(): Promise<void> {
    await this.#handle.close().catch(() => undefined)
    if (!this.#standing) return
    this.#forget()
    await unlink(this.#path).catch(() => undefined)
  }

  #forget(): void {
    this.#standing = false
    standing.delete(this.#path)
  }
}

/** A name beside the target that nothing has. */
export function partPath(target: Buffer): Buffer {
  const name = Buffer.from(`.kfe-${randomBytes(12).toString('hex')}.part`)
  return joinPath(directoryOf(target), name)
}

export function isPart(name: Buffer): boolean {
  return PART_PATTERN.test(name.toString('latin1'))
}

/** What was given a name in it is there after a power failure, too. */
export async function syncDirectory(path: Buffer | string): Promise<void> {
  const directory = await open(path)
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}

/** In one step. Errors: EEXIST where something has the name and is not to be replaced. */
export async function takeName(part: Buffer, target: Buffer, replace: boolean): Promise<void> {
  if (!replace) {
    try {
      // Unlike rename() it takes nobody else's name.
      await link(part, target)
      await unlink(part)
      return
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      // Some file systems have no hard links.
      const known = code === 'EPERM' || code === 'ENOTSUP' || code === 'EOPNOTSUPP'
      if (!known || (await isThere(target))) throw error
    }
  }
  await rename(part, target)
}

async function isThere(path: Buffer): Promise<boolean> {
  return lstat(path).then(
    () => true,
    () => false,
  )
}

const standing = new Set<Buffer>()
let watching = false

function watchSignals(): void {
  if (watching) return
  watching = true
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => {
      for (const path of standing) {
        try {
          unlinkSync(path)
        } catch {
          // It is gone already, or will not go: the process ends either way.
        }
      }
      process.kill(process.pid, signal)
    })
  }
}
