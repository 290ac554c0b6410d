/**
 * The transit engine of OpenBao or HashiCorp Vault as key store. Each version of key material is one transit key of type
 * aes256-gcm96 that cannot be exported; here the catalog keeps its name (src/format/remote-key.ts).
 *
 *     store part      u32 version of the transit key ‖ what `vault:vN:` has in base64: nonce12 ‖ ciphertext ‖ tag16
 *
 * The AAD travels as associated_data. Their text form has several spellings of one ciphertext (v0 is read as v1, base64
 * with stray bits), which is why none of it is kept. Encrypt makes a key that is not there, where a token may: give
 * tokens `update` on encrypt/ and decrypt/, and `create` on keys/ alone.
 */
import * as http from 'node:http'
import * as https from 'node:https'

import type { Crypto } from '../crypto/crypto.ts'
import type { KeySpec } from '../crypto/key-spec.ts'
import { KeyfoldError } from '../errors.ts'
import { Reader, Writer } from '../format/bytes.ts'
import { decodeRemoteKey, encodeRemoteKey } from '../format/remote-key.ts'
import { WRAPPING_SUITES } from '../format/wrapped-key.ts'
import {
  KEY_STORE_ANSWER_BYTES_MAX,
  KEY_STORE_CALL_MS_DEFAULT,
  KEY_STORE_CALL_MS_MAX,
  KEY_STORE_CONNECTIONS_MAX,
  RANDOM_IV_WRAPS_MAX,
} from '../limits.ts'
import { ForeignKeyStore } from './foreign-key-store.ts'
import type { KeyMaterial, KeyStoreTraits, NewKeyMaterial } from './key-store.ts'
import { checkEndpoint, checkStorePart, isStorePart, PROBE, readAuthorities } from './remote.ts'
import { readSecretFile } from './secret-files.ts'
import { StoreFault } from './store-fault.ts'
import type { StoreSettings } from './store-settings.ts'

export interface TransitSettings {
  readonly endpoint: string
  /** Where the engine is mounted: `transit`. */
  readonly mount: string
  readonly namespace?: string | undefined
  /** Asked for when the store is first used, and again when it is refused; filled with zeros after use. */
  readonly openToken: () => Uint8Array
  /** Certificates in PEM of those who may have signed the server's; the public ones where absent. */
  readonly ca?: string | undefined
  readonly timeoutMs?: number | undefined
  readonly createsKeys: boolean
}

const SYMMETRIC = 'SYMMETRIC_DEFAULT'
const KEY_TYPE = 'aes256-gcm96'
const VERSION_BYTES = 4
/** nonce12 ‖ tag16 */
const SEALED_BYTES_MIN = 28
/** What their router takes for a name; anything else could be another path. */
const NAME_PATTERN = /^\w(?:[\w.-]{0,126}\w)?$/
const MOUNT_PATTERN = /^\w(?:[\w.-]*\w)?(?:\/\w(?:[\w.-]*\w)?)*$/
const NAMESPACE_PATTERN = /^[\w./-]{1,256}$/
const CIPHERTEXT_PATTERN = /^vault:v([1-9]\d{0,8}):([A-Za-z0-9+/]+={0,2})$/
/** How decrypt says that the bytes are at fault, among everything else that it answers 400 to. */
const UNDECRYPTABLE = /message authentication failed|invalid ciphertext/
const OTHER_AAD = Buffer.from('keyfold/other')

/** From JSON: endpoint, mount, namespace, tokenFile, caFile, timeoutMs; keyId where keys are not made. */
export function transitSettings(members: StoreSettings): TransitSettings {
  const tokenFile = members.text('tokenFile')
  return {
    endpoint: members.text('endpoint'),
    mount: members.optionalText('mount') ?? 'transit',
    namespace: members.optionalText('namespace'),
    openToken: () => readSecretFile(tokenFile),
    ca: readAuthorities(members.optionalText('caFile')),
    timeoutMs: members.optionalWhole('timeoutMs', 1, KEY_STORE_CALL_MS_MAX),
    createsKeys: members.optionalText('keyId') === undefined,
  }
}

