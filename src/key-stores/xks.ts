/**
 * The external key store: key material that never comes here, behind a proxy that encrypts and decrypts with it (AWS
 * XKS Proxy API 1.0.3), which may be another keyfold. A KMS key names a key that the other side has already.
 *
 * How the proxy draws its IVs, and how many it may draw under one key, is its own affair: no limit is kept here. It is
 * trusted with every key that it wraps. What it makes is checked by its integrity value, which says that it opens again.
 *
 * A key that is wrapped stands in the body of a request, in bytes that are wiped, and never in a string. Underneath,
 * Node and OpenSSL copy what they send as they please.
 */
import { randomUUID } from 'node:crypto'

import type { Crypto } from '../crypto/crypto.ts'
import type { KeySpec } from '../crypto/key-spec.ts'
import { KeyfoldError, type ErrorCode } from '../errors.ts'
import { decodeJsonBytes, encodeJsonBytes, type JsonBytes } from '../format/json-bytes.ts'
import { WRAPPING_SUITES } from '../format/wrapped-key.ts'
import {
  integrityParts,
  isExternalKeyId,
  XKS_IV_BYTES,
  XKS_METADATA_BYTES_MAX,
  XKS_TAG_BYTES,
  type XksCiphertext,
  type XksErrorName,
} from '../format/xks-protocol.ts'
import {
  decodeExternalKey,
  decodeXksStorePart,
  encodeExternalKey,
  encodeXksStorePart,
} from '../format/xks-store-part.ts'
import { EXTERNAL_KEY_ID_CHARACTERS_MAX } from '../limits.ts'
import { ForeignKeyStore, type WrapSubject } from './foreign-key-store.ts'
import type { KeyMaterial, KeyStore, KeyStoreTraits, NewKeyMaterial } from './key-store.ts'
import { StoreFault, type Fault } from './store-fault.ts'
import { unreachable, XksClient, type XksAnswer, type XksConnection } from './xks-client.ts'

export interface XksSettings extends XksConnection {
  /** As KMS keys name the store. */
  readonly name: string
  /** Who the proxy is told asks: this server, for it does not say on whose behalf. */
  readonly principalArn: string
  /** Of the KMS key of these 16 bytes, which the proxy is told too. */
  readonly keyArnOf: (kmsKeyId: Uint8Array) => string
}

/** Throws CONFIG_INVALID. Nothing is asked of the proxy before a key is. */
export function openXksKeyStore(crypto: Crypto, settings: XksSettings): KeyStore {
  return new XksKeyStore(crypto, settings)
}

/** What the proxy is told of the AWS KMS operation behind a call; none is told apart by it. */
type KmsOperation = 'CreateKey' | 'Encrypt' | 'Decrypt' | 'GenerateDataKey' | 'ReEncrypt'

const OPERATIONS: Readonly<Record<WrapSubject, KmsOperation>> = {
  key: 'GenerateDataKey',
  messageKey: 'ReEncrypt',
  bytes: 'Encrypt',
}

/** What an error of the proxy's means for an operation with a key, as AWS KMS has it ("Error codes"). */
const REFUSALS: Readonly<Record<XksErrorName, readonly [ErrorCode, string]>> = {
  KeyNotFoundException: ['KMS_KEY_STATE_INVALID', 'does not find the external key'],
  InvalidStateException: ['KMS_KEY_STATE_INVALID', 'has the external key disabled'],
  InvalidKeyUsageException: ['KMS_KEY_STATE_INVALID', 'has the external key for other uses'],
  AccessDeniedException: ['KMS_KEY_STATE_INVALID', 'denied access to the external key'],
  InvalidCiphertextException: ['DECRYPT_FAILED', ''],
  UnsupportedOperationException: ['OPERATION_UNSUPPORTED', 'does not support it'],
  ThrottlingException: ['OVERLOADED', 'takes fewer calls than this'],
  DependencyTimeoutException: ['KEY_STORE_UNREACHABLE', 'waited in vain for what is behind it'],
  InternalException: ['KEY_STORE_UNREACHABLE', 'failed'],
  // A setting is wrong, here or there, or one of us two does not speak the protocol: no caller can help it.
  AuthenticationFailedException: ['KEY_STORE_UNREACHABLE', 'refused our signature'],
  InvalidUriPathException: ['KEY_STORE_UNREACHABLE', 'has no such path'],
  ValidationException: ['KEY_STORE_UNREACHABLE', 'did not understand the request'],
}

