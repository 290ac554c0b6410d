/**
 * Grants: permissions on one key for one principal, which whoever may create them hands out and takes back without
 * touching a policy (AWS KMS Developer Guide, "Grants in AWS KMS"). What they allow is decided in policy/; here they
 * are made, listed and ended. Both hold from the moment of the answer: whoever decides next reads the key's new record.
 */
import { randomBytes } from 'node:crypto'

import * as catalogGrants from '../catalog/grants.ts'
import { traitsOf } from '../crypto/key-spec.ts'
import { KeyfoldError } from '../errors.ts'
import {
  decodeGrantToken,
  encodeGrantToken,
  GRANT_TOKEN_NONCE_BYTES,
} from '../format/grant-token.ts'
import {
  GRANT_CONSTRAINT_PAIRS_MAX,
  GRANT_CONSTRAINT_VALUE_CHARACTERS_MAX,
  GRANTS_PER_KEY_MAX,
} from '../limits.ts'
import type { Grant, KmsKey } from './kms-key.ts'
import { pageOf, regionColumn, type KmsParts, type Page } from './parts.ts'
import { CONTEXT_ACTIONS } from './policy/condition-keys.ts'
import { PRINCIPAL_ARN_PATTERN } from './reference.ts'
import { grantOf } from './key-record.ts'

/** Every operation that a grant may be for (AWS KMS, "Grant operations"). */
export const GRANTABLE_OPERATIONS = [
  'CreateGrant',
  'Decrypt',
  'DeriveSharedSecret',
  'DescribeKey',
  'Encrypt',
  'GenerateDataKey',
  'GenerateDataKeyPair',
  'GenerateDataKeyPairWithoutPlaintext',
  'GenerateDataKeyWithoutPlaintext',
  'GenerateMac',
  'GetPublicKey',
  'ReEncryptFrom',
  'ReEncryptTo',
  'RetireGrant',
  'Sign',
  'Verify',
  'VerifyMac',
] as const

export type GrantOperation = (typeof GRANTABLE_OPERATIONS)[number]

export interface NewGrant extends Omit<Grant, 'id' | 'createdAtMs'> {
  /** Of whoever asks for it. */
  readonly issuingAccount: string
}

export interface GrantEntry extends Grant {
  readonly keyArn: string
  readonly issuingAccount: string
}

interface GrantPageRequest {
  readonly limit: number
  readonly marker: string | undefined
}

export class Grants {
  readonly #parts: KmsParts

  constructor(parts: KmsParts) {
    this.#parts = parts
  }

  /**
   * Of a grant with a name and otherwise the same parameters, which is there already, another token and no second grant:
   * whoever did not hear the first answer may ask again.
   */
  async create(
    reference: string,
    grant: NewGrant,
  ): Promise<{ readonly grantId: string; readonly grantToken: string }> {
    const { registry, nowMs } = this.#parts
    const kmsKey = await registry.resolve(reference)
    checkNewGrant(kmsKey, grant)
    let grantId = randomBytes(32).toString('hex')
    await registry.changeGrants(
      kmsKey.id,
      'CreateGrant',
      async (transaction, changeNumber, { grants }) => {
        const known = grants.find((other) => isRepeated(other, grant))
        if (known !== undefined) {
          grantId = known.id
          return grants
        }
        checkRoom(grants)
        const stored = {
          id: grantId,
          kmsKeyId: kmsKey.id,
          granteePrincipal: grant.granteePrincipal,
          retiringPrincipal: grant.retiringPrincipal ?? null,
          operations: grant.operations,
          constraints: plainConstraints(grant),
          name: grant.name ?? null,
          issuingAccount: grant.issuingAccount,
          createdAtMs: nowMs(),
        }
        await catalogGrants.insertGrant(transaction, stored, changeNumber)
        return [...grants, grantOf(stored)]
      },
    )
    const nonce = randomBytes(GRANT_TOKEN_NONCE_BYTES)
    return { grantId, grantToken: encodeGrantToken({ grantId, nonce }) }
  }

