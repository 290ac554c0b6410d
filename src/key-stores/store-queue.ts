/**
 * Which call goes next: to a store of another system, or to work with key pairs (key-pair-work.ts). So many are under
 * way at once; the others wait, up to a bound.
 *
 * First goes what everyone waits for, a key that is cold, then what is about to be; but each principal has this precedence for
 * one call at a time, so that a context unique to each message gains nothing by it. Everything else goes by turns:
 * whoever was served longest ago is next. Where the queue is full, whoever has most in it loses the last of that, which
 * may be the newcomer. One principal with many foreign wrapped keys waits behind themselves, and crowds nobody out.
 */
import { strict as assert } from 'node:assert'

import type { StoreTurn } from './key-store.ts'

/** A call. It is started or dropped, once. */
export interface QueuedCall {
  readonly turn: StoreTurn
  start(): void
  /** There is no room for it, or no use in it: see the reason. */
  drop(reason: 'full' | 'ended'): void
}

/** What the queue knows of one principal while they have calls in it. */
interface Line {
  running: number
  waiting: number
  /** When a call of theirs was last started, in calls started. */
  servedAt: number
}

interface Waiting {
  readonly call: QueuedCall
  readonly line: Line
}

/** Of what nobody in particular asked for: all of it has turns as one caller does. */
export const NOBODYS_TURN: StoreTurn = { principalArn: '', urgency: 'other' }

const URGENCY: Readonly<Record<StoreTurn['urgency'], number>> = { cold: 0, refresh: 1, other: 2 }

export class StoreQueue {
  readonly #callsMax: number
  readonly #waitingMax: number
  readonly #lines = new Map<string, Line>()
  /** In the order of their arrival. */
  #waiting: Waiting[] = []
  #running = 0
  #started = 0

  constructor(bounds: { readonly callsMax: number; readonly waitingMax: number }) {
    this.#callsMax = bounds.callsMax
    this.#waitingMax = bounds.waitingMax
  }

  get waiting(): number {
    return this.#waiting.length
  }

  get running(): number {
    return this.#running
  }

  /** Whoever adds a call owes `done` once it was started and is over. */
  add(call: QueuedCall): void {
    const line = this.#lineOf(call.turn.principalArn)
    if (this.#running < this.#callsMax) {
      this.#start(call, line)
      return
    }
    line.waiting++
    this.#waiting.push({ call, line })
    if (this.#waiting.length <= this.#waitingMax) return
    const dropped = this.#take(this.#leastEntitled())
    this.#forgetIfIdle(dropped.turn.principalArn)
    dropped.drop('full')
  }

  /** A call that waits, and has waited too long. */
  withdraw(call: QueuedCall): void {
    const index = this.#waiting.findIndex((waiting) => waiting.call === call)
    assert(index >= 0)
    this.#take(index)
    this.#forgetIfIdle(call.turn.principalArn)
  }

  done(call: QueuedCall): void {
    this.#running--
    const line = this.#lineOf(call.turn.principalArn)
    line.running--
    if (this.#waiting.length > 0) {
      const next = this.#take(this.#next())
      this.#start(next, this.#lineOf(next.turn.principalArn))
    }
    this.#forgetIfIdle(call.turn.principalArn)
  }

  dropAll(): void {
    const dropped = this.#waiting
    this.#waiting = []
    for (const { call, line } of dropped) {
      line.waiting--
      this.#forgetIfIdle(call.turn.principalArn)
    }
    for (const { call } of dropped) call.drop('ended')
  }

  #start(call: QueuedCall, line: Line): void {
    this.#running++
    line.running++
    line.servedAt = ++this.#started
    call.start()
  }

  /** A walk over the whole queue: some µs at its longest, for a call that takes a millisecond. */
  #next(): number {
    let best = 0
    for (let i = 1; i < this.#waiting.length; i++) {
      if (goesBefore(this.#waiting[i] as Waiting, this.#waiting[best] as Waiting)) best = i
    }
    return best
  }

  /** The last and least urgent call of whoever has most. */
  #leastEntitled(): number {
    let worst = 0
    for (let i = 1; i < this.#waiting.length; i++) {
      const one = this.#waiting[i] as Waiting
      const other = this.#waiting[worst] as Waiting
      const more = one.line.waiting - other.line.waiting
      if (more > 0 || (more === 0 && urgencyOf(one) >= urgencyOf(other))) worst = i
    }
    return worst
  }

  /** Its line is kept, for whatever is done with it next. */
  #take(index: number): QueuedCall {
    const [taken] = this.#waiting.splice(index, 1) as [Waiting]
    taken.line.waiting--
    return taken.call
  }

  #lineOf(principalArn: string): Line {
    const known = this.#lines.get(principalArn)
    if (known !== undefined) return known
    // Whoever comes anew is behind those who waited, and before the one who was just served.
    const line = { running: 0, waiting: 0, servedAt: this.#started - 0.5 }
    this.#lines.set(principalArn, line)
    return line
  }

  #forgetIfIdle(principalArn: string): void {
    const line = this.#lines.get(principalArn)
    if (line?.running === 0 && line.waiting === 0) this.#lines.delete(principalArn)
  }
}

function urgencyOf({ call }: Waiting): number {
  return URGENCY[call.turn.urgency]
}

/** `other` arrived earlier. */
function goesBefore(one: Waiting, other: Waiting): boolean {
  const precedence = precedenceOf(one) - precedenceOf(other)
  if (precedence !== 0) return precedence < 0
  if (one.line !== other.line) return one.line.servedAt < other.line.servedAt
  return urgencyOf(one) < urgencyOf(other)
}

function precedenceOf(waiting: Waiting): number {
  return waiting.line.running > 0 ? URGENCY.other : urgencyOf(waiting)
}
