/** `keyfold init`: what it leaves on disk, who may read it, and that it never runs over what is there. */
import { createHash } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import { openCatalog } from '../dist/catalog/catalog.js'
import { loadConfig, type Config, type SettingTexts } from '../dist/config.js'
import { openEngine } from '../dist/engine.js'
import { initDataDirectory } from '../dist/init.js'

let parent: string
let directory: string

beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), 'keyfold-init-'))
  directory = join(parent, 'made/by/init')
})
afterEach(() => {
  vi.unstubAllEnvs()
  rmSync(parent, { recursive: true, force: true })
})

const log = { log: (): void => undefined }
const configOf = (flags: SettingTexts = {}): Config =>
  loadConfig({ flags: { data: directory, ...flags } })
const modeOf = (name: string): string => (statSync(name).mode & 0o777).toString(8)

/** Every file under the directory with its hash and mode: what "nothing changed" means. */
function snapshot(): Record<string, string> {
  return Object.fromEntries(
    readdirSync(parent, { recursive: true, encoding: 'utf8' })
      .map((name) => join(parent, name))
      .filter((name) => statSync(name).isFile())
      .map((name) => [
        name,
        `${modeOf(name)} ${createHash('sha256').update(readFileSync(name)).digest('hex')}`,
      ]),
  )
}

describe('a directory that init made', () => {
  test('is its owner’s alone, whatever the umask, and so is every file in it while a server runs', async () => {
    // What keyfold is most often started with, and what lets everyone in.
    const umask = process.umask(0)
    try {
      await initDataDirectory(configOf(), log)
      expect(modeOf(directory)).toBe('700')
      const engine = await openEngine(configOf(), log)
      try {
        await engine.kms.createKey({})
        const names = readdirSync(directory, { recursive: true, encoding: 'utf8' })
        expect(names).toEqual(
          expect.arrayContaining([
            expect.stringMatching(/^audit.*jsonl$/),
            'catalog.sqlite',
            'catalog.sqlite-wal',
            'root.check',
            'root.key',
          ]),
        )
        expect(names.map((name) => `${name} ${modeOf(join(directory, name))}`)).toEqual(
          names.map((name) => (name === 'audit' ? 'audit 700' : `${name} 600`)),
        )
      } finally {
        await engine.close()
      }
    } finally {
      process.umask(umask)
    }
  })

  test('gets its salt of the passphrase with the same mode', async () => {
    const umask = process.umask(0)
    try {
      vi.stubEnv('KEYFOLD_PASSPHRASE', 'correct horse')
      await initDataDirectory(configOf({ rootKeySource: 'passphrase' }), log)
      expect(modeOf(join(directory, 'root.salt'))).toBe('600')
      expect(existsSync(join(directory, 'root.key'))).toBe(false)
    } finally {
      process.umask(umask)
    }
  })

  test('has a catalog that an older keyfold left open to others closed to them', async () => {
    await initDataDirectory(configOf(), log)
    chmodSync(join(directory, 'catalog.sqlite'), 0o644)
    await (await openEngine(configOf(), log)).close()
    expect(modeOf(join(directory, 'catalog.sqlite'))).toBe('600')
  })

  test('opens with the token that was shown, and holds the token nowhere', async () => {
    const token = await initDataDirectory(configOf(), log)
    const secret = token.slice(token.indexOf('_', 3) + 1)
    const hash = createHash('sha256').update(secret).digest()
    const kept = readdirSync(directory).map((name) => readFileSync(join(directory, name)))
    for (const text of [token, secret]) {
      expect(kept.some((bytes) => bytes.includes(text))).toBe(false)
      expect(kept.some((bytes) => bytes.includes(Buffer.from(text, 'base64url')))).toBe(false)
    }
    // The search finds what is there.
    expect(kept.some((bytes) => bytes.includes(hash))).toBe(true)
    const engine = await openEngine(configOf(), log)
    expect(engine.tokens.authenticate(token)?.actions).toEqual(['*'])
    await engine.close()
  })
})

describe('init run again', () => {
  test('is refused and changes nothing', async () => {
    await initDataDirectory(configOf(), log)
    const before = snapshot()
    await expect(initDataDirectory(configOf(), log)).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining('initialised before') as string,
    })
    expect(snapshot()).toEqual(before)
  })

  test('makes no root key where the old one is lost: the data would seem to have one', async () => {
    await initDataDirectory(configOf(), log)
    rmSync(join(directory, 'root.key'))
    const before = snapshot()
    await expect(initDataDirectory(configOf(), log)).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
    })
    expect(snapshot()).toEqual(before)
  })

  test('vouches for no other root key where the check is lost', async () => {
    await initDataDirectory(configOf(), log)
    rmSync(join(directory, 'root.check'))
    const before = snapshot()
    const other = { rootKeyFile: join(parent, 'other.key') }
    await expect(initDataDirectory(configOf(other), log)).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
    })
    expect(snapshot()).toEqual(before)
  })

  test('names the region and account that stand in every ARN already', async () => {
    await initDataDirectory(configOf({ region: 'eu-west-1', account: '111122223333' }), log)
    const before = snapshot()
    for (const other of [
      { region: 'eu-west-2', account: '111122223333' },
      { region: 'eu-west-1', account: '111122223334' },
    ]) {
      await expect(initDataDirectory(configOf(other), log)).rejects.toMatchObject({
        code: 'CONFIG_INVALID',
        message: expect.stringMatching(/eu-west-1 and account 111122223333/) as string,
      })
    }
    expect(snapshot()).toEqual(before)
  })

  test('is refused while a server has the directory open, and the server goes on', async () => {
    await initDataDirectory(configOf(), log)
    const engine = await openEngine(configOf(), log)
    try {
      await expect(initDataDirectory(configOf(), log)).rejects.toMatchObject({
        code: 'CATALOG_UNAVAILABLE',
        message: expect.stringContaining('another keyfold process') as string,
      })
      const { keyId } = await engine.kms.createKey({})
      expect((await engine.kms.describeKey(keyId)).state).toBe('Enabled')
    } finally {
      await engine.close()
    }
  })

  test('finishes what was killed after any of its files', async () => {
    // The order in which init writes; root.check goes with the root key, a token comes last.
    await (await openCatalog(configOf({ data: parent }))).close()
    const catalogOnly = await initDataDirectory(configOf({ data: parent }), log)
    expect(catalogOnly).toMatch(/^kf_/)

    await initDataDirectory(configOf(), log)
    const rootKey = readFileSync(join(directory, 'root.key'))
    for (const name of readdirSync(directory)) {
      if (name !== 'root.key') rmSync(join(directory, name))
    }
    const withRootKey = await initDataDirectory(configOf(), log)
    expect(withRootKey).toMatch(/^kf_/)
    expect(readFileSync(join(directory, 'root.key'))).toEqual(rootKey)
  })
})

describe('a directory that init did not make', () => {
  test('is not served: no root key appears by itself', async () => {
    await expect(openEngine(configOf(), log)).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining('keyfold init') as string,
    })
    expect(existsSync(directory)).toBe(false)
  })

  test('is told from one whose catalog is no catalog', async () => {
    await initDataDirectory(configOf(), log)
    const text = 'not a database, but longer than the header of one'.repeat(4)
    writeFileSync(join(directory, 'catalog.sqlite'), text)
    await expect(openEngine(configOf(), log)).rejects.toMatchObject({
      code: 'CATALOG_UNAVAILABLE',
    })
    expect(readFileSync(join(directory, 'catalog.sqlite'), 'utf8')).toBe(text)
  })
})
