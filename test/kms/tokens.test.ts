/** Tokens: what they open, for how long, and that the catalog of a thief contains none of them. */
import { createHash } from 'node:crypto'
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'

import type { Action, KmsKey, Principal } from '../../dist/kms/kms-key.js'
import { isWithinLists } from '../../dist/kms/policy/decide.js'
import type { NewToken, TokenRecord } from '../../dist/kms/tokens.js'
import { filesOf, startService, type Service } from '../service.ts'

let service: Service
let keyA: string
let keyB: string

beforeAll(async () => {
  service = await startService()
  keyA = await service.createKey()
  keyB = await service.createKey()
})
afterAll(() => service.close())
afterEach(() => {
  vi.useRealTimers()
})

const text = Buffer.from('plaintext').toString('base64')

interface Got {
  readonly status: number
  readonly body: {
    readonly code?: string
    readonly message?: string
    readonly ciphertexts?: readonly string[]
    readonly plaintexts?: readonly (string | null)[]
    readonly errors?: readonly (readonly [number, string])[]
    readonly token: string
    readonly tokenId: string
    readonly tokens?: readonly TokenRecord[]
  }
}

async function request(
  authorization: string | undefined,
  method: 'GET' | 'POST' | 'DELETE',
  path: string,
  fields?: unknown,
): Promise<Got> {
  const response = await fetch(`${service.url}/v1/${path}`, {
    method,
    headers: {
      accept: 'application/json',
      'content-type': 'application/json',
      ...(authorization === undefined ? {} : { authorization }),
    },
    ...(fields === undefined ? {} : { body: JSON.stringify(fields) }),
  })
  return { status: response.status, body: (await response.json()) as Got['body'] }
}

const as = (
  token: string,
  method: 'GET' | 'POST' | 'DELETE',
  path: string,
  fields?: unknown,
): Promise<Got> => request(`Bearer ${token}`, method, path, fields)
const encrypt = (token: string, key: string): Promise<Got> =>
  as(token, 'POST', 'encrypt', { key, plaintexts: [text] })

async function createToken(fields: Partial<NewToken>): Promise<{ id: string; token: string }> {
  const { token, record } = await service.engine.tokens.create({
    name: 'test',
    actions: ['kms:*'],
    keys: ['*'],
    ...fields,
  })
  return { id: record.tokenId, token }
}

