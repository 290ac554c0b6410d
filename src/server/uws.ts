/**
 * The one file that knows uWebSockets.js: loading the binary that fits this Node, the types that the rest of the
 * server uses, and the options whose defaults would surprise.
 */
import { once } from 'node:events'
import { createRequire } from 'node:module'
import { createServer, type AddressInfo } from 'node:net'

import type {
  AppOptions,
  HttpRequest,
  HttpResponse,
  TemplatedApp,
  us_listen_socket,
  us_socket_context_t,
  WebSocket,
} from 'uWebSockets.js'

import { setFrontEndEnvironment } from '../config.ts'
import { call, loadAddon } from '../crypto/addon.ts'
import { KeyfoldError } from '../errors.ts'
import { TLS_RECEIVE_BUFFER_BYTES } from '../limits.ts'

export type {
  HttpRequest,
  HttpResponse,
  TemplatedApp,
  us_listen_socket,
  us_socket_context_t,
  WebSocket,
}

interface FrontEnd {
  App(): TemplatedApp
  SSLApp(options: AppOptions): TemplatedApp
  readonly LIBUS_LISTEN_EXCLUSIVE_PORT: number
  us_listen_socket_close(socket: us_listen_socket): void
  us_socket_local_port(socket: us_listen_socket): number
}

const require = createRequire(import.meta.url)

/** 20.51.4 serves Node 20 and 22 on any glibc; the newer one Node 24 and 26 where glibc is 2.38 or newer. */
function load(): FrontEnd {
  setFrontEndEnvironment()
  const causes: string[] = []
  for (const name of ['uWebSockets.js', 'uWebSockets.js-next']) {
    try {
      return require(name) as FrontEnd
    } catch (error) {
      causes.push((error as Error).message.split('\n')[0] ?? name)
    }
  }
  throw new KeyfoldError(
    'CONFIG_INVALID',
    `no uWebSockets.js loads on this Node: ${causes.join('; ')}`,
  )
}

const frontEnd = load()

/** Throws CONFIG_INVALID where a file is not there or not what it should be; the front end does not say which. */
export function createApp(tls: AppOptions | undefined): TemplatedApp {
  if (tls === undefined) return frontEnd.App()
  const named = [tls.cert_file_name, tls.key_file_name, tls.ca_file_name].filter(
    (file) => file !== undefined,
  )
  try {
    return frontEnd.SSLApp(tls)
  } catch (cause) {
    throw new KeyfoldError(
      'CONFIG_INVALID',
      `${named.join(', ')}: PEM files are needed, and the key that belongs to the certificate`,
      cause,
    )
  }
}

/** The published types leave out the form with a host and options. */
type ListenWithOptions = (
  host: string,
  port: number,
  options: number,
  listening: (socket: us_listen_socket | false) => void,
) => void

/** A port that was free a moment ago may be somebody's now. */
const FREE_PORT_ATTEMPTS_MAX = 8

/**
 * Listens on this port alone: by default two servers share one silently. 0: on one that is free. Throws CONFIG_INVALID
 * where it is taken.
 *
 * SO_REUSEADDR, which lets a port be taken while connections of a server that was killed are still about, the front end
 * sets for a port that it is told, not for one that the kernel chooses. So it is always told one.
 */
export async function listen(
  app: TemplatedApp,
  host: string,
  port: number,
): Promise<us_listen_socket> {
  for (let attempt = 1; port === 0 && attempt <= FREE_PORT_ATTEMPTS_MAX; attempt++) {
    const free = await freePort(host)
    if (free === undefined) break
    const socket = await listenAlone(app, host, free)
    if (socket) return socket
  }
  const socket = await listenAlone(app, host, port)
  if (socket) return socket
  throw new KeyfoldError('CONFIG_INVALID', `${host}:${port} is not free`)
}

function listenAlone(
  app: TemplatedApp,
  host: string,
  port: number,
): Promise<us_listen_socket | false> {
  const listenWith = app.listen.bind(app) as unknown as ListenWithOptions
  return new Promise((resolve) => {
    listenWith(host, port, frontEnd.LIBUS_LISTEN_EXCLUSIVE_PORT, resolve)
  })
}

/** undefined: Node cannot listen there, and the front end will say so. */
async function freePort(host: string): Promise<number | undefined> {
  const server = createServer()
  try {
    await once(server.listen({ host, port: 0, exclusive: true }), 'listening')
  } catch {
    return undefined
  }
  const { port } = server.address() as AddressInfo
  await once(server.close(), 'close')
  return port
}

/**
 * Over TLS the front end loses what it has read and not handed over yet as soon as it writes to any connection, and it has
 * such bytes where a read filled its buffer of 512 KiB: a kernel that holds fewer for a connection keeps it from that. To
 * be called before anybody connects. Answers whether it could be done, for which the addon has to be there.
 */
export function boundReads(socket: us_listen_socket): boolean {
  try {
    const bounded = call(
      loadAddon(),
      'boundReceiveBuffers',
      portOf(socket),
      TLS_RECEIVE_BUFFER_BYTES,
    )
    return bounded > 0
  } catch {
    return false
  }
}

export function portOf(socket: us_listen_socket): number {
  return frontEnd.us_socket_local_port(socket)
}

export function closeListener(socket: us_listen_socket): void {
  frontEnd.us_listen_socket_close(socket)
}
