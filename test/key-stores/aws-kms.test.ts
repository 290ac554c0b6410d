/**
 * AWS KMS as key store. Over there is another keyfold on a port of its own, spoken to through AWS's SDK: a real
 * server and a real client. What only AWS itself would do differently is not tried here.
 */
import { CreateKeyCommand, DescribeKeyCommand, type KMSClient } from '@aws-sdk/client-kms'
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import type { Crypto } from '../../dist/crypto/crypto.js'
import { openAwsKmsKeyStore, type AwsKmsKeyStore } from '../../dist/key-stores/aws-kms.js'
import type { KeyMaterial } from '../../dist/key-stores/key-store.js'
import { implementations } from '../crypto/implementations.ts'
import { clientOf } from '../server/aws/sdk.ts'
import { startService, type Service } from '../service.ts'

const crypto = implementations[0] as Crypto
const KEY_SPEC = 'SYMMETRIC_DEFAULT'
const aad = randomBytes(55)

let remote: Service
let kms: KMSClient
let store: AwsKmsKeyStore

beforeAll(async () => {
  remote = await startService()
  kms = await clientOf(remote)
  store = await openStore()
})
afterAll(async () => {
  await store.close()
  kms.destroy()
  await remote.close()
})

/** As this user of the other side, or as its root. */
async function openStore(
  settings: {
    readonly createsKeys?: boolean
    readonly user?: string
    readonly endpoint?: string
  } = {},
): Promise<AwsKmsKeyStore> {
  const { createsKeys = true, user, endpoint = remote.url } = settings
  const { accessKeys, config } = remote.engine
  const { record, secretAccessKey } = await accessKeys.create({
    principalArn: `arn:aws:iam::${config.account}:${user === undefined ? 'root' : `user/${user}`}`,
  })
  const credentials = {
    accessKeyId: record.accessKeyId,
    openSecret: () => Uint8Array.from(Buffer.from(secretAccessKey)),
  }
  const { region } = config
  return openAwsKmsKeyStore('remote', { region, endpoint, credentials, createsKeys }, crypto)
}

async function make(version = 1, kmsKeyId = randomBytes(16)): Promise<KeyMaterial> {
  const created = await store.createKeyMaterial(kmsKeyId, version, KEY_SPEC)
  return { kmsKeyId, version, keySpec: KEY_SPEC, ...created }
}

const arnOf = ({ stored }: KeyMaterial): string => Buffer.from(stored.subarray(2)).toString()

describe('AWS KMS as key store', () => {
  test('keeps no more than the ARN of a key that it had made over there', async () => {
    const material = await make(7)
    expect([...material.stored.subarray(0, 2)]).toEqual([0xf4, 4])
    expect(material.publicKey).toBeUndefined()
    const { KeyMetadata } = await kms.send(new DescribeKeyCommand({ KeyId: arnOf(material) }))
    expect(KeyMetadata).toMatchObject({ Arn: arnOf(material), KeyState: 'Enabled' })
    expect(KeyMetadata?.Description).toContain(Buffer.from(material.kmsKeyId).toString('hex'))
    expect(KeyMetadata?.Description).toContain('version 7')
  })

  test('opens what it wrapped, and nothing with one bit of it changed', async () => {
    const material = await make()
    const plaintext = randomBytes(100)
    const wrapped = await store.wrapBytes(material, aad, plaintext)
    expect(Buffer.from(await store.unwrapBytes(material, aad, wrapped))).toEqual(plaintext)
    for (let i = 0; i < wrapped.length; i++) {
      const changed = Uint8Array.from(wrapped)
      changed[i] = (changed[i] as number) ^ 1
      await expect(store.unwrapBytes(material, aad, changed), `byte ${i}`).rejects.toMatchObject({
        code: 'DECRYPT_FAILED',
      })
    }
  })

  test('uses a key that is there, by any of its names', async () => {
    const { KeyMetadata } = await kms.send(new CreateKeyCommand({}))
    const { KeyId, Arn } = KeyMetadata ?? {}
    for (const name of [KeyId, Arn]) {
      const { stored } = await store.createKeyMaterial(randomBytes(16), 1, KEY_SPEC, name)
      expect(Buffer.from(stored.subarray(2)).toString()).toBe(Arn)
    }
  })
})
