/**
 * The one file that knows uWebSockets.js: loading the binary that fits this Node, the types that the rest of the
 * server uses, and the options whose defaults would surprise.
 */
import { createRequire } from 'node:module'

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
import { KeyfoldError } from '../errors.ts'

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
type ListenAlone = (
  host: string,
  port: number,
  options: number,
  listening: (socket: us_listen_socket | false) => void,
) => void

/** Listens on this port alone: by default two servers share one silently. Throws CONFIG_INVALID where it is taken. */
export function listen(app: TemplatedApp, host: string, port: number): Promise<us_listen_socket> {
  return new Promise((resolve, reject) => {
    const listenAlone = app.listen.bind(app) as unknown as ListenAlone
    listenAlone(host, port, frontEnd.LIBUS_LISTEN_EXCLUSIVE_PORT, (socket) => {
      if (socket) resolve(socket)
      else reject(new KeyfoldError('CONFIG_INVALID', `${host}:${port} is not free`))
    })
  })
}

export function portOf(socket: us_listen_socket): number {
  return frontEnd.us_socket_local_port(socket)
}

export function closeListener(socket: us_listen_socket): void {
  frontEnd.us_listen_socket_close(socket)
}
