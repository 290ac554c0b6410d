/** `keyfold encrypt|decrypt` of files, trees and pipes. What a tree is, the file system says. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { open, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { fillDisk, mountDisk } from '../audit/disk.ts'
import { eventually } from '../server/caller.ts'
import {
  firstLine,
  inDirectory,
  jsonOf,
  keyfold,
  MAIN,
  ROOT,
  run,
  serve,
  start,
  type Ended,
  type Environment,
  type Server,
} from './command.ts'
import {
  bytesOf,
  differences,
  listTree,
  makeTree,
  openTree,
  partsOf,
  setWholeTimes,
} from './trees.ts'

const CONTEXT = ['-c', 'what=files', '-c', 'a=b=c']

let server: Server
/** Of two KMS keys: the first one has the alias alias/files. */
let arn: string
let otherArn: string

beforeAll(async () => {
  server = await serve(['--dev', '--log-level', 'error'])
  const create = async (alias: string): Promise<string> =>
    jsonOf<{ arn: string }>(await keyfold(['keys', 'create', '--alias', alias, '--json'], server))
      .arn
  arn = await create('alias/files')
  otherArn = await create('alias/other')
})
afterAll(() => server.stop())

const call = (cwd: string, ...args: readonly string[]): Promise<Ended> =>
  keyfold(args, { ...server, cwd })

function inTree<T>(work: (directory: string) => Promise<T>): Promise<T> {
  return inDirectory(async (directory) => {
    try {
      return await work(directory)
    } finally {
      openTree(directory)
    }
  })
}

