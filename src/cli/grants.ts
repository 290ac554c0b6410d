/** `keyfold grants …`: permissions on one key for one principal, which end without a change of any policy. */
import type { Command } from 'commander'

import type { PlainValue } from '../format/msgpack.ts'
import { addConnectFlags, withServer, type ConnectFlags } from './connect.ts'
import { print, printJson, printRows, showTime } from './output.ts'
import { listPages } from './pages.ts'
import { addPair, type Pairs } from './flags.ts'

interface GrantsFlags extends ConnectFlags {
  readonly json?: boolean
}

interface CreateFlags extends GrantsFlags {
  readonly grantee: string
  readonly operations: string
  readonly retiring?: string
  readonly equals?: Pairs
  readonly subset?: Pairs
  readonly name?: string
}

interface ListFlags extends GrantsFlags {
  readonly key?: string
  readonly grantee?: string
  readonly retiring?: string
}

type Row = Readonly<Record<string, PlainValue>>

export function addGrants(program: Command): void {
  const grants = program
    .command('grants')
    .summary('permissions on one key for one principal')
    .description('A grant lets a principal use a key until it is retired or revoked.')
  const add = (name: string, summary: string): Command =>
    addConnectFlags(
      grants.command(name).summary(summary).description(summary).option('--json', 'print JSON'),
    )

  add('create <key>', 'create a grant and print its id')
    .requiredOption('--grantee <arn>', 'who may use the key: arn:aws:iam::ACCOUNT:user/NAME')
    .requiredOption('--operations <list>', 'Encrypt, Decrypt, GenerateDataKey …, with commas')
    .option('--retiring <arn>', 'who may retire the grant')
    .option('--equals <key=value>', 'what the encryption context has to be', addPair)
    .option('--subset <key=value>', 'what it has to have among others', addPair)
    .option('--name <name>', 'asked for twice under one name, one grant is made')
    .addHelpText(
      'after',
      `
Example:
  keyfold grants create alias/orders --grantee arn:aws:iam::000000000000:user/reports \\
    --operations Decrypt --subset table=orders`,
    )
    .action((key: string, flags: CreateFlags) =>
      withServer(flags, async (keyfold) => {
        const created = (await keyfold.manage('POST', '/v1/grants', {
          key,
          granteePrincipal: flags.grantee,
          operations: flags.operations.split(','),
          retiringPrincipal: flags.retiring,
          encryptionContextEquals: flags.equals,
          encryptionContextSubset: flags.subset,
          name: flags.name,
        })) as Row
        if (flags.json === true) printJson(created)
        else print(String(created['grantId']))
      }),
    )
  add('list', 'list the grants of a key, or those that a principal may retire')
    .option('--key <key>', 'of this key')
    .option('--grantee <arn>', 'of this grantee only; with --key')
    .option('--retiring <arn>', 'of all keys, those that this principal may retire')
    .action((flags: ListFlags) =>
      withServer(flags, async (keyfold) => {
        const { key, grantee: granteePrincipal, retiring: retiringPrincipal } = flags
        const given = Object.entries({ key, granteePrincipal, retiringPrincipal })
        const query = Object.fromEntries(
          given.flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
        ) as Pairs
        const found = await listPages(keyfold, '/v1/grants', 'grants', query)
        if (flags.json === true) printJson(found)
        else printRows(found.map(shown), ['grantId', 'grantee', 'operations', 'name', 'created'])
      }),
    )
  add('retire <grantId>', 'end a grant, as whom it lets').action(
    (grantId: string, flags: GrantsFlags) =>
      withServer(flags, async (keyfold) =>
        done(await keyfold.manage('POST', `${pathOf(grantId)}/retire`, {}), flags),
      ),
  )
  add('revoke <grantId>', 'end a grant, as whom the policy of its key lets').action(
    (grantId: string, flags: GrantsFlags) =>
      withServer(flags, async (keyfold) =>
        done(await keyfold.manage('DELETE', pathOf(grantId)), flags),
      ),
  )
}

/** People see that no error was printed; scripts get their line. */
function done(answer: PlainValue, { json }: GrantsFlags): void {
  if (json === true) printJson(answer)
}

function pathOf(grantId: string): string {
  return `/v1/grants/${encodeURIComponent(grantId)}`
}

function shown(grant: Row): Row {
  return {
    ...grant,
    grantee: grant['granteePrincipal'] ?? '',
    created: showTime(grant['createdAtMs']),
  }
}
