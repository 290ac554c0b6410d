/** Grants over AWS's own client, as several principals, and what they allow at both doors. */
import {
  CreateGrantCommand,
  CreateKeyCommand,
  DecryptCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  GenerateDataKeyWithoutPlaintextCommand,
  ListGrantsCommand,
  ListRetirableGrantsCommand,
  PutKeyPolicyCommand,
  RetireGrantCommand,
  RevokeGrantCommand,
  type CreateGrantCommandInput,
  type GrantListEntry,
  type GrantOperation,
  type KMSClient,
  type ListGrantsResponse,
} from '@aws-sdk/client-kms'
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { startService, type Service } from '../../service.ts'
import { send } from '../caller.ts'
import { ACCOUNT, clientAs, refusal, refused, ROOT, userArn } from './clients.ts'

const [ALICE, BOB, CAROL] = [userArn('Alice'), userArn('Bob'), userArn('Carol')]
const EVE = userArn('Eve', '111122223333')

let service: Service
let root: KMSClient
let alice: KMSClient
let bob: KMSClient
let carol: KMSClient
let eve: KMSClient

beforeAll(async () => {
  service = await startService()
  root = await clientAs(service, ROOT)
  alice = await clientAs(service, ALICE)
  bob = await clientAs(service, BOB)
  carol = await clientAs(service, CAROL)
  eve = await clientAs(service, EVE)
})
afterAll(() => service.close())

/** A key whose policy lets the account's root do everything, and nobody else anything. */
async function createKey(input = {}): Promise<string> {
  const { KeyMetadata } = await root.send(new CreateKeyCommand(input))
  return KeyMetadata?.Arn as string
}

type GrantInput = Omit<CreateGrantCommandInput, 'KeyId' | 'Operations' | 'GranteePrincipal'>

async function grant(
  KeyId: string,
  Operations: GrantOperation[],
  input: GrantInput & { readonly GranteePrincipal?: string } = {},
  client = root,
): Promise<{ readonly GrantId: string; readonly GrantToken: string }> {
  const { GrantId, GrantToken } = await client.send(
    new CreateGrantCommand({ KeyId, Operations, GranteePrincipal: ALICE, ...input }),
  )
  return { GrantId: GrantId as string, GrantToken: GrantToken as string }
}

const revoke = (KeyId: string, GrantId: string, client = root, more = {}): Promise<unknown> =>
  client.send(new RevokeGrantCommand({ KeyId, GrantId, ...more }))

async function grantsOf(KeyId: string, input = {}): Promise<GrantListEntry[]> {
  const { Grants } = await root.send(new ListGrantsCommand({ KeyId, ...input }))
  return Grants as GrantListEntry[]
}

type Context = Record<string, string>

const Plaintext = Buffer.from('plaintext')
const encrypt = (client: KMSClient, KeyId: string, EncryptionContext?: Context) =>
  client.send(
    new EncryptCommand({ KeyId, Plaintext, ...(EncryptionContext && { EncryptionContext }) }),
  )
const dataKey = (client: KMSClient, KeyId: string, EncryptionContext: Context = {}) =>
  client.send(new GenerateDataKeyCommand({ KeyId, KeySpec: 'AES_256', EncryptionContext }))

