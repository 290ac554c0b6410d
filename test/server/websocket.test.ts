/** The batch API as frames over a WebSocket, spoken by the `ws` package and where it is too well-behaved by a bare socket. */
import { once } from 'node:events'
import { setTimeout } from 'node:timers/promises'
import { WebSocket, type ClientOptions } from 'ws'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'

import { startService, type Answer, type Service } from '../service.ts'
import { bearer, eventually, pack, RawConnection, send, unpack } from './caller.ts'
import { readMetrics } from './metrics.ts'

const REQUEST_BYTES_MAX = 8 * 2 ** 20
/** As src/format/frame.ts draws it. */
const OPS = { encrypt: 1, decrypt: 2, 're-encrypt': 3, 'data-keys': 4, batch: 5 } as const
const WINDOW_MAX = 256

let service: Service
let keyId: string
const sockets: FrameSocket[] = []

beforeAll(async () => {
  service = await startService({
    settings: { requestBytesMax: String(REQUEST_BYTES_MAX), inFlightBytesMax: String(2 ** 28) },
  })
  keyId = await service.createKey()
})
afterEach(async () => {
  for (const { socket } of sockets.splice(0)) socket.terminate()
  await eventually(() => service.engine.slots.bytesInUse === 0)
})
afterAll(() => service.close())

interface Frame {
  readonly id: number
  readonly status: number
  readonly body: Answer & Readonly<Record<string, unknown>>
}

/** A connection whose answers are kept in the order in which they came. */
class FrameSocket {
  readonly socket: WebSocket
  readonly frames: Frame[] = []
  closedWith: number | undefined

  static async open(options: ClientOptions = {}): Promise<FrameSocket> {
    const url = `${service.url.replace('http', 'ws')}/v1/ws`
    const opened = new FrameSocket(
      new WebSocket(url, { headers: { authorization: `Bearer ${service.token}` }, ...options }),
    )
    sockets.push(opened)
    await once(opened.socket, 'open')
    return opened
  }

  constructor(socket: WebSocket) {
    this.socket = socket
    socket.on('error', () => undefined)
    socket.on('close', (code) => (this.closedWith = code))
    socket.on('message', (message: Buffer) => {
      const body = unpack(message.subarray(5)) as Frame['body']
      this.frames.push({ id: message.readUInt32BE(0), status: message[4] as number, body })
    })
  }

  send(id: number, op: number, fields: unknown, options: { fin?: boolean } = {}): void {
    this.socket.send(frameOf(id, op, fields), options)
  }

  /** The answer to this id, once it is there. */
  async answer(id: number): Promise<Frame> {
    const find = (): Frame | undefined => this.frames.find((frame) => frame.id === id)
    await eventually(() => find() !== undefined || this.closedWith !== undefined)
    const frame = find()
    if (frame === undefined) throw new Error(`closed with ${String(this.closedWith)}`)
    return frame
  }
}

function frameOf(id: number, op: number, fields: unknown): Buffer {
  const head = Buffer.alloc(5)
  head.writeUInt32BE(id, 0)
  head[4] = op
  return Buffer.concat([head, fields instanceof Uint8Array ? fields : pack(fields)])
}

const encryptOf = (text: string): unknown => ({ key: keyId, plaintexts: [Buffer.from(text)] })

/** Names that begin like this are looked up once they are released: the real catalog, which answers too soon by itself. */
function holdCatalog(prefix: string): {
  readonly asked: () => number
  readonly release: () => void
} {
  const { registry } = service.engine.kms
  const real = registry.resolve.bind(registry)
  let asked = 0
  let open = (): void => undefined
  const opened = new Promise<void>((resolve) => (open = resolve))
  registry.resolve = async (reference, ...more) => {
    if (reference.startsWith(prefix)) {
      asked++
      await opened
    }
    return real(reference, ...more)
  }
  return {
    asked: () => asked,
    release: () => {
      registry.resolve = real
      open()
    },
  }
}

