/** Key material on its way in: what openssl wraps as AWS KMS's guide says arrives, and nothing that was changed does. */
import { randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'

import { unwrapKeyMaterial, type WrappingAlgorithm } from '../../dist/crypto/import-wrapping.js'
import type { RsaKeySpec } from '../../dist/crypto/key-spec.js'
import { decryptOaep, encryptOaep } from '../../dist/crypto/rsa-oaep.js'
import { KeyfoldError } from '../../dist/errors.js'
import { hex } from '../vectors.ts'
import { flip, makePair, pairOf, type TestPair } from './key-pairs.ts'
import { testOpenssl, type Openssl } from './openssl.ts'

const specs = ['RSA_2048', 'RSA_3072', 'RSA_4096'] as const
const hashes = [
  { suffix: 'SHA_1', hash: 'sha1' },
  { suffix: 'SHA_256', hash: 'sha256' },
] as const
const cases = specs.flatMap((spec) => hashes.map((entry) => ({ spec, ...entry })))

function unwrap(
  pair: TestPair,
  algorithm: WrappingAlgorithm,
  wrapped: Uint8Array,
): Promise<Uint8Array> {
  const spec = pair.spec as RsaKeySpec
  return unwrapKeyMaterial(algorithm, spec, wrapped, (oaep, ciphertext) =>
    decryptOaep(spec, pair.privateKey, oaep, ciphertext),
  )
}

function wrapOaep(openssl: Openssl, pair: TestPair, hash: string, plaintext: Uint8Array): Buffer {
  return openssl.answer(
    ...['pkeyutl', '-encrypt', '-pubin', '-keyform', 'DER'],
    ...['-inkey', openssl.file('wrapping.der', pair.publicKey)],
    ...['-in', openssl.file('plaintext', plaintext)],
    ...['-pkeyopt', 'rsa_padding_mode:oaep', '-pkeyopt', `rsa_oaep_md:${hash}`],
    ...['-pkeyopt', `rsa_mgf1_md:${hash}`],
  )
}

/** RFC 5649 by openssl. */
function wrapAes(openssl: Openssl, aesKey: Uint8Array, plaintext: Uint8Array): Buffer {
  return openssl.written(
    ...['enc', '-id-aes256-wrap-pad', '-K', Buffer.from(aesKey).toString('hex')],
    ...['-iv', 'a65959a6', '-in', openssl.file('plaintext', plaintext), '-out', 'wrapped'],
  )
}

describe.each(cases)('under $spec with $suffix', ({ spec, suffix, hash }) => {
  testOpenssl('material that openssl encrypted arrives', async (openssl) => {
    const pair = await pairOf(spec)
    const { privateDer } = await makePair('ECC_NIST_P256')
    for (const material of [randomBytes(32), randomBytes(128), Buffer.from(privateDer)]) {
      const wrapped = wrapOaep(openssl, pair, hash, material)
      const unwrapped = await unwrap(pair, `RSAES_OAEP_${suffix}`, wrapped)
      expect(Buffer.from(unwrapped)).toEqual(material)
    }
  })

  testOpenssl('material that openssl wrapped under an AES key arrives', async (openssl) => {
    const pair = await pairOf(spec)
    const { privateDer } = await pairOf('RSA_4096')
    const aesKey = randomBytes(32)
    const encryptedKey = wrapOaep(openssl, pair, hash, aesKey)
    for (const material of [randomBytes(1), randomBytes(28), Buffer.from(privateDer)]) {
      const wrapped = Buffer.concat([encryptedKey, wrapAes(openssl, aesKey, material)])
      const unwrapped = await unwrap(pair, `RSA_AES_KEY_WRAP_${suffix}`, wrapped)
      expect(Buffer.from(unwrapped)).toEqual(material)
    }
  })
})

testOpenssl(
  'whatever is changed, cut, or of another algorithm fails with one error',
  async (openssl) => {
    const pair = await pairOf('RSA_2048')
    const aesKey = randomBytes(32)
    const material = randomBytes(32)
    const encryptedKey = wrapOaep(openssl, pair, 'sha256', aesKey)
    const keyWrapped = Buffer.concat([encryptedKey, wrapAes(openssl, aesKey, material)])
    const direct = wrapOaep(openssl, pair, 'sha256', material)
    const wrong: [WrappingAlgorithm, Uint8Array][] = [
      ['RSA_AES_KEY_WRAP_SHA_1', keyWrapped],
      ['RSAES_OAEP_SHA_256', keyWrapped],
      ['RSA_AES_KEY_WRAP_SHA_256', direct],
      ['RSAES_OAEP_SHA_1', direct],
      ['RSA_AES_KEY_WRAP_SHA_256', new Uint8Array(0)],
    ]
    for (const at of [...keyWrapped.keys()].filter((index) => index % 8 === 0 || index >= 256)) {
      wrong.push(['RSA_AES_KEY_WRAP_SHA_256', flip(keyWrapped, at, 1 << (at % 8))])
      wrong.push(['RSA_AES_KEY_WRAP_SHA_256', keyWrapped.subarray(0, at)])
      wrong.push(['RSAES_OAEP_SHA_256', flip(direct, at % 256, 1 << (at % 7))])
    }
    for (const bytes of [1, 8, 16]) {
      const longer = Buffer.concat([keyWrapped, new Uint8Array(bytes)])
      wrong.push(['RSA_AES_KEY_WRAP_SHA_256', longer])
    }
    // Keys of other lengths, and a wrap that is right under such a key.
    for (const bytes of [16, 24, 31, 33]) {
      const short = wrapOaep(openssl, pair, 'sha256', aesKey.subarray(0, bytes))
      const wrapped = bytes === 33 ? Buffer.concat([aesKey, Buffer.of(0)]) : undefined
      const head = wrapped === undefined ? short : wrapOaep(openssl, pair, 'sha256', wrapped)
      const tail = keyWrapped.subarray(256)
      wrong.push(['RSA_AES_KEY_WRAP_SHA_256', Buffer.concat([head, tail])])
    }
    for (const [algorithm, wrapped] of wrong) {
      const error: unknown = await unwrap(pair, algorithm, wrapped).catch((e: unknown) => e)
      expect(error).toMatchObject({ code: 'DECRYPT_FAILED' })
      expect((error as Error).cause).toBeUndefined()
      expect((error as Error).message).toBe('the message could not be decrypted')
    }
  },
)

test('an AES key that went under another wrapping key opens nothing', async () => {
  const [pair, other] = [await pairOf('RSA_2048'), await makePair('RSA_2048')]
  const ciphertext = encryptOaep('RSA_2048', other.publicKey, 'RSAES_OAEP_SHA_256', randomBytes(32))
  const wrapped = Buffer.concat([ciphertext, randomBytes(40)])
  await expect(unwrap(pair, 'RSA_AES_KEY_WRAP_SHA_256', wrapped)).rejects.toMatchObject({
    code: 'DECRYPT_FAILED',
  })
})

test('what keeps the wrapping key from being used is not taken for a wrong ciphertext', async () => {
  for (const algorithm of ['RSAES_OAEP_SHA_256', 'RSA_AES_KEY_WRAP_SHA_256'] as const) {
    const locked = unwrapKeyMaterial(algorithm, 'RSA_2048', randomBytes(296), () => {
      throw new KeyfoldError('LOCKED')
    })
    await expect(locked).rejects.toMatchObject({ code: 'LOCKED' })
  }
})

test('the AES key is filled with zeros whatever comes of it', async () => {
  const aesKey = randomBytes(32)
  const unwrapped = unwrapKeyMaterial(
    'RSA_AES_KEY_WRAP_SHA_256',
    'RSA_2048',
    hex('00'.repeat(280)),
    () => aesKey,
  )
  await expect(unwrapped).rejects.toMatchObject({ code: 'DECRYPT_FAILED' })
  expect(aesKey).toEqual(Buffer.alloc(32))
})
