/** The command line as its users meet it: the built program, in a process of its own. */
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll } from 'vitest'

export const ROOT = join(import.meta.dirname, '../..')
export const MAIN = join(ROOT, 'dist/cli/main.js')

export type Environment = Readonly<Record<string, string | undefined>>

export interface Ended {
  readonly code: number | null
  readonly stdout: Buffer
  readonly text: string
  readonly stderr: string
}

export interface RunOptions {
  readonly env?: Environment
  readonly cwd?: string
  readonly input?: string | Uint8Array
  /** A command that runs another one as itself, such as `ip netns exec NAME`: what stands before it. */
  readonly within?: readonly string[]
}

export interface Started {
  readonly child: ChildProcess
  readonly ended: Promise<Ended>
}

/** What the tests were started with, without whatever of keyfold's is set there but the choice of the CI. */
export function environment(more: Environment = {}): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(
    ([name]) => !/^(KEYFOLD_|npm_|NODE_OPTIONS|XDG_)/.test(name) || name === 'KEYFOLD_CRYPTO',
  )
  return { ...Object.fromEntries(kept), ...more }
}

/** A test that fails stops no server: what still runs behind the last test of a file ends then. */
const running = new Set<ChildProcess>()
afterAll(() => {
  for (const child of running) child.kill('SIGTERM')
})

export function start(
  file: string,
  args: readonly string[],
  { env, cwd, input, within = [] }: RunOptions = {},
): Started {
  const [program, ...parameters] = [...within, file, ...args] as [string, ...string[]]
  const child = spawn(program, parameters, {
    env: environment(env),
    ...(cwd === undefined ? {} : { cwd }),
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  running.add(child)
  child.once('exit', () => running.delete(child))
  const stdout: Buffer[] = []
  const stderr: Buffer[] = []
  child.stdout.on('data', (bytes: Buffer) => stdout.push(bytes))
  child.stderr.on('data', (bytes: Buffer) => stderr.push(bytes))
  // A program that has ended does not read the rest of its input.
  child.stdin.on('error', () => undefined)
  if (input !== undefined) child.stdin.end(input)
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code) => {
      const bytes = Buffer.concat(stdout)
      resolve({
        code,
        stdout: bytes,
        text: bytes.toString(),
        stderr: Buffer.concat(stderr).toString(),
      })
    })
  })
  return { child, ended }
}

export function run(
  file: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<Ended> {
  return start(file, args, { input: '', ...options }).ended
}

export function keyfold(args: readonly string[], options: RunOptions = {}): Promise<Ended> {
  return run(process.execPath, [MAIN, ...args], options)
}

/** The one line of JSON that a command printed; fails where it is not one, or anything else was said. */
export function jsonOf<T>({ code, text, stderr }: Ended): T {
  if (code !== 0 || stderr !== '' || !/^[^\n]+\n$/.test(text)) {
    throw new Error(`ended with ${String(code)}, not with one line: ${stderr}${text}`)
  }
  return JSON.parse(text) as T
}

export interface Ready {
  readonly url: string
  readonly token?: string
  readonly region: string
  readonly account: string
  readonly pid: number
}

export interface Server extends Started {
  readonly ready: Ready
  /** KEYFOLD_URL and KEYFOLD_TOKEN for whoever talks to it. */
  readonly env: Environment
  stop(signal?: NodeJS.Signals): Promise<Ended>
}

/** A server on a free port, ready. Fails with what it said where it does not get there. `main`: of another installation. */
export async function serve(
  args: readonly string[],
  {
    main = MAIN,
    ...options
  }: RunOptions & { readonly token?: string; readonly main?: string } = {},
): Promise<Server> {
  const flags = ['--listen', '127.0.0.1:0', '--ready-json', ...args]
  const started = start(process.execPath, [main, 'serve', ...flags], options)
  const line = await Promise.race([firstLine(started.child), started.ended])
  if (typeof line !== 'string') throw new Error(`ended with ${String(line.code)}: ${line.stderr}`)
  const ready = JSON.parse(line) as Ready
  return {
    ...started,
    ready,
    env: { KEYFOLD_URL: ready.url, KEYFOLD_TOKEN: options.token ?? ready.token },
    stop: (signal = 'SIGTERM') => {
      started.child.kill(signal)
      return started.ended
    },
  }
}

export function firstLine({ stdout }: ChildProcess): Promise<string> {
  if (stdout === null) throw new Error('its output is not read')
  return new Promise((resolve) => createInterface({ input: stdout }).once('line', resolve))
}

/** A directory that goes when `work` is done. */
export async function inDirectory<T>(work: (directory: string) => Promise<T>): Promise<T> {
  const directory = mkdtempSync(join(tmpdir(), 'keyfold-cli-'))
  try {
    return await work(directory)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}
