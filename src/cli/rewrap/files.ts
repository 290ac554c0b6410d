/**
 * The files of a job, and what makes it one that can be killed at any moment: the checkpoint says how far the input was
 * read and how long output and failures were then. They are on the disk before the checkpoint takes its name; whoever
 * goes on cuts them back to it.
 */
import { createHash } from 'node:crypto'
import { existsSync, realpathSync } from 'node:fs'
import { open, readFile, rename, rm, type FileHandle } from 'node:fs/promises'
import { createServer, type Server } from 'node:net'
import { basename, dirname, join, resolve } from 'node:path'

import { KeyfoldError } from '../../errors.ts'
import { syncDirectory } from '../files/part-file.ts'
import type { RecordFormat } from '../records.ts'

/** What became of the ciphertexts so far. */
export interface Counts {
  moved: number
  current: number
  detached: number
  failed: number
}

export interface Checkpoint {
  readonly version: 1
  readonly input: InputIdentity
  readonly job: JobIdentity
  readonly inputOffset: number
  readonly outputBytes: number
  readonly failuresBytes: number
  readonly counts: Readonly<Counts>
}

/** What tells one input from another, without reading all of it. */
export interface InputIdentity {
  readonly bytes: number
  readonly modifiedAtMs: number
  /** SHA-256 of its first MiB. */
  readonly beginning: string
}

/** What an output must have been made by to be gone on with. */
export interface JobIdentity {
  /** ARN of the KMS key. */
  readonly to: string
  readonly mode: 'rewrap' | 'fresh'
  readonly format: RecordFormat
  /** SHA-256 of both contexts: their values may be nobody else's business. */
  readonly context: string
}

const BEGINNING_BYTES = 2 ** 20

export class JobFiles {
  readonly #checkpointFile: string
  readonly #identity: Pick<Checkpoint, 'version' | 'input' | 'job'>
  readonly #output: FileHandle
  readonly #failuresFile: string
  readonly #lock: Server
  #failures: FileHandle | undefined
  #outputBytes: number
  #failuresBytes: number
  /** Where the job begins or goes on. */
  readonly start: Pick<Checkpoint, 'inputOffset' | 'counts'>
  readonly inputBytes: number
  readonly resumed: boolean

  private constructor(
    paths: JobPaths,
    opened: {
      readonly checkpoint: Checkpoint
      readonly resumed: boolean
      readonly output: FileHandle
      readonly lock: Server
    },
  ) {
    const { checkpoint, resumed, output, lock } = opened
    const { version, input, job, inputOffset, counts, outputBytes, failuresBytes } = checkpoint
    this.#checkpointFile = paths.checkpoint
    this.#failuresFile = paths.failures
    this.#identity = { version, input, job }
    this.#output = output
    this.#lock = lock
    this.#outputBytes = outputBytes
    this.#failuresBytes = failuresBytes
    this.start = { inputOffset, counts }
    this.inputBytes = input.bytes
    this.resumed = resumed
  }

  /** Errors: CONFIG_INVALID, saying which file is in the way and why; what the file system throws. */
  static async open(paths: JobPaths, job: JobIdentity): Promise<JobFiles> {
    if (isSameFile(paths.input, paths.output)) {
      throw new KeyfoldError('CONFIG_INVALID', 'input and output are the same file')
    }
    const lock = await lockName(paths.checkpoint)
    try {
      const input = await identify(paths.input)
      const known = await readCheckpoint(paths.checkpoint)
      const identity = { version: 1, input, job } as const
      if (known === undefined && existsSync(paths.output)) {
        throw new KeyfoldError(
          'CONFIG_INVALID',
          `${paths.output} exists and there is no ${paths.checkpoint}: either it is finished or it is no output of ` +
            'this job; give another name or remove it',
        )
      }
      if (known !== undefined) assertSameJob(paths, known, identity)
      const checkpoint: Checkpoint = known ?? { ...identity, ...NOTHING_DONE }
      // First: an output without a checkpoint is refused.
      if (known === undefined) await writeCheckpoint(paths.checkpoint, checkpoint)
      const output = await openAt(paths.output, checkpoint.outputBytes)
      const files = new JobFiles(paths, { checkpoint, resumed: known !== undefined, output, lock })
      if (existsSync(paths.failures)) await files.#openFailures()
      return files
    } catch (error) {
      lock.close()
      throw error
    }
  }

