/** Keys through the front door: what they are made of, how they are switched off and on, and what rotating leaves. */
import { randomBytes } from 'node:crypto'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'

import type { KeyStore } from '../../dist/key-stores/key-store.js'
import { LocalKeyStore } from '../../dist/key-stores/local.js'
import { metadataOf } from '../../dist/kms/kms.js'
import { startService, type Answer, type Service } from '../service.ts'

let service: Service

beforeAll(async () => {
  service = await startService()
})
afterAll(() => service.close())
afterEach(() => {
  vi.restoreAllMocks()
})

const context = { table: 'orders' }
const plaintext = Buffer.from('plaintext')

const encrypt = (key: string, fields = {}): Promise<Answer> =>
  service.call('encrypt', { key, context, plaintexts: [plaintext], ...fields })
const decrypt = (...ciphertexts: Uint8Array[]): Promise<Answer> =>
  service.call('decrypt', { context, ciphertexts })
const dataKeys = (key: string, withPlaintext: boolean): Promise<Answer> =>
  service.call('data-keys', { key, context, count: 1, plaintext: withPlaintext })
const manage = (key: string, verb: 'enable' | 'disable' | 'rotate'): Promise<Answer> =>
  service.call(`keys/${key}/${verb}`, {})

async function seal(key: string, seenBy: Record<string, string> = context): Promise<Uint8Array> {
  const answer = await encrypt(key, { context: seenBy })
  expect(answer.code).toBeUndefined()
  return answer.ciphertexts[0] as Uint8Array
}

async function expectOpened(ciphertext: Uint8Array): Promise<void> {
  const answer = await decrypt(ciphertext)
  expect(answer.errors ?? []).toEqual([])
  expect(Buffer.from(answer.plaintexts[0] as Uint8Array)).toEqual(plaintext)
}

/** Everything that has to be refused while a key is disabled. */
async function expectDisabled(key: string, ciphertext: Uint8Array, other: string): Promise<void> {
  for (const answer of [
    await encrypt(key),
    await encrypt(key, { form: 'packed' }),
    await encrypt(key, { form: 'detached' }),
    // A context that no cache holds anything of.
    await encrypt(key, { context: { nonce: randomBytes(8).toString('hex') } }),
    await dataKeys(key, true),
    await dataKeys(key, false),
  ]) {
    expect(answer.code).toBe('KMS_KEY_DISABLED')
    expect(answer.ciphertexts ?? answer.packed ?? answer.dataKeys).toBeUndefined()
  }
  const opened = await decrypt(ciphertext)
  expect(opened.plaintexts).toEqual([null])
  expect(opened.errors).toEqual([[0, 'KMS_KEY_DISABLED']])
  for (const mode of ['rewrap', 'fresh']) {
    const from = await service.call('re-encrypt', {
      key: other,
      context,
      ciphertexts: [ciphertext],
      mode,
    })
    expect(from.errors).toEqual([[0, 'KMS_KEY_DISABLED']])
    expect(from.ciphertexts).toEqual([null])
    const into = await service.call('re-encrypt', {
      key,
      context,
      ciphertexts: [await seal(other)],
      mode,
    })
    expect(into.code).toBe('KMS_KEY_DISABLED')
  }
}

