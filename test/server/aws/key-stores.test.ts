/**
 * Custom key stores through AWS's own client: every operation, and every refusal that AWS's API reference has for it
 * (exceptions, states and members as there).
 */
import * as sdk from '@aws-sdk/client-kms'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, afterEach, describe, expect, test } from 'vitest'

import { StoreFault, type Fault } from '../../../dist/key-stores/store-fault.js'
import { filesOf, startService, type Service } from '../../service.ts'
import { Elsewhere } from '../../key-stores/elsewhere.ts'
import { clientOf, refusalOf } from './sdk.ts'

const SECRET = 'c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0'
const OTHER_SECRET = 'b3RoZXJzZWNyZXRvdGhlcnNlY3JldG90aGVyc2VjcmV0b3RoZXI'
const PIN = 'pin-of-the-user'
const ENDPOINT = 'https://xks.example.com'
const PATH = '/tenant/kms/xks/v1'
const CREDENTIAL = { AccessKeyId: 'ABCDEFGHIJ234567ABCD', RawSecretAccessKey: SECRET }
const ANCHOR = '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n'

let directory: string
let service: Service
let elsewhere: Elsewhere
let kms: sdk.KMSClient

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'keyfold-modules-'))
  const modules = {
    'cluster-one': { library: '/lib/one.so', token: { label: 'one' } },
    two: { library: '/lib/two.so', token: { label: 'two' } },
  }
  writeFileSync(join(directory, 'modules.json'), JSON.stringify(modules))
})
afterAll(() => rmSync(directory, { recursive: true }))

beforeEach(async () => {
  elsewhere = new Elsewhere()
  service = await startService({
    keyStoreOpener: elsewhere.opener,
    settings: { pkcs11Modules: join(directory, 'modules.json'), logLevel: 'trace' },
  })
  kms = await clientOf(service)
})
afterEach(async () => {
  kms.destroy()
  await service.close()
})

/** As the client of a proxy throws it; with real proxies in test/kms/connection-errors.test.ts. */
const fault = (what: Fault): StoreFault => new StoreFault(what, 'KEY_STORE_UNREACHABLE')

type NewStore = Partial<sdk.CreateCustomKeyStoreCommandInput>

const createXks = async (more: NewStore = {}): Promise<string> => {
  const { CustomKeyStoreId } = await kms.send(
    new sdk.CreateCustomKeyStoreCommand({
      CustomKeyStoreName: 'proxy',
      CustomKeyStoreType: 'EXTERNAL_KEY_STORE',
      XksProxyConnectivity: 'PUBLIC_ENDPOINT',
      XksProxyUriEndpoint: ENDPOINT,
      XksProxyUriPath: PATH,
      XksProxyAuthenticationCredential: CREDENTIAL,
      ...more,
    }),
  )
  return CustomKeyStoreId as string
}

const createHsm = async (more: NewStore = {}): Promise<string> => {
  const { CustomKeyStoreId } = await kms.send(
    new sdk.CreateCustomKeyStoreCommand({
      CustomKeyStoreName: 'hsm',
      CloudHsmClusterId: 'cluster-one',
      TrustAnchorCertificate: ANCHOR,
      KeyStorePassword: PIN,
      ...more,
    }),
  )
  return CustomKeyStoreId as string
}

const describeOne = async (CustomKeyStoreId: string): Promise<sdk.CustomKeyStoresListEntry> => {
  const input = { CustomKeyStoreId }
  const { CustomKeyStores = [] } = await kms.send(new sdk.DescribeCustomKeyStoresCommand(input))
  return CustomKeyStores[0] as sdk.CustomKeyStoresListEntry
}

const connect = async (CustomKeyStoreId: string): Promise<sdk.CustomKeyStoresListEntry> => {
  await kms.send(new sdk.ConnectCustomKeyStoreCommand({ CustomKeyStoreId }))
  await service.engine.kms.keyStores.settled(CustomKeyStoreId)
  return describeOne(CustomKeyStoreId)
}

const disconnect = async (CustomKeyStoreId: string): Promise<sdk.CustomKeyStoresListEntry> => {
  await kms.send(new sdk.DisconnectCustomKeyStoreCommand({ CustomKeyStoreId }))
  await service.engine.kms.keyStores.settled(CustomKeyStoreId)
  return describeOne(CustomKeyStoreId)
}

const createKeyIn = async (
  CustomKeyStoreId: string,
  XksKeyId?: string,
): Promise<sdk.KeyMetadata> => {
  const Origin = XksKeyId === undefined ? 'AWS_CLOUDHSM' : 'EXTERNAL_KEY_STORE'
  const input = { CustomKeyStoreId, Origin, XksKeyId } as const
  const { KeyMetadata } = await kms.send(new sdk.CreateKeyCommand(input))
  return KeyMetadata as sdk.KeyMetadata
}

