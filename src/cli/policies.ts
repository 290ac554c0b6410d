/** `keyfold policy …` and `keyfold identity-policies …`: who may do what, and why. */
import { readFileSync } from 'node:fs'
import type { Command } from 'commander'

import type { PlainValue } from '../format/msgpack.ts'
import { addConnectFlags, withServer, type ConnectFlags } from './connect.ts'
import { addPair, type Pairs } from './flags.ts'
import { print, printFields, printJson, printRows } from './output.ts'

interface PutFlags extends ConnectFlags {
  readonly bypassPolicyLockoutSafetyCheck?: boolean
}

interface ExplainFlags extends ConnectFlags {
  readonly json?: boolean
  readonly principal?: string
  readonly key?: string
  readonly context?: Pairs
}

interface ListFlags extends ConnectFlags {
  readonly json?: boolean
  readonly principal?: string
}

type Row = Readonly<Record<string, PlainValue>>

export function addPolicy(program: Command): void {
  const policy = program
    .command('policy')
    .summary('policies of KMS keys, and what they decide')
    .description('Every KMS key has a policy in AWS’s JSON language.')
  const add = (name: string, summary: string): Command =>
    addConnectFlags(policy.command(name).summary(summary).description(summary))

  add('get <key>', 'print the policy of a key').action((key: string, flags: ConnectFlags) =>
    withServer(flags, async (keyfold) => {
      print(String(((await keyfold.manage('GET', keyPath(key))) as Row)['policy']))
    }),
  )
  add('put <key> <file>', 'replace the policy of a key by a JSON file; - is standard input')
    .option(
      '--bypass-policy-lockout-safety-check',
      'also if you could not put another policy afterwards',
    )
    .action((key: string, file: string, flags: PutFlags) =>
      withServer(flags, async (keyfold) => {
        await keyfold.manage('PUT', keyPath(key), {
          policy: readDocument(file),
          bypassPolicyLockoutSafetyCheck: flags.bypassPolicyLockoutSafetyCheck,
        })
      }),
    )
  add('explain <action>', 'whether a request would be allowed, and by what')
    .option('--key <key>', 'the key that it is about')
    .option('--principal <arn>', 'whose request; yours, if not given')
    .option('-c, --context <key=value>', 'encryption context, may be given several times', addPair)
    .option('--json', 'print JSON')
    .action((action: string, flags: ExplainFlags) =>
      withServer(flags, async (keyfold) => {
        const { by, ...decision } = (await keyfold.manage('POST', '/v1/policy/explain', {
          action,
          key: flags.key,
          principal: flags.principal,
          context: flags.context,
        })) as Row
        if (flags.json === true) printJson({ ...decision, by })
        else printFields({ ...decision, ...(by as Row) })
      }),
    )
}

export function addIdentityPolicies(program: Command): void {
  const policies = program
    .command('identity-policies')
    .summary('policies of users and roles')
    .description(
      'What a user or role may do with every key whose policy leaves that to the account.',
    )
  const add = (name: string, summary: string): Command =>
    addConnectFlags(policies.command(name).summary(summary).description(summary))

  add('list', 'list the policies of all principals, or of one')
    .option('--principal <arn>', 'of this one')
    .option('--json', 'print JSON')
    .action((flags: ListFlags) =>
      withServer(flags, async (keyfold) => {
        const query =
          flags.principal === undefined
            ? ''
            : `?${new URLSearchParams({ principal: flags.principal })}`
        const { policies: found } = (await keyfold.manage(
          'GET',
          `/v1/identity-policies${query}`,
        )) as { readonly policies: readonly Row[] }
        if (flags.json === true) printJson(found)
        else printRows(found, ['principal', 'name'])
      }),
    )
  add('get <principal> <name>', 'print a policy').action(
    (principal: string, name: string, flags: ConnectFlags) =>
      withServer(flags, async (keyfold) => {
        const found = (await keyfold.manage('GET', identityPath(name, principal))) as Row
        print(String(found['policy']))
      }),
  )
  add(
    'put <principal> <name> <file>',
    'attach a policy, or replace it; - is standard input',
  ).action((principal: string, name: string, file: string, flags: ConnectFlags) =>
    withServer(flags, async (keyfold) => {
      await keyfold.manage('PUT', `/v1/identity-policies/${encodeURIComponent(name)}`, {
        principal,
        policy: readDocument(file),
      })
    }),
  )
  add('delete <principal> <name>', 'take a policy away').action(
    (principal: string, name: string, flags: ConnectFlags) =>
      withServer(flags, async (keyfold) => {
        await keyfold.manage('DELETE', identityPath(name, principal))
      }),
  )
}

const STANDARD_INPUT = 0

function readDocument(file: string): string {
  return readFileSync(file === '-' ? STANDARD_INPUT : file, 'utf8')
}

function keyPath(key: string): string {
  return `/v1/keys/${encodeURIComponent(key)}/policy`
}

function identityPath(name: string, principal: string): string {
  const query = new URLSearchParams({ principal })
  return `/v1/identity-policies/${encodeURIComponent(name)}?${query}`
}
