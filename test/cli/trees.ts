/** Trees of files to copy, and what is in a tree, by the file system's own account. */
import { createHash } from 'node:crypto'
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'

const FRAME = 65_536

/** Everything that a tree may hold and that is copied; empty files and directories, odd names, links to nowhere. */
export function makeTree(root: string): void {
  const deep = join(root, ...Array.from({ length: 40 }, (_, i) => `level ${i} ${'d'.repeat(40)}`))
  for (const directory of [root, join(root, 'empty directory'), join(root, 'closed'), deep]) {
    mkdirSync(directory, { recursive: true })
  }
  const sizes = [0, 1, FRAME - 1, FRAME, FRAME + 1, 3_000_001]
  for (const size of sizes) writeFileSync(join(root, `${size} bytes`), bytesOf(size))
  writeFileSync(join(deep, 'deep'), 'at the bottom')
  writeFileSync(join(root, 'closed', 'in a closed directory'), 'x')
  for (const name of ODD_NAMES) writeFileSync(Buffer.concat([Buffer.from(`${root}/`), name]), name)
  symlinkSync('1 bytes', join(root, 'link to a file'))
  symlinkSync('empty directory', join(root, 'link to a directory'))
  symlinkSync('/nowhere/at all', join(root, 'link to nowhere'))
  symlinkSync('..', join(root, 'empty directory', 'link upwards'))
  setWholeTimes(root)
  chmodSync(join(root, '1 bytes'), 0o751)
  chmodSync(join(root, '0 bytes'), 0o400)
  chmodSync(join(root, '65536 bytes'), 0o644)
  utimesSync(join(root, '1 bytes'), 1_000_000_000.5, 1_100_000_000.25)
  lutimesSync(join(root, 'link to nowhere'), 1_000_000_000, 1_000_000_000)
  utimesSync(join(root, 'empty directory'), 1_200_000_000, 1_200_000_000)
  utimesSync(join(root, 'closed'), 1_300_000_000, 1_300_000_000)
  chmodSync(join(root, 'closed'), 0o555)
}

/**
 * Gives all that lies below a time of modification of its own, in whole seconds. Times are copied to the microsecond and
 * compared to the millisecond: what the clock happens to say may lie where one rounds up and the other down.
 */
export function setWholeTimes(root: string): void {
  let seconds = 1_400_000_000
  const visit = (path: Buffer): void => {
    if (lstatSync(path).isDirectory()) {
      for (const name of readdirSync(path, 'buffer')) {
        visit(Buffer.concat([path, Buffer.from('/'), name]))
      }
    }
    lutimesSync(path, seconds, seconds)
    seconds++
  }
  visit(Buffer.from(root))
}

export const ODD_NAMES = [
  'new\nline',
  '-k',
  ' ',
  'é and e\u0301',
  '\u202egnp.exe',
  '"quoted" \\ $HOME *',
  'a.kfe',
  '.kfe',
  '.kfe-.part',
  '\u{1f511}',
  'n'.repeat(251),
]
  .map((name) => Buffer.from(name))
  .concat(Buffer.from([0x6e, 0xff, 0xfe, 0x80]))

/** Not compressible, and the same for the same size. */
export function bytesOf(size: number): Buffer {
  const block = createHash('sha512').update(`${size}`).digest()
  return Buffer.alloc(size, block)
}

/** Path → kind, mode, time of modification in ms, and content, of all that lies below. */
export function listTree(root: string): Readonly<Record<string, string>> {
  const found: Record<string, string> = {}
  const visit = (path: Buffer, shown: string): void => {
    const { mode, mtimeMs } = lstatSync(path)
    const kind = mode & 0o170000
    let content = ''
    if (kind === 0o100000) content = createHash('sha256').update(readFileSync(path)).digest('hex')
    if (kind === 0o120000) content = readlinkSync(path, 'latin1')
    found[shown] = `${mode.toString(8)} ${Math.round(mtimeMs)} ${content}`
    if (kind !== 0o040000) return
    for (const name of readdirSync(path, 'buffer')) {
      const child = Buffer.concat([path, Buffer.from('/'), name])
      visit(child, `${shown}/${name.toString('latin1')}`)
    }
  }
  visit(Buffer.from(root), '')
  return found
}

/** What one of two lists has and the other has not, shortened: paths are long. */
export function differences(
  a: Readonly<Record<string, string>>,
  b: Readonly<Record<string, string>>,
): readonly string[] {
  const paths = [...new Set([...Object.keys(a), ...Object.keys(b)])]
  return paths
    .filter((path) => a[path] !== b[path])
    .map((path) => `${path.slice(-40)}: ${a[path] ?? 'none'} / ${b[path] ?? 'none'}`)
    .slice(0, 10)
}

/** A directory that nobody may write to is not removed by rm -r of anyone but root. */
export function openTree(root: string): void {
  execFileSync('chmod', ['-R', 'u+rwx', root])
}

/** Names of all files below that are not whole yet. */
export function partsOf(root: string): readonly string[] {
  // readdir() with `recursive` follows links for ever.
  const found = execFileSync('find', [root, '-regex', '.*/\\.kfe-[0-9a-f]+\\.part'])
  return found.toString().split('\n').filter(Boolean)
}
