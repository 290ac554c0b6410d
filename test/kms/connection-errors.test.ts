/**
 * Why a key store could not be connected, as DescribeCustomKeyStores says it: proxies, remote KMSs and tokens that
 * misbehave, each in its way. Codes and what they mean: AWS KMS API reference, CustomKeyStoresListEntry.
 */
import { DescribeCustomKeyStoresCommand, type KMSClient } from '@aws-sdk/client-kms'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type RequestListener, type Server } from 'node:http'
import { createServer as createTlsServer, type Server as TlsServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'

import type { NewKeyStore } from '../../dist/kms/key-stores.js'
import { makeCertificates } from '../certificates.ts'
import { describeWithSoftHsm, PIN, withHabits, type SoftToken } from '../key-stores/softhsm.ts'
import { clientOf } from '../server/aws/sdk.ts'
import { startService, type Service } from '../service.ts'

const XKS_SECRET = 'FYtE5EFA5FT0mCc3DrGUe2sti527BitkQ0Zr9MO9fvE'
const PATH = '/kms/xks/v1'
/** Nobody is late here who is not to be: the machine may be busy. */
const PATIENT = { deadlineMs: '20000' }

let directory: string
let authority: string
const ends: (() => void)[] = []

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'keyfold-connection-'))
  makeCertificates(directory, 'ca', 'proxy')
  authority = readFileSync(join(directory, 'ca.crt'), 'utf8')
})
afterAll(() => rmSync(directory, { recursive: true }))
afterEach(() => {
  for (const end of ends.splice(0)) end()
})

