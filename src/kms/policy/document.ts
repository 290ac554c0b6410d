/**
 * Policy documents in AWS's JSON language (IAM User Guide, "Grammar of the IAM JSON policy language"; AWS KMS
 * Developer Guide, "Key policy format"), checked when they are put and compiled once for all questions. Whatever is
 * not understood is refused by name and place: an element that was ignored might have been the one that denies.
 *
 * Refused although AWS knows it: policy variables, principals that are federated or canonical users, NotPrincipal
 * beside Allow, BinaryEquals, and condition keys that no request here has. Principals that are services of AWS are
 * taken, since many key policies name some: none of them calls here, so a statement is about nobody on their account.
 *
 * Pure: no I/O, no clock.
 */
import { KeyfoldError } from '../../errors.ts'
import { POLICY_BYTES_MAX } from '../../limits.ts'
import { PRINCIPAL_ARN_PATTERN } from '../reference.ts'
import { compileCondition, type Condition, type Effect } from './conditions.ts'
import type { Caller } from './condition-keys.ts'
import { compileArnPattern, compilePattern, type Matcher } from './pattern.ts'
import { JsonNumber, parseStrictJson, quote, type Json, type JsonObject } from './strict-json.ts'

export interface Policy {
  readonly statements: readonly Statement[]
}

export interface Statement {
  /** Its Sid, or `#` and its place counted from 1. */
  readonly label: string
  readonly effect: Effect
  /** Lower case: actions have no case (IAM User Guide, "Action"). */
  concernsAction(action: string): boolean
  concernsResource(arn: string): boolean
  /** Whether it names every resource outright, those that do not exist among them. */
  readonly everyResource: boolean
  /** How it concerns a caller; of an identity policy `self`, for whom else would it be attached to. */
  concerns(caller: Caller): Concern
  readonly conditions: readonly Condition[]
}

/**
 * `self`: the statement is about this caller. `account`: it is about the caller's account. A Deny concerns everyone in
 * it; an Allow hands the decision to its identity policies (AWS KMS Developer Guide, "Default key policy").
 */
export type Concern = 'self' | 'account' | 'nobody'

/** A key's resource-based policy. Throws POLICY_MALFORMED. */
export function compileKeyPolicy(text: string): Policy {
  return compilePolicy(text, 'key')
}

/** A policy attached to a principal. Throws POLICY_MALFORMED. */
export function compileIdentityPolicy(text: string): Policy {
  return compilePolicy(text, 'identity')
}

type PolicyKind = 'key' | 'identity'

/** 2008-10-17 has no policy variables: `${` stands for itself there (IAM User Guide, "Version"). */
const VERSION_DEFAULT = '2008-10-17'
const VERSIONS: readonly Json[] = [VERSION_DEFAULT, '2012-10-17']
/** AWS KMS Developer Guide, "Key policy format". */
const FORBIDDEN_CHARACTER = /[^\t\n\r -~\u00a0-\u00ff]/
const IDENTITY_SID = /^[A-Za-z0-9]*$/

function compilePolicy(text: string, kind: PolicyKind): Policy {
  if (text.length > POLICY_BYTES_MAX || Buffer.byteLength(text) > POLICY_BYTES_MAX) {
    throw new KeyfoldError('POLICY_MALFORMED', `at most ${POLICY_BYTES_MAX} bytes`)
  }
  if (FORBIDDEN_CHARACTER.test(text)) {
    throw new KeyfoldError('POLICY_MALFORMED', 'only printable characters up to U+00FF')
  }
  const document = parseStrictJson(text)
  const fail = (what: string): KeyfoldError => new KeyfoldError('POLICY_MALFORMED', what)
  if (!isObject(document)) throw fail('an object is needed')
  for (const name of document.keys()) {
    if (!['Version', 'Id', 'Statement'].includes(name)) {
      throw fail(`the element ${quote(name)} is not known`)
    }
  }
  const version = document.get('Version') ?? VERSION_DEFAULT
  if (!VERSIONS.includes(version)) throw fail(`Version: ${VERSIONS.join(' or ')} is needed`)
  const id = document.get('Id')
  if (id !== undefined && typeof id !== 'string') throw fail('Id: a string is needed')
  const given = document.get('Statement')
  const statements = isList(given) ? given : given === undefined ? [] : [given]
  if (statements.length === 0) throw fail('Statement: at least one is needed')
  const sids = new Set<string>()
  return {
    statements: statements.map((statement, i) =>
      compileStatement(statement, {
        kind,
        place: i + 1,
        variables: version !== VERSION_DEFAULT,
        sids,
      }),
    ),
  }
}

