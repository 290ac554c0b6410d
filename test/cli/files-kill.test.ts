/** `keyfold encrypt -r` that is killed: what has its final name is whole, and --resume makes the rest. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { watch } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'

import { inDirectory, jsonOf, keyfold, MAIN, serve, start, type Server } from './command.ts'
import { bytesOf, differences, listTree, partsOf } from './trees.ts'

let server: Server
let arn: string

beforeAll(async () => {
  server = await serve(['--dev', '--log-level', 'error'])
  const args = ['keys', 'create', '--alias', 'alias/files', '--json']
  arn = jsonOf<{ arn: string }>(await keyfold(args, server)).arn
})
afterAll(() => server.stop())

const FILES = 40

function makeFiles(root: string): void {
  mkdirSync(join(root, 'sub'), { recursive: true })
  for (let i = 0; i < FILES; i++) {
    writeFileSync(join(root, i % 2 === 0 ? 'sub' : '.', `${i}`), bytesOf(i * 50_000))
  }
}

/** Sends the signal once so many events of the file system have been seen in a directory that is written to. */
async function endAfter(
  cwd: string,
  events: number,
  signal: NodeJS.Signals,
): Promise<number | null> {
  mkdirSync(join(cwd, 'enc/tree'), { recursive: true })
  const enough = new AbortController()
  const seen = watch(join(cwd, 'enc/tree'), { signal: enough.signal })
  const args = [MAIN, 'encrypt', '-k', arn, '-r', 'tree', '--out-dir', 'enc', '--resume', '-q']
  const { child, ended } = start(process.execPath, args, { ...server, cwd })
  void ended.then(() => enough.abort())
  let count = 0
  try {
    for await (const event of seen) {
      if (event.filename !== null && ++count >= events) break
    }
  } catch (error) {
    // It was done before there were so many.
    if ((error as Error).name !== 'AbortError') throw error
  }
  child.kill(signal)
  return (await ended).code
}

test('kill -9 at any point leaves no half file under a final name, and --resume makes the tree whole', () =>
  inDirectory(async (cwd) => {
    makeFiles(join(cwd, 'tree'))
    const finished = new Map<string, Buffer>()
    let killed = 0
    let partsSeen = 0
    // Wherever that is between a file's first byte and its name.
    for (const events of [1, 2, 3, 5, 9, 14, 21, 30]) {
      if ((await endAfter(cwd, events, 'SIGKILL')) === null) killed++
      partsSeen += partsOf(join(cwd, 'enc')).length
      const whole = readdirSync(join(cwd, 'enc/tree')).filter((name) => name.endsWith('.kfe'))
      for (const name of whole) {
        const bytes = readFileSync(join(cwd, 'enc/tree', name))
        // What was finished is not done again.
        const before = finished.get(name)
        if (before !== undefined) expect(bytes.equals(before), name).toBe(true)
        finished.set(name, bytes)
      }
      if (whole.length === 0) continue
      const paths = whole.map((name) => join('enc/tree', name))
      const opened = await keyfold(['decrypt', '-k', arn, '--out-dir', `now ${events}`, ...paths], {
        ...server,
        cwd,
      })
      expect(opened).toMatchObject({ code: 0 })
    }
    expect(killed).toBeGreaterThan(0)
    expect(partsSeen).toBeGreaterThan(0)
    const args = ['encrypt', '-k', arn, '-r', 'tree', '--out-dir', 'enc', '--resume', '-q']
    expect(await keyfold(args, { ...server, cwd })).toMatchObject({ code: 0, stderr: '' })
    expect(partsOf(cwd)).toEqual([])
    const back = ['decrypt', '-k', arn, '-r', 'enc/tree', '--out-dir', 'dec', '-q']
    expect(await keyfold(back, { ...server, cwd })).toMatchObject({ code: 0, stderr: '' })
    const there = listTree(join(cwd, 'dec/tree'))
    expect(differences(there, listTree(join(cwd, 'tree')))).toEqual([])
  }))

test.each(['SIGTERM', 'SIGINT'] as const)('%s leaves no half file under any name', (signal) =>
  inDirectory(async (cwd) => {
    makeFiles(join(cwd, 'tree'))
    const code = await endAfter(cwd, 3, signal)
    expect(code).toBeNull()
    expect(partsOf(cwd)).toEqual([])
  }),
)
