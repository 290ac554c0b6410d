/**
 * The client library: batches, single messages gathered into batches, object streams, and management.
 *
 * Every method throws KeyfoldError with a code of src/errors.ts, and takes an AbortSignal where it waits. Requests are
 * retried, with jitter, only where the code says that the same request may succeed a moment later.
 */
import type { Duplex, Transform } from 'node:stream'

import { KeyfoldError, type MessageErrorCode } from '../errors.ts'
import {
  decodeValue,
  MsgpackWriter,
  plainBytesMax,
  type PlainValue,
  type Value,
} from '../format/msgpack.ts'
import { Gatherer, type GatherLimits } from './gatherer.ts'
import { createMessageStream, type Opened } from './message-stream.ts'
import { Transport, type Method, type TransportOptions } from './transport.ts'
import {
  checkedMessage,
  decodeAnswer,
  encodeRequest,
  streamPath,
  type BatchAnswer,
  type EncryptionContext,
  type Messages,
} from './wire.ts'

export interface KeyfoldOptions {
  /** `http://127.0.0.1:8790` where absent. */
  readonly url?: string | undefined
  /** Needed; undefined is what a variable of the environment that is not set gives, and is refused by name. */
  readonly token: string | undefined
  readonly connectionsMax?: number
  readonly retriesMax?: number
  readonly timeoutMs?: number
  readonly tls?: TransportOptions['tls']
  /** When single messages leave together. */
  readonly gather?: Partial<GatherLimits>
}

export interface CallOptions {
  /** Bound to the ciphertext, stored nowhere: whoever decrypts gives the same one. */
  readonly context?: EncryptionContext | undefined
  readonly signal?: AbortSignal | undefined
}

export interface EncryptOptions extends CallOptions {
  /** 1: XAES-256-GCM, the default. 2: KC-XAES-256-GCM, each message commits to its key. */
  readonly suite?: 1 | 2 | undefined
}

export interface EncryptedBatch {
  readonly keyId: string
  readonly ciphertexts: readonly Uint8Array[]
}

export interface DetachedBatch extends EncryptedBatch {
  readonly keyEntry: Uint8Array
}

export interface PackedBatch {
  readonly keyId: string
  readonly packed: Uint8Array
}

/** A message that did not open has undefined in its place, and an error. */
export interface DecryptedBatch {
  readonly plaintexts: readonly (Uint8Array | undefined)[]
  readonly errors: readonly (readonly [index: number, code: MessageErrorCode])[]
}

export interface ReEncryptOptions extends CallOptions {
  /** rewrap: the message key under another KMS key, no revocation. fresh: opened and sealed anew. */
  readonly mode: 'rewrap' | 'fresh'
  /** fresh only. */
  readonly newContext?: EncryptionContext | undefined
  /** fresh only, 1 where absent; a re-wrap keeps it. */
  readonly suite?: 1 | 2 | undefined
  readonly keyEntries?: readonly Uint8Array[] | undefined
}

export interface ReEncryptedBatch {
  readonly keyId: string
  readonly ciphertexts: readonly (Uint8Array | undefined)[]
  readonly keyEntries: readonly Uint8Array[]
  readonly errors: DecryptedBatch['errors']
}

export interface DataKey {
  readonly wrappedKey: Uint8Array
  readonly plaintext: Uint8Array | undefined
}

export interface StreamOptions extends CallOptions {
  readonly messagesMax?: number
  readonly bytesMax?: number
  readonly batchesMax?: number
  readonly waitMs?: number
}

export interface ServerEncryptStreamOptions extends CallOptions {
  /** Plaintext bytes of a frame, 4 KiB to 1 MiB: 64 KiB where absent. */
  readonly frameBytes?: number | undefined
}

/** `context`: pairs that the message must have. */
export interface ServerDecryptStreamOptions extends CallOptions {
  /** The one key that may have wrapped the data key; any that the caller may use where absent. */
  readonly key?: string | undefined
}

