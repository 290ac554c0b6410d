/**
 * A grant token: what CreateGrant answers beside the grant id. It names a grant and proves nothing: AWS KMS calls it
 * nonsecret, and whoever shows one may do no more than they may without it. Grants hold at once here, so that a token
 * is needed for RetireGrant only.
 *
 *     1   version    0x01
 *     32  grant id
 *     15  nonce      each request is answered another token
 *
 * It travels as base64 (RFC 4648 §4), 64 characters.
 */
import { Reader, Writer } from './bytes.ts'

const VERSION = 0x01
const GRANT_ID_BYTES = 32
export const GRANT_TOKEN_NONCE_BYTES = 15

export interface GrantToken {
  /** 64 hex digits. */
  readonly grantId: string
  readonly nonce: Uint8Array
}

export function encodeGrantToken({ grantId, nonce }: GrantToken): string {
  const writer = new Writer(new Uint8Array(1 + GRANT_ID_BYTES + GRANT_TOKEN_NONCE_BYTES))
    .u8(VERSION)
    .put(Buffer.from(grantId, 'hex'))
    .put(nonce)
  return Buffer.from(writer.bytes).toString('base64')
}

/** Throws GRANT_TOKEN_INVALID. */
export function decodeGrantToken(token: string): GrantToken {
  const bytes = Buffer.from(token, 'base64')
  const reader = new Reader(bytes, 'GRANT_TOKEN_INVALID')
  if (bytes.toString('base64') !== token) throw reader.malformed('it is not base64')
  if (reader.u8() !== VERSION) throw reader.malformed('its version is not known')
  const grantId = Buffer.from(reader.take(GRANT_ID_BYTES)).toString('hex')
  const nonce = reader.take(GRANT_TOKEN_NONCE_BYTES)
  reader.end()
  return { grantId, nonce }
}
