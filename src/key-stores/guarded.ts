/**
 * A key store of another system with its guard in front: every call goes through guard.ts, and a wrap is counted before
 * it is made where random IVs bound how many there may be. The local store needs none of it.
 *
 * When such a store is away, sealing goes on with the message keys that are in memory, until their limits: that is what
 * they are for, and an outage is no revocation. So does opening, unless the store is configured to `purgesOnOutage`: whoever
 * holds their keys elsewhere so as to pull the plug wants that nothing opens from then on, and pays with an outage of
 * theirs for each of the store's. An operator who disconnects a store ends both at once, whatever the setting.
 */
import type { Crypto, KeyHandle } from '../crypto/crypto.ts'
import type {
  EncryptionAlgorithm,
  KeyAgreementAlgorithm,
  KeySpec,
  MacAlgorithm,
} from '../crypto/key-spec.ts'
import type { Signable } from '../crypto/signature.ts'
import { KeyfoldError } from '../errors.ts'
import { STORE_MATERIAL_DEADLINE_MS } from '../limits.ts'
import { Guard, GUARD_DEFAULTS, type GuardSettings } from './guard.ts'
import type {
  ImportedKeyMaterial,
  KeyMaterial,
  KeyStore,
  KeyStoreTraits,
  NewKeyMaterial,
  StoreTurn,
} from './key-store.ts'
import { MaterialInDoubt } from './material-in-doubt.ts'

export interface GuardedStoreSettings extends GuardSettings {
  /** The server is not ready while this store is away. Else it is: what is in memory goes on. */
  readonly required: boolean
  /** Message keys that open are wiped from memory when this store is found to be away. */
  readonly purgesOnOutage: boolean
}

export const GUARDED_STORE_DEFAULTS: GuardedStoreSettings = {
  ...GUARD_DEFAULTS,
  required: false,
  purgesOnOutage: false,
}

export interface GuardedStoreOptions {
  /** What KMS keys call it; the store's own name where absent. */
  readonly name?: string
  readonly crypto: Pick<Crypto, 'releaseKey'>
  readonly settings?: Partial<GuardedStoreSettings> | undefined
  /** Wall clock. */
  readonly nowMs?: () => number
  /** Takes one wrap out of what this material is good for, or throws WRAP_BUDGET_SPENT. */
  readonly reserveWrap: (store: KeyStore, material: KeyMaterial) => Promise<void> | undefined
  /** It is found to be away, or there again: called in the tick in which that is known. */
  readonly onChange: (state: 'open' | 'closed', store: GuardedKeyStore) => void
  /** Was made after its deadline, or may have been made: nothing refers to it. */
  readonly onOrphan: (material: KeyMaterial, store: GuardedKeyStore) => void
}

export class GuardedKeyStore implements KeyStore {
  readonly settings: GuardedStoreSettings
  readonly guard: Guard
  readonly #store: KeyStore
  readonly #options: GuardedStoreOptions

  constructor(store: KeyStore, options: GuardedStoreOptions) {
    this.#store = store
    this.#options = options
    this.settings = { ...GUARDED_STORE_DEFAULTS, ...options.settings }
    this.guard = new Guard({
      name: this.name,
      settings: this.settings,
      probe: () => store.probe(),
      nowMs: options.nowMs ?? Date.now,
      onChange: (state) => options.onChange(state, this),
    })
  }

  get name(): string {
    return this.#options.name ?? this.#store.name
  }

  get traits(): KeyStoreTraits {
    return this.#store.traits
  }

  createKeyMaterial(...wanted: Parameters<KeyStore['createKeyMaterial']>): Promise<NewKeyMaterial> {
    const [kmsKeyId, version, keySpec, externalKeyId] = wanted
    const orphaned = (made: NewKeyMaterial): void => {
      // A key that the other side had before is nobody's orphan.
      if (externalKeyId !== undefined) return
      // The next rotation takes it, and may have. A first version is of a KMS key that nobody tries to create again.
      if (this.traits.adoptsMaterial === true && version > 1) return
      this.#options.onOrphan({ kmsKeyId, version, keySpec, ...made }, this)
    }
    return this.guard.call({ ...MAKING, discard: orphaned }, async () => {
      try {
        return await this.#store.createKeyMaterial(...wanted)
      } catch (error) {
        // Also of an attempt that nobody waits for any more.
        if (error instanceof MaterialInDoubt) orphaned(error.made)
        throw error
      }
    })
  }

  async importKeyMaterial(
    kmsKeyId: Uint8Array,
    version: number,
    keySpec: KeySpec,
    plaintext: Uint8Array,
  ): Promise<ImportedKeyMaterial> {
    try {
      return await this.guard.call(MAKING, async () => {
        // The store's own: it may be reading still when the deadline has passed and the caller's is wiped, and must
        // not read zeros.
        const own = Uint8Array.from(plaintext)
        try {
          return await this.#store.importKeyMaterial(kmsKeyId, version, keySpec, own)
        } finally {
          own.fill(0)
        }
      })
    } finally {
      plaintext.fill(0)
    }
  }

