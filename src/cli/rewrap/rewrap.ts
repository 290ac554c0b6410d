/**
 * `keyfold rewrap`: moves millions of ciphertexts under another KMS key or to its current material. From file to file
 * it can be killed and run again; in a pipe it goes through once.
 */
import { createReadStream, createWriteStream, openSync, writeSync } from 'node:fs'
import type { Writable } from 'node:stream'
import { finished } from 'node:stream/promises'
import { Option, type Command } from 'commander'

import type { Keyfold } from '../../client/keyfold.ts'
import { isServerNamed } from '../../config.ts'
import { KeyfoldError } from '../../errors.ts'
import { addConnectFlags, withServer, type ConnectFlags } from '../connect.ts'
import { addPair, whole, type Pairs } from '../flags.ts'
import { printJson, printRows, readSettings, say } from '../output.ts'
import { Progress } from '../progress.ts'
import { createSplitter, RECORD_FORMATS, type RecordFormat } from '../records.ts'
import { countCiphertexts, describe, describeNamed, type CensusRow } from './census.ts'
import { contextIdentity, JobFiles, type Counts, type JobPaths } from './files.ts'
import { runJob, totalOf, type JobOptions, type Sink } from './job.ts'
import { Refresher, Rewrapper, type Mover } from './movers.ts'
import { Rate } from './rate.ts'

interface RewrapFlags extends ConnectFlags {
  readonly to?: string
  readonly mode?: 'rewrap' | 'fresh'
  readonly format: RecordFormat
  readonly context?: Pairs
  readonly newContext?: Pairs
  readonly rate?: number
  readonly batch: number
  readonly checkpoint?: string
  readonly failures?: string
  readonly failFast?: boolean
  readonly count?: boolean
  readonly json?: boolean
}

const BATCH_DEFAULT = 4_096
/** Some ciphertexts failed, everything else is done. */
const EXIT_SOME_FAILED = 3

export function addRewrap(program: Command): void {
  addConnectFlags(program.command('rewrap [input] [output]'))
    .summary('move ciphertexts under another KMS key, or to its current material')
    .description(
      'Moves every ciphertext of INPUT under a KMS key and writes all of them to OUTPUT, in their order; - or nothing is ' +
        'stdin and stdout. Inline and packed messages, key entries and ciphertexts of the AWS protocol may be mixed. In ' +
        'mode rewrap the messages do not leave this machine: their key entries are wrapped anew, detached messages and ' +
        'what is under the current material of the key already stay as they are. That is no revocation: whoever kept an ' +
        'old key entry and rights on the old KMS key can still open them. Mode fresh opens and seals everything anew, at ' +
        'the server; key entries and detached messages cannot be done so.',
    )
    .option('--to <key>', 'key id, ARN or alias')
    .addOption(new Option('--mode <mode>', 'must be chosen').choices(['rewrap', 'fresh']))
    .addOption(
      new Option('--format <format>', 'lines of base64, or MessagePack byte strings')
        .choices(RECORD_FORMATS)
        .default('lines'),
    )
    .option('-c, --context <key=value>', 'encryption context, may be given several times', addPair)
    .option('--new-context <key=value>', 'the one to seal under; fresh only', addPair)
    .option('--rate <n>', 'ciphertexts a second at most', perSecond)
    .option('--batch <n>', 'ciphertexts that are done together', whole, BATCH_DEFAULT)
    .option('--checkpoint <file>', 'OUTPUT.checkpoint where not given; gone when all is done')
    .option('--failures <file>', 'a line of JSON for each that failed; OUTPUT.failures, or stderr')
    .option('--fail-fast', 'ends at the first that fails; otherwise it is passed through as it is')
    .option('--count', 'only counts what hangs on which KMS key and version; needs no server')
    .option('--json', 'print the summary as JSON')
    .addHelpText('after', HELP)
    .action((input = '-', output = '-', flags: RewrapFlags) =>
      flags.count === true ? count(input, flags) : rewrap(input, output, flags),
    )
}

