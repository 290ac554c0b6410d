/**
 * Which keys the messages of a batch name, and whether the caller may use them: every key entry becomes a lease on its
 * message key or a refusal, which fails its messages and no others.
 */
import {
  ENTRY_MALFORMED,
  ENTRY_UNKNOWN,
  type NamedKeyEntry,
  type ScanResult,
  type Suite,
} from '../crypto/crypto.ts'
import type { CanonicalContext, OpenLease } from '../data-keys/lease.ts'
import { KeyfoldError, type MessageErrorCode } from '../errors.ts'
import { decodeKeyEntry } from '../format/key-entry.ts'
import { decodePackedHeader } from '../format/packed-batch.ts'
import { decodeWrappedKey } from '../format/wrapped-key.ts'
import type { Action, KmsKey, Principal } from '../kms/kms-key.ts'
import type { Slot } from '../pool/slot.ts'
import {
  HEAD_ROOM_BYTES,
  type BatchResult,
  type Elements,
  type MaterialUse,
  type RequestBytes,
  type Span,
} from './batch.ts'
import { andThen, type EnvelopeParts, type MaybePromise } from './parts.ts'
import { createShared } from './slices.ts'

export interface OpenBatchRequest {
  readonly principal: Principal
  /** What the caller must be allowed on every KMS key that is named. */
  readonly action: Action
  /** Throws ACCESS_DENIED unless the caller is allowed it, and what goes with it, on this one. */
  authorize(kmsKey: KmsKey): void
  readonly context: CanonicalContext
  readonly body: RequestBytes
  /** The only key that is to be used, and may be: whoever asks has seen to it. */
  readonly kmsKey?: KmsKey | undefined
}

/** A key entry with the lease on its message key, or why there is none. */
export interface LeasedEntry {
  readonly entry: Pick<NamedKeyEntry, 'suite' | 'keyEntry' | 'messages'>
  readonly lease: OpenLease | undefined
  readonly refusal: MessageErrorCode | undefined
  /** ARN of the KMS key that was refused, where memory has it. */
  readonly refusedKey: string | undefined
}

/** What a scan of the messages found, with a lease for each key entry. Whoever holds one owes `release`. */
export interface ScannedBatch {
  readonly scan: ScanResult
  readonly entryOf: Uint16Array
  readonly entries: readonly LeasedEntry[]
  release(): void
}

/** Finds the key entries of a batch and leases each. Refusals stand beside the entry; they fail only its messages. */
export function scanBatch(
  parts: EnvelopeParts,
  request: OpenBatchRequest,
  ciphertexts: Elements,
  keyEntries: readonly Span[],
  partsMax: number,
): MaybePromise<ScannedBatch> {
  const { body, context } = request
  const entryOf = createShared(Uint16Array, ciphertexts.count, partsMax > 1)
  const scan = parts.crypto.scanMessages({
    input: body.bytes,
    inputOffset: ciphertexts.offset,
    inputEnd: ciphertexts.end,
    messages: ciphertexts.count,
    contextHash: context.hash,
    keyEntries:
      keyEntries.length === 0
        ? NONE
        : keyEntries.map(({ offset, end }) => body.bytes.subarray(offset, end)),
    entryOf,
    partsMax,
  })
  const leased: MaybePromise<LeasedEntry>[] = []
  let waits = false
  for (const entry of scan.entries) {
    const one = leaseEntry(parts, request, entry)
    waits ||= one instanceof Promise
    leased.push(one)
  }
  const batchOf = (entries: readonly LeasedEntry[]): ScannedBatch => ({
    scan,
    entryOf,
    entries,
    release: () => {
      for (const { lease } of entries) lease?.release()
    },
  })
  if (!waits) return batchOf(leased as LeasedEntry[])
  // leaseEntry never rejects, so no lease is lost.
  return Promise.all(leased.map(async (one) => one)).then(batchOf)
}

