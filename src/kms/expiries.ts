/** The end of imported key material whose time is over: it is destroyed, and its key waits for an import. */
import { awaitImport, destroyMaterials, readExpired } from '../catalog/destruction.ts'
import { readDueExpiries, type DuePage } from '../catalog/due.ts'
import * as catalogKeys from '../catalog/keys.ts'
import type { KmsParts } from './parts.ts'

export class Expiries {
  readonly #parts: KmsParts

  constructor(parts: KmsParts) {
    this.#parts = parts
  }

  // What the scheduler asks.

  due(page: DuePage): Promise<readonly string[]> {
    return readDueExpiries(this.#parts.catalog.db, page)
  }

  /** What has expired of the material of this key; false where nothing has, or not any more. */
  async finish(kmsKeyId: string): Promise<boolean> {
    const { catalog, registry, nowMs } = this.#parts
    const [member] = await catalogKeys.readFamily(catalog.db, kmsKeyId)
    if (member === undefined) return false
    let done = false
    const kmsKey = await registry.change(
      member.id,
      'DeleteImportedKeyMaterial',
      async (transaction, changeNumber) => {
        const expired = await readExpired(transaction, kmsKeyId, nowMs())
        if (expired.length === 0) return
        await catalog.destroyed.recordMaterials(expired, transaction)
        const versions = expired.map(({ version }) => version)
        await destroyMaterials(transaction, kmsKeyId, nowMs(), versions)
        await awaitImport(transaction, kmsKeyId, changeNumber)
        done = true
      },
    )
    registry.forgetRelatives(kmsKey)
    return done
  }
}
