/** The package: what it is made of, what is in it, and that it installs on a machine without a compiler. */
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'
import { request } from 'node:https'
import { builtinModules } from 'node:module'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { describe, expect, test } from 'vitest'

import { makeCertificates } from './certificates.ts'
import { inDirectory, ROOT, run, serve, start, type Environment } from './cli/command.ts'

type Versions = Readonly<Record<string, string>>

interface Manifest {
  readonly version: string
  readonly dependencies: Versions
  readonly optionalDependencies: Versions
  readonly devDependencies: Versions
  readonly bin: Versions
  readonly exports: { readonly '.': Versions }
  readonly engines: { readonly node: string }
}

interface Lock {
  readonly packages: Readonly<
    Record<
      string,
      Manifest & {
        readonly integrity?: string
        readonly os?: readonly string[]
        readonly cpu?: readonly string[]
      }
    >
  >
}

const read = <T>(name: string): T => JSON.parse(readFileSync(join(ROOT, name), 'utf8')) as T
const manifest = read<Manifest>('package.json')
const lock = read<Lock>('package-lock.json')

describe('package.json', () => {
  const { dependencies, optionalDependencies, devDependencies } = manifest
  /** What a caller's machine gets. */
  const shippedWith = { ...dependencies, ...optionalDependencies }
  const all = { ...shippedWith, ...devDependencies }

  test('names exact versions only', () => {
    const inexact = Object.entries(all).filter(
      ([, version]) => !/^(npm:@?[\w./-]+@)?\d+\.\d+\.\d+$/.test(version),
    )
    expect(inexact).toEqual([])
  })

  test('is what the lock file was made of, and what is locked is what it names', () => {
    const root = lock.packages['']
    expect(root?.version).toBe(manifest.version)
    expect(root?.dependencies).toEqual(dependencies)
    expect(root?.optionalDependencies).toEqual(optionalDependencies)
    expect(root?.devDependencies).toEqual(devDependencies)
    expect(root?.engines).toEqual(manifest.engines)
    for (const [name, version] of Object.entries(all)) {
      const locked = lock.packages[`node_modules/${name}`]
      expect(locked?.version, name).toBe(version.split('@').at(-1))
    }
    // Binaries for other platforms than Linux on x64 are named without a hash; npm installs them nowhere else.
    const unlocked = Object.entries(lock.packages).filter(
      ([path, { integrity, os, cpu }]) =>
        path !== '' &&
        !/^sha512-/.test(integrity ?? '') &&
        (os?.includes('linux') ?? true) &&
        (cpu?.includes('x64') ?? true),
    )
    expect(unlocked.map(([path]) => path)).toEqual([])
  })

  test('has each dependency for the sake of a file that is shipped', () => {
    const shipped = ['src', 'native'].flatMap((room) =>
      readdirSync(join(ROOT, room), { recursive: true, encoding: 'utf8' })
        .filter((name) => /\.(ts|mjs)$/.test(name))
        .map((name) => readFileSync(join(ROOT, room, name), 'utf8')),
    )
    const text = [...shipped, readFileSync(join(ROOT, 'binding.gyp'), 'utf8')].join('\n')
    const named = (name: string): boolean => new RegExp(`['"]${name}[/'"]`).test(text)
    expect(Object.keys(shippedWith).filter((name) => !named(name))).toEqual([])
    const specifiers = [...text.matchAll(/(?:from|import\()\s*'([@\w][@\w./:-]*)'/g)].map(
      ([, specifier = '']) => specifier,
    )
    const packages = specifiers
      .filter((name) => !name.startsWith('node:') && !builtinModules.includes(name))
      .map((name) => name.split('/', name.startsWith('@') ? 2 : 1).join('/'))
    expect(packages.filter((name) => !(name in shippedWith))).toEqual([])
  })
})

describe('npm pack', () => {
  test('has what the package needs to build, run and be read, and nothing else', async () => {
    const { code, text } = await run('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
      cwd: ROOT,
    })
    expect(code).toBe(0)
    const [packed] = JSON.parse(text) as [{ files: readonly { path: string; mode: number }[] }]
    const paths = packed.files.map(({ path }) => path)
    const top = [...new Set(paths.map((path) => path.split('/')[0]))].sort()
    expect(top).toEqual(
      ['LICENSE', 'README.md', 'binding.gyp', 'dist', 'native', 'package.json', 'src'].sort(),
    )
    const sources = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })
    const source = sources.filter((name) => name.endsWith('.ts')).map((name) => `src/${name}`)
    const built = source.flatMap((name) => {
      const stem = name.replace(/^src/, 'dist').replace(/\.ts$/, '')
      return [`${stem}.js`, `${stem}.d.ts`]
    })
    expect([...source, ...built].filter((path) => !paths.includes(path))).toEqual([])
    const { bin, exports } = manifest
    for (const path of [...Object.values(bin), ...Object.values(exports['.'])]) {
      expect(paths).toContain(path.replace(/^\.\//, ''))
    }
    // What the addon is built of is in there, what it was built to is not.
    const gyp = readFileSync(join(ROOT, 'binding.gyp'), 'utf8')
    const compiled = [...gyp.matchAll(/"(native\/[\w./]+)"/g)].map(([, path = '']) => path)
    expect(compiled.length).toBeGreaterThan(5)
    expect(compiled.filter((path) => !paths.includes(path))).toEqual([])
    expect(paths.filter((path) => /\.(node|o|key|pem|sqlite)$|test\b|\.env/.test(path))).toEqual([])
  })
})

