/** The README's page on buckets: its program is checked, and run against a stand-in for S3, beside AWS's own clients. */
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough, Readable, type Writable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import type { ReadableStream } from 'node:stream/web'
import { pathToFileURL } from 'node:url'
import { KmsKeyringNode, type KmsNodeClientSupplier } from '@aws-crypto/client-node'
import {
  CopyObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import {
  decryptWebStream,
  keyfoldKmsClient,
  KmsKeyring,
  type Keyfold,
  type KeyfoldError,
} from '../../dist/index.js'
import { ROOT, run, start } from '../cli/command.ts'
import { startService, type Service } from '../service.ts'
import { sdkDecrypt } from '../streams/sdk.ts'
import { kmsOf } from './sdk.ts'

interface Place {
  readonly Bucket: string
  readonly Key: string
}

/** What the program exports. */
interface Program {
  readonly keyfold: Keyfold
  put(place: Place, plaintext: Readable): Promise<void>
  get(place: Place, target: Writable): Promise<void>
  getRange(place: Place, offset: number, length: number): Promise<Buffer>
}

/** A request as the stand-in saw it. */
interface Asked {
  readonly method: string
  readonly url: string
  readonly range: string | undefined
}

interface StandIn {
  readonly middleware: ((context: { readonly req: Request }, next: () => unknown) => unknown)[]
  run(): Promise<{ readonly port: number }>
  close(): Promise<void>
}

interface Request {
  readonly method: string
  readonly url: string
  readonly headers: Readonly<Record<string, string | undefined>>
}

/** It has no types of its own. */
const S3rver = createRequire(import.meta.url)('@20minutes/s3rver') as new (
  options: object,
) => StandIn

/** S3's least part, which the client sends at a time. */
const PART = 5 * 2 ** 20
const FRAME = 65_536
const Bucket = 'backup'

let directory: string
let service: Service
let standIn: StandIn
let environment: Record<string, string>
let asked: Asked[]
/** Called for every request, before it is served. */
let onAsked: (request: Asked) => void
let program: Program
let s3: S3Client
let arn: string

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'keyfold-s3-'))
  service = await startService()
  arn = (await service.call('keys', {})).arn
  asked = []
  onAsked = () => undefined
  standIn = new S3rver({
    address: '127.0.0.1',
    port: 0,
    silent: true,
    directory: join(directory, 'buckets'),
    vhostBuckets: false,
    configureBuckets: [{ name: Bucket }],
  })
  standIn.middleware.unshift(({ req: { method, url, headers } }, next) => {
    const request = { method, url, range: headers['range'] }
    asked.push(request)
    onAsked(request)
    return next()
  })
  const { port } = await standIn.run()
  environment = {
    KEYFOLD_URL: service.url,
    KEYFOLD_TOKEN: service.token,
    BACKUP_KEY_ARN: arn,
    AWS_ENDPOINT_URL_S3: `http://127.0.0.1:${port}`,
    AWS_REGION: 'us-east-1',
    AWS_ACCESS_KEY_ID: 'S3RVER',
    AWS_SECRET_ACCESS_KEY: 'S3RVER',
  }
  Object.assign(process.env, environment)
  s3 = new S3Client()
  program = await buildProgram()
})
afterAll(async () => {
  s3.destroy()
  await program.keyfold.close()
  await standIn.close()
  await service.close()
  for (const name of Object.keys(environment)) delete process.env[name]
  rmSync(directory, { recursive: true, force: true })
})

