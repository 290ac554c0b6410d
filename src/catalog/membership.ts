/**
 * This process as one of many nodes on a catalog: it follows what the others change, and holds a lease while it does.
 *
 *     poll        says which change this node has in force, and reads the change number: one statement
 *     follow      reads again what was changed since, into memory
 *     lease       LEASE_MS from the start of that poll; while it is out nothing is served under KMS keys
 *
 * A change is acknowledged when each node has either confirmed it or no lease any more. Nobody compares clocks for that:
 * whoever waits has seen a node's row, and when that row has stayed as it is for longer than a lease by their own clock,
 * every lease that the node has is from before, and is out. Then they remove the row. A node that finds its row gone has
 * no lease until it is back among the nodes and has polled again, in that order: whoever looked before that has already
 * committed what it will read. A poll that is under way meanwhile holds its row, so that removing it waits and looks again.
 *
 * A node that cannot follow is waited for until its lease is out, and not for ever: then it has no row, and is not back
 * among the nodes before it has followed again.
 */
import type { Kysely } from 'kysely'

import { reasonOf } from '../errors.ts'
import { CATALOG_LEASE_MS, CATALOG_POLL_MS } from '../limits.ts'
import { BoundedLease } from './lease.ts'
import { insertNode, leaveNodes, readChangeNumber, renewNode } from './nodes.ts'
import type { CatalogTables } from './schema.ts'

type Queries = Kysely<CatalogTables>

/** What remembers rows of the catalog. */
export interface Follower {
  /** In force when it resolves: every change after `since` and up to `number`, or all there is where it is undefined. */
  follow(since: number | undefined, number: number): Promise<void>
}

export interface MembershipOptions {
  readonly id: string
  /** Connections that nothing else waits for. */
  readonly db: Queries
  readonly follower: Follower
  /** The newest root key that this node has. */
  readonly rootVersion: number
  /** A clock that runs on in suspend. */
  readonly clockMs: () => number
  readonly log: (message: string) => void
}

export interface MembershipCounters {
  /** The last change that is in force here. */
  changeNumber: number
  renewals: number
  failures: number
  /** How often the lease had run out when it was renewed. */
  leasesLost: number
}

export class Membership {
  readonly lease: BoundedLease
  readonly counters: MembershipCounters = {
    changeNumber: 0,
    renewals: 0,
    failures: 0,
    leasesLost: 0,
  }
  readonly #options: MembershipOptions
  /** undefined: everything is to be read again. */
  #followed: number | undefined
  #polledAtMs = -Infinity
  #timer: NodeJS.Timeout | undefined
  #polling: Promise<void> | undefined
  #again = false
  #stopped = false
  #failing = false

  /** Follows everything up to now, and holds a lease. */
  static async join(options: MembershipOptions): Promise<Membership> {
    const membership = new Membership(options)
    await membership.#renew()
    membership.#arm(CATALOG_POLL_MS)
    return membership
  }

  private constructor(options: MembershipOptions) {
    this.#options = options
    this.lease = new BoundedLease(options.clockMs)
  }

  /** Since the start of the last poll that was followed. */
  get lagMs(): number {
    return this.#options.clockMs() - this.#polledAtMs
  }

  /** Something may have changed: polls now. Whoever asks during a poll gets another one. */
  poll(): void {
    if (this.#stopped) return
    clearTimeout(this.#timer)
    this.#again = true
    this.#polling ??= this.#pollWhileAsked()
  }

  /** Nobody waits for this node any more, and it serves nothing. */
  async leave(): Promise<void> {
    this.#stopped = true
    clearTimeout(this.#timer)
    await this.#polling
    this.lease.end()
    // Where the catalog does not answer the others find out by themselves.
    await leaveNodes(this.#options.db, this.#options.id).catch(() => undefined)
  }

  async #pollWhileAsked(): Promise<void> {
    while (this.#again && !this.#stopped) {
      this.#again = false
      try {
        await this.#renew()
        if (this.#failing) this.#options.log('the catalog is followed again')
        this.#failing = false
      } catch (error) {
        this.counters.failures++
        if (!this.#failing) {
          this.#options.log(`the catalog cannot be followed: ${reasonOf(error)}`)
        }
        this.#failing = true
      }
    }
    this.#polling = undefined
    this.#arm(CATALOG_POLL_MS)
  }

  #arm(waitMs: number): void {
    if (this.#stopped) return
    this.#timer = setTimeout(() => this.poll(), waitMs)
    this.#timer.unref()
  }

  async #renew(): Promise<void> {
    const { db, id, rootVersion, clockMs } = this.#options
    const startedMs = clockMs()
    const number = await renewNode(db, id, this.#followed ?? 0)
    if (number === undefined) {
      this.lease.end()
      await this.#follow(await readChangeNumber(db))
      await insertNode(db, { id, startedAtMs: Date.now(), rootVersion })
      this.#again = true
      return this.#renew()
    }
    await this.#follow(number).catch(async (error: unknown) => {
      // Its polls say that it lives, and nobody would ever stop waiting.
      if (!this.lease.held) await leaveNodes(db, id)
      throw error
    })
    if (this.counters.renewals > 0 && !this.lease.held) this.counters.leasesLost++
    this.#polledAtMs = startedMs
    this.lease.extend(startedMs, startedMs + CATALOG_LEASE_MS)
    this.counters.changeNumber = number
    this.counters.renewals++
  }

  async #follow(number: number): Promise<void> {
    const since = this.#followed
    if (number === since) return
    const from = since !== undefined && since > number ? undefined : since
    await this.#options.follower.follow(from, number)
    this.#followed = number
    // Whoever made the change waits to hear of it.
    this.#again = true
  }
}
