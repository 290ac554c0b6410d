/**
 * Crypto on the addon: one call a batch, numbers and flat bytes by position. Lengths are asserted here and checked again
 * over there.
 *
 * The arrays at module level receive what a call answers besides a number; they are read before anything else runs.
 */
import { strict as assert } from 'node:assert'

import { KeyfoldError } from '../errors.ts'
import { BATCH_PARTS_MAX, KEY_ENTRIES_MAX } from '../limits.ts'
import { overheadBytes, type FrameRun } from '../format/encryption-sdk-frames.ts'
import { sealOverheadBytes, TAG_BYTES } from '../format/message.ts'
import { call, errorOf, loadAddon, messageOf, verified, type Addon } from './addon.ts'
import type {
  Crypto,
  Implementation,
  KeyHandle,
  KeyTableUsage,
  NamedKeyEntry,
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

/** Frames of the AWS Encryption SDK's message format under a key of the table. */
export interface FrameCrypto extends Pick<
  Crypto,
  'implementation' | 'importKey' | 'releaseKey' | 'keyTableUsage'
> {
  /** Writes all of `wire`. The caller gives no sequence number twice under one key. */
  sealFrames(
    wire: Uint8Array,
    key: KeyHandle,
    messageId: Uint8Array,
    run: FrameRun,
    plaintext: Uint8Array,
  ): void
  /** Writes all of `plaintext`: zeros where it throws DECRYPT_FAILED. */
  openFrames(
    plaintext: Uint8Array,
    key: KeyHandle,
    messageId: Uint8Array,
    run: FrameRun,
    wire: Uint8Array,
  ): void
}

/** Numbers of native/cpu.h. */
const IMPLEMENTATIONS = { aesni: 1, vaes: 2 } as const
type NativeImplementation = keyof typeof IMPLEMENTATIONS
const BEST_FIRST: readonly NativeImplementation[] = ['vaes', 'aesni']

const WRAP_OVERHEAD_BYTES = 40
const KEY_BYTES = 32
const PART_FIELDS = 6
const ENTRY_FIELDS = 5

const partsOut = new Float64Array(PART_FIELDS * BATCH_PARTS_MAX)
const entriesOut = new Float64Array(ENTRY_FIELDS * KEY_ENTRIES_MAX)
const cacheIdsOut = Buffer.alloc(32 * KEY_ENTRIES_MAX)
const usageOut = new Float64Array(5)
const NO_BYTES = new Uint8Array(0)

/** Errors: NATIVE_UNAVAILABLE (not built, or this processor cannot run it). */
export function loadNativeCrypto(wanted?: Implementation): Crypto & FrameCrypto {
  const native = loadAddon()
  const runnable = (implementation: NativeImplementation): boolean =>
    call(native, 'supports', IMPLEMENTATIONS[implementation]) === 1
  const found = BEST_FIRST.filter(
    (implementation) => (wanted ?? implementation) === implementation,
  ).find(runnable)
  if (found === undefined) {
    throw new KeyfoldError('NATIVE_UNAVAILABLE', `this processor cannot run ${wanted ?? 'any'}`)
  }
  return new NativeCrypto(native, found)
}

class NativeCrypto implements Crypto, FrameCrypto {
  readonly implementation: Implementation
  readonly #native: Addon
  readonly #id: number

  constructor(native: Addon, implementation: NativeImplementation) {
    this.#native = native
    this.implementation = implementation
    this.#id = IMPLEMENTATIONS[implementation]
  }

  clockMs(): number {
    return (this.#native['bootTimeMs'] as () => number)()
  }

  generateKey(): KeyHandle {
    return call(this.#native, 'generateKey', this.#id)
  }

  importKey(source: Uint8Array): KeyHandle {
    assert.equal(source.length, KEY_BYTES)
    return call(this.#native, 'importKey', this.#id, source)
  }

  deriveKey(key: KeyHandle, label: string): KeyHandle {
    return call(this.#native, 'deriveKey', this.#id, key, Buffer.from(label, 'ascii'))
  }

  wrapKey(wrappingKey: KeyHandle, aad: Uint8Array, key: KeyHandle): Uint8Array {
    const out = new Uint8Array(KEY_BYTES + WRAP_OVERHEAD_BYTES)
    call(this.#native, 'wrapKey', this.#id, out, wrappingKey, aad, key, false)
    return out
  }

  wrapMessageKey(wrappingKey: KeyHandle, aad: Uint8Array, messageKey: KeyHandle): Uint8Array {
    const out = new Uint8Array(KEY_BYTES + WRAP_OVERHEAD_BYTES)
    call(this.#native, 'wrapKey', this.#id, out, wrappingKey, aad, messageKey, true)
    return out
  }

  unwrapKey(wrappingKey: KeyHandle, aad: Uint8Array, wrapped: Uint8Array): KeyHandle {
    return call(this.#native, 'unwrapKey', this.#id, wrappingKey, aad, wrapped)
  }

  wrapBytes(wrappingKey: KeyHandle, aad: Uint8Array, plaintext: Uint8Array): Uint8Array {
    const out = new Uint8Array(plaintext.length + WRAP_OVERHEAD_BYTES)
    call(this.#native, 'wrapBytes', this.#id, out, wrappingKey, aad, plaintext)
    return out
  }

  unwrapBytes(wrappingKey: KeyHandle, aad: Uint8Array, wrapped: Uint8Array): Uint8Array {
    if (wrapped.length < WRAP_OVERHEAD_BYTES) throw new KeyfoldError('DECRYPT_FAILED')
    const out = new Uint8Array(wrapped.length - WRAP_OVERHEAD_BYTES)
    call(this.#native, 'unwrapBytes', this.#id, out, wrappingKey, aad, wrapped)
    return out
  }

  releaseKey(key: KeyHandle): void {
    call(this.#native, 'releaseKey', key)
  }

  wipeAllKeys(): void {
    call(this.#native, 'wipeAllKeys')
  }

  keyTableUsage(): KeyTableUsage {
    call(this.#native, 'keyTableUsage', usageOut)
    const [slots = 0, slotsUsed = 0, tickets = 0, ticketsUsed = 0, locked = 0] = usageOut
    return { slots, slotsUsed, tickets, ticketsUsed, locked: locked === 1 }
  }

  createMessageKey(key: KeyHandle, suite: Suite): KeyHandle {
    return call(this.#native, 'createMessageKey', this.#id, key, suite)
  }

  openMessageKey(key: KeyHandle, suite: Suite, commitment: Uint8Array): KeyHandle {
    if (commitment.length !== KEY_BYTES) throw new KeyfoldError('DECRYPT_FAILED')
    return call(this.#native, 'openMessageKey', this.#id, key, suite, commitment)
  }

  messageKeyCommitment(messageKey: KeyHandle): Uint8Array {
    const out = new Uint8Array(KEY_BYTES)
    call(this.#native, 'messageKeyCommitment', messageKey, out)
    return out
  }

  planParts(request: PlanRequest): readonly Part[] {
    const { input, inputOffset, inputEnd, messages, overheadBytes, nilAllowed, partsMax } = request
    const { planParts } = this.#native
    const parts = (planParts as Addon[string])(
      input,
      inputOffset,
      inputEnd,
      messages,
      overheadBytes,
      nilAllowed,
      partsMax,
      partsOut,
    )
    if (parts < 0) throw errorOf(parts)
    return readParts(parts, inputOffset)
  }

  sealBatch(request: SealRequest): number {
    const { sealBatch } = this.#native
    const written = (sealBatch as Addon[string])(
      this.#id,
      request.output,
      request.outputOffset,
      request.outputEnd,
      request.input,
      request.inputOffset,
      request.inputEnd,
      request.messages,
      request.key,
      request.contextHash,
      request.form === 'inline' ? request.keyEntry : NO_BYTES,
      request.nilAllowed,
    )
    if (written < 0) throw errorOf(written)
    return written
  }

  scanMessages(request: ScanRequest): ScanResult {
    const { input, keyEntries } = request
    const { scanMessages } = this.#native
    const found = (scanMessages as Addon[string])(
      input,
      request.inputOffset,
      request.inputEnd,
      request.messages,
      request.contextHash,
      keyEntries,
      request.entryOf,
      request.partsMax,
      partsOut,
      entriesOut,
      cacheIdsOut,
    )
    if (found < 0) throw errorOf(found)
    const entries: NamedKeyEntry[] = []
    for (let i = 0; i < found >> 7; i++) {
      const at = ENTRY_FIELDS * i
      const caller = entriesOut[at + 1] as number
      const offset = request.inputOffset + (entriesOut[at + 2] as number)
      entries.push({
        suite: entriesOut[at] as Suite,
        keyEntry:
          caller < 0
            ? input.subarray(offset, offset + (entriesOut[at + 3] as number))
            : (keyEntries[caller] as Uint8Array),
        messages: entriesOut[at + 4] as number,
        cacheId: cacheIdsOut.toString('latin1', 32 * i, 32 * i + 32),
      })
    }
    return { entries, parts: readParts(found & 127, request.inputOffset) }
  }

  openBatch(request: OpenRequest): number {
    const { openBatch } = this.#native
    const written = (openBatch as Addon[string])(
      this.#id,
      request.output,
      request.outputOffset,
      request.outputEnd,
      request.input,
      request.inputOffset,
      request.inputEnd,
      request.messages,
      request.keys,
      request.entryOf,
      request.contextHash,
      request.failures,
    )
    if (written < 0) throw errorOf(written)
    return written
  }

  replaceKeyEntries(request: ReplaceKeyEntriesRequest): number {
    return call(
      this.#native,
      'replaceKeyEntries',
      request.output,
      request.outputOffset,
      request.outputEnd,
      request.input,
      request.inputOffset,
      request.inputEnd,
      request.messages,
      request.keyEntries,
      request.entryOf,
    )
  }

  beginPacked(
    key: KeyHandle,
    contextHash: Uint8Array,
    messages: number,
    partFirstMessages: readonly number[],
  ): TicketHandle {
    const firsts = Uint32Array.from(partFirstMessages)
    return call(this.#native, 'beginPacked', this.#id, key, contextHash, messages, firsts)
  }

  sealPackedPart(request: PackedSealRequest): void {
    const { packedOffset } = request
    call(
      this.#native,
      'sealPackedPart',
      this.#id,
      request.packed,
      packedOffset,
      request.packedEnd,
      request.lengthsOffset - packedOffset,
      request.sealedOffset - packedOffset,
      request.ticket,
      request.part,
      request.input,
      request.inputOffset,
      request.inputEnd,
    )
  }

  finishPacked(
    ticket: TicketHandle,
    keyEntry: Uint8Array,
    packed: Uint8Array,
    packedOffset: number,
    packedEnd: number,
  ): void {
    call(this.#native, 'finishPacked', this.#id, packed, packedOffset, packedEnd, ticket, keyEntry)
  }

  abandonPacked(ticket: TicketHandle): void {
    try {
      call(this.#native, 'releaseKey', ticket)
    } catch (error) {
      // Finished or given up before: it is gone, as asked.
      if (!(error instanceof KeyfoldError && error.code === 'KEY_HANDLE_STALE')) throw error
    }
  }

  verifyPacked(
    key: KeyHandle,
    contextHash: Uint8Array,
    packed: Uint8Array,
    packedOffset: number,
    packedEnd: number,
  ): boolean {
    const { verifyPacked } = this.#native
    return verified(
      (verifyPacked as Addon[string])(this.#id, packed, packedOffset, packedEnd, key, contextHash),
    )
  }

  openPackedPart(request: PackedOpenRequest): number {
    return call(
      this.#native,
      'openPackedPart',
      this.#id,
      request.output,
      request.outputOffset,
      request.outputEnd,
      request.packed,
      request.packedOffset,
      request.packedEnd,
      request.key,
      request.contextHash,
      request.firstMessage,
      request.messages,
      request.sealedOffset - request.packedOffset,
      request.failures,
    )
  }

  sealFrames(
    wire: Uint8Array,
    key: KeyHandle,
    messageId: Uint8Array,
    run: FrameRun,
    plaintext: Uint8Array,
  ): void {
    assert.equal(wire.length, plaintext.length + overheadBytes(run))
    const { frameLength, firstSequence, frames, final } = run
    call(
      this.#native,
      'sealFrames',
      this.#id,
      wire,
      key,
      messageId,
      frameLength,
      firstSequence,
      frames,
      final,
      plaintext,
    )
  }

  openFrames(
    plaintext: Uint8Array,
    key: KeyHandle,
    messageId: Uint8Array,
    run: FrameRun,
    wire: Uint8Array,
  ): void {
    assert.equal(wire.length, plaintext.length + overheadBytes(run))
    const { frameLength, firstSequence, frames, final } = run
    const { openFrames } = this.#native
    const answer = (openFrames as Addon[string])(
      this.#id,
      plaintext,
      key,
      messageId,
      frameLength,
      firstSequence,
      frames,
      final,
      wire,
    )
    if (verified(answer)) return
    throw new KeyfoldError('DECRYPT_FAILED', `frame ${firstSequence + messageOf(answer)}`)
  }

  insecureGcmSeal(
    key: Uint8Array,
    nonce: Uint8Array,
    aad: Uint8Array,
    plaintext: Uint8Array,
  ): Uint8Array {
    const out = new Uint8Array(plaintext.length + TAG_BYTES)
    call(this.#native, 'insecureGcm', this.#id, true, out, key, nonce, aad, plaintext)
    return out
  }

  insecureGcmOpen(
    key: Uint8Array,
    nonce: Uint8Array,
    aad: Uint8Array,
    sealed: Uint8Array,
  ): Uint8Array | undefined {
    if (sealed.length < TAG_BYTES) return undefined
    const out = new Uint8Array(sealed.length - TAG_BYTES)
    const { insecureGcm } = this.#native
    const status = (insecureGcm as Addon[string])(this.#id, false, out, key, nonce, aad, sealed)
    return verified(status) ? out : undefined
  }

  insecureXaesSeal(
    suite: Suite,
    key: Uint8Array,
    nonce: Uint8Array,
    aad: Uint8Array,
    plaintext: Uint8Array,
  ): Uint8Array {
    const out = new Uint8Array(plaintext.length + sealOverheadBytes(suite))
    call(this.#native, 'insecureXaes', this.#id, true, out, suite, key, nonce, aad, plaintext)
    return out
  }

  insecureXaesOpen(
    suite: Suite,
    key: Uint8Array,
    nonce: Uint8Array,
    aad: Uint8Array,
    sealed: Uint8Array,
  ): Uint8Array | undefined {
    if (sealed.length < sealOverheadBytes(suite)) return undefined
    const out = new Uint8Array(sealed.length - sealOverheadBytes(suite))
    const { insecureXaes } = this.#native
    return verified(
      (insecureXaes as Addon[string])(this.#id, false, out, suite, key, nonce, aad, sealed),
    )
      ? out
      : undefined
  }

  insecureHkdf(ikm: Uint8Array, salt: Uint8Array, info: Uint8Array, bytes: number): Uint8Array {
    const out = new Uint8Array(bytes)
    call(this.#native, 'insecureHkdf', out, ikm, salt, info)
    return out
  }

  sha256(...chunks: readonly Uint8Array[]): Uint8Array {
    const out = new Uint8Array(32)
    call(this.#native, 'sha256', out, chunks)
    return out
  }
}

/** The addon counts from the beginning of the elements. */
function readParts(count: number, base: number): readonly Part[] {
  const parts: Part[] = []
  for (let i = 0; i < count; i++) {
    const at = PART_FIELDS * i
    parts.push({
      inputOffset: base + (partsOut[at] as number),
      inputEnd: base + (partsOut[at + 1] as number),
      firstMessage: partsOut[at + 2] as number,
      messages: partsOut[at + 3] as number,
      plaintextBytes: partsOut[at + 4] as number,
      outputBytes: partsOut[at + 5] as number,
    })
  }
  return parts
}
