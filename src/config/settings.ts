/**
 * Every setting there is: its name on all three ways in, what is said of it in the help, and what it may be. What a
 * setting is where nobody says anything is for config.ts, which knows the others.
 */
import { parseCatalogUrl, type CatalogUrl } from '../format/catalog-url.ts'
import {
  AUDIT_GROUP_RECORDS_MAX,
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
} from '../limits.ts'
import { readPkcs11Modules } from './pkcs11-modules.ts'

/** One setting: its name on all three ways in, and how its text becomes a value. */
export interface Setting {
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

export const CRYPTO = ['auto', 'native', 'vaes', 'aesni', 'node'] as const
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
    readPkcs11Modules,
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

/** `dataKeyCacheEntries` → `data-key-cache-entries`. */
export function flagName(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
}
