/** Secrets at rest: they open for their own place under their own root key, as the format describes it, and no other. */
import { hkdfSync, randomBytes } from 'node:crypto'
import { beforeEach, describe, expect, test } from 'vitest'

import { createNodeCrypto } from '../../dist/crypto/node-crypto.js'
import { LocalKeyStore } from '../../dist/key-stores/local.js'
import { SecretSealer } from '../../dist/key-stores/secret-sealer.js'
import { implementations } from '../crypto/implementations.ts'

/** From format/sealed-secret.ts: version ‖ suite ‖ root version, then nonce and tag around the secret. */
const OVERHEAD_BYTES = 6 + 24 + 16
const place = { purpose: 'access-key', id: 'AKIAEXAMPLE', owner: 'arn:aws:iam::000000000000:root' }
const secret = Buffer.from('wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY')

describe.each(implementations)('sealing on $implementation', (crypto) => {
  let rootKey: Buffer
  let sealer: SecretSealer
  function withRoot<T>(bytes: Uint8Array, work: (root: number) => T): T {
    const root = crypto.importKey(Uint8Array.from(bytes))
    try {
      return work(root)
    } finally {
      crypto.releaseKey(root)
    }
  }
  beforeEach(() => {
    rootKey = randomBytes(32)
    sealer = withRoot(
      rootKey,
      (root) => new SecretSealer(crypto, { current: { version: 1, key: root } }),
    )
    return () => sealer.lock()
  })

  const slotsInUse = (): number => crypto.keyTableUsage().slotsUsed
  const refused = expect.objectContaining({ code: 'ROOT_KEY_INVALID' }) as Error

  test('hides the secret, is new each time, and opens after a restart', () => {
    const sealed = [sealer.seal(place, secret), sealer.seal(place, secret)] as const
    for (const each of sealed) {
      expect(each).toHaveLength(OVERHEAD_BYTES + secret.length)
      expect([...each.subarray(0, 6)]).toEqual([0xf1, 1, 0, 0, 0, 1])
      expect(Buffer.from(each).includes(secret.subarray(0, 8))).toBe(false)
    }
    expect(Buffer.from(sealed[0]).equals(sealed[1])).toBe(false)
    const restarted = withRoot(
      rootKey,
      (root) => new SecretSealer(crypto, { current: { version: 1, key: root } }),
    )
    for (const each of sealed) expect(Buffer.from(restarted.open(place, each))).toEqual(secret)
    restarted.lock()
    // A private key of RSA-4096 is about as long as secrets get.
    const long = randomBytes(2_400)
    expect(Buffer.from(sealer.open(place, sealer.seal(place, long)))).toEqual(long)
  })

  test('is XAES-256-GCM under HKDF-SHA-512 of the root key, with the place as AAD', () => {
    const sealed = Buffer.from(sealer.seal(place, secret))
    const label = 'keyfold/root/v1/secrets'
    const key = new Uint8Array(hkdfSync('sha512', rootKey, Buffer.alloc(64), label, 32))
    const text = (value: string): Buffer =>
      Buffer.concat([Buffer.from([0, value.length]), Buffer.from(value)])
    const aad = Buffer.concat([
      sealed.subarray(0, 6),
      text(place.purpose),
      text(place.id),
      text(place.owner),
    ])
    const opened = createNodeCrypto().insecureXaesOpen(
      1,
      key,
      sealed.subarray(6, 30),
      aad,
      sealed.subarray(30),
    )
    expect(Buffer.from(opened ?? [])).toEqual(secret)
  })

  test('opens nothing in another place: purpose, id and owner all count, and so do the borders between them', () => {
    const sealed = sealer.seal(place, secret)
    for (const other of [
      { ...place, purpose: 'import' },
      { ...place, id: 'AKIAEXAMPLF' },
      { ...place, id: '' },
      { ...place, owner: 'arn:aws:iam::000000000000:user/a' },
      { purpose: place.purpose, id: place.owner, owner: place.id },
      { ...place, purpose: `${place.purpose}A`, id: place.id.slice(1) },
      { ...place, id: `${place.id}a`, owner: place.owner.slice(1) },
    ]) {
      expect(() => sealer.open(other, sealed)).toThrow(refused)
    }
  })

  test('opens nothing that was changed, cut, sealed under another root key, or is key material', async () => {
    const sealed = sealer.seal(place, secret)
    const other = withRoot(
      randomBytes(32),
      (root) => new SecretSealer(crypto, { current: { version: 1, key: root } }),
    )
    const wrong = [other.seal(place, secret), Buffer.concat([sealed, Buffer.from([0])])]
    other.lock()
    const store = withRoot(
      rootKey,
      (root) => new LocalKeyStore(crypto, { current: { version: 1, key: root } }),
    )
    wrong.push((await store.createKeyMaterial(randomBytes(16), 1, 'SYMMETRIC_DEFAULT')).stored)
    await store.close()
    for (let at = 0; at < sealed.length; at++) {
      wrong.push(sealed.subarray(0, at))
      const changed = Uint8Array.from(sealed)
      changed[at] = (changed[at] as number) ^ 1
      wrong.push(changed)
    }
    const before = slotsInUse()
    for (const each of wrong) expect(() => sealer.open(place, each)).toThrow(refused)
    expect(slotsInUse()).toBe(before)
  })

  test('does nothing at all once it is locked, holds no key then, and can be locked twice', () => {
    const sealed = sealer.seal(place, secret)
    const before = slotsInUse()
    sealer.lock()
    sealer.lock()
    expect(slotsInUse()).toBe(before - 1)
    const locked = expect.objectContaining({ code: 'LOCKED' }) as Error
    expect(() => sealer.seal(place, secret)).toThrow(locked)
    expect(() => sealer.open(place, sealed)).toThrow(locked)
  })
})