describe('a tree', () => {
  test('comes back the same: names, contents, modes, times, links, what is empty', () =>
    inTree(async (cwd) => {
      makeTree(join(cwd, 'tree'))
      const before = listTree(join(cwd, 'tree'))
      const sealed = await call(
        cwd,
        'encrypt',
        '-k',
        'alias/files',
        ...CONTEXT,
        '-r',
        'tree',
        '--out-dir',
        'enc',
      )
      expect(sealed).toMatchObject({ code: 0, text: '' })
      expect(sealed.stderr).toMatch(/^keyfold: \d+ encrypted\n$/)
      const opened = await call(
        cwd,
        'decrypt',
        '-k',
        arn,
        ...CONTEXT,
        '-r',
        'enc/tree/',
        '--out-dir',
        'dec',
      )
      expect(opened).toMatchObject({ code: 0, text: '' })
      expect(differences(listTree(join(cwd, 'dec/tree')), before)).toEqual([])
      expect(differences(listTree(join(cwd, 'tree')), before)).toEqual([])
      expect([...partsOf(cwd)]).toEqual([])
      // Modes and times of what is encrypted are those of what it was, and no byte of plaintext is left.
      const ciphertexts = listTree(join(cwd, 'enc/tree'))
      for (const [path, was] of Object.entries(before)) {
        const file = was.startsWith('100')
        const found = ciphertexts[file ? `${path}.kfe` : path] ?? ''
        expect(found.split(' ').slice(0, 2)).toEqual(was.split(' ').slice(0, 2))
        if (file) expect(found).not.toBe(was)
        else expect(found).toBe(was)
      }
      expect(Object.keys(ciphertexts)).toHaveLength(Object.keys(before).length)
    }))

  test('of which a part is in the way is told, and nothing of it is lost', () =>
    inTree(async (cwd) => {
      mkdirSync(join(cwd, 'tree'))
      for (const name of ['a', 'b', 'c']) writeFileSync(join(cwd, 'tree', name), name)
      mkdirSync(join(cwd, 'enc/tree'), { recursive: true })
      writeFileSync(join(cwd, 'enc/tree/b.kfe'), 'mine')
      utimesSync(join(cwd, 'enc/tree/b.kfe'), 1, 1)
      const args = ['encrypt', '-k', arn, '-r', 'tree', '--out-dir', 'enc']
      const refused = await call(cwd, ...args)
      expect(refused.code).toBe(3)
      expect(refused.stderr).toMatch(
        /^keyfold: tree\/b: the target is there; [^\n]+\nkeyfold: 2 encrypted, 1 failed\n$/,
      )
      expect(readFileSync(join(cwd, 'enc/tree/b.kfe'), 'utf8')).toBe('mine')
      const first = readFileSync(join(cwd, 'enc/tree/a.kfe'))
      expect(await call(cwd, ...args, '--skip-existing')).toMatchObject({
        code: 0,
        stderr: 'keyfold: 0 encrypted, 3 left as they were\n',
      })
      // --resume leaves what it has made itself only.
      expect(await call(cwd, ...args, '--resume')).toMatchObject({ code: 3 })
      expect(readFileSync(join(cwd, 'enc/tree/b.kfe'), 'utf8')).toBe('mine')
      expect(readFileSync(join(cwd, 'enc/tree/a.kfe')).equals(first)).toBe(true)
      expect(await call(cwd, ...args, '--force', '-q')).toMatchObject({ code: 0, stderr: '' })
      expect(readFileSync(join(cwd, 'enc/tree/a.kfe')).equals(first)).toBe(false)
      expect(
        await call(cwd, 'decrypt', '-k', arn, 'enc/tree/b.kfe', '--out-dir', '.'),
      ).toMatchObject({ code: 0 })
      expect(readFileSync(join(cwd, 'b'), 'utf8')).toBe('b')
    }))

  test('with sockets and pipes is copied without them, and says so', () =>
    inTree(async (cwd) => {
      mkdirSync(join(cwd, 'tree'))
      writeFileSync(join(cwd, 'tree/file'), 'x')
      execFileSync('mkfifo', [join(cwd, 'tree/pipe')])
      const socket = createServer()
      await new Promise<void>((ready) => socket.listen(join(cwd, 'tree/socket'), ready))
      const { code, stderr } = await call(
        cwd,
        'encrypt',
        '-k',
        arn,
        '-r',
        'tree/.',
        '--out-dir',
        'enc',
      )
      socket.close()
      expect(code).toBe(3)
      expect(stderr).toContain('keyfold: tree/./pipe: left out: a socket, pipe or device\n')
      expect(stderr).toContain('keyfold: tree/./socket: left out: a socket, pipe or device\n')
      expect(readdirSync(join(cwd, 'enc'))).toEqual(['file.kfe'])
    }))

  test('is not written into itself, nor through a link that is in the way', () =>
    inTree(async (cwd) => {
      mkdirSync(join(cwd, 'tree/sub'), { recursive: true })
      writeFileSync(join(cwd, 'tree/sub/file'), 'x')
      symlinkSync('tree', join(cwd, 'again'))
      for (const into of ['tree', 'tree/new/er', '.', 'again/sub']) {
        const ended = await call(cwd, 'encrypt', '-k', arn, '-r', 'tree', '--out-dir', into)
        expect(ended).toMatchObject({ code: 2 })
        expect(ended.stderr).toMatch(/lies in the tree itself/)
      }
      expect(existsSync(join(cwd, 'tree/new'))).toBe(false)
      mkdirSync(join(cwd, 'outside'))
      mkdirSync(join(cwd, 'enc/tree'), { recursive: true })
      symlinkSync('../../outside', join(cwd, 'enc/tree/sub'))
      const ended = await call(
        cwd,
        'encrypt',
        '-k',
        arn,
        '-r',
        'tree',
        '--out-dir',
        'enc',
        '--force',
      )
      expect(ended).toMatchObject({ code: 1 })
      expect(readdirSync(join(cwd, 'outside'))).toEqual([])
    }))

  test('whose names collide once they are encrypted loses none: the second is told', () =>
    inTree(async (cwd) => {
      mkdirSync(join(cwd, 'tree'))
      writeFileSync(join(cwd, 'tree/a'), 'x')
      symlinkSync('a', join(cwd, 'tree/a.kfe'))
      const ended = await call(
        cwd,
        'encrypt',
        '-k',
        arn,
        '-r',
        'tree',
        '--out-dir',
        'enc',
        '--force',
      )
      expect(ended.code).toBe(3)
      expect(ended.stderr).toMatch(/made of another file of this directory/)
    }))

  test('with something that is not encrypted is decrypted without it, and says so', () =>
    inTree(async (cwd) => {
      mkdirSync(join(cwd, 'tree'))
      writeFileSync(join(cwd, 'tree/a'), 'x')
      await call(cwd, 'encrypt', '-k', arn, '-r', 'tree', '--out-dir', 'enc')
      writeFileSync(join(cwd, 'enc/tree/README'), 'x')
      writeFileSync(join(cwd, 'enc/tree/.kfe'), 'x')
      writeFileSync(join(cwd, 'enc/tree/torn.kfe'), 'x')
      const ended = await call(cwd, 'decrypt', '-k', arn, '-r', 'enc/tree', '--out-dir', 'dec')
      expect(ended.code).toBe(3)
      expect(ended.stderr).toMatch(/README: left out: its name does not end in .kfe/)
      expect(ended.stderr).toMatch(/torn.kfe: [^\n]*STREAM_MALFORMED/)
      expect(readdirSync(join(cwd, 'dec/tree'))).toEqual(['a'])
    }))
})