const DEFAULTS = {
  url: 'http://127.0.0.1:8790',
  connectionsMax: 8,
  retriesMax: 4,
  timeoutMs: 60_000,
  gather: { messagesMax: 1_024, bytesMax: 1024 * 1024, waitMs: 1 },
  stream: { messagesMax: 1_024, bytesMax: 1024 * 1024, batchesMax: 4, waitMs: 5 },
} as const

export class Keyfold {
  readonly #transport: Transport
  readonly #gatherLimits: GatherLimits
  /** By what the messages of a batch must have in common. */
  readonly #gatherers = new Map<string, Gatherer<Uint8Array>>()

  /** Errors: CONFIG_INVALID. */
  constructor(options: KeyfoldOptions) {
    if (options.token === undefined || options.token === '') {
      throw new KeyfoldError('CONFIG_INVALID', 'a token is needed (keyfold tokens create)')
    }
    this.#transport = new Transport({
      url: options.url ?? DEFAULTS.url,
      token: options.token,
      connectionsMax: options.connectionsMax ?? DEFAULTS.connectionsMax,
      retriesMax: options.retriesMax ?? DEFAULTS.retriesMax,
      timeoutMs: options.timeoutMs ?? DEFAULTS.timeoutMs,
      tls: options.tls,
    })
    this.#gatherLimits = { ...DEFAULTS.gather, ...options.gather }
  }

  // Batches.

  /** Inline ciphertexts: each stands alone. */
  async encryptBatch(
    key: string,
    plaintexts: Messages,
    options: EncryptOptions = {},
  ): Promise<EncryptedBatch> {
    const { keyId = '', ciphertexts } = await this.#encrypt(key, plaintexts, 'inline', options)
    return { keyId, ciphertexts: wholeOf(ciphertexts, plaintexts.length) }
  }

  /** Smaller ciphertexts; the key entry of the batch is the caller's to keep. */
  async encryptDetached(
    key: string,
    plaintexts: Messages,
    options: EncryptOptions = {},
  ): Promise<DetachedBatch> {
    const answer = await this.#encrypt(key, plaintexts, 'detached', options)
    return {
      keyId: answer.keyId ?? '',
      ciphertexts: wholeOf(answer.ciphertexts, plaintexts.length),
      keyEntry: presentOf(answer.keyEntry),
    }
  }

  /** The whole batch in one value, protected against dropping and reordering. */
  async encryptPacked(
    key: string,
    plaintexts: Messages,
    options: EncryptOptions = {},
  ): Promise<PackedBatch> {
    const { keyId = '', packed } = await this.#encrypt(key, plaintexts, 'packed', options)
    return { keyId, packed: presentOf(packed) }
  }

  async decryptBatch(
    ciphertexts: Messages,
    options: CallOptions & { readonly keyEntries?: readonly Uint8Array[] | undefined } = {},
  ): Promise<DecryptedBatch> {
    const { context, keyEntries, signal } = options
    const answer = await this.#call('/v1/decrypt', { context, keyEntries, ciphertexts }, signal)
    return {
      plaintexts: countedOf(answer.plaintexts, ciphertexts.length),
      errors: answer.errors ?? [],
    }
  }

  async decryptPacked(packed: Uint8Array, options: CallOptions = {}): Promise<DecryptedBatch> {
    const answer = await this.#call(
      '/v1/decrypt',
      { context: options.context, packed },
      options.signal,
    )
    return { plaintexts: presentOf(answer.plaintexts), errors: answer.errors ?? [] }
  }

  async reEncryptBatch(
    key: string,
    ciphertexts: Messages,
    options: ReEncryptOptions,
  ): Promise<ReEncryptedBatch> {
    const { mode, context, newContext, suite, keyEntries, signal } = options
    const fields = { key, mode, context, newContext, suite, keyEntries, ciphertexts }
    const answer = await this.#call('/v1/re-encrypt', fields, signal)
    return {
      keyId: answer.keyId ?? '',
      ciphertexts: countedOf(answer.ciphertexts, ciphertexts.length),
      keyEntries: answer.keyEntries ?? [],
      errors: answer.errors ?? [],
    }
  }

  async reEncryptPacked(
    key: string,
    packed: Uint8Array,
    options: Omit<ReEncryptOptions, 'keyEntries'>,
  ): Promise<PackedBatch> {
    const { mode, context, newContext, suite, signal } = options
    const fields = { key, mode, context, newContext, suite, packed }
    const answer = await this.#call('/v1/re-encrypt', fields, signal)
    return { keyId: answer.keyId ?? '', packed: presentOf(answer.packed) }
  }

  /** Data keys for whoever encrypts on their own: wrapped, and in plaintext if asked for. */
  async dataKeys(
    key: string,
    count: number,
    options: CallOptions & { readonly plaintext?: boolean } = {},
  ): Promise<readonly DataKey[]> {
    const { context, plaintext = true, signal } = options
    const answer = await this.#call('/v1/data-keys', { key, context, count, plaintext }, signal)
    return presentOf(answer.dataKeys).map(({ wrappedKey, plaintext: bytes }) => ({
      wrappedKey,
      plaintext: bytes,
    }))
  }

  // Single messages, gathered into batches.

  /** The bytes are read when the batch leaves: they must not change before the promise settles. */
  encrypt(key: string, plaintext: Uint8Array, options: EncryptOptions = {}): Promise<Uint8Array> {
    const { context, suite, signal } = options
    return this.#gathered(
      ['encrypt', key, String(suite)],
      async (plaintexts, { context }) => {
        const batch = await this.encryptBatch(key, plaintexts, { context, suite })
        return batch.ciphertexts
      },
      plaintext,
      { context, signal },
    )
  }

  /** Rejects with the message's own error; others of its batch are not concerned. */
  decrypt(ciphertext: Uint8Array, options: CallOptions = {}): Promise<Uint8Array> {
    return this.#gathered(
      ['decrypt'],
      (ciphertexts, { context }) => this.#decryptEach(ciphertexts, { context }),
      ciphertext,
      options,
    )
  }

  // Object streams.

  encryptMessages(key: string, options: StreamOptions & EncryptOptions = {}): Transform {
    return createMessageStream(
      { ...DEFAULTS.stream, ...definedOf(options) },
      async (plaintexts) => (await this.encryptBatch(key, plaintexts, options)).ciphertexts,
      undefined,
    )
  }

  /** Without onFailure, the first message that does not open ends the stream with its error. */
  decryptMessages(
    options: StreamOptions & { readonly onFailure?: (error: Error, index: number) => void } = {},
  ): Transform {
    return createMessageStream(
      { ...DEFAULTS.stream, ...definedOf(options) },
      (ciphertexts) => this.#decryptEach(ciphertexts, options),
      options.onFailure,
    )
  }

  // Files and streams, in the AWS Encryption SDK's format, at the server.

  /**
   * Plaintext in, one message out. Plaintext goes to the server and the data key stays there: for callers that are not
   * to have it. The library's own encryptStream has both here, and nothing but the data key on the wire. Write and read
   * at once, with `pipeline`. A stream that fails is destroyed with its error, and is not sent again.
   */
  encryptStream(key: string, options: ServerEncryptStreamOptions = {}): Duplex {
    const { context, frameBytes, signal } = options
    return this.#transport.stream(streamPath('encrypt', { key, frameBytes }, context), signal)
  }

  /**
   * One message in, plaintext out as it verifies. Where the message fails in the middle the connection is cut, and the
   * error is CONNECTION_FAILED; the server's audit log has the reason.
   */
  decryptStream(options: ServerDecryptStreamOptions = {}): Duplex {
    const { context, key, signal } = options
    return this.#transport.stream(streamPath('decrypt', { key }, context), signal)
  }

  /** Management: any route of the server's, small maps both ways. */
  async manage(
    method: Method,
    path: string,
    fields?: PlainValue,
    signal?: AbortSignal,
  ): Promise<PlainValue> {
    const body =
      fields === undefined
        ? undefined
        : new MsgpackWriter(Buffer.alloc(plainBytesMax(fields))).plain(fields).written()
    const answer = await this.#transport.send({
      method,
      path,
      body,
      signal,
      once: method === 'POST',
    })
    return plainOf(decodeValue(answer))
  }

  /** Sends what is gathered, waits for every answer that is due, and closes the connections. */
  async close(): Promise<void> {
    for (const gatherer of [...this.#gatherers.values()]) gatherer.flush()
    await this.#transport.close()
  }

  #encrypt(
    key: string,
    plaintexts: Messages,
    form: 'inline' | 'detached' | 'packed',
    { context, suite, signal }: EncryptOptions,
  ): Promise<BatchAnswer> {
    return this.#call('/v1/encrypt', { key, context, form, suite, plaintexts }, signal)
  }

  async #decryptEach(
    ciphertexts: Messages,
    { context, signal }: CallOptions,
  ): Promise<readonly Opened[]> {
    const { plaintexts, errors } = await this.decryptBatch(ciphertexts, { context, signal })
    const codes = new Map(errors)
    return plaintexts.map(
      (plaintext, i) => plaintext ?? new KeyfoldError(codes.get(i) ?? 'DECRYPT_FAILED'),
    )
  }

  async #call(
    route: string,
    fields: Parameters<typeof encodeRequest>[0],
    signal: AbortSignal | undefined,
  ): Promise<BatchAnswer> {
    const body = encodeRequest(fields)
    return decodeAnswer(await this.#transport.send({ method: 'POST', path: route, body, signal }))
  }

  async #gathered(
    operation: readonly string[],
    send: (messages: Messages, common: CallOptions) => Promise<readonly Opened[]>,
    message: Uint8Array,
    { context, signal }: CallOptions,
  ): Promise<Uint8Array> {
    checkedMessage(message)
    if (signal?.aborted === true) throw new KeyfoldError('ABORTED')
    const name = JSON.stringify([...operation, contextName(context)])
    let gatherer = this.#gatherers.get(name)
    if (gatherer === undefined) {
      // The batch leaves later: the caller may have changed their object by then.
      const common = { context: context === undefined ? undefined : { ...context } }
      gatherer = new Gatherer<Uint8Array>(this.#gatherLimits, (messages) => {
        // Contexts can be many: a gatherer is known only while something waits in it.
        this.#gatherers.delete(name)
        return send(messages, common)
      })
    }
    const result = gatherer.add(message)
    if (!gatherer.empty) this.#gatherers.set(name, gatherer)
    return abortable(result, signal)
  }
}

