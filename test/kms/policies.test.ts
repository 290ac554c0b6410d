/** Policies over the front door: put, in force at once on every path to a key, explained, and kept. */
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { EncryptCommand } from '@aws-sdk/client-kms'
import { Packr, unpack } from 'msgpackr'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'

import { clientAs } from '../server/aws/clients.ts'
import { startService, type Service } from '../service.ts'
import { allow, deny, documentOf, to, type StatementJson } from './policy/samples.ts'

let service: Service

beforeAll(async () => {
  service = await startService()
})
afterAll(() => service.close())

const ACCOUNT = '000000000000'
const ROOT = `arn:aws:iam::${ACCOUNT}:root`
const userArn = (name: string): string => `arn:aws:iam::${ACCOUNT}:user/${name}`
const DELEGATE = allow(to(ROOT))
const plaintexts = [Buffer.from('plaintext').toString('base64')]

interface Answer {
  readonly status: number
  readonly code?: string
  readonly message?: string
  readonly policy?: string
  readonly allowed?: boolean
  readonly by?: Readonly<Record<string, string>>
  readonly reason?: string
  readonly keyId?: string
  readonly ciphertexts?: readonly string[]
  readonly plaintexts?: readonly (string | null)[]
  readonly errors?: readonly (readonly [number, string])[]
  readonly policies?: readonly object[]
}

type Method = 'GET' | 'POST' | 'PUT' | 'DELETE'

async function as(
  token: string,
  method: Method,
  path: string,
  fields?: Readonly<Record<string, unknown>>,
): Promise<Answer> {
  const response = await fetch(`${service.url}/v1/${path}`, {
    method,
    headers: {
      authorization: `Bearer ${token}`,
      'content-type': 'application/json',
      accept: 'application/json',
    },
    ...(fields === undefined ? {} : { body: JSON.stringify(fields) }),
  })
  return { status: response.status, ...((await response.json()) as object) }
}

const admin = (method: Method, path: string, fields?: Readonly<Record<string, unknown>>) =>
  as(service.token, method, path, fields)

async function tokenOf(name: string, actions = ['kms:*'], keys = ['*']): Promise<string> {
  const { token } = await service.engine.tokens.create({
    name,
    principalArn: userArn(name),
    actions,
    keys,
  })
  return token
}

/** A key that everybody's token opens but for these statements. */
async function keyWith(...statements: readonly StatementJson[]): Promise<string> {
  const key = await service.createKey()
  await put(key, DELEGATE, ...statements)
  return key
}

async function put(key: string, ...statements: readonly StatementJson[]): Promise<void> {
  const answer = await admin('PUT', `keys/${key}/policy`, { policy: documentOf(...statements) })
  expect(answer).toEqual({ status: 200 })
}

const encrypt = (token: string, key: string, context?: object): Promise<Answer> =>
  as(token, 'POST', 'encrypt', { key, plaintexts, context })

