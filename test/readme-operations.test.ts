/** What the README says of the operations of AWS KMS, held against AWS's own client and against what is answered. */
import * as sdk from '@aws-sdk/client-kms'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { OPERATIONS } from '../dist/server/aws/operations.js'
import { ask } from './aws.ts'
import { ROOT } from './cli/command.ts'
import { startService, type Service } from './service.ts'

const UNSUPPORTED = 'UnsupportedOperationException'

const IMPORTED = { Origin: 'EXTERNAL' }
/** What they are asked of where a symmetric key is not for them: in AWS KMS too, that is unsupported. */
const KEYS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  GetPublicKey: { KeySpec: 'ECC_NIST_P256', KeyUsage: 'SIGN_VERIFY' },
  GetParametersForImport: IMPORTED,
  ImportKeyMaterial: IMPORTED,
  DeleteImportedKeyMaterial: IMPORTED,
}

const [, behindMark = ''] = readFileSync(join(ROOT, 'README.md'), 'utf8').split(
  '<!-- operations -->',
)
const [, table = ''] = behindMark.split('\n\n')
const told = table
  .split('\n')
  .slice(2)
  .flatMap((row) => {
    const [, names = '', answer = ''] = row.split('|').map((cell) => cell.trim())
    return [...names.matchAll(/`(\w+)`/g)].map(([, name = '']) => ({ name, answer }))
  })

const names = told.map(({ name }) => name).sort()

describe('the table of operations', () => {
  test('has every operation of AWS’s client once, and no other', () => {
    const commands = Object.keys(sdk)
      .map((name) => /^(\w+)Command$/.exec(name)?.[1])
      .filter((name) => name !== undefined)
    expect(commands.length).toBeGreaterThan(50)
    expect(names).toEqual(commands.sort())
  })

  test('has every operation that is answered, and no other', () => {
    expect(names).toEqual([...OPERATIONS.keys()].sort())
  })
})

describe('an operation', () => {
  let service: Service

  beforeAll(async () => {
    service = await startService()
  })
  afterAll(() => service.close())

  test.for(told)('$name answers what the table says: $answer', async ({ name, answer }) => {
    const { KeyMetadata } = await ask(service.engine, 'CreateKey', KEYS[name] ?? {})
    const { KeyId } = KeyMetadata as { readonly KeyId: string }
    const { refused } = await ask(service.engine, name, { KeyId })
    if (answer === UNSUPPORTED) expect(refused).toBe(UNSUPPORTED)
    else {
      expect(answer).toBe('served')
      expect(refused).not.toBe(UNSUPPORTED)
    }
  })
})
