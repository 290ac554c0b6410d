/**
 * Rotation because material has wrapped most of what it is good for (wrap-budgets.ts), of keys in stores that can make
 * new material. Nobody has to ask for it: the alternative is that the key stops wrapping.
 */
import type { Catalog } from '../catalog/catalog.ts'
import type { DuePage } from '../catalog/due.ts'
import { readWornOut } from '../catalog/wrap-reservations.ts'
import type { KeyStore } from '../key-stores/key-store.ts'
import type { KmsParts } from './parts.ts'
import type { Rotations } from './rotations.ts'
import type { DueWork } from './scheduler.ts'
import { wrapsToRotateAt } from './wrap-budgets.ts'

export class WrapRotations implements DueWork {
  readonly #parts: KmsParts
  readonly #rotations: Rotations

  constructor(parts: KmsParts, rotations: Rotations) {
    this.#parts = parts
    this.#rotations = rotations
  }

  async due({ afterId, limit }: DuePage): Promise<readonly string[]> {
    const { keyStores, catalog } = this.#parts
    const ids: string[] = []
    for (const store of keyStores.connected.map((id) => keyStores.storeOf({ keyStore: id }))) {
      ids.push(...(await readWornOutOf(store, catalog.db, { afterId, limit })))
    }
    return ids.sort().slice(0, limit)
  }

  async finish(id: string): Promise<boolean> {
    // Its material may be new since it was found: then the count is that of the new one.
    const store = this.#parts.keyStores.storeOf(await this.#parts.registry.load(id))
    return this.#rotations.rotateWhere(id, async (transaction) => {
      const wornOut = await readWornOutOf(store, transaction, { afterId: '', limit: 1, id })
      return wornOut.length > 0
    })
  }
}

async function readWornOutOf(
  { name, traits }: KeyStore,
  db: Catalog['db'],
  page: Omit<DuePage, 'nowMs'> & { readonly id?: string },
): Promise<readonly string[]> {
  const { rotates, wrapsMax } = traits
  if (!rotates || wrapsMax === undefined) return []
  return readWornOut(db, { ...page, keyStore: name, reservedMin: wrapsToRotateAt(wrapsMax) })
}
