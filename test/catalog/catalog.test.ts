/** The catalog: migrations, identity, one owner, changes that happen whole or not at all. */
import { mkdtempSync, rmSync, statSync, truncateSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sql } from 'kysely'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

import { openCatalog, type Catalog } from '../../dist/catalog/catalog.js'
import { readKey } from '../../dist/catalog/keys.js'
import { LocalKeyStore } from '../../dist/key-stores/local.js'
import { SecretSealer } from '../../dist/key-stores/secret-sealer.js'
import { createNodeCrypto } from '../../dist/crypto/node-crypto.js'
import { KeyStores } from '../../dist/kms/key-stores.js'
import { Kms } from '../../dist/kms/kms.js'
import { AccessKeys } from '../../dist/kms/access-keys.js'
import { Tokens } from '../../dist/kms/tokens.js'
import { loadConfig } from '../../dist/config.js'
import { describeCatalogs } from './places.ts'
import { describeWithPostgres } from './postgres.ts'

const countOf = async (catalog: Catalog, table: 'kmsKeys' | 'keyMaterials'): Promise<number> =>
  (await catalog.db.selectFrom(table).select('createdAtMs').execute()).length
const changeNumber = async (catalog: Catalog): Promise<number> =>
  (await catalog.db.selectFrom('changes').select('number').executeTakeFirstOrThrow()).number

const ID = '00000000-0000-4000-8000-000000000001'
const keyRow = (id = ID) => ({
  id,
  description: '',
  state: 'Enabled' as const,
  keySpec: 'SYMMETRIC_DEFAULT',
  keyUsage: 'ENCRYPT_DECRYPT',
  origin: 'AWS_KMS',
  manager: 'CUSTOMER' as const,
  policy: '',
  keyStore: 'local',
  currentVersion: 1,
  createdAtMs: 1,
  changeNumber: 1,
})

describeWithPostgres('nodes that start together', (postgres) => {
  test('run each step once, and find the same catalog', async () => {
    const url = await postgres.createDatabase()
    const options = {
      dataDirectory: '/nowhere',
      catalog: loadConfig({ flags: { catalog: url } }).catalog,
      region: 'eu-west-1',
      account: '111122223333',
    }
    const catalogs = await Promise.all(Array.from({ length: 6 }, () => openCatalog(options)))
    const names = await postgres.query(url, 'select name from migrations order by name')
    expect(names.length).toBeGreaterThanOrEqual(5)
    expect(new Set(names.map(({ name }) => name)).size).toBe(names.length)
    const [row] = await postgres.query(url, 'select count(*)::int as rows from catalog')
    expect(row).toEqual({ rows: 1 })
    for (const catalog of catalogs) await catalog.close()
  })

  test('of another region than the first are refused, all but one', async () => {
    const url = await postgres.createDatabase()
    const { catalog } = loadConfig({ flags: { catalog: url } })
    const outcomes = await Promise.allSettled(
      ['eu-west-1', 'eu-west-2', 'eu-west-3'].map((region) =>
        openCatalog({ dataDirectory: '/nowhere', catalog, region, account: '111122223333' }),
      ),
    )
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    for (const outcome of outcomes) {
      if (outcome.status === 'fulfilled') await outcome.value.close()
      else expect(outcome.reason).toMatchObject({ code: 'CONFIG_INVALID' })
    }
  })
})

describe('the file', () => {
  let dataDirectory: string
  beforeEach(() => {
    dataDirectory = mkdtempSync(join(tmpdir(), 'keyfold-catalog-'))
  })
  afterEach(() => rmSync(dataDirectory, { recursive: true, force: true }))
  const open = (): Promise<Catalog> =>
    openCatalog({ dataDirectory, region: 'eu-west-1', account: '111122223333' })

  test('belongs to one opener: the second is told so, and the first goes on', async () => {
    const catalog = await open()
    await expect(open()).rejects.toMatchObject({
      code: 'CATALOG_UNAVAILABLE',
      message: expect.stringContaining('another keyfold process') as string,
    })
    expect(await changeNumber(catalog)).toBe(0)
    await catalog.close()
    await (await open()).close()
  })

  test('is written to disk before a change is acknowledged, and freed pages are overwritten', async () => {
    const catalog = await open()
    const pragma = async (name: string): Promise<unknown> =>
      Object.values((await sql.raw(`PRAGMA ${name}`).execute(catalog.db)).rows[0] as object)[0]
    expect(await pragma('journal_mode')).toBe('wal')
    // 2 is FULL: the log is synced at every commit.
    expect(await pragma('synchronous')).toBe(2)
    expect(await pragma('foreign_keys')).toBe(1)
    expect(await pragma('secure_delete')).toBe(1)
    expect(await pragma('locking_mode')).toBe('exclusive')
    await catalog.close()
  })

  test('that is cut in the middle is refused or whole, never misread', async () => {
    await (await open()).close()
    const file = join(dataDirectory, 'catalog.sqlite')
    truncateSync(file, Math.floor(statSync(file).size / 2))
    await expect(open()).rejects.toThrow()
  })
})

