/** The AWS Encryption SDK for JavaScript beside our keyrings: the same keys, and messages of either. */
import { generateKeyPairSync, randomBytes } from 'node:crypto'
import {
  type AlgorithmSuiteIdentifier,
  buildClient,
  CommitmentPolicy,
  type KeyringNode,
  RawAesKeyringNode,
  RawAesWrappingSuiteIdentifier,
  RawRsaKeyringNode,
} from '@aws-crypto/client-node'

import { type Keyring, RawAesKeyring, RawRsaKeyring } from '../../dist/index.js'

const strict = buildClient(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)
const legacy = buildClient(CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT)

export interface KeyringPair {
  readonly ours: Keyring
  readonly theirs: KeyringNode
}

const WRAPPING_SUITES = {
  16: RawAesWrappingSuiteIdentifier.AES128_GCM_IV12_TAG16_NO_PADDING,
  24: RawAesWrappingSuiteIdentifier.AES192_GCM_IV12_TAG16_NO_PADDING,
  32: RawAesWrappingSuiteIdentifier.AES256_GCM_IV12_TAG16_NO_PADDING,
} as const

export function aesPair(keyBytes: 16 | 24 | 32 = 32, name = 'schlüssel'): KeyringPair {
  const wrappingKey = randomBytes(keyBytes)
  return {
    ours: new RawAesKeyring({ namespace: 'tests', name, wrappingKey }),
    theirs: new RawAesKeyringNode({
      keyNamespace: 'tests',
      keyName: name,
      // A Buffer may lie in a larger piece of memory, which the SDK takes for the key.
      unencryptedMasterKey: new Uint8Array(wrappingKey),
      wrappingSuite: WRAPPING_SUITES[keyBytes],
      // The default sorts by locale, as no other SDK does (aws-encryption-sdk-javascript#428).
      utf8Sorting: true,
    }),
  }
}

export function rsaPair(oaepHash: 'sha1' | 'sha256' | 'sha384' | 'sha512'): KeyringPair {
  const { publicKey, privateKey } = generateKeyPairSync('rsa', {
    modulusLength: 2_048,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  })
  const name = 'rsa'
  return {
    ours: new RawRsaKeyring({ namespace: 'tests', name, publicKey, privateKey, oaepHash }),
    theirs: new RawRsaKeyringNode({
      keyNamespace: 'tests',
      keyName: name,
      rsaKey: { publicKey, privateKey },
      oaepHash,
    }),
  }
}

/** A message of the SDK's: committed and unsigned unless another suite is named. */
export async function sdkEncrypt(
  keyring: KeyringNode,
  plaintext: Uint8Array,
  options: {
    readonly suiteId?: number
    readonly frameLength?: number
    readonly encryptionContext?: Record<string, string>
  } = {},
): Promise<Buffer> {
  const { suiteId = 0x0478 } = options
  const { encrypt } = suiteId === 0x0478 || suiteId === 0x0578 ? strict : legacy
  const { result } = await encrypt(keyring, Buffer.from(plaintext), {
    ...options,
    suiteId: suiteId as AlgorithmSuiteIdentifier,
  })
  return result
}

export const { decrypt: sdkDecrypt } = strict

/** Keys and values that one serialiser or the other may get wrong. */
export const CONTEXTS: Readonly<Record<string, Record<string, string>>> = {
  none: {},
  'one pair, empty value': { a: '' },
  'pairs beyond ASCII': { table: 'Aufträge', ключ: '\u{1f511}', ﬀ: 'a' },
  'keys whose order differs between UTF-8 and UTF-16': { '\u{1f511}': '1', '\uff01': '2', z: '3' },
  'keys whose order differs between UTF-8 and locales': { Zed: '1', tenant: '2', Äther: '3' },
  'keys that objects have themselves': JSON.parse(
    '{"__proto__":"1","constructor":"2","7":"3"}',
  ) as Record<string, string>,
  'as many bytes as are allowed': { big: 'x'.repeat(8_192 - 2 - 4 - 3) },
}