const stateOf = async (KeyId: string | undefined): Promise<string | undefined> =>
  (await kms.send(new sdk.DescribeKeyCommand({ KeyId }))).KeyMetadata?.KeyState

const nameOfRefusal = async (ask: () => Promise<unknown>): Promise<string> =>
  (await refusalOf(ask)).name

describe('CreateCustomKeyStore', () => {
  test('answers an id as AWS forms it, and the store is disconnected and described', async () => {
    const id = await createXks()
    expect(id).toMatch(/^cks-[0-9a-f]{17}$/)
    expect(await describeOne(id)).toEqual({
      CustomKeyStoreId: id,
      CustomKeyStoreName: 'proxy',
      CustomKeyStoreType: 'EXTERNAL_KEY_STORE',
      ConnectionState: 'DISCONNECTED',
      CreationDate: expect.any(Date) as Date,
      XksProxyConfiguration: {
        Connectivity: 'PUBLIC_ENDPOINT',
        AccessKeyId: CREDENTIAL.AccessKeyId,
        UriEndpoint: ENDPOINT,
        UriPath: PATH,
      },
    })
    const hsm = await createHsm()
    expect(await describeOne(hsm)).toEqual({
      CustomKeyStoreId: hsm,
      CustomKeyStoreName: 'hsm',
      CustomKeyStoreType: 'AWS_CLOUDHSM',
      CloudHsmClusterId: 'cluster-one',
      TrustAnchorCertificate: ANCHOR,
      ConnectionState: 'DISCONNECTED',
      CreationDate: expect.any(Date) as Date,
    })
  })

  test('tries an external key store before it takes it, and leaves nothing open', async () => {
    for (const [failsWith, name] of [
      ['KEY_STORE_UNREACHABLE', 'XksProxyUriUnreachableException'],
      [fault('timed-out'), 'XksProxyUriUnreachableException'],
      [fault('tls'), 'XksProxyUriUnreachableException'],
      [fault('credential'), 'XksProxyIncorrectAuthenticationCredentialException'],
      [fault('response'), 'XksProxyInvalidResponseException'],
      [fault('configuration'), 'XksProxyInvalidConfigurationException'],
    ] as const) {
      elsewhere.failsWith = failsWith
      expect(await refusalOf(() => createXks())).toMatchObject({ name, status: 400 })
    }
    elsewhere.failsWith = undefined
    const { CustomKeyStores } = await kms.send(new sdk.DescribeCustomKeyStoresCommand({}))
    expect(CustomKeyStores).toEqual([])
    await createXks()
    expect(elsewhere.openedWith.at(-1)).toMatchObject({ name: 'proxy', secret: SECRET })
    expect(elsewhere.closed).toBe(1)
  })

  test('refuses what is there already, and modules that are not', async () => {
    await createXks()
    await createHsm()
    const other = { CustomKeyStoreName: 'other' }
    for (const [ask, name] of [
      [() => createXks(), 'CustomKeyStoreNameInUseException'],
      [() => createHsm({ CustomKeyStoreName: 'proxy' }), 'CustomKeyStoreNameInUseException'],
      [() => createXks(other), 'XksProxyUriInUseException'],
      [() => createHsm(other), 'CloudHsmClusterInUseException'],
      [
        () => createHsm({ ...other, CloudHsmClusterId: 'three' }),
        'CloudHsmClusterNotFoundException',
      ],
    ] as const) {
      expect(await refusalOf(ask)).toMatchObject({ name, status: 400 })
    }
    // The same endpoint with another path is another tenant's.
    await createXks({ ...other, XksProxyUriPath: '/kms/xks/v1' })
  })

  test('refuses what does not belong together, without repeating a secret', async () => {
    const shortSecret = { ...CREDENTIAL, RawSecretAccessKey: 'too-short-a-secret' }
    const oddSecret = { ...CREDENTIAL, RawSecretAccessKey: `${SECRET.slice(1)}!` }
    for (const more of [
      { XksProxyUriEndpoint: 'http://xks.example.com' },
      { XksProxyUriEndpoint: `${ENDPOINT}/path` },
      { XksProxyUriEndpoint: undefined },
      { XksProxyUriPath: '/tenant' },
      { XksProxyUriPath: '/tenant/../kms/xks/v1' },
      { XksProxyUriPath: undefined },
      { XksProxyConnectivity: undefined },
      { XksProxyAuthenticationCredential: undefined },
      { XksProxyAuthenticationCredential: { ...CREDENTIAL, AccessKeyId: 'abc' } },
      { XksProxyAuthenticationCredential: shortSecret },
      { XksProxyAuthenticationCredential: oddSecret },
      { CloudHsmClusterId: 'cluster-one' },
      { KeyStorePassword: PIN },
      { TrustAnchorCertificate: ANCHOR },
      { CustomKeyStoreName: '' },
      { CustomKeyStoreName: 'n'.repeat(257) },
      { CustomKeyStoreType: 'OTHER' as 'AWS_CLOUDHSM' },
    ]) {
      const refusal = await refusalOf(() => createXks(more))
      expect(refusal, JSON.stringify(more)).toMatchObject({ name: 'ValidationException' })
      expect(refusal.message).not.toContain('too-short')
      expect(refusal.message).not.toContain(SECRET.slice(1))
    }
    for (const more of [
      { XksProxyUriEndpoint: ENDPOINT },
      { CloudHsmClusterId: undefined },
      { KeyStorePassword: 'short' },
      { TrustAnchorCertificate: 'no certificate' },
    ]) {
      expect(await nameOfRefusal(() => createHsm(more))).toBe('ValidationException')
    }
  })

  test('has no VPC endpoint services', async () => {
    for (const more of [
      { XksProxyConnectivity: 'VPC_ENDPOINT_SERVICE' },
      { XksProxyVpcEndpointServiceName: 'com.amazonaws.vpce.us-east-1.vpce-svc-1' },
    ] as const) {
      expect(await nameOfRefusal(() => createXks(more))).toBe('UnsupportedOperationException')
    }
  })

  test('makes ten and no more', async () => {
    for (let i = 0; i < 10; i++) {
      await createXks({ CustomKeyStoreName: `s${i}`, XksProxyUriPath: `/t${i}/kms/xks/v1` })
    }
    const eleventh = { CustomKeyStoreName: 's', XksProxyUriPath: '/t/kms/xks/v1' }
    expect(await nameOfRefusal(() => createXks(eleventh))).toBe('LimitExceededException')
  })
})

