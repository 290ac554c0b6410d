/**
 * Somebody who can write to the catalog but has no root key exchanges rows in it. Nothing that was sealed opens under
 * the wrong key, nothing new is sealed under it, and the operator is told that it is the catalog that is wrong.
 */
import {
  CreateKeyCommand,
  EncryptCommand,
  GetPublicKeyCommand,
  SignCommand,
  VerifyCommand,
  type CreateKeyCommandInput,
  type KMSClient,
} from '@aws-sdk/client-kms'
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { clientOf } from '../server/aws/sdk.ts'
import { startService, type Service } from '../service.ts'
import { runInCatalog } from './file.ts'

const context = { table: 'orders' }
const plaintext = Buffer.from('a plaintext that nobody else shall read')

/** A data directory with keys a and b, both rotated once, and what they sealed before and after. */
let original: string
let keyA: string
let keyB: string
let rsa: string
let otherRsa: string
let ecc: string
let otherEcc: string
let sealed: Record<'a1' | 'a2' | 'b1' | 'b2', Uint8Array>

async function seal(service: Service, key: string): Promise<Uint8Array> {
  const { ciphertexts } = await service.call('encrypt', { key, context, plaintexts: [plaintext] })
  return ciphertexts[0] as Uint8Array
}

beforeAll(async () => {
  const service = await startService()
  try {
    keyA = await service.createKey()
    keyB = await service.createKey()
    const [a1, b1] = [await seal(service, keyA), await seal(service, keyB)]
    for (const key of [keyA, keyB]) await service.engine.kms.rotations.rotateOnDemand(key)
    sealed = { a1, b1, a2: await seal(service, keyA), b2: await seal(service, keyB) }
    const kms = await clientOf(service)
    const make = async (input: CreateKeyCommandInput): Promise<string> => {
      const { KeyMetadata } = await kms.send(new CreateKeyCommand(input))
      return KeyMetadata?.KeyId as string
    }
    const encrypting = { KeySpec: 'RSA_2048', KeyUsage: 'ENCRYPT_DECRYPT' } as const
    const signing = { KeySpec: 'ECC_NIST_P256', KeyUsage: 'SIGN_VERIFY' } as const
    ;[rsa, otherRsa] = [await make(encrypting), await make(encrypting)]
    ;[ecc, otherEcc] = [await make(signing), await make(signing)]
    kms.destroy()
    original = mkdtempSync(join(tmpdir(), 'keyfold-swapped-'))
    copy(service.dataDirectory, original)
  } finally {
    await service.close()
  }
})
afterAll(() => rmSync(original, { recursive: true, force: true }))

function copy(from: string, to: string): void {
  cpSync(from, to, { recursive: true })
}

/** A service on a copy of the catalog in which these statements ran. */
async function withEdited(
  statements: readonly string[],
  work: (service: Service) => Promise<void>,
): Promise<void> {
  const edited = mkdtempSync(join(tmpdir(), 'keyfold-swapped-'))
  try {
    copy(original, edited)
    runInCatalog(edited, ...statements)
    const service = await startService({ filesFrom: edited })
    try {
      await work(service)
    } finally {
      await service.close()
    }
  } finally {
    rmSync(edited, { recursive: true, force: true })
  }
}

const row = (key: string, version: number): string =>
  `"kmsKeyId" = '${key}' and version = ${version}`
const storedOf = (key: string, version: number): string =>
  `(select stored from "keyMaterials" where ${row(key, version)})`

/** Exchanges what two rows hold. */
function exchange(one: readonly [string, number], other: readonly [string, number]): string[] {
  return [
    `create temp table kept as select ${storedOf(...one)} as stored`,
    `update "keyMaterials" set stored = ${storedOf(...other)} where ${row(...one)}`,
    `update "keyMaterials" set stored = (select stored from kept) where ${row(...other)}`,
  ]
}

