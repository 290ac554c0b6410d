/** Multi-Region keys over AWS's own client, one for each region that the server keeps keys in. */
import {
  CreateAliasCommand,
  CreateGrantCommand,
  CreateKeyCommand,
  DecryptCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  EnableKeyCommand,
  EncryptCommand,
  GetKeyPolicyCommand,
  ListAliasesCommand,
  ListGrantsCommand,
  ListKeysCommand,
  ListResourceTagsCommand,
  ListRetirableGrantsCommand,
  PutKeyPolicyCommand,
  ReplicateKeyCommand,
  RetireGrantCommand,
  TagResourceCommand,
  UpdateKeyDescriptionCommand,
  UpdatePrimaryRegionCommand,
  type KeyMetadata,
  type KMSClient,
  type ReplicateKeyCommandInput,
} from '@aws-sdk/client-kms'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { startService, type Service } from '../../service.ts'
import { ACCOUNT, clientAs, refusal, refused, ROOT, userArn } from './clients.ts'

const [HOME, EU, AP] = ['us-east-1', 'eu-west-1', 'ap-south-1']
const ALICE = userArn('Alice')
const settings = { otherRegions: `${EU},${AP}` }
const Plaintext = Buffer.from('plaintext')

let service: Service
let home: KMSClient
let eu: KMSClient
let ap: KMSClient

beforeAll(async () => {
  service = await startService({ settings })
  ;[home, eu, ap] = await Promise.all([
    clientAs(service, ROOT, HOME),
    clientAs(service, ROOT, EU),
    clientAs(service, ROOT, AP),
  ])
})
afterAll(() => service.close())

const arnOf = (keyId: string, region: string): string =>
  `arn:aws:kms:${region}:${ACCOUNT}:key/${keyId}`

async function createPrimary(client = home, input = {}): Promise<string> {
  const created = await client.send(new CreateKeyCommand({ MultiRegion: true, ...input }))
  return created.KeyMetadata?.KeyId as string
}
const replicate = (
  client: KMSClient,
  KeyId: string,
  ReplicaRegion: string,
  input: Partial<ReplicateKeyCommandInput> = {},
) => client.send(new ReplicateKeyCommand({ KeyId, ReplicaRegion, ...input }))
async function describeIn(client: KMSClient, KeyId: string): Promise<KeyMetadata> {
  const { KeyMetadata } = await client.send(new DescribeKeyCommand({ KeyId }))
  return KeyMetadata as KeyMetadata
}
async function seal(client: KMSClient, KeyId: string): Promise<Uint8Array> {
  const { CiphertextBlob } = await client.send(new EncryptCommand({ KeyId, Plaintext }))
  return CiphertextBlob as Uint8Array
}
const open = (client: KMSClient, CiphertextBlob: Uint8Array, input = {}) =>
  client.send(new DecryptCommand({ CiphertextBlob, ...input }))
const allowTo = (principal: string, ...actions: string[]) => ({
  Effect: 'Allow',
  Principal: { AWS: principal },
  Action: actions,
  Resource: '*',
})
const policyOf = (...statements: object[]): string =>
  JSON.stringify({ Version: '2012-10-17', Statement: statements })

