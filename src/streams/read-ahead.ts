/**
 * The runs of a file, read before they are needed and several at once, in memory that is used again: one read after
 * the other would leave the cipher waiting.
 */
import { FILE_READS_AHEAD, STREAM_WINDOW_BYTES } from '../limits.ts'

/** Reads one run, or what there is of it, to the beginning of `into`. */
export type ReadRun = (run: number, into: Buffer) => Promise<Uint8Array>

export class ReadAhead {
  readonly #read: ReadRun
  readonly #runs: number
  readonly #memories: readonly Buffer[]
  /** Each by the memory that it is read into. */
  readonly #readings: Promise<Uint8Array>[] = []
  /** Of each memory, what may have been written to. */
  readonly #touchedBytes: number[] = []

  /** Begins at once. `runs`: no more are read. */
  constructor(runBytes: number, read: ReadRun, runs = Infinity) {
    this.#read = read
    this.#runs = runs
    // Half of the window is for what is made of them. Long frames have two runs: one is read, one is worked on.
    const count = Math.max(2, Math.floor(STREAM_WINDOW_BYTES / 2 / runBytes))
    this.#memories = Array.from({ length: Math.min(count, FILE_READS_AHEAD, runs) }, () =>
      Buffer.allocUnsafeSlow(runBytes),
    )
    for (let run = 0; run < this.#memories.length; run++) this.#start(run)
  }

  /** This run, whose turn it is, or the one after it. Throws what its reading failed with. */
  run(run: number): Promise<Uint8Array> {
    return this.#readings[run % this.#memories.length] as Promise<Uint8Array>
  }

  /** Nobody needs this run any more: its memory is for a later one. */
  done(run: number): void {
    const later = run + this.#memories.length
    if (later < this.#runs) this.#start(later)
  }

  /** Resolves when no read is under way. */
  async end(): Promise<void> {
    await Promise.allSettled(this.#readings)
  }

  wipe(): void {
    // The rest of what is there for a small file was never touched, and should not be now.
    for (const [at, memory] of this.#memories.entries()) memory.fill(0, 0, this.#touchedBytes[at])
  }

  #start(run: number): void {
    const at = run % this.#memories.length
    const memory = this.#memories[at] as Buffer
    const touched = ({ length }: Uint8Array): void => {
      this.#touchedBytes[at] = Math.max(this.#touchedBytes[at] ?? 0, length)
    }
    const reading = this.#read(run, memory)
    // What it fails with is met when it is awaited.
    reading.then(touched, () => touched(memory))
    this.#readings[at] = reading
  }
}
