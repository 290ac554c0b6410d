/**
 * The composition root: crypto, catalog, key stores, keys, cache, pool and envelope put together, for the server and
 * for whoever wants the same without one. The main thread loads the addon first and owns every handle and lease.
 *
 * What a batch goes through is in engine/data-plane.ts, what guards key stores of other systems in engine/store-guards.ts,
 * and what follows on a change of a key or a key store in engine/changes.ts.
 */
import { openAuditLog, type AuditCounters, type AuditLog } from './audit/audit-log.ts'
import { openCatalog, type Catalog } from './catalog/catalog.ts'
import type { Config } from './config.ts'
import { chooseCrypto } from './crypto/choose.ts'
import type { Crypto, KeyTableUsage } from './crypto/crypto.ts'
import type { DataKeyCounters } from './data-keys/data-key-cache.ts'
import { followChanges } from './engine/changes.ts'
import { createDataPlane, type DataPlane } from './engine/data-plane.ts'
import {
  guard,
  guardedStores,
  storeChanged,
  storeFigures,
  type GuardOptions,
  type StoreFigures,
} from './engine/store-guards.ts'
import type { Envelope } from './envelope/envelope.ts'
import { KeyfoldError, reasonOf } from './errors.ts'
import type { GuardedStoreSettings } from './key-stores/guarded.ts'
import { LocalKeyStore } from './key-stores/local.ts'
import { closeRootKeys, openRootKeys, type OpenRootKeys } from './key-stores/root-key.ts'
import { SecretSealer } from './key-stores/secret-sealer.ts'
import { AccessKeys } from './kms/access-keys.ts'
import { Authorizer } from './kms/authorizer.ts'
import { CatalogFollower } from './kms/follower.ts'
import { IdentityPolicies } from './kms/identity-policies.ts'
import type { OpenKeyStore } from './kms/key-store-opener.ts'
import { KeyStores } from './kms/key-stores.ts'
import { keyStoreOpener } from './kms/open-key-store.ts'
import { KeyUses } from './kms/key-uses.ts'
import { Kms } from './kms/kms.ts'
import { pullRootFiles } from './kms/root-files.ts'
import { RootFollower } from './kms/root-follower.ts'
import { Scheduler } from './kms/scheduler.ts'
import { Tokens } from './kms/tokens.ts'
import { WrapBudgets } from './kms/wrap-budgets.ts'
import type { BoundedSlotPool } from './pool/slot-pool.ts'

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

/** What is put together; some of it is nobody else's. */
interface EngineParts extends Pick<
  Engine,
  | 'config'
  | 'crypto'
  | 'kms'
  | 'tokens'
  | 'accessKeys'
  | 'identityPolicies'
  | 'authorizer'
  | 'scheduler'
  | 'audit'
  | 'keyUses'
> {
  readonly plane: DataPlane
  readonly catalog: Catalog
  readonly local: LocalKeyStore
  readonly wraps: WrapBudgets
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
  const guardOptions: GuardOptions = {
    crypto,
    defaults: options.guardDefaults,
    nowMs: wallClockMs,
    reserveWrap: (...wrap) => wraps.take(...wrap),
    onChange: (state, store) =>
      storeChanged(store, state, { audit, dataKeys: plane.dataKeys, timeMs: wallClockMs(), log }),
    onOrphan: (material, { name }) => {
      kms.destructions.noteOrphan(name, material).then(
        () => scheduler.wake(),
        (error: unknown) => log(`key store ${name} may hold a key that nobody uses: ${error}`),
      )
    },
  }
  const keyStores = await KeyStores.load({
    catalog,
    sealer: secretSealer,
    local,
    openKeyStore:
      options.keyStoreOpener?.(crypto) ??
      keyStoreOpener({ crypto, location: catalog, pkcs11Modules: config.pkcs11Modules }),
    guarded: (store, record) => guard(store, record, guardOptions),
    modules: new Set(Object.keys(config.pkcs11Modules)),
    nowMs: wallClockMs,
    log,
  })
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
  const audit = await openAuditLog({ ...config, log })
  const plane = createDataPlane({ config, crypto, kms, authorizer, warn: log })
  const scheduler = new Scheduler({ catalog, works: kms.dueWorks, nowMs: wallClockMs, log })
  followChanges(kms, plane.dataKeys, scheduler)
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
      await plane.pool.close()
      await audit.close()
      throw error
    })
  scheduler.wake()
  keyStores.resume()
  const keyUses = new KeyUses(catalog, log)
  const opened = { config, crypto, kms, tokens, accessKeys, identityPolicies, authorizer }
  return running({ ...opened, plane, scheduler, audit, keyUses, catalog, local, wraps })
}

/** Everything is open: what may be asked of it from here on, until it is closed. */
function running(parts: EngineParts): Engine {
  const { plane, catalog, local, wraps, ...shown } = parts
  const { config, crypto, kms, accessKeys, scheduler, audit, keyUses } = shown
  const { dataKeys, pool, slots, envelope } = plane
  const { keyStores } = kms
  const sweeper = setInterval(() => dataKeys.sweep(), SWEEP_MS)
  sweeper.unref()
  let locked = false
  const lockListeners: (() => void)[] = []

  return {
    ...shown,
    envelope,
    slots,
    counters: () => countersOf(parts),
    storeFigures: () => storeFigures(keyStores, wraps),
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
      const required = guardedStores(keyStores).filter(({ settings }) => settings.required)
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

function countersOf({ plane, audit, crypto, catalog }: EngineParts): EngineCounters {
  const { dataKeys, missBudget, pool, slots } = plane
  return {
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
