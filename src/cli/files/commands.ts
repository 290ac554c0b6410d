/**
 * `keyfold encrypt` and `keyfold decrypt`: messages a line each (../lines.ts), one file or pipe, or many files and trees, in
 * the AWS Encryption SDK's format.
 */
import { mkdir, stat } from 'node:fs/promises'
import type { Command } from 'commander'

import { KeyfoldError } from '../../errors.ts'
import { FRAME_BYTES_DEFAULT, FRAME_BYTES_MAX, FRAME_BYTES_MIN } from '../../limits.ts'
import { decryptFileTo, encryptFileTo } from '../../streams/file-to-file.ts'
import type { Keyring } from '../../streams/keyring.ts'
import {
  checkEncryptOptions,
  type DecryptFileOptions,
  type EncryptFileOptions,
} from '../../streams/options.ts'
import { decryptStream, encryptStream } from '../../streams/streams.ts'
import { addConnectFlags } from '../connect.ts'
import { addPair, whole, type Pairs } from '../flags.ts'
import { decryptLines, encryptLines } from '../lines.ts'
import { readSettings } from '../output.ts'
import type { Change, Existing } from './convert.ts'
import { assertApart, FileWork } from './file-work.ts'
import { addKeyFlags, checkKeys, commitmentPolicyOf, withKeyrings, type KeyFlags } from './keys.ts'
import { directoryOf, joinPath, nameOf, pathOf, withoutSuffix, withSuffix } from './paths.ts'
import { convertPipe } from './pipe.ts'
import { DECRYPT_HELP, ENCRYPT_HELP } from './help.ts'
import { FileProgress, summarise } from './file-progress.ts'

interface FilesFlags extends KeyFlags {
  readonly lines?: boolean
  readonly context?: Pairs
  readonly in?: string
  readonly out?: string
  readonly recursive?: boolean
  readonly outDir?: string
  readonly force?: boolean
  readonly skipExisting?: boolean
  readonly resume?: boolean
  readonly quiet?: boolean
  readonly frameBytes?: number
  readonly allowUncommitted?: boolean
}

/** What encrypting and decrypting do differently. */
interface Direction {
  readonly lines: () => Promise<void>
  readonly change: (keyring: Keyring) => Change
  readonly pipe: (keyring: Keyring) => ReturnType<typeof encryptStream>
  readonly encrypts: boolean
}

export function addFiles(program: Command): void {
  addFilesFlags(program.command('encrypt [files...]'), 'of several, the first makes the data key')
    .summary('encrypt files and trees, a pipe, or messages a line each')
    .option('--frame-bytes <n>', frameBytesHelp(), whole)
    .addHelpText('after', ENCRYPT_HELP)
    .action((files: readonly string[], flags: FilesFlags) => run(files, flags, encryption(flags)))
  addFilesFlags(program.command('decrypt [files...]'), 'of which any that fits opens')
    .summary('decrypt files and trees, a pipe, or messages a line each')
    .option('--allow-uncommitted', 'opens files of suites that do not commit to their key, too')
    .addHelpText('after', DECRYPT_HELP)
    .action((files: readonly string[], flags: FilesFlags) => run(files, flags, decryption(flags)))
}

function addFilesFlags(command: Command, keys: string): Command {
  return addConnectFlags(
    addKeyFlags(command, `key ARN, id or alias; may be given several times, ${keys}`),
  )
    .option('-c, --context <key=value>', 'encryption context, may be given several times', addPair)
    .option('--lines', 'a message a line, stdin to stdout')
    .option('-i, --in <file>', 'one file, or - for stdin')
    .option('-o, --out <file>', 'where it goes; stdout where not given, or -')
    .option('-r, --recursive', 'directories as well, with --out-dir')
    .option(
      '--out-dir <directory>',
      'where files and trees go; otherwise a file goes beside itself',
    )
    .option('--force', 'replaces what is there')
    .option('--skip-existing', 'leaves what is there, whatever it is')
    .option('--resume', 'goes on with a run that was interrupted: what is finished is left')
    .option('-q, --quiet', 'tells nothing but errors')
}

function frameBytesHelp(): string {
  return `plaintext bytes of a frame, ${FRAME_BYTES_MIN} to ${FRAME_BYTES_MAX} (${FRAME_BYTES_DEFAULT})`
}

function encryption(flags: FilesFlags): Direction {
  const { context, frameBytes } = flags
  const options: EncryptFileOptions = { context, frameBytes }
  readSettings(() => checkEncryptOptions(options))
  return {
    encrypts: true,
    lines: () =>
      encryptLines(
        readSettings(() => onlyKey(flags)),
        flags,
      ),
    change: (keyring) => ({
      done: 'encrypted',
      targetName: withSuffix,
      convert: (source, target) => encryptFileTo(source, target, keyring, options),
    }),
    pipe: (keyring) => encryptStream(keyring, options),
  }
}

