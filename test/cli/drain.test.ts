/** A server that is told to end in the middle of its work. */
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { pack, unpack } from 'msgpackr'
import { describe, expect, test } from 'vitest'

import { quietPort } from '../ports.ts'
import { inDirectory, serve, type Server } from './command.ts'

/** Requests that a single worker needs seconds for, known to be under way. */
async function keepBusy({ ready }: Server): Promise<Promise<Response>[]> {
  const send = (method: string, path: string, fields?: object): Promise<Response> =>
    fetch(ready.url + path, {
      method,
      headers: {
        authorization: `Bearer ${ready.token ?? ''}`,
        'content-type': 'application/msgpack',
      },
      ...(fields === undefined ? {} : { body: pack(fields) }),
    })
  await send('POST', '/v1/keys', { alias: 'alias/busy' })
  const plaintexts = Array.from({ length: 65_536 }, () => Buffer.from('a row'))
  const answers = Array.from({ length: BUSY_REQUESTS }, () =>
    send('POST', '/v1/encrypt', { key: 'alias/busy', plaintexts }),
  )
  const requestBytes = pack({ plaintexts }).length
  for (let bytes = 0; bytes < BUSY_REQUESTS * requestBytes;) {
    const text = await (await send('GET', '/metrics')).text()
    bytes = Number(/^keyfold_bytes_in_flight (\d+)$/m.exec(text)?.[1])
  }
  return answers
}

const BUSY_REQUESTS = 4
const BUSY_FLAGS = ['--dev', '--crypto', 'node', '--workers', '1', '--log-level', 'info']

describe('a server that is told to end while it works', () => {
  test('answers what is under way, takes nothing new, and ends with 0', async () => {
    // Nobody else's once it is gone.
    const server = await serve([...BUSY_FLAGS, '--listen', `127.0.0.1:${await quietPort()}`])
    const answers = await keepBusy(server)
    const ended = server.stop('SIGTERM')
    const read = async (answering: Promise<Response>): Promise<void> => {
      const answer = await answering
      expect(answer.status).toBe(200)
      const fields = unpack(Buffer.from(await answer.arrayBuffer())) as { ciphertexts: unknown[] }
      expect(fields.ciphertexts).toHaveLength(65_536)
    }
    await Promise.all(answers.map(read))
    expect((await ended).code).toBe(0)
    expect((await ended).stderr).toContain('finishing what is under way')
    await expect(fetch(`${server.ready.url}/healthz`)).rejects.toThrow()
  })

  test('ends at once when it is told again, and its data goes all the same', () =>
    inDirectory(async (directory) => {
      const server = await serve(BUSY_FLAGS, { env: { TMPDIR: directory } })
      const answers = await keepBusy(server)
      // Each is longer than what sockets take by themselves: as long as nobody reads them, the server has to wait.
      const heads = Promise.allSettled(answers)
      server.child.kill('SIGTERM')
      await once(server.child.stderr as never, 'data')
      expect((await server.stop('SIGINT')).code).toBe(1)
      await heads
      const outcomes = await Promise.allSettled(
        answers.map(async (answer) => (await answer).arrayBuffer()),
      )
      expect(outcomes.some(({ status }) => status === 'rejected')).toBe(true)
      expect(readdirSync(directory)).toEqual([])
    }))
})