describeCatalogs('migrations', (place) => {
  test('run a second time change nothing, with data in the tables', async () => {
    const catalog = await place.open()
    const crypto = createNodeCrypto()
    const root = crypto.importKey(new Uint8Array(32).fill(7))
    const roots = { current: { version: 1, key: root } }
    const sealer = new SecretSealer(crypto, roots)
    const keyStores = await KeyStores.load({
      catalog,
      sealer,
      local: new LocalKeyStore(crypto, roots),
      openKeyStore: () => Promise.reject(new Error('there is none')),
      guarded: (store) => store,
      modules: new Set(),
      nowMs: Date.now,
      log: () => undefined,
    })
    const kms = new Kms(catalog, keyStores, sealer)
    await kms.createKey({ alias: 'alias/a', tags: new Map([['k', 'v']]), description: 'd' })
    await new Tokens(catalog).create({ name: 'n', actions: ['*'], keys: ['*'] })
    await new AccessKeys(catalog, sealer).create({
      principalArn: 'arn:aws:iam::000000000000:root',
    })
    await catalog.close()
    const before = await place.dump()
    expect(JSON.stringify(before)).toContain('alias/a')
    for (let times = 0; times < 2; times++) await (await place.open()).close()
    expect(await place.dump()).toEqual(before)
  })

  test('of a newer keyfold are refused by name and nothing is touched', async () => {
    await (await place.open()).close()
    await place.run(`insert into migrations (name, "ranAtMs") values ('9999-what-is-to-come', 1)`)
    const before = await place.dump()
    await expect(place.open()).rejects.toThrow('9999-what-is-to-come')
    expect(await place.dump()).toEqual(before)
  })

  test('that were cut off leave no half table: the next start finishes', async () => {
    await (await place.open()).close()
    const whole = await place.schema()
    // As it is when the process ended before the transaction of the first step: only the list of steps is there.
    const tables = [
      'rootFiles',
      'destroyed',
      'removals',
      'nodes',
      'materialsToDestroy',
      'keyStores',
      'wrapReservations',
      'keyUses',
      'importParameters',
      'identityPolicies',
      'accessKeys',
      'grants',
      'tokens',
      'tags',
      'aliases',
      'keyMaterials',
      'kmsKeys',
      'changes',
      'catalog',
    ]
    const drops = tables.map((table) => `drop table "${table}"`)
    const list = ['delete from migrations', 'alter table migrations drop column compatible']
    await place.run(...drops, ...list)
    expect(await place.schema()).not.toEqual(whole)
    await (await place.open()).close()
    expect(await place.schema()).toEqual(whole)
  })
})

describeCatalogs('region and account', (place) => {
  test('are those of the first opening, for good', async () => {
    await (await place.open()).close()
    for (const [region, account] of [
      ['eu-west-2', '111122223333'],
      ['eu-west-1', '111122223334'],
    ] as const) {
      await expect(place.open(region, account)).rejects.toMatchObject({
        code: 'CONFIG_INVALID',
        message: expect.stringContaining('eu-west-1 and account 111122223333') as string,
      })
    }
    const catalog = await place.open()
    expect([catalog.region, catalog.account]).toEqual(['eu-west-1', '111122223333'])
    await catalog.close()
  })
})

