/**
 * The kinds of key stores that callers may create, and what each is told by its settings: a table of names and
 * patterns. Secrets are no settings. Where a setting goes is the opener's matter.
 */
import type { KeyStoreKind } from '../catalog/key-stores.ts'
import { KeyfoldError } from '../errors.ts'
import type { GuardedStoreSettings } from '../key-stores/guarded.ts'
import { KEY_STORE_SECRET_BYTES_MAX, KEY_STORE_SETTING_CHARACTERS_MAX } from '../limits.ts'

export type KeyStoreSettings = Readonly<Record<string, string>>

interface Setting {
  readonly pattern: RegExp
  /** What is needed, for whoever gave something else. */
  readonly needed: string
  readonly required: boolean
}

interface Kind {
  /** Which of its own kinds AWS KMS would call it, and what the origin of its keys usually is. */
  readonly type: 'AWS_CLOUDHSM' | 'EXTERNAL_KEY_STORE'
  readonly settings: Readonly<Record<string, Setting>>
  readonly secret: { readonly pattern: RegExp; readonly needed: string; readonly required: boolean }
  /** Whether a key store is tried before it is taken (AWS KMS asks an XKS proxy for its health). */
  readonly tried: boolean
  /** What may be changed while it is connected (AWS KMS, UpdateCustomKeyStore). */
  readonly changeableConnected: readonly string[]
}

const required = (pattern: RegExp, needed: string): Setting => ({ pattern, needed, required: true })
const optional = (pattern: RegExp, needed: string): Setting => ({
  pattern,
  needed,
  required: false,
})

const FLAG = /^(true|false)$/

/** Of every kind: how long, how much and how often is waited for it (src/key-stores/guarded.ts). */
const GUARD = {
  deadlineMs: optional(/^[1-9]\d{0,4}$/, 'how many milliseconds a call may take, up to 99999'),
  callsMax: optional(/^[1-9]\d{0,3}$/, 'how many calls may be under way at once, up to 9999'),
  required: optional(FLAG, 'true: the server is not ready while this store is away'),
}

const CREATES_KEYS = optional(FLAG, 'false: each KMS key names a key that is there already')
const PRINTABLE = /^[\x21-\x7e]+$/
/** Keys travel there: plain HTTP is for loopback. */
const URL_PATTERN =
  /^(https:\/\/[A-Za-z0-9.-]+|http:\/\/(localhost|127\.0\.0\.1))(:\d{1,5})?(\/[A-Za-z0-9/._-]*)?$/
const CERTIFICATES =
  /^(-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*)+$/

