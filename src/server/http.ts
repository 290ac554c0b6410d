/** What HTTP says around a request and an answer: its head, the media types that are spoken, status lines. */
import { KeyfoldError } from '../errors.ts'
import type { HttpRequest } from './uws.ts'

export type Header = readonly [name: string, value: string]

export const MSGPACK_TYPE = 'application/msgpack'
export const JSON_TYPE = 'application/json'
export const TEXT_TYPE = 'text/plain; charset=utf-8'
export const BYTES_TYPE = 'application/octet-stream'
/** The Prometheus text format: scrapers go by the version. */
export const METRICS_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

/** What one request brings in its headers, read before the first await: they do not outlive the handler. */
export interface RequestHead {
  readonly method: string
  readonly authorization: string
  /** Lower case, without parameters; empty where none was given. */
  readonly contentType: string
  /** Whether the answer is JSON; otherwise it is MessagePack. */
  readonly jsonAnswer: boolean
  /** 0 where the body is chunked. */
  readonly announcedBytes: number
}

/** `jsonOtherwise`: also where the body does not say which of the two the caller speaks. */
export function readHead(request: HttpRequest, jsonOtherwise = false): RequestHead {
  const length = request.getHeader('content-length')
  const contentType = mediaType(request.getHeader('content-type'))
  return {
    method: request.getMethod(),
    authorization: request.getHeader('authorization'),
    contentType,
    jsonAnswer: isJsonAccepted(
      request.getHeader('accept'),
      jsonOtherwise || contentType === JSON_TYPE,
    ),
    announcedBytes: length === '' ? 0 : Number(length),
  }
}

/** Types are case-insensitive and may have parameters (RFC 9110 §8.3.1). */
function mediaType(text: string): string {
  const semicolon = text.indexOf(';')
  return (semicolon < 0 ? text : text.slice(0, semicolon)).trim().toLowerCase()
}

/** The first of our types that the caller names; as they sent it where they name none. Weights are not read. */
function isJsonAccepted(accept: string, otherwise: boolean): boolean {
  if (accept === '' || accept === '*/*') return otherwise
  const types = accept.split(',').map(mediaType)
  const named = types.find((type) => type === JSON_TYPE || type === MSGPACK_TYPE)
  return named === undefined ? otherwise : named === JSON_TYPE
}

export function decodePathParameter(parameter: string): string {
  try {
    return decodeURIComponent(parameter)
  } catch (cause) {
    throw new KeyfoldError('REQUEST_MALFORMED', 'the path is not well encoded', cause)
  }
}

export const STATUS_OK = '200 OK'

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
  501: 'Not Implemented',
  503: 'Service Unavailable',
}

export function statusLine(status: number): string {
  return `${status} ${STATUS_TEXTS[status] ?? 'Error'}`
}
