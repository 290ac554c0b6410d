/** Everything that is sealed, at every door, with parts exchanged: what must not open does not. */
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { attachKeyEntry, detachMessage, unpackToInline } from '../../dist/format/convert.js'
import { startService, type Answer, type Service } from '../service.ts'
import { forgeInline, keyEntryOf, splitInline, withKeyEntry } from './reference.ts'

let service: Service
let keyA: string
let keyB: string

beforeAll(async () => {
  service = await startService()
  keyA = await service.createKey()
  keyB = await service.createKey()
})
afterAll(() => service.close())

const text = (value: string): Buffer => Buffer.from(value)
const context = { table: 'orders' }

async function seal(
  key: string,
  plaintexts: readonly Uint8Array[],
  fields: Readonly<Record<string, unknown>> = {},
): Promise<Answer> {
  const answer = await service.call('encrypt', { key, context, plaintexts, ...fields })
  expect(answer.code).toBeUndefined()
  return answer
}

async function sealOne(key: string, plaintext = text('secret')): Promise<Buffer> {
  const { ciphertexts } = await seal(key, [plaintext])
  return Buffer.from(ciphertexts[0] as Uint8Array)
}

const open = (
  ciphertexts: readonly Uint8Array[],
  fields: Readonly<Record<string, unknown>> = {},
): Promise<Answer> => service.call('decrypt', { context, ciphertexts, ...fields })

async function expectRefused(
  ciphertext: Uint8Array,
  code = 'DECRYPT_FAILED',
  fields: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  const answer = await open([ciphertext], fields)
  expect(answer.plaintexts).toEqual([null])
  expect(answer.errors).toEqual([[0, code]])
}

async function expectOpened(
  ciphertext: Uint8Array,
  plaintext = text('secret'),
  fields: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  const answer = await open([ciphertext], fields)
  expect(answer.errors ?? []).toEqual([])
  expect(Buffer.from(answer.plaintexts[0] as Uint8Array)).toEqual(plaintext)
}

/** A caller who may decrypt under one KMS key only. */
async function limitedTo(key: string): Promise<(ciphertext: Buffer) => Promise<Answer>> {
  const { token } = await service.engine.tokens.create({
    name: 'limited',
    principalArn: 'arn:aws:iam::000000000000:user/limited',
    actions: ['kms:Encrypt', 'kms:Decrypt', 'kms:ReEncryptFrom', 'kms:ReEncryptTo'],
    keys: [`*:key/${key}`],
  })
  return async (ciphertext) => {
    const response = await fetch(`${service.url}/v1/decrypt`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: JSON.stringify({ context, ciphertexts: [ciphertext.toString('base64')] }),
    })
    return (await response.json()) as Answer
  }
}

describe('a wrapped key grafted onto somebody else’s message', () => {
  test('is refused, though the message key is cached and the caller may use the KMS key it names', async () => {
    const theirs = await sealOne(keyB)
    const own = await sealOne(keyA)
    // Now the message key of theirs is in the cache.
    await expectOpened(theirs)
    const grafted = withKeyEntry(
      theirs,
      keyEntryOf(splitInline(theirs).commitment, splitInline(own).wrappedKey),
    )
    const openAsA = await limitedTo(keyA)
    expect((await openAsA(own)).errors).toBeUndefined()
    expect((await openAsA(theirs)).errors).toEqual([[0, 'ACCESS_DENIED']])
    expect((await openAsA(grafted)).errors).toEqual([[0, 'DECRYPT_FAILED']])
    await expectRefused(grafted)
    await expectOpened(theirs)
  })

  test('is refused when only the name of the KMS key is exchanged', async () => {
    const theirs = await sealOne(keyB)
    await expectOpened(theirs)
    const wrappedKey = Buffer.from(splitInline(theirs).wrappedKey)
    wrappedKey.set(splitInline(await sealOne(keyA)).wrappedKey.subarray(3, 19), 3)
    const { commitment } = splitInline(theirs)
    const grafted = withKeyEntry(theirs, keyEntryOf(commitment, wrappedKey))
    const openAsA = await limitedTo(keyA)
    expect((await openAsA(grafted)).errors).toEqual([[0, 'DECRYPT_FAILED']])
  })

  test('is refused whole in a packed batch', async () => {
    const { packed } = await seal(keyB, [text('a'), text('b')], { form: 'packed' })
    expect((await service.call('decrypt', { context, packed })).errors).toBeUndefined()
    const own = splitInline(await sealOne(keyA))
    const grafted = withKeyEntry(packed, keyEntryOf(splitInline(packed).commitment, own.wrappedKey))
    expect((await service.call('decrypt', { context, packed: grafted })).code).toBe(
      'DECRYPT_FAILED',
    )
  })
})