describe('a multi-Region key', () => {
  test('is created as a primary without replicas, in the region that was asked', async () => {
    for (const [client, region] of [
      [home, HOME],
      [eu, EU],
    ] as const) {
      const keyId = await createPrimary(client)
      expect(keyId).toMatch(/^mrk-[0-9a-f]{32}$/)
      const key = { Arn: arnOf(keyId, region), Region: region }
      expect(await describeIn(client, keyId)).toMatchObject({
        Arn: key.Arn,
        MultiRegion: true,
        MultiRegionConfiguration: {
          MultiRegionKeyType: 'PRIMARY',
          PrimaryKey: key,
          ReplicaKeys: [],
        },
      })
    }
  })

  test('is told from one of a single region, which has no configuration', async () => {
    const { KeyMetadata } = await home.send(new CreateKeyCommand({}))
    expect(KeyMetadata).toMatchObject({ MultiRegion: false })
    expect(KeyMetadata).not.toHaveProperty('MultiRegionConfiguration')
  })

  test('tells of its whole family in every region', async () => {
    const keyId = await createPrimary()
    const { ReplicaKeyMetadata } = await replicate(home, keyId, EU)
    await replicate(home, keyId, AP)
    const at = (region: string) => ({ Arn: arnOf(keyId, region), Region: region })
    expect(ReplicaKeyMetadata).toMatchObject({
      KeyId: keyId,
      Arn: arnOf(keyId, EU),
      KeyState: 'Enabled',
      MultiRegion: true,
      MultiRegionConfiguration: {
        MultiRegionKeyType: 'REPLICA',
        PrimaryKey: at(HOME),
        ReplicaKeys: [at(EU)],
      },
    })
    for (const [client, type] of [
      [home, 'PRIMARY'],
      [eu, 'REPLICA'],
      [ap, 'REPLICA'],
    ] as const) {
      expect((await describeIn(client, keyId)).MultiRegionConfiguration).toEqual({
        MultiRegionKeyType: type,
        PrimaryKey: at(HOME),
        ReplicaKeys: [at(AP), at(EU)],
      })
    }
  })

  test('is listed in the regions where it is, and nowhere else', async () => {
    const keyId = await createPrimary(ap)
    await replicate(ap, keyId, HOME)
    const listed = async (client: KMSClient) => {
      const { Keys } = await client.send(new ListKeysCommand({ Limit: 1_000 }))
      return Keys?.filter(({ KeyId }) => KeyId === keyId).map(({ KeyArn }) => KeyArn)
    }
    expect(await listed(home)).toEqual([arnOf(keyId, HOME)])
    expect(await listed(ap)).toEqual([arnOf(keyId, AP)])
    expect(await listed(eu)).toEqual([])
  })
})

