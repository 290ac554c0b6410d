/**
 * The portable implementation of Crypto, on node:crypto: correct everywhere, slow (a cipher object per message),
 * and the reference that the addon is tested against. Keys are KeyObjects, which print nothing and cannot be
 * serialised by accident, but are not locked in memory and cannot be wiped for certain.
 */
import {
  createHash,
  createSecretKey,
  randomBytes,
  randomFillSync,
  timingSafeEqual,
  type KeyObject,
} from 'node:crypto'
import { uptime } from 'node:os'

import { KeyfoldError } from '../errors.ts'
import { BATCH_NONCE_BYTES, NONCE_BYTES } from '../format/message.ts'
import { BATCH_PARTS_MAX, KEY_TABLE_SLOTS, TICKETS_MAX } from '../limits.ts'
import type {
  Crypto,
  Implementation,
  KeyHandle,
  KeyTableUsage,
  OpenRequest,
  PackedOpenRequest,
  PackedSealRequest,
  Part,
  PlanRequest,
  ReplaceKeyEntriesRequest,
  ScanRequest,
  ScanResult,
  SealRequest,
  Suite,
  TicketHandle,
} from './crypto.ts'
import { planElements } from './elements.ts'
import { openMessages, replaceEntries, scanEntries, sealMessages } from './node-batch.ts'
import { deriveMessageKey, type MessageKey } from './node-message-key.ts'
import {
  finishTicket,
  openPackedMessages,
  sealTicketPart,
  verifyBatchTag,
  type Ticket,
} from './node-packed.ts'
import {
  createXaesKey,
  expandHkdf,
  extractHkdf,
  openGcm,
  openXaes,
  sealGcm,
  sealXaes,
} from './xaes.ts'

const KEY_BYTES = 32

export function createNodeCrypto(): Crypto {
  return new NodeCrypto()
}

class NodeCrypto implements Crypto {
  readonly implementation: Implementation = 'node'
  /** Handles count up and are never used again, so a stale one finds nothing. */
  #lastHandle = 0
  readonly #keys = new Map<KeyHandle, KeyObject>()
  readonly #messageKeys = new Map<KeyHandle, MessageKey>()
  readonly #tickets = new Map<TicketHandle, Ticket>()

  /** Read from /proc/uptime, in hundredths of a second: some µs each time. */
  clockMs(): number {
    return 1_000 * uptime()
  }

  generateKey(): KeyHandle {
    return this.importKey(randomBytes(KEY_BYTES))
  }

  importKey(source: Uint8Array): KeyHandle {
    if (source.length !== KEY_BYTES) throw new KeyfoldError('INTERNAL', 'a key has 32 bytes')
    const key = createSecretKey(source)
    source.fill(0)
    return this.#insert(this.#keys, key)
  }

