/** What /v1/re-encrypt moves that is no message: ciphertexts of the AWS protocol, and key entries that stand alone. */
import { DecryptCommand, EncryptCommand, type KMSClient } from '@aws-sdk/client-kms'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { attachKeyEntry } from '../../dist/format/convert.js'
import { readEvents } from '../audit/log.ts'
import { clientOf } from '../server/aws/sdk.ts'
import { send } from '../server/caller.ts'
import { startService, type Answer, type Service } from '../service.ts'
import { commitmentOf, keyEntryOf, splitInline } from './reference.ts'

let service: Service
let aws: KMSClient
let keyA: string
let keyB: string

beforeAll(async () => {
  // Every request of the search below is a miss.
  service = await startService({ settings: { missBudgetBurst: '100000' } })
  aws = await clientOf(service)
  keyA = await service.createKey()
  keyB = await service.createKey()
})
afterAll(async () => {
  aws.destroy()
  await service.close()
})

const context = { table: 'orders' }
const secret = Buffer.from('secret')

/** A ciphertext of the AWS protocol, made by AWS's own client. */
async function blobOf(key: string, plaintext = secret): Promise<Buffer> {
  const input = { KeyId: key, Plaintext: plaintext, EncryptionContext: context }
  const { CiphertextBlob } = await aws.send(new EncryptCommand(input))
  return Buffer.from(CiphertextBlob as Uint8Array)
}

async function openBlob(blob: Uint8Array, EncryptionContext = context) {
  const input = { CiphertextBlob: blob, EncryptionContext }
  const { Plaintext, KeyId } = await aws.send(new DecryptCommand(input))
  return { plaintext: Buffer.from(Plaintext as Uint8Array), key: KeyId?.split('/')[1] }
}

async function sealDetached(key: string): Promise<{ message: Uint8Array; keyEntry: Uint8Array }> {
  const request = { key, context, plaintexts: [secret], form: 'detached' }
  const { ciphertexts, keyEntry } = await service.call('encrypt', request)
  return { message: ciphertexts[0] as Uint8Array, keyEntry }
}

async function sealInline(key: string): Promise<Uint8Array> {
  const { ciphertexts } = await service.call('encrypt', { key, context, plaintexts: [secret] })
  return ciphertexts[0] as Uint8Array
}

const move = (
  ciphertexts: readonly Uint8Array[],
  fields: Readonly<Record<string, unknown>> = {},
): Promise<Answer> =>
  service.call('re-encrypt', { key: keyB, mode: 'rewrap', context, ciphertexts, ...fields })

async function moveOne(ciphertext: Uint8Array, fields = {}): Promise<Buffer> {
  const answer = await move([ciphertext], fields)
  expect({ code: answer.code, errors: answer.errors }).toEqual({})
  return Buffer.from(answer.ciphertexts[0] as Uint8Array)
}

/** The key id in a wrapped key: bytes 3 to 19 (formats.md). */
const namedIn = (wrappedKey: Uint8Array): string =>
  Buffer.from(wrappedKey).subarray(3, 19).toString('hex')
const idOf = (key: string): string => key.replaceAll('-', '')

describe('a ciphertext of the AWS protocol', () => {
  test.each(['rewrap', 'fresh'])('moves to another KMS key, mode %s', async (mode) => {
    const blob = await blobOf(keyA)
    const moved = await moveOne(blob, { mode })
    expect(namedIn(moved)).toBe(idOf(keyB))
    // The usage stays: it never passes as a message key.
    expect(moved[2]).toBe(2)
    expect(await openBlob(moved)).toEqual({ plaintext: secret, key: keyB })
    expect(await openBlob(blob)).toEqual({ plaintext: secret, key: keyA })
  })

  test('goes to another context where it is fresh, and not from another', async () => {
    const newContext = { table: 'invoices' }
    const moved = await moveOne(await blobOf(keyA), { mode: 'fresh', newContext })
    expect(await openBlob(moved, newContext)).toMatchObject({ plaintext: secret })
    await expect(openBlob(moved)).rejects.toThrow()
    const answer = await move([await blobOf(keyA)], { context: newContext })
    expect(answer.errors).toEqual([[0, 'DECRYPT_FAILED']])
  })

  test('is moved only as a whole: no byte of it may be another', async () => {
    const blob = await blobOf(keyA)
    const flipped = Array.from(blob, (byte, at) => {
      const copy = Buffer.from(blob)
      copy[at] = byte ^ 1
      return copy
    })
    const { ciphertexts, errors } = await move(flipped)
    expect(ciphertexts).toEqual(flipped.map(() => null))
    expect(errors).toHaveLength(flipped.length)
  })
})

