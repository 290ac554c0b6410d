/** A key store as the catalog has it and as it stands now: what is known of it, and what is shown of that. */
import type { KeyStoreKind, StoredKeyStore } from '../catalog/key-stores.ts'
import { KeyfoldError } from '../errors.ts'
import type { KeyStoreSettings } from '../format/key-store-settings.ts'
import type { SecretPlace } from '../format/sealed-secret.ts'
import type { KeyStore } from '../key-stores/key-store.ts'
import type { ConnectionErrorCode } from './connection-errors.ts'

export type ConnectionState =
  'CONNECTED' | 'CONNECTING' | 'DISCONNECTED' | 'DISCONNECTING' | 'FAILED'

/** What is shown of a key store: everything but its secret. */
export interface KeyStoreRecord {
  readonly id: string
  readonly name: string
  readonly kind: KeyStoreKind
  readonly settings: KeyStoreSettings
  readonly connectionState: ConnectionState
  /** Where it is FAILED. */
  readonly connectionErrorCode: ConnectionErrorCode | undefined
  /** Whether what is open of its keys may serve on, until its age, while it is not connected or away. */
  readonly keepsOpenKeys: boolean
  readonly createdAtMs: number
}

/** One key store and what is open of it. */
export interface Place {
  stored: StoredKeyStore
  state: ConnectionState
  opened: KeyStore | undefined
  /** Goes up with every connecting and disconnecting: an attempt that finds another number has lost its purpose. */
  attempt: number
  retry: NodeJS.Timeout | undefined
  /** It is connected because another node was asked to: how that ends here is not for the catalog. */
  follows: boolean
  /** What is under way. Never rejects. */
  settled: Promise<void>
}

export function placeOf(stored: StoredKeyStore): Place {
  const { connectionState } = stored
  return {
    stored,
    state: connectionState === 'CONNECTED' ? 'CONNECTING' : connectionState,
    opened: undefined,
    attempt: 0,
    retry: undefined,
    follows: false,
    settled: Promise.resolve(),
  }
}

export function recordOf({ stored, state }: Place): KeyStoreRecord {
  return {
    id: stored.id,
    name: stored.name,
    kind: stored.kind,
    settings: settingsOf(stored),
    connectionState: state,
    connectionErrorCode:
      state === 'FAILED' ? (stored.connectionErrorCode as ConnectionErrorCode) : undefined,
    keepsOpenKeys: stored.keepsOpenKeys === 1,
    createdAtMs: stored.createdAtMs,
  }
}

export function settingsOf({ settings }: Pick<StoredKeyStore, 'settings'>): KeyStoreSettings {
  return JSON.parse(settings) as KeyStoreSettings
}

/** In the order of their names: what a secret is bound to. */
export function textOf(settings: KeyStoreSettings): string {
  return JSON.stringify(Object.fromEntries(Object.entries(settings).sort()))
}

export type SecretOwner = Pick<StoredKeyStore, 'id' | 'kind' | 'settings'>

/** Bound to where it goes: a catalog in which an endpoint was changed does not send the secret there. */
export function secretPlace({ id, kind, settings }: SecretOwner): SecretPlace {
  return { purpose: 'key-store', id, owner: `${kind} ${settings}` }
}

export function notFound(): KeyfoldError {
  return new KeyfoldError('KEY_STORE_NOT_FOUND')
}

/** For throwing: its state forbids something. */
export function stateInvalid({ stored, state }: Place, needed: string): KeyfoldError {
  return new KeyfoldError('KEY_STORE_STATE_INVALID', `${stored.id} is ${state}: ${needed}`)
}
