/**
 * Bytes of the caller's, each wrapped by the key store on its own (usage 02): what AWS's Encrypt and GenerateDataKey
 * answer. They neither fill nor read the data-key cache, and never pass as message keys.
 *
 * A store that bounds how many keys its material wraps would be worn out by Encrypt of every caller's every byte string,
 * at a call to it for each. Under such a key Encrypt answers an inline message, as /v1/encrypt makes it, whose message
 * key serves others too.
 *
 * One ciphertext opens at both doors: decryptBytes takes what /v1/encrypt made inline, and /v1/decrypt takes these.
 */
import type { CanonicalContext } from '../data-keys/lease.ts'
import { KeyfoldError } from '../errors.ts'
import { decodeInlineMessage } from '../format/message.ts'
import { MsgpackWriter } from '../format/msgpack.ts'
import {
  decodeWrappedKey,
  encodeWrappedKey,
  encodeWrappedKeyAad,
  USAGE_CALLER,
  WRAPPED_KEY_VERSION,
  type WrappedKeyHeader,
} from '../format/wrapped-key.ts'
import type { KeyMaterial, KeyStore, StoreTurn } from '../key-stores/key-store.ts'
import { wrappedKeyHeader } from '../key-stores/wrapping.ts'
import { assertUsable } from '../kms/kms-key.ts'
import { ElementCursor } from '../crypto/elements.ts'
import type {
  BatchResult,
  DecryptBytesRequest,
  Elements,
  EncryptBytesRequest,
  KeyInUse,
  RequestBytes,
} from './batch.ts'
import { type OpenBatchRequest } from './key-entries.ts'
import { openElements } from './open.ts'
import { unwrapCallerBytes } from './open-wrapped.ts'
import { assertStillUsable, currentMaterial, storeForCall, type EnvelopeParts } from './parts.ts'
import { sealPlaintexts } from './seal.ts'

/** Of messages that nobody chose a suite for, as at /v1/encrypt. */
const SUITE = 1

export async function encryptBytes(
  parts: EnvelopeParts,
  request: EncryptBytesRequest,
): Promise<Uint8Array> {
  assertUsable(request.kmsKey)
  return parts.keyStoreOf(request.kmsKey).traits.wrapsMax === undefined
    ? wrapBytes(parts, request)
    : sealMessage(parts, request)
}

export function wrapBytes(
  parts: EnvelopeParts,
  { plaintext, context, ...use }: EncryptBytesRequest,
): Promise<Uint8Array> {
  return wrapForCaller(parts, use, context, ({ store, material, aad, turn }) =>
    store.wrapBytes(material, aad, plaintext, turn),
  )
}

interface Wrapping {
  readonly store: KeyStore
  readonly material: KeyMaterial
  readonly aad: Uint8Array
  readonly turn: StoreTurn
}

/** A wrapped key of usage 02 around what `wrap` makes. */
export async function wrapForCaller(
  parts: EnvelopeParts,
  { kmsKey, principalArn }: KeyInUse,
  context: CanonicalContext,
  wrap: (wrapping: Wrapping) => Promise<Uint8Array>,
): Promise<Uint8Array> {
  assertUsable(kmsKey)
  const material = currentMaterial(kmsKey)
  const { store, turn } = storeForCall(parts, kmsKey, principalArn)
  const header = wrappedKeyHeader(store, material, USAGE_CALLER)
  const aad = encodeWrappedKeyAad(header, context.hash)
  const storePart = await wrap({ store, material, aad, turn })
  assertStillUsable(parts, kmsKey)
  return encodeWrappedKey({ ...header, storePart })
}

/** What a ciphertext says of its wrapping, and no key is needed to read. Throws DECRYPT_FAILED. */
export function readWrapping(ciphertext: Uint8Array): WrappedKeyHeader {
  if (ciphertext[0] === WRAPPED_KEY_VERSION) return decodeWrappedKey(ciphertext)
  try {
    return decodeWrappedKey(decodeInlineMessage(ciphertext).keyEntry.wrappedKey)
  } catch (cause) {
    throw new KeyfoldError('DECRYPT_FAILED', undefined, cause)
  }
}

/** Throws DECRYPT_FAILED; also of a wrapped message key, which is never released. */
export async function decryptBytes(
  parts: EnvelopeParts,
  request: DecryptBytesRequest,
): Promise<Uint8Array> {
  assertUsable(request.kmsKey)
  return request.ciphertext[0] === WRAPPED_KEY_VERSION
    ? unwrapCallerBytes(
        parts,
        { kmsKey: request.kmsKey, principalArn: request.principal.arn },
        request.context,
        request.ciphertext,
      )
    : openMessage(parts, request)
}

/** A batch of one. */
async function sealMessage(
  parts: EnvelopeParts,
  { kmsKey, principalArn, context, plaintext }: EncryptBytesRequest,
): Promise<Uint8Array> {
  const lease = await parts.dataKeys.leaseSeal({
    kmsKey,
    suite: SUITE,
    context,
    messages: 1,
    bytes: plaintext.length,
    principalArn,
  })
  const { body, element } = bodyOf(plaintext)
  try {
    const result = await sealPlaintexts(parts, {
      lease,
      form: 'inline',
      contextHash: context.hash,
      body,
      plaintexts: element,
      plaintextBytes: plaintext.length,
      nilAllowed: false,
    })
    return onlyElementOf(result)
  } finally {
    body.bytes.fill(0)
    lease.release()
  }
}

/** One byte string as the elements of a request; a copy. */
function bodyOf(bytes: Uint8Array): { readonly body: RequestBytes; readonly element: Elements } {
  const writer = new MsgpackWriter(new Uint8Array(5 + bytes.length)).bin(bytes)
  return {
    body: { bytes: writer.bytes, keep: () => undefined },
    element: { offset: 0, end: writer.offset, count: 1 },
  }
}

/** A copy of the one byte string of a result, which is wiped and released. */
function onlyElementOf({ slot, offset, end }: BatchResult): Uint8Array {
  try {
    const cursor = new ElementCursor(slot.bytes, offset, end, false)
    cursor.next()
    return slot.bytes.slice(cursor.start, cursor.offset)
  } finally {
    slot.bytes.fill(0, offset, end)
    slot.release()
  }
}

/** A message of /v1/encrypt, by the way that it would take there, under the key that was authorised. */
async function openMessage(
  parts: EnvelopeParts,
  { principal, kmsKey, context, ciphertext }: DecryptBytesRequest,
): Promise<Uint8Array> {
  const { body, element } = bodyOf(ciphertext)
  const request: OpenBatchRequest = {
    principal,
    context,
    body,
    kmsKey,
    action: 'kms:Decrypt',
    authorize: () => undefined,
  }
  const result = await openElements(parts, request, element, [])
  const [failure] = result.errors
  if (failure === undefined) return onlyElementOf(result)
  result.slot.release()
  const [, code] = failure
  throw new KeyfoldError(code === 'MESSAGE_MALFORMED' ? 'DECRYPT_FAILED' : code)
}
