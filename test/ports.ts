/**
 * Ports that a test closes and means to open again, or that nobody is to answer at: a port that the kernel chose is, once
 * it is free, anybody's who asks it for one, and other tests ask all the time.
 */
import { once } from 'node:events'
import { createServer } from 'node:net'

/** Below those that Linux chooses from (ip_local_port_range). */
const PORT_MIN = 20_000
const PORTS = 10_000

/** Files of tests are processes of their own; each begins its search somewhere else. */
let next = (process.pid * 16) % PORTS

/** One of 127.0.0.1 that is free, and stays so until somebody is told it. */
export async function quietPort(): Promise<number> {
  for (let tries = 0; tries < PORTS; tries++) {
    const port = PORT_MIN + next
    next = (next + 1) % PORTS
    const server = createServer()
    try {
      await once(server.listen({ host: '127.0.0.1', port, exclusive: true }), 'listening')
    } catch {
      continue
    }
    await once(server.close(), 'close')
    return port
  }
  throw new Error('no port is free')
}
