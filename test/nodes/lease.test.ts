/**
 * Who may act on what they remember of a shared catalog, and when a change is acknowledged, by clocks of the tests' own:
 * what counts is their own clock, change numbers, and what others wrote.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { waitUntilConfirmed } from '../../dist/catalog/acknowledge.js'
import { openCatalog, type Catalog } from '../../dist/catalog/catalog.js'
import { BoundedLease } from '../../dist/catalog/lease.js'
import { Membership } from '../../dist/catalog/membership.js'
import { loadConfig } from '../../dist/config.js'
import { describeWithPostgres } from '../catalog/postgres.ts'

/** limits.ts: the README promises it. */
const LEASE_MS = 1_000

describe('a lease', () => {
  let nowMs = 0
  const held = (): BoundedLease => {
    nowMs = 5_000
    const lease = new BoundedLease(() => nowMs)
    lease.extend(nowMs, nowMs + LEASE_MS)
    return lease
  }

  test('holds until its end and not in the millisecond of it', () => {
    const lease = held()
    nowMs += LEASE_MS - 1
    lease.assertHeld()
    nowMs += 1
    expect(() => lease.assertHeld()).toThrow('this node does not know what others may have changed')
    expect(lease.held).toBe(false)
  })

  test('is out when the clock jumps ahead, and a renewal that began before that is none', () => {
    const lease = held()
    const startedMs = nowMs
    nowMs += 3_600_000
    expect(lease.held).toBe(false)
    lease.extend(startedMs, startedMs + LEASE_MS)
    expect(lease.held).toBe(false)
  })

  test('that was ended stays ended, whatever the clock says', () => {
    const lease = held()
    lease.end()
    nowMs -= 3_600_000
    expect(lease.held).toBe(false)
    expect(() => lease.assertHeld(() => 86_400_000)).toThrow()
  })

  test('is out when the clock jumps back, for keys that are served alone too, until a poll by that clock', () => {
    const lease = held()
    nowMs -= 3_600_000
    expect(lease.held).toBe(false)
    expect(() => lease.assertHeld(() => 86_400_000)).toThrow()
    lease.extend(nowMs, nowMs + LEASE_MS)
    expect(lease.held).toBe(true)
    nowMs += LEASE_MS
    expect(lease.held).toBe(false)
  })

  test('that is out goes on for as long as a key may be served alone, and no longer', () => {
    const lease = held()
    nowMs += LEASE_MS + 4_999
    lease.assertHeld(() => 5_000)
    nowMs += 1
    expect(() => lease.assertHeld(() => 5_000)).toThrow()
  })
})

