/**
 * The canonical request of AWS Signature Version 4: the one spelling of method, path, query and headers that signer
 * and verifier hash (AWS General Reference, "Create a signed AWS API request").
 *
 *     METHOD \n path \n query \n (name:value \n)… \n signed header names \n hex(SHA-256(body))
 *
 * Pure: no clock, no cryptography. Requests of AWS KMS go to `/` without a query, which costs nothing here.
 */
import { KeyfoldError } from '../../errors.ts'

/** As it was sent: neither path nor query is decoded. */
export interface RequestTarget {
  readonly method: string
  readonly path: string
  /** What stands behind the question mark; '' where there is none. */
  readonly query: string
  /** By lower-case name; several headers of one name are joined by commas. '' where there is none. */
  header(name: string): string
}

/** All of the canonical request but the hash of the body, which comes last and is known last. */
export function canonicalHead(
  request: RequestTarget,
  names: readonly string[],
  signedHeaders: string,
): string {
  let text = `${request.method}\n${canonicalPath(request.path)}\n${canonicalQuery(request.query)}\n`
  for (const name of names) text += `${name}:${foldSpaces(request.header(name))}\n`
  return `${text}\n${signedHeaders}\n`
}

/** Without empty, `.` and `..` segments, and with what a path on the wire encodes encoded once more. */
function canonicalPath(path: string): string {
  if (path === '/') return path
  const segments: string[] = []
  for (const segment of path.split('/')) {
    if (segment === '..') segments.pop()
    else if (segment !== '' && segment !== '.') segments.push(encode(segment))
  }
  return `/${segments.join('/')}${path.endsWith('/') && segments.length > 0 ? '/' : ''}`
}

/** Sorted by name, then by value, both as they are encoded: `Param` comes before `Param-3`, though `=` does not before `-`. */
function canonicalQuery(query: string): string {
  if (query === '') return ''
  return query
    .split('&')
    .filter((parameter) => parameter !== '')
    .map((parameter) => {
      const end = parameter.includes('=') ? parameter.indexOf('=') : parameter.length
      return [encode(decode(parameter.slice(0, end))), encode(decode(parameter.slice(end + 1)))]
    })
    .sort(([name = '', value = ''], [otherName = '', otherValue = '']) =>
      name === otherName ? compare(value, otherValue) : compare(name, otherName),
    )
    .map(([name, value]) => `${name}=${value}`)
    .join('&')
}

/** Both are ASCII here, where JavaScript's order is that of bytes. */
function compare(one: string, other: string): number {
  return one < other ? -1 : one > other ? 1 : 0
}

/** RFC 3986's unreserved characters stand for themselves, and no others: encodeURIComponent leaves five more. */
function encode(text: string): string {
  return asUri(encodeURIComponent, text).replace(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  )
}

function decode(text: string): string {
  return asUri(decodeURIComponent, text)
}

function asUri(recode: (text: string) => string, text: string): string {
  try {
    return recode(text)
  } catch (cause) {
    throw new KeyfoldError('REQUEST_SIGNATURE_INVALID', 'path or query is malformed', cause)
  }
}

const SPACE = 0x20
const TAB = 0x09

/** A run of spaces and tabs is one space, and none at either end. Most values are spelt so already. */
function foldSpaces(value: string): string {
  let afterSpace = true
  for (let i = 0; i < value.length; i++) {
    const character = value.charCodeAt(i)
    if (character === TAB || (character === SPACE && afterSpace)) return foldAll(value)
    afterSpace = character === SPACE
  }
  return afterSpace && value !== '' ? foldAll(value) : value
}

function foldAll(value: string): string {
  return value.replace(/[ \t]+/g, ' ').replace(/^ | $/g, '')
}
