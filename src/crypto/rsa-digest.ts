/**
 * RSA signatures over a digest (RFC 8017): the encoded message, EMSA-PKCS1-v1_5 or EMSA-PSS, is built here and goes
 * through the bare RSA operation of OpenSSL, which blinds it and checks the result of its CRT.
 */
import {
  constants,
  createHash,
  privateEncrypt,
  publicDecrypt,
  randomBytes,
  timingSafeEqual,
  type KeyObject,
} from 'node:crypto'

import type { Hash, SigningScheme } from './signing-scheme.ts'

/** DER of DigestInfo up to the digest itself (RFC 8017 §9.2, note 1). */
const DIGEST_INFO: Readonly<Record<Hash, Uint8Array>> = {
  sha256: Buffer.from('3031300d060960864801650304020105000420', 'hex'),
  sha384: Buffer.from('3041300d060960864801650304020205000430', 'hex'),
  sha512: Buffer.from('3051300d060960864801650304020305000440', 'hex'),
}
const PSS_TRAILER = 0xbc

export function signRsaDigest(
  privateKey: KeyObject,
  { name, hash }: SigningScheme,
  digest: Uint8Array,
): Uint8Array {
  const modulusBytes = modulusBytesOf(privateKey)
  const encoded =
    name === 'pss'
      ? encodePss(hash, digest, randomBytes(digest.length), modulusBytes)
      : encodePkcs1(hash, digest, modulusBytes)
  return privateEncrypt({ key: privateKey, padding: constants.RSA_NO_PADDING }, encoded)
}

export function verifyRsaDigest(
  publicKey: KeyObject,
  { name, hash }: SigningScheme,
  digest: Uint8Array,
  signature: Uint8Array,
): boolean {
  const modulusBytes = modulusBytesOf(publicKey)
  if (signature.length !== modulusBytes) return false
  let encoded: Uint8Array
  try {
    encoded = publicDecrypt({ key: publicKey, padding: constants.RSA_NO_PADDING }, signature)
  } catch {
    // Not less than the modulus.
    return false
  }
  if (name === 'pss') {
    const salt = decodePssSalt(hash, digest.length, encoded)
    return salt !== undefined && isEqual(encoded, encodePss(hash, digest, salt, modulusBytes))
  }
  // Compared whole, never parsed: a lenient reader of PKCS#1 v1.5 lets signatures be forged (CVE-2006-4339).
  return isEqual(encoded, encodePkcs1(hash, digest, modulusBytes))
}

/** What RSASSA-PKCS1-v1_5 pads. */
export function encodeDigestInfo(hash: Hash, digest: Uint8Array): Uint8Array {
  return Buffer.concat([DIGEST_INFO[hash], digest])
}

function encodePkcs1(hash: Hash, digest: Uint8Array, modulusBytes: number): Uint8Array {
  const encoded = new Uint8Array(modulusBytes).fill(0xff)
  const digestInfo = encodeDigestInfo(hash, digest)
  encoded.set([0, 1])
  encoded.set([0], modulusBytes - digestInfo.length - 1)
  encoded.set(digestInfo, modulusBytes - digestInfo.length)
  return encoded
}

/** RFC 8017 §9.1.1, for moduli of whole bytes: the encoded message is one bit shorter than the modulus. */
function encodePss(
  hash: Hash,
  digest: Uint8Array,
  salt: Uint8Array,
  modulusBytes: number,
): Uint8Array {
  const h = createHash(hash).update(new Uint8Array(8)).update(digest).update(salt).digest()
  const block = new Uint8Array(modulusBytes - h.length - 1)
  block.set([1], block.length - salt.length - 1)
  block.set(salt, block.length - salt.length)
  return Buffer.concat([maskPss(hash, h, block), h, Uint8Array.of(PSS_TRAILER)])
}

/** Where the salt would stand. Whether all else is as it must be is told by encoding again. */
function decodePssSalt(hash: Hash, saltBytes: number, encoded: Uint8Array): Uint8Array | undefined {
  const blockBytes = encoded.length - saltBytes - 1
  const h = encoded.subarray(blockBytes, -1)
  const block = maskPss(hash, h, encoded.subarray(0, blockBytes))
  return block[blockBytes - saltBytes - 1] === 1 ? block.subarray(-saltBytes) : undefined
}

/** The block xor MGF1(h), its first bit cleared. */
function maskPss(hash: Hash, h: Uint8Array, block: Uint8Array): Uint8Array {
  const masked = Uint8Array.from(block)
  const counter = Buffer.alloc(4)
  for (let at = 0; at < block.length; at += h.length) {
    counter.writeUInt32BE(at / h.length)
    const mask = createHash(hash).update(h).update(counter).digest()
    const end = Math.min(h.length, block.length - at)
    for (let i = 0; i < end; i++) {
      masked[at + i] = (block[at + i] as number) ^ (mask[i] as number)
    }
  }
  masked[0] = (masked[0] as number) & 0x7f
  return masked
}

function modulusBytesOf(key: KeyObject): number {
  return (key.asymmetricKeyDetails?.modulusLength ?? 0) / 8
}

function isEqual(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b)
}
