/**
 * Rotation of the root key of a shared catalog while its nodes serve: nothing is lost whoever is killed when, nothing is
 * left under the old root key, and a node that lacks the one in use does not serve.
 */
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'

import { insertAccessKey } from '../../dist/catalog/access-keys.js'
import { openCatalog } from '../../dist/catalog/catalog.js'
import { loadConfig, type Config } from '../../dist/config.js'
import { openEngine, type Engine } from '../../dist/engine.js'
import { initDataDirectory } from '../../dist/init.js'
import { prepareRootRotation, rootKeyStatus, rotateRootKey } from '../../dist/root-key.js'
import { ask, type AwsReply } from '../aws.ts'
import { describeWithPostgres } from '../catalog/postgres.ts'
import { rootVersionsIn } from './root-versions.ts'

const log = { log: (): void => undefined }

/** As `ask`; a node that got no turn for a second, as while a test waits for another process, is asked again. */
async function askHeld(...given: Parameters<typeof ask>): Promise<AwsReply> {
  for (;;) {
    const reply = await ask(...given)
    if (reply.refused !== 'DependencyTimeoutException') return reply
    await turn()
  }
}

describeWithPostgres('a rotation of the root key of a shared catalog', (postgres) => {
  let parent: string
  const opened = new Set<Engine>()
  let places = 0

  beforeAll(() => {
    parent = mkdtempSync(join(tmpdir(), 'keyfold-shared-rotation-'))
  })
  afterAll(async () => {
    for (const engine of opened) await engine.close()
    rmSync(parent, { recursive: true, force: true })
  })

  /** Of a new place, with these files of a root key in it. */
  function configOf(catalog: string, rootKeys: Readonly<Record<string, string>>): Config {
    const data = join(parent, `${++places}`)
    mkdirSync(data)
    for (const [name, digits] of Object.entries(rootKeys)) {
      writeFileSync(join(data, name), digits, { mode: 0o600 })
    }
    return loadConfig({ flags: { data, catalog } })
  }
  const fileIn = (config: Config, name: string): string =>
    readFileSync(join(config.dataDirectory, name), 'utf8')
  async function start(config: Config, logged: string[] = []): Promise<Engine> {
    const engine = await openEngine(config, { log: (message) => void logged.push(message) })
    opened.add(engine)
    return engine
  }
  async function close(engine: Engine): Promise<void> {
    opened.delete(engine)
    await engine.close()
  }

  async function newKey(engine: Engine, input: Record<string, unknown> = {}): Promise<string> {
    const { KeyMetadata } = await askHeld(engine, 'CreateKey', input)
    return (KeyMetadata as { readonly KeyId: string }).KeyId
  }
  async function seal(engine: Engine, KeyId: string): Promise<string> {
    const Plaintext = Buffer.from(KeyId).toString('base64')
    const { CiphertextBlob } = await askHeld(engine, 'Encrypt', { KeyId, Plaintext })
    return Buffer.from(CiphertextBlob as Uint8Array).toString('base64')
  }
  async function expectOpens(engine: Engine, sealed: ReadonlyMap<string, string>): Promise<void> {
    for (const [keyId, CiphertextBlob] of sealed) {
      const { Plaintext } = await askHeld(engine, 'Decrypt', { CiphertextBlob })
      expect(Buffer.from(Plaintext as Uint8Array).toString()).toBe(keyId)
    }
  }
  async function sealedBy(engine: Engine): Promise<[string, string]> {
    const keyId = await newKey(engine)
    return [keyId, await seal(engine, keyId)]
  }
  /** Something of every kind; what was sealed, by key id. */
  async function fill(engine: Engine): Promise<Map<string, string>> {
    const sealed = new Map<string, string>()
    for (let i = 0; i < 3; i++) {
      const keyId = await newKey(engine)
      sealed.set(keyId, await seal(engine, keyId))
    }
    await newKey(engine, { KeySpec: 'ECC_NIST_P256', KeyUsage: 'SIGN_VERIFY' })
    const awaited = await newKey(engine, { Origin: 'EXTERNAL' })
    await askHeld(engine, 'GetParametersForImport', {
      KeyId: awaited,
      WrappingAlgorithm: 'RSAES_OAEP_SHA_256',
      WrappingKeySpec: 'RSA_2048',
    })
    await engine.accessKeys.create({ principalArn: 'arn:aws:iam::000000000000:user/one' })
    return sealed
  }

  const versionsIn = (catalog: string): Promise<readonly number[]> =>
    rootVersionsIn(postgres, catalog)

  async function initialised(): Promise<{ readonly catalog: string; readonly admin: Config }> {
    const catalog = await postgres.createDatabase()
    const admin = configOf(catalog, {})
    await initDataDirectory(admin, log)
    return { catalog, admin }
  }
  const bothIn = (admin: Config) => ({
    'root.key': fileIn(admin, 'root.key'),
    'root.key.next': fileIn(admin, 'root.key.next'),
  })

  test('goes on while nodes that have both serve, and again; the old one opens nothing', async () => {
    const { catalog, admin } = await initialised()
    const first = fileIn(admin, 'root.key')
    const before = await start(configOf(catalog, { 'root.key': first }))
    const sealed = await fill(before)
    await expect(rotateRootKey(admin, log)).rejects.toThrow('first keyfold root-key prepare')
    expect(await prepareRootRotation(admin, log)).toBe(2)
    const { 'root.key.next': second } = bothIn(admin)
    // It is the same one until it is used.
    expect(await prepareRootRotation(admin, log)).toBe(2)
    expect(fileIn(admin, 'root.key.next')).toBe(second)
    expect(await rootKeyStatus(admin, log)).toMatchObject({ version: 1, nextVersion: 2 })
    await expect(rotateRootKey(admin, log)).rejects.toThrow('version 2 of the root key: 1;')
    expect(await versionsIn(catalog)).toEqual([1])

    const nodes = [
      await start(configOf(catalog, bothIn(admin))),
      await start(configOf(catalog, bothIn(admin))),
    ]
    await close(before)
    let stopped = false
    const callers = nodes.map(async (engine) => {
      for (let i = 0; !stopped || i < 3; i++) {
        const keyId = await newKey(engine)
        sealed.set(keyId, await seal(engine, keyId))
        await engine.accessKeys.create({ principalArn: 'arn:aws:iam::000000000000:user/two' })
      }
    })
    try {
      expect(await rotateRootKey(admin, log)).toBe(2)
    } finally {
      stopped = true
    }
    await Promise.all(callers)
    expect(await versionsIn(catalog)).toEqual([2])
    expect(fileIn(admin, 'root.key')).toBe(second)
    expect(await rootKeyStatus(admin, log)).toEqual({ version: 2 })
    for (const node of nodes) await expectOpens(node, sealed)
    await expect(start(configOf(catalog, { 'root.key': first }))).rejects.toMatchObject({
      code: 'ROOT_KEY_INVALID',
    })
    const later = await start(configOf(catalog, { 'root.key': second }))
    await expectOpens(later, sealed)
    await close(later)
    for (const node of nodes) await close(node)

    expect(await prepareRootRotation(admin, log)).toBe(3)
    expect(await rotateRootKey(admin, log)).toBe(3)
    expect(await versionsIn(catalog)).toEqual([3])
    const last = await start(configOf(catalog, { 'root.key': fileIn(admin, 'root.key') }))
    await expectOpens(last, sealed)
    await close(last)
  })

  test('waits for nodes that have another root key than the one that it moves to, and stops them', async () => {
    const { catalog, admin } = await initialised()
    await prepareRootRotation(admin, log)
    const logged: string[] = []
    const node = await start(configOf(catalog, bothIn(admin)), logged)
    const sealed = await fill(node)
    const [keyId = ''] = sealed.keys()
    // Of two that are announced no node can take one for the other.
    expect(await prepareRootRotation(admin, { ...log, again: true })).toBe(3)
    await expect(rotateRootKey(admin, log)).rejects.toThrow('version 3 of the root key: 1;')
    expect(await versionsIn(catalog)).toEqual([1])
    await expectOpens(node, sealed)
    // As of a node that was not there when they were counted.
    await postgres.query(catalog, 'update nodes set "rootVersion" = 3')
    expect(await rotateRootKey(admin, log)).toBe(3)
    const encrypting = ask(node, 'Encrypt', { KeyId: keyId, Plaintext: 'AAAA' })
    expect((await encrypting).refused).toBe('DependencyTimeoutException')
    expect(logged.join()).toContain('it was rotated, and this node was started without')
    await close(node)
    const lacks = configOf(catalog, { 'root.key': fileIn(node.config, 'root.key') })
    await expect(start(lacks)).rejects.toMatchObject({ code: 'ROOT_KEY_INVALID' })
    const restarted = await start(configOf(catalog, { 'root.key': fileIn(admin, 'root.key') }))
    await expectOpens(restarted, sealed)
    await close(restarted)
  })

  test('refuses what a process sealed before it and would keep only now', async () => {
    const { catalog, admin } = await initialised()
    const node = await start(configOf(catalog, { 'root.key': fileIn(admin, 'root.key') }))
    await fill(node)
    await close(node)
    const late = await openCatalog(admin)
    const row = await late.db.selectFrom('accessKeys').selectAll().executeTakeFirstOrThrow()
    await prepareRootRotation(admin, log)
    await rotateRootKey(admin, log)
    const keeping = late.change((transaction, changeNumber) =>
      insertAccessKey(transaction, { ...row, id: 'late' }, changeNumber),
    )
    await expect(keeping).rejects.toMatchObject({
      code: 'CATALOG_UNAVAILABLE',
      message: expect.stringContaining('the root key was rotated meanwhile') as unknown,
    })
    await late.close()
    expect(await versionsIn(catalog)).toEqual([2])
  })

  const hex = (): string => randomBytes(32).toString('hex')
  test.each([
    ['environment', 'KEYFOLD_ROOT_KEY', hex(), hex()],
    ['passphrase', 'KEYFOLD_PASSPHRASE', 'old horse', 'new horse'],
  ])('moves to what operators keep, which nodes are started with: %s', async (...row) => {
    const [rootKeySource, variable, old, next] = row
    const catalog = await postgres.createDatabase()
    const configIn = (data: string): Config =>
      loadConfig({ flags: { data: join(parent, rootKeySource, data), catalog, rootKeySource } })
    /** Taken from the environment by whoever reads it: given for each. */
    const given = (present: string, other?: string): void => {
      vi.stubEnv(variable, present)
      vi.stubEnv(`${variable}_NEXT`, other)
    }
    const admin = configIn('admin')
    given(old)
    await initDataDirectory(admin, log)
    given(old)
    await expect(prepareRootRotation(admin, log)).rejects.toThrow(`${variable}_NEXT`)
    for (const [again, version] of [
      [false, 2],
      [true, 3],
      [false, 3],
    ] as const) {
      given(old, next)
      expect(await prepareRootRotation(admin, { ...log, again })).toBe(version)
    }
    given(old, next)
    const node = await start(configIn('node'))
    const sealed = await fill(node)
    given(old, next)
    expect(await rotateRootKey(admin, log)).toBe(3)
    await expectOpens(node, sealed)
    sealed.set(...(await sealedBy(node)))
    await close(node)
    // Restarted with what it was started with, and with what is left.
    for (const [present, other] of [
      [old, next],
      [next, undefined],
    ] as const) {
      given(present, other)
      const restarted = await start(configIn('node'))
      await expectOpens(restarted, sealed)
      await close(restarted)
    }
    given(old)
    await expect(start(configIn('node'))).rejects.toMatchObject({ code: 'ROOT_KEY_INVALID' })
    vi.unstubAllEnvs()
  })

  describe('that is killed', () => {
    let template: string
    let base: Config
    let sealed: ReadonlyMap<string, string>

    beforeAll(async () => {
      ;({ catalog: template, admin: base } = await initialised())
      const node = await start(configOf(template, { 'root.key': fileIn(base, 'root.key') }))
      sealed = await fill(node)
      await close(node)
    })

    /** The machine of whoever rotates, and the catalog, as they were at first. */
    async function copy(): Promise<{ readonly catalog: string; readonly admin: Config }> {
      const catalog = await postgres.createDatabase(template)
      const admin = configOf(catalog, {})
      cpSync(base.dataDirectory, admin.dataDirectory, { recursive: true })
      return { catalog, admin }
    }
    const killed = (at: { readonly catalog: string; readonly admin: Config }, ...args: string[]) =>
      spawnSync(
        process.execPath,
        [
          join(import.meta.dirname, '../rotate-root-and-die.mjs'),
          at.admin.dataDirectory,
          ...args.slice(0, 2),
          at.catalog,
          ...args.slice(2),
        ],
        { encoding: 'utf8', env: { ...process.env } },
      )

    test.each(['file', 'pg'])('while it prepares (%s) is prepared by the next', async (kind) => {
      const whole = killed(await copy(), kind, '0', 'prepare')
      expect(whole.stderr).toBe('')
      const steps = Number(whole.stdout)
      for (let n = 1; n <= steps; n += Math.ceil(steps / 3)) {
        const at = await copy()
        expect(killed(at, kind, `${n}`, 'prepare').signal, `${kind} ${n}`).toBe('SIGKILL')
        expect(await prepareRootRotation(at.admin, log)).toBe(2)
        const node = await start(configOf(at.catalog, bothIn(at.admin)))
        expect(await rotateRootKey(at.admin, log)).toBe(2)
        await expectOpens(node, sealed)
        await close(node)
        expect(await versionsIn(at.catalog)).toEqual([2])
      }
    })

    test.each(['file', 'pg'])(
      'while it rotates (%s) is completed by the next, and a node serves all the while',
      async (kind) => {
        const prepared = async () => {
          const at = await copy()
          await prepareRootRotation(at.admin, log)
          return at
        }
        const whole = killed(await prepared(), kind, '0')
        expect(whole.stderr).toBe('')
        const steps = Number(whole.stdout)
        const seen = new Set<string>()
        const stride = Math.ceil(steps / (kind === 'pg' ? 7 : 4))
        const strides = Array.from({ length: Math.ceil(steps / stride) }, (_, i) => 1 + i * stride)
        for (const n of strides) {
          const at = await prepared()
          const both = bothIn(at.admin)
          const node = await start(configOf(at.catalog, both))
          expect(killed(at, kind, `${n}`).signal, `${kind} ${n}`).toBe('SIGKILL')
          const { version, previousVersion } = await rootKeyStatus(at.admin, log)
          seen.add(`${version} ${previousVersion}`)
          // A node that was there, and one that starts now.
          const another = await start(configOf(at.catalog, both))
          const made = new Map(sealed)
          for (const engine of [node, another]) {
            await expectOpens(engine, made)
            const keyId = await newKey(engine)
            made.set(keyId, await seal(engine, keyId))
          }
          if (version === 1 || previousVersion !== undefined) {
            expect(await rotateRootKey(at.admin, log)).toBe(2)
          }
          expect(await versionsIn(at.catalog), `${kind} ${n}`).toEqual([2])
          for (const engine of [node, another]) {
            await expectOpens(engine, made)
            await close(engine)
          }
          const later = await start(
            configOf(at.catalog, { 'root.key': both['root.key.next'] as string }),
          )
          await expectOpens(later, made)
          await close(later)
        }
        // Before and behind the step that turns.
        if (kind === 'pg') expect([...seen]).toEqual(expect.arrayContaining(['1 undefined', '2 1']))
      },
      580_000,
    )
  })
})
