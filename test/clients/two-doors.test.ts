/**
 * One ciphertext at both doors: what /v1 makes is opened by the AWS SDK, and the other way round, and neither door lends
 * the other what it must not have.
 */
import { randomBytes, randomUUID } from 'node:crypto'
import type { KMS } from '@aws-sdk/client-kms'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { startService, type Service } from '../service.ts'
import { kmsOf, refusal, refusalName } from './sdk.ts'

/** AWS KMS API reference, Decrypt: CiphertextBlob has at most so many bytes. */
const BLOB_BYTES_MAX = 6_144
/** What README says an inline message adds. */
const INLINE_BYTES = 171
/** Of an inline message: version and suite, then the key entry: commitment (32), length (2), wrapped key (95). */
const WRAPPED_KEY_AT = 2 + 32 + 2
const WRAPPED_KEY_BYTES = 95
const USAGE_AT = 2

const CONTEXT = { table: 'Aufträge', ключ: '\u{1f511}' }
const PLAINTEXT = Buffer.from('four and twenty blackbirds')

let service: Service
let kms: KMS
let key: string
let other: string
/** Of PLAINTEXT under `key` with CONTEXT: a message of /v1, and what Encrypt makes. */
let inline: Uint8Array
let blob: Uint8Array

beforeAll(async () => {
  service = await startService()
  kms = await kmsOf(service)
  key = await service.createKey()
  other = await service.createKey()
  inline = await sealInline(PLAINTEXT)
  blob = await encrypt(PLAINTEXT)
})
afterAll(() => service.close())

async function sealInline(plaintext: Uint8Array, kmsKey = key): Promise<Uint8Array> {
  const answer = await service.call('encrypt', {
    key: kmsKey,
    context: CONTEXT,
    plaintexts: [plaintext],
  })
  // Not the Buffer of msgpackr: its slice() is no copy.
  return Uint8Array.from(answer.ciphertexts[0] as Uint8Array)
}

async function encrypt(plaintext: Uint8Array, kmsKey = key): Promise<Uint8Array> {
  const answer = await kms.encrypt({
    KeyId: kmsKey,
    Plaintext: plaintext,
    EncryptionContext: CONTEXT,
  })
  return answer.CiphertextBlob as Uint8Array
}

const decrypt = (
  ciphertext: Uint8Array,
  more: { readonly KeyId?: string; readonly EncryptionContext?: Record<string, string> } = {},
) => kms.decrypt({ CiphertextBlob: ciphertext, EncryptionContext: CONTEXT, ...more })

/** What /v1/decrypt makes of it: the plaintext, or the code of its refusal. */
async function open(ciphertext: Uint8Array, context = CONTEXT): Promise<Uint8Array | string> {
  const answer = await service.call('decrypt', { context, ciphertexts: [ciphertext] })
  if (answer.code !== undefined) return answer.code
  return answer.plaintexts[0] ?? answer.errors?.[0]?.[1] ?? 'nothing'
}

const reEncrypt = (ciphertext: Uint8Array) =>
  kms.reEncrypt({
    CiphertextBlob: ciphertext,
    SourceEncryptionContext: CONTEXT,
    DestinationKeyId: other,
    DestinationEncryptionContext: CONTEXT,
  })

const wrappedKeyOf = (message: Uint8Array): Uint8Array =>
  message.slice(WRAPPED_KEY_AT, WRAPPED_KEY_AT + WRAPPED_KEY_BYTES)

const same = (one: Uint8Array | undefined, two: Uint8Array): void =>
  expect(Buffer.from(one ?? []).equals(two)).toBe(true)

describe('from /v1 to the SDK', () => {
  test.each([1, 31, 4_096, BLOB_BYTES_MAX - INLINE_BYTES])(
    'Decrypt opens an inline message of %i bytes',
    async (bytes) => {
      const plaintext = randomBytes(bytes)
      const message = await sealInline(plaintext)
      expect(message.length).toBe(bytes + INLINE_BYTES)
      const opened = await decrypt(message)
      same(opened.Plaintext, plaintext)
      expect(opened.KeyId).toContain(`:key/${key}`)
      expect(opened.EncryptionAlgorithm).toBe('SYMMETRIC_DEFAULT')
    },
  )

  test('a message that is longer than a CiphertextBlob is a ValidationException', async () => {
    const message = await sealInline(randomBytes(BLOB_BYTES_MAX - INLINE_BYTES + 1))
    const [name, text] = await refusal(decrypt(message))
    expect(name).toBe('ValidationException')
    expect(text).toContain("'ciphertextBlob'")
    expect(text).toContain(String(BLOB_BYTES_MAX))
  })

  test('a data key of /v1/data-keys is the one that Decrypt gives', async () => {
    const { dataKeys } = await service.call('data-keys', {
      key,
      context: CONTEXT,
      count: 3,
      plaintext: true,
    })
    expect(dataKeys).toHaveLength(3)
    for (const { wrappedKey, plaintext } of dataKeys) {
      same((await decrypt(wrappedKey)).Plaintext, plaintext as Uint8Array)
    }
  })

  test('detached and packed messages are no ciphertexts of AWS KMS', async () => {
    let request = { key, context: CONTEXT, plaintexts: [PLAINTEXT] }
    const sealDetached = () => service.call('encrypt', { ...request, form: 'detached' })
    let detached = await sealDetached()
    // A key entry begins with a commitment, whose first byte may be that of a wrapped key: then it is asked of its key.
    while (detached.keyEntry[0] === 0xe0) {
      request = { ...request, key: await service.createKey() }
      detached = await sealDetached()
    }
    const { ciphertexts, keyEntry } = detached
    const { packed } = await service.call('encrypt', { ...request, form: 'packed' })
    for (const bytes of [ciphertexts[0] as Uint8Array, keyEntry, packed]) {
      expect(await refusalName(decrypt(bytes))).toBe('InvalidCiphertextException')
      expect(await refusalName(reEncrypt(bytes))).toBe('InvalidCiphertextException')
    }
  })
})

