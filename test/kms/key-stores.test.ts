/**
 * Key stores through restarts, outages, locks and deletions: what the catalog remembers of them, what becomes of their
 * keys meanwhile, and what is destroyed in them.
 */
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import type { Engine } from '../../dist/engine.js'
import type { KeyStoreRecord } from '../../dist/kms/key-store-record.js'
import { ask } from '../aws.ts'
import { runInCatalog } from '../catalog/file.ts'
import { Elsewhere } from '../key-stores/elsewhere.ts'
import { startService, type Service } from '../service.ts'

const DAY_MS = 24 * 60 * 60 * 1000
const SETTINGS = { url: 'https://vault.example.com' }
const TOKEN = 'hvs.token-of-the-vault'

let nowMs = Date.UTC(2026, 0, 1)
let elsewhere: Elsewhere
let service: Service
const services: Service[] = []

beforeEach(async () => {
  elsewhere = new Elsewhere()
  service = await start()
})
afterEach(async () => {
  for (const started of services.splice(0)) await started.close()
})

async function start(from?: Pick<Service, 'dataDirectory'>): Promise<Service> {
  const started = await startService({
    keyStoreOpener: elsewhere.opener,
    wallClockMs: () => nowMs,
    settings: { logLevel: 'warn' },
    ...(from === undefined ? {} : { filesFrom: from.dataDirectory }),
  })
  services.push(started)
  return started
}

const storesOf = ({ engine }: Service): Engine['kms']['keyStores'] => engine.kms.keyStores

async function createConnected(kind: 'transit' | 'aws-kms' = 'transit'): Promise<string> {
  const settings =
    kind === 'transit' ? SETTINGS : { region: 'us-east-1', accessKeyId: 'AKIAABCDEFGHIJKLMNOP' }
  const secret = Buffer.from(TOKEN)
  const { id } = await storesOf(service).create({ name: kind, kind, settings, secret })
  expect(secret.every((byte) => byte === 0)).toBe(true)
  await storesOf(service).connect(id)
  expect((await storesOf(service).settled(id)).connectionState).toBe('CONNECTED')
  return id
}

const createKeyIn = async (keyStore: string, externalKeyId?: string): Promise<string> =>
  (await service.engine.kms.createKey({ keyStore, externalKeyId })).keyId

const plaintext = Buffer.from('plaintext')
const seal = async (key: string, by = service): Promise<Uint8Array> =>
  (await by.call('encrypt', { key, plaintexts: [plaintext] })).ciphertexts[0] as Uint8Array
const open = async (ciphertext: Uint8Array, by: Service): Promise<string | undefined> => {
  const { plaintexts, errors } = await by.call('decrypt', { ciphertexts: [ciphertext] })
  const [opened] = plaintexts
  return errors?.[0]?.[1] ?? (opened ? Buffer.from(opened).toString() : undefined)
}

const untilConnected = (by: Service, id: string): Promise<KeyStoreRecord> =>
  vi.waitFor(
    () => {
      const record = storesOf(by).find(id)
      expect(record.connectionState).toBe('CONNECTED')
      return record
    },
    { timeout: 20_000 },
  )

