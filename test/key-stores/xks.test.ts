/**
 * The external key store: our client against our own proxy, with the suite that every key store passes, and against
 * proxies that do everything wrong that a proxy can.
 */
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { inspect } from 'node:util'
import { afterEach, describe, expect, test } from 'vitest'

import type { Crypto } from '../../dist/crypto/crypto.js'
import type { KeyMaterial, KeyStore } from '../../dist/key-stores/key-store.js'
import { openXksKeyStore, type XksSettings } from '../../dist/key-stores/xks.js'
import { sign } from '../server/aws/signer.ts'
import { startService, type Service } from '../service.ts'
import { implementations } from '../crypto/implementations.ts'
import { conformance } from './conformance.ts'

const ROOT = 'arn:aws:iam::000000000000:root'
const SECRET = 'FYtE5EFA5FT0mCc3DrGUe2sti527BitkQ0Zr9MO9fvE'
const ACCESS_KEY_ID = 'AKIAI2SFODNN7EXAMPLE'
const crypto = implementations[0] as Crypto
const aad = randomBytes(55)

const endings: (() => Promise<void> | void)[] = []
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end()
})

function settingsOf(endpoint: string, more: Partial<XksSettings> = {}): XksSettings {
  return {
    name: 'elsewhere',
    endpoint,
    uriPath: '/kms/xks/v1',
    region: 'us-east-1',
    accessKeyId: ACCESS_KEY_ID,
    secretAccessKey: Buffer.from(SECRET),
    principalArn: 'arn:aws:iam::000000000000:user/keyfold',
    keyArnOf: (id) => `arn:aws:kms:us-east-1:000000000000:key/${Buffer.from(id).toString('hex')}`,
    // Other engineers' processes share the machine: only what has to be late is to be late.
    deadlineMs: 10_000,
    ...more,
  }
}

function open(endpoint: string, more: Partial<XksSettings> = {}): KeyStore {
  const store = openXksKeyStore(crypto, settingsOf(endpoint, more))
  endings.push(() => store.close())
  return store
}

/** Settings of a store that a service of ours is the proxy of. */
async function settingsOfService(service: Service): Promise<XksSettings> {
  const { record, secretAccessKey } = await service.engine.accessKeys.create({
    principalArn: ROOT,
    xksPrefix: '/stores/one',
  })
  return settingsOf(service.url, {
    uriPath: '/stores/one/kms/xks/v1',
    accessKeyId: record.accessKeyId,
    secretAccessKey: Buffer.from(secretAccessKey),
  })
}

conformance('the external key store, behind a proxy of ours,', async () => {
  const service = await startService({ settings: { workers: '0', audit: 'off' } })
  const store = openXksKeyStore(crypto, await settingsOfService(service))
  return {
    store,
    crypto,
    externalKeyId: () => service.createKey(),
    close: async () => {
      await store.close()
      await service.close()
    },
  }
})

/** Under a key of the proxy's that nobody asks for. */
const material: KeyMaterial = {
  kmsKeyId: randomBytes(16),
  version: 1,
  keySpec: 'SYMMETRIC_DEFAULT',
  stored: Buffer.concat([Buffer.from([0xf3]), Buffer.from('their-key')]),
  publicKey: undefined,
}

interface Asked {
  readonly url: string
  readonly headers: IncomingMessage['headers']
  readonly text: string
  readonly members: Readonly<Record<string, string>> & {
    readonly requestMetadata: Readonly<Record<string, string>>
  }
}

type Behaviour = (asked: Asked, response: ServerResponse, request: IncomingMessage) => void

interface StandIn {
  readonly url: string
  readonly asked: Asked[]
  readonly sockets: Set<Socket>
  readonly server: Server
}

/** A proxy that behaves as the test says. */
async function standIn(behave: Behaviour): Promise<StandIn> {
  const asked: Asked[] = []
  const sockets = new Set<Socket>()
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => void chunks.push(chunk))
    request.on('error', () => undefined)
    request.on('end', () => {
      const text = Buffer.concat(chunks).toString()
      const { url = '', headers } = request
      const one = { url, headers, text, members: JSON.parse(text) as Asked['members'] }
      asked.push(one)
      behave(one, response, request)
    })
  })
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  endings.push(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked,
    sockets,
    server,
  }
}

