/**
 * The authorizer against a naive evaluator, and its memory against a fresh one: what is prepared and kept is what
 * would be decided anew, whatever changed meanwhile.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'

import type { KeyfoldError } from '../../../dist/errors.js'
import { Authorizer } from '../../../dist/kms/authorizer.js'
import type { Action, KmsKey, Principal, RequestAttributes } from '../../../dist/kms/kms-key.js'
import {
  attachments,
  kmsKeys,
  moments,
  principals,
  requests,
  scenes,
  withRequest,
} from './arbitraries.ts'
import { referenceAllows } from './reference.ts'
import {
  ACCOUNT,
  ALICE,
  allow,
  AttachedPolicies,
  BOB,
  decide,
  DELEGATE,
  deny,
  documentOf,
  EVE,
  grantOf,
  KEY_ID,
  keyOf,
  LOCATION,
  OTHER_ROOT,
  principalOf,
  ROOT,
  to,
  tokenOf,
  type Attached,
} from './samples.ts'

test('decides random requests under random policies as the naive evaluator does', () => {
  let allowed = 0
  let asked = 0
  const property = fc.property(scenes, (scene) => {
    const expected = referenceAllows(scene)
    asked++
    if (expected) allowed++
    expect(decide(scene).allowed).toBe(expected)
  })
  fc.assert(property, { numRuns: 8_000 })
  // Both answers are common, or this compared nothing.
  expect(allowed / asked).toBeGreaterThan(0.1)
  expect(allowed / asked).toBeLessThan(0.9)
})

describe('what is kept', () => {
  test('is what would be decided anew, over any sequence of requests and changes', () => {
    const step = fc.oneof(
      {
        weight: 12,
        arbitrary: fc.record({
          kind: fc.constant('ask' as const),
          by: fc.nat(3),
          key: fc.nat(1),
          request: requests,
        }),
      },
      {
        weight: 1,
        arbitrary: fc.record({ kind: fc.constant('key' as const), at: fc.nat(1), kmsKey: kmsKeys }),
      },
      {
        weight: 1,
        arbitrary: fc.record({ kind: fc.constant('attach' as const), attached: attachments }),
      },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('time' as const), nowMs: moments }) },
    )
    const callers = fc.array(principals, { minLength: 4, maxLength: 4 })
    const firstKeys = fc.array(kmsKeys, { minLength: 2, maxLength: 2 })
    const steps = fc.array(step, { minLength: 20, maxLength: 60 })
    const property = fc.property(
      callers,
      firstKeys,
      attachments,
      steps,
      (who, first, given, all) => {
        const keys = [...first]
        let attached = given
        let nowMs = 0
        const policies = new AttachedPolicies(attached)
        const authorizer = new Authorizer({
          location: LOCATION,
          identityPolicies: policies,
          nowMs: () => nowMs,
        })
        for (const one of all) {
          if (one.kind === 'key') keys[one.at] = one.kmsKey
          else if (one.kind === 'time') nowMs = one.nowMs
          else if (one.kind === 'attach') {
            attached = one.attached
            policies.replace(attached)
          } else {
            const [principal, kmsKey] = [who[one.by] as Principal, keys[one.key] as KmsKey]
            const scene = withRequest({ principal, kmsKey, attached, nowMs }, one.request)
            const { action, attributes } = scene as {
              action: Action
              attributes: RequestAttributes
            }
            expect(authorizer.decide(principal, action, kmsKey, attributes)).toEqual(decide(scene))
          }
        }
      },
    )
    fc.assert(property, { numRuns: 400 })
  })

  /** Attributes that tell what was read of them. */
  function watched(attributes: RequestAttributes): {
    readonly read: Set<string>
    readonly given: RequestAttributes
  } {
    const read = new Set<string>()
    const given = new Proxy(attributes, {
      get: (target, name, receiver): unknown => {
        read.add(String(name))
        return Reflect.get(target, name, receiver) as unknown
      },
    })
    return { read, given }
  }

  function authorizerOf(attached: Attached = {}): Authorizer {
    return new Authorizer({ location: LOCATION, identityPolicies: new AttachedPolicies(attached) })
  }

  const attributes: RequestAttributes = {
    encryptionContext: new Map([['a', 'b']]),
    alias: 'alias/a',
    sourceAddress: '192.0.2.1',
    secureTransport: true,
  }

  test('needs nothing of a request under a policy without conditions', () => {
    const authorizer = authorizerOf()
    const { read, given } = watched(attributes)
    const kmsKey = keyOf()
    for (let i = 0; i < 3; i++) {
      expect(authorizer.decide(tokenOf(ALICE), 'kms:Decrypt', kmsKey, given).allowed).toBe(true)
    }
    expect([...read]).toEqual([])
  })

  test('needs nothing of a request for statements that concern somebody or something else', () => {
    const condition = { IpAddress: { 'aws:SourceIp': '10.0.0.0/8' } }
    const kmsKey = keyOf({
      grants: [
        grantOf({ granteePrincipal: BOB, constraints: { equals: new Map(), subset: undefined } }),
        grantOf({ operations: ['Encrypt'], constraints: { equals: new Map(), subset: undefined } }),
      ],
      policy: documentOf(
        allow(to(ALICE)),
        deny({ ...to(BOB), Condition: condition }),
        deny({ ...to(ALICE), Action: 'kms:Encrypt', Condition: condition }),
        // Settled by the key alone.
        deny({
          ...to(ALICE),
          Condition: { ...condition, StringEquals: { 'kms:KeySpec': 'RSA_2048' } },
        }),
      ),
    })
    const { read, given } = watched(attributes)
    expect(authorizerOf().decide(principalOf(ALICE), 'kms:Decrypt', kmsKey, given).allowed).toBe(
      true,
    )
    expect([...read]).toEqual([])
  })

  test('is told apart by what the statements read, and by nothing else', () => {
    const kmsKey = keyOf({
      policy: documentOf(
        allow({
          ...to(ALICE),
          Condition: { StringEquals: { 'kms:EncryptionContext:tenant': 'a' } },
        }),
      ),
    })
    const { read, given } = watched({
      ...attributes,
      encryptionContext: new Map([['tenant', 'a']]),
    })
    expect(authorizerOf().decide(principalOf(ALICE), 'kms:Decrypt', kmsKey, given).allowed).toBe(
      true,
    )
    expect([...read]).toEqual(['encryptionContext', 'grant'])
  })

  test('does not outlive the time that it was true for', () => {
    let nowMs = Date.UTC(2020, 0, 1)
    const authorizer = new Authorizer({
      location: LOCATION,
      identityPolicies: new AttachedPolicies(),
      nowMs: () => nowMs,
    })
    const kmsKey = keyOf({
      policy: documentOf(
        allow({
          ...to(ALICE),
          Condition: { DateLessThan: { 'aws:CurrentTime': '2020-01-01T00:00:01Z' } },
        }),
      ),
    })
    const ask = (): boolean => authorizer.decide(alice, 'kms:Decrypt', kmsKey, {}).allowed
    const alice = principalOf(ALICE)
    expect(ask()).toBe(true)
    nowMs += 999
    expect(ask()).toBe(true)
    nowMs += 1
    expect(ask()).toBe(false)
  })

  test('is bounded, and right beyond the bound', () => {
    const authorizer = authorizerOf()
    const kmsKey = keyOf({
      policy: documentOf(
        allow({ ...to(ALICE), Condition: { StringEquals: { 'kms:EncryptionContext:row': '7' } } }),
      ),
    })
    const principal = principalOf(ALICE)
    for (let row = 0; row < 70_000; row++) {
      const encryptionContext = new Map([['row', String(row)]])
      const { allowed } = authorizer.decide(principal, 'kms:Decrypt', kmsKey, { encryptionContext })
      if (allowed !== (row === 7)) expect([row, allowed]).toEqual([row, row === 7])
    }
  })
})

