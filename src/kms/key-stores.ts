/**
 * Key stores beside the local one (AWS KMS, "Custom key stores"): created, connected and disconnected by callers, each
 * holding the material of its KMS keys somewhere else. The catalog says how a store is reached and whether it shall be
 * connected (key-store-places.ts); connecting it is beside the request that asks for it (key-store-connections.ts).
 *
 * A store that was connected when the server ended is connected again at its next start, in the background, for as long
 * as it takes; until then its keys are Unavailable.
 */
import { randomBytes } from 'node:crypto'

import type { Catalog, CatalogTransaction } from '../catalog/catalog.ts'
import * as catalogKeyStores from '../catalog/key-stores.ts'
import type { KeyStoreKind, StoredKeyStore } from '../catalog/key-stores.ts'
import { KeyfoldError } from '../errors.ts'
import { checkSecret, checkSettings, type KeyStoreSettings } from '../format/key-store-settings.ts'
import type { KeyStore } from '../key-stores/key-store.ts'
import { LOCAL_KEY_STORE } from '../key-stores/local.ts'
import type { SecretSealer } from '../key-stores/secret-sealer.ts'
import { KEY_STORE_NAME_CHARACTERS_MAX, KEY_STORES_MAX } from '../limits.ts'
import { KeyStoreConnections } from './key-store-connections.ts'
import { messageOf, KeyStoreOpener, type OpenKeyStore } from './key-store-opener.ts'
import { KeyStorePlaces } from './key-store-places.ts'
import {
  notFound,
  recordOf,
  stateInvalid,
  textOf,
  type KeyStoreRecord,
  type Place,
} from './key-store-record.ts'
import { KINDS } from './key-store-kinds.ts'
import type { KeyOrigin, KmsKey } from './kms-key.ts'

export interface NewKeyStore {
  readonly name: string
  readonly kind: KeyStoreKind
  readonly settings: KeyStoreSettings
  /** Filled with zeros on return, whatever comes of it. */
  readonly secret?: Uint8Array | undefined
  readonly keepsOpenKeys?: boolean | undefined
}

export interface KeyStoreChange {
  readonly name?: string | undefined
  /** Those that change. */
  readonly settings?: KeyStoreSettings | undefined
  /** Filled with zeros on return, whatever comes of it. */
  readonly secret?: Uint8Array | undefined
  readonly keepsOpenKeys?: boolean | undefined
}

export interface KeyStoresOptions {
  readonly catalog: Catalog
  readonly sealer: SecretSealer
  /** Where keys go for which nothing else is said. */
  readonly local: KeyStore
  readonly openKeyStore: OpenKeyStore
  /** What stands between us and a key store of another system, once it has shown that it is there. */
  readonly guarded: (store: KeyStore, record: KeyStoreRecord) => KeyStore
  /** Names of PKCS#11 modules that this node has. */
  readonly modules: ReadonlySet<string>
  readonly nowMs: () => number
  readonly log: (message: string) => void
}

export class KeyStores {
  readonly local: KeyStore
  readonly #options: KeyStoresOptions
  readonly #places: KeyStorePlaces
  readonly #opener: KeyStoreOpener
  readonly #connections: KeyStoreConnections

  static async load(options: KeyStoresOptions): Promise<KeyStores> {
    return new KeyStores(options, await KeyStorePlaces.load(options.catalog, options.sealer))
  }

  private constructor(options: KeyStoresOptions, places: KeyStorePlaces) {
    const { local, openKeyStore, guarded, log } = options
    this.local = local
    this.#options = options
    this.#places = places
    this.#opener = new KeyStoreOpener(openKeyStore, log)
    this.#connections = new KeyStoreConnections({ places, opener: this.#opener, guarded, log })
  }

  /** Begins to connect what was connected before. Waits for nothing. */
  resume(): void {
    for (const place of this.#places.all()) {
      if (place.state === 'CONNECTING') this.#connections.reconnect(place)
    }
  }