function contextName(context: EncryptionContext | undefined): string {
  return JSON.stringify(Object.entries(context ?? {}).sort(([a], [b]) => (a < b ? -1 : 1)))
}

function abortable<T>(result: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return result
  return new Promise((resolve, reject) => {
    const aborted = (): void => reject(new KeyfoldError('ABORTED'))
    if (signal.aborted) aborted()
    signal.addEventListener('abort', aborted, { once: true })
    result.then(resolve, reject).finally(() => signal.removeEventListener('abort', aborted))
  })
}

function presentOf<T>(value: T | undefined): T {
  if (value === undefined) {
    throw new KeyfoldError('CONNECTION_FAILED', 'the answer is not one of keyfold')
  }
  return value
}

/** One place for each message that was sent: what is answered belongs to them by its place alone. */
function countedOf<T>(list: readonly T[] | undefined, count: number): readonly T[] {
  return presentOf(list?.length === count ? list : undefined)
}

function wholeOf(
  ciphertexts: readonly (Uint8Array | undefined)[] | undefined,
  count: number,
): readonly Uint8Array[] {
  return countedOf(ciphertexts, count).map(presentOf)
}

function definedOf<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T
}

function plainOf(value: Value): PlainValue {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('base64')
  if (value instanceof Map) {
    const entries = [...(value as ReadonlyMap<string, Value>)]
    return Object.fromEntries(entries.map(([key, element]) => [key, plainOf(element)]))
  }
  return Array.isArray(value) ? value.map((element: Value) => plainOf(element)) : (value as null)
}
