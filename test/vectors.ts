/**
 * Where the public vectors are: they are read, never committed. Where they are absent a test skips and says so, and
 * fails in CI.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { test } from 'vitest'

const ROOT = join(import.meta.dirname, '..')
const directory = resolve(ROOT, process.env['KEYFOLD_VECTORS'] ?? '../shared/vectors')

/** A test over a file of vectors. */
export function testVectors(title: string, file: string, run: (text: string) => void): void {
  const path = join(directory, file)
  if (existsSync(path)) {
    test(title, () => run(readFileSync(path, 'utf8')))
  } else if (process.env['CI'] === undefined) {
    test.skip(`${title} (no ${file}: set KEYFOLD_VECTORS to the vectors)`, () => undefined)
  } else {
    test(title, () => {
      throw new Error(`CI needs ${file}: set KEYFOLD_VECTORS`)
    })
  }
}

export const hex = (text: string): Buffer => Buffer.from(text, 'hex')
