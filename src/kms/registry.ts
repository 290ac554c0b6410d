/**
 * The KMS keys as they stand, in memory, and the one way of changing them. A change commits first; then, in one tick,
 * the record in memory is replaced and everyone who listens is told. The data plane reads memory only.
 */
import { LRUCache } from 'lru-cache'

import type { Catalog, CatalogTransaction } from '../catalog/catalog.ts'
import { readGrants } from '../catalog/grants.ts'
import * as catalogKeys from '../catalog/keys.ts'
import { KeyfoldError } from '../errors.ts'
import {
  grantOf,
  holdsSame,
  isSameMaterial,
  readExisting,
  recordOf,
  stateOf,
} from './key-record.ts'
import { assertOperable, type KeyOperation } from './key-states.ts'
import type { Grant, KmsKey, KmsKeyRegistry } from './kms-key.ts'
import { servedAloneMs } from './served-alone.ts'
import { keyIdsOfBytes, parseKeyReference, replicaRowId } from './reference.ts'

/** Keys and aliases kept in memory; the rest is read when it is named. */
const RECORDS_MAX = 65_536
const PEEKED_MAX = 4_096
/** Keys that were removed and may still be in the hands of a request. */
const REMOVED_MAX = 4_096

const NO_GRANTS: readonly Grant[] = []

type Queries = Catalog['db']

/** `now` is the key as it stands in the transaction, whatever memory says. */
type Change<T> = (transaction: CatalogTransaction, changeNumber: number, now: KmsKey) => Promise<T>

export class KeyRegistry implements KmsKeyRegistry {
  readonly #catalog: Catalog
  /** By row id. */
  readonly #records = new LRUCache<string, KmsKey>({ max: RECORDS_MAX })
  /** `REGION/alias/NAME` → row id, of aliases that exist. */
  readonly #aliases = new LRUCache<string, string>({ max: RECORDS_MAX })
  /** What names stood for since the last change: the hot path parses none of them twice. */
  readonly #peeked = new Map<string, KmsKey>()
  /** What current() answers of keys that are gone: whoever holds an old record must not take it for the latest. */
  readonly #removed = new LRUCache<string, KmsKey>({ max: REMOVED_MAX })
  readonly #listeners: ((kmsKeyId: string) => void)[] = []
  /** Grows with every change: whoever read the catalog meanwhile reads again. */
  #changes = 0
  /** Grows with every change of a key's state or material; a record carries the value of its own. */
  #epoch = 0
  readonly #isConnected: (keyStore: string) => boolean

  /** `isConnected`: a key is Unavailable while its key store is not. */
  constructor(catalog: Catalog, isConnected: (keyStore: string) => boolean = () => true) {
    this.#catalog = catalog
    this.#isConnected = isConnected
  }

  // What the data plane asks.

