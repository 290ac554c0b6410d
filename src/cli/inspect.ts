/**
 * `keyfold inspect`: what ciphertexts say of themselves, without a key and without a server. An argument is a
 * ciphertext in base64; without any, stdin or --file is read.
 */
import { once } from 'node:events'
import { createReadStream } from 'node:fs'
import { Option, type Command } from 'commander'

import { KeyfoldError } from '../errors.ts'
import { inspectCiphertext, type Inspection } from '../format/inspect.ts'
import { print, printFields, printJson } from './output.ts'
import { createSplitter, fromBase64, RECORD_FORMATS, type RecordFormat } from './records.ts'

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
      'Shows form, KMS key, version of its key material, suite and lengths of each ciphertext. Nothing is decrypted and ' +
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

Exit codes: 0 all were recognised, 1 one was not, 2 the command line is wrong.`,
    )
    .action(run)
}

async function run(texts: readonly string[], flags: InspectFlags): Promise<void> {
  let index = 0
  const show = (read: () => Uint8Array): void => {
    showOne(index++, read, flags)
  }
  if (texts.length > 0) {
    for (const text of texts) show(() => fromBase64(Buffer.from(text)))
    return
  }
  const source = flags.file === undefined ? process.stdin : createReadStream(flags.file)
  if (flags.format === 'raw') {
    const chunks: Buffer[] = []
    for await (const chunk of source) chunks.push(chunk as Buffer)
    show(() => Buffer.concat(chunks))
    return
  }
  const splitter = createSplitter(flags.format)
  const take = (record: Buffer): void =>
    show(() => (flags.format === 'lines' ? fromBase64(record) : record))
  for await (const chunk of source) {
    splitter.push(chunk as Buffer, take)
    if (process.stdout.writableNeedDrain) await once(process.stdout, 'drain')
  }
  splitter.end(take)
}

function showOne(index: number, read: () => Uint8Array, { json }: InspectFlags): void {
  let shown: ReturnType<typeof fieldsOf> | { readonly code: string; readonly message: string }
  try {
    shown = fieldsOf(inspectCiphertext(read()))
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
