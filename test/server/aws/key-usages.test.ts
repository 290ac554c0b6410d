/**
 * What a key can be asked for over the AWS protocol: by its spec, usage and state, in a dry run, by an enclave, and as
 * policies allow.
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
  type EncryptionAlgorithmSpec,
  type KeySpec,
  type KeyUsageType,
  type KMSClient,
  type MacAlgorithmSpec,
  type SigningAlgorithmSpec,
} from '@aws-sdk/client-kms'
import { createHash, randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

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

const RSA_SIGNING = ['RSASSA_PKCS1_V1_5', 'RSASSA_PSS'].flatMap((scheme) =>
  [256, 384, 512].map((bits) => `${scheme}_SHA_${bits}`),
) as SigningAlgorithmSpec[]

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

describe('a key of another usage', () => {
  const bytes = randomBytes(256)
  const sign = { Message: bytes, SigningAlgorithm: 'RSASSA_PSS_SHA_256' } as const
  const mac = { Message: bytes, MacAlgorithm: 'HMAC_SHA_256' } as const
  const oaep = { EncryptionAlgorithm: 'RSAES_OAEP_SHA_256' } as const
  const pair = { KeyPairSpec: 'ECC_NIST_P256' } as const
  const agree = { KeyAgreementAlgorithm: 'ECDH', PublicKey: bytes } as const

  test.each<[KeySpec, KeyUsageType, string, (key: Asked) => Promise<unknown>]>([
    [
      ...(['RSA_2048', 'SIGN_VERIFY', 'Encrypt'] as const),
      (key) => kms.send(new EncryptCommand({ ...key, ...oaep, Plaintext: bytes })),
    ],
    [
      ...(['RSA_2048', 'SIGN_VERIFY', 'Decrypt'] as const),
      (key) => kms.send(new DecryptCommand({ ...key, ...oaep, CiphertextBlob: bytes })),
    ],
    [
      ...(['RSA_2048', 'SIGN_VERIFY', 'GenerateDataKey'] as const),
      (key) => kms.send(new GenerateDataKeyCommand({ ...key, KeySpec: 'AES_256' })),
    ],
    [
      ...(['HMAC_256', 'GENERATE_VERIFY_MAC', 'GenerateDataKeyPair'] as const),
      (key) => kms.send(new GenerateDataKeyPairCommand({ ...key, ...pair })),
    ],
    [
      ...(['SYMMETRIC_DEFAULT', 'ENCRYPT_DECRYPT', 'Sign'] as const),
      (key) => kms.send(new SignCommand({ ...key, ...sign })),
    ],
    [
      ...(['HMAC_256', 'GENERATE_VERIFY_MAC', 'Verify'] as const),
      (key) => kms.send(new VerifyCommand({ ...key, ...sign, Signature: bytes })),
    ],
    [
      ...(['SYMMETRIC_DEFAULT', 'ENCRYPT_DECRYPT', 'GenerateMac'] as const),
      (key) => kms.send(new GenerateMacCommand({ ...key, ...mac })),
    ],
    [
      ...(['RSA_2048', 'SIGN_VERIFY', 'VerifyMac'] as const),
      (key) => kms.send(new VerifyMacCommand({ ...key, ...mac, Mac: bytes })),
    ],
    [
      ...(['ECC_NIST_P256', 'SIGN_VERIFY', 'DeriveSharedSecret'] as const),
      (key) => kms.send(new DeriveSharedSecretCommand({ ...key, ...agree })),
    ],
  ])(
    '%s for %s is refused for %s by name, in a dry run too',
    async (spec, usage, operation, ask) => {
      const KeyId = await keys.of(spec, usage)
      for (const DryRun of [false, true]) {
        expect(await refusalOf(() => ask({ KeyId, DryRun }))).toEqual({
          name: 'InvalidKeyUsageException',
          message: `${KeyId} key usage is ${usage} which is not valid for ${operation}.`,
          status: 400,
        })
      }
    },
  )
})

interface Asked {
  readonly KeyId: string
  readonly DryRun?: boolean
}

describe('states, dry runs, enclaves and policies', () => {
  /** An operation on each kind of key. */
  async function uses(DryRun?: boolean): Promise<readonly [string, () => Promise<unknown>][]> {
    const rsa = await keys.create({ KeySpec: 'RSA_2048', KeyUsage: 'ENCRYPT_DECRYPT' })
    const ecc = await keys.create({ KeySpec: 'ECC_NIST_P256', KeyUsage: 'SIGN_VERIFY' })
    const agreement = await keys.create({ KeySpec: 'ECC_NIST_P256', KeyUsage: 'KEY_AGREEMENT' })
    const hmac = await keys.create({ KeySpec: 'HMAC_256', KeyUsage: 'GENERATE_VERIFY_MAC' })
    const symmetric = await keys.create({})
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
      PublicKey: await keys.publicKeyOf(agreement),
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
    const KeyId = await keys.of('SYMMETRIC_DEFAULT')
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
    const KeyId = await keys.of('SYMMETRIC_DEFAULT')
    const agreement = await keys.of('ECC_NIST_P256', 'KEY_AGREEMENT')
    const { CiphertextBlob } = await kms.send(new EncryptCommand({ KeyId, Plaintext: message }))
    const Recipient = {
      KeyEncryptionAlgorithm: 'RSAES_OAEP_SHA_256',
      AttestationDocument: randomBytes(64),
    } as const
    const PublicKey = await keys.publicKeyOf(agreement)
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

  test.each<[string, string, readonly string[], Use, Use | undefined]>([
    [
      ...(['kms:SigningAlgorithm', 'ECDSA_SHA_256', ['kms:Sign', 'kms:Verify']] as const),
      signWith('ECC_NIST_P256', 'ECDSA_SHA_256'),
      signWith('RSA_2048', 'RSASSA_PSS_SHA_256'),
    ],
    [
      ...(['kms:MessageType', 'DIGEST', ['kms:Sign', 'kms:Verify']] as const),
      signWith('ECC_NIST_P256', 'ECDSA_SHA_256', 'DIGEST'),
      // RAW is what it is where nothing is said.
      signWith('ECC_NIST_P256', 'ECDSA_SHA_256'),
    ],
    [
      ...(['kms:MacAlgorithm', 'HMAC_SHA_256', ['kms:GenerateMac', 'kms:VerifyMac']] as const),
      authenticateWith('HMAC_256', 'HMAC_SHA_256'),
      authenticateWith('HMAC_512', 'HMAC_SHA_512'),
    ],
    [
      ...(['kms:EncryptionAlgorithm', 'RSAES_OAEP_SHA_256', ['kms:Encrypt']] as const),
      encryptWith('RSAES_OAEP_SHA_256'),
      encryptWith('RSAES_OAEP_SHA_1'),
    ],
    [
      ...(['kms:DataKeyPairSpec', 'ECC_NIST_P256', ['kms:GenerateDataKeyPair']] as const),
      generatePair('ECC_NIST_P256'),
      generatePair('ECC_NIST_P384'),
    ],
    [
      ...(['kms:KeyAgreementAlgorithm', 'ECDH', ['kms:DeriveSharedSecret']] as const),
      agree,
      // There is no other.
      undefined,
    ],
  ])('policies read %s', async (name, value, actions, allowed, denied) => {
    const { identityPolicies, config } = service.engine
    const user = `user-of-${name.slice(4)}`
    await identityPolicies.put({
      principalArn: `arn:aws:iam::${config.account}:user/${user}`,
      name: 'only',
      document: JSON.stringify({
        Version: '2012-10-17',
        Statement: {
          Effect: 'Allow',
          Action: actions,
          Resource: '*',
          Condition: { StringEquals: { [name]: value } },
        },
      }),
    })
    const client = await clientOf(service, user)
    await allowed(client)
    if (denied === undefined) return
    const refusal = await refusalOf(() => denied(client))
    expect(refusal).toMatchObject({ name: 'AccessDeniedException', status: 400 })
  })
})

