/**
 * KMS keys of a server, as far as a caller of it knows them: by the name that they use, or by the 16 bytes in a
 * ciphertext. State, policies and material are the server's affair: here every key is taken to be usable, and the server
 * says otherwise when a message key is asked of it.
 */
import { LRUCache } from 'lru-cache'

import { kmsKeyIdText } from '../format/wrapped-key.ts'
import type { KmsKey, KmsKeyRegistry } from '../kms/kms-key.ts'

const KEYS_MAX = 65_536

export class RemoteKmsKeys implements KmsKeyRegistry {
  /** By `name` or `id`, a colon, and what it is. */
  readonly #known = new LRUCache<string, RemoteKmsKey>({ max: KEYS_MAX })

  peek(reference: string): KmsKey {
    return this.#of(`name:${reference}`, reference, NO_ID)
  }

  async resolve(reference: string): Promise<KmsKey> {
    return this.peek(reference)
  }

  peekById(idBytes: Uint8Array): KmsKey {
    const reference = kmsKeyIdText(idBytes)
    return this.#of(`id:${reference}`, reference, idBytes)
  }

  async resolveById(idBytes: Uint8Array): Promise<KmsKey> {
    return this.peekById(idBytes)
  }

  current(id: string): KmsKey | undefined {
    return this.#known.get(id)
  }

  assertServed(): void {
    // The server is asked again before a message key is old.
  }

  onChange(): void {
    // Nobody tells: what has changed shows when a message key is asked for.
  }

  /** What the server calls it. */
  nameIt(id: string, arn: string): void {
    this.#known.get(id)?.nameIt(arn)
  }

  #of(id: string, reference: string, idBytes: Uint8Array): KmsKey {
    const known = this.#known.get(id)
    if (known !== undefined) return known
    const kmsKey = new RemoteKmsKey(id, reference, Uint8Array.from(idBytes))
    this.#known.set(id, kmsKey)
    return kmsKey
  }
}

const NO_ID = new Uint8Array(16)

class RemoteKmsKey implements KmsKey {
  readonly id: string
  readonly keyId: string
  readonly idBytes: Uint8Array
  readonly region = ''
  readonly state = 'Enabled'
  readonly keySpec = 'SYMMETRIC_DEFAULT'
  readonly keyUsage = 'ENCRYPT_DECRYPT'
  readonly origin = 'AWS_KMS'
  readonly manager = 'CUSTOMER'
  readonly multiRegion = undefined
  readonly policy = ''
  readonly grants = []
  readonly aliases = []
  readonly description = ''
  readonly createdAtMs = 0
  readonly deletionAtMs = undefined
  readonly pendingWindowDays = undefined
  readonly rotationPeriodDays = undefined
  readonly nextRotationAtMs = undefined
  readonly keyStore = ''
  readonly externalKeyId = undefined
  /** Which one wraps only the server knows: its rotations are met when a message key has had its time. */
  readonly currentVersion = 0
  readonly materials: KmsKey['materials'] = new Map()
  readonly materialValidToMs = undefined
  readonly tags: KmsKey['tags'] = new Map()
  readonly epoch = 0
  #arn: string

  constructor(id: string, reference: string, idBytes: Uint8Array) {
    this.id = id
    this.keyId = reference
    this.idBytes = idBytes
    this.#arn = reference
  }

  /** The caller's name for it, until the server has said its own. */
  get arn(): string {
    return this.#arn
  }

  nameIt(arn: string): void {
    this.#arn = arn
  }
}
