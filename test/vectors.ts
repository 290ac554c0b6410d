/**
 * Where the public vectors are: they are read, never committed. Where they are absent a test skips and says so, and
 * fails in CI.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { test } from 'vitest'

const ROOT = join(import.meta.dirname, '..')
const directory = resolve(ROOT, process.env['KEYFOLD_VECTORS'] ?? '../shared/vectors')

/** A test over a file of vectors that is text. */
export function testVectors(
  title: string,
  file: string,
  run: (text: string) => void | Promise<void>,
): void {
  testVectorBytes(title, file, (bytes) => run(bytes.toString('utf8')))
}

/** A test over a file of vectors. */
export function testVectorBytes(
  title: string,
  file: string,
  run: (bytes: Buffer) => void | Promise<void>,
): void {
  const path = join(directory, file)
  if (existsSync(path)) {
    test(title, () => run(readFileSync(path)))
  } else if (process.env['CI'] === undefined) {
    test.skip(`${title} (no ${file}: set KEYFOLD_VECTORS to the vectors)`, () => undefined)
  } else {
    test(title, () => {
      throw new Error(`CI needs ${file}: set KEYFOLD_VECTORS`)
    })
  }
}

export const hex = (text: string): Buffer => Buffer.from(text, 'hex')
