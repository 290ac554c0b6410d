/**
 * AWS KMS as key store. Over there is another keyfold on a port of its own, spoken to through AWS's SDK: a real
 * server and a real client. What only AWS itself would do differently is not tried here.
 */
import {
  CreateAliasCommand,
  CreateKeyCommand,
  DecryptCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  EncryptCommand,
  ListResourceTagsCommand,
  ScheduleKeyDeletionCommand,
  type KMSClient,
} from '@aws-sdk/client-kms'
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer as createHttpServer } from 'node:http'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import type { Crypto } from '../../dist/crypto/crypto.js'
import { openAwsKmsKeyStore, type AwsKmsKeyStore } from '../../dist/key-stores/aws-kms.js'
import type { KeyfoldError } from '../../dist/errors.js'
import type { KeyMaterial } from '../../dist/key-stores/key-store.js'
import { implementations } from '../crypto/implementations.ts'
import { refused } from '../server/aws/clients.ts'
import { clientOf } from '../server/aws/sdk.ts'
import { conformance } from './conformance.ts'
import { startService, type Service } from '../service.ts'

const crypto = implementations[0] as Crypto
const KEY_SPEC = 'SYMMETRIC_DEFAULT'
const aad = randomBytes(55)

let remote: Service
let kms: KMSClient
let store: AwsKmsKeyStore

beforeAll(async () => {
  remote = await startService()
  kms = await clientOf(remote)
  store = await openStore()
})
afterAll(async () => {
  await store.close()
  kms.destroy()
  await remote.close()
})

/** As this user of the other side, or as its root. */
async function openStore(
  settings: {
    readonly createsKeys?: boolean
    readonly user?: string
    readonly endpoint?: string
    readonly timeoutMs?: number
  } = {},
): Promise<AwsKmsKeyStore> {
  // The machine may be busy: only what has to be late is to be late.
  const { createsKeys = true, user, endpoint = remote.url, timeoutMs = 60_000 } = settings
  const { accessKeys, config } = remote.engine
  const { record, secretAccessKey } = await accessKeys.create({
    principalArn: `arn:aws:iam::${config.account}:${user === undefined ? 'root' : `user/${user}`}`,
  })
  const credentials = {
    accessKeyId: record.accessKeyId,
    openSecret: () => Uint8Array.from(Buffer.from(secretAccessKey)),
  }
  const { region } = config
  const opened = { region, endpoint, credentials, createsKeys, timeoutMs }
  return openAwsKmsKeyStore('remote', opened, crypto)
}

async function make(version = 1, kmsKeyId = randomBytes(16)): Promise<KeyMaterial> {
  const created = await store.createKeyMaterial(kmsKeyId, version, KEY_SPEC)
  return { kmsKeyId, version, keySpec: KEY_SPEC, ...created }
}

const arnOf = ({ stored }: Pick<KeyMaterial, 'stored'>): string =>
  Buffer.from(stored.subarray(2)).toString()

