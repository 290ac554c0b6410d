/**
 * Batches of byte strings through an envelope in this process. They are written as a request to a server would be and read
 * as the server reads it, so that both take and refuse the same; only the way between is left out.
 */
import type {
  DecryptedBatch,
  DetachedBatch,
  EncryptedBatch,
  PackedBatch,
} from '../client/keyfold.ts'
import {
  encodeRequest,
  readMessages,
  type EncryptionContext,
  type Messages,
} from '../client/wire.ts'
import type { Crypto } from '../crypto/crypto.ts'
import type { CanonicalContext } from '../data-keys/lease.ts'
import type { BatchResult, Form, RequestBytes } from '../envelope/batch.ts'
import type { Envelope } from '../envelope/envelope.ts'
import type { MaybePromise } from '../envelope/parts.ts'
import { KeyfoldError } from '../errors.ts'
import { Walker } from '../format/msgpack.ts'
import { decodeDecryptRequest, decodeEncryptRequest } from '../format/requests.ts'
import type { Principal } from '../kms/kms-key.ts'
import type { Slot, SlotPool } from '../pool/slot.ts'

export interface InProcessCallOptions {
  readonly context?: EncryptionContext | undefined
}

export interface InProcessEncryptOptions extends InProcessCallOptions {
  /** 1: XAES-256-GCM, the default. 2: KC-XAES-256-GCM. */
  readonly suite?: 1 | 2 | undefined
}

export interface InProcessCounters {
  /** Message keys made and opened: by the server, or by the key store. */
  readonly wraps: number
  readonly unwraps: number
  /** Batches sealed and key entries opened from memory. */
  readonly sealHits: number
  readonly openHits: number
  /** Message keys in memory. */
  readonly sealKeys: number
  readonly openKeys: number
  /** Requests that the server has answered, refusals included; 0 without one. */
  readonly serverCalls: number
  readonly implementation: 'vaes' | 'aesni' | 'node'
}

export interface InProcessKeyfold {
  encrypt(
    key: string,
    plaintexts: Messages,
    options?: InProcessEncryptOptions & { readonly form?: 'inline' },
  ): Promise<EncryptedBatch>
  encrypt(
    key: string,
    plaintexts: Messages,
    options: InProcessEncryptOptions & { readonly form: 'detached' },
  ): Promise<DetachedBatch>
  encrypt(
    key: string,
    plaintexts: Messages,
    options: InProcessEncryptOptions & { readonly form: 'packed' },
  ): Promise<PackedBatch>
  /** A list of messages, or one packed value. One that does not open leaves undefined and an error in its place. */
  decrypt(
    ciphertexts: Messages | Uint8Array,
    options?: InProcessCallOptions & { readonly keyEntries?: Messages | undefined },
  ): Promise<DecryptedBatch>
  counters(): InProcessCounters
  /** Waits for what is under way, and wipes every key. */
  close(): Promise<void>
}

export interface InProcessParts {
  readonly crypto: Crypto
  readonly envelope: Envelope
  readonly slots: SlotPool
  readonly principal: Principal
  /** Runs an operation and tells whoever keeps records how it ended. */
  readonly recorded: (
    operation: Operation,
    run: () => MaybePromise<BatchResult>,
  ) => Promise<BatchResult>
  readonly counters: () => InProcessCounters
  readonly close: () => Promise<void>
}

export interface Operation {
  readonly name: 'Encrypt' | 'Decrypt'
  readonly context: CanonicalContext
  readonly messages: number
}

export class EnvelopeKeyfold implements InProcessKeyfold {
  readonly #parts: InProcessParts
  readonly #underWay = new Set<Promise<unknown>>()
  #closing: Promise<void> | undefined

  constructor(parts: InProcessParts) {
    this.#parts = parts
  }

  encrypt(
    key: string,
    plaintexts: Messages,
    options?: InProcessEncryptOptions & { readonly form?: 'inline' },
  ): Promise<EncryptedBatch>
  encrypt(
    key: string,
    plaintexts: Messages,
    options: InProcessEncryptOptions & { readonly form: 'detached' },
  ): Promise<DetachedBatch>
  encrypt(
    key: string,
    plaintexts: Messages,
    options: InProcessEncryptOptions & { readonly form: 'packed' },
  ): Promise<PackedBatch>
  encrypt(
    key: string,
    plaintexts: Messages,
    options: InProcessEncryptOptions & { readonly form?: Form } = {},
  ): Promise<EncryptedBatch | DetachedBatch | PackedBatch> {
    return this.#run(() => this.#encrypt(key, plaintexts, options))
  }

