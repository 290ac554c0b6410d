/** Flags that name keys for files, and the keyrings that they mean: KMS keys of a server, a key in a file, or both. */
import { readFileSync, statSync } from 'node:fs'
import type { Command } from 'commander'

import type { Keyfold } from '../../client/keyfold.ts'
import { KeyfoldError } from '../../errors.ts'
import { MultiKeyring, type Keyring } from '../../streams/keyring.ts'
import { keyfoldKmsClient } from '../../streams/keyrings/keyfold-kms-client.ts'
import { KmsKeyring } from '../../streams/keyrings/kms-keyring.ts'
import { RawAesKeyring } from '../../streams/keyrings/raw-aes-keyring.ts'
import type { CommitmentPolicy } from '../../streams/options.ts'
import { withServer, type ConnectFlags } from '../connect.ts'
import { readSettings } from '../output.ts'
import { describe } from '../rewrap/census.ts'

export interface KeyFlags extends ConnectFlags {
  /** Key ids, ARNs or aliases. */
  readonly key?: readonly string[]
  readonly rawKeyFile?: string
  readonly keyNamespace: string
  readonly keyName: string
}

const RAW_KEY_BYTES = 32
const OTHERS_MAY = 0o077

export function addKeyFlags(command: Command, keyDescription: string): Command {
  return command
    .option('-k, --key <key>', keyDescription, addKey)
    .option('--raw-key-file <file>', '32 bytes that are the key, in place of or beside KMS keys')
    .option('--key-namespace <name>', 'what the file calls it by (--raw-key-file)', 'keyfold')
    .option('--key-name <name>', 'and which one it is (--raw-key-file)', 'raw')
}

export function addKey(key: string, keys: readonly string[] = []): readonly string[] {
  return [...keys, key]
}

/** Errors: CONFIG_INVALID. */
export function checkKeys({ key, rawKeyFile }: Pick<KeyFlags, 'key' | 'rawKeyFile'>): void {
  if (key !== undefined || rawKeyFile !== undefined) return
  throw new KeyfoldError('CONFIG_INVALID', 'give a KMS key (-k) or --raw-key-file')
}

/** Strict, unless --allow-uncommitted says otherwise. */
export function commitmentPolicyOf({
  allowUncommitted,
}: {
  readonly allowUncommitted?: boolean
}): CommitmentPolicy {
  return allowUncommitted === true
    ? 'REQUIRE_ENCRYPT_ALLOW_DECRYPT'
    : 'REQUIRE_ENCRYPT_REQUIRE_DECRYPT'
}

/** Runs `work` with a keyring of all keys of the flags, and one of the keys of `to`. */
export async function withKeyrings(
  flags: KeyFlags,
  to: readonly string[],
  work: (keyring: Keyring, other: Keyring | undefined) => Promise<void>,
): Promise<void> {
  const { key = [] } = flags
  const raw = readSettings(() => rawKeyring(flags))
  try {
    if (key.length + to.length === 0) {
      await work(raw as Keyring, undefined)
      return
    }
    await withServer(flags, async (keyfold) => {
      const kms = key.length === 0 ? undefined : await kmsKeyring(keyfold, key)
      const other = to.length === 0 ? undefined : await kmsKeyring(keyfold, to)
      const both = kms !== undefined && raw !== undefined ? new MultiKeyring(kms, raw) : undefined
      await work(both ?? kms ?? (raw as Keyring), other)
    })
  } finally {
    raw?.wipe()
  }
}

async function kmsKeyring(keyfold: Keyfold, keys: readonly string[]): Promise<Keyring> {
  const arns: string[] = []
  for (const key of keys) {
    // Whoever may only decrypt need not be able to ask what a key is called.
    arns.push(/^arn:[^/]*:key\//.test(key) ? key : (await describe(keyfold, key)).arn)
  }
  const [generatorKeyId, ...keyIds] = arns
  const client = keyfoldKmsClient(keyfold)
  return readSettings(() => new KmsKeyring({ client, generatorKeyId, keyIds }))
}

function rawKeyring({ rawKeyFile, keyNamespace, keyName }: KeyFlags): RawAesKeyring | undefined {
  if (rawKeyFile === undefined) return undefined
  const stat = statSync(rawKeyFile)
  if (stat.isFile() && (stat.mode & OTHERS_MAY) !== 0) {
    throw new KeyfoldError('CONFIG_INVALID', `${rawKeyFile}: others may read it; chmod 600 it`)
  }
  const wrappingKey = readFileSync(rawKeyFile)
  try {
    if (wrappingKey.length !== RAW_KEY_BYTES) {
      throw new KeyfoldError(
        'CONFIG_INVALID',
        `${rawKeyFile}: ${RAW_KEY_BYTES} bytes are needed, it has ${wrappingKey.length}`,
      )
    }
    return new RawAesKeyring({ namespace: keyNamespace, name: keyName, wrappingKey })
  } finally {
    wrappingKey.fill(0)
  }
}