  /**
   * What other nodes did to key stores: each node connects for itself and fails for itself; that one is to be connected,
   * or not, is for all. What may not be used any more is put away when it resolves; connecting is nothing to wait for.
   */
  async follow(): Promise<void> {
    const rows = await this.#places.readRows()
    for (const place of this.#places.all()) {
      const row = rows.get(place.stored.id)
      const isToBeUsed = row !== undefined && row.connectionState !== 'DISCONNECTED'
      if (isInUse(place) && !isToBeUsed) this.#connections.putAway(place)
    }
    this.#places
      .exclusively(async () => {
        const rows = await this.#places.readRows()
        for (const { stored } of this.#places.all()) {
          if (!rows.has(stored.id)) this.#places.delete(stored.id)
        }
        for (const stored of rows.values()) this.#followOne(stored)
      })
      .catch((error: unknown) => this.#options.log(`key stores: ${messageOf(error)}`))
  }

  #followOne(stored: StoredKeyStore): void {
    const place = this.#places.get(stored.id)
    if (place === undefined) {
      const added = this.#places.add(stored)
      if (isToConnect(stored)) this.#connections.follow(added)
      return
    }
    const before = place.stored
    place.stored = stored
    // Another node's failure is none of ours.
    if (!isToConnect(stored)) return
    const isSame = isReachedAs(before, stored)
    if (!isSame) this.#connections.putAway(place)
    if (!isSame || place.state === 'DISCONNECTED' || place.state === 'FAILED') {
      this.#connections.follow(place)
    }
  }

  // What is asked about them.

