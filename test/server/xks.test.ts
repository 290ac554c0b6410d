/**
 * The external key store proxy: what AWS KMS asks of it (XKS Proxy API 1.0.3), and what AWS's public test client checks,
 * signed by the signer of the AWS SDK for JavaScript.
 */
import {
  CreateKeyCommand,
  GetParametersForImportCommand,
  ImportKeyMaterialCommand,
} from '@aws-sdk/client-kms'
import { SignatureV4 } from '@smithy/signature-v4'
import { constants, createHash, createPublicKey, publicEncrypt, randomBytes } from 'node:crypto'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { request as requestPlain, type IncomingMessage } from 'node:http'
import { request as requestTls, type RequestOptions } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'

import type { CreatedAccessKey } from '../../dist/kms/access-keys.js'
import { readEvents } from '../audit/log.ts'
import { makeCertificates } from '../certificates.ts'
import { startService, type Service } from '../service.ts'
import { clientAs, userArn } from './aws/clients.ts'
import { Sha256 } from './aws/sha256.ts'
import { openXksKeyStore } from '../../dist/key-stores/xks.js'

const ROOT = 'arn:aws:iam::000000000000:root'
const AWS_KMS = userArn('aws-kms')
const PREFIX = '/example/uri/path/prefix'
const PLAINTEXT = Buffer.from('Hello World!')
const AAD = Buffer.from('project=nile,department=marketing')

/** Of AWS's examples (XKS Proxy API, "Encrypt"). */
const METADATA = {
  awsPrincipalArn: 'arn:aws:iam::123456789012:user/Alice',
  kmsKeyArn: 'arn:aws:kms:us-east-2:123456789012:/key/1234abcd-12ab-34cd-56ef-1234567890ab',
  kmsOperation: 'Encrypt',
  kmsRequestId: '4112f4d6-db54-4af4-ae30-c55a22a8dfae',
  kmsViaService: 'ebs',
}

let service: Service
let credential: CreatedAccessKey
/** Key ids by what the principal may do with them. */
const keys = new Map<string, string>()
const keyOf = (name: string): string => keys.get(name) as string

beforeAll(async () => {
  service = await startService({ settings: { workers: '0' } })
  for (const [name, ...actions] of [
    ['both', 'kms:DescribeKey', 'kms:Encrypt', 'kms:Decrypt'],
    ['encrypt-only', 'kms:DescribeKey', 'kms:Encrypt'],
    ['decrypt-only', 'kms:DescribeKey', 'kms:Decrypt'],
    ['impotent', 'kms:DescribeKey'],
    ['hidden'],
    ['blind', 'kms:Encrypt', 'kms:Decrypt'],
    ['disabled', 'kms:DescribeKey', 'kms:Encrypt', 'kms:Decrypt'],
  ] as const) {
    keys.set(name, await makeKey(actions))
  }
  await manage('POST', 'aliases', { alias: 'alias/foo_1-A', key: keyOf('both') })
  await manage('POST', `keys/${keyOf('disabled')}/disable`)
  credential = await service.engine.accessKeys.create({
    principalArn: AWS_KMS,
    xksPrefix: PREFIX,
  })
})
afterAll(() => service.close())

async function makeKey(actions: readonly string[]): Promise<string> {
  const keyId = await service.createKey()
  const statements = [
    { Effect: 'Allow', Principal: { AWS: ROOT }, Action: 'kms:*', Resource: '*' },
    { Effect: 'Allow', Principal: { AWS: AWS_KMS }, Action: actions, Resource: '*' },
  ]
  const Statement = statements.slice(0, actions.length === 0 ? 1 : 2)
  const policy = JSON.stringify({ Version: '2012-10-17', Statement })
  await manage('PUT', `keys/${keyId}/policy`, { policy })
  return keyId
}

async function manage(method: string, path: string, fields?: unknown): Promise<void> {
  const response = await fetch(`${service.url}/v1/${path}`, {
    method,
    headers: { authorization: `Bearer ${service.token}`, 'content-type': 'application/json' },
    ...(fields === undefined ? {} : { body: JSON.stringify(fields) }),
  })
  expect([response.status, await response.text()]).toEqual([200, expect.anything()])
}

interface Answer {
  readonly status: number
  readonly headers: IncomingMessage['headers']
  readonly text: string
  readonly body: Readonly<Record<string, string>> & { readonly errorName?: string }
}

interface Asking {
  readonly of?: Service
  readonly method?: string
  readonly prefix?: string
  readonly accessKeyId?: string
  readonly secretAccessKey?: string
  readonly region?: string
  readonly service?: string
  readonly signedAtMs?: number
  readonly sessionToken?: string
  /** Headers besides host, which are signed too. */
  readonly headers?: Readonly<Record<string, string>>
  /** Of the signed request, which is then sent otherwise. */
  readonly tamper?: (sent: { path: string; body: string; headers: Record<string, string> }) => void
  readonly tls?: RequestOptions
}

/** Signed and sent. `body`: an object, or text as it is. */
async function ask(path: string, body: unknown, asking: Asking = {}): Promise<Answer> {
  const { of = service, method = 'POST', prefix = PREFIX, sessionToken } = asking
  const signer = new SignatureV4({
    service: asking.service ?? 'kms-xks-proxy',
    region: asking.region ?? 'us-east-1',
    sha256: Sha256,
    applyChecksum: false,
    credentials: {
      accessKeyId: asking.accessKeyId ?? credential.record.accessKeyId,
      secretAccessKey: asking.secretAccessKey ?? credential.secretAccessKey,
      ...(sessionToken === undefined ? {} : { sessionToken }),
    },
  })
  const { host, hostname, protocol } = new URL(of.url)
  const text = typeof body === 'string' ? body : JSON.stringify(body)
  const [pathname, query = ''] = `${prefix}/kms/xks/v1${path}`.split('?') as [string, string?]
  const signed = await signer.sign(
    {
      method,
      protocol,
      hostname,
      path: pathname,
      query: Object.fromEntries(new URLSearchParams(query)),
      headers: { host, ...asking.headers },
      body: text,
    },
    { signingDate: new Date(asking.signedAtMs ?? Date.now()) },
  )
  const headers = Object.fromEntries(
    Object.entries(signed.headers).map(([name, value]) => [name.toLowerCase(), value]),
  )
  const sent = { path: query === '' ? pathname : `${pathname}?${query}`, body: text, headers }
  asking.tamper?.(sent)
  return send(of, method, sent, asking.tls)
}

