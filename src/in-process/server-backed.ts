/** In-process mode with message keys of a server. */
import { chooseCrypto } from '../crypto/choose.ts'
import { Transport } from '../client/transport.ts'
import { DataKeyCache } from '../data-keys/data-key-cache.ts'
import type { DataKeys } from '../data-keys/lease.ts'
import { MissBudget } from '../data-keys/miss-budget.ts'
import { createEnvelope } from '../envelope/envelope.ts'
import { KeyfoldError } from '../errors.ts'
import type { Principal } from '../kms/kms-key.ts'
import { Pool } from '../pool/pool.ts'
import { BoundedSlotPool } from '../pool/slot-pool.ts'
import { CheckedDataKeys } from './checked-data-keys.ts'
import { EnvelopeKeyfold, type InProcessKeyfold } from './keyfold.ts'
import { RemoteKmsKeys } from './remote-kms-keys.ts'
import { RemoteMessageKeys } from './remote-message-keys.ts'
import { assertToken, configOf, type ServerBackedOptions } from './settings.ts'

const URL_DEFAULT = 'http://127.0.0.1:8790'
const SWEEP_MS = 5_000

/** Who asks is for the server to say, by its token: here everybody is the one caller. */
const CALLER: Principal = {
  arn: 'in-process',
  credential: 'token',
  tokenId: 'in-process',
  actions: ['*'],
  keys: ['*'],
  expiresAtMs: undefined,
}

export function openServerBacked(options: ServerBackedOptions): InProcessKeyfold {
  const { server, log = () => undefined, checksEveryLease = false } = options
  const config = configOf(options)
  const transport = new Transport({
    url: server.url ?? URL_DEFAULT,
    token: assertToken(server.token),
    connectionsMax: 8,
    retriesMax: 4,
    timeoutMs: 60_000,
    tls: server.tls,
  })
  const crypto = chooseCrypto(config.crypto, { memoryLock: config.memoryLock, log })
  const registry = new RemoteKmsKeys()
  const source = new RemoteMessageKeys({
    crypto,
    transport,
    registry,
    // What the server refuses is not used on from memory either.
    onRefused: (kmsKeyId) => (kmsKeyId === undefined ? cache.purgeAll() : cache.purge(kmsKeyId)),
  })
  const nowMs = (): number => performance.now()
  const missBudget = new MissBudget(config.missBudget, nowMs)
  const cache = new DataKeyCache({
    crypto,
    registry,
    source,
    missBudget,
    limits: config.messageKey,
    entriesMax: config.dataKeyCacheEntries,
    nowMs,
    warn: log,
  })
  const dataKeys: DataKeys = checksEveryLease ? new CheckedDataKeys(cache, source) : cache
  const pool = new Pool(crypto, config.workers)
  const slots = new BoundedSlotPool(config.inFlightBytesMax)
  const envelope = createEnvelope({
    crypto,
    registry,
    dataKeys,
    keyStoreOf: () => {
      throw new KeyfoldError('OPERATION_UNSUPPORTED', 'the key store is behind the server')
    },
    missBudget,
    pool,
    slots,
    authorizer: {
      // The server decides, whenever a key is asked of it.
      authorize: () => undefined,
      absentKeyError: () => new KeyfoldError('ACCESS_DENIED'),
    },
  })
  const sweeper = setInterval(
    () => cache.sweep(),
    Math.min(SWEEP_MS, config.messageKey.ageMsMax),
  ).unref()
  return new EnvelopeKeyfold({
    crypto,
    envelope,
    slots,
    principal: CALLER,
    recorded: async (_operation, run) => run(),
    counters: () => ({
      ...cache.counters,
      sealKeys: cache.sealKeys,
      openKeys: cache.openKeys,
      serverCalls: source.calls,
      implementation: crypto.implementation,
    }),
    close: async () => {
      clearInterval(sweeper)
      cache.purgeAll()
      await pool.close()
      await transport.close()
    },
  })
}
