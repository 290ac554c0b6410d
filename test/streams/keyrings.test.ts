/** Keyrings: what they refuse to be made of, whom they ask, and what becomes of a data key where one of them fails. */
import { generateKeyPairSync, randomBytes } from 'node:crypto'
import { inspect } from 'node:util'
import { describe, expect, test } from 'vitest'

import {
  decryptBuffer,
  encryptBuffer,
  type EncryptedDataKey,
  type Keyring,
  type KeyringRequest,
  type KmsClient,
  KmsKeyring,
  MultiKeyring,
  RawAesKeyring,
  RawRsaKeyring,
} from '../../dist/index.js'

const ARN = 'arn:aws:kms:eu-central-1:000000000000:key/11111111-2222-3333-4444-555555555555'
const OTHER_ARN = ARN.replace('11111111', '99999999')
const ALIAS_ARN = 'arn:aws:kms:eu-central-1:000000000000:alias/orders'

const unused: KmsClient = {
  generateDataKey: () => Promise.reject(new Error('asked to generate')),
  encrypt: () => Promise.reject(new Error('asked to encrypt')),
  decrypt: () => Promise.reject(new Error('asked to decrypt')),
}
const wrappingKey = randomBytes(32)
const aes = (name = 'key'): RawAesKeyring =>
  new RawAesKeyring({ namespace: 'ns', name, wrappingKey })

const request: KeyringRequest = { keyBytes: 32, context: {}, contextBytes: new Uint8Array(0) }

describe('what makes no keyring', () => {
  const rsa = generateKeyPairSync('rsa', { modulusLength: 1_024 })
  const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  test.each<readonly [string, string, () => unknown]>([
    [
      'an alias, which would encrypt and never open',
      'key ARNs',
      () => new KmsKeyring({ client: unused, generatorKeyId: ALIAS_ARN }),
    ],
    ['a key id', 'key ARNs', () => new KmsKeyring({ client: unused, keyIds: [ARN.slice(-36)] })],
    ['no key', 'a key ARN is needed', () => new KmsKeyring({ client: unused })],
    [
      'a key twice',
      'named twice',
      () => new KmsKeyring({ client: unused, generatorKeyId: ARN, keyIds: [ARN] }),
    ],
    [
      'the namespace of KMS keys',
      'namespace',
      () => new RawAesKeyring({ namespace: 'aws-kms', name: 'key', wrappingKey }),
    ],
    ['no name', 'name', () => new RawAesKeyring({ namespace: 'ns', name: '', wrappingKey })],
    [
      'a name that is not text',
      'name',
      () => new RawAesKeyring({ namespace: 'ns', name: '\udc00', wrappingKey }),
    ],
    [
      'a wrapping key of 31 bytes',
      'wrappingKey',
      () => new RawAesKeyring({ namespace: 'ns', name: 'key', wrappingKey: randomBytes(31) }),
    ],
    [
      'an RSA key of 1,024 bits',
      'publicKey',
      () => new RawRsaKeyring({ namespace: 'ns', name: 'key', publicKey: rsa.publicKey }),
    ],
    [
      'a key that is not RSA',
      'privateKey',
      () => new RawRsaKeyring({ namespace: 'ns', name: 'key', privateKey: ec.privateKey }),
    ],
    [
      'text that is no key',
      'publicKey',
      () => new RawRsaKeyring({ namespace: 'ns', name: 'key', publicKey: 'geheim' }),
    ],
    [
      'neither half of a key pair',
      'publicKey or privateKey',
      () => new RawRsaKeyring({ namespace: 'ns', name: 'key' }),
    ],
  ])('%s is refused by name', (_, detail, create) => {
    expect(create).toThrow(
      expect.objectContaining({
        code: 'CONFIG_INVALID',
        detail: expect.stringContaining(detail) as string,
      }) as Error,
    )
  })

  test('a keyring without a public key opens and does not wrap, one without a private key the reverse', async () => {
    const { publicKey, privateKey } = generateKeyPairSync('rsa', { modulusLength: 2_048 })
    const names = { namespace: 'ns', name: 'key' }
    const writer = new RawRsaKeyring({ ...names, publicKey })
    const reader = new RawRsaKeyring({ ...names, privateKey })
    const message = await encryptBuffer(writer, Buffer.from('x'))
    expect((await decryptBuffer(reader, message)).plaintext.toString()).toBe('x')
    await expect(decryptBuffer(writer, message)).rejects.toMatchObject({ code: 'DECRYPT_FAILED' })
    await expect(encryptBuffer(reader, Buffer.from('x'))).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
    })
  })
})

