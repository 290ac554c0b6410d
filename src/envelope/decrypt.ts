/**
 * Decrypt: the mirror of encrypt, in two native calls. The first finds the key entries that the messages name; each
 * is authorised against the KMS key in its wrapped key and leased; the second opens everything.
 */
import { BatchAttributes } from './attributes.ts'
import type { BatchResult, DecryptRequest } from './batch.ts'
import { type OpenBatchRequest } from './key-entries.ts'
import { openPacked } from './open-packed.ts'
import { openElements } from './open.ts'
import { openWrappedAmong } from './open-wrapped.ts'
import type { EnvelopeParts, MaybePromise } from './parts.ts'

export function decrypt(parts: EnvelopeParts, request: DecryptRequest): MaybePromise<BatchResult> {
  const { principal, context, body, origin } = request
  const attributes = new BatchAttributes(context, undefined, origin)
  const opening: OpenBatchRequest = {
    principal,
    context,
    body,
    action: 'kms:Decrypt',
    authorize: (kmsKey) => parts.authorizer.authorize(principal, 'kms:Decrypt', kmsKey, attributes),
  }
  if (request.packed !== undefined) return openPacked(parts, opening, request.packed)
  const ciphertexts = required(request.ciphertexts)
  const opened = openElements(parts, opening, ciphertexts, request.keyEntries)
  const wrapped = (result: BatchResult): MaybePromise<BatchResult> =>
    openWrappedAmong(parts, opening, ciphertexts, result)
  return opened instanceof Promise ? opened.then(wrapped) : wrapped(opened)
}

/** The decoder has seen to it that a request has one of the two. */
export function required<T>(value: T | undefined): T {
  if (value === undefined) throw new TypeError('a request without ciphertexts reached the envelope')
  return value
}
