/**
 * Decisions, rule by rule. The page that a rule is from stands at its table: IAM = IAM User Guide, KMS = AWS Key
 * Management Service Developer Guide.
 */
import { describe, expect, test } from 'vitest'

import type { Action, Grant, RequestAttributes } from '../../../dist/kms/kms-key.js'
import {
  ADMIN,
  ALICE,
  allow,
  BOB,
  decide,
  DELEGATE,
  deny,
  documentOf,
  EVE,
  grantOf,
  isAllowed,
  KEY_ARN,
  keyOf,
  OTHER_ROOT,
  principalOf,
  ROOT,
  to,
  tokenOf,
  type Scene,
  type StatementJson,
} from './samples.ts'

const keyWith = (...statements: readonly StatementJson[]) =>
  keyOf({ policy: documentOf(...statements) })
const everything = documentOf(allow())
const alice = principalOf(ALICE)
const eve = principalOf(EVE)

describe('a key policy (KMS, "Key policies", "Default key policy")', () => {
  test.each<[what: string, scene: Scene, expected: boolean]>([
    [
      'allows whom it names, without any other policy',
      { principal: alice, kmsKey: keyWith(allow(to(ALICE))) },
      true,
    ],
    [
      'allows nobody whom it does not name',
      { principal: principalOf(BOB), kmsKey: keyWith(allow(to(ALICE))) },
      false,
    ],
    [
      'that names a user does not name a role of that name',
      { principal: principalOf(ALICE.replace('user', 'role')), kmsKey: keyWith(allow(to(ALICE))) },
      false,
    ],
    [
      'that names the account leaves it to identity policies: without one nothing is allowed',
      { principal: alice },
      false,
    ],
    [
      'that names the account leaves it to identity policies: with one it is',
      { principal: alice, attached: { [ALICE]: everything } },
      true,
    ],
    [
      'that names the account lets nobody by another’s identity policy',
      { principal: alice, attached: { [BOB]: everything } },
      false,
    ],
    [
      'that names the account by its id means the same',
      {
        principal: alice,
        attached: { [ALICE]: everything },
        kmsKey: keyWith(allow(to('111122223333'))),
      },
      true,
    ],
    [
      'without the account leaves identity policies no say',
      { principal: alice, attached: { [ALICE]: everything }, kmsKey: keyWith(allow(to(BOB))) },
      false,
    ],
    [
      'without the account leaves its root no say',
      { principal: principalOf(ROOT), kmsKey: keyWith(allow(to(BOB))) },
      false,
    ],
    ['that names the account allows its root', { principal: principalOf(ROOT) }, true],
    [
      'that hands the account one action hands it no other',
      {
        principal: alice,
        attached: { [ALICE]: everything },
        kmsKey: keyWith(allow({ ...to(ROOT), Action: 'kms:Encrypt' })),
      },
      false,
    ],
    [
      'that names everybody allows everybody of the account',
      { principal: alice, kmsKey: keyWith(allow({ Principal: '*' })) },
      true,
    ],
    [
      'for another key’s ARN is none for this one',
      { principal: alice, kmsKey: keyWith(allow({ ...to(ALICE), Resource: `${KEY_ARN}0` })) },
      false,
    ],
    [
      'for this key’s ARN is one',
      { principal: alice, kmsKey: keyWith(allow({ ...to(ALICE), Resource: KEY_ARN })) },
      true,
    ],
    [
      'that cannot be understood allows nothing, for nobody knows what it denies',
      { principal: principalOf(ROOT), kmsKey: keyOf({ policy: '{}' }) },
      false,
    ],
  ])('%s', (_, scene, expected) => {
    expect(isAllowed(scene)).toBe(expected)
  })
})

