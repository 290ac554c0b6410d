/** Every method of the client library against a server, and what the methods refuse. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import {
  attachKeyEntry,
  detachMessage,
  Keyfold,
  KeyfoldError,
  unpackToDetached,
  unpackToInline,
  type ErrorCode,
} from '../../dist/index.js'
import { startService, type Service } from '../service.ts'

let service: Service
let keyfold: Keyfold
let key: string

beforeAll(async () => {
  service = await startService()
  keyfold = new Keyfold({ url: service.url, token: service.token })
  key = await service.createKey()
})
afterAll(async () => {
  await keyfold.close()
  await service.close()
})

const context = { table: 'orders', straße: 'größer 🔑' }
/** Empty, one byte, bytes that are no text, and one longer than a small batch. */
const messages = [
  new Uint8Array(0),
  Uint8Array.of(0),
  Buffer.from('fffe00c3', 'hex'),
  Buffer.alloc(70_000, 0xa5),
]

const plain = (list: readonly (Uint8Array | undefined)[]): readonly (string | undefined)[] =>
  list.map((bytes) => bytes && Buffer.from(bytes).toString('hex'))

/** The error a promise ends with; a promise that does not fail is a failure. */
async function failure(promise: Promise<unknown>): Promise<KeyfoldError> {
  try {
    await promise
  } catch (error) {
    expect(error).toBeInstanceOf(KeyfoldError)
    return error as KeyfoldError
  }
  throw new Error('this should have been refused')
}

async function codeOf(promise: Promise<unknown>): Promise<ErrorCode> {
  return (await failure(promise)).code
}

describe.each([1, 2] as const)('suite %i', (suite) => {
  test('inline messages come back byte for byte, in order, each alone', async () => {
    const sealed = await keyfold.encryptBatch(key, messages, { context, suite })
    expect(sealed.keyId).toContain(key)
    expect(sealed.ciphertexts).toHaveLength(messages.length)
    const opened = await keyfold.decryptBatch(sealed.ciphertexts, { context })
    expect(opened.errors).toEqual([])
    expect(plain(opened.plaintexts)).toEqual(plain(messages))
    const reversed = [...sealed.ciphertexts].reverse()
    const back = await keyfold.decryptBatch(reversed, { context })
    expect(plain(back.plaintexts)).toEqual(plain([...messages].reverse()))
  })

  test('detached messages open with their key entry, and not without it', async () => {
    const sealed = await keyfold.encryptDetached(key, messages, { context, suite })
    const keyEntries = [sealed.keyEntry]
    const opened = await keyfold.decryptBatch(sealed.ciphertexts, { context, keyEntries })
    expect(plain(opened.plaintexts)).toEqual(plain(messages))
    const without = await keyfold.decryptBatch(sealed.ciphertexts, { context })
    expect(without.plaintexts).toEqual(messages.map(() => undefined))
    expect(without.errors.map(([index]) => index)).toEqual(messages.map((_, i) => i))
  })

  test('a packed batch comes back whole', async () => {
    const { packed, keyId } = await keyfold.encryptPacked(key, messages, { context, suite })
    expect(keyId).toContain(key)
    const opened = await keyfold.decryptPacked(packed, { context })
    expect(opened.errors).toEqual([])
    expect(plain(opened.plaintexts)).toEqual(plain(messages))
  })

  test('the forms convert into each other without a key, and still open', async () => {
    const { packed } = await keyfold.encryptPacked(key, messages, { context, suite })
    const inline = unpackToInline(packed)
    const detached = unpackToDetached(packed)
    const pieces = inline.map(detachMessage)
    const [first] = pieces
    expect(first).toBeDefined()
    for (const form of [
      { ciphertexts: inline, keyEntries: undefined },
      { ciphertexts: detached.messages, keyEntries: [detached.keyEntry] },
      {
        ciphertexts: pieces.map(({ message, keyEntry }) => attachKeyEntry(message, keyEntry)),
        keyEntries: undefined,
      },
    ]) {
      const opened = await keyfold.decryptBatch(form.ciphertexts, {
        context,
        keyEntries: form.keyEntries,
      })
      expect(plain(opened.plaintexts)).toEqual(plain(messages))
    }
  })

  test('single messages are sealed in the suite that was asked for', async () => {
    const one = await keyfold.encrypt(key, Buffer.from('one'), { context, suite })
    const [batched] = (await keyfold.encryptBatch(key, [Buffer.from('one')], { context, suite }))
      .ciphertexts
    expect(one).toHaveLength(batched?.length ?? 0)
    expect(Buffer.from(await keyfold.decrypt(one, { context })).toString()).toBe('one')
  })
})

