/**
 * The root key of a shared catalog where another key store seals it, or people keep it in shares: servers in processes
 * of their own go on, start again and are left behind while it is rotated, as with any other root key.
 */
import { once } from 'node:events'
import { cpSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, connect, type AddressInfo, type Server as Relay } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { describeWithPostgres } from '../catalog/postgres.ts'
import { jsonOf, keyfold, serve, start, type Environment, type Server } from '../cli/command.ts'
import { findBao, ROOT_TOKEN, startOpenBao, type OpenBao } from '../key-stores/openbao.ts'
import { describeWithSoftHsm, type SoftToken } from '../key-stores/softhsm.ts'
import { callersWith, type Callers } from './callers.ts'
import { rootVersionsIn } from './root-versions.ts'

/** What nodes are started with: before a rotation, between its two steps, and behind it. */
interface Given {
  readonly old: Environment
  readonly both: Environment
  readonly next: Environment
}

describeWithPostgres('the root key of many nodes', (postgres) => {
  let parent: string
  const nodes = new Set<Server>()
  let places = 0

  beforeAll(() => {
    parent = mkdtempSync(join(tmpdir(), 'keyfold-root-sources-'))
  })
  afterAll(async () => {
    for (const node of nodes) await node.stop('SIGKILL')
    rmSync(parent, { recursive: true, force: true })
  })

  /** A catalog, the machine of whoever administers it, and what its nodes are asked for. */
  class Cluster {
    readonly catalog: string
    readonly admin = join(parent, `admin-${++places}`)
    #callers: Callers | undefined
    readonly #sealed = new Map<string, string>()

    private constructor(catalog: string) {
      this.catalog = catalog
    }

    static async initialised(present: Environment): Promise<Cluster> {
      const cluster = new Cluster(await postgres.createDatabase())
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
    async start(env: Environment, data = join(parent, `node-${++places}`)): Promise<Node> {
      const server = await serve(['--data', data, '--workers', '0'], {
        env: { ...env, KEYFOLD_CATALOG: this.catalog },
      })
      nodes.add(server)
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
      nodes.delete(node)
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

    versions = (): Promise<readonly number[]> => rootVersionsIn(postgres, this.catalog)

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
  type Node = Server & { readonly data: string }

  /** Whatever the source: `given` makes what the first nodes are given, and prepares the next root key. */
  function rotates(make: () => Promise<{ cluster: Cluster; given: () => Promise<Given> }>): void {
    test('is rotated while nodes serve, but not one that was started without the next', async () => {
      const { cluster, given } = await make()
      const { old, both, next } = await given()
      const left = await cluster.start(old)
      await cluster.seal(left)
      expect(await cluster.rootKey('rotate', both)).toContain('first keyfold root-key prepare')
      expect(await cluster.rootKey('prepare', both)).toEqual({ version: 2 })
      // It is the same one until it is used.
      const announced = await rowsOf(cluster, '.next')
      expect(await cluster.rootKey('prepare', both)).toEqual({ version: 2 })
      expect(await rowsOf(cluster, '.next')).toEqual(announced)
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
      while ((await rowsOf(cluster, '.previous')).length === 0)
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

  const rowsOf = (cluster: Cluster, ending: string) =>
    postgres.query(
      cluster.catalog,
      `select name, content from "rootFiles" where name like '%${ending}' order by name`,
    )

  describe('in shares', () => {
    const source = { KEYFOLD_ROOT_KEY_SOURCE: 'shares' }
    const shares = async (...flags: readonly string[]): Promise<readonly string[]> => {
      const words = ['root-key', 'shares', '--threshold', '2', '--shares', '3', '--json', ...flags]
      return jsonOf<{ shares: string[] }>(await keyfold(words, { env: source })).shares
    }
    const some = (of: readonly string[], from = 0): string => of.slice(from, from + 2).join('\n')

    async function make() {
      const first = await shares('--new', '--data', join(parent, 'none'))
      const old = { ...source, KEYFOLD_ROOT_KEY_SHARES: some(first) }
      const cluster = await Cluster.initialised(old)
      const given = async (): Promise<Given> => {
        const second = await shares('--new', '--data', cluster.admin, '--catalog', cluster.catalog)
        return {
          old,
          both: { ...old, KEYFOLD_ROOT_KEY_SHARES_NEXT: some(second, 1) },
          next: { ...source, KEYFOLD_ROOT_KEY_SHARES: some(second) },
        }
      }
      return { cluster, given, first }
    }
    rotates(make)

    test('is not in too few of them, nor in those of another root key, and which is said', async () => {
      const { cluster, given, first } = await make()
      const { old, both, next } = await given()
      const one = (env: Environment, name: string): Environment => ({
        ...env,
        [name]: env[name]?.split('\n')[0],
      })
      const [SHARES, NEXT] = ['KEYFOLD_ROOT_KEY_SHARES', 'KEYFOLD_ROOT_KEY_SHARES_NEXT'] as const
      const tooFew = '1 of 2 shares that it takes were given'
      expect(await cluster.refusal(one(old, SHARES))).toContain(tooFew)
      expect(await cluster.rootKey('prepare', one(both, NEXT))).toContain(tooFew)
      expect(await rowsOf(cluster, '.next')).toEqual([])
      const files = [1, 2].map((i) => join(parent, `share-${i}`))
      both[NEXT]?.split('\n').forEach((line, i) =>
        writeFileSync(files[i] as string, `${line}\n`, { mode: 0o600 }),
      )
      const inFiles = `--next-share-files ${files.join(',')}`
      for (let i = 0; i < 2; i++) {
        expect(await cluster.rootKey(`prepare ${inFiles}`, old)).toEqual({ version: 2 })
      }
      // Too few of the next one are none, and the node serves until it is in use.
      const lacking = await cluster.start({ ...one(both, NEXT), KEYFOLD_LOG_LEVEL: 'warn' })
      let said = ''
      lacking.child.stderr?.on('data', (bytes: Buffer) => (said += bytes.toString()))
      await cluster.seal(lacking)
      expect(await cluster.rootKey('rotate', one(both, NEXT))).toContain(tooFew)
      expect(await cluster.rootKey(`rotate ${inFiles}`, old)).toContain('nodes without version 2')
      await cluster.end(lacking)
      expect((await lacking.ended).stderr).toContain(tooFew)
      const node = await cluster.start(both)
      expect(await cluster.rootKey(`rotate ${inFiles}`, old)).toEqual({ version: 2 })
      expect(await cluster.opens(node)).toEqual(['opened'])
      await cluster.end(node, 'SIGKILL')

      const isOld = 'share 1 is of version 1 of the root key, and needed is 2'
      expect(await cluster.refusal(old, node.data)).toContain(isOld)
      expect(await cluster.refusal(one(next, SHARES), node.data)).toContain(tooFew)
      const few = await cluster.refusal(one(both, NEXT), node.data)
      expect(few).toContain(isOld)
      expect(few).toContain(tooFew)
      const mixed = [next[SHARES]?.split('\n')[1], first[0]].join('\n')
      expect(await cluster.refusal({ ...source, [SHARES]: mixed })).toContain('not made together')
      const restarted = await cluster.start(next, node.data)
      expect(await cluster.opens(restarted)).toEqual(['opened'])
      await cluster.end(restarted)
    })

    test('is shared as it is on the machine that rotated it last, wherever that was', async () => {
      const { cluster, given } = await make()
      const { both, next } = await given()
      const other = join(parent, `other-${++places}`)
      const there = ['--data', other, '--catalog', cluster.catalog]
      const status = ['root-key', 'status', '--json', ...there]
      expect((await keyfold(status, { env: both })).code).toBe(0)
      expect(await cluster.rootKey('prepare', both)).toEqual({ version: 2 })
      expect(await cluster.rootKey('rotate', both)).toEqual({ version: 2 })
      const words = ['root-key', 'shares', '--threshold', '2', '--shares', '2', '--json', ...there]
      const again = jsonOf<{ shares: string[] }>(await keyfold(words, { env: next })).shares
      const node = await cluster.start({ ...source, KEYFOLD_ROOT_KEY_SHARES: again.join('\n') })
      await cluster.end(node)
      const third = await shares('--new', ...there)
      const KEYFOLD_ROOT_KEY_SHARES_NEXT = some(third)
      const env = { ...next, KEYFOLD_ROOT_KEY_SHARES_NEXT }
      expect(await cluster.rootKey('prepare', env)).toEqual({ version: 3 })
    })
  })

  /** One that can be away, and the settings by which it is found. */
  interface Sealing {
    readonly settings: Readonly<Record<string, unknown>>
    away(): void
    back(): Promise<void>
  }

  function sealedBy(sealing: () => Sealing): typeof make {
    async function make() {
      const store = join(parent, `root-store-${++places}.json`)
      writeFileSync(store, JSON.stringify(sealing().settings))
      const env = { KEYFOLD_ROOT_KEY_SOURCE: 'sealed', KEYFOLD_ROOT_KEY_STORE: store }
      const cluster = await Cluster.initialised(env)
      return { cluster, env, given: async () => ({ old: env, both: env, next: env }) }
    }

    test('while its store is away: nodes go on, none starts, and nothing is rotated', async () => {
      const { cluster, env } = await make()
      const [a, b] = [await cluster.start(env), await cluster.start(env)]
      await cluster.seal(a)
      sealing().away()
      await cluster.end(b, 'SIGKILL')
      const isAway = /key store (did not answer|does not let)/
      expect(await cluster.refusal(env, b.data)).toMatch(isAway)
      expect(await cluster.rootKey('prepare', env)).toMatch(isAway)
      expect(await rowsOf(cluster, '.next')).toEqual([])
      expect(await cluster.opens(a)).toEqual(['opened'])
      await sealing().back()
      expect(await cluster.rootKey('prepare', env)).toEqual({ version: 2 })
      await cluster.end(a)
      const both = await cluster.start(env, a.data)
      sealing().away()
      expect(await cluster.rootKey('rotate', env)).toMatch(isAway)
      expect(await cluster.opens(both)).toEqual(['opened'])
      await sealing().back()
      // Turned, and not complete: what is needed is in the catalog, and the store is.
      let n = 0
      do expect(await cluster.rotateAndDie(env, (n += 4))).toBe(true)
      while ((await rowsOf(cluster, '.previous')).length === 0)
      sealing().away()
      expect(await cluster.refusal(env, b.data)).toMatch(isAway)
      expect(await cluster.opens(both)).toEqual(['opened'])
      await sealing().back()
      const restarted = await cluster.start(env, b.data)
      for (const node of [both, restarted]) expect(await cluster.opens(node)).toEqual(['opened'])
      expect(await cluster.rootKey('rotate', env)).toEqual({ version: 2 })
      expect(await cluster.versions()).toEqual([2])
      for (const node of [both, restarted]) {
        expect(await cluster.opens(node)).toEqual(['opened'])
        await cluster.end(node)
      }
    })
    return make
  }

  describeWithSoftHsm('sealed by SoftHSM', (createToken) => {
    let token: SoftToken
    beforeAll(() => {
      token = createToken()
    })
    afterAll(() => token.remove())
    const make = sealedBy(() => ({
      settings: {
        kind: 'pkcs11',
        module: token.module,
        tokenLabel: token.label,
        pinFile: token.pinFile,
      },
      away: () => renameSync(token.tokens, `${token.tokens}.away`),
      back: async () => renameSync(`${token.tokens}.away`, token.tokens),
    }))
    rotates(make)

    /** One whose root key is in a file, and what its nodes are given when that is sealed. */
    async function makeOfFile() {
      const store = (await make()).env.KEYFOLD_ROOT_KEY_STORE
      const cluster = await Cluster.initialised({})
      const rootKeyFile = join(cluster.admin, 'root.key')
      const file = { KEYFOLD_ROOT_KEY_FILE: rootKeyFile, KEYFOLD_ROOT_KEY_STORE: store }
      const sealed = { KEYFOLD_ROOT_KEY_SOURCE: 'sealed', KEYFOLD_ROOT_KEY_STORE: store }
      const sealedFile = join(cluster.admin, 'root.sealed')
      return { cluster, file, sealed, rootKeyFile, said: { sealed: sealedFile } }
    }

    test('after it was in a file: sealed once, and by nodes at their leisure', async () => {
      const { cluster, file, sealed, rootKeyFile, said } = await makeOfFile()
      let [a, b] = [await cluster.start(file), await cluster.start(file)]
      await cluster.seal(a)
      expect(await cluster.refusal(sealed)).toContain('there is no sealed root key')
      expect(await cluster.rootKey('seal', file)).toEqual(said)
      for (const env of [file, sealed, sealed]) {
        await cluster.end(b, 'SIGKILL')
        b = await cluster.start(env, b.data)
        for (const node of [a, b]) expect(await cluster.opens(node)).toEqual(['opened'])
        await cluster.seal(b)
      }
      await cluster.end(a)
      rmSync(rootKeyFile)
      // Once more, by another key of the store: what a node has a copy of is replaced, where it was sealed too.
      expect(await cluster.rootKey('seal', sealed)).toEqual(said)
      a = await cluster.start(sealed, a.data)
      await cluster.end(b)
      b = await cluster.start(sealed, cluster.admin)
      for (const node of [a, b]) expect(await cluster.opens(node)).toEqual(['opened'])
      expect(await cluster.rootKey('prepare', sealed)).toEqual({ version: 2 })
      expect(await cluster.rootKey('seal', sealed)).toContain('a rotation is prepared')
      expect(await cluster.rootKey('rotate', sealed)).toContain('nodes without version 2')
      for (const node of [a, b]) await cluster.end(node)
      a = await cluster.start(sealed, a.data)
      expect(await cluster.rootKey('rotate', sealed)).toEqual({ version: 2 })
      expect(await cluster.opens(a)).toEqual(['opened'])
      await cluster.end(a)
    })

    test('goes when it is rotated to one in a file, and is sealed anew', async () => {
      const { cluster, file, sealed, said } = await makeOfFile()
      expect(await cluster.rootKey('seal', file)).toEqual(said)
      const node = await cluster.start(sealed)
      await cluster.seal(node)
      expect(await cluster.rootKey('prepare', file)).toEqual({ version: 2 })
      expect(await cluster.rootKey('rotate', file)).toContain('nodes without version 2')
      await cluster.end(node)
      expect(await cluster.rootKey('rotate', file)).toEqual({ version: 2 })
      expect(await cluster.refusal(sealed, node.data)).toContain('there is no sealed root key')
      expect(await cluster.rootKey('seal', file)).toEqual(said)
      const restarted = await cluster.start(sealed, node.data)
      expect(await cluster.opens(restarted)).toEqual(['opened'])
      await cluster.end(restarted)
    })

    test('for one machine only, as it once was, is not taken for what all have, nor overwritten', async () => {
      const { cluster, file, sealed, said } = await makeOfFile()
      const node = await cluster.start(file)
      await cluster.seal(node)
      const sealing = async (): Promise<void> =>
        expect(await cluster.rootKey('seal', file)).toEqual(said)
      await sealing()
      const forgetting = `delete from "rootFiles" where name <> 'root.check'`
      await postgres.query(cluster.catalog, forgetting)
      const there = join(node.data, 'root.sealed')
      cpSync(join(cluster.admin, 'root.sealed'), there)
      await cluster.end(node)
      const alone = await cluster.start(sealed, node.data)
      await cluster.end(alone)
      // The machine that seals for all knows its own of before.
      await sealing()
      await sealing()
      await postgres.query(cluster.catalog, `${forgetting} and content = ''`)
      const only = readFileSync(there, 'utf8')
      expect(await cluster.refusal(sealed, node.data)).toContain(
        `${there} is of this machine only, and the catalog has another: move it away`,
      )
      expect(readFileSync(there, 'utf8')).toBe(only)
      rmSync(there)
      const restarted = await cluster.start(sealed, node.data)
      expect(await cluster.opens(restarted)).toEqual(['opened'])
      await cluster.end(restarted)
    })
  })

  const bao = findBao()
  const describeWithBao =
    bao === undefined && process.env['CI'] === undefined ? describe.skip : describe
  describeWithBao('sealed by OpenBao', () => {
    let server: OpenBao
    let relay: Relay
    let port: number
    let tokenFile: string
    const open = async (at = 0): Promise<void> => {
      relay = createServer((socket) => {
        const there = connect(Number(new URL(server.url).port), '127.0.0.1')
        socket.on('error', () => there.destroy()).pipe(there)
        there.on('error', () => socket.destroy()).pipe(socket)
      }).listen(at, '127.0.0.1')
      await once(relay, 'listening')
      port = (relay.address() as AddressInfo).port
    }
    beforeAll(async () => {
      server = await startOpenBao(bao ?? '')
      tokenFile = join(parent, 'bao-token')
      writeFileSync(tokenFile, ROOT_TOKEN, { mode: 0o600 })
      await open()
    })
    afterAll(async () => {
      relay.close()
      await server.close()
    })
    sealedBy(() => ({
      settings: { kind: 'transit', endpoint: `http://127.0.0.1:${port}`, tokenFile },
      away: () => relay.close(),
      back: () => open(port),
    }))
  })
})
