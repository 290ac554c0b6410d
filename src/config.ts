/**
 * Flags, environment and file become one frozen Config. The only reader of process.env.
 * Order: flags, then environment (KEYFOLD_*), then the file, then the default.
 *
 * Which settings there are, and what each may be, is in config/settings.ts.
 */
import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'

import type { Pkcs11Module } from './config/pkcs11-modules.ts'
import { CRYPTO, flagName, SETTINGS, type Setting } from './config/settings.ts'
import { KeyfoldError } from './errors.ts'
import type { CatalogUrl } from './format/catalog-url.ts'
import {
  AUDIT_FILE_BYTES_DEFAULT,
  AUDIT_SPILL_RECORDS_DEFAULT,
  DATA_KEY_CACHE_ENTRIES_DEFAULT,
  IN_FLIGHT_BYTES_DEFAULT,
  MESSAGE_KEY_AGE_MS_DEFAULT,
  MESSAGE_KEY_BYTES_DEFAULT,
  MESSAGE_KEY_MESSAGES_DEFAULT,
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