async function send(
  of: Service,
  method: string,
  sent: {
    readonly path: string
    readonly body?: string
    readonly headers?: Record<string, string>
  },
  tls: RequestOptions = {},
): Promise<Answer> {
  const isBodiless = method === 'GET' || method === 'HEAD' || sent.body === undefined
  const body = isBodiless ? undefined : Buffer.from(sent.body)
  const requestAny = of.url.startsWith('https') ? requestTls : requestPlain
  const asked = requestAny(of.url, {
    method,
    path: sent.path,
    headers: { ...sent.headers, ...(body === undefined ? {} : { 'content-length': body.length }) },
    agent: false,
    ...tls,
  })
  asked.end(body)
  const [response] = (await once(asked, 'response')) as [IncomingMessage]
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(chunk as Buffer)
  const text = Buffer.concat(chunks).toString()
  const isJson = response.headers['content-type'] === 'application/json' && text !== ''
  return {
    status: response.statusCode ?? 0,
    headers: response.headers,
    text,
    body: (isJson ? JSON.parse(text) : {}) as Answer['body'],
  }
}

const outcome = ({ status, body }: Answer): readonly unknown[] => [status, body.errorName]
const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')

const VALIDATION = [400, 'ValidationException']
const CIPHERTEXT = [400, 'InvalidCiphertextException']
const USAGE = [400, 'InvalidKeyUsageException']
const STATE = [400, 'InvalidStateException']
const SIGNATURE = [401, 'AuthenticationFailedException']
const NO_KEY = [404, 'KeyNotFoundException']
const NO_PATH = [404, 'InvalidUriPathException']
const UNSUPPORTED = [501, 'UnsupportedOperationException']
const GRANTED = [200, undefined]

const encryptBody = (fields: Readonly<Record<string, unknown>> = {}) => ({
  requestMetadata: METADATA,
  plaintext: base64(PLAINTEXT),
  encryptionAlgorithm: 'AES_GCM',
  ...fields,
})

function decryptBody(
  { body }: Answer,
  fields: Readonly<Record<string, unknown>> = {},
): Readonly<Record<string, unknown>> {
  return {
    requestMetadata: { ...METADATA, kmsOperation: 'Decrypt' },
    encryptionAlgorithm: 'AES_GCM',
    // With the integrity value, if there is one: unknown members are tolerated.
    ...body,
    ...fields,
  }
}

const encrypt = (name: string, fields: Readonly<Record<string, unknown>> = {}, asking?: Asking) =>
  ask(`/keys/${keyOf(name)}/encrypt`, encryptBody(fields), asking)
const decrypt = (
  name: string,
  encrypted: Answer,
  fields: Readonly<Record<string, unknown>> = {},
  asking?: Asking,
) => ask(`/keys/${keyOf(name)}/decrypt`, decryptBody(encrypted, fields), asking)

const withAad = { additionalAuthenticatedData: base64(AAD) }
const withIntegrity = { ciphertextDataIntegrityValueAlgorithm: 'SHA_256' }

const HEALTH = { requestMetadata: { kmsOperation: 'KmsHealthCheck', kmsRequestId: 'any text' } }

/** One request of each operation that is in order. */
const requests = (): readonly (readonly [string, unknown])[] => [
  ['/health', HEALTH],
  [`/keys/${keyOf('both')}/metadata`, { requestMetadata: METADATA }],
  [`/keys/${keyOf('both')}/encrypt`, encryptBody()],
  [`/keys/${keyOf('both')}/decrypt`, decryptBody({ body: DECRYPTABLE } as unknown as Answer)],
]
/** Of the right form; it opens under no key. */
const DECRYPTABLE = {
  ciphertext: base64(PLAINTEXT),
  initializationVector: base64(Buffer.alloc(12)),
  authenticationTag: base64(Buffer.alloc(16)),
}

describe('the paths', () => {
  test('take POST and nothing else, and a ping of their own takes GET', async () => {
    for (const [path, body] of requests()) {
      for (const method of ['GET', 'HEAD', 'PUT', 'DELETE', 'PATCH', 'OPTIONS']) {
        const { status } = await ask(path, body, { method })
        expect([method, path, status]).toEqual([method, path, 405])
      }
    }
    const ping = await send(service, 'GET', { path: '/ping' })
    expect([ping.status, ping.text]).toEqual([200, 'pong\n'])
  })

  test.each([
    '/example/uri/path/prefix/invalid',
    '/example/uri/path',
    '/Example/uri/path/prefix',
    '//example/uri/path/prefix',
    '/example/uri/path/prefix/',
    '/example/../example/uri/path/prefix',
    '/example/uri/path/prefix/kms/xks/v1',
    '',
    '/%65xample/uri/path/prefix',
  ])('below the prefix %j lead nowhere', async (prefix) => {
    for (const [path, body] of requests()) {
      expect(outcome(await ask(path, body, { prefix }))).toEqual(NO_PATH)
    }
  })

  test.each([
    '',
    '/',
    '/keys',
    '/keys/',
    '/keys//encrypt',
    '/keys/foo',
    '/keys/foo/',
    '/keys/foo/sign',
    '/keys/foo/encrypt/',
    '/keys/foo/bar/encrypt',
    '/keys/a%2Fb/encrypt',
    '/keys/f+o/encrypt',
    '/keys/../encrypt',
    `/keys/${'x'.repeat(129)}/encrypt`,
    '/health/',
    '/Health',
    '/health?deep=1',
    '/ping',
  ])('%j is none of theirs', async (path) => {
    expect(outcome(await ask(path, HEALTH))).toEqual(NO_PATH)
  })

  test('have no prefix where an access key is for none, until it is revoked', async () => {
    const { record, secretAccessKey } = await service.engine.accessKeys.create({
      principalArn: ROOT,
      xksPrefix: '',
    })
    const asking = { prefix: '', accessKeyId: record.accessKeyId, secretAccessKey }
    const path = `/keys/${keyOf('hidden')}/encrypt`
    expect(outcome(await ask('/health', HEALTH, asking))).toEqual(GRANTED)
    expect(outcome(await ask(path, encryptBody(), asking))).toEqual(GRANTED)
    await service.engine.accessKeys.revoke(record.accessKeyId)
    expect(outcome(await ask('/health', HEALTH, asking))).toEqual(NO_PATH)
  })
})

