/**
 * The end of a key, by a clock that the test turns: until the last moment of its waiting period nothing is lost, and
 * after it nothing is left, at no door, in no file, and in no copy of the catalog that somebody puts back.
 */
import { execFileSync } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'

import type { Engine } from '../../dist/engine.js'
import type { KeyStore } from '../../dist/key-stores/key-store.js'
import { LocalKeyStore } from '../../dist/key-stores/local.js'
import { ask, type AwsReply } from '../aws.ts'
import { runInCatalog } from '../catalog/file.ts'
import { startService, type Answer, type Service } from '../service.ts'

const DAY_MS = 24 * 60 * 60 * 1000
const STARTED_MS = Date.UTC(2026, 0, 1)

let nowMs = STARTED_MS
const wallClockMs = (): number => nowMs

let service: Service

beforeAll(async () => {
  service = await startService({ wallClockMs })
})
afterAll(() => service.close())
afterEach(() => {
  vi.restoreAllMocks()
})

const context = { table: 'orders' }
const plaintext = Buffer.from('plaintext')

const schedule = (key: string, days?: number): Promise<AwsReply> =>
  ask(service.engine, 'ScheduleKeyDeletion', {
    KeyId: key,
    ...(days === undefined ? {} : { PendingWindowInDays: days }),
  })
const cancel = (key: string): Promise<AwsReply> =>
  ask(service.engine, 'CancelKeyDeletion', { KeyId: key })
const stateOf = async (key: string): Promise<unknown> => {
  const { KeyMetadata, refused } = await ask(service.engine, 'DescribeKey', { KeyId: key })
  return refused ?? (KeyMetadata as Record<string, unknown>)['KeyState']
}
const runAt = async (atMs: number): Promise<void> => {
  nowMs = atMs
  await service.engine.scheduler.run()
}
const seal = async (key: string, from: Service = service): Promise<Uint8Array> => {
  const answer = await from.call('encrypt', { key, context, plaintexts: [plaintext] })
  return answer.ciphertexts[0] as Uint8Array
}
const open = (ciphertext: Uint8Array, from: Service = service): Promise<Answer> =>
  from.call('decrypt', { context, ciphertexts: [ciphertext] })
const expectOpened = async (ciphertext: Uint8Array, from: Service = service): Promise<void> => {
  const [opened] = (await open(ciphertext, from)).plaintexts
  expect(Buffer.from(opened as Uint8Array)).toEqual(plaintext)
}
const base64 = (bytes: unknown): string => Buffer.from(bytes as Uint8Array).toString('base64')

async function storedOf(engine: Engine, key: string): Promise<readonly Buffer[]> {
  const { materials } = await engine.kms.registry.resolve(key)
  return [...materials.values()].map(({ stored }) => Buffer.from(stored))
}

/** The catalog's files as another process reads them: closing a descriptor here would drop this process's locks. */
function filesOf(dataDirectory: string): Buffer {
  const names = ['catalog.sqlite', 'catalog.sqlite-wal', 'catalog.sqlite-shm']
  const paths = names.map((name) => join(dataDirectory, name)).filter((path) => existsSync(path))
  return execFileSync('cat', paths, { maxBuffer: 2 ** 30 })
}

/** No door of either protocol does anything with the key or with what it sealed. */
async function expectGone(
  key: string,
  sealed: { readonly message: Uint8Array; readonly wrapped: unknown },
  other: string,
): Promise<void> {
  const { engine } = service
  const wrapped = base64(sealed.wrapped)
  for (const fields of [{}, { form: 'packed' }, { form: 'detached' }]) {
    const answer = await service.call('encrypt', {
      key,
      context,
      plaintexts: [plaintext],
      ...fields,
    })
    expect(answer.code).toBe('KMS_KEY_NOT_FOUND')
  }
  const dataKeys = await service.call('data-keys', { key, context, count: 1, plaintext: true })
  expect(dataKeys.code).toBe('KMS_KEY_NOT_FOUND')
  for (const ciphertext of [sealed.message, sealed.wrapped as Uint8Array]) {
    const opened = await open(ciphertext)
    expect(opened.plaintexts).toEqual([null])
    expect(opened.errors).toHaveLength(1)
  }
  for (const mode of ['rewrap', 'fresh']) {
    const fields = { key: other, context, ciphertexts: [sealed.message], mode }
    expect((await service.call('re-encrypt', fields)).ciphertexts).toEqual([null])
  }
  for (const [operation, input] of [
    ['DescribeKey', {}],
    ['Encrypt', { Plaintext: 'AAAA' }],
    ['GenerateDataKey', { KeySpec: 'AES_256' }],
    ['EnableKey', {}],
    ['CancelKeyDeletion', {}],
    ['ScheduleKeyDeletion', {}],
    ['ListKeyRotations', {}],
  ] as const) {
    expect((await ask(engine, operation, { KeyId: key, ...input })).refused).toBe(
      'NotFoundException',
    )
  }
  // AWS KMS says nothing of keys that a ciphertext names and that are not there.
  const decrypted = await ask(engine, 'Decrypt', { CiphertextBlob: wrapped })
  expect(decrypted.refused).toBe('AccessDeniedException')
  const moved = await ask(engine, 'ReEncrypt', { CiphertextBlob: wrapped, DestinationKeyId: other })
  expect(moved.refused).toBe('AccessDeniedException')
  const listed = await engine.kms.listKeys({ limit: 1_000 })
  expect(listed.items.map(({ keyId }) => keyId)).not.toContain(key)
}

