/**
 * The HSM key store: key material is made in a PKCS#11 token and never leaves it. What wraps, unwraps, signs and
 * authenticates is the token; the catalog holds references (format/token-reference.ts).
 *
 *     this file            which call is allowed and what it means
 *     pkcs11/thread.ts     one thread a module, calls and their shared memory
 *     pkcs11/worker.ts     the thread: pkcs11/token.ts (sessions, login, recovery), gcm.ts, private-keys.ts
 *
 * A store part is IV (12) ‖ ciphertext ‖ tag (16), AES-256-GCM (pkcs11/gcm.ts). Data keys that pass do so in shared
 * memory of one call, which is wiped after it.
 */
import { randomBytes } from 'node:crypto'

import type { Crypto, KeyHandle } from '../crypto/crypto.ts'
import { CURVES } from '../crypto/curves.ts'
import { encodeSignature } from '../crypto/ecdsa-digest.ts'
import { isRsa, MODULUS_BITS, openPublicKey } from '../crypto/key-pair.ts'
import {
  assertAlgorithm,
  type EncryptionAlgorithm,
  type KeyAgreementAlgorithm,
  type KeySpec,
  type MacAlgorithm,
} from '../crypto/key-spec.ts'
import { encodeDigestInfo } from '../crypto/rsa-digest.ts'
import { digestToSign, type Signable } from '../crypto/signature.ts'
import { KeyfoldError } from '../errors.ts'
import {
  decodeTokenReference,
  encodeTokenKeyId,
  encodeTokenReference,
  isTokenKeyIdOf,
  type IvMode,
} from '../format/token-reference.ts'
import { WRAPPING_SUITES } from '../format/wrapped-key.ts'
import {
  CALLER_PLAINTEXT_BYTES_MAX,
  PKCS11_SESSIONS_DEFAULT,
  WRAPPED_KEY_BYTES_MAX,
} from '../limits.ts'
import { ForeignKeyStore } from './foreign-key-store.ts'
import type { KeyMaterial, KeyStore, KeyStoreTraits, NewKeyMaterial } from './key-store.ts'
import { MaterialInDoubt } from './material-in-doubt.ts'
import { CKM } from './pkcs11/cryptoki.ts'
import { OVERHEAD_BYTES, outputBytesMax } from './pkcs11/gcm.ts'
import type { KeyOperation, TokenName } from './pkcs11/messages.ts'
import { pinOf, type Pin, type PinSource } from './pkcs11/pin.ts'
import { pointOf } from './pkcs11/public-key.ts'
import { ModuleThread, type RegionCall } from './pkcs11/thread.ts'

export interface Pkcs11Settings {
  /** As KMS keys name the store. */
  readonly name: string
  /** Path of the module, a shared library. */
  readonly module: string
  readonly token: TokenName
  readonly pin: PinSource
  /** Where the IV of a wrapping comes from (pkcs11/gcm.ts); `host` by default. */
  readonly ivMode?: Exclude<IvMode, 'none'>
  /** Who draws the IV of `host`; `host` by default. */
  readonly random?: 'host' | 'token'
  /** CKM_AES_GCM by default; vendors have numbers of their own. */
  readonly mechanism?: number
  /** async overlaps calls over several sessions, which pays where a call takes milliseconds; `sync` by default. */
  readonly calls?: 'sync' | 'async'
  /** Sessions that calls use at once, of async; one more holds the login, and another makes keys. */
  readonly sessionsMax?: number
}

const ID_RANDOM_BYTES = 8
const NOTHING = new Uint8Array(0)
/** SPKI DER of RSA_4096 has 550 bytes, and no other spec more. */
const PUBLIC_KEY_BYTES_MAX = 1_024
const SIGNATURE_BYTES_MAX = 512
const copyOf = (output: Uint8Array): Uint8Array => Uint8Array.from(output)

