/**
 * Shamir's secret sharing: the field by FIPS 197's examples, splitting and combining against shares that another
 * implementation made (shamir.json).
 */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import { interpolate, multiply, splitSecret } from '../../dist/crypto/secret-sharing.js'

interface Case {
  readonly threshold: number
  readonly secret: string
  /** value ‖ point */
  readonly parts: readonly string[]
}

const { cases } = JSON.parse(readFileSync(join(import.meta.dirname, 'shamir.json'), 'utf8')) as {
  readonly cases: readonly Case[]
}

const sharesOf = ({ parts }: Case) =>
  parts.map((part) => {
    const bytes = Buffer.from(part, 'hex')
    return { x: bytes.at(-1) as number, y: Uint8Array.from(bytes.subarray(0, -1)) }
  })
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

describe('multiplication in GF(2^8)', () => {
  test('gives the examples of FIPS 197 §4.2', () => {
    expect(multiply(0x57, 0x83)).toBe(0xc1)
    expect(multiply(0x57, 0x13)).toBe(0xfe)
    expect([1, 2, 4, 8, 0x10].map((power) => multiply(0x57, power))).toEqual([
      0x57, 0xae, 0x47, 0x8e, 0x07,
    ])
  })

  test('is that of the powers of 3, which are all but 0', () => {
    // x + 1 generates the group (FIPS 197; "The Design of Rijndael", §2.1.5).
    const powers: number[] = [1]
    for (let i = 1; i < 255; i++) {
      const last = powers[i - 1] as number
      const doubled = (last << 1) ^ (last >= 0x80 ? 0x11b : 0)
      powers.push(doubled ^ last)
    }
    expect(new Set(powers).size).toBe(255)
    for (const [i, a] of powers.entries()) {
      expect(multiply(a, 0)).toBe(0)
      expect(multiply(0, a)).toBe(0)
      for (const [j, b] of powers.entries()) {
        if (multiply(a, b) !== powers[(i + j) % 255]) expect.unreachable(`${a} · ${b}`)
      }
    }
  })
})

describe('a secret', () => {
  test.each(cases)('that another implementation split $threshold-fold comes back', (shared) => {
    const shares = sharesOf(shared)
    expect(hex(interpolate(shares.slice(0, shared.threshold), 0))).toBe(shared.secret)
    expect(hex(interpolate(shares.slice(-shared.threshold).reverse(), 0))).toBe(shared.secret)
    expect(hex(interpolate(shares, 0))).toBe(shared.secret)
    // Each share is on the polynomial of the others.
    const [first, ...others] = shares
    if (first !== undefined && others.length >= shared.threshold) {
      expect(hex(interpolate(others, first.x))).toBe(hex(first.y))
    }
    const tooFew = shares.slice(0, shared.threshold - 1)
    expect(hex(interpolate(tooFew, 0))).not.toBe(shared.secret)
  })

  test('comes back from any of its shares, as many as it takes, in any order', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 1, maxLength: 64 }),
        fc.integer({ min: 2, max: 16 }),
        fc.integer({ min: 0, max: 14 }),
        fc.infiniteStream(fc.nat()),
        (secret, threshold, more, draws) => {
          const shares = [...splitSecret(secret, { threshold, shares: threshold + more })]
          expect(shares.map(({ x }) => x)).toEqual(shares.map((_, index) => index + 1))
          const chosen = []
          while (chosen.length < threshold) {
            const draw = draws.next().value as number
            chosen.push(...shares.splice(draw % shares.length, 1))
          }
          expect(hex(interpolate(chosen, 0))).toBe(hex(secret))
        },
      ),
    )
  })

  test('is not what its shares hold more or less often than chance', () => {
    // One byte, 2 of 2: the share is the secret itself just when the coefficient is 0, once in 256.
    const secret = randomBytes(1)
    const splits = 256 * 128
    let same = 0
    for (let i = 0; i < splits; i++) {
      const [share] = splitSecret(secret, { threshold: 2, shares: 2 })
      if (share?.y[0] === secret[0]) same += 1
    }
    // 128 are expected, with a standard deviation of 11.3: seven of those either way.
    expect(same).toBeGreaterThan(128 - 80)
    expect(same).toBeLessThan(128 + 80)
  })
})