describe('ConnectCustomKeyStore and DisconnectCustomKeyStore', () => {
  test('connect and disconnect; connecting what is connected changes nothing', async () => {
    const id = await createXks()
    expect(await connect(id)).toMatchObject({ ConnectionState: 'CONNECTED' })
    const { length } = elsewhere.openedWith
    expect(await connect(id)).toMatchObject({ ConnectionState: 'CONNECTED' })
    expect(elsewhere.openedWith).toHaveLength(length)
    const closed = elsewhere.closed
    expect(await disconnect(id)).toMatchObject({ ConnectionState: 'DISCONNECTED' })
    expect(elsewhere.closed).toBe(closed + 1)
    expect(await refusalOf(() => disconnect(id))).toMatchObject({
      name: 'CustomKeyStoreInvalidStateException',
      status: 400,
    })
  })

  test('answer before it is over', async () => {
    const id = await createXks()
    let openGate = (): void => undefined
    elsewhere.gate = new Promise((resolve) => (openGate = resolve))
    await kms.send(new sdk.ConnectCustomKeyStoreCommand({ CustomKeyStoreId: id }))
    expect(await describeOne(id)).toMatchObject({ ConnectionState: 'CONNECTING' })
    expect(await nameOfRefusal(() => createKeyIn(id, 'key-1'))).toBe(
      'CustomKeyStoreInvalidStateException',
    )
    openGate()
    await service.engine.kms.keyStores.settled(id)
    expect(await describeOne(id)).toMatchObject({ ConnectionState: 'CONNECTED' })
  })

  test('what is disconnected while it connects stays so, whatever comes of it', async () => {
    const id = await createXks()
    let openGate = (): void => undefined
    elsewhere.gate = new Promise((resolve) => (openGate = resolve))
    await kms.send(new sdk.ConnectCustomKeyStoreCommand({ CustomKeyStoreId: id }))
    const attempt = service.engine.kms.keyStores.settled(id)
    await kms.send(new sdk.DisconnectCustomKeyStoreCommand({ CustomKeyStoreId: id }))
    const closed = elsewhere.closed
    openGate()
    await attempt
    expect(await describeOne(id)).toMatchObject({ ConnectionState: 'DISCONNECTED' })
    expect(elsewhere.closed).toBe(closed + 1)
  })

  test('a failure has the code of AWS, and is disconnected before it is tried again', async () => {
    const xks = await createXks()
    const hsm = await createHsm()
    for (const [id, failsWith, ConnectionErrorCode] of [
      [xks, 'KEY_STORE_UNREACHABLE', 'XKS_PROXY_NOT_REACHABLE'],
      [xks, fault('credential'), 'INVALID_CREDENTIALS'],
      [xks, fault('access-denied'), 'XKS_PROXY_ACCESS_DENIED'],
      [xks, fault('response'), 'XKS_PROXY_INVALID_RESPONSE'],
      [xks, fault('configuration'), 'XKS_PROXY_INVALID_CONFIGURATION'],
      [hsm, 'KEY_STORE_UNREACHABLE', 'NETWORK_ERRORS'],
      [hsm, 'KEY_STORE_CREDENTIAL_INCORRECT', 'INVALID_CREDENTIALS'],
      [hsm, 'INTERNAL', 'INTERNAL_ERROR'],
    ] as const) {
      elsewhere.failsWith = failsWith
      const failed = { ConnectionState: 'FAILED', ConnectionErrorCode }
      expect(await connect(id)).toMatchObject(failed)
      expect(await nameOfRefusal(() => connect(id))).toBe('CustomKeyStoreInvalidStateException')
      elsewhere.failsWith = undefined
      const entry = await disconnect(id)
      expect(entry.ConnectionState).toBe('DISCONNECTED')
      expect(entry).not.toHaveProperty('ConnectionErrorCode')
    }
    expect(elsewhere.openedWith.at(-1)).toMatchObject({ name: 'hsm', secret: PIN })
  })
})

