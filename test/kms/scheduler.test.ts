/** The scheduler with many keys, failing ones among them, and imported material that expires. */
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'

import type { KeyStore } from '../../dist/key-stores/key-store.js'
import { LocalKeyStore } from '../../dist/key-stores/local.js'
import { ask } from '../aws.ts'
import { runInCatalog } from '../catalog/file.ts'
import { startService, type Service } from '../service.ts'

const DAY_MS = 24 * 60 * 60 * 1000

let nowMs = Date.UTC(2026, 0, 1)
const options = {
  wallClockMs: (): number => nowMs,
  // Failures are warnings.
  settings: { logLevel: 'warn' },
}
let service: Service

afterEach(async () => {
  vi.restoreAllMocks()
  vi.useRealTimers()
  await service.close()
})

const runAt = async (atMs: number): Promise<void> => {
  nowMs = atMs
  await service.engine.scheduler.run()
}
const versionOf = async (key: string): Promise<number> =>
  (await service.engine.kms.registry.resolve(key)).currentVersion
const stateOf = async (key: string): Promise<unknown> => {
  const { KeyMetadata, refused } = await ask(service.engine, 'DescribeKey', { KeyId: key })
  return refused ?? (KeyMetadata as Record<string, unknown>)['KeyState']
}

describe('a thousand keys', () => {
  test('that are due at once, to be deleted, rotated or neither, all get what is theirs', async () => {
    service = await startService(options)
    const { kms } = service.engine
    const keys = await Promise.all(Array.from({ length: 1_000 }, () => kms.createKey({})))
    const due = nowMs + 90 * DAY_MS
    for (const [i, { keyId }] of keys.entries()) {
      if (i % 3 === 1) await kms.rotations.enable(keyId, 90)
    }
    nowMs = due - 7 * DAY_MS
    for (const [i, { keyId }] of keys.entries()) {
      if (i % 3 === 2) await kms.deletions.schedule(keyId, 7)
    }
    await runAt(due - 1)
    expect((await kms.listKeys({ limit: 1_000 })).items).toHaveLength(1_000)
    await runAt(due)
    const left = new Set((await kms.listKeys({ limit: 1_000 })).items.map(({ keyId }) => keyId))
    for (const [i, { keyId }] of keys.entries()) {
      expect(left.has(keyId)).toBe(i % 3 !== 2)
      if (i % 3 !== 2) expect(await versionOf(keyId)).toBe(i % 3 === 1 ? 2 : 1)
    }
    expect(service.logged).toEqual([])
  })
})

describe('a key whose rotation fails', () => {
  test('keeps nobody else waiting, is told of once a round, and is rotated when it can be', async () => {
    service = await startService(options)
    const { kms } = service.engine
    const keys = await Promise.all(Array.from({ length: 5 }, () => kms.createKey({})))
    for (const { keyId } of keys) await kms.rotations.enable(keyId, 90)
    const broken = keys[2] as (typeof keys)[number]
    const createKeyMaterial = Object.getOwnPropertyDescriptor(
      LocalKeyStore.prototype,
      'createKeyMaterial',
    )?.value as KeyStore['createKeyMaterial']
    vi.spyOn(LocalKeyStore.prototype, 'createKeyMaterial').mockImplementation(async function (
      this: LocalKeyStore,
      kmsKeyId,
      version,
      keySpec,
    ) {
      if (Buffer.compare(kmsKeyId, broken.idBytes) === 0) throw new Error('the store is on fire')
      return Reflect.apply(createKeyMaterial, this, [kmsKeyId, version, keySpec])
    })
    await runAt(nowMs + 90 * DAY_MS)
    for (const { keyId } of keys) {
      expect(await versionOf(keyId)).toBe(keyId === broken.keyId ? 1 : 2)
    }
    expect(service.logged.length).toBeGreaterThan(0)
    for (const message of service.logged) {
      expect(message).toContain(broken.keyId)
      expect(message).toContain('the store is on fire')
    }
    vi.restoreAllMocks()
    await runAt(nowMs + 60_000)
    expect(await versionOf(broken.keyId)).toBe(2)
  })
})

