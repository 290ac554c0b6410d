/**
 * Conditions. Operators as the IAM User Guide has them ("Condition operators", "Creating a condition with multiple
 * keys or values"); condition keys as the AWS KMS Developer Guide ("AWS KMS condition keys") and the IAM User Guide
 * ("AWS global condition context keys") have them.
 */
import { describe, expect, test } from 'vitest'

import type { Action, KmsKey, RequestAttributes } from '../../../dist/kms/kms-key.js'
import { compileCondition } from '../../../dist/kms/policy/conditions.js'
import { findConditionKey } from '../../../dist/kms/policy/condition-keys.js'
import { callerOf } from '../../../dist/kms/policy/decide.js'
import {
  ACCOUNT,
  ADMIN,
  ALICE,
  BOB,
  EVE,
  grantOf,
  keyOf,
  LOCATION,
  OTHER_ACCOUNT,
  ROOT,
} from './samples.ts'

const KEY = 'kms:RequestAlias'
const SEVERAL = 'aws:TagKeys'

const holds = (
  operator: string,
  stated: string | readonly string[],
  present: readonly string[],
  key = KEY,
  effect: 'Allow' | 'Deny' = 'Allow',
): boolean => compileCondition(operator, key, [stated].flat(), effect).holds(present)

describe('an operator', () => {
  const ARN = 'arn:aws:iam::111122223333:user/division/Alice'
  test.each<[operator: string, stated: string | string[], present: string, expected: boolean]>([
    ['StringEquals', 'a', 'a', true],
    ['StringEquals', 'a', 'A', false],
    ['StringEquals', 'a*', 'ab', false],
    ['StringEquals', '', '', true],
    ['StringEquals', ['a', 'b'], 'b', true],
    ['StringNotEquals', 'a', 'A', true],
    ['StringNotEquals', 'a', 'a', false],
    // "The string cannot match any of the values listed."
    ['StringNotEquals', ['a', 'b'], 'b', false],
    ['StringEqualsIgnoreCase', 'aBc', 'AbC', true],
    ['StringNotEqualsIgnoreCase', 'aBc', 'AbC', false],
    ['StringLike', 'a*c', 'abbc', true],
    ['StringLike', 'a?c', 'abc', true],
    ['StringLike', 'a?c', 'abbc', false],
    ['StringLike', 'A*', 'abc', false],
    ['StringLike', 'a.c', 'abc', false],
    ['StringNotLike', 'a*c', 'abbc', false],
    ['StringNotLike', 'a*c', 'abbd', true],
    ['NumericEquals', '7', '7.0', true],
    ['NumericEquals', '7', '8', false],
    ['NumericEquals', '7', '7 ', false],
    ['NumericEquals', '7', 'seven', false],
    ['NumericEquals', '0', '', false],
    ['NumericNotEquals', '7', '8', true],
    ['NumericNotEquals', '7', '7', false],
    ['NumericLessThan', '7', '6.9', true],
    ['NumericLessThan', '7', '7', false],
    ['NumericLessThan', '7', '-10', true],
    ['NumericLessThan', '10', '9', true],
    ['NumericLessThanEquals', '7', '7', true],
    ['NumericLessThanEquals', '1546257599.0', '1546257599', true],
    ['NumericGreaterThan', '7', '7', false],
    ['NumericGreaterThan', '7', '10', true],
    ['NumericGreaterThanEquals', '7', '7', true],
    ['NumericGreaterThanEquals', '7', 'NaN', false],
    ['DateEquals', '2020-01-01T00:00:00Z', '2020-01-01T01:00:00+01:00', true],
    ['DateEquals', '2020-01-01', '1577836800', true],
    ['DateNotEquals', '2020-01-01', '2020-01-02', true],
    ['DateNotEquals', '2020-01-01', '1577836800', false],
    ['DateLessThan', '2020-01-01T00:00:01Z', '2020-01-01T00:00:00.999Z', true],
    ['DateLessThan', '2020-01-01', '2020-01-01', false],
    ['DateLessThanEquals', '2020-01-01', '2020-01-01', true],
    ['DateGreaterThan', '2020-01-01', '2021-06-30T12:00Z', true],
    ['DateGreaterThan', '2020-01-01', 'soon', false],
    ['DateGreaterThanEquals', '1577836800', '2020-01-01T00:00:00Z', true],
    ['Bool', 'true', 'true', true],
    ['Bool', 'True', 'true', true],
    ['Bool', 'true', 'false', false],
    ['Bool', 'false', 'false', true],
    ['Bool', 'false', '', false],
    ['IpAddress', '203.0.113.0/24', '203.0.113.255', true],
    ['IpAddress', '203.0.113.0/24', '203.0.114.0', false],
    ['IpAddress', '203.0.113.7', '203.0.113.7', true],
    ['IpAddress', '203.0.113.7', '203.0.113.8', false],
    ['IpAddress', ['10.0.0.0/8', '203.0.113.0/24'], '203.0.113.9', true],
    ['IpAddress', '0.0.0.0/0', '198.51.100.1', true],
    ['IpAddress', '203.0.113.0/24', '::ffff:203.0.113.9', true],
    ['IpAddress', '2001:DB8:1234:5678::/64', '2001:db8:1234:5678::1', true],
    ['IpAddress', '2001:DB8:1234:5678::/64', '2001:db8:1234:5679::1', false],
    ['IpAddress', '203.0.113.0/24', 'localhost', false],
    ['NotIpAddress', '203.0.113.0/24', '203.0.114.1', true],
    ['NotIpAddress', '203.0.113.0/24', '203.0.113.1', false],
    ['ArnEquals', ARN, ARN, true],
    ['ArnEquals', 'arn:aws:iam::111122223333:user/*', ARN, true],
    ['ArnLike', 'arn:aws:iam::*:user/*', ARN, true],
    ['ArnLike', 'arn:aws:iam::111122223333:user/????????/Alice', ARN, true],
    ['ArnLike', 'arn:aws:iam::111122223333:role/*', ARN, false],
    ['ArnLike', 'ARN:aws:iam::111122223333:user/*', 'ARN:aws:iam::1:user/a', false],
    ['ArnLike', 'arn:aws:iam::111122223333:user/*', 'Alice', false],
    // The guide's own example: a star does not reach beyond its part, where StringLike's would.
    [
      'ArnLike',
      'arn:aws:someservice:*:111122223333:finance/*',
      'arn:aws:someservice:us-east-2:999999999999:store/abc:111122223333:finance/document.txt',
      false,
    ],
    [
      'StringLike',
      'arn:aws:someservice:*:111122223333:finance/*',
      'arn:aws:someservice:us-east-2:999999999999:store/abc:111122223333:finance/document.txt',
      true,
    ],
    ['ArnNotEquals', ARN, ARN, false],
    ['ArnNotLike', 'arn:aws:iam::*:role/*', ARN, true],
  ])('%s of %j and %j', (operator, stated, present, expected) => {
    if (operator.startsWith('Arn') && ![stated].flat()[0]?.startsWith('arn:')) {
      expect(() => holds(operator, stated, [present])).toThrow('ARN')
      return
    }
    expect(holds(operator, stated, [present])).toBe(expected)
    expect(holds(`${operator}IfExists`, stated, [present])).toBe(expected)
    expect(holds(`ForAnyValue:${operator}`, stated, [present])).toBe(expected)
    expect(holds(`ForAllValues:${operator}`, stated, [present])).toBe(expected)
  })

  test.each([
    // "If the key is not present, the values do not match … not matched … the condition is true."
    ['StringEquals', 'a', false],
    ['StringLike', '*', false],
    ['NumericLessThan', '7', false],
    ['DateLessThan', '2020-01-01', false],
    ['Bool', 'false', false],
    ['IpAddress', '0.0.0.0/0', false],
    ['ArnLike', 'arn:*:*:*:*:*', false],
    ['StringNotEquals', 'a', true],
    ['StringNotEqualsIgnoreCase', 'a', true],
    ['StringNotLike', '*', true],
    ['NumericNotEquals', '7', true],
    ['DateNotEquals', '2020-01-01', true],
    ['NotIpAddress', '0.0.0.0/0', true],
    ['ArnNotEquals', 'arn:*:*:*:*:*', true],
    ['ArnNotLike', 'arn:*:*:*:*:*', true],
  ])('%s of a key that is not there', (operator, stated, expected) => {
    for (const effect of ['Allow', 'Deny'] as const) {
      expect(holds(operator, stated, [], KEY, effect)).toBe(expected)
      // "If the key is not present, evaluate the condition element as true."
      expect(holds(`${operator}IfExists`, stated, [], KEY, effect)).toBe(true)
      // "It also returns true if there are no keys in the request"; "for no matching key … false".
      expect(holds(`ForAllValues:${operator}`, stated, [], KEY, effect)).toBe(true)
      expect(holds(`ForAnyValue:${operator}`, stated, [], KEY, effect)).toBe(false)
      expect(holds(`ForAnyValue:${operator}IfExists`, stated, [], KEY, effect)).toBe(true)
    }
  })

  test.each([
    [['a'], true, true],
    [['a', 'b'], true, true],
    [['a', 'z'], false, true],
    [['z'], false, false],
  ])('on a set %j: all of them, any of them', (present, all, any) => {
    expect(holds('ForAllValues:StringEquals', ['a', 'b'], present, SEVERAL)).toBe(all)
    expect(holds('ForAnyValue:StringEquals', ['a', 'b'], present, SEVERAL)).toBe(any)
    expect(holds('ForAllValues:StringNotEquals', ['a', 'b'], present, SEVERAL)).toBe(!any)
    expect(holds('ForAnyValue:StringNotEquals', ['a', 'b'], present, SEVERAL)).toBe(!all)
  })

  test('Null tells whether a key is there, also one of several values', () => {
    for (const key of [KEY, SEVERAL]) {
      expect(holds('Null', 'true', [], key)).toBe(true)
      expect(holds('Null', 'true', ['a'], key)).toBe(false)
      expect(holds('Null', 'false', [], key)).toBe(false)
      expect(holds('Null', 'false', [''], key)).toBe(true)
    }
  })

  test('on a key that has two values after all neither opens by one nor lets one escape', () => {
    const both = ['good', 'bad']
    expect(holds('StringEquals', 'good', both, KEY, 'Allow')).toBe(false)
    expect(holds('StringNotEquals', 'bad', both, KEY, 'Allow')).toBe(false)
    expect(holds('StringEquals', 'bad', both, KEY, 'Deny')).toBe(true)
    expect(holds('StringNotEquals', 'good', both, KEY, 'Deny')).toBe(true)
  })

  test('is not slow, whatever is compared with whatever', () => {
    const text = 'a'.repeat(8_192)
    for (const stated of [
      `${'*a'.repeat(4_000)}b`,
      `*${'a'.repeat(4_000)}b`,
      `${'*a?'.repeat(2_700)}b`,
    ]) {
      // Backtracking would not come back.
      expect(holds('StringLike', stated, [text])).toBe(false)
    }
  })
})

