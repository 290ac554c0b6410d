/**
 * Key state × operation, every cell of the table in the AWS KMS Developer Guide ("Key states of AWS KMS keys"), typed in
 * from there. Operations that are answered are asked for real; of the others the rule alone is asked. Keys of custom key
 * stores live in some, and are Unavailable because theirs was disconnected.
 */
import { constants, createPublicKey, publicEncrypt } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { ERRORS, KeyfoldError } from '../../dist/errors.js'
import type { KeySpec, KeyUsage } from '../../dist/crypto/key-spec.js'
import { defaultKeyPolicy } from '../../dist/kms/default-policy.js'
import { assertOperable, type KeyOperation } from '../../dist/kms/key-states.js'
import type { Engine } from '../../dist/engine.js'
import type { KeyOrigin, KeyState } from '../../dist/kms/kms-key.js'
import { OPERATIONS } from '../../dist/server/aws/operations.js'
import { ask, type AwsReply } from '../aws.ts'
import { runInCatalog } from '../catalog/file.ts'
import { Elsewhere } from '../key-stores/elsewhere.ts'
import { startService, type Service } from '../service.ts'

/** Enabled | Disabled | Pending (replica) deletion | Pending import | Unavailable; Creating and Updating pass unseen. */
const GUIDE = `
CancelKeyDeletion                   | 4  | 4      | Y      | 4  | 4
CreateAlias                         | Y  | Y      | 3      | Y  | Y
CreateGrant                         | Y  | 1      | 2 or 3 | 5  | Y
Decrypt                             | Y  | 1      | 2 or 3 | 5  | 11
DeleteAlias                         | Y  | Y      | Y      | Y  | Y
DeleteImportedKeyMaterial           | ?9 | ?9     | ?9     | Y  | N/A
DescribeKey                         | Y  | Y      | Y      | Y  | Y
DisableKey                          | Y  | Y      | 3      | 5  | Y
DisableKeyRotation                  | ?7 | 1 or 7 | 3 or 7 | 6  | 7
EnableKey                           | Y  | Y      | 3      | 5  | Y
EnableKeyRotation                   | ?7 | 1 or 7 | 3 or 7 | 6  | 7
Encrypt                             | Y  | 1      | 2 or 3 | 5  | 11
GenerateDataKey                     | Y  | 1      | 2 or 3 | 5  | 11
GenerateDataKeyPair                 | Y  | 1      | 2 or 3 | 5  | 11
GenerateDataKeyPairWithoutPlaintext | Y  | 1      | 2 or 3 | 5  | 11
GenerateDataKeyWithoutPlaintext     | Y  | 1      | 2 or 3 | 5  | 11
GenerateMac                         | Y  | 1      | 2 or 3 | N/A | N/A
GetKeyPolicy                        | Y  | Y      | Y      | Y  | Y
GetKeyRotationStatus                | ?7 | ?7     | ?7     | 6  | 7
GetParametersForImport              | ?9 | ?9     | 8 or 9 | Y  | 9
GetPublicKey                        | Y  | 1      | 2 or 3 | N/A | N/A
ImportKeyMaterial                   | ?9 | ?9     | 8 or 9 | Y  | 9
ListAliases                         | Y  | Y      | Y      | Y  | Y
ListGrants                          | Y  | Y      | Y      | Y  | Y
ListKeyPolicies                     | Y  | Y      | Y      | Y  | Y
ListResourceTags                    | Y  | Y      | Y      | Y  | Y
PutKeyPolicy                        | Y  | Y      | Y      | Y  | Y
ReEncrypt                           | Y  | 1      | 2 or 3 | 5  | 11
ReplicateKey                        | Y  | 1      | 2 or 3 | 5  | N/A
RetireGrant                         | Y  | Y      | Y      | Y  | Y
RevokeGrant                         | Y  | Y      | Y      | Y  | Y
ScheduleKeyDeletion                 | Y  | Y      | 3      | Y  | Y
Sign                                | Y  | 1      | 2 or 3 | N/A | N/A
TagResource                         | Y  | Y      | 3      | Y  | Y
UntagResource                       | Y  | Y      | 3      | Y  | Y
UpdateAlias                         | Y  | Y      | ?10    | Y  | Y
UpdateKeyDescription                | Y  | Y      | 3      | Y  | Y
UpdatePrimaryRegion                 | Y  | 1      | 2 or 3 | 5  | N/A
Verify                              | Y  | 1      | 2 or 3 | N/A | N/A
VerifyMac                           | Y  | 1      | 2 or 3 | N/A | N/A`