describe('after a restart', () => {
  test('what was connected is connected again, by itself, with its secret', async () => {
    const id = await createConnected()
    const key = await createKeyIn(id)
    const ciphertext = await seal(key)
    const again = await start(service)
    await untilConnected(again, id)
    expect(elsewhere.openedWith.at(-1)).toMatchObject({ secret: TOKEN, settings: SETTINGS })
    expect(await open(ciphertext, again)).toBe('plaintext')
  })

  test('what was disconnected stays so', async () => {
    const id = await createConnected()
    await storesOf(service).disconnect(id)
    const { length } = elsewhere.openedWith
    const again = await start(service)
    expect(storesOf(again).find(id).connectionState).toBe('DISCONNECTED')
    await storesOf(again).settled(id)
    expect(elsewhere.openedWith).toHaveLength(length)
  })

  test('a store that is away stops nothing, and is connected once it is back', async () => {
    const id = await createConnected()
    const key = await createKeyIn(id)
    const ciphertext = await seal(key)
    const local = await service.createKey()
    const sealedLocally = await seal(local)
    elsewhere.failsWith = 'KEY_STORE_UNREACHABLE'
    const again = await start(service)
    await storesOf(again).settled(id)
    expect(storesOf(again).find(id).connectionState).toBe('CONNECTING')
    expect(await open(sealedLocally, again)).toBe('plaintext')
    expect(await open(ciphertext, again)).toBe('KMS_KEY_STATE_INVALID')
    expect((await fetch(`${again.url}/readyz`)).status).toBe(200)
    expect(again.logged.join('')).toContain('transit could not be connected (NETWORK_ERRORS)')
    elsewhere.failsWith = undefined
    await untilConnected(again, id)
    expect(await open(ciphertext, again)).toBe('plaintext')
  })

  test('a store that refuses its credential is asked once: an HSM would lock its user out', async () => {
    const id = await createConnected()
    elsewhere.failsWith = 'KEY_STORE_CREDENTIAL_INCORRECT'
    const { length } = elsewhere.openedWith
    const again = await start(service)
    expect(await storesOf(again).settled(id)).toMatchObject({
      connectionState: 'FAILED',
      connectionErrorCode: 'INVALID_CREDENTIALS',
    })
    expect(elsewhere.openedWith).toHaveLength(length + 1)
    // It is remembered: the next start does not ask at all.
    const third = await start(again)
    expect(storesOf(third).find(id).connectionState).toBe('FAILED')
    expect(elsewhere.openedWith).toHaveLength(length + 1)
  })

  test('a store that is disconnected while it is retried is left alone', async () => {
    const id = await createConnected()
    elsewhere.failsWith = 'KEY_STORE_UNREACHABLE'
    const again = await start(service)
    await storesOf(again).settled(id)
    expect(await storesOf(again).disconnect(id)).toMatchObject({ connectionState: 'DISCONNECTED' })
    elsewhere.failsWith = undefined
    await storesOf(again).connect(id)
    await storesOf(again).settled(id)
    const third = await start(again)
    await untilConnected(third, id)
  })

  test('settings that were changed in the catalog do not get the secret', async () => {
    const id = await createConnected()
    const dataDirectory = mkdtempSync(join(tmpdir(), 'keyfold-changed-'))
    cpSync(service.dataDirectory, dataDirectory, { recursive: true })
    const other = JSON.stringify({ url: 'https://thief.example.com' })
    runInCatalog(dataDirectory, `update "keyStores" set "settings" = '${other}'`)
    const { length } = elsewhere.openedWith
    const again = await start({ dataDirectory })
    rmSync(dataDirectory, { recursive: true })
    expect(await storesOf(again).settled(id)).toMatchObject({
      connectionState: 'FAILED',
      connectionErrorCode: 'INTERNAL_ERROR',
    })
    expect(elsewhere.openedWith).toHaveLength(length)
  })

  test('a server ends while a store is opening, and what opens then is closed', async () => {
    const id = await createConnected()
    let openGate = (): void => undefined
    elsewhere.gate = new Promise((resolve) => (openGate = resolve))
    const again = await start(service)
    const attempt = storesOf(again).settled(id)
    services.splice(services.indexOf(again), 1)
    await again.close()
    const { closed } = elsewhere
    openGate()
    await attempt
    expect(elsewhere.closed).toBe(closed + 1)
  })
})

test('a lock takes the keys of every store, and connects none again', async () => {
  const id = await createConnected()
  const key = await createKeyIn(id)
  const { materials, currentVersion } = await service.engine.kms.describeKey(key)
  const store = storesOf(service).opened(id)
  await service.call('lock', {})
  const material = materials.get(currentVersion)
  if (store === undefined || material === undefined) throw new Error('it was connected')
  await expect(
    store.wrapBytes(material, new Uint8Array(55), new Uint8Array(32)),
  ).rejects.toMatchObject({ code: 'LOCKED' })
  expect((await service.call(`key-stores/${id}/disconnect`, {})).code).toBe('LOCKED')
})

