/**
 * Keys inside a token: how they are made, found again and held against what they have to be. They are persistent,
 * private, sensitive and never extractable; the token drew them itself.
 *
 *     CKA_ID      format/token-reference.ts
 *     CKA_LABEL   "keyfold <KMS key id> v<version>", for people, and looked for along with the id
 */
import { KeyfoldError } from '../../errors.ts'
import { CURVES } from '../../crypto/curves.ts'
import { isAsymmetric, isRsa, MODULUS_BITS } from '../../crypto/key-pair.ts'
import type { AsymmetricKeySpec, KeySpec } from '../../crypto/key-spec.ts'
import { HMAC_KEY_BYTES, isHmac } from '../../crypto/mac.ts'
import {
  CKA,
  CKF,
  CKK,
  CKM,
  CKO,
  type Attribute,
  type Cryptoki,
  type Handle,
  type Mechanism,
} from './cryptoki.ts'
import { KeyMissing } from './failures.ts'
import type { TokenKey } from './messages.ts'
import { ecPublicKey, rsaPublicKey } from './public-key.ts'

const AES_KEY_BYTES = 32
const PUBLIC_EXPONENT = Buffer.from([1, 0, 1])
const ULONG_BYTES_LEAST = 4

/** What is true of the key itself, whatever it is for. */
const GUARDED: readonly Attribute[] = [
  { type: CKA.TOKEN, value: true },
  { type: CKA.PRIVATE, value: true },
  { type: CKA.SENSITIVE, value: true },
  { type: CKA.EXTRACTABLE, value: false },
]

const PRIVATE_KEY_USES = [CKA.DECRYPT, CKA.UNWRAP, CKA.SIGN, CKA.DERIVE]
const SECRET_KEY_USES = [...PRIVATE_KEY_USES, CKA.ENCRYPT, CKA.WRAP, CKA.VERIFY]

/** Finds the key and verifies it. Throws KeyMissing, or KMS_KEY_UNAVAILABLE where it is not what it has to be. */
export function findKey(cryptoki: Cryptoki, session: Handle, key: TokenKey): Handle {
  const found = search(cryptoki, session, key)
  const [handle] = found
  if (handle === undefined) throw new KeyMissing()
  if (found.length > 1) throw unavailable('the token holds several keys of its CKA_ID')
  verify(cryptoki, session, handle, key)
  return handle
}

/** Whether the handle names, in this session and now, the key that it was found for. */
export function isKey(
  cryptoki: Cryptoki,
  session: Handle,
  handle: Handle,
  id: Uint8Array,
): boolean {
  const [attribute] = cryptoki.C_GetAttributeValue(session, handle, [{ type: CKA.ID }])
  return Buffer.isBuffer(attribute?.value) && attribute.value.equals(id)
}

/**
 * Makes the key, in a session that can write, and hands it to `attempt`; where that throws the key is destroyed. SPKI
 * DER of its public key, or nothing.
 */
export async function createKey(
  cryptoki: Cryptoki,
  slot: Handle,
  key: TokenKey,
  calls: 'sync' | 'async',
  attempt: (session: Handle, handle: Handle) => Promise<void>,
): Promise<Uint8Array> {
  const session = cryptoki.C_OpenSession(slot, CKF.SERIAL_SESSION | CKF.RW_SESSION)
  try {
    // An attempt that failed half-way may have left one. The random part of the id makes it ours alone.
    destroyKey(cryptoki, session, key)
    try {
      const publicKey = isAsymmetric(key.keySpec)
        ? await createPair(cryptoki, session, key, key.keySpec, calls)
        : await createSecret(cryptoki, session, key, calls)
      await attempt(session, findKey(cryptoki, session, key))
      return publicKey
    } catch (error) {
      destroyKey(cryptoki, session, key)
      throw error
    }
  } finally {
    cryptoki.C_CloseSession(session)
  }
}

/** In a session that can write. */
export function destroyKeyOf(cryptoki: Cryptoki, slot: Handle, key: TokenKey): void {
  const session = cryptoki.C_OpenSession(slot, CKF.SERIAL_SESSION | CKF.RW_SESSION)
  try {
    destroyKey(cryptoki, session, key)
  } finally {
    cryptoki.C_CloseSession(session)
  }
}

