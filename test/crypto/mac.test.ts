/** HMAC: RFC 4231, openssl, and nothing that differs by a byte. */
import { createSecretKey, randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'

import { KEY_SPECS, type KeySpec } from '../../dist/crypto/key-spec.js'
import { generateMac, HMAC_KEY_BYTES, isSameMac } from '../../dist/crypto/mac.js'
import { hex } from '../vectors.ts'
import { flip } from './key-pairs.ts'
import { testOpenssl } from './openssl.ts'

/** RFC 4231 §4.3, test case 2: key "Jefe", data "what do ya want for nothing?". */
const cases = [
  {
    spec: 'HMAC_224',
    algorithm: 'HMAC_SHA_224',
    mac: 'a30e01098bc6dbbf45690f3a7e9e6d0f8bbea2a39e6148008fd05e44',
  },
  {
    spec: 'HMAC_256',
    algorithm: 'HMAC_SHA_256',
    mac: '5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843',
  },
  {
    spec: 'HMAC_384',
    algorithm: 'HMAC_SHA_384',
    mac:
      'af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e' +
      '8e2240ca5e69e2c78b3239ecfab21649',
  },
  {
    spec: 'HMAC_512',
    algorithm: 'HMAC_SHA_512',
    mac:
      '164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554' +
      '9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737',
  },
] as const

describe.each(cases)('$spec', ({ spec, algorithm, mac }) => {
  test('gives what RFC 4231 says', () => {
    const key = createSecretKey(Buffer.from('Jefe'))
    const given = generateMac(spec, key, algorithm, Buffer.from('what do ya want for nothing?'))
    expect(Buffer.from(given)).toEqual(hex(mac))
  })

  testOpenssl('gives what openssl gives', (openssl) => {
    for (const bytes of [HMAC_KEY_BYTES[spec], 128]) {
      const key = randomBytes(bytes)
      const message = randomBytes(4_096)
      const theirs = openssl.answer(
        ...['dgst', `-${algorithm.replace('HMAC_SHA_', 'sha')}`, '-binary', '-mac', 'HMAC'],
        ...['-macopt', `hexkey:${key.toString('hex')}`, openssl.file('message', message)],
      )
      const ours = generateMac(spec, createSecretKey(key), algorithm, message)
      expect(Buffer.from(ours)).toEqual(theirs)
    }
  })

  test('is the same only where every byte is, and none is missing', () => {
    const key = createSecretKey(randomBytes(HMAC_KEY_BYTES[spec]))
    const generated = generateMac(spec, key, algorithm, Buffer.from('message'))
    expect(isSameMac(generated, Uint8Array.from(generated))).toBe(true)
    for (const at of generated.keys()) {
      expect(isSameMac(generated, flip(generated, at, 1 << (at % 8)))).toBe(false)
      expect(isSameMac(generated, generated.subarray(0, at))).toBe(false)
    }
    expect(isSameMac(generated, Buffer.concat([generated, Buffer.of(0)]))).toBe(false)
  })

  test('takes messages of 1 to 4,096 bytes', () => {
    const key = createSecretKey(randomBytes(HMAC_KEY_BYTES[spec]))
    for (const bytes of [0, 4_097]) {
      expect(() => generateMac(spec, key, algorithm, randomBytes(bytes))).toThrow(
        /message: 1 to 4096 bytes/,
      )
    }
  })

  test('takes no algorithm of another key spec', () => {
    const key = createSecretKey(randomBytes(64))
    for (const other of (Object.keys(KEY_SPECS) as KeySpec[]).filter((name) => name !== spec)) {
      expect(() => generateMac(other, key, algorithm, Buffer.of(1))).toThrow(
        `Algorithm ${algorithm} is incompatible with key spec ${other}.`,
      )
    }
  })
})
