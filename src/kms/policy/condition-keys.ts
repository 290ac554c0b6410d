/**
 * The condition keys that policies may name, and where their values come from (AWS KMS Developer Guide, "AWS KMS
 * condition keys"; IAM User Guide, "AWS global condition context keys"). A key that is not here is refused when the
 * policy is put: one that no request ever had would make an Allow useless and hide a Deny.
 */
import type { Action, Grant, KmsKey, RequestAttributes } from '../kms-key.ts'
import type { Location } from '../reference.ts'
import { REQUEST_PARAMETERS, type RequestParameter } from './request-parameters.ts'

/** What is asked about. Nothing here changes while the key's record stays the same. */
export interface Question {
  readonly caller: Caller
  readonly action: Action
  /** undefined: an operation that concerns no single key, or the alias part of one. */
  readonly kmsKey: KmsKey | undefined
  /** The region in which it is asked, and the account of this catalog. */
  readonly location: Location
}

/** A principal's ARN, taken apart. */
export interface Caller {
  readonly arn: string
  readonly account: string
  readonly kind: 'root' | 'user' | 'role'
  /** Without its path. */
  readonly name: string
}

export interface ConditionKey {
  /** Lower case: names of condition keys have no case (IAM User Guide, "Condition"). */
  readonly name: string
  /** Has any number of values in one request, and so needs ForAllValues: or ForAnyValue:. */
  readonly multivalued: boolean
  /** What its values depend on: the question alone where that names a key, the request as well, or the moment. */
  readonly varies: 'never' | 'by request' | 'by time'
  /** None where the request has no such key. */
  read(question: Question, attributes: RequestAttributes, nowMs: number): readonly string[]
}

/** Operations that take an encryption context under a symmetric key. */
export const CONTEXT_ACTIONS: ReadonlySet<string> = new Set([
  'kms:Decrypt',
  'kms:Encrypt',
  'kms:GenerateDataKey',
  'kms:GenerateDataKeyPair',
  'kms:GenerateDataKeyPairWithoutPlaintext',
  'kms:GenerateDataKeyWithoutPlaintext',
  'kms:ReEncryptFrom',
  'kms:ReEncryptTo',
  'keyfold:ReleaseMessageKey',
])

/** AWS KMS Developer Guide, "Cryptographic operations". */
export const CRYPTOGRAPHIC_ACTIONS: ReadonlySet<string> = new Set([
  ...CONTEXT_ACTIONS,
  'kms:DeriveSharedSecret',
  'kms:GenerateMac',
  'kms:Sign',
  'kms:Verify',
  'kms:VerifyMac',
])

/** Prefix of keys that are followed by a name of the caller's. */
const CONTEXT_PREFIX = 'kms:encryptioncontext:'
const RESOURCE_TAG_PREFIX = 'aws:resourcetag/'
const REQUEST_TAG_PREFIX = 'aws:requesttag/'

const NONE: readonly string[] = []

/** undefined: there is no such condition key. */
export function findConditionKey(spelling: string): ConditionKey | undefined {
  const name = spelling.toLowerCase()
  return KNOWN.get(name) ?? namedByCaller(name)
}

type Read = ConditionKey['read']