/** Where more is known than that it cannot be used. */
const FAULTS: Readonly<Partial<Record<XksErrorName, Fault>>> = {
  AuthenticationFailedException: 'credential',
  AccessDeniedException: 'access-denied',
  InvalidUriPathException: 'configuration',
  ValidationException: 'response',
}

/** It says of no key, and yet not of itself that it would do something for us. */
const REFUSALS_OF_HEALTH: Readonly<Partial<Record<XksErrorName, ErrorCode>>> = {
  AccessDeniedException: 'KEY_STORE_UNREACHABLE',
  ThrottlingException: 'KEY_STORE_UNREACHABLE',
}

/** What these mean for making a KMS key. */
const REFUSALS_OF_NEW: Readonly<Partial<Record<XksErrorName, ErrorCode>>> = {
  KeyNotFoundException: 'XKS_KEY_NOT_FOUND',
  InvalidStateException: 'XKS_KEY_INVALID_CONFIGURATION',
  InvalidKeyUsageException: 'XKS_KEY_INVALID_CONFIGURATION',
}

class XksKeyStore extends ForeignKeyStore {
  readonly traits: KeyStoreTraits = {
    origin: 'EXTERNAL_KEY_STORE',
    keySpecs: ['SYMMETRIC_DEFAULT'],
    importsMaterial: false,
    rotates: false,
    wrappingSuite: WRAPPING_SUITES.xks,
    wrapsMax: undefined,
  }
  readonly #client: XksClient
  readonly #settings: Pick<XksSettings, 'principalArn' | 'keyArnOf'>

  constructor(crypto: Crypto, settings: XksSettings) {
    super(settings.name, crypto)
    this.#client = new XksClient(settings)
    const { principalArn, keyArnOf } = settings
    this.#settings = { principalArn, keyArnOf }
  }

  /** Errors besides those of the contract: XKS_KEY_NOT_FOUND, XKS_KEY_INVALID_CONFIGURATION. */
  async createKeyMaterial(
    _kmsKeyId: Uint8Array,
    _version: number,
    keySpec: KeySpec,
    externalKeyId?: string,
  ): Promise<NewKeyMaterial> {
    this.assertUnlocked()
    if (keySpec !== 'SYMMETRIC_DEFAULT') {
      throw new KeyfoldError('OPERATION_UNSUPPORTED', 'an external key is SYMMETRIC_DEFAULT')
    }
    if (externalKeyId === undefined || !isExternalKeyId(externalKeyId)) {
      throw new KeyfoldError(
        'REQUEST_MALFORMED',
        `external key id: 1 to ${EXTERNAL_KEY_ID_CHARACTERS_MAX} letters, digits, . _ - are needed`,
      )
    }
    const requestMetadata = this.#metadata('CreateKey')
    const answer = await this.#ask(`/keys/${externalKeyId}/metadata`, { requestMetadata }, {}, NONE)
    const { members } = granted(answer, REFUSALS_OF_NEW)
    assertUsableKey(members)
    return { stored: encodeExternalKey(externalKeyId), publicKey: undefined }
  }

  /** The key was the other side's before, and stays theirs. */
  async destroyKeyMaterial(): Promise<void> {}

  /** Nothing of any key is here. */
  forget(): void {}

  override lock(): void {
    super.lock()
    this.#client.close()
  }

