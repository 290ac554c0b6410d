/**
 * The batch API and its management routes: MessagePack or JSON in and out, the caller known by a bearer token or a client
 * certificate before the body is there. What the envelope answers at once leaves in the same tick.
 */
import type { Engine } from '../engine.ts'
import type { MaybePromise } from '../envelope/parts.ts'
import { KeyfoldError } from '../errors.ts'
import { jsonToMsgpack } from '../format/json.ts'
import { decodeValue, malformed, type PlainValue, type Value } from '../format/msgpack.ts'
import type { Principal, RequestOrigin } from '../kms/kms-key.ts'
import { encodeAnswer, encodeJson, type Answer } from './answer.ts'
import type { Body } from './exchange.ts'
import {
  decodePathParameter,
  JSON_TYPE,
  MSGPACK_TYPE,
  readHead,
  STATUS_OK,
  type RequestHead,
} from './http.ts'
import type { Intake } from './intake.ts'
import type { RouteFigures } from './metrics.ts'
import { Operations } from './operations.ts'
import {
  OPERATION_NAMES,
  parametersOf,
  recorded,
  recordedDurably,
  type RequestRecord,
} from './records.ts'
import type { Route } from './routes.ts'
import type { HttpRequest, HttpResponse } from './uws.ts'

/** Management requests are small maps. */
const MANAGEMENT_BYTES_MAX = 64 * 1024

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

type OperationRoute = Extract<Route, { kind: 'operation' }>
type ManagementRoute = Extract<Route, { kind: 'management' }>

export class V1Door {
  readonly #engine: Engine
  readonly #intake: Intake
  readonly #operations: Operations

  constructor(engine: Engine, intake: Intake) {
    this.#engine = engine
    this.#intake = intake
    this.#operations = new Operations(engine)
  }

  serveOperation(
    response: HttpResponse,
    request: HttpRequest,
    op: OperationRoute['op'],
    figures: RouteFigures,
  ): void {
    const head = readHead(request)
    const record = this.#intake.record(OPERATION_NAMES[op], this.#intake.sourceAddressOf(response))
    this.#serve(response, head, {
      bytesMax: this.#engine.config.requestBytesMax,
      figures,
      record,
      keep: (work) => recorded(this.#engine, record, work),
      run: (principal, body, origin) => this.run(op, principal, body, { origin, record }),
    })
  }

  /** Whatever brought the body: a request or a frame. */
  run(
    op: OperationRoute['op'],
    principal: Principal,
    body: Body,
    { origin, record }: { origin: RequestOrigin; record: RequestRecord | undefined },
  ): MaybePromise<Answer> {
    if (this.#engine.locked) throw new KeyfoldError('LOCKED')
    if (op !== 'batch') {
      const { length: end } = body.bytes
      return this.#operations.run(op, { principal, origin, body, record, offset: 0, end })
    }
    const requestId = record?.requestId ?? this.#intake.nextRequestId()
    return this.#operations.runBatch({ principal, origin, body }, requestId, record)
  }

  serveManagement(
    response: HttpResponse,
    request: HttpRequest,
    route: ManagementRoute,
    figures: RouteFigures,
  ): void {
    const head = readHead(request)
    const query = new URLSearchParams(request.getQuery() ?? '')
    const parameter = route.path.includes(':') ? (request.getParameter(0) ?? '') : ''
    const record = this.#intake.record(route.operation, this.#intake.sourceAddressOf(response))
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

  /** Authenticate, receive, run, record, answer: the one way through for every route. */
  #serve(
    response: HttpResponse,
    head: RequestHead,
    { bytesMax, figures, record, keep, run }: Serving,
  ): void {
    const startedMs = performance.now()
    const exchange = this.#intake.open(response, head.method)
    const json = head.contentType === JSON_TYPE
    const fail = (error: unknown): void => {
      const status = this.#intake.sendError(exchange, error, head.jsonAnswer, record?.requestId)
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
      this.#intake.begin()
      const over = (): void => {
        release()
        this.#intake.end()
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
          .catch((error: unknown) => this.#intake.log.error(error))
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
      this.#intake.assertOpen()
      principal = this.#intake.authenticate(
        this.#intake.credentialsOf(response, head.authorization),
      )
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
}

const NO_FIELDS: ReadonlyMap<string, Value> = new Map()