describe('scheduling a deletion', () => {
  test.each([
    [undefined, 30],
    [7, 7],
    [30, 30],
  ])(
    'with a window of %s answers as AWS KMS does, and the key is of no use at once',
    async (given, days) => {
      const key = await service.createKey()
      const message = await seal(key)
      await expectOpened(message)
      const { arn } = await service.engine.kms.registry.resolve(key)
      expect(await schedule(key, given)).toEqual({
        KeyId: arn,
        DeletionDate: nowMs / 1000 + days * 86_400,
        KeyState: 'PendingDeletion',
        PendingWindowInDays: days,
      })
      const { KeyMetadata } = await ask(service.engine, 'DescribeKey', { KeyId: key })
      expect(KeyMetadata).toMatchObject({
        KeyState: 'PendingDeletion',
        Enabled: false,
        DeletionDate: nowMs / 1000 + days * 86_400,
      })
      const answer = await service.call('encrypt', { key, context, plaintexts: [plaintext] })
      expect(answer.code).toBe('KMS_KEY_STATE_INVALID')
      expect((await open(message)).plaintexts).toEqual([null])
      // What Terraform takes for a success when it deletes again.
      const again = await schedule(key, given)
      expect(again.refused).toBe('KMSInvalidStateException')
      expect(again.message).toContain('is pending deletion')
    },
  )

  test.each([6, 31, 0, -7, 7.5])(
    'with a window of %s days is refused, and nothing is scheduled',
    async (days) => {
      const key = await service.createKey()
      const refusal = await schedule(key, days)
      expect(refusal.refused).toMatch(/ValidationException|SerializationException/)
      expect(refusal.message).toContain('pendingWindowInDays')
      const answer = await service.call(`keys/${key}/schedule-deletion`, {
        pendingWindowDays: days,
      })
      expect(answer.code).toBe('REQUEST_MALFORMED')
      expect(answer.message).toContain('pendingWindowDays')
      expect(await stateOf(key)).toBe('Enabled')
    },
  )
})

