/**
 * The job itself: records in, a few batches under way at once, records out in the order in which they came, each exactly
 * once. What fails is passed through as it is and told with its place.
 *
 *     input → records → batches → mover → output, failures → checkpoint
 */
import { KeyfoldError, type ErrorCode } from '../../errors.ts'
import { frameRecord, fromBase64, recordOf, type RecordFormat, type Splitter } from '../records.ts'
import type { Counts } from './files.ts'
import type { Mover, Outcome } from './movers.ts'

/** Where a job writes: files that can be gone on with, or a stream. */
export interface Sink {
  /** Records, and a line for each that failed. */
  write(bytes: Uint8Array, failures: string): Promise<void>
  /** `inputOffset`: behind the last record that was written. */
  checkpoint(inputOffset: number, counts: Readonly<Counts>): Promise<void>
}

export interface JobOptions {
  readonly source: AsyncIterable<Buffer>
  readonly splitter: Splitter
  readonly format: RecordFormat
  readonly mover: Mover
  readonly sink: Sink
  /** Where the source begins in the input, and what became of what lies before. */
  readonly start: { readonly inputOffset: number; readonly counts: Readonly<Counts> }
  readonly batchMax: number
  readonly failFast: boolean
  /** Resolves when so many more ciphertexts may be sent. */
  readonly allow: (ciphertexts: number) => Promise<void>
  readonly onWritten: (ciphertexts: number, inputOffset: number) => void
}

interface Taken {
  readonly record: Buffer
  readonly endOffset: number
}

interface Step {
  readonly taken: readonly Taken[]
  readonly outcomes: Promise<readonly Outcome[]>
}

const STEPS_UNDER_WAY_MAX = 4
const STEP_BYTES = 8 * 2 ** 20
/** What a kill costs at most, and an idle disk does not notice. */
const CHECKPOINT_MS = 500

/** What became of all ciphertexts. However it ends, what was written before is known to a checkpoint. */
export async function runJob(options: JobOptions): Promise<Readonly<Counts>> {
  const { source, splitter, sink, allow } = options
  const batcher = new Batcher(options.batchMax)
  const writer = new StepWriter(options)
  const steps: Step[] = []
  const startSteps = async (): Promise<void> => {
    for (const taken of batcher.full.splice(0)) {
      await allow(taken.length)
      const outcomes = moveTaken(options, taken)
      // Met in its turn; until then it is nobody's unhandled rejection.
      outcomes.catch(() => undefined)
      steps.push({ taken, outcomes })
      if (steps.length >= STEPS_UNDER_WAY_MAX) await writer.write(steps.shift() as Step)
    }
  }
  try {
    // Whatever is wrong with the rest of the input, what came before it is done.
    let inputError: unknown
    const attempt = (work: () => void): void => {
      try {
        work()
      } catch (error) {
        inputError = error
      }
    }
    for await (const chunk of source) {
      attempt(() => splitter.push(chunk, batcher.add))
      await startSteps()
      if (inputError !== undefined) break
    }
    if (inputError === undefined) attempt(() => splitter.end(batcher.add))
    batcher.cut()
    await startSteps()
    for (const step of steps) await writer.write(step)
    if (inputError !== undefined) throw inputError
  } finally {
    await sink.checkpoint(writer.inputOffset, writer.counts)
  }
  return writer.counts
}

/** Records to batches. */
class Batcher {
  readonly #batchMax: number
  readonly full: (readonly Taken[])[] = []
  #gathered: Taken[] = []
  #bytes = 0

  constructor(batchMax: number) {
    this.#batchMax = batchMax
  }

  readonly add = (record: Buffer, endOffset: number): void => {
    this.#gathered.push({ record, endOffset })
    this.#bytes += record.length
    if (this.#gathered.length >= this.#batchMax || this.#bytes >= STEP_BYTES) this.cut()
  }

  cut(): void {
    if (this.#gathered.length > 0) this.full.push(this.#gathered)
    this.#gathered = []
    this.#bytes = 0
  }
}

/** A ciphertext that failed, with --fail-fast. */
export class CiphertextFailure extends KeyfoldError {
  constructor(index: number, code: ErrorCode) {
    super(code, `ciphertext ${index}`)
  }
}

/** Writes steps in order, and a checkpoint now and then. */
class StepWriter {
  readonly #options: JobOptions
  #checkpointAtMs = performance.now() + CHECKPOINT_MS
  counts: Readonly<Counts>
  inputOffset: number

  constructor(options: JobOptions) {
    this.#options = options
    this.counts = options.start.counts
    this.inputOffset = options.start.inputOffset
  }

  async write({ taken, outcomes }: Step): Promise<void> {
    const { sink, failFast, onWritten } = this.#options
    const settled = await outcomes
    const failing = failFast ? settled.findIndex(({ kind }) => kind === 'failed') : -1
    const count = failing < 0 ? taken.length : failing
    const { bytes, failures, counts } = this.#join(taken.slice(0, count), settled)
    await sink.write(bytes, failures)
    this.counts = counts
    this.inputOffset = taken[count - 1]?.endOffset ?? this.inputOffset
    onWritten(count, this.inputOffset)
    const failed = settled[failing]
    if (failed?.kind === 'failed') throw new CiphertextFailure(totalOf(counts), failed.code)
    if (performance.now() < this.#checkpointAtMs) return
    await sink.checkpoint(this.inputOffset, counts)
    this.#checkpointAtMs = performance.now() + CHECKPOINT_MS
  }

  #join(taken: readonly Taken[], outcomes: readonly Outcome[]) {
    const { format } = this.#options
    const counts = { ...this.counts }
    const parts: Uint8Array[] = []
    let failures = ''
    for (const [i, { record }] of taken.entries()) {
      const outcome = outcomes[i] as Outcome
      if (outcome.kind === 'failed') {
        failures += `${JSON.stringify({ index: totalOf(counts), code: outcome.code })}\n`
      }
      counts[outcome.kind]++
      const moved = outcome.kind === 'moved' ? recordOf(format, outcome.bytes) : record
      parts.push(...frameRecord(format, moved))
    }
    return { bytes: Buffer.concat(parts), failures, counts }
  }
}

export function totalOf({ moved, current, detached, failed }: Readonly<Counts>): number {
  return moved + current + detached + failed
}

async function moveTaken(
  { format, mover }: JobOptions,
  taken: readonly Taken[],
): Promise<readonly Outcome[]> {
  return mover.move(
    taken.map(({ record }) => (format === 'lines' ? fromBase64OrNothing(record) : record)),
  )
}

/** A line that is no base64 is no ciphertext, and neither are no bytes. */
function fromBase64OrNothing(line: Buffer): Buffer {
  try {
    return fromBase64(line)
  } catch {
    return NO_BYTES
  }
}

const NO_BYTES = Buffer.alloc(0)
