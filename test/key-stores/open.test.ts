/** Key stores as the engine opens them: a real token and a real KMS, from what the catalog keeps of them. */
import { ScheduleKeyDeletionCommand, DescribeKeyCommand } from '@aws-sdk/client-kms'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'

import { clientOf } from '../server/aws/sdk.ts'
import { startService, type Service } from '../service.ts'
import { describeWithSoftHsm, PIN } from './softhsm.ts'

const DAY_MS = 24 * 60 * 60 * 1000
const plaintext = Buffer.from('plaintext')

async function expectOpens(service: Service, key: string): Promise<void> {
  const { ciphertexts } = await service.call('encrypt', { key, plaintexts: [plaintext] })
  const { plaintexts } = await service.call('decrypt', { ciphertexts })
  expect(Buffer.from(plaintexts[0] ?? []).toString()).toBe('plaintext')
}

describeWithSoftHsm('a PKCS#11 token', (create) => {
  const token = create()
  afterAll(() => token.remove())

  test('holds keys, takes its PIN from the catalog, and loses them with their KMS keys', async () => {
    let nowMs = Date.UTC(2026, 0, 1)
    const pkcs11Modules = join(token.directory, 'modules.json')
    const module = { library: token.module, token: { label: token.label } }
    writeFileSync(pkcs11Modules, JSON.stringify({ soft: module }))
    const service = await startService({ settings: { pkcs11Modules }, wallClockMs: () => nowMs })
    try {
      const { keyStores } = service.engine.kms
      const settings = { module: 'soft' }
      const { id } = await keyStores.create({
        ...{ name: 'hsm', kind: 'pkcs11', settings },
        secret: Buffer.from('wrong-pin'),
      })
      await keyStores.connect(id)
      expect(await keyStores.settled(id)).toMatchObject({
        connectionState: 'FAILED',
        connectionErrorCode: 'INVALID_CREDENTIALS',
      })
      await keyStores.disconnect(id)
      await keyStores.update(id, { secret: Buffer.from(PIN) })
      await keyStores.connect(id)
      expect((await keyStores.settled(id)).connectionState).toBe('CONNECTED')
      const { keyId, arn } = await service.engine.kms.createKey({ keyStore: id })
      await expectOpens(service, keyId)
      expect(token.tool('--list-objects')).toContain(keyId)
      const kms = await clientOf(service)
      await kms.send(new ScheduleKeyDeletionCommand({ KeyId: arn, PendingWindowInDays: 7 }))
      nowMs += 7 * DAY_MS
      await service.engine.scheduler.run()
      expect(token.tool('--list-objects')).not.toContain(keyId)
      kms.destroy()
    } finally {
      await service.close()
    }
  })
})

test('another keyfold as AWS KMS makes keys, and ends them with their KMS keys', async () => {
  let nowMs = Date.now()
  const remote = await startService()
  const service = await startService({ wallClockMs: () => nowMs })
  try {
    const { record, secretAccessKey } = await remote.engine.accessKeys.create({
      principalArn: 'arn:aws:iam::000000000000:root',
    })
    const { keyStores } = service.engine.kms
    const { id } = await keyStores.create({
      name: 'remote',
      kind: 'aws-kms',
      settings: {
        region: 'us-east-1',
        endpoint: remote.url,
        accessKeyId: record.accessKeyId,
        createsKeys: 'true',
      },
      secret: Buffer.from(secretAccessKey),
    })
    await keyStores.connect(id)
    expect((await keyStores.settled(id)).connectionState).toBe('CONNECTED')
    const { keyId, materials } = await service.engine.kms.createKey({ keyStore: id })
    await expectOpens(service, keyId)
    const KeyId = Buffer.from(materials.get(1)?.stored.subarray(2) ?? []).toString()
    await service.engine.kms.deletions.schedule(keyId, 7)
    nowMs += 7 * DAY_MS
    await service.engine.scheduler.run()
    const kms = await clientOf(remote)
    const { KeyMetadata } = await kms.send(new DescribeKeyCommand({ KeyId }))
    expect(KeyMetadata?.KeyState).toBe('PendingDeletion')
    kms.destroy()
  } finally {
    await service.close()
    await remote.close()
  }
})