/** What is in npm's cache is not fetched again, but where nothing answers it is not known to be all there. */
function registryAnswers(): boolean {
  // What has to answer in CI may be slow once; elsewhere nobody waits for it.
  const patience = process.env['CI'] === undefined ? [0, 5_000] : [3, 30_000]
  const [retries, timeoutMs] = patience as [number, number]
  const flags = [`--fetch-retries=${retries}`, `--fetch-timeout=${timeoutMs}`]
  return spawnSync('npm', ['ping', ...flags]).status === 0
}

/** The front end may lose parts of them, and nothing but the addon keeps it from that. */
async function refusesStreamsOverTls(
  directory: string,
  main: string,
  env: Environment,
): Promise<void> {
  makeCertificates(directory, 'ca', 'server')
  const file = (name: string): string => join(directory, name)
  const tls = ['--tls-cert', file('server.crt'), '--tls-key', file('server.key')]
  const server = await serve(['--dev', ...tls], { env, main })
  const ask = async (method: string, path: string, body: string): Promise<Buffer> => {
    const asked = request(server.ready.url + path, {
      method,
      ca: readFileSync(file('ca.crt')),
      agent: false,
      headers: {
        authorization: `Bearer ${String(server.ready.token)}`,
        'content-type': 'application/json',
        accept: 'application/json',
      },
    })
    asked.end(body)
    const [answer] = (await once(asked, 'response')) as [IncomingMessage]
    return buffer(answer)
  }
  const { keyId } = JSON.parse(String(await ask('POST', '/v1/keys', '{}'))) as { keyId: string }
  const refused = await ask('PUT', `/v1/streams/encrypt?key=${keyId}`, 'a stream')
  const { stderr } = await server.stop()
  expect(JSON.parse(String(refused))).toMatchObject({
    code: 'NATIVE_UNAVAILABLE',
    message: expect.stringContaining('streams over TLS') as string,
  })
  expect(stderr).toMatch(/"level":40.*STREAMS OVER TLS ARE REFUSED/)
}

describe('npm ci without compiler, make and Python', () => {
  const title = 'installs, says loudly what is missing, and serves on node:crypto, loudly again'
  const reachable = registryAnswers()
  if (!reachable && process.env['CI'] === undefined) {
    test.skip(`${title} (no package registry can be reached)`, () => undefined)
    return
  }
  test(title, () =>
    inDirectory(async (directory) => {
      expect(reachable, 'CI needs a package registry').toBe(true)
      const bin = join(directory, 'bin')
      mkdirSync(bin)
      for (const tool of ['sh', 'env', 'node', 'npm']) {
        const { stdout } = spawnSync('sh', ['-c', `command -v ${tool}`], { encoding: 'utf8' })
        symlinkSync(tool === 'node' ? process.execPath : stdout.trim(), join(bin, tool))
      }
      const copy = join(directory, 'keyfold')
      for (const name of [
        ...['package.json', 'package-lock.json', 'tsconfig.json', 'binding.gyp'],
        ...['src', 'native', 'README.md', 'LICENSE'],
      ]) {
        cpSync(join(ROOT, name), join(copy, name), { recursive: true })
      }
      const env = { PATH: bin, KEYFOLD_CRYPTO: undefined }
      for (const tool of ['g++', 'make', 'python3']) {
        expect((await run('sh', ['-c', `command -v ${tool}`], { env })).code).not.toBe(0)
      }
      const flags = ['ci', '--prefer-offline', '--no-audit', '--no-fund']
      const installed = await run('npm', flags, { cwd: copy, env })
      expect(installed.code, installed.stderr).toBe(0)
      expect(installed.text + installed.stderr).toMatch(/keyfold: the native core was not built: /)
      expect(installed.text + installed.stderr).toMatch(/Install g\+\+, make and python3/)
      expect(existsSync(join(copy, 'build/Release/keyfold.node'))).toBe(false)

      const main = join(copy, 'dist/cli/main.js')
      const args = [main, 'serve', '--dev', '--listen', '127.0.0.1:0']
      const { child, ended } = start(process.execPath, args, { env })
      let said = ''
      child.stdout?.on('data', (bytes: Buffer) => (said += bytes.toString()))
      await new Promise<void>((resolve) => {
        child.stdout?.on('data', () => {
          if (said.includes('decrypt --lines\n')) resolve()
        })
        void ended.then(() => resolve())
      })
      child.kill('SIGTERM')
      const { code, text, stderr } = await ended
      expect(stderr).toMatch(/"level":40.*THE NATIVE CORE IS NOT IN USE .*node:crypto/)
      expect(text).toMatch(/^keyfold is ready at http:\S+ \(node\)\n/)
      expect(code).toBe(0)

      await refusesStreamsOverTls(directory, main, env)

      const native = await run(process.execPath, [...args, '--crypto', 'native'], { env })
      expect(native.code).toBe(1)
      expect(native.stderr).toMatch(/\(NATIVE_UNAVAILABLE\)\n$/)
    }),
  )
})
