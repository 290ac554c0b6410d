/**
 * Re-encryption, in two modes that mean different things. A re-wrap moves message keys under another KMS key and
 * leaves what is sealed alone: a billion messages cost their few message keys, but whoever kept an old key entry and
 * rights on the old KMS key can still open them. Fresh opens every message and seals it anew.
 */
import { ElementCursor } from '../crypto/elements.ts'
import { KeyfoldError } from '../errors.ts'
import { decodeKeyEntry, encodeKeyEntry } from '../format/key-entry.ts'
import { INLINE_VERSION } from '../format/message.ts'
import { MsgpackWriter } from '../format/msgpack.ts'
import { decodePackedHeader } from '../format/packed-batch.ts'
import { isKeyEntry } from '../format/inspect.ts'
import {
  decodeWrappedKey,
  encodeWrappedKey,
  encodeWrappedKeyAad,
  USAGE_MESSAGE_KEY,
} from '../format/wrapped-key.ts'
import { wrappedKeyHeader } from '../key-stores/wrapping.ts'
import { assertUsable, type KmsKey } from '../kms/kms-key.ts'
import { BatchAttributes } from './attributes.ts'
import {
  HEAD_ROOM_BYTES,
  TAIL_ROOM_BYTES,
  type BatchResult,
  type Elements,
  type MaterialUse,
  type ReEncryptRequest,
  type RequestBytes,
  type Span,
} from './batch.ts'
import { encryptBytes } from './caller-bytes.ts'
import { required } from './decrypt.ts'
import {
  authorizedKeyById,
  errorsOf,
  leaseAlone,
  leasePacked,
  refusedKeysOf,
  scanBatch,
  usesOf,
  type LeasedEntry,
  type OpenBatchRequest,
  type ScannedBatch,
} from './key-entries.ts'
import { openPacked } from './open-packed.ts'
import { openElements } from './open.ts'
import { isWrapped, replaceAmong, unwrapCallerBytes, type Replacement } from './open-wrapped.ts'
import {
  assertStillUsable,
  authorizedKey,
  currentMaterial,
  storeForCall,
  type EnvelopeParts,
  type MaybePromise,
} from './parts.ts'
import { measurePlaintexts, sealPlaintexts, useOf } from './seal.ts'

export async function reEncrypt(
  parts: EnvelopeParts,
  request: ReEncryptRequest,
): Promise<BatchResult> {
  request.body.keep()
  const target = await authorizedTarget(parts, request)
  assertUsable(target)
  const opening: OpenBatchRequest = {
    ...request,
    action: 'kms:ReEncryptFrom',
    authorize: (source) => authorizeBoth(parts, request, source, target),
  }
  if (request.packed !== undefined) {
    return request.mode === 'fresh'
      ? sealAnew(parts, request, opening, target)
      : rewrapPacked(parts, opening, request.packed, target)
  }
  const result = await (request.mode === 'fresh'
    ? sealAnew(parts, request, opening, target)
    : rewrapElements(parts, request, opening, target))
  // A key entry alone has nothing to be sealed afresh.
  const isEntry = (bytes: Uint8Array): boolean => request.mode === 'rewrap' && isKeyEntry(bytes)
  return replaceAmong(parts, request.body, required(request.ciphertexts), result, {
    wants: (bytes) => isWrapped(bytes) || isEntry(bytes),
    // An entry is known by what it holds; its first byte may be any, that of a wrapped key too.
    replace: (bytes) =>
      isEntry(bytes)
        ? moveKeyEntry(parts, { opening, target, keyEntry: bytes })
        : moveCallerBytes(parts, request, { opening, target, ciphertext: bytes }),
  })
}

