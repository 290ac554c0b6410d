/**
 * Hundreds of key pairs and signatures wanted at once: each is answered or told to come back, whoever else asks has
 * their turn, and neither the event loop nor libuv's threads are taken from the rest of the process.
 */
import { createHash, createPublicKey, randomBytes, verify } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import type { KMSServiceException } from '@aws-sdk/client-kms'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import type { KeyPair } from '../../dist/crypto/key-pair.js'
import type { KeySpec } from '../../dist/crypto/key-spec.js'
import { createNodeCrypto } from '../../dist/crypto/node-crypto.js'
import { decryptOaep, encryptOaep } from '../../dist/crypto/rsa-oaep.js'
import type { KeyfoldError } from '../../dist/errors.js'
import { generateKeyPair } from '../../dist/key-stores/key-pair-work.js'
import type { KeyMaterial, StoreTurn } from '../../dist/key-stores/key-store.js'
import { LocalKeyStore } from '../../dist/key-stores/local.js'
import { callerOf, kmsOf, rootOf } from '../clients/sdk.ts'
import { pairOf } from '../crypto/key-pairs.ts'
import { startService, type Service } from '../service.ts'

/** From limits.ts: so many at once, and so many that wait. */
const GENERATIONS_TAKEN = 2 + 32
const USES_TAKEN = 2 + 1_024
const greedy: StoreTurn = { principalArn: 'arn:aws:iam::1:user/greedy', urgency: 'other' }
const modest: StoreTurn = { principalArn: 'arn:aws:iam::1:user/modest', urgency: 'other' }
const overloaded = { code: 'OVERLOADED', status: 503, retryable: true }
const NEVER = new Promise<never>(() => undefined)
const CREATED = { KeySpec: 'RSA_2048', KeyUsage: 'SIGN_VERIFY' } as const
const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** Work that is wanted so many times in one go, and how it stands. */
class Flood<T> {
  done = 0
  readonly outcomes: Promise<readonly PromiseSettledResult<T>[]>
  readonly firstRefused: Promise<unknown>

  constructor(count: number, work: () => Promise<T>) {
    const wanted = Array.from({ length: count }, async () => {
      const made = await work()
      this.done++
      return made
    })
    this.outcomes = Promise.allSettled(wanted)
    this.firstRefused = Promise.race(wanted.map((one) => one.then(() => NEVER, String)))
  }

  async made(): Promise<readonly T[]> {
    return (await this.outcomes).flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
  }

  async refused(): Promise<readonly unknown[]> {
    return (await this.outcomes).flatMap((one) => (one.status === 'rejected' ? [one.reason] : []))
  }
}

describe('RSA keys', () => {
  const flood = (count: number): Flood<KeyPair> =>
    new Flood(count, () => generateKeyPair('RSA_2048', greedy))

  test('of hundreds at once are made as far as they fit, and a file is read meanwhile', async () => {
    const keys = flood(300)
    await nextTurn()
    await readFile(fileURLToPath(import.meta.url))
    await generateKeyPair('ECC_NIST_P521', modest)
    expect(keys.done).toBeLessThan(GENERATIONS_TAKEN / 2)
    const made = await keys.made()
    expect(made.length).toBe(GENERATIONS_TAKEN)
    const moduli = made.map(({ publicKey }) => {
      const key = createPublicKey({ key: Buffer.from(publicKey), type: 'spki', format: 'der' })
      expect(key.asymmetricKeyDetails?.modulusLength).toBe(2_048)
      return key.export({ format: 'jwk' }).n
    })
    expect(new Set(moduli).size).toBe(GENERATIONS_TAKEN)
    const refused = await keys.refused()
    expect(refused.length).toBe(300 - GENERATIONS_TAKEN)
    for (const error of refused) expect(error).toMatchObject(overloaded)
    expect((refused[0] as KeyfoldError).message).toContain('32 RSA keys')
  })

  test('that one caller waits for keep another from none', async () => {
    const keys = flood(100)
    await generateKeyPair('RSA_2048', modest)
    expect(keys.done).toBeLessThan(GENERATIONS_TAKEN / 2)
    // The place of the other was taken out of those of whoever has most.
    expect((await keys.made()).length).toBe(GENERATIONS_TAKEN - 1)
    await expect(generateKeyPair('RSA_2048', greedy)).resolves.toBeDefined()
  })
})

