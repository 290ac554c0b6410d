/**
 * The encryption context. Two programs that disagree on its bytes cannot read each other's messages, and two contexts
 * with the same bytes are one context: so order, limit and refusals are pinned to the byte.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import {
  decodeEncryptionContext,
  encodeContextEntries,
  encodeEncryptionContext,
} from '../../dist/format/encryption-context.js'
import { hex } from '../vectors.ts'
import { accepts, flips, range, refusal, truncations, type Codec } from './mutations.ts'

const codec: Codec<readonly (readonly [string, string])[]> = {
  decode: decodeEncryptionContext,
  encode: encodeEncryptionContext,
  code: 'CONTEXT_INVALID',
}
const bytesOf = (...entries: readonly (readonly [string, string])[]): string =>
  Buffer.from(encodeEncryptionContext(entries)).toString('hex')

/** Strings without lone surrogates, of every plane and with the characters at which orders differ. */
const text = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 12 }),
  fc.string({ unit: fc.constantFrom('a', 'z', 'é', '\ud7ff', '\ue000', '～', '😀', '\u{10ffff}') }),
)

describe('the canonical bytes of an encryption context', () => {
  test('are none at all for the empty context', () => {
    expect(encodeEncryptionContext([])).toHaveLength(0)
    expect(encodeContextEntries([])).toHaveLength(0)
    expect(decodeEncryptionContext(new Uint8Array(0))).toEqual([])
  })

  test('are u16 count, then u16 length and bytes of each key and value (formats.md)', () => {
    expect(bytesOf(['purpose', 'test'])).toBe('0001' + '0007707572706f7365' + '000474657374')
    expect(bytesOf(['b', ''], ['a', 'é'])).toBe('0002' + '000161' + '0002c3a9' + '000162' + '0000')
    expect(bytesOf(['', ''])).toBe('0001' + '0000' + '0000')
  })

  test('order keys by UTF-8 bytes, where JavaScript puts a surrogate pair before U+FFxx', () => {
    const pair = '\u{1f600}' // UTF-16 d83d de00, UTF-8 f09f9880
    const wide = '\uff5e' // UTF-16 ff5e, UTF-8 efbd9e
    expect([wide, pair].sort()).toEqual([pair, wide])
    const canonical = '0002' + '0003efbd9e' + '000131' + '0004f09f9880' + '000132'
    expect(bytesOf([pair, '2'], [wide, '1'])).toBe(canonical)
    expect(bytesOf([wide, '1'], [pair, '2'])).toBe(canonical)
    const javascriptOrder = hex('0002' + '0004f09f9880' + '000132' + '0003efbd9e' + '000131')
    expect(refusal(() => decodeEncryptionContext(javascriptOrder))).toMatch(
      /^CONTEXT_INVALID: .*ascending/,
    )
  })

  test('order a key before those it begins, capitals before small letters, and bytes unsigned', () => {
    const keys = (context: string): readonly string[] =>
      decodeEncryptionContext(hex(context)).map(([key]) => key)
    const mixed = ['é', 'aa', 'b', 'a\u0000', 'a', '', 'B']
    expect(keys(bytesOf(...mixed.map((key) => [key, 'v'] as const)))).toEqual([
      '',
      'B',
      'a',
      'a\u0000',
      'aa',
      'b',
      'é',
    ])
  })

  test('do not normalise: a composed and a decomposed é are two keys', () => {
    expect(bytesOf(['e\u0301', '1'], ['\u00e9', '2'])).toBe(
      '0002' + '000365cc81' + '000131' + '0002c3a9' + '000132',
    )
  })

  test('keep a byte order mark and an embedded zero', () => {
    const entries = [['\ufeffk\u0000', '\ufeff']] as const
    expect(bytesOf(...entries)).toBe('0001' + '0005efbbbf6b00' + '0003efbbbf')
    expect(decodeEncryptionContext(hex(bytesOf(...entries)))).toEqual(entries)
  })

  test('do not depend on the order of the entries, and hold each of them', () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.tuple(text, text), { selector: ([key]) => key, maxLength: 12 }),
        fc.infiniteStream(fc.nat()),
        (entries, ranks) => {
          // Hexadecimal digits order as the bytes do: an order that shares nothing with ours.
          const inOrder = [...entries]
            .map(([key, value]) => ({ key, value, digits: Buffer.from(key).toString('hex') }))
            .sort((a, b) => (a.digits < b.digits ? -1 : 1))
            .map(({ key, value }) => [key, value])
          const shuffled = entries
            .map((entry) => ({ entry, rank: ranks.next().value as number }))
            .sort((a, b) => a.rank - b.rank)
            .map(({ entry }) => entry)
          const bytes = encodeEncryptionContext(shuffled)
          expect(decodeEncryptionContext(bytes)).toEqual(inOrder)
          expect(accepts(codec, bytes)).toBe(true)
          expect(
            encodeContextEntries(
              shuffled.map(([key, value]) => ({
                key: Buffer.from(key),
                value: Buffer.from(value),
              })),
            ),
          ).toEqual(bytes)
        },
      ),
    )
  })
})

