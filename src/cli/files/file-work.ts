/**
 * Many files, and trees of them: what fails is told and the others go on, unless it would fail them all.
 *
 * A tree is copied as tar and cp -a do it. Names and directories stay, links stay links and are not followed, modes
 * (rwx) and times of modification are kept; owners, extended attributes and hard links are not. Sockets, pipes and
 * devices are told and left out.
 */
import { constants, type Stats } from 'node:fs'
import {
  access,
  chmod,
  lstat,
  lutimes,
  mkdir,
  readdir,
  readlink,
  realpath,
  symlink,
  unlink,
  utimes,
} from 'node:fs/promises'

import { KeyfoldError, type ErrorCode } from '../../errors.ts'
import { PlaceError, PlainError, say } from '../output.ts'
import { convertFile, inTheWay, isFinished, type Conversion } from './convert.ts'
import { isPart, MODE_KEPT, partPath, syncDirectory, takeName } from './part-file.ts'
import { directoryOf, joinPath, nameOf, showPath } from './paths.ts'

/** Small files wait for the disk and the server, large ones for the cipher; each takes a window of memory. */
const FILES_AT_ONCE = 4
const OWNER_ALL = 0o700

/** What stands in the way of one file stands in the way of all. */
const FATAL_CODES: readonly (ErrorCode | 'ENOSPC' | 'EDQUOT' | 'EROFS')[] = [
  'CONFIG_INVALID',
  'CONNECTION_FAILED',
  'UNAUTHENTICATED',
  'LOCKED',
  'SHUTTING_DOWN',
  'ENOSPC',
  'EDQUOT',
  'EROFS',
]

export interface Tally {
  done: number
  skipped: number
  failed: number
}

export class FileWork {
  readonly #conversion: Omit<Conversion, 'follow'>
  readonly tally: Tally = { done: 0, skipped: 0, failed: 0 }

  constructor(conversion: Omit<Conversion, 'follow'>) {
    this.#conversion = conversion
  }

  /** A file that was named itself. A link is what it points to. */
  async file(source: Buffer, target: Buffer): Promise<void> {
    await this.#attempt(source, async () => {
      const became = await convertFile(source, target, { ...this.#conversion, follow: true })
      await syncDirectory(directoryOf(target))
      return became
    })
  }