describe('DescribeCustomKeyStores', () => {
  test('finds by id, by name, and page by page', async () => {
    const ids: string[] = []
    for (const name of ['a', 'b', 'c']) {
      const path = `/${name}/kms/xks/v1`
      ids.push(await createXks({ CustomKeyStoreName: name, XksProxyUriPath: path }))
    }
    const found = await kms.send(
      new sdk.DescribeCustomKeyStoresCommand({ CustomKeyStoreName: 'b' }),
    )
    expect(found).toMatchObject({ CustomKeyStores: [{ CustomKeyStoreId: ids[1] }] })
    const seen: (string | undefined)[] = []
    let pages = 0
    for await (const page of sdk.paginateDescribeCustomKeyStores(
      { client: kms, pageSize: 2 },
      {},
    )) {
      pages++
      seen.push(...(page.CustomKeyStores ?? []).map((store) => store.CustomKeyStoreId))
    }
    expect(pages).toBe(2)
    expect(seen).toEqual([...ids].sort())
  })

  test('refuses names of nothing, both at once, and markers that it did not give', async () => {
    const CustomKeyStoreId = await createXks()
    const ask = (input: sdk.DescribeCustomKeyStoresCommandInput) => (): Promise<unknown> =>
      kms.send(new sdk.DescribeCustomKeyStoresCommand(input))
    for (const [input, name] of [
      [{ CustomKeyStoreId: 'cks-1234567890abcdef0' }, 'CustomKeyStoreNotFoundException'],
      [{ CustomKeyStoreName: 'none' }, 'CustomKeyStoreNotFoundException'],
      [{ CustomKeyStoreId, CustomKeyStoreName: 'proxy' }, 'ValidationException'],
      [{ Marker: 'x' }, 'InvalidMarkerException'],
      [{ Limit: 0 }, 'ValidationException'],
      [{ Limit: 1_001 }, 'ValidationException'],
    ] as const) {
      expect(await refusalOf(ask(input))).toMatchObject({ name, status: 400 })
    }
  })
})

