/** The AWS Encryption SDK for JavaScript, with KMS keyrings on a keyfold in this process. */
import { randomBytes } from 'node:crypto'
import {
  buildClient,
  CommitmentPolicy,
  getLocalCryptographicMaterialsCache,
  KmsKeyringNode,
  type KmsNodeClientSupplier,
  NodeCachingMaterialsManager,
} from '@aws-crypto/client-node'
import type { KMS } from '@aws-sdk/client-kms'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'

import { startService, type Service } from '../service.ts'
import { kmsOf } from './sdk.ts'

const { encrypt, decrypt } = buildClient(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)

const CONTEXT = { table: 'Aufträge', ключ: '\u{1f511}', ﬀ: 'a' }
const PLAINTEXT = Buffer.from('four and twenty blackbirds')

let service: Service
let kms: KMS
/** How often each operation was called. */
let calls: Record<string, number>

beforeEach(async () => {
  service = await startService()
  kms = await kmsOf(service)
  calls = {}
  kms.middlewareStack.add(
    (next, { commandName = '' }) =>
      (args) => {
        calls[commandName] = (calls[commandName] ?? 0) + 1
        return next(args)
      },
    { step: 'initialize' },
  )
})
afterEach(async () => {
  vi.useRealTimers()
  await service.close()
})

/** The ARN of a new key; keyrings take no other name. */
async function createKey(): Promise<string> {
  return (await service.call('keys', {})).arn
}

/** The SDK's answers may lack what the keyring's own types say is there. */
const clientProvider = (() => kms) as unknown as KmsNodeClientSupplier

const keyring = (generatorKeyId: string, ...keyIds: string[]): KmsKeyringNode =>
  new KmsKeyringNode({ clientProvider, generatorKeyId, keyIds })

const opener = (...keyIds: string[]): KmsKeyringNode =>
  new KmsKeyringNode({ clientProvider, keyIds })

async function seal(
  by: Parameters<typeof encrypt>[0],
  plaintext = PLAINTEXT,
  encryptionContext: Record<string, string> = CONTEXT,
): Promise<Buffer> {
  return (await encrypt(by, plaintext, { encryptionContext })).result
}

async function opened(by: Parameters<typeof decrypt>[0], message: Uint8Array): Promise<string> {
  return (await decrypt(by, message)).plaintext.toString()
}

test.each([
  ['no context', {}],
  ['one pair', { a: '' }],
  // In UTF-8 the surrogates of the key emoji sort behind the ligature; in JavaScript strings before it.
  ['pairs beyond ASCII', CONTEXT],
  [
    'keys whose order differs between UTF-8 and UTF-16',
    { '\u{1f511}': '1', '\uff01': '2', z: '3' },
  ],
])('a message with %s comes back with it', async (_, context: Record<string, string>) => {
  const by = keyring(await createKey())
  for (const bytes of [0, 1, 4_096, 100_000]) {
    const plaintext = randomBytes(bytes)
    const found = await decrypt(by, await seal(by, plaintext, context))
    expect(found.plaintext.equals(plaintext)).toBe(true)
    expect(found.messageHeader.encryptionContext).toMatchObject(context)
  }
})

test('a message for two keys is opened by either alone, and by no third', async () => {
  const [one, two, three] = [await createKey(), await createKey(), await createKey()]
  const message = await seal(keyring(one, two))
  expect(calls).toEqual({ GenerateDataKeyCommand: 1, EncryptCommand: 1 })
  expect(await opened(opener(one), message)).toBe(PLAINTEXT.toString())
  expect(await opened(opener(two), message)).toBe(PLAINTEXT.toString())
  await expect(opened(opener(three), message)).rejects.toThrow()
  // Whoever names no key asks for each that the message names.
  const discovery = new KmsKeyringNode({ clientProvider, discovery: true })
  expect(await opened(discovery, message)).toBe(PLAINTEXT.toString())
})

