/**
 * Who may do what, decided as AWS decides it (IAM User Guide, "Policy evaluation logic"; AWS KMS Developer Guide,
 * "Troubleshooting key access"). A Deny anywhere is final. Then, for a key:
 *
 *     key policy names the caller ──────────────────────────────────► allowed     (from another account: only if an
 *     key policy names the caller's account ──► identity policy ────► allowed      identity policy allows as well)
 *     a grant names the caller and the operation, and its constraints fit ──► allowed
 *
 * and otherwise denied. What concerns no key is up to identity policies and the account's root. A token's lists are
 * an identity policy of its principal, and bound everything that the others allow.
 *
 * A question (principal, action, key) is prepared once: statements that concern it are picked out, and conditions
 * that no request changes are settled. What is left says what it reads of a request, and decides by that alone.
 *
 * Pure: the moment is handed in.
 */
import type { Grant, KmsKey, Principal, RequestAttributes } from '../kms-key.ts'
import type { Condition } from './conditions.ts'
import { accountOf, CONTEXT_ACTIONS, CRYPTOGRAPHIC_ACTIONS } from './condition-keys.ts'
import type { Caller, Question } from './condition-keys.ts'
import type { DecidedBy, Decision } from './decision.ts'
import type { Policy, Statement } from './document.ts'
import { coversNewGrant, fitsContext, mayRetire } from './grants.ts'
import { compilePattern } from './pattern.ts'

export interface NamedPolicy {
  readonly name: string
  /** undefined: it could not be understood, and nobody knows what it denies. */
  readonly policy: Policy | undefined
}

/** Everything that may have a say. */
export interface Sources {
  readonly principal: Principal
  /** undefined as of NamedPolicy; not read where there is no key. */
  readonly keyPolicy: Policy | undefined
  readonly identityPolicies: readonly NamedPolicy[]
  /** Grants whose grantee the principal is. */
  readonly grants: readonly Grant[]
  /** The alias part of an operation on an alias: what is asked about is this ARN, and no key. */
  readonly aliasArn?: string | undefined
}

/** What a decision depends on beside the question. */
export interface Reading {
  /** Two of one name read the same. */
  readonly name: string
  read(attributes: RequestAttributes): unknown
}

export interface Prepared {
  readonly reads: readonly Reading[]
  /** Whether nothing but the readings decides: otherwise the moment does, or a grant in the request. */
  readonly repeatable: boolean
  decide(attributes: RequestAttributes, nowMs: number): Decision
}

/** What identity policies match against where an operation concerns no single resource. */
const NO_RESOURCE = '*'

/** AWS KMS Developer Guide, "Allowing users in other accounts to use a KMS key". */
const CROSS_ACCOUNT_ACTIONS: ReadonlySet<string> = new Set([
  ...CRYPTOGRAPHIC_ACTIONS,
  'kms:CreateGrant',
  'kms:DescribeKey',
  'kms:GetKeyRotationStatus',
  'kms:GetPublicKey',
  'kms:ListGrants',
  'kms:RetireGrant',
  'kms:RevokeGrant',
])

export function prepare(question: Question, sources: Sources): Prepared {
  if (!sources.identityPolicies.every(({ policy }) => policy !== undefined)) {
    return settled(denied('nothing', 'an identity policy of the principal is not valid'))
  }
  const { kmsKey } = question
  if (kmsKey !== undefined && sources.keyPolicy === undefined) {
    return settled(denied('nothing', 'the policy of the key is not valid'))
  }
  const found = collect(question, sources)
  const grants = kmsKey === undefined ? [] : grantsFor(question, sources)
  const bound = isWithinLists(sources.principal, question)
  const decideAllow = allowance(question, sources, found, grants)
  const conditions = [...found.denies, ...found.own, ...found.delegated, ...found.identity].flatMap(
    (applicable) => applicable.conditions,
  )
  const byRequest = new Map<string, Reading>()
  for (const { key } of conditions) {
    byRequest.set(key.name, { name: key.name, read: (given) => key.read(question, given, 0) })
  }
  const constrained = grants.some(isConstrained) && CONTEXT_ACTIONS.has(question.action)
  if (constrained) byRequest.set(WHOLE_CONTEXT.name, WHOLE_CONTEXT)
  const grantMatters = GRANT_ACTIONS.has(question.action)
  return {
    reads: [...byRequest.values()],
    repeatable: !grantMatters && conditions.every(({ key }) => key.varies !== 'by time'),
    decide: (attributes, nowMs) => {
      const holds = ({ conditions: all }: Applicable): boolean =>
        all.every((condition) => condition.holds(condition.key.read(question, attributes, nowMs)))
      const denying = found.denies.find(holds)
      if (denying !== undefined) {
        return { allowed: false, by: denying.by, reason: 'a statement denies it' }
      }
      if (!bound) return denied('token', 'it is beyond what the credential lets through')
      return decideAllow(holds, attributes)
    },
  }
}