const json =
  (status: number, body: unknown): Behaviour =>
  (_asked, response) => {
    response.writeHead(status, { 'content-type': 'application/json' })
    response.end(typeof body === 'string' ? body : JSON.stringify(body))
  }

const honest: Behaviour = (asked, response, request) =>
  json(200, encrypted(asked))(asked, response, request)

const refusing = (status: number, errorName: string): Behaviour => json(status, { errorName })

/** What an honest proxy answers to encrypt: ciphertext, IV and tag need mean nothing to its client. */
function encrypted(
  { members }: Asked,
  changed: Readonly<Record<string, Buffer | string | number | undefined>> = {},
): Readonly<Record<string, unknown>> {
  const parts = {
    ciphertextMetadata: Buffer.from('key_version=1'),
    initializationVector: randomBytes(12),
    ciphertext: randomBytes(Buffer.from(members['plaintext'] ?? '', 'base64').length),
    authenticationTag: randomBytes(16),
    ...changed,
  }
  const given = Buffer.from(members['additionalAuthenticatedData'] ?? '', 'base64')
  const integrity = createHash('sha256').update(given)
  for (const part of Object.values(parts)) if (Buffer.isBuffer(part)) integrity.update(part)
  const all = { ciphertextDataIntegrityValue: integrity.digest(), ...parts }
  return Object.fromEntries(
    Object.entries(all).map(([name, part]) => [
      name,
      Buffer.isBuffer(part) ? part.toString('base64') : part,
    ]),
  )
}

/** The error of a call, as its code and what it tells. */
async function refusal(call: Promise<unknown>): Promise<{ code: string; message: string }> {
  try {
    await call
  } catch (error) {
    const { code, message } = error as { code: string; message: string }
    return { code, message }
  }
  throw new Error('it was answered')
}

const UNREACHABLE = { code: 'KEY_STORE_UNREACHABLE' }

describe('what is asked of a proxy', () => {
  test('is signed as AWS KMS signs, says who asks for which key, and asks for an integrity value', async () => {
    const proxy = await standIn(honest)
    const store = open(proxy.url, { uriPath: '/a/b/kms/xks/v1' })
    const plaintext = randomBytes(40)
    await store.wrapBytes(material, aad, plaintext)
    const [{ url, headers, text, members }] = proxy.asked as [Asked]
    expect(url).toBe('/a/b/kms/xks/v1/keys/their-key/encrypt')
    const { requestMetadata, ...rest } = members
    expect(requestMetadata).toEqual({
      awsPrincipalArn: 'arn:aws:iam::000000000000:user/keyfold',
      kmsKeyArn: `arn:aws:kms:us-east-1:000000000000:key/${Buffer.from(material.kmsKeyId).toString('hex')}`,
      kmsOperation: 'Encrypt',
      kmsRequestId: expect.stringMatching(/^[0-9a-f-]{36}$/) as string,
    })
    expect(rest).toEqual({
      plaintext: plaintext.toString('base64'),
      additionalAuthenticatedData: aad.toString('base64'),
      encryptionAlgorithm: 'AES_GCM',
      ciphertextDataIntegrityValueAlgorithm: 'SHA_256',
    })
    expect(headers['content-type']).toBe('application/json')
    // The signer of the tests knows AWS's description and nothing of ours.
    const { authorization } = sign({
      secret: SECRET,
      accessKeyId: ACCESS_KEY_ID,
      service: 'kms-xks-proxy',
      signedAt: String(headers['x-amz-date']),
      path: url,
      headers: { host: String(headers.host) },
      body: text,
    }).headers
    expect(headers.authorization).toBe(authorization)
  })

  test('is asked over connections that stay, and of which there is a bounded number', async () => {
    const proxy = await standIn(honest)
    const store = open(proxy.url)
    let most = 0
    proxy.server.on('request', () => (most = Math.max(most, proxy.sockets.size)))
    for (let round = 0; round < 3; round++) {
      await Promise.all(
        Array.from({ length: 100 }, () => store.wrapBytes(material, aad, randomBytes(32))),
      )
    }
    expect(proxy.asked).toHaveLength(300)
    expect(most).toBeLessThanOrEqual(32)
    expect(proxy.sockets.size).toBe(most)
  })

  test('is asked again where connections were closed between two calls', async () => {
    const proxy = await standIn(honest)
    const store = open(proxy.url)
    for (let round = 0; round < 5; round++) {
      await Promise.all(
        Array.from({ length: 8 }, () => store.wrapBytes(material, aad, randomBytes(32))),
      )
      for (const socket of proxy.sockets) socket.resetAndDestroy()
    }
    expect(proxy.asked).toHaveLength(40)
  })
})

