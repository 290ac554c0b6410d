/**
 * The wire of the client library: POSTs over kept-alive connections, retried where it is known to be worth it.
 * A connection that was idle for five seconds is not used again: the server cuts it at about ten.
 */
import { Agent as HttpAgent, request as httpRequest } from 'node:http'
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https'

import { ERRORS, KeyfoldError, type ErrorCode } from '../errors.ts'
import { decodeValue } from '../format/msgpack.ts'

const IDLE_MS_MAX = 5_000
const RETRY_MS_FIRST = 50
const RETRY_MS_MAX = 5_000
const CONTENT_TYPE = 'application/msgpack'

export interface TransportOptions {
  readonly url: string
  readonly token: string
  /** Connections at one time. */
  readonly connectionsMax: number
  /** Tries of one request beyond the first. */
  readonly retriesMax: number
  /** From the first byte sent to the last received. */
  readonly timeoutMs: number
  /** PEM, for servers with a certificate of their own, and for those that ask for one of the client's. */
  readonly tls: { readonly ca?: string; readonly cert?: string; readonly key?: string } | undefined
}

export type Method = 'GET' | 'POST' | 'PUT' | 'DELETE'

export class Transport {
  readonly #options: TransportOptions
  readonly #base: URL
  readonly #agent: HttpAgent

  constructor(options: TransportOptions) {
    this.#options = options
    this.#base = new URL(options.url)
    const agentOptions = {
      keepAlive: true,
      maxSockets: options.connectionsMax,
      timeout: IDLE_MS_MAX,
      scheduling: 'lifo',
    } as const
    this.#agent =
      this.#base.protocol === 'https:'
        ? new HttpsAgent({ ...agentOptions, ...options.tls })
        : new HttpAgent(agentOptions)
  }

  /** The answer's bytes. Errors: every code of the server's, CONNECTION_FAILED, ABORTED. */
  async send(
    method: Method,
    path: string,
    body: Uint8Array | undefined,
    signal: AbortSignal | undefined,
  ): Promise<Buffer> {
    for (let retry = 0; ; retry++) {
      try {
        return await this.#sendOnce(method, path, body, signal)
      } catch (error) {
        if (!(error instanceof KeyfoldError)) throw error
        if (!error.retryable || retry >= this.#options.retriesMax) throw error
        await waitBeforeRetry(retry, retryAfterMs(error), signal)
      }
    }
  }

  close(): void {
    this.#agent.destroy()
  }

  #sendOnce(
    method: Method,
    path: string,
    body: Uint8Array | undefined,
    signal: AbortSignal | undefined,
  ): Promise<Buffer> {
    const { token, timeoutMs } = this.#options
    const start = this.#base.protocol === 'https:' ? httpsRequest : httpRequest
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) {
        reject(new KeyfoldError('ABORTED'))
        return
      }
      const request = start(new URL(path, this.#base), {
        method,
        agent: this.#agent,
        ...(signal === undefined ? {} : { signal }),
        timeout: timeoutMs,
        headers: {
          Authorization: `Bearer ${token}`,
          'Content-Type': CONTENT_TYPE,
          'Content-Length': body?.length ?? 0,
        },
      })
      const fail = (cause: Error): void =>
        reject(
          signal?.aborted === true
            ? new KeyfoldError('ABORTED', undefined, cause)
            : new KeyfoldError('CONNECTION_FAILED', cause.message, cause),
        )
      request.on('error', fail)
      request.on('timeout', () => request.destroy(new Error(`no answer within ${timeoutMs} ms`)))
      request.on('response', (response) => {
        const chunks: Buffer[] = []
        response.on('error', fail)
        response.on('data', (chunk: Buffer) => chunks.push(chunk))
        response.on('end', () => {
          const [only] = chunks
          const bytes = chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks)
          // An answer cut off in the middle is no answer.
          if (!response.complete) fail(new Error('the answer was cut off'))
          else if (response.statusCode === 200) resolve(bytes)
          else reject(errorOf(bytes, response.statusCode ?? 0, response.headers['retry-after']))
        })
      })
      request.end(body)
    })
  }
}

const retryAfters = new WeakMap<KeyfoldError, number>()

function retryAfterMs(error: KeyfoldError): number {
  return retryAfters.get(error) ?? 0
}

/** The server's {code, message, requestId} as the error it stands for. */
function errorOf(bytes: Buffer, status: number, retryAfter: string | undefined): KeyfoldError {
  const error = decodeError(bytes, status)
  const seconds = Number(retryAfter)
  if (seconds > 0) retryAfters.set(error, seconds * 1000)
  return error
}

function decodeError(bytes: Buffer, status: number): KeyfoldError {
  try {
    const fields = decodeValue(bytes)
    if (fields instanceof Map) {
      const code: unknown = fields.get('code')
      if (typeof code === 'string' && code in ERRORS) {
        const known = code as ErrorCode
        const message = String(fields.get('message')).replace(`${ERRORS[known].message}: `, '')
        const detail = message === ERRORS[known].message ? '' : `${message}; `
        return new KeyfoldError(known, `${detail}request ${String(fields.get('requestId'))}`)
      }
    }
  } catch {
    // Something between us and the server has answered.
  }
  return new KeyfoldError(
    status >= 500 ? 'CONNECTION_FAILED' : 'INTERNAL',
    `status ${status}, and no answer of keyfold's`,
  )
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
