/** `keyfold key-stores …`: where key material is kept besides the server itself. A secret comes from a file or stdin. */
import { readFileSync } from 'node:fs'
import { InvalidArgumentError, Option, type Command } from 'commander'

import type { Keyfold } from '../client/keyfold.ts'
import {
  COMMON_SETTINGS,
  KEY_STORE_SETTINGS,
  type KeyStoreKind,
} from '../format/key-store-settings.ts'
import type { PlainValue } from '../format/msgpack.ts'
import { addConnectFlags, withServer, type ConnectFlags } from './connect.ts'
import { addPair, type Pairs } from './flags.ts'
import { printFields, printJson, printRows, showTime } from './output.ts'
import { listPages } from './pages.ts'

interface KeyStoreFlags extends ConnectFlags {
  readonly json?: boolean
}

interface ChangeFlags extends KeyStoreFlags {
  readonly set?: Pairs
  readonly secretFile?: string
  readonly keepsOpenKeys?: boolean
}

type Row = Readonly<Record<string, PlainValue>>

export function addKeyStores(program: Command): void {
  const keyStores = program
    .command('key-stores')
    .summary('key stores: HSMs, external key stores, other KMSs')
    .description(
      'Key material is kept by the server itself unless a KMS key names another key store. A key store is named by its ' +
        'id or its name.',
    )
  const add = (name: string, summary: string): Command =>
    addConnectFlags(
      keyStores.command(name).summary(summary).description(summary).option('--json', 'print JSON'),
    )

  addChangeFlags(add('create <name>', 'create a key store; it is not connected yet'))
    .addOption(
      new Option('--kind <kind>', 'what it is')
        .choices(Object.keys(KEY_STORE_SETTINGS))
        .makeOptionMandatory(),
    )
    .addHelpText(
      'after',
      `
Settings of each kind (* is needed):
${Object.keys(KEY_STORE_SETTINGS).map(explainKind).join('\n')}

Settings of every kind:
${Object.entries(COMMON_SETTINGS).map(explain).join('\n')}

Example:
  keyfold key-stores create hsm --kind pkcs11 --set module=luna --secret-file /run/secrets/pin
  keyfold key-stores create bao --kind transit --set url=https://bao.example:8200 --secret-file token \\
    --set certificateAuthority="$(cat ca.pem)"
  keyfold key-stores connect hsm
  keyfold keys create --key-store hsm --alias alias/orders`,
    )
    .action((name: string, flags: ChangeFlags & { readonly kind: string }) =>
      withServer(flags, async (keyfold) => {
        const fields = { name, kind: flags.kind, ...changeOf(flags) }
        show(await keyfold.manage('POST', '/v1/key-stores', fields), flags)
      }),
    )
  addChangeFlags(
    add('update <keyStore>', 'change a key store; most of it while it is disconnected only'),
  )
    .option('--name <name>', 'a new name')
    .action((keyStore: string, flags: ChangeFlags & { readonly name?: string }) =>
      withServer(flags, async (keyfold) => {
        const fields = { name: flags.name, ...changeOf(flags) }
        show(await keyfold.manage('PUT', pathOf(keyStore), fields), flags)
      }),
    )
  add('list', 'list the key stores').action((flags: KeyStoreFlags) =>
    withServer(flags, async (keyfold) => {
      const found = await listPages(keyfold, '/v1/key-stores', 'keyStores')
      if (flags.json === true) printJson(found)
      else printRows(found, ['id', 'name', 'kind', 'connectionState', 'connectionErrorCode'])
    }),
  )
  add('describe <keyStore>', 'show one key store').action(
    (keyStore: string, flags: KeyStoreFlags) =>
      withServer(flags, async (keyfold) =>
        show(await keyfold.manage('GET', pathOf(keyStore)), flags),
      ),
  )
  for (const [change, summary] of [
    ['connect', 'connect a key store, so that its keys can be used'],
    ['disconnect', 'disconnect a key store; its keys are Unavailable until it is connected again'],
  ] as const) {
    add(`${change} <keyStore>`, summary).action((keyStore: string, flags: KeyStoreFlags) =>
      withServer(flags, (keyfold) => changeConnection(keyfold, keyStore, change, flags)),
    )
  }
  add('delete <keyStore>', 'forget a disconnected key store that has no keys').action(
    (keyStore: string, flags: KeyStoreFlags) =>
      withServer(flags, async (keyfold) => {
        const answer = await keyfold.manage('DELETE', pathOf(keyStore))
        if (flags.json === true) printJson(answer)
      }),
  )
}

type Explained = (typeof COMMON_SETTINGS)[string]

function explainKind(kind: string): string {
  const { settings, secret } = KEY_STORE_SETTINGS[kind as KeyStoreKind]
  const own = Object.entries(settings).filter(([name]) => !Object.hasOwn(COMMON_SETTINGS, name))
  return [`  ${kind}`, ...own.map(explain), explain(['--secret-file', secret])].join('\n')
}

function explain([name, { needed, required }]: readonly [string, Explained]): string {
  return `    ${required ? '*' : ' '} ${name.padEnd(NAME_WIDTH)}${needed}`
}

/** The longest is trustAnchorCertificate. */
const NAME_WIDTH = 24

function addChangeFlags(command: Command): Command {
  return command
    .option('--set <name=value>', 'a setting, may be given several times', addPair)
    .option('--secret-file <file>', 'a file with the secret; - is standard input')
    .option(
      '--keeps-open-keys <boolean>',
      'true: what is open of its keys may serve on, until its age, while it is not connected',
      boolean,
    )
}

function boolean(text: string): boolean {
  if (text !== 'true' && text !== 'false') throw new InvalidArgumentError('true or false.')
  return text === 'true'
}

function changeOf({ set, secretFile, keepsOpenKeys }: ChangeFlags) {
  return {
    settings: set,
    secret: secretFile === undefined ? undefined : readSecret(secretFile),
    keepsOpenKeys,
  }
}

/** Without the end of its line, which editors and echo add. */
function readSecret(file: string): string {
  return readFileSync(file === '-' ? 0 : file, 'utf8').replace(/\r?\n$/, '')
}

async function changeConnection(
  keyfold: Keyfold,
  keyStore: string,
  change: 'connect' | 'disconnect',
  flags: KeyStoreFlags,
): Promise<void> {
  const answer = (await keyfold.manage('POST', `${pathOf(keyStore)}/${change}`)) as Row
  show(answer, flags)
  // Scripts go on with its keys.
  if (change === 'connect' && answer['connectionState'] !== 'CONNECTED') process.exitCode = 1
}

function show(keyStore: PlainValue, { json }: KeyStoreFlags): void {
  if (json === true) {
    printJson(keyStore)
    return
  }
  const { createdAtMs, settings, ...fields } = keyStore as Row
  printFields({ ...fields, ...(settings as Row), created: showTime(createdAtMs) })
}

function pathOf(keyStore: string): string {
  return `/v1/key-stores/${encodeURIComponent(keyStore)}`
}
