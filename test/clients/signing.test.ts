/** Signatures of the AWS SDK for JavaScript over a real connection: clocks that are off, sessions, and revocation. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { ROOT, run, type Environment } from '../cli/command.ts'
import { startService, type Service } from '../service.ts'
import { clientOf, refusalName, rootOf } from './sdk.ts'

const MINUTE_MS = 60_000

let service: Service
let key: string

beforeAll(async () => {
  service = await startService()
  key = await service.createKey()
})
afterAll(() => service.close())

describe('a client whose clock is wrong', () => {
  /** A machine of its own time, as far as JavaScript sees: its Date is off before the SDK is loaded. */
  const PROGRAM = `
    const offsetMs = Number(process.env.OFFSET_MS)
    const RealDate = Date
    globalThis.Date = class Date extends RealDate {
      constructor(...args) {
        if (args.length === 0) super(RealDate.now() + offsetMs)
        else super(...args)
      }
      static now() {
        return RealDate.now() + offsetMs
      }
    }
    const { KMS } = await import('@aws-sdk/client-kms')
    const kms = new KMS({ endpoint: process.env.URL, region: process.env.REGION })
    const statuses = []
    kms.middlewareStack.add(
      (next) => async (args) => {
        const result = await next(args)
        statuses.push(result.response.statusCode)
        return result
      },
      { step: 'deserialize', priority: 'low' },
    )
    const told = []
    for (let i = 0; i < 2; i++) {
      await kms.describeKey({ KeyId: process.env.KEY }).then(
        ({ KeyMetadata }) => told.push(KeyMetadata.KeyId),
        ({ name, message }) => told.push(name + ': ' + message),
      )
    }
    console.log(JSON.stringify({ statuses, told }))`

  async function ask(
    minutes: number,
    env: Environment = {},
  ): Promise<{ readonly statuses: readonly number[]; readonly told: readonly string[] }> {
    const { record, secretAccessKey } = await service.engine.accessKeys.create({
      principalArn: rootOf(service),
    })
    const ended = await run(process.execPath, ['--input-type=module', '--eval', PROGRAM], {
      cwd: ROOT,
      env: {
        OFFSET_MS: String(minutes * MINUTE_MS),
        URL: service.url,
        REGION: service.engine.config.region,
        KEY: key,
        AWS_ACCESS_KEY_ID: record.accessKeyId,
        AWS_SECRET_ACCESS_KEY: secretAccessKey,
        ...env,
      },
    })
    if (ended.code !== 0) throw new Error(ended.stderr)
    return JSON.parse(ended.text) as Awaited<ReturnType<typeof ask>>
  }

  test.each([10, -10, 60 * 24, -60 * 24])(
    'by %i minutes is put right by the Date of one refusal',
    async (minutes) => {
      expect(await ask(minutes)).toEqual({ statuses: [400, 200, 200], told: [key, key] })
    },
  )

  test.each([4, -4])('by %i minutes is served as it is', async (minutes) => {
    expect(await ask(minutes)).toEqual({ statuses: [200, 200], told: [key, key] })
  })

  test('and that does not try again is told why', async () => {
    const { statuses, told } = await ask(-10, { AWS_MAX_ATTEMPTS: '1' })
    expect(statuses).toEqual([400, 200])
    expect(told[0]).toMatch(
      /^InvalidSignatureException: Signature expired: \d{8}T\d{6}Z is now earlier than /,
    )
  })
})

describe('temporary credentials', () => {
  const create = async () => {
    const { record, ...rest } = await service.engine.accessKeys.create({
      principalArn: rootOf(service),
      temporary: true,
      expiresAtMs: Date.now() + 60 * MINUTE_MS,
    })
    return {
      accessKeyId: record.accessKeyId,
      secretAccessKey: rest.secretAccessKey,
      sessionToken: rest.sessionToken as string,
    }
  }

  test('are served with their session token', async () => {
    const kms = clientOf(service, await create())
    expect((await kms.describeKey({ KeyId: key })).KeyMetadata?.KeyId).toBe(key)
  })

  test('are not without it, nor with that of others', async () => {
    const { sessionToken, ...bare } = await create()
    const others = await create()
    for (const credentials of [
      bare,
      { ...bare, sessionToken: others.sessionToken },
      { ...bare, sessionToken: `${sessionToken}A` },
      { ...bare, sessionToken: sessionToken.slice(0, -1) },
    ]) {
      const kms = clientOf(service, credentials)
      expect(await refusalName(kms.describeKey({ KeyId: key }))).toBe('UnrecognizedClientException')
    }
    // Long-lived ones have none.
    const { record, secretAccessKey } = await service.engine.accessKeys.create({
      principalArn: rootOf(service),
    })
    const kms = clientOf(service, {
      accessKeyId: record.accessKeyId,
      secretAccessKey,
      sessionToken,
    })
    expect(await refusalName(kms.describeKey({ KeyId: key }))).toBe('UnrecognizedClientException')
  })
})

describe('an access key', () => {
  test('does not serve with another secret, nor a secret with another id', async () => {
    const [one, two] = await Promise.all(
      [0, 1].map(() => service.engine.accessKeys.create({ principalArn: rootOf(service) })),
    )
    const [id, other] = [one?.record.accessKeyId as string, two?.record.accessKeyId as string]
    const secretAccessKey = one?.secretAccessKey as string
    const asked = (accessKeyId: string, secret: string): Promise<string> =>
      refusalName(
        clientOf(service, { accessKeyId, secretAccessKey: secret }).describeKey({ KeyId: key }),
      )
    expect(await asked(id, `${secretAccessKey.slice(0, -1)}!`)).toBe('InvalidSignatureException')
    expect(await asked(other, secretAccessKey)).toBe('InvalidSignatureException')
    expect(await asked('AKIAAAAAAAAAAAAAAAAA', secretAccessKey)).toBe('UnrecognizedClientException')
    expect(await asked(id, secretAccessKey)).toMatch(/^an answer/)
  })

  test('that is revoked is refused by the next request, on the same connection and among many', async () => {
    const { record, secretAccessKey } = await service.engine.accessKeys.create({
      principalArn: rootOf(service),
    })
    const kms = clientOf(service, { accessKeyId: record.accessKeyId, secretAccessKey })
    const ask = (): Promise<string> =>
      refusalName(kms.encrypt({ KeyId: key, Plaintext: Buffer.from('x') }))
    expect(await ask()).toMatch(/^an answer/)
    const revoked = await fetch(`${service.url}/v1/access-keys/${record.accessKeyId}`, {
      method: 'DELETE',
      headers: { authorization: `Bearer ${service.token}` },
    })
    expect(revoked.status).toBe(200)
    const answers = await Promise.all(Array.from({ length: 20 }, ask))
    expect(new Set(answers)).toEqual(new Set(['UnrecognizedClientException']))
  })
})

test('every answer has a Date, which is what clients put their clocks right by', async () => {
  const response = await fetch(service.url, { method: 'POST' })
  const secondsOff = Math.abs(Date.parse(response.headers.get('date') ?? '') - Date.now()) / 1_000
  expect(response.status).toBe(400)
  expect(secondsOff).toBeLessThan(60)
})
