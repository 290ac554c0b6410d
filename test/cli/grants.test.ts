/** `keyfold grants`, as its users meet it. */
import { afterAll, beforeAll, expect, test } from 'vitest'

import { jsonOf, keyfold, serve, type Ended, type Server } from './command.ts'

let server: Server

beforeAll(async () => {
  server = await serve(['--dev'])
})
afterAll(() => server.stop())

const run = (...args: readonly string[]): Promise<Ended> => keyfold(args, { env: server.env })

test('grants are created, listed, retired and revoked; what is refused says so', async () => {
  const user = (name: string): string => `arn:aws:iam::${server.ready.account}:user/${name}`
  await run('keys', 'create', '--alias', 'alias/orders')
  const create = (...more: string[]): Promise<Ended> =>
    run('grants', 'create', 'alias/orders', '--grantee', user('app'), ...more)
  const made = await create(
    ...['--operations', 'Encrypt,Decrypt', '--subset', 'table=orders', '--subset', 'a=b=c'],
    ...['--retiring', user('boss'), '--name', 'n'],
  )
  expect(made.text).toMatch(/^[0-9a-f]{64}\n$/)
  const grantId = made.text.trim()
  const other = jsonOf<{ grantId: string; grantToken: string }>(
    await create('--operations', 'Encrypt', '--equals', 'a=1', '--json'),
  )
  expect(other.grantToken).toMatch(/^[A-Za-z0-9+/]{64}$/)

  const list = async (...args: string[]): Promise<readonly Record<string, unknown>[]> =>
    jsonOf(await run('grants', 'list', '--json', ...args))
  const found = await list('--key', 'alias/orders')
  expect(found.find((grant) => grant['grantId'] === grantId)).toMatchObject({
    granteePrincipal: user('app'),
    retiringPrincipal: user('boss'),
    operations: ['Encrypt', 'Decrypt'],
    encryptionContextSubset: { table: 'orders', a: 'b=c' },
    name: 'n',
  })
  expect(await list('--key', 'alias/orders', '--grantee', user('nobody'))).toEqual([])
  expect(await list('--retiring', user('boss'))).toMatchObject([{ grantId }])
  const table = await run('grants', 'list', '--key', 'alias/orders')
  expect(table.text).toContain(grantId)

  expect((await run('grants', 'retire', grantId)).code).toBe(0)
  expect((await run('grants', 'revoke', other.grantId)).code).toBe(0)
  expect(await list('--key', 'alias/orders')).toEqual([])
  for (const [args, code, says] of [
    [['revoke', other.grantId], 1, 'GRANT_NOT_FOUND'],
    [['retire', 'x'], 1, 'GRANT_ID_INVALID'],
    [['list'], 1, 'either key or retiringPrincipal'],
    [['create', 'alias/orders', '--operations', 'Encrypt'], 2, '--grantee'],
    [['create', 'alias/orders', '--grantee', user('a'), '--operations', 'Sign'], 1, 'Sign'],
  ] as const) {
    const ended = await run('grants', ...args)
    expect(ended).toMatchObject({ code })
    expect(ended.stderr).toContain(says)
  }
})
