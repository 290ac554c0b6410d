/**
 * SoftHSM2, the real token of these tests, and pkcs11-tool, a program of others that looks into it. Where either is
 * missing a test skips and says so, and fails in CI.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'

import {
  loadCryptoki,
  type Cryptoki,
  type Handle,
  type Mechanism,
} from '../../dist/key-stores/pkcs11/cryptoki.js'

const ROOT = join(import.meta.dirname, '../..')
const MODULES = [
  '/usr/lib/softhsm/libsofthsm2.so',
  '/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so',
  '/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so',
]
const module = MODULES.find((path) => existsSync(path))
const missing = [
  ...(module === undefined || spawnSync('softhsm2-util', ['-v']).error !== undefined
    ? ['install softhsm2']
    : []),
  ...(spawnSync('pkcs11-tool', ['--version']).error === undefined ? [] : ['install opensc']),
  ...(spawnSync('g++', ['--version']).error === undefined ? [] : ['install g++']),
  ...(hasPkcs11js() ? [] : ['install g++, make and python3, and rebuild']),
]

function hasPkcs11js(): boolean {
  try {
    createRequire(import.meta.url)('pkcs11js')
    return true
  } catch {
    return false
  }
}

export interface SoftToken {
  readonly module: string
  /** The directory that holds every token of the configuration: moved away, they are gone. */
  readonly tokens: string
  readonly directory: string
  readonly label: string
  readonly pin: string
  readonly pinFile: string
  /** One more token of the same label. */
  initialize(): void
  /** One of this label, whose user has no PIN. */
  initializeBare(label: string): void
  /** What pkcs11-tool prints, logged in. */
  tool(...words: readonly string[]): string
  /** Takes the directory away. */
  remove(): void
}

/**
 * SoftHSM with the habits of another vendor (vendor-token.cc): the path of the module. It is compiled anew for each
 * call, since a module that is loaded once stays as it was.
 */
export function withHabits(token: SoftToken, ...habits: readonly string[]): string {
  process.env['VENDOR_MODULE'] = token.module
  process.env['VENDOR_HABITS'] = habits.join(' ')
  process.env['VENDOR_LOGINS'] = join(token.directory, 'logins')
  process.env['VENDOR_HANG'] = join(token.directory, 'hang')
  const file = join(token.directory, `vendor-token-${habits.join('-')}.so`)
  const includes = join(ROOT, 'node_modules/pkcs11js/includes')
  const source = join(import.meta.dirname, 'vendor-token.cc')
  const flags = ['-std=c++17', '-Wall', '-Wextra', '-Werror', '-shared', '-fPIC']
  run('g++', [...flags, '-I', includes, '-o', file, source])
  return file
}

/** How often C_Login was called in a module that withHabits made. */
export function loginsOf(token: SoftToken): number {
  const file = join(token.directory, 'logins')
  return existsSync(file) ? readFileSync(file).length : 0
}

/** What hangs in a module that withHabits made with `hangs`. */
export function hangsOf(token: SoftToken): {
  readonly begin: () => void
  readonly end: () => void
  /** How many calls have hung, those that returned meanwhile included. */
  readonly count: () => number
} {
  const file = join(token.directory, 'hang')
  const held = `${file}.held`
  return {
    begin: () => writeFileSync(file, ''),
    end: () => rmSync(file, { force: true }),
    count: () => (existsSync(held) ? readFileSync(held).length : 0),
  }
}

interface Library extends Cryptoki {
  C_CloseAllSessions(slot: Handle): void
  C_DigestInit(session: Handle, mechanism: Mechanism): void
  C_Logout(session: Handle): void
}

/** The same library, in the hands of somebody else in the process. */
export function strangerIn(token: SoftToken): {
  readonly library: Library
  readonly slotOf: () => Handle
} {
  const library = loadCryptoki(token.module) as Library
  const slotOf = (): Handle => {
    const slots = library.C_GetSlotList(true)
    const slot = slots.find((one) => library.C_GetTokenInfo(one).label.trimEnd() === token.label)
    if (slot === undefined) throw new Error('the token is gone')
    return slot
  }
  return { library, slotOf }
}

export const PIN = '27182818'

/** Where all that is needed is there, or CI says that it has to be. */
export function describeWithSoftHsm(title: string, run: (create: () => SoftToken) => void): void {
  if (missing.length > 0) {
    const skipped = `${title} (${missing.join(', ')})`
    if (process.env['CI'] === undefined) test.skip(skipped, () => undefined)
    else test(skipped, () => expect(missing).toEqual([]))
    return
  }
  describe(title, () => run(createToken))
}

/**
 * A token in a directory of its own, which SOFTHSM2_CONF names from here on: SoftHSM reads it whenever it is
 * initialised, so no store may be open.
 */
function createToken(): SoftToken {
  const directory = mkdtempSync(join(tmpdir(), 'keyfold-softhsm-'))
  const tokens = join(directory, 'tokens')
  mkdirSync(tokens)
  const configuration = join(directory, 'softhsm2.conf')
  writeFileSync(configuration, `directories.tokendir = ${tokens}\nlog.level = ERROR\n`)
  const pinFile = join(directory, 'pin')
  writeFileSync(pinFile, `${PIN}\n`)
  process.env['SOFTHSM2_CONF'] = configuration
  const label = 'keyfold-tests'
  const initialize = (): void => {
    run('softhsm2-util', [
      ...['--init-token', '--free', '--label', label],
      ...['--pin', PIN, '--so-pin', '31415926'],
    ])
  }
  initialize()
  const path = module as string
  const tool = (...words: readonly string[]): string =>
    run('pkcs11-tool', ['--module', path, '--token-label', label, '--pin', PIN, ...words])
  return {
    module: path,
    tokens,
    directory,
    label,
    pin: PIN,
    pinFile,
    initialize,
    initializeBare: (bare) => {
      // The slot that is free is the last one.
      run('pkcs11-tool', [
        ...['--module', path, '--slot-index', '1', '--init-token'],
        ...['--label', bare, '--so-pin', '31415926'],
      ])
    },
    tool,
    remove: () => rmSync(directory, { recursive: true, force: true }),
  }
}

function run(program: string, words: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(program, words, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} ${words.join(' ')}: ${stderr}${stdout}`)
  return stdout
}
