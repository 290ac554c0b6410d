/**
 * The wire of the client library: POSTs over kept-alive connections, retried where it is known to be worth it.
 * A connection that was idle for five seconds is not used again: the server cuts it at about ten.
 */
import {
  Agent as HttpAgent,
  request as httpRequest,
  type ClientRequest,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
} from 'node:http'
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https'
import type { Duplex } from 'node:stream'

import { ERRORS, KeyfoldError, type ErrorCode } from '../errors.ts'
import { decodeValue } from '../format/msgpack.ts'
import { createServerStream } from './server-stream.ts'

const IDLE_MS_MAX = 5_000
const RETRY_MS_FIRST = 50
const RETRY_MS_MAX = 5_000
/** A server that asks for a longer pause is not waited for: the caller is told at once. */
const RETRY_AFTER_MS_MAX = 30_000
const CONTENT_TYPE = 'application/msgpack'

export interface TransportOptions {
  readonly url: string
  readonly token: string
  /** Connections at one time. */
  readonly connectionsMax: number
  /** Tries of one request beyond the first. */
  readonly retriesMax: number
  /** Without a byte from the server. */
  readonly timeoutMs: number
  /** PEM, for servers with a certificate of their own, and for those that ask for one of the client's. */
  readonly tls: { readonly ca?: string; readonly cert?: string; readonly key?: string } | undefined
}

export type Method = 'GET' | 'POST' | 'PUT' | 'DELETE'

export interface Call {
  readonly method: Method
  readonly path: string
  readonly body: Uint8Array | undefined
  readonly signal: AbortSignal | undefined
  /** Done twice it would do more than done once: not sent again where it may have been done. */
  readonly once?: boolean
  /** The answer holds keys: no copy of it is left behind. Whoever is given it fills it with zeros. */
  readonly secret?: boolean
}

export class Transport {
  readonly #options: TransportOptions
  readonly #base: URL
  readonly #agent: HttpAgent
  /** A connection for each stream: two that wait for one another do not wait for a place as well. */
  readonly #streamAgent: HttpAgent
  readonly #underWay = new Set<Promise<unknown>>()

  /** Errors: CONFIG_INVALID where the URL is none. */
  constructor(options: TransportOptions) {
    this.#options = options
    this.#base = serverUrl(options.url)
    const agentOptions = {
      keepAlive: true,
      maxSockets: options.connectionsMax,
      timeout: IDLE_MS_MAX,
      scheduling: 'lifo',
    } as const
    const isTls = this.#base.protocol === 'https:'
    this.#agent = isTls
      ? new HttpsAgent({ ...agentOptions, ...options.tls })
      : new HttpAgent(agentOptions)
    this.#streamAgent = isTls ? new HttpsAgent({ ...options.tls }) : new HttpAgent()
  }

  /** The answer's bytes. Errors: every code of the server's, CONNECTION_FAILED, ABORTED. */
  send(call: Call): Promise<Buffer> {
    const answer = this.#sendAndRetry(call)
    this.#track(answer)
    return answer
  }

  /** A body and its answer, both at once. Not sent again: what was written is gone. Errors: as send(). */
  stream(path: string, signal: AbortSignal | undefined): Duplex {
    if (signal?.aborted === true) throw new KeyfoldError('ABORTED')
    const headers = { Accept: CONTENT_TYPE, 'Content-Type': 'application/octet-stream' }
    const request = this.#request('PUT', path, { signal, headers, agent: this.#streamAgent })
    const stream = createServerStream(request, {
      failed: (cause) => this.#failure(cause, signal),
      refused: (bytes, status, found) => this.#errorOf(bytes, status, found),
    })
    this.#track(new Promise((resolve) => stream.once('close', resolve)))
    return stream
  }

