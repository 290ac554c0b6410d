// What a key store costs and what the data-key cache makes of it. First each store alone, in this process: wraps of a
// data key a second, one after the other and several at once, checked by unwrapping before anything is timed. Then
// servers with a key in each store: batches through the cache, which should not be able to tell the stores apart, and
// the slowest requests while one message key follows another, beside those of a server that has the same one all the
// time.
//
// The stores are real ones: SoftHSM2's token, a second keyfold as an XKS proxy and as AWS KMS, OpenBao. They are made
// known to the servers by the command line, as a user does it. What is not installed is left out, which is said.
import { randomBytes } from 'node:crypto'

import { createNodeCrypto } from '../dist/crypto/node-crypto.js'
import { loadNativeCrypto } from '../dist/crypto/native.js'
import { LocalKeyStore } from '../dist/key-stores/local.js'
import { keyStoreOpener } from '../dist/kms/open-key-store.js'
import { generator, load } from './load.mjs'
import { median } from './report.mjs'
import { post, startKeyfold } from './servers.mjs'
import { createKeyIn, storesHere } from './stores.mjs'

const CONCURRENCY = [1, 8]
const CONNECTIONS = 4
const BATCH = { messages: 1024, messageBytes: 256 }
/** One request of 64 is the first of a new message key: often enough for the 99th percentile to see them. */
const ROLLOVER_MESSAGES = 64 * BATCH.messages
const LIVES = [
  { life: 'steady', argv: [] },
  { life: 'rollovers', argv: ['--message-key-messages-max', String(ROLLOVER_MESSAGES)] },
]
const AAD = randomBytes(55)
const LOCATION = { region: 'us-east-1', account: '000000000000' }

export async function run({ quick, progress }) {
  progress(`load by ${generator}`)
  // Short loads and many of them: what is compared lies side by side.
  const wraps = quick ? { seconds: 0.3, rounds: 2 } : { seconds: 1, rounds: 5 }
  const loads = quick ? { seconds: 1, rounds: 7 } : { seconds: 1, rounds: 11 }
  const stores = []
  try {
    for (const { name, open } of storesHere(progress)) stores.push({ name, ...(await open()) })
    return [
      ...(await measureWraps({ stores, ...wraps, progress })),
      ...(await measureServers({ stores, ...loads, progress })),
    ]
  } finally {
    for (const { stop } of stores) await stop()
  }
}

// Each store alone.

async function measureWraps({ stores, seconds, rounds, progress }) {
  const crypto = bestCrypto()
  const opened = [{ name: 'local', ...(await withMaterial(crypto, openLocal(crypto))) }]
  for (const one of stores) {
    const store = await openInProcess(crypto, one)
    opened.push({ name: one.name, ...(await withMaterial(crypto, store, one.externalKeyId)) })
  }
  const rows = []
  for (const concurrency of CONCURRENCY) {
    const figures = new Map(opened.map(({ name }) => [name, []]))
    for (let round = 0; round < rounds; round++) {
      for (const { name, store, material } of round % 2 === 0 ? opened : opened.toReversed()) {
        figures.get(name).push(await wrapFor({ crypto, store, material, concurrency, seconds }))
      }
    }
    for (const { name } of opened) {
      const value = median(figures.get(name))
      const row = {
        suite: 'key-stores',
        name: `wrap, ${name}, ${concurrency} at once`,
        params: { store: name, concurrency, implementation: crypto.implementation },
        value,
        unit: 'wraps/s',
        ratios: {},
      }
      progress(`${row.name}: ${Math.round(value)} wraps/s`)
      rows.push(row)
    }
  }
  for (const { store } of opened) await store.close()
  return rows
}

function bestCrypto() {
  for (const implementation of ['vaes', 'aesni']) {
    try {
      return loadNativeCrypto(implementation)
    } catch {
      // The next best.
    }
  }
  return createNodeCrypto()
}

function openLocal(crypto) {
  const root = crypto.generateKey()
  const store = new LocalKeyStore(crypto, { current: { version: 1, key: root } })
  crypto.releaseKey(root)
  return store
}

/** As a server opens it, from what its catalog keeps. */
function openInProcess(crypto, { name, kind, settings, secret, modules = {}, env }) {
  Object.assign(process.env, env)
  const open = keyStoreOpener({ crypto, location: LOCATION, pkcs11Modules: modules })
  return open({ id: name, name, kind, settings, openSecret: () => Buffer.from(secret) })
}

/** A store, and material of it that opens what it wrapped. */
async function withMaterial(crypto, store, externalKeyId) {
  const kmsKeyId = randomBytes(16)
  const keySpec = 'SYMMETRIC_DEFAULT'
  const made = await store.createKeyMaterial(kmsKeyId, 1, keySpec, externalKeyId)
  const material = { kmsKeyId, version: 1, keySpec, ...made }
  const plaintext = randomBytes(32)
  const wrapped = await store.wrapBytes(material, AAD, plaintext)
  const unwrapped = await store.unwrapBytes(material, AAD, wrapped)
  if (!plaintext.equals(unwrapped)) throw new Error(`${store.name} does not open what it wrapped`)
  return { store, material }
}

