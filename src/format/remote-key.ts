/**
 * A key that lives in another system, as the catalog keeps it in place of key material: nothing but its name there.
 *
 *     1   version   0xF4
 *     1   suite     which kind of store knows the name: WRAPPING_SUITES
 *     …   name      1 to 2,048 printable ASCII characters: an ARN (AWS KMS), a key's name (transit)
 */
import { REMOTE_KEY_NAME_CHARACTERS_MAX } from '../limits.ts'
import { Reader, Writer } from './bytes.ts'
import type { WrappingSuite } from './wrapped-key.ts'

const VERSION = 0xf4
const HEADER_BYTES = 2
const NAME_PATTERN = /^[\x21-\x7e]+$/

export interface RemoteKey {
  readonly suite: WrappingSuite
  readonly name: string
}

/** Whether this can be the name of a key in another system. */
export function isRemoteKeyName(name: string): boolean {
  return name.length <= REMOTE_KEY_NAME_CHARACTERS_MAX && NAME_PATTERN.test(name)
}

/** The name was checked by isRemoteKeyName. */
export function encodeRemoteKey({ suite, name }: RemoteKey): Uint8Array {
  return new Writer(new Uint8Array(HEADER_BYTES + name.length))
    .u8(VERSION)
    .u8(suite)
    .put(Buffer.from(name, 'latin1')).bytes
}

/** Of a store of this suite. Throws INTERNAL: what stands in the catalog is none of that store's. */
export function decodeRemoteKey(bytes: Uint8Array, suite: WrappingSuite): RemoteKey {
  const reader = new Reader(bytes, 'INTERNAL')
  if (reader.u8() !== VERSION) throw reader.malformed('no reference to a remote key')
  if (reader.u8() !== suite) throw reader.malformed('the remote key is of another kind of store')
  const name = Buffer.from(reader.rest()).toString('latin1')
  if (!isRemoteKeyName(name)) throw reader.malformed('the name of the remote key is none')
  return { suite, name }
}
