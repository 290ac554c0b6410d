/**
 * A share of the root key, as somebody keeps it: one line of text, `keyfold-share-` and the hex digits of
 *
 *     1   version        0x01
 *     4   root version   of which root key it is a share
 *     4   set            random; shares that were made together have it in common
 *     1   threshold      how many shares give the root key
 *     1   point          1 to 16; no two shares of a set have the same
 *     32  value          of the polynomials at that point (src/crypto/secret-sharing.ts)
 *     4   checksum       of all before it: the start of SHA-256
 *
 * The checksum tells a share that was mistyped from one of another set. Anybody can compute it: it proves nothing.
 */
import { ROOT_KEY_SHARES_MAX } from '../limits.ts'
import { KeyfoldError } from '../errors.ts'
import { Reader, Writer } from './bytes.ts'

const PREFIX = 'keyfold-share-'
const VERSION = 1
const VALUE_BYTES = 32
const SET_BYTES = 4
const CHECKSUM_BYTES = 4
const SHARE_BYTES = 1 + 4 + SET_BYTES + 1 + 1 + VALUE_BYTES + CHECKSUM_BYTES
const TEXT_PATTERN = new RegExp(`^${PREFIX}([0-9a-f]{${2 * SHARE_BYTES}})$`)

export interface RootKeyShare {
  readonly rootVersion: number
  /** 4 bytes. */
  readonly set: Uint8Array
  readonly threshold: number
  readonly point: number
  /** 32 bytes, which whoever decoded them fills with zeros. */
  readonly value: Uint8Array
}

type Sha256 = (bytes: Uint8Array) => Uint8Array

export function encodeRootKeyShare(share: RootKeyShare, sha256: Sha256): string {
  const writer = new Writer(new Uint8Array(SHARE_BYTES))
    .u8(VERSION)
    .u32(share.rootVersion)
    .put(share.set)
    .u8(share.threshold)
    .u8(share.point)
    .put(share.value)
  const body = writer.bytes.subarray(0, SHARE_BYTES - CHECKSUM_BYTES)
  writer.put(sha256(body).subarray(0, CHECKSUM_BYTES))
  return PREFIX + Buffer.from(writer.bytes).toString('hex')
}

/** Throws CONFIG_INVALID, which says of no share what stands in it. */
export function decodeRootKeyShare(text: string, sha256: Sha256): RootKeyShare {
  const digits = TEXT_PATTERN.exec(text)?.[1]
  if (digits === undefined) {
    throw new KeyfoldError('CONFIG_INVALID', `a share is ${PREFIX} and ${2 * SHARE_BYTES} digits`)
  }
  const bytes = Buffer.from(digits, 'hex')
  const reader = new Reader(bytes, 'CONFIG_INVALID')
  if (reader.u8() !== VERSION) throw reader.malformed('a share of a version that is unknown')
  const rootVersion = reader.u32()
  const set = reader.take(SET_BYTES)
  const threshold = reader.u8()
  const point = reader.u8()
  const value = reader.take(VALUE_BYTES)
  const checksum = reader.take(CHECKSUM_BYTES)
  reader.end()
  const expected = sha256(bytes.subarray(0, SHARE_BYTES - CHECKSUM_BYTES))
  if (Buffer.compare(checksum, expected.subarray(0, CHECKSUM_BYTES)) !== 0) {
    throw reader.malformed('the checksum of a share does not fit: it was mistyped')
  }
  const possible = rootVersion > 0 && threshold > 1 && point > 0
  if (!possible || threshold > ROOT_KEY_SHARES_MAX || point > ROOT_KEY_SHARES_MAX) {
    throw reader.malformed('a share of numbers that no share has')
  }
  return { rootVersion, set, threshold, point, value }
}
