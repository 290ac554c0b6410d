/** `keyfold keys …`: KMS keys. A key is named by its id, ARN or alias. */
import type { Command } from 'commander'

import type { Keyfold } from '../client/keyfold.ts'
import type { PlainValue } from '../format/msgpack.ts'
import { addConnectFlags, withServer, type ConnectFlags } from './connect.ts'
import { printFields, printJson, printRows, showTime } from './output.ts'
import { listPages } from './pages.ts'
import { addPair, type Pairs } from './flags.ts'

interface KeysFlags extends ConnectFlags {
  readonly json?: boolean
}

interface CreateFlags extends KeysFlags {
  readonly description?: string
  readonly alias?: string
  readonly tag?: Pairs
}

export function addKeys(program: Command): void {
  const keys = program
    .command('keys')
    .summary('KMS keys')
    .description('Creates, shows and changes KMS keys.')
  const add = (name: string, summary: string): Command =>
    addConnectFlags(
      keys.command(name).summary(summary).description(summary).option('--json', 'print JSON'),
    )

  add('create', 'create a KMS key')
    .option('--description <text>', 'what it is for')
    .option('--alias <alias>', 'alias/NAME, a name that can move to another key later')
    .option('--tag <key=value>', 'may be given several times', addPair)
    .addHelpText(
      'after',
      `
Example:
  keyfold keys create --alias alias/orders --description 'rows of orders' --tag team=billing`,
    )
    .action((flags: CreateFlags) =>
      withServer(flags, async (keyfold) => show(await create(keyfold, flags), flags)),
    )
  add('list', 'list the KMS keys').action((flags: KeysFlags) =>
    withServer(flags, async (keyfold) => {
      const found = await listPages(keyfold, '/v1/keys', 'keys')
      if (flags.json === true) printJson(found)
      else printRows(found, ['keyId', 'arn'])
    }),
  )
  add('describe <key>', 'show one KMS key').action((key: string, flags: KeysFlags) =>
    withServer(flags, async (keyfold) => show(await keyfold.manage('GET', pathOf(key)), flags)),
  )
  for (const [change, summary] of [
    ['enable', 'let a key be used again'],
    ['disable', 'nothing is encrypted or decrypted under the key until it is enabled'],
    ['rotate', 'new key material; what was encrypted before still decrypts'],
  ] as const) {
    add(`${change} <key>`, summary).action((key: string, flags: KeysFlags) =>
      withServer(flags, async (keyfold) =>
        show(await keyfold.manage('POST', `${pathOf(key)}/${change}`), flags),
      ),
    )
  }
}

function create(keyfold: Keyfold, { description, alias, tag }: CreateFlags): Promise<PlainValue> {
  return keyfold.manage('POST', '/v1/keys', { description, alias, tags: tag })
}

function show(key: PlainValue, { json }: KeysFlags): void {
  if (json === true) {
    printJson(key)
    return
  }
  const { createdAtMs, ...fields } = key as Readonly<Record<string, PlainValue>>
  printFields({ ...fields, created: showTime(createdAtMs) })
}

function pathOf(key: string): string {
  return `/v1/keys/${encodeURIComponent(key)}`
}
