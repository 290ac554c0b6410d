/** Callers that are none of ours: fetch with msgpackr or JSON, and a bare socket that sends what no client would. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { Packr, unpack } from 'msgpackr'

import type { Answer, Service } from '../service.ts'

const packr = new Packr({ useRecords: false, variableMapSize: true })

export const pack = (value: unknown): Buffer => packr.pack(value)
export { unpack }

export type Form = 'msgpack' | 'json'
export const TYPES = { msgpack: 'application/msgpack', json: 'application/json' } as const

/** What any route may answer. */
export interface Body extends Answer {
  readonly [field: string]: unknown
}

export interface Got {
  readonly status: number
  readonly type: string
  readonly headers: Headers
  readonly body: Body
}

/** `token: ''` sends none; `body` goes out as it is, in place of `fields`. */
export async function send(
  service: Pick<Service, 'url' | 'token'>,
  method: string,
  path: string,
  options: {
    readonly token?: string
    readonly form?: Form
    readonly fields?: unknown
    readonly body?: Uint8Array | string
    readonly headers?: Readonly<Record<string, string>>
  } = {},
): Promise<Got> {
  const { token = service.token, form = 'msgpack', fields } = options
  const body =
    options.body ??
    (fields === undefined ? undefined : form === 'json' ? JSON.stringify(fields) : pack(fields))
  const response = await fetch(service.url + path, {
    method,
    headers: {
      ...(token === '' ? {} : { authorization: `Bearer ${token}` }),
      ...(form === 'json' ? { accept: TYPES.json } : {}),
      ...(body === undefined ? {} : { 'content-type': TYPES[form] }),
      ...options.headers,
    },
    ...(body === undefined ? {} : { body }),
  })
  return decodeResponse(response)
}

async function decodeResponse(response: Response): Promise<Got> {
  const bytes = Buffer.from(await response.arrayBuffer())
  const type = response.headers.get('content-type') ?? ''
  const body =
    type === TYPES.json ? JSON.parse(bytes.toString()) : bytes.length > 0 && unpack(bytes)
  return { status: response.status, type, headers: response.headers, body: body as Body }
}

export interface RawAnswer {
  readonly status: number
  readonly head: string
  readonly body: Buffer
}

/** A connection on which a test writes bytes and reads whole answers. */
export class RawConnection {
  readonly socket: Socket
  readonly closed: Promise<void>
  isClosed = false
  #received = Buffer.alloc(0)
  #arrived: () => void = () => undefined

  static async open(service: Pick<Service, 'url'>): Promise<RawConnection> {
    const { hostname, port } = new URL(service.url)
    const socket = connect(Number(port), hostname)
    await once(socket, 'connect')
    return new RawConnection(socket)
  }

  constructor(socket: Socket) {
    this.socket = socket
    // Head and body go out in two writes; the second would wait for an acknowledgement of the first.
    socket.setNoDelay(true)
    // How a connection ends is what tests ask for.
    socket.on('error', () => undefined)
    socket.on('data', (bytes: Buffer) => {
      this.#received = Buffer.concat([this.#received, bytes])
      this.#arrived()
    })
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        this.isClosed = true
        this.#arrived()
        resolve()
      })
    })
  }

  write(...parts: readonly (string | Uint8Array)[]): void {
    for (const part of parts) this.socket.write(part)
  }

  /** The head of a request with a line for each header. */
  request(line: string, headers: Readonly<Record<string, string | number>> = {}): void {
    const lines = Object.entries({ Host: 'test', ...headers }).map(([name, value]) => {
      return `${name}: ${value}\r\n`
    })
    this.write(`${line} HTTP/1.1\r\n${lines.join('')}\r\n`)
  }

  /** The next answer; fails where the connection ends before it is whole. */
  async answer(options: { readonly bodiless?: boolean } = {}): Promise<RawAnswer> {
    for (;;) {
      const headEnd = this.#received.indexOf('\r\n\r\n')
      if (headEnd >= 0) {
        const head = this.#received.subarray(0, headEnd).toString('latin1')
        const announced = Number(/^content-length: (\d+)$/im.exec(head)?.[1] ?? 0)
        const end = headEnd + 4 + (options.bodiless === true ? 0 : announced)
        if (this.#received.length >= end) {
          const body = this.#received.subarray(headEnd + 4, end)
          this.#received = this.#received.subarray(end)
          return { status: Number(head.split(' ')[1]), head, body }
        }
      }
      if (this.isClosed) throw new Error('the connection ended before the answer was whole')
      await new Promise<void>((resolve) => (this.#arrived = resolve))
    }
  }

  destroy(): void {
    this.socket.destroy()
  }
}

export function bearer(service: Pick<Service, 'token'>): { readonly Authorization: string } {
  return { Authorization: `Bearer ${service.token}` }
}

/** Only what is broken takes so long, on however slow a machine. */
const EVENTUALLY_MS_MAX = 120_000

/** Waits for what the server does a moment later, such as noticing that a caller has gone. */
export async function eventually(holds: () => boolean): Promise<void> {
  const givenUpAtMs = performance.now() + EVENTUALLY_MS_MAX
  while (!holds()) {
    if (performance.now() > givenUpAtMs) throw new Error('it never came to hold')
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
