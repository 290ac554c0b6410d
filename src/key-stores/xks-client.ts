/**
 * Calls to an external key store proxy: signed, in time, over few connections that stay. What goes wrong below the
 * protocol (late, closed, too long, cut off) is one error, KEY_STORE_UNREACHABLE; what a proxy answers is for xks.ts.
 */
import { createSecretKey, hash, type KeyObject } from 'node:crypto'
import * as http from 'node:http'
import * as https from 'node:https'
import { TLSSocket } from 'node:tls'
import { inspect } from 'node:util'

import {
  basicTime,
  deriveSigningKey,
  scopeText,
  SIGNING_ALGORITHM,
  signatureOf,
} from '../crypto/signing-key.ts'
import { KeyfoldError } from '../errors.ts'
import { isXksPrefix, XKS_API_PATH, XKS_SERVICE } from '../format/xks-protocol.ts'
import { XKS_ANSWER_BYTES_MAX, XKS_DEADLINE_MS_DEFAULT, XKS_SOCKETS_MAX } from '../limits.ts'
import { StoreFault, type Fault } from './store-fault.ts'

export interface XksConnection {
  /** `https://HOST` or `https://HOST:PORT`; http for a proxy on loopback only. */
  readonly endpoint: string
  /** `/kms/xks/v1`, with the prefix in front where there is one. */
  readonly uriPath: string
  /** What requests are signed for. */
  readonly region: string
  readonly accessKeyId: string
  /** Taken over: filled with zeros. */
  readonly secretAccessKey: Uint8Array
  /** CA certificates of the proxy's, PEM, in place of those that Node trusts. */
  readonly ca?: string | undefined
  /** For a proxy that asks for a certificate, PEM. */
  readonly client?: { readonly certificate: string; readonly key: string } | undefined
  /** Of one call, with connecting; 250 ms where absent. */
  readonly deadlineMs?: number | undefined
}

export interface XksAnswer {
  readonly status: number
  /** May hold a plaintext: whoever reads it fills it with zeros. */
  readonly body: Uint8Array
}

export class XksClient {
  readonly #agent: http.Agent
  readonly #request: typeof http.request
  readonly #endpoint: URL
  readonly #uriPath: string
  readonly #signer: RequestSigner
  readonly #deadlineMs: number

  /** Throws CONFIG_INVALID. */
  constructor(connection: XksConnection) {
    const { uriPath, ca, client } = connection
    this.#endpoint = readEndpoint(connection.endpoint)
    const prefix = uriPath.slice(0, -XKS_API_PATH.length)
    if (!uriPath.endsWith(XKS_API_PATH) || !isXksPrefix(prefix)) {
      throw invalid(`uriPath: ${XKS_API_PATH} is needed, or /PREFIX${XKS_API_PATH}`)
    }
    this.#uriPath = uriPath
    this.#deadlineMs = connection.deadlineMs ?? XKS_DEADLINE_MS_DEFAULT
    const sockets = { keepAlive: true, maxSockets: XKS_SOCKETS_MAX, scheduling: 'lifo' as const }
    const overTls = this.#endpoint.protocol === 'https:'
    this.#request = overTls ? https.request : http.request
    this.#agent = overTls
      ? new https.Agent({
          ...sockets,
          // As the API asks for; Node's default can be lowered by a flag.
          minVersion: 'TLSv1.2',
          ...(ca === undefined ? {} : { ca }),
          ...(client === undefined ? {} : { cert: client.certificate, key: client.key }),
        })
      : new http.Agent(sockets)
    this.#signer = new RequestSigner(connection)
  }

  /** Takes the body over: filled with zeros in the end. Errors: KEY_STORE_UNREACHABLE. */
  async post(path: string, body: Uint8Array): Promise<XksAnswer> {
    const late = new AbortController()
    const timer = setTimeout(() => late.abort(), this.#deadlineMs)
    try {
      return await this.#overSomeConnection(path, body, late.signal)
    } catch (cause) {
      if (cause instanceof KeyfoldError) throw cause
      if (cause instanceof HandshakeFailure) {
        throw unreachable('TLS could not be agreed on', cause.cause, 'tls')
      }
      if (!late.signal.aborted) throw unreachable('the connection failed', cause)
      const fault = cause instanceof LateAnswer ? 'timed-out' : undefined
      throw unreachable(`no answer within ${this.#deadlineMs} ms`, cause, fault)
    } finally {
      clearTimeout(timer)
      body.fill(0)
    }
  }

  /** Ends what is under way, and forgets the secret. */
  close(): void {
    this.#agent.destroy()
    this.#signer.forget()
  }

  toJSON(): string {
    return `[XksClient ${this.#endpoint.origin}${this.#uriPath}]`
  }

  [inspect.custom](): string {
    return this.toJSON()
  }

  async #overSomeConnection(
    path: string,
    body: Uint8Array,
    signal: AbortSignal,
  ): Promise<XksAnswer> {
    for (;;) {
      try {
        return await this.#attempt(path, body, signal)
      } catch (error) {
        // Closed by the other side just when we took it up: nobody has read the request. There may be more of them.
        if (!(error instanceof StaleConnection)) throw error
      }
    }
  }