describe('the KMS keyring', () => {
  const wrapped = (providerId: string, providerInfo: string): EncryptedDataKey => ({
    providerId,
    providerInfo: Buffer.from(providerInfo),
    ciphertext: randomBytes(40),
  })

  test('asks for no wrapping but those under its own ARNs, to the byte', async () => {
    const keyring = new KmsKeyring({ client: unused, generatorKeyId: ARN })
    const foreign = [
      wrapped('aws-kms', OTHER_ARN),
      wrapped('aws-kms', `${ARN}x`),
      wrapped('aws-kms', ARN.slice(0, -1)),
      wrapped('aws-kms', ARN.toUpperCase()),
      wrapped('AWS-KMS', ARN),
      wrapped('ns', ARN),
    ]
    expect(await keyring.unwrapDataKey(foreign, request)).toBe(undefined)
    const own = [...foreign, wrapped('aws-kms', ARN)]
    await expect(keyring.unwrapDataKey(own, request)).rejects.toThrow('asked to decrypt')
  })

  test('takes the client of each key where they are of several regions', async () => {
    const asked: string[] = []
    const keyring = new KmsKeyring({
      client: (arn) => {
        asked.push(arn)
        return unused
      },
      generatorKeyId: ARN,
      keyIds: [OTHER_ARN],
    })
    const own = [wrapped('aws-kms', OTHER_ARN), wrapped('aws-kms', ARN)]
    await expect(keyring.unwrapDataKey(own, request)).rejects.toThrow('asked to decrypt')
    expect(asked).toEqual([OTHER_ARN, ARN])
  })

  test('refuses the answer of a KMS that used another key, and wipes what it gave', async () => {
    const plaintexts: Buffer[] = []
    const give = (): Buffer => {
      const plaintext = randomBytes(32)
      plaintexts.push(plaintext)
      return plaintext
    }
    const client: KmsClient = {
      generateDataKey: () =>
        Promise.resolve({ keyId: OTHER_ARN, plaintext: give(), ciphertext: randomBytes(40) }),
      encrypt: () => Promise.resolve({ keyId: OTHER_ARN, ciphertext: randomBytes(40) }),
      decrypt: () => Promise.resolve({ keyId: OTHER_ARN, plaintext: give() }),
    }
    const keyring = new KmsKeyring({ client, generatorKeyId: ARN })
    const code = 'KMS_KEY_INCORRECT'
    await expect(keyring.generateDataKey(request)).rejects.toMatchObject({ code })
    await expect(keyring.wrapDataKey(randomBytes(32), request)).rejects.toMatchObject({ code })
    const own = [wrapped('aws-kms', ARN)]
    await expect(keyring.unwrapDataKey(own, request)).rejects.toMatchObject({ code })
    expect(plaintexts).toHaveLength(2)
    expect(plaintexts.every((plaintext) => plaintext.every((byte) => byte === 0))).toBe(true)
  })

  test('refuses a data key of another length', async () => {
    const client: KmsClient = {
      ...unused,
      decrypt: ({ keyId }) => Promise.resolve({ keyId, plaintext: randomBytes(16) }),
    }
    const keyring = new KmsKeyring({ client, generatorKeyId: ARN })
    await expect(keyring.unwrapDataKey([wrapped('aws-kms', ARN)], request)).rejects.toMatchObject({
      code: 'DECRYPT_FAILED',
    })
  })
})

describe('several keyrings', () => {
  test('one that cannot wrap fails the file, and the data key is wiped', async () => {
    const dataKeys: Buffer[] = []
    const generator: Keyring = {
      generateDataKey: async (asked) => {
        const generated = await aes().generateDataKey(asked)
        dataKeys.push(generated.dataKey)
        return generated
      },
      wrapDataKey: (dataKey, asked) => aes().wrapDataKey(dataKey, asked),
      unwrapDataKey: (keys, asked) => aes().unwrapDataKey(keys, asked),
    }
    const failing = new KmsKeyring({ client: unused, generatorKeyId: ARN })
    await expect(
      encryptBuffer(new MultiKeyring(generator, aes('two'), failing), Buffer.from('x')),
    ).rejects.toThrow('asked to encrypt')
    expect(dataKeys).toHaveLength(1)
    expect(dataKeys[0]?.every((byte) => byte === 0)).toBe(true)
  })

  test('one that fails to open does not keep another from it', async () => {
    const other = new RawAesKeyring({ namespace: 'ns', name: 'key', wrappingKey: randomBytes(32) })
    const message = await encryptBuffer(new MultiKeyring(aes(), aes('two')), Buffer.from('x'))
    const { plaintext } = await decryptBuffer(new MultiKeyring(other, aes('two')), message)
    expect(plaintext.toString()).toBe('x')
    await expect(decryptBuffer(other, message)).rejects.toMatchObject({ code: 'DECRYPT_FAILED' })
  })
})

test('a raw AES keyring does not show its key, and is of no use once it was wiped', async () => {
  const keyring = aes()
  const message = await encryptBuffer(keyring, Buffer.from('x'))
  for (const shown of [inspect(keyring, { showHidden: true }), JSON.stringify(keyring)]) {
    expect(shown).toContain('[RawAesKeyring ns/key]')
    expect(shown).not.toContain(wrappingKey.toString('hex'))
  }
  keyring.wipe()
  const wiped = { code: 'INTERNAL', detail: 'the keyring was wiped' }
  await expect(decryptBuffer(keyring, message)).rejects.toMatchObject(wiped)
  await expect(encryptBuffer(keyring, Buffer.from('x'))).rejects.toMatchObject(wiped)
})