const COLUMNS: readonly (readonly KeyState[])[] = [
  ['Enabled'],
  ['Disabled'],
  ['PendingDeletion', 'PendingReplicaDeletion'],
  ['PendingImport'],
  ['Unavailable'],
]

const ORIGINS = ['AWS_KMS', 'EXTERNAL', 'AWS_CLOUDHSM', 'EXTERNAL_KEY_STORE'] as const

/**
 * The guide's footnotes: error and text. 7: of imported material and custom key stores. 9: of material that is not
 * imported. 10: of the target.
 */
const FOOTNOTES: Readonly<Record<string, readonly [error: string, text: RegExp]>> = {
  1: ['DisabledException', / is disabled\.$/],
  2: ['DisabledException', / is pending (replica )?deletion\.$/],
  3: ['KMSInvalidStateException', / is pending (replica )?deletion\.$/],
  4: ['KMSInvalidStateException', / is not pending deletion\.$/],
  5: ['KMSInvalidStateException', / is pending import\.$/],
  6: [
    'UnsupportedOperationException',
    / origin is EXTERNAL which is not valid for this operation\.$/,
  ],
  7: ['UnsupportedOperationException', / which is not valid for this operation\.$/],
  8: ['KMSInvalidStateException', / is pending (replica )?deletion\.$/],
  9: ['UnsupportedOperationException', / which is not valid for this operation\.$/],
  10: ['KMSInvalidStateException', / is pending (replica )?deletion\.$/],
  11: ['KMSInvalidStateException', / is unavailable\.$/],
}

/** Of operations that are for other keys than symmetric ones (the API reference says of each for which). */
const KINDS: Partial<
  Record<KeyOperation, { keySpec?: KeySpec; keyUsage?: KeyUsage; multiRegion?: boolean }>
> = {
  ReplicateKey: { multiRegion: true },
  UpdatePrimaryRegion: { multiRegion: true },
  GenerateMac: { keySpec: 'HMAC_256', keyUsage: 'GENERATE_VERIFY_MAC' },
  VerifyMac: { keySpec: 'HMAC_256', keyUsage: 'GENERATE_VERIFY_MAC' },
  GetPublicKey: { keySpec: 'ECC_NIST_P256', keyUsage: 'SIGN_VERIFY' },
  Sign: { keySpec: 'ECC_NIST_P256', keyUsage: 'SIGN_VERIFY' },
  Verify: { keySpec: 'ECC_NIST_P256', keyUsage: 'SIGN_VERIFY' },
}

interface Cell {
  readonly operation: KeyOperation
  readonly state: KeyState
  readonly origin: KeyOrigin
  /** Numbers of footnotes, one of which it is; none where it works. */
  readonly footnotes: readonly string[]
}

/** A cell for keys of one origin, with those of its footnotes that are about that one. */
function cellOf(
  operation: KeyOperation,
  state: KeyState,
  origin: KeyOrigin,
  text: string,
): Cell | undefined {
  if (text === 'N/A') return undefined
  // Only keys of imported material wait for an import, only those of custom key stores are unavailable.
  if (state === 'PendingImport' && origin !== 'EXTERNAL') return undefined
  if (state === 'Unavailable' && origin === 'EXTERNAL') return undefined
  // Keys of custom key stores are symmetric ones of one region.
  if (isOfCustomKeyStore(origin) && KINDS[operation] !== undefined) return undefined
  // Elsewhere the guide tells the two apart in these footnotes only.
  if (origin === 'EXTERNAL' && state !== 'PendingImport' && !/[789]/.test(text)) return undefined
  const isOfOrigin: Readonly<Record<string, boolean>> = {
    7: origin !== 'AWS_KMS' || state === 'Unavailable',
    8: origin === 'EXTERNAL',
    9: origin !== 'EXTERNAL',
  }
  const footnotes = text === 'Y' ? [] : text.replace('?', '').split(' or ')
  const applying = footnotes.filter((footnote) => isOfOrigin[footnote] ?? true)
  return { operation, state, origin, footnotes: applying }
}

