/**
 * What keyfold keeps where an external key store holds the key: the store part of a wrapped key, and in place of key
 * material the name of the external key.
 *
 * Store part (src/format/wrapped-key.ts), suite 3, AES_GCM of an XKS proxy:
 *
 *     1   bytes of metadata   0 to 20
 *     …   metadata            the proxy's own, opaque
 *     1   bytes of the IV     12 or 16
 *     …   IV                  drawn by the proxy
 *     16  tag
 *     …   ciphertext          as long as what is wrapped
 *
 * Key material:
 *
 *     1   version             0xF3
 *     …   external key id     1 to 128 of A-Z a-z 0-9 . _ -
 */
import { KeyfoldError } from '../errors.ts'
import { Reader, Writer } from './bytes.ts'
import {
  isExternalKeyId,
  XKS_IV_BYTES,
  XKS_METADATA_BYTES_MAX,
  XKS_TAG_BYTES,
  type XksCiphertext,
} from './xks-protocol.ts'

const EXTERNAL_KEY_VERSION = 0xf3

export function encodeXksStorePart(parts: XksCiphertext): Uint8Array {
  const { metadata, iv, ciphertext, tag } = parts
  const bytes = 1 + metadata.length + 1 + iv.length + tag.length + ciphertext.length
  return new Writer(new Uint8Array(bytes))
    .u8(metadata.length)
    .put(metadata)
    .u8(iv.length)
    .put(iv)
    .put(tag)
    .put(ciphertext).bytes
}

/** Parts of it are views. Throws DECRYPT_FAILED. */
export function decodeXksStorePart(storePart: Uint8Array): XksCiphertext {
  const reader = new Reader(storePart, 'DECRYPT_FAILED')
  try {
    const metadata = reader.take(reader.u8())
    const iv = reader.take(reader.u8())
    const tag = reader.take(XKS_TAG_BYTES)
    const parts = { metadata, iv, tag, ciphertext: reader.rest() }
    if (metadata.length <= XKS_METADATA_BYTES_MAX && XKS_IV_BYTES.includes(iv.length)) return parts
  } catch {
    // Where it ends too early is nobody's business.
  }
  throw new KeyfoldError('DECRYPT_FAILED')
}

export function encodeExternalKey(externalKeyId: string): Uint8Array {
  return new Writer(new Uint8Array(1 + externalKeyId.length))
    .u8(EXTERNAL_KEY_VERSION)
    .put(new TextEncoder().encode(externalKeyId)).bytes
}

/** Throws ROOT_KEY_INVALID: what stands in the catalog names no external key. */
export function decodeExternalKey(stored: Uint8Array): string {
  const reader = new Reader(stored, 'ROOT_KEY_INVALID')
  if (reader.u8() !== EXTERNAL_KEY_VERSION) throw reader.malformed('unknown version of a key')
  const id = Buffer.from(reader.rest()).toString('latin1')
  if (!isExternalKeyId(id)) throw reader.malformed('no external key id')
  return id
}
