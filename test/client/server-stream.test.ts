/** Streams through the server, as the client library has them; at the other end is the AWS Encryption SDK, or a bare socket. */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { PassThrough, Readable, type Duplex } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { KmsKeyringNode, type KmsNodeClientSupplier } from '@aws-crypto/client-node'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { Keyfold, KeyfoldError } from '../../dist/index.js'
import { kmsOf } from '../clients/sdk.ts'
import { startService, type Service } from '../service.ts'
import { eventually } from '../server/caller.ts'
import { CONTEXTS, sdkDecrypt, sdkEncrypt } from '../streams/sdk.ts'

const FRAME = 4_096

let service: Service
let keyfold: Keyfold
let arn: string
let theirs: KmsKeyringNode

beforeAll(async () => {
  service = await startService()
  arn = (await service.call('keys', {})).arn
  keyfold = new Keyfold({ url: service.url, token: service.token, connectionsMax: 1 })
  const kms = await kmsOf(service)
  // The SDK's answers may lack what the keyring's own types say is there.
  const clientProvider = (() => kms) as unknown as KmsNodeClientSupplier
  theirs = new KmsKeyringNode({ clientProvider, generatorKeyId: arn })
})
afterAll(async () => {
  await keyfold.close()
  await service.close()
})

async function through(bytes: Uint8Array, ...streams: Duplex[]): Promise<Buffer> {
  const target = new PassThrough()
  const came = buffer(target)
  came.catch(() => undefined)
  await pipeline([Readable.from([bytes], { objectMode: false }), ...streams, target])
  return came
}

async function failure(asked: Promise<unknown>): Promise<KeyfoldError> {
  const error: unknown = await asked.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(KeyfoldError)
  return error as KeyfoldError
}

test.each([0, 1, FRAME - 1, FRAME, FRAME + 1, 3_000_001])(
  '%i bytes go out and in, and are what the AWS Encryption SDK reads and writes',
  async (bytes) => {
    const plaintext = randomBytes(bytes)
    const message = await through(plaintext, keyfold.encryptStream(arn, { frameBytes: FRAME }))
    const found = await sdkDecrypt(theirs, message)
    expect(found.plaintext.equals(plaintext)).toBe(true)
    expect(found.messageHeader.frameLength).toBe(FRAME)
    const back = await through(await sdkEncrypt(theirs, plaintext), keyfold.decryptStream())
    expect(back.equals(plaintext)).toBe(true)
  },
)

test.each(Object.entries(CONTEXTS))(
  'a context with %s arrives as it is',
  async (_name, context) => {
    const plaintext = randomBytes(99)
    const message = await through(plaintext, keyfold.encryptStream(arn, { context }))
    const { messageHeader } = await sdkDecrypt(theirs, message)
    expect(Object.entries(messageHeader.encryptionContext).sort()).toEqual(
      Object.entries(context).sort(),
    )
    const options = { context, key: arn }
    expect((await through(message, keyfold.decryptStream(options))).equals(plaintext)).toBe(true)
  },
)

test('two streams that wait for one another go on, whatever connections there may be for batches', async () => {
  const piece = randomBytes(100_000)
  const pieces = Array.from({ length: 300 }, () => piece)
  const both = [keyfold.encryptStream(arn), keyfold.decryptStream()]
  const target = new PassThrough()
  const [came] = await Promise.all([
    buffer(target),
    pipeline([Readable.from(pieces), ...both, target]),
  ])
  expect(came.equals(Buffer.concat(pieces))).toBe(true)
})

describe('a stream that fails', () => {
  test('is destroyed with the code of the server where it cannot begin', async () => {
    const absent = arn.replace(/[0-9a-f]{12}$/, '000000000000')
    const sealing = await failure(through(randomBytes(10), keyfold.encryptStream(absent)))
    expect(sealing.code).toBe('KMS_KEY_NOT_FOUND')
    expect(sealing.requestId).toMatch(/./)
    // A long body that is not read any more does not hide what was answered.
    const long = randomBytes(30_000_000)
    expect((await failure(through(long, keyfold.encryptStream(absent)))).code).toBe(
      'KMS_KEY_NOT_FOUND',
    )
    expect((await failure(through(randomBytes(9), keyfold.decryptStream()))).code).toBe(
      'STREAM_MALFORMED',
    )
    const message = await sdkEncrypt(theirs, randomBytes(9), { encryptionContext: { a: 'b' } })
    const otherContext = keyfold.decryptStream({ context: { a: 'c' } })
    expect((await failure(through(message, otherContext))).code).toBe('DECRYPT_FAILED')
    const nobody = new Keyfold({ url: service.url, token: 'kf_nobody' })
    expect((await failure(through(message, nobody.decryptStream()))).code).toBe('UNAUTHENTICATED')
    await nobody.close()
  })

  test('in the middle ends with an error, and what came before is a beginning', async () => {
    const plaintext = randomBytes(2_000_000)
    const message = await sdkEncrypt(theirs, plaintext, { frameLength: FRAME })
    message[1_500_000] = (message[1_500_000] as number) ^ 1
    const stream = keyfold.decryptStream()
    const came: Buffer[] = []
    stream.on('data', (part: Buffer) => came.push(part))
    const failing = failure(once(stream, 'end'))
    stream.end(message)
    expect((await failing).code).toBe('CONNECTION_FAILED')
    const beginning = Buffer.concat(came)
    expect(beginning.length).toBeLessThan(1_500_000)
    expect(beginning.equals(plaintext.subarray(0, beginning.length))).toBe(true)
  })

  test('where the connection is cut behind the whole plaintext has no end either', async () => {
    const server = createServer((socket: Socket) => {
      socket.on('error', () => undefined)
      socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n')
      socket.once('data', () => setImmediate(() => socket.destroy()))
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const cut = new Keyfold({ url: `http://127.0.0.1:${port}`, token: 'kf_any' })
    const error = await failure(through(randomBytes(9), cut.decryptStream()))
    expect(error.code).toBe('CONNECTION_FAILED')
    await cut.close()
    server.close()
  })

  test('because its caller gave up frees what the server held for it', async () => {
    const abort = new AbortController()
    const stream = keyfold.encryptStream(arn, { signal: abort.signal })
    stream.write(randomBytes(100_000))
    await once(stream, 'readable')
    expect(service.engine.slots.bytesInUse).toBeGreaterThan(0)
    const failing = failure(once(stream, 'end'))
    abort.abort()
    expect((await failing).code).toBe('ABORTED')
    await eventually(() => service.engine.slots.bytesInUse === 0)
    expect(() => keyfold.encryptStream(arn, { signal: abort.signal })).toThrow(
      'gave the request up',
    )
  })

  test('before it begins: text is no plaintext, and half a character no context', async () => {
    const stream = keyfold.encryptStream(arn)
    const failing = once(stream, 'close')
    stream.write('text')
    await expect(failing).rejects.toThrow(TypeError)
    expect(() => keyfold.encryptStream(arn, { context: { a: '\ud800' } })).toThrow('surrogate')
  })
})

test('close() waits for a stream that is under way', async () => {
  const client = new Keyfold({ url: service.url, token: service.token })
  const stream = client.encryptStream(arn)
  const message = buffer(stream)
  stream.write(Buffer.from('first, '))
  const closed = client.close()
  stream.end(Buffer.from('second'))
  expect((await sdkDecrypt(theirs, await message)).plaintext.toString()).toBe('first, second')
  await closed
})