describe('a Deny (IAM, "Policy evaluation logic": an explicit deny overrides any allow)', () => {
  const grants = [grantOf()]
  const open = { ...allow(to(ALICE)) }
  test.each<[what: string, scene: Scene]>([
    [
      'in the key policy wins over its own Allow',
      { principal: alice, kmsKey: keyWith(open, deny(to(ALICE))) },
    ],
    ['before the Allow wins as well', { principal: alice, kmsKey: keyWith(deny(to(ALICE)), open) }],
    [
      'in the key policy wins over an identity policy',
      {
        principal: alice,
        attached: { [ALICE]: everything },
        kmsKey: keyWith(DELEGATE, deny(to(ALICE))),
      },
    ],
    [
      'in the key policy wins over a grant',
      {
        principal: alice,
        kmsKey: keyOf({ grants, policy: documentOf(DELEGATE, deny(to(ALICE))) }),
      },
    ],
    [
      'in the key policy wins over a token',
      { principal: tokenOf(ALICE), kmsKey: keyWith(DELEGATE, deny(to(ALICE))) },
    ],
    [
      'in an identity policy wins over the key policy',
      { principal: alice, attached: { [ALICE]: documentOf(deny()) }, kmsKey: keyWith(open) },
    ],
    [
      'in an identity policy wins over a grant',
      {
        principal: alice,
        attached: { [ALICE]: documentOf(deny({ Action: 'kms:Decrypt' })) },
        kmsKey: keyOf({ grants }),
      },
    ],
    [
      'in an identity policy wins over a token',
      { principal: tokenOf(ALICE), attached: { [ALICE]: documentOf(deny({ Resource: KEY_ARN })) } },
    ],
    [
      'of everybody is one of root',
      { principal: principalOf(ROOT), kmsKey: keyWith(DELEGATE, deny({ Principal: '*' })) },
    ],
    [
      'of the account is one of everyone in it',
      { principal: alice, kmsKey: keyWith(open, deny(to(ROOT))) },
    ],
    [
      'of all but another action',
      {
        principal: alice,
        kmsKey: keyWith(open, deny({ ...to(ALICE), Action: undefined, NotAction: 'kms:Encrypt' })),
      },
    ],
  ])('%s', (_, scene) => {
    expect(isAllowed(scene)).toBe(false)
  })

  test('of another action, principal, resource or condition changes nothing', () => {
    for (const other of [
      deny({ ...to(ALICE), Action: 'kms:Encrypt' }),
      deny(to(BOB)),
      deny({ ...to(ALICE), Resource: `${KEY_ARN}0` }),
      deny({ ...to(ALICE), Condition: { StringEquals: { 'kms:KeySpec': 'RSA_2048' } } }),
      deny({ ...to(ALICE), Action: undefined, NotAction: 'kms:Dec*' }),
      deny({ ...to(ALICE), Resource: undefined, NotResource: KEY_ARN }),
    ]) {
      expect(isAllowed({ principal: alice, kmsKey: keyWith(open, other) })).toBe(true)
    }
  })
})

describe('names and wildcards (IAM, "Action", "Resource", "NotAction", "NotResource")', () => {
  test.each<[StatementJson, Action, boolean]>([
    [{ Action: '*' }, 'kms:Decrypt', true],
    [{ Action: 'kms:*' }, 'kms:Decrypt', true],
    [{ Action: 'KMS:DECRYPT' }, 'kms:Decrypt', true],
    [{ Action: 'kms:decrypt' }, 'kms:Decrypt', true],
    [{ Action: 'kms:De*' }, 'kms:Decrypt', true],
    [{ Action: 'kms:De*' }, 'kms:DescribeKey', true],
    [{ Action: 'kms:De*' }, 'kms:Encrypt', false],
    [{ Action: 'kms:*crypt' }, 'kms:Encrypt', true],
    [{ Action: 'kms:?ncrypt' }, 'kms:Encrypt', true],
    [{ Action: 'kms:?' }, 'kms:Encrypt', false],
    [{ Action: 'kms:Encrypt' }, 'kms:EncryptX' as Action, false],
    [{ Action: 'kms:GenerateDataKey' }, 'kms:GenerateDataKeyWithoutPlaintext', false],
    [{ Action: 'kms:*' }, 'keyfold:ReleaseMessageKey', false],
    [{ Action: 'keyfold:*' }, 'keyfold:ReleaseMessageKey', true],
    [{ Action: 's3:*' }, 'kms:Decrypt', false],
    // The trap: Allow with NotAction allows everything else, of every service.
    [{ Action: undefined, NotAction: 'kms:Encrypt' }, 'kms:Decrypt', true],
    [{ Action: undefined, NotAction: 'kms:Encrypt' }, 'kms:ScheduleKeyDeletion', true],
    [{ Action: undefined, NotAction: 'kms:Encrypt' }, 'keyfold:ReleaseMessageKey', true],
    [{ Action: undefined, NotAction: ['iam:*', 'kms:D*'] }, 'kms:Decrypt', false],
    [{ Resource: undefined, NotResource: KEY_ARN }, 'kms:Decrypt', false],
    [{ Resource: undefined, NotResource: `${KEY_ARN}0` }, 'kms:Decrypt', true],
    [{ Resource: 'arn:aws:kms:*:111122223333:key/*' }, 'kms:Decrypt', true],
    [{ Resource: 'arn:aws:kms:us-west-2:*:key/1234abcd-*' }, 'kms:Decrypt', true],
    [{ Resource: 'arn:aws:kms:us-east-1:*:key/*' }, 'kms:Decrypt', false],
    [{ Resource: 'arn:aws:kms:*:*:alias/*' }, 'kms:Decrypt', false],
    [{ Resource: ['arn:aws:s3:::b', KEY_ARN] }, 'kms:Decrypt', true],
    // A star does not reach beyond its part of the ARN.
    [{ Resource: 'arn:aws:*:x:x:key/*' }, 'kms:Decrypt', false],
  ])('%j on %s: %s', (statement, action, expected) => {
    const kmsKey = keyWith(allow({ ...to(ALICE), ...statement }))
    expect(isAllowed({ principal: alice, action, kmsKey })).toBe(expected)
    const attached = { [ALICE]: documentOf(allow(statement)) }
    const delegating = keyWith(allow({ ...to(ROOT), Action: '*' }))
    expect(isAllowed({ principal: alice, action, kmsKey: delegating, attached })).toBe(expected)
  })
})

