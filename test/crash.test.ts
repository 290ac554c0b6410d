/**
 * kill -9 in the middle of the work: a real server process, many keys being created at once, and no chance to tidy up.
 * What was acknowledged is there afterwards; what was not is there whole or not at all.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { runInCatalog } from './catalog/file.ts'

const ROOT = join(import.meta.dirname, '..')
const MAIN = join(ROOT, 'dist/cli/main.js')
const ROUNDS = 8
const AT_ONCE = 16

interface Server {
  readonly url: string
  readonly process: ChildProcess
  readonly ended: Promise<void>
}

interface Acknowledged {
  readonly keyId: string
  readonly alias: string
  readonly version: number
  /** Something sealed under it, where that was acknowledged as well. */
  ciphertext?: string
}

let dataDirectory: string
let token: string
let running: Server | undefined

beforeAll(() => {
  dataDirectory = mkdtempSync(join(tmpdir(), 'keyfold-crash-'))
  const answer = execFileSync(process.execPath, [MAIN, 'init', '--data', dataDirectory, '--json'], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  token = (JSON.parse(answer) as { token: string }).token
})
afterAll(async () => {
  if (running !== undefined) await kill(running)
  rmSync(dataDirectory, { recursive: true, force: true })
})

async function start(): Promise<Server> {
  const flags = ['--data', dataDirectory, '--listen', '127.0.0.1:0', '--workers', '0']
  const child = spawn(
    process.execPath,
    [MAIN, 'serve', ...flags, '--log-level', 'error', '--ready-json'],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  )
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  const line = await new Promise<string>((resolve, reject) => {
    createInterface(child.stdout).once('line', resolve)
    child.once('exit', (code) => reject(new Error(`the server ended with ${String(code)}`)))
  })
  running = { url: (JSON.parse(line) as { url: string }).url, process: child, ended }
  return running
}

async function kill(server: Server): Promise<void> {
  server.process.kill('SIGKILL')
  await server.ended
  running = undefined
}

interface Answer {
  readonly code?: string
  readonly keyId: string
  readonly currentVersion: number
  readonly aliases: readonly string[]
  readonly tags: Readonly<Record<string, string>>
  readonly ciphertexts: readonly string[]
  readonly plaintexts: readonly (string | null)[]
  readonly keys: readonly { readonly keyId: string }[]
  readonly nextMarker?: string | null
}

async function request(url: string, path: string, fields?: unknown): Promise<Answer> {
  const response = await fetch(`${url}/v1/${path}`, {
    method: fields === undefined ? 'GET' : 'POST',
    headers: {
      authorization: `Bearer ${token}`,
      accept: 'application/json',
      'content-type': 'application/json',
    },
    ...(fields === undefined ? {} : { body: JSON.stringify(fields) }),
  })
  return (await response.json()) as Answer
}

const textOf = (alias: string): string => Buffer.from(`sealed under ${alias}`).toString('base64')

/** Creates keys, many at once, until the server dies under it; it dies when so many were acknowledged. */
async function createUntilKilled(
  server: Server,
  round: number,
  acknowledgedMost: number,
): Promise<readonly Acknowledged[]> {
  const acknowledged: Acknowledged[] = []
  let killed = false
  const worker = async (lane: number): Promise<void> => {
    for (let i = 0; !killed; i++) {
      const alias = `alias/crash/${round}/${lane}/${i}`
      try {
        const created = await request(server.url, 'keys', { alias, tags: { lane: String(lane) } })
        // The connection broke while the answer came, or it says that all is well.
        expect(created.code).toBeUndefined()
        const key: Acknowledged = { keyId: created.keyId, alias, version: 1 }
        acknowledged.push(key)
        if (acknowledged.length === acknowledgedMost) {
          killed = true
          // No tick later: the others are in the middle of what they do.
          server.process.kill('SIGKILL')
          return
        }
        if (i % 3 === 1) {
          const rotated = await request(server.url, `keys/${key.keyId}/rotate`, {})
          expect(rotated.currentVersion).toBe(2)
          acknowledged[acknowledged.indexOf(key)] = { ...key, version: 2 }
        }
        if (i % 3 === 2) {
          const fields = { key: alias, context: { alias }, plaintexts: [textOf(alias)] }
          key.ciphertext = (await request(server.url, 'encrypt', fields)).ciphertexts[0] as string
        }
      } catch (error) {
        if (!killed) throw error
        return
      }
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, (_, lane) => worker(lane)))
  await kill(server)
  return acknowledged
}

async function listKeyIds(url: string): Promise<readonly string[]> {
  const ids: string[] = []
  let marker = ''
  for (;;) {
    const query = new URLSearchParams({ limit: '1000', ...(marker === '' ? {} : { marker }) })
    const page = await request(url, `keys?${query.toString()}`)
    ids.push(...page.keys.map(({ keyId }) => keyId))
    if (typeof page.nextMarker !== 'string') return ids
    marker = page.nextMarker
  }
}

/** Described with its alias and tags, seals, and opens what it sealed. */
async function expectWhole(url: string, keyId: string): Promise<Answer> {
  const described = await request(url, `keys/${keyId}`)
  expect(described.code).toBeUndefined()
  expect(described.aliases).toHaveLength(1)
  const alias = described.aliases[0] as string
  expect(described.tags).toEqual({ lane: alias.split('/')[3] })
  const sealed = await request(url, 'encrypt', { key: keyId, plaintexts: [textOf(alias)] })
  expect(sealed.code).toBeUndefined()
  const opened = await request(url, 'decrypt', { ciphertexts: sealed.ciphertexts })
  expect(opened.plaintexts).toEqual([textOf(alias)])
  return described
}

describe('kill -9 while keys are created', () => {
  test('loses none that was acknowledged, and leaves none that is half made', async () => {
    const all: Acknowledged[] = []
    const moments: number[] = []
    let server = await start()
    for (let round = 0; round < ROUNDS; round++) {
      const acknowledgedMost = randomInt(1, 60)
      moments.push(acknowledgedMost)
      const acknowledged = await createUntilKilled(server, round, acknowledgedMost)
      expect(acknowledged.length, `killed after ${moments.join(', ')}`).toBeGreaterThanOrEqual(
        acknowledgedMost,
      )
      all.push(...acknowledged)

      server = await start()
      const ids = await listKeyIds(server.url)
      const present = new Set(ids)
      const lost = all.filter(({ keyId }) => !present.has(keyId))
      expect(lost, `killed after ${moments.join(', ')}`).toEqual([])
      // Keys that nobody was told of may be there, as far as they were under way.
      expect(ids.length - all.length).toBeLessThanOrEqual((round + 1) * AT_ONCE)

      const ofThisRound = new Set(acknowledged.map(({ keyId }) => keyId))
      const before = new Set(all.map(({ keyId }) => keyId))
      const untold = ids.filter((id) => !before.has(id))
      for (const keyId of [...ofThisRound, ...untold]) await expectWhole(server.url, keyId)
      for (const { keyId, alias, version, ciphertext } of acknowledged) {
        const described = await request(server.url, `keys/${encodeURIComponent(alias)}`)
        expect(described.keyId).toBe(keyId)
        expect(described.currentVersion).toBeGreaterThanOrEqual(version)
        if (ciphertext === undefined) continue
        const fields = { context: { alias }, ciphertexts: [ciphertext] }
        expect((await request(server.url, 'decrypt', fields)).plaintexts).toEqual([textOf(alias)])
      }
    }
    await kill(server)

    const [integrity, foreign, bare, versions, change] = runInCatalog(
      dataDirectory,
      'pragma integrity_check',
      'pragma foreign_key_check',
      `select id from "kmsKeys" where not exists
         (select 1 from "keyMaterials" where "kmsKeyId" = id and version = "currentVersion")`,
      `select id from "kmsKeys" where "currentVersion" <>
         (select count(*) from "keyMaterials" where "kmsKeyId" = id)`,
      `select number >= (select max("changeNumber") from "kmsKeys") as ahead from changes`,
    )
    expect(integrity).toEqual([{ integrity_check: 'ok' }])
    expect([foreign, bare, versions]).toEqual([[], [], []])
    expect(change).toEqual([{ ahead: 1 }])
  })

  test('leaves a directory that a second server is refused while the first one lives', async () => {
    const server = await start()
    const second = spawn(
      process.execPath,
      [MAIN, 'serve', '--data', dataDirectory, '--listen', '127.0.0.1:0'],
      {
        stdio: ['ignore', 'ignore', 'pipe'],
      },
    )
    let said = ''
    second.stderr.on('data', (bytes: Buffer) => (said += bytes.toString()))
    const code = await new Promise((resolve) => second.once('close', resolve))
    expect(code).toBe(1)
    expect(said).toContain('another keyfold process')
    expect((await request(server.url, 'keys')).code).toBeUndefined()
    await kill(server)
  })
})