describe('from the SDK to /v1', () => {
  test.each([1, 32, 4_096])('/v1/decrypt opens what Encrypt made of %i bytes', async (bytes) => {
    const plaintext = randomBytes(bytes)
    same((await open(await encrypt(plaintext))) as Uint8Array, plaintext)
  })

  test('/v1/decrypt gives the data key that GenerateDataKey gave', async () => {
    const made = await kms.generateDataKey({
      KeyId: key,
      KeySpec: 'AES_256',
      EncryptionContext: CONTEXT,
    })
    expect(made.Plaintext).toHaveLength(32)
    same(
      (await open(made.CiphertextBlob as Uint8Array)) as Uint8Array,
      made.Plaintext as Uint8Array,
    )
    const blind = await kms.generateDataKeyWithoutPlaintext({
      KeyId: key,
      NumberOfBytes: 64,
      EncryptionContext: CONTEXT,
    })
    const opened = (await open(blind.CiphertextBlob as Uint8Array)) as Uint8Array
    same((await decrypt(blind.CiphertextBlob as Uint8Array)).Plaintext, opened)
    expect(opened).toHaveLength(64)
  })

  test('with another context neither opens', async () => {
    for (const ciphertext of [inline, blob]) {
      expect(await open(ciphertext, { ...CONTEXT, table: 'x' })).toBe('DECRYPT_FAILED')
      for (const EncryptionContext of [{}, { table: CONTEXT.table }, { ...CONTEXT, table: 'x' }]) {
        const [name] = await refusal(decrypt(ciphertext, { EncryptionContext }))
        expect(name).toBe('InvalidCiphertextException')
      }
    }
  })
})

describe('a wrapped message key', () => {
  test('is never released by Decrypt nor taken by ReEncrypt', async () => {
    const wrapped = wrappedKeyOf(inline)
    expect([...wrapped.slice(0, 3)]).toEqual([0xe0, 0x01, 0x01])
    for (const KeyId of [undefined, key]) {
      const named = KeyId === undefined ? {} : { KeyId }
      expect(await refusalName(decrypt(wrapped, named))).toBe('InvalidCiphertextException')
    }
    expect(await refusalName(reEncrypt(wrapped))).toBe('InvalidCiphertextException')
    expect(await open(wrapped)).toMatch(/^(DECRYPT_FAILED|MESSAGE_MALFORMED)$/)
    // Nor does it pass for a caller's, nor a caller's for a message key.
    const called = wrapped.slice()
    called[USAGE_AT] = 0x02
    expect(await refusalName(decrypt(called))).toBe('InvalidCiphertextException')
    expect(await refusalName(reEncrypt(called))).toBe('InvalidCiphertextException')
  })

  test('is not what Encrypt makes of 32 chosen bytes', async () => {
    const chosen = await encrypt(randomBytes(32))
    expect(chosen).toHaveLength(WRAPPED_KEY_BYTES)
    for (const usage of [0x02, 0x01]) {
      const wrapped = chosen.slice()
      wrapped[USAGE_AT] = usage
      const message = inline.slice()
      message.set(wrapped, WRAPPED_KEY_AT)
      expect(await open(message)).toMatch(/^(DECRYPT_FAILED|MESSAGE_MALFORMED)$/)
      expect(await refusalName(decrypt(message))).toBe('InvalidCiphertextException')
    }
  })
})