describe('AWS KMS as key store', () => {
  test('keeps no more than the ARN of a key that it had made over there', async () => {
    const material = await make(7)
    expect([...material.stored.subarray(0, 2)]).toEqual([0xf4, 4])
    const KeyId = arnOf(material)
    const { KeyMetadata } = await kms.send(new DescribeKeyCommand({ KeyId }))
    expect(KeyMetadata).toMatchObject({ Arn: KeyId, KeyState: 'Enabled' })
    const kmsKeyId = Buffer.from(material.kmsKeyId).toString('hex')
    expect(KeyMetadata?.Description).toContain(kmsKeyId)
    const { Tags } = await kms.send(new ListResourceTagsCommand({ KeyId }))
    expect(Tags).toContainEqual({ TagKey: 'keyfold-kms-key', TagValue: kmsKeyId })
    expect(Tags).toContainEqual({ TagKey: 'keyfold-version', TagValue: '7' })
  })

  test('wraps into what AWS clients open with the AAD as encryption context, and nobody without', async () => {
    const material = await make()
    const plaintext = randomBytes(32)
    const CiphertextBlob = await store.wrapBytes(material, aad, plaintext)
    const EncryptionContext = { keyfold: aad.toString('base64') }
    const KeyId = arnOf(material)
    const opened = await kms.send(new DecryptCommand({ CiphertextBlob, EncryptionContext }))
    expect(opened).toMatchObject({ KeyId, Plaintext: Uint8Array.from(plaintext) })
    const without = kms.send(new DecryptCommand({ CiphertextBlob, KeyId }))
    expect(await refused(without)).toBe('InvalidCiphertextException')
  })

  test('opens nothing that the same account wrapped under another of its keys', async () => {
    const { KeyMetadata } = await kms.send(new CreateKeyCommand({}))
    const { CiphertextBlob } = await kms.send(
      new EncryptCommand({
        KeyId: KeyMetadata?.KeyId,
        Plaintext: randomBytes(32),
        EncryptionContext: { keyfold: aad.toString('base64') },
      }),
    )
    const opening = store.unwrapBytes(await make(), aad, CiphertextBlob as Uint8Array)
    await expect(opening).rejects.toMatchObject({ code: 'DECRYPT_FAILED' })
  })

  test('uses a key that is there by id, ARN or alias, and keeps its ARN', async () => {
    const { KeyMetadata } = await kms.send(new CreateKeyCommand({}))
    const { KeyId, Arn } = KeyMetadata ?? {}
    const AliasName = 'alias/backing'
    await kms.send(new CreateAliasCommand({ AliasName, TargetKeyId: KeyId }))
    for (const name of [KeyId, Arn, AliasName]) {
      const created = await store.createKeyMaterial(randomBytes(16), 1, KEY_SPEC, name)
      expect(arnOf(created)).toBe(Arn)
    }
  })

  test('takes no key that is of another kind, disabled, not there or no name', async () => {
    const { KeyMetadata } = await kms.send(
      new CreateKeyCommand({ KeySpec: 'HMAC_256', KeyUsage: 'GENERATE_VERIFY_MAC' }),
    )
    const disabled = await make()
    await kms.send(new DisableKeyCommand({ KeyId: arnOf(disabled) }))
    for (const [name, code] of [
      [KeyMetadata?.Arn, 'REQUEST_MALFORMED'],
      [arnOf(disabled), 'KEY_STORE_REFUSED'],
      ['00000000-0000-4000-8000-000000000000', 'KEY_STORE_REFUSED'],
      ['', 'REQUEST_MALFORMED'],
      ['with a space', 'REQUEST_MALFORMED'],
      ['x'.repeat(2_049), 'REQUEST_MALFORMED'],
    ] as const) {
      const creating = store.createKeyMaterial(randomBytes(16), 1, KEY_SPEC, name)
      await expect(creating, name).rejects.toMatchObject({ code })
    }
    const signs = await kms.send(
      new CreateKeyCommand({ KeySpec: 'ECC_NIST_P256', KeyUsage: 'SIGN_VERIFY' }),
    )
    const agreeing = store.createKeyMaterial(
      randomBytes(16),
      1,
      'ECC_NIST_P256',
      signs.KeyMetadata?.Arn,
      'KEY_AGREEMENT',
    )
    await expect(agreeing).rejects.toMatchObject({ code: 'REQUEST_MALFORMED' })
  })

  test('makes no key where it may not, or does not know what for', async () => {
    const named = await openStore({ createsKeys: false })
    expect(named.traits).toMatchObject({ rotates: false, origin: 'EXTERNAL_KEY_STORE' })
    const malformed = { code: 'REQUEST_MALFORMED' }
    const creating = named.createKeyMaterial(randomBytes(16), 1, KEY_SPEC)
    await expect(creating).rejects.toMatchObject(malformed)
    await named.close()
    const forWhat = store.createKeyMaterial(randomBytes(16), 1, 'RSA_2048')
    await expect(forWhat).rejects.toMatchObject(malformed)
  })

  test.each<[string, KmsChange]>([
    ['disabled', (KeyId) => kms.send(new DisableKeyCommand({ KeyId }))],
    [
      'about to be deleted',
      (KeyId) => kms.send(new ScheduleKeyDeletionCommand({ KeyId, PendingWindowInDays: 7 })),
    ],
  ])('tells a remote key that is %s from one that does not answer', async (_, change) => {
    const material = await make()
    const wrapped = await store.wrapBytes(material, aad, randomBytes(32))
    await change(arnOf(material))
    for (const call of uses(store, material, wrapped)) {
      await expect(call).rejects.toMatchObject({ code: 'KEY_STORE_REFUSED', retryable: false })
    }
    // What wrapped last wraps no more: not ready.
    await expect(store.probe()).rejects.toMatchObject({ code: 'KEY_STORE_UNREACHABLE' })
    await store.wrapBytes(await make(), aad, randomBytes(32))
    await store.probe()
  })

  test('tells a remote key that does not exist, and one that is forbidden', async () => {
    const material = await make()
    const wrapped = await store.wrapBytes(material, aad, randomBytes(32))
    const nowhere = arnOf(material).replace(/[0-9a-f]{12}$/, '000000000000')
    const stored = Buffer.concat([material.stored.subarray(0, 2), Buffer.from(nowhere)])
    const refusal = { code: 'KEY_STORE_REFUSED' }
    for (const call of uses(store, { ...material, stored }, wrapped)) {
      await expect(call).rejects.toMatchObject(refusal)
    }
    const stranger = await openStore({ user: 'stranger' })
    for (const call of uses(stranger, material, wrapped)) {
      const error = await call.catch((refused: unknown) => refused as KeyfoldError)
      expect(error).toMatchObject({ ...refusal, detail: 'AccessDeniedException' })
      // Whoever asked here is told neither names nor numbers of over there.
      expect((error as KeyfoldError).message).not.toContain('arn:')
    }
    // That somebody may not list keys says nothing of wrapping.
    await stranger.probe()
    await stranger.close()
  })

  test('takes a reference of another kind of store, or one that was cut, for damage of the catalog', async () => {
    const material = await make()
    for (const stored of [
      Buffer.concat([Buffer.from([0xf4, 5]), material.stored.subarray(2)]),
      Buffer.concat([Buffer.from([0xf0]), material.stored.subarray(1)]),
      material.stored.subarray(0, 2),
      material.stored.subarray(0, 1),
      Buffer.concat([material.stored, Buffer.from([0x20])]),
      new Uint8Array(0),
    ]) {
      const wrapping = store.wrapBytes({ ...material, stored }, aad, randomBytes(32))
      await expect(wrapping).rejects.toMatchObject({ code: 'INTERNAL' })
    }
  })

  test('whose credentials are wrong is refused, and asks for them anew', async () => {
    const { accessKeys, config } = remote.engine
    const { record, secretAccessKey } = await accessKeys.create({
      principalArn: `arn:aws:iam::${config.account}:root`,
    })
    const given: Uint8Array[] = []
    const opened = await openAwsKmsKeyStore(
      'remote',
      {
        region: config.region,
        endpoint: remote.url,
        createsKeys: true,
        timeoutMs: 60_000,
        credentials: {
          accessKeyId: record.accessKeyId,
          openSecret: () => {
            given.push(Buffer.from(secretAccessKey.toUpperCase()))
            return given.at(-1) as Uint8Array
          },
        },
      },
      crypto,
    )
    const refusal = { code: 'KEY_STORE_REFUSED' }
    await expect(opened.wrapBytes(await make(), aad, aad)).rejects.toMatchObject(refusal)
    expect(given.length).toBeGreaterThan(0)
    expect(given.every((bytes) => bytes.every((byte) => byte === 0))).toBe(true)
    await opened.close()
  })

  test.each([
    'http://kms.example.com',
    'http://127.0.0.1.example.com',
    'ftp://127.0.0.1',
    'https://user:password@kms.example.com',
    'https://kms.example.com/?x=1',
    'kms.example.com',
    '',
  ])('is not spoken to at %j', async (endpoint) => {
    await expect(openStore({ endpoint })).rejects.toMatchObject({ code: 'CONFIG_INVALID' })
  })

  test('without the SDK says what to install', () => {
    // The built files where no package is to be found.
    const directory = mkdtempSync(join(tmpdir(), 'keyfold-no-sdk-'))
    try {
      cpSync(join(import.meta.dirname, '../../dist'), directory, { recursive: true })
      writeFileSync(join(directory, 'package.json'), '{"type": "module"}')
      const script =
        "const { openAwsKmsKeyStore } = await import('./key-stores/aws-kms.js');" +
        "await openAwsKmsKeyStore('remote', { region: 'us-east-1', createsKeys: true })" +
        '.catch((error) => console.log(error.code, error.message))'
      const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
        cwd: directory,
        encoding: 'utf8',
      })
      expect(stdout).toMatch(/^CONFIG_INVALID .*npm install @aws-sdk\/client-kms$/m)
    } finally {
      rmSync(directory, { recursive: true, force: true })
    }
  })
})

