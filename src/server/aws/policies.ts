/**
 * Key policies. A key has exactly one, called `default`, and it is answered as it was put, byte for byte: clients
 * compare it with what they mean to have.
 */
import { KeyfoldError } from '../../errors.ts'
import { LIST_PAGE_MAX, POLICY_BYTES_MAX } from '../../limits.ts'
import type { KmsKey, RequestAttributes } from '../../kms/kms-key.ts'
import { compileKeyPolicy } from '../../kms/policy/document.ts'
import type { Call } from './call.ts'
import { KEY_ID, paging, policyDocument } from './members.ts'
import { keyed, type Operation } from './operation.ts'
import { flag, optional, required, text } from './shapes.ts'

const NAME = 'default'

/** Any other name is one of no policy: that is not found, and no malformed request. */
const policyName = text({ min: 1, max: 128, pattern: /^[\w]+$/ })

/** What an operation that sets a policy takes. */
export const POLICY_MEMBERS = {
  Policy: optional(policyDocument),
  BypassPolicyLockoutSafetyCheck: optional(flag),
} as const

interface PolicyInput {
  readonly Policy: string | undefined
  readonly BypassPolicyLockoutSafetyCheck: boolean | undefined
}

export const POLICY_OPERATIONS: readonly Operation[] = [
  keyed(
    'GetKeyPolicy',
    { ...KEY_ID, PolicyName: optional(policyName) },
    async (_call, input, { policy }) => {
      checkName(input.PolicyName)
      return { Policy: policy, PolicyName: NAME }
    },
  ),
  keyed(
    'PutKeyPolicy',
    {
      ...KEY_ID,
      ...POLICY_MEMBERS,
      PolicyName: optional(policyName),
      Policy: required(policyDocument),
    },
    async (call, input, kmsKey) => {
      checkName(input.PolicyName)
      checkPolicy(input.Policy)
      acceptPolicy(call, input, bypassAttributes(input))(kmsKey)
      await call.engine.kms.putKeyPolicy(kmsKey.arn, input.Policy)
      return {}
    },
    { attributes: bypassAttributes },
  ),
  keyed('ListKeyPolicies', { ...KEY_ID, ...paging(LIST_PAGE_MAX) }, async (_call, input) => {
    // One page holds all that there is, and so no list ever gave a marker.
    if (input.Marker !== undefined) throw new KeyfoldError('MARKER_INVALID')
    return { PolicyNames: [NAME], Truncated: false }
  }),
]

function checkName(name: string = NAME): void {
  if (name !== NAME) throw new KeyfoldError('POLICY_NOT_FOUND', 'No such policy exists')
}

/** Throws LIMIT_EXCEEDED, as AWS KMS does of one that is too long, and POLICY_MALFORMED. */
export function checkPolicy(policy: string): void {
  if (Buffer.byteLength(policy) > POLICY_BYTES_MAX) {
    throw new KeyfoldError(
      'LIMIT_EXCEEDED',
      `The key policy exceeds the maximum of ${POLICY_BYTES_MAX} bytes.`,
    )
  }
  compileKeyPolicy(policy)
}

export function bypassParameter({
  BypassPolicyLockoutSafetyCheck: bypass = false,
}: {
  readonly BypassPolicyLockoutSafetyCheck: boolean | undefined
}) {
  return { 'kms:BypassPolicyLockoutSafetyCheck': bypass } as const
}

function bypassAttributes(input: PolicyInput): RequestAttributes {
  return { parameters: bypassParameter(input) }
}

/**
 * Throws unless the caller could put another policy in place of this one, on the key that it is handed: the one that is
 * there, or the one that would be. Nothing where they ask for no such check, or for no policy of theirs.
 */
export function acceptPolicy(
  call: Call,
  { Policy: policy, BypassPolicyLockoutSafetyCheck: bypass = false }: PolicyInput,
  attributes: RequestAttributes,
): (kmsKey: KmsKey) => void {
  return (kmsKey) => {
    if (policy === undefined || bypass) return
    const { engine, principal, origin } = call
    engine.authorizer.assertNoLockout(principal, kmsKey, policy, { ...origin, ...attributes })
  }
}