async function expectOpened(service: Service, ciphertext: Uint8Array): Promise<void> {
  const answer = await service.call('decrypt', { context, ciphertexts: [ciphertext] })
  expect(answer.code).toBeUndefined()
  expect(answer.errors ?? []).toEqual([])
  expect(Buffer.from(answer.plaintexts[0] as Uint8Array)).toEqual(plaintext)
}

/** Says that the catalog and the root key do not belong together, and not that the ciphertext is bad. */
async function expectRefused(service: Service, ciphertext: Uint8Array): Promise<void> {
  const answer = await service.call('decrypt', { context, ciphertexts: [ciphertext] })
  expect(answer.plaintexts).toEqual([null])
  expect(answer.errors).toEqual([[0, 'ROOT_KEY_INVALID']])
}

async function expectNothingSealed(service: Service, key: string): Promise<void> {
  const encrypted = await service.call('encrypt', { key, context, plaintexts: [plaintext] })
  expect(encrypted.ciphertexts).toBeUndefined()
  expect(encrypted.code).toBe('ROOT_KEY_INVALID')
  for (const withPlaintext of [true, false]) {
    const keys = await service.call('data-keys', {
      key,
      context,
      count: 1,
      plaintext: withPlaintext,
    })
    expect(keys.dataKeys).toBeUndefined()
    expect(keys.code).toBe('ROOT_KEY_INVALID')
  }
}

describe('key material in the catalog', () => {
  test('opens all of it where nobody touched anything', async () => {
    await withEdited([], async (service) => {
      for (const ciphertext of Object.values(sealed)) await expectOpened(service, ciphertext)
      await seal(service, keyA)
    })
  })

  test('exchanged between two keys is refused for both, in both directions', async () => {
    await withEdited(exchange([keyA, 2], [keyB, 2]), async (service) => {
      for (const ciphertext of [sealed.a2, sealed.b2]) await expectRefused(service, ciphertext)
      for (const key of [keyA, keyB]) await expectNothingSealed(service, key)
      // What was not touched still opens.
      for (const ciphertext of [sealed.a1, sealed.b1]) await expectOpened(service, ciphertext)
    })
  })

  test('exchanged between two versions of one key is refused', async () => {
    await withEdited(exchange([keyA, 1], [keyA, 2]), async (service) => {
      for (const ciphertext of [sealed.a1, sealed.a2]) await expectRefused(service, ciphertext)
      await expectNothingSealed(service, keyA)
      for (const ciphertext of [sealed.b1, sealed.b2]) await expectOpened(service, ciphertext)
    })
  })

  test('copied over another key’s is refused there and still opens at home', async () => {
    const copied = `update "keyMaterials" set stored = ${storedOf(keyB, 2)} where ${row(keyA, 2)}`
    await withEdited([copied], async (service) => {
      await expectRefused(service, sealed.a2)
      await expectNothingSealed(service, keyA)
      await expectOpened(service, sealed.b2)
    })
  })

  test('moved with its row to another version or key is refused', async () => {
    const moves = [
      `delete from "keyMaterials" where ${row(keyB, 2)}`,
      `update "keyMaterials" set "kmsKeyId" = '${keyB}' where ${row(keyA, 2)}`,
      `update "kmsKeys" set "currentVersion" = 1 where id = '${keyA}'`,
    ]
    await withEdited(moves, async (service) => {
      await expectRefused(service, sealed.b2)
      await expectNothingSealed(service, keyB)
    })
  })

  test('with one byte changed, or none at all, is refused', async () => {
    // Zero, unless it was that.
    const otherByte = `case substr(hex(stored), 155) when '00' then '01' else '00' end`
    for (const stored of [
      // The last byte of the tag; the root version; a row of zero bytes.
      `(select unhex(substr(hex(stored), 1, 154) || ${otherByte}) from "keyMaterials" where ${row(keyA, 2)})`,
      `(select unhex('F00100000002' || substr(hex(stored), 13)) from "keyMaterials" where ${row(keyA, 2)})`,
      `x''`,
    ]) {
      const changed = `update "keyMaterials" set stored = ${stored} where ${row(keyA, 2)}`
      await withEdited([changed], async (service) => {
        await expectRefused(service, sealed.a2)
        await expectNothingSealed(service, keyA)
      })
    }
  })

  test('that was destroyed opens nothing, and newer material does not stand in', async () => {
    const tombstone = `update "keyMaterials" set stored = null, "destroyedAtMs" = 1 where ${row(keyA, 1)}`
    await withEdited([tombstone], async (service) => {
      const answer = await service.call('decrypt', { context, ciphertexts: [sealed.a1] })
      expect(answer.plaintexts).toEqual([null])
      expect(answer.errors).toEqual([[0, 'DECRYPT_FAILED']])
      await expectOpened(service, sealed.a2)
    })
  })

  test('whose current version has no material seals nothing', async () => {
    const ahead = `update "kmsKeys" set "currentVersion" = 3 where id = '${keyA}'`
    await withEdited([ahead], async (service) => {
      const answer = await service.call('encrypt', { key: keyA, context, plaintexts: [plaintext] })
      expect(answer.ciphertexts).toBeUndefined()
      expect(answer.code).toBeDefined()
      await expectOpened(service, sealed.a2)
    })
  })
})

