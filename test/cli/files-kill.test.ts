/** `keyfold encrypt -r` that is killed: what has its final name is whole, and --resume makes the rest. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { watch } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'

import { startRelay, type Relay } from '../client/stand-in.ts'
import { eventually } from '../server/caller.ts'
import { startService, type Service } from '../service.ts'
import { inDirectory, keyfold, MAIN, start, type Environment } from './command.ts'
import { bytesOf, differences, listTree, partsOf, setWholeTimes } from './trees.ts'

let service: Service
let arn: string
let env: Environment

beforeAll(async () => {
  service = await startService()
  arn = (await service.call('keys', {})).arn
  env = { KEYFOLD_URL: service.url, KEYFOLD_TOKEN: service.token }
})
afterAll(() => service.close())

const FILES = 40

function makeFiles(root: string): void {
  mkdirSync(join(root, 'sub'), { recursive: true })
  for (let i = 0; i < FILES; i++) {
    writeFileSync(join(root, i % 2 === 0 ? 'sub' : '.', `${i}`), bytesOf(i * 50_000))
  }
  setWholeTimes(root)
}

const ARGS = ['-r', 'tree', '--out-dir', 'enc', '--resume', '-q']

/** Files of one run; the rest of the tree waits for data keys, so that no run ends by itself before it is killed. */
const FILES_AT_MOST = 4

/** Gives so many data keys. Who waits for another one has made the part file that it is for. */
function relayOf(dataKeys: number): Promise<Relay> {
  let left = dataKeys
  return startRelay(service, (path) => path !== '/v1/data-keys' || left-- > 0)
}

/** Sends the signal once so many events were seen in the directory that is written to, or nothing goes on. */
async function endAfter(
  cwd: string,
  events: number,
  signal: NodeJS.Signals,
): Promise<{ readonly code: number | null; readonly partsSeen: number }> {
  mkdirSync(join(cwd, 'enc/tree'), { recursive: true })
  const relay = await relayOf(FILES_AT_MOST)
  try {
    const over = new AbortController()
    const seen = watch(join(cwd, 'enc/tree'), { signal: over.signal })
    const args = [MAIN, 'encrypt', '-k', arn, ...ARGS]
    const options = { env: { ...env, KEYFOLD_URL: relay.url }, cwd }
    const { child, ended } = start(process.execPath, args, options)
    const enough = (async () => {
      let count = 0
      for await (const event of seen) {
        if (event.filename !== null && ++count >= events) return
      }
    })()
    await Promise.race([enough, eventually(() => relay.held() > 0)])
    const partsSeen = partsOf(join(cwd, 'enc')).length
    child.kill(signal)
    const { code } = await ended
    over.abort()
    await enough.catch(() => undefined)
    return { code, partsSeen }
  } finally {
    await relay.close()
  }
}

test('kill -9 at any point leaves no half file under a final name, and --resume makes the tree whole', () =>
  inDirectory(async (cwd) => {
    makeFiles(join(cwd, 'tree'))
    const finished = new Map<string, Buffer>()
    let partsLeft = 0
    // Wherever that is between a file's first byte and its name; the last one where nothing goes on.
    for (const events of [1, 2, 3, 5, 9, 14, 21, Infinity]) {
      expect((await endAfter(cwd, events, 'SIGKILL')).code).toBeNull()
      partsLeft += partsOf(join(cwd, 'enc')).length
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
        env,
        cwd,
      })
      expect(opened).toMatchObject({ code: 0 })
    }
    expect(partsLeft).toBeGreaterThan(0)
    const args = ['encrypt', '-k', arn, ...ARGS]
    expect(await keyfold(args, { env, cwd })).toMatchObject({ code: 0, stderr: '' })
    expect(partsOf(cwd)).toEqual([])
    const back = ['decrypt', '-k', arn, '-r', 'enc/tree', '--out-dir', 'dec', '-q']
    expect(await keyfold(back, { env, cwd })).toMatchObject({ code: 0, stderr: '' })
    const there = listTree(join(cwd, 'dec/tree'))
    expect(differences(there, listTree(join(cwd, 'tree')))).toEqual([])
  }))

test.each(['SIGTERM', 'SIGINT'] as const)('%s leaves no half file under any name', (signal) =>
  inDirectory(async (cwd) => {
    makeFiles(join(cwd, 'tree'))
    const { code, partsSeen } = await endAfter(cwd, Infinity, signal)
    expect(code).toBeNull()
    expect(partsSeen).toBeGreaterThan(0)
    expect(partsOf(cwd)).toEqual([])
  }),
)
