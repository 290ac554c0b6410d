/**
 * GenerateRandom through AWS's own client: of the server, and of the token of a CloudHSM key store (SoftHSM2 behind a
 * module whose random bytes are 1, 2, 3 …). Errors as the API reference has them for CustomKeyStoreId.
 */
import * as sdk from '@aws-sdk/client-kms'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'

import { describeWithSoftHsm, withHabits, type SoftToken } from '../../key-stores/softhsm.ts'
import { startService, type Service } from '../../service.ts'
import { clientOf, refusalOf } from './sdk.ts'

describeWithSoftHsm('random bytes', (create) => {
  let token: SoftToken
  let service: Service
  let kms: sdk.KMSClient
  let keyStore: string

  beforeEach(async () => {
    token = create()
    const modules = join(token.directory, 'modules.json')
    const module = { library: withHabits(token, 'counts'), token: { label: token.label } }
    writeFileSync(modules, JSON.stringify({ hsm: module }))
    service = await startService({ settings: { pkcs11Modules: modules } })
    kms = await clientOf(service)
    const created = await kms.send(
      new sdk.CreateCustomKeyStoreCommand({
        CustomKeyStoreName: 'tokens',
        CloudHsmClusterId: 'hsm',
        TrustAnchorCertificate: '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n',
        KeyStorePassword: token.pin,
      }),
    )
    keyStore = created.CustomKeyStoreId as string
  })
  afterEach(async () => {
    kms.destroy()
    await service.close()
    token.remove()
  })

  const random = async (CustomKeyStoreId: string, bytes = 32): Promise<Uint8Array> => {
    const command = new sdk.GenerateRandomCommand({ NumberOfBytes: bytes, CustomKeyStoreId })
    return (await kms.send(command)).Plaintext as Uint8Array
  }
  const connect = async (): Promise<void> => {
    await service.engine.kms.keyStores.connect(keyStore)
    const { connectionState } = await service.engine.kms.keyStores.settled(keyStore)
    expect(connectionState).toBe('CONNECTED')
  }

  test('are the token’s, for as long as its key store is connected', async () => {
    expect(await refusalOf(() => random(keyStore))).toMatchObject({
      name: 'CustomKeyStoreInvalidStateException',
    })
    await connect()
    for (const bytes of [1, 32, 1_024]) {
      const counted = Uint8Array.from({ length: bytes }, (_, i) => i + 1)
      expect(Uint8Array.from(await random(keyStore, bytes))).toEqual(counted)
    }
    await kms.send(new sdk.DisconnectCustomKeyStoreCommand({ CustomKeyStoreId: keyStore }))
    expect(await refusalOf(() => random(keyStore))).toMatchObject({
      name: 'CustomKeyStoreInvalidStateException',
    })
  })

  test('are the server’s own where no key store is named', async () => {
    await connect()
    const { Plaintext = new Uint8Array(0) } = await kms.send(
      new sdk.GenerateRandomCommand({ NumberOfBytes: 32 }),
    )
    expect(Plaintext).toHaveLength(32)
    expect(Uint8Array.from(Plaintext)).not.toEqual(Uint8Array.from({ length: 32 }, (_, i) => i + 1))
  })

  test('come of no key store that is not there, or whose name is given for its id', async () => {
    await connect()
    for (const id of ['cks-1234567890abcdef0', 'tokens']) {
      expect(await refusalOf(() => random(id))).toMatchObject({
        name: 'CustomKeyStoreNotFoundException',
      })
    }
  })

  test('come of no external key store, in whichever state', async () => {
    const { id } = await service.engine.kms.keyStores.create({
      name: 'elsewhere',
      kind: 'transit',
      settings: { url: 'http://127.0.0.1:1' },
      secret: Buffer.from('token'),
    })
    expect(await refusalOf(() => random(id))).toMatchObject({
      name: 'UnsupportedOperationException',
    })
  })
})
