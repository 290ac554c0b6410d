/** What the README tells people to type is run as it stands there. */
import { spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import {
  firstLine,
  inDirectory,
  keyfold,
  MAIN,
  ROOT,
  run,
  serve,
  start,
  type Server,
} from './cli/command.ts'

const README = readFileSync(join(ROOT, 'README.md'), 'utf8')

/** The text between the first fence of that language behind `mark` and its end. */
function blockAfter(mark: string, language: string): string {
  const [, behind] = README.split(mark)
  const fence = `\`\`\`${language}\n`
  const start = behind?.indexOf(`\n${fence}`) ?? -1
  if (behind === undefined || start < 0) throw new Error(`README.md has no ${fence} behind ${mark}`)
  const text = behind.slice(start + 1 + fence.length)
  return text.slice(0, text.indexOf('\n```') + 1)
}

let server: Server

beforeAll(async () => {
  server = await serve(['--dev', '--log-level', 'error'])
})
afterAll(() => server.stop())

/** A project of somebody who has installed keyfold. */
function inProject<T>(work: (directory: string) => Promise<T>): Promise<T> {
  return inDirectory((directory) => {
    mkdirSync(join(directory, 'node_modules/.bin'), { recursive: true })
    symlinkSync(ROOT, join(directory, 'node_modules/keyfold'))
    symlinkSync(join(ROOT, 'node_modules/@types'), join(directory, 'node_modules/@types'))
    // As npm does for every program of a package.
    chmodSync(MAIN, 0o755)
    symlinkSync(MAIN, join(directory, 'node_modules/.bin/keyfold'))
    writeFileSync(join(directory, 'package.json'), '{ "private": true, "type": "module" }')
    return work(directory)
  })
}

const [serveLine = '', exportLine = '', createLine = ''] = blockAfter('## Ten lines', '')
  .trimEnd()
  .split('\n')

describe('ten lines', () => {
  test('a server starts, and prints what the second line sets', () =>
    inProject(async (cwd) => {
      const [command = ''] = serveLine.split('#')
      // npx hands the signal on to a shell, so the server is told by its own process id.
      const script = `${command} --ready-json & wait`
      const env = { KEYFOLD_LISTEN: '127.0.0.1:0', KEYFOLD_LOG_LEVEL: 'error' }
      const { child, ended } = start('sh', ['-c', script], { cwd, env })
      const ready = JSON.parse(await firstLine(child)) as {
        pid: number
        url: string
        token: string
      }
      expect(exportLine).toMatch(/^export KEYFOLD_URL=http:\S+:8790 KEYFOLD_TOKEN=kf_…$/)
      expect(ready.url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/)
      expect(ready.token).toMatch(/^kf_/)
      process.kill(ready.pid, 'SIGTERM')
      expect((await ended).code).toBe(0)
    }))

  test('a key is made, and TypeScript encrypts under it', () =>
    inProject(async (cwd) => {
      const made = await run('sh', ['-c', createLine], { cwd, env: server.env })
      expect(made).toMatchObject({ code: 0, stderr: '' })

      const block = blockAfter('## Ten lines', 'ts')
      const program = [
        `const rows = ['first', 'second'].map((text) => Buffer.from(text))`,
        `const row = Buffer.from('third')`,
        block.replace(
          'await keyfold.close()',
          'const third = await keyfold.decrypt(one, { context })\n$&',
        ),
        `console.log(opened.plaintexts.map(String).join(), opened.errors.length, String(third))`,
      ].join('\n')
      expect(program).toContain('const third')
      writeFileSync(join(cwd, 'ten-lines.ts'), program)
      const tsc = join(ROOT, 'node_modules/typescript/bin/tsc')
      const flags = [
        '--strict',
        '--skipLibCheck',
        '--target',
        'es2022',
        '--module',
        'nodenext',
        '--types',
        'node',
      ]
      const checked = await run(process.execPath, [tsc, ...flags, 'ten-lines.ts'], { cwd })
      expect(checked).toMatchObject({ code: 0, text: '' })
      const ran = await run(process.execPath, ['ten-lines.js'], { cwd, env: server.env })
      expect(ran).toMatchObject({ code: 0, stderr: '', text: 'first,second 0 third\n' })
    }))
})

describe('Python, with msgpack and nothing else', () => {
  const title = 'encrypts and decrypts'
  // The first on the path may be another one than Debian's, for which the package is.
  const python = ['python3', '/usr/bin/python3'].find(
    (name) => spawnSync(name, ['-c', 'import msgpack']).status === 0,
  )
  if (python === undefined && process.env['CI'] === undefined) {
    test.skip(`${title} (no msgpack: install the package python3-msgpack)`, () => undefined)
    return
  }
  test(title, async () => {
    if (python === undefined) throw new Error('CI needs msgpack: install python3-msgpack')
    const program = blockAfter('<!-- python -->', 'python')
    // The assertion of the block is what shows that it did anything.
    expect(program).toMatch(/^assert /m)
    const told = `${program}print(len(sealed["ciphertexts"]), sealed["ciphertexts"][0] != b"first")\n`
    const ended = await run(python, ['-'], { env: server.env, input: told })
    expect(ended).toMatchObject({ code: 0, stderr: '', text: '2 True\n' })
  })
})

describe('flags', () => {
  /** Lines of fenced blocks, and what stands between backticks; the rest is prose. */
  const code = README.replaceAll('\\\n', ' ')
    .split(/^```.*$/m)
    .flatMap((text, i) =>
      i % 2 === 1
        ? text.split('\n')
        : [...text.matchAll(/`([^`\n]+)`/g)].map(([, span = '']) => span),
    )
  const flagsOf = (line: string): readonly string[] =>
    line.match(/(?<=^|\s)--[a-z][a-z\d-]*/g) ?? []

  test('of every command line are in the --help of that command', async () => {
    const lines = code.filter((line) => /^(npx )?keyfold /.test(line) && flagsOf(line).length > 0)
    expect(lines.length).toBeGreaterThan(3)
    for (const line of lines) {
      const [, path = ''] = /^(?:npx )?keyfold ((?:[a-z][a-z-]* ?)+)/.exec(line) ?? []
      const { text } = await keyfold([...path.trim().split(' ').filter(Boolean), '--help'])
      for (const flag of flagsOf(line)) {
        expect(`${text} --help`, line).toMatch(new RegExp(`(?<=\\s)${flag}\\b`))
      }
    }
  })

  test('that are named alone are flags of serve', async () => {
    const named = code.filter((line) => line.startsWith('--')).flatMap(flagsOf)
    expect(named).toContain('--client-ca')
    const { text } = await keyfold(['serve', '--help'])
    for (const flag of named) expect(text).toContain(`${flag} `)
  })
})
