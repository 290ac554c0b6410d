/**
 * How ciphertexts get under another KMS key: a batch goes in, and an outcome for each comes out in its place.
 *
 * A re-wrap sends key entries and nothing else: of a billion messages under a thousand message keys a thousand entries
 * of some 130 bytes go to the server, once, and the messages never leave this machine. Fresh sends everything.
 *
 * What a moment later may succeed is tried again. Where it does not, the job ends and can be gone on with: a key store
 * that is down must not become a million failures.
 */
import type { Keyfold, ReEncryptOptions } from '../../client/keyfold.ts'
import type { EncryptionContext } from '../../client/wire.ts'
import { ERRORS, KeyfoldError, type ErrorCode, type MessageErrorCode } from '../../errors.ts'
import { inspectCiphertext, keyEntrySpan, type Inspection } from '../../format/inspect.ts'
import { KEY_ENTRIES_MAX } from '../../limits.ts'

export type Outcome =
  | { readonly kind: 'moved'; readonly bytes: Uint8Array }
  /** Under the current material of the target already: it stays as it is. */
  | { readonly kind: 'current' }
  /** A detached message names no wrapping: its key entry is what moves. */
  | { readonly kind: 'detached' }
  | { readonly kind: 'failed'; readonly code: ErrorCode }

export interface Mover {
  /** Throws what ends the job. */
  move(ciphertexts: readonly Uint8Array[]): Promise<readonly Outcome[]>
}

export interface Target {
  readonly arn: string
  readonly keyId: string
  readonly currentVersion: number
}

export interface MoveOptions {
  readonly keyfold: Pick<Keyfold, 'reEncryptBatch' | 'reEncryptPacked'>
  readonly target: Target
  readonly context: EncryptionContext | undefined
  readonly newContext: EncryptionContext | undefined
}

const CURRENT: Outcome = { kind: 'current' }
const DETACHED: Outcome = { kind: 'detached' }

/** Key entries whose successors are remembered, some 400 bytes each. */
const ENTRIES_REMEMBERED_MAX = 65_536
/** One request, but for a single ciphertext that is longer. */
const REQUEST_BYTES = 8 * 2 ** 20

// Re-wrap.

export class Rewrapper implements Mover {
  readonly #options: MoveOptions
  /** By the bytes of the key entry; failures too. */
  #entries = new Map<string, Promise<Uint8Array | ErrorCode>>()

  constructor(options: MoveOptions) {
    this.#options = options
  }

  async move(ciphertexts: readonly Uint8Array[]): Promise<readonly Outcome[]> {
    const unknown: Unit[] = []
    const moving = ciphertexts.map((ciphertext) => this.#begin(ciphertext, unknown))
    for (const units of groupsOf(unknown, ({ bytes }) => [bytes.length, 1])) {
      this.#send(units).catch((error: unknown) => {
        for (const { reject } of units) reject(error)
      })
    }
    return Promise.all(moving)
  }

  async #begin(ciphertext: Uint8Array, unknown: Unit[]): Promise<Outcome> {
    const inspection = inspected(ciphertext)
    if ('kind' in inspection) return inspection
    if (inspection.form === 'detached') return DETACHED
    if (isCurrent(inspection, this.#options.target)) return CURRENT
    const span = keyEntrySpan(ciphertext, inspection)
    if (span === undefined) return newUnit(ciphertext, unknown).then(outcomeOf)
    const entry = ciphertext.subarray(span.offset, span.end)
    return this.#newEntry(entry, unknown).then((moved) =>
      typeof moved === 'string'
        ? { kind: 'failed', code: moved }
        : {
            kind: 'moved',
            bytes: Buffer.concat([
              ciphertext.subarray(0, span.offset),
              moved,
              ciphertext.subarray(span.end),
            ]),
          },
    )
  }

  #newEntry(entry: Uint8Array, unknown: Unit[]): Promise<Uint8Array | ErrorCode> {
    const name = Buffer.from(entry).toString('latin1')
    const known = this.#entries.get(name)
    if (known !== undefined) return known
    // Those that wait keep what they wait for.
    if (this.#entries.size >= ENTRIES_REMEMBERED_MAX) this.#entries = new Map()
    const moved = newUnit(entry, unknown)
    this.#entries.set(name, moved)
    return moved
  }

  async #send(units: readonly Unit[]): Promise<void> {
    const moved = await reEncryptEach(
      this.#options,
      'rewrap',
      units.map(({ bytes }) => bytes),
    )
    for (const [i, { resolve }] of units.entries()) {
      resolve(moved[i] as Uint8Array | ErrorCode)
    }
  }
}