describe('a signature', () => {
  const refusedWith = async (asking: Asking): Promise<void> => {
    for (const [path, body] of requests()) {
      expect([path, ...outcome(await ask(path, body, asking))]).toEqual([path, ...SIGNATURE])
    }
  }

  test('of AWS KMS, over host and x-amz-date, is good in any region', async () => {
    for (const region of ['us-east-1', 'eu-south-2', 'us-gov-west-1']) {
      expect(outcome(await ask('/health', HEALTH, { region }))).toEqual(GRANTED)
    }
  })

  test('of curl, over content-type too, is good, as is one over whatever else', async () => {
    const headers = { 'content-type': 'application/json', 'x-odd': 'a  b', accept: '*/*' }
    expect(outcome(await ask('/health', HEALTH, { headers }))).toEqual(GRANTED)
  })

  test.each<[string, () => Asking]>([
    ['with another secret', () => ({ secretAccessKey: `Invalid${credential.secretAccessKey}` })],
    ['with an id that nobody has', () => ({ accessKeyId: 'XKSAAAAAAAAAAAAAAAAAAAAAAA' })],
    ['for another service', () => ({ service: 'kms' })],
    ['for no region', () => ({ region: 'Nowhere!' })],
    ['that is too old', () => ({ signedAtMs: Date.now() - 301_000 })],
    // Four requests are asked in turn: to the second it is held below, with a clock that stands still.
    ['from the future', () => ({ signedAtMs: Date.now() + 3_600_000 })],
    ['of a session', () => ({ sessionToken: 'a token' })],
    ['over another body', () => ({ tamper: (sent) => void (sent.body += ' ') })],
    [
      'over another host',
      () => ({ tamper: ({ headers }) => void (headers['host'] = 'elsewhere:1') }),
    ],
    ['that is missing', () => ({ tamper: ({ headers }) => void delete headers['authorization'] })],
    ['without a moment', () => ({ tamper: ({ headers }) => void delete headers['x-amz-date'] })],
    [
      'with a Date in place of X-Amz-Date',
      () => ({
        tamper: ({ headers }) => {
          delete headers['x-amz-date']
          headers['date'] = new Date().toUTCString()
        },
      }),
    ],
    [
      'that leaves the host out',
      () => ({
        tamper: ({ headers }) => {
          const text = headers['authorization'] as string
          headers['authorization'] = text.replace('SignedHeaders=host;', 'SignedHeaders=')
        },
      }),
    ],
    [
      'by a bearer token',
      () => ({
        tamper: ({ headers }) => void (headers['authorization'] = `Bearer ${service.token}`),
      }),
    ],
  ])('%s is refused', async (_what, asking) => {
    await refusedWith(asking())
  })

  test('over the path of another key is refused for this one', async () => {
    const tamper: Asking['tamper'] = (sent) =>
      void (sent.path = sent.path.replace(keyOf('both'), keyOf('encrypt-only')))
    expect(outcome(await encrypt('both', {}, { tamper }))).toEqual(SIGNATURE)
  })

  test('five minutes old is good yet, to the second', async () => {
    const nowMs = Math.floor(Date.now() / 1000) * 1000
    vi.useFakeTimers({ toFake: ['Date'], now: nowMs })
    try {
      for (const [signedAtMs, expected] of [
        [nowMs - 300_000, GRANTED],
        [nowMs - 301_000, SIGNATURE],
        [nowMs + 300_000, GRANTED],
        [nowMs + 301_000, SIGNATURE],
      ] as const) {
        expect(outcome(await ask('/health', HEALTH, { signedAtMs }))).toEqual(expected)
      }
    } finally {
      vi.useRealTimers()
    }
  })

  test('of an access key for AWS KMS, or for another prefix, is refused, and none of a prefix signs for AWS KMS', async () => {
    const { accessKeys } = service.engine
    const ofKms = await accessKeys.create({ principalArn: ROOT })
    const ofOther = await accessKeys.create({ principalArn: ROOT, xksPrefix: '/other' })
    for (const { record, secretAccessKey } of [ofKms, ofOther]) {
      await refusedWith({ accessKeyId: record.accessKeyId, secretAccessKey })
    }
    const own = await ask('/health', HEALTH, {
      prefix: '/other',
      accessKeyId: ofOther.record.accessKeyId,
      secretAccessKey: ofOther.secretAccessKey,
    })
    expect(outcome(own)).toEqual(GRANTED)
    const client = await clientAs(service, ROOT)
    client.config.credentials = () =>
      Promise.resolve({
        accessKeyId: ofOther.record.accessKeyId,
        secretAccessKey: ofOther.secretAccessKey,
      })
    await expect(client.send(new CreateKeyCommand({}))).rejects.toMatchObject({
      name: 'UnrecognizedClientException',
    })
    await accessKeys.revoke(ofOther.record.accessKeyId)
  })

  test('of either of two access keys is good while they are changed, and of a third there is none', async () => {
    const { accessKeys } = service.engine
    const second = await accessKeys.create({ principalArn: AWS_KMS, xksPrefix: PREFIX })
    const { accessKeyId } = second.record
    const { secretAccessKey } = second
    expect(accessKeyId).toMatch(/^[A-Z2-7]{20,30}$/)
    expect(secretAccessKey).toMatch(/^[A-Za-z0-9/+=]{43,64}$/)
    for (const asking of [{}, { accessKeyId, secretAccessKey }]) {
      expect(outcome(await ask('/health', HEALTH, asking))).toEqual(GRANTED)
    }
    const third = accessKeys.create({ principalArn: AWS_KMS, xksPrefix: PREFIX })
    await expect(third).rejects.toMatchObject({ code: 'LIMIT_EXCEEDED' })
    await accessKeys.revoke(accessKeyId)
    const asking = { accessKeyId, secretAccessKey }
    expect(outcome(await ask('/health', HEALTH, asking))).toEqual(SIGNATURE)
    expect(outcome(await ask('/health', HEALTH))).toEqual(GRANTED)
  })
})

