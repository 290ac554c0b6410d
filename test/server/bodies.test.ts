/**
 * Bodies that are too large, torn, slow or given up, and answers that nobody reads to the end: what is refused, and
 * that afterwards nothing is held.
 */
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { startService, type Answer, type Service } from '../service.ts'
import {
  bearer,
  eventually,
  pack,
  RawConnection,
  send,
  TYPES,
  unpack,
  type Form,
} from './caller.ts'
import { readMetrics } from './metrics.ts'

const MIB = 2 ** 20
const REQUEST_BYTES_MAX = 8 * MIB
const IN_FLIGHT_BYTES_MAX = 64 * MIB

let service: Service
let keyId: string

beforeAll(async () => {
  service = await startService({
    settings: {
      requestBytesMax: String(REQUEST_BYTES_MAX),
      inFlightBytesMax: String(IN_FLIGHT_BYTES_MAX),
    },
  })
  keyId = await service.createKey()
})
afterAll(() => service.close())

const code = (bytes: Uint8Array): string | undefined => (unpack(bytes) as Answer).code

/** No slot is out, and once the KMS key's cached keys are purged no lease holds one in the key table. */
async function expectNothingHeld(): Promise<void> {
  await eventually(() => service.engine.slots.bytesInUse === 0)
  await service.call(`keys/${keyId}/disable`, {})
  await service.call(`keys/${keyId}/enable`, {})
  const spare = await service.createKey()
  await eventually(
    () => service.engine.counters().sealKeys + service.engine.counters().openKeys === 0,
  )
  const before = service.engine.counters().keyTable.slotsUsed
  await service.call('encrypt', { key: spare, plaintexts: [Buffer.from('x')] })
  await service.call(`keys/${spare}/disable`, {})
  // What is left are the root key and opened key material, which were there before.
  expect(service.engine.counters().keyTable.slotsUsed).toBeLessThanOrEqual(before + 1)
  expect(service.engine.counters().bytesInFlight).toBe(0)
}

describe('a body that is too large', () => {
  const encrypt = 'POST /v1/encrypt'

  test('is refused as soon as it is announced', async () => {
    for (const [line, most] of [
      [encrypt, REQUEST_BYTES_MAX],
      ['POST /v1/keys', 64 * 1024],
    ] as const) {
      const connection = await RawConnection.open(service)
      connection.request(line, { ...bearer(service), 'Content-Length': most + 1 })
      const { status, body } = await connection.answer()
      expect([status, code(body)]).toEqual([413, 'REQUEST_TOO_LARGE'])
      expect((unpack(body) as Answer).message).toContain(String(most))
      connection.destroy()
    }
  })

  test('is refused when its chunks have become too many, and the connection goes on', async () => {
    const connection = await RawConnection.open(service)
    connection.request(encrypt, { ...bearer(service), 'Transfer-Encoding': 'chunked' })
    const chunk = Buffer.alloc(MIB)
    for (let i = 0; i < 12; i++) connection.write(`${MIB.toString(16)}\r\n`, chunk, '\r\n')
    const { status, body } = await connection.answer()
    expect([status, code(body)]).toEqual([413, 'REQUEST_TOO_LARGE'])
    connection.write('0\r\n\r\n')
    connection.request('GET /healthz')
    expect((await connection.answer()).body.toString()).toBe('ok\n')
    connection.destroy()
    await eventually(() => service.engine.slots.bytesInUse === 0)
  })

  test('passes where it has just the length that is taken, whole and in chunks', async () => {
    const head = pack({ key: keyId, plaintexts: [] }).subarray(0, -1)
    const room = REQUEST_BYTES_MAX - head.length - 1 - 5
    const bin = Buffer.from([0x91, 0xc6, 0, 0, 0, 0])
    bin.writeUInt32BE(room, 2)
    const body = Buffer.concat([head, bin, Buffer.alloc(room)])
    expect(body).toHaveLength(REQUEST_BYTES_MAX)
    expect((await send(service, 'POST', '/v1/encrypt', { body })).status).toBe(200)
    const connection = await RawConnection.open(service)
    connection.request(encrypt, { ...bearer(service), 'Transfer-Encoding': 'chunked' })
    for (let at = 0; at < body.length; at += 300_000) {
      const chunk = body.subarray(at, at + 300_000)
      connection.write(`${chunk.length.toString(16)}\r\n`, chunk, '\r\n')
    }
    connection.write('0\r\n\r\n')
    expect((await connection.answer()).status).toBe(200)
    connection.destroy()
  })

  test('is refused in JSON as well, and one that comes in pieces goes through the workers', async () => {
    const plaintexts = Array.from({ length: 40 }, () => randomBytes(100_000).toString('base64'))
    const fields = { key: keyId, plaintexts }
    const pooled = service.engine.counters().pooledBatches
    const sealed = await send(service, 'POST', '/v1/encrypt', { form: 'json', fields })
    expect(sealed.body.code).toBeUndefined()
    const opened = await send(service, 'POST', '/v1/decrypt', {
      form: 'json',
      fields: { ciphertexts: sealed.body.ciphertexts },
    })
    expect(opened.body.plaintexts).toEqual(plaintexts)
    if (service.engine.crypto.implementation !== 'node') {
      expect(service.engine.counters().pooledBatches).toBeGreaterThan(pooled)
    }
    const twice = { key: keyId, plaintexts: [...plaintexts, ...plaintexts] }
    const refused = await send(service, 'POST', '/v1/encrypt', { form: 'json', fields: twice })
    expect(refused.status).toBe(413)
  })
})