describe('related keys', () => {
  test.each([
    ['the home of the server', HOME, EU],
    ['another region', EU, HOME],
    ['another region, and replicated to a third', EU, AP],
  ])('open what each other sealed, created in %s', async (_, from, to) => {
    const clients = { [HOME]: home, [EU]: eu, [AP]: ap } as Record<string, KMSClient>
    const [one, other] = [clients[from] as KMSClient, clients[to] as KMSClient]
    const keyId = await createPrimary(one)
    await replicate(one, keyId, to)
    for (const [sealer, opener, region] of [
      [one, other, to],
      [other, one, from],
      [other, other, to],
    ] as const) {
      const sealed = await seal(sealer, keyId)
      for (const input of [{}, { KeyId: keyId }, { KeyId: arnOf(keyId, region) }]) {
        const opened = await open(opener, sealed, input)
        expect(Buffer.from(opened.Plaintext as Uint8Array)).toEqual(Plaintext)
        expect(opened.KeyId).toBe(arnOf(keyId, region))
      }
    }
  })

  test('are not there in a region without one', async () => {
    const keyId = await createPrimary()
    await replicate(home, keyId, EU)
    const sealed = await seal(home, keyId)
    // AWS KMS answers this to a ciphertext whose key it cannot find, whoever asks.
    expect(await refusal(open(ap, sealed))).toBe(
      'AccessDeniedException: The ciphertext refers to a customer master key that does not exist, ' +
        'does not exist in this region, or you are not allowed to access.',
    )
    expect(await refused(describeIn(ap, keyId))).toBe('NotFoundException')
    expect(await refusal(describeIn(ap, arnOf(keyId, HOME)))).toBe(
      `NotFoundException: Invalid arn ${AP}`,
    )
    expect(await refusal(describeIn(home, arnOf(keyId, EU)))).toBe(
      `NotFoundException: Invalid arn ${HOME}`,
    )
    const single = await home.send(new CreateKeyCommand({}))
    const ofSingle = await seal(home, single.KeyMetadata?.KeyId as string)
    expect(await refused(open(eu, ofSingle))).toBe('AccessDeniedException')
    const other = await createPrimary(eu)
    expect(await refused(open(eu, await seal(eu, keyId), { KeyId: other }))).toBe(
      'IncorrectKeyException',
    )
  })

  test('have each its own description, tags, policy, aliases, grants and state', async () => {
    const tag = (TagValue: string) => [{ TagKey: 'at', TagValue }]
    const keyId = await createPrimary(home, { Description: 'primary', Tags: tag('home') })
    const Policy = policyOf(allowTo(ROOT, 'kms:*'), allowTo(ALICE, 'kms:Encrypt'))
    const replicated = await replicate(home, keyId, EU, {
      Description: 'replica',
      Tags: tag('eu'),
      Policy,
    })
    expect(replicated).toMatchObject({ ReplicaPolicy: Policy, ReplicaTags: tag('eu') })
    expect((await describeIn(home, keyId)).Description).toBe('primary')
    expect((await describeIn(eu, keyId)).Description).toBe('replica')
    const plain = await replicate(home, keyId, AP)
    expect(plain.ReplicaTags).toEqual([])
    expect(JSON.parse(plain.ReplicaPolicy as string)).toMatchObject({ Id: 'key-default-1' })
    expect((await describeIn(ap, keyId)).Description).toBe('')

    await eu.send(new UpdateKeyDescriptionCommand({ KeyId: keyId, Description: 'changed' }))
    await eu.send(new TagResourceCommand({ KeyId: keyId, Tags: tag('changed') }))
    await eu.send(new CreateAliasCommand({ TargetKeyId: keyId, AliasName: 'alias/own' }))
    await eu.send(new DisableKeyCommand({ KeyId: keyId }))
    expect(await describeIn(home, keyId)).toMatchObject({
      Description: 'primary',
      KeyState: 'Enabled',
    })
    const tags = await home.send(new ListResourceTagsCommand({ KeyId: keyId }))
    expect(tags.Tags).toEqual(tag('home'))
    const policy = await home.send(new GetKeyPolicyCommand({ KeyId: keyId }))
    expect(policy.Policy).not.toBe(Policy)
    expect(await refused(describeIn(home, 'alias/own'))).toBe('NotFoundException')
    expect((await describeIn(eu, 'alias/own')).Arn).toBe(arnOf(keyId, EU))
    const aliases = await eu.send(new ListAliasesCommand({ KeyId: keyId }))
    expect(aliases.Aliases).toMatchObject([
      {
        AliasName: 'alias/own',
        AliasArn: `arn:aws:kms:${EU}:${ACCOUNT}:alias/own`,
        TargetKeyId: keyId,
      },
    ])
    expect((await home.send(new ListAliasesCommand({ KeyId: keyId }))).Aliases).toEqual([])
    await seal(home, keyId)
    expect(await refused(seal(eu, keyId))).toBe('DisabledException')
    await eu.send(new EnableKeyCommand({ KeyId: keyId }))
    await seal(eu, keyId)
  })

  test('are used by those whom their own policy lets: what one allows, another does not', async () => {
    const keyId = await createPrimary()
    const Policy = policyOf(allowTo(ROOT, 'kms:*'), allowTo(ALICE, 'kms:Encrypt', 'kms:Decrypt'))
    await replicate(home, keyId, EU, { Policy })
    const [aliceHome, aliceEu] = [
      await clientAs(service, ALICE, HOME),
      await clientAs(service, ALICE, EU),
    ]
    const sealed = await seal(aliceEu, keyId)
    // In turns, so that each finds what the other left in caches.
    for (let i = 0; i < 3; i++) {
      await open(aliceEu, sealed)
      expect(await refused(open(aliceHome, sealed))).toBe('AccessDeniedException')
      await open(home, sealed)
      expect(await refused(seal(aliceHome, keyId))).toBe('AccessDeniedException')
    }
    await eu.send(
      new PutKeyPolicyCommand({ KeyId: keyId, Policy: policyOf(allowTo(ROOT, 'kms:*')) }),
    )
    expect(await refused(open(aliceEu, sealed))).toBe('AccessDeniedException')
  })

  test('have grants of their own, listed and retired in their region', async () => {
    const keyId = await createPrimary()
    await replicate(home, keyId, EU)
    const RetiringPrincipal = userArn('Retiring')
    const { GrantId, GrantToken } = await eu.send(
      new CreateGrantCommand({
        KeyId: keyId,
        GranteePrincipal: ALICE,
        Operations: ['Encrypt'],
        RetiringPrincipal,
      }),
    )
    await seal(await clientAs(service, ALICE, EU), keyId)
    expect(await refused(seal(await clientAs(service, ALICE, HOME), keyId))).toBe(
      'AccessDeniedException',
    )
    const list = new ListGrantsCommand({ KeyId: keyId })
    expect((await eu.send(list)).Grants).toMatchObject([{ GrantId, KeyId: arnOf(keyId, EU) }])
    expect((await home.send(list)).Grants).toEqual([])
    const retirable = new ListRetirableGrantsCommand({ RetiringPrincipal })
    expect((await eu.send(retirable)).Grants).toMatchObject([{ GrantId }])
    expect((await home.send(retirable)).Grants).toEqual([])
    const retire = new RetireGrantCommand({ GrantToken })
    expect(await refused(home.send(retire))).toBe('NotFoundException')
    await eu.send(retire)
    expect((await eu.send(list)).Grants).toEqual([])
  })

  test('take new material of the primary together, in the tick in which it takes it', async () => {
    const keyId = await createPrimary()
    await replicate(home, keyId, EU)
    const { kms } = service.engine
    const before = await seal(eu, keyId)
    const primary = await kms.registry.resolve(keyId, HOME)
    const replica = await kms.registry.resolve(keyId, EU)
    const seen: (readonly (number | undefined)[])[] = []
    kms.registry.onChange((id) => {
      if (!id.startsWith(keyId)) return
      queueMicrotask(() => {
        seen.push([primary, replica].map((key) => kms.registry.current(key.id)?.currentVersion))
      })
    })
    await kms.rotations.rotateOnDemand(primary.arn)
    expect(seen.length).toBeGreaterThan(0)
    for (const versions of seen) {
      expect(versions.filter((version) => version !== undefined && version !== 2)).toEqual([])
    }
    const now = await kms.registry.resolve(keyId, EU)
    expect([...now.materials.keys()]).toEqual([1, 2])
    const after = await seal(home, keyId)
    for (const sealed of [before, after, await seal(eu, keyId)]) {
      await open(eu, sealed)
      await open(home, sealed)
    }
  })
})

