/**
 * Key pairs and HMAC keys over the AWS protocol, asked with AWS's own client: openssl and node:crypto verify, encrypt and
 * agree with what GetPublicKey gives, and every refusal is the one that AWS documents.
 */
import {
  CreateKeyCommand,
  DecryptCommand,
  DeriveSharedSecretCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  GenerateDataKeyPairCommand,
  GenerateDataKeyPairWithoutPlaintextCommand,
  GenerateMacCommand,
  GenerateRandomCommand,
  GetPublicKeyCommand,
  ReEncryptCommand,
  SignCommand,
  VerifyCommand,
  VerifyMacCommand,
  type CreateKeyCommandInput,
  type DataKeyPairSpec,
  type KeySpec,
  type KeyUsageType,
  type KMSClient,
  type MacAlgorithmSpec,
  type SigningAlgorithmSpec,
} from '@aws-sdk/client-kms'
import {
  constants,
  createHash,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  publicEncrypt,
  randomBytes,
} from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { flip } from '../../crypto/key-pairs.ts'
import { testOpenssl } from '../../crypto/openssl.ts'
import { startService, type Service } from '../../service.ts'
import { clientOf, refusalOf } from './sdk.ts'

let service: Service
let kms: KMSClient

beforeAll(async () => {
  service = await startService({ settings: { logLevel: 'debug' } })
  kms = await clientOf(service)
})
afterAll(() => service.close())

const keys = new Map<string, Promise<string>>()

/** The ARN of a key that the tests of this file share. */
function keyOf(spec: KeySpec, usage?: KeyUsageType): Promise<string> {
  const name = `${spec} ${usage ?? ''}`
  const known = keys.get(name) ?? newKey({ KeySpec: spec, KeyUsage: usage })
  keys.set(name, known)
  return known
}

async function newKey(input: CreateKeyCommandInput): Promise<string> {
  const { KeyMetadata } = await kms.send(new CreateKeyCommand(input))
  return KeyMetadata?.Arn as string
}

async function publicKeyOf(key: string): Promise<Uint8Array> {
  const { PublicKey } = await kms.send(new GetPublicKeyCommand({ KeyId: key }))
  return PublicKey as Uint8Array
}

const message = Buffer.from('a message of many bytes')

/** "Key spec reference" of the developer guide. */
const RSA_SIGNING = ['RSASSA_PKCS1_V1_5', 'RSASSA_PSS'].flatMap((scheme) =>
  [256, 384, 512].map((bits) => `${scheme}_SHA_${bits}`),
) as SigningAlgorithmSpec[]
const SIGNING: readonly (readonly [KeySpec, readonly SigningAlgorithmSpec[]])[] = [
  ['RSA_2048', RSA_SIGNING],
  ['RSA_3072', RSA_SIGNING],
  ['RSA_4096', RSA_SIGNING],
  ['ECC_NIST_P256', ['ECDSA_SHA_256']],
  ['ECC_NIST_P384', ['ECDSA_SHA_384']],
  ['ECC_NIST_P521', ['ECDSA_SHA_512']],
  ['ECC_SECG_P256K1', ['ECDSA_SHA_256']],
  ['ECC_NIST_EDWARDS25519', ['ED25519_SHA_512']],
]
const MACS: readonly (readonly [KeySpec, MacAlgorithmSpec, string])[] = [
  ['HMAC_224', 'HMAC_SHA_224', 'sha224'],
  ['HMAC_256', 'HMAC_SHA_256', 'sha256'],
  ['HMAC_384', 'HMAC_SHA_384', 'sha384'],
  ['HMAC_512', 'HMAC_SHA_512', 'sha512'],
]

