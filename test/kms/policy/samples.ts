/** Principals, keys and documents to ask about; AWS's documentation uses the same two accounts. */
import { Authorizer } from '../../../dist/kms/authorizer.js'
import type {
  Action,
  Grant,
  KmsKey,
  Principal,
  RequestAttributes,
} from '../../../dist/kms/kms-key.js'
import type { NamedPolicy } from '../../../dist/kms/policy/decide.js'
import type { Decision } from '../../../dist/kms/policy/decision.js'
import { compileIdentityPolicy } from '../../../dist/kms/policy/document.js'

export const ACCOUNT = '111122223333'
export const OTHER_ACCOUNT = '444455556666'
export const LOCATION = { region: 'us-west-2', account: ACCOUNT }
export const ROOT = `arn:aws:iam::${ACCOUNT}:root`
export const OTHER_ROOT = `arn:aws:iam::${OTHER_ACCOUNT}:root`
export const ALICE = `arn:aws:iam::${ACCOUNT}:user/Alice`
export const BOB = `arn:aws:iam::${ACCOUNT}:user/Bob`
export const ADMIN = `arn:aws:iam::${ACCOUNT}:role/Admin`
export const EVE = `arn:aws:iam::${OTHER_ACCOUNT}:user/Eve`
export const KEY_ID = '1234abcd-12ab-34cd-56ef-1234567890ab'
export const KEY_ARN = `arn:aws:kms:us-west-2:${ACCOUNT}:key/${KEY_ID}`

export type StatementJson = Readonly<Record<string, unknown>>

/** A document of these statements; a key policy's concern everybody unless they say whom. */
export function documentOf(...statements: readonly StatementJson[]): string {
  return JSON.stringify({ Version: '2012-10-17', Statement: statements })
}

export const allow = (statement: StatementJson = {}): StatementJson => ({
  Effect: 'Allow',
  Action: 'kms:*',
  Resource: '*',
  ...statement,
})

export const deny = (statement: StatementJson = {}): StatementJson =>
  allow({ Effect: 'Deny', ...statement })

/** The statement of the default key policy. */
export const DELEGATE = allow({ Sid: 'Enable IAM User Permissions', Principal: { AWS: ROOT } })

export const to = (...principals: readonly string[]): StatementJson => ({
  Principal: { AWS: principals },
})

/** By access key, which allows nothing by itself. */
export function principalOf(arn: string, fields: Partial<Principal> = {}): Principal {
  return {
    arn,
    credential: 'access-key',
    tokenId: 'id',
    actions: ['*'],
    keys: ['*'],
    expiresAtMs: undefined,
    ...fields,
  }
}

export function tokenOf(arn: string, actions = ['kms:*'], keys = ['*']): Principal {
  return principalOf(arn, { credential: 'token', actions, keys })
}

export function keyOf(fields: Partial<KmsKey> = {}): KmsKey {
  return {
    id: KEY_ID,
    keyId: KEY_ID,
    idBytes: new Uint8Array(16),
    region: 'us-west-2',
    deletionAtMs: undefined,
    pendingWindowDays: undefined,
    rotationPeriodDays: undefined,
    nextRotationAtMs: undefined,
    arn: KEY_ARN,
    state: 'Enabled',
    keySpec: 'SYMMETRIC_DEFAULT',
    keyUsage: 'ENCRYPT_DECRYPT',
    origin: 'AWS_KMS',
    manager: 'CUSTOMER',
    multiRegion: undefined,
    policy: documentOf(DELEGATE),
    grants: [],
    aliases: [],
    description: '',
    createdAtMs: 0,
    keyStore: 'local',
    externalKeyId: undefined,
    currentVersion: 1,
    materials: new Map(),
    materialValidToMs: undefined,
    tags: new Map(),
    epoch: 1,
    ...fields,
  }
}

export function grantOf(fields: Partial<Grant> = {}): Grant {
  return {
    id: 'a'.repeat(64),
    granteePrincipal: ALICE,
    retiringPrincipal: undefined,
    operations: ['Decrypt'],
    constraints: { equals: undefined, subset: undefined },
    name: undefined,
    createdAtMs: 0,
    ...fields,
  }
}

/** Documents by principal. */
export type Attached = Readonly<Record<string, string | undefined>>

/** What IdentityPolicies answers, and a way to change it. */
export class AttachedPolicies {
  #attached: Attached
  readonly #listeners: (() => void)[] = []

  constructor(attached: Attached = {}) {
    this.#attached = attached
  }

  of(arn: string): readonly NamedPolicy[] {
    const document = this.#attached[arn]
    return document === undefined
      ? []
      : [{ name: 'attached', policy: compileIdentityPolicy(document) }]
  }

  onChange(listener: () => void): void {
    this.#listeners.push(listener)
  }

  replace(attached: Attached): void {
    this.#attached = attached
    for (const listener of this.#listeners) listener()
  }
}

export interface Scene {
  readonly principal: Principal
  readonly action?: Action
  readonly kmsKey?: KmsKey | undefined
  readonly attributes?: RequestAttributes
  readonly attached?: Attached
  readonly nowMs?: number
}

/** The decision by an authorizer that was never asked before. */
export function decide(scene: Scene): Decision {
  const authorizer = new Authorizer({
    location: LOCATION,
    identityPolicies: new AttachedPolicies(scene.attached),
    nowMs: () => scene.nowMs ?? 0,
  })
  return authorizer.decide(
    scene.principal,
    scene.action ?? 'kms:Decrypt',
    'kmsKey' in scene ? scene.kmsKey : keyOf(),
    scene.attributes ?? {},
  )
}

export const isAllowed = (scene: Scene): boolean => decide(scene).allowed