describe('UpdateCustomKeyStore', () => {
  const update = async (
    CustomKeyStoreId: string,
    input: Partial<sdk.UpdateCustomKeyStoreCommandInput>,
  ): Promise<unknown> =>
    kms.send(new sdk.UpdateCustomKeyStoreCommand({ CustomKeyStoreId, ...input }))

  test('changes everything while it is disconnected', async () => {
    const id = await createXks()
    await update(id, {
      NewCustomKeyStoreName: 'renamed',
      XksProxyUriEndpoint: 'https://other.example.com',
      XksProxyUriPath: '/kms/xks/v1',
      XksProxyAuthenticationCredential: { ...CREDENTIAL, RawSecretAccessKey: OTHER_SECRET },
    })
    expect(await describeOne(id)).toMatchObject({
      CustomKeyStoreName: 'renamed',
      XksProxyConfiguration: {
        UriEndpoint: 'https://other.example.com',
        UriPath: '/kms/xks/v1',
      },
    })
    await connect(id)
    expect(elsewhere.openedWith.at(-1)).toMatchObject({
      name: 'renamed',
      settings: { uriEndpoint: 'https://other.example.com' },
      secret: OTHER_SECRET,
    })
    const hsm = await createHsm()
    await update(hsm, { CloudHsmClusterId: 'two', KeyStorePassword: 'another-pin' })
    await connect(hsm)
    expect(elsewhere.openedWith.at(-1)).toMatchObject({
      settings: { module: 'two' },
      secret: 'another-pin',
    })
  })

  test('changes name, path and credential of a connected external key store, whose keys go on', async () => {
    const id = await createXks()
    await connect(id)
    const { Arn: KeyId } = await createKeyIn(id, 'key-1')
    await update(id, {
      NewCustomKeyStoreName: 'renamed',
      XksProxyUriPath: '/kms/xks/v1',
      XksProxyAuthenticationCredential: { ...CREDENTIAL, RawSecretAccessKey: OTHER_SECRET },
    })
    expect(await describeOne(id)).toMatchObject({ ConnectionState: 'CONNECTED' })
    expect(elsewhere.openedWith.at(-1)).toMatchObject({ secret: OTHER_SECRET })
    await kms.send(new sdk.EncryptCommand({ KeyId, Plaintext: Buffer.from('x') }))
    const other = { XksProxyUriEndpoint: 'https://other.example.com' }
    const refused = 'CustomKeyStoreInvalidStateException'
    expect(await nameOfRefusal(() => update(id, other))).toBe(refused)
  })

  test('a change that the proxy does not take leaves everything as it was', async () => {
    const id = await createXks()
    await connect(id)
    const { Arn: KeyId } = await createKeyIn(id, 'key-1')
    elsewhere.failsWith = fault('credential')
    const XksProxyAuthenticationCredential = { ...CREDENTIAL, RawSecretAccessKey: OTHER_SECRET }
    expect(await nameOfRefusal(() => update(id, { XksProxyAuthenticationCredential }))).toBe(
      'XksProxyIncorrectAuthenticationCredentialException',
    )
    elsewhere.failsWith = undefined
    await kms.send(new sdk.EncryptCommand({ KeyId, Plaintext: Buffer.from('x') }))
    await disconnect(id)
    await connect(id)
    expect(elsewhere.openedWith.at(-1)).toMatchObject({ secret: SECRET })
  })

  test('refuses anything of a connected CloudHSM key store, and what others have', async () => {
    const hsm = await createHsm()
    const xks = await createXks()
    await connect(hsm)
    for (const [id, input, name] of [
      [hsm, { NewCustomKeyStoreName: 'n' }, 'CustomKeyStoreInvalidStateException'],
      [hsm, { KeyStorePassword: 'another-pin' }, 'CustomKeyStoreInvalidStateException'],
      [hsm, { XksProxyUriPath: PATH }, 'ValidationException'],
      [xks, { NewCustomKeyStoreName: 'hsm' }, 'CustomKeyStoreNameInUseException'],
      [xks, { CloudHsmClusterId: 'two' }, 'ValidationException'],
      [xks, { XksProxyConnectivity: 'VPC_ENDPOINT_SERVICE' }, 'UnsupportedOperationException'],
      ['cks-1234567890abcdef0', {}, 'CustomKeyStoreNotFoundException'],
    ] as const) {
      expect(await nameOfRefusal(() => update(id, input))).toBe(name)
    }
    await disconnect(hsm)
    const gone = 'CloudHsmClusterNotFoundException'
    expect(await nameOfRefusal(() => update(hsm, { CloudHsmClusterId: 'three' }))).toBe(gone)
  })
})

describe('DeleteCustomKeyStore', () => {
  const remove = async (CustomKeyStoreId: string): Promise<unknown> =>
    kms.send(new sdk.DeleteCustomKeyStoreCommand({ CustomKeyStoreId }))

  test('deletes a disconnected key store without keys, whose name is free again', async () => {
    const id = await createXks()
    await connect(id)
    expect(await nameOfRefusal(() => remove(id))).toBe('CustomKeyStoreInvalidStateException')
    await disconnect(id)
    await remove(id)
    for (const ask of [() => remove(id), () => connect(id), () => disconnect(id)]) {
      expect(await nameOfRefusal(ask)).toBe('CustomKeyStoreNotFoundException')
    }
    expect(await createXks()).not.toBe(id)
  })

  test('refuses while it has a key, also one that waits for its deletion', async () => {
    const id = await createXks()
    await connect(id)
    const { KeyId } = await createKeyIn(id, 'key-1')
    await disconnect(id)
    const refused = { name: 'CustomKeyStoreHasCMKsException', status: 400 }
    expect(await refusalOf(() => remove(id))).toMatchObject(refused)
    await kms.send(new sdk.ScheduleKeyDeletionCommand({ KeyId, PendingWindowInDays: 7 }))
    expect(await refusalOf(() => remove(id))).toMatchObject(refused)
  })
})

