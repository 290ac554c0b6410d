/**
 * The address of a shared catalog, as PostgreSQL's own tools take it:
 *
 *     postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=…&sslrootcert=…&sslcert=…&sslkey=…&host=/DIRECTORY
 *
 * `host` is the directory of a socket, in place of the HOST, which has to be there nevertheless. Of the modes of TLS two are taken: `verify-full`, which is the
 * default beyond this machine, and `disable`; the others encrypt to whoever answers. No error repeats what was given.
 */
export interface CatalogUrl {
  readonly host: string
  readonly port: number
  readonly database: string
  readonly user: string
  readonly password: string | undefined
  readonly tls:
    | {
        /** Of the CA; those that Node knows where absent. */
        readonly caFile: string | undefined
        readonly certFile: string | undefined
        readonly keyFile: string | undefined
      }
    | undefined
}

const PORT = 5432
const PARAMETERS: ReadonlySet<string> = new Set([
  'host',
  'sslmode',
  'sslrootcert',
  'sslcert',
  'sslkey',
])

/** Throws an Error that says what is needed. */
export function parseCatalogUrl(text: string): CatalogUrl {
  if (!URL.canParse(text)) throw new Error(NEEDED)
  const url = new URL(text)
  if (url.protocol !== 'postgres:' && url.protocol !== 'postgresql:') throw new Error(NEEDED)
  for (const name of url.searchParams.keys()) {
    if (!PARAMETERS.has(name)) throw new Error(`there is no parameter ${JSON.stringify(name)}`)
  }
  const parameter = (name: string): string | undefined => url.searchParams.get(name) ?? undefined
  const host = parameter('host') ?? url.hostname.replace(/^\[|\]$/g, '')
  const database = decodeURIComponent(url.pathname.slice(1))
  const user = decodeURIComponent(url.username)
  if (host === '' || database === '' || user === '' || url.hash !== '') throw new Error(NEEDED)
  const isHere = /^(?:\/|127(?:\.\d+){3}$|::1$|localhost$)/.test(host)
  const mode = parameter('sslmode') ?? (isHere ? 'disable' : 'verify-full')
  if (mode !== 'disable' && mode !== 'verify-full') {
    throw new Error('sslmode: verify-full or disable is needed; others check nobody’s identity')
  }
  return {
    host,
    port: url.port === '' ? PORT : Number(url.port),
    database,
    user,
    password: url.password === '' ? undefined : decodeURIComponent(url.password),
    tls:
      mode === 'disable'
        ? undefined
        : {
            caFile: parameter('sslrootcert'),
            certFile: parameter('sslcert'),
            keyFile: parameter('sslkey'),
          },
  }
}

const NEEDED = 'postgres://USER@HOST:PORT/DATABASE is needed'