describe('a proxy that answers', () => {
  const garbage: readonly (readonly [string, number, string])[] = [
    ['nothing', 200, ''],
    ['no JSON', 200, 'pong'],
    ['half of it', 200, '{"plaintext":"AAAA'],
    ['an array', 200, '[]'],
    ['null', 200, 'null'],
    ['an object without members', 200, '{}'],
    ['what is no base64', 200, '{"plaintext":"!!!!","ciphertext":"!!!!"}'],
    ['numbers', 200, '{"plaintext":7,"ciphertext":7}'],
    ['the page of a load balancer', 502, '<html>Bad Gateway</html>'],
    ['an error without a name', 400, '{}'],
    ['an error that nobody knows', 400, '{"errorName":"OutOfCheeseException"}'],
    ['an error of every object', 400, '{"errorName":"__proto__"}'],
    ['success of another kind', 204, ''],
    ['a way elsewhere', 307, '{}'],
  ]

  test.each(garbage)('%s was not reached (%i)', async (_what, status, body) => {
    const proxy = await standIn(json(status, body))
    const store = open(proxy.url)
    const part = await partOf()
    for (const call of [
      store.wrapBytes(material, aad, randomBytes(32)),
      store.wrapKey(material, aad, keyOf()),
      store.unwrapBytes(material, aad, part),
      store.unwrapKey(material, aad, part),
      store.probe(),
    ]) {
      expect(await refusal(call)).toMatchObject(UNREACHABLE)
    }
  })

  test.each([
    ['a ciphertext of another length', { ciphertext: randomBytes(31) }],
    ['no ciphertext', { ciphertext: undefined }],
    ['no IV', { initializationVector: undefined }],
    ['an IV of 13 bytes', { initializationVector: randomBytes(13) }],
    ['a tag of 12 bytes', { authenticationTag: randomBytes(12) }],
    ['no tag', { authenticationTag: undefined }],
    ['metadata of 21 bytes', { ciphertextMetadata: randomBytes(21) }],
    ['no integrity value', { ciphertextDataIntegrityValue: undefined }],
    ['the integrity value of something else', { ciphertextDataIntegrityValue: randomBytes(32) }],
    ['half of the integrity value', { ciphertextDataIntegrityValue: randomBytes(16) }],
    ['base64 of another alphabet', { authenticationTag: '_-__________________' }],
  ])('%s has not encrypted', async (_what, changed) => {
    const proxy = await standIn((asked, response, request) =>
      json(200, encrypted(asked, changed))(asked, response, request),
    )
    const call = open(proxy.url).wrapBytes(material, aad, randomBytes(32))
    expect(await refusal(call)).toMatchObject(UNREACHABLE)
  })

  test('any one bit otherwise than its integrity value has it has not encrypted', async () => {
    const names = ['ciphertextMetadata', 'initializationVector', 'ciphertext', 'authenticationTag']
    for (const name of names) {
      const proxy = await standIn((asked, response, request) => {
        const honest = encrypted(asked) as Record<string, string>
        const bytes = Buffer.from(honest[name] as string, 'base64')
        const at = bytes.length - 1
        bytes[at] = (bytes[at] as number) ^ 1
        json(200, { ...honest, [name]: bytes.toString('base64') })(asked, response, request)
      })
      const call = open(proxy.url).wrapBytes(material, aad, randomBytes(32))
      expect(await refusal(call), name).toMatchObject(UNREACHABLE)
    }
  })

  test('IVs of 16 bytes and no metadata is understood, and given back what it said', async () => {
    const said: Record<string, unknown>[] = []
    const secret = randomBytes(32)
    const proxy = await standIn((asked, response, request) => {
      const isEncrypt = asked.url.endsWith('/encrypt')
      const answer = isEncrypt
        ? encrypted(asked, { initializationVector: randomBytes(16), ciphertextMetadata: undefined })
        : { plaintext: secret.toString('base64') }
      if (isEncrypt) said.push(answer)
      json(200, answer)(asked, response, request)
    })
    const store = open(proxy.url)
    const part = await store.wrapBytes(material, aad, secret)
    expect(Buffer.from(await store.unwrapBytes(material, aad, part))).toEqual(secret)
    const [, { members }] = proxy.asked as [Asked, Asked]
    const [{ ciphertext, initializationVector, authenticationTag }] = said as [
      Record<string, string>,
    ]
    const { requestMetadata, ...rest } = members
    expect(requestMetadata['kmsOperation']).toBe('Decrypt')
    expect(rest).toEqual({
      ciphertext,
      initializationVector,
      authenticationTag,
      encryptionAlgorithm: 'AES_GCM',
      additionalAuthenticatedData: aad.toString('base64'),
    })
  })

  test.each([0, 31, 33, 4096])('a plaintext of %i bytes to 32 was not reached', async (length) => {
    const proxy = await standIn(json(200, { plaintext: randomBytes(length).toString('base64') }))
    const call = open(proxy.url).unwrapKey(material, aad, await partOf())
    expect(await refusal(call)).toMatchObject(UNREACHABLE)
  })

  test('more than anybody waits for is cut off', async () => {
    const proxy = await standIn((_asked, response) => {
      const more = (): void => {
        while (!response.destroyed && response.write(Buffer.alloc(16_384, 0x20)));
        response.once('drain', more)
      }
      more()
    })
    const store = open(proxy.url)
    const { code, message } = await refusal(store.unwrapBytes(material, aad, await partOf()))
    expect([code, message]).toEqual([
      'KEY_STORE_UNREACHABLE',
      expect.stringContaining('65536 bytes'),
    ])
  })
})