describe('a token', () => {
  test('has an id of 9 and a secret of 32 random bytes, and is shown once', async () => {
    const made = await as(service.token, 'POST', 'tokens', {
      name: 'shown',
      actions: ['kms:Encrypt'],
      keys: [keyA],
    })
    const { token, tokenId } = made.body
    expect(token).toMatch(/^kf_[0-9a-f]{18}_[A-Za-z0-9_-]{43}$/)
    expect(token.slice(3, 21)).toBe(tokenId)
    const { body } = await as(service.token, 'GET', 'tokens')
    const listed = body.tokens?.find((record) => record.tokenId === tokenId)
    expect(listed).toMatchObject({
      name: 'shown',
      principal: 'arn:aws:iam::000000000000:user/shown',
      actions: ['kms:Encrypt'],
      keys: [keyA],
    })
    expect(JSON.stringify(body)).not.toContain(token.slice(22))
  })

  test('is nowhere in the catalog; the SHA-256 of its secret is', async () => {
    const { token } = await createToken({ name: 'kept' })
    await encrypt(token, keyA)
    const secret = token.slice(22)
    const files = filesOf(service.dataDirectory)
    const holds = (bytes: Buffer | string): boolean => files.some((file) => file.includes(bytes))
    expect(holds(createHash('sha256').update(secret).digest())).toBe(true)
    expect(holds(secret)).toBe(false)
    expect(holds(Buffer.from(secret, 'base64url'))).toBe(false)
    expect(holds(Buffer.from(secret, 'base64url').toString('hex'))).toBe(false)
  })

  test('is read after Bearer and nowhere else, whole and as it was written', async () => {
    const { token } = await createToken({})
    const [id, secret] = [token.slice(3, 21), token.slice(22)]
    const other = await createToken({})
    const flipped = (at: number): string =>
      token.slice(0, at) + (token[at] === 'a' ? 'b' : 'a') + token.slice(at + 1)
    // 32 bytes leave 2 bits of the last base64url digit unused: four spellings of one secret.
    const digits = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
    const last = digits.indexOf(token.at(-1) as string)
    const respelt = token.slice(0, -1) + (digits[last ^ 1] as string)
    expect(Buffer.from(respelt.slice(22), 'base64url')).toEqual(Buffer.from(secret, 'base64url'))
    const wrong: (string | undefined)[] = [
      undefined,
      '',
      'Bearer',
      'Bearer ',
      token,
      `bearer ${token}`,
      `BEARER ${token}`,
      `Bearer\t${token}`,
      `Bearer  ${token}`,
      `Basic ${token}`,
      `Token ${token}`,
      `Basic ${Buffer.from(`:${token}`).toString('base64')}`,
      ...[
        `${token}x`,
        token.slice(0, -1),
        token.toUpperCase(),
        `${token},${token}`,
        `${token} ${token}`,
        `kf_${id}_`,
        `kf_${id}`,
        `kf__${secret}`,
        `kf_${id}_${secret}=`,
        `kf_${id.toUpperCase()}_${secret}`,
        `KF_${id}_${secret}`,
        `kf-${id}-${secret}`,
        `kf_${other.id}_${secret}`,
        `kf_${id}_${other.token.slice(22)}`,
        `kf_${'0'.repeat(18)}_${secret}`,
        `kf_${id}_${createHash('sha256').update(secret).digest('base64url')}`,
        `kf_${id}_${'A'.repeat(43)}`,
        respelt,
        flipped(3),
        flipped(21),
        flipped(22),
        flipped(64),
        `kf_${id}_${secret}${'x'.repeat(3_000)}`,
      ].map((spelling) => `Bearer ${spelling}`),
    ]
    const { status } = await encrypt(token, keyA)
    expect(status).toBe(200)
    for (const authorization of wrong) {
      const got = await request(authorization, 'POST', 'encrypt', { key: keyA, plaintexts: [text] })
      expect([got.status, got.body.code], authorization).toEqual([401, 'UNAUTHENTICATED'])
    }
    // Those that failed have locked nobody out.
    expect((await encrypt(token, keyA)).status).toBe(200)
  })

  test('is needed by every route of the API', async () => {
    for (const [method, path] of [
      ['POST', 'encrypt'],
      ['POST', 'decrypt'],
      ['POST', 're-encrypt'],
      ['POST', 'data-keys'],
      ['POST', 'batch'],
      ['POST', 'keys'],
      ['GET', 'keys'],
      ['GET', `keys/${keyA}`],
      ['POST', `keys/${keyA}/disable`],
      ['GET', 'aliases'],
      ['GET', 'tokens'],
      ['POST', 'tokens'],
      ['POST', 'lock'],
      ['GET', 'limits'],
    ] as const) {
      const got = await request(undefined, method, path, method === 'GET' ? undefined : {})
      expect([got.status, got.body.code], path).toEqual([401, 'UNAUTHENTICATED'])
    }
    expect((await service.engine.kms.describeKey(keyA)).state).toBe('Enabled')
  })
})

