/** `keyfold rekey`, `keyfold cat` and `keyfold inspect` over files, beside the AWS Encryption SDK for JavaScript. */
import { randomBytes } from 'node:crypto'
import {
  chmodSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { RawAesKeyringNode, RawAesWrappingSuiteIdentifier } from '@aws-crypto/client-node'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { encryptBuffer, RawAesKeyring } from '../../dist/index.js'
import { sdkDecrypt, sdkEncrypt } from '../streams/sdk.ts'
import { inDirectory, jsonOf, keyfold, serve, type Ended, type Server } from './command.ts'
import { bytesOf, partsOf } from './trees.ts'

let server: Server
let oldArn: string
let newArn: string
const wrappingKey = randomBytes(32)
const theirs = new RawAesKeyringNode({
  keyNamespace: 'tests',
  keyName: 'key',
  unencryptedMasterKey: new Uint8Array(wrappingKey),
  wrappingSuite: RawAesWrappingSuiteIdentifier.AES256_GCM_IV12_TAG16_NO_PADDING,
  utf8Sorting: true,
})
const RAW = ['--raw-key-file', 'key', '--key-namespace', 'tests', '--key-name', 'key']

beforeAll(async () => {
  server = await serve(['--dev', '--log-level', 'error'])
  const create = async (alias: string): Promise<string> =>
    jsonOf<{ arn: string }>(await keyfold(['keys', 'create', '--alias', alias, '--json'], server))
      .arn
  oldArn = await create('alias/old')
  newArn = await create('alias/new')
})
afterAll(() => server.stop())

const call = (cwd: string, ...args: readonly string[]): Promise<Ended> =>
  keyfold(args, { ...server, cwd })

interface Shown {
  readonly suite: string
  readonly messageId: string
  readonly keys: readonly string[]
  readonly context: Readonly<Record<string, string>>
  readonly frameBytes: number
  readonly frames?: number
  readonly plaintextBytes?: number
}

async function inspected(cwd: string, file: string): Promise<Shown> {
  return jsonOf<Shown>(await keyfold(['inspect', '--json', file], { cwd }))
}

describe('the AWS Encryption SDK', () => {
  test('opens a file of the command line, and the other way round', () =>
    inDirectory(async (cwd) => {
      writeFileSync(join(cwd, 'key'), wrappingKey, { mode: 0o600 })
      const plaintext = bytesOf(300_000)
      writeFileSync(join(cwd, 'file'), plaintext)
      expect(
        await call(cwd, 'encrypt', ...RAW, '-c', 'a=ä', '--frame-bytes', '4096', 'file'),
      ).toMatchObject({ code: 0 })
      const opened = await sdkDecrypt(theirs, readFileSync(join(cwd, 'file.kfe')))
      expect(opened.plaintext.equals(plaintext)).toBe(true)
      expect(opened.messageHeader).toMatchObject({
        frameLength: 4_096,
        encryptionContext: { a: 'ä' },
      })
      for (const suiteId of [0x0478, 0x0578, 0x0178]) {
        writeFileSync(
          join(cwd, 'theirs'),
          await sdkEncrypt(theirs, plaintext, { suiteId, encryptionContext: { b: 'c' } }),
        )
        const flags = suiteId === 0x0178 ? ['--allow-uncommitted'] : []
        const read = await call(cwd, 'decrypt', ...RAW, '-c', 'b=c', '-i', 'theirs', ...flags)
        expect(read.stdout.equals(plaintext)).toBe(true)
        const refused = await call(cwd, 'decrypt', ...RAW, '-c', 'b=d', '-i', 'theirs', ...flags)
        expect(refused).toMatchObject({ code: 1, text: '' })
      }
      expect((await call(cwd, 'decrypt', ...RAW, '-i', 'theirs')).stderr).toMatch(
        /COMMITMENT_REQUIRED/,
      )
    }))
})

describe('keyfold rekey', () => {
  test('puts files under another key with a new data key, and keeps everything else', () =>
    inDirectory(async (cwd) => {
      const names = [0, 1, 200_000, 5_000_003]
      for (const size of names) writeFileSync(join(cwd, `${size}`), bytesOf(size))
      const files = names.map((name) => `${name}.kfe`)
      await call(
        cwd,
        'encrypt',
        '-k',
        oldArn,
        '-c',
        'a=b',
        '--frame-bytes',
        '8192',
        ...names.map(String),
      )
      for (const file of files) {
        chmodSync(join(cwd, file), 0o640)
        utimesSync(join(cwd, file), 1_000_000_000, 1_000_000_000)
      }
      symlinkSync('1.kfe', join(cwd, 'link'))
      const before = await Promise.all(files.map((file) => inspected(cwd, file)))
      const ended = await call(
        cwd,
        'rekey',
        '-k',
        oldArn,
        '--to',
        'alias/new',
        '--to',
        oldArn,
        '0.kfe',
        'link',
        '200000.kfe',
        '5000003.kfe',
      )
      expect(ended).toMatchObject({ code: 0, stderr: 'keyfold: 4 encrypted anew\n' })
      for (const [i, file] of files.entries()) {
        const after = await inspected(cwd, file)
        expect(after.keys).toEqual([`aws-kms ${newArn}`, `aws-kms ${oldArn}`])
        expect(after).toMatchObject({
          context: { a: 'b' },
          frameBytes: 8_192,
          plaintextBytes: names[i],
        })
        expect(after.messageId).not.toBe(before[i]?.messageId)
        expect(statSync(join(cwd, file))).toMatchObject({
          mode: 0o100640,
          mtimeMs: 1_000_000_000_000,
        })
        const opened = await call(cwd, 'decrypt', '-k', newArn, '-c', 'a=b', '-i', file)
        expect(opened.stdout.equals(bytesOf(names[i] as number))).toBe(true)
      }
    }))

  test('leaves a file as it is when it fails, whichever of the two keys it is that fails', () =>
    inDirectory(async (cwd) => {
      writeFileSync(join(cwd, 'file'), bytesOf(200_000))
      await call(cwd, 'encrypt', '-k', oldArn, '-c', 'a=b', 'file')
      const whole = readFileSync(join(cwd, 'file.kfe'))
      const torn = Buffer.from(whole)
      torn[torn.length - 1] = (torn.at(-1) as number) ^ 1
      writeFileSync(join(cwd, 'torn.kfe'), torn)
      jsonOf(await keyfold(['keys', 'create', '--alias', 'alias/disabled', '--json'], server))
      jsonOf(await keyfold(['keys', 'disable', 'alias/disabled', '--json'], server))
      const attempts: readonly (readonly [readonly string[], RegExp])[] = [
        [['-k', newArn, '--to', newArn, 'file.kfe'], /DECRYPT_FAILED/],
        [['-k', oldArn, '--to', newArn, '-c', 'a=c', 'file.kfe'], /DECRYPT_FAILED/],
        [['-k', oldArn, '--to', 'alias/disabled', 'file.kfe'], /KMS_KEY_DISABLED/],
        [['-k', oldArn, '--to', newArn, 'torn.kfe'], /DECRYPT_FAILED/],
      ]
      for (const [args, says] of attempts) {
        const ended = await call(cwd, 'rekey', ...args)
        expect(ended.code).toBe(1)
        expect(ended.stderr).toMatch(says)
      }
      expect(readFileSync(join(cwd, 'file.kfe')).equals(whole)).toBe(true)
      expect(readFileSync(join(cwd, 'torn.kfe')).equals(torn)).toBe(true)
      expect(partsOf(cwd)).toEqual([])
      expect(readdirSync(cwd).sort()).toEqual(['file', 'file.kfe', 'torn.kfe'])
    }))

  test('moves a signed file of the SDK from a key of its own to a KMS key; the signature goes', () =>
    inDirectory(async (cwd) => {
      writeFileSync(join(cwd, 'key'), wrappingKey, { mode: 0o600 })
      const plaintext = bytesOf(100_000)
      const options = { suiteId: 0x0578, encryptionContext: { b: 'c' }, frameLength: 1_000 }
      writeFileSync(join(cwd, 'signed'), await sdkEncrypt(theirs, plaintext, options))
      expect(await inspected(cwd, 'signed')).toMatchObject({ frames: 101, plaintextBytes: 100_000 })
      expect(await call(cwd, 'rekey', ...RAW, '--to', newArn, '-q', 'signed')).toMatchObject({
        code: 0,
        stderr: '',
      })
      expect(await inspected(cwd, 'signed')).toMatchObject({
        context: { b: 'c' },
        keys: [`aws-kms ${newArn}`],
      })
      const opened = await call(cwd, 'decrypt', '-k', newArn, '-i', 'signed')
      expect(opened.stdout.equals(plaintext)).toBe(true)
    }))
})

test('what a file binds and does not store is not stored by rekey either', () =>
  inDirectory(async (cwd) => {
    writeFileSync(join(cwd, 'key'), wrappingKey, { mode: 0o600 })
    const ours = new RawAesKeyring({ namespace: 'tests', name: 'key', wrappingKey })
    const context = { shown: 'a', hidden: 'patient 17' }
    const options = { context, requiredContextKeys: ['hidden'] }
    writeFileSync(join(cwd, 'x'), await encryptBuffer(ours, Buffer.from('plain'), options))
    const hidden = ['-c', 'hidden=patient 17']
    expect(await call(cwd, 'rekey', ...RAW, ...hidden, '--to', newArn, 'x')).toMatchObject({
      code: 0,
    })
    expect((await inspected(cwd, 'x')).context).toEqual({ shown: 'a' })
    expect(readFileSync(join(cwd, 'x')).includes('patient')).toBe(false)
    expect((await call(cwd, 'decrypt', '-k', newArn, ...hidden, '-i', 'x')).text).toBe('plain')
    expect(await call(cwd, 'decrypt', '-k', newArn, '-i', 'x')).toMatchObject({ code: 1, text: '' })
  }))

describe('keyfold cat', () => {
  test.each([
    ['0-0', 0, 1],
    ['4095-4096', 4_095, 4_097],
    ['100-', 100, 20_000],
    ['-1', 19_999, 20_000],
    ['-999999', 0, 20_000],
    ['19999-99999999', 19_999, 20_000],
    ['0-19999', 0, 20_000],
    [undefined, 0, 20_000],
  ])('--range %s gives just these bytes', (range, from, to) =>
    inDirectory(async (cwd) => {
      const plaintext = randomBytes(20_000)
      writeFileSync(join(cwd, 'file'), plaintext)
      await call(cwd, 'encrypt', '-k', oldArn, '--frame-bytes', '4096', 'file')
      const args = range === undefined ? [] : ['--range', range]
      const { code, stdout, stderr } = await call(cwd, 'cat', '-k', oldArn, 'file.kfe', ...args)
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
      expect(stdout.equals(plaintext.subarray(from, to))).toBe(true)
    }),
  )

  test('refuses what is no range, begins behind the end, or is not whole', () =>
    inDirectory(async (cwd) => {
      writeFileSync(join(cwd, 'file'), bytesOf(20_000))
      await call(cwd, 'encrypt', '-k', oldArn, 'file')
      const whole = readFileSync(join(cwd, 'file.kfe'))
      writeFileSync(join(cwd, 'cut.kfe'), whole.subarray(0, whole.length - 1))
      for (const range of ['', '-', '5', '9-5', 'a-b', '1-2,4-5', '99999999999999999999-'])
        expect(await call(cwd, 'cat', '-k', oldArn, 'file.kfe', `--range=${range}`)).toMatchObject({
          code: 2,
          text: '',
        })
      for (const [file, range, says] of [
        ['file.kfe', '20000-', /the plaintext has 20000 bytes/],
        ['file.kfe', '-0', /the plaintext has 20000 bytes/],
        ['cut.kfe', '0-10', /DECRYPT_FAILED|STREAM_MALFORMED/],
      ] as const) {
        const ended = await call(cwd, 'cat', '-k', oldArn, file, `--range=${range}`)
        expect(ended).toMatchObject({ code: 1, text: '' })
        expect(ended.stderr).toMatch(says)
      }
    }))
})

describe('keyfold inspect', () => {
  test('tells of a file its suite, keys, context and lengths, from a file and from a pipe', () =>
    inDirectory(async (cwd) => {
      writeFileSync(join(cwd, 'file'), bytesOf(20_000))
      await call(
        cwd,
        'encrypt',
        '-k',
        oldArn,
        '-k',
        newArn,
        '-c',
        'who=\u202e\u001b[31m',
        '--frame-bytes',
        '4096',
        'file',
      )
      const shown = await inspected(cwd, 'file.kfe')
      expect(shown).toMatchObject({
        form: 'Encryption SDK file',
        keys: [`aws-kms ${oldArn}`, `aws-kms ${newArn}`],
        context: { who: '\u202e\u001b[31m' },
        frameBytes: 4_096,
        frames: 5,
        plaintextBytes: 20_000,
      })
      expect(shown.suite).toMatch(/^0478 /)
      const input = readFileSync(join(cwd, 'file.kfe'))
      const piped = jsonOf<Shown>(await keyfold(['inspect', '--json'], { input }))
      expect(piped).toMatchObject({ keys: shown.keys, messageId: shown.messageId })
      const table = await keyfold(['inspect', '--file', 'file.kfe'], { cwd })
      expect(table.code).toBe(0)
      for (const said of [oldArn, newArn, '\\u{202e}\\u001b[31m', '20000'])
        expect(table.text).toContain(said)
      // Nobody writes to the terminal of whoever looks.
      expect(table.text).not.toMatch(/[\u001b\u202e]/)
    }))

  test('of a hostile or torn header says what is wrong, and ends', () =>
    inDirectory(async (cwd) => {
      writeFileSync(join(cwd, 'file'), 'x')
      await call(cwd, 'encrypt', '-k', oldArn, 'file')
      const whole = readFileSync(join(cwd, 'file.kfe'))
      const head = Buffer.concat([Buffer.from([2, 4, 0x78]), Buffer.alloc(32)])
      const hostile: Readonly<Record<string, Buffer>> = {
        'a context of 64 KiB': Buffer.concat([head, Buffer.from([0xff, 0xff])]),
        '65535 keys': Buffer.concat([
          head,
          Buffer.from([0, 0, 0xff, 0xff]),
          Buffer.alloc(70_000, 0xff),
        ]),
        'no key': Buffer.concat([head, Buffer.alloc(200)]),
        'an unknown suite': Buffer.concat([Buffer.from([2, 0x99, 0x99]), Buffer.alloc(200)]),
        'a header that ends': whole.subarray(0, 100),
        'three bytes': whole.subarray(0, 3),
      }
      for (const [name, bytes] of Object.entries(hostile)) {
        writeFileSync(join(cwd, name), bytes)
        const ended = await keyfold(['inspect', '--json', name], { cwd })
        expect(ended.code, name).toBe(1)
        expect(JSON.parse(ended.text), name).toMatchObject({
          code: expect.stringMatching(/MALFORMED/) as string,
        })
      }
      // A body that is cut is told by what is left out: nothing of it is known.
      writeFileSync(join(cwd, 'cut'), whole.subarray(0, whole.length - 1))
      const cut = await inspected(cwd, 'cut')
      expect(cut.keys).toEqual([`aws-kms ${oldArn}`])
      expect(cut.plaintextBytes).toBeUndefined()
    }))
})