  deriveKey(key: KeyHandle, label: string): KeyHandle {
    const prk = extractHkdf(this.#key(key), new Uint8Array(0))
    const derived = expandHkdf(prk, [Buffer.from(label, 'ascii')], KEY_BYTES)
    prk.fill(0)
    return this.importKey(derived)
  }

  wrapKey(wrappingKey: KeyHandle, aad: Uint8Array, key: KeyHandle): Uint8Array {
    return this.#wrap(wrappingKey, aad, this.#key(key))
  }

  unwrapKey(wrappingKey: KeyHandle, aad: Uint8Array, wrapped: Uint8Array): KeyHandle {
    const material = this.unwrapBytes(wrappingKey, aad, wrapped)
    if (material.length !== KEY_BYTES) throw new KeyfoldError('DECRYPT_FAILED')
    return this.importKey(material)
  }

  wrapBytes(wrappingKey: KeyHandle, aad: Uint8Array, plaintext: Uint8Array): Uint8Array {
    const nonce = randomBytes(NONCE_BYTES)
    const sealed = sealXaes(1, createXaesKey(this.#key(wrappingKey)), nonce, aad, plaintext)
    return Buffer.concat([nonce, sealed])
  }

  unwrapBytes(wrappingKey: KeyHandle, aad: Uint8Array, wrapped: Uint8Array): Uint8Array {
    const key = createXaesKey(this.#key(wrappingKey))
    const sealed = wrapped.subarray(NONCE_BYTES)
    const opened =
      wrapped.length < NONCE_BYTES
        ? undefined
        : openXaes(1, key, wrapped.subarray(0, NONCE_BYTES), aad, sealed)
    if (opened === undefined) throw new KeyfoldError('DECRYPT_FAILED')
    return opened
  }

  releaseKey(key: KeyHandle): void {
    if (!this.#keys.delete(key) && !this.#messageKeys.delete(key)) {
      throw new KeyfoldError('KEY_HANDLE_STALE')
    }
  }

  wipeAllKeys(): void {
    this.#keys.clear()
    this.#messageKeys.clear()
    this.#tickets.clear()
  }

  keyTableUsage(): KeyTableUsage {
    return {
      slots: KEY_TABLE_SLOTS,
      slotsUsed: this.#keys.size + this.#messageKeys.size,
      tickets: TICKETS_MAX,
      ticketsUsed: this.#tickets.size,
      locked: false,
    }
  }

  createMessageKey(key: KeyHandle, suite: Suite): KeyHandle {
    return this.#insert(this.#messageKeys, deriveMessageKey(this.#key(key), suite, true))
  }

  openMessageKey(key: KeyHandle, suite: Suite, commitment: Uint8Array): KeyHandle {
    const messageKey = deriveMessageKey(this.#key(key), suite, false)
    const same =
      commitment.length === messageKey.commitment.length &&
      timingSafeEqual(commitment, messageKey.commitment)
    if (!same) throw new KeyfoldError('DECRYPT_FAILED')
    return this.#insert(this.#messageKeys, messageKey)
  }

  messageKeyCommitment(messageKey: KeyHandle): Uint8Array {
    return Uint8Array.from(this.#messageKey(messageKey).commitment)
  }

  wrapMessageKey(wrappingKey: KeyHandle, aad: Uint8Array, messageKey: KeyHandle): Uint8Array {
    return this.#wrap(wrappingKey, aad, this.#messageKey(messageKey).raw)
  }

  planParts(request: PlanRequest): readonly Part[] {
    return planElements(request)
  }

  sealBatch(request: SealRequest): number {
    return sealMessages(request, this.#sealingKey(request.key), drawBatchNonce())
  }

  scanMessages(request: ScanRequest): ScanResult {
    return scanEntries(request)
  }

  openBatch(request: OpenRequest): number {
    const keys = Array.from(request.keys, (key) => (key === 0 ? undefined : this.#messageKey(key)))
    return openMessages(request, keys)
  }

  replaceKeyEntries(request: ReplaceKeyEntriesRequest): number {
    return replaceEntries(request)
  }

  beginPacked(
    key: KeyHandle,
    contextHash: Uint8Array,
    messages: number,
    partFirstMessages: readonly number[],
  ): TicketHandle {
    const messageKey = this.#sealingKey(key)
    assertParts(messages, partFirstMessages)
    if (this.#tickets.size >= TICKETS_MAX) throw new KeyfoldError('KEY_TABLE_FULL')
    const ticket: Ticket = {
      messageKey,
      contextHash: Uint8Array.from(contextHash),
      r: drawBatchNonce(),
      messages,
      partFirstMessages: [...partFirstMessages],
      claimed: new Set(),
      sealed: new Set(),
    }
    const handle = ++this.#lastHandle
    this.#tickets.set(handle, ticket)
    return handle
  }

  sealPackedPart(request: PackedSealRequest): void {
    sealTicketPart(request, this.#ticket(request.ticket))
  }

  finishPacked(
    ticket: TicketHandle,
    keyEntry: Uint8Array,
    packed: Uint8Array,
    packedOffset: number,
    packedEnd: number,
  ): void {
    const finished = this.#ticket(ticket)
    this.#tickets.delete(ticket)
    finishTicket(finished, keyEntry, packed, packedOffset, packedEnd)
  }

  abandonPacked(ticket: TicketHandle): void {
    this.#tickets.delete(ticket)
  }

  verifyPacked(
    key: KeyHandle,
    contextHash: Uint8Array,
    packed: Uint8Array,
    packedOffset: number,
    packedEnd: number,
  ): boolean {
    return verifyBatchTag(this.#messageKey(key), contextHash, packed, packedOffset, packedEnd)
  }

  openPackedPart(request: PackedOpenRequest): number {
    return openPackedMessages(request, this.#messageKey(request.key))
  }

  insecureGcmSeal(
    key: Uint8Array,
    nonce: Uint8Array,
    aad: Uint8Array,
    plaintext: Uint8Array,
  ): Uint8Array {
    const output = new Uint8Array(plaintext.length + 16)
    sealGcm(createSecretKey(key), nonce, aad, plaintext, output, 0)
    return output
  }

  insecureGcmOpen(
    key: Uint8Array,
    nonce: Uint8Array,
    aad: Uint8Array,
    sealed: Uint8Array,
  ): Uint8Array | undefined {
    return openGcm(createSecretKey(key), nonce, aad, sealed)
  }

  insecureXaesSeal(
    suite: Suite,
    key: Uint8Array,
    nonce: Uint8Array,
    aad: Uint8Array,
    plaintext: Uint8Array,
  ): Uint8Array {
    return sealXaes(suite, createXaesKey(createSecretKey(key)), nonce, aad, plaintext)
  }

  insecureXaesOpen(
    suite: Suite,
    key: Uint8Array,
    nonce: Uint8Array,
    aad: Uint8Array,
    sealed: Uint8Array,
  ): Uint8Array | undefined {
    return openXaes(suite, createXaesKey(createSecretKey(key)), nonce, aad, sealed)
  }

  insecureHkdf(ikm: Uint8Array, salt: Uint8Array, info: Uint8Array, bytes: number): Uint8Array {
    return expandHkdf(extractHkdf(createSecretKey(ikm), salt), [info], bytes)
  }

  sha256(...chunks: readonly Uint8Array[]): Uint8Array {
    const hash = createHash('sha256')
    for (const chunk of chunks) hash.update(chunk)
    return hash.digest()
  }

  #wrap(wrappingKey: KeyHandle, aad: Uint8Array, key: KeyObject): Uint8Array {
    const material = key.export()
    const wrapped = this.wrapBytes(wrappingKey, aad, material)
    material.fill(0)
    return wrapped
  }

  #insert<T>(table: Map<KeyHandle, T>, value: T): KeyHandle {
    if (this.#keys.size + this.#messageKeys.size >= KEY_TABLE_SLOTS) {
      throw new KeyfoldError('KEY_TABLE_FULL', `${KEY_TABLE_SLOTS} keys are in use`)
    }
    const handle = ++this.#lastHandle
    table.set(handle, value)
    return handle
  }

  #key(handle: KeyHandle): KeyObject {
    return found(this.#keys.get(handle))
  }

  #messageKey(handle: KeyHandle): MessageKey {
    return found(this.#messageKeys.get(handle))
  }

  #sealingKey(handle: KeyHandle): MessageKey {
    const messageKey = this.#messageKey(handle)
    if (!messageKey.seals)
      throw new KeyfoldError('INTERNAL', 'an unwrapped message key never seals')
    return messageKey
  }

  #ticket(handle: TicketHandle): Ticket {
    return found(this.#tickets.get(handle))
  }
}

/** The first part begins at 0, the others ascend, and none is empty. */
function assertParts(messages: number, firsts: readonly number[]): void {
  const ascend = firsts.every((first, i) => first > (firsts[i - 1] ?? -1) && first < messages)
  if (firsts[0] !== 0 || !ascend || firsts.length > BATCH_PARTS_MAX) {
    throw new KeyfoldError('INTERNAL', 'the parts of a batch do not fit it')
  }
}

function found<T>(value: T | undefined): T {
  if (value === undefined) throw new KeyfoldError('KEY_HANDLE_STALE')
  return value
}

let batchesDrawn = 0n

/**
 * R: SHA-256(random ‖ wall clock ‖ monotonic clock ‖ counter)[0:20]. The clocks and the counter are there so that two
 * clones of one machine, or a random source that repeats, do not draw the same.
 */
function drawBatchNonce(): Buffer {
  const seed = Buffer.alloc(56)
  randomFillSync(seed, 0, 32)
  seed.writeBigUInt64BE(BigInt(Date.now()), 32)
  seed.writeBigUInt64BE(process.hrtime.bigint(), 40)
  seed.writeBigUInt64BE(++batchesDrawn, 48)
  const r = createHash('sha256').update(seed).digest().subarray(0, BATCH_NONCE_BYTES)
  seed.fill(0)
  return r
}