interface Place {
  readonly kind: PolicyKind
  readonly place: number
  /** Whether `${` begins a policy variable. */
  readonly variables: boolean
  /** Those that came before: a decision names a statement by its Sid. */
  readonly sids: Set<string>
}

const ELEMENTS: readonly string[] = [
  'Sid',
  'Effect',
  'Principal',
  'NotPrincipal',
  'Action',
  'NotAction',
  'Resource',
  'NotResource',
  'Condition',
]

function compileStatement(statement: Json, where: Place): Statement {
  let element: string | undefined
  const within = <T>(name: string, work: () => T): T => {
    element = name
    return work()
  }
  try {
    if (!isObject(statement)) throw new Error('an object is needed')
    for (const name of statement.keys()) {
      if (!ELEMENTS.includes(name)) throw new Error(`the element ${quote(name)} is not known`)
    }
    const sid = within('Sid', () => sidOf(statement, where))
    const effect = within('Effect', () => effectOf(statement))
    return {
      label: sid ?? `#${where.place}`,
      effect,
      concerns: within('Principal', () => principalsOf(statement, effect, where.kind)),
      concernsAction: within('Action', () => actionsOf(statement)),
      ...within('Resource', () => resourcesOf(statement, where)),
      conditions: within('Condition', () => conditionsOf(statement, effect, where)),
    }
  } catch (error) {
    const at = element === undefined ? '' : `, ${element}`
    throw new KeyfoldError(
      'POLICY_MALFORMED',
      `statement ${where.place}${at}: ${(error as Error).message}`,
    )
  }
}

function sidOf(statement: JsonObject, { kind, sids }: Place): string | undefined {
  const sid = statement.get('Sid')
  if (sid === undefined || sid === '') return undefined
  if (typeof sid !== 'string') throw new Error('a string is needed')
  if (kind === 'identity' && !IDENTITY_SID.test(sid)) {
    throw new Error('only letters and digits stand in the Sid of an identity policy')
  }
  if (sids.has(sid)) throw new Error('another statement has the same')
  sids.add(sid)
  return sid
}

function effectOf(statement: JsonObject): Effect {
  const effect = statement.get('Effect')
  if (effect !== 'Allow' && effect !== 'Deny') throw new Error('Allow or Deny is needed')
  return effect
}

// Principal.

const ACCOUNT_PATTERN = /^\d{12}$/

function principalsOf(
  statement: JsonObject,
  effect: Effect,
  kind: PolicyKind,
): Statement['concerns'] {
  if (kind === 'identity') {
    if (statement.has('Principal') || statement.has('NotPrincipal')) {
      throw new Error('an identity policy is about the principal that it is attached to')
    }
    return () => 'self'
  }
  const { negated, value } = oneOf(statement, 'Principal')
  if (negated && isObject(value) && value.has('Service')) {
    // Nobody here is one: it would deny everyone.
    throw new Error('NotPrincipal names no services')
  }
  const listed = new Set(principalList(value))
  if (!negated) return (caller) => concernOf(listed, caller)
  if (effect === 'Allow') throw new Error('NotPrincipal stands beside Deny only')
  if (listed.has('*')) throw new Error('NotPrincipal names somebody')
  // "You must also specify the account ARN of the not-denied principal" (IAM User Guide, "NotPrincipal").
  return ({ arn, account }) => (listed.has(arn) && listed.has(rootArn(account)) ? 'nobody' : 'self')
}

function concernOf(listed: ReadonlySet<string>, caller: Caller): Concern {
  if (listed.has('*') || listed.has(caller.arn)) return 'self'
  return listed.has(rootArn(caller.account)) ? 'account' : 'nobody'
}

/** `logs.amazonaws.com`, `logs.eu-west-1.amazonaws.com` (IAM User Guide, "AWS service principals"). */
const SERVICE_PATTERN = /^[a-z0-9-]+(?:\.[a-z0-9-]+)*\.amazonaws\.com(?:\.cn)?$/