describe('scope', () => {
  test('of actions: one operation allowed is no other', async () => {
    const { token } = await createToken({ actions: ['kms:Encrypt'] })
    const sealed = await encrypt(token, keyA)
    expect(sealed.status).toBe(200)
    const ciphertexts = sealed.body.ciphertexts as readonly string[]
    const opened = await as(token, 'POST', 'decrypt', { ciphertexts })
    expect(opened.body.plaintexts).toEqual([null])
    expect(opened.body.errors).toEqual([[0, 'ACCESS_DENIED']])
    for (const [method, path, fields] of [
      ['POST', 're-encrypt', { key: keyA, ciphertexts, mode: 'rewrap' }],
      ['POST', 'data-keys', { key: keyA, count: 1, plaintext: true }],
      ['POST', 'data-keys', { key: keyA, count: 1, plaintext: false }],
      ['POST', 'keys', {}],
      ['GET', 'keys', undefined],
      ['GET', `keys/${keyA}`, undefined],
      ['POST', `keys/${keyA}/disable`, {}],
      ['POST', `keys/${keyA}/enable`, {}],
      ['POST', `keys/${keyA}/rotate`, {}],
      ['POST', 'aliases', { alias: 'alias/a', key: keyA }],
      ['GET', 'aliases', undefined],
      ['GET', 'tokens', undefined],
      ['POST', 'tokens', { name: 'more', actions: ['*'], keys: ['*'] }],
      ['DELETE', 'tokens/000000000000000000', undefined],
      ['POST', 'lock', {}],
    ] as const) {
      const got = await as(token, method, path, fields)
      expect([got.status, got.body.code], path).toEqual([403, 'ACCESS_DENIED'])
    }
    expect(service.engine.locked).toBe(false)
  })

  test('of actions: data keys with and without plaintext are two rights', async () => {
    const generate = (token: string, plaintext: boolean): Promise<Got> =>
      as(token, 'POST', 'data-keys', { key: keyA, count: 1, plaintext })
    const seen = await createToken({ actions: ['kms:GenerateDataKey'] })
    const unseen = await createToken({ actions: ['kms:GenerateDataKeyWithoutPlaintext'] })
    expect((await generate(seen.token, true)).status).toBe(200)
    expect((await generate(seen.token, false)).status).toBe(403)
    expect((await generate(unseen.token, true)).status).toBe(403)
    expect((await generate(unseen.token, false)).status).toBe(200)
  })

  test('of all KMS actions manages no tokens and locks nothing', async () => {
    const { token } = await createToken({ actions: ['kms:*'] })
    expect((await as(token, 'GET', 'tokens')).status).toBe(403)
    expect((await as(token, 'POST', 'lock', {})).status).toBe(403)
    expect((await as(token, 'GET', 'keys')).status).toBe(200)
  })

  test.each([
    ['a key id', () => keyA],
    ['an ARN', () => `arn:aws:kms:us-east-1:000000000000:key/${keyA}`],
    ['a pattern of ARNs', () => `arn:*:key/${keyA.slice(0, 8)}*`],
  ])('of keys by %s reaches that key and no other', async (_, pattern) => {
    const { token } = await createToken({ keys: [pattern()] })
    const sealed = await encrypt(token, keyA)
    expect(sealed.status).toBe(200)
    expect((await encrypt(token, keyB)).body.code).toBe('ACCESS_DENIED')
    const theirs = await encrypt(service.token, keyB)
    const mixed = [...(sealed.body.ciphertexts ?? []), ...(theirs.body.ciphertexts ?? [])]
    const opened = await as(token, 'POST', 'decrypt', { ciphertexts: mixed })
    expect(opened.body.plaintexts).toEqual([text, null])
    expect(opened.body.errors).toEqual([[1, 'ACCESS_DENIED']])
  })

  test('of keys does not tell an absent, a disabled and a forbidden key apart', async () => {
    const disabled = await service.createKey()
    await service.engine.kms.disableKey(disabled)
    const { token } = await createToken({ keys: [keyA] })
    const absent = '00000000-0000-4000-8000-000000000000'
    const answers = [absent, disabled, keyB, 'alias/absent', 'nonsense']
    for (const path of ['encrypt', 'describe'] as const) {
      const seen = new Set<string>()
      for (const key of answers) {
        const got =
          path === 'encrypt'
            ? await encrypt(token, key)
            : await as(token, 'GET', `keys/${encodeURIComponent(key)}`)
        seen.add(JSON.stringify([got.status, got.body.code, got.body.message]))
      }
      expect([...seen]).toHaveLength(1)
      expect([...seen][0]).toContain('ACCESS_DENIED')
    }
  })

  test('is checked when a token is made, and what is refused is not kept', async () => {
    const before = service.engine.tokens.list().length
    const good = { name: 'n', actions: ['kms:Encrypt'], keys: ['*'] }
    for (const wrong of [
      { name: '' },
      { name: 'n'.repeat(65) },
      { name: 'a b' },
      { name: 'a/b' },
      { name: 'ä' },
      { name: 7 },
      { actions: [] },
      { actions: [''] },
      { actions: 'kms:Encrypt' },
      { actions: [7] },
      { actions: Array.from({ length: 65 }, () => 'kms:Encrypt') },
      { keys: [] },
      { keys: [''] },
      { keys: ['k'.repeat(2_049)] },
      { principal: 'root' },
      { principal: 'arn:aws:iam::1:root' },
      { principal: 'arn:aws:iam::000000000000:root\n' },
      { principal: 'arn:aws:iam::000000000000:group/g' },
      { expiresInSeconds: '60' },
      { expires: 60 },
      { name: undefined },
      { actions: undefined },
      { keys: undefined },
    ]) {
      const got = await as(service.token, 'POST', 'tokens', { ...good, ...wrong })
      expect([got.status, got.body.code], JSON.stringify(wrong)).toEqual([400, 'REQUEST_MALFORMED'])
    }
    expect(service.engine.tokens.list()).toHaveLength(before)
    const most = {
      name: 'a+=,.@-_Z'.padEnd(64, '9'),
      actions: Array.from({ length: 64 }, () => 'kms:Encrypt'),
      keys: ['k'.repeat(2_048), '*'],
      principal: 'arn:aws:iam::000000000000:role/a/b',
    }
    const got = await as(service.token, 'POST', 'tokens', most)
    expect((await encrypt(got.body.token, keyA)).status).toBe(200)
  })
})

