/** What operators install is read by the programs that it is for, and what it says of keyfold is asked of keyfold. */
import { spawnSync, type SpawnSyncReturns } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'

import { loadConfig } from '../../dist/config.js'
import { firstLine, inDirectory, MAIN, ROOT, serve, start } from '../cli/command.ts'

const DEPLOY = join(ROOT, 'src/deploy')
const BASE = join(DEPLOY, 'kubernetes')
const UNIT = 'keyfold.service'
const SETTINGS = join(BASE, 'keyfold.json')
const read = (name: string): string => readFileSync(join(DEPLOY, name), 'utf8')

const answers = (program: string, ...words: readonly string[]): boolean =>
  spawnSync(program, words, { stdio: 'ignore' }).status === 0

/** Whether a test runs: where something is missing its name says what to install, and CI fails. */
function testWith(title: string, missing: string | undefined, work: () => Promise<void>): void {
  if (missing === undefined) test(title, work)
  else if (process.env['CI'] === undefined) test.skip(`${title} (${missing})`, () => undefined)
  else test(`${title} (${missing})`, () => expect(missing).toBeUndefined())
}

describe('keyfold.service', () => {
  const missing = answers('systemd-analyze', '--version') ? undefined : 'install systemd'

  /** The unit as it is, but for the place of the program, which has to be there. */
  function withUnit(work: (file: string) => void, change = (unit: string) => unit): Promise<void> {
    return inDirectory(async (directory) => {
      const unit = read(UNIT).replace('/usr/local/bin/keyfold', process.execPath)
      expect(unit).toContain(`ExecStart=${process.execPath} serve `)
      const file = join(directory, UNIT)
      writeFileSync(file, change(unit))
      work(file)
    })
  }
  const verify = (file: string): string => told(spawnSync('systemd-analyze', ['verify', file]))

  testWith('is understood by systemd, every line of it', missing, async () => {
    await withUnit((file) => expect(verify(file)).toBe('0: '))
    // It says so where it is not, and calls it a success.
    await withUnit(
      (file) => expect(verify(file)).toMatch(/^0: .*ProtectSytem/),
      (unit) => unit.replace('ProtectSystem', 'ProtectSytem'),
    )
  })

  testWith('exposes no more than systemd counts as 1.5 of 10', missing, () =>
    withUnit((file) => {
      const flags = ['security', '--offline=true', '--threshold=15', '--no-pager', file]
      const { status, stdout } = spawnSync('systemd-analyze', flags, { encoding: 'utf8' })
      expect(stdout).toMatch(/Overall exposure level/)
      expect(status, stdout).toBe(0)
    }),
  )

  test('locks as much memory as keys need, and a quarter of it is not enough', async () => {
    const [, limit] = /^LimitMEMLOCK=(\d+)M$/m.exec(read(UNIT)) ?? []
    const bytes = Number(limit) * 2 ** 20
    expect(bytes).toBeGreaterThan(0)
    // Root may lock whatever it likes.
    const isRoot = process.getuid?.() === 0
    const without = isRoot ? ['setpriv', '--bounding-set=-ipc_lock', '--inh-caps=-ipc_lock'] : []
    const flags = ['--memory-lock', 'require', '--log-level', 'error']
    const limited = (most: number, ...more: readonly string[]) => {
      const words = [`--memlock=${most}:${most}`, ...without, process.execPath, MAIN, 'serve']
      const listen = ['--dev', '--listen', '127.0.0.1:0', '--ready-json']
      return start('prlimit', [...words, ...listen, ...flags, ...more])
    }
    const enough = limited(bytes)
    expect(JSON.parse(await firstLine(enough.child))).toHaveProperty('url')
    enough.child.kill('SIGTERM')
    expect((await enough.ended).code).toBe(0)
    const { code, stderr } = await limited(bytes / 4).ended
    expect(code).toBe(1)
    expect(stderr).toMatch(/keys cannot be locked in memory/)
    // Nor does it start where nothing is ever locked.
    const unlocked = await limited(bytes, '--crypto', 'node').ended
    expect(unlocked).toMatchObject({ code: 1, text: '' })
    expect(unlocked.stderr).toMatch(/node:crypto locks no keys/)
  })
})