export const KINDS: Readonly<Record<KeyStoreKind, Kind>> = {
  pkcs11: {
    type: 'AWS_CLOUDHSM',
    settings: {
      ...GUARD,
      module: required(/^[A-Za-z0-9_-]{1,64}$/, 'the name of a configured PKCS#11 module'),
      trustAnchorCertificate: optional(CERTIFICATES, 'a certificate in PEM'),
    },
    secret: { pattern: /^[^\0]{1,255}$/, needed: 'the PIN of the user', required: false },
    tried: false,
    changeableConnected: [],
  },
  xks: {
    type: 'EXTERNAL_KEY_STORE',
    settings: {
      ...GUARD,
      uriEndpoint: required(
        /^(https:\/\/[A-Za-z0-9.-]{1,120}|http:\/\/(localhost|127\.0\.0\.1))(:\d{1,5})?$/,
        'https:// and a host, without a path; http:// on loopback only',
      ),
      uriPath: required(
        /^(?=.{10,128}$)(\/[A-Za-z0-9/_-]+)?\/kms\/xks\/v\d{1,2}$/,
        'a path that ends with /kms/xks/v1',
      ),
      accessKeyId: required(/^[A-Z2-7]{20,30}$/, '20 to 30 characters of A-Z and 2-7'),
      certificateAuthority: optional(
        CERTIFICATES,
        'certificates in PEM that the proxy is trusted by',
      ),
    },
    secret: {
      pattern: /^[A-Za-z0-9+/=]{43,64}$/,
      needed: '43 to 64 characters of base64',
      required: true,
    },
    tried: true,
    changeableConnected: ['name', 'uriPath', 'accessKeyId', 'secret'],
  },
  'aws-kms': {
    type: 'EXTERNAL_KEY_STORE',
    settings: {
      ...GUARD,
      region: required(/^[a-z0-9-]{1,32}$/, 'a region name'),
      accessKeyId: required(/^[A-Za-z0-9]{16,128}$/, 'an access key id'),
      endpoint: optional(URL_PATTERN, 'an https:// URL; http:// on loopback only'),
      createsKeys: CREATES_KEYS,
    },
    secret: { pattern: PRINTABLE, needed: 'a secret access key', required: true },
    tried: false,
    changeableConnected: ['name', 'accessKeyId', 'secret'],
  },
  transit: {
    type: 'EXTERNAL_KEY_STORE',
    settings: {
      ...GUARD,
      url: required(URL_PATTERN, 'an https:// URL; http:// on loopback only'),
      mount: optional(/^[A-Za-z0-9/_.-]{1,128}$/, 'the path of the mount'),
      namespace: optional(/^[A-Za-z0-9/_.-]{1,128}$/, 'a namespace'),
      createsKeys: CREATES_KEYS,
    },
    secret: { pattern: PRINTABLE, needed: 'a token', required: true },
    tried: false,
    changeableConnected: ['name', 'secret'],
  },
}

export function isKeyStoreKind(kind: string): kind is KeyStoreKind {
  return Object.hasOwn(KINDS, kind)
}

/** What its guard is told; checked by checkSettings. */
export function guardSettingsOf(settings: KeyStoreSettings): Partial<GuardedStoreSettings> {
  const { deadlineMs, callsMax, required } = settings
  return {
    ...(deadlineMs === undefined ? {} : { deadlineMs: Number(deadlineMs) }),
    ...(callsMax === undefined ? {} : { callsMax: Number(callsMax) }),
    ...(required === undefined ? {} : { required: required === 'true' }),
  }
}

/** Throws REQUEST_MALFORMED, naming the setting. */
export function checkSettings(kind: KeyStoreKind, settings: KeyStoreSettings): void {
  const { settings: known } = KINDS[kind]
  for (const [name, value] of Object.entries(settings)) {
    const setting = Object.hasOwn(known, name) ? known[name] : undefined
    if (setting === undefined) {
      throw malformed(`settings.${name}`, `${kind} has ${Object.keys(known).join(', ')}`)
    }
    if (value.length > KEY_STORE_SETTING_CHARACTERS_MAX) {
      throw malformed(`settings.${name}`, `at most ${KEY_STORE_SETTING_CHARACTERS_MAX} characters`)
    }
    if (!setting.pattern.test(value)) throw malformed(`settings.${name}`, setting.needed)
  }
  for (const [name, setting] of Object.entries(known)) {
    if (setting.required && !Object.hasOwn(settings, name)) {
      throw malformed(`settings.${name}`, `${setting.needed} is needed`)
    }
  }
}

/** Throws REQUEST_MALFORMED, which does not repeat it. */
export function checkSecret(kind: KeyStoreKind, secret: Uint8Array | undefined): void {
  const { pattern, needed, required: isRequired } = KINDS[kind].secret
  if (secret === undefined) {
    if (isRequired) throw malformed('secret', `${needed} is needed`)
    return
  }
  if (secret.length > KEY_STORE_SECRET_BYTES_MAX) {
    throw malformed('secret', `at most ${KEY_STORE_SECRET_BYTES_MAX} bytes`)
  }
  if (!pattern.test(Buffer.from(secret).toString())) throw malformed('secret', needed)
}

function malformed(at: string, needed: string): KeyfoldError {
  return new KeyfoldError('REQUEST_MALFORMED', `${at}: ${needed}`)
}
