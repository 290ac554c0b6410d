/**
 * Grants. Whether a grant may be created or revoked is up to the key's policies, and to grants themselves; whether it
 * may be retired is up to the grant.
 */
import { KeyfoldError } from '../../errors.ts'
import {
  checkGrantId,
  checkGrantPrincipal,
  checkNewGrant,
  checkRoom,
  grantIdOfToken,
  GRANTABLE_OPERATIONS,
  grantNotFound,
  type GrantEntry,
  type NewGrant,
} from '../../kms/grants.ts'
import type { Grant, KmsKey } from '../../kms/kms-key.ts'
import type { Page } from '../../kms/parts.ts'
import { accountOf } from '../../kms/policy/condition-keys.ts'
import type { Call } from './call.ts'
import { DRY_RUN, GRANT_TOKENS, KEY_ID, OPTIONAL_KEY_ID, paging } from './members.ts'
import { free, keyed, seconds, type Operation, type Output } from './operation.ts'
import {
  list,
  oneOf,
  optional,
  required,
  structure,
  text,
  textMap,
  type Input,
  type Shape,
} from './shapes.ts'

/** Both lists of grants answer at most so many. */
const PAGE_MAX = 100
const PAGE_DEFAULT = 50

const principal = text({ min: 1, max: 256 })
const grantId = text({ min: 1, max: 128 })
const servicePrincipal = text({ min: 1, max: 256 })

const knownConstraints = structure({
  EncryptionContextEquals: optional(textMap),
  EncryptionContextSubset: optional(textMap),
})

/** A constraint that is not known is refused, unlike other members: left out, the grant would allow more. */
const constraints: Shape<Grant['constraints']> = (value, at) => {
  const { EncryptionContextEquals: equals, EncryptionContextSubset: subset } = knownConstraints(
    value,
    at,
  )
  for (const name of Object.keys(value as object)) {
    if (name !== 'EncryptionContextEquals' && name !== 'EncryptionContextSubset') {
      throw new KeyfoldError('REQUEST_MALFORMED', `Constraints: ${name} is not supported`)
    }
  }
  return { equals, subset }
}

const NEW_GRANT = {
  ...KEY_ID,
  ...GRANT_TOKENS,
  ...DRY_RUN,
  GranteePrincipal: required(principal),
  GranteeServicePrincipal: optional(servicePrincipal),
  RetiringPrincipal: optional(principal),
  RetiringServicePrincipal: optional(servicePrincipal),
  Operations: required(list(oneOf(...GRANTABLE_OPERATIONS), { max: 1_000 })),
  Constraints: optional(constraints),
  Name: optional(text({ min: 1, max: 256, pattern: /^[a-zA-Z0-9:/_-]+$/ })),
} as const

export const GRANT_OPERATIONS: readonly Operation[] = [
  keyed(
    'CreateGrant',
    NEW_GRANT,
    async (call, input, kmsKey) => {
      const created = await call.engine.kms.grants.create(kmsKey.arn, {
        ...grantOf(input),
        issuingAccount: accountOf(call.principal.arn),
      })
      return { GrantId: created.grantId, GrantToken: created.grantToken }
    },
    {
      check: (input) => {
        refuseServices(input.GranteeServicePrincipal, input.RetiringServicePrincipal)
        checkGrantPrincipal(input.GranteePrincipal)
      },
      attributes: (input) => ({ grant: grantOf(input) }),
      checkKey: (input, kmsKey) => {
        checkNewGrant(kmsKey, grantOf(input))
        checkRoom(kmsKey.grants)
      },
    },
  ),
  keyed(
    'ListGrants',
    {
      ...KEY_ID,
      ...paging(PAGE_MAX),
      GrantId: optional(grantId),
      GranteePrincipal: optional(principal),
      GranteeServicePrincipal: optional(servicePrincipal),
    },
    async (call, input, kmsKey) => {
      const found = await call.engine.kms.grants.list(kmsKey, {
        limit: input.Limit ?? PAGE_DEFAULT,
        marker: input.Marker,
        grantId: input.GrantId,
        granteePrincipal: input.GranteePrincipal,
      })
      return grantList(found)
    },
    {
      check: (input) => {
        refuseServices(input.GranteeServicePrincipal)
        if (input.GrantId !== undefined) checkGrantId(input.GrantId)
      },
    },
  ),
  free(
    'ListRetirableGrants',
    {
      ...paging(PAGE_MAX),
      RetiringPrincipal: required(principal),
      RetiringServicePrincipal: optional(servicePrincipal),
    },
    async (call, input) => {
      refuseServices(input.RetiringServicePrincipal)
      const retiringPrincipal = input.RetiringPrincipal
      checkGrantPrincipal(retiringPrincipal)
      call.authorizeService('kms:ListRetirableGrants')
      // An account lists what its own principals may retire, whosever keys it is on.
      if (accountOf(retiringPrincipal) !== accountOf(call.principal.arn)) {
        throw call.denied('kms:ListRetirableGrants')
      }
      const found = await call.engine.kms.grants.listRetirable({
        limit: input.Limit ?? PAGE_DEFAULT,
        marker: input.Marker,
        retiringPrincipal,
        region: call.region,
      })
      return grantList(found)
    },
  ),
  free(
    'RetireGrant',
    {
      ...OPTIONAL_KEY_ID,
      ...DRY_RUN,
      GrantToken: optional(text({ min: 1, max: 8_192 })),
      GrantId: optional(grantId),
    },
    async (call, input) => {
      const { id, found } = await grantToRetire(call, input)
      if (found === undefined) throw call.absent(grantNotFound(id), 'kms:RetireGrant')
      const { kmsKey, grant } = found
      call.authorize('kms:RetireGrant', kmsKey, { grant })
      if (input.DryRun === true) throw new KeyfoldError('DRY_RUN')
      await call.engine.kms.grants.end(kmsKey, id, 'RetireGrant')
      return {}
    },
  ),
  keyed(
    'RevokeGrant',
    { ...KEY_ID, ...DRY_RUN, GrantId: required(grantId) },
    async (call, input, kmsKey) => {
      await call.engine.kms.grants.end(kmsKey, input.GrantId, 'RevokeGrant')
      return {}
    },
    {
      check: (input) => checkGrantId(input.GrantId),
      checkKey: ({ GrantId }, { grants }) => {
        if (!grants.some(({ id }) => id === GrantId)) throw grantNotFound(GrantId)
      },
    },
  ),
]

