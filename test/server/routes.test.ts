/** Every route in both spellings, what is refused and how, and what the unauthorised can learn: nothing. */
import { inspect } from 'node:util'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'

import { startService, type Service } from '../service.ts'
import { RawConnection, send, TYPES, unpack, type Form, type Got } from './caller.ts'

let service: Service
let keyId: string

beforeAll(async () => {
  service = await startService()
  keyId = await service.createKey()
})
afterAll(() => service.close())

const FORMS: readonly Form[] = ['msgpack', 'json']
const bytesOf = (form: Form, text: string): unknown =>
  form === 'json' ? Buffer.from(text).toString('base64') : Buffer.from(text)
const textOf = (value: unknown): string =>
  typeof value === 'string'
    ? Buffer.from(value, 'base64').toString()
    : Buffer.from(value as Uint8Array).toString()

async function tokenFor(
  actions: readonly string[],
  keys: readonly string[] = ['*'],
): Promise<string> {
  return (await service.engine.tokens.create({ name: 'scoped', actions, keys })).token
}

describe.each(FORMS)('in %s', (form) => {
  const call = async (method: string, path: string, fields?: unknown): Promise<Got> => {
    const got = await send(service, method, path, { form, fields })
    expect(got.type).toBe(TYPES[form])
    return got
  }
  const done = async (method: string, path: string, fields?: unknown): Promise<Got['body']> => {
    const got = await call(method, path, fields)
    expect(got.body.code).toBeUndefined()
    expect(got.status).toBe(200)
    return got.body
  }

  test.each(['inline', 'packed', 'detached'])('%s messages come back as they went', async (way) => {
    const context = { tenant: 'a', __proto__x: 'ß' }
    const texts = ['one', '', 'three']
    const plaintexts = texts.map((text) => bytesOf(form, text))
    const sealed = await done('POST', '/v1/encrypt', { key: keyId, context, form: way, plaintexts })
    const ciphertexts =
      way === 'packed'
        ? { packed: sealed.packed }
        : way === 'inline'
          ? { ciphertexts: sealed.ciphertexts }
          : { ciphertexts: sealed.ciphertexts, keyEntries: [sealed.keyEntry] }
    const moved = await done('POST', '/v1/re-encrypt', {
      key: keyId,
      mode: 'rewrap',
      context,
      ...ciphertexts,
    })
    const movedEntries = way === 'detached' ? { keyEntries: moved.keyEntries } : {}
    for (const body of [
      ciphertexts,
      way === 'packed'
        ? { packed: moved.packed }
        : { ciphertexts: moved.ciphertexts, ...movedEntries },
    ]) {
      const opened = await done('POST', '/v1/decrypt', { context, ...body })
      expect(opened.plaintexts.map(textOf)).toEqual(texts)
    }
  })

  test('a message that fails leaves a nil and its code, and no other', async () => {
    const { ciphertexts } = await done('POST', '/v1/encrypt', {
      key: keyId,
      plaintexts: [bytesOf(form, 'one')],
    })
    const opened = await done('POST', '/v1/decrypt', {
      ciphertexts: [bytesOf(form, 'no message'), ciphertexts[0]],
    })
    expect(opened.plaintexts[0]).toBeNull()
    expect(textOf(opened.plaintexts[1])).toBe('one')
    expect(opened.errors).toEqual([[0, 'MESSAGE_MALFORMED']])
  })

  test('data keys have 32 bytes, with and without plaintext', async () => {
    const [seen, unseen] = await Promise.all(
      [true, false].map((plaintext) =>
        done('POST', '/v1/data-keys', { key: keyId, count: 2, plaintext }),
      ),
    )
    for (const { plaintext } of seen?.dataKeys ?? []) {
      const bytes = typeof plaintext === 'string' ? Buffer.from(plaintext, 'base64') : plaintext
      expect(bytes).toHaveLength(32)
    }
    expect(seen?.dataKeys).toHaveLength(2)
    expect(unseen?.dataKeys.map((dataKey) => Object.keys(dataKey))).toEqual([
      ['wrappedKey'],
      ['wrappedKey'],
    ])
  })

  test('a key, its alias and its states', async () => {
    const alias = `alias/${form}/first`
    const created = await done('POST', '/v1/keys', { description: 'd', alias, tags: { a: 'b' } })
    const path = `/v1/keys/${created.keyId}`
    const other = `alias/${form}/second`
    expect(await done('POST', '/v1/aliases', { alias: other, key: created.keyId })).toEqual({})
    const described = await done('GET', `/v1/keys/${encodeURIComponent(other)}`)
    expect(described).toMatchObject({
      keyId: created.keyId,
      description: 'd',
      tags: { a: 'b' },
      aliases: [alias, other],
    })
    expect(await done('POST', `${path}/disable`, {})).toMatchObject({ state: 'Disabled' })
    expect(await done('POST', `${path}/enable`, {})).toMatchObject({ state: 'Enabled' })
    expect(await done('POST', `${path}/rotate`)).toMatchObject({ currentVersion: 2 })
    const aliasPath = `/v1/aliases/${encodeURIComponent(alias)}`
    expect(await done('PUT', aliasPath, { key: keyId })).toEqual({})
    expect((await done('GET', `/v1/aliases?key=${keyId}`))['aliases']).toContainEqual(
      expect.objectContaining({ name: alias }),
    )
    expect(await done('DELETE', aliasPath)).toEqual({})
    expect((await done('GET', '/v1/keys?limit=1'))['keys']).toHaveLength(1)
  })

  test('tokens', async () => {
    const created = await done('POST', '/v1/tokens', {
      name: form,
      actions: ['kms:Encrypt'],
      keys: [keyId],
      expiresInSeconds: 60,
    })
    const token = String(created['token'])
    const request = { key: keyId, plaintexts: [bytesOf(form, 'x')] }
    const encrypt = (): Promise<Got> =>
      send(service, 'POST', '/v1/encrypt', { token, form, fields: request })
    expect((await encrypt()).status).toBe(200)
    const { tokens } = await done('GET', '/v1/tokens')
    expect(inspect(tokens, { depth: 5 })).not.toContain(token.slice(-43))
    expect(await done('DELETE', `/v1/tokens/${created['tokenId'] as string}`)).toEqual({})
    expect(await encrypt()).toMatchObject({ status: 401, body: { code: 'UNAUTHENTICATED' } })
  })

  test('a batch of operations has its results and failures in order', async () => {
    const plaintexts = [bytesOf(form, 'x')]
    const got = await call('POST', '/v1/batch', [
      { op: 'encrypt', key: keyId, plaintexts },
      { op: 'encrypt', key: 'alias/none', plaintexts },
      { op: 'data-keys', key: keyId, count: 1, plaintext: false },
      { op: 'data-keys', key: keyId, count: 0, plaintext: false },
      { op: 'decrypt', ciphertexts: [bytesOf(form, 'no message')] },
      { op: 'decrypt', ciphertexts: [bytesOf(form, 'x')], key: keyId },
      { op: 'encrypt', key: keyId, plaintexts, form: 'packed' },
    ])
    expect(got.status).toBe(200)
    const results = got.body as unknown as readonly Got['body'][]
    expect(results.map(({ code }) => code)).toEqual([
      undefined,
      'KMS_KEY_NOT_FOUND',
      undefined,
      'LIMIT_EXCEEDED',
      undefined,
      'REQUEST_MALFORMED',
      undefined,
    ])
    expect(Object.keys(results[1] ?? {})).toEqual(['code', 'message', 'requestId'])
    const opened = await done('POST', '/v1/decrypt', { ciphertexts: results[0]?.ciphertexts })
    expect(textOf(opened.plaintexts[0])).toBe('x')
    expect(results[4]?.errors).toEqual([[0, 'MESSAGE_MALFORMED']])
  })

  test.each([
    ['not an array', {}],
    ['an operation that there is not', [{ op: 'destroy' }]],
    ['an operation without its op', [{ key: 'k' }]],
    ['more operations than are taken', Array.from({ length: 257 }, () => ({ op: 'decrypt' }))],
  ])('a batch is refused as a whole: %s', async (_what, fields) => {
    const got = await call('POST', '/v1/batch', fields)
    expect(got.status).toBe(400)
    expect(got.body.message).toMatch(/batch|op/)
  })

  test.each([
    ['POST', '/v1/encrypt', { key: 'k', plaintexts: [bytesOf(form, 'x')] }],
    ['POST', '/v1/decrypt', { ciphertexts: [bytesOf(form, 'x')] }],
    ['POST', '/v1/re-encrypt', { key: 'k', mode: 'fresh', ciphertexts: [bytesOf(form, 'x')] }],
    ['POST', '/v1/data-keys', { key: 'k', count: 1, plaintext: true }],
    ['POST', '/v1/keys', {}],
    ['POST', '/v1/keys/k/enable', {}],
    ['POST', '/v1/keys/k/disable', {}],
    ['POST', '/v1/keys/k/rotate', {}],
    ['POST', '/v1/aliases', { alias: 'alias/a', key: 'k' }],
    ['PUT', '/v1/aliases/alias%2Fa', { key: 'k' }],
    ['DELETE', '/v1/aliases/alias%2Fa', {}],
    ['POST', '/v1/tokens', { name: 'n', actions: ['*'], keys: ['*'] }],
    ['DELETE', '/v1/tokens/t', {}],
    ['POST', '/v1/lock', {}],
  ])('%s %s refuses a field that it does not know, by name', async (method, path, fields) => {
    const got = await call(method, path, { ...fields, plaintextz: 1 })
    expect(got).toMatchObject({ status: 400, body: { code: 'REQUEST_MALFORMED' } })
    expect(got.body.message).toContain('plaintextz')
    expect(service.engine.locked).toBe(false)
  })
})

