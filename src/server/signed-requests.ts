/** Takes the requests in that are signed as a whole, for whichever door reads signatures of their kind. */
import type { Engine } from '../engine.ts'
import type { KeyfoldError } from '../errors.ts'
import type { Body } from './exchange.ts'
import { readHead, statusLine, type Header } from './http.ts'
import type { Intake } from './intake.ts'
import type { RouteFigures } from './metrics.ts'
import type { SignedAnswer, SignedDoor, SignedHead } from './signed-door.ts'
import type { HttpRequest, HttpResponse } from './uws.ts'

export class SignedRequests {
  readonly #engine: Engine
  readonly #intake: Intake

  constructor(engine: Engine, intake: Intake) {
    this.#engine = engine
    this.#intake = intake
  }

  /** Who asks is known when the whole body is there: it is what was signed. */
  serve<Head extends SignedHead>(
    response: HttpResponse,
    request: HttpRequest,
    door: SignedDoor<Head>,
    figures: RouteFigures,
  ): void {
    const startedMs = performance.now()
    const { method, announcedBytes } = readHead(request)
    const exchange = this.#intake.open(response, method)
    const target = {
      method: method.toUpperCase(),
      path: request.getUrl(),
      query: request.getQuery() ?? '',
      header: (name: string) => request.getHeader(name),
    }
    const address = this.#intake.sourceAddressOf(response)
    // Read now: the doors copy it, and a copy of an exchange would have no address.
    const { sourceAddress, secureTransport } = exchange
    const origin = { sourceAddress, secureTransport }
    const head = door.read(target, { origin, address }, () => {
      const certificate = this.#intake.certificateOf(response)
      this.#intake.assertOpen()
      return certificate
    })
    const send = ({ status, requestId, body }: SignedAnswer): void => {
      const headers: Header[] = [[door.requestIdHeader, requestId]]
      exchange.send(statusLine(status), door.contentType, body, headers)
      figures.count(status, performance.now() - startedMs)
    }
    const received = (body: Body): void => {
      this.#intake.begin()
      const bytes = Uint8Array.from(body.bytes)
      // Plaintext may stand in it.
      body.bytes.fill(0)
      body.release()
      door
        .answer(head, bytes)
        .then(send)
        .finally(() => {
          bytes.fill(0)
          this.#intake.end()
        })
        .catch((error: unknown) => this.#intake.log.error(error))
    }
    const refused = (error: KeyfoldError): void => send(door.refuse(error))
    exchange.receive(this.#engine.slots, door.requestBytesMax, announcedBytes, received, refused)
  }
}
