// Each implementation of batches against node:crypto called in a loop and OpenSSL's EVP called in a batch from
// C++, one thread, 16 B to 1 MiB. All of them work under one derived key with one AAD, as a batch does, and must
// open each other's output to the byte before anything is timed.
import { execFileSync } from 'node:child_process'
import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, realpathSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

import { Bench } from 'tinybench'

import { createNodeCrypto } from '../dist/crypto/node-crypto.js'
import { loadNativeCrypto } from '../dist/crypto/native.js'

const SIZES = [16, 64, 256, 1024, 4096, 16_384, 65_536, 1_048_576]
const SIZES_QUICK = [64, 1024, 16_384, 1_048_576]
/** Plaintext of one timed call: enough to forget the call, little enough to stay in the L2 cache where it can. */
const BATCH_BYTES = 512 * 1024
const BATCH_MESSAGES_MAX = 4096
const TAG_BYTES = 16

export async function run({ quick, progress }) {
  const peers = { opensslBatch: loadOpensslBatch() }
  const implementations = availableImplementations()
  const rows = []
  for (const messageBytes of quick ? SIZES_QUICK : SIZES) {
    for (const operation of ['seal', 'open']) {
      progress(`${messageBytes} B, ${operation}`)
      rows.push(...(await compare({ messageBytes, operation, implementations, peers, quick })))
    }
  }
  return rows
}

function availableImplementations() {
  const found = [createNodeCrypto()]
  for (const implementation of ['aesni', 'vaes']) {
    try {
      found.push(loadNativeCrypto(implementation))
    } catch (error) {
      console.error(`  ${implementation} is not measured: ${error.message}`)
    }
  }
  return found
}

/** Builds bench/native/openssl_batch.cc with the headers that came with Node. */
function loadOpensslBatch() {
  const include = join(dirname(dirname(realpathSync(process.execPath))), 'include', 'node')
  const source = new URL('native/openssl_batch.cc', import.meta.url).pathname
  const directory = new URL('results/', import.meta.url).pathname
  const target = join(directory, `openssl_batch-${process.versions.node}.node`)
  mkdirSync(directory, { recursive: true })
  if (!existsSync(target)) {
    const flags = ['-O3', '-std=c++17', '-shared', '-fPIC', `-I${include}`]
    execFileSync('g++', [...flags, source, '-o', target], { stdio: 'inherit' })
  }
  return createRequire(import.meta.url)(target)
}

/** One sealed batch and all that is needed to repeat it with a peer. */
function sealOnce(crypto, { messageBytes, messages, plaintext }) {
  const contextHash = createHash('sha256').update('bench').digest()
  const raw = crypto.generateKey()
  const key = crypto.createMessageKey(raw, 1)
  const input = encodeElements(plaintext, messageBytes, messages)
  const [part] = crypto.planParts({
    input,
    inputOffset: 0,
    inputEnd: input.length,
    messages,
    overheadBytes: 58,
    nilAllowed: false,
    partsMax: 1,
  })
  const output = Buffer.alloc(part.outputBytes)
  const request = {
    key,
    contextHash,
    form: 'detached',
    keyEntry: new Uint8Array(0),
    nilAllowed: false,
    input,
    inputOffset: 0,
    inputEnd: input.length,
    messages,
    output,
    outputOffset: 0,
    outputEnd: output.length,
  }
  crypto.sealBatch(request)
  const opened = Buffer.alloc(input.length)
  const openRequest = {
    keys: Float64Array.of(key),
    entryOf: new Uint16Array(messages),
    contextHash,
    input: output,
    inputOffset: 0,
    inputEnd: output.length,
    messages,
    failures: new Uint8Array(messages),
    output: opened,
    outputOffset: 0,
    outputEnd: opened.length,
  }
  const written = crypto.openBatch(openRequest)
  if (written !== input.length || !opened.equals(input)) {
    throw new Error(`${crypto.implementation} does not open what it sealed`)
  }
  return { request, openRequest, output }
}

async function compare({ messageBytes, operation, implementations, peers, quick }) {
  const messages = Math.max(1, Math.min(BATCH_MESSAGES_MAX, Math.floor(BATCH_BYTES / messageBytes)))
  const plaintext = randomBytes(messageBytes * messages)
  const bench = new Bench({
    time: quick ? 250 : 1000,
    warmupTime: quick ? 50 : 200,
    throws: true,
  })

  const sealed = implementations.map((crypto) =>
    sealOnce(crypto, { messageBytes, messages, plaintext }),
  )
  checkEachOther(implementations)
  for (const [i, crypto] of implementations.entries()) {
    const { request, openRequest } = sealed[i]
    bench.add(crypto.implementation, () =>
      operation === 'seal' ? crypto.sealBatch(request) : crypto.openBatch(openRequest),
    )
  }

  const flat = flatPeer({ messageBytes, messages, plaintext, peers })
  bench.add('nodeCrypto', () => (operation === 'seal' ? flat.nodeSeal() : flat.nodeOpen()))
  bench.add('opensslBatch', () => (operation === 'seal' ? flat.opensslSeal() : flat.opensslOpen()))
  await bench.run()

  const seconds = (name) => bench.getTask(name).result.latency.p50 / 1000
  return implementations.map(({ implementation }) => ({
    suite: 'kernel',
    name: `${operation} ${messageBytes} B ${implementation}`,
    params: { messageBytes, batch: messages, form: 'detached', operation, implementation },
    value: (messageBytes * messages) / seconds(implementation) / 1e6,
    unit: 'MB/s',
    ratios: {
      nodeCrypto: seconds('nodeCrypto') / seconds(implementation),
      opensslBatch: seconds('opensslBatch') / seconds(implementation),
    },
  }))
}

