/** POST /v1/message-keys: who is given message keys, how many, and what is left of them. */
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { join } from 'node:path'

import { readEvents } from '../audit/log.ts'
import { commitmentOf } from '../envelope/reference.ts'
import { startService, type Service } from '../service.ts'
import { send, type Got } from './caller.ts'

let service: Service
let key: string

beforeAll(async () => {
  service = await startService({ settings: { missBudgetBurst: '40', missBudgetPerSecond: '1' } })
  key = await service.createKey()
  const policy = JSON.stringify({
    Version: '2012-10-17',
    Statement: [
      {
        Effect: 'Allow',
        Principal: { AWS: '*' },
        Action: 'keyfold:ReleaseMessageKey',
        Resource: '*',
      },
      {
        Effect: 'Allow',
        Principal: { AWS: 'arn:aws:iam::000000000000:root' },
        Action: 'kms:*',
        Resource: '*',
      },
    ],
  })
  const put = await send(service, 'PUT', `/v1/keys/${key}/policy`, { fields: { policy } })
  expect(put.status).toBe(200)
})
afterAll(() => service.close())

const context = { table: 'orders' }

interface Released {
  readonly keyId: string
  readonly keyEntry: Uint8Array
  readonly messageKey: Uint8Array
}

/** Each by a principal of its own, whose miss budget is whole. */
async function ask(name: string, fields: unknown, actions = ['*']): Promise<Got> {
  const principalArn = `arn:aws:iam::000000000000:user/${name}`
  const { token } = await service.engine.tokens.create({ name, principalArn, actions, keys: ['*'] })
  return send(service, 'POST', '/v1/message-keys', { token, fields })
}
const keysOf = ({ body }: Got): readonly (Released | null)[] =>
  body['messageKeys'] as readonly (Released | null)[]

describe('new message keys', () => {
  test('are each another, and each commits to its entry as the formats say', async () => {
    const released = keysOf(await ask('new', { key, context, count: 16 })) as readonly Released[]
    expect(
      new Set(released.map(({ messageKey }) => Buffer.from(messageKey).toString('hex'))).size,
    ).toBe(16)
    for (const { keyEntry, messageKey, keyId } of released) {
      expect(messageKey).toHaveLength(32)
      expect(Buffer.from(keyEntry).subarray(0, 32)).toEqual(commitmentOf(messageKey))
      expect(keyId).toContain(key)
    }
    const keyEntries = released.map(({ keyEntry }) => keyEntry)
    const again = await ask('again', { context, keyEntries })
    expect(keysOf(again)).toEqual(released)
  })

  test('are none where only the question is asked, and the answer is the same refusal', async () => {
    expect(keysOf(await ask('asking', { key, context, count: 0 }))).toEqual([])
    const refused = await ask('refused', { key, context, count: 0 }, ['kms:*'])
    expect(refused.body.code).toBe('ACCESS_DENIED')
  })

  test.each([
    [{ key: 'x', context, count: 17 }, 'LIMIT_EXCEEDED', 'count: 0 to 16'],
    [{ context, count: 1 }, 'REQUEST_MALFORMED', 'key'],
    [{ key: 'x', context }, 'REQUEST_MALFORMED', 'count'],
    [{ context, keyEntries: [] }, 'REQUEST_MALFORMED', 'keyEntries'],
    [{ key: 'x', context, keyEntries: [Buffer.alloc(40)] }, 'KEY_ENTRIES_INVALID', ''],
    [{ key: 'x', count: 1, plaintext: true }, 'REQUEST_MALFORMED', 'plaintext'],
  ])('asked for as %j are refused by name', async (fields, code, named) => {
    const { body } = await ask('malformed', fields)
    expect(body.code).toBe(code)
    expect(body.message).toContain(named)
  })

  test('cost the miss budget of who asks, each one', async () => {
    const principalArn = 'arn:aws:iam::000000000000:user/greedy'
    const limits = { name: 'greedy', principalArn, actions: ['*'], keys: ['*'] }
    const { token } = await service.engine.tokens.create(limits)
    const codes: (string | undefined)[] = []
    // The clock stands still: the budget fills again by one a second.
    vi.useFakeTimers({ toFake: ['performance'] })
    try {
      for (let i = 0; i < 3; i++) {
        const fields = { key, context, count: 16 }
        codes.push((await send(service, 'POST', '/v1/message-keys', { token, fields })).body.code)
      }
    } finally {
      vi.useRealTimers()
    }
    expect(codes).toEqual([undefined, undefined, 'MISS_BUDGET_SPENT'])
  })
})

describe('message keys of entries', () => {
  test('that are refused fail alone, by code', async () => {
    const [released] = keysOf(await ask('one', { key, context, count: 1 })) as [Released]
    const damaged = Buffer.from(released.keyEntry)
    damaged[damaged.length - 1] = (damaged.at(-1) as number) ^ 1
    damaged[0] = (damaged[0] as number) ^ 1
    const elsewhere = await service.call('encrypt', {
      key: await service.createKey(),
      context,
      plaintexts: [Buffer.from('a')],
      form: 'detached',
    })
    const keyEntries = [damaged, released.keyEntry, elsewhere.keyEntry]
    const answer = await ask('mixed', { context, keyEntries })
    expect(keysOf(answer)).toEqual([null, released, null])
    expect(answer.body.errors).toEqual([
      [0, 'DECRYPT_FAILED'],
      [2, 'ACCESS_DENIED'],
    ])
    const other = await ask('other', { context: {}, keyEntries: [released.keyEntry] })
    expect(other.body.errors).toEqual([[0, 'DECRYPT_FAILED']])
  })
})

test('each request is recorded with who, under which KMS key and how many, and without a key', async () => {
  await service.engine.audit.flush()
  const directory = join(service.dataDirectory, 'audit')
  const seen = readEvents(directory).length
  const [released] = keysOf(await ask('recorded', { key, context, count: 2 })) as [Released]
  await ask('forbidden', { key, context, count: 1 }, ['kms:*'])
  await service.engine.audit.flush()
  const events = readEvents(directory)
    .slice(seen)
    .filter(({ eventName }) => eventName === 'ReleaseMessageKey')
  expect(events).toMatchObject([
    { resources: [{ ARN: released.keyId }], additionalEventData: { messages: 2, failed: 0 } },
    { errorCode: expect.any(String) as string },
  ])
  const written = JSON.stringify(events)
  expect(written).not.toContain(Buffer.from(released.messageKey).toString('base64'))
  expect(written).not.toContain(Buffer.from(released.messageKey).toString('hex'))
})