describe('a grant', () => {
  test('has an id of 64 hex digits and a token, and is listed as it was asked for', async () => {
    const key = await createKey()
    const EncryptionContextSubset = { team: 'a', ['__proto__']: 'b' }
    const { GrantId, GrantToken } = await grant(key, ['Decrypt', 'Encrypt', 'Decrypt'], {
      RetiringPrincipal: BOB,
      Name: 'for:tests/1_a-b',
      Constraints: { EncryptionContextSubset },
    })
    expect(GrantId).toMatch(/^[0-9a-f]{64}$/)
    expect(GrantToken).not.toBe('')
    const [listed, ...others] = await grantsOf(key)
    expect(others).toEqual([])
    expect(listed).toMatchObject({
      KeyId: key,
      GrantId,
      Name: 'for:tests/1_a-b',
      GranteePrincipal: ALICE,
      RetiringPrincipal: BOB,
      IssuingAccount: ROOT,
      Operations: ['Decrypt', 'Encrypt'],
      Constraints: { EncryptionContextSubset },
    })
    expect(Math.abs(Date.now() - Number(listed?.CreationDate))).toBeLessThan(60_000)
  })

  test('allows its grantee what it names, at once, and nobody else', async () => {
    const key = await createKey()
    expect(await refused(encrypt(alice, key))).toBe('AccessDeniedException')
    await grant(key, ['Encrypt', 'DescribeKey'])
    const { CiphertextBlob } = await encrypt(alice, key)
    await alice.send(new DescribeKeyCommand({ KeyId: key }))
    expect(await refused(dataKey(alice, key))).toBe('AccessDeniedException')
    const decrypt = new DecryptCommand({ CiphertextBlob })
    expect(await refused(alice.send(decrypt))).toBe('AccessDeniedException')
    expect(await refused(encrypt(bob, key))).toBe('AccessDeniedException')
    const policy = new PutKeyPolicyCommand({ KeyId: key, Policy: '{}' })
    expect(await refused(alice.send(policy))).toBe('AccessDeniedException')
  })

  test('reaches into another account, by itself', async () => {
    const key = await createKey()
    await grant(key, ['Encrypt'], { GranteePrincipal: EVE })
    await encrypt(eve, key)
    expect(await refused(dataKey(eve, key))).toBe('AccessDeniedException')
  })

  test('does not allow what a policy denies', async () => {
    const deny = { Effect: 'Deny', Principal: { AWS: ALICE }, Action: 'kms:Encrypt', Resource: '*' }
    const allow = { Effect: 'Allow', Principal: { AWS: ROOT }, Action: 'kms:*', Resource: '*' }
    const Policy = JSON.stringify({ Version: '2012-10-17', Statement: [allow, deny] })
    const key = await createKey({ Policy })
    await grant(key, ['Encrypt', 'GenerateDataKey'])
    await dataKey(alice, key)
    expect(await refused(encrypt(alice, key))).toBe('AccessDeniedException')
  })

  test.each(['revoked', 'retired'])(
    'that is %s allows nothing more, however warm caches are',
    async (how) => {
      const key = await createKey()
      const { GrantId, GrantToken } = await grant(key, ['Encrypt', 'Decrypt', 'GenerateDataKey'])
      const { CiphertextBlob } = await encrypt(alice, key)
      for (let i = 0; i < 3; i++) {
        await encrypt(alice, key)
        await alice.send(new DecryptCommand({ CiphertextBlob }))
        await dataKey(alice, key)
      }
      if (how === 'revoked') await revoke(key, GrantId)
      else await root.send(new RetireGrantCommand({ GrantToken }))
      expect(await refused(encrypt(alice, key))).toBe('AccessDeniedException')
      expect(await refused(dataKey(alice, key))).toBe('AccessDeniedException')
      expect(await refused(alice.send(new DecryptCommand({ CiphertextBlob })))).toBe(
        'AccessDeniedException',
      )
      expect(await grantsOf(key)).toEqual([])
      expect(await refused(revoke(key, GrantId))).toBe('NotFoundException')
    },
  )

  test('leaves what another one allows', async () => {
    const key = await createKey()
    const one = await grant(key, ['Encrypt'])
    await grant(key, ['Encrypt'])
    await encrypt(alice, key)
    await revoke(key, one.GrantId)
    await encrypt(alice, key)
  })

  test('survives a restart, and so does its end', async () => {
    const first = await startService()
    const client = await clientAs(first, ROOT)
    const { KeyMetadata } = await client.send(new CreateKeyCommand({}))
    const key = KeyMetadata?.KeyId as string
    const kept = await grant(key, ['Encrypt'], {}, client)
    const ended = await grant(key, ['Decrypt'], {}, client)
    await revoke(key, ended.GrantId, client)
    await first.engine.close()
    const second = await startService({ filesFrom: first.dataDirectory })
    try {
      const again = await clientAs(second, ALICE)
      await encrypt(again, key)
      expect(await refused(dataKey(again, key))).toBe('AccessDeniedException')
      const { Grants } = await (
        await clientAs(second, ROOT)
      ).send(new ListGrantsCommand({ KeyId: key }))
      expect(Grants?.map(({ GrantId }) => GrantId)).toEqual([kept.GrantId])
    } finally {
      await second.close()
    }
  })
})

