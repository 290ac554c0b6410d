/** Many grants of one key, and what memory knows of them. */
import { afterEach, describe, expect, test } from 'vitest'

import type { NewGrant } from '../../dist/kms/grants.js'
import type { KmsKey } from '../../dist/kms/kms-key.js'
import { runInCatalog } from '../catalog/file.ts'
import { startService, type Service } from '../service.ts'

let service: Service

afterEach(() => service.close())

const grantee = 'arn:aws:iam::000000000000:user/Alice'
const grantFor = (fields: Partial<NewGrant> = {}): NewGrant => ({
  granteePrincipal: grantee,
  retiringPrincipal: undefined,
  operations: ['Encrypt'],
  constraints: { equals: undefined, subset: undefined },
  name: undefined,
  issuingAccount: '000000000000',
  ...fields,
})

/** A service on a catalog in which one key has so many grants. */
async function startWithGrants(count: number): Promise<KmsKey> {
  const first = await startService()
  const { keyId } = await first.engine.kms.createKey({})
  await first.engine.close()
  runInCatalog(
    first.dataDirectory,
    `with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < ${count})
     insert into grants ("id", "kmsKeyId", "granteePrincipal", "operations", "constraints", "createdAtMs",
       "changeNumber", "issuingAccount")
     select printf('%064x', n), '${keyId}', '${grantee}', '["Encrypt"]', '{}', 1, 1, '000000000000' from numbers`,
  )
  service = await startService({ filesFrom: first.dataDirectory })
  return service.engine.kms.registry.resolve(keyId)
}

describe('a key', () => {
  test('has up to 50,000 grants, and one more when one of them has ended', async () => {
    const kmsKey = await startWithGrants(49_999)
    const { grants, registry } = service.engine.kms
    const last = await grants.create(kmsKey.arn, grantFor({ name: 'last' }))
    await expect(grants.create(kmsKey.arn, grantFor())).rejects.toThrow(/at most 50000 grants/)
    // Asked for again it is there, and no further one.
    expect((await grants.create(kmsKey.arn, grantFor({ name: 'last' }))).grantId).toBe(last.grantId)
    await grants.end(kmsKey, '0'.repeat(63) + '1', 'RevokeGrant')
    await grants.create(kmsKey.arn, grantFor())
    expect((await registry.resolve(kmsKey.arn)).grants).toHaveLength(50_000)
  })

  test('lists them in pages of 1,000, each once', async () => {
    const kmsKey = await startWithGrants(3_500)
    const found = new Set<string>()
    const sizes: number[] = []
    let marker: string | undefined
    do {
      const page = await service.engine.kms.grants.list(kmsKey, { limit: 1_000, marker })
      for (const { id } of page.items) found.add(id)
      sizes.push(page.items.length)
      marker = page.nextMarker
    } while (marker !== undefined)
    expect(sizes).toEqual([1_000, 1_000, 1_000, 500])
    expect(found.size).toBe(3_500)
  })

  test('has in memory the grants that the catalog has, whatever was changed meanwhile', async () => {
    const kmsKey = await startWithGrants(3)
    const { kms } = service.engine
    const id = kmsKey.keyId
    const ended = '0'.repeat(63) + '2'
    await Promise.all([
      kms.grants.create(id, grantFor({ name: 'a' })),
      kms.tags.add(id, new Map([['k', 'v']])),
      kms.grants.end(kmsKey, ended, 'RetireGrant'),
      kms.disableKey(id),
      kms.enableKey(id),
      kms.grants.create(
        id,
        grantFor({ name: 'b', constraints: { equals: new Map([['a', '1']]), subset: undefined } }),
      ),
      kms.rotations.rotateOnDemand(id),
      kms.grants.create(id, grantFor({ name: 'a' })),
    ])
    const remembered = (await kms.registry.resolve(id)).grants
    expect(remembered.map(({ name }) => name).sort()).toEqual(['a', 'b', undefined, undefined])
    expect(remembered.some((grant) => grant.id === ended)).toBe(false)
    kms.registry.forget(kmsKey.id)
    const read = (await kms.registry.resolve(id)).grants
    const byId = (one: { readonly id: string }, other: { readonly id: string }): number =>
      one.id < other.id ? -1 : 1
    expect([...remembered].sort(byId)).toEqual([...read].sort(byId))
  })

  test('keeps the grants of memory as they were where a change fails', async () => {
    const kmsKey = await startWithGrants(2)
    const { kms } = service.engine
    await expect(kms.grants.end(kmsKey, 'f'.repeat(64), 'RevokeGrant')).rejects.toThrow(/not found/)
    await kms.disableKey(kmsKey.arn)
    await expect(kms.grants.create(kmsKey.arn, grantFor())).rejects.toThrow(/is disabled/)
    expect((await kms.registry.resolve(kmsKey.arn)).grants).toHaveLength(2)
  })
})
