/**
 * What keyfold asks of cryptography: a key table and whole batches. Two implementations stand behind it, the
 * addon (native.ts: VAES or AES-NI) and node:crypto (node-crypto.ts, portable, also the reference in tests);
 * choose.ts picks one at start-up, once, and says which.
 *
 * Keys stay behind handles. A handle is a number of slot and generation; 0 is never valid, and a handle whose
 * slot was released, wiped or inherited through fork throws KEY_HANDLE_STALE. Whoever is given a handle owes
 * releaseKey.
 *
 * Batches are flat: `input` holds `messages` consecutive MessagePack elements (byte strings, without the array
 * header) from inputOffset to inputEnd exactly; `output` receives consecutive MessagePack elements from
 * outputOffset. A call that cannot write all of its output within outputEnd throws before it writes. Lengths
 * are checked on both sides of the boundary. Arrays may lie on shared memory.
 *
 * Errors: REQUEST_MALFORMED (an element is not a byte string, or runs past the end), LIMIT_EXCEEDED,
 * KEY_HANDLE_STALE, KEY_TABLE_FULL, DECRYPT_FAILED. Message failures inside a batch never throw.
 */

export type Implementation = 'vaes' | 'aesni' | 'node'

/** 1: XAES-256-GCM. 2: KC-XAES-256-GCM, each message commits to its key (formats.md, Message). */
export type Suite = 1 | 2

export type KeyHandle = number
export type TicketHandle = number

/** A slice of a batch, for one worker. */
export interface Part {
  /** Where its first element starts in the input. */
  readonly inputOffset: number
  readonly inputEnd: number
  /** Index of its first message in the batch. */
  readonly firstMessage: number
  readonly messages: number
  readonly plaintextBytes: number
  /** Bytes of the elements it writes, if nothing fails (a failed message is a nil of one byte instead). */
  readonly outputBytes: number
}

export interface PlanRequest {
  readonly input: Uint8Array
  readonly inputOffset: number
  readonly inputEnd: number
  readonly messages: number
  /** Bytes that the form adds to each message: 0 for packed, where outputBytes means nothing. */
  readonly overheadBytes: number
  /** nil in place of a byte string: stays nil in the output. Only re-encryption writes such input. */
  readonly nilAllowed: boolean
  /** The batch is cut into at most so many parts, of about the same plaintext bytes. 1 to BATCH_PARTS_MAX. */
  readonly partsMax: number
}

export interface SealRequest {
  /** A message key that may seal. */
  readonly key: KeyHandle
  /** SHA-256 of the canonical encryption context, 32 bytes. */
  readonly contextHash: Uint8Array
  /** inline: written into each message. detached: empty. */
  readonly form: 'inline' | 'detached'
  readonly keyEntry: Uint8Array
  readonly nilAllowed: boolean
  readonly input: Uint8Array
  readonly inputOffset: number
  readonly inputEnd: number
  readonly messages: number
  readonly output: Uint8Array
  readonly outputOffset: number
  readonly outputEnd: number
}

/** A distinct (suite, key entry) that the messages of a batch name. */
export interface NamedKeyEntry {
  readonly suite: Suite
  /** A view of the request's bytes. */
  readonly keyEntry: Uint8Array
  /** How many messages name it. Never 0. */
  readonly messages: number
  /** SHA-256(suite ‖ key entry ‖ contextHash) as 32 latin1 characters: what the open side of the cache is keyed by. */
  readonly cacheId: string
}

export interface ScanRequest {
  readonly input: Uint8Array
  readonly inputOffset: number
  readonly inputEnd: number
  readonly messages: number
  readonly contextHash: Uint8Array
  /** The caller's key entries, which detached messages point into by id. Already decoded and without duplicate ids. */
  readonly keyEntries: readonly Uint8Array[]
  /**
   * Written: for each message the index into `entries`, or ENTRY_MALFORMED (not an inline or detached message),
   * or ENTRY_UNKNOWN (a detached message whose id is none of the caller's).
   */
  readonly entryOf: Uint16Array
  readonly partsMax: number
}

export const ENTRY_MALFORMED = 0xffff
export const ENTRY_UNKNOWN = 0xfffe