describe('a key entry', () => {
  test('is re-wrapped alone, and then opens the message that points to it', async () => {
    const { message, keyEntry } = await sealDetached(keyA)
    const moved = await moveOne(keyEntry)
    expect(moved.subarray(0, 32)).toEqual(Buffer.from(keyEntry).subarray(0, 32))
    expect(namedIn(moved.subarray(34))).toBe(idOf(keyB))
    const request = { context, ciphertexts: [message], keyEntries: [moved] }
    const opened = await service.call('decrypt', request)
    expect(Buffer.from(opened.plaintexts[0] as Uint8Array)).toEqual(secret)
  })

  test('serves messages of either suite', async () => {
    const request = { key: keyA, context, plaintexts: [secret], form: 'detached', suite: 2 }
    const sealed = await service.call('encrypt', request)
    const moved = await moveOne(sealed.keyEntry)
    const inline = attachKeyEntry(sealed.ciphertexts[0] as Uint8Array, moved)
    const opened = await service.call('decrypt', { context, ciphertexts: [inline] })
    expect(Buffer.from(opened.plaintexts[0] as Uint8Array)).toEqual(secret)
  })

  test('has nothing to be sealed afresh', async () => {
    const { keyEntry } = await sealDetached(keyA)
    const { errors } = await move([keyEntry], { mode: 'fresh' })
    expect(errors).toEqual([[0, expect.stringMatching(/^(MESSAGE_MALFORMED|DECRYPT_FAILED)$/)]])
  })

  test('of a commitment that is not its key’s, or around a caller’s data key, is refused', async () => {
    const { keyEntry } = await sealDetached(keyA)
    const { wrappedKey } = splitInline(Buffer.concat([Buffer.alloc(2), keyEntry]))
    const { dataKeys } = await service.call('data-keys', {
      key: keyA,
      context,
      count: 1,
      plaintext: true,
    })
    const [dataKey] = dataKeys
    if (dataKey?.plaintext === undefined) throw new Error('no data key')
    const answer = await move([
      keyEntryOf(randomBytes(32), wrappedKey),
      keyEntryOf(commitmentOf(dataKey.plaintext), dataKey.wrappedKey),
      // The wrapped key of a message, without its commitment.
      wrappedKey,
    ])
    expect(answer.errors).toEqual([
      [0, 'DECRYPT_FAILED'],
      [1, 'DECRYPT_FAILED'],
      [2, 'DECRYPT_FAILED'],
    ])
  })

  test('that begins like any other form is one all the same', async () => {
    // One commitment in 256 begins with the byte of each form (E0 a wrapped key, E1 inline, E2 detached, E3 packed).
    const sought = new Set([0xe0, 0xe1, 0xe2, 0xe3])
    for (let i = 0; sought.size > 0 && i < 20_000; i++) {
      // Each in a context of its own, and so with a message key of its own.
      const own = { table: `${i}` }
      const sealed = await service.call('encrypt', {
        key: keyA,
        context: own,
        plaintexts: [secret],
        form: 'detached',
      })
      if (!sought.delete(sealed.keyEntry[0] as number)) continue
      const moved = await moveOne(sealed.keyEntry, { context: own })
      expect(namedIn(moved.subarray(34))).toBe(idOf(keyB))
    }
    expect(sought).toEqual(new Set())
  })

  test('that begins like a detached message is one all the same', async () => {
    // A commitment begins with E2 01 once in 65,536 keys: here it is made to, and is told by its own error.
    const { keyEntry } = await sealDetached(keyA)
    const begun = Buffer.from(keyEntry)
    begun.set([0xe2, 0x01])
    begun.set([0, 0], 22)
    const { errors } = await move([begun, keyEntry])
    expect(errors).toEqual([[0, 'DECRYPT_FAILED']])
  })
})

