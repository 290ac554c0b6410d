/**
 * The data plane: what a batch goes through, from the data-key cache to the memory that its result lies in. It is put
 * together over keys and their authorisation, and needs nothing else of the control plane.
 */
import type { Config } from '../config.ts'
import type { Crypto } from '../crypto/crypto.ts'
import { DataKeyCache } from '../data-keys/data-key-cache.ts'
import { KeyStoreSource } from '../data-keys/key-store-source.ts'
import { MissBudget } from '../data-keys/miss-budget.ts'
import { createEnvelope, type Envelope } from '../envelope/envelope.ts'
import type { Authorizer } from '../kms/authorizer.ts'
import type { KmsKey } from '../kms/kms-key.ts'
import type { Kms } from '../kms/kms.ts'
import { Pool } from '../pool/pool.ts'
import { BoundedSlotPool } from '../pool/slot-pool.ts'

export interface DataPlane {
  readonly dataKeys: DataKeyCache
  readonly missBudget: MissBudget
  readonly pool: Pool
  readonly slots: BoundedSlotPool
  readonly envelope: Envelope
}

export function createDataPlane({
  config,
  crypto,
  kms,
  authorizer,
  warn,
}: {
  readonly config: Config
  readonly crypto: Crypto
  readonly kms: Kms
  readonly authorizer: Authorizer
  readonly warn: (message: string) => void
}): DataPlane {
  const { registry } = kms
  const keyStoreOf = (kmsKey: KmsKey) => kms.keyStoreOf(kmsKey)
  const nowMs = (): number => performance.now()
  const missBudget = new MissBudget(config.missBudget, nowMs)
  const dataKeys = new DataKeyCache({
    crypto,
    registry,
    source: new KeyStoreSource(crypto, keyStoreOf),
    missBudget,
    limits: config.messageKey,
    entriesMax: config.dataKeyCacheEntries,
    nowMs,
    warn,
  })
  const pool = new Pool(crypto, config.workers)
  const slots = new BoundedSlotPool(config.inFlightBytesMax)
  const envelope = createEnvelope({
    crypto,
    registry,
    dataKeys,
    keyStoreOf,
    missBudget,
    pool,
    slots,
    authorizer,
  })
  return { dataKeys, missBudget, pool, slots, envelope }
}