describe('CreateKey', () => {
  test('tells what a new key can be asked for, by its usage', async () => {
    const made: readonly [CreateKeyCommandInput, object][] = [
      [{ KeySpec: 'RSA_2048', KeyUsage: 'SIGN_VERIFY' }, { SigningAlgorithms: RSA_SIGNING }],
      [
        { KeySpec: 'RSA_2048', KeyUsage: 'ENCRYPT_DECRYPT' },
        { EncryptionAlgorithms: ['RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256'] },
      ],
      [
        { CustomerMasterKeySpec: 'ECC_NIST_P256', KeyUsage: 'SIGN_VERIFY' },
        { SigningAlgorithms: ['ECDSA_SHA_256'] },
      ],
      [
        { KeySpec: 'ECC_NIST_P384', KeyUsage: 'KEY_AGREEMENT' },
        { KeyAgreementAlgorithms: ['ECDH'] },
      ],
      [
        { KeySpec: 'HMAC_384', KeyUsage: 'GENERATE_VERIFY_MAC' },
        { MacAlgorithms: ['HMAC_SHA_384'] },
      ],
      [{}, { EncryptionAlgorithms: ['SYMMETRIC_DEFAULT'] }],
    ]
    for (const [input, algorithms] of made) {
      const { KeyMetadata } = await kms.send(new CreateKeyCommand(input))
      const described = await kms.send(new DescribeKeyCommand({ KeyId: KeyMetadata?.KeyId }))
      expect(described.KeyMetadata).toEqual(KeyMetadata)
      const spec = input.KeySpec ?? input.CustomerMasterKeySpec ?? 'SYMMETRIC_DEFAULT'
      expect(KeyMetadata).toMatchObject({
        KeySpec: spec,
        CustomerMasterKeySpec: spec,
        KeyUsage: input.KeyUsage ?? 'ENCRYPT_DECRYPT',
        KeyState: 'Enabled',
      })
      const told = Object.fromEntries(
        Object.entries(KeyMetadata ?? {})
          .filter(([name]) => name.endsWith('Algorithms'))
          .map(([name, value]) => [name, [...(value as string[])].sort()]),
      )
      expect(told).toEqual(algorithms)
    }
  })

  test('needs a usage that the key spec has, unless the key is symmetric', async () => {
    const wrong: readonly [KeySpec, KeyUsageType | undefined][] = [
      ['RSA_2048', undefined],
      ['ECC_NIST_P256', undefined],
      ['HMAC_256', undefined],
      ['RSA_2048', 'KEY_AGREEMENT'],
      ['RSA_2048', 'GENERATE_VERIFY_MAC'],
      ['ECC_NIST_P256', 'ENCRYPT_DECRYPT'],
      ['ECC_SECG_P256K1', 'KEY_AGREEMENT'],
      ['ECC_NIST_EDWARDS25519', 'KEY_AGREEMENT'],
      ['HMAC_256', 'ENCRYPT_DECRYPT'],
      ['SYMMETRIC_DEFAULT', 'SIGN_VERIFY'],
    ]
    for (const [spec, usage] of wrong) {
      const input = { KeySpec: spec, KeyUsage: usage }
      expect(await refusalOf(() => kms.send(new CreateKeyCommand(input)))).toEqual({
        name: 'ValidationException',
        message:
          usage === undefined
            ? 'You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys.'
            : `KeyUsage ${usage} is not compatible with KeySpec ${spec}`,
        status: 400,
      })
    }
  })

  test('says of a key spec that is not here that it is not supported', async () => {
    for (const spec of ['ML_DSA_65', 'ML_KEM_768', 'SM2'] as const) {
      const input = { KeySpec: spec, KeyUsage: 'SIGN_VERIFY' } as const
      const refusal = await refusalOf(() => kms.send(new CreateKeyCommand(input)))
      expect(refusal).toMatchObject({ name: 'UnsupportedOperationException', status: 400 })
    }
  })
})

describe.each(SIGNING)('a signing key of %s', (spec, algorithms) => {
  testOpenssl('signs what openssl verifies with its public key', async (openssl) => {
    const key = await keyOf(spec, 'SIGN_VERIFY')
    const shown = await kms.send(new GetPublicKeyCommand({ KeyId: key }))
    expect(shown).toMatchObject({
      KeyId: key,
      KeySpec: spec,
      CustomerMasterKeySpec: spec,
      KeyUsage: 'SIGN_VERIFY',
      SigningAlgorithms: expect.arrayContaining([...algorithms]),
    })
    const publicKey = openssl.file('public.der', shown.PublicKey as Uint8Array)
    for (const algorithm of algorithms) {
      const hash = `sha${/\d+$/.exec(algorithm)?.[0] ?? ''}`
      const digest = createHash(hash).update(message).digest()
      const isEddsa = algorithm === 'ED25519_SHA_512'
      for (const type of isEddsa ? (['RAW'] as const) : (['RAW', 'DIGEST'] as const)) {
        const signed = await kms.send(
          new SignCommand({
            KeyId: key,
            Message: type === 'RAW' ? message : digest,
            MessageType: type,
            SigningAlgorithm: algorithm,
          }),
        )
        expect(signed).toMatchObject({ KeyId: key, SigningAlgorithm: algorithm })
        const given = openssl.file('given', isEddsa ? message : digest)
        openssl.answer(
          ...['pkeyutl', '-verify', '-pubin', '-keyform', 'DER', '-inkey', publicKey],
          ...['-in', given, ...(isEddsa ? ['-rawin'] : ['-pkeyopt', `digest:${hash}`])],
          ...(algorithm.startsWith('RSASSA_PSS') ? PSS : []),
          ...['-sigfile', openssl.file('signature', signed.Signature as Uint8Array)],
        )
      }
    }
  })

  test('verifies what it signed, as message and as digest, and nothing else', async () => {
    const key = await keyOf(spec, 'SIGN_VERIFY')
    for (const algorithm of algorithms) {
      const input = { KeyId: key, Message: message, SigningAlgorithm: algorithm }
      const { Signature } = await kms.send(new SignCommand(input))
      const signature = Signature as Uint8Array
      expect(await kms.send(new VerifyCommand({ ...input, Signature: signature }))).toMatchObject({
        KeyId: key,
        SignatureValid: true,
        SigningAlgorithm: algorithm,
      })
      if (algorithm !== 'ED25519_SHA_512') {
        const hash = `sha${/\d+$/.exec(algorithm)?.[0] ?? ''}`
        const digested = { ...input, Message: createHash(hash).update(message).digest() }
        const asDigest = { ...digested, MessageType: 'DIGEST', Signature: signature } as const
        expect((await kms.send(new VerifyCommand(asDigest))).SignatureValid).toBe(true)
      }
      const wrong = [
        { ...input, Signature: flip(signature, signature.length - 1) },
        { ...input, Signature: signature.subarray(1) },
        { ...input, Signature: randomBytes(6_144) },
        { ...input, Signature: signature, Message: flip(message, 0) },
      ]
      for (const one of wrong) {
        const refusal = await refusalOf(() => kms.send(new VerifyCommand(one)))
        expect(refusal).toMatchObject({ name: 'KMSInvalidSignatureException', status: 400 })
        // AWS KMS sends none, and the client then has one of its own making.
        expect(refusal.message).toMatch(/^(UnknownError|)$/)
      }
    }
  })
})

