/**
 * How callers name a KMS key, and how keyfold spells it out: key id, key ARN, alias, alias ARN (AWS KMS,
 * "Key identifiers").
 */
import { createHash, randomUUID } from 'node:crypto'

import { KeyfoldError } from '../errors.ts'
import { kmsKeyIdText } from '../format/wrapped-key.ts'
import { ALIAS_CHARACTERS_MAX } from '../limits.ts'

const ALIAS_PREFIX = 'alias/'
/** Of keys that the service manages itself: callers give no alias such a name. */
export const MANAGED_ALIAS_PREFIX = 'alias/aws/'
const ALIAS_PATTERN = /^alias\/[a-zA-Z0-9/_-]+$/
const ID_PATTERN =
  /^(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|mrk-[0-9a-f]{32})$/
const MULTI_REGION_PREFIX = 'mrk-'

/** Who may be named as a principal: an account, a user or a role, and no part of a name by a wildcard. */
export const PRINCIPAL_ARN_PATTERN =
  /^arn:aws:iam::\d{12}:(?:root|user\/[\w+=,.@/-]+|role\/[\w+=,.@/-]+)$/

export interface Location {
  readonly region: string
  readonly account: string
}

/** What a name stands for, and where: an ARN says its region, other names are of the region that was asked. */
export type KeyReference = { readonly region: string } & (
  { readonly kind: 'id'; readonly id: string } | { readonly kind: 'alias'; readonly alias: string }
)

const ARN_PATTERN = /^arn:aws:kms:([a-z0-9-]+):(\d{12}):(?:key\/(.+)|(alias\/.+))$/

/** Throws KMS_KEY_NOT_FOUND: what is not a name cannot be a key, nor can a key of another region or account. */
export function parseKeyReference(
  reference: string,
  { regions, account }: { readonly regions: readonly string[]; readonly account: string },
  region: string,
): KeyReference {
  let id = reference
  let alias = reference.startsWith(ALIAS_PREFIX) ? reference : undefined
  let where = region
  if (reference.startsWith('arn:')) {
    const match = ARN_PATTERN.exec(reference)
    if (match === null || match[2] !== account || !regions.includes(match[1] as string)) {
      throw new KeyfoldError('KMS_KEY_NOT_FOUND', 'the ARN is of no key here')
    }
    where = match[1] as string
    id = match[3] ?? ''
    alias = match[4]
  }
  if (alias !== undefined) return { kind: 'alias', alias, region: where }
  if (!isKeyId(id)) {
    throw new KeyfoldError('KMS_KEY_NOT_FOUND', 'a key id, key ARN, alias or alias ARN is needed')
  }
  return { kind: 'id', id, region: where }
}

export function isKeyId(reference: string): boolean {
  return ID_PATTERN.test(reference)
}

/** `alias/NAME` of an alias or alias ARN, however the key was named; undefined of anything else. */
export function aliasNameOf(reference: string): string | undefined {
  if (reference.startsWith(ALIAS_PREFIX)) return reference
  if (!reference.startsWith('arn:')) return undefined
  const resource = reference.split(':').slice(5).join(':')
  return resource.startsWith(ALIAS_PREFIX) ? resource : undefined
}

export function keyArn(id: string, { region, account }: Location): string {
  return `arn:aws:kms:${region}:${account}:key/${id}`
}

export function aliasArn(alias: string, { region, account }: Location): string {
  return `arn:aws:kms:${region}:${account}:${alias}`
}

/** A name that a caller may give to an alias. Throws ALIAS_INVALID. */
export function checkAliasName(alias: string): void {
  if (!ALIAS_PATTERN.test(alias)) {
    throw new KeyfoldError('ALIAS_INVALID', 'alias/ and then letters, digits, / _ - are needed')
  }
  if (alias.length > ALIAS_CHARACTERS_MAX) {
    throw new KeyfoldError('ALIAS_INVALID', `at most ${ALIAS_CHARACTERS_MAX} characters`)
  }
  if (alias.startsWith(MANAGED_ALIAS_PREFIX)) {
    throw new KeyfoldError('ALIAS_INVALID', `${MANAGED_ALIAS_PREFIX} is reserved`)
  }
}

/** Multi-Region keys have ids of their own form, which all of their replicas share. */
export function createKeyId(multiRegion: boolean): string {
  const id = randomUUID()
  return multiRegion ? MULTI_REGION_PREFIX + id.replaceAll('-', '') : id
}

/** How the catalog names the replica of a multi-Region key in another region than its first. */
export function replicaRowId(keyId: string, region: string): string {
  return `${keyId}@${region}`
}

/** The 16 bytes that ciphertexts carry for a key id. */
export function keyIdBytes(id: string): Uint8Array {
  return Uint8Array.from(
    Buffer.from(id.replace(MULTI_REGION_PREFIX, '').replaceAll('-', ''), 'hex'),
  )
}

/** The two ids that 16 bytes may stand for: a UUID, or the id of a multi-Region key. */
export function keyIdsOfBytes(bytes: Uint8Array): readonly [string, string] {
  const uuid = kmsKeyIdText(bytes)
  return [uuid, MULTI_REGION_PREFIX + uuid.replaceAll('-', '')]
}

/**
 * The public name of one version of key material, 64 hex digits (AWS KMS, "KeyMaterialId"). It says nothing of the
 * material: it names the key and the version.
 */
export function materialId({ keyId }: { readonly keyId: string }, version: number): string {
  return createHash('sha256').update(`keyfold/material-id/v1/${keyId}/${version}`).digest('hex')
}
