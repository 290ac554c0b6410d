/**
 * `keyfold encrypt|decrypt --lines`: a message a line, from stdin to stdout. Plaintext lines are bytes, whatever their
 * encoding; ciphertext lines are base64. Any number of lines goes through in constant memory.
 */
import { Transform, type TransformCallback } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Command } from 'commander'

import { KeyfoldError } from '../errors.ts'
import { addConnectFlags, withServer, type ConnectFlags } from './connect.ts'
import { collect, splitPair } from './keys.ts'

interface LinesFlags extends ConnectFlags {
  readonly lines?: boolean
  readonly key: string
  readonly context: readonly string[]
}

export function addLines(program: Command): void {
  addLinesFlags(program.command('encrypt').summary('encrypt messages, a line each'))
    .description('Encrypts each line of stdin and writes it to stdout as a line of base64.')
    .requiredOption('-k, --key <key>', 'key id, ARN or alias')
    .action((flags: LinesFlags) => run(flags, 'encrypt'))
  addLinesFlags(program.command('decrypt').summary('decrypt messages, a line each'))
    .description(
      'Decrypts each line of base64 of stdin. A line that does not decrypt ends the command with 1.',
    )
    .action((flags: LinesFlags) => run(flags, 'decrypt'))
}

function addLinesFlags(command: Command): Command {
  return addConnectFlags(command)
    .requiredOption('--lines', 'a message a line, stdin to stdout')
    .option(
      '-c, --context <key=value>',
      'encryption context, may be given several times',
      collect,
      [],
    )
}

async function run(flags: LinesFlags, operation: 'encrypt' | 'decrypt'): Promise<void> {
  const context = Object.fromEntries(flags.context.map(splitPair))
  await withServer(flags, async (keyfold) => {
    const progress = createProgress()
    if (operation === 'encrypt') {
      const sealing = keyfold.encryptMessages(flags.key, { context })
      await pipeline(
        process.stdin,
        splitLines(),
        sealing,
        progress.counted(),
        joinLines(toBase64),
        process.stdout,
      )
    } else {
      const opening = keyfold.decryptMessages({ context })
      const source = splitLines(fromBase64)
      await pipeline(
        process.stdin,
        source,
        opening,
        progress.counted(),
        joinLines(asIs),
        process.stdout,
      )
    }
    progress.end()
  })
}

const NEWLINE = 0x0a
/** A line is a message, and a message has a longest. */
const LINE_BYTES_MAX = 32 * 2 ** 20

/** Bytes to lines without their newline. A last line without one counts as well. */
function splitLines(convert: (line: Buffer) => Uint8Array = asIs): Transform {
  let rest: Buffer[] = []
  let restBytes = 0
  return new Transform({
    readableObjectMode: true,
    transform(chunk: Buffer, _encoding, done: TransformCallback) {
      try {
        let start = 0
        for (let at = chunk.indexOf(NEWLINE); at >= 0; at = chunk.indexOf(NEWLINE, start)) {
          this.push(convert(Buffer.concat([...rest, chunk.subarray(start, at)])))
          rest = []
          restBytes = 0
          start = at + 1
        }
        if (start < chunk.length) rest.push(chunk.subarray(start))
        restBytes += chunk.length - start
        if (restBytes > LINE_BYTES_MAX)
          throw new KeyfoldError('LIMIT_EXCEEDED', 'a line is too long')
        done()
      } catch (error) {
        done(error as Error)
      }
    },
    flush(done: TransformCallback) {
      try {
        if (rest.length > 0) this.push(convert(Buffer.concat(rest)))
        done()
      } catch (error) {
        done(error as Error)
      }
    },
  })
}

function joinLines(convert: (message: Uint8Array) => Uint8Array): Transform {
  return new Transform({
    writableObjectMode: true,
    transform(message: Uint8Array, _encoding, done: TransformCallback) {
      this.push(Buffer.concat([convert(message), Buffer.of(NEWLINE)]))
      done()
    },
  })
}

function asIs(bytes: Uint8Array): Uint8Array {
  return bytes
}

function toBase64(bytes: Uint8Array): Uint8Array {
  return Buffer.from(Buffer.from(bytes).toString('base64'), 'latin1')
}

function fromBase64(line: Buffer): Uint8Array {
  return Buffer.from(line.toString('latin1'), 'base64')
}

const PROGRESS_AFTER_MS = 2_000
const PROGRESS_EVERY_MS = 250

/** A count on stderr once it takes long, and only where a person watches. */
function createProgress(): { counted(): Transform; end(): void } {
  const started = performance.now()
  let messages = 0
  let shown = false
  const show = (): void => {
    shown = true
    const perSecond = Math.round(messages / ((performance.now() - started) / 1000))
    process.stderr.write(
      `\r${messages.toLocaleString('en')} messages, ${perSecond.toLocaleString('en')}/s `,
    )
  }
  let timer: NodeJS.Timeout | undefined
  const starter = setTimeout(() => {
    if (process.stderr.isTTY) timer = setInterval(show, PROGRESS_EVERY_MS)
  }, PROGRESS_AFTER_MS)
  return {
    counted: () =>
      new Transform({
        objectMode: true,
        transform(message: unknown, _encoding, done: TransformCallback) {
          messages++
          done(null, message)
        },
      }),
    end: () => {
      clearTimeout(starter)
      clearInterval(timer)
      if (shown) process.stderr.write('\n')
    },
  }
}
