/** What the client does when the other side does not behave: retries, limits, and errors that say where. */
import { createServer, type AddressInfo, type Server } from 'node:net'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { afterEach, describe, expect, test } from 'vitest'

import { Keyfold, KeyfoldError, type KeyfoldOptions } from '../../dist/index.js'
import { quietPort } from '../ports.ts'
import { startService } from '../service.ts'
import { send, startStandIn, type StandIn } from './stand-in.ts'

const opened: { close(): Promise<void> }[] = []
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each.close()
})

/** A client of a stand-in, both closed after the test. */
async function connected(
  answer: (response: ServerResponse, number: number, request: IncomingMessage) => void,
  options: Partial<KeyfoldOptions> = {},
): Promise<{ readonly standIn: StandIn; readonly keyfold: Keyfold }> {
  const standIn = await startStandIn(answer)
  const keyfold = new Keyfold({ url: standIn.url, token: 'kf_test', ...options })
  opened.push(standIn, keyfold)
  return { standIn, keyfold }
}

async function failure(promise: Promise<unknown>): Promise<KeyfoldError> {
  try {
    await promise
  } catch (error) {
    expect(error).toBeInstanceOf(KeyfoldError)
    return error as KeyfoldError
  }
  throw new Error('this should have failed')
}

const refusal = (code: string): Readonly<Record<string, string>> => ({
  code,
  message: 'as the server put it',
  requestId: 'r-1',
})
const LIMITS = '/v1/limits'

describe('a refusal that may pass', () => {
  test.each([
    [503, 'OVERLOADED'],
    [503, 'SHUTTING_DOWN'],
    [429, 'MISS_BUDGET_SPENT'],
  ])('%i %s is tried again until it has passed', async (status, code) => {
    const { standIn, keyfold } = await connected((response, number) => {
      if (number < 2) send(response, status, refusal(code), { 'Retry-After': '0.01' })
      else send(response, 200, { plaintexts: [Buffer.from('at last')] })
    })
    const { plaintexts } = await keyfold.decryptBatch([Buffer.alloc(1)])
    expect(Buffer.from(plaintexts[0] as Uint8Array).toString()).toBe('at last')
    expect(standIn.requests).toHaveLength(3)
  })

  test('is tried as often as the caller allows, and then is their error', async () => {
    for (const retriesMax of [0, 2]) {
      const { standIn, keyfold } = await connected(
        (response) => send(response, 503, refusal('OVERLOADED')),
        { retriesMax },
      )
      const error = await failure(keyfold.manage('GET', LIMITS))
      expect(error).toMatchObject({ code: 'OVERLOADED', requestId: 'r-1', retryable: true })
      expect(error.message).toContain('as the server put it')
      expect(standIn.requests).toHaveLength(1 + retriesMax)
    }
  })

  test('is not tried before Retry-After has passed', async () => {
    const arrivals: number[] = []
    const { keyfold } = await connected((response, number) => {
      arrivals.push(performance.now())
      if (number === 0) send(response, 503, refusal('OVERLOADED'), { 'Retry-After': '1' })
      else send(response, 200, {})
    })
    await keyfold.manage('GET', LIMITS)
    expect((arrivals[1] ?? 0) - (arrivals[0] ?? 0)).toBeGreaterThan(990)
  })

  test('is not waited for when the server asks for an hour', async () => {
    const { standIn, keyfold } = await connected((response) =>
      send(response, 503, refusal('OVERLOADED'), { 'Retry-After': '3600' }),
    )
    expect((await failure(keyfold.manage('GET', LIMITS))).code).toBe('OVERLOADED')
    expect(standIn.requests).toHaveLength(1)
  })

  test('is not waited for once the caller gives up', async () => {
    const controller = new AbortController()
    const { standIn, keyfold } = await connected((response) => {
      send(response, 503, refusal('OVERLOADED'), { 'Retry-After': '20' })
      setImmediate(() => setTimeout(() => controller.abort(), 20))
    })
    const call = keyfold.decryptBatch([Buffer.alloc(1)], { signal: controller.signal })
    expect((await failure(call)).code).toBe('ABORTED')
    expect(standIn.requests).toHaveLength(1)
  })
})

test.each([
  [400, 'REQUEST_MALFORMED'],
  [401, 'UNAUTHENTICATED'],
  [403, 'ACCESS_DENIED'],
  [409, 'KMS_KEY_DISABLED'],
  [413, 'REQUEST_TOO_LARGE'],
  [500, 'INTERNAL'],
])('%i %s is final', async (status, code) => {
  const { standIn, keyfold } = await connected((response) =>
    send(response, status, refusal(code), { 'Retry-After': '0.01' }),
  )
  expect(await failure(keyfold.manage('GET', LIMITS))).toMatchObject({ code, requestId: 'r-1' })
  expect(standIn.requests).toHaveLength(1)
})