describe('key material that was used for many messages', () => {
  test('is new at the next look around, and what the old one wrapped opens; where nobody asked it stays', async () => {
    const settings = { logLevel: 'warn', rotateAfterMessages: '3' } as const
    service = await startService({ ...options, settings })
    const [busy, idle] = [await service.createKey(), await service.createKey()]
    const plaintexts = ['1', '2', '3'].map((text) => Buffer.from(text))
    const { ciphertexts } = await service.call('encrypt', { key: busy, plaintexts })
    await service.call('encrypt', { key: idle, plaintexts: plaintexts.slice(1) })
    await service.engine.keyUses.flush()
    await runAt(nowMs)
    await runAt(nowMs + 1)
    expect([await versionOf(busy), await versionOf(idle)]).toEqual([2, 1])
    const opened = await service.call('decrypt', { ciphertexts })
    expect(opened.plaintexts.map((text) => Buffer.from(text ?? []).toString())).toEqual([
      '1',
      '2',
      '3',
    ])
    const { Rotations } = await ask(service.engine, 'ListKeyRotations', { KeyId: busy })
    expect(Rotations).toMatchObject([{ RotationType: 'AUTOMATIC' }])
    await service.engine.keyUses.flush()
    await runAt(nowMs + 1)
    expect(await versionOf(busy)).toBe(2)
  })
})

describe('nobody has to ask', () => {
  test('what was overdue when the server stood still is done at its start', async () => {
    const first = await startService(options)
    const { keyId: doomed } = await first.engine.kms.createKey({})
    const { keyId: rotated } = await first.engine.kms.createKey({})
    await first.engine.kms.rotations.enable(rotated, 90)
    await first.engine.kms.deletions.schedule(doomed, 7)
    await first.engine.close()
    nowMs += 500 * DAY_MS
    service = await startService({ ...options, filesFrom: first.dataDirectory })
    await vi.waitFor(async () => {
      expect(await stateOf(doomed)).toBe('NotFoundException')
      expect(await versionOf(rotated)).toBe(2)
    }, 30_000)
  })

  test('the timer goes off at the due moment, and before that at least every minute', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    service = await startService(options)
    const { keyId } = await service.engine.kms.createKey({})
    await service.engine.kms.deletions.schedule(keyId, 7)
    const due = nowMs + 7 * DAY_MS
    nowMs = due - 90_000
    await service.engine.scheduler.run()
    const run = vi.spyOn(service.engine.scheduler, 'run')
    nowMs += 60_000
    await vi.advanceTimersByTimeAsync(59_999)
    expect(run).not.toHaveBeenCalled()
    await vi.advanceTimersByTimeAsync(1)
    expect(run).toHaveBeenCalledOnce()
    await run.mock.results[0]?.value
    expect(await stateOf(keyId)).toBe('PendingDeletion')
    nowMs = due
    await vi.advanceTimersByTimeAsync(29_999)
    expect(run).toHaveBeenCalledOnce()
    await vi.advanceTimersByTimeAsync(1)
    expect(run).toHaveBeenCalledTimes(2)
    await run.mock.results[1]?.value
    expect(await stateOf(keyId)).toBe('NotFoundException')
  })
})

