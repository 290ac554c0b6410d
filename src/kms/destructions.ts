/**
 * What is left of deleted keys in other key stores than the local one: the catalog had a reference, and the store still
 * has the material. Work of the scheduler, noted in the transaction that deleted the key; a store that is not connected
 * has its turn when it is.
 */
import type { DuePage } from '../catalog/due.ts'
import * as catalogKeyStores from '../catalog/key-stores.ts'
import type { KeySpec } from '../crypto/key-spec.ts'
import type { KmsParts } from './parts.ts'
import { keyIdBytes } from './reference.ts'

export class Destructions {
  readonly #parts: KmsParts

  constructor(parts: KmsParts) {
    this.#parts = parts
  }

  due({ afterId, limit }: DuePage): Promise<readonly string[]> {
    const { catalog, keyStores } = this.#parts
    const filter = { keyStores: keyStores.connected, afterId, limit }
    return catalogKeyStores.listMaterialsToDestroy(catalog.db, filter)
  }

  async finish(id: string): Promise<boolean> {
    const { catalog, keyStores } = this.#parts
    const found = await catalogKeyStores.readMaterialToDestroy(catalog.db, id)
    if (found === undefined) return false
    const { kmsKeyId, version, keySpec, stored, publicKey } = found
    await keyStores.storeOf(found).destroyKeyMaterial({
      kmsKeyId: keyIdBytes(kmsKeyId),
      version,
      keySpec: keySpec as KeySpec,
      stored,
      publicKey: publicKey ?? undefined,
    })
    await catalogKeyStores.deleteMaterialToDestroy(catalog.db, id)
    return true
  }
}