  /** By id, then by name. Throws KEY_STORE_NOT_FOUND. */
  find(reference: string): KeyStoreRecord {
    return recordOf(this.#places.find(reference))
  }

  /** In the order of their ids. */
  list(): readonly KeyStoreRecord[] {
    return this.#places
      .all()
      .map(recordOf)
      .sort((a, b) => (a.id < b.id ? -1 : 1))
  }

  isConnected(id: string): boolean {
    return id === LOCAL_KEY_STORE || this.opened(id) !== undefined
  }

  /** Ids of those that work can be handed to. */
  get connected(): readonly string[] {
    return this.#places
      .all()
      .map(({ stored }) => stored.id)
      .filter((id) => this.isConnected(id))
  }

  opened(id: string): KeyStore | undefined {
    return id === LOCAL_KEY_STORE ? this.local : this.#places.get(id)?.opened
  }

  /** Throws KEY_STORE_UNREACHABLE. */
  storeOf({ keyStore }: Pick<KmsKey, 'keyStore'>): KeyStore {
    const opened = this.opened(keyStore)
    if (opened !== undefined) return opened
    throw new KeyfoldError('KEY_STORE_UNREACHABLE', `${keyStore} is not connected`)
  }

  /** Of the keys in it, as far as that is known without opening it; undefined where there is no such key store. */
  originOf(reference: string): KeyOrigin | undefined {
    const place = this.#places.lookUp(reference)
    return place && (place.opened?.traits.origin ?? KINDS[place.stored.kind].type)
  }

  /** What a new KMS key is put into. Throws KEY_STORE_NOT_FOUND, KEY_STORE_STATE_INVALID. */
  connectedStore(reference: string): { readonly record: KeyStoreRecord; readonly store: KeyStore } {
    const place = this.#places.find(reference)
    if (place.state !== 'CONNECTED' || place.opened === undefined) {
      throw stateInvalid(place, 'it has to be CONNECTED')
    }
    return { record: recordOf(place), store: place.opened }
  }

  /** Throws unless a KMS key may be put into it in this transaction: KEY_STORE_NOT_FOUND, XKS_KEY_IN_USE. */
  async assertTakes(
    transaction: CatalogTransaction,
    id: string,
    externalKeyId: string | undefined,
  ): Promise<void> {
    if (!(await catalogKeyStores.isKeyStoreThere(transaction, id))) throw notFound()
    if (externalKeyId === undefined) return
    if (await catalogKeyStores.holdsKeys(transaction, id, externalKeyId)) {
      throw new KeyfoldError('XKS_KEY_IN_USE')
    }
  }

  /** Called in the tick in which one is connected or is not any more. */
  onChange(listener: (id: string) => void): void {
    this.#connections.onChange(listener)
  }

  /** Resolves when nothing is under way with it: it was connected or has failed, or its last retry is yet to come. */
  async settled(reference: string): Promise<KeyStoreRecord> {
    const place = this.#places.find(reference)
    await place.settled
    return recordOf(place)
  }

  // What changes them.

  /** Errors: REQUEST_MALFORMED, LIMIT_EXCEEDED, KEY_STORE_NAME_IN_USE, and what trying it says. */
  async create(request: NewKeyStore): Promise<KeyStoreRecord> {
    const { name, kind, settings, secret, keepsOpenKeys = false } = request
    try {
      checkName(name)
      checkSettings(kind, settings)
      checkSecret(kind, secret)
      return await this.#places.exclusively(async () => {
        if (this.#places.count >= KEY_STORES_MAX) {
          throw new KeyfoldError('LIMIT_EXCEEDED', `at most ${KEY_STORES_MAX} key stores`)
        }
        const id = createKeyStoreId()
        const wanted = { id, name, kind, settings }
        this.#assertUnused(wanted)
        if (KINDS[kind].tried) await this.#opener.try({ ...wanted, openSecret: copierOf(secret) })
        const settingsText = textOf(settings)
        const stored: StoredKeyStore = {
          id,
          name,
          kind,
          settings: settingsText,
          sealedSecret: this.#places.seal({ id, kind, settings: settingsText }, secret),
          connectionState: 'DISCONNECTED',
          connectionErrorCode: null,
          keepsOpenKeys: keepsOpenKeys ? 1 : 0,
          createdAtMs: this.#options.nowMs(),
        }
        await this.#options.catalog.change((transaction, changeNumber) =>
          catalogKeyStores.insertKeyStore(transaction, stored, changeNumber),
        )
        return recordOf(this.#places.add(stored))
      })
    } finally {
      secret?.fill(0)
    }
  }

  /** Begins to connect it. Errors: KEY_STORE_NOT_FOUND, KEY_STORE_STATE_INVALID, HSM_NOT_ACTIVE. */
  connect(reference: string): Promise<KeyStoreRecord> {
    return this.#places.exclusively(async () => {
      const place = this.#places.find(reference)
      const { state } = place
      if (state === 'CONNECTED' || state === 'CONNECTING') return recordOf(place)
      if (state !== 'DISCONNECTED') throw stateInvalid(place, 'it has to be DISCONNECTED')
      const { kind, settings } = recordOf(place)
      if (kind === 'pkcs11' && !this.#hasModule(settings)) throw new KeyfoldError('HSM_NOT_ACTIVE')
      await this.#places.store(place, { connectionState: 'CONNECTING', connectionErrorCode: null })
      this.#connections.connect(place)
      return recordOf(place)
    })
  }

  /** From then on its keys are Unavailable, on every node. Errors: KEY_STORE_NOT_FOUND, KEY_STORE_STATE_INVALID. */
  async disconnect(reference: string): Promise<KeyStoreRecord> {
    const disconnected = await this.#places.exclusively(async () => {
      const place = this.#places.find(reference)
      const { state } = place
      if (state === 'DISCONNECTED' || state === 'DISCONNECTING') {
        throw stateInvalid(place, 'it is not connected')
      }
      await this.#places.store(place, {
        connectionState: 'DISCONNECTED',
        connectionErrorCode: null,
      })
      this.#connections.putAway(place)
      return recordOf(place)
    })
    await this.#options.catalog.acknowledged()
    return disconnected
  }

  /** Errors: as of create, KEY_STORE_NOT_FOUND, KEY_STORE_STATE_INVALID. */
  async update(reference: string, change: KeyStoreChange): Promise<KeyStoreRecord> {
    const { secret } = change
    try {
      return await this.#places.exclusively(async () => {
        const place = this.#places.find(reference)
        assertChangeable(place, change)
        const before = recordOf(place)
        const { kind } = before
        const name = change.name ?? before.name
        const settings = { ...before.settings, ...change.settings }
        checkName(name)
        checkSettings(kind, settings)
        if (secret !== undefined) checkSecret(kind, secret)
        this.#assertUnused({ id: place.stored.id, name, kind, settings })
        const kept = { name, keepsOpenKeys: (change.keepsOpenKeys ?? before.keepsOpenKeys) ? 1 : 0 }
        const sameWay = change.settings === undefined && secret === undefined
        if (sameWay && kept.keepsOpenKeys === place.stored.keepsOpenKeys) {
          await this.#places.store(place, kept as Pick<StoredKeyStore, 'name' | 'keepsOpenKeys'>)
        } else {
          await this.#replace(place, { ...kept, settings: textOf(settings) } as Replacement, secret)
        }
        return recordOf(place)
      })
    } finally {
      secret?.fill(0)
    }
  }

  /** Errors: KEY_STORE_NOT_FOUND, KEY_STORE_STATE_INVALID, KEY_STORE_HAS_KEYS. */
  delete(reference: string): Promise<void> {
    return this.#places.exclusively(async () => {
      const place = this.#places.find(reference)
      const { id } = place.stored
      if (place.state !== 'DISCONNECTED') throw stateInvalid(place, 'it has to be DISCONNECTED')
      await this.#options.catalog.change(async (transaction) => {
        if (await catalogKeyStores.holdsKeys(transaction, id)) {
          throw new KeyfoldError('KEY_STORE_HAS_KEYS')
        }
        await catalogKeyStores.deleteKeyStore(transaction, id)
      })
      this.#places.delete(id)
    })
  }

  /** Wipes what is open, and connects nothing any more. */
  lock(): void {
    this.#connections.lock()
  }

  close(): Promise<void> {
    return this.#connections.close()
  }

  // Inside.

  #hasModule({ module = '' }: KeyStoreSettings): boolean {
    return this.#options.modules.has(module)
  }

  /** The secret of before goes on where none is given: sealed again, for it is bound to the settings. */
  async #replace(place: Place, change: Replacement, given: Uint8Array | undefined): Promise<void> {
    const { id, kind } = place.stored
    const secret = given ?? this.#places.addressOf(place.stored).openSecret?.()
    try {
      const sealedSecret = this.#places.seal({ id, kind, settings: change.settings }, secret)
      await this.#connections.replace(place, { ...change, sealedSecret })
    } finally {
      secret?.fill(0)
    }
  }

  /** Throws KEY_STORE_NAME_IN_USE, HSM_NOT_FOUND, HSM_IN_USE, XKS_PROXY_URI_IN_USE. */
  #assertUnused(wanted: Pick<KeyStoreRecord, 'id' | 'name' | 'kind' | 'settings'>): void {
    const others = this.list().filter(({ id }) => id !== wanted.id)
    if (others.some(({ name }) => name === wanted.name)) {
      throw new KeyfoldError('KEY_STORE_NAME_IN_USE')
    }
    const { kind, settings } = wanted
    const sharesAll = (...names: readonly string[]): boolean =>
      others.some(
        (other) =>
          other.kind === kind && names.every((name) => other.settings[name] === settings[name]),
      )
    if (kind === 'pkcs11') {
      if (!this.#hasModule(settings)) throw new KeyfoldError('HSM_NOT_FOUND')
      if (sharesAll('module')) throw new KeyfoldError('HSM_IN_USE')
    }
    if (kind === 'xks' && sharesAll('uriEndpoint', 'uriPath')) {
      throw new KeyfoldError('XKS_PROXY_URI_IN_USE')
    }
  }
}

