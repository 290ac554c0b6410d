/** Grant tokens: one spelling each, and nothing else passes for one. */
import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import { KeyfoldError } from '../../dist/errors.js'
import { decodeGrantToken, encodeGrantToken } from '../../dist/format/grant-token.js'

const bytes = (length: number): fc.Arbitrary<Uint8Array> =>
  fc.uint8Array({ minLength: length, maxLength: length })

function codeOf(token: string): string {
  try {
    decodeGrantToken(token)
    return 'decoded'
  } catch (error) {
    if (error instanceof KeyfoldError) return error.code
    throw error
  }
}

describe('a grant token', () => {
  test('is a version, the 32 bytes of the grant id and 15 others, as base64', () => {
    const grantId = 'ab'.repeat(32)
    const token = encodeGrantToken({ grantId, nonce: new Uint8Array(15).fill(7) })
    const expected = `01${grantId}${'07'.repeat(15)}`
    expect(token).toBe(Buffer.from(expected, 'hex').toString('base64'))
    expect(token).toHaveLength(64)
  })

  test('decodes to what it was made of', () => {
    fc.assert(
      fc.property(bytes(32), bytes(15), (id, nonce) => {
        const grantId = Buffer.from(id).toString('hex')
        const decoded = decodeGrantToken(encodeGrantToken({ grantId, nonce }))
        expect(decoded.grantId).toBe(grantId)
        expect(Buffer.from(decoded.nonce)).toEqual(Buffer.from(nonce))
      }),
    )
  })

  test('has one spelling: whatever decodes encodes to itself, and nothing longer or shorter decodes', () => {
    const token = encodeGrantToken({ grantId: 'cd'.repeat(32), nonce: randomBytes(15) })
    for (let length = 0; length < token.length; length++) {
      expect(codeOf(token.slice(0, length))).toBe('GRANT_TOKEN_INVALID')
    }
    for (const other of [`${token}=`, `${token}AAAA`, ` ${token}`, `${token}\n`]) {
      expect(codeOf(other)).toBe('GRANT_TOKEN_INVALID')
    }
    for (let i = 0; i < token.length; i++) {
      for (const character of 'A/+_-= \u00e9') {
        const changed = token.slice(0, i) + character + token.slice(i + 1)
        if (codeOf(changed) === 'decoded') {
          expect(encodeGrantToken(decodeGrantToken(changed))).toBe(changed)
        } else {
          expect(codeOf(changed)).toBe('GRANT_TOKEN_INVALID')
        }
      }
    }
  })

  test('of another version is refused', () => {
    for (let version = 0; version < 256; version++) {
      const token = Buffer.concat([Buffer.from([version]), randomBytes(47)]).toString('base64')
      expect(codeOf(token)).toBe(version === 1 ? 'decoded' : 'GRANT_TOKEN_INVALID')
    }
  })
})
