/**
 * `keyfold demo [FILE]`: the main job on real data. Starts a server as a user would, takes the file a line a message
 * until there are 200,000 of them, encrypts, decrypts and compares every byte, flips one and sees it refused, rotates
 * the key and re-encrypts. Ends with 1 where anything is not as it must be.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Command } from 'commander'

import { Keyfold } from '../client/keyfold.ts'
import { KeyfoldError } from '../errors.ts'
import { print } from './output.ts'

const MESSAGES_LEAST = 200_000
const BATCH_MESSAGES = 4_096
/** Batches on their way at one time. */
const CONCURRENT = 4
const CONTEXT = { demo: 'lines' }

export function addDemo(program: Command): void {
  program
    .command('demo [file]')
    .summary('the main job on a real file, in under a minute')
    .description(
      'Starts a server, encrypts a file line by line 200,000 times over, decrypts and compares every byte.',
    )
    .action((file: string | undefined) => demo(file ?? defaultFile()))
}

function defaultFile(): string {
  return fileURLToPath(new URL('../../package-lock.json', import.meta.url))
}

async function demo(file: string): Promise<void> {
  const messages = readMessages(file)
  const bytes = messages.reduce((sum, message) => sum + message.length, 0)
  say(`${file}: ${count(messages.length)} messages, ${megabytes(bytes)}`)
  const { child, ended, url, token } = await startServer()
  const keyfold = new Keyfold({ url, token })
  try {
    const { implementation } = (await keyfold.manage('GET', '/v1/limits')) as {
      implementation: string
    }
    say(`a server at ${url}, AES-256-GCM by ${implementation}`)
    await runSteps(keyfold, messages, bytes)
    await printCounters(url, token)
  } finally {
    await keyfold.close()
    child.kill('SIGTERM')
    await ended
  }
  say('all as it must be')
}

async function runSteps(
  keyfold: Keyfold,
  messages: readonly Buffer[],
  bytes: number,
): Promise<void> {
  const key = 'alias/demo'
  await keyfold.manage('POST', '/v1/keys', { description: 'demo', alias: key })
  const options = { context: CONTEXT }

  const encrypted = await timed('encrypt', messages.length, bytes, () =>
    inBatches(
      messages,
      async (batch) => (await keyfold.encryptBatch(key, batch, options)).ciphertexts,
    ),
  )
  const decrypted = await timed('decrypt', messages.length, bytes, () =>
    inBatches(encrypted, (batch) => decryptAll(keyfold, batch)),
  )
  check(sameMessages(decrypted, messages), 'every byte is back')

  const [first] = encrypted
  if (first === undefined) throw new KeyfoldError('INTERNAL', 'nothing was encrypted')
  const flipped = Buffer.from(first)
  flipped[flipped.length - 1] = (flipped.at(-1) ?? 0) ^ 1
  const { plaintexts, errors } = await keyfold.decryptBatch([first, flipped], options)
  const refused = errors.length === 1 && errors[0]?.[0] === 1 && errors[0][1] === 'DECRYPT_FAILED'
  check(
    refused && plaintexts[0] !== undefined,
    'one flipped bit is refused, and that message alone',
  )

  await keyfold.manage('POST', `/v1/keys/${encodeURIComponent(key)}/rotate`)
  const rewrapped = await timed('re-wrap after a rotation', messages.length, bytes, () =>
    inBatches(encrypted, async (batch) => {
      const done = await keyfold.reEncryptBatch(key, batch, { ...options, mode: 'rewrap' })
      return done.ciphertexts.map((ciphertext) => ciphertext ?? Buffer.alloc(0))
    }),
  )
  const some = messages.slice(0, 10 * BATCH_MESSAGES)
  const fresh = await inBatches(rewrapped.slice(0, some.length), async (batch) => {
    const done = await keyfold.reEncryptBatch(key, batch, { ...options, mode: 'fresh' })
    return done.ciphertexts.map((ciphertext) => ciphertext ?? Buffer.alloc(0))
  })
  const reopened = await inBatches(rewrapped, (batch) => decryptAll(keyfold, batch))
  check(sameMessages(reopened, messages), 'what was re-wrapped opens')
  const refreshed = await inBatches(fresh, (batch) => decryptAll(keyfold, batch))
  check(sameMessages(refreshed, some), 'what was encrypted afresh opens')
}

