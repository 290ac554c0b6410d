/**
 * What a grant allows (AWS KMS Developer Guide, "Using grant constraints", "Granting CreateGrant permission" and
 * "Retiring and revoking grants"). A grant only ever adds; what a statement denies stays denied.
 */
import type { Grant } from '../kms-key.ts'
import type { Caller } from './condition-keys.ts'
import type { DecidedBy } from './decision.ts'

type Pairs = ReadonlyMap<string, string>
type NewGrant = Pick<Grant, 'granteePrincipal' | 'retiringPrincipal' | 'operations' | 'constraints'>

/**
 * Keys and values are compared as they are: the reference of GrantConstraints says that AWS ignores the case of keys,
 * the guide says that it does not, and a grant that fits less often gives nobody more.
 */
export function fitsContext({ constraints }: Grant, context: Pairs = NO_PAIRS): boolean {
  const { equals, subset } = constraints
  if (equals !== undefined && !(equals.size === context.size && isWithin(equals, context))) {
    return false
  }
  return subset === undefined || isWithin(subset, context)
}

const NO_PAIRS: Pairs = new Map()

/** Whether whoever may create grants by `parent` alone may create this one: no operation more, no constraint less. */
export function coversNewGrant(parent: Grant, child: NewGrant): boolean {
  if (!child.operations.every((operation) => parent.operations.includes(operation))) return false
  const { equals, subset } = parent.constraints
  const stated = child.constraints
  if (equals !== undefined) {
    if (stated.equals?.size !== equals.size || !isWithin(equals, stated.equals)) return false
  }
  if (subset === undefined) return true
  return [stated.subset, stated.equals].some((pairs) => pairs && isWithin(subset, pairs))
}

/**
 * The retiring principal may; the grantee, if the grant says so; and the account of the key, or of the retiring
 * principal where that is an account: its root, and whoever its identity policies let. Key policies have no say.
 */
export function mayRetire(
  { granteePrincipal, retiringPrincipal, operations }: NewGrant,
  caller: Caller,
  ofKeysAccount: boolean,
  byAccount: () => DecidedBy | undefined,
): DecidedBy | undefined {
  const named =
    caller.arn === retiringPrincipal ||
    (caller.arn === granteePrincipal && operations.includes('RetireGrant'))
  if (named) return { kind: 'grant', grantId: undefined }
  const ofRetiringAccount = retiringPrincipal === `arn:aws:iam::${caller.account}:root`
  return ofKeysAccount || ofRetiringAccount ? byAccount() : undefined
}

function isWithin(pairs: Pairs, context: Pairs): boolean {
  for (const [key, value] of pairs) if (context.get(key) !== value) return false
  return true
}