function destroyKey(cryptoki: Cryptoki, session: Handle, key: TokenKey): void {
  for (const handle of search(cryptoki, session, key)) cryptoki.C_DestroyObject(session, handle)
}

async function createSecret(
  cryptoki: Cryptoki,
  session: Handle,
  { id, keySpec }: TokenKey,
  calls: 'sync' | 'async',
): Promise<Uint8Array> {
  const [mechanism, bytes, uses] = isHmac(keySpec)
    ? [CKM.GENERIC_SECRET_KEY_GEN, HMAC_KEY_BYTES[keySpec], [CKA.SIGN]]
    : [CKM.AES_KEY_GEN, AES_KEY_BYTES, [CKA.ENCRYPT, CKA.DECRYPT]]
  const template = [
    ...GUARDED,
    ...named(id),
    { type: CKA.CLASS, value: CKO.SECRET_KEY },
    { type: CKA.KEY_TYPE, value: keyTypeOf(keySpec) },
    { type: CKA.VALUE_LEN, value: bytes },
    ...only(SECRET_KEY_USES, uses),
  ]
  if (calls === 'async') await cryptoki.C_GenerateKeyAsync(session, { mechanism }, template)
  else cryptoki.C_GenerateKey(session, { mechanism }, template)
  return new Uint8Array(0)
}

async function createPair(
  cryptoki: Cryptoki,
  session: Handle,
  { id, keySpec }: TokenKey,
  spec: AsymmetricKeySpec,
  calls: 'sync' | 'async',
): Promise<Uint8Array> {
  const [mechanism, parameters, uses] = pairOf(spec)
  // The catalog keeps the public key; the token's copy goes with the session.
  const shown = [
    { type: CKA.TOKEN, value: false },
    { type: CKA.VERIFY, value: true },
    ...parameters,
  ]
  const hidden = [
    ...GUARDED,
    ...named(id),
    { type: CKA.CLASS, value: CKO.PRIVATE_KEY },
    { type: CKA.KEY_TYPE, value: keyTypeOf(keySpec) },
    ...only(PRIVATE_KEY_USES, uses),
  ]
  const { publicKey } =
    calls === 'async'
      ? await cryptoki.C_GenerateKeyPairAsync(session, mechanism, shown, hidden)
      : cryptoki.C_GenerateKeyPair(session, mechanism, shown, hidden)
  const read = (...types: readonly number[]): readonly Buffer[] =>
    cryptoki
      .C_GetAttributeValue(
        session,
        publicKey,
        types.map((type) => ({ type })),
      )
      .map(({ value }) => value as Buffer)
  const curve = isRsa(spec) ? undefined : CURVES[spec]
  const [first, second] =
    curve === undefined ? read(CKA.MODULUS, CKA.PUBLIC_EXPONENT) : read(CKA.EC_POINT)
  const spki =
    curve === undefined ? rsaPublicKey(spec, first, second) : ecPublicKey(spec, curve, first)
  if (spki === undefined) throw unavailable('the token made a key pair of another kind')
  return spki
}

function pairOf(
  spec: AsymmetricKeySpec,
): readonly [Mechanism, readonly Attribute[], readonly number[]] {
  if (isRsa(spec)) {
    return [
      { mechanism: CKM.RSA_PKCS_KEY_PAIR_GEN },
      [
        { type: CKA.MODULUS_BITS, value: MODULUS_BITS[spec] },
        { type: CKA.PUBLIC_EXPONENT, value: PUBLIC_EXPONENT },
      ],
      [CKA.SIGN, CKA.DECRYPT],
    ]
  }
  const parameters = [{ type: CKA.EC_PARAMS, value: Buffer.from(CURVES[spec]?.oid ?? []) }]
  return [{ mechanism: CKM.EC_KEY_PAIR_GEN }, parameters, [CKA.SIGN, CKA.DERIVE]]
}

