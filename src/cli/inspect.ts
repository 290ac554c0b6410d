/**
 * `keyfold inspect`: what ciphertexts say of themselves, without a key and without a server. An argument is a file that
 * is there, or a ciphertext in base64; without any, stdin or --file is read. A file in the AWS Encryption SDK's format is
 * told by its first bytes, whatever --format says of the others.
 */
import { once } from 'node:events'
import { createReadStream, existsSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { Option, type Command } from 'commander'

import { KeyfoldError } from '../errors.ts'
import { inspectCiphertext, type Inspection } from '../format/inspect.ts'
import type { PlainValue } from '../format/msgpack.ts'
import { HEADER_BYTES_MAX } from '../limits.ts'
import {
  inspectBeginning,
  inspectFile,
  isEncryptionSdkFile,
  type FileInspection,
} from './files/inspection.ts'
import { print, printFields, printJson } from './output.ts'
import { createSplitter, fromBase64, RECORD_FORMATS, type RecordFormat } from './records.ts'

type Fields = Readonly<Record<string, PlainValue | undefined>>

interface InspectFlags {
  readonly file?: string
  readonly format: RecordFormat | 'raw'
  readonly json?: boolean
}

export function addInspect(program: Command): void {
  program
    .command('inspect [ciphertext...]')
    .summary('what a ciphertext says of itself, without any key')
    .description(
      'Shows form, KMS key, version of its key material, suite and lengths of each ciphertext, which is a file or base64; ' +
        'of a file of keyfold encrypt also its encryption context. Nothing is decrypted and ' +
        'no server is asked, so none of it is proven: whoever wrote the bytes may have lied.',
    )
    .option('--file <file>', 'reads this file in place of stdin')
    .addOption(
      new Option(
        '--format <format>',
        'of stdin or the file: lines of base64, MessagePack byte strings, or one raw ciphertext',
      )
        .choices([...RECORD_FORMATS, 'raw'])
        .default('lines'),
    )
    .option('--json', 'a line of JSON for each ciphertext')
    .addHelpText(
      'after',
      `
Examples:
  keyfold inspect 4QH…
  keyfold inspect --json < rows.enc
  keyfold inspect report.pdf.kfe

Exit codes: 0 all were recognised, 1 one was not, 2 the command line is wrong.`,
    )
    .action(run)
}

async function run(texts: readonly string[], flags: InspectFlags): Promise<void> {
  for (const [index, text] of texts.entries()) {
    // No base64 is the name of a file by accident.
    if (existsSync(text)) await inspectPath(text, flags, index)
    else showOne(index, () => fieldsOf(inspectCiphertext(fromBase64(Buffer.from(text)))), flags)
  }
  if (texts.length > 0) return
  if (flags.file === undefined) await inspectStream(process.stdin, flags, 0)
  else await inspectPath(flags.file, flags, 0)
}

async function inspectPath(path: string, flags: InspectFlags, index: number): Promise<void> {
  const file = await open(path)
  try {
    const beginning = Buffer.alloc(BEGINNING_BYTES)
    // A pipe has no positions; inspectStream asks the same of it.
    if ((await file.stat()).isFile()) await file.read(beginning, 0, BEGINNING_BYTES, 0)
    if (isEncryptionSdkFile(beginning)) {
      await showFile(index, inspectFile(file), flags)
      return
    }
  } finally {
    await file.close()
  }
  await inspectStream(createReadStream(path), flags, index)
}

/** What tells a file in the Encryption SDK's format. */
const BEGINNING_BYTES = 3

async function inspectStream(
  source: AsyncIterable<unknown>,
  flags: InspectFlags,
  firstIndex: number,
): Promise<void> {
  const chunks = (source as AsyncIterable<Buffer>)[Symbol.asyncIterator]()
  const beginning = await gather(chunks, BEGINNING_BYTES)
  if (isEncryptionSdkFile(beginning)) {
    const more = await gather(chunks, HEADER_BYTES_MAX)
    await chunks.return?.()
    await showFile(firstIndex, inspectBeginning(Buffer.concat([beginning, more])), flags)
    return
  }
  const { format } = flags
  let index = firstIndex
  const show = (bytes: () => Uint8Array): void => {
    showOne(index++, () => fieldsOf(inspectCiphertext(bytes())), flags)
  }
  if (format === 'raw') {
    const rest = await gather(chunks, Infinity)
    show(() => Buffer.concat([beginning, rest]))
    return
  }
  const splitter = createSplitter(format)
  const take = (record: Buffer): void =>
    show(() => (format === 'lines' ? fromBase64(record) : record))
  splitter.push(beginning, take)
  for await (const chunk of { [Symbol.asyncIterator]: () => chunks }) {
    splitter.push(chunk, take)
    if (process.stdout.writableNeedDrain) await once(process.stdout, 'drain')
  }
  splitter.end(take)
}

/** So many bytes or some more, or all that there are. */
async function gather(chunks: AsyncIterator<Buffer>, bytes: number): Promise<Buffer> {
  const gathered: Buffer[] = []
  for (let found = 0; found < bytes; found += gathered.at(-1)?.length ?? 0) {
    const next = await chunks.next()
    if (next.done === true) break
    gathered.push(next.value)
  }
  return Buffer.concat(gathered)
}

async function showFile(
  index: number,
  inspecting: Promise<FileInspection>,
  flags: InspectFlags,
): Promise<void> {
  const settled = await inspecting.then(
    (found) => () => ({ ...found }),
    (error: unknown) => () => {
      throw error
    },
  )
  showOne(index, settled, flags)
}

function showOne(index: number, read: () => Fields, { json }: InspectFlags): void {
  let shown: Fields
  try {
    shown = read()
  } catch (error) {
    if (!(error instanceof KeyfoldError)) throw error
    process.exitCode = 1
    shown = { code: error.code, message: error.message }
  }
  if (json === true) printJson({ index, ...shown })
  else {
    if (index > 0) print('')
    printFields(shown)
  }
}

/** As JSON and tables have them; what a form does not have is left out. */
function fieldsOf({ form, bytes, wrapping, dataKeyId, cipher, ...rest }: Inspection) {
  const fields = {
    form,
    bytes,
    kmsKeyId: wrapping?.kmsKeyId,
    materialVersion: wrapping?.materialVersion,
    wrapping: wrapping?.suite,
    usage: wrapping?.usage,
    dataKeyId,
    cipher,
    messages: rest.messages,
    plaintextBytes: rest.plaintextBytes,
  }
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined))
}
