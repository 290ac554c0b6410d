/** `keyfold encrypt|decrypt --lines` in pipes: whatever bytes go in come out, and a failure says which line. */
import { randomBytes } from 'node:crypto'
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { quietPort } from '../ports.ts'
import { eventually } from '../server/caller.ts'
import {
  firstLine,
  inDirectory,
  jsonOf,
  keyfold,
  MAIN,
  run,
  serve,
  start,
  type Ended,
  type RunOptions,
  type Server,
} from './command.ts'

const KEY = 'alias/lines'
const CONTEXT = ['-c', 'table=orders', '--context', 'a=b=c']
const ENCRYPT = ['encrypt', '--lines', '-k', KEY, ...CONTEXT]
const DECRYPT = ['decrypt', '--lines', ...CONTEXT]

let server: Server

beforeAll(async () => {
  server = await startWithKey()
})
afterAll(() => server.stop())

async function startWithKey(flags: readonly string[] = [], options: RunOptions = {}) {
  const started = await serve(['--dev', '--log-level', 'error', ...flags], options)
  jsonOf(await keyfold(['keys', 'create', '--alias', KEY, '--json'], started))
  return started
}

const encrypt = (input: string | Uint8Array): Promise<Ended> =>
  keyfold(ENCRYPT, { ...server, input })
const decrypt = (input: string | Uint8Array): Promise<Ended> =>
  keyfold(DECRYPT, { ...server, input })

async function encrypted(input: string | Uint8Array): Promise<string[]> {
  const { code, text, stderr } = await encrypt(input)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return text.split('\n').slice(0, -1)
}

/** 100,000 rows of many lengths, none like another. */
const rows = Array.from({ length: 100_000 }, (_, i) => `${i},${'x'.repeat((i * 7) % 300)}`)

describe('a pipe of 100,000 lines', () => {
  test('comes back byte for byte, and keeps its order', async () => {
    const input = `${rows.join('\n')}\n`
    const script = '"$NODE" "$MAIN" "$@" | "$NODE" "$MAIN" decrypt --lines -c table=orders -c a=b=c'
    const env = { ...server.env, NODE: process.execPath, MAIN }
    const { code, stdout, stderr } = await run('sh', ['-c', script, 'sh', ...ENCRYPT], {
      env,
      input,
    })
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout.equals(Buffer.from(input))).toBe(true)
  })
})

describe('lines of any kind', () => {
  const nul = Buffer.from([0])
  const cases: readonly {
    readonly what: string
    readonly input: Buffer
    readonly lines: number
  }[] = [
    { what: 'nothing', input: Buffer.alloc(0), lines: 0 },
    { what: 'one empty line', input: Buffer.from('\n'), lines: 1 },
    { what: 'empty lines between others', input: Buffer.from('\n\na\n\nb\n\n'), lines: 6 },
    { what: 'a carriage return', input: Buffer.from('a\r\nb\r\n'), lines: 2 },
    { what: 'every byte but the newline', input: everyByte(), lines: 1 },
    {
      what: 'bytes that are no UTF-8',
      input: Buffer.from('ff fe 0a c3 28 0a'.replaceAll(' ', ''), 'hex'),
      lines: 2,
    },
    {
      what: 'NUL bytes',
      input: Buffer.concat([nul, Buffer.from('\n'), nul, nul, Buffer.from('\n')]),
      lines: 2,
    },
    { what: 'a line of the longest message', input: longest(2 ** 24), lines: 3 },
  ]
  test.each(cases)('$what', async ({ input, lines }) => {
    const sealed = await encrypted(input)
    expect(sealed).toHaveLength(lines)
    for (const line of sealed) expect(line).toMatch(/^[A-Za-z0-9+/]+={0,2}$/)
    const { code, stdout, stderr } = await decrypt(sealed.map((line) => `${line}\n`).join(''))
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout.equals(input)).toBe(true)
  })

  test('a last line without a newline is a line', async () => {
    const sealed = await encrypted('first\nlast')
    expect(sealed).toHaveLength(2)
    // Nor does decrypt need one, nor mind what Windows puts before it.
    expect(await decrypt(sealed.join('\r\n'))).toMatchObject({ code: 0, text: 'first\nlast\n' })
  })

  test('a line that is longer than a message is told by number, behind those before it', async () => {
    const { code, text, stderr } = await encrypt(longest(2 ** 24 + 1))
    expect(code).toBe(1)
    expect(text).toMatch(/^[^\n]+\n$/)
    expect(stderr).toMatch(/^keyfold: line 2: .*at most 16777216 bytes.* \(LIMIT_EXCEEDED\)\n$/)
  })
})

function everyByte(): Buffer {
  const bytes = Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => byte !== 0x0a)
  return Buffer.from([...bytes, 0x0a])
}

/** A line of so many bytes between two others. */
function longest(bytes: number): Buffer {
  return Buffer.concat([Buffer.from('a\n'), Buffer.alloc(bytes, 0x80), Buffer.from('\nb\n')])
}

