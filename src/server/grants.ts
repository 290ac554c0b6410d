/** Grants over the API: permissions on one key for one principal. */
import { malformed, type PlainValue, type Value } from '../format/msgpack.ts'
import { KeyfoldError } from '../errors.ts'
import {
  checkGrantId,
  checkGrantPrincipal,
  checkNewGrant,
  grantNotFound,
  type GrantEntry,
} from '../kms/grants.ts'
import type { Action, Grant, KmsKey } from '../kms/kms-key.ts'
import { pageLimit } from '../kms/parts.ts'
import { accountOf } from '../kms/policy/condition-keys.ts'
import {
  authorizeKey,
  authorizeService,
  optionalText,
  optionalTexts,
  pageRequest,
  text,
  textList,
  type ManagementHandler,
  type ManagementRequest,
} from './management.ts'

export const createGrant: ManagementHandler = async (request) => {
  const { engine, principal, fields } = request
  const grant = {
    granteePrincipal: text(fields, 'granteePrincipal'),
    retiringPrincipal: optionalText(fields, 'retiringPrincipal'),
    operations: [...new Set(textList(fields, 'operations'))],
    constraints: constraintsOf(fields),
    name: optionalName(fields),
  }
  checkGrantPrincipal(grant.granteePrincipal)
  const kmsKey = await authorizeKey(request, 'kms:CreateGrant', text(fields, 'key'), { grant })
  checkNewGrant(kmsKey, grant)
  const issuingAccount = accountOf(principal.arn)
  return { ...(await engine.kms.grants.create(kmsKey.arn, { ...grant, issuingAccount })) }
}

/** Of a key, or of all keys those that a principal may retire. */
export const listGrants: ManagementHandler = async (request) => {
  const { engine, principal, query } = request
  const { limit, marker } = pageRequest(query)
  const page = { limit: pageLimit(limit), marker }
  const key = query.get('key')
  const retiringPrincipal = query.get('retiringPrincipal')
  if ((key === null) === (retiringPrincipal === null)) {
    throw malformed('query', 'either key or retiringPrincipal is needed')
  }
  if (key !== null) {
    const kmsKey = await authorizeKey(request, 'kms:ListGrants', key)
    const granteePrincipal = query.get('granteePrincipal') ?? undefined
    return grantPage(await engine.kms.grants.list(kmsKey, { ...page, granteePrincipal }))
  }
  const retiring = retiringPrincipal as string
  checkGrantPrincipal(retiring)
  authorizeService(request, 'kms:ListRetirableGrants')
  if (accountOf(retiring) !== accountOf(principal.arn)) throw new KeyfoldError('ACCESS_DENIED')
  return grantPage(await engine.kms.grants.listRetirable({ ...page, retiringPrincipal: retiring }))
}

export const revokeGrant: ManagementHandler = (request) => endGrant(request, 'RevokeGrant')

export const retireGrant: ManagementHandler = (request) => endGrant(request, 'RetireGrant')

async function endGrant(
  request: ManagementRequest,
  operation: 'RevokeGrant' | 'RetireGrant',
): Promise<PlainValue> {
  const { engine, principal, origin, name: grantId } = request
  const action: Action = `kms:${operation}`
  checkGrantId(grantId)
  const found: { readonly kmsKey: KmsKey; readonly grant: Grant } | undefined =
    await engine.kms.grants.find(grantId)
  if (found === undefined) {
    const told = engine.authorizer.absentKeyError(principal, action)
    throw told.code === 'KMS_KEY_NOT_FOUND' ? grantNotFound(grantId) : told
  }
  const { kmsKey, grant } = found
  engine.authorizer.authorize(principal, action, kmsKey, { ...origin, grant })
  await engine.kms.grants.end(kmsKey, grantId, operation)
  return {}
}

/** What AWS KMS takes as the name of a grant. */
const NAME_PATTERN = /^[a-zA-Z0-9:/_-]{1,256}$/

function optionalName(fields: ReadonlyMap<string, Value>): string | undefined {
  const name = optionalText(fields, 'name')
  if (name === undefined || NAME_PATTERN.test(name)) return name
  throw malformed('name', '1 to 256 letters, digits and : / _ - are needed')
}

function constraintsOf(fields: ReadonlyMap<string, Value>): Grant['constraints'] {
  return {
    equals: optionalTexts(fields, 'encryptionContextEquals'),
    subset: optionalTexts(fields, 'encryptionContextSubset'),
  }
}

function grantPage({
  items,
  nextMarker,
}: Awaited<ReturnType<ManagementRequest['engine']['kms']['grants']['list']>>): PlainValue {
  return { grants: items.map(describe), nextMarker }
}

function describe({ id, keyArn, constraints, operations, ...grant }: GrantEntry): PlainValue {
  const { equals, subset } = constraints
  return {
    grantId: id,
    keyArn,
    ...grant,
    operations: [...operations],
    encryptionContextEquals: equals && Object.fromEntries(equals),
    encryptionContextSubset: subset && Object.fromEntries(subset),
  }
}