/** Both take a grant with them that no reading describes. */
const GRANT_ACTIONS: ReadonlySet<string> = new Set(['kms:CreateGrant', 'kms:RetireGrant'])

const WHOLE_CONTEXT: Reading = {
  name: 'the whole encryption context',
  read: ({ encryptionContext }) => encryptionContext && [...encryptionContext],
}

function isConstrained({ constraints }: Grant): boolean {
  return constraints.equals !== undefined || constraints.subset !== undefined
}

// Statements that concern the question.

/** A statement that has its effect if these conditions hold; those that no request changes hold already. */
interface Applicable {
  readonly by: DecidedBy
  readonly conditions: readonly Condition[]
}

interface Found {
  readonly denies: readonly Applicable[]
  /** Of the key policy: those that name the caller, and those that name the caller's account. */
  readonly own: readonly Applicable[]
  readonly delegated: readonly Applicable[]
  readonly identity: readonly Applicable[]
}

function collect(question: Question, { keyPolicy, identityPolicies, aliasArn }: Sources): Found {
  const { caller, kmsKey } = question
  const resource = kmsKey?.arn ?? aliasArn ?? NO_RESOURCE
  const denies: Applicable[] = []
  const [own, delegated, identity]: [Applicable[], Applicable[], Applicable[]] = [[], [], []]
  const add = (statement: Statement, by: DecidedBy, allows: Applicable[]): void => {
    if (!statement.concernsAction(question.action.toLowerCase())) return
    if (!statement.concernsResource(resource)) return
    const conditions = unsettled(statement.conditions, question)
    if (conditions === undefined) return
    ;(statement.effect === 'Deny' ? denies : allows).push({ by, conditions })
  }
  for (const statement of (kmsKey && keyPolicy)?.statements ?? []) {
    const concern = statement.concerns(caller)
    if (concern === 'nobody') continue
    const by: DecidedBy = { kind: 'key-policy', statement: statement.label }
    add(statement, by, concern === 'self' ? own : delegated)
  }
  for (const { name, policy } of identityPolicies) {
    for (const statement of policy?.statements ?? []) {
      const by: DecidedBy = { kind: 'identity-policy', policy: name, statement: statement.label }
      add(statement, by, identity)
    }
  }
  return { denies, own, delegated, identity }
}

/** Those conditions that a request decides; undefined where one fails whatever the request is. */
function unsettled(
  conditions: readonly Condition[],
  question: Question,
): readonly Condition[] | undefined {
  const left: Condition[] = []
  for (const condition of conditions) {
    // Without a key, what would be the key's is read from the request.
    const isFixed = condition.key.varies === 'never' && question.kmsKey !== undefined
    if (!isFixed) left.push(condition)
    else if (!condition.holds(condition.key.read(question, {}, 0))) return undefined
  }
  return left
}

// What allows.

type Holds = (applicable: Applicable) => boolean
type Allowance = (holds: Holds, attributes: RequestAttributes) => Decision

