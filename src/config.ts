/**
 * Flags, environment and file become one frozen Config. The only reader of process.env.
 * Order: flags, then environment (KEYFOLD_*), then the file, then the default.
 */
import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'

import { KeyfoldError } from './errors.ts'
import { parseCatalogUrl, type CatalogUrl } from './format/catalog-url.ts'
import {
  AUDIT_FILE_BYTES_DEFAULT,
  AUDIT_GROUP_RECORDS_MAX,
  AUDIT_SPILL_RECORDS_DEFAULT,
  DATA_KEY_CACHE_ENTRIES_DEFAULT,
  IN_FLIGHT_BYTES_DEFAULT,
  KEY_TABLE_SLOTS,
  MESSAGE_KEY_AGE_MS_DEFAULT,
  MESSAGE_KEY_AGE_MS_MAX,
  MESSAGE_KEY_BYTES_DEFAULT,
  MESSAGE_KEY_BYTES_MAX,
  MESSAGE_KEY_MESSAGES_DEFAULT,
  MESSAGE_KEY_MESSAGES_MAX,
  MISS_BUDGET_BURST_DEFAULT,
  MISS_BUDGET_PER_SECOND_DEFAULT,
  REQUEST_BYTES_MAX_DEFAULT,
} from './limits.ts'

export interface Config {
  /** Directory of catalog, root key and logs. */
  readonly dataDirectory: string
  /** Where a shared catalog is; undefined: it is a file in the data directory, and this is the only node. */
  readonly catalog:
    | (Omit<CatalogUrl, 'password'> & {
        /** Asked at each new connection, for a file may change; a function, for nobody prints those. */
        readonly password: () => string | undefined
      })
    | undefined
  readonly listen: { readonly host: string; readonly port: number }
  /** Listening beyond loopback without TLS has to be asked for. */
  readonly plaintextAllowed: boolean
  readonly tls:
    | {
        readonly certFile: string
        readonly keyFile: string
        /** Client certificates: where given, a missing one is refused. */
        readonly clientCaFile: string | undefined
      }
    | undefined
  /** Common names of clients that may use this server as an external key store proxy; empty: any that it lets in. */
  readonly xksClientNames: readonly string[]
  readonly region: string
  /** Regions in which this server keeps keys besides: multi-Region keys are replicated to them. */
  readonly otherRegions: readonly string[]
  readonly account: string
  /** Where the root key comes from. */
  readonly rootKey:
    | { readonly source: 'file'; readonly file: string }
    | { readonly source: 'environment' }
    | { readonly source: 'passphrase' }
    | { readonly source: 'sealed' }
    /** Files of shares, `-` for stdin; none: KEYFOLD_ROOT_KEY_SHARES. */
    | { readonly source: 'shares'; readonly files: readonly string[] }
  /** Says which key store seals the root key, where one does. */
  readonly rootKeyStoreFile: string
  /** KEYFOLD_CRYPTO: one implementation, `native` (any native one, or refuse to start), or the best there is. */
  readonly crypto: 'vaes' | 'aesni' | 'node' | 'native' | 'auto'
  readonly memoryLock: 'require' | 'warn'
  /** Worker threads for large batches; 0 does everything inline. */
  readonly workers: number
  readonly requestBytesMax: number
  readonly inFlightBytesMax: number
  readonly messageKey: {
    readonly ageMsMax: number
    readonly messagesMax: number
    readonly bytesMax: number
  }
  readonly dataKeyCacheEntries: number
  /** Key material is rotated once it was used for so many messages; undefined: by time and on demand only. */
  readonly rotateAfterMessages: number | undefined
  readonly missBudget: { readonly burst: number; readonly perSecond: number }
  /** PKCS#11 modules of this node, by the names that key stores call them by. */
  readonly pkcs11Modules: Readonly<Record<string, Pkcs11Module>>
  readonly audit: {
    /** bounded: records are durable a moment after the answer; strict: before it; off: there are none. */
    readonly mode: 'off' | 'bounded' | 'strict'
    readonly directory: string
    /** Records that wait in memory before requests are refused. */
    readonly spillRecordsMax: number
    readonly fileBytesMax: number
  }
  readonly logLevel: 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'silent'
}

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