describe('a proxy that does not answer', () => {
  const silences: readonly (readonly [string, Behaviour])[] = [
    ['says nothing', () => undefined],
    [
      'stops in the middle',
      (_asked, response) => {
        response.writeHead(200, { 'content-length': '100' })
        response.write('{"plaintext":"')
      },
    ],
  ]
  test.each(silences)('in time, because it %s, was not reached', async (_what, behave) => {
    const proxy = await standIn(behave)
    const store = open(proxy.url, { deadlineMs: 50 })
    const { code, message } = await refusal(store.unwrapBytes(material, aad, await partOf()))
    expect([code, message]).toEqual(['KEY_STORE_UNREACHABLE', expect.stringContaining('50 ms')])
    // What was too late does not stand in the way of the next.
    await expect(store.wrapBytes(material, aad, randomBytes(3))).rejects.toMatchObject(UNREACHABLE)
  })

  const closings: readonly (readonly [string, Behaviour])[] = [
    ['closes', (_asked, _response, { socket }) => socket.end()],
    ['resets', (_asked, _response, { socket }) => socket.resetAndDestroy()],
    [
      'closes after the head',
      (_asked, response, { socket }) => {
        response.writeHead(200, { 'content-length': '100' })
        response.flushHeaders()
        socket.end()
      },
    ],
    [
      'speaks another protocol',
      (_asked, _response, { socket }) => socket.end('SSH-2.0-OpenSSH\r\n'),
    ],
  ]
  test.each(closings)('and %s was not reached', async (_what, behave) => {
    const proxy = await standIn(behave)
    const call = open(proxy.url).unwrapBytes(material, aad, await partOf())
    expect(await refusal(call)).toMatchObject(UNREACHABLE)
  })

  test('because nobody listens was not reached', async () => {
    const proxy = await standIn(() => undefined)
    proxy.server.close()
    await once(proxy.server, 'close')
    const store = open(proxy.url)
    expect(await refusal(store.wrapBytes(material, aad, randomBytes(3)))).toMatchObject(UNREACHABLE)
    expect(await refusal(store.probe())).toMatchObject(UNREACHABLE)
  })
})

