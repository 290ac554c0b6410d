/**
 * The audit log as the rest of the process sees it. Recording costs the event loop a push into an array; groups go to a
 * worker that chains, writes and syncs them, and whatever arrives while it does goes with the next (measured at
 * 60,000 events/s, Node 20: 0.07 µs to take a record and 0.1 µs to pack it on the event loop; 1.2 µs on the worker, 3 to
 * 5 without the addon).
 *
 * bounded: a record is on the disk a moment after the answer; while the disk does not take it, records wait in memory up
 * to a bound, and beyond that callers are refused. strict: nobody is answered before their record is on the disk.
 * Either way a record that was taken is written once, in order, as soon as the disk allows. So there may be a record of
 * a request that was answered AUDIT_UNAVAILABLE, and never the reverse.
 */
import { Worker } from 'node:worker_threads'

import type { Config } from '../config.ts'
import { KeyfoldError } from '../errors.ts'
import {
  AUDIT_DEADLINE_MS,
  AUDIT_GATHER_MS,
  AUDIT_GROUP_RECORDS_MAX,
  AUDIT_RETRY_MS,
} from '../limits.ts'
export type { AuditEvent } from './event.ts'
import { GroupBuilder, type AuditEvent } from './event.ts'
import type { FromWorker, ToWorker, WorkerStart } from './messages.ts'
import { Strangers } from './strangers.ts'

export interface AuditCounters {
  /** Taken. */
  readonly auditRecords: number
  readonly auditGroups: number
  /** Taken while the disk took none. */
  readonly auditSpilled: number
  /** Refused, or not on the disk in time: callers were told AUDIT_UNAVAILABLE. */
  readonly auditRefused: number
  /** Refused requests of callers who are nobody, of which there is no record: there were too many. */
  readonly auditStrangersUnrecorded: number
  /** Taken and not on the disk yet. */
  readonly auditWaiting: number
  readonly auditSyncSeconds: number
  readonly auditWorkersReplaced: number
}

export interface AuditLog {
  /** Whether anything is recorded: who would make an event for nothing asks first. */
  readonly on: boolean
  /**
   * For the data plane. strict: resolves when it is on the disk. bounded: undefined. off: undefined.
   * Errors, thrown or as a rejection: AUDIT_UNAVAILABLE.
   */
  record(event: AuditEvent): Promise<void> | undefined
  /** For management: resolves when it is on the disk, whatever the mode. Rejects with AUDIT_UNAVAILABLE. */
  recordDurably(event: AuditEvent): Promise<void>
  /** Throws AUDIT_UNAVAILABLE where recordDurably would: asked before something is done that cannot be taken back. */
  assertAvailable(): void
  readonly counters: AuditCounters
  /** Resolves when everything recorded so far is on the disk. Rejects with AUDIT_UNAVAILABLE. */
  flush(): Promise<void>
  /** Writes what waits, says in the log that nothing follows, and ends. */
  close(): Promise<void>
}

export interface AuditOptions {
  readonly audit: Config['audit']
  readonly region: string
  readonly crypto: Config['crypto']
  readonly log: (message: string) => void
  readonly deadlineMs?: number
}

/** Errors: AUDIT_UNAVAILABLE (the directory takes no file). */
export async function openAuditLog(options: AuditOptions): Promise<AuditLog> {
  if (options.audit.mode === 'off') return new NoAuditLog()
  const log = new WorkerAuditLog(options)
  await log.opened()
  return log
}

const NO_COUNTERS: AuditCounters = {
  auditRecords: 0,
  auditGroups: 0,
  auditSpilled: 0,
  auditRefused: 0,
  auditStrangersUnrecorded: 0,
  auditWaiting: 0,
  auditSyncSeconds: 0,
  auditWorkersReplaced: 0,
}

class NoAuditLog implements AuditLog {
  readonly on = false
  readonly counters = NO_COUNTERS
  record(): undefined {
    return undefined
  }
  async recordDurably(): Promise<void> {}
  assertAvailable(): void {}
  async flush(): Promise<void> {}
  async close(): Promise<void> {}
}