/** There are no services of AWS here whose principals could be named: nobody has what is meant for one. */
function refuseServices(...principals: readonly (string | undefined)[]): void {
  if (principals.every((given) => given === undefined)) return
  throw new KeyfoldError('REQUEST_MALFORMED', 'there are no service principals')
}

function grantOf(input: Input<typeof NEW_GRANT>): Omit<NewGrant, 'issuingAccount'> {
  return {
    granteePrincipal: input.GranteePrincipal,
    retiringPrincipal: input.RetiringPrincipal,
    operations: [...new Set(input.Operations)],
    constraints: input.Constraints ?? { equals: undefined, subset: undefined },
    name: input.Name,
  }
}

/** Either a token names it, or the key and its id. */
async function grantToRetire(
  call: Call,
  input: {
    readonly GrantToken: string | undefined
    readonly KeyId: string | undefined
    readonly GrantId: string | undefined
  },
): Promise<{
  readonly id: string
  readonly found: { readonly kmsKey: KmsKey; readonly grant: Grant } | undefined
}> {
  const { GrantToken: token, KeyId: reference, GrantId: id } = input
  if (token !== undefined && reference === undefined && id === undefined) {
    const named = grantIdOfToken(token)
    const found = await call.engine.kms.grants.find(named)
    return { id: named, found: found?.kmsKey.region === call.region ? found : undefined }
  }
  if (token !== undefined || reference === undefined || id === undefined) {
    throw new KeyfoldError(
      'REQUEST_MALFORMED',
      'either GrantToken is needed, or both KeyId and GrantId',
    )
  }
  checkGrantId(id)
  const kmsKey = await call.resolve(reference, 'kms:RetireGrant')
  const grant = kmsKey.grants.find((other) => other.id === id)
  return { id, found: grant && { kmsKey, grant } }
}

function grantList({ items, nextMarker }: Page<GrantEntry>): Output {
  return {
    Grants: items.map((grant) => ({
      KeyId: grant.keyArn,
      GrantId: grant.id,
      Name: grant.name,
      CreationDate: seconds(grant.createdAtMs),
      GranteePrincipal: grant.granteePrincipal,
      RetiringPrincipal: grant.retiringPrincipal,
      IssuingAccount: `arn:aws:iam::${grant.issuingAccount}:root`,
      Operations: grant.operations,
      Constraints: constraintsOf(grant),
    })),
    Truncated: nextMarker !== undefined,
    NextMarker: nextMarker,
  }
}

function constraintsOf({ constraints: { equals, subset } }: Grant): Output | undefined {
  if (equals === undefined && subset === undefined) return undefined
  return {
    EncryptionContextEquals: equals && Object.fromEntries(equals),
    EncryptionContextSubset: subset && Object.fromEntries(subset),
  }
}
