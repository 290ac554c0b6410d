/** A keyfold in this process on a data directory of its own, spoken to over its front door. */
import { chmodSync, cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Packr, unpack } from 'msgpackr'

import { loadConfig, type SettingTexts } from '../dist/config.js'
import { openEngine, type Engine, type EngineOptions } from '../dist/engine.js'
import { initDataDirectory } from '../dist/init.js'
import { createLog } from '../dist/server/log.js'
import { startServer } from '../dist/server/server.js'

/** What a route answered; every field that some route gives. */
export interface Answer {
  readonly code?: string
  readonly message?: string
  readonly requestId?: string
  readonly keyId: string
  readonly arn: string
  readonly ciphertexts: readonly Uint8Array[]
  readonly plaintexts: readonly (Uint8Array | null)[]
  readonly packed: Uint8Array
  readonly keyEntry: Uint8Array
  readonly keyEntries: readonly Uint8Array[]
  readonly errors?: readonly (readonly [number, string])[]
  readonly dataKeys: readonly { readonly wrappedKey: Uint8Array; readonly plaintext?: Uint8Array }[]
}

export interface Service {
  readonly engine: Engine
  readonly url: string
  readonly token: string
  readonly dataDirectory: string
  /** Everything that was logged, at the level of the settings: `error` where they say nothing. */
  readonly logged: readonly string[]
  /** Sends a map to POST /v1/<route> and gives the map that came back, an error's too. */
  call(route: string, fields: Readonly<Record<string, unknown>>): Promise<Answer>
  /** A KMS key of its own. */
  createKey(): Promise<string>
  /** What SIGTERM does to the server; the engine stays open. */
  drain(): Promise<void>
  close(): Promise<void>
}

const packr = new Packr({ useRecords: false, variableMapSize: true })

/** `filesFrom`: a data directory that was made before, of which this one is a copy, and its token. */
export async function startService(
  options: {
    readonly settings?: SettingTexts
    readonly filesFrom?: string
  } & Omit<EngineOptions, 'log'> = {},
): Promise<Service> {
  const dataDirectory = mkdtempSync(join(tmpdir(), 'keyfold-test-'))
  if (options.filesFrom !== undefined) cpSync(options.filesFrom, dataDirectory, { recursive: true })
  for (const entry of readdirSync(dataDirectory, { recursive: true, withFileTypes: true })) {
    // git keeps no modes, and a root key that others can read is refused.
    if (entry.isFile()) chmodSync(join(entry.parentPath, entry.name), 0o600)
  }
  const config = loadConfig({
    flags: { data: dataDirectory, listen: '127.0.0.1:0', ...options.settings },
  })
  const logged: string[] = []
  const serverLog = createLog(options.settings?.logLevel ?? 'error', {
    write: (line) => void logged.push(line),
  })
  const log = { log: (message: string): void => serverLog.warn(message) }
  const token = options.filesFrom === undefined ? await initDataDirectory(config, log) : ''
  const engine = await openEngine(config, { ...options, ...log })
  const admin =
    token === ''
      ? await engine.tokens.create({
          name: 'test',
          principalArn: `arn:aws:iam::${config.account}:root`,
          actions: ['*'],
          keys: ['*'],
        })
      : { token }
  const forget = async (): Promise<void> => {
    await engine.close()
    rmSync(dataDirectory, { recursive: true, force: true })
  }
  const server = await startServer(engine, { log: serverLog }).catch(async (error: unknown) => {
    await forget()
    throw error
  })

  const call: Service['call'] = async (route, fields) => {
    const response = await fetch(`${server.url}/v1/${route}`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${admin.token}`,
        'content-type': 'application/msgpack',
      },
      body: packr.pack(fields),
    })
    return unpack(Buffer.from(await response.arrayBuffer())) as Answer
  }
  return {
    engine,
    url: server.url,
    token: admin.token,
    dataDirectory,
    logged,
    call,
    createKey: async () => (await call('keys', {})).keyId,
    drain: () => server.drain(),
    close: async () => {
      await server.drain()
      await forget()
    },
  }
}

/** The bytes of every file below a data directory. */
export function filesOf(dataDirectory: string): readonly Buffer[] {
  return readdirSync(dataDirectory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => readFileSync(join(entry.parentPath, entry.name)))
}
