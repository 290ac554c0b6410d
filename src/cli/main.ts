#!/usr/bin/env node
/** The command line: argv to command, one file a command. */
import { readFileSync } from 'node:fs'
import { Command } from 'commander'

import { addAccessKeys } from './access-keys.ts'
import { addAliases } from './aliases.ts'
import { addAudit } from './audit.ts'
import { addDemo } from './demo.ts'
import { addGrants } from './grants.ts'
import { addInit } from './init.ts'
import { addInspect } from './inspect.ts'
import { addKeyStores } from './key-stores.ts'
import { addKeys } from './keys.ts'
import { addCat } from './files/cat.ts'
import { addFiles } from './files/commands.ts'
import { addRekey } from './files/rekey.ts'
import { addLock } from './lock.ts'
import { failWith } from './output.ts'
import { addIdentityPolicies, addPolicy } from './policies.ts'
import { addRewrap } from './rewrap/rewrap.ts'
import { addRootKey } from './root-key.ts'
import { addServe } from './serve.ts'
import { addTokens } from './tokens.ts'

const program = new Command('keyfold')
  .description('Envelope encryption in batches, under KMS keys that you control.')
  .addHelpText(
    'after',
    `
Start:
  keyfold serve --dev                         a server to try out, on loopback, with temporary data
  keyfold init && keyfold serve               a server that stays

Then, with KEYFOLD_URL and KEYFOLD_TOKEN set (or --url and --token):
  keyfold keys create --alias alias/orders
  keyfold encrypt --lines -k alias/orders -c table=orders < rows.txt > rows.enc
  keyfold decrypt --lines -c table=orders < rows.enc
  keyfold encrypt -k alias/backup -r photos --out-dir backup

Exit codes: 0 done, 1 refused or failed, 2 the command line or a setting is wrong.`,
  )
  .version(readVersion(), '--version', 'print the version')
  .showHelpAfterError('(--help shows what there is)')
  .exitOverride((error) => {
    process.exit(error.exitCode === 0 ? 0 : 2)
  })

addServe(program)
addInit(program)
addRootKey(program)
addKeys(program)
addKeyStores(program)
addAliases(program)
addGrants(program)
addTokens(program)
addAccessKeys(program)
addPolicy(program)
addIdentityPolicies(program)
addFiles(program)
addCat(program)
addRekey(program)
addInspect(program)
addRewrap(program)
addLock(program)
addAudit(program)
addDemo(program)

try {
  await program.parseAsync()
} catch (error) {
  failWith(error)
}

function readVersion(): string {
  const file = new URL('../../package.json', import.meta.url)
  return (JSON.parse(readFileSync(file, 'utf8')) as { readonly version: string }).version
}
