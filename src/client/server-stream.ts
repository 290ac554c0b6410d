/**
 * A request whose body and answer are one stream, both under way at once. An answer has its end only where all of it is
 * true; one that is cut off destroys the stream, and what came of it before is a beginning.
 */
import type { ClientRequest, IncomingHttpHeaders, IncomingMessage } from 'node:http'
import { Duplex } from 'node:stream'

export interface StreamErrors {
  /** What went wrong on the way. */
  failed(cause: Error): Error
  /** What the server answered in place of a stream. */
  refused(bytes: Buffer, status: number, headers: IncomingHttpHeaders): Error
}

export function createServerStream(request: ClientRequest, errors: StreamErrors): Duplex {
  let response: IncomingMessage | undefined
  const duplex: Duplex = new Duplex({
    decodeStrings: false,
    write(chunk: unknown, _encoding, done) {
      if (!(chunk instanceof Uint8Array)) {
        done(new TypeError('files and streams are bytes: a Uint8Array is needed'))
      } else if (request.write(chunk)) done()
      else request.once('drain', done)
    },
    final(done) {
      request.end()
      done()
    },
    read() {
      response?.resume()
    },
    destroy(error, done) {
      request.destroy()
      done(error)
    },
  })
  const fail = (cause: Error): void => void duplex.destroy(errors.failed(cause))
  // What the server answers comes before what happens to a body that it does not read any more.
  request.on('error', (cause) => {
    if (response === undefined) fail(cause)
  })
  request.on('timeout', () => fail(new Error('nothing came for too long')))
  request.on('response', (answer) => {
    response = answer
    answer.on('error', fail)
    if (answer.statusCode === 200) {
      answer.on('data', (part: Buffer) => {
        if (!duplex.push(part)) answer.pause()
      })
      answer.on('end', () => duplex.push(null))
      return
    }
    const parts: Buffer[] = []
    answer.on('data', (part: Buffer) => parts.push(part))
    answer.on('end', () => {
      const { statusCode = 0, headers } = answer
      duplex.destroy(errors.refused(Buffer.concat(parts), statusCode, headers))
    })
  })
  request.flushHeaders()
  return duplex
}
