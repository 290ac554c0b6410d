/** Key policies over AWS's own client: put, kept as they are, enforced, and never such that nobody can change them. */
import {
  CreateKeyCommand,
  DescribeKeyCommand,
  GetKeyPolicyCommand,
  ListKeyPoliciesCommand,
  ListKeysCommand,
  ListResourceTagsCommand,
  PutKeyPolicyCommand,
  TagResourceCommand,
  UntagResourceCommand,
  type CreateKeyCommandInput,
  type KMSClient,
} from '@aws-sdk/client-kms'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { startService, type Service } from '../../service.ts'
import { clientAs, refusal, refused, ROOT, userArn } from './clients.ts'

const ALICE = userArn('Alice')
const OTHER = userArn('Eve', '111122223333')

let service: Service
let root: KMSClient
let alice: KMSClient
let eve: KMSClient

beforeAll(async () => {
  service = await startService()
  root = await clientAs(service, ROOT)
  alice = await clientAs(service, ALICE)
  eve = await clientAs(service, OTHER)
})
afterAll(() => service.close())

const statement = (principal: string, ...actions: string[]) => ({
  Effect: 'Allow',
  Principal: { AWS: principal },
  Action: actions,
  Resource: '*',
})
const policyOf = (...statements: object[]): string =>
  JSON.stringify({ Version: '2012-10-17', Statement: statements })
const ROOT_ALL = statement(ROOT, 'kms:*')

async function createKey(input = {}): Promise<string> {
  const { KeyMetadata } = await root.send(new CreateKeyCommand(input))
  return KeyMetadata?.KeyId as string
}
const getPolicy = (KeyId: string, client = root): Promise<{ Policy?: string | undefined }> =>
  client.send(new GetKeyPolicyCommand({ KeyId }))
const putPolicy = (KeyId: string, Policy: string, client = root, more = {}): Promise<unknown> =>
  client.send(new PutKeyPolicyCommand({ KeyId, Policy, ...more }))

/** Attached for the time of the work. */
async function withIdentityPolicy<T>(
  principalArn: string,
  statements: readonly object[],
  work: () => Promise<T>,
): Promise<T> {
  const policies = service.engine.identityPolicies
  const document = JSON.stringify({ Version: '2012-10-17', Statement: statements })
  await policies.put({ principalArn, name: 'test', document })
  try {
    return await work()
  } finally {
    await policies.delete(principalArn, 'test')
  }
}

