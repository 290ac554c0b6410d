// The processes that are measured, started and stopped: keyfold as a user starts it, and the echo server beside it.
import { spawn, spawnSync } from 'node:child_process'
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

/** `keyfold serve --dev` on a free port with one key. `ready` is what the server says of itself, credentials too. */
export async function startKeyfold(argv = []) {
  const child = spawn(
    process.execPath,
    [MAIN, 'serve', '--dev', '--ready-json', '--listen', '127.0.0.1:0', ...argv],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  const ready = JSON.parse(await firstLine(child))
  const { url, token } = ready
  const headers = { 'Content-Type': 'application/msgpack', Authorization: `Bearer ${token}` }
  const created = unpackr.unpack(
    await post(`${url}/v1/keys`, headers, packr.pack({ description: 'bench' })),
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

function stop(child) {
  return new Promise((resolve) => {
    child.on('close', resolve)
    child.kill('SIGTERM')
  })
}
