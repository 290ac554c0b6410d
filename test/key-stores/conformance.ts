/**
 * What every key store owes, whatever stands behind it: the contract of src/key-stores/key-store.ts as tests. Traits
 * drive it: what a store declares has to work, and what it does not declare has to be refused.
 *
 *     conformance('the local key store', async () => ({ store, crypto, close }))
 *
 * What private keys and HMAC keys owe is in private-keys-conformance.ts, and runs along.
 */
import { createHash, randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import type { Crypto, KeyHandle } from '../../dist/crypto/crypto.js'
import { KEY_SPECS, traitsOf, type KeySpec, type KeyUsage } from '../../dist/crypto/key-spec.js'
import type { KeyMaterial, KeyStore } from '../../dist/key-stores/key-store.js'
import { privateKeysConformance } from './private-keys-conformance.ts'

export interface OpenedKeyStore {
  readonly store: KeyStore
  readonly crypto: Crypto
  /** Closes the store, if it is not closed yet, and takes down what stands behind it. */
  readonly close: () => Promise<void>
  /** The id of a key that was just made on the other side, for stores that do not make keys. */
  readonly externalKeyId?: (keySpec: KeySpec, keyUsage: KeyUsage) => Promise<string>
  /** Algorithms of declared key specs that the other side lacks: they are refused with OPERATION_UNSUPPORTED. */
  readonly algorithmsUnsupported?: readonly string[]
  /** Over there a key has one usage, whatever else its spec could do: each gets material of its own. */
  readonly usagesApart?: boolean
  /** The fewest bytes that the other side encrypts; 0 where absent. Fewer are refused with REQUEST_MALFORMED. */
  readonly plaintextBytesMin?: number
}

export type OpenKeyStore = () => Promise<OpenedKeyStore>

const SYMMETRIC = 'SYMMETRIC_DEFAULT'
const refusedCiphertext = { code: 'DECRYPT_FAILED' }
const refusedUsage = { code: 'KMS_KEY_USAGE_INVALID' }
const refusedUnsupported = { code: 'OPERATION_UNSUPPORTED' }
const refusedError = { name: 'KeyfoldError' }
const specs = Object.keys(KEY_SPECS) as KeySpec[]
/** What is bound in the service: 23 bytes of header and a hash. */
const aadOf = (text: string): Uint8Array =>
  Buffer.concat([Buffer.alloc(23, 0xe0), createHash('sha256').update(text).digest()])
const aad = aadOf('bound')

export function conformance(name: string, open: OpenKeyStore): void {
  describe(`${name} keeps the contract of key stores`, () => {
    let opened: OpenedKeyStore
    let store: KeyStore
    let crypto: Crypto
    let material: KeyMaterial
    beforeAll(async () => {
      opened = await open()
      ;({ store, crypto } = opened)
      material = await makeMaterial(opened, SYMMETRIC)
    })
    afterAll(() => opened.close())
    const takes = (length: number): boolean => length >= (opened.plaintextBytesMin ?? 0)

    test('is ready, has a name and declares what it is, each thing once', async () => {
      await store.probe()
      const { keySpecs, wrapsMax } = store.traits
      expect(store.name).toMatch(/^[a-z0-9][a-z0-9-]*$/)
      expect(keySpecs).toContain(SYMMETRIC)
      expect(new Set(keySpecs).size).toBe(keySpecs.length)
      expect(keySpecs.filter((spec) => !specs.includes(spec))).toEqual([])
      // NIST SP 800-38D §8.3.
      expect(wrapsMax ?? 1).toBeLessThanOrEqual(2 ** 32)
    })

    describe('keys', () => {
      test('come back from a store part, of which no two are the same', async () => {
        const bytes = randomBytes(32)
        const key = crypto.importKey(Uint8Array.from(bytes))
        const messageKey = crypto.createMessageKey(key, 1)
        const parts = [
          await store.wrapKey(material, aad, key),
          await store.wrapKey(material, aad, key),
          await store.wrapMessageKey(material, aad, messageKey),
          await store.wrapBytes(material, aad, Uint8Array.from(bytes)),
        ]
        // Wrapping leaves what it wraps to the caller, and as it was.
        expect(bytesOf(crypto, key)).toEqual(bytes)
        crypto.releaseKey(messageKey)
        crypto.releaseKey(key)
        expect(new Set(parts.map((part) => hex(part))).size).toBe(parts.length)
        for (const part of parts) {
          expect(Buffer.from(part).includes(bytes)).toBe(false)
          expect(Buffer.from(await store.unwrapBytes(material, aad, part))).toEqual(bytes)
          const unwrapped = await store.unwrapKey(material, aad, part)
          expect(bytesOf(crypto, unwrapped)).toEqual(bytes)
          crypto.releaseKey(unwrapped)
        }
      })

      test('are of 32 bytes: nothing shorter or longer becomes one, and no slot is lost', async () => {
        const wrongs = [0, 1, 16, 31, 33, 64, 4096].filter(takes).map((n) => randomBytes(n))
        const before = crypto.keyTableUsage().slotsUsed
        for (const bytes of wrongs) {
          const part = await store.wrapBytes(material, aad, bytes)
          const unwrapped = store.unwrapKey(material, aad, part)
          await expect(unwrapped, `${bytes.length} bytes`).rejects.toMatchObject(refusedCiphertext)
        }
        expect(crypto.keyTableUsage().slotsUsed).toBe(before)
      })

      test('whose handle was released are not wrapped', async () => {
        const key = crypto.generateKey()
        const messageKey = crypto.createMessageKey(key, 1)
        crypto.releaseKey(messageKey)
        crypto.releaseKey(key)
        const stale = { code: 'KEY_HANDLE_STALE' }
        await expect(store.wrapKey(material, aad, key)).rejects.toMatchObject(stale)
        await expect(store.wrapMessageKey(material, aad, messageKey)).rejects.toMatchObject(stale)
      })
    })

    describe('bytes of the caller', () => {
      test.each([0, 1, 15, 16, 17, 32, 4096])('come back, %i of them', async (length) => {
        const bytes = randomBytes(length)
        if (!takes(length)) {
          const refused = { code: 'REQUEST_MALFORMED' }
          await expect(store.wrapBytes(material, aad, bytes)).rejects.toMatchObject(refused)
          return
        }
        const part = await store.wrapBytes(material, aad, Uint8Array.from(bytes))
        expect(Buffer.from(await store.unwrapBytes(material, aad, part))).toEqual(bytes)
        // A view into something larger is no different.
        const shifted = Buffer.concat([randomBytes(7), part, randomBytes(9)])
        const view = shifted.subarray(7, 7 + part.length)
        expect(Buffer.from(await store.unwrapBytes(material, aad, view))).toEqual(bytes)
      })

      test('are what the caller has still', async () => {
        const bytes = randomBytes(32)
        const given = Uint8Array.from(bytes)
        await store.wrapBytes(material, aad, given)
        expect(Buffer.from(given)).toEqual(bytes)
      })
    })

    describe('what does not open', () => {
      test('under another AAD is told as every other', async () => {
        const part = await store.wrapBytes(material, aad, randomBytes(32))
        const wrongs = [...flips(aad), aadOf('another'), aad.subarray(1), aad.subarray(0, -1)]
        wrongs.push(Buffer.concat([aad, Buffer.alloc(1)]))
        for (const wrong of wrongs) await refuses(wrong, part)
      })

      test.each([0, 32])(
        'with any one byte flipped, cut off or added (%i bytes)',
        async (wanted) => {
          const length = takes(wanted) ? wanted : 1
          const part = await store.wrapBytes(material, aad, randomBytes(length))
          for (const wrong of [...flips(part), ...truncations(part), ...additions(part)]) {
            await refuses(aad, wrong)
          }
          // The store is none the worse for it.
          expect(await store.unwrapBytes(material, aad, part)).toHaveLength(length)
        },
      )

      test('that was never wrapped', async () => {
        for (const length of [1, 12, 27, 28, 29, 60, 72, 95, 4124, 8192]) {
          await refuses(aad, randomBytes(length))
        }
      })

      test('under another key, or another version of the same', async () => {
        const part = await store.wrapBytes(material, aad, randomBytes(32))
        const others = [await makeMaterial(opened, SYMMETRIC)]
        if (store.traits.rotates) {
          others.push(await makeMaterial(opened, SYMMETRIC, material.kmsKeyId, 2))
        }
        for (const other of others) {
          await refuses(aad, part, other)
          // A row of the catalog that was moved: refused for what it is, or because it does not open.
          const moved = { ...material, stored: other.stored }
          store.forget(material.kmsKeyId)
          const grafted = store.unwrapBytes(moved, aad, part)
          await expect(grafted).rejects.toMatchObject(refusedError)
          store.forget(material.kmsKeyId)
        }
        expect(await store.unwrapBytes(material, aad, part)).toHaveLength(32)
      })

      async function refuses(
        boundTo: Uint8Array,
        part: Uint8Array,
        under: KeyMaterial = material,
      ): Promise<void> {
        const what = `${hex(boundTo)} ${hex(part)}`
        const before = crypto.keyTableUsage().slotsUsed
        const bytes = store.unwrapBytes(under, boundTo, part)
        await expect(bytes, what).rejects.toMatchObject(refusedCiphertext)
        const key = store.unwrapKey(under, boundTo, part)
        await expect(key, what).rejects.toMatchObject(refusedCiphertext)
        if (under === material) expect(crypto.keyTableUsage().slotsUsed).toBe(before)
      }
    })

    describe('material', () => {
      test('holds no key: nothing that is returned opens what is wrapped', async () => {
        const created = await create(opened, randomBytes(16), 1, SYMMETRIC)
        expect(Object.keys(created).sort()).toEqual(['publicKey', 'stored'])
        expect(created.publicKey).toBeUndefined()
        const part = await store.wrapBytes(material, aad, randomBytes(32))
        for (let at = 0; at + 32 <= material.stored.length; at++) {
          const candidate = Uint8Array.from(material.stored.subarray(at, at + 32))
          const [nonce, sealed] = [part.subarray(0, 12), part.subarray(12)]
          expect(crypto.insecureGcmOpen(candidate, nonce, aad, sealed)).toBeUndefined()
          const key = crypto.importKey(candidate)
          expect(() => crypto.unwrapBytes(key, aad, part)).toThrow()
          crypto.releaseKey(key)
        }
      })

      test('of which one is made for each call', async () => {
        const [first, second] = [
          await makeMaterial(opened, SYMMETRIC),
          await makeMaterial(opened, SYMMETRIC),
        ]
        expect(hex(first.stored)).not.toBe(hex(second.stored))
      })

      test('is imported, or refused and wiped all the same', async () => {
        const plaintext = randomBytes(32)
        const imported = store.importKeyMaterial(randomBytes(16), 1, SYMMETRIC, plaintext)
        if (store.traits.importsMaterial) {
          const { stored, fingerprint } = await imported
          expect(fingerprint).toHaveLength(32)
          expect(stored.length).toBeGreaterThan(0)
          for (const length of [0, 16, 31, 33]) {
            const wrong = store.importKeyMaterial(
              randomBytes(16),
              1,
              SYMMETRIC,
              randomBytes(length),
            )
            await expect(wrong).rejects.toMatchObject({ code: 'KEY_MATERIAL_INCORRECT' })
          }
        } else {
          await expect(imported).rejects.toMatchObject(refusedUnsupported)
        }
        expect(plaintext.every((byte) => byte === 0)).toBe(true)
      })

      test.each(specs)('of %s is made just if that is declared', async (spec) => {
        if (store.traits.keySpecs.includes(spec)) return expectMade(spec)
        const refused = store.createKeyMaterial(randomBytes(16), 1, spec, 'any-key')
        await expect(refused).rejects.toMatchObject(refusedUnsupported)
      })

      async function expectMade(spec: KeySpec): Promise<void> {
        const made = await makeMaterial(opened, spec)
        expect(made.stored.length).toBeGreaterThan(0)
        expect(made.publicKey !== undefined).toBe(/^(RSA|ECC)_/.test(spec))
      }

      test('that wraps neither signs, decrypts, agrees nor authenticates', async () => {
        const message = randomBytes(32)
        const signable = { algorithm: 'ECDSA_SHA_256', messageType: 'RAW', message } as const
        for (const misused of [
          store.sign(material, signable),
          store.decryptWithPrivateKey(material, 'RSAES_OAEP_SHA_256', message),
          store.deriveSharedSecret(material, 'ECDH', message),
          store.generateMac(material, 'HMAC_SHA_256', message),
        ]) {
          await expect(misused).rejects.toMatchObject(refusedUsage)
        }
      })
    })

    test('two hundred calls at once are each answered with their own', async () => {
      const other = await makeMaterial(opened, SYMMETRIC)
      const texts = Array.from({ length: 100 }, (_, index) => randomBytes(index + 1))
      const parts = await Promise.all(
        texts.map((bytes, index) =>
          store.wrapBytes(index % 2 === 0 ? material : other, aadOf(`${index}`), bytes),
        ),
      )
      const [texts2, parts2] = await Promise.all([
        Promise.all(
          parts.map((part, index) =>
            store.unwrapBytes(index % 2 === 0 ? material : other, aadOf(`${index}`), part),
          ),
        ),
        Promise.all(texts.map((bytes) => store.wrapBytes(other, aad, bytes))),
      ])
      expect(texts2.map(hex)).toEqual(texts.map(hex))
      const texts3 = await Promise.all(parts2.map((part) => store.unwrapBytes(other, aad, part)))
      expect(texts3.map(hex)).toEqual(texts.map(hex))
    })

    test('a key that is forgotten opens again: it was not destroyed', async () => {
      const part = await store.wrapBytes(material, aad, randomBytes(32))
      store.forget(material.kmsKeyId)
      store.forget(material.kmsKeyId)
      store.forget(randomBytes(16))
      expect(await store.unwrapBytes(material, aad, part)).toHaveLength(32)
    })

    privateKeysConformance(open)
    ending(open)
  })
}

/** Locking and closing, each on a store of its own. */
function ending(open: OpenKeyStore): void {
  test.each(['locked', 'closed'] as const)('does nothing once it is %s', async (how) => {
    const opened = await open()
    const { store, crypto } = opened
    try {
      const material = await makeMaterial(opened, SYMMETRIC)
      const part = await store.wrapBytes(material, aad, randomBytes(32))
      const key = crypto.generateKey()
      // A call under way ends one way or the other; it does not hang.
      const underWay = Promise.allSettled(
        Array.from({ length: 20 }, () => store.unwrapBytes(material, aad, part)),
      )
      if (how === 'locked') {
        store.lock()
        store.lock()
      } else {
        await store.close()
      }
      await underWay
      const refused = how === 'locked' ? { code: 'LOCKED' } : refusedError
      for (const call of [
        store.probe(),
        store.createKeyMaterial(randomBytes(16), 1, SYMMETRIC, 'any-key'),
        store.wrapKey(material, aad, key),
        store.wrapBytes(material, aad, randomBytes(32)),
        store.unwrapKey(material, aad, part),
        store.unwrapBytes(material, aad, part),
      ]) {
        await expect(call).rejects.toMatchObject(refused)
      }
      crypto.releaseKey(key)
      store.forget(material.kmsKeyId)
      await store.close()
      await store.close()
    } finally {
      await opened.close()
    }
  })
}

export async function makeMaterial(
  opened: OpenedKeyStore,
  keySpec: KeySpec,
  kmsKeyId: Uint8Array = randomBytes(16),
  version = 1,
  keyUsage?: KeyUsage,
): Promise<KeyMaterial> {
  const created = await create(opened, kmsKeyId, version, keySpec, keyUsage)
  return { kmsKeyId, version, keySpec, ...created }
}

async function create(
  { store, externalKeyId }: OpenedKeyStore,
  kmsKeyId: Uint8Array,
  version: number,
  keySpec: KeySpec,
  keyUsage: KeyUsage = traitsOf(keySpec).usages[0] as KeyUsage,
) {
  const keyId = await externalKeyId?.(keySpec, keyUsage)
  return store.createKeyMaterial(kmsKeyId, version, keySpec, keyId, keyUsage)
}

/** The table has no call that reads a key out: under a key of a moment's life it opens as bytes. */
function bytesOf(crypto: Crypto, key: KeyHandle): Buffer {
  const passing = crypto.generateKey()
  const wrapped = crypto.wrapKey(passing, new Uint8Array(0), key)
  const bytes = Buffer.from(crypto.unwrapBytes(passing, new Uint8Array(0), wrapped))
  crypto.releaseKey(passing)
  return bytes
}

function flips(bytes: Uint8Array): Uint8Array[] {
  return Array.from(bytes, (byte, at) => {
    const flipped = Uint8Array.from(bytes)
    flipped[at] = byte ^ (1 << (at % 8))
    return flipped
  })
}

function truncations(bytes: Uint8Array): Uint8Array[] {
  return Array.from(bytes, (_, length) => bytes.subarray(0, length))
}

function additions(bytes: Uint8Array): Uint8Array[] {
  const zero = Buffer.alloc(1)
  return [Buffer.concat([bytes, zero]), Buffer.concat([zero, bytes])]
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