describe('MessagePack that is not as it should be', () => {
  const request = (): Buffer =>
    pack({ key: keyId, context: { a: 'b' }, form: 'inline', plaintexts: [Buffer.from('xyz')] })

  test.each(['/v1/encrypt', '/v1/keys'])('%s refuses every truncation', async (path) => {
    const whole = path === '/v1/keys' ? pack({ description: 'd', tags: { a: 'b' } }) : request()
    const connection = await RawConnection.open(service)
    for (let length = 1; length < whole.length; length++) {
      connection.request(`POST ${path}`, { ...bearer(service), 'Content-Length': length })
      connection.write(whole.subarray(0, length))
      const { status, body } = await connection.answer()
      expect([length, status, code(body)]).toEqual([length, 400, 'REQUEST_MALFORMED'])
    }
    connection.destroy()
    expect((await send(service, 'POST', path, { body: whole })).status).toBe(200)
  })

  test('no flipped byte brings the server down or into an error of its own', async () => {
    const whole = request()
    const connection = await RawConnection.open(service)
    for (let at = 0; at < whole.length; at++) {
      for (const mask of [0x01, 0x80, 0xff]) {
        const flipped = Buffer.from(whole)
        flipped[at] = (flipped[at] as number) ^ mask
        connection.request('POST /v1/encrypt', {
          ...bearer(service),
          'Content-Length': flipped.length,
        })
        connection.write(flipped)
        const { status } = await connection.answer()
        expect([at, mask, [200, 400, 404, 413].includes(status)]).toEqual([at, mask, true])
      }
    }
    connection.destroy()
  })

  // [what, bytes, what the message names]
  const key = Buffer.concat([Buffer.from([0xa3]), Buffer.from('key')])
  const text = (value: string): Buffer => pack(value)
  const plaintexts = Buffer.concat([text('plaintexts'), Buffer.from([0x91, 0xc4, 1, 0x78])])
  const map = (count: number, ...parts: readonly Uint8Array[]): Buffer =>
    Buffer.concat([Buffer.from([0x80 | count]), ...parts])
  test.each<[string, () => Buffer, string]>([
    ['a key that occurs twice', () => map(3, key, text('k'), key, text('k'), plaintexts), 'key'],
    [
      'messages that occur twice',
      () => map(3, plaintexts, plaintexts, key, text('k')),
      'plaintexts',
    ],
    [
      'a context that names one key twice',
      () =>
        map(
          3,
          key,
          text('k'),
          text('context'),
          map(2, text('a'), text('1'), text('a'), text('2')),
          plaintexts,
        ),
      'context',
    ],
    ['trailing bytes', () => Buffer.concat([request(), Buffer.from([0xc0])]), 'message 1'],
    ['two requests in one body', () => Buffer.concat([request(), request()]), 'message 1'],
    ['an array', () => pack([1]), 'request'],
    ['nil', () => pack(null), 'request'],
    ['a number for a key', () => map(1, Buffer.from([0x01, 0x01])), 'request'],
    ['text where bytes belong', () => pack({ key: keyId, plaintexts: ['x'] }), 'message 0'],
    ['nil where bytes belong', () => pack({ key: keyId, plaintexts: [null] }), 'message 0'],
    ['bytes where text belongs', () => pack({ key: Buffer.from('k'), plaintexts: [] }), 'key'],
    ['an extension type', () => map(2, key, Buffer.from([0xd4, 1, 0]), plaintexts), 'key'],
    ['text that is not UTF-8', () => map(2, key, Buffer.from([0xa1, 0xff]), plaintexts), 'key'],
    [
      'a count that promises what is not there',
      () => map(2, key, text('k'), text('plaintexts'), Buffer.from([0xdd, 0xff, 0xff, 0xff, 0xff])),
      'plaintexts',
    ],
    [
      'a length that promises what is not there',
      () =>
        map(
          2,
          key,
          text(keyId),
          text('plaintexts'),
          Buffer.from([0x91, 0xc6, 0x7f, 0xff, 0xff, 0xff]),
        ),
      'message 0',
    ],
    ['no messages', () => pack({ key: 'k', plaintexts: [] }), 'plaintexts'],
    ['a key that is missing', () => pack({ plaintexts: [Buffer.from('x')] }), 'key'],
  ])('%s is refused and named', async (_what, bytes, named) => {
    const got = await send(service, 'POST', '/v1/encrypt', { body: bytes() })
    expect(got.status).toBe(400)
    expect(['REQUEST_MALFORMED', 'CONTEXT_INVALID']).toContain(got.body.code)
    expect(got.body.message).toContain(named)
  })

  test('an empty body is a request with nothing in it', async () => {
    const got = await send(service, 'POST', '/v1/encrypt', { body: '' })
    expect(got).toMatchObject({ status: 400, body: { code: 'REQUEST_MALFORMED' } })
    const created = await send(service, 'POST', '/v1/keys')
    expect(created.status).toBe(200)
  })
})

