/** `keyfold rewrap`: every ciphertext once and in order, whatever is in the stream and whenever the job is killed. */
import { EncryptCommand } from '@aws-sdk/client-kms'
import { randomInt } from 'node:crypto'
import {
  appendFileSync,
  existsSync,
  readFileSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { Packr, UnpackrStream } from 'msgpackr'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { Rate } from '../../dist/cli/rewrap/rate.js'
import { detachMessage } from '../../dist/format/convert.js'
import { startRelay } from '../client/stand-in.ts'
import { clientOf } from '../server/aws/sdk.ts'
import { eventually } from '../server/caller.ts'
import { startService, type Service } from '../service.ts'
import { inDirectory, keyfold, MAIN, start, type Ended } from './command.ts'

let service: Service
let keyA: string
let keyB: string
let env: Readonly<Record<string, string>>

beforeAll(async () => {
  service = await startService()
  keyA = await service.createKey()
  keyB = await service.createKey()
  env = { KEYFOLD_URL: service.url, KEYFOLD_TOKEN: service.token }
})
afterAll(() => service.close())

const context = { table: 'orders' }
const packr = new Packr()

interface Outcome {
  readonly ciphertexts: number
  readonly moved: number
  readonly current: number
  readonly detached: number
  readonly failed: number
}

const flagsTo = (key: string, mode = 'rewrap'): readonly string[] => [
  '--json',
  ...['--to', key, '--mode', mode],
  ...['-c', 'table=orders'],
]

const rewrap = (args: readonly string[], input?: string | Uint8Array): Promise<Ended> =>
  keyfold(['rewrap', ...args], { env, ...(input === undefined ? {} : { input }) })

/** What takes longer tells how far it is before. */
const lastLineOf = (text: string): string => text.trim().split('\n').at(-1) ?? ''

function outcomeOf({ code, text, stderr }: Ended): Outcome & { readonly code: number | null } {
  const line = text.trim() === '' ? lastLineOf(stderr) : text
  return { code, ...(JSON.parse(line) as Outcome) }
}

async function seal(
  key: string,
  texts: readonly string[],
  fields: Readonly<Record<string, unknown>> = {},
) {
  const plaintexts = texts.map((text) => Buffer.from(text))
  return service.call('encrypt', { key, context, plaintexts, ...fields })
}

const buffers = (list: readonly Uint8Array[]): readonly Buffer[] =>
  list.map((bytes) => Buffer.from(bytes))

async function open(ciphertexts: readonly Uint8Array[], fields = {}): Promise<readonly string[]> {
  const answer = await service.call('decrypt', { context, ciphertexts, ...fields })
  expect(answer.errors ?? []).toEqual([])
  return answer.plaintexts.map((plaintext) => String(Buffer.from(plaintext ?? [])))
}

/** The KMS key that an inline message names, and the version: bytes 39 to 59 (formats.md). */
function namedBy(inline: Uint8Array): { readonly key: string; readonly version: number } {
  const bytes = Buffer.from(inline)
  return { key: bytes.subarray(39, 55).toString('hex'), version: bytes.readUInt32BE(55) }
}
const idOf = (key: string): string => key.replaceAll('-', '')

const linesOf = (records: readonly Uint8Array[]): string =>
  records.map((bytes) => `${Buffer.from(bytes).toString('base64')}\n`).join('')
const fromLines = (text: string): readonly Buffer[] =>
  text
    .split('\n')
    .slice(0, -1)
    .map((line) => Buffer.from(line, 'base64'))

async function mixture() {
  const inline = await seal(keyA, ['one', 'two'])
  const strong = await seal(keyA, ['committed'], { suite: 2 })
  const other = await seal(keyB, ['already there'])
  const detached = await seal(keyA, ['apart'], { form: 'detached' })
  const { packed } = await seal(keyA, ['in', 'one', 'value'], { form: 'packed' })
  const aws = await clientOf(service)
  const input = { KeyId: keyA, Plaintext: Buffer.from('by AWS'), EncryptionContext: context }
  const { CiphertextBlob } = await aws.send(new EncryptCommand(input))
  aws.destroy()
  const records = buffers([
    ...inline.ciphertexts,
    packed,
    ...other.ciphertexts,
    Buffer.from('nonsense'),
    detached.keyEntry,
    ...detached.ciphertexts,
    CiphertextBlob as Uint8Array,
    ...strong.ciphertexts,
  ])
  return { records, detached }
}

describe('a stream of every form', () => {
  const check = async (records: readonly Buffer[], moved: readonly Buffer[]): Promise<void> => {
    expect(moved).toHaveLength(records.length)
    const [one, two, packed, current, nonsense, entry, apart, blob, strong] = moved as Buffer[]
    expect(await open([one, two, current, blob, strong] as Buffer[])).toEqual([
      'one',
      'two',
      'already there',
      'by AWS',
      'committed',
    ])
    const whole = await service.call('decrypt', { context, packed })
    expect(whole.plaintexts.map((text) => String(Buffer.from(text ?? [])))).toEqual([
      'in',
      'one',
      'value',
    ])
    expect(await open([apart as Buffer], { keyEntries: [entry] })).toEqual(['apart'])
    expect([current, nonsense, apart]).toEqual([records[3], records[4], records[6]])
    for (const inline of [one, two, packed, strong]) {
      expect(namedBy(inline as Buffer).key).toBe(idOf(keyB))
    }
    // What is sealed was not touched.
    for (const at of [0, 1, 8]) {
      expect(detachMessage(moved[at] as Buffer).message).toEqual(
        detachMessage(records[at] as Buffer).message,
      )
    }
  }

  test('as lines, from file to file', () =>
    inDirectory(async (directory) => {
      const { records } = await mixture()
      const [from, into] = [join(directory, 'in'), join(directory, 'out')]
      writeFileSync(from, linesOf(records))
      expect(outcomeOf(await rewrap([...flagsTo(keyB), from, into]))).toEqual({
        code: 3,
        ciphertexts: 9,
        moved: 6,
        current: 1,
        detached: 1,
        failed: 1,
      })
      await check(records, fromLines(readFileSync(into, 'utf8')))
      expect(readFileSync(`${into}.failures`, 'utf8')).toBe(
        '{"index":4,"code":"MESSAGE_MALFORMED"}\n',
      )
      expect(existsSync(`${into}.checkpoint`)).toBe(false)
      expect(statSync(into).mode & 0o777).toBe(0o600)
    }))

  test('as MessagePack, through a pipe', async () => {
    const { records } = await mixture()
    const input = Buffer.concat(records.map((bytes) => packr.pack(bytes)))
    const ended = await rewrap([...flagsTo(keyB), '--format', 'msgpack'], input)
    const [failure = '', summary = ''] = ended.stderr.trim().split('\n')
    expect(ended.code).toBe(3)
    expect(JSON.parse(failure)).toEqual({ index: 4, code: 'MESSAGE_MALFORMED' })
    expect(JSON.parse(summary)).toMatchObject({ moved: 6, failed: 1 })
    const moved: Buffer[] = []
    const reader = new UnpackrStream()
    reader.end(ended.stdout)
    for await (const bytes of reader) moved.push(bytes as Buffer)
    await check(records, moved)
  })

  test('in mode fresh everything is sealed anew, but what lies apart from its key entry', () =>
    inDirectory(async (directory) => {
      const { records } = await mixture()
      const [from, into] = [join(directory, 'in'), join(directory, 'out')]
      writeFileSync(from, linesOf(records))
      const flags = [...flagsTo(keyB, 'fresh'), '--new-context', 'table=invoices']
      const ended = await rewrap([...flags, from, into])
      expect(outcomeOf(ended)).toMatchObject({ code: 3, moved: 6, current: 0, failed: 3 })
      const moved = fromLines(readFileSync(into, 'utf8'))
      const at = [0, 1, 3, 7, 8].map((i) => moved[i] as Buffer)
      const texts = ['one', 'two', 'already there', 'by AWS', 'committed']
      expect(await open(at, { context: { table: 'invoices' } })).toEqual(texts)
      // The suite stays, and nothing else does.
      expect(moved[8]?.[1]).toBe(2)
      for (const i of [0, 8]) {
        expect(moved[i]?.subarray(2, 34)).not.toEqual(records[i]?.subarray(2, 34))
      }
      const failures = readFileSync(`${into}.failures`, 'utf8').trim().split('\n')
      expect(failures.map((line) => JSON.parse(line) as unknown)).toEqual([
        { index: 4, code: 'MESSAGE_MALFORMED' },
        { index: 5, code: 'OPERATION_UNSUPPORTED' },
        { index: 6, code: 'OPERATION_UNSUPPORTED' },
      ])
    }))

  test('may be empty', () =>
    inDirectory(async (directory) => {
      const [from, into] = [join(directory, 'in'), join(directory, 'out')]
      writeFileSync(from, '')
      expect(outcomeOf(await rewrap([...flagsTo(keyB), from, into]))).toMatchObject({
        code: 0,
        ciphertexts: 0,
      })
      expect(readFileSync(into, 'utf8')).toBe('')
    }))
})

describe('a rotation', () => {
  test('is followed by what older material wrapped, and by nothing else', async () => {
    const key = await service.createKey()
    const before = await seal(key, ['before'])
    await service.call(`keys/${key}/rotate`, {})
    const after = await seal(key, ['after'])
    const input = linesOf([...before.ciphertexts, ...after.ciphertexts])
    const ended = await rewrap(flagsTo(key), input)
    expect(JSON.parse(lastLineOf(ended.stderr))).toMatchObject({ moved: 1, current: 1, failed: 0 })
    const moved = fromLines(ended.text)
    expect(moved.map((bytes) => namedBy(bytes).version)).toEqual([2, 2])
    expect(await open(moved)).toEqual(['before', 'after'])
  })
})

describe('what it costs', () => {
  test('50,000 messages of three message keys are three key entries', async () => {
    const plain = Array.from({ length: 25_000 }, (_, i) => `row ${i}`)
    const key = await service.createKey()
    const one = await seal(key, plain)
    await service.call(`keys/${key}/rotate`, {})
    const two = await seal(key, plain.slice(0, 24_999))
    const three = await seal(keyA, ['last'])
    const input = linesOf([...one.ciphertexts, ...two.ciphertexts, ...three.ciphertexts])
    const target = await service.createKey()
    const { unwraps, openHits } = service.engine.counters()
    const ended = await rewrap(flagsTo(target), input)
    expect(JSON.parse(lastLineOf(ended.stderr))).toMatchObject({ moved: 50_000, failed: 0 })
    const after = service.engine.counters()
    expect(after.unwraps + after.openHits - unwraps - openHits).toBe(3)
    const moved = fromLines(ended.text)
    expect(await open(moved.slice(0, 25_000))).toEqual(plain)
  })
})

describe('killed', () => {
  /** Lines of several message keys, with some that are none. */
  async function manyLines(count: number) {
    const plain = Array.from({ length: count }, (_, i) => `row ${i} ${'x'.repeat(i % 50)}`)
    const half = count / 2
    const one = await seal(keyA, plain.slice(0, half))
    const key = await service.createKey()
    const two = await seal(key, plain.slice(half))
    const lines = linesOf([...one.ciphertexts, ...two.ciphertexts])
      .split('\n')
      .slice(0, -1)
    // Behind wherever a job is killed: under a key of its own, for which the server has to be asked.
    const last = await service.createKey()
    const lateAt = count * 0.97
    const { ciphertexts } = await seal(last, [plain[lateAt] as string])
    lines[lateAt] = linesOf(ciphertexts).trim()
    const damaged = Array.from({ length: 40 }, () => randomInt(lateAt)).sort((a, b) => a - b)
    for (const index of damaged) lines[index] = 'not a ciphertext'
    return { plain, lines, last, damaged: [...new Set(damaged)] }
  }

  test('at random moments and run again, it writes every ciphertext once and in order', () =>
    inDirectory(async (directory) => {
      const { plain, lines, last, damaged } = await manyLines(20_000)
      // The others are given away at once: without this, a job that is not killed in time ends by itself.
      const lastId = Buffer.from(idOf(last), 'hex')
      const relay = await startRelay(service, (_path, body) => !body.includes(lastId))
      const held = { ...env, KEYFOLD_URL: relay.url }
      const [from, into] = [join(directory, 'in'), join(directory, 'out')]
      writeFileSync(from, lines.map((line) => `${line}\n`).join(''))
      const bytes = statSync(from).size
      const flags = ['rewrap', ...flagsTo(keyB), '--batch', '64', '--rate', '16000/s', from, into]
      const kills = 8
      for (let kill = 1; kill <= kills; kill++) {
        // Anywhere in this part of the output: before, within and behind a checkpoint.
        const at = ((kill - 1 + Math.random()) / kills) * bytes * 0.95
        const { child, ended } = start(process.execPath, [MAIN, ...flags], { env: held, input: '' })
        await eventually(
          () => (existsSync(into) && statSync(into).size >= at) || child.exitCode !== null,
        )
        child.kill('SIGKILL')
        expect((await ended).code).toBeNull()
        // What no checkpoint knows of may be anything.
        if (kill % 2 === 0) appendFileSync(into, 'torn')
        if (kill % 3 === 0 && existsSync(`${into}.failures`)) {
          appendFileSync(`${into}.failures`, '{"ind')
        }
      }
      await relay.close()
      const outcome = outcomeOf(
        await keyfold(flags, { env }).then((ended) => ({ ...ended, stderr: '' })),
      )
      expect(outcome).toMatchObject({
        code: 3,
        ciphertexts: lines.length,
        moved: lines.length - damaged.length,
        failed: damaged.length,
      })
      const out = readFileSync(into, 'utf8').split('\n')
      expect(out.pop()).toBe('')
      expect(out).toHaveLength(lines.length)
      for (const index of damaged) expect(out[index]).toBe('not a ciphertext')
      const whole = [...lines.keys()].filter((index) => !damaged.includes(index))
      const moved = whole.map((index) => Buffer.from(out[index] as string, 'base64'))
      for (const [i, index] of whole.entries()) {
        const before = detachMessage(Buffer.from(lines[index] as string, 'base64')).message
        if (Buffer.compare(detachMessage(moved[i] as Buffer).message, before) !== 0) {
          throw new Error(`line ${index} is not what it was`)
        }
      }
      expect(new Set(moved.map((inline) => namedBy(inline).key))).toEqual(new Set([idOf(keyB)]))
      expect(await open(moved)).toEqual(whole.map((index) => plain[index]))
      const failures = readFileSync(`${into}.failures`, 'utf8').trim().split('\n')
      expect(failures.map((line) => JSON.parse(line) as unknown)).toEqual(
        damaged.map((index) => ({ index, code: 'MESSAGE_MALFORMED' })),
      )
    }))
})

describe('a job that cannot be gone on with', () => {
  /** A job that ended in the middle, at a ciphertext that failed. */
  async function interrupted(directory: string) {
    const { ciphertexts } = await seal(keyA, ['one', 'two', 'three'])
    const [from, into] = [join(directory, 'in'), join(directory, 'out')]
    const [one, two, three] = buffers(ciphertexts) as [Buffer, Buffer, Buffer]
    writeFileSync(from, linesOf([one, two, Buffer.from('bad'), three]))
    utimesSync(from, 1_000, 1_000)
    const ended = await rewrap([...flagsTo(keyB), '--fail-fast', from, into])
    expect(ended).toMatchObject({ code: 1, text: '' })
    expect(ended.stderr).toMatch(/ciphertext 2 \(MESSAGE_MALFORMED\)\n$/)
    expect(readFileSync(into, 'utf8').split('\n')).toHaveLength(3)
    return { from, into, again: [...flagsTo(keyB), from, into] }
  }
  const refused = async (args: readonly string[], why: RegExp): Promise<void> => {
    const { code, stderr } = await rewrap(args)
    expect(stderr).toMatch(why)
    expect(code).toBe(1)
  }

  test('goes on where it is let alone', () =>
    inDirectory(async (directory) => {
      const { into, again } = await interrupted(directory)
      const ended = await rewrap(again)
      expect(ended.stderr).toMatch(/going on at byte \d+/)
      expect(JSON.parse(ended.text)).toMatchObject({ ciphertexts: 4, moved: 3, failed: 1 })
      const out = fromLines(readFileSync(into, 'utf8'))
      expect(await open([out[0], out[1], out[3]] as Buffer[])).toEqual(['one', 'two', 'three'])
      await refused(again, /out exists and there is no .*out\.checkpoint/)
    }))

  test('is refused by what of the input is not the same', () =>
    inDirectory(async (directory) => {
      const { from, again } = await interrupted(directory)
      const bytes = readFileSync(from)
      writeFileSync(from, Buffer.concat([bytes, Buffer.from('\n')]))
      await refused(again, /out\.checkpoint is of another input than .*in: its size/)
      writeFileSync(from, bytes)
      utimesSync(from, 2_000, 2_000)
      await refused(again, /another input .* its time of modification/)
      bytes[0] = (bytes[0] as number) ^ 1
      writeFileSync(from, bytes)
      utimesSync(from, 1_000, 1_000)
      await refused(again, /another input .* its beginning/)
    }))

  test('is refused by what of the job is not the same', () =>
    inDirectory(async (directory) => {
      const { from, into } = await interrupted(directory)
      await refused([...flagsTo(keyA), from, into], /another job: its --to/)
      await refused([...flagsTo(keyB, 'fresh'), from, into], /another job: its --mode/)
      await refused([...flagsTo(keyB), '-c', 'more=1', from, into], /its encryption context/)
      await refused([...flagsTo(keyB), '--format', 'msgpack', from, into], /its --format/)
    }))

  test('is refused where the output is not its own', () =>
    inDirectory(async (directory) => {
      const { from, into, again } = await interrupted(directory)
      await refused([...flagsTo(keyB), from, from], /the same file/)
      truncateSync(into, 10)
      await refused(again, /out has 10 bytes and its checkpoint knows of \d+/)
      writeFileSync(`${into}.checkpoint`, '{}')
      await refused(again, /out\.checkpoint is no checkpoint/)
    }))

  test('is refused while another process works on it', () =>
    inDirectory(async (directory) => {
      const { ciphertexts } = await seal(keyA, ['one', 'two', 'three'])
      const [from, into] = [join(directory, 'in'), join(directory, 'out')]
      // An hour's work.
      writeFileSync(from, linesOf(ciphertexts).repeat(1_200))
      const job = [...flagsTo(keyB), from, into]
      const slow = ['--rate', '1/s', ...job]
      const { child, ended } = start(process.execPath, [MAIN, 'rewrap', ...slow], { env })
      await eventually(() => existsSync(into))
      await refused(slow, /another process works with .*out\.checkpoint/)
      child.kill('SIGKILL')
      await ended
      expect((await rewrap(job)).code).toBe(0)
    }))

  test('is kept where the server cannot be reached', () =>
    inDirectory(async (directory) => {
      const { into, from } = await interrupted(directory)
      const checkpoint = readFileSync(`${into}.checkpoint`, 'utf8')
      const url = 'http://127.0.0.1:1'
      await refused([...flagsTo(keyB), '--url', url, from, into], /CONNECTION_FAILED/)
      expect(readFileSync(`${into}.checkpoint`, 'utf8')).toBe(checkpoint)
    }))
})

describe('refusals of the server', () => {
  test('fail each ciphertext that they concern', async () => {
    const key = await service.createKey()
    const shut = await seal(key, ['shut'])
    const fine = await seal(keyA, ['fine'])
    await service.call(`keys/${key}/disable`, {})
    const input = linesOf([...shut.ciphertexts, ...fine.ciphertexts])
    const ended = await rewrap(flagsTo(keyB), input)
    expect(ended.code).toBe(3)
    expect(ended.stderr).toMatch(/^{"index":0,"code":"KMS_KEY_DISABLED"}\n{.*"moved":1/)
    expect(fromLines(ended.text)[0]).toEqual(Buffer.from(shut.ciphertexts[0] as Uint8Array))
    const elsewhere = await rewrap([...flagsTo(keyB).slice(0, -2)], linesOf(fine.ciphertexts))
    expect(elsewhere.stderr).toMatch(/^{"index":0,"code":"DECRYPT_FAILED"}/)
  })

  test('that a moment later do not hold are tried again', async () => {
    const tight = await startService({
      settings: {
        missBudgetBurst: '10',
        missBudgetPerSecond: '40',
        messageKeyMessagesMax: '1',
      },
    })
    try {
      const [from, into] = [
        (await tight.call('keys', {})).keyId,
        (await tight.call('keys', {})).keyId,
      ]
      const sealed: Uint8Array[] = []
      for (let i = 0; i < 60; i++) {
        // Each by somebody else, whose budget is not spent.
        const { token } = await tight.engine.tokens.create({
          name: `u${i}`,
          principalArn: `arn:aws:iam::000000000000:user/u${i}`,
          actions: ['kms:Encrypt'],
          keys: ['*'],
        })
        const response = await fetch(`${tight.url}/v1/encrypt`, {
          method: 'POST',
          headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
          body: JSON.stringify({ key: from, context, plaintexts: ['YQ=='] }),
        })
        const { ciphertexts } = (await response.json()) as { ciphertexts: string[] }
        sealed.push(Buffer.from(ciphertexts[0] as string, 'base64'))
      }
      const ended = await keyfold(['rewrap', ...flagsTo(into)], {
        env: { KEYFOLD_URL: tight.url, KEYFOLD_TOKEN: tight.token },
        input: linesOf(sealed),
      })
      expect(JSON.parse(lastLineOf(ended.stderr))).toMatchObject({ moved: 60, failed: 0 })
      expect(tight.engine.counters().missesRefused).toBeGreaterThan(0)
    } finally {
      await tight.close()
    }
  })
})

describe('--count', () => {
  test('tells what hangs on which key and version, and of a server what is not current', () =>
    inDirectory(async (directory) => {
      const key = await service.createKey()
      const old = await seal(key, ['a', 'b'])
      await service.call(`keys/${key}/rotate`, {})
      const { packed } = await seal(key, ['c', 'd', 'e'], { form: 'packed' })
      const { ciphertexts } = await seal(key, ['f'], { form: 'detached' })
      const file = join(directory, 'in')
      writeFileSync(file, linesOf([...old.ciphertexts, packed, ...ciphertexts, Buffer.from('x')]))
      const count = async (of: Readonly<Record<string, string>>) => {
        const { code, text } = await keyfold(['rewrap', '--count', '--json', file], { env: of })
        expect(code).toBe(0)
        return JSON.parse(text) as unknown
      }
      const rows = [
        { kmsKeyId: key, version: 1, ciphertexts: 2, messages: 2, forms: { inline: 2 } },
        { kmsKeyId: key, version: 2, ciphertexts: 1, messages: 3, forms: { packed: 1 } },
        { ciphertexts: 1, messages: 1, forms: { detached: 1 } },
        { ciphertexts: 1, messages: 0, forms: { 'not a ciphertext': 1 } },
      ]
      expect(await count({})).toEqual(rows)
      const arn = `arn:aws:kms:us-east-1:000000000000:key/${key}`
      const known = { arn, state: 'Enabled' }
      expect(await count(env)).toEqual([
        { ...rows[0], ...known, current: false },
        { ...rows[1], ...known, current: true },
        rows[2],
        rows[3],
      ])
      const { text } = await keyfold(['rewrap', '--count', file], { env })
      expect(text).toContain(arn)
    }))
})

describe('the command line', () => {
  test.each([
    [['--to', 'alias/a'], /--mode/],
    [['--mode', 'rewrap'], /--to/],
    [['--to', 'alias/a', '--mode', 'other'], /rewrap, fresh/],
    [['--to', 'alias/a', '--mode', 'rewrap', '--new-context', 'a=b'], /--mode fresh only/],
    [['--to', 'alias/a', '--mode', 'rewrap', '--rate', '0'], /whole number/],
    [['--to', 'alias/a', '--mode', 'rewrap', '--batch', 'x'], /whole number/],
  ])('%j is refused with 2', async (flags, why) => {
    const { code, stderr } = await rewrap(flags)
    expect(stderr).toMatch(why)
    expect(code).toBe(2)
  })
})

describe('a rate', () => {
  test('lets so many a second go, and does not make up for time that was not used', async () => {
    let nowMs = 5_000
    const waits: number[] = []
    const rate = new Rate(100, {
      nowMs: () => nowMs,
      wait: async (ms) => {
        waits.push(ms)
        nowMs += ms
      },
    })
    await rate.take(50)
    await rate.take(50)
    await rate.take(200)
    expect(waits).toEqual([500, 500])
    nowMs += 60_000
    await rate.take(10)
    await rate.take(10)
    expect(waits).toEqual([500, 500, 100])
  })
})
