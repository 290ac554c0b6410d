// The streaming routes of a running server against a route of the same front end that writes back what it reads, both
// chunked both ways: how much of what a connection can carry is left. The client writes one part of a body over and over
// and reads into the same memory, so that the server is what is measured.
import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'

import {
  decryptBuffer,
  encryptBuffer,
  Keyfold,
  keyfoldKmsClient,
  KmsKeyring,
} from '../dist/index.js'
import { median } from './report.mjs'
import { post, startEcho, startKeyfold } from './servers.mjs'

const SIZES = {
  quick: { bytes: 256 * 2 ** 20, rounds: 5 },
  full: { bytes: 2 ** 30, rounds: 5 },
}
const PART_BYTES = 2 ** 19
const CHECKED_BYTES = 3_000_001
/** The last chunk, which has no bytes, ends a body (RFC 9112 §7.1). */
const END = Buffer.from('0\r\n\r\n')
const TYPE = { 'Content-Type': 'application/octet-stream' }

export async function compareRoutes({ quick, progress }) {
  const { bytes, rounds } = quick ? SIZES.quick : SIZES.full
  const keyfold = await startKeyfold()
  const echo = await startEcho()
  try {
    const { url, token, headers } = keyfold
    const created = await post(`${url}/v1/keys`, headers, keyfold.encode({ description: 'bench' }))
    const { arn } = keyfold.decode(created)
    const client = keyfoldKmsClient(new Keyfold({ url, token }))
    const keyring = new KmsKeyring({ client, generatorKeyId: arn })
    const paths = {
      encrypt: `/v1/streams/encrypt?key=${encodeURIComponent(arn)}`,
      decrypt: '/v1/streams/decrypt',
    }
    await check(keyfold, keyring, paths)
    const plaintext = randomBytes(bytes)
    const bodies = { encrypt: plaintext, decrypt: await encryptBuffer(keyring, plaintext) }
    const rows = []
    for (const [operation, path] of Object.entries(paths)) {
      const setting = { keyfold, echo, operation, path, body: bodies[operation], rounds }
      rows.push(await compare(setting))
      const { value, ratios } = rows.at(-1)
      progress(
        `${operation} by the route: ${Math.round(value)} MB/s, ${ratios.echo.toFixed(2)} of echo`,
      )
    }
    return rows
  } finally {
    await keyfold.stop()
    await echo.stop()
  }
}

/** The routes and the library open what the other sealed. */
async function check(keyfold, keyring, paths) {
  const plaintext = randomBytes(CHECKED_BYTES)
  const send = async (path, body) => {
    const { Authorization } = keyfold.headers
    const response = await fetch(keyfold.url + path, {
      method: 'PUT',
      headers: { ...TYPE, Authorization },
      body,
    })
    return Buffer.from(await response.arrayBuffer())
  }
  const sealed = await send(paths.encrypt, plaintext)
  const opened = await send(paths.decrypt, await encryptBuffer(keyring, plaintext))
  const { plaintext: found } = await decryptBuffer(keyring, sealed)
  if (!found.equals(plaintext) || !opened.equals(plaintext)) {
    throw new Error('a streaming route does not do what the library does')
  }
}

async function compare({ keyfold, echo, operation, path, body, rounds }) {
  const { Authorization } = keyfold.headers
  const ours = { url: keyfold.url + path, headers: { ...TYPE, Authorization }, body }
  const theirs = { url: `${echo.url}/echo`, headers: TYPE, body }
  const figures = { ours: [], theirs: [] }
  for (let round = 0; round < rounds; round++) {
    figures.ours.push(await stream(ours))
    figures.theirs.push(await stream(theirs))
  }
  return {
    suite: 'streams',
    name: `${operation} by the server's route`,
    params: { operation, bytes: body.length, implementation: keyfold.implementation },
    value: median(figures.ours),
    unit: 'MB/s',
    ratios: { echo: median(figures.ours) / median(figures.theirs) },
  }
}

/** MB/s of a body, from the first byte that is sent to the last one of the answer. */
function stream({ url, headers, body }) {
  const { hostname, port, host, pathname, search } = new URL(url)
  const lines = [
    `PUT ${pathname}${search} HTTP/1.1`,
    `Host: ${host}`,
    'Transfer-Encoding: chunked',
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
  ]
  return new Promise((resolve, reject) => {
    const into = Buffer.alloc(PART_BYTES)
    let status
    let last = Buffer.alloc(0)
    let sent = false
    const started = performance.now()
    const callback = (bytes) => {
      status ??= into.toString('latin1', 9, 12)
      if (status !== '200') {
        socket.destroy(new Error(`${url}: ${into.toString('latin1', 0, bytes)}`))
        return false
      }
      const ending = into.subarray(Math.max(0, bytes - END.length), bytes)
      last = Buffer.concat([last, ending]).subarray(-END.length)
      if (sent && last.equals(END)) {
        resolve(body.length / (performance.now() - started) / 1e3)
        socket.destroy()
      }
      return true
    }
    const onread = { buffer: into, callback }
    const socket = connect({ host: hostname, port: Number(port), onread })
    socket.on('error', reject)
    socket.on('close', () => reject(new Error(`${url}: the answer has no end`)))
    socket.write(`${lines.join('\r\n')}\r\n\r\n`)
    let at = 0
    const writeOn = () => {
      while (at < body.length) {
        const part = body.subarray(at, at + PART_BYTES)
        at += part.length
        socket.cork()
        socket.write(`${part.length.toString(16)}\r\n`)
        socket.write(part)
        const more = socket.write('\r\n')
        socket.uncork()
        if (!more) {
          socket.once('drain', writeOn)
          return
        }
      }
      sent = true
      socket.write(END)
    }
    writeOn()
  })
}
