/** Rotation by a period and on demand, by a clock that the test turns. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { ask, type AwsReply } from '../aws.ts'
import { startService, type Service } from '../service.ts'

const DAY_MS = 24 * 60 * 60 * 1000

let nowMs = Date.UTC(2026, 0, 1)
let service: Service

beforeAll(async () => {
  service = await startService({ wallClockMs: () => nowMs })
})
afterAll(() => service.close())

const context = { table: 'orders' }
const plaintext = Buffer.from('plaintext')

const on = (operation: string, key: string, input = {}): Promise<AwsReply> =>
  ask(service.engine, operation, { KeyId: key, ...input })
const enable = (key: string, days?: number): Promise<AwsReply> =>
  on('EnableKeyRotation', key, days === undefined ? {} : { RotationPeriodInDays: days })
const status = (key: string): Promise<AwsReply> => on('GetKeyRotationStatus', key)
const runAt = async (atMs: number): Promise<void> => {
  nowMs = atMs
  await service.engine.scheduler.run()
}
const versionOf = async (key: string): Promise<number> =>
  (await service.engine.kms.registry.resolve(key)).currentVersion
const seal = async (key: string): Promise<Uint8Array> => {
  const answer = await service.call('encrypt', { key, context, plaintexts: [plaintext] })
  return answer.ciphertexts[0] as Uint8Array
}
const expectOpened = async (ciphertext: Uint8Array): Promise<void> => {
  const [opened] = (await service.call('decrypt', { context, ciphertexts: [ciphertext] }))
    .plaintexts
  expect(Buffer.from(opened as Uint8Array)).toEqual(plaintext)
}
/** formats.md: version, suite, usage, KMS key id (16), u32 material version; its place is looked for. */
const materialVersionIn = (key: string, ciphertext: Uint8Array): number => {
  const bytes = Buffer.from(ciphertext)
  return bytes.readUInt32BE(bytes.indexOf(Buffer.from(key.replaceAll('-', ''), 'hex')) + 16)
}

describe('the rotation status', () => {
  test('of a new key is off, and says only that', async () => {
    const key = await service.createKey()
    expect(await status(key)).toEqual({ KeyRotationEnabled: false, KeyId: key })
  })

  test.each([
    [undefined, 365],
    [90, 90],
    [2560, 2560],
  ])(
    'enabled for %s days tells period and next date, and disabled neither',
    async (given, days) => {
      const key = await service.createKey()
      expect(await enable(key, given)).toEqual({})
      expect(await status(key)).toEqual({
        KeyRotationEnabled: true,
        KeyId: key,
        RotationPeriodInDays: days,
        NextRotationDate: nowMs / 1000 + days * 86_400,
      })
      expect(await on('DisableKeyRotation', key)).toEqual({})
      expect(await status(key)).toEqual({ KeyRotationEnabled: false, KeyId: key })
      const before = nowMs
      await runAt(before + 3_000 * DAY_MS)
      expect(await versionOf(key)).toBe(1)
    },
  )

  test.each([89, 2561, 0, -365, 90.5])('refuses a period of %s days', async (days) => {
    const key = await service.createKey()
    const refusal = await enable(key, days)
    expect(refusal.refused).toMatch(/ValidationException|SerializationException/)
    expect(refusal.message).toContain('rotationPeriodInDays')
    const answer = await service.call(`keys/${key}/enable-rotation`, { periodDays: days })
    expect(answer.code).toBe('REQUEST_MALFORMED')
    expect(answer.message).toContain('periodDays')
    expect(await status(key)).toMatchObject({ KeyRotationEnabled: false })
  })

  test('enabled again as it was keeps its date, and with another period counts anew', async () => {
    const key = await service.createKey()
    await enable(key, 100)
    const { NextRotationDate: first } = await status(key)
    nowMs += 50 * DAY_MS
    await enable(key, 100)
    expect((await status(key))['NextRotationDate']).toBe(first)
    await enable(key, 200)
    expect((await status(key))['NextRotationDate']).toBe(nowMs / 1000 + 200 * 86_400)
  })

  test('is off while the key waits for its deletion, and back when that is cancelled', async () => {
    const key = await service.createKey()
    await enable(key, 90)
    const before = await status(key)
    await on('ScheduleKeyDeletion', key)
    expect(await status(key)).toEqual({ KeyRotationEnabled: false, KeyId: key })
    await on('CancelKeyDeletion', key)
    expect(await status(key)).toEqual(before)
  })
})

