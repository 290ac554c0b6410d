/** Servers and `keyfold init` that begin at once on one catalog: one of them makes what all need, and the others find it. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'

import { loadConfig } from '../../dist/config.js'
import { chooseCrypto } from '../../dist/crypto/choose.js'
import { initDataDirectory } from '../../dist/init.js'
import { firstNewRootKey } from '../../dist/key-stores/root-key.js'
import { describeWithPostgres } from '../catalog/postgres.ts'
import { jsonOf, keyfold, serve, type Server } from '../cli/command.ts'
import { callersWith } from './callers.ts'

const log = { log: (): void => undefined }

describeWithPostgres('on an empty catalog', (postgres) => {
  let parent: string
  beforeAll(() => {
    parent = mkdtempSync(join(tmpdir(), 'keyfold-starting-'))
  })
  afterAll(() => rmSync(parent, { recursive: true, force: true }))

  const startAll = (catalog: string, names: readonly string[], rootKeyFile: string) =>
    Promise.all(
      names.map((name) =>
        serve(['--data', join(parent, name), '--root-key-file', rootKeyFile, '--workers', '0'], {
          env: { KEYFOLD_CATALOG: catalog },
        }),
      ),
    )
  const stopAll = (nodes: readonly Server[]): Promise<unknown> =>
    Promise.all(nodes.map((node) => node.stop()))

  test('of several inits one makes root key and token; the others are told so and have made nothing', async () => {
    const catalog = await postgres.createDatabase()
    const directories = Array.from({ length: 5 }, (_, i) => join(parent, `init-${i}`))
    const ended = await Promise.all(
      directories.map((data) => keyfold(['init', '--data', data, '--catalog', catalog, '--json'])),
    )
    const winner = ended.findIndex(({ code }) => code === 0)
    const { token } = jsonOf<{ token: string }>(ended[winner] as (typeof ended)[number])
    ended.forEach(({ code, text, stderr }, i) => {
      if (i === winner) return
      expect(code).toBe(1)
      expect(text).toBe('')
      expect(stderr).toContain('the catalog was initialised before; its admin token was shown then')
      expect(readdirSync(directories[i] as string)).toEqual([])
    })
    const made = directories[winner] as string
    expect(await postgres.query(catalog, `select name from "rootFiles"`)).toEqual([
      { name: 'root.check' },
    ])
    expect(await postgres.query(catalog, 'select name from tokens')).toEqual([{ name: 'admin' }])

    // In the directory of one that lost, with the root key of the one that won.
    const others = directories.filter((_, i) => i !== winner).slice(0, 2)
    const names = others.map((directory) => directory.slice(parent.length + 1))
    const nodes = await startAll(catalog, names, join(made, 'root.key'))
    const { createKey, encrypt } = callersWith(token)
    const key = await createKey(nodes[0] as Server)
    for (const node of nodes) expect(await encrypt(node, key)).toBe('sealed')
    await stopAll(nodes)
  })

  test('an init that was killed before its transaction ended is run again, with the root key that it made', async () => {
    const data = join(parent, 'killed')
    const catalog = await postgres.createDatabase()
    const config = loadConfig({ flags: { data, catalog } })
    mkdirSync(data)
    const crypto = chooseCrypto('auto', { memoryLock: 'warn', log: () => undefined })
    ;(await firstNewRootKey(config, crypto)).keep()
    const rootKey = readFileSync(join(data, 'root.key'), 'utf8')
    await initDataDirectory(config, log)
    expect(readFileSync(join(data, 'root.key'), 'utf8')).toBe(rootKey)
    const nodes = await startAll(catalog, ['after-killed'], join(data, 'root.key'))
    await stopAll(nodes)
  })

  test('of several servers that find steps to run one runs each, and all serve', async () => {
    const data = join(parent, 'migrating')
    const catalog = await postgres.createDatabase()
    const token = await initDataDirectory(loadConfig({ flags: { data, catalog } }), log)
    const steps = (): Promise<readonly Record<string, unknown>[]> =>
      postgres.query(catalog, 'select name, compatible from migrations order by name')
    const whole = await steps()
    // As the last version left it.
    await postgres.query(
      catalog,
      `alter table nodes drop column "rootVersion";
       delete from migrations where name = '0009-root-versions-of-nodes'`,
    )
    const names = ['migrating-1', 'migrating-2', 'migrating-3', 'migrating-4']
    const nodes = await startAll(catalog, names, join(data, 'root.key'))
    expect(await steps()).toEqual(whole)
    const { createKey, encrypt } = callersWith(token)
    const key = await createKey(nodes[0] as Server)
    for (const node of nodes) expect(await encrypt(node, key)).toBe('sealed')
    await stopAll(nodes)
  })
})
