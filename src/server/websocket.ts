/**
 * The batch API as pipelined frames over one WebSocket (src/format/frame.ts): requests as fast as the window allows,
 * answers as they are ready. The front end cannot pause a WebSocket, so a caller beyond its window is refused, frame
 * by frame.
 */
import { ERRORS, KeyfoldError, type ErrorCode } from '../errors.ts'
import {
  decodeFrameHeader,
  encodeFrameHeader,
  FRAME_HEADER_BYTES,
  FRAME_OPS,
  FRAME_STATUS_ERROR,
  FRAME_STATUS_OK,
} from '../format/frame.ts'
import type { OperationName } from '../format/requests.ts'
import type { Principal } from '../kms/kms-key.ts'
import type { SlotPool } from '../pool/slot.ts'
import type { Answer } from './answer.ts'
import { Body } from './exchange.ts'
import type { Log } from './log.ts'
import type { MaybePromise } from './operations.ts'
import type { HttpResponse, TemplatedApp, WebSocket } from './uws.ts'

/** Requests under way on one connection. */
const WINDOW_MAX = 256
/** Answers that a slow reader may leave behind; then the connection is closed rather than answers dropped. */
const BACKLOG_BYTES_MAX = 256 * 2 ** 20
const IDLE_SECONDS_MAX = 120

export interface WebSocketService {
  readonly slots: SlotPool
  readonly log: Log
  readonly bytesMax: number
  authenticate(response: HttpResponse, authorization: string): Principal
  run(op: OperationName | 'batch', principal: Principal, body: Body): MaybePromise<Answer>
  /** The answer that stands for an error. */
  failed(error: unknown): Answer
}

interface Connection {
  readonly principal: Principal
  underWay: number
  closed: boolean
}

type Socket = WebSocket<Connection>

const OPS = new Map(
  Object.entries(FRAME_OPS).map(([op, number]) => [number as number, op as keyof typeof FRAME_OPS]),
)

export function serveWebSocket(app: TemplatedApp, service: WebSocketService): void {
  app.ws<Connection>('/v1/ws', {
    maxPayloadLength: service.bytesMax,
    maxBackpressure: BACKLOG_BYTES_MAX,
    closeOnBackpressureLimit: true,
    idleTimeout: IDLE_SECONDS_MAX,
    compression: 0,
    upgrade: (response, request, context) => {
      try {
        const principal = service.authenticate(response, request.getHeader('authorization'))
        response.upgrade<Connection>(
          { principal, underWay: 0, closed: false },
          request.getHeader('sec-websocket-key'),
          request.getHeader('sec-websocket-protocol'),
          request.getHeader('sec-websocket-extensions'),
          context,
        )
      } catch (error) {
        const code: ErrorCode = error instanceof KeyfoldError ? error.code : 'INTERNAL'
        response.writeStatus(String(ERRORS[code].status)).end(ERRORS[code].message)
      }
    },
    message: (socket, message) => serveFrame(service, socket, new Uint8Array(message)),
    close: (socket) => {
      socket.getUserData().closed = true
    },
  })
}

function serveFrame(service: WebSocketService, socket: Socket, frame: Uint8Array): void {
  const connection = socket.getUserData()
  if (frame.length < FRAME_HEADER_BYTES) {
    socket.end(1002, 'a frame has at least 5 bytes')
    return
  }
  const { requestId, kind } = decodeFrameHeader(frame)
  const body = new Body(service.slots, frame.subarray(FRAME_HEADER_BYTES), undefined)
  const fail = (error: unknown): void =>
    send(connection, socket, requestId, FRAME_STATUS_ERROR, service.failed(error))
  let answer: MaybePromise<Answer>
  try {
    const op = OPS.get(kind)
    if (op === undefined) throw new KeyfoldError('REQUEST_MALFORMED', `op: ${kind} is unknown`)
    if (connection.underWay >= WINDOW_MAX) {
      throw new KeyfoldError(
        'OVERLOADED',
        `${WINDOW_MAX} requests are under way on this connection`,
      )
    }
    answer = service.run(op, connection.principal, body)
  } catch (error) {
    body.release()
    fail(error)
    return
  }
  if (!(answer instanceof Promise)) {
    body.release()
    send(connection, socket, requestId, FRAME_STATUS_OK, answer)
    return
  }
  connection.underWay++
  answer
    .then((done) => send(connection, socket, requestId, FRAME_STATUS_OK, done), fail)
    .finally(() => {
      connection.underWay--
      body.release()
    })
    .catch((error: unknown) => service.log.error(error))
}

function send(
  connection: Connection,
  socket: Socket,
  requestId: number,
  kind: number,
  answer: Answer,
): void {
  try {
    // A closed socket must not be touched: it throws.
    if (connection.closed) return
    const start = answer.offset - FRAME_HEADER_BYTES
    encodeFrameHeader({ requestId, kind }, answer.memory, start)
    socket.cork(() => socket.send(answer.memory.subarray(start, answer.end), true))
  } finally {
    answer.release()
  }
}