export interface ScanResult {
  /** In order of first use; at most KEY_ENTRIES_MAX, else LIMIT_EXCEEDED is thrown. */
  readonly entries: readonly NamedKeyEntry[]
  readonly parts: readonly Part[]
}

export interface OpenRequest {
  /** Handles by entry index; 0 where the key is not to be had: its messages come out as nil. */
  readonly keys: Float64Array
  /** As scanMessages wrote it, from this part's first message on. */
  readonly entryOf: Uint16Array
  readonly contextHash: Uint8Array
  readonly input: Uint8Array
  readonly inputOffset: number
  readonly inputEnd: number
  readonly messages: number
  /** Written: 1 where a message had a key and did not open, else 0. */
  readonly failures: Uint8Array
  readonly output: Uint8Array
  readonly outputOffset: number
  readonly outputEnd: number
}

/** Moves messages to other key entries without touching what is sealed: inline messages only. */
export interface ReplaceKeyEntriesRequest {
  /** The new key entry by entry index; an empty one makes the message nil. */
  readonly keyEntries: readonly Uint8Array[]
  readonly entryOf: Uint16Array
  readonly input: Uint8Array
  readonly inputOffset: number
  readonly inputEnd: number
  readonly messages: number
  readonly output: Uint8Array
  readonly outputOffset: number
  readonly outputEnd: number
}

export interface PackedSealRequest {
  readonly ticket: TicketHandle
  /** Which of the ticket's parts. Each is claimed once; a second claim throws. */
  readonly part: number
  /** This part's elements. */
  readonly input: Uint8Array
  readonly inputOffset: number
  readonly inputEnd: number
  /** The packed value: E3 ‖ … at packedOffset, room up to packedEnd for the batch tag. */
  readonly packed: Uint8Array
  readonly packedOffset: number
  readonly packedEnd: number
  /** Where the array of plaintext lengths begins, absolute in `packed`. */
  readonly lengthsOffset: number
  /** Where this part's first sealed message goes, absolute in `packed`. */
  readonly sealedOffset: number
}

export interface PackedOpenRequest {
  readonly key: KeyHandle
  readonly contextHash: Uint8Array
  /** The whole packed value. */
  readonly packed: Uint8Array
  readonly packedOffset: number
  readonly packedEnd: number
  readonly firstMessage: number
  readonly messages: number
  /** Absolute offset of the first message's sealed bytes. */
  readonly sealedOffset: number
  readonly failures: Uint8Array
  readonly output: Uint8Array
  readonly outputOffset: number
  readonly outputEnd: number
}

export interface KeyTableUsage {
  readonly slots: number
  readonly slotsUsed: number
  readonly tickets: number
  readonly ticketsUsed: number
  /** Whether the memory is locked (mlock). False on node:crypto and where RLIMIT_MEMLOCK refused. */
  readonly locked: boolean
}

export interface Crypto {
  readonly implementation: Implementation
  /** Milliseconds on a clock that also runs while the process is stopped or the machine sleeps. */
  clockMs(): number

  // The key table.

  /** A fresh random 32-byte key. */
  generateKey(): KeyHandle
  /** Takes 32 bytes in and fills `source` with zeros. */
  importKey(source: Uint8Array): KeyHandle
  /** HKDF-SHA-512(key, salt = 64 zero bytes, info = label in ASCII, 32 bytes) (RFC 5869). */
  deriveKey(key: KeyHandle, label: string): KeyHandle
  /** `nonce24 ‖ ciphertext ‖ tag16` of the key, XAES-256-GCM under `wrappingKey`: 72 bytes. */
  wrapKey(wrappingKey: KeyHandle, aad: Uint8Array, key: KeyHandle): Uint8Array
  /** The reverse. Throws DECRYPT_FAILED. */
  unwrapKey(wrappingKey: KeyHandle, aad: Uint8Array, wrapped: Uint8Array): KeyHandle
  /** The same for bytes of the caller's (usage 02), 0 to 4,096 or more. */
  wrapBytes(wrappingKey: KeyHandle, aad: Uint8Array, plaintext: Uint8Array): Uint8Array
  unwrapBytes(wrappingKey: KeyHandle, aad: Uint8Array, wrapped: Uint8Array): Uint8Array
  releaseKey(key: KeyHandle): void
  /** Wipes every slot and ticket at once: `keyfold lock`. All handles are stale afterwards. */
  wipeAllKeys(): void
  keyTableUsage(): KeyTableUsage

