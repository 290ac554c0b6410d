/**
 * Seals the secrets that the catalog keeps for the server's own use (src/format/sealed-secret.ts) under a key derived
 * from the root key: without the root key the catalog is noise.
 */
import type { Crypto } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import {
  decodeSealedSecret,
  encodeSealedSecret,
  encodeSecretAad,
  type SecretPlace,
} from '../format/sealed-secret.ts'
import { SealingKeys, type RootKeys } from './sealing-keys.ts'

const ROOT_LABEL = 'keyfold/root/v1/secrets'

export class SecretSealer {
  readonly #crypto: Crypto
  readonly #keys: SealingKeys

  /** Derives from the root key what it needs; the handles stay the caller's. */
  constructor(crypto: Crypto, roots: RootKeys) {
    this.#crypto = crypto
    this.#keys = new SealingKeys(crypto, roots, ROOT_LABEL)
  }

  /** Errors: LOCKED. */
  seal(place: SecretPlace, secret: Uint8Array): Uint8Array {
    const { rootVersion, key } = this.#keys.current
    const sealed = this.#crypto.wrapBytes(key, encodeSecretAad(place, rootVersion), secret)
    return encodeSealedSecret({ rootVersion, sealed })
  }

  /** The secret, which the caller fills with zeros. Errors: LOCKED, ROOT_KEY_INVALID. */
  open(place: SecretPlace, stored: Uint8Array): Uint8Array {
    this.#keys.assertUnlocked()
    const { rootVersion, sealed } = decodeSealedSecret(stored)
    const sealingKey = this.#keys.of(rootVersion)
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

  /** The same secret under the current root key. Errors: as open. */
  reseal(place: SecretPlace, stored: Uint8Array): Uint8Array {
    const secret = this.open(place, stored)
    try {
      return this.seal(place, secret)
    } finally {
      secret.fill(0)
    }
  }

  /** Seals under this version of the root key from now on. */
  turnTo(rootVersion: number): void {
    this.#keys.turnTo(rootVersion)
  }

  lock(): void {
    this.#keys.lock()
  }
}
