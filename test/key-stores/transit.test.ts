/**
 * The transit engine as key store, against a real OpenBao (openbao.ts). HashiCorp Vault, which OpenBao was forked from,
 * was not tried.
 */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { loadConfig } from '../../dist/config.js'
import type { Crypto } from '../../dist/crypto/crypto.js'
import { openEngine } from '../../dist/engine.js'
import type { KeyfoldError } from '../../dist/errors.js'
import { initDataDirectory } from '../../dist/init.js'
import type { KeyMaterial } from '../../dist/key-stores/key-store.js'
import { StoreSettings } from '../../dist/key-stores/store-settings.js'
import {
  TransitKeyStore,
  transitSettings,
  type TransitSettings,
} from '../../dist/key-stores/transit.js'
import { rotateRootKey } from '../../dist/root-key.js'
import { implementations } from '../crypto/implementations.ts'
import { conformance } from './conformance.ts'
import { findBao, ROOT_TOKEN, startOpenBao, type OpenBao } from './openbao.ts'

const crypto = implementations[0] as Crypto
const bao = findBao()
const KEY_SPEC = 'SYMMETRIC_DEFAULT'
const aad = randomBytes(55)

test('the server that the store is tried against is there', ({ skip }) => {
  if (process.env['CI'] === undefined && bao === undefined) skip('there is no OpenBao here')
  expect(bao).toBeDefined()
})

describe.skipIf(bao === undefined)('a transit engine', () => {
  let server: OpenBao
  beforeAll(async () => {
    server = await startOpenBao(bao as string)
  })
  afterAll(() => server.close())

  function open(settings: Partial<TransitSettings> = {}): TransitKeyStore {
    const opened = {
      endpoint: server.url,
      mount: 'transit',
      openToken: () => Uint8Array.from(Buffer.from(ROOT_TOKEN)),
      createsKeys: true,
      // The machine may be busy: only what has to be late is to be late.
      timeoutMs: 60_000,
      ...settings,
    }
    return new TransitKeyStore('transit', opened, crypto)
  }

  async function make(store: TransitKeyStore, keyId?: string): Promise<KeyMaterial> {
    const kmsKeyId = randomBytes(16)
    const created = await store.createKeyMaterial(kmsKeyId, 1, KEY_SPEC, keyId)
    return { kmsKeyId, version: 1, keySpec: KEY_SPEC, ...created }
  }

  const nameOf = ({ stored }: KeyMaterial): string => Buffer.from(stored.subarray(2)).toString()

  conformance('a store on a transit engine', async () => ({
    store: open(),
    crypto,
    close: async () => undefined,
  }))

  test('wraps into what the engine itself opens, with the AAD as associated data', async () => {
    const store = open()
    const material = await make(store)
    const plaintext = randomBytes(32)
    const storePart = Buffer.from(await store.wrapBytes(material, aad, plaintext))
    const opened = await server.ask('POST', `transit/decrypt/${nameOf(material)}`, {
      ciphertext: `vault:v${storePart.readUInt32BE()}:${storePart.subarray(4).toString('base64')}`,
      associated_data: aad.toString('base64'),
    })
    expect(opened['plaintext']).toBe(plaintext.toString('base64'))
    const { type, exportable } = await server.ask('GET', `transit/keys/${nameOf(material)}`)
    expect({ type, exportable }).toEqual({ type: 'aes256-gcm96', exportable: false })
    await store.close()
  })

  test('opens what was wrapped before its key was rotated over there, and after', async () => {
    const store = open()
    const material = await make(store)
    const before = await store.wrapBytes(material, aad, Buffer.from('before'))
    await server.ask('POST', `transit/keys/${nameOf(material)}/rotate`)
    const after = await store.wrapBytes(material, aad, Buffer.from('after'))
    expect([Buffer.from(before).readUInt32BE(), Buffer.from(after).readUInt32BE()]).toEqual([1, 2])
    expect(Buffer.from(await store.unwrapBytes(material, aad, before)).toString()).toBe('before')
    expect(Buffer.from(await store.unwrapBytes(material, aad, after)).toString()).toBe('after')
    // One that may not be opened any more is refused, which is not the ciphertext's fault.
    const name = nameOf(material)
    await server.ask('POST', `transit/keys/${name}/config`, { min_decryption_version: 2 })
    const refused = { code: 'KEY_STORE_REFUSED' }
    await expect(store.unwrapBytes(material, aad, before)).rejects.toMatchObject(refused)
    await store.close()
  })

  test('takes no key that is exportable, derived, of another type, not there or no name', async () => {
    const store = open({ createsKeys: false })
    expect(store.traits.rotates).toBe(false)
    await server.ask('POST', 'transit/keys/exportable', { type: 'aes256-gcm96', exportable: true })
    await server.ask('POST', 'transit/keys/derived', { type: 'aes256-gcm96', derived: true })
    await server.ask('POST', 'transit/keys/chacha', { type: 'chacha20-poly1305' })
    await server.ask('POST', 'transit/keys/good', { type: 'aes256-gcm96' })
    const malformed = { code: 'REQUEST_MALFORMED' }
    for (const name of [
      'exportable',
      'derived',
      'chacha',
      '',
      '../sys/seal',
      'a/b',
      'a?b',
      '%2e',
    ]) {
      await expect(make(store, name), name).rejects.toMatchObject(malformed)
    }
    await expect(make(store)).rejects.toMatchObject(malformed)
    await expect(make(store, 'absent')).rejects.toMatchObject({ code: 'KEY_STORE_REFUSED' })
    expect(nameOf(await make(store, 'good'))).toBe('good')
    await store.close()
  })

  test('tells a key that was deleted from a ciphertext that is bad', async () => {
    const store = open()
    const material = await make(store)
    const wrapped = await store.wrapBytes(material, aad, aad)
    const name = nameOf(material)
    await server.ask('POST', `transit/keys/${name}/config`, { deletion_allowed: true })
    await server.ask('DELETE', `transit/keys/${name}`)
    const refused = { code: 'KEY_STORE_REFUSED', retryable: false }
    await expect(store.unwrapBytes(material, aad, wrapped)).rejects.toMatchObject(refused)
    await store.close()
  })

  test('reads its token again when it is refused, and tells one that stays wrong', async () => {
    const tokens = ['expired', ROOT_TOKEN]
    const given: Uint8Array[] = []
    const openToken = (): Uint8Array => {
      given.push(Buffer.from(tokens.shift() ?? 'wrong'))
      return given.at(-1) as Uint8Array
    }
    const store = open({ openToken })
    await make(store)
    expect(tokens).toEqual([])
    expect(given.every((bytes) => bytes.every((byte) => byte === 0))).toBe(true)
    await store.close()
    const wrong = open({ openToken: () => Buffer.from('wrong') })
    await expect(make(wrong)).rejects.toMatchObject({ code: 'KEY_STORE_REFUSED' })
    await expect(wrong.probe()).rejects.toMatchObject({ code: 'KEY_STORE_UNREACHABLE' })
    await wrong.close()
    const split = open({ openToken: () => Buffer.from('a\r\nx-header: b') })
    await expect(make(split)).rejects.toMatchObject({ code: 'CONFIG_INVALID' })
    await split.close()
  })

  test('seals the root key of a server, which starts from it and is rotated', async () => {
    const parent = mkdtempSync(join(tmpdir(), 'keyfold-transit-'))
    try {
      const [tokenFile, rootKeyStore] = [join(parent, 'token'), join(parent, 'store.json')]
      writeFileSync(tokenFile, `${ROOT_TOKEN}\n`, { mode: 0o600 })
      const settings = { kind: 'transit', endpoint: server.url, tokenFile, timeoutMs: 60_000 }
      writeFileSync(rootKeyStore, JSON.stringify(settings))
      const flags = { data: join(parent, 'data'), rootKeySource: 'sealed', rootKeyStore }
      const config = loadConfig({ flags })
      const log = { log: (): void => undefined }
      await initDataDirectory(config, log)
      await (await openEngine(config, log)).close()
      expect(await rotateRootKey(config, log)).toBe(2)
      await (await openEngine(config, log)).close()
    } finally {
      rmSync(parent, { recursive: true, force: true })
    }
  })
})