describe('an answer that is not of keyfold', () => {
  test.each<readonly [string, number, string | Buffer]>([
    ['a page of a proxy', 502, '<html>Bad Gateway</html>'],
    ['nothing', 404, ''],
    ['another map', 500, Buffer.from('81a161a162', 'hex')],
    // {code: 'constructor'}: a name that every object has.
    ['a code that is none', 503, Buffer.from('81a4636f6465ab636f6e7374727563746f72', 'hex')],
  ])('%s is an error that names the URL and the status', async (_what, status, body) => {
    const { standIn, keyfold } = await connected(
      (response) => response.writeHead(status).end(body),
      { retriesMax: 1 },
    )
    const error = await failure(keyfold.manage('GET', LIMITS))
    expect(error.code).toBe(status >= 500 ? 'CONNECTION_FAILED' : 'INTERNAL')
    expect(error.message).toContain(standIn.url)
    expect(error.message).toContain(String(status))
  })

  test.each<readonly [string, unknown]>([
    ['an array', []],
    ['a map without plaintexts', { keyId: 'x' }],
    ['plaintexts of text', { plaintexts: ['text'] }],
    ['text', 'hello'],
  ])('%s with status 200 is refused', async (_what, value) => {
    const { keyfold } = await connected((response) => send(response, 200, value))
    const error = await failure(keyfold.decryptBatch([Buffer.alloc(1)]))
    expect(error.code).toBe('CONNECTION_FAILED')
    expect(error.message).toContain('not one of keyfold')
  })

  test.each<readonly [string, unknown]>([
    ['fewer plaintexts than were asked for', { plaintexts: [] }],
    ['more of them', { plaintexts: [Buffer.alloc(1), Buffer.alloc(2)] }],
  ])('%s never resolves a single message with nothing or another', async (_what, value) => {
    const { keyfold } = await connected((response) => send(response, 200, value))
    expect((await failure(keyfold.decrypt(Buffer.alloc(1)))).code).toBe('CONNECTION_FAILED')
  })
})

describe('a server that cannot be reached', () => {
  test('where nobody listens the error names the URL and the reason', async () => {
    const url = `http://127.0.0.1:${await quietPort()}`
    const keyfold = new Keyfold({ url, token: 'kf_test', retriesMax: 1 })
    const error = await failure(keyfold.manage('GET', LIMITS))
    expect(error.code).toBe('CONNECTION_FAILED')
    expect(error.message).toContain(url)
    expect(error.message).toContain('ECONNREFUSED')
  })

  test('under a name with several addresses too', async () => {
    const url = `http://localhost:${await quietPort()}`
    const keyfold = new Keyfold({ url, token: 'kf_test', retriesMax: 0 })
    const { message } = await failure(keyfold.manage('GET', LIMITS))
    expect(message).toContain(url)
    expect(message).toContain('ECONNREFUSED')
  })

  test('one that comes up meanwhile is found, also for what is done once', async () => {
    const port = await quietPort()
    const keyfold = new Keyfold({
      url: `http://127.0.0.1:${port}`,
      token: 'kf_test',
      retriesMax: 10,
    })
    const created = keyfold.manage('POST', '/v1/keys', {})
    const late = createServer((socket) => {
      socket.on('error', () => undefined)
      socket.once('data', () =>
        socket.end('HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\x80', 'latin1'),
      )
    })
    await new Promise<void>((resolve) => late.listen(port, '127.0.0.1', resolve))
    opened.push({ close: () => new Promise((resolve) => void late.close(() => resolve())) })
    expect(await created).toEqual({})
  })
})

