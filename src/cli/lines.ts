/**
 * `keyfold encrypt|decrypt --lines`: a message a line, from stdin to stdout. Plaintext lines are bytes, whatever their
 * encoding; ciphertext lines are base64. Any number of lines goes through in constant memory.
 *
 *     stdin → lines → messages, in batches → lines → stdout
 *
 * Where a line fails, for whatever reason, exactly the lines before it have been written, and its number is told.
 */
import { Transform, type TransformCallback } from 'node:stream'
import { pipeline } from 'node:stream/promises'

import type { Keyfold } from '../client/keyfold.ts'
import { createMessageStream, type Opened } from '../client/message-stream.ts'
import { KeyfoldError } from '../errors.ts'
import { MESSAGE_BYTES_MAX, WRAPPED_KEY_BYTES_MAX } from '../limits.ts'
import { withServer, type ConnectFlags } from './connect.ts'
import { PlaceError } from './output.ts'
import type { Pairs } from './flags.ts'
import { Progress } from './progress.ts'
import { frameRecord, fromBase64, LineSplitter, recordOf, type TakeRecord } from './records.ts'

export interface LinesFlags extends ConnectFlags {
  readonly context?: Pairs
}

/** Each line of stdin to a line of base64. */
export function encryptLines(key: string, flags: LinesFlags): Promise<void> {
  const { context } = flags
  return run(flags, {
    lineBytesMax: MESSAGE_BYTES_MAX,
    messageOf: asIs,
    lineOf: (ciphertext) => recordOf('lines', ciphertext),
    convert: async (keyfold, plaintexts) =>
      (await keyfold.encryptBatch(key, plaintexts, { context })).ciphertexts,
  })
}

/** The way back, to the first line that does not open. */
export function decryptLines(flags: LinesFlags): Promise<void> {
  return run(flags, {
    lineBytesMax: CIPHERTEXT_LINE_BYTES_MAX,
    messageOf: fromBase64,
    lineOf: asIs,
    convert: (keyfold, ciphertexts) => open(keyfold, ciphertexts, flags),
  })
}

async function open(
  keyfold: Keyfold,
  ciphertexts: readonly Uint8Array[],
  { context }: LinesFlags,
): Promise<readonly Opened[]> {
  const { plaintexts, errors } = await keyfold.decryptBatch(ciphertexts, { context })
  const codes = new Map(errors)
  return plaintexts.map(
    (plaintext, i) => plaintext ?? new KeyfoldError(codes.get(i) ?? 'DECRYPT_FAILED'),
  )
}

/** What encrypting and decrypting do differently. */
interface Direction {
  readonly lineBytesMax: number
  /** Throws where the line is none. */
  readonly messageOf: (line: Buffer) => Uint8Array
  readonly lineOf: (message: Uint8Array) => Uint8Array
  readonly convert: (
    keyfold: Keyfold,
    messages: readonly Uint8Array[],
  ) => Promise<readonly Opened[]>
}

/** Whatever a message is wrapped in besides its key is shorter. */
const MESSAGE_OVERHEAD_BYTES_MAX = WRAPPED_KEY_BYTES_MAX + 256
const CIPHERTEXT_LINE_BYTES_MAX =
  4 * Math.ceil((MESSAGE_BYTES_MAX + MESSAGE_OVERHEAD_BYTES_MAX) / 3)
const STREAM_LIMITS = { messagesMax: 1_024, bytesMax: 2 ** 20, waitMs: 5, batchesMax: 4 }

function run(flags: LinesFlags, direction: Direction): Promise<void> {
  return withServer(flags, async (keyfold) => {
    const progress = new Progress('messages', process.stderr.isTTY && !process.stdout.isTTY)
    /** The first line that failed. Those before it still travel, and one of them may fail later. */
    let failed: { readonly index: number; readonly error: Error } | undefined
    const fail = (error: Error, index: number): void => {
      if (failed === undefined) {
        process.stdin.unpipe(lines)
        lines.end()
      }
      if (failed === undefined || index < failed.index) failed = { index, error }
    }
    const lines = splitLines(direction, fail)
    const messages = createMessageStream(
      STREAM_LIMITS,
      (batch) =>
        // What fails a batch fails its first line, and the lines before it are not concerned.
        direction.convert(keyfold, batch).catch((error: Error) => batch.map(() => error)),
      fail,
    )
    const written = joinLines(direction, (index) => {
      progress.add(1)
      return failed === undefined || index < failed.index
    })
    // Not a part of the pipeline, which would take the early end of the input for a broken one.
    process.stdin.on('error', (error) => lines.destroy(error)).pipe(lines)
    try {
      await pipeline(lines, messages, written, process.stdout)
    } finally {
      progress.end()
    }
    if (failed !== undefined) throw new PlaceError(`line ${failed.index + 1}`, failed.error)
  })
}

/** Bytes to messages. `fail` is told of a line that is no message. */
function splitLines(
  { lineBytesMax, messageOf }: Direction,
  fail: (error: Error, index: number) => void,
): Transform {
  const splitter = new LineSplitter(lineBytesMax)
  let index = 0
  let failed = false
  const split = (stream: Transform, work: (take: TakeRecord) => void): void => {
    if (failed) return
    try {
      work((line) => {
        stream.push(messageOf(line))
        index++
      })
    } catch (error) {
      failed = true
      fail(error as Error, index)
    }
  }
  return new Transform({
    readableObjectMode: true,
    transform(chunk: Buffer, _encoding, done: TransformCallback) {
      split(this, (take) => splitter.push(chunk, take))
      done()
    },
    flush(done: TransformCallback) {
      split(this, (take) => splitter.end(take))
      done()
    },
  })
}

/** Messages to lines, as long as each is `wanted`. */
function joinLines({ lineOf }: Direction, wanted: (index: number) => boolean): Transform {
  let index = 0
  return new Transform({
    writableObjectMode: true,
    transform(message: Uint8Array, _encoding, done: TransformCallback) {
      if (wanted(index++)) this.push(Buffer.concat(frameRecord('lines', lineOf(message))))
      done()
    },
  })
}

function asIs(bytes: Uint8Array): Uint8Array {
  return bytes
}
