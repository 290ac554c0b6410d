/**
 * Families of multi-Region keys over time: material and rotation belong to the family, deletion to each key, and the
 * primary outlives its replicas. The replicas are rows as the catalog has them.
 */
import { afterEach, describe, expect, test } from 'vitest'

import { ask, type AwsReply } from '../aws.ts'
import { runInCatalog } from '../catalog/file.ts'
import { startService, type Service } from '../service.ts'

const DAY_MS = 24 * 60 * 60 * 1000
const REGIONS = ['eu-west-1', 'ap-south-1'] as const

let nowMs = Date.UTC(2026, 0, 1)
const options = {
  wallClockMs: (): number => nowMs,
  settings: { otherRegions: REGIONS.join(',') },
}
let service: Service

afterEach(() => service.close())

const on = (operation: string, key: string, input = {}, region?: string): Promise<AwsReply> =>
  ask(service.engine, operation, { KeyId: key, ...input }, region)
const describeIn = async (key: string, region?: string): Promise<Record<string, unknown>> => {
  const { KeyMetadata, refused } = await on('DescribeKey', key, {}, region)
  return (KeyMetadata as Record<string, unknown> | undefined) ?? { KeyState: refused }
}
const runAt = async (atMs: number): Promise<void> => {
  nowMs = atMs
  await service.engine.scheduler.run()
}

/** A primary key, replicated to each of these regions. */
async function startFamily(...regions: readonly string[]): Promise<string> {
  const first = await startService(options)
  const { keyId } = await first.engine.kms.createKey({ multiRegion: true })
  await first.engine.close()
  const [columns] = runInCatalog(
    first.dataDirectory,
    `select name from pragma_table_info('kmsKeys')`,
  )
  const names = (columns ?? []).map(({ name }) => `"${String(name)}"`)
  for (const region of regions) {
    const values = names.map((name) => {
      if (name === '"id"') return `'${keyId}@${region}'`
      if (name === '"region"') return `'${region}'`
      return name === '"multiRegion"' ? `'REPLICA'` : name
    })
    runInCatalog(
      first.dataDirectory,
      `insert into "kmsKeys" (${names.join()}) select ${values.join()} from "kmsKeys" where id = '${keyId}'`,
      `insert into aliases values ('alias/family@${region}', '${keyId}@${region}', 1, 1, 1)`,
    )
  }
  service = await startService({ ...options, filesFrom: first.dataDirectory })
  return keyId
}

async function encryptIn(key: string, region?: string): Promise<string> {
  const { CiphertextBlob } = await on('Encrypt', key, { Plaintext: 'AAAA' }, region)
  return Buffer.from(CiphertextBlob as Uint8Array).toString('base64')
}
const decryptIn = (ciphertext: string, region?: string): Promise<AwsReply> =>
  ask(service.engine, 'Decrypt', { CiphertextBlob: ciphertext }, region)

describe('deleting a primary key with replicas', () => {
  test('waits for the last of them, and only then does its own waiting period begin', async () => {
    const key = await startFamily(...REGIONS)
    const { arn } = await service.engine.kms.registry.resolve(key)
    // ScheduleKeyDeletion, API reference: no DeletionDate, for it is not known yet.
    expect(await on('ScheduleKeyDeletion', key, { PendingWindowInDays: 7 })).toEqual({
      KeyId: arn,
      KeyState: 'PendingReplicaDeletion',
      PendingWindowInDays: 7,
    })
    await runAt(nowMs + 400 * DAY_MS)
    expect(await describeIn(key)).toMatchObject({
      KeyState: 'PendingReplicaDeletion',
      PendingDeletionWindowInDays: 7,
    })
    await on('ScheduleKeyDeletion', key, { PendingWindowInDays: 7 }, REGIONS[0])
    await on('ScheduleKeyDeletion', key, { PendingWindowInDays: 9 }, REGIONS[1])
    await runAt(nowMs + 7 * DAY_MS)
    expect((await describeIn(key, REGIONS[0]))['KeyState']).toBe('NotFoundException')
    expect((await describeIn(key))['KeyState']).toBe('PendingReplicaDeletion')
    await runAt(nowMs + 2 * DAY_MS)
    expect((await describeIn(key, REGIONS[1]))['KeyState']).toBe('NotFoundException')
    expect(await describeIn(key)).toMatchObject({
      KeyState: 'PendingDeletion',
      DeletionDate: nowMs / 1000 + 7 * 86_400,
    })
    await runAt(nowMs + 7 * DAY_MS - 1)
    expect((await describeIn(key))['KeyState']).toBe('PendingDeletion')
    await runAt(nowMs + 1)
    expect((await describeIn(key))['KeyState']).toBe('NotFoundException')
  })

  test('is cancelled while it waits, and lands in Disabled', async () => {
    const key = await startFamily('eu-west-1')
    await on('ScheduleKeyDeletion', key)
    expect(await on('CancelKeyDeletion', key)).toMatchObject({
      KeyId: expect.any(String) as string,
    })
    expect(await describeIn(key)).toMatchObject({ KeyState: 'Disabled' })
    expect(await describeIn(key)).not.toHaveProperty('PendingDeletionWindowInDays', 30)
    await on('ScheduleKeyDeletion', key, {}, 'eu-west-1')
    await runAt(nowMs + 30 * DAY_MS)
    expect(await describeIn(key)).toMatchObject({ KeyState: 'Disabled' })
  })
})

