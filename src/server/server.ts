/**
 * The server: every request is authenticated, bounded, timed and answered here, whatever its route. What the envelope
 * answers at once leaves in the same tick; a request that waits keeps its body in a slot until it is answered.
 */
import type { Engine } from '../engine.ts'
import { KeyfoldError } from '../errors.ts'
import { decodeValue, type PlainValue, type Value } from '../format/msgpack.ts'
import { jsonToMsgpack, msgpackToJson } from '../format/json.ts'
import { authorizeService } from '../kms/authorize.ts'
import type { Principal } from '../kms/kms-key.ts'
import { encodeAnswer, encodeError, type Answer } from './answer.ts'
import { Exchange, JSON_TYPE, MSGPACK_TYPE, STATUS_OK, type Body, type Header } from './exchange.ts'
import type { Log } from './log.ts'
import { Metrics, type RouteFigures } from './metrics.ts'
import { Operations, type MaybePromise } from './operations.ts'
import { Principals } from './principals.ts'
import { ROUTES, type Route } from './routes.ts'
import { closeListener, createApp, listen, portOf } from './uws.ts'
import type { HttpRequest, HttpResponse, TemplatedApp } from './uws.ts'
import { serveWebSocket } from './websocket.ts'

export interface RunningServer {
  readonly url: string
  readonly port: number
  /** Takes no new connections, finishes what is under way, then closes what is idle. */
  drain(): Promise<void>
}

/** How long a drain waits for what is under way. */
const DRAIN_MS_MAX = 10_000
const RETRY_AFTER_SECONDS = '1'
/** Management requests are small maps. */
const MANAGEMENT_BYTES_MAX = 64 * 1024

/** Errors: CONFIG_INVALID (address taken, or beyond loopback without TLS). */
export async function startServer(
  engine: Engine,
  options: { readonly log: Log },
): Promise<RunningServer> {
  const { config } = engine
  const loopback = /^(?:127\.|::1$|localhost$)/.test(config.listen.host)
  if (!loopback && config.tls === undefined && !config.plaintextAllowed) {
    throw new KeyfoldError(
      'CONFIG_INVALID',
      `${config.listen.host} is beyond loopback: give --tls-cert and --tls-key, or --allow-plaintext true`,
    )
  }
  const app = createApp(
    config.tls === undefined
      ? undefined
      : {
          cert_file_name: config.tls.certFile,
          key_file_name: config.tls.keyFile,
          ...(config.tls.clientCaFile === undefined
            ? {}
            : { ca_file_name: config.tls.clientCaFile }),
        },
  )
  const server = new Server(engine, options.log)
  server.register(app)
  const socket = await listen(app, config.listen.host, config.listen.port)
  const port = portOf(socket)
  const host = config.listen.host.includes(':') ? `[${config.listen.host}]` : config.listen.host
  return {
    url: `${config.tls === undefined ? 'http' : 'https'}://${host}:${port}`,
    port,
    drain: async () => {
      closeListener(socket)
      await server.drained()
      app.close()
    },
  }
}

/** What one request brings in its headers, read before the first await: they do not outlive the handler. */
interface RequestHead {
  readonly authorization: string
  readonly contentType: string
  readonly accept: string
  readonly announcedBytes: number
}

export class Server {
  readonly #engine: Engine
  readonly #log: Log
  readonly #principals: Principals
  readonly #operations: Operations
  readonly #metrics: Metrics
  readonly #requestIds: string
  #requests = 0
  #active = 0
  #draining = false
  #onIdle: (() => void) | undefined

  constructor(engine: Engine, log: Log) {
    this.#engine = engine
    this.#log = log
    this.#principals = new Principals(engine.tokens)
    this.#operations = new Operations(engine)
    this.#metrics = new Metrics(engine)
    this.#requestIds = `${Date.now().toString(36)}-${process.pid.toString(36)}`
  }

