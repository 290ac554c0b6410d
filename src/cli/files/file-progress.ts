/** How far files are, in bytes: with a bar once it is known how many there are, which is found out beside the work. */
import { lstat, readdir, stat } from 'node:fs/promises'

import { say } from '../output.ts'
import { Progress } from '../progress.ts'
import type { Tally } from './file-work.ts'
import { joinPath } from './paths.ts'

export class FileProgress {
  readonly #progress: Progress
  #done = 0
  /** undefined until all has been found. */
  #total: number | undefined
  #ended = false

  /** `bar`: nothing else is written to the terminal. */
  constructor(sources: readonly Buffer[], quiet: boolean) {
    const watched = process.stderr.isTTY && !quiet
    this.#progress = new Progress('', watched, {
      plain: !process.stderr.isTTY && !quiet,
      fraction: () => this.#fraction(),
      show: showBytes,
    })
    if (!watched || sources.length === 0) return
    this.#measure(sources).then(
      (total) => (this.#total = total),
      // The work meets the same failure, and tells it.
      () => undefined,
    )
  }

  add(bytes: number): void {
    this.#done += bytes
    this.#progress.add(bytes)
  }

  end(): void {
    this.#ended = true
    this.#progress.end()
  }

  #fraction(): number | undefined {
    if (this.#total === undefined) return undefined
    // Ciphertexts are longer than what they are counted in, or shorter.
    return this.#total === 0 ? 1 : Math.min(1, this.#done / this.#total)
  }

  async #measure(sources: readonly Buffer[]): Promise<number> {
    let total = 0
    const rest = [...sources]
    for (let path = rest.pop(); path !== undefined && !this.#ended; path = rest.pop()) {
      const found = await (sources.includes(path) ? stat(path) : lstat(path))
      if (found.isFile()) total += found.size
      if (!found.isDirectory()) continue
      for (const name of await readdir(path, { encoding: 'buffer' }))
        rest.push(joinPath(path, name))
    }
    return total
  }
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB']

export function showBytes(bytes: number): string {
  let count = bytes
  let unit = 0
  while (count >= 1024 && unit < UNITS.length - 1) {
    count /= 1024
    unit++
  }
  return `${unit === 0 ? count : count.toFixed(1)} ${UNITS[unit] as string}`
}

/** Some files were done and some were not. */
export const EXIT_SOME_FAILED = 3

/** Also the exit code, where something failed. */
export function summarise({ done, skipped, failed }: Tally, verb: string, quiet: boolean): void {
  if (failed > 0) process.exitCode = done + skipped > 0 ? EXIT_SOME_FAILED : 1
  if (quiet) return
  const words = [`${done.toLocaleString('en')} ${verb}`]
  if (skipped > 0) words.push(`${skipped.toLocaleString('en')} left as they were`)
  if (failed > 0) words.push(`${failed.toLocaleString('en')} failed`)
  say(words.join(', '))
}