describe('automatic rotation', () => {
  test('comes when it is due and not a millisecond before, and everything sealed before still opens', async () => {
    const key = await service.createKey()
    await enable(key, 90)
    const sealed = [await seal(key)]
    for (let version = 2; version <= 8; version++) {
      const dueMs = nowMs + 90 * DAY_MS
      await runAt(dueMs - 1)
      expect(await versionOf(key)).toBe(version - 1)
      await runAt(dueMs)
      expect(await versionOf(key)).toBe(version)
      expect((await status(key))['NextRotationDate']).toBe(nowMs / 1000 + 90 * 86_400)
      const ciphertext = await seal(key)
      expect(materialVersionIn(key, ciphertext)).toBe(version)
      sealed.push(ciphertext)
    }
    for (const ciphertext of sealed) await expectOpened(ciphertext)
  })

  test('of a server that slept for ten years is one, and the next is a period after it', async () => {
    const key = await service.createKey()
    await enable(key, 90)
    await runAt(nowMs + 3_650 * DAY_MS)
    expect(await versionOf(key)).toBe(2)
    expect((await status(key))['NextRotationDate']).toBe(nowMs / 1000 + 90 * 86_400)
    await runAt(nowMs)
    expect(await versionOf(key)).toBe(2)
  })

  test('is not repeated by a clock that goes back and forth', async () => {
    const key = await service.createKey()
    await enable(key, 90)
    const dueMs = nowMs + 90 * DAY_MS
    await runAt(dueMs)
    for (const jumpDays of [-30, 0, -1_000, 89, -5]) await runAt(dueMs + jumpDays * DAY_MS)
    expect(await versionOf(key)).toBe(2)
    await runAt(dueMs + 90 * DAY_MS)
    expect(await versionOf(key)).toBe(3)
  })

  // GetKeyRotationStatus, API reference: paused while the key is disabled; overdue when it is enabled, at once.
  test('rests while the key is disabled, and is made up for once when it is enabled', async () => {
    const key = await service.createKey()
    await enable(key, 90)
    const { NextRotationDate } = await status(key)
    await on('DisableKey', key)
    await runAt(nowMs + 400 * DAY_MS)
    expect(await versionOf(key)).toBe(1)
    expect(await status(key)).toMatchObject({ KeyRotationEnabled: true, NextRotationDate })
    await on('EnableKey', key)
    // Nobody has to ask: the change itself wakes the scheduler, and this joins its run.
    await service.engine.scheduler.run()
    expect(await versionOf(key)).toBe(2)
  })

  test('that was not due while the key was disabled keeps its date', async () => {
    const key = await service.createKey()
    await enable(key, 90)
    const before = await status(key)
    await on('DisableKey', key)
    await runAt(nowMs + 60 * DAY_MS)
    await on('EnableKey', key)
    await service.engine.scheduler.run()
    expect(await versionOf(key)).toBe(1)
    expect(await status(key)).toEqual(before)
  })

  test('does not happen to a key that waits for its deletion', async () => {
    const key = await service.createKey()
    await enable(key, 90)
    nowMs += 85 * DAY_MS
    await on('ScheduleKeyDeletion', key)
    await runAt(nowMs + 29 * DAY_MS)
    expect(await versionOf(key)).toBe(1)
  })
})

