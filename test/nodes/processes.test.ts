/**
 * Three servers in processes of their own on one catalog, with callers that do not stop: what one of them was told holds
 * for all when it answers, whoever is killed, stopped or cut off from the catalog meanwhile.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'

import { describeWithPostgres } from '../catalog/postgres.ts'
import { jsonOf, keyfold, serve, type Server } from '../cli/command.ts'
import { callersWith, type Callers } from './callers.ts'

const ROOT_KEY = '5a'.repeat(32)

describeWithPostgres('three servers', (postgres) => {
  let parent: string
  let catalog: string
  let token: string
  let nodes: Server[]
  let directories = 0
  let call: Callers['call']
  let encrypt: Callers['encrypt']
  let tryEncrypt: Callers['tryEncrypt']
  let createKey: Callers['createKey']
  let change: Callers['change']
  let tryChange: Callers['tryChange']
  let load: Callers['load']

  const settings = { KEYFOLD_ROOT_KEY_SOURCE: 'environment', KEYFOLD_ROOT_KEY: ROOT_KEY }
  /** Nothing in its data directory: everything that it needs is in the catalog and the environment. */
  const startNode = (): Promise<Server> =>
    serve(['--data', join(parent, `node-${++directories}`), '--workers', '0'], {
      env: { ...settings, KEYFOLD_CATALOG: catalog, KEYFOLD_LOG_LEVEL: 'error' },
      token,
    })

  beforeAll(async () => {
    parent = mkdtempSync(join(tmpdir(), 'keyfold-processes-'))
    catalog = await postgres.createDatabase()
    const init = ['init', '--data', join(parent, 'init'), '--catalog', catalog, '--json']
    token = jsonOf<{ token: string }>(await keyfold(init, { env: settings })).token
    ;({ call, encrypt, tryEncrypt, createKey, change, tryChange, load } = callersWith(token))
    nodes = await Promise.all([startNode(), startNode(), startNode()])
  })
  afterAll(async () => {
    for (const node of nodes) await node.stop('SIGKILL')
    rmSync(parent, { recursive: true, force: true })
  })

  test('seal nothing that was asked for after a disable was answered, and all after an enable', async () => {
    const [a, b, c] = nodes as [Server, Server, Server]
    const key = await createKey(a)
    for (let round = 0; round < 6; round++) {
      const [from, to] = round % 2 === 0 ? [a, [b, c]] : [b, [a, c]]
      const callers = load(to, key)
      await callers.until(0, 20, 'sealed')
      expect((await change(from, key, 'disable')).code).toBeUndefined()
      const disabled = callers.nextPhase()
      await callers.until(disabled, 20, 'KMS_KEY_DISABLED')
      callers.nextPhase()
      await callers.settled(disabled)
      expect((await change(from, key, 'enable')).code).toBeUndefined()
      const enabled = callers.nextPhase()
      await callers.until(enabled, 20, 'sealed')
      await callers.stop()
      // A node that gets no turn on this machine for a second has no lease: it may refuse, and nothing else.
      expect(Object.keys(callers.outcomes(disabled))).not.toContain('sealed')
      expect(Object.keys(callers.outcomes(enabled))).not.toContain('KMS_KEY_DISABLED')
    }
  })

  test('of which one is stopped answer without it when its lease is out, and it refuses what it missed', async () => {
    const [a, b] = nodes as [Server, Server]
    for (let round = 0; round < 4; round++) {
      const key = await createKey(a)
      expect(await encrypt(b, key)).toBe('sealed')
      b.child.kill('SIGSTOP')
      // These wait in its sockets.
      const waiting = Array.from({ length: 10 }, () => tryEncrypt(b, key))
      try {
        expect((await change(a, key, 'disable')).code).toBeUndefined()
      } finally {
        b.child.kill('SIGCONT')
      }
      const outcomes = await Promise.all(waiting)
      expect(outcomes.filter((outcome) => outcome === 'sealed')).toEqual([])
      for (const outcome of outcomes) {
        expect(['CATALOG_UNAVAILABLE', 'KMS_KEY_DISABLED']).toContain(outcome)
      }
      // It comes back by itself, and knows.
      expect(await encrypt(b, key)).toBe('KMS_KEY_DISABLED')
    }
  })

  test('lose no change that was answered when one of them is killed amid changes', async () => {
    const [a, b, c] = nodes as [Server, Server, Server]
    const answered: string[] = []
    const changing = [a, b, c].map(async (node) => {
      for (let i = 0; i < 12; i++) {
        try {
          const key = await createKey(node)
          const { code } = await change(node, key, 'disable')
          if (code === undefined) answered.push(key)
          if (node === c && i === 4) c.child.kill('SIGKILL')
        } catch {
          // It was killed.
          return
        }
      }
    })
    await Promise.all(changing)
    await c.ended
    expect(answered.length).toBeGreaterThanOrEqual(2 * 12 + 4)
    for (const key of answered) {
      for (const node of [a, b]) expect(await encrypt(node, key)).toBe('KMS_KEY_DISABLED')
    }
    nodes[2] = await startNode()
    for (const key of answered) expect(await encrypt(nodes[2], key)).toBe('KMS_KEY_DISABLED')
  })

  test('refuse while the catalog is away, but for keys that may be served alone, and recover', async () => {
    const [a, b] = nodes as [Server, Server, Server]
    const key = await createKey(a)
    const { keyId: alone } = await call(a, '/v1/keys', {
      fields: { tags: { 'keyfold:served-alone-seconds': '3600' } },
    })
    for (const node of nodes) {
      for (const one of [key, alone]) expect(await encrypt(node, one)).toBe('sealed')
    }
    const callers = load(nodes, key)
    await callers.until(0, 30, 'sealed')
    await postgres.stop()
    for (const node of nodes) {
      // Until its lease is out it serves.
      let outcome: string
      do outcome = await tryEncrypt(node, key)
      while (outcome === 'sealed')
      expect(outcome).toBe('CATALOG_UNAVAILABLE')
      expect(await tryEncrypt(node, alone)).toBe('sealed')
      const ready = await fetch(`${node.ready.url}/readyz`)
      expect(ready.status).toBe(503)
      expect((await tryChange(node, key, 'disable')).code).toBe('CATALOG_UNAVAILABLE')
    }
    await postgres.start()
    for (const node of nodes) {
      while ((await fetch(`${node.ready.url}/readyz`)).status !== 200) await turn()
      expect(await encrypt(node, key)).toBe('sealed')
    }
    const recovered = callers.nextPhase()
    await callers.until(recovered, 60, 'sealed')
    await callers.stop()
    expect(Object.keys(callers.outcomes(0)).sort()).toEqual(['CATALOG_UNAVAILABLE', 'sealed'])
    for (const outcome of Object.keys(callers.outcomes(recovered))) {
      expect(['sealed', 'CATALOG_UNAVAILABLE']).toContain(outcome)
    }
    expect((await change(a, key, 'disable')).code).toBeUndefined()
    expect(await encrypt(b, key)).toBe('KMS_KEY_DISABLED')
  })

  test('stop for a step of the catalog that they would misread, and not for one that only adds', async () => {
    const [a] = nodes as [Server]
    const key = await createKey(a)
    const step = (name: string, compatible: number): Promise<unknown> =>
      postgres.query(
        catalog,
        `insert into migrations (name, "ranAtMs", compatible) values ('${name}', 1, ${compatible});
         update changes set number = number + 1`,
      )
    await step('9998-only-adds', 1)
    const later = await createKey(a)
    for (const node of nodes) expect(await encrypt(node, later)).toBe('sealed')
    const another = await startNode()
    expect(await encrypt(another, key)).toBe('sealed')
    await another.stop()

    await step('9999-changes-all', 0)
    for (const node of nodes) {
      let outcome: string
      do outcome = await tryEncrypt(node, key)
      while (outcome === 'sealed')
      expect(outcome).toBe('CATALOG_UNAVAILABLE')
    }
    await expect(startNode()).rejects.toThrow('9999-changes-all')
  })
})