describe('an absent key', () => {
  const errorOf = (principal: Principal, attached: Attached = {}): string =>
    new Authorizer({
      location: LOCATION,
      identityPolicies: new AttachedPolicies(attached),
    }).absentKeyError(principal, 'kms:Decrypt').code
  const alice = principalOf(ALICE)

  test.each<[what: string, principal: Principal, attached: Attached]>([
    ['root', principalOf(ROOT), {}],
    ['a token of every key', tokenOf(ALICE), {}],
    ['a principal whose policy names every key', alice, { [ALICE]: documentOf(allow()) }],
  ])('is told to %s', (_, principal, attached) => {
    expect(errorOf(principal, attached)).toBe('KMS_KEY_NOT_FOUND')
  })

  test.each<[what: string, principal: Principal, attached: Attached]>([
    ['a principal without policies', alice, {}],
    ['a token of one key', tokenOf(ALICE, ['kms:*'], [KEY_ID]), {}],
    ['a token of another action', tokenOf(ALICE, ['kms:Encrypt']), {}],
    ['root by a token of one key', tokenOf(ROOT, ['*'], [KEY_ID]), {}],
    [
      'a principal whose policy names some keys',
      alice,
      { [ALICE]: documentOf(allow({ Resource: 'arn:aws:kms:*:*:key/*' })) },
    ],
    [
      'a principal whose policy names all but one',
      alice,
      {
        [ALICE]: documentOf(
          allow({ Resource: undefined, NotResource: `arn:aws:kms:us-west-2:${ACCOUNT}:key/x` }),
        ),
      },
    ],
    [
      'a principal whose policy has conditions',
      alice,
      { [ALICE]: documentOf(allow({ Condition: { Bool: { 'aws:SecureTransport': 'false' } } })) },
    ],
    [
      'a principal who is denied some keys',
      tokenOf(ALICE),
      { [ALICE]: documentOf(deny({ Resource: 'arn:aws:kms:*:*:key/x' })) },
    ],
    ['another account’s root', principalOf(OTHER_ROOT), {}],
    ['another account’s token', tokenOf(EVE), {}],
  ])('looks like a forbidden one to %s', (_, principal, attached) => {
    expect(errorOf(principal, attached)).toBe('ACCESS_DENIED')
  })
})

