/** `keyfold key-stores`, as its users meet it. What it opens needs an HSM or a proxy: here there is none that answers. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'

import { inDirectory, jsonOf, keyfold, serve, type Ended, type Server } from './command.ts'

const PIN = 'pin-of-the-user'
const TOKEN = 'hvs.token-of-the-vault'

let server: Server

beforeAll(() =>
  inDirectory(async (directory) => {
    const modules = join(directory, 'modules.json')
    writeFileSync(
      modules,
      JSON.stringify({ luna: { library: '/nowhere/luna.so', token: { label: 'luna' } } }),
    )
    server = await serve(['--dev', '--pkcs11-modules', modules])
  }),
)
afterAll(() => server.stop())

const run = (args: readonly string[], input = ''): Promise<Ended> =>
  keyfold(['key-stores', ...args], { env: server.env, input })

type Row = Readonly<Record<string, unknown>>

test('every setting that a kind takes stands in --help, and others are refused', async () => {
  const { text } = await run(['create', '--help'])
  const refused = async (kind: string): Promise<readonly string[]> => {
    const { stderr } = await run(
      ['create', 'x', '--kind', kind, '--set', 'no=such', '--secret-file', '-'],
      'secret',
    )
    const [, names = ''] = /settings\.no: \S+ has ([A-Za-z, ]+)/.exec(stderr) ?? []
    return names.split(', ')
  }
  const common = text.slice(text.indexOf('Settings of every kind'))
  for (const kind of ['pkcs11', 'xks', 'aws-kms', 'transit']) {
    const own = text.slice(text.search(new RegExp(`^  ${kind}$`, 'm')), text.indexOf(common))
    const names = await refused(kind)
    expect(names.length).toBeGreaterThan(4)
    for (const name of names) expect(own + common).toMatch(new RegExp(`^ +[*]? *${name} +\\w`, 'm'))
    expect(names).toEqual(expect.arrayContaining(['deadlineMs', 'callsMax', 'required']))
  }
})

test('key stores are created, listed, described, changed and deleted; secrets come from files and stdin', async () => {
  const created = await inDirectory((directory) => {
    const file = join(directory, 'pin')
    writeFileSync(file, `${PIN}\n`)
    return run([
      ...['create', 'hsm', '--kind', 'pkcs11', '--set', 'module=luna'],
      ...['--secret-file', file, '--json'],
    ])
  })
  const hsm = jsonOf<Row>(created)
  expect(hsm).toMatchObject({
    name: 'hsm',
    kind: 'pkcs11',
    settings: { module: 'luna' },
    connectionState: 'DISCONNECTED',
    keepsOpenKeys: false,
  })
  const vault = jsonOf<Row>(
    await run(
      [
        ...['create', 'vault', '--kind', 'transit', '--set', 'url=https://127.0.0.1:1'],
        ...['--secret-file', '-', '--keeps-open-keys', 'true', '--json'],
      ],
      `${TOKEN}\n`,
    ),
  )
  expect(vault).toMatchObject({ kind: 'transit', keepsOpenKeys: true })

  const listed = await run(['list', '--json'])
  expect(jsonOf<readonly Row[]>(listed).map(({ id }) => id)).toEqual(
    [hsm['id'], vault['id']].sort(),
  )
  const table = await run(['list'])
  expect(table.text).toContain('vault')
  expect(table.text).toContain('DISCONNECTED')

  const renamed = await run(['update', 'vault', '--name', 'safe', '--set', 'mount=keys', '--json'])
  expect(jsonOf(renamed)).toMatchObject({
    name: 'safe',
    settings: { mount: 'keys', url: 'https://127.0.0.1:1' },
  })
  const described = await run(['describe', 'safe'])
  expect(described.text).toContain(String(vault['id']))
  for (const { text, stderr } of [created, listed, table, renamed, described]) {
    expect(text + stderr).not.toContain(PIN)
    expect(text + stderr).not.toContain(TOKEN)
  }
  expect((await run(['delete', 'safe'])).code).toBe(0)
  expect((await run(['delete', String(hsm['id'])])).code).toBe(0)
  expect(jsonOf(await run(['list', '--json']))).toEqual([])
})

test('what cannot be connected says why, and its keys cannot be made', async () => {
  await run(['create', 'hsm', '--kind', 'pkcs11', '--set', 'module=luna'])
  const connected = await run(['connect', 'hsm', '--json'])
  expect(connected.code).toBe(1)
  expect(JSON.parse(connected.text)).toMatchObject({ connectionState: 'FAILED' })
  const key = await keyfold(['keys', 'create', '--key-store', 'hsm'], { env: server.env })
  expect(key.code).toBe(1)
  expect(key.stderr).toContain('KEY_STORE_STATE_INVALID')
  const named = ['keys', 'create', '--key-store', 'none', '--external-key-id', 'x']
  expect((await keyfold(named, { env: server.env })).stderr).toContain('KEY_STORE_NOT_FOUND')
  expect(jsonOf(await run(['disconnect', 'hsm', '--json']))).toMatchObject({
    connectionState: 'DISCONNECTED',
  })
  await run(['delete', 'hsm'])
})

test('what is refused says so, and repeats no secret', async () => {
  const xks = ['create', 'x', '--kind', 'xks', '--set', 'uriEndpoint=https://xks.example.com']
  for (const [args, input, code, says] of [
    [['describe', 'none'], '', 1, 'KEY_STORE_NOT_FOUND'],
    [['create', 'x', '--kind', 'usb'], '', 2, 'pkcs11'],
    [['create', 'x'], '', 2, '--kind'],
    [['create', 'x', '--kind', 'pkcs11'], '', 1, 'settings.module'],
    [['create', 'x', '--kind', 'pkcs11', '--set', 'module=none'], '', 1, 'HSM_NOT_FOUND'],
    [['create', 'x', '--kind', 'pkcs11', '--set', 'library=/a.so'], '', 1, 'settings.library'],
    [['create', 'local', '--kind', 'pkcs11', '--set', 'module=luna'], '', 1, 'IN_USE'],
    [xks, '', 1, 'settings.uriPath'],
    [
      [
        ...[...xks, '--set', 'uriPath=/kms/xks/v1', '--set', 'accessKeyId=ABCDEFGHIJ234567ABCD'],
        ...['--secret-file', '-'],
      ],
      'a-secret-that-is-too-short\n',
      1,
      'secret: 43 to 64 characters',
    ],
  ] as const) {
    const ended = await run(args, input)
    expect(ended, args.join(' ')).toMatchObject({ code })
    expect(ended.stderr).toContain(says)
    expect(ended.stderr).not.toContain('a-secret-that')
  }
})
