/** Patterns, against regular expressions that say the same. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import { compileArnPattern, compilePattern } from '../../../dist/kms/policy/pattern.js'

/** The same by way of a regular expression. */
function expected(pattern: string, any: string): RegExp {
  const expression = pattern
    .replace(/[.+^$|(){}[\]\\]/g, '\\$&')
    .replaceAll('*', `${any}*`)
    .replaceAll('?', any)
  return new RegExp(`^${expression}$`, 's')
}

const words = (characters: string, maxLength: number) =>
  fc.string({ unit: fc.constantFrom(...characters), maxLength })

describe('a pattern', () => {
  test('has * for any run of characters, ? for any one, and everything else stands for itself', () => {
    let matched = 0
    const property = fc.property(words('ab*?.[', 8), words('ab.[\n', 8), (pattern, text) => {
      const isMatch = expected(pattern, '.').test(text)
      if (isMatch) matched++
      expect(compilePattern(pattern)(text)).toBe(isMatch)
    })
    fc.assert(property, { numRuns: 50_000 })
    expect(matched).toBeGreaterThan(1_000)
  })

  test('whose pieces could only overlap does not match', () => {
    for (const [pattern, text] of [
      ['*ab*b', 'ab'],
      ['ab*ba', 'aba'],
      ['*aa*aa*', 'aaa'],
      ['a*?a', 'aa'],
    ] as const) {
      expect(compilePattern(pattern)(text), pattern).toBe(false)
    }
  })

  test('of ARNs matches part by part', () => {
    const part = words('a*?', 3)
    const patterns = fc
      .tuple(part, part, part, part, words('a:*?', 6))
      .map((parts) => ['arn', ...parts].join(':'))
    const arns = fc
      .tuple(...Array.from({ length: 4 }, () => words('ab', 3)), words('ab:', 6))
      .map((parts) => ['arn', ...parts].join(':'))
    const property = fc.property(patterns, arns, (pattern, arn) => {
      const [first, rest] = [pattern.split(':').slice(0, 5), pattern.split(':').slice(5).join(':')]
      const [arnFirst, arnRest] = [arn.split(':').slice(0, 5), arn.split(':').slice(5).join(':')]
      const isMatch =
        first.every((one, i) => expected(one, '[^:]').test(arnFirst[i] as string)) &&
        expected(rest, '.').test(arnRest)
      expect(compileArnPattern(pattern)?.(arn)).toBe(isMatch)
    })
    fc.assert(property, { numRuns: 5_000 })
  })

  test('of many stars takes a number of steps that grows no faster than pattern times text', () => {
    // With one way back instead of all of them this is instant; with all of them it would outlast the test.
    const text = 'a'.repeat(2_000)
    expect(compilePattern(`${'a*'.repeat(1_000)}b`)(text)).toBe(false)
    expect(compilePattern(`${'*'.repeat(2_000)}b`)(text)).toBe(false)
    expect(compilePattern(`${'a*?'.repeat(700)}b*`)(text)).toBe(false)
  })
})