describe('a public key in the catalog', () => {
  const message = Buffer.from('a message of many bytes')
  const ofRsa = { EncryptionAlgorithm: 'RSAES_OAEP_SHA_256' } as const
  const ofEcc = { SigningAlgorithm: 'ECDSA_SHA_256' } as const

  /** What is done with the public key alone, and what needs the private one: the name of each refusal, '' of none. */
  async function tried(service: Service): Promise<Readonly<Record<string, string>>> {
    const kms = await clientOf(service)
    const signature = await signed(kms, otherEcc)
    const asked = {
      publicKey: kms.send(new GetPublicKeyCommand({ KeyId: rsa })),
      encrypt: kms.send(new EncryptCommand({ KeyId: rsa, Plaintext: plaintext, ...ofRsa })),
      verify: kms.send(
        new VerifyCommand({ KeyId: ecc, Message: message, Signature: signature, ...ofEcc }),
      ),
      sign: signed(kms, ecc),
      another: kms.send(new GetPublicKeyCommand({ KeyId: otherRsa })),
    }
    const names = await Promise.all(
      Object.entries(asked).map(async ([name, answer]) => [
        name,
        await answer.then(
          () => '',
          (error: unknown) => (error as Error).name,
        ),
      ]),
    )
    kms.destroy()
    return Object.fromEntries(names) as Record<string, string>
  }

  async function signed(kms: KMSClient, KeyId: string): Promise<Uint8Array> {
    const { Signature } = await kms.send(new SignCommand({ KeyId, Message: message, ...ofEcc }))
    return Signature as Uint8Array
  }

  const replaced = (key: string, by: string): string =>
    `update "keyMaterials" set "publicKey" =
      (select "publicKey" from "keyMaterials" where ${row(by, 1)}) where ${row(key, 1)}`

  test('is used where nobody touched it', async () => {
    await withEdited([], async (service) => {
      expect(await tried(service)).toEqual({
        publicKey: '',
        encrypt: '',
        // Of another key.
        verify: 'KMSInvalidSignatureException',
        sign: '',
        another: '',
      })
    })
  })

  test('exchanged for somebody else’s is not given out, encrypted under or believed', async () => {
    await withEdited([replaced(rsa, otherRsa), replaced(ecc, otherEcc)], async (service) => {
      const refused = 'KMSInternalException'
      expect(await tried(service)).toEqual({
        publicKey: refused,
        encrypt: refused,
        verify: refused,
        sign: refused,
        another: '',
      })
    })
  })
})
