/**
 * Signatures and MACs over the AWS protocol: openssl verifies what is signed with what GetPublicKey gives,
 * and nothing that was changed verifies.
 */
import {
  GenerateMacCommand,
  GetPublicKeyCommand,
  SignCommand,
  VerifyCommand,
  VerifyMacCommand,
  type KeySpec,
  type KMSClient,
  type MacAlgorithmSpec,
  type SigningAlgorithmSpec,
} from '@aws-sdk/client-kms'
import { createHash, randomBytes } from 'node:crypto'
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

describe.each(SIGNING)('a signing key of %s', (spec, algorithms) => {
  testOpenssl('signs what openssl verifies with its public key', async (openssl) => {
    const key = await keys.of(spec, 'SIGN_VERIFY')
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
    const key = await keys.of(spec, 'SIGN_VERIFY')
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
        KeyId: await keys.of(spec, 'SIGN_VERIFY'),
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
      const KeyId = await keys.of(spec, 'SIGN_VERIFY')
      const input = { KeyId, Message: message, SigningAlgorithm: algorithm }
      expect(await refusalOf(() => kms.send(new SignCommand(input)))).toEqual({
        name: 'InvalidKeyUsageException',
        message: `Algorithm ${algorithm} is incompatible with key spec ${spec}.`,
        status: 400,
      })
    }
    const unknown = {
      KeyId: await keys.of('RSA_2048', 'SIGN_VERIFY'),
      Message: message,
      SigningAlgorithm: 'RSASSA_PSS_SHA_1' as SigningAlgorithmSpec,
    }
    expect(await refusalOf(() => kms.send(new SignCommand(unknown)))).toMatchObject({
      name: 'ValidationException',
      message: expect.stringContaining("at 'signingAlgorithm' failed to satisfy constraint"),
    })
  })
})

describe.each(MACS)('a key of %s', (spec, algorithm, hash) => {
  test('generates what it verifies, and verifies nothing that was changed or cut', async () => {
    const KeyId = await keys.of(spec, 'GENERATE_VERIFY_MAC')
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

describe('GetPublicKey', () => {
  test('is refused for keys that have none', async () => {
    for (const [spec, usage] of [
      ['SYMMETRIC_DEFAULT', undefined],
      ['HMAC_256', 'GENERATE_VERIFY_MAC'],
    ] as const) {
      const KeyId = await keys.of(spec, usage)
      expect(await refusalOf(() => kms.send(new GetPublicKeyCommand({ KeyId })))).toMatchObject({
        name: 'UnsupportedOperationException',
        message: expect.stringContaining(spec),
      })
    }
  })
})