describe('CreateKey in a custom key store', () => {
  test('makes keys that say where they are, and that encrypt and decrypt', async () => {
    const xks = await createXks()
    const hsm = await createHsm()
    await connect(xks)
    await connect(hsm)
    const external = await createKeyIn(xks, 'key-1')
    expect(external).toMatchObject({
      Origin: 'EXTERNAL_KEY_STORE',
      CustomKeyStoreId: xks,
      XksKeyConfiguration: { Id: 'key-1' },
      KeySpec: 'SYMMETRIC_DEFAULT',
      KeyUsage: 'ENCRYPT_DECRYPT',
      MultiRegion: false,
      KeyState: 'Enabled',
    })
    expect(external).not.toHaveProperty('CloudHsmClusterId')
    const inHsm = await createKeyIn(hsm)
    expect(inHsm).toMatchObject({
      Origin: 'AWS_CLOUDHSM',
      CustomKeyStoreId: hsm,
      CloudHsmClusterId: 'cluster-one',
    })
    expect(inHsm).not.toHaveProperty('XksKeyConfiguration')
    for (const { KeyId } of [external, inHsm]) {
      const { KeyMetadata } = await kms.send(new sdk.DescribeKeyCommand({ KeyId }))
      expect(KeyMetadata).toEqual(KeyId === external.KeyId ? external : inHsm)
      const { CiphertextBlob } = await kms.send(
        new sdk.EncryptCommand({ KeyId, Plaintext: Buffer.from('plaintext') }),
      )
      const { Plaintext } = await kms.send(new sdk.DecryptCommand({ CiphertextBlob }))
      expect(Buffer.from(Plaintext ?? []).toString()).toBe('plaintext')
    }
  })

  test('refuses what AWS does', async () => {
    const xks = await createXks()
    const hsm = await createHsm()
    const away = await createHsm({ CustomKeyStoreName: 'away', CloudHsmClusterId: 'two' })
    await connect(xks)
    await connect(hsm)
    await createKeyIn(xks, 'key-1')
    elsewhere.absentKeys.add('absent')
    const EXTERNAL = { Origin: 'EXTERNAL_KEY_STORE', CustomKeyStoreId: xks, XksKeyId: 'k' } as const
    const HSM = { Origin: 'AWS_CLOUDHSM', CustomKeyStoreId: hsm } as const
    const none = 'cks-1234567890abcdef0'
    for (const [input, name] of [
      [{ ...EXTERNAL, XksKeyId: 'key-1' }, 'XksKeyAlreadyInUseException'],
      [{ ...EXTERNAL, XksKeyId: 'absent' }, 'XksKeyNotFoundException'],
      [{ ...EXTERNAL, XksKeyId: undefined }, 'ValidationException'],
      [{ ...EXTERNAL, XksKeyId: 'a/b' }, 'ValidationException'],
      [{ ...EXTERNAL, XksKeyId: 'k'.repeat(129) }, 'ValidationException'],
      [{ ...EXTERNAL, CustomKeyStoreId: undefined }, 'ValidationException'],
      [{ ...EXTERNAL, CustomKeyStoreId: none }, 'CustomKeyStoreNotFoundException'],
      [{ ...EXTERNAL, CustomKeyStoreId: hsm }, 'UnsupportedOperationException'],
      [{ ...EXTERNAL, MultiRegion: true }, 'UnsupportedOperationException'],
      [
        { ...EXTERNAL, KeySpec: 'RSA_2048', KeyUsage: 'SIGN_VERIFY' },
        'UnsupportedOperationException',
      ],
      [{ ...HSM, XksKeyId: 'k' }, 'ValidationException'],
      [{ ...HSM, CustomKeyStoreId: undefined }, 'ValidationException'],
      [{ ...HSM, CustomKeyStoreId: xks }, 'UnsupportedOperationException'],
      [{ ...HSM, CustomKeyStoreId: away }, 'CustomKeyStoreInvalidStateException'],
      [{ ...HSM, MultiRegion: true }, 'UnsupportedOperationException'],
      [
        { ...HSM, KeySpec: 'HMAC_256', KeyUsage: 'GENERATE_VERIFY_MAC' },
        'UnsupportedOperationException',
      ],
      [{ CustomKeyStoreId: hsm }, 'ValidationException'],
      [{ Origin: 'EXTERNAL', CustomKeyStoreId: hsm }, 'ValidationException'],
      [{ XksKeyId: 'k' }, 'ValidationException'],
    ] as const) {
      const refusal = await refusalOf(() => kms.send(new sdk.CreateKeyCommand(input)))
      expect(refusal, JSON.stringify(input)).toMatchObject({ name, status: 400 })
    }
    expect((await kms.send(new sdk.ListKeysCommand({}))).Keys).toHaveLength(1)
  })

  test('what the store made for a key that is refused is destroyed there', async () => {
    const hsm = await createHsm()
    await connect(hsm)
    const Policy = JSON.stringify({
      Version: '2012-10-17',
      Statement: [
        {
          Effect: 'Allow',
          Principal: { AWS: 'arn:aws:iam::000000000000:user/somebody' },
          Action: 'kms:*',
          Resource: '*',
        },
      ],
    })
    const input = { Origin: 'AWS_CLOUDHSM', CustomKeyStoreId: hsm, Policy } as const
    const refused = await nameOfRefusal(() => kms.send(new sdk.CreateKeyCommand(input)))
    expect(refused).toBe('MalformedPolicyDocumentException')
    expect(elsewhere.destroyed).toHaveLength(1)
  })

  test('is decided on kms:KeyOrigin', async () => {
    const hsm = await createHsm()
    const xks = await createXks()
    await connect(hsm)
    await connect(xks)
    const user = await clientOf(service, 'maker')
    const StringEquals = { 'kms:KeyOrigin': 'AWS_CLOUDHSM' }
    await service.engine.identityPolicies.put({
      principalArn: 'arn:aws:iam::000000000000:user/maker',
      name: 'make',
      document: JSON.stringify({
        Version: '2012-10-17',
        Statement: [
          { Effect: 'Allow', Action: 'kms:CreateKey', Resource: '*', Condition: { StringEquals } },
        ],
      }),
    })
    const create = (input: sdk.CreateKeyCommandInput) => (): Promise<unknown> =>
      user.send(new sdk.CreateKeyCommand(input))
    await create({ Origin: 'AWS_CLOUDHSM', CustomKeyStoreId: hsm })()
    for (const input of [
      {},
      { Origin: 'EXTERNAL_KEY_STORE', CustomKeyStoreId: xks, XksKeyId: 'k' },
    ] as const) {
      expect(await nameOfRefusal(create(input))).toBe('AccessDeniedException')
    }
  })
})