function decryption(flags: FilesFlags): Direction {
  const options: DecryptFileOptions = {
    context: flags.context,
    commitmentPolicy: commitmentPolicyOf(flags),
  }
  return {
    encrypts: false,
    lines: () => decryptLines(flags),
    change: (keyring) => ({
      done: 'decrypted',
      targetName: withoutSuffix,
      convert: (source, target) => decryptFileTo(source, target, keyring, options),
    }),
    pipe: (keyring) => decryptStream(keyring, options),
  }
}

async function run(
  files: readonly string[],
  flags: FilesFlags,
  direction: Direction,
): Promise<void> {
  readSettings(() => check(files, flags))
  if (flags.lines === true) {
    await direction.lines()
    return
  }
  readSettings(() => checkKeys(flags))
  await withKeyrings(flags, [], async (keyring) => {
    const { in: from, out = '-', quiet = false } = flags
    if (from !== undefined) {
      const { pipe, encrypts } = direction
      const change = direction.change(keyring)
      await convertPipe(
        { from, to: out, change, stream: () => pipe(keyring), encrypts },
        {
          quiet,
          replace: flags.force === true,
        },
      )
      return
    }
    await convertFiles(files, flags, direction.change(keyring))
  })
}

async function convertFiles(
  files: readonly string[],
  flags: FilesFlags,
  change: Change,
): Promise<void> {
  const places = await Promise.all(files.map((file) => placeOf(file, flags, change)))
  for (const { source, target, kind } of places) {
    if (kind !== 'file') await readSettingsOf(assertApart(source, target))
  }
  if (flags.outDir !== undefined) await mkdir(flags.outDir, { recursive: true })
  const progress = new FileProgress(
    places.map(({ source }) => source),
    flags.quiet === true,
  )
  const work = new FileWork({
    change,
    existing: existingOf(flags),
    onBytes: (bytes) => progress.add(bytes),
  })
  try {
    for (const { source, target, kind } of places) {
      if (kind === 'file') await work.file(source, target)
      else await work.tree(source, target, kind)
    }
  } finally {
    progress.end()
  }
  summarise(work.tally, change.done, flags.quiet === true)
}

interface Place {
  readonly source: Buffer
  readonly target: Buffer
  /** Of a tree, what is kept of its topmost directory. */
  readonly kind: 'file' | 'attributes' | 'contents'
}

/** Errors: CONFIG_INVALID. What is not there is told in its turn. */
async function placeOf(file: string, flags: FilesFlags, change: Change): Promise<Place> {
  const { outDir, recursive } = flags
  const source = pathOf(file)
  const name = nameOf(source)
  const into = outDir === undefined ? directoryOf(source) : pathOf(outDir)
  const isDirectory = await stat(source).then(
    (found) => found.isDirectory(),
    () => false,
  )
  return readSettings((): Place => {
    if (!isDirectory) {
      const targetName = change.targetName(name)
      if (targetName === undefined) throw invalid(`${file}: does not end in .kfe; use -i and -o`)
      return { source, target: joinPath(into, targetName), kind: 'file' }
    }
    if (recursive !== true) throw invalid(`${file} is a directory; -r takes trees`)
    if (outDir === undefined) throw invalid(`${file} is a directory and needs --out-dir`)
    // As cp -r has it: of `.` and `directory/.` what is in it.
    if (['.', '..', ''].includes(name.toString('latin1'))) {
      return { source, target: into, kind: 'contents' }
    }
    return { source, target: joinPath(into, name), kind: 'attributes' }
  })
}

async function readSettingsOf(work: Promise<void>): Promise<void> {
  const failure = await work.then(
    () => undefined,
    (error: unknown) => ({ error }),
  )
  if (failure === undefined) return
  readSettings(() => {
    throw failure.error
  })
}

function existingOf({ force, skipExisting, resume }: FilesFlags): Existing {
  if (force === true) return 'force'
  if (skipExisting === true) return 'skip'
  return resume === true ? 'resume' : 'refuse'
}

function onlyKey({ key = [] }: FilesFlags): string {
  const [only, ...more] = key
  if (only === undefined || more.length > 0) throw invalid('--lines takes one KMS key (-k)')
  return only
}

/** Flags that do not go together. */
function check(files: readonly string[], flags: FilesFlags): void {
  const { lines, in: from, out, recursive, outDir, skipExisting, resume, force } = flags
  const ways = [lines === true, from !== undefined, files.length > 0].filter(Boolean).length
  if (ways !== 1) throw invalid('give files, or -i, or --lines: one of them')
  if (from === undefined && out !== undefined) throw invalid('-o goes with -i')
  const choices = [skipExisting, resume, force].filter((choice) => choice === true).length
  if (choices > 1) throw invalid('one of --force, --skip-existing and --resume')
  if (files.length > 0) return
  if ([recursive, outDir, skipExisting, resume].some((flag) => flag !== undefined)) {
    throw invalid('-r, --out-dir, --skip-existing and --resume go with files')
  }
}

function invalid(detail: string): KeyfoldError {
  return new KeyfoldError('CONFIG_INVALID', detail)
}