test('a disabled key opens and seals nothing; the other of two still opens', async () => {
  const [one, two] = [await createKey(), await createKey()]
  const alone = await seal(keyring(one))
  const both = await seal(keyring(one, two))
  await kms.disableKey({ KeyId: one })
  await expect(opened(opener(one), alone)).rejects.toThrow('is disabled')
  await expect(seal(keyring(one))).rejects.toThrow('is disabled')
  await expect(seal(keyring(two, one))).rejects.toThrow('is disabled')
  expect(await opened(opener(one, two), both)).toBe(PLAINTEXT.toString())
  await kms.enableKey({ KeyId: one })
  expect(await opened(opener(one), alone)).toBe(PLAINTEXT.toString())
})

test('a message whose context was changed is refused by the key', async () => {
  const by = keyring(await createKey())
  const message = await seal(by)
  const at = message.indexOf('Aufträge')
  expect(at).toBeGreaterThan(0)
  const forged = Buffer.from(message)
  forged.write('Auftrage!', at)
  expect(Buffer.byteLength('Auftrage!')).toBe(Buffer.byteLength('Aufträge'))
  await expect(opened(by, forged)).rejects.toMatchObject({
    message: expect.stringContaining('InvalidCiphertextException') as string,
  })
})

test('what was sealed before a rotation opens after it, beside what is sealed then', async () => {
  const arn = await createKey()
  const by = keyring(arn)
  const before = await seal(by)
  await kms.rotateKeyOnDemand({ KeyId: arn })
  const after = await seal(by)
  const { Rotations } = await kms.listKeyRotations({ KeyId: arn })
  expect(Rotations).toHaveLength(1)
  for (const message of [before, after]) {
    expect(await opened(by, message)).toBe(PLAINTEXT.toString())
  }
})

/** AWS Encryption SDK, "Setting cache security thresholds": each is of one cached data key. */
const caching = (
  by: KmsKeyringNode,
  limits: {
    readonly maxMessagesEncrypted?: number
    readonly maxBytesEncrypted?: number
    readonly maxAge?: number
  },
): NodeCachingMaterialsManager =>
  new NodeCachingMaterialsManager({
    backingMaterials: by,
    cache: getLocalCryptographicMaterialsCache(100),
    maxAge: 600_000,
    ...limits,
  })

test('a cache of data keys calls KMS as often as its limit of messages makes it', async () => {
  const [one, two] = [await createKey(), await createKey()]
  const by = caching(keyring(one, two), { maxMessagesEncrypted: 3 })
  const messages: Buffer[] = []
  for (let i = 0; i < 10; i++) messages.push(await seal(by, Buffer.from(`row ${i}`)))
  // 3 + 3 + 3 + 1
  expect(calls).toEqual({ GenerateDataKeyCommand: 4, EncryptCommand: 4 })
  calls = {}
  const open = caching(opener(two), {})
  for (let pass = 0; pass < 2; pass++) {
    for (const [i, message] of messages.entries()) {
      expect(await opened(open, message)).toBe(`row ${i}`)
    }
  }
  expect(calls).toEqual({ DecryptCommand: 4 })
})

test('and of bytes, of age, and of contexts', async () => {
  const arn = await createKey()
  const bytes = caching(keyring(arn), { maxBytesEncrypted: 100 })
  for (let i = 0; i < 5; i++) await seal(bytes, Buffer.alloc(40))
  expect(calls).toEqual({ GenerateDataKeyCommand: 3 })

  calls = {}
  const contexts = caching(keyring(arn), {})
  for (const row of ['1', '2', '1', '2']) await seal(contexts, PLAINTEXT, { row })
  expect(calls).toEqual({ GenerateDataKeyCommand: 2 })

  calls = {}
  const startedAtMs = Date.now()
  vi.useFakeTimers({ toFake: ['Date'], now: startedAtMs })
  const age = caching(keyring(arn), { maxAge: 60_000 })
  for (const secondsLater of [0, 59, 61, 119]) {
    vi.setSystemTime(startedAtMs + secondsLater * 1_000)
    await seal(age)
  }
  expect(calls).toEqual({ GenerateDataKeyCommand: 2 })
})