  wrapKey(
    material: KeyMaterial,
    aad: Uint8Array,
    key: KeyHandle,
    turn?: StoreTurn,
  ): Promise<Uint8Array> {
    return this.#wrap(material, turn, () => this.#store.wrapKey(material, aad, key))
  }

  wrapMessageKey(
    material: KeyMaterial,
    aad: Uint8Array,
    messageKey: KeyHandle,
    turn?: StoreTurn,
  ): Promise<Uint8Array> {
    return this.#wrap(material, turn, () => this.#store.wrapMessageKey(material, aad, messageKey))
  }

  wrapBytes(
    material: KeyMaterial,
    aad: Uint8Array,
    plaintext: Uint8Array,
    turn?: StoreTurn,
  ): Promise<Uint8Array> {
    return this.#wrap(material, turn, () => this.#store.wrapBytes(material, aad, plaintext))
  }

  unwrapKey(
    material: KeyMaterial,
    aad: Uint8Array,
    storePart: Uint8Array,
    turn?: StoreTurn,
  ): Promise<KeyHandle> {
    return this.guard.call({ turn, discard: (late) => this.#release(late) }, () =>
      this.#store.unwrapKey(material, aad, storePart),
    )
  }

  unwrapBytes(
    material: KeyMaterial,
    aad: Uint8Array,
    storePart: Uint8Array,
    turn?: StoreTurn,
  ): Promise<Uint8Array> {
    return this.#bytes(turn, () => this.#store.unwrapBytes(material, aad, storePart))
  }

  sign(material: KeyMaterial, signable: Signable, turn?: StoreTurn): Promise<Uint8Array> {
    return this.#bytes(turn, () => this.#store.sign(material, signable))
  }

  decryptWithPrivateKey(
    material: KeyMaterial,
    algorithm: EncryptionAlgorithm,
    ciphertext: Uint8Array,
    turn?: StoreTurn,
  ): Promise<Uint8Array> {
    return this.#bytes(turn, () =>
      this.#store.decryptWithPrivateKey(material, algorithm, ciphertext),
    )
  }

  deriveSharedSecret(
    material: KeyMaterial,
    algorithm: KeyAgreementAlgorithm,
    peer: Uint8Array,
    turn?: StoreTurn,
  ): Promise<Uint8Array> {
    return this.#bytes(turn, () => this.#store.deriveSharedSecret(material, algorithm, peer))
  }

  generateMac(
    material: KeyMaterial,
    algorithm: MacAlgorithm,
    message: Uint8Array,
    turn?: StoreTurn,
  ): Promise<Uint8Array> {
    return this.#bytes(turn, () => this.#store.generateMac(material, algorithm, message))
  }

  /** Throws OPERATION_UNSUPPORTED where the store has no random source of its own. */
  async generateRandom(bytes: number, turn?: StoreTurn): Promise<Uint8Array> {
    const generate = this.#store.generateRandom?.bind(this.#store, bytes)
    if (generate !== undefined) return this.#bytes(turn, generate)
    throw new KeyfoldError('OPERATION_UNSUPPORTED', `${this.name} gives no random bytes`)
  }

  destroyKeyMaterial(material: KeyMaterial): Promise<void> {
    return this.guard.call(MAKING, () => this.#store.destroyKeyMaterial(material))
  }

  forget(kmsKeyId: Uint8Array): void {
    this.#store.forget(kmsKeyId)
  }

  lock(): void {
    this.guard.end(new KeyfoldError('LOCKED'))
    this.#store.lock()
  }

  probe(): Promise<void> {
    return this.guard.probe()
  }

  async close(): Promise<void> {
    this.guard.end(new KeyfoldError('SHUTTING_DOWN'))
    await this.#store.close()
  }

  async #wrap(
    material: KeyMaterial,
    turn: StoreTurn | undefined,
    wrap: () => Promise<Uint8Array>,
  ): Promise<Uint8Array> {
    if (this.traits.wrapsMax !== undefined) {
      // Not counted where it is known that nothing will be wrapped.
      this.guard.assertReachable()
      const reserving = this.#options.reserveWrap(this, material)
      if (reserving !== undefined) await reserving
    }
    return this.#bytes(turn, wrap)
  }

  #bytes(turn: StoreTurn | undefined, call: () => Promise<Uint8Array>): Promise<Uint8Array> {
    return this.guard.call({ turn, discard: (late) => void late.fill(0) }, call)
  }

  #release(handle: KeyHandle): void {
    try {
      this.#options.crypto.releaseKey(handle)
    } catch (error) {
      // After wipeAllKeys the slot is gone already, which is what was wanted.
      if (!(error instanceof KeyfoldError && error.code === 'KEY_HANDLE_STALE')) throw error
    }
  }
}

/** What else is made too late stays on the other side. */
const MAKING = {
  turn: undefined,
  deadlineMs: STORE_MATERIAL_DEADLINE_MS,
  discard: (): void => undefined,
} as const
