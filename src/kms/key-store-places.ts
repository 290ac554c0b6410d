/**
 * The key stores there are: a row of the catalog each, and its place in memory, which says what is open of it. Changes
 * come one after the other, so that each finds what the one before it left.
 */
import type { Catalog } from '../catalog/catalog.ts'
import * as catalogKeyStores from '../catalog/key-stores.ts'
import type { StoredKeyStore } from '../catalog/key-stores.ts'
import type { SecretSealer } from '../key-stores/secret-sealer.ts'
import type { KeyStoreAddress } from './key-store-opener.ts'
import {
  notFound,
  placeOf,
  secretPlace,
  settingsOf,
  type Place,
  type SecretOwner,
} from './key-store-record.ts'

export class KeyStorePlaces {
  readonly #catalog: Catalog
  readonly #sealer: SecretSealer
  /** By id. */
  readonly #places = new Map<string, Place>()
  #changing: Promise<unknown> = Promise.resolve()

  static async load(catalog: Catalog, sealer: SecretSealer): Promise<KeyStorePlaces> {
    const places = new KeyStorePlaces(catalog, sealer)
    for (const stored of (await places.readRows()).values()) places.add(stored)
    return places
  }

  constructor(catalog: Catalog, sealer: SecretSealer) {
    this.#catalog = catalog
    this.#sealer = sealer
  }

  async readRows(): Promise<ReadonlyMap<string, StoredKeyStore>> {
    const rows = await catalogKeyStores.readKeyStores(this.#catalog.db)
    return new Map(rows.map((row) => [row.id, row]))
  }

  /** By id, then by name. Throws KEY_STORE_NOT_FOUND. */
  find(reference: string): Place {
    const place = this.lookUp(reference)
    if (place === undefined) throw notFound()
    return place
  }

  lookUp(reference: string): Place | undefined {
    const named = ({ stored }: Place): boolean => stored.name === reference
    return this.#places.get(reference) ?? [...this.#places.values()].find(named)
  }

  get(id: string): Place | undefined {
    return this.#places.get(id)
  }

  all(): readonly Place[] {
    return [...this.#places.values()]
  }

  get count(): number {
    return this.#places.size
  }

  add(stored: StoredKeyStore): Place {
    const place = placeOf(stored)
    this.#places.set(stored.id, place)
    return place
  }

  delete(id: string): void {
    this.#places.delete(id)
  }

  /** Runs `work` when the changes before it are over. */
  exclusively<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#changing.then(work)
    this.#changing = run.catch(() => undefined)
    return run
  }

  async store(
    place: Place,
    change: Parameters<typeof catalogKeyStores.updateKeyStore>[2],
  ): Promise<void> {
    const { id } = place.stored
    await this.#catalog.change((transaction, changeNumber) =>
      catalogKeyStores.updateKeyStore(transaction, id, change, changeNumber),
    )
    place.stored = { ...place.stored, ...change }
  }

  /** As its row has it. */
  seal(of: SecretOwner, secret: Uint8Array | undefined): Uint8Array | null {
    return secret === undefined ? null : this.#sealer.seal(secretPlace(of), secret)
  }

  addressOf(stored: StoredKeyStore): KeyStoreAddress {
    const { id, name, kind, sealedSecret } = stored
    const openSecret =
      sealedSecret === null ? undefined : () => this.#sealer.open(secretPlace(stored), sealedSecret)
    return { id, name, kind, settings: settingsOf(stored), openSecret }
  }
}
