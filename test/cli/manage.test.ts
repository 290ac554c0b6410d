/** `keyfold keys|aliases|tokens|lock` and --help: tables for people, JSON for scripts, and the exit codes of --help. */
import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { Keyfold } from '../../dist/index.js'
import {
  inDirectory,
  jsonOf,
  keyfold,
  MAIN,
  ROOT,
  run,
  serve,
  type Ended,
  type Server,
} from './command.ts'

let server: Server

beforeAll(async () => {
  server = await serve(['--dev', '--log-level', 'error', '--workers', '0'])
})
afterAll(() => server.stop())

const on = (...args: readonly string[]): Promise<Ended> => keyfold(args, server)
const json = async <T>(...args: readonly string[]): Promise<T> =>
  jsonOf<T>(await on(...args, '--json'))

interface Key {
  readonly keyId: string
  readonly arn: string
  readonly state: string
  readonly currentVersion: number
  readonly aliases: readonly string[]
  readonly tags: Readonly<Record<string, string>>
}

describe('keys', () => {
  test('are made, found by every name, disabled, enabled and rotated', async () => {
    const made = await json<Key>(
      ...['keys', 'create', '--alias', 'alias/orders', '--description', 'rows of orders'],
      ...['--tag', 'team=billing', '--tag', 'formula=a=b'],
    )
    expect(made).toMatchObject({
      arn: `arn:aws:kms:us-east-1:000000000000:key/${made.keyId}`,
      description: 'rows of orders',
      state: 'Enabled',
      currentVersion: 1,
      aliases: ['alias/orders'],
      tags: { team: 'billing', formula: 'a=b' },
    })
    for (const name of [made.keyId, made.arn, 'alias/orders']) {
      expect(await json('keys', 'describe', name)).toEqual(made)
    }
    expect(await json<Key>('keys', 'disable', 'alias/orders')).toMatchObject({ state: 'Disabled' })
    expect(await json<Key>('keys', 'enable', made.arn)).toMatchObject({ state: 'Enabled' })
    expect(await json<Key>('keys', 'rotate', made.keyId)).toMatchObject({ currentVersion: 2 })
    const listed = await json<readonly Key[]>('keys', 'list')
    expect(listed).toContainEqual({ keyId: made.keyId, arn: made.arn })
  })

  test('are tables for people, who see what others wrote and not what it would do', async () => {
    const bell = '\u001b]0;title\u0007\u202e\u009b2J'
    const made = await on('keys', 'create', '--description', `evil ${bell}`)
    expect(made.code).toBe(0)
    expect(made.text).toMatch(/│ state +│ Enabled +│/)
    expect(made.text).toMatch(/│ created +│ \d{4}-\d\d-\d\dT[\d:.]+Z +│/)
    expect(made.text).toContain('evil \\u{1b}]0;title\\u{7}\\u{202e}\\u{9b}2J')
    expect(made.text).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202e]/)
    const lines = (await on('keys', 'list')).text.trimEnd().split('\n')
    expect(lines[1]).toMatch(/│ keyId +│ arn +│/)
    expect(new Set(lines.map((line) => line.length)).size).toBe(1)
  })

  test('beyond one page are all listed, once', async () => {
    const client = new Keyfold({ url: server.ready.url, token: server.ready.token })
    const ids = new Set<string>()
    const create = async (): Promise<void> => {
      while (ids.size < 1_010) {
        ids.add(((await client.manage('POST', '/v1/keys', {})) as unknown as Key).keyId)
      }
    }
    await Promise.all(Array.from({ length: 8 }, create))
    await client.close()
    const listed = (await json<readonly Key[]>('keys', 'list')).map(({ keyId }) => keyId)
    expect(new Set(listed).size).toBe(listed.length)
    expect([...ids].filter((id) => !listed.includes(id))).toEqual([])
  })
})

