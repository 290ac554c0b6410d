/**
 * What `keyfold init` does, once: the data directory with its root key and catalog, and one admin token. Killed
 * half-way it can be run again; a directory that was initialised is refused. Of nodes that share a catalog one does it;
 * the others need the root key and nothing else.
 */
import { mkdirSync } from 'node:fs'

import { openCatalog } from './catalog/catalog.ts'
import { insertRootFiles } from './catalog/root-files.ts'
import { readTokens } from './catalog/tokens.ts'
import type { Config } from './config.ts'
import { chooseCrypto } from './crypto/choose.ts'
import { KeyfoldError } from './errors.ts'
import { firstNewRootKey } from './key-stores/root-key.ts'
import { localRootFiles } from './kms/root-files.ts'
import { Tokens } from './kms/tokens.ts'

/** Returns the admin token, which is kept nowhere. */
export async function initDataDirectory(
  config: Config,
  options: { readonly log: (message: string) => void },
): Promise<string> {
  const crypto = chooseCrypto(config.crypto, { memoryLock: config.memoryLock, log: options.log })
  mkdirSync(config.dataDirectory, { recursive: true, mode: 0o700 })
  // The catalog first: it tells whether there is anything to lose before a root key is made.
  const catalog = await openCatalog(config)
  const { shared } = catalog
  try {
    const tokens = await Tokens.load(catalog)
    if (tokens.list().length > 0) throw initialisedBefore(config, shared)
    const rootKey = await firstNewRootKey(config, crypto)
    try {
      // In its transaction: of several that begin at once one keeps root key and token, and the others have kept nothing.
      const { token } = await tokens.create(
        {
          name: 'admin',
          principalArn: `arn:aws:iam::${config.account}:root`,
          actions: ['*'],
          keys: ['*'],
        },
        async (transaction) => {
          if ((await readTokens(transaction)).length > 0) {
            // Somebody else came first while this transaction was tried again.
            rootKey.discard()
            throw initialisedBefore(config, shared)
          }
          rootKey.keep()
          if (shared) await insertRootFiles(transaction, localRootFiles(config.dataDirectory))
        },
      )
      return token
    } finally {
      rootKey.wipe()
    }
  } finally {
    await catalog.close()
  }
}

function initialisedBefore({ dataDirectory }: Config, shared: boolean): KeyfoldError {
  return new KeyfoldError(
    'CONFIG_INVALID',
    `${shared ? 'the catalog' : dataDirectory} was initialised before; its admin token was shown then`,
  )
}