test('a message of suite 2 is 32 bytes longer', async () => {
  const [one] = (await keyfold.encryptBatch(key, [Buffer.alloc(9)], { suite: 1 })).ciphertexts
  const [two] = (await keyfold.encryptBatch(key, [Buffer.alloc(9)], { suite: 2 })).ciphertexts
  expect((two?.length ?? 0) - (one?.length ?? 0)).toBe(32)
})

test('an empty batch is refused by name', async () => {
  for (const refused of [() => keyfold.encryptBatch(key, []), () => keyfold.decryptBatch([])]) {
    const { code, message } = await failure(refused())
    expect(code).toBe('REQUEST_MALFORMED')
    expect(message).toContain('at least one message is needed')
  }
})

test('65,536 messages travel in one batch, and one more is refused by the name of the limit', async () => {
  const most = Array.from({ length: 65_536 }, (_, i) => Buffer.of(i >> 8, i & 255))
  const { ciphertexts } = await keyfold.encryptBatch(key, most)
  const { plaintexts, errors } = await keyfold.decryptBatch(ciphertexts)
  expect(errors).toEqual([])
  expect(Buffer.concat(plaintexts as Uint8Array[]).equals(Buffer.concat(most))).toBe(true)
  const refused = await failure(keyfold.encryptBatch(key, [...most, Buffer.alloc(1)]))
  expect(refused.code).toBe('LIMIT_EXCEEDED')
  expect(refused.message).toContain('65536')
})

test('bad messages have undefined in their place and a code each; their neighbours open', async () => {
  const { ciphertexts } = await keyfold.encryptBatch(key, messages, { context })
  const flipped = Buffer.from(ciphertexts[1] as Uint8Array)
  flipped.writeUInt8(flipped.readUInt8(flipped.length - 1) ^ 1, flipped.length - 1)
  const { plaintexts, errors } = await keyfold.decryptBatch(
    [ciphertexts[0] as Uint8Array, flipped, Buffer.from('nonsense'), ciphertexts[2] as Uint8Array],
    { context },
  )
  expect(errors).toEqual([
    [1, 'DECRYPT_FAILED'],
    [2, 'MESSAGE_MALFORMED'],
  ])
  expect(plain(plaintexts)).toEqual([plain(messages)[0], undefined, undefined, plain(messages)[2]])
})

test('the context binds: another one, less of it and none all fail, in any order of keys it opens', async () => {
  const sealed = await keyfold.encrypt(key, Buffer.from('bound'), { context: { a: '1', b: '2' } })
  for (const wrong of [{ a: '1', b: '3' }, { a: '1' }, {}, undefined, { a: '1', b: '2', c: '' }]) {
    expect(await codeOf(keyfold.decrypt(sealed, { context: wrong }))).toBe('DECRYPT_FAILED')
  }
  const opened = await keyfold.decrypt(sealed, { context: { b: '2', a: '1' } })
  expect(Buffer.from(opened).toString()).toBe('bound')
})