describe('policies about regions', () => {
  test('read the region that a request was signed for', async () => {
    const inEurope = { StringEquals: { 'aws:RequestedRegion': EU } }
    await service.engine.identityPolicies.put({
      principalArn: ALICE,
      name: 'regions',
      document: policyOf(
        { Effect: 'Allow', Action: 'kms:List*', Resource: '*', Condition: inEurope },
        {
          Effect: 'Allow',
          Action: 'kms:CreateAlias',
          Resource: [`arn:aws:kms:${EU}:${ACCOUNT}:alias/*`, `arn:aws:kms:*:${ACCOUNT}:key/*`],
        },
      ),
    })
    const keyId = await createPrimary()
    const Policy = policyOf(allowTo(ROOT, 'kms:*'), {
      ...allowTo(ALICE, 'kms:Encrypt'),
      Condition: inEurope,
    })
    await home.send(new PutKeyPolicyCommand({ KeyId: keyId, Policy }))
    await replicate(home, keyId, EU, { Policy })
    const [aliceHome, aliceEu] = [
      await clientAs(service, ALICE, HOME),
      await clientAs(service, ALICE, EU),
    ]
    await seal(aliceEu, keyId)
    expect(await refused(seal(aliceHome, keyId))).toBe('AccessDeniedException')
    await aliceEu.send(new ListKeysCommand({}))
    expect(await refused(aliceHome.send(new ListKeysCommand({})))).toBe('AccessDeniedException')
    const alias = new CreateAliasCommand({ AliasName: 'alias/regions', TargetKeyId: keyId })
    await aliceEu.send(alias)
    expect(await refused(aliceHome.send(alias))).toBe('AccessDeniedException')
    await service.engine.identityPolicies.delete(ALICE, 'regions')
  })
})