describe('between messages', () => {
  test('each is answered in its place', async () => {
    const { keyEntry } = await sealDetached(keyA)
    const sent = [
      await blobOf(keyA),
      await sealInline(keyA),
      keyEntry,
      Buffer.from('nonsense'),
      await blobOf(keyB, Buffer.from('x')),
      await sealInline(keyB),
    ]
    const { ciphertexts, errors, keyId } = await move(sent)
    expect(keyId).toContain(keyB)
    expect(errors).toEqual([[3, 'MESSAGE_MALFORMED']])
    const versions = ciphertexts.map((bytes) => bytes?.[0])
    expect([versions[0], versions[1], versions[4], versions[5]]).toEqual([0xe0, 0xe1, 0xe0, 0xe1])
    expect(ciphertexts[3]).toBeNull()
    const at = [0, 1, 4, 5].map((i) => ciphertexts[i] as Uint8Array)
    const opened = await service.call('decrypt', { context, ciphertexts: at })
    expect(opened.plaintexts.map((bytes) => String(Buffer.from(bytes as Uint8Array)))).toEqual([
      'secret',
      'secret',
      'x',
      'secret',
    ])
    expect(service.engine.slots.bytesInUse).toBe(0)
  })

  test('at most 256 of them are taken', async () => {
    const { keyEntry } = await sealDetached(keyA)
    const many = await move(Array.from({ length: 257 }, () => keyEntry))
    expect(many.code).toBe('LIMIT_EXCEEDED')
    expect(service.engine.slots.bytesInUse).toBe(0)
  })
})

describe('who may', () => {
  const as = async (actions: readonly string[], keys: readonly string[]): Promise<string> => {
    const principalArn = 'arn:aws:iam::000000000000:user/limited'
    const patterns = keys.map((key) => `*:key/${key}`)
    const limits = { name: 'limited', principalArn, actions, keys: patterns }
    return (await service.engine.tokens.create(limits)).token
  }
  const answered = async (token: string, ciphertexts: readonly Uint8Array[]): Promise<Answer> => {
    const fields = { key: keyB, mode: 'rewrap', context, ciphertexts }
    return (await send(service, 'POST', '/v1/re-encrypt', { token, fields })).body
  }

  test('needs ReEncryptFrom on the old KMS key and ReEncryptTo on the new one', async () => {
    const { keyEntry } = await sealDetached(keyA)
    const sent = [await blobOf(keyA), keyEntry]
    const both = ['kms:ReEncryptFrom', 'kms:ReEncryptTo']
    expect((await answered(await as(both, [keyA, keyB]), sent)).errors).toBeUndefined()
    const denied = sent.map((_, index) => [index, 'ACCESS_DENIED'])
    expect((await answered(await as(both, [keyB]), sent)).errors).toEqual(denied)
    expect((await answered(await as(['kms:ReEncryptTo'], ['*']), sent)).errors).toEqual(denied)
    for (const actions of [['kms:ReEncryptFrom'], ['kms:Encrypt', 'kms:Decrypt']]) {
      expect((await answered(await as(actions, ['*']), sent)).code).toBe('ACCESS_DENIED')
    }
  })

  test('finds a disabled KMS key on either side to be disabled', async () => {
    const { keyEntry } = await sealDetached(keyA)
    const sent = [await blobOf(keyA), keyEntry]
    await service.call(`keys/${keyA}/disable`, {})
    expect((await move(sent)).errors).toEqual(sent.map((_, i) => [i, 'KMS_KEY_DISABLED']))
    await service.call(`keys/${keyA}/enable`, {})
    await service.call(`keys/${keyB}/disable`, {})
    expect((await move(sent)).code).toBe('KMS_KEY_DISABLED')
    await service.call(`keys/${keyB}/enable`, {})
  })

  test('is recorded with every KMS key that it went from and to', async () => {
    const { keyEntry } = await sealDetached(keyA)
    const keyC = await service.createKey()
    await service.engine.audit.flush()
    const directory = join(service.dataDirectory, 'audit')
    const seen = readEvents(directory).length
    const sent = [await blobOf(keyC), keyEntry]
    await move(sent)
    await service.call('decrypt', { context, ciphertexts: [await blobOf(keyC)] })
    await service.engine.audit.flush()
    const events = readEvents(directory).slice(seen)
    const keysOf = (eventName: string): readonly (string | undefined)[] =>
      (events.find((event) => event['eventName'] === eventName)?.['resources'] as { ARN: string }[])
        .map(({ ARN }) => ARN.split('/')[1])
        .sort()
    expect(keysOf('ReEncrypt')).toEqual([keyA, keyB, keyC].sort())
    expect(keysOf('Decrypt')).toEqual([keyC])
  })
})