describe('a key policy', () => {
  test('of a key created without one is the default key policy that AWS documents', async () => {
    const { Policy } = await getPolicy(await createKey())
    // AWS KMS Developer Guide, "Default key policy when you create a KMS key programmatically".
    expect(JSON.parse(Policy as string)).toEqual({
      Version: '2012-10-17',
      Id: 'key-default-1',
      Statement: [
        {
          Sid: 'Enable IAM User Permissions',
          Effect: 'Allow',
          Principal: { AWS: ROOT },
          Action: 'kms:*',
          Resource: '*',
        },
      ],
    })
  })

  test('is answered byte for byte as it was put, under its one name', async () => {
    const key = await createKey()
    const spelled = [
      policyOf(ROOT_ALL),
      JSON.stringify(JSON.parse(policyOf(ROOT_ALL)), undefined, 4),
      `\n\t${policyOf(ROOT_ALL).replaceAll(',', ' ,\n')}\r\n`,
      policyOf({ ...ROOT_ALL, Sid: 'Schl\u00fcssel / \u00ff' }),
      policyOf(ROOT_ALL).replace('"kms:*"', '"\\u006bms:\\u002a"'),
    ]
    for (const policy of spelled) {
      await putPolicy(key, policy)
      const answer = await root.send(new GetKeyPolicyCommand({ KeyId: key, PolicyName: 'default' }))
      expect(answer).toMatchObject({ Policy: policy, PolicyName: 'default' })
    }
    const names = await root.send(new ListKeyPoliciesCommand({ KeyId: key, Limit: 1 }))
    expect(names).toMatchObject({ PolicyNames: ['default'], Truncated: false })
    expect(names.NextMarker).toBeUndefined()
  })

  test('has no other name, and its list no second page', async () => {
    const KeyId = await createKey()
    const get = new GetKeyPolicyCommand({ KeyId, PolicyName: 'other' })
    expect(await refusal(root.send(get))).toBe('NotFoundException: No such policy exists')
    const put = { PolicyName: 'other', Policy: policyOf(ROOT_ALL) }
    expect(await refused(root.send(new PutKeyPolicyCommand({ KeyId, ...put })))).toBe(
      'NotFoundException',
    )
    const list = new ListKeyPoliciesCommand({ KeyId, Marker: 'default' })
    expect(await refused(root.send(list))).toBe('InvalidMarkerException')
  })

  test('is of at most 32 KiB: what is longer is a limit, not malformed', async () => {
    const key = await createKey()
    const padded = (bytes: number): string => {
      const { length } = policyOf(ROOT_ALL)
      return policyOf(ROOT_ALL) + ' '.repeat(bytes - length)
    }
    await putPolicy(key, padded(32_768))
    expect(await refused(putPolicy(key, padded(32_769)))).toBe('LimitExceededException')
    // Characters of Latin-1 have two bytes.
    const wide = policyOf({ ...ROOT_ALL, Sid: '\u00fc'.repeat(17_000) })
    expect(await refused(putPolicy(key, wide))).toBe('LimitExceededException')
    expect(await refused(createKey({ Policy: padded(32_769) }))).toBe('LimitExceededException')
    expect(await refused(putPolicy(key, padded(131_073)))).toBe('ValidationException')
  })

  test('that says nothing that is understood is refused, and the old one stays', async () => {
    const key = await createKey()
    const before = await getPolicy(key)
    for (const policy of [
      'no JSON',
      '{}',
      '[]',
      policyOf(),
      policyOf({ ...ROOT_ALL, Effect: 'Maybe' }),
      policyOf({ ...ROOT_ALL, Principal: { AWS: 'arn:aws:iam::1:root' } }),
      policyOf({ ...ROOT_ALL, Condition: { StringEquals: { 'kms:NoSuchKey': 'x' } } }),
      policyOf({ ...ROOT_ALL, Unknown: 1 }),
      policyOf({ ...ROOT_ALL, Sid: '\u0100' }),
    ]) {
      expect(await refused(putPolicy(key, policy)), policy).toBe('MalformedPolicyDocumentException')
      expect(await refused(createKey({ Policy: policy })), policy).toBe(
        'MalformedPolicyDocumentException',
      )
    }
    expect((await getPolicy(key)).Policy).toBe(before.Policy)
  })

  test('after which its caller could not put another is refused, unless they insist', async () => {
    const key = await createKey()
    const ofAlice = policyOf(statement(ALICE, 'kms:*'))
    // PutKeyPolicy, API reference, "Policy": the text is AWS's own.
    const text =
      'MalformedPolicyDocumentException: The new key policy will not allow you to update the key policy in the future.'
    expect(await refusal(putPolicy(key, ofAlice))).toBe(text)
    expect(await refusal(createKey({ Policy: ofAlice }))).toBe(text)
    await putPolicy(key, ofAlice, root, { BypassPolicyLockoutSafetyCheck: true })
    expect(await refused(getPolicy(key))).toBe('AccessDeniedException')
    expect((await getPolicy(key, alice)).Policy).toBe(ofAlice)
    await putPolicy(key, policyOf(ROOT_ALL, statement(ALICE, 'kms:PutKeyPolicy')), alice)
    expect((await getPolicy(key)).Policy).toContain('PutKeyPolicy')
  })

  test('that was refused leaves no key behind', async () => {
    const count = async (): Promise<number> =>
      (await root.send(new ListKeysCommand({ Limit: 1000 }))).Keys?.length ?? 0
    const before = await count()
    const Policy = policyOf(statement(ALICE, 'kms:*'))
    expect(await refused(createKey({ Policy }))).toBe('MalformedPolicyDocumentException')
    expect(await count()).toBe(before)
    const key = await createKey({ Policy, BypassPolicyLockoutSafetyCheck: true })
    expect(await count()).toBe(before + 1)
    expect((await getPolicy(key, alice)).Policy).toBe(Policy)
  })

  test('holds from its answer on: what it gave is gone, what it gives is there', async () => {
    const key = await createKey()
    const describeAs = (client: KMSClient): Promise<unknown> =>
      client.send(new DescribeKeyCommand({ KeyId: key }))
    for (let i = 0; i < 3; i++) {
      await putPolicy(key, policyOf(ROOT_ALL, statement(ALICE, 'kms:DescribeKey')))
      await describeAs(alice)
      await putPolicy(key, policyOf(ROOT_ALL))
      expect(await refused(describeAs(alice))).toBe('AccessDeniedException')
    }
  })

  test('may not be read or put from another account, whatever it says', async () => {
    const key = await createKey({ Policy: policyOf(ROOT_ALL, statement(OTHER, 'kms:*')) })
    await withIdentityPolicy(
      OTHER,
      [{ Effect: 'Allow', Action: 'kms:*', Resource: '*' }],
      async () => {
        await eve.send(new DescribeKeyCommand({ KeyId: key }))
        // GetKeyPolicy and PutKeyPolicy, API reference: "Cross-account use: No".
        expect(await refused(getPolicy(key, eve))).toBe('AccessDeniedException')
        expect(await refused(putPolicy(key, policyOf(ROOT_ALL), eve))).toBe('AccessDeniedException')
      },
    )
  })

  test('may be conditioned on the bypass of its own check', async () => {
    const key = await createKey({
      Policy: policyOf(ROOT_ALL, {
        Effect: 'Deny',
        Principal: { AWS: ALICE },
        Action: 'kms:PutKeyPolicy',
        Resource: '*',
        Condition: { Bool: { 'kms:BypassPolicyLockoutSafetyCheck': 'true' } },
      }),
    })
    const { Policy } = await getPolicy(key)
    await withIdentityPolicy(
      ALICE,
      [{ Effect: 'Allow', Action: 'kms:*', Resource: '*' }],
      async () => {
        await putPolicy(key, Policy as string, alice)
        const bypass = { BypassPolicyLockoutSafetyCheck: true }
        expect(await refused(putPolicy(key, Policy as string, alice, bypass))).toBe(
          'AccessDeniedException',
        )
      },
    )
  })
})

