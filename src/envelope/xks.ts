/**
 * KMS keys as external keys: what AWS KMS has this server encrypt and decrypt as an external key store proxy. Their
 * ciphertexts are of a format of their own (src/format/xks-ciphertext.ts), and no other door opens them.
 */
import { KeyfoldError } from '../errors.ts'
import {
  decodeXksCiphertext,
  encodeXksAad,
  encodeXksCiphertext,
  fitsXks,
} from '../format/xks-ciphertext.ts'
import { integrityParts, type XksCiphertext } from '../format/xks-protocol.ts'
import type { KeyStore } from '../key-stores/key-store.ts'
import { assertWrappedBy } from '../key-stores/wrapping.ts'
import { assertUsable, type KmsKey } from '../kms/kms-key.ts'
import { assertStillUsable, currentMaterial, type EnvelopeParts } from './parts.ts'

export interface XksEncryptRequest {
  /** Authorised by whoever calls, for decrypting too where integrity is asked for. */
  readonly kmsKey: KmsKey
  readonly aad: Uint8Array
  readonly plaintext: Uint8Array
  /** Whether it shall be known that the ciphertext opens, and its hash. */
  readonly integrity: boolean
}

export interface XksEncrypted extends XksCiphertext {
  readonly materialVersion: number
  /** SHA-256, where it was asked for. */
  readonly integrityValue: Uint8Array | undefined
}

export interface XksDecryptRequest extends XksCiphertext {
  readonly kmsKey: KmsKey
  readonly aad: Uint8Array
}

export async function encryptXks(
  parts: EnvelopeParts,
  { kmsKey, aad, plaintext, integrity }: XksEncryptRequest,
): Promise<XksEncrypted> {
  assertUsable(kmsKey)
  const store = storeOf(parts, kmsKey)
  const material = currentMaterial(kmsKey)
  const header = { suite: store.traits.wrappingSuite, materialVersion: material.version }
  const boundTo = encodeXksAad(header, aad)
  const storePart = await store.wrapBytes(material, boundTo, plaintext)
  const encrypted = encodeXksCiphertext({ ...header, storePart })
  let integrityValue: Uint8Array | undefined
  if (integrity) {
    // Before it is opened: what is damaged between the two would otherwise have a value that is right.
    integrityValue = parts.crypto.sha256(...integrityParts(aad, encrypted))
    await assertOpens(parts, { ...encrypted, kmsKey, aad }, plaintext)
  }
  assertStillUsable(parts, kmsKey)
  return { ...encrypted, materialVersion: material.version, integrityValue }
}

/** Whoever sends it fills it with zeros afterwards. Throws DECRYPT_FAILED. */
export async function decryptXks(
  parts: EnvelopeParts,
  request: XksDecryptRequest,
): Promise<{ readonly plaintext: Uint8Array; readonly materialVersion: number }> {
  const { kmsKey, aad } = request
  assertUsable(kmsKey)
  const store = storeOf(parts, kmsKey)
  const { storePart, ...header } = decodeXksCiphertext(request)
  assertWrappedBy(store, header)
  const material = kmsKey.materials.get(header.materialVersion)
  if (material === undefined) throw new KeyfoldError('DECRYPT_FAILED')
  const plaintext = await store.unwrapBytes(material, encodeXksAad(header, aad), storePart)
  try {
    assertStillUsable(parts, kmsKey)
  } catch (error) {
    plaintext.fill(0)
    throw error
  }
  return { plaintext, materialVersion: header.materialVersion }
}

/** Throws OPERATION_UNSUPPORTED where it wraps in a form that ciphertexts of the API have no place for. */
function storeOf({ keyStoreOf }: EnvelopeParts, kmsKey: KmsKey): KeyStore {
  const store = keyStoreOf(kmsKey)
  if (fitsXks(store.traits.wrappingSuite)) return store
  throw new KeyfoldError(
    'OPERATION_UNSUPPORTED',
    `${kmsKey.arn} lives in ${store.name}, which no external key store can stand on`,
  )
}

/** Throws INTERNAL: what was made a moment ago has to open. */
async function assertOpens(
  parts: EnvelopeParts,
  request: XksDecryptRequest,
  plaintext: Uint8Array,
): Promise<void> {
  let same = false
  try {
    const { plaintext: opened } = await decryptXks(parts, request)
    same = Buffer.compare(opened, plaintext) === 0
    opened.fill(0)
  } catch (error) {
    if (!(error instanceof KeyfoldError && error.code === 'DECRYPT_FAILED')) throw error
  }
  if (!same) throw new KeyfoldError('INTERNAL', 'a ciphertext did not open to its plaintext')
}
