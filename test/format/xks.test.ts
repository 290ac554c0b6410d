/** Formats of external key stores: of a proxy's ciphertexts, and of what is kept of another's. */
import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import {
  decodeXksCiphertext,
  encodeXksAad,
  encodeXksCiphertext,
  fitsXks,
} from '../../dist/format/xks-ciphertext.js'
import { integrityParts, isExternalKeyId, isXksPrefix } from '../../dist/format/xks-protocol.js'
import {
  decodeExternalKey,
  decodeXksStorePart,
  encodeExternalKey,
  encodeXksStorePart,
} from '../../dist/format/xks-store-part.js'
import { accepts, flips, range, truncations, type Codec } from './mutations.ts'
import { rising } from './samples.ts'

const bytesOf = (text: string): Buffer => Buffer.from(text, 'base64')
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

test('the integrity value of AWS’s example is the one of AWS’s example (XKS Proxy API, Appendix C)', () => {
  const hash = createHash('sha256')
  const parts = integrityParts(bytesOf('cHJvamVjdD1uaWxlLGRlcGFydG1lbnQ9bWFya2V0aW5n'), {
    metadata: bytesOf('a2V5X3ZlcnNpb249MQ=='),
    iv: bytesOf('HMrlRw85cAJUd5Ax'),
    ciphertext: bytesOf('ghxkK1txeDNn3q8Y'),
    tag: bytesOf('vBxN2ncH1oEkR8WVXpmyYQ=='),
  })
  for (const part of parts) hash.update(part)
  expect(hash.digest('base64')).toBe('qHA/ImC9h5HsLRXqCyPmWgYx7tzyoTplzILbP0fPXsc=')
})

describe('names and prefixes', () => {
  test.each([
    ['a', true],
    ['A.b_c-9', true],
    ['x'.repeat(128), true],
    ['x'.repeat(129), false],
    ['', false],
    ['.', false],
    ['..', false],
    ['...', true],
    ['a/b', false],
    ['a b', false],
    ['a\n', false],
    ['ä', false],
  ])('%j is the name of an external key: %s', (id, expected) => {
    expect(isExternalKeyId(id)).toBe(expected)
  })

  test.each([
    ['', true],
    ['/a', true],
    ['/a/B_c-9', true],
    // 128 with /kms/xks/v1.
    [`/${'x'.repeat(116)}`, true],
    [`/${'x'.repeat(117)}`, false],
    ['/', false],
    ['a', false],
    ['/a/', false],
    ['//a', false],
    ['/a.b', false],
    ['/a\n', false],
  ])('%j is a prefix: %s', (prefix, expected) => {
    expect(isXksPrefix(prefix)).toBe(expected)
  })
})

