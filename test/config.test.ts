/** Flags, environment, file and default: which one counts, and what is said about a value that cannot be. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'

import { clientSettings, loadConfig, takeSecret, type SettingTexts } from '../dist/config.js'
import { flagName, SETTINGS } from '../dist/config/settings.js'
import { KeyfoldError } from '../dist/errors.js'

let directory: string

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'keyfold-config-'))
})
afterAll(() => rmSync(directory, { recursive: true, force: true }))
afterEach(() => {
  vi.unstubAllEnvs()
})

function settingsFile(text: string): string {
  const file = join(directory, 'settings.json')
  writeFileSync(file, text)
  return file
}

function refusal(run: () => unknown): KeyfoldError {
  try {
    run()
  } catch (error) {
    expect(error).toBeInstanceOf(KeyfoldError)
    expect((error as KeyfoldError).code).toBe('CONFIG_INVALID')
    return error as KeyfoldError
  }
  throw new Error('it was accepted')
}

describe('the order of the ways in', () => {
  test('is flag, environment, file, default', () => {
    const file = settingsFile('{"region": "from-file"}')
    vi.stubEnv('KEYFOLD_REGION', 'from-environment')
    expect(loadConfig({ flags: { region: 'from-flag' }, file }).region).toBe('from-flag')
    expect(loadConfig({ file }).region).toBe('from-environment')
    vi.stubEnv('KEYFOLD_REGION', undefined)
    expect(loadConfig({ file }).region).toBe('from-file')
    expect(loadConfig({}).region).toBe('us-east-1')
  })

  test('holds for each setting by itself', () => {
    const file = settingsFile('{"workers": 3, "missBudgetBurst": 7, "logLevel": "warn"}')
    vi.stubEnv('KEYFOLD_MISS_BUDGET_BURST', '8')
    const config = loadConfig({ flags: { logLevel: 'error' }, file })
    expect(config.workers).toBe(3)
    expect(config.missBudget.burst).toBe(8)
    expect(config.logLevel).toBe('error')
  })

  test('takes a flag even where the environment holds nonsense', () => {
    vi.stubEnv('KEYFOLD_WORKERS', 'many')
    expect(loadConfig({ flags: { workers: '1' } }).workers).toBe(1)
    expect(refusal(() => loadConfig({})).message).toContain('KEYFOLD_WORKERS')
  })
})

describe('the names of settings', () => {
  test('are kebab case as flags and upper case in the environment', () => {
    expect(flagName('messageKeyAgeMsMax')).toBe('message-key-age-ms-max')
    const found = SETTINGS.find(({ name }) => name === 'messageKeyAgeMsMax')
    expect(found?.environment).toBe('KEYFOLD_MESSAGE_KEY_AGE_MS_MAX')
  })

  test('are each given once, in all three spellings', () => {
    const spellings = (of: (name: (typeof SETTINGS)[number]) => string): number =>
      new Set(SETTINGS.map(of)).size
    expect(spellings(({ name }) => name)).toBe(SETTINGS.length)
    expect(spellings(({ name }) => flagName(name))).toBe(SETTINGS.length)
    expect(spellings(({ environment }) => environment)).toBe(SETTINGS.length)
  })

  test('that do not exist are refused by name in a file, those of Object among them', () => {
    for (const name of ['wrokers', 'Workers', 'message-key-age-ms-max', 'toString', '__proto__']) {
      const file = settingsFile(`{${JSON.stringify(name)}: "1"}`)
      expect(refusal(() => loadConfig({ file })).message).toContain(`no setting ${name}`)
    }
  })
})

/** The bounds as README and --help promise them, written out. */
const WHOLE_NUMBERS: readonly (readonly [keyof SettingTexts & string, number, number])[] = [
  ['workers', 0, 64],
  ['requestBytesMax', 1_024, 1_073_741_824],
  ['inFlightBytesMax', 1_048_576, 1_099_511_627_776],
  ['messageKeyAgeMsMax', 1, 3_600_000],
  ['messageKeyMessagesMax', 1, 4_294_967_296],
  ['messageKeyBytesMax', 1, 1_125_899_906_842_624],
  ['dataKeyCacheEntries', 1, 3_072],
  ['missBudgetBurst', 1, 2_147_483_648],
  ['missBudgetPerSecond', 1, 2_147_483_648],
]

