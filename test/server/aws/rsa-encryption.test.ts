/** Encryption under RSA keys over the AWS protocol: what openssl encrypts opens, and refusals are the ones of AWS. */
import {
  DecryptCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  GenerateDataKeyPairCommand,
  ReEncryptCommand,
  type KMSClient,
} from '@aws-sdk/client-kms'
import { constants, createPublicKey, publicEncrypt, randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { flip } from '../../crypto/key-pairs.ts'
import { testOpenssl } from '../../crypto/openssl.ts'
import { startService, type Service } from '../../service.ts'
import { clientOf, refusalOf, SharedKeys } from './sdk.ts'

let service: Service
let kms: KMSClient
let keys: SharedKeys

beforeAll(async () => {
  service = await startService()
  kms = await clientOf(service)
  keys = new SharedKeys(kms)
})
afterAll(() => service.close())

const message = Buffer.from('a message of many bytes')

describe.each(['RSA_2048', 'RSA_3072', 'RSA_4096'] as const)('an encryption key of %s', (spec) => {
  /** The developer guide's table of what each takes at most. */
  const longest = {
    RSA_2048: { RSAES_OAEP_SHA_1: 214, RSAES_OAEP_SHA_256: 190 },
    RSA_3072: { RSAES_OAEP_SHA_1: 342, RSAES_OAEP_SHA_256: 318 },
    RSA_4096: { RSAES_OAEP_SHA_1: 470, RSAES_OAEP_SHA_256: 446 },
  } as const
  const algorithms = ['RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256'] as const

  testOpenssl('opens what openssl encrypted with its public key', async (openssl) => {
    const key = await keys.of(spec, 'ENCRYPT_DECRYPT')
    const publicKey = openssl.file('public.der', await keys.publicKeyOf(key))
    for (const algorithm of algorithms) {
      const hash = algorithm === 'RSAES_OAEP_SHA_1' ? 'sha1' : 'sha256'
      const plaintext = randomBytes(longest[spec][algorithm])
      const ciphertext = openssl.answer(
        ...['pkeyutl', '-encrypt', '-pubin', '-keyform', 'DER', '-inkey', publicKey],
        ...['-in', openssl.file('plaintext', plaintext)],
        ...['-pkeyopt', 'rsa_padding_mode:oaep', '-pkeyopt', `rsa_oaep_md:${hash}`],
        ...['-pkeyopt', `rsa_mgf1_md:${hash}`],
      )
      const opened = await kms.send(
        new DecryptCommand({
          KeyId: key,
          CiphertextBlob: ciphertext,
          EncryptionAlgorithm: algorithm,
        }),
      )
      expect(Buffer.from(opened.Plaintext as Uint8Array)).toEqual(plaintext)
      expect(opened).toMatchObject({ KeyId: key, EncryptionAlgorithm: algorithm })
      expect(opened.KeyMaterialId).toBeUndefined()
    }
  })

  test('encrypts up to what the padding leaves room for, and opens it again', async () => {
    const key = await keys.of(spec, 'ENCRYPT_DECRYPT')
    for (const algorithm of algorithms) {
      const input = { KeyId: key, EncryptionAlgorithm: algorithm }
      const plaintext = randomBytes(longest[spec][algorithm])
      const sealed = await kms.send(new EncryptCommand({ ...input, Plaintext: plaintext }))
      expect(sealed).toMatchObject(input)
      const { CiphertextBlob } = sealed
      const opened = await kms.send(new DecryptCommand({ ...input, CiphertextBlob }))
      expect(Buffer.from(opened.Plaintext as Uint8Array)).toEqual(plaintext)
      const tooLong = new EncryptCommand({ ...input, Plaintext: randomBytes(plaintext.length + 1) })
      expect(await refusalOf(() => kms.send(tooLong))).toMatchObject({
        name: 'ValidationException',
        message: expect.stringContaining(`1 to ${plaintext.length} bytes`),
      })
    }
  })
})

describe('Encrypt and Decrypt under an RSA key', () => {
  const oaep = { EncryptionAlgorithm: 'RSAES_OAEP_SHA_256' } as const

  /** One in 256 begins as a ciphertext under a symmetric key does (formats of README), and is asked of another key. */
  async function encryptUnlikeOurs(KeyId: string): Promise<Uint8Array> {
    for (;;) {
      const sealed = await kms.send(new EncryptCommand({ KeyId, Plaintext: message, ...oaep }))
      const ciphertext = sealed.CiphertextBlob as Uint8Array
      if (ciphertext[0] !== 0xe0) return ciphertext
    }
  }

  test('open nothing that was changed, sealed for another key, or by another algorithm', async () => {
    const KeyId = await keys.of('RSA_2048', 'ENCRYPT_DECRYPT')
    const other = await keys.create({ KeySpec: 'RSA_2048', KeyUsage: 'ENCRYPT_DECRYPT' })
    const ciphertext = await encryptUnlikeOurs(KeyId)
    const wrong = [
      { KeyId, ...oaep, CiphertextBlob: flip(ciphertext, 255) },
      { KeyId, ...oaep, CiphertextBlob: ciphertext.subarray(1) },
      { KeyId, ...oaep, CiphertextBlob: randomBytes(256) },
      { KeyId: other, ...oaep, CiphertextBlob: ciphertext },
      { KeyId, EncryptionAlgorithm: 'RSAES_OAEP_SHA_1', CiphertextBlob: ciphertext },
      // As AWS KMS: without an algorithm it looks for one of its own ciphertexts.
      { KeyId, CiphertextBlob: ciphertext },
    ] as const
    for (const input of wrong) {
      const refusal = await refusalOf(() => kms.send(new DecryptCommand(input)))
      expect(refusal).toMatchObject({ name: 'InvalidCiphertextException', status: 400 })
    }
  })

  test('need an algorithm of the key spec', async () => {
    const rsa = await keys.of('RSA_2048', 'ENCRYPT_DECRYPT')
    const symmetric = await keys.of('SYMMETRIC_DEFAULT')
    const sealed = await kms.send(new EncryptCommand({ KeyId: symmetric, Plaintext: message }))
    const { CiphertextBlob } = sealed
    const refused = [
      [
        () => kms.send(new EncryptCommand({ KeyId: rsa, Plaintext: message })),
        'SYMMETRIC_DEFAULT',
        rsa,
      ],
      [
        () => kms.send(new GenerateDataKeyCommand({ KeyId: rsa, KeySpec: 'AES_256' })),
        'SYMMETRIC_DEFAULT',
        rsa,
      ],
      [
        () =>
          kms.send(new GenerateDataKeyPairCommand({ KeyId: rsa, KeyPairSpec: 'ECC_NIST_P256' })),
        'SYMMETRIC_DEFAULT',
        rsa,
      ],
      [
        () => kms.send(new EncryptCommand({ KeyId: symmetric, Plaintext: message, ...oaep })),
        'RSAES_OAEP_SHA_256',
        symmetric,
      ],
      [
        () => kms.send(new DecryptCommand({ KeyId: symmetric, CiphertextBlob, ...oaep })),
        'RSAES_OAEP_SHA_256',
        symmetric,
      ],
    ] as const
    for (const [call, algorithm, key] of refused) {
      const spec = key === rsa ? 'RSA_2048' : 'SYMMETRIC_DEFAULT'
      expect(await refusalOf(call)).toEqual({
        name: 'InvalidKeyUsageException',
        message: `Algorithm ${algorithm} is incompatible with key spec ${spec}.`,
        status: 400,
      })
    }
  })

  test('take no encryption context, and Decrypt no ciphertext without a key', async () => {
    const KeyId = await keys.of('RSA_2048', 'ENCRYPT_DECRYPT')
    const EncryptionContext = { tenant: 'one' }
    const CiphertextBlob = randomBytes(256)
    const refused = [
      () => kms.send(new EncryptCommand({ KeyId, Plaintext: message, EncryptionContext, ...oaep })),
      () => kms.send(new DecryptCommand({ KeyId, CiphertextBlob, EncryptionContext, ...oaep })),
    ]
    for (const call of refused) {
      expect(await refusalOf(call)).toMatchObject({
        name: 'ValidationException',
        message:
          'EncryptionContext is not supported when encrypting/decrypting with asymmetric CMKs.',
      })
    }
    const nameless = () => kms.send(new DecryptCommand({ CiphertextBlob, ...oaep }))
    expect(await refusalOf(nameless)).toMatchObject({
      name: 'ValidationException',
      message: 'KeyId must not be null',
    })
  })
})

describe('ReEncrypt', () => {
  test('goes from RSA to symmetric, back, and between two RSA keys', async () => {
    const rsa = await keys.of('RSA_2048', 'ENCRYPT_DECRYPT')
    const larger = await keys.of('RSA_3072', 'ENCRYPT_DECRYPT')
    const symmetric = await keys.of('SYMMETRIC_DEFAULT')
    const context = { tenant: 'one' }
    const publicKey = createPublicKey({
      key: Buffer.from(await keys.publicKeyOf(rsa)),
      type: 'spki',
      format: 'der',
    })
    const padding = constants.RSA_PKCS1_OAEP_PADDING
    const outside = publicEncrypt({ key: publicKey, padding, oaepHash: 'sha1' }, message)

    const inside = await kms.send(
      new ReEncryptCommand({
        CiphertextBlob: outside,
        SourceKeyId: rsa,
        SourceEncryptionAlgorithm: 'RSAES_OAEP_SHA_1',
        DestinationKeyId: symmetric,
        DestinationEncryptionContext: context,
      }),
    )
    expect(inside).toMatchObject({
      SourceKeyId: rsa,
      KeyId: symmetric,
      SourceEncryptionAlgorithm: 'RSAES_OAEP_SHA_1',
      DestinationEncryptionAlgorithm: 'SYMMETRIC_DEFAULT',
      DestinationKeyMaterialId: expect.stringMatching(/^[0-9a-f]{64}$/),
    })
    expect(inside.SourceKeyMaterialId).toBeUndefined()
    const back = await kms.send(
      new ReEncryptCommand({
        CiphertextBlob: inside.CiphertextBlob,
        SourceEncryptionContext: context,
        DestinationKeyId: rsa,
        DestinationEncryptionAlgorithm: 'RSAES_OAEP_SHA_256',
      }),
    )
    const moved = await kms.send(
      new ReEncryptCommand({
        CiphertextBlob: back.CiphertextBlob,
        SourceKeyId: rsa,
        SourceEncryptionAlgorithm: 'RSAES_OAEP_SHA_256',
        DestinationKeyId: larger,
        DestinationEncryptionAlgorithm: 'RSAES_OAEP_SHA_1',
      }),
    )
    const opened = await kms.send(
      new DecryptCommand({
        KeyId: larger,
        CiphertextBlob: moved.CiphertextBlob,
        EncryptionAlgorithm: 'RSAES_OAEP_SHA_1',
      }),
    )
    expect(Buffer.from(opened.Plaintext as Uint8Array)).toEqual(message)
  })

  test('asks for both permissions and tells policies whether it is the same key', async () => {
    const { engine } = service
    const writer = await clientOf(service, 'rewriter')
    const [one, other] = [await keys.create({}), await keys.create({})]
    await engine.identityPolicies.put({
      principalArn: `arn:aws:iam::${engine.config.account}:user/rewriter`,
      name: 'same-key',
      document: JSON.stringify({
        Version: '2012-10-17',
        Statement: {
          Effect: 'Allow',
          Action: 'kms:ReEncrypt*',
          Resource: '*',
          Condition: { Bool: { 'kms:ReEncryptOnSameKey': 'true' } },
        },
      }),
    })
    const { CiphertextBlob } = await kms.send(
      new EncryptCommand({ KeyId: one, Plaintext: message }),
    )
    const toKey = (DestinationKeyId: string) => ({ CiphertextBlob, DestinationKeyId })
    expect((await writer.send(new ReEncryptCommand(toKey(one)))).KeyId).toBe(one)
    for (const input of [toKey(other), { ...toKey(other), SourceKeyId: one }]) {
      const refusal = await refusalOf(() => writer.send(new ReEncryptCommand(input)))
      expect(refusal).toMatchObject({ name: 'AccessDeniedException', status: 400 })
    }
  })
})