describe('requestMetadata', () => {
  test('is needed by every operation, with all that it asks for', async () => {
    for (const [path, body] of requests()) {
      const { requestMetadata, ...rest } = body as { requestMetadata: object }
      const needed = path.endsWith('crypt')
        ? ['awsPrincipalArn', 'kmsOperation', 'kmsRequestId', 'kmsKeyArn']
        : path.endsWith('metadata')
          ? ['awsPrincipalArn', 'kmsOperation', 'kmsRequestId']
          : ['kmsOperation', 'kmsRequestId']
      const without = needed.map((name) => ({ ...requestMetadata, [name]: undefined }))
      const wrong = needed.map((name) => ({ ...requestMetadata, [name]: 7 }))
      for (const metadata of [undefined, null, {}, [], 'text', ...without, ...wrong]) {
        const asked = { ...rest, requestMetadata: metadata }
        expect([path, metadata, outcome(await ask(path, asked))]).toEqual([
          path,
          metadata,
          VALIDATION,
        ])
      }
    }
  })

  test('may say more, and name operations that nobody knows yet', async () => {
    for (const [path, body] of requests().slice(0, 3)) {
      const { requestMetadata } = body as { requestMetadata: object }
      const metadata = {
        ...requestMetadata,
        kmsOperation: 'BulkEncrypt',
        kmsRequestId: 'opaque ☃',
        awsPrincipalArn: 'AWS Internal',
        awsSourceVpc: 'vpc-1',
        awsSourceVpce: 'vpce-1',
        kmsViaService: 7,
        __proto__: { odd: true },
        more: { of: [{ what: 'ever', plaintext: '!!!' }] },
      }
      const asked = { more: [1, '}'], ...(body as object), requestMetadata: metadata }
      expect([path, ...outcome(await ask(path, asked))]).toEqual([path, ...GRANTED])
    }
  })

  test('has ARNs of 2,048 characters', async () => {
    const awsPrincipalArn = `arn:aws:iam::123456789012:user/${'x'.repeat(2017)}`
    const requestMetadata = { ...METADATA, awsPrincipalArn, kmsKeyArn: awsPrincipalArn }
    const aad = base64(randomBytes(8192))
    const plaintext = base64(randomBytes(4300))
    const fields = { requestMetadata, plaintext, additionalAuthenticatedData: aad }
    expect(outcome(await encrypt('both', fields))).toEqual(GRANTED)
  })
})

describe('a body', () => {
  test.each([
    '',
    'plaintext',
    '{',
    '[]',
    'null',
    '"text"',
    '{"requestMetadata":{}',
    '{"requestMetadata"}',
    '{requestMetadata:{}}',
    '{"a":1}}',
    '{"plaintext":"AAAA',
    `{"plaintext":"${base64(PLAINTEXT)}"`,
    '\ufeff{}',
  ])('%j is refused', async (text) => {
    for (const [path] of requests()) {
      expect([path, ...outcome(await ask(path, text))]).toEqual([path, ...VALIDATION])
    }
  })

  test('whose strings are spelt with escapes is understood', async () => {
    const text = JSON.stringify(encryptBody(withAad))
      .replace(/"plaintext":"([^"]*)"/, (_whole, digits: string) => {
        const escaped = digits.replaceAll('=', '\\u003d').replaceAll('/', '\\/')
        return `"pl\\u0061intext" :\n"${escaped}"`
      })
      .replace('AES_GCM', 'AES\\u005fGCM')
    const encrypted = await ask(`/keys/${keyOf('both')}/encrypt`, text)
    expect(outcome(encrypted)).toEqual(GRANTED)
    const decrypted = await decrypt('both', encrypted, withAad)
    expect(decrypted.body['plaintext']).toBe(base64(PLAINTEXT))
  })

  test('that is longer than the API can ask for is refused as such', async () => {
    const more = { more: 'x'.repeat(65_536) }
    expect(outcome(await encrypt('both', more))).toEqual(UNSUPPORTED)
  })
})

describe('health', () => {
  test('tells what there is, as the API has it', async () => {
    const { body, headers } = await ask('/health', HEALTH)
    expect(headers['content-type']).toBe('application/json')
    const details = body as unknown as {
      xksProxyFleetSize: number
      ekmFleetDetails: readonly Record<string, string>[]
    }
    expect(Object.keys(body).sort()).toEqual([
      'ekmFleetDetails',
      'ekmVendor',
      'xksProxyFleetSize',
      'xksProxyModel',
      'xksProxyVendor',
    ])
    expect(details.xksProxyFleetSize).toBeGreaterThan(0)
    expect(details.ekmFleetDetails).toEqual([
      {
        id: expect.any(String) as string,
        model: expect.stringMatching(/\d+\.\d+/) as string,
        healthStatus: 'ACTIVE',
      },
    ])
  })
})

