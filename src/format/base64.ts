/**
 * Base64 (RFC 4648 §4, with padding) from bytes to bytes, for what must never become a JavaScript string: those cannot
 * be wiped. Of each value one spelling only. Tables are read at secret places: this is for keys on their way through
 * JSON, which the other side writes and reads no better.
 */
const ALPHABET = Buffer.from('ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/')
const PADDING = 0x3d
const NO_DIGIT = 64

const VALUES = new Uint8Array(256).fill(NO_DIGIT)
for (const [value, digit] of ALPHABET.entries()) VALUES[digit] = value

export function base64Bytes(bytes: number): number {
  return 4 * Math.ceil(bytes / 3)
}

/** Writes base64Bytes(bytes.length) bytes. */
export function encodeBase64(bytes: Uint8Array, output: Uint8Array, offset: number): void {
  let at = offset
  for (let i = 0; i < bytes.length; i += 3) {
    const left = bytes.length - i
    const group =
      ((bytes[i] as number) << 16) |
      (left > 1 ? (bytes[i + 1] as number) << 8 : 0) |
      (left > 2 ? (bytes[i + 2] as number) : 0)
    output[at++] = ALPHABET[group >>> 18] as number
    output[at++] = ALPHABET[(group >>> 12) & 63] as number
    output[at++] = left > 1 ? (ALPHABET[(group >>> 6) & 63] as number) : PADDING
    output[at++] = left > 2 ? (ALPHABET[group & 63] as number) : PADDING
  }
}

/** Undefined where it is no base64, or another spelling of it. */
export function decodeBase64(digits: Uint8Array): Uint8Array | undefined {
  const { length } = digits
  if (length % 4 !== 0) return undefined
  const padding = length === 0 || digits[length - 1] !== PADDING ? 0 : paddingOf(digits)
  const bytes = new Uint8Array((length / 4) * 3 - padding)
  let unknown = 0
  for (let i = 0, at = 0; i < length; i += 4) {
    const isLast = i + 4 === length
    let group = 0
    for (let j = 0; j < 4; j++) {
      const value = isLast && j >= 4 - padding ? 0 : (VALUES[digits[i + j] as number] as number)
      unknown |= value & NO_DIGIT
      group = (group << 6) | (value & 63)
    }
    // What padding stands for is zeros: anything else would be a second spelling.
    if (isLast) unknown |= group & ((1 << (8 * padding)) - 1)
    for (let shift = 16; shift >= 0 && at < bytes.length; shift -= 8) bytes[at++] = group >>> shift
  }
  if (unknown === 0) return bytes
  bytes.fill(0)
  return undefined
}

function paddingOf(digits: Uint8Array): number {
  return digits[digits.length - 2] === PADDING ? 2 : 1
}
