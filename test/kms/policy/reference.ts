/**
 * A second opinion: AWS's evaluation rules written down statement by statement, with regular expressions and nothing
 * prepared, for policies, keys and requests of the vocabulary in arbitraries.ts. Slow and plain on purpose.
 */
import type { Grant } from '../../../dist/kms/kms-key.js'
import { ACCOUNT, LOCATION, type Scene } from './samples.ts'

interface StatementOf {
  readonly Effect: 'Allow' | 'Deny'
  readonly Principal?: '*' | { readonly AWS: string | readonly string[] }
  readonly NotPrincipal?: { readonly AWS: string | readonly string[] }
  readonly Action?: string | readonly string[]
  readonly NotAction?: string | readonly string[]
  readonly Resource?: string | readonly string[]
  readonly NotResource?: string | readonly string[]
  readonly Condition?: Readonly<
    Record<string, Readonly<Record<string, string | readonly string[]>>>
  >
}

type Values = Readonly<Record<string, readonly string[]>>

export function referenceAllows(scene: Scene): boolean {
  const { principal, action = 'kms:Decrypt', kmsKey } = scene
  const account = principal.arn.split(':')[4] as string
  const isRoot = principal.arn.endsWith(':root')
  const root = `arn:aws:iam::${account}:root`
  const values = valuesOf(scene)
  const applies = (statement: StatementOf): boolean =>
    actionFits(statement, action) &&
    resourceFits(statement, kmsKey?.arn ?? '*') &&
    conditionsHold(statement, values)
  const identity = statementsOf(scene.attached?.[principal.arn]).filter(applies)
  const ofKey = kmsKey === undefined ? [] : statementsOf(kmsKey.policy).filter(applies)

  for (const statement of [...identity, ...ofKey]) {
    if (statement.Effect !== 'Deny') continue
    if (statement.NotPrincipal !== undefined) {
      const excepted = list(statement.NotPrincipal.AWS)
      if (!excepted.includes(principal.arn) || !excepted.includes(root)) return false
    } else if (statement.Principal === undefined) return false
    else if (names(statement, principal.arn) || names(statement, root)) return false
  }

  const reached =
    kmsKey === undefined ||
    principal.keys.some((pattern) => pattern === kmsKey.id || like(pattern, kmsKey.arn))
  if (!principal.actions.some((pattern) => like(pattern, action)) || !reached) return false

  const byIdentity =
    principal.credential === 'token' || identity.some(({ Effect }) => Effect === 'Allow')
  if (kmsKey === undefined) return byIdentity || (isRoot && account === ACCOUNT)

  const allows = ofKey.filter(({ Effect }) => Effect === 'Allow')
  const named = allows.some((statement) => names(statement, principal.arn))
  const delegated = named || allows.some((statement) => names(statement, root))
  if (account === ACCOUNT ? named : false) return true
  if (account !== ACCOUNT && !action.endsWith('crypt') && action !== 'kms:DescribeKey') return false
  if (delegated && (isRoot || byIdentity)) return true
  return kmsKey.grants.some((grant) => grantFits(grant, scene, action))
}

function grantFits(grant: Grant, { principal, attributes }: Scene, action: string): boolean {
  if (grant.granteePrincipal !== principal.arn) return false
  if (!grant.operations.includes(action.replace('kms:', ''))) return false
  if (!action.endsWith('crypt')) return true
  const context = Object.fromEntries(attributes?.encryptionContext ?? [])
  const { equals, subset } = grant.constraints
  const within = [...(equals ?? []), ...(subset ?? [])].every(
    ([key, value]) => context[key] === value,
  )
  return within && (equals === undefined || equals.size === Object.keys(context).length)
}

function statementsOf(document: string | undefined): readonly StatementOf[] {
  if (document === undefined) return []
  return (JSON.parse(document) as { Statement: readonly StatementOf[] }).Statement
}

function names({ Principal }: StatementOf, arn: string): boolean {
  if (Principal === '*') return true
  return Principal !== undefined && list(Principal.AWS).some((one) => one === '*' || one === arn)
}

function actionFits({ Action, NotAction }: StatementOf, action: string): boolean {
  const fits = (patterns: string | readonly string[]): boolean =>
    list(patterns).some((pattern) => like(pattern.toLowerCase(), action.toLowerCase()))
  return Action !== undefined ? fits(Action) : !fits(NotAction as string)
}

