/**
 * The port of a server: one server's alone while it lives, and the next one's at once when it was killed, whatever its
 * clients hold open. The sockets that are in the way are the kernel's own.
 */
import { readFileSync } from 'node:fs'
import { afterEach, describe, expect, test } from 'vitest'

import { closeListener, createApp, listen, portOf } from '../../dist/server/uws.js'
import { keyfold, serve, type Server } from '../cli/command.ts'
import { RawConnection } from './caller.ts'

const QUIET = ['--log-level', 'error']

/** States of sockets that are bound to this port, as the kernel numbers them. */
function statesOn(port: number): readonly string[] {
  const hex = port.toString(16).toUpperCase().padStart(4, '0')
  return readFileSync('/proc/net/tcp', 'utf8')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([, local]) => local?.endsWith(`:${hex}`) === true)
    .map(([, , , state]) => state ?? '')
}

const LISTEN = '0A'

describe.runIf(process.platform === 'linux')('the port of a server', () => {
  let server: Server | undefined
  afterEach(async () => {
    await server?.stop()
  })
  const start = (port = 0): Promise<Server> =>
    serve(['--dev', ...QUIET, '--listen', `127.0.0.1:${port}`])
  const portOfServer = ({ ready }: Server): number => Number(new URL(ready.url).port)

  test.each(['chosen by the kernel', 'told'])(
    'is the next one’s at once when it was killed under a client that stays connected (%s)',
    async (how) => {
      server = await start()
      const port = portOfServer(server)
      if (how === 'told') {
        await server.stop()
        server = await start(port)
      }
      for (let i = 0; i < 2; i++) {
        const idle = await RawConnection.open({ url: server.ready.url })
        // The client does not close its half: the kernel goes on holding the other one.
        idle.socket.allowHalfOpen = true
        idle.request('GET /healthz')
        expect((await idle.answer()).status).toBe(200)
        await server.stop('SIGKILL')
        const left = statesOn(port)
        expect(left).not.toContain(LISTEN)
        expect(left.length).toBeGreaterThan(0)
        server = await start(port)
        expect((await fetch(`${server.ready.url}/healthz`)).status).toBe(200)
        idle.socket.destroy()
      }
    },
  )

  test('is nobody else’s while it lives', async () => {
    server = await start()
    const port = portOfServer(server)
    for (let i = 0; i < 2; i++) {
      const second = await keyfold(['serve', '--dev', ...QUIET, '--listen', `127.0.0.1:${port}`])
      expect(second).toMatchObject({ code: 1, text: '' })
      expect(second.stderr).toContain(`127.0.0.1:${port} is not free`)
    }
    expect((await fetch(`${server.ready.url}/healthz`)).status).toBe(200)
    expect(statesOn(port).filter((state) => state === LISTEN)).toHaveLength(1)
  })

  test('is one’s alone when several start at once, by whichever name of the address', async () => {
    const first = await listen(createApp(undefined), '127.0.0.1', 0)
    const port = portOf(first)
    closeListener(first)
    const hosts = ['127.0.0.1', 'localhost', '0.0.0.0', '127.0.0.1']
    const started = await Promise.allSettled(
      hosts.map((host) => listen(createApp(undefined), host, port)),
    )
    const listening = started.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
    expect(listening.map(portOf)).toEqual([port])
    for (const one of started) {
      if (one.status === 'fulfilled') continue
      expect(one.reason).toMatchObject({ code: 'CONFIG_INVALID' })
      expect(String(one.reason)).toMatch(/:\d+ is not free/)
    }
    listening.forEach(closeListener)
  })

  test('is another one for each that asks for any', async () => {
    const listening = await Promise.all(
      Array.from({ length: 20 }, () => listen(createApp(undefined), '127.0.0.1', 0)),
    )
    expect(new Set(listening.map(portOf)).size).toBe(20)
    listening.forEach(closeListener)
  })
})