/** Throws CONFIG_INVALID (what to set or install), KEY_STORE_UNREACHABLE. */
export async function openPkcs11KeyStore(
  crypto: Crypto,
  settings: Pkcs11Settings,
): Promise<KeyStore> {
  const pin = pinOf(crypto, settings.pin)
  const thread = ModuleThread.take(settings.module)
  try {
    // Read now for what is wrong with it to be said: the thread is told no more than that there is none.
    ;(await pin.read()).fill(0)
    const mechanism = settings.mechanism ?? CKM.AES_GCM
    const { token, keySpecs } = await thread.openToken(
      {
        token: settings.token,
        mechanism,
        random: settings.random ?? 'host',
        calls: settings.calls ?? 'sync',
        sessionsMax: settings.sessionsMax ?? PKCS11_SESSIONS_DEFAULT,
      },
      () => pin.read(),
    )
    const wrapping = { mechanism, ivMode: settings.ivMode ?? 'host' }
    const opened = { thread, token, pin, keySpecs, wrapping }
    if (!keySpecs.includes('SYMMETRIC_DEFAULT')) {
      await thread.closeToken(token)
      throw new KeyfoldError(
        'CONFIG_INVALID',
        `the token of ${settings.name} has no AES keys or no mechanism 0x${mechanism.toString(16)}`,
      )
    }
    return new Pkcs11KeyStore(crypto, settings.name, opened)
  } catch (error) {
    await thread.release()
    throw error
  }
}

interface Opened {
  readonly thread: ModuleThread
  readonly token: number
  readonly pin: Pin
  readonly keySpecs: readonly KeySpec[]
  readonly wrapping: { readonly mechanism: number; readonly ivMode: IvMode }
}

class Pkcs11KeyStore extends ForeignKeyStore {
  readonly traits: KeyStoreTraits
  readonly #opened: Opened
  #closing: Promise<void> | undefined

  constructor(crypto: Crypto, name: string, opened: Opened) {
    super(name, crypto)
    this.#opened = opened
    this.traits = {
      origin: 'AWS_CLOUDHSM',
      keySpecs: opened.keySpecs,
      importsMaterial: false,
      rotates: true,
      wrappingSuite: WRAPPING_SUITES.pkcs11AesGcm,
      // 2^32 by SP 800-38D §8.3 (random IVs of 96 bits), and stopped well short of it.
      wrapsMax: 2 ** 31,
    }
  }