  peek(reference: string): KmsKey | undefined {
    const peeked = this.#peeked.get(reference)
    if (peeked !== undefined) return peeked
    const record = this.#peekNamed(reference)
    if (record !== undefined) {
      if (this.#peeked.size >= PEEKED_MAX) this.#peeked.clear()
      this.#peeked.set(reference, record)
    }
    return record
  }

  #peekNamed(reference: string): KmsKey | undefined {
    const name = parseKeyReference(reference, this.#catalog, this.#catalog.region)
    if (name.kind === 'alias') {
      const id = this.#aliases.get(aliasName(name.alias, name.region))
      return id === undefined ? undefined : this.#records.get(id)
    }
    return this.#rowIds(name.id, name.region)
      .map((id) => this.#records.get(id))
      .find((record) => record?.region === name.region)
  }

  async resolve(reference: string, region: string = this.#catalog.region): Promise<KmsKey> {
    const name = parseKeyReference(reference, this.#catalog, region)
    if (name.kind === 'id') {
      const found = await this.#findFirst(this.#rowIds(name.id, name.region), name.region)
      if (found === undefined) throw new KeyfoldError('KMS_KEY_NOT_FOUND')
      return found
    }
    for (;;) {
      const changes = this.#changes
      const known = aliasName(name.alias, name.region)
      const id =
        this.#aliases.get(known) ??
        (await catalogKeys.readAlias(this.#catalog.db, this.rowOfAlias(name.alias, name.region)))
          ?.kmsKeyId
      if (id === undefined) throw new KeyfoldError('KMS_KEY_NOT_FOUND')
      // A change may have moved the alias while the catalog was read: what was read is then old.
      if (this.#changes !== changes) continue
      this.#aliases.set(known, id)
      return this.load(id)
    }
  }

  /** Of a family of keys the one of the catalog's region, if memory has it: where there is none, resolveById knows. */
  peekById(idBytes: Uint8Array): KmsKey | undefined {
    const { region } = this.#catalog
    for (const keyId of keyIdsOfBytes(idBytes)) {
      for (const id of this.#rowIds(keyId, region)) {
        const record = this.#records.get(id)
        // A key that is no multi-Region key is in one region only.
        if (record?.region === region || (record !== undefined && !record.multiRegion)) {
          return record
        }
      }
    }
    return undefined
  }

  /** In this region; or in the catalog's own first, then wherever else this server keeps the key. */
  async resolveById(idBytes: Uint8Array, region?: string): Promise<KmsKey> {
    const keyIds = keyIdsOfBytes(idBytes)
    const regions = region === undefined ? this.#catalog.regions : [region]
    for (const candidate of regions) {
      const ids = keyIds.flatMap((keyId) => this.#rowIds(keyId, candidate))
      const record = await this.#findFirst(ids, candidate)
      if (record !== undefined) return record
    }
    throw new KeyfoldError('KMS_KEY_NOT_FOUND')
  }

  current(id: string): KmsKey | undefined {
    return this.#records.get(id) ?? this.#removed.get(id)
  }

  assertServed(kmsKey: KmsKey): void {
    this.#catalog.lease.assertHeld(() => servedAloneMs(kmsKey))
  }

  onChange(listener: (kmsKeyId: string) => void): void {
    this.#listeners.push(listener)
  }

  // What the control plane asks.

  /**
   * Commits `work` if the key's state allows the operation, and makes the new record visible. Answers come from the
   * catalog in the order of commits. Throws KMS_KEY_NOT_FOUND and what assertOperable throws.
   */
  change(id: string, operation: KeyOperation, work: Change<void>): Promise<KmsKey> {
    return this.changeGrants(id, operation, async (transaction, changeNumber, now) => {
      await work(transaction, changeNumber, now)
      return now.grants
    })
  }

  /**
   * Commits `work`, which erases the key, and forgets it; where work answers false, nothing happened. What the data
   * plane had of it is gone in the same tick.
   */
  async remove(
    id: string,
    work: (transaction: CatalogTransaction, changeNumber: number, now: KmsKey) => Promise<boolean>,
  ): Promise<boolean> {
    const removed = await this.#catalog.change(async (transaction, changeNumber) => {
      const grants = await this.#grantsOf(transaction, id, changeNumber)
      const now = this.#recordOf(await readExisting(transaction, id), grants, this.#epoch)
      return (await work(transaction, changeNumber, now)) ? now : undefined
    })
    if (removed === undefined) return false
    this.#forgetRemoved(removed)
    await this.#catalog.acknowledged()
    return true
  }

  /** As change, of work that answers the key's grants as they stand after it. */
  changeGrants(
    id: string,
    operation: KeyOperation,
    work: Change<readonly Grant[]>,
  ): Promise<KmsKey> {
    return this.#commit(id, async (transaction, changeNumber) => {
      const grants = await this.#grantsOf(transaction, id, changeNumber)
      const now = this.#recordOf(await readExisting(transaction, id), grants, this.#epoch)
      assertOperable(operation, now)
      return work(transaction, changeNumber, now)
    })
  }

  /** As change, of a key that `work` inserts. `accept` sees it as it would be, and prevents it by throwing. */
  create(
    id: string,
    work: (transaction: CatalogTransaction, changeNumber: number) => Promise<void>,
    accept: (created: KmsKey) => void = () => undefined,
  ): Promise<KmsKey> {
    return this.#commit(id, async (transaction, changeNumber) => {
      await work(transaction, changeNumber)
      accept(this.#recordOf(await readExisting(transaction, id), NO_GRANTS, this.#epoch))
      return NO_GRANTS
    })
  }

  async #commit(
    id: string,
    work: (transaction: CatalogTransaction, changeNumber: number) => Promise<readonly Grant[]>,
  ): Promise<KmsKey> {
    const { stored, grants } = await this.#catalog.change(async (transaction, changeNumber) => {
      const grants = await work(transaction, changeNumber)
      await catalogKeys.touchKeys(transaction, [id], changeNumber)
      return { stored: await readExisting(transaction, id), grants }
    })
    this.#changes++
    const before = this.#records.get(id)
    const { record, moved } = this.#renewed(before, stored, grants)
    this.#records.set(id, record)
    this.#removed.delete(id)
    this.#peeked.clear()
    // Tags, aliases, grants and policies leave data keys where they are: they are asked for at every use.
    if (moved) for (const listener of this.#listeners) listener(id)
    this.#renewRelatives(record)
    await this.#catalog.acknowledged()
    return record
  }

