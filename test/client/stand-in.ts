/** Something that listens where a keyfold should, and answers as a test wants. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
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
  answer: (response: ServerResponse, number: number, request: IncomingMessage) => void,
): Promise<StandIn> {
  const requests: string[] = []
  const server = createServer((request, response) => {
    request.on('end', () => {
      requests.push(`${request.method} ${request.url}`)
      answer(response, requests.length - 1, request)
    })
    request.resume()
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

export function send(
  response: ServerResponse,
  status: number,
  value: unknown,
  headers: Readonly<Record<string, string>> = {},
): void {
  response.writeHead(status, headers).end(packr.pack(value))
}
