/** Access keys: what they sign, for how long, and that the catalog of a thief is of no use. */
import { createHash } from 'node:crypto'
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'

import { KeyfoldError } from '../../dist/errors.js'
import type { AccessKeyRecord, AccessKeys, CreatedAccessKey } from '../../dist/kms/access-keys.js'
import { SignatureVerifier } from '../../dist/server/aws/sigv4.js'
import { runInCatalog } from '../catalog/file.ts'
import { sign } from '../server/aws/signer.ts'
import { filesOf, startService, type Service } from '../service.ts'

const ROOT = 'arn:aws:iam::000000000000:root'
const USER = 'arn:aws:iam::000000000000:user/app'

let service: Service
let accessKeys: AccessKeys

beforeAll(async () => {
  service = await startService()
  accessKeys = service.engine.accessKeys
})
afterAll(() => service.close())
afterEach(() => {
  vi.useRealTimers()
})

/** A verifier as a server has one: it forgets what it derived when access keys change. */
function verifierOf(keys: AccessKeys): SignatureVerifier {
  const verifier = new SignatureVerifier({
    service: 'kms',
    regions: new Set(['us-east-1']),
    lookUp: (id) => keys.find(id),
  })
  keys.onChange(() => verifier.forget())
  return verifier
}

/** Signs a request with what was answered, and gives the ARN of whom it was taken for, or the error's code. */
function signedBy(
  created: Pick<CreatedAccessKey, 'secretAccessKey' | 'sessionToken' | 'record'>,
  verifier = verifierOf(accessKeys),
): string {
  const { secretAccessKey, sessionToken, record } = created
  const nowMs = Date.now()
  const request = sign({
    secret: secretAccessKey,
    accessKeyId: record.accessKeyId,
    signedAt: `${new Date(nowMs).toISOString().slice(0, 19).replaceAll(/[-:]/g, '')}Z`,
    body: '{}',
    headers: sessionToken === undefined ? {} : { 'x-amz-security-token': sessionToken },
  })
  try {
    return verifier.verify(verifier.read(request, nowMs), request.body).principal.arn
  } catch (error) {
    if (error instanceof KeyfoldError) return error.code
    throw error
  }
}

interface Got {
  readonly status: number
  readonly body: {
    readonly code?: string
    readonly accessKeyId: string
    readonly secretAccessKey: string
    readonly sessionToken?: string
    readonly accessKeys?: readonly AccessKeyRecord[]
  }
}

async function request(
  token: string | undefined,
  method: 'GET' | 'POST' | 'DELETE',
  path: string,
  fields?: unknown,
): Promise<Got> {
  const response = await fetch(`${service.url}/v1/${path}`, {
    method,
    headers: {
      accept: 'application/json',
      'content-type': 'application/json',
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    },
    ...(fields === undefined ? {} : { body: JSON.stringify(fields) }),
  })
  return { status: response.status, body: (await response.json()) as Got['body'] }
}

/** What POST /v1/access-keys answers, as the engine would. */
const asCreated = ({ body }: Got): Parameters<typeof signedBy>[0] => ({
  secretAccessKey: body.secretAccessKey,
  sessionToken: body.sessionToken,
  record: { accessKeyId: body.accessKeyId } as AccessKeyRecord,
})

/** A service on a copy of the data directory, after these statements. */
async function withCopy(
  statements: readonly string[],
  work: (keys: AccessKeys) => void | Promise<void>,
): Promise<void> {
  const copy = mkdtempSync(join(tmpdir(), 'keyfold-access-keys-'))
  try {
    cpSync(service.dataDirectory, copy, { recursive: true })
    if (statements.length > 0) runInCatalog(copy, ...statements)
    const restarted = await startService({ filesFrom: copy })
    try {
      await work(restarted.engine.accessKeys)
    } finally {
      await restarted.close()
    }
  } finally {
    rmSync(copy, { recursive: true, force: true })
  }
}