  async probe(): Promise<void> {
    this.assertUnlocked()
    const requestMetadata = { kmsRequestId: randomUUID(), kmsOperation: 'KmsHealthCheck' }
    const reply = await this.#ask('/health', { requestMetadata }, {}, NONE)
    const { members } = granted(reply, REFUSALS_OF_HEALTH)
    const fleet = members.get('ekmFleetDetails')
    if (!Array.isArray(fleet)) throw incomprehensible('it does not say how it is')
    const isWell = (fleet as readonly unknown[]).some((member) => {
      const status = (member as { readonly healthStatus?: unknown } | null)?.healthStatus
      return status === 'ACTIVE' || status === 'DEGRADED'
    })
    if (!isWell) throw unreachable('none of its key managers is available')
  }

  protected async wrap(
    material: KeyMaterial,
    aad: Uint8Array,
    plaintext: Uint8Array,
    subject: WrapSubject,
  ): Promise<Uint8Array> {
    const path = pathOf(material, 'encrypt')
    const members = {
      requestMetadata: this.#metadata(OPERATIONS[subject], material),
      encryptionAlgorithm: 'AES_GCM',
      ciphertextDataIntegrityValueAlgorithm: 'SHA_256',
    }
    const given = { plaintext, additionalAuthenticatedData: aad }
    const answer = granted(await this.#ask(path, members, given, CIPHERTEXT_MEMBERS), {
      // Nobody gave it a ciphertext.
      InvalidCiphertextException: 'KEY_STORE_UNREACHABLE',
    })
    const encrypted = ciphertextOf(answer, plaintext.length)
    const integrityValue = answer.bytes.get('ciphertextDataIntegrityValue') ?? NO_BYTES
    const expected = this.crypto.sha256(...integrityParts(aad, encrypted))
    if (Buffer.compare(integrityValue, expected) !== 0) {
      throw unreachable('its ciphertext is not the one that its integrity value vouches for')
    }
    return encodeXksStorePart(encrypted)
  }

  protected async unwrap(
    material: KeyMaterial,
    aad: Uint8Array,
    storePart: Uint8Array,
  ): Promise<Uint8Array> {
    const path = pathOf(material, 'decrypt')
    const { metadata, iv, ciphertext, tag } = decodeXksStorePart(storePart)
    const members = {
      requestMetadata: this.#metadata('Decrypt', material),
      encryptionAlgorithm: 'AES_GCM',
    }
    const given = {
      ciphertext,
      ciphertextMetadata: metadata.length === 0 ? undefined : metadata,
      initializationVector: iv,
      authenticationTag: tag,
      additionalAuthenticatedData: aad,
    }
    const { bytes } = granted(await this.#ask(path, members, given, PLAINTEXT_MEMBERS))
    const plaintext = bytes.get('plaintext')
    try {
      this.assertUnlocked()
      if (plaintext?.length === ciphertext.length) return plaintext
      throw unreachable('its plaintext is missing, or of another length than the ciphertext')
    } catch (error) {
      plaintext?.fill(0)
      throw error
    }
  }

  #metadata(kmsOperation: KmsOperation, material?: KeyMaterial): Readonly<Record<string, string>> {
    const { principalArn, keyArnOf } = this.#settings
    return {
      awsPrincipalArn: principalArn,
      kmsOperation,
      kmsRequestId: randomUUID(),
      ...(material === undefined ? {} : { kmsKeyArn: keyArnOf(material.kmsKeyId) }),
    }
  }

  /** `names`: members of a good answer that are base64. */
  async #ask(
    path: string,
    members: Readonly<Record<string, unknown>>,
    given: Readonly<Record<string, Uint8Array | undefined>>,
    names: ReadonlySet<string>,
  ): Promise<Reply> {
    const answer = await this.#client.post(path, encodeJsonBytes(members, given))
    try {
      return readReply(answer, names)
    } finally {
      answer.body.fill(0)
    }
  }
}

