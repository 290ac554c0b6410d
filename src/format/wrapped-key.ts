/**
 * A wrapped key, the KMS ciphertext blob: what a key store makes of a key, with enough in front to find the way
 * back. Opaque to callers.
 *
 *     1   version                0xE0
 *     1   suite                  how the store wrapped it: WRAPPING_SUITES
 *     1   usage                  01 message key, 02 the caller's
 *     16  KMS key id
 *     4   key material version   from 1
 *     …   store part             local: nonce24 ‖ ciphertext ‖ tag16; of other stores: the store's file has it
 *
 * The AAD of every wrapping is the first 23 bytes ‖ SHA-256(encryption context): 55 bytes. So neither the usage nor
 * the key that a blob names can be changed without failing its tag.
 */
import { KeyfoldError } from '../errors.ts'
import { WRAPPED_KEY_BYTES_MAX } from '../limits.ts'
import { Reader, Writer } from './bytes.ts'

export const WRAPPED_KEY_VERSION = 0xe0
const KMS_KEY_ID_BYTES = 16
const CONTEXT_HASH_BYTES = 32
export const WRAPPED_KEY_HEADER_BYTES = 23

/** Made by the service, 32 bytes, seals messages; never released by Decrypt. */
export const USAGE_MESSAGE_KEY = 1
/** Encrypt, GenerateDataKey*, /v1/data-keys; never valid in a key entry. */
export const USAGE_CALLER = 2

/** How a key store wraps. It stands in the AAD too, so that no store opens what another wrapped. */
export const WRAPPING_SUITES = {
  /** XAES-256-GCM: the local store. */
  xaes: 1,
  /** CKM_AES_GCM in a PKCS#11 token. */
  pkcs11AesGcm: 2,
  /** AES_GCM of an external key store proxy. */
  xks: 3,
  /** Ciphertexts of AWS KMS, or of what speaks its protocol. */
  awsKms: 4,
  /** Ciphertexts of a transit engine (Vault, OpenBao). */
  transit: 5,
} as const

export type WrappingSuite = (typeof WRAPPING_SUITES)[keyof typeof WRAPPING_SUITES]

export interface WrappedKeyHeader {
  readonly suite: WrappingSuite
  readonly usage: typeof USAGE_MESSAGE_KEY | typeof USAGE_CALLER
  /** 16 bytes. */
  readonly kmsKeyId: Uint8Array
  readonly materialVersion: number
}

export interface WrappedKey extends WrappedKeyHeader {
  readonly storePart: Uint8Array
}

export function encodeWrappedKey(wrappedKey: WrappedKey): Uint8Array {
  const bytes = new Uint8Array(WRAPPED_KEY_HEADER_BYTES + wrappedKey.storePart.length)
  writeHeader(new Writer(bytes), wrappedKey).put(wrappedKey.storePart)
  return bytes
}

/** Throws DECRYPT_FAILED: a blob that is none of ours simply cannot be opened. */
export function decodeWrappedKey(bytes: Uint8Array): WrappedKey {
  // Checked first, so that the reader never runs out: its error would say more than that the blob cannot be opened.
  if (bytes.length <= WRAPPED_KEY_HEADER_BYTES || bytes.length > WRAPPED_KEY_BYTES_MAX) {
    throw new KeyfoldError('DECRYPT_FAILED')
  }
  const reader = new Reader(bytes, 'DECRYPT_FAILED')
  if (reader.u8() !== WRAPPED_KEY_VERSION) throw new KeyfoldError('DECRYPT_FAILED')
  const suiteByte = reader.u8()
  const suite = Object.values(WRAPPING_SUITES).find((known) => known === suiteByte)
  if (suite === undefined) throw new KeyfoldError('DECRYPT_FAILED')
  const usage = reader.u8()
  if (usage !== USAGE_MESSAGE_KEY && usage !== USAGE_CALLER) {
    throw new KeyfoldError('DECRYPT_FAILED')
  }
  const kmsKeyId = reader.take(KMS_KEY_ID_BYTES)
  const materialVersion = reader.u32()
  if (materialVersion === 0) throw new KeyfoldError('DECRYPT_FAILED')
  return { suite, usage, kmsKeyId, materialVersion, storePart: reader.rest() }
}

/** What the store binds the key to: header ‖ contextHash, 55 bytes. */
export function encodeWrappedKeyAad(header: WrappedKeyHeader, contextHash: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(WRAPPED_KEY_HEADER_BYTES + CONTEXT_HASH_BYTES)
  writeHeader(new Writer(bytes), header).put(contextHash)
  return bytes
}

/** The 16 bytes of a KMS key id as a UUID, which is its id but for multi-Region keys (src/kms/reference.ts). */
export function kmsKeyIdText(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes).toString('hex')
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}

function writeHeader(writer: Writer, header: WrappedKeyHeader): Writer {
  return writer
    .u8(WRAPPED_KEY_VERSION)
    .u8(header.suite)
    .u8(header.usage)
    .put(header.kmsKeyId)
    .u32(header.materialVersion)
}