  // Message keys (formats.md, Message key): a key of the table with its commitment and sealing key.

  /** From a fresh key, which it leaves alone: may seal and open. */
  createMessageKey(key: KeyHandle, suite: Suite): KeyHandle
  /** From an unwrapped key: opens, never seals. Throws DECRYPT_FAILED unless all 32 bytes of the commitment match. */
  openMessageKey(key: KeyHandle, suite: Suite, commitment: Uint8Array): KeyHandle
  /** HKDF-Expand(PRK, "keyfold/messages/v1/commitment", 32). Takes a message key of either sort. */
  messageKeyCommitment(messageKey: KeyHandle): Uint8Array
  /** As wrapKey, of the message key itself: what a re-wrap needs. */
  wrapMessageKey(wrappingKey: KeyHandle, aad: Uint8Array, messageKey: KeyHandle): Uint8Array

  // Batches, inline and detached.

  /** Walks the elements once. Throws LIMIT_EXCEEDED past MESSAGE_BYTES_MAX. */
  planParts(request: PlanRequest): readonly Part[]
  /** Each call is a batch of its own, with its own R. Returns the bytes written. */
  sealBatch(request: SealRequest): number
  scanMessages(request: ScanRequest): ScanResult
  openBatch(request: OpenRequest): number
  replaceKeyEntries(request: ReplaceKeyEntriesRequest): number

  // Packed batches, by ticket.

  /** `partFirstMessages` starts with 0 and ascends; at most BATCH_PARTS_MAX. The ticket holds R and the derived key. */
  beginPacked(
    key: KeyHandle,
    contextHash: Uint8Array,
    messages: number,
    partFirstMessages: readonly number[],
  ): TicketHandle
  /** Writes lengths and sealed messages of one part in place. */
  sealPackedPart(request: PackedSealRequest): void
  /**
   * Writes `E3 ‖ suite ‖ key entry ‖ R20 ‖ count` and the batch tag around the parts, and ends the ticket. Throws
   * unless every part was sealed; either way the ticket is gone.
   */
  finishPacked(
    ticket: TicketHandle,
    keyEntry: Uint8Array,
    packed: Uint8Array,
    packedOffset: number,
    packedEnd: number,
  ): void
  /** Gives a ticket up; nothing is sealed under its R again. */
  abandonPacked(ticket: TicketHandle): void
  /** Checks form and batch tag of the whole value. Comes before any openPackedPart. */
  verifyPacked(
    key: KeyHandle,
    contextHash: Uint8Array,
    packed: Uint8Array,
    packedOffset: number,
    packedEnd: number,
  ): boolean
  /** Elements of MessagePack, nil where a message failed. Returns the bytes written. */
  openPackedPart(request: PackedOpenRequest): number

  // For public test vectors only: the caller brings key and nonce, which nothing in the service may do.

  /** AES-256-GCM, 96-bit nonce: ciphertext ‖ tag16. */
  insecureGcmSeal(
    key: Uint8Array,
    nonce: Uint8Array,
    aad: Uint8Array,
    plaintext: Uint8Array,
  ): Uint8Array
  insecureGcmOpen(
    key: Uint8Array,
    nonce: Uint8Array,
    aad: Uint8Array,
    sealed: Uint8Array,
  ): Uint8Array | undefined
  /** XAES-256-GCM or KC-XAES-256-GCM by suite: `ciphertext ‖ tag16 [‖ KC32]`. */
  insecureXaesSeal(
    suite: Suite,
    key: Uint8Array,
    nonce: Uint8Array,
    aad: Uint8Array,
    plaintext: Uint8Array,
  ): Uint8Array
  insecureXaesOpen(
    suite: Suite,
    key: Uint8Array,
    nonce: Uint8Array,
    aad: Uint8Array,
    sealed: Uint8Array,
  ): Uint8Array | undefined
  /** HKDF-SHA-512 (RFC 5869) and SHA-256, as the implementation computes them. */
  insecureHkdf(ikm: Uint8Array, salt: Uint8Array, info: Uint8Array, bytes: number): Uint8Array
  sha256(...chunks: readonly Uint8Array[]): Uint8Array
}