const HELP = `
From file to file the job can be killed at any moment: run the same command again and it goes on at its checkpoint.
It needs kms:DescribeKey and kms:ReEncryptTo on the new KMS key, kms:ReEncryptFrom on the old ones.

Examples:
  keyfold rewrap --count rows.enc
  keyfold rewrap --to alias/orders-2027 --mode rewrap -c table=orders rows.enc rows.new
  keyfold rewrap --to alias/orders --mode rewrap --format msgpack --rate 5000/s < rows.mp > rows.new

Exit codes: 0 all done, 1 refused or failed (run it again to go on), 2 the command line or a setting is wrong,
${EXIT_SOME_FAILED} done but for the ciphertexts that --failures names.`

function perSecond(text: string): number {
  return whole(text.replace(/\/s$/, ''))
}

// The job.

function rewrap(input: string, output: string, flags: RewrapFlags): Promise<void> {
  const { to, mode } = readSettings(() => checked(flags))
  return withServer(flags, async (keyfold) => {
    const target = await describe(keyfold, to)
    const { context, newContext, format } = flags
    const options = { keyfold, target, context, newContext }
    const mover = mode === 'fresh' ? new Refresher(options) : new Rewrapper(options)
    if (input === '-' || output === '-') {
      await runStream(input, output, { flags, mover })
      return
    }
    const paths = {
      input,
      output,
      failures: flags.failures ?? `${output}.failures`,
      checkpoint: flags.checkpoint ?? `${output}.checkpoint`,
    }
    const job = { to: target.arn, mode, format, context: contextIdentity(context, newContext) }
    const files = await JobFiles.open(paths, job)
    try {
      await runFiles(files, paths, { flags, mover })
    } finally {
      await files.close()
    }
  })
}

function checked({ to, mode, newContext }: RewrapFlags) {
  if (to === undefined || mode === undefined) {
    throw new KeyfoldError('CONFIG_INVALID', 'give --to and --mode rewrap or fresh, or --count')
  }
  if (newContext !== undefined && mode === 'rewrap') {
    throw new KeyfoldError('CONFIG_INVALID', '--new-context goes with --mode fresh only')
  }
  return { to, mode }
}

interface Running {
  readonly flags: RewrapFlags
  readonly mover: Mover
}

async function runFiles(files: JobFiles, paths: JobPaths, { flags, mover }: Running) {
  const { inputOffset } = files.start
  if (files.resumed) say(`going on at byte ${inputOffset} of ${paths.input}`)
  let offset = inputOffset
  const progress = new Progress('ciphertexts', process.stderr.isTTY, {
    plain: !process.stderr.isTTY,
    fraction: () => (files.inputBytes === 0 ? 1 : offset / files.inputBytes),
  })
  const counts = await run(flags, {
    source: createReadStream(paths.input, { start: inputOffset, highWaterMark: 2 ** 20 }),
    mover,
    sink: files,
    start: files.start,
    progress,
    onOffset: (written) => {
      offset = written
    },
  })
  await files.finish()
  summarise(counts, flags, process.stdout)
}

async function runStream(input: string, output: string, { flags, mover }: Running) {
  const source = input === '-' ? process.stdin : createReadStream(input)
  // One that is there is not overwritten: it may be all that there is of another job.
  const stream = output === '-' ? process.stdout : createWriteStream(output, { flags: 'wx' })
  const watched = process.stderr.isTTY && !(output === '-' && process.stdout.isTTY)
  const counts = await run(flags, {
    source,
    mover,
    sink: new StreamSink(stream, flags.failures),
    start: { inputOffset: 0, counts: { moved: 0, current: 0, detached: 0, failed: 0 } },
    progress: new Progress('ciphertexts', watched),
  })
  if (stream !== process.stdout) {
    stream.end()
    await finished(stream)
  }
  summarise(counts, flags, output === '-' ? process.stderr : process.stdout)
}

async function run(
  flags: RewrapFlags,
  job: Pick<JobOptions, 'source' | 'mover' | 'sink' | 'start'> & {
    readonly progress: Progress
    readonly onOffset?: (inputOffset: number) => void
  },
): Promise<Readonly<Counts>> {
  const { format, rate: perSecond } = flags
  const rate = perSecond === undefined ? undefined : new Rate(perSecond, CLOCK)
  try {
    return await runJob({
      ...job,
      format,
      splitter: createSplitter(format, job.start.inputOffset),
      // What a second may take at most leaves together, so that a slow job makes steps as well.
      batchMax: Math.min(flags.batch, perSecond ?? flags.batch),
      failFast: flags.failFast === true,
      allow: async (count) => rate?.take(count),
      onWritten: (count, inputOffset) => {
        job.progress.add(count)
        job.onOffset?.(inputOffset)
      },
    })
  } finally {
    job.progress.end()
  }
}

