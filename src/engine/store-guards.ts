/**
 * Key stores of other systems, each behind a guard: how it is set up, what follows when a store is found to be away or there
 * again, and what operators see of it.
 */
import { randomUUID } from 'node:crypto'

import type { AuditEvent, AuditLog } from '../audit/audit-log.ts'
import type { DataKeyCache } from '../data-keys/data-key-cache.ts'
import type { GuardFigures } from '../key-stores/guard.ts'
import {
  GuardedKeyStore,
  type GuardedStoreOptions,
  type GuardedStoreSettings,
} from '../key-stores/guarded.ts'
import type { KeyStore } from '../key-stores/key-store.ts'
import { guardSettingsOf } from '../kms/key-store-kinds.ts'
import type { KeyStoreRecord } from '../kms/key-store-record.ts'
import type { KeyStores } from '../kms/key-stores.ts'
import type { WrapBudgets, WrapFigures } from '../kms/wrap-budgets.ts'

/** A key store of another system, as operators see it. */
export interface StoreFigures {
  readonly name: string
  readonly guard: GuardFigures
  readonly wraps: WrapFigures
}

export interface GuardOptions extends Omit<GuardedStoreOptions, 'name' | 'settings'> {
  /** How it behaves where the settings of the store say nothing. */
  readonly defaults: Partial<GuardedStoreSettings> | undefined
}

export function guard(
  store: KeyStore,
  { id, settings, keepsOpenKeys }: KeyStoreRecord,
  { defaults, ...options }: GuardOptions,
): GuardedKeyStore {
  return new GuardedKeyStore(store, {
    ...options,
    name: id,
    settings: { purgesOnOutage: !keepsOpenKeys, ...defaults, ...guardSettingsOf(settings) },
  })
}

/** Those that are connected. */
export function guardedStores(keyStores: KeyStores): readonly GuardedKeyStore[] {
  return keyStores.connected
    .map((id) => keyStores.opened(id))
    .filter((store) => store instanceof GuardedKeyStore)
}

export function storeFigures(keyStores: KeyStores, wraps: WrapBudgets): readonly StoreFigures[] {
  return guardedStores(keyStores).map(({ name, guard: { figures } }) => ({
    name,
    guard: figures,
    wraps: wraps.figures(name),
  }))
}

/** In the tick in which it is known. */
export function storeChanged(
  store: GuardedKeyStore,
  state: 'open' | 'closed',
  {
    audit,
    dataKeys,
    timeMs,
    log,
  }: {
    readonly audit: AuditLog
    readonly dataKeys: DataKeyCache
    readonly timeMs: number
    readonly log: (message: string) => void
  },
): void {
  const { failures } = store.guard.figures
  const reachable = state === 'closed'
  log(
    `key store ${store.name} ${reachable ? 'answers again' : `is away (${failures} calls failed)`}`,
  )
  if (!reachable && store.settings.purgesOnOutage) dataKeys.purgeOpened(store.name)
  recordNoticed(audit, {
    timeMs,
    operation: reachable ? 'KeyStoreReachable' : 'KeyStoreUnreachable',
    parameters: { keyStore: store.name, callsFailed: failures },
  })
}

/** What no request did. It happened whether or not the log takes it: nobody is refused for that. */
function recordNoticed(
  audit: AuditLog,
  noticed: Pick<AuditEvent, 'timeMs' | 'operation' | 'parameters'>,
): void {
  if (!audit.on) return
  const event: AuditEvent = {
    ...noticed,
    requestId: randomUUID(),
    door: 'server',
    principalArn: '',
    credentialId: '',
    sourceAddress: undefined,
    keyArns: [],
    encryptionContext: undefined,
    messages: 0,
    bytes: 0,
    failed: 0,
    outcome: 'Success',
    decidedBy: undefined,
  }
  // A log that takes nothing says so itself.
  audit.recordDurably(event).catch(() => undefined)
}
