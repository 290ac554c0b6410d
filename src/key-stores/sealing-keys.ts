/**
 * The root key in use, by version: what is sealed is sealed under the current one; what a rotation of the root key has
 * not come to yet opens under the one before, and what other nodes seal already under the next. Of each only a key
 * derived for one purpose is kept.
 */
import type { Crypto, KeyHandle } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'

export interface RootKey {
  /** From 1. */
  readonly version: number
  readonly key: KeyHandle
}

export interface RootKeys {
  readonly current: RootKey
  /** While a rotation of the root key is under way. */
  readonly previous?: RootKey | undefined
  /** Announced, so that nodes have it before anything is sealed under it. */
  readonly next?: RootKey | undefined
}

export class SealingKeys {
  readonly #crypto: Crypto
  #currentVersion: number
  /** By root version; empty after lock(). */
  readonly #keys = new Map<number, KeyHandle>()

  /** HKDF of each root key under `label`; the handles stay the caller's. */
  constructor(crypto: Crypto, { current, previous, next }: RootKeys, label: string) {
    this.#crypto = crypto
    this.#currentVersion = current.version
    for (const root of [current, previous, next]) {
      if (root === undefined) continue
      this.#keys.set(root.version, crypto.deriveKey(root.key, label))
    }
  }

  /** Errors: LOCKED. */
  get current(): { readonly rootVersion: number; readonly key: KeyHandle } {
    return { rootVersion: this.#currentVersion, key: this.of(this.#currentVersion) }
  }

  /** What is sealed from now on is sealed under this version, which is at hand. */
  turnTo(rootVersion: number): void {
    this.of(rootVersion)
    this.#currentVersion = rootVersion
  }

  assertUnlocked(): void {
    if (this.#keys.size === 0) throw new KeyfoldError('LOCKED')
  }

  /** Errors: LOCKED; ROOT_KEY_INVALID, where that root key is not at hand. */
  of(rootVersion: number): KeyHandle {
    this.assertUnlocked()
    const key = this.#keys.get(rootVersion)
    if (key !== undefined) return key
    throw new KeyfoldError(
      'ROOT_KEY_INVALID',
      `sealed under version ${rootVersion} of the root key`,
    )
  }

  lock(): void {
    const keys = [...this.#keys.values()]
    this.#keys.clear()
    for (const key of keys) {
      try {
        this.#crypto.releaseKey(key)
      } catch (error) {
        // wipeAllKeys came first, which is what was wanted.
        if (!(error instanceof KeyfoldError && error.code === 'KEY_HANDLE_STALE')) throw error
      }
    }
  }
}
