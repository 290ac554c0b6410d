/** `keyfold keys …`: KMS keys. A key is named by its id, ARN or alias. */
import type { Command } from 'commander'

import type { Keyfold } from '../client/keyfold.ts'
import type { PlainValue } from '../format/msgpack.ts'
import { addConnectFlags, withServer, type ConnectFlags } from './connect.ts'
import { printFields, printJson, printRows, showTime } from './output.ts'
import { listPages } from './pages.ts'
import { addPair, type Pairs } from './flags.ts'

interface KeysFlags extends ConnectFlags {
  readonly json?: boolean
}

interface CreateFlags extends KeysFlags {
  readonly description?: string
  readonly alias?: string
  readonly tag?: Pairs
  readonly keyStore?: string
  readonly externalKeyId?: string
}

interface DaysFlags extends KeysFlags {
  readonly days?: number
}

export function addKeys(program: Command): void {
  const keys = program
    .command('keys')
    .summary('KMS keys')
    .description('Creates, shows and changes KMS keys.')
  const add = (name: string, summary: string): Command =>
    addConnectFlags(
      keys.command(name).summary(summary).description(summary).option('--json', 'print JSON'),
    )

  add('create', 'create a KMS key')
    .option('--description <text>', 'what it is for')
    .option('--alias <alias>', 'alias/NAME, a name that can move to another key later')
    .option('--tag <key=value>', 'may be given several times', addPair)
    .option('--key-store <keyStore>', 'where its material is; the server itself, if not given')
    .option('--external-key-id <id>', 'a key that the key store has already and this one shall be')
    .addHelpText(
      'after',
      `
Example:
  keyfold keys create --alias alias/orders --description 'rows of orders' --tag team=billing`,
    )
    .action((flags: CreateFlags) =>
      withServer(flags, async (keyfold) => show(await create(keyfold, flags), flags)),
    )
  add('list', 'list the KMS keys').action((flags: KeysFlags) =>
    withServer(flags, async (keyfold) => {
      const found = await listPages(keyfold, '/v1/keys', 'keys')
      if (flags.json === true) printJson(found)
      else printRows(found, ['keyId', 'arn'])
    }),
  )
  add('describe <key>', 'show one KMS key').action((key: string, flags: KeysFlags) =>
    withServer(flags, async (keyfold) => show(await keyfold.manage('GET', pathOf(key)), flags)),
  )
  for (const [change, summary] of [
    ['enable', 'let a key be used again'],
    ['disable', 'nothing is encrypted or decrypted under the key until it is enabled'],
    ['rotate', 'new key material; what was encrypted before still decrypts'],
    ['disable-rotation', 'the key is rotated on demand only'],
    ['cancel-deletion', 'the key stays; it is disabled until it is enabled'],
  ] as const) {
    add(`${change} <key>`, summary).action((key: string, flags: KeysFlags) =>
      withServer(flags, async (keyfold) =>
        show(await keyfold.manage('POST', `${pathOf(key)}/${change}`), flags),
      ),
    )
  }
  addDays(
    add('enable-rotation <key>', 'rotate the key by itself from now on'),
    'enable-rotation',
    'periodDays',
    'from one rotation to the next: 90 to 2560, 365 where not given',
  )
  addDays(
    add(
      'schedule-deletion <key>',
      'after a waiting period the key and all that was encrypted under it are lost for ever',
    ),
    'schedule-deletion',
    'pendingWindowDays',
    'waiting period: 7 to 30, 30 where not given',
  )
  add('rotations <key>', 'list the rotations of a key').action((key: string, flags: KeysFlags) =>
    withServer(flags, (keyfold) => showRotations(keyfold, key, flags)),
  )
}

/** What takes days: `field` of the request. */
function addDays(command: Command, change: string, field: string, meaning: string): void {
  command
    .option('--days <number>', meaning, Number)
    .action((key: string, { days, ...flags }: DaysFlags) =>
      withServer(flags, async (keyfold) =>
        show(await keyfold.manage('POST', `${pathOf(key)}/${change}`, { [field]: days }), flags),
      ),
    )
}

async function showRotations(keyfold: Keyfold, key: string, { json }: KeysFlags): Promise<void> {
  const found = await listPages(keyfold, `${pathOf(key)}/rotations`, 'rotations')
  if (json === true) {
    printJson(found)
    return
  }
  const rows = found.map(({ rotatedAtMs, ...row }) => ({ ...row, rotated: showTime(rotatedAtMs) }))
  printRows(rows, ['version', 'rotated', 'type', 'state'])
}

function create(keyfold: Keyfold, { tag, ...flags }: CreateFlags): Promise<PlainValue> {
  const { description, alias, keyStore, externalKeyId } = flags
  const fields = { description, alias, tags: tag, keyStore, externalKeyId }
  return keyfold.manage('POST', '/v1/keys', fields)
}

function show(key: PlainValue, { json }: KeysFlags): void {
  if (json === true) {
    printJson(key)
    return
  }
  const {
    createdAtMs,
    deletionAtMs,
    pendingWindowDays,
    rotationPeriodDays,
    nextRotationAtMs,
    ...fields
  } = key as Readonly<Record<string, PlainValue>>
  printFields({
    ...fields,
    created: showTime(createdAtMs),
    rotation:
      typeof rotationPeriodDays === 'number'
        ? `every ${rotationPeriodDays} days, next ${showTime(nextRotationAtMs)}`
        : 'on demand',
    ...(typeof deletionAtMs === 'number' ? { deletion: showTime(deletionAtMs) } : {}),
    ...(typeof deletionAtMs !== 'number' && typeof pendingWindowDays === 'number'
      ? { deletion: `${pendingWindowDays} days after that of the last replica` }
      : {}),
  })
}

function pathOf(key: string): string {
  return `/v1/keys/${encodeURIComponent(key)}`
}