/** What one implementation seals under a wrapped key, every other opens to the same bytes. */
function checkEachOther(implementations) {
  const wrapping = Buffer.alloc(32, 7)
  const aad = Buffer.from('bench')
  const keys = implementations.map((crypto) => crypto.importKey(Buffer.from(wrapping)))
  const raw = implementations[0].generateKey()
  const wrapped = implementations[0].wrapKey(keys[0], aad, raw)
  const sealing = implementations[0].createMessageKey(raw, 1)
  const commitment = implementations[0].messageKeyCommitment(sealing)
  const opened = implementations.map((crypto, i) => {
    const unwrapped = crypto.unwrapKey(keys[i], aad, wrapped)
    const key = crypto.openMessageKey(unwrapped, 1, commitment)
    const same = Buffer.compare(crypto.messageKeyCommitment(key), commitment) === 0
    crypto.releaseKey(key)
    crypto.releaseKey(unwrapped)
    crypto.releaseKey(keys[i])
    return same
  })
  implementations[0].releaseKey(raw)
  implementations[0].releaseKey(sealing)
  if (!opened.every(Boolean)) throw new Error('the implementations do not agree')
}

/** node:crypto and OpenSSL over flat memory, checked against each other. */
function flatPeer({ messageBytes, messages, plaintext, peers }) {
  const key = randomBytes(32)
  const prefix = randomBytes(8)
  const aad = randomBytes(49)
  const stride = messageBytes + TAG_BYTES
  const sealed = Buffer.alloc(stride * messages)
  const opened = Buffer.alloc(plaintext.length)
  const nonce = Buffer.concat([prefix, Buffer.alloc(4)])
  const peer = {
    nodeSeal() {
      for (let i = 0; i < messages; i++) {
        nonce.writeUInt32BE(i, 8)
        const cipher = createCipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG_BYTES })
        cipher.setAAD(aad)
        const at = i * messageBytes
        sealed.set(cipher.update(plaintext.subarray(at, at + messageBytes)), i * stride)
        cipher.final()
        sealed.set(cipher.getAuthTag(), i * stride + messageBytes)
      }
    },
    nodeOpen() {
      for (let i = 0; i < messages; i++) {
        nonce.writeUInt32BE(i, 8)
        const at = i * stride
        const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG_BYTES })
        decipher.setAAD(aad)
        decipher.setAuthTag(sealed.subarray(at + messageBytes, at + stride))
        opened.set(decipher.update(sealed.subarray(at, at + messageBytes)), i * messageBytes)
        decipher.final()
      }
    },
    opensslSeal() {
      const ok = peers.opensslBatch.run(
        true,
        key,
        prefix,
        aad,
        plaintext,
        messageBytes,
        messages,
        sealed,
      )
      if (!ok) throw new Error('OpenSSL failed to seal')
    },
    opensslOpen() {
      const ok = peers.opensslBatch.run(
        false,
        key,
        prefix,
        aad,
        sealed,
        messageBytes,
        messages,
        opened,
      )
      if (!ok) throw new Error('OpenSSL failed to open')
    },
  }
  peer.nodeSeal()
  const expected = Buffer.from(sealed)
  peer.opensslSeal()
  if (!sealed.equals(expected)) throw new Error('node:crypto and OpenSSL disagree')
  peer.opensslOpen()
  if (!opened.equals(plaintext)) throw new Error('OpenSSL does not open what it sealed')
  return peer
}

/** `messages` MessagePack byte strings. */
function encodeElements(plaintext, messageBytes, messages) {
  const head =
    messageBytes < 256
      ? Buffer.from([0xc4, messageBytes])
      : messageBytes < 65_536
        ? Buffer.from([0xc5, messageBytes >> 8, messageBytes & 255])
        : Buffer.from([
            0xc6,
            messageBytes >>> 24,
            (messageBytes >> 16) & 255,
            (messageBytes >> 8) & 255,
            messageBytes & 255,
          ])
  const chunks = []
  for (let i = 0; i < messages; i++) {
    chunks.push(head, plaintext.subarray(i * messageBytes, (i + 1) * messageBytes))
  }
  return Buffer.concat(chunks)
}
