/**
 * Rotation of the root key: everything opens before, during and after it, whenever it is killed, and the old root key is
 * good for nothing once it is complete.
 */
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Kysely } from 'kysely'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'

import { openCatalog } from '../dist/catalog/catalog.js'
import { loadConfig, type Config, type SettingTexts } from '../dist/config.js'
import { openEngine, type Engine } from '../dist/engine.js'
import { initDataDirectory } from '../dist/init.js'
import { createRootKeyShares, rootKeyStatus, rotateRootKey } from '../dist/root-key.js'
import { ask } from './aws.ts'
import { filesOf } from './service.ts'

/** More than one page of a rotation (limits.ts). */
const ACCESS_KEYS = 300
const log = { log: (): void => undefined }
/** With a table that is in no schema. */
type LaterTables = Kysely<{ later: { secret: Uint8Array } }>

interface Made {
  readonly directory: string
  readonly config: Config
  /** Of symmetric keys: rotated, disabled, imported; by key id. */
  readonly ciphertexts: readonly (readonly [keyId: string, blob: string])[]
  readonly signingKey: string
  readonly accessKeys: readonly (readonly [id: string, secret: string])[]
}

let parent: string
let made: Made

beforeAll(async () => {
  parent = mkdtempSync(join(tmpdir(), 'keyfold-root-rotation-'))
  made = await make('made', {}, ACCESS_KEYS)
})
afterAll(() => rmSync(parent, { recursive: true, force: true }))

const configOf = (directory: string, flags: SettingTexts = {}): Config =>
  loadConfig({ flags: { data: directory, ...flags } })

/** A data directory with something sealed of every kind. */
async function make(name: string, flags: SettingTexts, accessKeys: number): Promise<Made> {
  const directory = join(parent, name)
  const config = configOf(directory, flags)
  await initDataDirectory(config, log)
  const engine = await openEngine(config, log)
  const ciphertexts: [string, string][] = []
  const encrypt = async (KeyId: string): Promise<void> => {
    const Plaintext = Buffer.from(KeyId).toString('base64')
    const { CiphertextBlob } = await ask(engine, 'Encrypt', { KeyId, Plaintext })
    ciphertexts.push([KeyId, Buffer.from(CiphertextBlob as Uint8Array).toString('base64')])
  }
  const rotated = await keyOf(engine, {})
  await encrypt(rotated)
  await ask(engine, 'RotateKeyOnDemand', { KeyId: rotated })
  await encrypt(rotated)
  await encrypt(await keyOf(engine, { MultiRegion: true }))
  const signingKey = await keyOf(engine, { KeySpec: 'ECC_NIST_P256', KeyUsage: 'SIGN_VERIFY' })
  await keyOf(engine, { KeySpec: 'HMAC_256', KeyUsage: 'GENERATE_VERIFY_MAC' })
  const awaited = await keyOf(engine, { Origin: 'EXTERNAL' })
  await ask(engine, 'GetParametersForImport', {
    KeyId: awaited,
    WrappingAlgorithm: 'RSAES_OAEP_SHA_256',
    WrappingKeySpec: 'RSA_2048',
  })
  const secrets: [string, string][] = []
  for (let i = 0; i < accessKeys; i++) {
    const principalArn = `arn:aws:iam::000000000000:user/${i}`
    const { record, secretAccessKey } = await engine.accessKeys.create({ principalArn })
    secrets.push([record.accessKeyId, secretAccessKey])
  }
  await engine.close()
  return { directory, config, ciphertexts, signingKey, accessKeys: secrets }
}

async function keyOf(engine: Engine, input: Readonly<Record<string, unknown>>): Promise<string> {
  const { KeyMetadata } = await ask(engine, 'CreateKey', input)
  return (KeyMetadata as { readonly KeyId: string }).KeyId
}

