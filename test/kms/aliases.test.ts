/** Aliases: which names there are, what they stand for after each change, and whose they are. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { startService, type Answer, type Service } from '../service.ts'

let service: Service

beforeAll(async () => {
  service = await startService()
})
afterAll(() => service.close())

const ALIAS_ARN = 'arn:aws:kms:us-east-1:000000000000:'
const context = { table: 'orders' }

/** A request to a path with a name in it. */
async function send(
  method: 'PUT' | 'DELETE',
  alias: string,
  fields?: Readonly<Record<string, unknown>>,
  token = service.token,
): Promise<Answer> {
  const response = await fetch(`${service.url}/v1/aliases/${encodeURIComponent(alias)}`, {
    method,
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    ...(fields === undefined ? {} : { body: JSON.stringify(fields) }),
  })
  return (await response.json()) as Answer
}

const create = (alias: string, key: string): Promise<Answer> =>
  service.call('aliases', { alias, key })
const move = (alias: string, key: string): Promise<Answer> => send('PUT', alias, { key })
const remove = (alias: string): Promise<Answer> => send('DELETE', alias)
const encrypt = (key: string): Promise<Answer> =>
  service.call('encrypt', { key, context, plaintexts: [Buffer.from('plaintext')] })

/** Which key a name seals under, or the code of the refusal. */
async function standsFor(name: string): Promise<string | undefined> {
  const answer = await encrypt(name)
  return answer.code ?? answer.keyId.slice(answer.keyId.lastIndexOf('/') + 1)
}

describe('a name', () => {
  test('is what AWS KMS takes: alias/ and 1 to 250 letters, digits, / _ -', async () => {
    const key = await service.createKey()
    for (const name of [
      'a',
      'A',
      '0',
      '_',
      '-',
      '/',
      'a/b/c',
      'awsome',
      'aws',
      'x/aws/',
      'a'.repeat(250),
    ]) {
      expect((await create(`alias/${name}`, key)).code, name).toBeUndefined()
      expect(await standsFor(`alias/${name}`), name).toBe(key)
    }
    const { items } = await service.engine.kms.aliases.list({ key })
    expect(items).toHaveLength(11)
  })

  test('is nothing else, and none of the refused is listed', async () => {
    const key = await service.createKey()
    const wrong = [
      '',
      'alias',
      'alias/',
      'ALIAS/a',
      'Alias/a',
      'a',
      '/alias/a',
      ' alias/a',
      'alias/a ',
      'alias/a\n',
      'alias/a\0',
      'alias/a b',
      'alias/a.b',
      'alias/a:b',
      'alias/a,b',
      'alias/a*',
      'alias/ä',
      'alias/a\u200d',
      'alias/\ud83d\ude00',
      `alias/${'a'.repeat(251)}`,
      'alias/aws/',
      'alias/aws/s3',
      key,
      `${ALIAS_ARN}alias/a1`,
      `alias/${'a'.repeat(10_000)}`,
    ]
    for (const alias of wrong) {
      expect((await create(alias, key)).code, alias.slice(0, 40)).toBe('ALIAS_INVALID')
      expect((await service.call('keys', { alias })).code, alias.slice(0, 40)).toBe('ALIAS_INVALID')
    }
    expect((await service.engine.kms.aliases.list({ key })).items).toEqual([])
  })

  test('differs from another in the case of a letter', async () => {
    const [lower, upper] = [await service.createKey(), await service.createKey()]
    await create('alias/case', lower)
    await create('alias/CASE', upper)
    expect(await standsFor('alias/case')).toBe(lower)
    expect(await standsFor('alias/CASE')).toBe(upper)
  })

  test('that is refused with a new key makes no key', async () => {
    const count = async (): Promise<number> =>
      (await service.engine.kms.listKeys({ limit: 1_000 })).items.length
    await service.call('keys', { alias: 'alias/once' })
    const before = await count()
    expect((await service.call('keys', { alias: 'alias/once' })).code).toBe('ALIAS_EXISTS')
    expect((await service.call('keys', { alias: 'alias/aws/once' })).code).toBe('ALIAS_INVALID')
    expect(await count()).toBe(before)
  })
})