  async list(
    kmsKey: KmsKey,
    request: GrantPageRequest & {
      readonly grantId?: string | undefined
      readonly granteePrincipal?: string | undefined
    },
  ): Promise<Page<GrantEntry>> {
    const rows = await catalogGrants.listGrants(this.#parts.catalog.db, {
      ...pageOfGrants(request),
      kmsKeyId: kmsKey.id,
      id: request.grantId,
      granteePrincipal: request.granteePrincipal,
    })
    const page = pageOf(rows, request.limit, ({ id }) => id)
    return { ...page, items: page.items.map((row) => entryOf(row, kmsKey.arn)) }
  }

  /** Of all keys of a region that this principal may retire. */
  async listRetirable(
    request: GrantPageRequest & {
      readonly retiringPrincipal: string
      readonly region?: string | undefined
    },
  ): Promise<Page<GrantEntry>> {
    const { catalog, registry } = this.#parts
    const rows = await catalogGrants.listRetirableGrants(catalog.db, {
      ...pageOfGrants(request),
      retiringPrincipal: request.retiringPrincipal,
      region: regionColumn(this.#parts, request.region),
    })
    const page = pageOf(rows, request.limit, ({ id }) => id)
    const items: GrantEntry[] = []
    for (const row of page.items) {
      items.push(entryOf(row, (await registry.load(row.kmsKeyId)).arn))
    }
    return { ...page, items }
  }

  /** With its key; whether it may be told that there is none is the caller's to decide. */
  async find(
    grantId: string,
  ): Promise<{ readonly kmsKey: KmsKey; readonly grant: Grant } | undefined> {
    const { catalog, registry } = this.#parts
    const stored = await catalogGrants.readGrant(catalog.db, grantId)
    if (stored === undefined) return undefined
    return { kmsKey: await registry.load(stored.kmsKeyId), grant: grantOf(stored) }
  }

  /** Retires or revokes it. Throws GRANT_NOT_FOUND. */
  async end(
    { id: kmsKeyId }: KmsKey,
    grantId: string,
    operation: 'RetireGrant' | 'RevokeGrant',
  ): Promise<void> {
    await this.#parts.registry.changeGrants(
      kmsKeyId,
      operation,
      async (transaction, _changeNumber, { grants }) => {
        const left = grants.filter(({ id }) => id !== grantId)
        if (left.length === grants.length) throw grantNotFound(grantId)
        await catalogGrants.deleteGrant(transaction, grantId)
        return left
      },
    )
  }
}

// What may be asked for.

const GRANT_ID_PATTERN = /^[0-9a-f]{64}$/

/** Throws GRANT_ID_INVALID. */
export function checkGrantId(grantId: string): void {
  if (!GRANT_ID_PATTERN.test(grantId)) {
    throw new KeyfoldError('GRANT_ID_INVALID', 'a grant id has 64 hexadecimal digits')
  }
}

export function grantNotFound(grantId: string): KeyfoldError {
  return new KeyfoldError('GRANT_NOT_FOUND', `Grant ID ${grantId} not found`)
}

/** The grant that a token names. Throws GRANT_TOKEN_INVALID. */
export function grantIdOfToken(token: string): string {
  return decodeGrantToken(token).grantId
}

/** Throws ARN_INVALID. */
export function checkGrantPrincipal(principalArn: string): void {
  if (!PRINCIPAL_ARN_PATTERN.test(principalArn)) {
    throw new KeyfoldError(
      'ARN_INVALID',
      `ARN does not refer to a valid principal: ${principalArn}`,
    )
  }
}

/** Throws what AWS KMS answers to a grant that this key cannot have. */
export function checkNewGrant(kmsKey: KmsKey, grant: Omit<NewGrant, 'issuingAccount'>): void {
  checkGrantPrincipal(grant.granteePrincipal)
  if (grant.retiringPrincipal !== undefined) checkGrantPrincipal(grant.retiringPrincipal)
  const { operations, constraints } = grant
  const possible = possibleOperations(kmsKey)
  const impossible = operations.filter((operation) => !possible.has(operation))
  if (operations.length === 0 || impossible.length > 0) {
    throw new KeyfoldError(
      'REQUEST_MALFORMED',
      `Operations: ${impossible.join(', ')} not valid for a key of ${kmsKey.keySpec} for ` +
        `${kmsKey.keyUsage}; at least one of ${[...possible].join(', ')} is needed`,
    )
  }
  if (operations.every((operation) => operation === 'CreateGrant')) {
    throw new KeyfoldError(
      'REQUEST_MALFORMED',
      'Grants must not contain only the CreateGrant operation.',
    )
  }
  const { equals, subset } = constraints
  if (equals !== undefined) checkPairs('EncryptionContextEquals', equals)
  if (subset !== undefined) checkPairs('EncryptionContextSubset', subset)
  const unbound = operations.filter((operation) => !mayBeBound(operation, kmsKey))
  if ((equals ?? subset) !== undefined && unbound.length > 0) {
    throw new KeyfoldError(
      'REQUEST_MALFORMED',
      `Constraints: ${unbound.join(', ')} takes no encryption context`,
    )
  }
}

