/** `keyfold init` and `keyfold serve`: how a server starts, what it says when it does not, and how it ends. */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'

import {
  inDirectory,
  jsonOf,
  keyfold,
  MAIN,
  serve,
  start,
  type Ended,
  type Environment,
  type Server,
} from './command.ts'

const QUIET = ['--log-level', 'error', '--workers', '0']

describe('serve --ready-json', () => {
  test('prints one line of JSON, and what it says is so', async () => {
    const server = await serve(['--dev', ...QUIET, '--region', 'eu-west-1'])
    const { ready } = server
    expect(ready).toMatchObject({
      url: expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+$/) as string,
      token: expect.stringMatching(/^kf_/) as string,
      region: 'eu-west-1',
      account: '000000000000',
      pid: server.child.pid,
    })
    const answer = await fetch(`${ready.url}/v1/limits`, {
      headers: { authorization: `Bearer ${ready.token ?? ''}`, accept: 'application/json' },
    })
    expect(await answer.json()).toMatchObject({ region: 'eu-west-1', account: '000000000000' })
    const { code, text, stderr } = await server.stop()
    expect(code).toBe(0)
    expect(text.split('\n')).toEqual([JSON.stringify(ready), ''])
    expect(stderr).toBe('')
  })
})

describe('serve --dev', () => {
  test.each(['SIGTERM', 'SIGINT', 'SIGHUP'] as const)(
    'leaves nothing behind after %s, and ends with 0',
    (signal) =>
      inDirectory(async (directory) => {
        const server = await serve(['--dev', ...QUIET], { env: { TMPDIR: directory } })
        const [data = ''] = readdirSync(directory)
        expect(existsSync(join(directory, data, 'root.key'))).toBe(true)
        expect((await server.stop(signal)).code).toBe(0)
        expect(readdirSync(directory)).toEqual([])
      }),
  )

  test('tells people what to type, and that works', async () => {
    const { child, ended } = start(process.execPath, [
      MAIN,
      ...['serve', '--dev', ...QUIET, '--listen', '127.0.0.1:0'],
    ])
    let said = ''
    child.stdout?.on('data', (bytes: Buffer) => (said += bytes.toString()))
    while (!said.includes('decrypt --lines\n')) await once(child.stdout as never, 'data')
    const typed = said.split('\n').filter((line) => line.startsWith('  '))
    expect(typed.length).toBeGreaterThanOrEqual(4)
    const script = `keyfold() { "${process.execPath}" "${MAIN}" "$@"; }\n${typed.join('\n')}`
    const shell = await start('sh', ['-ec', script], { input: '' }).ended
    expect(shell).toMatchObject({ code: 0, stderr: '' })
    expect(shell.text).toMatch(/│ aliases +│ alias\/first .*\nhello\n$/s)
    child.kill('SIGTERM')
    expect((await ended).code).toBe(0)
  })

  test('touches neither data nor root key that are configured for another server', () =>
    inDirectory(async (directory) => {
      const mine = { data: join(directory, 'mine'), rootKeyFile: join(directory, 'mine.key') }
      writeFileSync(join(directory, 'keyfold.json'), JSON.stringify(mine))
      const server = await serve(['--dev', ...QUIET, '--config', join(directory, 'keyfold.json')], {
        env: { KEYFOLD_ROOT_KEY_SOURCE: 'environment', KEYFOLD_ROOT_KEY: 'none' },
      })
      expect((await server.stop()).code).toBe(0)
      expect(readdirSync(directory)).toEqual(['keyfold.json'])
    }))
})