async function decryptAll(
  keyfold: Keyfold,
  batch: readonly Uint8Array[],
): Promise<readonly Uint8Array[]> {
  const { plaintexts } = await keyfold.decryptBatch(batch, { context: CONTEXT })
  return plaintexts.map((plaintext, i) => {
    if (plaintext === undefined) throw new KeyfoldError('DECRYPT_FAILED', `message ${i} of a batch`)
    return plaintext
  })
}

/** The lines of the file, over and over. */
function readMessages(file: string): readonly Buffer[] {
  const bytes = readFileSync(file)
  const lines: Buffer[] = []
  for (let start = 0; start < bytes.length;) {
    const end = bytes.indexOf(0x0a, start)
    lines.push(bytes.subarray(start, end < 0 ? bytes.length : end))
    start = end < 0 ? bytes.length : end + 1
  }
  if (lines.length === 0) throw new KeyfoldError('REQUEST_MALFORMED', `${file} is empty`)
  const repeats = Math.ceil(MESSAGES_LEAST / lines.length)
  return Array.from({ length: repeats }, () => lines).flat()
}

/** Answers in the order of the messages, a few batches at a time. */
async function inBatches(
  messages: readonly Uint8Array[],
  run: (batch: readonly Uint8Array[]) => Promise<readonly Uint8Array[]>,
): Promise<readonly Uint8Array[]> {
  const batches: (readonly Uint8Array[])[] = []
  for (let i = 0; i < messages.length; i += BATCH_MESSAGES) {
    batches.push(messages.slice(i, i + BATCH_MESSAGES))
  }
  const answers = new Array<readonly Uint8Array[]>(batches.length)
  let next = 0
  const worker = async (): Promise<void> => {
    for (let i = next++; i < batches.length; i = next++) {
      answers[i] = await run(batches[i] ?? [])
      if (process.stderr.isTTY)
        process.stderr.write(`\r  ${Math.round((100 * i) / batches.length)} % `)
    }
  }
  await Promise.all(Array.from({ length: CONCURRENT }, worker))
  if (process.stderr.isTTY) process.stderr.write('\r        \r')
  return answers.flat()
}

async function timed<T>(
  what: string,
  messages: number,
  bytes: number,
  work: () => Promise<T>,
): Promise<T> {
  const started = performance.now()
  const result = await work()
  const seconds = (performance.now() - started) / 1000
  say(`${what}: ${count(messages / seconds)} messages/s, ${megabytes(bytes / seconds)}/s`)
  return result
}

function sameMessages(a: readonly Uint8Array[], b: readonly Uint8Array[]): boolean {
  return (
    a.length === b.length &&
    a.every((message, i) => Buffer.compare(message, b[i] ?? NO_BYTES) === 0)
  )
}

const NO_BYTES = Buffer.alloc(0)

function check(holds: boolean, what: string): void {
  if (!holds) throw new KeyfoldError('INTERNAL', `the demo failed: not so: ${what}`)
  say(what)
}

const SHOWN: readonly [string, string][] = [
  ['keyfold_wraps_total', 'message keys made by the key store'],
  ['keyfold_unwraps_total', 'message keys opened by the key store'],
  ['keyfold_seal_hits_total', 'batches sealed from the cache'],
  ['keyfold_open_hits_total', 'key entries opened from the cache'],
]

async function printCounters(url: string, token: string): Promise<void> {
  const response = await fetch(`${url}/metrics`, { headers: { Authorization: `Bearer ${token}` } })
  const text = await response.text()
  for (const [name, what] of SHOWN) {
    const value = new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1]
    say(`${what}: ${count(Number(value))}`)
  }
}

interface StartedServer {
  readonly child: ChildProcess
  readonly ended: Promise<unknown>
  readonly url: string
  readonly token: string
}

async function startServer(): Promise<StartedServer> {
  const main = fileURLToPath(new URL('./main.js', import.meta.url))
  const child = spawn(
    process.execPath,
    [main, 'serve', '--dev', '--ready-json', '--listen', '127.0.0.1:0'],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  // Whatever ends the demo ends its server.
  process.on('exit', () => child.kill('SIGTERM'))
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    process.on(signal, () => process.exit(1))
  }
  const ended = new Promise((resolve) => child.on('exit', resolve))
  for await (const line of createInterface({ input: child.stdout })) {
    return { child, ended, ...(JSON.parse(line) as { url: string; token: string }) }
  }
  throw new KeyfoldError('CONNECTION_FAILED', 'the server of the demo did not start')
}

function say(text: string): void {
  print(`  ${text}`)
}

function count(number: number): string {
  return Math.round(number).toLocaleString('en')
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`
}
