/** Files of ours and of the AWS Encryption SDK for JavaScript, each read by the other. */
import { randomBytes } from 'node:crypto'
import { KmsKeyringNode, type KmsNodeClientSupplier } from '@aws-crypto/client-node'
import type { KMS } from '@aws-sdk/client-kms'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import {
  awsKmsClient,
  decryptBuffer,
  encryptBuffer,
  Keyfold,
  keyfoldKmsClient,
  type KmsClient,
  KmsKeyring,
  MultiKeyring,
} from '../../dist/index.js'
import { kmsOf } from '../clients/sdk.ts'
import { startService, type Service } from '../service.ts'
import { aesPair, CONTEXTS, rsaPair, sdkDecrypt, sdkEncrypt, type KeyringPair } from './sdk.ts'

const FRAME = 4_096
const SIZES = [0, 1, FRAME - 1, FRAME, FRAME + 1, 2 * FRAME, 300 * FRAME + 17]

describe('a file of every size, and with every context', () => {
  const { ours, theirs } = aesPair()

  test.each(SIZES)('%i bytes go both ways', async (bytes) => {
    const plaintext = randomBytes(bytes)
    const message = await encryptBuffer(ours, plaintext, { frameBytes: FRAME })
    expect((await sdkDecrypt(theirs, message)).plaintext.equals(plaintext)).toBe(true)
    for (const suiteId of [0x0478, 0x0578]) {
      for (const frameLength of [FRAME, 65_536, 1_000]) {
        const found = await decryptBuffer(
          ours,
          await sdkEncrypt(theirs, plaintext, { suiteId, frameLength }),
        )
        expect(found.plaintext.equals(plaintext)).toBe(true)
        expect(found.header).toMatchObject({ suiteId, frameBytes: frameLength })
      }
    }
  })

  test.each(Object.entries(CONTEXTS))('a context of %s goes both ways', async (_, context) => {
    const plaintext = Buffer.from('four and twenty blackbirds')
    const message = await encryptBuffer(ours, plaintext, { context })
    const theirView = await sdkDecrypt(theirs, message)
    expect(theirView.plaintext.equals(plaintext)).toBe(true)
    expect(Object.entries(theirView.messageHeader.encryptionContext).sort()).toEqual(
      Object.entries(context).sort(),
    )
    const ourView = await decryptBuffer(
      ours,
      await sdkEncrypt(theirs, plaintext, { encryptionContext: context }),
    )
    expect(ourView.plaintext.equals(plaintext)).toBe(true)
    expect(Object.entries(ourView.header.context).sort()).toEqual(Object.entries(context).sort())
  })

  test.each([0x0014, 0x0046, 0x0078, 0x0114, 0x0146, 0x0178, 0x0214, 0x0346, 0x0378])(
    'suite %i of theirs is read where the policy allows it, and only there',
    async (suiteId) => {
      const plaintext = randomBytes(3 * FRAME)
      const message = await sdkEncrypt(theirs, plaintext, { suiteId, frameLength: FRAME })
      for (const commitmentPolicy of [
        'REQUIRE_ENCRYPT_ALLOW_DECRYPT',
        'FORBID_ENCRYPT_ALLOW_DECRYPT',
      ] as const) {
        const found = await decryptBuffer(ours, message, { commitmentPolicy })
        expect(found.plaintext.equals(plaintext)).toBe(true)
      }
      await expect(decryptBuffer(ours, message)).rejects.toMatchObject({
        code: 'COMMITMENT_REQUIRED',
      })
    },
  )
})

describe('every raw keyring', () => {
  const pairs: readonly (readonly [string, () => KeyringPair])[] = [
    ['AES-128', () => aesPair(16)],
    ['AES-192', () => aesPair(24)],
    ['AES-256', () => aesPair(32)],
    ['RSA-OAEP with SHA-1', () => rsaPair('sha1')],
    ['RSA-OAEP with SHA-256', () => rsaPair('sha256')],
    ['RSA-OAEP with SHA-384', () => rsaPair('sha384')],
    ['RSA-OAEP with SHA-512', () => rsaPair('sha512')],
  ]
  test.each(pairs)('%s wraps for the other and opens what it wrapped', async (_, create) => {
    const { ours, theirs } = create()
    const plaintext = randomBytes(100)
    const context = { table: 'orders' }
    const message = await encryptBuffer(ours, plaintext, { context })
    expect((await sdkDecrypt(theirs, message)).plaintext.equals(plaintext)).toBe(true)
    const found = await decryptBuffer(
      ours,
      await sdkEncrypt(theirs, plaintext, { encryptionContext: context }),
    )
    expect(found.plaintext.equals(plaintext)).toBe(true)
    await expect(decryptBuffer(create().ours, message)).rejects.toMatchObject({
      code: 'DECRYPT_FAILED',
    })
  })

  test('several of them wrap one file, and each opens it alone', async () => {
    const [one, two, three] = [aesPair(32, 'one'), rsaPair('sha256'), aesPair(16, 'three')]
    const plaintext = randomBytes(10)
    const message = await encryptBuffer(
      new MultiKeyring(one.ours, new MultiKeyring(two.ours, three.ours)),
      plaintext,
    )
    for (const { ours, theirs } of [one, two, three]) {
      expect((await decryptBuffer(ours, message)).plaintext.equals(plaintext)).toBe(true)
      expect((await sdkDecrypt(theirs, message)).plaintext.equals(plaintext)).toBe(true)
    }
    await expect(
      decryptBuffer(new MultiKeyring(aesPair(32, 'four').ours, aesPair(32, 'five').ours), message),
    ).rejects.toMatchObject({ code: 'DECRYPT_FAILED' })
  })

  test('a name that another begins with is another name', async () => {
    const { ours, theirs } = aesPair(32, 'key')
    const message = await sdkEncrypt(theirs, randomBytes(3))
    expect((await decryptBuffer(ours, message)).plaintext).toHaveLength(3)
    await expect(decryptBuffer(aesPair(32, 'ke').ours, message)).rejects.toMatchObject({
      code: 'DECRYPT_FAILED',
      detail: 'no encrypted data key is of a key of the keyring',
    })
  })
})