describe('settings that cannot be', () => {
  const cases: readonly {
    readonly args: readonly string[]
    readonly env?: Environment
    readonly code: 1 | 2
    readonly says: RegExp
  }[] = [
    { args: ['--listen', 'nowhere'], code: 2, says: /--listen: HOST:PORT is needed/ },
    { args: ['--workers', '65'], code: 2, says: /--workers: a whole number from 0 to 64/ },
    { args: [], env: { KEYFOLD_CRYPTO: 'rot13' }, code: 2, says: /KEYFOLD_CRYPTO: one of auto/ },
    { args: ['--config', '/nonexistent.json'], code: 2, says: /\/nonexistent\.json is not a read/ },
    { args: ['--tls-cert', 'a.pem'], code: 2, says: /tlsCert and tlsKey are needed together/ },
    { args: ['--data', '/nonexistent'], code: 2, says: /'--dev' cannot be used with .*'--data/ },
    { args: ['--prot', '1'], code: 2, says: /unknown option '--prot'.*\n.*--help/ },
    {
      args: ['--listen', '0.0.0.0:0'],
      code: 1,
      says: /beyond loopback: give --tls-cert and --tls/,
    },
    {
      args: ['--tls-cert', '/nonexistent.pem', '--tls-key', '/etc/passwd'],
      code: 1,
      says: /files.* PEM|PEM files/,
    },
  ]
  test.each(cases)('$args $env: ends with $code, one line, and leaves nothing', (wrong) =>
    inDirectory(async (directory) => {
      const { code, text, stderr } = await keyfold(['serve', '--dev', ...QUIET, ...wrong.args], {
        env: { ...wrong.env, TMPDIR: directory },
      })
      expect(stderr).toMatch(wrong.says)
      expect(stderr).not.toMatch(/ at .*\.js/)
      expect({ code, text }).toEqual({ code: wrong.code, text: '' })
      expect(readdirSync(directory)).toEqual([])
    }),
  )

  test('a port that is taken is told, by keyfold or by anybody else', async () => {
    const other = createServer().listen(0, '127.0.0.1')
    await once(other, 'listening')
    const { port } = other.address() as AddressInfo
    const server = await serve(['--dev', ...QUIET])
    for (const taken of [`127.0.0.1:${port}`, new URL(server.ready.url).host]) {
      const { code, stderr } = await keyfold(['serve', '--dev', ...QUIET, '--listen', taken])
      expect(stderr).toContain(`${taken} is not free`)
      expect(code).toBe(1)
    }
    other.close()
    expect((await server.stop()).code).toBe(0)
  })
})

interface Made {
  readonly data: string
  readonly token: string
}

function encryptWith(server: Server, input: string): Promise<Ended> {
  return keyfold(['encrypt', '--lines', '-k', 'alias/kept'], { env: server.env, input })
}

describe('init, then serve', () => {
  const hex = (): string => randomBytes(32).toString('hex')
  const sources = [
    { source: 'file', env: {}, other: undefined },
    { source: 'environment', env: { KEYFOLD_ROOT_KEY: hex() }, other: { KEYFOLD_ROOT_KEY: hex() } },
    {
      source: 'passphrase',
      env: { KEYFOLD_PASSPHRASE: 'correct horse battery staple' },
      other: { KEYFOLD_PASSPHRASE: 'correct horse battery stable' },
    },
  ] as const
  test.each(sources)(
    'with a root key of $source: what it sealed opens after a restart, under that root key alone',
    ({ source, env, other }) =>
      inDirectory(async (directory) => {
        const data = join(directory, 'data')
        const flags = ['--data', data, '--root-key-source', source]
        const made = jsonOf<Made>(await keyfold(['init', '--json', ...flags], { env }))
        expect(made).toEqual({ data, token: expect.stringMatching(/^kf_/) as string })
        const { token } = made
        const first = await serve([...flags, ...QUIET], { env, token })
        expect(first.ready).not.toHaveProperty('token')
        jsonOf(await keyfold(['keys', 'create', '--alias', 'alias/kept', '--json'], first))
        const sealed = await encryptWith(first, 'kept\n')
        expect(sealed).toMatchObject({ code: 0, stderr: '' })
        expect((await first.stop()).code).toBe(0)

        if (other !== undefined) {
          const refused = await keyfold(['serve', ...flags, ...QUIET], { env: other })
          expect(refused.stderr).toMatch(/the root key does not open .*\(ROOT_KEY_INVALID\)\n$/)
          expect(refused.code).toBe(1)
          const without = await keyfold(['serve', ...flags, ...QUIET])
          expect(without.stderr).toMatch(/set KEYFOLD_(ROOT_KEY|PASSPHRASE): /)
          expect(without.code).toBe(1)
        }
        const second = await serve([...flags, ...QUIET], { env, token })
        const opened = await keyfold(['decrypt', '--lines'], {
          env: second.env,
          input: sealed.stdout,
        })
        expect(opened).toMatchObject({ code: 0, text: 'kept\n', stderr: '' })
        await second.stop()
      }),
  )

  test('prints for people the token, and what to keep', () =>
    inDirectory(async (directory) => {
      const { code, text } = await keyfold(['init'], { env: { XDG_DATA_HOME: directory } })
      const data = join(directory, 'keyfold')
      expect(code).toBe(0)
      expect(text.split('\n')).toEqual([
        `created ${data}`,
        expect.stringMatching(`^root key: ${data}/root.key. Keep a copy`),
        'admin token, shown once:',
        expect.stringMatching(/^kf_[\w-]+$/),
        '',
      ])
      const again = await keyfold(['init'], { env: { XDG_DATA_HOME: directory } })
      expect(again).toMatchObject({ code: 1, text: '' })
      expect(again.stderr).toContain('was initialised before')
    }))

  test('a directory serves one server at a time, and the first goes on', () =>
    inDirectory(async (directory) => {
      const flags = ['--data', directory, ...QUIET]
      const { token } = jsonOf<Made>(await keyfold(['init', '--json', '--data', directory]))
      const first = await serve(flags, { token })
      const second = await keyfold(['serve', '--listen', '127.0.0.1:0', ...flags])
      expect(second).toMatchObject({ code: 1, text: '' })
      expect(second.stderr).toMatch(/another keyfold process .*\(CATALOG_UNAVAILABLE\)\n$/)
      jsonOf(await keyfold(['keys', 'create', '--json'], first))
      await first.stop()
    }))

  test('a directory that nobody initialised is not served, nor is a place where none can be', () =>
    inDirectory(async (directory) => {
      mkdirSync(join(directory, 'empty'))
      const serving = await keyfold(['serve', '--data', join(directory, 'empty')])
      expect(serving.code).toBe(1)
      expect(serving.stderr).toMatch(/run keyfold init first/)
      writeFileSync(join(directory, 'file'), '')
      const making = await keyfold(['init', '--data', join(directory, 'file', 'data')])
      expect(making).toMatchObject({ code: 1, text: '' })
      expect(making.stderr).toMatch(/^keyfold: ENOTDIR: [^\n]+\n$/)
    }))
})