const KNOWN: ReadonlyMap<string, ConditionKey> = new Map(
  [
    fixed('aws:PrincipalAccount', ({ caller }) => [caller.account]),
    fixed('aws:PrincipalArn', ({ caller }) => [caller.arn]),
    fixed('aws:PrincipalType', ({ caller }) => [PRINCIPAL_TYPES[caller.kind]]),
    // Users and roles have unique ids in AWS that nothing here stands for; root's is the account's.
    fixed('aws:userid', ({ caller }) => (caller.kind === 'root' ? [caller.account] : NONE)),
    fixed('aws:username', ({ caller }) => (caller.kind === 'user' ? [caller.name] : NONE)),
    fixed('aws:RequestedRegion', ({ location }) => [location.region]),
    fixed('aws:ResourceAccount', ({ kmsKey, location }) => [
      kmsKey === undefined ? location.account : accountOf(kmsKey.arn),
    ]),
    fixed('kms:CallerAccount', ({ caller }) => [caller.account]),
    fixed('kms:GrantIsForAWSResource', ({ action }) =>
      GRANT_ACTIONS.has(action) ? ['false'] : NONE,
    ),
    // Of calls that a service of AWS makes. Key policies that name one narrow it down by these.
    fixed('aws:PrincipalIsAWSService', () => ['false']),
    fixed('aws:ViaAWSService', () => ['false']),
    fixed('aws:SourceArn', () => NONE),
    fixed('aws:SourceAccount', () => NONE),
    several(fixed('kms:ResourceAliases', ({ kmsKey }) => kmsKey?.aliases ?? NONE)),

    ofRequest('kms:ViaService', (_, { viaService }) => optional(viaService)),
    ofRequest('aws:SourceIp', (_, { sourceAddress }) => optional(sourceAddress)),
    ofRequest('aws:SecureTransport', (_, { secureTransport }) => [
      String(secureTransport === true),
    ]),
    several(ofRequest('aws:TagKeys', (_, { tags }) => [...(tags?.keys() ?? NONE)])),
    several(
      ofRequest('kms:EncryptionContextKeys', (question, attributes) => [
        ...new Set(contextPairs(question, attributes).map(([key]) => key)),
      ]),
    ),
    ofRequest('kms:RequestAlias', ({ action }, { alias }) =>
      ALIAS_ACTIONS.has(action) ? optional(alias) : NONE,
    ),
    several(ofNewGrant('kms:GrantOperations', ({ operations }) => operations)),
    ofNewGrant('kms:GranteePrincipal', ({ granteePrincipal }) => [granteePrincipal]),
    ofNewGrant('kms:RetiringPrincipal', ({ retiringPrincipal }) => optional(retiringPrincipal)),
    ofNewGrant('kms:GrantConstraintType', ({ constraints: { equals, subset } }) => [
      ...(equals === undefined ? NONE : ['EncryptionContextEquals']),
      ...(subset === undefined ? NONE : ['EncryptionContextSubset']),
    ]),
    // Those that are more than a parameter follow, and stand in place of these.
    ...REQUEST_PARAMETERS.map((name) =>
      ofRequest(name, (_, attributes) => parameter(name, attributes)),
    ),

    ofKey('kms:KeyOrigin', ({ origin }) => [origin]),
    ofKey('kms:KeySpec', ({ keySpec }) => [keySpec]),
    ofKey('kms:KeyUsage', ({ keyUsage }) => [keyUsage]),
    ofKey('kms:MultiRegion', ({ multiRegion }) => [String(multiRegion !== undefined)]),
    ofKey('kms:MultiRegionKeyType', ({ multiRegion }) => optional(multiRegion)),
    ofRequest('kms:EncryptionAlgorithm', encryptionAlgorithm),

    ofTime('aws:CurrentTime', (nowMs) => new Date(nowMs).toISOString()),
    ofTime('aws:EpochTime', (nowMs) => String(Math.floor(nowMs / 1000))),
  ].map((key) => [key.name, key]),
)

const PRINCIPAL_TYPES = { root: 'Account', user: 'User', role: 'AssumedRole' } as const

const GRANT_ACTIONS: ReadonlySet<string> = new Set([
  'kms:CreateGrant',
  'kms:ListGrants',
  'kms:RevokeGrant',
])
const ALIAS_ACTIONS: ReadonlySet<string> = new Set([
  ...CRYPTOGRAPHIC_ACTIONS,
  'kms:DescribeKey',
  'kms:GetPublicKey',
])

function fixed(name: string, read: (question: Question) => readonly string[]): ConditionKey {
  return { name: name.toLowerCase(), multivalued: false, varies: 'never', read }
}

function ofRequest(name: string, read: Read): ConditionKey {
  return { name: name.toLowerCase(), multivalued: false, varies: 'by request', read }
}

