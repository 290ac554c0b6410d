/**
 * Data keys and data key pairs for callers who encrypt themselves, wrapped with usage 02, which no message key ever has. They neither fill
 * nor read the data-key cache: each is the caller's alone.
 */
import { randomBytes } from 'node:crypto'

import { generateKeyPair } from '../key-stores/key-pair-work.ts'
import { assertUsable } from '../kms/kms-key.ts'
import { BatchAttributes } from './attributes.ts'
import type {
  CallerDataKey,
  CallerDataKeyPair,
  CallerDataKeys,
  DataKeyPairRequest,
  DataKeyRequest,
  DataKeysRequest,
} from './batch.ts'
import { wrapBytes, wrapForCaller } from './caller-bytes.ts'
import { authorizedKey, currentMaterial, type EnvelopeParts } from './parts.ts'

/** What the key table holds, and /v1/data-keys gives. */
const AES_256_BYTES = 32

export async function generateDataKeys(
  parts: EnvelopeParts,
  request: DataKeysRequest,
): Promise<CallerDataKeys> {
  const { principal, key, context, origin, plaintext } = request
  const action = plaintext ? 'kms:GenerateDataKey' : 'kms:GenerateDataKeyWithoutPlaintext'
  const attributes = new BatchAttributes(context, key, origin)
  const kmsKey = await authorizedKey(parts, { principal, action, key, attributes })
  const dataKeys: CallerDataKey[] = []
  for (let i = 0; i < request.count; i++) {
    const one = {
      kmsKey,
      principalArn: principal.arn,
      context,
      bytes: AES_256_BYTES,
      plaintext,
    }
    dataKeys.push(await generateDataKey(parts, one))
  }
  const { version } = currentMaterial(kmsKey)
  const use = { kmsKey, materialVersion: version, messages: request.count }
  return { keyId: kmsKey.arn, dataKeys, uses: [use] }
}

export async function generateDataKey(
  parts: EnvelopeParts,
  { context, bytes, plaintext, ...use }: DataKeyRequest,
): Promise<CallerDataKey> {
  if (plaintext || bytes !== AES_256_BYTES) {
    const key = randomBytes(bytes)
    let handedOut = false
    try {
      const wrappedKey = await wrapBytes(parts, { ...use, context, plaintext: key })
      handedOut = plaintext
      return { wrappedKey, plaintext: plaintext ? key : undefined }
    } finally {
      if (!handedOut) key.fill(0)
    }
  }
  // A key that nobody asked to see never leaves the key table.
  const key = parts.crypto.generateKey()
  try {
    const wrappedKey = await wrapForCaller(parts, use, context, ({ store, material, aad, turn }) =>
      store.wrapKey(material, aad, key, turn),
    )
    return { wrappedKey, plaintext: undefined }
  } finally {
    parts.crypto.releaseKey(key)
  }
}

export async function generateDataKeyPair(
  parts: EnvelopeParts,
  { context, keyPairSpec, plaintext, ...use }: DataKeyPairRequest,
): Promise<CallerDataKeyPair> {
  // Making an RSA key takes long: not for a key that wraps nothing.
  assertUsable(use.kmsKey)
  const turn = { principalArn: use.principalArn, urgency: 'other' } as const
  const { privateKey, publicKey } = await generateKeyPair(keyPairSpec, turn)
  let handedOver = false
  try {
    const wrappedPrivateKey = await wrapBytes(parts, { ...use, context, plaintext: privateKey })
    handedOver = plaintext
    return { wrappedPrivateKey, privateKey: plaintext ? privateKey : undefined, publicKey }
  } finally {
    if (!handedOver) privateKey.fill(0)
  }
}
