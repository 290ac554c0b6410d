/** How a server stops: what is under way is answered, what comes is refused, and connections that wait are closed. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { WebSocket } from 'ws'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

import { quietPort } from '../ports.ts'
import { startService, type Answer, type Service } from '../service.ts'
import { bearer, eventually, pack, RawConnection, unpack } from './caller.ts'

const MAIN = join(import.meta.dirname, '../../dist/cli/main.js')

/** A request whose last byte is still to come; `finish` sends it. */
async function beginRequest(
  service: Pick<Service, 'url' | 'token'>,
  fields: unknown,
): Promise<{ readonly connection: RawConnection; finish(): void }> {
  const body = pack(fields)
  const connection = await RawConnection.open(service)
  connection.request('POST /v1/encrypt', { ...bearer(service), 'Content-Length': body.length })
  connection.write(body.subarray(0, -1))
  return { connection, finish: () => connection.write(body.subarray(-1)) }
}

const answerOf = (bytes: Uint8Array): Answer => unpack(bytes) as Answer

describe('a drain', () => {
  let service: Service
  let keyId: string
  beforeEach(async () => {
    // Nobody else's once it has stopped to listen.
    service = await startService({ settings: { listen: `127.0.0.1:${await quietPort()}` } })
    keyId = await service.createKey()
  })
  afterEach(() => service.close())

  const large = (): unknown => ({
    key: keyId,
    plaintexts: Array.from({ length: 80 }, () => Buffer.alloc(100_000)),
  })

  test('waits for a body that is on its way, and refuses what begins meanwhile', async () => {
    const idle = await RawConnection.open(service)
    idle.request('GET /healthz')
    await idle.answer()
    const { connection, finish } = await beginRequest(service, large())
    await eventually(() => service.engine.slots.bytesInUse > 0)

    const drained = service.drain()
    for (const line of ['POST /v1/encrypt', 'GET /v1/limits', 'GET /readyz']) {
      idle.request(line, bearer(service))
      const { status, head, body } = await idle.answer()
      const { code } = line.endsWith('readyz')
        ? (JSON.parse(body.toString()) as Answer)
        : answerOf(body)
      expect([line, status, code]).toEqual([line, 503, 'SHUTTING_DOWN'])
      expect(head).toMatch(/^Retry-After: 1$/im)
    }
    idle.request('GET /healthz')
    expect((await idle.answer()).status).toBe(200)
    await expect(RawConnection.open(service)).rejects.toMatchObject({ code: 'ECONNREFUSED' })

    finish()
    const { status, body } = await connection.answer()
    expect(status).toBe(200)
    expect(answerOf(body).ciphertexts).toHaveLength(80)
    await drained
    await Promise.all([idle.closed, connection.closed])
  })

  test('waits for the last byte of a large answer', async () => {
    const { connection, finish } = await beginRequest(service, large())
    connection.socket.pause()
    finish()
    const { counters } = service.engine
    await eventually(() => counters().inlineBatches + counters().pooledBatches > 0)
    const drained = service.drain()
    connection.socket.resume()
    expect(answerOf((await connection.answer()).body).ciphertexts).toHaveLength(80)
    await drained
    await connection.closed
  })

  test('closes connections that wait, at once where nothing is under way', async () => {
    const connections = await Promise.all([1, 2, 3].map(() => RawConnection.open(service)))
    for (const connection of connections) {
      connection.request('GET /healthz')
      await connection.answer()
    }
    await service.drain()
    await Promise.all(connections.map(({ closed }) => closed))
  })

  test('is not held up by a caller who went away', async () => {
    const { connection } = await beginRequest(service, large())
    await eventually(() => service.engine.slots.bytesInUse > 0)
    const drained = service.drain()
    connection.destroy()
    await drained
    expect(service.engine.slots.bytesInUse).toBe(0)
  })

  test('answers the frames of a WebSocket that are under way, refuses more, and says goodbye', async () => {
    const { connection, finish } = await beginRequest(service, large())
    await eventually(() => service.engine.slots.bytesInUse > 0)
    const socket = new WebSocket(`${service.url.replace('http', 'ws')}/v1/ws`, {
      headers: { authorization: `Bearer ${service.token}` },
    })
    await once(socket, 'open')
    const answers = new Map<number, Answer>()
    socket.on('message', (frame: Buffer) =>
      answers.set(frame.readUInt32BE(0), answerOf(frame.subarray(5))),
    )
    const closed = once(socket, 'close')
    const ask = (id: number): void =>
      socket.send(Buffer.concat([Buffer.from([0, 0, 0, id, 1]), pack(large())]))
    const { counters } = service.engine
    ask(1)
    await eventually(() => counters().sealMisses > 0)
    const drained = service.drain()
    ask(2)
    await eventually(() => answers.size === 2)
    expect(answers.get(1)?.ciphertexts).toHaveLength(80)
    expect(answers.get(2)?.code).toBe('SHUTTING_DOWN')
    finish()
    expect((await connection.answer()).status).toBe(200)
    await drained
    expect((await closed)[0]).toBe(1001)
  })
})

describe('SIGTERM', () => {
  let child: ChildProcess
  afterEach(() => void child.kill('SIGKILL'))

  test('ends a server when what was under way is answered', async () => {
    child = spawn(
      process.execPath,
      [MAIN, 'serve', '--dev', '--listen', '127.0.0.1:0', '--ready-json'],
      {
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    )
    const exited = once(child, 'exit')
    let logged = ''
    child.stderr?.on('data', (bytes: Buffer) => (logged += bytes.toString()))
    const [line] = (await once(createInterface(child.stdout as NodeJS.ReadableStream), 'line')) as [
      string,
    ]
    const server = JSON.parse(line) as { url: string; token: string }
    const created = await fetch(`${server.url}/v1/keys`, {
      method: 'POST',
      headers: { authorization: `Bearer ${server.token}`, accept: 'application/json' },
    })
    const { keyId } = (await created.json()) as Answer

    const idle = await RawConnection.open(server)
    idle.request('GET /healthz')
    await idle.answer()
    const { connection, finish } = await beginRequest(server, {
      key: keyId,
      plaintexts: [Buffer.alloc(3_000_000)],
    })
    // Its head is there once an answer to a later request is.
    idle.request('GET /healthz')
    await idle.answer()
    child.kill('SIGTERM')
    for (let status = 200; status === 200;) {
      idle.request('GET /v1/limits', bearer(server))
      status = (await idle.answer()).status
    }
    expect(child.exitCode).toBeNull()
    finish()
    const { status, body } = await connection.answer()
    expect(status).toBe(200)
    expect(answerOf(body).ciphertexts).toHaveLength(1)
    await idle.closed
    expect(await exited).toEqual([0, null])
    expect(logged).toContain('stopping')
    expect(logged).not.toContain(server.token.split('_')[2])
  })
})
