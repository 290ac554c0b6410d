/** In-process mode with message keys of a real server: the same ciphertexts, few calls, and nothing that was revoked. */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { KeyfoldError } from '../../dist/errors.js'
import { openKeyfold, type InProcessKeyfold, type ServerBackedOptions } from '../../dist/index.js'
import { send } from '../server/caller.ts'
import { startService, type Service } from '../service.ts'

let service: Service
let key: string
const opened: InProcessKeyfold[] = []

beforeAll(async () => {
  service = await startService()
  key = await releasingKey()
})
afterAll(async () => {
  await Promise.all(opened.map((keyfold) => keyfold.close()))
  await service.close()
})

/** A KMS key whose policy lets the account say who may have its message keys: a new key's policy does not. */
async function releasingKey(): Promise<string> {
  const created = await service.createKey()
  const policy = JSON.stringify({
    Version: '2012-10-17',
    Statement: [
      {
        Effect: 'Allow',
        Principal: { AWS: 'arn:aws:iam::000000000000:root' },
        Action: ['kms:*', 'keyfold:ReleaseMessageKey'],
        Resource: '*',
      },
    ],
  })
  const { status } = await send(service, 'PUT', `/v1/keys/${created}/policy`, {
    fields: { policy },
  })
  expect(status).toBe(200)
  return created
}

const context = { table: 'orders' }
const texts = (list: readonly string[]): readonly Buffer[] => list.map((text) => Buffer.from(text))
const strings = (
  list: readonly (Uint8Array | null | undefined)[],
): readonly (string | undefined)[] =>
  list.map((bytes) => (bytes ? String(Buffer.from(bytes)) : undefined))

async function open(
  options: Partial<ServerBackedOptions> & { readonly token?: string } = {},
): Promise<InProcessKeyfold> {
  const { token = service.token, ...more } = options
  const keyfold = await openKeyfold({ server: { url: service.url, token }, ...more })
  opened.push(keyfold)
  return keyfold
}

async function tokenFor(actions: readonly string[], keys: readonly string[] = ['*']) {
  const principalArn = 'arn:aws:iam::000000000000:user/in-process'
  return service.engine.tokens.create({ name: 'in-process', principalArn, actions, keys })
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work
  } catch (error) {
    if (error instanceof KeyfoldError) return error.code
    throw error
  }
  throw new Error('it was not refused')
}

describe.each(['auto', 'node'] as const)('on crypto %s', (crypto) => {
  test.each([1, 2] as const)('server and process open each other, suite %i', async (suite) => {
    const keyfold = await open({ crypto })
    const plaintexts = ['one', '', 'x'.repeat(5_000)]
    const inline = await keyfold.encrypt(key, texts(plaintexts), { context, suite })
    expect(inline.keyId).toContain(`:key/${key}`)
    const detached = await keyfold.encrypt(key, texts(plaintexts), {
      context,
      suite,
      form: 'detached',
    })
    const { packed } = await keyfold.encrypt(key, texts(plaintexts), { context, form: 'packed' })
    const there = [
      { ciphertexts: inline.ciphertexts },
      { ciphertexts: detached.ciphertexts, keyEntries: [detached.keyEntry] },
      { packed },
    ]
    for (const fields of there) {
      const answer = await service.call('decrypt', { context, ...fields })
      expect(strings(answer.plaintexts)).toEqual(plaintexts)
    }
    const sealed = { key, context, plaintexts: texts(plaintexts), suite }
    const theirs = await service.call('encrypt', sealed)
    const apart = await service.call('encrypt', { ...sealed, form: 'detached' })
    const whole = await service.call('encrypt', { ...sealed, form: 'packed' })
    const here = [
      await keyfold.decrypt(theirs.ciphertexts, { context }),
      await keyfold.decrypt(apart.ciphertexts, { context, keyEntries: [apart.keyEntry] }),
      await keyfold.decrypt(whole.packed, { context }),
    ]
    for (const { plaintexts: found, errors } of here) {
      expect(errors).toEqual([])
      expect(strings(found)).toEqual(plaintexts)
    }
    expect(keyfold.counters().implementation).toBe(
      crypto === 'node' ? 'node' : service.engine.crypto.implementation,
    )
  })

  test('one bad message fails alone', async () => {
    const keyfold = await open({ crypto })
    const { ciphertexts } = await keyfold.encrypt(key, texts(['a', 'b']), { context })
    const flipped = Buffer.from(ciphertexts[1] as Uint8Array)
    flipped[flipped.length - 1] = (flipped.at(-1) as number) ^ 1
    const batch = [ciphertexts[0] as Uint8Array, flipped, Buffer.from('nonsense')]
    const { plaintexts, errors } = await keyfold.decrypt(batch, { context })
    expect(strings(plaintexts)).toEqual(['a', undefined, undefined])
    expect(errors).toEqual([
      [1, 'DECRYPT_FAILED'],
      [2, 'MESSAGE_MALFORMED'],
    ])
    const elsewhere = await keyfold.decrypt(ciphertexts, { context: { table: 'other' } })
    expect(elsewhere.errors.map(([, code]) => code)).toEqual(['DECRYPT_FAILED', 'DECRYPT_FAILED'])
  })
})