/** The README's block in a project of somebody who has installed keyfold and AWS's client. */
async function buildProgram(): Promise<Program> {
  mkdirSync(join(directory, 'node_modules'))
  symlinkSync(ROOT, join(directory, 'node_modules/keyfold'))
  for (const name of ['@types', '@aws-sdk']) {
    symlinkSync(join(ROOT, 'node_modules', name), join(directory, 'node_modules', name))
  }
  writeFileSync(join(directory, 'package.json'), '{ "private": true, "type": "module" }')
  const readme = readFileSync(join(ROOT, 'README.md'), 'utf8')
  const [, behind = ''] = readme.split('<!-- bucket -->\n\n```ts\n')
  const [block = ''] = behind.split('\n```\n')
  writeFileSync(join(directory, 'bucket.ts'), `${block}\n`)
  const tsc = join(ROOT, 'node_modules/typescript/bin/tsc')
  const flags = '--strict --skipLibCheck --target es2022 --module nodenext --types node'.split(' ')
  const checked = await run(process.execPath, [tsc, ...flags, 'bucket.ts'], { cwd: directory })
  expect(checked).toMatchObject({ code: 0, text: '' })
  return (await import(pathToFileURL(join(directory, 'bucket.js')).href)) as Program
}

function isThere(Key: string): Promise<boolean> {
  return s3.send(new HeadObjectCommand({ Bucket, Key })).then(
    () => true,
    (error: unknown) => {
      expect(error).toMatchObject({ name: 'NotFound' })
      return false
    },
  )
}

async function wireOf(Key: string): Promise<Buffer> {
  const { Body } = await s3.send(new GetObjectCommand({ Bucket, Key }))
  return buffer(Body as Readable)
}

async function opened(Key: string): Promise<Buffer> {
  const target = new PassThrough()
  const [plaintext] = await Promise.all([buffer(target), program.get({ Bucket, Key }, target)])
  return plaintext
}

const code = (error: unknown): string => (error as KeyfoldError).code

/** As a source gives them: not in the cipher's pieces. */
function* piecesOf(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += 100_003) yield bytes.subarray(at, at + 100_003)
}

test.each([0, 1, FRAME, FRAME + 1, PART - 1_000, PART + 1, 2 * PART + 12_345])(
  'an object of %i bytes comes back, and is what the AWS Encryption SDK opens',
  async (bytes) => {
    const plaintext = randomBytes(bytes)
    const Key = `objects/of ${bytes} bytes, ä`
    await program.put({ Bucket, Key }, Readable.from(piecesOf(plaintext)))
    expect((await opened(Key)).equals(plaintext)).toBe(true)

    const kms = await kmsOf(service)
    const clientProvider = (() => kms) as unknown as KmsNodeClientSupplier
    const theirs = new KmsKeyringNode({ clientProvider, keyIds: [arn] })
    const found = await sdkDecrypt(theirs, await wireOf(Key))
    expect(found.plaintext.equals(plaintext)).toBe(true)
    expect(found.messageHeader.encryptionContext).toMatchObject({ bucket: Bucket, object: Key })

    const { Body } = await s3.send(new GetObjectCommand({ Bucket, Key }))
    const client = keyfoldKmsClient(program.keyfold)
    const web = decryptWebStream(new KmsKeyring({ client, keyIds: [arn] }))
    const hash = createHash('sha256')
    const source = (Body as NonNullable<typeof Body>).transformToWebStream() as ReadableStream
    for await (const part of source.pipeThrough(web)) hash.update(part as Uint8Array)
    expect(hash.digest('hex')).toBe(createHash('sha256').update(plaintext).digest('hex'))
  },
)

describe('a range', () => {
  const bytes = 40 * FRAME + 5
  const plaintext = randomBytes(bytes)
  const place = { Bucket, Key: 'range' }
  beforeAll(() => program.put(place, Readable.from(plaintext)))

  test.each([
    [0, 1],
    [0, 5_000],
    [FRAME - 1, 2],
    [7 * FRAME + 9, 3 * FRAME],
    [bytes - 1, 1],
    [bytes - 6, 100],
    [bytes, 1],
    [0, 0],
  ])('from %i, %i bytes long, is read without the rest', async (offset, length) => {
    asked = []
    const found = await program.getRange(place, offset, length)
    expect(found.equals(plaintext.subarray(offset, offset + length))).toBe(true)
    const ranges = asked.filter(({ method }) => method === 'GET').map(({ range }) => range)
    expect(ranges.length).toBeGreaterThanOrEqual(2)
    const fetched = ranges.map((range) => {
      const [, first = '', last = ''] = /^bytes=(\d+)-(\d+)$/.exec(range ?? '') ?? []
      return Number(last) - Number(first) + 1
    })
    const total = fetched.reduce((sum, count) => sum + count, 0)
    // The frames, one more where the range begins in the middle of one, the final one and the header.
    expect(total).toBeLessThan(length + 3 * FRAME + 4_096 + 1_000)
  })
})