interface Answer {
  readonly status: number
  /** undefined: none that is a JSON object. */
  readonly body: Readonly<Record<string, unknown>> | undefined
}

export class TransitKeyStore extends ForeignKeyStore {
  readonly traits: KeyStoreTraits
  readonly #settings: TransitSettings
  readonly #base: URL
  readonly #agent: http.Agent
  #token: string | undefined
  /** What was last used for wrapping, which tells whether wrapping works now. */
  #lastKey: string | undefined

  /** Throws CONFIG_INVALID. Asks nothing of the other side. */
  constructor(name: string, settings: TransitSettings, crypto: Crypto) {
    const { endpoint, mount, namespace, ca, createsKeys } = settings
    super(name, crypto)
    this.#settings = settings
    this.#base = checkEndpoint(endpoint)
    if (!MOUNT_PATTERN.test(mount)) throw new KeyfoldError('CONFIG_INVALID', 'mount: a path')
    if (namespace !== undefined && !NAMESPACE_PATTERN.test(namespace)) {
      throw new KeyfoldError('CONFIG_INVALID', 'namespace: a path of at most 256 characters')
    }
    const pool = { keepAlive: true, maxSockets: KEY_STORE_CONNECTIONS_MAX }
    this.#agent =
      this.#base.protocol === 'http:'
        ? new http.Agent(pool)
        : new https.Agent({ ...pool, minVersion: 'TLSv1.2', ...(ca === undefined ? {} : { ca }) })
    this.traits = {
      origin: createsKeys ? 'AWS_KMS' : 'EXTERNAL_KEY_STORE',
      keySpecs: [SYMMETRIC],
      importsMaterial: false,
      rotates: createsKeys,
      adoptsMaterial: true,
      wrappingSuite: WRAPPING_SUITES.transit,
      wrapsMax: RANDOM_IV_WRAPS_MAX,
    }
  }

  async createKeyMaterial(
    kmsKeyId: Uint8Array,
    version: number,
    keySpec: KeySpec,
    externalKeyId?: string,
  ): Promise<NewKeyMaterial> {
    this.assertUnlocked()
    if (keySpec !== SYMMETRIC) {
      throw new KeyfoldError('OPERATION_UNSUPPORTED', `${this.name} has no keys of ${keySpec}`)
    }
    if (externalKeyId === undefined && !this.#settings.createsKeys) {
      throw new KeyfoldError(
        'REQUEST_MALFORMED',
        `${this.name} creates no keys: name one of its own`,
      )
    }
    const key = externalKeyId ?? `keyfold-${Buffer.from(kmsKeyId).toString('hex')}-${version}`
    if (!NAME_PATTERN.test(key)) {
      throw new KeyfoldError('REQUEST_MALFORMED', 'the id of the external key is no name of a key')
    }
    if (externalKeyId === undefined) {
      // One of a try that the catalog never heard of is as good: it was made for this version and no other.
      await this.#post(`keys/${key}`, { type: KEY_TYPE, exportable: false })
    }
    await this.#checkKey(key)
    const stored = encodeRemoteKey({ suite: WRAPPING_SUITES.transit, name: key })
    return { stored, publicKey: undefined }
  }

  protected async wrap(
    material: KeyMaterial,
    aad: Uint8Array,
    plaintext: Uint8Array,
  ): Promise<Uint8Array> {
    const key = keyOf(material)
    const storePart = await this.#encrypt(key, aad, plaintext)
    this.#lastKey = key
    return storePart
  }

  protected unwrap(
    material: KeyMaterial,
    aad: Uint8Array,
    storePart: Uint8Array,
  ): Promise<Uint8Array> {
    return this.#decrypt(keyOf(material), aad, storePart)
  }

  /** The token needs the right to configure and delete keys for it. */
  async destroyKeyMaterial(material: KeyMaterial): Promise<void> {
    const path = `keys/${keyOf(material)}`
    try {
      await this.#ask('GET', this.#path(path), undefined)
    } catch (error) {
      if (error instanceof KeyfoldError && error.detail === statusText(404)) return
      throw error
    }
    await this.#post(`${path}/config`, { deletion_allowed: true })
    await this.#ask('DELETE', this.#path(path), undefined)
  }