describe('NotPrincipal (IAM, "NotPrincipal with Deny": name the account as well)', () => {
  const except = (...principals: readonly string[]) =>
    keyWith(allow({ Principal: '*' }), deny({ NotPrincipal: { AWS: principals } }))
  test.each<[principals: string[], asking: string, expected: boolean]>([
    [[ALICE, ROOT], ALICE, true],
    [[ALICE, ROOT], BOB, false],
    [[ALICE, ROOT], ADMIN, false],
    [[ALICE, ROOT], ROOT, true],
    // The trap: the account is not named, and is denied with everybody in it.
    [[ALICE], ALICE, false],
    [[ROOT], ALICE, false],
    [[ROOT], ROOT, true],
  ])('%j leaves %s: %s', (principals, asking, expected) => {
    expect(isAllowed({ principal: principalOf(asking), kmsKey: except(...principals) })).toBe(
      expected,
    )
  })
})

describe('another account (KMS, "Allowing users in other accounts to use a KMS key")', () => {
  const theirs = { [EVE]: everything }
  test.each<[what: string, scene: Scene, expected: boolean]>([
    ['needs the key policy', { principal: eve, attached: theirs }, false],
    [
      'needs an identity policy where its principal is named',
      { principal: eve, kmsKey: keyWith(allow(to(EVE))) },
      false,
    ],
    [
      'needs an identity policy where everybody is named',
      { principal: eve, kmsKey: keyWith(allow({ Principal: '*' })) },
      false,
    ],
    [
      'needs both: principal',
      { principal: eve, attached: theirs, kmsKey: keyWith(allow(to(EVE))) },
      true,
    ],
    [
      'needs both: account',
      { principal: eve, attached: theirs, kmsKey: keyWith(allow(to(OTHER_ROOT))) },
      true,
    ],
    [
      'needs both: everybody',
      { principal: eve, attached: theirs, kmsKey: keyWith(allow({ Principal: '*' })) },
      true,
    ],
    [
      'is bounded by what its identity policy allows',
      {
        principal: eve,
        attached: { [EVE]: documentOf(allow({ Action: 'kms:Encrypt' })) },
        kmsKey: keyWith(allow(to(OTHER_ROOT))),
      },
      false,
    ],
    [
      'has a root of its own',
      { principal: principalOf(OTHER_ROOT), kmsKey: keyWith(allow(to(OTHER_ROOT))) },
      true,
    ],
    ['has no root here', { principal: principalOf(OTHER_ROOT) }, false],
    [
      'may use a token as its identity policy',
      { principal: tokenOf(EVE), kmsKey: keyWith(allow(to(EVE))) },
      true,
    ],
    ['may not use a token instead of the key policy', { principal: tokenOf(EVE) }, false],
    [
      'may use a grant',
      { principal: eve, kmsKey: keyOf({ grants: [grantOf({ granteePrincipal: EVE })] }) },
      true,
    ],
  ])('%s', (_, scene, expected) => {
    expect(isAllowed(scene)).toBe(expected)
  })

  test.each<[Action, boolean]>([
    ['kms:Decrypt', true],
    ['kms:GenerateDataKeyPairWithoutPlaintext', true],
    ['kms:ReEncryptTo', true],
    ['kms:Sign', true],
    ['kms:VerifyMac', true],
    ['kms:CreateGrant', true],
    ['kms:DescribeKey', true],
    ['kms:GetKeyRotationStatus', true],
    ['kms:GetPublicKey', true],
    ['kms:ListGrants', true],
    ['kms:RevokeGrant', true],
    ['kms:PutKeyPolicy', false],
    ['kms:GetKeyPolicy', false],
    ['kms:DisableKey', false],
    ['kms:ScheduleKeyDeletion', false],
    ['kms:TagResource', false],
    ['kms:CreateAlias', false],
  ])('%s has an effect there: %s', (action, expected) => {
    const kmsKey = keyWith(allow({ ...to(EVE), Action: '*' }))
    expect(isAllowed({ principal: eve, action, kmsKey, attached: theirs })).toBe(expected)
  })
})

