/**
 * Who may do what, as tokens say it: a list of action patterns and a list of key patterns, both with `*` for any
 * run of characters. Asked once per batch and key.
 */
import { KeyfoldError } from '../errors.ts'
import type { Action, Authorize, KmsKey, Principal } from './kms-key.ts'

export const authorize: Authorize = (principal, action, kmsKey) => {
  if (!allows(principal.actions, action) || !reaches(principal, kmsKey)) {
    throw new KeyfoldError('ACCESS_DENIED')
  }
}

/** For operations that concern no single key: creating, listing, tokens, locking. */
export function authorizeService(principal: Principal, action: Action): void {
  if (!allows(principal.actions, action)) throw new KeyfoldError('ACCESS_DENIED')
}

/**
 * What a caller is told whose key was not found: only who may use every key learns that there is none. To others
 * an absent key looks like a forbidden one.
 */
export function absentKeyError(principal: Principal, action: Action): KeyfoldError {
  const seesAll = allows(principal.actions, action) && principal.keys.includes('*')
  return new KeyfoldError(seesAll ? 'KMS_KEY_NOT_FOUND' : 'ACCESS_DENIED')
}

function reaches(principal: Principal, kmsKey: KmsKey): boolean {
  return principal.keys.some(
    (pattern) => pattern === '*' || pattern === kmsKey.id || matchesPattern(pattern, kmsKey.arn),
  )
}

function allows(patterns: readonly string[], action: Action): boolean {
  return patterns.some((pattern) => matchesPattern(pattern, action))
}

/** `*` stands for any run of characters. Linear but for one backtracking point, so no pattern can be made slow. */
export function matchesPattern(pattern: string, text: string): boolean {
  let p = 0
  let t = 0
  let star = -1
  let resume = 0
  while (t < text.length) {
    if (pattern[p] === '*') {
      star = p++
      resume = t
    } else if (p < pattern.length && pattern[p] === text[t]) {
      p++
      t++
    } else if (star >= 0) {
      p = star + 1
      t = ++resume
    } else {
      return false
    }
  }
  while (pattern[p] === '*') p++
  return p === pattern.length
}
