/**
 * What the data-key cache costs and saves, seen from outside: calls to the key store as the limits dictate and not
 * one more, and callers whose contexts defeat it are named and bounded.
 */
import { afterEach, describe, expect, test, vi } from 'vitest'

import type { SettingTexts } from '../../dist/config.js'
import { startService, type Service } from '../service.ts'
import { send, type Got } from './caller.ts'
import { metric } from './metrics.ts'

let service: Service
afterEach(async () => {
  vi.useRealTimers()
  await service.close()
})

/** The clock of keys and budgets stands still, however long a test takes. */
function stopClock(): void {
  vi.useFakeTimers({ toFake: ['performance'] })
}

async function start(settings: SettingTexts): Promise<string> {
  service = await startService({ settings: { logLevel: 'warn', ...settings } })
  return service.createKey()
}

/** The rule as it is documented: a batch spans no two keys, and the next is fetched at 80 % of the one in use. */
function keysExpected(batches: readonly number[], messagesMax: number): number {
  let keys = 1
  let used = 0
  let isNextReady = false
  for (const messages of batches) {
    if (used + messages > messagesMax) {
      if (!isNextReady) keys++
      isNextReady = false
      used = 0
    }
    used += messages
    if (used * 10 >= messagesMax * 8 && !isNextReady) {
      isNextReady = true
      keys++
    }
  }
  return keys
}

describe('a million messages under one key and context', () => {
  const context = { table: 'orders' }

  async function seal(key: string, messages: number): Promise<string> {
    const plaintexts = Array.from({ length: messages }, () => Buffer.of(1))
    const answer = await service.call('encrypt', { key, context, plaintexts })
    expect(answer.code).toBeUndefined()
    expect(answer.ciphertexts).toHaveLength(messages)
    return Buffer.from(answer.ciphertexts[0] as Uint8Array).toString('hex', 2, 34)
  }

  test.each([
    ['that divide a key', 50_000, [1_000]],
    ['that leave a rest in every key', 50_000, [999, 7_001, 2_500]],
    ['as large as a key', 20_000, [20_000]],
  ])(
    'in batches %s cost just the keys that the limits dictate',
    async (_how, messagesMax, sizes) => {
      const key = await start({ messageKeyMessagesMax: String(messagesMax) })
      const batches: number[] = []
      for (let left = 1_000_000; left > 0;) {
        const messages = Math.min(left, sizes[batches.length % sizes.length] as number)
        batches.push(messages)
        left -= messages
      }
      const perKey = new Map<string, number>()
      for (const messages of batches) {
        const commitment = await seal(key, messages)
        perKey.set(commitment, (perKey.get(commitment) ?? 0) + messages)
      }
      expect([...perKey.values()].reduce((sum, messages) => sum + messages)).toBe(1_000_000)
      for (const messages of perKey.values()) expect(messages).toBeLessThanOrEqual(messagesMax)
      expect(await metric(service, 'wraps_total')).toBe(keysExpected(batches, messagesMax))
      // Only the first request waited for the key store.
      expect(await metric(service, 'seal_misses_total')).toBe(1)
      expect(await metric(service, 'seal_hits_total')).toBe(batches.length - 1)
      expect(service.logged).toEqual([])
    },
  )

  test('sent by 32 callers at once cost the same', async () => {
    const messagesMax = 65_536
    const key = await start({ messageKeyMessagesMax: String(messagesMax) })
    const batches = Array.from({ length: 1_024 }, () => 1_024)
    let next = 0
    const caller = async (): Promise<void> => {
      for (let messages = batches[next++]; messages !== undefined; messages = batches[next++]) {
        await seal(key, messages)
      }
    }
    await Promise.all(Array.from({ length: 32 }, caller))
    expect(await metric(service, 'wraps_total')).toBe(keysExpected(batches, messagesMax))
  })

  test('the next key is fetched at 80 % and not before', async () => {
    const key = await start({ messageKeyMessagesMax: '1000' })
    for (let sealed = 100; sealed <= 1_000; sealed += 100) {
      await seal(key, 100)
      expect([sealed, await metric(service, 'refreshes_total')]).toEqual([
        sealed,
        sealed < 800 ? 0 : 1,
      ])
    }
    expect(await metric(service, 'wraps_total')).toBe(2)
  })

  test('the bytes of a key are counted as its messages are', async () => {
    const key = await start({ messageKeyBytesMax: '10000' })
    const sizes = [1_000, 2_500, 10_000, 9_999, 1, 0, 4_000]
    for (const size of sizes) {
      await service.call('encrypt', { key, context, plaintexts: [Buffer.alloc(size)] })
    }
    expect(await metric(service, 'wraps_total')).toBe(keysExpected(sizes, 10_000))
    const refused = await service.call('encrypt', { key, plaintexts: [Buffer.alloc(10_001)] })
    expect(refused.code).toBe('LIMIT_EXCEEDED')
    expect(refused.message).toContain('10000')
  })
})

