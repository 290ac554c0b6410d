/**
 * What the log says at its most talkative while everything goes wrong: enough to find a request by its id, and no
 * token, context, plaintext or ciphertext.
 */
import { once } from 'node:events'
import { WebSocket } from 'ws'
import { afterAll, beforeAll, expect, test } from 'vitest'

import { startService, type Service } from '../service.ts'
import { bearer, eventually, pack, RawConnection, send, type Got } from './caller.ts'

const SECRETS = {
  plaintext: 'PLAINTEXT-4111-1111',
  contextKey: 'CONTEXT-KEY-patient',
  contextValue: 'CONTEXT-VALUE-4711',
  token: 'kf_fedcba987654321abc_SECRET-OF-A-TOKEN-THAT-IS-NONE-AT-ALL-0000',
  field: 'FIELD-NAME-that-is-not-known',
  alias: 'alias/ALIAS-that-is-not-there',
}

let service: Service
let keyId: string
const requestIds: string[] = []

beforeAll(async () => {
  service = await startService({
    settings: {
      logLevel: 'trace',
      requestBytesMax: '2000000',
      inFlightBytesMax: String(3 * 2 ** 20),
      missBudgetBurst: '8',
      missBudgetPerSecond: '1',
      dataKeyCacheEntries: '4',
    },
  })
  keyId = await service.createKey()
})
afterAll(() => service.close())

const context = { [SECRETS.contextKey]: SECRETS.contextValue }
const plaintexts = [Buffer.from(SECRETS.plaintext)]

async function fail(
  code: string,
  ...request: Parameters<typeof send> extends [unknown, ...infer Rest] ? Rest : never
): Promise<Got> {
  const got = await send(service, ...request)
  expect([request[1], got.body.code]).toEqual([request[1], code])
  requestIds.push(String(got.body.requestId))
  return got
}

/** Everything that a request can fail with, each time with secrets in every place that takes one. */
async function failInEveryWay(): Promise<void> {
  const good = { key: keyId, context, plaintexts }
  const token = SECRETS.token
  await fail('UNAUTHENTICATED', 'POST', '/v1/encrypt', { token, fields: good })
  await fail('UNAUTHENTICATED', 'GET', '/metrics', { token })
  await fail('ROUTE_NOT_FOUND', 'POST', `/v1/${SECRETS.plaintext}`, { fields: good })
  await fail('METHOD_NOT_ALLOWED', 'PUT', '/v1/encrypt', { fields: good })
  await fail('KMS_KEY_NOT_FOUND', 'POST', '/v1/encrypt', {
    fields: { ...good, key: SECRETS.alias },
  })
  await fail('REQUEST_MALFORMED', 'POST', '/v1/encrypt', {
    fields: { ...good, [SECRETS.field]: 1 },
  })
  await fail('REQUEST_MALFORMED', 'POST', '/v1/keys', {
    fields: { [SECRETS.field]: SECRETS.plaintext },
  })
  await fail('REQUEST_MALFORMED', 'POST', '/v1/encrypt', { body: pack(good).subarray(0, -3) })
  await fail('REQUEST_MALFORMED', 'POST', '/v1/encrypt', { form: 'json', body: SECRETS.plaintext })
  await fail('REQUEST_MALFORMED', 'POST', '/v1/encrypt', {
    form: 'json',
    fields: { ...good, plaintexts: [SECRETS.plaintext] },
  })
  await fail('MEDIA_TYPE_UNSUPPORTED', 'POST', '/v1/encrypt', {
    fields: good,
    headers: { 'content-type': SECRETS.plaintext },
  })
  await fail('CONTEXT_INVALID', 'POST', '/v1/encrypt', {
    fields: { ...good, context: { [SECRETS.contextKey]: SECRETS.contextValue.repeat(600) } },
  })
  await fail('REQUEST_TOO_LARGE', 'POST', '/v1/encrypt', {
    fields: { ...good, plaintexts: [Buffer.alloc(2_000_000, SECRETS.plaintext)] },
  })
  await fail('OVERLOADED', 'POST', '/v1/encrypt', {
    fields: { ...good, plaintexts: [Buffer.alloc(1_990_000, SECRETS.plaintext)] },
  })
  await fail('TAG_INVALID', 'POST', '/v1/keys', {
    fields: { tags: { 'aws:x': SECRETS.contextValue } },
  })
  await fail('ALIAS_INVALID', 'POST', '/v1/aliases', {
    fields: { key: keyId, alias: `${SECRETS.alias} ` },
  })
  await fail('TOKEN_NOT_FOUND', 'DELETE', `/v1/tokens/${SECRETS.field}`)
  const scoped = await service.engine.tokens.create({
    name: 'scoped',
    actions: ['kms:Decrypt'],
    keys: ['x'],
  })
  await fail('ACCESS_DENIED', 'POST', '/v1/encrypt', { token: scoped.token, fields: good })
  const { ciphertexts } = await service.call('encrypt', good)
  const other = { ...context, [SECRETS.contextKey]: 'another' }
  expect((await service.call('decrypt', { ciphertexts, context: other })).errors).toEqual([
    [0, 'DECRYPT_FAILED'],
  ])
  await fail('DECRYPT_FAILED', 'POST', '/v1/decrypt', {
    fields: { packed: await damaged(), context },
  })
  for (let i = 0, spent = false; !spent; i++) {
    const unique = { ...good, context: { [SECRETS.contextKey]: `${SECRETS.contextValue}-${i}` } }
    spent = (await service.call('encrypt', unique)).code === 'MISS_BUDGET_SPENT'
  }
  await service.call(`keys/${keyId}/disable`, {})
  await fail('KMS_KEY_DISABLED', 'POST', '/v1/encrypt', { fields: good })
  await failOnWebSocket(good)
  await service.call('lock', {})
  await fail('LOCKED', 'POST', '/v1/decrypt', { fields: { ciphertexts, context } })
}

