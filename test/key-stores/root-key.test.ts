/** The root key: from file, environment and passphrase, and every way in which it can be the wrong one. */
import { randomBytes, scryptSync } from 'node:crypto'
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'

import { loadConfig, type Config, type SettingTexts } from '../../dist/config.js'
import type { Crypto } from '../../dist/crypto/crypto.js'
import { KeyfoldError } from '../../dist/errors.js'
import { firstNewRootKey, readRootKey } from '../../dist/key-stores/root-key.js'
import { implementations } from '../crypto/implementations.ts'

let directory: string

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'keyfold-root-key-'))
})
afterEach(() => {
  vi.unstubAllEnvs()
  rmSync(directory, { recursive: true, force: true })
})

const configOf = (flags: SettingTexts = {}): Config =>
  loadConfig({ flags: { data: directory, ...flags } })
const fileOf = (name: string): string => join(directory, name)

const createRootKey = async (config: Config, crypto: Crypto): Promise<void> =>
  (await firstNewRootKey(config, crypto)).keep()

async function codeOf(run: () => Promise<unknown>): Promise<string> {
  try {
    await run()
  } catch (error) {
    expect(error).toBeInstanceOf(KeyfoldError)
    return (error as KeyfoldError).code
  }
  return 'accepted'
}

describe.each(implementations)('the root key on $implementation', (crypto) => {
  const read = async (flags?: SettingTexts): Promise<Buffer> =>
    Buffer.from(await readRootKey(configOf(flags), crypto))
  const slotsInUse = (): number => crypto.keyTableUsage().slotsUsed

  test('of a file is 32 random bytes, the same at every start', async () => {
    await createRootKey(configOf(), crypto)
    const text = readFileSync(fileOf('root.key'), 'utf8')
    expect(text).toMatch(/^[0-9a-f]{64}\n$/)
    expect((await read()).toString('hex')).toBe(text.trim())
    await createRootKey(configOf(), crypto)
    expect(readFileSync(fileOf('root.key'), 'utf8')).toBe(text)
    expect((await read()).toString('hex')).toBe(text.trim())
  })

  test('of a file is read in upper case and without the newline as well', async () => {
    await createRootKey(configOf(), crypto)
    const text = readFileSync(fileOf('root.key'), 'utf8').trim()
    writeFileSync(fileOf('root.key'), text.toUpperCase())
    expect((await read()).toString('hex')).toBe(text)
  })

  test('in a file that is not 64 hex digits is refused, and the file is named but not shown', async () => {
    await createRootKey(configOf(), crypto)
    const good = readFileSync(fileOf('root.key'), 'latin1').trim()
    const wrong = [
      '',
      '\n',
      good.slice(1),
      good.slice(2),
      `${good}0`,
      `${good}00`,
      ` ${good}`,
      `${good}\n\n`,
      `${good}\r\n`,
      `0x${good.slice(2)}`,
      `${good.slice(1)}g`,
      `${good.slice(1)}\0`,
      // These bytes differ from '0' … '9' in one bit only.
      ...Array.from({ length: 10 }, (_, i) => `${good.slice(1)}${String.fromCharCode(0x10 + i)}`),
      Buffer.from(good, 'hex').toString('latin1'),
    ]
    const slots = slotsInUse()
    for (const text of wrong) {
      writeFileSync(fileOf('root.key'), text, 'latin1')
      try {
        await read()
        expect.unreachable(JSON.stringify(text))
      } catch (error) {
        expect((error as KeyfoldError).code, JSON.stringify(text)).toBe('CONFIG_INVALID')
        expect((error as KeyfoldError).message).toContain(fileOf('root.key'))
        expect((error as KeyfoldError).message).not.toContain(good.slice(8, 24))
      }
    }
    expect(slotsInUse()).toBe(slots)
  })

  test('in a file that others can use in any way is refused with the remedy', async () => {
    await createRootKey(configOf(), crypto)
    for (const mode of [0o604, 0o602, 0o601, 0o640, 0o620, 0o610, 0o644, 0o777]) {
      chmodSync(fileOf('root.key'), mode)
      await expect(read()).rejects.toThrow(`chmod 600 ${fileOf('root.key')}`)
      expect(await codeOf(read)).toBe('CONFIG_INVALID')
    }
    for (const mode of [0o600, 0o400]) {
      chmodSync(fileOf('root.key'), mode)
      expect(await read()).toHaveLength(32)
    }
  })

  test('that differs in one bit is told at once, and leaves nothing in the key table', async () => {
    await createRootKey(configOf(), crypto)
    const good = await read()
    const slots = slotsInUse()
    for (const bit of [0, 7, 100, 255]) {
      const wrong = Buffer.from(good)
      wrong.writeUInt8(wrong.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3)
      writeFileSync(fileOf('root.key'), wrong.toString('hex'))
      expect(await codeOf(read)).toBe('ROOT_KEY_INVALID')
      expect(await codeOf(() => createRootKey(configOf(), crypto))).toBe('ROOT_KEY_INVALID')
    }
    expect(slotsInUse()).toBe(slots)
  })

  test('does not pass a check file that was changed, cut, lengthened or is another directory’s', async () => {
    await createRootKey(configOf(), crypto)
    const check = readFileSync(fileOf('root.check'), 'utf8')
    expect(Buffer.from(check, 'hex')).toHaveLength(check.length / 2)
    const wrong = [
      '',
      'no hex at all',
      check.slice(2),
      check.slice(0, -2),
      `${check}00`,
      `${check}${check}`,
      '00'.repeat(check.length / 2),
    ]
    for (let byte = 0; byte < check.length / 2; byte++) {
      const changed = Buffer.from(check, 'hex')
      changed.writeUInt8(changed.readUInt8(byte) ^ 0x80, byte)
      wrong.push(changed.toString('hex'))
    }
    const slots = slotsInUse()
    for (const text of wrong) {
      writeFileSync(fileOf('root.check'), text)
      expect(await codeOf(read), JSON.stringify(text)).toBe('ROOT_KEY_INVALID')
    }
    expect(slotsInUse()).toBe(slots)

    rmSync(fileOf('root.check'))
    const good = readFileSync(fileOf('root.key'))
    rmSync(fileOf('root.key'))
    await createRootKey(configOf(), crypto)
    writeFileSync(fileOf('root.key'), good)
    expect(await codeOf(read)).toBe('ROOT_KEY_INVALID')
  })

  test('is not served without its check file: init has to have been there', async () => {
    await createRootKey(configOf(), crypto)
    rmSync(fileOf('root.check'))
    await expect(read()).rejects.toThrow('keyfold init')
    expect(await codeOf(read)).toBe('CONFIG_INVALID')
  })

  test('of the environment is those 64 digits, once', async () => {
    const digits = randomBytes(32).toString('hex')
    const flags = { rootKeySource: 'environment' }
    vi.stubEnv('KEYFOLD_ROOT_KEY', digits)
    await createRootKey(configOf(flags), crypto)
    vi.stubEnv('KEYFOLD_ROOT_KEY', digits)
    expect((await read(flags)).toString('hex')).toBe(digits)
    // It was taken out of the environment, and does not come from anywhere else.
    await expect(read(flags)).rejects.toThrow('set KEYFOLD_ROOT_KEY')
    for (const text of ['', digits.slice(1), `${digits}0`, `${digits.slice(1)}g`, ` ${digits}`]) {
      vi.stubEnv('KEYFOLD_ROOT_KEY', text)
      expect(await codeOf(() => read(flags))).toBe('CONFIG_INVALID')
    }
    vi.stubEnv('KEYFOLD_ROOT_KEY', randomBytes(32).toString('hex'))
    expect(await codeOf(() => read(flags))).toBe('ROOT_KEY_INVALID')
    expect(existsSync(fileOf('root.key'))).toBe(false)
  })
})

