/** RSAES-OAEP: openssl reads what we encrypt and we read what it encrypts; bounds; one error for all that fails. */
import { randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'

import { KEY_SPECS, type RsaKeySpec } from '../../dist/crypto/key-spec.js'
import { decryptOaep, encryptOaep } from '../../dist/crypto/rsa-oaep.js'
import { flip, makePair, pairOf } from './key-pairs.ts'
import { testOpenssl } from './openssl.ts'

/** The largest plaintexts (AWS KMS Developer Guide, "RSA key specs for encryption and decryption"). */
const cases = [
  { spec: 'RSA_2048', algorithm: 'RSAES_OAEP_SHA_1', hash: 'sha1', bytesMax: 214 },
  { spec: 'RSA_2048', algorithm: 'RSAES_OAEP_SHA_256', hash: 'sha256', bytesMax: 190 },
  { spec: 'RSA_3072', algorithm: 'RSAES_OAEP_SHA_1', hash: 'sha1', bytesMax: 342 },
  { spec: 'RSA_3072', algorithm: 'RSAES_OAEP_SHA_256', hash: 'sha256', bytesMax: 318 },
  { spec: 'RSA_4096', algorithm: 'RSAES_OAEP_SHA_1', hash: 'sha1', bytesMax: 470 },
  { spec: 'RSA_4096', algorithm: 'RSAES_OAEP_SHA_256', hash: 'sha256', bytesMax: 446 },
] as const

const refusal = async (work: () => unknown): Promise<unknown> => {
  try {
    await work()
  } catch (error) {
    return error
  }
  return undefined
}

describe.each(cases)('$spec $algorithm', ({ spec, algorithm, hash, bytesMax }) => {
  const padding = [
    ...['-pkeyopt', 'rsa_padding_mode:oaep', '-pkeyopt', `rsa_oaep_md:${hash}`],
    ...['-pkeyopt', `rsa_mgf1_md:${hash}`],
  ]

  testOpenssl('is read by openssl and reads openssl', async (openssl) => {
    const { privateKey, privateDer, publicKey } = await pairOf(spec)
    for (const bytes of [1, 32, bytesMax]) {
      const plaintext = randomBytes(bytes)
      const ours = encryptOaep(spec, publicKey, algorithm, plaintext)
      const read = openssl.answer(
        ...['pkeyutl', '-decrypt', '-keyform', 'DER', ...padding],
        ...['-inkey', openssl.file('private.der', privateDer)],
        ...['-in', openssl.file('ours', ours)],
      )
      expect(read).toEqual(plaintext)
      const theirs = openssl.answer(
        ...['pkeyutl', '-encrypt', '-pubin', '-keyform', 'DER', ...padding],
        ...['-inkey', openssl.file('public.der', publicKey)],
        ...['-in', openssl.file('plaintext', plaintext)],
      )
      expect(Buffer.from(await decryptOaep(spec, privateKey, algorithm, theirs))).toEqual(plaintext)
    }
  })

  test('takes 1 byte to what fits, and names the limit', async () => {
    const { publicKey } = await pairOf(spec)
    for (const bytes of [0, bytesMax + 1, 4_096]) {
      expect(
        await refusal(() => encryptOaep(spec, publicKey, algorithm, randomBytes(bytes))),
      ).toMatchObject({
        code: 'REQUEST_MALFORMED',
        message: expect.stringContaining(`plaintext: 1 to ${bytesMax} bytes`),
      })
    }
  })

  test('says one and the same of whatever does not decrypt', async () => {
    const { privateKey, publicKey } = await pairOf(spec)
    const ciphertext = encryptOaep(spec, publicKey, algorithm, randomBytes(32))
    const wrong = [...ciphertext.keys()]
      .filter((at) => at % 8 === 0)
      .map((at) => flip(ciphertext, at, 1 << (at % 7)))
    wrong.push(ciphertext.subarray(1), ciphertext.subarray(0, -1), new Uint8Array(0))
    wrong.push(Buffer.concat([Buffer.of(0), ciphertext]), new Uint8Array(ciphertext.length))
    wrong.push(new Uint8Array(ciphertext.length).fill(0xff), randomBytes(ciphertext.length))
    const other = algorithm === 'RSAES_OAEP_SHA_1' ? 'RSAES_OAEP_SHA_256' : 'RSAES_OAEP_SHA_1'
    const refusals = await Promise.all([
      ...wrong.map((given) => refusal(() => decryptOaep(spec, privateKey, algorithm, given))),
      refusal(() => decryptOaep(spec, privateKey, other, ciphertext)),
    ])
    for (const error of refusals) {
      expect(error).toMatchObject({ code: 'DECRYPT_FAILED' })
      expect((error as Error).cause).toBeUndefined()
      expect((error as Error).message).toBe('the message could not be decrypted')
    }
  })
})

test('a ciphertext under another key is one that does not decrypt', async () => {
  const { publicKey } = await pairOf('RSA_2048')
  const { privateKey } = await makePair('RSA_2048')
  const ciphertext = encryptOaep('RSA_2048', publicKey, 'RSAES_OAEP_SHA_256', randomBytes(8))
  expect(
    await refusal(() => decryptOaep('RSA_2048', privateKey, 'RSAES_OAEP_SHA_256', ciphertext)),
  ).toMatchObject({ code: 'DECRYPT_FAILED' })
})

test('is for RSA keys and asymmetric algorithms only', async () => {
  const { privateKey, publicKey } = await pairOf('RSA_2048')
  const notRsa = Object.keys(KEY_SPECS).filter((spec) => !spec.startsWith('RSA'))
  expect(notRsa).toHaveLength(10)
  const wrong = [
    ...notRsa.map((spec) => [spec as RsaKeySpec, 'RSAES_OAEP_SHA_256'] as const),
    ['RSA_2048', 'SYMMETRIC_DEFAULT'] as const,
  ]
  for (const [spec, algorithm] of wrong) {
    for (const work of [
      () => encryptOaep(spec, publicKey, algorithm, randomBytes(8)),
      () => decryptOaep(spec, privateKey, algorithm, randomBytes(256)),
    ]) {
      expect(await refusal(work)).toMatchObject({ code: 'KMS_KEY_USAGE_INVALID' })
    }
  }
})
