/** Something that listens where a keyfold should, and answers as a test wants: itself, or as one that is behind it. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { Packr } from 'msgpackr'

const packr = new Packr({ useRecords: false, variableMapSize: true })

export interface StandIn {
  readonly url: string
  /** Method and path of each request whose body has arrived, in order. */
  readonly requests: readonly string[]
  close(): Promise<void>
}

/** `answer` is called with the number of the request, from 0. */
export async function startStandIn(
  answer: (
    response: ServerResponse,
    number: number,
    request: IncomingMessage,
    body: Buffer,
  ) => void,
): Promise<StandIn> {
  const requests: string[] = []
  const server = createServer((request, response) => {
    buffer(request).then(
      (body) => {
        requests.push(`${request.method} ${request.url}`)
        answer(response, requests.length - 1, request, body)
      },
      // Who goes away in the middle of a body is answered nothing.
      () => undefined,
    )
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

export interface Relay extends StandIn {
  /** How many requests wait for ever. */
  readonly held: () => number
}

/** In front of a keyfold: what `passes` says no to is never answered, so that whoever asked cannot end by itself. */
export async function startRelay(
  of: { readonly url: string },
  passes: (path: string, body: Buffer) => boolean,
): Promise<Relay> {
  let held = 0
  const relayed = async (
    response: ServerResponse,
    { method = '', url = '', headers }: IncomingMessage,
    body: Buffer,
  ): Promise<void> => {
    const { authorization = '' } = headers
    const answer = await fetch(of.url + url, {
      method,
      headers: { authorization, 'content-type': headers['content-type'] ?? '' },
      ...(body.length === 0 ? {} : { body }),
    })
    response.writeHead(answer.status).end(Buffer.from(await answer.arrayBuffer()))
  }
  const standIn = await startStandIn((response, _number, request, body) => {
    if (!passes(request.url ?? '', body)) {
      held++
      return
    }
    relayed(response, request, body).catch((error: unknown) => response.destroy(error as Error))
  })
  return { ...standIn, held: () => held }
}

export function send(
  response: ServerResponse,
  status: number,
  value: unknown,
  headers: Readonly<Record<string, string>> = {},
): void {
  response.writeHead(status, headers).end(packr.pack(value))
}
