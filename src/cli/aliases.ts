/** `keyfold aliases …`: names for KMS keys. */
import type { Command } from 'commander'

import type { PlainValue } from '../format/msgpack.ts'
import { addConnectFlags, withServer, type ConnectFlags } from './connect.ts'
import { printJson, printRows } from './output.ts'
import { listPages } from './pages.ts'

interface AliasesFlags extends ConnectFlags {
  readonly json?: boolean
}

interface ListFlags extends AliasesFlags {
  readonly key?: string
}

export function addAliases(program: Command): void {
  const aliases = program
    .command('aliases')
    .summary('names for KMS keys')
    .description(
      'An alias is a name, alias/NAME, that stands for a KMS key and can be moved to another.',
    )
  const add = (name: string, summary: string): Command =>
    addConnectFlags(
      aliases.command(name).summary(summary).description(summary).option('--json', 'print JSON'),
    )

  add('list', 'list the aliases')
    .option('--key <key>', 'of this key only')
    .action((flags: ListFlags) =>
      withServer(flags, async (keyfold) => {
        const query = flags.key === undefined ? {} : { key: flags.key }
        const found = await listPages(keyfold, '/v1/aliases', 'aliases', query)
        if (flags.json === true) printJson(found)
        else printRows(found, ['name', 'keyId'])
      }),
    )
  add('create <alias> <key>', 'give a key a name').action(
    (alias: string, key: string, flags: AliasesFlags) =>
      withServer(flags, async (keyfold) =>
        done(await keyfold.manage('POST', '/v1/aliases', { alias, key }), flags),
      ),
  )
  add('update <alias> <key>', 'move a name to another key').action(
    (alias: string, key: string, flags: AliasesFlags) =>
      withServer(flags, async (keyfold) =>
        done(await keyfold.manage('PUT', pathOf(alias), { key }), flags),
      ),
  )
  add('delete <alias>', 'delete a name; its key stays').action(
    (alias: string, flags: AliasesFlags) =>
      withServer(flags, async (keyfold) =>
        done(await keyfold.manage('DELETE', pathOf(alias)), flags),
      ),
  )
}

/** People see that no error was printed; scripts get their line. */
function done(answer: PlainValue, { json }: AliasesFlags): void {
  if (json === true) printJson(answer)
}

function pathOf(alias: string): string {
  return `/v1/aliases/${encodeURIComponent(alias)}`
}