describe('the policy of a key', () => {
  test('is the default of AWS KMS until another is put, and is given back as it was', async () => {
    const key = await service.createKey()
    const first = await admin('GET', `keys/${key}/policy`)
    expect(JSON.parse(first.policy as string)).toEqual({
      Version: '2012-10-17',
      Id: 'key-default-1',
      Statement: [
        {
          Sid: 'Enable IAM User Permissions',
          Effect: 'Allow',
          Principal: { AWS: ROOT },
          Action: 'kms:*',
          Resource: '*',
        },
      ],
    })
    const policy = ` ${JSON.stringify({ Statement: DELEGATE }, undefined, 4)}\n`
    expect((await admin('PUT', `keys/${key}/policy`, { policy })).status).toBe(200)
    expect((await admin('GET', `keys/${key}/policy`)).policy).toBe(policy)
  })

  test('is in force with the answer to putting it, on connections that are warm', async () => {
    const token = await tokenOf('warm')
    const key = await keyWith()
    const sealed = await encrypt(token, key)
    for (let i = 0; i < 3; i++) expect((await encrypt(token, key)).status).toBe(200)
    await put(key, DELEGATE, deny({ ...to(userArn('warm')), Action: 'kms:*crypt' }))
    expect((await encrypt(token, key)).code).toBe('ACCESS_DENIED')
    const opened = await as(token, 'POST', 'decrypt', { ciphertexts: sealed.ciphertexts })
    expect(opened.errors).toEqual([[0, 'ACCESS_DENIED']])
    expect((await as(token, 'GET', `keys/${key}`)).status).toBe(200)
    await put(key, DELEGATE)
    expect((await encrypt(token, key)).status).toBe(200)
  })

  test('that would lock its author out is refused, unless they insist', async () => {
    const key = await service.createKey()
    const policy = documentOf(allow(to(userArn('somebody'))))
    const refused = await admin('PUT', `keys/${key}/policy`, { policy })
    expect([refused.status, refused.code]).toEqual([400, 'POLICY_MALFORMED'])
    expect(refused.message).toContain('will not allow you to update the key policy in the future')
    expect((await encrypt(service.token, key)).status).toBe(200)
    const insisting = { policy, bypassPolicyLockoutSafetyCheck: true }
    expect((await admin('PUT', `keys/${key}/policy`, insisting)).status).toBe(200)
    expect((await encrypt(service.token, key)).code).toBe('ACCESS_DENIED')
    expect((await admin('PUT', `keys/${key}/policy`, insisting)).code).toBe('ACCESS_DENIED')
  })

  test('may forbid to insist', async () => {
    const key = await keyWith(
      deny({
        ...to(ROOT),
        Action: 'kms:PutKeyPolicy',
        Condition: { Bool: { 'kms:BypassPolicyLockoutSafetyCheck': 'true' } },
      }),
    )
    const policy = documentOf(DELEGATE)
    const insisting = { policy, bypassPolicyLockoutSafetyCheck: true }
    expect((await admin('PUT', `keys/${key}/policy`, insisting)).code).toBe('ACCESS_DENIED')
    expect((await admin('PUT', `keys/${key}/policy`, { policy })).status).toBe(200)
  })

  test('that cannot be understood is refused by statement and element, and changes nothing', async () => {
    const key = await service.createKey()
    const before = (await admin('GET', `keys/${key}/policy`)).policy
    const policy = documentOf(
      DELEGATE,
      deny({ ...to(ROOT), Condition: { StringIs: { 'aws:username': 'a' } } }),
    )
    for (const bypassPolicyLockoutSafetyCheck of [false, true]) {
      const fields = { policy, bypassPolicyLockoutSafetyCheck }
      const refused = await admin('PUT', `keys/${key}/policy`, fields)
      expect(refused.code).toBe('POLICY_MALFORMED')
      expect(refused.message).toContain('statement 2, Condition: the operator "StringIs"')
    }
    for (const fields of [
      {},
      { policy: 7 },
      { policy: { Statement: [] } },
      { policy: before, bypassPolicyLockoutSafetyCheck: 'yes' },
      { policy: before, Policy: before },
    ]) {
      expect((await admin('PUT', `keys/${key}/policy`, fields)).code).toBe('REQUEST_MALFORMED')
    }
    expect((await admin('GET', `keys/${key}/policy`)).policy).toBe(before)
  })

  test('is read and put by those who may, and looks to others like one of an absent key', async () => {
    const key = await service.createKey()
    const token = await tokenOf('reader', ['kms:Encrypt'], ['*'])
    const absent = '00000000-0000-4000-8000-000000000000'
    const policy = documentOf(DELEGATE)
    for (const [method, fields] of [
      ['GET', undefined],
      ['PUT', { policy }],
    ] as const) {
      const [one, other] = await Promise.all(
        [key, absent].map((name) => as(token, method, `keys/${name}/policy`, fields)),
      )
      expect(one?.code).toBe('ACCESS_DENIED')
      expect(other).toMatchObject({ code: one?.code, message: one?.message })
    }
  })
})