  register(app: TemplatedApp): void {
    for (const route of ROUTES) {
      const figures = this.#metrics.route(route.path)
      if (route.kind === 'operation') {
        app.post(route.path, (response, request) =>
          this.#serveOperation(response, request, route.op, figures),
        )
        app.any(route.path, (response) => this.#refuse(response, 'METHOD_NOT_ALLOWED'))
      } else {
        app[route.method](route.path, (response, request) =>
          this.#serveManagement(response, request, route, figures),
        )
      }
    }
    serveWebSocket(app, {
      slots: this.#engine.slots,
      log: this.#log,
      bytesMax: this.#engine.config.requestBytesMax,
      authenticate: (response, authorization) => this.#authenticate(response, authorization),
      run: (op, principal, body) => this.#run(op, principal, body),
      failed: (error) => {
        const requestId = this.#nextRequestId()
        const known = this.#knownError(error, requestId)
        return encodeError(known.code, known.message, requestId)
      },
    })
    app.get('/healthz', (response) => {
      response.writeHeader('Content-Type', 'text/plain').end('ok\n')
    })
    app.get('/readyz', (response) => void this.#serveReady(new Exchange(response)))
    app.get(
      '/metrics',
      (response, request) =>
        void this.#serveMetrics(
          response,
          new Exchange(response),
          request.getHeader('authorization'),
        ),
    )
    app.any('/*', (response) => this.#refuse(response, 'ROUTE_NOT_FOUND'))
  }

  /** Resolves when nothing is under way, or after DRAIN_MS_MAX. */
  drained(): Promise<void> {
    this.#draining = true
    if (this.#active === 0) return Promise.resolve()
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, DRAIN_MS_MAX)
      this.#onIdle = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  #serveOperation(
    response: HttpResponse,
    request: HttpRequest,
    op: Extract<Route, { kind: 'operation' }>['op'],
    figures: RouteFigures,
  ): void {
    const head = readHead(request)
    this.#serve(response, head, this.#engine.config.requestBytesMax, figures, (principal, body) =>
      this.#run(op, principal, body),
    )
  }

  #run(
    op: Extract<Route, { kind: 'operation' }>['op'],
    principal: Principal,
    body: Body,
  ): MaybePromise<Answer> {
    if (this.#engine.locked) throw new KeyfoldError('LOCKED')
    return op === 'batch'
      ? this.#operations.runBatch(principal, body, this.#nextRequestId())
      : this.#operations.run(op, { principal, body, offset: 0, end: body.bytes.length })
  }

  #serveManagement(
    response: HttpResponse,
    request: HttpRequest,
    route: Extract<Route, { kind: 'management' }>,
    figures: RouteFigures,
  ): void {
    const head = readHead(request)
    const query = new URLSearchParams(request.getQuery() ?? '')
    const parameter = route.path.includes(':') ? (request.getParameter(0) ?? '') : ''
    const run = async (principal: Principal, body: Body): Promise<Answer> => {
      if (this.#engine.locked && route.whenLocked !== true) throw new KeyfoldError('LOCKED')
      const fields = body.bytes.length === 0 ? NO_FIELDS : decodeValue(Uint8Array.from(body.bytes))
      if (!(fields instanceof Map)) throw new KeyfoldError('REQUEST_MALFORMED', 'a map is needed')
      const value: PlainValue = await route.handler({
        engine: this.#engine,
        principal,
        name: decodePathParameter(parameter),
        query,
        fields,
      })
      return encodeAnswer(value)
    }
    this.#serve(response, head, MANAGEMENT_BYTES_MAX, figures, run)
  }

  /** Authenticate, receive, run, answer: the one way through for every route. */
  #serve(
    response: HttpResponse,
    head: RequestHead,
    bytesMax: number,
    figures: RouteFigures,
    run: (principal: Principal, body: Body) => MaybePromise<Answer>,
  ): void {
    const startedMs = performance.now()
    const exchange = new Exchange(response)
    const json = head.contentType.startsWith(JSON_TYPE)
    const jsonAnswer =
      head.accept === '' || head.accept === '*/*' ? json : head.accept.includes(JSON_TYPE)
    const fail = (error: unknown): void => {
      const status = this.#sendError(exchange, error, jsonAnswer)
      figures.count(status, performance.now() - startedMs)
    }
    const succeed = (answer: Answer): void => {
      if (jsonAnswer) exchange.send(STATUS_OK, JSON_TYPE, toJson(answer))
      else exchange.send(STATUS_OK, MSGPACK_TYPE, answer)
      figures.count(200, performance.now() - startedMs)
    }
    let principal: Principal
    try {
      if (this.#draining) throw new KeyfoldError('SHUTTING_DOWN')
      principal = this.#authenticate(response, head.authorization)
      if (!json && head.contentType !== '' && !head.contentType.startsWith(MSGPACK_TYPE)) {
        throw new KeyfoldError('MEDIA_TYPE_UNSUPPORTED')
      }
    } catch (error) {
      fail(error)
      return
    }
    const received = (body: Body): void => {
      this.#active++
      const over = (): void => {
        body.release()
        if (--this.#active === 0) this.#onIdle?.()
      }
      let answer: MaybePromise<Answer>
      try {
        if (json && body.bytes.length > 0) body.bytes = jsonToMsgpack(body.bytes)
        answer = run(principal, body)
      } catch (error) {
        over()
        fail(error)
        return
      }
      if (answer instanceof Promise) {
        answer
          .then(succeed, fail)
          .finally(over)
          .catch((error: unknown) => this.#log.error(error))
      } else {
        over()
        succeed(answer)
      }
    }
    exchange.receive(this.#engine.slots, bytesMax, head.announcedBytes, received, fail)
  }

  #authenticate(response: HttpResponse, authorization: string): Principal {
    // A client that shows no certificate at all is let through by the front end, whatever CA it was given.
    if (this.#engine.config.tls?.clientCaFile !== undefined) {
      const { getX509Certificate } = response as HttpResponse & { getX509Certificate?(): string }
      const certificate = getX509Certificate?.call(response) ?? ''
      if (certificate === '') {
        throw new KeyfoldError('UNAUTHENTICATED', 'a client certificate is required')
      }
    }
    return this.#principals.authenticate(authorization)
  }

  /** Sends the error and returns its status. */
  #sendError(exchange: Exchange, error: unknown, json: boolean): number {
    const requestId = this.#nextRequestId()
    const known = this.#knownError(error, requestId)
    const headers: Header[] = [['X-Request-Id', requestId]]
    if (known.retryable) headers.push(['Retry-After', RETRY_AFTER_SECONDS])
    const answer = encodeError(known.code, known.message, requestId)
    if (json) exchange.send(statusLine(known.status), JSON_TYPE, toJson(answer), headers)
    else exchange.send(statusLine(known.status), MSGPACK_TYPE, answer, headers)
    return known.status
  }

  /** What a caller is told; what they are not told goes to the log under the request id. */
  #knownError(error: unknown, requestId: string): KeyfoldError {
    if (error instanceof KeyfoldError && error.code !== 'INTERNAL') {
      this.#log.debug({ requestId, code: error.code }, 'refused')
      return error
    }
    const { message, stack } = error instanceof Error ? error : new Error(String(error))
    this.#log.error({ requestId, reason: message, stack }, 'a request failed')
    return new KeyfoldError('INTERNAL')
  }

  #refuse(response: HttpResponse, code: 'ROUTE_NOT_FOUND' | 'METHOD_NOT_ALLOWED'): void {
    const exchange = new Exchange(response)
    const fail = (): void => void this.#sendError(exchange, new KeyfoldError(code), false)
    // The body is taken and dropped: answering before it is there would break the connection.
    exchange.receive(this.#engine.slots, MANAGEMENT_BYTES_MAX, 0, fail, fail)
  }

  async #serveReady(exchange: Exchange): Promise<void> {
    try {
      if (this.#draining) throw new KeyfoldError('SHUTTING_DOWN')
      await this.#engine.ready()
      exchange.send(STATUS_OK, 'text/plain', textAnswer('ready\n'))
    } catch (error) {
      this.#sendError(exchange, error, true)
    }
  }

  /** Counts tell what is done with which load, so they are for callers with keyfold:ReadMetrics. */
  async #serveMetrics(
    response: HttpResponse,
    exchange: Exchange,
    authorization: string,
  ): Promise<void> {
    try {
      const principal = this.#authenticate(response, authorization)
      authorizeService(principal, 'keyfold:ReadMetrics')
      exchange.send(STATUS_OK, 'text/plain; version=0.0.4', textAnswer(await this.#metrics.text()))
    } catch (error) {
      this.#sendError(exchange, error, true)
    }
  }

  #nextRequestId(): string {
    return `${this.#requestIds}-${(++this.#requests).toString(36)}`
  }
}

const NO_FIELDS: ReadonlyMap<string, Value> = new Map()

function readHead(request: HttpRequest): RequestHead {
  const length = request.getHeader('content-length')
  return {
    authorization: request.getHeader('authorization'),
    contentType: request.getHeader('content-type'),
    accept: request.getHeader('accept'),
    announcedBytes: length === '' ? 0 : Number(length),
  }
}

function decodePathParameter(parameter: string): string {
  try {
    return decodeURIComponent(parameter)
  } catch (cause) {
    throw new KeyfoldError('REQUEST_MALFORMED', 'the path is not well encoded', cause)
  }
}

function toJson(answer: Answer): Answer {
  const json = Buffer.from(msgpackToJson(answer.memory.subarray(answer.offset, answer.end)))
  answer.release()
  return { memory: json, offset: 0, end: json.length, release: () => undefined }
}

function textAnswer(text: string): Answer {
  const memory = Buffer.from(text)
  return { memory, offset: 0, end: memory.length, release: () => undefined }
}

const STATUS_TEXTS: Readonly<Record<number, string>> = {
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  409: 'Conflict',
  413: 'Payload Too Large',
  415: 'Unsupported Media Type',
  429: 'Too Many Requests',
  500: 'Internal Server Error',
  503: 'Service Unavailable',
}

function statusLine(status: number): string {
  return `${status} ${STATUS_TEXTS[status] ?? 'Error'}`
}
