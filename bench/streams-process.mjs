// One conversion in a process of its own, as bench/streams.mjs starts it: WHAT SOURCE TARGET. The last line of the
// output is JSON: the most memory that the process had, and what it was asked to measure.
import { createReadStream, createWriteStream, readFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { pipeline } from 'node:stream/promises'

import {
  decryptFileTo,
  decryptStream,
  encryptFileTo,
  encryptStream,
  openSealedFile,
  RawAesKeyring,
} from '../dist/index.js'

const [, , what, source, target] = process.argv
/** The same for all: a bench keeps no secret. */
const WRAPPING_KEY = Buffer.alloc(32, 7)
const READ_BYTES = 4_096

const keyring = new RawAesKeyring({ namespace: 'bench', name: 'key', wrappingKey: WRAPPING_KEY })

/** Loaded for itself only: it takes a while, which is not ours. */
async function throughSdk(operation) {
  const sdk = await import('@aws-crypto/client-node')
  const client = sdk.buildClient(sdk.CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)
  const sdkKeyring = new sdk.RawAesKeyringNode({
    keyNamespace: 'bench',
    keyName: 'key',
    unencryptedMasterKey: new Uint8Array(WRAPPING_KEY),
    wrappingSuite: sdk.RawAesWrappingSuiteIdentifier.AES256_GCM_IV12_TAG16_NO_PADDING,
  })
  const suiteId = sdk.AlgorithmSuiteIdentifier.ALG_AES256_GCM_IV12_TAG16_HKDF_SHA512_COMMIT_KEY
  await throughStreams(
    operation === 'encrypt'
      ? client.encryptStream(sdkKeyring, { suiteId, frameLength: 65_536 })
      : client.decryptUnsignedMessageStream(sdkKeyring),
  )
}

async function betweenFiles(convert) {
  const from = await open(source)
  const to = await open(target, 'w')
  await convert(from, to, keyring)
  await from.close()
  await to.close()
}

const throughStreams = (...streams) =>
  pipeline(
    createReadStream(source, { highWaterMark: 2 ** 20 }),
    ...streams,
    createWriteStream(target),
  )

/** Pages of a file in no order, one after the other. */
async function readPages(length, read) {
  const started = performance.now()
  let reads = 0
  let ms = 0
  while (ms < 1_000) {
    for (let i = 0; i < 16; i++) {
      await read(READ_BYTES * Math.floor((Math.random() * length) / READ_BYTES))
    }
    reads += 16
    ms = performance.now() - started
  }
  return { readsPerSecond: (1_000 * reads) / ms }
}

const WHATS = {
  'encrypt-file': () => betweenFiles(encryptFileTo),
  'decrypt-file': () => betweenFiles(decryptFileTo),
  'encrypt-stream': () => throughStreams(encryptStream(keyring)),
  'decrypt-stream': () => throughStreams(decryptStream(keyring)),
  'there-and-back': () => throughStreams(encryptStream(keyring), decryptStream(keyring)),
  'encrypt-encryptionSdk': () => throughSdk('encrypt'),
  'decrypt-encryptionSdk': () => throughSdk('decrypt'),
  'read-sealed': async () => {
    const handle = await open(source)
    const file = await openSealedFile(handle, keyring)
    const measured = await readPages(file.length - READ_BYTES, (at) => file.read(at, READ_BYTES))
    file.close()
    await handle.close()
    return measured
  },
  'read-plain': async () => {
    const handle = await open(source)
    const { size } = await handle.stat()
    const measured = await readPages(size - READ_BYTES, (at) =>
      handle.read(Buffer.allocUnsafe(READ_BYTES), 0, READ_BYTES, at),
    )
    await handle.close()
    return measured
  },
}

const measured = await WHATS[what]()
console.log(JSON.stringify({ ...measured, peakMemoryMiB: peakMemoryMiB() }))

/** The kernel's mark of this program's memory (proc(5)): maxRSS begins with that of whoever started it. */
function peakMemoryMiB() {
  const [, peakKiB] = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))
  return Math.round(Number(peakKiB) / 1024)
}
