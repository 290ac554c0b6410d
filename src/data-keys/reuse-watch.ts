/**
 * Notices callers that no cache can serve. A context that is unique to each message needs a message key for each; it
 * works, and every message costs what a million should. Operators are told who it is and under which KMS key, so that
 * they need not guess from a miss rate; contexts themselves are never told.
 *
 * A message key is judged when its life is over, for before that nobody knows what it will still serve.
 */
import { LRUCache } from 'lru-cache'

import {
  REUSE_WARNING_MS,
  REUSE_WATCHED_MAX,
  REUSE_WINDOW_KEYS,
  USED_ONCE_SHARE_MAX,
} from '../limits.ts'

/** One principal under one KMS key. */
interface Watched {
  keys: number
  usedOnce: number
  /** When each of the two warnings may be given again. */
  usedOnceAgainMs: number
  refusedAgainMs: number
}

export class ReuseWatch {
  readonly #warn: (message: string) => void
  readonly #nowMs: () => number
  readonly #watched = new LRUCache<string, Watched>({ max: REUSE_WATCHED_MAX })

  constructor(options: { readonly warn: (message: string) => void; readonly nowMs: () => number }) {
    this.#warn = options.warn
    this.#nowMs = options.nowMs
  }

  /** A message key ran out, was too old, or had to make room for others. */
  keyEnded(principalArn: string, kmsKeyId: string, leasesGiven: number): void {
    const watched = this.#of(principalArn, kmsKeyId)
    watched.keys++
    if (leasesGiven <= 1) watched.usedOnce++
    if (watched.keys < REUSE_WINDOW_KEYS) return
    const { keys, usedOnce } = watched
    watched.keys = 0
    watched.usedOnce = 0
    const nowMs = this.#nowMs()
    if (usedOnce <= keys * USED_ONCE_SHARE_MAX || nowMs < watched.usedOnceAgainMs) return
    watched.usedOnceAgainMs = nowMs + REUSE_WARNING_MS
    this.#warn(
      `${principalArn} under KMS key ${kmsKeyId}: ${usedOnce} of the last ${keys} message keys ` +
        'sealed a single batch; is the encryption context unique to each message?',
    )
  }

  /** The principal's miss budget is spent. */
  missRefused(principalArn: string, kmsKeyId: string): void {
    const watched = this.#of(principalArn, kmsKeyId)
    const nowMs = this.#nowMs()
    if (nowMs < watched.refusedAgainMs) return
    watched.refusedAgainMs = nowMs + REUSE_WARNING_MS
    this.#warn(
      `${principalArn} under KMS key ${kmsKeyId}: refused, for its budget of misses of the ` +
        'data-key cache is spent; is the encryption context unique to each message?',
    )
  }

  #of(principalArn: string, kmsKeyId: string): Watched {
    const name = `${kmsKeyId} ${principalArn}`
    const known = this.#watched.get(name)
    if (known !== undefined) return known
    const watched = { keys: 0, usedOnce: 0, usedOnceAgainMs: 0, refusedAgainMs: 0 }
    this.#watched.set(name, watched)
    return watched
  }
}
