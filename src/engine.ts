/**
 * The composition root: crypto, catalog, key stores, keys, cache, pool and envelope put together, for the server and
 * for whoever wants the same without one. The main thread loads the addon first and owns every handle and lease.
 */
import { openAuditLog, type AuditCounters, type AuditLog } from './audit/audit-log.ts'
import { openCatalog } from './catalog/catalog.ts'
import type { Config } from './config.ts'
import { chooseCrypto } from './crypto/choose.ts'
import type { Crypto, KeyTableUsage } from './crypto/crypto.ts'
import { DataKeyCache, type DataKeyCounters } from './data-keys/data-key-cache.ts'
import { MissBudget } from './data-keys/miss-budget.ts'
import type { Envelope } from './envelope/batch.ts'
import { createEnvelope } from './envelope/envelope.ts'
import { KeyfoldError } from './errors.ts'
import { LocalKeyStore } from './key-stores/local.ts'
import { readRootKey } from './key-stores/root-key.ts'
import { SecretSealer } from './key-stores/secret-sealer.ts'
import { AccessKeys } from './kms/access-keys.ts'
import { Authorizer } from './kms/authorizer.ts'
import { IdentityPolicies } from './kms/identity-policies.ts'
import { KeyUses } from './kms/key-uses.ts'
import { Kms } from './kms/kms.ts'
import { Scheduler } from './kms/scheduler.ts'
import { Tokens } from './kms/tokens.ts'
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
  /** Wipes every key in memory. Until a restart everything that needs one answers LOCKED. */
  lock(): void
  readonly locked: boolean
  /** Throws while requests would fail. */
  ready(): Promise<void>
  close(): Promise<void>
}

/** How often keys past their age are looked for. */
const SWEEP_MS = 5_000

/** Errors: CONFIG_INVALID, ROOT_KEY_INVALID, CATALOG_UNAVAILABLE, NATIVE_UNAVAILABLE, AUDIT_UNAVAILABLE. */
export async function openEngine(
  config: Config,
  options: {
    readonly log: (message: string) => void
    /** What waiting periods, rotations and expiries go by; the system's clock where absent. */
    readonly wallClockMs?: () => number
  },
): Promise<Engine> {
  const crypto = chooseCrypto(config.crypto, { memoryLock: config.memoryLock, log: options.log })
  const root = crypto.importKey(readRootKey(config, crypto))
  const keyStore = new LocalKeyStore(crypto, root)
  const secretSealer = new SecretSealer(crypto, root)
  crypto.releaseKey(root)
  const catalog = await openCatalog(config)
  const { wallClockMs = Date.now, log } = options
  const kms = new Kms(catalog, [keyStore], secretSealer, {
    nowMs: wallClockMs,
    rotateAfterMessages: config.rotateAfterMessages,
  })
  const tokens = await Tokens.load(catalog)
  const accessKeys = await AccessKeys.load(catalog, secretSealer)
  const identityPolicies = await IdentityPolicies.load(catalog)
  const authorizer = new Authorizer({ location: catalog, identityPolicies })
  const audit = await openAuditLog({
    audit: config.audit,
    region: config.region,
    log: options.log,
  }).catch(async (error: unknown) => {
    await catalog.close()
    throw error
  })
  const nowMs = (): number => performance.now()
  const missBudget = new MissBudget(config.missBudget, nowMs)
  const dataKeys = new DataKeyCache({
    crypto,
    registry: kms.registry,
    keyStoreOf: (kmsKey) => kms.keyStoreOf(kmsKey),
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
    pool,
    slots,
    authorizer,
  })
  kms.registry.onChange((kmsKeyId) => {
    dataKeys.purge(kmsKeyId)
    const kmsKey = kms.registry.current(kmsKeyId)
    if (kmsKey !== undefined) kms.keyStoreOf(kmsKey).forget(kmsKey.idBytes)
  })
  const scheduler = new Scheduler({ catalog, works: kms.dueWorks, nowMs: wallClockMs, log })
  kms.registry.onChange((kmsKeyId) => {
    // A key that was enabled again may be overdue; imported material may expire in a moment.
    const { nextRotationAtMs, origin } = kms.registry.current(kmsKeyId) ?? {}
    if (nextRotationAtMs !== undefined || origin === 'EXTERNAL') scheduler.wake()
  })
  scheduler.wake()
  const keyUses = new KeyUses(catalog, options.log)
  const sweeper = setInterval(() => dataKeys.sweep(), SWEEP_MS)
  sweeper.unref()
  let locked = false

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
    }),
    lock: () => {
      locked = true
      // The table first: whatever else happens, the keys are gone.
      crypto.wipeAllKeys()
      keyStore.lock()
      accessKeys.lock()
      dataKeys.purgeAll()
    },
    get locked() {
      return locked
    },
    ready: async () => {
      if (locked) throw new KeyfoldError('LOCKED')
      if (config.audit.mode === 'strict') audit.assertAvailable()
      await keyStore.probe()
      await catalog.db.selectFrom('changes').select('number').executeTakeFirstOrThrow()
    },
    close: async () => {
      clearInterval(sweeper)
      await scheduler.stop()
      dataKeys.purgeAll()
      await pool.close()
      await audit.close()
      await keyUses.close()
      await keyStore.close()
      accessKeys.lock()
      await catalog.close()
    },
  }
}
