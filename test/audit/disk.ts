/** Disks of their own for tests that fill or freeze them: where mounting is allowed, which CI has to see to. */
import { execFileSync, spawnSync } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, expect } from 'vitest'

import { newDirectory } from './log.ts'

const TMPFS = ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs']
const mounted: string[] = []

// What still has the directory open keeps it until it ends; nobody finds it there any more.
afterAll(() => {
  for (const directory of mounted.splice(0)) execFileSync('umount', ['-l', directory])
})

/** Mounts by these arguments of mount(8), by default 4 MiB of memory; skips the test where that is not allowed. */
export function mountDisk(
  skip: (note: string) => never,
  options: readonly string[] = TMPFS,
): string {
  const directory = newDirectory()
  if (spawnSync('mount', [...options, directory], { stdio: 'ignore' }).status !== 0) {
    expect(process.env['CI'], 'CI must be able to mount').toBeUndefined()
    skip('mounting is not allowed here')
  }
  mounted.push(directory)
  return directory
}

/** Takes all the room that is left; answers how to give it back. */
export function fillDisk(disk: string): () => void {
  const file = join(disk, 'ballast')
  try {
    for (;;) writeFileSync(file, Buffer.alloc(65_536), { flag: 'a' })
  } catch {
    return () => rmSync(file)
  }
}
