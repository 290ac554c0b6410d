/**
 * What was sealed once opens for good: by keyfold, and by a program in another language that knows the formats only.
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { detachMessage, unpackToDetached, unpackToInline } from '../../dist/format/convert.js'
import { startService, type Answer, type Service } from '../service.ts'

interface Case {
  readonly form: 'inline' | 'detached' | 'packed' | 'data-key'
  readonly context: Readonly<Record<string, string>>
  readonly plaintexts: readonly string[]
  readonly ciphertexts?: readonly string[]
  readonly packed?: string
  readonly keyEntries?: readonly string[]
}

/** SHA-256 of each: added to, never edited. */
const GOLDEN = [
  {
    name: 'v1',
    cases: '49f213feeea061682e7880f7be5d71321d8bd0cac8f9629535da0890b3033eb6',
    catalog: '3649b12e6e2ecc0ada2d403fde7c4be75f42a70f7f086d47780625c1bd0adeac',
  },
] as const

const bytes = (text: string): Buffer => Buffer.from(text, 'hex')
const fileHash = (path: string): string =>
  createHash('sha256').update(readFileSync(path)).digest('hex')

describe.each(GOLDEN)('golden $name', ({ name, cases: casesHash, catalog: catalogHash }) => {
  const directory = join(import.meta.dirname, name)
  const casesFile = join(directory, 'cases.json')
  const { cases } = JSON.parse(readFileSync(casesFile, 'utf8')) as { cases: readonly Case[] }
  let service: Service

  beforeAll(async () => {
    service = await startService({ filesFrom: directory })
  })
  afterAll(() => service.close())

  const expectOpened = (answer: Answer, plaintexts: readonly string[]): void => {
    expect(answer.code).toBeUndefined()
    expect(answer.errors ?? []).toEqual([])
    const opened = answer.plaintexts.map((text) => text && Buffer.from(text).toString('hex'))
    expect(opened).toEqual(plaintexts)
  }

  test('is what was committed', () => {
    expect(fileHash(casesFile)).toBe(casesHash)
    expect(fileHash(join(directory, 'catalog.sqlite'))).toBe(catalogHash)
  })

  test('opens in Python', () => {
    const decryptor = join(import.meta.dirname, 'decrypt.py')
    const printed = execFileSync('python3', [decryptor, directory, casesFile], {
      encoding: 'utf8',
    })
    expect(JSON.parse(printed)).toEqual(cases.map(({ plaintexts }) => plaintexts))
  })

  test('has every form', () => {
    expect(new Set(cases.map(({ form }) => form)).size).toBe(4)
  })

  test.each(cases.map((golden, i) => ({ ...golden, i })).filter(({ form }) => form !== 'data-key'))(
    'case $i opens, $form',
    async ({ context, plaintexts, ciphertexts, packed, keyEntries }) => {
      const answer = await service.call('decrypt', {
        context,
        ...(packed === undefined ? {} : { packed: bytes(packed) }),
        ...(ciphertexts === undefined ? {} : { ciphertexts: ciphertexts.map(bytes) }),
        ...(keyEntries === undefined ? {} : { keyEntries: keyEntries.map(bytes) }),
      })
      expectOpened(answer, plaintexts)
    },
  )

  test('packed values open unpacked, inline and detached, and inline ones detached', async () => {
    for (const { form, context, plaintexts, packed, ciphertexts } of cases) {
      if (packed !== undefined) {
        const inline = unpackToInline(bytes(packed))
        expectOpened(await service.call('decrypt', { context, ciphertexts: inline }), plaintexts)
        const { keyEntry, messages } = unpackToDetached(bytes(packed))
        const fields = { context, ciphertexts: messages, keyEntries: [keyEntry] }
        expectOpened(await service.call('decrypt', fields), plaintexts)
      } else if (form === 'inline') {
        const parts = (ciphertexts ?? []).map((text) => detachMessage(bytes(text)))
        const [first] = parts
        const fields = {
          context,
          ciphertexts: parts.map(({ message }) => message),
          keyEntries: [first?.keyEntry],
        }
        expectOpened(await service.call('decrypt', fields), plaintexts)
      }
    }
  })
})
