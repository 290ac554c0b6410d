/**
 * XAES-256-GCM (c2sp.org/XAES-256-GCM), KC-XAES-256-GCM (eprint 2025/758) and the keys of a message key, on
 * node:crypto: the reference that the addon is compared with, and the fallback where there is none.
 *
 *     L  = AES_K(0^16);  K1 = L<<1, xor 0x87 into the last byte if L's first bit was set
 *     Kx = AES_K((00 01 58 00 ‖ N[:12]) xor K1) ‖ AES_K((00 02 58 00 ‖ N[:12]) xor K1)
 *     sealed = AES-256-GCM(Kx, N[12:24], plaintext, AAD) = ciphertext ‖ tag16
 *     suite 2 appends KC = AES_K(X xor (N[12:24] ‖ 00010001) xor K1) ‖ AES_K(X xor (N[12:24] ‖ 00010002) xor K1)
 *     with X = AES_K("XCMT" ‖ N[:12])
 */
import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createSecretKey,
  timingSafeEqual,
  type KeyObject,
} from 'node:crypto'

import { KC_BYTES, TAG_BYTES } from '../format/message.ts'
import type { Suite } from './crypto.ts'

/** An XAES input key with its CMAC subkey. */
export interface XaesKey {
  readonly key: KeyObject
  readonly k1: Buffer
}

export function createXaesKey(key: KeyObject): XaesKey {
  const l = aesBlocks(key, Buffer.alloc(16))
  const k1 = Buffer.alloc(16)
  for (let i = 0; i < 16; i++) k1[i] = ((l[i] as number) << 1) | ((l[i + 1] ?? 0) >> 7)
  // The polynomial is xored in by a mask, not a branch: L is secret.
  k1[15] = (k1[15] as number) ^ (0x87 & -((l[0] as number) >> 7))
  l.fill(0)
  return { key, k1 }
}

/** Kx for nonces that begin with `nonce12`. */
export function deriveXaes({ key, k1 }: XaesKey, nonce12: Uint8Array): KeyObject {
  const blocks = Buffer.alloc(32)
  for (let i = 0; i < 2; i++) {
    blocks.set([0, i + 1, 0x58, 0], 16 * i)
    blocks.set(nonce12, 16 * i + 4)
    xorInto(blocks, 16 * i, k1)
  }
  const kx = aesBlocks(key, blocks)
  const derived = createSecretKey(kx)
  kx.fill(0)
  return derived
}

/** The 32-byte commitment of the message with this nonce. */
export function commitXaes({ key, k1 }: XaesKey, nonce24: Uint8Array): Buffer {
  const x = aesBlocks(key, Buffer.concat([Buffer.from('XCMT'), nonce24.subarray(0, 12)]))
  const blocks = Buffer.alloc(32)
  for (let i = 0; i < 2; i++) {
    blocks.set(nonce24.subarray(12), 16 * i)
    blocks.set([0, 1, 0, i + 1], 16 * i + 12)
    xorInto(blocks, 16 * i, x)
    xorInto(blocks, 16 * i, k1)
  }
  return aesBlocks(key, blocks)
}

/** One message under a derived key: writes ciphertext ‖ tag16 at `offset`. */
export function sealGcm(
  kx: KeyObject,
  nonce12: Uint8Array,
  aad: Uint8Array,
  plaintext: Uint8Array,
  output: Uint8Array,
  offset: number,
): void {
  const cipher = createCipheriv('aes-256-gcm', kx, nonce12, { authTagLength: TAG_BYTES })
  cipher.setAAD(aad)
  output.set(cipher.update(plaintext), offset)
  cipher.final()
  output.set(cipher.getAuthTag(), offset + plaintext.length)
}

/** The plaintext of ciphertext ‖ tag16, or undefined. */
export function openGcm(
  kx: KeyObject,
  nonce12: Uint8Array,
  aad: Uint8Array,
  sealed: Uint8Array,
): Buffer | undefined {
  if (sealed.length < TAG_BYTES) return undefined
  // Without authTagLength, Node 20 accepts a 4-byte tag.
  const decipher = createDecipheriv('aes-256-gcm', kx, nonce12, { authTagLength: TAG_BYTES })
  decipher.setAAD(aad)
  decipher.setAuthTag(sealed.subarray(sealed.length - TAG_BYTES))
  // update() hands out plaintext before final() has checked the tag, so nothing leaves this function before.
  const plaintext = decipher.update(sealed.subarray(0, sealed.length - TAG_BYTES))
  try {
    decipher.final()
    return plaintext
  } catch {
    plaintext.fill(0)
    return undefined
  }
}

/** Whole messages with any 24-byte nonce: wrapped keys, and public vectors. */
export function sealXaes(
  suite: Suite,
  key: XaesKey,
  nonce24: Uint8Array,
  aad: Uint8Array,
  plaintext: Uint8Array,
): Buffer {
  const kcBytes = suite === 2 ? KC_BYTES : 0
  const output = Buffer.alloc(plaintext.length + TAG_BYTES + kcBytes)
  const kx = deriveXaes(key, nonce24.subarray(0, 12))
  sealGcm(kx, nonce24.subarray(12), aad, plaintext, output, 0)
  if (suite === 2) output.set(commitXaes(key, nonce24), plaintext.length + TAG_BYTES)
  return output
}

export function openXaes(
  suite: Suite,
  key: XaesKey,
  nonce24: Uint8Array,
  aad: Uint8Array,
  sealed: Uint8Array,
): Buffer | undefined {
  const kcBytes = suite === 2 ? KC_BYTES : 0
  if (sealed.length < TAG_BYTES + kcBytes) return undefined
  const gcmEnd = sealed.length - kcBytes
  if (suite === 2 && !timingSafeEqual(commitXaes(key, nonce24), sealed.subarray(gcmEnd))) {
    return undefined
  }
  const kx = deriveXaes(key, nonce24.subarray(0, 12))
  return openGcm(kx, nonce24.subarray(12), aad, sealed.subarray(0, gcmEnd))
}

/** HKDF-SHA-512 (RFC 5869): extract once, then as many expansions as there are labels. */
export function extractHkdf(ikm: KeyObject, salt: Uint8Array): Buffer {
  const material = ikm.export()
  const prk = createHmac('sha512', salt.length === 0 ? Buffer.alloc(64) : salt)
    .update(material)
    .digest()
  material.fill(0)
  return prk
}

export function expandHkdf(prk: Uint8Array, parts: readonly Uint8Array[], bytes: number): Buffer {
  const output = Buffer.alloc(bytes)
  let block = Buffer.alloc(0)
  for (let offset = 0, counter = 1; offset < bytes; offset += block.length, counter++) {
    const hmac = createHmac('sha512', prk).update(block)
    for (const part of parts) hmac.update(part)
    block = hmac.update(Buffer.of(counter)).digest()
    output.set(block.subarray(0, bytes - offset), offset)
  }
  block.fill(0)
  return output
}

function aesBlocks(key: KeyObject, blocks: Uint8Array): Buffer {
  const cipher = createCipheriv('aes-256-ecb', key, null)
  cipher.setAutoPadding(false)
  return Buffer.concat([cipher.update(blocks), cipher.final()])
}

function xorInto(target: Uint8Array, offset: number, mask: Uint8Array): void {
  for (let i = 0; i < 16; i++) {
    target[offset + i] = (target[offset + i] as number) ^ (mask[i] as number)
  }
}
