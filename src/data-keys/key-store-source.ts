/** Message keys made and opened by the key stores of this process: one call to the store each. */
import type { Crypto } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import { decodeKeyEntry, encodeKeyEntry } from '../format/key-entry.ts'
import {
  decodeWrappedKey,
  encodeWrappedKey,
  encodeWrappedKeyAad,
  USAGE_MESSAGE_KEY,
  type WrappedKeyHeader,
} from '../format/wrapped-key.ts'
import type { KeyMaterial, KeyStore } from '../key-stores/key-store.ts'
import { assertWrappedBy, wrappedKeyHeader } from '../key-stores/wrapping.ts'
import type { KmsKey } from '../kms/kms-key.ts'
import type { CreatedMessageKey, MessageKeySource, OpenedMessageKey } from './message-key-source.ts'

export class KeyStoreSource implements MessageKeySource {
  readonly counters = { wraps: 0, unwraps: 0 }
  readonly #crypto: Crypto
  readonly #keyStoreOf: (kmsKey: KmsKey) => KeyStore

  constructor(crypto: Crypto, keyStoreOf: (kmsKey: KmsKey) => KeyStore) {
    this.#crypto = crypto
    this.#keyStoreOf = keyStoreOf
  }

  assertReachable(kmsKey: KmsKey): void {
    this.#keyStoreOf(kmsKey).guard?.assertReachable()
  }

  async createMessageKey({
    kmsKey,
    suite,
    context,
    turn,
  }: Parameters<MessageKeySource['createMessageKey']>[0]): Promise<CreatedMessageKey> {
    const material = materialOf(kmsKey, kmsKey.currentVersion)
    const store = this.#keyStoreOf(kmsKey)
    const header = wrappedKeyHeader(store, material, USAGE_MESSAGE_KEY)
    const raw = this.#crypto.generateKey()
    try {
      this.counters.wraps++
      const aad = encodeWrappedKeyAad(header, context.hash)
      const storePart = await store.wrapKey(material, aad, raw, turn)
      const key = this.#crypto.createMessageKey(raw, suite)
      const keyEntry = encodeKeyEntry({
        commitment: this.#crypto.messageKeyCommitment(key),
        wrappedKey: encodeWrappedKey({ ...header, storePart }),
      })
      return { key, keyEntry, materialVersion: material.version }
    } finally {
      this.#crypto.releaseKey(raw)
    }
  }

  async openMessageKey({
    kmsKey,
    suite,
    keyEntry,
    context,
    turn,
  }: Parameters<MessageKeySource['openMessageKey']>[0]): Promise<OpenedMessageKey> {
    const { commitment, wrappedKey } = decodeKeyEntry(keyEntry, 'DECRYPT_FAILED')
    const { storePart, ...header } = decodeWrappedKey(wrappedKey)
    assertMessageKey(header, kmsKey)
    const material = kmsKey.materials.get(header.materialVersion)
    if (material === undefined) throw new KeyfoldError('DECRYPT_FAILED')
    const store = this.#keyStoreOf(kmsKey)
    assertWrappedBy(store, header)
    this.counters.unwraps++
    const aad = encodeWrappedKeyAad(header, context.hash)
    const raw = await store.unwrapKey(material, aad, storePart, turn)
    try {
      const key = this.#crypto.openMessageKey(raw, suite, commitment)
      return { key, materialVersion: material.version }
    } finally {
      this.#crypto.releaseKey(raw)
    }
  }
}

/** Only a key that the service made may open messages, and only under the KMS key that was authorised. */
function assertMessageKey(header: WrappedKeyHeader, kmsKey: KmsKey): void {
  const sameKey = Buffer.compare(header.kmsKeyId, kmsKey.idBytes) === 0
  if (header.usage !== USAGE_MESSAGE_KEY || !sameKey) throw new KeyfoldError('DECRYPT_FAILED')
}

function materialOf(kmsKey: KmsKey, version: number): KeyMaterial {
  const material = kmsKey.materials.get(version)
  if (material === undefined) throw new KeyfoldError('KMS_KEY_STATE_INVALID', 'it has no material')
  return material
}
