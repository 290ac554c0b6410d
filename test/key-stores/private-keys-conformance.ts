/**
 * What a key store owes whose key specs go beyond wrapping: private keys that work under their public key, by the
 * verdict of node:crypto, and HMAC keys. Part of conformance.ts.
 */
import {
  constants,
  createHash,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  publicEncrypt,
  randomBytes,
  verify,
  type KeyObject,
} from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { KEY_SPECS, traitsOf, type KeySpec, type KeyUsage } from '../../dist/crypto/key-spec.js'
import type { KeyMaterial, KeyStore } from '../../dist/key-stores/key-store.js'
import { makeMaterial, type OpenedKeyStore, type OpenKeyStore } from './conformance.ts'

const specs = Object.keys(KEY_SPECS) as KeySpec[]
const refusedUsage = { code: 'KMS_KEY_USAGE_INVALID' }
const refusedUnsupported = { code: 'OPERATION_UNSUPPORTED' }
const refusedRequest = { code: 'REQUEST_MALFORMED' }
const message = Buffer.from('a message')
const CURVES: Readonly<Record<string, string>> = {
  ECC_NIST_P256: 'prime256v1',
  ECC_NIST_P384: 'secp384r1',
  ECC_NIST_P521: 'secp521r1',
}

export function privateKeysConformance(open: OpenKeyStore): void {
  describe('private keys and HMAC keys', () => {
    let opened: OpenedKeyStore
    let store: KeyStore
    /** Of every declared spec but SYMMETRIC_DEFAULT, and each of its usages; RSA keys take seconds. */
    const materials = new Map<string, KeyMaterial>()
    beforeAll(async () => {
      opened = await open()
      store = opened.store
      for (const spec of store.traits.keySpecs) {
        if (spec === 'SYMMETRIC_DEFAULT') continue
        let material: KeyMaterial | undefined
        for (const usage of traitsOf(spec).usages) {
          if (material === undefined || opened.usagesApart === true) {
            material = await makeMaterial(opened, spec, undefined, 1, usage)
          }
          materials.set(`${spec} ${usage}`, material)
        }
      }
    })
    afterAll(() => opened.close())

    const lacks = (algorithm: string): boolean =>
      opened.algorithmsUnsupported?.includes(algorithm) ?? false

    /** Material of the spec, or undefined after it was seen that the store refuses to use any. */
    async function declared(spec: KeySpec, usage: KeyUsage): Promise<KeyMaterial | undefined> {
      const material = materials.get(`${spec} ${usage}`)
      if (material !== undefined) return material
      const symmetric = await makeMaterial(opened, 'SYMMETRIC_DEFAULT')
      const claimed = { ...symmetric, keySpec: spec }
      for (const use of uses(claimed)) {
        await expect(use).rejects.toMatchObject({
          code: expect.stringMatching(/^(OPERATION_UNSUPPORTED|KMS_KEY_USAGE_INVALID)$/) as string,
        })
      }
      return undefined
    }

    /** One call for each algorithm of the spec. */
    function uses(material: KeyMaterial): Promise<Uint8Array>[] {
      const traits = traitsOf(material.keySpec)
      return [
        ...traits.signingAlgorithms.map((algorithm) =>
          store.sign(material, { algorithm, messageType: 'RAW', message }),
        ),
        ...traits.encryptionAlgorithms.map((algorithm) =>
          store.decryptWithPrivateKey(material, algorithm, randomBytes(256)),
        ),
        ...traits.macAlgorithms.map((algorithm) => store.generateMac(material, algorithm, message)),
        ...traits.keyAgreementAlgorithms.map((algorithm) =>
          store.deriveSharedSecret(material, algorithm, randomBytes(91)),
        ),
      ]
    }

    const others = specs.filter((spec) => spec !== 'SYMMETRIC_DEFAULT')

    test.each(others)('%s wraps nothing', async (spec) => {
      const [usage] = traitsOf(spec).usages
      const material = materials.get(`${spec} ${usage}`) ?? {
        ...(await makeMaterial(opened, 'SYMMETRIC_DEFAULT')),
        keySpec: spec,
      }
      const key = opened.crypto.generateKey()
      for (const misused of [
        store.wrapKey(material, message, key),
        store.wrapBytes(material, message, message),
        store.unwrapKey(material, message, randomBytes(72)),
        store.unwrapBytes(material, message, randomBytes(72)),
      ]) {
        await expect(misused).rejects.toMatchObject(refusedUsage)
      }
      opened.crypto.releaseKey(key)
    })

    test.each(others.filter((spec) => traitsOf(spec).signingAlgorithms.length > 0))(
      '%s signs messages and digests, and node:crypto verifies both',
      async (spec) => {
        const material = await declared(spec, 'SIGN_VERIFY')
        if (material === undefined) return
        const publicKey = publicKeyOf(material)
        for (const algorithm of traitsOf(spec).signingAlgorithms) {
          const hash = hashOf(algorithm)
          const raw = { algorithm, messageType: 'RAW', message } as const
          if (lacks(algorithm)) {
            await expect(store.sign(material, raw)).rejects.toMatchObject(refusedUnsupported)
            continue
          }
          const signatures = [await store.sign(material, raw)]
          if (hash !== undefined) {
            const digest = createHash(hash).update(message).digest()
            const hashed = { algorithm, messageType: 'DIGEST', message: digest } as const
            signatures.push(await store.sign(material, hashed))
          }
          for (const signature of signatures) {
            expect(verifies(publicKey, algorithm, message, signature), algorithm).toBe(true)
            const another = Buffer.from('another message')
            expect(verifies(publicKey, algorithm, another, signature), algorithm).toBe(false)
          }
        }
      },
    )

    test.each(others.filter((spec) => traitsOf(spec).signingAlgorithms.length > 0))(
      '%s refuses lengths that the algorithm does not take, and algorithms of others',
      async (spec) => {
        const material = await declared(spec, 'SIGN_VERIFY')
        if (material === undefined) return
        const [algorithm] = traitsOf(spec).signingAlgorithms
        if (algorithm === undefined) throw new Error(`${spec} signs`)
        for (const length of [0, 4_097]) {
          const signable = { algorithm, messageType: 'RAW', message: randomBytes(length) } as const
          await expect(store.sign(material, signable)).rejects.toMatchObject(refusedRequest)
        }
        for (const length of [0, 20, 31, 33, 65]) {
          const signable = {
            algorithm,
            messageType: 'DIGEST',
            message: randomBytes(length),
          } as const
          await expect(store.sign(material, signable)).rejects.toMatchObject(refusedRequest)
        }
        const foreign = spec.startsWith('RSA') ? 'ECDSA_SHA_256' : 'RSASSA_PSS_SHA_256'
        const signable = { algorithm: foreign, messageType: 'RAW', message } as const
        await expect(store.sign(material, signable)).rejects.toMatchObject(refusedUsage)
      },
    )

    test.each(others.filter((spec) => traitsOf(spec).encryptionAlgorithms.length > 0))(
      '%s decrypts what node:crypto encrypted, and nothing that was changed',
      async (spec) => {
        const material = await declared(spec, 'ENCRYPT_DECRYPT')
        if (material === undefined) return
        for (const algorithm of ['RSAES_OAEP_SHA_1', 'RSAES_OAEP_SHA_256'] as const) {
          const oaepHash = algorithm === 'RSAES_OAEP_SHA_1' ? 'sha1' : 'sha256'
          const padding = constants.RSA_PKCS1_OAEP_PADDING
          const key = publicKeyOf(material)
          const ciphertext = publicEncrypt({ key, padding, oaepHash }, message)
          const decrypt = (bytes: Uint8Array) =>
            store.decryptWithPrivateKey(material, algorithm, bytes)
          if (lacks(algorithm)) {
            await expect(decrypt(ciphertext)).rejects.toMatchObject(refusedUnsupported)
            continue
          }
          expect(Buffer.from(await decrypt(ciphertext))).toEqual(message)
          const flipped = Uint8Array.from(ciphertext)
          flipped[ciphertext.length - 1] = (flipped[ciphertext.length - 1] ?? 0) ^ 1
          for (const wrong of [
            flipped,
            Buffer.alloc(0),
            ciphertext.subarray(1),
            Buffer.concat([Buffer.alloc(1), ciphertext]),
            Buffer.alloc(ciphertext.length),
            Buffer.alloc(ciphertext.length, 0xff),
          ]) {
            await expect(decrypt(wrong)).rejects.toMatchObject({ code: 'DECRYPT_FAILED' })
          }
          expect(Buffer.from(await decrypt(ciphertext))).toEqual(message)
        }
      },
    )

    test.each(others.filter((spec) => traitsOf(spec).keyAgreementAlgorithms.length > 0))(
      '%s agrees with a key of node:crypto, and with no point off its curve',
      async (spec) => {
        const material = await declared(spec, 'KEY_AGREEMENT')
        if (material === undefined) return
        const { privateKey, publicKey } = generateKeyPairSync('ec', {
          namedCurve: CURVES[spec] ?? '',
        })
        const peer = publicKey.export({ type: 'spki', format: 'der' })
        const derive = (bytes: Uint8Array) => store.deriveSharedSecret(material, 'ECDH', bytes)
        if (lacks('ECDH')) {
          await expect(derive(peer)).rejects.toMatchObject(refusedUnsupported)
          return
        }
        const expected = diffieHellman({ privateKey, publicKey: publicKeyOf(material) })
        expect(Buffer.from(await derive(peer))).toEqual(expected)
        const offCurve = Uint8Array.from(peer)
        offCurve[peer.length - 1] = (offCurve[peer.length - 1] ?? 0) ^ 1
        const otherCurve = spec === 'ECC_NIST_P256' ? 'secp384r1' : 'prime256v1'
        const foreign = generateKeyPairSync('ec', { namedCurve: otherCurve })
        for (const wrong of [
          offCurve,
          peer.subarray(0, -1),
          Buffer.alloc(0),
          foreign.publicKey.export({ type: 'spki', format: 'der' }),
        ]) {
          await expect(derive(wrong)).rejects.toMatchObject(refusedRequest)
        }
      },
    )

    test.each(others.filter((spec) => spec.startsWith('HMAC_')))(
      '%s gives one MAC for a key and a message, and another for any other',
      async (spec) => {
        const material = await declared(spec, 'GENERATE_VERIFY_MAC')
        if (material === undefined) return
        const [algorithm] = traitsOf(spec).macAlgorithms
        if (algorithm === undefined) throw new Error(`${spec} authenticates`)
        const mac = await store.generateMac(material, algorithm, message)
        expect(mac).toHaveLength(Number(spec.slice(-3)) / 8)
        expect(await store.generateMac(material, algorithm, message)).toEqual(mac)
        expect(await store.generateMac(material, algorithm, randomBytes(9))).not.toEqual(mac)
        const other = await makeMaterial(opened, spec)
        expect(await store.generateMac(other, algorithm, message)).not.toEqual(mac)
        // The whole of a message counts, to its longest.
        const longest = randomBytes(4_096)
        const first = await store.generateMac(material, algorithm, longest)
        longest[4_095] = (longest[4_095] ?? 0) ^ 1
        expect(await store.generateMac(material, algorithm, longest)).not.toEqual(first)
        for (const length of [0, 4_097]) {
          const refused = store.generateMac(material, algorithm, randomBytes(length))
          await expect(refused).rejects.toMatchObject(refusedRequest)
        }
        const foreign = spec === 'HMAC_256' ? 'HMAC_SHA_512' : 'HMAC_SHA_256'
        const refused = store.generateMac(material, foreign, message)
        await expect(refused).rejects.toMatchObject(refusedUsage)
      },
    )
  })
}

function publicKeyOf({ publicKey }: KeyMaterial): KeyObject {
  return createPublicKey({ key: Buffer.from(publicKey ?? []), type: 'spki', format: 'der' })
}

function hashOf(algorithm: string): string | undefined {
  return algorithm.startsWith('ED25519') ? undefined : `sha${algorithm.slice(-3)}`
}

function verifies(
  key: KeyObject,
  algorithm: string,
  bytes: Uint8Array,
  signature: Uint8Array,
): boolean {
  if (algorithm.startsWith('ECDSA')) {
    return verify(hashOf(algorithm), bytes, { key, dsaEncoding: 'der' }, signature)
  }
  if (!algorithm.startsWith('RSASSA_PSS')) return verify(hashOf(algorithm), bytes, key, signature)
  const padding = constants.RSA_PKCS1_PSS_PADDING
  const saltLength = constants.RSA_PSS_SALTLEN_DIGEST
  return verify(hashOf(algorithm), bytes, { key, padding, saltLength }, signature)
}