function ofTime(name: string, read: (nowMs: number) => string): ConditionKey {
  return {
    name: name.toLowerCase(),
    multivalued: false,
    varies: 'by time',
    read: (_, __, nowMs) => [read(nowMs)],
  }
}

/** Of the key where there is one, whatever the request says; of the request that creates one. */
function ofKey(name: RequestParameter, read: (kmsKey: KmsKey) => readonly string[]): ConditionKey {
  const key = ofRequest(name, ({ kmsKey }, attributes) =>
    kmsKey === undefined ? parameter(name, attributes) : read(kmsKey),
  )
  return { ...key, varies: 'never' }
}

function ofNewGrant(name: string, read: (grant: NewGrant) => readonly string[]): ConditionKey {
  return ofRequest(name, ({ action }, { grant }) =>
    action === 'kms:CreateGrant' && grant !== undefined ? read(grant) : NONE,
  )
}

type NewGrant = NonNullable<RequestAttributes['grant']>

function several(key: ConditionKey): ConditionKey {
  return { ...key, multivalued: true }
}

function namedByCaller(name: string): ConditionKey | undefined {
  const [prefix, read] =
    NAMED_BY_CALLER.find(([start]) => name.startsWith(start) && name.length > start.length) ?? []
  if (prefix === undefined || read === undefined) return undefined
  const wanted = name.slice(prefix.length)
  // Two spellings of one name are two values; see Condition in conditions.ts for what becomes of them.
  const valuesOf: Read = (question, attributes) =>
    read(question, attributes)
      .filter(([key]) => key.toLowerCase() === wanted)
      .map(([, value]) => value)
  const key = ofRequest(name, valuesOf)
  return prefix === RESOURCE_TAG_PREFIX ? { ...key, varies: 'never' } : key
}

type Pairs = readonly (readonly [string, string])[]

const NAMED_BY_CALLER: readonly (readonly [
  string,
  (question: Question, attributes: RequestAttributes) => Pairs,
])[] = [
  [CONTEXT_PREFIX, contextPairs],
  [RESOURCE_TAG_PREFIX, ({ kmsKey }) => [...(kmsKey?.tags ?? [])]],
  [
    REQUEST_TAG_PREFIX,
    (_, { tags }) =>
      [...(tags ?? [])].flatMap(([key, value]) => (value === undefined ? [] : [[key, value]])),
  ],
]

/** Of CreateGrant the pairs that the new grant insists on (kms:EncryptionContext, "API operations"). */
function contextPairs(
  { action }: Question,
  { encryptionContext, grant }: RequestAttributes,
): Pairs {
  if (action !== 'kms:CreateGrant') return [...(encryptionContext ?? [])]
  const { equals, subset } = grant?.constraints ?? NO_CONSTRAINTS
  return [...(equals ?? []), ...(subset ?? [])]
}

const NO_CONSTRAINTS: Grant['constraints'] = { equals: undefined, subset: undefined }

/** The condition works also where the algorithm is not said, for it is then the one that there is. */
function encryptionAlgorithm(
  { action, kmsKey }: Question,
  attributes: RequestAttributes,
): readonly string[] {
  const said = parameter('kms:EncryptionAlgorithm', attributes)
  const symmetric = kmsKey?.keySpec === 'SYMMETRIC_DEFAULT' && CONTEXT_ACTIONS.has(action)
  return said.length === 0 && symmetric ? ['SYMMETRIC_DEFAULT'] : said
}

function parameter(name: RequestParameter, { parameters }: RequestAttributes): readonly string[] {
  const value = parameters?.[name]
  return value === undefined ? NONE : [String(value)]
}

function optional(value: string | undefined): readonly string[] {
  return value === undefined ? NONE : [value]
}

/** `arn:PARTITION:SERVICE:REGION:ACCOUNT:…` */
export function accountOf(arn: string): string {
  return arn.split(':', 5)[4] ?? ''
}