describe('a line that does not open', () => {
  // Of one length, whose base64 is padded.
  const some = Array.from({ length: 3_000 }, (_, i) => String(i).padStart(8))
  let sealed: readonly string[]
  beforeAll(async () => {
    sealed = await encrypted(some.join('\n'))
  })

  const flipped = (line: string): string => {
    const bytes = Buffer.from(line, 'base64')
    bytes[bytes.length - 1] = (bytes.at(-1) as number) ^ 1
    return bytes.toString('base64')
  }
  const beginningWith = (version: number): string =>
    Buffer.from([version, ...randomBytes(199)]).toString('base64')
  const damages: readonly (readonly [
    what: string,
    damage: (line: string) => string,
    code: string,
  ])[] = [
    ['one flipped bit', flipped, 'DECRYPT_FAILED'],
    ['a line that is empty', () => '', 'MESSAGE_MALFORMED'],
    ['text that is no base64', () => 'plain text!', 'MESSAGE_MALFORMED'],
    [
      'base64 with a character that is none',
      (line) => `${line.slice(0, 9)}!${line.slice(9)}`,
      'MESSAGE_MALFORMED',
    ],
    ['base64 without its padding', (line) => line.replace(/=+$/, ''), 'MESSAGE_MALFORMED'],
    ['two lines in one', (line) => line + line, 'MESSAGE_MALFORMED'],
    ['bytes of no form', () => beginningWith(0xa5), 'MESSAGE_MALFORMED'],
    // A ciphertext of the AWS protocol begins like this (formats.md), so its key is asked.
    ['bytes that begin like a wrapped key', () => beginningWith(0xe0), 'DECRYPT_FAILED'],
  ]
  test.each(damages)(
    '%s is told by number; exactly the lines before it are written',
    async (_, damage, says) => {
      for (const at of [0, 2_047]) {
        const lines = sealed.map((line, i) => (i === at ? damage(line) : line))
        const { code, text, stderr } = await decrypt(lines.join('\n'))
        expect(code).toBe(1)
        expect(stderr).toMatch(new RegExp(`^keyfold: line ${at + 1}: [^\\n]+ \\(${says}\\)\\n$`))
        expect(text).toBe(
          some
            .slice(0, at)
            .map((row) => `${row}\n`)
            .join(''),
        )
      }
    },
  )

  test('of two the first is told, also where the second is found first', async () => {
    // Line 20 is no base64, which is seen before line 10 comes back from the server.
    const lines = sealed.map((line, i) => (i === 9 ? flipped(line) : i === 19 ? '?' : line))
    const { code, text, stderr } = await decrypt(lines.join('\n'))
    expect(code).toBe(1)
    expect(stderr).toMatch(/^keyfold: line 10: [^\n]+\n$/)
    expect(text).toBe(
      some
        .slice(0, 9)
        .map((row) => `${row}\n`)
        .join(''),
    )
  })

  test('another context opens none of them, and the context is not told', async () => {
    const args = ['decrypt', '--lines', '-c', 'table=secret']
    const ended = await keyfold(args, { ...server, input: sealed.join('\n') })
    expect(ended).toMatchObject({ code: 1, text: '' })
    expect(ended.stderr).toMatch(/^keyfold: line 1: .*\(DECRYPT_FAILED\)\n$/)
    expect(ended.stderr).not.toContain('secret')
  })

  test('input that goes on does not keep the command from ending', async () => {
    const { child, ended } = start(process.execPath, [MAIN, ...DECRYPT], server)
    child.stdin?.write(`${sealed[0] ?? ''}\nnonsense\n`)
    expect(await ended).toMatchObject({ code: 1, text: `${some[0] ?? ''}\n` })
  })
})

describe('wrong from the start', () => {
  test.each([
    [
      'a key that is not there',
      ['-k', 'alias/none'],
      1,
      /line 1: there is no such KMS key.*KMS_KEY_NOT_FOUND/,
    ],
    [
      'a token that is none',
      ['-k', KEY, '--token', 'kf_no'],
      1,
      /line 1: a valid bearer token.*UNAUTHENTICATED/,
    ],
    ['no key', [], 2, /--lines takes one KMS key \(-k\)/],
    ['two keys', ['-k', KEY, '-k', KEY], 2, /--lines takes one KMS key \(-k\)/],
    [
      'a context without a value',
      ['-k', KEY, '-c', 'table'],
      2,
      /'table' is invalid. KEY=VALUE is needed/,
    ],
    ['a context given twice', ['-k', KEY, '-c', 'a=1', '-c', 'a=2'], 2, /"a" is given twice/],
  ])('%s', async (_, args, code, says) => {
    const ended = await keyfold(['encrypt', '--lines', ...args], { ...server, input: 'a\nb\n' })
    expect(ended).toMatchObject({ code, text: '' })
    expect(ended.stderr).toMatch(says)
  })

  test('a disabled key says so until it is enabled', async () => {
    const alias = 'alias/disabled'
    jsonOf(await keyfold(['keys', 'create', '--alias', alias, '--json'], server))
    const args = ['encrypt', '--lines', '-k', alias]
    const sealed = await keyfold(args, { ...server, input: 'row\n' })
    jsonOf(await keyfold(['keys', 'disable', alias, '--json'], server))
    for (const ended of [
      await keyfold(args, { ...server, input: 'row\n' }),
      await keyfold(['decrypt', '--lines'], { ...server, input: sealed.stdout }),
    ]) {
      expect(ended).toMatchObject({ code: 1, text: '' })
      expect(ended.stderr).toMatch(/line 1: the KMS key is disabled.*\(KMS_KEY_DISABLED\)/)
    }
    jsonOf(await keyfold(['keys', 'enable', alias, '--json'], server))
    const opened = await keyfold(['decrypt', '--lines'], { ...server, input: sealed.stdout })
    expect(opened).toMatchObject({ code: 0, text: 'row\n', stderr: '' })
  })
})

