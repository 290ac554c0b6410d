/**
 * The AWS Encryption SDK for Python, another implementation of the format of our files, against the command line: what
 * the one seals the other opens, with a KMS key that Python reaches through the AWS protocol and we through ours.
 */
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { environment, keyfold, ROOT, run } from '../cli/command.ts'
import { startService, type Service } from '../service.ts'
import { rootOf } from './sdk.ts'

const SCRIPT = join(ROOT, 'test/clients/encryption_sdk.py')
const PACKAGE = 'pip install aws-encryption-sdk==3.3.1 boto3==1.44.8'

const CONTEXT = { table: 'Aufträge', ключ: '\u{1f511}', leer: '' }
const FRAME = 65_536
const SIZES = [0, 1, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME]
const SUITES = [
  'AES_256_GCM_HKDF_SHA512_COMMIT_KEY',
  // Signed, and its default.
  'AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384',
]

const words = ['-c', 'import aws_encryption_sdk, botocore']
const isThere = spawnSync('python3', words, { env: environment() }).status === 0
const title = 'the AWS Encryption SDK for Python'

describe.skipIf(!isThere && process.env['CI'] === undefined)(
  isThere ? title : `${title} (not there: ${PACKAGE})`,
  () => {
    let service: Service
    let arn: string
    let credentials: Readonly<Record<string, string>>
    beforeAll(async () => {
      expect(isThere, `CI needs it: ${PACKAGE}`).toBe(true)
      service = await startService()
      arn = (await service.call('keys', {})).arn
      const { record, secretAccessKey } = await service.engine.accessKeys.create({
        principalArn: rootOf(service),
      })
      credentials = {
        AWS_ACCESS_KEY_ID: record.accessKeyId,
        AWS_SECRET_ACCESS_KEY: secretAccessKey,
        AWS_DEFAULT_REGION: service.engine.config.region,
        AWS_ENDPOINT_URL_KMS: service.url,
      }
    })
    afterAll(() => service.close())

    async function python(args: readonly string[], input: Uint8Array): Promise<Buffer> {
      const ended = await run('python3', [SCRIPT, ...args], { env: credentials, input })
      expect(ended.code, ended.stderr).toBe(0)
      return ended.stdout
    }

    async function ours(args: readonly string[], input: Uint8Array): Promise<Buffer> {
      const env = { KEYFOLD_URL: service.url, KEYFOLD_TOKEN: service.token }
      const ended = await keyfold([...args, '-k', arn, '-i', '-'], { env, input })
      expect(ended.code, ended.stderr).toBe(0)
      return ended.stdout
    }

    test.each(SIZES)('opens what keyfold encrypts: %i bytes', async (size) => {
      const plaintext = randomBytes(size)
      const context = Object.entries(CONTEXT).flatMap(([name, value]) => ['-c', `${name}=${value}`])
      const opened = await python(['open', arn], await ours(['encrypt', ...context], plaintext))
      const end = opened.indexOf('\n')
      expect(JSON.parse(opened.toString('utf8', 0, end))).toEqual(CONTEXT)
      expect(opened.subarray(end + 1).equals(plaintext)).toBe(true)
    })

    test.each(SUITES.flatMap((suite) => SIZES.map((size) => [suite, size] as const)))(
      'seals with %s what keyfold decrypts: %i bytes',
      async (suite, size) => {
        const plaintext = randomBytes(size)
        const sealed = await python(['seal', arn, suite, JSON.stringify(CONTEXT)], plaintext)
        expect((await ours(['decrypt'], sealed)).equals(plaintext)).toBe(true)
      },
    )
  },
)
