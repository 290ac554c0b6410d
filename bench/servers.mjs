// The processes that are measured, started and stopped: keyfold as a user starts it, and the echo server beside it.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

import { Packr, Unpackr } from 'msgpackr'

const packr = new Packr({ useRecords: false })
const unpackr = new Unpackr({ useRecords: false })

const MAIN = 'dist/cli/main.js'
/**
 * Of servers that are started again at the same address: below the ports that clients connect from. A client that knocks
 * on one of those while nobody listens may be given the very port to knock from; TCP then connects it to itself, and the
 * port stays taken for a minute.
 */
const PORTS = { from: 20_000, below: 30_000 }

/** Whether `keyfold serve` has this flag. */
export function serveKnows(flag) {
  const { stdout } = spawnSync(process.execPath, [MAIN, 'serve', '--help'], { encoding: 'utf8' })
  return stdout.includes(` ${flag} `)
}

/** `keyfold serve --dev` on a free port with one key. `ready` is what the server says of itself, credentials too. */
export async function startKeyfold(argv = [], env = {}) {
  const { child, ready } = await serve(['--dev', '--listen', '127.0.0.1:0', ...argv], env)
  const { url, token } = ready
  const headers = headersOf(token)
  const created = await createKey(url, headers)
  const limits = await fetch(`${url}/v1/limits`, {
    headers: { ...headers, Accept: 'application/json' },
  })
  const { implementation } = await limits.json()
  return {
    url,
    ready,
    headers,
    token,
    implementation,
    keyId: created.keyId,
    encode: (value) => packr.pack(value),
    decode: (bytes) => unpackr.unpack(bytes),
    stop: () => stop(child),
  }
}

/** A data directory of its own, and a server on it that is killed and started again at the same address. */
export async function initKeyfold(argv = [], env = {}) {
  const directory = mkdtempSync(join(tmpdir(), 'keyfold-bench-'))
  const { token } = runKeyfold(['init', '--data', directory], env)
  const node = await startNode(token, ['--data', directory, ...argv], env)
  const { keyId } = await createKey(node.url, node.headers)
  return {
    ...node,
    keyId,
    stop: async () => {
      await node.stop()
      rmSync(directory, { recursive: true, force: true })
    },
  }
}

/** A server on data that is there already, at an address that stays. */
export async function startNode(token, argv, env = {}) {
  const address = `127.0.0.1:${await freePort()}`
  let node
  const start = async () => {
    node = await serve(['--listen', address, ...argv], env)
  }
  await start()
  return {
    url: node.ready.url,
    headers: headersOf(token),
    token,
    start,
    kill: () => stop(node.child, 'SIGKILL'),
    stop: () => stop(node.child),
  }
}

/** What `keyfold …` prints as JSON, as a user types it. */
export function runKeyfold(words, env = {}, input = '') {
  const { status, stdout } = spawnSync(process.execPath, [MAIN, ...words, '--json'], {
    encoding: 'utf8',
    input,
    env: { ...process.env, ...env },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  if (status !== 0) throw new Error(`keyfold ${words.join(' ')} ended with ${status}`)
  return JSON.parse(stdout)
}

/** The same, of a server that is running. */
export function askKeyfold({ url, token }, words, input) {
  return runKeyfold(words, { KEYFOLD_URL: url, KEYFOLD_TOKEN: token }, input)
}

export const encode = (value) => packr.pack(value)

function headersOf(token) {
  return { 'Content-Type': 'application/msgpack', Authorization: `Bearer ${token}` }
}

async function createKey(url, headers) {
  const fields = packr.pack({ description: 'bench' })
  return unpackr.unpack(await post(`${url}/v1/keys`, headers, fields))
}

async function serve(argv, env) {
  const child = spawn(
    process.execPath,
    [MAIN, 'serve', '--ready-json', '--log-level', 'warn', ...argv],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, ...env },
    },
  )
  return { child, ready: JSON.parse(await firstLine(child)) }
}

export async function freePort() {
  for (;;) {
    const port = PORTS.from + Math.floor(Math.random() * (PORTS.below - PORTS.from))
    const probe = createServer().listen(port, '127.0.0.1')
    const isFree = await once(probe, 'listening').then(
      () => true,
      () => false,
    )
    if (!isFree) continue
    probe.close()
    await once(probe, 'close')
    return port
  }
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

/** One that has ended already is stopped. */
function stop(child, signal = 'SIGTERM') {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve()
  return new Promise((resolve) => {
    child.on('close', resolve)
    child.kill(signal)
  })
}
