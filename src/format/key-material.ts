/**
 * Key material at rest, as the local key store keeps it in the catalog.
 *
 *     1   version        0xF0
 *     1   suite          1: XAES-256-GCM
 *     4   root version   which root key sealed it
 *     24  nonce
 *     …   ciphertext     of the key material: 32 bytes, an HMAC key, or PKCS#8 DER of a private key
 *     16  tag
 *
 * AAD = the bytes before the nonce ‖ KMS key id (16) ‖ u32 key material version ‖ key spec (ASCII): a row that was
 * moved to another key, version or spec fails to open.
 */
import { KeyfoldError } from '../errors.ts'
import { Reader, Writer } from './bytes.ts'

const VERSION = 0xf0
const SUITE = 1
const HEADER_BYTES = 6
/** nonce24 ‖ tag16. */
const SEALED_OVERHEAD_BYTES = 40

export interface SealedKeyMaterial {
  readonly rootVersion: number
  /** nonce24 ‖ ciphertext ‖ tag16 */
  readonly sealed: Uint8Array
}

export function encodeSealedKeyMaterial(material: SealedKeyMaterial): Uint8Array {
  return new Writer(new Uint8Array(HEADER_BYTES + material.sealed.length))
    .u8(VERSION)
    .u8(SUITE)
    .u32(material.rootVersion)
    .put(material.sealed).bytes
}

/** Throws ROOT_KEY_INVALID: what stands in the catalog is not sealed key material. */
export function decodeSealedKeyMaterial(bytes: Uint8Array): SealedKeyMaterial {
  const reader = new Reader(bytes, 'ROOT_KEY_INVALID')
  if (reader.u8() !== VERSION) throw reader.malformed('unknown version of key material')
  if (reader.u8() !== SUITE) throw reader.malformed('unknown suite of key material')
  const rootVersion = reader.u32()
  const sealed = reader.rest()
  if (sealed.length <= SEALED_OVERHEAD_BYTES) throw reader.malformed('truncated')
  return { rootVersion, sealed }
}

export function encodeKeyMaterialAad(fields: {
  readonly rootVersion: number
  readonly kmsKeyId: Uint8Array
  readonly materialVersion: number
  readonly keySpec: string
}): Uint8Array {
  const keySpec = new TextEncoder().encode(fields.keySpec)
  if (fields.kmsKeyId.length !== 16) throw new KeyfoldError('INTERNAL', 'a KMS key id has 16 bytes')
  return new Writer(new Uint8Array(HEADER_BYTES + 16 + 4 + keySpec.length))
    .u8(VERSION)
    .u8(SUITE)
    .u32(fields.rootVersion)
    .put(fields.kmsKeyId)
    .u32(fields.materialVersion)
    .put(keySpec).bytes
}

/** What everything begins with that a root key of this version sealed, and less than what a later one's did. */
export function sealedMaterialPrefix(rootVersion: number): Uint8Array {
  return new Writer(new Uint8Array(HEADER_BYTES)).u8(VERSION).u8(SUITE).u32(rootVersion).bytes
}