/** A server of raw bytes: writes what it is given to whoever asks something, and hangs up. */
async function startRaw(
  bytes: string,
): Promise<{ readonly url: string; connections: () => number }> {
  let connections = 0
  const server: Server = createServer((socket) => {
    connections++
    socket.on('error', () => undefined)
    socket.once('data', () => socket.end(bytes, 'latin1'))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  opened.push({ close: () => new Promise((resolve) => void server.close(() => resolve())) })
  const { port } = server.address() as AddressInfo
  return { url: `http://127.0.0.1:${port}`, connections: () => connections }
}

describe('a connection that is cut', () => {
  const CUTS = {
    'before the answer': '',
    'in the head of the answer': 'HTTP/1.1 200 OK\r\nContent-Le',
    'in an answer of known length': 'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n\x81',
    'in a chunked answer': 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab',
  }

  test.each(Object.entries(CUTS))('%s is an error that names the URL', async (_where, bytes) => {
    const raw = await startRaw(bytes)
    const keyfold = new Keyfold({ url: raw.url, token: 'kf_test', retriesMax: 1 })
    opened.push(keyfold)
    const error = await failure(keyfold.decryptBatch([Buffer.alloc(1)]))
    expect(error.code).toBe('CONNECTION_FAILED')
    expect(error.message).toContain(raw.url)
    // A batch leaves nothing behind, so it is sent again.
    expect(raw.connections()).toBe(2)
  })

  test('does not create a key, rotate or make a token twice', async () => {
    for (const path of ['/v1/keys', '/v1/keys/x/rotate', '/v1/tokens']) {
      const raw = await startRaw(CUTS['in an answer of known length'])
      const keyfold = new Keyfold({ url: raw.url, token: 'kf_test' })
      opened.push(keyfold)
      expect((await failure(keyfold.manage('POST', path, {}))).code).toBe('CONNECTION_FAILED')
      expect(raw.connections()).toBe(1)
    }
  })

  test('nor does a gateway that lost the answer', async () => {
    const { standIn, keyfold } = await connected((response) => response.writeHead(504).end())
    await failure(keyfold.manage('POST', '/v1/keys', {}))
    expect(standIn.requests).toHaveLength(1)
  })
})

test('a server that says nothing is given up after timeoutMs, and the error says so', async () => {
  const { standIn, keyfold } = await connected(() => undefined, { timeoutMs: 50, retriesMax: 0 })
  const { code, message } = await failure(keyfold.manage('GET', LIMITS))
  expect(code).toBe('CONNECTION_FAILED')
  expect(message).toContain('no answer within 50 ms')
  expect(message).toContain(standIn.url)
})

test('an abort ends a request under way, on the server too', async () => {
  const controller = new AbortController()
  let hungUp: () => void = () => undefined
  const closed = new Promise<void>((resolve) => (hungUp = resolve))
  const { keyfold } = await connected((response) => {
    response.on('close', hungUp)
    controller.abort()
  })
  const call = keyfold.encryptBatch('k', [Buffer.alloc(1)], { signal: controller.signal })
  expect((await failure(call)).code).toBe('ABORTED')
  await closed
})

test('a request carries the token, the type and the path it was given', async () => {
  let seen: IncomingMessage['headers'] = {}
  const { standIn, keyfold } = await connected((response, _number, { headers }) => {
    seen = headers
    send(response, 200, { tokens: [] })
  })
  await keyfold.manage('GET', '/v1/tokens?limit=3')
  expect(standIn.requests).toEqual(['GET /v1/tokens?limit=3'])
  expect(seen).toMatchObject({
    authorization: 'Bearer kf_test',
    'content-type': 'application/msgpack',
  })
})

test('no more connections are open at a time than the caller allows, and all is answered', async () => {
  let open: ServerResponse[] = []
  let openMost = 0
  const { standIn, keyfold } = await connected(
    (response) => {
      openMost = Math.max(openMost, open.push(response))
      if (open.length < 3) return
      // A fourth would come now; nobody is answered before there are three.
      setTimeout(() => {
        for (const each of open) send(each, 200, { plaintexts: [Buffer.alloc(1)] })
        open = []
      }, 2)
    },
    { connectionsMax: 3 },
  )
  const calls = Array.from({ length: 30 }, () => keyfold.decryptBatch([Buffer.alloc(1)]))
  await Promise.all(calls)
  expect(standIn.requests).toHaveLength(30)
  expect(openMost).toBe(3)
})

describe('close', () => {
  test('waits for what is under way, and cuts nothing off', async () => {
    let answer: () => void = () => undefined
    let arrive: () => void = () => undefined
    const arrived = new Promise<void>((resolve) => (arrive = resolve))
    const { standIn, keyfold } = await connected((response) => {
      answer = () => send(response, 200, { plaintexts: [Buffer.from('kept')] })
      arrive()
    })
    const result = keyfold.decryptBatch([Buffer.alloc(1)])
    await arrived
    const closed = keyfold.close()
    answer()
    await closed
    expect(await result).toMatchObject({ plaintexts: [Buffer.from('kept')] })
    expect(standIn.requests).toHaveLength(1)
  })

  test('sends the single messages that still wait for company', async () => {
    const service = await startService()
    opened.push(service)
    const keyfold = new Keyfold({
      url: service.url,
      token: service.token,
      gather: { waitMs: 60_000 },
    })
    const key = await service.createKey()
    const sealed = keyfold.encrypt(key, Buffer.from('last'))
    await keyfold.close()
    const other = new Keyfold({ url: service.url, token: service.token })
    opened.push(other)
    expect(Buffer.from(await other.decrypt(await sealed)).toString()).toBe('last')
  })
})
