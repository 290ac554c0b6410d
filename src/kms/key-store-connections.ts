/**
 * Key stores being connected, and put away again.
 *
 *     DISCONNECTED ── connect ──► CONNECTING ──► CONNECTED ── disconnect ──► DISCONNECTING ──► DISCONNECTED
 *                                     └────────► FAILED ───── disconnect ──────────────────────────┘
 *
 * Opening happens beside the request that asks for it. An attempt that finds another number in its place was given up
 * meanwhile, and closes what it opened.
 */
import type { StoredKeyStore } from '../catalog/key-stores.ts'
import type { KeyStore } from '../key-stores/key-store.ts'
import { KEY_STORE_RETRY_MS_MAX, KEY_STORE_RETRY_MS_MIN } from '../limits.ts'
import { connectionErrorOf, type ConnectionErrorCode } from './connection-errors.ts'
import { KINDS } from './key-store-kinds.ts'
import { messageOf, type KeyStoreOpener } from './key-store-opener.ts'
import type { KeyStorePlaces } from './key-store-places.ts'
import { recordOf, type KeyStoreRecord, type Place } from './key-store-record.ts'

interface KeyStoreConnectionsOptions {
  readonly places: KeyStorePlaces
  readonly opener: KeyStoreOpener
  /** What stands between us and a key store of another system, once it has shown that it is there. */
  readonly guarded: (store: KeyStore, record: KeyStoreRecord) => KeyStore
  readonly log: (message: string) => void
}

export class KeyStoreConnections {
  readonly #options: KeyStoreConnectionsOptions
  readonly #listeners: ((id: string) => void)[] = []
  #ended = false

  constructor(options: KeyStoreConnectionsOptions) {
    this.#options = options
  }

  /** Called in the tick in which one is connected or is not any more. */
  onChange(listener: (id: string) => void): void {
    this.#listeners.push(listener)
  }

  /** One attempt, of which the catalog hears how it ended. */
  connect(place: Place): void {
    place.state = 'CONNECTING'
    place.follows = false
    place.settled = this.#attempt(place, ++place.attempt, undefined)
  }

  /** What was connected when the server ended: for as long as it takes. */
  reconnect(place: Place): void {
    place.settled = this.#attempt(place, place.attempt, KEY_STORE_RETRY_MS_MIN)
  }

  /** As another node was asked to: for as long as it takes, and how that ends here is not for the catalog. */
  follow(place: Place): void {
    place.state = 'CONNECTING'
    place.follows = true
    place.settled = this.#attempt(place, ++place.attempt, KEY_STORE_RETRY_MS_MIN)
  }

  /** From this tick on nothing is handed to it. */
  putAway(place: Place): void {
    this.#giveUp(place)
    const { opened } = place
    place.opened = undefined
    place.state = opened === undefined ? 'DISCONNECTED' : 'DISCONNECTING'
    if (opened !== undefined) place.settled = this.#closeDisconnected(place, opened)
    this.#tellListeners(place)
  }

  /**
   * How it is reached from now on: tried where the store is connected or its kind is tried, stored, and then what is open
   * is replaced. Throws what trying it says.
   */
  async replace(
    place: Place,
    change: Pick<StoredKeyStore, 'name' | 'keepsOpenKeys' | 'settings' | 'sealedSecret'>,
  ): Promise<void> {
    const { attempt } = place
    const { places, opener } = this.#options
    const isConnected = place.opened !== undefined
    let spare: KeyStore | undefined
    if (isConnected || KINDS[place.stored.kind].tried) {
      spare = await opener.openUntried(places.addressOf({ ...place.stored, ...change }))
    }
    try {
      await places.store(place, change)
      // Another node may have disconnected it meanwhile.
      if (place.attempt === attempt && isConnected && spare !== undefined) {
        const before = place.opened
        place.opened = this.#guarded(place, spare)
        spare = before
      }
    } finally {
      if (spare !== undefined) await opener.close(spare, change.name)
    }
  }

  /** Wipes what is open, and connects nothing any more. */
  lock(): void {
    this.#ended = true
    for (const place of this.#options.places.all()) {
      this.#giveUp(place)
      place.opened?.lock()
    }
  }

  async close(): Promise<void> {
    this.#ended = true
    for (const place of this.#options.places.all()) {
      this.#giveUp(place)
      await place.opened?.close()
    }
  }

  /**
   * One attempt, and where there is a pause another one after it, if what went wrong may pass. A wrong credential does
   * not: an HSM locks its user out who tries too often.
   */
  async #attempt(place: Place, attempt: number, pauseMs: number | undefined): Promise<void> {
    const isCurrent = (): boolean => place.attempt === attempt && !this.#ended
    const { kind, name } = recordOf(place)
    let opened: KeyStore
    try {
      opened = await this.#options.opener.open(this.#options.places.addressOf(place.stored))
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
    if (!concluded) await this.#options.opener.close(opened, name)
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
    return this.#options.places.exclusively(async () => {
      if (!isCurrent()) return false
      try {
        const connectionErrorCode = 'code' in outcome ? outcome.code : null
        if (!place.follows)
          await this.#options.places.store(place, { connectionState, connectionErrorCode })
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

  async #closeDisconnected(place: Place, opened: KeyStore): Promise<void> {
    await this.#options.opener.close(opened, place.stored.name)
    if (place.state === 'DISCONNECTING') place.state = 'DISCONNECTED'
  }

  #guarded(place: Place, opened: KeyStore): KeyStore {
    return this.#options.guarded(opened, recordOf(place))
  }

  #giveUp(place: Place): void {
    place.attempt++
    clearTimeout(place.retry)
  }

  #tellListeners({ stored }: Place): void {
    for (const listener of this.#listeners) listener(stored.id)
  }
}
