/** The server that a command talks to, by --url and --token or KEYFOLD_URL and KEYFOLD_TOKEN. */
import { readFileSync } from 'node:fs'
import type { Command } from 'commander'

import { Keyfold } from '../client/keyfold.ts'
import { clientSettings } from '../config.ts'
import { KeyfoldError } from '../errors.ts'
import { readSettings } from './output.ts'

export interface ConnectFlags {
  readonly url?: string
  readonly token?: string
  readonly ca?: string
  readonly clientCert?: string
  readonly clientKey?: string
}

export function addConnectFlags(command: Command): Command {
  return command
    .option('--url <url>', 'the server (KEYFOLD_URL; http://127.0.0.1:8790)')
    .option('--token <token>', 'the bearer token (KEYFOLD_TOKEN)')
    .option('--ca <file>', "CA certificates of the server's, PEM")
    .option('--client-cert <file>', 'certificate for a server that asks for one, PEM')
    .option('--client-key <file>', 'and its private key, PEM')
}

/** Runs `work` with a client and closes it, however it ends. */
export async function withServer(
  flags: ConnectFlags,
  work: (keyfold: Keyfold) => Promise<void>,
): Promise<void> {
  const keyfold = readSettings(() => connect(flags))
  try {
    await work(keyfold)
  } finally {
    await keyfold.close()
  }
}

function connect(flags: ConnectFlags): Keyfold {
  const { ca, clientCert, clientKey } = flags
  if ((clientCert === undefined) !== (clientKey === undefined)) {
    throw new KeyfoldError('CONFIG_INVALID', '--client-cert and --client-key are needed together')
  }
  const files = Object.entries({ ca, cert: clientCert, key: clientKey })
  const pem = files.flatMap(([name, file]) =>
    file === undefined ? [] : [[name, readFileSync(file, 'utf8')] as const],
  )
  return new Keyfold({ ...clientSettings(flags), tls: Object.fromEntries(pem) })
}
