/** Which root key a node seals under: the one that its shared catalog says, from the moment that the node knows it. */
import type { Catalog } from '../catalog/catalog.ts'
import { readRootFile, ROOT_CHECK } from '../catalog/root-files.ts'
import { KeyfoldError } from '../errors.ts'

/** What seals under the root key. */
interface Sealer {
  turnTo(rootVersion: number): void
}

export interface FollowedRoots {
  /** What root.check says of the root key in use. */
  readonly check: string
  /** And of the next one; only of one that is at hand. */
  readonly next: { readonly version: number; readonly check: string } | undefined
}

export class RootFollower {
  readonly #catalog: Catalog
  readonly #sealers: readonly Sealer[]
  #roots: FollowedRoots

  constructor(catalog: Catalog, roots: FollowedRoots, sealers: readonly Sealer[]) {
    this.#catalog = catalog
    this.#roots = roots
    this.#sealers = sealers
  }

  /** Errors: ROOT_KEY_INVALID, for as long as this node lacks the root key in use: it follows nothing, and has no lease. */
  async follow(): Promise<void> {
    const check = await readRootFile(this.#catalog.db, ROOT_CHECK)
    const { check: present, next } = this.#roots
    // By what root.check says and not by the version: one that was announced may have been replaced by another.
    if (check === present || check === undefined) return
    if (check !== next?.check) {
      throw new KeyfoldError(
        'ROOT_KEY_INVALID',
        'it was rotated, and this node was started without the one in use: restart it with that',
      )
    }
    for (const sealer of this.#sealers) sealer.turnTo(next.version)
    this.#roots = { check, next: undefined }
  }
}
