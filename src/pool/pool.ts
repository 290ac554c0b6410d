/**
 * Small work stays put, big work moves: a thread hop costs more than sealing a small batch, and a large batch would
 * hold everyone up on the event loop. Where the line is depends on the machine, so it is measured at start-up.
 */
import type { Worker } from 'node:worker_threads'

import { Piscina } from 'piscina'

import type { Crypto } from '../crypto/crypto.ts'
import { KeyfoldError } from '../errors.ts'
import { BATCH_PARTS_MAX, INLINE_MICROSECONDS_MAX, POOL_QUEUE_MAX } from '../limits.ts'
import type { TaskAnswer, TaskName, TaskRequests } from './tasks.ts'

/** What the chosen crypto costs on this machine. */
interface Costs {
  readonly nsPerMessage: number
  readonly nsPerByte: number
}

export class Pool {
  readonly #piscina: Piscina | undefined
  readonly #workers: number
  readonly #costs: Costs
  /** Workers that are still loading. Piscina counts its first ones as ready from the start. */
  readonly #loading = new Set<Worker>()
  inlineBatches = 0
  pooledBatches = 0

  constructor(crypto: Crypto, workers: number) {
    // On node:crypto the keys are objects of the main thread, which workers cannot reach.
    this.#workers = crypto.implementation === 'node' ? 0 : workers
    this.#costs = measureCosts(crypto)
    this.#piscina =
      this.#workers === 0
        ? undefined
        : new Piscina({
            filename: new URL('./worker.js', import.meta.url).href,
            minThreads: this.#workers,
            maxThreads: this.#workers,
            // The next slice waits in the worker already when one is done.
            concurrentTasksPerWorker: 2,
            argv: [crypto.implementation],
            // Nothing of the environment, where secrets may stand.
            env: {},
          })
    for (const worker of this.#piscina?.threads ?? []) this.#watch(worker)
    // A worker that dies while it has nothing to do is replaced. Where none is left and none starts, the process had
    // better end than keep its callers waiting.
    this.#piscina?.on('error', (error: unknown) => {
      if (this.#isStranded()) throw error
    })
    // Piscina replaces no worker that dies before it is ready: what waits would wait for the next request.
    this.#piscina?.on('workerDestroy', () =>
      queueMicrotask(() => {
        if (this.#isStranded())
          this.#piscina?.run(undefined, { name: 'wake' }).catch(() => undefined)
      }),
    )
  }

  /** Whether work waits and nobody is there to do it. */
  #isStranded(): boolean {
    return this.#piscina?.threads.length === 0 && this.#piscina.queueSize > 0
  }

  /** How many slices a batch of this size is cut into; 1 with `inline` where it is done on the spot. */
  plan(messages: number, bytes: number): { readonly inline: boolean; readonly parts: number } {
    const nanoseconds = messages * this.#costs.nsPerMessage + bytes * this.#costs.nsPerByte
    if (this.#workers === 0 || nanoseconds <= INLINE_MICROSECONDS_MAX * 1000) {
      this.inlineBatches++
      return INLINE
    }
    this.pooledBatches++
    return { inline: false, parts: Math.min(this.#workers, BATCH_PARTS_MAX) }
  }

  /**
   * Errors: OVERLOADED (the queue is full); WORKER_FAILED (it died meanwhile); what the operation throws. Never aborted:
   * that would kill the worker.
   */
  async run<N extends TaskName>(name: N, request: TaskRequests[N]): Promise<number> {
    if (this.#piscina === undefined) throw new KeyfoldError('INTERNAL', 'there are no workers')
    if (this.#piscina.queueSize >= POOL_QUEUE_MAX) {
      throw new KeyfoldError('OVERLOADED', 'the queue of work is full')
    }
    let answer: TaskAnswer
    try {
      answer = (await this.#piscina.run(request, { name })) as TaskAnswer
    } catch (cause) {
      throw new KeyfoldError('WORKER_FAILED', undefined, cause)
    }
    if (typeof answer === 'number') return answer
    throw new KeyfoldError(answer.code, undefined, answer.message)
  }

  /**
   * A worker that is ended while it loads can take the process with it: Node 20 aborts where that cuts the require() of
   * an ES module short (v8::Module::IsGraphAsync).
   */
  async close(): Promise<void> {
    const loaded = [...this.#loading].map((worker) => {
      worker.ref()
      return new Promise<void>((resolve) => {
        worker.once('message', () => resolve()).once('exit', () => resolve())
      })
    })
    await Promise.all(loaded)
    await this.#piscina?.close()
  }

  /** The first message of a worker says that it is ready. */
  #watch(worker: Worker): void {
    this.#loading.add(worker)
    const done = (): void => void this.#loading.delete(worker)
    worker.once('message', done).once('exit', done)
  }
}

const INLINE = { inline: true, parts: 1 } as const

/** Seals a few batches and takes the best time of each: what is slower was disturbed. */
function measureCosts(crypto: Crypto): Costs {
  const small = measureSeal(crypto, 256, 64)
  const large = measureSeal(crypto, 4, 16_384)
  const nsPerByte = Math.max(0, (large - 4 * (small / 256)) / (4 * 16_384))
  return { nsPerMessage: small / 256, nsPerByte }
}

/** Nanoseconds to seal `messages` messages of `messageBytes`. */
function measureSeal(crypto: Crypto, messages: number, messageBytes: number): number {
  const element = new Uint8Array(3 + messageBytes)
  element.set([0xc5, messageBytes >> 8, messageBytes & 0xff])
  const input = new Uint8Array(element.length * messages)
  for (let i = 0; i < messages; i++) input.set(element, i * element.length)
  const output = new Uint8Array(input.length + messages * 64)
  const raw = crypto.generateKey()
  const key = crypto.createMessageKey(raw, 1)
  let best = Infinity
  for (let round = 0; round < 5; round++) {
    const started = process.hrtime.bigint()
    crypto.sealBatch({
      key,
      contextHash: new Uint8Array(32),
      form: 'detached',
      keyEntry: new Uint8Array(0),
      nilAllowed: false,
      input,
      inputOffset: 0,
      inputEnd: input.length,
      messages,
      output,
      outputOffset: 0,
      outputEnd: output.length,
    })
    best = Math.min(best, Number(process.hrtime.bigint() - started))
  }
  crypto.releaseKey(key)
  crypto.releaseKey(raw)
  return best
}