/** Events that go to the disk together, and the promise that all who wait for it share. */
class Group {
  readonly events = new GroupBuilder()
  #durable: Promise<void> | undefined
  #resolve: () => void = () => undefined
  #reject: (error: KeyfoldError) => void = () => undefined
  /** Who waits; they are told once. */
  waiting = 0

  get awaited(): boolean {
    return this.#durable !== undefined
  }

  durable(): Promise<void> {
    this.waiting++
    this.#durable ??= new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    return this.#durable
  }

  settle(error?: KeyfoldError): number {
    if (error === undefined) this.#resolve()
    else this.#reject(error)
    const told = this.waiting
    this.waiting = 0
    this.#durable = undefined
    return told
  }
}

class WorkerAuditLog implements AuditLog {
  readonly on = true
  readonly #options: AuditOptions
  readonly #strict: boolean
  readonly #waitingMax: number
  readonly #deadlineMs: number
  readonly #counters = { ...NO_COUNTERS }
  readonly #strangers = new Strangers()
  #worker: Worker | undefined
  /** It has begun its chain. Until then it is told nothing: it might be told twice. */
  #ready = false
  /** Its chain, and the last line that it told of. */
  #chain: { chain: string; sequence: number } | undefined
  /** In the worker's hands. */
  #sent: Group | undefined
  readonly #full: Group[] = []
  #filling = new Group()
  #timer: NodeJS.Timeout | NodeJS.Immediate | undefined
  #timerIsImmediate = false
  #deadline: NodeJS.Timeout | undefined
  /** Why the disk takes nothing at the moment. */
  #failure: string | undefined
  #syncSecondsBefore = 0
  #closed = false
  /** What close() waits for: nothing waits any more; the worker has ended. */
  #onIdle: (() => void) | undefined
  #onEnd: (() => void) | undefined
  /** Workers that died one after the other without writing anything. */
  #deaths = 0
  #restart: NodeJS.Timeout | undefined
  #opening: { resolve: () => void; reject: (error: KeyfoldError) => void } | undefined

  constructor(options: AuditOptions) {
    this.#options = options
    this.#strict = options.audit.mode === 'strict'
    this.#waitingMax = options.audit.spillRecordsMax
    this.#deadlineMs = options.deadlineMs ?? AUDIT_DEADLINE_MS
  }