describe('constraints of a grant', () => {
  test('on the whole encryption context take exactly that', async () => {
    const key = await createKey()
    const EncryptionContextEquals = { a: '1', b: '2' }
    await grant(key, ['Encrypt', 'DescribeKey'], { Constraints: { EncryptionContextEquals } })
    await encrypt(alice, key, { b: '2', a: '1' })
    for (const context of [
      undefined,
      {},
      { a: '1' },
      { a: '1', b: '3' },
      { a: '1', b: '2', c: '3' },
      { A: '1', b: '2' },
    ]) {
      expect(await refused(encrypt(alice, key, context))).toBe('AccessDeniedException')
    }
    await alice.send(new DescribeKeyCommand({ KeyId: key }))
  })

  test('on a part of it take whatever has that part', async () => {
    const key = await createKey()
    await grant(key, ['Encrypt', 'Decrypt'], {
      Constraints: { EncryptionContextSubset: { a: '1' } },
    })
    const { CiphertextBlob } = await encrypt(alice, key, { a: '1', c: '3' })
    const open = (EncryptionContext: Context) =>
      alice.send(new DecryptCommand({ CiphertextBlob, EncryptionContext }))
    await open({ c: '3', a: '1' })
    expect(await refused(open({ c: '3' }))).toBe('AccessDeniedException')
    expect(await refused(encrypt(alice, key, { a: '2' }))).toBe('AccessDeniedException')
  })

  test('hold at the other door as well, batch by batch, and end there too', async () => {
    const key = await createKey()
    const EncryptionContextSubset = { table: 'orders' }
    const { GrantId } = await grant(key, ['Encrypt', 'Decrypt', 'GenerateDataKey'], {
      Constraints: { EncryptionContextSubset },
    })
    // What a token allows it allows where the key's policy lets the account decide; this key's will not.
    const { token } = await service.engine.tokens.create({
      name: 'alice',
      principalArn: ALICE,
      actions: ['kms:*'],
      keys: ['*'],
    })
    const policy = { Effect: 'Allow', Principal: { AWS: CAROL }, Action: 'kms:*', Resource: '*' }
    const keep = JSON.stringify({ Version: '2012-10-17', Statement: [policy] })
    const put = { KeyId: key, Policy: keep, BypassPolicyLockoutSafetyCheck: true }
    await root.send(new PutKeyPolicyCommand(put))
    const call = async (route: string, fields: object) =>
      (await send(service, 'POST', `/v1/${route}`, { token, fields })).body
    const [ours, theirs] = [
      { table: 'orders', row: '1' },
      { table: 'people', row: '1' },
    ]
    const sealed = await call('encrypt', { key, context: ours, plaintexts: [Plaintext] })
    expect(sealed.code).toBeUndefined()
    for (let i = 0; i < 3; i++) {
      const opened = await call('decrypt', { context: ours, ciphertexts: sealed.ciphertexts })
      expect(opened.errors ?? []).toEqual([])
      expect((await call('encrypt', { key, context: theirs, plaintexts: [Plaintext] })).code).toBe(
        'ACCESS_DENIED',
      )
    }
    const other = await encrypt(carol, key, theirs)
    const refusedOne = await call('decrypt', {
      context: theirs,
      ciphertexts: [other.CiphertextBlob],
    })
    expect(refusedOne.errors).toEqual([[0, 'ACCESS_DENIED']])
    await revoke(key, GrantId, carol)
    expect((await call('encrypt', { key, context: ours, plaintexts: [Plaintext] })).code).toBe(
      'ACCESS_DENIED',
    )
    const closed = await call('decrypt', { context: ours, ciphertexts: sealed.ciphertexts })
    expect(closed.errors).toEqual([[0, 'ACCESS_DENIED']])
  })

  test('have 1 to 8 pairs, and values of up to 384 characters', async () => {
    const key = await createKey()
    const pairs = (count: number): Context =>
      Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${i}`, 'v']))
    for (const kind of ['EncryptionContextEquals', 'EncryptionContextSubset'] as const) {
      const of = (context: Context) => grant(key, ['Encrypt'], { Constraints: { [kind]: context } })
      await of(pairs(8))
      await of({ k: 'v'.repeat(384) })
      for (const context of [pairs(9), {}, { k: 'v'.repeat(385) }]) {
        expect(await refused(of(context))).toBe('ValidationException')
      }
    }
  })

  test('that are not known are refused and not left out', async () => {
    const key = await createKey()
    const SourceArn = 'arn:aws:s3:::bucket'
    expect(await refused(grant(key, ['Encrypt'], { Constraints: { SourceArn } }))).toBe(
      'ValidationException',
    )
    expect(await grantsOf(key)).toEqual([])
  })

  test('go with operations that take an encryption context, and under keys that do', async () => {
    const [pair, mac] = [
      await createKey({ KeySpec: 'RSA_2048', KeyUsage: 'ENCRYPT_DECRYPT' }),
      await createKey({ KeySpec: 'HMAC_256', KeyUsage: 'GENERATE_VERIFY_MAC' }),
    ]
    const Constraints = { EncryptionContextSubset: { a: '1' } }
    expect(await refused(grant(pair, ['Encrypt'], { Constraints }))).toBe('ValidationException')
    expect(await refused(grant(mac, ['GenerateMac'], { Constraints }))).toBe('ValidationException')
    const key = await createKey()
    const operations: GrantOperation[] = ['Encrypt', 'DescribeKey', 'RetireGrant', 'CreateGrant']
    await grant(key, operations, { Constraints })
  })
})

describe('what a grant may be for', () => {
  const COMMON: GrantOperation[] = ['CreateGrant', 'DescribeKey', 'RetireGrant']
  // AWS KMS Developer Guide, "Permissions reference" and "Grant operations".
  test.each<[string, object, GrantOperation[]]>([
    [
      'a symmetric key',
      {},
      [
        'Encrypt',
        'Decrypt',
        'GenerateDataKey',
        'GenerateDataKeyWithoutPlaintext',
        'GenerateDataKeyPair',
        'GenerateDataKeyPairWithoutPlaintext',
        'ReEncryptFrom',
        'ReEncryptTo',
      ],
    ],
    [
      'an RSA key that encrypts',
      { KeySpec: 'RSA_2048', KeyUsage: 'ENCRYPT_DECRYPT' },
      ['Encrypt', 'Decrypt', 'ReEncryptFrom', 'ReEncryptTo', 'GetPublicKey'],
    ],
    [
      'a key that signs',
      { KeySpec: 'ECC_NIST_P256', KeyUsage: 'SIGN_VERIFY' },
      ['Sign', 'Verify', 'GetPublicKey'],
    ],
    [
      'a key that agrees',
      { KeySpec: 'ECC_NIST_P256', KeyUsage: 'KEY_AGREEMENT' },
      ['DeriveSharedSecret', 'GetPublicKey'],
    ],
    [
      'an HMAC key',
      { KeySpec: 'HMAC_256', KeyUsage: 'GENERATE_VERIFY_MAC' },
      ['GenerateMac', 'VerifyMac'],
    ],
  ])('of %s is what the key can do', async (_, input, possible) => {
    const key = await createKey(input)
    const all: GrantOperation[] = [
      ...COMMON,
      'Decrypt',
      'DeriveSharedSecret',
      'Encrypt',
      'GenerateDataKey',
      'GenerateDataKeyPair',
      'GenerateDataKeyPairWithoutPlaintext',
      'GenerateDataKeyWithoutPlaintext',
      'GenerateMac',
      'GetPublicKey',
      'ReEncryptFrom',
      'ReEncryptTo',
      'Sign',
      'Verify',
      'VerifyMac',
    ]
    for (const operation of all) {
      const asked = grant(key, ['DescribeKey', operation])
      if ([...COMMON, ...possible].includes(operation)) await asked
      else expect(await refused(asked), operation).toBe('ValidationException')
    }
  })

  test('is not creating grants alone, nor nothing, nor what AWS has no grants for', async () => {
    const key = await createKey()
    // Seen from AWS KMS.
    expect(await refusal(grant(key, ['CreateGrant']))).toBe(
      'ValidationException: Grants must not contain only the CreateGrant operation.',
    )
    for (const operations of [
      [],
      ['PutKeyPolicy'],
      ['encrypt'],
      ['Encrypt', 'ScheduleKeyDeletion'],
    ]) {
      expect(await refused(grant(key, operations as GrantOperation[]))).toBe('ValidationException')
    }
  })

  test('names principals by ARNs of this cloud', async () => {
    const key = await createKey()
    for (const arn of [
      'alice',
      '*',
      'arn:aws:iam::000000000000:user/*?',
      'arn:aws:s3:::bucket',
      `arn:aws:iam::${ACCOUNT}:group/admins`,
    ]) {
      expect(await refused(grant(key, ['Encrypt'], { GranteePrincipal: arn }))).toBe(
        'InvalidArnException',
      )
      expect(await refused(grant(key, ['Encrypt'], { RetiringPrincipal: arn }))).toBe(
        'InvalidArnException',
      )
    }
    const service = { RetiringServicePrincipal: 's3.amazonaws.com' }
    expect(await refused(grant(key, ['Encrypt'], service))).toBe('ValidationException')
    const nobody = new CreateGrantCommand({ KeyId: key, Operations: ['Encrypt'] })
    expect(await refusal(root.send(nobody))).toMatch(/^ValidationException: .*granteePrincipal/)
  })

  test('has a name of 1 to 256 of the characters that AWS takes', async () => {
    const key = await createKey()
    await grant(key, ['Encrypt'], { Name: 'n'.repeat(256) })
    for (const Name of ['', 'n'.repeat(257), 'a b', 'ü']) {
      expect(await refused(grant(key, ['Encrypt'], { Name }))).toBe('ValidationException')
    }
  })

  test('is asked of a key in a state for it', async () => {
    const key = await createKey()
    await root.send(new DisableKeyCommand({ KeyId: key }))
    expect(await refused(grant(key, ['Encrypt']))).toBe('DisabledException')
    const imported = await createKey({ Origin: 'EXTERNAL' })
    expect(await refused(grant(imported, ['Encrypt']))).toBe('KMSInvalidStateException')
  })
})

describe('a grant that is asked for twice', () => {
  test('under one name is one grant with two tokens, whatever order things are in', async () => {
    const key = await createKey()
    const Constraints = { EncryptionContextSubset: { a: '1', b: '2' } }
    const first = await grant(key, ['Encrypt', 'Decrypt'], { Name: 'n', Constraints })
    const again = await grant(key, ['Decrypt', 'Encrypt'], {
      Name: 'n',
      Constraints: { EncryptionContextSubset: { b: '2', a: '1' } },
    })
    expect(again.GrantId).toBe(first.GrantId)
    expect(again.GrantToken).not.toBe(first.GrantToken)
    expect(await grantsOf(key)).toHaveLength(1)
    await root.send(new RetireGrantCommand({ GrantToken: first.GrantToken }))
    expect(await refused(root.send(new RetireGrantCommand({ GrantToken: again.GrantToken })))).toBe(
      'NotFoundException',
    )
  })

  test('by many at once under one name is one grant', async () => {
    const key = await createKey()
    const made = await Promise.all(
      Array.from({ length: 20 }, () => grant(key, ['Encrypt'], { Name: 'once' })),
    )
    expect(new Set(made.map(({ GrantId }) => GrantId)).size).toBe(1)
    expect(await grantsOf(key)).toHaveLength(1)
  })

  test('with anything else, or without a name, is two', async () => {
    const key = await createKey()
    const ids = new Set<string>()
    for (const [operations, input] of [
      [['Encrypt'], { Name: 'n' }],
      [['Encrypt'], { Name: 'm' }],
      [['Encrypt', 'Decrypt'], { Name: 'n' }],
      [['Encrypt'], { Name: 'n', RetiringPrincipal: BOB }],
      [['Encrypt'], { Name: 'n', GranteePrincipal: BOB }],
      [['Encrypt'], { Name: 'n', Constraints: { EncryptionContextEquals: { a: '1' } } }],
      [['Encrypt'], { Name: 'n', Constraints: { EncryptionContextSubset: { a: '1' } } }],
      [['Encrypt'], {}],
      [['Encrypt'], {}],
    ] as [GrantOperation[], GrantInput][]) {
      ids.add((await grant(key, operations, input)).GrantId)
    }
    expect(ids.size).toBe(9)
  })
})

describe('creating grants', () => {
  test('takes kms:CreateGrant, and by a grant of it no more than that grant has', async () => {
    const key = await createKey()
    expect(await refused(grant(key, ['Encrypt'], {}, alice))).toBe('AccessDeniedException')
    await grant(key, ['CreateGrant', 'Encrypt', 'Decrypt'], {
      Constraints: { EncryptionContextSubset: { a: '1' } },
    })
    const child = (
      operations: GrantOperation[],
      Constraints?: CreateGrantCommandInput['Constraints'],
    ) =>
      grant(key, operations, { GranteePrincipal: BOB, ...(Constraints && { Constraints }) }, alice)
    const strict = { EncryptionContextSubset: { a: '1', b: '2' } }
    await child(['Encrypt'], strict)
    await child(['Encrypt'], { EncryptionContextEquals: { a: '1' } })
    for (const refusedOne of [
      child(['Encrypt']),
      child(['Encrypt'], { EncryptionContextSubset: { b: '2' } }),
      child(['Encrypt'], { EncryptionContextEquals: { a: '2' } }),
      child(['GenerateDataKey'], strict),
      child(['Encrypt', 'DescribeKey'], strict),
    ]) {
      expect(await refused(refusedOne)).toBe('AccessDeniedException')
    }
    await encrypt(bob, key, { a: '1', b: '2' })
    expect(await refused(encrypt(bob, key, { b: '2' }))).toBe('AccessDeniedException')
  })

  test('may be kept by policy to principals, operations, retiring ones and constraints', async () => {
    const allow = { Effect: 'Allow', Action: 'kms:CreateGrant', Resource: '*' }
    const all = { ...allow, Action: 'kms:*', Principal: { AWS: ROOT } }
    const keyWith = (Condition: object): Promise<string> =>
      createKey({
        Policy: JSON.stringify({
          Version: '2012-10-17',
          Statement: [all, { ...allow, Principal: { AWS: CAROL }, Condition }],
        }),
      })
    const make = (key: string, operations: GrantOperation[], input: GrantInput = {}) =>
      grant(key, operations, input, carol)
    const byOperations = await keyWith({
      'ForAllValues:StringEquals': { 'kms:GrantOperations': ['Encrypt', 'DescribeKey'] },
    })
    await make(byOperations, ['Encrypt', 'DescribeKey'])
    expect(await refused(make(byOperations, ['Encrypt', 'Decrypt']))).toBe('AccessDeniedException')
    const byGrantee = await keyWith({ StringEquals: { 'kms:GranteePrincipal': ALICE } })
    await make(byGrantee, ['Encrypt'])
    expect(await refused(grant(byGrantee, ['Encrypt'], { GranteePrincipal: BOB }, carol))).toBe(
      'AccessDeniedException',
    )
    const byRetiring = await keyWith({ StringEquals: { 'kms:RetiringPrincipal': BOB } })
    await make(byRetiring, ['Encrypt'], { RetiringPrincipal: BOB })
    expect(await refused(make(byRetiring, ['Encrypt']))).toBe('AccessDeniedException')
    const byType = await keyWith({
      StringEquals: { 'kms:GrantConstraintType': 'EncryptionContextSubset' },
    })
    await make(byType, ['Encrypt'], { Constraints: { EncryptionContextSubset: { a: '1' } } })
    expect(await refused(make(byType, ['Encrypt']))).toBe('AccessDeniedException')
    // An empty constraint passes for none, and is none that could be made.
    expect(
      await refused(make(byType, ['Encrypt'], { Constraints: { EncryptionContextSubset: {} } })),
    ).toBe('ValidationException')
    const forServices = await keyWith({ Bool: { 'kms:GrantIsForAWSResource': 'true' } })
    expect(await refused(make(forServices, ['Encrypt']))).toBe('AccessDeniedException')
  })

  test('from another account keeps whose it was', async () => {
    const Statement = [
      { Effect: 'Allow', Principal: { AWS: ROOT }, Action: 'kms:*', Resource: '*' },
      { Effect: 'Allow', Principal: { AWS: EVE }, Action: 'kms:CreateGrant', Resource: '*' },
    ]
    const key = await createKey({ Policy: JSON.stringify({ Version: '2012-10-17', Statement }) })
    await service.engine.identityPolicies.put({
      principalArn: EVE,
      name: 'grants',
      document: JSON.stringify({
        Version: '2012-10-17',
        Statement: [{ Effect: 'Allow', Action: 'kms:CreateGrant', Resource: '*' }],
      }),
    })
    await grant(key, ['Encrypt'], {}, eve)
    expect(await grantsOf(key)).toMatchObject([
      { IssuingAccount: 'arn:aws:iam::111122223333:root' },
    ])
  })

  test('with DryRun makes none, and tells what would be refused', async () => {
    const key = await createKey()
    const DryRun = true
    expect(await refused(grant(key, ['Encrypt'], { DryRun }))).toBe('DryRunOperationException')
    expect(await refused(grant(key, ['Sign'], { DryRun }))).toBe('ValidationException')
    expect(await refused(grant(key, ['Encrypt'], { DryRun }, alice))).toBe('AccessDeniedException')
    expect(await grantsOf(key)).toEqual([])
    const { GrantId } = await grant(key, ['Encrypt'])
    expect(await refused(revoke(key, GrantId, root, { DryRun }))).toBe('DryRunOperationException')
    const retire = new RetireGrantCommand({ KeyId: key, GrantId, DryRun })
    expect(await refused(root.send(retire))).toBe('DryRunOperationException')
    expect(await refused(revoke(key, 'a'.repeat(64), root, { DryRun }))).toBe('NotFoundException')
    expect(await grantsOf(key)).toHaveLength(1)
  })
})

describe('a grant token', () => {
  test('is taken wherever AWS takes one, and is no permission', async () => {
    const key = await createKey()
    const { GrantToken, GrantId } = await grant(key, ['Encrypt', 'GenerateDataKey'])
    const GrantTokens = [GrantToken]
    await alice.send(new EncryptCommand({ KeyId: key, Plaintext, GrantTokens }))
    const dataKeyOf = new GenerateDataKeyWithoutPlaintextCommand({
      KeyId: key,
      KeySpec: 'AES_256',
      GrantTokens,
    })
    expect(await refused(alice.send(dataKeyOf))).toBe('AccessDeniedException')
    const encryptAsBob = new EncryptCommand({ KeyId: key, Plaintext, GrantTokens })
    expect(await refused(bob.send(encryptAsBob))).toBe('AccessDeniedException')
    await revoke(key, GrantId)
    expect(await refused(alice.send(encryptAsBob))).toBe('AccessDeniedException')
  })

  test('that none could be is refused', async () => {
    const key = await createKey()
    for (const token of ['no token', 'AAAA', 'A'.repeat(64), randomBytes(100).toString('base64')]) {
      const command = new EncryptCommand({ KeyId: key, Plaintext, GrantTokens: [token] })
      expect(await refused(root.send(command))).toBe('InvalidGrantTokenException')
      expect(await refused(root.send(new RetireGrantCommand({ GrantToken: token })))).toBe(
        'InvalidGrantTokenException',
      )
    }
    const eleven = Array.from({ length: 11 }, () => 'x')
    expect(
      await refused(root.send(new EncryptCommand({ KeyId: key, Plaintext, GrantTokens: eleven }))),
    ).toBe('ValidationException')
  })
})

describe('ending a grant', () => {
  test('by retiring is for its retiring principal, a grantee whom it lets, and the account', async () => {
    const key = await createKey()
    const operations: GrantOperation[] = ['Encrypt', 'RetireGrant']
    const retire = async (client: KMSClient, GrantToken: string) =>
      client.send(new RetireGrantCommand({ GrantToken }))
    const one = await grant(key, operations, { RetiringPrincipal: BOB })
    expect(await refused(retire(carol, one.GrantToken))).toBe('AccessDeniedException')
    expect(await refused(retire(eve, one.GrantToken))).toBe('AccessDeniedException')
    await retire(bob, one.GrantToken)
    await retire(alice, (await grant(key, operations)).GrantToken)
    await retire(root, (await grant(key, ['Encrypt'])).GrantToken)
    const other = await grant(key, ['Encrypt'])
    expect(await refused(retire(alice, other.GrantToken))).toBe('AccessDeniedException')
    expect(await refused(revoke(key, other.GrantId, bob))).toBe('AccessDeniedException')
    const far = await grant(key, ['Encrypt'], { RetiringPrincipal: EVE })
    await eve.send(new RetireGrantCommand({ KeyId: key, GrantId: far.GrantId }))
    expect(await grantsOf(key)).toHaveLength(1)
  })

  test('takes a token, or a key and an id, and of those the right ones', async () => {
    const [key, other] = [await createKey(), await createKey()]
    const { GrantId, GrantToken } = await grant(key, ['Encrypt'])
    const retire = (input: object) => root.send(new RetireGrantCommand(input))
    for (const input of [
      {},
      { KeyId: key },
      { GrantId },
      { GrantToken, KeyId: key, GrantId },
      { GrantToken, GrantId },
    ]) {
      expect(await refused(retire(input))).toBe('ValidationException')
    }
    expect(await refused(retire({ KeyId: other, GrantId }))).toBe('NotFoundException')
    expect(await refused(revoke(other, GrantId))).toBe('NotFoundException')
    for (const id of ['x', GrantId.slice(1), GrantId.toUpperCase().replace(/^./, 'G')]) {
      expect(await refused(retire({ KeyId: key, GrantId: id }))).toBe('InvalidGrantIdException')
      expect(await refused(revoke(key, id))).toBe('InvalidGrantIdException')
      expect(await refused(grantsOf(key, { GrantId: id }))).toBe('InvalidGrantIdException')
    }
    const unknown = 'f'.repeat(64)
    expect(await refused(retire({ KeyId: key, GrantId: unknown }))).toBe('NotFoundException')
    // Whether there is such a grant is not for everybody.
    for (const id of [unknown, GrantId]) {
      const asked = new RetireGrantCommand({ KeyId: key, GrantId: id })
      expect(await refused(carol.send(asked))).toBe('AccessDeniedException')
      expect(await refused(revoke(key, id, carol))).toBe('AccessDeniedException')
    }
    await retire({ KeyId: key, GrantId })
  })

  test('is possible of a key that is disabled', async () => {
    const key = await createKey()
    const [one, two] = [await grant(key, ['Encrypt']), await grant(key, ['Encrypt'])]
    await root.send(new DisableKeyCommand({ KeyId: key }))
    await revoke(key, one.GrantId)
    await root.send(new RetireGrantCommand({ GrantToken: two.GrantToken }))
    expect(await grantsOf(key)).toEqual([])
  })
})

describe('a list of grants', () => {
  test('comes in pages of 50, or as many as 100, and has each once', async () => {
    const key = await createKey()
    const made = new Set<string>()
    for (let i = 0; i < 120; i++) {
      const GranteePrincipal = i % 3 === 0 ? BOB : ALICE
      made.add(
        (await grant(key, ['Encrypt'], { GranteePrincipal, RetiringPrincipal: CAROL })).GrantId,
      )
    }
    const walk = async (ask: (page: object) => Promise<ListGrantsResponse>) => {
      const found: string[] = []
      const sizes: number[] = []
      let Marker: string | undefined
      do {
        const answer = await ask(Marker === undefined ? {} : { Marker })
        found.push(...(answer.Grants ?? []).map(({ GrantId }) => GrantId as string))
        sizes.push(answer.Grants?.length ?? 0)
        expect(answer.Truncated).toBe(answer.NextMarker !== undefined)
        Marker = answer.NextMarker
      } while (Marker !== undefined)
      return { found, sizes }
    }
    const page = (input: object) => root.send(new ListGrantsCommand({ KeyId: key, ...input }))
    const byDefault = await walk(page)
    expect(byDefault.sizes).toEqual([50, 50, 20])
    expect(new Set(byDefault.found)).toEqual(made)
    expect(byDefault.found).toHaveLength(120)
    expect((await walk((input) => page({ ...input, Limit: 100 }))).sizes).toEqual([100, 20])
    expect((await walk((input) => page({ ...input, Limit: 60 }))).sizes).toEqual([60, 60])
    const ofBob = await walk((input) => page({ ...input, GranteePrincipal: BOB, Limit: 7 }))
    expect(ofBob.found).toHaveLength(40)
    const [one] = made
    expect((await page({ GrantId: one })).Grants).toHaveLength(1)
    expect((await page({ GrantId: 'f'.repeat(64) })).Grants).toEqual([])
    const retirable = await walk((input) =>
      root.send(new ListRetirableGrantsCommand({ RetiringPrincipal: CAROL, ...input })),
    )
    expect(retirable.sizes).toEqual([50, 50, 20])
    expect(new Set(retirable.found)).toEqual(made)
    for (const Limit of [0, 101]) {
      expect(await refused(page({ Limit }))).toBe('ValidationException')
    }
    expect(await refused(page({ Marker: 'x' }))).toBe('InvalidMarkerException')
  })

  test('of a key is for those whom its policies let', async () => {
    const key = await createKey()
    await grant(key, ['Encrypt'])
    const list = new ListGrantsCommand({ KeyId: key })
    expect(await refused(alice.send(list))).toBe('AccessDeniedException')
    expect(await refused(grantsOf(key, { GranteeServicePrincipal: 's3.amazonaws.com' }))).toBe(
      'ValidationException',
    )
  })

  test('of what may be retired is over all keys, and of one’s own account', async () => {
    const RetiringPrincipal = userArn('Dora')
    const keys = [await createKey(), await createKey()]
    for (const key of keys) await grant(key, ['Encrypt'], { RetiringPrincipal })
    await grant(keys[0] as string, ['Encrypt'], { RetiringPrincipal: EVE })
    const list = (principal: string, client: KMSClient) =>
      client.send(new ListRetirableGrantsCommand({ RetiringPrincipal: principal }))
    const { Grants } = await list(RetiringPrincipal, root)
    expect(Grants?.map(({ KeyId }) => KeyId).sort()).toEqual(keys.sort())
    expect(await refused(list(RetiringPrincipal, alice))).toBe('AccessDeniedException')
    expect(await refused(list(EVE, root))).toBe('AccessDeniedException')
    await service.engine.identityPolicies.put({
      principalArn: EVE,
      name: 'retirable',
      document: JSON.stringify({
        Version: '2012-10-17',
        Statement: [{ Effect: 'Allow', Action: 'kms:ListRetirableGrants', Resource: '*' }],
      }),
    })
    expect((await list(EVE, eve)).Grants).toHaveLength(1)
    expect(await refused(list(RetiringPrincipal, eve))).toBe('AccessDeniedException')
    expect(await refused(list('x', root))).toBe('InvalidArnException')
  })
})