describe('an access key', () => {
  test('looks like one of AWS, is shown once, and signs for its principal', async () => {
    const got = await request(service.token, 'POST', 'access-keys', { principal: USER })
    expect(got.status).toBe(200)
    expect(Object.keys(got.body).sort()).toEqual(['accessKeyId', 'secretAccessKey'])
    const { accessKeyId, secretAccessKey } = got.body
    expect(accessKeyId).toMatch(/^AKIA[A-Z2-7]{16}$/)
    expect(secretAccessKey).toMatch(/^[A-Za-z0-9+/]{40}$/)
    expect(signedBy(asCreated(got))).toBe(USER)
    const listed = await request(service.token, 'GET', 'access-keys')
    expect(listed.body.accessKeys).toContainEqual({
      accessKeyId,
      principal: USER,
      temporary: false,
      createdAtMs: expect.any(Number) as number,
    })
    expect(JSON.stringify(listed.body)).not.toContain(secretAccessKey)
  })

  test('is unlike every other', async () => {
    const made = await Promise.all(
      Array.from({ length: 50 }, () => accessKeys.create({ principalArn: USER })),
    )
    expect(new Set(made.map(({ record }) => record.accessKeyId)).size).toBe(50)
    expect(new Set(made.map(({ secretAccessKey }) => secretAccessKey)).size).toBe(50)
    const [one, other] = made as [CreatedAccessKey, CreatedAccessKey]
    const mixed = { ...one, record: other.record }
    expect(signedBy(mixed)).toBe('REQUEST_SIGNATURE_INVALID')
  })

  test('may do what policies say: of itself it limits nothing', async () => {
    const { record } = await accessKeys.create({ principalArn: USER })
    expect(accessKeys.find(record.accessKeyId)?.principal).toEqual({
      arn: USER,
      credential: 'access-key',
      tokenId: record.accessKeyId,
      actions: ['*'],
      keys: ['*'],
      expiresAtMs: undefined,
    })
  })

  test('of a session signs with its token only, and needs an end', async () => {
    const fields = { principal: USER, temporary: true }
    const endless = await request(service.token, 'POST', 'access-keys', fields)
    expect([endless.status, endless.body.code]).toEqual([400, 'REQUEST_MALFORMED'])
    const got = await request(service.token, 'POST', 'access-keys', {
      ...fields,
      expiresInSeconds: 3_600,
    })
    const created = asCreated(got)
    expect(got.body.accessKeyId).toMatch(/^ASIA[A-Z2-7]{16}$/)
    expect(got.body.sessionToken).toMatch(/^[A-Za-z0-9+/]{64}$/)
    expect(signedBy(created)).toBe(USER)
    expect(signedBy({ ...created, sessionToken: undefined })).toBe('ACCESS_KEY_UNKNOWN')
    const other = await accessKeys.create({
      principalArn: USER,
      temporary: true,
      expiresAtMs: Date.now() + 60_000,
    })
    const exchanged = { ...created, sessionToken: other.sessionToken }
    expect(signedBy(exchanged)).toBe('ACCESS_KEY_UNKNOWN')
  })

  test('is nowhere on disk: neither secret nor session token, in any spelling', async () => {
    const { secretAccessKey, sessionToken, record } = await accessKeys.create({
      principalArn: USER,
      temporary: true,
      expiresAtMs: Date.now() + 60_000,
    })
    const files = filesOf(service.dataDirectory)
    const holds = (bytes: Buffer | string): boolean => files.some((file) => file.includes(bytes))
    expect(holds(record.accessKeyId)).toBe(true)
    expect(
      holds(
        createHash('sha256')
          .update(sessionToken ?? '')
          .digest(),
      ),
    ).toBe(true)
    for (const text of [secretAccessKey, sessionToken ?? '']) {
      for (const part of [text, text.slice(0, 20), text.slice(20)]) {
        expect(holds(part)).toBe(false)
        expect(holds(Buffer.from(part).toString('base64').slice(0, 24))).toBe(false)
        expect(holds(Buffer.from(part, 'base64').subarray(0, 12))).toBe(false)
        expect(holds(Buffer.from(part, 'base64').toString('hex'))).toBe(false)
        expect(holds(Buffer.from(part).toString('hex'))).toBe(false)
      }
    }
  })

  test('shows its secret to no log, and opens it in a copy that can be wiped', async () => {
    const { secretAccessKey, record } = await accessKeys.create({ principalArn: USER })
    const accessKey = accessKeys.find(record.accessKeyId)
    const secret = accessKey?.openSecret() as Uint8Array
    expect(Buffer.from(secret).toString()).toBe(secretAccessKey)
    const shown = [accessKey, accessKeys, service.engine, verifierOf(accessKeys)].map(
      (holder) => inspect(holder, { depth: 9, showHidden: true }) + JSON.stringify(holder),
    )
    expect(shown.join()).not.toContain(secretAccessKey)
    secret.fill(0)
    expect(Buffer.from(accessKey?.openSecret() as Uint8Array).toString()).toBe(secretAccessKey)
  })
})

