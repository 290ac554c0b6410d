/**
 * How many wraps key material is good for: never one more, however many ask at once, on however many nodes, after
 * restarts and kills; and what happens before the last.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { openCatalog, type Catalog } from '../../dist/catalog/catalog.js'
import type { KeyMaterial, KeyStoreTraits } from '../../dist/key-stores/key-store.js'
import type { KmsKey } from '../../dist/kms/kms-key.js'
import { WrapBudgets } from '../../dist/kms/wrap-budgets.js'
import { ask } from '../aws.ts'
import { runInCatalog } from '../catalog/file.ts'
import { connectStore, GatedStore } from '../key-stores/gate.ts'
import { startService, type Service } from '../service.ts'

const PROGRAM = join(import.meta.dirname, '../wrap-and-die.mjs')
/** 1,024 wraps are reserved 4 at a time (wrap-budgets.ts: a 256th). */
const WRAPS = 1_024

let original: string
let single: KmsKey
let family: KmsKey

beforeAll(async () => {
  const service = await startService({ settings: { otherRegions: 'eu-west-1' } })
  const { kms } = service.engine
  single = await kms.createKey({})
  family = await kms.createKey({ multiRegion: true })
  await kms.replicas.replicate(family, { region: 'eu-west-1' })
  await service.engine.close()
  original = service.dataDirectory
})
afterAll(() => rmSync(original, { recursive: true, force: true }))

function copyOf(directory: string): string {
  const copy = mkdtempSync(join(tmpdir(), 'keyfold-wraps-'))
  cpSync(directory, copy, { recursive: true })
  return copy
}

const open = (dataDirectory: string): Promise<Catalog> =>
  openCatalog({ dataDirectory, region: 'us-east-1', account: '000000000000' })

const storeOf = (traits: Partial<KeyStoreTraits> = {}) => ({
  name: 'elsewhere',
  traits: { wrapsMax: WRAPS, rotates: false, ...traits } as KeyStoreTraits,
})

function budgetsOf(catalog: Catalog, logged: string[] = []): WrapBudgets {
  return new WrapBudgets(catalog, {
    log: (line) => void logged.push(line),
    onWornOut: () => void logged.push('worn out'),
  })
}

const materialOf = (kmsKey: KmsKey, version = 1): KeyMaterial => ({
  kmsKeyId: kmsKey.idBytes,
  version,
  keySpec: 'SYMMETRIC_DEFAULT',
  stored: new Uint8Array(0),
  publicKey: undefined,
})

/** How many of so many that ask at once may wrap; the others are refused for the one reason. */
async function take(budgets: WrapBudgets, count: number, material: KeyMaterial): Promise<number> {
  const asked = Array.from({ length: count }, async () => budgets.take(storeOf(), material))
  const outcomes = await Promise.allSettled(asked)
  const refused = outcomes.filter(({ status }) => status === 'rejected')
  for (const one of refused) {
    expect((one as PromiseRejectedResult).reason).toMatchObject({
      code: 'WRAP_BUDGET_SPENT',
      message: expect.stringContaining('rotate the KMS key') as string,
    })
  }
  return count - refused.length
}

const base64 = (bytes: unknown): string => Buffer.from(bytes as Uint8Array).toString('base64')

