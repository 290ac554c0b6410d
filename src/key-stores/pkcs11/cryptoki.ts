/**
 * What we use of pkcs11js, and the numbers of PKCS#11 v2.40 that go with it. The only file that loads it, when the
 * first token is opened: it is an optional dependency, which npm leaves out where it does not compile.
 *
 * Its types are written down here for the same reason: with `import type` keyfold itself would not compile without it.
 */
import { createRequire } from 'node:module'

import { KeyfoldError } from '../../errors.ts'

/** A number of the library, as pkcs11js hands it out. */
export type Handle = Buffer

export interface Attribute {
  readonly type: number
  readonly value?: number | boolean | string | Buffer
}

export interface Mechanism {
  readonly mechanism: number
  readonly parameter?: object | null
}

interface TokenDescription {
  readonly label: string
  readonly serialNumber: string
  readonly flags: number
  /** 0: no limit; all ones: unknown. */
  readonly maxSessionCount: number
}

interface MechanismDescription {
  readonly minKeySize: number
  readonly maxKeySize: number
  readonly flags: number
}

/**
 * Buffers may lie on shared memory. A call that ends in Async reads and writes them from another thread until it is
 * done, and nobody but the caller keeps them alive.
 */
export interface Cryptoki {
  load(path: string): void
  close(): void
  C_Initialize(options: { readonly flags: number }): void
  C_Finalize(): void
  C_GetSlotList(tokenPresent: boolean): Handle[]
  C_GetTokenInfo(slot: Handle): TokenDescription
  C_GetMechanismList(slot: Handle): number[]
  C_GetMechanismInfo(slot: Handle, mechanism: number): MechanismDescription
  C_OpenSession(slot: Handle, flags: number): Handle
  C_CloseSession(session: Handle): void
  C_GetSessionInfo(session: Handle): { readonly state: number; readonly slotID: Handle }
  C_Login(session: Handle, userType: number, pin: string): void
  C_FindObjectsInit(session: Handle, template: readonly Attribute[]): void
  C_FindObjects(session: Handle, objectsMax: number): Handle[]
  C_FindObjectsFinal(session: Handle): void
  C_GetAttributeValue(session: Handle, object: Handle, template: readonly Attribute[]): Attribute[]
  C_DestroyObject(session: Handle, object: Handle): void
  C_GenerateKey(session: Handle, mechanism: Mechanism, template: readonly Attribute[]): Handle
  C_GenerateKeyPair(
    session: Handle,
    mechanism: Mechanism,
    publicTemplate: readonly Attribute[],
    privateTemplate: readonly Attribute[],
  ): { readonly publicKey: Handle; readonly privateKey: Handle }
  C_GenerateKeyAsync(
    session: Handle,
    mechanism: Mechanism,
    template: readonly Attribute[],
  ): Promise<Handle>
  C_GenerateKeyPairAsync(
    session: Handle,
    mechanism: Mechanism,
    publicTemplate: readonly Attribute[],
    privateTemplate: readonly Attribute[],
  ): Promise<{ readonly publicKey: Handle; readonly privateKey: Handle }>
  C_DeriveKey(
    session: Handle,
    mechanism: Mechanism,
    key: Handle,
    template: readonly Attribute[],
  ): Handle
  C_EncryptInit(session: Handle, mechanism: Mechanism, key: Handle): void
  C_Encrypt(session: Handle, input: Buffer, output: Buffer): Buffer
  C_EncryptAsync(session: Handle, input: Buffer, output: Buffer): Promise<Buffer>
  C_DecryptInit(session: Handle, mechanism: Mechanism, key: Handle): void
  C_Decrypt(session: Handle, input: Buffer, output: Buffer): Buffer
  C_DecryptAsync(session: Handle, input: Buffer, output: Buffer): Promise<Buffer>
  C_SignInit(session: Handle, mechanism: Mechanism, key: Handle): void
  C_Sign(session: Handle, input: Buffer, output: Buffer): Buffer
  C_SignAsync(session: Handle, input: Buffer, output: Buffer): Promise<Buffer>
  C_GenerateRandom(session: Handle, output: Buffer): Buffer
}

/** Throws CONFIG_INVALID, saying what to install. */
export function loadCryptoki(path: string): Cryptoki {
  let pkcs11js: { readonly PKCS11: new () => Cryptoki }
  try {
    pkcs11js = createRequire(import.meta.url)('pkcs11js') as typeof pkcs11js
  } catch (cause) {
    throw new KeyfoldError(
      'CONFIG_INVALID',
      'a PKCS#11 key store needs the package pkcs11js, which is not here or was not built: install g++, make and ' +
        'python3, then run npm ci again (where keyfold is a dependency: npm install pkcs11js@2.1.7)',
      cause,
    )
  }
  const cryptoki = new pkcs11js.PKCS11()
  try {
    cryptoki.load(path)
  } catch (cause) {
    throw new KeyfoldError('CONFIG_INVALID', `${path} is no PKCS#11 module that loads`, cause)
  }
  return cryptoki
}

