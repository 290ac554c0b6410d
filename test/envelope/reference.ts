/**
 * The envelope as its formats describe it, for tests that forge: whoever knows a message key can make whatever they
 * like, and what keyfold then refuses it refuses for the right reason.
 */
import { createHash, hkdfSync } from 'node:crypto'

import type { Crypto } from '../../dist/crypto/crypto.js'

export function contextHash(canonical: Uint8Array = new Uint8Array(0)): Buffer {
  return createHash('sha256').update(canonical).digest()
}

/** HKDF-SHA-512 with a salt of 64 zeros, as the keys of a message key are derived. */
function derive(messageKey: Uint8Array, label: string, suffix: readonly number[] = []): Buffer {
  const info = Buffer.concat([Buffer.from(label), Buffer.from(suffix)])
  return Buffer.from(hkdfSync('sha512', messageKey, Buffer.alloc(64), info, 32))
}

export function commitmentOf(messageKey: Uint8Array): Buffer {
  return derive(messageKey, 'keyfold/messages/v1/commitment')
}

/** commitment ‖ u16 length ‖ wrapped key */
export function keyEntryOf(commitment: Uint8Array, wrappedKey: Uint8Array): Buffer {
  const length = Buffer.from([wrappedKey.length >> 8, wrappedKey.length & 0xff])
  return Buffer.concat([commitment, length, wrappedKey])
}

export const inlineHeadBytes = 2
export const commitmentBytes = 32

/** Where an inline message has what. */
export function splitInline(message: Uint8Array): {
  readonly head: Buffer
  readonly commitment: Buffer
  readonly wrappedKey: Buffer
  readonly keyEntry: Buffer
  readonly rest: Buffer
} {
  const bytes = Buffer.from(message)
  const wrappedAt = inlineHeadBytes + commitmentBytes + 2
  const end = wrappedAt + bytes.readUInt16BE(wrappedAt - 2)
  return {
    head: bytes.subarray(0, inlineHeadBytes),
    commitment: bytes.subarray(inlineHeadBytes, inlineHeadBytes + commitmentBytes),
    wrappedKey: bytes.subarray(wrappedAt, end),
    keyEntry: bytes.subarray(inlineHeadBytes, end),
    rest: bytes.subarray(end),
  }
}

export function withKeyEntry(message: Uint8Array, keyEntry: Uint8Array): Buffer {
  const { head, rest } = splitInline(message)
  return Buffer.concat([head, keyEntry, rest])
}

/** An inline message of suite 1 that is right in everything, sealed with a message key that the test knows. */
export function forgeInline(
  crypto: Crypto,
  messageKey: Uint8Array,
  wrappedKey: Uint8Array,
  plaintext: Uint8Array,
  canonicalContext?: Uint8Array,
): Buffer {
  const suite = 1
  const commitment = commitmentOf(messageKey)
  const sealingKey = derive(messageKey, 'keyfold/messages/v1/key', [suite])
  const aad = Buffer.concat([
    Buffer.of(suite),
    commitment.subarray(0, 16),
    contextHash(canonicalContext),
  ])
  const nonce = Buffer.concat([Buffer.alloc(20, 7), Buffer.alloc(4)])
  const sealed = crypto.insecureXaesSeal(suite, sealingKey, nonce, aad, plaintext)
  return Buffer.concat([Buffer.of(0xe1, suite), keyEntryOf(commitment, wrappedKey), nonce, sealed])
}
