/**
 * Transactions of a shared catalog that lost against another one, as the server says itself: what was handed in to them
 * can be taken once, and they succeed when they are tried again; where somebody else came first nothing of them is left.
 */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'

import { openCatalog } from '../../dist/catalog/catalog.js'
import { loadConfig, type SettingTexts } from '../../dist/config.js'
import { initDataDirectory } from '../../dist/init.js'
import { createRootKeyShares, prepareRootRotation, rootKeyStatus } from '../../dist/root-key.js'
import { describeWithPostgres } from '../catalog/postgres.ts'

const log = { log: (): void => undefined }
const hex = (): string => randomBytes(32).toString('hex')
const ONE_TOKEN = `insert into tokens
  (id, name, "secretHash", "principalArn", actions, keys, "createdAtMs", "changeNumber")
  values ('one', 'one', '', 'one', '[]', '[]', 1, 1)`

describeWithPostgres('a transaction that loses', (postgres) => {
  let parent: string
  beforeEach(() => {
    parent = mkdtempSync(join(tmpdir(), 'keyfold-conflict-'))
  })
  afterEach(() => {
    vi.unstubAllEnvs()
    rmSync(parent, { recursive: true, force: true })
  })

  async function configOn(rootKeySource: string) {
    const catalog = await postgres.createDatabase()
    // Only who works is looked after, and not before both wait.
    const name = new URL(catalog).pathname.slice(1)
    await postgres.query(catalog, `alter database ${name} set deadlock_timeout = '3s'`)
    const flags: SettingTexts = { data: join(parent, 'data'), catalog, rootKeySource }
    const config = loadConfig({ flags })
    await (await openCatalog(config)).close()
    return { catalog, config }
  }

  /**
   * Somebody holds what `work` needs, and wants what it holds: the server ends the transaction of `work`, and the other
   * one commits.
   */
  async function losing<T>(catalog: string, work: () => Promise<T>, others = ''): Promise<T> {
    const other = await postgres.session(catalog)
    try {
      await other.query(`begin; set local deadlock_timeout = '1min';
        lock table "rootFiles" in share row exclusive mode`)
      const working = work()
      // Where it fails it is told below.
      working.catch(() => undefined)
      const waiting = `select 1 from pg_locks where not granted and relation = '"rootFiles"'::regclass`
      while ((await postgres.query(catalog, waiting)).length === 0) await turn()
      await other.query(`update changes set number = number; ${others}`)
      await other.query('commit')
      const [row] = await postgres.query(
        catalog,
        'select deadlocks from pg_stat_database where datname = current_database()',
      )
      expect(Number(row?.['deadlocks'])).toBe(1)
      return await working
    } finally {
      await other.end()
    }
  }

  test.each([
    ['environment', 'KEYFOLD_ROOT_KEY', hex(), hex()],
    ['passphrase', 'KEYFOLD_PASSPHRASE', 'old horse', 'new horse'],
    ['file', 'KEYFOLD_ROOT_KEY', undefined, undefined],
  ])('takes a root key from where it is handed in, and is tried again: %s', async (...row) => {
    const [source, variable, present, next] = row
    const { catalog, config } = await configOn(source)
    const given = (): void => {
      vi.stubEnv(variable, present)
      vi.stubEnv(`${variable}_NEXT`, next)
    }
    given()
    expect(await losing(catalog, () => initDataDirectory(config, log))).toMatch(/^kf_/)
    given()
    expect(await rootKeyStatus(config, log)).toMatchObject({ version: 1 })
  })

  test.each([
    ['environment', 'KEYFOLD_ROOT_KEY', hex(), hex()],
    ['passphrase', 'KEYFOLD_PASSPHRASE', 'old horse', 'new horse'],
    ['shares', 'KEYFOLD_ROOT_KEY_SHARES', undefined, undefined],
    ['file', 'KEYFOLD_ROOT_KEY', undefined, undefined],
  ])('announces the next root key when it is tried again: %s', async (...row) => {
    const [source, variable, ...keys] = row
    const { catalog, config } = await configOn(source)
    const shares = async (): Promise<string | undefined> => {
      if (source !== 'shares') return undefined
      const options = { threshold: 2, shares: 2, ofNewRootKey: true, ...log }
      return (await createRootKeyShares(config, options)).join('\n')
    }
    const present = keys[0] ?? (await shares())
    vi.stubEnv(variable, present)
    await initDataDirectory(config, log)
    const next = keys[1] ?? (await shares())
    const given = (): void => {
      vi.stubEnv(variable, present)
      vi.stubEnv(`${variable}_NEXT`, next)
    }
    given()
    expect(await losing(catalog, () => prepareRootRotation(config, log))).toBe(2)
    // It is the one that was announced.
    given()
    expect(await prepareRootRotation(config, log)).toBe(2)
  })

  test.each(['environment', 'file'])(
    'against another init leaves nothing of its root key: %s',
    async (source) => {
      const { catalog, config } = await configOn(source)
      vi.stubEnv('KEYFOLD_ROOT_KEY', source === 'environment' ? hex() : undefined)
      const losses = losing(catalog, () => initDataDirectory(config, log), ONE_TOKEN)
      await expect(losses).rejects.toThrow('the catalog was initialised before')
      expect(readdirSync(config.dataDirectory)).toEqual([])
    },
  )
})