/** How `openssl pkeyutl` is told of AWS's PSS: the salt is as long as the digest. */
const PSS = ['-pkeyopt', 'rsa_padding_mode:pss', '-pkeyopt', 'rsa_pss_saltlen:digest']

describe('Sign and Verify', () => {
  test('refuse a digest of another length, and the digest of an Ed25519 message', async () => {
    const wrong = [
      ['ECC_NIST_P256', 'ECDSA_SHA_256', 'DIGEST', 31],
      ['RSA_2048', 'RSASSA_PSS_SHA_512', 'DIGEST', 32],
      ['ECC_NIST_EDWARDS25519', 'ED25519_SHA_512', 'DIGEST', 64],
      ['RSA_2048', 'RSASSA_PSS_SHA_256', 'EXTERNAL_MU', 64],
      ['ECC_NIST_P256', 'ECDSA_SHA_256', 'RAW', 4_097],
      ['ECC_NIST_P256', 'ECDSA_SHA_256', 'RAW', 0],
    ] as const
    for (const [spec, algorithm, type, bytes] of wrong) {
      const input = {
        KeyId: await keyOf(spec, 'SIGN_VERIFY'),
        Message: randomBytes(bytes),
        MessageType: type,
        SigningAlgorithm: algorithm,
        DryRun: true,
      }
      const verified = new VerifyCommand({ ...input, Signature: randomBytes(64) })
      for (const call of [() => kms.send(new SignCommand(input)), () => kms.send(verified)]) {
        expect(await refusalOf(call)).toMatchObject({ name: 'ValidationException', status: 400 })
      }
    }
  })

  test('refuse an algorithm that the key spec lacks, known to AWS or not', async () => {
    const wrong = [
      ['ECC_NIST_P256', 'ECDSA_SHA_384'],
      ['ECC_NIST_P256', 'RSASSA_PSS_SHA_256'],
      ['RSA_2048', 'ECDSA_SHA_256'],
      ['ECC_SECG_P256K1', 'ED25519_SHA_512'],
      ['ECC_NIST_EDWARDS25519', 'ED25519_PH_SHA_512'],
    ] as const
    for (const [spec, algorithm] of wrong) {
      const KeyId = await keyOf(spec, 'SIGN_VERIFY')
      const input = { KeyId, Message: message, SigningAlgorithm: algorithm }
      expect(await refusalOf(() => kms.send(new SignCommand(input)))).toEqual({
        name: 'InvalidKeyUsageException',
        message: `Algorithm ${algorithm} is incompatible with key spec ${spec}.`,
        status: 400,
      })
    }
    const unknown = {
      KeyId: await keyOf('RSA_2048', 'SIGN_VERIFY'),
      Message: message,
      SigningAlgorithm: 'RSASSA_PSS_SHA_1' as SigningAlgorithmSpec,
    }
    expect(await refusalOf(() => kms.send(new SignCommand(unknown)))).toMatchObject({
      name: 'ValidationException',
      message: expect.stringContaining("at 'signingAlgorithm' failed to satisfy constraint"),
    })
  })
})

describe('a key of another usage', () => {
  test('is refused by name of the operation, with or without a dry run', async () => {
    const rsaSigning = await keyOf('RSA_2048', 'SIGN_VERIFY')
    const hmac = await keyOf('HMAC_256', 'GENERATE_VERIFY_MAC')
    const symmetric = await keyOf('SYMMETRIC_DEFAULT')
    const ecc = await keyOf('ECC_NIST_P256', 'SIGN_VERIFY')
    const eccPublic = await publicKeyOf(ecc)
    const bytes = randomBytes(256)
    const SigningAlgorithm = 'RSASSA_PSS_SHA_256'
    const EncryptionAlgorithm = 'RSAES_OAEP_SHA_256'
    const MacAlgorithm = 'HMAC_SHA_256'
    for (const DryRun of [false, true]) {
      const refused: readonly [string, string, string, () => Promise<unknown>][] = [
        [
          rsaSigning,
          'SIGN_VERIFY',
          'Encrypt',
          () =>
            kms.send(
              new EncryptCommand({
                KeyId: rsaSigning,
                Plaintext: bytes,
                EncryptionAlgorithm,
                DryRun,
              }),
            ),
        ],
        [
          rsaSigning,
          'SIGN_VERIFY',
          'Decrypt',
          () =>
            kms.send(
              new DecryptCommand({
                KeyId: rsaSigning,
                CiphertextBlob: bytes,
                EncryptionAlgorithm,
                DryRun,
              }),
            ),
        ],
        [
          rsaSigning,
          'SIGN_VERIFY',
          'GenerateDataKey',
          () =>
            kms.send(new GenerateDataKeyCommand({ KeyId: rsaSigning, KeySpec: 'AES_256', DryRun })),
        ],
        [
          hmac,
          'GENERATE_VERIFY_MAC',
          'GenerateDataKeyPair',
          () =>
            kms.send(
              new GenerateDataKeyPairCommand({ KeyId: hmac, KeyPairSpec: 'ECC_NIST_P256', DryRun }),
            ),
        ],
        [
          symmetric,
          'ENCRYPT_DECRYPT',
          'Sign',
          () =>
            kms.send(
              new SignCommand({ KeyId: symmetric, Message: bytes, SigningAlgorithm, DryRun }),
            ),
        ],
        [
          hmac,
          'GENERATE_VERIFY_MAC',
          'Verify',
          () =>
            kms.send(
              new VerifyCommand({
                KeyId: hmac,
                Message: bytes,
                Signature: bytes,
                SigningAlgorithm,
                DryRun,
              }),
            ),
        ],
        [
          symmetric,
          'ENCRYPT_DECRYPT',
          'GenerateMac',
          () =>
            kms.send(
              new GenerateMacCommand({ KeyId: symmetric, Message: bytes, MacAlgorithm, DryRun }),
            ),
        ],
        [
          rsaSigning,
          'SIGN_VERIFY',
          'VerifyMac',
          () =>
            kms.send(
              new VerifyMacCommand({
                KeyId: rsaSigning,
                Message: bytes,
                Mac: bytes,
                MacAlgorithm,
                DryRun,
              }),
            ),
        ],
        [
          ecc,
          'SIGN_VERIFY',
          'DeriveSharedSecret',
          () =>
            kms.send(
              new DeriveSharedSecretCommand({
                KeyId: ecc,
                KeyAgreementAlgorithm: 'ECDH',
                PublicKey: eccPublic,
                DryRun,
              }),
            ),
        ],
      ]
      for (const [key, usage, operation, call] of refused) {
        expect(await refusalOf(call)).toEqual({
          name: 'InvalidKeyUsageException',
          message: `${key} key usage is ${usage} which is not valid for ${operation}.`,
          status: 400,
        })
      }
    }
  })
})