function search(cryptoki: Cryptoki, session: Handle, { id, keySpec }: TokenKey): Handle[] {
  const value = isAsymmetric(keySpec) ? CKO.PRIVATE_KEY : CKO.SECRET_KEY
  cryptoki.C_FindObjectsInit(session, [{ type: CKA.CLASS, value }, ...named(id)])
  try {
    return cryptoki.C_FindObjects(session, 2)
  } finally {
    // Left out, the session would be busy for whoever comes next.
    cryptoki.C_FindObjectsFinal(session)
  }
}

/** Somebody with the PIN could have put another key in its place: one that they know. */
function verify(
  cryptoki: Cryptoki,
  session: Handle,
  handle: Handle,
  { id, keySpec }: TokenKey,
): void {
  const values = cryptoki
    .C_GetAttributeValue(
      session,
      handle,
      [
        CKA.ID,
        CKA.KEY_TYPE,
        CKA.SENSITIVE,
        CKA.ALWAYS_SENSITIVE,
        CKA.EXTRACTABLE,
        CKA.NEVER_EXTRACTABLE,
      ].map((type) => ({ type })),
    )
    .map(({ value }) => value as Buffer)
  const [foundId, keyType, sensitive, alwaysSensitive, extractable, neverExtractable] = values
  const isGuarded =
    isTrue(sensitive) && isTrue(alwaysSensitive) && !isTrue(extractable) && isTrue(neverExtractable)
  if (foundId?.equals(id) !== true || ulong(keyType) !== keyTypeOf(keySpec)) {
    throw unavailable(`the key in the token is none of ${keySpec}`)
  }
  if (!isGuarded) throw unavailable('the key in the token is extractable, or was')
  if (!hasSize(cryptoki, session, handle, keySpec)) {
    throw unavailable(`the key in the token has not the size of ${keySpec}`)
  }
}

function hasSize(cryptoki: Cryptoki, session: Handle, handle: Handle, keySpec: KeySpec): boolean {
  const read = (type: number): Buffer | undefined =>
    cryptoki.C_GetAttributeValue(session, handle, [{ type }])[0]?.value as Buffer | undefined
  if (isRsa(keySpec)) {
    const modulus = read(CKA.MODULUS)
    return modulus?.length === MODULUS_BITS[keySpec] / 8
  }
  if (isAsymmetric(keySpec)) {
    const oid = CURVES[keySpec]?.oid
    return oid !== undefined && read(CKA.EC_PARAMS)?.equals(oid) === true
  }
  return ulong(read(CKA.VALUE_LEN)) === (isHmac(keySpec) ? HMAC_KEY_BYTES[keySpec] : AES_KEY_BYTES)
}

function keyTypeOf(keySpec: KeySpec): number {
  if (isRsa(keySpec)) return CKK.RSA
  if (isAsymmetric(keySpec)) return CKK.EC
  return isHmac(keySpec) ? CKK.GENERIC_SECRET : CKK.AES
}

function named(id: Uint8Array): readonly Attribute[] {
  return [
    { type: CKA.ID, value: Buffer.from(id) },
    { type: CKA.LABEL, value: labelOf(id) },
  ]
}

function labelOf(id: Uint8Array): string {
  const bytes = Buffer.from(id)
  const uuid = bytes
    .toString('hex', 0, 16)
    .replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
  return `keyfold ${uuid} v${bytes.readUInt32BE(16)}`
}

/** A key that wraps could wrap other keys out of the token, one that derives could give itself away. */
function only(all: readonly number[], uses: readonly number[]): readonly Attribute[] {
  return all.map((type) => ({ type, value: uses.includes(type) }))
}

function isTrue(value: Buffer | undefined): boolean {
  return value?.[0] === 1
}

/** CK_ULONG is of the machine's byte order and 4 or 8 bytes. */
function ulong(value: Buffer | undefined): number | undefined {
  return value === undefined || value.length < ULONG_BYTES_LEAST ? undefined : value.readUInt32LE(0)
}

function unavailable(detail: string): KeyfoldError {
  return new KeyfoldError('KMS_KEY_UNAVAILABLE', detail)
}
