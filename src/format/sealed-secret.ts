/**
 * A short secret at rest, such as an access key's: what has to be known again and cannot be kept as a hash.
 *
 *     1   version        0xF1
 *     1   suite          1: XAES-256-GCM
 *     4   root version   which root key sealed it
 *     24  nonce
 *     …   ciphertext
 *     16  tag
 *
 * AAD = the bytes before the nonce ‖ purpose ‖ id ‖ owner, each as u16 length ‖ UTF-8: a row that was moved to
 * another id, or given to another owner, fails to open.
 */
import { Reader, Writer } from './bytes.ts'

const VERSION = 0xf1
const SUITE = 1
const HEADER_BYTES = 6
/** nonce24 ‖ tag16 */
const SEALED_OVERHEAD_BYTES = 40

export interface SealedSecret {
  readonly rootVersion: number
  /** nonce24 ‖ ciphertext ‖ tag16 */
  readonly sealed: Uint8Array
}

/** Where a secret belongs; it opens nowhere else. */
export interface SecretPlace {
  /** What it is for: one word for each table that holds secrets. */
  readonly purpose: string
  readonly id: string
  /** Whose it is, such as a principal. */
  readonly owner: string
}

export function encodeSealedSecret(secret: SealedSecret): Uint8Array {
  return new Writer(new Uint8Array(HEADER_BYTES + secret.sealed.length))
    .u8(VERSION)
    .u8(SUITE)
    .u32(secret.rootVersion)
    .put(secret.sealed).bytes
}

/** Throws ROOT_KEY_INVALID: what stands in the catalog is no sealed secret. */
export function decodeSealedSecret(bytes: Uint8Array): SealedSecret {
  const reader = new Reader(bytes, 'ROOT_KEY_INVALID')
  if (reader.u8() !== VERSION) throw reader.malformed('unknown version of a secret')
  if (reader.u8() !== SUITE) throw reader.malformed('unknown suite of a secret')
  const rootVersion = reader.u32()
  const sealed = reader.rest()
  if (sealed.length <= SEALED_OVERHEAD_BYTES) throw reader.malformed('truncated')
  return { rootVersion, sealed }
}

export function encodeSecretAad(place: SecretPlace, rootVersion: number): Uint8Array {
  const encoder = new TextEncoder()
  const parts = [place.purpose, place.id, place.owner].map((part) => encoder.encode(part))
  const bytes = parts.reduce((sum, part) => sum + 2 + part.length, HEADER_BYTES)
  const writer = new Writer(new Uint8Array(bytes)).u8(VERSION).u8(SUITE).u32(rootVersion)
  for (const part of parts) writer.u16(part.length).put(part)
  return writer.bytes
}

/** What everything begins with that a root key of this version sealed, and less than what a later one's did. */
export function sealedSecretPrefix(rootVersion: number): Uint8Array {
  return new Writer(new Uint8Array(HEADER_BYTES)).u8(VERSION).u8(SUITE).u32(rootVersion).bytes
}