describe('metadata', () => {
  const describeKey = (id: string) => ask(`/keys/${id}/metadata`, { requestMetadata: METADATA })

  test.each([
    ['both', ['ENCRYPT', 'DECRYPT'], 'ENABLED'],
    ['encrypt-only', ['ENCRYPT'], 'ENABLED'],
    ['decrypt-only', ['DECRYPT'], 'ENABLED'],
    ['impotent', [], 'ENABLED'],
    ['disabled', ['ENCRYPT', 'DECRYPT'], 'DISABLED'],
  ])('of %s: an AES_256 key for %j, %s', async (name, keyUsage, keyStatus) => {
    const { body } = await describeKey(keyOf(name))
    expect(body).toEqual({ keySpec: 'AES_256', keyUsage, keyStatus })
  })

  test('names a key by an alias too', async () => {
    const { body } = await describeKey('foo_1-A')
    expect(body['keyStatus']).toBe('ENABLED')
  })

  test('says of keys of other kinds what they are, and they do not encrypt', async () => {
    const client = await clientAs(service, ROOT)
    const { KeyMetadata } = await client.send(
      new CreateKeyCommand({
        KeySpec: 'HMAC_256',
        KeyUsage: 'GENERATE_VERIFY_MAC',
        Policy: JSON.stringify({
          Version: '2012-10-17',
          Statement: { Effect: 'Allow', Principal: { AWS: '*' }, Action: 'kms:*', Resource: '*' },
        }),
      }),
    )
    keys.set('mac', KeyMetadata?.KeyId ?? '')
    const { body } = await describeKey(keyOf('mac'))
    expect(body).toMatchObject({ keySpec: 'HMAC_256', keyUsage: ['GENERATE_VERIFY_MAC'] })
    expect(outcome(await encrypt('mac'))).toEqual(USAGE)
  })
})

describe('a key', () => {
  test('that is not there, or that the principal may not see, is not found: with one answer', async () => {
    const texts = new Set<string>()
    const ids = ['non_existing_key', '1234abcd-12ab-34cd-56ef-1234567890ab', keyOf('hidden')]
    for (const id of ids) {
      for (const [operation, body] of [
        ['metadata', { requestMetadata: METADATA }],
        ['encrypt', encryptBody()],
        ['decrypt', decryptBody({ body: DECRYPTABLE } as unknown as Answer)],
      ] as const) {
        const answer = await ask(`/keys/${id}/${operation}`, body)
        expect(outcome(answer)).toEqual(NO_KEY)
        texts.add(answer.text)
      }
    }
    expect(texts.size).toBe(1)
  })

  test('is used without being seen, where the policy says so', async () => {
    const encrypted = await encrypt('blind')
    expect(outcome(await decrypt('blind', encrypted))).toEqual(GRANTED)
    const path = `/keys/${keyOf('blind')}/metadata`
    expect(outcome(await ask(path, { requestMetadata: METADATA }))).toEqual(NO_KEY)
  })

  test('that is disabled is in the wrong state', async () => {
    expect(outcome(await encrypt('disabled'))).toEqual(STATE)
    const answer = { body: DECRYPTABLE } as unknown as Answer
    expect(outcome(await decrypt('disabled', answer))).toEqual(STATE)
  })

  test('for encrypting only encrypts, but vouches for nothing and does not decrypt', async () => {
    for (const fields of [{}, withAad]) {
      const encrypted = await encrypt('encrypt-only', fields)
      expect(outcome(encrypted)).toEqual(GRANTED)
      expect(outcome(await decrypt('encrypt-only', encrypted, fields))).toEqual(USAGE)
      expect(outcome(await encrypt('encrypt-only', { ...fields, ...withIntegrity }))).toEqual(USAGE)
    }
  })

  test.each(['decrypt-only', 'impotent'])('%s does not encrypt', async (name) => {
    for (const fields of [{}, withAad, withIntegrity, { ...withAad, ...withIntegrity }]) {
      expect(outcome(await encrypt(name, fields))).toEqual(USAGE)
    }
  })

  test('is closed by a policy on the address, which this door tells too', async () => {
    const keyId = await makeKey(['kms:DescribeKey', 'kms:Encrypt'])
    keys.set('from-here', keyId)
    expect(outcome(await encrypt('from-here'))).toEqual(GRANTED)
    await service.engine.identityPolicies.put({
      principalArn: AWS_KMS,
      name: 'not-from-here',
      document: JSON.stringify({
        Version: '2012-10-17',
        Statement: {
          Effect: 'Deny',
          Action: 'kms:Encrypt',
          Resource: `arn:aws:kms:*:*:key/${keyId}`,
          Condition: { IpAddress: { 'aws:SourceIp': '127.0.0.0/8' } },
        },
      }),
    })
    expect(outcome(await encrypt('from-here'))).toEqual(USAGE)
  })
})