describe('files', () => {
  test('go beside themselves with their mode and time, and a link that is named is what it points to', () =>
    inTree(async (cwd) => {
      const file = join(cwd, 'file')
      writeFileSync(file, bytesOf(100_000))
      chmodSync(file, 0o640)
      utimesSync(file, 1_000_000_000, 1_111_111_111)
      symlinkSync('file', join(cwd, 'link'))
      linkSync(file, join(cwd, 'hard'))
      expect(await call(cwd, 'encrypt', '-k', arn, '-q', 'file', 'link', 'hard')).toMatchObject({
        code: 0,
        stderr: '',
      })
      for (const name of ['file.kfe', 'link.kfe', 'hard.kfe']) {
        expect(statSync(join(cwd, name))).toMatchObject({
          mode: 0o100640,
          mtimeMs: 1_111_111_111_000,
          nlink: 1,
        })
      }
      expect(
        await call(cwd, 'decrypt', '-k', arn, '--out-dir', 'dec/er', 'file.kfe', 'link.kfe'),
      ).toMatchObject({ code: 0 })
      for (const name of ['file', 'link']) {
        expect(readFileSync(join(cwd, 'dec/er', name)).equals(bytesOf(100_000))).toBe(true)
        expect(statSync(join(cwd, 'dec/er', name))).toMatchObject({
          mode: 0o100640,
          mtimeMs: 1_111_111_111_000,
        })
      }
    }))

  test.each([
    ['the key of another file', () => ['-k', otherArn], /DECRYPT_FAILED/],
    ['another context', () => ['-k', arn, '-c', 'what=secret'], /DECRYPT_FAILED/],
    ['a pair more', () => ['-k', arn, ...CONTEXT, '-c', 'more=secret'], /DECRYPT_FAILED/],
    ['a key that is not there', () => ['-k', 'alias/none'], /KMS_KEY_NOT_FOUND|ALIAS_NOT_FOUND/],
  ])('%s opens nothing, and leaves nothing', (_, args, says) =>
    inTree(async (cwd) => {
      writeFileSync(join(cwd, 'file'), 'x')
      await call(cwd, 'encrypt', '-k', arn, ...CONTEXT, 'file')
      const ended = await call(cwd, 'decrypt', ...args(), 'file.kfe', '--out-dir', 'dec')
      expect(ended).toMatchObject({ code: 1, text: '' })
      expect(ended.stderr).toMatch(says)
      expect(ended.stderr).not.toContain('secret')
      expect(listOf(join(cwd, 'dec'))).toEqual([])
    }),
  )

  test('a file that was cut short or changed leaves nothing, wherever that is', () =>
    inTree(async (cwd) => {
      writeFileSync(join(cwd, 'file'), bytesOf(200_000))
      await call(cwd, 'encrypt', '-k', arn, 'file')
      const whole = readFileSync(join(cwd, 'file.kfe'))
      const cuts = [0, 1, 40, 300, 70_000, 140_000, whole.length - 1]
      for (const at of cuts) writeFileSync(join(cwd, `${at}.kfe`), whole.subarray(0, at))
      const flipped = Buffer.from(whole)
      flipped[150_000] = (flipped[150_000] as number) ^ 1
      writeFileSync(join(cwd, 'flipped.kfe'), flipped)
      writeFileSync(join(cwd, 'longer.kfe'), Buffer.concat([whole, Buffer.from('x')]))
      const names = [...cuts, 'flipped', 'longer'].map((name) => `${name}.kfe`)
      const ended = await call(cwd, 'decrypt', '-k', arn, ...names, '--out-dir', 'dec')
      expect(ended.code).toBe(1)
      for (const name of names) expect(ended.stderr).toContain(`keyfold: ${name}: `)
      expect(listOf(join(cwd, 'dec'))).toEqual([])
    }))

  test('a disk that is full leaves nothing, and a run that goes on makes it whole', ({ skip }) =>
    inTree(async (cwd) => {
      const disk = mountDisk(skip)
      mkdirSync(join(cwd, 'tree'))
      for (let i = 0; i < 6; i++) writeFileSync(join(cwd, `tree/${i}`), bytesOf(300_000))
      setWholeTimes(join(cwd, 'tree'))
      const giveBack = fillDisk(disk)
      const args = ['encrypt', '-k', arn, '-r', 'tree', '--out-dir', disk]
      const full = await call(cwd, ...args)
      expect(full.code).toBe(1)
      expect(full.stderr).toMatch(/ENOSPC/)
      expect(partsOf(disk)).toEqual([])
      expect(
        readdirSync(disk, { recursive: true }).filter((name) => String(name).endsWith('.kfe')),
      ).toEqual([])
      giveBack()
      expect(await call(cwd, ...args, '--resume')).toMatchObject({ code: 0 })
      expect(
        await call(cwd, 'decrypt', '-k', arn, '-r', join(disk, 'tree'), '--out-dir', 'dec'),
      ).toMatchObject({ code: 0 })
      const there = listTree(join(cwd, 'dec/tree'))
      expect(differences(there, listTree(join(cwd, 'tree')))).toEqual([])
    }))

  test.each([
    [
      'neither files nor -i nor --lines',
      ['encrypt', '-k', 'alias/files'],
      /give files, or -i, or --lines/,
    ],
    ['both', ['encrypt', '-k', 'alias/files', '-i', '-', 'file'], /give files, or -i, or --lines/],
    ['no key', ['encrypt', 'file'], /give a KMS key \(-k\) or --raw-key-file/],
    [
      'a directory without -r',
      ['encrypt', '-k', 'alias/files', '.'],
      /is a directory; -r takes trees/,
    ],
    ['a tree to nowhere', ['encrypt', '-k', 'alias/files', '-r', '.'], /needs --out-dir/],
    ['-o without -i', ['encrypt', '-k', 'alias/files', 'file', '-o', 'x'], /-o goes with -i/],
    [
      'two rules at once',
      ['encrypt', '-k', 'alias/files', 'file', '--force', '--resume'],
      /one of --force/,
    ],
    [
      'frames too small',
      ['encrypt', '-k', 'alias/files', 'file', '--frame-bytes', '5'],
      /4096 to 1048576/,
    ],
    ['a name without the suffix', ['decrypt', '-k', 'alias/files', 'file'], /does not end in .kfe/],
  ])('%s: the command line is wrong', (_, args, says) =>
    inTree(async (cwd) => {
      writeFileSync(join(cwd, 'file'), 'x')
      const ended = await call(cwd, ...args)
      expect(ended).toMatchObject({ code: 2, text: '' })
      expect(ended.stderr).toMatch(says)
      expect(readdirSync(cwd)).toEqual(['file'])
    }),
  )
})