describe('a caller’s own data key', () => {
  test('never passes as a message key, though its owner seals and commits correctly', async () => {
    const { dataKeys } = await service.call('data-keys', {
      key: keyA,
      context: {},
      count: 1,
      plaintext: true,
    })
    const [dataKey] = dataKeys
    if (dataKey?.plaintext === undefined) throw new Error('no data key')
    const { crypto } = service.engine
    const forged = forgeInline(crypto, dataKey.plaintext, dataKey.wrappedKey, text('forged'))
    await expectRefused(forged, 'DECRYPT_FAILED', { context: {} })
    // And not with the usage flipped to that of a message key.
    const flipped = Buffer.from(dataKey.wrappedKey)
    expect(flipped[2]).toBe(2)
    flipped[2] = 1
    const other = forgeInline(crypto, dataKey.plaintext, flipped, text('forged'))
    await expectRefused(other, 'DECRYPT_FAILED', { context: {} })
  })

  test('opens as what it is, a ciphertext of AWS KMS, in its context only', async () => {
    const request = { key: keyA, context, count: 1, plaintext: true }
    const [dataKey] = (await service.call('data-keys', request)).dataKeys
    if (dataKey?.plaintext === undefined) throw new Error('no data key')
    await expectOpened(dataKey.wrappedKey, Buffer.from(dataKey.plaintext))
    await expectRefused(dataKey.wrappedKey, 'DECRYPT_FAILED', { context: {} })
    for (let at = 0; at < dataKey.wrappedKey.length; at++) {
      const flipped = Buffer.from(dataKey.wrappedKey)
      // The version becomes that of no form; as E1, an inline message, some would be read further.
      flipped.writeUInt8(flipped.readUInt8(at) ^ 0x80, at)
      await expectRefused(flipped, at === 0 ? 'MESSAGE_MALFORMED' : 'DECRYPT_FAILED')
    }
  })

  test('opens between messages, in its place, and the others with it', async () => {
    const request = { key: keyA, context, count: 2, plaintext: true }
    const [one, other] = (await service.call('data-keys', request)).dataKeys
    if (one === undefined || other === undefined) throw new Error('no data keys')
    const good = await sealOne(keyB)
    const answer = await open([
      one.wrappedKey,
      good,
      text('nonsense'),
      other.wrappedKey,
      one.wrappedKey.slice(0, -1),
      good,
    ])
    expect(answer.plaintexts.map((found) => (found === null ? null : Buffer.from(found)))).toEqual([
      Buffer.from(one.plaintext as Uint8Array),
      text('secret'),
      null,
      Buffer.from(other.plaintext as Uint8Array),
      null,
      text('secret'),
    ])
    expect(answer.errors).toEqual([
      [2, 'MESSAGE_MALFORMED'],
      [4, 'DECRYPT_FAILED'],
    ])
    const many = await open(Array.from({ length: 257 }, () => one.wrappedKey))
    expect(many.code).toBe('LIMIT_EXCEEDED')
    expect(service.engine.slots.bytesInUse).toBe(0)
  })

  test('is itself no key entry and no packed batch', async () => {
    const { dataKeys } = await service.call('data-keys', {
      key: keyA,
      context,
      count: 1,
      plaintext: false,
    })
    expect(dataKeys[0]?.plaintext).toBeUndefined()
    const blob = dataKeys[0]?.wrappedKey as Uint8Array
    expect((await service.call('decrypt', { context, packed: blob })).code).toBe(
      'MESSAGE_MALFORMED',
    )
    const { message } = detachMessage(await sealOne(keyA))
    expect((await open([message], { keyEntries: [blob] })).code).toBe('KEY_ENTRIES_INVALID')
  })
})

test('the wrapped key of a message is no message: nobody gets a message key in plaintext', async () => {
  const { wrappedKey } = splitInline(await sealOne(keyA))
  await expectRefused(wrappedKey)
  const flipped = Buffer.from(wrappedKey)
  flipped[2] = 2
  await expectRefused(flipped)
})

describe('a message at the wrong door', () => {
  test('a packed batch among ciphertexts fails alone, and so does an unknown version', async () => {
    const { packed } = await seal(keyA, [text('a')], { form: 'packed' })
    const good = await sealOne(keyA)
    const unknown = Buffer.from(good)
    unknown[0] = 0xe9
    const { plaintexts, errors } = await open([good, packed, unknown, Buffer.alloc(0)])
    expect(Buffer.from(plaintexts[0] as Uint8Array)).toEqual(text('secret'))
    expect(errors).toEqual([
      [1, 'MESSAGE_MALFORMED'],
      [2, 'MESSAGE_MALFORMED'],
      [3, 'MESSAGE_MALFORMED'],
    ])
  })

  test('an inline or detached message is no packed batch', async () => {
    const inline = await sealOne(keyA)
    for (const packed of [inline, detachMessage(inline).message]) {
      expect((await service.call('decrypt', { context, packed })).code).toBe('MESSAGE_MALFORMED')
    }
  })

  test('a detached message without its key entry fails alone', async () => {
    const first = detachMessage(await sealOne(keyA))
    const second = detachMessage(await sealOne(keyB))
    const answer = await open([first.message, second.message], { keyEntries: [first.keyEntry] })
    expect(answer.errors).toEqual([[1, 'DECRYPT_FAILED']])
    await expectRefused(first.message)
  })
})

