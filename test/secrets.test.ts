/**
 * What memory shows of a server that is working: its heap snapshot and its core are searched for the bytes of the
 * root key, of key material and of message keys, and of what is derived from them.
 */
import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { createHash, hkdfSync } from 'node:crypto'
import {
  closeSync,
  copyFileSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { DatabaseSync } from '@photostructure/sqlite'
import { pack, unpack } from 'msgpackr'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { createNodeCrypto } from '../dist/crypto/node-crypto.js'

const MAIN = join(import.meta.dirname, '../dist/cli/main.js')
const crypto = createNodeCrypto()

let directory: string
let server: ChildProcess
let url: string
let token: string
let implementation: string
let secrets: readonly { readonly name: string; readonly bytes: Buffer }[]

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'keyfold-secrets-'))
  const data = join(directory, 'data')
  const printed = execFileSync(process.execPath, [MAIN, 'init', '--data', data, '--json'])
  token = (JSON.parse(printed.toString()) as { token: string }).token
  const flags = ['serve', '--data', data, '--listen', '127.0.0.1:0', '--ready-json']
  flags.push('--in-flight-bytes-max', String(128 * 2 ** 20))
  server = spawn(process.execPath, ['--heapsnapshot-signal=SIGUSR2', MAIN, ...flags], {
    cwd: directory,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  url = await readUrl(server)
  await work()
})

afterAll(() => {
  server.kill('SIGKILL')
  rmSync(directory, { recursive: true, force: true })
})

async function readUrl({ stdout }: ChildProcess): Promise<string> {
  if (stdout === null) throw new Error('no output')
  for await (const line of createInterface(stdout)) return (JSON.parse(line) as { url: string }).url
  throw new Error('the server ended')
}

async function call(route: string, fields?: object): Promise<Record<string, unknown>> {
  const response = await fetch(`${url}/v1/${route}`, {
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/msgpack' },
    ...(fields === undefined ? {} : { method: 'POST', body: pack(fields) }),
  })
  return unpack(Buffer.from(await response.arrayBuffer())) as Record<string, unknown>
}

/** Large and small batches, so that every thread has had keys in its hands; then the secrets behind them. */
async function work(): Promise<void> {
  const limits = await call('limits')
  implementation = String(limits['implementation'])
  const { keyId } = await call('keys', {})
  const messages: Uint8Array[] = []
  for (const count of [1, 10, 30_000]) {
    const plaintexts = Array.from({ length: count }, (_, i) => Buffer.from(`row ${i}`))
    for (const form of ['inline', 'packed']) {
      const sealed = await call('encrypt', { key: keyId, plaintexts, form })
      const opened = await call('decrypt', {
        ...(form === 'inline' ? { ciphertexts: sealed['ciphertexts'] } : {}),
        ...(form === 'packed' ? { packed: sealed['packed'] } : {}),
      })
      expect((opened['plaintexts'] as unknown[]).length).toBe(count)
      if (form === 'inline') messages.push((sealed['ciphertexts'] as Uint8Array[])[0] as Uint8Array)
    }
  }
  secrets = recover(join(directory, 'data'), messages[0] as Uint8Array)
}

/** With the root key everything else follows, as the formats describe it. */
function recover(data: string, message: Uint8Array): typeof secrets {
  const rootKey = Buffer.from(readFileSync(join(data, 'root.key'), 'utf8').trim(), 'hex')
  const wrapped = Buffer.from(message).subarray(36)
  const aadOfKey = wrapped.subarray(0, 23)
  const contextHash = createHash('sha256').digest()
  const root = derive(rootKey, 'keyfold/root/v1/material')
  // The server holds the catalog alone: a copy of the file and of its log says the same.
  const copy = join(directory, 'copy.sqlite')
  for (const suffix of ['', '-wal']) {
    copyFileSync(join(data, `catalog.sqlite${suffix}`), `${copy}${suffix}`)
  }
  const catalog = new DatabaseSync(copy)
  const row = catalog.prepare('SELECT stored FROM keyMaterials').get() as { stored: Uint8Array }
  catalog.close()
  const stored = Buffer.from(row.stored)
  const version = Buffer.from([0, 0, 0, 1])
  const aad = Buffer.concat([
    stored.subarray(0, 6),
    wrapped.subarray(3, 19),
    version,
    Buffer.from('SYMMETRIC_DEFAULT'),
  ])
  const material = unseal(root, stored.subarray(6), aad)
  const storePart = wrapped.subarray(23, 95)
  const messageKey = unseal(material, storePart, Buffer.concat([aadOfKey, contextHash]))
  const sealingKey = derive(messageKey, 'keyfold/messages/v1/key', [1])
  const secretsKey = derive(rootKey, 'keyfold/root/v1/secrets')
  return Object.entries({ rootKey, root, secretsKey, material, messageKey, sealingKey }).map(
    ([name, bytes]) => ({ name, bytes }),
  )
}

