/**
 * The composition root: crypto, catalog, key stores, keys, cache, pool and envelope put together, for the server and
 * for whoever wants the same without one. The main thread loads the addon first and owns every handle and lease.
 */
import { randomUUID } from 'node:crypto'

import {
  openAuditLog,
  type AuditCounters,
  type AuditEvent,
  type AuditLog,
} from './audit/audit-log.ts'
import { openCatalog, type Catalog } from './catalog/catalog.ts'
import type { Config } from './config.ts'
import { chooseCrypto } from './crypto/choose.ts'
import type { Crypto, KeyTableUsage } from './crypto/crypto.ts'
import { DataKeyCache, type DataKeyCounters } from './data-keys/data-key-cache.ts'
import { KeyStoreSource } from './data-keys/key-store-source.ts'
import { MissBudget } from './data-keys/miss-budget.ts'
import { createEnvelope, type Envelope } from './envelope/envelope.ts'
import { KeyfoldError, reasonOf } from './errors.ts'
import type { GuardFigures } from './key-stores/guard.ts'
import { GuardedKeyStore, type GuardedStoreSettings } from './key-stores/guarded.ts'
import { LocalKeyStore } from './key-stores/local.ts'
import { closeRootKeys, openRootKeys, type OpenRootKeys } from './key-stores/root-key.ts'
import { SecretSealer } from './key-stores/secret-sealer.ts'
import { AccessKeys } from './kms/access-keys.ts'
import { Authorizer } from './kms/authorizer.ts'
import { CatalogFollower } from './kms/follower.ts'
import { IdentityPolicies } from './kms/identity-policies.ts'
import { guardSettingsOf } from './kms/key-store-kinds.ts'
import type { OpenKeyStore } from './kms/key-store-opener.ts'
import { KeyStores } from './kms/key-stores.ts'
import { keyStoreOpener } from './kms/open-key-store.ts'
import { KeyUses } from './kms/key-uses.ts'
import { Kms } from './kms/kms.ts'
import { pullRootFiles } from './kms/root-files.ts'
import { RootFollower } from './kms/root-follower.ts'
import { Scheduler } from './kms/scheduler.ts'
import { Tokens } from './kms/tokens.ts'
import { WrapBudgets, type WrapFigures } from './kms/wrap-budgets.ts'
import { Pool } from './pool/pool.ts'
import { BoundedSlotPool } from './pool/slot-pool.ts'

export interface EngineCounters extends DataKeyCounters, AuditCounters {
  readonly sealKeys: number
  readonly openKeys: number
  readonly missesRefused: number
  readonly inlineBatches: number
  readonly pooledBatches: number
  readonly bytesInFlight: number
  readonly overloads: number
  readonly keyTable: KeyTableUsage
  /** Of a node on a shared catalog. */
  readonly node: (NonNullable<Catalog['counters']> & { readonly leaseHeld: boolean }) | undefined
}

/** A key store of another system, as operators see it. */
export interface StoreFigures {
  readonly name: string
  readonly guard: GuardFigures
  readonly wraps: WrapFigures
}

export interface EngineOptions {
  readonly log: (message: string) => void
  /** What waiting periods, rotations and expiries go by; the system's clock where absent. */
  readonly wallClockMs?: () => number
  /** What opens key stores beside the local one; what there is of kinds where absent. */
  readonly keyStoreOpener?: (crypto: Crypto) => OpenKeyStore
  /** How their guards behave where their settings say nothing. */
  readonly guardDefaults?: Partial<GuardedStoreSettings>
}

export interface Engine {
  readonly config: Config
  readonly crypto: Crypto
  readonly kms: Kms
  readonly tokens: Tokens
  readonly accessKeys: AccessKeys
  readonly identityPolicies: IdentityPolicies
  readonly authorizer: Authorizer
  readonly envelope: Envelope
  readonly slots: BoundedSlotPool
  /** Runs by itself. */
  readonly scheduler: Scheduler
  readonly audit: AuditLog
  readonly keyUses: KeyUses
  counters(): EngineCounters
  storeFigures(): readonly StoreFigures[]
  /** Wipes every key in memory. Until a restart everything that needs one answers LOCKED. */
  lock(): void
  readonly locked: boolean
  /** Called in the tick of the lock, for keys that are held elsewhere than in the key table. */
  onLock(listener: () => void): void
  /** Throws while requests would fail. */
  ready(): Promise<void>
  close(): Promise<void>
}

/** How often keys past their age are looked for. */
const SWEEP_MS = 5_000

/**
 * Errors: CONFIG_INVALID, ROOT_KEY_INVALID, what a store of the root key throws, CATALOG_UNAVAILABLE, NATIVE_UNAVAILABLE,
 * AUDIT_UNAVAILABLE.
 */
