/**
 * The operations of the external key store proxy API on keys. An external key is a KMS key of ours, by its key id or by
 * the name of an alias without `alias/`. What a proxy's principal may do with it is what the key is for: `ENCRYPT` is
 * kms:Encrypt, `DECRYPT` kms:Decrypt. Without kms:DescribeKey there is no such key for them: what is absent and what is
 * forbidden have one answer (errors.ts), and two outcomes in the audit log.
 */
import type { Engine } from '../../engine.ts'
import { KeyfoldError } from '../../errors.ts'
import { decodeJsonBytes, encodeJsonBytes, type JsonBytes } from '../../format/json-bytes.ts'
import type { Action, KmsKey, Principal, RequestOrigin } from '../../kms/kms-key.ts'
import { aliasNameOf, isKeyId } from '../../kms/reference.ts'
import {
  AUDIT_PARAMETER_CHARACTERS_MAX,
  XKS_AAD_BYTES_MAX,
  XKS_PLAINTEXT_BYTES_MAX,
} from '../../limits.ts'
import { countUses } from '../../envelope/uses.ts'
import type { RequestRecord } from '../records.ts'
import type { XksHealth } from './health.ts'

/** One request, of which it is known who signed it. */
export interface XksCall {
  readonly engine: Engine
  readonly health: XksHealth
  readonly principal: Principal
  readonly origin: RequestOrigin
  /** '' where the operation concerns no key. */
  readonly externalKeyId: string
  readonly record: RequestRecord | undefined
}

interface XksOperation {
  /** As records name it. */
  readonly name: string
  /** What requestMetadata must say. It may say more, of which nothing depends. */
  readonly metadata: readonly string[]
  /** Members that are base64. */
  readonly bytes: ReadonlySet<string>
  /** The answer, JSON, which may hold a plaintext: whoever sends it fills it with zeros. */
  run(call: XksCall, request: JsonBytes): Promise<Uint8Array>
}

export type XksOperationName = 'health' | 'metadata' | 'encrypt' | 'decrypt'

const ASKED_BY = ['awsPrincipalArn', 'kmsOperation', 'kmsRequestId'] as const
const AAD = 'additionalAuthenticatedData'
const NO_BYTES = new Uint8Array(0)

export const XKS_OPERATIONS: Readonly<Record<XksOperationName, XksOperation>> = {
  health: {
    name: 'GetHealthStatus',
    metadata: ['kmsOperation', 'kmsRequestId'],
    bytes: new Set(),
    run: async ({ health }) => encodeJsonBytes(await health.describe(), {}),
  },
  metadata: {
    name: 'GetKeyMetadata',
    metadata: ASKED_BY,
    bytes: new Set(),
    run: getKeyMetadata,
  },
  encrypt: {
    name: 'Encrypt',
    metadata: [...ASKED_BY, 'kmsKeyArn'],
    bytes: new Set(['plaintext', AAD]),
    run: encrypt,
  },
  decrypt: {
    name: 'Decrypt',
    metadata: [...ASKED_BY, 'kmsKeyArn'],
    bytes: new Set([
      'ciphertext',
      'ciphertextMetadata',
      'initializationVector',
      'authenticationTag',
      AAD,
    ]),
    run: decrypt,
  },
}

/** Reads the body, records for whom AWS KMS asks, and runs the operation. */
export async function runXksOperation(
  operation: XksOperation,
  call: XksCall,
  body: Uint8Array,
): Promise<Uint8Array> {
  const request = decodeJsonBytes(body, operation.bytes)
  try {
    checkMetadata(request, operation.metadata, call)
    return await operation.run(call, request)
  } finally {
    for (const bytes of request.bytes.values()) bytes.fill(0)
  }
}

function checkMetadata(
  { members }: JsonBytes,
  required: readonly string[],
  { record, externalKeyId }: XksCall,
): void {
  const metadata = members.get('requestMetadata')
  if (typeof metadata !== 'object' || metadata === null) {
    throw new KeyfoldError('REQUEST_MALFORMED', 'requestMetadata: an object is needed')
  }
  const said = new Map<string, unknown>(Object.entries(metadata))
  const parameters: [string, string][] =
    externalKeyId === '' ? [] : [['externalKeyId', externalKeyId]]
  for (const name of required) {
    const value = said.get(name)
    if (typeof value !== 'string') {
      throw new KeyfoldError('REQUEST_MALFORMED', `requestMetadata.${name}: text is needed`)
    }
    parameters.push([name, value.slice(0, AUDIT_PARAMETER_CHARACTERS_MAX)])
  }
  // Opaque: they tell an auditor which record of AWS CloudTrail's belongs to this one.
  if (record !== undefined) record.parameters = Object.fromEntries(parameters)
}

async function getKeyMetadata(call: XksCall): Promise<Uint8Array> {
  const kmsKey = await findKey(call)
  if (!may(call, 'kms:DescribeKey', kmsKey)) throw new KeyfoldError('ACCESS_DENIED')
  return encodeJsonBytes(
    {
      keySpec: kmsKey.keySpec === 'SYMMETRIC_DEFAULT' ? 'AES_256' : kmsKey.keySpec,
      keyUsage: usesOf(call, kmsKey),
      keyStatus: kmsKey.state === 'Enabled' ? 'ENABLED' : 'DISABLED',
    },
    {},
  )
}

function usesOf(call: XksCall, kmsKey: KmsKey): readonly string[] {
  if (kmsKey.keySpec !== 'SYMMETRIC_DEFAULT') return [kmsKey.keyUsage]
  return [
    ...(may(call, 'kms:Encrypt', kmsKey) ? ['ENCRYPT'] : []),
    ...(may(call, 'kms:Decrypt', kmsKey) ? ['DECRYPT'] : []),
  ]
}

