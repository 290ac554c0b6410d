/**
 * A server one of whose key stores is elsewhere: what goes on while it is away, what does not, what callers and operators
 * are told, and what is kept in memory.
 */
import { rmSync } from 'node:fs'
import { pack, unpack } from 'msgpackr'
import { afterEach, describe, expect, test, vi } from 'vitest'

import type { GuardedStoreSettings } from '../../dist/key-stores/guarded.js'
import type { KeyStoreTraits } from '../../dist/key-stores/key-store.js'
import { ask } from '../aws.ts'
import { readEvents } from '../audit/log.ts'
import type { SettingTexts } from '../../dist/config.js'
import { readMetrics } from '../server/metrics.ts'
import { startService, type Answer, type Service } from '../service.ts'
import { connectStore, GatedStore } from './gate.ts'

const GUARD = {
  failuresMax: 2,
  probePauseMsMin: 20,
  probePauseMsMax: 20,
  deadlineMs: 60_000,
  purgesOnOutage: false,
}

let service: Service
let gated: GatedStore
let keyStore: string
let key: string
let other: string

interface Start {
  readonly settings?: SettingTexts
  readonly guard?: Partial<GuardedStoreSettings>
  readonly traits?: Partial<KeyStoreTraits>
  readonly filesFrom?: string
}

/** As start, with a key that was made before there was another store. */
async function startWithLocalKey(options: Start = {}): Promise<string> {
  const before = await startService()
  const made = await before.createKey()
  await before.engine.close()
  await start({ ...options, filesFrom: before.dataDirectory })
  rmSync(before.dataDirectory, { recursive: true, force: true })
  return made
}

async function start(options: Start = {}): Promise<void> {
  service = await startService({
    ...(options.filesFrom === undefined ? {} : { filesFrom: options.filesFrom }),
    settings: { logLevel: 'warn', ...options.settings },
    keyStoreOpener: (crypto) => async () => (gated = new GatedStore(crypto, options.traits)),
    guardDefaults: { ...GUARD, ...options.guard },
  })
  const { kms } = service.engine
  keyStore = await connectStore(service.engine)
  key = (await kms.createKey({ keyStore })).keyId
  other = (await kms.createKey({ keyStore })).keyId
  gated.calls.length = 0
}
afterEach(() => service.close())

const plaintexts = [Buffer.from('row')]
const encrypt = (fields: Readonly<Record<string, unknown>> = {}): Promise<Answer> =>
  service.call('encrypt', { key, plaintexts, ...fields })
const open = (ciphertexts: readonly Uint8Array[]): Promise<Answer> =>
  service.call('decrypt', { ciphertexts })
const base64 = (bytes: unknown): string => Buffer.from(bytes as Uint8Array).toString('base64')

async function get(path: string): Promise<{ status: number; text: string }> {
  const response = await fetch(service.url + path)
  return { status: response.status, text: await response.text() }
}

