/** `keyfold serve`: a server until SIGTERM or SIGINT, which it answers by finishing what is under way. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Command } from 'commander'

import { flagName, loadConfig, SETTINGS, type Config, type SettingTexts } from '../config.ts'
import { openEngine } from '../engine.ts'
import { initDataDirectory } from '../init.ts'
import { createLog, type Log } from '../server/log.ts'
import { startServer } from '../server/server.ts'
import { printJson } from './output.ts'

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
    .option('--dev', 'temporary data, loopback, a token that is printed')
    .option(
      '--ready-json',
      'when ready, one JSON line on stdout: url, token (with --dev), region, account, pid',
    )
  for (const { name, help } of SETTINGS)
    command.option(`--${flagName(name)} <${valueName(name)}>`, help)
  command.action((flags: ServeFlags) => serve(flags))
}

/** Flags of settings for a command that needs no server. */
export function addSettings(command: Command, names: readonly (keyof SettingTexts)[]): Command {
  for (const { name, help } of SETTINGS) {
    if (names.includes(name)) command.option(`--${flagName(name)} <${valueName(name)}>`, help)
  }
  return command
}

function valueName(name: string): string {
  return name === 'listen' ? 'host:port' : name === 'data' ? 'dir' : 'value'
}

async function serve({
  config: file,
  dev = false,
  readyJson = false,
  ...flags
}: ServeFlags): Promise<void> {
  const temporary = dev ? mkdtempSync(join(tmpdir(), 'keyfold-')) : undefined
  try {
    const given = temporary === undefined ? flags : { ...flags, data: temporary }
    const config = loadConfig({ flags: given, file })
    await run(config, createLog(config.logLevel), { dev, readyJson })
  } finally {
    if (temporary !== undefined) rmSync(temporary, { recursive: true, force: true })
  }
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
    if (readyJson) printJson({ url: server.url, token, region, account, pid: process.pid })
    else announce(server.url, token, engine.crypto.implementation)
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

/** Resolves at the first SIGTERM or SIGINT; a second one ends the process at once. */
function stopSignal(): Promise<void> {
  return new Promise((resolve) => {
    let signals = 0
    const stop = (): void => {
      if (++signals > 1) process.exit(1)
      resolve()
    }
    process.on('SIGTERM', stop)
    process.on('SIGINT', stop)
  })
}