/** A packed batch whose tag is wrong. */
async function damaged(): Promise<Uint8Array> {
  const { packed } = await service.call('encrypt', {
    key: keyId,
    context,
    plaintexts,
    form: 'packed',
  })
  const bytes = Buffer.from(packed)
  bytes[bytes.length - 1] = (bytes.at(-1) as number) ^ 1
  return bytes
}

async function failOnWebSocket(good: unknown): Promise<void> {
  const socket = new WebSocket(`${service.url.replace('http', 'ws')}/v1/ws`, {
    headers: { authorization: `Bearer ${service.token}` },
  })
  await once(socket, 'open')
  let answers = 0
  socket.on('message', () => answers++)
  for (const op of [1, 9]) socket.send(Buffer.concat([Buffer.from([0, 0, 0, 1, op]), pack(good)]))
  await eventually(() => answers === 2)
  const closed = once(socket, 'close')
  socket.send(SECRETS.plaintext)
  await closed
}

test('tells nothing that a caller sent, and tells every refusal by its id', async () => {
  await failInEveryWay()
  const gone = await RawConnection.open(service)
  gone.request(`POST /v1/encrypt?${SECRETS.field}`, { ...bearer(service), 'Content-Length': 1_000 })
  gone.write(SECRETS.plaintext)
  gone.destroy()
  await service.drain()

  const log = service.logged.join('')
  for (const id of requestIds) expect(log).toContain(`"requestId":"${id}"`)
  expect(log).toContain('budget')
  const texts = { ...SECRETS, ownToken: service.token.split('_').slice(2).join('_') }
  for (const [name, text] of Object.entries(texts)) {
    const bytes = Buffer.from(text)
    for (const spelling of [
      text,
      text.slice(4, 16),
      bytes.toString('base64').slice(0, 12),
      bytes.toString('hex').slice(0, 16),
    ]) {
      expect(log.includes(spelling), `the log holds ${name} as ${spelling}`).toBe(false)
    }
  }
  // Nothing went wrong that the server did not expect: that would be told at the level of errors.
  expect(
    service.logged.filter((line) => (JSON.parse(line) as { level: number }).level >= 50),
  ).toEqual([])
})
