/** Private and HMAC keys in the local key store: they work, stay sealed, and serve no key, version or spec but their own. */
import { createPublicKey, generateKeyPairSync, randomBytes } from 'node:crypto'
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'

import type { Crypto } from '../../dist/crypto/crypto.js'
import { KEY_SPECS, traitsOf, type KeySpec } from '../../dist/crypto/key-spec.js'
import { createNodeCrypto } from '../../dist/crypto/node-crypto.js'
import { encryptOaep } from '../../dist/crypto/rsa-oaep.js'
import { verify } from '../../dist/crypto/signature.js'
import type { KeyMaterial } from '../../dist/key-stores/key-store.js'
import { LocalKeyStore } from '../../dist/key-stores/local.js'
import { implementations } from '../crypto/implementations.ts'
import { flip, pairOf } from '../crypto/key-pairs.ts'
import { testOpenssl } from '../crypto/openssl.ts'

const specs = Object.keys(KEY_SPECS) as KeySpec[]
const keyPairSpecs = specs.filter((spec) => /^(RSA|ECC)_/.test(spec))
const hmacSpecs = specs.filter((spec) => spec.startsWith('HMAC_'))
/** From limits.ts: so many stay open, and for so long. */
const OPEN_MAX = 512
const AGE_MS_MAX = 300_000
const message = Buffer.from('a message')
const refusedUsage = { code: 'KMS_KEY_USAGE_INVALID' }
const refusedCatalog = { code: 'ROOT_KEY_INVALID' }
const refusedMaterial = { code: 'KEY_MATERIAL_INCORRECT' }

const rootKey = randomBytes(32)
const storeOn = (crypto: Crypto): LocalKeyStore => {
  const root = crypto.importKey(Uint8Array.from(rootKey))
  try {
    return new LocalKeyStore(crypto, { current: { version: 1, key: root } })
  } finally {
    crypto.releaseKey(root)
  }
}

async function make(
  store: LocalKeyStore,
  keySpec: KeySpec,
  kmsKeyId: Uint8Array = randomBytes(16),
  version = 1,
): Promise<KeyMaterial> {
  const created = await store.createKeyMaterial(kmsKeyId, version, keySpec)
  return { kmsKeyId, version, keySpec, ...created }
}

/** Material of every key spec, sealed once, by node:crypto: RSA keys take seconds. Every implementation opens it. */
const sealed = new Map<KeySpec, KeyMaterial>()
beforeAll(async () => {
  const store = storeOn(createNodeCrypto())
  for (const spec of specs) sealed.set(spec, await make(store, spec))
  await store.close()
})

/** What the key spec is first for, with this material. */
async function use(store: LocalKeyStore, material: KeyMaterial): Promise<Uint8Array> {
  const { signingAlgorithms, macAlgorithms } = traitsOf(material.keySpec)
  const [signing] = signingAlgorithms
  if (signing !== undefined) {
    return store.sign(material, { algorithm: signing, messageType: 'RAW', message })
  }
  const [mac] = macAlgorithms
  if (mac !== undefined) return store.generateMac(material, mac, message)
  return store.wrapBytes(material, message, message)
}

