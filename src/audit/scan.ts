/**
 * Reading one chain from its first line to where it ends, checking that each line follows from the one before. What a
 * write that was cut off leaves is told apart from what somebody changed:
 *
 *   - the file ends, or zeros begin, in the middle of a line or behind one, and nothing follows: the last write was cut
 *     off there (a kill, a power cut, a full disk). The same is left by somebody who removes the end of a chain, which
 *     is why a chain that starts later says where it found this one to end.
 *   - zeros from one disk sector to another, with whole lines behind them: sectors of one write reach the disk in any
 *     order. It is a write cut off as long as all that follows belongs to the same group; a later group would have been
 *     begun only when this one was on the disk.
 *   - anything else was changed afterwards.
 */
import { existsSync } from 'node:fs'
import { dirname } from 'node:path'

import { auditFilePath, readTokens, type AuditFile, type Token } from './files.ts'
import {
  decodeClosing,
  decodeHeader,
  decodeLine,
  decodeTail,
  FIRST_HASH,
  type ChainedLine,
  type ChainPosition,
  type Closing,
  type FileHeader,
} from './record.ts'

/** The smallest piece that a disk writes whole. */
const SECTOR_BYTES = 512

export interface Defect {
  readonly file: string
  /** From 1; 0 where the file as a whole is meant. */
  readonly line: number
  /** Of the record that is not what it was, or not where it was. */
  readonly sequence: number
  readonly problem: string
}

export interface ScannedLine extends ChainedLine {
  readonly bytes: Buffer
  readonly header: FileHeader | undefined
  readonly closing: Closing | undefined
}

export interface ChainScan {
  /** Events, without the lines that open and close files. */
  readonly records: number
  /** Of the last good line. */
  readonly end: ChainPosition & { readonly file: number }
  /** closed: the last line says so. open: all lines are whole. cut off: the last write was not. */
  readonly state: 'closed' | 'open' | 'cut off'
  readonly defect: Defect | undefined
}

/** Stops at the first defect. `visit` sees every good line once. */
export function scanChain(
  files: readonly AuditFile[],
  visit: (line: ScannedLine) => void = () => undefined,
  options: { readonly fromLastFile?: boolean } = {},
): ChainScan {
  const written = withoutUnwritten(files)
  const scanned = options.fromLastFile === true ? written.slice(-1) : written
  const scan = new ChainScanner(visit, options.fromLastFile === true)
  for (const [i, file] of scanned.entries()) {
    if (!scan.file(file, i === scanned.length - 1)) break
  }
  const last = scanned.at(-1)
  if (scan.defect === undefined && scan.closing === 'rotated' && last !== undefined) {
    const next = auditFilePath(dirname(last.path), last.chain, last.number + 1)
    // It is made before one is finished, perhaps a moment ago: where there is none, it was removed.
    if (!existsSync(next)) {
      scan.fail(0, scan.end.sequence + 1, `file ${last.number + 1} of the chain is missing`)
    }
  }
  return { records: scan.records, end: scan.end, state: scan.state, defect: scan.defect }
}

/** A file is made before the one before it is finished; killed in between, it holds nothing but zeros. */
function withoutUnwritten(files: readonly AuditFile[]): readonly AuditFile[] {
  const last = files.at(-1)
  if (last === undefined || files.length === 1) return files
  for (const token of readTokens(last.path)) if (token.kind !== 'zeros') return files
  return files.slice(0, -1)
}

interface LostRecord {
  readonly sequence: number
  readonly line: number
}

class ChainScanner {
  records = 0
  end = { file: 0, sequence: 0, hash: FIRST_HASH }
  closing: Closing | undefined
  defect: Defect | undefined
  readonly #visit: (line: ScannedLine) => void
  #midway: boolean
  #path = ''
  /** What a cut-off write did not bring to the disk first; what follows it belongs to the same group. */
  #lost: LostRecord | undefined
  /** It lacks sectors, and others of the write are there. */
  #hole = false

  constructor(visit: (line: ScannedLine) => void, midway: boolean) {
    this.#visit = visit
    this.#midway = midway
  }

