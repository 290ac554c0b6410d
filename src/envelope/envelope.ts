/** The envelope: every operation there is, and all of them over one set of parts. */
import type { KmsKey } from '../kms/kms-key.ts'
import * as asymmetric from './asymmetric.ts'
import type {
  BatchResult,
  CallerDataKey,
  CallerDataKeyPair,
  CallerDataKeys,
  DataKeyPairRequest,
  DataKeyRequest,
  DataKeysRequest,
  DecryptBytesRequest,
  DecryptRequest,
  EncryptBytesRequest,
  EncryptRequest,
  NewMessageKeysRequest,
  OpenMessageKeysRequest,
  ReEncryptRequest,
  ReleasedMessageKeys,
} from './batch.ts'
import { decryptBytes, encryptBytes } from './caller-bytes.ts'
import { generateDataKey, generateDataKeyPair, generateDataKeys } from './data-keys.ts'
import { decrypt } from './decrypt.ts'
import { encrypt } from './encrypt.ts'
import { newMessageKeys, openMessageKeys } from './message-keys.ts'
import { stillServed, type EnvelopeParts } from './parts.ts'
import { reEncrypt } from './re-encrypt.ts'
import {
  decryptXks,
  encryptXks,
  type XksDecryptRequest,
  type XksEncrypted,
  type XksEncryptRequest,
} from './xks.ts'

/**
 * The product. Where every key is in memory and the work is short, an operation answers at once; otherwise it
 * answers with a promise, having called body.keep() before its first await.
 */
export interface Envelope {
  encrypt(request: EncryptRequest): BatchResult | Promise<BatchResult>
  decrypt(request: DecryptRequest): BatchResult | Promise<BatchResult>
  reEncrypt(request: ReEncryptRequest): Promise<BatchResult>
  dataKeys(request: DataKeysRequest): Promise<CallerDataKeys>
  /** Message keys in plaintext, for in-process mode alone. */
  newMessageKeys(request: NewMessageKeysRequest): Promise<ReleasedMessageKeys>
  openMessageKeys(request: OpenMessageKeysRequest): Promise<ReleasedMessageKeys>
  dataKey(request: DataKeyRequest): Promise<CallerDataKey>
  dataKeyPair(request: DataKeyPairRequest): Promise<CallerDataKeyPair>
  /** A wrapped key of usage 02, or an inline message where the store bounds how many keys it wraps. */
  encryptBytes(request: EncryptBytesRequest): Promise<Uint8Array>
  /** Opens what encryptBytes made, and inline messages. Throws DECRYPT_FAILED. */
  decryptBytes(request: DecryptBytesRequest): Promise<Uint8Array>

  // As an external key store proxy.

  encryptXks(request: XksEncryptRequest): Promise<XksEncrypted>
  /** Throws DECRYPT_FAILED. */
  decryptXks(request: XksDecryptRequest): Promise<{
    readonly plaintext: Uint8Array
    readonly materialVersion: number
  }>

  // Under key pairs and HMAC keys.

  sign(request: asymmetric.SignRequest): Promise<Uint8Array>
  /** Throws SIGNATURE_INVALID. */
  verify(request: asymmetric.VerifyRequest): Promise<void>
  encryptWithPublicKey(request: asymmetric.OaepRequest): Uint8Array
  /** SPKI DER of the current material. Throws OPERATION_UNSUPPORTED, ROOT_KEY_INVALID. */
  publicKey(kmsKey: KmsKey): Uint8Array
  /** Throws DECRYPT_FAILED. */
  decryptWithPrivateKey(request: asymmetric.OaepRequest): Promise<Uint8Array>
  deriveSharedSecret(request: asymmetric.SharedSecretRequest): Promise<Uint8Array>
  generateMac(request: asymmetric.MacRequest): Promise<Uint8Array>
  /** Throws MAC_INVALID. */
  verifyMac(request: asymmetric.VerifyMacRequest): Promise<void>
}

export function createEnvelope(parts: EnvelopeParts): Envelope {
  return {
    encrypt: (request) => stillServed(parts, encrypt(parts, request)),
    decrypt: (request) => stillServed(parts, decrypt(parts, request)),
    reEncrypt: async (request) => stillServed(parts, await reEncrypt(parts, request)),
    dataKeys: (request) => generateDataKeys(parts, request),
    newMessageKeys: (request) => newMessageKeys(parts, request),
    openMessageKeys: (request) => openMessageKeys(parts, request),
    dataKey: (request) => generateDataKey(parts, request),
    dataKeyPair: (request) => generateDataKeyPair(parts, request),
    encryptBytes: (request) => encryptBytes(parts, request),
    decryptBytes: (request) => decryptBytes(parts, request),
    encryptXks: (request) => encryptXks(parts, request),
    decryptXks: (request) => decryptXks(parts, request),
    sign: (request) => asymmetric.sign(parts, request),
    verify: (request) => asymmetric.verifySignature(parts, request),
    encryptWithPublicKey: (request) => asymmetric.encryptWithPublicKey(parts, request),
    publicKey: (kmsKey) => asymmetric.publicKeyOf(parts, kmsKey).publicKey,
    decryptWithPrivateKey: (request) => asymmetric.decryptWithPrivateKey(parts, request),
    deriveSharedSecret: (request) => asymmetric.deriveSharedSecret(parts, request),
    generateMac: (request) => asymmetric.generateMac(parts, request),
    verifyMac: (request) => asymmetric.verifyMac(parts, request),
  }
}