describe('a whole number', () => {
  test.each(WHOLE_NUMBERS)('%s is taken from %d to %d and no further', (name, least, most) => {
    loadConfig({ flags: { [name]: String(least) } })
    loadConfig({ flags: { [name]: String(most) } })
    for (const value of [least - 1, most + 1]) {
      const { message } = refusal(() => loadConfig({ flags: { [name]: String(value) } }))
      expect(message).toContain(`--${flagName(name)}`)
      expect(message).toContain(String(least))
      expect(message).toContain(String(most))
    }
  })

  test('is nothing but digits', () => {
    const nonsense = ['', ' 2', '2 ', '+2', '-0', '2.0', '2e0', '0x2', '2n', '२', 'NaN', 'Infinity']
    for (const workers of nonsense) refusal(() => loadConfig({ flags: { workers } }))
  })

  test('is told with the variable or the file that it came from', () => {
    vi.stubEnv('KEYFOLD_REQUEST_BYTES_MAX', '1023')
    expect(refusal(() => loadConfig({})).message).toMatch(
      /KEYFOLD_REQUEST_BYTES_MAX: .*1024 to 1073741824/,
    )
    vi.unstubAllEnvs()
    const file = settingsFile('{"requestBytesMax": 1023}')
    expect(refusal(() => loadConfig({ file })).message).toContain(`requestBytesMax in ${file}`)
  })
})

describe('other values', () => {
  test.each([
    ['crypto', 'openssl', 'auto, native, vaes, aesni, node'],
    ['logLevel', 'loud', 'trace, debug, info, warn, error, silent'],
    ['memoryLock', 'yes', 'require, warn'],
    ['rootKeySource', 'stdin', 'file, environment, passphrase'],
    ['allowPlaintext', '1', 'true, false'],
    ['account', '12345678901', '12 digits'],
    ['account', '1234567890123', '12 digits'],
    ['account', '12345678901a', '12 digits'],
    ['account', '123456789012\n', '12 digits'],
    ['region', 'EU-WEST-1', 'region'],
    ['region', '', 'region'],
    ['region', 'a:b', 'region'],
    ['region', 'r'.repeat(33), 'region'],
    ['listen', '127.0.0.1', 'HOST:PORT'],
    ['listen', ':8790', 'HOST:PORT'],
    ['listen', '127.0.0.1:', 'HOST:PORT'],
    ['listen', '127.0.0.1:65536', 'HOST:PORT'],
    ['listen', '127.0.0.1:-1', 'HOST:PORT'],
    ['listen', '::1:8790', 'HOST:PORT'],
  ])('%s refuses %j and says what is needed', (name, value, needed) => {
    const { message } = refusal(() => loadConfig({ flags: { [name]: value } }))
    expect(message).toContain(`--${flagName(name)}`)
    expect(message).toContain(needed)
  })

  test('of listen are a name, an IPv4 or a bracketed IPv6 address with a port', () => {
    const listen = (value: string): unknown => loadConfig({ flags: { listen: value } }).listen
    expect(listen('localhost:1')).toEqual({ host: 'localhost', port: 1 })
    expect(listen('0.0.0.0:65535')).toEqual({ host: '0.0.0.0', port: 65_535 })
    expect(listen('[::1]:0')).toEqual({ host: '::1', port: 0 })
  })

  test('of TLS are needed together', () => {
    for (const flags of [
      { tlsCert: 'cert' },
      { tlsKey: 'key' },
      { clientCa: 'ca' },
      { clientCa: 'ca', tlsCert: 'cert' },
    ]) {
      expect(refusal(() => loadConfig({ flags })).message).toContain('tlsKey')
    }
    expect(loadConfig({ flags: { tlsCert: 'cert', tlsKey: 'key' } }).tls).toEqual({
      certFile: 'cert',
      keyFile: 'key',
      clientCaFile: undefined,
    })
  })
})

describe('the file', () => {
  test('is a JSON object that can be read', () => {
    for (const text of ['', '{', '[]', 'null', '"data"', '7', '{"data": "x"} {}']) {
      const file = settingsFile(text)
      expect(refusal(() => loadConfig({ file })).message).toContain(file)
    }
    const absent = join(directory, 'absent.json')
    expect(refusal(() => loadConfig({ file: absent })).message).toContain(absent)
  })

  test('holds texts, numbers, true and false; lists, maps and null are refused by name', () => {
    const file = settingsFile('{"workers": 4, "region": "eu-west-1", "allowPlaintext": true}')
    const config = loadConfig({ file })
    expect([config.workers, config.region, config.plaintextAllowed]).toEqual([4, 'eu-west-1', true])
    for (const value of ['null', '["eu-west-1"]', '{}', '[]']) {
      for (const name of ['region', 'data', 'rootKeyFile']) {
        const wrong = settingsFile(`{"${name}": ${value}}`)
        expect(refusal(() => loadConfig({ file: wrong })).message).toContain(name)
      }
    }
  })
})

