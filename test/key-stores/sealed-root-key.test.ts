/**
 * The root key sealed by AWS KMS, which here is another keyfold: a server starts where that KMS lets its key be used, and
 * nowhere and never else.
 */
import {
  CreateKeyCommand,
  DisableKeyCommand,
  EnableKeyCommand,
  type KMSClient,
} from '@aws-sdk/client-kms'
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'

import { openCatalog } from '../../dist/catalog/catalog.js'
import { loadConfig, type Config } from '../../dist/config.js'
import { openEngine } from '../../dist/engine.js'
import { initDataDirectory } from '../../dist/init.js'
import { rootKeyStatus, rotateRootKey, sealPresentRootKey } from '../../dist/root-key.js'
import { ask } from '../aws.ts'
import { clientOf } from '../server/aws/sdk.ts'
import { filesOf, startService, type Service } from '../service.ts'

const log = { log: (): void => undefined }
/** The machine may be busy, and nobody is to be late here. */
const PATIENT_MS = 60_000

let remote: Service
let kms: KMSClient
let keyId: string
let parent: string
let config: Config

beforeAll(async () => {
  remote = await startService()
  kms = await clientOf(remote)
  const { KeyMetadata } = await kms.send(new CreateKeyCommand({}))
  keyId = KeyMetadata?.Arn as string
})
afterAll(async () => {
  kms.destroy()
  await remote.close()
})
beforeEach(async () => {
  parent = mkdtempSync(join(tmpdir(), 'keyfold-sealed-'))
  config = await initSealed('first')
  return () => rmSync(parent, { recursive: true, force: true })
})

const configOf = (name: string, rootKeySource = 'sealed'): Config =>
  loadConfig({
    flags: {
      data: join(parent, name),
      rootKeySource,
      rootKeyStore: join(parent, 'root-store.json'),
    },
  })
const sealedIn = ({ dataDirectory }: Config): string => join(dataDirectory, 'root.sealed')

async function writeStore(settings: Readonly<Record<string, unknown>> = {}): Promise<void> {
  const { record, secretAccessKey } = await remote.engine.accessKeys.create({
    principalArn: `arn:aws:iam::${remote.engine.config.account}:root`,
  })
  const secretAccessKeyFile = join(parent, 'secret')
  writeFileSync(secretAccessKeyFile, `${secretAccessKey}\n`, { mode: 0o600 })
  const store = {
    kind: 'aws-kms',
    region: 'us-east-1',
    endpoint: remote.url,
    accessKeyId: record.accessKeyId,
    secretAccessKeyFile,
    keyId,
    timeoutMs: PATIENT_MS,
    ...settings,
  }
  writeFileSync(join(parent, 'root-store.json'), JSON.stringify(store))
}

async function initSealed(name: string): Promise<Config> {
  await writeStore()
  const made = configOf(name)
  await initDataDirectory(made, log)
  return made
}

async function start(of: Config): Promise<void> {
  const engine = await openEngine(of, log)
  expect((await ask(engine, 'CreateKey', {})).refused).toBeUndefined()
  await engine.close()
}

/** Nobody is left with the catalog open after a start that failed. */
async function expectNotStarted(of: Config, refusal: object): Promise<void> {
  const files = filesOf(of.dataDirectory)
  await expect(openEngine(of, log)).rejects.toMatchObject(refusal)
  expect(filesOf(of.dataDirectory)).toEqual(files)
  await (await openCatalog(of)).close()
}

