/** Policies, keys and requests at random, of few enough words that they often meet. */
import fc from 'fast-check'

import type { Action, Grant, KmsKey, Principal } from '../../../dist/kms/kms-key.js'
import {
  ADMIN,
  ALICE,
  BOB,
  documentOf,
  EVE,
  grantOf,
  KEY_ARN,
  KEY_ID,
  keyOf,
  OTHER_ROOT,
  principalOf,
  ROOT,
  type Attached,
  type Scene,
} from './samples.ts'

const ARNS = [ALICE, BOB, ADMIN, ROOT, EVE, OTHER_ROOT]
const ACTIONS: readonly Action[] = [
  'kms:Encrypt',
  'kms:Decrypt',
  'kms:DescribeKey',
  'kms:PutKeyPolicy',
]
const CONTEXT_KEYS = ['tenant', 'Tenant', 'row']
const WORDS = ['a', 'A', 'b']

/** One or several, as documents have them. */
const oneOrMore = (values: readonly string[]) =>
  fc.oneof(
    fc.constantFrom(...values),
    fc.uniqueArray(fc.constantFrom(...values), { minLength: 1, maxLength: 3 }),
  )

const actions = oneOrMore([
  '*',
  'kms:*',
  'KMS:encrypt',
  'kms:Decrypt',
  'kms:De*',
  'kms:?ecrypt',
  's3:*',
])
const resources = oneOrMore([
  '*',
  KEY_ARN,
  'arn:aws:kms:*:*:key/*',
  `arn:aws:kms:us-west-2:*:key/${KEY_ID}?`,
])
const people = oneOrMore(['*', ...ARNS])
const someone = oneOrMore(ARNS)

const strings = [...WORDS, 'a*', '?', 'alias/a', ALICE]
const conditionEntries = fc.oneof(
  entry(
    ['StringEquals', 'StringNotEquals', 'StringEqualsIgnoreCase', 'StringLike', 'StringNotLike'],
    [
      'kms:EncryptionContext:tenant',
      'KMS:EncryptionContext:ROW',
      'kms:RequestAlias',
      'aws:ResourceTag/team',
      'aws:PrincipalArn',
    ],
    strings,
  ),
  entry(['Bool'], ['aws:SecureTransport'], ['true', 'false']),
  entry(
    ['IpAddress', 'NotIpAddress'],
    ['aws:SourceIp'],
    ['10.0.0.0/8', '10.0.0.1', '192.0.2.0/24'],
  ),
  entry(['ArnLike', 'ArnNotEquals'], ['aws:PrincipalArn'], [ALICE, 'arn:aws:iam::*:user/*']),
  entry(['NumericLessThan'], ['kms:EncryptionContext:row'], ['5', '50']),
  entry(['DateGreaterThan'], ['aws:CurrentTime'], ['2020-01-01T00:00:00Z']),
  entry(
    ['StringEquals'],
    ['kms:KeySpec', 'aws:RequestedRegion'],
    ['SYMMETRIC_DEFAULT', 'us-west-2'],
  ),
  fc
    .tuple(
      fc.constantFrom('ForAllValues:', 'ForAnyValue:'),
      fc.constantFrom('StringEquals', 'StringNotLike', 'StringLike'),
      fc.constantFrom('', 'IfExists'),
      fc.constantFrom('kms:EncryptionContextKeys', 'kms:ResourceAliases'),
      oneOrMore([...CONTEXT_KEYS, 'T*', 'alias/a']),
    )
    .map(
      ([set, operator, suffix, key, values]) =>
        [`${set}${operator}${suffix}`, key, values] as const,
    ),
  fc
    .tuple(
      fc.constantFrom('kms:EncryptionContextKeys', 'kms:RequestAlias', 'aws:SourceIp'),
      fc.constantFrom('true', 'false'),
    )
    .map(([key, value]) => ['Null', key, value] as const),
)

function entry(operators: readonly string[], keys: readonly string[], values: readonly string[]) {
  return fc
    .tuple(
      fc.constantFrom(...operators),
      fc.constantFrom('', 'IfExists'),
      fc.constantFrom(...keys),
      oneOrMore(values),
    )
    .map(([operator, suffix, key, stated]) => [`${operator}${suffix}`, key, stated] as const)
}

const conditions = fc.array(conditionEntries, { maxLength: 2 }).map((entries) => {
  const block: Record<string, Record<string, string | string[]>> = {}
  for (const [operator, key, values] of entries) (block[operator] ??= {})[key] = values
  return block
})

const common = {
  Effect: fc.constantFrom('Allow', 'Allow', 'Deny'),
  action: fc.tuple(fc.constantFrom('Action', 'Action', 'Action', 'NotAction'), actions),
  resource: fc.tuple(fc.constantFrom('Resource', 'Resource', 'Resource', 'NotResource'), resources),
  Condition: conditions,
}

