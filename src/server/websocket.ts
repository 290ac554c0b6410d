/**
 * The batch API as pipelined frames over one WebSocket (src/format/frame.ts): requests as fast as the window allows,
 * answers as they are ready. The front end cannot pause a WebSocket, so a caller beyond its window is refused, frame
 * by frame.
 */
import type { MaybePromise } from '../envelope/parts.ts'
import { KeyfoldError } from '../errors.ts'
import {
  decodeFrameHeader,
  encodeFrameHeader,
  FRAME_HEADER_BYTES,
  FRAME_OPS,
  FRAME_STATUS_ERROR,
  FRAME_STATUS_OK,
  type FrameHeader,
} from '../format/frame.ts'
import type { OperationName } from '../format/requests.ts'
import type { RequestOrigin } from '../kms/kms-key.ts'
import type { Credentials } from './principals.ts'
import type { RequestRecord } from './records.ts'
import type { SlotPool } from '../pool/slot.ts'
import type { Answer } from './answer.ts'
import { addressText, Body } from './exchange.ts'
import type { Log } from './log.ts'
import type { RouteFigures } from './metrics.ts'
import type { HttpResponse, TemplatedApp, WebSocket } from './uws.ts'

/** Requests under way on one connection: until the socket has taken their answers. */
const WINDOW_MAX = 256
/** Answers that wait for a socket, refusals included. A connection that leaves more of them unread is cut. */
const UNSENT_ANSWERS_MAX = 2 * WINDOW_MAX
/** A connection that takes nothing of a waiting answer for so long is cut, as the front end does over plain HTTP. */
const UNREAD_MS_MAX = 10_000
const UNREAD_WATCH_MS = 1_000
const IDLE_SECONDS_MAX = 120

/** Close codes of RFC 6455 §7.4.1. */
const CLOSE = { goingAway: 1001, protocolError: 1002, textFrame: 1003, policy: 1008 } as const

export interface WebSocketService {
  readonly slots: SlotPool
  readonly log: Log
  readonly bytesMax: number
  readonly figures: RouteFigures
  readonly secureTransport: boolean
  /** Throws where no connection may be opened. */
  admit(response: HttpResponse, authorization: string): Credentials
  refuse(response: HttpResponse, error: unknown): void
  /** Asks for each frame who sends it: a connection outlives tokens. */
  run(
    op: OperationName | 'batch',
    credentials: Credentials,
    body: Body,
    origin: RequestOrigin,
    record: RequestRecord | undefined,
  ): MaybePromise<Answer>
  /** The record of a frame; undefined where there is no audit log. */
  record(op: OperationName | 'batch' | undefined, origin: RequestOrigin): RequestRecord | undefined
  /** Runs `run`, whose outcome is recorded before it is told. */
  recorded(record: RequestRecord | undefined, run: () => MaybePromise<Answer>): MaybePromise<Answer>
  /** The answer that stands for an error. */
  failed(
    error: unknown,
    requestId: string | undefined,
  ): { readonly status: number; readonly answer: Answer }
  /** Around everything that a drain waits for. */
  begin(): void
  end(): void
}

interface Connection {
  readonly credentials: Credentials
  readonly origin: RequestOrigin
  /** Operations that run. */
  running: number
  /** Answers in the order in which they leave; the first was handed to the socket, which has not taken all of it. */
  readonly unsent: Answer[]
  /** Bytes of the first that the socket still had when it was last seen to take some, and when that was. */
  unreadBytes: number
  readAtMs: number
  closed: boolean
}

type Socket = WebSocket<Connection>

const OPS = new Map(
  Object.entries(FRAME_OPS).map(([op, number]) => [number as number, op as keyof typeof FRAME_OPS]),
)

export class WebSockets {
  readonly #service: WebSocketService
  readonly #sockets = new Set<Socket>()
  readonly #unreadWatch: NodeJS.Timeout

  constructor(service: WebSocketService) {
    this.#service = service
    this.#unreadWatch = setInterval(() => this.#cutStalled(), UNREAD_WATCH_MS)
    this.#unreadWatch.unref()
  }

