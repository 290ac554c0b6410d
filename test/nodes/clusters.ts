/**
 * Servers in processes of their own on one catalog, the machine of whoever administers it, and what has to hold of a
 * rotation of their root key wherever that comes from.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'

import type { Postgres } from '../catalog/postgres.ts'
import { jsonOf, keyfold, serve, start, type Environment, type Server } from '../cli/command.ts'
import { callersWith, type Callers } from './callers.ts'
import { rootVersionsIn } from './root-versions.ts'

/** Dozens of processes that start one after the other, on a machine that has others to run. */
export const TEST_MS_MAX = 300_000

/** What nodes are started with: before a rotation, between its two steps, and behind it. */
export interface Given {
  readonly old: Environment
  readonly both: Environment
  readonly next: Environment
}

type Node = Server & { readonly data: string }

/** Of the tests of one file. */
export class Clusters {
  readonly postgres: Postgres
  readonly nodes = new Set<Server>()
  #parent = ''
  #places = 0

  constructor(postgres: Postgres) {
    this.postgres = postgres
    beforeAll(() => {
      this.#parent = mkdtempSync(join(tmpdir(), 'keyfold-clusters-'))
    })
    afterAll(async () => {
      for (const node of this.nodes) await node.stop('SIGKILL')
      rmSync(this.#parent, { recursive: true, force: true })
    })
  }

  /** A name that nothing has, which goes with the tests. */
  place(what: string): string {
    return join(this.#parent, `${what}-${++this.#places}`)
  }
}

/** A catalog, the machine of whoever administers it, and what its nodes are asked for. */
export class Cluster {
  readonly catalog: string
  readonly admin: string
  readonly #clusters: Clusters
  #callers: Callers | undefined
  readonly #sealed = new Map<string, string>()

  private constructor(clusters: Clusters, catalog: string) {
    this.#clusters = clusters
    this.catalog = catalog
    this.admin = clusters.place('admin')
  }

  static async initialised(clusters: Clusters, present: Environment): Promise<Cluster> {
    const cluster = new Cluster(clusters, await clusters.postgres.createDatabase())
    const made = await keyfold(['init', '--json', ...cluster.#places], { env: present })
    cluster.#callers = callersWith(jsonOf<{ token: string }>(made).token)
    return cluster
  }

  get #places(): readonly string[] {
    return ['--data', this.admin, '--catalog', this.catalog]
  }

  /** What `keyfold root-key` said: its JSON, or why not. */
  async rootKey(command: string, env: Environment): Promise<Record<string, unknown> | string> {
    const words = ['root-key', ...command.split(' '), '--json', ...this.#places]
    const ended = await keyfold(words, { env })
    return ended.code === 0 ? (JSON.parse(ended.text) as Record<string, unknown>) : ended.stderr
  }

  /** Of an empty data directory, or of one that was used before. */
  async start(env: Environment, data = this.#clusters.place('node')): Promise<Node> {
    const server = await serve(['--data', data, '--workers', '0'], {
      env: { ...env, KEYFOLD_CATALOG: this.catalog },
    })
    this.#clusters.nodes.add(server)
    return Object.assign(server, { data })
  }

  /** What one says that does not start. */
  async refusal(env: Environment, data?: string): Promise<string> {
    return this.start(env, data).then(
      () => 'started',
      (error: unknown) => String(error),
    )
  }

  async end(node: Server, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    this.#clusters.nodes.delete(node)
    await node.stop(signal)
  }

  /** Seals under a new key, and remembers what came of it. */
  async seal(node: Server): Promise<void> {
    const { createKey, call } = this.#callers as Callers
    const key = await createKey(node)
    const fields = { key, plaintexts: [Buffer.from(key).toString('base64')] }
    const { ciphertexts } = await call(node, '/v1/encrypt', { fields })
    this.#sealed.set(key, ciphertexts?.[0] as string)
  }

  /** What a node says to what was sealed so far, each once. */
  async opens(node: Server): Promise<readonly string[]> {
    const said = new Set<string>()
    for (const [key, sealed] of this.#sealed) {
      const fields = { ciphertexts: [sealed] }
      const { call } = this.#callers as Callers
      const { code, plaintexts, errors } = await call(node, '/v1/decrypt', { fields })
      const isRight = plaintexts?.[0] === Buffer.from(key).toString('base64')
      said.add(code ?? errors?.[0]?.[1] ?? (isRight ? 'opened' : 'something else'))
    }
    return [...said]
  }

  versions(): Promise<readonly number[]> {
    return rootVersionsIn(this.#clusters.postgres, this.catalog)
  }

  /** What the catalog keeps beside the root key, of names that end so. */
  rootFiles(ending: string): Promise<readonly Record<string, unknown>[]> {
    return this.#clusters.postgres.query(
      this.catalog,
      `select name, content from "rootFiles" where name like '%${ending}' order by name`,
    )
  }

  /** A rotation that is killed before the n-th of its statements; whether it came so far. */
  async rotateAndDie(env: Environment, n: number): Promise<boolean> {
    const program = join(import.meta.dirname, '../rotate-root-and-die.mjs')
    const words = [program, this.admin, 'pg', `${n}`, this.catalog]
    const { child, ended } = start(process.execPath, words, { env })
    const { code, stderr } = await ended
    if (child.signalCode === 'SIGKILL') return true
    if (code !== 0) throw new Error(stderr)
    return false
  }
}

/** Whatever the source; `given` makes the next root key, where an operator does that. */
export function rotates(
  make: () => Promise<{ cluster: Cluster; given: () => Promise<Given> }>,
): void {
  test('is rotated while nodes serve, but not one that was started without the next', async () => {
    const { cluster, given } = await make()
    const { old, both, next } = await given()
    const left = await cluster.start(old)
    await cluster.seal(left)
    expect(await cluster.rootKey('rotate', both)).toContain('first keyfold root-key prepare')
    expect(await cluster.rootKey('prepare', both)).toEqual({ version: 2 })
    // It is the same one until it is used.
    const announced = await cluster.rootFiles('.next')
    expect(await cluster.rootKey('prepare', both)).toEqual({ version: 2 })
    expect(await cluster.rootFiles('.next')).toEqual(announced)
    expect(await cluster.rootKey('rotate', both)).toContain('nodes without version 2')
    expect(await cluster.versions()).toEqual([1])

    const serving = [await cluster.start(both), await cluster.start(both)]
    // It is there still, and nobody hears of it: its lease runs out, and it is not waited for.
    left.child.kill('SIGSTOP')
    expect(await cluster.rootKey('rotate', both)).toEqual({ version: 2 })
    left.child.kill('SIGCONT')
    expect(await cluster.versions()).toEqual([2])
    for (const node of serving) {
      await cluster.seal(node)
      expect(await cluster.opens(node)).toEqual(['opened'])
    }
    expect(await cluster.opens(left)).toEqual(['CATALOG_UNAVAILABLE'])
    await cluster.end(left)
    for (const env of [both, next]) {
      const again = await cluster.start(env, left.data)
      expect(await cluster.opens(again)).toEqual(['opened'])
      await cluster.end(again)
    }
    expect(await cluster.rootKey('status', next)).toMatchObject({ version: 2, rotation: 'none' })
    for (const node of serving) await cluster.end(node)
  })

  test('is prepared a second time, and no node can take the first for it', async () => {
    const { cluster, given } = await make()
    const first = await given()
    expect(await cluster.rootKey('prepare', first.both)).toEqual({ version: 2 })
    const node = await cluster.start(first.both)
    await cluster.seal(node)
    const second = await given()
    expect(await cluster.rootKey('prepare --again', second.both)).toEqual({ version: 3 })
    expect(await cluster.rootKey('rotate', second.both)).toContain('nodes without version 3')
    expect(await cluster.opens(node)).toEqual(['opened'])
    await cluster.end(node, 'SIGKILL')
    const restarted = await cluster.start(second.both, node.data)
    expect(await cluster.rootKey('rotate', second.both)).toEqual({ version: 3 })
    expect(await cluster.opens(restarted)).toEqual(['opened'])
    expect(await cluster.versions()).toEqual([3])
    await cluster.end(restarted)
  })

  test('is rotated by whoever comes after one that was killed, with nodes that were killed', async () => {
    const { cluster, given } = await make()
    const { old, both } = await given()
    const first = await cluster.start(old)
    await cluster.seal(first)
    await cluster.end(first)
    expect(await cluster.rootKey('prepare', both)).toEqual({ version: 2 })
    let node = await cluster.start(both, first.data)
    const opensAfterKill = async (): Promise<void> => {
      await cluster.end(node, 'SIGKILL')
      node = await cluster.start(both, node.data)
      expect(await cluster.opens(node)).toEqual(['opened'])
      await cluster.seal(node)
    }
    const rotation = async (): Promise<unknown> => {
      const status = await cluster.rootKey('status', both)
      return (status as { readonly rotation: unknown }).rotation
    }
    // Before it turns every attempt begins anew; behind that it goes on where it was.
    let n = 4
    expect(await cluster.rotateAndDie(both, n)).toBe(true)
    expect(await rotation()).toBe('prepared to version 2')
    await opensAfterKill()
    do expect(await cluster.rotateAndDie(both, (n += 4))).toBe(true)
    while ((await cluster.rootFiles('.previous')).length === 0)
    await opensAfterKill()
    expect(await rotation()).toBe('from version 1')
    expect(await cluster.rotateAndDie(both, n)).toBe(true)
    await opensAfterKill()
    expect(await cluster.rootKey('rotate', both)).toEqual({ version: 2 })
    expect(await cluster.versions()).toEqual([2])
    expect(await cluster.opens(node)).toEqual(['opened'])
    await cluster.end(node)
  })
}
