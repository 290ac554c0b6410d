/** Streams taken apart into records: the same ones however the bytes come, and an offset to begin again behind each. */
import { Packr } from 'msgpackr'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import {
  createSplitter,
  LineSplitter,
  MsgpackSplitter,
  type Splitter,
} from '../../dist/cli/records.js'

interface Taken {
  readonly records: readonly Buffer[]
  readonly ends: readonly number[]
}

function split(splitter: Splitter, bytes: Buffer, cuts: readonly number[]): Taken {
  const records: Buffer[] = []
  const ends: number[] = []
  const take = (record: Buffer, end: number): void => {
    records.push(Buffer.from(record))
    ends.push(end)
  }
  const places = [...cuts.map((cut) => cut % (bytes.length + 1)), bytes.length].sort(
    (a, b) => a - b,
  )
  let start = 0
  for (const place of places) {
    splitter.push(bytes.subarray(start, place), take)
    start = place
  }
  splitter.end(take)
  return { records, ends }
}

const messages = fc.array(
  fc.oneof(fc.uint8Array({ maxLength: 20 }), fc.uint8Array({ minLength: 250, maxLength: 300 })),
)
const cuts = fc.array(fc.nat(10_000), { maxLength: 12 })

/** Another implementation of MessagePack. */
const packr = new Packr()
const packed = (list: readonly Uint8Array[]): Buffer =>
  Buffer.concat(list.map((message) => Buffer.from(packr.pack(Buffer.from(message)))))

describe('byte strings of MessagePack', () => {
  test('come out as they were packed, wherever the stream is cut', () => {
    fc.assert(
      fc.property(messages, cuts, (list, places) => {
        const { records } = split(createSplitter('msgpack'), packed(list), places)
        expect(records).toEqual(list.map((message) => Buffer.from(message)))
      }),
    )
  })

  test('go on behind any of them as if nothing had been before', () => {
    fc.assert(
      fc.property(messages, cuts, (list, places) => {
        const bytes = packed(list)
        const whole = split(createSplitter('msgpack'), bytes, places)
        for (const [i, end] of whole.ends.entries()) {
          const rest = split(createSplitter('msgpack', end), bytes.subarray(end), places)
          expect(rest.records).toEqual(whole.records.slice(i + 1))
          expect(rest.ends).toEqual(whole.ends.slice(i + 1))
        }
      }),
    )
  })

  test.each([
    ['a string', Buffer.concat([packed([Buffer.from('a')]), Buffer.from(packr.pack('text'))]), 3],
    ['an array around them', Buffer.from(packr.pack([Buffer.from('a')])), 0],
    ['nil', Buffer.of(0xc0), 0],
  ])('%s is told by its place', (_, bytes, place) => {
    expect(() => split(createSplitter('msgpack'), bytes, [])).toThrow(`at byte ${place} of`)
  })

  test('an end within one is told, at every place', () => {
    const bytes = packed([Buffer.alloc(300, 1)])
    for (let length = 1; length < bytes.length; length++) {
      expect(() => split(createSplitter('msgpack'), bytes.subarray(0, length), [1])).toThrow(
        'ends within a byte string',
      )
    }
  })

  test('one that says it is longer than the bound is refused before it is there', () => {
    const splitter = new MsgpackSplitter(100)
    expect(() => splitter.push(Buffer.of(0xc6, 0x7f, 0xff, 0xff, 0xff), () => undefined)).toThrow(
      'at most 100 bytes',
    )
  })
})

describe('lines', () => {
  const lines = fc.array(fc.string({ maxLength: 30 }).map((text) => text.replaceAll('\n', '')))

  test('come out as they went in, and go on behind any of them', () => {
    fc.assert(
      fc.property(lines, cuts, fc.boolean(), (list, places, ended) => {
        const text = list.join('\n')
        const bytes = Buffer.from(ended && list.length > 0 ? `${text}\n` : text)
        const expected = bytes
          .toString()
          .split('\n')
          .slice(0, bytes.at(-1) === 0x0a ? -1 : undefined)
        const whole = split(createSplitter('lines'), bytes, places)
        expect(whole.records.map(String)).toEqual(bytes.length === 0 ? [] : expected)
        for (const [i, end] of whole.ends.entries()) {
          const rest = split(createSplitter('lines', end), bytes.subarray(end), places)
          expect(rest.records).toEqual(whole.records.slice(i + 1))
        }
      }),
    )
  })

  test('one beyond the bound is refused, also before its end is there', () => {
    const long = Buffer.alloc(11, 0x61)
    expect(() => new LineSplitter(10).push(long, () => undefined)).toThrow('at most 10 bytes')
  })
})
