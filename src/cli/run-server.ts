/** The life of a server: started, announced, and drained when it is told to end. */
import type { Config } from '../config.ts'
import { openEngine } from '../engine.ts'
import { initDataDirectory } from '../init.ts'
import { createLog } from '../server/log.ts'
import { startServer } from '../server/server.ts'

export async function runServer(
  config: Config,
  options: {
    /** A data directory that is new, and a token that is printed. */
    readonly dev: boolean
    readonly readyJson: boolean
    /** When it resolves the server finishes what is under way. */
    readonly stopped: Promise<void>
  },
): Promise<void> {
  const { dev, readyJson, stopped } = options
  const log = createLog(config.logLevel)
  const warn = (message: string): void => log.warn(message)
  // The engine says it a moment later.
  const token = dev ? await initDataDirectory(config, { log: () => undefined }) : undefined
  const engine = await openEngine(config, { log: warn })
  try {
    const server = await startServer(engine, { log })
    const { region, account } = config
    // Nobody reads the greeting: that is no reason for a server to end.
    process.stdout.on('error', () => undefined)
    if (readyJson) {
      console.log(JSON.stringify({ url: server.url, token, region, account, pid: process.pid }))
    } else announce(server.url, token, engine.crypto.implementation)
    await stopped
    log.info('stopping: finishing what is under way')
    await server.drain()
  } finally {
    await engine.close()
  }
}

function announce(url: string, token: string | undefined, implementation: string): void {
  console.log(`keyfold is ready at ${url} (${implementation})`)
  if (token === undefined) return
  console.log(`
The data is temporary and goes when this server stops. In another shell:

  export KEYFOLD_URL=${url}
  export KEYFOLD_TOKEN=${token}
  keyfold keys create --alias alias/first
  echo hello | keyfold encrypt --lines -k alias/first | keyfold decrypt --lines`)
}