describe('a caller', () => {
  const countEncrypted = async (): Promise<number> => {
    const { samples } = await readMetrics(service)
    return samples.get('keyfold_requests_total{route="/v1/encrypt",status="2xx"}') ?? 0
  }

  test('may send a body byte by byte', async () => {
    const body = pack({ key: keyId, plaintexts: [Buffer.from('slow')] })
    const connection = await RawConnection.open(service)
    connection.request('POST /v1/encrypt', { ...bearer(service), 'Content-Length': body.length })
    for (const byte of body) {
      await new Promise<void>((resolve) => {
        connection.socket.write(Buffer.from([byte]), () => resolve())
      })
    }
    const { status, body: answer } = await connection.answer()
    expect(status).toBe(200)
    expect((unpack(answer) as Answer).ciphertexts).toHaveLength(1)
    connection.destroy()
    await expectNothingHeld()
  })

  test.each(['Content-Length', 'Transfer-Encoding'])(
    'who goes away in the middle of a body (%s) leaves nothing behind',
    async (way) => {
      const connection = await RawConnection.open(service)
      connection.request('POST /v1/encrypt', {
        ...bearer(service),
        [way]: way === 'Content-Length' ? 4 * MIB : 'chunked',
      })
      if (way !== 'Content-Length') connection.write(`${(4 * MIB).toString(16)}\r\n`)
      connection.write(Buffer.alloc(MIB))
      await eventually(() => service.engine.slots.bytesInUse > 0)
      connection.destroy()
      await expectNothingHeld()
    },
  )

  test('who goes away while workers seal leaves nothing behind', async () => {
    const plaintexts = Array.from({ length: 60 }, () => Buffer.alloc(100_000))
    const body = pack({ key: keyId, plaintexts })
    for (let i = 0; i < 5; i++) {
      const connection = await RawConnection.open(service)
      connection.request('POST /v1/encrypt', { ...bearer(service), 'Content-Length': body.length })
      await new Promise<void>((resolve) => connection.socket.write(body, () => resolve()))
      connection.destroy()
    }
    await expectNothingHeld()
  })

  test.each<Form>(['msgpack', 'json'])(
    'who stops reading a large answer in %s is charged for it until they go',
    async (form) => {
      const answerBytes = 5 * MIB
      const plaintexts = [
        form === 'json' ? Buffer.alloc(answerBytes).toString('base64') : Buffer.alloc(answerBytes),
      ]
      const fields = { key: keyId, plaintexts }
      const body = form === 'json' ? Buffer.from(JSON.stringify(fields)) : pack(fields)
      const before = await countEncrypted()
      const connection = await RawConnection.open(service)
      connection.socket.pause()
      connection.request('POST /v1/encrypt', {
        ...bearer(service),
        'Content-Type': TYPES[form],
        'Content-Length': body.length,
      })
      connection.write(body)
      // The operation is over when it is counted; others are answered meanwhile.
      while ((await countEncrypted()) === before) continue
      expect(service.engine.slots.bytesInUse).toBeGreaterThanOrEqual(answerBytes)
      connection.destroy()
      await expectNothingHeld()
    },
  )

  test('who reads slowly gets every byte', async () => {
    const plaintext = randomBytes(6 * MIB)
    const sealed = await service.call('encrypt', { key: keyId, plaintexts: [plaintext] })
    const body = pack({ ciphertexts: sealed.ciphertexts })
    const connection = await RawConnection.open(service)
    connection.socket.pause()
    connection.request('POST /v1/decrypt', { ...bearer(service), 'Content-Length': body.length })
    connection.write(body)
    await eventually(() => service.engine.slots.bytesInUse > plaintext.length)
    connection.socket.resume()
    const answer = unpack((await connection.answer()).body) as Answer
    expect(Buffer.compare(answer.plaintexts[0] as Uint8Array, plaintext)).toBe(0)
    connection.destroy()
    await expectNothingHeld()
  })
})

