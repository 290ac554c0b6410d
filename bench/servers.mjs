// The processes that are measured, started and stopped: keyfold as a user starts it, and the echo server beside it.
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

import { Packr, Unpackr } from 'msgpackr'

const packr = new Packr({ useRecords: false })
const unpackr = new Unpackr({ useRecords: false })

const MAIN = 'dist/cli/main.js'

/** Whether `keyfold serve` has this flag. */
export function serveKnows(flag) {
  const { stdout } = spawnSync(process.execPath, [MAIN, 'serve', '--help'], { encoding: 'utf8' })
  return stdout.includes(` ${flag} `)
}

/**
 * `keyfold serve --dev` on a free port with one key. `ready` is what the server says of itself, credentials too.
 * `keyFields`: what the key is created with.
 */
export async function startKeyfold(argv = [], keyFields = {}) {
  const { child, ready } = await serve(['--dev', '--listen', '127.0.0.1:0', ...argv])
  const { url, token } = ready
  const headers = { 'Content-Type': 'application/msgpack', Authorization: `Bearer ${token}` }
  const created = unpackr.unpack(
    await post(`${url}/v1/keys`, headers, packr.pack({ description: 'bench', ...keyFields })),
  )
  const limits = await fetch(`${url}/v1/limits`, {
    headers: { ...headers, Accept: 'application/json' },
  })
  const { implementation } = await limits.json()
  return {
    url,
    ready,
    headers,
    implementation,
    keyId: created.keyId,
    encode: (value) => packr.pack(value),
    decode: (bytes) => unpackr.unpack(bytes),
    stop: () => stop(child),
  }
}

/**
 * A data directory of its own, and a node on it that is started, killed and started again: at another address, as whoever
 * balances load finds one, for the old one's connections linger.
 */
export async function initKeyfold(argv = []) {
  const directory = mkdtempSync(join(tmpdir(), 'keyfold-bench-'))
  const { stdout } = spawnSync(process.execPath, [MAIN, 'init', '--data', directory, '--json'], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const { token } = JSON.parse(stdout)
  const headers = { 'Content-Type': 'application/msgpack', Authorization: `Bearer ${token}` }
  let node
  const start = async () => {
    node = await serve(['--data', directory, '--listen', '127.0.0.1:0', ...argv])
  }
  await start()
  const created = await post(`${node.ready.url}/v1/keys`, headers, packr.pack({}))
  const { keyId } = unpackr.unpack(created)
  return {
    get url() {
      return node.ready.url
    },
    headers,
    keyId,
    encode: (value) => packr.pack(value),
    kill: () => stop(node.child, 'SIGKILL'),
    start,
    stop: async () => {
      await stop(node.child)
      rmSync(directory, { recursive: true, force: true })
    },
  }
}

async function serve(argv) {
  const child = spawn(process.execPath, [MAIN, 'serve', '--ready-json', ...argv], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  return { child, ready: JSON.parse(await firstLine(child)) }
}

export async function startEcho() {
  const child = spawn(process.execPath, ['bench/echo.mjs'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const { url } = JSON.parse(await firstLine(child))
  return { url, stop: () => stop(child) }
}

export async function post(url, headers, body) {
  const response = await fetch(url, { method: 'POST', headers, body })
  const bytes = Buffer.from(await response.arrayBuffer())
  if (!response.ok) throw new Error(`${url}: ${response.status} ${bytes.toString('latin1')}`)
  return bytes
}

async function firstLine(child) {
  for await (const line of createInterface({ input: child.stdout })) return line
  throw new Error('the server ended before it was ready')
}

function stop(child, signal = 'SIGTERM') {
  return new Promise((resolve) => {
    child.on('close', resolve)
    child.kill(signal)
  })
}