/** Of one key; beyond them CreateGrant answers LIMIT_EXCEEDED. */
export function checkRoom(grants: readonly Grant[]): void {
  if (grants.length >= GRANTS_PER_KEY_MAX) {
    throw new KeyfoldError('LIMIT_EXCEEDED', `at most ${GRANTS_PER_KEY_MAX} grants a key`)
  }
}

/** Whatever a key is for. */
const ANY_KEY: readonly GrantOperation[] = ['CreateGrant', 'DescribeKey', 'RetireGrant']
const RE_ENCRYPTION: readonly GrantOperation[] = [
  'Encrypt',
  'Decrypt',
  'ReEncryptFrom',
  'ReEncryptTo',
]
const SYMMETRIC: readonly GrantOperation[] = [
  ...RE_ENCRYPTION,
  'GenerateDataKey',
  'GenerateDataKeyWithoutPlaintext',
  'GenerateDataKeyPair',
  'GenerateDataKeyPairWithoutPlaintext',
]

function possibleOperations({ keySpec, keyUsage }: KmsKey): ReadonlySet<string> {
  const isSymmetric = keySpec === 'SYMMETRIC_DEFAULT'
  const ofUsage: Readonly<Record<KmsKey['keyUsage'], readonly GrantOperation[]>> = {
    ENCRYPT_DECRYPT: isSymmetric ? SYMMETRIC : [...RE_ENCRYPTION, 'GetPublicKey'],
    SIGN_VERIFY: ['Sign', 'Verify', 'GetPublicKey'],
    GENERATE_VERIFY_MAC: ['GenerateMac', 'VerifyMac'],
    KEY_AGREEMENT: ['DeriveSharedSecret', 'GetPublicKey'],
  }
  return new Set([...ofUsage[keyUsage], ...ANY_KEY])
}

/**
 * A constraint on an encryption context would not hold for an operation that takes none, so both do not go together,
 * but for DescribeKey, RetireGrant and CreateGrant (AWS KMS, CreateGrant, "Constraints").
 */
function mayBeBound(operation: string, { keySpec }: KmsKey): boolean {
  const ofAny: readonly string[] = ANY_KEY
  const takesContext = traitsOf(keySpec).encryptionAlgorithms.includes('SYMMETRIC_DEFAULT')
  return ofAny.includes(operation) || (takesContext && CONTEXT_ACTIONS.has(`kms:${operation}`))
}

/** An empty constraint would look to a policy like one, and be none. */
function checkPairs(name: string, pairs: ReadonlyMap<string, string>): void {
  if (pairs.size < 1 || pairs.size > GRANT_CONSTRAINT_PAIRS_MAX) {
    throw new KeyfoldError('REQUEST_MALFORMED', `${name}: 1 to ${GRANT_CONSTRAINT_PAIRS_MAX} pairs`)
  }
  for (const value of pairs.values()) {
    if (value.length > GRANT_CONSTRAINT_VALUE_CHARACTERS_MAX) {
      throw new KeyfoldError(
        'REQUEST_MALFORMED',
        `${name}: values have at most ${GRANT_CONSTRAINT_VALUE_CHARACTERS_MAX} characters`,
      )
    }
  }
}

// Inside.

function pageOfGrants({ limit, marker }: GrantPageRequest): catalogGrants.GrantPage {
  if (marker !== undefined && !GRANT_ID_PATTERN.test(marker))
    throw new KeyfoldError('MARKER_INVALID')
  return { afterId: marker ?? '', limit: limit + 1 }
}

function entryOf(stored: catalogGrants.StoredGrant, keyArn: string): GrantEntry {
  return { ...grantOf(stored), keyArn, issuingAccount: stored.issuingAccount }
}

function plainConstraints({
  constraints: { equals, subset },
}: Pick<Grant, 'constraints'>): catalogGrants.GrantConstraints {
  return {
    ...(equals === undefined ? {} : { equals: Object.fromEntries(equals) }),
    ...(subset === undefined ? {} : { subset: Object.fromEntries(subset) }),
  }
}

function isRepeated(known: Grant, grant: NewGrant): boolean {
  return grant.name !== undefined && known.name === grant.name && spell(known) === spell(grant)
}

/** The same for grants that allow the same to the same, in whatever order it was said. */
function spell(grant: Omit<Grant, 'id' | 'createdAtMs'>): string {
  const { granteePrincipal, retiringPrincipal = null, operations, constraints } = grant
  const pairs = [constraints.equals, constraints.subset].map((map) => map && [...map].sort())
  return JSON.stringify([granteePrincipal, retiringPrincipal, [...operations].sort(), pairs])
}