describe('what is sent and what is wanted', () => {
  const refusal = async (
    form: Form,
    headers: Readonly<Record<string, string>>,
  ): Promise<readonly [number, string]> => {
    const fields = { key: 'alias/none', plaintexts: [bytesOf(form, 'x')] }
    const { status, type } = await send(service, 'POST', '/v1/encrypt', { form, fields, headers })
    return [status, type]
  }

  test.each<[Form, string, string]>([
    ['json', '*/*', TYPES.json],
    ['json', '', TYPES.json],
    ['msgpack', '*/*', TYPES.msgpack],
    ['msgpack', TYPES.json, TYPES.json],
    ['json', TYPES.msgpack, TYPES.msgpack],
    ['msgpack', 'Application/JSON; charset=utf-8', TYPES.json],
    ['msgpack', 'text/html, application/json;q=0.9, */*;q=0.8', TYPES.json],
    ['json', 'text/html', TYPES.json],
    ['json', `${TYPES.msgpack}, ${TYPES.json}`, TYPES.msgpack],
    ['msgpack', 'application/jsonlines', TYPES.msgpack],
  ])('%s that accepts "%s" is answered in %s', async (form, accept, answered) => {
    expect(await refusal(form, { accept })).toEqual([404, answered])
  })

  test.each(['APPLICATION/JSON', 'application/json; charset=utf-8', 'application/json;x=1'])(
    'a body may be called %s',
    async (type) => {
      expect(await refusal('json', { 'content-type': type })).toEqual([404, TYPES.json])
    },
  )

  test.each(['text/plain', 'application/x-www-form-urlencoded', 'application/jsonp', 'json'])(
    'a body that is called %s is refused',
    async (type) => {
      const got = await send(service, 'POST', '/v1/encrypt', {
        fields: {},
        headers: { 'content-type': type },
      })
      expect(got).toMatchObject({ status: 415, body: { code: 'MEDIA_TYPE_UNSUPPORTED' } })
    },
  )

  test.each(['{', '[1,]', '"\\ud800"', '{"key":"a"} x', '\u0000'])(
    'JSON that is none is refused: %j',
    async (body) => {
      const got = await send(service, 'POST', '/v1/encrypt', { form: 'json', body })
      expect(got).toMatchObject({ status: 400, body: { code: 'REQUEST_MALFORMED' } })
    },
  )

  test('base64 has one spelling', async () => {
    for (const spelling of ['YQ', 'YR==', 'Y Q==', '_w==', 'YQ==\n']) {
      const request = { key: keyId, plaintexts: ['YQ==', spelling] }
      const got = await send(service, 'POST', '/v1/encrypt', { form: 'json', fields: request })
      expect(got).toMatchObject({ status: 400, body: { code: 'REQUEST_MALFORMED' } })
      expect(got.body.message).toContain('plaintexts[1]')
    }
  })
})