async function encrypt(call: XksCall, request: JsonBytes): Promise<Uint8Array> {
  checkAlgorithm(request)
  const plaintext = neededBytes(request, 'plaintext', XKS_PLAINTEXT_BYTES_MAX)
  const aad = bytesOf(request, AAD, XKS_AAD_BYTES_MAX) ?? NO_BYTES
  const integrity = isIntegrityAsked(request)
  const kmsKey = await usableKey(call, 'kms:Encrypt')
  // Its value vouches for a ciphertext that was opened, which takes the right to open it.
  if (integrity) assertUse(call, 'kms:Decrypt', kmsKey)
  const encrypted = await call.engine.envelope.encryptXks({ kmsKey, aad, plaintext, integrity })
  used(call, kmsKey, encrypted.materialVersion, { bytes: plaintext.length, operation: 'Encrypt' })
  return encodeJsonBytes(
    {},
    {
      ciphertext: encrypted.ciphertext,
      ciphertextMetadata: encrypted.metadata,
      initializationVector: encrypted.iv,
      authenticationTag: encrypted.tag,
      ciphertextDataIntegrityValue: encrypted.integrityValue,
    },
  )
}

async function decrypt(call: XksCall, request: JsonBytes): Promise<Uint8Array> {
  checkAlgorithm(request)
  const parts = {
    ciphertext: neededBytes(request, 'ciphertext', XKS_PLAINTEXT_BYTES_MAX),
    metadata: request.bytes.get('ciphertextMetadata') ?? NO_BYTES,
    iv: neededBytes(request, 'initializationVector', XKS_PLAINTEXT_BYTES_MAX),
    tag: neededBytes(request, 'authenticationTag', XKS_PLAINTEXT_BYTES_MAX),
  }
  const aad = bytesOf(request, AAD, XKS_AAD_BYTES_MAX) ?? NO_BYTES
  const kmsKey = await usableKey(call, 'kms:Decrypt')
  const decrypted = await call.engine.envelope.decryptXks({ ...parts, kmsKey, aad })
  const { plaintext, materialVersion } = decrypted
  try {
    used(call, kmsKey, materialVersion, { bytes: plaintext.length, operation: 'Decrypt' })
    return encodeJsonBytes({}, { plaintext })
  } finally {
    plaintext.fill(0)
  }
}

// Keys.

async function usableKey(call: XksCall, action: 'kms:Encrypt' | 'kms:Decrypt'): Promise<KmsKey> {
  const kmsKey = await findKey(call)
  assertUse(call, action, kmsKey)
  return kmsKey
}

async function findKey({ engine, externalKeyId, record }: XksCall): Promise<KmsKey> {
  const kmsKey = await engine.kms.registry.resolve(referenceOf(externalKeyId))
  record?.about(kmsKey.arn)
  return kmsKey
}

/** Throws KMS_KEY_USAGE_INVALID where the principal knows that there is the key, else ACCESS_DENIED. */
function assertUse(call: XksCall, action: 'kms:Encrypt' | 'kms:Decrypt', kmsKey: KmsKey): void {
  if (may(call, action, kmsKey)) return
  throw may(call, 'kms:DescribeKey', kmsKey)
    ? new KeyfoldError('KMS_KEY_USAGE_INVALID', `${call.principal.arn} has no ${action} on it`)
    : new KeyfoldError('ACCESS_DENIED')
}

function may({ engine, principal, origin, externalKeyId }: XksCall, action: Action, key: KmsKey) {
  const alias = aliasNameOf(referenceOf(externalKeyId))
  return engine.authorizer.decide(principal, action, key, { ...origin, alias }).allowed
}

function referenceOf(externalKeyId: string): string {
  return isKeyId(externalKeyId) ? externalKeyId : `alias/${externalKeyId}`
}

function used(
  { engine, record }: XksCall,
  kmsKey: KmsKey,
  materialVersion: number,
  { bytes, operation }: { readonly bytes: number; readonly operation: string },
): void {
  if (record !== undefined) record.bytes = bytes
  countUses(engine.keyUses, [{ kmsKey, materialVersion, messages: 1 }], { bytes, operation })
}

// Members.

function checkAlgorithm({ members }: JsonBytes): void {
  if (members.get('encryptionAlgorithm') === 'AES_GCM') return
  throw new KeyfoldError('REQUEST_MALFORMED', 'encryptionAlgorithm: AES_GCM is needed')
}

function isIntegrityAsked({ members }: JsonBytes): boolean {
  const algorithm = members.get('ciphertextDataIntegrityValueAlgorithm') ?? undefined
  if (algorithm === undefined || algorithm === 'SHA_256') return algorithm !== undefined
  const detail = 'ciphertextDataIntegrityValueAlgorithm: SHA_256 is needed, or nothing'
  throw new KeyfoldError('REQUEST_MALFORMED', detail)
}

/** Throws OPERATION_UNSUPPORTED: the API lets a proxy have a limit, above the one that all have to reach. */
function bytesOf({ bytes }: JsonBytes, name: string, bytesMax: number): Uint8Array | undefined {
  const found = bytes.get(name)
  if (found === undefined || found.length <= bytesMax) return found
  throw new KeyfoldError('OPERATION_UNSUPPORTED', `${name}: at most ${bytesMax} bytes`)
}

function neededBytes(request: JsonBytes, name: string, bytesMax: number): Uint8Array {
  const found = bytesOf(request, name, bytesMax)
  if (found !== undefined) return found
  throw new KeyfoldError('REQUEST_MALFORMED', `${name}: is missing`)
}