describe('a message of the batch API under a multi-Region key', () => {
  test('opens in every region of the family, as that region’s policy lets', async () => {
    const keyId = await createPrimary()
    const Policy = policyOf(allowTo(ROOT, 'kms:*'), allowTo(ALICE, 'kms:Decrypt'))
    await replicate(home, keyId, EU, { Policy })
    const sealed = await service.call('encrypt', { key: keyId, plaintexts: [Plaintext] })
    const [message] = sealed.ciphertexts as readonly [Uint8Array]
    const aliceHome = await clientAs(service, ALICE, HOME)
    const aliceEu = await clientAs(service, ALICE, EU)
    for (let i = 0; i < 3; i++) {
      for (const client of [home, eu, aliceEu]) {
        const { Plaintext: opened } = await open(client, message)
        expect(Buffer.from(opened as Uint8Array)).toEqual(Plaintext)
      }
      expect(await refused(open(aliceHome, message))).toBe('AccessDeniedException')
      expect(await refused(open(ap, message))).toBe('AccessDeniedException')
      const { plaintexts } = await service.call('decrypt', { ciphertexts: [message] })
      expect(Buffer.from(plaintexts[0] as Uint8Array)).toEqual(Plaintext)
    }
    // Opened last in the region where the caller may not be refused: the other region decides for itself.
    await eu.send(new DisableKeyCommand({ KeyId: keyId }))
    expect(await refused(open(eu, message))).toBe('DisabledException')
    expect((await service.call('decrypt', { ciphertexts: [message] })).errors ?? []).toEqual([])
    await home.send(new DisableKeyCommand({ KeyId: keyId }))
    await eu.send(new EnableKeyCommand({ KeyId: keyId }))
    await open(eu, message)
    expect((await service.call('decrypt', { ciphertexts: [message] })).errors).toEqual([
      [0, 'KMS_KEY_DISABLED'],
    ])
  })

  test('opens there also where the server has the key in another region only', async () => {
    for (const MultiRegion of [false, true]) {
      const { KeyMetadata } = await eu.send(new CreateKeyCommand({ MultiRegion }))
      const key = KeyMetadata?.Arn as string
      const sealed = await service.call('encrypt', { key, plaintexts: [Plaintext] })
      expect(sealed.keyId).toBe(key)
      for (let i = 0; i < 2; i++) {
        const opened = await service.call('decrypt', { ciphertexts: sealed.ciphertexts })
        expect(opened.errors ?? []).toEqual([])
      }
      // Named by an id, it is looked for at home.
      const byId = { key: KeyMetadata?.KeyId, plaintexts: [Plaintext] }
      expect((await service.call('encrypt', byId)).code).toBe('KMS_KEY_NOT_FOUND')
    }
  })
})