describe('the last wrap', () => {
  test.each(['single', 'family'] as const)(
    'is the %s key’s last of two nodes that ask one catalog at once, and after a restart',
    async (which) => {
      const directory = copyOf(original)
      const material = materialOf(which === 'single' ? single : family)
      const catalog = await open(directory)
      const nodes = [budgetsOf(catalog), budgetsOf(catalog)]
      const before = await Promise.all(nodes.map((node) => take(node, 300, material)))
      expect(before).toEqual([300, 300])
      const rest = await Promise.all(nodes.map((node) => take(node, 400, material)))
      expect(rest[0] as number).toBeLessThan(400)
      // Each block was taken by one of them, and all of it was used.
      expect(600 + (rest[0] as number) + (rest[1] as number)).toBe(WRAPS)
      await catalog.close()
      const restarted = await open(directory)
      expect(await take(budgetsOf(restarted), 10, material)).toBe(0)
      // Other versions and keys have their own.
      expect(await take(budgetsOf(restarted), 5, { ...material, version: 2 })).toBe(5)
      await restarted.close()
      rmSync(directory, { recursive: true, force: true })
    },
  )

  test('is no more than there are where a process is killed over and over', async () => {
    const directory = copyOf(original)
    let used = 0
    for (let round = 0; round < 6; round++) {
      const { stdout, stderr, signal } = spawnSync(
        process.execPath,
        [PROGRAM, directory, single.keyId, String(WRAPS), String(101 + round)],
        { encoding: 'utf8' },
      )
      expect([stderr, signal]).toEqual(['', 'SIGKILL'])
      expect(stdout).toHaveLength(101 + round)
      used += stdout.length
    }
    const catalog = await open(directory)
    used += await take(budgetsOf(catalog), 2 * WRAPS, materialOf(single))
    await catalog.close()
    expect(used).toBeLessThanOrEqual(WRAPS)
    // Each kill cost what was left of a reservation, which is less than 4.
    expect(used).toBeGreaterThanOrEqual(WRAPS - 6 * 3)
    const [rows] = runInCatalog(directory, 'select reserved from "wrapReservations"')
    expect(rows).toEqual([{ reserved: WRAPS }])
    rmSync(directory, { recursive: true, force: true })
  })

  test('is told of from 80 % on, once for each percent, where nobody else can do anything', async () => {
    const directory = copyOf(original)
    const catalog = await open(directory)
    const logged: string[] = []
    const budgets = budgetsOf(catalog, logged)
    for (let i = 0; i < WRAPS; i++) await budgets.take(storeOf(), materialOf(single))
    const percents = logged.map((line) => Number(/(\d+) % of the wraps/.exec(line)?.[1]))
    expect(percents).toEqual(Array.from({ length: 21 }, (_, i) => 80 + i))
    expect(logged[0]).toContain(single.keyId)
    expect(budgets.figures('elsewhere')).toEqual({ reserved: WRAPS, shareMax: 1 })
    await catalog.close()
    rmSync(directory, { recursive: true, force: true })
  })
})

describe('a key in a store that rotates', () => {
  let service: Service
  afterAll(() => service.close())

  test('gets new material at 80 % by itself, and wraps on', async () => {
    service = await startService({
      keyStoreOpener: (crypto) => async () => new GatedStore(crypto, { wrapsMax: 256 }),
    })
    const { kms, scheduler } = service.engine
    const keyStore = await connectStore(service.engine)
    const { keyId } = await kms.createKey({ keyStore })
    const version = async (): Promise<number> => (await kms.registry.resolve(keyId)).currentVersion
    const wrap = async (count: number): Promise<void> => {
      const answer = await service.call('data-keys', { key: keyId, count, plaintext: false })
      expect(answer.code).toBeUndefined()
    }
    // 0.8 × 256 is 204.8.
    await wrap(204)
    await scheduler.run()
    expect(await version()).toBe(1)
    await wrap(1)
    // It is awake by itself: this only waits until it is done.
    await scheduler.run()
    expect(await version()).toBe(2)
    await wrap(100)
    await scheduler.run()
    expect(await version()).toBe(2)
    expect(service.engine.storeFigures()).toMatchObject([
      { name: keyStore, wraps: { reserved: 305, shareMax: 205 / 256 } },
    ])
  })
})

test('a key in a store that does not rotate is refused at the end, and opens what it wrapped', async () => {
  const service = await startService({
    keyStoreOpener: (crypto) => async () =>
      new GatedStore(crypto, { wrapsMax: 256, rotates: false }),
    settings: { logLevel: 'warn' },
  })
  const { engine } = service
  const { keyId } = await engine.kms.createKey({ keyStore: await connectStore(engine) })
  const made = await ask(engine, 'GenerateDataKey', { KeyId: keyId, NumberOfBytes: 32 })
  await service.call('data-keys', { key: keyId, count: 255, plaintext: false })
  await engine.scheduler.run()
  expect((await engine.kms.registry.resolve(keyId)).currentVersion).toBe(1)
  for (const [operation, input] of [
    ['GenerateDataKey', { NumberOfBytes: 32 }],
    ['GenerateDataKeyWithoutPlaintext', { NumberOfBytes: 32 }],
    ['GenerateDataKeyPair', { KeyPairSpec: 'ECC_NIST_P256' }],
    ['Encrypt', { Plaintext: Buffer.from('x').toString('base64') }],
  ] as const) {
    const reply = await ask(engine, operation, { KeyId: keyId, ...input })
    expect([operation, reply.refused, reply.message]).toEqual([
      operation,
      'KMSInvalidStateException',
      'version 1 of it was good for 256; rotate the KMS key',
    ])
  }
  const { code } = await service.call('encrypt', { key: keyId, plaintexts: [Buffer.from('x')] })
  expect(code).toBe('WRAP_BUDGET_SPENT')
  const opened = await ask(engine, 'Decrypt', { CiphertextBlob: base64(made['CiphertextBlob']) })
  expect(base64(opened['Plaintext'])).toBe(base64(made['Plaintext']))
  expect(service.logged.some((line) => line.includes('100 % of the wraps'))).toBe(true)
  await service.close()
})
