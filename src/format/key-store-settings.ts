/**
 * What a key store of each kind is told: names and patterns of its settings, and of its secret, which is none. One table
 * for whoever checks them and whoever explains them. Where a setting goes is the opener's matter.
 */
import { KeyfoldError } from '../errors.ts'
import { KEY_STORE_SECRET_BYTES_MAX, KEY_STORE_SETTING_CHARACTERS_MAX } from '../limits.ts'

export type KeyStoreSettings = Readonly<Record<string, string>>

interface Setting {
  readonly pattern: RegExp
  /** What is needed: for whoever asks what there is, and for whoever gave something else. */
  readonly needed: string
  readonly required: boolean
}

type Settings = Readonly<Record<string, Setting>>

interface KindSettings {
  readonly settings: Settings
  readonly secret: Setting
}

const required = (pattern: RegExp, needed: string): Setting => ({ pattern, needed, required: true })
const optional = (pattern: RegExp, needed: string): Setting => ({
  pattern,
  needed,
  required: false,
})

const FLAG = /^(true|false)$/

/** Of every kind: how long, how much and how often is waited for it (src/key-stores/guarded.ts). */
export const COMMON_SETTINGS: Settings = {
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
const CERTIFICATE_AUTHORITY = optional(
  CERTIFICATES,
  'certificates in PEM that the other side is trusted by, in place of the public ones',
)

const SETTINGS = {
  pkcs11: {
    settings: {
      module: required(/^[A-Za-z0-9_-]{1,64}$/, 'the name of a configured PKCS#11 module'),
      trustAnchorCertificate: optional(CERTIFICATES, 'a certificate in PEM; kept and not used'),
      ...COMMON_SETTINGS,
    },
    secret: optional(/^[^\0]{1,255}$/, 'the PIN of the user'),
  },
  xks: {
    settings: {
      uriEndpoint: required(
        /^(https:\/\/[A-Za-z0-9.-]{1,120}|http:\/\/(localhost|127\.0\.0\.1))(:\d{1,5})?$/,
        'https:// and a host, without a path; http:// on loopback only',
      ),
      uriPath: required(
        /^(?=.{10,128}$)(\/[A-Za-z0-9/_-]+)?\/kms\/xks\/v\d{1,2}$/,
        'a path that ends with /kms/xks/v1',
      ),
      accessKeyId: required(/^[A-Z2-7]{20,30}$/, '20 to 30 characters of A-Z and 2-7'),
      certificateAuthority: CERTIFICATE_AUTHORITY,
      ...COMMON_SETTINGS,
    },
    secret: required(/^[A-Za-z0-9+/=]{43,64}$/, '43 to 64 characters of base64'),
  },
  'aws-kms': {
    settings: {
      region: required(/^[a-z0-9-]{1,32}$/, 'a region name'),
      accessKeyId: required(/^[A-Za-z0-9]{16,128}$/, 'an access key id'),
      endpoint: optional(URL_PATTERN, 'an https:// URL; http:// on loopback only'),
      certificateAuthority: CERTIFICATE_AUTHORITY,
      createsKeys: CREATES_KEYS,
      ...COMMON_SETTINGS,
    },
    secret: required(PRINTABLE, 'a secret access key'),
  },
  transit: {
    settings: {
      url: required(URL_PATTERN, 'an https:// URL; http:// on loopback only'),
      mount: optional(/^[A-Za-z0-9/_.-]{1,128}$/, 'the path of the mount'),
      namespace: optional(/^[A-Za-z0-9/_.-]{1,128}$/, 'a namespace'),
      certificateAuthority: CERTIFICATE_AUTHORITY,
      createsKeys: CREATES_KEYS,
      ...COMMON_SETTINGS,
    },
    secret: required(PRINTABLE, 'a token'),
  },
} as const satisfies Readonly<Record<string, KindSettings>>

export type KeyStoreKind = keyof typeof SETTINGS

export const KEY_STORE_SETTINGS: Readonly<Record<KeyStoreKind, KindSettings>> = SETTINGS

export function isKeyStoreKind(kind: string): kind is KeyStoreKind {
  return Object.hasOwn(SETTINGS, kind)
}

/** Throws REQUEST_MALFORMED, naming the setting. */
export function checkSettings(kind: KeyStoreKind, settings: KeyStoreSettings): void {
  const { settings: known } = KEY_STORE_SETTINGS[kind]
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
  const { pattern, needed, required: isRequired } = KEY_STORE_SETTINGS[kind].secret
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
