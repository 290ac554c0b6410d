/**
 * The server: every request is authenticated, bounded, timed and answered here, whatever its route. What the envelope
 * answers at once leaves in the same tick; a request that waits keeps its body in a slot until it is answered.
 */
import type { Engine } from '../engine.ts'
import { KeyfoldError } from '../errors.ts'
import { decodeValue, malformed, type PlainValue, type Value } from '../format/msgpack.ts'
import { jsonToMsgpack } from '../format/json.ts'
import type { Principal, RequestOrigin } from '../kms/kms-key.ts'
import { encodeAnswer, encodeError, encodeJson, encodeText, type Answer } from './answer.ts'
import { AwsDoor } from './aws/door.ts'
import { Exchange, type Body } from './exchange.ts'
import {
  BYTES_TYPE,
  decodePathParameter,
  JSON_TYPE,
  METRICS_TYPE,
  MSGPACK_TYPE,
  readHead,
  STATUS_OK,
  statusLine,
  TEXT_TYPE,
  type Header,
  type RequestHead,
} from './http.ts'
import type { Log } from './log.ts'
import { Metrics, type RouteFigures } from './metrics.ts'
import { Operations, type MaybePromise } from './operations.ts'
import { Principals, type Credentials } from './principals.ts'
import {
  OPERATION_NAMES,
  parametersOf,
  recorded,
  recordedDurably,
  RequestRecord,
} from './records.ts'
import { ROUTES, type Route } from './routes.ts'
import type { SignedAnswer, SignedDoor, SignedHead } from './signed-door.ts'
import { SourceAddresses } from './source-addresses.ts'
import { closeListener, createApp, listen, portOf } from './uws.ts'
import type { HttpRequest, HttpResponse, TemplatedApp } from './uws.ts'
import { WebSockets } from './websocket.ts'
import type { StreamOperation } from './streams/parameters.ts'
import { Streams, STREAM_OPERATIONS } from './streams/streams.ts'
import { isXksPath, XksDoor } from './xks/door.ts'

export interface RunningServer {
  readonly url: string
  readonly port: number
  /** Takes no new connections, finishes what is under way, then closes what is idle. May be called again. */
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
  let drained: Promise<void> | undefined
  const drain = async (): Promise<void> => {
    closeListener(socket)
    await server.drained()
    server.goAway()
    app.close()
  }
  const host = config.listen.host.includes(':') ? `[${config.listen.host}]` : config.listen.host
  return {
    url: `${config.tls === undefined ? 'http' : 'https'}://${host}:${port}`,
    port,
    // Once: a listener that is closed twice takes the process with it.
    drain: () => (drained ??= drain()),
  }
}

/** What operators' tools read. */
interface Text {
  readonly path: string
  readonly type: string
  text(credentials: Credentials, origin: RequestOrigin): MaybePromise<string>
}

/** How a route is served: its bounds, and what is done with a body that is there. */
interface Serving {
  readonly bytesMax: number
  readonly figures: RouteFigures
  /** Undefined where there is no audit log. */
  readonly record: RequestRecord | undefined
  /** Runs the work, whose outcome is recorded before it is told. */
  keep(work: () => MaybePromise<Answer>): MaybePromise<Answer>
  run(principal: Principal, body: Body, origin: RequestOrigin): MaybePromise<Answer>
}

export class Server {
  readonly #engine: Engine
  readonly #log: Log
  readonly #principals: Principals
  readonly #operations: Operations
  readonly #metrics: Metrics
  readonly #webSockets: WebSockets
  readonly #aws: AwsDoor
  readonly #xks: XksDoor
  readonly #streams: Streams
  readonly #sources: SourceAddresses | undefined
  readonly #requestIds: string
  #requests = 0
  /** Exchanges whose last byte is not out, and operations that run, also for a caller who is gone. */
  #active = 0
  #draining = false
  #onIdle: (() => void) | undefined

