// Puts a package back that npm has just removed, from npm's cache and under the integrity of the lock file: what `npm
// ci` fetched a moment ago, and nothing else.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'

/** `directory` of the package, or the `reason` why it is not to be had. */
export function restorePackage(root, name) {
  const directory = join(root, 'node_modules', name)
  if (existsSync(join(directory, 'package.json'))) return { directory }
  const locked = lockedPackage(root, name)
  // As a dependency of another project keyfold has no lock file, and no say in what is installed.
  if (locked === undefined) return { reason: 'npm has left it out' }
  const npm = process.env.npm_execpath
  if (npm === undefined) return { reason: 'npm has left it out, and is not there to be asked' }
  mkdirSync(join(root, 'node_modules'), { recursive: true })
  const passing = mkdtempSync(join(root, 'node_modules', '.keyfold-'))
  try {
    const packed = spawnSync(
      process.execPath,
      [npm, 'pack', `${name}@${locked.version}`, '--offline', '--pack-destination', passing],
      { cwd: passing, encoding: 'utf8' },
    )
    const file = join(passing, `${name}-${locked.version}.tgz`)
    if (packed.status !== 0 || !existsSync(file)) {
      return { reason: "npm has left it out, and npm's cache does not have it" }
    }
    if (integrityOf(file) !== locked.integrity) {
      return { reason: "what npm's cache has is not what the lock file names" }
    }
    const unpacked = spawnSync('tar', ['-xzf', file, '-C', passing], { stdio: 'inherit' })
    if (unpacked.status !== 0) return { reason: 'tar is missing or failed' }
    renameSync(join(passing, 'package'), directory)
    return { directory }
  } finally {
    rmSync(passing, { recursive: true, force: true })
  }
}

function lockedPackage(root, name) {
  try {
    const lock = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'))
    return lock.packages[`node_modules/${name}`]
  } catch {
    return undefined
  }
}

function integrityOf(file) {
  return `sha512-${createHash('sha512').update(readFileSync(file)).digest('base64')}`
}