describe('a pipe', () => {
  test.each([0, 1, 65_536, 5_000_001])('of %i bytes goes through both ways', (bytes) =>
    inTree(async (cwd) => {
      writeFileSync(join(cwd, 'in'), bytesOf(bytes))
      const script =
        '"$NODE" "$MAIN" encrypt -k alias/files -c a=b -i - < in | "$NODE" "$MAIN" decrypt -k "$ARN" -c a=b -i -'
      const env = { ...server.env, NODE: process.execPath, MAIN, ARN: arn }
      const { code, stdout, stderr } = await run('sh', ['-c', script], { env, cwd })
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
      expect(stdout.equals(bytesOf(bytes))).toBe(true)
    }),
  )

  test('becomes a file that only its owner may read, and a file becomes a pipe', () =>
    inTree(async (cwd) => {
      const input = bytesOf(100_000)
      const sealed = await keyfold(['encrypt', '-k', arn, '-i', '-', '-o', 'x'], {
        ...server,
        cwd,
        input,
      })
      expect(sealed).toMatchObject({ code: 0, stderr: '' })
      expect(statSync(join(cwd, 'x')).mode).toBe(0o100600)
      const opened = await call(cwd, 'decrypt', '-k', arn, '-i', 'x', '-o', '-')
      expect(opened.stdout.equals(input)).toBe(true)
      for (const existing of ['x', 'link']) {
        if (existing === 'link') symlinkSync('x', join(cwd, 'link'))
        const refused = await keyfold(['encrypt', '-k', arn, '-i', '-', '-o', existing], {
          ...server,
          cwd,
          input,
        })
        expect(refused).toMatchObject({ code: 1 })
      }
      expect(
        await call(cwd, 'decrypt', '-k', arn, '-i', 'x', '-o', 'link', '--force'),
      ).toMatchObject({ code: 0 })
      // A link to a file is that file, as for a shell.
      expect(readlinkSync(join(cwd, 'link'))).toBe('x')
      expect(readFileSync(join(cwd, 'x')).equals(input)).toBe(true)
    }))

  test('that ends too early is an error, and no file', () =>
    inTree(async (cwd) => {
      const input = (
        await keyfold(['encrypt', '-k', arn, '-i', '-'], {
          ...server,
          cwd,
          input: bytesOf(300_000),
        })
      ).stdout
      const cut = input.subarray(0, 200_000)
      const file = await keyfold(['decrypt', '-k', arn, '-i', '-', '-o', 'x'], {
        ...server,
        cwd,
        input: cut,
      })
      expect(file).toMatchObject({ code: 1 })
      expect(readdirSync(cwd)).toEqual([])
      const piped = await keyfold(['decrypt', '-k', arn, '-i', '-'], { ...server, cwd, input: cut })
      expect(piped.code).toBe(1)
      // What had verified went, and is the beginning.
      expect(piped.stdout.equals(bytesOf(300_000).subarray(0, piped.stdout.length))).toBe(true)
    }))

  test('out of a file that was cut short or has something behind its end gets no byte', () =>
    inTree(async (cwd) => {
      writeFileSync(join(cwd, 'file'), bytesOf(3_000_000))
      await call(cwd, 'encrypt', '-k', arn, 'file')
      const whole = readFileSync(join(cwd, 'file.kfe'))
      const damaged = [whole.subarray(0, -1), Buffer.concat([whole, Buffer.from('x')])]
      for (const bytes of damaged) {
        writeFileSync(join(cwd, 'damaged'), bytes)
        for (const args of [
          ['decrypt', '-i', 'damaged'],
          ['cat', 'damaged'],
        ]) {
          expect(await call(cwd, ...args, '-k', arn)).toMatchObject({ code: 1, text: '' })
        }
      }
    }))

  test('whose reader leaves early ends quietly', () =>
    inTree(async (cwd) => {
      const script = `
        set -o pipefail
        head -c 9000000 /dev/urandom > file
        head -c 32 /dev/urandom > key && chmod 600 key
        "$NODE" "$MAIN" encrypt --raw-key-file key -q file
        "$NODE" "$MAIN" decrypt --raw-key-file key -q -i file.kfe | head -c 100000 | cmp - <(head -c 100000 file)
        "$NODE" "$MAIN" cat --raw-key-file key file.kfe | head -c 100000 | cmp - <(head -c 100000 file)`
      const env = { NODE: process.execPath, MAIN }
      const ended = await run('bash', ['-ec', script], { env, cwd })
      expect(ended).toMatchObject({ code: 0, stderr: '', text: '' })
    }))

  test('out of a file that says it is empty and is not has all of it', () =>
    inTree(async (cwd) => {
      expect(statSync('/proc/version')).toMatchObject({ size: 0 })
      const sealed = await call(cwd, 'encrypt', '-k', arn, '-i', '/proc/version', '-o', 'x')
      expect(sealed).toMatchObject({ code: 0 })
      const { text } = await call(cwd, 'decrypt', '-k', arn, '-i', 'x')
      expect(text).toBe(readFileSync('/proc/version', 'utf8'))
    }))

  test('to what is no file goes there, and does not replace it', () =>
    inTree(async (cwd) => {
      execFileSync('mknod', [join(cwd, 'null'), 'c', '1', '3'])
      writeFileSync(join(cwd, 'file'), 'x')
      for (const force of [[], ['--force']]) {
        expect(
          await call(cwd, 'encrypt', '-k', arn, '-i', 'file', '-o', 'null', ...force),
        ).toMatchObject({ code: 0 })
        expect(statSync(join(cwd, 'null')).isCharacterDevice()).toBe(true)
      }
      const full = await call(cwd, 'encrypt', '-k', arn, '-i', 'file', '-o', '/dev/full')
      expect(full.code).toBe(1)
      expect(full.stderr).toMatch(/ENOSPC/)
    }))
})