  opened(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#opening = { resolve, reject }
      this.#startWorker()
    })
  }

  get counters(): AuditCounters {
    return this.#counters
  }

  record(given: AuditEvent): Promise<void> | undefined {
    const event = this.#admit(given)
    if (event === undefined) return undefined
    if (!this.#strict) {
      this.#push(event)
      if (this.#timer === undefined) this.#sendSoon()
      return undefined
    }
    try {
      // Whoever is refused at once leaves nothing behind: the answer is not given, and nothing was done.
      this.assertAvailable()
    } catch (error) {
      this.#counters.auditRefused++
      return Promise.reject(error as KeyfoldError)
    }
    return this.#pushAndWait(event)
  }

  recordDurably(given: AuditEvent): Promise<void> {
    const event = this.#admit(given)
    if (event === undefined) return Promise.resolve()
    try {
      return this.#pushAndWait(event)
    } catch (error) {
      return Promise.reject(error as KeyfoldError)
    }
  }

  assertAvailable(): void {
    if (this.#failure !== undefined) throw unavailable(this.#failure)
    if (this.#counters.auditWaiting >= this.#waitingMax) throw this.#isFull()
    if (this.#closed) throw unavailable('it is closed')
  }

  flush(): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(unavailable(this.#failure))
    const last = this.#filling.events.count > 0 ? this.#filling : (this.#full.at(-1) ?? this.#sent)
    if (last === undefined) return Promise.resolve()
    const durable = last.durable()
    this.#sendSoon()
    return durable
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    this.#sendSoon()
    if (this.#counters.auditWaiting > 0) {
      await this.#beforeDeadline((resolve) => (this.#onIdle = resolve))
    }
    const worker = this.#worker
    if (worker !== undefined) {
      await this.#beforeDeadline((resolve) => {
        this.#onEnd = resolve
        worker.postMessage({ kind: 'close' } satisfies ToWorker)
      })
      worker.unref()
    }
    this.#stopTimer()
    clearTimeout(this.#deadline)
    clearTimeout(this.#restart)
    const lost = this.#counters.auditWaiting
    if (lost > 0) this.#options.log(`audit: ${lost} records were not written: ${this.#failure}`)
  }

  /** What the disk does not take by its deadline is lost, and said to be. */
  async #beforeDeadline(begin: (resolve: () => void) => void): Promise<void> {
    let late: NodeJS.Timeout | undefined
    await new Promise<void>((resolve) => {
      late = setTimeout(resolve, this.#deadlineMs)
      begin(resolve)
    })
    clearTimeout(late)
  }

  // Taking records.

  #admit(event: AuditEvent): AuditEvent | undefined {
    const admitted = this.#strangers.admit(event)
    if (admitted === undefined) this.#counters.auditStrangersUnrecorded++
    return admitted
  }

  #push(event: AuditEvent): void {
    const counters = this.#counters
    if (counters.auditWaiting >= this.#waitingMax || this.#closed) {
      counters.auditRefused++
      throw this.#closed ? unavailable('it is closed') : this.#isFull()
    }
    counters.auditRecords++
    counters.auditWaiting++
    if (this.#failure !== undefined) counters.auditSpilled++
    this.#filling.events.add(event)
    if (this.#filling.events.count < AUDIT_GROUP_RECORDS_MAX) return
    this.#full.push(this.#filling)
    this.#filling = new Group()
    this.#sendSoon()
  }

  #pushAndWait(event: AuditEvent): Promise<void> {
    const group = this.#filling
    this.#push(event)
    if (this.#failure !== undefined) {
      this.#counters.auditRefused++
      return Promise.reject(unavailable(this.#failure))
    }
    const durable = group.durable()
    this.#sendSoon()
    return durable
  }

  #isFull(): KeyfoldError {
    return unavailable(`${this.#waitingMax} records wait for the disk`)
  }

  // Sending groups.

  /** When this tick is over where somebody waits or a group is full, else in a moment. */
  #sendSoon(): void {
    if (this.#sent !== undefined || !this.#ready) return
    const group = this.#full[0] ?? this.#filling
    const now = group.awaited || this.#full.length > 0 || this.#closed
    if (this.#timer !== undefined && (this.#timerIsImmediate || !now)) return
    this.#stopTimer()
    const send = (): void => {
      this.#timer = undefined
      this.#send()
    }
    this.#timerIsImmediate = now
    this.#timer = now ? setImmediate(send) : setTimeout(send, AUDIT_GATHER_MS).unref()
  }

  #stopTimer(): void {
    if (this.#timerIsImmediate) clearImmediate(this.#timer as NodeJS.Immediate | undefined)
    else clearTimeout(this.#timer as NodeJS.Timeout | undefined)
    this.#timer = undefined
  }

  #send(): void {
    if (this.#sent !== undefined || !this.#ready) return
    const group = this.#full.shift() ?? this.#filling
    if (group.events.count === 0) return
    if (group === this.#filling) this.#filling = new Group()
    this.#hand(group)
  }

  #hand(group: Group): void {
    this.#sent = group
    const message: ToWorker = { kind: 'group', group: group.events.build() }
    this.#worker?.postMessage(message, [message.group.numbers.buffer])
    clearTimeout(this.#deadline)
    this.#deadline = setTimeout(
      () => this.#fail(`the disk has not taken a group within ${this.#deadlineMs} ms`),
      this.#deadlineMs,
    ).unref()
  }

  // What the worker says.

  #receive(message: FromWorker): void {
    switch (message.kind) {
      case 'ready':
        return this.#begin(message)
      case 'durable':
        return this.#durable(message)
      case 'failed':
        return this.#fail(message.message)
      case 'closed':
        return this.#onEnd?.()
    }
  }

  #begin({ chain, sequence, recovered }: Extract<FromWorker, { kind: 'ready' }>): void {
    this.#ready = true
    this.#chain = { chain, sequence }
    this.#syncSecondsBefore = this.#counters.auditSyncSeconds
    this.#opening?.resolve()
    this.#opening = undefined
    const group = this.#sent
    if (group === undefined) {
      this.#recover()
      if (this.#full.length > 0 || this.#filling.events.count > 0) this.#sendSoon()
      return
    }
    // The worker before this one had these on the disk already.
    this.#counters.auditWaiting -= recovered
    group.events.drop(recovered)
    if (group.events.count > 0) this.#hand(group)
    else this.#groupDone(group)
  }

  #durable({ sequence, syncSeconds }: Extract<FromWorker, { kind: 'durable' }>): void {
    if (this.#chain !== undefined) this.#chain.sequence = sequence
    this.#counters.auditSyncSeconds = this.#syncSecondsBefore + syncSeconds
    const group = this.#sent
    if (group === undefined) return
    this.#counters.auditWaiting -= group.events.count
    this.#groupDone(group)
  }

  #groupDone(group: Group): void {
    this.#counters.auditGroups++
    this.#sent = undefined
    clearTimeout(this.#deadline)
    this.#deaths = 0
    this.#recover()
    group.settle()
    if (this.#counters.auditWaiting === 0) this.#onIdle?.()
    if (this.#full.length > 0 || this.#filling.events.count > 0) this.#sendSoon()
  }

  #recover(): void {
    if (this.#failure === undefined) return
    this.#failure = undefined
    this.#options.log('audit: records are written again')
  }

  /** Tells everyone who waits. Their records stay: what was taken is written once the disk takes it. */
  #fail(reason: string): void {
    if (this.#failure === undefined) this.#options.log(`audit: no records are written: ${reason}`)
    this.#failure = reason
    for (const group of [this.#sent, ...this.#full, this.#filling]) {
      this.#counters.auditRefused += group?.settle(unavailable(reason)) ?? 0
    }
  }

  #startWorker(): void {
    const { audit, region, crypto } = this.#options
    const start: WorkerStart = {
      directory: audit.directory,
      region,
      fileBytesMax: audit.fileBytesMax,
      native: crypto !== 'node',
      lost: this.#chain,
    }
    const worker = new Worker(new URL('./worker.js', import.meta.url), {
      workerData: start,
      name: 'audit',
      // Flags of this process may be none that a worker takes.
      execArgv: [],
      // Nothing of the environment, where secrets may stand.
      env: {},
    })
    let reason = 'the audit worker ended'
    worker.on('message', (message: FromWorker) => this.#receive(message))
    worker.on('error', (error) => {
      reason = `the audit worker failed: ${(error as Error).message}`
    })
    worker.on('exit', () => this.#lostWorker(reason))
    this.#worker = worker
  }

  /** Another worker begins a chain of its own and goes on where this one was; until it is there nothing is written. */
  #lostWorker(reason: string): void {
    this.#worker = undefined
    this.#ready = false
    if (this.#opening !== undefined) {
      this.#opening.reject(new KeyfoldError('AUDIT_UNAVAILABLE', reason))
      return
    }
    if (this.#onEnd !== undefined) {
      this.#onEnd()
      return
    }
    this.#fail(reason)
    this.#counters.auditWorkersReplaced++
    // Each begins a chain, so one that dies again and again is given more and more time.
    const delayMs = AUDIT_RETRY_MS * 2 ** Math.min(this.#deaths++, DEATHS_COUNTED)
    this.#restart = setTimeout(() => this.#startWorker(), delayMs).unref()
  }
}

/** 2^8 times a quarter of a second is a minute. */
const DEATHS_COUNTED = 8

function unavailable(reason: string): KeyfoldError {
  return new KeyfoldError('AUDIT_UNAVAILABLE', undefined, reason)
}
