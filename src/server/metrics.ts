/**
 * What /metrics tells (Prometheus text format). The hot path counts in plain arrays; everything else is read when it
 * is asked for.
 */
import { Counter, Gauge, Registry } from 'prom-client'

import type { Engine, EngineCounters } from '../engine.ts'
import type { StoreFigures } from '../engine/store-guards.ts'
import type { StreamFigures } from './streams/streams.ts'

/** Upper bounds in seconds, and one bucket for all that is slower. */
const BUCKETS = [0.0001, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10]

/** Requests of one route: how many ended how, and how long they took. */
class RouteFigures {
  /** By status class: 2xx, 4xx, 5xx. */
  readonly byStatus = new Float64Array(6)
  readonly byBucket = new Float64Array(BUCKETS.length + 1)
  seconds = 0

  count(status: number, milliseconds: number): void {
    const seconds = milliseconds / 1000
    const statusClass = Math.floor(status / 100)
    this.byStatus[statusClass] = (this.byStatus[statusClass] as number) + 1
    let bucket = 0
    while (bucket < BUCKETS.length && seconds > (BUCKETS[bucket] as number)) bucket++
    this.byBucket[bucket] = (this.byBucket[bucket] as number) + 1
    this.seconds += seconds
  }
}

/** Name, help and reading of everything that the engine counts. */
const ENGINE_COUNTERS: readonly [string, string, (counters: EngineCounters) => number][] = [
  ['seal_hits_total', 'leases to seal that the data-key cache answered', (c) => c.sealHits],
  ['seal_misses_total', 'leases to seal that had to wait for the key store', (c) => c.sealMisses],
  ['open_hits_total', 'leases to open that the data-key cache answered', (c) => c.openHits],
  ['open_misses_total', 'leases to open that had to wait for the key store', (c) => c.openMisses],
  ['refreshes_total', 'message keys fetched before the one in use ran out', (c) => c.refreshes],
  ['evictions_total', 'message keys that left the cache and were wiped', (c) => c.evictions],
  ['keys_used_once_total', 'of those, keys that served one batch or none', (c) => c.keysUsedOnce],
  ['wraps_total', 'message keys wrapped by the key store', (c) => c.wraps],
  ['unwraps_total', 'message keys unwrapped by the key store', (c) => c.unwraps],
  [
    'misses_refused_total',
    'misses refused: the budget of a principal was spent',
    (c) => c.missesRefused,
  ],
  ['inline_batches_total', 'batches done on the event loop', (c) => c.inlineBatches],
  ['pooled_batches_total', 'batches done by the workers', (c) => c.pooledBatches],
  ['audit_records_total', 'audit records taken', (c) => c.auditRecords],
  ['audit_groups_total', 'groups of audit records written and synced', (c) => c.auditGroups],
  ['audit_spilled_total', 'audit records taken while the disk took none', (c) => c.auditSpilled],
  ['audit_refused_total', 'callers told AUDIT_UNAVAILABLE', (c) => c.auditRefused],
  [
    'audit_strangers_unrecorded_total',
    'refused requests without a principal, beyond those that are recorded',
    (c) => c.auditStrangersUnrecorded,
  ],
  ['audit_sync_seconds_total', 'time in fdatasync of audit files', (c) => c.auditSyncSeconds],
  ['audit_workers_replaced_total', 'audit workers that died', (c) => c.auditWorkersReplaced],
  ['overloads_total', 'requests refused: too many bytes in flight', (c) => c.overloads],
]

const ENGINE_GAUGES: readonly [string, string, (counters: EngineCounters) => number][] = [
  ['seal_keys', 'contexts with a message key to seal', (c) => c.sealKeys],
  ['open_keys', 'message keys to open', (c) => c.openKeys],
  ['bytes_in_flight', 'bytes of requests and responses held', (c) => c.bytesInFlight],
  ['audit_records_waiting', 'audit records that are not on the disk yet', (c) => c.auditWaiting],
  ['key_table_slots_used', 'keys in the key table', (c) => c.keyTable.slotsUsed],
  ['key_table_slots', 'keys that the key table can hold', (c) => c.keyTable.slots],
  [
    'key_table_locked',
    '1 where the key table is locked in memory',
    (c) => Number(c.keyTable.locked),
  ],
]

/** Of each key store of another system. */
const STORE_COUNTERS: readonly [string, string, (store: StoreFigures) => number][] = [
  ['calls_total', 'calls made to the key store', ({ guard }) => guard.calls],
  ['failures_total', 'of those, calls that it did not answer', ({ guard }) => guard.failures],
  [
    'refused_total',
    'calls not made: it was away, or too many waited',
    ({ guard }) => guard.refused,
  ],
  ['call_seconds_total', 'time in calls to the key store', ({ guard }) => guard.seconds],
  [
    'wraps_reserved_total',
    'wraps that this process took out of what key material is good for',
    ({ wraps }) => wraps.reserved,
  ],
]

const STORE_GAUGES: readonly [string, string, (store: StoreFigures) => number][] = [
  ['reachable', '0 while it is not asked', ({ guard }) => Number(guard.state === 'closed')],
  ['calls_waiting', 'calls that wait for their turn', ({ guard }) => guard.waiting],
  ['calls_running', 'calls under way', ({ guard }) => guard.running],
  [
    'wraps_reserved_share',
    'largest share taken of the wraps that one version of material is good for',
    ({ wraps }) => wraps.shareMax,
  ],
]

type NodeCounters = NonNullable<EngineCounters['node']>