describe('a transit store', () => {
  const settings = {
    mount: 'transit',
    openToken: () => Buffer.from(ROOT_TOKEN),
    createsKeys: false,
  }

  test.each([
    { endpoint: 'http://vault.example.com' },
    { endpoint: 'https://vault.example.com', mount: '../sys' },
    { endpoint: 'https://vault.example.com', mount: '' },
    { endpoint: 'https://vault.example.com', namespace: 'a\r\nb' },
  ])('is not opened with %j', (given) => {
    expect(() => new TransitKeyStore('t', { ...settings, ...given }, crypto)).toThrow(
      'the configuration is not valid',
    )
  })

  test('is told by its file that the authorities it names cannot be read', () => {
    const file = {
      endpoint: 'https://vault.example.com',
      tokenFile: '/nowhere/token',
      caFile: '/nowhere/ca.pem',
    }
    expect(() => transitSettings(new StoreSettings(file, 'root-store.json'))).toThrow(
      'caFile: /nowhere/ca.pem is not readable',
    )
  })

  test('believes no answer that is too long, none of transit’s, or never ends', async () => {
    const answers: readonly (readonly [number, string])[] = [
      [200, `{"data": {"ciphertext": "${'A'.repeat(70_000)}"}}`],
      [200, 'no JSON'],
      [200, '{}'],
      [503, '{"errors": ["Vault is sealed"]}'],
      [429, '{"errors": []}'],
      [404, '<html>'],
      [200, '{"data": {"ciphertext": "vault:v0:AAAA"}}'],
      [200, '{"data": {"ciphertext": 7}}'],
    ]
    let next = 0
    const stand = createServer((request, response) => {
      request.resume()
      const [status, body] = answers[next++] ?? [200, '']
      response.writeHead(status, { 'content-length': body === '' ? 10 : body.length })
      if (body === '') response.write('{')
      else response.end(body)
    })
    stand.listen(0, '127.0.0.1')
    await once(stand, 'listening')
    const endpoint = `http://127.0.0.1:${(stand.address() as AddressInfo).port}`
    const storeOf = (timeoutMs: number): TransitKeyStore =>
      new TransitKeyStore('t', { ...settings, endpoint, timeoutMs }, crypto)
    const stored = Buffer.from('\xf4\x05good', 'latin1')
    const kmsKeyId = randomBytes(16)
    const material = {
      kmsKeyId,
      version: 1,
      keySpec: KEY_SPEC,
      stored,
      publicKey: undefined,
    } as const
    const codes: unknown[] = []
    for (let i = 0; i <= answers.length; i++) {
      const store = storeOf(i < answers.length ? 60_000 : 500)
      const wrapping = store.wrapBytes(material, aad, aad)
      codes.push(await wrapping.catch((error: unknown) => (error as KeyfoldError).code))
      await store.close()
    }
    stand.closeAllConnections()
    stand.close()
    const unreachable = Array.from({ length: 6 }, () => 'KEY_STORE_UNREACHABLE')
    expect(codes).toEqual([...unreachable, 'INTERNAL', 'INTERNAL', 'KEY_STORE_UNREACHABLE'])
  })
})