test('a data key that is fetched while its store is disconnected is not kept, nor handed out', async () => {
  const id = await createConnected()
  const key = await createKeyIn(id)
  const ciphertext = await seal(key)
  await storesOf(service).disconnect(id)
  await storesOf(service).settled(id)
  await storesOf(service).connect(id)
  await storesOf(service).settled(id)
  const store = storesOf(service).opened(id)
  if (store === undefined) throw new Error('it is connected')
  const unwrapKey = store.unwrapKey.bind(store)
  vi.spyOn(store, 'unwrapKey').mockImplementation(async (...given) => {
    const unwrapped = await unwrapKey(...given)
    await storesOf(service).disconnect(id)
    return unwrapped
  })
  expect(await open(ciphertext, service)).toBe('KMS_KEY_STATE_INVALID')
  expect(service.engine.counters()).toMatchObject({ openKeys: 0, sealKeys: 0 })
})

describe('what a deleted key leaves in its store', () => {
  const expire = async (keyId: string): Promise<void> => {
    await ask(service.engine, 'ScheduleKeyDeletion', { KeyId: keyId, PendingWindowInDays: 7 })
    nowMs += 7 * DAY_MS
    await service.engine.scheduler.run()
  }
  const hexOf = (keyId: string): string => keyId.replaceAll('-', '')

  test('is destroyed there, each version of it, once the key is gone here', async () => {
    const id = await createConnected('aws-kms')
    const key = await createKeyIn(id)
    await service.engine.kms.rotations.rotateOnDemand(key)
    await expire(key)
    expect([...elsewhere.destroyed].sort()).toEqual([`${hexOf(key)}/1`, `${hexOf(key)}/2`])
    await expect(service.engine.kms.describeKey(key)).rejects.toMatchObject({
      code: 'KMS_KEY_NOT_FOUND',
    })
    await service.engine.scheduler.run()
    expect(elsewhere.destroyed).toHaveLength(2)
  })

  test('is not touched where the key was there before', async () => {
    const id = await createConnected()
    await expire(await createKeyIn(id, 'theirs'))
    await service.engine.scheduler.run()
    expect(elsewhere.destroyed).toEqual([])
    // And may be a key here again.
    await createKeyIn(id, 'theirs')
  })

  test('is tried again where the store fails, across a restart, and is told to the log', async () => {
    const id = await createConnected()
    const key = await createKeyIn(id)
    elsewhere.failsWith = 'KEY_STORE_UNREACHABLE'
    await expire(key)
    expect(elsewhere.destroyed).toEqual([])
    expect(service.logged.join('')).toContain('destruction of key material in its key store failed')
    await expect(service.engine.kms.describeKey(key)).rejects.toMatchObject({
      code: 'KMS_KEY_NOT_FOUND',
    })
    elsewhere.failsWith = undefined
    await start(service)
    await vi.waitFor(() => expect(elsewhere.destroyed).toEqual([`${hexOf(key)}/1`]), {
      timeout: 20_000,
    })
  })

  test('waits for a store that is disconnected, without a word, and goes when it is deleted', async () => {
    const id = await createConnected()
    const [one, other] = [await createKeyIn(id), await createKeyIn(id)]
    await storesOf(service).disconnect(id)
    await storesOf(service).settled(id)
    await expire(one)
    expect(service.logged.join('')).not.toContain('destruction')
    await storesOf(service).connect(id)
    await vi.waitFor(() => expect(elsewhere.destroyed).toEqual([`${hexOf(one)}/1`]), {
      timeout: 20_000,
    })
    await storesOf(service).disconnect(id)
    await storesOf(service).settled(id)
    await expire(other)
    await storesOf(service).delete(id)
    expect(storesOf(service).list()).toEqual([])
    expect(elsewhere.destroyed).toHaveLength(1)
  })
})

test('keys of a store that rotates are rotated, of others not', async () => {
  const rotating = await createKeyIn(await createConnected('aws-kms'))
  const ciphertext = await seal(rotating)
  const rotated = await service.engine.kms.rotations.rotateOnDemand(rotating)
  expect(rotated.currentVersion).toBe(2)
  expect(await open(ciphertext, service)).toBe('plaintext')
  const fixed = await createKeyIn(await createConnected('transit'))
  for (const operation of ['RotateKeyOnDemand', 'EnableKeyRotation', 'GetKeyRotationStatus']) {
    expect(await ask(service.engine, operation, { KeyId: fixed })).toMatchObject({
      refused: 'UnsupportedOperationException',
    })
  }
})