/** CK_RV of a call that failed; undefined where something else went wrong. */
export function returnValueOf(error: unknown): number | undefined {
  if (!(error instanceof Error) || error.name !== 'Pkcs11Error') return undefined
  return (error as Error & { readonly code: number }).code
}

/** What pkcs11js tells mechanism parameters apart by: CK_PARAMS_RSA_OAEP, _RSA_PSS, _EC_DH, _AES_GCM_v240. */
export const PARAMETERS = { rsaOaep: 4, rsaPss: 5, ecdh1: 6, aesGcm: 7 } as const

export const CKR = {
  OK: 0x000,
  HOST_MEMORY: 0x002,
  GENERAL_ERROR: 0x005,
  FUNCTION_FAILED: 0x006,
  ARGUMENTS_BAD: 0x007,
  ATTRIBUTE_TYPE_INVALID: 0x012,
  ATTRIBUTE_VALUE_INVALID: 0x013,
  DATA_INVALID: 0x020,
  DATA_LEN_RANGE: 0x021,
  DEVICE_ERROR: 0x030,
  ENCRYPTED_DATA_INVALID: 0x040,
  ENCRYPTED_DATA_LEN_RANGE: 0x041,
  /** Of v3.0. */
  AEAD_DECRYPT_FAILED: 0x042,
  FUNCTION_NOT_SUPPORTED: 0x054,
  KEY_HANDLE_INVALID: 0x060,
  KEY_TYPE_INCONSISTENT: 0x063,
  KEY_FUNCTION_NOT_PERMITTED: 0x068,
  MECHANISM_INVALID: 0x070,
  MECHANISM_PARAM_INVALID: 0x071,
  OBJECT_HANDLE_INVALID: 0x082,
  OPERATION_ACTIVE: 0x090,
  PIN_INCORRECT: 0x0a0,
  PIN_INVALID: 0x0a1,
  PIN_LEN_RANGE: 0x0a2,
  PIN_EXPIRED: 0x0a3,
  PIN_LOCKED: 0x0a4,
  SESSION_CLOSED: 0x0b0,
  SESSION_COUNT: 0x0b1,
  SESSION_HANDLE_INVALID: 0x0b3,
  TEMPLATE_INCONSISTENT: 0x0d1,
  USER_ALREADY_LOGGED_IN: 0x100,
  USER_PIN_NOT_INITIALIZED: 0x102,
  USER_TOO_MANY_TYPES: 0x105,
  CURVE_NOT_SUPPORTED: 0x140,
  CRYPTOKI_NOT_INITIALIZED: 0x190,
  CRYPTOKI_ALREADY_INITIALIZED: 0x191,
} as const

export const CKF = {
  OS_LOCKING_OK: 0x2,
  RW_SESSION: 0x2,
  SERIAL_SESSION: 0x4,
  USER_PIN_FINAL_TRY: 0x20000,
  USER_PIN_LOCKED: 0x40000,
} as const

export const CKU_USER = 1

/** CKS_RO_USER_FUNCTIONS and CKS_RW_USER_FUNCTIONS. */
export const CKS_LOGGED_IN: readonly number[] = [1, 3]

export const CKO = { PUBLIC_KEY: 2, PRIVATE_KEY: 3, SECRET_KEY: 4 } as const

export const CKK = { RSA: 0x00, EC: 0x03, GENERIC_SECRET: 0x10, AES: 0x1f } as const

export const CKA = {
  CLASS: 0x000,
  TOKEN: 0x001,
  PRIVATE: 0x002,
  LABEL: 0x003,
  VALUE: 0x011,
  KEY_TYPE: 0x100,
  ID: 0x102,
  SENSITIVE: 0x103,
  ENCRYPT: 0x104,
  DECRYPT: 0x105,
  WRAP: 0x106,
  UNWRAP: 0x107,
  SIGN: 0x108,
  VERIFY: 0x10a,
  DERIVE: 0x10c,
  MODULUS: 0x120,
  MODULUS_BITS: 0x121,
  PUBLIC_EXPONENT: 0x122,
  VALUE_LEN: 0x161,
  EXTRACTABLE: 0x162,
  NEVER_EXTRACTABLE: 0x164,
  MODIFIABLE: 0x170,
  EC_PARAMS: 0x180,
  EC_POINT: 0x181,
  ALWAYS_SENSITIVE: 0x165,
} as const

export const CKM = {
  RSA_PKCS_KEY_PAIR_GEN: 0x0000,
  RSA_PKCS: 0x0001,
  RSA_PKCS_OAEP: 0x0009,
  RSA_PKCS_PSS: 0x000d,
  SHA_1: 0x0220,
  SHA256: 0x0250,
  SHA256_HMAC: 0x0251,
  SHA224_HMAC: 0x0256,
  SHA384: 0x0260,
  SHA384_HMAC: 0x0261,
  SHA512: 0x0270,
  SHA512_HMAC: 0x0271,
  GENERIC_SECRET_KEY_GEN: 0x0350,
  EC_KEY_PAIR_GEN: 0x1040,
  ECDSA: 0x1041,
  ECDH1_DERIVE: 0x1050,
  AES_KEY_GEN: 0x1080,
  AES_GCM: 0x1087,
} as const