describe('rotation on demand', () => {
  test('leaves the schedule alone, and does not count what came by itself', async () => {
    const key = await service.createKey()
    await enable(key, 90)
    for (let times = 0; times < 3; times++) await runAt(nowMs + 90 * DAY_MS)
    const before = await status(key)
    for (let times = 0; times < 25; times++) {
      expect(await on('RotateKeyOnDemand', key)).toEqual({ KeyId: key })
    }
    expect(await status(key)).toEqual(before)
    expect((await on('RotateKeyOnDemand', key)).refused).toBe('LimitExceededException')
    expect(await versionOf(key)).toBe(1 + 3 + 25)
    await runAt(nowMs + 90 * DAY_MS)
    expect(await versionOf(key)).toBe(1 + 3 + 25 + 1)
  })

  // RotateKeyOnDemand, API reference: ConflictException within 20 minutes of an automatic rotation.
  test('is refused in the 20 minutes before an automatic one', async () => {
    const key = await service.createKey()
    await enable(key, 90)
    const dueMs = nowMs + 90 * DAY_MS
    nowMs = dueMs - 20 * 60_000
    expect((await on('RotateKeyOnDemand', key)).refused).toBe('ConflictException')
    nowMs -= 1
    expect(await on('RotateKeyOnDemand', key)).toEqual({ KeyId: key })
    await runAt(dueMs)
    expect(await versionOf(key)).toBe(3)
  })
})

describe('the list of rotations', () => {
  test('tells date and type of each, and of the first material neither', async () => {
    const key = await service.createKey()
    await enable(key, 90)
    const dates: number[] = []
    await runAt(nowMs + 90 * DAY_MS)
    dates.push(nowMs / 1000)
    nowMs += DAY_MS
    await on('RotateKeyOnDemand', key)
    dates.push(nowMs / 1000)
    const rotations = [
      { RotationType: 'AUTOMATIC', RotationDate: dates[0], KeyMaterialState: 'NON_CURRENT' },
      { RotationType: 'ON_DEMAND', RotationDate: dates[1], KeyMaterialState: 'CURRENT' },
    ]
    const id = { KeyId: key, KeyMaterialId: expect.stringMatching(/^[0-9a-f]{64}$/) as string }
    for (const input of [{}, { IncludeKeyMaterial: 'ROTATIONS_ONLY' }]) {
      const listed = await on('ListKeyRotations', key, input)
      const expected = rotations.map((rotation) => ({ ...id, ...rotation }))
      expect(JSON.parse(JSON.stringify(listed))).toEqual({ Rotations: expected, Truncated: false })
    }
    const { Rotations } = await on('ListKeyRotations', key, {
      IncludeKeyMaterial: 'ALL_KEY_MATERIAL',
    })
    const all = [{ KeyMaterialState: 'NON_CURRENT' }, ...rotations]
    expect(JSON.parse(JSON.stringify(Rotations))).toEqual(all.map((entry) => ({ ...id, ...entry })))
    const ids = (Rotations as { KeyMaterialId: string }[]).map(({ KeyMaterialId }) => KeyMaterialId)
    expect(new Set(ids).size).toBe(3)
    // What wraps now is what the list calls current.
    const made = await on('GenerateDataKey', key, { KeySpec: 'AES_256' })
    expect(made['KeyMaterialId']).toBe(ids[2])
  })

  test.each([1, 2, 7, 25, 100])('comes in pages of %s, each entry once', async (limit) => {
    const key = await service.createKey()
    for (let times = 0; times < 7; times++) await on('RotateKeyOnDemand', key)
    const seen: unknown[] = []
    let marker: unknown
    do {
      const page = await on('ListKeyRotations', key, { Limit: limit, Marker: marker ?? null })
      expect(page.refused).toBeUndefined()
      expect((page['Rotations'] as unknown[]).length).toBeLessThanOrEqual(limit)
      expect(page['Truncated']).toBe(page['NextMarker'] !== undefined)
      seen.push(
        ...(page['Rotations'] as { KeyMaterialId: string }[]).map((entry) => entry.KeyMaterialId),
      )
      marker = page['NextMarker']
    } while (marker !== undefined)
    expect(seen).toHaveLength(7)
    expect(new Set(seen).size).toBe(7)
  })

  test('refuses markers that it never gave, and limits beyond 1 to 1000', async () => {
    const key = await service.createKey()
    for (const marker of ['x', '-1', '1.5', '0', '1e3', '9'.repeat(20)]) {
      const { refused } = await on('ListKeyRotations', key, { Marker: marker })
      expect(refused).toBe('InvalidMarkerException')
    }
    for (const limit of [0, 1_001]) {
      expect((await on('ListKeyRotations', key, { Limit: limit })).refused).toBe(
        'ValidationException',
      )
    }
  })
})

