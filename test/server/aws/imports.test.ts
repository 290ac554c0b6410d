/**
 * Key material that its owner brings, over the AWS protocol with AWS's own client: wrapped by openssl as AWS's guide says,
 * and then held against openssl again. What was changed on the way, belongs elsewhere or came too late stays outside.
 */
import {
  CancelKeyDeletionCommand,
  CreateKeyCommand,
  DecryptCommand,
  DeleteImportedKeyMaterialCommand,
  DeriveSharedSecretCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  EncryptCommand,
  GenerateMacCommand,
  GetParametersForImportCommand,
  GetPublicKeyCommand,
  ImportKeyMaterialCommand,
  ListKeyRotationsCommand,
  ScheduleKeyDeletionCommand,
  SignCommand,
  VerifyCommand,
  type AlgorithmSpec,
  type ImportKeyMaterialCommandInput,
  type KeyMetadata,
  type KeySpec,
  type KeyUsageType,
  type KMSClient,
  type MacAlgorithmSpec,
  type SigningAlgorithmSpec,
  type WrappingKeySpec,
} from '@aws-sdk/client-kms'
import { constants, createHash, createPublicKey, publicEncrypt, randomBytes } from 'node:crypto'
import { readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { runInCatalog } from '../../catalog/file.ts'
import { flip } from '../../crypto/key-pairs.ts'
import { testOpenssl, type Openssl } from '../../crypto/openssl.ts'
import { startService, type Service } from '../../service.ts'
import { clientOf, refusalOf } from './sdk.ts'

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS

let service: Service
let kms: KMSClient
/** How far the service's wall clock is ahead of ours. */
let aheadMs = 0

beforeAll(async () => {
  service = await startService({
    settings: { logLevel: 'debug' },
    wallClockMs: () => Date.now() + aheadMs,
  })
  kms = await clientOf(service)
})
afterAll(() => service.close())

interface Parameters {
  readonly KeyId: string
  readonly ImportToken: Uint8Array
  readonly publicKey: Uint8Array
}

async function newKey(
  KeySpec: KeySpec = 'SYMMETRIC_DEFAULT',
  usage?: KeyUsageType,
): Promise<string> {
  const input = { KeySpec, KeyUsage: usage, Origin: 'EXTERNAL' } as const
  const { KeyMetadata } = await kms.send(new CreateKeyCommand(input))
  return KeyMetadata?.Arn as string
}

async function parametersOf(
  KeyId: string,
  WrappingAlgorithm: AlgorithmSpec = 'RSAES_OAEP_SHA_256',
  wrappingKeySpec: WrappingKeySpec = 'RSA_2048',
  client: KMSClient = kms,
): Promise<Parameters> {
  const input = { KeyId, WrappingAlgorithm, WrappingKeySpec: wrappingKeySpec }
  const made = await client.send(new GetParametersForImportCommand(input))
  expect(made.KeyId).toBe(KeyId)
  return {
    KeyId,
    ImportToken: made.ImportToken as Uint8Array,
    publicKey: made.PublicKey as Uint8Array,
  }
}

/** RSAES_OAEP_SHA_256 by node:crypto, for tests that are not about wrapping. */
function wrap({ publicKey }: Parameters, material: Uint8Array): Uint8Array {
  const key = createPublicKey({ key: Buffer.from(publicKey), type: 'spki', format: 'der' })
  return publicEncrypt(
    { key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' },
    material,
  )
}

/** "Encrypting key material with …" of the developer guide, on openssl's command line. */
function wrapWithOpenssl(
  openssl: Openssl,
  { publicKey }: Parameters,
  algorithm: AlgorithmSpec,
  material: Uint8Array,
): Buffer {
  const hash = algorithm.endsWith('SHA_1') ? 'sha1' : 'sha256'
  const key = openssl.file('wrapping.der', publicKey)
  const oaep = (plaintext: Uint8Array): Buffer =>
    openssl.answer(
      ...['pkeyutl', '-encrypt', '-pubin', '-keyform', 'DER', '-inkey', key],
      ...['-in', openssl.file('plaintext', plaintext)],
      ...['-pkeyopt', 'rsa_padding_mode:oaep', '-pkeyopt', `rsa_oaep_md:${hash}`],
      ...['-pkeyopt', `rsa_mgf1_md:${hash}`],
    )
  if (algorithm.startsWith('RSAES')) return oaep(material)
  const aesKey = randomBytes(32)
  const wrapped = openssl.written(
    ...['enc', '-id-aes256-wrap-pad', '-K', aesKey.toString('hex'), '-iv', 'A65959A6'],
    ...['-in', openssl.file('material', material), '-out', 'wrapped'],
  )
  return Buffer.concat([oaep(aesKey), wrapped])
}

const FOREVER = { ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE' } as const

function importInto(
  { KeyId, ImportToken }: Parameters,
  EncryptedKeyMaterial: Uint8Array,
  rest: Partial<ImportKeyMaterialCommandInput> = FOREVER,
) {
  const input = { KeyId, ImportToken, EncryptedKeyMaterial, ...rest }
  return kms.send(new ImportKeyMaterialCommand(input))
}

async function importNow(KeyId: string, material: Uint8Array, rest = FOREVER as object) {
  const parameters = await parametersOf(KeyId)
  return importInto(parameters, wrap(parameters, material), rest)
}

async function describeKey(KeyId: string): Promise<KeyMetadata> {
  const { KeyMetadata } = await kms.send(new DescribeKeyCommand({ KeyId }))
  return KeyMetadata as KeyMetadata
}

const message = Buffer.from('a message of many bytes')

async function encrypt(KeyId: string): Promise<Uint8Array> {
  const { CiphertextBlob } = await kms.send(new EncryptCommand({ KeyId, Plaintext: message }))
  return CiphertextBlob as Uint8Array
}

async function opens(CiphertextBlob: Uint8Array): Promise<boolean> {
  const { Plaintext } = await kms.send(new DecryptCommand({ CiphertextBlob }))
  return Buffer.from(Plaintext as Uint8Array).equals(message)
}

describe('a key without material', () => {
  test('waits for it, and does nothing else', async () => {
    const KeyId = await newKey()
    const described = await describeKey(KeyId)
    expect(described).toMatchObject({
      KeyState: 'PendingImport',
      Origin: 'EXTERNAL',
      Enabled: false,
    })
    for (const absent of ['ExpirationModel', 'ValidTo', 'CurrentKeyMaterialId']) {
      expect(described).not.toHaveProperty(absent)
    }
    expect(await refusalOf(() => encrypt(KeyId))).toEqual({
      name: 'KMSInvalidStateException',
      message: `${KeyId} is pending import.`,
      status: 400,
    })
  })

  test('is another than one whose material was made here, which takes none', async () => {
    const { KeyMetadata } = await kms.send(new CreateKeyCommand({}))
    const KeyId = KeyMetadata?.Arn as string
    const theirs = await parametersOf(await newKey())
    const refused = [
      () => parametersOf(KeyId),
      () => importInto({ ...theirs, KeyId }, wrap(theirs, randomBytes(32))),
      () => kms.send(new DeleteImportedKeyMaterialCommand({ KeyId })),
    ]
    for (const ask of refused) {
      expect(await refusalOf(ask)).toEqual({
        name: 'UnsupportedOperationException',
        message: `${KeyId} origin is AWS_KMS which is not valid for this operation.`,
        status: 400,
      })
    }
    expect(await opens(await encrypt(KeyId))).toBe(true)
  })
})

describe.each(['RSA_2048', 'RSA_3072', 'RSA_4096'] as const)(
  'wrapped under %s by openssl',
  (spec) => {
    testOpenssl(
      'symmetric material arrives, is used, and comes back as itself',
      async (openssl) => {
        for (const algorithm of ['RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256'] as const) {
          const KeyId = await newKey()
          const material = randomBytes(32)
          const parameters = await parametersOf(KeyId, algorithm, spec)
          const wrapped = wrapWithOpenssl(openssl, parameters, algorithm, material)
          const imported = await importInto(parameters, wrapped)
          const described = await describeKey(KeyId)
          expect(imported).toMatchObject({ KeyId, KeyMaterialId: described.CurrentKeyMaterialId })
          expect(described).toMatchObject({
            KeyState: 'Enabled',
            ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE',
            CurrentKeyMaterialId: expect.stringMatching(/^[0-9a-f]{64}$/),
          })
          const ciphertext = await encrypt(KeyId)
          await kms.send(new DeleteImportedKeyMaterialCommand({ KeyId }))
          const again = await parametersOf(KeyId, 'RSAES_OAEP_SHA_256', 'RSA_2048')
          await importInto(again, wrapWithOpenssl(openssl, again, 'RSAES_OAEP_SHA_256', material))
          expect(await opens(ciphertext)).toBe(true)
        }
      },
    )
  },
)

describe.each([
  ['HMAC_224', 'HMAC_SHA_224', 'SHA224', 28],
  ['HMAC_256', 'HMAC_SHA_256', 'SHA256', 32],
  ['HMAC_384', 'HMAC_SHA_384', 'SHA384', 48],
  ['HMAC_512', 'HMAC_SHA_512', 'SHA512', 64],
] as const)('imported material of %s', (spec, algorithm, digest, bytesMin) => {
  testOpenssl('makes the MAC that openssl makes', async (openssl) => {
    for (const material of [randomBytes(bytesMin), randomBytes(128)]) {
      const KeyId = await newKey(spec, 'GENERATE_VERIFY_MAC')
      const imported = await importNow(KeyId, material)
      expect(imported.KeyMaterialId).toBeUndefined()
      const { Mac } = await kms.send(
        new GenerateMacCommand({
          KeyId,
          Message: message,
          MacAlgorithm: algorithm as MacAlgorithmSpec,
        }),
      )
      const expected = openssl.answer(
        ...['mac', '-digest', digest, '-macopt', `hexkey:${material.toString('hex')}`],
        ...['-binary', '-in', openssl.file('message', message), 'HMAC'],
      )
      expect(Buffer.from(Mac as Uint8Array)).toEqual(expected)
    }
  })

  test('is as long as the hash at least, and 128 bytes at most', async () => {
    const KeyId = await newKey(spec, 'GENERATE_VERIFY_MAC')
    for (const bytes of [bytesMin - 1, 129]) {
      const refusal = await refusalOf(() => importNow(KeyId, randomBytes(bytes)))
      expect(refusal).toMatchObject({ name: 'IncorrectKeyMaterialException', status: 400 })
    }
  })
})

const CURVES = {
  ECC_NIST_P256: ['prime256v1', 'ECDSA_SHA_256'],
  ECC_NIST_P384: ['secp384r1', 'ECDSA_SHA_384'],
  ECC_NIST_P521: ['secp521r1', 'ECDSA_SHA_512'],
  ECC_SECG_P256K1: ['secp256k1', 'ECDSA_SHA_256'],
} as const
type Curve = keyof typeof CURVES

/** PKCS#8 DER of a key that openssl made, and its public half. */
function opensslPair(openssl: Openssl, ...options: readonly string[]) {
  const made = ['genpkey', ...options, '-outform', 'DER', '-out', 'theirs.der']
  openssl.answer(...made)
  const privateKey = openssl.written(
    ...['pkcs8', '-topk8', '-nocrypt', '-inform', 'DER', '-in', 'theirs.der'],
    ...['-outform', 'DER', '-out', 'theirs.p8'],
  )
  const publicKey = openssl.answer(
    ...['pkey', '-inform', 'DER', '-in', 'theirs.p8', '-pubout', '-outform', 'DER'],
  )
  return { privateKey, publicKey }
}

const rsaOptions = (bits: string): string[] => [
  ...['-algorithm', 'RSA', '-pkeyopt', `rsa_keygen_bits:${bits}`],
]
const curveOptions = (curve: string): string[] => [
  ...['-algorithm', 'EC', '-pkeyopt', `ec_paramgen_curve:${curve}`],
]

interface PairCase {
  readonly spec: KeySpec
  readonly options: readonly string[]
  readonly signing: SigningAlgorithmSpec
  readonly wrappings: readonly (readonly [AlgorithmSpec, WrappingKeySpec])[]
}

const KEY_WRAPS = [
  ['RSA_AES_KEY_WRAP_SHA_1', 'RSA_2048'],
  ['RSA_AES_KEY_WRAP_SHA_256', 'RSA_3072'],
] as const
const PAIRS: readonly PairCase[] = [
  ...['2048', '3072', '4096'].map((bits) => ({
    spec: `RSA_${bits}` as KeySpec,
    options: rsaOptions(bits),
    signing: 'RSASSA_PKCS1_V1_5_SHA_256' as const,
    wrappings: KEY_WRAPS,
  })),
  ...(Object.keys(CURVES) as Curve[]).map((spec) => ({
    spec,
    options: curveOptions(CURVES[spec][0]),
    signing: CURVES[spec][1],
    wrappings: [...KEY_WRAPS, ['RSAES_OAEP_SHA_256', 'RSA_3072'] as const],
  })),
]

describe.each(PAIRS)(
  'an imported private key of $spec',
  ({ spec, options, signing, wrappings }) => {
    testOpenssl(
      'signs for the public key that its owner has, and verifies for it',
      async (openssl) => {
        const pair = opensslPair(openssl, ...options)
        const publicKey = openssl.file('public.der', pair.publicKey)
        const hash = `sha${/\d+$/.exec(signing)?.[0] ?? ''}`
        for (const [algorithm, wrappingKeySpec] of wrappings) {
          const KeyId = await newKey(spec, 'SIGN_VERIFY')
          const parameters = await parametersOf(KeyId, algorithm, wrappingKeySpec)
          const wrapped = wrapWithOpenssl(openssl, parameters, algorithm, pair.privateKey)
          await importInto(parameters, wrapped)
          const shown = await kms.send(new GetPublicKeyCommand({ KeyId }))
          expect(Buffer.from(shown.PublicKey as Uint8Array)).toEqual(pair.publicKey)

          const input = { KeyId, Message: message, SigningAlgorithm: signing }
          const { Signature } = await kms.send(new SignCommand(input))
          openssl.answer(
            ...['dgst', `-${hash}`, '-keyform', 'DER', '-verify', publicKey],
            ...['-signature', openssl.file('signature', Signature as Uint8Array)],
            openssl.file('message', message),
          )
          const theirs = openssl.answer(
            ...['dgst', `-${hash}`, '-keyform', 'DER', '-sign', 'theirs.p8'],
            openssl.file('message', message),
          )
          const verified = await kms.send(new VerifyCommand({ ...input, Signature: theirs }))
          expect(verified.SignatureValid).toBe(true)
        }
      },
    )
  },
)

testOpenssl('an imported RSA key opens what was encrypted to it before', async (openssl) => {
  const pair = opensslPair(openssl, ...rsaOptions('2048'))
  const ciphertext = openssl.answer(
    ...['pkeyutl', '-encrypt', '-pubin', '-keyform', 'DER'],
    ...['-inkey', openssl.file('public.der', pair.publicKey)],
    ...['-in', openssl.file('message', message), '-pkeyopt', 'rsa_padding_mode:oaep'],
    ...['-pkeyopt', 'rsa_oaep_md:sha256', '-pkeyopt', 'rsa_mgf1_md:sha256'],
  )
  const KeyId = await newKey('RSA_2048', 'ENCRYPT_DECRYPT')
  const algorithm = 'RSA_AES_KEY_WRAP_SHA_256'
  const parameters = await parametersOf(KeyId, algorithm)
  await importInto(parameters, wrapWithOpenssl(openssl, parameters, algorithm, pair.privateKey))
  const { Plaintext } = await kms.send(
    new DecryptCommand({
      KeyId,
      CiphertextBlob: ciphertext,
      EncryptionAlgorithm: 'RSAES_OAEP_SHA_256',
    }),
  )
  expect(Buffer.from(Plaintext as Uint8Array)).toEqual(message)
})

testOpenssl(
  'an imported key agrees on what openssl agrees on with it, and says where it is from',
  async (openssl) => {
    const ours = opensslPair(openssl, ...curveOptions('secp384r1'))
    openssl.file('ours.p8', ours.privateKey)
    const theirs = opensslPair(openssl, ...curveOptions('secp384r1'))
    const KeyId = await newKey('ECC_NIST_P384', 'KEY_AGREEMENT')
    await importNow(KeyId, ours.privateKey)
    const derived = await kms.send(
      new DeriveSharedSecretCommand({
        KeyId,
        KeyAgreementAlgorithm: 'ECDH',
        PublicKey: theirs.publicKey,
      }),
    )
    const expected = openssl.answer(
      ...['pkeyutl', '-derive', '-keyform', 'DER', '-inkey', 'ours.p8', '-peerform', 'DER'],
      ...['-peerkey', openssl.file('peer.der', theirs.publicKey)],
    )
    expect(Buffer.from(derived.SharedSecret as Uint8Array)).toEqual(expected)
    expect(derived.KeyOrigin).toBe('EXTERNAL')
  },
)

testOpenssl(
  'a private key of another spec, or with another public half, is not taken',
  async (openssl) => {
    const algorithm = 'RSA_AES_KEY_WRAP_SHA_256'
    const p256 = opensslPair(openssl, ...curveOptions('prime256v1'))
    const other = opensslPair(openssl, ...curveOptions('prime256v1'))
    const p384 = opensslPair(openssl, ...curveOptions('secp384r1'))
    const rsa = opensslPair(openssl, ...rsaOptions('3072'))
    // The public point is the last 65 bytes of both.
    const mixed = Buffer.concat([p256.privateKey.subarray(0, -65), other.publicKey.subarray(-65)])
    const wrong: readonly (readonly [KeySpec, Uint8Array])[] = [
      ['ECC_NIST_P256', p384.privateKey],
      ['ECC_NIST_P256', mixed],
      ['ECC_NIST_P256', p256.publicKey],
      ['ECC_NIST_P256', randomBytes(32)],
      ['ECC_SECG_P256K1', p256.privateKey],
      ['RSA_2048', rsa.privateKey],
    ]
    for (const [spec, material] of wrong) {
      const KeyId = await newKey(spec, 'SIGN_VERIFY')
      const parameters = await parametersOf(KeyId, algorithm)
      const wrapped = wrapWithOpenssl(openssl, parameters, algorithm, material)
      const refusal = await refusalOf(() => importInto(parameters, wrapped))
      expect(refusal).toMatchObject({ name: 'IncorrectKeyMaterialException', status: 400 })
      expect((await describeKey(KeyId)).KeyState).toBe('PendingImport')
    }
  },
)

describe('GetParametersForImport', () => {
  test('gives an RSA key of the spec that was asked for, and 24 hours', async () => {
    const KeyId = await newKey()
    for (const bits of [2_048, 3_072, 4_096]) {
      const input = {
        KeyId,
        WrappingAlgorithm: 'RSAES_OAEP_SHA_256',
        WrappingKeySpec: `RSA_${bits}` as WrappingKeySpec,
      } as const
      const before = Date.now() + aheadMs
      const made = await kms.send(new GetParametersForImportCommand(input))
      const after = Date.now() + aheadMs
      const validTo = made.ParametersValidTo?.getTime() ?? 0
      expect(validTo).toBeGreaterThanOrEqual(before + DAY_MS)
      expect(validTo).toBeLessThanOrEqual(after + DAY_MS)
      const der = Buffer.from(made.PublicKey as Uint8Array)
      const key = createPublicKey({ key: der, type: 'spki', format: 'der' })
      expect(key.asymmetricKeyType).toBe('rsa')
      expect(key.asymmetricKeyDetails?.modulusLength).toBe(bits)
    }
  })

  test('refuses wrappings that AWS does not have for the kind of key', async () => {
    const wrong = [
      ['SYMMETRIC_DEFAULT', 'RSA_AES_KEY_WRAP_SHA_256', 'RSA_4096'],
      ['HMAC_256', 'RSA_AES_KEY_WRAP_SHA_1', 'RSA_4096'],
      ['RSA_2048', 'RSAES_OAEP_SHA_256', 'RSA_4096'],
      ['ECC_NIST_P521', 'RSAES_OAEP_SHA_1', 'RSA_2048'],
      ['SYMMETRIC_DEFAULT', 'RSAES_PKCS1_V1_5', 'RSA_2048'],
      ['SYMMETRIC_DEFAULT', 'SM2PKE', 'SM2'],
    ] as const
    for (const [spec, algorithm, wrappingKeySpec] of wrong) {
      const usage = { S: undefined, H: 'GENERATE_VERIFY_MAC', R: 'SIGN_VERIFY', E: 'SIGN_VERIFY' }[
        spec[0] as 'S'
      ]
      const KeyId = await newKey(spec, usage)
      const refusal = await refusalOf(() => parametersOf(KeyId, algorithm, wrappingKeySpec))
      expect(refusal).toMatchObject({ name: 'UnsupportedOperationException', status: 400 })
    }
  })
})

describe('an import token', () => {
  test('is good for its key, once, and as it was given', async () => {
    const [KeyId, other] = [await newKey(), await newKey()]
    const parameters = await parametersOf(KeyId)
    const theirs = await parametersOf(other)
    const wrapped = wrap(parameters, randomBytes(32))
    const { ImportToken: token } = parameters
    const wrong = [
      ...[...token.keys()].map((at) => flip(token, at, 1 << (at % 8))),
      ...[token.subarray(1), token.subarray(0, -1), Buffer.concat([token, Buffer.of(0)])],
      ...[randomBytes(token.length), theirs.ImportToken],
    ]
    for (const ImportToken of wrong) {
      const refusal = await refusalOf(() => importInto({ ...parameters, ImportToken }, wrapped))
      expect(refusal).toMatchObject({ name: 'InvalidImportTokenException', status: 400 })
    }
    await importInto(parameters, wrapped)
    expect(await refusalOf(() => importInto(parameters, wrapped))).toMatchObject({
      name: 'InvalidImportTokenException',
    })
  })

  test('imports once, also where it is used twice at the same time', async () => {
    const parameters = await parametersOf(await newKey())
    const wrapped = wrap(parameters, randomBytes(32))
    const answers = await Promise.allSettled(
      Array.from({ length: 4 }, () => importInto(parameters, wrapped)),
    )
    expect(answers.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
  })

  test('expires after 24 hours, and says so for a day', async () => {
    const KeyId = await newKey()
    const parameters = await parametersOf(KeyId)
    const wrapped = wrap(parameters, randomBytes(32))
    try {
      aheadMs += DAY_MS + 1_000
      expect(await refusalOf(() => importInto(parameters, wrapped))).toMatchObject({
        name: 'ExpiredImportTokenException',
        status: 400,
      })
      aheadMs += DAY_MS
      await parametersOf(KeyId)
      expect(await refusalOf(() => importInto(parameters, wrapped))).toMatchObject({
        name: 'InvalidImportTokenException',
      })
    } finally {
      aheadMs = 0
    }
  })

  test('survives a restart with its wrapping key, which opens for no other token or algorithm', async () => {
    const first = await startService()
    const client = await clientOf(first)
    const { KeyMetadata } = await client.send(new CreateKeyCommand({ Origin: 'EXTERNAL' }))
    const KeyId = KeyMetadata?.Arn as string
    const made = []
    for (let i = 0; i < 3; i++) {
      made.push(await parametersOf(KeyId, 'RSAES_OAEP_SHA_256', 'RSA_2048', client))
    }
    const [kept, swapped, other] = made as [Parameters, Parameters, Parameters]
    await first.drain()
    await first.engine.close()
    const rowOf = ({ ImportToken }: Parameters) =>
      `hex(tokenHash) = upper('${createHash('sha256').update(ImportToken).digest('hex')}')`
    runInCatalog(
      first.dataDirectory,
      `update importParameters set sealedPrivateKey = (
         select sealedPrivateKey from importParameters where ${rowOf(other)}
       ) where ${rowOf(swapped)}`,
      `update importParameters set wrappingAlgorithm = 'RSAES_OAEP_SHA_1' where ${rowOf(other)}`,
      `with recursive n(i) as (select 1 union all select i + 1 from n where i < 97)
       insert into importParameters
       select randomblob(32), kmsKeyId, wrappingAlgorithm, sealedPrivateKey, expiresAtMs
       from importParameters, n where ${rowOf(kept)}`,
    )
    const second = await startService({ filesFrom: first.dataDirectory })
    rmSync(first.dataDirectory, { recursive: true })
    try {
      const again = await clientOf(second)
      const material = randomBytes(32)
      const send = (parameters: Parameters, wrapped: Uint8Array) =>
        again.send(
          new ImportKeyMaterialCommand({
            KeyId,
            ImportToken: parameters.ImportToken,
            EncryptedKeyMaterial: wrapped,
            ...FOREVER,
          }),
        )
      for (const changed of [swapped, other]) {
        const refusal = await refusalOf(() => send(changed, wrap(other, material)))
        expect(refusal).toMatchObject({ name: 'KMSInternalException', status: 500 })
      }
      const oneMore = () => parametersOf(KeyId, 'RSAES_OAEP_SHA_256', 'RSA_2048', again)
      expect(await refusalOf(oneMore)).toMatchObject({
        name: 'LimitExceededException',
        status: 400,
      })
      expect((await send(kept, wrap(kept, material))).KeyId).toBe(KeyId)
      // That one is used up, which makes room.
      await oneMore()
    } finally {
      await second.close()
    }
  })
})

testOpenssl(
  'wrapped material that was changed or cut anywhere does not open, and the key waits on',
  async (openssl) => {
    const material = opensslPair(openssl, ...curveOptions('prime256v1')).privateKey
    for (const algorithm of ['RSAES_OAEP_SHA_256', 'RSA_AES_KEY_WRAP_SHA_256'] as const) {
      const KeyId = await newKey('ECC_NIST_P256', 'SIGN_VERIFY')
      const parameters = await parametersOf(KeyId, algorithm)
      const wrapped = wrapWithOpenssl(openssl, parameters, algorithm, material)
      const wrong = [
        ...[...wrapped.keys()].map((at) => flip(wrapped, at, 1 << (at % 8))),
        ...[wrapped.subarray(1), wrapped.subarray(0, -1), wrapped.subarray(0, 256 - 8)],
        ...[Buffer.concat([wrapped, Buffer.alloc(8)]), Buffer.of(1), randomBytes(wrapped.length)],
      ]
      for (const one of wrong) {
        const refusal = await refusalOf(() => importInto(parameters, one))
        expect(refusal).toMatchObject({ name: 'InvalidCiphertextException', status: 400 })
      }
      expect((await describeKey(KeyId)).KeyState).toBe('PendingImport')
      await importInto(parameters, wrapped)
      expect((await describeKey(KeyId)).KeyState).toBe('Enabled')
    }
  },
)

describe('material that comes again', () => {
  test('is the same, whether it was deleted or not; another one changes nothing', async () => {
    const KeyId = await newKey()
    const material = randomBytes(32)
    await importNow(KeyId, material)
    const ciphertext = await encrypt(KeyId)
    for (const state of ['Enabled', 'PendingImport']) {
      if (state === 'PendingImport') await kms.send(new DeleteImportedKeyMaterialCommand({ KeyId }))
      for (const other of [randomBytes(32), flip(material, 31), randomBytes(31), randomBytes(33)]) {
        const refusal = await refusalOf(() => importNow(KeyId, other))
        expect(refusal).toMatchObject({ name: 'IncorrectKeyMaterialException', status: 400 })
      }
      expect((await describeKey(KeyId)).KeyState).toBe(state)
      await importNow(KeyId, material)
      expect(await opens(ciphertext)).toBe(true)
    }
  })

  test('leaves a disabled key disabled', async () => {
    const KeyId = await newKey()
    const material = randomBytes(32)
    await importNow(KeyId, material)
    await kms.send(new DisableKeyCommand({ KeyId }))
    await importNow(KeyId, material)
    expect((await describeKey(KeyId)).KeyState).toBe('Disabled')
  })

  test('is announced as what it is, where it is announced', async () => {
    const KeyId = await newKey()
    const material = randomBytes(32)
    const unknown = { ...FOREVER, ImportType: 'EXISTING_KEY_MATERIAL' }
    const foreign = { ...FOREVER, KeyMaterialId: '0'.repeat(64) }
    for (const rest of [unknown, foreign]) {
      expect(await refusalOf(() => importNow(KeyId, material, rest))).toMatchObject({
        name: 'IncorrectKeyMaterialException',
      })
    }
    const first = { ...FOREVER, ImportType: 'NEW_KEY_MATERIAL', KeyMaterialDescription: 'of 2026' }
    const { KeyMaterialId } = await importNow(KeyId, material, first)
    const fresh = { ...FOREVER, ImportType: 'NEW_KEY_MATERIAL' }
    const refusals = [
      [() => importNow(KeyId, material, fresh), 'IncorrectKeyMaterialException'],
      [() => importNow(KeyId, randomBytes(32), fresh), 'UnsupportedOperationException'],
      [() => importNow(KeyId, material, foreign), 'IncorrectKeyMaterialException'],
      [() => importNow(KeyId, material, { ...fresh, KeyMaterialId }), 'ValidationException'],
    ] as const
    for (const [ask, name] of refusals) expect(await refusalOf(ask)).toMatchObject({ name })
    await importNow(KeyId, material, { ...unknown, KeyMaterialId })
    const input = { KeyId, IncludeKeyMaterial: 'ALL_KEY_MATERIAL' } as const
    const { Rotations } = await kms.send(new ListKeyRotationsCommand(input))
    expect(Rotations).toMatchObject([
      { KeyMaterialId, KeyMaterialDescription: 'of 2026', ImportState: 'IMPORTED' },
    ])
    const hmac = await newKey('HMAC_256', 'GENERATE_VERIFY_MAC')
    expect(await refusalOf(() => importNow(hmac, randomBytes(32), first))).toMatchObject({
      name: 'ValidationException',
    })
  })
})

describe('material that expires', () => {
  test('says when, is gone then, and comes back by another import', async () => {
    const KeyId = await newKey()
    const material = randomBytes(32)
    const inMs = (ms: number): Date =>
      new Date(Math.floor((Date.now() + aheadMs + ms) / 1000) * 1000)
    const first = inMs(HOUR_MS)
    // KEY_MATERIAL_EXPIRES is what it is where nothing is said.
    await importNow(KeyId, material, { ValidTo: first })
    expect(await describeKey(KeyId)).toMatchObject({
      ExpirationModel: 'KEY_MATERIAL_EXPIRES',
      ValidTo: first,
    })
    const ciphertext = await encrypt(KeyId)
    const later = inMs(3 * HOUR_MS)
    const changed: string[] = []
    service.engine.kms.registry.onChange((id) => void changed.push(id))
    const expires = { ExpirationModel: 'KEY_MATERIAL_EXPIRES', ValidTo: later }
    await importNow(KeyId, material, expires)
    // Whoever waits for the moment hears that it is another one.
    expect(changed.map((id) => KeyId.endsWith(id))).toContain(true)
    try {
      aheadMs = 2 * HOUR_MS
      await service.engine.scheduler.run()
      expect(await describeKey(KeyId)).toMatchObject({ KeyState: 'Enabled', ValidTo: later })
      aheadMs = 3 * HOUR_MS
      await service.engine.scheduler.run()
      const described = await describeKey(KeyId)
      expect(described.KeyState).toBe('PendingImport')
      expect(described).not.toHaveProperty('ValidTo')
      expect(await refusalOf(() => opens(ciphertext))).toMatchObject({
        name: 'KMSInvalidStateException',
        message: `${KeyId} is pending import.`,
      })
      await importNow(KeyId, material)
      expect(await describeKey(KeyId)).toMatchObject({
        KeyState: 'Enabled',
        ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE',
      })
      expect(await opens(ciphertext)).toBe(true)
      aheadMs = 4 * HOUR_MS
      await service.engine.scheduler.run()
      expect(await opens(ciphertext)).toBe(true)
    } finally {
      aheadMs = 0
    }
  })

  test('needs a moment to come, within a year, and only if it expires', async () => {
    const KeyId = await newKey()
    const at = (ms: number): Date => new Date(Date.now() + ms)
    const wrong = [
      {},
      { ExpirationModel: 'KEY_MATERIAL_EXPIRES' },
      { ...FOREVER, ValidTo: at(HOUR_MS) },
      { ValidTo: at(-1_000) },
      { ValidTo: at(365 * DAY_MS + HOUR_MS) },
      { ...FOREVER, KeyMaterialId: 'not hexadecimal' },
    ]
    for (const rest of wrong) {
      const refusal = await refusalOf(() => importNow(KeyId, randomBytes(32), rest))
      expect(refusal).toMatchObject({ name: 'ValidationException', status: 400 })
    }
    await importNow(KeyId, randomBytes(32), { ValidTo: at(365 * DAY_MS - HOUR_MS) })
  })
})

describe('DeleteImportedKeyMaterial', () => {
  test('leaves a key that waits, whoever asks again', async () => {
    const KeyId = await newKey()
    const material = randomBytes(32)
    const { KeyMaterialId } = await importNow(KeyId, material)
    const ciphertext = await encrypt(KeyId)
    const foreign = { KeyId, KeyMaterialId: '0'.repeat(64) }
    const asked = () => kms.send(new DeleteImportedKeyMaterialCommand(foreign))
    expect(await refusalOf(asked)).toMatchObject({ name: 'NotFoundException' })
    expect(await opens(ciphertext)).toBe(true)
    for (const input of [{ KeyId, KeyMaterialId }, { KeyId }]) {
      const deleted = await kms.send(new DeleteImportedKeyMaterialCommand(input))
      expect(deleted).toMatchObject({ KeyId, KeyMaterialId })
      expect(await describeKey(KeyId)).toMatchObject({ KeyState: 'PendingImport', Enabled: false })
      expect(await refusalOf(() => opens(ciphertext))).toMatchObject({
        name: 'KMSInvalidStateException',
      })
    }
  })

  test('leaves a key that waits for its deletion waiting for it', async () => {
    const KeyId = await newKey()
    const material = randomBytes(32)
    await importNow(KeyId, material)
    const ciphertext = await encrypt(KeyId)
    await kms.send(new ScheduleKeyDeletionCommand({ KeyId, PendingWindowInDays: 7 }))
    await kms.send(new DeleteImportedKeyMaterialCommand({ KeyId }))
    expect((await describeKey(KeyId)).KeyState).toBe('PendingDeletion')
    await kms.send(new CancelKeyDeletionCommand({ KeyId }))
    expect((await describeKey(KeyId)).KeyState).toBe('PendingImport')
    await importNow(KeyId, material)
    expect(await opens(ciphertext)).toBe(true)
  })
})

test('policies read the wrapping and the expiration', async () => {
  const { identityPolicies, config } = service.engine
  const KeyId = await newKey()
  const allow = (Action: string, Condition: object) => ({
    Effect: 'Allow',
    Action,
    Resource: '*',
    Condition,
  })
  await identityPolicies.put({
    principalArn: `arn:aws:iam::${config.account}:user/importer`,
    name: 'imports',
    document: JSON.stringify({
      Version: '2012-10-17',
      Statement: [
        allow('kms:GetParametersForImport', {
          StringEquals: {
            'kms:WrappingAlgorithm': 'RSAES_OAEP_SHA_256',
            'kms:WrappingKeySpec': 'RSA_3072',
          },
        }),
        allow('kms:ImportKeyMaterial', {
          StringEquals: { 'kms:ExpirationModel': 'KEY_MATERIAL_EXPIRES' },
          DateLessThan: { 'kms:ValidTo': new Date(Date.now() + DAY_MS).toISOString() },
        }),
      ],
    }),
  })
  const importer = await clientOf(service, 'importer')
  const get = (algorithm: AlgorithmSpec, spec: WrappingKeySpec) =>
    parametersOf(KeyId, algorithm, spec, importer)
  const parameters = await get('RSAES_OAEP_SHA_256', 'RSA_3072')
  const wrapped = wrap(parameters, randomBytes(32))
  const send = (rest: object) =>
    importer.send(
      new ImportKeyMaterialCommand({
        KeyId,
        ImportToken: parameters.ImportToken,
        EncryptedKeyMaterial: wrapped,
        ...rest,
      }),
    )
  const denied = [
    () => get('RSAES_OAEP_SHA_1', 'RSA_3072'),
    () => get('RSAES_OAEP_SHA_256', 'RSA_2048'),
    () => send(FOREVER),
    () => send({ ValidTo: new Date(Date.now() + 2 * DAY_MS) }),
  ]
  for (const ask of denied) {
    expect(await refusalOf(ask)).toMatchObject({ name: 'AccessDeniedException', status: 400 })
  }
  await send({ ValidTo: new Date(Date.now() + HOUR_MS) })
})

testOpenssl('neither files, log nor refusals hold imported material', async (openssl) => {
  const ecc = opensslPair(openssl, ...curveOptions('prime256v1')).privateKey
  // The scalar, wherever it may have been written in another frame.
  const scalar = ecc.subarray(36, 68)
  const symmetric = randomBytes(32)
  const symmetricKey = await newKey()
  await importNow(symmetricKey, symmetric)
  const eccKey = await newKey('ECC_NIST_P256', 'SIGN_VERIFY')
  await importNow(eccKey, ecc)
  const wrongKey = await newKey('ECC_NIST_P384', 'SIGN_VERIFY')
  const tooLong = await newKey('HMAC_512', 'GENERATE_VERIFY_MAC')
  const refusals = [
    await refusalOf(() => importNow(wrongKey, ecc)),
    await refusalOf(() => importNow(tooLong, symmetric)),
  ]
  await kms.send(new DeleteImportedKeyMaterialCommand({ KeyId: symmetricKey }))
  const entries = readdirSync(service.dataDirectory, { recursive: true, withFileTypes: true })
  const files = entries
    .filter((entry) => entry.isFile())
    .map((entry) => readFileSync(join(entry.parentPath, entry.name)))
  const places = [
    ...files,
    Buffer.from(service.logged.join('\n')),
    Buffer.from(JSON.stringify(refusals)),
  ]
  for (const secret of [symmetric, scalar]) {
    for (const form of [secret, secret.toString('hex'), secret.toString('base64')]) {
      for (const place of places) expect(place.includes(form)).toBe(false)
    }
  }
})
