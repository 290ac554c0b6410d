/**
 * What every door of the server takes requests in by: who sends them, which record they leave, how an error is told, and
 * that nothing is under way when the server ends.
 */
import type { Engine } from '../engine.ts'
import { KeyfoldError } from '../errors.ts'
import type { Principal } from '../kms/kms-key.ts'
import { encodeError, encodeJson } from './answer.ts'
import { Exchange } from './exchange.ts'
import { JSON_TYPE, MSGPACK_TYPE, statusLine, type Header } from './http.ts'
import type { Log } from './log.ts'
import { Principals, type Credentials } from './principals.ts'
import { RequestRecord } from './records.ts'
import { SourceAddresses } from './source-addresses.ts'
import type { HttpResponse, TemplatedApp } from './uws.ts'

/** How long a drain waits for what is under way. */
const DRAIN_MS_MAX = 10_000
const RETRY_AFTER_SECONDS = '1'

export class Intake {
  readonly log: Log
  readonly secureTransport: boolean
  readonly #engine: Engine
  readonly #principals: Principals
  readonly #sources: SourceAddresses | undefined
  readonly #requestIds: string
  #requests = 0
  /** Exchanges whose last byte is not out, and operations that run, also for a caller who is gone. */
  #active = 0
  #draining = false
  #onIdle: (() => void) | undefined

  constructor(engine: Engine, log: Log) {
    this.log = log
    this.secureTransport = engine.config.tls !== undefined
    this.#engine = engine
    this.#principals = new Principals(engine.tokens, engine.config.account)
    this.#sources = engine.audit.on ? new SourceAddresses() : undefined
    this.#requestIds = `${Date.now().toString(36)}-${process.pid.toString(36)}`
  }

  register(app: TemplatedApp): void {
    this.#sources?.register(app)
  }

  // What is under way.

  /** Resolves when nothing is under way, or after DRAIN_MS_MAX. */
  drained(): Promise<void> {
    this.#draining = true
    if (this.#active === 0) return Promise.resolve()
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, DRAIN_MS_MAX)
      this.#onIdle = () => {
        clearTimeout(timer)
        // The front end sends what is small when the handler that is running has returned.
        setImmediate(resolve)
      }
    })
  }

  /** Throws SHUTTING_DOWN. */
  assertOpen(): void {
    if (this.#draining) throw new KeyfoldError('SHUTTING_DOWN')
  }

  /** Around everything that a drain waits for. */
  begin(): void {
    this.#active++
  }

  end(): void {
    if (--this.#active === 0) this.#onIdle?.()
  }

  open(response: HttpResponse, method: string): Exchange {
    this.begin()
    return new Exchange(response, {
      method,
      secureTransport: this.secureTransport,
      over: () => this.end(),
    })
  }

  // Who asks.

  /** Throws UNAUTHENTICATED. */
  authenticate(credentials: Credentials): Principal {
    return this.#principals.authenticate(credentials)
  }

  /** What the caller shows; throws UNAUTHENTICATED where a certificate is missing. */
  credentialsOf(response: HttpResponse, authorization: string): Credentials {
    return { authorization, certificate: this.certificateOf(response) }
  }

  /** The client's certificate, '' where none is asked for. Throws UNAUTHENTICATED where one is and none is shown. */
  certificateOf(response: HttpResponse): string {
    if (this.#engine.config.tls?.clientCaFile === undefined) return ''
    // A client that shows no certificate at all is let through by the front end, whatever CA it was given.
    const { getX509Certificate } = response as HttpResponse & { getX509Certificate?(): string }
    const certificate = getX509Certificate?.call(response) ?? ''
    if (certificate === '') {
      throw new KeyfoldError('UNAUTHENTICATED', 'a client certificate is required')
    }
    return certificate
  }

  /** For the record; undefined where there is no audit log. */
  sourceAddressOf(response: HttpResponse): string | undefined {
    return this.#sources?.of(response)
  }

  // What is left behind, and told.

  /** The record of a request; undefined where there is no audit log. */
  record(operation: string, sourceAddress: string | undefined): RequestRecord | undefined {
    if (!this.#engine.audit.on) return undefined
    const requestId = this.nextRequestId()
    return new RequestRecord(operation, { requestId, sourceAddress, door: 'v1' })
  }

  /** Sends the error and returns its status. */
  sendError(
    exchange: Exchange,
    error: unknown,
    json: boolean,
    requestId = this.nextRequestId(),
  ): number {
    const known = this.knownError(error, requestId)
    const headers: Header[] = [['X-Request-Id', requestId]]
    if (known.retryable) headers.push(['Retry-After', RETRY_AFTER_SECONDS])
    const answer = encodeError(known.code, known.message, requestId)
    const status = statusLine(known.status)
    if (json) exchange.send(status, JSON_TYPE, encodeJson(answer, this.#engine.slots), headers)
    else exchange.send(status, MSGPACK_TYPE, answer, headers)
    return known.status
  }

  /** What a caller is told; what they are not told goes to the log under the request id. */
  knownError(error: unknown, requestId: string): KeyfoldError {
    if (error instanceof KeyfoldError && error.code !== 'INTERNAL') {
      this.log.debug({ requestId, code: error.code }, 'refused')
      return error
    }
    const { message, stack } = error instanceof Error ? error : new Error(String(error))
    this.log.error({ requestId, reason: message, stack }, 'a request failed')
    return new KeyfoldError('INTERNAL')
  }

  nextRequestId(): string {
    return `${this.#requestIds}-${(++this.#requests).toString(36)}`
  }
}