describe('a key in a file', () => {
  test('needs no server; beside a KMS key, either opens', () =>
    inTree(async (cwd) => {
      writeFileSync(join(cwd, 'key'), randomBytes(32), { mode: 0o600 })
      writeFileSync(join(cwd, 'file'), 'plain')
      const local = { cwd, env: { KEYFOLD_URL: 'http://127.0.0.1:1' } }
      const raw = ['--raw-key-file', 'key', '-q']
      expect(await keyfold(['encrypt', ...raw, 'file'], local)).toMatchObject({
        code: 0,
        stderr: '',
      })
      expect((await keyfold(['decrypt', ...raw, '-i', 'file.kfe'], local)).text).toBe('plain')
      expect(
        await call(cwd, 'encrypt', ...raw, '-k', arn, '-i', 'file', '-o', 'both'),
      ).toMatchObject({ code: 0 })
      expect((await keyfold(['decrypt', ...raw, '-i', 'both'], local)).text).toBe('plain')
      expect((await call(cwd, 'decrypt', '-k', arn, '-i', 'both')).text).toBe('plain')
      const named = await keyfold(['decrypt', ...raw, '--key-name', 'another', '-i', 'both'], local)
      expect(named).toMatchObject({ code: 1, text: '' })
    }))

  test('that is too short or that others may read is refused', () =>
    inTree(async (cwd) => {
      writeFileSync(join(cwd, 'file'), 'x')
      writeFileSync(join(cwd, 'short'), randomBytes(31), { mode: 0o600 })
      writeFileSync(join(cwd, 'open'), randomBytes(32), { mode: 0o644 })
      for (const [key, says] of [
        ['short', /32 bytes are needed, it has 31/],
        ['open', /others may read it/],
        ['none', /ENOENT/],
      ] as const) {
        const ended = await keyfold(['encrypt', '--raw-key-file', key, 'file'], { cwd })
        expect(ended).toMatchObject({ code: 2 })
        expect(ended.stderr).toMatch(says)
      }
    }))
})

