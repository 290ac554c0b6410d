/**
 * The port of a server: one server's alone while it lives, and the next one's at once when it was killed, whatever its
 * clients hold open. The sockets that are in the way are the kernel's own.
 */
import { readFileSync } from 'node:fs'
import { afterEach, describe, expect, test } from 'vitest'

import { closeListener, createApp, listen, portOf } from '../../dist/server/uws.js'
import { keyfold, serve, type Server } from '../cli/command.ts'
import { quietPort } from '../ports.ts'
import { RawConnection } from './caller.ts'

const QUIET = ['--log-level', 'error']

/** Of the loopback network, and nobody else's: a port of it is not given to another test between two servers. */
const HOST = `127.1.${(process.pid >> 8) & 0xff}.${process.pid & 0xff}`

/** States of sockets that are bound to this port of it, as the kernel numbers them. */
function statesOn(port: number): readonly string[] {
  const hex = (number: number, digits: number): string =>
    number.toString(16).toUpperCase().padStart(digits, '0')
  const octets = HOST.split('.').map((octet) => hex(Number(octet), 2))
  const found = `${octets.reverse().join('')}:${hex(port, 4)}`
  return readFileSync('/proc/net/tcp', 'utf8')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([, local]) => local === found)
    .map(([, , , state]) => state ?? '')
}

const LISTEN = '0A'

describe.runIf(process.platform === 'linux')('the port of a server', () => {
  let server: Server | undefined
  afterEach(async () => {
    await server?.stop()
  })
  const start = (port = 0): Promise<Server> =>
    serve(['--dev', ...QUIET, '--listen', `${HOST}:${port}`])
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
      const second = await keyfold(['serve', '--dev', ...QUIET, '--listen', `${HOST}:${port}`])
      expect(second).toMatchObject({ code: 1, text: '' })
      expect(second.stderr).toContain(`${HOST}:${port} is not free`)
    }
    expect((await fetch(`${server.ready.url}/healthz`)).status).toBe(200)
    expect(statesOn(port).filter((state) => state === LISTEN)).toHaveLength(1)
  })

  test('is one’s alone when several start at once, by whichever name of the address', async () => {
    const port = await quietPort()
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
