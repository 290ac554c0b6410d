/** `keyfold tokens …`: who may call, and for what. */
import type { Command } from 'commander'

import type { PlainValue } from '../format/msgpack.ts'
import { addConnectFlags, withServer, type ConnectFlags } from './connect.ts'
import { whole } from './flags.ts'
import { print, printJson, printRows, showTime } from './output.ts'

interface TokensFlags extends ConnectFlags {
  readonly json?: boolean
}

interface CreateFlags extends TokensFlags {
  readonly name: string
  readonly principal?: string
  readonly actions: string
  readonly keys: string
  readonly expiresIn?: number
}

type Row = Readonly<Record<string, PlainValue>>

export function addTokens(program: Command): void {
  const tokens = program
    .command('tokens')
    .summary('bearer tokens')
    .description(
      'A token says who its bearer is and what they may do. The server keeps its hash only.',
    )
  const add = (name: string, summary: string): Command =>
    addConnectFlags(
      tokens.command(name).summary(summary).description(summary).option('--json', 'print JSON'),
    )

  add('create', 'create a token and print it, once')
    .requiredOption('--name <name>', 'stands in lists and in the principal')
    .option('--principal <arn>', 'arn:aws:iam::ACCOUNT:user/NAME')
    .option('--actions <list>', 'patterns, with commas', 'kms:Encrypt,kms:Decrypt')
    .option('--keys <list>', 'key ids, ARNs or patterns of ARNs, with commas', '*')
    .option('--expires-in <seconds>', 'never, if not given', whole)
    .addHelpText(
      'after',
      `
Examples:
  keyfold tokens create --name pipeline --keys 'arn:aws:kms:*:*:key/*'
  keyfold tokens create --name auditor --actions kms:DescribeKey,kms:ListKeys --expires-in 86400

Actions are those of AWS KMS, and keyfold:ManageTokens, keyfold:Lock and keyfold:ReadMetrics. A * stands for any text.`,
    )
    .action((flags: CreateFlags) =>
      withServer(flags, async (keyfold) => {
        const created = (await keyfold.manage('POST', '/v1/tokens', {
          name: flags.name,
          principal: flags.principal,
          actions: flags.actions.split(','),
          keys: flags.keys.split(','),
          expiresInSeconds: flags.expiresIn,
        })) as Row
        if (flags.json === true) printJson(created)
        else print(String(created['token']))
      }),
    )
  add('list', 'list the tokens').action((flags: TokensFlags) =>
    withServer(flags, async (keyfold) => {
      const { tokens: found } = (await keyfold.manage('GET', '/v1/tokens')) as {
        readonly tokens: readonly Row[]
      }
      if (flags.json === true) printJson(found)
      else
        printRows(found.map(shown), [
          'tokenId',
          'name',
          'principal',
          'actions',
          'keys',
          'expires',
          'revoked',
        ])
    }),
  )
  add('revoke <tokenId>', 'refuse a token from now on').action(
    (tokenId: string, flags: TokensFlags) =>
      withServer(flags, async (keyfold) => {
        const answer = await keyfold.manage('DELETE', `/v1/tokens/${encodeURIComponent(tokenId)}`)
        if (flags.json === true) printJson(answer)
      }),
  )
}

function shown(token: Row): Row {
  return {
    ...token,
    expires: showTime(token['expiresAtMs']),
    revoked: showTime(token['revokedAtMs']),
  }
}
