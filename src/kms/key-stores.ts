/**
 * Key stores beside the local one (AWS KMS, "Custom key stores"): created, connected and disconnected by callers, each
 * holding the material of its KMS keys somewhere else. The catalog says how a store is reached and whether it shall be
 * connected; what is open of it is here.
 *
 *     DISCONNECTED ── connect ──► CONNECTING ──► CONNECTED ── disconnect ──► DISCONNECTING ──► DISCONNECTED
 *                                     └────────► FAILED ───── disconnect ──────────────────────────┘
 *
 * Opening happens beside the request that asks for it. A store that was connected when the server ended is connected
 * again at its next start, in the background, for as long as it takes; until then its keys are Unavailable.
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
import {
  KEY_STORE_NAME_CHARACTERS_MAX,
  KEY_STORE_RETRY_MS_MAX,
  KEY_STORE_RETRY_MS_MIN,
  KEY_STORES_MAX,
} from '../limits.ts'
import { connectionErrorOf, type ConnectionErrorCode } from './connection-errors.ts'
import {
  messageOf,
  KeyStoreOpener,
  type KeyStoreAddress,
  type OpenKeyStore,
} from './key-store-opener.ts'
import {
  notFound,
  placeOf,
  recordOf,
  secretPlace,
  settingsOf,
  stateInvalid,
  textOf,
  type KeyStoreRecord,
  type Place,
  type SecretOwner,
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
  readonly #opener: KeyStoreOpener
  readonly #places = new Map<string, Place>()
  readonly #listeners: ((id: string) => void)[] = []
  /** Changes one after the other: each finds what the one before it left. */
  #changing: Promise<unknown> = Promise.resolve()
  #ended = false

  static async load(options: KeyStoresOptions): Promise<KeyStores> {
    const keyStores = new KeyStores(options)
    for (const stored of await catalogKeyStores.readKeyStores(options.catalog.db)) {
      keyStores.#places.set(stored.id, placeOf(stored))
    }
    return keyStores
  }

  constructor(options: KeyStoresOptions) {
    this.local = options.local
    this.#options = options
    this.#opener = new KeyStoreOpener(options.openKeyStore, options.log)
  }

  /** Begins to connect what was connected before. Waits for nothing. */
  resume(): void {
    for (const place of this.#places.values()) {
      if (place.state !== 'CONNECTING') continue
      place.settled = this.#attempt(place, place.attempt, KEY_STORE_RETRY_MS_MIN)
    }
  }

  /**
   * What other nodes did to key stores: each node connects for itself and fails for itself; that one is to be connected,
   * or not, is for all. What may not be used any more is put away when it resolves; connecting is nothing to wait for.
   */
  async follow(): Promise<void> {
    const rows = await this.#readRows()
    for (const [id, place] of this.#places) {
      const isToBeUsed = rows.has(id) && rows.get(id)?.connectionState !== 'DISCONNECTED'
      if (isInUse(place) && !isToBeUsed) this.#putAway(place)
    }
    this.#exclusively(async () => {
      const rows = await this.#readRows()
      for (const id of [...this.#places.keys()]) if (!rows.has(id)) this.#places.delete(id)
      for (const stored of rows.values()) this.#followOne(stored)
    }).catch((error: unknown) => this.#options.log(`key stores: ${messageOf(error)}`))
  }

  async #readRows(): Promise<ReadonlyMap<string, StoredKeyStore>> {
    const rows = await catalogKeyStores.readKeyStores(this.#options.catalog.db)
    return new Map(rows.map((row) => [row.id, row]))
  }

  #followOne(stored: StoredKeyStore): void {
    const place = this.#places.get(stored.id)
    if (place === undefined) {
      const added = placeOf(stored)
      this.#places.set(stored.id, added)
      if (isToConnect(stored)) this.#connectLater(added)
      return
    }
    const before = place.stored
    place.stored = stored
    // Another node's failure is none of ours.
    if (!isToConnect(stored)) return
    const isSame = isReachedAs(before, stored)
    if (!isSame) this.#putAway(place)
    if (!isSame || place.state === 'DISCONNECTED' || place.state === 'FAILED') {
      this.#connectLater(place)
    }
  }

  #connectLater(place: Place): void {
    place.state = 'CONNECTING'
    place.follows = true
    place.settled = this.#attempt(place, ++place.attempt, KEY_STORE_RETRY_MS_MIN)
  }

  // What is asked about them.

  /** By id, then by name. Throws KEY_STORE_NOT_FOUND. */
  find(reference: string): KeyStoreRecord {
    return recordOf(this.#find(reference))
  }

  /** In the order of their ids. */
  list(): readonly KeyStoreRecord[] {
    return [...this.#places.values()].map(recordOf).sort((a, b) => (a.id < b.id ? -1 : 1))
  }

  isConnected(id: string): boolean {
    return id === LOCAL_KEY_STORE || this.opened(id) !== undefined
  }

  /** Ids of those that work can be handed to. */
  get connected(): readonly string[] {
    return [...this.#places.keys()].filter((id) => this.isConnected(id))
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
    const place = this.#lookUp(reference)
    return place && (place.opened?.traits.origin ?? KINDS[place.stored.kind].type)
  }

  /** What a new KMS key is put into. Throws KEY_STORE_NOT_FOUND, KEY_STORE_STATE_INVALID. */
  connectedStore(reference: string): { readonly record: KeyStoreRecord; readonly store: KeyStore } {
    const place = this.#find(reference)
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
    this.#listeners.push(listener)
  }

  /** Resolves when nothing is under way with it: it was connected or has failed, or its last retry is yet to come. */
  async settled(reference: string): Promise<KeyStoreRecord> {
    const place = this.#find(reference)
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
      return await this.#exclusively(async () => {
        if (this.#places.size >= KEY_STORES_MAX) {
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
          sealedSecret: this.#seal({ id, kind, settings: settingsText }, secret),
          connectionState: 'DISCONNECTED',
          connectionErrorCode: null,
          keepsOpenKeys: keepsOpenKeys ? 1 : 0,
          createdAtMs: this.#options.nowMs(),
        }
        await this.#options.catalog.change((transaction, changeNumber) =>
          catalogKeyStores.insertKeyStore(transaction, stored, changeNumber),
        )
        const place = placeOf(stored)
        this.#places.set(id, place)
        return recordOf(place)
      })
    } finally {
      secret?.fill(0)
    }
  }

  /** Begins to connect it. Errors: KEY_STORE_NOT_FOUND, KEY_STORE_STATE_INVALID, HSM_NOT_ACTIVE. */
  connect(reference: string): Promise<KeyStoreRecord> {
    return this.#exclusively(async () => {
      const place = this.#find(reference)
      const { state } = place
      if (state === 'CONNECTED' || state === 'CONNECTING') return recordOf(place)
      if (state !== 'DISCONNECTED') throw stateInvalid(place, 'it has to be DISCONNECTED')
      const { kind, settings } = recordOf(place)
      if (kind === 'pkcs11' && !this.#hasModule(settings)) throw new KeyfoldError('HSM_NOT_ACTIVE')
      await this.#store(place, { connectionState: 'CONNECTING', connectionErrorCode: null })
      place.state = 'CONNECTING'
      place.follows = false
      place.settled = this.#attempt(place, ++place.attempt, undefined)
      return recordOf(place)
    })
  }

  /** From then on its keys are Unavailable, on every node. Errors: KEY_STORE_NOT_FOUND, KEY_STORE_STATE_INVALID. */
  async disconnect(reference: string): Promise<KeyStoreRecord> {
    const disconnected = await this.#exclusively(async () => {
      const place = this.#find(reference)
      const { state } = place
      if (state === 'DISCONNECTED' || state === 'DISCONNECTING') {
        throw stateInvalid(place, 'it is not connected')
      }
      await this.#store(place, { connectionState: 'DISCONNECTED', connectionErrorCode: null })
      this.#putAway(place)
      return recordOf(place)
    })
    await this.#options.catalog.acknowledged()
    return disconnected
  }

  /** Errors: as of create, KEY_STORE_NOT_FOUND, KEY_STORE_STATE_INVALID. */
  async update(reference: string, change: KeyStoreChange): Promise<KeyStoreRecord> {
    const { secret } = change
    try {
      return await this.#exclusively(async () => {
        const place = this.#find(reference)
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
          await this.#store(place, kept as Pick<StoredKeyStore, 'name' | 'keepsOpenKeys'>)
        } else {
          await this.#replace(place, { ...kept, settings } as Replacement, secret)
        }
        return recordOf(place)
      })
    } finally {
      secret?.fill(0)
    }
  }

  /** Errors: KEY_STORE_NOT_FOUND, KEY_STORE_STATE_INVALID, KEY_STORE_HAS_KEYS. */
  delete(reference: string): Promise<void> {
    return this.#exclusively(async () => {
      const place = this.#find(reference)
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
    this.#ended = true
    for (const place of this.#places.values()) {
      this.#giveUp(place)
      place.opened?.lock()
    }
  }

  async close(): Promise<void> {
    this.#ended = true
    for (const place of this.#places.values()) {
      this.#giveUp(place)
      await place.opened?.close()
    }
  }

  // Connecting.

  /**
   * One attempt, and where there is a pause another one after it, if what went wrong may pass. A wrong credential does
   * not: an HSM locks its user out who tries too often.
   */
  async #attempt(place: Place, attempt: number, pauseMs: number | undefined): Promise<void> {
    const isCurrent = (): boolean => place.attempt === attempt && !this.#ended
    const { kind, name } = recordOf(place)
    let opened: KeyStore
    try {
      opened = await this.#opener.open(this.#addressOf(place.stored))
    } catch (error) {
      if (!isCurrent()) return
      const { code, passes } = connectionErrorOf(kind, error)
      this.#options.log(`key store ${name} could not be connected (${code}): ${messageOf(error)}`)
      if (passes && pauseMs !== undefined) this.#retryLater(place, attempt, pauseMs)
      else await this.#conclude(place, isCurrent, { connectionState: 'FAILED', code })
      return
    }
    const concluded =
      isCurrent() &&
      (await this.#conclude(place, isCurrent, { connectionState: 'CONNECTED', opened }))
    if (!concluded) await this.#opener.close(opened, name)
  }

  #retryLater(place: Place, attempt: number, pauseMs: number): void {
    place.retry = setTimeout(() => {
      const nextMs = Math.min(2 * pauseMs, KEY_STORE_RETRY_MS_MAX)
      place.settled = this.#attempt(place, attempt, nextMs)
    }, pauseMs)
    place.retry.unref()
  }

  /** How an attempt ended, unless it was given up meanwhile. Never rejects. */
  async #conclude(
    place: Place,
    isCurrent: () => boolean,
    outcome:
      | { readonly connectionState: 'CONNECTED'; readonly opened: KeyStore }
      | { readonly connectionState: 'FAILED'; readonly code: ConnectionErrorCode },
  ): Promise<boolean> {
    const { connectionState } = outcome
    return this.#exclusively(async () => {
      if (!isCurrent()) return false
      try {
        const connectionErrorCode = 'code' in outcome ? outcome.code : null
        if (!place.follows) await this.#store(place, { connectionState, connectionErrorCode })
      } catch (error) {
        // What stands in the catalog is that it shall be connected: the next start will try.
        this.#options.log(`the state of key store ${place.stored.name}: ${messageOf(error)}`)
      }
      if (!isCurrent()) return false
      place.state = connectionState
      if ('opened' in outcome) place.opened = this.#guarded(place, outcome.opened)
      this.#tellListeners(place)
      return true
    })
  }

  /** From this tick on nothing is handed to it. */
  #putAway(place: Place): void {
    this.#giveUp(place)
    const { opened } = place
    place.opened = undefined
    place.state = opened === undefined ? 'DISCONNECTED' : 'DISCONNECTING'
    if (opened !== undefined) place.settled = this.#closeDisconnected(place, opened)
    this.#tellListeners(place)
  }

  async #closeDisconnected(place: Place, opened: KeyStore): Promise<void> {
    await this.#opener.close(opened, place.stored.name)
    if (place.state === 'DISCONNECTING') place.state = 'DISCONNECTED'
  }

  #guarded(place: Place, opened: KeyStore): KeyStore {
    return this.#options.guarded(opened, recordOf(place))
  }

  #giveUp(place: Place): void {
    place.attempt++
    clearTimeout(place.retry)
  }

  // Inside.

  /** New settings or a new secret: tried where the store is connected, and then what is open is replaced. */
  async #replace(
    place: Place,
    { name, keepsOpenKeys, settings }: Replacement,
    given: Uint8Array | undefined,
  ): Promise<void> {
    const { attempt } = place
    const { id, kind } = place.stored
    const secret = given ?? this.#addressOf(place.stored).openSecret?.()
    try {
      const settingsText = textOf(settings)
      const sealedSecret = this.#seal({ id, kind, settings: settingsText }, secret)
      const change = { name, keepsOpenKeys, settings: settingsText, sealedSecret }
      const isConnected = place.opened !== undefined
      let spare: KeyStore | undefined
      if (isConnected || KINDS[kind].tried) {
        spare = await this.#opener.openUntried(this.#addressOf({ ...place.stored, ...change }))
      }
      try {
        await this.#store(place, change)
        // Another node may have disconnected it meanwhile.
        if (place.attempt === attempt && isConnected && spare !== undefined) {
          const before = place.opened
          place.opened = this.#guarded(place, spare)
          spare = before
        }
      } finally {
        if (spare !== undefined) await this.#opener.close(spare, name)
      }
    } finally {
      secret?.fill(0)
    }
  }

  #find(reference: string): Place {
    const place = this.#lookUp(reference)
    if (place === undefined) throw notFound()
    return place
  }

  #lookUp(reference: string): Place | undefined {
    const named = ({ stored }: Place): boolean => stored.name === reference
    return this.#places.get(reference) ?? [...this.#places.values()].find(named)
  }

  #hasModule({ module = '' }: KeyStoreSettings): boolean {
    return this.#options.modules.has(module)
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

  async #store(
    place: Place,
    change: Parameters<typeof catalogKeyStores.updateKeyStore>[2],
  ): Promise<void> {
    const { id } = place.stored
    await this.#options.catalog.change((transaction, changeNumber) =>
      catalogKeyStores.updateKeyStore(transaction, id, change, changeNumber),
    )
    place.stored = { ...place.stored, ...change }
  }

  #seal(of: SecretOwner, secret: Uint8Array | undefined): Uint8Array | null {
    return secret === undefined ? null : this.#options.sealer.seal(secretPlace(of), secret)
  }

  #addressOf(stored: StoredKeyStore): KeyStoreAddress {
    const { id, name, kind, sealedSecret } = stored
    const openSecret =
      sealedSecret === null
        ? undefined
        : () => this.#options.sealer.open(secretPlace(stored), sealedSecret)
    return { id, name, kind, settings: settingsOf(stored), openSecret }
  }

  #exclusively<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#changing.then(work)
    this.#changing = run.catch(() => undefined)
    return run
  }

  #tellListeners({ stored }: Place): void {
    for (const listener of this.#listeners) listener(stored.id)
  }
}

type Replacement = Pick<StoredKeyStore, 'name' | 'keepsOpenKeys'> & {
  readonly settings: KeyStoreSettings
}

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
