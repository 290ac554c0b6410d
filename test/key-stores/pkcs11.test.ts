/**
 * Keys in a real token (SoftHSM2): what the token shows of them, and every way in which a token, its library, its
 * sessions, its login or a key go away under a running store.
 */
import { spawnSync } from 'node:child_process'
import { createPublicKey, randomBytes, verify } from 'node:crypto'
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

import { createNodeCrypto } from '../../dist/crypto/node-crypto.js'
import type { KeySpec } from '../../dist/crypto/key-spec.js'
import type { KeyMaterial, KeyStore } from '../../dist/key-stores/key-store.js'
import { CKA, CKF, CKM } from '../../dist/key-stores/pkcs11/cryptoki.js'
import { openPkcs11KeyStore, type Pkcs11Settings } from '../../dist/key-stores/pkcs11.js'
import { describeWithSoftHsm, strangerIn, type SoftToken } from './softhsm.ts'

/** From limits.ts. */
const CALLS_MAX = 4_096
const AES = 'SYMMETRIC_DEFAULT'
const aad = Buffer.alloc(55, 1)
const text = Buffer.from('plaintext of the caller')
const unreachable = { code: 'KEY_STORE_UNREACHABLE' }
const unavailable = { code: 'KMS_KEY_UNAVAILABLE' }
const crypto = createNodeCrypto()