test('whoever may not ask hears nothing of key stores', async () => {
  const CustomKeyStoreId = await createXks()
  const nobody = await clientOf(service, 'nobody')
  for (const command of [
    new sdk.CreateCustomKeyStoreCommand({ CustomKeyStoreName: 'proxy' }),
    new sdk.ConnectCustomKeyStoreCommand({ CustomKeyStoreId }),
    new sdk.ConnectCustomKeyStoreCommand({ CustomKeyStoreId: 'cks-1234567890abcdef0' }),
    new sdk.DisconnectCustomKeyStoreCommand({ CustomKeyStoreId }),
    new sdk.DescribeCustomKeyStoresCommand({}),
    new sdk.UpdateCustomKeyStoreCommand({ CustomKeyStoreId }),
    new sdk.DeleteCustomKeyStoreCommand({ CustomKeyStoreId }),
  ]) {
    const ask = (): Promise<unknown> => nobody.send(command as sdk.ConnectCustomKeyStoreCommand)
    expect(await refusalOf(ask)).toMatchObject({ name: 'AccessDeniedException', status: 400 })
  }
})

test('secrets are in no answer, no log line, no audit record and no file', async () => {
  const id = await createXks()
  const hsm = await createHsm()
  for (const store of [id, hsm]) {
    await connect(store)
    elsewhere.failsWith = 'INTERNAL'
    await disconnect(store)
    await connect(store)
    elsewhere.failsWith = undefined
    await disconnect(store)
  }
  const shown = JSON.stringify(await kms.send(new sdk.DescribeCustomKeyStoresCommand({})))
  expect(service.logged.join('')).toContain('could not be connected')
  for (const secret of [SECRET, PIN]) {
    expect(shown).not.toContain(secret)
    expect(service.logged.join('')).not.toContain(secret)
    for (const spelling of [secret, Buffer.from(secret).toString('base64')]) {
      const found = filesOf(service.dataDirectory).filter((bytes) => bytes.includes(spelling))
      expect(found).toHaveLength(0)
    }
  }
})