describe('refusals', () => {
  const shape = (got: Got): readonly string[] => Object.keys(got.body)

  test.each(FORMS)(
    'have a code, a message and the id that a header repeats, in %s',
    async (form) => {
      const accept = { headers: { accept: TYPES[form] } }
      const answers = [
        await send(service, 'POST', '/v1/encrypt', { ...accept, token: '', fields: {} }),
        await send(service, 'GET', '/v1/limits', { ...accept, token: 'kf_nonsense' }),
        await send(service, 'GET', '/v1/keys', {
          ...accept,
          token: await tokenFor(['kms:Encrypt']),
        }),
        await send(service, 'GET', '/v1/keys/alias%2Fnone', accept),
        await send(service, 'GET', '/v1/nothing', accept),
        await send(service, 'GET', '/', { ...accept, token: '' }),
        await send(service, 'PATCH', '/v1/keys', accept),
      ]
      expect(answers.map(({ status, body }) => [status, body.code])).toEqual([
        [401, 'UNAUTHENTICATED'],
        [401, 'UNAUTHENTICATED'],
        [403, 'ACCESS_DENIED'],
        [404, 'KMS_KEY_NOT_FOUND'],
        [404, 'ROUTE_NOT_FOUND'],
        // The AWS protocol's door, which takes POST.
        [405, 'METHOD_NOT_ALLOWED'],
        [405, 'METHOD_NOT_ALLOWED'],
      ])
      for (const got of answers) {
        expect(shape(got)).toEqual(['code', 'message', 'requestId'])
        expect(got.type).toBe(TYPES[form])
        expect(got.headers.get('x-request-id')).toBe(got.body.requestId)
      }
      expect(new Set(answers.map(({ body }) => body.requestId)).size).toBe(answers.length)
    },
  )

  test.each([
    ['/v1/encrypt', 'POST'],
    ['/v1/decrypt', 'POST'],
    ['/v1/re-encrypt', 'POST'],
    ['/v1/data-keys', 'POST'],
    ['/v1/batch', 'POST'],
    ['/v1/keys', 'GET POST'],
    ['/v1/keys/k', 'GET'],
    ['/v1/keys/k/enable', 'POST'],
    ['/v1/keys/k/disable', 'POST'],
    ['/v1/keys/k/rotate', 'POST'],
    ['/v1/aliases', 'GET POST'],
    ['/v1/aliases/a', 'PUT DELETE'],
    ['/v1/tokens', 'GET POST'],
    ['/v1/tokens/t', 'DELETE'],
    ['/v1/lock', 'POST'],
    ['/v1/limits', 'GET'],
    ['/healthz', 'GET'],
    ['/readyz', 'GET'],
    ['/metrics', 'GET'],
  ])('%s takes %s and no other method', async (path, methods) => {
    for (const method of ['GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS']) {
      if (methods.split(' ').includes(method)) continue
      const got = await send(service, method, path)
      expect([method, got.status, got.body.code]).toEqual([method, 405, 'METHOD_NOT_ALLOWED'])
    }
  })

  test('an answer to HEAD has no body, so the next answer is not read as one', async () => {
    const connection = await RawConnection.open(service)
    for (const path of ['/v1/keys', '/healthz', '/nothing']) {
      connection.request(`HEAD ${path}`)
      expect((await connection.answer({ bodiless: true })).status).toBe(
        path === '/nothing' ? 404 : 405,
      )
      connection.request('GET /healthz')
      expect((await connection.answer()).body.toString()).toBe('ok\n')
    }
    connection.destroy()
  })

  test('a body that nobody asked for is dropped, and the connection goes on', async () => {
    const connection = await RawConnection.open(service)
    for (const path of ['/v1/nothing', '/healthz', '/v1/encrypt']) {
      // In two pieces, so that what collects bodies would have begun to.
      connection.request(`POST ${path}`, { 'Content-Length': 10 })
      connection.write('hello')
      expect((await connection.answer()).status).toBeGreaterThanOrEqual(401)
      connection.write('world')
      connection.request('GET /v1/nothing')
      const { body } = await connection.answer()
      expect((unpack(body) as Got['body']).code).toBe('ROUTE_NOT_FOUND')
    }
    connection.destroy()
    expect(service.engine.slots.bytesInUse).toBe(0)
  })
})