describe('the condition key', () => {
  const context = new Map([
    ['AppName', 'ExampleApp'],
    ['Stage', 'Test'],
  ])
  const grant = grantOf({
    granteePrincipal: BOB,
    retiringPrincipal: ADMIN,
    operations: ['Decrypt', 'RetireGrant'],
    constraints: { equals: undefined, subset: context },
  })
  const tags = new Map<string, string | undefined>([
    ['Project', 'Alpha'],
    ['Old', undefined],
  ])
  const mrk = keyOf({ multiRegion: 'REPLICA', origin: 'EXTERNAL', keySpec: 'SYMMETRIC_DEFAULT' })

  interface Case {
    readonly key: string
    readonly by?: string
    readonly action?: Action
    readonly kmsKey?: KmsKey | undefined
    readonly attributes?: RequestAttributes
    readonly expected: readonly string[]
  }

  test.each<Case>([
    { key: 'aws:PrincipalArn', expected: [ALICE] },
    { key: 'aws:PrincipalAccount', by: EVE, expected: [OTHER_ACCOUNT] },
    { key: 'aws:PrincipalType', expected: ['User'] },
    { key: 'aws:PrincipalType', by: ADMIN, expected: ['AssumedRole'] },
    { key: 'aws:PrincipalType', by: ROOT, expected: ['Account'] },
    { key: 'aws:userid', by: ROOT, expected: [ACCOUNT] },
    { key: 'aws:userid', expected: [] },
    { key: 'aws:username', expected: ['Alice'] },
    { key: 'aws:username', by: `arn:aws:iam::${ACCOUNT}:user/division/Carol`, expected: ['Carol'] },
    { key: 'aws:username', by: ADMIN, expected: [] },
    { key: 'aws:username', by: ROOT, expected: [] },
    { key: 'aws:RequestedRegion', expected: ['us-west-2'] },
    { key: 'aws:ResourceAccount', expected: [ACCOUNT] },
    { key: 'aws:SourceIp', expected: [] },
    { key: 'aws:SourceIp', attributes: { sourceAddress: '::1' }, expected: ['::1'] },
    { key: 'aws:SecureTransport', expected: ['false'] },
    { key: 'aws:SecureTransport', attributes: { secureTransport: true }, expected: ['true'] },
    { key: 'aws:CurrentTime', expected: ['2020-01-01T00:00:00.999Z'] },
    { key: 'aws:EpochTime', expected: ['1577836800'] },
    { key: 'aws:TagKeys', attributes: { tags }, expected: ['Project', 'Old'] },
    { key: 'aws:RequestTag/Project', attributes: { tags }, expected: ['Alpha'] },
    { key: 'aws:RequestTag/project', attributes: { tags }, expected: ['Alpha'] },
    { key: 'aws:RequestTag/Old', attributes: { tags }, expected: [] },
    {
      key: 'aws:ResourceTag/Project',
      kmsKey: keyOf({ tags: new Map([['project', 'Beta']]) }),
      attributes: { tags },
      expected: ['Beta'],
    },
    { key: 'aws:ResourceTag/Project', kmsKey: undefined, expected: [] },
    { key: 'kms:CallerAccount', by: EVE, expected: [OTHER_ACCOUNT] },
    { key: 'kms:ViaService', expected: [] },
    // "The key is not present unless the call is made by a service" (IAM User Guide, "Global condition keys").
    { key: 'aws:SourceArn', expected: [] },
    { key: 'aws:SourceAccount', expected: [] },
    { key: 'aws:PrincipalIsAWSService', expected: ['false'] },
    { key: 'aws:ViaAWSService', expected: ['false'] },
    { key: 'kms:KeySpec', expected: ['SYMMETRIC_DEFAULT'] },
    { key: 'kms:KeyUsage', expected: ['ENCRYPT_DECRYPT'] },
    { key: 'kms:KeyOrigin', kmsKey: mrk, expected: ['EXTERNAL'] },
    { key: 'kms:MultiRegion', expected: ['false'] },
    { key: 'kms:MultiRegion', kmsKey: mrk, expected: ['true'] },
    { key: 'kms:MultiRegionKeyType', expected: [] },
    { key: 'kms:MultiRegionKeyType', kmsKey: mrk, expected: ['REPLICA'] },
    // What a request says about a key that is there counts for nothing.
    {
      key: 'kms:KeyOrigin',
      attributes: { parameters: { 'kms:KeyOrigin': 'EXTERNAL' } },
      expected: ['AWS_KMS'],
    },
    {
      key: 'kms:KeySpec',
      action: 'kms:CreateKey',
      kmsKey: undefined,
      attributes: { parameters: { 'kms:KeySpec': 'RSA_4096' } },
      expected: ['RSA_4096'],
    },
    {
      key: 'kms:EncryptionContext:AppName',
      attributes: { encryptionContext: context },
      expected: ['ExampleApp'],
    },
    // "The key name is not case sensitive."
    {
      key: 'KMS:encryptioncontext:APPNAME',
      attributes: { encryptionContext: context },
      expected: ['ExampleApp'],
    },
    {
      key: 'kms:EncryptionContext:Other',
      attributes: { encryptionContext: context },
      expected: [],
    },
    { key: 'kms:EncryptionContext:AppName', expected: [] },
    {
      key: 'kms:EncryptionContext:AppName',
      attributes: {
        encryptionContext: new Map([
          ['AppName', '1'],
          ['appname', '2'],
        ]),
      },
      expected: ['1', '2'],
    },
    {
      key: 'kms:EncryptionContext:a:b',
      attributes: { encryptionContext: new Map([['a:b', '1']]) },
      expected: ['1'],
    },
    {
      key: 'kms:EncryptionContextKeys',
      attributes: { encryptionContext: context },
      expected: ['AppName', 'Stage'],
    },
    {
      key: 'kms:EncryptionContextKeys',
      attributes: { encryptionContext: new Map() },
      expected: [],
    },
    {
      key: 'kms:EncryptionContextKeys',
      action: 'kms:CreateGrant',
      attributes: { grant },
      expected: ['AppName', 'Stage'],
    },
    {
      key: 'kms:EncryptionContext:Stage',
      action: 'kms:CreateGrant',
      attributes: { grant },
      expected: ['Test'],
    },
    { key: 'kms:RequestAlias', attributes: { alias: 'alias/a' }, expected: ['alias/a'] },
    {
      key: 'kms:RequestAlias',
      action: 'kms:DescribeKey',
      attributes: { alias: 'alias/a' },
      expected: ['alias/a'],
    },
    // "You cannot use this condition key to control access to alias operations."
    {
      key: 'kms:RequestAlias',
      action: 'kms:DeleteAlias',
      attributes: { alias: 'alias/a' },
      expected: [],
    },
    {
      key: 'kms:ResourceAliases',
      kmsKey: keyOf({ aliases: ['alias/a', 'alias/b'] }),
      expected: ['alias/a', 'alias/b'],
    },
    {
      key: 'kms:GrantOperations',
      action: 'kms:CreateGrant',
      attributes: { grant },
      expected: ['Decrypt', 'RetireGrant'],
    },
    {
      key: 'kms:GranteePrincipal',
      action: 'kms:CreateGrant',
      attributes: { grant },
      expected: [BOB],
    },
    {
      key: 'kms:RetiringPrincipal',
      action: 'kms:CreateGrant',
      attributes: { grant },
      expected: [ADMIN],
    },
    {
      key: 'kms:GrantConstraintType',
      action: 'kms:CreateGrant',
      attributes: { grant },
      expected: ['EncryptionContextSubset'],
    },
    { key: 'kms:GranteePrincipal', action: 'kms:RetireGrant', attributes: { grant }, expected: [] },
    { key: 'kms:GrantIsForAWSResource', action: 'kms:CreateGrant', expected: ['false'] },
    { key: 'kms:GrantIsForAWSResource', expected: [] },
    // "This condition works also where the parameter is not in the request."
    { key: 'kms:EncryptionAlgorithm', expected: ['SYMMETRIC_DEFAULT'] },
    { key: 'kms:EncryptionAlgorithm', action: 'kms:DescribeKey', expected: [] },
    ...(
      [
        ['kms:EncryptionAlgorithm', 'RSAES_OAEP_SHA_256'],
        ['kms:SigningAlgorithm', 'RSASSA_PSS_SHA_512'],
        ['kms:MacAlgorithm', 'HMAC_SHA_256'],
        ['kms:MessageType', 'DIGEST'],
        ['kms:KeyAgreementAlgorithm', 'ECDH'],
        ['kms:DataKeyPairSpec', 'ECC_NIST_P256'],
        ['kms:WrappingAlgorithm', 'RSAES_OAEP_SHA_256'],
        ['kms:WrappingKeySpec', 'RSA_4096'],
        ['kms:ExpirationModel', 'KEY_MATERIAL_EXPIRES'],
        ['kms:ValidTo', 1546257599],
        ['kms:ScheduleKeyDeletionPendingWindowInDays', 7],
        ['kms:RotationPeriodInDays', 90],
        ['kms:BypassPolicyLockoutSafetyCheck', true],
        ['kms:ReEncryptOnSameKey', false],
        ['kms:PrimaryRegion', 'us-east-1'],
        ['kms:ReplicaRegion', 'eu-west-1'],
      ] as const
    ).map(([key, value]) => ({
      key,
      attributes: { parameters: { [key]: value } },
      expected: [String(value)],
    })),
  ])(
    '$key of $action by $by is $expected',
    ({ key, by, action, attributes, expected, ...rest }) => {
      const question = {
        caller: callerOf(by ?? ALICE),
        action: action ?? ('kms:Decrypt' as Action),
        kmsKey: 'kmsKey' in rest ? rest.kmsKey : keyOf(),
        location: LOCATION,
      }
      const found = findConditionKey(key)
      expect(found?.read(question, attributes ?? {}, 1_577_836_800_999)).toEqual(expected)
    },
  )

  test('has several values where AWS says so, and one otherwise', () => {
    const several = [
      'aws:TagKeys',
      'kms:EncryptionContextKeys',
      'kms:GrantOperations',
      'kms:ResourceAliases',
    ]
    for (const key of several) {
      expect(() => holds('StringEquals', 'a', [], key), key).toThrow('ForAllValues')
      expect(holds('ForAllValues:StringEquals', 'a', [], key), key).toBe(true)
    }
    for (const key of ['kms:GrantConstraintType', 'kms:RequestAlias', 'aws:PrincipalArn']) {
      expect(holds('StringEquals', 'a', [], key), key).toBe(false)
    }
  })
})
