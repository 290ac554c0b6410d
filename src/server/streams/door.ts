/** The streaming routes: a body of any length comes in and an answer of any length goes out, with the record between. */
import type { Engine } from '../../engine.ts'
import { KeyfoldError } from '../../errors.ts'
import { BYTES_TYPE, readHead } from '../http.ts'
import type { Intake } from '../intake.ts'
import type { RouteFigures } from '../metrics.ts'
import { recorded } from '../records.ts'
import type { HttpRequest, HttpResponse } from '../uws.ts'
import type { StreamOperation } from './parameters.ts'
import { STREAM_OPERATIONS, type Streams } from './streams.ts'

export class StreamDoor {
  readonly #engine: Engine
  readonly #intake: Intake
  readonly #streams: Streams
  #refused = false

  constructor(engine: Engine, intake: Intake, streams: Streams) {
    this.#engine = engine
    this.#intake = intake
    this.#streams = streams
  }

  /** From now on: parts of a body could be lost unnoticed, see boundReads in server/uws.ts. */
  refuse(): void {
    this.#refused = true
    this.#intake.log.warn('STREAMS OVER TLS ARE REFUSED: they need the native core')
  }

  /** The record is taken before the end of the answer goes out: without it, an answer has none. */
  serve(
    response: HttpResponse,
    request: HttpRequest,
    op: StreamOperation,
    figures: RouteFigures,
  ): void {
    const startedMs = performance.now()
    const { method, authorization, jsonAnswer } = readHead(request, true)
    const query = request.getQuery() ?? ''
    const exchange = this.#intake.open(response, method)
    const record = this.#intake.record(
      STREAM_OPERATIONS[op],
      this.#intake.sourceAddressOf(response),
    )
    const requestId = record?.requestId ?? this.#intake.nextRequestId()
    const answer = exchange.answerInChunks({
      contentType: BYTES_TYPE,
      headers: [['X-Request-Id', requestId]],
    })
    const work = async (): Promise<typeof NOTHING_HELD> => {
      this.#intake.assertOpen()
      const principal = this.#intake.authenticate(
        this.#intake.credentialsOf(response, authorization),
      )
      record?.by(principal)
      if (this.#refused) {
        throw new KeyfoldError('NATIVE_UNAVAILABLE', 'streams over TLS need the native core')
      }
      await this.#streams.run({ op, query, exchange, answer, principal, record })
      return NOTHING_HELD
    }
    const succeed = (): void => {
      answer.finish()
      figures.count(200, performance.now() - startedMs)
    }
    const fail = (error: unknown): void => {
      let status: number
      if (answer.begun) {
        const known = this.#intake.knownError(error, requestId)
        if (known.code !== 'ABORTED') {
          this.#intake.log.warn({ requestId, code: known.code }, 'a stream was cut')
        }
        exchange.cut()
        status = known.status
      } else {
        // What is left of the body is read and dropped.
        answer.resume()
        status = this.#intake.sendError(exchange, error, jsonAnswer, requestId)
      }
      figures.count(status, performance.now() - startedMs)
    }
    this.#intake.begin()
    const settled = async (): Promise<typeof NOTHING_HELD> => recorded(this.#engine, record, work)
    settled()
      .then(succeed, fail)
      .finally(() => this.#intake.end())
      .catch((error: unknown) => this.#intake.log.error(error))
  }
}

/** Of a stream, whose answer is out. */
const NOTHING_HELD = { release: (): void => undefined }