describe('a waiting period', () => {
  test.each([7, 30])(
    'of %s days takes nothing one millisecond early, and everything then',
    async (days) => {
      const [key, other] = [await service.createKey(), await service.createKey()]
      const message = await seal(key)
      const { CiphertextBlob: wrapped } = await ask(service.engine, 'Encrypt', {
        KeyId: key,
        Plaintext: 'AAAA',
      })
      await expectOpened(message)
      const dueMs = nowMs + days * DAY_MS
      await schedule(key, days)
      for (const early of [dueMs - days * DAY_MS, dueMs - DAY_MS, dueMs - 1]) {
        await runAt(early)
        expect(await stateOf(key)).toBe('PendingDeletion')
        expect(await storedOf(service.engine, key)).toHaveLength(1)
      }
      await runAt(dueMs)
      await expectGone(key, { message, wrapped: wrapped as Uint8Array }, other)
      await expectOpened(await seal(other))
    },
  )

  test('can be cancelled in its last millisecond, and the key lands in Disabled with all it had', async () => {
    const key = await service.createKey()
    await service.call('aliases', { alias: 'alias/kept', key })
    const message = await seal(key)
    const dueMs = nowMs + 7 * DAY_MS
    await schedule(key, 7)
    nowMs = dueMs - 1
    const { arn } = await service.engine.kms.registry.resolve(key)
    expect(await cancel(key)).toEqual({ KeyId: arn })
    expect(await stateOf(key)).toBe('Disabled')
    await runAt(dueMs + 365 * DAY_MS)
    const { KeyMetadata } = await ask(service.engine, 'DescribeKey', { KeyId: 'alias/kept' })
    expect(KeyMetadata).toMatchObject({ KeyId: key, KeyState: 'Disabled' })
    expect(KeyMetadata).not.toMatchObject({ DeletionDate: expect.anything() as unknown })
    await ask(service.engine, 'EnableKey', { KeyId: key })
    await expectOpened(message)
  })

  test('that is over cannot be cancelled, though nobody has come round to it yet', async () => {
    const key = await service.createKey()
    const dueMs = nowMs + 7 * DAY_MS
    await schedule(key, 7)
    nowMs = dueMs
    expect((await cancel(key)).refused).toBe('NotFoundException')
  })

  test('of a key that was cancelled and scheduled again is the second one', async () => {
    const key = await service.createKey()
    const message = await seal(key)
    const firstMs = nowMs + 7 * DAY_MS
    await schedule(key, 7)
    nowMs += 6 * DAY_MS
    await cancel(key)
    expect((await cancel(key)).message).toMatch(/ is not pending deletion\.$/)
    const secondMs = nowMs + 30 * DAY_MS
    await schedule(key)
    await runAt(firstMs)
    await runAt(secondMs - 1)
    expect(await stateOf(key)).toBe('PendingDeletion')
    await cancel(key)
    await ask(service.engine, 'EnableKey', { KeyId: key })
    await expectOpened(message)
    await schedule(key, 7)
    await runAt(nowMs + 7 * DAY_MS)
    expect(await stateOf(key)).toBe('NotFoundException')
  })

  test('raced by a cancellation ends one way or the other, never half', async () => {
    const keys = await Promise.all(Array.from({ length: 20 }, () => service.createKey()))
    const messages = await Promise.all(keys.map((key) => seal(key)))
    await Promise.all(keys.map((key) => schedule(key, 7)))
    const dueMs = nowMs + 7 * DAY_MS
    nowMs = dueMs - 1
    const cancelling = keys.map((key) => cancel(key))
    nowMs = dueMs
    await Promise.all([service.engine.scheduler.run(), ...cancelling])
    const outcomes = await Promise.all(cancelling)
    for (const [i, key] of keys.entries()) {
      const cancelled = outcomes[i]?.refused === undefined
      expect(await stateOf(key)).toBe(cancelled ? 'Disabled' : 'NotFoundException')
      if (!cancelled) continue
      await ask(service.engine, 'EnableKey', { KeyId: key })
      await expectOpened(messages[i] as Uint8Array)
    }
  })
})

describe('a key that was deleted', () => {
  async function destroy(key: string): Promise<void> {
    await schedule(key, 7)
    await runAt(nowMs + 7 * DAY_MS)
  }

  test('gives its aliases and their names back', async () => {
    const [key, heir] = [await service.createKey(), await service.createKey()]
    const aliases = Array.from({ length: 50 }, (_, i) => `alias/left/${i}`)
    for (const alias of aliases) await service.call('aliases', { alias, key })
    for (const alias of aliases) expect(await stateOf(alias)).toBe('Enabled')
    await destroy(key)
    for (const alias of aliases) expect(await stateOf(alias)).toBe('NotFoundException')
    const listed = await service.engine.kms.aliases.list({ limit: 1_000 })
    expect(listed.items.filter(({ name }) => name.startsWith('alias/left/'))).toEqual([])
    for (const alias of aliases) await service.call('aliases', { alias, key: heir })
    expect((await service.engine.kms.registry.resolve('alias/left/7')).keyId).toBe(heir)
  })

  test('opens nothing for a request that was under way with it', async () => {
    const key = await service.createKey()
    const message = await seal(key)
    // Every change empties the caches.
    await service.call(`keys/${key}/rotate`, {})
    let letGo = (): void => undefined
    const released = new Promise<void>((resolve) => (letGo = resolve))
    let reach = (): void => undefined
    const reached = new Promise<void>((resolve) => (reach = resolve))
    const unwrapKey = Object.getOwnPropertyDescriptor(LocalKeyStore.prototype, 'unwrapKey')
      ?.value as KeyStore['unwrapKey']
    vi.spyOn(LocalKeyStore.prototype, 'unwrapKey').mockImplementation(async function (
      this: LocalKeyStore,
      ...parameters
    ) {
      const unwrapped = await Reflect.apply(unwrapKey, this, parameters)
      reach()
      await released
      return unwrapped
    })
    const opening = open(message)
    await reached
    await destroy(key)
    letGo()
    const answer = await opening
    expect(answer.plaintexts).toEqual([null])
    expect(answer.errors).toHaveLength(1)
  })

  test('leaves not a byte of its material in the catalog’s files', async () => {
    // Material of many lengths among others of its kind, so that pages are split, filled and merged.
    const keys = await Promise.all(Array.from({ length: 60 }, () => service.createKey()))
    const doomed = keys.filter((_, i) => i % 2 === 0)
    for (const [i, key] of keys.entries()) {
      for (let times = 0; times < i % 4; times++) await service.call(`keys/${key}/rotate`, {})
    }
    const lost: Buffer[] = []
    const kept: Buffer[] = []
    for (const key of keys) {
      const list = doomed.includes(key) ? lost : kept
      list.push(...(await storedOf(service.engine, key)))
    }
    const before = filesOf(service.dataDirectory)
    for (const stored of [...lost, ...kept]) expect(before.includes(stored)).toBe(true)
    await Promise.all(doomed.map((key) => schedule(key, 7)))
    await runAt(nowMs + 7 * DAY_MS)
    const after = filesOf(service.dataDirectory)
    // Its middle too: a page may keep a part.
    for (const stored of lost) expect(after.includes(stored.subarray(20, 52))).toBe(false)
    for (const stored of kept) expect(after.includes(stored)).toBe(true)
  })
})

