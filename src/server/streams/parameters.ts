/**
 * What a caller says of a stream, all of it in the query: it has to be known before the first byte of the body, and any
 * tool can write a query.
 *
 *     key             encrypt: id, ARN, alias or alias ARN. decrypt: the one key that may have wrapped the data key;
 *                     absent, any key that the caller may use
 *     context.NAME    a pair of the encryption context. decrypt: one that the file must have
 *     frameBytes      encrypt: plaintext bytes of a frame
 */
import type { EncryptionContext } from '../../client/wire.ts'
import { KeyfoldError } from '../../errors.ts'
import { FRAME_BYTES_MAX, FRAME_BYTES_MIN } from '../../limits.ts'

export type StreamOperation = 'encrypt' | 'decrypt'

export interface StreamParameters {
  readonly key: string | undefined
  readonly context: EncryptionContext
  readonly frameBytes: number | undefined
}

const CONTEXT_PREFIX = 'context.'
const KNOWN: Readonly<Record<StreamOperation, readonly string[]>> = {
  encrypt: ['key', 'frameBytes'],
  decrypt: ['key'],
}

/** Throws REQUEST_MALFORMED. The context is checked where it is encoded; the front end bounds the whole query. */
export function readParameters(op: StreamOperation, query: string): StreamParameters {
  const pairs: [string, string][] = []
  const named = new Map<string, string>()
  for (const part of query.split('&')) {
    if (part === '') continue
    const equals = part.indexOf('=')
    if (equals < 0) throw malformed('NAME=value is needed, joined by &')
    const name = decodeText(part.slice(0, equals))
    const value = decodeText(part.slice(equals + 1))
    if (name.startsWith(CONTEXT_PREFIX)) {
      pairs.push([name.slice(CONTEXT_PREFIX.length), value])
      continue
    }
    if (!KNOWN[op].includes(name)) {
      throw malformed(
        `${JSON.stringify(name)} is not known here: ${KNOWN[op].join(', ')}, context.NAME`,
      )
    }
    if (named.has(name)) throw malformed(`${name} is given twice`)
    named.set(name, value)
  }
  if (new Set(pairs.map(([name]) => name)).size !== pairs.length) {
    throw malformed('a context key is given twice')
  }
  const key = named.get('key')
  if (op === 'encrypt' && key === undefined) throw malformed('key is missing')
  return { key, context: Object.fromEntries(pairs), frameBytes: frameBytesOf(named) }
}

function frameBytesOf(named: ReadonlyMap<string, string>): number | undefined {
  const text = named.get('frameBytes')
  if (text === undefined) return undefined
  const frameBytes = /^\d{1,9}$/.test(text) ? Number(text) : 0
  if (frameBytes < FRAME_BYTES_MIN || frameBytes > FRAME_BYTES_MAX) {
    throw malformed(`frameBytes: ${FRAME_BYTES_MIN} to ${FRAME_BYTES_MAX} are allowed`)
  }
  return frameBytes
}

/** URLSearchParams would take bytes that are no UTF-8 for U+FFFD, and so two contexts for one. */
function decodeText(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '))
  } catch (cause) {
    throw new KeyfoldError('REQUEST_MALFORMED', 'query: not well encoded', cause)
  }
}

function malformed(detail: string): KeyfoldError {
  return new KeyfoldError('REQUEST_MALFORMED', `query: ${detail}`)
}