describe('a condition reads what a request says', () => {
  test('of the encryption context, whatever operation it is', async () => {
    const token = await tokenOf('tenant')
    const key = await service.createKey()
    await put(
      key,
      DELEGATE,
      deny({
        ...to(userArn('tenant')),
        Action: ['kms:*crypt*', 'kms:GenerateDataKey*'],
        Condition: { StringNotEquals: { 'kms:EncryptionContext:tenant': 'a' } },
      }),
    )
    const own = { tenant: 'a', row: '7' }
    const theirs = { tenant: 'b', row: '7' }
    expect((await encrypt(token, key, own)).status).toBe(200)
    expect((await encrypt(token, key, theirs)).code).toBe('ACCESS_DENIED')
    expect((await encrypt(token, key)).code).toBe('ACCESS_DENIED')
    const open = async (context: object): Promise<Answer> => {
      const { ciphertexts } = await encrypt(service.token, key, context)
      return as(token, 'POST', 'decrypt', { ciphertexts, context })
    }
    expect((await open(own)).plaintexts).toEqual(plaintexts)
    expect((await open(theirs)).errors).toEqual([[0, 'ACCESS_DENIED']])
    const dataKeys = (context: object): Promise<Answer> =>
      as(token, 'POST', 'data-keys', { key, context, count: 1, plaintext: true })
    expect((await dataKeys(own)).status).toBe(200)
    expect((await dataKeys(theirs)).code).toBe('ACCESS_DENIED')
    const { ciphertexts } = await encrypt(token, key, own)
    const move = (newContext: object): Promise<Answer> =>
      as(token, 'POST', 're-encrypt', { key, mode: 'fresh', context: own, newContext, ciphertexts })
    expect((await move({ ...own, row: '8' })).status).toBe(200)
    expect((await move(theirs)).code).toBe('ACCESS_DENIED')
  })

  test('of the alias that names the key, and of those that it has', async () => {
    const token = await tokenOf('alias-user')
    const key = await service.createKey()
    const condition = (block: object): StatementJson =>
      deny({ ...to(userArn('alias-user')), Action: 'kms:Encrypt', Condition: block })
    await put(
      key,
      DELEGATE,
      condition({ StringNotEquals: { 'kms:RequestAlias': 'alias/by-this-name' } }),
    )
    await admin('POST', 'aliases', { alias: 'alias/by-this-name', key })
    await admin('POST', 'aliases', { alias: 'alias/by-another', key })
    const arn = `arn:aws:kms:us-east-1:${ACCOUNT}:alias/by-this-name`
    expect((await encrypt(token, 'alias/by-this-name')).status).toBe(200)
    expect((await encrypt(token, arn)).status).toBe(200)
    expect((await encrypt(token, 'alias/by-another')).code).toBe('ACCESS_DENIED')
    expect((await encrypt(token, key)).code).toBe('ACCESS_DENIED')
    await put(
      key,
      DELEGATE,
      condition({ 'ForAnyValue:StringEquals': { 'kms:ResourceAliases': 'alias/closed' } }),
    )
    expect((await encrypt(token, key)).status).toBe(200)
    await admin('POST', 'aliases', { alias: 'alias/closed', key })
    expect((await encrypt(token, key)).code).toBe('ACCESS_DENIED')
    await admin('DELETE', `aliases/${encodeURIComponent('alias/closed')}`)
    expect((await encrypt(token, key)).status).toBe(200)
  })

  const fromHere = deny({
    ...to(userArn('here')),
    Action: ['kms:*crypt*', 'kms:DescribeKey'],
    Condition: { IpAddress: { 'aws:SourceIp': '127.0.0.0/8' } },
  })
  const fromElsewhere = {
    ...fromHere,
    Condition: { NotIpAddress: { 'aws:SourceIp': '127.0.0.0/8' } },
  }

  test('of the address that it comes from, by HTTP', async () => {
    const token = await tokenOf('here')
    const key = await keyWith(fromHere)
    expect((await encrypt(token, key)).code).toBe('ACCESS_DENIED')
    expect((await as(token, 'GET', `keys/${key}`)).code).toBe('ACCESS_DENIED')
    await put(key, DELEGATE, fromElsewhere)
    expect((await encrypt(token, key)).status).toBe(200)
    expect((await as(token, 'GET', `keys/${key}`)).status).toBe(200)
  })

  test('of the address that it comes from, by the AWS protocol', async () => {
    const allowed = allow(to(userArn('here')))
    const key = await keyWith(allowed, fromHere)
    const client = await clientAs(service, userArn('here'))
    const ask = async (): Promise<string> => {
      const asked = new EncryptCommand({ KeyId: key, Plaintext: Buffer.from('a') })
      return client.send(asked).then(
        ({ KeyId = '' }) => KeyId,
        (error: Error) => error.name,
      )
    }
    expect(await ask()).toBe('AccessDeniedException')
    await put(key, DELEGATE, allowed, fromElsewhere)
    expect(await ask()).toContain(key)
    client.destroy()
  })

  test('of the address that it comes from, by WebSocket', async () => {
    const token = await tokenOf('here')
    const key = await keyWith(fromHere)
    const socket = new WebSocket(`${service.url.replace('http', 'ws')}/v1/ws`, {
      headers: { authorization: `Bearer ${token}` },
    })
    await once(socket, 'open')
    const packr = new Packr({ useRecords: false, variableMapSize: true })
    // u32 request id, u8 op (1: encrypt); an answer has a status in its place (src/format/frame.ts).
    const ask = async (): Promise<Readonly<Record<string, unknown>>> => {
      const fields = packr.pack({ key, plaintexts: [Buffer.from('a')] })
      socket.send(Buffer.concat([Buffer.from([0, 0, 0, 1, 1]), fields]))
      const [frame] = (await once(socket, 'message')) as [Buffer]
      return unpack(frame.subarray(5)) as Readonly<Record<string, unknown>>
    }
    expect((await ask())['code']).toBe('ACCESS_DENIED')
    await put(key, DELEGATE, fromElsewhere)
    expect((await ask())['keyId']).toContain(key)
    socket.close()
  })

  test('of whether it is encrypted on its way', async () => {
    const token = await tokenOf('plain')
    const key = await keyWith(
      deny({ ...to(userArn('plain')), Condition: { Bool: { 'aws:SecureTransport': 'false' } } }),
    )
    expect((await encrypt(token, key)).code).toBe('ACCESS_DENIED')
  })

  test('of whether a re-encryption stays under its key, source by source', async () => {
    const token = await tokenOf('mover')
    const sameOnly = deny({
      ...to(userArn('mover')),
      Action: 'kms:ReEncrypt*',
      Condition: { Bool: { 'kms:ReEncryptOnSameKey': 'false' } },
    })
    const [key, other] = [await keyWith(sameOnly), await keyWith()]
    const own = (await encrypt(token, key)).ciphertexts as readonly string[]
    const theirs = (await encrypt(token, other)).ciphertexts as readonly string[]
    const move = (target: string, mode: string): Promise<Answer> =>
      as(token, 'POST', 're-encrypt', { key: target, mode, ciphertexts: [...own, ...theirs] })
    for (const mode of ['rewrap', 'fresh']) {
      // Under the key itself: what was under it stays, and nothing comes in.
      const here = await move(key, mode)
      expect(here.errors).toEqual([[1, 'ACCESS_DENIED']])
      // Away from it nothing goes.
      expect((await move(other, mode)).errors).toEqual([[0, 'ACCESS_DENIED']])
    }
  })
})