function resourceFits({ Resource, NotResource }: StatementOf, arn: string): boolean {
  const fits = (patterns: string | readonly string[]): boolean =>
    list(patterns).some((pattern) => pattern === '*' || arnLike(pattern, arn))
  return Resource !== undefined ? fits(Resource) : !fits(NotResource as string)
}

function conditionsHold({ Condition, Effect }: StatementOf, values: Values): boolean {
  for (const [spelling, keys] of Object.entries(Condition ?? {})) {
    for (const [key, stated] of Object.entries(keys)) {
      const present = values[key.toLowerCase()] ?? []
      if (!conditionHolds(spelling, list(stated), present, Effect)) return false
    }
  }
  return true
}

function conditionHolds(
  spelling: string,
  stated: readonly string[],
  present: readonly string[],
  effect: 'Allow' | 'Deny',
): boolean {
  if (spelling === 'Null') return stated.some((one) => (one === 'true') === (present.length === 0))
  const set = spelling.startsWith('ForAllValues:')
    ? 'all'
    : spelling.startsWith('ForAnyValue:')
      ? 'any'
      : 'one'
  const name = spelling.replace(/^For\w+:/, '').replace(/IfExists$/, '')
  const negated = name.includes('Not')
  const test = TESTS[name.replace('Not', '')]
  if (test === undefined) throw new Error(`the reference does not know ${name}`)
  const one = (value: string): boolean => negated !== stated.some((pattern) => test(pattern, value))
  if (present.length === 0) {
    if (spelling.endsWith('IfExists') || set === 'all') return true
    return set === 'one' && negated
  }
  if (set === 'all') return present.every(one)
  if (set === 'any') return present.some(one)
  return effect === 'Allow' ? present.every(one) : present.some(one)
}

const TESTS: Readonly<Record<string, (stated: string, value: string) => boolean>> = {
  StringEquals: (stated, value) => stated === value,
  StringEqualsIgnoreCase: (stated, value) => stated.toUpperCase() === value.toUpperCase(),
  StringLike: like,
  ArnLike: arnLike,
  ArnEquals: arnLike,
  Bool: (stated, value) => stated === value,
  NumericLessThan: (stated, value) => Number(value) < Number(stated),
  DateGreaterThan: (stated, value) => new Date(value) > new Date(stated),
  // IPv4 and whole bytes only.
  IpAddress: (stated, value) => {
    const [network = '', bits = '32'] = stated.split('/')
    const bytes = Number(bits) / 8
    return (
      network.split('.').slice(0, bytes).join('.') === value.split('.').slice(0, bytes).join('.')
    )
  },
}

function like(pattern: string, text: string): boolean {
  const expression = pattern
    .replace(/[.+^$|(){}[\]\\]/g, '\\$&')
    .replaceAll('*', '.*')
    .replaceAll('?', '.')
  return new RegExp(`^${expression}$`, 's').test(text)
}

function arnLike(pattern: string, arn: string): boolean {
  const [patterns, parts] = [pattern.split(':'), arn.split(':')]
  return (
    patterns.length === parts.length && patterns.every((one, i) => like(one, parts[i] as string))
  )
}

function list(value: string | readonly string[]): readonly string[] {
  return typeof value === 'string' ? [value] : value
}

/** Every condition key of the vocabulary with what it is in this request. */
function valuesOf({ principal, kmsKey, attributes = {}, nowMs = 0 }: Scene): Values {
  const values: Record<string, string[]> = {}
  const add = (key: string, value: string | undefined): void => {
    if (value !== undefined) (values[key.toLowerCase()] ??= []).push(value)
  }
  add('aws:PrincipalArn', principal.arn)
  add('aws:PrincipalAccount', principal.arn.split(':')[4])
  add('aws:SourceIp', attributes.sourceAddress)
  add('aws:SecureTransport', String(attributes.secureTransport ?? false))
  add('aws:CurrentTime', new Date(nowMs).toISOString())
  add('aws:RequestedRegion', LOCATION.region)
  add('kms:KeySpec', kmsKey?.keySpec)
  add('kms:RequestAlias', attributes.alias)
  for (const alias of kmsKey?.aliases ?? []) add('kms:ResourceAliases', alias)
  for (const [key, value] of kmsKey?.tags ?? []) add(`aws:ResourceTag/${key}`, value)
  for (const [key, value] of attributes.encryptionContext ?? []) {
    add(`kms:EncryptionContext:${key}`, value)
    add('kms:EncryptionContextKeys', key)
  }
  return values
}
