/** What every envelope operation works with, put together by the engine. */
import type { Crypto } from '../crypto/crypto.ts'
import type { DataKeys } from '../data-keys/lease.ts'
import type { MissBudget } from '../data-keys/miss-budget.ts'
import type { KeyMaterial, KeyStore, StoreTurn } from '../key-stores/key-store.ts'
import {
  assertEnabled,
  assertUsable,
  type Action,
  type KeyAuthorizer,
  type KmsKey,
  type KmsKeyRegistry,
  type Principal,
  type RequestAttributes,
} from '../kms/kms-key.ts'
import type { Pool } from '../pool/pool.ts'
import type { SlotPool } from '../pool/slot.ts'
import { KeyfoldError } from '../errors.ts'
import type { BatchResult } from './batch.ts'

export interface EnvelopeParts {
  readonly crypto: Crypto
  readonly registry: KmsKeyRegistry
  readonly dataKeys: DataKeys
  readonly keyStoreOf: (kmsKey: KmsKey) => KeyStore
  readonly missBudget: Pick<MissBudget, 'spend'>
  readonly pool: Pool
  readonly slots: SlotPool
  readonly authorizer: KeyAuthorizer
}

export type MaybePromise<T> = T | Promise<T>

export interface KeyUse {
  readonly principal: Principal
  readonly action: Action
  /** Key id, key ARN, alias or alias ARN. */
  readonly key: string
  readonly attributes: RequestAttributes
}

/** The KMS key of this name, authorised; the answer is at once where memory has it. */
export function authorizedKey(
  { registry, authorizer }: Pick<EnvelopeParts, 'registry' | 'authorizer'>,
  { principal, action, key, attributes }: KeyUse,
): MaybePromise<KmsKey> {
  const refuse = (error: unknown): never => {
    const absent = error instanceof KeyfoldError && error.code === 'KMS_KEY_NOT_FOUND'
    throw absent ? authorizer.absentKeyError(principal, action) : error
  }
  const authorized = (kmsKey: KmsKey): KmsKey => {
    authorizer.authorize(principal, action, kmsKey, attributes)
    return kmsKey
  }
  let kmsKey: KmsKey | undefined
  try {
    kmsKey = registry.peek(key)
  } catch (error) {
    return refuse(error)
  }
  if (kmsKey !== undefined) return authorized(kmsKey)
  return registry.resolve(key).then(authorized, refuse)
}

/** After an await: nothing is handed out under a KMS key whose disabling was acknowledged meanwhile. */
export function assertStillUsable({ registry }: EnvelopeParts, kmsKey: KmsKey): void {
  const latest = registry.current(kmsKey.id) ?? kmsKey
  registry.assertServed(latest)
  assertUsable(latest)
}

/** The same for keys of any spec. */
export function assertStillEnabled({ registry }: EnvelopeParts, kmsKey: KmsKey): void {
  const latest = registry.current(kmsKey.id) ?? kmsKey
  registry.assertServed(latest)
  assertEnabled(latest)
}

/**
 * The last look before an outcome is handed out: a process that was stopped in between does not know what happened to
 * the keys meanwhile. Throws CATALOG_UNAVAILABLE.
 */
export function stillServed(
  { registry }: Pick<EnvelopeParts, 'registry'>,
  result: MaybePromise<BatchResult>,
): MaybePromise<BatchResult> {
  if (result instanceof Promise) return result.then((settled) => served(registry, settled))
  return served(registry, result)
}

function served(registry: KmsKeyRegistry, result: BatchResult): BatchResult {
  try {
    for (const { kmsKey } of result.uses) registry.assertServed(kmsKey)
    return result
  } catch (error) {
    result.slot.release()
    throw error
  }
}

/** What a key wraps under now. */
export function currentMaterial({ materials, currentVersion, arn }: KmsKey): KeyMaterial {
  const material = materials.get(currentVersion)
  if (material !== undefined) return material
  throw new KeyfoldError('KMS_KEY_STATE_INVALID', `${arn} has no key material.`)
}

/**
 * The store of a KMS key for one call on behalf of a caller, past the data-key cache. Where it is another system's the
 * caller pays for the call as for a miss. Throws MISS_BUDGET_SPENT, KEY_STORE_UNREACHABLE.
 */
export function storeForCall(
  { keyStoreOf, missBudget }: EnvelopeParts,
  kmsKey: KmsKey,
  principalArn: string,
): { readonly store: KeyStore; readonly turn: StoreTurn } {
  const store = keyStoreOf(kmsKey)
  if (store.guard !== undefined) {
    store.guard.assertReachable()
    missBudget.spend(principalArn, 'each of these requests is a call to the key store')
  }
  return { store, turn: { principalArn, urgency: 'other' } }
}

/** Runs `work` now or when the value is there; `beforeWait` runs only in the second case, before anything waits. */
export function andThen<T, U>(
  value: MaybePromise<T>,
  beforeWait: () => void,
  work: (value: T) => MaybePromise<U>,
): MaybePromise<U> {
  if (!(value instanceof Promise)) return work(value)
  beforeWait()
  return value.then(work)
}

/** `release` runs when the work is over, however it ends. */
export function releasing(
  release: () => void,
  work: () => MaybePromise<BatchResult>,
): MaybePromise<BatchResult> {
  let result: MaybePromise<BatchResult>
  try {
    result = work()
  } catch (error) {
    release()
    throw error
  }
  if (result instanceof Promise) return result.finally(release)
  release()
  return result
}
