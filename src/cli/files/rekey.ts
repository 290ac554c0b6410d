/**
 * `keyfold rekey`: files under other KMS keys. A header is sealed once (its tag has a nonce that must not repeat), so each
 * file is decrypted and encrypted anew in one pass, with a new data key and message id, and takes the old one's place
 * when it is whole.
 */
import { once } from 'node:events'
import { realpath } from 'node:fs/promises'
import { pipeline } from 'node:stream/promises'
import { Option, type Command } from 'commander'

import { ENCRYPTED_DATA_KEYS_DEFAULT, FRAME_BYTES_MAX, FRAME_BYTES_MIN } from '../../limits.ts'
import { decodeUnsortedContext } from '../../format/encryption-context.ts'
import { decryptFile } from '../../streams/decrypt-file.ts'
import { encryptFileTo } from '../../streams/file-to-file.ts'
import type { Keyring } from '../../streams/keyring.ts'
import type { EncryptFileOptions, FileHeader } from '../../streams/options.ts'
import { readFileHeader, type PositionalFile } from '../../streams/positional.ts'
import { openSealedFile, type SealedFile } from '../../streams/sealed-file.ts'
import { encryptStream } from '../../streams/streams.ts'
import type { WritableFile } from '../../streams/write-behind.ts'
import { addConnectFlags } from '../connect.ts'
import { addPair, type Pairs } from '../flags.ts'
import { readSettings } from '../output.ts'
import { sinkInto } from './convert.ts'
import { FileProgress, summarise } from './file-progress.ts'
import { FileWork } from './file-work.ts'
import {
  addKey,
  addKeyFlags,
  checkKeys,
  commitmentPolicyOf,
  withKeyrings,
  type KeyFlags,
} from './keys.ts'
import { pathOf } from './paths.ts'
import { FILES_EXIT_CODES } from './help.ts'

interface RekeyFlags extends KeyFlags {
  readonly to: readonly string[]
  readonly context?: Pairs
  readonly allowUncommitted?: boolean
  readonly quiet?: boolean
}

export function addRekey(program: Command): void {
  addConnectFlags(
    addKeyFlags(
      program
        .command('rekey <file...>')
        .summary('encrypt files anew, under other KMS keys')
        .description(
          'Decrypts each FILE and encrypts it anew under other KMS keys, with a new data key, in one pass; it takes the ' +
            "old one's place when it is whole and on the disk. Encryption context, frame length, mode and time of " +
            'modification stay; a signature does not.',
        ),
      'key ARN, id or alias that may open; may be given several times',
    ),
  )
    .addOption(
      new Option('--to <key>', 'new one; of several, the first makes the data key')
        .argParser(addKey)
        .makeOptionMandatory(),
    )
    .option('-c, --context <key=value>', 'encryption context, may be given several times', addPair)
    .option('--allow-uncommitted', 'opens files of suites that do not commit to their key, too')
    .option('-q, --quiet', 'tells nothing but errors')
    .addHelpText('after', HELP)
    .action(run)
}

const HELP = `
Whoever kept a copy of an old file and may use the old KMS key can still open that. Name the new keys with -k as well to
run it again over files of which some are done. The time of modification is the old one: tools that go by it and the
length alone (rsync without -c) do not see the difference.

Example:
  keyfold rekey -k alias/backup-2026 --to alias/backup-2027 *.kfe
${FILES_EXIT_CODES}`

async function run(files: readonly string[], flags: RekeyFlags): Promise<void> {
  readSettings(() => checkKeys(flags))
  await withKeyrings(flags, flags.to, async (from, to) => {
    const { quiet = false } = flags
    const paths = files.map(pathOf)
    const progress = new FileProgress(paths, quiet)
    const work = new FileWork({
      change: {
        done: 'encrypted anew',
        targetName: (name) => name,
        convert: (source, target) => rekey(source, target, { from, to: to as Keyring }, flags),
      },
      existing: 'force',
      onBytes: (bytes) => progress.add(bytes),
    })
    try {
      for (const path of paths) {
        // The file that a link points to, not the link, is replaced.
        const target = await realpath(path, { encoding: 'buffer' }).catch(() => path)
        await work.file(path, target)
      }
    } finally {
      progress.end()
    }
    summarise(work.tally, 'encrypted anew', quiet)
  })
}

interface Keyrings {
  readonly from: Keyring
  readonly to: Keyring
}

async function rekey(
  source: PositionalFile,
  target: WritableFile,
  { from, to }: Keyrings,
  flags: RekeyFlags,
): Promise<void> {
  const { sealed } = await readFileHeader(source, ENCRYPTED_DATA_KEYS_DEFAULT)
  const { header } = sealed
  const options = { context: flags.context, commitmentPolicy: commitmentPolicyOf(flags) }
  const stored = new Set(decodeUnsortedContext(header.context).map(([key]) => key))
  if (header.suite.signature === undefined && header.frameLength > 0) {
    const old = await openSealedFile(source, from, options)
    try {
      await encryptFileTo(plaintextOf(old), target, to, optionsOf(old.header, stored))
    } finally {
      old.close()
    }
    return
  }
  // What has no random access comes as a stream, whose first bytes tell that the header is true.
  const headers: FileHeader[] = []
  const onHeader = (found: FileHeader): void => void headers.push(found)
  const plaintext = decryptFile(source, from, { ...options, onHeader })
  await once(plaintext, 'readable')
  const anew = encryptStream(to, optionsOf(headers[0] as FileHeader, stored))
  await pipeline(plaintext, anew, sinkInto(target))
}

/** The plaintext as a file to be read by position. */
function plaintextOf(file: SealedFile): PositionalFile {
  return {
    stat: async () => Promise.resolve({ size: file.length }),
    async read(into, offset, length, position) {
      const plaintext = await file.read(position, length)
      into.set(plaintext, offset)
      plaintext.fill(0)
      return { bytesRead: plaintext.length }
    },
  }
}

/** Of the Encryption SDK itself: the key of a signature, which the new file does not have. */
const RESERVED_PREFIX = 'aws-crypto-'

function optionsOf(
  { context, frameBytes }: FileHeader,
  stored: ReadonlySet<string>,
): EncryptFileOptions {
  const kept = Object.entries(context).filter(([key]) => !key.startsWith(RESERVED_PREFIX))
  const usual = frameBytes >= FRAME_BYTES_MIN && frameBytes <= FRAME_BYTES_MAX
  return {
    context: Object.fromEntries(kept),
    // What was not to be read in the old file is not to be read in the new one.
    requiredContextKeys: kept.map(([key]) => key).filter((key) => !stored.has(key)),
    ...(usual ? { frameBytes } : {}),
  }
}
