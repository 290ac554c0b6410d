/**
 * The files of an audit directory: `CHAIN-000001.jsonl`, …, one chain for each writing process. The name of a chain is
 * when it began and eight random digits, so names in their order are chains in theirs. Files are read in constant memory.
 */
import { closeSync, openSync, readdirSync, readSync } from 'node:fs'
import { join } from 'node:path'

import { AUDIT_LINE_BYTES_MAX } from '../limits.ts'

export interface AuditFile {
  readonly chain: string
  readonly number: number
  readonly path: string
}

const NAME_PATTERN = /^(\d{8}T\d{9}Z-[0-9a-f]{8})-(\d{6})\.jsonl$/

export function auditFilePath(directory: string, chain: string, number: number): string {
  return join(directory, `${chain}-${String(number).padStart(6, '0')}.jsonl`)
}

/** Chains in the order in which they began, each with its files in the order of their numbers. */
export function listChains(directory: string): ReadonlyMap<string, readonly AuditFile[]> {
  const chains = new Map<string, AuditFile[]>()
  for (const name of readdirSync(directory).sort()) {
    const [, chain, number] = NAME_PATTERN.exec(name) ?? []
    if (chain === undefined) continue
    const files = chains.get(chain) ?? []
    files.push({ chain, number: Number(number), path: join(directory, name) })
    chains.set(chain, files)
  }
  return chains
}

/** A stretch of a file. Zero bytes are what was preallocated and not written, or did not reach the disk. */
export type Token =
  /** Ended by a newline, which `bytes` does not hold. Valid until the next token. */
  | { readonly kind: 'line'; readonly offset: number; readonly bytes: Buffer }
  /** Not zero, and not ended by a newline: the end of the file or zeros follow, or it is longer than any line. */
  | { readonly kind: 'fragment'; readonly offset: number; readonly bytes: Buffer }
  | {
      readonly kind: 'zeros'
      readonly offset: number
      readonly end: number
      readonly last: boolean
    }

const CHUNK_BYTES = 2 ** 16
const NEWLINE = 0x0a

/**
 * Splits a file, from `start`, into lines and what is none. A file that is being written turns zeros into lines behind
 * the reader's back: where zeros are followed by something, they are looked at again.
 */
export function* readTokens(path: string, start = 0): Generator<Token> {
  const file = openSync(path, 'r')
  try {
    const chunk = Buffer.allocUnsafeSlow(CHUNK_BYTES)
    /** Read and not yet handed out: no zeros, no newline. */
    let rest: Buffer = NOTHING
    let zerosFrom: number | undefined
    for (let at = start; ;) {
      const read = readSync(file, chunk, 0, CHUNK_BYTES, at)
      if (read === 0) {
        if (rest.length > 0) yield fragment(rest, zerosFrom ?? at)
        if (zerosFrom !== undefined) yield { kind: 'zeros', offset: zerosFrom, end: at, last: true }
        return
      }
      let position = 0
      while (position < read) {
        if (chunk[position] === 0) {
          zerosFrom ??= at + position
          while (position < read && chunk[position] === 0) position++
          continue
        }
        if (zerosFrom !== undefined) {
          if (!isZero(file, zerosFrom)) {
            at = zerosFrom - rest.length - read
            rest = NOTHING
            zerosFrom = undefined
            break
          }
          if (rest.length > 0) yield fragment(rest, zerosFrom)
          yield { kind: 'zeros', offset: zerosFrom, end: at + position, last: false }
          rest = NOTHING
          zerosFrom = undefined
        }
        const newline = indexOrEnd(chunk, NEWLINE, position, read)
        const stop = indexOrEnd(chunk, 0, position, newline)
        const piece = chunk.subarray(position, stop)
        if (stop < read && chunk[stop] === NEWLINE) {
          const bytes = rest.length === 0 ? piece : Buffer.concat([rest, piece])
          yield { kind: 'line', offset: at + stop - bytes.length, bytes }
          rest = NOTHING
          position = stop + 1
        } else {
          rest = Buffer.concat([rest, piece])
          position = stop
          if (rest.length > AUDIT_LINE_BYTES_MAX) {
            yield fragment(rest, at + position)
            rest = NOTHING
          }
        }
      }
      at += read
    }
  } finally {
    closeSync(file)
  }
}

const NOTHING = Buffer.alloc(0)
const oneByte = Buffer.alloc(1)

function isZero(file: number, offset: number): boolean {
  readSync(file, oneByte, 0, 1, offset)
  return oneByte[0] === 0
}

function fragment(bytes: Buffer, end: number): Token {
  return { kind: 'fragment', offset: end - bytes.length, bytes }
}

function indexOrEnd(bytes: Buffer, value: number, from: number, end: number): number {
  const index = bytes.subarray(from, end).indexOf(value)
  return index < 0 ? end : from + index
}
