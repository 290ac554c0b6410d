/**
 * Encrypt: resolve and authorise the KMS key, lease a message key with room for the whole batch, seal. One decision,
 * one lease and one native call for any number of messages.
 */
import { assertUsable, type KmsKey } from '../kms/kms-key.ts'
import { BatchAttributes } from './attributes.ts'
import type { BatchResult, EncryptRequest } from './batch.ts'
import {
  andThen,
  authorizedKey,
  releasing,
  type EnvelopeParts,
  type MaybePromise,
} from './parts.ts'
import { measurePlaintexts, sealPlaintexts } from './seal.ts'

export function encrypt(parts: EnvelopeParts, request: EncryptRequest): MaybePromise<BatchResult> {
  const keep = (): void => request.body.keep()
  const { principal, key, context, origin } = request
  const attributes = new BatchAttributes(context, key, origin)
  const kmsKey = authorizedKey(parts, { principal, action: 'kms:Encrypt', key, attributes })
  return andThen(kmsKey, keep, (authorized) => encryptUnder(parts, request, authorized))
}

function encryptUnder(
  parts: EnvelopeParts,
  request: EncryptRequest,
  kmsKey: KmsKey,
): MaybePromise<BatchResult> {
  assertUsable(kmsKey)
  const { body, plaintexts, form, suite, context } = request
  const plaintextBytes = measurePlaintexts(parts, body, plaintexts, false)
  const leased = parts.dataKeys.leaseSeal({
    kmsKey,
    suite,
    context,
    messages: plaintexts.count,
    bytes: plaintextBytes,
    principalArn: request.principal.arn,
  })
  const keep = (): void => body.keep()
  return andThen(leased, keep, (lease) =>
    releasing(
      () => lease.release(),
      () =>
        sealPlaintexts(parts, {
          lease,
          form,
          contextHash: context.hash,
          body,
          plaintexts,
          plaintextBytes,
          nilAllowed: false,
        }),
    ),
  )
}