describe.each(implementations)('on $implementation', (crypto) => {
  let store: LocalKeyStore
  beforeEach(() => {
    store = storeOn(crypto)
    return () => store.close()
  })

  test.each(keyPairSpecs)('%s signs under its public key, after a restart too', async (spec) => {
    const material = sealed.get(spec) as KeyMaterial
    const publicKey = material.publicKey as Uint8Array
    const restarted = storeOn(crypto)
    for (const algorithm of traitsOf(spec).signingAlgorithms) {
      const signable = { algorithm, messageType: 'RAW', message } as const
      for (const signer of [store, restarted]) {
        const signature = await signer.sign(material, signable)
        expect(await verify(material.keySpec as 'RSA_2048', publicKey, signable, signature)).toBe(
          true,
        )
      }
    }
    for (const algorithm of traitsOf(spec).encryptionAlgorithms) {
      const ciphertext = encryptOaep(spec, publicKey, algorithm, message)
      const opened = await restarted.decryptWithPrivateKey(material, algorithm, ciphertext)
      expect(Buffer.from(opened)).toEqual(message)
    }
    if (traitsOf(spec).keyAgreementAlgorithms.length > 0) {
      const peer = await make(store, spec)
      const secret = await store.deriveSharedSecret(material, 'ECDH', peer.publicKey as Uint8Array)
      expect(await restarted.deriveSharedSecret(peer, 'ECDH', publicKey)).toEqual(secret)
    }
    await restarted.close()
  })

  test.each(hmacSpecs)('%s gives one MAC for a key and another for the next', async (spec) => {
    const [material, other] = [await make(store, spec), await make(store, spec)]
    expect(material.publicKey).toBeUndefined()
    // Header, nonce, as many bytes as the hash gives, tag.
    expect(material.stored).toHaveLength(6 + 24 + Number(spec.slice(5)) / 8 + 16)
    const restarted = storeOn(crypto)
    const mac = await use(store, material)
    expect(await use(restarted, material)).toEqual(mac)
    expect(await use(store, other)).not.toEqual(mac)
    await restarted.close()
  })

  test('no material serves another key, version or key spec, sealed or open', async () => {
    const materials = [...sealed.values()]
    for (const material of materials) await use(store, material)
    const changed = materials.flatMap((material): KeyMaterial[] => [
      { ...material, stored: flip(material.stored, material.stored.length - 1) },
      { ...material, stored: material.stored.subarray(0, -1) },
    ])
    const moved = materials.flatMap((material): KeyMaterial[] => [
      { ...material, version: 2 },
      { ...material, kmsKeyId: randomBytes(16) },
      // HMAC_256 and SYMMETRIC_DEFAULT have as many bytes.
      ...materials
        .filter(({ keySpec }) => keySpec !== material.keySpec)
        .map(({ keySpec, publicKey }) => ({ ...material, keySpec, publicKey })),
    ])
    const before = crypto.keyTableUsage().slotsUsed
    // An AES key that is open is found by id and version: the record of a KMS key has one spec for life, and a
    // change of the catalog under a running service is seen when the key is opened again.
    const openIsFound = (wrong: KeyMaterial): boolean => wrong.keySpec === 'SYMMETRIC_DEFAULT'
    for (const wrong of moved.filter((material) => !openIsFound(material))) {
      await expect(use(store, wrong)).rejects.toMatchObject(refusedCatalog)
    }
    for (const wrong of [...moved, ...changed]) {
      store.forget(wrong.kmsKeyId)
      await expect(use(store, wrong)).rejects.toMatchObject(refusedCatalog)
    }
    for (const material of materials) await use(store, material)
    expect(crypto.keyTableUsage().slotsUsed).toBe(before)
  })

  test('a public key that was exchanged in the catalog is noticed at the first use', async () => {
    for (const spec of ['RSA_2048', 'ECC_NIST_P256', 'ECC_NIST_EDWARDS25519'] as const) {
      const [material, other] = [await make(store, spec), await make(store, spec)]
      for (const publicKey of [other.publicKey, undefined]) {
        const exchanged = { ...material, publicKey }
        await expect(use(store, exchanged)).rejects.toMatchObject(refusedCatalog)
      }
    }
  })

  test('does with a key only what its spec is for', async () => {
    for (const [spec, material] of sealed) {
      const traits = traitsOf(spec)
      const raw = { messageType: 'RAW', message } as const
      const key = crypto.generateKey()
      const calls: [boolean, () => Promise<unknown>][] = [
        [spec === 'SYMMETRIC_DEFAULT', () => store.wrapBytes(material, message, message)],
        [spec === 'SYMMETRIC_DEFAULT', () => store.wrapKey(material, message, key)],
        [
          traits.signingAlgorithms.includes('ECDSA_SHA_256'),
          () => store.sign(material, { algorithm: 'ECDSA_SHA_256', ...raw }),
        ],
        [
          traits.macAlgorithms.includes('HMAC_SHA_256'),
          () => store.generateMac(material, 'HMAC_SHA_256', message),
        ],
        [false, () => store.decryptWithPrivateKey(material, 'SYMMETRIC_DEFAULT', randomBytes(256))],
      ]
      for (const [allowed, call] of calls) {
        if (allowed) await call()
        else await expect(call()).rejects.toMatchObject(refusedUsage)
      }
      const unwrapped = store.unwrapBytes(material, message, randomBytes(72))
      await expect(unwrapped).rejects.toMatchObject(
        spec === 'SYMMETRIC_DEFAULT' ? { code: 'DECRYPT_FAILED' } : refusedUsage,
      )
      crypto.releaseKey(key)
    }
  })

  test('an imported AES key is the one that wraps, and its bytes are zeros afterwards', async () => {
    const key = randomBytes(32)
    const given = Uint8Array.from(key)
    const kmsKeyId = randomBytes(16)
    const imported = await store.importKeyMaterial(kmsKeyId, 1, 'SYMMETRIC_DEFAULT', given)
    expect(given).toEqual(new Uint8Array(32))
    expect(imported.publicKey).toBeUndefined()
    const material = { kmsKeyId, version: 1, keySpec: 'SYMMETRIC_DEFAULT', ...imported } as const
    const wrapped = await store.wrapBytes(material, Buffer.from('aad'), message)
    const nonce = wrapped.subarray(0, 24)
    const opened = crypto.insecureXaesOpen(1, key, nonce, Buffer.from('aad'), wrapped.subarray(24))
    expect(Buffer.from(opened ?? [])).toEqual(message)
  })

  test('does nothing with a key once it is locked, and takes none', async () => {
    const materials = [...sealed.values()]
    for (const material of materials) await use(store, material)
    store.lock()
    const locked = { code: 'LOCKED' }
    for (const material of materials) {
      await expect(use(store, material)).rejects.toMatchObject(locked)
      const { kmsKeyId, keySpec } = material
      const created = store.createKeyMaterial(kmsKeyId, 2, keySpec)
      await expect(created).rejects.toMatchObject(locked)
    }
    const given = randomBytes(32)
    const imported = store.importKeyMaterial(randomBytes(16), 1, 'HMAC_256', given)
    await expect(imported).rejects.toMatchObject(locked)
    expect(given).toEqual(Buffer.alloc(32))
  })
})