describe('the end of a token', () => {
  test('by revocation is at once, also on a connection that is open and warm', async () => {
    const { token, id } = await createToken({})
    for (let i = 0; i < 3; i++) expect((await encrypt(token, keyA)).status).toBe(200)
    const revoked = await as(service.token, 'DELETE', `tokens/${id}`)
    expect(revoked.status).toBe(200)
    expect((await encrypt(token, keyA)).status).toBe(401)
    expect((await encrypt(service.token, keyA)).status).toBe(200)
  })

  test('by revocation is final, keeps its first date, and is told of unknown tokens', async () => {
    const { id } = await createToken({})
    await service.engine.tokens.revoke(id)
    const dateOf = (): number | undefined =>
      service.engine.tokens.list().find(({ tokenId }) => tokenId === id)?.revokedAtMs
    const first = dateOf()
    expect(first).toBeTypeOf('number')
    vi.useFakeTimers({ now: Date.now() + 60_000, toFake: ['Date'] })
    await service.engine.tokens.revoke(id)
    expect(dateOf()).toBe(first)
    for (const unknown of ['000000000000000000', 'nonsense', '%27', `${id}0`]) {
      const got = await as(service.token, 'DELETE', `tokens/${unknown}`)
      expect([got.status, got.body.code]).toEqual([404, 'TOKEN_NOT_FOUND'])
    }
  })

  test('by its date is exact to the millisecond, remembered or not', async () => {
    const expiresAtMs = Date.now() + 3_600_000
    const { token } = await createToken({ expiresAtMs })
    const unused = await createToken({ expiresAtMs })
    vi.useFakeTimers({ now: expiresAtMs - 1, toFake: ['Date'] })
    expect((await encrypt(token, keyA)).status).toBe(200)
    vi.setSystemTime(expiresAtMs)
    expect((await encrypt(token, keyA)).status).toBe(401)
    expect((await encrypt(unused.token, keyA)).status).toBe(401)
    expect((await encrypt(service.token, keyA)).status).toBe(200)
  })

  test('is as many seconds away as were asked for, within what a date can be', async () => {
    vi.useFakeTimers({ now: Date.now(), toFake: ['Date'] })
    const make = (expiresInSeconds: unknown): Promise<Got> =>
      as(service.token, 'POST', 'tokens', {
        name: 'short',
        actions: ['kms:*'],
        keys: ['*'],
        expiresInSeconds,
      })
    const { token } = (await make(60)).body
    expect((await encrypt(token, keyA)).status).toBe(200)
    vi.setSystemTime(Date.now() + 60_000)
    expect((await encrypt(token, keyA)).status).toBe(401)
    for (const wrong of [0, -1, 0.0001, 1.0001, 2 ** 43, Number.MAX_SAFE_INTEGER, 1e300, null]) {
      const got = await make(wrong)
      expect([got.status, got.body.code], String(wrong)).toEqual([400, 'REQUEST_MALFORMED'])
    }
  })

  test('survives a restart, as does everything else about tokens', async () => {
    const alive = await createToken({ name: 'alive', keys: [keyA] })
    const revoked = await createToken({ name: 'revoked' })
    const expiring = await createToken({ name: 'expiring', expiresAtMs: Date.now() + 3_600_000 })
    await service.engine.tokens.revoke(revoked.id)
    const copy = mkdtempSync(join(tmpdir(), 'keyfold-tokens-'))
    cpSync(service.dataDirectory, copy, { recursive: true })
    const restarted = await startService({ filesFrom: copy })
    try {
      const { tokens } = restarted.engine
      expect(tokens.authenticate(alive.token)?.keys).toEqual([keyA])
      expect(tokens.authenticate(revoked.token)).toBeUndefined()
      expect(tokens.authenticate(expiring.token)).toBeDefined()
      const sorted = (records: readonly TokenRecord[]): TokenRecord[] =>
        [...records].sort((one, other) => (one.tokenId < other.tokenId ? -1 : 1))
      // The restarted one made a token for itself.
      expect(sorted(tokens.list())).toEqual(
        expect.arrayContaining(sorted(service.engine.tokens.list())),
      )
      vi.useFakeTimers({ now: Date.now() + 3_600_001, toFake: ['Date'] })
      expect(tokens.authenticate(expiring.token)).toBeUndefined()
    } finally {
      await restarted.close()
      rmSync(copy, { recursive: true, force: true })
    }
  })
})

