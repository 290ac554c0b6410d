/**
 * Key material that lies in a PKCS#11 token, as the catalog keeps it: a reference, and no secret.
 *
 *     1   version        0xF2
 *     1   IV mode        0 none: the key does not wrap; 1 host, 2 token, 3 appended (key-stores/pkcs11/gcm.ts)
 *     4   mechanism      what it wraps with, CKM_AES_GCM or a vendor's number; 0 just where the IV mode is 0
 *     28  CKA_ID         KMS key id (16) ‖ u32 key material version ‖ 8 random bytes
 *
 * The random bytes tell two keys apart that were made for one version, of which the catalog kept the second only: a
 * creation that failed half-way, or a catalog that was restored.
 */
import { Reader, Writer } from './bytes.ts'

const VERSION = 0xf2
const KMS_KEY_ID_BYTES = 16
export const TOKEN_KEY_ID_BYTES = 28
const REFERENCE_BYTES = 6 + TOKEN_KEY_ID_BYTES

/** In the order of their bytes. */
const IV_MODES = ['none', 'host', 'token', 'appended'] as const
export type IvMode = (typeof IV_MODES)[number]

export interface TokenReference {
  readonly ivMode: IvMode
  readonly mechanism: number
  /** CKA_ID. */
  readonly id: Uint8Array
}

export function encodeTokenReference({ ivMode, mechanism, id }: TokenReference): Uint8Array {
  return new Writer(new Uint8Array(REFERENCE_BYTES))
    .u8(VERSION)
    .u8(IV_MODES.indexOf(ivMode))
    .u32(mechanism)
    .put(id).bytes
}

/** Throws KMS_KEY_UNAVAILABLE: what stands in the catalog leads to no key of a token. */
export function decodeTokenReference(bytes: Uint8Array): TokenReference {
  const reader = new Reader(bytes, 'KMS_KEY_UNAVAILABLE')
  if (reader.u8() !== VERSION) throw reader.malformed('unknown version of token reference')
  const ivMode = IV_MODES[reader.u8()]
  if (ivMode === undefined) throw reader.malformed('unknown IV mode')
  const mechanism = reader.u32()
  if ((ivMode === 'none') !== (mechanism === 0)) throw reader.malformed('mechanism and IV mode')
  const id = reader.take(TOKEN_KEY_ID_BYTES)
  reader.end()
  return { ivMode, mechanism, id }
}

export function encodeTokenKeyId(
  kmsKeyId: Uint8Array,
  materialVersion: number,
  random: Uint8Array,
): Uint8Array {
  return new Writer(new Uint8Array(TOKEN_KEY_ID_BYTES))
    .put(kmsKeyId)
    .u32(materialVersion)
    .put(random).bytes
}

/** Whether a CKA_ID is one of this version of this KMS key. */
export function isTokenKeyIdOf(
  id: Uint8Array,
  { kmsKeyId, version }: { readonly kmsKeyId: Uint8Array; readonly version: number },
): boolean {
  const reader = new Reader(id, 'KMS_KEY_UNAVAILABLE')
  return Buffer.compare(reader.take(KMS_KEY_ID_BYTES), kmsKeyId) === 0 && reader.u32() === version
}