describe('a new key', () => {
  test('has an id, an ARN with region and account, and is enabled at version 1', async () => {
    const created = await service.call('keys', { description: 'd', tags: { team: 'a' } })
    expect(created.keyId).toMatch(
      /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
    )
    expect(created.arn).toBe(`arn:aws:kms:us-east-1:000000000000:key/${created.keyId}`)
    expect(created).toMatchObject({
      state: 'Enabled',
      currentVersion: 1,
      description: 'd',
      tags: { team: 'a' },
      aliases: [],
      keyStore: 'local',
    })
  })

  test('is described by id and ARN alike, and by no part or change of them', async () => {
    const { keyId, arn } = await service.call('keys', {})
    const kms = service.engine.kms
    expect((await kms.describeKey(keyId)).arn).toBe(arn)
    expect((await kms.describeKey(arn)).keyId).toBe(keyId)
    for (const reference of [
      '',
      keyId.slice(1),
      `${keyId} `,
      `${keyId}\n`,
      `${keyId.slice(0, -1)}A`,
      `key/${keyId}`,
      `arn:aws:kms:us-east-2:000000000000:key/${keyId}`,
      `arn:aws:kms:us-east-1:000000000001:key/${keyId}`,
      `arn:aws-cn:kms:us-east-1:000000000000:key/${keyId}`,
      `arn:aws:kms:us-east-1:000000000000:${keyId}`,
      `arn:aws:kms:us-east-1:000000000000:key/key/${keyId}`,
      'mrk-00000000000000000000000000000000',
    ]) {
      await expect(kms.describeKey(reference)).rejects.toMatchObject({ code: 'KMS_KEY_NOT_FOUND' })
    }
  })

  test('takes a description and tags up to their limits and not beyond', async () => {
    const many = (count: number): Record<string, string> =>
      Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${i}`, 'v']))
    for (const fields of [
      { description: 'd'.repeat(8_192) },
      { tags: many(50) },
      { tags: { ['k'.repeat(128)]: 'v'.repeat(256) } },
      { tags: { k: '', aws: '', 'AWS:x': '', 'x/aws:': '' } },
    ]) {
      const created = await service.call('keys', fields)
      expect(created.code).toBeUndefined()
      const metadata = metadataOf(await service.engine.kms.describeKey(created.keyId))
      expect(metadata).toMatchObject({ description: '', tags: {}, ...fields })
    }
    const keys = (await service.engine.kms.listKeys({ limit: 1_000 })).items.length
    for (const [fields, code] of [
      [{ description: 'd'.repeat(8_193) }, 'LIMIT_EXCEEDED'],
      [{ tags: many(51) }, 'TAG_INVALID'],
      [{ tags: { ['k'.repeat(129)]: 'v' } }, 'TAG_INVALID'],
      [{ tags: { k: 'v'.repeat(257) } }, 'TAG_INVALID'],
      [{ tags: { '': 'v' } }, 'TAG_INVALID'],
      [{ tags: { 'aws:k': 'v' } }, 'TAG_INVALID'],
      [{ tags: { k: 7 } }, 'REQUEST_MALFORMED'],
      [{ tags: ['k'] }, 'REQUEST_MALFORMED'],
      [{ description: 7 }, 'REQUEST_MALFORMED'],
      [{ descripton: 'misspelt' }, 'REQUEST_MALFORMED'],
    ] as const) {
      expect((await service.call('keys', fields)).code).toBe(code)
    }
    expect((await service.engine.kms.listKeys({ limit: 1_000 })).items).toHaveLength(keys)
  })

  test('keeps tags whose names JavaScript uses itself', async () => {
    const tags = new Map([
      ['__proto__', 'a'],
      ['constructor', 'b'],
      ['toString', 'c'],
    ])
    const { keyId } = await service.engine.kms.createKey({ tags })
    const described = metadataOf(await service.engine.kms.describeKey(keyId)).tags
    expect(Object.entries(described).sort()).toEqual([...tags].sort())
  })
})

describe('a disabled key', () => {
  test('refuses everything at once, warm caches or not, and takes all of it up again', async () => {
    const [key, other] = [await service.createKey(), await service.createKey()]
    const ciphertext = await seal(key)
    await expectOpened(ciphertext)
    for (let times = 0; times < 2; times++) {
      expect(await manage(key, 'disable')).toMatchObject({ state: 'Disabled' })
      await expectDisabled(key, ciphertext, other)
      expect(await manage(key, 'enable')).toMatchObject({ state: 'Enabled' })
      await expectOpened(ciphertext)
      await expectOpened(await seal(key))
    }
  })

  test('can be disabled again and enabled again without harm', async () => {
    const key = await service.createKey()
    await manage(key, 'disable')
    expect(await manage(key, 'disable')).toMatchObject({ state: 'Disabled' })
    await manage(key, 'enable')
    expect(await manage(key, 'enable')).toMatchObject({ state: 'Enabled' })
  })

  test('is not rotated', async () => {
    const key = await service.createKey()
    await manage(key, 'disable')
    expect((await manage(key, 'rotate')).code).toBe('KMS_KEY_DISABLED')
    expect(await manage(key, 'enable')).toMatchObject({ currentVersion: 1 })
  })

  test('leaves other keys alone', async () => {
    const [key, other] = [await service.createKey(), await service.createKey()]
    const [mine, theirs] = [await seal(key), await seal(other)]
    await manage(key, 'disable')
    const answer = await decrypt(mine, theirs)
    expect(answer.errors).toEqual([[0, 'KMS_KEY_DISABLED']])
    expect(Buffer.from(answer.plaintexts[1] as Uint8Array)).toEqual(plaintext)
  })
})

describe('rotation', () => {
  test('seals under new material, and opens what each of the 25 versions before sealed', async () => {
    const key = await service.createKey()
    const sealed = [await seal(key)]
    for (let version = 2; version <= 26; version++) {
      expect(await manage(key, 'rotate')).toMatchObject({ currentVersion: version })
      sealed.push(await seal(key))
    }
    // AWS KMS: on-demand rotation at most 25 times a key.
    expect((await manage(key, 'rotate')).code).toBe('LIMIT_EXCEEDED')
    for (const ciphertext of sealed) await expectOpened(ciphertext)
    const kmsKey = await service.engine.kms.registry.resolve(key)
    expect([...kmsKey.materials.keys()]).toEqual(Array.from({ length: 26 }, (_, i) => i + 1))
    const stored = [...kmsKey.materials.values()].map((material) =>
      Buffer.from(material.stored).toString('hex'),
    )
    expect(new Set(stored).size).toBe(26)
  })

  test('takes effect at once: the next message names the new material', async () => {
    const key = await service.createKey()
    // formats.md: a wrapped key is version, suite, usage, KMS key id (16), u32 material version; its place is looked for.
    const idBytes = Buffer.from(key.replaceAll('-', ''), 'hex')
    const versionOf = (ciphertext: Uint8Array): number => {
      const bytes = Buffer.from(ciphertext)
      return bytes.readUInt32BE(bytes.indexOf(idBytes) + 16)
    }
    expect(versionOf(await seal(key))).toBe(1)
    await manage(key, 'rotate')
    expect(versionOf(await seal(key))).toBe(2)
  })

  test('raced by others uses each version once and loses none', async () => {
    const key = await service.createKey()
    const before = await seal(key)
    const answers = await Promise.all(Array.from({ length: 12 }, () => manage(key, 'rotate')))
    const done = answers.filter((answer) => answer.code === undefined)
    const refused = answers.filter((answer) => answer.code !== undefined)
    expect(done.length).toBeGreaterThanOrEqual(1)
    expect(new Set(refused.map((answer) => answer.code)).size).toBeLessThanOrEqual(1)
    for (const answer of refused) expect(answer.code).toBe('KMS_KEY_ROTATING')
    const { currentVersion, materials } = await service.engine.kms.registry.resolve(key)
    expect(currentVersion).toBe(1 + done.length)
    expect([...materials.keys()]).toEqual(Array.from({ length: currentVersion }, (_, i) => i + 1))
    await expectOpened(before)
    await expectOpened(await seal(key))
  })
})

/** Holds every call of a method of the key store until it is let go: a store that takes its time. */
function hold(method: 'wrapKey' | 'wrapBytes' | 'unwrapKey' | 'wrapMessageKey'): {
  readonly reached: Promise<void>
  letGo(): void
} {
  let letGo = (): void => undefined
  const open = new Promise<void>((resolve) => {
    letGo = resolve
  })
  let reach = (): void => undefined
  const reached = new Promise<void>((resolve) => {
    reach = resolve
  })
  const original = Object.getOwnPropertyDescriptor(LocalKeyStore.prototype, method)
    ?.value as KeyStore[typeof method]
  vi.spyOn(LocalKeyStore.prototype, method).mockImplementation(async function (
    this: LocalKeyStore,
    ...parameters: unknown[]
  ) {
    reach()
    await open
    return Reflect.apply(original, this, parameters) as never
  } as never)
  return { reached, letGo }
}

describe('a disabling that lands while the key store works', () => {
  test('is final for an encrypt that found no key in the cache', async () => {
    const key = await service.createKey()
    const { reached, letGo } = hold('wrapKey')
    const encrypting = encrypt(key)
    await reached
    await service.engine.kms.disableKey(key)
    letGo()
    const answer = await encrypting
    expect(answer.code).toBe('KMS_KEY_DISABLED')
    expect(answer.ciphertexts).toBeUndefined()
  })

  test.each([
    ['with their plaintext', 'wrapBytes', true],
    ['that nobody sees', 'wrapKey', false],
  ] as const)('is final for data keys %s', async (_, method, withPlaintext) => {
    const key = await service.createKey()
    const { reached, letGo } = hold(method)
    const generating = dataKeys(key, withPlaintext)
    await reached
    await service.engine.kms.disableKey(key)
    letGo()
    const answer = await generating
    expect(answer.code).toBe('KMS_KEY_DISABLED')
    expect(answer.dataKeys).toBeUndefined()
  })

  test('is final for a decrypt', async () => {
    const key = await service.createKey()
    const ciphertext = await seal(key)
    // Every change empties the caches.
    await manage(key, 'rotate')
    const { reached, letGo } = hold('unwrapKey')
    const decrypting = decrypt(ciphertext)
    await reached
    await service.engine.kms.disableKey(key)
    letGo()
    const answer = await decrypting
    expect(answer.plaintexts).toEqual([null])
    expect(answer.errors).toEqual([[0, 'KMS_KEY_DISABLED']])
  })

  test.each(['inline', 'packed'] as const)('is final for a re-wrap, %s', async (form) => {
    const [source, target] = [await service.createKey(), await service.createKey()]
    const sealed = await encrypt(source, { form })
    const { reached, letGo } = hold('wrapMessageKey')
    const rewrapping = service.call('re-encrypt', {
      key: target,
      context,
      mode: 'rewrap',
      ...(form === 'packed' ? { packed: sealed.packed } : { ciphertexts: sealed.ciphertexts }),
    })
    await reached
    await service.engine.kms.disableKey(target)
    letGo()
    const answer = await rewrapping
    expect(answer.code).toBe('KMS_KEY_DISABLED')
    expect(answer.ciphertexts ?? answer.packed).toBeUndefined()
  })

  test('is final for the target of a re-wrap while its source is still being opened', async () => {
    const [source, target] = [await service.createKey(), await service.createKey()]
    const ciphertext = await seal(source)
    await manage(source, 'rotate')
    const { reached, letGo } = hold('unwrapKey')
    const fields = { key: target, context, mode: 'rewrap', ciphertexts: [ciphertext] }
    const rewrapping = service.call('re-encrypt', fields)
    await reached
    await service.engine.kms.disableKey(target)
    letGo()
    expect((await rewrapping).code).toBe('KMS_KEY_DISABLED')
  })

  test('and is taken back before the store answers leaves the caller a ciphertext that opens', async () => {
    const key = await service.createKey()
    const { reached, letGo } = hold('wrapKey')
    const encrypting = encrypt(key)
    await reached
    await service.engine.kms.disableKey(key)
    await service.engine.kms.enableKey(key)
    letGo()
    await expectOpened((await encrypting).ciphertexts[0] as Uint8Array)
  })

  test('never lets a cold encrypt through, whoever of the two is faster', async () => {
    const rounds = await Promise.all(
      Array.from({ length: 40 }, async (_, round) => {
        const key = await service.createKey()
        const encrypting = Array.from({ length: 1 + (round % 8) }, (__, i) =>
          encrypt(key, { context: { round: String(round), i: String(i) } }),
        )
        await manage(key, 'disable')
        // From here on it is acknowledged.
        const after = await encrypt(key)
        return { early: await Promise.all(encrypting), after }
      }),
    )
    for (const { early, after } of rounds) {
      expect(after.code).toBe('KMS_KEY_DISABLED')
      for (const { code } of early) expect([undefined, 'KMS_KEY_DISABLED']).toContain(code)
    }
  })
})