/** A ciphertext of the AWS protocol: what ReEncrypt does there, in either mode. */
async function moveCallerBytes(
  parts: EnvelopeParts,
  request: ReEncryptRequest,
  {
    opening,
    target,
    ciphertext,
  }: {
    readonly opening: OpenBatchRequest
    readonly target: KmsKey
    readonly ciphertext: Uint8Array
  },
): Promise<Replacement> {
  const { kmsKeyId, materialVersion } = decodeWrappedKey(ciphertext)
  const source = await authorizedKeyById(parts, opening, kmsKeyId)
  assertUsable(source)
  const principalArn = request.principal.arn
  const use = { kmsKey: source, principalArn }
  const plaintext = await unwrapCallerBytes(parts, use, request.context, ciphertext)
  try {
    const context = request.newContext ?? request.context
    const bytes = await encryptBytes(parts, { kmsKey: target, principalArn, context, plaintext })
    const uses = [{ kmsKey: source, materialVersion, messages: 1 }, targetUse(target, 1)]
    return { bytes, plaintextBytes: plaintext.length, uses }
  } finally {
    plaintext.fill(0)
  }
}

/** What a caller keeps beside detached messages, and what a job that moves millions of messages sends in their place. */
async function moveKeyEntry(
  parts: EnvelopeParts,
  {
    opening,
    target,
    keyEntry,
  }: {
    readonly opening: OpenBatchRequest
    readonly target: KmsKey
    readonly keyEntry: Uint8Array
  },
): Promise<Replacement> {
  // The suite of its messages is not known, and for its wrapping makes no difference.
  const leased = await leaseAlone(parts, opening, 1, keyEntry)
  const { lease } = leased
  if (lease === undefined) throw new KeyfoldError(leased.refusal ?? 'DECRYPT_FAILED')
  try {
    const bytes = await rewrapEntry(parts, opening, leased, target)
    return { bytes, plaintextBytes: 0, uses: [useOf(lease, 1), targetUse(target, 1)] }
  } finally {
    lease.release()
  }
}

/**
 * Which keys the messages come from is not known yet, and a policy may read whether it is the same: here either
 * answer does, and each source decides anew.
 */
async function authorizedTarget(parts: EnvelopeParts, request: ReEncryptRequest): Promise<KmsKey> {
  const { principal, key } = request
  const authorized = (sameKey: boolean): MaybePromise<KmsKey> => {
    const { to: attributes } = attributesOf(request, sameKey)
    return authorizedKey(parts, { principal, action: 'kms:ReEncryptTo', key, attributes })
  }
  try {
    return await authorized(false)
  } catch (error) {
    if (!(error instanceof KeyfoldError && error.code === 'ACCESS_DENIED')) throw error
    return authorized(true)
  }
}

function authorizeBoth(
  { authorizer, registry }: EnvelopeParts,
  request: ReEncryptRequest,
  source: KmsKey,
  target: KmsKey,
): void {
  const { from, to } = attributesOf(request, source.id === target.id)
  authorizer.authorize(request.principal, 'kms:ReEncryptFrom', source, from)
  // Its policy may have changed since it was resolved.
  const current = registry.current(target.id) ?? target
  authorizer.authorize(request.principal, 'kms:ReEncryptTo', current, to)
}

function attributesOf(
  { key, context, newContext, origin }: ReEncryptRequest,
  sameKey: boolean,
): { readonly from: BatchAttributes; readonly to: BatchAttributes } {
  const parameters = { 'kms:ReEncryptOnSameKey': sameKey }
  return {
    from: new BatchAttributes(context, undefined, origin, parameters),
    to: new BatchAttributes(newContext ?? context, key, origin, parameters),
  }
}

// Fresh.

async function sealAnew(
  parts: EnvelopeParts,
  request: ReEncryptRequest,
  opening: OpenBatchRequest,
  target: KmsKey,
): Promise<BatchResult> {
  const opened = await (request.packed === undefined
    ? openElements(parts, opening, required(request.ciphertexts), request.keyEntries)
    : openPacked(parts, opening, request.packed))
  try {
    const plaintexts = { offset: opened.offset, end: opened.end, count: opened.messages }
    // What was opened lies in a slot of ours, which is there until the end.
    const body: RequestBytes = { bytes: opened.slot.bytes, keep: () => undefined }
    const context = request.newContext ?? request.context
    const form = formOf(request)
    if (form === 'packed' && opened.errors.length > 0) {
      // A packed batch has no place for a message that is not there.
      throw new KeyfoldError('DECRYPT_FAILED')
    }
    const plaintextBytes = measurePlaintexts(parts, body, plaintexts, true)
    const lease = await parts.dataKeys.leaseSeal({
      kmsKey: target,
      suite: request.suite,
      context,
      messages: plaintexts.count,
      bytes: plaintextBytes,
      principalArn: request.principal.arn,
    })
    try {
      const sealed = await sealPlaintexts(parts, {
        lease,
        form,
        contextHash: context.hash,
        body,
        plaintexts,
        plaintextBytes,
        nilAllowed: form !== 'packed',
      })
      return {
        ...sealed,
        errors: opened.errors,
        uses: [...opened.uses, ...sealed.uses],
        refusedKeys: opened.refusedKeys,
      }
    } finally {
      lease.release()
    }
  } finally {
    opened.slot.bytes.fill(0, opened.offset, opened.end)
    opened.slot.release()
  }
}

