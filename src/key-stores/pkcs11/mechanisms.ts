/** Which key specs a token can hold, by what it says of its mechanisms. */
import { CURVES } from '../../crypto/curves.ts'
import { isAsymmetric, isRsa, MODULUS_BITS } from '../../crypto/key-pair.ts'
import type { HmacKeySpec, KeySpec, MacAlgorithm } from '../../crypto/key-spec.ts'
import { CKM, type Cryptoki, type Handle } from './cryptoki.ts'

export const HMAC_MECHANISMS: Readonly<Record<MacAlgorithm, number>> = {
  HMAC_SHA_224: CKM.SHA224_HMAC,
  HMAC_SHA_256: CKM.SHA256_HMAC,
  HMAC_SHA_384: CKM.SHA384_HMAC,
  HMAC_SHA_512: CKM.SHA512_HMAC,
}

/** In the order in which they are declared. secp256k1 and Ed25519 are not: few tokens have them. */
const OFFERED: readonly KeySpec[] = [
  'SYMMETRIC_DEFAULT',
  'HMAC_224',
  'HMAC_256',
  'HMAC_384',
  'HMAC_512',
  'RSA_2048',
  'RSA_3072',
  'RSA_4096',
  'ECC_NIST_P256',
  'ECC_NIST_P384',
  'ECC_NIST_P521',
]

/** `wrapping`: the mechanism that keys are wrapped with. */
export function keySpecsOf(cryptoki: Cryptoki, slot: Handle, wrapping: number): KeySpec[] {
  const mechanisms = new Set(cryptoki.C_GetMechanismList(slot))
  return OFFERED.filter((spec) => {
    const { generates, uses } = needsOf(spec, wrapping)
    return (
      mechanisms.has(generates) &&
      uses.every((mechanism) => mechanisms.has(mechanism)) &&
      takesSize(cryptoki, slot, generates, spec)
    )
  })
}

function needsOf(
  spec: KeySpec,
  wrapping: number,
): { readonly generates: number; readonly uses: readonly number[] } {
  if (isRsa(spec)) {
    return {
      generates: CKM.RSA_PKCS_KEY_PAIR_GEN,
      uses: [CKM.RSA_PKCS, CKM.RSA_PKCS_PSS, CKM.RSA_PKCS_OAEP],
    }
  }
  if (isAsymmetric(spec)) {
    return { generates: CKM.EC_KEY_PAIR_GEN, uses: [CKM.ECDSA, CKM.ECDH1_DERIVE] }
  }
  if (spec === 'SYMMETRIC_DEFAULT') return { generates: CKM.AES_KEY_GEN, uses: [wrapping] }
  const algorithm = spec.replace('HMAC_', 'HMAC_SHA_') as MacAlgorithm
  return { generates: CKM.GENERIC_SECRET_KEY_GEN, uses: [HMAC_MECHANISMS[algorithm]] }
}

/** Bits of RSA moduli and of curves; of secret keys tokens say bytes or bits, and all take ours. */
function takesSize(cryptoki: Cryptoki, slot: Handle, generates: number, spec: KeySpec): boolean {
  if (!isAsymmetric(spec)) return true
  const bits = isRsa(spec) ? MODULUS_BITS[spec] : bitsOfCurve(spec)
  const { minKeySize, maxKeySize } = cryptoki.C_GetMechanismInfo(slot, generates)
  return minKeySize <= bits && bits <= maxKeySize
}

function bitsOfCurve(spec: Exclude<KeySpec, HmacKeySpec | 'SYMMETRIC_DEFAULT'>): number {
  const curve = CURVES[spec as keyof typeof CURVES]
  return curve === undefined ? Infinity : curve.p.toString(2).length
}
