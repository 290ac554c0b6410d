/** Keys that integrations of the service keep for themselves: everyone sees them, and nobody else uses or changes them. */
import {
  CreateAliasCommand,
  CreateGrantCommand,
  DeleteAliasCommand,
  DescribeKeyCommand,
  DisableKeyCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  GetKeyPolicyCommand,
  ListAliasesCommand,
  ListGrantsCommand,
  ListKeysCommand,
  PutKeyPolicyCommand,
  TagResourceCommand,
  UpdateAliasCommand,
  UpdateKeyDescriptionCommand,
  type KMSClient,
} from '@aws-sdk/client-kms'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'

import { LocalKeyStore } from '../../dist/key-stores/local.js'
import type { Action, KmsKey, Principal } from '../../dist/kms/kms-key.js'
import { ManagedKeys } from '../../dist/kms/managed-keys.js'
import { clientAs, refused, ROOT, userArn } from '../server/aws/clients.ts'
import { send } from '../server/caller.ts'
import { startService, type Service } from '../service.ts'

const settings = { otherRegions: 'eu-west-1' }
const VIA = 'vault.us-east-1.amazonaws.com'

let service: Service
let root: KMSClient
let managed: KmsKey

beforeAll(async () => {
  service = await startService({ settings })
  root = await clientAs(service, ROOT)
  managed = await service.engine.kms.managedKeys.key('vault', 'us-east-1')
})
afterAll(() => service.close())

const principalOf = (
  arn: string,
  credential: Principal['credential'] = 'access-key',
): Principal => ({
  arn,
  credential,
  tokenId: 'test',
  actions: ['*'],
  keys: ['*'],
  expiresAtMs: undefined,
})

