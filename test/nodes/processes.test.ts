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

const ROOT_KEY = '5a'.repeat(32)

interface Answer {
  readonly code?: string
  readonly keyId: string
  readonly ciphertexts?: readonly string[]
}

describeWithPostgres('three servers', (postgres) => {
  let parent: string
  let catalog: string
  let token: string
  let nodes: Server[]
  let directories = 0

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
    nodes = await Promise.all([startNode(), startNode(), startNode()])
  })
  afterAll(async () => {
    for (const node of nodes) await node.stop('SIGKILL')
    rmSync(parent, { recursive: true, force: true })
  })

  async function call(
    node: Server,
    path: string,
    { method = 'POST', fields }: { readonly method?: string; readonly fields?: unknown } = {},
  ): Promise<Answer> {
    const response = await fetch(`${node.ready.url}${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      ...(fields === undefined ? {} : { body: JSON.stringify(fields) }),
    })
    return (await response.json()) as Answer
  }
  /** Sealed, or the code of the error. */
  const encrypt = async (node: Server, key: string): Promise<string> => {
    const fields = { key, context: {}, plaintexts: [Buffer.from('text').toString('base64')] }
    const { code, ciphertexts } = await call(node, '/v1/encrypt', { fields })
    return code ?? (ciphertexts?.length === 1 ? 'sealed' : 'nothing')
  }
  const createKey = async (node: Server): Promise<string> =>
    (await call(node, '/v1/keys', { fields: {} })).keyId
  const change = (node: Server, key: string, to: 'enable' | 'disable'): Promise<Answer> =>
    call(node, `/v1/keys/${encodeURIComponent(key)}/${to}`, { fields: {} })

  /** Callers of these nodes who go on until they are told to stop; each outcome with the phase in which it was asked. */
  function load(targets: readonly Server[], key: string) {
    const asked: { readonly phase: number; outcome: string }[] = []
    let phase = 0
    let stopped = false
    const callers = targets.flatMap((node) =>
      Array.from({ length: 3 }, async () => {
        while (!stopped) {
          const one = { phase, outcome: 'under way' }
          asked.push(one)
          one.outcome = await encrypt(node, key).catch((error: unknown) => String(error))
          await turn()
        }
      }),
    )
    return {
      /** Requests from now on are counted apart; answers which number they have. */
      nextPhase: (): number => ++phase,
      /** When there are so many of this phase. */
      until: async (wanted: number, least: number): Promise<void> => {
        const done = (): number =>
          asked.filter((one) => one.phase === wanted && one.outcome !== 'under way').length
        while (done() < least) await turn()
      },
      /** When none of this phase is under way any more. */
      settled: async (wanted: number): Promise<void> => {
        const isOpen = (one: (typeof asked)[number]): boolean =>
          one.phase === wanted && one.outcome === 'under way'
        while (asked.some(isOpen)) await turn()
      },
      outcomes: (wanted: number): Record<string, number> => {
        const counts: Record<string, number> = {}
        for (const one of asked) {
          if (one.phase === wanted) counts[one.outcome] = (counts[one.outcome] ?? 0) + 1
        }
        return counts
      },
      stop: async (): Promise<void> => {
        stopped = true
        await Promise.all(callers)
      },
    }
  }

  test('seal nothing that was asked for after a disable was answered, and all after an enable', async () => {
    const [a, b, c] = nodes as [Server, Server, Server]
    const key = await createKey(a)
    for (let round = 0; round < 6; round++) {
      const [from, to] = round % 2 === 0 ? [a, [b, c]] : [b, [a, c]]
      const callers = load(to, key)
      await callers.until(0, 20)
      expect((await change(from, key, 'disable')).code).toBeUndefined()
      const disabled = callers.nextPhase()
      await callers.until(disabled, 20)
      callers.nextPhase()
      await callers.settled(disabled)
      expect((await change(from, key, 'enable')).code).toBeUndefined()
      const enabled = callers.nextPhase()
      await callers.until(enabled, 20)
      await callers.stop()
      expect(callers.outcomes(0)['sealed']).toBeGreaterThan(0)
      // A node that gets no turn on this machine for a second has no lease: it may refuse, and nothing else.
      expect(Object.keys(callers.outcomes(disabled))).not.toContain('sealed')
      expect(callers.outcomes(disabled)['KMS_KEY_DISABLED']).toBeGreaterThan(0)
      expect(Object.keys(callers.outcomes(enabled))).not.toContain('KMS_KEY_DISABLED')
      expect(callers.outcomes(enabled)['sealed']).toBeGreaterThan(0)
    }
  })

  test('of which one is stopped answer without it when its lease is out, and it refuses what it missed', async () => {
    const [a, b] = nodes as [Server, Server]
    for (let round = 0; round < 4; round++) {
      const key = await createKey(a)
      expect(await encrypt(b, key)).toBe('sealed')
      b.child.kill('SIGSTOP')
      // These wait in its sockets.
      const waiting = Array.from({ length: 10 }, () => encrypt(b, key))
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
      let outcome: string
      do outcome = await encrypt(b, key)
      while (outcome === 'CATALOG_UNAVAILABLE')
      expect(outcome).toBe('KMS_KEY_DISABLED')
    }
  })

  test('lose no change that was answered when one of them is killed amid changes', async () => {
    const [a, b, c] = nodes as [Server, Server, Server]
    const answered: string[] = []
    const changing = [a, b, c].map(async (node) => {
      for (let i = 0; i < 12; i++) {
        try {
          const key = await createKey(node)
          if (key === undefined) return
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
    await callers.until(0, 30)
    await postgres.stop()
    for (const node of nodes) {
      // Until its lease is out it serves.
      let outcome: string
      do outcome = await encrypt(node, key)
      while (outcome === 'sealed')
      expect(outcome).toBe('CATALOG_UNAVAILABLE')
      expect(await encrypt(node, alone)).toBe('sealed')
      const ready = await fetch(`${node.ready.url}/readyz`)
      expect(ready.status).toBe(503)
      expect((await change(node, key, 'disable')).code).toBe('CATALOG_UNAVAILABLE')
    }
    await postgres.start()
    for (const node of nodes) {
      while ((await fetch(`${node.ready.url}/readyz`)).status !== 200) await turn()
      expect(await encrypt(node, key)).toBe('sealed')
    }
    const recovered = callers.nextPhase()
    await callers.until(recovered, 60)
    await callers.stop()
    expect(Object.keys(callers.outcomes(0)).sort()).toEqual(['CATALOG_UNAVAILABLE', 'sealed'])
    expect(Object.keys(callers.outcomes(recovered))).toEqual(['sealed'])
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
    const { keyId: later } = await call(a, '/v1/keys', { fields: {} })
    for (const node of nodes) expect(await encrypt(node, later)).toBe('sealed')
    const another = await startNode()
    expect(await encrypt(another, key)).toBe('sealed')
    await another.stop()

    await step('9999-changes-all', 0)
    for (const node of nodes) {
      let outcome: string
      do outcome = await encrypt(node, key)
      while (outcome === 'sealed')
      expect(outcome).toBe('CATALOG_UNAVAILABLE')
    }
    await expect(startNode()).rejects.toThrow('9999-changes-all')
  })
})