describe('re-encryption', () => {
  test.each(['rewrap', 'fresh'] as const)(
    '%s moves inline messages to another key',
    async (mode) => {
      const other = await service.createKey()
      const { ciphertexts } = await keyfold.encryptBatch(key, messages, { context })
      const moved = await keyfold.reEncryptBatch(other, ciphertexts, { mode, context })
      expect(moved.keyId).toContain(other)
      expect(moved.errors).toEqual([])
      await keyfold.manage('POST', `/v1/keys/${key}/disable`)
      try {
        const { plaintexts } = await keyfold.decryptBatch(moved.ciphertexts as Uint8Array[], {
          context,
        })
        expect(plain(plaintexts)).toEqual(plain(messages))
      } finally {
        await keyfold.manage('POST', `/v1/keys/${key}/enable`)
      }
    },
  )

  test('rewrap of detached messages gives the new key entry', async () => {
    const other = await service.createKey()
    const sealed = await keyfold.encryptDetached(key, messages, { context })
    const moved = await keyfold.reEncryptBatch(other, sealed.ciphertexts, {
      mode: 'rewrap',
      context,
      keyEntries: [sealed.keyEntry],
    })
    expect(moved.keyEntries).toHaveLength(1)
    const { plaintexts } = await keyfold.decryptBatch(moved.ciphertexts as Uint8Array[], {
      context,
      keyEntries: moved.keyEntries,
    })
    expect(plain(plaintexts)).toEqual(plain(messages))
  })

  test('fresh changes the context of messages and of a packed batch', async () => {
    const newContext = { table: 'archive' }
    const { ciphertexts } = await keyfold.encryptBatch(key, messages, { context })
    const moved = await keyfold.reEncryptBatch(key, ciphertexts, {
      mode: 'fresh',
      context,
      newContext,
    })
    const opened = await keyfold.decryptBatch(moved.ciphertexts as Uint8Array[], {
      context: newContext,
    })
    expect(plain(opened.plaintexts)).toEqual(plain(messages))
    const { packed } = await keyfold.encryptPacked(key, messages, { context })
    for (const mode of ['fresh', 'rewrap'] as const) {
      const to = mode === 'fresh' ? newContext : undefined
      const repacked = await keyfold.reEncryptPacked(key, packed, { mode, context, newContext: to })
      const back = await keyfold.decryptPacked(repacked.packed, { context: to ?? context })
      expect(plain(back.plaintexts)).toEqual(plain(messages))
    }
  })

  test('a message that does not open is named, and its neighbours are moved', async () => {
    const { ciphertexts } = await keyfold.encryptBatch(key, messages, { context })
    const batch = [Buffer.from('nonsense'), ciphertexts[2] as Uint8Array]
    const moved = await keyfold.reEncryptBatch(key, batch, { mode: 'fresh', context })
    expect(moved.errors).toEqual([[0, 'MESSAGE_MALFORMED']])
    expect(moved.ciphertexts[0]).toBeUndefined()
    const opened = await keyfold.decrypt(moved.ciphertexts[1] as Uint8Array, { context })
    expect(plain([opened])).toEqual([plain(messages)[2]])
  })
})

describe('data keys', () => {
  test('are distinct and of 32 bytes, and so are their wrapped forms', async () => {
    const keys = await keyfold.dataKeys(key, 5, { context })
    expect(new Set(plain(keys.map(({ plaintext }) => plaintext))).size).toBe(5)
    expect(new Set(plain(keys.map(({ wrappedKey }) => wrappedKey))).size).toBe(5)
    for (const { plaintext } of keys) expect(plaintext).toHaveLength(32)
  })

  test('come without plaintext where it is not asked for', async () => {
    const keys = await keyfold.dataKeys(key, 2, { plaintext: false })
    expect(keys.map(({ plaintext }) => plaintext)).toEqual([undefined, undefined])
    expect(keys[0]?.wrappedKey.length).toBeGreaterThan(0)
  })

  test.each([0, -1, 1.5, 1_025, Number.NaN, Infinity, 2 ** 40])(
    'a count of %d is refused',
    async (count) => {
      const code = await codeOf(keyfold.dataKeys(key, count))
      expect(['REQUEST_MALFORMED', 'LIMIT_EXCEEDED']).toContain(code)
    },
  )
})

describe('management', () => {
  test('creates, describes, disables and enables a key', async () => {
    const created = await keyfold.manage('POST', '/v1/keys', {
      description: 'for this test',
      alias: 'alias/managed',
      tags: { team: 'größer' },
    })
    expect(created).toMatchObject({ description: 'for this test', tags: { team: 'größer' } })
    const path = `/v1/keys/${encodeURIComponent('alias/managed')}`
    expect(await keyfold.manage('GET', path)).toEqual(created)
    await keyfold.manage('POST', `${path}/disable`)
    expect(await codeOf(keyfold.encrypt('alias/managed', messages[0] as Uint8Array))).toBe(
      'KMS_KEY_DISABLED',
    )
    await keyfold.manage('POST', `${path}/enable`)
    await keyfold.encrypt('alias/managed', messages[0] as Uint8Array)
  })

  test('tells the limits as plain numbers', async () => {
    expect(await keyfold.manage('GET', '/v1/limits')).toMatchObject({
      batchMessagesMax: 65_536,
      messageBytesMax: 16 * 2 ** 20,
    })
  })
})