describe('managing access keys', () => {
  test('needs a token, and one with the right to', async () => {
    const before = accessKeys.list().length
    const scoped = async (...actions: string[]): Promise<string> =>
      (await service.engine.tokens.create({ name: 'n', actions, keys: ['*'] })).token
    const others = await scoped('kms:*', 'keyfold:ManageTokens', 'keyfold:Lock')
    const id = accessKeys.list()[0]?.accessKeyId ?? ''
    for (const [method, path, fields] of [
      ['GET', 'access-keys', undefined],
      ['POST', 'access-keys', { principal: ROOT }],
      ['DELETE', `access-keys/${id}`, undefined],
    ] as const) {
      expect((await request(undefined, method, path, fields)).body.code).toBe('UNAUTHENTICATED')
      const got = await request(others, method, path, fields)
      expect([got.status, got.body.code], path).toEqual([403, 'ACCESS_DENIED'])
    }
    expect(accessKeys.list()).toHaveLength(before)
    const manager = await scoped('keyfold:ManageAccessKeys')
    expect((await request(manager, 'GET', 'access-keys')).status).toBe(200)
    expect((await request(manager, 'GET', 'tokens')).status).toBe(403)
  })

  test('refuses what is not well formed, and keeps nothing of it', async () => {
    const before = accessKeys.list().length
    for (const wrong of [
      {},
      { principal: 7 },
      { principal: '' },
      { principal: 'app' },
      { principal: 'arn:aws:iam::1:root' },
      { principal: 'arn:aws:iam::000000000000:root\n' },
      { principal: USER, temporary: 'yes', expiresInSeconds: 60 },
      { principal: USER, expiresInSeconds: '60' },
      { principal: USER, expiresInSeconds: 0 },
      { principal: USER, expiresInSeconds: -1 },
      { principal: USER, expiresInSeconds: 0.0001 },
      { principal: USER, expiresInSeconds: 1e300 },
      { principal: USER, actions: ['*'] },
      { principal: USER, secretAccessKey: 'x'.repeat(40) },
    ]) {
      const got = await request(service.token, 'POST', 'access-keys', wrong)
      expect([got.status, got.body.code], JSON.stringify(wrong)).toEqual([400, 'REQUEST_MALFORMED'])
    }
    expect(accessKeys.list()).toHaveLength(before)
  })
})

describe('the end of an access key', () => {
  test('by revocation is at once, for verifiers that are warm too, and others go on', async () => {
    const [one, other] = [
      await accessKeys.create({ principalArn: USER }),
      await accessKeys.create({ principalArn: ROOT }),
    ]
    const verifier = verifierOf(accessKeys)
    for (let i = 0; i < 2; i++) expect(signedBy(one, verifier)).toBe(USER)
    const path = `access-keys/${one.record.accessKeyId}`
    expect((await request(service.token, 'DELETE', path)).status).toBe(200)
    expect(signedBy(one, verifier)).toBe('ACCESS_KEY_UNKNOWN')
    expect(signedBy(other, verifier)).toBe(ROOT)
    expect(accessKeys.find(one.record.accessKeyId)).toBeUndefined()
  })

  test('by revocation is final, keeps its first date, and leaves no secret in the catalog', async () => {
    const created = await accessKeys.create({ principalArn: USER })
    const { accessKeyId } = created.record
    await accessKeys.revoke(accessKeyId)
    const dateOf = (): number | undefined =>
      accessKeys.list().find((record) => record.accessKeyId === accessKeyId)?.revokedAtMs
    const first = dateOf()
    expect(first).toBeTypeOf('number')
    vi.useFakeTimers({ now: Date.now() + 60_000, toFake: ['Date'] })
    await accessKeys.revoke(accessKeyId)
    expect(dateOf()).toBe(first)
    vi.useRealTimers()
    const undone = `update "accessKeys" set "revokedAtMs" = null where id = '${accessKeyId}'`
    await withCopy([undone], (keys) => {
      expect(keys.find(accessKeyId)).toBeDefined()
      expect(signedBy(created, verifierOf(keys))).toBe('ROOT_KEY_INVALID')
    })
  })

  test('is told of unknown ids', async () => {
    for (const unknown of ['AKIAAAAAAAAAAAAAAAAA', 'nonsense', '%27', 'toString']) {
      const got = await request(service.token, 'DELETE', `access-keys/${unknown}`)
      expect([got.status, got.body.code]).toEqual([404, 'ACCESS_KEY_NOT_FOUND'])
    }
  })

  test('by its date is exact to the millisecond', async () => {
    const expiresAtMs = Date.now() + 3_600_000
    const created = await accessKeys.create({ principalArn: USER, expiresAtMs })
    const verifier = verifierOf(accessKeys)
    vi.useFakeTimers({ now: expiresAtMs - 1, toFake: ['Date'] })
    expect(signedBy(created, verifier)).toBe(USER)
    vi.setSystemTime(expiresAtMs)
    expect(signedBy(created, verifier)).toBe('SESSION_EXPIRED')
  })

  test('survives a restart, as does everything else about access keys', async () => {
    const alive = await accessKeys.create({ principalArn: USER })
    const revoked = await accessKeys.create({ principalArn: USER })
    await accessKeys.revoke(revoked.record.accessKeyId)
    const session = await accessKeys.create({
      principalArn: ROOT,
      temporary: true,
      expiresAtMs: Date.now() + 3_600_000,
    })
    await withCopy([], (keys) => {
      const verifier = verifierOf(keys)
      expect(signedBy(alive, verifier)).toBe(USER)
      expect(signedBy(session, verifier)).toBe(ROOT)
      expect(signedBy({ ...session, sessionToken: undefined }, verifier)).toBe('ACCESS_KEY_UNKNOWN')
      expect(signedBy(revoked, verifier)).toBe('ACCESS_KEY_UNKNOWN')
      const byId = (records: readonly AccessKeyRecord[]): readonly AccessKeyRecord[] =>
        [...records].sort((one, other) => (one.accessKeyId < other.accessKeyId ? -1 : 1))
      expect(byId(keys.list())).toEqual(byId(accessKeys.list()))
      vi.useFakeTimers({ now: Date.now() + 3_600_001, toFake: ['Date'] })
      expect(signedBy(session, verifier)).toBe('SESSION_EXPIRED')
    })
  })
})

