/** The cache behind a question: whoever leases a message key is first allowed to by the server, every time. */
import type { DataKeyCache } from '../data-keys/data-key-cache.ts'
import type { DataKeys, OpenLease, SealLease } from '../data-keys/lease.ts'
import type { RemoteMessageKeys } from './remote-message-keys.ts'

export class CheckedDataKeys implements DataKeys {
  readonly #cache: DataKeyCache
  readonly #source: RemoteMessageKeys

  constructor(cache: DataKeyCache, source: RemoteMessageKeys) {
    this.#cache = cache
    this.#source = source
  }

  async leaseSeal(request: Parameters<DataKeys['leaseSeal']>[0]): Promise<SealLease> {
    await this.#source.assertMaySeal(request)
    return this.#cache.leaseSeal(request)
  }

  async leaseOpen(request: Parameters<DataKeys['leaseOpen']>[0]): Promise<OpenLease> {
    // The request's bytes may be gone after the question.
    const keyEntry = Uint8Array.from(request.keyEntry)
    // One that is not in memory is about to be asked of the server anyway.
    if (this.#cache.kmsKeyIdOf(request.cacheId) !== undefined) {
      await this.#source.assertMayOpen(request)
    }
    return this.#cache.leaseOpen({ ...request, keyEntry })
  }

  issueSeal(request: Parameters<DataKeys['issueSeal']>[0]): Promise<SealLease> {
    return this.#cache.issueSeal(request)
  }

  kmsKeyIdOf(cacheId: string): string | undefined {
    return this.#cache.kmsKeyIdOf(cacheId)
  }

  purge(kmsKeyId: string): void {
    this.#cache.purge(kmsKeyId)
  }

  purgeAll(): void {
    this.#cache.purgeAll()
  }
}