function allowance(
  question: Question,
  sources: Sources,
  found: Found,
  grants: readonly Grant[],
): Allowance {
  const { caller, kmsKey, action, location } = question
  const byIdentity = (holds: Holds): DecidedBy | undefined =>
    found.identity.find(holds)?.by ??
    (sources.principal.credential === 'token' ? { kind: 'token' } : undefined)
  if (kmsKey === undefined) {
    const isRoot = caller.kind === 'root' && caller.account === location.account
    return (holds) => decided(isRoot ? { kind: 'root' } : byIdentity(holds), 'identity')
  }
  const isForeign = caller.account !== accountOf(kmsKey.arn)
  if (isForeign && !CROSS_ACCOUNT_ACTIONS.has(action)) {
    return () => denied('nothing', 'another account’s principals may not do this')
  }
  const byAccount = (holds: Holds): DecidedBy | undefined =>
    caller.kind === 'root' ? { kind: 'root' } : byIdentity(holds)
  if (action === 'kms:RetireGrant') {
    return (holds, { grant }) =>
      decided(grant && mayRetire(grant, caller, !isForeign, () => byAccount(holds)), 'grant')
  }
  return (holds, attributes) => {
    const own = found.own.find(holds)
    if (own !== undefined && !isForeign) return decided(own.by, 'key')
    if (own !== undefined || found.delegated.some(holds)) {
      const by = byAccount(holds)
      if (by !== undefined) return decided(by.kind === 'root' && own ? own.by : by, 'key')
    }
    const grant = grants.find((candidate) => fits(candidate, question, attributes))
    return decided(grant && { kind: 'grant', grantId: grant.id }, 'key')
  }
}

const REASONS = {
  identity: 'no identity policy of the principal allows it',
  key: 'neither the policy of the key, nor an identity policy that it lets decide, nor a grant allows it',
  grant: 'the grant does not name the principal as one who may retire it',
} as const

function decided(by: DecidedBy | undefined, asked: keyof typeof REASONS): Decision {
  if (by === undefined) return denied('nothing', REASONS[asked])
  return { allowed: true, by, reason: 'allowed, and no statement denies it' }
}

function denied(kind: 'token' | 'nothing', reason: string): Decision {
  return { allowed: false, by: { kind }, reason }
}

function settled(decision: Decision): Prepared {
  return { reads: [], repeatable: true, decide: () => decision }
}

// Grants.

function grantsFor({ action, caller }: Question, { grants }: Sources): readonly Grant[] {
  const operation = action.startsWith('kms:') ? action.slice('kms:'.length) : undefined
  return grants.filter(
    ({ granteePrincipal, operations }) =>
      operation !== undefined && granteePrincipal === caller.arn && operations.includes(operation),
  )
}

function fits(grant: Grant, { action }: Question, attributes: RequestAttributes): boolean {
  if (action === 'kms:CreateGrant') {
    return attributes.grant !== undefined && coversNewGrant(grant, attributes.grant)
  }
  return !CONTEXT_ACTIONS.has(action) || fitsContext(grant, attributes.encryptionContext)
}

// The lists of the credential.

/** Nothing beyond them is allowed. They speak of keys; what concerns none is bounded by actions only. */
export function isWithinLists(
  { actions, keys }: Principal,
  { action, kmsKey }: Pick<Question, 'action' | 'kmsKey'>,
): boolean {
  if (!actions.some((pattern) => compilePattern(pattern)(action))) return false
  return kmsKey === undefined || keys.some((pattern) => reaches(pattern, kmsKey))
}

function reaches(pattern: string, kmsKey: KmsKey): boolean {
  return pattern === kmsKey.keyId || compilePattern(pattern)(kmsKey.arn)
}

/**
 * Whether the caller may do this with every key of the account, there or not: only they are told that one is absent.
 * Doubts count against them.
 */
export function reachesEveryKey(
  { caller, action, location }: Omit<Question, 'kmsKey'>,
  { principal, identityPolicies }: Pick<Sources, 'principal' | 'identityPolicies'>,
): boolean {
  if (caller.account !== location.account) return false
  if (!isWithinLists(principal, { action, kmsKey: undefined })) return false
  if (!principal.keys.includes('*')) return false
  const concerned: Statement[] = []
  for (const { policy } of identityPolicies) {
    if (policy === undefined) return false
    for (const statement of policy.statements) {
      if (statement.concernsAction(action.toLowerCase())) concerned.push(statement)
    }
  }
  if (concerned.some(({ effect }) => effect === 'Deny')) return false
  if (caller.kind === 'root' || principal.credential === 'token') return true
  return concerned.some(({ everyResource, conditions }) => everyResource && conditions.length === 0)
}

/** `arn:aws:iam::ACCOUNT:root`, `…:user/PATH/NAME` or `…:role/PATH/NAME`. */
export function callerOf(arn: string): Caller {
  const resource = arn.split(':').slice(5).join(':')
  const kind = resource === 'root' ? 'root' : resource.startsWith('role/') ? 'role' : 'user'
  return { arn, account: accountOf(arn), kind, name: resource.slice(resource.lastIndexOf('/') + 1) }
}