type Use = (client: KMSClient) => Promise<unknown>

function signWith(spec: KeySpec, algorithm: SigningAlgorithmSpec, type?: 'DIGEST'): Use {
  return async (client) =>
    client.send(
      new SignCommand({
        KeyId: await keys.of(spec, 'SIGN_VERIFY'),
        Message: type === undefined ? message : createHash('sha256').update(message).digest(),
        MessageType: type,
        SigningAlgorithm: algorithm,
      }),
    )
}

function authenticateWith(spec: KeySpec, MacAlgorithm: MacAlgorithmSpec): Use {
  return async (client) => {
    const KeyId = await keys.of(spec, 'GENERATE_VERIFY_MAC')
    return client.send(new GenerateMacCommand({ KeyId, Message: message, MacAlgorithm }))
  }
}

function encryptWith(EncryptionAlgorithm: EncryptionAlgorithmSpec): Use {
  return async (client) => {
    const KeyId = await keys.of('RSA_2048', 'ENCRYPT_DECRYPT')
    return client.send(new EncryptCommand({ KeyId, Plaintext: message, EncryptionAlgorithm }))
  }
}

function generatePair(KeyPairSpec: DataKeyPairSpec): Use {
  return async (client) => {
    const KeyId = await keys.of('SYMMETRIC_DEFAULT')
    return client.send(new GenerateDataKeyPairCommand({ KeyId, KeyPairSpec }))
  }
}

async function agree(client: KMSClient): Promise<unknown> {
  const KeyId = await keys.of('ECC_NIST_P256', 'KEY_AGREEMENT')
  const PublicKey = await keys.publicKeyOf(KeyId)
  const input = { KeyId, KeyAgreementAlgorithm: 'ECDH', PublicKey } as const
  return client.send(new DeriveSharedSecretCommand(input))
}

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
      const key = await keys.create(input)
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