describe('encrypt', () => {
  test('answers a ciphertext as long as the plaintext, an IV and a tag of their lengths, and metadata', async () => {
    const { body } = await encrypt('both', withAad)
    expect(Object.keys(body).sort()).toEqual([
      'authenticationTag',
      'ciphertext',
      'ciphertextMetadata',
      'initializationVector',
    ])
    const bytes = (name: string) => Buffer.from(body[name] as string, 'base64')
    expect(bytes('ciphertext')).toHaveLength(PLAINTEXT.length)
    expect(bytes('initializationVector')).toHaveLength(12)
    expect(bytes('authenticationTag')).toHaveLength(16)
    expect(bytes('ciphertextMetadata').length).toBeLessThanOrEqual(20)
  })

  test.each([0, 1, 15, 16, 17, 4096, 4300, 8192])(
    'and decrypt take %i bytes of plaintext, with 8,192 of AAD and without any',
    async (length) => {
      const plaintext = base64(randomBytes(length))
      for (const aad of [{}, { additionalAuthenticatedData: base64(randomBytes(8192)) }]) {
        for (const integrity of [{}, withIntegrity]) {
          const encrypted = await encrypt('both', { plaintext, ...aad, ...integrity })
          expect(outcome(encrypted)).toEqual(GRANTED)
          const decrypted = await decrypt('both', encrypted, aad)
          expect(decrypted.body).toEqual({ plaintext })
        }
      }
    },
  )

  test('does not give the same twice', async () => {
    const seen = new Set<string>()
    for (let i = 0; i < 50; i++) {
      const { body } = await encrypt('both', withAad)
      seen.add(`${body['ciphertextMetadata']} ${body['initializationVector']}`)
      seen.add(body['ciphertext'] as string)
    }
    expect(seen.size).toBe(100)
  })

  test.each([
    ['nothing', { plaintext: undefined }],
    ['null', { plaintext: null }],
    ['a number', { plaintext: 7 }],
    ['base64 without padding', { plaintext: 'AA' }],
    ['base64 of an alphabet for URLs', { plaintext: '_-8=' }],
    ['base64 with spaces', { plaintext: 'AA AA===' }],
    ['a second spelling of a value', { plaintext: 'AB==' }],
    ['no base64 for AAD', { additionalAuthenticatedData: '!' }],
    ['no algorithm', { encryptionAlgorithm: undefined }],
    ['another algorithm', { encryptionAlgorithm: 'AES_CBC' }],
    ['another integrity algorithm', { ciphertextDataIntegrityValueAlgorithm: 'SHA_512' }],
  ])('refuses %s', async (_what, fields) => {
    expect(outcome(await encrypt('both', fields))).toEqual(VALIDATION)
  })

  test.each([
    ['plaintext', 8193],
    ['additionalAuthenticatedData', 16_385],
  ])('does not support %s of %i bytes', async (name, length) => {
    const fields = { [name]: base64(randomBytes(length)) }
    expect(outcome(await encrypt('both', fields))).toEqual(UNSUPPORTED)
  })

  test.each([{}, withAad])('vouches with an integrity value (%j)', async (fields) => {
    const { body } = await encrypt('both', { ...fields, ...withIntegrity })
    // Appendix C: one behind the other, without lengths.
    const hash = createHash('sha256').update(fields === withAad ? AAD : '')
    for (const name of [
      'ciphertextMetadata',
      'initializationVector',
      'ciphertext',
      'authenticationTag',
    ]) {
      hash.update(Buffer.from(body[name] as string, 'base64'))
    }
    expect(body['ciphertextDataIntegrityValue']).toBe(hash.digest('base64'))
  })

  test('is XAES-256-GCM as src/format/xks-ciphertext.ts describes it, under the key material and no other', async () => {
    const client = await clientAs(service, ROOT)
    const material = randomBytes(32)
    const created = await client.send(new CreateKeyCommand({ Origin: 'EXTERNAL' }))
    const KeyId = created.KeyMetadata?.KeyId ?? ''
    const parameters = await client.send(
      new GetParametersForImportCommand({
        KeyId,
        WrappingAlgorithm: 'RSAES_OAEP_SHA_256',
        WrappingKeySpec: 'RSA_2048',
      }),
    )
    const key = createPublicKey({
      key: Buffer.from(parameters.PublicKey ?? []),
      format: 'der',
      type: 'spki',
    })
    const padding = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' }
    await client.send(
      new ImportKeyMaterialCommand({
        KeyId,
        ImportToken: parameters.ImportToken,
        EncryptedKeyMaterial: publicEncrypt({ key, ...padding }, material),
        ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE',
      }),
    )
    keys.set('imported', KeyId)
    const ofRoot = await service.engine.accessKeys.create({ principalArn: ROOT, xksPrefix: '/r' })
    const asking = {
      prefix: '/r',
      accessKeyId: ofRoot.record.accessKeyId,
      secretAccessKey: ofRoot.secretAccessKey,
    }
    for (const [aad, fields] of [
      [AAD, withAad],
      [Buffer.alloc(0), {}],
    ] as const) {
      const { body } = await encrypt('imported', fields, asking)
      const metadata = Buffer.from(body['ciphertextMetadata'] as string, 'base64')
      expect(metadata.subarray(0, 5).toString('hex')).toBe('0100000001')
      expect(metadata).toHaveLength(17)
      const nonce = Buffer.concat([
        metadata.subarray(5),
        Buffer.from(body['initializationVector'] as string, 'base64'),
      ])
      const boundTo = Buffer.concat([
        Buffer.from('keyfold/xks/v1'),
        Buffer.from([aad.length >> 8, aad.length & 0xff]),
        aad,
        Buffer.from([5]),
        metadata.subarray(0, 5),
      ])
      const sealed = Buffer.concat(
        ['ciphertext', 'authenticationTag'].map((name) =>
          Buffer.from(body[name] as string, 'base64'),
        ),
      )
      // Verified by the construction's public vectors (test/crypto/vectors.test.ts).
      const opened = service.engine.crypto.insecureXaesOpen(1, material, nonce, boundTo, sealed)
      expect(Buffer.from(opened ?? [])).toEqual(PLAINTEXT)
    }
  })
})

