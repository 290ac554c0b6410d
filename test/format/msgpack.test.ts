/**
 * The MessagePack walker and writer against msgpackr, which is not ours, and against bytes that no library would send:
 * wasteful lengths, foreign types, counts that lie, nesting without end.
 */
import fc from 'fast-check'
import { Packr, Unpackr } from 'msgpackr'
import { describe, expect, test } from 'vitest'

import {
  arrayHeadBytes,
  binHeadBytes,
  decodeValue,
  MsgpackWriter,
  plainBytesMax,
  Walker,
  type PlainValue,
  type Value,
} from '../../dist/format/msgpack.js'
import { hex } from '../vectors.ts'
import { refusal } from './mutations.ts'
import {
  array,
  arrayHead,
  bin,
  binHead,
  boolean,
  FOREIGN,
  map,
  mapHead,
  nil,
  str,
  uint,
  type Width,
} from './spellings.ts'

const packr = new Packr({ useRecords: false })
const packrSmall = new Packr({ useRecords: false, variableMapSize: true })
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: false, int64AsType: 'number' })

/** Numbers beyond 32 bits go to msgpackr as BigInt: it writes others as floats. */
function forPackr(value: PlainValue | undefined): unknown {
  if (typeof value === 'number') return value >= 2 ** 32 ? BigInt(value) : value
  if (Array.isArray(value)) return value.map((element: PlainValue) => forPackr(element))
  if (value instanceof Uint8Array) return Buffer.from(value)
  if (typeof value === 'object' && value !== null) {
    return new Map(
      Object.entries(value)
        .filter(([, element]) => element !== undefined)
        .map(([key, element]) => [key, forPackr(element as PlainValue)]),
    )
  }
  return value
}

/** The same shape from what either decoder returns. */
function comparable(value: unknown): unknown {
  if (value instanceof Uint8Array) return { hex: Buffer.from(value).toString('hex') }
  if (Array.isArray(value)) return value.map(comparable)
  if (value instanceof Map) {
    return { map: [...value].map(([key, element]) => [key, comparable(element)]) }
  }
  return value
}

const text = fc.oneof(
  // Where its addon is not installed, msgpackr drops a byte order mark from the front of 64 bytes and more (TextDecoder).
  fc.string({ unit: 'binary', maxLength: 20 }).filter((value) => !/^\ufeff./s.test(value)),
  // Lengths around which the head grows, in ASCII and in characters of several bytes.
  fc
    .tuple(fc.constantFrom('a', 'é', '€', '😀'), fc.constantFrom(1, 7, 8, 15, 16, 31, 32, 63, 64))
    .map(([character, count]) => character.repeat(count)),
  fc.constantFrom('\ufeff', '\u0000', '__proto__', 'toString', '\u{10ffff}', '\uffff'),
)
const bytes = fc.oneof(
  fc.uint8Array({ maxLength: 20 }),
  fc.constantFrom(255, 256).map((length) => new Uint8Array(length).fill(7)),
)
const number32 = fc.oneof(
  fc.constantFrom(0, 127, 128, 255, 256, 65_535, 65_536, 2 ** 31, 2 ** 32 - 1),
  fc.nat(),
)
const number53 = fc.oneof(number32, fc.constantFrom(2 ** 32, 2 ** 53 - 1), fc.maxSafeNat())

/** Values nested at most `depth` deep. */
function values(depth: number, number: fc.Arbitrary<number> = number53): fc.Arbitrary<PlainValue> {
  const leaf = fc.oneof(fc.constant(null), fc.boolean(), number, text, bytes)
  if (depth === 0) return leaf
  const inner = values(depth - 1, number)
  // Heads grow at 16 elements: reached at the innermost lists only, or the values outgrow the time there is.
  const maxLength = depth === 1 ? 18 : 3
  return fc.oneof(
    { weight: 1, arbitrary: leaf },
    { weight: 1, arbitrary: fc.array(inner, { maxLength }) },
    {
      weight: 1,
      arbitrary: fc
        .uniqueArray(fc.tuple(text, inner), { selector: ([key]) => key, maxLength })
        .map((entries) => Object.fromEntries(entries) as PlainValue),
    },
  )
}