  /** Nothing of any key is here. */
  forget(): void {}

  override lock(): void {
    super.lock()
    this.#token = undefined
    this.#agent.destroy()
  }

  async probe(): Promise<void> {
    this.assertUnlocked()
    const key = this.#lastKey
    try {
      if (key === undefined) await this.#ask('GET', '/v1/auth/token/lookup-self', undefined)
      else await this.#encrypt(key, PROBE, PROBE)
    } catch (error) {
      if (!(error instanceof KeyfoldError) || error.code === 'LOCKED') throw error
      if (key === undefined && error.detail === statusText(403)) {
        throw new StoreFault('credential', 'KEY_STORE_UNREACHABLE', error.detail, error)
      }
      throw new KeyfoldError('KEY_STORE_UNREACHABLE', error.detail, error)
    }
  }

  /** That it is of the right kind, and that the server heeds associated_data: an old one leaves it out without a word. */
  async #checkKey(key: string): Promise<void> {
    const { type, exportable, derived } = await this.#ask(
      'GET',
      this.#path(`keys/${key}`),
      undefined,
    )
    if (type !== KEY_TYPE || exportable !== false || derived !== false) {
      throw new KeyfoldError(
        'REQUEST_MALFORMED',
        `the external key has to be of type ${KEY_TYPE}, not derived and not exportable`,
      )
    }
    const storePart = await this.#encrypt(key, PROBE, PROBE)
    await this.#decrypt(key, PROBE, storePart)
    const heeded = await this.#decrypt(key, OTHER_AAD, storePart).then(
      () => false,
      (error: unknown) => {
        if (error instanceof KeyfoldError && error.code === 'DECRYPT_FAILED') return true
        throw error
      },
    )
    if (!heeded) {
      throw new KeyfoldError('CONFIG_INVALID', `${this.name} is too old: no associated_data`)
    }
  }

  async #encrypt(key: string, aad: Uint8Array, plaintext: Uint8Array): Promise<Uint8Array> {
    const { ciphertext } = await this.#post(`encrypt/${key}`, {
      plaintext: base64(plaintext),
      associated_data: base64(aad),
    })
    return checkStorePart(encodeStorePart(ciphertext))
  }

  async #decrypt(key: string, aad: Uint8Array, storePart: Uint8Array): Promise<Uint8Array> {
    this.assertUnlocked()
    const ciphertext = decodeStorePart(storePart)
    const { plaintext } = await this.#post(`decrypt/${key}`, {
      ciphertext,
      associated_data: base64(aad),
    })
    // Nothing at all is how an empty plaintext comes back from some versions.
    if (plaintext !== undefined && plaintext !== null && typeof plaintext !== 'string') {
      throw new KeyfoldError('INTERNAL', 'the key store answered no plaintext')
    }
    return Buffer.from(plaintext ?? '', 'base64')
  }

  #path(path: string): string {
    return `/v1/${this.#settings.mount}/${path}`
  }

  #post(path: string, body: object): Promise<Readonly<Record<string, unknown>>> {
    return this.#ask('POST', this.#path(path), JSON.stringify(body))
  }

  /** What an answer has under `data`. */
  async #ask(
    method: 'GET' | 'POST' | 'DELETE',
    path: string,
    body: string | undefined,
  ): Promise<Readonly<Record<string, unknown>>> {
    this.assertUnlocked()
    let answer = await this.#send(method, path, body)
    if (answer.status === 403) {
      // Tokens run out, and whoever renews them writes the new one to its place.
      this.#token = undefined
      answer = await this.#send(method, path, body)
    }
    if (answer.status === 204) return {}
    if (answer.status !== 200) throw refusalOf(answer, path)
    const fields = answer.body?.['data']
    if (typeof fields !== 'object' || fields === null) {
      throw new KeyfoldError('KEY_STORE_UNREACHABLE', 'something else answered')
    }
    return fields as Readonly<Record<string, unknown>>
  }

  #send(method: string, path: string, body: string | undefined): Promise<Answer> {
    const { namespace, timeoutMs = KEY_STORE_CALL_MS_DEFAULT } = this.#settings
    const prefix = this.#base.pathname.replace(/\/$/, '')
    const options: https.RequestOptions = {
      method,
      agent: this.#agent,
      signal: AbortSignal.timeout(timeoutMs),
      headers: {
        'x-vault-token': (this.#token ??= tokenOf(this.#settings)),
        'x-vault-request': 'true',
        ...(namespace === undefined ? {} : { 'x-vault-namespace': namespace }),
        ...(body === undefined
          ? {}
          : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }),
      },
    }
    const url = new URL(`${prefix}${path}`, this.#base)
    const { request } = this.#base.protocol === 'http:' ? http : https
    return new Promise((resolve, reject) => {
      const unreachable = (cause: unknown): void =>
        reject(new KeyfoldError('KEY_STORE_UNREACHABLE', undefined, cause))
      const sent = request(url, options, (response) => {
        readAnswer(response).then(resolve, unreachable)
      })
      sent.on('error', unreachable)
      sent.end(body)
    })
  }
}