const NODE_FIGURES: readonly [string, string, (counters: NodeCounters) => number][] = [
  ['change_number', 'the last change of the catalog that is in force here', (n) => n.changeNumber],
  ['lag_seconds', 'since the start of the last poll of the catalog', (n) => n.lagMs / 1_000],
  ['lease_held', '1 while this node may serve by what it knows', (n) => Number(n.leaseHeld)],
  ['lease_renewals_total', 'polls of the catalog that renewed the lease', (n) => n.renewals],
  [
    'leases_lost_total',
    'times that the lease had run out before it was renewed',
    (n) => n.leasesLost,
  ],
  ['errors_total', 'polls of the catalog that failed', (n) => n.failures],
]

export class Metrics {
  readonly #registry = new Registry()
  readonly #routes = new Map<string, RouteFigures>()

  constructor(engine: Engine, streams: () => StreamFigures) {
    const registers = [this.#registry]
    new Gauge({
      name: 'keyfold_streams',
      help: 'streams under way',
      registers,
      collect() {
        this.set(streams().running)
      },
    })
    new Counter({
      name: 'keyfold_stream_bytes_total',
      help: 'plaintext of streams that have ended, either way',
      registers,
      collect() {
        this.reset()
        this.inc(streams().bytes)
      },
    })
    for (const [name, help, read] of ENGINE_COUNTERS) {
      new Counter({
        name: `keyfold_${name}`,
        help,
        registers,
        collect() {
          this.reset()
          this.inc(read(engine.counters()))
        },
      })
    }
    for (const [name, help, read] of ENGINE_GAUGES) {
      new Gauge({
        name: `keyfold_${name}`,
        help,
        registers,
        collect() {
          this.set(read(engine.counters()))
        },
      })
    }
    if (engine.counters().node !== undefined) this.#registerNode(engine)
    new Gauge({
      name: 'keyfold_implementation',
      help: '1, labelled with the implementation of AES-GCM in use',
      labelNames: ['implementation'],
      registers,
    }).set({ implementation: engine.crypto.implementation }, 1)
    this.#registerStores(engine)
    this.#registerRoutes()
  }

  /** How well this node follows the catalog that it shares. */
  #registerNode(engine: Engine): void {
    for (const [name, help, read] of NODE_FIGURES) {
      const collected = {
        name: `keyfold_catalog_${name}`,
        help,
        registers: [this.#registry],
      }
      const figure = (): number => read(engine.counters().node as NodeCounters)
      if (name.endsWith('_total')) {
        new Counter({
          ...collected,
          collect() {
            this.reset()
            this.inc(figure())
          },
        })
      } else {
        new Gauge({
          ...collected,
          collect() {
            this.set(figure())
          },
        })
      }
    }
  }

  route(name: string): RouteFigures {
    const known = this.#routes.get(name)
    if (known !== undefined) return known
    const figures = new RouteFigures()
    this.#routes.set(name, figures)
    return figures
  }

  text(): Promise<string> {
    return this.#registry.metrics()
  }

  #registerStores(engine: Engine): void {
    const labelNames = ['key_store']
    const registers = [this.#registry]
    for (const [name, help, read] of STORE_COUNTERS) {
      new Counter({
        name: `keyfold_key_store_${name}`,
        help,
        labelNames,
        registers,
        collect() {
          this.reset()
          for (const store of engine.storeFigures()) {
            this.inc({ key_store: store.name }, read(store))
          }
        },
      })
    }
    for (const [name, help, read] of STORE_GAUGES) {
      new Gauge({
        name: `keyfold_key_store_${name}`,
        help,
        labelNames,
        registers,
        collect() {
          for (const store of engine.storeFigures()) {
            this.set({ key_store: store.name }, read(store))
          }
        },
      })
    }
    new Counter({
      name: 'keyfold_key_store_calls_within_seconds_total',
      help: 'calls to the key store that ended within so many seconds, cumulative',
      labelNames: [...labelNames, 'le'],
      registers,
      collect() {
        this.reset()
        for (const { name, guard } of engine.storeFigures()) {
          for (const { secondsMax, calls } of guard.callsWithin) {
            this.inc({ key_store: name, le: secondsMax === Infinity ? '+Inf' : secondsMax }, calls)
          }
        }
      },
    })
  }

  #registerRoutes(): void {
    const routes = this.#routes
    const registers = [this.#registry]
    new Counter({
      name: 'keyfold_requests_total',
      help: 'requests by route and class of status',
      labelNames: ['route', 'status'],
      registers,
      collect() {
        this.reset()
        for (const [route, { byStatus }] of routes) {
          for (const [status, count] of byStatus.entries()) {
            if (count > 0) this.inc({ route, status: `${status}xx` }, count)
          }
        }
      },
    })
    new Counter({
      name: 'keyfold_request_seconds_total',
      help: 'time from the first byte of a request to its answer',
      labelNames: ['route'],
      registers,
      collect() {
        this.reset()
        for (const [route, { seconds }] of routes) this.inc({ route }, seconds)
      },
    })
    new Counter({
      name: 'keyfold_requests_within_seconds_total',
      help: 'requests answered within so many seconds, cumulative',
      labelNames: ['route', 'le'],
      registers,
      collect() {
        this.reset()
        for (const [route, { byBucket }] of routes) {
          let within = 0
          for (const [i, count] of byBucket.entries()) {
            within += count
            this.inc({ route, le: String(BUCKETS[i] ?? '+Inf') }, within)
          }
        }
      },
    })
  }
}

export type { RouteFigures }