describe('aliases', () => {
  test('are given, listed, moved and deleted; the key stays', async () => {
    const [a, b] = [await json<Key>('keys', 'create'), await json<Key>('keys', 'create')]
    expect(await on('aliases', 'create', 'alias/moves', a.keyId)).toMatchObject({
      code: 0,
      text: '',
      stderr: '',
    })
    expect(await json('aliases', 'create', 'alias/with/slash', a.arn)).toEqual({})
    const of = async (key: Key): Promise<readonly string[]> =>
      (await json<readonly { name: string }[]>('aliases', 'list', '--key', key.keyId)).map(
        ({ name }) => name,
      )
    expect(await of(a)).toEqual(['alias/moves', 'alias/with/slash'])
    expect(await json('aliases', 'update', 'alias/moves', b.keyId)).toEqual({})
    expect([await of(a), await of(b)]).toEqual([['alias/with/slash'], ['alias/moves']])
    const table = await on('aliases', 'list')
    expect(table.text).toMatch(new RegExp(`│ alias/moves +│ ${b.keyId} │`))
    expect(await json('aliases', 'delete', 'alias/with/slash')).toEqual({})
    expect(await of(a)).toEqual([])
    expect(await json<Key>('keys', 'describe', a.keyId)).toMatchObject({ aliases: [] })
  })
})

interface Token {
  readonly tokenId: string
  readonly token: string
}

describe('tokens', () => {
  test('open what they say until they are revoked, and are shown once', async () => {
    const created = await on('tokens', 'create', '--name', 'reader', '--actions', 'kms:ListKeys')
    expect(created).toMatchObject({ code: 0, stderr: '' })
    const token = created.text.trimEnd()
    expect(token).toMatch(/^kf_[\w-]+$/)
    const [, tokenId = ''] = token.split('_')
    const as = { env: { ...server.env, KEYFOLD_TOKEN: token } }
    jsonOf(await keyfold(['keys', 'list', '--json'], as))
    const refused = await keyfold(['keys', 'create'], as)
    expect(refused).toMatchObject({ code: 1, text: '' })
    expect(refused.stderr).toMatch(/^keyfold: .*\(ACCESS_DENIED\)\n$/)

    const listed = await json<readonly Record<string, unknown>[]>('tokens', 'list')
    expect(listed.find((one) => one['tokenId'] === tokenId)).toMatchObject({
      name: 'reader',
      principal: 'arn:aws:iam::000000000000:user/reader',
      actions: ['kms:ListKeys'],
      keys: ['*'],
    })
    expect(JSON.stringify(listed) + (await on('tokens', 'list')).text).not.toContain(token)
    expect(await json('tokens', 'revoke', tokenId)).toEqual({})
    const revoked = await keyfold(['keys', 'list'], as)
    expect(revoked.code).toBe(1)
    expect(revoked.stderr).toMatch(/UNAUTHENTICATED/)
  })

  test('have a principal, keys and a date, where these are given', async () => {
    const principal = 'arn:aws:iam::000000000000:role/auditor'
    const made = await json<Token>(
      ...['tokens', 'create', '--name', 'auditor', '--principal', principal],
      ...[
        '--keys',
        '00000000-0000-4000-8000-000000000000,arn:aws:kms:*:*:key/*',
        '--expires-in',
        '86400',
      ],
    )
    const listed = await json<readonly (Token & { expiresAtMs: number })[]>('tokens', 'list')
    const found = listed.find(({ tokenId }) => tokenId === made.tokenId)
    expect(found).toMatchObject({
      principal,
      keys: ['00000000-0000-4000-8000-000000000000', 'arn:aws:kms:*:*:key/*'],
    })
    const expires = new Date(found?.expiresAtMs ?? 0).toISOString()
    expect((await on('tokens', 'list')).text).toContain(expires)
  })

  test('are not lost in silence when the disk is full', async () => {
    const script = '"$NODE" "$MAIN" tokens create --name lost > /dev/full'
    const env = { ...server.env, NODE: process.execPath, MAIN }
    const { code, stderr } = await run('sh', ['-c', script], { env })
    expect(code).toBe(1)
    expect(stderr).toMatch(/^keyfold: ENOSPC: [^\n]+\n$/)
  })
})