describe('the key of an integration', () => {
  test('is made once: by many at once, again, and after a restart', async () => {
    const first = await startService()
    const { managedKeys } = first.engine.kms
    const createKeyMaterial = vi.spyOn(LocalKeyStore.prototype, 'createKeyMaterial')
    const made = await Promise.all(
      Array.from({ length: 20 }, () => managedKeys.key('mail', 'us-east-1')),
    )
    expect(new Set(made.map(({ arn }) => arn)).size).toBe(1)
    const again = await managedKeys.key('mail', 'us-east-1')
    expect(createKeyMaterial).toHaveBeenCalledOnce()
    createKeyMaterial.mockRestore()
    expect(again.arn).toBe(made[0]?.arn)
    await first.engine.close()
    const second = await startService({ filesFrom: first.dataDirectory })
    const after = await second.engine.kms.managedKeys.key('mail', 'us-east-1')
    expect(after.arn).toBe(again.arn)
    const { items } = await second.engine.kms.listKeys()
    expect(items.filter(({ arn }) => arn === again.arn)).toHaveLength(1)
    await second.close()
  })

  test('is found where another node made it first', async () => {
    const first = await startService()
    const { kms } = first.engine
    const [one, other] = await Promise.all([
      kms.managedKeys.key('mail', 'us-east-1'),
      // Past the single flight, as from another process.
      new ManagedKeys(kms, '000000000000').key('mail', 'us-east-1'),
    ])
    expect(one.arn).toBe(other.arn)
    expect((await kms.listKeys()).items).toHaveLength(1)
    await first.close()
  })

  test('is another one for each integration and each region', async () => {
    const { managedKeys } = service.engine.kms
    const arns = await Promise.all([
      managedKeys.key('vault', 'us-east-1'),
      managedKeys.key('vault', 'eu-west-1'),
      managedKeys.key('mail', 'us-east-1'),
    ])
    expect(new Set(arns.map(({ arn }) => arn)).size).toBe(3)
    expect(arns[1]?.region).toBe('eu-west-1')
  })

  test('is shown and listed as AWS’s own, under its reserved alias', async () => {
    const { KeyMetadata } = await root.send(new DescribeKeyCommand({ KeyId: 'alias/aws/vault' }))
    expect(KeyMetadata).toMatchObject({
      Arn: managed.arn,
      KeyManager: 'AWS',
      KeyState: 'Enabled',
      KeyUsage: 'ENCRYPT_DECRYPT',
      MultiRegion: false,
    })
    const { Keys } = await root.send(new ListKeysCommand({}))
    expect(Keys?.map(({ KeyArn }) => KeyArn)).toContain(managed.arn)
    const { Aliases } = await root.send(new ListAliasesCommand({}))
    expect(Aliases).toContainEqual(
      expect.objectContaining({ AliasName: 'alias/aws/vault', TargetKeyId: managed.keyId }),
    )
    const { Policy } = await root.send(new GetKeyPolicyCommand({ KeyId: managed.keyId }))
    // As Secrets Manager's documentation shows the policy of aws/secretsmanager.
    expect(JSON.parse(Policy as string)).toMatchObject({
      Statement: [
        {
          Principal: { AWS: '*' },
          Condition: {
            StringEquals: { 'kms:ViaService': VIA, 'kms:CallerAccount': '000000000000' },
          },
        },
        {
          Principal: { AWS: ROOT },
          Action: ['kms:Describe*', 'kms:Get*', 'kms:List*', 'kms:RevokeGrant'],
        },
      ],
    })
    expect((await root.send(new ListGrantsCommand({ KeyId: managed.keyId }))).Grants).toEqual([])
  })

  test('is used through the integration alone, by the account’s own, in its own operations', () => {
    const { authorizer } = service.engine
    const may = (action: Action, arn: string, viaService?: string): boolean =>
      authorizer.decide(principalOf(arn), action, managed, { viaService }).allowed
    const alice = userArn('Alice')
    for (const arn of [ROOT, alice]) {
      for (const action of ['kms:Encrypt', 'kms:Decrypt', 'kms:GenerateDataKey'] as const) {
        expect(may(action, arn, VIA)).toBe(true)
        expect(may(action, arn)).toBe(false)
        expect(may(action, arn, 'mail.us-east-1.amazonaws.com')).toBe(false)
        expect(may(action, arn, 'vault.eu-west-1.amazonaws.com')).toBe(false)
        // In turns, for decisions are remembered.
        expect(may(action, arn, VIA)).toBe(true)
      }
      expect(may('kms:ScheduleKeyDeletion', arn, VIA)).toBe(false)
      expect(may('keyfold:ReleaseMessageKey', arn, VIA)).toBe(false)
    }
    expect(may('kms:Encrypt', userArn('Eve', '111122223333'), VIA)).toBe(false)
    const token = principalOf(alice, 'token')
    expect(authorizer.decide(token, 'kms:Encrypt', managed, {}).allowed).toBe(false)
  })

  test('is not used directly at either door, by whoever may do anything', async () => {
    const KeyId = managed.arn
    const Plaintext = Buffer.from('x')
    for (const call of [
      root.send(new EncryptCommand({ KeyId, Plaintext })),
      root.send(new EncryptCommand({ KeyId: 'alias/aws/vault', Plaintext })),
      root.send(new GenerateDataKeyCommand({ KeyId, KeySpec: 'AES_256' })),
      root.send(new CreateGrantCommand({ KeyId, GranteePrincipal: ROOT, Operations: ['Encrypt'] })),
    ]) {
      expect(await refused(call)).toBe('AccessDeniedException')
    }
    for (const key of [KeyId, 'alias/aws/vault']) {
      const sealed = await service.call('encrypt', { key, plaintexts: [Plaintext] })
      expect(sealed.code).toBe('ACCESS_DENIED')
      const smuggled = { key, plaintexts: [Plaintext], viaService: VIA }
      expect((await service.call('encrypt', smuggled)).code).toBe('REQUEST_MALFORMED')
    }
  })

  test('is not changed, switched off, tagged or renamed, at either door', async () => {
    const KeyId = managed.keyId
    const { Policy } = await root.send(new GetKeyPolicyCommand({ KeyId }))
    const own = await service.createKey()
    for (const call of [
      root.send(new DisableKeyCommand({ KeyId })),
      root.send(new PutKeyPolicyCommand({ KeyId, Policy: Policy as string })),
      root.send(
        new PutKeyPolicyCommand({
          KeyId,
          Policy: Policy as string,
          BypassPolicyLockoutSafetyCheck: true,
        }),
      ),
      root.send(new UpdateKeyDescriptionCommand({ KeyId, Description: 'mine' })),
      root.send(new TagResourceCommand({ KeyId, Tags: [{ TagKey: 'a', TagValue: 'b' }] })),
      root.send(new CreateAliasCommand({ AliasName: 'alias/mine', TargetKeyId: KeyId })),
      root.send(new DeleteAliasCommand({ AliasName: 'alias/aws/vault' })),
      root.send(new UpdateAliasCommand({ AliasName: 'alias/aws/vault', TargetKeyId: own })),
    ]) {
      expect(await refused(call)).toBe('AccessDeniedException')
    }
    await service.call('aliases', { alias: 'alias/own', key: own })
    const move = new UpdateAliasCommand({ AliasName: 'alias/own', TargetKeyId: KeyId })
    expect(await refused(root.send(move))).toBe('AccessDeniedException')
    for (const [route, fields] of [
      [`keys/${KeyId}/disable`, {}],
      [`keys/${KeyId}/rotate`, {}],
      ['aliases', { alias: 'alias/mine', key: KeyId }],
      ['grants', { key: KeyId, granteePrincipal: ROOT, operations: ['Encrypt'] }],
    ] as const) {
      expect((await service.call(route, fields)).code, route).toBe('ACCESS_DENIED')
    }
    const alias = '/v1/aliases/alias%2Faws%2Fvault'
    expect((await send(service, 'DELETE', alias)).body.code).toBe('ACCESS_DENIED')
    const now = await service.engine.kms.registry.resolve('alias/aws/vault')
    expect(now).toMatchObject({ arn: managed.arn, state: 'Enabled', currentVersion: 1 })
  })

  test('has a name that no caller can give to another', async () => {
    const own = await service.createKey()
    const create = new CreateAliasCommand({ AliasName: 'alias/aws/other', TargetKeyId: own })
    expect(await refused(root.send(create))).toBe('InvalidAliasNameException')
    const fields = { alias: 'alias/aws/other' }
    expect((await service.call('keys', fields)).code).toBe('ALIAS_INVALID')
  })
})

describe('what the service seals for itself', () => {
  test('is under no KMS key that anybody could list', async () => {
    const fresh = await startService()
    await fresh.engine.accessKeys.create({ principalArn: ROOT })
    expect((await fresh.engine.kms.listKeys()).items).toEqual([])
    expect((await fresh.engine.kms.aliases.list()).items).toEqual([])
    await fresh.close()
  })
})
