/** Lists in pages: every key and alias once, in order, whatever limit and marker somebody makes up. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { startService, type Service } from '../service.ts'

const KEYS = 25

let service: Service
let keyIds: readonly string[]
let names: readonly string[]

interface Listed {
  readonly code?: string
  readonly message?: string
  readonly nextMarker?: string | null
  readonly keys: readonly { readonly keyId: string; readonly arn: string }[]
  readonly aliases: readonly {
    readonly name: string
    readonly keyId: string
    readonly arn: string
  }[]
}

beforeAll(async () => {
  service = await startService()
  const created = await Promise.all(
    Array.from({ length: KEYS }, (_, i) =>
      service.call('keys', { alias: `alias/${String.fromCharCode(0x61 + i)}` }),
    ),
  )
  keyIds = created.map(({ keyId }) => keyId).sort()
  names = Array.from({ length: KEYS }, (_, i) => `alias/${String.fromCharCode(0x61 + i)}`)
})
afterAll(() => service.close())

async function list(path: string, query: Readonly<Record<string, string>>): Promise<Listed> {
  const response = await fetch(
    `${service.url}/v1/${path}?${new URLSearchParams(query).toString()}`,
    { headers: { authorization: `Bearer ${service.token}`, accept: 'application/json' } },
  )
  const text = await response.text()
  return JSON.parse(text) as Listed
}

/** Follows the markers to the end. */
async function listAll(
  path: string,
  limit: number,
  query: Readonly<Record<string, string>> = {},
): Promise<readonly Listed[]> {
  const pages: Listed[] = []
  let marker: string | null | undefined
  do {
    const page = await list(path, {
      ...query,
      limit: String(limit),
      ...(typeof marker === 'string' ? { marker } : {}),
    })
    expect(page.code).toBeUndefined()
    pages.push(page)
    marker = page.nextMarker
  } while (typeof marker === 'string' && pages.length <= 2 * KEYS)
  return pages
}

describe('a list', () => {
  test.each([1, 2, 5, 7, 24, 25, 26, 1_000])(
    'in pages of %d has every key once, in order, and no empty page at its end',
    async (limit) => {
      const pages = await listAll('keys', limit)
      expect(pages).toHaveLength(Math.ceil(KEYS / limit))
      expect(pages.flatMap(({ keys }) => keys.map(({ keyId }) => keyId))).toEqual(keyIds)
      for (const { keyId, arn } of pages.flatMap(({ keys }) => keys)) {
        expect(arn).toBe(`arn:aws:kms:us-east-1:000000000000:key/${keyId}`)
      }
    },
  )

  test('of aliases is in order too, and of one key has that key’s only', async () => {
    const pages = await listAll('aliases', 4)
    expect(pages.flatMap(({ aliases }) => aliases.map(({ name }) => name))).toEqual(names)
    const key = keyIds[3] as string
    const own = await listAll('aliases', 1, { key })
    expect(own).toHaveLength(1)
    expect(own[0]?.aliases.map(({ keyId }) => keyId)).toEqual([key])
    expect((await list('aliases', { key: own[0]?.aliases[0]?.name as string })).aliases).toEqual(
      own[0]?.aliases,
    )
  })

  test('loses and repeats nothing that was there all along while others are added and removed', async () => {
    const seen: string[] = []
    let marker: string | null | undefined
    for (let page = 0; ; page++) {
      const answer = await list('aliases', {
        limit: '3',
        ...(typeof marker === 'string' ? { marker } : {}),
      })
      seen.push(...answer.aliases.map(({ name }) => name))
      marker = answer.nextMarker
      if (typeof marker !== 'string') break
      // Behind the page, on its border and before it.
      await service.engine.kms.aliases.create(`${marker}-after`, keyIds[0] as string)
      await service.engine.kms.aliases.create(`alias/A${page}`, keyIds[0] as string)
      expect(page).toBeLessThan(KEYS)
    }
    expect(seen.filter((name) => names.includes(name))).toEqual(names)
    expect(new Set(seen).size).toBe(seen.length)
    for (const { name } of (await service.engine.kms.aliases.list({ limit: 1_000 })).items) {
      if (!names.includes(name)) await service.engine.kms.aliases.delete(name)
    }
  })

  test('goes on after a marker whose alias was deleted meanwhile', async () => {
    await service.engine.kms.aliases.create('alias/c-gone', keyIds[0] as string)
    const first = await list('aliases', { limit: '4' })
    expect(first.nextMarker).toBe('alias/c-gone')
    await service.engine.kms.aliases.delete('alias/c-gone')
    const next = await list('aliases', { limit: '2', marker: 'alias/c-gone' })
    expect(next.aliases.map(({ name }) => name)).toEqual(['alias/d', 'alias/e'])
  })
})

describe('a limit', () => {
  test('is a whole number from 1 to 1,000', async () => {
    for (const path of ['keys', 'aliases']) {
      for (const limit of ['0', '-1', '1001', '1.5', 'many', 'NaN', 'Infinity', '1e9', '']) {
        const { code, message } = await list(path, { limit })
        expect(code, limit).toBe('REQUEST_MALFORMED')
        expect(message, limit).toContain('1 to 1000')
      }
    }
  })

  test('that nobody gave is 100', async () => {
    for (let i = 0; i < 90; i++) await service.engine.kms.createKey({})
    const page = await list('keys', {})
    expect(page.keys).toHaveLength(100)
    expect(page.nextMarker).toBe(page.keys[99]?.keyId)
  })
})

describe('a marker that somebody made up', () => {
  test('is a place in the order and nothing more: no error, no statement, no foreign row', async () => {
    const everything = (await service.engine.kms.aliases.list({ limit: 1_000 })).items.map(
      ({ name }) => name,
    )
    for (const marker of [
      '',
      ' ',
      'alias/',
      'alias/c',
      'alias/c\0',
      'zzz',
      '\uffff',
      '%',
      '_',
      '*',
      `' or 1=1 --`,
      `'; delete from aliases; --`,
      '00000000-0000-4000-8000-000000000000',
      'a'.repeat(2_000),
    ]) {
      const { aliases, code } = await list('aliases', { marker, limit: '1000' })
      expect(code, marker).toBeUndefined()
      // SQLite compares text by its bytes.
      const after = everything.filter(
        (name) => Buffer.compare(Buffer.from(name), Buffer.from(marker)) > 0,
      )
      expect(
        aliases.map(({ name }) => name),
        marker,
      ).toEqual(after)
      const { keys } = await list('keys', { marker, limit: '1000' })
      expect(keys.every(({ keyId }) => keyId > marker)).toBe(true)
    }
    expect((await service.engine.kms.aliases.list({ limit: 1_000 })).items).toHaveLength(
      everything.length,
    )
  })

  test('shows no alias of another key than the one that was asked for', async () => {
    const key = keyIds[0] as string
    const { aliases } = await list('aliases', { key, marker: '', limit: '1000' })
    expect(aliases.every(({ keyId }) => keyId === key)).toBe(true)
    expect((await list('aliases', { key: 'alias/absent' })).code).toBe('KMS_KEY_NOT_FOUND')
  })
})