  #attempt(path: string, body: Uint8Array, signal: AbortSignal): Promise<XksAnswer> {
    const { host } = this.#endpoint
    const target = this.#uriPath + path
    const headers = {
      host,
      'content-type': 'application/json',
      'content-length': body.length,
      ...this.#signer.sign({ host, path: target, body }, Date.now()),
    }
    return new Promise((resolve, reject) => {
      const request = this.#request(this.#endpoint, {
        method: 'POST',
        path: target,
        agent: this.#agent,
        headers,
        signal,
      })
      request.on('error', (error: NodeJS.ErrnoException) => {
        const isStale =
          request.reusedSocket && (error.code === 'ECONNRESET' || error.code === 'EPIPE')
        reject(isStale ? new StaleConnection() : failureOf(request, error))
      })
      request.on('response', (response) => {
        readAnswer(response).then(resolve, (error: unknown) => {
          request.destroy()
          reject(error as Error)
        })
      })
      request.end(body)
    })
  }
}

class StaleConnection extends Error {}

/** It took the connection, and the deadline came first. */
class LateAnswer extends Error {}

/** Its certificate, or the versions and ciphers of TLS that it has. */
class HandshakeFailure extends Error {}

function failureOf({ socket }: http.ClientRequest, cause: NodeJS.ErrnoException): Error {
  const { code = '' } = cause
  if (cause.name === 'AbortError') {
    return socket?.connecting === false ? new LateAnswer('late', { cause }) : cause
  }
  const isRefused = socket instanceof TLSSocket && Boolean(socket.authorizationError)
  const isTls = isRefused || code === 'EPROTO' || /^ERR_(SSL|TLS)_/.test(code)
  return isTls ? new HandshakeFailure(code, { cause }) : cause
}

async function readAnswer(response: http.IncomingMessage): Promise<XksAnswer> {
  const chunks: Buffer[] = []
  let length = 0
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      chunks.push(chunk)
      length += chunk.length
      if (length > XKS_ANSWER_BYTES_MAX) {
        throw unreachable(
          `its answer is longer than ${XKS_ANSWER_BYTES_MAX} bytes`,
          undefined,
          'response',
        )
      }
    }
    return { status: response.statusCode ?? 0, body: Buffer.concat(chunks) }
  } finally {
    for (const chunk of chunks) chunk.fill(0)
  }
}

interface Signable {
  readonly host: string
  readonly path: string
  readonly body: Uint8Array
}

/** Signs as AWS KMS does: the headers host and x-amz-date. The key of a day is derived once. */
class RequestSigner {
  readonly #accessKeyId: string
  readonly #region: string
  /** Undefined once it was forgotten. */
  #secret: KeyObject | undefined
  #ofDay: { readonly date: string; readonly key: KeyObject } | undefined

  constructor({ accessKeyId, region, secretAccessKey }: XksConnection) {
    this.#accessKeyId = accessKeyId
    this.#region = region
    this.#secret = createSecretKey(secretAccessKey)
    secretAccessKey.fill(0)
  }

  sign({ host, path, body }: Signable, nowMs: number): Readonly<Record<string, string>> {
    const signedAt = basicTime(nowMs)
    const scope = { date: signedAt.slice(0, 8), region: this.#region, service: XKS_SERVICE }
    const names = 'host;x-amz-date'
    const signature = signatureOf(this.#keyOf(scope), {
      signedAt,
      scope: scopeText(scope),
      // Of unreserved characters alone (RFC 3986 §2.3) a path is its own canonical spelling.
      canonical: `POST\n${path}\n\nhost:${host}\nx-amz-date:${signedAt}\n\n${names}\n${hash('sha256', body)}`,
    })
    return {
      'x-amz-date': signedAt,
      authorization:
        `${SIGNING_ALGORITHM} Credential=${this.#accessKeyId}/${scopeText(scope)}, ` +
        `SignedHeaders=${names}, Signature=${signature}`,
    }
  }

  forget(): void {
    this.#secret = undefined
    this.#ofDay = undefined
  }

  #keyOf(scope: {
    readonly date: string
    readonly region: string
    readonly service: string
  }): KeyObject {
    if (this.#ofDay?.date === scope.date) return this.#ofDay.key
    if (this.#secret === undefined) throw new KeyfoldError('LOCKED')
    const secret = this.#secret.export()
    const derived = deriveSigningKey(secret, scope)
    secret.fill(0)
    const key = createSecretKey(derived)
    derived.fill(0)
    this.#ofDay = { date: scope.date, key }
    return key
  }
}

const LOOPBACK = /^(?:127(?:\.\d{1,3}){3}|\[::1\]|localhost)$/

function readEndpoint(text: string): URL {
  const endpoint = URL.canParse(text) ? new URL(text) : undefined
  // Nothing but an origin: a path, a query or credentials in it would be left out in silence.
  if (endpoint === undefined || endpoint.href !== `${endpoint.origin}/`) {
    throw invalid('endpoint: https://HOST or https://HOST:PORT is needed')
  }
  const isAllowed =
    endpoint.protocol === 'https:' ||
    (endpoint.protocol === 'http:' && LOOPBACK.test(endpoint.hostname))
  if (!isAllowed) throw invalid('endpoint: beyond loopback https is needed')
  return endpoint
}

function invalid(detail: string): KeyfoldError {
  return new KeyfoldError('CONFIG_INVALID', detail)
}

export function unreachable(detail: string, cause?: unknown, fault?: Fault): KeyfoldError {
  const told = `the external key store proxy: ${detail}`
  return fault === undefined
    ? new KeyfoldError('KEY_STORE_UNREACHABLE', told, cause)
    : new StoreFault(fault, 'KEY_STORE_UNREACHABLE', told, cause)
}