describe('contexts that are unique to each message', () => {
  const NAME = 'pipeline'
  const principalArn = `arn:aws:iam::000000000000:user/${NAME}`

  async function pipeline(): Promise<string> {
    return (await service.engine.tokens.create({ name: NAME, actions: ['*'], keys: ['*'] })).token
  }

  const encrypt = (token: string, key: string, secret: string): Promise<Got> =>
    send(service, 'POST', '/v1/encrypt', {
      token,
      fields: { key, context: { orderNumber: secret }, plaintexts: [Buffer.from('x')] },
    })

  test('are told by metrics, and once by the log: who, and under which KMS key', async () => {
    const key = await start({ dataKeyCacheEntries: '16', missBudgetBurst: '100000' })
    const token = await pipeline()
    for (let i = 0; i < 700; i++) {
      expect((await encrypt(token, key, `secret-context-${i}`)).status).toBe(200)
    }
    expect(await metric(service, 'keys_used_once_total')).toBe(700 - 16)
    expect(await metric(service, 'seal_hits_total')).toBe(0)
    expect(service.logged).toHaveLength(1)
    const line = JSON.parse(service.logged[0] as string) as { level: number; msg: string }
    // 40 is pino's level of warnings.
    expect(line.level).toBe(40)
    expect(line.msg).toContain(principalArn)
    expect(line.msg).toContain(key)
    expect(line.msg).toContain('unique to each message')
    expect(line.msg).not.toContain('secret-context')
    expect(line.msg).not.toContain('orderNumber')
  })

  test('are told of each principal and KMS key by itself', async () => {
    const keys = [await start({ dataKeyCacheEntries: '16' }), await service.createKey()]
    for (const key of keys) {
      for (let i = 0; i < 280; i++) await encrypt(service.token, key, `${i}`)
    }
    expect(keys.map((key) => service.logged.filter((line) => line.includes(key)).length)).toEqual([
      1, 1,
    ])
  })

  test('are not suspected where contexts come back, however many there are', async () => {
    const key = await start({ messageKeyMessagesMax: '4' })
    // Each key serves four batches and then makes room for the next.
    for (let i = 0; i < 1_600; i++) await encrypt(service.token, key, `tenant-${i % 20}`)
    expect(await metric(service, 'evictions_total')).toBeGreaterThan(300)
    expect(await metric(service, 'keys_used_once_total')).toBe(0)
    expect(service.logged).toEqual([])
  })

  test('are not suspected where keys were taken away before they could serve again', async () => {
    const key = await start({})
    for (let i = 0; i < 300; i++) await encrypt(service.token, key, `${i}`)
    await service.call(`keys/${key}/disable`, {})
    expect(await metric(service, 'evictions_total')).toBe(300)
    expect(service.logged).toEqual([])
  })

  test('end at the miss budget, for that principal alone, and it is told in both places', async () => {
    const key = await start({ missBudgetBurst: '50', missBudgetPerSecond: '1' })
    stopClock()
    const token = await pipeline()
    const answers: Got[] = []
    for (let i = 0; i < 80; i++) answers.push(await encrypt(token, key, `secret-context-${i}`))
    const refused = answers.filter(({ status }) => status !== 200)
    expect(refused).toHaveLength(30)
    for (const got of refused) {
      expect(got).toMatchObject({ status: 429, body: { code: 'MISS_BUDGET_SPENT' } })
      expect(got.headers.get('retry-after')).toBe('1')
      expect(got.body.message).toContain('50')
    }
    expect(await metric(service, 'misses_refused_total')).toBe(refused.length)
    expect(await metric(service, 'wraps_total')).toBe(80 - refused.length)
    // What the cache holds is served on.
    expect((await encrypt(token, key, 'secret-context-0')).status).toBe(200)
    // So is everyone else.
    expect((await encrypt(service.token, key, 'another')).status).toBe(200)
    expect(service.logged).toHaveLength(1)
    expect(service.logged[0]).toContain(principalArn)
    expect(service.logged[0]).toContain(key)
    expect(service.logged[0]).not.toContain('secret-context')
  })

  test('also where foreign key entries are what misses', async () => {
    await start({ missBudgetBurst: '20', missBudgetPerSecond: '1' })
    stopClock()
    const ciphertexts: Uint8Array[] = []
    for (const name of ['first', 'second', 'third']) {
      const { token } = await service.engine.tokens.create({ name, actions: ['*'], keys: ['*'] })
      for (let i = 0; i < 20; i++) {
        const fields = { key: await service.createKey(), plaintexts: [Buffer.from('x')] }
        const got = await send(service, 'POST', '/v1/encrypt', { token, fields })
        ciphertexts.push(got.body.ciphertexts[0] as Uint8Array)
      }
    }
    const token = await pipeline()
    const got = await send(service, 'POST', '/v1/decrypt', { token, fields: { ciphertexts } })
    const refused = got.body.errors ?? []
    expect(new Set(refused.map(([, code]) => code))).toEqual(new Set(['MISS_BUDGET_SPENT']))
    expect(refused).toHaveLength(40)
    expect(got.body.plaintexts.filter((text) => text !== null)).toHaveLength(20)
    expect(await metric(service, 'misses_refused_total')).toBe(40)
    expect(service.logged.some((line) => line.includes(principalArn))).toBe(true)
  })
})