async function wrapFor({ crypto, store, material, concurrency, seconds }) {
  const key = crypto.generateKey()
  const startedMs = performance.now()
  const endsMs = startedMs + seconds * 1000
  let wraps = 0
  const one = async () => {
    while (performance.now() < endsMs) {
      await store.wrapKey(material, AAD, key)
      wraps++
    }
  }
  await Promise.all(Array.from({ length: concurrency }, one))
  crypto.releaseKey(key)
  return wraps / ((performance.now() - startedMs) / 1000)
}

// Servers.

/**
 * One server for each life, with a key in each store: two keys are compared in the same process, for two processes of one
 * program differ by some percent. Each store is loaded between loads of the local one, which it is compared with.
 */
async function measureServers({ stores, seconds, rounds, progress }) {
  const servers = []
  try {
    const requests = []
    for (const { life, argv } of LIVES) {
      const server = await startKeyfold(
        [...argv, ...stores.flatMap((store) => store.argv)],
        Object.assign({}, ...stores.map((store) => store.env)),
      )
      servers.push(server)
      requests.push({ name: 'local', life, server, ...(await prepare(server, server.keyId)) })
      for (const one of stores) {
        const keyId = createKeyIn(server, one.name, one)
        requests.push({ name: one.name, life, server, ...(await prepare(server, keyId)) })
      }
    }
    const loadOne = ({ url, headers, body }) =>
      load({ url, headers, body, connections: CONNECTIONS, seconds })
    // Once each, for the servers to get warm.
    for (const request of requests) await loadOne(request)
    const rows = new Map()
    for (const { name } of stores) {
      const compared = requests.filter((one) => one.name === name || one.name === 'local')
      for (const one of compared) one.figures = []
      for (let round = 0; round < rounds; round++) {
        for (const one of round % 2 === 0 ? compared : compared.toReversed()) {
          one.figures.push(await loadOne(one))
        }
      }
      for (const one of compared) {
        const row = serverRow(one, compared)
        // The local ones stand there once, as they were beside the first store.
        if (rows.has(row.name)) continue
        rows.set(row.name, row)
        progress(`${row.name}: ${Math.round(row.value)} messages/s, ${latencyOf(row)}`)
      }
    }
    return [...rows.values()]
  } finally {
    for (const server of servers) await server.stop()
  }
}

function latencyOf({ params: { latencyMsP99, latencyP99OverSteady } }) {
  const p99 = `p99 ${latencyMsP99.toFixed(2)} ms`
  return latencyP99OverSteady === undefined
    ? p99
    : `${p99}, ${latencyP99OverSteady.toFixed(2)} of steady`
}

/** A batch to encrypt, once it is known that it opens again. */
async function prepare(server, keyId) {
  const plaintexts = Array.from({ length: BATCH.messages }, () => randomBytes(BATCH.messageBytes))
  const body = server.encode({ key: keyId, plaintexts })
  const encrypted = await post(`${server.url}/v1/encrypt`, server.headers, body)
  const { ciphertexts } = server.decode(encrypted)
  const asked = server.encode({ ciphertexts })
  const decrypted = await post(`${server.url}/v1/decrypt`, server.headers, asked)
  const opened = server.decode(decrypted).plaintexts
  if (!plaintexts.every((plaintext, i) => plaintext.equals(opened[i]))) {
    throw new Error('the server does not decrypt what it encrypted')
  }
  return { url: `${server.url}/v1/encrypt`, headers: server.headers, body }
}

/** Of two loads what lies between them round by round: whatever else the machine does meets both. */
function ratioOf(one, other, figure) {
  return median(one.figures.map((loaded, round) => loaded[figure] / other.figures[round][figure]))
}

function serverRow(one, compared) {
  const { name, life, server } = one
  const of = (figure) => median(one.figures.map((loaded) => loaded[figure]))
  const find = (store, ofLife) =>
    compared.find((other) => other.name === store && other.life === ofLife)
  const local = find('local', life)
  const steady = find(name, 'steady')
  return {
    suite: 'key-stores',
    name: `encrypt ${BATCH.messageBytes} B x ${BATCH.messages}, ${name}, ${life}`,
    params: {
      store: name,
      life,
      ...BATCH,
      connections: CONNECTIONS,
      implementation: server.implementation,
      latencyMsP50: of('latencyMsP50'),
      latencyMsP99: of('latencyMsP99'),
      ...(one === steady
        ? {}
        : {
            messageKeyMessagesMax: ROLLOVER_MESSAGES,
            latencyP99OverSteady: ratioOf(one, steady, 'latencyMsP99'),
          }),
    },
    value: of('requestsPerSecond') * BATCH.messages,
    unit: 'messages/s',
    ratios: {
      ...(one === local ? {} : { local: ratioOf(one, local, 'requestsPerSecond') }),
      ...(one === steady ? {} : { steady: ratioOf(one, steady, 'requestsPerSecond') }),
    },
  }
}