describe('what it asks of the server', () => {
  test('a million messages cost one call, and opening them another', async () => {
    const keyfold = await open()
    const batch = Array.from({ length: 50_000 }, (_, i) => Buffer.from(`row ${i}`))
    let last: readonly Uint8Array[] = []
    for (let sealed = 0; sealed < 1_000_000; sealed += batch.length) {
      last = (await keyfold.encrypt(key, batch, { context })).ciphertexts
    }
    expect(keyfold.counters()).toMatchObject({ serverCalls: 1, wraps: 1 })
    const { plaintexts } = await keyfold.decrypt(last, { context })
    expect(strings(plaintexts)).toEqual(strings(batch))
    await keyfold.decrypt(last, { context })
    expect(keyfold.counters()).toMatchObject({ serverCalls: 2, unwraps: 1 })
  })

  test('every limit of a message key costs one, and no key does more', async () => {
    const keyfold = await open({ limits: { messagesMax: 10 } })
    const entries = new Map<string, number>()
    for (let i = 0; i < 100; i++) {
      const { ciphertexts } = await keyfold.encrypt(key, texts(['a']), { context })
      const entry = Buffer.from(ciphertexts[0] as Uint8Array).toString('hex', 2, 34)
      entries.set(entry, (entries.get(entry) ?? 0) + 1)
    }
    expect([...entries.values()]).toEqual(Array.from({ length: 10 }, () => 10))
    // The last one is beyond 80 %: its successor was asked for.
    await keyfold.close()
    expect(keyfold.counters().wraps).toBe(11)
    expect(
      await codeOf(
        open({ limits: { messagesMax: 1 } }).then((one) => one.encrypt(key, texts(['a', 'b']))),
      ),
    ).toBe('LIMIT_EXCEEDED')
  })

  test('a hundred batches at once wait for one key', async () => {
    const keyfold = await open()
    const batches = Array.from({ length: 100 }, (_, i) =>
      keyfold.encrypt(key, texts([`row ${i}`]), { context }),
    )
    const sealed = (await Promise.all(batches)).map(
      ({ ciphertexts }) => ciphertexts[0] as Uint8Array,
    )
    expect(keyfold.counters().serverCalls).toBe(1)
    const answer = await service.call('decrypt', { context, ciphertexts: sealed })
    expect(strings(answer.plaintexts)).toEqual(sealed.map((_, i) => `row ${i}`))
  })

  test('key entries that are asked for together travel together', async () => {
    const maker = await open({ limits: { messagesMax: 1 } })
    const sealed: Uint8Array[] = []
    for (let i = 0; i < 20; i++) {
      sealed.push(
        (await maker.encrypt(key, texts([`${i}`]), { context })).ciphertexts[0] as Uint8Array,
      )
    }
    const keyfold = await open()
    const { plaintexts } = await keyfold.decrypt(sealed, { context })
    expect(strings(plaintexts)).toEqual(sealed.map((_, i) => `${i}`))
    expect(keyfold.counters()).toMatchObject({ serverCalls: 1, unwraps: 20 })
  })
})