/** Whether everything that was sealed is there and opens. */
async function expectWhole(config: Config, of: Made): Promise<void> {
  const engine = await openEngine(config, log)
  try {
    for (const [keyId, CiphertextBlob] of of.ciphertexts) {
      const { Plaintext } = await ask(engine, 'Decrypt', { CiphertextBlob })
      expect(Buffer.from(Plaintext as Uint8Array).toString()).toBe(keyId)
    }
    const signed = await ask(engine, 'Sign', {
      KeyId: of.signingKey,
      Message: 'AAAA',
      SigningAlgorithm: 'ECDSA_SHA_256',
    })
    expect(signed.refused).toBeUndefined()
    for (const [id, secret] of of.accessKeys) {
      const opened = engine.accessKeys.find(id)?.openSecret()
      expect(Buffer.from(opened ?? []).toString()).toBe(secret)
    }
  } finally {
    await engine.close()
  }
}

/** The root versions that what is sealed in the catalog was sealed under. */
async function versionsOf(config: Config): Promise<readonly number[]> {
  const catalog = await openCatalog(config)
  const { db } = catalog
  const sealed = [
    ...(await db.selectFrom('keyMaterials').select('stored as it').execute()),
    ...(await db.selectFrom('accessKeys').select('sealedSecret as it').execute()),
    ...(await db.selectFrom('importParameters').select('sealedPrivateKey as it').execute()),
  ]
  await catalog.close()
  const versions = sealed.map(({ it }) => Buffer.from(it as Uint8Array).readUInt32BE(2))
  return [...new Set(versions)].sort()
}

function copyOf(of: Made, name: string): Config {
  const directory = join(parent, name)
  rmSync(directory, { recursive: true, force: true })
  cpSync(of.directory, directory, { recursive: true })
  return configOf(directory)
}

const rootKeyIn = (config: Config): string =>
  readFileSync(join(config.dataDirectory, 'root.key'), 'latin1').trim()

async function expectComplete(config: Config, oldRootKey: string): Promise<void> {
  expect(await versionsOf(config)).toEqual([2])
  expect(await rootKeyStatus(config, log)).toEqual({ version: 2, previousVersion: undefined })
  await expectWhole(config, made)
  // Nothing of the old root key is left, nor of the files that a rotation works with.
  for (const bytes of filesOf(config.dataDirectory)) {
    expect(bytes.includes(oldRootKey)).toBe(false)
    expect(bytes.includes(Buffer.from(oldRootKey, 'hex'))).toBe(false)
  }
  for (const name of ['root.previous', 'root.previous.gone', 'root.key.next', 'root.key.gone']) {
    expect(existsSync(join(config.dataDirectory, name)), name).toBe(false)
  }
}