describe('the KMS keyring, over the client library and over the AWS SDK', () => {
  let service: Service
  let keyfold: Keyfold
  let clients: Readonly<Record<'keyfold' | 'aws', KmsClient>>
  let kms: KMS
  let clientProvider: KmsNodeClientSupplier

  beforeAll(async () => {
    service = await startService()
    keyfold = new Keyfold({ url: service.url, token: service.token })
    kms = await kmsOf(service)
    clients = { keyfold: keyfoldKmsClient(keyfold), aws: awsKmsClient(kms) }
    // The SDK's answers may lack what the keyring's own types say is there.
    clientProvider = (() => kms) as unknown as KmsNodeClientSupplier
  })
  afterAll(async () => {
    await keyfold.close()
    await service.close()
  })

  const createArn = async (): Promise<string> => (await service.call('keys', {})).arn

  test.each(['keyfold', 'aws'] as const)(
    'a file for two keys over %s is opened by either, over either, and by the SDK',
    async (wrote) => {
      const [one, two, three] = [await createArn(), await createArn(), await createArn()]
      const plaintext = randomBytes(100_000)
      const context = CONTEXTS['pairs beyond ASCII'] ?? {}
      const message = await encryptBuffer(
        new KmsKeyring({ client: clients[wrote], generatorKeyId: one, keyIds: [two] }),
        plaintext,
        { context },
      )
      for (const arn of [one, two]) {
        for (const client of Object.values(clients)) {
          const reader = new KmsKeyring({ client, keyIds: [arn] })
          const found = await decryptBuffer(reader, message, { context })
          expect(found.plaintext.equals(plaintext)).toBe(true)
        }
        const theirs = new KmsKeyringNode({ clientProvider, keyIds: [arn] })
        expect((await sdkDecrypt(theirs, message)).plaintext.equals(plaintext)).toBe(true)
      }
      const stranger = new KmsKeyring({ client: clients[wrote], keyIds: [three] })
      await expect(decryptBuffer(stranger, message)).rejects.toMatchObject({
        code: 'DECRYPT_FAILED',
        detail: 'no encrypted data key is of a key of the keyring',
      })
    },
  )

  test('what the SDK wrote for two keys is opened by either, signed or not', async () => {
    const [one, two] = [await createArn(), await createArn()]
    const theirs = new KmsKeyringNode({ clientProvider, generatorKeyId: one, keyIds: [two] })
    const plaintext = randomBytes(10_000)
    for (const suiteId of [0x0478, 0x0578]) {
      const message = await sdkEncrypt(theirs, plaintext, {
        suiteId,
        encryptionContext: { a: 'b' },
      })
      for (const arn of [one, two]) {
        for (const client of Object.values(clients)) {
          const found = await decryptBuffer(new KmsKeyring({ client, keyIds: [arn] }), message)
          expect(found.plaintext.equals(plaintext)).toBe(true)
        }
      }
    }
  })

  test('a disabled key says so; the other of two still opens', async () => {
    const [one, two] = [await createArn(), await createArn()]
    const client = clients.keyfold
    const both = new KmsKeyring({ client, generatorKeyId: one, keyIds: [two] })
    const message = await encryptBuffer(both, randomBytes(5))
    await keyfold.manage('POST', `/v1/keys/${one.split('/')[1] ?? ''}/disable`)
    expect((await decryptBuffer(both, message)).plaintext).toHaveLength(5)
    const alone = new KmsKeyring({ client, keyIds: [one] })
    await expect(decryptBuffer(alone, message)).rejects.toMatchObject({ code: 'KMS_KEY_DISABLED' })
    await expect(encryptBuffer(both, randomBytes(5))).rejects.toMatchObject({
      code: 'KMS_KEY_DISABLED',
    })
  })

  test('a wrapping under another key that the caller may use, grafted under a trusted ARN, is refused', async () => {
    const [trusted, attackers] = [await createArn(), await createArn()]
    for (const client of Object.values(clients)) {
      const writer = new KmsKeyring({ client, generatorKeyId: attackers })
      const message = await encryptBuffer(writer, Buffer.from('forged'))
      const forged = Buffer.from(message)
      forged.write(trusted, forged.indexOf(attackers))
      for (const reading of Object.values(clients)) {
        const reader = new KmsKeyring({ client: reading, keyIds: [trusted] })
        const expected =
          reading === clients.keyfold
            ? { code: 'KMS_KEY_INCORRECT' }
            : { name: 'IncorrectKeyException' }
        await expect(decryptBuffer(reader, forged)).rejects.toMatchObject(expected)
      }
    }
  })

  test('a multi-region key wraps and opens under its own ARN', async () => {
    const { KeyMetadata } = await kms.createKey({ MultiRegion: true })
    const arn = KeyMetadata?.Arn ?? ''
    expect(arn).toContain('key/mrk-')
    for (const client of Object.values(clients)) {
      const keyring = new KmsKeyring({ client, generatorKeyId: arn })
      const message = await encryptBuffer(keyring, randomBytes(9))
      expect((await decryptBuffer(keyring, message)).plaintext).toHaveLength(9)
    }
  })
})