describe('private keys in the local key store', () => {
  const crypto = createNodeCrypto()
  const open = (): LocalKeyStore => {
    const root = crypto.generateKey()
    const opened = new LocalKeyStore(crypto, { current: { version: 1, key: root } })
    crypto.releaseKey(root)
    return opened
  }
  const store = open()
  afterAll(() => store.close())

  async function make(keySpec: KeySpec, own = store): Promise<KeyMaterial> {
    const kmsKeyId = randomBytes(16)
    return { kmsKeyId, version: 1, keySpec, ...(await own.createKeyMaterial(kmsKeyId, 1, keySpec)) }
  }
  const message = Buffer.from('what is signed')
  const signable = {
    algorithm: 'ECDSA_SHA_256',
    messageType: 'DIGEST',
    message: createHash('sha256').update(message).digest(),
  } as const

  test('sign hundreds of digests at once with turns of the event loop and of others in between', async () => {
    const material = await make('ECC_NIST_P256')
    const signatures = new Flood(USES_TAKEN + 74, () => store.sign(material, signable, greedy))
    const others = store.sign(material, signable, modest)
    for (let turn = 0; turn < 3; turn++) await nextTurn()
    expect(signatures.done).toBeLessThan(20)
    await others
    expect(signatures.done).toBeLessThan(100)
    const publicKey = createPublicKey({
      key: Buffer.from(material.publicKey ?? []),
      type: 'spki',
      format: 'der',
    })
    const made = await signatures.made()
    expect(made.length).toBe(USES_TAKEN - 1)
    for (const signature of made) {
      expect(verify('sha256', message, publicKey, signature)).toBe(true)
    }
    const refused = await signatures.refused()
    expect(refused.length).toBe(75)
    for (const error of refused) expect(error).toMatchObject(overloaded)
  })

  test('agree on hundreds of secrets in the same way, and on the same', async () => {
    const [ours, theirs] = [await make('ECC_NIST_P384'), await make('ECC_NIST_P384')]
    const agree = (material: KeyMaterial, peer: KeyMaterial): Promise<Uint8Array> =>
      store.deriveSharedSecret(material, 'ECDH', peer.publicKey ?? new Uint8Array(0), greedy)
    const secrets = new Flood(200, () => agree(ours, theirs))
    for (let turn = 0; turn < 3; turn++) await nextTurn()
    expect(secrets.done).toBeLessThan(20)
    const theirsToo = Buffer.from(await agree(theirs, ours)).toString('hex')
    const agreed = (await secrets.made()).map((secret) => Buffer.from(secret).toString('hex'))
    expect(agreed.length).toBe(200)
    expect(new Set(agreed)).toEqual(new Set([theirsToo]))
  })

  test('that are locked while calls wait for them serve none of these, and block no others', async () => {
    const other = open()
    const material = await make('ECC_NIST_P256', other)
    const signatures = new Flood(50, () => other.sign(material, signable, greedy))
    other.lock()
    const refused = await signatures.refused()
    expect(refused.length).toBe(50)
    for (const error of refused) expect(error).toMatchObject({ code: 'LOCKED' })
    await expect(store.sign(await make('ECC_NIST_P256'), signable)).resolves.toBeDefined()
  })

  test('decrypt RSAES-OAEP off the event loop', async () => {
    const { privateKey, publicKey } = await pairOf('RSA_4096')
    const algorithm = 'RSAES_OAEP_SHA_256'
    const ciphertext = encryptOaep('RSA_4096', publicKey, algorithm, message)
    const decrypt = (): Promise<Uint8Array> =>
      decryptOaep('RSA_4096', privateKey, algorithm, ciphertext)
    await decrypt()
    let turned = false
    setImmediate(() => (turned = true))
    expect(Buffer.from(await decrypt())).toEqual(message)
    expect(turned).toBe(true)
  })
})

describe('a server where one caller creates hundreds of RSA keys at once', () => {
  let service: Service
  beforeAll(async () => {
    service = await startService()
  })
  afterAll(() => service.close())

  const WRAPPING = { WrappingAlgorithm: 'RSAES_OAEP_SHA_256', WrappingKeySpec: 'RSA_2048' }

  test.each([
    ['CreateKey', () => CREATED],
    ['GetParametersForImport', (KeyId: string | undefined) => ({ KeyId, ...WRAPPING })],
  ] as const)('%s of another is answered before most of them', async (operation, inputOf) => {
    const { engine } = service
    const arn = `arn:aws:iam::${engine.config.account}:user/${operation}`
    const Statement = [{ Effect: 'Allow', Action: 'kms:*', Resource: '*' }]
    await engine.identityPolicies.put({
      principalArn: arn,
      name: 'all',
      document: JSON.stringify({ Version: '2012-10-17', Statement }),
    })
    const root = await kmsOf(service, rootOf(service))
    const { KeyMetadata } = await root.createKey({ Origin: 'EXTERNAL' })
    const other = await callerOf(service, arn)
    const keys = new Flood(100, () => root.createKey(CREATED))
    await keys.firstRefused
    const { status } = await other.aws(operation, inputOf(KeyMetadata?.KeyId))
    expect(status).toBe(200)
    expect(keys.done).toBeLessThan(GENERATIONS_TAKEN)
    await keys.outcomes
    root.destroy()
  })
})

describe('a server that is asked for hundreds of data key pairs at once', () => {
  let service: Service
  beforeAll(async () => {
    service = await startService()
  })
  afterAll(() => service.close())

  test('answers or throttles each as AWS KMS does, and encrypts a batch meanwhile', async () => {
    const KeyId = await service.createKey()
    const kms = await kmsOf(service, rootOf(service))
    const pairs = new Flood(200, () =>
      kms.generateDataKeyPairWithoutPlaintext({ KeyId, KeyPairSpec: 'RSA_2048' }),
    )
    // From then on as many are under way and waiting as may.
    await pairs.firstRefused
    const plaintexts = Array.from({ length: 1_000 }, () => randomBytes(64))
    const { ciphertexts } = await service.call('encrypt', { key: KeyId, plaintexts })
    const opened = await service.call('decrypt', { ciphertexts })
    expect(opened.plaintexts.map((one) => Buffer.from(one ?? []))).toEqual(plaintexts)
    expect(pairs.done).toBeLessThan(GENERATIONS_TAKEN)
    const made = await pairs.made()
    const refused = (await pairs.refused()) as readonly KMSServiceException[]
    expect(made.length).toBeGreaterThanOrEqual(GENERATIONS_TAKEN)
    expect(made.length + refused.length).toBe(200)
    const told = refused.map((error) => [error.name, error.$metadata.httpStatusCode])
    expect(new Set(told.map(String))).toEqual(new Set(['ThrottlingException,400']))
    kms.destroy()
  })
})