type Replacement = Pick<StoredKeyStore, 'name' | 'keepsOpenKeys' | 'settings'>

function isInUse({ state }: Place): boolean {
  return state !== 'DISCONNECTED' && state !== 'DISCONNECTING'
}

function isToConnect({ connectionState }: StoredKeyStore): boolean {
  return connectionState === 'CONNECTED' || connectionState === 'CONNECTING'
}

function isReachedAs(before: StoredKeyStore, after: StoredKeyStore): boolean {
  const [a, b] = [before, after].map(({ settings, sealedSecret, keepsOpenKeys }) =>
    [settings, keepsOpenKeys, Buffer.from(sealedSecret ?? []).toString('hex')].join(),
  )
  return a === b
}

/** As AWS forms it. */
function createKeyStoreId(): string {
  return `cks-${randomBytes(9).toString('hex').slice(1)}`
}

function checkName(name: string): void {
  if (name === LOCAL_KEY_STORE) throw new KeyfoldError('KEY_STORE_NAME_IN_USE')
  if (name.length >= 1 && name.length <= KEY_STORE_NAME_CHARACTERS_MAX) return
  throw new KeyfoldError(
    'REQUEST_MALFORMED',
    `name: 1 to ${KEY_STORE_NAME_CHARACTERS_MAX} characters`,
  )
}

/** Throws KEY_STORE_STATE_INVALID: while it is connected, some things of it cannot change. */
function assertChangeable(place: Place, { name, settings, secret }: KeyStoreChange): void {
  const { state, stored } = place
  const given = { name, secret, ...settings }
  const changed = Object.entries(given).flatMap(([what, value]) =>
    value === undefined ? [] : [what],
  )
  if (state === 'DISCONNECTED') return
  const { changeableConnected } = KINDS[stored.kind]
  const fixed = changed.filter((what) => !changeableConnected.includes(what))
  if (state === 'CONNECTED' && fixed.length === 0) return
  throw stateInvalid(place, `${fixed.join(', ') || 'this'} changes while it is DISCONNECTED`)
}

function copierOf(secret: Uint8Array | undefined): (() => Uint8Array) | undefined {
  return secret === undefined ? undefined : () => Uint8Array.from(secret)
}