function listOf(directory: string): readonly string[] {
  return existsSync(directory) ? readdirSync(directory) : []
}

test('the README: what its page on files tells people to type works as it stands there', () =>
  inTree(async (cwd) => {
    const [, page = ''] = readFileSync(join(ROOT, 'README.md'), 'utf8').split('## Encrypting files')
    const blocks = page
      .split('\n### ', 1)
      .join()
      .split('```')
      .filter((_, i) => i % 2 === 1)
    const [setUp = '', ...others] = blocks
    const [initLine = '', serveLine = '', exportLine = '', ...rest] = setUp.trim().split('\n')
    const env = {
      KEYFOLD_DATA: join(cwd, 'data'),
      KEYFOLD_LISTEN: '127.0.0.1:0',
      KEYFOLD_LOG_LEVEL: 'error',
      NODE: process.execPath,
      MAIN,
    }
    const type = (lines: string, more: Environment = {}): ReturnType<typeof start> =>
      start('bash', ['-eo', 'pipefail', '-c', `keyfold() { "$NODE" "$MAIN" "$@"; }\n${lines}`], {
        env: { ...env, ...more },
        cwd,
      })
    const { text: told } = await type(initLine).ended
    const token = /^kf_\S+$/m.exec(told)?.[0]
    // exec, so that a signal is the server's.
    const [command = ''] = serveLine.replace('keyfold', 'exec "$NODE" "$MAIN"').split('#')
    const serving = type(`${command} --ready-json`)
    const { url } = JSON.parse(await firstLine(serving.child)) as { readonly url: string }
    expect(exportLine).toBe('export KEYFOLD_URL=http://127.0.0.1:8790 KEYFOLD_TOKEN=kf_…')

    makeTree(join(cwd, 'photos'))
    const contents = {
      'report.pdf': 'a report',
      'march.csv': 'march, '.repeat(100),
      'notes.txt': '',
    }
    for (const [name, content] of Object.entries(contents)) writeFileSync(join(cwd, name), content)
    const typed = type([...rest, ...others].join('\n'), { KEYFOLD_URL: url, KEYFOLD_TOKEN: token })
    const { code, text, stderr } = await typed.ended
    expect({ code, stderr }).toMatchObject({ code: 0 })
    expect(text).toContain('photos/1 bytes\n')
    expect(text).toContain('march, '.repeat(100).slice(0, 100))
    // The second run over the directory had nothing to do.
    expect(stderr).toMatch(/keyfold: 0 encrypted, \d+ left as they were/)
    for (const [name, content] of Object.entries(contents)) {
      expect(readFileSync(join(cwd, 'restored', name), 'utf8')).toBe(content)
    }
    const back = listTree(join(cwd, 'restored/photos'))
    expect(differences(back, listTree(join(cwd, 'photos')))).toEqual([])
    serving.child.kill('SIGTERM')
    expect((await serving.ended).code).toBe(0)
  }))