describe('policies of principals', () => {
  const policy = documentOf(allow({ Action: 'kms:DescribeKey' }))
  const path = (name: string, principal: string): string =>
    `identity-policies/${name}?principal=${encodeURIComponent(principal)}`

  test('are attached, listed, shown, replaced and taken away', async () => {
    const principal = userArn('attached')
    const of = `identity-policies?principal=${encodeURIComponent(principal)}`
    expect((await admin('GET', of)).policies).toEqual([])
    for (const name of ['b', 'a']) {
      expect(await admin('PUT', `identity-policies/${name}`, { principal, policy })).toEqual({
        status: 200,
      })
    }
    const listed = [
      { principal, name: 'a' },
      { principal, name: 'b' },
    ]
    expect((await admin('GET', of)).policies).toEqual(listed)
    expect((await admin('GET', 'identity-policies')).policies).toEqual(
      expect.arrayContaining(listed),
    )
    expect(await admin('GET', path('a', principal))).toEqual({
      status: 200,
      principal,
      name: 'a',
      policy,
    })
    const other = documentOf(deny())
    await admin('PUT', 'identity-policies/a', { principal, policy: other })
    expect((await admin('GET', path('a', principal))).policy).toBe(other)
    expect((await admin('DELETE', path('a', principal))).status).toBe(200)
    for (const method of ['GET', 'DELETE'] as const) {
      const gone = await admin(method, path('a', principal))
      expect([gone.status, gone.code]).toEqual([404, 'POLICY_NOT_FOUND'])
    }
    expect((await admin('GET', of)).policies).toEqual([{ principal, name: 'b' }])
  })

  test('decide at once, and a Deny in one stops a token that is warm', async () => {
    const token = await tokenOf('stopped')
    const key = await service.createKey()
    expect((await encrypt(token, key)).status).toBe(200)
    const principal = userArn('stopped')
    const denying = documentOf(deny({ Action: 'kms:Encrypt' }))
    await admin('PUT', 'identity-policies/stop', { principal, policy: denying })
    expect((await encrypt(token, key)).code).toBe('ACCESS_DENIED')
    await admin('DELETE', path('stop', principal))
    expect((await encrypt(token, key)).status).toBe(200)
  })

  test('are ten a principal, of users and roles, and well formed', async () => {
    const principal = userArn('many')
    for (let i = 0; i < 10; i++) {
      const answer = await admin('PUT', `identity-policies/p${i}`, { principal, policy })
      expect(answer.status).toBe(200)
    }
    const eleventh = await admin('PUT', 'identity-policies/p10', { principal, policy })
    expect(eleventh.code).toBe('LIMIT_EXCEEDED')
    expect((await admin('PUT', 'identity-policies/p9', { principal, policy })).status).toBe(200)
    const about = (fields: object): Promise<Answer> =>
      admin('PUT', 'identity-policies/p', { principal: userArn('few'), policy, ...fields })
    expect((await about({ principal: ROOT })).code).toBe('REQUEST_MALFORMED')
    expect((await about({ principal: 'few' })).code).toBe('REQUEST_MALFORMED')
    expect((await about({ principal: userArn('a'.repeat(2_048)) })).code).toBe('REQUEST_MALFORMED')
    expect((await about({ policy: documentOf(allow(to(ROOT))) })).code).toBe('POLICY_MALFORMED')
    expect((await about({ document: policy })).code).toBe('REQUEST_MALFORMED')
    const named = await admin('PUT', 'identity-policies/a%20b', { principal, policy })
    expect(named.code).toBe('REQUEST_MALFORMED')
    expect((await admin('GET', 'identity-policies/p')).code).toBe('REQUEST_MALFORMED')
  })

  test('are for those who may manage them', async () => {
    const token = await tokenOf('nobody')
    const principal = userArn('nobody')
    for (const [method, where, fields] of [
      ['GET', 'identity-policies', undefined],
      ['GET', path('a', principal), undefined],
      ['PUT', 'identity-policies/a', { principal, policy: documentOf(allow()) }],
      ['DELETE', path('a', principal), undefined],
    ] as const) {
      expect((await as(token, method, where, fields)).code, where).toBe('ACCESS_DENIED')
    }
    const manager = await tokenOf('manager', ['keyfold:ManageIdentityPolicies'])
    expect((await as(manager, 'PUT', 'identity-policies/a', { principal, policy })).status).toBe(
      200,
    )
  })

  test('and of keys survive a restart', async () => {
    const key = await keyWith(deny({ ...to(userArn('kept')), Action: 'kms:Decrypt' }))
    const principal = userArn('kept')
    await admin('PUT', 'identity-policies/kept', { principal, policy })
    const copy = mkdtempSync(join(tmpdir(), 'keyfold-policies-'))
    cpSync(service.dataDirectory, copy, { recursive: true })
    const restarted = await startService({ filesFrom: copy })
    try {
      expect(restarted.engine.identityPolicies.get(principal, 'kept').document).toBe(policy)
      const kmsKey = await restarted.engine.kms.registry.resolve(key)
      expect(kmsKey.policy).toBe((await admin('GET', `keys/${key}/policy`)).policy)
    } finally {
      await restarted.close()
      rmSync(copy, { recursive: true, force: true })
    }
  })
})

