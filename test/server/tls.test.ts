/** TLS, with and without certificates of clients, and what a server beyond loopback needs to start. */
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import type { ClientRequest, IncomingMessage } from 'node:http'
import { request, type RequestOptions } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect } from 'node:tls'
import { WebSocket } from 'ws'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'

import type { SettingTexts } from '../../dist/config.js'
import { makeCertificates } from '../certificates.ts'
import { startService, type Service } from '../service.ts'
import { bearer, pack, unpack } from './caller.ts'

const hasOpenssl = spawnSync('openssl', ['version']).status === 0

let directory: string
const services: Service[] = []

const file = (name: string): string => join(directory, name)
const pem = (name: string): Buffer => readFileSync(file(name))

async function start(settings: SettingTexts): Promise<Service> {
  const service = await startService({ settings: { workers: '0', ...settings } })
  services.push(service)
  return service
}

interface Got {
  readonly status: number
  readonly body: Readonly<Record<string, unknown>> & { readonly code?: string }
  readonly text: string
  readonly bytes: number
}

async function ask(
  service: Service,
  method: string,
  path: string,
  options: RequestOptions = {},
  fields?: unknown,
): Promise<Got> {
  const asked = request(service.url + path, {
    method,
    ca: pem('ca.crt'),
    agent: false,
    headers: { authorization: `Bearer ${service.token}`, 'content-type': 'application/msgpack' },
    ...options,
  })
  asked.end(fields === undefined ? undefined : pack(fields))
  const [response] = (await once(asked, 'response')) as [
    NodeJS.ReadableStream & { statusCode: number; headers: Record<string, string> },
  ]
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(chunk as Buffer)
  const bytes = Buffer.concat(chunks)
  const type = response.headers['content-type']
  const body = (
    type === 'application/msgpack'
      ? unpack(bytes)
      : type === 'application/json'
        ? JSON.parse(bytes.toString())
        : {}
  ) as Got['body']
  return { status: response.statusCode, body, text: bytes.toString(), bytes: bytes.length }
}

/** The connection's end, in one word: `open`, the status of a refusal, or the error's code. */
async function webSocketOutcome(service: Service, options: RequestOptions): Promise<string> {
  const socket = new WebSocket(`${service.url.replace('https', 'wss')}/v1/ws`, {
    ca: pem('ca.crt'),
    headers: { authorization: `Bearer ${service.token}` },
    ...(options as object),
  })
  try {
    return await new Promise<string>((resolve) => {
      socket.once('open', () => resolve('open'))
      socket.once('unexpected-response', (_request, response) =>
        resolve(String(response.statusCode)),
      )
      socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message))
    })
  } finally {
    socket.on('error', () => undefined)
    socket.terminate()
  }
}

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'keyfold-tls-'))
  if (!hasOpenssl) return
  makeCertificates(directory, 'ca', 'server', 'client')
  makeCertificates(directory, 'stranger-ca', 'stranger')
})
afterEach(async () => {
  for (const service of services.splice(0)) await service.close()
})
afterAll(() => rmSync(directory, { recursive: true, force: true }))

describe('beyond loopback', () => {
  test.each(['0.0.0.0:0', '[::]:0'])(
    '%s without TLS is refused, saying what to give',
    async (listen) => {
      await expect(start({ listen })).rejects.toMatchObject({
        code: 'CONFIG_INVALID',
        message: expect.stringMatching(/--tls-cert.*--allow-plaintext/) as string,
      })
    },
  )

  test('it is served where that is asked for', async () => {
    const service = await start({ listen: '0.0.0.0:0', allowPlaintext: 'true' })
    const { port } = new URL(service.url)
    expect(await (await fetch(`http://127.0.0.1:${port}/healthz`)).text()).toBe('ok\n')
  })
})

