/**
 * What key pairs and HMAC keys do: sign, encrypt a few bytes, agree on a secret, authenticate. `kmsKey` was authorised
 * by whoever calls. Private and HMAC keys stay with the key store; what takes the public key alone is done here.
 *
 * Nothing is handed out, and nothing vouched for, under a key that was disabled while it was worked out.
 */
import { encryptOaep } from '../crypto/rsa-oaep.ts'
import { isAsymmetric } from '../crypto/key-pair.ts'
import type {
  AsymmetricKeySpec,
  EncryptionAlgorithm,
  KeyAgreementAlgorithm,
  MacAlgorithm,
} from '../crypto/key-spec.ts'
import { isSameMac } from '../crypto/mac.ts'
import { verify, type Signable } from '../crypto/signature.ts'
import { KeyfoldError } from '../errors.ts'
import type { KeyMaterial, KeyStore, StoreTurn } from '../key-stores/key-store.ts'
import { assertEnabled, type KmsKey } from '../kms/kms-key.ts'
import type { KeyInUse } from './batch.ts'
import { assertStillEnabled, currentMaterial, storeForCall, type EnvelopeParts } from './parts.ts'

export interface SignRequest extends KeyInUse {
  readonly signable: Signable
}

export interface VerifyRequest extends SignRequest {
  readonly signature: Uint8Array
}

export interface OaepRequest extends KeyInUse {
  readonly algorithm: EncryptionAlgorithm
  /** Plaintext or ciphertext. */
  readonly bytes: Uint8Array
}

export interface SharedSecretRequest extends KeyInUse {
  readonly algorithm: KeyAgreementAlgorithm
  /** SPKI DER of the other side. */
  readonly peer: Uint8Array
}

export interface MacRequest extends KeyInUse {
  readonly algorithm: MacAlgorithm
  readonly message: Uint8Array
}

export interface VerifyMacRequest extends MacRequest {
  readonly mac: Uint8Array
}

export function sign(parts: EnvelopeParts, { signable, ...use }: SignRequest): Promise<Uint8Array> {
  return withMaterial(parts, use, (store, material, turn) => store.sign(material, signable, turn))
}

/** Throws SIGNATURE_INVALID. */
export async function verifySignature(
  parts: EnvelopeParts,
  { kmsKey, signable, signature }: VerifyRequest,
): Promise<void> {
  assertEnabled(kmsKey)
  const { keySpec, publicKey } = publicKeyOf(parts, kmsKey)
  const verified = await verify(keySpec, publicKey, signable, signature)
  assertStillEnabled(parts, kmsKey)
  if (!verified) throw new KeyfoldError('SIGNATURE_INVALID')
}

export function encryptWithPublicKey(
  parts: EnvelopeParts,
  { kmsKey, algorithm, bytes }: OaepRequest,
): Uint8Array {
  assertEnabled(kmsKey)
  const { keySpec, publicKey } = publicKeyOf(parts, kmsKey)
  return encryptOaep(keySpec, publicKey, algorithm, bytes)
}

/** Throws DECRYPT_FAILED. */
export function decryptWithPrivateKey(
  parts: EnvelopeParts,
  { algorithm, bytes, ...use }: OaepRequest,
): Promise<Uint8Array> {
  return withMaterial(parts, use, (store, material, turn) =>
    store.decryptWithPrivateKey(material, algorithm, bytes, turn),
  )
}

export function deriveSharedSecret(
  parts: EnvelopeParts,
  { algorithm, peer, ...use }: SharedSecretRequest,
): Promise<Uint8Array> {
  return withMaterial(parts, use, (store, material, turn) =>
    store.deriveSharedSecret(material, algorithm, peer, turn),
  )
}

export function generateMac(
  parts: EnvelopeParts,
  { algorithm, message, ...use }: MacRequest,
): Promise<Uint8Array> {
  return withMaterial(parts, use, (store, material, turn) =>
    store.generateMac(material, algorithm, message, turn),
  )
}

/** Throws MAC_INVALID. */
export async function verifyMac(parts: EnvelopeParts, request: VerifyMacRequest): Promise<void> {
  const generated = await generateMac(parts, request)
  if (!isSameMac(generated, request.mac)) throw new KeyfoldError('MAC_INVALID')
}

/** SPKI DER. Throws OPERATION_UNSUPPORTED of a key that has no public half; ROOT_KEY_INVALID. */
export function publicKeyOf(
  { keyStoreOf }: Pick<EnvelopeParts, 'keyStoreOf'>,
  kmsKey: KmsKey,
): { readonly keySpec: AsymmetricKeySpec; readonly publicKey: Uint8Array } {
  const { keySpec, arn } = kmsKey
  const material = currentMaterial(kmsKey)
  const { publicKey } = material
  if (!isAsymmetric(keySpec) || publicKey === undefined) {
    throw new KeyfoldError(
      'OPERATION_UNSUPPORTED',
      `${arn} key spec is ${keySpec} which is not valid for this operation.`,
    )
  }
  keyStoreOf(kmsKey).assertPublicKey?.(material)
  return { keySpec, publicKey }
}

async function withMaterial(
  parts: EnvelopeParts,
  { kmsKey, principalArn }: KeyInUse,
  use: (store: KeyStore, material: KeyMaterial, turn: StoreTurn) => Promise<Uint8Array>,
): Promise<Uint8Array> {
  assertEnabled(kmsKey)
  const material = currentMaterial(kmsKey)
  const { store, turn } = storeForCall(parts, kmsKey, principalArn)
  const made = await use(store, material, turn)
  try {
    assertStillEnabled(parts, kmsKey)
  } catch (error) {
    made.fill(0)
    throw error
  }
  return made
}
