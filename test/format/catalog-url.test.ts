/** The address of a shared catalog: what libpq takes, but for what would encrypt to whoever answers. */
import { describe, expect, test } from 'vitest'

import { parseCatalogUrl } from '../../dist/format/catalog-url.js'

describe('a catalog URL', () => {
  test('names host, port, database and user, each decoded', () => {
    expect(parseCatalogUrl('postgres://key%40fold:s%2Fecret@127.0.0.1:6543/the%20catalog')).toEqual(
      {
        host: '127.0.0.1',
        port: 6543,
        database: 'the catalog',
        user: 'key@fold',
        password: 's/ecret',
        tls: undefined,
      },
    )
    expect(parseCatalogUrl('postgresql://u@[::1]/d')).toMatchObject({ host: '::1', port: 5432 })
    expect(parseCatalogUrl('postgres://u@localhost/d?host=/run/postgresql')).toMatchObject({
      host: '/run/postgresql',
      tls: undefined,
    })
  })

  test('means a server whose certificate is checked wherever it is beyond this machine', () => {
    for (const host of ['db.example', '10.0.0.1', 'localhost.example', '127.example']) {
      expect(parseCatalogUrl(`postgres://u@${host}/d`).tls, host).toBeDefined()
    }
    expect(parseCatalogUrl('postgres://u@db.example/d?sslmode=disable').tls).toBeUndefined()
    expect(
      parseCatalogUrl('postgres://u@localhost/d?sslmode=verify-full&sslrootcert=/ca.pem').tls,
    ).toEqual({ caFile: '/ca.pem', certFile: undefined, keyFile: undefined })
  })

  test.each([
    '',
    'postgres://',
    'mysql://u:hunter2@h/d',
    'postgres://u:hunter2@h',
    'postgres://:hunter2@h/d',
    'postgres://u:hunter2@h:99999/d',
    'postgres://u:hunter2@h/d?sslmode=require',
    'postgres://u:hunter2@h/d?sslmode=prefer',
    'postgres://u:hunter2@h/d?options=-c%20fsync%3Doff',
    'postgres://u:hunter2@h/d#x',
    'postgres://u:hunter2@h/%E0%A4%A',
  ])('like “%s” is refused without being repeated', (url) => {
    let message = ''
    try {
      parseCatalogUrl(url)
    } catch (error) {
      message = String(error)
    }
    expect(message).not.toBe('')
    expect(message).not.toContain('hunter2')
  })
})