function principalList(value: Json): readonly string[] {
  if (value === '*') return ['*']
  if (!isObject(value) || value.size === 0) throw new Error('"*" or {"AWS": …} is needed')
  for (const kind of value.keys()) {
    if (kind !== 'AWS' && kind !== 'Service') {
      throw new Error(`principals of the kind ${quote(kind)} are not supported`)
    }
  }
  const services = value.has('Service') ? stringList(value.get('Service')) : []
  for (const service of services) {
    if (!SERVICE_PATTERN.test(service)) throw new Error('SERVICE.amazonaws.com is needed')
  }
  if (!value.has('AWS')) return services
  return stringList(value.get('AWS')).map((principal) => {
    if (ACCOUNT_PATTERN.test(principal)) return rootArn(principal)
    if (principal === '*' || PRINCIPAL_ARN_PATTERN.test(principal)) return principal
    throw new Error('"*", an account id or the ARN of an account, user or role is needed')
  })
}

/** The account as a principal, and its root user: one ARN stands for both. */
function rootArn(account: string): string {
  return `arn:aws:iam::${account}:root`
}

// Action and Resource.

const ACTION_PATTERN = /^(?:\*|[a-z0-9-]+:[a-z0-9*?]+)$/

function actionsOf(statement: JsonObject): Statement['concernsAction'] {
  const { negated, value } = oneOf(statement, 'Action')
  const matchers = stringList(value).map((action) => {
    const pattern = action.toLowerCase()
    if (!ACTION_PATTERN.test(pattern)) {
      throw new Error('"*" or SERVICE:NAME is needed; * and ? may stand in NAME')
    }
    return compilePattern(pattern)
  })
  return (action) => negated !== matchesAny(matchers, action)
}

function resourcesOf(
  statement: JsonObject,
  where: Place,
): Pick<Statement, 'concernsResource' | 'everyResource'> {
  const { negated, value } = oneOf(statement, 'Resource')
  const patterns = stringList(value)
  const matchers = patterns.map((pattern) => {
    refuseVariables(pattern, where)
    const matches = pattern === '*' ? compilePattern(pattern) : compileArnPattern(pattern)
    if (matches === undefined) throw new Error('"*" or an ARN of six parts is needed')
    return matches
  })
  return {
    concernsResource: (arn) => negated !== matchesAny(matchers, arn),
    everyResource: !negated && patterns.includes('*'),
  }
}

function matchesAny(matchers: readonly Matcher[], text: string): boolean {
  return matchers.some((matches) => matches(text))
}

// Condition.

function conditionsOf(statement: JsonObject, effect: Effect, where: Place): readonly Condition[] {
  const block = statement.get('Condition')
  if (block === undefined) return []
  if (!isObject(block)) throw new Error('an object is needed')
  return [...block].flatMap(([operator, keys]) => {
    if (!isObject(keys) || keys.size === 0) {
      throw new Error(`${quote(operator)}: an object with a condition key is needed`)
    }
    return [...keys].map(([key, value]) => {
      const values = (isList(value) ? value : [value]).map(conditionValue)
      if (values.length === 0) throw new Error(`${quote(key)}: at least one value is needed`)
      for (const text of values) refuseVariables(text, where)
      return compileCondition(operator, key, values, effect)
    })
  })
}

/** Numbers and booleans stand for their spelling (IAM User Guide, "The policy language and JSON"). */
function conditionValue(value: Json): string {
  if (typeof value === 'string') return value
  if (typeof value === 'boolean') return String(value)
  if (value instanceof JsonNumber) return value.text
  throw new Error('values are strings, numbers, booleans or a list of them')
}

function refuseVariables(text: string, { variables }: Place): void {
  if (variables && text.includes('${')) throw new Error('policy variables are not supported')
}

// JSON.

/** The element or its Not…, of which a statement has exactly one. */
function oneOf(
  statement: JsonObject,
  name: 'Principal' | 'Action' | 'Resource',
): { readonly negated: boolean; readonly value: Json } {
  const value = statement.get(name)
  const otherwise = statement.get(`Not${name}`)
  if ((value === undefined) === (otherwise === undefined)) {
    throw new Error(`either ${name} or Not${name} is needed`)
  }
  if (value !== undefined) return { negated: false, value }
  return { negated: true, value: otherwise as Json }
}

/** One string, or a list of at least one. */
function stringList(value: Json | undefined): readonly string[] {
  const list = isList(value) ? value : [value]
  if (list.length === 0) throw new Error('at least one is needed')
  return list.map((element) => {
    if (typeof element !== 'string') throw new Error('a string or a list of strings is needed')
    return element
  })
}

function isList(value: Json | undefined): value is readonly Json[] {
  return Array.isArray(value)
}

function isObject(value: Json): value is JsonObject {
  return value instanceof Map
}
