/** What operators ask and do: is it alive, is it ready, what does it count, what are its limits, and lock it. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

import * as limits from '../../dist/limits.js'
import { startService, type Service } from '../service.ts'
import { send, type Form } from './caller.ts'
import { metric, readMetrics } from './metrics.ts'

let service: Service
let keyId: string
beforeEach(async () => {
  service = await startService({ settings: { requestBytesMax: '1000000', missBudgetBurst: '77' } })
  keyId = await service.createKey()
})
afterEach(() => service.close())

const plaintexts = [Buffer.from('x')]

async function text(path: string): Promise<readonly [number, string]> {
  const response = await fetch(service.url + path)
  return [response.status, await response.text()]
}

describe('/healthz and /readyz', () => {
  test('need no token', async () => {
    expect(await text('/healthz')).toEqual([200, 'ok\n'])
    expect(await text('/readyz')).toEqual([200, 'ready\n'])
  })

  test('after a lock the server lives and is not ready', async () => {
    await service.call('lock', {})
    expect(await text('/healthz')).toEqual([200, 'ok\n'])
    const response = await fetch(`${service.url}/readyz`)
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toBe('1')
    expect(await response.json()).toMatchObject({ code: 'LOCKED' })
  })
})

describe('/metrics', () => {
  test('are for those with keyfold:ReadMetrics', async () => {
    const ask = async (token: string): Promise<number> => {
      const headers = token === '' ? {} : { authorization: `Bearer ${token}` }
      return (await fetch(`${service.url}/metrics`, { headers })).status
    }
    const tokenFor = async (action: string): Promise<string> =>
      (await service.engine.tokens.create({ name: 'm', actions: [action], keys: ['*'] })).token
    expect(await ask('')).toBe(401)
    expect(await ask('kf_x')).toBe(401)
    expect(await ask(await tokenFor('kms:*'))).toBe(403)
    expect(await ask(await tokenFor('keyfold:ReadMetrics'))).toBe(200)
  })

  test('say what each one is, and counters only grow', async () => {
    const before = await readMetrics(service)
    await service.call('encrypt', { key: keyId, plaintexts })
    const after = await readMetrics(service)
    for (const [name, value] of before.samples) {
      const type = before.types.get(name.replace(/\{.*/, ''))
      if (type === 'counter')
        expect([name, (after.samples.get(name) ?? -1) >= value]).toEqual([name, true])
    }
    expect(
      after.samples.get(
        `keyfold_implementation{implementation="${service.engine.crypto.implementation}"}`,
      ),
    ).toBe(1)
  })

  test('move as what they count', async () => {
    const names = [
      'seal_hits',
      'seal_misses',
      'open_hits',
      'open_misses',
      'wraps',
      'unwraps',
      'inline_batches',
    ] as const
    const read = async (): Promise<readonly number[]> => {
      const { samples } = await readMetrics(service)
      return names.map((name) => samples.get(`keyfold_${name}_total`) as number)
    }
    const moved = async (
      work: () => Promise<unknown>,
    ): Promise<Readonly<Record<string, number>>> => {
      const before = await read()
      await work()
      const after = await read()
      return Object.fromEntries(
        names.flatMap((name, i) => {
          const by = (after[i] as number) - (before[i] as number)
          return by === 0 ? [] : [[name, by] as const]
        }),
      )
    }
    const encrypt = (): Promise<{ readonly ciphertexts: readonly Uint8Array[] }> =>
      service.call('encrypt', { key: keyId, plaintexts })
    expect(await moved(encrypt)).toEqual({ seal_misses: 1, wraps: 1, inline_batches: 1 })
    expect(await moved(encrypt)).toEqual({ seal_hits: 1, inline_batches: 1 })
    const { ciphertexts } = await encrypt()
    const decrypt = (): Promise<unknown> => service.call('decrypt', { ciphertexts })
    expect(await moved(decrypt)).toEqual({ open_misses: 1, unwraps: 1, inline_batches: 1 })
    expect(await moved(decrypt)).toEqual({ open_hits: 1, inline_batches: 1 })
    // A caller's data keys neither fill nor read the cache.
    const dataKeys = { key: keyId, count: 3, plaintext: true }
    expect(await moved(() => service.call('data-keys', dataKeys))).toEqual({})
    expect(await moved(() => service.call('encrypt', { key: 'alias/none', plaintexts }))).toEqual(
      {},
    )
  })

  test('count requests by route and class, and how long they took', async () => {
    const of = async (route: string, status: string): Promise<number> => {
      const { samples } = await readMetrics(service)
      return samples.get(`keyfold_requests_total{route="${route}",status="${status}"}`) ?? 0
    }
    await service.call('encrypt', { key: keyId, plaintexts })
    await service.call('encrypt', { key: keyId })
    await send(service, 'POST', '/v1/encrypt', { token: '', fields: {} })
    await send(service, 'POST', '/v1/encrypt', { body: Buffer.alloc(1_000_001) })
    await send(service, 'GET', `/v1/keys/${keyId}`)
    expect(await of('/v1/encrypt', '2xx')).toBe(1)
    expect(await of('/v1/encrypt', '4xx')).toBe(3)
    expect(await of('/v1/keys/:name', '2xx')).toBe(1)
    await service.call('lock', {})
    await service.call('encrypt', { key: keyId, plaintexts })
    expect(await of('/v1/encrypt', '5xx')).toBe(1)
    const { samples } = await readMetrics(service)
    const within = (le: string): number =>
      samples.get(`keyfold_requests_within_seconds_total{route="/v1/encrypt",le="${le}"}`) ?? -1
    expect(within('+Inf')).toBe(5)
    expect(within('0.0001')).toBeLessThanOrEqual(within('10'))
    expect(samples.get('keyfold_request_seconds_total{route="/v1/encrypt"}')).toBeGreaterThan(0)
  })
})