  constructor(engine: Engine, log: Log) {
    this.#engine = engine
    this.#log = log
    this.#principals = new Principals(engine.tokens, engine.config.account)
    this.#operations = new Operations(engine)
    this.#streams = new Streams(engine)
    this.#metrics = new Metrics(engine, () => this.#streams.figures)
    this.#sources = engine.audit.on ? new SourceAddresses() : undefined
    this.#requestIds = `${Date.now().toString(36)}-${process.pid.toString(36)}`
    const unexpected = (error: unknown, requestId: string): void =>
      void this.#knownError(error, requestId)
    this.#aws = new AwsDoor(engine, unexpected)
    this.#xks = new XksDoor(engine, unexpected)
    this.#webSockets = new WebSockets({
      slots: engine.slots,
      log,
      bytesMax: engine.config.requestBytesMax,
      figures: this.#metrics.route('/v1/ws'),
      admit: (response, authorization) => {
        if (this.#draining) throw new KeyfoldError('SHUTTING_DOWN')
        const credentials = { authorization, certificate: this.#certificateOf(response) }
        this.#principals.authenticate(credentials)
        return credentials
      },
      refuse: (response, error) => void this.#sendError(this.#open(response, 'get'), error, true),
      secureTransport: this.#secureTransport,
      record: (op, { sourceAddress }) =>
        this.#record(op === undefined ? 'Unknown' : OPERATION_NAMES[op], sourceAddress),
      recorded: (record, run) => recorded(this.#engine, record, run),
      run: (op, credentials, body, origin, record) => {
        if (this.#draining) throw new KeyfoldError('SHUTTING_DOWN')
        const principal = this.#principals.authenticate(credentials)
        record?.by(principal)
        return this.#run(op, principal, body, { origin, record })
      },
      failed: (error, requestId = this.#nextRequestId()) => {
        const known = this.#knownError(error, requestId)
        return { status: known.status, answer: encodeError(known.code, known.message, requestId) }
      },
      begin: () => this.#begin(),
      end: () => this.#end(),
    })
  }

  register(app: TemplatedApp): void {
    this.#sources?.register(app)
    const paths = new Set<string>()
    for (const route of ROUTES) {
      paths.add(route.path)
      const figures = this.#metrics.route(route.path)
      if (route.kind === 'stream') {
        app[route.method](route.path, (response, request) =>
          this.#serveStream(response, request, route.op, figures),
        )
      } else if (route.kind === 'operation') {
        app.post(route.path, (response, request) =>
          this.#serveOperation(response, request, route.op, figures),
        )
      } else {
        app[route.method](route.path, (response, request) =>
          this.#serveManagement(response, request, route, figures),
        )
      }
    }
    this.#webSockets.register(app)
    paths.add('/')
    const awsFigures = this.#metrics.route('/')
    app.post('/', (response, request) =>
      this.#serveSigned(response, request, this.#aws, awsFigures),
    )
    const texts: readonly Text[] = [
      { path: '/healthz', type: TEXT_TYPE, text: () => 'ok\n' },
      // What a proxy of AWS's own sample answers: load balancers are set to it.
      { path: '/ping', type: TEXT_TYPE, text: () => 'pong\n' },
      { path: '/readyz', type: TEXT_TYPE, text: () => this.#ready() },
      {
        path: '/metrics',
        type: METRICS_TYPE,
        text: (credentials, origin) => this.#metricsFor(credentials, origin),
      },
    ]
    for (const text of texts) {
      paths.add(text.path)
      app.get(text.path, (response, request) => void this.#serveText(response, request, text))
    }
    for (const path of paths) {
      app.any(path, (response, request) => this.#refuse(response, request, 'METHOD_NOT_ALLOWED'))
    }
    const xksFigures = this.#metrics.route('/kms/xks/v1')
    app.any('/*', (response, request) => {
      // Behind prefixes that come and go, which no route of the front end could name.
      if (!isXksPath(request.getUrl())) this.#refuse(response, request, 'ROUTE_NOT_FOUND')
      else this.#serveSigned(response, request, this.#xks, xksFigures)
    })
  }

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

  /** Tells those who hold a connection open that it ends. */
  goAway(): void {
    this.#webSockets.goAway()
  }

  #begin(): void {
    this.#active++
  }

  #end(): void {
    if (--this.#active === 0) this.#onIdle?.()
  }

  #open(response: HttpResponse, method: string): Exchange {
    this.#begin()
    return new Exchange(response, {
      method,
      secureTransport: this.#secureTransport,
      over: () => this.#end(),
    })
  }

  #serveOperation(
    response: HttpResponse,
    request: HttpRequest,
    op: Extract<Route, { kind: 'operation' }>['op'],
    figures: RouteFigures,
  ): void {
    const head = readHead(request)
    const record = this.#record(OPERATION_NAMES[op], this.#sources?.of(response))
    this.#serve(response, head, {
      bytesMax: this.#engine.config.requestBytesMax,
      figures,
      record,
      keep: (work) => recorded(this.#engine, record, work),
      run: (principal, body, origin) => this.#run(op, principal, body, { origin, record }),
    })
  }

  #run(
    op: Extract<Route, { kind: 'operation' }>['op'],
    principal: Principal,
    body: Body,
    { origin, record }: { origin: RequestOrigin; record: RequestRecord | undefined },
  ): MaybePromise<Answer> {
    if (this.#engine.locked) throw new KeyfoldError('LOCKED')
    if (op !== 'batch') {
      const { length: end } = body.bytes
      return this.#operations.run(op, { principal, origin, body, record, offset: 0, end })
    }
    const requestId = record?.requestId ?? this.#nextRequestId()
    return this.#operations.runBatch({ principal, origin, body }, requestId, record)
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
    const record = this.#record(route.operation, this.#sources?.of(response))
    const always = route.whenLocked === true
    const run = async (
      principal: Principal,
      body: Body,
      { sourceAddress, secureTransport }: RequestOrigin,
    ): Promise<Answer> => {
      if (this.#engine.locked && !always) throw new KeyfoldError('LOCKED')
      const name = decodePathParameter(parameter)
      if (record !== undefined) record.parameters = parametersOf([...query, ['name', name]])
      const fields = body.bytes.length === 0 ? NO_FIELDS : decodeValue(Uint8Array.from(body.bytes))
      if (!(fields instanceof Map)) throw malformed('request', 'a map is needed')
      for (const field of (fields as ReadonlyMap<string, Value>).keys()) {
        if (!route.fields.includes(field)) {
          throw malformed('request', `the key ${JSON.stringify(field)} is not known here`)
        }
      }
      if (record !== undefined && fields.size > 0) {
        record.parameters = { ...record.parameters, ...parametersOf(fields) }
      }
      const value: PlainValue = await route.handler({
        engine: this.#engine,
        principal,
        origin: { sourceAddress, secureTransport },
        name,
        query,
        fields,
        record,
      })
      return encodeAnswer(value)
    }
    this.#serve(response, head, {
      bytesMax: MANAGEMENT_BYTES_MAX,
      figures,
      record,
      keep: (work) => recordedDurably(this.#engine, record, always, async () => work()),
      run,
    })
  }

  /** The record is taken before the end of the answer goes out: without it, an answer has none. */
  #serveStream(
    response: HttpResponse,
    request: HttpRequest,
    op: StreamOperation,
    figures: RouteFigures,
  ): void {
    const startedMs = performance.now()
    const { method, authorization, jsonAnswer } = readHead(request, true)
    const query = request.getQuery() ?? ''
    const exchange = this.#open(response, method)
    const record = this.#record(STREAM_OPERATIONS[op], this.#sources?.of(response))
    const requestId = record?.requestId ?? this.#nextRequestId()
    const head = { contentType: BYTES_TYPE, headers: [['X-Request-Id', requestId]] as const }
    const work = async (): Promise<typeof NOTHING_HELD> => {
      if (this.#draining) throw new KeyfoldError('SHUTTING_DOWN')
      const principal = this.#authenticate(response, authorization)
      record?.by(principal)
      await this.#streams.run({ op, query, exchange, head, principal, record })
      return NOTHING_HELD
    }
    const succeed = (): void => {
      exchange.finish()
      figures.count(200, performance.now() - startedMs)
    }
    const fail = (error: unknown): void => {
      let status: number
      if (exchange.begun) {
        const known = this.#knownError(error, requestId)
        if (known.code !== 'ABORTED') {
          this.#log.warn({ requestId, code: known.code }, 'a stream was cut')
        }
        exchange.cut()
        status = known.status
      } else {
        // What is left of the body is read and dropped.
        exchange.resume()
        status = this.#sendError(exchange, error, jsonAnswer, requestId)
      }
      figures.count(status, performance.now() - startedMs)
    }
    this.#begin()
    const settled = async (): Promise<void> => {
      try {
        await recorded(this.#engine, record, work)
      } finally {
        // Over TLS, an answer within the handler of a part of the body costs what was read behind that part.
        await new Promise((resolve) => setImmediate(resolve))
      }
    }
    settled()
      .then(succeed, fail)
      .finally(() => this.#end())
      .catch((error: unknown) => this.#log.error(error))
  }

  /** Who asks is known when the whole body is there: it is what was signed. */
  #serveSigned<Head extends SignedHead>(
    response: HttpResponse,
    request: HttpRequest,
    door: SignedDoor<Head>,
    figures: RouteFigures,
  ): void {
    const startedMs = performance.now()
    const { method, announcedBytes } = readHead(request)
    const exchange = this.#open(response, method)
    const target = {
      method: method.toUpperCase(),
      path: request.getUrl(),
      query: request.getQuery() ?? '',
      header: (name: string) => request.getHeader(name),
    }
    const address = this.#sources?.of(response)
    // Read now: the doors copy it, and a copy of an exchange would have no address.
    const { sourceAddress, secureTransport } = exchange
    const origin = { sourceAddress, secureTransport }
    const head = door.read(target, { origin, address }, () => {
      const certificate = this.#certificateOf(response)
      if (this.#draining) throw new KeyfoldError('SHUTTING_DOWN')
      return certificate
    })
    const send = ({ status, requestId, body }: SignedAnswer): void => {
      const headers: Header[] = [[door.requestIdHeader, requestId]]
      exchange.send(statusLine(status), door.contentType, body, headers)
      figures.count(status, performance.now() - startedMs)
    }
    const received = (body: Body): void => {
      this.#begin()
      const bytes = Uint8Array.from(body.bytes)
      // Plaintext may stand in it.
      body.bytes.fill(0)
      body.release()
      door
        .answer(head, bytes)
        .then(send)
        .finally(() => {
          bytes.fill(0)
          this.#end()
        })
        .catch((error: unknown) => this.#log.error(error))
    }
    const refused = (error: KeyfoldError): void => send(door.refuse(error))
    exchange.receive(this.#engine.slots, door.requestBytesMax, announcedBytes, received, refused)
  }

  /** Authenticate, receive, run, record, answer: the one way through for every route. */
  #serve(
    response: HttpResponse,
    head: RequestHead,
    { bytesMax, figures, record, keep, run }: Serving,
  ): void {
    const startedMs = performance.now()
    const exchange = this.#open(response, head.method)
    const json = head.contentType === JSON_TYPE
    const fail = (error: unknown): void => {
      const status = this.#sendError(exchange, error, head.jsonAnswer, record?.requestId)
      figures.count(status, performance.now() - startedMs)
    }
    const succeed = (answer: Answer): void => {
      let sent: Answer
      try {
        sent = head.jsonAnswer ? encodeJson(answer, this.#engine.slots) : answer
      } catch (error) {
        fail(error)
        return
      }
      exchange.send(STATUS_OK, head.jsonAnswer ? JSON_TYPE : MSGPACK_TYPE, sent)
      figures.count(200, performance.now() - startedMs)
    }
    const settle = (work: () => MaybePromise<Answer>, release: () => void): void => {
      this.#begin()
      const over = (): void => {
        release()
        this.#end()
      }
      let answer: MaybePromise<Answer>
      try {
        answer = keep(work)
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
    const refuse = (error: unknown): void => {
      const refused = (): never => {
        throw error
      }
      settle(refused, () => undefined)
    }
    let principal: Principal
    try {
      if (this.#draining) throw new KeyfoldError('SHUTTING_DOWN')
      principal = this.#authenticate(response, head.authorization)
      record?.by(principal)
      if (!json && head.contentType !== '' && head.contentType !== MSGPACK_TYPE) {
        throw new KeyfoldError('MEDIA_TYPE_UNSUPPORTED')
      }
    } catch (error) {
      refuse(error)
      return
    }
    const received = (body: Body): void => {
      const work = (): MaybePromise<Answer> => {
        if (json && body.bytes.length > 0) body.replace(jsonToMsgpack(body.bytes))
        return run(principal, body, exchange)
      }
      settle(work, () => body.release())
    }
    exchange.receive(this.#engine.slots, bytesMax, head.announcedBytes, received, refuse)
  }

  #record(operation: string, sourceAddress: string | undefined): RequestRecord | undefined {
    if (!this.#engine.audit.on) return undefined
    const requestId = this.#nextRequestId()
    return new RequestRecord(operation, { requestId, sourceAddress, door: 'v1' })
  }

  #authenticate(response: HttpResponse, authorization: string): Principal {
    const certificate = this.#certificateOf(response)
    return this.#principals.authenticate({ authorization, certificate })
  }

  /** The client's certificate, '' where none is asked for. Throws UNAUTHENTICATED where one is and none is shown. */
  #certificateOf(response: HttpResponse): string {
    if (this.#engine.config.tls?.clientCaFile === undefined) return ''
    // A client that shows no certificate at all is let through by the front end, whatever CA it was given.
    const { getX509Certificate } = response as HttpResponse & { getX509Certificate?(): string }
    const certificate = getX509Certificate?.call(response) ?? ''
    if (certificate === '') {
      throw new KeyfoldError('UNAUTHENTICATED', 'a client certificate is required')
    }
    return certificate
  }

  /** Sends the error and returns its status. */
  #sendError(
    exchange: Exchange,
    error: unknown,
    json: boolean,
    requestId = this.#nextRequestId(),
  ): number {
    const known = this.#knownError(error, requestId)
    const headers: Header[] = [['X-Request-Id', requestId]]
    if (known.retryable) headers.push(['Retry-After', RETRY_AFTER_SECONDS])
    const answer = encodeError(known.code, known.message, requestId)
    const status = statusLine(known.status)
    if (json) exchange.send(status, JSON_TYPE, encodeJson(answer, this.#engine.slots), headers)
    else exchange.send(status, MSGPACK_TYPE, answer, headers)
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

  /** Answers at once: the front end drops a body that nobody asked for. */
  #refuse(
    response: HttpResponse,
    request: HttpRequest,
    code: 'ROUTE_NOT_FOUND' | 'METHOD_NOT_ALLOWED',
  ): void {
    const { method, jsonAnswer } = readHead(request)
    let error = new KeyfoldError(code)
    try {
      this.#certificateOf(response)
    } catch (refusal) {
      error = refusal as KeyfoldError
    }
    this.#sendError(this.#open(response, method), error, jsonAnswer)
  }

  /** Text for operators' tools; their errors are JSON. */
  async #serveText(
    response: HttpResponse,
    request: HttpRequest,
    { type, text }: Text,
  ): Promise<void> {
    const head = readHead(request)
    const exchange = this.#open(response, head.method)
    try {
      const certificate = this.#certificateOf(response)
      const asked = { authorization: head.authorization, certificate }
      exchange.send(STATUS_OK, type, encodeText(await text(asked, exchange)))
    } catch (error) {
      this.#sendError(exchange, error, true)
    }
  }

  async #ready(): Promise<string> {
    if (this.#draining) throw new KeyfoldError('SHUTTING_DOWN')
    await this.#engine.ready()
    return 'ready\n'
  }

  /** Counts tell what is done with which load, so they are for callers with keyfold:ReadMetrics. */
  #metricsFor(credentials: Credentials, origin: RequestOrigin): Promise<string> {
    const principal = this.#principals.authenticate(credentials)
    this.#engine.authorizer.authorizeService(principal, 'keyfold:ReadMetrics', origin)
    return this.#metrics.text()
  }

  get #secureTransport(): boolean {
    return this.#engine.config.tls !== undefined
  }

  #nextRequestId(): string {
    return `${this.#requestIds}-${(++this.#requests).toString(36)}`
  }
}

/** Of a stream, whose answer is out. */
const NOTHING_HELD = { release: (): void => undefined }
const NO_FIELDS: ReadonlyMap<string, Value> = new Map()