/** A key entry or a ciphertext of the AWS protocol on its way to the server. */
interface Unit {
  readonly bytes: Uint8Array
  readonly resolve: (moved: Uint8Array | ErrorCode) => void
  readonly reject: (error: unknown) => void
}

function newUnit(bytes: Uint8Array, unknown: Unit[]): Promise<Uint8Array | ErrorCode> {
  return new Promise((resolve, reject) => void unknown.push({ bytes, resolve, reject }))
}

// Fresh.

export class Refresher implements Mover {
  readonly #options: MoveOptions

  constructor(options: MoveOptions) {
    this.#options = options
  }

  async move(ciphertexts: readonly Uint8Array[]): Promise<readonly Outcome[]> {
    const outcomes = new Array<Outcome>(ciphertexts.length)
    /** By suite, which stays. */
    const batches = new Map<1 | 2, Element[]>()
    const running: Promise<void>[] = []
    for (const [index, ciphertext] of ciphertexts.entries()) {
      const inspection = inspected(ciphertext)
      if ('kind' in inspection) outcomes[index] = inspection
      else if (inspection.form === 'detached' || inspection.form === 'key entry') {
        // What would be sealed anew lies in two places of the input, or is not in it at all.
        outcomes[index] = { kind: 'failed', code: 'OPERATION_UNSUPPORTED' }
      } else if (inspection.form === 'packed') {
        running.push(
          this.#movePacked(ciphertext, suiteOf(inspection)).then((outcome) => {
            outcomes[index] = outcome
          }),
        )
      } else {
        const suite = suiteOf(inspection)
        const element = { index, ciphertext, entry: entryNameOf(ciphertext, inspection) }
        const batch = batches.get(suite)
        if (batch === undefined) batches.set(suite, [element])
        else batch.push(element)
      }
    }
    for (const [suite, elements] of batches) {
      const seen = new Set<string>()
      const groups = groupsOf(elements, ({ ciphertext, entry }, isFirst) => {
        if (isFirst) seen.clear()
        const more = seen.has(entry) ? 0 : 1
        seen.add(entry)
        return [ciphertext.length, more]
      })
      for (const group of groups) running.push(this.#moveGroup(group, suite, outcomes))
    }
    await Promise.all(running)
    return outcomes
  }

  async #moveGroup(group: readonly Element[], suite: 1 | 2, outcomes: Outcome[]): Promise<void> {
    const ciphertexts = group.map(({ ciphertext }) => ciphertext)
    const moved = await reEncryptEach(this.#options, 'fresh', ciphertexts, suite)
    for (const [i, { index }] of group.entries()) {
      outcomes[index] = outcomeOf(moved[i] as Uint8Array | ErrorCode)
    }
  }

  async #movePacked(packed: Uint8Array, suite: 1 | 2): Promise<Outcome> {
    const { keyfold, target } = this.#options
    for (let retry = 0; ; retry++) {
      try {
        const options = { ...optionsOf(this.#options, 'fresh'), suite }
        const answer = await keyfold.reEncryptPacked(target.arn, packed, options)
        return { kind: 'moved', bytes: Uint8Array.from(answer.packed) }
      } catch (error) {
        if (!(error instanceof KeyfoldError) || !isOfCiphertext(error.code)) throw error
        if (!error.retryable) return { kind: 'failed', code: error.code }
        await waitToRetry(retry, error.code)
      }
    }
  }
}

interface Element {
  readonly index: number
  readonly ciphertext: Uint8Array
  /** The same for ciphertexts of one key entry. */
  readonly entry: string
}

function entryNameOf(ciphertext: Uint8Array, inspection: Inspection): string {
  const { offset = 0, end } = keyEntrySpan(ciphertext, inspection) ?? {}
  return Buffer.from(ciphertext.subarray(offset, end)).toString('latin1')
}

// Both.

/** The new bytes of each, or why there are none. */
async function reEncryptEach(
  options: MoveOptions,
  mode: 'rewrap' | 'fresh',
  ciphertexts: readonly Uint8Array[],
  suite?: 1 | 2,
): Promise<readonly (Uint8Array | ErrorCode)[]> {
  const { keyfold, target } = options
  const moved = new Array<Uint8Array | ErrorCode>(ciphertexts.length)
  let due = [...ciphertexts.keys()]
  for (let retry = 0; ; retry++) {
    const sent = due.map((index) => ciphertexts[index] as Uint8Array)
    const asked = { ...optionsOf(options, mode), ...(mode === 'fresh' ? { suite } : {}) }
    let answer: Awaited<ReturnType<Keyfold['reEncryptBatch']>>
    try {
      answer = await keyfold.reEncryptBatch(target.arn, sent, asked)
    } catch (error) {
      const [only] = due
      if (due.length > 1 || only === undefined || !isTooLarge(error)) throw error
      moved[only] = 'REQUEST_TOO_LARGE'
      return moved
    }
    const codes = new Map(answer.errors)
    for (const [i, index] of due.entries()) {
      const bytes = answer.ciphertexts[i]
      // Of its own: a view would keep the whole answer in memory for as long as a key entry is remembered.
      moved[index] =
        bytes === undefined ? (codes.get(i) ?? 'DECRYPT_FAILED') : Uint8Array.from(bytes)
    }
    due = due.filter((index) => isRetryable(moved[index]))
    const [first] = due
    if (first === undefined) return moved
    await waitToRetry(retry, moved[first] as ErrorCode)
  }
}

