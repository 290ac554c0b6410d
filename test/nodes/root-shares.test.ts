/**
 * The root key of a shared catalog in shares that people keep: it is rotated while its nodes serve, and what is wrong
 * with the shares that were given is told.
 */
import { writeFileSync } from 'node:fs'
import { expect, test, vi } from 'vitest'

import { describeWithPostgres } from '../catalog/postgres.ts'
import { jsonOf, keyfold, type Environment } from '../cli/command.ts'
import { Cluster, Clusters, rotates, TEST_MS_MAX, type Given } from './clusters.ts'

vi.setConfig({ testTimeout: TEST_MS_MAX })

describeWithPostgres('the root key of many nodes in shares', (postgres) => {
  const clusters = new Clusters(postgres)

  const source = { KEYFOLD_ROOT_KEY_SOURCE: 'shares' }
  const shares = async (...flags: readonly string[]): Promise<readonly string[]> => {
    const words = ['root-key', 'shares', '--threshold', '2', '--shares', '3', '--json', ...flags]
    return jsonOf<{ shares: string[] }>(await keyfold(words, { env: source })).shares
  }
  const some = (of: readonly string[], from = 0): string => of.slice(from, from + 2).join('\n')

  async function make() {
    const first = await shares('--new', '--data', clusters.place('none'))
    const old = { ...source, KEYFOLD_ROOT_KEY_SHARES: some(first) }
    const cluster = await Cluster.initialised(clusters, old)
    const given = async (): Promise<Given> => {
      const second = await shares('--new', '--data', cluster.admin, '--catalog', cluster.catalog)
      return {
        old,
        both: { ...old, KEYFOLD_ROOT_KEY_SHARES_NEXT: some(second, 1) },
        next: { ...source, KEYFOLD_ROOT_KEY_SHARES: some(second) },
      }
    }
    return { cluster, given, first }
  }
  rotates(make)

  test('is not in too few of them, nor in those of another root key, and which is said', async () => {
    const { cluster, given, first } = await make()
    const { old, both, next } = await given()
    const one = (env: Environment, name: string): Environment => ({
      ...env,
      [name]: env[name]?.split('\n')[0],
    })
    const [SHARES, NEXT] = ['KEYFOLD_ROOT_KEY_SHARES', 'KEYFOLD_ROOT_KEY_SHARES_NEXT'] as const
    const tooFew = '1 of 2 shares that it takes were given'
    expect(await cluster.refusal(one(old, SHARES))).toContain(tooFew)
    expect(await cluster.rootKey('prepare', one(both, NEXT))).toContain(tooFew)
    expect(await cluster.rootFiles('.next')).toEqual([])
    const files = [clusters.place('share'), clusters.place('share')]
    both[NEXT]?.split('\n').forEach((line, i) =>
      writeFileSync(files[i] as string, `${line}\n`, { mode: 0o600 }),
    )
    const inFiles = `--next-share-files ${files.join(',')}`
    for (let i = 0; i < 2; i++) {
      expect(await cluster.rootKey(`prepare ${inFiles}`, old)).toEqual({ version: 2 })
    }
    // Too few of the next one are none, and the node serves until it is in use.
    const lacking = await cluster.start({ ...one(both, NEXT), KEYFOLD_LOG_LEVEL: 'warn' })
    let said = ''
    lacking.child.stderr?.on('data', (bytes: Buffer) => (said += bytes.toString()))
    await cluster.seal(lacking)
    expect(await cluster.rootKey('rotate', one(both, NEXT))).toContain(tooFew)
    expect(await cluster.rootKey(`rotate ${inFiles}`, old)).toContain('nodes without version 2')
    await cluster.end(lacking)
    expect((await lacking.ended).stderr).toContain(tooFew)
    const node = await cluster.start(both)
    expect(await cluster.rootKey(`rotate ${inFiles}`, old)).toEqual({ version: 2 })
    expect(await cluster.opens(node)).toEqual(['opened'])
    await cluster.end(node, 'SIGKILL')

    const isOld = 'share 1 is of version 1 of the root key, and needed is 2'
    expect(await cluster.refusal(old, node.data)).toContain(isOld)
    expect(await cluster.refusal(one(next, SHARES), node.data)).toContain(tooFew)
    const few = await cluster.refusal(one(both, NEXT), node.data)
    expect(few).toContain(isOld)
    expect(few).toContain(tooFew)
    const mixed = [next[SHARES]?.split('\n')[1], first[0]].join('\n')
    expect(await cluster.refusal({ ...source, [SHARES]: mixed })).toContain('not made together')
    const restarted = await cluster.start(next, node.data)
    expect(await cluster.opens(restarted)).toEqual(['opened'])
    await cluster.end(restarted)
  })

  test('is shared as it is on the machine that rotated it last, wherever that was', async () => {
    const { cluster, given } = await make()
    const { both, next } = await given()
    const other = clusters.place('other')
    const there = ['--data', other, '--catalog', cluster.catalog]
    const status = ['root-key', 'status', '--json', ...there]
    expect((await keyfold(status, { env: both })).code).toBe(0)
    expect(await cluster.rootKey('prepare', both)).toEqual({ version: 2 })
    expect(await cluster.rootKey('rotate', both)).toEqual({ version: 2 })
    const words = ['root-key', 'shares', '--threshold', '2', '--shares', '2', '--json', ...there]
    const again = jsonOf<{ shares: string[] }>(await keyfold(words, { env: next })).shares
    const node = await cluster.start({ ...source, KEYFOLD_ROOT_KEY_SHARES: again.join('\n') })
    await cluster.end(node)
    const third = await shares('--new', ...there)
    const KEYFOLD_ROOT_KEY_SHARES_NEXT = some(third)
    const env = { ...next, KEYFOLD_ROOT_KEY_SHARES_NEXT }
    expect(await cluster.rootKey('prepare', env)).toEqual({ version: 3 })
  })
})