describe('an error of a proxy', () => {
  // How AWS KMS takes each of them (XKS Proxy API, "Error codes"), in our codes.
  const errors: readonly (readonly [number, string, string, string])[] = [
    [404, 'KeyNotFoundException', 'KMS_KEY_STATE_INVALID', 'XKS_KEY_NOT_FOUND'],
    [400, 'InvalidStateException', 'KMS_KEY_STATE_INVALID', 'XKS_KEY_INVALID_CONFIGURATION'],
    [400, 'InvalidKeyUsageException', 'KMS_KEY_STATE_INVALID', 'XKS_KEY_INVALID_CONFIGURATION'],
    [403, 'AccessDeniedException', 'KMS_KEY_STATE_INVALID', 'KMS_KEY_STATE_INVALID'],
    [501, 'UnsupportedOperationException', 'OPERATION_UNSUPPORTED', 'OPERATION_UNSUPPORTED'],
    [429, 'ThrottlingException', 'OVERLOADED', 'OVERLOADED'],
    [503, 'DependencyTimeoutException', 'KEY_STORE_UNREACHABLE', 'KEY_STORE_UNREACHABLE'],
    [500, 'InternalException', 'KEY_STORE_UNREACHABLE', 'KEY_STORE_UNREACHABLE'],
    [401, 'AuthenticationFailedException', 'KEY_STORE_UNREACHABLE', 'KEY_STORE_UNREACHABLE'],
    [404, 'InvalidUriPathException', 'KEY_STORE_UNREACHABLE', 'KEY_STORE_UNREACHABLE'],
    [400, 'ValidationException', 'KEY_STORE_UNREACHABLE', 'KEY_STORE_UNREACHABLE'],
  ]
  test.each(errors)('%i %s is %s, and of a new key %s', async (status, name, code, codeOfNew) => {
    const proxy = await standIn(refusing(status, name))
    const store = open(proxy.url)
    const part = await partOf()
    for (const call of [
      store.wrapBytes(material, aad, randomBytes(32)),
      store.wrapKey(material, aad, keyOf()),
      store.unwrapBytes(material, aad, part),
      store.unwrapKey(material, aad, part),
    ]) {
      expect((await refusal(call)).code).toBe(code)
    }
    const made = store.createKeyMaterial(randomBytes(16), 1, 'SYMMETRIC_DEFAULT', 'their-key')
    expect((await refusal(made)).code).toBe(codeOfNew)
  })

  test('InvalidCiphertextException says that it does not open, and no more; of a plaintext it says nothing', async () => {
    const errorMessage = 'the tag is wrong'
    const proxy = await standIn(
      json(400, { errorName: 'InvalidCiphertextException', errorMessage }),
    )
    const store = open(proxy.url)
    const { code, message } = await refusal(store.unwrapBytes(material, aad, await partOf()))
    expect([code, message]).toEqual(['DECRYPT_FAILED', 'the message could not be decrypted'])
    const encrypting = store.wrapBytes(material, aad, randomBytes(3))
    expect(await refusal(encrypting)).toMatchObject(UNREACHABLE)
  })

  test('keeps its text to itself, whatever the proxy puts in it', async () => {
    for (const [status, errorName] of errors) {
      const proxy = await standIn((asked, response, request) => {
        const errorMessage = asked.text
        json(status, { errorName, errorMessage })(asked, response, request)
      })
      const call = open(proxy.url).wrapBytes(material, aad, Buffer.from('nobody shall read this'))
      const { message } = await refusal(call)
      expect(message).not.toContain(Buffer.from('nobody shall').toString('base64'))
    }
  })

  test('again and again leaves the store as it was when the proxy is well again', async () => {
    let storm = true
    const proxy = await standIn((asked, response, request) =>
      (storm ? refusing(500, 'InternalException') : json(200, encrypted(asked)))(
        asked,
        response,
        request,
      ),
    )
    const store = open(proxy.url)
    const before = crypto.keyTableUsage().slotsUsed
    const key = keyOf()
    const refused = Array.from({ length: 300 }, () => refusal(store.wrapKey(material, aad, key)))
    for (const { code } of await Promise.all(refused)) expect(code).toBe('KEY_STORE_UNREACHABLE')
    storm = false
    await store.wrapKey(material, aad, key)
    crypto.releaseKey(key)
    expect(crypto.keyTableUsage().slotsUsed).toBe(before)
    expect(proxy.sockets.size).toBeLessThanOrEqual(32)
  })
})