function optionsOf(
  { context, newContext }: MoveOptions,
  mode: 'rewrap' | 'fresh',
): ReEncryptOptions {
  return { mode, context, ...(mode === 'fresh' ? { newContext } : {}) }
}

function isRetryable(moved: Uint8Array | ErrorCode | undefined): boolean {
  return typeof moved === 'string' && ERRORS[moved].retryable
}

function isTooLarge(error: unknown): boolean {
  return error instanceof KeyfoldError && error.code === 'REQUEST_TOO_LARGE'
}

const RETRIES_MAX = 8
const RETRY_MS_FIRST = 250
const RETRY_MS_MAX = 8_000

/** Throws once it was tried often enough. */
function waitToRetry(retry: number, code: ErrorCode): Promise<void> {
  if (retry >= RETRIES_MAX) {
    throw new KeyfoldError(code, `after ${RETRIES_MAX + 1} tries; run the same command to go on`)
  }
  const waitMs = Math.min(RETRY_MS_MAX, RETRY_MS_FIRST * 2 ** retry)
  return new Promise((resolve) => setTimeout(resolve, waitMs))
}

/** What is wrong with one ciphertext; anything else is wrong with the job. */
const CODES_OF_CIPHERTEXTS: Readonly<Record<MessageErrorCode | 'REQUEST_TOO_LARGE', true>> = {
  DECRYPT_FAILED: true,
  MESSAGE_MALFORMED: true,
  ACCESS_DENIED: true,
  KMS_KEY_DISABLED: true,
  KMS_KEY_STATE_INVALID: true,
  KEY_STORE_UNREACHABLE: true,
  KEY_STORE_REFUSED: true,
  MISS_BUDGET_SPENT: true,
  CATALOG_UNAVAILABLE: true,
  KEY_TABLE_FULL: true,
  ROOT_KEY_INVALID: true,
  REQUEST_TOO_LARGE: true,
}

function isOfCiphertext(code: ErrorCode): boolean {
  return Object.hasOwn(CODES_OF_CIPHERTEXTS, code)
}

function inspected(ciphertext: Uint8Array): Inspection | (Outcome & { readonly kind: 'failed' }) {
  try {
    return inspectCiphertext(ciphertext)
  } catch (error) {
    if (!(error instanceof KeyfoldError)) throw error
    return { kind: 'failed', code: error.code }
  }
}

function isCurrent({ wrapping }: Inspection, target: Target): boolean {
  return (
    wrapping !== undefined &&
    wrapping.materialVersion === target.currentVersion &&
    digitsOf(wrapping.kmsKeyId) === digitsOf(target.keyId)
  )
}

/** Of a multi-Region key's id as of any other. */
function digitsOf(keyId: string): string {
  return keyId.replace(/^mrk-/, '').replaceAll('-', '')
}

function suiteOf({ cipher }: Inspection): 1 | 2 {
  return cipher === 'KC-XAES-256-GCM' ? 2 : 1
}

function outcomeOf(moved: Uint8Array | ErrorCode): Outcome {
  return typeof moved === 'string'
    ? { kind: 'failed', code: moved }
    : { kind: 'moved', bytes: moved }
}

/** What goes into one request each: few enough bytes, and no more key entries than a server takes. */
function groupsOf<T>(
  elements: readonly T[],
  weigh: (element: T, isFirst: boolean) => readonly [bytes: number, entries: number],
): readonly (readonly T[])[] {
  const groups: T[][] = []
  let group: T[] = []
  let bytes = 0
  let entries = 0
  for (const element of elements) {
    let [moreBytes, moreEntries] = weigh(element, group.length === 0)
    if (
      group.length > 0 &&
      (bytes + moreBytes > REQUEST_BYTES || entries + moreEntries > KEY_ENTRIES_MAX)
    ) {
      groups.push(group)
      group = []
      bytes = 0
      entries = 0
      ;[moreBytes, moreEntries] = weigh(element, true)
    }
    group.push(element)
    bytes += moreBytes
    entries += moreEntries
  }
  if (group.length > 0) groups.push(group)
  return groups
}
