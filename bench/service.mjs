// A running server against an echo server on the same front end: the same bytes in, as many bytes out, from a
// preallocated buffer through the same response function. The echo is the physical limit of this machine; the
// ratio says how much of it encryption leaves. Both are loaded in turn, several rounds, and the medians compared.
import { randomBytes } from 'node:crypto'

import { generator, load } from './load.mjs'
import { median } from './report.mjs'
import { post, startEcho, startKeyfold } from './servers.mjs'

const SHAPES = [64, 256, 1024, 16_384].flatMap((messageBytes) =>
  [1, 64, 1024, 4096].flatMap((batch) =>
    ['inline', 'packed'].map((form) => ({ messageBytes, batch, form })),
  ),
)
const SHAPES_QUICK = [
  { messageBytes: 64, batch: 1, form: 'inline' },
  { messageBytes: 64, batch: 4096, form: 'inline' },
  { messageBytes: 64, batch: 4096, form: 'packed' },
  { messageBytes: 256, batch: 1024, form: 'inline' },
  { messageBytes: 1024, batch: 1024, form: 'inline' },
  { messageBytes: 16_384, batch: 1024, form: 'inline' },
]
/** The body limit of 72 MiB leaves out what is larger with its headers. */
const REQUEST_BYTES_MAX = 70 * 2 ** 20

export async function run({ quick, progress }) {
  const keyfold = await startKeyfold()
  const echo = await startEcho()
  const rows = []
  try {
    progress(`load by ${generator}`)
    for (const shape of quick ? SHAPES_QUICK : SHAPES) {
      if (shape.messageBytes * shape.batch > REQUEST_BYTES_MAX) continue
      rows.push(...(await measureShape({ shape, keyfold, echo, quick, progress })))
    }
  } finally {
    await keyfold.stop()
    await echo.stop()
  }
  return rows
}

async function measureShape({ shape, keyfold, echo, quick, progress }) {
  const { messageBytes, batch, form } = shape
  const plaintexts = Array.from({ length: batch }, () => randomBytes(messageBytes))
  const encryptBody = keyfold.encode({ key: keyfold.keyId, form, plaintexts })
  const encrypted = await post(`${keyfold.url}/v1/encrypt`, keyfold.headers, encryptBody)
  const { ciphertexts, packed } = keyfold.decode(encrypted)
  const decryptBody = keyfold.encode(form === 'packed' ? { packed } : { ciphertexts })
  const decrypted = await post(`${keyfold.url}/v1/decrypt`, keyfold.headers, decryptBody)
  const opened = keyfold.decode(decrypted).plaintexts
  if (!plaintexts.every((plaintext, i) => plaintext.equals(opened[i]))) {
    throw new Error('the server does not decrypt what it encrypted')
  }

  const rows = []
  for (const [operation, body, answer] of [
    ['encrypt', encryptBody, encrypted],
    ['decrypt', decryptBody, decrypted],
  ]) {
    const name = `${operation} ${messageBytes} B x ${batch} ${form}`
    const request = {
      headers: keyfold.headers,
      body,
      connections: body.length > 4 * 2 ** 20 ? 2 : body.length > 65_536 ? 4 : 64,
      seconds: quick ? 1 : 3,
    }
    const ours = []
    const theirs = []
    for (let round = 0; round < (quick ? 2 : 5); round++) {
      ours.push(await load({ ...request, url: `${keyfold.url}/v1/${operation}` }))
      theirs.push(await load({ ...request, url: `${echo.url}/echo/${answer.length}` }))
    }
    const rate = (figures) => median(figures.map((figure) => figure.requestsPerSecond))
    const row = {
      suite: 'service',
      name,
      params: {
        messageBytes,
        batch,
        form,
        operation,
        implementation: keyfold.implementation,
        connections: request.connections,
        latencyMsP50: median(ours.map((figure) => figure.latencyMsP50)),
        latencyMsP99: median(ours.map((figure) => figure.latencyMsP99)),
      },
      value: rate(ours) * batch,
      unit: 'messages/s',
      ratios: { echo: rate(ours) / rate(theirs) },
    }
    progress(`${name}: ${Math.round(row.value)} messages/s, ${row.ratios.echo.toFixed(2)} of echo`)
    rows.push(row)
  }
  return rows
}
