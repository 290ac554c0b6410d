/**
 * Message keys of a server: POST /v1/message-keys, a call for each new one, and one for all key entries that are asked
 * for in one turn of the event loop. The bytes of a key are in ordinary memory from the socket until it is in the key
 * table, and are zeros then.
 */
import type { Transport } from '../client/transport.ts'
import {
  decodeAnswer,
  encodeRequest,
  type BatchAnswer,
  type EncryptionContext,
  type ReleasedMessageKey,
} from '../client/wire.ts'
import type { Crypto } from '../crypto/crypto.ts'
import type { CanonicalContext } from '../data-keys/lease.ts'
import type {
  CreatedMessageKey,
  MessageKeySource,
  OpenedMessageKey,
} from '../data-keys/message-key-source.ts'
import { KeyfoldError, type ErrorCode } from '../errors.ts'
import { decodeEncryptionContext } from '../format/encryption-context.ts'
import { DATA_KEY_ID_BYTES, decodeKeyEntry } from '../format/key-entry.ts'
import { decodeWrappedKey } from '../format/wrapped-key.ts'
import type { KmsKey } from '../kms/kms-key.ts'
import { KEY_ENTRIES_MAX } from '../limits.ts'
import type { RemoteKmsKeys } from './remote-kms-keys.ts'

const PATH = '/v1/message-keys'
const MESSAGE_KEY_BYTES = 32

export interface RemoteMessageKeysOptions {
  readonly crypto: Crypto
  readonly transport: Transport
  readonly registry: RemoteKmsKeys
  /** The server does not let this KMS key be used any more; undefined: nor this caller at all. */
  readonly onRefused: (kmsKeyId: string | undefined) => void
}

/** Key entries of one context that travel together. */
interface Gathered {
  readonly context: CanonicalContext
  readonly waiting: Waiting[]
}

interface Waiting {
  readonly keyEntry: Uint8Array
  readonly dataKeyId: string
  readonly resolve: (released: ReleasedMessageKey) => void
  readonly reject: (error: unknown) => void
}

export class RemoteMessageKeys implements MessageKeySource {
  readonly counters = { wraps: 0, unwraps: 0 }
  readonly #options: RemoteMessageKeysOptions
  readonly #gathered = new Map<string, Gathered>()
  calls = 0

  /** A server that is away is told by the call. */
  assertReachable(): void {}

  constructor(options: RemoteMessageKeysOptions) {
    this.#options = options
  }