  decrypt(
    ciphertexts: Messages | Uint8Array,
    options: InProcessCallOptions & { readonly keyEntries?: Messages | undefined } = {},
  ): Promise<DecryptedBatch> {
    return this.#run(() => this.#decrypt(ciphertexts, options))
  }

  counters(): InProcessCounters {
    return this.#parts.counters()
  }

  close(): Promise<void> {
    this.#closing ??= Promise.allSettled(this.#underWay).then(() => this.#parts.close())
    return this.#closing
  }

  async #encrypt(
    key: string,
    plaintexts: Messages,
    { context, form = 'inline', suite }: InProcessEncryptOptions & { readonly form?: Form },
  ): Promise<EncryptedBatch | DetachedBatch | PackedBatch> {
    const { envelope, principal } = this.#parts
    const body = new RequestBody(
      encodeRequest({ key, context, form, suite, plaintexts }),
      this.#parts.slots,
    )
    try {
      const fields = decodeEncryptRequest(body.bytes)
      const asked = { ...fields, principal, body, context: this.#canonical(fields.context) }
      const result = await this.#parts.recorded(
        { name: 'Encrypt', context: asked.context, messages: fields.plaintexts.count },
        () => envelope.encrypt(asked),
      )
      const { keyId = '', keyEntries } = result
      const bytes = takeOut(result)
      if (form === 'packed') return { keyId, packed: bytes }
      const ciphertexts = elementsOf(bytes, result.messages) as readonly Uint8Array[]
      const [keyEntry] = keyEntries
      if (keyEntry === undefined) return { keyId, ciphertexts }
      return { keyId, ciphertexts, keyEntry: Uint8Array.from(keyEntry) }
    } finally {
      body.wipe()
    }
  }

  async #decrypt(
    ciphertexts: Messages | Uint8Array,
    { context, keyEntries }: Parameters<InProcessKeyfold['decrypt']>[1] & object,
  ): Promise<DecryptedBatch> {
    const { envelope, principal } = this.#parts
    const messages = ciphertexts instanceof Uint8Array ? { packed: ciphertexts } : { ciphertexts }
    const body = new RequestBody(
      encodeRequest({ context, keyEntries, ...messages }),
      this.#parts.slots,
    )
    try {
      const fields = decodeDecryptRequest(body.bytes)
      const asked = { ...fields, principal, body, context: this.#canonical(fields.context) }
      const result = await this.#parts.recorded(
        { name: 'Decrypt', context: asked.context, messages: fields.ciphertexts?.count ?? 1 },
        () => envelope.decrypt(asked),
      )
      return { plaintexts: elementsOf(takeOut(result), result.messages), errors: result.errors }
    } finally {
      body.wipe()
    }
  }

  #canonical(bytes: Uint8Array): CanonicalContext {
    // It outlives the body, in records.
    const own = Uint8Array.from(bytes)
    return { bytes: own, hash: this.#parts.crypto.sha256(own) }
  }

  #run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closing !== undefined) {
      return Promise.reject(new KeyfoldError('SHUTTING_DOWN', 'it was closed'))
    }
    const running = work()
    this.#underWay.add(running)
    const done = (): void => void this.#underWay.delete(running)
    running.then(done, done)
    return running
  }
}

/** A request's bytes, in a slot as soon as somebody waits or a worker is to read them. */
class RequestBody implements RequestBytes {
  readonly #encoded: Uint8Array
  readonly #slots: SlotPool
  #slot: Slot | undefined

  constructor(encoded: Uint8Array, slots: SlotPool) {
    this.#encoded = encoded
    this.#slots = slots
  }

  get bytes(): Uint8Array {
    return this.#slot?.bytes.subarray(0, this.#encoded.length) ?? this.#encoded
  }

  keep(): void {
    if (this.#slot !== undefined) return
    this.#slot = this.#slots.acquire(this.#encoded.length)
    this.#slot.bytes.set(this.#encoded)
  }

  /** Ends it: plaintext leaves nothing behind. */
  wipe(): void {
    this.bytes.fill(0)
    this.#encoded.fill(0)
    this.#slot?.release()
    this.#slot = undefined
  }
}

/** The result in memory of its own; its slot is wiped and given back. */
function takeOut({ slot, offset, end }: BatchResult): Uint8Array {
  const bytes = Buffer.from(slot.bytes.subarray(offset, end))
  slot.bytes.fill(0, offset, end)
  slot.release()
  return bytes
}

function elementsOf(bytes: Uint8Array, count: number): readonly (Uint8Array | undefined)[] {
  return readMessages(new Walker(bytes), 'messages', count)
}