describe('a catalog from before the destruction that is put back', () => {
  let backup: string
  let original: Service
  let key: string
  let other: string
  let message: Uint8Array
  let kept: Uint8Array
  let stored: readonly Buffer[]

  /** The files as they are, with the log of what was destroyed, but with the catalog of the backup. */
  async function restore(work: (restored: Service) => Promise<void>): Promise<void> {
    const directory = mkdtempSync(join(tmpdir(), 'keyfold-restored-'))
    try {
      cpSync(original.dataDirectory, directory, {
        recursive: true,
        filter: (name) => !basename(name).startsWith('catalog'),
      })
      copyFileSync(join(backup, 'catalog.sqlite'), join(directory, 'catalog.sqlite'))
      const restored = await startService({ filesFrom: directory, wallClockMs })
      try {
        await work(restored)
      } finally {
        await restored.close()
      }
    } finally {
      rmSync(directory, { recursive: true, force: true })
    }
  }

  beforeAll(async () => {
    backup = mkdtempSync(join(tmpdir(), 'keyfold-backup-'))
    const first = await startService({ wallClockMs })
    key = await first.createKey()
    other = await first.createKey()
    await first.call('aliases', { alias: 'alias/restored', key })
    message = await seal(key, first)
    kept = await seal(other, first)
    stored = await storedOf(first.engine, key)
    await first.engine.close()
    copyFileSync(join(first.dataDirectory, 'catalog.sqlite'), join(backup, 'catalog.sqlite'))
    original = await startService({ filesFrom: first.dataDirectory, wallClockMs })
    // Versions that the backup has never heard of.
    await original.call(`keys/${key}/rotate`, {})
    await ask(original.engine, 'ScheduleKeyDeletion', { KeyId: key, PendingWindowInDays: 7 })
    nowMs += 7 * DAY_MS
    await original.engine.scheduler.run()
    await original.engine.close()
  })
  afterAll(() => {
    rmSync(backup, { recursive: true, force: true })
    rmSync(original.dataDirectory, { recursive: true, force: true })
  })

  test('holds the material, as the test needs it to', () => {
    const bytes = readFileSync(join(backup, 'catalog.sqlite'))
    for (const one of stored) expect(bytes.includes(one)).toBe(true)
  })

  test('brings nothing back: the key stays deleted, and only that one', async () => {
    await restore(async (restored) => {
      const described = await ask(restored.engine, 'DescribeKey', { KeyId: key })
      expect(described.refused).toBe('NotFoundException')
      expect((await open(message, restored)).plaintexts).toEqual([null])
      const named = await ask(restored.engine, 'DescribeKey', { KeyId: 'alias/restored' })
      expect(named.refused).toBe('NotFoundException')
      await expectOpened(kept, restored)
      await expectOpened(await seal(other, restored), restored)
      const files = filesOf(restored.dataDirectory)
      for (const one of stored) expect(files.includes(one.subarray(20, 52))).toBe(false)
    })
  })

  test('is held against the log again and again', async () => {
    await restore(async (restored) => {
      const again = await startService({ filesFrom: restored.dataDirectory, wallClockMs })
      expect((await open(message, again)).plaintexts).toEqual([null])
      await again.close()
    })
  })

  test('leaves tombstones of the rows, which nothing can take for material', async () => {
    await restore(async (restored) => {
      await restored.engine.close()
      const [rows, states] = runInCatalog(
        restored.dataDirectory,
        `select version, stored, "destroyedAtMs" > 0 as destroyed from "keyMaterials" where "kmsKeyId" = '${key}'`,
        `select state from "kmsKeys" where id = '${key}'`,
      )
      expect(rows).toEqual([{ version: 1, stored: null, destroyed: 1 }])
      expect(states).toEqual([{ state: 'Deleted' }])
    })
  })
})