describe('a rotation of the root key', () => {
  test('seals everything anew, and the old root key opens nothing any more', async () => {
    const config = copyOf(made, 'plain')
    const old = rootKeyIn(config)
    expect(await versionsOf(config)).toEqual([1])
    expect(await rotateRootKey(config, log)).toBe(2)
    expect(rootKeyIn(config)).not.toBe(old)
    await expectComplete(config, old)
    writeFileSync(join(config.dataDirectory, 'root.key'), `${old}\n`)
    await expect(openEngine(config, log)).rejects.toMatchObject({ code: 'ROOT_KEY_INVALID' })
  })

  test('is made again and again', async () => {
    const config = copyOf(made, 'again')
    for (const version of [2, 3, 4]) expect(await rotateRootKey(config, log)).toBe(version)
    expect(await versionsOf(config)).toEqual([4])
    await expectWhole(config, made)
  })

  test('leaves everything alone while a server has the data directory open', async () => {
    const config = copyOf(made, 'open')
    const engine = await openEngine(config, log)
    const before = rootKeyIn(config)
    await expect(rotateRootKey(config, log)).rejects.toMatchObject({ code: 'CATALOG_UNAVAILABLE' })
    expect(rootKeyIn(config)).toBe(before)
    expect(existsSync(`${join(config.dataDirectory, 'root.key')}.next`)).toBe(false)
    await engine.close()
  })

  test('leaves the root key of a node alone, whose catalog is elsewhere', async () => {
    const config = copyOf(made, 'node')
    rmSync(join(config.dataDirectory, 'catalog.sqlite'))
    const before = filesOf(config.dataDirectory)
    await expect(rotateRootKey(config, log)).rejects.toMatchObject({ code: 'CONFIG_INVALID' })
    expect(filesOf(config.dataDirectory)).toEqual(before)
  })

  test('keeps both root keys where a row does not open, and says which', async () => {
    const config = copyOf(made, 'damaged')
    const catalog = await openCatalog(config)
    const { stored } = await catalog.db
      .selectFrom('keyMaterials')
      .select('stored')
      .where('kmsKeyId', '=', made.signingKey)
      .executeTakeFirstOrThrow()
    const changed = Buffer.from(stored as Uint8Array)
    changed[40] = (changed[40] as number) ^ 1
    const put = async (to: (typeof catalog)['db'], bytes: Uint8Array): Promise<void> => {
      await to
        .updateTable('keyMaterials')
        .set({ stored: bytes })
        .where('kmsKeyId', '=', made.signingKey)
        .execute()
    }
    await put(catalog.db, changed)
    await catalog.close()
    await expect(rotateRootKey(config, log)).rejects.toThrow(`${made.signingKey} version 1`)
    const state = await rootKeyStatus(config, log)
    expect(state).toEqual({ version: 2, previousVersion: 1 })
    // With the row as it was it goes on.
    const repaired = await openCatalog(config)
    await put(repaired.db, stored as Uint8Array)
    await repaired.close()
    expect(await rotateRootKey(config, log)).toBe(2)
    expect(await versionsOf(config)).toEqual([2])
    await expectWhole(config, made)
  })

  test('keeps both root keys while a table that it does not know holds something sealed', async () => {
    const config = copyOf(made, 'unknown')
    const catalog = await openCatalog(config)
    await catalog.db.schema.createTable('later').addColumn('secret', 'blob').execute()
    const sealed = Buffer.concat([Buffer.from('f10100000001', 'hex'), randomBytes(60)])
    await (catalog.db as unknown as LaterTables)
      .insertInto('later')
      .values({ secret: sealed })
      .execute()
    await catalog.close()
    await expect(rotateRootKey(config, log)).rejects.toThrow('later.secret')
    expect(await rootKeyStatus(config, log)).toEqual({ version: 2, previousVersion: 1 })
  })

  describe('that is killed', () => {
    const killed = (config: Config, kind: 'file' | 'sql', n: number) =>
      spawnSync(
        process.execPath,
        [join(import.meta.dirname, 'rotate-root-and-die.mjs'), config.dataDirectory, kind, `${n}`],
        { encoding: 'utf8', env: { ...process.env } },
      )

    test.each(['file', 'sql'] as const)(
      'at any of its steps (%s) leaves what a server opens, and is completed by the next',
      async (kind) => {
        const whole = killed(copyOf(made, `${kind}-0`), kind, 0)
        expect(whole.stderr).toBe('')
        const steps = Number(whole.stdout)
        expect(steps).toBeGreaterThan(15)
        // There is a statement for every row: some of them, and the first and last ones.
        const stride = kind === 'file' ? 1 : Math.ceil(steps / 12)
        const seen = new Set<string>()
        for (let n = 1; n <= steps; n += stride) {
          const config = copyOf(made, `${kind}-${n}`)
          const old = rootKeyIn(config)
          expect(killed(config, kind, n).signal, `${kind} ${n}`).toBe('SIGKILL')
          await expectWhole(config, made)
          const { version, previousVersion } = await rootKeyStatus(config, log)
          seen.add(`${version} ${previousVersion}`)
          // Whether it was completed or had not turned yet is the only question.
          if (previousVersion !== undefined || version === 1) await rotateRootKey(config, log)
          await expectComplete(config, old)
          rmSync(config.dataDirectory, { recursive: true, force: true })
        }
        if (kind === 'file') expect(seen).toEqual(new Set(['1 undefined', '2 1', '2 undefined']))
      },
      580_000,
    )
  })
})