describe('the server’s own cache', () => {
  test('never seals with a message key that it has given away', async () => {
    const keyfold = await open()
    const fresh = await releasingKey()
    const entryOf = (inline: Uint8Array | undefined): string =>
      Buffer.from(inline as Uint8Array).toString('hex', 2, 34)
    const mine = await keyfold.encrypt(fresh, texts(['a']), { context })
    const theirs = await service.call('encrypt', { key: fresh, context, plaintexts: texts(['a']) })
    const again = await keyfold.encrypt(fresh, texts(['a']), { context })
    expect(entryOf(theirs.ciphertexts[0])).not.toBe(entryOf(mine.ciphertexts[0]))
    expect(entryOf(again.ciphertexts[0])).toBe(entryOf(mine.ciphertexts[0]))
  })
})

describe('permission', () => {
  test('is ReleaseMessageKey, on the KMS key, and nothing else gives it', async () => {
    const other = await releasingKey()
    const { ciphertexts } = await service.call('encrypt', {
      key,
      context,
      plaintexts: texts(['a']),
    })
    const refusedWith = async (token: string): Promise<readonly string[]> => {
      const keyfold = await open({ token })
      const { errors } = await keyfold.decrypt(ciphertexts, { context })
      return [
        await codeOf(keyfold.encrypt(key, texts(['a']), { context })),
        ...errors.map(([, code]) => code),
      ]
    }
    const denied = ['ACCESS_DENIED', 'ACCESS_DENIED']
    const { token: everything } = await tokenFor(['kms:*'])
    expect(await refusedWith(everything)).toEqual(denied)
    const { token: elsewhere } = await tokenFor(['keyfold:ReleaseMessageKey'], [`*:key/${other}`])
    expect(await refusedWith(elsewhere)).toEqual(denied)
    const { token } = await tokenFor(['keyfold:ReleaseMessageKey'], [`*:key/${key}`])
    const keyfold = await open({ token })
    // A new KMS key gives its message keys to nobody, not even to root.
    const root = await open()
    expect(await codeOf(root.encrypt(await service.createKey(), texts(['a'])))).toBe(
      'ACCESS_DENIED',
    )
    const sealed = await keyfold.encrypt(key, texts(['a']), { context })
    expect((await keyfold.decrypt(sealed.ciphertexts, { context })).errors).toEqual([])
    // And it gives none of the others.
    expect((await keyfold.decrypt(ciphertexts, { context })).errors).toEqual([])
    const response = await fetch(`${service.url}/v1/encrypt`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: JSON.stringify({ key, plaintexts: ['YQ=='] }),
    })
    expect(response.status).toBe(403)
  })
})