describe('/v1/limits', () => {
  test.each<Form>(['msgpack', 'json'])('tells what is refused beyond, in %s', async (form) => {
    const { body } = await send(service, 'GET', '/v1/limits', { form })
    expect(body).toMatchObject({
      region: 'us-east-1',
      account: '000000000000',
      requestBytesMax: 1_000_000,
      missBudgetBurst: 77,
      batchMessagesMax: limits.BATCH_MESSAGES_MAX,
      messageKeyMessagesMax: limits.MESSAGE_KEY_MESSAGES_DEFAULT,
    })
    const at = await send(service, 'POST', '/v1/encrypt', { body: Buffer.alloc(1_000_000) })
    expect(at.status).toBe(400)
    const beyond = await send(service, 'POST', '/v1/encrypt', { body: Buffer.alloc(1_000_001) })
    expect(beyond.status).toBe(413)
    expect(beyond.body.message).toContain(String(body['requestBytesMax']))
    const dataKeys = { key: keyId, plaintext: false, count: Number(body['dataKeysPerRequestMax']) }
    expect((await service.call('data-keys', dataKeys)).dataKeys).toHaveLength(dataKeys.count)
    const more = await service.call('data-keys', { ...dataKeys, count: dataKeys.count + 1 })
    expect(more.code).toBe('LIMIT_EXCEEDED')
    expect(more.message).toContain(String(dataKeys.count))
    const batch = Array.from({ length: Number(body['batchMessagesMax']) + 1 }, () =>
      Buffer.alloc(0),
    )
    const refused = await service.call('encrypt', { key: keyId, plaintexts: batch })
    expect(refused.code).toBe('LIMIT_EXCEEDED')
    expect(refused.message).toContain(String(body['batchMessagesMax']))
  })
})

describe('POST /v1/lock', () => {
  test('is for those with keyfold:Lock', async () => {
    const { token } = await service.engine.tokens.create({
      name: 'l',
      actions: ['kms:*'],
      keys: ['*'],
    })
    expect((await send(service, 'POST', '/v1/lock', { token })).status).toBe(403)
    expect((await service.call('encrypt', { key: keyId, plaintexts })).code).toBeUndefined()
  })

  test('wipes every key: nothing is served any more, cached or not', async () => {
    const { ciphertexts } = await service.call('encrypt', { key: keyId, plaintexts })
    await service.call('decrypt', { ciphertexts })
    expect(await metric(service, 'key_table_slots_used')).toBeGreaterThan(0)
    expect(await service.call('lock', {})).toEqual({ locked: true })
    expect(await metric(service, 'key_table_slots_used')).toBe(0)
    expect(await metric(service, 'seal_keys')).toBe(0)
    expect(await metric(service, 'open_keys')).toBe(0)

    const asked = [
      ['POST', '/v1/encrypt', { key: keyId, plaintexts }],
      ['POST', '/v1/decrypt', { ciphertexts }],
      ['POST', '/v1/re-encrypt', { key: keyId, mode: 'rewrap', ciphertexts }],
      ['POST', '/v1/data-keys', { key: keyId, count: 1, plaintext: true }],
      ['POST', '/v1/batch', [{ op: 'decrypt', ciphertexts }]],
      ['POST', '/v1/keys', {}],
      ['GET', '/v1/keys', undefined],
      ['GET', `/v1/keys/${keyId}`, undefined],
      ['POST', `/v1/keys/${keyId}/rotate`, {}],
      ['GET', '/v1/tokens', undefined],
    ] as const
    for (const [method, path, fields] of asked) {
      const got = await send(service, method, path, { fields })
      expect([path, got.status, got.body.code]).toEqual([path, 503, 'LOCKED'])
      expect(got.headers.get('retry-after')).toBe('1')
    }
    // To be locked again is no error, and limits are told.
    expect(await service.call('lock', {})).toEqual({ locked: true })
    expect((await send(service, 'GET', '/v1/limits')).status).toBe(200)
  })

  test('ends what is under way: nothing is sealed after it', async () => {
    const body = { key: keyId, plaintexts: Array.from({ length: 9 }, () => Buffer.alloc(100_000)) }
    await service.call('encrypt', body)
    const callers = Array.from({ length: 12 }, () => service.call('encrypt', body))
    const locked = service.call('lock', {})
    const outcomes = (await Promise.all(callers)).map(({ code }) => code ?? 'sealed')
    await locked
    for (const outcome of outcomes) {
      expect(['sealed', 'LOCKED', 'KEY_HANDLE_STALE']).toContain(outcome)
    }
    expect((await service.call('encrypt', body)).code).toBe('LOCKED')
    expect(service.engine.slots.bytesInUse).toBe(0)
    expect(service.engine.counters().keyTable.slotsUsed).toBe(0)
  })
})