describe('the unauthorised', () => {
  /** Codes and statuses alone: messages have a request id in common with nobody. */
  const seen = ({ status, body }: Got): unknown => ({ status, code: body.code, said: body.message })

  test('see one answer for keys that are absent, disabled and forbidden', async () => {
    const disabled = await service.createKey()
    await service.call(`keys/${disabled}/disable`, {})
    const own = await service.createKey()
    const token = await tokenFor(['*'], [own])
    const absent = '00000000-0000-4000-8000-000000000000'
    const references = [
      absent,
      disabled,
      keyId,
      'alias/none',
      'no name at all',
      '',
      'arn:aws:kms:x',
    ]
    const asked: readonly ((key: string) => Promise<Got>)[] = [
      (key) =>
        send(service, 'POST', '/v1/encrypt', {
          token,
          fields: { key, plaintexts: [Buffer.from('x')] },
        }),
      (key) =>
        send(service, 'POST', '/v1/data-keys', {
          token,
          fields: { key, count: 1, plaintext: false },
        }),
      (key) =>
        send(service, 'POST', '/v1/re-encrypt', {
          token,
          fields: { key, mode: 'fresh', ciphertexts: [Buffer.from('x')] },
        }),
      (key) => send(service, 'GET', `/v1/keys/${encodeURIComponent(key)}`, { token }),
      (key) => send(service, 'POST', `/v1/keys/${encodeURIComponent(key)}/enable`, { token }),
      (key) => send(service, 'POST', `/v1/keys/${encodeURIComponent(key)}/disable`, { token }),
      (key) => send(service, 'POST', `/v1/keys/${encodeURIComponent(key)}/rotate`, { token }),
      (key) => send(service, 'POST', '/v1/aliases', { token, fields: { alias: 'alias/x', key } }),
      (key) => send(service, 'PUT', '/v1/aliases/alias%2Fnone', { token, fields: { key } }),
      (key) => send(service, 'GET', `/v1/aliases?key=${encodeURIComponent(key)}`, { token }),
    ]
    for (const [i, ask] of asked.entries()) {
      for (const reference of references) {
        // An empty name is no part of a path.
        if (reference === '' && i >= 3 && i <= 6) continue
        expect([i, reference, seen(await ask(reference))]).toEqual([
          i,
          reference,
          { status: 403, code: 'ACCESS_DENIED', said: 'the caller may not do this with this key' },
        ])
      }
    }
    // Who may see every key is told.
    const encrypt = { plaintexts: [Buffer.from('x')] }
    expect((await service.call('encrypt', { ...encrypt, key: absent })).code).toBe(
      'KMS_KEY_NOT_FOUND',
    )
    expect((await service.call('encrypt', { ...encrypt, key: disabled })).code).toBe(
      'KMS_KEY_DISABLED',
    )
  })

  test('see one answer for messages of keys that are disabled and forbidden', async () => {
    const disabled = await service.createKey()
    const plaintexts = [Buffer.from('x')]
    const ciphertexts = []
    for (const key of [disabled, keyId]) {
      ciphertexts.push((await service.call('encrypt', { key, plaintexts })).ciphertexts[0])
    }
    await service.call(`keys/${disabled}/disable`, {})
    const token = await tokenFor(['*'], [await service.createKey()])
    const got = await send(service, 'POST', '/v1/decrypt', { token, fields: { ciphertexts } })
    expect(got.body).toEqual({
      plaintexts: [null, null],
      errors: [
        [0, 'ACCESS_DENIED'],
        [1, 'ACCESS_DENIED'],
      ],
    })
  })

  test('are refused before it is looked at what they sent', async () => {
    for (const token of ['', 'kf_x', `${service.token}x`, service.token.slice(0, -1)]) {
      const got = await send(service, 'POST', '/v1/encrypt', { token, body: 'not MessagePack' })
      expect(got).toMatchObject({ status: 401, body: { code: 'UNAUTHENTICATED' } })
    }
  })

  test.each(['Basic', 'bearer', 'Bearer:', ''])('have not said "%s"', async (scheme) => {
    const got = await send(service, 'GET', '/v1/limits', {
      token: '',
      headers: { authorization: `${scheme} ${service.token}`.trim() },
    })
    expect(got.status).toBe(401)
  })
})

