/**
 * JSON requests and answers: the same request as in MessagePack, byte for byte, or a refusal. Base64 has one spelling
 * of each value; numbers, text and nesting are no wider than MessagePack's.
 */
import fc from 'fast-check'
import { Packr, Unpackr } from 'msgpackr'
import { describe, expect, test } from 'vitest'

import { jsonToMsgpack, msgpackToJson } from '../../dist/format/json.js'
import { decodeValue } from '../../dist/format/msgpack.js'
import {
  decodeBatchRequest,
  decodeDecryptRequest,
  decodeEncryptRequest,
} from '../../dist/format/requests.js'
import { hex } from '../vectors.ts'
import { refusal } from './mutations.ts'
import { array, bin, boolean, map, nil, str, uint } from './spellings.ts'

const packr = new Packr({ useRecords: false, variableMapSize: true })
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: false })

const fromText = (json: string): Buffer => Buffer.from(jsonToMsgpack(Buffer.from(json)))
const from = (value: unknown): Buffer => fromText(JSON.stringify(value))
const refused = (value: unknown): string => refusal(() => from(value))

describe('a JSON request', () => {
  test('is the MessagePack of the same request, with base64 for byte strings', () => {
    const json = {
      key: 'alias/orders',
      context: { tenant: 'blue', é: '😀' },
      form: 'detached',
      suite: 2,
      plaintexts: ['', 'AA==', '//8=', '+/+/'],
    }
    expect(from(json)).toEqual(
      map([
        ['key', str('alias/orders')],
        [
          'context',
          map([
            ['tenant', str('blue')],
            ['é', str('😀')],
          ]),
        ],
        ['form', str('detached')],
        ['suite', uint(2)],
        ['plaintexts', array([bin(hex('')), bin(hex('00')), bin(hex('ffff')), bin(hex('fbffbf'))])],
      ]),
    )
  })

  test('has bytes in every field that holds bytes, and nowhere else', () => {
    expect(
      from({ packed: 'AQI=', ciphertexts: ['AQI='], keyEntries: ['AQI='], other: 'AQI=' }),
    ).toEqual(
      map([
        ['packed', bin(hex('0102'))],
        ['ciphertexts', array([bin(hex('0102'))])],
        ['keyEntries', array([bin(hex('0102'))])],
        ['other', str('AQI=')],
      ]),
    )
    expect(from([{ op: 'decrypt', packed: 'AQI=' }])).toEqual(
      array([
        map([
          ['op', str('decrypt')],
          ['packed', bin(hex('0102'))],
        ]),
      ]),
    )
  })

  test.each(['context', 'newContext', 'tags'])(
    'takes any key in %s for text, also the names of fields of bytes',
    (field) => {
      const own = ['packed', 'keyEntry', 'wrappedKey', 'plaintexts', 'ciphertexts', 'keyEntries']
      const entries = [...own, 'context', 'tags'].map((name) => [name, 'not base64 !'] as const)
      const expected = map([[field, map(entries.map(([key, value]) => [key, str(value)]))]])
      expect(from({ [field]: Object.fromEntries(entries) })).toEqual(expected)
      expect(from([{ [field]: Object.fromEntries(entries) }])).toEqual(array([expected]))
    },
  )

  test('is read by the decoder of its route as the MessagePack request is', () => {
    const request = {
      key: 'k',
      context: { b: '2', a: '1', packed: 'x' },
      plaintexts: [Buffer.from('one'), Buffer.from('')],
    }
    const json = from({
      ...request,
      plaintexts: request.plaintexts.map((bytes) => bytes.toString('base64')),
    })
    expect(decodeEncryptRequest(json)).toEqual(decodeEncryptRequest(packr.pack(request)))
    expect(decodeDecryptRequest(from({ packed: '4w==' })).packed).toEqual({ offset: 10, end: 11 })
    expect(decodeBatchRequest(from([{ op: 'data-keys', count: 1 }]))).toHaveLength(1)
  })

  test('equals what msgpackr writes, for any request', () => {
    const name = fc.string({ unit: 'grapheme-ascii', maxLength: 12 })
    fc.assert(
      fc.property(
        fc.record(
          {
            key: name,
            count: fc.nat(),
            plaintext: fc.boolean(),
            mode: fc.constant(null),
            context: fc.dictionary(name, name, { maxKeys: 20, noNullPrototype: true }),
            packed: fc.uint8Array({ maxLength: 300 }),
            plaintexts: fc.array(fc.uint8Array({ maxLength: 30 }), { maxLength: 20 }),
            keyEntries: fc.array(fc.uint8Array({ maxLength: 30 }), { maxLength: 3 }),
          },
          { requiredKeys: [] },
        ),
        (request) => {
          const base64 = (value: unknown): unknown =>
            value instanceof Uint8Array
              ? Buffer.from(value).toString('base64')
              : Array.isArray(value)
                ? value.map(base64)
                : value
          const json = Object.fromEntries(
            Object.entries(request).map(([key, value]) => [key, base64(value)]),
          )
          // As a Map: msgpackr renames a key "__proto__" of an object.
          const context = request.context && { context: new Map(Object.entries(request.context)) }
          const expected = new Map(Object.entries({ ...request, ...context }))
          expect(unpackr.unpack(from(json))).toEqual(unpackr.unpack(packr.pack(expected)))
        },
      ),
    )
  })

  test('may hold "__proto__" as a key of a context', () => {
    expect(fromText('{"context":{"__proto__":"x","a":"y"}}')).toEqual(
      map([
        [
          'context',
          map([
            ['__proto__', str('x')],
            ['a', str('y')],
          ]),
        ],
      ]),
    )
  })

  test('may be a bare value, which the decoder of its route then refuses', () => {
    expect(fromText('null')).toEqual(nil)
    expect(fromText(' true ')).toEqual(boolean(true))
    expect(refusal(() => decodeEncryptRequest(fromText('"x"')))).toMatch(/string where a map/)
    expect(refusal(() => decodeEncryptRequest(from({ plaintexts: 'AA==' })))).toMatch(
      /plaintexts: a string where an array belongs$/,
    )
    expect(refusal(() => decodeDecryptRequest(from({ packed: ['AA=='] })))).toMatch(
      /packed: an array where a byte string belongs$/,
    )
    expect(refusal(() => decodeDecryptRequest(from({ packed: null })))).toMatch(/packed: nil where/)
  })
})