const CLOCK = {
  nowMs: () => performance.now(),
  wait: (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms)),
}

/** Goes through once: there is nothing to go on from. */
class StreamSink implements Sink {
  readonly #stream: Writable
  readonly #failures: number

  constructor(stream: Writable, failuresFile: string | undefined) {
    this.#stream = stream
    this.#failures = failuresFile === undefined ? STDERR : openSync(failuresFile, 'w', 0o600)
    // Told by the write that failed; without a listener it would end the process.
    stream.on('error', () => undefined)
  }

  async write(bytes: Uint8Array, failures: string): Promise<void> {
    if (failures !== '') writeSync(this.#failures, failures)
    await new Promise<void>((resolve, reject) => {
      this.#stream.write(bytes, (error) => (error ? reject(error) : resolve()))
    })
  }

  async checkpoint(): Promise<void> {
    // A stream remembers nothing.
  }
}

const STDERR = 2

function summarise(counts: Readonly<Counts>, { json }: RewrapFlags, to: Writable): void {
  if (counts.failed > 0) process.exitCode = EXIT_SOME_FAILED
  const words = [
    `${totalOf(counts).toLocaleString('en')} ciphertexts: ${counts.moved.toLocaleString('en')} moved`,
    `${counts.current.toLocaleString('en')} were current`,
    `${counts.detached.toLocaleString('en')} detached`,
    `${counts.failed.toLocaleString('en')} failed`,
  ]
  const summary = { ciphertexts: totalOf(counts), ...counts }
  to.write(`${json === true ? JSON.stringify(summary) : words.join(', ')}\n`)
}

// Counting.

async function count(input: string, flags: RewrapFlags): Promise<void> {
  const source = input === '-' ? process.stdin : createReadStream(input)
  const rows = await countCiphertexts(source, createSplitter(flags.format), flags.format)
  // A count needs no server; who names one is told more.
  if (!isServerNamed(flags)) show(rows.map(plainRow), flags)
  else await withServer(flags, async (keyfold) => show(await described(keyfold, rows), flags))
}

async function described(keyfold: Keyfold, rows: readonly CensusRow[]) {
  const known = new Map<string, Awaited<ReturnType<typeof describeNamed>>>()
  for (const { kmsKeyId } of rows) {
    if (kmsKeyId === '' || known.has(kmsKeyId)) continue
    known.set(kmsKeyId, await describeNamed(keyfold, kmsKeyId))
  }
  return rows.map((row) => {
    const kmsKey = known.get(row.kmsKeyId)
    if (kmsKey === undefined) return plainRow(row)
    const { arn, state, currentVersion } = kmsKey
    return { ...plainRow(row), arn, state, current: row.materialVersion === currentVersion }
  })
}

function plainRow({ kmsKeyId, materialVersion, ciphertexts, messages, forms }: CensusRow) {
  return {
    ...(kmsKeyId === '' ? {} : { kmsKeyId }),
    ...(materialVersion === undefined ? {} : { version: materialVersion }),
    ciphertexts,
    messages,
    forms,
  }
}

type ShownRow = ReturnType<typeof plainRow> & {
  readonly arn?: string
  readonly state?: string
  readonly current?: boolean
}

function show(rows: readonly ShownRow[], { json }: RewrapFlags): void {
  if (json === true) {
    printJson(rows)
    return
  }
  const columns = ['key', 'version', 'current', 'state', 'ciphertexts', 'messages', 'forms']
  printRows(
    rows.map(({ kmsKeyId, arn, current, forms, ...row }) => ({
      ...row,
      key: arn ?? kmsKeyId ?? '',
      current: current === undefined ? '' : current ? 'yes' : 'no',
      forms: Object.entries(forms).map(([form, number]) => `${form}: ${number}`),
    })),
    columns,
  )
}