describe('decrypt', () => {
  test('opens with the AAD that was given, and with no other', async () => {
    for (const [given, other] of [
      [withAad, {}],
      [{}, withAad],
      [withAad, { additionalAuthenticatedData: base64(Buffer.from('project=blue')) }],
    ]) {
      const encrypted = await encrypt('both', given)
      expect((await decrypt('both', encrypted, given)).body['plaintext']).toBe(base64(PLAINTEXT))
      expect(outcome(await decrypt('both', encrypted, other))).toEqual(CIPHERTEXT)
    }
  })

  test('does not take metadata for AAD, nor AAD for metadata', async () => {
    const encrypted = await encrypt('both')
    const { ciphertextMetadata } = encrypted.body
    const moved = { ciphertextMetadata: undefined, additionalAuthenticatedData: ciphertextMetadata }
    expect(outcome(await decrypt('both', encrypted, moved))).toEqual(CIPHERTEXT)
  })

  test('refuses each part with any one byte changed, cut off or added, and with none', async () => {
    const encrypted = await encrypt('both', withAad)
    for (const name of [
      'ciphertext',
      'ciphertextMetadata',
      'initializationVector',
      'authenticationTag',
      'additionalAuthenticatedData',
    ]) {
      const bytes = Buffer.from({ ...encrypted.body, ...withAad }[name] as string, 'base64')
      const wrongs = [...bytes.keys()].map((at) => {
        const wrong = Buffer.from(bytes)
        wrong[at] = (wrong[at] as number) ^ 0x80
        return wrong
      })
      wrongs.push(bytes.subarray(1), bytes.subarray(0, -1), Buffer.alloc(0))
      wrongs.push(Buffer.concat([bytes, Buffer.alloc(1)]))
      for (const wrong of wrongs) {
        const fields = { ...withAad, [name]: base64(wrong) }
        const refused = await decrypt('both', encrypted, fields)
        expect([name, base64(wrong), outcome(refused)]).toEqual([name, base64(wrong), CIPHERTEXT])
      }
    }
  })

  test('refuses what is missing that has to be there', async () => {
    const encrypted = await encrypt('both')
    for (const name of ['ciphertext', 'initializationVector', 'authenticationTag']) {
      expect(outcome(await decrypt('both', encrypted, { [name]: undefined }))).toEqual(VALIDATION)
    }
    const without = { ciphertextMetadata: undefined }
    expect(outcome(await decrypt('both', encrypted, without))).toEqual(CIPHERTEXT)
    const wrong = { encryptionAlgorithm: 'AES_CTR' }
    expect(outcome(await decrypt('both', encrypted, wrong))).toEqual(VALIDATION)
  })

  test('opens what was encrypted before a rotation, and not what another key made', async () => {
    keys.set('rotated', await makeKey(['kms:DescribeKey', 'kms:Encrypt', 'kms:Decrypt']))
    const before = await encrypt('rotated', withAad)
    await manage('POST', `keys/${keyOf('rotated')}/rotate`)
    const after = await encrypt('rotated', withAad)
    expect(after.body['ciphertextMetadata']).not.toBe(before.body['ciphertextMetadata'])
    for (const encrypted of [before, after]) {
      const { body } = await decrypt('rotated', encrypted, withAad)
      expect(body['plaintext']).toBe(base64(PLAINTEXT))
      expect(outcome(await decrypt('both', encrypted, withAad))).toEqual(CIPHERTEXT)
    }
  })

  test('opens nothing that another door wrapped, whatever its AAD is called', async () => {
    // A message key in a wrapped key: whoever unwraps it can forge every message of the batch.
    const { keyEntry } = await service.call('encrypt', {
      key: keyOf('both'),
      form: 'detached',
      plaintexts: [PLAINTEXT],
    })
    // commitment32 ‖ u16 length ‖ 23 bytes ‖ nonce24 ‖ ciphertext32 ‖ tag16 (src/format/key-entry.ts).
    const wrapped = Buffer.from(keyEntry).subarray(34)
    const [header, part] = [wrapped.subarray(0, 23), wrapped.subarray(23)]
    const contextHash = createHash('sha256').update('').digest()
    const metadata = Buffer.concat([Buffer.from('0100000001', 'hex'), part.subarray(0, 12)])
    const stolen = {
      ciphertextMetadata: base64(metadata),
      initializationVector: base64(part.subarray(12, 24)),
      ciphertext: base64(part.subarray(24, -16)),
      authenticationTag: base64(part.subarray(-16)),
      additionalAuthenticatedData: base64(Buffer.concat([header, contextHash])),
    }
    const answer = { body: stolen } as unknown as Answer
    expect(outcome(await decrypt('both', answer))).toEqual(CIPHERTEXT)
  })
})

describe('the record of a request', () => {
  let seen = 0
  const newEvents = async (): Promise<readonly Readonly<Record<string, unknown>>[]> => {
    await service.engine.audit.flush()
    const events = readEvents(join(service.dataDirectory, 'audit')) as readonly Readonly<
      Record<string, unknown>
    >[]
    const fresh = events.slice(seen)
    seen = events.length
    return fresh
  }
  beforeAll(newEvents)

  test('says who, which key, and under which request of AWS KMS, and nothing that is secret', async () => {
    const secret = randomBytes(40)
    const { headers } = await encrypt('both', { plaintext: base64(secret), ...withAad })
    const events = await newEvents()
    expect(events).toMatchObject([
      {
        eventName: 'Encrypt',
        requestID: headers['x-request-id'],
        sourceIPAddress: '127.0.0.1',
        userIdentity: { arn: AWS_KMS, accessKeyId: credential.record.accessKeyId },
        requestParameters: {
          externalKeyId: keyOf('both'),
          kmsRequestId: METADATA.kmsRequestId,
          awsPrincipalArn: METADATA.awsPrincipalArn,
          kmsOperation: 'Encrypt',
          kmsKeyArn: METADATA.kmsKeyArn,
        },
        resources: [{ ARN: expect.stringContaining(keyOf('both')) as string }],
        additionalEventData: { door: 'xks', messages: 1, bytes: 40, failed: 0 },
      },
    ])
    const text = JSON.stringify(events) + service.logged.join('\n')
    for (const form of ['base64', 'hex', 'latin1'] as const) {
      expect(text).not.toContain(secret.toString(form))
    }
  })

  test('tells apart what the caller is not told', async () => {
    const body = encryptBody()
    await ask('/keys/non_existing_key/encrypt', body)
    await ask(`/keys/${keyOf('hidden')}/encrypt`, body)
    await ask(`/keys/${keyOf('both')}/encrypt`, body, { secretAccessKey: 'x'.repeat(44) })
    await ask(`/keys/${keyOf('both')}/metadata`, { requestMetadata: METADATA })
    await ask('/health', HEALTH)
    expect(await newEvents()).toMatchObject([
      { eventName: 'Encrypt', errorCode: 'KMS_KEY_NOT_FOUND' },
      { eventName: 'Encrypt', errorCode: 'ACCESS_DENIED' },
      {
        eventName: 'Encrypt',
        errorCode: 'REQUEST_SIGNATURE_INVALID',
        userIdentity: { type: 'Unknown' },
      },
      { eventName: 'GetKeyMetadata' },
      { eventName: 'GetHealthStatus', requestParameters: { kmsRequestId: 'any text' } },
    ])
  })
})