/** One setting: its name on all three ways in, and how its text becomes a value. */
interface Setting {
  /** In the file, and as a flag after `--` in kebab case. */
  readonly name: string
  readonly environment: string
  readonly help: string
  readonly parse: (text: string) => unknown
  /** Of a value that may not stand among the flags, which everyone on the machine can read, nor stay in the environment. */
  readonly isSecret?: (value: never) => boolean
}

const text = (value: string): string => value

function whole(least: number, most: number): (value: string) => number {
  return (value) => {
    const number = Number(value)
    if (!/^\d+$/.test(value) || number < least || number > most) {
      throw new Error(`a whole number from ${least} to ${most} is needed`)
    }
    return number
  }
}

function oneOf<T extends string>(...allowed: readonly T[]): (value: string) => T {
  return (value) => {
    const found = allowed.find((candidate) => candidate === value)
    if (found === undefined) throw new Error(`one of ${allowed.join(', ')} is needed`)
    return found
  }
}

function pattern(expression: RegExp, what: string): (value: string) => string {
  return (value) => {
    if (!expression.test(value)) throw new Error(`${what} is needed`)
    return value
  }
}

function list<T>(parse: (value: string) => T): (value: string) => readonly T[] {
  return (value) => value.split(',').map((part) => parse(part.trim()))
}

function address(value: string): { host: string; port: number } {
  const match = /^(?:\[(.+)\]|([^:]+)):(\d{1,5})$/.exec(value)
  const host = match?.[1] ?? match?.[2]
  const port = Number(match?.[3])
  if (host === undefined || port > 65_535) throw new Error('HOST:PORT is needed')
  return { host, port }
}

const MODULE_NAME_PATTERN = /^[A-Za-z0-9_-]{1,64}$/