  /** Where one of the two cannot be written, neither is known to be. */
  async write(bytes: Uint8Array, failures: string): Promise<void> {
    const failed = Buffer.from(failures)
    if (failed.length > 0) {
      const file = this.#failures ?? (await this.#openFailures())
      await writeAll(file, failed, this.#failuresBytes)
    }
    await writeAll(this.#output, bytes, this.#outputBytes)
    this.#failuresBytes += failed.length
    this.#outputBytes += bytes.length
  }

  /** Everything up to here is on the disk, and known to be. */
  async checkpoint(inputOffset: number, counts: Readonly<Counts>): Promise<void> {
    await Promise.all([this.#output.datasync(), this.#failures?.datasync()])
    await writeCheckpoint(this.#checkpointFile, {
      ...this.#identity,
      inputOffset,
      outputBytes: this.#outputBytes,
      failuresBytes: this.#failuresBytes,
      counts,
    })
  }

  /** The job is done: the checkpoint goes. */
  async finish(): Promise<void> {
    await Promise.all([this.#output.sync(), this.#failures?.sync()])
    await rm(this.#checkpointFile)
    await syncDirectory(dirname(resolve(this.#checkpointFile)))
  }

  async close(): Promise<void> {
    await this.#output.close()
    await this.#failures?.close()
    this.#lock.close()
  }

  async #openFailures(): Promise<FileHandle> {
    this.#failures = await openAt(this.#failuresFile, this.#failuresBytes)
    return this.#failures
  }
}

export interface JobPaths {
  readonly input: string
  readonly output: string
  readonly failures: string
  readonly checkpoint: string
}

const NOTHING_DONE = {
  inputOffset: 0,
  outputBytes: 0,
  failuresBytes: 0,
  counts: { moved: 0, current: 0, detached: 0, failed: 0 },
} as const

async function identify(path: string): Promise<InputIdentity> {
  const file = await open(path)
  try {
    const { size, mtimeMs } = await file.stat()
    const beginning = Buffer.alloc(Math.min(size, BEGINNING_BYTES))
    await file.read(beginning, 0, beginning.length, 0)
    const hash = createHash('sha256').update(beginning).digest('hex')
    return { bytes: size, modifiedAtMs: mtimeMs, beginning: hash }
  } finally {
    await file.close()
  }
}

async function readCheckpoint(path: string): Promise<Checkpoint | undefined> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
  try {
    const parsed = JSON.parse(text) as Checkpoint
    if (parsed.version !== 1 || !Number.isSafeInteger(parsed.inputOffset + parsed.outputBytes)) {
      throw new TypeError('not a checkpoint')
    }
    return parsed
  } catch (cause) {
    throw new KeyfoldError('CONFIG_INVALID', `${path} is no checkpoint of keyfold rewrap`, cause)
  }
}

const INPUT_WORDS: Readonly<Record<keyof InputIdentity, string>> = {
  bytes: 'size',
  modifiedAtMs: 'time of modification',
  beginning: 'beginning',
}
const JOB_WORDS: Readonly<Record<keyof JobIdentity, string>> = {
  to: '--to',
  mode: '--mode',
  format: '--format',
  context: 'encryption context',
}

function assertSameJob(
  { checkpoint, input }: JobPaths,
  known: Checkpoint,
  now: Pick<Checkpoint, 'input' | 'job'>,
): void {
  const refuse = (what: string, of: string): never => {
    throw new KeyfoldError(
      'CONFIG_INVALID',
      `${checkpoint} is of another ${of}: its ${what} is not the same; remove it together with the output to begin anew`,
    )
  }
  for (const name of Object.keys(INPUT_WORDS) as (keyof InputIdentity)[]) {
    if (known.input[name] !== now.input[name]) refuse(INPUT_WORDS[name], `input than ${input}`)
  }
  for (const name of Object.keys(JOB_WORDS) as (keyof JobIdentity)[]) {
    if (known.job[name] !== now.job[name]) refuse(JOB_WORDS[name], 'job')
  }
}

async function writeCheckpoint(path: string, checkpoint: Checkpoint): Promise<void> {
  const next = `${path}.next`
  const file = await open(next, 'w', 0o600)
  try {
    await file.writeFile(`${JSON.stringify(checkpoint)}\n`)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(next, path)
  await syncDirectory(dirname(resolve(path)))
}

/** What lies behind `bytes` was written after the checkpoint, and is written again. */
async function openAt(path: string, bytes: number): Promise<FileHandle> {
  // Not 'w', which empties it, and not 'a', which writes behind whatever is there.
  const file = await open(path, existsSync(path) ? 'r+' : 'wx+', 0o600)
  const { size } = await file.stat()
  if (size >= bytes) {
    await file.truncate(bytes)
    return file
  }
  await file.close()
  throw new KeyfoldError(
    'CONFIG_INVALID',
    `${path} has ${size} bytes and its checkpoint knows of ${bytes}: it is not the output of that job any more`,
  )
}

async function writeAll(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    // A disk that is about to be full takes a part.
    at += (await file.write(bytes, at, bytes.length - at, position + at)).bytesWritten
  }
}

function isSameFile(input: string, output: string): boolean {
  return existsSync(output) && realpathSync(input) === realpathSync(output)
}

/**
 * Two jobs on one output would each cut back what the other wrote. A socket's name in Linux's abstract namespace goes
 * with its process, however that ends: no stale lock outlives a kill -9.
 */
async function lockName(path: string): Promise<Server> {
  const place = join(realpathSync(dirname(resolve(path))), basename(path))
  const name = createHash('sha256').update(place).digest('hex')
  const server = createServer()
  await new Promise<void>((taken, failed) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      failed(
        error.code === 'EADDRINUSE'
          ? new KeyfoldError('CONFIG_INVALID', `another process works with ${path}`)
          : error,
      )
    })
    server.listen(`\0keyfold-rewrap-${name}`, taken)
  })
  server.unref()
  return server
}

export function contextIdentity(
  ...contexts: readonly (Readonly<Record<string, string>> | undefined)[]
): string {
  const sorted = contexts.map((context) =>
    Object.entries(context ?? {}).sort(([a], [b]) => (a < b ? -1 : 1)),
  )
  return createHash('sha256').update(JSON.stringify(sorted)).digest('hex')
}
