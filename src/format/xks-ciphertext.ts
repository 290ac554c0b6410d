/**
 * A ciphertext of keyfold as an external key store proxy: the store part of a wrapping, spread over the members that
 * the API has. What the metadata says is what a store part says elsewhere in a wrapped key's header.
 *
 *     suite 1, XAES-256-GCM      metadata = 01 ‖ u32 key material version ‖ nonce[0:12]     IV = nonce[12:24]
 *     suite 2, CKM_AES_GCM       metadata = 02 ‖ u32 key material version                   IV = nonce
 *
 * Store parts of other suites have no place here.
 *
 * AAD = "keyfold/xks/v1" ‖ u16 length ‖ AAD of the request ‖ u8 length ‖ the first five bytes of the metadata. With the
 * lengths, nothing passes for something else; with the label it is never the AAD of a wrapped key, which starts with E0,
 * so that this door opens nothing that the others wrapped, nor they what this one did. The rest of the metadata is half
 * of the nonce: changed, it makes another key, and the tag fails.
 */
import { KeyfoldError } from '../errors.ts'
import { Reader, Writer } from './bytes.ts'
import { WRAPPING_SUITES, type WrappingSuite } from './wrapped-key.ts'
import { XKS_TAG_BYTES, type XksCiphertext } from './xks-protocol.ts'

const LABEL = new TextEncoder().encode('keyfold/xks/v1')
const HEADER_BYTES = 5
const IV_BYTES = 12

/** Bytes of a nonce that the IV has no room for. */
const NONCE_IN_METADATA = new Map<WrappingSuite, number>([
  [WRAPPING_SUITES.xaes, 12],
  [WRAPPING_SUITES.pkcs11AesGcm, 0],
])

export interface XksCiphertextHeader {
  readonly suite: WrappingSuite
  readonly materialVersion: number
}

export interface XksStorePart extends XksCiphertextHeader {
  /** nonce ‖ ciphertext ‖ tag16 */
  readonly storePart: Uint8Array
}

/** Whether store parts of this suite can be spread so. */
export function fitsXks(suite: WrappingSuite): boolean {
  return NONCE_IN_METADATA.has(suite)
}

/** What the store is given as AAD. `aad`: the request's, at most 65,535 bytes. */
export function encodeXksAad(header: XksCiphertextHeader, aad: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(LABEL.length + 2 + aad.length + 1 + HEADER_BYTES)
  const writer = new Writer(bytes).put(LABEL).u16(aad.length).put(aad).u8(HEADER_BYTES)
  return writeHeader(writer, header).bytes
}

/** Parts of it are views of the store part. */
export function encodeXksCiphertext({ storePart, ...header }: XksStorePart): XksCiphertext {
  const nonceBytes = nonceInMetadata(header.suite)
  const tagAt = storePart.length - XKS_TAG_BYTES
  const metadata = new Uint8Array(HEADER_BYTES + nonceBytes)
  writeHeader(new Writer(metadata), header).put(storePart.subarray(0, nonceBytes))
  return {
    metadata,
    iv: storePart.subarray(nonceBytes, nonceBytes + IV_BYTES),
    ciphertext: storePart.subarray(nonceBytes + IV_BYTES, tagAt),
    tag: storePart.subarray(tagAt),
  }
}

/** Throws DECRYPT_FAILED: a ciphertext that is none of ours simply cannot be opened. */
export function decodeXksCiphertext(parts: XksCiphertext): XksStorePart {
  const { metadata, iv, ciphertext, tag } = parts
  const reader = new Reader(metadata, 'DECRYPT_FAILED')
  // Checked first: the reader's error would say more than that it cannot be opened.
  if (metadata.length < HEADER_BYTES) throw new KeyfoldError('DECRYPT_FAILED')
  const suiteByte = reader.u8()
  const [suite, nonceBytes] = [...NONCE_IN_METADATA].find(([known]) => known === suiteByte) ?? []
  const materialVersion = reader.u32()
  const isOurs =
    suite !== undefined &&
    materialVersion > 0 &&
    reader.remaining === nonceBytes &&
    iv.length === IV_BYTES &&
    tag.length === XKS_TAG_BYTES
  if (!isOurs) throw new KeyfoldError('DECRYPT_FAILED')
  const storePart = new Uint8Array(nonceBytes + iv.length + ciphertext.length + tag.length)
  new Writer(storePart).put(reader.rest()).put(iv).put(ciphertext).put(tag)
  return { suite, materialVersion, storePart }
}

function nonceInMetadata(suite: WrappingSuite): number {
  const bytes = NONCE_IN_METADATA.get(suite)
  if (bytes !== undefined) return bytes
  throw new KeyfoldError('OPERATION_UNSUPPORTED', 'the key store of this key has another format')
}

function writeHeader(writer: Writer, { suite, materialVersion }: XksCiphertextHeader): Writer {
  return writer.u8(suite).u32(materialVersion)
}