describe('the way to AWS KMS', () => {
  test('is broken under load, and whole again: each call is answered or told to come back', async () => {
    // A port that nothing else takes meanwhile: a relay that outlives the server behind it.
    const relay = await openRelay(remote.url)
    const far = await openStore({ endpoint: relay.url })
    try {
      const material = await make()
      const plaintext = randomBytes(32)
      const wrapped = await far.wrapBytes(material, aad, plaintext)
      const outcomes: string[] = []
      const ask = async (): Promise<void> => {
        try {
          const opened = await far.unwrapBytes(material, aad, wrapped)
          outcomes.push(Buffer.from(opened).equals(plaintext) ? 'opened' : 'wrong')
        } catch (error) {
          outcomes.push((error as KeyfoldError).code)
        }
        if (outcomes.length === 50) relay.cut()
      }
      const load = Array.from({ length: 8 }, async () => {
        for (let i = 0; i < 25; i++) await ask()
      })
      await Promise.all(load)
      expect(new Set(outcomes)).toEqual(new Set(['opened', 'KEY_STORE_UNREACHABLE']))
      await expect(far.probe()).rejects.toMatchObject({ code: 'KEY_STORE_UNREACHABLE' })
      relay.restore()
      await far.probe()
      expect(Buffer.from(await far.unwrapBytes(material, aad, wrapped))).toEqual(plaintext)
    } finally {
      await far.close()
      await relay.close()
    }
  })

  test.each([
    ['nothing', ''],
    ['the head of an answer and no more', 'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"Ciph'],
  ])('does not hold a call for ever where it answers %s', async (_, answer) => {
    const sockets = new Set<Socket>()
    const stalled = createServer((socket) => {
      sockets.add(socket)
      socket.on('error', () => undefined)
      socket.once('data', () => socket.write(answer))
    })
    stalled.listen(0, '127.0.0.1')
    await once(stalled, 'listening')
    const { port } = stalled.address() as AddressInfo
    const far = await openStore({ endpoint: `http://127.0.0.1:${port}`, timeoutMs: 300 })
    const wrapping = far.wrapBytes(await make(), aad, randomBytes(32))
    await expect(wrapping).rejects.toMatchObject({ code: 'KEY_STORE_UNREACHABLE' })
    await far.close()
    for (const socket of sockets) socket.destroy()
    stalled.close()
  })

  test('that answers with something else than AWS KMS would is not believed', async () => {
    const answers = [
      [200, '{}'],
      [200, '{"CiphertextBlob": ""}'],
      [200, `{"CiphertextBlob": "${randomBytes(8_192).toString('base64')}"}`],
      [200, 'no JSON'],
      [502, '<html>Bad Gateway</html>'],
      [302, ''],
      [429, '{}'],
      [400, '{"__type": "ThrottlingException"}'],
    ] as const
    let answer: readonly [number, string] = answers[0]
    const http = createHttpServer((request, response) => {
      request.resume()
      response.writeHead(answer[0], { 'content-type': 'application/x-amz-json-1.1' })
      response.end(answer[1])
    })
    http.listen(0, '127.0.0.1')
    await once(http, 'listening')
    const { port } = http.address() as AddressInfo
    const far = await openStore({ endpoint: `http://127.0.0.1:${port}` })
    const material = await make()
    const codes: unknown[] = []
    for (answer of answers) {
      const wrapping = far.wrapBytes(material, aad, randomBytes(32))
      codes.push(await wrapping.catch((error: unknown) => (error as KeyfoldError).code))
    }
    await far.close()
    http.closeAllConnections()
    http.close()
    expect(codes).toEqual([
      'INTERNAL',
      'INTERNAL',
      'INTERNAL',
      ...Array.from({ length: 5 }, () => 'KEY_STORE_UNREACHABLE'),
    ])
  })
})