describe('rows in the catalog', () => {
  const table = '"accessKeys"'
  const where = ({ record }: CreatedAccessKey): string => `where id = '${record.accessKeyId}'`
  const secretOf = (key: CreatedAccessKey): string =>
    `(select "sealedSecret" from ${table} ${where(key)})`

  test('that were exchanged, changed or given to another principal verify nothing, and the rest goes on', async () => {
    const [one, other, untouched] = [
      await accessKeys.create({ principalArn: USER }),
      await accessKeys.create({ principalArn: USER }),
      await accessKeys.create({ principalArn: USER }),
    ]
    const expectRefused = (keys: AccessKeys, ...broken: readonly CreatedAccessKey[]): void => {
      const verifier = verifierOf(keys)
      for (const each of broken) expect(signedBy(each, verifier)).toBe('ROOT_KEY_INVALID')
      expect(signedBy(untouched, verifier)).toBe(USER)
    }
    const exchange = [
      `create temp table kept as select ${secretOf(one)} as secret`,
      `update ${table} set "sealedSecret" = ${secretOf(other)} ${where(one)}`,
      `update ${table} set "sealedSecret" = (select secret from kept) ${where(other)}`,
    ]
    await withCopy(exchange, (keys) => {
      expectRefused(keys, one, other)
      // Nor does the secret that was moved there sign under the other id.
      expect(signedBy({ ...one, record: other.record }, verifierOf(keys))).toBe('ROOT_KEY_INVALID')
    })
    const promoted = `update ${table} set "principalArn" = '${ROOT}' ${where(one)}`
    await withCopy([promoted], (keys) => expectRefused(keys, one))
    for (const stored of [`x''`, `x'F1'`, `zeroblob(86)`, `'text'`]) {
      const changed = `update ${table} set "sealedSecret" = ${stored} ${where(one)}`
      await withCopy([changed], (keys) => expectRefused(keys, one))
    }
  })
})

describe('locking', () => {
  test('ends every signature at once, for verifiers that are warm too, and no access key is made any more', async () => {
    const locked = await startService()
    try {
      const keys = locked.engine.accessKeys
      const created = await keys.create({ principalArn: USER })
      const verifier = verifierOf(keys)
      expect(signedBy(created, verifier)).toBe(USER)
      const accessKey = keys.find(created.record.accessKeyId)
      locked.engine.lock()
      expect(signedBy(created, verifier)).toBe('LOCKED')
      expect(() => accessKey?.openSecret()).toThrow(KeyfoldError)
      const before = keys.list().length
      await expect(keys.create({ principalArn: USER })).rejects.toMatchObject({ code: 'LOCKED' })
      expect(keys.list()).toHaveLength(before)
    } finally {
      await locked.close()
    }
  })
})
