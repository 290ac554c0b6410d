/** The server that a command talks to, by --url and --token or KEYFOLD_URL and KEYFOLD_TOKEN. */
import { readFileSync } from 'node:fs'
import type { Command } from 'commander'

import { Keyfold } from '../client/keyfold.ts'
import { clientSettings } from '../config.ts'

export interface ConnectFlags {
  readonly url?: string
  readonly token?: string
  readonly ca?: string
}

export function addConnectFlags(command: Command): Command {
  return command
    .option('--url <url>', 'the server (KEYFOLD_URL; http://127.0.0.1:8790)')
    .option('--token <token>', 'the bearer token (KEYFOLD_TOKEN)')
    .option('--ca <file>', "CA certificates of the server's, PEM")
}

export function connect(flags: ConnectFlags): Keyfold {
  const settings = clientSettings(flags)
  return new Keyfold({
    ...settings,
    ...(flags.ca === undefined ? {} : { tls: { ca: readFileSync(flags.ca, 'utf8') } }),
  })
}

/** Runs `work` with a client and closes it, however it ends. */
export async function withServer(
  flags: ConnectFlags,
  work: (keyfold: Keyfold) => Promise<void>,
): Promise<void> {
  const keyfold = connect(flags)
  try {
    await work(keyfold)
  } finally {
    await keyfold.close()
  }
}
