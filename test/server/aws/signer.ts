/**
 * A signer of AWS Signature Version 4, written from AWS's description alone ("Create a signed AWS API request"): for
 * requests that nobody who signs well would send. It signs whatever it is told, in whatever spelling.
 */
import { createHash, createHmac } from 'node:crypto'

import type { RequestTarget } from '../../../dist/server/aws/canonical-request.js'

export interface Sent extends RequestTarget {
  readonly headers: Readonly<Record<string, string>>
  readonly body: Uint8Array
}

export interface Signing {
  readonly secret: string
  readonly accessKeyId: string
  /** YYYYMMDDTHHMMSSZ */
  readonly signedAt: string
  readonly date?: string
  readonly region?: string
  readonly service?: string
  readonly terminator?: string
  readonly method?: string
  readonly path?: string
  readonly query?: string
  /** By lower-case name, without x-amz-date. */
  readonly headers?: Readonly<Record<string, string>>
  /** As it stands in Authorization; all of the headers by default. */
  readonly signedHeaders?: string
  readonly body?: string
}

/** A request as it is sent: what was signed, with what is changed afterwards. */
export function sent(
  fields: Partial<Sent> & { readonly headers: Readonly<Record<string, string>> },
): Sent {
  return {
    method: 'POST',
    path: '/',
    query: '',
    body: Buffer.alloc(0),
    header: (name) => fields.headers[name] ?? '',
    ...fields,
  }
}

export function sign(signing: Signing): Sent {
  const { secret, signedAt, method = 'POST', path = '/', query = '', body = '' } = signing
  const { region = 'us-east-1', service = 'kms', terminator = 'aws4_request' } = signing
  const date = signing.date ?? signedAt.slice(0, 8)
  const headers: Record<string, string> = {
    host: 'kms.us-east-1.amazonaws.com',
    ...signing.headers,
    'x-amz-date': signedAt,
  }
  const signedHeaders = signing.signedHeaders ?? Object.keys(headers).sort().join(';')
  const canonicalHeaders = signedHeaders
    .split(';')
    .map((name) => `${name}:${(headers[name] ?? '').trim()}\n`)
    .join('')
  const bodyHash = createHash('sha256').update(body).digest('hex')
  const canonical = [method, path, query, canonicalHeaders, signedHeaders, bodyHash].join('\n')
  const scope = [date, region, service, terminator].join('/')
  const canonicalHash = createHash('sha256').update(canonical).digest('hex')
  const toSign = ['AWS4-HMAC-SHA256', signedAt, scope, canonicalHash].join('\n')
  const key = [date, region, service, terminator].reduce<Buffer | string>(
    (previous, step) => createHmac('sha256', previous).update(step).digest(),
    `AWS4${secret}`,
  )
  const signature = createHmac('sha256', key).update(toSign).digest('hex')
  const credential = `${signing.accessKeyId}/${scope}`
  return sent({
    method,
    path,
    query,
    body: Buffer.from(body),
    headers: {
      ...headers,
      authorization:
        `AWS4-HMAC-SHA256 Credential=${credential}, ` +
        `SignedHeaders=${signedHeaders}, Signature=${signature}`,
    },
  })
}