describe('errors', () => {
  test('carry the code, the status and the request id under which the server knows them', async () => {
    const error = await failure(keyfold.encryptBatch('alias/nowhere', messages))
    expect(error.code).toBe('KMS_KEY_NOT_FOUND')
    expect(error.status).toBe(404)
    expect(error.retryable).toBe(false)
    expect(error.requestId).toMatch(/^[0-9a-z]+-[0-9a-z]+-[0-9a-z]+$/)
    expect(error.message).toContain(`request ${error.requestId}`)
    const again = await failure(keyfold.encryptBatch('alias/nowhere', messages))
    expect(again.requestId).not.toBe(error.requestId)
  })

  test.each([
    ['UNAUTHENTICATED', () => new Keyfold({ url: service.url, token: 'kf_wrong' })],
    ['ROUTE_NOT_FOUND', () => keyfold],
  ] as const)('%s', async (code, client) => {
    const path = code === 'ROUTE_NOT_FOUND' ? '/v1/nothing' : '/v1/limits'
    expect(await codeOf(client().manage('GET', path))).toBe(code)
  })

  test('a token without the right is told so, by every method', async () => {
    const { token } = (await keyfold.manage('POST', '/v1/tokens', {
      name: 'reader',
      actions: ['kms:Decrypt'],
      keys: ['*'],
    })) as { token: string }
    const reader = new Keyfold({ url: service.url, token })
    const { packed } = await keyfold.encryptPacked(key, messages)
    const codes = await Promise.all(
      [
        reader.encryptBatch(key, messages),
        reader.encryptDetached(key, messages),
        reader.encryptPacked(key, messages),
        reader.encrypt(key, Buffer.alloc(1)),
        reader.dataKeys(key, 1),
        reader.reEncryptPacked(key, packed, { mode: 'fresh' }),
        reader.manage('POST', '/v1/keys', {}),
        reader.manage('POST', '/v1/lock'),
      ].map(codeOf),
    )
    expect(codes).toEqual(codes.map(() => 'ACCESS_DENIED'))
    expect((await reader.decryptPacked(packed)).errors).toEqual([])
    await reader.close()
  })

  test('a client without a token, or with a URL that is none, is refused when it is made', () => {
    expect(() => new Keyfold({ url: service.url, token: undefined })).toThrow(/token/)
    for (const url of ['127.0.0.1:8790', 'nonsense', '', 'ftp://127.0.0.1']) {
      const made = (): Keyfold => new Keyfold({ url, token: 'kf_x' })
      expect(made, url).toThrow(KeyfoldError)
      expect(made, url).toThrow(/URL/)
    }
  })

  test('what is no byte string is refused: no text is ever encrypted as zeros', async () => {
    const text = 'secret' as unknown as Uint8Array
    const numbers = [1, 2, 3] as unknown as Uint8Array
    for (const wrong of [text, numbers, undefined as unknown as Uint8Array]) {
      await expect(keyfold.encryptBatch(key, [Buffer.alloc(1), wrong])).rejects.toThrow(TypeError)
      await expect(keyfold.encryptPacked(key, [wrong])).rejects.toThrow(TypeError)
      await expect(keyfold.encrypt(key, wrong)).rejects.toThrow(TypeError)
      await expect(keyfold.decrypt(wrong)).rejects.toThrow(TypeError)
    }
    const whole = 'secret' as unknown as readonly Uint8Array[]
    expect(await codeOf(keyfold.encryptBatch(key, whole))).toBe('REQUEST_MALFORMED')
  })

  test('a context of other things than text is refused, and so is half a character', async () => {
    const numbers = { id: 5 } as unknown as Record<string, string>
    await expect(keyfold.encryptBatch(key, messages, { context: numbers })).rejects.toThrow(
      /context/,
    )
    // U+D800 alone would become U+FFFD on the wire: two contexts would be one.
    for (const half of [{ id: '\ud800' }, { '\udc00': 'id' }]) {
      expect(await codeOf(keyfold.encryptBatch(key, messages, { context: half }))).toBe(
        'CONTEXT_INVALID',
      )
    }
  })
})

describe('an abort signal', () => {
  test('that has fired already lets nothing out', async () => {
    const signal = AbortSignal.abort()
    const codes = await Promise.all(
      [
        keyfold.encryptBatch(key, messages, { signal }),
        keyfold.decryptBatch([], { signal }),
        keyfold.encrypt(key, Buffer.alloc(1), { signal }),
        keyfold.decrypt(Buffer.alloc(1), { signal }),
        keyfold.dataKeys(key, 1, { signal }),
        keyfold.manage('GET', '/v1/limits', undefined, signal),
      ].map(codeOf),
    )
    expect(codes).toEqual(codes.map(() => 'ABORTED'))
  })

  test('gives a single message up and leaves those gathered with it alone', async () => {
    const controller = new AbortController()
    const given = keyfold.encrypt(key, Buffer.from('given up'), { signal: controller.signal })
    const kept = keyfold.encrypt(key, Buffer.from('kept'))
    controller.abort()
    expect(await codeOf(given)).toBe('ABORTED')
    expect(Buffer.from(await keyfold.decrypt(await kept)).toString()).toBe('kept')
  })
})