  get state(): ChainScan['state'] {
    if (this.#lost !== undefined) return 'cut off'
    return this.closing === 'stopped' ? 'closed' : this.end.sequence === 0 ? 'cut off' : 'open'
  }

  fail(line: number, sequence: number, problem: string): false {
    this.defect = { file: this.#path, line, sequence, problem }
    return false
  }

  /** Whether the scan goes on with the next file. */
  file(file: AuditFile, isLast: boolean): boolean {
    this.#path = file.path
    if (!this.#midway && file.number !== this.end.file + 1) {
      return this.fail(0, this.#next, `file ${this.end.file + 1} of the chain is missing`)
    }
    if (this.end.sequence > 0 && this.closing !== 'rotated') {
      return this.fail(0, this.#next, `the file before ends without its last record`)
    }
    this.closing = undefined
    this.end = { ...this.end, file: file.number }
    let number = 0
    let before: Token | undefined
    for (const token of readTokens(file.path)) {
      number++
      if (!this.#token(token, before, number, file, isLast)) return false
      if (token.kind === 'zeros') number--
      before = token
    }
    // A file that is not finished ends in zeros that are still to be written.
    if (this.#hole && before?.kind !== 'zeros') {
      const { line, sequence } = this.#lost as LostRecord
      return this.fail(line, sequence, 'the record was changed')
    }
    if (this.closing === undefined && this.#lost === undefined && !isLast) {
      return this.fail(number + 1, this.#next, 'the file ends before its last record')
    }
    return true
  }

  get #next(): number {
    return this.end.sequence + 1
  }

  #token(
    token: Token,
    before: Token | undefined,
    number: number,
    file: AuditFile,
    isLast: boolean,
  ): boolean {
    if (this.closing !== undefined) {
      return this.fail(number, this.#next, 'something stands behind the last record of the file')
    }
    if (token.kind === 'zeros') return this.#zeros(token, before, number, isLast)
    if (token.kind === 'fragment') {
      if (!isLast) return this.fail(number, this.#next, 'the record is cut off')
      // A whole line and one byte more: not its end is missing, its newline became something else.
      if (decodeLine(token.bytes.subarray(0, -1)) !== undefined) {
        return this.fail(number, this.#next, 'the record was changed')
      }
      this.#lost ??= { sequence: this.#next, line: number }
      return true
    }
    if (this.#lost !== undefined) return this.#behindLost(token.bytes, before)
    const line = decodeLine(token.bytes)
    if (line === undefined) return this.fail(number, this.#next, 'the record was changed')
    return this.#follows(line, number) && this.#accept(line, token.bytes, number, file)
  }

  #zeros(
    token: Extract<Token, { kind: 'zeros' }>,
    before: Token | undefined,
    number: number,
    isLast: boolean,
  ): boolean {
    if (!isLast) return this.fail(number, this.#next, 'the record is cut off')
    if (token.last) return true
    const startsLine = before === undefined || before.kind === 'line'
    const sectors =
      (startsLine || token.offset % SECTOR_BYTES === 0) && token.end % SECTOR_BYTES === 0
    this.#lost ??= { sequence: this.#next, line: number }
    this.#hole = true
    if (!sectors) return this.fail(this.#lost.line, this.#next, 'the record was changed')
    return true
  }

  /** A line behind a hole: of the same group, whole or what is left of the one in which the hole ends. */
  #behindLost(bytes: Buffer, before: Token | undefined): boolean {
    const { sequence, line: number } = this.#lost as LostRecord
    const whole = decodeLine(bytes)
    if (whole === undefined && before?.kind !== 'zeros') {
      return this.fail(number, sequence, 'the record was changed')
    }
    const line = whole ?? decodeTail(bytes)
    if (line === undefined || (line.sequence >= sequence && line.group <= sequence)) return true
    const problem = `the record is not whole, but ${line.sequence} was written after it`
    return this.fail(number, sequence, problem)
  }

  #follows(line: ChainedLine, number: number): boolean {
    if (this.#midway) {
      this.#midway = false
      this.end = { ...this.end, sequence: line.sequence - 1, hash: line.previousHash }
      return true
    }
    const next = this.#next
    if (line.sequence > next) {
      const missing = line.sequence === next + 1 ? `${next}` : `${next} to ${line.sequence - 1}`
      return this.fail(number, next, `records are missing: ${missing}`)
    }
    if (line.sequence < next) {
      return this.fail(number, next, `record ${line.sequence} stands here again`)
    }
    if (line.previousHash === this.end.hash) return true
    return this.fail(number, next, `the record does not follow from ${next - 1}: one was changed`)
  }

  #accept(line: ChainedLine, bytes: Buffer, number: number, file: AuditFile): boolean {
    const header = decodeHeader(bytes)
    const closing = decodeClosing(bytes)
    if ((number === 1) !== (header !== undefined)) {
      return this.fail(number, line.sequence, 'a file begins with its name, and nothing else does')
    }
    if (header !== undefined && (header.chain !== file.chain || header.file !== file.number)) {
      const problem = `this is file ${header.file} of chain ${header.chain}`
      return this.fail(number, line.sequence, problem)
    }
    this.closing = closing
    if (header === undefined && closing === undefined) this.records++
    this.end = { file: file.number, sequence: line.sequence, hash: line.hash }
    this.#visit({ ...line, bytes, header, closing })
    return true
  }
}