  async createKeyMaterial(
    kmsKeyId: Uint8Array,
    version: number,
    keySpec: KeySpec,
  ): Promise<NewKeyMaterial> {
    this.#assertOffered(keySpec)
    const id = encodeTokenKeyId(kmsKeyId, version, randomBytes(ID_RANDOM_BYTES))
    const wraps = keySpec === 'SYMMETRIC_DEFAULT'
    const wrapping = wraps ? this.#opened.wrapping : undefined
    const stored = encodeTokenReference({ ...(wrapping ?? { ivMode: 'none', mechanism: 0 }), id })
    try {
      const publicKey = await this.#use({
        key: { id, keySpec },
        operation: { kind: 'create', wrapping },
        aad: NOTHING,
        input: NOTHING,
        outputBytesMax: PUBLIC_KEY_BYTES_MAX,
        take: copyOf,
      })
      return { stored, publicKey: publicKey.length === 0 ? undefined : publicKey }
    } catch (error) {
      if (!(error instanceof KeyfoldError && error.code === 'KEY_STORE_UNREACHABLE')) throw error
      throw new MaterialInDoubt(error, { stored, publicKey: undefined })
    }
  }

  /** From the memory that the token wrote to straight into the key table. */
  override async unwrapKey(
    material: KeyMaterial,
    aad: Uint8Array,
    storePart: Uint8Array,
  ): Promise<KeyHandle> {
    this.assertWraps(material)
    return this.#unwrapTo(material, aad, storePart, (output) => this.importUnwrapped(output))
  }

  protected async wrap(
    material: KeyMaterial,
    aad: Uint8Array,
    plaintext: Uint8Array,
  ): Promise<Uint8Array> {
    const { id, mechanism, ivMode } = referenceOf(material)
    if (plaintext.length > CALLER_PLAINTEXT_BYTES_MAX) {
      throw new KeyfoldError(
        'LIMIT_EXCEEDED',
        `0 to ${CALLER_PLAINTEXT_BYTES_MAX} bytes are wrapped`,
      )
    }
    return this.#use({
      key: { id, keySpec: material.keySpec },
      operation: { kind: 'encrypt', mechanism, ivMode },
      aad,
      input: plaintext,
      outputBytesMax: outputBytesMax(plaintext.length),
      take: copyOf,
    })
  }

  protected async unwrap(
    material: KeyMaterial,
    aad: Uint8Array,
    storePart: Uint8Array,
  ): Promise<Uint8Array> {
    return this.#unwrapTo(material, aad, storePart, copyOf)
  }

  override async sign(material: KeyMaterial, signable: Signable): Promise<Uint8Array> {
    const { scheme, digest } = digestToSign(material.keySpec, signable)
    const { name, hash } = scheme
    this.#assertOffered(material.keySpec)
    if (name === 'eddsa') throw new KeyfoldError('OPERATION_UNSUPPORTED')
    const input = name === 'pkcs1' ? encodeDigestInfo(hash, digest) : digest
    const signature = await this.#usePrivate(material, { kind: 'sign', scheme: name, hash }, input)
    return name === 'ecdsa' ? encodeHalves(signature) : signature
  }

  override async decryptWithPrivateKey(
    material: KeyMaterial,
    algorithm: EncryptionAlgorithm,
    ciphertext: Uint8Array,
  ): Promise<Uint8Array> {
    const { keySpec } = material
    assertAlgorithm(keySpec, algorithm)
    this.#assertOffered(keySpec)
    if (!isRsa(keySpec) || algorithm === 'SYMMETRIC_DEFAULT') {
      throw new KeyfoldError('KMS_KEY_USAGE_INVALID', `${keySpec} has no key pair that decrypts`)
    }
    // A token may take a shorter one for a number with leading zeros.
    if (ciphertext.length !== MODULUS_BITS[keySpec] / 8) throw new KeyfoldError('DECRYPT_FAILED')
    const hash = algorithm === 'RSAES_OAEP_SHA_1' ? 'sha1' : 'sha256'
    return this.#usePrivate(material, { kind: 'decryptOaep', hash }, ciphertext)
  }

  override async deriveSharedSecret(
    material: KeyMaterial,
    algorithm: KeyAgreementAlgorithm,
    peer: Uint8Array,
  ): Promise<Uint8Array> {
    const { keySpec } = material
    assertAlgorithm(keySpec, algorithm)
    this.#assertOffered(keySpec)
    const curve = CURVES[keySpec as keyof typeof CURVES]
    if (curve === undefined) throw new KeyfoldError('KMS_KEY_USAGE_INVALID')
    // Held against the curve here: a point off it would give the private key away bit by bit.
    if (openPublicKey(keySpec as 'ECC_NIST_P256', peer) === undefined) {
      throw new KeyfoldError(
        'REQUEST_MALFORMED',
        `publicKey: DER of a SubjectPublicKeyInfo of ${keySpec} is needed`,
      )
    }
    const secret = await this.#usePrivate(material, { kind: 'derive' }, pointOf(peer, curve))
    if (secret.length !== curve.bytes) {
      throw new KeyfoldError('OPERATION_UNSUPPORTED', 'the token gives the secret in another form')
    }
    return secret
  }

  override async generateMac(
    material: KeyMaterial,
    algorithm: MacAlgorithm,
    message: Uint8Array,
  ): Promise<Uint8Array> {
    assertAlgorithm(material.keySpec, algorithm)
    this.#assertOffered(material.keySpec)
    if (message.length < 1 || message.length > CALLER_PLAINTEXT_BYTES_MAX) {
      throw new KeyfoldError(
        'REQUEST_MALFORMED',
        `message: 1 to ${CALLER_PLAINTEXT_BYTES_MAX} bytes`,
      )
    }
    return this.#usePrivate(material, { kind: 'mac', algorithm }, message)
  }

  async generateRandom(bytes: number): Promise<Uint8Array> {
    this.assertUnlocked()
    return this.#opened.thread.random(this.#opened.token, bytes)
  }

  async destroyKeyMaterial(material: KeyMaterial): Promise<void> {
    await this.#usePrivate(material, { kind: 'destroy' }, NOTHING)
  }

  forget(kmsKeyId: Uint8Array): void {
    this.#opened.thread.forget(this.#opened.token, Uint8Array.from(kmsKeyId))
  }

  override lock(): void {
    super.lock()
    this.#opened.pin.forget()
    // Its sessions end, and with the last the login; calls under way come to their end first.
    void this.#end()
  }

  async probe(): Promise<void> {
    this.assertUnlocked()
    await this.#opened.thread.probe(this.#opened.token)
  }

  /** Its PIN is kept: it may be opened again. */
  override async close(): Promise<void> {
    super.lock()
    await this.#end()
  }

  #end(): Promise<void> {
    const { thread, token } = this.#opened
    this.#closing ??= thread
      .closeToken(token)
      // A thread that is dead or hangs has nothing left to close.
      .catch(() => undefined)
      .then(() => thread.release())
    return this.#closing
  }

  #unwrapTo<T>(
    material: KeyMaterial,
    aad: Uint8Array,
    storePart: Uint8Array,
    take: (output: Uint8Array) => T,
  ): Promise<T> {
    const { id, mechanism } = referenceOf(material)
    if (storePart.length < OVERHEAD_BYTES || storePart.length > WRAPPED_KEY_BYTES_MAX) {
      throw new KeyfoldError('DECRYPT_FAILED')
    }
    return this.#use({
      key: { id, keySpec: material.keySpec },
      operation: { kind: 'decrypt', mechanism },
      aad,
      input: storePart,
      // SoftHSM wants room for the tag too.
      outputBytesMax: storePart.length,
      take,
    })
  }

  #usePrivate(
    material: KeyMaterial,
    operation: KeyOperation,
    input: Uint8Array,
  ): Promise<Uint8Array> {
    const { id } = referenceOf(material)
    return this.#use({
      key: { id, keySpec: material.keySpec },
      operation,
      aad: NOTHING,
      input,
      outputBytesMax: SIGNATURE_BYTES_MAX,
      take: copyOf,
    })
  }

  async #use<T>(call: RegionCall<T>): Promise<T> {
    this.assertUnlocked()
    return this.#opened.thread.use(this.#opened.token, call)
  }

  #assertOffered(keySpec: KeySpec): void {
    this.assertUnlocked()
    if (!this.traits.keySpecs.includes(keySpec)) {
      throw new KeyfoldError('OPERATION_UNSUPPORTED', `the token has no ${keySpec}`)
    }
  }
}

/** Throws KMS_KEY_UNAVAILABLE: a row of the catalog that was moved leads to a key that is another's. */
function referenceOf(material: KeyMaterial): ReturnType<typeof decodeTokenReference> {
  const reference = decodeTokenReference(material.stored)
  const wraps = material.keySpec === 'SYMMETRIC_DEFAULT'
  if (!isTokenKeyIdOf(reference.id, material) || wraps !== (reference.ivMode !== 'none')) {
    throw new KeyfoldError('KMS_KEY_UNAVAILABLE', 'the catalog refers to the key of another')
  }
  return reference
}

/** r ‖ s, as tokens give them, in DER. */
function encodeHalves(signature: Uint8Array): Uint8Array {
  const hex = Buffer.from(signature).toString('hex')
  const half = hex.length / 2
  return encodeSignature(BigInt(`0x${hex.slice(0, half)}`), BigInt(`0x${hex.slice(half)}`))
}