  async createMessageKey({
    kmsKey,
    suite,
    context,
  }: Parameters<MessageKeySource['createMessageKey']>[0]): Promise<CreatedMessageKey> {
    const { crypto } = this.#options
    const [released] = await this.#ask(kmsKey, context, 1)
    if (released === undefined) throw notKeyfold()
    this.counters.wraps++
    return this.#takeIn(released, (raw) => {
      const { commitment, wrappedKey } = decodeKeyEntry(released.keyEntry, 'CONNECTION_FAILED')
      const key = crypto.createMessageKey(raw, suite)
      if (Buffer.compare(crypto.messageKeyCommitment(key), commitment) !== 0) {
        crypto.releaseKey(key)
        throw notKeyfold()
      }
      this.#options.registry.nameIt(kmsKey.id, released.keyId)
      const { materialVersion } = decodeWrappedKey(wrappedKey)
      return { key, keyEntry: Uint8Array.from(released.keyEntry), materialVersion }
    })
  }

  async openMessageKey({
    kmsKey,
    suite,
    keyEntry,
    context,
  }: Parameters<MessageKeySource['openMessageKey']>[0]): Promise<OpenedMessageKey> {
    const { commitment, wrappedKey } = decodeKeyEntry(keyEntry, 'DECRYPT_FAILED')
    const { materialVersion } = decodeWrappedKey(wrappedKey)
    const released = await this.#askForEntry(keyEntry, commitment, context).catch(
      (error: unknown) => {
        this.#tell(error, kmsKey.id)
        throw ofMessages(error)
      },
    )
    this.counters.unwraps++
    return this.#takeIn(released, (raw) => {
      this.#options.registry.nameIt(kmsKey.id, released.keyId)
      return { key: this.#options.crypto.openMessageKey(raw, suite, commitment), materialVersion }
    })
  }

  /** Throws what the server refuses this caller with. */
  async assertMaySeal({ kmsKey, context }: Asked): Promise<void> {
    await this.#ask(kmsKey, context, 0)
  }

  async assertMayOpen(asked: Asked): Promise<void> {
    await this.assertMaySeal(asked).catch((error: unknown) => {
      throw ofMessages(error)
    })
  }

  // Asking.

  async #ask(
    kmsKey: KmsKey,
    context: CanonicalContext,
    count: number,
  ): Promise<readonly (ReleasedMessageKey | undefined)[]> {
    const fields = { key: kmsKey.keyId, context: contextOf(context), count }
    try {
      const { messageKeys } = await this.#call(fields)
      if (messageKeys?.length !== count) throw notKeyfold()
      return messageKeys
    } catch (error) {
      this.#tell(error, kmsKey.id)
      throw error
    }
  }

  #askForEntry(
    keyEntry: Uint8Array,
    commitment: Uint8Array,
    context: CanonicalContext,
  ): Promise<ReleasedMessageKey> {
    const name = Buffer.from(context.hash).toString('latin1')
    let gathered = this.#gathered.get(name)
    if (gathered === undefined) {
      const started: Gathered = { context, waiting: [] }
      gathered = started
      this.#gathered.set(name, started)
      setImmediate(() => {
        this.#gathered.delete(name)
        for (const group of groupsOf(started.waiting)) void this.#openAll(group, context)
      })
    }
    const dataKeyId = Buffer.from(commitment.subarray(0, DATA_KEY_ID_BYTES)).toString('latin1')
    const { waiting } = gathered
    return new Promise((resolve, reject) => {
      waiting.push({ keyEntry, dataKeyId, resolve, reject })
    })
  }

  /** Never rejects. */
  async #openAll(group: readonly Waiting[], context: CanonicalContext): Promise<void> {
    try {
      const keyEntries = group.map(({ keyEntry }) => keyEntry)
      const answer = await this.#call({ context: contextOf(context), keyEntries })
      if (answer.messageKeys?.length !== group.length) throw notKeyfold()
      const codes = new Map(answer.errors ?? [])
      for (const [i, { resolve, reject }] of group.entries()) {
        const released = answer.messageKeys[i]
        if (released === undefined) reject(new KeyfoldError(codes.get(i) ?? 'DECRYPT_FAILED'))
        else resolve(released)
      }
    } catch (error) {
      for (const { reject } of group) reject(error)
    }
  }

  async #call(fields: Parameters<typeof encodeRequest>[0]): Promise<BatchAnswer> {
    this.calls++
    const body = encodeRequest(fields)
    const bytes = await this.#options.transport.send({
      method: 'POST',
      path: PATH,
      body,
      signal: undefined,
      secret: true,
    })
    return decodeAnswer(bytes)
  }

  /** Puts the key into the table, where its bytes in the answer end. */
  #takeIn<T>({ messageKey }: ReleasedMessageKey, use: (raw: number) => T): T {
    const { crypto } = this.#options
    if (messageKey.length !== MESSAGE_KEY_BYTES) throw notKeyfold()
    const raw = crypto.importKey(messageKey)
    try {
      return use(raw)
    } finally {
      crypto.releaseKey(raw)
    }
  }

  // Refusals.

  #tell(error: unknown, kmsKeyId: string): void {
    if (!(error instanceof KeyfoldError)) return
    if (error.code === 'UNAUTHENTICATED' || error.code === 'LOCKED') {
      this.#options.onRefused(undefined)
    } else if (REVOKED.has(error.code)) this.#options.onRefused(kmsKeyId)
  }
}

interface Asked {
  readonly kmsKey: KmsKey
  readonly context: CanonicalContext
}

/** Of messages there is no UNAUTHENTICATED; that they may not be opened is what it means. */
function ofMessages(error: unknown): unknown {
  return error instanceof KeyfoldError && error.code === 'UNAUTHENTICATED'
    ? new KeyfoldError('ACCESS_DENIED', undefined, error)
    : error
}

const REVOKED: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'ACCESS_DENIED',
  'KMS_KEY_DISABLED',
  'KMS_KEY_STATE_INVALID',
  'KMS_KEY_NOT_FOUND',
])

function notKeyfold(): KeyfoldError {
  return new KeyfoldError('CONNECTION_FAILED', 'the answer is not one of keyfold')
}

function contextOf({ bytes }: CanonicalContext): EncryptionContext | undefined {
  return bytes.length === 0 ? undefined : Object.fromEntries(decodeEncryptionContext(bytes))
}

/** What one request may hold: no more entries than a server takes, and none twice under one id. */
function groupsOf(waiting: readonly Waiting[]): readonly (readonly Waiting[])[] {
  const groups: { readonly ids: Set<string>; readonly waiting: Waiting[] }[] = []
  for (const one of waiting) {
    let group = groups.find(
      ({ ids, waiting: members }) => !ids.has(one.dataKeyId) && members.length < KEY_ENTRIES_MAX,
    )
    if (group === undefined) {
      group = { ids: new Set(), waiting: [] }
      groups.push(group)
    }
    group.ids.add(one.dataKeyId)
    group.waiting.push(one)
  }
  return groups.map((group) => group.waiting)
}