describe('deleting a replica', () => {
  test('leaves the others what they share, and takes its own aliases', async () => {
    const key = await startFamily(...REGIONS)
    const [here, there] = [await encryptIn(key), await encryptIn(key, 'eu-west-1')]
    expect((await decryptIn(there)).refused).toBeUndefined()
    expect((await describeIn('alias/family', 'eu-west-1'))['KeyId']).toBe(key)
    await on('ScheduleKeyDeletion', key, { PendingWindowInDays: 7 }, 'eu-west-1')
    await runAt(nowMs + 7 * DAY_MS)
    expect((await describeIn('alias/family', 'eu-west-1'))['KeyState']).toBe('NotFoundException')
    expect((await decryptIn(there, 'eu-west-1')).refused).toBe('AccessDeniedException')
    for (const region of [undefined, 'ap-south-1']) {
      expect((await describeIn(key, region))['KeyState']).toBe('Enabled')
      for (const ciphertext of [here, there]) {
        expect((await decryptIn(ciphertext, region)).refused).toBeUndefined()
      }
    }
    expect((await describeIn('alias/family', 'ap-south-1'))['KeyId']).toBe(key)
  })

  test('as the last of its family takes the material with it', async () => {
    const key = await startFamily('eu-west-1')
    const { materials } = await service.engine.kms.registry.resolve(key)
    const stored = Buffer.from(materials.get(1)?.stored as Uint8Array)
    await on('ScheduleKeyDeletion', key, { PendingWindowInDays: 7 }, 'eu-west-1')
    await on('ScheduleKeyDeletion', key, { PendingWindowInDays: 7 })
    for (let days = 0; days < 20; days += 7) await runAt(nowMs + 7 * DAY_MS)
    await service.engine.close()
    const [rows] = runInCatalog(
      service.dataDirectory,
      `select stored from "keyMaterials" where "kmsKeyId" = '${key}'`,
    )
    expect(rows).toEqual([{ stored: null }])
    expect(stored.length).toBeGreaterThan(32)
  })
})

describe('rotating a family', () => {
  test('is done at the primary, for all of it', async () => {
    const key = await startFamily(...REGIONS)
    const before = await encryptIn(key, 'eu-west-1')
    await on('EnableKeyRotation', key, { RotationPeriodInDays: 90 })
    const status = await on('GetKeyRotationStatus', key)
    expect(status['KeyRotationEnabled']).toBe(true)
    for (const region of REGIONS) {
      expect(await on('GetKeyRotationStatus', key, {}, region)).toEqual(status)
      for (const operation of ['EnableKeyRotation', 'DisableKeyRotation', 'RotateKeyOnDemand']) {
        const { refused } = await on(operation, key, {}, region)
        expect(refused).toBe('UnsupportedOperationException')
      }
    }
    await runAt(nowMs + 90 * DAY_MS)
    await on('RotateKeyOnDemand', key)
    const listed = await on('ListKeyRotations', key)
    expect(listed['Rotations']).toHaveLength(2)
    const [, current] = listed['Rotations'] as { KeyMaterialId: string }[]
    for (const region of [undefined, ...REGIONS]) {
      expect(await on('ListKeyRotations', key, {}, region)).toEqual(listed)
      const made = await on('GenerateDataKey', key, { KeySpec: 'AES_256' }, region)
      expect(made['KeyMaterialId']).toBe(current?.KeyMaterialId)
      expect((await decryptIn(before, region)).refused).toBeUndefined()
    }
  })
})