function pkcs11Modules(file: string): Readonly<Record<string, Pkcs11Module>> {
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

const CRYPTO = ['auto', 'native', 'vaes', 'aesni', 'node'] as const
const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const

/** Every setting there is: the flags of `keyfold serve`, KEYFOLD_… variables, and keys of the file. */
export const SETTINGS = [
  setting('data', 'data directory ($XDG_DATA_HOME/keyfold, or ~/.local/share/keyfold)', text),
  {
    ...setting(
      'catalog',
      'postgres://USER@HOST/DATABASE, which several nodes share; embedded: a file in the data directory (embedded)',
      (value) => (value === 'embedded' ? undefined : parseCatalogUrl(value)),
    ),
    isSecret: (url: CatalogUrl | undefined) => url?.password !== undefined,
  },
  setting('catalogPasswordFile', 'file of the password of the shared catalog', text),
  setting('listen', 'HOST:PORT (127.0.0.1:8790); beyond loopback TLS is needed', address),
  setting('allowPlaintext', 'true: listen beyond loopback without TLS', oneOf('true', 'false')),
  setting('tlsCert', 'file of the certificate chain, PEM', text),
  setting('tlsKey', 'file of the private key, PEM', text),
  setting('clientCa', 'file of CA certificates; clients must show one of theirs', text),
  setting(
    'xksClientName',
    'common names, comma-separated, of client certificates that may use the XKS proxy API (any), ' +
      'such as cks.kms.us-east-1.amazonaws.com; needs clientCa',
    list(pattern(/^[\w.*-]{1,253}$/, 'a common name')),
  ),
  setting(
    'region',
    'stands in every ARN (us-east-1); frozen when the catalog is created',
    pattern(/^[a-z0-9-]{1,32}$/, 'a region name'),
  ),
  setting(
    'otherRegions',
    'further regions, comma-separated, that requests may be signed for and keys replicated to',
    list(pattern(/^[a-z0-9-]{1,32}$/, 'a region name')),
  ),
  setting(
    'account',
    'stands in every ARN (000000000000); frozen when the catalog is created',
    pattern(/^\d{12}$/, 'an account id of 12 digits'),
  ),
  setting(
    'rootKeySource',
    'file (the default), environment (KEYFOLD_ROOT_KEY), passphrase (KEYFOLD_PASSPHRASE), sealed or shares',
    oneOf('file', 'environment', 'passphrase', 'sealed', 'shares'),
  ),
  setting('rootKeyFile', 'file of the root key; root.key in the data directory by default', text),
  setting(
    'rootKeyStore',
    'file that names the key store that seals the root key; root-store.json in the data directory',
    text,
  ),
  setting(
    'rootKeyShareFiles',
    'files of shares of the root key, comma-separated, - for stdin; otherwise KEYFOLD_ROOT_KEY_SHARES',
    list(text),
  ),
  setting('crypto', `one of ${CRYPTO.join(', ')} (auto)`, oneOf(...CRYPTO)),
  setting(
    'memoryLock',
    'require: refuse to start unless keys can be locked in memory (warn)',
    oneOf('require', 'warn'),
  ),
  setting('workers', 'threads for large batches (2); 0: none', whole(0, 64)),
  setting(
    'requestBytesMax',
    `bytes of the longest request (${REQUEST_BYTES_MAX_DEFAULT})`,
    whole(1_024, 2 ** 30),
  ),
  setting(
    'inFlightBytesMax',
    `bytes of requests and responses held at one moment (${IN_FLIGHT_BYTES_DEFAULT})`,
    whole(2 ** 20, 2 ** 40),
  ),
  setting(
    'messageKeyAgeMsMax',
    `milliseconds that a message key seals for (${MESSAGE_KEY_AGE_MS_DEFAULT})`,
    whole(1, MESSAGE_KEY_AGE_MS_MAX),
  ),
  setting(
    'messageKeyMessagesMax',
    `messages that a message key seals (${MESSAGE_KEY_MESSAGES_DEFAULT})`,
    whole(1, MESSAGE_KEY_MESSAGES_MAX),
  ),
  setting(
    'messageKeyBytesMax',
    `bytes that a message key seals (${MESSAGE_KEY_BYTES_DEFAULT})`,
    whole(1, MESSAGE_KEY_BYTES_MAX),
  ),
  setting(
    'dataKeyCacheEntries',
    `message keys kept, for sealing and opening each (${DATA_KEY_CACHE_ENTRIES_DEFAULT})`,
    whole(1, KEY_TABLE_SLOTS / 4),
  ),
  setting(
    'rotateAfterMessages',
    'rotate the key material of a KMS key once it was used for so many messages (never)',
    whole(1, Number.MAX_SAFE_INTEGER),
  ),
  setting(
    'missBudgetBurst',
    `data keys that one principal may miss at once (${MISS_BUDGET_BURST_DEFAULT})`,
    whole(1, 2 ** 31),
  ),
  setting(
    'missBudgetPerSecond',
    `and in the long run (${MISS_BUDGET_PER_SECOND_DEFAULT})`,
    whole(1, 2 ** 31),
  ),
  setting(
    'pkcs11Modules',
    'JSON file of the PKCS#11 modules of this node: {NAME: {"library": FILE, …}}',
    pkcs11Modules,
  ),
  setting(
    'audit',
    'bounded: records reach the disk soon after the answer; strict: before it; off (bounded)',
    oneOf('off', 'bounded', 'strict'),
  ),
  setting('auditDirectory', 'directory of the audit log; audit in the data directory', text),
  setting(
    'auditSpillRecordsMax',
    'audit records that wait in memory for the disk before requests are refused',
    whole(AUDIT_GROUP_RECORDS_MAX, 2 ** 24),
  ),
  setting('auditFileBytesMax', 'size at which an audit file is finished', whole(2 ** 16, 2 ** 32)),
  setting('logLevel', `one of ${LOG_LEVELS.join(', ')} (info)`, oneOf(...LOG_LEVELS)),
] as const satisfies readonly Setting[]

function setting<N extends string, T>(name: N, help: string, parse: (value: string) => T) {
  return { name, environment: environmentName(name), help, parse }
}

function environmentName(name: string): string {
  return `KEYFOLD_${name.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`
}

/** What flags or a file give: texts by the names in SETTINGS. */
export type SettingTexts = Readonly<Partial<Record<(typeof SETTINGS)[number]['name'], string>>>

type NamedSetting = Setting & Pick<(typeof SETTINGS)[number], 'name'>

type Values = { [S in (typeof SETTINGS)[number] as S['name']]?: ReturnType<S['parse']> }

/** Throws CONFIG_INVALID, naming the setting and where it was given. */
export function loadConfig(options: {
  readonly flags?: SettingTexts
  /** A JSON file of settings. */
  readonly file?: string | undefined
}): Config {
  const fromFile = options.file === undefined ? {} : readSettingsFile(options.file)
  const values: Record<string, unknown> = {}
  for (const { name, environment, parse, isSecret } of SETTINGS as readonly NamedSetting[]) {
    const flag = given(options.flags?.[name], `--${flagName(name)}`)
    const found =
      flag ??
      given(process.env[environment], environment) ??
      given(fromFile[name], `${name} in ${options.file ?? ''}`)
    if (found === undefined) continue
    try {
      values[name] = parse(found.value)
    } catch (error) {
      throw new KeyfoldError('CONFIG_INVALID', `${found.where}: ${(error as Error).message}`)
    }
    if (isSecret?.(values[name] as never) !== true) continue
    delete process.env[environment]
    if (found !== flag) continue
    throw new KeyfoldError(
      'CONFIG_INVALID',
      `${found.where}: everyone on this machine can read it: ` +
        `give the password by a file, by ${environment} or in --config`,
    )
  }
  return configOf(values as Values)
}

/** `dataKeyCacheEntries` → `data-key-cache-entries`. */
export function flagName(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
}

function given(
  value: string | undefined,
  where: string,
): { readonly value: string; readonly where: string } | undefined {
  return value === undefined ? undefined : { value, where }
}

function readSettingsFile(file: string): Record<string, string> {
  let parsed: unknown
  try {
    parsed = JSON.parse(readFileSync(file, 'utf8'))
  } catch (cause) {
    throw new KeyfoldError('CONFIG_INVALID', `${file} is not a readable JSON file`, cause)
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new KeyfoldError('CONFIG_INVALID', `${file} holds no JSON object`)
  }
  const names = new Set<string>(SETTINGS.map(({ name }) => name))
  return Object.fromEntries(
    Object.entries(parsed).map(([name, value]) => {
      if (!names.has(name)) {
        throw new KeyfoldError('CONFIG_INVALID', `${file}: there is no setting ${name}`)
      }
      if (!['string', 'number', 'boolean'].includes(typeof value)) {
        throw new KeyfoldError('CONFIG_INVALID', `${name} in ${file}: one value is needed`)
      }
      return [name, String(value)]
    }),
  )
}

function configOf(values: Values): Config {
  const dataDirectory = values.data ?? defaultDataDirectory()
  return Object.freeze<Config>({
    dataDirectory,
    catalog: catalogOf(values),
    listen: values.listen ?? { host: '127.0.0.1', port: 8790 },
    plaintextAllowed: values.allowPlaintext === 'true',
    tls: tlsOf(values),
    xksClientNames: values.xksClientName ?? [],
    region: values.region ?? 'us-east-1',
    otherRegions: (values.otherRegions ?? []).filter((region) => region !== values.region),
    account: values.account ?? '000000000000',
    rootKey: rootKeyOf(values, dataDirectory),
    rootKeyStoreFile: values.rootKeyStore ?? join(dataDirectory, 'root-store.json'),
    crypto: values.crypto ?? 'auto',
    memoryLock: values.memoryLock ?? 'warn',
    workers: values.workers ?? 2,
    requestBytesMax: values.requestBytesMax ?? REQUEST_BYTES_MAX_DEFAULT,
    inFlightBytesMax: values.inFlightBytesMax ?? IN_FLIGHT_BYTES_DEFAULT,
    messageKey: {
      ageMsMax: values.messageKeyAgeMsMax ?? MESSAGE_KEY_AGE_MS_DEFAULT,
      messagesMax: values.messageKeyMessagesMax ?? MESSAGE_KEY_MESSAGES_DEFAULT,
      bytesMax: values.messageKeyBytesMax ?? MESSAGE_KEY_BYTES_DEFAULT,
    },
    dataKeyCacheEntries: values.dataKeyCacheEntries ?? DATA_KEY_CACHE_ENTRIES_DEFAULT,
    rotateAfterMessages: values.rotateAfterMessages,
    missBudget: {
      burst: values.missBudgetBurst ?? MISS_BUDGET_BURST_DEFAULT,
      perSecond: values.missBudgetPerSecond ?? MISS_BUDGET_PER_SECOND_DEFAULT,
    },
    pkcs11Modules: values.pkcs11Modules ?? {},
    audit: {
      mode: values.audit ?? 'bounded',
      directory: values.auditDirectory ?? join(dataDirectory, 'audit'),
      spillRecordsMax: values.auditSpillRecordsMax ?? AUDIT_SPILL_RECORDS_DEFAULT,
      fileBytesMax: values.auditFileBytesMax ?? AUDIT_FILE_BYTES_DEFAULT,
    },
    logLevel: values.logLevel ?? 'info',
  })
}

function catalogOf({ catalog, catalogPasswordFile: file }: Values): Config['catalog'] {
  if (catalog === undefined) return undefined
  const { password, ...address } = catalog
  return { ...address, password: () => password ?? (file && readFileSync(file, 'utf8').trim()) }
}

function rootKeyOf(values: Values, dataDirectory: string): Config['rootKey'] {
  const { rootKeySource: source = 'file' } = values
  switch (source) {
    case 'file':
      return { source, file: values.rootKeyFile ?? join(dataDirectory, 'root.key') }
    case 'shares':
      return { source, files: values.rootKeyShareFiles ?? [] }
    default:
      return { source }
  }
}

function tlsOf(values: Values): Config['tls'] {
  const { tlsCert, tlsKey, clientCa, xksClientName } = values
  if (xksClientName !== undefined && clientCa === undefined) {
    throw new KeyfoldError('CONFIG_INVALID', 'xksClientName needs clientCa')
  }
  if (tlsCert === undefined && tlsKey === undefined) {
    if (clientCa === undefined) return undefined
    throw new KeyfoldError('CONFIG_INVALID', 'clientCa needs tlsCert and tlsKey')
  }
  if (tlsCert === undefined || tlsKey === undefined) {
    throw new KeyfoldError('CONFIG_INVALID', 'tlsCert and tlsKey are needed together')
  }
  return { certFile: tlsCert, keyFile: tlsKey, clientCaFile: clientCa }
}

/** Where nothing else is said: the place for data of a user's programs (XDG Base Directory). */
function defaultDataDirectory(): string {
  const base = process.env['XDG_DATA_HOME']
  return join(base === undefined || base === '' ? join(homedir(), '.local/share') : base, 'keyfold')
}

/** What a rotation of the root key moves to stands in the variable with _NEXT behind its name. */
export type SecretName =
  `${'KEYFOLD_ROOT_KEY' | 'KEYFOLD_PASSPHRASE' | 'KEYFOLD_ROOT_KEY_SHARES'}${'' | '_NEXT'}`

/**
 * A secret from the environment, which is forgotten there: neither a child process nor a report of the
 * environment shows it afterwards. `name`: KEYFOLD_ROOT_KEY, KEYFOLD_PASSPHRASE, or what a key store's PIN is in.
 */
export function takeSecret(name: string): string | undefined {
  const secret = process.env[name]
  delete process.env[name]
  return secret
}

/** KEYFOLD_CRYPTO where there is no Config: for files and streams in a caller's process. Throws CONFIG_INVALID. */
export function libraryCrypto(): Config['crypto'] {
  const wanted = process.env['KEYFOLD_CRYPTO'] ?? 'auto'
  const found = CRYPTO.find((name) => name === wanted)
  if (found !== undefined) return found
  throw new KeyfoldError('CONFIG_INVALID', `KEYFOLD_CRYPTO: one of ${CRYPTO.join(', ')}`)
}

/** Whether a command that can do without one is told of a server. */
export function isServerNamed(flags: { readonly token?: string }): boolean {
  return (flags.token ?? process.env['KEYFOLD_TOKEN'] ?? '') !== ''
}

/** How the command line finds a server. Throws CONFIG_INVALID, saying what to type. */
export function clientSettings(flags: { readonly url?: string; readonly token?: string }): {
  readonly url: string
  readonly token: string
} {
  const token = flags.token ?? process.env['KEYFOLD_TOKEN']
  if (token === undefined || token === '') {
    throw new KeyfoldError('CONFIG_INVALID', 'give --token or set KEYFOLD_TOKEN')
  }
  return { url: flags.url ?? process.env['KEYFOLD_URL'] ?? 'http://127.0.0.1:8790', token }
}

/**
 * The front end reads this variable when its binary loads, and has no other way to be told: request headers beyond
 * 4 KiB would be refused otherwise, and signed requests with session tokens exceed that.
 */
export function setFrontEndEnvironment(): void {
  process.env['UWS_HTTP_MAX_HEADERS_SIZE'] ??= '16384'
}
