/** Every public vector on every implementation, and which implementations those were. */
import { createHash } from 'node:crypto'
import { describe, expect, test } from 'vitest'

import { chooseCrypto } from '../../dist/crypto/choose.js'
import type { Crypto } from '../../dist/crypto/crypto.js'
import { hex, testVectors } from '../vectors.ts'
import {
  addonBuilt,
  expectedImplementations,
  implementations,
  nodeOnly,
} from './implementations.ts'

const quiet = { memoryLock: 'warn', log: () => undefined } as const

test('what runs is the best that this processor has', () => {
  expect(implementations.map((crypto) => crypto.implementation)).toEqual(expectedImplementations())
  const best = expectedImplementations().at(-1)
  expect(chooseCrypto(nodeOnly ? 'node' : 'auto', quiet).implementation).toBe(best)
})

test.runIf(addonBuilt && !nodeOnly)(
  'one implementation can be forced, and an absent one is refused',
  () => {
    for (const name of expectedImplementations()) {
      expect(chooseCrypto(name, quiet).implementation).toBe(name)
    }
    expect(chooseCrypto('native', quiet).implementation).not.toBe('node')
  },
)

describe.each(implementations.map((crypto) => [crypto.implementation, crypto] as const))(
  '%s',
  (_name, crypto) => {
    testVectors(
      'seals as CAVP gcmEncryptExtIV256 says',
      'nist/gcmtestvectors/gcmEncryptExtIV256.rsp',
      (text) => {
        const cases = parseRsp(text).filter(isOurs)
        // vectors/README.md counts 375 of 96-bit IV and 128-bit tag.
        expect(cases.length).toBe(375)
        for (const vector of cases) {
          const sealed = crypto.insecureGcmSeal(
            hex(vector['Key'] ?? ''),
            hex(vector['IV'] ?? ''),
            hex(vector['AAD'] ?? ''),
            hex(vector['PT'] ?? ''),
          )
          expect(Buffer.from(sealed).toString('hex')).toBe(`${vector['CT']}${vector['Tag']}`)
        }
      },
    )

    testVectors(
      'opens and refuses as CAVP gcmDecrypt256 says',
      'nist/gcmtestvectors/gcmDecrypt256.rsp',
      (text) => {
        const cases = parseRsp(text).filter(isOurs)
        expect(cases.length).toBe(375)
        expect(cases.filter((vector) => 'FAIL' in vector).length).toBe(375 - 184)
        for (const vector of cases) {
          const opened = crypto.insecureGcmOpen(
            hex(vector['Key'] ?? ''),
            hex(vector['IV'] ?? ''),
            hex(vector['AAD'] ?? ''),
            hex(`${vector['CT']}${vector['Tag']}`),
          )
          const plaintext = 'FAIL' in vector ? undefined : vector['PT']
          expect(opened === undefined ? undefined : Buffer.from(opened).toString('hex')).toBe(
            plaintext,
          )
        }
      },
    )

    testVectors('agrees with Wycheproof on AES-256-GCM', 'wycheproof/aes_gcm_test.json', (text) => {
      let ran = 0
      for (const group of wycheproof(text)) {
        if (group['keySize'] !== 256 || group['ivSize'] !== 96 || group['tagSize'] !== 128) continue
        for (const vector of group.tests) {
          ran++
          const { key = '', iv = '', aad = '', msg = '', ct = '', tag = '', result } = vector
          const opened = crypto.insecureGcmOpen(hex(key), hex(iv), hex(aad), hex(ct + tag))
          expect(opened !== undefined, `tcId ${vector.tcId}`).toBe(result === 'valid')
          if (opened === undefined) continue
          expect(Buffer.from(opened).toString('hex')).toBe(msg)
          const sealed = crypto.insecureGcmSeal(hex(key), hex(iv), hex(aad), hex(msg))
          expect(Buffer.from(sealed).toString('hex')).toBe(ct + tag)
        }
      }
      expect(ran).toBeGreaterThan(50)
    })

    testVectors(
      'derives as Wycheproof says of HKDF-SHA-512',
      'wycheproof/hkdf_sha512_test.json',
      (text) => {
        let ran = 0
        for (const group of wycheproof(text)) {
          for (const { ikm = '', salt = '', info = '', size, okm = '', result } of group.tests) {
            if (result !== 'valid' || size === undefined) continue
            ran++
            const derived = crypto.insecureHkdf(hex(ikm), hex(salt), hex(info), size)
            expect(Buffer.from(derived).toString('hex')).toBe(okm)
          }
        }
        expect(ran).toBeGreaterThan(50)
      },
    )

    testVectors(
      'agrees with the vectors of XAES-256-GCM and KC-XAES-256-GCM',
      'xaes/xaes_256_gcm.json',
      (text) => {
        const { tests } = JSON.parse(text) as { tests: Record<string, string>[] }
        expect(tests.length).toBe(3)
        for (const {
          key = '',
          nonce = '',
          aad = '',
          pt = '',
          ct = '',
          tag = '',
          kc = '',
        } of tests) {
          for (const [suite, expected] of [
            [1, ct + tag],
            [2, ct + tag + kc],
          ] as const) {
            const sealed = crypto.insecureXaesSeal(suite, hex(key), hex(nonce), hex(aad), hex(pt))
            expect(Buffer.from(sealed).toString('hex')).toBe(expected)
            const opened = crypto.insecureXaesOpen(suite, hex(key), hex(nonce), hex(aad), sealed)
            expect(Buffer.from(opened ?? []).toString('hex')).toBe(pt)
          }
        }
      },
    )

    testVectors(
      'reaches the accumulated hash of 10,000 random XAES messages',
      'xaes/xaes_256_gcm.json',
      (text) => {
        const { accumulated } = JSON.parse(text) as { accumulated: { iterations_10000: string } }
        expect(accumulate(crypto, 10_000)).toBe(accumulated.iterations_10000)
      },
    )

    // FIPS 180-4, and NIST's example of two blocks.
    test('hashes as FIPS 180-4 says', () => {
      const digest = (text: string): string =>
        Buffer.from(crypto.sha256(Buffer.from(text))).toString('hex')
      expect(digest('abc')).toBe('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
      expect(digest('abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq')).toBe(
        '248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1',
      )
      for (const length of [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000]) {
        const bytes = Buffer.alloc(length, 0x61)
        const expected = createHash('sha256').update(bytes).digest('hex')
        expect(
          Buffer.from(crypto.sha256(bytes.subarray(0, 7), bytes.subarray(7))).toString('hex'),
        ).toBe(expected)
      }
    })
  },
)

interface WycheproofCase {
  readonly tcId: number
  readonly result: string
  readonly size?: number
  readonly [field: string]: string | number | undefined
  readonly key?: string
  readonly iv?: string
  readonly aad?: string
  readonly msg?: string
  readonly ct?: string
  readonly tag?: string
  readonly ikm?: string
  readonly salt?: string
  readonly info?: string
  readonly okm?: string
}

function wycheproof(
  text: string,
): readonly { readonly [field: string]: unknown; readonly tests: WycheproofCase[] }[] {
  return (JSON.parse(text) as { testGroups: { tests: WycheproofCase[] }[] }).testGroups
}

type RspCase = Readonly<Record<string, string>>

/** CAVP's format: `[Field = value]` for a group, `Field = value` lines for a case, blank lines between. */
function parseRsp(text: string): readonly RspCase[] {
  const cases: Record<string, string>[] = []
  const group: Record<string, string> = {}
  for (const block of text.split(/\r?\n\r?\n/)) {
    const fields: Record<string, string> = {}
    for (const line of block.split(/\r?\n/)) {
      const match = /^\[?(\w+)(?: = ?([^\]]*))?\]?$/.exec(line)
      if (match === null) continue
      const [, name = '', value = ''] = match
      if (line.startsWith('[')) group[name] = value
      else fields[name] = value
    }
    if ('Key' in fields) cases.push({ ...group, ...fields })
  }
  return cases
}

function isOurs(vector: RspCase): boolean {
  return vector['IVlen'] === '96' && vector['Taglen'] === '128'
}

/**
 * c2sp.org/XAES-256-GCM, Test Vectors: SHAKE-128 of nothing gives key, nonce, plaintext and AAD of each round, another
 * SHAKE-128 takes every sealed message in.
 */
function accumulate(crypto: Crypto, rounds: number): string {
  const stream = createHash('shake128', { outputLength: rounds * (32 + 24 + 2 + 2 * 255) }).digest()
  const hash = createHash('shake128', { outputLength: 32 })
  let at = 0
  const take = (count: number): Buffer => stream.subarray(at, (at += count))
  for (let i = 0; i < rounds; i++) {
    const key = take(32)
    const nonce = take(24)
    const plaintext = take(take(1)[0] ?? 0)
    const aad = take(take(1)[0] ?? 0)
    const sealed = crypto.insecureXaesSeal(1, key, nonce, aad, plaintext)
    const opened = crypto.insecureXaesOpen(1, key, nonce, aad, sealed)
    if (opened === undefined || !plaintext.equals(opened))
      throw new Error(`round ${i} does not open`)
    hash.update(sealed)
  }
  return hash.digest('hex')
}
