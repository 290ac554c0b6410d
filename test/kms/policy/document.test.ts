/**
 * Policy documents: what AWS's grammar allows is taken, and whatever is not understood is refused by name, for it
 * might have been what denies. Sources: IAM User Guide, "Grammar of the IAM JSON policy language", "Principal",
 * "NotPrincipal", "Condition operators"; AWS KMS Developer Guide, "Creating a key policy".
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import { KeyfoldError } from '../../../dist/errors.js'
import {
  compileIdentityPolicy,
  compileKeyPolicy,
  type Policy,
} from '../../../dist/kms/policy/document.js'
import { parseStrictJson } from '../../../dist/kms/policy/strict-json.js'
import { ALICE, allow, deny, documentOf, ROOT, to, type StatementJson } from './samples.ts'

function refusal(compile: (text: string) => Policy, text: string): string {
  try {
    compile(text)
  } catch (error) {
    expect(error).toBeInstanceOf(KeyfoldError)
    expect((error as KeyfoldError).code).toBe('POLICY_MALFORMED')
    return (error as KeyfoldError).message
  }
  return 'taken'
}

const ofKey = (statement: StatementJson): string =>
  refusal(compileKeyPolicy, documentOf(allow({ ...to(ALICE), ...statement })))
const ofIdentity = (statement: StatementJson): string =>
  refusal(compileIdentityPolicy, documentOf(allow(statement)))

describe('a document', () => {
  test.each([
    [
      'the default key policy',
      documentOf(allow({ Sid: 'Enable IAM User Permissions', ...to(ROOT) })),
    ],
    ['one statement outside a list', JSON.stringify({ Statement: allow(to(ALICE)) })],
    ['an Id', JSON.stringify({ Id: 'key-default-1', Statement: [allow(to(ALICE))] })],
    ['the older version', JSON.stringify({ Version: '2008-10-17', Statement: [allow(to(ALICE))] })],
    ['white space', `\n\t\r {"Statement" : [ ${JSON.stringify(allow(to(ALICE)))}\n ] } `],
  ])('is taken: %s', (_, text) => {
    expect(refusal(compileKeyPolicy, text)).toBe('taken')
  })

  const statement = JSON.stringify(allow(to(ALICE)))
  test.each([
    ['', 'not JSON'],
    ['null', 'an object'],
    ['[]', 'an object'],
    ['"Allow"', 'an object'],
    ['{}', 'Statement'],
    ['{"Statement":[]}', 'Statement'],
    ['{"Statement":null}', 'statement 1'],
    [`{"Statement":[${statement},7]}`, 'statement 2'],
    [`{"Statement":[${statement}],"Statements":[]}`, '"Statements"'],
    [`{"statement":[${statement}]}`, '"statement"'],
    [`{"Version":"2012-10-18","Statement":[${statement}]}`, 'Version'],
    [`{"Version":20121017,"Statement":[${statement}]}`, 'Version'],
    [`{"Id":7,"Statement":[${statement}]}`, 'Id'],
    [`{"Statement":[${statement}]} x`, 'not JSON'],
    [`{"Statement":[${statement},]}`, 'not JSON'],
    [`{"Statement":[${statement}]`, 'not JSON'],
    [`{'Statement':[${statement}]}`, 'not JSON'],
    [`{"Statement":[${statement}]}\u2028`, 'U+00FF'],
    [`{"Id":"€","Statement":[${statement}]}`, 'U+00FF'],
    [`{"Id":"\u0000","Statement":[${statement}]}`, 'U+00FF'],
    [`${'['.repeat(10_000)}${']'.repeat(10_000)}`, 'nested'],
    [`{"Statement":${'['.repeat(16_000)}`, 'nested'],
  ])('is refused: %s', (text, name) => {
    expect(refusal(compileKeyPolicy, text)).toContain(name)
  })

  test.each([
    `{"Statement":[],"Statement":[${statement}]}`,
    `{"Statement":[{"Effect":"Deny","Principal":"*","Action":"*","Resource":"*","Effect":"Allow"}]}`,
    `{"Statement":[{"Effect":"Deny","Principal":"*","Action":"*","Resource":"*","\\u0045ffect":"Allow"}]}`,
    `{"Statement":[{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*","Condition":{"Bool":{"aws:SecureTransport":true},"Bool":{}}}]}`,
    `{"Statement":[{"Effect":"Allow","Principal":{"AWS":"${ALICE}","AWS":"*"},"Action":"*","Resource":"*"}]}`,
  ])('is refused where a key occurs twice, for the second would hide the first: %s', (text) => {
    expect(JSON.parse(text)).toBeDefined()
    expect(refusal(compileKeyPolicy, text)).toContain('occurs twice')
  })

  test('is at most 32,768 bytes long, counted in UTF-8', () => {
    const padded = (length: number, character: string): string => {
      const bare = JSON.stringify({ Id: '', Statement: [allow(to(ALICE))] })
      const room = Math.floor((length - bare.length) / Buffer.byteLength(character))
      return bare.replace('"Id":""', `"Id":"${character.repeat(room)}"`)
    }
    expect(padded(32_768, 'a')).toHaveLength(32_768)
    expect(refusal(compileKeyPolicy, padded(32_768, 'a'))).toBe('taken')
    expect(refusal(compileKeyPolicy, padded(32_769, 'a'))).toContain('32768 bytes')
    expect(refusal(compileKeyPolicy, padded(32_768, 'é'))).toBe('taken')
    expect(refusal(compileKeyPolicy, padded(32_770, 'é'))).toContain('32768 bytes')
  })
})

describe('an element of a statement', () => {
  test.each<[string, StatementJson]>([
    ['a Sid with spaces', { Sid: 'Allow the administrators' }],
    ['lists', { Action: ['kms:Encrypt', 'kms:Get*'], Resource: ['*'] }],
    ['an account', to('111122223333')],
    ['everybody', { Principal: '*' }],
    ['everybody of AWS', to('*')],
    ['a service', { Principal: { Service: 'logs.eu-west-1.amazonaws.com' } }],
    ['a user and services', { Principal: { AWS: ALICE, Service: ['sns.amazonaws.com'] } }],
    ['a role with a path', to('arn:aws:iam::111122223333:role/a/b+=,.@-_')],
    ['no conditions', { Condition: {} }],
    ['numbers and booleans', { Condition: { Bool: { 'aws:SecureTransport': true } } }],
    ['a name of another service', { Action: 's3:GetObject' }],
  ])('is taken: %s', (_, statement) => {
    expect(ofKey(statement)).toBe('taken')
  })

  test.each<[StatementJson, string]>([
    [{ Sid: 7 }, 'Sid'],
    [{ Effect: 'allow' }, 'Effect'],
    [{ Effect: undefined }, 'Effect'],
    [{ Effect: ['Allow'] }, 'Effect'],
    [{ Principal: undefined }, 'Principal'],
    [{ Principal: {} }, 'Principal'],
    [{ Principal: { AWS: [] } }, 'Principal'],
    [{ Principal: ALICE }, 'Principal'],
    [{ Principal: ['*'] }, 'Principal'],
    [{ Principal: { Service: 'logs' } }, 'Principal'],
    [{ Principal: { Service: '*' } }, 'Principal'],
    [{ Principal: { Service: 'logs.amazonaws.com.example.org' } }, 'Principal'],
    [{ Principal: { Service: [] } }, 'Principal'],
    [{ Principal: { AWS: ALICE, Federated: 'x' } }, '"Federated"'],
    [to('arn:aws:iam::111122223333:user/*'), 'Principal'],
    [to('arn:aws:iam::111122223333:*'), 'Principal'],
    [to('arn:aws:iam::*:root'), 'Principal'],
    [to('1111222233334'), 'Principal'],
    [to('arn:aws:iam::111122223333:group/Developers'), 'Principal'],
    [to('arn:aws:sts::111122223333:assumed-role/Role/session'), 'Principal'],
    [to(`${ALICE}\n`), 'Principal'],
    [{ Principal: { AWS: [ALICE, 7] } }, 'Principal'],
    [{ NotPrincipal: { AWS: ALICE } }, 'Principal'],
    [
      {
        Effect: 'Deny',
        Principal: undefined,
        NotPrincipal: { AWS: ALICE, Service: 'sns.amazonaws.com' },
      },
      'services',
    ],
    [{ Action: undefined }, 'Action'],
    [{ Action: [] }, 'Action'],
    [{ Action: 'Encrypt' }, 'Action'],
    [{ Action: 'kms:' }, 'Action'],
    [{ Action: 'k*:Encrypt' }, 'Action'],
    [{ Action: 'kms:Encrypt ' }, 'Action'],
    [{ Action: 'kms:Encrypt,kms:Decrypt' }, 'Action'],
    [{ NotAction: 'kms:Decrypt' }, 'Action'],
    [{ Action: { kms: 'Encrypt' } }, 'Action'],
    [{ Resource: undefined }, 'Resource'],
    [{ Resource: [] }, 'Resource'],
    [{ Resource: '' }, 'Resource'],
    [{ Resource: 'key/1' }, 'Resource'],
    [{ Resource: 'arn:aws:kms:*' }, 'Resource'],
    [{ NotResource: '*' }, 'Resource'],
    [{ Resource: 'arn:aws:kms:us-west-2:1:key/${aws:username}' }, 'variables'],
    [{ Condition: [] }, 'Condition'],
    [{ Condition: { StringEquals: 'x' } }, '"StringEquals"'],
    [{ Condition: { StringIs: {} } }, '"StringIs"'],
    [{ Condition: { StringEquals: { 'aws:username': [] } } }, '"aws:username"'],
    [{ Condition: { StringEquals: { 'aws:username': null } } }, 'Condition'],
    [{ Condition: { StringEquals: { 'aws:username': { a: 'b' } } } }, 'Condition'],
    [{ Condition: { StringEquals: { 'aws:username': '${aws:userid}' } } }, 'variables'],
    [{ Condition: { StringEqual: { 'aws:username': 'x' } } }, '"StringEqual"'],
    [{ Condition: { stringEquals: { 'aws:username': 'x' } } }, '"stringEquals"'],
    [{ Condition: { BinaryEquals: { 'aws:username': 'eA==' } } }, '"BinaryEquals"'],
    [{ Condition: { constructor: { 'aws:username': 'x' } } }, '"constructor"'],
    [{ Condition: { 'ForEveryValue:StringEquals': { 'aws:TagKeys': 'x' } } }, 'ForEveryValue'],
    [{ Condition: { 'ForAllValues:Null': { 'aws:TagKeys': 'true' } } }, 'Null'],
    [{ Condition: { NullIfExists: { 'aws:TagKeys': 'true' } } }, 'NullIfExists'],
    [{ Condition: { Null: { 'aws:TagKeys': 'yes' } } }, 'Null'],
    [{ Condition: { StringEquals: { 'aws:PrincipalOrgID': 'o-1' } } }, '"aws:PrincipalOrgID"'],
    [{ Condition: { StringEquals: { 'kms:EncryptionContext:': 'x' } } }, 'kms:EncryptionContext:'],
    [{ Condition: { StringEquals: { 'aws:TagKeys': 'x' } } }, 'ForAllValues'],
    [{ Condition: { NumericEquals: { 'kms:RotationPeriodInDays': 'ten' } } }, 'a number'],
    [{ Condition: { NumericEquals: { 'kms:RotationPeriodInDays': '0x10' } } }, 'a number'],
    [{ Condition: { DateLessThan: { 'aws:CurrentTime': 'yesterday' } } }, 'a date'],
    [{ Condition: { DateLessThan: { 'aws:CurrentTime': '2020' } } }, 'a date'],
    [{ Condition: { DateLessThan: { 'aws:CurrentTime': '2020-13-01' } } }, 'a date'],
    [{ Condition: { DateLessThan: { 'aws:CurrentTime': '2020-01-01T00:00:00' } } }, 'a date'],
    [{ Condition: { Bool: { 'aws:SecureTransport': 1 } } }, 'true or false'],
    [{ Condition: { IpAddress: { 'aws:SourceIp': '203.0.113.0/33' } } }, 'an IP address'],
    [{ Condition: { IpAddress: { 'aws:SourceIp': '203.0.113' } } }, 'an IP address'],
    [{ Condition: { IpAddress: { 'aws:SourceIp': '203.0.113.0/24/1' } } }, 'an IP address'],
    [{ Condition: { IpAddress: { 'aws:SourceIp': '203.0.113.0/-1' } } }, 'an IP address'],
    [{ Condition: { IpAddress: { 'aws:SourceIp': 'fe80::1%eth0' } } }, 'an IP address'],
    [{ Condition: { ArnLike: { 'aws:PrincipalArn': 'Alice' } } }, 'an ARN'],
    [{ Comment: 'x' }, '"Comment"'],
  ])('is refused by its place: %j', (statement, name) => {
    const message = ofKey(statement)
    expect(message).toContain('statement 1')
    expect(message).toContain(name)
  })

  test('of an identity policy names no principal, and its Sid has no spaces', () => {
    expect(ofIdentity({ Sid: 'S1' })).toBe('taken')
    expect(ofIdentity({ Principal: { AWS: ALICE } })).toContain('Principal')
    expect(ofIdentity({ NotPrincipal: { AWS: ALICE } })).toContain('Principal')
    expect(ofIdentity({ Sid: 'with spaces' })).toContain('Sid')
  })

  test('NotPrincipal stands beside Deny, names somebody, and is not Principal', () => {
    const of = (statement: StatementJson): string =>
      refusal(compileKeyPolicy, documentOf(deny(statement)))
    expect(of({ NotPrincipal: { AWS: [ALICE, ROOT] } })).toBe('taken')
    expect(of({ NotPrincipal: '*' })).toContain('Principal')
    expect(of({ ...to(ALICE), NotPrincipal: { AWS: ALICE } })).toContain('Principal')
    expect(
      refusal(compileKeyPolicy, documentOf(allow({ NotPrincipal: { AWS: ALICE } }))),
    ).toContain('Principal')
  })

  test('has a Sid of its own', () => {
    const twice = documentOf(allow({ Sid: 'A', ...to(ALICE) }), deny({ Sid: 'A', ...to(ALICE) }))
    expect(refusal(compileKeyPolicy, twice)).toContain('statement 2, Sid')
  })

  test('that looks like a policy variable is text in the version that has none', () => {
    const statement = allow({
      ...to(ALICE),
      Condition: { StringEquals: { 'aws:username': '${aws:userid}' } },
    })
    const text = JSON.stringify({ Version: '2008-10-17', Statement: [statement] })
    expect(refusal(compileKeyPolicy, text)).toBe('taken')
  })
})

describe('any text', () => {
  test('that JSON.parse takes without duplicate keys means the same here', () => {
    const plain = (value: unknown): unknown => {
      if (value instanceof Map) {
        return Object.fromEntries([...value].map(([key, element]) => [key, plain(element)]))
      }
      if (Array.isArray(value)) return value.map(plain)
      return typeof value === 'object' && value !== null
        ? Number((value as { text: string }).text)
        : value
    }
    const property = fc.property(fc.jsonValue({ maxDepth: 8 }), fc.nat(3), (value, indent) => {
      const text = JSON.stringify(value, undefined, indent)
      expect(JSON.stringify(plain(parseStrictJson(text)))).toBe(JSON.stringify(JSON.parse(text)))
    })
    fc.assert(property, { numRuns: 500 })
  })

  test('that JSON.parse refuses is refused here', () => {
    const characters = fc.constantFrom(...'{}[]":,\\ \n0123456789.-+eEtrufalsn"\u0007')
    const property = fc.property(fc.string({ unit: characters, maxLength: 24 }), (text) => {
      let isJson = true
      try {
        JSON.parse(text)
      } catch {
        isJson = false
      }
      let isTaken = true
      try {
        parseStrictJson(text)
      } catch (error) {
        expect((error as KeyfoldError).code).toBe('POLICY_MALFORMED')
        isTaken = (error as KeyfoldError).message.includes('occurs twice')
      }
      expect(isTaken).toBe(isJson)
    })
    fc.assert(property, { numRuns: 20_000 })
  })

  test('and any JSON is compiled or refused, never anything else', () => {
    const names = fc.constantFrom(
      'Version',
      'Id',
      'Statement',
      'Sid',
      'Effect',
      'Principal',
      'NotPrincipal',
      'Action',
      'NotAction',
      'Resource',
      'NotResource',
      'Condition',
      'AWS',
      'StringLike',
      'Null',
      'ForAllValues:ArnLike',
      'aws:TagKeys',
      '__proto__',
      'constructor',
    )
    const leaf = fc.oneof(
      fc.constantFrom('Allow', 'Deny', '*', 'kms:*', ALICE, '2012-10-17', 'true', '', '${x}'),
      fc.jsonValue({ maxDepth: 0 }),
    )
    const { tree } = fc.letrec<{ tree: unknown }>((tie) => ({
      tree: fc.oneof(
        { maxDepth: 6 },
        leaf,
        fc.array(tie('tree'), { maxLength: 3 }),
        fc.dictionary(names, tie('tree'), { maxKeys: 7 }),
      ),
    }))
    const property = fc.property(tree, (value) => {
      for (const compile of [compileKeyPolicy, compileIdentityPolicy]) {
        refusal(compile, JSON.stringify(value))
        refusal(compile, JSON.stringify({ Statement: value }))
      }
    })
    fc.assert(property, { numRuns: 5_000 })
  })
})
