/** JSON with bytes in it: read and written as JSON.parse and Buffer do, without a string in between. */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import { base64Bytes, decodeBase64, encodeBase64 } from '../../dist/format/base64.js'
import { decodeJsonBytes, encodeJsonBytes } from '../../dist/format/json-bytes.js'
import { refusal } from './mutations.ts'

const NAMES = new Set(['secret', 'other'])
const decode = (text: string) => decodeJsonBytes(Buffer.from(text), NAMES)
const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')

describe('base64', () => {
  // RFC 4648 §10.
  test.each([
    ['', ''],
    ['f', 'Zg=='],
    ['fo', 'Zm8='],
    ['foo', 'Zm9v'],
    ['foob', 'Zm9vYg=='],
    ['fooba', 'Zm9vYmE='],
    ['foobar', 'Zm9vYmFy'],
  ])('of %j is %j', (plain, encoded) => {
    const output = Buffer.alloc(base64Bytes(plain.length) + 2, 0xa5)
    encodeBase64(Buffer.from(plain), output, 1)
    expect(output.toString('latin1')).toBe(`\xa5${encoded}\xa5`)
    expect(Buffer.from(decodeBase64(Buffer.from(encoded)) ?? []).toString()).toBe(plain)
  })

  test('is what Node writes, of any bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        const output = Buffer.alloc(base64Bytes(bytes.length))
        encodeBase64(bytes, output, 0)
        expect(output.toString()).toBe(base64(bytes))
        expect(decodeBase64(output)).toEqual(bytes)
      }),
    )
  })

  test('has one spelling of each value: what Node would write otherwise is refused', () => {
    const text = fc.string({
      unit: fc.constantFrom(...'AQgw/+=BZ_-. \n'),
      maxLength: 12,
    })
    fc.assert(
      fc.property(text, (digits) => {
        const bytes = Buffer.from(digits, 'base64')
        const decoded = decodeBase64(Buffer.from(digits))
        if (bytes.toString('base64') === digits) expect(Buffer.from(decoded ?? [])).toEqual(bytes)
        else expect(decoded).toBeUndefined()
      }),
      { numRuns: 2000 },
    )
  })
})

describe('reading', () => {
  test('finds members wherever they stand, and leaves the rest to JSON.parse', () => {
    const json = fc.json({ maxDepth: 3 })
    const bytes = fc.uint8Array({ maxLength: 40 })
    const space = fc.constantFrom('', ' ', '\n\t', ' \r\n ')
    fc.assert(
      fc.property(json, json, bytes, bytes, space, (before, after, one, two, _) => {
        const text =
          `${_}{${_}"before"${_}:${_}${before}${_},"secret":${_}"${base64(one)}"${_},` +
          `${_}"nested":{"secret":"!","other":[${after}]},"other"${_}:"${base64(two)}","after":${after}}${_}`
        const { members, bytes: found } = decode(text)
        expect(found).toEqual(
          new Map([
            ['secret', one],
            ['other', two],
          ]),
        )
        const rest = new Map(Object.entries(JSON.parse(text) as object))
        for (const name of NAMES) rest.delete(name)
        expect(members).toEqual(rest)
      }),
    )
  })

  test('understands what a writer may escape', () => {
    const { bytes } = decode('{"secr\\u0065t":"\\/\\u002F8\\u003d","other":"\\u0041\\u0051=="}')
    expect(bytes.get('secret')).toEqual(Uint8Array.from(Buffer.from('//8=', 'base64')))
    expect(bytes.get('other')).toEqual(Uint8Array.of(1))
  })

  test('takes the last of two, and null for nothing', () => {
    expect(decode('{"secret":"AQ==","secret":"Ag=="}').bytes.get('secret')).toEqual(
      Uint8Array.of(2),
    )
    expect(decode('{"secret":null,"secret":"Ag=="}').bytes.get('secret')).toEqual(Uint8Array.of(2))
    expect([...decode('{"secret":"AQ==","secret":null}').bytes]).toEqual([])
    expect(refusal(() => decode('{"secret":"AQ==","secret":7}'))).toMatch('REQUEST_MALFORMED')
  })

  test.each([
    '',
    ' ',
    '{',
    '{}}',
    '[]',
    'null',
    '{"secret":"AQ=="',
    '{"secret":"AQ==",}',
    '{"secret":"AQ=="]',
    '{"secret":"AQ==" "a":1}',
    '{"secret" "AQ=="}',
    '{"secret":"AQ==}',
    '{"secret":"AQ=="}{"secret":"AQ=="}',
    '{secret:"AQ=="}',
    '{"secret":"AQ"}',
    '{"secret":"A\nQ=="}',
    '{"secret":"\\u00410Q=="}',
    '{"secret":"\\u\u00100041Q=="}',
    '{"secret":"\\u0141Q=="}',
    '{"secret":"\\nAQ=="}',
    '{"secret":"\\u004"}',
    '{"secret":["AQ=="]}',
    '{"secret":{"secret":"AQ=="}}',
    '{"a":"\xff"}',
    '{"a\\x":1}',
  ])('refuses %j, and tells nothing of it', (text) => {
    const bytes = Buffer.from(text, 'latin1')
    expect(refusal(() => decodeJsonBytes(bytes, NAMES))).toMatch(/^REQUEST_MALFORMED: /)
    expect(refusal(() => decodeJsonBytes(bytes, NAMES))).not.toContain('AQ')
  })

  test('accepts nothing that JSON.parse does not, and leaves what it read as it was', () => {
    const text = fc.string({ unit: fc.constantFrom(...'{}[]":,\\ us/secretAQ=01n'), maxLength: 24 })
    fc.assert(
      fc.property(text, (inside) => {
        const whole = `{"secret":"${inside}`
        const bytes = Buffer.from(whole)
        let accepted = true
        try {
          decodeJsonBytes(bytes, NAMES)
        } catch {
          accepted = false
        }
        expect(bytes.toString()).toBe(whole)
        if (accepted) expect(() => JSON.parse(whole) as unknown).not.toThrow()
      }),
      { numRuns: 5000 },
    )
  })
})

describe('writing', () => {
  test('is what JSON.stringify would write of base64, and is read again', () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.string(), fc.jsonValue(), { noNullPrototype: true }),
        fc.uint8Array(),
        fc.uint8Array(),
        (members, secret, other) => {
          fc.pre(!('secret' in members) && !('other' in members))
          const json = encodeJsonBytes(members, { secret, missing: undefined, other })
          const text = JSON.stringify({ ...members, secret: base64(secret), other: base64(other) })
          expect(JSON.parse(Buffer.from(json).toString())).toEqual(JSON.parse(text))
          const { bytes } = decodeJsonBytes(json, NAMES)
          expect(bytes.get('secret')).toEqual(secret)
        },
      ),
    )
    expect(Buffer.from(encodeJsonBytes({}, {})).toString()).toBe('{}')
    expect(Buffer.from(encodeJsonBytes({}, { a: Uint8Array.of(1) })).toString()).toBe(
      '{"a":"AQ=="}',
    )
  })
})
