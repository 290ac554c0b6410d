/** Data key pairs and shared secrets over the AWS protocol, held against openssl and node:crypto. */
import {
  DecryptCommand,
  DeriveSharedSecretCommand,
  GenerateDataKeyPairCommand,
  GenerateDataKeyPairWithoutPlaintextCommand,
  type DataKeyPairSpec,
  type KMSClient,
} from '@aws-sdk/client-kms'
import {
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  randomBytes,
} from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { flip } from '../../crypto/key-pairs.ts'
import { testOpenssl } from '../../crypto/openssl.ts'
import { startService, type Service } from '../../service.ts'
import { clientOf, refusalOf, SharedKeys } from './sdk.ts'

let service: Service
let kms: KMSClient
let keys: SharedKeys

beforeAll(async () => {
  service = await startService({ settings: { logLevel: 'debug' } })
  kms = await clientOf(service)
  keys = new SharedKeys(kms)
})
afterAll(() => service.close())

const message = Buffer.from('a message of many bytes')

describe.each([
  ['ECC_NIST_P256', 'prime256v1'],
  ['ECC_NIST_P384', 'secp384r1'],
  ['ECC_NIST_P521', 'secp521r1'],
] as const)('a key agreement key of %s', (spec, curve) => {
  testOpenssl('agrees with openssl on a secret', async (openssl) => {
    const KeyId = await keys.of(spec, 'KEY_AGREEMENT')
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
    openssl.file('ours.der', await keys.publicKeyOf(KeyId))
    const expected = openssl.answer(
      ...['pkeyutl', '-derive', '-keyform', 'DER', '-inkey', openssl.file('key.der', theirs)],
      ...['-peerform', 'DER', '-peerkey', 'ours.der'],
    )
    expect(Buffer.from(derived.SharedSecret as Uint8Array)).toEqual(expected)
  })

  test('refuses what is no public key of its curve', async () => {
    const KeyId = await keys.of(spec, 'KEY_AGREEMENT')
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
    const KeyId = await keys.of('SYMMETRIC_DEFAULT')
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
    const KeyId = await keys.of('SYMMETRIC_DEFAULT')
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
    const KeyId = await keys.of('SYMMETRIC_DEFAULT')
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

test('nothing that is secret is in the log', async () => {
  const KeyId = await keys.of('SYMMETRIC_DEFAULT')
  const pair = await kms.send(
    new GenerateDataKeyPairCommand({ KeyId, KeyPairSpec: 'ECC_NIST_P256' }),
  )
  const der = Buffer.from(pair.PrivateKeyPlaintext as Uint8Array)
  const log = service.logged.join('\n')
  for (const secret of [der.toString('base64'), der.toString('hex'), message.toString()]) {
    expect(log).not.toContain(secret)
  }
})
