/** What anyone may read of a ciphertext, held against ciphertexts that were committed with what is in them. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import { KeyfoldError } from '../../dist/errors.js'
import { inspectCiphertext, keyEntrySpan } from '../../dist/format/inspect.js'
import { encodeKeyEntry } from '../../dist/format/key-entry.js'
import { encodeWrappedKey } from '../../dist/format/wrapped-key.js'
import { arbitraryWrappedKey, rising } from './samples.ts'

interface Case {
  readonly form: string
  readonly plaintexts: readonly string[]
  readonly ciphertexts?: readonly string[]
  readonly packed?: string
  readonly keyEntries?: readonly string[]
  readonly wrappedKeys?: readonly string[]
}

const { keyId, cases } = JSON.parse(
  readFileSync(join(import.meta.dirname, '../golden/v1/cases.json'), 'utf8'),
) as { readonly keyId: string; readonly cases: readonly Case[] }

const bytesOf = (hex: string): Buffer => Buffer.from(hex, 'hex')
const lengthOf = (hex: string): number => hex.length / 2
/** u32 of the bytes behind E0, suite, usage and the 16 bytes of the key id (formats.md). */
const versionAt = (hex: string): number => bytesOf(hex).readUInt32BE(19)
/** Of `E1 ‖ suite ‖ commitment32 ‖ u16 ‖ wrapped key`. */
const wrappedIn = (hex: string): string => hex.slice(2 * 36)

describe('golden ciphertexts', () => {
  test('are of more than one version of key material', () => {
    const versions = cases.flatMap(({ wrappedKeys = [] }) => wrappedKeys.map(versionAt))
    expect(new Set(versions).size).toBeGreaterThan(1)
  })

  test.each(cases.map((one, index) => ({ index, ...one })))('$index $form', (one) => {
    for (const [i, hex] of (one.ciphertexts ?? []).entries()) {
      const common = {
        form: one.form,
        bytes: lengthOf(hex),
        cipher: hex.slice(2, 4) === '01' ? 'XAES-256-GCM' : 'KC-XAES-256-GCM',
        messages: 1,
        plaintextBytes: lengthOf(one.plaintexts[i] ?? ''),
        dataKeyId: hex.slice(4, 36),
      }
      const wrappingOf = () => ({
        kmsKeyId: keyId,
        materialVersion: versionAt(wrappedIn(hex)),
        suite: 'xaes',
        usage: 'message key',
      })
      const wrapping = one.form === 'inline' ? wrappingOf() : undefined
      expect(inspectCiphertext(bytesOf(hex))).toEqual({ ...common, wrapping })
    }
    for (const hex of one.keyEntries ?? []) {
      expect(inspectCiphertext(bytesOf(hex))).toMatchObject({
        form: 'key entry',
        dataKeyId: hex.slice(0, 32),
        messages: undefined,
        wrapping: { kmsKeyId: keyId, usage: 'message key' },
      })
    }
    if (one.packed !== undefined) {
      expect(inspectCiphertext(bytesOf(one.packed))).toMatchObject({
        form: 'packed',
        messages: one.plaintexts.length,
        plaintextBytes: one.plaintexts.reduce((sum, hex) => sum + lengthOf(hex), 0),
        wrapping: { kmsKeyId: keyId, materialVersion: versionAt(wrappedIn(one.packed)) },
      })
    }
    for (const hex of one.wrappedKeys ?? []) {
      expect(inspectCiphertext(bytesOf(hex))).toMatchObject({
        form: 'AWS blob',
        messages: undefined,
        wrapping: { kmsKeyId: keyId, materialVersion: versionAt(hex), usage: "caller's" },
      })
    }
  })
})

describe('any bytes', () => {
  const refusalOf = (bytes: Uint8Array): unknown => {
    try {
      inspectCiphertext(bytes)
      return undefined
    } catch (error) {
      return error
    }
  }
  const isClear = (error: unknown): boolean =>
    error === undefined ||
    (error instanceof KeyfoldError &&
      error.code === 'MESSAGE_MALFORMED' &&
      error.detail !== undefined)

  test('are recognised, or refused in words', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => isClear(refusalOf(bytes))))
  })

  test('that begin like a form of ours are too', () => {
    const begun = fc
      .tuple(fc.constantFrom(0xe0, 0xe1, 0xe2, 0xe3), fc.constantFrom(1, 2), fc.uint8Array())
      .map(([version, suite, rest]) => Uint8Array.of(version, suite, ...rest))
    fc.assert(fc.property(begun, (bytes) => isClear(refusalOf(bytes))))
  })

  test('of a ciphertext that was cut off or damaged anywhere are too', () => {
    const whole = cases.slice(0, 7).flatMap((one) => {
      const { ciphertexts = [], keyEntries = [], wrappedKeys = [], packed = [] } = one
      return [ciphertexts[2] ?? [], keyEntries, wrappedKeys, packed].flat().map(bytesOf)
    })
    for (const bytes of whole) {
      for (let length = 0; length < bytes.length; length++) {
        expect(isClear(refusalOf(bytes.subarray(0, length)))).toBe(true)
      }
      for (let at = 0; at < Math.min(bytes.length, 200); at++) {
        for (const flip of [0x01, 0x80, 0xff]) {
          const damaged = Buffer.from(bytes)
          damaged[at] = (damaged[at] as number) ^ flip
          expect(isClear(refusalOf(damaged))).toBe(true)
        }
      }
    }
  })
})

describe('a key entry', () => {
  test.each([0xe0, 0xe1, 0xe2, 0xe3])('is one whatever it begins with, here %i', (first) => {
    fc.assert(
      fc.property(arbitraryWrappedKey, fc.constantFrom(1, 2), (wrapped, second) => {
        const commitment = Uint8Array.of(first, second, ...rising(30, 0x40))
        const bytes = encodeKeyEntry({ commitment, wrappedKey: encodeWrappedKey(wrapped) })
        expect(inspectCiphertext(bytes).form).toBe('key entry')
      }),
    )
  })

  test('is found in what brings one along, to the byte', () => {
    for (const { ciphertexts = [], packed, form } of cases) {
      for (const hex of [...ciphertexts, packed ?? []].flat()) {
        const bytes = bytesOf(hex)
        const inspection = inspectCiphertext(bytes)
        const span = keyEntrySpan(bytes, inspection)
        if (form === 'detached') expect(span).toBeUndefined()
        else {
          const entry = bytes.subarray(span?.offset, span?.end)
          expect(inspectCiphertext(entry)).toMatchObject({
            form: 'key entry',
            wrapping: inspection.wrapping,
            dataKeyId: inspection.dataKeyId,
          })
        }
      }
    }
  })
})