describe('keys of a disconnected key store', () => {
  test('are Unavailable, enabled or not, and come back as they were', async () => {
    const id = await createXks()
    await connect(id)
    const on = await createKeyIn(id, 'on')
    const off = await createKeyIn(id, 'off')
    const waiting = await createKeyIn(id, 'waiting')
    await kms.send(new sdk.DisableKeyCommand({ KeyId: off.KeyId }))
    await kms.send(new sdk.ScheduleKeyDeletionCommand({ KeyId: waiting.KeyId }))
    await disconnect(id)
    expect(await stateOf(on.KeyId)).toBe('Unavailable')
    expect(await stateOf(off.KeyId)).toBe('Unavailable')
    expect(await stateOf(waiting.KeyId)).toBe('PendingDeletion')
    const { KeyMetadata } = await kms.send(new sdk.DescribeKeyCommand({ KeyId: on.KeyId }))
    expect(KeyMetadata).toMatchObject({ Enabled: false, CustomKeyStoreId: id })
    await connect(id)
    expect(await stateOf(on.KeyId)).toBe('Enabled')
    expect(await stateOf(off.KeyId)).toBe('Disabled')
    expect(await stateOf(waiting.KeyId)).toBe('PendingDeletion')
  })

  test('are switched on and off without it, which shows when it is back', async () => {
    const id = await createXks()
    await connect(id)
    const { KeyId } = await createKeyIn(id, 'k')
    await disconnect(id)
    await kms.send(new sdk.DisableKeyCommand({ KeyId }))
    expect(await stateOf(KeyId)).toBe('Unavailable')
    await connect(id)
    expect(await stateOf(KeyId)).toBe('Disabled')
    await disconnect(id)
    await kms.send(new sdk.EnableKeyCommand({ KeyId }))
    await connect(id)
    expect(await stateOf(KeyId)).toBe('Enabled')
  })

  test('wait for their deletion and are spared it, disconnected all the while', async () => {
    const id = await createXks()
    await connect(id)
    const { KeyId } = await createKeyIn(id, 'k')
    await disconnect(id)
    await kms.send(new sdk.ScheduleKeyDeletionCommand({ KeyId }))
    expect(await stateOf(KeyId)).toBe('PendingDeletion')
    await kms.send(new sdk.CancelKeyDeletionCommand({ KeyId }))
    expect(await stateOf(KeyId)).toBe('Unavailable')
    await connect(id)
    expect(await stateOf(KeyId)).toBe('Disabled')
  })

  test('seal and open nothing at either door, not even from what is cached', async () => {
    const id = await createXks()
    await connect(id)
    const { Arn: KeyId = '' } = await createKeyIn(id, 'k')
    const local = await service.createKey()
    const plaintexts = [Buffer.from('one'), Buffer.from('two')]
    const sealed = await service.call('encrypt', { key: KeyId, plaintexts })
    const [ciphertext = new Uint8Array(0)] = sealed.ciphertexts
    const { CiphertextBlob } = await kms.send(
      new sdk.EncryptCommand({ KeyId, Plaintext: Buffer.from('x') }),
    )
    expect((await service.call('decrypt', { ciphertexts: [ciphertext] })).errors).toBeUndefined()
    const { sealKeys, openKeys } = service.engine.counters()
    expect(Math.min(sealKeys, openKeys)).toBeGreaterThan(0)
    await disconnect(id)
    expect(service.engine.counters()).toMatchObject({ sealKeys: 0, openKeys: 0 })

    expect((await service.call('encrypt', { key: KeyId, plaintexts })).code).toBe(
      'KMS_KEY_STATE_INVALID',
    )
    expect((await service.call('decrypt', { ciphertexts: [ciphertext] })).errors).toEqual([
      [0, 'KMS_KEY_STATE_INVALID'],
    ])
    for (const ask of [
      () => kms.send(new sdk.EncryptCommand({ KeyId, Plaintext: Buffer.from('x') })),
      () => kms.send(new sdk.DecryptCommand({ CiphertextBlob })),
      () => kms.send(new sdk.ReEncryptCommand({ CiphertextBlob, DestinationKeyId: local })),
      () => kms.send(new sdk.GenerateDataKeyCommand({ KeyId, KeySpec: 'AES_256' })),
    ]) {
      expect(await refusalOf(ask)).toEqual({
        name: 'KMSInvalidStateException',
        message: `${KeyId} is unavailable.`,
        status: 400,
      })
    }
    await connect(id)
    const opened = await service.call('decrypt', { ciphertexts: [ciphertext] })
    expect(Buffer.from(opened.plaintexts[0] ?? []).toString()).toBe('one')
  })

  test('other stores and their keys notice nothing', async () => {
    const xks = await createXks()
    const hsm = await createHsm()
    await connect(xks)
    await connect(hsm)
    const { Arn: KeyId = '' } = await createKeyIn(hsm)
    const plaintexts = [Buffer.from('one')]
    await service.call('encrypt', { key: KeyId, plaintexts })
    const { wraps } = service.engine.counters()
    await disconnect(xks)
    await service.call('encrypt', { key: KeyId, plaintexts })
    expect(service.engine.counters().wraps).toBe(wraps)
  })
})