describe('a key that a KMS key shall name', () => {
  const good = {
    keySpec: 'AES_256',
    keyUsage: ['SIGN', 'ENCRYPT', 'DECRYPT'],
    keyStatus: 'ENABLED',
  }
  const make = async (answer: unknown, id: string | undefined = 'a.key_of-theirs') => {
    const proxy = await standIn(json(200, answer))
    const store = open(proxy.url)
    return {
      proxy,
      made: store.createKeyMaterial(randomBytes(16), 1, 'SYMMETRIC_DEFAULT', id),
    }
  }

  test('is asked for, and its name is all that is kept', async () => {
    const { proxy, made } = await make({ ...good, vendor: 'of no matter' })
    const { stored, publicKey } = await made
    expect(Buffer.from(stored).toString('latin1')).toBe('\xf3a.key_of-theirs')
    expect(publicKey).toBeUndefined()
    const [{ url, members }] = proxy.asked as [Asked]
    expect(url).toBe('/kms/xks/v1/keys/a.key_of-theirs/metadata')
    expect(members.requestMetadata['kmsOperation']).toBe('CreateKey')
  })

  test.each([
    ['another length', { keySpec: 'AES_128' }],
    ['another kind', { keySpec: 'RSA_2048' }],
    ['no kind', { keySpec: undefined }],
    ['no status', { keyStatus: undefined }],
    ['being disabled', { keyStatus: 'DISABLED' }],
    ['being for encrypting only', { keyUsage: ['ENCRYPT'] }],
    ['being for decrypting only', { keyUsage: ['DECRYPT'] }],
    ['being for nothing', { keyUsage: [] }],
    ['uses that are no list', { keyUsage: 'ENCRYPT, DECRYPT' }],
  ])('is refused for %s', async (_what, changed) => {
    const { made } = await make({ ...good, ...changed })
    expect((await refusal(made)).code).toBe('XKS_KEY_INVALID_CONFIGURATION')
  })

  test.each(['', '.', '..', 'a/b', '../health', 'a b', 'a%2fb', 'ä', 'a?b', 'x'.repeat(129)])(
    'is not called %j, and nobody is asked',
    async (id) => {
      const { proxy, made } = await make(good, id)
      expect((await refusal(made)).code).toBe('REQUEST_MALFORMED')
      expect(proxy.asked).toEqual([])
    },
  )

  test('has a name', async () => {
    const store = open('https://localhost:1')
    const made = store.createKeyMaterial(randomBytes(16), 1, 'SYMMETRIC_DEFAULT')
    expect((await refusal(made)).code).toBe('REQUEST_MALFORMED')
  })
})

