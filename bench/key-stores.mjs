// What a key store costs and what the data-key cache makes of it. First each store alone: wraps of a data key a second,
// one after the other and several at once, checked by unwrapping before anything is timed. Then servers whose keys lie
// in each: batches through the cache, which should not be able to tell the stores apart, and the slowest requests while
// one message key follows another, beside those of a server that has the same one all the time.
import { randomBytes } from 'node:crypto'

import { createNodeCrypto } from '../dist/crypto/node-crypto.js'
import { loadNativeCrypto } from '../dist/crypto/native.js'
import { GuardedKeyStore } from '../dist/key-stores/guarded.js'
import { LocalKeyStore } from '../dist/key-stores/local.js'
import { generator, load } from './load.mjs'
import { median } from './report.mjs'
import { post, startKeyfold } from './servers.mjs'

/**
 * Stores that are opened in this process, and their peer. A store of another system is added with what it takes to have
 * one on this machine: a token of SoftHSM for pkcs11, a second keyfold for xks and remote.
 */
const STORES = [
  { name: 'local', open: (crypto) => openLocal(crypto) },
  { name: 'local behind a guard', peer: 'local', open: (crypto) => guarded(crypto) },
]
/** Servers whose new keys lie in a store: its settings, and what a key is created with. */
const SERVERS = [{ name: 'local', argv: [], keyFields: {} }]

const CONCURRENCY = [1, 8]
const BATCH = { messages: 1024, messageBytes: 256 }
/** About ten rollovers a second at 50,000 messages/s, batches or not. */
const ROLLOVER_MESSAGES = 4_096
const AAD = randomBytes(55)

export async function run({ quick, progress }) {
  progress(`load by ${generator}`)
  const seconds = quick ? 1 : 3
  const rounds = quick ? 2 : 5
  return [
    ...(await measureWraps({ seconds, rounds, progress })),
    ...(await measureServers({ seconds, rounds, progress })),
  ]
}

function openLocal(crypto) {
  const root = crypto.generateKey()
  const store = new LocalKeyStore(crypto, root)
  crypto.releaseKey(root)
  return store
}

function guarded(crypto) {
  return new GuardedKeyStore(openLocal(crypto), {
    crypto,
    reserveWrap: () => undefined,
    onChange: () => undefined,
  })
}

async function measureWraps({ seconds, rounds, progress }) {
  const crypto = bestCrypto()
  const opened = []
  for (const { name, peer, open } of STORES) {
    const store = await open(crypto)
    opened.push({ name, peer, store, material: await makeMaterial(crypto, store) })
  }
  const rows = []
  for (const concurrency of CONCURRENCY) {
    const figures = new Map(opened.map(({ name }) => [name, []]))
    for (let round = 0; round < rounds; round++) {
      for (const { name, store, material } of round % 2 === 0 ? opened : opened.toReversed()) {
        figures.get(name).push(await wrapFor({ crypto, store, material, concurrency, seconds }))
      }
    }
    for (const { name, peer } of opened) {
      const value = median(figures.get(name))
      const row = {
        suite: 'key-stores',
        name: `wrap, ${name}, ${concurrency} at once`,
        params: { store: name, concurrency, implementation: crypto.implementation },
        value,
        unit: 'wraps/s',
        ratios: peer === undefined ? {} : { [peer]: value / median(figures.get(peer)) },
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

/** Material of a store that opens what it wrapped. */
async function makeMaterial(crypto, store) {
  const kmsKeyId = randomBytes(16)
  const keySpec = 'SYMMETRIC_DEFAULT'
  const made = await store.createKeyMaterial(kmsKeyId, 1, keySpec)
  const material = { kmsKeyId, version: 1, keySpec, ...made }
  const plaintext = randomBytes(32)
  const wrapped = await store.wrapBytes(material, AAD, plaintext)
  const unwrapped = await store.unwrapBytes(material, AAD, wrapped)
  if (!plaintext.equals(unwrapped)) throw new Error(`${store.name} does not open what it wrapped`)
  return material
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

async function measureServers({ seconds, rounds, progress }) {
  const lives = [
    { life: 'steady', argv: [] },
    { life: 'rollovers', argv: ['--message-key-messages-max', String(ROLLOVER_MESSAGES)] },
  ]
  const servers = []
  try {
    for (const { name, argv, keyFields } of SERVERS) {
      for (const { life, argv: lifeArgv } of lives) {
        const server = await startKeyfold([...argv, ...lifeArgv], keyFields)
        servers.push({ name, life, server, request: await prepare(server) })
      }
    }
    const figures = new Map(servers.map((one) => [one, []]))
    for (let round = 0; round < rounds; round++) {
      for (const one of round % 2 === 0 ? servers : servers.toReversed()) {
        figures.get(one).push(await load({ ...one.request, connections: 4, seconds }))
      }
    }
    return servers.map((one) => serverRow(one, servers, figures, progress))
  } finally {
    for (const { server } of servers) await server.stop()
  }
}

/** A batch to encrypt, once it is known that it opens again. */
async function prepare(server) {
  const plaintexts = Array.from({ length: BATCH.messages }, () => randomBytes(BATCH.messageBytes))
  const body = server.encode({ key: server.keyId, plaintexts })
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

function serverRow(one, servers, figures, progress) {
  const { name, life, server } = one
  const of = (other, figure) => median(figures.get(other).map((loaded) => loaded[figure]))
  const find = (store, ofLife) =>
    servers.find((other) => other.name === store && other.life === ofLife)
  const value = of(one, 'requestsPerSecond') * BATCH.messages
  const ratioTo = (other) => of(one, 'requestsPerSecond') / of(other, 'requestsPerSecond')
  const local = find('local', life)
  const row = {
    suite: 'key-stores',
    name: `encrypt ${BATCH.messageBytes} B x ${BATCH.messages}, ${name}, ${life}`,
    params: {
      store: name,
      life,
      ...BATCH,
      implementation: server.implementation,
      latencyMsP50: of(one, 'latencyMsP50'),
      latencyMsP99: of(one, 'latencyMsP99'),
    },
    value,
    unit: 'messages/s',
    ratios: {
      ...(one === local ? {} : { local: ratioTo(local) }),
      ...(life === 'steady' ? {} : { steady: ratioTo(find(name, 'steady')) }),
    },
  }
  const p99 = row.params.latencyMsP99.toFixed(2)
  progress(`${row.name}: ${Math.round(value)} messages/s, p99 ${p99} ms`)
  return row
}
