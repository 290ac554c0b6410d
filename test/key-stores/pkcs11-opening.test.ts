/**
 * How a token is opened: PINs and how often they are tried, what is said where something is missing or set wrongly, and
 * tokens with the habits of other vendors.
 */
import { randomBytes } from 'node:crypto'
import { cpSync, mkdirSync, renameSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'

import { createNodeCrypto } from '../../dist/crypto/node-crypto.js'
import type { KeyMaterial, KeyStore } from '../../dist/key-stores/key-store.js'
import { openPkcs11KeyStore, type Pkcs11Settings } from '../../dist/key-stores/pkcs11.js'
import { ROOT, run } from '../cli/command.ts'
import { describeWithSoftHsm, loginsOf, strangerIn, withHabits, type SoftToken } from './softhsm.ts'

const AES = 'SYMMETRIC_DEFAULT'
const aad = Buffer.alloc(55, 1)
const text = Buffer.from('plaintext of the caller')
const crypto = createNodeCrypto()
const unreachable = { code: 'KEY_STORE_UNREACHABLE' }
const invalid = { code: 'CONFIG_INVALID' }

describeWithSoftHsm('opening a token', (create) => {
  let token: SoftToken
  beforeEach(() => {
    token = create()
    return () => token.remove()
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

  async function make(store: KeyStore, version = 1): Promise<KeyMaterial> {
    const kmsKeyId = randomBytes(16)
    return {
      kmsKeyId,
      version,
      keySpec: AES,
      ...(await store.createKeyMaterial(kmsKeyId, version, AES)),
    }
  }

  async function expectServing(store: KeyStore): Promise<void> {
    const material = await make(store)
    for (const bytes of [Buffer.alloc(0), text, randomBytes(4_096)]) {
      const part = await store.wrapBytes(material, aad, bytes)
      expect(part).toHaveLength(12 + bytes.length + 16)
      expect(Buffer.from(await store.unwrapBytes(material, aad, part))).toEqual(bytes)
      part[0] = (part[0] ?? 0) ^ 1
      const changed = store.unwrapBytes(material, aad, part)
      await expect(changed).rejects.toMatchObject({ code: 'DECRYPT_FAILED' })
    }
  }

  async function opensAndServes(more: Partial<Pkcs11Settings>): Promise<void> {
    const store = await openStore(more)
    try {
      await expectServing(store)
    } finally {
      await store.close()
    }
  }

  describe('by a PIN', () => {
    test('of a file, a command, or the environment, which forgets it', async () => {
      await opensAndServes({ pin: { source: 'file', file: token.pinFile } })
      await opensAndServes({ pin: { source: 'command', command: `cat '${token.pinFile}'` } })
      process.env['TOKEN_PIN_OF_TESTS'] = token.pin
      const store = await openStore({ pin: { source: 'environment', name: 'TOKEN_PIN_OF_TESTS' } })
      expect(process.env['TOKEN_PIN_OF_TESTS']).toBeUndefined()
      // It is needed again, and is still to be had.
      strangerIn(token).library.C_Finalize()
      await expectServing(store)
      await store.close()
    })

    test('of the environment for as often as the token is pulled and opened again', async () => {
      process.env['TOKEN_PIN_OF_TESTS'] = token.pin
      const slots = crypto.keyTableUsage().slotsUsed
      const pin = { source: 'environment', name: 'TOKEN_PIN_OF_TESTS' } as const
      const first = await openStore({ pin })
      await first.close()
      renameSync(token.tokens, `${token.tokens}-away`)
      for (let i = 0; i < 3; i++) {
        await expect(openStore({ pin })).rejects.toMatchObject(unreachable)
      }
      renameSync(`${token.tokens}-away`, token.tokens)
      const second = await openStore({ pin })
      // As while settings are changed: the next is open before the last is closed.
      const third = await openStore({ pin })
      await second.close()
      strangerIn(token).library.C_Finalize()
      await expectServing(third)
      expect(crypto.keyTableUsage().slotsUsed).toBe(slots + 1)
      third.lock()
      await third.close()
      expect(crypto.keyTableUsage().slotsUsed).toBe(slots)
      await expect(openStore({ pin })).rejects.toMatchObject(invalid)
    })

    test('that is not to be had is told apart from one that is wrong', async () => {
      for (const pin of [
        { source: 'file', file: join(token.directory, 'no-such-file') },
        { source: 'environment', name: 'TOKEN_PIN_THAT_IS_NOT_SET' },
        { source: 'command', command: 'echo secret-of-the-command; exit 3' },
        { source: 'command', command: 'true' },
      ] as const) {
        const opening = openStore({ pin })
        await expect(opening).rejects.toMatchObject(invalid)
        await expect(opening).rejects.not.toThrow(/secret-of-the-command/)
      }
    })

    test('that is wrong is tried once', async () => {
      writeFileSync(token.pinFile, 'wrong-pin')
      const module = withHabits(token)
      const opening = openStore({ module })
      // Not one that passes: whoever opens stores again by themselves leaves this one closed.
      await expect(opening).rejects.toMatchObject({ code: 'KEY_STORE_CREDENTIAL_INCORRECT' })
      await expect(opening).rejects.toThrow(/refuses the PIN.*CKR_PIN_INCORRECT/)
      await expect(opening).rejects.not.toThrow(/wrong-pin/)
      expect(loginsOf(token)).toBe(1)
    })

    test('that became wrong is tried once, whatever is asked for, and never again', async () => {
      const module = withHabits(token)
      const store = await openStore({ module })
      const material = await make(store)
      const part = await store.wrapBytes(material, aad, text)
      expect(loginsOf(token)).toBe(1)
      writeFileSync(token.pinFile, 'wrong-pin')
      const { library, slotOf } = strangerIn(token)
      library.C_Logout(library.C_OpenSession(slotOf(), 4))
      const calls = (): Promise<unknown>[] => [
        ...Array.from({ length: 20 }, () => store.unwrapBytes(material, aad, part)),
        ...Array.from({ length: 20 }, () => store.wrapBytes(material, aad, text)),
        store.createKeyMaterial(randomBytes(16), 1, AES),
        store.probe(),
      ]
      for (let round = 0; round < 3; round++) {
        for (const call of calls()) {
          await expect(call).rejects.toMatchObject(unreachable)
          await expect(call).rejects.toThrow(/refuses the PIN/)
        }
        library.C_Finalize()
        library.C_Initialize({ flags: 2 })
      }
      expect(loginsOf(token)).toBe(2)
      writeFileSync(token.pinFile, token.pin)
      await expect(store.probe()).rejects.toMatchObject(unreachable)
      await store.close()
      const restarted = await openStore({ module })
      expect(Buffer.from(await restarted.unwrapBytes(material, aad, part))).toEqual(text)
      await restarted.close()
    })

    test('is not tried where one more wrong one would lock the token', async () => {
      const module = withHabits(token, 'final-try')
      const opening = openStore({ module })
      await expect(opening).rejects.toMatchObject(unreachable)
      await expect(opening).rejects.toThrow(/would lock the token/)
      expect(loginsOf(token)).toBe(0)
    })
  })

  describe('says what is wrong', () => {
    test('with the module, the token or the mechanism', async () => {
      for (const [more, code, words] of [
        [{ module: join(token.directory, 'none.so') }, 'CONFIG_INVALID', /none\.so/],
        [{ module: token.pinFile }, 'CONFIG_INVALID', /no PKCS#11 module/],
        [{ token: { label: 'another' } }, 'KEY_STORE_UNREACHABLE', /another/],
        [{ token: { serial: '0000' } }, 'KEY_STORE_UNREACHABLE', /0000/],
        [{ mechanism: 0x80001087 }, 'CONFIG_INVALID', /0x80001087/],
      ] as const) {
        const opening = openStore(more)
        await expect(opening).rejects.toMatchObject({ code })
        await expect(opening).rejects.toThrow(words)
      }
    })

    test('where two tokens have one label, and takes either by its serial number', async () => {
      token.initialize()
      await expect(openStore()).rejects.toMatchObject(invalid)
      const { library } = strangerIn(token)
      library.C_Initialize({ flags: 2 })
      const serials = library
        .C_GetSlotList(true)
        .map((slot) => library.C_GetTokenInfo(slot))
        .filter(({ label }) => label.trimEnd() === token.label)
        .map(({ serialNumber }) => serialNumber)
      library.C_Finalize()
      expect(serials).toHaveLength(2)
      for (const serial of serials) await opensAndServes({ token: { serial } })
    })

    test('where pkcs11js is missing: what to install', async () => {
      const bare = join(token.directory, 'bare')
      mkdirSync(join(bare, 'node_modules'), { recursive: true })
      cpSync(join(ROOT, 'dist'), join(bare, 'dist'), { recursive: true })
      writeFileSync(join(bare, 'package.json'), '{"type":"module"}')
      symlinkSync(join(ROOT, 'node_modules/lru-cache'), join(bare, 'node_modules/lru-cache'))
      const ended = await runScript(bare, 'await openStore()')
      expect(ended.code).toBe(1)
      expect(ended.stderr).toMatch(/CONFIG_INVALID/)
      expect(ended.stderr).toMatch(/install g\+\+, make and python3.*pkcs11js/)
    })
  })

  test('and closing it lets the process end', async () => {
    const ended = await runScript(
      ROOT,
      `const store = await openStore()
      await store.probe()
      await store.close()
      console.log('closed')`,
    )
    expect(ended).toMatchObject({ code: 0, text: 'closed\n', stderr: '' })
  })

  /** In a process of its own, with the dist/ of `root`. */
  function runScript(root: string, script: string) {
    const settings = {
      name: 'hsm',
      module: token.module,
      token: { label: token.label },
      pin: { source: 'file', file: token.pinFile },
    }
    const lines = `
      import { createNodeCrypto } from ${JSON.stringify(join(root, 'dist/crypto/node-crypto.js'))}
      import { openPkcs11KeyStore } from ${JSON.stringify(join(root, 'dist/key-stores/pkcs11.js'))}
      const openStore = () => openPkcs11KeyStore(createNodeCrypto(), ${JSON.stringify(settings)})
      ${script}`
    const file = join(token.directory, 'script.mjs')
    writeFileSync(file, lines)
    return run(process.execPath, [file])
  }

  describe('of another vendor', () => {
    test.each(['sync', 'async'] as const)('whose IV is written in place (%s)', async (calls) => {
      const module = withHabits(token, 'iv-in-place')
      await opensAndServes({ module, ivMode: 'token', calls })
      await expectRefused({ module, ivMode: 'appended', calls })
      await expectRefused({ module, ivMode: 'host', calls })
    })

    test.each(['sync', 'async'] as const)('whose IV is appended (%s)', async (calls) => {
      const module = withHabits(token, 'iv-appended')
      await opensAndServes({ module, ivMode: 'appended', calls })
      await expectRefused({ module, ivMode: 'token', calls })
      await expectRefused({ module, ivMode: 'host', calls })
    })

    test('that would take an IV of zeros for each key is found out at the first', async () => {
      await expectRefused({ ivMode: 'token' })
      await expectRefused({ ivMode: 'appended' })
      expect(token.tool('-O')).toBe('')
    })

    async function expectRefused(more: Partial<Pkcs11Settings>): Promise<void> {
      const store = await openStore(more)
      await expect(make(store)).rejects.toMatchObject({ code: 'OPERATION_UNSUPPORTED' })
      await store.close()
    }

    test('that numbers AES-GCM by itself', async () => {
      const module = withHabits(token, 'vendor-number')
      await opensAndServes({ module, mechanism: 0x80001087 })
      await expect(openStore({ module })).rejects.toMatchObject(invalid)
    })

    test('that grants fewer sessions than were asked for, and does not say how many', async () => {
      const module = withHabits(token, 'sessions-3')
      const store = await openStore({ module, calls: 'async', sessionsMax: 8 })
      const material = await make(store)
      const parts = await Promise.all(
        Array.from({ length: 50 }, () => store.wrapBytes(material, aad, text)),
      )
      for (const part of parts) {
        expect(Buffer.from(await store.unwrapBytes(material, aad, part))).toEqual(text)
      }
      await store.close()
    })

    test('that says of a wrong tag what it is', async () => {
      await opensAndServes({ module: withHabits(token, 'clear-refusal') })
    })

    test.each(['sync', 'async'] as const)(
      'that falls ill while it decrypts: what it does not open then is not called damaged (%s)',
      async (calls) => {
        const store = await openStore({ module: withHabits(token, 'breaks', calls), calls })
        const material = await make(store)
        const part = await store.wrapBytes(material, aad, text)
        for (let i = 0; i < 30; i++) {
          expect(Buffer.from(await store.unwrapBytes(material, aad, part))).toEqual(text)
        }
        await store.close()
      },
    )
  })
})