describeCatalogs('a change', (place) => {
  let catalog: Catalog
  beforeEach(async () => {
    catalog = await place.open()
    return () => catalog.close()
  })

  test('adds one to the change number, and hands that number in', async () => {
    const seen: number[] = []
    for (let i = 0; i < 3; i++) await catalog.change(async (_, number) => void seen.push(number))
    expect(seen).toEqual([1, 2, 3])
    expect(await changeNumber(catalog)).toBe(3)
  })

  test('that fails leaves no row and no number, and the next one is not held up', async () => {
    await expect(
      catalog.change(async (transaction) => {
        await transaction.insertInto('kmsKeys').values(keyRow()).execute()
        expect((await readKey(transaction, ID))?.id).toBe(ID)
        throw new Error('half-way')
      }),
    ).rejects.toThrow('half-way')
    expect(await countOf(catalog, 'kmsKeys')).toBe(0)
    expect(await changeNumber(catalog)).toBe(0)
    await catalog.change(async () => undefined)
    expect(await changeNumber(catalog)).toBe(1)
  })

  test('takes its turn: hundreds at once see no other half-way, and each has its own number', async () => {
    const numbers = await Promise.all(
      Array.from({ length: 200 }, (_, i) =>
        catalog
          .change(async (transaction, number) => {
            const id = `00000000-0000-4000-8000-${String(i).padStart(12, '0')}`
            await transaction.insertInto('kmsKeys').values(keyRow(id)).execute()
            await transaction
              .insertInto('keyMaterials')
              .values({
                kmsKeyId: id,
                version: 1,
                stored: new Uint8Array([1]),
                createdAtMs: 1,
                destroyedAtMs: null,
              })
              .execute()
            const keys = await transaction.selectFrom('kmsKeys').select('id').execute()
            const materials = await transaction
              .selectFrom('keyMaterials')
              .select('version')
              .execute()
            expect(materials).toHaveLength(keys.length)
            if (i % 10 === 3) throw new Error('this one is taken back')
            return number
          })
          .catch(() => undefined),
      ),
    )
    const committed = numbers.filter((number) => number !== undefined)
    expect(committed).toHaveLength(180)
    expect(new Set(committed).size).toBe(180)
    expect(await changeNumber(catalog)).toBe(180)
    expect(await countOf(catalog, 'kmsKeys')).toBe(180)
    expect(await countOf(catalog, 'keyMaterials')).toBe(180)
  })

  test('of a catalog that was closed is refused, not left waiting', async () => {
    await catalog.close()
    await expect(catalog.change(async () => undefined)).rejects.toThrow()
  })
})

describeCatalogs('the tables', (place) => {
  let catalog: Catalog
  beforeEach(async () => {
    catalog = await place.open()
    await catalog.db.insertInto('kmsKeys').values(keyRow()).execute()
    return () => catalog.close()
  })
  const material = { kmsKeyId: ID, version: 1, createdAtMs: 1 }
  const stored = new Uint8Array([1, 2, 3])

  test('take no material, alias or tag of a key that is not there', async () => {
    const absent = '00000000-0000-4000-8000-00000000dead'
    const row = { ...material, kmsKeyId: absent, stored, destroyedAtMs: null }
    await expect(catalog.db.insertInto('keyMaterials').values(row).execute()).rejects.toThrow(
      /FOREIGN KEY/i,
    )
    const alias = { name: 'alias/a', kmsKeyId: absent, createdAtMs: 1, updatedAtMs: 1 }
    await expect(
      catalog.db
        .insertInto('aliases')
        .values({ ...alias, changeNumber: 1 })
        .execute(),
    ).rejects.toThrow(/FOREIGN KEY/i)
  })

  test('take one material for each version, which is there or a tombstone', async () => {
    const insert = (row: {
      readonly stored: Uint8Array | null
      readonly destroyedAtMs: number | null
    }): Promise<unknown> =>
      catalog.db
        .insertInto('keyMaterials')
        .values({ ...material, ...row })
        .execute()
    await expect(insert({ stored: null, destroyedAtMs: null })).rejects.toThrow(/CHECK/i)
    await expect(insert({ stored, destroyedAtMs: 1 })).rejects.toThrow(/CHECK/i)
    await insert({ stored, destroyedAtMs: null })
    await expect(insert({ stored, destroyedAtMs: null })).rejects.toThrow(/UNIQUE/i)
    expect((await readKey(catalog.db, ID))?.materials).toHaveLength(1)
  })

  test('hide a tombstone from whoever reads the key', async () => {
    const rows = [
      { ...material, version: 1, stored: null, destroyedAtMs: 5 },
      { ...material, version: 2, stored, destroyedAtMs: null },
    ]
    await catalog.db.insertInto('keyMaterials').values(rows).execute()
    const versions = (await readKey(catalog.db, ID))?.materials.map(({ version }) => version)
    expect(versions).toEqual([2])
  })
})