describe('an explanation', () => {
  const explain = (token: string, fields: Readonly<Record<string, unknown>>): Promise<Answer> =>
    as(token, 'POST', 'policy/explain', { action: 'kms:Decrypt', ...fields })

  test('names what decides, about anybody, to those who may read policies', async () => {
    const key = await keyWith(
      allow({
        Sid: 'Own rows',
        ...to(userArn('asked')),
        Action: 'kms:Decrypt',
        Condition: { StringEquals: { 'kms:EncryptionContext:owner': 'asked' } },
      }),
      deny({ Sid: 'Never', ...to(userArn('asked')), Action: 'kms:ScheduleKeyDeletion' }),
    )
    const about = { principal: userArn('asked'), key }
    expect(await explain(service.token, { ...about, context: { owner: 'asked' } })).toMatchObject({
      allowed: true,
      by: { kind: 'key-policy', statement: 'Own rows' },
    })
    expect(await explain(service.token, about)).toMatchObject({
      allowed: false,
      by: { kind: 'nothing' },
    })
    expect(
      await explain(service.token, { ...about, action: 'kms:ScheduleKeyDeletion' }),
    ).toMatchObject({ allowed: false, by: { kind: 'key-policy', statement: 'Never' } })
    expect(await explain(service.token, { action: 'kms:CreateKey' })).toMatchObject({
      allowed: true,
      by: { kind: 'root' },
    })
  })

  test('about others is not for everybody', async () => {
    const token = await tokenOf('curious')
    const key = await service.createKey()
    expect((await explain(token, { key, principal: ROOT })).code).toBe('ACCESS_DENIED')
    const reader = await tokenOf('auditor', ['keyfold:ExplainPolicy'])
    expect((await explain(reader, { key, principal: ROOT })).allowed).toBe(true)
  })

  test('about oneself is what happens, and tells no forbidden key from an absent one', async () => {
    const token = await tokenOf('self')
    const open = await keyWith()
    const closed = await keyWith(deny({ Sid: 'Secret name', ...to(userArn('self')) }))
    expect(await explain(token, { key: open })).toMatchObject({
      allowed: true,
      by: { kind: 'token' },
    })
    const absent = '00000000-0000-4000-8000-000000000000'
    const seen = new Set<string>()
    for (const key of [closed, absent, 'alias/absent', 'nonsense']) {
      seen.add(JSON.stringify(await explain(token, { key })))
    }
    expect([...seen]).toHaveLength(1)
    expect([...seen][0]).toContain('"allowed":false')
    expect([...seen][0]).not.toContain('Secret')
    expect((await explain(service.token, { key: absent })).code).toBe('KMS_KEY_NOT_FOUND')
  })

  test('is refused where the question is none', async () => {
    for (const fields of [
      { action: undefined },
      { action: 'Decrypt' },
      { action: 'kms:*' },
      { action: 's3:GetObject' },
      { principal: 'me' },
      { principal: `${ROOT}\n` },
      { context: { a: 7 } },
      { why: true },
    ]) {
      expect((await explain(service.token, fields)).code).toBe('REQUEST_MALFORMED')
    }
  })
})

