/**
 * Streams at the pace of a poor line, as many as there may be nearly: all of them end well for as long as they keep above
 * what the front end asks for, and the memory of a server of its own is held against what it says that they take.
 */
import { createHash, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { request, type ClientRequest } from 'node:http'
import type { KmsKeyringNode } from '@aws-crypto/client-node'
import { afterAll, beforeAll, expect, test } from 'vitest'

import { SERVED_RUN_BYTES, SERVED_STREAM_BYTES } from '../../dist/limits.js'
import { jsonOf, keyfold, serve, type Server } from '../cli/command.ts'
import { kmsKeyringOf } from '../cli/kms-keyring.ts'
import { sdkDecrypt, sdkEncrypt } from '../streams/sdk.ts'
import { bearer } from './caller.ts'

const STREAMS = 200
/**
 * What the front end asks for, fixed in it: 160 KiB each time before ten seconds are over, which it looks at every four,
 * so that they may be eight.
 */
const FLOOR_BYTES_PER_SECOND = (160 * 1024) / 8
/** Above it by what a machine with other things to do may be late: here, some three seconds of the eight. */
const PACE = 1.5 * FLOOR_BYTES_PER_SECOND
/** They go on until those that are too slow are cut, which takes twelve at most, and longer before they have begun. */
const SECONDS_MAX = 90
const TICK_MS = 250
const FRAME = 4_096
/** At once, before that: all of it in memory would be more than is allowed. */
const BURST_BYTES = 4 * 2 ** 20
const MESSAGE_BYTES = BURST_BYTES + SECONDS_MAX * PACE

let server: Server
let arn: string
let theirs: KmsKeyringNode

beforeAll(async () => {
  server = await serve(['--dev', '--log-level', 'error'])
  arn = jsonOf<{ arn: string }>(await keyfold(['keys', 'create', '--json'], server)).arn
  theirs = await kmsKeyringOf(server, arn)
})
afterAll(() => server.stop())

interface Came {
  /** Whether the answer had its end. */
  readonly whole: boolean
  readonly length: number
  readonly sha256: string
}

interface Client {
  readonly op: string
  readonly request: ClientRequest
  readonly ended: Promise<Came>
}

function open(op: string, onPart?: (part: Buffer) => void): Client {
  const query = op === 'encrypt' ? `?key=${arn}&frameBytes=${FRAME}` : ''
  const { url, token = '' } = server.ready
  const opened = request(`${url}/v1/streams/${op}${query}`, {
    method: 'PUT',
    headers: { ...bearer({ token }) },
    agent: false,
  })
  opened.flushHeaders()
  return { op, request: opened, ended: received(opened, onPart) }
}

async function received(opened: ClientRequest, onPart?: (part: Buffer) => void): Promise<Came> {
  const closed = new Promise((resolve) => opened.once('close', resolve))
  // A connection that is cut may fail while something is written to it.
  opened.on('error', () => undefined)
  const hash = createHash('sha256')
  let length = 0
  let whole = false
  opened.once('response', (answer) => {
    answer.on('error', () => undefined)
    answer.on('end', () => (whole = answer.complete))
    answer.on('data', (part: Buffer) => {
      hash.update(part)
      length += part.length
      onPart?.(part)
    })
  })
  await closed
  return { whole, length, sha256: hash.digest('hex') }
}

interface Pace {
  readonly burstBytes: number
  readonly bytesPerSecond: number
}

/** Each client sends its body at this pace, whatever the clock does in between; once that is enough, the rest at once. */
async function send(
  clients: readonly Client[],
  bodies: Readonly<Record<string, Buffer>>,
  { burstBytes, bytesPerSecond }: Pace,
  enough: AbortSignal,
): Promise<void> {
  const startedMs = performance.now()
  for (let sent = 0; !enough.aborted;) {
    const paced = (bytesPerSecond * (performance.now() - startedMs)) / 1000
    const due = burstBytes + Math.ceil(paced)
    for (const { request: to, op } of clients) {
      if (!to.destroyed) to.write(bodies[op]?.subarray(sent, due))
    }
    sent = due
    await new Promise((resolve) => setTimeout(resolve, TICK_MS))
    if (enough.aborted)
      for (const { request: to, op } of clients) to.end(bodies[op]?.subarray(sent))
  }
}

/** Of the server's own account, in bytes. */
function memory(of: 'VmRSS' | 'VmHWM'): number {
  const status = readFileSync(`/proc/${server.ready.pid}/status`, 'utf8')
  return 1024 * Number(new RegExp(`^${of}:\\s*(\\d+) kB$`, 'm').exec(status)?.[1])
}

async function figure(name: string): Promise<number> {
  const { url, token = '' } = server.ready
  const response = await fetch(`${url}/metrics`, { headers: bearer({ token }) })
  const value = new RegExp(`^keyfold_${name} (\\d+)$`, 'm').exec(await response.text())?.[1]
  return Number(value)
}

test('200 streams just above the pace that is asked for end well, in bounded memory; those below are cut', async () => {
  const plaintext = randomBytes(MESSAGE_BYTES)
  const message = await sdkEncrypt(theirs, plaintext, { frameLength: FRAME })
  const before = memory('VmRSS')
  const bodies = { encrypt: plaintext, decrypt: message }
  const first: Buffer[] = []
  const clients = Array.from({ length: STREAMS }, (_, i) =>
    i === 0 ? open('encrypt', (part) => first.push(part)) : open(i % 2 ? 'decrypt' : 'encrypt'),
  )
  const tooSlow = [open('encrypt'), open('decrypt')]
  const enough = new AbortController()
  const fast = { burstBytes: BURST_BYTES, bytesPerSecond: PACE }
  const slow = { burstBytes: 0, bytesPerSecond: FLOOR_BYTES_PER_SECOND / 5 }
  const sending = [
    send(clients, bodies, fast, enough.signal),
    send(tooSlow, bodies, slow, enough.signal),
  ]
  for (const { whole, length } of await Promise.all(tooSlow.map(({ ended }) => ended))) {
    expect(whole).toBe(false)
    expect(length).toBeGreaterThan(0)
  }
  // By now whoever had sent nothing would be cut as well; these go on.
  expect(await figure('streams')).toBe(STREAMS)
  // What every stream is charged for, and at most one piece that waits while the cipher is busy.
  expect(await figure('bytes_in_flight')).toBeLessThanOrEqual(
    STREAMS * (SERVED_STREAM_BYTES + SERVED_RUN_BYTES),
  )
  enough.abort()
  await Promise.all(sending)
  const sha256 = createHash('sha256').update(plaintext).digest('hex')
  for (const { op, ended } of clients) {
    const came = await ended
    expect(came.whole).toBe(true)
    if (op === 'decrypt') expect(came.sha256).toBe(sha256)
    else expect(came.length).toBeGreaterThan(MESSAGE_BYTES)
  }
  const opened = await sdkDecrypt(theirs, Buffer.concat(first))
  expect(opened.plaintext.equals(plaintext)).toBe(true)
  expect(await figure('streams')).toBe(0)
  expect(await figure('bytes_in_flight')).toBe(0)
  // Its highest ever: what is charged for, and half of it for what an allocator keeps.
  expect(memory('VmHWM') - before).toBeLessThan(1.5 * STREAMS * SERVED_STREAM_BYTES)
  expect(STREAMS * BURST_BYTES).toBeGreaterThan(1.5 * STREAMS * SERVED_STREAM_BYTES)
})