describe('creating a key', () => {
  test('with tags needs the right to tag as well', async () => {
    const create = { Effect: 'Allow', Action: 'kms:CreateKey', Resource: '*' }
    const tagged = new CreateKeyCommand({ Tags: [{ TagKey: 'team', TagValue: 'a' }] })
    await withIdentityPolicy(ALICE, [create], async () => {
      await alice.send(new CreateKeyCommand({}))
      expect(await refusal(alice.send(tagged))).toMatch(/^AccessDenied.*kms:TagResource/)
    })
    await withIdentityPolicy(
      ALICE,
      [create, { ...create, Action: 'kms:TagResource' }],
      async () => void (await alice.send(tagged)),
    )
  })

  test.each([
    ['kms:KeySpec', 'HMAC_256', { KeySpec: 'HMAC_256', KeyUsage: 'GENERATE_VERIFY_MAC' }],
    ['kms:KeyUsage', 'SIGN_VERIFY', { KeySpec: 'ECC_NIST_P256', KeyUsage: 'SIGN_VERIFY' }],
    ['kms:KeyOrigin', 'EXTERNAL', { Origin: 'EXTERNAL' }],
    ['kms:MultiRegion', 'true', { MultiRegion: true }],
    ['kms:MultiRegionKeyType', 'PRIMARY', { MultiRegion: true }],
    ['aws:RequestTag/team', 'a', { Tags: [{ TagKey: 'team', TagValue: 'a' }] }],
    ['aws:RequestedRegion', 'us-east-1', {}],
  ] satisfies [string, string, CreateKeyCommandInput][])(
    'may depend on %s',
    async (conditionKey, value, input) => {
      const conditioned = (Condition: object) => [
        { Effect: 'Allow', Action: ['kms:CreateKey', 'kms:TagResource'], Resource: '*', Condition },
      ]
      const create = (): Promise<unknown> => alice.send(new CreateKeyCommand(input))
      await withIdentityPolicy(
        ALICE,
        conditioned({ StringEquals: { [conditionKey]: value } }),
        async () => void (await create()),
      )
      await withIdentityPolicy(
        ALICE,
        conditioned({ StringNotEquals: { [conditionKey]: value } }),
        async () => {
          expect(await refused(create())).toBe('AccessDeniedException')
        },
      )
    },
  )

  test('may be kept to callers who do not bypass the check of its policy', async () => {
    const Condition = { Bool: { 'kms:BypassPolicyLockoutSafetyCheck': 'false' } }
    const allow = { Effect: 'Allow', Action: 'kms:CreateKey', Resource: '*', Condition }
    await withIdentityPolicy(ALICE, [allow], async () => {
      await alice.send(new CreateKeyCommand({}))
      const bypass = new CreateKeyCommand({ BypassPolicyLockoutSafetyCheck: true })
      expect(await refused(alice.send(bypass))).toBe('AccessDeniedException')
    })
  })
})

describe('tagging a key', () => {
  test('may depend on which tags, as it may when they go', async () => {
    const Condition = { 'ForAllValues:StringEquals': { 'aws:TagKeys': ['team'] } }
    const allow = {
      Effect: 'Allow',
      Action: ['kms:TagResource', 'kms:UntagResource'],
      Resource: '*',
      Condition,
    }
    const KeyId = await createKey()
    const tag = (TagKey: string) =>
      alice.send(new TagResourceCommand({ KeyId, Tags: [{ TagKey, TagValue: 'x' }] }))
    const untag = (TagKey: string) =>
      alice.send(new UntagResourceCommand({ KeyId, TagKeys: [TagKey] }))
    await withIdentityPolicy(ALICE, [allow], async () => {
      await tag('team')
      expect(await refused(tag('owner'))).toBe('AccessDeniedException')
      expect(await refused(untag('owner'))).toBe('AccessDeniedException')
      await untag('team')
    })
    expect((await root.send(new ListResourceTagsCommand({ KeyId }))).Tags).toEqual([])
  })
})
