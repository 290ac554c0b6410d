/**
 * Shamir's secret sharing (Shamir, "How to share a secret", 1979) byte by byte over GF(2^8) with the polynomial of AES,
 * x^8 + x^4 + x^3 + x + 1 (FIPS 197 §4.2): what SLIP-39 and Vault use. For each byte of the secret a polynomial is
 * drawn whose value at 0 is that byte; a share is the values of all of them at one other point. Fewer shares than the
 * threshold tell nothing of the secret, in the strict sense.
 *
 * Multiplication looks nothing up and branches on nothing: neither cache lines nor time tell the bytes.
 */
import { strict as assert } from 'node:assert'
import { randomBytes } from 'node:crypto'

export interface Share {
  /** The point: 1 to 255. The secret is at 0. */
  readonly x: number
  /** As long as the secret. */
  readonly y: Uint8Array
}

/** One share for each of the points 1 to `shares`. */
export function splitSecret(
  secret: Uint8Array,
  { threshold, shares }: { readonly threshold: number; readonly shares: number },
): readonly Share[] {
  assert(threshold >= 2)
  assert(shares >= threshold)
  assert(shares <= 255)
  // A leading coefficient of 0 has to be as likely as any other.
  const coefficients = randomBytes(secret.length * (threshold - 1))
  try {
    return Array.from({ length: shares }, (_, index) => {
      const x = index + 1
      const y = secret.map((byte, at) => {
        let value = 0
        // Horner's rule, from the leading coefficient down to the secret.
        for (let power = threshold - 2; power >= 0; power--) {
          value = multiply(value ^ (coefficients[power * secret.length + at] as number), x)
        }
        return value ^ byte
      })
      return { x, y }
    })
  } finally {
    coefficients.fill(0)
  }
}

/**
 * The values at `x` of the polynomials through the shares (Lagrange): at 0 the secret, if there are as many shares as
 * the threshold, and noise otherwise. The points are distinct.
 */
export function interpolate(shares: readonly Share[], x: number): Uint8Array {
  const [first] = shares
  assert(first !== undefined)
  assert(new Set(shares.map((share) => share.x)).size === shares.length)
  const values = new Uint8Array(first.y.length)
  for (const share of shares) {
    assert(share.y.length === values.length)
    let weight = 1
    for (const other of shares) {
      if (other === share) continue
      // Points are no secret; that two of them differ was checked, so nothing divides by zero.
      weight = multiply(weight, multiply(x ^ other.x, invert(share.x ^ other.x)))
    }
    for (const [at, byte] of share.y.entries()) {
      values[at] = (values[at] as number) ^ multiply(weight, byte)
    }
  }
  return values
}

/** In GF(2^8). */
export function multiply(a: number, b: number): number {
  let product = 0
  let doubled = a
  for (let bit = 0; bit < 8; bit++) {
    product ^= doubled & -((b >> bit) & 1)
    doubled = (doubled << 1) ^ (0x11b & -(doubled >> 7))
  }
  return product
}

/** a^254, which is 1/a, for a^255 = 1; of 0 it is 0. */
function invert(a: number): number {
  let power = a
  for (let i = 0; i < 6; i++) power = multiply(multiply(power, power), a)
  return multiply(power, power)
}