/** Until the circuit is as it is to be: it is probed every 20 ms. */
async function untilState(state: string): Promise<void> {
  while (service.engine.storeFigures()[0]?.guard.state !== state) {
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

async function goAway(): Promise<void> {
  gated.gate = 'away'
  while (service.engine.storeFigures()[0]?.guard.state === 'closed') {
    await ask(service.engine, 'GenerateDataKey', { KeyId: other, NumberOfBytes: 32 })
  }
}

async function comeBack(): Promise<void> {
  gated.gate = 'open'
  await untilState('closed')
}

describe('while a store is away', () => {
  test('batches are sealed until a limit, then 503 with Retry-After, and again when it is back', async () => {
    await start({ settings: { messageKeyMessagesMax: '10' } })
    for (let i = 0; i < 7; i++) expect((await encrypt()).code).toBeUndefined()
    await goAway()
    gated.calls.length = 0
    // The eighth is where the next key would be made ready.
    for (let i = 7; i < 10; i++) expect((await encrypt()).code).toBeUndefined()
    const response = await fetch(`${service.url}/v1/encrypt`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${service.token}`,
        'content-type': 'application/msgpack',
      },
      body: pack({ key, plaintexts }),
    })
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toBe('1')
    const refused = unpack(Buffer.from(await response.arrayBuffer())) as Answer
    expect(refused.code).toBe('KEY_STORE_UNREACHABLE')
    expect(refused.message).toContain(`${keyStore}: it is not asked since 20`)
    expect(gated.count('wrapKey')).toBe(0)
    await comeBack()
    expect((await encrypt()).code).toBeUndefined()
    expect(gated.count('wrapKey')).toBe(1)
  })

  test('a failed fetch is not remembered: the first after it is back asks again', async () => {
    await start({ guard: { failuresMax: 100 } })
    gated.gate = 'away'
    expect((await encrypt()).code).toBe('KEY_STORE_UNREACHABLE')
    gated.gate = 'open'
    const { ciphertexts } = await encrypt()
    gated.gate = 'away'
    expect((await open(ciphertexts)).errors).toEqual([[0, 'KEY_STORE_UNREACHABLE']])
    gated.gate = 'open'
    expect((await open(ciphertexts)).plaintexts).toEqual(plaintexts)
  })

  test('keys of other stores are not concerned', async () => {
    const ofLocal = await startWithLocalKey()
    await goAway()
    const { engine } = service
    expect((await encrypt()).code).toBe('KEY_STORE_UNREACHABLE')
    expect((await encrypt({ key: ofLocal })).code).toBeUndefined()
    await expect(engine.kms.createKey({ keyStore })).rejects.toMatchObject({
      code: 'KEY_STORE_UNREACHABLE',
    })
    const made = await ask(engine, 'GenerateDataKey', { KeyId: ofLocal, NumberOfBytes: 8 })
    expect(made.refused).toBeUndefined()
  })

  test('what was opened stays open, and what was not is told apart from what is damaged', async () => {
    await start()
    const { ciphertexts } = await encrypt()
    const unopened = await encrypt({ context: { other: 'one' } })
    await open(ciphertexts)
    await goAway()
    expect((await open(ciphertexts)).plaintexts).toEqual(plaintexts)
    const refused = await service.call('decrypt', {
      ciphertexts: unopened.ciphertexts,
      context: { other: 'one' },
    })
    expect(refused.errors).toEqual([[0, 'KEY_STORE_UNREACHABLE']])
  })

  test('of a store that purges on an outage nothing is opened from then on, and sealing goes on', async () => {
    await start({ guard: { purgesOnOutage: true } })
    const { ciphertexts } = await encrypt()
    expect((await open(ciphertexts)).plaintexts).toEqual(plaintexts)
    const before = service.engine.counters().keyTable.slotsUsed
    await goAway()
    expect(service.engine.counters().keyTable.slotsUsed).toBeLessThan(before)
    expect((await open(ciphertexts)).errors).toEqual([[0, 'KEY_STORE_UNREACHABLE']])
    expect((await encrypt()).code).toBeUndefined()
    await comeBack()
    expect((await open(ciphertexts)).plaintexts).toEqual(plaintexts)
  })
})

describe('operators', () => {
  test('are told that a store is away where it is required, and not where it is not', async () => {
    await start()
    await goAway()
    expect(await get('/readyz')).toEqual({ status: 200, text: 'ready\n' })
    await service.close()
    await start({ guard: { required: true } })
    expect(await get('/readyz')).toEqual({ status: 200, text: 'ready\n' })
    await goAway()
    const { status, text } = await get('/readyz')
    expect(status).toBe(503)
    expect(JSON.parse(text)).toMatchObject({
      code: 'KEY_STORE_UNREACHABLE',
      message: expect.stringContaining(keyStore) as string,
    })
    await comeBack()
    expect((await get('/readyz')).status).toBe(200)
  })

  test('find both changes in the log and in the audit log, with the name of the store', async () => {
    await start({ settings: { audit: 'bounded' } })
    await goAway()
    await comeBack()
    await service.engine.audit.flush()
    const events = readEvents(service.engine.config.audit.directory)
      .map((event) => event as Readonly<Record<string, unknown>>)
      .filter(({ eventName }) => String(eventName).startsWith('KeyStore'))
    expect(events).toMatchObject([
      {
        eventName: 'KeyStoreUnreachable',
        userIdentity: { type: 'AWSService', invokedBy: 'keyfold' },
        requestParameters: { keyStore, callsFailed: 2 },
        additionalEventData: { door: 'server' },
      },
      { eventName: 'KeyStoreReachable', requestParameters: { keyStore } },
    ])
    expect(service.logged.filter((line) => line.includes(`key store ${keyStore}`))).toHaveLength(2)
  })

  test('read of each store whether it answers, what it is asked and how long it takes', async () => {
    await start({ traits: { wrapsMax: 2 ** 31 } })
    const { ciphertexts } = await encrypt()
    await open(ciphertexts)
    const read = async (name: string, labels = ''): Promise<number | undefined> =>
      (await readMetrics(service)).samples.get(
        `keyfold_key_store_${name}{key_store="${keyStore}"${labels}}`,
      )
    // Two keys were made.
    expect(await read('calls_total')).toBe(4)
    expect(await read('calls_within_seconds_total', ',le="+Inf"')).toBe(4)
    expect(await read('reachable')).toBe(1)
    expect(await read('wraps_reserved_total')).toBe(65_536)
    expect(await read('wraps_reserved_share')).toBe(2 ** -15)
    await goAway()
    expect(await read('reachable')).toBe(0)
    expect(await read('failures_total')).toBe(2)
    await ask(service.engine, 'GenerateDataKey', { KeyId: key, NumberOfBytes: 32 })
    expect(await read('refused_total')).toBe(1)
    expect(await read('calls_waiting')).toBe(0)
  })
})

describe('every way to a store elsewhere', () => {
  const TEXT = base64(Buffer.from('text'))

  test.each([
    ['Encrypt', { Plaintext: TEXT }],
    ['GenerateDataKey', { NumberOfBytes: 16 }],
    ['GenerateDataKeyWithoutPlaintext', { KeySpec: 'AES_256' }],
    ['GenerateDataKeyPair', { KeyPairSpec: 'ECC_NIST_P256' }],
  ] as const)('%s is paid for by whoever asks', async (operation, input) => {
    await start({ settings: { missBudgetBurst: '3', missBudgetPerSecond: '1' } })
    const refused = []
    let served = 0
    const startedMs = performance.now()
    while (refused.length < 6) {
      const reply = await ask(service.engine, operation, { KeyId: key, ...input })
      if (reply.refused === undefined) served++
      else refused.push(reply.refused)
    }
    // The burst, and one for each second that this machine took.
    expect(served).toBeLessThanOrEqual(3 + (performance.now() - startedMs) / 1_000)
    expect(new Set(refused)).toEqual(new Set(['ThrottlingException']))
    expect(gated.calls.length).toBe(served)
  })

  test('Decrypt, Sign, MACs, re-wraps and batches of ciphertexts as well', async () => {
    await start({ settings: { missBudgetBurst: '1000', missBudgetPerSecond: '1' } })
    const { engine } = service
    const mac = (await engine.kms.createKey({ keySpec: 'HMAC_256', keyStore })).keyId
    const signing = await engine.kms.createKey({
      keySpec: 'ECC_NIST_P256',
      keyUsage: 'SIGN_VERIFY',
      keyStore,
    })
    const blob = (await ask(engine, 'Encrypt', { KeyId: key, Plaintext: TEXT }))['CiphertextBlob']
    const { ciphertexts } = await encrypt()
    const paid = async (work: () => Promise<unknown>): Promise<number> => {
      const before = gated.calls.length
      await work()
      return gated.calls.length - before
    }
    const asked = (operation: string, input: Readonly<Record<string, unknown>>) => () =>
      ask(engine, operation, input).then((reply) => void expect(reply.refused).toBeUndefined())
    const ways: readonly (readonly [number, () => Promise<unknown>])[] = [
      [1, asked('Decrypt', { CiphertextBlob: base64(blob) })],
      [2, asked('ReEncrypt', { CiphertextBlob: base64(blob), DestinationKeyId: other })],
      [1, asked('GenerateMac', { KeyId: mac, MacAlgorithm: 'HMAC_SHA_256', Message: TEXT })],
      [
        1,
        asked('Sign', { KeyId: signing.keyId, SigningAlgorithm: 'ECDSA_SHA_256', Message: TEXT }),
      ],
      // The entry is unwrapped, and wrapped anew.
      [2, () => service.call('re-encrypt', { key: other, mode: 'rewrap', ciphertexts })],
      [1, () => open([blob as Uint8Array])],
      [5, () => service.call('data-keys', { key, count: 5, plaintext: true })],
    ]
    for (const [calls, work] of ways) expect(await paid(work)).toBe(calls)
    // All of it is gone: the same ways are closed now, but for what a second gives back.
    const isRefused = async (): Promise<boolean> =>
      (await ask(engine, 'Decrypt', { CiphertextBlob: base64(blob) })).refused !== undefined
    while (!(await isRefused()));
    const refusalOf = async (work: () => Promise<unknown>): Promise<string | undefined> => {
      try {
        const answer = (await work()) as Partial<Answer> | undefined
        return answer?.code ?? answer?.errors?.[0]?.[1]
      } catch (error) {
        return (error as Error).message
      }
    }
    for (const [, work] of ways) {
      let refusal: string | undefined
      do refusal = await refusalOf(work)
      while (refusal === undefined)
      expect(refusal).toMatch(/MISS_BUDGET_SPENT|ThrottlingException/)
    }
  })
})

describe('under a key whose store draws random IVs', () => {
  const context = { EncryptionContext: { table: 'orders' } }
  const plaintext = Buffer.from('plaintext of the caller')

  test('Encrypt answers inline messages at one call to the store, and every door opens them', async () => {
    await start({ traits: { wrapsMax: 2 ** 31 } })
    const { engine } = service
    const blobs: Uint8Array[] = []
    for (let i = 0; i < 100; i++) {
      const reply = await ask(engine, 'Encrypt', {
        KeyId: key,
        Plaintext: base64(plaintext),
        ...context,
      })
      blobs.push(reply['CiphertextBlob'] as Uint8Array)
    }
    expect(gated.calls).toEqual(['wrapKey'])
    expect(new Set(blobs.map(base64)).size).toBe(100)
    for (const blob of blobs) {
      // formats.md: E1, suite 1.
      expect([blob[0], blob[1]]).toEqual([0xe1, 1])
      expect(Buffer.from(blob).includes(plaintext)).toBe(false)
    }
    const [blob = new Uint8Array(0)] = blobs
    const opened = await ask(engine, 'Decrypt', { CiphertextBlob: base64(blob), ...context })
    expect(Buffer.from(opened['Plaintext'] as Uint8Array)).toEqual(plaintext)
    expect(opened['KeyId']).toContain(key)
    const batch = await service.call('decrypt', {
      ciphertexts: blobs,
      context: context.EncryptionContext,
    })
    expect(batch.plaintexts).toEqual(Array(100).fill(plaintext))
    expect(gated.calls).toEqual(['wrapKey', 'unwrapKey'])
    for (const [wrong, input] of [
      ['context', { CiphertextBlob: base64(blob) }],
      ['bit', { CiphertextBlob: base64(flipped(blob)), ...context }],
    ] as const) {
      const reply = await ask(engine, 'Decrypt', input)
      expect([wrong, reply.refused]).toEqual([wrong, 'InvalidCiphertextException'])
    }
  })

  test('a data key is wrapped each time, and opens by Decrypt alone', async () => {
    await start({ traits: { wrapsMax: 2 ** 31 } })
    const { engine } = service
    const made = await ask(engine, 'GenerateDataKey', { KeyId: key, KeySpec: 'AES_256' })
    const pair = await ask(engine, 'GenerateDataKeyPair', {
      KeyId: key,
      KeyPairSpec: 'ECC_NIST_P256',
    })
    expect((made['CiphertextBlob'] as Uint8Array)[0]).toBe(0xe0)
    expect((pair['PrivateKeyCiphertextBlob'] as Uint8Array)[0]).toBe(0xe0)
    expect(gated.calls).toEqual(['wrapBytes', 'wrapBytes'])
    const opened = await ask(engine, 'Decrypt', { CiphertextBlob: base64(made['CiphertextBlob']) })
    expect(base64(opened['Plaintext'])).toBe(base64(made['Plaintext']))
  })

  test('ReEncrypt moves ciphertexts in, out and within, always sealed anew', async () => {
    const ofLocal = await startWithLocalKey({ traits: { wrapsMax: 2 ** 31 } })
    const { engine } = service
    const from = async (KeyId: string): Promise<Uint8Array> =>
      (await ask(engine, 'Encrypt', { KeyId, Plaintext: base64(plaintext), ...context }))[
        'CiphertextBlob'
      ] as Uint8Array
    for (const [source, destination, form] of [
      [ofLocal, key, 0xe1],
      [key, ofLocal, 0xe0],
      [key, other, 0xe1],
      [key, key, 0xe1],
    ] as const) {
      const blob = await from(source)
      const moved = await ask(engine, 'ReEncrypt', {
        CiphertextBlob: base64(blob),
        SourceEncryptionContext: context.EncryptionContext,
        DestinationKeyId: destination,
        DestinationEncryptionContext: { moved: 'yes' },
      })
      const sealed = moved['CiphertextBlob'] as Uint8Array
      expect(sealed[0]).toBe(form)
      // Not a byte of what was sealed is carried over.
      expect(Buffer.from(sealed).includes(Buffer.from(blob.subarray(-16)))).toBe(false)
      const opened = await ask(engine, 'Decrypt', {
        CiphertextBlob: base64(sealed),
        EncryptionContext: { moved: 'yes' },
      })
      expect(Buffer.from(opened['Plaintext'] as Uint8Array)).toEqual(plaintext)
      expect([opened['KeyId'], opened['KeyMaterialId']]).toEqual([
        moved['KeyId'],
        moved['DestinationKeyMaterialId'],
      ])
    }
  })
})

function flipped(bytes: Uint8Array): Uint8Array {
  const copy = Uint8Array.from(bytes)
  copy[copy.length - 1] = (copy.at(-1) as number) ^ 1
  return copy
}

describe('key material that is made after its deadline', () => {
  /** From limits.ts. */
  const MATERIAL_MS = 60_000
  afterEach(() => void vi.useRealTimers())

  const untilDestroyed = async (count: number): Promise<void> => {
    while (gated.count('destroyKeyMaterial') < count) {
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    expect(gated.count('destroyKeyMaterial')).toBe(count)
  }

  /** What refuses to wait any longer; the store has made nothing yet. */
  async function giveUp(make: () => Promise<unknown>): Promise<void> {
    const before = gated.count('createKeyMaterial')
    gated.gate = 'held'
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const made = expect(make()).rejects.toMatchObject({ code: 'KEY_STORE_UNREACHABLE' })
    while (gated.count('createKeyMaterial') === before) await new Promise(setImmediate)
    vi.advanceTimersByTime(MATERIAL_MS)
    await made
    vi.useRealTimers()
    gated.gate = 'open'
  }

  test('is destroyed in its store, and what is in use is not', async () => {
    await start()
    const { kms, scheduler } = service.engine
    await giveUp(() => kms.createKey({ keyStore }))
    await scheduler.run()
    expect(gated.count('destroyKeyMaterial')).toBe(0)
    await gated.release()
    await untilDestroyed(1)
    await giveUp(() => kms.rotations.rotateOnDemand(key))
    await gated.release()
    await untilDestroyed(2)
    await kms.rotations.rotateOnDemand(key)
    await scheduler.run()
    expect(gated.count('destroyKeyMaterial')).toBe(2)
    const { ciphertexts } = await encrypt()
    expect((await open(ciphertexts)).plaintexts).toEqual(plaintexts)
  })

  test('is left to the next rotation by a store that finds it again', async () => {
    await start({ traits: { adoptsMaterial: true }, guard: { failuresMax: 5 } })
    const { kms, scheduler } = service.engine
    await giveUp(() => kms.rotations.rotateOnDemand(key))
    await gated.release()
    await giveUp(() => kms.createKey({ keyStore }))
    await gated.release()
    await untilDestroyed(1)
    await scheduler.run()
    expect(gated.count('destroyKeyMaterial')).toBe(1)
  })
})
