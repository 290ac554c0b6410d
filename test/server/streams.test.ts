/**
 * The streaming routes, as clients see them that have nothing of ours: fetch, node:http, curl and a bare socket, with the
 * AWS Encryption SDK at the other end.
 */
import { spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { type ClientRequest, type IncomingMessage, request } from 'node:http'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { Worker } from 'node:worker_threads'
import { KmsKeyringNode, type KmsNodeClientSupplier } from '@aws-crypto/client-node'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { SERVED_STREAM_BYTES, SERVED_STREAMS_MAX } from '../../dist/limits.js'
import { fillDisk, mountDisk } from '../audit/disk.ts'
import { readEvents } from '../audit/log.ts'
import { kmsOf } from '../clients/sdk.ts'
import { startService, type Answer, type Service } from '../service.ts'
import { sdkDecrypt, sdkEncrypt } from '../streams/sdk.ts'
import { bearer, eventually, RawConnection, send } from './caller.ts'
import { metric } from './metrics.ts'

const FRAME = 4_096
const MIB = 2 ** 20
const CONTEXT = { table: 'Aufträge', ключ: '\u{1f511} & = +', '%': '' }

let service: Service
let key: string
let keyArn: string
let sdkKeyring: KmsKeyringNode

beforeAll(async () => {
  service = await startService()
  ;({ keyId: key, arn: keyArn } = await service.call('keys', {}))
  sdkKeyring = await keyringOf(service, keyArn)
})
afterAll(() => service.close())

async function keyringOf(of: Service, arn: string): Promise<KmsKeyringNode> {
  const kms = await kmsOf(of)
  // The SDK's answers may lack what the keyring's own types say is there.
  const clientProvider = (() => kms) as unknown as KmsNodeClientSupplier
  return new KmsKeyringNode({ clientProvider, generatorKeyId: arn })
}

type Parameters = Readonly<Record<string, string>>

function pathOf(
  op: 'encrypt' | 'decrypt',
  parameters: Parameters,
  context: Parameters = {},
): string {
  const query = new URLSearchParams(parameters)
  for (const [name, value] of Object.entries(context)) query.append(`context.${name}`, value)
  return `/v1/streams/${op}?${query}`
}

interface Got {
  readonly status: number
  readonly bytes: Buffer
}

/** By fetch, which knows how long its body is. */
async function stream(
  path: string,
  body: Uint8Array,
  { of = service, method = 'PUT' }: { readonly of?: Service; readonly method?: string } = {},
): Promise<Got> {
  const response = await fetch(of.url + path, { method, body, headers: bearer(of) })
  return { status: response.status, bytes: Buffer.from(await response.arrayBuffer()) }
}

async function seal(plaintext: Uint8Array, parameters: Parameters = {}): Promise<Buffer> {
  const path = pathOf('encrypt', { key, frameBytes: String(FRAME), ...parameters })
  const { status, bytes } = await stream(path, plaintext)
  expect(status).toBe(200)
  return bytes
}

/** A request whose body the test writes, chunked. */
interface Opened {
  readonly client: ClientRequest
  readonly answer: Promise<IncomingMessage>
}

function open(path: string, of: Service = service): Opened {
  const client = request(of.url + path, { method: 'PUT', headers: { ...bearer(of) }, agent: false })
  client.flushHeaders()
  const answer = once(client, 'response').then(([response]) => response as IncomingMessage)
  answer.catch(() => undefined)
  return { client, answer }
}

/** What came before the connection ended, and whether the answer had its end. */
async function received(answer: IncomingMessage): Promise<{ bytes: Buffer; whole: boolean }> {
  const parts: Buffer[] = []
  answer.on('data', (part: Buffer) => parts.push(part))
  answer.on('error', () => undefined)
  await new Promise((resolve) => answer.once('close', resolve))
  return { bytes: Buffer.concat(parts), whole: answer.complete }
}

async function* zeros(count: number): AsyncGenerator<Buffer> {
  const piece = Buffer.alloc(100_000)
  for (let left = count; left > 0; left -= piece.length) yield piece.subarray(0, left)
}

describe.each(['auto', 'node'])('with the cipher %s', (crypto) => {
  let of: Service
  let arn: string
  let keyring: KmsKeyringNode
  beforeAll(async () => {
    of = await startService({ settings: { crypto } })
    ;({ arn } = await of.call('keys', {}))
    keyring = await keyringOf(of, arn)
  })
  afterAll(() => of.close())

  test.each([0, 1, FRAME - 1, FRAME, FRAME + 1, 100 * FRAME])(
    '%i bytes that went through the route are opened by the SDK, and the other way round',
    async (count) => {
      const plaintext = randomBytes(count)
      const path = pathOf('encrypt', { key: arn, frameBytes: String(FRAME) }, CONTEXT)
      const sealed = await stream(path, plaintext, { of })
      expect(sealed.status).toBe(200)
      const opened = await sdkDecrypt(keyring, sealed.bytes)
      expect(opened.plaintext.equals(plaintext)).toBe(true)
      expect(opened.messageHeader.encryptionContext).toEqual(CONTEXT)

      const theirs = await sdkEncrypt(keyring, plaintext, {
        frameLength: FRAME,
        encryptionContext: CONTEXT,
      })
      const answer = await stream(pathOf('decrypt', {}, CONTEXT), theirs, { of, method: 'POST' })
      expect(answer.status).toBe(200)
      expect(answer.bytes.equals(plaintext)).toBe(true)
    },
  )
})

test('64 MiB go through both routes at once, chunked, and hold little of the server', async () => {
  const bytes = 64 * MIB
  const there = open(pathOf('encrypt', { key, frameBytes: String(65_536) }))
  const back = open(pathOf('decrypt', { key: keyArn }))
  let most = 0
  Readable.from(zeros(bytes), { objectMode: false }).pipe(there.client)
  const sealed = await there.answer
  sealed.on('data', () => (most = Math.max(most, service.engine.slots.bytesInUse)))
  sealed.pipe(back.client)
  const hash = createHash('sha256')
  const opened = await back.answer
  let count = 0
  for await (const part of opened as AsyncIterable<Buffer>) {
    hash.update(part)
    count += part.length
  }
  expect(count).toBe(bytes)
  expect(hash.digest('hex')).toBe(createHash('sha256').update(Buffer.alloc(bytes)).digest('hex'))
  expect(most).toBeLessThan(bytes)
  await eventually(() => service.engine.slots.bytesInUse === 0)
})

test('curl sends a file with PUT and gets one back', async () => {
  const curl = async (path: string, body: Buffer): Promise<Buffer> => {
    const authorization = `Authorization: Bearer ${service.token}`
    const child = spawn('curl', ['-sfT', '-', '-H', authorization, service.url + path])
    child.stdin.end(body)
    const parts: Buffer[] = []
    child.stdout.on('data', (part: Buffer) => parts.push(part))
    expect((await once(child, 'close'))[0]).toBe(0)
    return Buffer.concat(parts)
  }
  const plaintext = randomBytes(3 * MIB)
  const sealed = await curl(pathOf('encrypt', { key }, CONTEXT), plaintext)
  expect((await sdkDecrypt(sdkKeyring, sealed)).plaintext.equals(plaintext)).toBe(true)
  expect((await curl(pathOf('decrypt', {}, CONTEXT), sealed)).equals(plaintext)).toBe(true)
})

describe('a stream that fails has no end', () => {
  /** Longer than what is between the ends. */
  const plaintext = randomBytes(200 * FRAME)

  test.each([0.2, 0.5, 0.9])('a byte is flipped at %f of the message', async (share) => {
    const message = await seal(plaintext)
    const at = Math.floor(share * message.length)
    message[at] = (message[at] as number) ^ 1
    const { client, answer } = open(pathOf('decrypt', {}))
    client.on('error', () => undefined)
    // The frames before it have left before it comes.
    client.write(message.subarray(0, at))
    const response = await answer
    expect(response.statusCode).toBe(200)
    client.end(message.subarray(at))
    const { bytes, whole } = await received(response)
    expect(whole).toBe(false)
    expect(bytes.equals(plaintext.subarray(0, bytes.length))).toBe(true)
    // What is on its way when the connection is cut may be lost, and what has not verified never was on it.
    expect(bytes.length).toBeLessThanOrEqual(Math.floor(at / (FRAME + 32)) * FRAME)
  })

  test.each(['one byte less', 'a frame less', 'one byte more'])('%s', async (how) => {
    const message = await seal(plaintext)
    const cut = {
      'one byte less': message.subarray(0, -1),
      'a frame less': message.subarray(0, -(FRAME + 36)),
      'one byte more': Buffer.concat([message, Buffer.of(0)]),
    }[how] as Buffer
    const { client, answer } = open(pathOf('decrypt', {}))
    client.on('error', () => undefined)
    client.write(cut.subarray(0, 50 * FRAME))
    const response = await answer
    client.end(cut.subarray(50 * FRAME))
    const { bytes, whole } = await received(response)
    expect(whole).toBe(false)
    expect(bytes.equals(plaintext.subarray(0, bytes.length))).toBe(true)
  })

  test('a client dies in the middle of its body, and nothing of it stays', async () => {
    const connection = await RawConnection.open(service)
    connection.request(`PUT ${pathOf('encrypt', { key })}`, {
      ...bearer(service),
      'Content-Length': 10 * MIB,
    })
    connection.write(Buffer.alloc(MIB))
    let arrived = Buffer.alloc(0)
    connection.socket.on('data', (part: Buffer) => (arrived = Buffer.concat([arrived, part])))
    await eventually(() => arrived.length > MIB / 2)
    // Its end of sending; it still reads.
    connection.socket.end()
    await connection.closed
    expect(arrived.toString('latin1')).toMatch(/^HTTP\/1\.1 200 OK\r\n/)
    expect(arrived.toString('latin1')).not.toMatch(/\r\n0\r\n\r\n$/)
    await eventually(() => service.engine.slots.bytesInUse === 0)
  })

  test('the server is locked meanwhile', async () => {
    // The native key table is of the whole process, and other servers of this test have keys in it.
    const locked = await startService({ settings: { crypto: 'node' } })
    try {
      const { client, answer } = open(pathOf('encrypt', { key: await locked.createKey() }), locked)
      client.on('error', () => undefined)
      client.write(Buffer.alloc(FRAME))
      const response = await answer
      const end = received(response)
      await locked.call('lock', {})
      expect((await end).whole).toBe(false)
    } finally {
      await locked.close()
    }
  })

  test('the disk takes no record of it, in strict mode', async ({ skip }) => {
    const auditDirectory = mountDisk(skip)
    const strict = await startService({ settings: { audit: 'strict', auditDirectory } })
    try {
      const sealing = await strict.createKey()
      const { client, answer } = open(pathOf('encrypt', { key: sealing }), strict)
      client.on('error', () => undefined)
      const end = received(await answer)
      const makeRoom = fillDisk(auditDirectory)
      for (let code: string | undefined; code !== 'AUDIT_UNAVAILABLE';) {
        const plaintexts = [Buffer.alloc(1)]
        const context = { filler: 'x'.repeat(8_000) }
        code = (await strict.call('encrypt', { key: sealing, context, plaintexts })).code
      }
      client.end(Buffer.alloc(FRAME))
      expect((await end).whole).toBe(false)
      const refused = await send(strict, 'PUT', pathOf('encrypt', { key: sealing }), {
        form: 'json',
      })
      expect([refused.status, refused.body.code]).toEqual([503, 'AUDIT_UNAVAILABLE'])
      makeRoom()
    } finally {
      await strict.close()
    }
  })
})

describe('a stream that cannot begin is told why, in JSON', () => {
  const sealing = (parameters: Parameters, context: Parameters = {}): string =>
    pathOf('encrypt', { key, ...parameters }, context)

  async function refused(path: string, body: Uint8Array = Buffer.alloc(3), token = service.token) {
    const response = await fetch(service.url + path, {
      method: 'PUT',
      body,
      headers: { authorization: `Bearer ${token}` },
    })
    expect(response.headers.get('content-type')).toBe('application/json')
    const { code, message, requestId } = (await response.json()) as Answer
    expect(response.headers.get('x-request-id')).toBe(requestId)
    return { status: response.status, code, message }
  }

  test.each([
    ['no key', '/v1/streams/encrypt', 'query: key is missing'],
    ['a key twice', '/v1/streams/encrypt?key=a&key=b', 'query: key is given twice'],
    ['an unknown name', '/v1/streams/encrypt?key=a&keyId=b', '"keyId" is not known here'],
    [
      'frames on the wrong side',
      '/v1/streams/decrypt?frameBytes=4096',
      '"frameBytes" is not known',
    ],
    ['small frames', '/v1/streams/encrypt?key=a&frameBytes=4095', '4096 to 1048576 are allowed'],
    ['large frames', '/v1/streams/encrypt?key=a&frameBytes=1048577', '4096 to 1048576'],
    ['frames that are no number', '/v1/streams/encrypt?key=a&frameBytes=1e4', '4096 to 1048576'],
    ['bytes that are no text', '/v1/streams/encrypt?key=a&context.a=%FF', 'not well encoded'],
    ['a pair twice', '/v1/streams/encrypt?key=a&context.a=1&context.a=1', 'is given twice'],
    ['a name alone', '/v1/streams/encrypt?key', 'NAME=value is needed'],
  ])('%s', async (_what, path, message) => {
    const answer = await refused(path)
    expect(answer).toMatchObject({ status: 400, code: 'REQUEST_MALFORMED' })
    expect(answer.message).toContain(message)
  })

  test('a context of the SDK itself, or one that is too long', async () => {
    const own = await refused(sealing({}, { 'aws-crypto-public-key': 'x' }))
    expect(own).toMatchObject({ status: 400, code: 'CONTEXT_INVALID' })
    const long = await refused(sealing({}, { a: 'x'.repeat(8_192) }))
    expect(long).toMatchObject({ status: 400, code: 'CONTEXT_INVALID' })
  })

  test('no token, or one of somebody who may not', async () => {
    expect(await refused(sealing({}), undefined, 'kf_no')).toMatchObject({ status: 401 })
    const message = await seal(Buffer.from('plaintext'))
    const { token: sealer } = await service.engine.tokens.create({
      name: 'sealer',
      actions: ['kms:GenerateDataKey'],
      keys: [keyArn],
    })
    const { token: opener } = await service.engine.tokens.create({
      name: 'opener',
      actions: ['kms:Decrypt'],
      keys: [keyArn],
    })
    const denied = { status: 403, code: 'ACCESS_DENIED' }
    expect(await refused(sealing({}), undefined, opener)).toMatchObject(denied)
    expect(await refused(pathOf('decrypt', {}), message, sealer)).toMatchObject(denied)
    // To them, what is not there looks the same.
    const absent = keyArn.replace(/[0-9a-f]{12}$/, '000000000000')
    expect(await refused(sealing({ key: absent }), undefined, sealer)).toMatchObject(denied)
    expect((await stream(sealing({}), Buffer.alloc(1))).status).toBe(200)
  })

  test('a key that is absent, disabled, or another than was named', async () => {
    const absent = keyArn.replace(/[0-9a-f]{12}$/, '000000000000')
    expect(await refused(sealing({ key: absent }))).toMatchObject({
      status: 404,
      code: 'KMS_KEY_NOT_FOUND',
    })
    const own = await service.createKey()
    const message = await seal(Buffer.from('plaintext'), { key: own })
    expect(await refused(pathOf('decrypt', { key }), message)).toMatchObject({
      status: 400,
      code: 'KMS_KEY_INCORRECT',
    })
    await service.call(`keys/${own}/disable`, {})
    const disabled = { status: 409, code: 'KMS_KEY_DISABLED' }
    expect(await refused(sealing({ key: own }))).toMatchObject(disabled)
    expect(await refused(pathOf('decrypt', {}), message)).toMatchObject(disabled)
  })

  test('a pair that the file has not, or has otherwise', async () => {
    const message = (await stream(sealing({}, { a: 'b' }), Buffer.alloc(9))).bytes
    const failed = { status: 400, code: 'DECRYPT_FAILED' }
    expect(await refused(pathOf('decrypt', {}, { a: 'c' }), message)).toMatchObject(failed)
    expect(await refused(pathOf('decrypt', {}, { b: 'a' }), message)).toMatchObject(failed)
    expect((await stream(pathOf('decrypt', {}, { a: 'b' }), message)).status).toBe(200)
  })

  test('what is no message, and one that is under no key of this server', async () => {
    const malformed = { status: 400, code: 'STREAM_MALFORMED' }
    expect(await refused(pathOf('decrypt', {}), Buffer.alloc(0))).toMatchObject(malformed)
    expect(await refused(pathOf('decrypt', {}), randomBytes(0).fill(9))).toMatchObject(malformed)
    expect(await refused(pathOf('decrypt', {}), Buffer.from('hello'))).toMatchObject(malformed)
    const elsewhere = await startService()
    try {
      const { keyId } = await elsewhere.call('keys', {})
      const path = pathOf('encrypt', { key: keyId })
      const { bytes } = await stream(path, Buffer.alloc(9), { of: elsewhere })
      const answer = await refused(pathOf('decrypt', {}), bytes)
      expect(answer).toMatchObject({ status: 404, code: 'KMS_KEY_NOT_FOUND' })
    } finally {
      await elsewhere.close()
    }
  })

  test('frames that are larger than a stream may hold, and no frames at all', async () => {
    const large = await sdkEncrypt(sdkKeyring, Buffer.alloc(9), { frameLength: MIB + 1 })
    const answer = await refused(pathOf('decrypt', {}), large)
    expect(answer).toMatchObject({ status: 400, code: 'LIMIT_EXCEEDED' })
    expect(answer.message).toContain(`frames of ${MIB + 1} bytes`)
  })

  test('another method', async () => {
    const got = await send(service, 'GET', pathOf('encrypt', { key }), { form: 'json' })
    expect([got.status, got.body.code]).toEqual([405, 'METHOD_NOT_ALLOWED'])
  })
})

describe('a signed message', () => {
  const suiteId = 0x0578

  test('comes out once its signature has verified', async () => {
    const plaintext = randomBytes(5 * MIB)
    const message = await sdkEncrypt(sdkKeyring, plaintext, { suiteId })
    const { status, bytes } = await stream(pathOf('decrypt', {}), message)
    expect(status).toBe(200)
    expect(bytes.equals(plaintext)).toBe(true)
    message[message.length - 5] = (message.at(-5) as number) ^ 1
    const broken = await send(service, 'PUT', pathOf('decrypt', {}), {
      body: message,
      form: 'json',
    })
    expect([broken.status, broken.body.code]).toEqual([400, 'DECRYPT_FAILED'])
  })

  test('is refused where it is longer than what is held for it', async () => {
    const message = await sdkEncrypt(sdkKeyring, Buffer.alloc(16 * MIB + 1), { suiteId })
    const got = await send(service, 'PUT', pathOf('decrypt', {}), { body: message, form: 'json' })
    expect([got.status, got.body.code]).toEqual([400, 'LIMIT_EXCEEDED'])
    expect(service.engine.slots.bytesInUse).toBe(0)
  })
})

/** As test/server/fast-caller.mjs answers. */
interface FastAnswer {
  readonly status: string
  readonly answerBytes: number
  readonly whole: boolean
}

test('one who sends as fast as the server reads, and reads as well, is not cut', async () => {
  const parts = 400
  const partBytes = 2 ** 19
  for (let round = 0; round < 3; round++) {
    const worker = new Worker(new URL('fast-caller.mjs', import.meta.url), {
      workerData: {
        port: Number(new URL(service.url).port),
        path: pathOf('encrypt', { key }),
        token: service.token,
        parts,
        partBytes,
      },
    })
    const [answer] = (await once(worker, 'message')) as [FastAnswer]
    expect(answer).toMatchObject({ status: '200', whole: true })
    expect(answer.answerBytes).toBeGreaterThan(parts * partBytes)
  }
})

describe('clients that are slow', () => {
  test('one that stops reading is not read from, and holds nobody up', async () => {
    const { client, answer } = open(pathOf('encrypt', { key }))
    client.on('error', () => undefined)
    const response = await answer
    response.pause()
    let sent = 0
    const piece = Buffer.alloc(65_536)
    const write = (): void => {
      do sent += piece.length
      while (client.write(piece))
    }
    client.on('drain', write)
    write()
    let before = -1
    let stillSinceMs = 0
    await eventually(() => {
      // The kernel's buffers are full when the server is charged for a stream and nothing moves for longer than a
      // piece takes on however slow a machine.
      const nowMs = performance.now()
      if (sent !== before) stillSinceMs = nowMs
      before = sent
      const isCharged = service.engine.slots.bytesInUse >= SERVED_STREAM_BYTES
      return isCharged && sent > MIB && nowMs - stillSinceMs > 500
    })
    const other = await seal(randomBytes(MIB))
    expect(other.length).toBeGreaterThan(MIB)
    const held = service.engine.slots.bytesInUse
    expect(held).toBeGreaterThanOrEqual(SERVED_STREAM_BYTES)
    expect(held).toBeLessThan(64 * MIB)
    // Whoever reads on gets what is true.
    client.off('drain', write)
    client.end()
    const message: Buffer[] = []
    for await (const part of response as AsyncIterable<Buffer>) message.push(part)
    const { bytes } = await stream(pathOf('decrypt', {}), Buffer.concat(message))
    expect(bytes.length).toBe(sent)
    await eventually(() => service.engine.slots.bytesInUse === 0)
  })

  test('as many as there may be all finish, and one more is told to come back', async () => {
    // Few, for all of it has to be over before the front end cuts those who have sent less than 160 KiB in eight seconds.
    const plaintext = randomBytes(10 * FRAME)
    const streams = Array.from({ length: SERVED_STREAMS_MAX }, () =>
      open(pathOf('encrypt', { key, frameBytes: String(FRAME) })),
    )
    const answers = await Promise.all(streams.map(({ answer }) => answer))
    expect(await metric(service, 'streams')).toBe(SERVED_STREAMS_MAX)
    const more = await send(service, 'PUT', pathOf('encrypt', { key }), { form: 'json' })
    expect([more.status, more.body.code]).toEqual([503, 'OVERLOADED'])
    expect(more.headers.get('retry-after')).toBe('1')
    const sealed = answers.map((answer) => received(answer))
    // A frame of each in its turn.
    for (let at = 0; at < plaintext.length; at += FRAME) {
      for (const { client } of streams) client.write(plaintext.subarray(at, at + FRAME))
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(service.engine.slots.bytesInUse).toBeLessThan(
      2 * SERVED_STREAMS_MAX * SERVED_STREAM_BYTES,
    )
    for (const { client } of streams) client.end()
    for (const { whole, bytes } of await Promise.all(sealed)) {
      expect(whole).toBe(true)
      expect(bytes.length).toBeGreaterThan(plaintext.length)
    }
    const [first] = await Promise.all(sealed)
    expect((await sdkDecrypt(sdkKeyring, first?.bytes as Buffer)).plaintext.equals(plaintext)).toBe(
      true,
    )
    expect(await metric(service, 'streams')).toBe(0)
  })
})

test('each stream leaves one record, with what it was about and how it ended', async () => {
  const own = await startService()
  try {
    const { arn } = await own.call('keys', {})
    const plaintext = randomBytes(10 * FRAME)
    const path = pathOf('encrypt', { key: arn, frameBytes: String(FRAME) }, { table: 'orders' })
    const { bytes: message } = await stream(path, plaintext, { of: own })
    await stream(pathOf('decrypt', {}), message, { of: own })
    const broken = Buffer.from(message)
    broken[broken.length - 1] = (broken.at(-1) as number) ^ 1
    await stream(pathOf('decrypt', {}), broken, { of: own }).catch(() => undefined)
    await stream('/v1/streams/encrypt', plaintext, { of: own })
    const { client, answer } = open(path, own)
    client.on('error', () => undefined)
    client.write(Buffer.alloc(2 * FRAME))
    await answer
    client.destroy()
    await eventually(() => own.engine.slots.bytesInUse === 0)
    await own.engine.audit.flush()
    const events = readEvents(`${own.dataDirectory}/audit`) as readonly {
      readonly eventName: string
      readonly errorCode?: string
      readonly requestParameters: unknown
      readonly resources?: readonly { readonly ARN: string }[]
      readonly additionalEventData: Readonly<Record<string, unknown>>
    }[]
    const shown = events
      .filter(({ eventName }) => eventName.endsWith('Stream'))
      .map(({ eventName, errorCode, resources, additionalEventData }) => {
        const { messages, failed } = additionalEventData
        return [eventName, errorCode, messages, failed, resources?.map(({ ARN }) => ARN)]
      })
    expect(shown).toEqual([
      ['EncryptStream', undefined, 1, 0, [arn]],
      ['DecryptStream', undefined, 1, 0, [arn]],
      ['DecryptStream', 'DECRYPT_FAILED', 1, 1, [arn]],
      ['EncryptStream', 'REQUEST_MALFORMED', 1, 1, undefined],
      ['EncryptStream', 'ABORTED', 1, 1, [arn]],
    ])
    const [sealed, opened] = events.filter(({ eventName }) => eventName.endsWith('Stream'))
    for (const event of [sealed, opened]) {
      expect(event?.additionalEventData['bytes']).toBe(plaintext.length)
      expect(event?.requestParameters).toMatchObject({ encryptionContext: { table: 'orders' } })
    }
    expect(await metric(own, 'stream_bytes_total')).toBeGreaterThanOrEqual(2 * plaintext.length)
  } finally {
    await own.close()
  }
})

test('a drain waits for a stream, and lets none begin', async () => {
  const own = await startService()
  try {
    const path = pathOf('encrypt', { key: await own.createKey(), frameBytes: String(FRAME) })
    const waiting = await RawConnection.open(own)
    waiting.request('GET /healthz')
    await waiting.answer()
    const { client, answer } = open(path, own)
    client.write(Buffer.alloc(FRAME))
    const end = received(await answer)
    const drained = own.drain()
    waiting.request(`PUT ${path}`, { ...bearer(own), 'Content-Length': 0 })
    const refused = await waiting.answer()
    expect([refused.status, (JSON.parse(refused.body.toString()) as Answer).code]).toEqual([
      503,
      'SHUTTING_DOWN',
    ])
    client.end(Buffer.alloc(FRAME))
    const { whole, bytes } = await end
    expect(whole).toBe(true)
    expect(bytes.length).toBeGreaterThan(2 * FRAME)
    await drained
  } finally {
    await own.close()
  }
})

test('the limits tell what a stream may have', async () => {
  const response = await fetch(`${service.url}/v1/limits`, {
    headers: { ...bearer(service), accept: 'application/json' },
  })
  expect(JSON.parse(await text(response.body as never))).toMatchObject({
    streamsMax: SERVED_STREAMS_MAX,
    streamFrameBytesMin: 4_096,
    streamFrameBytesMax: MIB,
    streamSignedBytesMax: 16 * MIB,
  })
})
