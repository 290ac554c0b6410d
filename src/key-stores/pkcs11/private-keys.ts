/**
 * What private keys and HMAC keys do in the token. Digests are made outside, so that any length of message is one call
 * and one mechanism; what needs no key needs no token.
 */
import { CKA, CKK, CKM, CKO, PARAMETERS, returnValueOf } from './cryptoki.ts'
import type { Cryptoki, Handle, Mechanism } from './cryptoki.ts'
import { DecryptRefused } from './failures.ts'
import { HMAC_MECHANISMS } from './mechanisms.ts'
import type { KeyOperation } from './messages.ts'

const HASHES = {
  sha1: { mechanism: CKM.SHA_1, mgf: 1, bytes: 20 },
  sha256: { mechanism: CKM.SHA256, mgf: 2, bytes: 32 },
  sha384: { mechanism: CKM.SHA384, mgf: 3, bytes: 48 },
  sha512: { mechanism: CKM.SHA512, mgf: 4, bytes: 64 },
} as const

/** CKD_NULL: the bare x coordinate. */
const NO_DERIVATION = 1
/** CKZ_DATA_SPECIFIED: the label, which is empty. */
const LABEL_GIVEN = 1

export interface PrivateKeyCall {
  readonly cryptoki: Cryptoki
  readonly calls: 'sync' | 'async'
  readonly session: Handle
  readonly key: Handle
  readonly input: Buffer
  readonly output: Buffer
}

type Signing = Extract<KeyOperation, { kind: 'sign' }>

/** Signatures and MACs alike: both are C_Sign. */
export async function signWith(call: PrivateKeyCall, mechanism: Mechanism): Promise<number> {
  const { cryptoki, calls, session, key, input, output } = call
  cryptoki.C_SignInit(session, mechanism, key)
  const signed =
    calls === 'async'
      ? await cryptoki.C_SignAsync(session, input, output)
      : cryptoki.C_Sign(session, input, output)
  return signed.length
}

/** RSASSA-PKCS1-v1_5 signs a DigestInfo, which the main thread has made. */
export function signingMechanism({ scheme, hash }: Signing): Mechanism {
  switch (scheme) {
    case 'pkcs1':
      return { mechanism: CKM.RSA_PKCS }
    case 'ecdsa':
      return { mechanism: CKM.ECDSA }
    case 'pss': {
      const { mechanism, mgf, bytes } = HASHES[hash]
      return {
        mechanism: CKM.RSA_PKCS_PSS,
        parameter: { type: PARAMETERS.rsaPss, hashAlg: mechanism, mgf, saltLen: bytes },
      }
    }
  }
}

export function macMechanism({ algorithm }: Extract<KeyOperation, { kind: 'mac' }>): Mechanism {
  return { mechanism: HMAC_MECHANISMS[algorithm] }
}

export async function decryptOaep(call: PrivateKeyCall, hash: 'sha1' | 'sha256'): Promise<number> {
  const { cryptoki, calls, session, key, input, output } = call
  const { mechanism: hashAlg, mgf } = HASHES[hash]
  const parameter = { type: PARAMETERS.rsaOaep, hashAlg, mgf, source: LABEL_GIVEN }
  cryptoki.C_DecryptInit(session, { mechanism: CKM.RSA_PKCS_OAEP, parameter }, key)
  try {
    const opened =
      calls === 'async'
        ? await cryptoki.C_DecryptAsync(session, input, output)
        : cryptoki.C_Decrypt(session, input, output)
    return opened.length
  } catch (error) {
    const returnValue = returnValueOf(error)
    throw returnValue === undefined ? error : new DecryptRefused(returnValue)
  }
}

/** The secret is a key of the session for a moment, whose value is read and destroyed. */
export async function deriveSecret(call: PrivateKeyCall): Promise<number> {
  const { cryptoki, session, key, input, output } = call
  const bytes = (input.length - 1) / 2
  const parameter = { type: PARAMETERS.ecdh1, kdf: NO_DERIVATION, publicData: input }
  const secret = cryptoki.C_DeriveKey(session, { mechanism: CKM.ECDH1_DERIVE, parameter }, key, [
    { type: CKA.CLASS, value: CKO.SECRET_KEY },
    { type: CKA.KEY_TYPE, value: CKK.GENERIC_SECRET },
    { type: CKA.TOKEN, value: false },
    { type: CKA.SENSITIVE, value: false },
    { type: CKA.EXTRACTABLE, value: true },
    { type: CKA.VALUE_LEN, value: bytes },
  ])
  try {
    const value = cryptoki.C_GetAttributeValue(session, secret, [{ type: CKA.VALUE }])[0]?.value
    if (!Buffer.isBuffer(value)) return 0
    value.copy(output)
    value.fill(0)
    return value.length
  } finally {
    cryptoki.C_DestroyObject(session, secret)
  }
}