describe('creating and naming keys', () => {
  test('needs the alias and the key, each by what allows it', async () => {
    const token = await tokenOf('namer', ['kms:CreateAlias'], ['none'])
    const key = await service.createKey()
    const refused = await as(token, 'POST', 'aliases', { alias: 'alias/named', key })
    expect(refused.code).toBe('ACCESS_DENIED')
    const principal = userArn('namer-of-one')
    const limited = await tokenOf('namer-of-one', ['kms:CreateAlias'])
    await admin('PUT', 'identity-policies/one', {
      principal,
      policy: documentOf(
        deny({
          Action: 'kms:CreateAlias',
          Resource: undefined,
          NotResource: ['arn:aws:kms:*:*:alias/team-*', 'arn:aws:kms:*:*:key/*'],
        }),
      ),
    })
    const name = (alias: string): Promise<Answer> => as(limited, 'POST', 'aliases', { alias, key })
    expect((await name('alias/team-a')).status).toBe(200)
    expect((await name('alias/other')).code).toBe('ACCESS_DENIED')
  })

  test('with tags needs leave to tag, and a policy may say which', async () => {
    const creator = await tokenOf('creator', ['kms:CreateKey'])
    expect((await as(creator, 'POST', 'keys', {})).status).toBe(200)
    expect((await as(creator, 'POST', 'keys', { tags: { team: 'a' } })).code).toBe('ACCESS_DENIED')
    const tagger = await tokenOf('tagger', ['kms:CreateKey', 'kms:TagResource'])
    await admin('PUT', 'identity-policies/team', {
      principal: userArn('tagger'),
      policy: documentOf(deny({ Condition: { StringNotEquals: { 'aws:RequestTag/team': 'a' } } })),
    })
    expect((await as(tagger, 'POST', 'keys', { tags: { team: 'a' } })).status).toBe(200)
    expect((await as(tagger, 'POST', 'keys', { tags: { team: 'b' } })).code).toBe('ACCESS_DENIED')
    expect((await as(tagger, 'POST', 'keys', {})).code).toBe('ACCESS_DENIED')
  })
})