describe('no object that opens is left by', () => {
  const plaintext = randomBytes(2 * PART + 99)

  /** Gives the first bytes; what comes then is said by the test. */
  async function* beginning(bytes: number, then: () => unknown): AsyncGenerator<Buffer> {
    yield plaintext.subarray(0, bytes)
    await then()
  }

  test.each([0, 1_000, PART + 1_000, 2 * PART + 50])(
    'a source that fails behind %i bytes',
    async (bytes) => {
      const Key = `failed ${bytes}`
      const source = Readable.from(
        beginning(bytes, () => {
          throw new Error('the camera is gone')
        }),
      )
      const uploading = program.put({ Bucket, Key }, source)
      await expect(uploading).rejects.toThrow('the camera is gone')
      expect(await isThere(Key)).toBe(false)
      await expect(opened(Key)).rejects.toThrow()
    },
  )

  test('a client that is killed in the middle, and the object that was there stays', async () => {
    const old = randomBytes(FRAME)
    const place = { Bucket, Key: 'killed' }
    await program.put(place, Readable.from(old))
    writeFileSync(
      join(directory, 'endless.js'),
      `import { put } from './bucket.js'
      async function* endless() { for (;;) yield Buffer.alloc(100_000) }
      import { Readable } from 'node:stream'
      await put({ Bucket: 'backup', Key: 'killed' }, Readable.from(endless()))`,
    )
    const third = new Promise<void>((resolve) => {
      onAsked = ({ method, url }) => {
        if (method === 'PUT' && url.includes('partNumber=3')) resolve()
      }
    })
    const { child, ended } = start(process.execPath, ['endless.js'], {
      cwd: directory,
      env: environment,
    })
    await third
    child.kill('SIGKILL')
    expect((await ended).code).toBeNull()
    expect((await opened('killed')).equals(old)).toBe(true)
  })

  test('a store that keeps what it has when the client goes away', async () => {
    await program.put({ Bucket, Key: 'whole' }, Readable.from(plaintext))
    const wire = await wireOf('whole')
    const cuts = [0, 1, 300, FRAME, PART, 2 * PART, wire.length - 1]
    for (const at of cuts) {
      const place = { Bucket, Key: 'cut' }
      await s3.send(new PutObjectCommand({ ...place, Body: wire.subarray(0, at) }))
      expect(code(await opened('cut').catch((error: unknown) => error))).toMatch(
        /^(STREAM_MALFORMED|DECRYPT_FAILED)$/,
      )
      expect(code(await program.getRange(place, 0, 10).catch((error: unknown) => error))).toMatch(
        /^(STREAM_MALFORMED|DECRYPT_FAILED)$/,
      )
    }
  })
})

test('an object that somebody copied over another one opens under its own name only', async () => {
  await program.put({ Bucket, Key: 'mine' }, Readable.from(Buffer.from('mine')))
  const CopySource = `${Bucket}/mine`
  await s3.send(new CopyObjectCommand({ Bucket, Key: 'yours', CopySource }))
  expect((await wireOf('yours')).equals(await wireOf('mine'))).toBe(true)
  expect(code(await opened('yours').catch((error: unknown) => error))).toBe('DECRYPT_FAILED')
  expect((await opened('mine')).toString()).toBe('mine')
})

test('an upload that the store refuses ends the source', async () => {
  function* endless(): Generator<Buffer> {
    for (;;) yield randomBytes(100_000)
  }
  const source = Readable.from(endless())
  const closed = once(source, 'close').catch(() => undefined)
  const uploading = program.put({ Bucket: 'no-such-bucket', Key: 'x' }, source)
  await expect(uploading).rejects.toMatchObject({ name: 'NoSuchBucket' })
  await closed
  expect(source.destroyed).toBe(true)
})
