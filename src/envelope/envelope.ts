/** The envelope operations over one set of parts. */
import * as asymmetric from './asymmetric.ts'
import type { Envelope } from './batch.ts'
import { decryptBytes, encryptBytes } from './caller-bytes.ts'
import { generateDataKey, generateDataKeyPair, generateDataKeys } from './data-keys.ts'
import { decrypt } from './decrypt.ts'
import { encrypt } from './encrypt.ts'
import { newMessageKeys, openMessageKeys } from './message-keys.ts'
import { stillServed, type EnvelopeParts } from './parts.ts'
import { reEncrypt } from './re-encrypt.ts'
import { decryptXks, encryptXks } from './xks.ts'

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