describe('replicating a key', () => {
  test('is for primary keys of several regions, once a region, and to regions that there are', async () => {
    const keyId = await createPrimary()
    await replicate(home, keyId, EU)
    expect(await refused(replicate(home, keyId, EU))).toBe('AlreadyExistsException')
    expect(await refusal(replicate(eu, keyId, AP))).toBe(
      `UnsupportedOperationException: ${arnOf(keyId, EU)} is not a multi-Region primary key.`,
    )
    const { KeyMetadata } = await home.send(new CreateKeyCommand({}))
    const single = KeyMetadata as KeyMetadata
    expect(await refusal(replicate(home, single.KeyId as string, EU))).toBe(
      `UnsupportedOperationException: ${single.Arn} is not a multi-Region primary key.`,
    )
    for (const region of [HOME, 'eu-central-1', 'nowhere', '']) {
      expect(await refused(replicate(home, keyId, region))).toBe('ValidationException')
    }
    expect(await refused(replicate(home, `mrk-${'0'.repeat(32)}`, EU))).toBe('NotFoundException')
    const disabled = await createPrimary()
    await home.send(new DisableKeyCommand({ KeyId: disabled }))
    expect(await refused(replicate(home, disabled, EU))).toBe('DisabledException')
  })

  test('by many at once makes one replica', async () => {
    const keyId = await createPrimary()
    const results = await Promise.allSettled(
      Array.from({ length: 8 }, () => replicate(home, keyId, EU)),
    )
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    const { MultiRegionConfiguration } = await describeIn(home, keyId)
    expect(MultiRegionConfiguration?.ReplicaKeys).toHaveLength(1)
  })

  test('takes a policy under the rules of key policies, and no replica is left where it breaks them', async () => {
    const keyId = await createPrimary()
    const locked = policyOf(allowTo(ALICE, 'kms:*'))
    expect(await refused(replicate(home, keyId, EU, { Policy: locked }))).toBe(
      'MalformedPolicyDocumentException',
    )
    expect(await refused(replicate(home, keyId, EU, { Policy: 'x' }))).toBe(
      'MalformedPolicyDocumentException',
    )
    expect(await refused(describeIn(eu, keyId))).toBe('NotFoundException')
    await replicate(home, keyId, EU, { Policy: locked, BypassPolicyLockoutSafetyCheck: true })
    expect(await refused(describeIn(eu, keyId))).toBe('AccessDeniedException')
  })

  test('needs the right to replicate the one, and to create and tag the other where it will be', async () => {
    const keyId = await createPrimary(home, {
      Policy: policyOf(allowTo(ROOT, 'kms:*'), {
        ...allowTo(ALICE, 'kms:ReplicateKey'),
        Condition: { StringEquals: { 'kms:ReplicaRegion': [EU, AP] } },
      }),
    })
    const alice = await clientAs(service, ALICE, HOME)
    const input = { Tags: [{ TagKey: 'a', TagValue: 'b' }], BypassPolicyLockoutSafetyCheck: true }
    const put = (...statements: object[]) =>
      service.engine.identityPolicies.put({
        principalArn: ALICE,
        name: 'replicas',
        document: policyOf(...statements),
      })
    const allow = (Action: string, Condition?: object) => ({
      ...{ Effect: 'Allow', Action, Resource: '*' },
      ...(Condition && { Condition }),
    })
    expect(await refusal(replicate(alice, keyId, EU, input))).toMatch(/kms:CreateKey/)
    const there = {
      StringEquals: { 'aws:RequestedRegion': EU, 'kms:MultiRegionKeyType': 'REPLICA' },
    }
    await put(allow('kms:CreateKey', there))
    expect(await refusal(replicate(alice, keyId, EU, input))).toMatch(/kms:TagResource/)
    expect(await refusal(replicate(alice, keyId, AP, input))).toMatch(/kms:CreateKey/)
    await put(
      allow('kms:CreateKey', there),
      allow('kms:TagResource', { StringEquals: { 'aws:RequestedRegion': EU } }),
    )
    await replicate(alice, keyId, EU, input)
    const other = await createPrimary()
    expect(await refusal(replicate(alice, other, EU, input))).toMatch(/kms:ReplicateKey/)
    await service.engine.identityPolicies.delete(ALICE, 'replicas')
  })

  test('of key pairs and MAC keys keeps what they are', async () => {
    const keyId = await createPrimary(home, { KeySpec: 'ECC_NIST_P256', KeyUsage: 'SIGN_VERIFY' })
    await replicate(home, keyId, EU)
    expect(await describeIn(eu, keyId)).toMatchObject({
      KeySpec: 'ECC_NIST_P256',
      KeyUsage: 'SIGN_VERIFY',
      KeyState: 'Enabled',
    })
    const { registry } = service.engine.kms
    const [one, other] = [await registry.resolve(keyId, HOME), await registry.resolve(keyId, EU)]
    expect(other.materials.get(1)?.publicKey).toEqual(one.materials.get(1)?.publicKey)
  })
})

