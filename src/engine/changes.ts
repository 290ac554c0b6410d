/**
 * What follows in this process when a KMS key or a key store is not what it was, in the tick of the change: message keys of
 * before are gone, and work that became due begins.
 */
import type { DataKeyCache } from '../data-keys/data-key-cache.ts'
import type { Kms } from '../kms/kms.ts'
import type { Scheduler } from '../kms/scheduler.ts'

export function followChanges(
  { registry, keyStores }: Pick<Kms, 'registry' | 'keyStores'>,
  dataKeys: DataKeyCache,
  scheduler: Scheduler,
): void {
  registry.onChange((kmsKeyId) => {
    dataKeys.purge(kmsKeyId)
    const kmsKey = registry.current(kmsKeyId)
    if (kmsKey !== undefined) keyStores.opened(kmsKey.keyStore)?.forget(kmsKey.idBytes)
  })
  keyStores.onChange((id) => {
    const changed = registry.keyStoreChanged(id)
    // A key that left memory may have been of that store as well.
    const isMeant = (kmsKeyId: string): boolean =>
      changed.has(kmsKeyId) || registry.current(kmsKeyId) === undefined
    dataKeys.purgeWhere(isMeant)
    // What deleted keys left there can be destroyed now.
    scheduler.wake()
  })
  registry.onChange((kmsKeyId) => {
    // A key that was enabled again may be overdue; imported material may expire in a moment.
    const { nextRotationAtMs, origin } = registry.current(kmsKeyId) ?? {}
    if (nextRotationAtMs !== undefined || origin === 'EXTERNAL') scheduler.wake()
  })
}
