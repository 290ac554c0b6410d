/** What this process remembers of the catalog, kept up with what other nodes change. */
import type { Catalog } from '../catalog/catalog.ts'
import { readTouchedKeys } from '../catalog/keys.ts'
import { readRemovals, type Removal } from '../catalog/removals.ts'
import { CATALOG_REMOVALS_KEPT } from '../limits.ts'
import type { AccessKeys } from './access-keys.ts'
import type { IdentityPolicies } from './identity-policies.ts'
import type { KeyStores } from './key-stores.ts'
import type { KeyRegistry } from './registry.ts'
import type { RootFollower } from './root-follower.ts'
import type { Tokens } from './tokens.ts'

export interface Remembered {
  readonly registry: KeyRegistry
  readonly tokens: Tokens
  readonly accessKeys: AccessKeys
  readonly identityPolicies: IdentityPolicies
  readonly keyStores: Pick<KeyStores, 'follow'>
  readonly rootKey: RootFollower
}

export class CatalogFollower {
  readonly #catalog: Catalog
  readonly #remembered: Remembered

  constructor(catalog: Catalog, remembered: Remembered) {
    this.#catalog = catalog
    this.#remembered = remembered
  }

  /** Every change after `since` and up to `number` is in force when it resolves; all there is where it is undefined. */
  async follow(since: number | undefined, number: number): Promise<void> {
    const { registry, tokens, accessKeys, identityPolicies, keyStores, rootKey } = this.#remembered
    await rootKey.follow()
    // Removals of so long ago may not be told any more.
    const from = since !== undefined && number - since < CATALOG_REMOVALS_KEPT ? since : undefined
    const removals = from === undefined ? [] : await readRemovals(this.#catalog.db, from)
    // Before the keys in them: what a key's state is depends on its store.
    await keyStores.follow()
    if (from === undefined) registry.forgetAll()
    else
      await registry.follow([
        ...(await readTouchedKeys(this.#catalog.db, from)),
        ...namesOf('kmsKey', removals),
      ])
    await tokens.follow(from)
    await accessKeys.follow(from)
    await identityPolicies.follow(from, namesOf('identityPolicy', removals))
  }
}

function namesOf(kind: Removal['kind'], removals: readonly Removal[]): readonly string[] {
  return removals.filter((removal) => removal.kind === kind).map(({ name }) => name)
}
