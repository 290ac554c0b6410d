/** Access keys on the command line: what serve --dev hands out, and keyfold access-keys create, list and revoke. */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterEach, expect, test } from 'vitest'

const MAIN = join(import.meta.dirname, '../../dist/cli/main.js')

let server: ChildProcess | undefined

afterEach(async () => {
  if (server === undefined || server.exitCode !== null) return
  const ended = once(server, 'exit')
  server.kill('SIGTERM')
  await ended
})

/** Starts a server and gives the lines of its output up to the first that matches. */
async function serve(last: RegExp, ...flags: string[]): Promise<readonly string[]> {
  const argv = [MAIN, 'serve', '--dev', '--listen', '127.0.0.1:0', ...flags]
  server = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'inherit'] })
  if (server.stdout === null) throw new Error('no output')
  const lines: string[] = []
  for await (const line of createInterface(server.stdout)) {
    lines.push(line)
    if (last.test(line)) return lines
  }
  throw new Error(`the server ended: ${lines.join('\n')}`)
}

interface Ready {
  readonly url: string
  readonly token: string
  readonly account: string
  readonly accessKeyId: string
  readonly secretAccessKey: string
}

test('serve --dev hands out an access key of the root principal; the commands make, show and revoke others', async () => {
  const [line = ''] = await serve(/^\{/, '--ready-json')
  const ready = JSON.parse(line) as Ready
  expect(ready.accessKeyId).toMatch(/^AKIA[A-Z2-7]{16}$/)
  expect(ready.secretAccessKey).toMatch(/^[A-Za-z0-9+/]{40}$/)
  const run = (...argv: string[]): string =>
    execFileSync(process.execPath, [MAIN, 'access-keys', ...argv], {
      encoding: 'utf8',
      env: { ...process.env, KEYFOLD_URL: ready.url, KEYFOLD_TOKEN: ready.token },
    })
  type Row = Readonly<Record<string, unknown>>
  const list = (): readonly Row[] => JSON.parse(run('list', '--json')) as Row[]
  expect(list()).toMatchObject([
    { accessKeyId: ready.accessKeyId, principal: `arn:aws:iam::${ready.account}:root` },
  ])

  const principal = `arn:aws:iam::${ready.account}:user/app`
  const exported = run('create', '--principal', principal)
  const [, id = ''] = /^export AWS_ACCESS_KEY_ID=(AKIA[A-Z2-7]{16})$/m.exec(exported) ?? []
  expect(exported).toMatch(/^export AWS_SECRET_ACCESS_KEY=[A-Za-z0-9+/]{40}$/m)
  expect(exported).not.toContain('AWS_SESSION_TOKEN')
  const session = JSON.parse(
    run('create', '--principal', principal, '--temporary', '--expires-in', '60', '--json'),
  ) as Row
  expect(session['accessKeyId']).toMatch(/^ASIA/)
  expect(session['sessionToken']).toMatch(/^\S{64}$/)
  const table = run('list')
  for (const each of [ready.accessKeyId, id, session['accessKeyId']]) expect(table).toContain(each)
  for (const secret of [ready.secretAccessKey, session['secretAccessKey']]) {
    expect(table).not.toContain(secret)
  }

  // What the AWS KMS console takes (XKS Proxy API, "XKS proxy configuration in AWS KMS console").
  const printed = run('create', '--principal', principal, '--xks-prefix', '/stores/one')
  const configuration = JSON.parse(printed) as Row
  expect(configuration).toEqual({
    XksProxyUriPath: '/stores/one/kms/xks/v1',
    XksProxyAuthenticationCredential: {
      AccessKeyId: expect.stringMatching(/^[A-Z2-7]{20,30}$/) as string,
      RawSecretAccessKey: expect.stringMatching(/^[A-Za-z0-9/+=]{43,64}$/) as string,
    },
  })
  expect(run('list')).toContain('/stores/one/kms/xks/v1')
  const unprefixed = JSON.parse(run('create', '--principal', principal, '--xks-prefix', '/')) as Row
  expect(unprefixed['XksProxyUriPath']).toBe('/kms/xks/v1')
  expect(() => run('create', '--principal', principal, '--xks-prefix', 'stores/')).toThrow(
    /REQUEST_MALFORMED/,
  )

  run('revoke', id)
  const revoked = list().filter((row) => row['revokedAtMs'] !== undefined)
  expect(revoked.map((row) => row['accessKeyId'])).toEqual([id])
  expect(() => run('revoke', 'AKIANONE')).toThrow(/ACCESS_KEY_NOT_FOUND/)
})

test('serve --dev tells people what to export for clients of AWS KMS', async () => {
  const text = (await serve(/AWS_ENDPOINT_URL_KMS/)).join('\n')
  const url = /ready at (\S+)/.exec(text)?.[1]
  expect(text).toMatch(/^ {2}export AWS_ACCESS_KEY_ID=AKIA[A-Z2-7]{16}$/m)
  expect(text).toMatch(/^ {2}export AWS_SECRET_ACCESS_KEY=[A-Za-z0-9+/]{40}$/m)
  expect(text).toMatch(/^ {2}export AWS_REGION=us-east-1$/m)
  expect(text).toContain(`  export AWS_ENDPOINT_URL_KMS=${url}`)
})