describe('a root key that an operator keeps', () => {
  test('is rotated to the one in the environment, which is the right one from then on', async () => {
    const flags = { rootKeySource: 'environment' }
    const [old, next] = [randomBytes(32).toString('hex'), randomBytes(32).toString('hex')]
    const config = configOf(join(parent, 'environment'), flags)
    const given = (variables: Readonly<Record<string, string>>): Config => {
      for (const [name, value] of Object.entries(variables)) vi.stubEnv(name, value)
      return config
    }
    const [KEYFOLD_ROOT_KEY, invalid] = [old, { code: 'CONFIG_INVALID' }]
    await initDataDirectory(given({ KEYFOLD_ROOT_KEY }), log)
    await expect(rotateRootKey(given({ KEYFOLD_ROOT_KEY }), log)).rejects.toThrow('ROOT_KEY_NEXT')
    const same = given({ KEYFOLD_ROOT_KEY, KEYFOLD_ROOT_KEY_NEXT: old })
    await expect(rotateRootKey(same, log)).rejects.toMatchObject(invalid)
    const both = given({ KEYFOLD_ROOT_KEY, KEYFOLD_ROOT_KEY_NEXT: next })
    expect(await rotateRootKey(both, log)).toBe(2)
    const wrong = rootKeyStatus(given({ KEYFOLD_ROOT_KEY }), log)
    await expect(wrong).rejects.toMatchObject({ code: 'ROOT_KEY_INVALID' })
    const right = rootKeyStatus(given({ KEYFOLD_ROOT_KEY: next }), log)
    expect(await right).toEqual({ version: 2, previousVersion: undefined })
    vi.unstubAllEnvs()
  })

  test('is rotated from a passphrase to another, with a salt of its own', async () => {
    const config = configOf(join(parent, 'passphrase'), { rootKeySource: 'passphrase' })
    const saltOf = (): string => readFileSync(join(config.dataDirectory, 'root.salt'), 'utf8')
    vi.stubEnv('KEYFOLD_PASSPHRASE', 'old horse')
    await initDataDirectory(config, log)
    const salt = saltOf()
    vi.stubEnv('KEYFOLD_PASSPHRASE', 'old horse')
    vi.stubEnv('KEYFOLD_PASSPHRASE_NEXT', 'new horse')
    expect(await rotateRootKey(config, log)).toBe(2)
    expect(saltOf()).not.toBe(salt)
    vi.stubEnv('KEYFOLD_PASSPHRASE', 'old horse')
    await expect(openEngine(config, log)).rejects.toMatchObject({ code: 'ROOT_KEY_INVALID' })
    vi.stubEnv('KEYFOLD_PASSPHRASE', 'new horse')
    await (await openEngine(config, log)).close()
    vi.unstubAllEnvs()
  })

  test('is rotated from shares to others, which are no use before and the only ones after', async () => {
    const config = configOf(join(parent, 'shares'), { rootKeySource: 'shares' })
    const options = { threshold: 2, shares: 3, ofNewRootKey: true, ...log }
    const first = await createRootKeyShares(config, options)
    const give = (shares: readonly string[], name = 'KEYFOLD_ROOT_KEY_SHARES'): void => {
      vi.stubEnv(name, shares.join('\n'))
    }
    give(first.slice(0, 2))
    await initDataDirectory(config, log)
    const second = await createRootKeyShares(config, options)
    give(second)
    await expect(openEngine(config, log)).rejects.toThrow('version 2')
    give(first.slice(1))
    give(second.slice(1), 'KEYFOLD_ROOT_KEY_SHARES_NEXT')
    expect(await rotateRootKey(config, log)).toBe(2)
    give(first)
    await expect(openEngine(config, log)).rejects.toThrow('version 1')
    give([second[2] as string, second[0] as string])
    await (await openEngine(config, log)).close()
    vi.unstubAllEnvs()
  })
})