describe('base64', () => {
  const strange: readonly (readonly [string, string])[] = [
    ['no padding', 'AA'],
    ['half the padding', 'AA='],
    ['too much padding', 'AA==='],
    ['padding alone', '===='],
    ['padding in the middle', 'AA==AA=='],
    ['bits beyond the last byte', 'AB=='],
    ['bits beyond the last two bytes', 'AAB='],
    ['the alphabet for URLs', '_-8='],
    ['a space before', ' AA=='],
    ['a space after', 'AA== '],
    ['a line break inside', 'AA\nA='],
    ['a tab inside', 'A\tA=='],
    ['one character', 'A'],
    ['a character of no alphabet', 'A*A='],
    ['a zero', 'AA=\u0000'],
    ['letters from beyond ASCII', 'ＡＡ=='],
    ['a character whose low byte is a letter', 'A\u0141=='],
  ]

  test.each(strange)('is refused with %s, in every field of bytes', (_, text) => {
    for (const field of ['packed', 'keyEntry', 'wrappedKey']) {
      expect(refused({ [field]: text })).toBe(
        `REQUEST_MALFORMED: the request is malformed: ${field}: not base64 with padding`,
      )
    }
    for (const field of ['plaintexts', 'ciphertexts', 'keyEntries']) {
      expect(refused({ [field]: ['AA==', text] })).toBe(
        `REQUEST_MALFORMED: the request is malformed: ${field}[1]: not base64 with padding`,
      )
    }
  })

  test('has one spelling of each value: what is taken encodes back to itself', () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...'AB/+_-= \n'), maxLength: 9 }), (text) => {
        let taken: Buffer
        try {
          taken = from({ packed: text })
        } catch {
          expect(refused({ packed: text })).toMatch(/^REQUEST_MALFORMED: .*packed: not base64/)
          expect(/^(?:[A-Za-z0-9+/]{4})*$/.test(text)).toBe(false)
          return
        }
        // The regular expression of RFC 4648 §4: nothing but the alphabet, padded to four.
        expect(text).toMatch(/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/)
        expect(msgpackToJson(taken)).toBe(JSON.stringify({ packed: text }))
      }),
      { numRuns: 2_000 },
    )
  })

  test('is needed for each element of a list', () => {
    for (const element of [1, null, true, ['AA=='], {}]) {
      expect(refused({ ciphertexts: [element] })).toMatch(/ciphertexts\[0\]: base64 is needed$/)
    }
  })
})

