/**
 * What is left in other key stores than the local one. Of deleted keys: the catalog had a reference, and the store still
 * has the material; noted in the transaction that deleted the key. And of attempts to make material that ended after
 * their deadline, or in a way that may have left it: the catalog never had a reference. Work of the scheduler; a store
 * that is not connected has its turn when it is.
 */
import { createHash } from 'node:crypto'

import type { DuePage } from '../catalog/due.ts'
import * as catalogKeyStores from '../catalog/key-stores.ts'
import type { KeySpec } from '../crypto/key-spec.ts'
import type { KeyMaterial } from '../key-stores/key-store.ts'
import type { KmsParts } from './parts.ts'
import { keyIdBytes, keyIdsOfBytes } from './reference.ts'

export class Destructions {
  readonly #parts: KmsParts

  constructor(parts: KmsParts) {
    this.#parts = parts
  }

  /** Of material that no KMS key has. Another attempt at the same version may have found it, and it is in use then. */
  async noteOrphan(keyStore: string, material: KeyMaterial): Promise<void> {
    const { catalog } = this.#parts
    const { version, keySpec, stored, publicKey = null } = material
    const kmsKeyIds = keyIdsOfBytes(material.kmsKeyId)
    const [kmsKeyId] = kmsKeyIds
    const known = await catalogKeyStores.readStored(catalog.db, kmsKeyIds, version)
    if (known.some((one) => Buffer.from(one).equals(stored))) return
    const id = `${kmsKeyId}/${version}/${hashOf(stored)}`
    const orphan = { id, kmsKeyId, version, keyStore, keySpec, stored, publicKey }
    await catalogKeyStores.insertMaterialToDestroy(catalog.db, orphan)
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

function hashOf(stored: Uint8Array): string {
  return createHash('sha256').update(stored).digest('hex').slice(0, 16)
}