async function readAnswer(response: http.IncomingMessage): Promise<Answer> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of response as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > KEY_STORE_ANSWER_BYTES_MAX) {
      response.destroy()
      throw new Error('the answer is too long')
    }
    chunks.push(chunk)
  }
  return { status: response.statusCode ?? 0, body: parse(Buffer.concat(chunks)) }
}

function parse(bytes: Buffer): Answer['body'] {
  try {
    const parsed: unknown = JSON.parse(bytes.toString('utf8'))
    return typeof parsed === 'object' && parsed !== null ? { ...parsed } : undefined
  } catch {
    return undefined
  }
}

/** 5xx: it is sealed, starting or broken; 429: it has enough; 412: a replica that is behind. */
function refusalOf({ status, body }: Answer, path: string): KeyfoldError {
  const errors = body?.['errors']
  if (!Array.isArray(errors) || status >= 500 || status === 429 || status === 412) {
    return new KeyfoldError('KEY_STORE_UNREACHABLE', statusText(status))
  }
  if (status === 400 && path.includes('/decrypt/') && UNDECRYPTABLE.test(errors.join('\n'))) {
    return new KeyfoldError('DECRYPT_FAILED')
  }
  return new KeyfoldError('KEY_STORE_REFUSED', statusText(status))
}

const statusText = (status: number): string => `status ${status}`

function encodeStorePart(ciphertext: unknown): Uint8Array | undefined {
  const [, version, text = ''] = CIPHERTEXT_PATTERN.exec(String(ciphertext)) ?? []
  if (version === undefined) return undefined
  const sealed = Buffer.from(text, 'base64')
  const storePart = new Uint8Array(VERSION_BYTES + sealed.length)
  return new Writer(storePart).u32(Number(version)).put(sealed).bytes
}

function decodeStorePart(storePart: Uint8Array): string {
  if (!isStorePart(storePart) || storePart.length < VERSION_BYTES + SEALED_BYTES_MIN) {
    throw new KeyfoldError('DECRYPT_FAILED')
  }
  const reader = new Reader(storePart, 'DECRYPT_FAILED')
  const version = reader.u32()
  // They read 0 as 1.
  if (version === 0) throw new KeyfoldError('DECRYPT_FAILED')
  return `vault:v${version}:${base64(reader.rest())}`
}

function keyOf({ stored }: KeyMaterial): string {
  const { name } = decodeRemoteKey(stored, WRAPPING_SUITES.transit)
  if (!NAME_PATTERN.test(name)) throw new KeyfoldError('INTERNAL', 'the remote key has no name')
  return name
}

function tokenOf({ openToken }: TransitSettings): string {
  const bytes = openToken()
  try {
    const token = Buffer.from(bytes).toString('latin1').trim()
    if (/^[\x21-\x7e]{1,4096}$/.test(token)) return token
    throw new KeyfoldError('CONFIG_INVALID', 'the token of the key store is none')
  } finally {
    bytes.fill(0)
  }
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}