describe('a grant (KMS, "Grants in AWS KMS", "Using grant constraints")', () => {
  const context = (pairs: Readonly<Record<string, string>>): RequestAttributes => ({
    encryptionContext: new Map(Object.entries(pairs)),
  })
  const it = { Department: 'IT' }
  const withGrant = (fields: Partial<Grant>): Scene => ({
    principal: alice,
    kmsKey: keyOf({ grants: [grantOf(fields)] }),
  })
  const equals = { equals: new Map(Object.entries(it)), subset: undefined }
  const subset = { equals: undefined, subset: new Map(Object.entries(it)) }

  test.each<[what: string, scene: Scene, expected: boolean]>([
    ['allows its grantee its operation', withGrant({}), true],
    ['allows no other operation', { ...withGrant({}), action: 'kms:Encrypt' }, false],
    [
      'allows no operation that begins like it',
      { ...withGrant({ operations: ['GenerateDataKey'] }), action: 'kms:GenerateDataKeyPair' },
      false,
    ],
    ['allows nobody else', { ...withGrant({}), principal: principalOf(BOB) }, false],
    [
      'allows the retiring principal nothing by being that',
      { ...withGrant({ retiringPrincipal: BOB }), principal: principalOf(BOB) },
      false,
    ],
    ['of the account’s root is none of the account', withGrant({ granteePrincipal: ROOT }), false],
    ['is of one key', { principal: alice, kmsKey: keyOf() }, false],
    [
      'helps where the key policy does not name the account',
      {
        principal: alice,
        kmsKey: keyOf({ grants: [grantOf()], policy: documentOf(allow(to(BOB))) }),
      },
      true,
    ],
    [
      'is one of several, of which one that fits is enough',
      {
        principal: alice,
        kmsKey: keyOf({ grants: [grantOf({ constraints: equals }), grantOf()] }),
      },
      true,
    ],
    [
      'Equals: exactly these pairs',
      { ...withGrant({ constraints: equals }), attributes: context(it) },
      true,
    ],
    [
      'Equals: not others',
      { ...withGrant({ constraints: equals }), attributes: context({ Department: 'HR' }) },
      false,
    ],
    [
      'Equals: not more',
      { ...withGrant({ constraints: equals }), attributes: context({ ...it, Purpose: 'Test' }) },
      false,
    ],
    ['Equals: not none', withGrant({ constraints: equals }), false],
    [
      'Equals: case is case',
      { ...withGrant({ constraints: equals }), attributes: context({ Department: 'it' }) },
      false,
    ],
    [
      'Equals nothing: not more',
      {
        ...withGrant({ constraints: { equals: new Map(), subset: undefined } }),
        attributes: context(it),
      },
      false,
    ],
    [
      'Subset: these pairs',
      { ...withGrant({ constraints: subset }), attributes: context(it) },
      true,
    ],
    [
      'Subset: and more',
      { ...withGrant({ constraints: subset }), attributes: context({ ...it, Purpose: 'Test' }) },
      true,
    ],
    [
      'Subset: not without',
      { ...withGrant({ constraints: subset }), attributes: context({ Purpose: 'Test' }) },
      false,
    ],
    [
      'Subset: not with another value',
      { ...withGrant({ constraints: subset }), attributes: context({ Department: 'ITX' }) },
      false,
    ],
    [
      'constraints do not concern DescribeKey',
      {
        ...withGrant({ operations: ['DescribeKey'], constraints: equals }),
        action: 'kms:DescribeKey',
      },
      true,
    ],
    [
      'does not reach beyond the credential',
      { ...withGrant({}), principal: principalOf(ALICE, { actions: ['kms:Encrypt'] }) },
      false,
    ],
  ])('%s', (_, scene, expected) => {
    expect(isAllowed(scene)).toBe(expected)
  })

  describe('of CreateGrant (KMS, "Granting CreateGrant permission")', () => {
    const parent = { operations: ['GenerateDataKey', 'Decrypt', 'CreateGrant'] }
    const both = new Map([...Object.entries(it), ['Purpose', 'Test']])
    const none = { equals: undefined, subset: undefined }
    test.each<[Grant['constraints'], Partial<Grant>, boolean]>([
      [none, { operations: ['Decrypt'] }, true],
      [none, { operations: ['Decrypt', 'CreateGrant'] }, true],
      [none, { operations: ['Decrypt', 'Encrypt'] }, false],
      [none, { operations: ['RetireGrant'] }, false],
      [subset, {}, false],
      [subset, { constraints: subset }, true],
      [subset, { constraints: { equals: undefined, subset: both } }, true],
      [subset, { constraints: equals }, true],
      [subset, { constraints: { equals: both, subset: undefined } }, true],
      [
        subset,
        { constraints: { equals: undefined, subset: new Map([['Purpose', 'Test']]) } },
        false,
      ],
      [equals, { constraints: equals }, true],
      [equals, { constraints: subset }, false],
      [equals, { constraints: { equals: both, subset: undefined } }, false],
      [equals, {}, false],
    ])('constrained by %j allows the grant %j: %s', (constraints, child, expected) => {
      const scene = withGrant({ ...parent, constraints })
      const attributes = { grant: grantOf({ granteePrincipal: BOB, ...child }) }
      expect(isAllowed({ ...scene, action: 'kms:CreateGrant', attributes })).toBe(expected)
      expect(isAllowed({ ...scene, action: 'kms:CreateGrant' })).toBe(false)
    })

    test('by a policy is not limited so', () => {
      const kmsKey = keyWith(allow({ ...to(ALICE), Action: 'kms:CreateGrant' }))
      const attributes = { grant: grantOf({ operations: ['Encrypt'] }) }
      expect(isAllowed({ principal: alice, action: 'kms:CreateGrant', kmsKey, attributes })).toBe(
        true,
      )
    })
  })

  describe('is retired (KMS, "Retiring and revoking grants")', () => {
    const retire = (by: string, grant: Partial<Grant>, scene: Partial<Scene> = {}): boolean =>
      isAllowed({
        principal: principalOf(by),
        action: 'kms:RetireGrant',
        attributes: { grant: grantOf(grant) },
        ...scene,
      })
    const permission = documentOf(allow({ Action: 'kms:RetireGrant' }))

    test('by its retiring principal, without any permission', () => {
      expect(retire(BOB, { retiringPrincipal: BOB })).toBe(true)
      expect(retire(EVE, { retiringPrincipal: EVE })).toBe(true)
      expect(retire(ADMIN, { retiringPrincipal: BOB })).toBe(false)
    })

    test('by its grantee only if it says so', () => {
      expect(retire(ALICE, {})).toBe(false)
      expect(retire(ALICE, { operations: ['RetireGrant'] })).toBe(true)
      expect(retire(BOB, { operations: ['RetireGrant'] })).toBe(false)
    })

    test('by the account of the key, and whom it lets', () => {
      expect(retire(ROOT, {})).toBe(true)
      expect(retire(BOB, {}, { attached: { [BOB]: permission } })).toBe(true)
      expect(retire(OTHER_ROOT, {})).toBe(false)
      expect(retire(EVE, {}, { attached: { [EVE]: permission } })).toBe(false)
    })

    test('by the account that is its retiring principal, and whom it lets', () => {
      const grant = { retiringPrincipal: OTHER_ROOT }
      expect(retire(OTHER_ROOT, grant)).toBe(true)
      expect(retire(EVE, grant)).toBe(false)
      expect(retire(EVE, grant, { attached: { [EVE]: permission } })).toBe(true)
    })

    test('not by word of a key policy, which can only deny it', () => {
      expect(retire(BOB, {}, { kmsKey: keyWith(allow({ ...to(BOB), Action: '*' })) })).toBe(false)
      const denying = keyWith(DELEGATE, deny({ ...to(BOB), Action: 'kms:RetireGrant' }))
      expect(retire(BOB, { retiringPrincipal: BOB }, { kmsKey: denying })).toBe(false)
    })

    test('by nobody where it is not said which', () => {
      const principal = principalOf(ROOT)
      expect(isAllowed({ principal, action: 'kms:RetireGrant' })).toBe(false)
    })
  })
})