describe('keys that AWS KMS does not rotate', () => {
  test('are told so: imported material', async () => {
    const { keyId } = await service.engine.kms.createKey({ origin: 'EXTERNAL' })
    for (const operation of ['EnableKeyRotation', 'DisableKeyRotation', 'GetKeyRotationStatus']) {
      const { refused, message } = await on(operation, keyId)
      expect(refused).toBe('UnsupportedOperationException')
      expect(message).toMatch(/ origin is EXTERNAL which is not valid for this operation\.$/)
    }
  })

  test.each(['HMAC_256', 'RSA_2048', 'ECC_NIST_P256'] as const)(
    'are told so: %s',
    async (keySpec) => {
      const { keyId } = await service.engine.kms.createKey({
        keySpec,
        keyUsage: keySpec === 'HMAC_256' ? 'GENERATE_VERIFY_MAC' : 'SIGN_VERIFY',
      })
      for (const operation of [
        'EnableKeyRotation',
        'DisableKeyRotation',
        'RotateKeyOnDemand',
        'ListKeyRotations',
      ]) {
        expect((await on(operation, keyId)).refused).toBe('UnsupportedOperationException')
      }
      // Terraform asks this of every key that it made.
      expect(await status(keyId)).toEqual({ KeyRotationEnabled: false, KeyId: keyId })
    },
  )
})

describe('the /v1 routes', () => {
  test('enable, list and disable rotation, and describe shows it', async () => {
    const key = await service.createKey()
    const enabled = await service.call(`keys/${key}/enable-rotation`, { periodDays: 180 })
    expect(enabled).toMatchObject({
      rotationPeriodDays: 180,
      // msgpackr reads 64-bit integers as BigInt.
      nextRotationAtMs: BigInt(nowMs + 180 * DAY_MS),
    })
    await runAt(nowMs + 180 * DAY_MS)
    const response = await fetch(`${service.url}/v1/keys/${key}/rotations`, {
      headers: { authorization: `Bearer ${service.token}`, accept: 'application/json' },
    })
    expect(await response.json()).toMatchObject({
      rotations: [{ version: 2, state: 'CURRENT', type: 'AUTOMATIC', rotatedAtMs: nowMs }],
    })
    const disabled = await service.call(`keys/${key}/disable-rotation`, {})
    expect(disabled).not.toMatchObject({ rotationPeriodDays: 180 })
    const refused = await service.call(`keys/${key}/enable-rotation`, { periodDay: 180 })
    expect(refused).toMatchObject({ code: 'REQUEST_MALFORMED' })
    expect(refused.message).toContain('periodDay')
  })

  test('schedule and cancel deletion, and describe shows it', async () => {
    const key = await service.createKey()
    expect(
      await service.call(`keys/${key}/schedule-deletion`, { pendingWindowDays: 9 }),
    ).toMatchObject({
      state: 'PendingDeletion',
      deletionAtMs: BigInt(nowMs + 9 * DAY_MS),
      pendingWindowDays: 9,
    })
    expect(await service.call(`keys/${key}/cancel-deletion`, {})).toMatchObject({
      state: 'Disabled',
    })
  })
})