test('how far it is: a bar, a rate and the time that is left on a terminal, nothing with -q', () =>
  inTree(async (cwd) => {
    await run('mkfifo', ['pipe'], { cwd })
    writeFileSync(join(cwd, 'file'), bytesOf(1_000_000))
    const told = /\r\[[#.]{20}\] \d+ %, [\d.]+ [KM]?i?B, [\d.]+ [KM]?i?B\/s, \d+ s left/
    // Nobody reads the pipe before something was said, or would have been.
    const watch = async (flags: string, isOver: (text: string) => boolean): Promise<string> => {
      const command = `'${process.execPath}' '${MAIN}' encrypt -k ${arn} -i file -o pipe ${flags}`
      const { child, ended } = start('script', ['-qefc', command, '/dev/null'], { ...server, cwd })
      let text = ''
      child.stdout?.on('data', (bytes: Buffer) => (text += bytes.toString()))
      // Opens once somebody writes.
      const pipe = await open(join(cwd, 'pipe'))
      await eventually(() => isOver(text))
      await writeFile(join(cwd, 'sealed'), await pipe.readFile())
      await pipe.close()
      return (await ended).text
    }
    expect(await watch('', (text) => told.test(text))).toMatch(told)
    let openedAtMs: number | undefined
    const isLong = (): boolean => performance.now() - (openedAtMs ??= performance.now()) > 3_000
    expect(await watch('-q', isLong)).toBe('')
    const sealed = await keyfold(['decrypt', '-k', arn, '-i', 'sealed', '-o', 'back'], {
      ...server,
      cwd,
    })
    expect(sealed).toMatchObject({ code: 0 })
    expect(readFileSync(join(cwd, 'back')).equals(bytesOf(1_000_000))).toBe(true)
  }))