describe('imported material that expires', () => {
  /** The files with the material in them. */
  let imported: string

  /** Keys of imported material, as rows: made by the key store, for the import itself is not what is tested. */
  async function startImported(validToMs: number): Promise<readonly string[]> {
    const first = await startService(options)
    const made = await Promise.all(Array.from({ length: 3 }, () => first.engine.kms.createKey({})))
    const ids = made.map(({ keyId }) => keyId)
    await first.engine.close()
    runInCatalog(
      first.dataDirectory,
      ...ids.flatMap((id, i) => [
        `update "kmsKeys" set origin = 'EXTERNAL' where id = '${id}'`,
        `update "keyMaterials" set "validToMs" = ${i === 2 ? 'null' : validToMs} where "kmsKeyId" = '${id}'`,
      ]),
    )
    imported = first.dataDirectory
    service = await startService({ ...options, filesFrom: imported })
    return ids
  }

  test('is destroyed then and not a moment earlier, and its key waits for an import', async () => {
    const validToMs = nowMs + 1_000
    const [expiring, doomed, lasting] = (await startImported(validToMs)) as [string, string, string]
    const sealed = await service.call('encrypt', { key: expiring, plaintexts: [Buffer.from('x')] })
    const { materials } = await service.engine.kms.registry.resolve(expiring)
    const stored = Buffer.from(materials.get(1)?.stored as Uint8Array)
    await service.engine.kms.deletions.schedule(doomed, 30)
    await runAt(validToMs - 1)
    expect(await stateOf(expiring)).toBe('Enabled')
    await runAt(validToMs)
    expect(await stateOf(expiring)).toBe('PendingImport')
    const opened = await service.call('decrypt', { ciphertexts: sealed.ciphertexts })
    expect(opened.plaintexts).toEqual([null])
    expect(await stateOf(lasting)).toBe('Enabled')
    // One that waits for its deletion goes on doing so, and has nothing to come back to.
    expect(await stateOf(doomed)).toBe('PendingDeletion')
    await service.engine.kms.deletions.cancel(doomed)
    expect(await stateOf(doomed)).toBe('PendingImport')
    const listed = await ask(service.engine, 'ListKeyRotations', {
      KeyId: expiring,
      IncludeKeyMaterial: 'ALL_KEY_MATERIAL',
    })
    expect(listed['Rotations']).toMatchObject([
      {
        ImportState: 'PENDING_IMPORT',
        ExpirationModel: 'KEY_MATERIAL_EXPIRES',
        ValidTo: validToMs / 1000,
      },
    ])
    await service.engine.close()
    const files = runInCatalog(
      service.dataDirectory,
      `select hex(stored) as stored from "keyMaterials" where stored is not null`,
    )
    expect(JSON.stringify(files)).not.toContain(stored.toString('hex').toUpperCase())
  })

  test('and is imported anew is not destroyed again when the server starts', async () => {
    const validToMs = nowMs + 1_000
    const [expiring] = (await startImported(validToMs)) as [string]
    await runAt(validToMs)
    const { idBytes } = await service.engine.kms.registry.resolve(expiring)
    const store = service.engine.kms.keyStoreOf({ keyStore: 'local' } as never)
    const anew = Buffer.from(
      (await store.createKeyMaterial(idBytes, 1, 'SYMMETRIC_DEFAULT')).stored,
    ).toString('hex')
    await service.engine.close()
    runInCatalog(
      service.dataDirectory,
      `update "keyMaterials" set stored = x'${anew}', "destroyedAtMs" = null, "validToMs" = null where "kmsKeyId" = '${expiring}'`,
      `update "kmsKeys" set state = 'Enabled' where id = '${expiring}'`,
    )
    const again = await startService({ ...options, filesFrom: service.dataDirectory })
    const sealed = await again.call('encrypt', { key: expiring, plaintexts: [Buffer.from('x')] })
    expect(sealed.code).toBeUndefined()
    await again.close()
  })

  test('stays destroyed when a catalog from before is put back, and its number stays taken', async () => {
    const validToMs = nowMs + 1_000
    const [expiring, other] = (await startImported(validToMs)) as [string, string]
    const row = `select version, stored is null as gone from "keyMaterials" where "kmsKeyId" = '${expiring}'`
    const back = mkdtempSync(join(tmpdir(), 'keyfold-back-'))
    try {
      await runAt(validToMs)
      await service.engine.close()
      for (const undo of [
        // As the backup has it: with its material, which is put back bit for bit.
        (): void => cpSync(imported, back, { recursive: true }),
        // Older still: from before that material was imported.
        (): void =>
          void runInCatalog(back, `delete from "keyMaterials" where "kmsKeyId" = '${expiring}'`),
      ]) {
        undo()
        cpSync(join(service.dataDirectory, 'destroyed.log'), join(back, 'destroyed.log'))
        const restored = await startService({ wallClockMs: () => nowMs - 10_000, filesFrom: back })
        const sealed = { key: expiring, plaintexts: [Buffer.from('x')] }
        expect((await restored.call('encrypt', sealed)).code).toBe('KMS_KEY_STATE_INVALID')
        expect((await restored.call('encrypt', { ...sealed, key: other })).code).toBeDefined()
        await restored.engine.close()
        expect(runInCatalog(restored.dataDirectory, row)).toEqual([[{ version: 1, gone: 1 }]])
        await restored.close()
      }
    } finally {
      rmSync(back, { recursive: true, force: true })
    }
  })
})

describe('the last use of a key', () => {
  // GetKeyLastUsage, API reference: an empty element where there is no record of one.
  test('is nothing at first, and then the latest, whichever material it was under', async () => {
    const first = await startService(options)
    const { keyId, createdAtMs } = await first.engine.kms.createKey({})
    const unused = await ask(first.engine, 'GetKeyLastUsage', { KeyId: keyId })
    expect(unused).toEqual({
      KeyId: keyId,
      KeyLastUsage: {},
      TrackingStartDate: expect.any(Number) as number,
      KeyCreationDate: createdAtMs / 1000,
    })
    expect(unused['TrackingStartDate']).toBeGreaterThanOrEqual(createdAtMs / 1000)
    await first.engine.close()
    const uses = [
      [1, 2_000, 'Encrypt'],
      [2, 9_500, 'Decrypt'],
      [3, 5_000, 'ReEncrypt'],
    ] as const
    runInCatalog(
      first.dataDirectory,
      ...uses.map(
        ([version, atMs, operation]) =>
          `insert into "keyUses" values ('${keyId}', ${version}, 1, 1, ${atMs}, '${operation}')`,
      ),
    )
    service = await startService({ ...options, filesFrom: first.dataDirectory })
    const used = await ask(service.engine, 'GetKeyLastUsage', { KeyId: keyId })
    expect(used['KeyLastUsage']).toEqual({ Operation: 'Decrypt', Timestamp: 9.5 })
  })
})