const cells: readonly Cell[] = GUIDE.trim()
  .split('\n')
  .flatMap((line) => {
    const [operation, ...texts] = line.split('|').map((text) => text.trim())
    return texts.flatMap((text, column) =>
      (COLUMNS[column] as readonly KeyState[]).flatMap((state) =>
        ORIGINS.map((origin) => cellOf(operation as KeyOperation, state, origin, text)),
      ),
    )
  })
  .filter((cell) => cell !== undefined)

function isOfCustomKeyStore(origin: KeyOrigin): boolean {
  return origin === 'AWS_CLOUDHSM' || origin === 'EXTERNAL_KEY_STORE'
}

const nameOf = ({ operation, state, origin }: Cell): string => `${operation} ${state} ${origin}`
const asked = cells.filter(({ operation }) => OPERATIONS.has(operation))

let service: Service
let other: string
type Members = Readonly<Record<string, unknown>>
/** By cell: its key, and what was made with it before it came into its state. */
const keys = new Map<string, { readonly keyId: string; readonly made: Members }>()

const SIGNED = { Message: 'AAAA', SigningAlgorithm: 'ECDSA_SHA_256' }
const AUTHENTICATED = { Message: 'AAAA', MacAlgorithm: 'HMAC_SHA_256' }
const WRAPPING = { WrappingAlgorithm: 'RSAES_OAEP_SHA_256', WrappingKeySpec: 'RSA_2048' }
const ROOT = 'arn:aws:iam::000000000000:root'
const GRANTED = {
  GranteePrincipal: 'arn:aws:iam::000000000000:user/a',
  Operations: ['DescribeKey'],
}
const OTHER_REGION = 'eu-west-1'
const POLICY = defaultKeyPolicy('000000000000')
const SEALED = Buffer.alloc(64).toString('base64')

