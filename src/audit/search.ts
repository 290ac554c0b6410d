/**
 * Reading events back: all of a directory in the order of chains and files, the last ones, and those that come. What
 * does not parse is passed over here; verification is what finds and names it.
 */
import { statSync } from 'node:fs'

import { listChains, readTokens } from './files.ts'

/** A line of the log as it was written. */
export interface FoundEvent {
  readonly text: string
  readonly timeMs: number
  readonly fields: Readonly<Record<string, unknown>>
}

export interface EventFilter {
  /** ARN, or the key id in it. */
  readonly key?: string | undefined
  /** ARN, or what stands behind its last slash or colon. */
  readonly principal?: string | undefined
  readonly operation?: string | undefined
  /** Success, or an error code. */
  readonly outcome?: string | undefined
  readonly request?: string | undefined
  readonly sinceMs?: number | undefined
  readonly untilMs?: number | undefined
}

export function* searchEvents(directory: string, filter: EventFilter): Generator<FoundEvent> {
  for (const path of paths(directory)) {
    for (const event of readEvents(path)) if (matches(event, filter)) yield event
  }
}

/** The last `count` events by their time, oldest first, of all chains. */
export function lastEvents(directory: string, count: number): readonly FoundEvent[] {
  const files = paths(directory).map((path) => ({ path, changedMs: statSync(path).mtimeMs }))
  let last: FoundEvent[] = []
  for (const { path, changedMs } of files.sort((a, b) => b.changedMs - a.changedMs)) {
    // Nothing in a file is younger than its last change.
    if (last.length >= count && changedMs < (last[0] as FoundEvent).timeMs) break
    const ofFile: FoundEvent[] = []
    for (const event of readEvents(path)) {
      ofFile.push(event)
      if (ofFile.length >= 2 * count) ofFile.splice(0, ofFile.length - count)
    }
    last = [...last, ...ofFile].sort((a, b) => a.timeMs - b.timeMs).slice(-count)
  }
  return last
}

/** Events that were not there when it was made: each call of `next` hands out what came since. */
export class Follower {
  readonly #directory: string
  readonly #sinceMs: number
  /** Where the next line of a file begins, and when the file was read. */
  readonly #read = new Map<string, { offset: number; changedMs: number }>()

  constructor(directory: string) {
    this.#directory = directory
    this.#sinceMs = Date.now()
    for (const path of paths(directory)) {
      this.#read.set(path, { offset: 0, changedMs: statSync(path).mtimeMs })
    }
  }

  *next(): Generator<FoundEvent> {
    for (const path of paths(this.#directory)) {
      const changedMs = statSync(path).mtimeMs
      const known = this.#read.get(path) ?? { offset: 0, changedMs: 0 }
      if (known.changedMs === changedMs) continue
      this.#read.set(path, known)
      known.changedMs = changedMs
      for (const token of readTokens(path, known.offset)) {
        if (token.kind !== 'line') break
        known.offset = token.offset + token.bytes.length + 1
        const event = parse(token.bytes)
        // A file that was there already is read from its beginning, once.
        if (event !== undefined && event.timeMs >= this.#sinceMs) yield event
      }
    }
  }
}

function paths(directory: string): string[] {
  return [...listChains(directory).values()].flat().map(({ path }) => path)
}

function* readEvents(path: string): Generator<FoundEvent> {
  for (const token of readTokens(path)) {
    const event = token.kind === 'line' ? parse(token.bytes) : undefined
    if (event !== undefined) yield event
  }
}

function parse(line: Buffer): FoundEvent | undefined {
  try {
    const text = line.toString()
    const fields = JSON.parse(text) as Record<string, unknown>
    if (typeof fields['eventName'] !== 'string') return undefined
    return { text, timeMs: Date.parse(String(fields['eventTime'])), fields }
  } catch {
    return undefined
  }
}

function matches({ fields, timeMs }: FoundEvent, filter: EventFilter): boolean {
  const { key, principal, operation, outcome, request, sinceMs, untilMs } = filter
  if (sinceMs !== undefined && timeMs < sinceMs) return false
  if (untilMs !== undefined && timeMs >= untilMs) return false
  if (request !== undefined && fields['requestID'] !== request) return false
  if (operation !== undefined && fields['eventName'] !== operation) return false
  if (outcome !== undefined && outcomeOf(fields) !== outcome) return false
  if (principal !== undefined && !isNamed(principalOf(fields), principal)) return false
  return key === undefined || keysOf(fields).some((arn) => isNamed(arn, key))
}

export function outcomeOf(fields: FoundEvent['fields']): string {
  return String(fields['errorCode'] ?? 'Success')
}

export function principalOf(fields: FoundEvent['fields']): string {
  return String((fields['userIdentity'] as { readonly arn?: string } | undefined)?.arn ?? '')
}

export function keysOf(fields: FoundEvent['fields']): readonly string[] {
  const resources = (fields['resources'] ?? []) as readonly { readonly ARN?: string }[]
  return resources.map(({ ARN }) => ARN ?? '')
}

function isNamed(arn: string, name: string): boolean {
  return arn === name || arn.endsWith(`/${name}`) || arn.endsWith(`:${name}`)
}