const identityStatement = fc
  .record(common)
  .map(({ action, resource, ...rest }) => ({ ...rest, ...pair(action), ...pair(resource) }))

const keyStatement = fc
  .record({
    ...common,
    people: fc.oneof(
      fc.constant('*'),
      people.map((AWS) => ({ AWS })),
    ),
    someone: someone.map((AWS) => ({ AWS })),
    excepts: fc.integer({ min: 0, max: 4 }),
  })
  .map(({ action, resource, people: everyone, someone: some, excepts, ...rest }) => ({
    ...rest,
    ...pair(action),
    ...pair(resource),
    ...(rest.Effect === 'Deny' && excepts === 0 ? { NotPrincipal: some } : { Principal: everyone }),
  }))

function pair([name, value]: readonly [string, unknown]): Readonly<Record<string, unknown>> {
  return { [name]: value }
}

const keyPolicy = fc
  .array(keyStatement, { minLength: 1, maxLength: 4 })
  .map((statements) => documentOf(...statements))
const identityPolicy = fc
  .array(identityStatement, { minLength: 1, maxLength: 3 })
  .map((statements) => documentOf(...statements))

const context = fc
  .dictionary(fc.constantFrom(...CONTEXT_KEYS), fc.constantFrom(...WORDS, '7', '70'), {
    maxKeys: 3,
  })
  .map((pairs) => new Map(Object.entries(pairs)))

const grants: fc.Arbitrary<Grant> = fc
  .record({
    granteePrincipal: fc.constantFrom(...ARNS),
    operations: fc.subarray(['Encrypt', 'Decrypt', 'DescribeKey'], { minLength: 1 }),
    constraints: fc.record({
      equals: fc.option(context, { nil: undefined, freq: 2 }),
      subset: fc.option(context, { nil: undefined, freq: 2 }),
    }),
  })
  .map(grantOf)

export const kmsKeys: fc.Arbitrary<KmsKey> = fc
  .record({
    policy: keyPolicy,
    grants: fc.array(grants, { maxLength: 3 }),
    aliases: fc.subarray(['alias/a', 'alias/b']),
    tags: fc
      .dictionary(fc.constantFrom('team', 'Team'), fc.constantFrom(...WORDS))
      .map((tags) => new Map(Object.entries(tags))),
  })
  .map(keyOf)

export const principals: fc.Arbitrary<Principal> = fc
  .record({
    arn: fc.constantFrom(...ARNS),
    credential: fc.constantFrom('token' as const, 'access-key' as const, 'access-key' as const),
    actions: fc.constantFrom(['*'], ['*'], ['kms:*'], ['kms:Encrypt', 'kms:?ecrypt']),
    keys: fc.constantFrom(['*'], ['*'], [KEY_ID], ['arn:*:key/1234*'], ['none']),
  })
  .map(({ arn, ...fields }) => principalOf(arn, fields))

export const attachments: fc.Arbitrary<Attached> = fc
  .tuple(...ARNS.map(() => fc.option(identityPolicy, { nil: undefined })))
  .map((documents) => Object.fromEntries(documents.map((document, i) => [ARNS[i], document])))

const MOMENTS = [0, Date.UTC(2020, 0, 1), Date.UTC(2020, 0, 1) + 1, Date.UTC(2030, 0, 1)]

export const moments = fc.constantFrom(...MOMENTS)

/** What a request brings. */
export const requests = fc.record({
  action: fc.constantFrom(...ACTIONS),
  attributes: fc.record({
    encryptionContext: fc.option(context, { nil: undefined }),
    alias: fc.constantFrom(undefined, 'alias/a', 'alias/b'),
    sourceAddress: fc.constantFrom(undefined, '10.0.0.1', '10.9.9.9', '192.0.2.1'),
    secureTransport: fc.constantFrom(undefined, true, false),
  }),
})

/** kms:RequestAlias is of no operation but these. */
const TAKES_ALIAS: readonly string[] = ['kms:Encrypt', 'kms:Decrypt', 'kms:DescribeKey']

export const scenes: fc.Arbitrary<Scene> = fc
  .record({
    principal: principals,
    kmsKey: fc.option(kmsKeys, { nil: undefined, freq: 8 }),
    attached: attachments,
    nowMs: moments,
    request: requests,
  })
  .map(({ request, ...scene }) => withRequest(scene, request))

export function withRequest(
  scene: Omit<Scene, 'action' | 'attributes'>,
  { action, attributes }: Pick<Required<Scene>, 'action' | 'attributes'>,
): Scene {
  const { alias, ...rest } = attributes
  const taken = TAKES_ALIAS.includes(action)
  return { ...scene, action, attributes: taken ? { ...rest, alias } : rest }
}