  register(app: TemplatedApp): void {
    const service = this.#service
    app.ws<Connection>('/v1/ws', {
      maxPayloadLength: service.bytesMax,
      // An answer is handed over when the one before it is gone, whatever its length: nothing here is to be dropped.
      maxBackpressure: 2 ** 31 - 1,
      idleTimeout: IDLE_SECONDS_MAX,
      compression: 0,
      upgrade: (response, request, context) => {
        let credentials: Credentials
        try {
          credentials = service.admit(response, request.getHeader('authorization'))
        } catch (error) {
          service.refuse(response, error)
          return
        }
        const sourceAddress = addressText(response.getRemoteAddress())
        const origin = { sourceAddress, secureTransport: service.secureTransport }
        response.upgrade<Connection>(
          {
            credentials,
            origin,
            running: 0,
            unsent: [],
            unreadBytes: 0,
            readAtMs: 0,
            closed: false,
          },
          request.getHeader('sec-websocket-key'),
          request.getHeader('sec-websocket-protocol'),
          request.getHeader('sec-websocket-extensions'),
          context,
        )
      },
      open: (socket) => void this.#sockets.add(socket),
      message: (socket, message, isBinary) => {
        if (isBinary) this.#serveFrame(socket, new Uint8Array(message))
        else socket.end(CLOSE.textFrame, 'frames are binary')
      },
      // Not in this very event: what is sent inside it and not taken at once would never be drained.
      drain: (socket) => {
        const connection = socket.getUserData()
        setImmediate(() => this.#flush(socket, connection))
      },
      close: (socket) => {
        this.#sockets.delete(socket)
        const connection = socket.getUserData()
        connection.closed = true
        for (const answer of connection.unsent.splice(0)) this.#sent(answer)
      },
    })
  }

  goAway(): void {
    clearInterval(this.#unreadWatch)
    for (const socket of [...this.#sockets]) socket.end(CLOSE.goingAway, 'the server shuts down')
  }

  #serveFrame(socket: Socket, frame: Uint8Array): void {
    const startedMs = performance.now()
    const service = this.#service
    const connection = socket.getUserData()
    if (frame.length < FRAME_HEADER_BYTES) {
      socket.end(CLOSE.protocolError, `a frame has at least ${FRAME_HEADER_BYTES} bytes`)
      return
    }
    const { requestId, kind } = decodeFrameHeader(frame)
    const body = new Body(service.slots, frame.subarray(FRAME_HEADER_BYTES), undefined)
    const op = OPS.get(kind)
    const record = service.record(op, connection.origin)
    const succeed = (answer: Answer): void => {
      service.figures.count(200, performance.now() - startedMs)
      this.#send(socket, connection, { requestId, kind: FRAME_STATUS_OK }, answer)
    }
    const fail = (error: unknown): void => {
      const { status, answer } = service.failed(error, record?.requestId)
      service.figures.count(status, performance.now() - startedMs)
      this.#send(socket, connection, { requestId, kind: FRAME_STATUS_ERROR }, answer)
    }
    const run = (): MaybePromise<Answer> => {
      if (op === undefined) throw new KeyfoldError('REQUEST_MALFORMED', `op: ${kind} is unknown`)
      if (connection.running + connection.unsent.length >= WINDOW_MAX) {
        throw new KeyfoldError(
          'OVERLOADED',
          `${WINDOW_MAX} requests are under way on this connection`,
        )
      }
      return service.run(op, connection.credentials, body, connection.origin, record)
    }
    let answer: MaybePromise<Answer>
    try {
      answer = service.recorded(record, run)
    } catch (error) {
      body.release()
      fail(error)
      return
    }
    if (!(answer instanceof Promise)) {
      body.release()
      succeed(answer)
      return
    }
    connection.running++
    service.begin()
    answer
      .then(succeed, fail)
      .finally(() => {
        connection.running--
        body.release()
        service.end()
      })
      .catch((error: unknown) => service.log.error(error))
  }

  #send(socket: Socket, connection: Connection, header: FrameHeader, answer: Answer): void {
    // A closed socket must not be touched: it throws.
    if (connection.closed) {
      answer.release()
      return
    }
    encodeFrameHeader(header, answer.memory, answer.offset - FRAME_HEADER_BYTES)
    const { unsent } = connection
    if (unsent.length === 0) {
      this.#hand(socket, answer)
      if (socket.getBufferedAmount() === 0) {
        answer.release()
        return
      }
    }
    this.#service.begin()
    unsent.push(answer)
    if (unsent.length === 1) this.#noteRead(socket, connection)
    // Not by a close frame: it would wait behind what is not read.
    if (unsent.length > UNSENT_ANSWERS_MAX) socket.close()
  }

  #noteRead(socket: Socket, connection: Connection): void {
    connection.unreadBytes = socket.getBufferedAmount()
    connection.readAtMs = performance.now()
  }

  /** Otherwise a caller could hold slots for as long as they like, by reading nothing and sending pings. */
  #cutStalled(): void {
    const nowMs = performance.now()
    for (const socket of [...this.#sockets]) {
      const connection = socket.getUserData()
      if (connection.unsent.length === 0) continue
      if (socket.getBufferedAmount() < connection.unreadBytes) this.#noteRead(socket, connection)
      else if (nowMs - connection.readAtMs > UNREAD_MS_MAX) socket.close()
    }
  }

  #hand(socket: Socket, { memory, offset, end }: Answer): void {
    socket.cork(() => socket.send(memory.subarray(offset - FRAME_HEADER_BYTES, end), true))
  }

  /** An answer stays charged until the socket has taken all of it; then the next one follows. */
  #flush(socket: Socket, connection: Connection): void {
    const { unsent } = connection
    // Of a connection that closed meanwhile nothing is unsent any more.
    while (unsent[0] !== undefined && socket.getBufferedAmount() === 0) {
      this.#sent(unsent.shift() as Answer)
      if (unsent[0] === undefined) return
      this.#hand(socket, unsent[0])
      this.#noteRead(socket, connection)
    }
  }

  #sent(answer: Answer): void {
    answer.release()
    this.#service.end()
  }
}