describe('frames', () => {
  test('of every operation are answered under their ids, as over HTTP', async () => {
    const ws = await FrameSocket.open()
    ws.send(7, OPS.encrypt, encryptOf('x'))
    const { ciphertexts } = (await ws.answer(7)).body
    ws.send(0xffffffff, OPS.decrypt, { ciphertexts })
    const opened = await ws.answer(0xffffffff)
    expect(Buffer.from(opened.body.plaintexts[0] as Uint8Array).toString()).toBe('x')
    ws.send(0, OPS['re-encrypt'], { key: keyId, mode: 'rewrap', ciphertexts })
    expect((await ws.answer(0)).body.ciphertexts).toHaveLength(1)
    ws.send(1, OPS['data-keys'], { key: keyId, count: 3, plaintext: true })
    expect((await ws.answer(1)).body.dataKeys).toHaveLength(3)
    ws.send(2, OPS.batch, [
      { op: 'encrypt', ...(encryptOf('y') as object) },
      { op: 'encrypt', key: 'alias/none', plaintexts: [Buffer.from('y')] },
    ])
    const batch = (await ws.answer(2)).body as unknown as readonly Answer[]
    expect(batch.map(({ code }) => code)).toEqual([undefined, 'KMS_KEY_NOT_FOUND'])
    expect(ws.frames.map(({ status }) => status)).toEqual([0, 0, 0, 0, 0])
  })

  test('are pipelined: each answer is the one to its own request', async () => {
    const ws = await FrameSocket.open()
    for (let id = 0; id < 200; id++) ws.send(id, OPS.encrypt, encryptOf(`message ${id}`))
    await eventually(() => ws.frames.length === 200)
    const answers = new Map(ws.frames.map((frame) => [frame.id, frame.body.ciphertexts[0]]))
    const ciphertexts = Array.from({ length: 200 }, (_, id) => answers.get(id))
    const { plaintexts } = await service.call('decrypt', { ciphertexts })
    expect(plaintexts.map((text) => Buffer.from(text as Uint8Array).toString())).toEqual(
      ciphertexts.map((_, id) => `message ${id}`),
    )
  })

  test('a short request overtakes one that waits for the catalog', async () => {
    await service.call('encrypt', encryptOf('warm') as Record<string, unknown>)
    const ws = await FrameSocket.open()
    const catalog = holdCatalog('alias/none/slow')
    try {
      ws.send(1, OPS.encrypt, { key: 'alias/none/slow', plaintexts: [Buffer.from('x')] })
      ws.send(2, OPS.encrypt, encryptOf('x'))
      await ws.answer(2)
      expect(catalog.asked()).toBe(1)
    } finally {
      catalog.release()
    }
    await eventually(() => ws.frames.length === 2)
    expect(ws.frames.map(({ id }) => id)).toEqual([2, 1])
  })

  test('may come in fragments', async () => {
    const ws = await FrameSocket.open()
    const frame = frameOf(9, OPS.encrypt, encryptOf('in pieces'))
    for (let at = 0; at < frame.length; at += 7) {
      ws.socket.send(frame.subarray(at, at + 7), { fin: at + 7 >= frame.length, binary: true })
    }
    expect((await ws.answer(9)).body.ciphertexts).toHaveLength(1)
  })

  test.each([
    [0, {}, 'op'],
    [7, {}, 'op'],
    [255, {}, 'op'],
    [OPS.encrypt, Buffer.alloc(0), 'request'],
    [OPS.encrypt, Buffer.from([0xc1]), 'request'],
    [OPS.encrypt, { key: 'k', plaintexts: [Buffer.from('x')], more: 1 }, 'more'],
    [OPS.batch, {}, 'batch'],
  ])(
    'op %i with what it cannot take is refused by name, and the next one is served',
    async (op, fields, named) => {
      const ws = await FrameSocket.open()
      ws.send(3, op, fields)
      const refused = await ws.answer(3)
      expect(refused.status).toBe(1)
      expect(Object.keys(refused.body)).toEqual(['code', 'message', 'requestId'])
      expect(refused.body.code).toBe('REQUEST_MALFORMED')
      expect(refused.body.message).toContain(named)
      ws.send(4, OPS.encrypt, encryptOf('x'))
      expect((await ws.answer(4)).status).toBe(0)
    },
  )

  test('of fewer than five bytes, or of text, close the connection', async () => {
    for (const [bytes, binary, closedWith] of [
      [Buffer.alloc(0), true, 1002],
      [Buffer.alloc(4), true, 1002],
      [Buffer.from('hello, server'), false, 1003],
    ] as const) {
      const ws = await FrameSocket.open()
      ws.socket.send(bytes, { binary })
      await eventually(() => ws.closedWith !== undefined)
      expect(ws.closedWith).toBe(closedWith)
    }
  })

  test('that are longer than a request may be close the connection', async () => {
    const ws = await FrameSocket.open()
    ws.socket.send(Buffer.alloc(REQUEST_BYTES_MAX + 1))
    await eventually(() => ws.closedWith !== undefined)
    expect(ws.closedWith).toBeGreaterThanOrEqual(1006)
    expect((await send(service, 'GET', '/v1/limits')).status).toBe(200)
  })

  test('are counted', async () => {
    const ws = await FrameSocket.open()
    const count = async (status: string): Promise<number> => {
      const response = await fetch(`${service.url}/metrics`, { headers: bearer(service) })
      const line = new RegExp(
        `^keyfold_requests_total\\{route="/v1/ws",status="${status}"\\} (\\d+)$`,
        'm',
      )
      return Number(line.exec(await response.text())?.[1] ?? 0)
    }
    const before = [await count('2xx'), await count('4xx')] as const
    ws.send(1, OPS.encrypt, encryptOf('x'))
    ws.send(2, OPS.encrypt, {})
    await eventually(() => ws.frames.length === 2)
    expect([await count('2xx'), await count('4xx')]).toEqual([before[0] + 1, before[1] + 1])
  })
})

