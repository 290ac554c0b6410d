/** Files under KMS keys of a running server, made by the command line for the AWS Encryption SDK and the other way round. */
import { randomBytes } from 'node:crypto'
import { createReadStream, createWriteStream, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { buildClient, CommitmentPolicy, type KmsKeyringNode } from '@aws-crypto/client-node'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { CONTEXTS, sdkDecrypt, sdkEncrypt } from '../streams/sdk.ts'
import { inDirectory, jsonOf, keyfold, serve, type Ended, type Server } from './command.ts'
import { kmsKeyringOf } from './kms-keyring.ts'

const FRAME = 4_096
const SIZES = [0, 1, FRAME - 1, FRAME, FRAME + 1, 600 * FRAME, 600 * FRAME + 77]

let server: Server
let arn: string
let otherArn: string
/** The SDK's, with both keys: the first makes the data key. */
let theirs: KmsKeyringNode

beforeAll(async () => {
  server = await serve(['--dev', '--log-level', 'error'])
  const create = async (): Promise<string> =>
    jsonOf<{ arn: string }>(await keyfold(['keys', 'create', '--json'], server)).arn
  arn = await create()
  otherArn = await create()
  theirs = await kmsKeyringOf(server, arn, otherArn)
})
afterAll(() => server.stop())

async function call(cwd: string, ...args: readonly string[]): Promise<Ended> {
  const ended = await keyfold(args, { ...server, cwd })
  expect(ended.stderr).toBe('')
  expect(ended.code).toBe(0)
  return ended
}

const contextFlags = (context: Readonly<Record<string, string>>): readonly string[] =>
  Object.entries(context).flatMap(([name, value]) => ['-c', `${name}=${value}`])

describe('files of each size around a frame, and of many frames', () => {
  test('of the command line are opened by the SDK', () =>
    inDirectory(async (cwd) => {
      const plaintexts = new Map(SIZES.map((size) => [String(size), randomBytes(size)]))
      for (const [name, plaintext] of plaintexts) writeFileSync(join(cwd, name), plaintext)
      const flags = ['-q', '--frame-bytes', String(FRAME), '-c', 'größe=\u{1f4cf}']
      await call(cwd, 'encrypt', '-k', arn, ...flags, ...plaintexts.keys())
      for (const [name, plaintext] of plaintexts) {
        const found = await sdkDecrypt(theirs, readFileSync(join(cwd, `${name}.kfe`)))
        expect(found.plaintext.equals(plaintext), name).toBe(true)
        expect(found.messageHeader).toMatchObject({
          suiteId: 0x0478,
          frameLength: FRAME,
          encryptionContext: { größe: '\u{1f4cf}' },
        })
      }
    }))

  // 0578 is signed, and what the SDK writes where nobody says otherwise.
  test.each([0x0478, 0x0578])(
    'of the SDK, in suite %i, are opened by the command line',
    (suiteId) =>
      inDirectory(async (cwd) => {
        const plaintexts = new Map(SIZES.map((size) => [String(size), randomBytes(size)]))
        for (const [name, plaintext] of plaintexts) {
          const message = await sdkEncrypt(theirs, plaintext, {
            suiteId,
            frameLength: FRAME,
            encryptionContext: { größe: '\u{1f4cf}' },
          })
          writeFileSync(join(cwd, `${name}.kfe`), message)
        }
        const files = [...plaintexts.keys()].map((name) => `${name}.kfe`)
        // Either of the two keys opens.
        for (const key of [arn, otherArn]) {
          const flags = ['-q', '--force', '-c', 'größe=\u{1f4cf}']
          await call(cwd, 'decrypt', '-k', key, ...flags, ...files)
          for (const [name, plaintext] of plaintexts) {
            expect(readFileSync(join(cwd, name)).equals(plaintext), name).toBe(true)
          }
        }
      }),
  )

  test('by streams of either side, longer than any buffer between them', () =>
    inDirectory(async (cwd) => {
      const { encryptStream, decryptStream } = buildClient(
        CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT,
      )
      const plaintext = randomBytes(20_000_001)
      writeFileSync(join(cwd, 'a'), plaintext)
      await call(cwd, 'encrypt', '-k', otherArn, '-k', arn, '-q', 'a')
      await pipeline(
        createReadStream(join(cwd, 'a.kfe')),
        decryptStream(theirs),
        createWriteStream(join(cwd, 'b')),
      )
      expect(readFileSync(join(cwd, 'b')).equals(plaintext)).toBe(true)
      await pipeline(
        createReadStream(join(cwd, 'a')),
        encryptStream(theirs),
        createWriteStream(join(cwd, 'c.kfe')),
      )
      await call(cwd, 'decrypt', '-k', otherArn, '-q', 'c.kfe')
      expect(readFileSync(join(cwd, 'c')).equals(plaintext)).toBe(true)
    }))
})

describe.each(Object.entries(CONTEXTS))('a context with %s', (_name, context) => {
  const plaintext = randomBytes(10_000)

  test('is the same on both sides, both ways', () =>
    inDirectory(async (cwd) => {
      writeFileSync(join(cwd, 'ours'), plaintext)
      await call(cwd, 'encrypt', '-k', arn, ...contextFlags(context), '-q', 'ours')
      const found = await sdkDecrypt(theirs, readFileSync(join(cwd, 'ours.kfe')))
      expect(found.plaintext.equals(plaintext)).toBe(true)
      expect(Object.entries(found.messageHeader.encryptionContext).sort()).toEqual(
        Object.entries(context).sort(),
      )
      const message = await sdkEncrypt(theirs, plaintext, { encryptionContext: context })
      writeFileSync(join(cwd, 'theirs.kfe'), message)
      await call(cwd, 'decrypt', '-k', arn, ...contextFlags(context), '-q', 'theirs.kfe')
      expect(readFileSync(join(cwd, 'theirs')).equals(plaintext)).toBe(true)
    }))
})