describe('the primary region', () => {
  const move = (client: KMSClient, KeyId: string, PrimaryRegion: string) =>
    client.send(new UpdatePrimaryRegionCommand({ KeyId, PrimaryRegion }))

  test('moves to a replica, and back', async () => {
    const keyId = await createPrimary()
    await replicate(home, keyId, EU)
    const sealed = await seal(eu, keyId)
    const expectPrimary = async (region: string): Promise<void> => {
      for (const client of [home, eu]) {
        const { MultiRegionConfiguration, Arn } = await describeIn(client, keyId)
        expect(MultiRegionConfiguration?.PrimaryKey?.Region).toBe(region)
        expect(MultiRegionConfiguration?.MultiRegionKeyType).toBe(
          Arn === arnOf(keyId, region) ? 'PRIMARY' : 'REPLICA',
        )
        await open(client, sealed)
      }
    }
    await move(home, keyId, EU)
    await expectPrimary(EU)
    expect(await refused(replicate(home, keyId, AP))).toBe('UnsupportedOperationException')
    expect(await refused(move(home, keyId, EU))).toBe('UnsupportedOperationException')
    await replicate(eu, keyId, AP)
    await open(ap, sealed)
    await move(eu, keyId, HOME)
    await expectPrimary(HOME)
    await move(home, keyId, AP)
    expect((await describeIn(eu, keyId)).MultiRegionConfiguration?.PrimaryKey?.Region).toBe(AP)
  })

  test('is one that has a replica, which is enabled, as is the primary', async () => {
    const keyId = await createPrimary()
    expect(await refused(move(home, keyId, EU))).toBe('NotFoundException')
    expect(await refused(move(home, keyId, HOME))).toBe('ValidationException')
    expect(await refused(move(home, keyId, 'eu-central-1'))).toBe('ValidationException')
    await replicate(home, keyId, EU)
    await eu.send(new DisableKeyCommand({ KeyId: keyId }))
    expect(await refused(move(home, keyId, EU))).toBe('DisabledException')
    await eu.send(new EnableKeyCommand({ KeyId: keyId }))
    await home.send(new DisableKeyCommand({ KeyId: keyId }))
    expect(await refused(move(home, keyId, EU))).toBe('DisabledException')
    const { KeyMetadata } = await home.send(new CreateKeyCommand({}))
    expect(await refused(move(home, KeyMetadata?.KeyId as string, EU))).toBe(
      'UnsupportedOperationException',
    )
  })

  test('takes the right at both keys', async () => {
    const allow = policyOf(allowTo(ROOT, 'kms:*'), allowTo(ALICE, 'kms:UpdatePrimaryRegion'))
    const keyId = await createPrimary(home, { Policy: allow })
    await replicate(home, keyId, EU)
    const alice = await clientAs(service, ALICE, HOME)
    expect(await refused(move(alice, keyId, EU))).toBe('AccessDeniedException')
    await eu.send(new PutKeyPolicyCommand({ KeyId: keyId, Policy: allow }))
    await home.send(
      new PutKeyPolicyCommand({ KeyId: keyId, Policy: policyOf(allowTo(ROOT, 'kms:*')) }),
    )
    expect(await refused(move(alice, keyId, EU))).toBe('AccessDeniedException')
    await home.send(new PutKeyPolicyCommand({ KeyId: keyId, Policy: allow }))
    await move(alice, keyId, EU)
  })
})

describe('after a restart', () => {
  test('families are as they were', async () => {
    const first = await startService({ settings })
    const keyId = await createPrimary(await clientAs(first, ROOT, EU))
    await replicate(await clientAs(first, ROOT, EU), keyId, HOME)
    const sealed = await seal(await clientAs(first, ROOT, HOME), keyId)
    await first.engine.close()
    const second = await startService({ settings, filesFrom: first.dataDirectory })
    try {
      for (const region of [HOME, EU]) {
        const client = await clientAs(second, ROOT, region)
        await open(client, sealed)
        const { MultiRegionConfiguration } = await describeIn(client, keyId)
        expect(MultiRegionConfiguration?.PrimaryKey?.Arn).toBe(arnOf(keyId, EU))
      }
    } finally {
      await second.close()
    }
  })
})