describe('a connection', () => {
  test.each([
    ['without a token', {}],
    ['with a token that is none', { authorization: 'Bearer kf_x' }],
  ])('%s is refused before it is one', async (_what, headers) => {
    const socket = new WebSocket(`${service.url.replace('http', 'ws')}/v1/ws`, { headers })
    socket.on('error', () => undefined)
    const [, response] = (await once(socket, 'unexpected-response')) as [
      unknown,
      NodeJS.ReadableStream & { statusCode: number },
    ]
    expect(response.statusCode).toBe(401)
    let text = ''
    for await (const chunk of response) text += String(chunk)
    expect(Object.keys(JSON.parse(text) as object)).toEqual(['code', 'message', 'requestId'])
  })

  test('serves no frame once its token is revoked or expired', async () => {
    const scoped = { name: 'ws', actions: ['*'], keys: ['*'] }
    const nowMs = Date.now()
    vi.useFakeTimers({ toFake: ['Date'], now: nowMs })
    try {
      const revoked = await service.engine.tokens.create(scoped)
      const expiring = await service.engine.tokens.create({ ...scoped, expiresAtMs: nowMs + 1_000 })
      for (const { token } of [revoked, expiring]) {
        const ws = await FrameSocket.open({ headers: { authorization: `Bearer ${token}` } })
        ws.send(0, OPS.encrypt, encryptOf('x'))
        expect((await ws.answer(0)).status).toBe(0)
        if (token === revoked.token) await service.engine.tokens.revoke(revoked.record.tokenId)
        else vi.setSystemTime(nowMs + 1_000)
        ws.send(1, OPS.encrypt, encryptOf('x'))
        expect(await ws.answer(1)).toMatchObject({ status: 1, body: { code: 'UNAUTHENTICATED' } })
      }
    } finally {
      vi.useRealTimers()
    }
  })

  test('has a window: beyond it frames are refused one by one, and it serves on', async () => {
    const ws = await FrameSocket.open()
    // Each of an alias that the catalog has to be asked for.
    const frames = Array.from({ length: WINDOW_MAX + 44 }, (_, id) =>
      frameOf(id, OPS.encrypt, { key: `alias/none/${id}`, plaintexts: [Buffer.from('x')] }),
    )
    const catalog = holdCatalog('alias/none/')
    try {
      for (const frame of frames) ws.socket.send(frame)
      await eventually(() => ws.frames.length === 44)
      expect(catalog.asked()).toBe(WINDOW_MAX)
    } finally {
      catalog.release()
    }
    for (const { id, body } of ws.frames) {
      expect([id >= WINDOW_MAX, body.code]).toEqual([true, 'OVERLOADED'])
      expect(body.message).toContain(String(WINDOW_MAX))
    }
    await eventually(() => ws.frames.length === frames.length)
    const served = ws.frames.filter(({ body }) => body.code === 'KMS_KEY_NOT_FOUND')
    expect(served).toHaveLength(WINDOW_MAX)
    ws.send(9_999, OPS.encrypt, encryptOf('x'))
    expect((await ws.answer(9_999)).status).toBe(0)
  })

  test('whose answers are not read holds them in slots, refuses more, and gets them all in the end', async () => {
    const ws = await FrameSocket.open()
    const text = Buffer.alloc(2 ** 20)
    ws.socket.pause()
    for (let id = 0; id < 40; id++) ws.send(id, OPS.encrypt, { key: keyId, plaintexts: [text] })
    await eventually(() => service.engine.slots.bytesInUse >= 20 * text.length)
    expect((await send(service, 'GET', '/v1/limits')).status).toBe(200)
    ws.socket.resume()
    await eventually(() => ws.frames.length === 40)
    const served = ws.frames.filter(({ status }) => status === 0)
    expect(served.length).toBeGreaterThanOrEqual(20)
    for (const { body } of served) {
      expect(body.ciphertexts[0]?.length).toBeGreaterThan(text.length)
    }
    await eventually(() => service.engine.slots.bytesInUse === 0)
  })

  describe('whose answers are never read', () => {
    const answers = async (): Promise<number> =>
      (await readMetrics(service)).samples.get(
        'keyfold_requests_total{route="/v1/ws",status="2xx"}',
      ) ?? 0

    /** Its answer is longer than what sockets take by themselves: whatever follows it waits. */
    async function stalled(): Promise<FrameSocket> {
      const ws = await FrameSocket.open()
      const answered = await answers()
      ws.socket.pause()
      ws.send(0, OPS.encrypt, { key: keyId, plaintexts: [Buffer.alloc(7 * 2 ** 20)] })
      while ((await answers()) === answered) await setTimeout(5)
      return ws
    }

    test('is cut once too many of them wait', async () => {
      const ws = await stalled()
      for (let id = 1; id < 2_000; id++) ws.send(id, OPS.encrypt, {})
      await eventually(() => service.engine.slots.bytesInUse === 0)
      ws.socket.resume()
      await eventually(() => ws.closedWith !== undefined)
      expect(ws.frames).toEqual([])
    })

    test('is cut after a while, whatever else it sends', async () => {
      const ws = await stalled()
      const pings = setInterval(() => ws.socket.ping(), 500)
      await eventually(() => service.engine.slots.bytesInUse === 0)
      clearInterval(pings)
      ws.socket.resume()
      await eventually(() => ws.closedWith !== undefined)
      expect(ws.frames).toEqual([])
    })
  })

  test('that goes away in the middle of everything leaves nothing behind', async () => {
    const slots = service.engine.slots
    for (let round = 0; round < 5; round++) {
      const ws = await FrameSocket.open()
      const large = {
        key: keyId,
        plaintexts: Array.from({ length: 50 }, () => Buffer.alloc(100_000)),
      }
      for (let id = 0; id < 6; id++) ws.send(id, OPS.encrypt, large)
      ws.send(6, OPS['data-keys'], { key: keyId, count: 100, plaintext: true })
      for (let id = 7; id < 90; id++) {
        ws.send(id, OPS.encrypt, { key: `alias/gone/${id}`, plaintexts: [Buffer.from('x')] })
      }
      await eventually(() => slots.bytesInUse > 0)
      ws.socket.terminate()
      await eventually(() => slots.bytesInUse === 0)
    }
    await service.call(`keys/${keyId}/disable`, {})
    await service.call(`keys/${keyId}/enable`, {})
    expect(service.engine.counters().sealKeys).toBe(0)
  })

  test('is no route for what does not upgrade', async () => {
    const connection = await RawConnection.open(service)
    connection.request('GET /v1/ws', bearer(service))
    expect((await connection.answer()).status).toBe(404)
    connection.destroy()
  })
})
