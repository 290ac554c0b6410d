/** What key stores that are reached over HTTP have in common: where they may be, and what their answers may be. */
import { readFileSync } from 'node:fs'

import { KeyfoldError } from '../errors.ts'
import { WRAPPED_KEY_HEADER_BYTES } from '../format/wrapped-key.ts'
import { WRAPPED_KEY_BYTES_MAX } from '../limits.ts'

/** Wrapped to see whether wrapping works; says nothing to nobody. */
export const PROBE = Buffer.from('keyfold/probe')

const LOOPBACK = new Set(['localhost', '127.0.0.1', '[::1]'])

/** Keys travel in the requests: anything but loopback needs TLS. Throws CONFIG_INVALID. */
export function checkEndpoint(endpoint: string): URL {
  let url: URL
  try {
    url = new URL(endpoint)
  } catch {
    throw new KeyfoldError('CONFIG_INVALID', 'endpoint: a URL is needed')
  }
  const local = url.protocol === 'http:' && LOOPBACK.has(url.hostname)
  if (url.protocol !== 'https:' && !local) {
    throw new KeyfoldError('CONFIG_INVALID', 'endpoint: https is needed, http on loopback only')
  }
  if (url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '') {
    throw new KeyfoldError('CONFIG_INVALID', 'endpoint: scheme, host, port and path only')
  }
  return url
}

/** Certificates in PEM, in place of those that Node trusts. Throws CONFIG_INVALID. */
export function readAuthorities(file: string | undefined): string | undefined {
  if (file === undefined) return undefined
  try {
    return readFileSync(file, 'utf8')
  } catch (cause) {
    throw new KeyfoldError('CONFIG_INVALID', `caFile: ${file} is not readable`, cause)
  }
}

/** What a store answered to a wrap, if it fits a wrapped key. */
export function checkStorePart(storePart: Uint8Array | undefined): Uint8Array {
  if (storePart === undefined || !isStorePart(storePart)) {
    throw new KeyfoldError('INTERNAL', 'the key store answered a ciphertext of no use')
  }
  return storePart
}

/** What a store may be asked to unwrap. */
export function isStorePart(storePart: Uint8Array): boolean {
  return (
    storePart.length > 0 && storePart.length <= WRAPPED_KEY_BYTES_MAX - WRAPPED_KEY_HEADER_BYTES
  )
}
