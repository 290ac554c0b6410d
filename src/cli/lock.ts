/** `keyfold lock`: the emergency brake. */
import type { Command } from 'commander'

import { addConnectFlags, withServer, type ConnectFlags } from './connect.ts'
import { print, printJson } from './output.ts'

export function addLock(program: Command): void {
  addConnectFlags(
    program
      .command('lock')
      .summary('wipe every key in the memory of a server, at once')
      .description(
        'Wipes every key in the memory of the server at once. It answers LOCKED until it is started again, which needs the root key.',
      )
      .option('--json', 'print JSON'),
  ).action((flags: ConnectFlags & { readonly json?: boolean }) =>
    withServer(flags, async (keyfold) => {
      const answer = await keyfold.manage('POST', '/v1/lock')
      if (flags.json === true) printJson(answer)
      else print('locked: the server holds no keys until it is started again')
    }),
  )
}