describe('what cannot be done', () => {
  const uuid = '00000000-0000-4000-8000-000000000000'
  test.each([
    ['a key that is not there', ['keys', 'describe', uuid], 1, /KMS_KEY_NOT_FOUND/],
    ['an alias that is no alias', ['keys', 'create', '--alias', 'orders'], 1, /ALIAS_INVALID/],
    ['an alias of AWS', ['keys', 'create', '--alias', 'alias/aws/x'], 1, /ALIAS_INVALID/],
    ['a token that is not there', ['tokens', 'revoke', 'none'], 1, /TOKEN_NOT_FOUND/],
    [
      'a token without a proper name',
      ['tokens', 'create', '--name', 'a b'],
      1,
      /name: 1 to 64 lett/,
    ],
    [
      'a token that never was',
      ['tokens', 'create', '--name', 'a', '--expires-in', '0'],
      2,
      /whole nu/,
    ],
    ['a token without a name', ['tokens', 'create'], 2, /required option '--name <name>'/],
    ['a tag without a value', ['keys', 'create', '--tag', 'team'], 2, /KEY=VALUE is needed/],
    [
      'a tag given twice',
      ['keys', 'create', '--tag', 'a=1', '--tag', 'a=2'],
      2,
      /"a" is given twice/,
    ],
    ['a command that is none', ['keys', 'destroy', 'all'], 2, /unknown command 'destroy'/],
    ['a flag that is none', ['keys', 'list', '--fast'], 2, /unknown option '--fast'/],
    ['a key too many', ['keys', 'rotate', 'a', 'b'], 2, /too many arguments/],
    ['no key', ['keys', 'rotate'], 2, /missing required argument 'key'/],
    [
      'a URL that is none',
      ['keys', 'list', '--url', 'here'],
      2,
      /the URL "here" is not one such as http/,
    ],
    ['no token', ['keys', 'list', '--token', ''], 2, /give --token or set KEYFOLD_TOKEN/],
    ['a token that is wrong', ['keys', 'list', '--token', 'kf_x'], 1, /UNAUTHENTICATED/],
    [
      'a CA file that is none',
      ['keys', 'list', '--ca', '/nonexistent'],
      2,
      /ENOENT: .*'\/nonexistent'/,
    ],
    [
      'half a certificate',
      ['keys', 'list', '--client-cert', 'a'],
      2,
      /--client-key are needed together/,
    ],
    [
      'nobody at the address',
      ['keys', 'list', '--url', 'http://127.0.0.1:1'],
      1,
      /could not be reached: .*:1\b/,
    ],
  ] as const)('%s', async (_, args, code, says) => {
    const ended = await on(...args)
    expect(ended.stderr).toMatch(says)
    expect(ended.stderr).not.toMatch(/\n +at /)
    expect(ended).toMatchObject({ code, text: '' })
  })

  test('a reader that has gone is not told', async () => {
    const script = '{ "$NODE" "$MAIN" keys list; echo "$?" >&2; } | :'
    const env = { ...server.env, NODE: process.execPath, MAIN }
    expect(await run('sh', ['-c', script], { env })).toMatchObject({ stderr: '0\n' })
  })
})