describe('what concerns no key (KMS, "Actions and resources": the resource is *)', () => {
  test.each<[what: string, scene: Omit<Scene, 'kmsKey'>, expected: boolean]>([
    ['is root’s', { principal: principalOf(ROOT) }, true],
    ['is not another account’s root’s', { principal: principalOf(OTHER_ROOT) }, false],
    ['is nobody’s by default', { principal: alice }, false],
    [
      'is an identity policy’s to allow',
      { principal: alice, attached: { [ALICE]: everything } },
      true,
    ],
    [
      'is no matter of single resources',
      {
        principal: alice,
        attached: { [ALICE]: documentOf(allow({ Resource: 'arn:aws:kms:*:*:key/*' })) },
      },
      false,
    ],
    [
      'is denied as anything else',
      {
        principal: tokenOf(ALICE),
        attached: { [ALICE]: documentOf(deny({ Action: 'kms:Create*' })) },
      },
      false,
    ],
    [
      'is a token’s, whatever keys it is for',
      { principal: tokenOf(ALICE, ['kms:CreateKey'], ['none']) },
      true,
    ],
    [
      'is beyond a token that does not say so',
      { principal: tokenOf(ROOT, ['kms:Encrypt']) },
      false,
    ],
  ])('%s', (_, scene, expected) => {
    expect(isAllowed({ ...scene, action: 'kms:CreateKey', kmsKey: undefined })).toBe(expected)
  })

  test('reads of the request what there is no key for yet', () => {
    const attached = {
      [ALICE]: documentOf(allow({ Condition: { StringEquals: { 'kms:KeySpec': 'RSA_4096' } } })),
    }
    const create = (spec: string): boolean =>
      isAllowed({
        principal: alice,
        action: 'kms:CreateKey',
        kmsKey: undefined,
        attributes: { parameters: { 'kms:KeySpec': spec } },
        attached,
      })
    expect(create('RSA_4096')).toBe(true)
    expect(create('RSA_2048')).toBe(false)
  })
})