  // What other nodes change.

  /** These keys, or their aliases, grants or tags, are not what they were; some may be gone. */
  async follow(ids: readonly string[]): Promise<void> {
    // Whoever reads the catalog now reads again.
    this.#changes++
    const touched = new Set(ids)
    const owners = new Set(ids.map(catalogKeys.materialOwner))
    for (const [alias, id] of this.#aliases.entries()) {
      if (touched.has(id)) this.#aliases.delete(alias)
    }
    this.#peeked.clear()
    // Material is shared by a family, whose keys are not all touched by a change of it.
    const known = [...this.#records.values()].filter(
      ({ id, keyId, multiRegion }) =>
        touched.has(id) || (multiRegion !== undefined && owners.has(keyId)),
    )
    for (const { id } of known) await this.#readAgain(id)
    const remembered = new Set(known.map(({ id }) => id))
    // Of keys that left memory data keys may be left.
    for (const id of ids) {
      if (!remembered.has(id)) for (const listener of this.#listeners) listener(id)
    }
  }

  /** Nothing that is remembered can be relied on. */
  forgetAll(): void {
    const ids = [...this.#records.keys()]
    this.#aliases.clear()
    this.#removed.clear()
    this.#peeked.clear()
    this.#changes++
    this.#epoch++
    for (const id of ids) this.forget(id)
  }

  /** In memory a key stays itself while its material does: data keys live on. */
  async #readAgain(id: string): Promise<void> {
    for (;;) {
      const before = this.#records.get(id)
      if (before === undefined) return
      const stored = await catalogKeys.readKey(this.#catalog.db, id)
      const grants = (await readGrants(this.#catalog.db, id)).map(grantOf)
      // A change by this node came first, and what was read may be from before it.
      if (this.#records.get(id) !== before) continue
      if (stored === undefined || stored.state === 'Deleted') {
        this.#forgetRemoved(before)
        return
      }
      const { record, moved } = this.#renewed(before, stored, grants)
      this.#records.set(id, record)
      this.#peeked.clear()
      if (moved) for (const listener of this.#listeners) listener(id)
      return
    }
  }

  /** What follows `before`: where state or material moved it has an epoch of its own. */
  #renewed(
    before: KmsKey | undefined,
    stored: catalogKeys.StoredKey,
    grants: readonly Grant[],
  ): { readonly record: KmsKey; readonly moved: boolean } {
    const after = this.#recordOf(stored, grants, this.#epoch + 1)
    const moved = before === undefined || !isSameMaterial(before, after)
    if (moved) this.#epoch++
    return { moved, record: moved ? after : Object.freeze({ ...after, epoch: before.epoch }) }
  }

  #forgetRemoved(removed: KmsKey): void {
    for (const alias of removed.aliases) this.setAlias(alias, removed.region, undefined)
    this.#removed.set(
      removed.id,
      Object.freeze({ ...removed, materials: new Map(), epoch: this.#epoch + 1 }),
    )
    this.forget(removed.id)
  }

  /** New material of a multi-Region key is its relatives' too, from the same tick on. */
  #renewRelatives({ id, keyId, multiRegion, materials, ...changed }: KmsKey): void {
    if (multiRegion === undefined) return
    const rows = new Set(this.#catalog.regions.flatMap((region) => this.#rowIds(keyId, region)))
    for (const row of rows) {
      const known = this.#records.get(row)
      if (row === id || known === undefined) continue
      // Versions only grow.
      const currentVersion = Math.max(known.currentVersion, changed.currentVersion)
      if (known.currentVersion === currentVersion && holdsSame(known, materials.values())) continue
      const epoch = ++this.#epoch
      const { materialValidToMs } = changed
      this.#records.set(
        row,
        Object.freeze({ ...known, currentVersion, materials, materialValidToMs, epoch }),
      )
      for (const listener of this.#listeners) listener(row)
    }
  }

  /** An alias stands for this key now, or for none: called in the tick of the change. */
  setAlias(alias: string, region: string, id: string | undefined): void {
    if (id === undefined) this.#aliases.delete(aliasName(alias, region))
    else this.#aliases.set(aliasName(alias, region), id)
    this.#peeked.clear()
  }

  /** The key is gone, or its record is not what it was: it is read again when it is asked for. */
  forget(id: string): void {
    this.#changes++
    this.#epoch++
    this.#records.delete(id)
    this.#peeked.clear()
    for (const listener of this.#listeners) listener(id)
  }

  /**
   * A key store was connected or disconnected: its keys are Unavailable from this tick on, or are read again. Answers
   * which those in memory were.
   */
  keyStoreChanged(keyStore: string): ReadonlySet<string> {
    this.#changes++
    this.#epoch++
    this.#peeked.clear()
    const changed = new Set<string>()
    for (const [id, record] of [...this.#records.entries()]) {
      if (record.keyStore !== keyStore) continue
      changed.add(id)
      // What whoever holds the old record takes for the latest is never a usable key of a store that is gone.
      if (this.#isConnected(keyStore)) this.#records.delete(id)
      else {
        const state = stateOf(record.state, { isConnected: false })
        this.#records.set(id, Object.freeze({ ...record, state, epoch: this.#epoch }))
      }
    }
    return changed
  }

  /** A change of what a family of multi-Region keys shares: whatever else is known of it is read again. */
  forgetRelatives({ id, keyId, multiRegion }: KmsKey): void {
    if (multiRegion === undefined) return
    for (const region of this.#catalog.regions) {
      for (const row of this.#rowIds(keyId, region)) {
        if (row !== id && this.#records.has(row)) this.forget(row)
      }
    }
  }

  /** How the catalog names an alias: those of other regions than its own carry the region. */
  rowOfAlias(alias: string, region: string): string {
    return region === this.#catalog.region ? alias : `${alias}@${region}`
  }

  // Inside.

  /** The rows that may hold a key of this id in this region: its first one, or a replica's. */
  #rowIds(keyId: string, region: string): readonly string[] {
    return keyId.startsWith('mrk-') ? [keyId, replicaRowId(keyId, region)] : [keyId]
  }

  async #findFirst(ids: readonly string[], region: string): Promise<KmsKey | undefined> {
    for (const id of ids) {
      try {
        const record = await this.load(id)
        if (record.region === region) return record
      } catch (error) {
        if (!(error instanceof KeyfoldError && error.code === 'KMS_KEY_NOT_FOUND')) throw error
      }
    }
    return undefined
  }

  /** By the name of its row. Throws KMS_KEY_NOT_FOUND. */
  async load(id: string): Promise<KmsKey> {
    for (;;) {
      const known = this.#records.get(id)
      if (known !== undefined) return known
      const changes = this.#changes
      const stored = await readExisting(this.#catalog.db, id)
      const grants = (await readGrants(this.#catalog.db, id)).map(grantOf)
      if (this.#changes !== changes) continue
      const record = this.#recordOf(stored, grants, this.#epoch)
      this.#records.set(id, record)
      return record
    }
  }

  /**
   * Those of memory where it has the key and has followed every change before this one; a change of one grant would
   * otherwise read 50,000. Within a change nothing else is committed meanwhile.
   */
  async #grantsOf(db: Queries, id: string, changeNumber: number): Promise<readonly Grant[]> {
    const known = this.#records.get(id)?.grants
    if (known !== undefined && this.#catalog.followed >= changeNumber - 1) return known
    return (await readGrants(db, id)).map(grantOf)
  }

  #recordOf(stored: catalogKeys.StoredKey, grants: readonly Grant[], epoch: number): KmsKey {
    const isConnected = this.#isConnected(stored.keyStore)
    return recordOf(stored, { grants, epoch, isConnected, location: this.#catalog })
  }
}

function aliasName(alias: string, region: string): string {
  return `${region}/${alias}`
}