describe('the alias part of an operation (KMS, "Controlling access to aliases")', () => {
  const asks = (principal: Principal, alias: string, attached: Attached = {}): string => {
    const authorizer = new Authorizer({
      location: LOCATION,
      identityPolicies: new AttachedPolicies(attached),
    })
    try {
      authorizer.authorizeAlias(principal, 'kms:CreateAlias', alias, {})
      return 'allowed'
    } catch (error) {
      return (error as KeyfoldError).code
    }
  }
  const one = documentOf(
    allow({ Action: 'kms:CreateAlias', Resource: `arn:aws:kms:us-west-2:${ACCOUNT}:alias/test-*` }),
  )

  test('is an identity policy’s, by the ARN of the alias', () => {
    expect(asks(principalOf(ALICE), 'alias/test-key', { [ALICE]: one })).toBe('allowed')
    expect(asks(principalOf(ALICE), 'alias/prod-key', { [ALICE]: one })).toBe('ACCESS_DENIED')
    expect(asks(principalOf(ALICE), 'alias/test-key')).toBe('ACCESS_DENIED')
    expect(asks(principalOf(ROOT), 'alias/test-key')).toBe('allowed')
    expect(asks(principalOf(OTHER_ROOT), 'alias/test-key')).toBe('ACCESS_DENIED')
  })

  test('is a token’s, whatever keys it is for', () => {
    expect(asks(tokenOf(ALICE, ['kms:CreateAlias'], [KEY_ID]), 'alias/a')).toBe('allowed')
    expect(asks(tokenOf(ALICE, ['kms:DeleteAlias']), 'alias/a')).toBe('ACCESS_DENIED')
  })
})

describe('the lockout check (KMS API Reference, "PutKeyPolicy": BypassPolicyLockoutSafetyCheck)', () => {
  const check = (principal: Principal, ...statements: readonly object[]): string => {
    const authorizer = new Authorizer({
      location: LOCATION,
      identityPolicies: new AttachedPolicies(),
    })
    try {
      authorizer.assertNoLockout(principal, keyOf(), documentOf(...(statements as [])), {})
      return 'taken'
    } catch (error) {
      expect((error as KeyfoldError).code).toBe('POLICY_MALFORMED')
      return (error as KeyfoldError).message
    }
  }

  test('takes what the caller can replace again, and refuses what they cannot', () => {
    const lockout = 'will not allow you to update the key policy in the future'
    const alice = principalOf(ALICE)
    expect(check(alice, allow(to(ALICE)))).toBe('taken')
    expect(check(alice, allow({ ...to(ALICE), Action: 'kms:PutKeyPolicy' }))).toBe('taken')
    expect(check(tokenOf(ALICE), DELEGATE)).toBe('taken')
    expect(check(principalOf(ROOT), DELEGATE)).toBe('taken')
    expect(check(alice, DELEGATE)).toContain(lockout)
    expect(check(alice, allow(to(BOB)))).toContain(lockout)
    expect(check(alice, allow({ ...to(ALICE), Action: 'kms:Decrypt' }))).toContain(lockout)
    expect(check(alice, allow(to(ALICE)), deny({ ...to(ALICE), Action: 'kms:Put*' }))).toContain(
      lockout,
    )
    expect(check(tokenOf(ALICE, ['kms:Decrypt']), DELEGATE)).toContain(lockout)
  })
})