describe('the command line', () => {
  const run = async (...argv: readonly string[]): Promise<string> => {
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ['dist/cli/main.js', ...argv, '--url', service.url, '--token', service.token],
      { cwd: join(import.meta.dirname, '../..') },
    )
    return stdout
  }

  test('puts, gets and explains policies of keys, and manages those of principals', async () => {
    const key = await service.createKey()
    const file = join(service.dataDirectory, 'policy.json')
    const policy = documentOf(DELEGATE, allow({ Sid: 'Cli', ...to(userArn('cli')) }))
    writeFileSync(file, policy)
    await run('policy', 'put', key, file)
    expect(await run('policy', 'get', key)).toBe(`${policy}\n`)
    const explained = await run(
      ...['policy', 'explain', 'kms:Decrypt', '--key', key, '--principal', userArn('cli')],
      ...['-c', 'a=b', '--json'],
    )
    expect(JSON.parse(explained)).toMatchObject({
      allowed: true,
      by: { kind: 'key-policy', statement: 'Cli' },
    })
    expect(await run('policy', 'explain', 'kms:CreateKey')).toContain('root')
    writeFileSync(file, documentOf(allow()))
    await run('identity-policies', 'put', userArn('cli'), 'all', file)
    const listed = await run('identity-policies', 'list', '--principal', userArn('cli'), '--json')
    expect(JSON.parse(listed)).toEqual([{ principal: userArn('cli'), name: 'all' }])
    expect(await run('identity-policies', 'get', userArn('cli'), 'all')).toBe(
      `${documentOf(allow())}\n`,
    )
    await run('identity-policies', 'delete', userArn('cli'), 'all')
    await expect(run('identity-policies', 'get', userArn('cli'), 'all')).rejects.toThrow(
      'POLICY_NOT_FOUND',
    )
    writeFileSync(file, documentOf(allow(to(userArn('cli')))))
    await expect(run('policy', 'put', key, file)).rejects.toThrow('POLICY_MALFORMED')
    await run('policy', 'put', key, file, '--bypass-policy-lockout-safety-check')
  })
})
