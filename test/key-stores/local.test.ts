/** The local key store: material at rest opens for its own key and version only, and what is wiped stays wiped. */
import { randomBytes } from 'node:crypto'
import { beforeEach, describe, expect, test } from 'vitest'

import type { KeyMaterial } from '../../dist/key-stores/key-store.js'
import { LocalKeyStore } from '../../dist/key-stores/local.js'
import { implementations } from '../crypto/implementations.ts'

/** From format/key-material.ts: version ‖ suite ‖ root version, then nonce, 32 bytes of key and tag. */
const STORED_BYTES = 6 + 24 + 32 + 16
/** So many stay open (limits.ts); the rest is opened again. */
const OPEN_MAX = 2_048

const KEY_SPEC = 'SYMMETRIC_DEFAULT'
const aad = Buffer.from('bound')
const text = Buffer.from('plaintext of the caller')

describe.each(implementations)('the local key store on $implementation', (crypto) => {
  let rootKey: Buffer
  let store: LocalKeyStore
  /** A store that keeps what it derives from this root key, which is gone afterwards. */
  function open(bytes: Uint8Array): LocalKeyStore {
    const root = crypto.importKey(Uint8Array.from(bytes))
    const opened = new LocalKeyStore(crypto, { current: { version: 1, key: root } })
    crypto.releaseKey(root)
    return opened
  }
  beforeEach(() => {
    rootKey = randomBytes(32)
    store = open(rootKey)
    return async () => store.close()
  })

  const slotsInUse = (): number => crypto.keyTableUsage().slotsUsed
  async function make(kmsKeyId: Uint8Array = randomBytes(16), version = 1): Promise<KeyMaterial> {
    const created = await store.createKeyMaterial(kmsKeyId, version, KEY_SPEC)
    return { kmsKeyId, version, keySpec: KEY_SPEC, ...created }
  }

  test('leaves the root key to whoever handed it in', async () => {
    const root = crypto.importKey(Uint8Array.from(rootKey))
    const before = slotsInUse()
    await new LocalKeyStore(crypto, { current: { version: 1, key: root } }).close()
    expect(slotsInUse()).toBe(before)
    crypto.releaseKey(root)
    expect(slotsInUse()).toBe(before - 1)
  })

  test('keeps new material for each call, sealed, and none of it in the key table', async () => {
    const before = slotsInUse()
    const kmsKeyId = randomBytes(16)
    const { stored: first, publicKey } = await store.createKeyMaterial(kmsKeyId, 1, KEY_SPEC)
    const { stored: second } = await store.createKeyMaterial(kmsKeyId, 1, KEY_SPEC)
    expect(publicKey).toBeUndefined()
    expect(first).toHaveLength(STORED_BYTES)
    expect([...first.subarray(0, 6)]).toEqual([0xf0, 1, 0, 0, 0, 1])
    expect(Buffer.from(first).equals(second)).toBe(false)
    expect(slotsInUse()).toBe(before)
  })

  test('opens what it wrapped, after a restart with the same root key too', async () => {
    const material = await make()
    const wrapped = await store.wrapBytes(material, aad, text)
    expect(Buffer.from(wrapped).includes(text)).toBe(false)
    const restarted = open(rootKey)
    expect(Buffer.from(await restarted.unwrapBytes(material, aad, wrapped))).toEqual(text)
    await restarted.close()
  })

  test('refuses a wrapped key under another AAD, key or version as undecryptable', async () => {
    const material = await make()
    const wrapped = await store.wrapBytes(material, aad, text)
    const refused = { code: 'DECRYPT_FAILED' }
    await expect(store.unwrapBytes(material, text, wrapped)).rejects.toMatchObject(refused)
    await expect(store.unwrapBytes(await make(), aad, wrapped)).rejects.toMatchObject(refused)
    const rotated = await make(material.kmsKeyId, 2)
    await expect(store.unwrapBytes(rotated, aad, wrapped)).rejects.toMatchObject(refused)
    await expect(store.unwrapKey(material, aad, wrapped.subarray(1))).rejects.toMatchObject(refused)
  })

  test('opens no material that was moved, changed, cut or sealed under another root key', async () => {
    const material = await make()
    const other = await make()
    const rotated = await make(material.kmsKeyId, 2)
    const otherRoot = open(randomBytes(32))
    const wrong: KeyMaterial[] = [
      { ...material, stored: other.stored },
      { ...material, stored: rotated.stored },
      { ...material, version: 2 },
      { ...material, version: 257 },
      { ...material, kmsKeyId: other.kmsKeyId },
      { ...material, ...(await otherRoot.createKeyMaterial(material.kmsKeyId, 1, KEY_SPEC)) },
    ]
    await otherRoot.close()
    for (let bytes = 0; bytes < STORED_BYTES; bytes++) {
      wrong.push({ ...material, stored: material.stored.subarray(0, bytes) })
      const changed = Uint8Array.from(material.stored)
      changed[bytes] = (changed[bytes] as number) ^ 1
      wrong.push({ ...material, stored: changed })
    }
    wrong.push({ ...material, stored: Buffer.concat([material.stored, Buffer.from([0])]) })
    const before = slotsInUse()
    const refused = { code: 'ROOT_KEY_INVALID' }
    for (const moved of wrong) {
      await expect(store.wrapBytes(moved, aad, text)).rejects.toMatchObject(refused)
      await expect(store.unwrapBytes(moved, aad, text)).rejects.toMatchObject(refused)
    }
    expect(slotsInUse()).toBe(before)
  })

  test('forgets the versions of one key and of no other', async () => {
    const kmsKeyId = randomBytes(16)
    const versions = [await make(kmsKeyId, 1), await make(kmsKeyId, 2), await make(kmsKeyId, 11)]
    // Differs in its last bit: no prefix of the other's name.
    const neighbourId = Uint8Array.from(kmsKeyId)
    neighbourId[15] = (neighbourId[15] as number) ^ 1
    const neighbour = await make(neighbourId, 1)
    const before = slotsInUse()
    const wrapped = await Promise.all(
      [...versions, neighbour].map((material) => store.wrapBytes(material, aad, text)),
    )
    expect(slotsInUse()).toBe(before + 4)
    store.forget(kmsKeyId)
    expect(slotsInUse()).toBe(before + 1)
    store.forget(kmsKeyId)
    expect(slotsInUse()).toBe(before + 1)
    // Forgotten is not destroyed: it opens again.
    const opened = await store.unwrapBytes(
      versions[2] as KeyMaterial,
      aad,
      wrapped[2] as Uint8Array,
    )
    expect(Buffer.from(opened)).toEqual(text)
  })

  test('keeps a bounded number open, whatever is asked for', async () => {
    const before = slotsInUse()
    const first = await make()
    const wrapped = await store.wrapBytes(first, aad, text)
    for (let i = 0; i < OPEN_MAX + 10; i++) await store.wrapBytes(await make(), aad, text)
    expect(slotsInUse()).toBe(before + OPEN_MAX)
    expect(Buffer.from(await store.unwrapBytes(first, aad, wrapped))).toEqual(text)
    store.lock()
    // The sealing key went as well.
    expect(slotsInUse()).toBe(before - 1)
  })

  test('does nothing at all once it is locked, and can be locked twice', async () => {
    const material = await make()
    const wrapped = await store.wrapBytes(material, aad, text)
    store.lock()
    store.lock()
    const locked = { code: 'LOCKED' }
    const key = crypto.generateKey()
    await expect(store.probe()).rejects.toMatchObject(locked)
    const created = store.createKeyMaterial(randomBytes(16), 1, KEY_SPEC)
    await expect(created).rejects.toMatchObject(locked)
    await expect(store.wrapBytes(material, aad, text)).rejects.toMatchObject(locked)
    await expect(store.unwrapBytes(material, aad, wrapped)).rejects.toMatchObject(locked)
    await expect(store.wrapKey(material, aad, key)).rejects.toMatchObject(locked)
    await expect(store.unwrapKey(material, aad, wrapped)).rejects.toMatchObject(locked)
    crypto.releaseKey(key)
  })
})
