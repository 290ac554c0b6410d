/**
 * Key stores that are somewhere else, in this process: real ones under root keys of their own. They can be away, as a
 * proxy or an HSM can.
 */
import { createHash } from 'node:crypto'

import type { Crypto } from '../../dist/crypto/crypto.js'
import type { KeySpec } from '../../dist/crypto/key-spec.js'
import { KeyfoldError, type ErrorCode } from '../../dist/errors.js'
import type {
  KeyMaterial,
  KeyStoreTraits,
  NewKeyMaterial,
} from '../../dist/key-stores/key-store.js'
import { LocalKeyStore } from '../../dist/key-stores/local.js'
import type { KeyStoreAddress, OpenKeyStore } from '../../dist/kms/key-store-opener.js'

const ORIGINS = {
  pkcs11: 'AWS_CLOUDHSM',
  xks: 'EXTERNAL_KEY_STORE',
  'aws-kms': 'AWS_KMS',
  transit: 'EXTERNAL_KEY_STORE',
} as const

export class Elsewhere {
  /** What every call to it fails with; undefined: it is there. */
  failsWith: ErrorCode | KeyfoldError | undefined
  /** Opening waits for this. */
  gate: Promise<void> = Promise.resolve()
  readonly absentKeys = new Set<string>()
  /** `KEYID/VERSION`, the id in hex. */
  readonly destroyed: string[] = []
  /** What stores were opened with. */
  readonly openedWith: {
    readonly name: string
    readonly settings: KeyStoreAddress['settings']
    readonly secret: string | undefined
  }[] = []
  closed = 0

  assertThere(): void {
    if (this.failsWith === undefined) return
    throw typeof this.failsWith === 'string' ? new KeyfoldError(this.failsWith) : this.failsWith
  }

  readonly opener =
    (crypto: Crypto): OpenKeyStore =>
    async (address) => {
      const secret = address.openSecret?.()
      const { name, settings } = address
      this.openedWith.push({ name, settings, secret: secret && Buffer.from(secret).toString() })
      secret?.fill(0)
      await this.gate
      this.assertThere()
      return new ElsewhereStore(this, crypto, address)
    }
}

class ElsewhereStore extends LocalKeyStore {
  override readonly traits: KeyStoreTraits
  readonly #elsewhere: Elsewhere

  constructor(elsewhere: Elsewhere, crypto: Crypto, { kind, id }: KeyStoreAddress) {
    const root = crypto.importKey(createHash('sha256').update(id).digest())
    super(crypto, { current: { version: 1, key: root } })
    crypto.releaseKey(root)
    this.#elsewhere = elsewhere
    this.traits = {
      origin: ORIGINS[kind],
      keySpecs: ['SYMMETRIC_DEFAULT'],
      importsMaterial: false,
      rotates: kind === 'aws-kms',
      wrappingSuite: 1,
      wrapsMax: undefined,
    }
  }

  override async createKeyMaterial(
    kmsKeyId: Uint8Array,
    version: number,
    keySpec: KeySpec,
    externalKeyId = '',
  ): Promise<NewKeyMaterial> {
    this.#elsewhere.assertThere()
    if (this.#elsewhere.absentKeys.has(externalKeyId)) throw new KeyfoldError('XKS_KEY_NOT_FOUND')
    return super.createKeyMaterial(kmsKeyId, version, keySpec)
  }

  override readonly destroyKeyMaterial = async (material: KeyMaterial): Promise<void> => {
    this.#elsewhere.assertThere()
    const { kmsKeyId, version } = material
    this.#elsewhere.destroyed.push(`${Buffer.from(kmsKeyId).toString('hex')}/${version}`)
  }

  override async probe(): Promise<void> {
    this.#elsewhere.assertThere()
    return super.probe()
  }

  override async close(): Promise<void> {
    this.#elsewhere.closed++
    return super.close()
  }
}
