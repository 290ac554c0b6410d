/**
 * Message keys in plaintext, for in-process mode: whoever holds one seals and opens messages without the server, and
 * can forge them too. So they have a permission of their own, which no other right brings along.
 *
 * A new one is the caller's alone: the cache here never seals with it, and its limits are counted where it is used.
 */
import type { KeyHandle } from '../crypto/crypto.ts'
import type { MessageErrorCode } from '../errors.ts'
import { withKeyBytes } from '../key-stores/exposed-key.ts'
import { assertUsable } from '../kms/kms-key.ts'
import { BatchAttributes } from './attributes.ts'
import type {
  MaterialUse,
  NewMessageKeysRequest,
  OpenMessageKeysRequest,
  ReleasedMessageKey,
  ReleasedMessageKeys,
} from './batch.ts'
import { leaseAlone, refusedKeysOf, usesOf, type OpenBatchRequest } from './key-entries.ts'
import { assertStillUsable, authorizedKey, type EnvelopeParts } from './parts.ts'
import { useOf } from './seal.ts'

const ACTION = 'keyfold:ReleaseMessageKey'
/** The commitment, and so the key, is the same for messages of either suite. */
const ANY_SUITE = 1

export async function newMessageKeys(
  parts: EnvelopeParts,
  { principal, key, context, origin, count }: NewMessageKeysRequest,
): Promise<ReleasedMessageKeys> {
  const attributes = new BatchAttributes(context, key, origin)
  const kmsKey = await authorizedKey(parts, { principal, action: ACTION, key, attributes })
  assertUsable(kmsKey)
  const messageKeys: ReleasedMessageKey[] = []
  const uses: MaterialUse[] = []
  try {
    for (let i = 0; i < count; i++) {
      const lease = await parts.dataKeys.issueSeal({
        kmsKey,
        suite: ANY_SUITE,
        context,
        principalArn: principal.arn,
      })
      try {
        const messageKey = await bytesOf(parts, lease.key)
        messageKeys.push({ keyId: lease.kmsKey.arn, keyEntry: lease.keyEntry, messageKey })
        uses.push(useOf(lease, 1))
      } finally {
        lease.release()
      }
    }
    assertStillUsable(parts, kmsKey)
  } catch (error) {
    for (const { messageKey } of messageKeys) messageKey.fill(0)
    throw error
  }
  return { keyId: kmsKey.arn, messageKeys, errors: [], uses, refusedKeys: [] }
}

/** Those of key entries; what is refused fails its entry and no other. */
export async function openMessageKeys(
  parts: EnvelopeParts,
  { principal, context, origin, keyEntries }: OpenMessageKeysRequest,
): Promise<ReleasedMessageKeys> {
  const attributes = new BatchAttributes(context, undefined, origin)
  const opening: OpenBatchRequest = {
    principal,
    context,
    body: { bytes: NO_BYTES, keep: () => undefined },
    action: ACTION,
    authorize: (kmsKey) => parts.authorizer.authorize(principal, ACTION, kmsKey, attributes),
  }
  // leaseAlone never rejects, so no lease is lost.
  const leased = await Promise.all(
    keyEntries.map(async (keyEntry) => leaseAlone(parts, opening, ANY_SUITE, keyEntry)),
  )
  const messageKeys: (ReleasedMessageKey | undefined)[] = []
  const errors: (readonly [number, MessageErrorCode])[] = []
  try {
    for (const [index, { entry, lease, refusal }] of leased.entries()) {
      if (lease === undefined) {
        messageKeys.push(undefined)
        errors.push([index, refusal ?? 'DECRYPT_FAILED'])
        continue
      }
      const messageKey = await bytesOf(parts, lease.key)
      messageKeys.push({ keyId: lease.kmsKey.arn, keyEntry: entry.keyEntry, messageKey })
    }
    for (const { lease } of leased) {
      if (lease !== undefined) assertStillUsable(parts, lease.kmsKey)
    }
  } catch (error) {
    for (const released of messageKeys) released?.messageKey.fill(0)
    throw error
  } finally {
    for (const { lease } of leased) lease?.release()
  }
  const uses = usesOf(leased)
  return { keyId: undefined, messageKeys, errors, uses, refusedKeys: refusedKeysOf(leased) }
}

const NO_BYTES = new Uint8Array(0)

/** Whoever sends them fills them with zeros afterwards. */
function bytesOf({ crypto }: EnvelopeParts, key: KeyHandle): Promise<Uint8Array> {
  return withKeyBytes(crypto, 'messageKey', key, async (bytes) => Uint8Array.from(bytes))
}
