/**
 * The addon (native/addon.cc) as JavaScript sees it: functions of numbers and flat bytes by position, each of which answers
 * one number. A negative one is an error, `-(status + 16 · message)`; the numbers of errors become ours here.
 */
import { createRequire } from 'node:module'

import { KeyfoldError, type ErrorCode } from '../errors.ts'
import { KEY_ENTRIES_MAX, MESSAGE_BYTES_MAX } from '../limits.ts'

export type Addon = Readonly<Record<string, (...values: readonly unknown[]) => number>>

/** Numbers of Status in native/key_table.h. */
const STATUS_CODES: readonly (ErrorCode | undefined)[] = [
  undefined,
  'REQUEST_MALFORMED',
  'LIMIT_EXCEEDED',
  'KEY_HANDLE_STALE',
  'KEY_TABLE_FULL',
  'DECRYPT_FAILED',
  'LIMIT_EXCEEDED',
  'INTERNAL',
  'MESSAGE_MALFORMED',
]
const STATUS_MALFORMED = 1
const STATUS_TOO_LONG = 2
const STATUS_DECRYPT_FAILED = 5
const STATUS_TOO_MANY_ENTRIES = 6

let addon: Addon | undefined

export function loadAddon(): Addon {
  if (addon !== undefined) return addon
  try {
    addon = createRequire(import.meta.url)('../../build/Release/keyfold.node') as Addon
    return addon
  } catch (cause) {
    const [reason = ''] = (cause as Error).message.split('\n')
    throw new KeyfoldError('NATIVE_UNAVAILABLE', reason, cause)
  }
}

export function call(native: Addon, name: string, ...values: readonly unknown[]): number {
  const answer = (native[name] as Addon[string])(...values)
  if (answer < 0) throw errorOf(answer)
  return answer
}

/** Whether a tag was right; every other error throws. */
export function verified(answer: number): boolean {
  if (answer >= 0) return true
  if (-answer % 16 === STATUS_DECRYPT_FAILED) return false
  throw errorOf(answer)
}

/** Which one an error is about. */
export function messageOf(answer: number): number {
  return Math.floor(-answer / 16)
}

export function errorOf(answer: number): KeyfoldError {
  const status = -answer % 16
  const message = messageOf(answer)
  const code = STATUS_CODES[status] ?? 'INTERNAL'
  switch (status) {
    case STATUS_MALFORMED:
      return new KeyfoldError(
        code,
        `message ${message}: not a byte string, or not where the batch ends`,
      )
    case STATUS_TOO_LONG:
      return new KeyfoldError(code, `message ${message}: more than ${MESSAGE_BYTES_MAX} bytes`)
    case STATUS_TOO_MANY_ENTRIES:
      return new KeyfoldError(code, `at most ${KEY_ENTRIES_MAX} distinct key entries`)
    default:
      return new KeyfoldError(code)
  }
}
