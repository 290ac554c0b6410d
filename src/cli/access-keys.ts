/** `keyfold access-keys …`: what clients of AWS KMS sign with. */
import type { Command } from 'commander'

import type { PlainValue } from '../format/msgpack.ts'
import { XKS_API_PATH } from '../format/xks-protocol.ts'
import { addConnectFlags, withServer, type ConnectFlags } from './connect.ts'
import { whole } from './flags.ts'
import { print, printJson, printRows, showTime } from './output.ts'

interface AccessKeysFlags extends ConnectFlags {
  readonly json?: boolean
}

interface CreateFlags extends AccessKeysFlags {
  readonly principal: string
  readonly temporary?: boolean
  readonly xksPrefix?: string
  readonly expiresIn?: number
}

type Row = Readonly<Record<string, PlainValue>>

export function addAccessKeys(program: Command): void {
  const accessKeys = program
    .command('access-keys')
    .summary('access keys for clients of AWS KMS')
    .description(
      'An access key says who signed a request of the AWS KMS protocol. Key policies say what they may do.',
    )
  const add = (name: string, summary: string): Command =>
    addConnectFlags(
      accessKeys.command(name).summary(summary).description(summary).option('--json', 'print JSON'),
    )

  add('create', 'create an access key and print it, once, as a shell reads it')
    .requiredOption('--principal <arn>', 'arn:aws:iam::ACCOUNT:user/NAME')
    .option('--temporary', 'with a session token; needs --expires-in')
    .option(
      '--xks-prefix <path>',
      'for AWS KMS to sign with, as it uses this server as an external key store proxy: /PREFIX, or / for none. ' +
        'Prints the configuration file that the AWS KMS console takes',
    )
    .option('--expires-in <seconds>', 'never, if not given', whole)
    .action((flags: CreateFlags) =>
      withServer(flags, async (keyfold) => {
        const created = (await keyfold.manage('POST', '/v1/access-keys', {
          principal: flags.principal,
          temporary: flags.temporary,
          xksPrefix: flags.xksPrefix === '/' ? '' : flags.xksPrefix,
          expiresInSeconds: flags.expiresIn,
        })) as Row
        if (flags.json === true) printJson(created)
        else if (flags.xksPrefix !== undefined) printXksConfiguration(created)
        else printExports(created)
      }),
    )
  add('list', 'list the access keys').action((flags: AccessKeysFlags) =>
    withServer(flags, async (keyfold) => {
      const { accessKeys: found } = (await keyfold.manage('GET', '/v1/access-keys')) as {
        readonly accessKeys: readonly Row[]
      }
      if (flags.json === true) printJson(found)
      else
        printRows(found.map(shown), [
          'accessKeyId',
          'principal',
          'xksPath',
          'created',
          'expires',
          'revoked',
        ])
    }),
  )
  add('revoke <accessKeyId>', 'refuse an access key from now on, for good').action(
    (accessKeyId: string, flags: AccessKeysFlags) =>
      withServer(flags, async (keyfold) => {
        const path = `/v1/access-keys/${encodeURIComponent(accessKeyId)}`
        const answer = await keyfold.manage('DELETE', path)
        if (flags.json === true) printJson(answer)
      }),
  )
}

function printExports(created: Row): void {
  for (const [variable, value] of [
    ['AWS_ACCESS_KEY_ID', created['accessKeyId']],
    ['AWS_SECRET_ACCESS_KEY', created['secretAccessKey']],
    ['AWS_SESSION_TOKEN', created['sessionToken']],
  ] as const) {
    if (typeof value === 'string') print(`export ${variable}=${value}`)
  }
}

/** XKS Proxy API, "XKS proxy configuration in AWS KMS console". */
function printXksConfiguration(created: Row): void {
  const configuration = {
    XksProxyUriPath: xksPathOf(created),
    XksProxyAuthenticationCredential: {
      AccessKeyId: created['accessKeyId'],
      RawSecretAccessKey: created['secretAccessKey'],
    },
  }
  print(JSON.stringify(configuration, undefined, 2))
}

function xksPathOf({ xksPrefix }: Row): string {
  return typeof xksPrefix === 'string' ? xksPrefix + XKS_API_PATH : ''
}

function shown(accessKey: Row): Row {
  return {
    ...accessKey,
    xksPath: xksPathOf(accessKey),
    created: showTime(accessKey['createdAtMs']),
    expires: showTime(accessKey['expiresAtMs']),
    revoked: showTime(accessKey['revokedAtMs']),
  }
}