/** Authorises the KMS key that an entry names and leases its message key; never throws and never rejects. */
export function leaseEntry(
  parts: EnvelopeParts,
  request: OpenBatchRequest,
  entry: NamedKeyEntry,
): MaybePromise<LeasedEntry> {
  let copied: Uint8Array | undefined
  let authorized: KmsKey | undefined
  const refused = (error: unknown): LeasedEntry => ({
    entry,
    lease: undefined,
    refusal: refusalOf(error),
    refusedKey: authorized?.arn ?? nameOfKey(parts, copied ?? entry.keyEntry),
  })
  try {
    const named = namedKey(parts, request, entry)
    // A view of the request's bytes, which keep() moves.
    if (named instanceof Promise) copied = Uint8Array.from(entry.keyEntry)
    const keyEntry = copied ?? entry.keyEntry
    const leased = andThen(
      named,
      () => request.body.keep(),
      (kmsKey) => {
        authorized = kmsKey
        return parts.dataKeys.leaseOpen({
          kmsKey,
          suite: entry.suite,
          keyEntry,
          context: request.context,
          cacheId: entry.cacheId,
          principalArn: request.principal.arn,
        })
      },
    )
    const accepted = (lease: OpenLease): LeasedEntry => ({
      entry,
      lease,
      refusal: undefined,
      refusedKey: undefined,
    })
    return leased instanceof Promise ? leased.then(accepted, refused) : accepted(leased)
  } catch (error) {
    return refused(error)
  }
}

/**
 * The KMS key that a key entry names, authorised before anything about it is told. Of an entry that the cache holds
 * it is known which; the entry itself, all of its bytes, is what the cache is asked by.
 */
function namedKey(
  parts: EnvelopeParts,
  request: OpenBatchRequest,
  { keyEntry, cacheId }: NamedKeyEntry,
): MaybePromise<KmsKey> {
  const { registry, dataKeys } = parts
  const cachedUnder = dataKeys.kmsKeyIdOf(cacheId)
  const cached = cachedUnder === undefined ? undefined : registry.current(cachedUnder)
  // Under which of related keys it was opened does not say which of them is asked for now.
  if (cached !== undefined && cached.multiRegion === undefined && request.kmsKey === undefined) {
    request.authorize(cached)
    return cached
  }
  const { wrappedKey } = decodeKeyEntry(keyEntry, 'DECRYPT_FAILED')
  return authorizedKeyById(parts, request, decodeWrappedKey(wrappedKey).kmsKeyId)
}

/** The KMS key of the 16 bytes that a ciphertext carries, authorised before anything about it is told. */
export function authorizedKeyById(
  { registry, authorizer }: EnvelopeParts,
  request: OpenBatchRequest,
  kmsKeyId: Uint8Array,
): MaybePromise<KmsKey> {
  if (request.kmsKey !== undefined) {
    if (Buffer.compare(request.kmsKey.idBytes, kmsKeyId) === 0) return request.kmsKey
    throw new KeyfoldError('DECRYPT_FAILED')
  }
  const known = registry.peekById(kmsKeyId)
  if (known !== undefined) {
    request.authorize(known)
    return known
  }
  return registry.resolveById(Uint8Array.from(kmsKeyId)).then(
    (kmsKey) => {
      request.authorize(kmsKey)
      return kmsKey
    },
    (error: unknown) => {
      const absent = error instanceof KeyfoldError && error.code === 'KMS_KEY_NOT_FOUND'
      throw absent ? authorizer.absentKeyError(request.principal, request.action) : error
    },
  )
}

/** ARN of the KMS key that a key entry names, if memory has it: for the record, after a refusal. */
export function nameOfKey(
  parts: Pick<EnvelopeParts, 'registry'>,
  keyEntry: Uint8Array,
): string | undefined {
  try {
    return nameOfWrapping(parts, decodeKeyEntry(keyEntry, 'DECRYPT_FAILED').wrappedKey)
  } catch {
    // It is none.
    return undefined
  }
}

/** The same of a wrapped key. */
export function nameOfWrapping(
  { registry }: Pick<EnvelopeParts, 'registry'>,
  wrappedKey: Uint8Array,
): string | undefined {
  try {
    return registry.peekById(decodeWrappedKey(wrappedKey).kmsKeyId)?.arn
  } catch {
    // It names none.
    return undefined
  }
}

const REFUSALS: ReadonlySet<string> = new Set<MessageErrorCode>([
  'DECRYPT_FAILED',
  'ACCESS_DENIED',
  'KMS_KEY_DISABLED',
  'KMS_KEY_STATE_INVALID',
  'KEY_STORE_UNREACHABLE',
  'KEY_STORE_REFUSED',
  'MISS_BUDGET_SPENT',
  'KEY_TABLE_FULL',
  // Not the ciphertext is bad and no retry helps: the catalog was changed, or is another root key's.
  'ROOT_KEY_INVALID',
  'CATALOG_UNAVAILABLE',
])