describe('lock', () => {
  test('ends the use of every key at once, until a restart', async () => {
    const locked = await serve(['--dev', '--log-level', 'error', '--workers', '0'])
    jsonOf(await keyfold(['keys', 'create', '--alias', 'alias/x', '--json'], locked))
    const refused = await keyfold(['lock', '--token', 'kf_x'], locked)
    expect(refused).toMatchObject({ code: 1, text: '' })
    expect(await keyfold(['lock'], locked)).toMatchObject({
      code: 0,
      text: 'locked: the server holds no keys until it is started again\n',
    })
    expect(jsonOf(await keyfold(['lock', '--json'], locked))).toEqual({ locked: true })
    const encrypt = ['encrypt', '--lines', '-k', 'alias/x']
    const ended = await keyfold(encrypt, { ...locked, input: 'row\n' })
    expect(ended).toMatchObject({ code: 1, text: '' })
    expect(ended.stderr).toMatch(/\(LOCKED\)\n$/)
    expect((await locked.stop()).code).toBe(0)
  })
})

describe('--help', () => {
  /** Every command, as --help of the one above lists it. */
  async function commands(path: readonly string[] = []): Promise<readonly (readonly string[])[]> {
    const { code, text, stderr } = await keyfold([...path, '--help'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(text).toMatch(new RegExp(`^Usage: ${['keyfold', ...path].join(' ')}`))
    const [, list = ''] = text.split('\nCommands:\n')
    const names = [...list.matchAll(/^ {2}([a-z-]+)/gm)]
      .map((match) => match[1] ?? '')
      .filter((name) => name !== 'help' && name !== 'keyfold')
    const below = await Promise.all(names.map((name) => commands([...path, name])))
    return [path, ...below.flat()]
  }

  test('is there for every command', async () => {
    const found = (await commands()).map((path) => path.join(' '))
    expect(found).toEqual(expect.arrayContaining(['serve', 'keys rotate', 'tokens create', 'lock']))
  })

  test('is what a command line without a command gets, on stderr and with 2', async () => {
    for (const path of [[], ['keys'], ['aliases'], ['tokens']]) {
      const ended = await keyfold(path)
      expect(ended).toMatchObject({ code: 2, text: '' })
      expect(ended.stderr).toBe((await keyfold([...path, '--help'])).text)
    }
  })

  test('--version is that of the package', async () => {
    const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
      version: string
    }
    expect(await keyfold(['--version'])).toMatchObject({
      code: 0,
      text: `${version}\n`,
      stderr: '',
    })
  })
})

describe('a server with a certificate', () => {
  const title = 'that asks for one is managed with --ca, --client-cert and --client-key'
  const openssl = spawnSync('openssl', ['version']).error === undefined
  if (!openssl && process.env['CI'] === undefined) {
    test.skip(`${title} (no openssl: install the package openssl)`, () => undefined)
    return
  }
  test(title, () =>
    inDirectory(async (directory) => {
      expect(openssl, 'CI needs openssl: install the package openssl').toBe(true)
      const [cert, key] = [join(directory, 'cert.pem'), join(directory, 'key.pem')]
      // One certificate is server, client and the CA of both.
      execFileSync(
        'openssl',
        [
          ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'],
          ...['-keyout', key, '-out', cert, '-days', '2', '-subj', '/CN=keyfold'],
          ...['-addext', 'subjectAltName=IP:127.0.0.1'],
        ],
        { stdio: 'ignore' },
      )
      const flags = ['--tls-cert', cert, '--tls-key', key, '--client-ca', cert]
      const secured = await serve(['--dev', '--log-level', 'error', ...flags])
      const shown = ['--client-cert', cert, '--client-key', key]
      const list = ['keys', 'list', '--json']
      expect(jsonOf(await keyfold([...list, '--ca', cert, ...shown], secured))).toEqual([])
      const nameless = await keyfold([...list, '--ca', cert], secured)
      expect(nameless).toMatchObject({ code: 1, text: '' })
      expect(nameless.stderr).toMatch(/a client certificate is required.*\(UNAUTHENTICATED\)/)
      const unknown = await keyfold([...list, ...shown], secured)
      expect(unknown).toMatchObject({ code: 1, text: '' })
      expect(unknown.stderr).toMatch(/self-signed certificate .*\(CONNECTION_FAILED\)/)
      expect((await secured.stop()).code).toBe(0)
    }),
  )
})
