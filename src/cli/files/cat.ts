/** `keyfold cat`: a file's plaintext, or a range of it of which only the frames are read that it lies in. */
import { once } from 'node:events'
import { open } from 'node:fs/promises'
import type { Command } from 'commander'

import { KeyfoldError } from '../../errors.ts'
import { decryptFileTo } from '../../streams/file-to-file.ts'
import { openSealedFile, type SealedFile } from '../../streams/sealed-file.ts'
import { addConnectFlags } from '../connect.ts'
import { addPair, type Pairs } from '../flags.ts'
import { PlainError, readSettings } from '../output.ts'
import { standardOutput } from './convert.ts'
import { addKeyFlags, checkKeys, commitmentPolicyOf, withKeyrings, type KeyFlags } from './keys.ts'

interface CatFlags extends KeyFlags {
  readonly context?: Pairs
  readonly range?: string
  readonly allowUncommitted?: boolean
}

/** Read, decrypted and written at a time. */
const STEP_BYTES = 4 * 2 ** 20

export function addCat(program: Command): void {
  addConnectFlags(
    addKeyFlags(
      program
        .command('cat <file>')
        .summary("a file's plaintext, or a range of it")
        .description(
          'Writes the plaintext of FILE to stdout, as it verifies. Of a range only the frames are read that it lies in, ' +
            'and the last one, which tells whether the file is whole.',
        ),
      'key ARN, id or alias of which any that fits opens',
    ),
  )
    .option('-c, --context <key=value>', 'encryption context, may be given several times', addPair)
    .option('--range <a-b>', 'bytes a to b, both included; a- from a on, -n the last n')
    .option('--allow-uncommitted', 'opens files of suites that do not commit to their key, too')
    .addHelpText('after', HELP)
    .action(run)
}

const HELP = `
Examples:
  keyfold cat -k alias/backup report.pdf.kfe > report.pdf
  keyfold cat -k alias/backup --range 0-1023 video.kfe

Exit codes: 0 all of it was written, 1 refused or failed, or the range begins behind the end, 2 the command line is wrong.`

async function run(path: string, flags: CatFlags): Promise<void> {
  const range = readSettings(() => {
    checkKeys(flags)
    return flags.range === undefined ? undefined : parseRange(flags.range)
  })
  const options = { context: flags.context, commitmentPolicy: commitmentPolicyOf(flags) }
  await withKeyrings(flags, [], async (keyring) => {
    const file = await open(path)
    try {
      if (range === undefined) {
        await decryptFileTo(file, standardOutput(), keyring, options)
        return
      }
      const sealed = await openSealedFile(file, keyring, options)
      try {
        await writeRange(sealed, range)
      } finally {
        sealed.close()
      }
    } finally {
      await file.close()
    }
  })
}

/** As RFC 9110 §14.1.2 has it: the end may lie behind the end of the file. */
type Range = { readonly first: number; readonly last: number } | { readonly suffixBytes: number }

/** Errors: CONFIG_INVALID. */
function parseRange(text: string): Range {
  const [, a = '', b = ''] = /^(\d*)-(\d*)$/.exec(text) ?? []
  const first = Number(a)
  const last = b === '' ? Number.MAX_SAFE_INTEGER : Number(b)
  if (a + b === '' || !Number.isSafeInteger(first) || !Number.isSafeInteger(last) || first > last) {
    throw new KeyfoldError('CONFIG_INVALID', '--range: A-B, A- or -N, in bytes from 0 on')
  }
  return a === '' ? { suffixBytes: last } : { first, last }
}

async function writeRange(sealed: SealedFile, range: Range): Promise<void> {
  const { length } = sealed
  const suffix = 'suffixBytes' in range
  let at = suffix ? Math.max(0, length - range.suffixBytes) : range.first
  const end = suffix ? length : Math.min(range.last + 1, length)
  if (at >= length) throw new PlainError(`--range: the plaintext has ${length} bytes`)
  while (at < end) {
    const bytes = await sealed.read(at, Math.min(STEP_BYTES, end - at))
    at += bytes.length
    if (!process.stdout.write(bytes)) await once(process.stdout, 'drain')
  }
}
