/** `keyfold root-key`: the root key of a data directory, for operators on its machine. No server is asked. */
import { InvalidArgumentError, type Command } from 'commander'

import { loadConfig, type Config, type SettingTexts } from '../config.ts'
import { print, printFields, printJson, readSettings } from './output.ts'
import { addSettings } from './serve.ts'

type Flags = SettingTexts & { readonly config?: string; readonly json?: boolean }

const log = (message: string): void => console.error(message)

export function addRootKey(program: Command): void {
  const rootKey = program
    .command('root-key')
    .summary('seal, share or rotate the root key of a data directory')
    .description(
      'Seals the root key by a key store, splits it into shares, or gives the data directory another one.',
    )
    .addHelpText(
      'after',
      `
Examples:
  keyfold root-key seal --data /var/lib/keyfold          reads root-store.json there, writes root.sealed
  keyfold serve --data /var/lib/keyfold --root-key-source sealed
  keyfold root-key seal --catalog postgres://…           once: the other nodes fetch what it sealed
  keyfold root-key shares --new --threshold 3 --shares 5
  keyfold init --root-key-source shares --root-key-share-files a,b,c
  keyfold root-key rotate --data /var/lib/keyfold        with the server stopped
  keyfold root-key prepare --catalog postgres://…        then hand root.key.next to each node and restart it, then rotate

root-store.json:
  {"kind": "aws-kms", "region": "eu-west-1", "keyId": "arn:aws:kms:eu-west-1:111122223333:key/…"}

Where the root key is not a file, a rotation is handed the one to move to: KEYFOLD_ROOT_KEY_NEXT,
KEYFOLD_PASSPHRASE_NEXT, KEYFOLD_ROOT_KEY_SHARES_NEXT. Backups of the catalog from before it need the old root key.`,
    )
  addStatus(rootKey)
  addSeal(rootKey)
  addShares(rootKey)
  addPrepare(rootKey)
  addRotate(rootKey)
}

function addStatus(parent: Command): void {
  const command = parent.command('status').summary('whether the root key is right, and its version')
  settingsOf(command).action(async (flags: Flags) => {
    const config = configOf(flags)
    const { rootKeyStatus } = await import('../root-key.ts')
    const { version, previousVersion, nextVersion } = await rootKeyStatus(config, { log })
    const prepared = nextVersion === undefined ? 'none' : `prepared to version ${nextVersion}`
    const status = {
      source: config.rootKey.source,
      version,
      rotation: previousVersion === undefined ? prepared : `from version ${previousVersion}`,
    }
    if (flags.json === true) printJson(status)
    else printFields(status)
  })
}

function addSeal(parent: Command): void {
  const command = parent.command('seal').summary('have a key store seal the root key')
  settingsOf(command).action(async (flags: Flags) => {
    const config = configOf(flags)
    const { sealPresentRootKey } = await import('../root-key.ts')
    const file = await sealPresentRootKey(config, { log })
    if (flags.json === true) {
      printJson({ sealed: file })
      return
    }
    if (config.catalog === undefined) {
      print(`sealed: ${file}. Start with --root-key-source sealed.`)
    } else {
      print(
        'sealed, for every node: each fetches it from the catalog. Give each the same root-store.json',
      )
      print(
        'and what that names, and restart it with --root-key-source sealed; until then it goes on as it is.',
      )
    }
    if (config.rootKey.source === 'file') {
      const where = config.catalog === undefined ? '' : ', as on every other node'
      print(
        `${config.rootKey.file} is still there${where}: keep it elsewhere, or rotate the root key.`,
      )
    }
  })
}

function addShares(parent: Command): void {
  const command = parent
    .command('shares')
    .summary('print shares of the root key, once')
    .requiredOption('--threshold <number>', 'how many shares give the root key', number)
    .requiredOption('--shares <number>', 'how many there are', number)
    .option('--new', 'of a new root key, for init or for a rotation')
  settingsOf(command).action(
    async (
      flags: Flags & {
        readonly threshold: number
        readonly shares: number
        readonly new?: boolean
      },
    ) => {
      const { threshold, shares, new: ofNewRootKey = false, ...rest } = flags
      const { createRootKeyShares } = await import('../root-key.ts')
      const options = { threshold, shares, ofNewRootKey, log }
      const lines = await createRootKeyShares(configOf(rest), options)
      if (flags.json === true) printJson({ threshold, shares: lines })
      else for (const line of lines) print(line)
    },
  )
}

function addPrepare(parent: Command): void {
  const command = parent
    .command('prepare')
    .summary('of a shared catalog: announce the root key that a rotation moves to')
    .option('--next-share-files <files>', 'shares of the root key to move to, comma-separated')
    .option('--again', 'another one in place of the one that is announced')
  settingsOf(command).action(
    async (flags: Flags & { readonly nextShareFiles?: string; readonly again?: boolean }) => {
      const { nextShareFiles, again = false, ...rest } = flags
      const { prepareRootRotation } = await import('../root-key.ts')
      const files = nextShareFiles?.split(',') ?? []
      const options = { nextShareFiles: files, again, log }
      const version = await prepareRootRotation(configOf(rest), options)
      if (flags.json === true) printJson({ version })
      else
        print(`version ${version} is announced: give it to every node, restart each, then rotate`)
    },
  )
}

function addRotate(parent: Command): void {
  const command = parent
    .command('rotate')
    .summary('another root key; everything is sealed anew and the old one destroyed')
    .option('--next-share-files <files>', 'shares of the root key to move to, comma-separated')
  settingsOf(command).action(async (flags: Flags & { readonly nextShareFiles?: string }) => {
    const { nextShareFiles, ...rest } = flags
    const { rotateRootKey } = await import('../root-key.ts')
    const files = nextShareFiles?.split(',') ?? []
    const version = await rotateRootKey(configOf(rest), { nextShareFiles: files, log })
    if (flags.json === true) printJson({ version })
    else print(`the root key is of version ${version}; the one before is gone`)
  })
}

function settingsOf(command: Command): Command {
  command.option('--config <file>', 'JSON file of settings').option('--json', 'print JSON')
  return addSettings(command, [
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
}

function configOf({ config: file, ...flags }: Flags): Config {
  return readSettings(() => loadConfig({ flags, file }))
}

function number(text: string): number {
  if (!/^[1-9]\d?$/.test(text)) throw new InvalidArgumentError('A whole number is needed.')
  return Number(text)
}