describe('key entries', () => {
  test('of the same id refuse the request', async () => {
    const { message, keyEntry } = detachMessage(await sealOne(keyA))
    const answer = await open([message], { keyEntries: [keyEntry, keyEntry] })
    expect(answer.code).toBe('KEY_ENTRIES_INVALID')
    // The same message key wrapped twice has the same id.
    const rewrapped = await service.call('re-encrypt', {
      key: keyB,
      mode: 'rewrap',
      context,
      ciphertexts: [message],
      keyEntries: [keyEntry],
    })
    const [other] = rewrapped.keyEntries
    const both = await open([message], { keyEntries: [keyEntry, other] })
    expect(both.code).toBe('KEY_ENTRIES_INVALID')
  })

  test('that no message names are not unwrapped', async () => {
    const used = detachMessage(await sealOne(keyA))
    const unused = await seal(await service.createKey(), [text('x')], { form: 'detached' })
    const before = service.engine.counters().unwraps + service.engine.counters().openHits
    const answer = await open([used.message], { keyEntries: [used.keyEntry, unused.keyEntry] })
    expect(answer.errors ?? []).toEqual([])
    const after = service.engine.counters().unwraps + service.engine.counters().openHits
    expect(after - before).toBe(1)
  })

  test('65,536 distinct ones in one request are refused, and cost no call to the key store', async () => {
    const { head, wrappedKey, rest } = splitInline(await sealOne(keyA, text('')))
    const ciphertexts = Array.from({ length: 65_536 }, (_, i) => {
      const commitment = Buffer.alloc(32)
      commitment.writeUInt32BE(i)
      return Buffer.concat([head, keyEntryOf(commitment, wrappedKey), rest])
    })
    const before = service.engine.counters().unwraps
    const answer = await open(ciphertexts)
    expect(answer.code).toBe('LIMIT_EXCEEDED')
    expect(answer.message).toContain('256')
    expect(service.engine.counters().unwraps).toBe(before)
  })

  test('of a KMS key that is not there, or of a version that is not there, do not open', async () => {
    for (const at of [3, 22]) {
      const message = await sealOne(keyA)
      const wrappedKey = Buffer.from(splitInline(message).wrappedKey)
      wrappedKey[at] = (wrappedKey[at] as number) ^ 0xff
      const { commitment } = splitInline(message)
      await expectRefused(withKeyEntry(message, keyEntryOf(commitment, wrappedKey)))
    }
  })
})

describe('re-encryption', () => {
  test('after a re-wrap the old key entry still opens, as documented; after fresh it does not', async () => {
    const old = await sealOne(keyA)
    const oldEntry = splitInline(old).keyEntry
    const fields = { key: keyB, context, ciphertexts: [old] }
    const rewrapped = await service.call('re-encrypt', { ...fields, mode: 'rewrap' })
    const moved = Buffer.from(rewrapped.ciphertexts[0] as Uint8Array)
    expect(splitInline(moved).rest).toEqual(splitInline(old).rest)
    expect(splitInline(moved).wrappedKey).not.toEqual(splitInline(old).wrappedKey)
    await expectOpened(moved)
    await expectOpened(withKeyEntry(moved, oldEntry))

    const fresh = await service.call('re-encrypt', { ...fields, mode: 'fresh' })
    const anew = Buffer.from(fresh.ciphertexts[0] as Uint8Array)
    await expectOpened(anew)
    await expectRefused(withKeyEntry(anew, oldEntry))
    const { commitment } = splitInline(anew)
    const { wrappedKey } = splitInline(old)
    await expectRefused(withKeyEntry(anew, keyEntryOf(commitment, wrappedKey)))
  })

  test('works in every form, and into another context only when fresh', async () => {
    const plaintexts = [text('one'), text(''), text('three')]
    const back = (answer: Answer): readonly Buffer[] =>
      answer.plaintexts.map((plaintext) => Buffer.from(plaintext as Uint8Array))
    for (const mode of ['rewrap', 'fresh']) {
      const inline = await seal(keyA, plaintexts)
      const detached = await seal(keyA, plaintexts, { form: 'detached' })
      const { packed } = await seal(keyA, plaintexts, { form: 'packed' })
      const to = { key: keyB, mode, context }
      const a = await service.call('re-encrypt', { ...to, ciphertexts: inline.ciphertexts })
      expect(back(await open(a.ciphertexts))).toEqual(plaintexts)
      const b = await service.call('re-encrypt', {
        ...to,
        ciphertexts: detached.ciphertexts,
        keyEntries: [detached.keyEntry],
      })
      expect(back(await open(b.ciphertexts, { keyEntries: b.keyEntries }))).toEqual(plaintexts)
      const c = await service.call('re-encrypt', { ...to, packed })
      expect(back(await service.call('decrypt', { context, packed: c.packed }))).toEqual(plaintexts)
      const moved = await service.call('re-encrypt', {
        ...to,
        newContext: { table: 'archive' },
        ciphertexts: inline.ciphertexts,
      })
      if (mode === 'rewrap') {
        expect(moved.code).toBe('REQUEST_MALFORMED')
      } else {
        const answer = await open(moved.ciphertexts, { context: { table: 'archive' } })
        expect(back(answer)).toEqual(plaintexts)
      }
    }
  })

  test('a message that does not open leaves its place empty and does not stop the others', async () => {
    const good = await sealOne(keyA)
    const bad = Buffer.from(good)
    bad[bad.length - 1] = (bad.at(-1) as number) ^ 1
    const to = { key: keyB, context, ciphertexts: [good, bad, text('nothing')] }
    const fresh = await service.call('re-encrypt', { ...to, mode: 'fresh' })
    expect(fresh.errors).toEqual([
      [1, 'DECRYPT_FAILED'],
      [2, 'MESSAGE_MALFORMED'],
    ])
    expect(fresh.ciphertexts.slice(1)).toEqual([null, null])
    await expectOpened(fresh.ciphertexts[0] as Uint8Array)
  })
})

