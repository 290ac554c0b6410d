/**
 * The streaming routes: files and streams in the AWS Encryption SDK's message format, for callers without the library.
 * A stream is one use of one KMS key: one decision and one data key when it begins, one record when it ends. It goes on
 * where the key is disabled meanwhile, as it would where the caller had the data key; a lock ends it.
 *
 * An answer begins with the first bytes that are true. What goes wrong after that ends the connection, before the last
 * chunk: no client takes such an answer for a whole one.
 */
import type { Engine } from '../../engine.ts'
import { countUses } from '../../envelope/uses.ts'
import { KeyfoldError } from '../../errors.ts'
import type { MessageHeader } from '../../format/encryption-sdk.ts'
import type { Slot, SlotPool } from '../../pool/slot.ts'
import {
  FRAME_BYTES_DEFAULT,
  FRAME_BYTES_MAX,
  SERVED_FRAME_BYTES_FREE,
  SERVED_SIGNED_BYTES_MAX,
  SERVED_STREAM_BYTES,
  SERVED_STREAMS_MAX,
} from '../../limits.ts'
import type { Conversion, Emit } from '../../streams/conversion.ts'
import { MessageOpener } from '../../streams/message-opener.ts'
import { MessageSealer } from '../../streams/message-sealer.ts'
import type { ChunkedAnswer } from '../chunked-answer.ts'
import type { Exchange } from '../exchange.ts'
import { CallerKeyring, type StreamCaller } from './keyring.ts'
import { readParameters, type StreamOperation, type StreamParameters } from './parameters.ts'
import { Stream } from './stream.ts'

/** As records name them. */
export const STREAM_OPERATIONS: Readonly<Record<StreamOperation, string>> = {
  encrypt: 'EncryptStream',
  decrypt: 'DecryptStream',
}
/** As AWS KMS names what is done under the key. */
const KEY_OPERATIONS: typeof STREAM_OPERATIONS = { encrypt: 'GenerateDataKey', decrypt: 'Decrypt' }

export interface StreamRequest extends Omit<StreamCaller, 'key' | 'origin'> {
  readonly op: StreamOperation
  readonly query: string
  readonly exchange: Exchange
  readonly answer: ChunkedAnswer
}

export interface StreamFigures {
  readonly running: number
  /** Plaintext of streams that have ended, either way. */
  readonly bytes: number
}

export class Streams {
  readonly #engine: Engine
  readonly #running = new Set<Stream>()
  #bytes = 0

  constructor(engine: Engine) {
    this.#engine = engine
    engine.onLock(() => {
      for (const stream of this.#running) stream.fail(new KeyfoldError('LOCKED'))
    })
  }

  get figures(): StreamFigures {
    return { running: this.#running.size, bytes: this.#bytes }
  }

  /**
   * Resolves when all of the answer but its end is taken; the end is the caller's to send. Errors: OVERLOADED,
   * REQUEST_MALFORMED, LIMIT_EXCEEDED, ABORTED, LOCKED, those of conversions and of the keyring.
   */
  async run({ op, query, exchange, answer, principal, record }: StreamRequest): Promise<void> {
    if (record !== undefined) record.messages = 1
    if (this.#engine.locked) throw new KeyfoldError('LOCKED')
    const parameters = readParameters(op, query)
    const { key } = parameters
    if (record !== undefined) {
      record.keyReference = key
      // A log that takes nothing is told before anything leaves, not behind it.
      this.#engine.audit.assertAvailable()
    }
    if (this.#running.size >= SERVED_STREAMS_MAX) {
      throw new KeyfoldError('OVERLOADED', `${SERVED_STREAMS_MAX} streams are under way`)
    }
    const keyring = new CallerKeyring(this.#engine, { principal, origin: exchange, key, record })
    const charges = new Charges(this.#engine.slots)
    let sentBytes = 0
    const send: Emit = (bytes) => {
      sentBytes += bytes.length
      return answer.write(bytes)
    }
    let stream: Stream | undefined
    try {
      charges.take(SERVED_STREAM_BYTES)
      const create = op === 'encrypt' ? createSealer : createOpener
      stream = new Stream(
        { exchange, answer },
        create(keyring, parameters, charges, send),
        this.#engine.slots,
      )
      this.#running.add(stream)
      await stream.run()
    } finally {
      if (stream !== undefined) this.#running.delete(stream)
      charges.release()
      const bytes = op === 'encrypt' ? (stream?.receivedBytes ?? 0) : sentBytes
      this.#bytes += bytes
      if (record !== undefined) record.bytes = bytes
      countUses(this.#engine.keyUses, keyring.uses, { bytes, operation: KEY_OPERATIONS[op] })
    }
  }
}

/** The bytes in flight that one stream is charged for, given back together. */
class Charges {
  readonly #slots: SlotPool
  readonly #taken: Slot[] = []

  constructor(slots: SlotPool) {
    this.#slots = slots
  }

  /** Throws OVERLOADED. */
  take(bytes: number): void {
    this.#taken.push(this.#slots.acquire(bytes))
  }

  takeForFrames(frameBytes: number): void {
    if (frameBytes > SERVED_FRAME_BYTES_FREE) this.take(4 * frameBytes)
  }

  release(): void {
    for (const slot of this.#taken) slot.release()
  }
}

function createSealer(
  keyring: CallerKeyring,
  { context, frameBytes = FRAME_BYTES_DEFAULT }: StreamParameters,
  charges: Charges,
  send: Emit,
): Conversion {
  charges.takeForFrames(frameBytes)
  return new MessageSealer(keyring, { context, frameBytes }, send)
}

function createOpener(
  keyring: CallerKeyring,
  { context }: StreamParameters,
  charges: Charges,
  send: Emit,
): Conversion {
  const emit: Emit = (plaintext) => {
    const taken = send(plaintext)
    if (taken !== undefined) return taken.finally(() => plaintext.fill(0))
    // It is sent, or a copy of it waits in the front end.
    plaintext.fill(0)
    return undefined
  }
  const admit = ({ frameLength, suite }: MessageHeader): void => {
    if (frameLength === 0 || frameLength > FRAME_BYTES_MAX) {
      const found = frameLength === 0 ? 'a body without frames' : `frames of ${frameLength} bytes`
      throw new KeyfoldError(
        'LIMIT_EXCEEDED',
        `${found}: frames of at most ${FRAME_BYTES_MAX} are read here, others by the library`,
      )
    }
    charges.takeForFrames(frameLength)
    if (suite.signature !== undefined) charges.take(SERVED_SIGNED_BYTES_MAX)
  }
  const options = { context, signedBytesMax: SERVED_SIGNED_BYTES_MAX }
  return new MessageOpener(keyring, options, emit, { admit })
}
