/** The life of a server: started, announced, and drained when it is told to end. */
import type { Config } from '../config.ts'
import { openEngine, type Engine } from '../engine.ts'
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
    const { url } = server
    const credentials = token === undefined ? undefined : await createCredentials(engine, token)
    if (readyJson) {
      console.log(JSON.stringify({ url, ...credentials, region, account, pid: process.pid }))
    } else {
      announce({ url, region, implementation: engine.crypto.implementation }, credentials)
    }
    await stopped
    log.info('stopping: finishing what is under way')
    await server.drain()
  } finally {
    await engine.close()
  }
}

/** What whoever tries a server out signs in with, on either API. */
interface Credentials {
  readonly token: string
  readonly accessKeyId: string
  readonly secretAccessKey: string
}

async function createCredentials(engine: Engine, token: string): Promise<Credentials> {
  const { secretAccessKey, record } = await engine.accessKeys.create({
    principalArn: `arn:aws:iam::${engine.config.account}:root`,
  })
  return { token, accessKeyId: record.accessKeyId, secretAccessKey }
}

function announce(
  server: { readonly url: string; readonly region: string; readonly implementation: string },
  credentials: Credentials | undefined,
): void {
  const { url, region, implementation } = server
  console.log(`keyfold is ready at ${url} (${implementation})`)
  if (credentials === undefined) return
  console.log(`
The data is temporary and goes when this server stops. In another shell:

  export KEYFOLD_URL=${url}
  export KEYFOLD_TOKEN=${credentials.token}
  keyfold keys create --alias alias/first
  echo hello | keyfold encrypt --lines -k alias/first | keyfold decrypt --lines

For whatever speaks to AWS KMS:

  export AWS_ACCESS_KEY_ID=${credentials.accessKeyId}
  export AWS_SECRET_ACCESS_KEY=${credentials.secretAccessKey}
  export AWS_REGION=${region}
  export AWS_ENDPOINT_URL_KMS=${url}`)
}