describeWithPostgres('nodes with clocks of their own', (postgres) => {
  let catalog: Catalog
  let url: string
  const joined: Membership[] = []
  beforeAll(async () => {
    url = await postgres.createDatabase()
    const address = loadConfig({ flags: { catalog: url } }).catalog
    const [region, account] = ['eu-west-1', '111122223333']
    catalog = await openCatalog({ dataDirectory: '/nowhere', catalog: address, region, account })
  })
  afterAll(async () => {
    for (const member of joined) await member.leave()
    await catalog.close()
  })

  /** A node that follows by writing numbers down, and whose clock stands until it is told. */
  async function join(id: string) {
    const node = {
      nowMs: 1_000_000,
      followed: [] as number[],
      since: [] as (number | undefined)[],
      logged: [] as string[],
      follow: async (): Promise<void> => undefined,
    }
    const membership = await Membership.join({
      id,
      db: catalog.db,
      follower: {
        follow: async (since, number) => {
          await node.follow()
          node.since.push(since)
          node.followed.push(number)
        },
      },
      rootVersion: 1,
      clockMs: () => node.nowMs,
      log: (message) => void node.logged.push(message),
    })
    joined.push(membership)
    return Object.assign(node, { membership })
  }
  const change = (): Promise<number> => catalog.change(async (_transaction, number) => number)
  const rowsOf = async (id: string): Promise<number> =>
    (await postgres.query(url, `select 1 from nodes where id = '${id}'`)).length
  const confirmedBy = async (id: string): Promise<unknown> =>
    (await postgres.query(url, `select confirmed from nodes where id = '${id}'`))[0]?.['confirmed']
  const eventually = async (is: () => boolean | Promise<boolean>): Promise<void> => {
    while (!(await is())) await new Promise((resolve) => setTimeout(resolve, 5))
  }

  test('a change is acknowledged when all of them say that it is in force, and no sooner', async () => {
    const [one, two] = [await join('ack-one'), await join('ack-two')]
    let letGo = (): void => undefined
    const gate = new Promise<void>((resolve) => (letGo = resolve))
    two.follow = () => gate
    const number = await change()
    let acknowledged = false
    const waiting = waitUntilConfirmed(catalog.db, number, 'nobody').then(() => {
      acknowledged = true
    })
    await eventually(async () => {
      // As a node that lives: who waits for it does so for longer than this machine may be busy.
      await postgres.query(url, "update nodes set renewals = renewals + 1 where id = 'ack-two'")
      return Number(await confirmedBy('ack-one')) >= number
    })
    expect(one.followed.at(-1)).toBeGreaterThanOrEqual(number)
    // It has a row until its lease is out by the clock of who waits.
    const tooSoon = acknowledged && (await rowsOf('ack-two')) > 0
    expect(tooSoon).toBe(false)
    letGo()
    await waiting
    await eventually(async () => Number(await confirmedBy('ack-two')) >= number)
    expect(two.followed.at(-1)).toBeGreaterThanOrEqual(number)
    await one.membership.leave()
    await two.membership.leave()
  })

  test('a node whose clock went on while it did not (a stopped process) has no lease, and polls for another', async () => {
    const node = await join('stopped')
    expect(node.membership.lease.held).toBe(true)
    node.nowMs += LEASE_MS
    expect(node.membership.lease.held).toBe(false)
    const { renewals } = node.membership.counters
    await eventually(() => node.membership.counters.renewals > renewals + 1)
    expect(node.membership.lease.held).toBe(true)
    expect(node.membership.counters.leasesLost).toBe(1)
    await node.membership.leave()
  })

  test('a clock that goes on during a poll shortens the lease that it gives', async () => {
    const node = await join('slow-poll')
    node.follow = async () => void (node.nowMs += LEASE_MS)
    const number = await change()
    await eventually(() => node.followed.includes(number))
    await eventually(() => node.membership.lease.held)
    // Lost during that poll; and what the poll gave, counted from its start, was out when it was given.
    expect(node.membership.counters.leasesLost).toBe(2)
    await node.membership.leave()
  })

  test('a node that is gone is waited for until its lease is out by the clock of who waits', async () => {
    const node = await join('gone')
    // As a process that is stopped: it neither polls nor leaves.
    let wake = (): void => undefined
    const stopped = new Promise<void>((resolve) => (wake = resolve))
    node.follow = () => stopped
    const number = await change()
    const startedMs = performance.now()
    await waitUntilConfirmed(catalog.db, number, 'nobody')
    // Not a bound on how fast: sooner would be wrong.
    expect(performance.now() - startedMs).toBeGreaterThanOrEqual(LEASE_MS)
    expect(await rowsOf('gone')).toBe(0)
    // It is back: without a lease until it is among the nodes again, and then with everything.
    node.nowMs += LEASE_MS
    node.follow = async () => undefined
    wake()
    await eventually(() => node.membership.lease.held)
    expect(await rowsOf('gone')).toBe(1)
    expect(node.followed.at(-1)).toBeGreaterThanOrEqual(number)
    await node.membership.leave()
  })

  test('a node that cannot follow keeps nobody waiting for ever, says why, and is back when it can', async () => {
    const node = await join('cannot')
    node.follow = () => Promise.reject(new Error('the reason', { cause: new Error('behind it') }))
    const number = await change()
    await eventually(() => node.membership.counters.failures > 0)
    expect(node.membership.lease.held).toBe(true)
    node.nowMs += LEASE_MS
    await waitUntilConfirmed(catalog.db, number, 'nobody')
    expect(node.membership.lease.held).toBe(false)
    expect(node.logged).toEqual(['the catalog cannot be followed: the reason: behind it'])
    const { failures } = node.membership.counters
    await eventually(() => node.membership.counters.failures > failures + 1)
    expect(await rowsOf('cannot')).toBe(0)
    node.follow = async () => undefined
    await eventually(() => node.membership.lease.held)
    expect(node.logged.at(-1)).toBe('the catalog is followed again')
    expect(await rowsOf('cannot')).toBe(1)
    await node.membership.leave()
  })

  test('a catalog that was set back is read anew', async () => {
    const node = await join('set-back')
    const number = await change()
    await eventually(() => node.followed.includes(number))
    await postgres.query(url, 'update changes set number = number - 1')
    await eventually(() => node.followed.at(-1) === number - 1)
    expect(node.since.at(-1)).toBeUndefined()
    await node.membership.leave()
  })
})