describe('the other side of the pipe', () => {
  test('a reader that has enough ends it quietly, whether more input comes or not', async () => {
    const { child, ended } = start(process.execPath, [MAIN, ...ENCRYPT], server)
    const { stdin, stdout } = child
    if (stdin === null || stdout === null) throw new Error('no pipes')
    stdin.write('first\n')
    expect(await firstLine(child)).toMatch(/^[A-Za-z0-9+/=]+$/)
    stdout.destroy()
    // It learns of it when it writes, and is not told that the input has ended.
    stdin.write('second\n')
    expect(await ended).toMatchObject({ code: 0, stderr: '' })
  })

  test('an endless writer is stopped by head', async () => {
    const script = 'yes | "$NODE" "$MAIN" encrypt --lines -k alias/lines | head -n 1'
    const env = { ...server.env, NODE: process.execPath, MAIN }
    const { code, text, stderr } = await run('sh', ['-c', script], { env })
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(text).toMatch(/^[A-Za-z0-9+/=]+\n$/)
  })

  test('a full disk ends it with 1', async () => {
    const script = '"$NODE" "$MAIN" encrypt --lines -k alias/lines > /dev/full'
    const env = { ...server.env, NODE: process.execPath, MAIN }
    const { code, stderr } = await run('sh', ['-c', script], { env, input: 'row\n' })
    expect(code).toBe(1)
    expect(stderr).toMatch(/^keyfold: ENOSPC: [^\n]+\n$/)
  })

  test('a server that goes away ends it with 1: what was written is the start of it, to the line', () =>
    inDirectory(async (directory) => {
      // Nobody else's once it is gone.
      const flags = ['--listen', `127.0.0.1:${await quietPort()}`]
      const leaving = await startWithKey(flags, { env: { TMPDIR: directory } })
      const { child, ended } = start(process.execPath, [MAIN, ...ENCRYPT], leaving)
      const { stdin } = child
      if (stdin === null) throw new Error('no pipe')
      stdin.write('the first\n')
      await firstLine(child)
      leaving.child.kill('SIGKILL')
      await leaving.ended
      // More than every buffer on the way holds.
      Readable.from(rows.map((row) => `${row}\n`)).pipe(stdin)
      const { code, text, stderr } = await ended
      expect(code).toBe(1)
      expect(text.split('\n')).toHaveLength(2)
      expect(stderr).toMatch(
        /^keyfold: line 2: the server could not be reached: [^\n]*ECONN[^\n]*\n$/,
      )
    }))
})

describe('progress', () => {
  test('is on stderr once it takes long and a person watches, and nowhere else', () =>
    inDirectory(async (directory) => {
      const output = join(directory, 'out')
      // A terminal for stderr, as a person has it; lines come from a pipe and go to a file.
      const command = `'${process.execPath}' '${MAIN}' ${ENCRYPT.join(' ')} < pipe > ${output}`
      await run('mkfifo', ['pipe'], { cwd: directory })
      const watched = start('script', ['-qefc', command, '/dev/null'], {
        ...server,
        cwd: directory,
      })
      const unwatched = start(process.execPath, [MAIN, ...ENCRYPT], server)
      const pipe = openSync(join(directory, 'pipe'), 'w')
      writeFileSync(pipe, 'row\n')
      unwatched.child.stdin?.write('row\n')
      let told = ''
      watched.child.stdout?.on('data', (bytes: Buffer) => (told += bytes.toString()))
      await eventually(() => told.includes('1 messages'))
      closeSync(pipe)
      unwatched.child.stdin?.end()
      const { code, text } = await watched.ended
      expect(code).toBe(0)
      // None as long as a slow machine has not sealed it.
      expect(text).toMatch(/^(\r0 messages, 0\/s )*(\r1 messages, \d+\/s +)+\r\n$/)
      expect(readFileSync(output, 'latin1')).toMatch(/^[A-Za-z0-9+/=]+\n$/)
      expect(await unwatched.ended).toMatchObject({ code: 0, stderr: '' })
    }))
})
