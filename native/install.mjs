// npm's install step: builds the addon with the headers that came with the running Node. It downloads nothing and
// never fails the install: without a compiler keyfold runs on node:crypto, and says so.
import { spawnSync } from 'node:child_process'
import { existsSync, realpathSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const reason = build()
if (reason !== undefined) {
  console.warn(`
  ****************************************************************************
  keyfold: the native core was not built: ${reason}
  keyfold will run on node:crypto, which is correct and many times slower, and
  keeps keys out of locked memory. Install g++, make and python3, then run
  npm rebuild keyfold (or npm ci again).
  ****************************************************************************
`)
}

/** What is in the way, or undefined. */
function build() {
  const prefix = dirname(dirname(realpathSync(process.execPath)))
  if (!existsSync(join(prefix, 'include', 'node', 'node_api.h'))) {
    return `this Node came without its headers (${join(prefix, 'include', 'node')})`
  }
  let nodeGyp
  try {
    nodeGyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js')
  } catch {
    return 'node-gyp is not installed'
  }
  const { status, error } = spawnSync(
    process.execPath,
    [nodeGyp, 'rebuild', `--nodedir=${prefix}`, '--loglevel=warn'],
    { cwd: root, stdio: 'inherit' },
  )
  if (error !== undefined) return error.message
  return status === 0 ? undefined : 'the compiler or a tool that it needs is missing or failed'
}