describe('a sealed root key', () => {
  test('opens at every start, and lies nowhere in the clear', async () => {
    await start(config)
    await start(config)
    expect(existsSync(join(config.dataDirectory, 'root.key'))).toBe(false)
    expect(await rootKeyStatus(config, log)).toEqual({ version: 1, previousVersion: undefined })
  })

  test('with any byte changed, cut off or added does not', async () => {
    const bytes = Buffer.from(readFileSync(sealedIn(config), 'utf8').trim(), 'hex')
    const wrongs = [bytes.subarray(0, -1), bytes.subarray(0, 10), Buffer.alloc(0)]
    wrongs.push(Buffer.concat([bytes, Buffer.alloc(1)]))
    for (let at = 0; at < bytes.length; at++) {
      const flipped = Buffer.from(bytes)
      flipped[at] = (flipped[at] as number) ^ 1
      wrongs.push(flipped)
    }
    for (const [index, wrong] of wrongs.entries()) {
      writeFileSync(sealedIn(config), wrong.toString('hex'))
      const error = await openEngine(config, log).then(
        async (engine) => engine.close().then(() => 'started'),
        (refused: unknown) => refused as { readonly code: string },
      )
      expect(error, `${index}`).toMatchObject({
        code: expect.stringMatching(
          // A reference to a key that is none, or none of that KMS, is refused before anything is opened.
          /^(ROOT_KEY_INVALID|KEY_STORE_REFUSED|INTERNAL|CONFIG_INVALID)$/,
        ) as string,
      })
    }
    writeFileSync(sealedIn(config), bytes.toString('hex'))
    await start(config)
  })

  test('is of no use in another data directory, which has its own', async () => {
    const other = await initSealed('other')
    cpSync(sealedIn(config), sealedIn(other))
    await expectNotStarted(other, { code: 'ROOT_KEY_INVALID', detail: other.dataDirectory })
  })

  test('starts nothing while its store is unreachable, and says so', async () => {
    await writeStore({ endpoint: 'http://127.0.0.1:9' })
    await expectNotStarted(config, { code: 'KEY_STORE_UNREACHABLE' })
    await writeStore()
    await start(config)
  })

  test('starts nothing while the key over there is disabled', async () => {
    await kms.send(new DisableKeyCommand({ KeyId: keyId }))
    await expectNotStarted(config, { code: 'KEY_STORE_REFUSED' })
    await kms.send(new EnableKeyCommand({ KeyId: keyId }))
    await start(config)
  })

  test('is rotated: sealed anew beside the old one, which opens nothing any more', async () => {
    const old = readFileSync(sealedIn(config))
    expect(await rotateRootKey(config, log)).toBe(2)
    expect(readFileSync(sealedIn(config)).equals(old)).toBe(false)
    await start(config)
    expect(existsSync(`${sealedIn(config)}.next`)).toBe(false)
    writeFileSync(sealedIn(config), old)
    await expectNotStarted(config, { code: 'ROOT_KEY_INVALID' })
  })

  test('is sealed by another keyfold as an external key store proxy too', async () => {
    const { record, secretAccessKey } = await remote.engine.accessKeys.create({
      principalArn: `arn:aws:iam::${remote.engine.config.account}:root`,
      xksPrefix: '/sealing',
    })
    const secretAccessKeyFile = join(parent, 'xks-secret')
    // As an editor leaves it.
    writeFileSync(secretAccessKeyFile, `${secretAccessKey}\n`, { mode: 0o600 })
    const store = {
      kind: 'xks',
      region: 'us-east-1',
      endpoint: remote.url,
      uriPath: '/sealing/kms/xks/v1',
      accessKeyId: record.accessKeyId,
      secretAccessKeyFile,
      keyId: keyId.split('/').at(-1),
      timeoutMs: PATIENT_MS,
    }
    writeFileSync(join(parent, 'root-store.json'), JSON.stringify(store))
    const proxied = configOf('proxied')
    await initDataDirectory(proxied, log)
    await start(proxied)
  })

  test('replaces one in a file without anything being sealed anew', async () => {
    const plain = configOf('plain', 'file')
    await initDataDirectory(plain, log)
    await sealPresentRootKey(plain, log)
    rmSync(join(plain.dataDirectory, 'root.key'))
    await start(configOf('plain'))
  })

  test.each([
    [{ kind: 'floppy' }, 'kind'],
    [{ kind: undefined }, 'kind'],
    [{ region: 7 }, 'region'],
    [{ region: undefined }, 'region'],
    [{ endpoint: 'http://kms.example.com' }, 'endpoint'],
    [{ accessKeyId: undefined }, 'accessKeyId'],
    [{ timeoutMs: 0 }, 'timeoutMs'],
    [{ timeoutMs: '5' }, 'timeoutMs'],
    [{ regoin: 'us-east-1' }, 'regoin'],
  ])('says what is wrong with the settings of its store: %j', async (settings, name) => {
    await writeStore(settings)
    await expect(openEngine(config, log)).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      detail: expect.stringContaining(name) as string,
    })
  })

  test('is not read by way of a secret that others can read', async () => {
    await writeStore()
    rmSync(join(parent, 'secret'))
    writeFileSync(join(parent, 'secret'), 'x', { mode: 0o644 })
    await expect(openEngine(config, log)).rejects.toThrow('chmod 600')
  })
})