describe('a ciphertext of ours', () => {
  test('spreads nonce24 ‖ ciphertext ‖ tag16 over the members of the API, and is put together again', () => {
    const storePart = rising(24 + 5 + 16, 0x10)
    const parts = encodeXksCiphertext({ suite: 1, materialVersion: 0x01020304, storePart })
    expect([parts.metadata, parts.iv, parts.ciphertext, parts.tag].map(hex)).toEqual([
      `0101020304${hex(rising(12, 0x10))}`,
      hex(rising(12, 0x1c)),
      hex(rising(5, 0x28)),
      hex(rising(16, 0x2d)),
    ])
    expect(decodeXksCiphertext(parts)).toEqual({
      suite: 1,
      materialVersion: 0x01020304,
      storePart: Uint8Array.from(storePart),
    })
  })

  test('of a token has the whole nonce in its IV', () => {
    const storePart = rising(12 + 5 + 16, 0x10)
    const parts = encodeXksCiphertext({ suite: 2, materialVersion: 7, storePart })
    expect([hex(parts.metadata), hex(parts.iv)]).toEqual(['0200000007', hex(rising(12, 0x10))])
    expect(hex(decodeXksCiphertext(parts).storePart)).toBe(hex(storePart))
  })

  test('is of no other suite', () => {
    expect([1, 2, 3, 4, 5].map((suite) => fitsXks(suite as 1))).toEqual([
      true,
      true,
      false,
      false,
      false,
    ])
    const storePart = rising(60, 0)
    expect(() => encodeXksCiphertext({ suite: 3, materialVersion: 1, storePart })).toThrow(
      expect.objectContaining({ code: 'OPERATION_UNSUPPORTED' }) as Error,
    )
  })

  test('names no version 0 and has parts of their lengths alone', () => {
    const parts = { iv: rising(12, 0), ciphertext: rising(3, 0), tag: rising(16, 0) }
    const metadata = Buffer.from(`0100000001${'00'.repeat(12)}`, 'hex')
    expect(decodeXksCiphertext({ ...parts, metadata }).storePart).toHaveLength(43)
    const wrongs = [
      ...['', '01', '0100000001', '0200000000', `0100000000${'00'.repeat(12)}`].map((text) => ({
        metadata: Buffer.from(text, 'hex'),
      })),
      ...[3, 4, 5, 0, 255].map((suite) => ({ metadata: Buffer.from([suite, 0, 0, 0, 1]) })),
      { metadata: Buffer.concat([metadata, Buffer.alloc(1)]) },
      { metadata, iv: rising(16, 0) },
      { metadata, iv: rising(11, 0) },
      { metadata, tag: rising(15, 0) },
      { metadata, tag: rising(0, 0) },
    ]
    for (const wrong of wrongs) {
      expect(() => decodeXksCiphertext({ ...parts, ...wrong })).toThrow(
        expect.objectContaining({
          code: 'DECRYPT_FAILED',
          message: 'the message could not be decrypted',
        }) as Error,
      )
    }
  })

  test('is bound to a label, the AAD with its length, and suite and version: no two of them to the same bytes', () => {
    const header = { suite: 1, materialVersion: 2 } as const
    expect(hex(encodeXksAad(header, Buffer.from('aad')))).toBe(
      `${Buffer.from('keyfold/xks/v1').toString('hex')}0003616164050100000002`,
    )
    expect(encodeXksAad(header, new Uint8Array(65_535))).toHaveLength(14 + 2 + 65_535 + 6)
    const any = fc.record({
      header: fc.record({
        suite: fc.constantFrom(1 as const, 2 as const),
        materialVersion: fc.integer({ min: 1, max: 3 }),
      }),
      aad: fc.uint8Array({ maxLength: 20, max: 2 }),
    })
    fc.assert(
      fc.property(any, any, (one, two) => {
        const [named, otherwise] = [one, two].map(({ header: { suite, materialVersion }, aad }) =>
          [suite, materialVersion, hex(aad)].join(),
        )
        const same = named === otherwise
        const bound = [one, two].map((each) => hex(encodeXksAad(each.header, each.aad)))
        expect(bound[0] === bound[1]).toBe(same)
        // What wrapped keys are bound to starts with E0.
        expect(bound[0]?.startsWith('e0')).toBe(false)
      }),
    )
  })
})

describe('a store part of an external key store', () => {
  const codec: Codec<ReturnType<typeof decodeXksStorePart>> = {
    decode: decodeXksStorePart,
    encode: encodeXksStorePart,
    code: 'DECRYPT_FAILED',
    silent: true,
  }
  const parts = {
    metadata: rising(3, 0x20),
    iv: rising(12, 0x30),
    tag: rising(16, 0x40),
    ciphertext: rising(4, 0x60),
  }

  test('is u8 length ‖ metadata ‖ u8 length ‖ IV ‖ tag ‖ ciphertext', () => {
    const bytes = encodeXksStorePart(parts)
    expect(hex(bytes)).toBe(
      `03${hex(parts.metadata)}0c${hex(parts.iv)}${hex(parts.tag)}${hex(parts.ciphertext)}`,
    )
    expect(accepts(codec, bytes)).toBe(true)
  })

  test('comes back whatever is in it, and is refused wherever it is cut or has another length in it', () => {
    const bytes = encodeXksStorePart(parts)
    // Shorter by some of the ciphertext it is one of less.
    expect(truncations(codec, bytes).accepted).toEqual(range(33, 37))
    // Of the two lengths every other value, but 16 in place of 12: the IV may be longer.
    expect(flips(codec, bytes).refused).toBe(255 + 254)
    fc.assert(
      fc.property(
        fc.record({
          metadata: fc.uint8Array({ maxLength: 20 }),
          iv: fc.oneof(
            fc.uint8Array({ minLength: 12, maxLength: 12 }),
            fc.uint8Array({ minLength: 16, maxLength: 16 }),
          ),
          tag: fc.uint8Array({ minLength: 16, maxLength: 16 }),
          ciphertext: fc.uint8Array({ maxLength: 64 }),
        }),
        (value) => {
          expect(decodeXksStorePart(encodeXksStorePart(value))).toEqual(value)
        },
      ),
    )
  })
})

describe('in place of key material', () => {
  test('stands F3 and the name of the external key', () => {
    expect(hex(encodeExternalKey('a.B_c-1'))).toBe('f3612e425f632d31')
    expect(decodeExternalKey(Buffer.from('f3612e425f632d31', 'hex'))).toBe('a.B_c-1')
  })

  test('nothing else stands there', () => {
    const codec: Codec<string> = {
      decode: decodeExternalKey,
      encode: encodeExternalKey,
      code: 'ROOT_KEY_INVALID',
    }
    const bytes = encodeExternalKey('abc')
    expect(truncations(codec, bytes).accepted).toEqual([2, 3])
    expect(flips(codec, bytes).accepted).toEqual([1, 2, 3])
  })
})