describe('ten times the load', () => {
  test('is refused with 503 and Retry-After, within the bytes in flight, and is over when it is over', async () => {
    const body = pack({
      key: keyId,
      plaintexts: Array.from({ length: 60 }, () => Buffer.alloc(100_000)),
    })
    let bytesMost = 0
    let stopped = false
    const watch = (): void => {
      bytesMost = Math.max(bytesMost, service.engine.slots.bytesInUse)
      if (!stopped) setImmediate(watch)
    }
    watch()
    // Each needs 16 MiB for its body and as much for its answer: two at a time pass.
    const answers = await Promise.all(
      Array.from({ length: 40 }, () => send(service, 'POST', '/v1/encrypt', { body })),
    )
    stopped = true
    const refused = answers.filter(({ status }) => status !== 200)
    expect(answers.length - refused.length).toBeGreaterThan(0)
    expect(refused.length).toBeGreaterThan(0)
    for (const got of refused) {
      expect(got).toMatchObject({ status: 503, body: { code: 'OVERLOADED' } })
      expect(got.headers.get('retry-after')).toBe('1')
    }
    for (const got of answers) if (got.status === 200) expect(got.body.ciphertexts).toHaveLength(60)
    expect(bytesMost).toBeLessThanOrEqual(IN_FLIGHT_BYTES_MAX)
    expect(service.engine.counters().overloads).toBeGreaterThanOrEqual(refused.length)
    await expectNothingHeld()
    expect((await send(service, 'POST', '/v1/encrypt', { body })).status).toBe(200)
  })
})
