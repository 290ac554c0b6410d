/** `keyfold init`: makes a data directory and prints the one admin token. */
import type { Command } from 'commander'

import { loadConfig, type SettingTexts } from '../config.ts'
import { print, printJson, readSettings } from './output.ts'
import { addSettings } from './serve.ts'

export function addInit(program: Command): void {
  const command = program
    .command('init')
    .summary('create a data directory')
    .description(
      'Creates the data directory with its root key and catalog, and prints one admin token: it is shown now and never again.',
    )
    .option('--config <file>', 'JSON file of settings')
    .option('--json', 'print JSON')
  addSettings(command, [
    'data',
    'catalog',
    'catalogPasswordFile',
    'region',
    'account',
    'rootKeySource',
    'rootKeyFile',
    'rootKeyStore',
    'rootKeyShareFiles',
    'crypto',
  ])
  command.addHelpText(
    'after',
    `
Examples:
  keyfold init --data /var/lib/keyfold
  KEYFOLD_ROOT_KEY=$(cat /run/secrets/root-key) keyfold init --root-key-source environment
  keyfold init --catalog postgres://keyfold@db.example/keyfold --catalog-password-file /run/secrets/catalog`,
  )
  command.action(
    async (flags: SettingTexts & { readonly config?: string; readonly json?: boolean }) => {
      const { config: file, json = false, ...settings } = flags
      const config = readSettings(() => loadConfig({ flags: settings, file }))
      const { initDataDirectory } = await import('../init.ts')
      const token = await initDataDirectory(config, { log: (message) => console.error(message) })
      if (json) {
        printJson({ data: config.dataDirectory, token })
        return
      }
      print(`created ${config.dataDirectory}`)
      if (config.rootKey.source === 'file') {
        print(
          `root key: ${config.rootKey.file}. Keep a copy elsewhere: without it the data is noise.`,
        )
      }
      print(`admin token, shown once:\n${token}`)
    },
  )
}
