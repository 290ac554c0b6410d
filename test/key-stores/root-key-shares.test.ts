/** Shares of the root key: what is wrong with which of them is told, and nothing of what they hold. */
import { randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'

import { KeyfoldError } from '../../dist/errors.js'
import { combineShares, shareRootKey } from '../../dist/key-stores/root-key-shares.js'

const rootKey = randomBytes(32)
const shares = shareRootKey(rootKey, 7, { threshold: 3, shares: 5 })
const combine = (...lines: readonly (string | undefined)[]): Buffer =>
  Buffer.from(combineShares(lines.join('\n'), 7))

function refusal(...lines: readonly (string | undefined)[]): string {
  try {
    combine(...lines)
  } catch (error) {
    expect(error).toBeInstanceOf(KeyfoldError)
    expect((error as KeyfoldError).code).toBe('CONFIG_INVALID')
    for (const line of lines.filter((text) => (text?.length ?? 0) > 50)) {
      expect((error as Error).message).not.toContain(line?.slice(30, 50))
    }
    return (error as KeyfoldError).detail ?? ''
  }
  return 'accepted'
}

describe('shares of the root key', () => {
  test('give it back, any three of them or more, in any order and with empty lines', () => {
    for (let i = 0; i < 5; i++) {
      for (let j = 0; j < 5; j++) {
        for (let k = 0; k < 5; k++) {
          if (new Set([i, j, k]).size < 3) continue
          expect(combine(shares[i], shares[j], shares[k])).toEqual(rootKey)
        }
      }
    }
    expect(combine('', `  ${shares[0] ?? ''}\r`, '', ...shares.slice(1), '')).toEqual(rootKey)
  })

  test('are too few, and how many it takes is said', () => {
    expect(refusal(shares[0], shares[4])).toBe('2 of 3 shares that it takes were given')
    expect(refusal(shares[0])).toBe('1 of 3 shares that it takes were given')
    expect(refusal()).toBe('no share was given')
    expect(refusal('')).toBe('no share was given')
  })

  test('are not counted twice', () => {
    expect(refusal(shares[0], shares[1], shares[0])).toBe('share 3 is share 1 once more')
  })

  test('of another set, version or threshold are told from those that were mistyped', () => {
    const others = shareRootKey(rootKey, 7, { threshold: 3, shares: 5 })
    expect(refusal(shares[0], others[1], shares[2])).toBe(
      'share 2 was not made together with share 1',
    )
    const older = shareRootKey(rootKey, 6, { threshold: 3, shares: 5 })
    expect(refusal(...older)).toContain('version 6')
    const mistyped = shares[1]?.replace(/.$/, (digit) => (digit === '0' ? '1' : '0'))
    expect(refusal(shares[0], mistyped, shares[2])).toMatch(/^share 2: .*checksum/)
  })

  test('with any one digit changed, cut off or added are refused by name', () => {
    const share = shares[2] ?? ''
    for (let at = 0; at < share.length; at++) {
      const digit = share[at] === '7' ? '8' : '7'
      const changed = share.slice(0, at) + digit + share.slice(at + 1)
      expect(refusal(shares[0], shares[1], changed), changed).toMatch(/^share 3: /)
      const cut = share.slice(0, at) + share.slice(at + 1)
      expect(refusal(shares[0], shares[1], cut)).toMatch(/^share 3: /)
    }
    expect(refusal(shares[0], shares[1], `${share}0`)).toMatch(/^share 3: /)
    expect(refusal(shares[0], shares[1], share.toUpperCase())).toMatch(/^share 3: /)
  })

  test.each([
    [1, 3],
    [0, 3],
    [4, 3],
    [2, 17],
    [17, 17],
    [2, 1],
  ])('are not made with threshold %i of %i', (threshold, count) => {
    const make = (): unknown => shareRootKey(rootKey, 1, { threshold, shares: count })
    expect(make).toThrow('2 to 16 shares')
  })
})
