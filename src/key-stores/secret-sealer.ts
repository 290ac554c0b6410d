/**
 * Seals the secrets that the catalog keeps for the server's own use (src/format/sealed-secret.ts) under a key derived
 * from the root key: without the root key the catalog is noise.
 */
import type { Crypto, KeyHandle } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import {
  decodeSealedSecret,
  encodeSealedSecret,
  encodeSecretAad,
  type SecretPlace,
} from '../format/sealed-secret.ts'

const ROOT_LABEL = 'keyfold/root/v1/secrets'
const ROOT_VERSION = 1

export class SecretSealer {
  readonly #crypto: Crypto
  /** HKDF of the root key; undefined after lock(). */
  #sealingKey: KeyHandle | undefined

  /** Derives from the root key what it needs; the handle stays the caller's. */
  constructor(crypto: Crypto, root: KeyHandle) {
    this.#crypto = crypto
    this.#sealingKey = crypto.deriveKey(root, ROOT_LABEL)
  }

  /** Errors: LOCKED. */
  seal(place: SecretPlace, secret: Uint8Array): Uint8Array {
    const aad = encodeSecretAad(place, ROOT_VERSION)
    const sealed = this.#crypto.wrapBytes(this.#root(), aad, secret)
    return encodeSealedSecret({ rootVersion: ROOT_VERSION, sealed })
  }

  /** The secret, which the caller fills with zeros. Errors: LOCKED, ROOT_KEY_INVALID. */
  open(place: SecretPlace, stored: Uint8Array): Uint8Array {
    const sealingKey = this.#root()
    const { rootVersion, sealed } = decodeSealedSecret(stored)
    try {
      return this.#crypto.unwrapBytes(sealingKey, encodeSecretAad(place, rootVersion), sealed)
    } catch (cause) {
      // Nothing that a caller sent: our own catalog does not open.
      if (cause instanceof KeyfoldError && cause.code === 'DECRYPT_FAILED') {
        throw new KeyfoldError('ROOT_KEY_INVALID', undefined, cause)
      }
      throw cause
    }
  }

  lock(): void {
    const sealingKey = this.#sealingKey
    this.#sealingKey = undefined
    if (sealingKey === undefined) return
    try {
      this.#crypto.releaseKey(sealingKey)
    } catch (error) {
      // wipeAllKeys came first, which is what was wanted.
      if (!(error instanceof KeyfoldError && error.code === 'KEY_HANDLE_STALE')) throw error
    }
  }

  #root(): KeyHandle {
    if (this.#sealingKey === undefined) throw new KeyfoldError('LOCKED')
    return this.#sealingKey
  }
}
