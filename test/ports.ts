/**
 * Ports that a test closes and means to open again, or that nobody is to answer at: a port that the kernel chose is, once
 * it is free, anybody's who asks it for one, and other tests ask all the time.
 */
import { once } from 'node:events'
import { createServer, type ListenOptions, type Server } from 'node:net'

/** Below those that Linux chooses from (ip_local_port_range). */
const PORT_MIN = 20_000
const PORTS = 10_000

/** Files of tests are processes of their own; each begins its search somewhere else. */
let next = (process.pid * 16) % PORTS

/** One of 127.0.0.1 that is free, and stays so until somebody is told it. No two processes of tests get the same. */
export async function quietPort(): Promise<number> {
  for (let tries = 0; tries < PORTS; tries++) {
    const port = PORT_MIN + next
    next = (next + 1) % PORTS
    if (!(await claim(port))) continue
    const server = await listening({ host: '127.0.0.1', port, exclusive: true })
    if (server === undefined) continue
    await once(server.close(), 'close')
    return port
  }
  throw new Error('no port is free')
}

/** The same of two that follow each other: the first of them. */
export async function quietPair(): Promise<number> {
  let first = await quietPort()
  for (let tries = 0; tries < PORTS; tries++) {
    const second = await quietPort()
    if (second === first + 1) return first
    first = second
  }
  throw new Error('no two ports in a row are free')
}

/**
 * A name of the kernel's, where it has such (unix(7), "abstract"): one process has it, until it ends, however it ends.
 * Without it, another file of tests that came upon the port would listen there to see whether it is free, at a moment
 * when somebody here counts on nobody.
 */
async function claim(port: number): Promise<boolean> {
  if (process.platform !== 'linux') return true
  const claimed = await listening({ path: `\0keyfold-test-port-${port}` })
  claimed?.unref()
  return claimed !== undefined
}

/** Undefined where somebody else listens. */
async function listening(where: ListenOptions): Promise<Server | undefined> {
  const server = createServer()
  try {
    await once(server.listen(where), 'listening')
    return server
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE') return undefined
    throw error
  }
}