describe('the nodes of src/deploy/kubernetes', () => {
  const builder = [['kustomize', 'build'] as const, ['kubectl', 'kustomize'] as const].find(
    ([program, word]) => answers(program, word, '--help'),
  )
  const builds = builder === undefined ? 'install kustomize' : undefined
  const build = (directory: string): SpawnSyncReturns<string> => {
    const [program, word] = builder ?? ['', '']
    return spawnSync(program, [word, directory], { encoding: 'utf8' })
  }

  const checks = answers('python3', '-m', 'kubernetes_validate', '--version')
    ? undefined
    : 'pip install kubernetes-validate==1.37.0'
  const check = (version: string, resources: string): Promise<string> =>
    inDirectory(async (directory) => {
      const file = join(directory, 'resources.yaml')
      writeFileSync(file, resources)
      const words = ['-m', 'kubernetes_validate', '--strict', '-k', version, file]
      return told(spawnSync('python3', words, { encoding: 'utf8' }))
    })

  testWith('fit the schemas of Kubernetes, old and new', builds ?? checks, async () => {
    const { status, stdout, stderr } = build(BASE)
    expect(status, stderr).toBe(0)
    const kinds = [...stdout.matchAll(/^kind: (\w+)$/gm)].map(([, kind]) => kind)
    expect(kinds).toContain('StatefulSet')
    for (const version of ['1.27.0', '1.37.0']) {
      const told = await check(version, stdout)
      expect(told).toMatch(/^0: /)
      expect(told.match(/ passed for resource /g)).toHaveLength(kinds.length)
      const mistyped = stdout.replace('readOnlyRootFilesystem', 'readonlyRootFilesystem')
      expect(await check(version, mistyped)).toMatch(/^1: [^]*readonlyRootFilesystem/)
    }
  })

  testWith('roll when a setting changes', builds, () =>
    inDirectory(async (directory) => {
      const overlay = join(directory, 'overlay')
      const base = join(directory, 'base')
      spawnSync('cp', ['-r', BASE, base])
      mkdirSync(overlay)
      const kustomization = 'resources: [../base]\nimages: [{name: keyfold, newTag: "7"}]\n'
      writeFileSync(join(overlay, 'kustomization.yaml'), kustomization)
      const nameOf = ({ stdout }: { readonly stdout: string }): string | undefined =>
        /configMap:\n\s+name: (keyfold-\w+)$/m.exec(stdout)?.[1]
      const before = build(overlay)
      expect(before.stdout).toMatch(/image: keyfold:7$/m)
      expect(nameOf(before)).toBeDefined()
      const settings = readFileSync(join(base, 'keyfold.json'), 'utf8')
      writeFileSync(join(base, 'keyfold.json'), settings.replace('8790', '8791'))
      expect(nameOf(build(overlay))).not.toBe(nameOf(before))
    }),
  )

  const manifests = ['nodes', 'service', 'autoscaler'].map((name) =>
    read(`kubernetes/${name}.yaml`),
  )
  const nodes = manifests[0] as string

  test('are given settings that there are, and files and a port where they look for them', () => {
    const { catalog, listen, tls, rootKey } = loadConfig({ file: SETTINGS })
    expect(catalog?.tls).toBeDefined()
    expect(rootKey).toEqual({ source: 'environment' })
    expect(nodes).toContain(`containerPort: ${listen.port}\n`)
    const mounts = [...nodes.matchAll(/mountPath: (\S+)/g)].map(([, path = '']) => path)
    const files = [tls?.certFile, tls?.keyFile, catalog?.tls?.caFile, '/etc/keyfold/keyfold.json']
    for (const file of files) expect(mounts.some((path) => file?.startsWith(`${path}/`))).toBe(true)
    const [, args = ''] = /args: \[(.*)\]/.exec(nodes) ?? []
    expect(args.split(', ').at(-1)).toBe('/etc/keyfold/keyfold.json')
  })

  test('are probed and measured by what a server answers', async () => {
    const server = await serve(['--dev', '--log-level', 'error'])
    const paths = [...nodes.matchAll(/path: (\/\w+)/g)].map(([, path = '']) => path)
    expect(new Set(paths)).toEqual(new Set(['/healthz', '/readyz']))
    for (const path of paths) {
      expect((await fetch(`${server.ready.url}${path}`)).status, path).toBe(200)
    }
    const [, metric = ''] = /metric:\n\s+name: (\w+)/.exec(manifests[2] as string) ?? []
    const headers = { authorization: `Bearer ${server.ready.token ?? ''}` }
    const metrics = await fetch(`${server.ready.url}/metrics`, { headers })
    expect(await metrics.text()).toMatch(new RegExp(`^# TYPE ${metric} gauge$`, 'm'))
    await server.stop()
  })
})

describe('the Dockerfile', () => {
  test('copies what is there, past what its own .dockerignore leaves out', () => {
    const copied = [...read('Dockerfile').matchAll(/^COPY (?!--from)(.+) \S+$/gm)].flatMap(
      ([, names = '']) => names.split(' '),
    )
    expect(copied).toContain('src')
    const allowed = read('Dockerfile.dockerignore').match(/(?<=^!).+$/gm) ?? []
    for (const name of copied) {
      expect(existsSync(join(ROOT, name)), name).toBe(true)
      expect(allowed).toContain(name)
    }
  })
})

function told({ status, stdout, stderr }: SpawnSyncReturns<string | Buffer>): string {
  return `${String(status)}: ${String(stderr)}${String(stdout)}`
}