// One implementation is enough: scrypt is Node's, and a guess takes a few hundred ms.
describe('the root key of a passphrase', () => {
  const crypto = implementations.at(-1) as (typeof implementations)[number]
  const flags = { rootKeySource: 'passphrase' }
  const withPassphrase = (passphrase: string): Promise<Uint8Array> => {
    vi.stubEnv('KEYFOLD_PASSPHRASE', passphrase)
    return readRootKey(configOf(flags), crypto)
  }
  const create = (passphrase: string): Promise<void> => {
    vi.stubEnv('KEYFOLD_PASSPHRASE', passphrase)
    return createRootKey(configOf(flags), crypto)
  }

  test('is scrypt with N = 2^17, r = 8, p = 1 of its NFC spelling', async () => {
    await create('caf\u00e9')
    const salt = Buffer.from(readFileSync(fileOf('root.salt'), 'utf8'), 'hex')
    expect(salt).toHaveLength(16)
    const expected = scryptSync('caf\u00e9', salt, 32, {
      N: 131_072,
      r: 8,
      p: 1,
      maxmem: 268_435_456,
    })
    expect(Buffer.from(await withPassphrase('cafe\u0301'))).toEqual(expected)
  })

  test('is wrong for every other passphrase and for another salt', async () => {
    await create('correct horse')
    for (const wrong of ['correct hors', 'Correct horse', 'correct horse ']) {
      expect(await codeOf(() => withPassphrase(wrong))).toBe('ROOT_KEY_INVALID')
    }
    expect(await codeOf(() => withPassphrase(''))).toBe('CONFIG_INVALID')
    writeFileSync(fileOf('root.salt'), '00'.repeat(16))
    expect(await codeOf(() => withPassphrase('correct horse'))).toBe('ROOT_KEY_INVALID')
  })

  test('is not made of a salt that is empty, cut or no hex, not even by init', async () => {
    for (const salt of ['', '\n', '00', '00'.repeat(15), '00'.repeat(17), `${'00'.repeat(15)}zz`]) {
      writeFileSync(fileOf('root.salt'), salt)
      expect(await codeOf(() => create('correct horse')), JSON.stringify(salt)).toBe(
        'CONFIG_INVALID',
      )
    }
  })

  test('is not made where init has not been', async () => {
    await expect(withPassphrase('correct horse')).rejects.toThrow('keyfold init')
  })
})