describe('what was revoked at the server', () => {
  test('a disabled KMS key ends by the age of a message key', async () => {
    const fresh = await releasingKey()
    const keyfold = await open({ limits: { ageMsMax: 300 } })
    const { ciphertexts } = await keyfold.encrypt(fresh, texts(['a']), { context })
    await keyfold.decrypt(ciphertexts, { context })
    const disabledAtMs = performance.now()
    await service.call(`keys/${fresh}/disable`, {})
    for (;;) {
      // Whatever was begun when every key that was given before had its time is refused.
      const isOver = performance.now() - disabledAtMs > 300
      const sealed = keyfold.encrypt(fresh, texts(['b']), { context }).then(
        () => '',
        (error: unknown) => (error as KeyfoldError).code,
      )
      const [code, { errors }] = [await sealed, await keyfold.decrypt(ciphertexts, { context })]
      if (!isOver) continue
      expect(code).toBe('KMS_KEY_DISABLED')
      expect(errors).toEqual([[0, 'KMS_KEY_DISABLED']])
      break
    }
    expect(keyfold.counters()).toMatchObject({ openKeys: 0 })
    await service.call(`keys/${fresh}/enable`, {})
    expect((await keyfold.decrypt(ciphertexts, { context })).errors).toEqual([])
  })

  test('a revoked token ends so as well', async () => {
    const { token, record } = await tokenFor(['keyfold:ReleaseMessageKey'])
    const keyfold = await open({ token, limits: { ageMsMax: 300 } })
    const { ciphertexts } = await keyfold.encrypt(key, texts(['a']), { context })
    await keyfold.decrypt(ciphertexts, { context })
    const revokedAtMs = performance.now()
    await service.engine.tokens.revoke(record.tokenId)
    for (;;) {
      const isOver = performance.now() - revokedAtMs > 300
      const sealed = keyfold.encrypt(key, texts(['b']), { context }).then(
        () => '',
        (error: unknown) => (error as KeyfoldError).code,
      )
      const [code, { errors }] = [await sealed, await keyfold.decrypt(ciphertexts, { context })]
      if (!isOver) continue
      expect(code).toBe('UNAUTHENTICATED')
      expect(errors).toEqual([[0, 'ACCESS_DENIED']])
      break
    }
  })

  test('with checksEveryLease both end at once, and keys in memory serve nobody', async () => {
    const fresh = await releasingKey()
    const { token, record } = await tokenFor(['keyfold:ReleaseMessageKey'])
    const keyfold = await open({ token, checksEveryLease: true })
    const { ciphertexts } = await keyfold.encrypt(fresh, texts(['a']), { context })
    expect((await keyfold.decrypt(ciphertexts, { context })).errors).toEqual([])
    const { serverCalls } = keyfold.counters()
    await keyfold.encrypt(fresh, texts(['a']), { context })
    await keyfold.decrypt(ciphertexts, { context })
    expect(keyfold.counters().serverCalls).toBe(serverCalls + 2)
    await service.call(`keys/${fresh}/disable`, {})
    expect(await codeOf(keyfold.encrypt(fresh, texts(['a']), { context }))).toBe('KMS_KEY_DISABLED')
    const shut = await keyfold.decrypt(ciphertexts, { context })
    expect(shut.errors).toEqual([[0, 'KMS_KEY_DISABLED']])
    await service.call(`keys/${fresh}/enable`, {})
    expect((await keyfold.decrypt(ciphertexts, { context })).errors).toEqual([])
    await service.engine.tokens.revoke(record.tokenId)
    expect((await keyfold.decrypt(ciphertexts, { context })).errors).toEqual([[0, 'ACCESS_DENIED']])
    expect(await codeOf(keyfold.encrypt(fresh, texts(['a'])))).toBe('UNAUTHENTICATED')
  })
})

describe('the library', () => {
  test('loads neither addon nor engine before in-process mode is opened', () => {
    const index = join(import.meta.dirname, '../../dist/index.js')
    const script = `
      await import(${JSON.stringify(index)})
      const addon = process.report.getReport().sharedObjects.filter((path) => path.includes('keyfold'))
      console.log(JSON.stringify(addon))`
    const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', script])
    expect(JSON.parse(String(stdout))).toEqual([])
  })

  test('says what is missing', async () => {
    expect(await codeOf(openKeyfold({ server: { token: undefined } }))).toBe('CONFIG_INVALID')
    expect(await codeOf(openKeyfold({} as never))).toBe('CONFIG_INVALID')
    const both = { server: { token: 'x' }, dataDirectory: '/x' }
    expect(await codeOf(openKeyfold(both as never))).toBe('CONFIG_INVALID')
    const keyfold = await open()
    await keyfold.close()
    expect(await codeOf(keyfold.encrypt(key, texts(['a'])))).toBe('SHUTTING_DOWN')
  })
})