describe('a JSON request is refused', () => {
  test.each([
    ['nothing', ''],
    ['half a map', '{"key":'],
    ['two values', '{}{}'],
    ['a comment', '{/* */}'],
    ['a comma too many', '[1,]'],
    ['single quotes', "{'key':1}"],
    ['NaN', '{"count":NaN}'],
    ['a number that begins with zero', '{"count":01}'],
  ])('for %s', (_, text) => {
    expect(refusal(() => fromText(text))).toBe(
      'REQUEST_MALFORMED: the request is malformed: request: not JSON',
    )
  })

  test('for bytes that are not UTF-8, inside a string as well', () => {
    for (const digits of ['ff', 'c080', 'eda080', 'e282']) {
      expect(
        refusal(() => jsonToMsgpack(Buffer.from(`7b226b6579223a22${digits}227d`, 'hex'))),
      ).toMatch(/^REQUEST_MALFORMED: .*not JSON$/)
    }
  })

  test('for numbers that are not whole, below zero or beyond 2^53', () => {
    for (const text of ['1.5', '-1', '1e-3', '9007199254740992', '1e400', '-9007199254740993']) {
      expect(refusal(() => fromText(`{"count":${text}}`))).toMatch(
        /count: a whole number, not below zero, is needed$/,
      )
    }
    expect(fromText('{"count":9007199254740991}')).toEqual(
      map([['count', uint(Number.MAX_SAFE_INTEGER)]]),
    )
    expect(fromText('[1e3,1.0,-0,0]')).toEqual(array([uint(1_000), uint(1), uint(0), uint(0)]))
  })

  test('for lone surrogates, in keys and in text', () => {
    for (const lone of ['\\ud800', '\\udc00', 'a\\ud83dx']) {
      expect(refusal(() => fromText(`{"context":{"a":"${lone}"}}`))).toMatch(
        /context: text has a lone surrogate$/,
      )
      expect(refusal(() => fromText(`{"context":{"${lone}":"a"}}`))).toMatch(/lone surrogate$/)
      expect(refusal(() => fromText(`{"${lone}":"a"}`))).toMatch(/lone surrogate$/)
    }
    expect(fromText('"\\ud83d\\ude00"')).toEqual(str('😀'))
  })

  test('for nesting beyond four, by name and however deep it goes on', () => {
    const said = /^REQUEST_MALFORMED: .*nested too deeply$/
    expect(fromText('[[[[1]]]]')).toEqual(array([array([array([array([uint(1)])])])]))
    expect(refusal(() => fromText('[[[[[1]]]]]'))).toMatch(said)
    const depth = 100_000
    expect(refusal(() => fromText('['.repeat(depth) + ']'.repeat(depth)))).toMatch(said)
    expect(refusal(() => fromText('{"a":'.repeat(depth) + '1' + '}'.repeat(depth)))).toMatch(said)
    expect(refusal(() => fromText('{"context":'.repeat(6) + '1' + '}'.repeat(6)))).toMatch(said)
  })
})

describe('big JSON', () => {
  test('of 8 MiB in one value and of 50,000 in a list comes through whole', () => {
    const large = Buffer.alloc(8 * 2 ** 20, 0xa7)
    expect(from({ packed: large.toString('base64') }).equals(map([['packed', bin(large)]]))).toBe(
      true,
    )
    const many = Array.from({ length: 50_000 }, (_, i) => Buffer.from(`${i}`))
    expect(
      from({ plaintexts: many.map((bytes) => bytes.toString('base64')) }).equals(
        map([['plaintexts', array(many.map((bytes) => bin(bytes)))]]),
      ),
    ).toBe(true)
  })

  test('fits the memory that was set aside, whatever grows most', () => {
    // 4 bytes of JSON against 9; 6 against 3; 3 against 1; 5 against 1.
    for (const [element, encoded] of [
      ['9e9', uint(9_000_000_000)],
      ['"\\u0800"', str('\u0800')],
      ['""', str('')],
      ['null', nil],
      ['[]', array([])],
      ['{}', map([])],
      ['"é"', str('é')],
    ] as const) {
      for (const count of [0, 1, 2, 15, 16, 70_000]) {
        expect(
          fromText(`[${Array.from({ length: count }, () => element).join(',')}]`).equals(
            array(Array.from({ length: count }, () => encoded)),
          ),
        ).toBe(true)
      }
    }
  })
})

describe('a JSON answer', () => {
  test('is the MessagePack answer with base64 for byte strings', () => {
    const answer = map([
      ['ciphertexts', array([bin(hex('fbff')), bin(hex('')), nil])],
      ['errors', array([array([uint(2), str('DECRYPT_FAILED')])])],
      ['__proto__', boolean(false)],
    ])
    expect(msgpackToJson(answer)).toBe(
      '{"ciphertexts":["+/8=","",null],"errors":[[2,"DECRYPT_FAILED"]],"__proto__":false}',
    )
    expect(msgpackToJson(array([answer]))).toBe(`[${msgpackToJson(answer)}]`)
  })

  test('turns back into the same bytes, where its fields are those of requests', () => {
    const bytes = map([
      ['key', str('é"\\\n\u2028')],
      ['packed', bin(hex('00ff'))],
      ['keyEntries', array([bin(hex('01'))])],
      ['count', uint(65_536)],
      ['context', map([['packed', str('x')]])],
    ])
    expect(fromText(msgpackToJson(bytes))).toEqual(bytes)
    expect(decodeValue(bytes)).toBeInstanceOf(Map)
  })
})
