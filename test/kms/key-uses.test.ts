/** Use counts of key material: every message and byte, under the version that it was used with, also after a restart. */
import { DecryptCommand, EncryptCommand, GenerateDataKeyCommand } from '@aws-sdk/client-kms'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { openEngine } from '../../dist/engine.js'
import { clientOf } from '../server/aws/sdk.ts'
import { startService, type Service } from '../service.ts'
import { runInCatalog } from '../catalog/file.ts'

let service: Service

beforeAll(async () => {
  service = await startService()
})
afterAll(() => service.close())

const rows = [Buffer.from('row one'), Buffer.from('row two')]

describe('use counts', () => {
  test('add up per version of key material, with the last operation', async () => {
    const key = await service.createKey()
    const { keyUses, kms } = service.engine
    const beforeMs = Date.now()
    expect(await keyUses.read(key)).toEqual([])
    const { ciphertexts } = await service.call('encrypt', { key, plaintexts: rows })
    await service.call('encrypt', { key, plaintexts: rows, form: 'packed' })
    expect(await keyUses.read(key)).toMatchObject([
      { kmsKeyId: key, version: 1, messages: 4, bytes: 28, lastOperation: 'Encrypt' },
    ])
    await kms.rotations.rotateOnDemand(key)
    const newer = await service.call('encrypt', { key, plaintexts: rows })
    await service.call('data-keys', { key, count: 2, plaintext: false })
    await service.call('decrypt', { ciphertexts: [...ciphertexts, ...newer.ciphertexts] })
    const uses = await keyUses.read(key)
    expect(uses).toMatchObject([
      { version: 1, messages: 6, bytes: 42, lastOperation: 'Decrypt' },
      { version: 2, messages: 6, bytes: 14 + 64 + 14, lastOperation: 'Decrypt' },
    ])
    for (const { lastUsedAtMs } of uses) {
      expect(lastUsedAtMs).toBeGreaterThanOrEqual(beforeMs)
      expect(lastUsedAtMs).toBeLessThanOrEqual(Date.now())
    }
  })

  test('add up what the AWS protocol does, under the material that a ciphertext names', async () => {
    const key = await service.createKey()
    const { keyUses, kms } = service.engine
    const client = await clientOf(service)
    const { CiphertextBlob } = await client.send(
      new EncryptCommand({ KeyId: key, Plaintext: Buffer.alloc(10) }),
    )
    await kms.rotations.rotateOnDemand(key)
    await client.send(new GenerateDataKeyCommand({ KeyId: key, NumberOfBytes: 24 }))
    await client.send(new DecryptCommand({ CiphertextBlob }))
    await expect(
      client.send(new DecryptCommand({ CiphertextBlob, EncryptionContext: { a: 'b' } })),
    ).rejects.toThrow()
    expect(await keyUses.read(key)).toMatchObject([
      { version: 1, messages: 2, bytes: 20, lastOperation: 'Decrypt' },
      { version: 2, messages: 1, bytes: 24, lastOperation: 'GenerateDataKey' },
    ])
  })

  test('do not count what was refused', async () => {
    const key = await service.createKey()
    await service.engine.kms.disableKey(key)
    const { code } = await service.call('encrypt', { key, plaintexts: rows })
    expect(code).toBe('KMS_KEY_DISABLED')
    expect(await service.engine.keyUses.read(key)).toEqual([])
  })

  test('are counted once, however many flushes run at once', async () => {
    const key = await service.createKey()
    const { keyUses } = service.engine
    const all: Promise<unknown>[] = []
    for (let i = 0; i < 50; i++) {
      keyUses.add({
        kmsKeyId: key,
        version: 1,
        messages: 1,
        bytes: 2,
        timeMs: i,
        operation: `O${i}`,
      })
      all.push(keyUses.flush(), keyUses.read(key))
    }
    await Promise.all(all)
    expect(await keyUses.read(key)).toEqual([
      {
        kmsKeyId: key,
        version: 1,
        messages: 50,
        bytes: 100,
        lastUsedAtMs: 49,
        lastOperation: 'O49',
      },
    ])
  })

  test('keep the later use where an earlier one is flushed after it', async () => {
    const key = await service.createKey()
    const { keyUses } = service.engine
    const use = { kmsKeyId: key, version: 1, messages: 1, bytes: 1 }
    keyUses.add({ ...use, timeMs: 2_000, operation: 'Later' })
    await keyUses.flush()
    keyUses.add({ ...use, timeMs: 1_000, operation: 'Earlier' })
    expect(await keyUses.read(key)).toMatchObject([
      { messages: 2, lastUsedAtMs: 2_000, lastOperation: 'Later' },
    ])
  })

  test('of a key that is gone hold nobody up', async () => {
    const key = await service.createKey()
    const { keyUses } = service.engine
    const use = { version: 1, messages: 1, bytes: 1, timeMs: 1, operation: 'Encrypt' }
    keyUses.add({ kmsKeyId: '00000000-0000-0000-0000-000000000000', ...use })
    keyUses.add({ kmsKeyId: key, ...use })
    expect(await keyUses.read(key)).toHaveLength(1)
  })

  test('are in the catalog when the engine is closed, and are no change that other nodes read', async () => {
    const other = await startService()
    const { config } = other.engine
    const key = await other.createKey()
    await other.call('encrypt', { key, plaintexts: rows })
    await other.engine.close()
    const number = (): unknown => runInCatalog(config.dataDirectory, 'select number from changes')
    const before = number()
    const again = await openEngine(config, { log: () => undefined })
    try {
      expect(await again.keyUses.read(key)).toMatchObject([{ version: 1, messages: 2, bytes: 14 }])
      const use = {
        kmsKeyId: key,
        version: 1,
        messages: 1,
        bytes: 1,
        timeMs: 1,
        operation: 'Encrypt',
      }
      again.keyUses.add(use)
      expect(await again.keyUses.read(key)).toMatchObject([{ messages: 3 }])
    } finally {
      await again.close()
    }
    expect(number()).toEqual(before)
  })
})