describe('a token (keyfold: an identity policy of its principal, and a session policy)', () => {
  const open = keyWith(allow({ Principal: '*' }))
  const grants = [grantOf()]
  test.each<[what: string, scene: Scene, expected: boolean]>([
    [
      'allows what it lists, where the key policy leaves it to the account',
      { principal: tokenOf(ALICE) },
      true,
    ],
    [
      'allows nothing where the key policy does not',
      { principal: tokenOf(ALICE), kmsKey: keyWith(allow(to(BOB))) },
      false,
    ],
    [
      'bounds what the key policy allows: action',
      { principal: tokenOf(ALICE, ['kms:Encrypt']), kmsKey: open },
      false,
    ],
    [
      'bounds what the key policy allows: key',
      { principal: tokenOf(ALICE, ['kms:*'], ['other']), kmsKey: open },
      false,
    ],
    [
      'bounds what an identity policy allows',
      { principal: tokenOf(ALICE, ['kms:Encrypt']), attached: { [ALICE]: everything } },
      false,
    ],
    [
      'bounds what a grant allows',
      { principal: tokenOf(ALICE, ['kms:Encrypt']), kmsKey: keyOf({ grants }) },
      false,
    ],
    ['bounds root', { principal: tokenOf(ROOT, ['kms:*'], ['other']) }, false],
    ['widens nothing for the same principal by access key', { principal: alice }, false],
  ])('%s', (_, scene, expected) => {
    expect(isAllowed(scene)).toBe(expected)
  })
})