describe('what nobody gave', () => {
  test('is safe: loopback, no plaintext beyond it, the root key in the data directory', () => {
    vi.stubEnv('XDG_DATA_HOME', '/somewhere')
    vi.stubEnv('KEYFOLD_CRYPTO', undefined)
    const config = loadConfig({})
    expect(config.dataDirectory).toBe('/somewhere/keyfold')
    expect(config.rootKey).toEqual({ source: 'file', file: '/somewhere/keyfold/root.key' })
    expect(config.listen.host).toBe('127.0.0.1')
    expect(config.plaintextAllowed).toBe(false)
    expect(config.tls).toBeUndefined()
    expect(config.crypto).toBe('auto')
    expect(Object.isFrozen(config)).toBe(true)
  })

  test('follows the data directory that was given', () => {
    const { rootKey } = loadConfig({ flags: { data: '/elsewhere' } })
    expect(rootKey).toEqual({ source: 'file', file: '/elsewhere/root.key' })
    const flags = { data: '/elsewhere', rootKeyFile: '/mnt/root.key' }
    expect(loadConfig({ flags }).rootKey).toEqual({ source: 'file', file: '/mnt/root.key' })
  })
})

describe('secrets of the environment', () => {
  test('are there once and forgotten', () => {
    vi.stubEnv('KEYFOLD_PASSPHRASE', 'correct horse')
    expect(takeSecret('KEYFOLD_PASSPHRASE')).toBe('correct horse')
    expect(takeSecret('KEYFOLD_PASSPHRASE')).toBeUndefined()
  })

  test('stand in no Config', () => {
    vi.stubEnv('KEYFOLD_ROOT_KEY', 'ab'.repeat(32))
    vi.stubEnv('KEYFOLD_ROOT_KEY_SOURCE', 'environment')
    expect(JSON.stringify(loadConfig({}))).not.toContain('abab')
  })
})

describe('the command line finds a server', () => {
  test('by flag before environment, and asks for a token where there is none', () => {
    vi.stubEnv('KEYFOLD_URL', 'http://environment')
    vi.stubEnv('KEYFOLD_TOKEN', 'from-environment')
    expect(clientSettings({})).toEqual({ url: 'http://environment', token: 'from-environment' })
    expect(clientSettings({ url: 'http://flag', token: 'from-flag' })).toEqual({
      url: 'http://flag',
      token: 'from-flag',
    })
    vi.stubEnv('KEYFOLD_TOKEN', undefined)
    expect(refusal(() => clientSettings({})).message).toContain('KEYFOLD_TOKEN')
  })
})

describe('a password in the URL of the catalog', () => {
  const url = 'postgres://keyfold:hunter2@db.example/keyfold'

  test('is refused as a flag, which everyone on the machine can read, and is not repeated', () => {
    const { message } = refusal(() => loadConfig({ flags: { catalog: url } }))
    expect(message).toContain('--catalog')
    expect(message).not.toContain('hunter2')
  })

  test('is taken from the environment and forgotten there, and no print of the configuration has it', () => {
    vi.stubEnv('KEYFOLD_CATALOG', url)
    const config = loadConfig({})
    expect(process.env['KEYFOLD_CATALOG']).toBeUndefined()
    expect(config.catalog?.password()).toBe('hunter2')
    for (const printed of [JSON.stringify(config), inspect(config, { depth: 9 })]) {
      expect(printed).toContain('db.example')
      expect(printed).not.toContain('hunter2')
    }
  })

  test('is not repeated when the rest of the URL is wrong', () => {
    vi.stubEnv('KEYFOLD_CATALOG', `${url}?sslmode=prefer`)
    const { message } = refusal(() => loadConfig({}))
    expect(message).toContain('KEYFOLD_CATALOG')
    expect(message).not.toContain('hunter2')
  })

  test('may stand in a file instead, which is read whenever it is needed', () => {
    const file = join(directory, 'password')
    writeFileSync(file, 'first\n')
    const catalog = 'postgres://keyfold@db.example/keyfold'
    const config = loadConfig({ flags: { catalog, catalogPasswordFile: file } })
    expect(config.catalog?.password()).toBe('first')
    writeFileSync(file, 'second\n')
    expect(config.catalog?.password()).toBe('second')
  })
})