describe('ReEncrypt of an inline message', () => {
  test("gives a caller's ciphertext under the other key, which the old key entry does not open", async () => {
    const moved = await reEncrypt(inline)
    expect(moved.SourceKeyId).toContain(`:key/${key}`)
    expect(moved.KeyId).toContain(`:key/${other}`)
    const ciphertext = moved.CiphertextBlob as Uint8Array
    expect([ciphertext[0], ciphertext[USAGE_AT]]).toEqual([0xe0, 0x02])
    same((await decrypt(ciphertext)).Plaintext, PLAINTEXT)
    same((await open(ciphertext)) as Uint8Array, PLAINTEXT)
    // Nothing of the old message is in the new one.
    for (let at = 0; at + 16 <= inline.length; at++) {
      expect(Buffer.from(ciphertext).includes(Buffer.from(inline.subarray(at, at + 16)))).toBe(
        false,
      )
    }
    // The old key entry in front of what the new one sealed, in every place where it could be cut.
    const entry = inline.subarray(0, WRAPPED_KEY_AT + WRAPPED_KEY_BYTES)
    for (const cut of [23, 23 + 24, 0]) {
      const grafted = Buffer.concat([entry, ciphertext.subarray(cut)])
      expect(await open(grafted)).toMatch(/^(DECRYPT_FAILED|MESSAGE_MALFORMED)$/)
      expect(await refusalName(decrypt(grafted))).toBe('InvalidCiphertextException')
    }
  })

  test('twice gives two ciphertexts', async () => {
    const [one, two] = [await reEncrypt(inline), await reEncrypt(inline)]
    expect(Buffer.from(one.CiphertextBlob as Uint8Array)).not.toEqual(
      Buffer.from(two.CiphertextBlob as Uint8Array),
    )
  })
})

describe('Decrypt', () => {
  const both = [
    ['an inline message', () => inline],
    ["a caller's ciphertext", () => blob],
  ] as const

  test.each(both)('finds the key of %s without a KeyId, and with every name', async (_, of) => {
    await kms.createAlias({ AliasName: `alias/${randomUUID()}`, TargetKeyId: key })
    const { Aliases: [alias] = [] } = await kms.listAliases({ KeyId: key })
    const names = [undefined, key, alias?.AliasName, alias?.AliasArn, alias?.TargetKeyId]
    expect(names.filter((name) => name !== undefined)).toHaveLength(4)
    for (const KeyId of names) {
      const named = KeyId === undefined ? {} : { KeyId }
      same((await decrypt(of(), named)).Plaintext, PLAINTEXT)
    }
  })

  test.each(both)('of %s with another key is an IncorrectKeyException', async (_, of) => {
    const [name, text] = await refusal(decrypt(of(), { KeyId: other }))
    expect(name).toBe('IncorrectKeyException')
    // AWS KMS, as its users quote it.
    expect(text).toBe(
      'The key ID in the request does not identify a CMK that can perform this operation.',
    )
  })

  test('of a ciphertext of no key is an AccessDeniedException with the text of AWS', async () => {
    const stranger = await startService()
    try {
      const far = await kmsOf(stranger)
      const theirs = await stranger.createKey()
      const { CiphertextBlob } = await far.encrypt({
        KeyId: theirs,
        Plaintext: PLAINTEXT,
        EncryptionContext: CONTEXT,
      })
      const message = await stranger.call('encrypt', {
        key: theirs,
        context: CONTEXT,
        plaintexts: [PLAINTEXT],
      })
      for (const bytes of [CiphertextBlob, message.ciphertexts[0]]) {
        expect(await refusal(decrypt(bytes as Uint8Array))).toEqual([
          'AccessDeniedException',
          'The ciphertext refers to a customer master key that does not exist, does not exist in this region, ' +
            'or you are not allowed to access.',
        ])
      }
    } finally {
      await stranger.close()
    }
  })

  const REFUSED = /^(InvalidCiphertextException|AccessDeniedException)$/

  test.each(both)('refuses every truncation of %s, at both doors', async (_, of) => {
    const whole = of()
    for (let length = 1; length < whole.length; length++) {
      const cut = whole.slice(0, length)
      expect(await refusalName(decrypt(cut)), `${length} bytes`).toMatch(REFUSED)
      expect(typeof (await open(cut)), `${length} bytes`).toBe('string')
    }
    const longer = Buffer.concat([whole, Buffer.alloc(1)])
    expect(await refusalName(decrypt(longer))).toMatch(REFUSED)
    expect(typeof (await open(longer))).toBe('string')
  })

  test.each(both)('refuses %s with any one byte flipped, at both doors', async (_, of) => {
    for (let at = 0; at < of().length; at++) {
      const flipped = of().slice()
      flipped[at] = (flipped[at] as number) ^ (1 << (at % 8))
      expect(await refusalName(decrypt(flipped)), `byte ${at}`).toMatch(REFUSED)
      expect(await refusalName(decrypt(flipped, { KeyId: key })), `byte ${at}`).toMatch(
        /^(InvalidCiphertextException|IncorrectKeyException)$/,
      )
      expect(typeof (await open(flipped)), `byte ${at}`).toBe('string')
    }
  })
})
