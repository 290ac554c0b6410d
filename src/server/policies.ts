/** Policies over the API: those of keys, those of principals, and why a request is allowed or not. */
import { KeyfoldError } from '../errors.ts'
import { malformed, type PlainValue } from '../format/msgpack.ts'
import type { Action, KmsKey, Principal } from '../kms/kms-key.ts'
import { aliasNameOf, PRINCIPAL_ARN_PATTERN } from '../kms/reference.ts'
import {
  authorizeKey,
  authorizeService,
  optionalBoolean,
  optionalText,
  optionalTexts,
  text,
  type ManagementHandler,
  type ManagementRequest,
} from './management.ts'

export const getKeyPolicy: ManagementHandler = async (request) => {
  const { policy } = await authorizeKey(request, 'kms:GetKeyPolicy', request.name)
  return { policy }
}

export const putKeyPolicy: ManagementHandler = async (request) => {
  const { engine, principal, origin, fields, name } = request
  const policy = text(fields, 'policy')
  const bypass = optionalBoolean(fields, 'bypassPolicyLockoutSafetyCheck') ?? false
  const attributes = { parameters: { 'kms:BypassPolicyLockoutSafetyCheck': bypass } }
  const kmsKey = await authorizeKey(request, 'kms:PutKeyPolicy', name, attributes)
  if (!bypass) {
    engine.authorizer.assertNoLockout(principal, kmsKey, policy, { ...origin, ...attributes })
  }
  await engine.kms.putKeyPolicy(kmsKey.arn, policy)
  return {}
}

export const listIdentityPolicies: ManagementHandler = async (request) => {
  authorizeService(request, 'keyfold:ManageIdentityPolicies')
  const principal = request.query.get('principal') ?? undefined
  const found = request.engine.identityPolicies.list(principal)
  return { policies: found.map(({ principalArn, name }) => ({ principal: principalArn, name })) }
}

export const getIdentityPolicy: ManagementHandler = async (request) => {
  authorizeService(request, 'keyfold:ManageIdentityPolicies')
  const { engine, name } = request
  const { principalArn, document } = engine.identityPolicies.get(principalOf(request), name)
  return { principal: principalArn, name, policy: document }
}

export const putIdentityPolicy: ManagementHandler = async (request) => {
  authorizeService(request, 'keyfold:ManageIdentityPolicies')
  const { engine, fields, name } = request
  await engine.identityPolicies.put({
    principalArn: text(fields, 'principal'),
    name,
    document: text(fields, 'policy'),
  })
  return {}
}

export const deleteIdentityPolicy: ManagementHandler = async (request) => {
  authorizeService(request, 'keyfold:ManageIdentityPolicies')
  await request.engine.identityPolicies.delete(principalOf(request), request.name)
  return {}
}

function principalOf({ query }: ManagementRequest): string {
  const principal = query.get('principal')
  if (principal === null) throw malformed('principal', 'is missing in the query')
  return principal
}

/** `keyfold:` and the rest, as far as somebody may ask about them. */
const ACTION_PATTERN = /^(?:kms|keyfold):[A-Za-z]{1,64}$/

/**
 * What would be decided, and by which statement or grant. About themselves anybody may ask, but who may not read
 * policies learns of a refusal only that it is one: the reason would tell a forbidden key from an absent one.
 * Another principal is taken as one with an access key, whose credential bounds nothing.
 */
export const explainPolicy: ManagementHandler = async (request) => {
  const { engine, principal, origin, fields } = request
  const about = optionalText(fields, 'principal') ?? principal.arn
  const action = text(fields, 'action')
  const reference = optionalText(fields, 'key')
  if (!ACTION_PATTERN.test(action)) throw malformed('action', 'kms:NAME or keyfold:NAME is needed')
  if (!PRINCIPAL_ARN_PATTERN.test(about)) throw malformed('principal', 'an ARN is needed')
  const readsPolicies = engine.authorizer.decide(
    principal,
    'keyfold:ExplainPolicy',
    undefined,
    origin,
  ).allowed
  if (about !== principal.arn) authorizeService(request, 'keyfold:ExplainPolicy')
  let kmsKey: KmsKey | undefined
  try {
    kmsKey = reference === undefined ? undefined : await engine.kms.registry.resolve(reference)
  } catch (error) {
    const absent = error instanceof KeyfoldError && error.code === 'KMS_KEY_NOT_FOUND'
    if (!absent || readsPolicies) throw error
    return REFUSED
  }
  const asking = about === principal.arn ? principal : withAccessKey(about)
  const decision = engine.authorizer.decide(asking, action as Action, kmsKey, {
    ...origin,
    alias: reference === undefined ? undefined : aliasNameOf(reference),
    encryptionContext: optionalTexts(fields, 'context'),
  })
  if (!decision.allowed && !readsPolicies) return REFUSED
  return { allowed: decision.allowed, by: { ...decision.by }, reason: decision.reason }
}

const REFUSED: PlainValue = {
  allowed: false,
  by: { kind: 'nothing' },
  reason: 'it is refused; why is for those with keyfold:ExplainPolicy',
}

function withAccessKey(arn: string): Principal {
  return {
    arn,
    credential: 'access-key',
    tokenId: '',
    actions: ['*'],
    keys: ['*'],
    expiresAtMs: undefined,
  }
}