describe('a connection', () => {
  test.each([
    ['http://proxy.example.com', {}],
    ['http://10.0.0.1', {}],
    ['http://127.0.0.1.example.com', {}],
    ['http://localhost.example.com', {}],
    ['ftp://localhost', {}],
    ['https://user:password@localhost', {}],
    ['https://localhost/kms/xks/v1', {}],
    ['https://localhost?x', {}],
    ['localhost', {}],
    ['', {}],
    ['https://localhost', { uriPath: '/kms/xks/v2' }],
    ['https://localhost', { uriPath: 'kms/xks/v1' }],
    ['https://localhost', { uriPath: '/a b/kms/xks/v1' }],
    ['https://localhost', { uriPath: '/../kms/xks/v1' }],
    ['https://localhost', { uriPath: `/${'x'.repeat(117)}/kms/xks/v1` }],
  ])('to %j is refused before anything is sent (%j)', (endpoint, more) => {
    expect(() => openXksKeyStore(crypto, settingsOf(endpoint, more))).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID' }) as Error,
    )
  })

  test.each(['http://127.0.0.1:9', 'http://localhost', 'http://[::1]:1', 'https://example.com'])(
    'to %s is allowed',
    (endpoint) => {
      expect(open(endpoint).name).toBe('elsewhere')
    },
  )

  test('takes its secret over, and shows it to nobody', () => {
    const secretAccessKey = Buffer.from(SECRET)
    const store = open('https://localhost', { secretAccessKey })
    expect(secretAccessKey.every((byte) => byte === 0)).toBe(true)
    for (const shown of [inspect(store, { depth: 20, showHidden: true }), JSON.stringify(store)]) {
      expect(shown).not.toContain(SECRET)
    }
  })

  test('is refused by a proxy for a secret that is not the one', async () => {
    const service = await startService({ settings: { workers: '0' } })
    endings.push(() => service.close())
    const settings = await settingsOfService(service)
    const store = open(service.url, { ...settings, secretAccessKey: Buffer.from(SECRET) })
    const made = store.createKeyMaterial(
      randomBytes(16),
      1,
      'SYMMETRIC_DEFAULT',
      await service.createKey(),
    )
    const { code, message } = await refusal(made)
    expect([code, message]).toEqual([
      'KEY_STORE_UNREACHABLE',
      expect.stringContaining('refused our signature'),
    ])
  })
})

describe('a proxy is well', () => {
  const fleet = (...healthStatuses: readonly string[]) => ({
    ekmFleetDetails: healthStatuses.map((healthStatus) => ({ id: '1', model: 'm', healthStatus })),
  })
  test.each([['ACTIVE'], ['DEGRADED'], ['UNAVAILABLE', 'ACTIVE']])(
    'where one of its managers is: %s %s',
    async (...healthStatuses) => {
      const proxy = await standIn(json(200, fleet(...healthStatuses)))
      await open(proxy.url).probe()
      expect(proxy.asked[0]?.url).toBe('/kms/xks/v1/health')
    },
  )

  test.each([
    [fleet('UNAVAILABLE', 'UNAVAILABLE')],
    [fleet()],
    [{ ekmFleetDetails: [null, 'ACTIVE', {}] }],
    [{ ekmFleetDetails: 'ACTIVE' }],
  ])('and else is not: %j', async (answer) => {
    const proxy = await standIn(json(200, answer))
    expect(await refusal(open(proxy.url).probe())).toMatchObject(UNREACHABLE)
  })
})

test('where the catalog names no external key, nobody is asked', async () => {
  const proxy = await standIn(json(500, {}))
  const store = open(proxy.url)
  for (const stored of [
    '',
    'f3',
    'f0',
    `f2${Buffer.from('their-key').toString('hex')}`,
    `f3${Buffer.from('../health').toString('hex')}`,
    `f3${Buffer.from('x'.repeat(129)).toString('hex')}`,
  ]) {
    const broken = { ...material, stored: Buffer.from(stored, 'hex') }
    const call = store.wrapBytes(broken, aad, randomBytes(3))
    expect((await refusal(call)).code, stored).toBe('ROOT_KEY_INVALID')
  }
  expect(proxy.asked).toEqual([])
})

/** A store part of 32 bytes, of a proxy that never was. */
async function partOf(): Promise<Uint8Array> {
  const proxy = await standIn(honest)
  return open(proxy.url).wrapBytes(material, aad, randomBytes(32))
}

function keyOf(): number {
  const key = crypto.generateKey()
  endings.push(() => {
    try {
      crypto.releaseKey(key)
    } catch {
      // The test has released it.
    }
  })
  return key
}