export async function openEngine(config: Config, options: EngineOptions): Promise<Engine> {
  const crypto = chooseCrypto(config.crypto, { memoryLock: config.memoryLock, log: options.log })
  let catalog: Catalog | undefined
  try {
    // A shared catalog knows its root key; of an embedded one nothing is touched before the root key fits.
    if (config.catalog !== undefined) {
      catalog = await openCatalog(config)
      await pullRootFiles(catalog, config.dataDirectory)
    }
    const roots = await openRootKeys(config, crypto)
    warnOfRotation(roots, { shared: config.catalog !== undefined, log: options.log })
    catalog ??= await openCatalog(config)
    return await openOn(catalog, roots, { config, crypto, ...options })
  } catch (error) {
    await catalog?.close()
    throw error
  }
}

async function openOn(
  catalog: Catalog,
  roots: OpenRootKeys,
  { config, crypto, ...options }: EngineOptions & Pick<Engine, 'config' | 'crypto'>,
): Promise<Engine> {
  const local = new LocalKeyStore(crypto, roots)
  const secretSealer = new SecretSealer(crypto, roots)
  closeRootKeys(crypto, roots)
  const { check, nextCheck, next } = roots
  const nextRoot = next && nextCheck ? { version: next.version, check: nextCheck } : undefined
  const { wallClockMs = Date.now, log } = options
  const wraps = new WrapBudgets(catalog, { log, onWornOut: () => scheduler.wake() })
  const openKeyStore =
    options.keyStoreOpener?.(crypto) ??
    keyStoreOpener({ crypto, location: catalog, pkcs11Modules: config.pkcs11Modules })
  const keyStores = await KeyStores.load({
    catalog,
    sealer: secretSealer,
    local,
    openKeyStore,
    guarded: (store, { id, settings, keepsOpenKeys }) =>
      new GuardedKeyStore(store, {
        name: id,
        crypto,
        settings: {
          purgesOnOutage: !keepsOpenKeys,
          ...options.guardDefaults,
          ...guardSettingsOf(settings),
        },
        nowMs: wallClockMs,
        reserveWrap: (...wrap) => wraps.take(...wrap),
        onChange: (state, changed) => storeChanged(changed, state),
        onOrphan: (material, { name }) => {
          kms.destructions.noteOrphan(name, material).then(
            () => scheduler.wake(),
            (error: unknown) => log(`key store ${name} may hold a key that nobody uses: ${error}`),
          )
        },
      }),
    modules: new Set(Object.keys(config.pkcs11Modules)),
    nowMs: wallClockMs,
    log,
  })
  const guardedStores = (): readonly GuardedKeyStore[] =>
    keyStores.connected
      .map((id) => keyStores.opened(id))
      .filter((store) => store instanceof GuardedKeyStore)
  const kms = new Kms(catalog, keyStores, secretSealer, {
    nowMs: wallClockMs,
    rotateAfterMessages: config.rotateAfterMessages,
  })
  const tokens = await Tokens.load(catalog)
  const accessKeys = await AccessKeys.load(catalog, secretSealer)
  const identityPolicies = await IdentityPolicies.load(catalog)
  const authorizer = new Authorizer({
    location: catalog,
    identityPolicies,
    assertServed: (kmsKey) => kms.registry.assertServed(kmsKey),
  })
  const audit = await openAuditLog({
    audit: config.audit,
    region: config.region,
    log: options.log,
  })
  const nowMs = (): number => performance.now()
  const missBudget = new MissBudget(config.missBudget, nowMs)
  const dataKeys = new DataKeyCache({
    crypto,
    registry: kms.registry,
    source: new KeyStoreSource(crypto, (kmsKey) => kms.keyStoreOf(kmsKey)),
    missBudget,
    limits: config.messageKey,
    entriesMax: config.dataKeyCacheEntries,
    nowMs,
    warn: options.log,
  })
  const pool = new Pool(crypto, config.workers)
  const slots = new BoundedSlotPool(config.inFlightBytesMax)
  const envelope = createEnvelope({
    crypto,
    registry: kms.registry,
    dataKeys,
    keyStoreOf: (kmsKey) => kms.keyStoreOf(kmsKey),
    missBudget,
    pool,
    slots,
    authorizer,
  })
  kms.registry.onChange((kmsKeyId) => {
    dataKeys.purge(kmsKeyId)
    const kmsKey = kms.registry.current(kmsKeyId)
    if (kmsKey !== undefined) keyStores.opened(kmsKey.keyStore)?.forget(kmsKey.idBytes)
  })
  keyStores.onChange((id) => {
    const changed = kms.registry.keyStoreChanged(id)
    // A key that left memory may have been of that store as well.
    const isMeant = (kmsKeyId: string): boolean =>
      changed.has(kmsKeyId) || kms.registry.current(kmsKeyId) === undefined
    dataKeys.purgeWhere(isMeant)
    // What deleted keys left there can be destroyed now.
    scheduler.wake()
  })
  const scheduler = new Scheduler({ catalog, works: kms.dueWorks, nowMs: wallClockMs, log })
  kms.registry.onChange((kmsKeyId) => {
    // A key that was enabled again may be overdue; imported material may expire in a moment.
    const { nextRotationAtMs, origin } = kms.registry.current(kmsKeyId) ?? {}
    if (nextRotationAtMs !== undefined || origin === 'EXTERNAL') scheduler.wake()
  })
  await catalog
    .join({
      follower: new CatalogFollower(catalog, {
        registry: kms.registry,
        tokens,
        accessKeys,
        identityPolicies,
        keyStores,
        rootKey: new RootFollower(catalog, { check, next: nextRoot }, [local, secretSealer]),
      }),
      rootVersion: nextRoot?.version ?? roots.current.version,
      clockMs: () => crypto.clockMs(),
      log,
    })
    .catch(async (error: unknown) => {
      await pool.close()
      await audit.close()
      throw error
    })
  scheduler.wake()
  keyStores.resume()
  const keyUses = new KeyUses(catalog, options.log)
  const storeChanged = (store: GuardedKeyStore, state: 'open' | 'closed'): void => {
    const { failures } = store.guard.figures
    const reachable = state === 'closed'
    log(
      `key store ${store.name} ${reachable ? 'answers again' : `is away (${failures} calls failed)`}`,
    )
    if (!reachable && store.settings.purgesOnOutage) dataKeys.purgeOpened(store.name)
    recordNoticed(audit, {
      timeMs: wallClockMs(),
      operation: reachable ? 'KeyStoreReachable' : 'KeyStoreUnreachable',
      parameters: { keyStore: store.name, callsFailed: failures },
    })
  }
  const sweeper = setInterval(() => dataKeys.sweep(), SWEEP_MS)
  sweeper.unref()
  let locked = false
  const lockListeners: (() => void)[] = []

  return {
    config,
    crypto,
    kms,
    tokens,
    accessKeys,
    identityPolicies,
    authorizer,
    envelope,
    slots,
    scheduler,
    audit,
    keyUses,
    counters: () => ({
      ...dataKeys.counters,
      ...audit.counters,
      sealKeys: dataKeys.sealKeys,
      openKeys: dataKeys.openKeys,
      missesRefused: missBudget.refused,
      inlineBatches: pool.inlineBatches,
      pooledBatches: pool.pooledBatches,
      bytesInFlight: slots.bytesInUse,
      overloads: slots.refused,
      keyTable: crypto.keyTableUsage(),
      node: catalog.counters && { ...catalog.counters, leaseHeld: catalog.lease.held },
    }),
    storeFigures: () =>
      guardedStores().map(({ name, guard }) => ({
        name,
        guard: guard.figures,
        wraps: wraps.figures(name),
      })),
    lock: () => {
      locked = true
      // The table first: whatever else happens, the keys are gone.
      crypto.wipeAllKeys()
      local.lock()
      keyStores.lock()
      accessKeys.lock()
      dataKeys.purgeAll()
      for (const listener of lockListeners) listener()
    },
    get locked() {
      return locked
    },
    onLock: (listener) => void lockListeners.push(listener),
    ready: async () => {
      if (locked) throw new KeyfoldError('LOCKED')
      if (config.audit.mode === 'strict') audit.assertAvailable()
      catalog.lease.assertHeld()
      await local.probe()
      const required = guardedStores().filter(({ settings }) => settings.required)
      await Promise.all(required.map((store) => store.probe()))
      await catalog.db.selectFrom('changes').select('number').executeTakeFirstOrThrow()
    },
    close: async () => {
      clearInterval(sweeper)
      await scheduler.stop()
      dataKeys.purgeAll()
      await pool.close()
      await audit.close()
      await keyUses.close()
      await keyStores.close()
      await local.close()
      accessKeys.lock()
      await catalog.close()
    },
  }
}

function warnOfRotation(
  { previous, nextFailure }: OpenRootKeys,
  { shared, log }: { readonly shared: boolean; readonly log: EngineOptions['log'] },
): void {
  if (previous !== undefined) {
    const stop = shared ? '' : 'stop, and '
    log(`a rotation of the root key is not complete: ${stop}run keyfold root-key rotate`)
  }
  if (nextFailure !== undefined) {
    log(
      'another root key is announced, which this node lacks: when it is in use this node stops: ' +
        reasonOf(nextFailure),
    )
  }
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
