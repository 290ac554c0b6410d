// Files: keyfold's file to file and its streams against age, OpenSSL with an HMAC, the AWS Encryption SDK and cp, and the
// server's streaming routes against an echo (stream-routes.mjs).
//
// Everybody is a process of their own and is measured from its start to its end, Node's start included. The source is in
// memory (TMPDIR, or /dev/shm), the output is discarded or goes to memory too. Rounds go to and fro, medians are
// compared. Before that each opens on a small file what it sealed, and the SDK and keyfold what the other did.
import { spawn, spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { frameImplementation } from '../dist/crypto/choose-frame-cipher.js'
import { median } from './report.mjs'
import { compareRoutes } from './stream-routes.mjs'

const GIB = 2 ** 30
const SIZES = {
  quick: { bytes: 4 * GIB, rounds: 3, sparseBytes: 0 },
  full: { bytes: 4 * GIB, rounds: 5, sparseBytes: 20 * GIB },
}
/** The SDK is measured on a part of the file, to be done today. */
const SDK_SHARE = 16
const CHECKED_BYTES = 3_000_001

const PROCESS = new URL('streams-process.mjs', import.meta.url).pathname
const ourselves = (what) => (source, target) => [process.execPath, PROCESS, what, source, target]
const bash =
  (script, ...values) =>
  (source, target) => ['bash', '-euo', 'pipefail', '-c', script, 'bash', source, target, ...values]

export async function run({ quick, progress }) {
  const { bytes, rounds, sparseBytes } = quick ? SIZES.quick : SIZES.full
  const memory = process.env.TMPDIR ?? (existsSync('/dev/shm') ? '/dev/shm' : tmpdir())
  const directory = mkdtempSync(join(memory, 'keyfold-bench-'))
  try {
    const contenders = contendersOf(directory, progress)
    await check(directory, contenders)
    const source = join(directory, 'source')
    writeNoise(`${source}-part`, bytes / SDK_SHARE)
    const setting = { directory, source, bytes, rounds, progress, contenders }
    const rows = []
    for (const operation of ['encrypt', 'decrypt']) {
      writeNoise(source, bytes)
      rows.push(...(await compare(setting, operation)))
    }
    writeNoise(source, bytes)
    rows.push(await compareReads(setting))
    rows.push(...(await compareRoutes({ quick, progress })))
    if (sparseBytes > 0) rows.push(await convertSparse(setting, sparseBytes))
    return rows
  } finally {
    rmSync(directory, { recursive: true })
  }
}

/** Commands by name, `encrypt` and `decrypt` of a source and a target. Those that are not installed are left out. */
function contendersOf(directory, progress) {
  const identity = join(directory, 'identity')
  const key = randomBytes(32).toString('hex')
  const iv = randomBytes(16).toString('hex')
  const mac = 'openssl dgst -sha256 -mac HMAC -macopt "hexkey:$3"'
  const cipher = 'openssl enc -aes-256-ctr -K "$3" -iv "$4"'
  const contenders = {
    file: { encrypt: ourselves('encrypt-file'), decrypt: ourselves('decrypt-file') },
    // Its messages are those of `file`, of which it opens one.
    stream: {
      encrypt: ourselves('encrypt-stream'),
      decrypt: ourselves('decrypt-stream'),
      opens: 'file',
    },
    encryptionSdk: {
      encrypt: ourselves('encrypt-encryptionSdk'),
      decrypt: ourselves('decrypt-encryptionSdk'),
      share: SDK_SHARE,
    },
  }
  if (isInstalled('age', '--version')) {
    spawnSync('age-keygen', ['-o', identity])
    const [, recipient] = /public key: (\S+)/.exec(readFileSync(identity, 'utf8'))
    contenders.age = {
      encrypt: bash('age -r "$3" "$1" > "$2"', recipient),
      decrypt: bash('age -d -i "$3" "$1" > "$2"', identity),
    }
  } else progress('age is not installed: not measured')
  if (isInstalled('openssl', 'version')) {
    contenders.openssl = {
      encrypt: bash(`${cipher} -in "$1" | tee "$2" | ${mac} > /dev/null`, key, iv),
      // Both read the file at once, which is faster than a pipe between them.
      decrypt: bash(`${mac} "$1" > /dev/null & ${cipher} -d -in "$1" > "$2"; wait $!`, key, iv),
    }
  } else progress('openssl is not installed: not measured')
  return contenders
}

function isInstalled(...command) {
  return spawnSync(command[0], command.slice(1)).status === 0
}

async function check(directory, contenders) {
  const [plain, sealed, opened] = ['plain', 'sealed', 'opened'].map((name) => join(directory, name))
  writeNoise(plain, CHECKED_BYTES)
  const pairs = Object.entries(contenders).map(([name, { encrypt, decrypt }]) => [
    name,
    encrypt,
    decrypt,
  ])
  const { file, stream, encryptionSdk } = contenders
  pairs.push(['keyfold for the SDK', file.encrypt, encryptionSdk.decrypt])
  pairs.push(['the SDK for keyfold', encryptionSdk.encrypt, stream.decrypt])
  for (const [name, encrypt, decrypt] of pairs) {
    await time(encrypt(plain, sealed))
    await time(decrypt(sealed, opened))
    if (digestOf(opened) !== digestOf(plain))
      throw new Error(`${name}: does not open what it sealed`)
  }
}

const digestOf = (file) => createHash('sha256').update(readFileSync(file)).digest('hex')

/** Everybody's throughput with the output discarded, and ours and cp's with the output in memory. */
async function compare({ directory, source, bytes, rounds, progress, contenders }, operation) {
  const target = join(directory, 'target')
  const inputOf = {}
  for (const [name, { encrypt, share, opens = name }] of Object.entries(contenders)) {
    inputOf[name] = share === undefined ? source : `${source}-part`
    if (operation === 'encrypt') continue
    const sealed = join(directory, `sealed-${opens}`)
    if (opens === name) await time(encrypt(inputOf[name], sealed))
    inputOf[name] = sealed
  }
  // Three sealed files and a target are memory enough.
  if (operation === 'decrypt') rmSync(source)
  const runs = Object.entries(contenders).map(([name, contender]) => ({
    name,
    command: contender[operation](inputOf[name], '/dev/null'),
    bytes: bytes / (contender.share ?? 1),
  }))
  const toMemory = contenders.file[operation](inputOf.file, target)
  const copy = ['cp', inputOf.file, target]
  runs.push({ name: 'memory', command: toMemory, bytes, fillsMemory: true })
  runs.push({ name: 'cp', command: copy, bytes, fillsMemory: true })
  const figures = Object.fromEntries(runs.map(({ name }) => [name, []]))
  let peakMemoryMiB = 0
  for (let round = 0; round < rounds; round++) {
    for (const one of round % 2 === 0 ? runs : runs.toReversed()) {
      if (one.fillsMemory) {
        // A virtual machine may have given free memory back: whoever fills it first would pay for that.
        await time(copy)
        rmSync(target)
      }
      const { seconds, answer } = await time(one.command)
      figures[one.name].push(one.bytes / seconds / 1e6)
      if (one.name === 'file') peakMemoryMiB = Math.max(peakMemoryMiB, answer.peakMemoryMiB)
      rmSync(target, { force: true })
    }
  }
  for (const name of Object.keys(contenders))
    rmSync(join(directory, `sealed-${name}`), { force: true })
  const rate = (name) => median(figures[name])
  for (const name of Object.keys(figures))
    progress(`${operation}, ${name}: ${Math.round(rate(name))} MB/s`)
  const peers = ['age', 'openssl', 'encryptionSdk'].filter((name) => name in figures)
  const row = (name, what, others, measured) => ({
    suite: 'streams',
    name: `${operation}, ${what}`,
    params: { operation, bytes, implementation: frameImplementation(), ...measured },
    value: rate(name),
    unit: 'MB/s',
    ratios: Object.fromEntries(others.map((peer) => [peer, rate(name) / rate(peer)])),
  })
  return [
    row('file', 'file to file, output discarded', peers, { peakMemoryMiB }),
    row('stream', 'a stream, output discarded', peers, {}),
    row('memory', 'file to file in memory', ['cp'], {}),
  ]
}

/** 4 KiB anywhere in the file, one after the other, against the same of the plaintext. */
async function compareReads({ directory, source, bytes, rounds, progress, contenders }) {
  const sealed = join(directory, 'sealed')
  await time(contenders.file.encrypt(source, sealed))
  const figures = { 'read-sealed': [], 'read-plain': [] }
  let peakMemoryMiB = 0
  for (let round = 0; round < rounds; round++) {
    for (const what of Object.keys(figures)) {
      const { answer } = await time(ourselves(what)(what === 'read-sealed' ? sealed : source, ''))
      figures[what].push(answer.readsPerSecond)
      if (what === 'read-sealed') peakMemoryMiB = Math.max(peakMemoryMiB, answer.peakMemoryMiB)
    }
  }
  rmSync(sealed)
  const reads = median(figures['read-sealed'])
  progress(`${Math.round(reads)} reads a second of 4 KiB, peak memory ${peakMemoryMiB} MiB`)
  return {
    suite: 'streams',
    name: 'random reads of 4 KiB',
    params: { bytes, implementation: frameImplementation(), peakMemoryMiB },
    value: reads,
    unit: 'reads/s',
    ratios: { plainFile: reads / median(figures['read-plain']) },
  }
}

/** Through both streams: the memory that they take does not depend on the length. */
async function convertSparse({ directory, progress }, bytes) {
  const sparse = join(directory, 'sparse')
  writeFileSync(sparse, '')
  truncateSync(sparse, bytes)
  const { seconds, answer } = await time(ourselves('there-and-back')(sparse, '/dev/null'))
  rmSync(sparse)
  progress(`${bytes / GIB} GiB there and back: peak memory ${answer.peakMemoryMiB} MiB`)
  return {
    suite: 'streams',
    name: `${bytes / GIB} GiB through both streams`,
    params: { bytes, implementation: frameImplementation(), ...answer },
    value: bytes / seconds / 1e6,
    unit: 'MB/s',
    ratios: {},
  }
}

function writeNoise(path, bytes) {
  const noise = randomBytes(2 ** 20)
  const file = openSync(path, 'w')
  for (let left = bytes; left > 0; left -= noise.length) {
    writeSync(file, noise, 0, Math.min(left, noise.length))
  }
  closeSync(file)
}

/** Seconds that a command takes, and its last line where that is JSON. */
async function time([command, ...values]) {
  const started = performance.now()
  const child = spawn(command, values, { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  let errors = ''
  child.stdout.on('data', (text) => (output += text))
  child.stderr.on('data', (text) => (errors += text))
  const status = await new Promise((resolve, reject) =>
    child.on('error', reject).on('close', resolve),
  )
  const seconds = (performance.now() - started) / 1000
  if (status !== 0) throw new Error(`${command} ${values.join(' ')}: ${errors}`)
  const last = output.trim().split('\n').at(-1)
  return { seconds, answer: last.startsWith('{') ? JSON.parse(last) : undefined }
}
