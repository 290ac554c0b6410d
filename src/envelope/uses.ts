/** How much each version of key material was used, for rotation by use and for whoever asks when a key was used last. */
import type { KeyUses } from '../kms/key-uses.ts'
import type { MaterialUse } from './batch.ts'

/** Counts a batch under each version of key material that it used. */
export function countUses(
  keyUses: KeyUses,
  uses: readonly MaterialUse[],
  batch: { readonly bytes: number; readonly operation: string },
): void {
  const timeMs = Date.now()
  const { operation } = batch
  const messagesOfAll = uses.reduce((sum, { messages }) => sum + messages, 0)
  for (const { kmsKey, materialVersion: version, messages } of uses) {
    // How many bytes each key's messages had is not known of a batch that several keys share.
    const bytes =
      uses.length === 1
        ? batch.bytes
        : Math.round((batch.bytes * messages) / Math.max(1, messagesOfAll))
    keyUses.add({ kmsKeyId: kmsKey.id, version, messages, bytes, timeMs, operation })
  }
}