describe('a message', () => {
  test.each(['inline', 'detached'] as const)(
    'with any bit of it flipped, or cut anywhere, fails alone: %s',
    async (form) => {
      const inline = await sealOne(keyA, randomBytes(40))
      const { message, keyEntry } = detachMessage(inline)
      const whole = form === 'inline' ? inline : Buffer.from(message)
      const fields = form === 'inline' ? {} : { keyEntries: [keyEntry] }
      const flips = Array.from(whole, (_, at) => {
        const flipped = Buffer.from(whole)
        flipped[at] = (flipped[at] as number) ^ (1 << (at % 8))
        return flipped
      })
      const cuts = Array.from(whole, (_, length) => whole.subarray(0, length))
      const longer = Buffer.concat([whole, Buffer.alloc(1)])
      const answer = await open([...flips, ...cuts, longer, whole], fields)
      expect(answer.code).toBeUndefined()
      const opened = answer.plaintexts.flatMap((plaintext, i) => (plaintext === null ? [] : [i]))
      expect(opened).toEqual([answer.plaintexts.length - 1])
      expect(answer.errors?.length).toBe(answer.plaintexts.length - 1)
    },
  )

  test('of suite 2 does not open as suite 1, without its commitment, or with that of another', async () => {
    const { ciphertexts } = await seal(keyA, [text('a'), text('b')], { suite: 2 })
    const [a, b] = ciphertexts.map((bytes) => Buffer.from(bytes)) as [Buffer, Buffer]
    const stripped = Buffer.from(a.subarray(0, a.length - 32))
    stripped[1] = 1
    const swapped = Buffer.concat([a.subarray(0, a.length - 32), b.subarray(b.length - 32)])
    const relabelled = Buffer.from(a)
    relabelled[1] = 1
    for (const forged of [stripped, swapped, relabelled]) await expectRefused(forged)
    await expectOpened(a, text('a'))
  })

  test('opens under its own context only', async () => {
    const message = await sealOne(keyA)
    for (const other of [
      {},
      { table: 'Orders' },
      { orders: 'table' },
      { table: 'orders', a: '' },
    ]) {
      await expectRefused(message, 'DECRYPT_FAILED', { context: other })
    }
    await expectOpened(message)
  })

  test('converts from packed to inline to detached and back, and opens in each form', async () => {
    const { packed } = await seal(keyA, [text('a'), text('b')], { form: 'packed', suite: 2 })
    const inline = unpackToInline(packed)
    const [first, second] = inline.map((message) => detachMessage(message))
    expect(attachKeyEntry(second?.message as Uint8Array, second?.keyEntry as Uint8Array)).toEqual(
      inline[1],
    )
    await expectOpened(inline[1] as Uint8Array, text('b'))
    await expectOpened(first?.message as Uint8Array, text('a'), { keyEntries: [first?.keyEntry] })
    expect(() =>
      attachKeyEntry(
        first?.message as Uint8Array,
        keyEntryOf(randomBytes(32), splitInline(packed).wrappedKey),
      ),
    ).toThrow(/another key entry/)
  })
})
