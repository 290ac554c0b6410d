/**
 * How many wraps a version of key material is still good for, where its store draws random 96-bit IVs: 2^31 over all
 * nodes and for ever (formats.md), which is half of what NIST SP 800-38D §8.3 allows. Each process takes a block of them
 * in the catalog before it uses the first, and what it does not use is lost: a kill wastes wraps and never overruns. A
 * catalog that is restored from a copy has forgotten what was taken since; the other half is for that.
 *
 * What is spent is refused until the key is rotated, which happens by itself long before where the store can
 * (wrap-rotations.ts); else operators are told.
 */
import { LRUCache } from 'lru-cache'

import type { Catalog } from '../catalog/catalog.ts'
import { reserveWraps } from '../catalog/wrap-reservations.ts'
import { KeyfoldError } from '../errors.ts'
import type { KeyMaterial, KeyStore } from '../key-stores/key-store.ts'
import { WRAP_BUDGETS_MAX, WRAPS_PER_RESERVATION, WRAPS_ROTATE_SHARE } from '../limits.ts'
import { keyIdsOfBytes } from './reference.ts'

type Store = Pick<KeyStore, 'name' | 'traits'>

/** What this process holds of one version of material. */
interface Budget {
  left: number
  /** The one reservation under way. */
  reserving: Promise<void> | undefined
}

export interface WrapFigures {
  /** Taken by this process. */
  readonly reserved: number
  /** Of what one version of material is good for, the largest share that was found to be taken. */
  readonly shareMax: number
}

export interface WrapBudgetOptions {
  readonly log: (message: string) => void
  /** Material has come to where it is to be rotated. */
  readonly onWornOut: () => void
}

export class WrapBudgets {
  readonly #catalog: Catalog
  readonly #options: WrapBudgetOptions
  readonly #budgets = new LRUCache<string, Budget>({ max: WRAP_BUDGETS_MAX })
  readonly #figures = new Map<string, WrapFigures>()

  constructor(catalog: Catalog, options: WrapBudgetOptions) {
    this.#catalog = catalog
    this.#options = options
  }

  /** Takes one wrap; at once, but for one in so many. Throws WRAP_BUDGET_SPENT. */
  take(store: Store, material: KeyMaterial): Promise<void> | undefined {
    const budget = this.#budgetOf(material)
    if (budget.left === 0) return this.#takeAfterReservation(store, material, budget)
    budget.left--
    return undefined
  }

  /** Of this key store, by name. */
  figures(keyStore: string): WrapFigures {
    return this.#figures.get(keyStore) ?? { reserved: 0, shareMax: 0 }
  }

  #budgetOf({ kmsKeyId, version }: KeyMaterial): Budget {
    const name = `${Buffer.from(kmsKeyId).toString('hex')}/${version}`
    const known = this.#budgets.get(name)
    if (known !== undefined) return known
    const budget: Budget = { left: 0, reserving: undefined }
    this.#budgets.set(name, budget)
    return budget
  }

  async #takeAfterReservation(store: Store, material: KeyMaterial, budget: Budget): Promise<void> {
    // Whoever waits may find all of it taken by others who waited.
    while (budget.left === 0) {
      budget.reserving ??= this.#reserve(store, material, budget).finally(() => {
        budget.reserving = undefined
      })
      await budget.reserving
    }
    budget.left--
  }

  async #reserve(store: Store, { kmsKeyId, version }: KeyMaterial, budget: Budget): Promise<void> {
    const { wrapsMax } = store.traits
    if (wrapsMax === undefined) throw new Error(`${store.name} does not count wraps`)
    const wraps = wrapsPerReservation(wrapsMax)
    const taken = await reserveWraps(this.#catalog.db, {
      kmsKeyIds: keyIdsOfBytes(kmsKeyId),
      version,
      wraps,
      wrapsMax,
    })
    if (taken === undefined) {
      throw new KeyfoldError(
        'WRAP_BUDGET_SPENT',
        `version ${version} of it was good for ${wrapsMax}; rotate the KMS key`,
      )
    }
    budget.left += wraps
    this.#tell(store, { ...taken, version, wraps, wrapsMax })
  }

  #tell(
    { name, traits }: Store,
    taken: {
      readonly kmsKeyId: string
      readonly version: number
      readonly reserved: number
      readonly wraps: number
      readonly wrapsMax: number
    },
  ): void {
    const { kmsKeyId, version, reserved, wraps, wrapsMax } = taken
    const before = this.figures(name)
    this.#figures.set(name, {
      reserved: before.reserved + wraps,
      shareMax: Math.max(before.shareMax, reserved / wrapsMax),
    })
    if (reserved < wrapsToRotateAt(wrapsMax)) return
    if (traits.rotates) {
      this.#options.onWornOut()
      return
    }
    const percent = Math.floor((100 * reserved) / wrapsMax)
    if (percent === Math.floor((100 * (reserved - wraps)) / wrapsMax)) return
    this.#options.log(
      `KMS key ${kmsKeyId} in key store ${name}: ${percent} % of the wraps that version ${version} of its material ` +
        'is good for are taken, and at 100 % it is refused; give the key new material, or use another key',
    )
  }
}

/** Of few wraps one process takes no more than a small part: others want some. */
function wrapsPerReservation(wrapsMax: number): number {
  return Math.max(1, Math.min(WRAPS_PER_RESERVATION, Math.floor(wrapsMax / 256)))
}

export function wrapsToRotateAt(wrapsMax: number): number {
  return Math.ceil(wrapsMax * WRAPS_ROTATE_SHARE)
}
