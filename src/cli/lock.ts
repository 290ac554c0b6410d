/** `keyfold lock`: the emergency brake. */
import type { Command } from 'commander'

import { addConnectFlags, withServer, type ConnectFlags } from './connect.ts'

export function addLock(program: Command): void {
  addConnectFlags(
    program
      .command('lock')
      .summary('wipe every key in the memory of a server, at once')
      .description(
        'Wipes every key in the memory of the server at once. It answers LOCKED until it is started again, which needs the root key.',
      ),
  ).action((flags: ConnectFlags) =>
    withServer(flags, async (keyfold) => {
      await keyfold.manage('POST', '/v1/lock')
      console.log('locked: the server holds no keys until it is started again')
    }),
  )
}
