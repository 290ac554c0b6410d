// npm's install step: builds the addon, and pkcs11js for keys in HSMs, with the headers that came with the running
// Node. It downloads nothing and never fails the install: without a compiler keyfold runs on node:crypto, and says so.
import { spawnSync } from 'node:child_process'
import { existsSync, realpathSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { restorePackage } from './restore-package.mjs'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const reason = build(root)
if (reason !== undefined) {
  warn(`
  keyfold: the native core was not built: ${reason}
  keyfold will run on node:crypto, which is correct and many times slower, and
  keeps keys out of locked memory. Install g++, make and python3, then run
  npm rebuild keyfold (or npm ci again).`)
}
const pkcs11Reason = buildPkcs11js()
if (pkcs11Reason !== undefined) {
  warn(`
  keyfold: pkcs11js was not built: ${pkcs11Reason}
  Only key stores in HSMs need it.`)
}

/** What is in the way of building the package in `directory`, or undefined. */
function build(directory) {
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
    { cwd: directory, stdio: 'inherit' },
  )
  if (error !== undefined) return error.message
  return status === 0 ? undefined : 'the compiler or a tool that it needs is missing or failed'
}

/**
 * npm builds it by itself, with headers that it downloads; where it cannot it takes the package away again, as one that
 * is optional. So it is fetched back from npm's cache and built with the headers that are here.
 */
function buildPkcs11js() {
  if (isLoadable('pkcs11js')) return undefined
  if ((process.env.npm_config_omit ?? '').split(/\s+/).includes('optional')) return undefined
  const { directory, reason } = restorePackage(root, 'pkcs11js')
  return directory === undefined ? reason : build(directory)
}

function isLoadable(name) {
  try {
    createRequire(import.meta.url)(name)
    return true
  } catch {
    return false
  }
}

function warn(text) {
  const line = `  ${'*'.repeat(76)}`
  console.warn(`\n${line}${text}\n${line}\n`)
}