const title = 'with certificates'
if (!hasOpenssl && process.env['CI'] === undefined) {
  test.skip(`${title} (no openssl: install the package openssl)`, () => undefined)
} else {
  describe(title, () => {
    const tls = (): SettingTexts => ({ tlsCert: file('server.crt'), tlsKey: file('server.key') })
    const certificateOf = (name: string): RequestOptions => ({
      cert: pem(`${name}.crt`),
      key: pem(`${name}.key`),
    })

    test('TLS serves requests and WebSockets, beyond loopback too', async () => {
      const service = await start({ ...tls(), listen: '0.0.0.0:0' })
      expect(service.url).toMatch(/^https:/)
      const { keyId } = (await ask(service, 'POST', '/v1/keys', {}, {})).body
      const fields = { key: keyId, plaintexts: [Buffer.alloc(300_000)] }
      expect((await ask(service, 'POST', '/v1/encrypt', {}, fields)).status).toBe(200)
      expect(await webSocketOutcome(service, {})).toBe('open')
      expect((await ask(service, 'GET', '/healthz')).text).toBe('ok\n')
    })

    test('streams go through TLS, and wait for whoever reads them', async () => {
      const service = await start(tls())
      const { keyId } = (await ask(service, 'POST', '/v1/keys', {}, {})).body
      const open = (path: string): ClientRequest => {
        const headers = { authorization: `Bearer ${service.token}` }
        return request(service.url + path, {
          method: 'PUT',
          ca: pem('ca.crt'),
          agent: false,
          headers,
        })
      }
      const plaintext = randomBytes(160 * 2 ** 20)
      const sealing = open(`/v1/streams/encrypt?key=${String(keyId)}`)
      const opening = open('/v1/streams/decrypt')
      const opened = once(opening, 'response')
      sealing.end(plaintext)
      const [sealed] = (await once(sealing, 'response')) as [IncomingMessage]
      sealed.pipe(opening)
      const [answer] = (await opened) as [IncomingMessage]
      const parts: Buffer[] = []
      for await (const part of answer) parts.push(part as Buffer)
      expect(Buffer.concat(parts).equals(plaintext)).toBe(true)
      expect(service.engine.slots.bytesInUse).toBe(0)
    })

    // What ss tells as `rb`, and the front end's buffer: LIBUS_RECV_BUFFER_LENGTH of uSockets.
    test.skipIf(spawnSync('ss', ['-V']).error !== undefined && process.env['CI'] === undefined)(
      'the kernel holds less for a connection than the front end reads at once (ss of iproute2)',
      async () => {
        const service = await start(tls())
        const port = new URL(service.url).port
        const socket = connect({ port: Number(port), ca: pem('ca.crt') })
        await once(socket, 'secureConnect')
        const { stdout } = spawnSync('ss', ['-tmnH', 'sport', '=', `:${port}`], {
          encoding: 'utf8',
        })
        socket.destroy()
        const [, heldMax] = /skmem:\(r\d+,rb(\d+),/.exec(stdout) ?? []
        expect(Number(heldMax)).toBeGreaterThan(64 * 1024)
        expect(Number(heldMax)).toBeLessThan(512 * 1024)
      },
    )

    test('a stream whose caller sends nothing yet has sent all that there is', async () => {
      const service = await start(tls())
      const { keyId } = (await ask(service, 'POST', '/v1/keys', {}, {})).body
      const path = `/v1/streams/encrypt?key=${String(keyId)}`
      const whole = await ask(service, 'PUT', path, { headers: bearer(service) }, undefined)
      const sealing = request(service.url + path, {
        method: 'PUT',
        ca: pem('ca.crt'),
        agent: false,
        headers: { ...bearer(service), 'transfer-encoding': 'chunked' },
      })
      sealing.flushHeaders()
      const [sealed] = (await once(sealing, 'response')) as [IncomingMessage]
      // A final frame of nothing: 8 bytes of number, 12 of IV, 4 of length, 16 of tag (message format reference).
      let left = whole.bytes - 40
      for await (const part of sealed) {
        left -= (part as Buffer).length
        if (left <= 0) break
      }
      expect(left).toBe(0)
    })

    test('who does not know the CA does not talk to the server', async () => {
      const service = await start(tls())
      await expect(
        ask(service, 'GET', '/healthz', { ca: pem('stranger-ca.crt') }),
      ).rejects.toMatchObject({
        code: expect.stringMatching(/^(UNABLE|DEPTH|SELF|CERT)/) as string,
      })
      await expect(fetch(service.url.replace('https', 'http'))).rejects.toThrow()
    })

    test.each(['tlsCert', 'tlsKey', 'clientCa'] as const)(
      'a file for %s that is none is refused',
      async (name) => {
        writeFileSync(file('none.pem'), 'nothing of the kind')
        for (const path of [file('none.pem'), file('absent.pem')]) {
          await expect(start({ ...tls(), [name]: path })).rejects.toMatchObject({
            code: 'CONFIG_INVALID',
          })
        }
      },
    )

    describe('of clients', () => {
      const ROUTES = [
        ['POST', '/v1/encrypt'],
        ['POST', '/v1/decrypt'],
        ['POST', '/v1/re-encrypt'],
        ['POST', '/v1/data-keys'],
        ['POST', '/v1/batch'],
        ['PUT', '/v1/streams/encrypt?key=k'],
        ['POST', '/v1/streams/decrypt'],
        ['GET', '/v1/keys'],
        ['POST', '/v1/keys'],
        ['POST', '/v1/keys/k/disable'],
        ['GET', '/v1/aliases'],
        ['GET', '/v1/tokens'],
        ['POST', '/v1/lock'],
        ['GET', '/v1/limits'],
        ['GET', '/healthz'],
        ['GET', '/readyz'],
        ['GET', '/metrics'],
        ['GET', '/nothing'],
        ['PATCH', '/v1/keys'],
        ['GET', '/v1/ws'],
      ] as const

      test('one of theirs is let in', async () => {
        const service = await start({ ...tls(), clientCa: file('ca.crt') })
        const options = certificateOf('client')
        expect((await ask(service, 'POST', '/v1/keys', options, {})).status).toBe(200)
        expect((await ask(service, 'GET', '/healthz', options)).status).toBe(200)
        expect((await ask(service, 'GET', '/readyz', options)).status).toBe(200)
        expect(await webSocketOutcome(service, options)).toBe('open')
      })

      test('one alone is a user who may do what policies say, and a bad token beside it is not overlooked', async () => {
        const service = await start({ ...tls(), clientCa: file('ca.crt') })
        const options = { ...certificateOf('client'), headers: {} }
        expect(await ask(service, 'GET', '/v1/keys', options)).toMatchObject({ status: 403 })
        const Statement = { Effect: 'Allow', Action: 'kms:ListKeys', Resource: '*' }
        await service.engine.identityPolicies.put({
          principalArn: 'arn:aws:iam::000000000000:user/client',
          name: 'list',
          document: JSON.stringify({ Version: '2012-10-17', Statement }),
        })
        expect(await ask(service, 'GET', '/v1/keys', options)).toMatchObject({ status: 200 })
        expect(await ask(service, 'GET', '/v1/tokens', options)).toMatchObject({ status: 403 })
        const bad = { ...options, headers: { authorization: 'Bearer kf_nonsense' } }
        expect(await ask(service, 'GET', '/v1/keys', bad)).toMatchObject({ status: 401 })
      })

      test.each(ROUTES)('%s %s is refused without one', async (method, path) => {
        const service = await start({ ...tls(), clientCa: file('ca.crt') })
        let outcome: unknown
        try {
          const { status, body } = await ask(service, method, path)
          outcome = [status, body.code]
        } catch (error) {
          outcome = (error as NodeJS.ErrnoException).code
        }
        expect([[401, 'UNAUTHENTICATED'], 'ECONNRESET', 'EPIPE']).toContainEqual(outcome)
        expect(service.engine.locked).toBe(false)
      })

      test('a WebSocket is refused without one', async () => {
        const service = await start({ ...tls(), clientCa: file('ca.crt') })
        expect(['401', 'ECONNRESET', 'EPIPE']).toContain(await webSocketOutcome(service, {}))
      })

      test('one that another CA signed is refused', async () => {
        const service = await start({ ...tls(), clientCa: file('ca.crt') })
        for (const [method, path] of ROUTES) {
          const outcome = await ask(service, method, path, certificateOf('stranger')).then(
            ({ status }) => String(status),
            (error: NodeJS.ErrnoException) => error.code,
          )
          expect([path, ['401', 'ECONNRESET', 'EPIPE', 'ERR_SSL_TLSV1_ALERT_UNKNOWN_CA']]).toEqual([
            path,
            expect.arrayContaining([outcome]) as string[],
          ])
        }
        expect(await webSocketOutcome(service, certificateOf('stranger'))).not.toBe('open')
      })
    })
  })
}
