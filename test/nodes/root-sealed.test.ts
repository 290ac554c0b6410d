/**
 * The root key of a shared catalog, sealed by another key store: for all nodes at once, rotated while they serve, and
 * nothing is lost while that store is away.
 */
import { once } from 'node:events'
import { cpSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, connect, type AddressInfo, type Server as Relay } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'

import { describeWithPostgres } from '../catalog/postgres.ts'
import { findBao, ROOT_TOKEN, startOpenBao, type OpenBao } from '../key-stores/openbao.ts'
import { describeWithSoftHsm, type SoftToken } from '../key-stores/softhsm.ts'
import { Cluster, Clusters, rotates, TEST_MS_MAX } from './clusters.ts'

vi.setConfig({ testTimeout: TEST_MS_MAX })

describeWithPostgres('the root key of many nodes', (postgres) => {
  const clusters = new Clusters(postgres)

  /** One that can be away, and the settings by which it is found. */
  interface Sealing {
    readonly settings: Readonly<Record<string, unknown>>
    away(): void
    back(): Promise<void>
  }

  function sealedBy(sealing: () => Sealing): typeof make {
    async function make() {
      const store = clusters.place('root-store')
      writeFileSync(store, JSON.stringify(sealing().settings))
      const env = { KEYFOLD_ROOT_KEY_SOURCE: 'sealed', KEYFOLD_ROOT_KEY_STORE: store }
      const cluster = await Cluster.initialised(clusters, env)
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
      expect(await cluster.rootFiles('.next')).toEqual([])
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
      while ((await cluster.rootFiles('.previous')).length === 0)
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
      const cluster = await Cluster.initialised(clusters, {})
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
      tokenFile = clusters.place('bao-token')
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