function formOf(request: ReEncryptRequest): 'inline' | 'detached' | 'packed' {
  if (request.packed !== undefined) return 'packed'
  return request.keyEntries.length > 0 ? 'detached' : 'inline'
}

// Re-wrap.

async function rewrapElements(
  parts: EnvelopeParts,
  request: ReEncryptRequest,
  opening: OpenBatchRequest,
  target: KmsKey,
): Promise<BatchResult> {
  const { body } = request
  const ciphertexts = required(request.ciphertexts)
  const batch = await scanBatch(parts, opening, ciphertexts, request.keyEntries, 1)
  try {
    const entries = await Promise.all(
      batch.entries.map((entry) => rewrapEntry(parts, opening, entry, target)),
    )
    const detached = request.keyEntries.length > 0
    const result = detached
      ? copyDetached(parts, body, ciphertexts, batch)
      : replaceInline(parts, body, ciphertexts, batch, entries)
    const failures = new Uint8Array(ciphertexts.count)
    const moved = batch.entries
      .filter(({ lease }) => lease !== undefined)
      .reduce((sum, { entry }) => sum + entry.messages, 0)
    return {
      ...result,
      keyId: target.arn,
      messages: ciphertexts.count,
      plaintextBytes: batch.scan.parts.reduce((sum, part) => sum + part.plaintextBytes, 0),
      keyEntries: detached ? callersEntries(request, batch, entries) : [],
      errors: errorsOf(batch, failures, false),
      uses: [...usesOf(batch.entries), targetUse(target, moved)],
      refusedKeys: refusedKeysOf(batch.entries),
    }
  } finally {
    batch.release()
  }
}

/** The same message key under the target's current material. The commitment was verified when it was opened. */
async function rewrapEntry(
  parts: EnvelopeParts,
  { context, principal }: OpenBatchRequest,
  { entry, lease }: LeasedEntry,
  target: KmsKey,
): Promise<Uint8Array> {
  if (lease === undefined) return NO_ENTRY
  const material = currentMaterial(target)
  const { store, turn } = storeForCall(parts, target, principal.arn)
  const header = wrappedKeyHeader(store, material, USAGE_MESSAGE_KEY)
  const { commitment } = decodeKeyEntry(Uint8Array.from(entry.keyEntry), 'DECRYPT_FAILED')
  const aad = encodeWrappedKeyAad(header, context.hash)
  const storePart = await store.wrapMessageKey(material, aad, lease.key, turn)
  assertStillUsable(parts, target)
  const wrappedKey = encodeWrappedKey({ ...header, storePart })
  return encodeKeyEntry({ commitment, wrappedKey })
}

function targetUse(target: KmsKey, messages: number): MaterialUse {
  return { kmsKey: target, materialVersion: target.currentVersion, messages }
}

/** In place of an entry that is not to be had: its messages become nil. */
const NO_ENTRY = new Uint8Array(0)

type Copied = Pick<BatchResult, 'slot' | 'shape' | 'offset' | 'end'>