describeWithSoftHsm('keys in SoftHSM2', (create) => {
  let token: SoftToken
  let store: KeyStore
  beforeEach(async () => {
    token = create()
    store = await openStore()
    return async () => {
      await store.close()
      token.remove()
    }
  })

  function openStore(more: Partial<Pkcs11Settings> = {}): Promise<KeyStore> {
    return openPkcs11KeyStore(crypto, {
      name: 'hsm',
      module: token.module,
      token: { label: token.label },
      pin: { source: 'file', file: token.pinFile },
      ...more,
    })
  }

  async function make(keySpec: KeySpec = AES, version = 1): Promise<KeyMaterial> {
    const kmsKeyId = randomBytes(16)
    const created = await store.createKeyMaterial(kmsKeyId, version, keySpec)
    return { kmsKeyId, version, keySpec, ...created }
  }

  async function reopen(more?: Partial<Pkcs11Settings>): Promise<void> {
    await store.close()
    store = await openStore(more)
  }

  const idOf = (material: KeyMaterial): string =>
    Buffer.from(material.stored.subarray(6)).toString('hex')
  const opens = async (material: KeyMaterial, part: Uint8Array): Promise<Buffer> =>
    Buffer.from(await store.unwrapBytes(material, aad, part))

  describe('as others see them', () => {
    test('are persistent, private, sensitive and never extractable, and have a name', async () => {
      const materials = [await make(), await make('HMAC_256'), await make('ECC_NIST_P256')]
      const shown = token.tool('-O').split(/^(?=(?:Secret|Private|Public) Key Object)/m)
      expect(shown).toHaveLength(materials.length)
      for (const material of materials) {
        const uuid = Buffer.from(material.kmsKeyId)
          .toString('hex')
          .replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')
        const one = shown.find((object) => object.includes(uuid)) ?? ''
        expect(one).toMatch(/sensitive, always sensitive, never extrac\w+, local/)
        expect(one).toContain(`keyfold ${uuid} v1`)
        expect(one).toContain(idOf(material))
        expect(one).not.toMatch(/wrap/i)
      }
    })

    test('are of 256 bits, and open by PKCS#11 alone', async () => {
      const material = await make()
      expect(token.tool('-O')).toMatch(/AES length 32/)
      const part = await store.wrapBytes(material, aad, text)
      expect(part).toHaveLength(12 + text.length + 16)
      const words = [idOf(material), aad.toString('hex'), Buffer.from(part).toString('hex')]
      const python = spawnSync(
        'python3',
        [
          join(import.meta.dirname, 'open-store-part.py'),
          token.module,
          token.label,
          token.pin,
        ].concat(words),
        { encoding: 'utf8' },
      )
      expect(python.stderr).toBe('')
      expect(Buffer.from(python.stdout.trim(), 'hex')).toEqual(text)
    })

    test('of HMAC give the MAC that pkcs11-tool gives', async () => {
      const material = await make('HMAC_512')
      const file = join(token.directory, 'message')
      writeFileSync(file, text)
      const output = join(token.directory, 'mac')
      token.tool(
        ...['--sign', '-m', 'SHA512-HMAC', '--id', idOf(material)],
        ...['-i', file, '-o', output],
      )
      const mac = await store.generateMac(material, 'HMAC_SHA_512', text)
      expect(Buffer.from(mac)).toEqual(readFileSync(output))
    })

    test('made by another process are there at once, if they are what they have to be', async () => {
      const { kmsKeyId, stored } = await make()
      const put = (keyType: string, ...words: readonly string[]): KeyMaterial => {
        const other = Uint8Array.from(stored)
        other.set(randomBytes(8), other.length - 8)
        const material = { kmsKeyId, version: 1, keySpec: AES, stored: other } as const
        const [, label] = /label: +(keyfold .*)/.exec(token.tool('-O')) ?? []
        token.tool(
          ...[
            '--keygen',
            '--key-type',
            keyType,
            '--id',
            idOf({ ...material, publicKey: undefined }),
          ],
          ...['--label', label ?? '', '--private', '--usage-decrypt', ...words],
        )
        return { ...material, publicKey: undefined }
      }
      const good = put('AES:32', '--sensitive')
      const part = await store.wrapBytes(good, aad, text)
      expect(await opens(good, part)).toEqual(text)
      for (const wrong of [
        put('AES:32', '--sensitive', '--extractable'),
        put('AES:32', '--extractable'),
        put('AES:16', '--sensitive'),
        put('GENERIC:32', '--sensitive'),
      ]) {
        await expect(store.wrapBytes(wrong, aad, text)).rejects.toMatchObject(unavailable)
      }
    })

    test('are refused where two have one id', async () => {
      const material = await make()
      const [, label] = /label: +(keyfold .*)/.exec(token.tool('-O')) ?? []
      token.tool(
        ...['--keygen', '--key-type', 'AES:32', '--id', idOf(material), '--label', label ?? ''],
        ...['--private', '--sensitive', '--usage-decrypt'],
      )
      store.forget(material.kmsKeyId)
      await expect(store.wrapBytes(material, aad, text)).rejects.toMatchObject(unavailable)
    })
  })

  describe('keep serving', () => {
    let material: KeyMaterial
    let part: Uint8Array
    beforeEach(async () => {
      material = await make()
      part = await store.wrapBytes(material, aad, text)
    })
    /** Both directions, and a new key. */
    async function expectServing(): Promise<void> {
      expect(await opens(material, part)).toEqual(text)
      expect(await opens(material, await store.wrapBytes(material, aad, text))).toEqual(text)
      const made = await make()
      expect(await opens(made, await store.wrapBytes(made, aad, text))).toEqual(text)
      await store.probe()
    }

    test('after anybody in the process finalised the library', async () => {
      const { library } = strangerIn(token)
      library.C_Finalize()
      await expectServing()
      library.C_Finalize()
      await store.probe()
      library.C_Finalize()
      await Promise.all(Array.from({ length: 50 }, () => opens(material, part)))
    })

    test('after any session logged out', async () => {
      const { library, slotOf } = strangerIn(token)
      for (let i = 0; i < 3; i++) {
        const session = library.C_OpenSession(slotOf(), 4)
        library.C_Logout(session)
        library.C_CloseSession(session)
        await expectServing()
      }
    })

    test('after all sessions were closed, or any one of them', async () => {
      const { library, slotOf } = strangerIn(token)
      library.C_CloseAllSessions(slotOf())
      await expectServing()
      for (let number = 1; number < 40; number++) {
        const session = Buffer.alloc(8)
        session.writeUInt32LE(number)
        try {
          library.C_CloseSession(session)
        } catch {
          continue
        }
        expect(await opens(material, part)).toEqual(text)
      }
      await expectServing()
    })

    test('with a session that somebody left busy', async () => {
      const { library } = strangerIn(token)
      let spoilt = 0
      for (let number = 1; number < 40; number++) {
        const session = Buffer.alloc(8)
        session.writeUInt32LE(number)
        try {
          library.C_DigestInit(session, { mechanism: CKM.SHA256 })
          spoilt++
        } catch {
          continue
        }
      }
      expect(spoilt).toBeGreaterThan(0)
      await expectServing()
    })

    test('without mistaking one key for another whose handle has the same number', async () => {
      const signing = await make('ECC_NIST_P256')
      const keys = [material, signing]
      const others = [await make(), await make('ECC_NIST_P256')]
      for (const [index, key] of keys.entries()) {
        const other = others[index] as KeyMaterial
        await reopen()
        const use = (): Promise<Uint8Array> =>
          key === signing
            ? store.sign(signing, { algorithm: 'ECDSA_SHA_256', messageType: 'RAW', message: text })
            : store.wrapBytes(material, aad, text)
        await use()
        // Now the store has two sessions and one key, numbers 1 to 3.
        const { library, slotOf } = strangerIn(token)
        library.C_Finalize()
        library.C_Initialize({ flags: CKF.OS_LOCKING_OK })
        const session = library.C_OpenSession(slotOf(), 4)
        library.C_Login(session, 1, token.pin)
        library.C_OpenSession(slotOf(), 4)
        library.C_FindObjectsInit(session, [
          { type: CKA.ID, value: Buffer.from(idOf(other), 'hex') },
        ])
        const handle = library.C_FindObjects(session, 1)[0] as Buffer
        library.C_FindObjectsFinal(session)
        expect(handle.readUInt32LE(0)).toBe(3)
        const used = await use()
        if (key === signing) {
          const publicKey = createPublicKey({
            key: Buffer.from(signing.publicKey as Uint8Array),
            type: 'spki',
            format: 'der',
          })
          expect(verify('sha256', text, publicKey, used)).toBe(true)
        } else {
          expect(await opens(material, used)).toEqual(text)
          // And what is not opened by the other key is not called damaged.
          expect(await opens(material, part)).toEqual(text)
        }
      }
    })

    test.each(['sync', 'async'] as const)(
      'once the token is back, and say meanwhile that it is away (%s)',
      async (calls) => {
        await reopen({ calls })
        const away = `${token.tokens}-away`
        const wrapped: Uint8Array[] = []
        const failures: unknown[] = []
        let done = false
        const load = Array.from({ length: 4 }, async () => {
          while (!done) {
            try {
              wrapped.push(await store.wrapBytes(material, aad, text))
              await opens(material, part)
            } catch (error) {
              failures.push(error)
              await new Promise((resolve) => setImmediate(resolve))
            }
          }
        })
        const until = async (reached: () => Promise<boolean> | boolean): Promise<void> => {
          while (!(await reached())) await new Promise((resolve) => setTimeout(resolve, 5))
        }
        const isUp = (): Promise<boolean> =>
          store.probe().then(
            () => true,
            () => false,
          )
        await until(() => wrapped.length > 10)
        renameSync(token.tokens, away)
        await until(() => failures.length > 10)
        await expect(store.probe()).rejects.toMatchObject(unreachable)
        renameSync(away, token.tokens)
        await until(isUp)
        const before = wrapped.length
        await until(() => wrapped.length > before + 10)
        done = true
        await Promise.all(load)
        for (const failure of failures) expect(failure).toMatchObject(unreachable)
        for (const one of wrapped) expect(await opens(material, one)).toEqual(text)
        await expectServing()
      },
    )

    test('the others, once another process deleted one', async () => {
      const other = await make()
      const otherPart = await store.wrapBytes(other, aad, text)
      token.tool('--delete-object', '--type', 'secrkey', '--id', idOf(other))
      for (let i = 0; i < 3; i++) {
        await expect(store.wrapBytes(other, aad, text)).rejects.toMatchObject(unavailable)
        await expect(store.unwrapBytes(other, aad, otherPart)).rejects.toMatchObject(unavailable)
      }
      await expectServing()
    })

    test('as many calls as may wait, and refuse the next', async () => {
      const calls = Array.from({ length: CALLS_MAX + 100 }, () => opens(material, part))
      const settled = await Promise.allSettled(calls)
      const refused = settled.filter(({ status }) => status === 'rejected')
      expect(refused).toHaveLength(100)
      for (const one of refused) expect(one).toMatchObject({ reason: { code: 'OVERLOADED' } })
      await expectServing()
    })

    test('a store that is opened while the last one is being closed', async () => {
      for (let i = 0; i < 5; i++) {
        const closing = store.close()
        store = await openStore()
        await Promise.all([closing, expectServing()])
      }
    })

    test('those of one store, when another of the same token is closed', async () => {
      const other = await openStore()
      await other.probe()
      await other.close()
      await expectServing()
      const second = await openStore()
      await store.close()
      expect(Buffer.from(await second.unwrapBytes(material, aad, part))).toEqual(text)
      await second.close()
    })
  })

  describe('what passes between threads', () => {
    test('holds no plaintext, and its shared memory is wiped', async () => {
      const { Worker } = await import('node:worker_threads')
      const posted: unknown[] = []
      const post = Worker.prototype.postMessage
      Worker.prototype.postMessage = function (message: unknown, ...rest: never[]): void {
        posted.push(message)
        post.call(this, message, ...rest)
      }
      afterEach(() => {
        Worker.prototype.postMessage = post
      })
      const material = await make()
      const part = await store.wrapBytes(material, aad, text)
      expect(await opens(material, part)).toEqual(text)
      const key = crypto.importKey(randomBytes(32))
      crypto.releaseKey(
        await store.unwrapKey(material, aad, await store.wrapKey(material, aad, key)),
      )
      await expect(store.unwrapBytes(material, text, part)).rejects.toThrow()
      crypto.releaseKey(key)
      Worker.prototype.postMessage = post
      const regions: SharedArrayBuffer[] = []
      const walk = (value: unknown): void => {
        // Beside the regions there are the words that say who has a call.
        if (value instanceof SharedArrayBuffer) value.byteLength > 4 && regions.push(value)
        else if (value instanceof Uint8Array) expect(Buffer.from(value).includes(text)).toBe(false)
        else if (typeof value === 'object' && value !== null) Object.values(value).forEach(walk)
      }
      posted.forEach(walk)
      expect(regions).toHaveLength(6)
      for (const region of regions) {
        expect(new Uint8Array(region).every((byte) => byte === 0)).toBe(true)
      }
    })
  })
})