  /** The tree below a directory; its own mode and times where the target is made for it. */
  async tree(source: Buffer, target: Buffer, keep: 'attributes' | 'contents'): Promise<void> {
    await this.#attempt(source, async () => {
      await this.#directory(source, target, keep)
      return undefined
    })
  }

  async #directory(source: Buffer, target: Buffer, keep: 'attributes' | 'contents'): Promise<void> {
    const found = await lstat(source)
    const names = (await readdir(source, { encoding: 'buffer' })).sort(Buffer.compare)
    await makeDirectory(target)
    if (this.#conversion.existing === 'resume') await removeParts(target)
    const taken = new Set<string>()
    const directories: (readonly [Buffer, Buffer])[] = []
    await eachOf(names, async (name) => {
      if (isPart(name)) return
      const child = joinPath(source, name)
      await this.#attempt(child, async () => {
        const stat = await lstat(child)
        const targetName = this.#targetName(name, stat)
        // Two of these can become one name: a file `a`, and a link or directory `a.kfe`.
        const known = targetName.toString('latin1')
        if (taken.has(known)) throw inTheWay('was made of another file of this directory')
        taken.add(known)
        const to = joinPath(target, targetName)
        if (stat.isDirectory()) directories.push([child, to])
        else if (stat.isSymbolicLink()) return this.#link(child, to, stat)
        else return convertFile(child, to, { ...this.#conversion, follow: false })
        return undefined
      })
    })
    for (const [child, to] of directories) {
      await this.#attempt(child, async () => {
        await this.#directory(child, to, 'attributes')
        return undefined
      })
    }
    if (keep === 'attributes') {
      await chmod(target, found.mode & MODE_KEPT)
      await utimes(target, found.atimeMs / 1000, found.mtimeMs / 1000)
    }
    await syncDirectory(target)
  }

  #targetName(name: Buffer, stat: Stats): Buffer {
    if (stat.isDirectory() || stat.isSymbolicLink()) return name
    if (!stat.isFile()) {
      throw new PlainError('left out: a socket, pipe or device')
    }
    const targetName = this.#conversion.change.targetName(name)
    if (targetName !== undefined) return targetName
    throw new PlainError('left out: its name does not end in .kfe')
  }

  async #link(source: Buffer, target: Buffer, stat: Stats): Promise<'done' | 'skipped'> {
    const { existing } = this.#conversion
    if (await isFinished(target, stat, existing)) return 'skipped'
    const to = await readlink(source, { encoding: 'buffer' })
    const part = partPath(target)
    await symlink(to, part)
    try {
      await lutimes(part, stat.atimeMs / 1000, stat.mtimeMs / 1000)
      await takeName(part, target, existing === 'force')
    } catch (error) {
      await unlink(part)
      throw error
    }
    return 'done'
  }

  async #attempt(
    source: Buffer,
    work: () => Promise<'done' | 'skipped' | undefined>,
  ): Promise<void> {
    try {
      const became = await work()
      if (became !== undefined) this.tally[became]++
    } catch (error) {
      // Told already, and on its way out.
      if (error instanceof PlaceError) throw error
      const told = new PlaceError(showPath(source), error)
      const { code } = error as { readonly code?: string }
      if ((FATAL_CODES as readonly (string | undefined)[]).includes(code)) throw told
      this.tally.failed++
      say(told.message)
    }
  }
}

/** A few at once; after a failure no more are begun, and those under way are waited for. */
async function eachOf<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const failures: unknown[] = []
  const left = items.values()
  const run = async (): Promise<void> => {
    for (const item of left) {
      if (failures.length > 0) return
      await work(item).catch((error: unknown) => failures.push(error))
    }
  }
  await Promise.all(Array.from({ length: FILES_AT_ONCE }, run))
  if (failures.length > 0) throw failures[0]
}

/** One that is there is gone on with; not a link to one, by which a file would leave the tree. */
async function makeDirectory(target: Buffer): Promise<void> {
  try {
    await mkdir(target, OWNER_ALL)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    const found = await lstat(target)
    if (!found.isDirectory()) throw inTheWay('is no directory')
    // As an earlier run left it, with the mode of a source that nobody may write to.
    if ((found.mode & OWNER_ALL) !== OWNER_ALL) await chmod(target, found.mode | OWNER_ALL)
    await access(target, constants.W_OK)
  }
}

async function removeParts(directory: Buffer): Promise<void> {
  for (const name of await readdir(directory, { encoding: 'buffer' })) {
    if (isPart(name)) await unlink(joinPath(directory, name))
  }
}

/** What is written must not be what is still to be read. Errors: CONFIG_INVALID. */
export async function assertApart(source: Buffer, target: Buffer): Promise<void> {
  const inside = asPrefix(await realpath(source, { encoding: 'buffer' }))
  if (
    asPrefix(await realPlace(target))
      .subarray(0, inside.length)
      .equals(inside)
  ) {
    throw new KeyfoldError('CONFIG_INVALID', `${showPath(target)} lies in the tree itself`)
  }
}

/** Also of what is not there yet. */
async function realPlace(path: Buffer): Promise<Buffer> {
  try {
    return await realpath(path, { encoding: 'buffer' })
  } catch (error) {
    const up = directoryOf(path)
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || up.equals(path)) throw error
    return joinPath(await realPlace(up), nameOf(path))
  }
}

function asPrefix(path: Buffer): Buffer {
  return path.at(-1) === 0x2f ? path : Buffer.concat([path, Buffer.from('/')])
}