function replaceInline(
  { crypto, slots }: EnvelopeParts,
  body: RequestBytes,
  ciphertexts: Elements,
  batch: ScannedBatch,
  keyEntries: readonly Uint8Array[],
): Copied {
  const longest = keyEntries.reduce((most, entry) => Math.max(most, entry.length), 0)
  // Entries may grow, and with them the head of a byte string.
  const bound = ciphertexts.end - ciphertexts.offset + ciphertexts.count * (longest + 3)
  const slot = slots.acquire(HEAD_ROOM_BYTES + bound + TAIL_ROOM_BYTES)
  try {
    const written = crypto.replaceKeyEntries({
      keyEntries,
      entryOf: batch.entryOf,
      input: body.bytes,
      inputOffset: ciphertexts.offset,
      inputEnd: ciphertexts.end,
      messages: ciphertexts.count,
      output: slot.bytes,
      outputOffset: HEAD_ROOM_BYTES,
      outputEnd: HEAD_ROOM_BYTES + bound,
    })
    return { slot, shape: 'elements', offset: HEAD_ROOM_BYTES, end: HEAD_ROOM_BYTES + written }
  } catch (error) {
    slot.release()
    throw error
  }
}

/** Detached messages do not name the wrapping: they stay as they are, and those that may not be re-wrapped go. */
function copyDetached(
  { slots }: EnvelopeParts,
  body: RequestBytes,
  { offset, end, count }: Elements,
  batch: ScannedBatch,
): Copied {
  const slot = slots.acquire(HEAD_ROOM_BYTES + (end - offset) + 3 * count + TAIL_ROOM_BYTES)
  const writer = new MsgpackWriter(slot.bytes, HEAD_ROOM_BYTES)
  const cursor = new ElementCursor(body.bytes, offset, end, false)
  for (let i = 0; i < count; i++) {
    cursor.next()
    const entry = batch.entries[batch.entryOf[i] as number]
    if (entry?.lease === undefined || body.bytes[cursor.start] === INLINE_VERSION) writer.nil()
    else writer.bin(body.bytes.subarray(cursor.start, cursor.offset))
  }
  return { slot, shape: 'elements', offset: HEAD_ROOM_BYTES, end: writer.offset }
}

/** One new entry for each that the caller sent, in their order; those that no message named are left as they were. */
function callersEntries(
  { body, keyEntries }: ReEncryptRequest,
  batch: ScannedBatch,
  rewrapped: readonly Uint8Array[],
): readonly Uint8Array[] {
  return keyEntries.map(({ offset, end }) => {
    const old = body.bytes.slice(offset, end)
    const index = batch.entries.findIndex(
      ({ entry }, i) => rewrapped[i] !== NO_ENTRY && Buffer.compare(entry.keyEntry, old) === 0,
    )
    return rewrapped[index] ?? old
  })
}

async function rewrapPacked(
  parts: EnvelopeParts,
  opening: OpenBatchRequest,
  packed: Span,
  target: KmsKey,
): Promise<BatchResult> {
  const leased = await leasePacked(parts, opening, packed)
  if (leased.lease === undefined) throw new KeyfoldError(leased.refusal ?? 'DECRYPT_FAILED')
  try {
    const { body, context } = opening
    const { bytes } = body
    const { lease } = leased
    if (!parts.crypto.verifyPacked(lease.key, context.hash, bytes, packed.offset, packed.end)) {
      throw new KeyfoldError('DECRYPT_FAILED')
    }
    const header = decodePackedHeader(bytes, packed.offset, packed.end)
    const keyEntry = await rewrapEntry(parts, opening, leased, target)
    const rest = bytes.subarray(packed.offset + 2 + header.keyEntry.length, packed.end)
    const end = HEAD_ROOM_BYTES + 2 + keyEntry.length + rest.length
    const slot = parts.slots.acquire(end + TAIL_ROOM_BYTES)
    slot.bytes.set(bytes.subarray(packed.offset, packed.offset + 2), HEAD_ROOM_BYTES)
    slot.bytes.set(keyEntry, HEAD_ROOM_BYTES + 2)
    slot.bytes.set(rest, HEAD_ROOM_BYTES + 2 + keyEntry.length)
    return {
      keyId: target.arn,
      slot,
      shape: 'packed',
      offset: HEAD_ROOM_BYTES,
      end,
      messages: header.count,
      plaintextBytes: header.plaintextBytes,
      keyEntries: [],
      errors: [],
      uses: [useOf(lease, header.count), targetUse(target, header.count)],
      refusedKeys: [],
    }
  } finally {
    leased.lease.release()
  }
}