describe('a token that is scoped', () => {
  test('opens its actions on its keys, in a batch of operations too', async () => {
    const other = await service.createKey()
    const token = await tokenFor(['kms:Encrypt'], [keyId])
    const plaintexts = [Buffer.from('x')]
    const sealed = await service.call('encrypt', { key: keyId, plaintexts })
    const got = await send(service, 'POST', '/v1/batch', {
      token,
      fields: [
        { op: 'encrypt', key: keyId, plaintexts },
        { op: 'encrypt', key: other, plaintexts },
        { op: 'decrypt', ciphertexts: sealed.ciphertexts },
        { op: 'data-keys', key: keyId, count: 1, plaintext: false },
        { op: 're-encrypt', key: keyId, mode: 'rewrap', ciphertexts: sealed.ciphertexts },
      ],
    })
    const results = got.body as unknown as readonly Got['body'][]
    expect(results.map(({ code, errors }) => code ?? errors)).toEqual([
      undefined,
      'ACCESS_DENIED',
      [[0, 'ACCESS_DENIED']],
      'ACCESS_DENIED',
      'ACCESS_DENIED',
    ])
  })

  test('without plaintext does not open data keys with it', async () => {
    const token = await tokenFor(['kms:GenerateDataKeyWithoutPlaintext'])
    const ask = (plaintext: boolean): Promise<Got> =>
      send(service, 'POST', '/v1/data-keys', { token, fields: { key: keyId, count: 1, plaintext } })
    expect((await ask(false)).status).toBe(200)
    expect((await ask(true)).status).toBe(403)
  })

  test('opens nothing once it is expired, also where it was just used', async () => {
    const nowMs = Date.now()
    vi.useFakeTimers({ toFake: ['Date'], now: nowMs })
    try {
      const { token } = await service.engine.tokens.create({
        name: 'short',
        actions: ['*'],
        keys: ['*'],
        expiresAtMs: nowMs + 500,
      })
      for (const [atMs, status] of [
        [nowMs, 200],
        [nowMs + 499, 200],
        [nowMs + 500, 401],
      ] as const) {
        vi.setSystemTime(atMs)
        expect((await send(service, 'GET', '/v1/limits', { token })).status).toBe(status)
      }
    } finally {
      vi.useRealTimers()
    }
  })
})
