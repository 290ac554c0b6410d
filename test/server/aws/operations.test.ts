/** Every operation of AWS KMS is answered, or is refused for a reason that its caller is told. */
import * as sdk from '@aws-sdk/client-kms'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { OPERATIONS } from '../../../dist/server/aws/operations.js'
import { startService, type Service } from '../../service.ts'
import { clientOf, refusalOf } from './sdk.ts'

const commands = Object.keys(sdk)
  .filter((name) => name.endsWith('Command') && name !== '$Command')
  .map((name) => name.slice(0, -'Command'.length))

test("AWS's client knows no operation that is not here, and the other way round", () => {
  expect(commands.length).toBeGreaterThan(50)
  expect(commands.filter((name) => !OPERATIONS.has(name))).toEqual([])
  expect([...OPERATIONS.keys()].filter((name) => !commands.includes(name))).toEqual([])
})

describe('an operation that is not supported', () => {
  let service: Service
  beforeAll(async () => {
    service = await startService()
  })
  afterAll(() => service.close())

  test('says so to whoever may ask, and to others what they may not do', async () => {
    const root = await clientOf(service)
    const nobody = await clientOf(service, 'nobody')
    const { KeyMetadata } = await root.send(new sdk.CreateKeyCommand({}))
    const KeyId = KeyMetadata?.Arn
    const EncapsulationAlgorithm = 'ML_KEM'
    const asked: readonly ((client: sdk.KMSClient) => Promise<unknown>)[] = [
      (client) => client.send(new sdk.EncapsulateCommand({ KeyId, EncapsulationAlgorithm })),
      (client) =>
        client.send(
          new sdk.DecapsulateCommand({
            KeyId,
            EncapsulationAlgorithm,
            SharedSecretCiphertextBlob: new Uint8Array(768),
          }),
        ),
    ]
    for (const ask of asked) {
      const refusal = { name: 'UnsupportedOperationException', status: 400 }
      expect(await refusalOf(() => ask(root))).toMatchObject(refusal)
      const denial = { name: 'AccessDeniedException', status: 400 }
      expect(await refusalOf(() => ask(nobody))).toMatchObject(denial)
    }
  })
})