/** Answers as the test says, and may change its mind. */
async function standIn(tls = false): Promise<{
  readonly url: string
  answer: RequestListener
  /** Has this certificate from now on, and ends connections that know another. */
  readonly replaceCertificate: (name: string) => void
}> {
  const one = { url: '', answer: respond(200, {}), replaceCertificate }
  const listener: RequestListener = (request, response) => {
    request.resume().on('end', () => one.answer(request, response))
  }
  const server: Server | TlsServer = tls
    ? createTlsServer(certificateOf('proxy'), listener)
    : createServer(listener)
  const sockets = new Set<Socket>()
  function replaceCertificate(name: string): void {
    ;(server as TlsServer).setSecureContext(certificateOf(name))
    for (const socket of sockets) socket.destroy()
  }
  server.on('connection', (socket) => sockets.add(socket))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  ends.push(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  one.url = `${tls ? 'https' : 'http'}://127.0.0.1:${(server.address() as AddressInfo).port}`
  return one
}

const certificateOf = (name: string) => ({
  cert: readFileSync(join(directory, `${name}.crt`)),
  key: readFileSync(join(directory, `${name}.key`)),
})

function respond(status: number, body: unknown): RequestListener {
  return (_request, response) => {
    response.writeHead(status, { 'content-type': 'application/json' })
    response.end(typeof body === 'string' ? body : JSON.stringify(body))
  }
}

const refuse = (status: number, errorName: string): RequestListener =>
  respond(status, { errorName })
const fleet = (healthStatus: string): RequestListener =>
  respond(200, {
    xksProxyFleetSize: 1,
    xksProxyVendor: 'v',
    xksProxyModel: 'm',
    ekmVendor: 'v',
    ekmFleetDetails: [{ id: '1', model: 'm', healthStatus }],
  })

let service: Service
let kms: KMSClient

async function start(settings: Record<string, string> = {}): Promise<void> {
  service = await startService({ settings })
  kms = await clientOf(service)
}

const stop = async (): Promise<void> => {
  kms.destroy()
  await service.close()
}

const create = async (more: Partial<NewKeyStore> & Pick<NewKeyStore, 'kind'>): Promise<string> =>
  (await service.engine.kms.keyStores.create({ name: 'store', settings: {}, ...more })).id

/** What is said of it once it has been tried; afterwards it may be tried again. */
async function connect(id: string) {
  const { keyStores } = service.engine.kms
  await keyStores.connect(id)
  await keyStores.settled(id)
  const described = await kms.send(new DescribeCustomKeyStoresCommand({ CustomKeyStoreId: id }))
  const { ConnectionState: state, ConnectionErrorCode: code } = described.CustomKeyStores?.[0] ?? {}
  await keyStores.disconnect(id)
  await keyStores.settled(id)
  return [state, code]
}

const failed = (code: string): readonly unknown[] => ['FAILED', code]
const CONNECTED = ['CONNECTED', undefined]

describe('over the network', () => {
  beforeEach(() => start())
  afterEach(stop)

  const createXks = (
    url: string,
    more: Record<string, string> = {},
    name = 'proxy',
  ): Promise<string> =>
    create({
      name,
      kind: 'xks',
      settings: {
        uriEndpoint: url,
        uriPath: PATH,
        accessKeyId: 'AKIAI2SFODNN7EXAMPLE',
        ...PATIENT,
        ...more,
      },
      secret: Buffer.from(XKS_SECRET),
    })

  const refusals: readonly (readonly [string, RequestListener, string, string])[] = [
    [
      'refuses the signature',
      refuse(401, 'AuthenticationFailedException'),
      'INVALID_CREDENTIALS',
      'XKS_PROXY_CREDENTIAL_INCORRECT',
    ],
    [
      'denies access',
      refuse(403, 'AccessDeniedException'),
      'XKS_PROXY_ACCESS_DENIED',
      'XKS_PROXY_CONFIGURATION_INVALID',
    ],
    [
      'has no such path',
      refuse(404, 'InvalidUriPathException'),
      'XKS_PROXY_INVALID_CONFIGURATION',
      'XKS_PROXY_CONFIGURATION_INVALID',
    ],
    [
      'is a load balancer with nothing behind it',
      respond(502, '<html>Bad gateway</html>'),
      'XKS_PROXY_INVALID_RESPONSE',
      'XKS_PROXY_RESPONSE_INVALID',
    ],
    [
      'answers something else',
      respond(200, {}),
      'XKS_PROXY_INVALID_RESPONSE',
      'XKS_PROXY_RESPONSE_INVALID',
    ],
    [
      'answers without an end',
      respond(200, JSON.stringify({ filler: 'x'.repeat(10_000_000) })),
      'XKS_PROXY_INVALID_RESPONSE',
      'XKS_PROXY_RESPONSE_INVALID',
    ],
    [
      'has no key manager that is well',
      fleet('UNAVAILABLE'),
      'XKS_PROXY_NOT_REACHABLE',
      'XKS_PROXY_UNREACHABLE',
    ],
    [
      'waits for one in vain',
      refuse(503, 'DependencyTimeoutException'),
      'XKS_PROXY_NOT_REACHABLE',
      'XKS_PROXY_UNREACHABLE',
    ],
    [
      'breaks the connection off',
      (request) => void request.socket.destroy(),
      'XKS_PROXY_NOT_REACHABLE',
      'XKS_PROXY_UNREACHABLE',
    ],
  ]

  test.each(refusals)('a proxy that %s', async (_what, answer, connectionError, error) => {
    const proxy = await standIn()
    proxy.answer = answer
    await expect(createXks(proxy.url)).rejects.toMatchObject({ code: error })
    proxy.answer = fleet('ACTIVE')
    const id = await createXks(proxy.url)
    expect(await connect(id)).toEqual(CONNECTED)
    proxy.answer = answer
    expect(await connect(id)).toEqual(failed(connectionError))
    proxy.answer = fleet('DEGRADED')
    expect(await connect(id)).toEqual(CONNECTED)
  })

  test('a proxy that takes the connection and never answers', async () => {
    const proxy = await standIn()
    proxy.answer = fleet('ACTIVE')
    const id = await createXks(proxy.url)
    await service.engine.kms.keyStores.update(id, { settings: { deadlineMs: '20000' } })
    proxy.answer = () => undefined
    const hasty = { settings: { deadlineMs: '50' } }
    await expect(service.engine.kms.keyStores.update(id, hasty)).rejects.toMatchObject({
      code: 'XKS_PROXY_UNREACHABLE',
    })
    proxy.answer = fleet('ACTIVE')
    await service.engine.kms.keyStores.update(id, { settings: { deadlineMs: '5000' } })
    proxy.answer = () => undefined
    expect(await connect(id)).toEqual(failed('XKS_PROXY_TIMED_OUT'))
  })

  test('a proxy that nobody listens for any more', async () => {
    const proxy = await standIn()
    proxy.answer = fleet('ACTIVE')
    const id = await createXks(proxy.url)
    for (const end of ends.splice(0)) end()
    expect(await connect(id)).toEqual(failed('XKS_PROXY_NOT_REACHABLE'))
  })

  test('a proxy whose certificate is signed by nobody that is trusted, or that has no TLS', async () => {
    const proxy = await standIn(true)
    proxy.answer = fleet('ACTIVE')
    const trusted = { certificateAuthority: authority }
    const untrusted = createXks(proxy.url)
    await expect(untrusted).rejects.toMatchObject({ code: 'XKS_PROXY_UNREACHABLE' })
    const id = await createXks(proxy.url, trusted)
    expect(await connect(id)).toEqual(CONNECTED)
    // As after its certificate was replaced by one of another authority.
    makeCertificates(directory, 'other', 'stranger')
    const other = readFileSync(join(directory, 'other.crt'), 'utf8')
    proxy.answer = fleet('ACTIVE')
    await expect(
      service.engine.kms.keyStores.update(id, { settings: { certificateAuthority: other } }),
    ).rejects.toMatchObject({ code: 'XKS_PROXY_UNREACHABLE' })
    const plain = await standIn()
    plain.answer = fleet('ACTIVE')
    const overTls = createXks(plain.url.replace('http:', 'https:'), {}, 'plain')
    await expect(overTls).rejects.toMatchObject({
      code: 'XKS_PROXY_UNREACHABLE',
      cause: { fault: 'tls' },
    })
    expect(await connect(id)).toEqual(CONNECTED)
  })

  test('a proxy that was replaced by one whose certificate nobody trusts', async () => {
    const proxy = await standIn(true)
    proxy.answer = fleet('ACTIVE')
    const id = await createXks(proxy.url, { certificateAuthority: authority })
    makeCertificates(directory, 'other', 'stranger')
    proxy.replaceCertificate('stranger')
    expect(await connect(id)).toEqual(failed('XKS_PROXY_INVALID_TLS_CONFIGURATION'))
  })

  test('a transit engine: its certificate, its token, and that it is not there', async () => {
    const engine = await standIn(true)
    const looksUp = respond(200, { data: {} })
    engine.answer = looksUp
    const options = { kind: 'transit', secret: Buffer.from('token') } as const
    const trusting = { url: engine.url, certificateAuthority: authority, ...PATIENT }
    const id = await create({ ...options, settings: trusting })
    expect(await connect(id)).toEqual(CONNECTED)
    engine.answer = respond(403, { errors: ['permission denied'] })
    expect(await connect(id)).toEqual(failed('INVALID_CREDENTIALS'))
    engine.answer = respond(503, { errors: ['Vault is sealed'] })
    expect(await connect(id)).toEqual(failed('NETWORK_ERRORS'))
    engine.answer = looksUp
    const name = 'untrusting'
    const secret = Buffer.from('token')
    const settings = { url: engine.url, ...PATIENT }
    const untrusting = await create({ ...options, secret, name, settings })
    expect(await connect(untrusting)).toEqual(failed('NETWORK_ERRORS'))
  })

  test('another KMS: its certificate, our credential, and that it is not there', async () => {
    const remote = await standIn(true)
    const keys = respond(200, { Keys: [], Truncated: false })
    remote.answer = keys
    const options = { kind: 'aws-kms' } as const
    const settings = {
      region: 'eu-west-1',
      accessKeyId: 'AKIAIOSFODNN7EXAMPLE',
      endpoint: remote.url,
      ...PATIENT,
    }
    const id = await create({
      ...options,
      settings: { ...settings, certificateAuthority: authority },
      secret: Buffer.from('secret'),
    })
    expect(await connect(id)).toEqual(CONNECTED)
    for (const [type, expected] of [
      ['UnrecognizedClientException', failed('INVALID_CREDENTIALS')],
      ['InvalidSignatureException', failed('INVALID_CREDENTIALS')],
      // That somebody may not list keys says nothing of wrapping.
      ['AccessDeniedException', CONNECTED],
    ] as const) {
      remote.answer = respond(400, { __type: type })
      expect(await connect(id)).toEqual(expected)
    }
    remote.answer = keys
    const secret = Buffer.from('secret')
    const untrusting = await create({ ...options, name: 'untrusting', settings, secret })
    expect(await connect(untrusting)).toEqual(failed('NETWORK_ERRORS'))
  })
})

describeWithSoftHsm('in a token', (createToken) => {
  let token: SoftToken
  beforeEach(async () => {
    token = createToken()
    const modules = {
      good: { library: token.module, token: { label: token.label } },
      absent: { library: token.module, token: { label: 'another' } },
      bare: { library: token.module, token: { label: 'bare' } },
      locked: { library: withHabits(token, 'pin-locked'), token: { label: token.label } },
      none: { library: join(token.directory, 'none.so'), token: { label: token.label } },
    }
    const file = join(token.directory, 'modules.json')
    writeFileSync(file, JSON.stringify(modules))
    await start({ pkcs11Modules: file })
  })
  afterEach(async () => {
    await stop()
    token.remove()
  })

  const hsm = (module: string, pin = PIN): Promise<string> =>
    create({ kind: 'pkcs11', name: module, settings: { module }, secret: Buffer.from(pin) })

  test('that is not there, or whose module is none', async () => {
    expect(await connect(await hsm('absent'))).toEqual(failed('INSUFFICIENT_CLOUDHSM_HSMS'))
    expect(await connect(await hsm('none'))).toEqual(failed('INTERNAL_ERROR'))
    expect(await connect(await hsm('good'))).toEqual(CONNECTED)
  })

  test('that takes no PIN: this one, any more, or from anybody', async () => {
    token.initializeBare('bare')
    expect(await connect(await hsm('good', 'wrong-pin'))).toEqual(failed('INVALID_CREDENTIALS'))
    expect(await connect(await hsm('locked'))).toEqual(failed('USER_LOCKED_OUT'))
    expect(await connect(await hsm('bare'))).toEqual(failed('USER_NOT_FOUND'))
  })
})