describe('a confused deputy (KMS, "kms:EncryptionContext", "Case sensitivity")', () => {
  const tenant = allow({
    ...to(ALICE),
    Action: 'kms:Decrypt',
    Condition: { StringEquals: { 'kms:EncryptionContext:tenant': 'alice' } },
  })
  const asked = (pairs: Readonly<Record<string, string>>, kmsKey = keyWith(tenant)): boolean =>
    isAllowed({
      principal: alice,
      kmsKey,
      attributes: { encryptionContext: new Map(Object.entries(pairs)) },
    })

  test('opens what is its tenant’s and nothing else', () => {
    expect(asked({ tenant: 'alice' })).toBe(true)
    expect(asked({ tenant: 'alice', row: '7' })).toBe(true)
    expect(asked({ tenant: 'bob' })).toBe(false)
    expect(asked({})).toBe(false)
  })

  test('is not talked into another tenant’s by a second spelling of the key', () => {
    expect(asked({ tenant: 'bob', Tenant: 'alice' })).toBe(false)
    expect(asked({ tenant: 'alice', TENANT: 'bob' })).toBe(false)
    const denies = keyWith(
      allow(to(ALICE)),
      deny({
        ...to(ALICE),
        Condition: { StringEquals: { 'kms:EncryptionContext:tenant': 'bob' } },
      }),
    )
    expect(asked({ tenant: 'bob', Tenant: 'alice' }, denies)).toBe(false)
    expect(asked({ tenant: 'alice' }, denies)).toBe(true)
  })

  test('does not pass for one that an integrated service calls', () => {
    const viaService = keyWith(
      allow({ ...to(ALICE), Condition: { StringLike: { 'kms:ViaService': '*' } } }),
    )
    expect(isAllowed({ principal: alice, kmsKey: viaService })).toBe(false)
  })
})

describe('a statement about a service of AWS', () => {
  // AWS CloudWatch Logs User Guide, "Encrypt log data using AWS KMS".
  const logs = {
    Principal: { Service: 'logs.us-east-1.amazonaws.com' },
    Action: ['kms:Encrypt*', 'kms:Decrypt*', 'kms:ReEncrypt*', 'kms:GenerateDataKey*'],
    Condition: {
      ArnLike: { 'kms:EncryptionContext:aws:logs:arn': 'arn:aws:logs:us-east-1:111122223333:*' },
    },
  }
  const attributes = {
    encryptionContext: new Map([
      ['aws:logs:arn', 'arn:aws:logs:us-east-1:111122223333:log-group:a'],
    ]),
  }

  test('is about nobody who calls here', () => {
    expect(isAllowed({ principal: alice, kmsKey: keyWith(allow(logs)), attributes })).toBe(false)
    const denied = keyWith(allow(to(ALICE)), deny(logs))
    expect(isAllowed({ principal: alice, kmsKey: denied, attributes })).toBe(true)
  })

  test('is about the users that it names beside it', () => {
    const both = { ...logs, Principal: { AWS: ALICE, ...logs.Principal } }
    expect(isAllowed({ principal: alice, kmsKey: keyWith(allow(both)), attributes })).toBe(true)
    expect(isAllowed({ principal: alice, kmsKey: keyWith(allow(both)) })).toBe(false)
  })
})

describe('a decision says what decided', () => {
  test.each<[what: string, scene: Scene, by: object]>([
    [
      'a statement by its Sid',
      { principal: alice, kmsKey: keyWith(DELEGATE, allow({ Sid: 'Users', ...to(ALICE) })) },
      { kind: 'key-policy', statement: 'Users' },
    ],
    [
      'a statement by its place',
      { principal: alice, kmsKey: keyWith(DELEGATE, allow(to(ALICE))) },
      { kind: 'key-policy', statement: '#2' },
    ],
    [
      'an identity policy by its name',
      { principal: alice, attached: { [ALICE]: everything } },
      { kind: 'identity-policy', policy: 'attached', statement: '#1' },
    ],
    [
      'a grant by its id',
      { principal: alice, kmsKey: keyOf({ grants: [grantOf({ id: 'b'.repeat(64) })] }) },
      { kind: 'grant', grantId: 'b'.repeat(64) },
    ],
    ['a token', { principal: tokenOf(ALICE) }, { kind: 'token' }],
    ['root’s own right', { principal: principalOf(ROOT), kmsKey: undefined }, { kind: 'root' }],
    ['nothing', { principal: alice }, { kind: 'nothing' }],
    [
      'the Deny',
      { principal: alice, kmsKey: keyWith(allow(to(ALICE)), deny({ Sid: 'No', ...to(ALICE) })) },
      { kind: 'key-policy', statement: 'No' },
    ],
    ['the bound', { principal: tokenOf(ALICE, ['kms:Encrypt']) }, { kind: 'token' }],
  ])('%s', (_, scene, by) => {
    expect(decide(scene).by).toEqual(by)
  })
})