test('errors have the API’s form: a name, and a short text of printable ASCII', async () => {
  const metadata = { ...METADATA, kmsRequestId: undefined }
  const answers = [
    await ask('/nothing', HEALTH),
    await ask('/health', HEALTH, { secretAccessKey: 'x'.repeat(44) }),
    await encrypt('both', { requestMetadata: metadata }),
    await encrypt('both', { ciphertextDataIntegrityValueAlgorithm: '☃'.repeat(600) }),
    await encrypt('impotent'),
  ]
  for (const { headers, body } of answers) {
    expect(headers['content-type']).toBe('application/json')
    expect(Object.keys(body)).toEqual(['errorName', 'errorMessage'])
    expect(body['errorMessage']).toMatch(/^[ -~]{1,511}$/)
  }
})

const title = 'over TLS'
if (spawnSync('openssl', ['version']).status !== 0 && process.env['CI'] === undefined) {
  test.skip(`${title} (no openssl: install the package openssl)`, () => undefined)
} else {
  describe(title, () => {
    const KMS_NAME = 'cks.kms.us-east-1.amazonaws.com'
    let directory: string
    const file = (name: string): string => join(directory, name)
    const pem = (name: string): string => readFileSync(file(name), 'utf8')
    beforeAll(() => {
      directory = mkdtempSync(join(tmpdir(), 'keyfold-xks-'))
      makeCertificates(directory, 'ca', 'server', KMS_NAME, 'somebody-else')
      makeCertificates(directory, 'stranger-ca', 'stranger')
    })
    afterAll(() => rmSync(directory, { recursive: true, force: true }))

    async function withProxy(
      settings: Readonly<Record<string, string>>,
      work: (asking: Asking & { readonly of: Service }, created: CreatedAccessKey) => Promise<void>,
    ): Promise<void> {
      const tls = { tlsCert: file('server.crt'), tlsKey: file('server.key') }
      const of = await startService({ settings: { workers: '0', ...tls, ...settings } })
      try {
        const created = await of.engine.accessKeys.create({ principalArn: ROOT, xksPrefix: PREFIX })
        const { record, secretAccessKey } = created
        await work({ of, accessKeyId: record.accessKeyId, secretAccessKey }, created)
      } finally {
        await of.close()
      }
    }

    const shown = (name: string | undefined): RequestOptions => ({
      ca: pem('ca.crt'),
      ...(name === undefined ? {} : { cert: pem(`${name}.crt`), key: pem(`${name}.key`) }),
    })

    test('a proxy answers as it does without', async () => {
      await withProxy({}, async (asking) => {
        const answer = await ask('/health', HEALTH, { ...asking, tls: shown(undefined) })
        expect(outcome(answer)).toEqual(GRANTED)
      })
    })

    test('with certificates of clients it takes those of the names that it was given, and a signature all the same', async () => {
      const settings = { clientCa: file('ca.crt'), xksClientName: `cks.example, ${KMS_NAME}` }
      await withProxy(settings, async (asking) => {
        const as = async (name: string | undefined, more: Asking = {}): Promise<unknown> => {
          try {
            return outcome(await ask('/health', HEALTH, { ...asking, ...more, tls: shown(name) }))
          } catch {
            return 'no connection'
          }
        }
        expect(await as(KMS_NAME)).toEqual(GRANTED)
        expect(await as(KMS_NAME, { secretAccessKey: 'x'.repeat(44) })).toEqual(SIGNATURE)
        expect(await as('somebody-else')).toEqual(SIGNATURE)
        expect(await as(undefined)).toEqual(SIGNATURE)
        expect(await as('stranger')).toEqual('no connection')
      })
    })

    test('without a name any certificate of the CA will do', async () => {
      await withProxy({ clientCa: file('ca.crt') }, async (asking) => {
        const answer = await ask('/health', HEALTH, { ...asking, tls: shown('somebody-else') })
        expect(outcome(answer)).toEqual(GRANTED)
      })
    })

    test('our own client is one of those who are let in, and lets nobody in that it does not know', async () => {
      const settings = { clientCa: file('ca.crt'), xksClientName: KMS_NAME }
      await withProxy(settings, async ({ of }, { record, secretAccessKey }) => {
        const open = (more: object) =>
          openXksKeyStore(of.engine.crypto, {
            name: 'elsewhere',
            endpoint: of.url,
            uriPath: `${PREFIX}/kms/xks/v1`,
            region: 'us-east-1',
            accessKeyId: record.accessKeyId,
            secretAccessKey: Buffer.from(secretAccessKey),
            principalArn: ROOT,
            keyArnOf: () => 'arn:aws:kms:us-east-1:000000000000:key/1',
            deadlineMs: 10_000,
            ...more,
          })
        const client = { certificate: pem(`${KMS_NAME}.crt`), key: pem(`${KMS_NAME}.key`) }
        const unreachable = { code: 'KEY_STORE_UNREACHABLE' }
        for (const [more, expected] of [
          [{ ca: pem('ca.crt'), client }, undefined],
          [{ ca: pem('ca.crt') }, unreachable],
          [{ ca: pem('stranger-ca.crt'), client }, unreachable],
          [{ client }, unreachable],
        ] as const) {
          const store = open(more)
          const probed = store.probe()
          if (expected === undefined) await probed
          else await expect(probed).rejects.toMatchObject(expected)
          await store.close()
        }
      })
    })

    test('the name of a client needs a CA', async () => {
      await expect(
        withProxy({ xksClientName: KMS_NAME }, async () => undefined),
      ).rejects.toMatchObject({ code: 'CONFIG_INVALID' })
    })
  })
}

// The last of this file: the key table is the process's, and every service in it loses its keys.
test('a proxy is not well any more once the server is locked, whatever was known before', async () => {
  const locked = await startService({ settings: { workers: '0' } })
  try {
    const { record, secretAccessKey } = await locked.engine.accessKeys.create({
      principalArn: ROOT,
      xksPrefix: PREFIX,
    })
    const asking = { of: locked, accessKeyId: record.accessKeyId, secretAccessKey }
    expect(outcome(await ask('/health', HEALTH, asking))).toEqual(GRANTED)
    locked.engine.lock()
    expect(outcome(await ask('/health', HEALTH, asking))).toEqual(STATE)
  } finally {
    await locked.close()
  }
})