const NO_BYTES = new Uint8Array(0)
const NONE: ReadonlySet<string> = new Set()
const PLAINTEXT_MEMBERS: ReadonlySet<string> = new Set(['plaintext'])
const CIPHERTEXT_MEMBERS: ReadonlySet<string> = new Set([
  'ciphertext',
  'ciphertextMetadata',
  'initializationVector',
  'authenticationTag',
  'ciphertextDataIntegrityValue',
])

interface Reply extends JsonBytes {
  readonly status: number
}

/** Throws KEY_STORE_UNREACHABLE: what is no JSON object comes from no proxy. */
function readReply({ status, body }: XksAnswer, names: ReadonlySet<string>): Reply {
  try {
    return { status, ...decodeJsonBytes(body, status === 200 ? names : NONE) }
  } catch (cause) {
    throw incomprehensible(`it answered ${status} and nothing that can be understood`, cause)
  }
}

/** Throws what the proxy's error means. */
function granted(
  reply: Reply,
  otherwise: Readonly<Partial<Record<XksErrorName, ErrorCode>>> = {},
): Reply {
  const { status, members } = reply
  if (status === 200) return reply
  const name = members.get('errorName')
  // Its text is the proxy's: it stays in this process.
  const cause = new Error(`${status} ${String(name)}: ${String(members.get('errorMessage'))}`)
  if (typeof name !== 'string' || !Object.hasOwn(REFUSALS, name)) {
    throw incomprehensible(`it answered ${status}, and no error that is known`, cause)
  }
  const errorName = name as XksErrorName
  const [usual, what] = REFUSALS[errorName]
  const code = otherwise[errorName] ?? usual
  if (code === 'DECRYPT_FAILED') throw new KeyfoldError(code, undefined, cause)
  const told = `the external key store proxy ${what || 'failed'}`
  const fault = FAULTS[errorName]
  if (fault === undefined || code !== 'KEY_STORE_UNREACHABLE') {
    throw new KeyfoldError(code, told, cause)
  }
  throw new StoreFault(fault, code, told, cause)
}

function incomprehensible(detail: string, cause?: unknown): KeyfoldError {
  return unreachable(detail, cause, 'response')
}

/** Throws KEY_STORE_UNREACHABLE where a part is missing or of a length that the API does not have. */
function ciphertextOf({ bytes }: JsonBytes, plaintextBytes: number): XksCiphertext {
  const metadata = bytes.get('ciphertextMetadata') ?? NO_BYTES
  const iv = bytes.get('initializationVector')
  const ciphertext = bytes.get('ciphertext')
  const tag = bytes.get('authenticationTag')
  if (
    metadata.length <= XKS_METADATA_BYTES_MAX &&
    iv !== undefined &&
    XKS_IV_BYTES.includes(iv.length) &&
    ciphertext?.length === plaintextBytes &&
    tag?.length === XKS_TAG_BYTES
  ) {
    return { metadata, iv, ciphertext, tag }
  }
  throw unreachable('a part of its ciphertext is missing, or of a wrong length')
}

/** Throws XKS_KEY_INVALID_CONFIGURATION, as AWS KMS's CreateKey does. */
function assertUsableKey(members: ReadonlyMap<string, unknown>): void {
  const uses = members.get('keyUsage')
  const wrong =
    members.get('keySpec') !== 'AES_256'
      ? 'it is no AES_256 key'
      : members.get('keyStatus') !== 'ENABLED'
        ? 'it is not enabled'
        : !Array.isArray(uses) || !uses.includes('ENCRYPT') || !uses.includes('DECRYPT')
          ? 'it is not for both ENCRYPT and DECRYPT'
          : undefined
  if (wrong !== undefined) throw new KeyfoldError('XKS_KEY_INVALID_CONFIGURATION', wrong)
}

function pathOf({ stored }: KeyMaterial, operation: 'encrypt' | 'decrypt'): string {
  return `/keys/${decodeExternalKey(stored)}/${operation}`
}
