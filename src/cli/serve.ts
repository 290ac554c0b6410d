/** `keyfold serve`: its flags, its temporary data, and the signals that end it. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Option, type Command } from 'commander'

import { loadConfig, type SettingTexts } from '../config.ts'
import { flagName, SETTINGS } from '../config/settings.ts'
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
      new Option('--dev', 'temporary data, loopback, a token and an access key, printed').conflicts(
        ['data', 'catalog', 'rootKeySource', 'rootKeyFile', 'rootKeyStore', 'rootKeyShareFiles'],
      ),
    )
    .option(
      '--ready-json',
      'when ready, one JSON line on stdout: url, region, account, pid; with --dev token, accessKeyId, secretAccessKey',
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
  catalog: 'url',
  catalogPasswordFile: 'file',
  listen: 'host:port',
  tlsCert: 'file',
  tlsKey: 'file',
  clientCa: 'file',
  rootKeyFile: 'file',
  pkcs11Modules: 'file',
  rootKeyStore: 'file',
  rootKeyShareFiles: 'files',
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
  // Before there is anything to lose: a signal during start-up must find someone.
  const stopped = stopSignal()
  const settings = dev ? { ...flags, ...temporaryData() } : flags
  const config = readSettings(() => loadConfig({ flags: settings, file }))
  // What a server is made of loads here: the other commands start in a third of the time without it.
  const { runServer } = await import('./run-server.ts')
  await runServer(config, { dev, readyJson, stopped })
}

/** A directory that goes with the process, however that ends; kill -9 alone leaves it. */
function temporaryData(): SettingTexts {
  const directory = mkdtempSync(join(tmpdir(), 'keyfold-'))
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  // Whatever else is configured: a server to try out touches no catalog and no root key that somebody needs.
  return {
    data: directory,
    catalog: 'embedded',
    rootKeySource: 'file',
    rootKeyFile: join(directory, 'root.key'),
  }
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
