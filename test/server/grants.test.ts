/** Grants at /v1/grants: the same ones as AWS's clients see, with the same rights. */
import { CreateGrantCommand, ListGrantsCommand, type KMSClient } from '@aws-sdk/client-kms'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { startService, type Service } from '../service.ts'
import { clientAs, ROOT, userArn } from './aws/clients.ts'
import { send, type Got } from './caller.ts'

const [ALICE, BOB] = [userArn('Alice'), userArn('Bob')]

let service: Service
let root: KMSClient

beforeAll(async () => {
  service = await startService()
  root = await clientAs(service, ROOT)
})
afterAll(() => service.close())

/** It lets everything through, and allows it where a key's policy lets the account decide; those here do not. */
async function tokenOf(principalArn: string): Promise<string> {
  const name = principalArn.split('/').pop() as string
  const { token } = await service.engine.tokens.create({
    name,
    principalArn,
    actions: ['kms:*'],
    keys: ['*'],
  })
  return token
}

/** Its policy lets the root of the account do everything and no identity policy of anybody. */
async function createKey(): Promise<string> {
  const kmsKey = await service.engine.kms.createKey({
    policy: JSON.stringify({
      Version: '2012-10-17',
      Statement: [
        {
          Effect: 'Allow',
          Principal: { AWS: ROOT },
          Action: 'kms:*',
          Resource: '*',
          Condition: { ArnEquals: { 'aws:PrincipalArn': ROOT } },
        },
      ],
    }),
  })
  return kmsKey.arn
}

const create = (key: string, fields = {}, token = service.token): Promise<Got> =>
  send(service, 'POST', '/v1/grants', {
    token,
    fields: { key, granteePrincipal: ALICE, operations: ['Encrypt'], ...fields },
  })
const list = (query: Record<string, string>, token = service.token): Promise<Got> =>
  send(service, 'GET', `/v1/grants?${new URLSearchParams(query)}`, { token })
const end = (how: 'retire' | 'revoke', grantId: unknown, token = service.token): Promise<Got> =>
  how === 'revoke'
    ? send(service, 'DELETE', `/v1/grants/${String(grantId)}`, { token })
    : send(service, 'POST', `/v1/grants/${String(grantId)}/retire`, { token, fields: {} })

describe('a grant made at /v1', () => {
  test('is the one that AWS’s clients see, and the other way round', async () => {
    const key = await createKey()
    const { body } = await create(key, { encryptionContextSubset: { a: '1' }, name: 'n' })
    const made = await root.send(new ListGrantsCommand({ KeyId: key }))
    expect(made.Grants).toMatchObject([
      {
        GrantId: body['grantId'],
        Name: 'n',
        IssuingAccount: ROOT,
        Constraints: { EncryptionContextSubset: { a: '1' } },
      },
    ])
    const GranteePrincipal = BOB
    const { GrantId } = await root.send(
      new CreateGrantCommand({ KeyId: key, GranteePrincipal, Operations: ['Decrypt'] }),
    )
    const seen = await list({ key, granteePrincipal: BOB })
    expect(seen.body['grants']).toMatchObject([
      { grantId: GrantId, keyArn: key, granteePrincipal: BOB, operations: ['Decrypt'] },
    ])
  })

  test('lets its grantee in at once, and out at once, batch after batch', async () => {
    const key = await createKey()
    const token = await tokenOf(ALICE)
    const encrypt = async (context: object): Promise<string | undefined> => {
      const fields = { key, context, plaintexts: [Buffer.from('x')] }
      return (await send(service, 'POST', '/v1/encrypt', { token, fields })).body.code
    }
    for (const how of ['retire', 'revoke'] as const) {
      expect(await encrypt({ a: '1' })).toBe('ACCESS_DENIED')
      const { body } = await create(key, { encryptionContextEquals: { a: '1' } })
      for (let i = 0; i < 3; i++) {
        expect(await encrypt({ a: '1' })).toBeUndefined()
        expect(await encrypt({ a: '1', b: '2' })).toBe('ACCESS_DENIED')
      }
      expect((await end(how, body['grantId'])).status).toBe(200)
    }
    expect(await encrypt({ a: '1' })).toBe('ACCESS_DENIED')
  })

  test('is made, listed and ended by those alone who may', async () => {
    const key = await createKey()
    const [alice, bob] = [await tokenOf(ALICE), await tokenOf(BOB)]
    const { body } = await create(key, { retiringPrincipal: BOB })
    const { grantId } = body
    expect((await create(key, {}, alice)).body.code).toBe('ACCESS_DENIED')
    expect((await list({ key }, alice)).body.code).toBe('ACCESS_DENIED')
    expect((await end('revoke', grantId, bob)).body.code).toBe('ACCESS_DENIED')
    expect((await end('retire', grantId, alice)).status).toBe(200)
    const again = (await create(key, { retiringPrincipal: BOB })).body['grantId']
    expect((await list({ retiringPrincipal: BOB }, bob)).body['grants']).toMatchObject([
      { grantId: again },
    ])
    expect((await end('retire', again, bob)).status).toBe(200)
    const eve = userArn('Eve', '111122223333')
    expect((await list({ retiringPrincipal: eve })).body.code).toBe('ACCESS_DENIED')
  })

  test('is not told of to those who may not see every key', async () => {
    const key = await createKey()
    const { grantId } = (await create(key)).body
    const { token: narrow } = await service.engine.tokens.create({
      name: 'narrow',
      actions: ['kms:RevokeGrant', 'kms:RetireGrant'],
      keys: ['arn:aws:kms:us-east-1:000000000000:key/none'],
    })
    for (const how of ['retire', 'revoke'] as const) {
      for (const id of [grantId, 'f'.repeat(64)]) {
        expect((await end(how, id, narrow)).body).toMatchObject({
          code: 'ACCESS_DENIED',
          message: 'the caller may not do this with this key',
        })
      }
      expect((await end(how, 'f'.repeat(64))).body.code).toBe('GRANT_NOT_FOUND')
      expect((await end(how, 'x')).body.code).toBe('GRANT_ID_INVALID')
    }
  })

  test('is refused by the field that is wrong', async () => {
    const key = await createKey()
    for (const [fields, code, says] of [
      [{ granteePrincipal: undefined }, 'REQUEST_MALFORMED', 'granteePrincipal'],
      [{ granteePrincipal: 'x' }, 'ARN_INVALID', 'x'],
      [{ operations: [] }, 'REQUEST_MALFORMED', 'Operations'],
      [{ operations: 'Encrypt' }, 'REQUEST_MALFORMED', 'operations'],
      [{ operations: ['Sign'] }, 'REQUEST_MALFORMED', 'Sign'],
      [{ name: 'a b' }, 'REQUEST_MALFORMED', 'name'],
      [{ encryptionContextSubset: {} }, 'REQUEST_MALFORMED', 'EncryptionContextSubset'],
      [{ encryptionContextEquals: { a: 1 } }, 'REQUEST_MALFORMED', 'encryptionContextEquals'],
      [{ sourceArn: 'arn:aws:s3:::bucket' }, 'REQUEST_MALFORMED', 'sourceArn'],
    ] as const) {
      const { body } = await create(key, fields)
      expect(body.code, says).toBe(code)
      expect(body.message).toContain(says)
    }
    for (const query of [{}, { key, retiringPrincipal: BOB }, { key, limit: '0' }]) {
      expect((await list(query as Record<string, string>)).body.code).toBe('REQUEST_MALFORMED')
    }
    expect((await list({ key, marker: 'x' })).body.code).toBe('MARKER_INVALID')
  })
})
