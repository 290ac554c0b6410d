/** `keyfold serve`: a server until SIGTERM, SIGINT or SIGHUP, which it answers by finishing what is under way. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Option, type Command } from 'commander'

import { flagName, loadConfig, SETTINGS, type Config, type SettingTexts } from '../config.ts'
import { openEngine } from '../engine.ts'
import { initDataDirectory } from '../init.ts'
import { createLog, type Log } from '../server/log.ts'
import { startServer } from '../server/server.ts'
import { readSettings } from './output.ts'

interface ServeFlags extends SettingTexts {
  readonly config?: string
  readonly dev?: boolean
  readonly readyJson?: boolean
}

export function addServe(program: Command): void {
  const command = program
    .command('serve')
    .summary('run a server')
    .description(
      'Runs a server. Each setting is a flag, a variable KEYFOLD_… or a key of the JSON file of --config.',
    )
    .option('--config <file>', 'JSON file of settings')
    .addOption(
      new Option('--dev', 'temporary data, loopback, a token that is printed').conflicts([
        'data',
        'rootKeySource',
        'rootKeyFile',
      ]),
    )
    .option(
      '--ready-json',
      'when ready, one JSON line on stdout: url, token (with --dev), region, account, pid',
    )
  addSettings(command)
  command
    .addHelpText(
      'after',
      `
Examples:
  keyfold serve --dev
  keyfold serve --data /var/lib/keyfold --listen 0.0.0.0:8790 --tls-cert server.pem --tls-key server.key
  KEYFOLD_WORKERS=8 keyfold serve --config keyfold.json        {"data": "/var/lib/keyfold", "region": "eu-west-1"}

SIGTERM, SIGINT and SIGHUP finish what is under way and end it with 0; a second one ends it at once.`,
    )
    .action((flags: ServeFlags) => serve(flags))
}

/** A flag for each setting, or for those that are named. */
export function addSettings(command: Command, names?: readonly (keyof SettingTexts)[]): Command {
  for (const { name, help } of SETTINGS) {
    if (names === undefined || names.includes(name))
      command.option(`--${flagName(name)} <${valueName(name)}>`, help)
  }
  return command
}

const VALUE_NAMES: Readonly<Record<string, string>> = {
  data: 'dir',
  listen: 'host:port',
  tlsCert: 'file',
  tlsKey: 'file',
  clientCa: 'file',
  rootKeyFile: 'file',
}

function valueName(name: string): string {
  return VALUE_NAMES[name] ?? 'value'
}

async function serve({
  config: file,
  dev = false,
  readyJson = false,
  ...flags
}: ServeFlags): Promise<void> {
  const settings = dev ? { ...flags, ...temporaryData() } : flags
  const config = readSettings(() => loadConfig({ flags: settings, file }))
  await run(config, createLog(config.logLevel), { dev, readyJson })
}

/** A directory that goes with the process, however that ends; kill -9 alone leaves it. */
function temporaryData(): SettingTexts {
  const directory = mkdtempSync(join(tmpdir(), 'keyfold-'))
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  // Whatever else is configured: a server to try out touches no root key that somebody needs.
  return { data: directory, rootKeySource: 'file', rootKeyFile: join(directory, 'root.key') }
}

async function run(
  config: Config,
  log: Log,
  { dev, readyJson }: { readonly dev: boolean; readonly readyJson: boolean },
): Promise<void> {
  // Before anything waits: a signal during start-up must find someone.
  const stopped = stopSignal()
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

/** Resolves at the first signal to end; a second one ends the process at once. SIGHUP: the terminal is gone. */
function stopSignal(): Promise<void> {
  return new Promise((resolve) => {
    let signals = 0
    const stop = (): void => {
      if (++signals > 1) process.exit(1)
      resolve()
    }
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, stop)
  })
}
