/**
 * Data keys for callers who encrypt themselves: AES-256 keys wrapped with usage 02, which no message key ever has.
 * They neither fill nor read the data-key cache: each is the caller's alone.
 */
import { randomBytes } from 'node:crypto'

import {
  encodeWrappedKey,
  encodeWrappedKeyAad,
  USAGE_CALLER,
  WRAPPING_SUITE_XAES,
} from '../format/wrapped-key.ts'
import type { KeyMaterial, KeyStore } from '../key-stores/key-store.ts'
import { assertUsable } from '../kms/kms-key.ts'
import type { CallerDataKey, DataKeysRequest } from './batch.ts'
import { required } from './decrypt.ts'
import { assertStillEnabled, authorizedKey, type EnvelopeParts } from './parts.ts'

const DATA_KEY_BYTES = 32

export async function generateDataKeys(
  parts: EnvelopeParts,
  request: DataKeysRequest,
): Promise<{ readonly keyId: string; readonly dataKeys: readonly CallerDataKey[] }> {
  const action = request.plaintext ? 'kms:GenerateDataKey' : 'kms:GenerateDataKeyWithoutPlaintext'
  const kmsKey = await authorizedKey(parts, request.principal, action, request.key)
  assertUsable(kmsKey)
  const material = required(kmsKey.materials.get(kmsKey.currentVersion))
  const header = {
    suite: WRAPPING_SUITE_XAES,
    usage: USAGE_CALLER,
    kmsKeyId: kmsKey.idBytes,
    materialVersion: material.version,
  } as const
  const aad = encodeWrappedKeyAad(header, request.context.hash)
  const store = parts.keyStoreOf(kmsKey)
  const dataKeys: CallerDataKey[] = []
  for (let i = 0; i < request.count; i++) {
    const { storePart, plaintext } = request.plaintext
      ? await wrapRandomBytes(store, material, aad)
      : await wrapUnseen(parts, store, material, aad)
    assertStillEnabled(parts, kmsKey)
    dataKeys.push({ wrappedKey: encodeWrappedKey({ ...header, storePart }), plaintext })
  }
  return { keyId: kmsKey.arn, dataKeys }
}

interface WrappedDataKey {
  readonly storePart: Uint8Array
  readonly plaintext: Uint8Array | undefined
}

async function wrapRandomBytes(
  store: KeyStore,
  material: KeyMaterial,
  aad: Uint8Array,
): Promise<WrappedDataKey> {
  const plaintext = randomBytes(DATA_KEY_BYTES)
  return { storePart: await store.wrapBytes(material, aad, plaintext), plaintext }
}

/** A key that nobody asked to see never leaves the key table. */
async function wrapUnseen(
  { crypto }: EnvelopeParts,
  store: KeyStore,
  material: KeyMaterial,
  aad: Uint8Array,
): Promise<WrappedDataKey> {
  const key = crypto.generateKey()
  try {
    return { storePart: await store.wrapKey(material, aad, key), plaintext: undefined }
  } finally {
    crypto.releaseKey(key)
  }
}
