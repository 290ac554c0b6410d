/** `keyfold inspect`, without a server anywhere. */
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Packr } from 'msgpackr'
import { describe, expect, test } from 'vitest'

import { inDirectory, jsonOf, keyfold } from './command.ts'

const { keyId, cases } = JSON.parse(
  readFileSync(join(import.meta.dirname, '../golden/v1/cases.json'), 'utf8'),
) as {
  readonly keyId: string
  readonly cases: readonly {
    readonly form: string
    readonly ciphertexts?: readonly string[]
    readonly packed?: string
  }[]
}
const inline = (cases.find(({ form }) => form === 'inline')?.ciphertexts ?? []).map((hex) =>
  Buffer.from(hex, 'hex'),
)
const packed = Buffer.from(cases.find(({ form }) => form === 'packed')?.packed ?? '', 'hex')
const base64 = (bytes: Buffer): string => bytes.toString('base64')
const packr = new Packr()

describe('keyfold inspect', () => {
  test('tells of an argument what it is, as a table and as JSON', async () => {
    const [first] = inline as [Buffer]
    const { code, text, stderr } = await keyfold(['inspect', base64(first)])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    for (const shown of ['inline', keyId, 'XAES-256-GCM', 'message key']) {
      expect(text).toContain(shown)
    }
    expect(jsonOf(await keyfold(['inspect', '--json', base64(first)]))).toMatchObject({
      index: 0,
      form: 'inline',
      kmsKeyId: keyId,
      materialVersion: 1,
      plaintextBytes: 0,
    })
  })

  test('tells of every line, and of one that is none in its place', async () => {
    const lines = [...inline.map(base64), 'no base64!', base64(packed), base64(Buffer.from('what'))]
    const { code, text } = await keyfold(['inspect', '--json'], { input: `${lines.join('\n')}\n` })
    expect(code).toBe(1)
    const told = text.trimEnd().split('\n')
    expect(told.map((line) => (JSON.parse(line) as { index: number }).index)).toEqual([
      ...lines.keys(),
    ])
    expect(JSON.parse(told[inline.length] as string)).toMatchObject({ code: 'MESSAGE_MALFORMED' })
    expect(JSON.parse(told[inline.length + 1] as string)).toMatchObject({ form: 'packed' })
    expect(JSON.parse(told[inline.length + 2] as string)).toMatchObject({
      code: 'MESSAGE_MALFORMED',
    })
  })

  test('reads files of MessagePack and of one ciphertext', () =>
    inDirectory(async (directory) => {
      const file = join(directory, 'sealed')
      writeFileSync(file, Buffer.concat([...inline, packed].map((bytes) => packr.pack(bytes))))
      const all = await keyfold(['inspect', '--json', '--format', 'msgpack', '--file', file])
      expect(all.text.trimEnd().split('\n')).toHaveLength(inline.length + 1)
      writeFileSync(file, packed)
      expect(
        jsonOf(await keyfold(['inspect', '--json', '--format', 'raw', '--file', file])),
      ).toMatchObject({ form: 'packed', bytes: packed.length })
    }))

  test('needs no token and no environment', () => {
    const main = join(import.meta.dirname, '../../dist/cli/main.js')
    const printed = execFileSync(process.execPath, [main, 'inspect', '--json', base64(packed)], {
      env: {},
    })
    expect(JSON.parse(String(printed))).toMatchObject({ form: 'packed' })
  })
})