describe.each(['RSA_2048', 'RSA_3072', 'RSA_4096'] as const)('an encryption key of %s', (spec) => {
  /** The developer guide's table of what each takes at most. */
  const longest = {
    RSA_2048: { RSAES_OAEP_SHA_1: 214, RSAES_OAEP_SHA_256: 190 },
    RSA_3072: { RSAES_OAEP_SHA_1: 342, RSAES_OAEP_SHA_256: 318 },
    RSA_4096: { RSAES_OAEP_SHA_1: 470, RSAES_OAEP_SHA_256: 446 },
  } as const
  const algorithms = ['RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256'] as const

  testOpenssl('opens what openssl encrypted with its public key', async (openssl) => {
    const key = await keyOf(spec, 'ENCRYPT_DECRYPT')
    const publicKey = openssl.file('public.der', await publicKeyOf(key))
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
    const key = await keyOf(spec, 'ENCRYPT_DECRYPT')
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

  test('open nothing that was changed, sealed for another key, or by another algorithm', async () => {
    const KeyId = await keyOf('RSA_2048', 'ENCRYPT_DECRYPT')
    const other = await newKey({ KeySpec: 'RSA_2048', KeyUsage: 'ENCRYPT_DECRYPT' })
    const sealed = await kms.send(new EncryptCommand({ KeyId, Plaintext: message, ...oaep }))
    const ciphertext = sealed.CiphertextBlob as Uint8Array
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
    const rsa = await keyOf('RSA_2048', 'ENCRYPT_DECRYPT')
    const symmetric = await keyOf('SYMMETRIC_DEFAULT')
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
    const KeyId = await keyOf('RSA_2048', 'ENCRYPT_DECRYPT')
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
    const rsa = await keyOf('RSA_2048', 'ENCRYPT_DECRYPT')
    const larger = await keyOf('RSA_3072', 'ENCRYPT_DECRYPT')
    const symmetric = await keyOf('SYMMETRIC_DEFAULT')
    const context = { tenant: 'one' }
    const publicKey = createPublicKey({
      key: Buffer.from(await publicKeyOf(rsa)),
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
    const [one, other] = [await newKey({}), await newKey({})]
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

describe.each(MACS)('a key of %s', (spec, algorithm, hash) => {
  test('generates what it verifies, and verifies nothing that was changed or cut', async () => {
    const KeyId = await keyOf(spec, 'GENERATE_VERIFY_MAC')
    const input = { KeyId, Message: message, MacAlgorithm: algorithm }
    const made = await kms.send(new GenerateMacCommand(input))
    const mac = made.Mac as Uint8Array
    expect(made).toMatchObject({ KeyId, MacAlgorithm: algorithm })
    expect(mac).toHaveLength(createHash(hash).digest().length)
    expect(await kms.send(new VerifyMacCommand({ ...input, Mac: mac }))).toMatchObject({
      KeyId,
      MacValid: true,
      MacAlgorithm: algorithm,
    })
    const wrong = [flip(mac, 0), mac.subarray(0, 16), Buffer.concat([mac, mac])]
    for (const Mac of wrong) {
      const refusal = await refusalOf(() => kms.send(new VerifyMacCommand({ ...input, Mac })))
      expect(refusal).toMatchObject({ name: 'KMSInvalidMacException', status: 400 })
    }
    const others = MACS.filter(([, other]) => other !== algorithm)
    for (const [, MacAlgorithm] of others) {
      expect(
        await refusalOf(() => kms.send(new GenerateMacCommand({ ...input, MacAlgorithm }))),
      ).toEqual({
        name: 'InvalidKeyUsageException',
        message: `Algorithm ${MacAlgorithm} is incompatible with key spec ${spec}.`,
        status: 400,
      })
    }
  })
})

describe.each([
  ['ECC_NIST_P256', 'prime256v1'],
  ['ECC_NIST_P384', 'secp384r1'],
  ['ECC_NIST_P521', 'secp521r1'],
] as const)('a key agreement key of %s', (spec, curve) => {
  testOpenssl('agrees with openssl on a secret', async (openssl) => {
    const KeyId = await keyOf(spec, 'KEY_AGREEMENT')
    const theirs = openssl.written(
      ...['genpkey', '-algorithm', 'EC', '-pkeyopt', `ec_paramgen_curve:${curve}`],
      ...['-outform', 'DER', '-out', 'theirs.der'],
    )
    const peer = openssl.answer(
      'pkey',
      '-in',
      'theirs.der',
      '-inform',
      'DER',
      '-pubout',
      '-outform',
      'DER',
    )
    const derived = await kms.send(
      new DeriveSharedSecretCommand({ KeyId, KeyAgreementAlgorithm: 'ECDH', PublicKey: peer }),
    )
    expect(derived).toMatchObject({ KeyId, KeyAgreementAlgorithm: 'ECDH', KeyOrigin: 'AWS_KMS' })
    openssl.file('ours.der', await publicKeyOf(KeyId))
    const expected = openssl.answer(
      ...['pkeyutl', '-derive', '-keyform', 'DER', '-inkey', openssl.file('key.der', theirs)],
      ...['-peerform', 'DER', '-peerkey', 'ours.der'],
    )
    expect(Buffer.from(derived.SharedSecret as Uint8Array)).toEqual(expected)
  })

  test('refuses what is no public key of its curve', async () => {
    const KeyId = await keyOf(spec, 'KEY_AGREEMENT')
    const other = curve === 'prime256v1' ? 'secp384r1' : 'prime256v1'
    const spki = { type: 'spki', format: 'der' } as const
    const { publicKey } = generateKeyPairSync('ec', { namedCurve: other })
    const ours = generateKeyPairSync('ec', { namedCurve: curve }).publicKey.export(spki)
    const wrong = [
      publicKey.export(spki),
      flip(ours, ours.length - 1),
      ours.subarray(1),
      randomBytes(91),
    ]
    for (const PublicKey of wrong) {
      const input = { KeyId, KeyAgreementAlgorithm: 'ECDH', PublicKey } as const
      const refusal = await refusalOf(() => kms.send(new DeriveSharedSecretCommand(input)))
      expect(refusal).toMatchObject({ name: 'ValidationException', status: 400 })
    }
  })
})

describe('GenerateDataKeyPair', () => {
  const specs: readonly DataKeyPairSpec[] = [
    ...(['RSA_2048', 'RSA_3072', 'RSA_4096', 'ECC_NIST_P256', 'ECC_NIST_P384'] as const),
    ...(['ECC_NIST_P521', 'ECC_SECG_P256K1', 'ECC_NIST_EDWARDS25519'] as const),
  ]

  test.each(specs)('of %s gives a private key that belongs to the public key', async (spec) => {
    const KeyId = await keyOf('SYMMETRIC_DEFAULT')
    const EncryptionContext = { purpose: 'signing' }
    const input = { KeyId, KeyPairSpec: spec, EncryptionContext }
    const pair = await kms.send(new GenerateDataKeyPairCommand(input))
    expect(pair).toMatchObject({
      KeyId,
      KeyPairSpec: spec,
      KeyMaterialId: expect.stringMatching(/^[0-9a-f]{64}$/),
    })
    const der = Buffer.from(pair.PrivateKeyPlaintext as Uint8Array)
    const privateKey = createPrivateKey({ key: der, type: 'pkcs8', format: 'der' })
    const spki = createPublicKey(privateKey).export({ type: 'spki', format: 'der' })
    expect(spki).toEqual(Buffer.from(pair.PublicKey as Uint8Array))
    expect(kindOf(privateKey.asymmetricKeyType, privateKey.asymmetricKeyDetails)).toBe(spec)

    const CiphertextBlob = pair.PrivateKeyCiphertextBlob
    const opened = await kms.send(new DecryptCommand({ CiphertextBlob, EncryptionContext }))
    expect(Buffer.from(opened.Plaintext as Uint8Array)).toEqual(der)
    const strangers = () => kms.send(new DecryptCommand({ CiphertextBlob }))
    expect(await refusalOf(strangers)).toMatchObject({ name: 'InvalidCiphertextException' })
  })

  test('without plaintext gives none, and it opens all the same', async () => {
    const KeyId = await keyOf('SYMMETRIC_DEFAULT')
    const pair = await kms.send(
      new GenerateDataKeyPairWithoutPlaintextCommand({ KeyId, KeyPairSpec: 'ECC_NIST_P384' }),
    )
    expect(Object.keys(pair)).not.toContain('PrivateKeyPlaintext')
    const CiphertextBlob = pair.PrivateKeyCiphertextBlob
    const { Plaintext } = await kms.send(new DecryptCommand({ KeyId, CiphertextBlob }))
    const der = Buffer.from(Plaintext as Uint8Array)
    const privateKey = createPrivateKey({ key: der, type: 'pkcs8', format: 'der' })
    const peer = generateKeyPairSync('ec', { namedCurve: 'secp384r1' })
    const publicKey = createPublicKey({
      key: Buffer.from(pair.PublicKey as Uint8Array),
      type: 'spki',
      format: 'der',
    })
    expect(diffieHellman({ privateKey, publicKey: peer.publicKey })).toEqual(
      diffieHellman({ privateKey: peer.privateKey, publicKey }),
    )
  })

  test('is refused for key pairs that are not here', async () => {
    const KeyId = await keyOf('SYMMETRIC_DEFAULT')
    for (const KeyPairSpec of ['SM2', 'ML_KEM_768'] as const) {
      const refusal = await refusalOf(() =>
        kms.send(new GenerateDataKeyPairCommand({ KeyId, KeyPairSpec })),
      )
      expect(refusal).toMatchObject({ name: 'UnsupportedOperationException', status: 400 })
    }
  })
})

function kindOf(
  type: string | undefined,
  details: { readonly modulusLength?: number; readonly namedCurve?: string } | undefined,
): string | undefined {
  if (type === 'rsa') return `RSA_${details?.modulusLength ?? ''}`
  if (type === 'ed25519') return 'ECC_NIST_EDWARDS25519'
  return {
    prime256v1: 'ECC_NIST_P256',
    secp384r1: 'ECC_NIST_P384',
    secp521r1: 'ECC_NIST_P521',
    secp256k1: 'ECC_SECG_P256K1',
  }[details?.namedCurve ?? '']
}

describe('GetPublicKey', () => {
  test('is refused for keys that have none', async () => {
    for (const [spec, usage] of [
      ['SYMMETRIC_DEFAULT', undefined],
      ['HMAC_256', 'GENERATE_VERIFY_MAC'],
    ] as const) {
      const KeyId = await keyOf(spec, usage)
      expect(await refusalOf(() => kms.send(new GetPublicKeyCommand({ KeyId })))).toMatchObject({
        name: 'UnsupportedOperationException',
        message: expect.stringContaining(spec),
      })
    }
  })
})

describe('states, dry runs, enclaves and policies', () => {
  /** An operation on each kind of key. */
  async function uses(DryRun?: boolean): Promise<readonly [string, () => Promise<unknown>][]> {
    const rsa = await newKey({ KeySpec: 'RSA_2048', KeyUsage: 'ENCRYPT_DECRYPT' })
    const ecc = await newKey({ KeySpec: 'ECC_NIST_P256', KeyUsage: 'SIGN_VERIFY' })
    const agreement = await newKey({ KeySpec: 'ECC_NIST_P256', KeyUsage: 'KEY_AGREEMENT' })
    const hmac = await newKey({ KeySpec: 'HMAC_256', KeyUsage: 'GENERATE_VERIFY_MAC' })
    const symmetric = await newKey({})
    const EncryptionAlgorithm = 'RSAES_OAEP_SHA_256'
    const SigningAlgorithm = 'ECDSA_SHA_256'
    const MacAlgorithm = 'HMAC_SHA_256'
    const signed = { KeyId: ecc, Message: message, SigningAlgorithm } as const
    const { Signature } = await kms.send(new SignCommand(signed))
    const authenticated = { KeyId: hmac, Message: message, MacAlgorithm } as const
    const { Mac } = await kms.send(new GenerateMacCommand(authenticated))
    const sealed = { KeyId: rsa, EncryptionAlgorithm } as const
    const { CiphertextBlob } = await kms.send(new EncryptCommand({ ...sealed, Plaintext: message }))
    const pair = { KeyId: symmetric, KeyPairSpec: 'ECC_NIST_P256' } as const
    const agreed = {
      KeyId: agreement,
      KeyAgreementAlgorithm: 'ECDH',
      PublicKey: await publicKeyOf(agreement),
    } as const
    const moved = {
      CiphertextBlob,
      SourceKeyId: rsa,
      SourceEncryptionAlgorithm: EncryptionAlgorithm,
      DestinationKeyId: symmetric,
    } as const
    return [
      [rsa, () => kms.send(new EncryptCommand({ ...sealed, Plaintext: message, DryRun }))],
      [rsa, () => kms.send(new DecryptCommand({ ...sealed, CiphertextBlob, DryRun }))],
      [rsa, () => kms.send(new ReEncryptCommand({ ...moved, DryRun }))],
      [ecc, () => kms.send(new SignCommand({ ...signed, DryRun }))],
      [ecc, () => kms.send(new VerifyCommand({ ...signed, Signature, DryRun }))],
      [hmac, () => kms.send(new GenerateMacCommand({ ...authenticated, DryRun }))],
      [hmac, () => kms.send(new VerifyMacCommand({ ...authenticated, Mac, DryRun }))],
      [agreement, () => kms.send(new DeriveSharedSecretCommand({ ...agreed, DryRun }))],
      [symmetric, () => kms.send(new GenerateDataKeyPairCommand({ ...pair, DryRun }))],
      [
        symmetric,
        () => kms.send(new GenerateDataKeyPairWithoutPlaintextCommand({ ...pair, DryRun })),
      ],
    ]
  }

  const [rsaAt, eccAt, agreementAt] = [0, 3, 7]

  test('a disabled key does nothing, not even show its public key', async () => {
    const asked = await uses()
    for (const [, ask] of asked) await ask()
    for (const key of new Set(asked.map(([key]) => key))) {
      await kms.send(new DisableKeyCommand({ KeyId: key }))
    }
    const pairs = [rsaAt, eccAt, agreementAt].map((at) => asked[at]?.[0] as string)
    const shown = pairs.map(
      (KeyId) => [KeyId, () => kms.send(new GetPublicKeyCommand({ KeyId }))] as const,
    )
    for (const [key, ask] of [...asked, ...shown]) {
      expect(await refusalOf(ask)).toEqual({
        name: 'DisabledException',
        message: `${key} is disabled.`,
        status: 400,
      })
    }
  })

  test('a dry run does nothing but say that it would have', async () => {
    for (const [, ask] of await uses(true)) {
      expect(await refusalOf(ask)).toEqual({
        name: 'DryRunOperationException',
        message: 'The request would have succeeded, but the DryRun option is set.',
        status: 400,
      })
    }
  })

  test('a dry run that ignores the ciphertext needs none, but a key', async () => {
    const KeyId = await keyOf('SYMMETRIC_DEFAULT')
    const DryRunModifiers = ['IGNORE_CIPHERTEXT' as const]
    const modified = { DryRun: true, DryRunModifiers }
    const dryRun = [
      () => kms.send(new DecryptCommand({ KeyId, ...modified })),
      () =>
        kms.send(
          new ReEncryptCommand({ SourceKeyId: KeyId, DestinationKeyId: KeyId, ...modified }),
        ),
    ]
    for (const call of dryRun) {
      expect(await refusalOf(call)).toMatchObject({ name: 'DryRunOperationException' })
    }
    const malformed = [
      () => kms.send(new DecryptCommand({ ...modified })),
      () => kms.send(new DecryptCommand({ KeyId })),
      () =>
        kms.send(new DecryptCommand({ KeyId, CiphertextBlob: randomBytes(99), DryRunModifiers })),
    ]
    for (const call of malformed) {
      expect(await refusalOf(call)).toMatchObject({ name: 'ValidationException' })
    }
  })

  test('an enclave is refused rather than answered in plaintext', async () => {
    const KeyId = await keyOf('SYMMETRIC_DEFAULT')
    const agreement = await keyOf('ECC_NIST_P256', 'KEY_AGREEMENT')
    const { CiphertextBlob } = await kms.send(new EncryptCommand({ KeyId, Plaintext: message }))
    const Recipient = {
      KeyEncryptionAlgorithm: 'RSAES_OAEP_SHA_256',
      AttestationDocument: randomBytes(64),
    } as const
    const PublicKey = await publicKeyOf(agreement)
    const refused = [
      () => kms.send(new DecryptCommand({ CiphertextBlob, Recipient })),
      () => kms.send(new GenerateDataKeyCommand({ KeyId, KeySpec: 'AES_256', Recipient })),
      () =>
        kms.send(
          new GenerateDataKeyPairCommand({ KeyId, KeyPairSpec: 'ECC_NIST_P256', Recipient }),
        ),
      () => kms.send(new GenerateRandomCommand({ NumberOfBytes: 16, Recipient })),
      () =>
        kms.send(
          new DeriveSharedSecretCommand({
            KeyId: agreement,
            KeyAgreementAlgorithm: 'ECDH',
            PublicKey,
            Recipient,
          }),
        ),
    ]
    for (const call of refused) {
      expect(await refusalOf(call)).toMatchObject({
        name: 'UnsupportedOperationException',
        message: expect.stringContaining('recipient'),
        status: 400,
      })
    }
  })

  test('policies read the algorithm, the kind of message and the key pair', async () => {
    const { engine } = service
    const conditions = {
      'kms:SigningAlgorithm': 'ECDSA_SHA_256',
      'kms:MessageType': 'DIGEST',
      'kms:MacAlgorithm': 'HMAC_SHA_256',
      'kms:EncryptionAlgorithm': 'RSAES_OAEP_SHA_256',
      'kms:KeyAgreementAlgorithm': 'ECDH',
      'kms:DataKeyPairSpec': 'ECC_NIST_P256',
    }
    const actions: Record<string, readonly string[]> = {
      'kms:SigningAlgorithm': ['kms:Sign', 'kms:Verify'],
      'kms:MessageType': ['kms:Sign', 'kms:Verify'],
      'kms:MacAlgorithm': ['kms:GenerateMac', 'kms:VerifyMac'],
      'kms:EncryptionAlgorithm': ['kms:Encrypt', 'kms:Decrypt'],
      'kms:KeyAgreementAlgorithm': ['kms:DeriveSharedSecret'],
      'kms:DataKeyPairSpec': ['kms:GenerateDataKeyPair'],
    }
    const signing = await keyOf('ECC_NIST_P256', 'SIGN_VERIFY')
    const rsa = await keyOf('RSA_2048', 'ENCRYPT_DECRYPT')
    const hmac = await keyOf('HMAC_256', 'GENERATE_VERIFY_MAC')
    const agreement = await keyOf('ECC_NIST_P256', 'KEY_AGREEMENT')
    const PublicKey = await publicKeyOf(agreement)
    for (const [name, value] of Object.entries(conditions)) {
      const user = `user-${name.slice(4)}`
      await engine.identityPolicies.put({
        principalArn: `arn:aws:iam::${engine.config.account}:user/${user}`,
        name: 'only',
        document: JSON.stringify({
          Version: '2012-10-17',
          Statement: {
            Effect: 'Allow',
            Action: actions[name],
            Resource: '*',
            Condition: { StringEquals: { [name]: value } },
          },
        }),
      })
      const asked = await clientOf(service, user)
      const digest = createHash('sha256').update(message).digest()
      const allowed: Record<string, () => Promise<unknown>> = {
        'kms:SigningAlgorithm': () =>
          asked.send(
            new SignCommand({
              KeyId: signing,
              Message: message,
              SigningAlgorithm: 'ECDSA_SHA_256',
            }),
          ),
        'kms:MessageType': () =>
          asked.send(
            new SignCommand({
              KeyId: signing,
              Message: digest,
              MessageType: 'DIGEST',
              SigningAlgorithm: 'ECDSA_SHA_256',
            }),
          ),
        'kms:MacAlgorithm': () =>
          asked.send(
            new GenerateMacCommand({ KeyId: hmac, Message: message, MacAlgorithm: 'HMAC_SHA_256' }),
          ),
        'kms:EncryptionAlgorithm': () =>
          asked.send(
            new EncryptCommand({
              KeyId: rsa,
              Plaintext: message,
              EncryptionAlgorithm: 'RSAES_OAEP_SHA_256',
            }),
          ),
        'kms:KeyAgreementAlgorithm': () =>
          asked.send(
            new DeriveSharedSecretCommand({
              KeyId: agreement,
              KeyAgreementAlgorithm: 'ECDH',
              PublicKey,
            }),
          ),
        'kms:DataKeyPairSpec': async () =>
          asked.send(
            new GenerateDataKeyPairCommand({
              KeyId: await keyOf('SYMMETRIC_DEFAULT'),
              KeyPairSpec: 'ECC_NIST_P256',
            }),
          ),
      }
      const denied: Record<string, () => Promise<unknown>> = {
        'kms:SigningAlgorithm': async () =>
          asked.send(
            new SignCommand({
              KeyId: await keyOf('RSA_2048', 'SIGN_VERIFY'),
              Message: message,
              SigningAlgorithm: 'RSASSA_PSS_SHA_256',
            }),
          ),
        // RAW is what it is where nothing is said.
        'kms:MessageType': () =>
          asked.send(
            new SignCommand({
              KeyId: signing,
              Message: message,
              SigningAlgorithm: 'ECDSA_SHA_256',
            }),
          ),
        'kms:MacAlgorithm': async () =>
          asked.send(
            new GenerateMacCommand({
              KeyId: await keyOf('HMAC_512', 'GENERATE_VERIFY_MAC'),
              Message: message,
              MacAlgorithm: 'HMAC_SHA_512',
            }),
          ),
        'kms:EncryptionAlgorithm': () =>
          asked.send(
            new EncryptCommand({
              KeyId: rsa,
              Plaintext: message,
              EncryptionAlgorithm: 'RSAES_OAEP_SHA_1',
            }),
          ),
        'kms:DataKeyPairSpec': async () =>
          asked.send(
            new GenerateDataKeyPairCommand({
              KeyId: await keyOf('SYMMETRIC_DEFAULT'),
              KeyPairSpec: 'ECC_NIST_P384',
            }),
          ),
      }
      await allowed[name]?.()
      const ask = denied[name]
      if (ask === undefined) continue
      expect(await refusalOf(ask)).toMatchObject({ name: 'AccessDeniedException', status: 400 })
    }
  })
})

describe('a key that is disabled while its store works', () => {
  test('hands nothing out', async () => {
    const { engine } = service
    const uses: readonly [CreateKeyCommandInput, (KeyId: string) => Promise<unknown>][] = [
      [
        { KeySpec: 'RSA_4096', KeyUsage: 'SIGN_VERIFY' },
        (KeyId) =>
          kms.send(
            new SignCommand({ KeyId, Message: message, SigningAlgorithm: 'RSASSA_PSS_SHA_512' }),
          ),
      ],
      [
        {},
        (KeyId) =>
          kms.send(new GenerateDataKeyPairCommand({ KeyId, KeyPairSpec: 'ECC_NIST_P521' })),
      ],
    ]
    for (const [input, use] of uses) {
      const key = await newKey(input)
      await use(key)
      const kmsKey = await engine.kms.registry.resolve(key)
      const store = engine.kms.keyStoreOf(kmsKey)
      const real = { sign: store.sign.bind(store), wrapBytes: store.wrapBytes.bind(store) }
      // The real work, with a change of state before it is answered.
      store.sign = async (...words) => {
        const made = await real.sign(...words)
        await engine.kms.disableKey(key)
        return made
      }
      store.wrapBytes = async (...words) => {
        const made = await real.wrapBytes(...words)
        await engine.kms.disableKey(key)
        return made
      }
      try {
        expect(await refusalOf(() => use(key))).toMatchObject({ name: 'DisabledException' })
      } finally {
        Object.assign(store, real)
      }
    }
  })
})

test('nothing that is secret is in the log', async () => {
  const KeyId = await keyOf('SYMMETRIC_DEFAULT')
  const pair = await kms.send(
    new GenerateDataKeyPairCommand({ KeyId, KeyPairSpec: 'ECC_NIST_P256' }),
  )
  const der = Buffer.from(pair.PrivateKeyPlaintext as Uint8Array)
  const log = service.logged.join('\n')
  for (const secret of [der.toString('base64'), der.toString('hex'), message.toString()]) {
    expect(log).not.toContain(secret)
  }
})
