/**
 * The server: its routes and which door takes each, and its life. A request is authenticated, bounded, timed and recorded
 * by the door; a request that waits keeps its body in a slot until it is answered.
 */
import type { Engine } from '../engine.ts'
import type { MaybePromise } from '../envelope/parts.ts'
import { KeyfoldError } from '../errors.ts'
import type { RequestOrigin } from '../kms/kms-key.ts'
import { encodeError, encodeText } from './answer.ts'
import { AwsDoor } from './aws/door.ts'
import { METRICS_TYPE, readHead, STATUS_OK, TEXT_TYPE } from './http.ts'
import { Intake } from './intake.ts'
import type { Log } from './log.ts'
import { Metrics } from './metrics.ts'
import type { Credentials } from './principals.ts'
import { OPERATION_NAMES, recorded } from './records.ts'
import { ROUTES } from './routes.ts'
import { SignedRequests } from './signed-requests.ts'
import { StreamDoor } from './streams/door.ts'
import { Streams } from './streams/streams.ts'
import { boundReads, closeListener, createApp, listen, portOf } from './uws.ts'
import type { HttpRequest, HttpResponse, TemplatedApp } from './uws.ts'
import { V1Door } from './v1-door.ts'
import { WebSockets } from './websocket.ts'
import { isXksPath, XksDoor } from './xks/door.ts'

export interface RunningServer {
  readonly url: string
  readonly port: number
  /** Takes no new connections, finishes what is under way, then closes what is idle. May be called again. */
  drain(): Promise<void>
}

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
  if (config.tls !== undefined && !boundReads(socket)) server.refuseStreams()
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

export class Server {
  readonly #engine: Engine
  readonly #intake: Intake
  readonly #metrics: Metrics
  readonly #v1: V1Door
  readonly #streams: StreamDoor
  readonly #webSockets: WebSockets
  readonly #aws: AwsDoor
  readonly #xks: XksDoor
  readonly #signed: SignedRequests

  constructor(engine: Engine, log: Log) {
    const intake = new Intake(engine, log)
    const streams = new Streams(engine)
    const unexpected = (error: unknown, requestId: string): void =>
      void intake.knownError(error, requestId)
    this.#engine = engine
    this.#intake = intake
    this.#metrics = new Metrics(engine, () => streams.figures)
    this.#v1 = new V1Door(engine, intake)
    this.#streams = new StreamDoor(engine, intake, streams)
    this.#aws = new AwsDoor(engine, unexpected)
    this.#xks = new XksDoor(engine, unexpected)
    this.#signed = new SignedRequests(engine, intake)
    this.#webSockets = new WebSockets({
      slots: engine.slots,
      log,
      bytesMax: engine.config.requestBytesMax,
      figures: this.#metrics.route('/v1/ws'),
      admit: (response, authorization) => {
        intake.assertOpen()
        const credentials = intake.credentialsOf(response, authorization)
        intake.authenticate(credentials)
        return credentials
      },
      refuse: (response, error) => void intake.sendError(intake.open(response, 'get'), error, true),
      secureTransport: intake.secureTransport,
      record: (op, { sourceAddress }) =>
        intake.record(op === undefined ? 'Unknown' : OPERATION_NAMES[op], sourceAddress),
      recorded: (record, run) => recorded(engine, record, run),
      run: (op, credentials, body, origin, record) => {
        intake.assertOpen()
        const principal = intake.authenticate(credentials)
        record?.by(principal)
        return this.#v1.run(op, principal, body, { origin, record })
      },
      failed: (error, requestId = intake.nextRequestId()) => {
        const known = intake.knownError(error, requestId)
        return { status: known.status, answer: encodeError(known.code, known.message, requestId) }
      },
      begin: () => intake.begin(),
      end: () => intake.end(),
    })
  }

  register(app: TemplatedApp): void {
    this.#intake.register(app)
    const paths = new Set<string>()
    for (const route of ROUTES) {
      paths.add(route.path)
      const figures = this.#metrics.route(route.path)
      if (route.kind === 'stream') {
        app[route.method](route.path, (response, request) =>
          this.#streams.serve(response, request, route.op, figures),
        )
      } else if (route.kind === 'operation') {
        app.post(route.path, (response, request) =>
          this.#v1.serveOperation(response, request, route.op, figures),
        )
      } else {
        app[route.method](route.path, (response, request) =>
          this.#v1.serveManagement(response, request, route, figures),
        )
      }
    }
    this.#webSockets.register(app)
    paths.add('/')
    const awsFigures = this.#metrics.route('/')
    app.post('/', (response, request) =>
      this.#signed.serve(response, request, this.#aws, awsFigures),
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
      else this.#signed.serve(response, request, this.#xks, xksFigures)
    })
  }

  refuseStreams(): void {
    this.#streams.refuse()
  }

  /** Resolves when nothing is under way, or after a while. */
  drained(): Promise<void> {
    return this.#intake.drained()
  }

  /** Tells those who hold a connection open that it ends. */
  goAway(): void {
    this.#webSockets.goAway()
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
      this.#intake.certificateOf(response)
    } catch (refusal) {
      error = refusal as KeyfoldError
    }
    this.#intake.sendError(this.#intake.open(response, method), error, jsonAnswer)
  }

  /** Text for operators' tools; their errors are JSON. */
  async #serveText(
    response: HttpResponse,
    request: HttpRequest,
    { type, text }: Text,
  ): Promise<void> {
    const head = readHead(request)
    const exchange = this.#intake.open(response, head.method)
    try {
      const asked = this.#intake.credentialsOf(response, head.authorization)
      exchange.send(STATUS_OK, type, encodeText(await text(asked, exchange)))
    } catch (error) {
      this.#intake.sendError(exchange, error, true)
    }
  }

  async #ready(): Promise<string> {
    this.#intake.assertOpen()
    await this.#engine.ready()
    return 'ready\n'
  }

  /** Counts tell what is done with which load, so they are for callers with keyfold:ReadMetrics. */
  #metricsFor(credentials: Credentials, origin: RequestOrigin): Promise<string> {
    const principal = this.#intake.authenticate(credentials)
    this.#engine.authorizer.authorizeService(principal, 'keyfold:ReadMetrics', origin)
    return this.#metrics.text()
  }
}