conformance('a store on AWS KMS that has its keys made there', async () => ({
  store: await openStore(),
  crypto,
  close: async () => undefined,
  usagesApart: true,
  plaintextBytesMin: 1,
}))

/** RSA keys take seconds: one of each serves. */
const sharedKeys = new Map<string, string>()

conformance('a store on AWS KMS whose keys are there already', async () => ({
  store: await openStore({ createsKeys: false }),
  crypto,
  close: async () => undefined,
  externalKeyId: async (KeySpec, KeyUsage) => {
    const name = `${KeySpec} ${KeyUsage}`
    const shared = KeySpec.startsWith('RSA') ? sharedKeys.get(name) : undefined
    if (shared !== undefined) return shared
    const { KeyMetadata } = await kms.send(new CreateKeyCommand({ KeySpec, KeyUsage }))
    sharedKeys.set(name, KeyMetadata?.Arn as string)
    return KeyMetadata?.Arn as string
  },
  usagesApart: true,
  plaintextBytesMin: 1,
}))

type KmsChange = (KeyId: string) => Promise<unknown>

/** Every call that wraps or unwraps. */
function uses(
  asked: AwsKmsKeyStore,
  material: KeyMaterial,
  wrapped: Uint8Array,
): readonly Promise<unknown>[] {
  const key = crypto.generateKey()
  return [
    asked.wrapKey(material, aad, key).finally(() => crypto.releaseKey(key)),
    asked.wrapBytes(material, aad, randomBytes(32)),
    asked.unwrapKey(material, aad, wrapped),
    asked.unwrapBytes(material, aad, wrapped),
  ]
}

interface Relay {
  readonly url: string
  /** Every connection is reset and none is taken, until restore(). */
  cut(): void
  restore(): void
  close(): Promise<void>
}

/** A port that stays, before a server that does not. */
async function openRelay(target: string): Promise<Relay> {
  const { port, hostname } = new URL(target)
  const sockets = new Set<Socket>()
  let whole = true
  const server = createServer((near) => {
    sockets.add(near)
    near.on('error', () => undefined)
    if (!whole) {
      near.resetAndDestroy()
      return
    }
    const far = connect(Number(port), hostname)
    sockets.add(far)
    far.on('error', () => near.destroy())
    near.on('close', () => far.destroy())
    far.on('close', () => near.destroy())
    near.pipe(far).pipe(near)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    cut: () => {
      whole = false
      for (const socket of sockets) socket.resetAndDestroy()
      sockets.clear()
    },
    restore: () => void (whole = true),
    close: async () => {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}