/** Members of an input that only the key itself can make. */
async function makeWith(
  engine: Engine,
  { operation, origin }: Cell,
  KeyId: string,
): Promise<Members> {
  const made = async (name: string, input: Members): Promise<(member: string) => string> => {
    const reply = await ask(engine, name, { KeyId, ...input })
    return (member) => Buffer.from(reply[member] as Uint8Array).toString('base64')
  }
  switch (operation) {
    case 'Decrypt':
    case 'ReEncrypt': {
      if (origin === 'EXTERNAL') return { CiphertextBlob: SEALED }
      return { CiphertextBlob: (await made('Encrypt', { Plaintext: 'AAAA' }))('CiphertextBlob') }
    }
    case 'Verify':
      return { Signature: (await made('Sign', SIGNED))('Signature') }
    case 'VerifyMac':
      return { Mac: (await made('GenerateMac', AUTHENTICATED))('Mac') }
    case 'ImportKeyMaterial': {
      if (origin !== 'EXTERNAL') return { ImportToken: SEALED, EncryptedKeyMaterial: SEALED }
      const parameters = await made('GetParametersForImport', WRAPPING)
      const key = createPublicKey({
        key: Buffer.from(parameters('PublicKey'), 'base64'),
        type: 'spki',
        format: 'der',
      })
      const wrapping = { key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' }
      return {
        ImportToken: parameters('ImportToken'),
        EncryptedKeyMaterial: publicEncrypt(wrapping, Buffer.alloc(32)).toString('base64'),
      }
    }
    case 'RetireGrant':
    case 'RevokeGrant': {
      // A key that waits for its import takes no grant.
      if (origin === 'EXTERNAL') return {}
      const grant = { ...GRANTED, RetiringPrincipal: ROOT }
      const { GrantId } = await ask(engine, 'CreateGrant', { KeyId, ...grant })
      const { arn } = await engine.kms.registry.resolve(KeyId)
      return { KeyId: arn, GrantId }
    }
    case 'UpdatePrimaryRegion':
      await ask(engine, 'ReplicateKey', { KeyId, ReplicaRegion: OTHER_REGION })
      return { PrimaryRegion: OTHER_REGION }
    default:
      return {}
  }
}

const elsewhere = new Elsewhere()
const directory = mkdtempSync(join(tmpdir(), 'keyfold-states-'))
const start = (filesFrom?: string): Promise<Service> =>
  startService({
    settings: { otherRegions: OTHER_REGION, pkcs11Modules: join(directory, 'modules.json') },
    keyStoreOpener: elsewhere.opener,
    ...(filesFrom === undefined ? {} : { filesFrom }),
  })

/** One that is connected to the end, and one that is disconnected once its keys are made. */
async function createKeyStores(
  { kms }: Engine,
  kind: 'pkcs11' | 'xks',
): Promise<readonly [connected: string, disconnected: string]> {
  const create = async (name: string): Promise<string> => {
    const { id } = await kms.keyStores.create({
      name,
      kind,
      settings:
        kind === 'pkcs11'
          ? { module: name }
          : {
              uriEndpoint: 'https://xks.example.com',
              uriPath: `/${name}/kms/xks/v1`,
              accessKeyId: 'ABCDEFGHIJ234567ABCD',
            },
      secret: Buffer.alloc(43, 'a'),
    })
    await kms.keyStores.connect(id)
    await kms.keyStores.settled(id)
    return id
  }
  return [await create(`${kind}-on`), await create(`${kind}-off`)]
}

/** A key for each cell, put into its state past all our code, or by disconnecting its key store. */
beforeAll(async () => {
  const module = { library: '/nowhere.so', token: { label: 'nowhere' } }
  const modules = { 'pkcs11-on': module, 'pkcs11-off': module }
  writeFileSync(join(directory, 'modules.json'), JSON.stringify(modules))
  const first = await start()
  const keyStores: Partial<Record<KeyOrigin, readonly [string, string]>> = {
    AWS_CLOUDHSM: await createKeyStores(first.engine, 'pkcs11'),
    EXTERNAL_KEY_STORE: await createKeyStores(first.engine, 'xks'),
  }
  other = await first.createKey()
  const statements: string[] = []
  for (const cell of asked) {
    const [connected, disconnected] = keyStores[cell.origin] ?? []
    const isDisconnected = disconnected !== undefined && cell.state === 'Unavailable'
    const isExternal = cell.origin === 'EXTERNAL_KEY_STORE'
    const { keyId } = await first.engine.kms.createKey({
      ...(connected === undefined
        ? { origin: cell.origin }
        : { keyStore: isDisconnected ? disconnected : connected }),
      ...(isExternal ? { externalKeyId: `key-${keys.size}` } : {}),
      alias: `alias/${nameOf(cell).replaceAll(' ', '/')}`,
      tags: new Map([['tag', 'value']]),
      ...KINDS[cell.operation],
    })
    keys.set(nameOf(cell), { keyId, made: await makeWith(first.engine, cell, keyId) })
    if (isDisconnected) continue
    statements.push(`update "kmsKeys" set state = '${cell.state}' where id = '${keyId}'`)
  }
  for (const [, id] of Object.values(keyStores)) await first.engine.kms.keyStores.disconnect(id)
  await first.engine.close()
  runInCatalog(first.dataDirectory, ...statements)
  service = await start(first.dataDirectory)
  for (const [id] of Object.values(keyStores)) await service.engine.kms.keyStores.settled(id)
}, 120_000)
afterAll(async () => {
  await service.close()
  rmSync(directory, { recursive: true })
})

/** The input with which each operation works, were it for the state alone. */
function inputOf(cell: Cell): Readonly<Record<string, unknown>> {
  const { keyId, made } = keys.get(nameOf(cell)) ?? {}
  const alias = `alias/${nameOf(cell).replaceAll(' ', '/')}`
  const further: Readonly<Record<string, object>> = {
    Encrypt: { Plaintext: 'AAAA' },
    GenerateDataKey: { KeySpec: 'AES_256' },
    GenerateDataKeyWithoutPlaintext: { KeySpec: 'AES_256' },
    GenerateDataKeyPair: { KeyPairSpec: 'ECC_NIST_P256' },
    GenerateDataKeyPairWithoutPlaintext: { KeyPairSpec: 'ECC_NIST_P256' },
    Sign: SIGNED,
    Verify: SIGNED,
    GenerateMac: AUTHENTICATED,
    VerifyMac: AUTHENTICATED,
    GetParametersForImport: WRAPPING,
    ImportKeyMaterial: { ExpirationModel: 'KEY_MATERIAL_DOES_NOT_EXPIRE' },
    TagResource: { Tags: [{ TagKey: 'k', TagValue: 'v' }] },
    UntagResource: { TagKeys: ['tag'] },
    UpdateKeyDescription: { Description: 'new' },
    PutKeyPolicy: { Policy: POLICY },
    CreateGrant: GRANTED,
    ReplicateKey: { ReplicaRegion: OTHER_REGION },
  }
  switch (cell.operation) {
    case 'ReEncrypt':
      return { SourceKeyId: keyId, DestinationKeyId: other, ...made }
    case 'CreateAlias':
      return { AliasName: `${alias}/new`, TargetKeyId: keyId }
    case 'UpdateAlias':
      return { AliasName: alias, TargetKeyId: keyId }
    case 'DeleteAlias':
      return { AliasName: alias }
    default:
      return { KeyId: keyId, ...further[cell.operation], ...made }
  }
}

function ruleOf({ operation, state, origin }: Cell): AwsReply {
  try {
    const { keyUsage = 'ENCRYPT_DECRYPT' } = KINDS[operation] ?? {}
    assertOperable(operation, { state, origin, keyUsage, arn: 'arn:aws:kms:r:1:key/k' })
    return {}
  } catch (error) {
    if (!(error instanceof KeyfoldError)) throw error
    return { refused: ERRORS[error.code].aws, message: error.detail ?? '' }
  }
}

function expectCell({ footnotes }: Cell, { refused, message = '' }: AwsReply): void {
  if (footnotes.length === 0) {
    expect([refused, message]).toEqual([undefined, ''])
    return
  }
  const possible = footnotes.map((footnote) => FOOTNOTES[footnote] as readonly [string, RegExp])
  expect(possible.map(([error]) => error)).toContain(refused)
  const texts = possible.filter(([error]) => error === refused).map(([, text]) => text)
  expect(
    texts.some((text) => text.test(message)),
    message,
  ).toBe(true)
}

describe('in the guide’s table', () => {
  test('every cell is read: 40 operations, and each of the states that keys here can be seen in', () => {
    expect(new Set(cells.map(({ operation }) => operation)).size).toBe(40)
    expect(new Set(cells.map(({ state }) => state)).size).toBe(6)
    expect(cells.length).toBeGreaterThan(400)
    for (const origin of ORIGINS) {
      expect(cells.filter((cell) => cell.origin === origin).length).toBeGreaterThan(30)
    }
    // What exists is asked for real.
    expect(new Set(asked.map(({ operation }) => operation)).size).toBeGreaterThanOrEqual(20)
  })

  test.each(cells.map((cell) => [nameOf(cell), cell] as const))('%s', async (_, cell) => {
    expectCell(cell, ruleOf(cell))
    if (!OPERATIONS.has(cell.operation)) return
    // Ciphertexts name their key, and one that never had material made none.
    const makesNone =
      cell.origin === 'EXTERNAL' && /Decrypt|ReEncrypt|RetireGrant|RevokeGrant/.test(cell.operation)
    if (makesNone) return
    expectCell(cell, await ask(service.engine, cell.operation, inputOf(cell)))
  })
})

describe('the target of a re-encryption', () => {
  test.each([
    ['Disabled', '1'],
    ['PendingDeletion', '3'],
    ['PendingReplicaDeletion', '3'],
    ['Unavailable', '11'],
  ] as const)('is refused in state %s', async (state, footnote) => {
    const cell = {
      operation: 'ReEncrypt',
      state,
      origin: 'AWS_KMS',
      footnotes: [footnote],
    } as const
    const { keyId } = keys.get(nameOf(cell)) ?? {}
    const { CiphertextBlob } = await ask(service.engine, 'Encrypt', {
      KeyId: other,
      Plaintext: 'AAAA',
    })
    const reply = await ask(service.engine, 'ReEncrypt', {
      CiphertextBlob: Buffer.from(CiphertextBlob as Uint8Array).toString('base64'),
      DestinationKeyId: keyId,
    })
    expectCell(cell, reply)
  })
})
