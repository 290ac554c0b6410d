/**
 * The PKCS#11 modules of this node: a JSON file, by the names that key stores call them by. It is read whole and checked
 * whole, so that a slip in it is told when the server starts and not when a key store connects.
 */
import { readFileSync } from 'node:fs'

/** Where a PIN comes from (key-stores/pkcs11/pin.ts). */
type Pkcs11Pin =
  | { readonly source: 'file'; readonly file: string }
  | { readonly source: 'environment'; readonly name: string }
  | { readonly source: 'command'; readonly command: string }

/** A PKCS#11 module as its file has it. It runs in this process: nobody but who configures the server names one. */
export interface Pkcs11Module {
  /** The shared library. */
  readonly library: string
  readonly token:
    { readonly label: string } | { readonly serial: string } | { readonly slot: number }
  /** Where the key store brings none. */
  readonly pin?: Pkcs11Pin
  readonly ivMode?: 'host' | 'token' | 'appended'
  readonly random?: 'host' | 'token'
  readonly mechanism?: number
  readonly calls?: 'sync' | 'async'
  readonly sessionsMax?: number
}

const MODULE_NAME_PATTERN = /^[A-Za-z0-9_-]{1,64}$/

export function readPkcs11Modules(file: string): Readonly<Record<string, Pkcs11Module>> {
  let parsed: unknown
  try {
    parsed = JSON.parse(readFileSync(file, 'utf8'))
  } catch (cause) {
    throw new Error(`${file} is not a readable JSON file`, { cause })
  }
  if (!isObject(parsed)) throw new Error(`${file} holds no JSON object`)
  for (const [name, module] of Object.entries(parsed)) {
    if (!MODULE_NAME_PATTERN.test(name)) throw new Error(`${file}: ${name} is no name of a module`)
    checkModule(`${file}: ${name}`, module)
  }
  return parsed as Readonly<Record<string, Pkcs11Module>>
}

const isText = (value: unknown): boolean => typeof value === 'string' && value !== ''
const isCount = (value: unknown): boolean => Number.isInteger(value) && (value as number) >= 0
const isOneOf =
  (...allowed: readonly string[]) =>
  (value: unknown): boolean =>
    allowed.some((candidate) => candidate === value)

/** What each may be, and what is said otherwise. */
const MODULE_SETTINGS: Readonly<
  Record<keyof Pkcs11Module, readonly [isValid: (value: unknown) => boolean, needed: string]>
> = {
  library: [isText, 'a file'],
  token: [isTokenName, 'one of label, serial and slot'],
  pin: [isPin, 'source file, environment or command, with file, name or command'],
  ivMode: [isOneOf('host', 'token', 'appended'), 'host, token or appended'],
  random: [isOneOf('host', 'token'), 'host or token'],
  mechanism: [isCount, 'a number'],
  calls: [isOneOf('sync', 'async'), 'sync or async'],
  sessionsMax: [isCount, 'a number'],
}

function checkModule(where: string, module: unknown): void {
  if (!isObject(module)) throw new Error(`${where} is no JSON object`)
  for (const name of ['library', 'token'] as const) {
    if (module[name] === undefined) throw new Error(`${where}.${name} is missing`)
  }
  for (const [name, value] of Object.entries(module)) {
    if (!Object.hasOwn(MODULE_SETTINGS, name)) throw new Error(`${where}.${name} is no setting`)
    const [isValid, needed] = MODULE_SETTINGS[name as keyof Pkcs11Module]
    if (!isValid(value)) throw new Error(`${where}.${name}: ${needed} is needed`)
  }
}

function isTokenName(value: unknown): boolean {
  if (!isObject(value)) return false
  const [[name, given] = ['', undefined], ...others] = Object.entries(value)
  if (others.length > 0) return false
  return name === 'slot' ? isCount(given) : ['label', 'serial'].includes(name) && isText(given)
}

function isPin(value: unknown): boolean {
  if (!isObject(value)) return false
  const member = { file: 'file', environment: 'name', command: 'command' }[String(value['source'])]
  return member !== undefined && isText(value[member]) && Object.keys(value).length === 2
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