describe('an encryption context is refused', () => {
  test.each([
    ['next to each other', ['a', 'b', 'b']],
    ['far apart', ['b', 'a', 'c', 'b']],
    ['that are empty', ['', 'x', '']],
    ['named like properties', ['__proto__', 'constructor', '__proto__']],
  ])('for equal keys %s, whatever their values', (_, keys) => {
    const entries = keys.map((key, i) => [key, `${i}`] as const)
    expect(refusal(() => encodeEncryptionContext(entries))).toMatch(/^CONTEXT_INVALID: .*twice/)
  })

  test.each(['\ud800', '\udc00', 'a\ud83d', '\ude00\ud83d', 'x\udfffy'])(
    'for the lone surrogate in %j, as key or as value',
    (lone) => {
      expect(refusal(() => encodeEncryptionContext([[lone, '']]))).toMatch(/lone surrogate/)
      expect(refusal(() => encodeEncryptionContext([['', lone]]))).toMatch(/lone surrogate/)
    },
  )

  test.each([
    ['a surrogate in UTF-8', 'eda080'],
    ['an overlong slash', 'c0af'],
    ['a byte that no text has', 'ff'],
    ['half a character', 'c3'],
    ['a code point beyond U+10FFFF', 'f4908080'],
  ])('for %s, as key or as value', (_, digits) => {
    const length = (digits.length / 2).toString(16).padStart(4, '0')
    for (const entry of [`${length}${digits}0000`, `0000${length}${digits}`]) {
      expect(refusal(() => decodeEncryptionContext(hex(`0001${entry}`)))).toMatch(
        /^CONTEXT_INVALID: .*not UTF-8/,
      )
    }
  })

  test('beyond 8,192 bytes in all, and not one byte sooner', () => {
    // 2 of the count and 4 of the lengths.
    const context = (bytes: number): [string, string][] => [['k', 'v'.repeat(bytes - 7)]]
    const largest = encodeEncryptionContext(context(8_192))
    expect(largest).toHaveLength(8_192)
    expect(accepts(codec, largest)).toBe(true)
    expect(refusal(() => encodeEncryptionContext(context(8_193)))).toBe(
      'CONTEXT_INVALID: the encryption context is not valid: 8193 bytes, more than the 8192 allowed',
    )
    const tooLong = Buffer.concat([largest, Buffer.from('v')])
    tooLong.writeUInt16BE(8_193 - 7, 5)
    expect(refusal(() => decodeEncryptionContext(tooLong))).toMatch(/8193 bytes.* 8192 allowed/)
  })

  test('beyond 8,192 bytes of many entries and of characters of many bytes', () => {
    const entries = (count: number): [string, string][] =>
      Array.from({ length: count }, (_, i) => [`${1000 + i}`, ''])
    // 2 + 8 × 1,023 = 8,186.
    expect(encodeEncryptionContext(entries(1_023))).toHaveLength(8_186)
    expect(refusal(() => encodeEncryptionContext(entries(1_024)))).toMatch(/8194 bytes/)
    // 2,728 × 3 + 6 = 8,190, and 2,729 characters are one too many though JavaScript counts 2,729.
    expect(encodeEncryptionContext([['', '€'.repeat(2_728)]])).toHaveLength(8_190)
    expect(refusal(() => encodeEncryptionContext([['', '€'.repeat(2_729)]]))).toMatch(/8193 bytes/)
  })

  test('for a length that does not fit 16 bits, instead of wrapping it', () => {
    expect(refusal(() => encodeEncryptionContext([['k', 'v'.repeat(65_536 + 1)]]))).toMatch(
      /^CONTEXT_INVALID/,
    )
    const many = Array.from({ length: 65_537 }, (_, i): [string, string] => [`${i}`, ''])
    expect(refusal(() => encodeEncryptionContext(many))).toMatch(/^CONTEXT_INVALID/)
  })

  test('for two bytes that say there is nothing', () => {
    expect(refusal(() => decodeEncryptionContext(hex('0000')))).toMatch(/empty context/)
  })

  test('for a count or length that promises more than is there, and for bytes that follow', () => {
    expect(refusal(() => decodeEncryptionContext(hex('ffff00000000')))).toMatch(/truncated/)
    expect(refusal(() => decodeEncryptionContext(hex('0001ffff61')))).toMatch(/truncated/)
    expect(refusal(() => decodeEncryptionContext(hex('00010001610000' + '00')))).toMatch(/trailing/)
    expect(refusal(() => decodeEncryptionContext(hex('00020000000000000000')))).toMatch(/ascending/)
  })

  test('at every length but the whole', () => {
    const bytes = encodeEncryptionContext([
      ['tenant', 'blue'],
      ['é😀', '～'],
      ['', 'x'],
    ])
    // The first byte of nothing is nothing: the empty context.
    expect(truncations(codec, bytes).accepted).toEqual([0])
  })
})

test('every byte of an encryption context with any other value is refused or is another context', () => {
  const bytes = encodeEncryptionContext([
    ['tenant', 'blue'],
    ['é😀', '～'],
  ])
  // The count and the lengths admit one value only; text admits others.
  const { accepted, refused } = flips(codec, bytes)
  const lengths = [0, 1, 2, 3, 10, 11, 16, 17, 24, 25]
  expect(accepted.filter((offset) => lengths.includes(offset))).toEqual([])
  expect(accepted).toEqual(expect.arrayContaining([...range(4, 10), ...range(12, 16)]))
  expect(refused).toBeGreaterThan(255 * lengths.length)
})
