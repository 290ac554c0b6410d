/**
 * The openssl command line: a program of others that signs, verifies, encrypts and agrees on keys, and that unlike
 * node:crypto takes digests. Where it is missing a test skips and says so, and fails in CI.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'vitest'

export interface Openssl {
  /** A file of these bytes, by the name of a role. */
  file(name: string, bytes: Uint8Array): string
  /** Standard output; undefined where it failed. */
  run(...words: readonly string[]): Buffer | undefined
  /** Standard output of a call that has to succeed. */
  answer(...words: readonly string[]): Buffer
  /** What a call wrote to the file that its last word names. */
  written(...words: readonly string[]): Buffer
}

const found = spawnSync('openssl', ['version']).status === 0

export function testOpenssl(title: string, run: (openssl: Openssl) => Promise<void> | void): void {
  if (!found && process.env['CI'] === undefined) {
    test.skip(`${title} (no openssl: install the package openssl)`, () => undefined)
    return
  }
  test(title, async () => {
    if (!found) throw new Error('CI needs the package openssl')
    const directory = mkdtempSync(join(tmpdir(), 'keyfold-openssl-'))
    try {
      await run(opensslIn(directory))
    } finally {
      rmSync(directory, { recursive: true })
    }
  })
}

function opensslIn(directory: string): Openssl {
  const call = (words: readonly string[]) => spawnSync('openssl', words, { cwd: directory })
  const answer = (...words: readonly string[]): Buffer => {
    const { status, stdout, stderr } = call(words)
    if (status !== 0) throw new Error(`openssl ${words.join(' ')}: ${stderr.toString()}`)
    return stdout
  }
  return {
    file(name, bytes) {
      writeFileSync(join(directory, name), bytes)
      return name
    },
    run(...words) {
      const { status, stdout } = call(words)
      return status === 0 ? stdout : undefined
    },
    answer,
    written(...words) {
      answer(...words)
      return readFileSync(join(directory, words.at(-1) as string))
    },
  }
}
