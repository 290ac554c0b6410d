/**
 * Bytes of the caller's, each wrapped by the key store on its own (usage 02): what AWS's Encrypt and GenerateDataKey
 * answer. They neither fill nor read the data-key cache, and never pass as message keys.
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
import type { KeyMaterial, KeyStore } from '../key-stores/key-store.ts'
import { wrappedKeyHeader } from '../key-stores/wrapping.ts'
import { assertUsable, type KmsKey } from '../kms/kms-key.ts'
import { ElementCursor } from '../crypto/elements.ts'
import type { DecryptBytesRequest, EncryptBytesRequest } from './batch.ts'
import { openElements, type OpenBatchRequest } from './open.ts'
import { unwrapCallerBytes } from './open-wrapped.ts'
import { assertStillUsable, currentMaterial, type EnvelopeParts } from './parts.ts'

export function encryptBytes(
  parts: EnvelopeParts,
  { kmsKey, context, plaintext }: EncryptBytesRequest,
): Promise<Uint8Array> {
  return wrapForCaller(parts, kmsKey, context, (store, material, aad) =>
    store.wrapBytes(material, aad, plaintext),
  )
}

/** A wrapped key of usage 02 around what `wrap` makes. */
export async function wrapForCaller(
  parts: EnvelopeParts,
  kmsKey: KmsKey,
  context: CanonicalContext,
  wrap: (store: KeyStore, material: KeyMaterial, aad: Uint8Array) => Promise<Uint8Array>,
): Promise<Uint8Array> {
  assertUsable(kmsKey)
  const material = currentMaterial(kmsKey)
  const store = parts.keyStoreOf(kmsKey)
  const header = wrappedKeyHeader(store, material, USAGE_CALLER)
  const aad = encodeWrappedKeyAad(header, context.hash)
  const storePart = await wrap(store, material, aad)
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
    ? unwrapCallerBytes(parts, request.kmsKey, request.context, request.ciphertext)
    : openMessage(parts, request)
}

/** A message of /v1/encrypt, by the way that it would take there, under the key that was authorised. */
async function openMessage(
  parts: EnvelopeParts,
  { principal, kmsKey, context, ciphertext }: DecryptBytesRequest,
): Promise<Uint8Array> {
  const writer = new MsgpackWriter(new Uint8Array(5 + ciphertext.length)).bin(ciphertext)
  const request: OpenBatchRequest = {
    principal,
    context,
    body: { bytes: writer.bytes, keep: () => undefined },
    kmsKey,
    action: 'kms:Decrypt',
    authorize: () => undefined,
  }
  const ciphertexts = { offset: 0, end: writer.offset, count: 1 }
  const result = await openElements(parts, request, ciphertexts, [])
  try {
    const [failure] = result.errors
    if (failure !== undefined) {
      const [, code] = failure
      throw new KeyfoldError(code === 'MESSAGE_MALFORMED' ? 'DECRYPT_FAILED' : code)
    }
    const cursor = new ElementCursor(result.slot.bytes, result.offset, result.end, false)
    cursor.next()
    return result.slot.bytes.slice(cursor.start, cursor.offset)
  } finally {
    result.slot.bytes.fill(0, result.offset, result.end)
    result.slot.release()
  }
}