describe('an alias', () => {
  test('names its key as alias and as ARN, of this region and account only', async () => {
    const key = await service.createKey()
    await create('alias/named', key)
    expect(await standsFor('alias/named')).toBe(key)
    expect(await standsFor(`${ALIAS_ARN}alias/named`)).toBe(key)
    for (const name of [
      'named',
      'alias/named/',
      'alias//named',
      `${ALIAS_ARN}key/alias/named/`,
      'arn:aws:kms:us-east-2:000000000000:alias/named',
      'arn:aws:kms:us-east-1:000000000001:alias/named',
    ]) {
      expect(await standsFor(name), name).toBe('KMS_KEY_NOT_FOUND')
    }
  })

  test('exists once: whoever comes second is refused and changes nothing', async () => {
    const [first, second] = [await service.createKey(), await service.createKey()]
    const answers = await Promise.all([first, second].map((key) => create('alias/raced', key)))
    expect(answers.map(({ code }) => code).sort()).toEqual(['ALIAS_EXISTS', undefined])
    const winner = answers[0]?.code === undefined ? first : second
    expect(await standsFor('alias/raced')).toBe(winner)
    expect((await create('alias/raced', winner)).code).toBe('ALIAS_EXISTS')
  })

  test('that moves seals under the new key at once, and what it sealed before still opens', async () => {
    const [from, to] = [await service.createKey(), await service.createKey()]
    await create('alias/moving', from)
    const { ciphertexts } = await encrypt('alias/moving')
    expect(await standsFor('alias/moving')).toBe(from)
    for (const key of [to, from, to]) {
      expect((await move('alias/moving', key)).code).toBeUndefined()
      expect(await standsFor('alias/moving')).toBe(key)
      expect(await standsFor(`${ALIAS_ARN}alias/moving`)).toBe(key)
    }
    const opened = await service.call('decrypt', { context, ciphertexts })
    expect(Buffer.from(opened.plaintexts[0] as Uint8Array).toString()).toBe('plaintext')
    expect((await service.engine.kms.describeKey(from)).aliases).toEqual([])
    expect((await service.engine.kms.describeKey(to)).aliases).toEqual(['alias/moving'])
  })

  test('moves to another alias’s key, and follows that key, not that alias', async () => {
    const [one, two] = [await service.createKey(), await service.createKey()]
    await create('alias/follower', one)
    await create('alias/leader', two)
    await move('alias/follower', 'alias/leader')
    await move('alias/leader', one)
    expect(await standsFor('alias/follower')).toBe(two)
  })

  test('that is deleted stands for nothing at once, and can be given anew', async () => {
    const [one, two] = [await service.createKey(), await service.createKey()]
    await create('alias/deleted', one)
    expect(await standsFor('alias/deleted')).toBe(one)
    expect((await remove('alias/deleted')).code).toBeUndefined()
    expect(await standsFor('alias/deleted')).toBe('KMS_KEY_NOT_FOUND')
    expect((await remove('alias/deleted')).code).toMatch(/NOT_FOUND$/)
    expect((await move('alias/deleted', two)).code).toMatch(/NOT_FOUND$/)
    await create('alias/deleted', two)
    expect(await standsFor('alias/deleted')).toBe(two)
    expect(await standsFor(one)).toBe(one)
  })

  test('that is created after it was asked for in vain is found', async () => {
    const key = await service.createKey()
    expect(await standsFor('alias/awaited')).toBe('KMS_KEY_NOT_FOUND')
    await create('alias/awaited', key)
    expect(await standsFor('alias/awaited')).toBe(key)
  })

  test('goes where it was moved last, however many ask meanwhile', async () => {
    const keys = await Promise.all(Array.from({ length: 4 }, () => service.createKey()))
    await create('alias/busy', keys[0] as string)
    for (let round = 1; round <= 20; round++) {
      const key = keys[round % keys.length] as string
      const asking = Array.from({ length: 8 }, () => standsFor('alias/busy'))
      await move('alias/busy', key)
      // Acknowledged: whoever asks now gets the new key.
      expect(await standsFor('alias/busy')).toBe(key)
      for (const found of await Promise.all(asking)) {
        expect([key, keys[(round - 1) % keys.length]]).toContain(found)
      }
    }
  })

  test('of a key has company of 49 at most, but moving within a full key is no addition', async () => {
    const [full, other] = [await service.createKey(), await service.createKey()]
    for (let i = 0; i < 50; i++) await create(`alias/full/${i}`, full)
    expect((await create('alias/full/50', full)).code).toBe('LIMIT_EXCEEDED')
    await create('alias/full/50', other)
    expect((await move('alias/full/50', full)).code).toBe('LIMIT_EXCEEDED')
    expect(await standsFor('alias/full/50')).toBe(other)
    expect((await move('alias/full/0', full)).code).toBeUndefined()
    await move('alias/full/0', other)
    expect((await move('alias/full/50', full)).code).toBeUndefined()
    expect((await service.engine.kms.describeKey(full)).aliases).toHaveLength(50)
  })

  test('is changed by name, not by what else names its key', async () => {
    const key = await service.createKey()
    await create('alias/itself', key)
    for (const name of [key, `${ALIAS_ARN}alias/itself`, `${ALIAS_ARN}key/${key}`]) {
      expect((await remove(name)).code, name).toMatch(/^ALIAS_/)
      expect((await move(name, key)).code, name).toMatch(/^ALIAS_/)
    }
    expect(await standsFor('alias/itself')).toBe(key)
  })

  test('of a key that is not there is refused', async () => {
    const absent = '00000000-0000-4000-8000-000000000000'
    for (const key of [absent, 'alias/absent', '', 'nonsense']) {
      expect((await create('alias/orphan', key)).code).toBe('KMS_KEY_NOT_FOUND')
    }
    expect(await standsFor('alias/orphan')).toBe('KMS_KEY_NOT_FOUND')
  })
})

describe('who may use one key only', () => {
  test('moves no alias from or to another key, and sees no difference to one that is absent', async () => {
    const [mine, theirs] = [await service.createKey(), await service.createKey()]
    await create('alias/mine', mine)
    await create('alias/theirs', theirs)
    const { token } = await service.engine.tokens.create({
      name: 'limited',
      actions: ['kms:*'],
      keys: [mine],
    })
    const denied = [
      await send('PUT', 'alias/theirs', { key: mine }, token),
      await send('PUT', 'alias/mine', { key: theirs }, token),
      await send('PUT', 'alias/absent', { key: mine }, token),
      await send('DELETE', 'alias/theirs', undefined, token),
      await send('DELETE', 'alias/absent', undefined, token),
    ]
    for (const { code, message } of denied) {
      expect({ code, message }).toEqual({ code: 'ACCESS_DENIED', message: denied[0]?.message })
    }
    expect(await standsFor('alias/mine')).toBe(mine)
    expect(await standsFor('alias/theirs')).toBe(theirs)
    expect((await send('PUT', 'alias/mine', { key: 'alias/mine' }, token)).code).toBeUndefined()
    expect((await send('DELETE', 'alias/mine', undefined, token)).code).toBeUndefined()
  })
})