function derive(key: Uint8Array, label: string, suffix: readonly number[] = []): Buffer {
  const info = Buffer.concat([Buffer.from(label), Buffer.from(suffix)])
  return Buffer.from(hkdfSync('sha512', key, Buffer.alloc(64), info, 32))
}

/** nonce24 ‖ ciphertext ‖ tag16 */
function unseal(key: Uint8Array, sealed: Uint8Array, aad: Uint8Array): Buffer {
  const opened = crypto.insecureXaesOpen(1, key, sealed.subarray(0, 24), aad, sealed.subarray(24))
  if (opened === undefined) throw new Error('the test does not know its own keys')
  return Buffer.from(opened)
}

const CHUNK_BYTES = 64 * 2 ** 20
const PATTERN_BYTES_MAX = 64

/** The names of what stands in a file, which may be larger than a buffer. */
function found(
  file: string,
  patterns: readonly { readonly name: string; readonly bytes: Buffer }[] = patternsOf(secrets),
): readonly string[] {
  const names = new Set<string>()
  const chunk = Buffer.alloc(CHUNK_BYTES)
  const handle = openSync(file, 'r')
  for (let at = 0; ; at += CHUNK_BYTES - PATTERN_BYTES_MAX) {
    const read = readSync(handle, chunk, 0, CHUNK_BYTES, at)
    const bytes = chunk.subarray(0, read)
    for (const pattern of patterns) if (bytes.includes(pattern.bytes)) names.add(pattern.name)
    if (read < CHUNK_BYTES) break
  }
  closeSync(handle)
  return [...names]
}

/** As bytes or as text; half of a secret is one as well. */
function patternsOf(of: typeof secrets): typeof secrets {
  return of.flatMap(({ name, bytes }) =>
    [bytes.subarray(0, 16), bytes.subarray(16)].flatMap((half) =>
      [
        half,
        Buffer.from(half.toString('hex')),
        Buffer.from(half.toString('base64').slice(0, 21)),
      ].map((pattern) => ({ name, bytes: pattern })),
    ),
  )
}

test('the search finds what is there', () => {
  expect(found(join(directory, 'data/root.key'))).toContain('rootKey')
})

test('a heap snapshot of the running server holds no key', async () => {
  server.kill('SIGUSR2')
  let file: string | undefined
  // The server writes it bit by bit: it is whole when it ends as JSON does.
  while (file === undefined || !readFileSync(file, 'utf8').trimEnd().endsWith('}')) {
    await sleep(200)
    const name = readdirSync(directory).find((entry) => entry.endsWith('.heapsnapshot'))
    file = name === undefined ? undefined : join(directory, name)
  }
  expect(readFileSync(file, 'utf8')).toContain('keyfold')
  expect(found(file)).toEqual([])
})

describe('a core of the running server', () => {
  const gcore = hasGcore()
  const title = 'holds no key'
  if (!gcore && process.env['CI'] === undefined) {
    test.skip(`${title} (no gcore: install the package gdb)`, () => undefined)
    return
  }
  test(title, ({ skip }) => {
    expect(gcore, 'CI needs gcore: install the package gdb').toBe(true)
    if (implementation === 'node') {
      skip('on node:crypto keys lie in ordinary memory, as the README says')
    }
    const core = join(directory, 'core')
    execFileSync('gcore', ['-o', core, String(server.pid)], { stdio: 'ignore' })
    const file = join(directory, `core.${server.pid}`)
    // The core has the process's ordinary memory: what is public is there.
    const known = { name: 'public', bytes: Buffer.from('keyfold/packed/v1') }
    expect(found(file, [known])).toEqual(['public'])
    expect(found(file)).toEqual([])
  })
})

function hasGcore(): boolean {
  return spawnSync('gcore').error === undefined
}