function write(value: PlainValue): Uint8Array {
  return new MsgpackWriter(new Uint8Array(plainBytesMax(value))).plain(value).written()
}

describe('the writer', () => {
  test('writes what msgpackr reads, of every value', () => {
    fc.assert(
      fc.property(values(4), (value) => {
        expect(comparable(unpackr.unpack(Buffer.from(write(value))))).toEqual(
          comparable(unpackr.unpack(packr.pack(forPackr(value)))),
        )
      }),
    )
  })

  test('writes the smallest encoding of everything, to the byte', () => {
    const written = (value: PlainValue): string => Buffer.from(write(value)).toString('hex')
    const expected: readonly (readonly [PlainValue, string])[] = [
      [null, 'c0'],
      [false, 'c2'],
      [true, 'c3'],
      [0, '00'],
      [127, '7f'],
      [128, 'cc80'],
      [255, 'ccff'],
      [256, 'cd0100'],
      [65_535, 'cdffff'],
      [65_536, 'ce00010000'],
      [2 ** 31, 'ce80000000'],
      [2 ** 32 - 1, 'ceffffffff'],
      [2 ** 32, 'cf0000000100000000'],
      [2 ** 53 - 1, 'cf001fffffffffffff'],
      ['', 'a0'],
      ['é', 'a2c3a9'],
      [new Uint8Array(0), 'c400'],
      [[], '90'],
      [{}, '80'],
      [{ a: 1, b: undefined, c: [] }, '82a16101a16390'],
    ]
    for (const [value, digits] of expected) expect(written(value)).toBe(digits)
    for (const [length, head] of [
      [31, 'bf'],
      [32, 'd920'],
      [255, 'd9ff'],
      [256, 'da0100'],
      [65_535, 'daffff'],
      [65_536, 'db00010000'],
    ] as const) {
      expect(written('x'.repeat(length))).toBe(head + '78'.repeat(length))
    }
    for (const [length, head] of [
      [255, 'c4ff'],
      [256, 'c50100'],
      [65_535, 'c5ffff'],
      [65_536, 'c600010000'],
    ] as const) {
      expect(written(new Uint8Array(length))).toBe(head + '00'.repeat(length))
      expect(binHeadBytes(length)).toBe(head.length / 2)
    }
    for (const [count, head] of [
      [15, '9f'],
      [16, 'dc0010'],
      [65_535, 'dcffff'],
      [65_536, 'dd00010000'],
    ] as const) {
      expect(written(Array.from({ length: count }, () => null))).toBe(head + 'c0'.repeat(count))
      expect(arrayHeadBytes(count)).toBe(head.length / 2)
    }
    const keys = (count: number): PlainValue =>
      Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${i}`, 0]))
    expect(written(keys(15)).slice(0, 2)).toBe('8f')
    expect(written(keys(16)).slice(0, 6)).toBe('de0010')
    expect(written(keys(65_536)).slice(0, 10)).toBe('df00010000')
  })

  test('measures text that is not ASCII by its bytes, wherever the memory ends', () => {
    // 31 characters of 62 bytes, and text behind which no byte is left.
    for (const sample of ['é'.repeat(31), 'é'.repeat(16), 'aé', '😀'.repeat(64), 'a'.repeat(255)]) {
      const encoded = str(sample)
      const writer = new MsgpackWriter(new Uint8Array(encoded.length)).string(sample)
      expect(Buffer.from(writer.written())).toEqual(encoded)
    }
  })

  test('writes from an offset, and nothing before it', () => {
    const writer = new MsgpackWriter(new Uint8Array(8).fill(0xee), 3)
    writer.arrayHead(2).uint(1).nil()
    expect(Buffer.from(writer.written()).toString('hex')).toBe('eeeeee' + '9201c0')
  })

  test('never needs more than plainBytesMax promised', () => {
    fc.assert(
      fc.property(values(3), (value) => {
        const room = new MsgpackWriter(new Uint8Array(2 * plainBytesMax(value) + 64)).plain(value)
        expect(room.offset).toBeLessThanOrEqual(plainBytesMax(value))
        expect(Buffer.from(room.written())).toEqual(Buffer.from(write(value)))
      }),
    )
  })
})

describe('the walker', () => {
  test('reads what msgpackr writes, with map16 heads and with the smallest', () => {
    // Beyond 32 bits msgpackr writes floats or signed integers: the writer's own numbers are shown below.
    fc.assert(
      fc.property(values(4, number32), (value) => {
        for (const encoder of [packr, packrSmall]) {
          const encoded = encoder.pack(forPackr(value))
          expect(comparable(decodeValue(encoded))).toEqual(comparable(unpackr.unpack(encoded)))
        }
      }),
    )
  })

  test('reads what the writer writes, and what it reads writes back to the same bytes', () => {
    const plain = (value: Value): PlainValue =>
      value instanceof Map
        ? (Object.fromEntries(
            [...(value as ReadonlyMap<string, Value>)].map(([key, element]) => [
              key,
              plain(element),
            ]),
          ) as PlainValue)
        : Array.isArray(value)
          ? (value as readonly Value[]).map(plain)
          : (value as PlainValue)
    fc.assert(
      fc.property(values(4), (value) => {
        const written = write(value)
        const decoded = decodeValue(written)
        expect(comparable(decoded)).toEqual(comparable(forWalker(value)))
        expect(Buffer.from(write(plain(decoded)))).toEqual(Buffer.from(written))
      }),
    )
  })

  test.each([0, 1, 2, 4, 8] as const)(
    'takes lengths and numbers of %i bytes where fewer would do',
    (width: Width) => {
      const wasteful = Math.min(width, 4) as Width
      for (const value of [0, 1, 127, 128, 255]) {
        expect(decodeValue(uint(value, width))).toBe(value)
      }
      expect(decodeValue(str('é', wasteful))).toBe('é')
      expect(decodeValue(str('', wasteful))).toBe('')
      expect(decodeValue(bin(hex('0102'), wasteful))).toEqual(hex('0102'))
      expect(decodeValue(array([nil, uint(1)], wasteful))).toEqual([null, 1])
      expect(decodeValue(map([['a', nil]], wasteful))).toEqual(new Map([['a', null]]))
      expect(decodeValue(map([], wasteful))).toEqual(new Map())
    },
  )

  test('takes numbers up to 2^53 - 1 and refuses the next, which JavaScript would round', () => {
    expect(decodeValue(hex('cf001fffffffffffff'))).toBe(Number.MAX_SAFE_INTEGER)
    for (const digits of ['0020000000000000', '0020000000000001', 'ffffffffffffffff']) {
      expect(refusal(() => decodeValue(hex(`cf${digits}`)))).toMatch(
        /^REQUEST_MALFORMED: .*request: a number beyond 2\^53$/,
      )
    }
  })

  test.each(FOREIGN)('refuses %s, wherever it stands', (_, foreign) => {
    const said = /^REQUEST_MALFORMED: .*a value of (a type that is not taken|another type)/
    expect(refusal(() => decodeValue(foreign))).toMatch(said)
    expect(refusal(() => decodeValue(array([nil, foreign])))).toMatch(/request\[1\]: a value of/)
    expect(refusal(() => decodeValue(map([['field', foreign]])))).toMatch(/field: a value of/)
    expect(refusal(() => decodeValue(map([[foreign, nil]])))).toMatch(said)
    for (const read of READS) expect(refusal(() => read(new Walker(foreign)))).toMatch(said)
  })

  test('knows every one of the 256 heads, and says "other" of no type that is taken', () => {
    const kinds = Array.from({ length: 256 }, (_, head) =>
      new Walker(Uint8Array.of(head)).kind('head'),
    )
    const spans: readonly (readonly [number, number, string])[] = [
      [0x00, 0x7f, 'uint'],
      [0x80, 0x8f, 'map'],
      [0x90, 0x9f, 'array'],
      [0xa0, 0xbf, 'string'],
      [0xc0, 0xc0, 'nil'],
      [0xc1, 0xc1, 'other'],
      [0xc2, 0xc3, 'boolean'],
      [0xc4, 0xc6, 'bytes'],
      [0xc7, 0xcb, 'other'],
      [0xcc, 0xcf, 'uint'],
      [0xd0, 0xd8, 'other'],
      [0xd9, 0xdb, 'string'],
      [0xdc, 0xdd, 'array'],
      [0xde, 0xdf, 'map'],
      [0xe0, 0xff, 'other'],
    ]
    expect(kinds).toEqual(
      spans.flatMap(([from, to, kind]) => Array.from({ length: to - from + 1 }, () => kind)),
    )
  })

  test('names the field, what it found and what belongs there, for every pair of types', () => {
    const samples = {
      nil: ['nil', nil],
      boolean: ['a boolean', boolean(true)],
      uint: ['an unsigned integer', uint(1)],
      string: ['a string', str('x')],
      bytes: ['a byte string', bin(hex('00'))],
      array: ['an array', array([])],
      map: ['a map', map([])],
    } as const
    const readers: Record<keyof typeof samples, (walker: Walker) => unknown> = {
      nil: (walker) => walker.nil('colour'),
      boolean: (walker) => walker.boolean('colour'),
      uint: (walker) => walker.uint('colour'),
      string: (walker) => walker.string('colour'),
      bytes: (walker) => walker.bytesStart('colour'),
      array: (walker) => walker.arrayHead('colour'),
      map: (walker) => walker.mapHead('colour'),
    }
    for (const [wanted, read] of Object.entries(readers)) {
      const [wantedName] = samples[wanted as keyof typeof samples]
      for (const [found, [foundName, encoded]] of Object.entries(samples)) {
        const walker = new Walker(encoded)
        if (found === wanted) {
          read(walker)
          expect(walker.offset).toBe(encoded.length)
        } else {
          expect(refusal(() => read(walker))).toBe(
            `REQUEST_MALFORMED: the request is malformed: colour: ${foundName} where ${wantedName} belongs`,
          )
        }
      }
    }
  })

  test('refuses every truncation of everything', () => {
    const whole = map([
      ['a', array([uint(1, 8), uint(2, 4), uint(3, 2), uint(4, 1), uint(5)], 4)],
      ['b', str('€uro', 4)],
      ['c', bin(hex('010203'), 2)],
      ['d', map([['é', boolean(true)]], 2)],
      ['e', nil],
    ])
    for (let length = 0; length < whole.length; length++) {
      expect(refusal(() => decodeValue(whole.subarray(0, length)))).toMatch(
        /^REQUEST_MALFORMED: .*: truncated$/,
      )
      // Also where the bytes go on behind what the walker was given.
      expect(refusal(() => readAll(new Walker(whole, 0, length)))).toMatch(/truncated$/)
    }
    expect(comparable(decodeValue(whole))).toEqual(comparable(unpackr.unpack(whole)))
  })

  test('takes no value of a flipped byte for another, where msgpackr reads it too', () => {
    const whole = map([
      ['ab', array([uint(300), bin(hex('0102')), str('xy')])],
      ['c', map([['d', nil]])],
      ['e', boolean(false)],
    ])
    let taken = 0
    let refused = 0
    for (let offset = 0; offset < whole.length; offset++) {
      for (let mask = 1; mask < 256; mask++) {
        const flipped = Buffer.from(whole)
        flipped[offset] = (flipped[offset] as number) ^ mask
        let decoded: Value
        try {
          decoded = decodeValue(flipped)
        } catch {
          expect(refusal(() => decodeValue(flipped))).toMatch(/^REQUEST_MALFORMED: .*: .*: ./)
          refused++
          continue
        }
        taken++
        expect(comparable(decoded)).toEqual(comparable(unpackr.unpack(flipped)))
      }
    }
    expect(taken).toBeGreaterThan(1_000)
    expect(refused).toBeGreaterThan(2_000)
  })

  test('refuses any bytes or reads them as msgpackr does', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 24 }), (random) => {
        let decoded: Value
        try {
          decoded = decodeValue(random)
        } catch {
          expect(refusal(() => decodeValue(random))).toMatch(/^REQUEST_MALFORMED: /)
          return
        }
        expect(comparable(decoded)).toEqual(comparable(unpackr.unpack(Buffer.from(random))))
      }),
      { numRuns: 3_000 },
    )
  })

  test.each([
    ['fixarray', '9f'],
    ['array16', 'dcffff'],
    ['array32', 'ddffffffff'],
    ['fixmap', '8f'],
    ['map16', 'deffff'],
    ['map32', 'dfffffffff'],
    ['bin32', 'c6ffffffff'],
    ['str32', 'dbffffffff'],
  ])('refuses a count that the bytes cannot hold, by the head of %s alone', (_, head) => {
    // Nothing of the promised size is allocated: 2^32 - 1 elements would take the process down.
    expect(refusal(() => decodeValue(hex(head)))).toMatch(/request: truncated$/)
    expect(refusal(() => decodeValue(hex(head + 'c0')))).toMatch(/truncated$/)
    expect(refusal(() => decodeValue(hex('91' + head + '00')))).toMatch(/truncated$/)
  })

  test('refuses an array of one element more than there are bytes, and takes as many', () => {
    const elements = Buffer.alloc(1_000, 0xc0)
    expect(decodeValue(Buffer.concat([arrayHead(1_000), elements]))).toHaveLength(1_000)
    const walker = new Walker(Buffer.concat([arrayHead(1_001), elements]))
    expect(refusal(() => walker.arrayHead('list'))).toMatch(/list: truncated$/)
    // A map's entry is two bytes at least: its head passes, its last entry does not.
    expect(
      refusal(() => decodeValue(Buffer.concat([mapHead(2), str('a'), nil, str('b')]))),
    ).toMatch(/truncated$/)
  })

  test('refuses nesting beyond four, however deep it goes on', () => {
    const nested = (depth: number): Buffer => Buffer.concat([Buffer.alloc(depth, 0x91), nil])
    expect(decodeValue(nested(4))).toEqual([[[[null]]]])
    expect(refusal(() => decodeValue(nested(5)))).toMatch(/nested too deeply$/)
    expect(refusal(() => decodeValue(nested(1_000_000)))).toMatch(/nested too deeply$/)
    const maps = Buffer.concat([Buffer.from('81a16b'.repeat(100_000), 'hex'), nil])
    expect(refusal(() => decodeValue(maps))).toMatch(/nested too deeply$/)
  })

  test('refuses a key that occurs twice, at any depth and in any encoding', () => {
    const twice = map([
      ['a', uint(1)],
      [str('a', 4), uint(2)],
    ])
    expect(refusal(() => decodeValue(twice))).toMatch(/request: the key "a" occurs twice$/)
    expect(refusal(() => decodeValue(map([['tags', twice]])))).toMatch(/tags: the key "a" occurs/)
    const proto = map([
      ['__proto__', uint(1)],
      ['__proto__', uint(2)],
    ])
    expect(refusal(() => decodeValue(proto))).toMatch(/"__proto__" occurs twice/)
    expect(
      decodeValue(
        map([
          ['', nil],
          ['__proto__', uint(1)],
          ['constructor', uint(2)],
        ]),
      ),
    ).toEqual(
      new Map<string, unknown>([
        ['', null],
        ['__proto__', 1],
        ['constructor', 2],
      ]),
    )
  })

  test('refuses a key that is anything but a string', () => {
    for (const key of [nil, uint(1), bin(Buffer.from('a')), array([]), map([]), boolean(true)]) {
      expect(refusal(() => decodeValue(map([[key, nil]])))).toMatch(/where a string belongs$/)
    }
  })

  test('refuses bytes that follow the value', () => {
    expect(refusal(() => decodeValue(Buffer.concat([map([]), nil])))).toMatch(/trailing bytes$/)
    expect(refusal(() => decodeValue(hex('0000')))).toMatch(/trailing bytes$/)
    expect(refusal(() => decodeValue(new Uint8Array(0)))).toMatch(/truncated$/)
  })

  test.each(['ff', 'c080', 'c0af', 'e08080', 'eda080', 'edb080', 'f4908080', 'c3', 'e282', '80'])(
    'refuses text of the bytes %s, as a value, a key and a view',
    (digits) => {
      const said = /text that is not UTF-8$/
      expect(refusal(() => decodeValue(str(hex(digits))))).toMatch(said)
      expect(refusal(() => decodeValue(map([[str(hex(digits)), nil]])))).toMatch(said)
      expect(refusal(() => new Walker(str(hex(digits))).stringBytes('text'))).toMatch(said)
      expect(refusal(() => decodeValue(str(Buffer.concat([hex('61'), hex(digits)]))))).toMatch(said)
    },
  )

  test('returns views, of the string or byte string alone', () => {
    const encoded = Buffer.concat([uint(9), str('€', 2), binHead(2, 4), hex('0102'), uint(9)])
    const walker = new Walker(encoded, 1, encoded.length - 1)
    expect(Buffer.from(walker.stringBytes('text'))).toEqual(Buffer.from('€'))
    const start = walker.bytesStart('bytes')
    expect(encoded.subarray(start, walker.offset)).toEqual(hex('0102'))
    walker.finish()
    const value = decodeValue(bin(hex('0a0b')))
    expect(value).toHaveLength(2)
  })
})

/** What each reading method of the walker does with the next value. */
const READS: readonly ((walker: Walker) => unknown)[] = [
  (walker) => walker.nil('field'),
  (walker) => walker.boolean('field'),
  (walker) => walker.uint('field'),
  (walker) => walker.string('field'),
  (walker) => walker.stringBytes('field'),
  (walker) => walker.bytesStart('field'),
  (walker) => walker.arrayHead('field'),
  (walker) => walker.mapHead('field'),
]

/** Steps over the value by the walker's own methods, down to the leaves. */
function readAll(walker: Walker): void {
  switch (walker.kind('all')) {
    case 'map': {
      const count = walker.mapHead('all')
      for (let i = 0; i < 2 * count; i++) readAll(walker)
      return
    }
    case 'array': {
      const count = walker.arrayHead('all')
      for (let i = 0; i < count; i++) readAll(walker)
      return
    }
    case 'string':
      walker.stringBytes('all')
      return
    case 'bytes':
      walker.bytesStart('all')
      return
    case 'uint':
      walker.uint('all')
      return
    case 'boolean':
      walker.boolean('all')
      return
    default:
      walker.nil('all')
  }
}

/** What the walker should make of what was written: maps in place of objects. */
function forWalker(value: PlainValue): unknown {
  if (Array.isArray(value)) return value.map((element: PlainValue) => forWalker(element))
  if (value instanceof Uint8Array || typeof value !== 'object' || value === null) return value
  return new Map(
    Object.entries(value).map(([key, element]) => [key, forWalker(element as PlainValue)]),
  )
}