  #track(underWay: Promise<unknown>): void {
    this.#underWay.add(underWay)
    const done = (): void => void this.#underWay.delete(underWay)
    underWay.then(done, done)
  }

  /** Waits for what is under way. */
  async close(): Promise<void> {
    await Promise.allSettled(this.#underWay)
    this.#agent.destroy()
    this.#streamAgent.destroy()
  }

  async #sendAndRetry(call: Call): Promise<Buffer> {
    for (let retry = 0; ; retry++) {
      try {
        return await this.#sendOnce(call)
      } catch (error) {
        if (!(error instanceof KeyfoldError)) throw error
        if (!error.retryable || retry >= this.#options.retriesMax) throw error
        if (call.once === true && mayBeDone(error)) throw error
        const leastMs = retryAfterMs(error)
        if (leastMs > RETRY_AFTER_MS_MAX) throw error
        await waitBeforeRetry(retry, leastMs, call.signal)
      }
    }
  }

  #sendOnce({ method, path, body, signal, secret }: Call): Promise<Buffer> {
    const { timeoutMs } = this.#options
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) {
        reject(new KeyfoldError('ABORTED'))
        return
      }
      const headers = { 'Content-Type': CONTENT_TYPE, 'Content-Length': body?.length ?? 0 }
      const request = this.#request(method, path, { signal, headers, agent: this.#agent })
      const fail = (cause: Error): void => reject(this.#failure(cause, signal))
      request.on('error', fail)
      request.on('timeout', () => request.destroy(new Error(`no answer within ${timeoutMs} ms`)))
      request.on('response', (response) => {
        const chunks: Buffer[] = []
        response.on('error', fail)
        response.on('data', (chunk: Buffer) => chunks.push(chunk))
        response.on('end', () => {
          const [only] = chunks
          const bytes = chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks)
          if (secret === true && only !== bytes) for (const chunk of chunks) chunk.fill(0)
          // An answer cut off in the middle is no answer.
          if (!response.complete) fail(new Error('the answer was cut off'))
          else if (response.statusCode === 200) resolve(bytes)
          else reject(this.#errorOf(bytes, response.statusCode ?? 0, response.headers))
        })
      })
      request.end(body)
    })
  }

  #request(
    method: Method,
    path: string,
    options: {
      readonly signal: AbortSignal | undefined
      readonly headers: OutgoingHttpHeaders
      readonly agent: HttpAgent
    },
  ): ClientRequest {
    const { token, timeoutMs } = this.#options
    const { signal, headers, agent } = options
    const start = this.#base.protocol === 'https:' ? httpsRequest : httpRequest
    return start(new URL(path, this.#base), {
      method,
      agent,
      ...(signal === undefined ? {} : { signal }),
      timeout: timeoutMs,
      headers: { Authorization: `Bearer ${token}`, ...headers },
    })
  }

  #failure(cause: Error, signal: AbortSignal | undefined): KeyfoldError {
    if (signal?.aborted === true) return new KeyfoldError('ABORTED', undefined, cause)
    const text = `${this.#base.origin}: ${causeText(cause)}`
    return new KeyfoldError('CONNECTION_FAILED', text, cause)
  }

  /** The server's {code, message, requestId} as the error it stands for. */
  #errorOf(bytes: Buffer, status: number, headers: IncomingHttpHeaders): KeyfoldError {
    const error =
      decodeError(bytes) ??
      // Something between us and the server has answered.
      new KeyfoldError(
        status >= 500 ? 'CONNECTION_FAILED' : 'INTERNAL',
        `${this.#base.origin}: status ${status}, and no answer of keyfold's`,
      )
    const seconds = Number(headers['retry-after'])
    if (seconds > 0) retryAfters.set(error, seconds * 1000)
    return error
  }
}

function decodeError(bytes: Buffer): KeyfoldError | undefined {
  try {
    const fields = decodeValue(bytes)
    if (!(fields instanceof Map)) return undefined
    const code: unknown = fields.get('code')
    if (typeof code !== 'string' || !Object.hasOwn(ERRORS, code)) return undefined
    const known = code as ErrorCode
    const message = String(fields.get('message')).replace(`${ERRORS[known].message}: `, '')
    const requestId = String(fields.get('requestId'))
    const detail = message === ERRORS[known].message ? '' : `${message}; `
    return new KeyfoldError(known, `${detail}request ${requestId}`, undefined, requestId)
  } catch {
    return undefined
  }
}

function serverUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url?.protocol === 'http:' || url?.protocol === 'https:') return url
  throw new KeyfoldError(
    'CONFIG_INVALID',
    `the URL ${JSON.stringify(text)} is not one such as http://127.0.0.1:8790`,
  )
}

/** A name with several addresses fails with one error for each, and says nothing itself. */
function causeText(cause: Error): string {
  return cause.message === '' && cause instanceof AggregateError
    ? cause.errors.map((error: unknown) => (error as Error).message).join(', ')
    : cause.message
}

/** Whether the server may have done what was asked, though it did not say so. */
function mayBeDone({ code, cause }: KeyfoldError): boolean {
  return (
    code === 'CONNECTION_FAILED' &&
    (cause as NodeJS.ErrnoException | undefined)?.code !== 'ECONNREFUSED'
  )
}

const retryAfters = new WeakMap<KeyfoldError, number>()

function retryAfterMs(error: KeyfoldError): number {
  return retryAfters.get(error) ?? 0
}

/** Full jitter: many clients that were refused together do not come back together. */
function waitBeforeRetry(
  retry: number,
  leastMs: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const mostMs = Math.min(RETRY_MS_MAX, RETRY_MS_FIRST * 2 ** retry)
  const waitMs = leastMs + Math.random() * mostMs
  return new Promise((resolve, reject) => {
    const aborted = (): void => {
      clearTimeout(timer)
      reject(new KeyfoldError('ABORTED'))
    }
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', aborted)
      resolve()
    }, waitMs)
    signal?.addEventListener('abort', aborted, { once: true })
  })
}