const UNOPENABLE: ReadonlySet<string> = new Set(['KMS_KEY_NOT_FOUND', 'KMS_KEY_USAGE_INVALID'])

export function refusalOf(error: unknown): MessageErrorCode {
  if (!(error instanceof KeyfoldError)) throw error
  if (REFUSALS.has(error.code)) return error.code as MessageErrorCode
  // To those who may see every key, one that is not there is a message that cannot be opened; nor is one that never
  // wraps a message key.
  return UNOPENABLE.has(error.code) ? 'DECRYPT_FAILED' : 'KEY_STORE_UNREACHABLE'
}

/** The one key entry of a packed batch with its lease. */
export function leasePacked(
  parts: EnvelopeParts,
  request: OpenBatchRequest,
  packed: Span,
): MaybePromise<LeasedEntry> {
  const { suite, keyEntry } = decodePackedHeader(request.body.bytes, packed.offset, packed.end)
  return leaseAlone(parts, request, suite, keyEntry)
}

/** A key entry that no scan has found. */
export function leaseAlone(
  parts: EnvelopeParts,
  request: OpenBatchRequest,
  suite: Suite,
  keyEntry: Uint8Array,
): MaybePromise<LeasedEntry> {
  const hash = parts.crypto.sha256(Uint8Array.of(suite), keyEntry, request.context.hash)
  const cacheId = Buffer.from(hash).toString('latin1')
  return leaseEntry(parts, request, { suite, keyEntry, messages: 1, cacheId })
}

// What became of them.

export function openedResult(
  slot: Slot,
  end: number,
  slices: readonly { readonly messages: number; readonly plaintextBytes: number }[],
  errors: BatchResult['errors'],
  entries: readonly UsedEntry[],
): BatchResult {
  return {
    keyId: undefined,
    slot,
    shape: 'elements',
    offset: HEAD_ROOM_BYTES,
    end,
    messages: slices.reduce((sum, slice) => sum + slice.messages, 0),
    plaintextBytes: slices.reduce((sum, slice) => sum + slice.plaintextBytes, 0),
    keyEntries: [],
    errors,
    uses: usesOf(entries),
    refusedKeys: refusedKeysOf(entries),
  }
}

export function errorsOf(
  { entries, entryOf, scan }: ScannedBatch,
  failures: Uint8Array,
  whole: boolean,
): BatchResult['errors'] {
  // A message that failed or was refused left its place shorter; one that names no key entry was planned so.
  const named = scan.entries.reduce((sum, entry) => sum + entry.messages, 0)
  if (whole && named === entryOf.length) return NONE
  const errors: [number, MessageErrorCode][] = []
  for (const [index, entry] of entryOf.entries()) {
    if (entry === ENTRY_MALFORMED) errors.push([index, 'MESSAGE_MALFORMED'])
    else if (entry === ENTRY_UNKNOWN) errors.push([index, 'DECRYPT_FAILED'])
    else {
      const refusal = entries[entry]?.refusal
      if (refusal !== undefined) errors.push([index, refusal])
      else if (failures[index] === 1) errors.push([index, 'DECRYPT_FAILED'])
    }
  }
  return errors
}

/** What of a leased entry says which key was used. */
interface UsedEntry {
  readonly entry: { readonly messages: number }
  readonly lease: Pick<OpenLease, 'kmsKey' | 'materialVersion'> | undefined
  readonly refusedKey: string | undefined
}

/** One for each version of key material, however many message keys it wraps. */
export function usesOf(entries: readonly UsedEntry[]): readonly MaterialUse[] {
  const uses: (MaterialUse & { messages: number })[] = []
  for (const { lease, entry } of entries) {
    if (lease === undefined) continue
    const { kmsKey, materialVersion } = lease
    const same = uses.find(
      (use) => use.kmsKey.id === kmsKey.id && use.materialVersion === materialVersion,
    )
    if (same === undefined) uses.push({ kmsKey, materialVersion, messages: entry.messages })
    else same.messages += entry.messages
  }
  return uses
}

export function refusedKeysOf(entries: readonly UsedEntry[]): readonly string[] {
  const refused = entries.flatMap(({ refusedKey }) => refusedKey ?? NONE)
  return refused.length === 0 ? NONE : [...new Set(refused)]
}

const NONE: readonly never[] = []