describe('a pattern', () => {
  test('of keys never matches by prefix, case or part', () => {
    const kmsKey = {
      id: keyA,
      keyId: keyA,
      arn: `arn:aws:kms:us-east-1:000000000000:key/${keyA}`,
    } as KmsKey
    const allowed = (keys: readonly string[], actions: readonly string[] = ['kms:*']): boolean => {
      const principal: Principal = {
        arn: '',
        credential: 'token',
        tokenId: '',
        actions,
        keys,
        expiresAtMs: undefined,
      }
      return isWithinLists(principal, { action: 'kms:Encrypt' as Action, kmsKey })
    }
    for (const keys of [['*'], [keyA], [keyB, keyA], ['arn:aws:kms:*'], [`*/${keyA}`]]) {
      expect(allowed(keys), keys.join()).toBe(true)
    }
    for (const keys of [
      [],
      [''],
      [keyA.slice(0, 8)],
      [`${keyA.slice(0, 8)}*`],
      [keyA.slice(1)],
      [`${keyA}*x`],
      ['alias/a'],
      ['arn:aws:kms:us-east-2:*'],
      ['arn:aws:kms'],
      ['?'],
      ['.*'],
    ]) {
      expect(allowed(keys), keys.join()).toBe(false)
    }
    for (const actions of [['*'], ['kms:*'], ['kms:Enc*'], ['*:Encrypt'], ['kms:Encrypt']]) {
      expect(allowed(['*'], actions), actions.join()).toBe(true)
    }
    for (const actions of [
      [],
      ['kms:'],
      ['KMS:*'],
      ['kms:encrypt'],
      ['kms:Decrypt'],
      ['Encrypt'],
      ['kms:Encrypt2'],
    ]) {
      expect(allowed(['*'], actions), actions.join()).toBe(false)
    }
  })
})