describe('imported key material', () => {
  let store: LocalKeyStore
  beforeEach(() => {
    store = storeOn(createNodeCrypto())
    return () => store.close()
  })

  /** Imports, whatever comes of it the given bytes have to be zeros. */
  async function importing(spec: KeySpec, plaintext: Uint8Array): Promise<KeyMaterial> {
    const kmsKeyId = randomBytes(16)
    const given = Uint8Array.from(plaintext)
    try {
      const imported = await store.importKeyMaterial(kmsKeyId, 1, spec, given)
      return { kmsKeyId, version: 1, keySpec: spec, ...imported }
    } finally {
      expect(given.every((byte) => byte === 0)).toBe(true)
    }
  }
  async function fingerprintOf(spec: KeySpec, plaintext: Uint8Array): Promise<Buffer> {
    const given = Uint8Array.from(plaintext)
    const { fingerprint } = await store.importKeyMaterial(randomBytes(16), 1, spec, given)
    return Buffer.from(fingerprint)
  }
  const openssl3 = (name: string): string[] => [
    ...['genpkey', '-algorithm', 'EC', '-pkeyopt', `ec_paramgen_curve:${name}`],
    ...['-outform', 'DER'],
  ]

  testOpenssl('has a fingerprint that is HKDF-SHA-512, as openssl computes it', async (openssl) => {
    const key = randomBytes(32)
    const expected = openssl.answer(
      ...['kdf', '-binary', '-keylen', '32', '-kdfopt', 'digest:SHA512'],
      ...['-kdfopt', `hexkey:${key.toString('hex')}`, '-kdfopt', 'salt:'],
      ...['-kdfopt', 'info:keyfold/material/v1/fingerprint', 'HKDF'],
    )
    expect(await fingerprintOf('SYMMETRIC_DEFAULT', key)).toEqual(expected)
  })

  test('is known again by its fingerprint, and told from what differs by a bit', async () => {
    const { privateDer } = await pairOf('ECC_NIST_P256')
    const again = await fingerprintOf('ECC_NIST_P256', privateDer)
    expect(again).toEqual(await fingerprintOf('ECC_NIST_P256', privateDer))
    const key = randomBytes(64)
    const first = await fingerprintOf('HMAC_512', key)
    expect(first).toHaveLength(32)
    for (const at of key.keys()) {
      expect(await fingerprintOf('HMAC_512', flip(key, at))).not.toEqual(first)
    }
  })

  test('has 32 bytes, or for HMAC as many as the hash gives to 128', async () => {
    // AWS KMS Developer Guide, "Requirements for imported key material".
    const lengths = [
      ['SYMMETRIC_DEFAULT', 32, 32],
      ['HMAC_224', 28, 128],
      ['HMAC_256', 32, 128],
      ['HMAC_384', 48, 128],
      ['HMAC_512', 64, 128],
    ] as const
    for (const [spec, bytesMin, bytesMax] of lengths) {
      for (const bytes of [bytesMin, bytesMax]) {
        await use(store, await importing(spec, randomBytes(bytes)))
      }
      for (const bytes of [0, bytesMin - 1, bytesMax + 1]) {
        await expect(importing(spec, randomBytes(bytes))).rejects.toMatchObject({
          ...refusedMaterial,
          message: expect.stringMatching(new RegExp(`${spec} takes ${bytesMin}.* bytes`)),
        })
      }
    }
  })

  testOpenssl(
    'of every key pair that openssl makes signs under its public key',
    async (openssl) => {
      const commands: readonly (readonly [KeySpec, readonly string[]])[] = [
        ['ECC_NIST_P256', openssl3('P-256')],
        ['ECC_NIST_P384', openssl3('P-384')],
        ['ECC_NIST_P521', openssl3('P-521')],
        ['ECC_SECG_P256K1', openssl3('secp256k1')],
        ['ECC_NIST_EDWARDS25519', ['genpkey', '-algorithm', 'ED25519', '-outform', 'DER']],
        ['RSA_2048', ['genpkey', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048']],
      ]
      for (const [spec, words] of commands) {
        openssl.answer(...words, '-out', 'key')
        const private8 = openssl.answer(
          'pkcs8',
          '-topk8',
          '-nocrypt',
          '-in',
          'key',
          '-outform',
          'DER',
        )
        const material = await importing(spec, private8)
        const theirs = openssl.answer('pkey', '-in', 'key', '-pubout', '-outform', 'DER')
        expect(Buffer.from(material.publicKey ?? [])).toEqual(theirs)
        const [algorithm] = traitsOf(spec).signingAlgorithms
        const signable = {
          algorithm: algorithm as 'ECDSA_SHA_256',
          messageType: 'RAW',
          message,
        } as const
        const signature = await store.sign(material, signable)
        expect(await verify(spec as 'RSA_2048', theirs, signable, signature)).toBe(true)
        for (const other of keyPairSpecs.filter((known) => known !== spec)) {
          await expect(importing(other, private8)).rejects.toMatchObject(refusedMaterial)
        }
      }
    },
  )

  testOpenssl(
    'is no private key of another form, strength or number of primes',
    async (openssl) => {
      const rsa = (...options: readonly string[]): Buffer => {
        const pairs = options.flatMap((option) => ['-pkeyopt', option])
        openssl.answer('genpkey', '-algorithm', 'RSA', ...pairs, '-out', 'key')
        return openssl.answer('pkcs8', '-topk8', '-nocrypt', '-in', 'key', '-outform', 'DER')
      }
      const bits = 'rsa_keygen_bits:2048'
      const wrongRsa = [
        rsa('rsa_keygen_bits:2047'),
        rsa('rsa_keygen_bits:2056'),
        rsa('rsa_keygen_bits:1024'),
        rsa(bits, 'rsa_keygen_pubexp:3'),
        rsa(bits, 'rsa_keygen_primes:3'),
        generateKeyPairSync('rsa-pss', { modulusLength: 2_048 }).privateKey.export({
          type: 'pkcs8',
          format: 'der',
        }),
      ]
      const plain = rsa(bits)
      await importing('RSA_2048', plain)
      wrongRsa.push(openssl.answer('rsa', '-in', 'key', '-traditional', '-outform', 'DER'))
      wrongRsa.push(openssl.answer('pkey', '-in', 'key', '-pubout', '-outform', 'DER'))
      wrongRsa.push(openssl.answer('pkey', '-in', 'key'))
      wrongRsa.push(
        openssl.answer(
          ...['pkcs8', '-topk8', '-in', 'key', '-outform', 'DER', '-passout', 'pass:secret'],
        ),
      )
      wrongRsa.push(Buffer.alloc(0), randomBytes(1_218), plain.subarray(0, -1), plain.subarray(1))
      for (const wrong of wrongRsa) {
        await expect(importing('RSA_2048', wrong)).rejects.toMatchObject(refusedMaterial)
      }
      openssl.answer(
        ...[
          'ecparam',
          '-name',
          'prime256v1',
          '-genkey',
          '-param_enc',
          'explicit',
          '-out',
          'spelled',
        ],
      )
      const spelled = openssl.answer(
        'pkcs8',
        '-topk8',
        '-nocrypt',
        '-in',
        'spelled',
        '-outform',
        'DER',
      )
      await expect(importing('ECC_NIST_P256', spelled)).rejects.toMatchObject(refusedMaterial)
    },
  )

  test('is no private key whose public part is another’s, or whose scalar is out of range', async () => {
    const { privateDer, publicKey } = await pairOf('ECC_NIST_P256')
    const other = await make(store, 'ECC_NIST_P256')
    const at = Buffer.from(privateDer).indexOf(publicKey.subarray(-65))
    expect(at).toBeGreaterThan(0)
    const mixed = Buffer.from(privateDer)
    mixed.set((other.publicKey as Uint8Array).subarray(-65), at)
    await expect(importing('ECC_NIST_P256', mixed)).rejects.toMatchObject(refusedMaterial)
    const order = 'ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551'
    for (const scalar of ['00'.repeat(32), order, 'ff'.repeat(32)]) {
      // PKCS#8 without the public part, which OpenSSL computes.
      const key = Buffer.from(
        `3041020100301306072a8648ce3d020106082a8648ce3d030107042730250201010420${scalar}`,
        'hex',
      )
      await expect(importing('ECC_NIST_P256', key)).rejects.toMatchObject(refusedMaterial)
    }
    const one = Buffer.from(
      `3041020100301306072a8648ce3d020106082a8648ce3d030107042730250201010420${'01'.padStart(64, '0')}`,
      'hex',
    )
    const { publicKey: generator } = await importing('ECC_NIST_P256', one)
    const { x } = createPublicKey({
      key: Buffer.from(generator ?? []),
      type: 'spki',
      format: 'der',
    }).export({ format: 'jwk' })
    // G of P-256 (SP 800-186 §3.2.1.3).
    expect(Buffer.from(x ?? '', 'base64url').toString('hex')).toBe(
      '6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296',
    )
  })

  test('is no RSA key whose modulus or exponent was changed', async () => {
    const { privateDer } = await pairOf('RSA_2048')
    // PKCS#8 of RSA_2048 has the 257 bytes of its modulus at 37 (after 00), its exponent of 3 bytes 2 bytes later.
    const exponent = Buffer.from(privateDer).indexOf(Buffer.from('0203010001', 'hex'))
    expect(exponent).toBe(37 + 257)
    const ofModulus = Array.from({ length: 17 }, (_, i) => 37 + 16 * i)
    const ofExponent = Array.from({ length: 5 }, (_, i) => exponent + i)
    for (const at of [...ofModulus, ...ofExponent]) {
      const changed = flip(privateDer, at, 1 << (at % 8))
      await expect(importing('RSA_2048', changed)).rejects.toMatchObject(refusedMaterial)
    }
  })
})

describe('open private keys', () => {
  let unsealed: number
  let store: LocalKeyStore

  /** node:crypto, which counts how often sealed bytes are opened: what stayed open is not opened again. */
  beforeEach(() => {
    unsealed = 0
    const crypto = createNodeCrypto()
    const counting = new Proxy(crypto, {
      get(target, name: keyof Crypto) {
        const member: unknown = target[name]
        if (typeof member !== 'function') return member
        return (...values: unknown[]): unknown => {
          if (name === 'unwrapBytes') unsealed++
          return member.apply(target, values) as unknown
        }
      },
    })
    store = storeOn(counting)
    return () => store.close()
  })
  afterEach(() => {
    vi.useRealTimers()
    vi.restoreAllMocks()
  })

  test('are opened once, and again after they were forgotten', async () => {
    const kmsKeyId = randomBytes(16)
    const first = await make(store, 'ECC_NIST_P256', kmsKeyId)
    const second = await make(store, 'ECC_NIST_P256', kmsKeyId, 2)
    const other = await make(store, 'HMAC_256', flip(kmsKeyId, 15))
    for (const round of [1, 2]) {
      for (const material of [first, second, other]) await use(store, material)
      expect([round, unsealed]).toEqual([round, 3])
    }
    store.forget(kmsKeyId)
    for (const material of [first, second, other]) await use(store, material)
    expect(unsealed).toBe(5)
  })

  test('are a bounded number', async () => {
    const materials: KeyMaterial[] = []
    for (let i = 0; i <= OPEN_MAX; i++) materials.push(await make(store, 'HMAC_256'))
    for (const material of materials) await use(store, material)
    expect(unsealed).toBe(OPEN_MAX + 1)
    // The second to the last are open, the first gave way.
    for (const material of materials.slice(1)) await use(store, material)
    expect(unsealed).toBe(OPEN_MAX + 1)
    await use(store, materials[0] as KeyMaterial)
    expect(unsealed).toBe(OPEN_MAX + 2)
  })

  test('leave memory when they are old, used or not', async () => {
    // The cache reads the clock of the process, which fake timers leave as it is.
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    let nowMs = performance.now()
    vi.spyOn(performance, 'now').mockImplementation(() => nowMs)
    const pass = (ms: number): void => {
      nowMs += ms
      vi.advanceTimersByTime(ms)
    }
    const material = await make(store, 'HMAC_256')
    await use(store, material)
    expect(vi.getTimerCount()).toBeGreaterThan(0)
    pass(AGE_MS_MAX - 1_000)
    await use(store, material)
    expect(unsealed).toBe(1)
    pass(2_000)
    // Gone by itself: nothing is left to be purged.
    expect(vi.getTimerCount()).toBe(0)
    await use(store, material)
    expect(unsealed).toBe(2)
  })
})
